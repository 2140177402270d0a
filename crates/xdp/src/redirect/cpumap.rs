//! Redirect to other CPUs: bulk queues of 8, the ring of an entry, and what its thread does with frames.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};

use bpf::maps::{CpuEntry, Map};
use bpf::vm::Program;
use mem::{PtrRing, RxqInfo};
use uapi::Errno;
use uapi::xdp::XdpAction;

use super::{Enqueued, RedirectError};
use crate::{DeviceCore, DropReason, Skb, Softirq, TraceEvent, Tracepoint, XdpFrame};

/// Frames that wait for one CPU on another before they go to its ring, and that its thread takes at once.
pub const CPU_MAP_BULK_SIZE: usize = 8;

/// What waits in the ring of a cpumap entry.
pub enum CpuItem {
    /// From native XDP.
    Frame(XdpFrame),
    /// From generic XDP.
    Skb(Box<Skb>),
}

/// What a cpumap entry is for the data path: the ring to its CPU, and the thread there.
///
/// Kernel: `kernel/bpf/cpumap.c struct bpf_cpu_map_entry, v6.18`
pub struct CpuQueue {
    /// CPU that takes from the ring.
    pub cpu: u32,
    /// Map that the entry is in.
    pub map_id: u32,
    ring: PtrRing<CpuItem>,
    program: Option<Arc<Program>>,
    awake: AtomicBool,
    /// The thread has slept since it last took something.
    slept: AtomicBool,
    /// Pages of the packets in the ring, for a checker.
    pages: AtomicU64,
}

impl CpuQueue {
    fn new(entry: &CpuEntry, map_id: u32) -> Self {
        Self {
            cpu: entry.cpu,
            map_id,
            ring: PtrRing::new(entry.qsize),
            program: entry.program.clone(),
            awake: AtomicBool::new(false),
            slept: AtomicBool::new(true),
            pages: AtomicU64::new(0),
        }
    }

    /// The queue of an entry; it is made when it is first asked for.
    pub(crate) fn of(entry: &CpuEntry, map_id: u32) -> Option<Arc<Self>> {
        let object = entry.private.get_or_init(|| Arc::new(Self::new(entry, map_id)));
        object.clone().downcast().ok()
    }

    /// Frames that wait.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.ring.len()
    }

    /// Pages of the packets that wait.
    #[must_use]
    pub fn held_frames(&self) -> u64 {
        self.pages.load(Relaxed)
    }

    /// Whether none wait.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Notes that the thread is to run; answers whether it was asleep.
    pub(crate) fn wake(&self) -> bool {
        !self.awake.swap(true, AcqRel)
    }

    /// Puts a packet of generic XDP into the ring.
    pub(crate) fn produce_skb(&self, skb: Box<Skb>) -> Result<(), Box<Skb>> {
        let pages = skb.packet.frame_count() as u64;
        let result = self.ring.produce(CpuItem::Skb(skb));
        if result.is_ok() {
            self.pages.fetch_add(pages, Relaxed);
        }
        result.map_err(|item| match item {
            CpuItem::Skb(skb) => skb,
            CpuItem::Frame(_) => unreachable!("the ring gives back what it was given"),
        })
    }
}

/// Frames of one CPU for another.
///
/// Kernel: `kernel/bpf/cpumap.c struct xdp_bulk_queue, v6.18`
#[doc(alias = "xdp_bulk_queue")]
struct BulkQueue {
    queue: Arc<CpuQueue>,
    frames: Vec<XdpFrame>,
}

/// The bulk queues of one CPU that hold frames; the last touched is the last.
#[derive(Default)]
pub(crate) struct CpuFlush {
    list: Vec<BulkQueue>,
}

impl CpuFlush {
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn held_frames(&self) -> u64 {
        self.list.iter().flat_map(|q| &q.frames).map(|f| f.packet().frame_count() as u64).sum()
    }
}

/// What a thread did with one batch.
#[derive(Default)]
struct ThreadStats {
    pass: u32,
    drop: u32,
    redirect: u32,
}

