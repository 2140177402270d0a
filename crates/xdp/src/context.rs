//! [`NetContext`], what one CPU keeps for networking, and [`Softirq`], the same at work.

use std::collections::VecDeque;
use std::sync::Arc;

use bpf::host::Host;
use bpf::maps::Guard;
use bpf::redirect::RedirectInfo;
use bpf::vm::{Fault, Program};
use mem::{Depot, Frame, Packet, PagePool, XdpBuff};
use uapi::xdp::XdpAction;

use crate::cow::FragOffset;
use crate::redirect::{CpuFlush, CpuQueue, DevFlush, XskFlush};
use crate::verdicts::Redirects;
use crate::{
    Devices, DropCounters, DropReason, Engine, NetDevice, Note, RingItem, Skb, Trace, TraceEvent, Tracepoint,
    Verdicts, XdpFrame,
};

pub use token::{NapiCtx, Polled};

/// A poll that is due.
#[derive(Clone)]
pub enum NapiRef {
    /// Of a queue of a device.
    Queue(Arc<dyn NetDevice>, u32),
    /// Of the CPU's backlog.
    Backlog,
}

/// What one CPU keeps between packets: its pages, bulk queues and lists, counters and events.
///
/// Kernel: `include/linux/netdevice.h struct softnet_data, include/linux/filter.h struct bpf_net_context, v6.18`
#[doc(alias = "softnet_data")]
#[doc(alias = "bpf_net_context")]
pub struct NetContext {
    /// CPU.
    pub cpu: u32,
    /// Pages.
    pub pool: PagePool,
    /// Where redirects point; not reset by a packet, see [`NetContext::begin`].
    pub redirect: RedirectInfo,
    /// Events.
    pub trace: Trace,
    /// Why packets ended.
    pub drops: DropCounters,
    /// Packets that reached the stack, in order, until the host takes them.
    pub received: Vec<Box<Skb>>,
    /// Polls that are due on this CPU, the first one first.
    pub poll_list: VecDeque<NapiRef>,
    /// Polls that used their budget up: kept for its memory.
    repoll: Vec<NapiRef>,
    /// Packets that wait for the stack without a NAPI of their own (`netif_rx`).
    pub backlog: VecDeque<Box<Skb>>,
    pub(crate) backlog_scheduled: bool,
    /// Threads of cpumap entries that were woken.
    pub woken: Vec<Arc<CpuQueue>>,
    /// The last thing that a program did that it may not do, and how often that happened.
    pub last_fault: Option<Fault>,
    /// See [`NetContext::last_fault`].
    pub faults: u64,
    pub(crate) dev_flush: DevFlush,
    pub(crate) cpu_flush: CpuFlush,
    pub(crate) xsk_flush: XskFlush,
    /// Of the page pool that generic XDP copies into.
    pub(crate) system_frags: FragOffset,
    /// `VETH_XDP_TX_BULK_SIZE` frames of a driver's poll, and others in passing: kept for their memory.
    pub(crate) spare: Vec<Vec<XdpFrame>>,
    /// Of batches, one more than are nested: kept for their memory.
    #[expect(clippy::vec_box, reason = "they are taken out and put back")]
    verdicts: Vec<Box<Verdicts>>,
    /// Of a live run: kept for its memory.
    pub(crate) words: Vec<u64>,
}

impl NetContext {
    /// A CPU's context; pages move to other CPUs through the depot.
    #[must_use]
    pub fn new(cpu: u32, depot: Arc<Depot>) -> Self {
        Self {
            cpu,
            pool: PagePool::new(depot),
            redirect: RedirectInfo::default(),
            trace: Trace::default(),
            drops: DropCounters::default(),
            received: Vec::new(),
            poll_list: VecDeque::new(),
            repoll: Vec::new(),
            backlog: VecDeque::new(),
            backlog_scheduled: false,
            woken: Vec::new(),
            last_fault: None,
            faults: 0,
            dev_flush: DevFlush::default(),
            cpu_flush: CpuFlush::default(),
            xsk_flush: XskFlush::default(),
            system_frags: FragOffset::default(),
            spare: Vec::new(),
            verdicts: Vec::new(),
            words: Vec::new(),
        }
    }

    /// Starts a new softirq: where redirects point is forgotten.
    ///
    /// Kernel: `include/linux/filter.h bpf_net_ctx_set, v6.18`
    #[doc(alias = "bpf_net_ctx_set")]
    pub fn begin(&mut self) {
        self.redirect = RedirectInfo::default();
    }

    /// Ends a packet: counts why, and takes its pages back.
    #[inline]
    pub fn drop_packet(&mut self, packet: Packet, reason: DropReason) {
        // Where the reason is the program's answer, whoever follows has it from there, and nothing is asked here.
        if reason != DropReason::ProgramDrop {
            self.trace.note(|| Note::Ended { packet: packet.identity(), reason });
        }
        self.drops.add(reason, 1);
        self.pool.put_packet(packet);
    }

