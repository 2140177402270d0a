//! [`VirtioNet`]: a network device whose other end takes part in virtqueues, in this process or another.
//!
//! A queue pair has a receive queue with a NAPI and a send queue. `buffers` fills receive queues and knows the
//! geometry of buffers, `intake` makes a packet of what the device used, `receive` polls and runs the program,
//! `xmit` sends, `setup` attaches programs and brings devices up, `control` sends commands, `stats` has the
//! counters. [`Backend`] is the device's end; [`HostSide`] is one within this process.
//!
//! The device sees rings and buffers in memory of their own and nothing else. Packets are copied out of it when
//! the device has used them, and into it when they are sent, so that nobody can change a packet after a program
//! has judged it. In the kernel's words: the device is not trusted, and all of its DMA bounces
//! (`swiotlb=force`). The geometry that programs see is that of a driver which does not copy.

mod arena;
mod backend;
mod buffers;
mod control;
mod header;
mod host;
mod intake;
mod receive;
mod setup;
mod stats;
#[cfg(test)]
mod tests;
mod xmit;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bpf::vm::Program;
use mem::virtq::{DriverQueue, QueueLayout};
use mem::{RcuArray, RxqInfo, SharedMem, SpinLock};
use uapi::Errno;
use uapi::virtio_net::*;

use crate::attach::{Mode, SetupError};
use crate::{
    DeviceConfig, DeviceCore, DeviceCounters, Feature, NapiCtx, NetDevice, NetdevTx, Polled, RingItem, Skb,
    Softirq, XdpFrame, Xmit, XmitError,
};
use arena::{Arena, PAGE};
use backend::{has, ring_features};
use buffers::{RxBuf, RxMode, RxQueue};
use control::Control;
use stats::{RqStats, SqStats};
use xmit::TxQueue;

pub use backend::{Backend, DeviceSide};
pub use header::Header;
pub use host::{HostSide, HostStats};

/// Descriptors of a ring, unless asked for otherwise.
pub const VIRTIO_RING_SIZE: u16 = 256;

/// What a virtio device is made with.
#[derive(Clone, Debug)]
pub struct VirtioConfig {
    /// Name, address, MTU; its queues are not looked at.
    pub device: DeviceConfig,
    /// Feature bits that both ends agree on.
    pub features: u64,
    /// Queue pairs that the device has; one without `MQ` and `CTRL_VQ`.
    pub max_queue_pairs: u16,
    /// CPUs of the host: so many more queue pairs are wanted for programs.
    pub cpus: u32,
    /// Descriptors of a ring: a power of two.
    pub ring_size: u16,
}

impl VirtioConfig {
    /// A device with one queue pair as modern hypervisors make it: mergeable buffers, event index, indirect
    /// descriptors, a control queue by which offloads towards the driver can be changed.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let bits = [
            VIRTIO_F_VERSION_1,
            VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
            VIRTIO_NET_F_CTRL_VQ,
            VIRTIO_NET_F_MQ,
            VIRTIO_NET_F_MRG_RXBUF,
            uapi::virtio_ring::VIRTIO_RING_F_EVENT_IDX,
            uapi::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC,
        ];
        Self {
            device: DeviceConfig::new(name),
            features: bits.into_iter().fold(0, |all, bit| all | 1 << bit),
            max_queue_pairs: 1,
            cpus: 1,
            ring_size: VIRTIO_RING_SIZE,
        }
    }
}

/// The driver's end of a virtio network device.
///
/// Kernel: `drivers/net/virtio_net.c struct virtnet_info, v6.18`
#[doc(alias = "virtnet_info")]
pub struct VirtioNet {
    core: DeviceCore,
    memory: Arc<SharedMem>,
    features: u64,
    hdr_len: u32,
    mode: RxMode,
    rqs: Box<[Rq]>,
    sqs: Box<[Sq]>,
    cpus: u32,
    /// Queue pairs in use, those for programs included, and above them those for programs alone: both change at
    /// once.
    pairs: AtomicU64,
    xdp_enabled: AtomicBool,
    /// Offloads that are on, and that the device has.
    offloads: AtomicU64,
    offloads_capable: u64,
    rxhash: AtomicBool,
    control: Mutex<Control>,
    backend: OnceLock<Arc<dyn Backend>>,
    /// Packets may wait whose interrupts came while the device was down.
    catch_up: AtomicBool,
    /// The device's end is scheduled or works.
    worker: AtomicBool,
    rx_length_errors: AtomicU64,
    rx_frame_errors: AtomicU64,
    /// What the driver warned of once.
    warning: Mutex<Option<String>>,
}

