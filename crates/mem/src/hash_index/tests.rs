use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use super::*;

/// Enough for a race to show; miri needs less and has no time for more.
const ROUNDS: u32 = if cfg!(miri) { 100 } else { 20_000 };

/// Entries of a table that overflows.
const N: u32 = if cfg!(miri) { 100 } else { 1000 };

/// Elements are their own keys here; the hash puts all of them into few chains.
fn hash(key: u32) -> u64 {
    (u64::from(key) << 48) | u64::from(key % 3)
}

fn find(index: &HashIndex, key: u32) -> bool {
    index.find(hash(key), |e| e == key) == Some(key)
}

fn remove(index: &HashIndex, key: u32) -> bool {
    let chain = index.lock(hash(key));
    let found = chain.find(hash(key), |e| e == key);
    found.inspect(|(at, _)| chain.remove(*at)).is_some()
}

#[test]
fn a_bucket_is_a_cache_line() {
    assert_eq!((size_of::<Bucket>(), align_of::<Bucket>()), (64, 64));
}

#[test]
fn entries_are_found_through_overflow_buckets_until_removed() {
    let index = HashIndex::new(N).unwrap();
    (0..N).for_each(|k| index.lock(hash(k)).insert(hash(k), k));
    assert!((0..N).all(|k| find(&index, k)));
    assert!(!find(&index, N + 3));
    for k in (0..N).step_by(3) {
        assert!(remove(&index, k) && !find(&index, k) && !remove(&index, k));
    }
    assert!((0..N).all(|k| find(&index, k) == (k % 3 != 0)));
    for k in 0..N {
        assert_eq!(remove(&index, k), k % 3 != 0);
    }
    let used = index.overflow.with(|o| o.fresh as usize - index.main - o.free.len());
    assert_eq!(used, 0, "overflow buckets are lost");
}

#[test]
fn overflow_buckets_never_run_out() {
    let index = HashIndex::new(64).unwrap();
    // Fill one chain after the other to the brim and leave one entry in each.
    for round in 0..64_u32 {
        let live: Vec<u32> = (0..64 - round).collect();
        let h = |_| u64::from(round % 16);
        live.iter().for_each(|k| index.lock(h(*k)).insert(h(*k) | 7 << 48, *k));
        for k in &live[1..] {
            let chain = index.lock(h(*k));
            let (at, _) = chain.find(h(*k) | 7 << 48, |e| e == *k).unwrap();
            chain.remove(at);
        }
    }
}

#[test]
fn iterating_and_removing_the_previous_key_visits_all() {
    let index = HashIndex::new(100).unwrap();
    (0..100).for_each(|k| index.lock(0).insert(hash(k), k));
    let (mut seen, mut previous) = (BTreeSet::new(), None);
    loop {
        let mut all = Vec::new();
        index.lock(0).elements(&mut all);
        let next = match previous {
            None => all.first().copied(),
            Some(p) => all.iter().position(|e| *e == p).and_then(|i| all.get(i + 1).copied()),
        };
        if let Some(p) = previous {
            let chain = index.lock(0);
            let (at, _) = chain.find(hash(p), |e| e == p).unwrap();
            chain.remove(at);
        }
        let Some(next) = next else { break };
        seen.insert(next);
        previous = Some(next);
    }
    assert_eq!(seen.len(), 100);
}

#[test]
fn a_present_entry_is_found_while_others_come_and_go() {
    let index = HashIndex::new(300).unwrap();
    let same = |k: u32| u64::from(k & 1) << 48;
    (0..40).for_each(|k| index.lock(0).insert(same(k), k));
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            for round in 0..ROUNDS {
                let k = 100 + round % 50;
                index.lock(0).insert(same(k), k);
                let gone = round % 40;
                // Take one of the first forty out and put it back at the end, but never number 20.
                if gone != 20 {
                    let chain = index.lock(0);
                    let (at, _) = chain.find(same(gone), |e| e == gone).unwrap();
                    chain.remove(at);
                    chain.insert(same(gone), gone);
                }
                let chain = index.lock(0);
                let (at, _) = chain.find(same(k), |e| e == k).unwrap();
                chain.remove(at);
            }
            done.store(true, Release);
        });
        while !done.load(Acquire) {
            assert_eq!(index.find(same(20), |e| e == 20), Some(20));
        }
    });
}
