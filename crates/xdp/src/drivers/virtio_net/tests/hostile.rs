//! Devices that lie: whatever they write, nothing panics, no page is lost, every poll ends, and the host goes on.

use mem::virtq::QueueLayout;
use uapi::virtio_net::*;

use super::super::Backend;
use super::*;
use crate::{DropReason, Softirq};

/// A device that believes in nothing: it writes what it likes.
struct Hostile;

impl Backend for Hostile {
    fn notify(&self, _queue: u16) -> bool {
        true
    }

    fn poll(&self, _cx: &mut Softirq<'_>) -> bool {
        false
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// A number that is often at an edge.
    fn edge(&mut self, around: u64) -> u64 {
        match self.below(6) {
            0 => around,
            1 => around.wrapping_add(self.below(3)).wrapping_sub(1),
            2 => 0,
            3 => u64::MAX,
            4 => self.below(70_000),
            _ => self.next(),
        }
    }
}

/// Puts an entry into a used ring and moves its index on.
fn push_used(side: &DeviceSide, queue: usize, id: u32, len: u32) {
    let layout: &QueueLayout = &side.queues[queue];
    let view = side.memory.view();
    let idx = view.read_u16(layout.used + 2);
    let at = layout.used + 4 + 8 * usize::from(idx % layout.size);
    view.write_u32(at, id);
    view.write_u32(at + 4, len);
    view.write_u16(layout.used + 2, idx.wrapping_add(1));
}

/// One thing that a device may do to its driver.
fn misbehave(side: &DeviceSide, random: &mut Random) {
    let view = side.memory.view();
    let queue = random.below(side.queues.len() as u64) as usize;
    let layout = side.queues[queue];
    match random.below(10) {
        // A buffer that may or may not be there, with a length that may or may not be true.
        0..=5 => {
            let id = if random.below(20) == 0 { random.edge(255) } else { random.below(layout.size.into()) };
            let lens = [12, 26, 72, 1526, 1530, 1531, 1536, 3520, 3521, 4096];
            let len = lens[random.below(10) as usize];
            let len = random.edge(len);
            push_used(side, queue, id as u32, len as u32);
        }
        // Headers: in the buffers of a receive queue.
        6 | 7 => {
            let desc = layout.desc + 16 * random.below(layout.size.into()) as usize;
            let addr = view.read_u64(desc) as usize;
            let header = Header {
                flags: random.edge(0) as u8,
                gso_type: if random.below(4) == 0 { random.edge(1) as u8 } else { 0 },
                gso_size: random.edge(1448) as u16,
                csum_start: random.edge(34) as u16,
                csum_offset: random.edge(16) as u16,
                num_buffers: random.edge(2) as u16,
                ..Header::default()
            };
            if addr.checked_add(20).is_some_and(|end| end <= view.len()) {
                view.copy_from(addr, &header.to_bytes());
            }
        }
        // Anything anywhere in the rings.
        8 => {
            let at = layout.desc + random.below((layout.used - layout.desc) as u64 + 2000) as usize;
            view.write_u8(at, random.next() as u8);
        }
        _ => view.write_u16(layout.used + 2, random.edge(3) as u16),
    }
}

fn program(w: &mut World, random: &mut Random) -> Arc<Program> {
    let insns = match random.below(6) {
        0 => answer(DROP),
        1 => answer(TX),
        2 => redirect(21, 0),
        3 => try_adjust(ADJUST_HEAD, -200),
        4 => try_adjust(ADJUST_TAIL, -10),
        _ => answer(PASS),
    };
    let frags = random.below(2) == 0;
    w.program(&insns, &[], AttachType::Xdp, frags)
}

fn features(random: &mut Random) -> u64 {
    let all = VirtioConfig::new("x").features;
    let optional = [
        VIRTIO_NET_F_MRG_RXBUF,
        VIRTIO_NET_F_MRG_RXBUF,
        VIRTIO_NET_F_HASH_REPORT,
        VIRTIO_NET_F_GUEST_TSO4,
        uapi::virtio_ring::VIRTIO_RING_F_EVENT_IDX,
        uapi::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC,
    ];
    let bits = optional.into_iter().filter(|_| random.below(2) == 0).fold(0, |bits, bit| bits ^ 1 << bit);
    all ^ bits
}

/// One device with one driver, from a seed.
fn run(seed: u64) -> (u64, usize) {
    let mut random = Random(seed);
    let mut w = World::new();
    w.veth(21, 22);
    w.answer(22, PASS);
    let mut config = VirtioConfig::new("v11");
    config.features = features(&mut random);
    (config.max_queue_pairs, config.cpus) = (1 + random.below(3) as u16, 1 + random.below(2) as u32);
    config.ring_size = 8 << random.below(6);
    let (dev, side) = VirtioNet::new(11, config).unwrap();
    assert!(dev.connect(Arc::new(Hostile)));
    w.devices.register(dev.clone()).unwrap();
    dev.set_up(true).unwrap();
    for step in 0..120 {
        match random.below(12) {
            0 => {
                let program = program(&mut w, &mut random);
                let _ = w.attach(11, &program, DRV);
            }
            1 if random.below(4) == 0 => drop(w.detach(11, DRV)),
            2 => drop(w.cx(|cx| cx.packet_send(11, &packet(60 + 10 * step)))),
            _ => (0..1 + random.below(8)).for_each(|_| misbehave(&side, &mut random)),
        }
        let queue = random.below(8) as u16;
        w.cx(|cx| dev.interrupt(cx, queue));
        settle(&mut w, seed);
        w.received();
        w.check_frames();
    }
    (w.net.drops.total(), dev.broken_queues().len())
}

/// Every poll ends, and none is due for ever: an index can be ahead by 65,535 at most.
fn settle(w: &mut World, seed: u64) {
    for _ in 0..20_000 {
        if w.net.poll_list.is_empty() {
            return assert!(w.net.is_flushed());
        }
        w.cx(|cx| cx.net_rx_action());
    }
    panic!("seed {seed}: polls are due for ever");
}

#[test]
fn no_device_can_panic_its_driver_or_take_its_pages() {
    let (mut drops, mut broken) = (0, 0);
    for seed in 0..600 {
        let (d, b) = run(seed);
        drops += d;
        broken += b;
    }
    assert!(drops > 1000 && broken > 100, "the device did harm: {drops} drops, {broken} broken queues");
}

/// A device that returns what it did not have loses the queue, and nothing else.
#[test]
fn a_broken_queue_is_out_of_use_and_the_others_are_not() {
    let mut r = rig_with(|c| (c.max_queue_pairs, c.cpus) = (2, 2));
    push_used(&r.side, 0, 999, 60);
    r.w.cx(|cx| r.dev.interrupt(cx, 0));
    r.w.settle();
    assert_eq!(r.dev.broken_queues(), [0]);
    let host = r.host.clone();
    assert!(r.w.cx(|cx| host.deliver(cx, 1, Header::default(), &packet(60))));
    r.w.settle();
    assert_eq!(r.received(), [60]);
    // A broken send queue drops what the stack sends, and says so.
    push_used(&r.side, 1, 5, 0);
    for _ in 0..2 {
        assert_eq!(r.w.send(11, 60), Ok(()));
    }
    assert_eq!(r.w.net.drops.get(DropReason::VirtioBroken), 2);
    r.w.check_frames();
}

/// Lengths and numbers of buffers that cannot be are refused with the kernel's counters.
#[test]
fn lies_about_lengths_are_length_errors() {
    for (features, id_len, num, reason, drops) in [
        (!0, vec![25], 1, DropReason::VirtioRxLength, 0),
        (!0, vec![1537], 1, DropReason::VirtioRxLength, 1),
        (!0, vec![u32::MAX], 1, DropReason::VirtioRxLength, 1),
        (!0, vec![100], 2, DropReason::VirtioRxMissing, 1),
        (!0, vec![100], 0, DropReason::VirtioRxMissing, 1),
        (!0, vec![100, 1537], 2, DropReason::VirtioRxLength, 1),
        (!(1 << VIRTIO_NET_F_MRG_RXBUF), vec![1531], 1, DropReason::VirtioRxLength, 1),
    ] {
        let mut r = rig_with(|c| c.features &= features);
        let view = r.side.memory.view();
        let first = view.read_u64(r.side.queues[0].desc) as usize;
        view.copy_from(first, &Header { num_buffers: num, ..Header::default() }.to_bytes()[..12]);
        for (id, len) in (0..).zip(&id_len) {
            push_used(&r.side, 0, id, *len);
        }
        r.w.cx(|cx| r.dev.interrupt(cx, 0));
        r.w.settle();
        assert_eq!(r.dev.rx_errors().0, 1, "{id_len:?}");
        assert_eq!(
            (r.w.net.drops.get(reason), r.dev.link_stats().rx_dropped),
            (1, drops),
            "{id_len:?} {num}"
        );
        r.w.check_frames();
    }
}

/// A packet that was judged cannot be changed any more: the program has a copy.
#[test]
fn bytes_change_in_the_device_but_not_in_the_packet() {
    let mut r = rig();
    r.attach(&answer(PASS), false);
    r.deliver(1, 1000);
    let view = r.side.memory.view();
    let layout = r.side.queues[0];
    for i in 0..usize::from(layout.size) {
        let addr = view.read_u64(layout.desc + 16 * i) as usize;
        view.fill(addr, 1500, 0xee);
    }
    assert_eq!(r.w.received(), [(11, packet(1000))]);
}

/// A device on a thread of its own, which changes everything while the driver looks at it: what is checked must be
/// what is used.
#[test]
fn no_device_can_change_its_mind_to_harm() {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    let mut harmed = 0;
    for seed in 0..40 {
        let mut random = Random(seed);
        let mut w = World::new();
        let mut config = VirtioConfig::new("v11");
        config.features = features(&mut random);
        let (dev, side) = VirtioNet::new(11, config).unwrap();
        assert!(dev.connect(Arc::new(Hostile)));
        w.devices.register(dev.clone()).unwrap();
        dev.set_up(true).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                let mut random = Random(!seed);
                while !stop.load(Relaxed) {
                    scribble(&side, &mut random);
                }
            });
            let mut step = 0;
            while step < 50_000 && dev.link_stats().rx_packets < 40 && dev.broken_queues().is_empty() {
                if step % 300 == 0 {
                    let program = program(&mut w, &mut random);
                    let _ = w.attach(11, &program, DRV);
                }
                if step % 10 == 0 {
                    let _ = w.cx(|cx| cx.packet_send(11, &packet(60 + step % 1400)));
                }
                w.cx(|cx| dev.interrupt(cx, (step % 2) as u16));
                // The device may keep polls busy for as long as it likes; each ends.
                for _ in 0..4 {
                    w.cx(|cx| cx.net_rx_action());
                }
                w.received();
                w.check_frames();
                step += 1;
                std::thread::yield_now();
            }
            stop.store(true, Relaxed);
        });
        settle(&mut w, seed);
        w.received();
        w.check_frames();
        harmed += u32::from(dev.link_stats().rx_packets >= 40 || !dev.broken_queues().is_empty());
    }
    assert!(harmed > 10, "the device had no time to do harm: only in {harmed} runs of 40");
}

/// Used buffers that are the driver's in turn, with lengths and headers that change all the time.
fn scribble(side: &DeviceSide, random: &mut Random) {
    let view = side.memory.view();
    let layout = side.queues[0];
    for _ in 0..64 {
        let slot = random.below(layout.size.into()) as usize;
        view.write_u32(
            layout.used + 4 + 8 * slot + 4,
            [60, 1526, 1536, 4096, 70_000][random.below(5) as usize],
        );
        let addr = view.read_u64(layout.desc + 16 * slot) as usize;
        if addr.checked_add(12).is_some_and(|end| end <= view.len()) {
            view.write_u16(addr, random.edge(0) as u16);
            view.write_u16(addr + 10, random.below(4) as u16);
        }
    }
    // The next entries are what the driver made available, in its order.
    let idx = view.read_u16(layout.used + 2);
    let avail = view.read_u16(layout.avail + 2);
    if idx != avail {
        let slot = usize::from(idx % layout.size);
        let head = view.read_u16(layout.avail + 4 + 2 * slot);
        let id = if random.below(2000) == 0 { random.next() as u32 } else { head.into() };
        push_used(side, 0, id, 1526);
    }
}
