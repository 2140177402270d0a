//! Attaching and detaching, up and down, GRO: what turns queues into NAPIs.

use std::sync::Arc;
use std::sync::atomic::Ordering::*;

use bpf::vm::Program;
use mem::Frame;
use uapi::Errno;
use uapi::xdp::{ETH_HLEN, MAX_SKB_FRAGS, XDP_PACKET_HEADROOM, XDP_TAILROOM};

use super::Veth;
use super::stats::add;
use crate::attach::SetupError;
use crate::{ETH_MAX_MTU, Feature, RingItem};

/// Largest MTU of the peer of a veth with a program, bytes.
pub(super) const fn max_mtu(frags: bool) -> u32 {
    let linear = Frame::PAGE_SIZE - XDP_PACKET_HEADROOM - XDP_TAILROOM - ETH_HLEN;
    let room = if frags { linear + MAX_SKB_FRAGS * Frame::PAGE_SIZE } else { linear };
    room as u32
}

impl Veth {
    /// Kernel: `drivers/net/veth.c veth_xdp_set, v6.18`
    #[doc(alias = "veth_xdp_set")]
    pub(super) fn xdp_set(&self, program: Option<&Arc<Program>>) -> Result<(), SetupError> {
        let had_program = self.has_program.load(Acquire);
        let peer = self.peer();
        if let Some(program) = program {
            let Some(peer) = &peer else {
                let text = "veth: Cannot set XDP when peer is detached";
                return Err(SetupError::new(Errno::ENOTCONN, text));
            };
            let max = max_mtu(program.has_frags());
            if peer.core.mtu() > max {
                return Err(SetupError::new(Errno::ERANGE, "veth: Peer MTU is too large to set XDP"));
            }
            if self.core.rx_queues() < peer.core.tx_queues() {
                let text = "veth: XDP expects number of rx queues not less than peer tx queues";
                return Err(SetupError::new(Errno::ENOSPC, text));
            }
            if !had_program {
                peer.core.tso.store(false, Release);
                peer.core.max_mtu.store(max, Release);
            }
        }
        self.program.swap(0, program.map(|p| Arc::new(p.clone())));
        self.has_program.store(program.is_some(), Release);
        if let Some(peer) = &peer
            && had_program
            && program.is_none()
        {
            peer.core.tso.store(true, Release);
            peer.core.max_mtu.store(ETH_MAX_MTU, Release);
        }
        if self.core.is_up() {
            self.enable();
        }
        self.update_pair_features();
        Ok(())
    }

    /// Gives each queue what it needs now: program and NAPI, or neither.
    ///
    /// Kernel: `drivers/net/veth.c veth_enable_xdp, veth_disable_xdp, veth_napi_enable, v6.18`
    #[doc(alias = "veth_enable_xdp")]
    fn enable(&self) {
        let program = self.program.get_arc(0, &mem::epoch::pin());
        let napi = program.is_some() || self.core.gro.load(Acquire);
        for rq in &self.rqs {
            rq.program.swap(0, program.clone());
            rq.napi.store(napi, Release);
        }
    }

    /// Kernel: `drivers/net/veth.c veth_open, v6.18`
    #[doc(alias = "veth_open")]
    pub(super) fn open(&self) {
        self.core.up.store(true, Release);
        self.enable();
        self.update_pair_features();
    }

    /// Kernel: `drivers/net/veth.c veth_close, v6.18`
    #[doc(alias = "veth_close")]
    pub(super) fn close(&self) -> Vec<RingItem> {
        self.core.up.store(false, Release);
        for rq in &self.rqs {
            rq.program.swap(0, None);
            rq.napi.store(false, Release);
        }
        self.drain()
    }

    /// Takes what waits in the rings of queues that have no NAPI any more.
    ///
    /// Kernel: `drivers/net/veth.c veth_napi_del, ptr_ring_cleanup, v6.18`
    #[doc(alias = "ptr_ring_cleanup")]
    pub fn drain(&self) -> Vec<RingItem> {
        let mut items = Vec::new();
        for rq in self.rqs.iter().filter(|rq| !rq.napi.load(Acquire)) {
            rq.ring.consume_batch(u32::MAX, |item| {
                let pages = match &item {
                    RingItem::Frame(frame) => frame.packet().frame_count(),
                    RingItem::Skb(skb) => skb.packet.frame_count(),
                };
                add(&rq.stats.frames_out, pages as u64);
                items.push(item);
            });
            rq.rx_notify_masked.store(false, Release);
        }
        items
    }

    /// Turns GRO on or off (`ethtool -K dev gro`): with it the queues have NAPIs without a program.
    ///
    /// Kernel: `drivers/net/veth.c veth_set_features, v6.18`
    #[doc(alias = "veth_set_features")]
    pub fn set_gro(&self, on: bool) {
        self.core.gro.store(on, Release);
        if self.core.is_up() {
            self.enable();
        }
        self.update_pair_features();
    }

    /// Sets the queues in use (`ethtool -L`).
    ///
    /// # Errors
    ///
    /// `EINVAL` for none, for more than the device was made with, or for fewer receive queues than the peer
    /// has transmit queues while a program is attached on the side that would suffer.
    ///
    /// Kernel: `drivers/net/veth.c veth_set_channels, v6.18`
    #[doc(alias = "veth_set_channels")]
    pub fn set_channels(&self, rx: u32, tx: u32) -> Result<(), SetupError> {
        if rx == 0 || tx == 0 || rx as usize > self.rqs.len() {
            return Err(SetupError::bare(Errno::EINVAL));
        }
        let peer = self.peer();
        if let Some(peer) = &peer {
            let mine = self.has_program.load(Acquire) && rx < peer.core.tx_queues();
            let theirs = peer.has_program.load(Acquire) && tx > peer.core.rx_queues();
            if mine || theirs {
                return Err(SetupError::bare(Errno::EINVAL));
            }
        }
        self.core.rx_queues.store(rx, Release);
        self.core.tx_queues.store(tx, Release);
        self.update_pair_features();
        Ok(())
    }

    fn update_pair_features(&self) {
        self.update_features();
        if let Some(peer) = self.peer() {
            peer.update_features();
        }
    }

    /// Feature bits: a device takes frames for others if its peer has a program or GRO.
    ///
    /// Kernel: `drivers/net/veth.c veth_set_xdp_features, v6.18`
    #[doc(alias = "veth_set_xdp_features")]
    pub(super) fn update_features(&self) {
        let peer = self.peer().filter(|p| p.core.tx_queues() <= self.core.rx_queues());
        let features = peer.map_or(0, |peer| {
            let receives = peer.has_program.load(Acquire) || peer.core.gro.load(Acquire);
            let xmit = if receives { Feature::NDO_XMIT | Feature::NDO_XMIT_SG } else { 0 };
            Feature::BASIC | Feature::REDIRECT | Feature::RX_SG | xmit
        });
        self.core.xdp_features.store(features, Release);
    }
}
