//! [`Cpu`]: one CPU's thread, and [`Feed`], a generator on it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use control::scene::Traffic;
use mem::epoch;
use uapi::xdp::{XDP_PACKET_HEADROOM, XDP_TAILROOM};
use xdp::redirect::CpuQueue;
use xdp::{DropReason, Engine, Native, NetContext, Softirq, Tracepoint, XdpFrame, Xmit, XmitFlags};

use super::{CpuCounts, EventCounts, Shared, lock};
use crate::SeededHost;

/// Packets that a generator makes at once.
const BURST: u64 = 64;
/// Packets of a generator that are made beforehand.
const VARIANTS_MAX: u64 = 4096;
/// Bytes of a frame's page.
const FRAME_SZ: u32 = 4096;
/// How often counts are handed over.
const HAND_OVER: Duration = Duration::from_millis(20);
/// How long a CPU without work sleeps.
const NAP: Duration = Duration::from_micros(50);
/// How long packets may take to come to rest at the end.
const REST_MAX: Duration = Duration::from_secs(1);
/// Events between two looks at them.
const EVENTS: usize = 1 << 14;

/// A generator.
pub(super) struct Feed {
    ifindex: u32,
    traffic: Traffic,
    ready: Vec<Vec<u8>>,
    made: u64,
    /// Sent as a socket does, because the receiver takes no frames or they are too long.
    as_skbs: bool,
    frames: Vec<XdpFrame>,
}

impl Feed {
    pub(super) fn new(ifindex: u32, traffic: &Traffic) -> Self {
        let variants = traffic.variants();
        let ready = if variants <= VARIANTS_MAX {
            (0..variants).map(|i| traffic.packet(i)).collect()
        } else {
            Vec::new()
        };
        let room = FRAME_SZ as usize - XDP_PACKET_HEADROOM - XDP_TAILROOM;
        let as_skbs = traffic.packets.iter().any(|p| p.len() > room);
        Self { ifindex, traffic: traffic.clone(), ready, made: 0, as_skbs, frames: Vec::new() }
    }

    /// Packets that are due after a time.
    fn due(&self, elapsed: Duration) -> u64 {
        let by_now = match self.traffic.rate {
            Some(rate) => (elapsed.as_nanos() * u128::from(rate) / 1_000_000_000) as u64 + 1,
            None => u64::MAX,
        };
        by_now.min(self.traffic.count.unwrap_or(u64::MAX)).saturating_sub(self.made).min(BURST)
    }

    fn is_done(&self) -> bool {
        self.traffic.count.is_some_and(|count| self.made >= count)
    }

    /// Makes and sends packets; answers how many the device took.
    fn send(&mut self, cx: &mut Softirq<'_>, n: u64) -> u64 {
        if self.as_skbs {
            return self.send_skbs(cx, n);
        }
        let Some(device) = cx.devices.get(cx.guard, self.ifindex).cloned() else { return 0 };
        for i in self.made..self.made + n {
            let made;
            let bytes = match self.ready.len() as u64 {
                0 => {
                    made = self.traffic.packet(i);
                    &made
                }
                variants => &self.ready[(i % variants) as usize],
            };
            let headroom = XDP_PACKET_HEADROOM as u32;
            let Some(packet) = cx.net.pool.take_packet(FRAME_SZ, headroom, bytes.len() as u32) else { break };
            packet.linear().copy_from(0, bytes);
            if let Ok(frame) = XdpFrame::from_packet(packet) {
                self.frames.push(frame);
            }
        }
        let result = device.ndo_xdp_xmit(cx, &mut self.frames, XmitFlags::FLUSH);
        let (sent, reason) = match result {
            Ok(Xmit { sent, stopped_by }) => (sent as u64, stopped_by),
            Err(error) => {
                self.as_skbs = error.reason == DropReason::XmitNoReceiver;
                (0, error.reason)
            }
        };
        // Without a rate the generator waits for room; with one, what finds none is lost.
        let wait = self.traffic.rate.is_none() || self.as_skbs;
        let wait = wait && matches!(reason, DropReason::XmitRingFull | DropReason::XmitNoReceiver);
        for frame in self.frames.drain(..) {
            match wait {
                true => cx.net.pool.put_packet(frame.into_packet()),
                false => cx.net.drop_packet(frame.into_packet(), reason),
            }
        }
        self.made += if wait { sent } else { n };
        sent
    }

