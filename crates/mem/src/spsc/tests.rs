use super::*;

const LAYOUT: RingLayout = RingLayout { producer: 0, consumer: 128, flags: 196, entries: 320 };

fn memory() -> Arc<SharedMem> {
    Arc::new(SharedMem::anonymous(4096).expect("memory"))
}

fn ring<T: RingEntry>(entries: u32) -> (Producer<T>, Consumer<T>, Arc<SharedMem>) {
    let m = memory();
    let p = Producer::new(m.clone(), &LAYOUT, entries).expect("it fits");
    let c = Consumer::new(m.clone(), &LAYOUT, entries).expect("it fits");
    (p, c, m)
}

#[test]
fn entries_come_out_as_they_went_in() {
    let (mut p, mut c, _) = ring::<XdpDesc>(4);
    let desc = |i: u32| XdpDesc { addr: u64::from(i) << 40 | 7, len: i, options: !i };
    for round in 0..1000 {
        let n = round % 4 + 1;
        (0..n).for_each(|i| assert!(p.push(desc(round + i))));
        assert_eq!(c.available(9), 0, "not submitted yet");
        p.submit();
        assert_eq!(c.available(9), n);
        (0..n).for_each(|i| assert_eq!(c.read(i), Some(desc(round + i))));
        assert_eq!(c.read(n), None);
        (0..n).for_each(|i| assert_eq!(c.pop(), Some(desc(round + i))));
        assert_eq!(p.free(4), 4 - n, "not released yet");
        c.release();
        assert_eq!(p.free(4), 4);
    }
}

#[test]
fn a_full_ring_takes_no_more() {
    let (mut p, mut c, _) = ring::<u64>(2);
    assert!(p.push(1) && p.push(2) && !p.push(3));
    p.submit();
    assert_eq!((p.in_flight(), p.is_empty()), (2, false));
    assert_eq!(c.pop(), Some(1));
    assert!(!p.push(3));
    c.release();
    assert!(p.push(3) && !p.push(4));
    p.submit();
    assert_eq!([c.pop(), c.pop(), c.pop()], [Some(2), Some(3), None]);
    c.release();
    assert!(p.is_empty());
}

#[test]
fn indices_run_through_the_end_of_32_bits() {
    let m = memory();
    m.view().write_u32(LAYOUT.producer, u32::MAX - 1);
    m.view().write_u32(LAYOUT.consumer, u32::MAX - 1);
    let mut p = Producer::<u64>::new(m.clone(), &LAYOUT, 4).unwrap();
    let mut c = Consumer::<u64>::new(m.clone(), &LAYOUT, 4).unwrap();
    (0..4).for_each(|i| assert!(p.push(i)));
    assert!(!p.push(4));
    p.submit();
    assert_eq!(m.view().read_u32(LAYOUT.producer), 2);
    (0..4).for_each(|i| assert_eq!(c.pop(), Some(i)));
    assert_eq!(c.pop(), None);
}

#[test]
fn what_was_pushed_or_taken_can_be_taken_back() {
    let (mut p, mut c, _) = ring::<u64>(8);
    (0..5).for_each(|i| assert!(p.push(i)));
    p.cancel_n(2);
    p.submit_n(1);
    assert_eq!((c.available(8), p.pending()), (1, 2));
    p.cancel_n(99);
    assert_eq!(p.pending(), 0, "what was submitted stays");
    assert_eq!(c.pop(), Some(0));
    c.cancel_n(7);
    assert_eq!(c.pop(), Some(0));
    c.release();
    c.cancel_n(1);
    assert_eq!(c.pop(), None, "what was released stays");
}

#[test]
fn an_empty_peek_publishes_what_was_taken() {
    let (mut p, mut c, m) = ring::<u64>(8);
    assert!(p.push(5) && p.push(6));
    p.submit();
    for want in [5, 6] {
        assert_eq!(c.peek(), Some(want));
        c.take(1);
        assert_eq!(m.view().read_u32(LAYOUT.consumer), 0);
    }
    assert_eq!(c.peek(), None);
    assert_eq!(m.view().read_u32(LAYOUT.consumer), 2);
}

#[test]
fn need_wakeup_is_seen_by_the_producer() {
    let (p, c, _) = ring::<u64>(8);
    assert!(!p.needs_wakeup());
    c.set_need_wakeup(true);
    assert!(p.needs_wakeup());
    c.set_need_wakeup(false);
    assert!(!p.needs_wakeup());
}

#[test]
fn whatever_the_other_side_writes_no_more_than_a_ring_of_entries_is_handled() {
    let wild = [1, 2, 3, 7, 8, 9, 0x7fff_ffff, 0x8000_0000, u32::MAX - 8, u32::MAX];
    for value in wild {
        let (mut p, _, m) = ring::<u64>(8);
        m.view().write_u32(LAYOUT.consumer, value);
        let mut pushed = 0;
        while pushed < 100 && p.push(pushed) {
            pushed += 1;
        }
        assert!(pushed <= 16, "consumer index {value}");
        assert!(p.free(u32::MAX) <= 8 && p.in_flight() <= 8);

        let (_, mut c, m) = ring::<u64>(8);
        m.view().write_u32(LAYOUT.producer, value);
        assert!(c.available(u32::MAX) <= 8, "producer index {value}");
        assert!(c.present() <= 8);
        c.take(u32::MAX);
        assert!(c.read(8).is_none());
    }
}

#[test]
fn own_indices_are_not_read_back_from_memory() {
    let (mut p, mut c, m) = ring::<u64>(4);
    assert!(p.push(1));
    p.submit();
    m.view().write_u32(LAYOUT.producer, 77);
    assert!(p.push(2));
    p.submit();
    assert_eq!(m.view().read_u32(LAYOUT.producer), 2);
    assert_eq!(c.pop(), Some(1));
    m.view().write_u32(LAYOUT.consumer, 99);
    assert_eq!(c.pop(), Some(2));
    c.release();
    assert_eq!(m.view().read_u32(LAYOUT.consumer), 2);
}

#[test]
fn rings_that_do_not_fit_are_refused() {
    let m = memory();
    let fits = |layout: &RingLayout, n| Producer::<XdpDesc>::new(m.clone(), layout, n).is_some();
    assert!(fits(&LAYOUT, 128));
    assert!(!fits(&LAYOUT, 256), "4,416 bytes in a page");
    assert!(!fits(&LAYOUT, 0) && !fits(&LAYOUT, 3));
    assert!(!fits(&RingLayout { entries: 324, ..LAYOUT }, 4));
    assert!(!fits(&RingLayout { producer: 2, ..LAYOUT }, 4));
    assert!(!fits(&RingLayout { flags: 4094, ..LAYOUT }, 4));
    assert!(!fits(&RingLayout { entries: usize::MAX - 7, ..LAYOUT }, 4));
}
