//! Epochs: the stand-in for RCU. [`pin`] is `rcu_read_lock`, a [`Guard`] is the read-side section,
//! [`defer_drop`] is `kfree_rcu`, and [`Stamp`] lets [`crate::ElementPool`] do the same for map elements.
//!
//! A reader writes the current epoch into a slot of its own and clears it when done; what was taken out
//! of sight in epoch `e` may be reused once no slot holds `e` or less. A NAPI poll or one test run is one
//! guard, so the fence that a pin needs is paid once per batch of packets, and a lookup costs nothing.
//!
//! There is one domain per process, as there is one RCU per kernel: then a guard is good for every map and
//! no lookup has to check that map and guard belong together. Nothing that a program can see depends on
//! when something is freed.
// UNSAFETY: slots live in chunks that are linked by raw pointers and never freed while readers exist.
#![allow(unsafe_code)]

use std::ptr;

use crate::spin::SpinLock;
use crate::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering::*, fence};
use crate::{CachePadded, sync::relax};

/// Readers per chunk. The chunk list grows to the largest number of guards alive at once.
#[cfg(not(loom))]
const SLOTS: usize = 32;
#[cfg(loom)]
const SLOTS: usize = 2;

/// A slot that no reader holds.
const IDLE: u64 = 0;

struct Chunk {
    slots: [CachePadded<AtomicU64>; SLOTS],
    next: AtomicPtr<Chunk>,
}

impl Chunk {
    fn new() -> Self {
        Self {
            slots: std::array::from_fn(|_| CachePadded(AtomicU64::new(IDLE))),
            next: AtomicPtr::new(ptr::null_mut()),
        }
    }
}

/// Something whose drop waits for the readers of its time.
type Garbage = (Stamp, Box<dyn Send>);

/// A set of readers and the epoch that they share. There is one, see [`domain`].
pub struct Domain {
    epoch: CachePadded<AtomicU64>,
    first: Chunk,
    garbage: SpinLock<Vec<Garbage>>,
    /// Whether there is garbage, to be asked without the lock.
    waiting: AtomicBool,
}

/// A moment after which something was out of sight for new readers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Stamp(u64);

/// A read-side section: what a lookup found stays as it was until the guard is dropped.
///
/// Kernel: `include/linux/rcupdate.h rcu_read_lock, v6.18`
#[doc(alias = "rcu_read_lock")]
#[must_use]
pub struct Guard<'d> {
    domain: &'d Domain,
    slot: &'d AtomicU64,
}

impl Domain {
    /// A domain without readers. Not public: that every `Guard<'static>` is of the process's domain is what
    /// makes [`crate::RcuArray`] sound.
    pub(crate) fn new() -> Self {
        Self {
            epoch: CachePadded(AtomicU64::new(1)),
            first: Chunk::new(),
            garbage: SpinLock::new(Vec::new()),
            waiting: AtomicBool::new(false),
        }
    }

    /// Starts a read-side section. Sections may nest and overlap freely; never waits.
    pub fn pin(&self) -> Guard<'_> {
        let mut chunk = &self.first;
        loop {
            let start = hint();
            for i in 0..SLOTS {
                let slot = &chunk.slots[(start + i) % SLOTS].0;
                let epoch = self.epoch.load(Relaxed);
                if slot.load(Relaxed) == IDLE && slot.compare_exchange(IDLE, epoch, Relaxed, Relaxed).is_ok()
                {
                    // Orders the slot before all reads of the section. Either the fence of a scan sees the
                    // slot, or this section sees everything that was taken out of sight before that scan.
                    fence(SeqCst);
                    return Guard { domain: self, slot };
                }
            }
            chunk = chunk.next_or_grow();
        }
    }

    /// The stamp for everything that this thread took out of sight so far (and that others did before they
    /// handed it to this thread).
    pub fn stamp(&self) -> Stamp {
        fence(SeqCst);
        Stamp(self.epoch.load(Relaxed))
    }

    /// All stamps smaller than this one are over: no reader of their time is left. Also starts a new epoch,
    /// so that what is stamped from now on can be told from what was stamped before.
    pub fn oldest(&self) -> Stamp {
        let now = self.epoch.fetch_add(1, SeqCst) + 1;
        fence(SeqCst);
        let mut oldest = now;
        let mut chunk = Some(&self.first);
        while let Some(c) = chunk {
            for slot in &c.slots {
                let e = slot.load(Acquire);
                if e != IDLE {
                    oldest = oldest.min(e);
                }
            }
            chunk = c.next();
        }
        fence(Acquire);
        Stamp(oldest)
    }

    /// Drops `garbage` when all readers of now are done: in a later call of [`Domain::collect`], never here,
    /// so that the caller may hold locks. For what user space changes, which is not often; programs retire
    /// elements of maps instead.
    ///
    /// Kernel: `include/linux/rcupdate.h call_rcu, v6.18`
    #[doc(alias = "call_rcu")]
    pub fn defer_drop<T: Send + 'static>(&self, garbage: T) {
        let stamp = self.stamp();
        self.garbage.with(|all| {
            all.push((stamp, Box::new(garbage)));
            self.waiting.store(true, Release);
        });
    }

    /// Drops what no reader can see any more; answers how much is left. Nothing of what goes may need a lock
    /// that the caller holds.
    pub fn collect(&self) -> usize {
        if !self.waiting.load(Acquire) {
            return 0;
        }
        let oldest = self.oldest();
        let over: Vec<Garbage> =
            self.garbage.with(|all| all.extract_if(.., |(stamp, _)| *stamp < oldest).collect());
        // Outside of the lock: a drop may defer further drops.
        drop(over);
        self.garbage.with(|all| {
            self.waiting.store(!all.is_empty(), Release);
            all.len()
        })
    }

    /// Waits until every section that is open now has ended. Must not be called inside of one.
    ///
    /// Kernel: `kernel/rcu/tree.c synchronize_rcu, v6.18`
    #[doc(alias = "synchronize_rcu")]
    pub fn synchronize(&self) {
        let stamp = self.stamp();
        while self.oldest() <= stamp {
            relax();
        }
        self.collect();
    }
}

