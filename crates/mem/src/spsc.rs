//! Rings between one producer and one consumer in shared memory, laid out as AF_XDP's: [`Producer`] and
//! [`Consumer`] are the two sides, and the same code is the application's and the engine's.
//!
//! Indices run freely through 32 bits; an entry's place is the index modulo the number of entries. Each side
//! keeps its own index to itself and publishes it when it wants to ([`Producer::submit`],
//! [`Consumer::release`]), so that a batch costs one store. The memory is shared with a party that may write
//! anything anywhere at any time: each side believes its own index only as it remembers it, reads the other's
//! once and bounds what follows from it, and reads an entry once. Nothing in the memory can make either side
//! touch anything outside of the ring, or loop longer than the ring is.
//!
//! Kernel: `net/xdp/xsk_queue.h struct xsk_queue, v6.18`
// UNSAFETY: atomics at addresses in shared memory.
#![allow(unsafe_code)]

use std::marker::PhantomData;
#[cfg(not(loom))]
use std::{ptr::NonNull, sync::Arc};

use uapi::if_xdp::{XDP_RING_NEED_WAKEUP, XdpDesc};

#[cfg(not(loom))]
use crate::SharedMem;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

/// Where the parts of a ring lie in its memory, bytes.
///
/// Kernel: `include/uapi/linux/if_xdp.h struct xdp_ring_offset, v6.18`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingLayout {
    /// The producer's index.
    pub producer: usize,
    /// The consumer's index.
    pub consumer: usize,
    /// Flags that the consumer sets.
    pub flags: usize,
    /// The first entry.
    pub entries: usize,
}

/// What a ring holds: words of 8 bytes.
pub trait RingEntry: Copy + sealed::Sealed {
    /// Words of an entry, 1 or 2.
    const WORDS: usize;
    /// From the words in the ring.
    fn from_words(words: [u64; 2]) -> Self;
    /// As the ring holds it.
    fn to_words(self) -> [u64; 2];
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for u64 {}
    impl Sealed for uapi::if_xdp::XdpDesc {}
}

impl RingEntry for u64 {
    const WORDS: usize = 1;

    #[inline]
    fn from_words(words: [u64; 2]) -> Self {
        words[0]
    }

    #[inline]
    fn to_words(self) -> [u64; 2] {
        [self, 0]
    }
}

impl RingEntry for XdpDesc {
    const WORDS: usize = 2;

    #[inline]
    fn from_words([addr, word]: [u64; 2]) -> Self {
        Self { addr, len: word as u32, options: (word >> 32) as u32 }
    }

    #[inline]
    fn to_words(self) -> [u64; 2] {
        [self.addr, u64::from(self.len) | u64::from(self.options) << 32]
    }
}

/// Bytes that a ring of so many entries takes; `None` if it cannot be counted.
#[must_use]
pub fn ring_bytes<T: RingEntry>(layout: &RingLayout, entries: u32) -> Option<usize> {
    layout.entries.checked_add((entries as usize).checked_mul(T::WORDS * 8)?)
}

/// The memory of a ring, checked once.
#[cfg(not(loom))]
#[derive(Debug)]
struct RingMem<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<AtomicU64>,
    mask: u32,
    memory: Arc<SharedMem>,
    of: PhantomData<T>,
}

// SAFETY: the pointers are into `memory`, which may go to any thread, and are only used atomically.
#[cfg(not(loom))]
unsafe impl<T> Send for RingMem<T> {}
// SAFETY: as above.
#[cfg(not(loom))]
unsafe impl<T> Sync for RingMem<T> {}

#[cfg(not(loom))]
impl<T: RingEntry> RingMem<T> {
    fn new(memory: Arc<SharedMem>, layout: &RingLayout, entries: u32) -> Option<Self> {
        if !entries.is_power_of_two() || !layout.entries.is_multiple_of(8) {
            return None;
        }
        let view = memory.view();
        view.get(0, ring_bytes::<T>(layout, entries)?)?;
        let index = |offset| view.atomic_u32(offset).map(NonNull::from);
        let (producer, consumer, flags) =
            (index(layout.producer)?, index(layout.consumer)?, index(layout.flags)?);
        // The pointer to all entries, not one from a reference to the first.
        let entries_at = view.get(layout.entries, T::WORDS * 8 * entries as usize)?.as_ptr().cast();
        if !NonNull::<AtomicU64>::is_aligned(entries_at) {
            return None;
        }
        Some(Self {
            producer,
            consumer,
            flags,
            entries: entries_at,
            mask: entries - 1,
            memory,
            of: PhantomData,
        })
    }

