//! [`PtrRing`]: a bounded queue between CPUs, locked once per batch on either side.
// UNSAFETY: slots are uninitialised memory that producers and consumers hand to each other by counters.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use crate::sync::UnsafeCell;
use crate::sync::atomic::{AtomicU32, Ordering::*};
use crate::{CachePadded, SpinLock};

/// Consumed slots that are given back to producers at once, unless the ring is short.
///
/// Kernel: `include/linux/ptr_ring.h __ptr_ring_set_size, v6.18`
const BATCH: u32 = 16;

/// A queue of a fixed number of items for any number of producers and consumers.
///
/// As in the kernel, a consumer gives slots back in batches of [`BATCH`], and at the ring's end: a ring
/// that is full for producers may hold fewer items than it has slots.
///
/// Kernel: `include/linux/ptr_ring.h struct ptr_ring, v6.18`
#[doc(alias = "ptr_ring")]
pub struct PtrRing<T> {
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    batch: u32,
    /// Items ever produced and slots ever given back, modulo 2^32.
    produced: CachePadded<AtomicU32>,
    released: CachePadded<AtomicU32>,
    /// Slot of the next item to produce.
    producer: CachePadded<SpinLock<u32>>,
    consumer: CachePadded<SpinLock<Consumer>>,
}

/// Slot of the next item to consume, and the first one that was not given back.
#[derive(Debug, Default)]
struct Consumer {
    head: u32,
    tail: u32,
    consumed: u32,
}

// SAFETY: items move between threads, and no two threads reach the same slot at once: producers exclude
// each other by a lock, so do consumers, and the counters say which side a slot belongs to.
unsafe impl<T: Send> Sync for PtrRing<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for PtrRing<T> {}

impl<T> PtrRing<T> {
    /// An empty ring.
    ///
    /// # Panics
    ///
    /// If `size` is 0 or above 2^30.
    #[must_use]
    pub fn new(size: u32) -> Self {
        assert!(size > 0 && size <= 1 << 30, "a ring has 1 to 2^30 slots");
        let slots = (0..size).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect();
        Self {
            slots,
            batch: if BATCH > size / 2 { 1 } else { BATCH },
            produced: CachePadded(AtomicU32::new(0)),
            released: CachePadded(AtomicU32::new(0)),
            producer: CachePadded(SpinLock::new(0)),
            consumer: CachePadded(SpinLock::new(Consumer::default())),
        }
    }

    /// Slots.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Adds up to `want` items: `items` is told how many there is room for, and answers those. Answers how
    /// many were added, which is fewer if `items` has fewer.
    ///
    /// `items` must not produce into the same ring.
    ///
    /// Kernel: `include/linux/ptr_ring.h __ptr_ring_produce, v6.18`
    #[doc(alias = "__ptr_ring_produce")]
    #[inline]
    pub fn produce_batch<I: Iterator<Item = T>>(&self, want: usize, items: impl FnOnce(usize) -> I) -> usize {
        self.producer.with(|next| {
            let start = self.produced.load(Relaxed);
            // Pairs with the release in `give_back`: those slots have been read.
            let room = self.size() - start.wrapping_sub(self.released.load(Acquire));
            let room = want.min(room as usize);
            // The slot is noted with the count, so that a panic of the iterator leaves both as they were.
            let mut items = items(room).take(room);
            let mut n = 0;
            // Up to the end of the ring, and from its start.
            let (before, after) = self.slots.split_at(*next as usize);
            for part in [after, &before[..before.len().min(room.saturating_sub(after.len()))]] {
                for (slot, item) in part.iter().zip(items.by_ref()) {
                    slot.with_mut(|p| {
                        // SAFETY: this slot was given back, or never used: `room` counts such slots from here
                        // on, and there are no more items. No other producer is here because of the lock.
                        unsafe { (*p).write(item) };
                    });
                    n += 1;
                }
            }
            let slot = *next + n;
            *next = if slot >= self.size() { slot - self.size() } else { slot };
            self.produced.store(start.wrapping_add(n), Release);
            n as usize
        })
    }

    /// Adds one item.
    ///
    /// # Errors
    ///
    /// The item if the ring is full.
    pub fn produce(&self, item: T) -> Result<(), T> {
        let mut item = Some(item);
        self.produce_batch(1, |room| item.take_if(|_| room > 0).into_iter());
        item.map_or(Ok(()), Err)
    }

