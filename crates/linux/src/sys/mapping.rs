//! [`Mapping`]: memory of a file descriptor that the kernel, or a program in it, also writes.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use mem::SharedSlice;
use uapi::Errno;

use super::last_errno;

/// What a [`Mapping`] may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Reading; writing panics.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// A shared mapping of a file descriptor. It is unmapped with its value.
#[derive(Debug)]
pub struct Mapping {
    ptr: NonNull<u8>,
    len: usize,
    protection: Protection,
}

// SAFETY: the mapping is owned, not bound to a thread, and only accessed atomically.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of a descriptor from `offset`.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    pub fn new(fd: BorrowedFd<'_>, offset: usize, len: usize, protection: Protection) -> Result<Self, Errno> {
        let prot = match protection {
            Protection::Read => libc::PROT_READ,
            Protection::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        };
        let offset = libc::off_t::try_from(offset).map_err(|_| Errno::EINVAL)?;
        // SAFETY: the kernel chooses the address, so no memory of ours is replaced.
        let ptr =
            unsafe { libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, fd.as_raw_fd(), offset) };
        if ptr == libc::MAP_FAILED {
            return Err(last_errno());
        }
        let ptr = NonNull::new(ptr.cast()).ok_or(Errno::ENOMEM)?;
        Ok(Self { ptr, len, protection })
    }

    /// Length, bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes; a mapping always has some.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads an aligned number; what its writer stored before it is seen after this.
    ///
    /// # Panics
    ///
    /// If it is unaligned or outside.
    #[must_use]
    pub fn load_acquire_u64(&self, offset: usize) -> u64 {
        self.atomic_u64(offset).load(Ordering::Acquire)
    }

    /// As [`Mapping::load_acquire_u64`], of 32 bits.
    ///
    /// # Panics
    ///
    /// If it is unaligned or outside.
    #[must_use]
    pub fn load_acquire_u32(&self, offset: usize) -> u32 {
        let Some(a) = self.view().atomic_u32(offset) else { panic!("no 32-bit number at {offset}") };
        a.load(Ordering::Acquire)
    }

    /// Writes an aligned number after everything that was read or written before.
    ///
    /// # Panics
    ///
    /// If it is unaligned or outside, or the mapping is read only.
    pub fn store_release_u64(&self, offset: usize, value: u64) {
        self.writable();
        self.atomic_u64(offset).store(value, Ordering::Release);
    }

    /// Copies bytes out.
    ///
    /// # Panics
    ///
    /// If they do not lie within the mapping.
    pub fn copy_to(&self, offset: usize, dst: &mut [u8]) {
        self.view().copy_to(offset, dst);
    }

    /// Copies bytes in.
    ///
    /// # Panics
    ///
    /// If they do not lie within the mapping, or it is read only.
    pub fn copy_from(&self, offset: usize, src: &[u8]) {
        self.writable();
        self.view().copy_from(offset, src);
    }

    /// Copies bytes out of a ring of `size` bytes at `base`, from a running position.
    ///
    /// # Panics
    ///
    /// If the ring does not lie within the mapping.
    pub fn copy_from_ring(&self, base: usize, size: usize, position: u64, dst: &mut [u8]) {
        let start = (position % size as u64) as usize;
        let (head, tail) = dst.split_at_mut(dst.len().min(size - start));
        self.copy_to(base + start, head);
        self.copy_to(base, tail);
    }

    fn atomic_u64(&self, offset: usize) -> &std::sync::atomic::AtomicU64 {
        let Some(a) = self.view().atomic_u64(offset) else { panic!("no 64-bit number at {offset}") };
        a
    }

    fn writable(&self) {
        assert_eq!(self.protection, Protection::ReadWrite, "the mapping is read only");
    }

    fn view(&self) -> SharedSlice<'_> {
        // SAFETY: the mapping is valid for `len` bytes as long as `self` lives; this type never makes a
        // reference to them, and the other side is the kernel. Where it is read only, `writable` has kept
        // writers out (and a fault would end the process, not corrupt it).
        unsafe { SharedSlice::from_raw(self.ptr, self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the whole of our own mapping; no view of it outlives `self`.
        unsafe { libc::munmap(self.ptr.as_ptr().cast(), self.len) };
    }
}

/// Bytes of a page.
#[must_use]
pub fn page_size() -> usize {
    // SAFETY: no pointers.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}
