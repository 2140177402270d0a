//! Sending.

use uapi::Errno;
use uapi::if_xdp::*;

use crate::lab::Lab;
use crate::raw::{Spec, Xsk, set};
use crate::{on_all_homes, packet};

on_all_homes! {
    one_call_sends_32_and_says_that_there_is_more,
    the_budget_can_be_raised,
    invalid_descriptors_are_completed_one_for_each_call,
    what_the_device_does_not_take_is_dropped_and_completed,
    a_full_completion_ring_stops_sending,
    several_descriptors_make_a_packet_of_at_most_18_parts,
    a_broken_packet_is_given_back_up_to_its_end,
    a_packet_without_its_end_waits_for_it,
    sending_is_checked_in_order,
    a_device_that_is_down_sends_nothing,
    polling_sends,
    room_to_send_means_half_of_the_ring,
    metadata_asks_for_checksum_and_time,
    metadata_takes_its_part_of_the_chunk,
    checksums_are_computed_in_software_if_the_memory_says_so,
    unaligned_packets_may_cross_chunks,
}

const C: u64 = 2048;

fn sending(lab: &dyn Lab, tx: u32) -> Xsk {
    let xsk = Xsk::new(lab, &Spec { tx, completion: tx, ..Spec::default() });
    (0..64).for_each(|i| xsk.write(i * C, &packet(200)));
    xsk
}

fn lengths(lab: &dyn Lab) -> Vec<usize> {
    lab.arrived().iter().map(Vec::len).collect()
}

fn one_call_sends_32_and_says_that_there_is_more(lab: &dyn Lab) {
    let mut xsk = sending(lab, 64);
    xsk.put(&(0..40).map(|i| (u64::from(i) * C, 60 + i, 0)).collect::<Vec<_>>());
    assert_eq!(xsk.kick(), Err(Errno::EAGAIN));
    assert_eq!(xsk.tx_taken(), 32);
    assert_eq!(xsk.kick(), Ok(()));
    assert_eq!(xsk.tx_taken(), 40);
    assert_eq!(lengths(lab), (60..100).collect::<Vec<_>>());
    assert_eq!(xsk.completed(), (0..40).map(|i| i * C).collect::<Vec<_>>());
    assert_eq!(xsk.stats().tx_ring_empty_descs, 1);
    assert_eq!(xsk.kick(), Ok(()));
    assert_eq!(xsk.stats().tx_ring_empty_descs, 2);
}

fn the_budget_can_be_raised(lab: &dyn Lab) {
    let mut xsk = sending(lab, 128);
    set(&*xsk.raw, XDP_MAX_TX_SKB_BUDGET, 64).unwrap();
    xsk.put(&(0..100).map(|i| ((i % 64) * C, 60, 0)).collect::<Vec<_>>());
    assert_eq!((xsk.kick(), xsk.tx_taken()), (Err(Errno::EAGAIN), 64));
    assert_eq!((xsk.kick(), xsk.tx_taken()), (Ok(()), 100));
    assert_eq!(lengths(lab).len(), 100);
    assert_eq!(xsk.completed().len(), 100);
}

fn invalid_descriptors_are_completed_one_for_each_call(lab: &dyn Lab) {
    let mut xsk = sending(lab, 8);
    xsk.put(&[
        (0, 0, 0),
        (0, 2049, 0),
        (2000, 100, 0),
        (64 * C, 60, 0),
        (u64::MAX, 60, 0),
        (0, 60, 4),
        (C, 60, 0),
    ]);
    for (i, addr) in [0, 0, 2000, 64 * C, u64::MAX, 0].into_iter().enumerate() {
        assert_eq!(xsk.kick(), Ok(()));
        assert_eq!((xsk.tx_taken(), xsk.completed()), (i as u32 + 1, vec![addr]));
        assert_eq!(xsk.stats().tx_invalid_descs, i as u64 + 1);
    }
    assert!(lengths(lab).is_empty());
    assert_eq!(xsk.kick(), Ok(()));
    assert_eq!((lengths(lab), xsk.completed()), (vec![60], vec![C]));
    assert_eq!(xsk.stats().tx_invalid_descs, 6);
}

