//! Models for loom: `RUSTFLAGS="--cfg loom" cargo test -p earlybird-mem --release models`.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, AtomicUsize, Ordering::*};
use loom::thread;

use crate::epoch::Domain;
use crate::{ElementPool, HashIndex, PtrRing, SpinLock};

/// Few enough preemptions that a model ends, more than a mistake usually needs.
fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    let n = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = n.clone();
    builder.check(move || {
        counted.fetch_add(1, SeqCst);
        f();
    });
    assert!(n.load(SeqCst) > 1, "loom has seen one order only");
}

#[test]
fn a_spin_lock_lets_one_in() {
    model(|| {
        let lock = Arc::new(SpinLock::new(0));
        let other = lock.clone();
        let t = thread::spawn(move || other.with(|n| *n += 1));
        lock.with(|n| *n += 1);
        t.join().unwrap();
        assert_eq!(lock.with(|n| *n), 2);
    });
}

/// Two places for a value; readers follow `current`.
struct Published {
    domain: Domain,
    current: AtomicUsize,
    places: [AtomicU32; 2],
}

impl Published {
    fn new() -> Arc<Self> {
        let places = [AtomicU32::new(1), AtomicU32::new(2)];
        Arc::new(Self { domain: Domain::new(), current: AtomicUsize::new(0), places })
    }

    fn read(&self) {
        let _guard = self.domain.pin();
        let place = self.current.load(Acquire);
        let value = self.places[place].load(Relaxed);
        assert!(value == 1 || value == 2, "read what was given away");
    }

    /// Takes place 0 out of sight and overwrites it if its readers are gone.
    fn reclaim(&self) {
        self.current.store(1, Release);
        let stamp = self.domain.stamp();
        if self.domain.oldest() > stamp {
            self.places[0].store(99, Relaxed);
        }
    }
}

#[test]
fn nobody_reads_what_is_reclaimed() {
    model(|| {
        let shared = Published::new();
        let reader = shared.clone();
        let t = thread::spawn(move || {
            reader.read();
            reader.read();
        });
        shared.reclaim();
        shared.reclaim();
        t.join().unwrap();
    });
}

#[test]
fn repin_protects_as_pin_does() {
    model(|| {
        let shared = Published::new();
        let reader = shared.clone();
        let t = thread::spawn(move || {
            let mut guard = reader.domain.pin();
            guard.repin();
            let place = reader.current.load(Acquire);
            let value = reader.places[place].load(Relaxed);
            assert!(value == 1 || value == 2);
        });
        shared.reclaim();
        shared.reclaim();
        t.join().unwrap();
    });
}

#[test]
fn an_element_is_in_one_hand() {
    model(|| {
        let pool = Arc::new(ElementPool::with_surplus(1, 2, 2).unwrap());
        let domain = Arc::new(Domain::new());
        let held = Arc::new([const { 0 }; 3].map(AtomicU32::new));
        let work = |cpu, pool: &ElementPool, domain: &Domain, held: &[AtomicU32; 3]| {
            let taken = pool.take(cpu, domain);
            assert_eq!(held[taken.index as usize].swap(1, AcqRel), 0, "in two hands");
            held[taken.index as usize].store(0, Release);
            pool.retire(cpu, taken.index);
        };
        let (p, d, h) = (pool.clone(), domain.clone(), held.clone());
        let t = thread::spawn(move || {
            work(1, &p, &d, &h);
            work(1, &p, &d, &h);
        });
        work(0, &pool, &domain, &held);
        work(0, &pool, &domain, &held);
        t.join().unwrap();
    });
}

#[test]
fn tokens_are_neither_lost_nor_made() {
    model(|| {
        let pool = Arc::new(ElementPool::with_surplus(1, 2, 2).unwrap());
        let other = pool.clone();
        let t = thread::spawn(move || other.take_token(1));
        let (mine, theirs) = (pool.take_token(0), t.join().unwrap());
        // Who looks while the other one holds it goes away empty, but both never get it.
        assert!(!(mine && theirs) && !(pool.take_token(0) && (mine || theirs)));
    });
}

// In the two models below the spawned thread reads, since loom runs the main thread first: it does not look
// for other orders of a load of one thread and a load with a store of another one if the lone load was first.

#[test]
fn an_entry_that_moves_is_always_found() {
    model(|| {
        // One chain of nine: the last entry is in an overflow bucket.
        let index = Arc::new(HashIndex::new(4).unwrap());
        let hash = |elem: u32| u64::from(elem) << 49;
        (0..9).for_each(|e| index.lock(hash(e)).insert(hash(e), e));
        let reader = index.clone();
        let t = thread::spawn(move || reader.find(hash(8), |e| e == 8));
        let chain = index.lock(hash(3));
        let (at, _) = chain.find(hash(3), |e| e == 3).unwrap();
        chain.remove(at);
        drop(chain);
        assert_eq!(t.join().unwrap(), Some(8));
        assert_eq!(index.find(hash(3), |e| e == 3), None);
    });
}

