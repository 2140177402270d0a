//! Ring buffers of both directions.

use std::ops::ControlFlow;

use MapType::*;

use super::*;

fn bytes(data: &mut [u8]) -> SharedSlice<'_> {
    SharedSlice::from_mut(data)
}

#[test]
fn records_come_out_in_order_of_reservation() {
    let map = create(Ringbuf, 0, 0, 4096, 0);
    let ring = map.ringbuf().unwrap();
    let (a, b, c) = (ring.reserve(5).unwrap(), ring.reserve(0).unwrap(), ring.reserve(16).unwrap());
    a.copy_from(0, b"first");
    c.copy_from(0, b"third, 16 bytes.");
    ring.submit(c.addr(), 0);
    assert_eq!(ring.consume(), None, "the first is not finished");
    ring.discard(b.addr(), 0);
    ring.submit(a.addr(), 0);
    assert_eq!(ring.consume().as_deref(), Some(&b"first"[..]));
    assert_eq!(ring.consume().as_deref(), Some(&b"third, 16 bytes."[..]));
    assert_eq!(ring.consume(), None);
    assert_eq!([0, 1, 2, 3, 4].map(|what| ring.query(what)), [0, 4096, 48, 48, 0]);
}

#[test]
fn a_ring_is_full_to_the_byte() {
    let map = create(Ringbuf, 0, 0, 4096, 0);
    let ring = map.ringbuf().unwrap();
    assert!(ring.reserve(u64::from(u32::MAX / 4) + 1).is_none());
    assert!(ring.reserve(4096).is_none() && ring.reserve(4089).is_none());
    // A record may not fill the ring entirely, even if it is empty.
    assert!(ring.reserve(4088).is_none());
    let big = ring.reserve(4080).unwrap();
    assert_eq!(big.len(), 4080);
    assert!(ring.reserve(0).is_none());
    ring.submit(big.addr(), 0);
    assert!(ring.reserve(0).is_none());
    assert_eq!(ring.consume().map(|r| r.len()), Some(4080));
    assert_eq!(ring.output(bytes(&mut [1; 100]), 4), Err(Errno::EINVAL));
    for i in 0..1000_u32 {
        // Records of all lengths wrap round the end in all ways.
        let len = i as usize % 200;
        assert_eq!(ring.output(bytes(&mut vec![i as u8; len]), 0), Ok(()));
        assert_eq!(ring.consume(), Some(vec![i as u8; len]));
    }
    while ring.output(bytes(&mut [1; 100]), 0).is_ok() {}
    assert_eq!(ring.output(bytes(&mut [1; 100]), 0), Err(Errno::EAGAIN));
}

#[test]
fn a_record_that_is_not_finished_holds_the_ring() {
    let map = create(Ringbuf, 0, 0, 4096, 0);
    let ring = map.ringbuf().unwrap();
    assert!(ring.output(bytes(&mut [0; 1000]), 0).is_ok());
    let open = ring.reserve(8).unwrap();
    assert!(ring.consume().is_some());
    let mut n = 0;
    while ring.output(bytes(&mut [0; 1000]), 0).is_ok() {
        n += 1;
        assert!(ring.consume().is_none());
    }
    assert_eq!(n, 4, "counted from the oldest record that is not finished");
    ring.submit(open.addr(), 0);
    assert_eq!(ring.consume().map(|r| r.len()), Some(8));
}

#[test]
fn wakeups() {
    let map = create(Ringbuf, 0, 0, 4096, 0);
    let ring = map.ringbuf().unwrap();
    let output = |flags| ring.output(bytes(&mut [0; 8]), flags).unwrap();
    output(0);
    assert_eq!(ring.wakeups(), 1, "the consumer has seen all before");
    output(0);
    assert_eq!(ring.wakeups(), 1, "the consumer is behind");
    output(BPF_RB_FORCE_WAKEUP);
    assert_eq!(ring.wakeups(), 2);
    while ring.consume().is_some() {}
    output(BPF_RB_NO_WAKEUP);
    assert_eq!(ring.wakeups(), 2);
}

