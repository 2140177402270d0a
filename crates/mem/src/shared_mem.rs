//! [`SharedMem`]: pages that other processes or the kernel may map and write, too.
// UNSAFETY: maps pages and unmaps them, and shows them as a `SharedSlice`.
#![allow(unsafe_code)]

use std::any::Any;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use crate::SharedSlice;

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;

/// A mapping of whole pages, unmapped when dropped. Everyone else who can write it is kept out of the
/// way by looking at it through [`SharedMem::view`] only.
pub struct SharedMem {
    ptr: NonNull<u8>,
    len: usize,
    owner: Owner,
    /// Of memory that was made to be shared: what another process maps.
    fd: Option<OwnedFd>,
}

/// What keeps the pages mapped.
enum Owner {
    /// The value itself.
    Mapping,
    /// Another value; and what else is to live as long.
    Alias(Arc<SharedMem>, Arc<dyn Any + Send + Sync>),
}

// SAFETY: the mapping is owned, not bound to a thread, and only accessed atomically.
unsafe impl Send for SharedMem {}
// SAFETY: as above.
unsafe impl Sync for SharedMem {}

impl SharedMem {
    /// Zeroed pages of this process, at least `len` bytes.
    ///
    /// # Errors
    ///
    /// What mmap(2) answers.
    pub fn anonymous(len: usize) -> io::Result<Self> {
        Self::map(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    /// Zeroed pages, and the descriptor by which another process maps the same.
    ///
    /// The file can neither shrink nor grow, so that nobody can take pages away from under the mapping.
    ///
    /// # Errors
    ///
    /// What memfd_create(2), ftruncate(2), fcntl(2) or mmap(2) answers.
    pub fn memfd(len: usize) -> io::Result<(Self, OwnedFd)> {
        let len = len.max(1).next_multiple_of(PAGE_SIZE);
        // SAFETY: the name is a C string.
        let fd =
            unsafe { libc::memfd_create(c"earlybird".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made for us, nobody else owns it.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        file.set_len(len as u64)?;
        // SAFETY: no pointers; the descriptor is open.
        if unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, SIZE_SEALS) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = OwnedFd::from(file);
        let mut memory = Self::map(len, libc::MAP_SHARED, fd.as_raw_fd(), 0)?;
        memory.fd = Some(fd.try_clone()?);
        Ok((memory, fd))
    }

    /// Maps a memfd that another process has made, whole.
    ///
    /// # Errors
    ///
    /// `EPERM` if the file's size is not sealed: its owner could take pages away, and an access would end
    /// this process. Else what fstat(2) or mmap(2) answers.
    pub fn from_memfd(fd: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: no pointers; the descriptor is open.
        let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
        if seals < 0 {
            return Err(io::Error::last_os_error());
        }
        if seals & SIZE_SEALS != SIZE_SEALS {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        let len = File::from(fd.try_clone_to_owned()?).metadata()?.len();
        let len = usize::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
        if len == 0 || !len.is_multiple_of(PAGE_SIZE) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Self::map(len, libc::MAP_SHARED, fd.as_raw_fd(), 0)
    }

    /// Maps `len` bytes of a descriptor whose memory the kernel keeps, e.g. a ring of a socket.
    ///
    /// # Errors
    ///
    /// What mmap(2) answers.
    pub fn of_fd(fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Self> {
        Self::map(len, libc::MAP_SHARED | libc::MAP_POPULATE, fd.as_raw_fd(), offset)
    }

    fn map(len: usize, flags: i32, fd: i32, offset: u64) -> io::Result<Self> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let len = len.max(1).checked_next_multiple_of(PAGE_SIZE).ok_or_else(invalid)?;
        let offset = libc::off_t::try_from(offset).map_err(|_| invalid())?;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses the address, so no memory of ours is replaced.
        let p = unsafe { libc::mmap(ptr::null_mut(), len, prot, flags, fd, offset) };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let ptr = NonNull::new(p.cast()).ok_or_else(invalid)?;
        Ok(Self { ptr, len, owner: Owner::Mapping, fd: None })
    }

    /// The same memory once more, with something that lives at least as long as this value of it: as a
    /// mapping of a ring holds its socket open.
    #[must_use]
    pub fn alias(self: &Arc<Self>, keep: Arc<dyn Any + Send + Sync>) -> Self {
        Self { ptr: self.ptr, len: self.len, owner: Owner::Alias(self.clone(), keep), fd: None }
    }

    /// The descriptor by which another process maps the same, of memory from [`SharedMem::memfd`].
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    /// Length, bytes: a multiple of [`PAGE_SIZE`].
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes; a mapping always has some.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    #[must_use]
    #[inline]
    pub const fn view(&self) -> SharedSlice<'_> {
        // SAFETY: mapped readable and writable for `len` bytes as long as `self` lives; no reference to
        // them is ever made, and who else has them mapped is another process, the kernel, or another
        // value of this type.
        unsafe { SharedSlice::from_raw(self.ptr, self.len) }
    }

    /// The address of the first byte, to be given to a system call.
    #[must_use]
    pub fn addr(&self) -> u64 {
        self.ptr.expose_provenance().get() as u64
    }
}

/// Seals that keep the size as it is.
const SIZE_SEALS: i32 = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;

impl Drop for SharedMem {
    fn drop(&mut self) {
        if matches!(self.owner, Owner::Mapping) {
            // SAFETY: the whole of our own mapping; no view of it outlives `self`, and aliases hold `self`.
            unsafe { libc::munmap(self.ptr.as_ptr().cast(), self.len) };
        }
    }
}

impl std::fmt::Debug for SharedMem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Naming both parts says that they are there to be held.
        let alias = matches!(&self.owner, Owner::Alias(_memory, _keep));
        f.debug_struct("SharedMem").field("len", &self.len).field("alias", &alias).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_mappings_of_a_memfd_are_the_same_memory() {
        let (a, fd) = SharedMem::memfd(5000).unwrap();
        let b = SharedMem::from_memfd(fd.as_fd()).unwrap();
        assert_eq!((a.len(), b.len()), (8192, 8192));
        assert!(a.fd().is_some() && b.fd().is_none());
        a.view().write_u32(8188, 0xdead_beef);
        assert_eq!(b.view().read_u32(8188), 0xdead_beef);
        assert_ne!(a.addr(), b.addr());
    }

    #[test]
    fn a_file_that_could_shrink_is_refused() {
        // SAFETY: the name is a C string.
        let fd = unsafe { libc::memfd_create(c"t".as_ptr(), libc::MFD_ALLOW_SEALING) };
        // SAFETY: just made for us.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        file.set_len(4096).unwrap();
        let refused = SharedMem::from_memfd(file.as_fd()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn an_alias_keeps_what_it_was_given() {
        let a = Arc::new(SharedMem::anonymous(8).unwrap());
        let kept = Arc::new(7);
        let b = a.alias(kept.clone());
        drop(a);
        b.view().write_u8(0, 3);
        assert_eq!((b.view().read_u8(0), Arc::strong_count(&kept)), (3, 2));
        drop(b);
        assert_eq!(Arc::strong_count(&kept), 1);
    }

    #[test]
    fn pages_are_whole_and_zeroed() {
        let m = SharedMem::anonymous(1).unwrap();
        assert_eq!(m.view().to_vec(), vec![0; PAGE_SIZE]);
    }
}