/// A receive queue.
///
/// Kernel: `drivers/net/virtio_net.c struct receive_queue, v6.18`
#[doc(alias = "receive_queue")]
struct Rq {
    index: u32,
    program: RcuArray<Arc<Program>>,
    /// Locked for as long as a packet takes to get out of it.
    queue: SpinLock<RxQueue>,
    /// The NAPI is scheduled or runs.
    scheduled: AtomicBool,
    rxq: RxqInfo,
    stats: RqStats,
}

/// A send queue.
///
/// Kernel: `drivers/net/virtio_net.c struct send_queue, v6.18`
#[doc(alias = "send_queue")]
struct Sq {
    index: u32,
    /// Also the lock that stack and programs send under.
    queue: SpinLock<TxQueue>,
    scheduled: AtomicBool,
    /// The stack has to wait.
    stopped: AtomicBool,
    stats: SqStats,
}

/// Where the parts of the memory go.
struct Plan {
    next: usize,
    layouts: Vec<QueueLayout>,
}

impl Plan {
    /// A ring with its tables: answers where the tables are.
    fn ring(&mut self, size: u16) -> (QueueLayout, usize) {
        let (layout, end) = QueueLayout::at(self.next, size);
        let tables = end.next_multiple_of(16);
        self.next = tables + DriverQueue::<()>::tables_len(size);
        self.layouts.push(layout);
        (layout, tables)
    }

    fn pages(&mut self, pages: usize) -> Arena {
        let base = self.next.next_multiple_of(PAGE as usize);
        self.next = base + pages * PAGE as usize;
        Arena::new(base, pages)
    }
}

/// One queue before its memory is there.
struct Planned {
    /// The ring, and where its tables are.
    ring: (QueueLayout, usize),
    arena: Arena,
}

impl VirtioNet {
    /// A device that is down, and what its other end needs.
    ///
    /// # Errors
    ///
    /// What mapping the memory answers; `EINVAL` for a size that is no power of two.
    ///
    /// Kernel: `drivers/net/virtio_net.c virtnet_probe, v6.18`
    #[doc(alias = "virtnet_probe")]
    pub fn new(ifindex: u32, config: VirtioConfig) -> io::Result<(Arc<Self>, DeviceSide)> {
        let VirtioConfig { mut device, features, max_queue_pairs, cpus, ring_size } = config;
        if !ring_size.is_power_of_two() || ring_size > uapi::virtio_ring::VRING_SIZE_MAX || cpus == 0 {
            return Err(io::Error::from_raw_os_error(Errno::EINVAL.raw()));
        }
        let max_pairs = max_pairs(features, max_queue_pairs);
        let curr = u32::from(max_pairs).min(cpus);
        (device.rx_queues, device.tx_queues) = (curr, curr);
        let mode = RxMode::of(features, device.mtu);
        let mut plan = Plan { next: 0, layouts: Vec::new() };
        let planned: Vec<_> =
            (0..max_pairs).map(|_| plan_pair(&mut plan, mode, features, ring_size)).collect();
        let control = plan.ring(control::RING_SIZE);
        let control_page = plan.pages(1).offset(0);
        let (memory, fd) = SharedMem::memfd(plan.next)?;
        let (memory, fd) = (Arc::new(memory), Arc::new(fd));
        let hdr_len = hdr_len(features);
        let queues = plan.layouts;
        let side = DeviceSide { memory: memory.clone(), fd, queues, features, hdr_len: hdr_len as usize };
        let mtu = device.mtu;
        let core = DeviceCore::new(ifindex, device);
        if has(features, VIRTIO_NET_F_MTU) {
            core.max_mtu.store(mtu, Relaxed);
        }
        let (mut rqs, mut sqs) = (Vec::new(), Vec::new());
        for (i, (rx, tx)) in (0..).zip(planned) {
            let vq = ring(&memory, rx.ring, features);
            rqs.push(Rq::new(ifindex, i, RxQueue::new(vq, rx.arena, mode, hdr_len, core.max_mtu())));
            sqs.push(Sq::new(i, TxQueue::new(ring(&memory, tx.ring, features), tx.arena)));
        }
        let vq = has(features, VIRTIO_NET_F_CTRL_VQ).then(|| ring(&memory, control, features));
        let control = Control::new(vq, control_page, 2 * max_pairs);
        let offloads = features & guest_offloads();
        let net = Self {
            core,
            memory,
            features,
            hdr_len,
            mode,
            rqs: rqs.into(),
            sqs: sqs.into(),
            cpus,
            pairs: AtomicU64::new(curr.into()),
            xdp_enabled: AtomicBool::new(false),
            offloads: AtomicU64::new(offloads),
            offloads_capable: offloads,
            rxhash: AtomicBool::new(false),
            control: Mutex::new(control),
            backend: OnceLock::new(),
            catch_up: AtomicBool::new(false),
            worker: AtomicBool::new(false),
            rx_length_errors: AtomicU64::new(0),
            rx_frame_errors: AtomicU64::new(0),
            warning: Mutex::new(None),
        };
        net.update_features(false);
        Ok((Arc::new(net), side))
    }

