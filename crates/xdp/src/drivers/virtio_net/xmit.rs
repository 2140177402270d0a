//! Sending: frames by `ndo_xdp_xmit` and `XDP_TX`, skbs by `ndo_start_xmit`, and what comes back.

use std::sync::atomic::Ordering::*;

use mem::virtq::{AddError, Buffer, CHAIN_MAX, DriverQueue};
use mem::{Packet, SharedMem};
use uapi::Errno;
use uapi::xdp::MAX_SKB_FRAGS;

use super::arena::{Arena, NONE, PAGE};
use super::stats::add;
use super::{Sq, VirtioNet, tx_queue};
use crate::{
    DropReason, NapiCtx, NetdevTx, Note, Polled, Skb, Softirq, XdpFrame, Xmit, XmitError, XmitFlags,
};

/// Free descriptors that the stack's next packet may need.
const XMIT_FREE: u16 = 2 + MAX_SKB_FRAGS as u16;

/// A packet that the device has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    page: u32,
    bytes: u32,
}

/// What a send queue keeps under its lock.
pub(super) struct TxQueue {
    pub(super) vq: DriverQueue<Sent>,
    arena: Arena,
}

/// What came back from the device.
#[derive(Clone, Copy, Debug, Default)]
struct Freed {
    packets: u64,
    bytes: u64,
}

impl TxQueue {
    pub(super) fn new(vq: DriverQueue<Sent>, arena: Arena) -> Self {
        Self { vq, arena }
    }

    /// Copies a packet to the device behind an empty header; `counted` bytes are what statistics say.
    fn push(
        &mut self,
        memory: &SharedMem,
        hdr_len: u32,
        packet: &Packet,
        counted: u32,
    ) -> Result<(), AddError> {
        if self.vq.num_free() == 0 {
            return Err(AddError::Full);
        }
        let mut chain = Copying { buffers: [Buffer::default(); CHAIN_MAX], len: 0, first: NONE, last: NONE };
        let parts = std::iter::once(packet.linear()).chain(packet.frags().iter().map(mem::Frag::bytes));
        let mut header = hdr_len;
        for part in parts {
            let mut at = 0;
            while at < part.len() || header > 0 {
                let Some(page) = chain.page(&mut self.arena) else {
                    self.arena.put_chain(chain.first);
                    return Err(AddError::Full);
                };
                let n = (part.len() - at).min((PAGE - header) as usize);
                let bytes = memory.view().get(self.arena.offset(page), PAGE as usize).expect("a page of it");
                bytes.fill(0, header as usize, 0);
                bytes.copy_from_shared(header as usize, part.get(at, n).expect("within the part"));
                chain.buffers[chain.len - 1] =
                    Buffer { addr: self.arena.offset(page) as u64, len: header + n as u32 };
                at += n;
                header = 0;
            }
        }
        let sent = Sent { page: chain.first, bytes: counted };
        self.vq.add(&chain.buffers[..chain.len], &[], sent).map_err(|(error, sent)| {
            self.arena.put_chain(sent.page);
            error
        })
    }

    /// Takes back what the device has sent.
    ///
    /// Kernel: `drivers/net/virtio_net.c __free_old_xmit, v6.18`
    #[doc(alias = "__free_old_xmit")]
    fn free_old(&mut self) -> Freed {
        let mut freed = Freed::default();
        // No more than the device has: nothing is added meanwhile.
        while let Some((sent, _)) = self.vq.get_buf() {
            self.arena.put_chain(sent.page);
            freed.packets += 1;
            freed.bytes += u64::from(sent.bytes);
        }
        freed
    }

    /// The same, until the device has no more to give back. A broken device ends it, too.
    fn free_old_and_rearm(&mut self) -> Freed {
        let mut all = Freed::default();
        // Each round takes at least one chain, and there are no more than descriptors.
        for _ in 0..=self.vq.size() {
            self.vq.disable_cb();
            let freed = self.free_old();
            all.packets += freed.packets;
            all.bytes += freed.bytes;
            if self.vq.enable_cb_delayed() {
                break;
            }
        }
        all
    }
}

/// A chain that a packet is copied to.
struct Copying {
    buffers: [Buffer; CHAIN_MAX],
    len: usize,
    first: u32,
    last: u32,
}

