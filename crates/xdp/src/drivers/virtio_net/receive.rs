//! Receiving: the NAPI of a queue takes packets, runs the program, and fills the queue again.

use std::sync::Arc;
use std::sync::atomic::Ordering::*;

use bpf::vm::Program;
use mem::{Packet, XdpBuff};
use uapi::virtio_net::VIRTIO_NET_F_HASH_REPORT;
use uapi::xdp::XdpAction;

use super::backend::has;
use super::buffers::{HEADROOM, RxMode};
use super::header::{Header, Rxhash};
use super::intake::{Frags, Incoming, Intake};
use super::stats::PollStats;
use super::{Rq, VirtioNet, rx_queue, tx_queue};
use crate::{DropReason, NapiCtx, Polled, Skb, Softirq, XdpFrame};

/// What a poll gathers.
struct Batch {
    stats: PollStats,
    /// The frame that `XDP_TX` sends: kept for its memory.
    tx: Vec<XdpFrame>,
    /// Whether there was an `XDP_TX` (`VIRTIO_XDP_TX`).
    sent: bool,
    /// Whether there was a redirect (`VIRTIO_XDP_REDIR`).
    redirected: bool,
}

impl VirtioNet {
    /// Kernel: `drivers/net/virtio_net.c virtnet_poll, v6.18`
    #[doc(alias = "virtnet_poll")]
    pub(super) fn poll_rq(&self, rq: &Rq, budget: u32, mut napi: NapiCtx<'_, '_>) -> Polled {
        if !self.core.is_up() {
            rq.scheduled.store(false, Release);
            return napi.complete(0, false);
        }
        let cx = napi.softirq();
        rq.queue.with(|q| q.vq.disable_cb());
        self.poll_cleantx(rq.index);
        let tx = cx.net.take_spare();
        let mut batch = Batch { stats: PollStats::default(), tx, sent: false, redirected: false };
        let done = self.receive(rq, budget, cx, &mut batch);
        if batch.redirected {
            cx.xdp_do_flush();
        }
        let again = done == budget || self.rearm(rq);
        if batch.sent {
            self.kick_xdp_sq(cx);
        }
        batch.stats.packets = done.into();
        self.publish(rq, &batch.stats);
        cx.net.give_spare(batch.tx);
        napi.complete(done, again)
    }

    /// Asks for interrupts again. If packets came meanwhile, the poll is due again: answers that.
    ///
    /// Kernel: `drivers/net/virtio_net.c virtqueue_napi_complete, v6.18`
    #[doc(alias = "virtqueue_napi_complete")]
    fn rearm(&self, rq: &Rq) -> bool {
        let armed = rq.queue.with(|q| q.vq.enable_cb_prepare());
        rq.scheduled.store(false, SeqCst);
        let more = rq.queue.with(|q| q.vq.poll(armed)) && !rq.scheduled.swap(true, AcqRel);
        if more {
            rq.queue.with(|q| q.vq.disable_cb());
        }
        more
    }

    /// Kernel: `drivers/net/virtio_net.c virtnet_receive, v6.18`
    #[doc(alias = "virtnet_receive")]
    fn receive(&self, rq: &Rq, budget: u32, cx: &mut Softirq<'_>, batch: &mut Batch) -> u32 {
        let guard = cx.guard;
        let program = match self.mode {
            RxMode::Big(_) => None,
            _ if !self.xdp_enabled.load(Acquire) => None,
            _ => rq.program.get(0, guard),
        };
        let frags = program.map(|p| if p.has_frags() { Frags::Yes } else { Frags::No });
        let mut done = 0;
        while done < budget {
            let taken = rq.queue.with(|queue| {
                let (pool, stats) = (&mut cx.net.pool, &mut batch.stats);
                let (mode, hdr_len) = (self.mode, self.hdr_len);
                Intake { queue, memory: &self.memory, pool, stats, mode, hdr_len, program: frags }.next()
            });
            match (taken, program) {
                (None, _) => break,
                (Some(Err(reason)), _) => cx.net.drops.add(reason, 1),
                (Some(Ok(incoming)), Some(program)) => self.run(rq, program, incoming, cx, batch),
                (Some(Ok(incoming)), None) => self.receive_done(rq, incoming, cx),
            }
            done += 1;
        }
        self.refill(rq, budget, cx, batch);
        done
    }

    /// Fills the queue when half of what a poll may take is gone.
    fn refill(&self, rq: &Rq, budget: u32, cx: &mut Softirq<'_>, batch: &mut Batch) {
        let headroom = self.headroom();
        let kick = rq.queue.with(|q| {
            let low = u32::from(q.vq.num_free()) > budget.min(u32::from(q.vq.size())) / 2;
            if low {
                q.fill(headroom);
            }
            low && q.vq.kick_prepare()
        });
        if kick {
            batch.stats.kicks += 1;
            self.notify(cx, rx_queue(rq.index));
        }
    }

    /// Room before packets in buffers that are made available now.
    ///
    /// Kernel: `drivers/net/virtio_net.c virtnet_get_headroom, v6.18`
    #[doc(alias = "virtnet_get_headroom")]
    pub(super) fn headroom(&self) -> u32 {
        if self.xdp_enabled.load(Acquire) { HEADROOM } else { 0 }
    }

