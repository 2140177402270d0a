//! Virtio devices in the seeded loop: several CPUs and queue pairs, a cable, and things that go wrong.

use uapi::Errno;
use xdp::drivers::virtio_net::{HostSide, VirtioConfig, VirtioNet};

use super::*;

/// Devices of numbers 1 and 2 on a cable, and a veth pair 3 and 4, on four CPUs.
struct Lab {
    m: SoftirqLoop,
    virtio: [Arc<VirtioNet>; 2],
    hosts: [Arc<HostSide>; 2],
    random: u64,
    /// Packets that senders gave away.
    sent: u64,
    /// Packets that reached a stack.
    received: u64,
}

impl Lab {
    fn new(seed: u64) -> Self {
        let host = SeededHost::new(seed, Arc::default());
        let m = SoftirqLoop::new(LoopConfig { cpus: 4, seed, turn_ns: 500 }, host);
        let mut random = seed;
        let mut ends = Vec::new();
        for i in 1..=2 {
            let mut config = VirtioConfig::new(&format!("v{i}"));
            config.cpus = 4;
            config.max_queue_pairs = 1 + (splitmix64(&mut random) % 8) as u16;
            config.ring_size = 32 << (splitmix64(&mut random) % 4);
            // Event index, indirect descriptors and mergeable buffers come and go.
            config.features ^= (splitmix64(&mut random) & 3) << 28 | (splitmix64(&mut random) & 1) << 15;
            config.device.mtu = 1500;
            let (device, side) = VirtioNet::new(i, config).unwrap();
            let end = HostSide::new(&device, &side);
            m.devices.register(device.clone()).unwrap();
            ends.push((device, end));
        }
        let (a, b) = Veth::pair((3, DeviceConfig::new("a")), (4, DeviceConfig::new("b")));
        m.devices.register(a).unwrap();
        m.devices.register(b).unwrap();
        (1..=4).for_each(|i| up(&m, i, true));
        let [(x, left), (y, right)] = ends.try_into().ok().unwrap();
        assert!(HostSide::cable(&left, &right));
        Self { m, virtio: [x, y], hosts: [left, right], random, sent: 0, received: 0 }
    }

    fn below(&mut self, n: u64) -> u64 {
        splitmix64(&mut self.random) % n
    }

    fn attach(&mut self, ifindex: u32) {
        let insns = match self.below(5) {
            0 => vec![mov(0, 1), exit()],
            1 => vec![mov(0, 2), exit()],
            // To the veth, whose other end passes.
            2 => vec![mov(1, 3), mov(2, 0), Insn::new(0x85, 0, 0, 0, 23), exit()],
            // Back on the cable, but from one end alone: else packets run in circles.
            _ if ifindex == 2 => vec![mov(0, 3), exit()],
            _ => {
                let detach = XdpRequest::new(None, AttachFlags::DRV_MODE);
                return self.m.devices.set_xdp(ifindex, &detach).unwrap();
            }
        };
        let request = XdpRequest::new(Some(ProgramHandle::new(program(&insns, &[]))), AttachFlags::DRV_MODE);
        self.m.devices.set_xdp(ifindex, &request).unwrap();
    }

    /// One thing that happens, or one turn.
    fn step(&mut self) {
        let (cpu, ifindex) = (self.below(4) as u32, 1 + self.below(2) as u32);
        match self.below(40) {
            0 => self.attach(ifindex),
            1 => up(&self.m, ifindex, false),
            2 | 3 => up(&self.m, ifindex, true),
            4 => {
                let pages = self.m.net(cpu).pool.stats().allocated + self.below(40);
                self.m.net(cpu).pool.set_limit(pages);
            }
            5 => self.m.net(cpu).pool.set_limit(u64::MAX),
            6 => {
                // Refused with a program, or if there are not as many.
                let _ = self.virtio[ifindex as usize - 1].set_channels(1 + cpu % 2);
            }
            7..20 => {
                for _ in 0..self.below(50) {
                    let len = 60 + self.below(1455) as usize;
                    self.send(cpu, ifindex, len);
                }
            }
            _ => {
                self.m.turn();
            }
        }
        self.m.check_frames().unwrap();
        self.m.take_received(|_, _| self.received += 1);
    }

    fn send(&mut self, cpu: u32, ifindex: u32, len: usize) {
        let before = self.m.net(cpu).drops.total();
        match self.m.on_cpu(cpu, |cx| cx.packet_send(ifindex, &vec![cpu as u8; len])) {
            Ok(()) => self.sent += 1,
            // Dropped with its reason, or never made because there was no page for it.
            Err(Errno::ENOBUFS) => self.sent += self.m.net(cpu).drops.total() - before,
            Err(error) => assert_eq!(error, Errno::ENETDOWN),
        }
    }

    /// Everything works again, and packets that waited go on with the next ones.
    fn finish(&mut self) {
        (0..4).for_each(|cpu| self.m.net(cpu).pool.set_limit(u64::MAX));
        (1..=2).for_each(|i| up(&self.m, i, true));
        for ifindex in [1, 2, 1, 2] {
            self.send(0, ifindex, 60);
            self.m.settle(100_000).unwrap();
        }
        self.m.take_received(|_, _| self.received += 1);
        self.m.check_frames().unwrap();
    }
}

fn up(m: &SoftirqLoop, ifindex: u32, up: bool) {
    let device = m.devices.all().into_iter().find(|d| d.core().ifindex == ifindex).unwrap();
    assert!(device.set_up(up).unwrap().is_empty());
}

/// Runs a lab; answers its counters, and how many packets were sent and received.
fn run(seed: u64, steps: u32) -> (Moves, u64, u64) {
    let mut lab = Lab::new(seed);
    (0..steps).for_each(|_| lab.step());
    lab.finish();
    let dropped: u64 = (0..4).map(|cpu| lab.m.net(cpu).drops.total()).sum();
    let counters = lab.m.counters();
    let state: Vec<_> = counters.iter().filter(|(_, n)| **n > 0).collect();
    assert_eq!(lab.sent, lab.received + dropped, "seed {seed}: packets were lost or doubled: {state:#?}");
    for (host, device) in lab.hosts.iter().zip(&lab.virtio) {
        assert_eq!((host.stats().bad_chains, device.broken_queues()), (0, vec![]), "seed {seed}");
    }
    (counters, lab.sent, lab.received)
}

/// Links that come and go, programs that change, full rings, missing pages: each packet has one end.
#[test]
fn no_packet_is_lost_or_doubled_whatever_the_seed() {
    let (mut sent, mut received) = (0, 0);
    for seed in 0..400 {
        let (_, s, r) = run(seed, 150);
        sent += s;
        received += r;
    }
    assert!(received > 10_000 && sent > received + 10_000, "{sent} sent, {received} received");
}

#[test]
fn the_same_seed_gives_the_same_counters() {
    for seed in [3, 77] {
        assert_eq!(run(seed, 300), run(seed, 300));
    }
}
