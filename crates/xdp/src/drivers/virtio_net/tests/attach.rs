//! Facts 6.1, 6.2 and 6.7: attaching, queues, features, names of counters.

use uapi::Errno;
use uapi::virtio_net::*;

use super::*;
use crate::{Feature, SetupError};

const CTRL: u64 = 1 << VIRTIO_NET_F_CTRL_GUEST_OFFLOADS;
const GRO_HW: &str =
    "virtio_net: Can't set XDP while host is implementing GRO_HW/CSUM, disable GRO_HW/CSUM first";
const HEADER_SG: &str = "virtio_net: XDP expects header/data in single page, any_header_sg required";
const MTU: &str = "virtio_net: MTU too large to enable XDP without frags";

/// Fact 6.1: offloads that cannot be turned off are refused first, also when detaching.
#[test]
fn fact_6_1_offloads_without_control_are_refused_even_for_detaching() {
    for bit in [1, 7, 8, 9, 10, 54, 55] {
        let mut r = rig_with(|c| {
            c.features = c.features & !CTRL & !(1 << VIRTIO_F_VERSION_1) | 1 << bit;
            c.device.mtu = 9000;
        });
        let program = r.w.xdp(&answer(PASS), &[]);
        let refused = Err(SetupError::new(Errno::EOPNOTSUPP, GRO_HW));
        assert_eq!(r.w.attach(11, &program, DRV), refused, "feature {bit}");
        assert_eq!(r.dev.ndo_bpf(crate::Mode::Drv, None), refused);
    }
}

/// Fact 6.1: then the layout of mergeable buffers, then the MTU, of which 3506 is the largest without fragments.
#[test]
fn fact_6_1_layout_and_mtu_are_checked_in_this_order() {
    let mut r = rig_with(|c| {
        c.features &= !(1 << VIRTIO_F_VERSION_1);
        c.device.mtu = 3507;
    });
    let program = r.w.xdp(&answer(PASS), &[]);
    assert_eq!(r.w.attach(11, &program, DRV), Err(SetupError::new(Errno::EINVAL, HEADER_SG)));
    let mut r = rig_with(|c| c.device.mtu = 3507);
    let (plain, frags) =
        (r.w.xdp(&answer(PASS), &[]), r.w.program(&answer(PASS), &[], AttachType::Xdp, true));
    assert_eq!(r.w.attach(11, &plain, DRV), Err(SetupError::new(Errno::EINVAL, MTU)));
    assert_eq!(r.w.attach(11, &frags, DRV), Ok(()));
    assert_eq!(r.w.attach(11, &plain, DRV), Err(SetupError::new(Errno::EINVAL, MTU)));
    r.dev.core().set_mtu(3506).unwrap();
    assert_eq!(r.w.attach(11, &plain, DRV), Ok(()));
    // Nobody looks at the MTU afterwards.
    assert_eq!(r.dev.core().set_mtu(9000), Ok(()));
}

/// Fact 6.1: as many queue pairs more as there are CPUs, for receiving as well; tx queues of the stack stay.
#[test]
fn fact_6_1_queue_pairs_for_programs_come_and_go() {
    let mut r = rig_with(|c| (c.max_queue_pairs, c.cpus) = (4, 2));
    let queues =
        |r: &Rig| (r.dev.queue_pairs(), r.dev.core().rx_queues(), r.dev.core().tx_queues(), r.host.asked().0);
    assert_eq!(queues(&r), ((2, 0), 2, 2, 2));
    let program = r.attach(&answer(PASS), false);
    assert_eq!((queues(&r), r.dev.warning()), (((4, 2), 4, 2, 4), None));
    assert_eq!(r.dev.set_channels(1).map_err(|e| e.errno), Err(Errno::EINVAL), "not with a program");
    r.w.attach(11, &program, DRV).unwrap();
    assert_eq!(queues(&r), ((4, 2), 4, 2, 4));
    r.w.detach(11, DRV).unwrap();
    assert_eq!(queues(&r), ((2, 0), 2, 2, 2));
    assert_eq!(r.dev.set_channels(5).map_err(|e| e.errno), Err(Errno::EINVAL));
    assert_eq!(r.dev.set_channels(0).map_err(|e| e.errno), Err(Errno::EINVAL));
    assert_eq!(r.dev.set_channels(3), Ok(()));
    r.attach(&answer(PASS), false);
    assert_eq!(queues(&r), ((3, 0), 3, 3, 3));
    let text =
        "XDP request 5 queues but max is 4. XDP_TX and XDP_REDIRECT will operate in a slower locked tx mode.";
    assert_eq!(r.dev.warning().as_deref(), Some(text));
}

