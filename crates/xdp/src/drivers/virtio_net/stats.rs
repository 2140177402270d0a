//! Counters: written once a poll or batch, read under ethtool's names.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Rq, VirtioNet};
use crate::DeviceCounters;

/// Counters of a receive queue.
///
/// Kernel: `drivers/net/virtio_net.c struct virtnet_rq_stats, v6.18`
#[doc(alias = "virtnet_rq_stats")]
#[derive(Debug, Default)]
pub(super) struct RqStats {
    packets: AtomicU64,
    bytes: AtomicU64,
    drops: AtomicU64,
    xdp_packets: AtomicU64,
    xdp_tx: AtomicU64,
    xdp_redirects: AtomicU64,
    xdp_drops: AtomicU64,
    pub(super) kicks: AtomicU64,
}

/// The same for one poll.
#[derive(Debug, Default)]
pub(super) struct PollStats {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) drops: u64,
    pub(super) xdp_packets: u64,
    pub(super) xdp_tx: u64,
    pub(super) xdp_redirects: u64,
    pub(super) xdp_drops: u64,
    pub(super) kicks: u64,
    pub(super) rx_length_errors: u64,
}

impl PollStats {
    /// A packet that a program or what it asked for ended.
    pub(super) const fn drop_by_xdp(&mut self) {
        self.xdp_drops += 1;
        self.drops += 1;
    }
}

/// Counters of a send queue.
///
/// Kernel: `drivers/net/virtio_net.c struct virtnet_sq_stats, v6.18`
#[doc(alias = "virtnet_sq_stats")]
#[derive(Debug, Default)]
pub(super) struct SqStats {
    packets: AtomicU64,
    bytes: AtomicU64,
    pub(super) xdp_tx: AtomicU64,
    pub(super) xdp_tx_drops: AtomicU64,
    pub(super) kicks: AtomicU64,
    pub(super) stop: AtomicU64,
    pub(super) wake: AtomicU64,
}

impl SqStats {
    /// Packets are counted when the device gives them back.
    pub(super) fn freed(&self, packets: u64, bytes: u64) {
        add(&self.packets, packets);
        add(&self.bytes, bytes);
    }
}

pub(super) fn add(counter: &AtomicU64, n: u64) {
    if n > 0 {
        counter.fetch_add(n, Relaxed);
    }
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

impl RqStats {
    fn named(&self) -> [(&'static str, &AtomicU64); 6] {
        [
            ("drops", &self.drops),
            ("xdp_packets", &self.xdp_packets),
            ("xdp_tx", &self.xdp_tx),
            ("xdp_redirects", &self.xdp_redirects),
            ("xdp_drops", &self.xdp_drops),
            ("kicks", &self.kicks),
        ]
    }
}

/// `tx_timeouts`: there is no watchdog, and so none.
static NEVER: AtomicU64 = AtomicU64::new(0);

impl SqStats {
    fn named(&self) -> [(&'static str, &AtomicU64); 4] {
        [
            ("xdp_tx", &self.xdp_tx),
            ("xdp_tx_drops", &self.xdp_tx_drops),
            ("kicks", &self.kicks),
            ("tx_timeouts", &NEVER),
        ]
    }
}

/// Sums by name over queues, in the order of names of one queue.
fn totals<'s, const N: usize>(
    queues: impl Iterator<Item = [(&'static str, &'s AtomicU64); N]>,
) -> Vec<(&'static str, u64)> {
    let mut sums: Vec<(&'static str, u64)> = Vec::new();
    for queue in queues {
        sums.resize(N, ("", 0));
        for (sum, (name, counter)) in sums.iter_mut().zip(queue) {
            *sum = (name, sum.1 + get(counter));
        }
    }
    sums
}

impl VirtioNet {
    pub(super) fn publish(&self, rq: &Rq, poll: &PollStats) {
        let s = &rq.stats;
        add(&s.packets, poll.packets);
        add(&s.bytes, poll.bytes);
        add(&s.drops, poll.drops);
        add(&s.xdp_packets, poll.xdp_packets);
        add(&s.xdp_tx, poll.xdp_tx);
        add(&s.xdp_redirects, poll.xdp_redirects);
        add(&s.xdp_drops, poll.xdp_drops);
        add(&s.kicks, poll.kicks);
        add(&self.rx_length_errors, poll.rx_length_errors);
    }

    /// Sums over the queue pairs in use, then each of them.
    ///
    /// Kernel: `drivers/net/virtio_net.c virtnet_get_strings, virtnet_get_ethtool_stats, v6.18`
    #[doc(alias = "virtnet_get_ethtool_stats")]
    pub(super) fn ethtool(&self, out: &mut Vec<(String, u64)>) {
        let curr = self.queue_pairs().0 as usize;
        let rx = || self.rqs.iter().take(curr).map(|rq| rq.stats.named());
        let tx = || self.sqs.iter().take(curr).map(|sq| sq.stats.named());
        out.extend(totals(rx()).into_iter().map(|(name, n)| (format!("rx_{name}"), n)));
        out.extend(totals(tx()).into_iter().map(|(name, n)| (format!("tx_{name}"), n)));
        for (i, queue) in rx().enumerate() {
            out.extend(queue.map(|(name, counter)| (format!("rx{i}_{name}"), get(counter))));
        }
        for (i, queue) in tx().enumerate() {
            out.extend(queue.map(|(name, counter)| (format!("tx{i}_{name}"), get(counter))));
        }
    }

    /// Kernel: `drivers/net/virtio_net.c virtnet_stats, v6.18`
    #[doc(alias = "virtnet_stats")]
    pub(super) fn rtnl_stats(&self) -> DeviceCounters {
        let mut stats = self.core.counters();
        for rq in &self.rqs {
            stats.rx_packets += get(&rq.stats.packets);
            stats.rx_bytes += get(&rq.stats.bytes);
            stats.rx_dropped += get(&rq.stats.drops);
        }
        for sq in &self.sqs {
            stats.tx_packets += get(&sq.stats.packets);
            stats.tx_bytes += get(&sq.stats.bytes);
        }
        stats
    }

    /// How often a send queue stopped and woke (`netdev` queue statistics).
    #[must_use]
    pub fn stops_and_wakes(&self, queue: u32) -> Option<(u64, u64)> {
        self.sqs.get(queue as usize).map(|sq| (get(&sq.stats.stop), get(&sq.stats.wake)))
    }
}
