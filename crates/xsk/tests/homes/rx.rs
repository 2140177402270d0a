//! Receiving.

use uapi::Errno;
use uapi::if_xdp::*;

use crate::lab::Lab;
use crate::raw::{Spec, Xsk, addr};
use crate::{on_all_homes, packet};

on_all_homes! {
    packets_without_a_buffer_are_dropped,
    a_full_ring_keeps_the_buffer_for_the_next_packet,
    packets_lie_behind_headroom_and_metadata_before_them,
    long_packets_need_several_buffers_and_a_flag,
    several_buffers_are_taken_all_or_none,
    invalid_buffers_are_skipped_silently,
    unaligned_addresses_carry_their_offset,
    only_the_bound_queue_gets_packets,
    sockets_of_one_queue_share_the_fill_ring,
    the_first_version_of_the_counters_adds_two,
    reading_needs_a_ring_and_does_not_wait,
}

const C: u64 = 2048;

fn receiving(lab: &dyn Lab, spec: &Spec) -> Xsk {
    let xsk = Xsk::new(lab, spec);
    lab.redirect(0, xsk.number()).unwrap();
    xsk
}

fn packets_without_a_buffer_are_dropped(lab: &dyn Lab) {
    let mut xsk = receiving(lab, &Spec::default());
    lab.inject(&packet(60));
    let expected = XdpStatistics { rx_dropped: 1, rx_fill_ring_empty_descs: 1, ..XdpStatistics::default() };
    assert_eq!(xsk.stats(), expected);
    xsk.give(&[0]);
    lab.inject(&packet(61));
    lab.inject(&packet(62));
    assert_eq!(xsk.take(), [(256, 61, 0)]);
    assert_eq!(xsk.stats().rx_fill_ring_empty_descs, 2);
    assert_eq!(xsk.read(256, 61), packet(61));
}

fn a_full_ring_keeps_the_buffer_for_the_next_packet(lab: &dyn Lab) {
    let mut xsk = receiving(lab, &Spec { rx: 4, fill: 8, ..Spec::default() });
    xsk.give(&(0..6).map(|i| i * C).collect::<Vec<_>>());
    (0..4).for_each(|i| lab.inject(&packet(60 + i)));
    assert_eq!(xsk.poll(), 5);
    assert_eq!((xsk.fill_taken(), xsk.stats().rx_ring_full), (4, 0));
    lab.inject(&packet(80));
    lab.inject(&packet(81));
    assert_eq!(xsk.stats().rx_ring_full, 2);
    assert_eq!(xsk.fill_taken(), 4, "one was taken, and not yet told");
    assert_eq!(xsk.take(), [(256, 60, 0), (C + 256, 61, 0), (2 * C + 256, 62, 0), (3 * C + 256, 63, 0)]);
    lab.inject(&packet(90));
    assert_eq!(xsk.take(), [(4 * C + 256, 90, 0)], "the buffer of the packet that found no room");
    assert_eq!(xsk.fill_taken(), 5);
    assert_eq!(xsk.stats().rx_dropped, 0);
}

fn packets_lie_behind_headroom_and_metadata_before_them(lab: &dyn Lab) {
    let mut xsk = receiving(lab, &Spec { headroom: 32, ..Spec::default() });
    lab.with_metadata();
    // Bits within the chunk do not matter.
    xsk.give(&[C, 5 * C + 77]);
    lab.inject(&packet(60));
    lab.inject(&packet(61));
    assert_eq!(xsk.take(), [(C + 288, 60, 0), (5 * C + 288, 61, 0)]);
    assert_eq!(xsk.read(C + 280, 8), [0x11; 8]);
    assert_eq!(xsk.read(C + 288, 60), packet(60));
}

