//! Sending: frames by `ndo_xdp_xmit` and `XDP_TX`, skbs by `ndo_start_xmit`.

use std::sync::Arc;
use std::sync::atomic::Ordering::*;

use mem::Packet;
use uapi::Errno;
use uapi::xdp::ETH_HLEN;

use super::stats::{add, add_alone};
use super::{Veth, VethRq};
use crate::{
    DropReason, NetdevTx, RingItem, Skb, Softirq, TraceEvent, Tracepoint, XdpFrame, Xmit, XmitError,
    XmitFlags,
};

impl Veth {
    /// Puts frames into the ring of the peer's queue, the first ones if not all fit.
    ///
    /// Kernel: `drivers/net/veth.c veth_xdp_xmit, v6.18`
    #[doc(alias = "veth_xdp_xmit")]
    fn xdp_xmit(
        &self,
        cx: &mut Softirq<'_>,
        frames: &mut Vec<XdpFrame>,
        flags: u32,
        ndo_xmit: bool,
    ) -> Result<Xmit, XmitError> {
        if flags & !XmitFlags::FLUSH != 0 {
            return Err(XmitError { errno: Errno::EINVAL, reason: DropReason::XmitNotSupported });
        }
        let no_receiver = XmitError { errno: Errno::ENXIO, reason: DropReason::XmitNoReceiver };
        let peer = self.peer().ok_or(no_receiver)?;
        let rq = peer.select_rq(cx.net.cpu);
        if !rq.napi.load(Acquire) {
            return Err(no_receiver);
        }
        let n = frames.len();
        let max_len = peer.core.max_frame_len();
        let fits = |frame: &&XdpFrame| frame.packet().total_len() <= max_len;
        let (mut short, mut parts) = (0, 0);
        for frame in frames.iter().take_while(fits) {
            short += 1;
            parts += frame.packet().frame_count();
        }
        let sent = rq.ring.produce_batch(short, |sent| {
            let unsent = frames[sent..short].iter().map(|f| f.packet().frame_count()).sum::<usize>();
            let pages = parts - unsent;
            add_alone(&rq.stats.frames_in, pages as u64);
            if ndo_xmit {
                add_alone(&rq.stats.peer_tq_xdp_xmit, sent as u64);
                add_alone(&rq.stats.peer_tq_xdp_xmit_err, (n - sent) as u64);
            }
            frames.drain(..sent).map(RingItem::Frame)
        });
        if flags & XmitFlags::FLUSH != 0 {
            peer.flush_rq(rq, cx);
        }
        let stopped_by = if sent < short { DropReason::XmitRingFull } else { DropReason::XmitTooLong };
        Ok(Xmit { sent, stopped_by })
    }

    /// Kernel: `drivers/net/veth.c veth_ndo_xdp_xmit, v6.18`
    #[doc(alias = "veth_ndo_xdp_xmit")]
    pub(super) fn xdp_xmit_from_outside(
        &self,
        cx: &mut Softirq<'_>,
        frames: &mut Vec<XdpFrame>,
        flags: u32,
    ) -> Result<Xmit, XmitError> {
        let n = frames.len() as u64;
        self.xdp_xmit(cx, frames, flags, true).inspect_err(|_| add(&self.dropped, n))
    }

    /// Sends what programs answered `XDP_TX` to: to the peer, and woken only if that has a program.
    ///
    /// Kernel: `drivers/net/veth.c veth_xdp_flush, v6.18`
    #[doc(alias = "veth_xdp_flush")]
    pub(super) fn xdp_tx_flush(&self, rq: &VethRq, cx: &mut Softirq<'_>, bulk: &mut Vec<XdpFrame>) {
        self.xdp_tx_flush_bulk(rq, cx, bulk);
        let Some(peer) = self.peer() else { return };
        let theirs = peer.select_rq(cx.net.cpu);
        // A peer that has GRO only is not woken: the frames wait until something else wakes it.
        if theirs.program.get(0, cx.guard).is_some() {
            peer.flush_rq(theirs, cx);
        }
    }

