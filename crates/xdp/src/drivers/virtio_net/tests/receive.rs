//! Facts 6.4 and 6.6: what actions count, and the poll around them.

use std::slice::from_ref;

use uapi::bpf::MapType;

use super::*;
use crate::{NAPI_POLL_WEIGHT, NapiRef, Tracepoint};

/// Fact 6.4: dropping counts twice, in drops and xdp_drops.
#[test]
fn fact_6_4_drop_aborted_and_unknown() {
    for (act, reason) in [(DROP, "program-drop"), (0, "program-aborted"), (77, "invalid-action")] {
        let mut r = rig();
        r.attach(&answer(act), false);
        let counted = [("xdp_packets", 3), ("xdp_drops", 3), ("drops", 3)];
        let reason = format!("drop.{reason}");
        r.rx(3, &counted, &[(&reason, 3)], |r| assert_eq!(r.deliver(3, 60), 3));
        let exceptions = if act == DROP { 0 } else { 3 };
        assert_eq!(r.w.lines(Tracepoint::XdpException).len(), exceptions);
    }
}

/// Fact 6.4: passing counts packets alone; without a program nothing of XDP counts.
#[test]
fn fact_6_4_pass() {
    let mut r = rig();
    r.rx(2, &[], &[], |r| {
        assert_eq!(r.deliver(2, 60), 2);
        assert_eq!(r.received(), [60, 60]);
    });
    r.attach(&answer(PASS), false);
    r.rx(2, &[("xdp_packets", 2)], &[], |r| {
        assert_eq!(r.deliver(2, 1514), 2);
        assert_eq!(r.w.received(), [(11, packet(1514)), (11, packet(1514))]);
    });
}

/// Facts 6.4 and 6.5: XDP_TX goes out of the same device, with an empty header.
#[test]
fn fact_6_4_tx() {
    let mut r = rig();
    r.attach(&answer(TX), false);
    let sent = [("v11.tx_xdp_tx", 5), ("v11.tx0_xdp_tx", 5)];
    r.rx(5, &[("xdp_packets", 5), ("xdp_tx", 5)], &sent, |r| assert_eq!(r.deliver(5, 60), 5));
    assert_eq!(r.host.take_sent(), vec![packet(60); 5]);
}

/// Fact 6.4: a frame that the send queue did not take counts as sent for the receive queue, and as dropped for
/// the send queue alone.
#[test]
fn fact_6_4_tx_that_is_not_taken_counts_as_sent() {
    let mut r = rig();
    let grow = [&[mov_reg(6, 1), mov(2, -228), call(ADJUST_HEAD)][..], &answer(TX)].concat();
    r.attach(&grow, false);
    assert_eq!(r.deliver(1, 60), 1);
    // The frame's struct fits exactly, but the device's header does not.
    let sent = r.w.counters();
    assert_eq!((sent["v11.rx_xdp_tx"], sent["v11.tx_xdp_tx"], sent["v11.tx_xdp_tx_drops"]), (1, 1, 1));
    assert_eq!((sent["drop.virtio-tx-no-headroom"], sent["v11.rx_xdp_drops"]), (1, 0));
    r.w.check_frames();
}

/// Fact 6.4: a redirect counts before it is known whether it works.
#[test]
fn fact_6_4_redirect() {
    let mut r = rig();
    r.w.veth(21, 22);
    r.w.answer(22, PASS);
    let program = r.w.xdp(&redirect(21, 0), &[]);
    r.w.attach(11, &program, DRV).unwrap();
    let arrives = [
        ("v21.link.tx_packets", 4),
        ("v21.tx_queue_0_xdp_xmit", 4),
        ("v22.link.rx_packets", 4),
        ("v22.rx_queue_0_xdp_packets", 4),
        ("v22.rx_queue_0_xdp_bytes", 4 * 60),
    ];
    // link.tx of others is left out below.
    r.rx(4, &[("xdp_packets", 4), ("xdp_redirects", 4)], &arrives[1..], |r| {
        r.deliver(4, 60);
    });
    assert_eq!(r.w.received(), vec![(22, packet(60)); 4]);
    let program = r.w.xdp(&redirect(99, 0), &[]);
    r.w.attach(11, &program, DRV).unwrap();
    let counted = [("xdp_packets", 1), ("xdp_redirects", 1), ("xdp_drops", 1), ("drops", 1)];
    r.rx(1, &counted, &[("drop.redirect-no-device", 1)], |r| {
        r.deliver(1, 60);
    });
}

