//! [`Slab`]: one zeroed stretch of memory cut into equal elements, which compiled programs address as
//! `base + index * stride`.
// UNSAFETY: owns a raw allocation whose addresses compiled programs use.
#![allow(unsafe_code)]

#[cfg(all(target_os = "linux", not(miri)))]
use std::alloc::alloc;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use crate::SharedSlice;

/// Memory of a map: `count` elements of `stride` bytes, zeroed, on a cache line boundary.
///
/// The bytes are only reached as [`SharedSlice`], so any number of threads and programs may use them at
/// once.
pub struct Slab {
    ptr: NonNull<u8>,
    stride: usize,
    count: usize,
    layout: Layout,
}

// SAFETY: the memory is owned; nothing about it belongs to one thread.
unsafe impl Send for Slab {}
// SAFETY: access through a shared reference is by `SharedSlice` alone, which is atomic.
unsafe impl Sync for Slab {}

impl Slab {
    /// A slab; `None` if there is not that much memory or if it cannot be addressed.
    #[must_use]
    pub fn new(count: usize, stride: usize, align: usize) -> Option<Self> {
        let bytes = count.checked_mul(stride)?.max(1);
        let layout = Layout::from_size_align(bytes, align.max(64)).ok()?;
        // SAFETY: the layout is not of size 0.
        let ptr = NonNull::new(unsafe { zeroed_bytes(layout) })?;
        // Compiled programs come back with addresses of it.
        let _ = ptr.as_ptr().expose_provenance();
        Some(Self { ptr, stride, count, layout })
    }

    /// Offset of the host address of element 0 in this struct, bytes, for compiled programs.
    pub const OFF_BASE: usize = std::mem::offset_of!(Self, ptr);

    /// Elements.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Bytes from one element to the next.
    #[must_use]
    pub const fn stride(&self) -> usize {
        self.stride
    }

    /// Host address of element 0.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.ptr.addr().get() as u64
    }

    /// One element.
    ///
    /// # Panics
    ///
    /// If there is no such element.
    #[must_use]
    #[inline]
    pub fn slot(&self, index: usize) -> SharedSlice<'_> {
        assert!(index < self.count, "element {index} of {}", self.count);
        // SAFETY: `index < count`, so the element lies within the allocation of `count * stride` bytes,
        // which lives as long as `self`; no reference to its bytes is ever made.
        unsafe { SharedSlice::from_raw(self.ptr.add(index * self.stride), self.stride) }
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> SharedSlice<'_> {
        // SAFETY: as in `slot`, for the whole allocation.
        unsafe { SharedSlice::from_raw(self.ptr, self.count * self.stride) }
    }

    /// Asks the processor to fetch an element.
    #[inline]
    pub fn prefetch(&self, index: usize) {
        prefetch(self.ptr.as_ptr().wrapping_add(index * self.stride));
    }
}

/// Memory from so many bytes on is asked for in large pages, bytes.
#[cfg(all(target_os = "linux", not(miri)))]
const LARGE: usize = 4 << 20;
/// For a larger alignment the global allocator writes the zeroes itself, so here it can be done as well; for others
/// the system supplies zeroed pages when they are first touched.
#[cfg(all(target_os = "linux", not(miri)))]
const MALLOC_ALIGN: usize = 16;

/// Zeroed memory of the global allocator; null if there is not that much. Tables of many megabytes lie in large
/// pages, if the system has some: then a lookup of a random key misses one or two cache lines and no page
/// table.
///
/// # Safety
///
/// The layout must not be of size 0.
pub(crate) unsafe fn zeroed_bytes(layout: Layout) -> *mut u8 {
    #[cfg(all(target_os = "linux", not(miri)))]
    if layout.size() >= LARGE && layout.align() > MALLOC_ALIGN {
        // SAFETY: the caller's promise.
        let ptr = unsafe { alloc(layout) };
        if ptr.is_null() {
            return ptr;
        }
        const PAGE: usize = 4096;
        let skip = ptr.addr().wrapping_neg() % PAGE;
        let len = (layout.size() - skip) / PAGE * PAGE;
        // SAFETY: whole pages of the allocation; the advice changes nothing that can be seen in them, and whether
        // it is taken does not matter.
        let _ = unsafe { libc::madvise(ptr.add(skip).cast(), len, libc::MADV_HUGEPAGE) };
        // SAFETY: just allocated with this size.
        unsafe { ptr.write_bytes(0, layout.size()) };
        return ptr;
    }
    // SAFETY: the caller's promise.
    unsafe { alloc_zeroed(layout) }
}

/// Asks the processor to fetch the cache line of an address; any address will do.
#[inline]
pub(crate) fn prefetch(addr: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch touches nothing that the program can see and never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(addr.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = addr;
}

impl Drop for Slab {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout, freed once.
        unsafe { dealloc(self.ptr.as_ptr(), self.layout) }
    }
}

impl std::fmt::Debug for Slab {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slab({} x {} bytes)", self.count, self.stride)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn elements_are_apart_and_zeroed() {
        let slab = Slab::new(3, 24, 8).unwrap();
        slab.slot(1).write_u64(16, 7);
        assert_eq!([0, 1, 2].map(|i| slab.slot(i).read_u64(16)), [0, 7, 0]);
        assert_eq!(slab.slot(2).addr() - slab.base(), 48);
    }

    #[test]
    fn a_size_beyond_the_address_space_is_refused() {
        assert!(Slab::new(usize::MAX, 2, 8).is_none());
        assert!(Slab::new(1 << 62, 1, 8).is_none());
    }

    #[test]
    #[should_panic(expected = "element 3 of 3")]
    fn an_element_outside_panics() {
        let _ = Slab::new(3, 8, 8).unwrap().slot(3);
    }
}