impl Copying {
    fn page(&mut self, arena: &mut Arena) -> Option<u32> {
        if self.len == CHAIN_MAX {
            return None;
        }
        let page = arena.take()?;
        if self.len == 0 {
            self.first = page;
        } else {
            arena.link(self.last, page);
        }
        self.last = page;
        self.len += 1;
        Some(page)
    }
}

impl VirtioNet {
    /// The send queue that programs use on a CPU: its own if there are enough, else one that it shares.
    ///
    /// Queues of their own need queue pairs for programs. The kernel looks at the number of all pairs alone, and
    /// with more pairs in use than CPUs but none for programs it reaches behind the last queue; here such CPUs
    /// share.
    ///
    /// Kernel: `drivers/net/virtio_net.c virtnet_xdp_get_sq, v6.18`
    #[doc(alias = "virtnet_xdp_get_sq")]
    pub(super) fn xdp_sq(&self, cpu: u32) -> &Sq {
        let (curr, xdp) = self.queue_pairs();
        let index = if curr > self.cpus && xdp > cpu { curr - xdp + cpu } else { cpu % curr };
        &self.sqs[index as usize]
    }

    /// Whether a send queue is for programs alone.
    ///
    /// Kernel: `drivers/net/virtio_net.c is_xdp_raw_buffer_queue, v6.18`
    #[doc(alias = "is_xdp_raw_buffer_queue")]
    fn is_raw(&self, index: u32) -> bool {
        let (curr, xdp) = self.queue_pairs();
        (curr - xdp..curr).contains(&index)
    }

    /// Kernel: `drivers/net/virtio_net.c virtnet_xdp_xmit, v6.18`
    #[doc(alias = "virtnet_xdp_xmit")]
    pub(super) fn xdp_xmit(
        &self,
        cx: &mut Softirq<'_>,
        frames: &mut Vec<XdpFrame>,
        flags: u32,
    ) -> Result<Xmit, XmitError> {
        if self.rqs[0].program.get(0, cx.guard).is_none() {
            return Err(XmitError { errno: Errno::ENXIO, reason: DropReason::VirtioNoProgram });
        }
        let sq = self.xdp_sq(cx.net.cpu);
        let n = frames.len();
        if flags & !XmitFlags::FLUSH != 0 {
            add(&sq.stats.xdp_tx, n as u64);
            add(&sq.stats.xdp_tx_drops, n as u64);
            return Err(XmitError { errno: Errno::EINVAL, reason: DropReason::XmitNotSupported });
        }
        let mut stopped_by = DropReason::VirtioTxFull;
        let (sent, freed, kick) = sq.queue.with(|q| {
            let freed = q.free_old();
            let sent = frames.iter().take_while(|frame| match self.xmit_one(q, frame) {
                Ok(()) => true,
                Err(reason) => {
                    stopped_by = reason;
                    false
                }
            });
            let sent = sent.count();
            if !self.is_raw(sq.index) {
                self.stop_if_full(sq, q);
            }
            (sent, freed, flags & XmitFlags::FLUSH != 0 && q.vq.kick_prepare())
        });
        // The device has a copy.
        let ifindex = self.core.ifindex;
        for frame in frames.drain(..sent) {
            cx.net.trace.note(|| Note::Left { packet: frame.packet().identity(), ifindex });
            cx.net.pool.put_packet(frame.into_packet());
        }
        sq.stats.freed(freed.packets, freed.bytes);
        add(&sq.stats.xdp_tx, n as u64);
        add(&sq.stats.xdp_tx_drops, (n - sent) as u64);
        if kick {
            add(&sq.stats.kicks, 1);
            self.notify(cx, tx_queue(sq.index));
        }
        Ok(Xmit { sent, stopped_by })
    }

    /// Kernel: `drivers/net/virtio_net.c __virtnet_xdp_xmit_one, v6.18`
    #[doc(alias = "__virtnet_xdp_xmit_one")]
    fn xmit_one(&self, q: &mut TxQueue, frame: &XdpFrame) -> Result<(), DropReason> {
        if frame.headroom() < self.hdr_len {
            return Err(DropReason::VirtioTxNoHeadroom);
        }
        // The header counts as part of a frame.
        let counted = frame.packet().total_len() as u32 + self.hdr_len;
        q.push(&self.memory, self.hdr_len, frame.packet(), counted).map_err(|error| match error {
            AddError::Broken => DropReason::VirtioBroken,
            AddError::Full | AddError::Chain => DropReason::VirtioTxFull,
        })
    }

