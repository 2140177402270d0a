//! [`XskSocket`]: the control side, option by option in the kernel's order.

use std::any::Any;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use mem::spsc::{Consumer, Producer, RingEntry, RingLayout, ring_bytes};
use mem::{PAGE_SIZE, SharedMem, SpinLock};
use rustix::event::EventfdFlags;
use uapi::Errno;
use uapi::if_xdp::*;

use super::pool::Pool;
use super::umem::EngineUmem;
use super::xmit::{TX_BATCH_SIZE, TxSide};
use super::{HostState, XskDevice, locked};
use crate::port::{PollEvents, RawSocket};

/// `SOL_SOCKET` and the options of it that matter here.
const SOL_SOCKET: i32 = 1;
const SO_ERROR: i32 = 4;
const SO_BINDTODEVICE: i32 = 25;
/// Busy polling needs a driver's poll to run, so in copy mode these say nothing.
const BUSY_POLL_OPTIONS: [i32; 3] = [46, 69, 70];

/// Where the parts of a ring lie: as on the kernel that answers were taken from.
const OFFSET: XdpRingOffset = XdpRingOffset { producer: 0, consumer: 128, desc: 320, flags: 196 };
const LAYOUT: RingLayout = RingLayout { producer: 0, consumer: 128, entries: 320, flags: 196 };

/// An AF_XDP socket.
///
/// Kernel: `include/net/xdp_sock.h struct xdp_sock, v6.18`
#[doc(alias = "xdp_sock")]
pub struct XskSocket {
    this: Weak<Self>,
    number: i32,
    /// Another process maps the rings.
    shared: bool,
    pub(super) host: Arc<HostState>,
    pub(super) control: Mutex<Control>,
    /// Set once, by bind(2).
    pub(super) link: OnceLock<Link>,
    /// The device has gone.
    unbound: AtomicBool,
    pub(super) rx: SpinLock<Option<RxSide>>,
    pub(super) tx: Mutex<Option<TxSide>>,
    pub(super) rx_dropped: AtomicU64,
    pub(super) rx_ring_full: AtomicU64,
    /// Bytes of packets that are not completed (`sk_wmem_alloc`).
    pub(super) wmem: AtomicU64,
    /// `sk_err`, told once.
    error: Mutex<Option<Errno>>,
    sleepers: Mutex<u64>,
    woken: Condvar,
    hooks: Mutex<Hooks>,
    /// An eventfd that says that packets came, once someone has asked for it.
    events: OnceLock<OwnedFd>,
}

/// Who is told what becomes of the socket, and what stands for it in xskmaps.
#[derive(Default)]
struct Hooks {
    bound: Vec<Box<dyn FnOnce(u16) + Send>>,
    closed: Vec<Box<dyn FnOnce() + Send>>,
    entry: Option<Weak<dyn Any + Send + Sync>>,
}

/// What setsockopt(2) has set up before bind(2).
#[derive(Default)]
pub(super) struct Control {
    pub(super) bound: bool,
    pub(super) umem: Option<Arc<EngineUmem>>,
    pub(super) rx: Option<Arc<SharedMem>>,
    pub(super) tx: Option<Arc<SharedMem>>,
    pub(super) fill: Option<(Arc<SharedMem>, u32)>,
    pub(super) completion: Option<(Arc<SharedMem>, u32)>,
    /// Device that `SO_BINDTODEVICE` allows.
    pub(super) bound_dev_if: Option<u32>,
}

/// What the socket is bound to.
pub(super) struct Link {
    pub(super) device: Arc<dyn XskDevice>,
    pub(super) ifindex: u32,
    pub(super) queue: u16,
    pub(super) pool: Arc<Pool>,
    pub(super) sg: bool,
    /// The pool's rings, for mmap(2).
    pub(super) fill: Arc<SharedMem>,
    pub(super) completion: Arc<SharedMem>,
}

/// The RX ring.
pub(super) struct RxSide {
    pub(super) ring: Producer<XdpDesc>,
    /// Buffers of the packet at hand.
    pub(super) bases: Vec<u64>,
}

