//! AF_XDP sockets of an engine: the other side of the rings, in safe code.
//!
//! [`XskHost`] is what the kernel's socket layer and device table are to a socket; devices are whatever
//! implements [`XskDevice`]. An [`XskSocket`] answers setsockopt, bind, sendto and so on with the kernel's
//! errno in the kernel's order (through [`crate::RawSocket`], so that applications open it as they open one
//! of the kernel), takes packets from the data path ([`XskSocket::rcv`]), and gives packets to its device.
//!
//! The application is another party: it writes anything into the rings and the memory at any time. Indices
//! and descriptors are read once and checked ([`mem::spsc`], [`pool`]), and packets are copied.
//!
//! Copy mode only; zero-copy is refused with the kernel's `EOPNOTSUPP`.

mod bind;
mod pool;
mod rcv;
mod sanitizer;
mod socket;
mod umem;
mod wire;
mod xmit;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use uapi::Errno;

use crate::port::{Home, RawSocket};

pub use sanitizer::{FINDINGS_MAX, Finding, LEAK_PATIENCE, Mistake, Sanitizer, WAKEUP_PATIENCE};
pub use socket::XskSocket;
pub use wire::{Wire, WireDevice};
pub use xmit::{Completion, TxPacket};

use pool::Pool;

/// `SOCK_RAW`, the only type.
const SOCK_RAW: i32 = 3;
/// Descriptors below are a process's own.
const FIRST_FD: i32 = 3;
/// Entries of the largest ring, unless told otherwise; the kernel takes as many as there is memory for.
pub const RING_ENTRIES_MAX: u32 = 1 << 20;

/// A device as sockets need it.
pub trait XskDevice: Send + Sync {
    /// `IFF_UP`.
    fn is_up(&self) -> bool;
    /// `real_num_rx_queues`, `real_num_tx_queues`.
    fn queues(&self) -> (u32, u32);
    /// Sends a packet of a socket. Dropping the packet, now or later, completes its descriptors.
    ///
    /// Kernel: `net/core/dev.c __dev_direct_xmit, v6.18`
    #[doc(alias = "__dev_direct_xmit")]
    fn xmit(&self, queue: u16, packet: TxPacket) -> Xmit;
}

/// What a device did with a packet.
#[derive(Debug)]
pub enum Xmit {
    /// Sent; or it waits, and is sent later.
    Sent,
    /// The queue is full (`NETDEV_TX_BUSY`): the packet is given back.
    Busy(TxPacket),
    /// Dropped (`NET_XMIT_DROP`).
    Dropped,
}

/// Everything that sockets share: descriptors, devices and their queues.
#[derive(Clone)]
pub struct XskHost {
    state: Arc<HostState>,
}

pub(crate) struct HostState {
    sockets: Mutex<HashMap<i32, Weak<XskSocket>>>,
    next_fd: AtomicI32,
    devices: Mutex<HashMap<u32, Arc<dyn XskDevice>>>,
    /// Which pool has a queue, and the lock that bind(2) holds (`rtnl_lock`).
    pools: Mutex<HashMap<(u32, u16), Weak<Pool>>>,
    clock_tai_ns: Box<dyn Fn() -> u64 + Send + Sync>,
    ring_entries_max: u32,
    sanitizer: Option<Arc<Sanitizer>>,
}

impl XskHost {
    /// A host without devices. The clock (TAI, nanoseconds) is only read to stamp packets that ask for it.
    #[must_use]
    pub fn new(clock_tai_ns: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self::make(clock_tai_ns, None)
    }

    /// As [`XskHost::new`], with a sanitizer that watches all sockets.
    #[must_use]
    pub fn with_sanitizer(
        clock_tai_ns: impl Fn() -> u64 + Send + Sync + 'static,
        sanitizer: Arc<Sanitizer>,
    ) -> Self {
        Self::make(clock_tai_ns, Some(sanitizer))
    }

