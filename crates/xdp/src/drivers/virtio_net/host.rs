//! [`HostSide`]: the device's end of a virtio device within this process. It takes part in the queues as a
//! hypervisor would, and hands packets to another of its kind (a cable) or keeps them to be taken.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use mem::SpinLock;
use mem::virtq::{Chain, DeviceQueue};
use uapi::virtio_net::*;

use super::backend::has;
use super::{Backend, DeviceSide, Header, VirtioNet, rx_queue};
use crate::{DropReason, Softirq};

/// Packets of one queue that are taken at once, before other polls have their turn.
const ROUND: usize = 64;
/// Packets that are kept for whoever takes them.
const KEPT_MAX: usize = 4096;

/// The device's end, in this process.
pub struct HostSide {
    device: Weak<VirtioNet>,
    hdr_len: usize,
    mergeable: bool,
    queues: Box<[SpinLock<HostQueue>]>,
    control: Option<SpinLock<HostQueue>>,
    /// Send queues that were notified.
    due: Box<[AtomicBool]>,
    other: OnceLock<Weak<HostSide>>,
    kept: Mutex<VecDeque<Vec<u8>>>,
    /// What the driver asked for.
    pairs: AtomicU32,
    offloads: AtomicU64,
    stats: [AtomicU64; 4],
}

/// Packets of the device's end: each that it took from the driver is delivered, kept or lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostStats {
    /// Taken from the driver.
    pub taken: u64,
    /// Put into receive buffers of the driver.
    pub delivered: u64,
    /// Lost for want of receive buffers or of room.
    pub lost: u64,
    /// Chains that were none.
    pub bad_chains: u64,
}

struct HostQueue {
    queue: DeviceQueue,
    chain: Chain,
    /// Of one packet.
    chains: Vec<Chain>,
    bytes: Vec<u8>,
}

impl HostQueue {
    fn new(queue: DeviceQueue) -> Self {
        Self { queue, chain: Chain::default(), chains: Vec::new(), bytes: Vec::new() }
    }

    /// Takes receive buffers for the packet in `bytes`, header first, and fills them; `false` if there are not
    /// enough, and then none is taken.
    fn fill(&mut self, mergeable: bool) -> bool {
        let (mut room, mut used) = (0, 0);
        while room < self.bytes.len() {
            if used == self.chains.len() {
                self.chains.push(Chain::default());
            }
            let more = mergeable || used == 0;
            let chain = &mut self.chains[used];
            if !more || self.queue.pop(chain) != Ok(true) {
                self.queue.unpop(used as u16);
                return false;
            }
            room += chain.writable();
            used += 1;
        }
        if mergeable {
            self.bytes[10..12].copy_from_slice(&(used as u16).to_le_bytes());
        }
        let mut at = 0;
        for chain in &self.chains[..used] {
            let n = self.queue.write(chain, &self.bytes[at..]);
            self.queue.push_used(chain, n as u32);
            at += n;
        }
        true
    }
}

impl HostSide {
    /// The end of a device, connected to it.
    ///
    /// # Panics
    ///
    /// If the device has another end already, or `side` is not its.
    #[must_use]
    pub fn new(device: &Arc<VirtioNet>, side: &DeviceSide) -> Arc<Self> {
        let make = |layout| {
            let queue = DeviceQueue::new(side.memory.clone(), layout, side.ring_features());
            let mut queue = queue.expect("the driver's layouts fit its memory");
            queue.enable_notify();
            SpinLock::new(HostQueue::new(queue))
        };
        let mut queues: Vec<_> = side.queues.iter().map(|layout| make(*layout)).collect();
        let control = queues.pop().filter(|_| has(side.features, VIRTIO_NET_F_CTRL_VQ));
        let host = Arc::new(Self {
            device: Arc::downgrade(device),
            hdr_len: side.hdr_len,
            mergeable: has(side.features, VIRTIO_NET_F_MRG_RXBUF),
            due: (0..queues.len()).map(|_| AtomicBool::new(false)).collect(),
            queues: queues.into(),
            control,
            other: OnceLock::new(),
            kept: Mutex::default(),
            pairs: AtomicU32::new(device.queue_pairs().0),
            offloads: AtomicU64::new(0),
            stats: Default::default(),
        });
        assert!(device.connect(host.clone()), "a device has one end");
        host
    }

    /// Lays a cable between two ends: what one driver sends the other receives.
    pub fn cable(a: &Arc<Self>, b: &Arc<Self>) -> bool {
        a.other.set(Arc::downgrade(b)).is_ok() && b.other.set(Arc::downgrade(a)).is_ok()
    }

    /// What it has done.
    #[must_use]
    pub fn stats(&self) -> HostStats {
        let [taken, delivered, lost, bad_chains] = [0, 1, 2, 3].map(|i: usize| self.stats[i].load(Relaxed));
        HostStats { taken, delivered, lost, bad_chains }
    }

    fn count(&self, which: usize) {
        self.stats[which].fetch_add(1, Relaxed);
    }

    /// Queue pairs and offloads that the driver has asked for last.
    #[must_use]
    pub fn asked(&self) -> (u32, u64) {
        (self.pairs.load(Relaxed), self.offloads.load(Relaxed))
    }