    /// Connects the device's end; `false` if there is one already.
    pub fn connect(&self, backend: Arc<dyn Backend>) -> bool {
        self.backend.set(backend).is_ok()
    }

    /// Feature bits of `xdp-features`. Zero-copy AF_XDP is not there, so its bit is not either.
    fn update_features(&self, redirect_target: bool) {
        let sg = if self.mode == RxMode::Mergeable { Feature::RX_SG } else { 0 };
        let xmit = if redirect_target { Feature::NDO_XMIT | Feature::NDO_XMIT_SG } else { 0 };
        self.core.xdp_features.store(Feature::BASIC | Feature::REDIRECT | sg | xmit, Release);
    }

    /// Queue pairs that the device has.
    #[must_use]
    pub fn max_queue_pairs(&self) -> u32 {
        self.rqs.len() as u32
    }

    /// Queue pairs in use, and those of them that are for programs alone.
    #[must_use]
    pub fn queue_pairs(&self) -> (u32, u32) {
        let pairs = self.pairs.load(Acquire);
        (pairs as u32, (pairs >> 32) as u32)
    }

    /// What the driver has warned of, if it did: too few queues for a program.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        self.warning.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `rx_length_errors` and `rx_frame_errors` of `ip -s -s link`.
    #[must_use]
    pub fn rx_errors(&self) -> (u64, u64) {
        (self.rx_length_errors.load(Relaxed), self.rx_frame_errors.load(Relaxed))
    }

    /// Queues that the device broke by returning what it did not have: they are out of use.
    #[must_use]
    pub fn broken_queues(&self) -> Vec<u16> {
        let rx = self.rqs.iter().map(|rq| (rx_queue(rq.index), rq.queue.with(|q| q.vq.is_broken())));
        let tx = self.sqs.iter().map(|sq| (tx_queue(sq.index), sq.queue.with(|q| q.vq.is_broken())));
        rx.chain(tx).filter(|(_, broken)| *broken).map(|(queue, _)| queue).collect()
    }

    /// The number of a poll that is not a receive queue's: send queues come behind, then the device's end.
    fn tx_napi(&self, index: u32) -> u32 {
        self.max_queue_pairs() + index
    }

    fn worker_napi(&self) -> u32 {
        2 * self.max_queue_pairs()
    }

    /// Schedules a poll unless it is; answers whether it was not.
    fn schedule(&self, cx: &mut Softirq<'_>, flag: &AtomicBool, napi: u32) -> bool {
        if flag.swap(true, AcqRel) {
            return false;
        }
        match cx.device(self.core.ifindex).cloned() {
            Some(me) => cx.napi_schedule(&me, napi),
            None => flag.store(false, Release),
        }
        true
    }

