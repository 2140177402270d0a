//! [`RcuArray`]: slots that hold shared objects; readers take no lock and no reference count.
// UNSAFETY: a slot is a raw pointer that counts as one reference of an `Arc`.
#![allow(unsafe_code)]

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering::*};

use crate::epoch::{Guard, defer_drop};
use crate::zeroed::zeroed;

/// A fixed number of slots, each empty or holding an `Arc<T>`.
///
/// Map-in-map, program arrays and the redirect maps are arrays of this kind. What is taken out is dropped
/// after the readers of its time.
///
/// Kernel: `include/linux/rcupdate.h rcu_dereference, rcu_assign_pointer, v6.18`
#[doc(alias = "rcu_dereference")]
pub struct RcuArray<T: Send + Sync + 'static> {
    slots: Box<[AtomicPtr<T>]>,
}

impl<T: Send + Sync + 'static> RcuArray<T> {
    /// Empty slots; `None` if there is not that much memory.
    #[must_use]
    pub fn new(len: usize) -> Option<Self> {
        Some(Self { slots: zeroed(len)? })
    }

    /// Number of slots.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are no slots at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Host address of slot 0, for compiled programs: an array of pointers, null where empty.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.slots.as_ptr() as u64
    }

    /// What a slot holds; `None` if it is empty or if there is no such slot.
    #[must_use]
    #[inline]
    pub fn get<'g>(&'g self, index: usize, _guard: &'g Guard<'static>) -> Option<&'g T> {
        let p = self.slots.get(index)?.load(Acquire);
        // SAFETY: null, or from `Arc::into_raw` in `swap`. The slot's reference is given up only after all
        // guards that could see the pointer are gone, and a guard of the process's only public domain is
        // borrowed for `'g`.
        unsafe { p.as_ref() }
    }

    /// As [`RcuArray::get`], with a reference of its own.
    #[must_use]
    pub fn get_arc(&self, index: usize, guard: &Guard<'static>) -> Option<Arc<T>> {
        let p = ptr::from_ref(self.get(index, guard)?);
        // SAFETY: `p` is from `Arc::into_raw`, and the slot's reference lives while `guard` does.
        unsafe { Arc::increment_strong_count(p) };
        // SAFETY: the reference just counted.
        Some(unsafe { Arc::from_raw(p) })
    }

    /// Puts something into a slot, or empties it; answers what was there.
    ///
    /// # Panics
    ///
    /// If there is no such slot.
    pub fn swap(&self, index: usize, new: Option<Arc<T>>) -> Option<Arc<T>> {
        let new = new.map_or(ptr::null_mut(), |a| Arc::into_raw(a).cast_mut());
        // SAFETY: null, or the reference that an earlier `swap` put there.
        let old = unsafe { take(self.slots[index].swap(new, AcqRel)) };
        old.inspect(|old| defer_drop(old.clone()))
    }

    /// Empties a slot if it holds exactly this object; answers whether it did.
    ///
    /// # Panics
    ///
    /// If there is no such slot.
    pub fn remove(&self, index: usize, what: &Arc<T>) -> bool {
        let p = Arc::as_ptr(what).cast_mut();
        let removed = self.slots[index].compare_exchange(p, ptr::null_mut(), AcqRel, Acquire).is_ok();
        if removed {
            // SAFETY: the slot held this pointer, so its reference is ours now.
            defer_drop(unsafe { take(p) });
        }
        removed
    }
}

/// # Safety
///
/// `p` must be null or carry one reference of an `Arc`, which the caller gives up.
unsafe fn take<T>(p: *mut T) -> Option<Arc<T>> {
    // SAFETY: the caller's promise.
    (!p.is_null()).then(|| unsafe { Arc::from_raw(p) })
}

impl<T: Send + Sync + 'static> Drop for RcuArray<T> {
    fn drop(&mut self) {
        for slot in &self.slots {
            // SAFETY: null or the reference of an earlier `swap`; readers borrow the array, so there are none.
            drop(unsafe { take(slot.load(Acquire)) });
        }
    }
}

impl<T: Send + Sync + 'static> std::fmt::Debug for RcuArray<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RcuArray({} slots)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::{pin, synchronize};

    #[test]
    fn a_reader_keeps_what_it_found() {
        let array = RcuArray::new(2).unwrap();
        let first = Arc::new(1);
        assert!(array.swap(1, Some(first.clone())).is_none());
        let guard = pin();
        let found = array.get(1, &guard).unwrap();
        assert_eq!(array.swap(1, Some(Arc::new(2))).as_deref(), Some(&1));
        assert_eq!((*found, array.get(1, &guard)), (1, Some(&2)));
        assert!(Arc::strong_count(&first) > 1);
        drop(guard);
        synchronize();
        assert_eq!(Arc::strong_count(&first), 1);
    }

    #[test]
    fn only_the_very_object_is_removed() {
        let array = RcuArray::new(1).unwrap();
        let (a, b) = (Arc::new(1), Arc::new(1));
        array.swap(0, Some(a.clone()));
        assert!(!array.remove(0, &b));
        assert!(array.remove(0, &a));
        assert!(array.get(0, &pin()).is_none());
        assert!(array.get(1, &pin()).is_none());
    }
}