impl XskSocket {
    pub(super) fn new(number: i32, host: Arc<HostState>, shared: bool) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            number,
            shared,
            host,
            control: Mutex::default(),
            link: OnceLock::new(),
            unbound: AtomicBool::new(false),
            rx: SpinLock::new(None),
            tx: Mutex::new(None),
            rx_dropped: AtomicU64::new(0),
            rx_ring_full: AtomicU64::new(0),
            wmem: AtomicU64::new(0),
            error: Mutex::new(None),
            sleepers: Mutex::new(0),
            woken: Condvar::new(),
            hooks: Mutex::default(),
            events: OnceLock::new(),
        })
    }

    /// What stands for the socket in xskmaps: the same object as long as someone has it. A new one is told the
    /// queue when the socket is bound; at once if it is.
    pub fn entry<T: Any + Send + Sync>(
        &self,
        make: impl FnOnce() -> Arc<T>,
        bound: impl FnOnce(&T, u16) + Send + 'static,
    ) -> Arc<dyn Any + Send + Sync> {
        let mut hooks = locked(&self.hooks);
        if let Some(entry) = hooks.entry.as_ref().and_then(Weak::upgrade) {
            return entry;
        }
        let entry = make();
        match self.link.get() {
            Some(link) => bound(&entry, link.queue),
            None => {
                let weak = Arc::downgrade(&entry);
                hooks.bound.push(Box::new(move |queue| {
                    if let Some(entry) = weak.upgrade() {
                        bound(&entry, queue);
                    }
                }));
            }
        }
        let entry: Arc<dyn Any + Send + Sync> = entry;
        hooks.entry = Some(Arc::downgrade(&entry));
        entry
    }

    /// Calls `f` when the socket is closed.
    pub fn when_closed(&self, f: impl FnOnce() + Send + 'static) {
        locked(&self.hooks).closed.push(Box::new(f));
    }

    pub(super) fn tell_bound(&self, queue: u16) {
        let told = std::mem::take(&mut locked(&self.hooks).bound);
        told.into_iter().for_each(|f| f(queue));
    }

    pub(super) fn this(&self) -> Arc<Self> {
        self.this.upgrade().expect("a socket that is used is alive")
    }

    /// What it is bound to; `ENXIO` if to nothing.
    #[inline]
    pub(super) fn bound(&self) -> Result<&Link, Errno> {
        let link = self.link.get().ok_or(Errno::ENXIO)?;
        if self.unbound.load(Acquire) { Err(Errno::ENXIO) } else { Ok(link) }
    }

    /// Whether bind(2) succeeded and the device is there.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        self.bound().is_ok()
    }

    pub(super) fn device_gone(&self, ifindex: u32) {
        if self.bound().is_ok_and(|link| link.ifindex == ifindex) {
            *locked(&self.error) = Some(Errno::ENETDOWN);
            self.unbound.store(true, Release);
            self.wake_readers();
        }
    }

    /// Kernel: `net/xdp/xsk.c xsk_check_common, v6.18`
    pub(super) fn check_common(&self) -> Result<&Link, Errno> {
        let link = self.bound()?;
        if link.device.is_up() { Ok(link) } else { Err(Errno::ENETDOWN) }
    }

    pub(super) fn wake_readers(&self) {
        let mut sleepers = locked(&self.sleepers);
        if *sleepers > 0 {
            *sleepers = 0;
            self.woken.notify_all();
        }
        drop(sleepers);
        if let Some(events) = self.events.get() {
            // A counter that is full says the same.
            let _ = rustix::io::write(events, &1_u64.to_ne_bytes());
        }
    }

    /// A ring option: `entries` are checked in the kernel's order.
    fn new_ring<T: RingEntry>(&self, value: &[u8], present: bool) -> Result<(Arc<SharedMem>, u32), Errno> {
        let entries = first_u32(value)?;
        if entries == 0 || present || !entries.is_power_of_two() {
            return Err(Errno::EINVAL);
        }
        let len = ring_bytes::<T>(&LAYOUT, entries).filter(|_| entries <= self.host.ring_entries_max);
        let len = len.ok_or(Errno::ENOMEM)?;
        let memory =
            if self.shared { SharedMem::memfd(len).map(|(m, _)| m) } else { SharedMem::anonymous(len) };
        Ok((Arc::new(memory.map_err(|_| Errno::ENOMEM)?), entries))
    }

    fn set_ring(&self, name: i32, value: &[u8]) -> Result<(), Errno> {
        first_u32(value)?;
        let mut control = locked(&self.control);
        if control.bound {
            return Err(Errno::EBUSY);
        }
        match name {
            XDP_RX_RING => {
                let (memory, entries) = self.new_ring::<XdpDesc>(value, control.rx.is_some())?;
                let ring = Producer::new(memory.clone(), &LAYOUT, entries).ok_or(Errno::ENOMEM)?;
                self.rx.with(|rx| *rx = Some(RxSide { ring, bases: Vec::new() }));
                control.rx = Some(memory);
            }
            XDP_TX_RING => {
                let (memory, entries) = self.new_ring::<XdpDesc>(value, control.tx.is_some())?;
                let ring = Consumer::new(memory.clone(), &LAYOUT, entries).ok_or(Errno::ENOMEM)?;
                // It must be woken explicitly.
                ring.set_need_wakeup(true);
                *locked(&self.tx) = Some(TxSide::new(ring));
                control.tx = Some(memory);
            }
            XDP_UMEM_FILL_RING => {
                control.fill = Some(self.new_ring::<u64>(value, control.fill.is_some())?);
            }
            _ => control.completion = Some(self.new_ring::<u64>(value, control.completion.is_some())?),
        }
        Ok(())
    }

    /// Kernel: `net/xdp/xsk.c XDP_MAX_TX_SKB_BUDGET, v6.18`
    fn set_budget(&self, value: &[u8]) -> Result<(), Errno> {
        let budget = if value.len() == 4 { first_u32(value)? } else { return Err(Errno::EINVAL) };
        match &mut *locked(&self.tx) {
            Some(tx) if (TX_BATCH_SIZE..=tx.ring.capacity()).contains(&budget) => tx.max_budget = budget,
            _ => return Err(Errno::EACCES),
        }
        Ok(())
    }

    fn set_socket_option(&self, name: i32, value: &[u8]) -> Result<(), Errno> {
        match name {
            // By number, as `SO_BINDTOIFINDEX` has it: names of devices are not known here.
            SO_BINDTODEVICE => locked(&self.control).bound_dev_if = Some(first_u32(value)?),
            name if BUSY_POLL_OPTIONS.contains(&name) => {}
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    /// The six counters.
    #[must_use]
    pub fn statistics(&self) -> XdpStatistics {
        let (invalid, empty) = locked(&self.tx).as_ref().map_or((0, 0), |tx| (tx.invalid, tx.empty));
        XdpStatistics {
            rx_dropped: self.rx_dropped.load(Relaxed),
            rx_invalid_descs: 0,
            tx_invalid_descs: invalid,
            rx_ring_full: self.rx_ring_full.load(Relaxed),
            rx_fill_ring_empty_descs: self.link.get().map_or(0, |l| l.pool.fill.with(|f| f.empty)),
            tx_ring_empty_descs: empty,
        }
    }

    /// The memory of a ring, as mmap(2) checks what it is asked for.
    fn ring_memory(&self, offset: u64, len: usize) -> Result<Arc<SharedMem>, Errno> {
        if self.unbound.load(Acquire) {
            return Err(Errno::EBUSY);
        }
        let control = locked(&self.control);
        let (fill, completion) = match self.link.get() {
            Some(link) => (Some(&link.fill), Some(&link.completion)),
            None => (control.fill.as_ref().map(|(m, _)| m), control.completion.as_ref().map(|(m, _)| m)),
        };
        let ring = match offset {
            XDP_PGOFF_RX_RING => control.rx.as_ref(),
            XDP_PGOFF_TX_RING => control.tx.as_ref(),
            XDP_UMEM_PGOFF_FILL_RING => fill,
            XDP_UMEM_PGOFF_COMPLETION_RING => completion,
            _ => None,
        };
        let memory = ring.ok_or(Errno::EINVAL)?;
        if len == 0 || len.checked_next_multiple_of(PAGE_SIZE).is_none_or(|len| len > memory.len()) {
            return Err(Errno::EINVAL);
        }
        Ok(memory.clone())
    }

    /// A ring for another process, which maps the file instead of calling mmap(2).
    ///
    /// # Errors
    ///
    /// As [`RawSocket::mmap`]; `EOPNOTSUPP` if the socket was not made for it ([`super::XskHost::shared_socket`]).
    pub fn ring_file(&self, offset: u64, len: usize) -> Result<OwnedFd, Errno> {
        let memory = self.ring_memory(offset, len)?;
        let fd = memory.fd().ok_or(Errno::EOPNOTSUPP)?;
        fd.try_clone_to_owned().map_err(|_| Errno::EMFILE)
    }

    /// What poll(2) finds now; it sends what is in the TX ring.
    ///
    /// Kernel: `net/xdp/xsk.c xsk_poll, v6.18`
    fn poll_once(&self) -> PollEvents {
        let Ok(link) = self.check_common() else { return PollEvents::default() };
        // What became of it is not poll's to tell.
        let _ = self.generic_xmit(link);
        let readable = self.rx.with(|rx| rx.as_ref().is_some_and(|rx| !rx.ring.is_empty()));
        let writable = locked(&self.tx).as_ref().is_some_and(TxSide::is_writable);
        let mask = |on, e: PollEvents| if on { e.0 } else { 0 };
        PollEvents(mask(readable, PollEvents::IN) | mask(writable, PollEvents::OUT))
    }
}

impl RawSocket for XskSocket {
    fn setsockopt(&self, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        match (level, name) {
            (SOL_XDP, XDP_RX_RING | XDP_TX_RING | XDP_UMEM_FILL_RING | XDP_UMEM_COMPLETION_RING) => {
                self.set_ring(name, value)
            }
            (SOL_XDP, XDP_UMEM_REG) if value.len() < XdpUmemReg::SIZE_V1 => Err(Errno::EINVAL),
            (SOL_XDP, XDP_MAX_TX_SKB_BUDGET) => self.set_budget(value),
            (SOL_SOCKET, _) => self.set_socket_option(name, value),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn register_umem(&self, memory: &Arc<SharedMem>, value: &[u8]) -> Result<(), Errno> {
        let reg = XdpUmemReg::from_bytes(value).ok_or(Errno::EINVAL)?;
        let mut control = locked(&self.control);
        if control.bound || control.umem.is_some() {
            return Err(Errno::EBUSY);
        }
        control.umem = Some(Arc::new(EngineUmem::register(memory, &reg)?));
        Ok(())
    }

    fn getsockopt(&self, level: i32, name: i32, value: &mut [u8]) -> Result<usize, Errno> {
        let put = |value: &mut [u8], bytes: &[u8]| {
            value[..bytes.len()].copy_from_slice(bytes);
            Ok(bytes.len())
        };
        match (level, name) {
            (SOL_XDP, XDP_MMAP_OFFSETS) => {
                let offsets = XdpMmapOffsets { rx: OFFSET, tx: OFFSET, fr: OFFSET, cr: OFFSET };
                let all = offsets.to_bytes();
                match value.len() {
                    XdpMmapOffsets::SIZE.. => put(value, &all),
                    XdpMmapOffsets::SIZE_V1.. => {
                        let v1: Vec<u8> = all.chunks(32).flat_map(|ring| &ring[..24]).copied().collect();
                        put(value, &v1)
                    }
                    _ => Err(Errno::EINVAL),
                }
            }
            (SOL_XDP, XDP_STATISTICS) => {
                let mut stats = self.statistics();
                match value.len() {
                    XdpStatistics::SIZE.. => put(value, &stats.to_bytes()),
                    XdpStatistics::SIZE_V1.. => {
                        stats.rx_dropped += stats.rx_ring_full;
                        put(value, &stats.to_bytes()[..XdpStatistics::SIZE_V1])
                    }
                    _ => Err(Errno::EINVAL),
                }
            }
            (SOL_XDP, XDP_OPTIONS) if value.len() < 4 => Err(Errno::EINVAL),
            (SOL_XDP, XDP_OPTIONS) => put(value, &[0; 4]),
            (SOL_SOCKET, SO_ERROR) if value.len() >= 4 => {
                let error = locked(&self.error).take().map_or(0, Errno::raw);
                put(value, &error.to_le_bytes())
            }
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn mmap(&self, offset: u64, len: usize) -> Result<Arc<SharedMem>, Errno> {
        let memory = self.ring_memory(offset, len)?;
        // As in the kernel, who has a ring mapped has the socket open.
        let keep: Arc<dyn Any + Send + Sync> = self.this();
        Ok(Arc::new(memory.alias(keep)))
    }

    fn bind(&self, addr: &[u8]) -> Result<(), Errno> {
        self.bind_to(addr)
    }

    fn send(&self, wait: bool) -> Result<(), Errno> {
        let link = self.check_common()?;
        if wait {
            return Err(Errno::EOPNOTSUPP);
        }
        if locked(&self.tx).is_none() {
            return Err(Errno::ENOBUFS);
        }
        self.generic_xmit(link)
    }

    fn recv(&self, wait: bool) -> Result<(), Errno> {
        self.check_common()?;
        if self.rx.with(|rx| rx.is_none()) {
            return Err(Errno::ENOBUFS);
        }
        if wait { Err(Errno::EOPNOTSUPP) } else { Ok(()) }
    }

    fn poll(&self, events: PollEvents, timeout: Option<Duration>) -> Result<PollEvents, Errno> {
        let deadline = timeout.map(|t| Instant::now() + t);
        loop {
            if let Some(fd) = self.events.get() {
                // What came so far is looked at now. Nothing to read is as good.
                let _ = rustix::io::read(fd, &mut [0; 8]);
            }
            let found = PollEvents(self.poll_once().0 & events.0);
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            if found != PollEvents::default() || left == Some(Duration::ZERO) {
                return Ok(found);
            }
            let mut sleepers = locked(&self.sleepers);
            *sleepers += 1;
            // Packets may have come between the look and the lock: so no sleep is long. Room to send comes
            // without anybody telling.
            let nap = left.unwrap_or(Duration::MAX).min(Duration::from_millis(1));
            drop(self.woken.wait_timeout(sleepers, nap));
        }
    }

    fn number(&self) -> i32 {
        self.number
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        if self.events.get().is_none() {
            let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
            let events = rustix::event::eventfd(0, flags).ok()?;
            // Someone else may have been faster.
            let _ = self.events.set(events);
        }
        self.events.get().map(AsFd::as_fd)
    }
}

impl Drop for XskSocket {
    fn drop(&mut self) {
        self.release_tx();
        locked(&self.host.sockets).remove(&self.number);
        let told = std::mem::take(&mut locked(&self.hooks).closed);
        told.into_iter().for_each(|f| f());
    }
}

impl std::fmt::Debug for XskSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let to = self.bound().ok().map(|l| (l.ifindex, l.queue));
        f.debug_struct("XskSocket").field("number", &self.number).field("bound", &to).finish_non_exhaustive()
    }
}

/// The number that an option holds; bytes after it do not matter.
fn first_u32(value: &[u8]) -> Result<u32, Errno> {
    value.first_chunk().copied().map(u32::from_le_bytes).ok_or(Errno::EINVAL)
}

/// The other side of a ring that setsockopt(2) has made.
pub(super) fn fill_side(memory: &Arc<SharedMem>, entries: u32) -> Result<Consumer<u64>, Errno> {
    Consumer::new(memory.clone(), &LAYOUT, entries).ok_or(Errno::ENOMEM)
}

/// As [`fill_side`], of a completion ring.
pub(super) fn completion_side(memory: &Arc<SharedMem>, entries: u32) -> Result<Producer<u64>, Errno> {
    Producer::new(memory.clone(), &LAYOUT, entries).ok_or(Errno::ENOMEM)
}
