//! Fact 5, mostly as `oracle/t_veth1.py` to `t_veth3.py` observed it on the running kernel.

use std::sync::Arc;

use uapi::Errno;
use uapi::bpf::MapType;

use crate::drivers::veth::{VETH_RING_SIZE, Veth};
use crate::testing::*;
use crate::{AttachFlags, LiveStats, NetDevice, RingItem, SetupError, Tracepoint};

const DROP: i32 = 1;
const PASS: i32 = 2;
const TX: i32 = 3;
const DRV: u32 = AttachFlags::DRV_MODE;

fn pair() -> (World, Arc<Veth>, Arc<Veth>) {
    let mut w = World::new();
    let (a, b) = w.veth(11, 12);
    (w, a, b)
}

fn mtu(device: &Veth, mtu: u32) {
    device.core().set_mtu(mtu).unwrap();
}

/// Fact 5.1 [V]: 3506 and 73138 bytes are the limits, then the queues; the texts are the driver's.
#[test]
fn attach_checks_the_peer() {
    let (mut w, a, b) = pair();
    let plain = w.xdp(&answer(PASS), &[]);
    let frags = w.program(&answer(PASS), &[], bpf::object::AttachType::Xdp, true);
    mtu(&b, 3507);
    let too_large = SetupError::new(Errno::ERANGE, "veth: Peer MTU is too large to set XDP");
    assert_eq!(w.attach(11, &plain, DRV), Err(too_large));
    mtu(&a, 65535);
    mtu(&b, 3506);
    assert_eq!(w.attach(11, &plain, DRV), Ok(()), "the own MTU is not looked at");
    assert_eq!(b.core().max_mtu(), 3506);
    let beyond = SetupError::new(Errno::EINVAL, "mtu greater than device maximum");
    assert_eq!(b.core().set_mtu(3507), Err(beyond));
    w.detach(11, DRV).unwrap();
    assert_eq!(b.core().max_mtu(), 65535);
    mtu(&b, 9000);
    assert_eq!(w.attach(11, &frags, DRV), Ok(()));
    assert_eq!(b.core().max_mtu(), 73138);
    mtu(&b, 70000);
    assert_eq!(w.attach(11, &plain, DRV), Err(too_large));
    mtu(&b, 1500);
    assert_eq!(w.attach(11, &plain, DRV), Ok(()));
    assert_eq!(b.core().max_mtu(), 73138, "replacing does not lower the limit");
    mtu(&b, 9000);
}

#[test]
fn attach_wants_queues_and_a_peer() {
    let mut w = World::new();
    let (a, b) = Veth::pair(
        (11, crate::DeviceConfig::new("a")),
        (12, { crate::DeviceConfig { rx_queues: 2, tx_queues: 2, ..crate::DeviceConfig::new("b") } }),
    );
    w.devices.register(a.clone()).unwrap();
    let program = w.xdp(&answer(PASS), &[]);
    let text = "veth: XDP expects number of rx queues not less than peer tx queues";
    assert_eq!(w.attach(11, &program, 0), Err(SetupError::new(Errno::ENOSPC, text)));
    assert_eq!((a.core().xdp_features(), b.core().xdp_features()), (0, 35));
    drop(b);
    let text = "veth: Cannot set XDP when peer is detached";
    assert_eq!(w.attach(11, &program, 0), Err(SetupError::new(Errno::ENOTCONN, text)));
}

/// Fact 5.9 [V]: 35, and 103 on the device whose peer has a program or GRO; generic mode changes nothing.
#[test]
fn feature_bits_are_on_the_peer() {
    let (mut w, a, b) = pair();
    let features = || (a.core().xdp_features(), b.core().xdp_features());
    assert_eq!(features(), (35, 35));
    w.answer(11, PASS);
    assert_eq!(features(), (35, 103));
    w.detach(11, 0).unwrap();
    assert_eq!(features(), (35, 35));
    a.set_gro(true);
    assert_eq!(features(), (35, 103));
    a.set_gro(false);
    let program = w.xdp(&answer(PASS), &[]);
    w.attach(11, &program, AttachFlags::SKB_MODE).unwrap();
    assert_eq!(features(), (35, 35));
    assert_eq!(a.rx_metadata_features(), 7);
}