    /// Runs the program and does what it decided.
    ///
    /// Kernel: `drivers/net/virtio_net.c virtnet_xdp_handler, v6.18`
    #[doc(alias = "virtnet_xdp_handler")]
    fn run(
        &self,
        rq: &Rq,
        program: &Arc<Program>,
        incoming: Incoming,
        cx: &mut Softirq<'_>,
        batch: &mut Batch,
    ) {
        let Incoming { packet, header } = incoming;
        let mut buff = packet.into_buff(&rq.rxq);
        buff.set_hints(header.hints(self.rxhash()));
        let act = cx.run_xdp(program, &mut buff);
        batch.stats.xdp_packets += 1;
        match XdpAction::from_raw(act) {
            Some(XdpAction::Pass) => self.pass(rq, buff.into_packet(), cx),
            Some(XdpAction::Tx) => self.xdp_tx(program, buff, cx, batch),
            Some(XdpAction::Redirect) => {
                batch.stats.xdp_redirects += 1;
                match cx.xdp_do_redirect(&self.core, buff, program.id()) {
                    Ok(()) => batch.redirected = true,
                    Err(_) => batch.stats.drop_by_xdp(),
                }
            }
            Some(XdpAction::Drop) => {
                batch.stats.drop_by_xdp();
                cx.net.drop_packet(buff.into_packet(), DropReason::ProgramDrop);
            }
            action => {
                cx.exception(program, act, self.core.ifindex);
                batch.stats.drop_by_xdp();
                let aborted = action == Some(XdpAction::Aborted);
                let reason = if aborted { DropReason::ProgramAborted } else { DropReason::InvalidAction };
                cx.net.drop_packet(buff.into_packet(), reason);
            }
        }
    }

    /// One frame into the CPU's send queue, which is kicked when the poll ends.
    fn xdp_tx(&self, program: &Program, buff: Box<XdpBuff<'_>>, cx: &mut Softirq<'_>, batch: &mut Batch) {
        batch.stats.xdp_tx += 1;
        match XdpFrame::from_buff(buff) {
            Ok(frame) => batch.tx.push(frame),
            Err((_, packet)) => {
                batch.stats.drop_by_xdp();
                return cx.net.drop_packet(packet, DropReason::TxNoFrameRoom);
            }
        }
        let reason = match self.xdp_xmit(cx, &mut batch.tx, 0) {
            // What did not fit was sent, as far as the receive queue's counters go.
            Ok(sent) => {
                batch.sent = true;
                sent.stopped_by
            }
            Err(error) => {
                cx.exception(program, XdpAction::Tx as u32, self.core.ifindex);
                batch.stats.drop_by_xdp();
                error.reason
            }
        };
        if let Some(frame) = batch.tx.pop() {
            cx.net.drop_packet(frame.into_packet(), reason);
        }
    }

    /// A packet that a program let pass: of the device's header nothing is left.
    ///
    /// Kernel: `drivers/net/virtio_net.c build_skb_from_xdp_buff, v6.18`
    #[doc(alias = "build_skb_from_xdp_buff")]
    fn pass(&self, rq: &Rq, packet: Packet, cx: &mut Softirq<'_>) {
        let header = Header::default();
        self.receive_done(rq, Incoming { packet, header }, cx);
    }

    /// To the stack.
    ///
    /// Kernel: `drivers/net/virtio_net.c virtnet_receive_done, v6.18`
    #[doc(alias = "virtnet_receive_done")]
    fn receive_done(&self, rq: &Rq, incoming: Incoming, cx: &mut Softirq<'_>) {
        let Incoming { packet, header } = incoming;
        if !header.is_valid(packet.total_len()) {
            self.rx_frame_errors.fetch_add(1, Relaxed);
            return cx.net.drop_packet(packet, DropReason::VirtioRxHeader);
        }
        let mut skb = Box::new(Skb::new(packet));
        if self.rxhash() == Rxhash::On {
            skb.hash = header.skb_hash();
        }
        skb.gso = header.gso_type != 0;
        skb.csum_partial = header.flags & uapi::virtio_net::VIRTIO_NET_HDR_F_NEEDS_CSUM != 0;
        skb.rx_queue = Some(rq.index);
        skb.eth_type_trans(self.core.ifindex, self.core.mac);
        cx.netif_receive_skb(skb);
    }

    fn rxhash(&self) -> Rxhash {
        match (has(self.features, VIRTIO_NET_F_HASH_REPORT), self.rxhash.load(Relaxed)) {
            (false, _) => Rxhash::Unsupported,
            (true, false) => Rxhash::Off,
            (true, true) => Rxhash::On,
        }
    }

    /// Tells the device of what `XDP_TX` sent in this poll.
    fn kick_xdp_sq(&self, cx: &mut Softirq<'_>) {
        let sq = self.xdp_sq(cx.net.cpu);
        if sq.queue.with(|q| q.vq.kick_prepare()) {
            sq.stats.kicks.fetch_add(1, Relaxed);
            self.notify(cx, tx_queue(sq.index));
        }
    }
}
