//! [`Frame`]: the memory that one buffer of a packet lives in.
// UNSAFETY: owns a raw allocation whose address compiled programs use.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use crate::SharedSlice;

/// A stretch of memory that starts on a cache line, owned by whoever holds it.
///
/// Not on a page: packets start at the same offset of their frames, and in pages all of these would compete for
/// the same few places of the first-level cache.
pub struct Frame {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory is owned; nothing about it belongs to one thread.
unsafe impl Send for Frame {}
// SAFETY: access through a shared reference is by `SharedSlice` alone, which is atomic.
unsafe impl Sync for Frame {}

impl Frame {
    /// The usual size, bytes.
    pub const PAGE_SIZE: usize = 4096;
    /// Alignment: a cache line, bytes.
    const ALIGN: usize = 64;

    /// A zeroed frame.
    ///
    /// # Panics
    ///
    /// If `len` is 0 or larger than `isize::MAX` less a page.
    #[must_use]
    pub fn new(len: usize) -> Self {
        assert!(len > 0, "a frame has at least one byte");
        let layout = Self::layout(len);
        // SAFETY: the layout is not of size 0.
        let ptr = unsafe { alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(ptr) else { handle_alloc_error(layout) };
        Self { ptr, len }
    }

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len, Self::ALIGN).expect("a frame's size fits the address space")
    }

    /// Size, bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Never: a frame has at least one byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// All of its bytes.
    #[must_use]
    pub fn bytes(&self) -> SharedSlice<'_> {
        // SAFETY: the allocation lives as long as `self`, and this view is the only way to its bytes.
        unsafe { SharedSlice::from_raw(self.ptr, self.len) }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout, freed once.
        unsafe { dealloc(self.ptr.as_ptr(), Self::layout(self.len)) }
    }
}
