//! [`HashIndex`]: from hashes to element numbers, one cache line a bucket, read without locks.
// UNSAFETY: says that a bucket of zeroes is an empty bucket.
#![allow(unsafe_code)]

use crate::slab::prefetch;
use crate::spin::{SpinLock, spin_until};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering::*, fence};
use crate::zeroed::{ZeroIsValid, zeroed};

/// Entries of a bucket.
pub const BUCKET_ENTRIES: usize = 8;

/// Entries per bucket that the number of buckets is chosen for: between half of it and all of it in a full
/// map. Then 2 of 100 buckets overflow at most.
const TARGET_LOAD: usize = 4;

/// One cache line: eight tags, eight element numbers, and a way on.
///
/// A tag is 16 bits of the hash, 0 for an empty entry, so a reader compares eight entries in two steps of 64
/// bits (compiled programs in one of 128) and looks at one element in nearly all cases.
#[derive(Debug, Default)]
#[repr(C, align(64))]
struct Bucket {
    tags: [AtomicU64; 2],
    elems: [AtomicU32; BUCKET_ENTRIES],
    /// Position of the overflow bucket, 0 for none.
    next: AtomicU32,
    /// First bucket of a chain only: 1 while a writer is in.
    lock: AtomicU32,
    /// First bucket of a chain only: counts entries that changed their place.
    moves: AtomicU32,
    unused: AtomicU32,
}

// SAFETY: made of atomics, for which zero is a value.
unsafe impl ZeroIsValid for Bucket {}

/// A concurrent multimap from 64-bit hashes to element numbers. What an element is, and whether it is the
/// one that is looked for, the caller knows.
///
/// Readers take no lock and write nothing. Writers lock the chain of one bucket. An entry stays where it is
/// until it is removed, but for this: when an entry of a chain with overflow buckets is removed, the last
/// one takes its place, so that no overflow bucket is wasted. Iteration goes backwards through a chain and
/// so never misses an entry because another one was removed.
pub struct HashIndex {
    /// `main` buckets, then overflow buckets.
    buckets: Box<[Bucket]>,
    main: usize,
    overflow: SpinLock<Overflow>,
}

#[derive(Debug)]
struct Overflow {
    free: Vec<u32>,
    fresh: u32,
}

/// How compiled programs find an entry: see [`HashIndex::find`], which does the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexLayout {
    /// Host address of bucket 0.
    pub base: u64,
    /// `hash & mask` is the bucket.
    pub mask: u64,
}

impl IndexLayout {
    /// Bytes of a bucket.
    pub const STRIDE: usize = size_of::<Bucket>();
    /// Offset of the eight 16-bit tags, bytes.
    pub const OFF_TAGS: usize = std::mem::offset_of!(Bucket, tags);
    /// Offset of the eight 32-bit element numbers, bytes.
    pub const OFF_ELEMS: usize = std::mem::offset_of!(Bucket, elems);
    /// Offset of the 32-bit position of the overflow bucket, bytes; 0 for none.
    pub const OFF_NEXT: usize = std::mem::offset_of!(Bucket, next);
    /// Offset of the 32-bit count of moves in the first bucket of a chain, bytes.
    pub const OFF_MOVES: usize = std::mem::offset_of!(Bucket, moves);
    /// The tag of a hash is `(hash >> TAG_SHIFT) | 1`.
    pub const TAG_SHIFT: u32 = 48;
}

/// The tag of a hash; never 0.
#[inline]
const fn tag_of(hash: u64) -> u64 {
    (hash >> IndexLayout::TAG_SHIFT) | 1
}

const LANES: u64 = 0x0001_0001_0001_0001;

/// The highest bit of each 16-bit lane that is 0, and perhaps of lanes above one that is 0.
#[inline]
const fn zero_lanes(x: u64) -> u64 {
    x.wrapping_sub(LANES) & !x & (LANES << 15)
}

impl HashIndex {
    /// An index for up to `capacity` entries; `None` if there is not that much memory.
    #[must_use]
    pub fn new(capacity: u32) -> Option<Self> {
        let main = (capacity as usize).div_ceil(TARGET_LOAD).next_power_of_two();
        // Every overflow bucket but the last of a chain is full, and its first bucket is full too: there
        // are never more than one for eight entries. Some more for chains that are being changed.
        let spill = capacity as usize / BUCKET_ENTRIES + 8;
        let fresh = u32::try_from(main).ok()?;
        u32::try_from(main + spill).ok()?;
        let overflow = SpinLock::new(Overflow { free: Vec::new(), fresh });
        Some(Self { buckets: zeroed(main + spill)?, main, overflow })
    }

    /// Number of chains.
    #[must_use]
    pub fn chains(&self) -> u32 {
        self.main as u32
    }

    /// Where compiled programs look.
    #[must_use]
    pub fn layout(&self) -> IndexLayout {
        IndexLayout { base: self.buckets.as_ptr() as u64, mask: self.main as u64 - 1 }
    }