    /// Takes up to `max` items, the oldest first; answers how many.
    ///
    /// `take` must not consume from the same ring.
    ///
    /// Kernel: `include/linux/ptr_ring.h __ptr_ring_consume_batched, v6.18`
    #[doc(alias = "__ptr_ring_consume")]
    #[inline]
    pub fn consume_batch(&self, max: u32, mut take: impl FnMut(T)) -> u32 {
        self.consumer.with(|c| {
            // Pairs with the release in `produce_batch`: those slots have been written.
            let there = self.produced.load(Acquire).wrapping_sub(c.consumed);
            let n = there.min(max);
            let mut end = self.batch_end(c);
            for _ in 0..n {
                // SAFETY: this slot was written, as `there` counts, and is not given back yet. No other
                // consumer is here because of the lock, and the item is read once: `head` moves on.
                let item = self.slots[c.head as usize].with_mut(|p| unsafe { (*p).assume_init_read() });
                c.head += 1;
                c.consumed = c.consumed.wrapping_add(1);
                if c.head >= end {
                    self.give_back(c);
                    end = self.batch_end(c);
                }
                take(item);
            }
            n
        })
    }

    /// The slot before which consumed ones are given back.
    #[inline]
    fn batch_end(&self, c: &Consumer) -> u32 {
        self.size().min(c.tail + self.batch)
    }

    /// Lets producers use the slots that were consumed.
    fn give_back(&self, c: &mut Consumer) {
        if c.head == self.size() {
            c.head = 0;
        }
        c.tail = c.head;
        self.released.store(c.consumed, Release);
    }

    /// Takes one item.
    pub fn consume(&self) -> Option<T> {
        let mut item = None;
        self.consume_batch(1, |i| item = Some(i));
        item
    }

    /// Items in the ring now.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.consumer.with(|c| self.produced.load(Acquire).wrapping_sub(c.consumed))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Drop for PtrRing<T> {
    fn drop(&mut self) {
        self.consume_batch(u32::MAX, drop);
    }
}

impl<T> std::fmt::Debug for PtrRing<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PtrRing({} slots)", self.size())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn items_come_out_in_order_until_the_ring_is_full() {
        let ring = PtrRing::new(256);
        assert_eq!((0..300).filter(|i| ring.produce(*i).is_ok()).count(), 256);
        assert_eq!(
            (0..256).map(|_| ring.consume().unwrap()).collect::<Vec<_>>(),
            (0..256).collect::<Vec<_>>()
        );
        assert!(ring.consume().is_none() && ring.is_empty());
    }

    #[test]
    fn slots_are_given_back_in_batches_of_16() {
        let ring = PtrRing::new(256);
        assert_eq!(ring.produce_batch(1000, |_| 0..), 256);
        assert_eq!(ring.consume_batch(15, drop), 15);
        assert!(ring.produce(0).is_err());
        assert_eq!(ring.consume_batch(25, drop), 25);
        assert_eq!(ring.produce_batch(100, |_| 0..), 32);
    }

    #[test]
    fn short_rings_give_back_each_slot() {
        let ring = PtrRing::new(4);
        (0..4).for_each(|i| ring.produce(i).unwrap());
        assert_eq!(ring.consume(), Some(0));
        assert!(ring.produce(4).is_ok() && ring.produce(5).is_err());
    }

    #[test]
    fn what_is_left_is_dropped_once() {
        let item = Arc::new(());
        let ring = PtrRing::new(8);
        (0..5).for_each(|_| ring.produce(item.clone()).unwrap());
        drop(ring.consume());
        assert_eq!(Arc::strong_count(&item), 5);
        drop(ring);
        assert_eq!(Arc::strong_count(&item), 1);
    }

    #[test]
    fn two_producers_and_two_consumers_lose_nothing() {
        const EACH: u64 = if cfg!(miri) { 50 } else { 20_000 };
        let (ring, sum, seen) = (PtrRing::new(64), AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    for i in 0..EACH {
                        let mut item = i;
                        while let Err(back) = ring.produce(item) {
                            item = back;
                            std::thread::yield_now();
                        }
                    }
                });
                s.spawn(|| {
                    while u64::from(seen.load(Relaxed)) < 2 * EACH {
                        let n = ring.consume_batch(8, |i| {
                            sum.fetch_add(i as u32, Relaxed);
                        });
                        seen.fetch_add(n, Relaxed);
                        std::thread::yield_now();
                    }
                });
            }
        });
        assert_eq!(u64::from(sum.load(Relaxed)), EACH * (EACH - 1));
    }
}