fn what_the_device_does_not_take_is_dropped_and_completed(lab: &dyn Lab) {
    let mut xsk = sending(lab, 8);
    let mut send = |addr, len| {
        xsk.put(&[(addr, len, 0)]);
        (xsk.kick(), xsk.completed(), lengths(lab))
    };
    assert_eq!(send(0, 13), (Err(Errno::EBUSY), vec![0], vec![]), "no Ethernet header");
    assert_eq!(send(C, 14), (Ok(()), vec![C], vec![14]));
    assert_eq!(send(0, 2000), (Err(Errno::EBUSY), vec![0], vec![]), "above the MTU");
    assert_eq!(send(0, 1514), (Ok(()), vec![0], vec![1514]));
    lab.set_up(false, false);
    assert_eq!(send(0, 60), (Err(Errno::EBUSY), vec![0], vec![]), "the peer is down");
    assert_eq!(xsk.stats().tx_invalid_descs, 0);
}

fn a_full_completion_ring_stops_sending(lab: &dyn Lab) {
    let mut xsk = Xsk::new(lab, &Spec { tx: 16, completion: 4, ..Spec::default() });
    (0..8).for_each(|i| xsk.write(i * C, &packet(60)));
    xsk.put(&(0..8).map(|i| (i * C, 60, 0)).collect::<Vec<_>>());
    assert_eq!((xsk.kick(), xsk.tx_taken()), (Err(Errno::EAGAIN), 4));
    assert_eq!((xsk.kick(), xsk.tx_taken()), (Err(Errno::EAGAIN), 4));
    assert_eq!(xsk.completed().len(), 4);
    assert_eq!((xsk.kick(), xsk.tx_taken()), (Ok(()), 8));
    assert_eq!(lengths(lab).len(), 8);
}

/// Descriptors of one packet with `n` parts.
fn of_parts(n: u64) -> Vec<(u64, u32, u32)> {
    let part = |i| (i * C, if i == 0 { 60 } else { 10 }, u32::from(i + 1 < n));
    (0..n).map(part).collect()
}

fn several_descriptors_make_a_packet_of_at_most_18_parts(lab: &dyn Lab) {
    // Not gated on XDP_USE_SG.
    let mut xsk = sending(lab, 32);
    xsk.put(&of_parts(3));
    assert_eq!((xsk.kick(), xsk.completed()), (Ok(()), vec![0, C, 2 * C]));
    assert_eq!(lengths(lab), [80]);
    xsk.put(&of_parts(18));
    assert_eq!((xsk.kick(), xsk.completed().len()), (Ok(()), 18));
    assert_eq!((lengths(lab), xsk.stats().tx_invalid_descs), (vec![230], 0));
    xsk.put(&of_parts(19));
    assert_eq!((xsk.kick(), xsk.completed().len()), (Ok(()), 19));
    assert_eq!((lengths(lab), xsk.stats().tx_invalid_descs), (vec![], 19));
    xsk.put(&[(0, 60, 0)]);
    assert_eq!((xsk.kick(), lengths(lab)), (Ok(()), vec![60]), "the next is sent");
}

fn a_broken_packet_is_given_back_up_to_its_end(lab: &dyn Lab) {
    let mut xsk = sending(lab, 32);
    let mut step = |descs: &[(u64, u32, u32)]| {
        xsk.put(descs);
        (xsk.kick(), xsk.completed(), xsk.stats().tx_invalid_descs, lengths(lab))
    };
    // In the middle.
    assert_eq!(
        step(&[(0, 60, 1), (64 * C, 10, 1), (2 * C, 10, 0), (3 * C, 61, 0)]),
        (Ok(()), vec![0, 64 * C], 2, vec![])
    );
    assert_eq!(step(&[]), (Ok(()), vec![2 * C, 3 * C], 3, vec![61]));
    // At the start.
    assert_eq!(step(&[(64 * C, 10, 1), (0, 60, 0), (C, 62, 0)]), (Ok(()), vec![64 * C], 4, vec![]));
    assert_eq!(step(&[]), (Ok(()), vec![0, C], 5, vec![62]));
    // At the end.
    assert_eq!(step(&[(0, 60, 1), (C, 0, 0), (2 * C, 63, 0)]), (Ok(()), vec![0, C], 7, vec![]));
    assert_eq!(step(&[]), (Ok(()), vec![2 * C], 7, vec![63]));
}