    fn make(
        clock_tai_ns: impl Fn() -> u64 + Send + Sync + 'static,
        sanitizer: Option<Arc<Sanitizer>>,
    ) -> Self {
        Self {
            state: Arc::new(HostState {
                sockets: Mutex::default(),
                next_fd: AtomicI32::new(FIRST_FD),
                devices: Mutex::default(),
                pools: Mutex::default(),
                clock_tai_ns: Box::new(clock_tai_ns),
                ring_entries_max: RING_ENTRIES_MAX,
                sanitizer,
            }),
        }
    }

    /// Adds a device, or replaces it.
    pub fn register_device(&self, ifindex: u32, device: Arc<dyn XskDevice>) {
        locked(&self.state.devices).insert(ifindex, device);
    }

    /// Takes a device away: its sockets are unbound, and hear of it once (`SO_ERROR` is `ENETDOWN`).
    ///
    /// Kernel: `net/xdp/xsk.c xsk_notifier NETDEV_UNREGISTER, v6.18`
    pub fn unregister_device(&self, ifindex: u32) {
        locked(&self.state.devices).remove(&ifindex);
        locked(&self.state.pools).retain(|(dev, _), _| *dev != ifindex);
        let sockets: Vec<_> = locked(&self.state.sockets).values().filter_map(Weak::upgrade).collect();
        sockets.iter().for_each(|socket| socket.device_gone(ifindex));
    }

    /// socket(2) of `AF_XDP`.
    ///
    /// # Errors
    ///
    /// `ESOCKTNOSUPPORT` for another type than `SOCK_RAW`, `EPROTONOSUPPORT` for a protocol.
    ///
    /// Kernel: `net/xdp/xsk.c xsk_create, v6.18`
    #[doc(alias = "xsk_create")]
    pub fn socket(&self, kind: i32, protocol: i32) -> Result<Arc<XskSocket>, Errno> {
        self.open_socket(kind, protocol, false)
    }

    /// As [`XskHost::socket`], with rings that another process can map ([`XskSocket::ring_file`]).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn shared_socket(&self, kind: i32, protocol: i32) -> Result<Arc<XskSocket>, Errno> {
        self.open_socket(kind, protocol, true)
    }

    fn open_socket(&self, kind: i32, protocol: i32, shared: bool) -> Result<Arc<XskSocket>, Errno> {
        if kind != SOCK_RAW {
            return Err(Errno::ESOCKTNOSUPPORT);
        }
        if protocol != 0 {
            return Err(Errno::EPROTONOSUPPORT);
        }
        let number = self.state.next_fd.fetch_add(1, Relaxed);
        if number < FIRST_FD {
            return Err(Errno::EMFILE);
        }
        let socket = XskSocket::new(number, self.state.clone(), shared);
        locked(&self.state.sockets).insert(number, Arc::downgrade(&socket));
        Ok(socket)
    }

    /// The socket of a number, for an xskmap.
    ///
    /// # Errors
    ///
    /// `EBADF` if there is none.
    pub fn by_number(&self, number: i32) -> Result<Arc<XskSocket>, Errno> {
        self.state.socket(number).ok_or(Errno::EBADF)
    }
}

impl Home for XskHost {
    fn socket(&self, kind: i32, protocol: i32) -> Result<Arc<dyn RawSocket>, Errno> {
        let socket: Arc<dyn RawSocket> = Self::socket(self, kind, protocol)?;
        Ok(socket)
    }
}

impl HostState {
    fn socket(&self, number: i32) -> Option<Arc<XskSocket>> {
        locked(&self.sockets).get(&number).and_then(Weak::upgrade)
    }

    fn device(&self, ifindex: u32) -> Option<Arc<dyn XskDevice>> {
        locked(&self.devices).get(&ifindex).cloned()
    }
}

impl std::fmt::Debug for XskHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sockets = locked(&self.state.sockets).values().filter(|s| s.strong_count() > 0).count();
        f.debug_struct("XskHost").field("sockets", &sockets).finish_non_exhaustive()
    }
}

/// Locks; nothing that is locked here is left half done by a panic.
fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