#[test]
fn a_key_is_found_while_its_element_is_replaced() {
    model(|| {
        let index = Arc::new(HashIndex::new(4).unwrap());
        let hash = 7 << 49;
        index.lock(hash).insert(hash, 0);
        // Elements 0 and 1 are the key's; element 0 is given to another key after it was replaced.
        let key = Arc::new([AtomicU32::new(7), AtomicU32::new(7)]);
        let (reader, keys) = (index.clone(), key.clone());
        let t = thread::spawn(move || reader.find(hash, |e| keys[e as usize].load(Acquire) == 7));
        let chain = index.lock(hash);
        let (at, _) = chain.find(hash, |_| true).unwrap();
        chain.replace(at, 1);
        drop(chain);
        key[0].store(8, Release);
        assert!(t.join().unwrap().is_some(), "the key was there all the time");
    });
}

#[test]
fn an_entry_is_found_once_it_was_inserted() {
    model(|| {
        let index = Arc::new(HashIndex::new(4).unwrap());
        let hash = |elem: u32| u64::from(elem) << 49;
        (0..8).for_each(|e| index.lock(hash(e)).insert(hash(e), e));
        let written = Arc::new(AtomicU32::new(0));
        let (reader, seen) = (index.clone(), written.clone());
        let t = thread::spawn(move || {
            let found = reader.find(hash(8), |e| {
                assert!(e != 8 || seen.load(Relaxed) == 1, "an element that is not written yet");
                e == 8
            });
            assert!(found.is_none() || found == Some(8));
            reader.find(hash(2), |e| e == 2)
        });
        written.store(1, Relaxed);
        index.lock(hash(8)).insert(hash(8), 8);
        assert_eq!(t.join().unwrap(), Some(2));
        assert_eq!(index.find(hash(8), |e| e == 8), Some(8));
    });
}

#[test]
fn a_ring_hands_over_each_entry_once_and_in_order() {
    model(|| {
        let (mut p, mut c) = crate::spsc::model_ring::<u64>(2);
        let t = thread::spawn(move || {
            let mut sent = 0;
            for value in [11, 12, 13] {
                if p.push(value) {
                    p.submit();
                    sent += 1;
                } else {
                    break;
                }
            }
            sent
        });
        let mut seen = Vec::new();
        for _ in 0..3 {
            while let Some(value) = c.pop() {
                seen.push(value);
            }
            c.release();
            thread::yield_now();
        }
        let sent: usize = t.join().unwrap();
        while let Some(value) = c.pop() {
            seen.push(value);
        }
        assert_eq!(seen, [11, 12, 13][..sent]);
    });
}

#[test]
fn a_place_is_not_overwritten_before_it_was_read() {
    use uapi::if_xdp::XdpDesc;
    model(|| {
        let (mut p, mut c) = crate::spsc::model_ring::<XdpDesc>(1);
        let desc = |i: u32| XdpDesc { addr: i.into(), len: i, options: i };
        assert!(p.push(desc(1)));
        p.submit();
        let t = thread::spawn(move || {
            if p.push(desc(2)) {
                p.submit();
            }
        });
        let mut next = 1;
        for _ in 0..2 {
            if let Some(d) = c.pop() {
                assert_eq!(d, desc(next), "half of one entry and half of another");
                next += 1;
                c.release();
            }
            thread::yield_now();
        }
        t.join().unwrap();
    });
}

#[test]
fn a_ring_hands_over_each_item_once_and_in_order() {
    model(|| {
        // Two slots for three items, so that slots are used again while the other side is at work.
        let ring = Arc::new(PtrRing::new(2));
        let consumer = ring.clone();
        let t = thread::spawn(move || (0..3).filter_map(|_| consumer.consume()).collect::<Vec<_>>());
        let produced = (1..=3).take_while(|i| ring.produce(Box::new(*i)).is_ok()).count();
        let mut seen = t.join().unwrap();
        seen.extend(std::iter::from_fn(|| ring.consume()));
        assert_eq!(seen.iter().map(|i| **i).collect::<Vec<_>>(), (1..=produced).collect::<Vec<_>>());
    });
}

#[test]
fn two_producers_of_batches_use_each_slot_once() {
    model(|| {
        let ring = Arc::new(PtrRing::new(3));
        let other = ring.clone();
        let batch =
            |ring: &PtrRing<Box<u32>>, from| ring.produce_batch(2, |_| (from..from + 2).map(Box::new)) as u32;
        let t = thread::spawn(move || batch(&other, 10));
        let mine = batch(&ring, 20);
        let mut seen = Vec::new();
        ring.consume_batch(1, |i| seen.push(*i));
        let theirs = t.join().unwrap();
        ring.consume_batch(4, |i| seen.push(*i));
        seen.sort_unstable();
        assert_eq!(seen, (10..10 + theirs).chain(20..20 + mine).collect::<Vec<_>>());
    });
}