/// Fact 6.1: a device that refuses the queues, or does not answer, leaves everything as it was.
#[test]
fn fact_6_1_a_device_that_refuses_queues_refuses_the_program() {
    let w = World::new();
    let config = VirtioConfig { max_queue_pairs: 4, ..VirtioConfig::new("v11") };
    let (dev, _side) = VirtioNet::new(11, config).unwrap();
    w.devices.register(dev.clone()).unwrap();
    let mut r = rig();
    let program = r.w.xdp(&answer(PASS), &[]);
    assert_eq!(w.attach(11, &program, DRV), Err(SetupError::bare(Errno::EINVAL)));
    assert_eq!((dev.queue_pairs(), dev.core().xdp_features()), ((1, 0), 35));
    assert!(dev.rqs.iter().all(|rq| rq.program.get(0, &mem::epoch::pin()).is_none()));
}

/// Fact 6.1: offloads towards the driver are off while a program is attached, and cannot be changed meanwhile.
#[test]
fn fact_6_1_guest_offloads_are_cleared_and_restored() {
    let offloads = 1 << VIRTIO_NET_F_GUEST_TSO4 | 1 << VIRTIO_NET_F_GUEST_CSUM;
    let mut r = rig_with(|c| c.features |= offloads);
    assert_eq!(r.dev.set_gro_hw(true), Ok(()));
    assert_eq!(r.host.asked().1, offloads);
    r.attach(&answer(PASS), false);
    assert_eq!(r.host.asked().1, 0);
    assert_eq!(r.dev.set_gro_hw(false), Err(SetupError::bare(Errno::EBUSY)));
    r.w.detach(11, DRV).unwrap();
    assert_eq!(r.host.asked().1, offloads);
    assert_eq!(r.dev.set_gro_hw(false), Ok(()));
    assert_eq!(r.host.asked().1, 1 << VIRTIO_NET_F_GUEST_CSUM);
}

/// Fact 6.2, without zero-copy (8), which the engine's driver does not have: fragments with mergeable buffers,
/// and a target of redirects while a program is attached.
#[test]
fn fact_6_2_features_follow_buffers_and_program() {
    let mut r = rig();
    assert_eq!(r.dev.core().xdp_features(), Feature::BASIC | Feature::REDIRECT | Feature::RX_SG);
    r.attach(&answer(PASS), false);
    assert_eq!(r.dev.core().xdp_features(), 35 | Feature::NDO_XMIT | Feature::NDO_XMIT_SG);
    r.w.detach(11, DRV).unwrap();
    assert_eq!(r.dev.core().xdp_features(), 35);
    let small = rig_with(|c| c.features &= !(1 << VIRTIO_NET_F_MRG_RXBUF));
    assert_eq!(small.dev.core().xdp_features(), 3);
    let hash = rig_with(|c| c.features |= 1 << VIRTIO_NET_F_HASH_REPORT);
    assert_eq!((small.dev.rx_metadata_features(), hash.dev.rx_metadata_features()), (0, 2));
}

/// Fact 6.7: sums first, then each receive queue, then each send queue.
#[test]
fn fact_6_7_counters_have_ethtools_names_in_order() {
    let r = rig_with(|c| (c.max_queue_pairs, c.cpus) = (2, 2));
    let mut stats = Vec::new();
    r.dev.ethtool_stats(&mut stats);
    let names: Vec<_> = stats.iter().map(|(name, _)| name.as_str()).collect();
    let rx = ["drops", "xdp_packets", "xdp_tx", "xdp_redirects", "xdp_drops", "kicks"];
    let tx = ["xdp_tx", "xdp_tx_drops", "kicks", "tx_timeouts"];
    let mut expected = Vec::new();
    for (queue, names) in
        [("rx_", &rx[..]), ("tx_", &tx), ("rx0_", &rx), ("rx1_", &rx), ("tx0_", &tx), ("tx1_", &tx)]
    {
        expected.extend(names.iter().map(|name| format!("{queue}{name}")));
    }
    assert_eq!(names, expected);
}
