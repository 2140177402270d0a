//! Fact 7, as `oracle/t_gen.py` observed it on the running kernel.

use std::sync::Arc;

use bpf::Insn;
use bpf::maps::Map;
use bpf::object::AttachType;
use uapi::bpf::MapType;

use crate::drivers::loopback::Loopback;
use crate::testing::*;
use crate::{AttachFlags, Tracepoint};

const SKB: u32 = AttachFlags::SKB_MODE;

/// Pairs 11-12 and 21-22, and loopback; the program is on 11 in generic mode.
fn host(insns: &[Insn], maps: &[Arc<Map>]) -> World {
    let mut w = World::new();
    w.veth(11, 12);
    w.veth(21, 22);
    w.devices.register(Loopback::new(1, 0)).unwrap();
    let program = w.xdp(insns, maps);
    w.attach(11, &program, SKB).unwrap();
    w
}

/// Fact 7.7: no counter of the device moves for a drop, only ours.
#[test]
fn a_drop_appears_nowhere() {
    let mut w = host(&answer(1), &[]);
    let claims = [("v11.link.rx_packets", 1), ("v12.link.tx_packets", 1), ("drop.program-drop", 1)];
    w.ledger(&claims, |w| w.send(12, 60)).unwrap();
}

/// Fact 7.4: moved ends reach the stack.
#[test]
fn adjusted_packets_pass() {
    let insns = [mov_reg(6, 1), mov(2, -4), call(44), mov_reg(1, 6), mov(2, 20), call(65), mov(0, 2), exit()];
    let mut w = host(&insns, &[]);
    w.send(12, 60).unwrap();
    let seen = w.received();
    assert_eq!((seen[0].0, seen[0].1.len()), (11, 84));
    assert_eq!((&seen[0].1[4..64], &seen[0].1[64..]), (&packet(60)[..], &[0; 20][..]));
    w.check_frames();
}

/// Fact 7.5: out of the device that it came in on, to the peer's stack.
#[test]
fn tx_goes_back_to_the_peer() {
    let mut w = host(&answer(3), &[]);
    w.send(12, 60).unwrap();
    assert_eq!(w.received(), [(12, packet(60))]);
    w.check_frames();
}

/// Fact 7.6 [V]: any device takes it, loopback too; but not one that is down or short.
#[test]
fn redirect_needs_no_frame_support() {
    let mut w = host(&redirect(1, 0), &[]);
    w.send(12, 60).unwrap();
    assert_eq!(w.received(), [(1, packet(60))]);
    for (ifindex, len, errno) in [(999, 60, -22), (21, 60, -100), (21, 119, -90)] {
        let mut w = host(&redirect(ifindex, 0), &[]);
        let device = w.devices.find(21).unwrap();
        if errno == -100 {
            drop(device.set_up(false))
        } else {
            device.core().set_mtu(100).unwrap()
        }
        w.send(12, len).unwrap();
        assert!(w.lines(Tracepoint::XdpRedirectErr)[0].contains(&format!("err={errno} ")));
        w.check_frames();
    }
}

/// Fact 7.6: an egress program runs at once, and what it drops is a success; there is no bulk queue.
#[test]
fn an_egress_program_runs_at_once() {
    for (act, kept) in [(2, 1), (1, 0), (0, 0)] {
        let devices = map(MapType::Devmap, 8, 4, 7);
        let mut w = host(&redirect_map(0, 0), std::slice::from_ref(&devices));
        let egress = w.program(&answer(act), &[], AttachType::Devmap, false);
        w.entry(&devices, 0, 21, Some(&egress));
        w.send(12, 60).unwrap();
        assert_eq!(w.received().len(), kept);
        let events = w.events();
        let count = |t| events.iter().filter(|e| e.tracepoint() == t).count();
        assert_eq!((count(Tracepoint::XdpRedirect), count(Tracepoint::XdpDevmapXmit)), (1, 0));
        assert_eq!(count(Tracepoint::XdpException), usize::from(act == 0));
        w.check_frames();
    }
}

/// Fact 7.6: broadcast has no filter: the first error ends it.
#[test]
fn broadcast_ends_with_an_error() {
    let devices = map(MapType::Devmap, 8, 4, 7);
    let mut w = host(&redirect_map(0, 8), std::slice::from_ref(&devices));
    w.entry(&devices, 0, 1, None);
    w.entry(&devices, 1, 21, None);
    w.send(12, 60).unwrap();
    assert_eq!(w.received().len(), 2);
    w.devices.find(21).unwrap().set_up(false).unwrap();
    w.events();
    w.send(12, 60).unwrap();
    assert_eq!(w.received().len(), 1);
    assert!(w.lines(Tracepoint::XdpRedirectErr)[0].contains("err=-100"));
    w.check_frames();
}

/// Fact 4.8: straight into the ring of the CPU; a full ring is an error, and the packet is not run again.
#[test]
fn cpumap_takes_skbs_one_by_one() {
    let cpus = map(MapType::Cpumap, 8, 4, 9);
    let mut w = host(&redirect_map(1, 0), std::slice::from_ref(&cpus));
    let thread = w.program(&answer(0), &[], AttachType::Cpumap, false);
    w.entry(&cpus, 1, 4, None);
    w.cx(|cx| (0..6).for_each(|_| cx.packet_send(12, &packet(60)).unwrap()));
    w.settle();
    assert_eq!(w.received().len(), 4);
    assert_eq!(w.lines(Tracepoint::XdpRedirectErr).len(), 2);
    w.entry(&cpus, 1, 4, Some(&thread));
    w.send(12, 60).unwrap();
    let events = w.events();
    assert!(
        events.iter().any(|e| e.tracepoint() == Tracepoint::XdpException),
        "fact 4.8: skbs do: {events:?}"
    );
    w.check_frames();
}

/// Fact 7.2 [V]: a program without fragments sees 9014 bytes in one piece.
#[test]
fn long_packets_are_made_linear() {
    let seen = map(MapType::Array, 8, 1, 51);
    let ldx = |dst, off| Insn::new(0x61, dst, 6, off, 0);
    let len = [
        &[mov_reg(6, 1)][..],
        &ld_value(8, 0),
        &[ldx(2, 4), ldx(3, 0), Insn::new(0x1f, 2, 3, 0, 0), Insn::new(0x7b, 8, 2, 0, 0)],
        &answer(1),
    ]
    .concat();
    for (frags, wanted) in [(false, 9014_u64), (true, 3520)] {
        let mut w = host(&answer(2), &[]);
        w.detach(11, SKB).unwrap();
        let program = w.program(&len, std::slice::from_ref(&seen), AttachType::Xdp, frags);
        w.attach(11, &program, SKB).unwrap();
        for i in [11, 12] {
            w.devices.find(i).unwrap().core().set_mtu(9000).unwrap();
        }
        w.send(12, 9014).unwrap();
        assert_eq!(seen.open().lookup_elem(&0_u32.to_le_bytes(), 0).unwrap(), wanted.to_le_bytes());
        w.check_frames();
    }
}