impl Chunk {
    fn next(&self) -> Option<&Chunk> {
        // SAFETY: `next` is null or came from `Box::into_raw` in `next_or_grow`, and chunks are freed only
        // with the domain, which the borrow of `self` keeps alive.
        unsafe { self.next.load(Acquire).as_ref() }
    }

    #[cold]
    fn next_or_grow(&self) -> &Chunk {
        if let Some(next) = self.next() {
            return next;
        }
        let fresh = Box::into_raw(Box::new(Chunk::new()));
        match self.next.compare_exchange(ptr::null_mut(), fresh, AcqRel, Acquire) {
            // SAFETY: just linked; freed only with the domain.
            Ok(_) => unsafe { &*fresh },
            Err(theirs) => {
                // SAFETY: `fresh` was made above and nobody else has seen it.
                drop(unsafe { Box::from_raw(fresh) });
                // SAFETY: linked by another thread in the same way.
                unsafe { &*theirs }
            }
        }
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        let mut next = self.first.next.load(Acquire);
        while !next.is_null() {
            // SAFETY: every linked chunk came from `Box::into_raw`, is linked once, and no guard borrows
            // the domain any more.
            let chunk = unsafe { Box::from_raw(next) };
            next = chunk.next.load(Acquire);
        }
    }
}

impl Guard<'_> {
    /// Ends the section and starts another one: a quiescent state. Everything borrowed from the guard is
    /// over, which the exclusive borrow checks.
    pub fn repin(&mut self) {
        self.slot.store(self.domain.epoch.load(Relaxed), Release);
        fence(SeqCst);
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.slot.store(IDLE, Release);
    }
}

impl std::fmt::Debug for Guard<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Guard")
    }
}

impl std::fmt::Debug for Domain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Domain").field("epoch", &self.epoch.load(Relaxed)).finish_non_exhaustive()
    }
}

#[cfg(loom)]
fn hint() -> usize {
    0
}

/// Where this thread looks for a free slot first, so that threads do not meet on one cache line.
#[cfg(not(loom))]
fn hint() -> usize {
    use std::sync::atomic::AtomicUsize;
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static HINT: usize = THREADS.fetch_add(1, Relaxed));
    // A thread that is going away has no hint left; any slot will do.
    HINT.try_with(|h| *h).unwrap_or(0)
}

#[cfg(not(loom))]
mod global {
    use super::{Domain, Guard};
    use std::sync::LazyLock;

    static DOMAIN: LazyLock<Domain> = LazyLock::new(Domain::new);

    /// Starts a read-side section of the process's domain.
    ///
    /// ```
    /// let mut guard = mem::epoch::pin();
    /// // ... one NAPI poll: run programs, look maps up ...
    /// guard.repin(); // between two polls
    /// ```
    pub fn pin() -> Guard<'static> {
        DOMAIN.pin()
    }

    /// Drops `garbage` when all readers of now are done, in a later call of [`collect`].
    pub fn defer_drop<T: Send + 'static>(garbage: T) {
        DOMAIN.defer_drop(garbage);
    }

    /// Drops what no reader can see any more; answers how much is left. The commands of user space call it
    /// when they are done.
    pub fn collect() -> usize {
        DOMAIN.collect()
    }

    /// Waits for all readers of now. Must not be called inside of a section.
    pub fn synchronize() {
        DOMAIN.synchronize();
    }

    /// The process's domain itself, for [`crate::ElementPool`].
    #[must_use]
    pub fn domain() -> &'static Domain {
        &DOMAIN
    }
}

#[cfg(not(loom))]
pub use global::{collect, defer_drop, domain, pin, synchronize};

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn garbage_waits_for_the_readers_of_its_time_only() {
        let (domain, dropped) = (Domain::new(), Arc::new(AtomicUsize::new(0)));
        let before = domain.pin();
        domain.defer_drop(Counted(dropped.clone()));
        domain.collect();
        let after = domain.pin();
        assert_eq!((domain.collect(), dropped.load(Ordering::SeqCst)), (1, 0));
        drop(before);
        assert_eq!((domain.collect(), dropped.load(Ordering::SeqCst)), (0, 1));
        drop(after);
    }

    #[test]
    fn repin_is_a_quiescent_state() {
        let (domain, dropped) = (Domain::new(), Arc::new(AtomicUsize::new(0)));
        let mut guard = domain.pin();
        domain.defer_drop(Counted(dropped.clone()));
        assert_eq!(domain.collect(), 1);
        guard.repin();
        assert_eq!(domain.collect(), 0);
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn more_guards_than_slots_are_fine() {
        let domain = Domain::new();
        let guards: Vec<_> = (0..SLOTS * 3 + 1).map(|_| domain.pin()).collect();
        let stamp = domain.stamp();
        assert!(domain.oldest() <= stamp);
        drop(guards);
        assert!(domain.oldest() > stamp);
    }

    #[test]
    fn a_drop_may_defer_another_drop() {
        struct Nested(Arc<Domain>, Option<Counted>);
        impl Drop for Nested {
            fn drop(&mut self) {
                self.0.defer_drop(self.1.take());
            }
        }
        let (domain, dropped) = (Arc::new(Domain::new()), Arc::new(AtomicUsize::new(0)));
        domain.defer_drop(Nested(domain.clone(), Some(Counted(dropped.clone()))));
        while domain.collect() > 0 {}
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
    }
}