    /// The device has used buffers of a queue and the driver wanted to hear of it.
    ///
    /// Kernel: `drivers/net/virtio_net.c skb_recv_done, skb_xmit_done, v6.18`
    #[doc(alias = "skb_recv_done")]
    #[doc(alias = "skb_xmit_done")]
    pub fn interrupt(&self, cx: &mut Softirq<'_>, queue: u16) {
        let index = usize::from(queue / 2);
        if !self.core.is_up() || index >= self.rqs.len() {
            return;
        }
        self.catch_up(cx);
        if queue.is_multiple_of(2) {
            let rq = &self.rqs[index];
            if self.schedule(cx, &rq.scheduled, rq.index) {
                rq.queue.with(|q| q.vq.disable_cb());
            }
        } else {
            let sq = &self.sqs[index];
            if self.schedule(cx, &sq.scheduled, self.tx_napi(sq.index)) {
                sq.queue.with(|q| q.vq.disable_cb());
            }
        }
    }

    /// Schedules all receive queues when the device has come up. The kernel does so at once; here it takes a
    /// CPU, and the first that has something to do with the device does it.
    ///
    /// Kernel: `drivers/net/virtio_net.c virtnet_napi_enable, v6.18`
    #[doc(alias = "virtnet_napi_enable")]
    fn catch_up(&self, cx: &mut Softirq<'_>) {
        if self.catch_up.swap(false, AcqRel) {
            for rq in &self.rqs {
                self.schedule(cx, &rq.scheduled, rq.index);
            }
        }
    }

    /// Tells the device's end that there are buffers in a queue.
    ///
    /// Kernel: `drivers/virtio/virtio_ring.c virtqueue_notify, v6.18`
    #[doc(alias = "virtqueue_notify")]
    fn notify(&self, cx: &mut Softirq<'_>, queue: u16) {
        self.catch_up(cx);
        if self.backend.get().is_some_and(|b| b.notify(queue)) {
            self.schedule(cx, &self.worker, self.worker_napi());
        }
    }

    /// Lets the device's end work.
    fn poll_worker(&self, mut napi: NapiCtx<'_, '_>) -> Polled {
        self.worker.store(false, Release);
        let again = self.backend.get().is_some_and(|b| b.poll(napi.softirq()));
        let again = again && !self.worker.swap(true, AcqRel);
        napi.complete(0, again)
    }
}

/// Numbers of virtqueues: receive and transmit in turns.
///
/// Kernel: `drivers/net/virtio_net.c rxq2vq, txq2vq, v6.18`
#[doc(alias = "rxq2vq")]
const fn rx_queue(index: u32) -> u16 {
    2 * index as u16
}

#[doc(alias = "txq2vq")]
const fn tx_queue(index: u32) -> u16 {
    2 * index as u16 + 1
}

fn max_pairs(features: u64, wanted: u16) -> u16 {
    let several = has(features, VIRTIO_NET_F_MQ) && has(features, VIRTIO_NET_F_CTRL_VQ);
    if several && (1..=VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MAX / 2).contains(&wanted) { wanted } else { 1 }
}

fn hdr_len(features: u64) -> u32 {
    let len = if has(features, VIRTIO_NET_F_HASH_REPORT) {
        VIRTIO_NET_HDR_HASH_LEN
    } else if has(features, VIRTIO_NET_F_MRG_RXBUF) || has(features, VIRTIO_F_VERSION_1) {
        VIRTIO_NET_HDR_MRG_LEN
    } else {
        VIRTIO_NET_HDR_LEN
    };
    len as u32
}

/// Offloads towards the driver that can be turned on and off.
fn guest_offloads() -> u64 {
    gro_hw() | 1 << VIRTIO_NET_F_GUEST_CSUM
}

