//! [`Socket`]: opens a socket on any home in the kernel's order, and wakes the other side.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use mem::spsc::{Consumer, Producer, RingEntry, RingLayout, ring_bytes};
use mem::{PAGE_SIZE, SharedMem};
use uapi::Errno;
use uapi::if_xdp::*;

use crate::port::{Home, PollEvents, RawSocket};
use crate::rings::{CompletionRing, FillRing, RxRing, TxRing};
use crate::umem::{Bound, Umem};
use crate::{SetupError, Step};

/// `SOL_SOCKET` and what busy polling needs of it.
const SOL_SOCKET: i32 = 1;
const SO_BUSY_POLL: i32 = 46;
const SO_PREFER_BUSY_POLL: i32 = 69;
const SO_BUSY_POLL_BUDGET: i32 = 70;

/// How packets get into the memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Zero-copy if the driver can, else copy.
    #[default]
    Auto,
    /// Copied.
    Copy,
    /// Zero-copy, or the socket is refused.
    ZeroCopy,
}

/// The application's thread runs the driver's poll itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BusyPoll {
    /// How long a system call may poll, microseconds.
    pub timeout_us: u32,
    /// Packets that one poll may handle.
    pub budget: u32,
}

/// What a socket is opened with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SocketConfig {
    /// Device.
    pub ifindex: u32,
    /// Queue of the device.
    pub queue: u32,
    /// Entries of the RX ring, a power of two; 0 for a socket that only sends.
    pub rx_entries: u32,
    /// Entries of the TX ring, a power of two; 0 for a socket that only receives.
    pub tx_entries: u32,
    /// Entries of the fill ring, unless the queue has one already.
    pub fill_entries: u32,
    /// Entries of the completion ring, unless the queue has one already.
    pub completion_entries: u32,
    /// How packets get into the memory.
    pub mode: Mode,
    /// The driver may sleep, and says so in the rings' flags.
    pub need_wakeup: bool,
    /// Packets may come in several frames.
    pub multi_buffer: bool,
    /// Poll the driver from the application.
    pub busy_poll: Option<BusyPoll>,
}

impl SocketConfig {
    /// libxdp's: rings of 2048 entries, with `need_wakeup`.
    #[must_use]
    pub fn new(ifindex: u32, queue: u32) -> Self {
        Self {
            ifindex,
            queue,
            rx_entries: 2048,
            tx_entries: 2048,
            fill_entries: 2048,
            completion_entries: 2048,
            mode: Mode::Auto,
            need_wakeup: true,
            multi_buffer: false,
            busy_poll: None,
        }
    }

    fn bind_flags(&self) -> u16 {
        let flag = |on, bit| if on { bit } else { 0 };
        flag(self.mode == Mode::Copy, XDP_COPY)
            | flag(self.mode == Mode::ZeroCopy, XDP_ZEROCOPY)
            | flag(self.need_wakeup, XDP_USE_NEED_WAKEUP)
            | flag(self.multi_buffer, XDP_USE_SG)
    }
}

/// What became of a wakeup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wakeup {
    /// Everything was taken that was there.
    Done,
    /// There is more: the budget of 32 was used up, the completion ring is full, or memory is short.
    Again,
    /// A packet was dropped: the device, its queue or its peer did not take it.
    Dropped,
}

/// A bound socket. Its rings can be taken out and used from threads of their own.
///
/// Kernel: `net/xdp/xsk.c struct xdp_sock, v6.18`
#[doc(alias = "xsk_socket")]
pub struct Socket<'u> {
    /// Packets that were received, unless the socket only sends.
    pub rx: Option<RxRing<'u>>,
    /// Packets to send, unless the socket only receives.
    pub tx: Option<TxRing<'u>>,
    /// Frames to receive into. The first socket of a queue has it, those that share the queue do not.
    pub fill: Option<FillRing<'u>>,
    /// Frames that were sent, with the first socket of a queue.
    pub completion: Option<CompletionRing<'u>>,
    raw: Arc<dyn RawSocket>,
    config: SocketConfig,
}