    /// Packets that the driver sent, without headers, if no cable takes them further.
    pub fn take_sent(&self) -> Vec<Vec<u8>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    /// Puts a packet into a receive queue of the driver and interrupts it; `false` if it is lost, because there
    /// are not enough buffers or the device is down.
    pub fn deliver(&self, cx: &mut Softirq<'_>, pair: u32, header: Header, packet: &[u8]) -> bool {
        let device = self.device.upgrade().filter(|d| {
            use crate::NetDevice;
            d.core().is_up()
        });
        let queue = rx_queue(pair % self.pairs.load(Relaxed).max(1));
        let (Some(device), Some(host)) = (device, self.queues.get(usize::from(queue))) else {
            return self.lose(cx);
        };
        let filled = host.with(|q| {
            q.bytes.clear();
            q.bytes.extend_from_slice(&header.to_bytes()[..self.hdr_len]);
            q.bytes.extend_from_slice(packet);
            q.fill(self.mergeable).then(|| q.queue.publish())
        });
        match filled {
            None => self.lose(cx),
            Some(interrupt) => {
                self.count(1);
                if interrupt {
                    device.interrupt(cx, queue);
                }
                true
            }
        }
    }

    fn lose(&self, cx: &mut Softirq<'_>) -> bool {
        self.count(2);
        cx.net.drops.add(DropReason::VirtioHostNoBuffer, 1);
        false
    }

    /// Takes packets that the driver sent by a queue; answers whether there may be more.
    fn take(&self, cx: &mut Softirq<'_>, queue: usize) -> bool {
        let mut bytes = Vec::new();
        for _ in 0..ROUND {
            let popped = self.queues[queue].with(|q| {
                let HostQueue { queue, chain, .. } = q;
                match queue.pop(chain) {
                    Ok(false) => None,
                    Ok(true) => {
                        bytes.resize(chain.readable(), 0);
                        queue.read(chain, &mut bytes);
                        queue.push_used(chain, 0);
                        Some(true)
                    }
                    Err(_) => Some(false),
                }
            });
            match popped {
                None => {
                    self.publish(cx, queue);
                    return self.queues[queue].with(|q| q.queue.enable_notify());
                }
                Some(true) => self.forward(cx, queue, &bytes),
                Some(false) => self.count(3),
            }
        }
        self.publish(cx, queue);
        true
    }

    fn publish(&self, cx: &mut Softirq<'_>, queue: usize) {
        if self.queues[queue].with(|q| q.queue.publish())
            && let Some(device) = self.device.upgrade()
        {
            device.interrupt(cx, queue as u16);
        }
    }

    /// One packet with its header: to the other end of the cable, or kept.
    fn forward(&self, cx: &mut Softirq<'_>, queue: usize, bytes: &[u8]) {
        self.count(0);
        let Some(packet) = bytes.get(self.hdr_len..) else {
            self.lose(cx);
            return;
        };
        match self.other.get().map(Weak::upgrade) {
            Some(Some(other)) => {
                other.deliver(cx, queue as u32 / 2, Header::default(), packet);
            }
            Some(None) => {
                self.lose(cx);
            }
            None => {
                let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() < KEPT_MAX {
                    kept.push_back(packet.to_vec());
                } else {
                    drop(kept);
                    self.lose(cx);
                }
            }
        }
    }

    /// Answers a command.
    fn command(&self, bytes: &[u8]) -> u8 {
        let number = |n: usize| bytes.get(2..2 + n).filter(|_| bytes.len() == 2 + n);
        match (bytes.first().copied(), bytes.get(1).copied()) {
            (Some(VIRTIO_NET_CTRL_MQ), Some(VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET)) => {
                let pairs = number(2).map_or(0, |b| u32::from(u16::from_le_bytes([b[0], b[1]])));
                if pairs == 0 || pairs as usize > self.queues.len() / 2 {
                    return VIRTIO_NET_ERR;
                }
                self.pairs.store(pairs, Relaxed);
                VIRTIO_NET_OK
            }
            (Some(VIRTIO_NET_CTRL_GUEST_OFFLOADS), Some(VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET)) => {
                let Some(offloads) = number(8).and_then(|b| b.try_into().ok()) else { return VIRTIO_NET_ERR };
                self.offloads.store(u64::from_le_bytes(offloads), Relaxed);
                VIRTIO_NET_OK
            }
            _ => VIRTIO_NET_ERR,
        }
    }

    fn answer_commands(&self) {
        let Some(control) = &self.control else { return };
        control.with(|q| {
            let HostQueue { queue, chain, bytes, .. } = q;
            while let Ok(true) = queue.pop(chain) {
                bytes.resize(chain.readable(), 0);
                queue.read(chain, bytes);
                let written = queue.write(chain, &[self.command(bytes)]);
                queue.push_used(chain, written as u32);
                queue.publish();
            }
            queue.enable_notify();
        });
    }
}

impl Backend for HostSide {
    fn notify(&self, queue: u16) -> bool {
        let queue = usize::from(queue);
        if queue == self.queues.len() {
            self.answer_commands();
            return false;
        }
        let sends = queue % 2 == 1;
        if let Some(due) = self.due.get(queue).filter(|_| sends) {
            due.store(true, Release);
        }
        sends
    }

    fn poll(&self, cx: &mut Softirq<'_>) -> bool {
        let mut again = false;
        for (queue, due) in self.due.iter().enumerate() {
            if due.swap(false, AcqRel) && self.take(cx, queue) {
                due.store(true, Release);
                again = true;
            }
        }
        again
    }
}
