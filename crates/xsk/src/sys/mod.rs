//! AF_XDP sockets of the running kernel.
// UNSAFETY: system calls with pointers in their arguments; a UMEM's address is given to the kernel, which
// writes there.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use mem::SharedMem;
use uapi::Errno;
use uapi::if_xdp::{AF_XDP, SOL_XDP, XDP_UMEM_REG, XdpUmemReg};

use crate::port::{Home, PollEvents, RawSocket};

/// The running kernel. Sockets are opened in the network namespace of the calling thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelHome;

/// A socket of the kernel.
#[derive(Debug)]
struct KernelSocket {
    fd: OwnedFd,
    /// Held so that the memory outlives the socket. The kernel has pinned its pages, so this is for the
    /// application's frames to mean what they say, not for safety.
    umem: OnceLock<Arc<SharedMem>>,
}

impl Home for KernelHome {
    fn socket(&self, kind: i32, protocol: i32) -> Result<Arc<dyn RawSocket>, Errno> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(AF_XDP.into(), kind | libc::SOCK_CLOEXEC, protocol) };
        if fd < 0 {
            return Err(last_errno());
        }
        // SAFETY: just made for us, nobody else owns it.
        Ok(Arc::new(KernelSocket { fd: unsafe { OwnedFd::from_raw_fd(fd) }, umem: OnceLock::new() }))
    }
}

impl KernelSocket {
    fn set(&self, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        let len = value.len() as libc::socklen_t;
        // SAFETY: `value` is valid for reading `len` bytes. Callers keep out options with pointers in them.
        let ret = unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, name, value.as_ptr().cast(), len) };
        check(ret)
    }
}

/// Options of the socket layer that hold a plain number or a name, and matter here.
const SOCKET_OPTIONS: [i32; 5] = [
    libc::SO_BINDTODEVICE,
    libc::SO_SNDBUF,
    libc::SO_BUSY_POLL,
    libc::SO_PREFER_BUSY_POLL,
    libc::SO_BUSY_POLL_BUDGET,
];

impl RawSocket for KernelSocket {
    fn setsockopt(&self, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        // A UMEM has an address in it, which `register_umem` checks. What other options of other levels
        // point at is not known here.
        let offered = match level {
            SOL_XDP => name != XDP_UMEM_REG || value.len() < XdpUmemReg::SIZE_V1,
            libc::SOL_SOCKET => SOCKET_OPTIONS.contains(&name),
            _ => false,
        };
        if offered { self.set(level, name, value) } else { Err(Errno::ENOPROTOOPT) }
    }

    fn register_umem(&self, memory: &Arc<SharedMem>, value: &[u8]) -> Result<(), Errno> {
        if let Some(reg) = XdpUmemReg::from_bytes(value) {
            let start = reg.addr.checked_sub(memory.addr());
            let end = start.and_then(|s| s.checked_add(reg.len));
            if end.is_none_or(|end| end > memory.len() as u64) {
                return Err(Errno::EFAULT);
            }
        }
        // The kernel writes packets to the range that was checked: shared memory, which Rust code only
        // touches atomically.
        self.set(SOL_XDP, XDP_UMEM_REG, value)?;
        // A second registration was refused above.
        let _ = self.umem.set(memory.clone());
        Ok(())
    }

    fn getsockopt(&self, level: i32, name: i32, value: &mut [u8]) -> Result<usize, Errno> {
        let mut len = value.len() as libc::socklen_t;
        // SAFETY: `value` is valid for writing `len` bytes.
        let ret = unsafe {
            libc::getsockopt(self.fd.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut len)
        };
        check(ret).map(|()| len as usize)
    }

    fn mmap(&self, offset: u64, len: usize) -> Result<Arc<SharedMem>, Errno> {
        SharedMem::of_fd(self.fd.as_fd(), offset, len).map(Arc::new).map_err(|e| errno_of(&e))
    }

    fn bind(&self, addr: &[u8]) -> Result<(), Errno> {
        let len = addr.len() as libc::socklen_t;
        // SAFETY: `addr` is valid for reading `len` bytes.
        check(unsafe { libc::bind(self.fd.as_raw_fd(), addr.as_ptr().cast(), len) })
    }

    #[inline]
    fn send(&self, wait: bool) -> Result<(), Errno> {
        let flags = if wait { 0 } else { libc::MSG_DONTWAIT };
        // SAFETY: a null buffer of length 0, no address.
        let ret =
            unsafe { libc::sendto(self.fd.as_raw_fd(), std::ptr::null(), 0, flags, std::ptr::null(), 0) };
        if ret < 0 { Err(last_errno()) } else { Ok(()) }
    }

    #[inline]
    fn recv(&self, wait: bool) -> Result<(), Errno> {
        let flags = if wait { 0 } else { libc::MSG_DONTWAIT };
        let null = std::ptr::null_mut();
        // SAFETY: a null buffer of length 0, no address.
        let ret = unsafe {
            libc::recvfrom(self.fd.as_raw_fd(), null, 0, flags, std::ptr::null_mut(), std::ptr::null_mut())
        };
        if ret < 0 { Err(last_errno()) } else { Ok(()) }
    }

    fn poll(&self, events: PollEvents, timeout: Option<Duration>) -> Result<PollEvents, Errno> {
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: events.0, revents: 0 };
        let ms = timeout.map_or(-1, |t| i32::try_from(t.as_millis()).unwrap_or(i32::MAX));
        // SAFETY: one valid `pollfd`.
        let ret = unsafe { libc::poll(&raw mut poll, 1, ms) };
        if ret < 0 { Err(last_errno()) } else { Ok(PollEvents(poll.revents)) }
    }

    fn number(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }
}

fn check(ret: i32) -> Result<(), Errno> {
    if ret < 0 { Err(last_errno()) } else { Ok(()) }
}

fn last_errno() -> Errno {
    errno_of(&std::io::Error::last_os_error())
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}