impl<'u> Socket<'u> {
    /// Opens a socket and binds it. The first socket registers the memory; those that follow share it, and
    /// the fill and completion rings if they are for a queue that has them.
    ///
    /// # Errors
    ///
    /// The step that failed, with the kernel's errno.
    pub fn open(home: &dyn Home, umem: &'u Umem, config: SocketConfig) -> Result<Self, SetupError> {
        let raw = home.open().map_err(at(Step::Open))?;
        let mut bound = umem.bound.lock().unwrap_or_else(PoisonError::into_inner);
        bound.retain(|b| b.socket.strong_count() > 0);
        let parents: Vec<_> =
            bound.iter().filter_map(|b| Some((b.socket.upgrade()?, b.ifindex, b.queue))).collect();
        let same = parents.iter().find(|(_, i, q)| (*i, *q) == (config.ifindex, config.queue));
        let parent = same.or(parents.first());
        if parent.is_none() {
            let registration = umem.registration().to_bytes();
            raw.register_umem(umem.memory(), &registration).map_err(at(Step::RegisterUmem))?;
        }
        let own_queues = same.is_none();
        let set = |step, name, entries: u32| {
            raw.setsockopt(SOL_XDP, name, &entries.to_le_bytes()).map_err(at(step))
        };
        if own_queues {
            set(Step::FillRing, XDP_UMEM_FILL_RING, config.fill_entries)?;
            set(Step::CompletionRing, XDP_UMEM_COMPLETION_RING, config.completion_entries)?;
        }
        if config.rx_entries > 0 {
            set(Step::RxRing, XDP_RX_RING, config.rx_entries)?;
        }
        if config.tx_entries > 0 {
            set(Step::TxRing, XDP_TX_RING, config.tx_entries)?;
        }
        let mut socket = Self { rx: None, tx: None, fill: None, completion: None, raw, config };
        socket.map_rings(umem, own_queues)?;
        socket.set_busy_poll()?;
        let addr = SockaddrXdp {
            family: AF_XDP,
            flags: if parent.is_some() { XDP_SHARED_UMEM } else { config.bind_flags() },
            ifindex: config.ifindex,
            queue_id: config.queue,
            shared_umem_fd: parent.map_or(0, |(p, ..)| p.number() as u32),
        };
        socket.raw.bind(&addr.to_bytes()).map_err(at(Step::Bind))?;
        let weak = Arc::downgrade(&socket.raw);
        bound.push(Bound { socket: weak, ifindex: config.ifindex, queue: config.queue });
        Ok(socket)
    }

    fn map_rings(&mut self, umem: &'u Umem, own_queues: bool) -> Result<(), SetupError> {
        let mut bytes = [0; XdpMmapOffsets::SIZE];
        let len = self.raw.getsockopt(SOL_XDP, XDP_MMAP_OFFSETS, &mut bytes).map_err(at(Step::Offsets))?;
        if len != bytes.len() {
            return Err(SetupError { step: Step::Offsets, errno: Errno::EOPNOTSUPP });
        }
        let offsets = XdpMmapOffsets::from_bytes(&bytes);
        let config = self.config;
        let raw = &self.raw;
        if config.rx_entries > 0 {
            let (m, l) = map::<XdpDesc>(raw, XDP_PGOFF_RX_RING, &offsets.rx, config.rx_entries)?;
            self.rx = Some(RxRing::new(umem, made(Consumer::new(m, &l, config.rx_entries))?));
        }
        if config.tx_entries > 0 {
            let (m, l) = map::<XdpDesc>(raw, XDP_PGOFF_TX_RING, &offsets.tx, config.tx_entries)?;
            self.tx = Some(TxRing::new(umem, made(Producer::new(m, &l, config.tx_entries))?));
        }
        if own_queues {
            let n = config.fill_entries;
            let (m, l) = map::<u64>(raw, XDP_UMEM_PGOFF_FILL_RING, &offsets.fr, n)?;
            self.fill = Some(FillRing::new(umem, made(Producer::new(m, &l, n))?));
            let n = config.completion_entries;
            let (m, l) = map::<u64>(raw, XDP_UMEM_PGOFF_COMPLETION_RING, &offsets.cr, n)?;
            self.completion = Some(CompletionRing::new(umem, made(Consumer::new(m, &l, n))?));
        }
        Ok(())
    }

    fn set_busy_poll(&self) -> Result<(), SetupError> {
        let Some(BusyPoll { timeout_us, budget }) = self.config.busy_poll else { return Ok(()) };
        for (name, value) in
            [(SO_PREFER_BUSY_POLL, 1), (SO_BUSY_POLL, timeout_us), (SO_BUSY_POLL_BUDGET, budget)]
        {
            self.raw.setsockopt(SOL_SOCKET, name, &value.to_le_bytes()).map_err(at(Step::BusyPoll))?;
        }
        Ok(())
    }