    /// Ends packets of a poll for one reason.
    #[inline]
    pub(crate) fn drop_buffs<'q>(
        &mut self,
        buffs: impl Iterator<Item = Box<XdpBuff<'q>>>,
        reason: DropReason,
    ) {
        let mut count = 0;
        for buff in buffs {
            if reason != DropReason::ProgramDrop {
                self.trace.note(|| Note::Ended { packet: buff.identity(), reason });
            }
            self.pool.put_buff(buff);
            count += 1;
        }
        self.drops.add(reason, count);
    }

    /// Ends a packet that waited in a ring nobody empties any more.
    pub fn drop_waiting(&mut self, item: RingItem) {
        let packet = match item {
            RingItem::Frame(frame) => frame.into_packet(),
            RingItem::Skb(skb) => skb.packet,
        };
        self.drop_packet(packet, DropReason::QueueDrained);
    }

    /// Pages in bulk queues, backlog, and on their way to the stack: for a checker that counts from outside.
    #[must_use]
    pub fn held_frames(&self) -> u64 {
        let skbs =
            self.received.iter().chain(&self.backlog).map(|skb| skb.packet.frame_count()).sum::<usize>();
        skbs as u64 + self.dev_flush.held_frames() + self.cpu_flush.held_frames()
    }

    /// Whether all bulk queues are empty, as they are between softirqs.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.dev_flush.is_empty() && self.cpu_flush.is_empty() && self.xsk_flush.is_empty()
    }

    pub(crate) fn take_spare(&mut self) -> Vec<XdpFrame> {
        self.spare.pop().unwrap_or_else(|| Vec::with_capacity(SPARE_FRAMES))
    }

    pub(crate) fn give_spare(&mut self, spare: Vec<XdpFrame>) {
        debug_assert!(spare.is_empty(), "frames would be lost");
        self.spare.push(spare);
    }

    #[inline]
    pub(crate) fn take_verdicts(&mut self) -> Box<Verdicts> {
        self.verdicts.pop().unwrap_or_default()
    }

    #[inline]
    pub(crate) fn give_verdicts(&mut self, mut verdicts: Box<Verdicts>) {
        verdicts.clear();
        self.verdicts.push(verdicts);
    }
}

/// Room of spare vectors: the largest batch.
const SPARE_FRAMES: usize = 64;
/// Packets that one poll may receive.
pub const NAPI_POLL_WEIGHT: u32 = 64;
/// Packets that one softirq may receive before others have their turn.
#[doc(alias = "netdev_budget")]
pub const NETDEV_BUDGET: u32 = 300;
/// Packets that may wait in a CPU's backlog.
#[doc(alias = "netdev_max_backlog")]
pub const NETDEV_MAX_BACKLOG: usize = 1000;

/// A CPU's context at work: in a softirq, a cpumap thread or a sender's system call.
pub struct Softirq<'a> {
    /// What the CPU keeps.
    pub net: &'a mut NetContext,
    /// How it runs programs.
    pub engine: &'a mut dyn Engine,
    /// The world around.
    pub host: &'a mut dyn Host,
    /// The read-side section of the poll.
    pub guard: &'a Guard,
    /// All devices.
    pub devices: &'a Devices,
}

impl<'a> Softirq<'a> {
    /// Runs a program over a packet and answers what it returned.
    ///
    /// A program that does what it may not do is taken to have answered `XDP_ABORTED`.
    ///
    /// Kernel: `include/net/xdp.h bpf_prog_run_xdp, v6.18`
    #[doc(alias = "bpf_prog_run_xdp")]
    #[inline]
    pub fn run_xdp(&mut self, program: &Arc<Program>, buff: &mut XdpBuff<'_>) -> u32 {
        let frags = buff.frags().len();
        let result = self.engine.run(program, self.guard, buff, &mut self.net.redirect, self.host);
        if frags > 0 {
            // Fragments that the program cut off were freed.
            self.net.pool.note_freed((frags - buff.frags().len()) as u64);
        }
        match result {
            Ok(r0) => r0 as u32,
            Err(fault) => self.faulted(fault),
        }
    }