#[test]
fn addresses_that_are_no_records_are_ignored() {
    let map = create(Ringbuf, 0, 0, 4096, 0);
    let ring = map.ringbuf().unwrap();
    let a = ring.reserve(16).unwrap();
    for wrong in [0, 8, a.addr() + 1, a.addr() + 4096 * 2, u64::MAX, a.addr() - 8] {
        ring.submit(wrong, 0);
        assert!(ring.record_at(wrong).is_none());
    }
    assert_eq!(ring.record_at(a.addr()).map(|r| r.len()), Some(16));
    assert_eq!(ring.consume(), None);
    ring.submit(a.addr(), 0);
    ring.discard(a.addr(), 0);
    assert_eq!(ring.consume().map(|r| r.len()), Some(16), "a second commit is ignored");
}

#[test]
fn system_calls_are_refused() {
    for t in [Ringbuf, UserRingbuf] {
        let fd = open(t, 0, 0, 4096, 0);
        assert_eq!(fd.lookup_elem(&[], 0), Err(Errno::ENOTSUPP));
        assert_eq!(fd.update_elem(&[], &[], 0), Err(Errno::ENOTSUPP));
        assert_eq!(fd.delete_elem(&[]), Err(Errno::ENOTSUPP));
        assert_eq!(fd.get_next_key(None), Err(Errno::ENOTSUPP));
        assert_eq!(fd.lookup_and_delete_elem(&[], 0), Err(Errno::ENOTSUPP));
    }
}

fn drain(ring: &super::UserRingbuf, most: usize) -> (Result<u64, Errno>, Vec<Vec<u8>>) {
    let mut seen = Vec::new();
    let result = ring.drain(0, |sample| {
        seen.push(sample.to_vec());
        if seen.len() == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    (result, seen)
}

#[test]
fn samples_of_user_space() {
    let map = create(UserRingbuf, 0, 0, 4096, 0);
    let ring = map.user_ringbuf().unwrap();
    assert_eq!(drain(ring, 9), (Ok(0), vec![]));
    for sample in [&b"one"[..], b"two", b"three"] {
        ring.produce(sample).unwrap();
    }
    assert_eq!(drain(ring, 2), (Ok(2), vec![b"one".to_vec(), b"two".to_vec()]));
    assert_eq!(drain(ring, 9), (Ok(1), vec![b"three".to_vec()]));
    assert_eq!(ring.drain(4, |_| ControlFlow::Continue(())), Err(Errno::EINVAL));
    assert_eq!(ring.produce(&[0; 4096]), Err(Errno::E2BIG));
    ring.produce(&[7; 4000]).unwrap();
    assert_eq!(ring.produce(&[0; 100]), Err(Errno::ENOSPC));
    let busy = ring.drain(0, |_| {
        assert_eq!(ring.drain(0, |_| ControlFlow::Continue(())), Err(Errno::EBUSY));
        ControlFlow::Continue(())
    });
    assert_eq!(busy, Ok(1));
}

#[test]
fn nonsense_of_user_space_is_told() {
    const BUSY: u32 = 1 << 31;
    const DISCARD: u32 = 1 << 30;
    for (header, producer, expected) in [
        (8, 15, Err(Errno::EINVAL)),
        (9, 16, Err(Errno::EINVAL)),
        (100, 16, Err(Errno::EINVAL)),
        (4092, 8192, Err(Errno::E2BIG)),
        (0x00ff_ffff, u64::MAX - 7, Err(Errno::E2BIG)),
        (0x3fff_ffff, u64::MAX - 7, Err(Errno::E2BIG)),
        (8 | BUSY, 16, Ok(0)),
        (8 | DISCARD, 16, Ok(0)),
        (8 | DISCARD | BUSY, 16, Ok(0)),
        (8, 16, Ok(1)),
    ] {
        let map = create(UserRingbuf, 0, 0, 4096, 0);
        let ring = map.user_ringbuf().unwrap();
        ring.write_raw(0, header, producer);
        assert_eq!(drain(ring, 9).0, expected, "header {header:#x} producer {producer}");
    }
}
