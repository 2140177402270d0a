//! Receiving: the NAPI of a queue takes frames and skbs from its ring, and runs the program.

use std::sync::Arc;
use std::sync::atomic::Ordering::*;

use arrayvec::ArrayVec;
use bpf::vm::Program;
use mem::{Packet, RxHints, XdpBuff};
use uapi::Errno;
use uapi::xdp::{XDP_PACKET_HEADROOM, XdpAction};

use super::stats::PollStats;
use super::{VETH_XDP_BATCH, VETH_XDP_TX_BULK_SIZE, Veth, VethRq};
use crate::cow::skb_pp_cow_data;
use crate::engine::BATCH_MAX;
use crate::{DropReason, NapiCtx, Polled, RingItem, Skb, Softirq, XdpFrame};

/// Where the packets of one poll go.
struct Batch {
    /// Frames for `XDP_TX`.
    tx: Vec<XdpFrame>,
    /// Frames that pass.
    pass: Vec<XdpFrame>,
    stats: PollStats,
}

/// What the program decided, when the packet is still here.
enum Outcome<'q> {
    Pass(Box<XdpBuff<'q>>),
    /// It was sent, redirected or dropped, and is counted.
    Gone,
}

impl Veth {
    /// Kernel: `drivers/net/veth.c veth_poll, veth_xdp_rcv, v6.18`
    #[doc(alias = "veth_poll")]
    #[doc(alias = "veth_xdp_rcv")]
    pub(super) fn poll_rq(&self, rq: &VethRq, budget: u32, mut napi: NapiCtx<'_, '_>) -> Polled {
        let cx = napi.softirq();
        let guard = cx.guard;
        let program = rq.program.get(0, guard);
        let mut batch =
            Batch { tx: cx.net.take_spare(), pass: cx.net.take_spare(), stats: PollStats::default() };
        let mut waiting = ArrayVec::new();
        let done = rq.ring.consume_batch(budget, |item| match (item, program) {
            (RingItem::Frame(frame), None) => {
                count_frame(&mut batch.stats, frame.packet());
                self.pass_frame(cx, &mut batch, frame);
            }
            (RingItem::Frame(frame), Some(program)) => {
                count_frame(&mut batch.stats, frame.packet());
                let rxq = rq.rxq.of(frame.packet().mem_type());
                let mut buff = frame.into_buff(rxq);
                buff.set_hints(FRAME_HINTS);
                waiting.push(buff);
                if waiting.is_full() {
                    self.receive_frames(rq, program, &mut waiting, cx, &mut batch);
                }
            }
            (RingItem::Skb(skb), _) => {
                if let Some(program) = program {
                    self.receive_frames(rq, program, &mut waiting, cx, &mut batch);
                }
                self.receive_skb(rq, program, skb, cx, &mut batch);
            }
        });
        if let Some(program) = program {
            self.receive_frames(rq, program, &mut waiting, cx, &mut batch);
        }
        self.pass_frames(cx, &mut batch.pass);
        let Batch { mut tx, pass, mut stats } = batch;
        stats.xdp_packets = done.into();
        rq.stats.publish(&stats);
        if stats.xdp_redirect > 0 {
            cx.xdp_do_flush();
        }
        if stats.xdp_tx > 0 {
            self.xdp_tx_flush(rq, cx, &mut tx);
        }
        cx.net.give_spare(tx);
        cx.net.give_spare(pass);
        rq.tx_stopped.store(false, Release);
        let again = done == budget || self.rearm(rq);
        napi.complete(done, again)
    }

    /// Lets senders wake the queue again. If they were faster, it is due again: answers that.
    fn rearm(&self, rq: &VethRq) -> bool {
        rq.rx_notify_masked.store(false, SeqCst);
        !rq.ring.is_empty() && !rq.rx_notify_masked.swap(true, AcqRel)
    }