    #[inline]
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: made from a reference into `memory` in `new`; the mapping lives as long as `self`.
        unsafe { self.producer.as_ref() }
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.consumer.as_ref() }
    }

    #[inline]
    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.flags.as_ref() }
    }

    /// A word of an entry.
    #[inline]
    fn word(&self, index: u32, word: usize) -> &AtomicU64 {
        let at = (index & self.mask) as usize * T::WORDS + word;
        debug_assert!(word < T::WORDS);
        // SAFETY: `new` has checked that `mask + 1` entries of `WORDS` words lie within the mapping, from
        // an address aligned to 8; `word` is less than `WORDS`, which only this module calls with.
        unsafe { self.entries.add(at).as_ref() }
    }
}

/// The memory of a ring under the model checker, whose atomics do not lie where we want.
#[cfg(loom)]
#[derive(Clone, Debug)]
struct RingMem<T> {
    shared: loom::sync::Arc<(AtomicU32, AtomicU32, AtomicU32, Vec<AtomicU64>)>,
    mask: u32,
    of: PhantomData<T>,
}

#[cfg(loom)]
impl<T: RingEntry> RingMem<T> {
    fn producer(&self) -> &AtomicU32 {
        &self.shared.0
    }

    fn consumer(&self) -> &AtomicU32 {
        &self.shared.1
    }

    fn flags(&self) -> &AtomicU32 {
        &self.shared.2
    }

    fn word(&self, index: u32, word: usize) -> &AtomicU64 {
        &self.shared.3[(index & self.mask) as usize * T::WORDS + word]
    }
}

/// Both sides of a ring for the model checker.
#[cfg(loom)]
pub(crate) fn model_ring<T: RingEntry>(entries: u32) -> (Producer<T>, Consumer<T>) {
    let words = (0..entries as usize * T::WORDS).map(|_| AtomicU64::new(0)).collect();
    let shared = loom::sync::Arc::new((AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0), words));
    let ring = RingMem { shared, mask: entries - 1, of: PhantomData };
    (Producer::over(ring.clone()), Consumer::over(ring))
}

impl<T: RingEntry> RingMem<T> {
    #[inline]
    fn read(&self, index: u32) -> T {
        let second = if T::WORDS > 1 { self.word(index, 1).load(Relaxed) } else { 0 };
        T::from_words([self.word(index, 0).load(Relaxed), second])
    }

    #[inline]
    fn write(&self, index: u32, entry: T) {
        let words = entry.to_words();
        self.word(index, 0).store(words[0], Relaxed);
        if T::WORDS > 1 {
            self.word(index, 1).store(words[1], Relaxed);
        }
    }

    #[inline]
    fn size(&self) -> u32 {
        self.mask + 1
    }
}

/// The side that puts entries in.
#[derive(Debug)]
pub struct Producer<T> {
    ring: RingMem<T>,
    /// What is written but not yet published is before this.
    prod: u32,
    /// As last seen.
    cons: u32,
    published: u32,
}

impl<T: RingEntry> Producer<T> {
    /// The producer's side of a ring that may be in use. `None` if the layout is not aligned, the memory too
    /// small, or the number of entries no power of two.
    #[cfg(not(loom))]
    #[must_use]
    pub fn new(memory: Arc<SharedMem>, layout: &RingLayout, entries: u32) -> Option<Self> {
        Some(Self::over(RingMem::new(memory, layout, entries)?))
    }

    fn over(ring: RingMem<T>) -> Self {
        let prod = ring.producer().load(Relaxed);
        let cons = ring.consumer().load(Acquire);
        Self { ring, prod, cons, published: prod }
    }