/// Facts 4.3 and 6.2: fragments go by redirect to a device that takes them, and by a devmap.
#[test]
fn fact_6_4_redirect_of_fragments() {
    let mut r = rig();
    let (other, host, _) = device(&r.w, 31, |_| {});
    for d in [&r.dev, &other] {
        d.core().set_mtu(9000).unwrap();
    }
    let frags = |r: &mut Rig, insns: &[Insn], maps: &[Arc<bpf::maps::Map>]| {
        r.w.program(insns, maps, AttachType::Xdp, true)
    };
    let pass = frags(&mut r, &answer(PASS), &[]);
    r.w.attach(31, &pass, DRV).unwrap();
    let map = map(MapType::Devmap, 8, 4, 7);
    r.w.entry(&map, 0, 31, None);
    let program = frags(&mut r, &redirect_map(0, 0), from_ref(&map));
    r.w.attach(11, &program, DRV).unwrap();
    r.use_old_buffers();
    host.take_sent();
    assert_eq!(r.deliver(20, 9014), 20);
    assert_eq!(host.take_sent(), vec![packet(9014); 20]);
    r.w.check_frames();
}

/// Fact 6.6: a poll takes 64 packets; it sends redirects before it ends and kicks the send queue once.
#[test]
fn fact_6_6_a_poll_takes_its_budget_and_kicks_once() {
    let mut r = rig();
    r.attach(&answer(TX), false);
    let host = r.host.clone();
    let delivered =
        r.w.cx(|cx| (0..100).filter(|_| host.deliver(cx, 0, Header::default(), &packet(60))).count());
    assert_eq!((delivered, r.w.net.poll_list.len()), (100, 1), "one interrupt for all");
    let me: Arc<dyn NetDevice> = r.dev.clone();
    r.w.net.poll_list.clear();
    let mut poll = || {
        let polled = r.w.cx(|cx| cx.poll(&NapiRef::Queue(me.clone(), 0), NAPI_POLL_WEIGHT));
        (polled.done(), polled.again(), r.w.counters()["v11.tx_kicks"])
    };
    assert_eq!(poll(), (64, true, 1));
    assert_eq!(poll(), (36, false, 1), "the device looks by itself until it has found nothing");
    r.w.settle();
    assert_eq!(host.take_sent().len(), 100);
}

/// Fact 6.6: buffers are made available again when more than half of what a poll may take is missing.
#[test]
fn fact_6_6_refill_when_the_ring_runs_low() {
    let mut r = rig();
    let free = |r: &Rig| r.dev.rqs[0].queue.with(|q| q.vq.num_free());
    assert_eq!(free(&r), 0);
    r.deliver(32, 60);
    assert_eq!(free(&r), 32, "half of 64 may be missing");
    r.deliver(1, 60);
    assert_eq!(free(&r), 0);
    let mut r = rig_with(|c| c.ring_size = 8);
    r.deliver(4, 60);
    assert_eq!(free(&r), 4);
    r.deliver(1, 60);
    assert_eq!(free(&r), 0);
    r.received();
    r.w.check_frames();
}

/// Interrupts are suppressed while polls run, with and without event index, and none is lost.
#[test]
fn every_packet_arrives_with_any_features_of_rings() {
    use uapi::virtio_ring::*;
    for bits in 0..4_u64 {
        let mut r = rig_with(|c| {
            c.features &= !(1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC);
            c.features |= bits << VIRTIO_RING_F_INDIRECT_DESC;
        });
        r.attach(&answer(TX), true);
        for i in 0..400 {
            assert_eq!(r.deliver(1 + i % 7, 60 + i * 20), 1 + i % 7);
        }
        let expected: Vec<_> = (0..400).flat_map(|i| vec![packet(60 + i * 20); 1 + i % 7]).collect();
        assert!(r.host.take_sent() == expected, "features {bits}");
        r.w.check_frames();
    }
}

#[test]
fn a_device_that_is_down_takes_nothing_and_comes_back() {
    let mut r = rig();
    r.dev.set_up(false).unwrap();
    assert_eq!(r.deliver(3, 60), 0);
    r.dev.set_up(true).unwrap();
    assert_eq!((r.deliver(3, 60), r.received().len()), (3, 3));
}

/// Two devices on one cable: what one sends by its stack, the other receives.
#[test]
fn a_cable_connects_two_devices() {
    let mut r = rig();
    let (_other, host, _) = device(&r.w, 31, |_| {});
    assert!(HostSide::cable(&r.host, &host));
    for (from, to) in [(11, 31), (31, 11)] {
        for len in [14, 60, 1514] {
            r.w.send(from, len).unwrap();
            assert_eq!(r.w.received(), [(to, packet(len))]);
        }
    }
    assert_eq!((r.host.stats().taken, host.stats().delivered, host.stats().lost), (3, 3, 0));
    r.w.check_frames();
}