    /// Kernel: `drivers/net/virtio_net.c check_sq_full_and_disable, v6.18`
    #[doc(alias = "check_sq_full_and_disable")]
    fn stop_if_full(&self, sq: &Sq, q: &mut TxQueue) {
        if q.vq.num_free() < XMIT_FREE {
            sq.stopped.store(true, Release);
            add(&sq.stats.stop, 1);
            // What came back meanwhile is freed by the next packet, which finds the queue awake then.
            q.vq.enable_cb_delayed();
        }
    }

    fn wake_if_free(&self, sq: &Sq, q: &TxQueue) {
        if q.vq.num_free() >= XMIT_FREE && sq.stopped.swap(false, AcqRel) {
            add(&sq.stats.wake, 1);
        }
    }

    /// Kernel: `drivers/net/virtio_net.c start_xmit, v6.18`
    pub(super) fn start_xmit(&self, cx: &mut Softirq<'_>, skb: Box<Skb>) -> NetdevTx {
        let sq = &self.sqs[(skb.queue_mapping % self.core.tx_queues()) as usize];
        let counted = skb.len() as u32;
        let (result, freed, kick) = sq.queue.with(|q| {
            let freed = q.free_old_and_rearm();
            self.wake_if_free(sq, q);
            if sq.stopped.load(Acquire) && !q.vq.is_broken() {
                return (None, freed, false);
            }
            let result = q.push(&self.memory, self.hdr_len, &skb.packet, counted);
            self.stop_if_full(sq, q);
            (Some(result), freed, q.vq.kick_prepare())
        });
        sq.stats.freed(freed.packets, freed.bytes);
        if kick {
            add(&sq.stats.kicks, 1);
            self.notify(cx, tx_queue(sq.index));
        }
        match result {
            None => NetdevTx::Busy(skb),
            Some(Ok(())) => {
                let ifindex = self.core.ifindex;
                cx.net.trace.note(|| Note::Left { packet: skb.packet.identity(), ifindex });
                cx.net.pool.put_packet(skb.packet);
                NetdevTx::Ok
            }
            // It counts as sent for the sender, and as dropped for the device.
            Some(Err(error)) => {
                let broken = error == AddError::Broken;
                let reason = if broken { DropReason::VirtioBroken } else { DropReason::VirtioTxFull };
                add(&self.core.tx_dropped, 1);
                cx.net.drop_packet(skb.packet, reason);
                NetdevTx::Ok
            }
        }
    }

    /// Takes back what the queue beside a receive queue has sent.
    ///
    /// Kernel: `drivers/net/virtio_net.c virtnet_poll_cleantx, v6.18`
    #[doc(alias = "virtnet_poll_cleantx")]
    pub(super) fn poll_cleantx(&self, index: u32) {
        if self.is_raw(index) {
            return;
        }
        let sq = &self.sqs[index as usize];
        let freed = sq.queue.try_with(|q| {
            let freed = q.free_old_and_rearm();
            self.wake_if_free(sq, q);
            freed
        });
        let freed = freed.unwrap_or_default();
        sq.stats.freed(freed.packets, freed.bytes);
    }

    /// The NAPI of a send queue.
    ///
    /// Kernel: `drivers/net/virtio_net.c virtnet_poll_tx, v6.18`
    #[doc(alias = "virtnet_poll_tx")]
    pub(super) fn poll_sq(&self, sq: &Sq, napi: NapiCtx<'_, '_>) -> Polled {
        if self.is_raw(sq.index) || !self.core.is_up() {
            sq.scheduled.store(false, Release);
            return napi.complete(0, false);
        }
        let (freed, armed) = sq.queue.with(|q| {
            q.vq.disable_cb();
            let freed = q.free_old();
            self.wake_if_free(sq, q);
            (freed, q.vq.enable_cb_prepare())
        });
        sq.stats.freed(freed.packets, freed.bytes);
        sq.scheduled.store(false, SeqCst);
        let more = sq.queue.with(|q| q.vq.poll(armed)) && !sq.scheduled.swap(true, AcqRel);
        if more {
            sq.queue.with(|q| q.vq.disable_cb());
        }
        napi.complete(0, more)
    }
}