/// Fact 5.10: channels cannot go below the peer's queues while a program needs them.
#[test]
fn channels_keep_the_promise_of_attaching() {
    let mut w = World::new();
    let (a, b) = w.veth_with(11, 12, |config| (config.rx_queues, config.tx_queues) = (2, 2));
    w.answer(11, PASS);
    assert_eq!(a.set_channels(1, 2).map_err(|e| e.errno), Err(Errno::EINVAL));
    assert_eq!(b.set_channels(2, 1), Ok(()));
    assert_eq!(a.set_channels(1, 2), Ok(()));
    assert_eq!(b.set_channels(2, 2).map_err(|e| e.errno), Err(Errno::EINVAL));
    assert_eq!(a.set_channels(0, 2).map_err(|e| e.errno), Err(Errno::EINVAL));
}

/// Facts 5.6, 5.8 [V 46 vs 60]: a dropped skb counts no MAC header, and XDP_DROP is no rx_dropped.
#[test]
fn an_skb_is_counted_without_its_ethernet_header() {
    let (mut w, ..) = pair();
    w.answer(11, DROP);
    let claims = [
        ("v11.rx_queue_0_xdp_packets", 1),
        ("v11.rx_queue_0_xdp_bytes", 46),
        ("v11.rx_queue_0_xdp_drops", 1),
        ("v11.link.rx_packets", 1),
        ("v12.link.tx_packets", 1),
        ("drop.program-drop", 1),
    ];
    w.ledger(&claims, |w| w.send(12, 60)).unwrap();
}

/// Fact 5.6 [V]: ABORTED and unknown answers drop, with the tracepoint.
#[test]
fn exceptions_are_traced_and_dropped() {
    for (act, name, reason) in [(0, "ABORTED", "program-aborted"), (77, "0x4d", "invalid-action")] {
        let (mut w, ..) = pair();
        let program = w.answer(11, act);
        let dropped = format!("drop.{reason}");
        let claims = [
            ("v11.rx_queue_0_xdp_packets", 1),
            ("v11.rx_queue_0_xdp_bytes", 46),
            ("v11.rx_queue_0_xdp_drops", 1),
            ("v11.link.rx_packets", 1),
            ("v12.link.tx_packets", 1),
            (dropped.as_str(), 1),
        ];
        w.ledger(&claims, |w| w.send(12, 60)).unwrap();
        let line = format!("prog_id={} action={name} ifindex=11", program.id());
        assert_eq!(w.lines(Tracepoint::XdpException), [line]);
    }
}

/// Fact 5.6: a failed redirect is an rx_drop, without xdp_exception.
#[test]
fn a_failed_redirect_is_a_drop_of_the_queue() {
    let (mut w, ..) = pair();
    let program = w.xdp(&redirect(999, 0), &[]);
    w.attach(11, &program, DRV).unwrap();
    let claims = [
        ("v11.rx_queue_0_xdp_packets", 1),
        ("v11.rx_queue_0_xdp_bytes", 46),
        ("v11.rx_queue_0_drops", 1),
        ("v11.link.rx_packets", 1),
        ("v11.link.rx_dropped", 1),
        ("v12.link.tx_packets", 1),
        ("drop.redirect-no-device", 1),
    ];
    w.ledger(&claims, |w| w.send(12, 60)).unwrap();
    let events = w.events();
    assert!(events.len() == 1 && events[0].tracepoint() == Tracepoint::XdpRedirectErr, "{events:?}");
}

