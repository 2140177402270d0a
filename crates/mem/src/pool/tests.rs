use std::collections::HashSet;

use super::*;

fn take_all(pool: &ElementPool, domain: &Domain, n: u32) -> HashSet<u32> {
    let all: HashSet<u32> = (0..n).map(|_| pool.take(0, domain).index).collect();
    assert_eq!(all.len(), n as usize, "an element was given out twice");
    all
}

#[test]
fn tokens_are_counted_to_the_entry_and_stolen() {
    let pool = ElementPool::with_surplus(7, 128 * 3, 3).unwrap();
    for cpu in [0, 0, 0, 0, 1, 2, 2] {
        assert!(pool.take_token(cpu));
    }
    assert!((0..3).all(|cpu| !pool.take_token(cpu)));
    pool.give_token(2);
    assert!(pool.take_token(0));
    assert!(!pool.take_token(2));
}

#[test]
fn there_are_as_many_elements_as_promised() {
    let (pool, domain) = (ElementPool::with_surplus(10, 128 * 2, 2).unwrap(), Domain::new());
    let n = pool.elements();
    let all = take_all(&pool, &domain, n);
    assert!(all.iter().all(|i| *i < n));
}

#[test]
fn a_reader_keeps_its_elements_until_the_surplus_is_used_up() {
    let (pool, domain) = (ElementPool::with_surplus(1, 128, 1).unwrap(), Domain::new());
    let total = pool.elements();
    let guard = domain.pin();
    // One element is in the map, the others are retired one after the other while the reader looks on.
    let mut live = pool.take(0, &domain).index;
    for _ in 1..total {
        let new = pool.take(0, &domain);
        assert!(!new.seen);
        pool.retire(0, live);
        live = new.index;
    }
    let oldest = pool.take(0, &domain);
    assert_eq!(oldest, Taken { index: 0, seen: true });
    drop(guard);
    // That the reader is gone is noticed at the next scan.
    for _ in 0..SCAN_EVERY {
        pool.retire(0, live);
        live = pool.take(0, &domain).index;
    }
    pool.retire(0, live);
    assert!(!pool.take(0, &domain).seen);
}

#[test]
fn a_reader_that_stays_does_not_make_updates_slow() {
    let (pool, domain) = (ElementPool::with_surplus(1, 4096, 1).unwrap(), Domain::new());
    let _guard = domain.pin();
    let mut live = pool.take(0, &domain).index;
    for _ in 0..if cfg!(miri) { 10_000 } else { 100_000 } {
        pool.exchange(0, &domain, live, |taken| live = taken.index);
    }
    let batches = pool.local(0).with(|l| l.batches.len());
    assert!(batches <= MAX_BATCHES, "{batches} stamps are kept");
}

#[test]
fn elements_come_back_after_a_quiescent_state() {
    let (pool, domain) = (ElementPool::with_surplus(1000, 128, 1).unwrap(), Domain::new());
    let mut guard = domain.pin();
    let mut used = HashSet::new();
    let mut live = pool.take(0, &domain).index;
    for _ in 0..100 {
        for _ in 0..16 {
            let new = pool.take(0, &domain);
            assert!(!new.seen);
            pool.retire(0, live);
            live = new.index;
            used.insert(live);
        }
        guard.repin();
    }
    assert!(used.len() < 256, "{} elements in use for 16 updates a poll", used.len());
}

#[test]
fn put_back_is_given_out_again() {
    let (pool, domain) = (ElementPool::with_surplus(1, 128, 1).unwrap(), Domain::new());
    let total = pool.elements();
    let all = take_all(&pool, &domain, total);
    assert_eq!(all.len(), total as usize);
    pool.put_back(0, Taken { index: 5, seen: false });
    assert_eq!(pool.take(0, &domain), Taken { index: 5, seen: false });
}

#[test]
fn threads_never_hold_the_same_element() {
    let (pool, domain) = (ElementPool::with_surplus(8, 128 * 4, 4).unwrap(), Domain::new());
    let total = pool.elements() as usize;
    let held: Vec<AtomicU32> = (0..total).map(|_| AtomicU32::new(0)).collect();
    std::thread::scope(|s| {
        for cpu in 0..4 {
            let (pool, domain, held) = (&pool, &domain, &held);
            s.spawn(move || {
                for i in 0..if cfg!(miri) { 100 } else { 20_000 } {
                    let guard = domain.pin();
                    let taken = pool.take(cpu, domain);
                    assert_eq!(held[taken.index as usize].fetch_add(1, SeqCst), 0);
                    held[taken.index as usize].fetch_sub(1, SeqCst);
                    if i % 3 == 0 {
                        pool.put_back(cpu, taken);
                    } else {
                        pool.retire(cpu, taken.index);
                    }
                    drop(guard);
                }
            });
        }
    });
}