fn a_packet_without_its_end_waits_for_it(lab: &dyn Lab) {
    let mut xsk = sending(lab, 8);
    xsk.put(&[(0, 60, 1)]);
    assert_eq!((xsk.kick(), xsk.tx_taken(), xsk.completed(), lengths(lab)), (Ok(()), 1, vec![], vec![]));
    xsk.put(&[(C, 10, 0)]);
    assert_eq!((xsk.kick(), xsk.completed(), lengths(lab)), (Ok(()), vec![0, C], vec![70]));
}

fn sending_is_checked_in_order(lab: &dyn Lab) {
    let unbound = Xsk::unbound(lab, &Spec { tx: 0, ..Spec::default() }, None);
    assert_eq!(unbound.raw.send(true), Err(Errno::ENXIO));
    let rx_only = Xsk::new(lab, &Spec { tx: 0, ..Spec::default() });
    assert_eq!(rx_only.raw.send(true), Err(Errno::EOPNOTSUPP));
    assert_eq!(rx_only.raw.send(false), Err(Errno::ENOBUFS));
    assert_eq!(rx_only.poll(), 0);
    lab.set_up(true, false);
    assert_eq!(rx_only.raw.send(true), Err(Errno::ENETDOWN));
    assert_eq!(rx_only.raw.recv(true), Err(Errno::ENETDOWN));
}

fn a_device_that_is_down_sends_nothing(lab: &dyn Lab) {
    let mut xsk = sending(lab, 8);
    xsk.put(&[(0, 60, 0)]);
    lab.set_up(true, false);
    assert_eq!((xsk.kick(), xsk.poll(), xsk.tx_taken()), (Err(Errno::ENETDOWN), 0, 0));
    lab.set_up(true, true);
    assert_eq!(xsk.poll(), 4);
    assert_eq!((xsk.completed(), lengths(lab)), (vec![0], vec![60]));
}

fn polling_sends(lab: &dyn Lab) {
    let mut xsk = sending(lab, 8);
    xsk.put(&[(0, 60, 0), (C, 61, 0)]);
    assert_eq!(xsk.poll(), 4);
    assert_eq!((lengths(lab), xsk.completed()), (vec![60, 61], vec![0, C]));
}

fn room_to_send_means_half_of_the_ring(lab: &dyn Lab) {
    let mut xsk = Xsk::new(lab, &Spec { tx: 8, completion: 1, ..Spec::default() });
    (0..8).for_each(|i| xsk.write(i * C, &packet(60)));
    xsk.put(&(0..6).map(|i| (i * C, 60, 0)).collect::<Vec<_>>());
    assert_eq!(xsk.poll(), 0, "5 of 8 wait for the completion ring");
    xsk.completed();
    assert_eq!(xsk.poll(), 4, "4 of 8");
}