/// Fact 0.11 [V t_pass.py]: an adjusted packet reaches the stack, as skb and as frame.
#[test]
fn adjusted_packets_pass() {
    let (mut w, ..) = pair();
    let insns =
        [mov_reg(6, 1), mov(2, -4), call(44), mov_reg(1, 6), mov(2, -6), call(65), mov(0, PASS), exit()];
    let program = w.xdp(&insns, &[]);
    w.attach(11, &program, DRV).unwrap();
    w.send(12, 60).unwrap();
    let seen = w.received();
    assert_eq!((seen.len(), seen[0].0, seen[0].1.len()), (1, 11, 58));
    assert_eq!(seen[0].1[4..], packet(60)[..54]);
    let live = w.xdp(&redirect(12, 0), &[]);
    w.live(&live, 12, 1, 60);
    let seen = w.received();
    assert_eq!((seen.len(), seen[0].0, &seen[0].1[4..]), (1, 11, &packet(60)[..54]));
    w.check_frames();
}

/// Fact 5.6 [V]: XDP_TX needs the peer's NAPI.
#[test]
fn tx_without_a_receiver_is_an_error_of_the_queue() {
    let (mut w, ..) = pair();
    w.answer(11, TX);
    let claims = [
        ("v11.rx_queue_0_xdp_packets", 1),
        ("v11.rx_queue_0_xdp_bytes", 46),
        ("v11.rx_queue_0_xdp_tx_errors", 1),
        ("v11.link.rx_packets", 1),
        ("v11.link.tx_dropped", 1),
        ("v12.link.tx_packets", 1),
        ("v12.link.rx_dropped", 1),
        ("drop.xmit-no-receiver", 1),
    ];
    w.ledger(&claims, |w| w.send(12, 60)).unwrap();
    assert_eq!(w.lines(Tracepoint::XdpBulkTx), ["ifindex=11 action=TX sent=0 drops=1 err=-6"]);
}

/// Fact 5.6 [V]: with GRO only, frames of XDP_TX are taken, and wait until something else wakes the peer.
#[test]
fn tx_to_a_peer_with_gro_alone_stalls() {
    let (mut w, _a, b) = pair();
    w.answer(11, TX);
    b.set_gro(true);
    for _ in 0..4 {
        w.send(12, 60).unwrap();
    }
    assert_eq!(w.lines(Tracepoint::XdpBulkTx), vec!["ifindex=11 action=TX sent=1 drops=0 err=0"; 4]);
    assert!(w.received().is_empty());
    assert_eq!(b.waiting_frames(), 4);
    w.check_frames();
    w.answer(12, PASS);
    w.send(12, 60).unwrap();
    assert_eq!(w.received().len(), 5);
    w.check_frames();
}

/// Fact 5.6: the queue of XDP_TX holds 16.
#[test]
fn tx_is_sent_in_bulks_of_sixteen() {
    let (mut w, ..) = pair();
    w.answer(11, TX);
    w.answer(12, PASS);
    let live = w.xdp(&redirect(12, 0), &[]);
    w.live(&live, 12, 40, 60);
    let line = |n| format!("ifindex=11 action=TX sent={n} drops=0 err=0");
    assert_eq!(w.lines(Tracepoint::XdpBulkTx), [line(16), line(16), line(8)]);
    assert_eq!(w.received().iter().filter(|(dev, _)| *dev == 12).count(), 40);
    w.check_frames();
}

/// Fact 5.7: no NAPI on the peer: all of the batch is refused, and counts as dropped by the sender.
#[test]
fn a_redirect_to_a_peer_without_napi_is_an_xmit_error() {
    let (mut w, a, _b) = pair();
    w.veth(21, 22);
    // The feature bit follows program and GRO, not the state: a peer that is down has no NAPI.
    let program = w.answer(12, PASS);
    w.devices.find(12).unwrap().set_up(false).unwrap();
    assert_eq!(a.core().xdp_features(), 103);
    let live = w.xdp(&redirect(11, 0), &[]);
    let claims = [("v11.link.tx_dropped", 3), ("drop.xmit-no-receiver", 3)];
    let stats = w.ledger(&claims, |w| w.live(&live, 21, 3, 60));
    assert_eq!(stats, LiveStats { redirected: 3, ..LiveStats::default() });
    assert!(w.lines(Tracepoint::XdpDevmapXmit)[0].ends_with("sent=0 drops=3 err=-6"));
    drop(program);
}