    /// Runs the program over frames and does with each what it decided, in order.
    ///
    /// Kernel: `drivers/net/veth.c veth_xdp_rcv_one, v6.18`
    #[doc(alias = "veth_xdp_rcv_one")]
    #[inline]
    fn receive_frames(
        &self,
        rq: &VethRq,
        program: &Arc<Program>,
        waiting: &mut ArrayVec<Box<XdpBuff<'_>>, BATCH_MAX>,
        cx: &mut Softirq<'_>,
        batch: &mut Batch,
    ) {
        if waiting.is_empty() {
            return;
        }
        let mut acts = [0; BATCH_MAX];
        let done = cx.run_xdp_batch(program, waiting, &mut acts);
        for (buff, act) in waiting.drain(..done).zip(&acts) {
            self.finish_frame(rq, program, *act, buff, cx, batch);
        }
        // A program that redirects one packet probably redirects the next, so there are no batches.
        for mut buff in waiting.drain(..) {
            let act = cx.run_xdp(program, &mut buff);
            self.finish_frame(rq, program, act, buff, cx, batch);
        }
    }

    #[inline]
    fn finish_frame(
        &self,
        rq: &VethRq,
        program: &Arc<Program>,
        act: u32,
        buff: Box<XdpBuff<'_>>,
        cx: &mut Softirq<'_>,
        batch: &mut Batch,
    ) {
        if let Outcome::Pass(buff) = self.decided(rq, program, act, buff, cx, batch) {
            match XdpFrame::from_buff(buff) {
                Ok(frame) => self.pass_frame(cx, batch, frame),
                Err((_, packet)) => cx.net.drop_packet(packet, DropReason::PassNoFrameRoom),
            }
        }
    }

    fn pass_frame(&self, cx: &mut Softirq<'_>, batch: &mut Batch, frame: XdpFrame) {
        batch.pass.push(frame);
        if batch.pass.len() == VETH_XDP_BATCH {
            self.pass_frames(cx, &mut batch.pass);
        }
    }

    /// Kernel: `drivers/net/veth.c veth_xdp_rcv_bulk_skb, v6.18`
    #[doc(alias = "veth_xdp_rcv_bulk_skb")]
    fn pass_frames(&self, cx: &mut Softirq<'_>, frames: &mut Vec<XdpFrame>) {
        for frame in frames.drain(..) {
            cx.receive_frame(frame, self.core.ifindex);
        }
    }

    /// Kernel: `drivers/net/veth.c veth_xdp_rcv_skb, v6.18`
    #[doc(alias = "veth_xdp_rcv_skb")]
    fn receive_skb(
        &self,
        rq: &VethRq,
        program: Option<&Arc<Program>>,
        mut skb: Box<Skb>,
        cx: &mut Softirq<'_>,
        batch: &mut Batch,
    ) {
        // Without the Ethernet header, which was taken off on the way.
        batch.stats.xdp_bytes += skb.len() as u64;
        batch.stats.frames_out += skb.packet.frame_count() as u64;
        let Some(program) = program else { return cx.netif_receive_skb(skb) };
        skb.push_mac();
        let packet = match make_writable(rq, cx, &skb) {
            Ok(None) => skb.packet,
            Ok(Some(copy)) => {
                cx.net.pool.put_packet(skb.packet);
                copy
            }
            Err(reason) => {
                batch.stats.rx_drops += 1;
                return cx.net.drop_packet(skb.packet, reason);
            }
        };
        let mut buff = packet.into_buff(rq.rxq.of(mem::MemType::PageShared));
        buff.set_hints(skb_hints(skb.hash, skb.vlan));
        let act = cx.run_xdp(program, &mut buff);
        if let Outcome::Pass(buff) = self.decided(rq, program, act, buff, cx, batch) {
            skb.packet = buff.into_packet();
            skb.shared = false;
            skb.eth_type_trans(self.core.ifindex, self.core.mac);
            cx.netif_receive_skb(skb);
        }
    }