    /// Number of entries.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.ring.size()
    }

    /// The memory of the ring.
    #[cfg(not(loom))]
    #[must_use]
    pub fn memory(&self) -> &Arc<SharedMem> {
        &self.ring.memory
    }

    /// Free entries as far as known: at most all, and none if the consumer claims to be ahead.
    #[inline]
    fn known_free(&self) -> u32 {
        self.ring.size().saturating_sub(self.prod.wrapping_sub(self.cons))
    }

    /// How many entries can be pushed, `want` at most. The other side is only asked if it matters.
    ///
    /// Kernel: `net/xdp/xsk_queue.h xskq_prod_nb_free, v6.18`
    #[doc(alias = "xskq_prod_nb_free")]
    #[inline]
    pub fn free(&mut self, want: u32) -> u32 {
        let known = self.known_free();
        if known >= want {
            return want;
        }
        self.cons = self.ring.consumer().load(Acquire);
        self.known_free().min(want)
    }

    /// Writes the next entry, which the other side sees after [`Producer::submit`]; `false` if the ring is
    /// full.
    #[inline]
    pub fn push(&mut self, entry: T) -> bool {
        if self.free(1) == 0 {
            return false;
        }
        self.ring.write(self.prod, entry);
        self.prod = self.prod.wrapping_add(1);
        true
    }

    /// Shows everything that was pushed to the other side.
    ///
    /// Kernel: `net/xdp/xsk_queue.h xskq_prod_submit, v6.18`
    #[doc(alias = "xskq_prod_submit")]
    #[inline]
    pub fn submit(&mut self) {
        self.published = self.prod;
        self.ring.producer().store(self.prod, Release);
    }

    /// Shows the first `n` entries of those that were pushed and not yet submitted; all if they are fewer.
    ///
    /// Kernel: `net/xdp/xsk_queue.h xskq_prod_submit_n, v6.18`
    #[doc(alias = "xskq_prod_submit_n")]
    pub fn submit_n(&mut self, n: u32) {
        self.published = self.published.wrapping_add(n.min(self.pending()));
        self.ring.producer().store(self.published, Release);
    }

    /// Takes back the last `n` entries that were pushed and not yet submitted; all if they are fewer.
    ///
    /// Kernel: `net/xdp/xsk_queue.h xskq_prod_cancel_n, v6.18`
    #[doc(alias = "xskq_prod_cancel_n")]
    pub fn cancel_n(&mut self, n: u32) {
        self.prod = self.prod.wrapping_sub(n.min(self.pending()));
    }

    /// Entries that were pushed and not yet submitted.
    #[must_use]
    pub fn pending(&self) -> u32 {
        self.prod.wrapping_sub(self.published)
    }

    /// Whether the other side has taken everything that was submitted, as far as the memory says.
    ///
    /// Kernel: `net/xdp/xsk_queue.h xskq_prod_is_empty, v6.18`
    #[doc(alias = "xskq_prod_is_empty")]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ring.consumer().load(Relaxed) == self.published
    }

    /// Entries that were submitted and not yet taken, as far as the memory says; at most all.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.published.wrapping_sub(self.ring.consumer().load(Relaxed)).min(self.ring.size())
    }

    /// Whether the consumer sleeps until it is woken.
    #[doc(alias = "xsk_ring_prod__needs_wakeup")]
    #[must_use]
    #[inline]
    pub fn needs_wakeup(&self) -> bool {
        self.ring.flags().load(Relaxed) & XDP_RING_NEED_WAKEUP != 0
    }
}

/// The side that takes entries out.
#[derive(Debug)]
pub struct Consumer<T> {
    ring: RingMem<T>,
    cons: u32,
    /// As last seen.
    prod: u32,
    published: u32,
}

impl<T: RingEntry> Consumer<T> {
    /// The consumer's side of a ring that may be in use. `None` as for [`Producer::new`].
    #[cfg(not(loom))]
    #[must_use]
    pub fn new(memory: Arc<SharedMem>, layout: &RingLayout, entries: u32) -> Option<Self> {
        Some(Self::over(RingMem::new(memory, layout, entries)?))
    }

    fn over(ring: RingMem<T>) -> Self {
        let cons = ring.consumer().load(Relaxed);
        Self { ring, cons, prod: cons, published: cons }
    }