    /// What it was opened with.
    #[must_use]
    pub fn config(&self) -> &SocketConfig {
        &self.config
    }

    /// The socket as the system calls see it.
    #[must_use]
    pub fn raw(&self) -> &Arc<dyn RawSocket> {
        &self.raw
    }

    /// The number that an xskmap takes.
    #[must_use]
    pub fn number(&self) -> i32 {
        self.raw.number()
    }

    /// The descriptor for epoll(7), if the home has one.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.raw.fd()
    }

    /// Wakes the side that sends.
    ///
    /// # Errors
    ///
    /// `ENETDOWN` if the device is down, `ENXIO` if it is gone, `EINVAL` for TX metadata that is wrong, and
    /// whatever else the kernel answers.
    #[inline]
    pub fn wake_tx(&self) -> Result<Wakeup, Errno> {
        match self.raw.send(false) {
            Ok(()) => Ok(Wakeup::Done),
            Err(Errno::EAGAIN | Errno::ENOBUFS) => Ok(Wakeup::Again),
            Err(Errno::EBUSY) => Ok(Wakeup::Dropped),
            Err(errno) => Err(errno),
        }
    }

    /// Wakes the driver's receive side.
    ///
    /// # Errors
    ///
    /// As [`Socket::wake_tx`].
    #[inline]
    pub fn wake_rx(&self) -> Result<(), Errno> {
        self.raw.recv(false)
    }

    /// Waits until packets wait, or there is room to send; `None` waits for ever. In copy mode this also
    /// sends what is in the TX ring, as in the kernel.
    ///
    /// # Errors
    ///
    /// What poll(2) answers.
    pub fn poll(&self, events: PollEvents, timeout: Option<Duration>) -> Result<PollEvents, Errno> {
        self.raw.poll(events, timeout)
    }

    /// The six counters.
    ///
    /// # Errors
    ///
    /// What getsockopt(2) answers.
    pub fn statistics(&self) -> Result<XdpStatistics, Errno> {
        let mut bytes = [0; XdpStatistics::SIZE];
        self.raw.getsockopt(SOL_XDP, XDP_STATISTICS, &mut bytes)?;
        Ok(XdpStatistics::from_bytes(&bytes))
    }

    /// Whether packets are not copied.
    ///
    /// # Errors
    ///
    /// What getsockopt(2) answers.
    pub fn is_zerocopy(&self) -> Result<bool, Errno> {
        let mut bytes = [0; 4];
        self.raw.getsockopt(SOL_XDP, XDP_OPTIONS, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes) & XDP_OPTIONS_ZEROCOPY != 0)
    }

    /// Sets how many descriptors one wakeup sends in copy mode: 32 to the entries of the TX ring.
    ///
    /// # Errors
    ///
    /// `EACCES` outside of that range; `ENOPROTOOPT` on kernels before 6.17.
    pub fn set_max_tx_budget(&self, descriptors: u32) -> Result<(), Errno> {
        self.raw.setsockopt(SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &descriptors.to_le_bytes())
    }
}

impl std::fmt::Debug for Socket<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").field("config", &self.config).finish_non_exhaustive()
    }
}

fn at(step: Step) -> impl Fn(Errno) -> SetupError {
    move |errno| SetupError { step, errno }
}

/// A ring that does not lie in what was mapped: the home has answered nonsense.
fn made<T>(ring: Option<T>) -> Result<T, SetupError> {
    ring.ok_or(SetupError { step: Step::Map, errno: Errno::EINVAL })
}

fn map<T: RingEntry>(
    raw: &Arc<dyn RawSocket>,
    pgoff: u64,
    offset: &XdpRingOffset,
    entries: u32,
) -> Result<(Arc<SharedMem>, RingLayout), SetupError> {
    let layout = RingLayout {
        producer: offset.producer as usize,
        consumer: offset.consumer as usize,
        flags: offset.flags as usize,
        entries: offset.desc as usize,
    };
    let len = made(ring_bytes::<T>(&layout, entries).and_then(|n| n.checked_next_multiple_of(PAGE_SIZE)))?;
    Ok((raw.mmap(pgoff, len).map_err(at(Step::Map))?, layout))
}