fn long_packets_need_several_buffers_and_a_flag(lab: &dyn Lab) {
    lab.set_mtu(3500);
    let mut xsk = receiving(lab, &Spec { chunks: 16, ..Spec::default() });
    xsk.give(&[0, C, 2 * C]);
    lab.inject(&packet(1792));
    assert_eq!(xsk.take(), [(256, 1792, 0)]);
    lab.inject(&packet(1793));
    assert_eq!(xsk.take(), []);
    assert_eq!((xsk.stats().rx_dropped, xsk.fill_taken()), (1, 1), "no buffer is taken for it");
    drop(xsk);
    std::thread::sleep(std::time::Duration::from_millis(100));

    let mut xsk = receiving(lab, &Spec { queue: 0, flags: XDP_COPY | XDP_USE_SG, ..Spec::default() });
    xsk.give(&[0, C, 2 * C]);
    lab.inject(&packet(3000));
    lab.inject(&packet(1000));
    assert_eq!(xsk.take(), [(256, 1792, XDP_PKT_CONTD), (C + 256, 1208, 0), (2 * C + 256, 1000, 0)]);
    let whole = [xsk.read(256, 1792), xsk.read(C + 256, 1208)].concat();
    assert_eq!(whole, packet(3000));
}

fn several_buffers_are_taken_all_or_none(lab: &dyn Lab) {
    lab.set_mtu(9000);
    let spec = Spec { flags: XDP_COPY | XDP_USE_SG, rx: 4, ..Spec::default() };
    let mut xsk = receiving(lab, &spec);
    xsk.give(&[0, C]);
    lab.inject(&packet(5000));
    assert_eq!((xsk.take(), xsk.stats().rx_dropped), (vec![], 1), "2 buffers, 3 needed");
    assert_eq!(xsk.stats().rx_fill_ring_empty_descs, 0, "it was not empty");
    xsk.give(&[2 * C, 3 * C, 4 * C, 5 * C]);
    lab.inject(&packet(5000));
    lab.inject(&packet(5001));
    assert_eq!(xsk.stats().rx_ring_full, 1, "1 place, 3 needed");
    assert_eq!(xsk.take(), [(256, 1792, 1), (C + 256, 1792, 1), (2 * C + 256, 1416, 0)]);
    lab.inject(&packet(60));
    assert_eq!(xsk.take(), [(3 * C + 256, 60, 0)]);
    let whole = [xsk.read(256, 1792), xsk.read(C + 256, 1792), xsk.read(2 * C + 256, 1416)].concat();
    assert_eq!(whole, packet(5000));
}

fn invalid_buffers_are_skipped_silently(lab: &dyn Lab) {
    let mut xsk = receiving(lab, &Spec::default());
    xsk.give(&[64 * C, 1 << 60, u64::MAX, 5 * C + 77]);
    lab.inject(&packet(61));
    lab.inject(&packet(62));
    assert_eq!(xsk.take(), [(5 * C + 256, 61, 0)]);
    assert_eq!(xsk.fill_taken(), 4);
    let expected = XdpStatistics { rx_dropped: 1, rx_fill_ring_empty_descs: 1, ..XdpStatistics::default() };
    assert_eq!(xsk.stats(), expected, "invalid ones are counted nowhere");
}

fn unaligned_addresses_carry_their_offset(lab: &dyn Lab) {
    let spec = Spec {
        chunk: 3000,
        chunks: 20,
        headroom: 16,
        umem_flags: XDP_UMEM_UNALIGNED_CHUNK_FLAG,
        ..Spec::default()
    };
    let mut xsk = receiving(lab, &spec);
    // The third does not fit before the end of the memory.
    xsk.give(&[100, 3333 | 7 << 48, 59_990]);
    (60..63).for_each(|n| lab.inject(&packet(n)));
    assert_eq!(xsk.take(), [(0x0110_0000_0000_0064, 60, 0), (0x0110_0000_0000_0d05, 61, 0)]);
    assert_eq!(xsk.stats().rx_dropped, 1);
    assert_eq!(xsk.read(3333 + 272, 61), packet(61));
}

