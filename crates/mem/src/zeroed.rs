//! Large arrays of atomics that start as zeroes.
// UNSAFETY: takes zeroed memory for initialised values.
#![allow(unsafe_code)]

#[cfg(not(loom))]
use std::alloc::Layout;
#[cfg(not(loom))]
use std::ptr::{NonNull, slice_from_raw_parts_mut};
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64};

/// A type for which all bits zero is a value.
///
/// # Safety
///
/// It must be.
#[cfg_attr(loom, allow(dead_code))]
pub(crate) unsafe trait ZeroIsValid {}

// SAFETY: zero is a number.
unsafe impl ZeroIsValid for AtomicU8 {}
// SAFETY: zero is a number.
unsafe impl ZeroIsValid for AtomicU32 {}
// SAFETY: zero is a number.
unsafe impl ZeroIsValid for AtomicU64 {}

// SAFETY: zero is the null pointer.
unsafe impl<T> ZeroIsValid for AtomicPtr<T> {}

/// `len` zeroes; `None` if there is not that much memory. A model's atomics must be made one by one.
#[cfg(loom)]
pub(crate) fn zeroed<T: Default>(len: usize) -> Option<Box<[T]>> {
    Some((0..len).map(|_| T::default()).collect())
}

/// `len` zeroes; `None` if there is not that much memory.
#[cfg(not(loom))]
pub(crate) fn zeroed<T: ZeroIsValid>(len: usize) -> Option<Box<[T]>> {
    let layout = Layout::array::<T>(len).ok()?;
    if layout.size() == 0 {
        return Some(Box::default());
    }
    // SAFETY: the layout is not of size 0.
    let ptr = NonNull::new(unsafe { crate::slab::zeroed_bytes(layout) })?;
    let slice = slice_from_raw_parts_mut(ptr.as_ptr().cast::<T>(), len);
    // SAFETY: allocated by the global allocator with the layout of `[T; len]`, and zero is a value of `T`.
    Some(unsafe { Box::from_raw(slice) })
}

/// `len` atomics of 64 bits, all 0; `None` if there is not that much memory.
#[must_use]
pub fn zeroed_u64(len: usize) -> Option<Box<[AtomicU64]>> {
    zeroed(len)
}

/// `len` atomics of 32 bits, all 0; `None` if there is not that much memory.
#[must_use]
pub fn zeroed_u32(len: usize) -> Option<Box<[AtomicU32]>> {
    zeroed(len)
}

/// `len` atomics of 8 bits, all 0; `None` if there is not that much memory.
#[must_use]
pub fn zeroed_u8(len: usize) -> Option<Box<[AtomicU8]>> {
    zeroed(len)
}
