//! The seam between the API and its homes: an AF_XDP socket as the system calls see it, bytes and errno.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use mem::SharedMem;
use uapi::Errno;

/// Where sockets are opened.
pub trait Home: Send + Sync {
    /// socket(2) of the family `AF_XDP`.
    ///
    /// # Errors
    ///
    /// The kernel's errno: `EPERM` without `CAP_NET_RAW`, `ESOCKTNOSUPPORT` for another type than `SOCK_RAW`,
    /// `EPROTONOSUPPORT` for a protocol.
    fn socket(&self, kind: i32, protocol: i32) -> Result<Arc<dyn RawSocket>, Errno>;

    /// Opens a socket of the only type and protocol that there are.
    ///
    /// # Errors
    ///
    /// As [`Home::socket`].
    fn open(&self) -> Result<Arc<dyn RawSocket>, Errno> {
        self.socket(libc::SOCK_RAW, 0)
    }
}

/// What a socket is ready for, as poll(2) counts it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PollEvents(pub i16);

impl PollEvents {
    /// Packets wait in the RX ring.
    pub const IN: Self = Self(1);
    /// At most half of the TX ring is in use.
    pub const OUT: Self = Self(4);
    /// Either.
    pub const BOTH: Self = Self(5);

    /// Whether all of `other` is set.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// An AF_XDP socket. It is closed with its value; what was mapped holds it open, as in the kernel.
pub trait RawSocket: Send + Sync {
    /// setsockopt(2), all options but `XDP_UMEM_REG`.
    ///
    /// # Errors
    ///
    /// The kernel's errno; `ENOPROTOOPT` for options that are not offered here.
    fn setsockopt(&self, level: i32, name: i32, value: &[u8]) -> Result<(), Errno>;

    /// setsockopt(2) of `XDP_UMEM_REG`. Addresses must lie within `memory`.
    ///
    /// # Errors
    ///
    /// The kernel's errno; `EFAULT` for addresses outside of `memory`.
    fn register_umem(&self, memory: &Arc<SharedMem>, value: &[u8]) -> Result<(), Errno>;

    /// getsockopt(2); answers how many bytes were written.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    fn getsockopt(&self, level: i32, name: i32, value: &mut [u8]) -> Result<usize, Errno>;

    /// mmap(2) of a ring.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    fn mmap(&self, offset: u64, len: usize) -> Result<Arc<SharedMem>, Errno>;

    /// bind(2) to a `sockaddr_xdp`.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    fn bind(&self, addr: &[u8]) -> Result<(), Errno>;

    /// sendto(2) without data: sends what is in the TX ring. `wait` is the absence of `MSG_DONTWAIT`.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    fn send(&self, wait: bool) -> Result<(), Errno>;

    /// recvfrom(2) without data: wakes the driver's receive side.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    fn recv(&self, wait: bool) -> Result<(), Errno>;

    /// poll(2); `None` waits for ever.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    fn poll(&self, events: PollEvents, timeout: Option<Duration>) -> Result<PollEvents, Errno>;

    /// The descriptor's number: what an xskmap is given, and `sxdp_shared_umem_fd`.
    fn number(&self) -> i32;

    /// The descriptor for epoll(7), if there can be one. On the kernel it is the socket. On an engine it is readable
    /// when packets came since the last [`RawSocket::poll`]: poll once before waiting for it.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
}
