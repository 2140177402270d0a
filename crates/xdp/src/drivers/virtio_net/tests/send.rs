//! Fact 6.5: send queues.

use uapi::Errno;

use super::*;
use crate::{DropReason, Softirq, XdpFrame, Xmit, XmitError};

/// Frames of a CPU's pool with so much headroom.
fn frames(cx: &mut Softirq<'_>, n: usize, headroom: u32, len: usize) -> Vec<XdpFrame> {
    let frame = |cx: &mut Softirq<'_>| {
        let page = cx.take_page().unwrap();
        let packet = mem::Packet::new(page, 4096, headroom, len as u32).map_err(|(e, _)| e).unwrap();
        packet.linear().copy_from(0, &packet_bytes(len));
        XdpFrame::from_packet(packet).map_err(|(e, _)| e).unwrap()
    };
    (0..n).map(|_| frame(cx)).collect()
}

fn packet_bytes(len: usize) -> Vec<u8> {
    packet(len)
}

/// Sends frames and drops what the device does not take.
fn xmit(r: &mut Rig, n: usize, headroom: u32, flags: u32) -> Result<Xmit, XmitError> {
    let dev = r.dev.clone();
    r.w.cx(|cx| {
        let mut frames = frames(cx, n, headroom, 60);
        let result = dev.ndo_xdp_xmit(cx, &mut frames, flags);
        let left = result.map_or(n, |x| n - x.sent);
        assert_eq!(frames.len(), left);
        frames.into_iter().for_each(|f| cx.net.pool.put_packet(f.into_packet()));
        result
    })
}

/// Fact 6.5: nothing is sent without a program, and unknown flags are refused and counted.
#[test]
fn fact_6_5_xmit_needs_a_program() {
    let mut r = rig();
    let error = XmitError { errno: Errno::ENXIO, reason: DropReason::VirtioNoProgram };
    assert_eq!(xmit(&mut r, 3, 256, 1), Err(error));
    r.attach(&answer(PASS), false);
    let counters = r.w.counters();
    assert_eq!(counters["v11.tx_xdp_tx"], 0);
    assert_eq!(xmit(&mut r, 3, 256, 2).map_err(|e| e.errno), Err(Errno::EINVAL));
    let counters = r.w.counters();
    assert_eq!((counters["v11.tx_xdp_tx"], counters["v11.tx_xdp_tx_drops"]), (3, 3));
    assert_eq!(xmit(&mut r, 3, 256, 1).map(|x| x.sent), Ok(3));
    r.w.settle();
    assert_eq!(r.host.take_sent(), vec![packet(60); 3]);
    r.w.check_frames();
}

/// Fact 6.5: the header needs room before the frame; one without ends the batch. Counters say all frames.
#[test]
fn fact_6_5_the_header_needs_headroom() {
    let mut r = rig();
    r.attach(&answer(PASS), false);
    assert_eq!(xmit(&mut r, 2, 40 + 12, 1).map(|x| x.sent), Ok(2));
    let refused = Xmit { sent: 0, stopped_by: DropReason::VirtioTxNoHeadroom };
    assert_eq!(xmit(&mut r, 2, 40 + 11, 1), Ok(refused));
    let counters = r.w.counters();
    assert_eq!((counters["v11.tx_xdp_tx"], counters["v11.tx_xdp_tx_drops"]), (4, 2));
}

/// Fact 6.5: a full ring ends the batch, until the device has sent; the kick comes with the flush alone.
#[test]
fn fact_6_5_a_full_ring_ends_the_batch() {
    let mut r = rig();
    r.attach(&answer(PASS), false);
    for _ in 0..16 {
        assert_eq!(xmit(&mut r, 16, 256, 0).map(|x| x.sent), Ok(16));
    }
    assert_eq!(r.w.counters()["v11.tx_kicks"], 0);
    assert_eq!(xmit(&mut r, 16, 256, 0), Ok(Xmit { sent: 0, stopped_by: DropReason::VirtioTxFull }));
    assert!(r.w.net.poll_list.is_empty());
    assert_eq!(xmit(&mut r, 1, 256, 1).map(|x| x.sent), Ok(0));
    assert_eq!(r.w.counters()["v11.tx_kicks"], 1);
    r.w.settle();
    assert_eq!(r.host.take_sent().len(), 256);
    assert_eq!(xmit(&mut r, 16, 256, 1).map(|x| x.sent), Ok(16));
    let link = r.dev.link_stats();
    assert_eq!(
        (link.tx_packets, link.tx_bytes),
        (256, 256 * 72),
        "counted when they came back, with their headers"
    );
}

/// Fact 6.5: with enough queue pairs each CPU has a send queue of its own behind those of the stack; without, it
/// shares.
#[test]
fn fact_6_5_each_cpu_has_its_send_queue_or_shares() {
    let queues = |max, cpus: u32| {
        let mut r = rig_with(|c| (c.max_queue_pairs, c.cpus) = (max, cpus));
        r.attach(&answer(PASS), false);
        (0..cpus).map(|cpu| r.dev.xdp_sq(cpu).index).collect::<Vec<_>>()
    };
    assert_eq!(queues(8, 4), [4, 5, 6, 7]);
    assert_eq!(queues(4, 4), [0, 1, 2, 3]);
    assert_eq!(queues(2, 4), [0, 1, 0, 1]);
    // More pairs than CPUs, but none for programs: the kernel would take a queue that is not there.
    let mut r = rig_with(|c| (c.max_queue_pairs, c.cpus) = (3, 2));
    r.dev.set_channels(3).unwrap();
    r.attach(&answer(PASS), false);
    assert_eq!((r.dev.queue_pairs(), r.dev.xdp_sq(0).index, r.dev.xdp_sq(1).index), ((3, 0), 0, 1));
}

/// Fact 6.5: a queue of programs alone is not freed by the stack's polls, a shared one stops before it is full.
#[test]
fn fact_6_5_a_shared_queue_stops_the_stack() {
    let mut r = rig();
    r.attach(&answer(PASS), false);
    let stopped = |r: &Rig| r.dev.stops_and_wakes(0).unwrap();
    xmit(&mut r, 237, 256, 0).unwrap();
    assert_eq!(stopped(&r), (0, 0));
    xmit(&mut r, 1, 256, 0).unwrap();
    assert_eq!(stopped(&r), (1, 0), "less than 19 descriptors are free");
    assert_eq!(r.w.send(11, 60), Err(Errno::ENOBUFS));
    xmit(&mut r, 1, 256, 1).unwrap();
    r.w.settle();
    assert_eq!((r.w.send(11, 60), stopped(&r)), (Ok(()), (2, 1)));
    assert_eq!(r.host.take_sent().len(), 240);
    r.w.check_frames();
}

/// Skbs of any length, in one buffer or several, keep their bytes.
#[test]
fn packets_of_the_stack_are_sent_whole() {
    let mut r = rig();
    r.dev.core().set_mtu(65535).unwrap();
    for len in [14, 60, 1514, 4064, 4080, 4096, 9014, 40_000, 65_549] {
        r.w.send(11, len).unwrap();
        assert_eq!(r.host.take_sent(), [packet(len)], "{len}");
    }
    r.w.check_frames();
}