/// Fact 5.7 [V]: 512 frames in one section: 256 arrive, 256 are errors of the sender's queue.
#[test]
fn a_ring_takes_256_frames() {
    let (mut w, ..) = pair();
    w.answer(12, DROP);
    let live = w.xdp(&redirect(11, 0), &[]);
    let claims = [
        ("v12.rx_queue_0_xdp_packets", 256),
        ("v12.rx_queue_0_xdp_bytes", 256 * 60),
        ("v12.rx_queue_0_xdp_drops", 256),
        ("v11.tx_queue_0_xdp_xmit", 256),
        ("v11.tx_queue_0_xdp_xmit_errors", 256),
        ("v12.link.rx_packets", 256),
        ("v12.link.rx_dropped", 256),
        ("v11.link.tx_packets", 256),
        ("v11.link.tx_dropped", 256),
        ("drop.program-drop", 256),
        ("drop.xmit-ring-full", 256),
    ];
    assert_eq!(VETH_RING_SIZE, 256);
    w.ledger(&claims, |w| w.live(&live, 11, 512, 60));
}

/// Fact 5.6, 5.7: a frame that is too long for the peer takes those after it along.
#[test]
fn a_long_frame_stops_the_batch() {
    let (mut w, _a, b) = pair();
    w.answer(12, DROP);
    mtu(&b, 100);
    let live = w.xdp(&redirect(11, 0), &[]);
    let claims = [
        ("v11.tx_queue_0_xdp_xmit_errors", 2),
        ("v12.link.rx_dropped", 2),
        ("v11.link.tx_dropped", 2),
        ("drop.xmit-too-long", 2),
    ];
    w.ledger(&claims, |w| w.live(&live, 11, 2, 200));
}

/// Fact 5.7: skbs are checked against the receiver's MTU: the sender hears of it.
#[test]
fn an_skb_that_is_too_long_for_the_peer_is_dropped() {
    let (mut w, a, b) = pair();
    mtu(&b, 100);
    let claims = [("v11.link.tx_dropped", 1), ("v12.link.rx_dropped", 1), ("drop.forward-not-possible", 1)];
    let sent = w.ledger(&claims, |w| w.send(11, 119));
    assert_eq!(sent, Err(Errno::ENOBUFS));
    assert_eq!(w.send(11, 118), Ok(()));
    mtu(&a, 100);
    assert_eq!(w.send(11, 119), Err(Errno::EMSGSIZE));
    a.set_up(false).unwrap();
    assert_eq!(w.send(11, 60), Err(Errno::ENETDOWN));
}

/// Fact 5.7: without a program on the receiver skbs go by the backlog; a full ring without qdisc drops.
#[test]
fn skbs_take_the_ring_only_to_a_program() {
    let (mut w, a, b) = pair();
    w.cx(|cx| cx.packet_send(11, &packet(60)).unwrap());
    assert_eq!((w.net.backlog.len(), b.waiting_frames()), (1, 0));
    w.settle();
    assert_eq!(w.received().len(), 1);
    w.answer(12, DROP);
    assert!(!a.core().tso());
    for i in 0..260 {
        let sent = w.cx(|cx| cx.packet_send(11, &packet(60)));
        assert_eq!(sent.is_ok(), i < 256);
    }
    assert_eq!(b.waiting_frames(), 256);
    assert_eq!(w.counters()["drop.forward-ring-full"], 4);
    w.settle();
    w.check_frames();
}

