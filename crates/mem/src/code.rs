//! Pages of machine code that are writable or executable, never both.
//!
//! [`CodeBuffer`] is the writable half: it has an address, so that calls can be resolved while the code
//! is written. [`CodeBuffer::seal`] takes the right to write away, gives the right to execute, and
//! answers [`CodePages`], which nobody can write again.
// UNSAFETY: maps pages, changes their protection and unmaps them.
#![allow(unsafe_code)]

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A private mapping, unmapped when dropped.
#[derive(Debug)]
struct Mapping {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is owned and nothing about it belongs to one thread.
unsafe impl Send for Mapping {}
// SAFETY: a shared reference gives no way to write.
unsafe impl Sync for Mapping {}

/// Pages that can be written and not executed.
#[derive(Debug)]
pub struct CodeBuffer {
    mapping: Mapping,
}

/// Pages that can be read and executed and not written.
#[derive(Debug)]
pub struct CodePages {
    mapping: Mapping,
}

/// Farthest that a direct call of x86-64 reaches, with room for the code itself, bytes.
const NEAR: usize = 0x7000_0000;
/// Distance between the places that are tried, bytes.
const STRIDE: usize = 1 << 26;
/// End of the last mapping: the next one is tried right behind it, so that programs lie together.
static NEXT: AtomicUsize = AtomicUsize::new(0);

impl Mapping {
    fn new(len: usize, near: usize) -> io::Result<Self> {
        let len = len.max(1).next_multiple_of(page_size());
        let next = NEXT.load(Relaxed);
        for hint in std::iter::once(next).chain(hints(near)).filter(|h| h.abs_diff(near) < NEAR) {
            let mapping = Self::map(len, hint)?;
            let addr = mapping.ptr.addr().get();
            if addr.abs_diff(near) < NEAR {
                NEXT.store(addr + len, Relaxed);
                return Ok(mapping);
            }
        }
        Self::map(len, 0)
    }

    fn map(len: usize, hint: usize) -> io::Result<Self> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new private mapping; without MAP_FIXED the hint replaces nothing that exists.
        let p = unsafe { libc::mmap(ptr::without_provenance_mut(hint), len, prot, flags, -1, 0) };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let ptr = NonNull::new(p.cast()).expect("mmap without MAP_FIXED never answers page 0");
        Ok(Self { ptr, len })
    }

    fn addr(&self) -> u64 {
        self.ptr.expose_provenance().get() as u64
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `map` with this length and unmapped once. Whoever runs the code keeps its
        // `CodePages` meanwhile.
        let r = unsafe { libc::munmap(self.ptr.as_ptr().cast(), self.len) };
        debug_assert_eq!(r, 0, "munmap of a whole mapping does not fail");
    }
}

/// Addresses to ask for, nearest below first: above the text of an executable lies its heap.
fn hints(near: usize) -> impl Iterator<Item = usize> {
    let base = near & !(STRIDE - 1);
    (1..=16).flat_map(move |i| [base.checked_sub(i * STRIDE), base.checked_add(i * STRIDE)]).flatten()
}

fn page_size() -> usize {
    // SAFETY: no conditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

impl CodeBuffer {
    /// Pages for at least `len` bytes, if possible so near to the address `near` that a direct call
    /// reaches it. [`CodeBuffer::addr`] tells where they are.
    ///
    /// # Errors
    ///
    /// What mmap(2) answers.
    pub fn new(len: usize, near: u64) -> io::Result<Self> {
        Mapping::new(len, near as usize).map(|mapping| Self { mapping })
    }

    /// Where the code will run.
    #[must_use]
    pub fn addr(&self) -> u64 {
        self.mapping.addr()
    }

    /// The pages' bytes, at first all 0.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: mapped readable and writable for `len` bytes, zeroed by the kernel, and borrowed
        // exclusively: a CodeBuffer is the only way to the mapping.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.ptr.as_ptr(), self.mapping.len) }
    }

    /// Makes the pages executable and no longer writable.
    ///
    /// # Errors
    ///
    /// What mprotect(2) answers, for example `EACCES` where policy forbids new code.
    pub fn seal(self) -> io::Result<CodePages> {
        let Mapping { ptr, len } = self.mapping;
        // SAFETY: the range is exactly one mapping of ours, and `self` was the only way to write it.
        let r = unsafe { libc::mprotect(ptr.as_ptr().cast(), len, libc::PROT_READ | libc::PROT_EXEC) };
        if r != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(CodePages { mapping: self.mapping })
    }
}

impl CodePages {
    /// Address of the first byte.
    #[must_use]
    pub fn addr(&self) -> u64 {
        self.mapping.addr()
    }

    /// The code.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: mapped readable for `len` bytes, and nobody can write them any more.
        unsafe { std::slice::from_raw_parts(self.mapping.ptr.as_ptr(), self.mapping.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The protection that the kernel reports for an address, as in `r-xp`.
    fn protection(addr: u64) -> String {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs is mounted");
        let line = maps.lines().find(|line| {
            let (from, rest) = line.split_once('-').expect("a range");
            let (to, _) = rest.split_once(' ').expect("a range");
            let parse = |s| u64::from_str_radix(s, 16).expect("a hexadecimal number");
            (parse(from)..parse(to)).contains(&addr)
        });
        line.and_then(|l| l.split(' ').nth(1)).expect("the address is mapped").to_owned()
    }

    #[test]
    fn pages_are_writable_or_executable_but_never_both() {
        let mut buffer = CodeBuffer::new(10_000, 0).expect("memory");
        assert_eq!(protection(buffer.addr()), "rw-p");
        assert_eq!(buffer.bytes_mut().len(), 12_288);
        buffer.bytes_mut()[..2].copy_from_slice(&[0x90, 0xc3]);
        let addr = buffer.addr();
        let pages = buffer.seal().expect("mprotect");
        assert_eq!((pages.addr(), &pages.bytes()[..2]), (addr, &[0x90, 0xc3][..]));
        assert_eq!(protection(addr), "r-xp");
        assert_eq!(protection(addr + 8192), "r-xp");
    }

    #[test]
    fn code_lies_within_reach_of_a_direct_call() {
        let near = hints as fn(usize) -> _ as *const () as usize as u64;
        let many: Vec<_> = (0..50).map(|_| CodeBuffer::new(1 << 20, near).expect("memory")).collect();
        assert!(many.iter().all(|b| b.addr().abs_diff(near) < 1 << 31));
    }
}