    /// Kernel: `drivers/net/veth.c veth_xdp_flush_bq, v6.18`
    #[doc(alias = "veth_xdp_flush_bq")]
    pub(super) fn xdp_tx_flush_bulk(&self, rq: &VethRq, cx: &mut Softirq<'_>, bulk: &mut Vec<XdpFrame>) {
        let n = bulk.len();
        let (sent, err, reason) = match self.xdp_xmit(cx, bulk, 0, false) {
            Ok(Xmit { sent, stopped_by }) => (sent, 0, stopped_by),
            Err(error) => (0, -error.errno.raw(), error.reason),
        };
        for frame in bulk.drain(..) {
            cx.net.drop_packet(frame.into_packet(), reason);
        }
        let ifindex = self.core.ifindex;
        cx.net.trace.emit(Tracepoint::XdpBulkTx, || TraceEvent::XdpBulkTx {
            ifindex,
            drops: (n - sent) as u32,
            sent: sent as u32,
            err,
        });
        add_alone(&rq.stats.xdp_tx, sent as u64);
        add_alone(&rq.stats.xdp_tx_err, (n - sent) as u64);
    }

    /// Kernel: `drivers/net/veth.c veth_xmit, v6.18`
    #[doc(alias = "veth_xmit")]
    pub(super) fn start_xmit(&self, cx: &mut Softirq<'_>, mut skb: Box<Skb>) -> NetdevTx {
        let Some(peer) = self.peer().filter(|_| skb.packet.linear_len() as usize >= ETH_HLEN) else {
            return self.drop_skb(cx, skb.packet, DropReason::ForwardNoPeer);
        };
        let len = skb.len();
        let core = &peer.core;
        if !core.is_up() || (!skb.gso && len > core.max_frame_len()) {
            core.rx_dropped.fetch_add(1, Relaxed);
            return self.drop_skb(cx, skb.packet, DropReason::ForwardNotPossible);
        }
        let rq = peer.rqs.get(skb.queue_mapping as usize).filter(|rq| rq.index < core.rx_queues());
        // A sender without segmentation offload: its receiver has a program.
        let rq = rq.filter(|rq| rq.napi.load(Acquire) && !self.core.tso());
        skb.eth_type_trans(core.ifindex, core.mac);
        let Some(rq) = rq else {
            skb.rx_queue = (skb.queue_mapping < core.rx_queues()).then_some(skb.queue_mapping);
            add(&self.core.tx_packets, 1);
            add(&self.core.tx_bytes, len as u64);
            cx.netif_rx(skb);
            return NetdevTx::Ok;
        };
        self.start_xmit_ring(cx, &peer, rq, skb)
    }

    /// Kernel: `drivers/net/veth.c veth_xdp_rx, v6.18`
    #[doc(alias = "veth_xdp_rx")]
    fn start_xmit_ring(
        &self,
        cx: &mut Softirq<'_>,
        peer: &Arc<Self>,
        rq: &VethRq,
        mut skb: Box<Skb>,
    ) -> NetdevTx {
        skb.rx_queue = Some(rq.index);
        let pages = skb.packet.frame_count() as u64;
        let mut skb = Some(skb);
        rq.ring.produce_batch(1, |room| {
            add_alone(&rq.stats.frames_in, if room > 0 { pages } else { 0 });
            skb.take_if(|_| room > 0).map(RingItem::Skb).into_iter()
        });
        match skb {
            None => {
                peer.flush_rq(rq, cx);
                NetdevTx::Ok
            }
            Some(mut skb) if self.core.qdisc.load(Relaxed) => {
                skb.push_mac();
                rq.tx_stopped.store(true, Release);
                peer.flush_rq(rq, cx);
                NetdevTx::Busy(skb)
            }
            Some(skb) => self.drop_skb(cx, skb.packet, DropReason::ForwardRingFull),
        }
    }

    fn drop_skb(&self, cx: &mut Softirq<'_>, packet: Packet, reason: DropReason) -> NetdevTx {
        add(&self.dropped, 1);
        cx.net.drop_packet(packet, reason);
        NetdevTx::Dropped
    }
}
