//! Counters of a veth: written once a batch or poll, read under ethtool's names.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Veth;
use crate::DeviceCounters;

/// Counters of a receive queue.
///
/// Kernel: `drivers/net/veth.c struct veth_stats, v6.18`
#[doc(alias = "veth_stats")]
#[derive(Debug, Default)]
pub(super) struct RqStats {
    pub(super) xdp_packets: AtomicU64,
    pub(super) xdp_bytes: AtomicU64,
    pub(super) rx_drops: AtomicU64,
    pub(super) xdp_redirect: AtomicU64,
    pub(super) xdp_drops: AtomicU64,
    pub(super) xdp_tx: AtomicU64,
    pub(super) xdp_tx_err: AtomicU64,
    /// These and `frames_in` change under the ring's producer lock.
    pub(super) peer_tq_xdp_xmit: AtomicU64,
    pub(super) peer_tq_xdp_xmit_err: AtomicU64,
    /// Pages of packets that were put into the ring and taken out; not the kernel's, for checkers.
    pub(super) frames_in: AtomicU64,
    pub(super) frames_out: AtomicU64,
}

/// The same for one poll.
#[derive(Debug, Default)]
pub(super) struct PollStats {
    pub(super) xdp_packets: u64,
    pub(super) xdp_bytes: u64,
    pub(super) rx_drops: u64,
    pub(super) xdp_redirect: u64,
    pub(super) xdp_drops: u64,
    /// Packets for `XDP_TX`; what became of them is counted when they are sent.
    pub(super) xdp_tx: u64,
    pub(super) frames_out: u64,
}

pub(super) fn add(counter: &AtomicU64, n: u64) {
    if n > 0 {
        counter.fetch_add(n, Relaxed);
    }
}

/// Adds to a counter that only one thread at a time adds to: whoever holds the ring's producer lock, or the NAPI.
pub(super) fn add_alone(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed) + n, Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

impl RqStats {
    /// Adds what a poll has counted.
    pub(super) fn publish(&self, poll: &PollStats) {
        add(&self.xdp_packets, poll.xdp_packets);
        add(&self.xdp_bytes, poll.xdp_bytes);
        add(&self.rx_drops, poll.rx_drops);
        add(&self.xdp_redirect, poll.xdp_redirect);
        add(&self.xdp_drops, poll.xdp_drops);
        add(&self.frames_out, poll.frames_out);
    }

    pub(super) fn waiting_frames(&self) -> u64 {
        get(&self.frames_in) - get(&self.frames_out)
    }
}

impl Veth {
    /// Kernel: `drivers/net/veth.c veth_get_ethtool_stats, v6.18`
    #[doc(alias = "veth_get_ethtool_stats")]
    pub(super) fn ethtool(&self, out: &mut Vec<(String, u64)>) {
        let peer = self.peer();
        out.push(("peer_ifindex".to_owned(), peer.as_ref().map_or(0, |p| p.core.ifindex.into())));
        for (i, rq) in self.rqs.iter().enumerate().take(self.core.rx_queues() as usize) {
            let s = &rq.stats;
            let counters = [
                ("xdp_packets", &s.xdp_packets),
                ("xdp_bytes", &s.xdp_bytes),
                ("drops", &s.rx_drops),
                ("xdp_redirect", &s.xdp_redirect),
                ("xdp_drops", &s.xdp_drops),
                ("xdp_tx", &s.xdp_tx),
                ("xdp_tx_errors", &s.xdp_tx_err),
            ];
            out.extend(counters.map(|(name, counter)| (format!("rx_queue_{i}_{name}"), get(counter))));
        }
        // What this device sent by ndo_xdp_xmit is counted in the queues of the receiver.
        let queues = self.core.tx_queues() as usize;
        let mut sent = vec![(0, 0); queues];
        for (i, rq) in peer.iter().flat_map(|p| p.rqs.iter().take(p.core.rx_queues() as usize)).enumerate() {
            let (xmit, errors) = &mut sent[i % queues];
            *xmit += get(&rq.stats.peer_tq_xdp_xmit);
            *errors += get(&rq.stats.peer_tq_xdp_xmit_err);
        }
        for (i, (xmit, errors)) in sent.into_iter().enumerate() {
            out.push((format!("tx_queue_{i}_xdp_xmit"), xmit));
            out.push((format!("tx_queue_{i}_xdp_xmit_errors"), errors));
        }
    }

    /// Kernel: `drivers/net/veth.c veth_get_stats64, v6.18`
    #[doc(alias = "veth_get_stats64")]
    pub(super) fn rtnl_stats(&self) -> DeviceCounters {
        let rx = |dev: &Self| dev.rqs.iter().fold(Sums::default(), |sums, rq| sums.add(&rq.stats));
        let mine = rx(self);
        let core = self.core.counters();
        let mut stats = DeviceCounters {
            tx_packets: core.tx_packets,
            tx_bytes: core.tx_bytes,
            tx_dropped: core.tx_dropped + get(&self.dropped) + mine.xdp_tx_err,
            rx_dropped: core.rx_dropped + mine.rx_drops + mine.peer_err,
            rx_packets: mine.packets,
            rx_bytes: mine.bytes,
        };
        if let Some(peer) = self.peer() {
            let (theirs, core) = (rx(&peer), peer.core.counters());
            stats.rx_packets += core.tx_packets;
            stats.rx_bytes += core.tx_bytes;
            stats.rx_dropped += theirs.xdp_tx_err;
            stats.tx_dropped += theirs.peer_err;
            stats.tx_packets += theirs.packets;
            stats.tx_bytes += theirs.bytes;
        }
        stats
    }
}

/// Counters of all queues of a device.
#[derive(Default)]
struct Sums {
    packets: u64,
    bytes: u64,
    rx_drops: u64,
    xdp_tx_err: u64,
    peer_err: u64,
}

impl Sums {
    fn add(self, s: &RqStats) -> Self {
        Self {
            packets: self.packets + get(&s.xdp_packets),
            bytes: self.bytes + get(&s.xdp_bytes),
            rx_drops: self.rx_drops + get(&s.rx_drops),
            xdp_tx_err: self.xdp_tx_err + get(&s.xdp_tx_err),
            peer_err: self.peer_err + get(&s.peer_tq_xdp_xmit_err),
        }
    }
}