    /// As [`Softirq::run_xdp`] for several packets in one go. Answers how many were run, at least one; what
    /// was decided about them is in `verdicts`.
    #[inline]
    pub(crate) fn run_xdp_batch(
        &mut self,
        program: &Arc<Program>,
        buffs: &mut [Box<XdpBuff<'_>>],
        redirects: Redirects,
        verdicts: &mut Verdicts,
    ) -> usize {
        let frags = |buffs: &[Box<XdpBuff<'_>>]| buffs.iter().map(|b| b.frags().len() as u64).sum::<u64>();
        let any = buffs.iter().any(|buff| buff.has_frags());
        let before = if any { frags(buffs) } else { 0 };
        verdicts.begin(redirects);
        let net = &mut *self.net;
        let result =
            self.engine.run_batch(program, self.guard, buffs, &mut net.redirect, self.host, verdicts);
        if any {
            // Fragments that the program cut off were freed.
            net.pool.note_freed(before - frags(buffs));
        }
        match result {
            Ok(done) => done,
            Err(fault) => {
                let act = self.faulted(fault);
                verdicts.note(act, &mut self.net.redirect);
                1
            }
        }
    }

    /// How many packets may be redirected in one go: no program may run on their way but after the last.
    #[inline]
    pub(crate) fn redirects_most(&self) -> usize {
        self.net.dev_flush.room()
    }

    #[cold]
    fn faulted(&mut self, fault: Fault) -> u32 {
        self.net.faults += 1;
        self.net.last_fault = Some(fault);
        XdpAction::Aborted as u32
    }

    /// Runs a poll.
    pub fn poll(&mut self, napi: &NapiRef, budget: u32) -> Polled {
        match napi {
            NapiRef::Queue(device, queue) => device.poll(*queue, budget, NapiCtx::new(self)),
            NapiRef::Backlog => self.process_backlog(budget),
        }
    }

    /// Hands waiting packets to the stack.
    ///
    /// Kernel: `net/core/dev.c process_backlog, v6.18`
    fn process_backlog(&mut self, budget: u32) -> Polled {
        let mut done = 0;
        while done < budget
            && let Some(skb) = self.net.backlog.pop_front()
        {
            self.netif_receive_skb(skb);
            done += 1;
        }
        let again = !self.net.backlog.is_empty();
        self.net.backlog_scheduled = again;
        NapiCtx::new(self).complete(done, again)
    }

    /// Puts a packet into the CPU's backlog; drops it if that is full.
    ///
    /// Kernel: `net/core/dev.c enqueue_to_backlog, v6.18`
    #[doc(alias = "enqueue_to_backlog")]
    pub fn netif_rx(&mut self, skb: Box<Skb>) {
        if self.net.backlog.len() > NETDEV_MAX_BACKLOG {
            return self.net.drop_packet(skb.packet, DropReason::BacklogFull);
        }
        self.net.backlog.push_back(skb);
        if !std::mem::replace(&mut self.net.backlog_scheduled, true) {
            self.net.poll_list.push_back(NapiRef::Backlog);
        }
    }

    /// Runs the polls that are due, each with a budget of [`NAPI_POLL_WEIGHT`], until there are none or
    /// [`NETDEV_BUDGET`] packets were received. Where redirects point is kept for all of it. Answers packets.
    ///
    /// Kernel: `net/core/dev.c net_rx_action, v6.18`
    pub fn net_rx_action(&mut self) -> u32 {
        self.net.begin();
        let mut received = 0;
        let mut repoll = std::mem::take(&mut self.net.repoll);
        loop {
            let Some(napi) = self.net.poll_list.pop_front() else {
                break;
            };
            let polled = self.poll(&napi, NAPI_POLL_WEIGHT);
            received += polled.done();
            if polled.again() {
                repoll.push(napi);
            }
            if received >= NETDEV_BUDGET {
                break;
            }
        }
        self.net.poll_list.extend(repoll.drain(..));
        self.net.repoll = repoll;
        received
    }

    /// Notes that a poll is due on this CPU.
    ///
    /// Kernel: `net/core/dev.c __napi_schedule, v6.18`
    #[doc(alias = "__napi_schedule")]
    pub fn napi_schedule(&mut self, device: &Arc<dyn NetDevice>, queue: u32) {
        self.net.poll_list.push_back(NapiRef::Queue(device.clone(), queue));
    }

    /// A page.
    pub fn take_page(&mut self) -> Option<Frame> {
        self.net.pool.take()
    }

    /// Fires `xdp_exception`.
    pub(crate) fn exception(&mut self, program: &Program, act: u32, ifindex: u32) {
        self.net.trace.emit(Tracepoint::XdpException, || TraceEvent::XdpException {
            prog_id: program.id(),
            act,
            ifindex,
        });
    }
}

/// The token of a poll: child modules could forge what their parent can build, so it lives in a leaf.
mod token {
    use super::Softirq;

    /// One poll. It ends by [`NapiCtx::complete`] alone, which flushes: a driver cannot forget to.
    pub struct NapiCtx<'p, 'a> {
        cx: &'p mut Softirq<'a>,
    }

    /// The result of a poll.
    #[derive(Debug, PartialEq, Eq)]
    #[must_use]
    pub struct Polled {
        done: u32,
        again: bool,
    }

    impl<'p, 'a> NapiCtx<'p, 'a> {
        pub(super) fn new(cx: &'p mut Softirq<'a>) -> Self {
            Self { cx }
        }

        /// The CPU's context.
        pub fn softirq(&mut self) -> &mut Softirq<'a> {
            self.cx
        }

        /// Ends the poll after `done` packets: sends all bulk queues first. With `again` the poll is due
        /// again, because the budget is used up.
        ///
        /// Kernel: `net/core/dev.c napi_complete_done, v6.18`
        #[doc(alias = "napi_complete_done")]
        pub fn complete(self, done: u32, again: bool) -> Polled {
            self.cx.xdp_do_flush();
            Polled { done, again }
        }
    }

    impl Polled {
        /// Packets that were received.
        #[must_use]
        pub const fn done(&self) -> u32 {
            self.done
        }

        /// Whether the poll is due again at once.
        #[must_use]
        pub const fn again(&self) -> bool {
            self.again
        }
    }
}
