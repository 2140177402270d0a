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
use crate::verdicts::{Alike, BATCH_MAX, Redirects};
use crate::{DropReason, NapiCtx, Polled, RingItem, Skb, Softirq, Verdicts, XdpFrame};

/// Where the packets of one poll go.
struct Batch {
    /// Frames for `XDP_TX`.
    tx: Vec<XdpFrame>,
    /// Frames that pass.
    pass: Vec<XdpFrame>,
    stats: PollStats,
}

/// Frames that the program was not run over yet.
type Waiting<'q> = ArrayVec<Box<XdpBuff<'q>>, BATCH_MAX>;

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
        let mut waiting = Waiting::new();
        let (mut bytes, mut pages) = (0, 0);
        let done = rq.ring.consume_batch(budget, |item| match (item, program) {
            (RingItem::Frame(frame), None) => {
                bytes += frame.packet().total_len();
                pages += frame.packet().frame_count();
                self.pass_frame(cx, &mut batch, frame);
            }
            (RingItem::Frame(frame), Some(program)) => {
                bytes += frame.packet().total_len();
                pages += frame.packet().frame_count();
                let rxq = rq.rxq.of(frame.packet().mem_type());
                let mut buff = frame.into_buff(rxq);
                buff.set_no_hints();
                waiting.push(buff);
                if waiting.is_full() {
                    self.receive_frames(rq, program, &mut waiting, cx, &mut batch);
                }
            }
            (RingItem::Skb(skb), _) => {
                if let Some(program) = program {
                    self.receive_frames(rq, program, &mut waiting, cx, &mut batch);
                }
                // Without the Ethernet header, which was taken off on the way.
                bytes += skb.len();
                pages += skb.packet.frame_count();
                self.receive_skb(rq, program, skb, cx, &mut batch);
            }
        });
        if let Some(program) = program {
            self.receive_frames(rq, program, &mut waiting, cx, &mut batch);
        }
        self.pass_frames(cx, &mut batch.pass);
        let Batch { mut tx, pass, mut stats } = batch;
        stats.xdp_packets = done.into();
        (stats.xdp_bytes, stats.frames_out) = (bytes as u64, pages as u64);
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
    fn receive_frames(
        &self,
        rq: &VethRq,
        program: &Arc<Program>,
        waiting: &mut Waiting<'_>,
        cx: &mut Softirq<'_>,
        batch: &mut Batch,
    ) {
        if waiting.is_empty() {
            return;
        }
        let mut verdicts = cx.net.take_verdicts();
        while !waiting.is_empty() {
            let redirects = Redirects::Most(cx.redirects_most());
            let done = cx.run_xdp_batch(program, waiting, redirects, &mut verdicts);
            self.finish_frames(rq, program, waiting.drain(..done), &verdicts, cx, batch);
        }
        cx.net.give_verdicts(verdicts);
    }

    #[inline]
    fn finish_frames(
        &self,
        rq: &VethRq,
        program: &Arc<Program>,
        mut buffs: arrayvec::Drain<'_, Box<XdpBuff<'_>>, BATCH_MAX>,
        verdicts: &Verdicts,
        cx: &mut Softirq<'_>,
        batch: &mut Batch,
    ) {
        for Alike { count, act, target } in verdicts.alike() {
            let alike = buffs.by_ref().take(count);
            match XdpAction::from_raw(act) {
                Some(XdpAction::Drop) => {
                    batch.stats.xdp_drops += count as u64;
                    cx.net.drop_buffs(alike, DropReason::ProgramDrop);
                }
                Some(XdpAction::Redirect) => {
                    let sent = cx.redirect_all(&self.core, program.id(), &target, alike);
                    batch.stats.xdp_redirect += u64::from(sent);
                    batch.stats.rx_drops += count as u64 - u64::from(sent);
                }
                Some(XdpAction::Tx) => alike.for_each(|buff| self.xdp_tx(rq, program, buff, cx, batch)),
                _ => alike.for_each(|buff| self.finish_frame(rq, program, act, buff, cx, batch)),
            }
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