    /// Whether a chain has no entries now.
    ///
    /// # Panics
    ///
    /// If there is no such chain.
    #[must_use]
    pub fn is_chain_empty(&self, chain: u32) -> bool {
        assert!((chain as usize) < self.main, "chain {chain} of {}", self.main);
        let head = &self.buckets[chain as usize];
        head.next.load(Relaxed) == 0 && head.tags.iter().all(|t| t.load(Relaxed) == 0)
    }

    #[inline]
    fn head(&self, hash: u64) -> &Bucket {
        &self.buckets[hash as usize & (self.main - 1)]
    }

    /// Asks the processor to fetch the bucket of a hash.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch(std::ptr::from_ref(self.head(hash)).cast());
    }

    /// The first element that may be the one of a hash, to prefetch it.
    #[inline]
    pub fn candidate(&self, hash: u64) -> Option<u32> {
        let bucket = self.head(hash);
        let pattern = tag_of(hash).wrapping_mul(LANES);
        (0..2).find_map(|half| {
            let hits = zero_lanes(bucket.tags[half].load(Relaxed) ^ pattern);
            (hits != 0).then(|| bucket.elems[half * 4 + hits.trailing_zeros() as usize / 16].load(Relaxed))
        })
    }

    /// The element of this hash for which `is_key` holds. `is_key` must be able to judge any element.
    ///
    /// An element that is in the index all the time is found, whatever writers do at the same time.
    #[inline]
    pub fn find(&self, hash: u64, mut is_key: impl FnMut(u32) -> bool) -> Option<u32> {
        let head = self.head(hash);
        let pattern = tag_of(hash).wrapping_mul(LANES);
        loop {
            let moves = head.moves.load(Acquire);
            if let Some(elem) = head.find(pattern, &mut is_key) {
                return Some(elem);
            }
            let next = head.next.load(Acquire);
            if next != 0
                && let Some(elem) = self.find_overflow(next, pattern, &mut is_key)
            {
                return Some(elem);
            }
            fence(Acquire);
            if head.moves.load(Relaxed) == moves {
                return None;
            }
        }
    }

    #[cold]
    fn find_overflow(&self, mut at: u32, pattern: u64, is_key: &mut impl FnMut(u32) -> bool) -> Option<u32> {
        // A bucket may leave the chain and join another one under our feet. Then the count of moves has
        // changed, and the caller looks again; here it only has to end.
        for _ in self.main..self.buckets.len() {
            let bucket = &self.buckets[at as usize];
            if let Some(elem) = bucket.find(pattern, is_key) {
                return Some(elem);
            }
            at = bucket.next.load(Acquire);
            if at == 0 {
                break;
            }
        }
        None
    }

    /// Locks the chain of a hash. A thread holds one chain at a time.
    #[inline]
    pub fn lock(&self, hash: u64) -> Chain<'_> {
        self.lock_chain((hash as usize & (self.main - 1)) as u32)
    }

    /// Locks a chain by its number.
    ///
    /// # Panics
    ///
    /// If there is no such chain.
    #[inline]
    pub fn lock_chain(&self, chain: u32) -> Chain<'_> {
        assert!((chain as usize) < self.main, "chain {chain} of {}", self.main);
        let head = &self.buckets[chain as usize];
        if head.lock.compare_exchange(0, 1, Acquire, Relaxed).is_err() {
            spin_until(|| {
                head.lock.load(Relaxed) == 0 && head.lock.compare_exchange(0, 1, Acquire, Relaxed).is_ok()
            });
        }
        Chain { index: self, head }
    }
}

/// Where an entry is, while its chain is locked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    bucket: u32,
    slot: usize,
}

/// A locked chain; unlocked when dropped.
pub struct Chain<'i> {
    index: &'i HashIndex,
    head: &'i Bucket,
}

impl Drop for Chain<'_> {
    fn drop(&mut self) {
        self.head.lock.store(0, Release);
    }
}