fn only_the_bound_queue_gets_packets(lab: &dyn Lab) {
    let mut other_queue = receiving(lab, &Spec { queue: 1, ..Spec::default() });
    other_queue.give(&[0]);
    lab.inject(&packet(60));
    assert_eq!(other_queue.take(), []);
    let mut other_device = receiving(lab, &Spec { ifindex: Some(lab.there()), ..Spec::default() });
    other_device.give(&[0]);
    lab.inject(&packet(60));
    assert_eq!(other_device.take(), []);
    assert_eq!((other_queue.stats(), other_device.stats()), Default::default(), "counted nowhere");
    let unbound = Xsk::unbound(lab, &Spec::default(), None);
    assert_eq!(lab.redirect(0, unbound.number()), Ok(()));
    lab.inject(&packet(60));
    assert_eq!(unbound.stats(), XdpStatistics::default());
    // No packet is sent there: the kernel might not survive it.
    let tx_only = Xsk::unbound(lab, &Spec { rx: 0, ..Spec::default() }, None);
    assert_eq!(lab.redirect(1, tx_only.number()), Ok(()));
}

fn sockets_of_one_queue_share_the_fill_ring(lab: &dyn Lab) {
    let mut a = Xsk::new(lab, &Spec::default());
    let mut b = Xsk::unbound(lab, &Spec { fill: 0, completion: 0, ..Spec::default() }, Some(&a));
    b.raw.bind(&addr(XDP_SHARED_UMEM, lab.here(), 0, a.number())).unwrap();
    a.give(&[0, C, 2 * C]);
    lab.redirect(0, b.number()).unwrap();
    lab.inject(&packet(60));
    assert_eq!((a.take(), b.take()), (vec![], vec![(256, 60, 0)]));
    lab.redirect(0, a.number()).unwrap();
    lab.inject(&packet(61));
    assert_eq!((a.take(), b.take()), (vec![(C + 256, 61, 0)], vec![]));
    b.put(&[(10 * C, 60, 0)]);
    a.put(&[(11 * C, 61, 0)]);
    a.write(10 * C, &packet(60));
    a.write(11 * C, &packet(61));
    assert_eq!((b.kick(), a.kick()), (Ok(()), Ok(())));
    assert_eq!(lab.arrived(), [packet(60), packet(61)]);
    assert_eq!(a.completed(), [10 * C, 11 * C], "one completion ring, too");
    (0..2).for_each(|_| lab.inject(&packet(60)));
    assert_eq!(b.stats().rx_fill_ring_empty_descs, 1, "of the queue");
    assert_eq!((a.stats().rx_dropped, b.stats().rx_dropped), (1, 0), "of the socket");
}

fn the_first_version_of_the_counters_adds_two(lab: &dyn Lab) {
    let mut xsk = receiving(lab, &Spec { rx: 1, ..Spec::default() });
    lab.inject(&packet(60));
    xsk.give(&[0, C]);
    (0..3).for_each(|_| lab.inject(&packet(60)));
    assert_eq!((xsk.stats().rx_dropped, xsk.stats().rx_ring_full), (1, 2));
    let mut v1 = [0; 24];
    assert_eq!(xsk.raw.getsockopt(SOL_XDP, XDP_STATISTICS, &mut v1), Ok(24));
    assert_eq!(v1[0], 3);
}

fn reading_needs_a_ring_and_does_not_wait(lab: &dyn Lab) {
    let xsk = Xsk::new(lab, &Spec::default());
    assert_eq!(xsk.raw.recv(false), Ok(()));
    assert_eq!(xsk.raw.recv(true), Err(Errno::EOPNOTSUPP));
    let tx_only = Xsk::new(lab, &Spec { rx: 0, queue: 1, ..Spec::default() });
    assert_eq!(tx_only.raw.recv(false), Err(Errno::ENOBUFS));
    assert_eq!(tx_only.poll(), 4);
    let unbound = lab.home().open().unwrap();
    assert_eq!(unbound.recv(false), Err(Errno::ENXIO));
}