/// A UDP packet with `0x1234` where its checksum goes, at 40.
fn udp() -> Vec<u8> {
    let mut p = packet(82);
    p[12..14].copy_from_slice(&[8, 0]);
    p[14..34].copy_from_slice(&[0x45, 0, 0, 68, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    p[34..42].copy_from_slice(&[3, 0xe8, 7, 0xd0, 0, 48, 0x12, 0x34]);
    p[42..].fill(b'a');
    p
}

/// `struct xsk_tx_metadata`.
fn metadata(flags: u64, csum: (u16, u16)) -> Vec<u8> {
    let mut bytes = flags.to_le_bytes().to_vec();
    bytes.extend(csum.0.to_le_bytes());
    bytes.extend(csum.1.to_le_bytes());
    bytes.resize(24, 0);
    bytes
}

fn metadata_asks_for_checksum_and_time(lab: &dyn Lab) {
    let spec =
        Spec { umem_flags: XDP_UMEM_TX_METADATA_LEN, meta: 24, tx: 16, completion: 16, ..Spec::default() };
    let mut xsk = Xsk::new(lab, &spec);
    let (at, p) = (C + 64, udp());
    xsk.write(at, &p);
    xsk.write(at - 24, &metadata(XDP_TXMD_FLAGS_CHECKSUM, (34, 6)));
    xsk.put(&[(at, 82, XDP_TX_METADATA)]);
    assert_eq!((xsk.kick(), xsk.completed()), (Ok(()), vec![at]));
    assert_eq!(lab.arrived(), std::slice::from_ref(&p), "left to a device that does not look");
    xsk.write(at - 24, &metadata(XDP_TXMD_FLAGS_TIMESTAMP, (0, 0)));
    xsk.put(&[(at, 82, XDP_TX_METADATA)]);
    assert_eq!((xsk.kick(), xsk.completed()), (Ok(()), vec![at]));
    let stamp = u64::from_le_bytes(xsk.read(at - 16, 8).try_into().unwrap());
    assert!(stamp > 1_700_000_000_000_000_000, "{stamp}");
    // Wrong metadata: nothing is taken, and yet something is completed.
    for wrong in [metadata(8, (0, 0)), metadata(XDP_TXMD_FLAGS_CHECKSUM, (60, 60))] {
        xsk.write(at - 24, &wrong);
        if xsk.tx_taken() == 2 && xsk.tx.as_ref().unwrap().is_empty() {
            xsk.put(&[(at, 82, XDP_TX_METADATA)]);
        }
        for _ in 0..2 {
            assert_eq!(xsk.kick(), Err(Errno::EINVAL));
            assert_eq!((xsk.tx_taken(), xsk.completed()), (2, vec![at]));
        }
    }
    xsk.write(at - 24, &metadata(0, (0, 0)));
    assert_eq!((xsk.kick(), xsk.tx_taken(), xsk.completed()), (Ok(()), 3, vec![at]));
    assert_eq!(xsk.stats().tx_invalid_descs, 0);
    drop(xsk);
    let mut without = Xsk::new(lab, &Spec { queue: 1, ..Spec::default() });
    without.put(&[(C, 60, XDP_TX_METADATA)]);
    assert_eq!((without.kick(), without.tx_taken(), without.completed()), (Err(Errno::EINVAL), 0, vec![C]));
}

fn metadata_takes_its_part_of_the_chunk(lab: &dyn Lab) {
    lab.set_mtu(3500);
    let spec =
        Spec { umem_flags: XDP_UMEM_TX_METADATA_LEN, meta: 24, tx: 16, completion: 16, ..Spec::default() };
    let mut xsk = Xsk::new(lab, &spec);
    xsk.write(C + 24, &packet(2024));
    let rows = [(16, 60, 1), (C, 60, 2), (C + 24, 2024, 2), (C + 24, 2025, 3)];
    for (addr, len, invalid) in rows {
        xsk.put(&[(addr, len, 0)]);
        assert_eq!((xsk.kick(), xsk.completed()), (Ok(()), vec![addr]));
        assert_eq!(xsk.stats().tx_invalid_descs, invalid, "{len} bytes at {addr}");
    }
    assert_eq!(lengths(lab), [2024]);
}

fn checksums_are_computed_in_software_if_the_memory_says_so(lab: &dyn Lab) {
    let umem_flags = XDP_UMEM_TX_METADATA_LEN | XDP_UMEM_TX_SW_CSUM;
    let mut xsk = Xsk::new(lab, &Spec { umem_flags, meta: 24, ..Spec::default() });
    let (at, p) = (C + 64, udp());
    xsk.write(at, &p);
    xsk.write(at - 24, &metadata(XDP_TXMD_FLAGS_CHECKSUM, (34, 6)));
    xsk.put(&[(at, 82, XDP_TX_METADATA)]);
    assert_eq!(xsk.kick(), Ok(()));
    let sum: u32 = p[34..].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let mut expected = p;
    expected[40..42].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    assert_eq!(lab.arrived(), [expected]);
}

fn unaligned_packets_may_cross_chunks(lab: &dyn Lab) {
    let spec = Spec { chunk: 3000, chunks: 20, umem_flags: XDP_UMEM_UNALIGNED_CHUNK_FLAG, ..Spec::default() };
    let mut xsk = Xsk::new(lab, &spec);
    xsk.write(2990, &packet(100));
    xsk.write(59_900, &packet(100));
    let rows = [
        (2990, 100, 0),
        (2000 | 990 << 48, 100, 0),
        (59_900, 100, 0),
        (59_901, 100, 1),
        (0, 3001, 2),
        (59_999 | 0xffff << 48, 60, 3),
    ];
    for (addr, len, invalid) in rows {
        xsk.put(&[(addr, len, 0)]);
        assert_eq!((xsk.kick(), xsk.completed()), (Ok(()), vec![addr]));
        assert_eq!(xsk.stats().tx_invalid_descs, invalid, "{len} bytes at {addr:#x}");
    }
    assert_eq!(lengths(lab), [100, 100, 100]);
}
