//! Fact 6.3: buffers and what programs see of them.

use uapi::virtio_net::*;

use super::*;

const SMALL: u64 = !(1 << VIRTIO_NET_F_MRG_RXBUF);

/// Whether a program can move an end of a packet so far.
fn can(r: &mut Rig, helper: i32, n: i32, len: usize) -> bool {
    r.attach(&try_adjust(helper, n), true);
    assert_eq!(r.deliver(1, len), 1);
    !r.received().is_empty()
}

/// Fact 6.3: 256 bytes of headroom with small buffers, 268 with mergeable ones (the header's 12 are free to be
/// overwritten), 276 with hashes in the header. 40 of them are the frame's.
#[test]
fn fact_6_3_headroom() {
    for (features, headroom) in [(SMALL, 256), (!0, 268), (!0, 276)] {
        let mut r = rig_with(|c| {
            c.features &= features;
            if headroom == 276 {
                c.features |= 1 << VIRTIO_NET_F_HASH_REPORT;
            }
        });
        r.attach(&answer(DROP), true);
        r.use_old_buffers();
        for len in [60, 1514] {
            assert!(can(&mut r, ADJUST_HEAD, -(headroom - 40), len), "{headroom}");
            assert!(!can(&mut r, ADJUST_HEAD, -(headroom - 39), len), "{headroom}");
        }
    }
}

/// Fact 6.3: the frame of a mergeable buffer is a page; that of a small one counts 76 bytes that lie before it,
/// so that 1600 bytes are the packet's.
#[test]
fn fact_6_3_tailroom() {
    for (features, room) in [(SMALL, 1600), (!0, 4096 - 320 - 268)] {
        let mut r = rig_with(|c| c.features &= features);
        r.attach(&answer(DROP), true);
        r.use_old_buffers();
        assert!(can(&mut r, ADJUST_TAIL, room - 60, 60));
        assert!(!can(&mut r, ADJUST_TAIL, room - 59, 60));
    }
}

/// Fact 6.3: 1518 bytes are the longest packet of a small buffer. The device may say more, if it likes.
#[test]
fn fact_6_3_small_buffers_take_1518_bytes() {
    for program in [false, true] {
        let mut r = rig_with(|c| c.features &= SMALL);
        if program {
            r.attach(&answer(PASS), false);
        }
        assert_eq!((r.deliver(1, 1518), r.received()), (1, vec![1518]));
        assert_eq!(r.deliver(1, 1519), 0, "there is no room for it in one buffer");
        assert_eq!(r.dev.rx_errors(), (0, 0));
    }
}

/// Fact 6.3: a packet up to 3508 bytes fits a buffer with a program; a longer one has fragments, or is dropped
/// for a program without, because it cannot be linear with head and tail room in a page.
#[test]
fn fact_6_3_longer_packets_have_fragments_or_are_dropped() {
    let mut r = rig();
    r.dev.core().set_mtu(3506).unwrap();
    r.attach(&answer(PASS), false);
    r.use_old_buffers();
    assert_eq!((r.deliver(1, 3508), r.received()), (1, vec![3508]));
    r.rx(1, &[("drops", 1), ("xdp_drops", 1)], &[("drop.virtio-rx-not-linear", 1)], |r| {
        r.deliver(1, 3509);
    });
    r.attach(&answer(PASS), true);
    assert_eq!((r.deliver(1, 3509), r.received()), (1, vec![3509]));
    assert_eq!((r.deliver(1, 9014), r.received()), (1, vec![9014]));
}

/// Fact 6.3: bytes are the same however many buffers they were in, and fragments cannot grow.
#[test]
fn fact_6_3_fragments_hold_the_bytes_and_cannot_grow() {
    let mut r = rig();
    r.attach(&answer(PASS), true);
    r.use_old_buffers();
    for len in [3508, 3509, 7028, 7029, 20_000, 60_000] {
        r.deliver(1, len);
        assert_eq!(r.w.received(), [(11, packet(len))]);
    }
    assert!(!can(&mut r, ADJUST_TAIL, 1, 3509));
    assert!(can(&mut r, ADJUST_TAIL, -1, 3509));
    r.attach(&answer(PASS), true);
    // 18 buffers of 3520 bytes with the header, and no more.
    assert_eq!((r.deliver(1, 18 * 3520 - 12), r.received()), (1, vec![18 * 3520 - 12]));
    r.rx(1, &[("drops", 1), ("xdp_drops", 1)], &[("drop.virtio-rx-too-many-buffers", 1)], |r| {
        r.deliver(1, 18 * 3520 - 11);
    });
}