    fn send_skbs(&mut self, cx: &mut Softirq<'_>, n: u64) -> u64 {
        for i in self.made..self.made + n {
            // What it refuses has its counter.
            let _ = cx.packet_send(self.ifindex, &self.traffic.packet(i));
        }
        self.made += n;
        // Not by ndo_xdp_xmit: the count of generated frames is for that.
        0
    }
}

/// One CPU.
pub(super) struct Cpu<'a> {
    cpu: u32,
    shared: &'a Shared<'a>,
    net: NetContext,
    engine: Box<dyn Engine>,
    host: SeededHost,
    feeds: Vec<Feed>,
    threads: VecDeque<Arc<CpuQueue>>,
    generated: u64,
    stack: u64,
    events: EventCounts,
}

impl<'a> Cpu<'a> {
    pub(super) fn new(cpu: u32, shared: &'a Shared<'a>, feeds: Vec<Feed>) -> Self {
        let mut net = NetContext::new(cpu, shared.depot.clone());
        if shared.extended {
            use Tracepoint::*;
            net.trace.enable(&[XdpException, XdpDevmapXmit, XdpCpumapEnqueue, XdpCpumapKthread], EVENTS);
        }
        let mut host = SeededHost::new(u64::from(cpu), shared.net.clone());
        host.set_cpu(cpu);
        Self {
            cpu,
            shared,
            net,
            engine: Box::<Native>::default(),
            host,
            feeds,
            threads: VecDeque::new(),
            generated: 0,
            stack: 0,
            events: EventCounts::default(),
        }
    }

    /// Works until it is stopped, and packets have come to rest.
    pub(super) fn run(mut self) {
        let mut handed_over = Instant::now();
        let mut stopped: Option<Instant> = None;
        let mut feeding = true;
        loop {
            let stop = self.shared.stop.load(Relaxed);
            if feeding && self.feeds.iter().all(Feed::is_done) {
                feeding = false;
                self.shared.feeding.fetch_sub(1, Relaxed);
            }
            let worked = self.round(!stop);
            if handed_over.elapsed() >= HAND_OVER {
                self.hand_over();
                handed_over = Instant::now();
            }
            if stop {
                // Others may still send to this CPU.
                let since = stopped.get_or_insert_with(Instant::now).elapsed();
                if (!worked && since > HAND_OVER) || since > REST_MAX {
                    break;
                }
            }
            if !worked {
                std::thread::sleep(NAP);
            }
        }
        self.hand_over();
    }

    /// One turn of everything; answers whether there was something to do.
    fn round(&mut self, feed: bool) -> bool {
        let elapsed = self.shared.started.elapsed();
        self.host.set_time_ns(elapsed.as_nanos() as u64);
        let guard = epoch::pin();
        let mut cx = Softirq {
            net: &mut self.net,
            engine: &mut *self.engine,
            host: &mut self.host,
            guard: &guard,
            devices: self.shared.devices,
        };
        let mut worked = false;
        for feed in self.feeds.iter_mut().filter(|_| feed) {
            let due = feed.due(elapsed);
            if due > 0 {
                self.generated += feed.send(&mut cx, due);
                worked = true;
            }
        }
        worked |= cx.net_rx_action() > 0 || !cx.net.poll_list.is_empty();
        if let Some(queue) = self.threads.pop_front() {
            cx.net.begin();
            if cx.cpu_map_kthread_run(&queue) {
                self.threads.push_back(queue);
            }
            worked = true;
        }
        drop(guard);
        for queue in self.net.woken.drain(..) {
            let to = queue.cpu as usize % self.shared.woken.len();
            match to == self.cpu as usize {
                true => self.threads.push_back(queue),
                false => lock(&self.shared.woken[to]).push(queue),
            }
        }
        self.threads.extend(lock(&self.shared.woken[self.cpu as usize]).drain(..));
        for skb in std::mem::take(&mut self.net.received) {
            self.stack += 1;
            self.net.pool.put_packet(skb.packet);
        }
        if self.shared.extended {
            self.net.trace.drain().for_each(|event| self.events.event(&event));
        }
        worked || !self.threads.is_empty()
    }

    fn hand_over(&mut self) {
        let pool = self.net.pool.stats();
        let held = pool.taken as i64 - pool.returned as i64 - self.net.held_frames() as i64;
        *lock(&self.shared.counts[self.cpu as usize]) = CpuCounts {
            generated: self.generated,
            stack: self.stack,
            drops: self.net.drops.iter().collect(),
            events: self.events,
            held,
        };
    }
}
