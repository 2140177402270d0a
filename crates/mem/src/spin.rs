//! [`SpinLock`] and [`CachePadded`]: short critical sections, one cache line apart.
// UNSAFETY: a lock hands out exclusive access to what it protects.
#![allow(unsafe_code)]

use crate::sync::atomic::{AtomicBool, Ordering::*};
use crate::sync::{UnsafeCell, give_way, relax};

/// Something on cache lines of its own. Two lines, because processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct CachePadded<T>(pub T);

impl<T> std::ops::Deref for CachePadded<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// A lock for sections of some tens of nanoseconds, as the kernel's `raw_spinlock_t`.
///
/// Unlocking is a plain store, which is why it is not `std::sync::Mutex`: map updates take two locks
/// and nearly never wait. A thread that does wait for long gives its processor away.
#[derive(Debug, Default)]
pub struct SpinLock<T> {
    locked: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `with` gives access to one thread at a time, so the value moves between threads but is
// never shared by them.
unsafe impl<T: Send> Sync for SpinLock<T> {}

struct Unlock<'a>(&'a AtomicBool);

impl Drop for Unlock<'_> {
    fn drop(&mut self) {
        self.0.store(false, Release);
    }
}

impl<T> SpinLock<T> {
    /// An unlocked lock.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self { locked: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Runs `f` while no other thread does. Must not be nested in itself.
    #[inline]
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        if self.locked.compare_exchange(false, true, Acquire, Relaxed).is_err() {
            self.wait();
        }
        let _unlock = Unlock(&self.locked);
        // SAFETY: `locked` went from false to true in this thread, and is set back only when
        // `_unlock` is dropped, after `f`; so the reference is the only one.
        self.value.with_mut(|p| f(unsafe { &mut *p }))
    }

    /// As [`SpinLock::with`], but `None` at once if another thread is in.
    #[inline]
    pub fn try_with<R>(&self, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.locked.compare_exchange(false, true, Acquire, Relaxed).ok()?;
        let _unlock = Unlock(&self.locked);
        // SAFETY: as in `with`.
        Some(self.value.with_mut(|p| f(unsafe { &mut *p })))
    }

    #[cold]
    fn wait(&self) {
        spin_until(|| {
            !self.locked.load(Relaxed) && self.locked.compare_exchange(false, true, Acquire, Relaxed).is_ok()
        });
    }
}

/// Tries until it succeeds; gives the processor away now and then.
pub(crate) fn spin_until(mut attempt: impl FnMut() -> bool) {
    let mut turns = 0_u32;
    while !attempt() {
        turns += 1;
        if turns.is_multiple_of(128) { give_way() } else { relax() }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn increments_of_four_threads_are_all_counted() {
        const ROUNDS: u32 = if cfg!(miri) { 50 } else { 1000 };
        let lock = SpinLock::new(0_u32);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| (0..ROUNDS).for_each(|_| lock.with(|n| *n += 1)));
            }
        });
        assert_eq!(lock.with(|n| *n), 4 * ROUNDS);
    }

    #[test]
    fn a_panic_inside_leaves_the_lock_free() {
        let lock = SpinLock::new(0_u32);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lock.with(|_| panic!("x"))));
        assert!(caught.is_err());
        assert_eq!(lock.try_with(|n| *n), Some(0));
    }
}