/// Facts 5.2, 5.3: bringing the device down loses what waits, and no NAPI is left.
#[test]
fn what_waits_is_handed_out_when_the_device_goes_down() {
    let (mut w, _a, b) = pair();
    w.answer(12, DROP);
    w.cx(|cx| (0..3).for_each(|_| cx.packet_send(11, &packet(60)).unwrap()));
    let waiting = b.set_up(false).unwrap();
    assert_eq!(waiting.len(), 3);
    for item in waiting {
        match item {
            RingItem::Skb(skb) => w.net.pool.put_packet(skb.packet),
            RingItem::Frame(frame) => w.net.pool.put_packet(frame.into_packet()),
        }
    }
    w.settle();
    w.check_frames();
    b.set_up(true).unwrap();
    let claims = [
        ("v12.rx_queue_0_xdp_packets", 1),
        ("v12.rx_queue_0_xdp_bytes", 46),
        ("v12.rx_queue_0_xdp_drops", 1),
        ("v12.link.rx_packets", 1),
        ("v11.link.tx_packets", 1),
        ("drop.program-drop", 1),
    ];
    w.ledger(&claims, |w| w.send(11, 60)).unwrap();
}

/// Fact 5.4: 64 packets a poll; the NAPI comes again by itself.
#[test]
fn a_poll_has_a_budget_of_64() {
    let (mut w, _a, b) = pair();
    w.answer(12, DROP);
    w.cx(|cx| (0..100).for_each(|_| cx.packet_send(11, &packet(60)).unwrap()));
    let napi = w.net.poll_list.pop_front().unwrap();
    let polled = w.cx(|cx| cx.poll(&napi, 64));
    assert_eq!((polled.done(), polled.again(), b.waiting_frames()), (64, true, 36));
    let polled = w.cx(|cx| cx.poll(&napi, 64));
    assert_eq!((polled.done(), polled.again(), b.waiting_frames()), (36, false, 0));
}

/// Fact 1.7 [V]: metadata is kept from one veth to the next, headroom shrinks with each.
#[test]
fn metadata_survives_a_hop() {
    let (mut w, ..) = pair();
    w.veth(21, 22);
    w.answer(22, DROP);
    let first = [&[mov_reg(6, 1), mov(2, -8), call(54)][..], &redirect(21, 0)].concat();
    let first = w.xdp(&first, &[]);
    let seen = map(MapType::Array, 8, 1, 51);
    // data - data_meta into array 0.
    let ldx = |dst, off| bpf::Insn::new(0x61, dst, 6, off, 0);
    let second = [
        &[mov_reg(6, 1)][..],
        &ld_value(8, 0),
        &[ldx(2, 0), ldx(3, 8), bpf::Insn::new(0x1f, 2, 3, 0, 0), bpf::Insn::new(0x7b, 8, 2, 0, 0)],
        &answer(DROP),
    ]
    .concat();
    let second = w.xdp(&second, std::slice::from_ref(&seen));
    w.attach(22, &second, DRV).unwrap();
    w.live(&first, 11, 1, 60);
    assert_eq!(seen.open().lookup_elem(&0_u32.to_le_bytes(), 0).unwrap(), 8_u64.to_le_bytes());
}

/// Fact 2.5 [V t_last.py]: what a veth knows of skbs, and of frames nothing.
#[test]
fn hints_of_skbs_and_frames() {
    use super::poll::skb_hints;
    let hints = skb_hints(Some((0x1234, true)), None);
    assert_eq!((hints.timestamp_ns, hints.hash, hints.vlan), (Ok(0), Ok((0x1234, 8)), Err(Errno::ENODATA)));
    assert_eq!(skb_hints(Some((5, false)), Some((0x8100, 7))).hash, Ok((5, 0)));
    assert_eq!(skb_hints(None, Some((0x8100, 7))).vlan, Ok((0x8100_u16.to_be(), 7)));
    assert_eq!(mem::RxHints::NO_DATA.hash, Err(Errno::ENODATA));
}