impl Softirq<'_> {
    /// Kernel: `kernel/bpf/cpumap.c cpu_map_enqueue, v6.18`
    pub(super) fn cpu_map_enqueue(
        &mut self,
        mut frame: XdpFrame,
        dev_rx: &DeviceCore,
        map: &Map,
        key: u32,
    ) -> Enqueued {
        let entry = map.cpu_entry(self.guard, key);
        let Some(entry) = entry else {
            return Err((RedirectError::new(Errno::EINVAL, DropReason::CpumapEntryGone), frame));
        };
        frame.set_dev_rx(dev_rx.ifindex);
        let object = entry.private.get().map(Arc::as_ptr);
        let mine = |q: &BulkQueue| object.is_some_and(|o| std::ptr::addr_eq(Arc::as_ptr(&q.queue), o));
        let at = match self.net.cpu_flush.list.iter().rposition(mine) {
            Some(at) if self.net.cpu_flush.list[at].frames.len() < CPU_MAP_BULK_SIZE => at,
            full => {
                // A full bulk leaves the list when it goes to the ring, and comes back as the last touched.
                let bulk = full.map(|at| self.net.cpu_flush.list.remove(at));
                let bulk = bulk.map(|mut bulk| {
                    self.bq_flush_to_queue(&mut bulk);
                    bulk
                });
                let Some(bulk) = bulk.or_else(|| self.new_bulk(entry, map.id())) else {
                    return Err((RedirectError::new(Errno::EINVAL, DropReason::CpumapEntryGone), frame));
                };
                self.net.cpu_flush.list.push(bulk);
                self.net.cpu_flush.list.len() - 1
            }
        };
        self.net.cpu_flush.list[at].frames.push(frame);
        Ok(())
    }

    fn new_bulk(&mut self, entry: &CpuEntry, map_id: u32) -> Option<BulkQueue> {
        Some(BulkQueue { queue: CpuQueue::of(entry, map_id)?, frames: self.net.take_spare() })
    }

    /// Kernel: `kernel/bpf/cpumap.c bq_flush_to_queue, v6.18`
    fn bq_flush_to_queue(&mut self, bulk: &mut BulkQueue) {
        let processed = bulk.frames.len();
        let frames = &mut bulk.frames;
        let mut pages = 0;
        let sent = bulk.queue.ring.produce_batch(processed, |n| {
            frames.drain(..n).map(|frame| {
                pages += frame.packet().frame_count() as u64;
                CpuItem::Frame(frame)
            })
        });
        bulk.queue.pages.fetch_add(pages, Relaxed);
        for frame in bulk.frames.drain(..) {
            self.net.drop_packet(frame.into_packet(), DropReason::CpumapRingFull);
        }
        let (cpu, queue) = (self.net.cpu, &bulk.queue);
        self.net.trace.emit(Tracepoint::XdpCpumapEnqueue, || TraceEvent::XdpCpumapEnqueue {
            map_id: queue.map_id,
            cpu,
            drops: (processed - sent) as u32,
            processed: processed as u32,
            to_cpu: queue.cpu,
        });
    }

    /// Kernel: `kernel/bpf/cpumap.c __cpu_map_flush, v6.18`
    #[doc(alias = "__cpu_map_flush")]
    pub(super) fn cpu_map_flush(&mut self) {
        while let Some(mut bulk) = self.net.cpu_flush.list.pop() {
            self.bq_flush_to_queue(&mut bulk);
            self.wake_cpu_thread(bulk.queue);
            self.net.give_spare(bulk.frames);
        }
    }

    pub(crate) fn wake_cpu_thread(&mut self, queue: Arc<CpuQueue>) {
        if queue.wake() {
            self.net.woken.push(queue);
        }
    }

    /// One round of the thread of a cpumap entry: takes a batch, runs the program, and hands what passes to
    /// the stack. Answers whether to come again; if not, the thread sleeps until it is woken.
    ///
    /// Kernel: `kernel/bpf/cpumap.c cpu_map_kthread_run, v6.18`
    pub fn cpu_map_kthread_run(&mut self, queue: &CpuQueue) -> bool {
        let (mut frames, mut skbs) = (self.net.take_spare(), Vec::new());
        let mut pages = 0;
        let processed = queue.ring.consume_batch(CPU_MAP_BULK_SIZE as u32, |item| match item {
            CpuItem::Frame(frame) => {
                pages += frame.packet().frame_count() as u64;
                frames.push(frame);
            }
            CpuItem::Skb(skb) => {
                pages += skb.packet.frame_count() as u64;
                skbs.push(skb);
            }
        });
        queue.pages.fetch_sub(pages, Relaxed);
        if processed == 0 {
            self.net.give_spare(frames);
            queue.slept.store(true, Relaxed);
            queue.awake.store(false, Release);
            // Frames that came after the look and before the store woke nobody.
            return !queue.is_empty() && queue.wake();
        }
        let mut stats = ThreadStats::default();
        if let Some(program) = &queue.program {
            self.cpu_map_run_frames(program, &mut frames, &mut stats);
            self.cpu_map_run_skbs(program, &mut skbs, &mut stats);
            if stats.redirect > 0 {
                self.xdp_do_flush();
            }
        }
        let cpu = self.net.cpu;
        self.net.trace.emit(Tracepoint::XdpCpumapKthread, || TraceEvent::XdpCpumapKthread {
            map_id: queue.map_id,
            cpu,
            drops: 0,
            processed,
            sched: queue.slept.swap(false, Relaxed).into(),
            xdp_pass: stats.pass,
            xdp_drop: stats.drop,
            xdp_redirect: stats.redirect,
        });
        for frame in frames.drain(..) {
            let dev = frame.packet().rx_ifindex();
            self.receive_frame(frame, dev);
        }
        self.net.give_spare(frames);
        skbs.into_iter().for_each(|skb| self.netif_receive_skb(skb));
        true
    }

    /// Kernel: `kernel/bpf/cpumap.c cpu_map_bpf_prog_run_xdp, v6.18`
    #[doc(alias = "cpu_map_bpf_prog_run_xdp")]
    fn cpu_map_run_frames(
        &mut self,
        program: &Arc<Program>,
        frames: &mut Vec<XdpFrame>,
        stats: &mut ThreadStats,
    ) {
        let mut kept = self.net.take_spare();
        let devices = self.devices;
        for frame in frames.drain(..) {
            let (dev_rx, mem_type) = (frame.packet().rx_ifindex(), frame.packet().mem_type());
            let rxq = RxqInfo { ifindex: dev_rx, queue_index: 0, mem_type: mem_type as u32, frag_size: 0 };
            let mut buff = frame.into_buff(&rxq);
            let act = self.run_xdp(program, &mut buff);
            let (packet, reason) = match XdpAction::from_raw(act) {
                Some(XdpAction::Pass) => match XdpFrame::from_buff(buff) {
                    Ok(frame) => {
                        kept.push(frame);
                        continue;
                    }
                    Err((_, packet)) => (packet, DropReason::CpumapNoFrameRoom),
                },
                Some(XdpAction::Redirect) => match devices.get(self.guard, dev_rx) {
                    Some(dev) => {
                        match self.xdp_do_redirect(dev.core(), buff, program.id()) {
                            Ok(()) => stats.redirect += 1,
                            Err(_) => stats.drop += 1,
                        }
                        continue;
                    }
                    None => (buff.into_packet(), DropReason::CpumapNoDevice),
                },
                // Also XDP_ABORTED, without a tracepoint.
                _ => (buff.into_packet(), DropReason::CpumapDrop),
            };
            stats.drop += 1;
            self.net.drop_packet(packet, reason);
        }
        stats.pass = kept.len() as u32;
        std::mem::swap(frames, &mut kept);
        self.net.give_spare(kept);
    }

    /// Kernel: `kernel/bpf/cpumap.c cpu_map_bpf_prog_run_skb, v6.18`
    #[doc(alias = "cpu_map_bpf_prog_run_skb")]
    #[expect(clippy::vec_box, reason = "skbs are handed on, not copied")]
    fn cpu_map_run_skbs(
        &mut self,
        program: &Arc<Program>,
        skbs: &mut Vec<Box<Skb>>,
        stats: &mut ThreadStats,
    ) {
        for skb in std::mem::take(skbs) {
            match self.run_generic(program, skb) {
                crate::generic::Verdict::Pass(skb) => {
                    stats.pass += 1;
                    skbs.push(skb);
                }
                crate::generic::Verdict::Redirected => stats.redirect += 1,
                crate::generic::Verdict::Dropped => stats.drop += 1,
                crate::generic::Verdict::Tx(skb) => {
                    stats.drop += 1;
                    self.net.drop_packet(skb.packet, DropReason::CpumapDrop);
                }
            }
        }
    }

    /// Makes an skb of a frame and hands it to the stack as received by a device.
    ///
    /// Kernel: `net/core/xdp.c __xdp_build_skb_from_frame, v6.18`
    #[doc(alias = "__xdp_build_skb_from_frame")]
    pub(crate) fn receive_frame(&mut self, frame: XdpFrame, dev: u32) {
        let mac = self.device(dev).map_or([0; 6], |d| d.core().mac);
        let mut skb = Box::new(Skb::new(frame.into_packet()));
        skb.eth_type_trans(dev, mac);
        self.netif_receive_skb(skb);
    }
}