/// Fact 6.3: programs never see packets of big buffers, however they are attached.
#[test]
fn fact_6_3_big_buffers_pass_by_programs() {
    let mut r = rig_with(|c| {
        c.features = c.features & SMALL | 1 << VIRTIO_NET_F_MTU;
        c.device.mtu = 9000;
    });
    r.attach(&answer(DROP), true);
    for len in [60, 128, 129, 1514, 4064, 4065, 9014] {
        assert_eq!(r.deliver(1, len), 1);
        assert_eq!(r.w.received(), [(11, packet(len))]);
    }
    let mut r = rig_with(|c| c.features = c.features & SMALL | 1 << VIRTIO_NET_F_GUEST_TSO4);
    assert_eq!((r.deliver(300, 65_000), r.received().len()), (256, 256), "a chain is one descriptor");
    let mut r = rig_with(|c| {
        let indirect = 1 << uapi::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;
        c.features = c.features & SMALL & !indirect | 1 << VIRTIO_NET_F_GUEST_TSO4;
    });
    assert_eq!(r.deliver(300, 65_000), 13, "a chain is nineteen descriptors");
}

/// Fact 6.3: segmented packets and packets without checksum are dropped with a program, and pass without.
#[test]
fn fact_6_3_offloaded_packets_are_dropped() {
    let tso = Header { gso_type: 1, gso_size: 1448, ..Header::default() };
    let csum = Header { flags: 1, csum_start: 34, csum_offset: 16, ..Header::default() };
    let valid = Header { flags: 2, ..Header::default() };
    for features in [SMALL, !0] {
        let mut r = rig_with(|c| c.features &= features);
        for header in [tso, csum, valid] {
            assert_eq!(r.deliver_as(1, header, 1500), 1);
            let skb = r.w.net.received.last().unwrap();
            assert_eq!((skb.gso, skb.csum_partial), (header == tso, header == csum));
        }
        r.received();
        r.attach(&answer(PASS), false);
        r.rx(2, &[("drops", 2), ("xdp_drops", 2)], &[("drop.virtio-rx-offloaded", 2)], |r| {
            r.deliver_as(1, tso, 1500);
            r.deliver_as(1, csum, 1500);
        });
        assert_eq!((r.deliver_as(1, valid, 1500), r.received()), (1, vec![1500]));
    }
}

/// Fact 6.3: buffers from before the program have no headroom. Small ones are copied; of mergeable ones a packet
/// is made linear if it fits a page, or its first buffer is copied.
#[test]
fn fact_6_3_old_buffers_are_copied() {
    let mut r = rig_with(|c| c.features &= SMALL);
    r.attach(&try_adjust(ADJUST_HEAD, -216), false);
    assert_eq!((r.deliver(1, 1514), r.received()), (1, vec![1730]));

    let mut r = rig();
    r.attach(&try_adjust(ADJUST_HEAD, -228), false);
    // In buffers of 1536 bytes: two, and 3520 with the header are the most.
    assert_eq!((r.deliver(1, 3508), r.received()), (1, vec![3736]));
    r.rx(1, &[("drops", 1), ("xdp_drops", 1)], &[("drop.virtio-rx-not-linear", 1)], |r| {
        r.deliver(1, 3509);
    });
    r.attach(&try_adjust(ADJUST_HEAD, -228), true);
    let mut grown = packet(20_000);
    r.deliver(1, 20_000);
    let (_, bytes) = r.w.received().pop().unwrap();
    grown.drain(..14);
    assert!(bytes.ends_with(&grown) && bytes.len() == 20_228);
}

/// Fact 6.3, and 6.2: hashes of the device reach programs only if they are turned on.
#[test]
fn fact_6_3_hashes_come_with_their_header() {
    let mut r = rig_with(|c| c.features |= 1 << VIRTIO_NET_F_HASH_REPORT);
    let header = Header { hash_value: 0x1234_5678, hash_report: 2, ..Header::default() };
    r.dev.set_rxhash(true);
    assert_eq!(r.deliver_as(1, header, 100), 1);
    assert_eq!(r.w.net.received[0].hash, Some((0x1234_5678, true)));
    assert_eq!(r.received(), [100]);
}