impl Chain<'_> {
    #[inline]
    fn number(&self) -> u32 {
        // The head is an element of the array, so the distance is a small multiple of the size.
        let distance = std::ptr::from_ref(self.head) as usize - self.index.buckets.as_ptr() as usize;
        (distance / size_of::<Bucket>()) as u32
    }

    #[inline]
    fn bucket(&self, at: u32) -> &Bucket {
        &self.index.buckets[at as usize]
    }

    /// Positions of the chain's buckets, first to last.
    #[inline]
    fn buckets(&self) -> impl Iterator<Item = u32> + '_ {
        std::iter::successors(Some(self.number()), |at| {
            Some(self.bucket(*at).next.load(Relaxed)).filter(|n| *n != 0)
        })
    }

    /// The entry of a hash for which `is_key` holds.
    #[inline(always)]
    pub fn find(&self, hash: u64, mut is_key: impl FnMut(u32) -> bool) -> Option<(Position, u32)> {
        let pattern = tag_of(hash).wrapping_mul(LANES);
        self.buckets().find_map(|at| {
            let bucket = self.bucket(at);
            (0..2).find_map(|half| {
                let mut hits = zero_lanes(bucket.tags[half].load(Relaxed) ^ pattern);
                while hits != 0 {
                    let slot = half * 4 + hits.trailing_zeros() as usize / 16;
                    let elem = bucket.elems[slot].load(Relaxed);
                    // A lane above an equal one may look equal too.
                    if bucket.tag(slot) == tag_of(hash) && is_key(elem) {
                        return Some((Position { bucket: at, slot }, elem));
                    }
                    hits &= hits - 1;
                }
                None
            })
        })
    }

    /// Adds an entry. The element must be ready to be read.
    ///
    /// # Panics
    ///
    /// If there are more entries than the index was made for.
    #[inline]
    pub fn insert(&self, hash: u64, elem: u32) {
        let mut last = 0;
        for at in self.buckets() {
            let bucket = self.bucket(at);
            if let Some(slot) = bucket.empty_slot() {
                return bucket.fill(slot, tag_of(hash), elem);
            }
            last = at;
        }
        let fresh = self.index.overflow.with(Overflow::take);
        let bucket = &self.index.buckets[fresh as usize];
        bucket.next.store(0, Relaxed);
        bucket.fill(0, tag_of(hash), elem);
        self.bucket(last).next.store(fresh, Release);
    }

    /// Puts another element in the place of one, as seen by readers in one step.
    #[inline]
    pub fn replace(&self, at: Position, elem: u32) {
        self.bucket(at.bucket).elems[at.slot].store(elem, Release);
    }

    /// Removes an entry.
    #[inline]
    pub fn remove(&self, at: Position) {
        if self.head.next.load(Relaxed) == 0 {
            return self.bucket(at.bucket).set_tag(at.slot, 0);
        }
        self.remove_from_long(at);
    }

    fn remove_from_long(&self, at: Position) {
        let (mut before, mut tail) = (0, 0);
        for b in self.buckets() {
            (before, tail) = (tail, b);
        }
        let last = self.bucket(tail);
        let slot = (0..BUCKET_ENTRIES).rev().find(|s| last.tag(*s) != 0).unwrap_or(0);
        if (at.bucket, at.slot) != (tail, slot) {
            self.bucket(at.bucket).fill(at.slot, last.tag(slot), last.elems[slot].load(Relaxed));
        }
        // Before the last entry goes, after its copy is there: a reader that sees neither sees this.
        self.head.moves.store(self.head.moves.load(Relaxed).wrapping_add(1), Release);
        last.set_tag(slot, 0);
        if tail != self.number() && (0..BUCKET_ENTRIES).all(|s| last.tag(s) == 0) {
            self.bucket(before).next.store(0, Release);
            self.index.overflow.with(|o| o.free.push(tail));
        }
    }

    /// Appends all elements in the order of iteration, which is stable against removals.
    pub fn elements(&self, out: &mut Vec<u32>) {
        let start = out.len();
        for at in self.buckets() {
            let bucket = self.bucket(at);
            let used = (0..BUCKET_ENTRIES).filter(|slot| bucket.tag(*slot) != 0);
            out.extend(used.map(|slot| bucket.elems[slot].load(Relaxed)));
        }
        out[start..].reverse();
    }
}

impl Overflow {
    fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.fresh += 1;
            self.fresh - 1
        })
    }
}

impl Bucket {
    #[inline]
    fn find(&self, pattern: u64, is_key: &mut impl FnMut(u32) -> bool) -> Option<u32> {
        for half in 0..2 {
            let mut hits = zero_lanes(self.tags[half].load(Acquire) ^ pattern);
            while hits != 0 {
                let entry = &self.elems[half * 4 + hits.trailing_zeros() as usize / 16];
                let elem = entry.load(Acquire);
                if is_key(elem) {
                    return Some(elem);
                }
                fence(Acquire);
                // Unless the element was replaced, and has been given out for another key since.
                if entry.load(Relaxed) == elem {
                    hits &= hits - 1;
                }
            }
        }
        None
    }

    /// The first slot without an entry.
    #[inline]
    fn empty_slot(&self) -> Option<usize> {
        (0..2).find_map(|half| {
            let empty = zero_lanes(self.tags[half].load(Relaxed));
            (empty != 0).then(|| half * 4 + empty.trailing_zeros() as usize / 16)
        })
    }

    #[inline]
    fn tag(&self, slot: usize) -> u64 {
        (self.tags[slot / 4].load(Relaxed) >> (slot % 4 * 16)) & 0xffff
    }

    #[inline]
    fn set_tag(&self, slot: usize, tag: u64) {
        let word = &self.tags[slot / 4];
        let shift = slot % 4 * 16;
        // Only the holder of the chain's lock writes.
        word.store((word.load(Relaxed) & !(0xffff << shift)) | (tag << shift), Release);
    }

    #[inline]
    fn fill(&self, slot: usize, tag: u64, elem: u32) {
        self.elems[slot].store(elem, Release);
        self.set_tag(slot, tag);
    }
}

impl std::fmt::Debug for HashIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HashIndex({} chains)", self.main)
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
