//! [`Veth`]: a pair of devices; what one sends the other receives. XDP runs on the receiving side.
//!
//! A queue with a program, or with GRO on, has a NAPI and a ring of 256; without, packets go to the CPU's
//! backlog. Frames come by `ndo_xdp_xmit` ([`xmit`]), skbs by `ndo_start_xmit`; [`poll`] takes both from the
//! ring. [`setup`] attaches programs and brings devices up, [`stats`] has the counters.

mod poll;
mod setup;
mod stats;
#[cfg(test)]
mod tests;
mod xmit;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::{Arc, OnceLock, Weak};

use bpf::vm::Program;
use mem::{PtrRing, RcuArray, SpinLock};
use uapi::Errno;

use crate::attach::{Mode, SetupError};
use crate::cow::FragOffset;
use crate::frame::RxqByMem;
use crate::{
    DeviceConfig, DeviceCore, DeviceCounters, NapiCtx, NetDevice, NetdevTx, Polled, RingItem, Skb, Softirq,
    XdpFrame, Xmit, XmitError,
};
use stats::RqStats;

/// Packets that wait in a queue's ring.
pub const VETH_RING_SIZE: u32 = 256;
/// Frames that programs answered `XDP_TX` to, before they are sent.
pub const VETH_XDP_TX_BULK_SIZE: usize = 16;
/// Frames that pass, before they go to the stack.
pub const VETH_XDP_BATCH: usize = 16;

/// One end of a pair.
///
/// Kernel: `drivers/net/veth.c struct veth_priv, v6.18`
#[doc(alias = "veth_priv")]
pub struct Veth {
    core: DeviceCore,
    peer: OnceLock<Weak<Veth>>,
    rqs: Box<[VethRq]>,
    /// A native program is attached, also while the device is down.
    has_program: AtomicBool,
    program: RcuArray<Arc<Program>>,
    /// Packets of `ndo_start_xmit` that were lost, and frames without a receiver.
    dropped: AtomicU64,
}

/// A receive queue.
///
/// Kernel: `drivers/net/veth.c struct veth_rq, v6.18`
#[doc(alias = "veth_rq")]
struct VethRq {
    index: u32,
    ring: PtrRing<RingItem>,
    /// `rq->napi`: the queue has a NAPI, so others may put packets into the ring.
    napi: AtomicBool,
    /// `rq->xdp_prog`: the program, while the device is up.
    program: RcuArray<Arc<Program>>,
    /// The NAPI is scheduled or runs, so that nobody has to schedule it.
    rx_notify_masked: AtomicBool,
    rxq: RxqByMem,
    frags: SpinLock<FragOffset>,
    stats: RqStats,
    /// The sender's queue has stopped because the ring was full.
    tx_stopped: AtomicBool,
}

impl Veth {
    /// A pair of devices, both down.
    #[must_use]
    pub fn pair(a: (u32, DeviceConfig), b: (u32, DeviceConfig)) -> (Arc<Self>, Arc<Self>) {
        let (a, b) = (Arc::new(Self::new(a.0, a.1)), Arc::new(Self::new(b.0, b.1)));
        let unset = a.peer.set(Arc::downgrade(&b)).is_ok() && b.peer.set(Arc::downgrade(&a)).is_ok();
        assert!(unset, "new devices have no peer");
        a.update_features();
        b.update_features();
        (a, b)
    }

    fn new(ifindex: u32, config: DeviceConfig) -> Self {
        let rqs = (0..config.rx_queues.max(1)).map(|i| VethRq::new(ifindex, i)).collect();
        Self {
            core: DeviceCore::new(ifindex, config),
            peer: OnceLock::new(),
            rqs,
            has_program: AtomicBool::new(false),
            program: RcuArray::new(1).expect("one slot"),
            dropped: AtomicU64::new(0),
        }
    }

    /// The other end, unless it is gone.
    #[must_use]
    pub fn peer(&self) -> Option<Arc<Self>> {
        self.peer.get()?.upgrade()
    }

    /// The queue that frames go to from a CPU.
    ///
    /// Kernel: `drivers/net/veth.c veth_select_rxq, v6.18`
    #[doc(alias = "veth_select_rxq")]
    fn select_rq(&self, cpu: u32) -> &VethRq {
        &self.rqs[(cpu % self.core.rx_queues()) as usize]
    }

    /// Lets the queue's NAPI run, unless it will anyway.
    ///
    /// Kernel: `drivers/net/veth.c __veth_xdp_flush, v6.18`
    #[doc(alias = "__veth_xdp_flush")]
    fn flush_rq(&self, rq: &VethRq, cx: &mut Softirq<'_>) {
        if rq.rx_notify_masked.swap(true, AcqRel) {
            return;
        }
        match cx.device(self.core.ifindex).cloned() {
            Some(me) => cx.napi_schedule(&me, rq.index),
            None => rq.rx_notify_masked.store(false, Release),
        }
    }
}

impl VethRq {
    fn new(ifindex: u32, index: u32) -> Self {
        Self {
            index,
            ring: PtrRing::new(VETH_RING_SIZE),
            napi: AtomicBool::new(false),
            program: RcuArray::new(1).expect("one slot"),
            rx_notify_masked: AtomicBool::new(false),
            rxq: RxqByMem::new(ifindex, index),
            frags: SpinLock::default(),
            stats: RqStats::default(),
            tx_stopped: AtomicBool::new(false),
        }
    }
}

impl NetDevice for Veth {
    fn core(&self) -> &DeviceCore {
        &self.core
    }

    fn poll(&self, queue: u32, budget: u32, cx: NapiCtx<'_, '_>) -> Polled {
        match self.rqs.get(queue as usize) {
            Some(rq) => self.poll_rq(rq, budget, cx),
            None => cx.complete(0, false),
        }
    }

    fn ndo_xdp_xmit(
        &self,
        cx: &mut Softirq<'_>,
        frames: &mut Vec<XdpFrame>,
        flags: u32,
    ) -> Result<Xmit, XmitError> {
        self.xdp_xmit_from_outside(cx, frames, flags)
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
        if up {
            self.open();
            return Ok(Vec::new());
        }
        Ok(self.close())
    }

    fn rx_metadata_features(&self) -> u64 {
        7
    }

    fn ethtool_stats(&self, out: &mut Vec<(String, u64)>) {
        self.ethtool(out);
    }

    fn link_stats(&self) -> DeviceCounters {
        self.rtnl_stats()
    }

    fn waiting_frames(&self) -> u64 {
        self.rqs.iter().map(|rq| rq.stats.waiting_frames()).sum()
    }
}