/// Offloads by which the device merges packets.
fn gro_hw() -> u64 {
    let bits = [
        VIRTIO_NET_F_GUEST_TSO4,
        VIRTIO_NET_F_GUEST_TSO6,
        VIRTIO_NET_F_GUEST_ECN,
        VIRTIO_NET_F_GUEST_UFO,
        VIRTIO_NET_F_GUEST_USO4,
        VIRTIO_NET_F_GUEST_USO6,
    ];
    bits.into_iter().fold(0, |all, bit| all | 1 << bit)
}

fn plan_pair(plan: &mut Plan, mode: RxMode, features: u64, size: u16) -> (Planned, Planned) {
    let rx = plan.ring(size);
    let chains = if ring_features(features).indirect { usize::from(size) * mode.pages() } else { 0 };
    let rx = Planned { ring: rx, arena: plan.pages(chains.max(usize::from(size))) };
    let tx = plan.ring(size);
    let pages = 2 * usize::from(size).max(mem::virtq::CHAIN_MAX);
    (rx, Planned { ring: tx, arena: plan.pages(pages) })
}

fn ring<T>(memory: &Arc<SharedMem>, (layout, tables): (QueueLayout, usize), features: u64) -> DriverQueue<T> {
    let queue = DriverQueue::new(memory.clone(), layout, tables, ring_features(features));
    queue.expect("the memory was made for it")
}

impl Rq {
    fn new(ifindex: u32, index: u32, queue: RxQueue) -> Self {
        Self {
            index,
            program: RcuArray::new(1).expect("one slot"),
            queue: SpinLock::new(queue),
            scheduled: AtomicBool::new(false),
            // MEM_TYPE_PAGE_SHARED, and fragments that cannot grow.
            rxq: RxqInfo { ifindex, queue_index: index, mem_type: 0, frag_size: 0 },
            stats: RqStats::default(),
        }
    }
}

impl Sq {
    fn new(index: u32, queue: TxQueue) -> Self {
        Self {
            index,
            queue: SpinLock::new(queue),
            scheduled: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            stats: SqStats::default(),
        }
    }
}

impl NetDevice for VirtioNet {
    fn core(&self) -> &DeviceCore {
        &self.core
    }

    fn poll(&self, queue: u32, budget: u32, cx: NapiCtx<'_, '_>) -> Polled {
        let index = queue as usize;
        if let Some(rq) = self.rqs.get(index) {
            self.poll_rq(rq, budget, cx)
        } else if let Some(sq) = self.sqs.get(index - self.rqs.len()) {
            self.poll_sq(sq, cx)
        } else {
            self.poll_worker(cx)
        }
    }

    fn ndo_xdp_xmit(
        &self,
        cx: &mut Softirq<'_>,
        frames: &mut Vec<XdpFrame>,
        flags: u32,
    ) -> Result<Xmit, XmitError> {
        self.xdp_xmit(cx, frames, flags)
    }

    fn ndo_start_xmit(&self, cx: &mut Softirq<'_>, skb: Box<Skb>) -> NetdevTx {
        self.start_xmit(cx, skb)
    }

    fn has_ndo_bpf(&self) -> bool {
        true
    }

    fn ndo_bpf(&self, mode: Mode, program: Option<&Arc<Program>>) -> Result<(), SetupError> {
        match mode {
            Mode::Drv => self.xdp_set(program),
            _ => Err(SetupError::bare(Errno::EINVAL)),
        }
    }

    fn set_up(&self, up: bool) -> Result<Vec<RingItem>, Errno> {
        self.core.up.store(up, Release);
        if up {
            self.open();
        }
        Ok(Vec::new())
    }

    fn rx_metadata_features(&self) -> u64 {
        /// `NETDEV_XDP_RX_METADATA_HASH`.
        const HASH: u64 = 2;
        if has(self.features, VIRTIO_NET_F_HASH_REPORT) { HASH } else { 0 }
    }

    fn ethtool_stats(&self, out: &mut Vec<(String, u64)>) {
        self.ethtool(out);
    }

    fn link_stats(&self) -> DeviceCounters {
        self.rtnl_stats()
    }
}

/// A receive buffer by name, for modules beside this one.
type Used = (RxBuf, u32);