    /// Number of entries.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.ring.size()
    }

    /// The memory of the ring.
    #[cfg(not(loom))]
    #[must_use]
    pub fn memory(&self) -> &Arc<SharedMem> {
        &self.ring.memory
    }

    /// Entries that are known to wait: at most all, whatever the producer claims.
    #[inline]
    #[must_use]
    pub fn known(&self) -> u32 {
        self.prod.wrapping_sub(self.cons).min(self.ring.size())
    }

    /// Entries that the producer claimed when last asked, even if they are more than the ring has.
    #[must_use]
    pub fn claimed(&self) -> u32 {
        self.prod.wrapping_sub(self.cons)
    }

    /// Index of the next entry, running.
    #[must_use]
    pub fn position(&self) -> u32 {
        self.cons
    }

    /// How many entries can be read, `want` at most. The other side is only asked if it matters.
    ///
    /// Kernel: `net/xdp/xsk_queue.h xskq_cons_nb_entries, v6.18`
    #[doc(alias = "xskq_cons_nb_entries")]
    #[inline]
    pub fn available(&mut self, want: u32) -> u32 {
        let known = self.known();
        if known >= want {
            return want;
        }
        self.prod = self.ring.producer().load(Acquire);
        self.known().min(want)
    }

    /// The next entry, without taking it. If none is known to wait, what was taken is published first.
    ///
    /// Kernel: `net/xdp/xsk_queue.h xskq_cons_peek_desc, v6.18`
    #[doc(alias = "xskq_cons_peek_desc")]
    #[inline]
    pub fn peek(&mut self) -> Option<T> {
        if self.prod == self.cons {
            self.release();
            self.prod = self.ring.producer().load(Acquire);
        }
        (self.prod != self.cons).then(|| self.ring.read(self.cons))
    }

    /// The entry `ahead` of the next. It is read from memory now; call this once for each.
    #[inline]
    #[must_use]
    pub fn read(&self, ahead: u32) -> Option<T> {
        (ahead < self.known()).then(|| self.ring.read(self.cons.wrapping_add(ahead)))
    }

    /// Takes the next `n` entries, as many as are known at most. The other side sees it after
    /// [`Consumer::release`].
    ///
    /// Kernel: `net/xdp/xsk_queue.h xskq_cons_release_n, v6.18`
    #[inline]
    pub fn take(&mut self, n: u32) {
        self.cons = self.cons.wrapping_add(n.min(self.known()));
    }

    /// Puts the last `n` entries that were taken and not yet released back; all if they are fewer.
    ///
    /// Kernel: `net/xdp/xsk_queue.h xskq_cons_cancel_n, v6.18`
    #[doc(alias = "xskq_cons_cancel_n")]
    pub fn cancel_n(&mut self, n: u32) {
        self.cons = self.cons.wrapping_sub(n.min(self.cons.wrapping_sub(self.published)));
    }

    /// Reads the next entry and takes it.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.available(1) == 0 {
            return None;
        }
        let entry = self.ring.read(self.cons);
        self.cons = self.cons.wrapping_add(1);
        Some(entry)
    }

    /// Gives the places of everything that was taken back to the other side.
    ///
    /// Kernel: `net/xdp/xsk_queue.h __xskq_cons_release, v6.18`
    #[doc(alias = "__xskq_cons_release")]
    #[inline]
    pub fn release(&mut self) {
        self.published = self.cons;
        self.ring.consumer().store(self.cons, Release);
    }

    /// Entries that wait as the memory says now, those not released included; at most all.
    ///
    /// Kernel: `net/xdp/xsk_queue.h xskq_cons_present_entries, v6.18`
    #[doc(alias = "xskq_cons_present_entries")]
    #[must_use]
    pub fn present(&self) -> u32 {
        self.ring.producer().load(Relaxed).wrapping_sub(self.published).min(self.ring.size())
    }

    /// Tells the producer whether this side sleeps until it is woken.
    #[doc(alias = "xsk_set_rx_need_wakeup")]
    pub fn set_need_wakeup(&self, on: bool) {
        self.ring.flags().store(if on { XDP_RING_NEED_WAKEUP } else { 0 }, Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