    /// Does what the program decided, but for passing.
    #[inline]
    fn decided<'q>(
        &self,
        rq: &VethRq,
        program: &Arc<Program>,
        act: u32,
        buff: Box<XdpBuff<'q>>,
        cx: &mut Softirq<'_>,
        batch: &mut Batch,
    ) -> Outcome<'q> {
        match XdpAction::from_raw(act) {
            Some(XdpAction::Drop) => {
                batch.stats.xdp_drops += 1;
                cx.net.drop_packet(buff.into_packet(), DropReason::ProgramDrop);
            }
            Some(XdpAction::Pass) => return Outcome::Pass(buff),
            Some(XdpAction::Tx) => self.xdp_tx(rq, program, buff, cx, batch),
            Some(XdpAction::Redirect) => match cx.xdp_do_redirect(&self.core, buff, program.id()) {
                Ok(()) => batch.stats.xdp_redirect += 1,
                Err(_) => batch.stats.rx_drops += 1,
            },
            action => {
                cx.exception(program, act, self.core.ifindex);
                batch.stats.xdp_drops += 1;
                let aborted = action == Some(XdpAction::Aborted);
                let reason = if aborted { DropReason::ProgramAborted } else { DropReason::InvalidAction };
                cx.net.drop_packet(buff.into_packet(), reason);
            }
        }
        Outcome::Gone
    }

    /// Kernel: `drivers/net/veth.c veth_xdp_tx, v6.18`
    #[doc(alias = "veth_xdp_tx")]
    fn xdp_tx(
        &self,
        rq: &VethRq,
        program: &Arc<Program>,
        buff: Box<XdpBuff<'_>>,
        cx: &mut Softirq<'_>,
        batch: &mut Batch,
    ) {
        match XdpFrame::from_buff(buff) {
            Err((_, packet)) => {
                cx.exception(program, XdpAction::Tx as u32, self.core.ifindex);
                batch.stats.rx_drops += 1;
                cx.net.drop_packet(packet, DropReason::TxNoFrameRoom);
            }
            Ok(frame) => {
                if batch.tx.len() == VETH_XDP_TX_BULK_SIZE {
                    self.xdp_tx_flush_bulk(rq, cx, &mut batch.tx);
                }
                batch.tx.push(frame);
                batch.stats.xdp_tx += 1;
            }
        }
    }
}

fn count_frame(stats: &mut PollStats, packet: &Packet) {
    stats.xdp_bytes += packet.total_len() as u64;
    stats.frames_out += packet.frame_count() as u64;
}

/// A copy that the program may write to, if the packet itself is not one.
///
/// Kernel: `drivers/net/veth.c veth_convert_skb_to_xdp_buff, v6.18`
#[doc(alias = "veth_convert_skb_to_xdp_buff")]
fn make_writable(rq: &VethRq, cx: &mut Softirq<'_>, skb: &Skb) -> Result<Option<Packet>, DropReason> {
    if skb.frag_list {
        return Err(DropReason::SkbFragList);
    }
    let p = &skb.packet;
    let short = p.headroom() < XDP_PACKET_HEADROOM as u32;
    if skb.shared || skb.head_locked || !p.frags().is_empty() || short {
        return rq.frags.with(|offset| skb_pp_cow_data(cx.net, offset, p)).map(Some);
    }
    Ok(None)
}

/// What the device knows of a frame: it could, but there is nothing.
pub(super) const FRAME_HINTS: RxHints =
    RxHints { timestamp_ns: Err(Errno::ENODATA), hash: Err(Errno::ENODATA), vlan: Err(Errno::ENODATA) };

/// `XDP_RSS_L4`.
const XDP_RSS_L4: u32 = 8;

/// What the device knows of an skb: no time, the stack's hash, a tag beside the packet.
///
/// Kernel: `drivers/net/veth.c veth_xdp_rx_hash, veth_xdp_rx_timestamp, veth_xdp_rx_vlan_tag, v6.18`
pub(super) fn skb_hints(hash: Option<(u32, bool)>, vlan: Option<(u16, u16)>) -> RxHints {
    let hash = hash.map_or((0, 0), |(hash, l4)| (hash, if l4 { XDP_RSS_L4 } else { 0 }));
    RxHints {
        timestamp_ns: Ok(0),
        hash: Ok(hash),
        vlan: vlan.map(|(proto, tci)| (proto.to_be(), tci)).ok_or(Errno::ENODATA),
    }
}
