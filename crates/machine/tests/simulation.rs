//! Ten thousand short lives of a host, each from a seed: devices, programs, packets and faults at random. No
//! packet may be lost or doubled, nothing may panic, and the same seed must give the same life.
//!
//! `EARLYBIRD_SEED=N cargo test -p earlybird-machine --test simulation` plays one seed again, and says what it does;
//! `EARLYBIRD_SEEDS=N` plays so many.

use std::fmt::Write as _;
use std::sync::Arc;

use bpf::Insn;
use bpf::maps::{Map, MapContext, MapDef, Refs};
use bpf::object::{AttachType, ProgramSpec};
use bpf::vm::{Program, Symbols};
use machine::SeededHost;
use machine::softirq::{LoopConfig, SoftirqLoop};
use uapi::Errno;
use uapi::bpf::MapType;
use xdp::drivers::veth::Veth;
use xdp::{AttachFlags, DeviceConfig, LiveRun, NetDevice, ProgramHandle, XdpRequest};

/// Lives of one run of the test.
const SEEDS: u64 = 10_000;
/// What happens in one life.
const EVENTS: u32 = 24;
const CPUS: u32 = 2;
const PAIRS: u32 = 3;
/// Turns that a burst may take before everything is detached: programs may send packets in circles.
const TURNS: u64 = 64;

/// Random numbers of a life.
struct Random(u64);

impl Random {
    /// Kernel: none; SplitMix64.
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % u64::from(n)) as u32
    }
}

struct Life {
    random: Random,
    machine: SoftirqLoop,
    devices: Vec<Arc<Veth>>,
    programs: Vec<Arc<Program>>,
    egress: Arc<Program>,
    devmap: Arc<Map>,
    hash: Arc<Map>,
    cpumap: Arc<Map>,
    log: String,
}

/// What maps refer to.
struct World<'a>(&'a Life);

impl Refs for World<'_> {
    fn has_device(&self, ifindex: u32) -> bool {
        self.0.machine.devices.find(ifindex).is_some()
    }

    fn program(&self, fd: i32) -> Result<Arc<Program>, Errno> {
        let all = self.0.programs.iter().chain([&self.0.egress]);
        all.into_iter().find(|p| p.id() as i32 == fd).cloned().ok_or(Errno::EBADF)
    }
}

fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    Insn::new(code, dst, src, off, imm)
}

fn answer(act: i32) -> Vec<Insn> {
    vec![insn(0xb7, 0, 0, 0, act), insn(0x95, 0, 0, 0, 0)]
}

/// `return bpf_redirect_map(map 0, bpf_get_prandom_u32() & 7, flags)`.
fn redirect_map(flags: i32) -> Vec<Insn> {
    vec![
        insn(0x85, 0, 0, 0, 7),
        insn(0x57, 0, 0, 0, 7),
        insn(0xbf, 2, 0, 0, 0),
        insn(0x18, 1, 5, 0, 0),
        Insn::default(),
        insn(0xb7, 3, 0, 0, flags),
        insn(0x85, 0, 0, 0, 51),
        insn(0x95, 0, 0, 0, 0),
    ]
}

/// `bpf_xdp_adjust_head/tail(ctx, n); return act`.
fn adjust(helper: i32, n: i32, act: i32) -> Vec<Insn> {
    vec![
        insn(0xb7, 2, 0, 0, n),
        insn(0x85, 0, 0, 0, helper),
        insn(0xb7, 0, 0, 0, act),
        insn(0x95, 0, 0, 0, 0),
    ]
}

fn program(id: u32, insns: &[Insn], maps: &[Arc<Map>], attach_type: AttachType, frags: bool) -> Arc<Program> {
    let spec = ProgramSpec { attach_type, frags, ..ProgramSpec::bare("p", insns.to_vec()) };
    let symbols = Symbols { helper: bpf::helpers::helper, kfunc: bpf::kfuncs::kfunc };
    Arc::new(Program::link(&spec, id, maps, symbols).expect("links"))
}

fn map(map_type: MapType, entries: u32, id: u32) -> Arc<Map> {
    let cx = MapContext { id, cpus: CPUS, ..MapContext::default() };
    Map::create(MapDef::new(map_type, 4, 8, entries), &cx).expect("creates")
}

impl Life {
    fn new(seed: u64) -> Self {
        let host = SeededHost::new(seed, Arc::default());
        let config = LoopConfig { cpus: CPUS, seed, turn_ns: 1000 };
        let machine = SoftirqLoop::new(config, host);
        let (devmap, hash) = (map(MapType::Devmap, 8, 1), map(MapType::DevmapHash, 8, 2));
        let cpumap = map(MapType::Cpumap, CPUS, 3);
        let one = |m: &Arc<Map>| vec![m.clone()];
        let sources = [
            (answer(0), vec![]),
            (answer(1), vec![]),
            (answer(2), vec![]),
            (answer(3), vec![]),
            (answer(4), vec![]),
            (answer(99), vec![]),
            (redirect_map(0), one(&devmap)),
            (redirect_map(2), one(&hash)),
            (redirect_map(8), one(&devmap)),
            (redirect_map(8 | 16), one(&hash)),
            (redirect_map(1), one(&cpumap)),
            (adjust(44, -200, 3), vec![]),
            (adjust(44, 20, 2), vec![]),
            (adjust(65, -10, 4), vec![]),
        ];
        let programs =
            (10..).zip(&sources).map(|(id, (insns, maps))| program(id, insns, maps, AttachType::Xdp, false));
        let programs = programs.collect();
        let egress = program(50, &adjust(44, -20, 2), &[], AttachType::Devmap, false);
        let mut life = Self {
            random: Random(seed),
            machine,
            devices: Vec::new(),
            programs,
            egress,
            devmap,
            hash,
            cpumap,
            log: String::new(),
        };
        for i in 0..PAIRS {
            life.add_pair(1 + 2 * i);
        }
        life
    }

    fn add_pair(&mut self, first: u32) {
        let queues = 1 + self.random.below(2);
        let end = |i: u32| {
            let (rx_queues, tx_queues) = (queues, queues);
            (i, DeviceConfig { rx_queues, tx_queues, ..DeviceConfig::new(&format!("v{i}")) })
        };
        let (a, b) = Veth::pair(end(first), end(first + 1));
        for device in [a, b] {
            self.machine.devices.register(device.clone()).expect("the numbers are free");
            device.set_up(true).expect("comes up");
            self.devices.push(device);
        }
    }

    fn device(&mut self) -> Arc<Veth> {
        let i = self.random.below(self.devices.len() as u32);
        self.devices[i as usize].clone()
    }

    fn event(&mut self) {
        let device = self.device();
        let ifindex = device.core().ifindex;
        let kind = self.random.below(12);
        let _ = writeln!(self.log, "event {kind} on {ifindex}");
        match kind {
            0..=2 => self.send(ifindex),
            3..=4 => self.live(ifindex),
            5 => self.attach(ifindex),
            6 => self.set_entry(ifindex),
            7 => device.set_gro(self.random.below(2) == 0),
            8 => {
                let up = self.random.below(3) > 0;
                let waited = device.set_up(up).expect("a veth goes both ways");
                self.drop_waiting(waited);
            }
            9 => {
                let pages = self.random.below(200).into();
                let cpu = self.random.below(CPUS);
                self.machine.net(cpu).pool.set_limit(pages);
            }
            10 => self.replace(ifindex),
            // One CPU has its turns while the other one stands still.
            _ => {
                for _ in 0..self.random.below(8) {
                    self.machine.turn();
                }
                return;
            }
        }
        if self.random.below(3) > 0 {
            self.settle();
        }
    }

    fn send(&mut self, ifindex: u32) {
        let len = 14 + self.random.below(1600) as usize;
        for _ in 0..self.random.below(80) {
            let cpu = self.random.below(CPUS);
            // A corrupted packet is one with other bytes: nothing here may mind.
            let bytes = vec![self.random.below(256) as u8; len];
            let _ = self.machine.on_cpu(cpu, |cx| cx.packet_send(ifindex, &bytes));
        }
    }

    fn live(&mut self, ifindex: u32) {
        let at = self.random.below(self.programs.len() as u32) as usize;
        let program = self.programs[at].clone();
        let data = vec![7; 60 + self.random.below(1000) as usize];
        let (repeat, batch) = (1 + self.random.below(200), 1 + self.random.below(256));
        let run = LiveRun { program: &program, data: &data, ingress: (ifindex, 0), repeat, batch };
        let cpu = self.random.below(CPUS);
        let _ = self.machine.on_cpu(cpu, |cx| cx.test_run_live(&run));
    }

    fn attach(&mut self, ifindex: u32) {
        let at = self.random.below(self.programs.len() as u32 + 3) as usize;
        let program = self.programs.get(at).map(|p| ProgramHandle::new(p.clone()));
        let mode = [0, AttachFlags::SKB_MODE, AttachFlags::DRV_MODE, AttachFlags::DRV_MODE];
        let flags = mode[self.random.below(4) as usize];
        let _ = self.machine.devices.set_xdp(ifindex, &XdpRequest::new(program, flags));
        self.drain();
    }

    fn set_entry(&mut self, ifindex: u32) {
        let egress = if self.random.below(2) == 0 { 0 } else { self.egress.id() };
        let value = |first: u32| [first.to_le_bytes(), egress.to_le_bytes()].concat();
        let key = self.random.below(8).to_le_bytes();
        let (map, bytes) = match self.random.below(4) {
            0 => (&self.devmap, value(ifindex)),
            1 => (&self.hash, value(ifindex)),
            2 => {
                let _ = self.devmap.open().delete_elem(&key);
                return;
            }
            _ => (&self.cpumap, [64_u32.to_le_bytes(), [0; 4]].concat()),
        };
        let _ = map.open().update_with(&World(self), &key, &bytes, 0);
    }

    /// A device goes, with its peer, and others come in their place.
    fn replace(&mut self, ifindex: u32) {
        let first = ifindex - (ifindex - 1) % 2;
        for i in [first, first + 1] {
            let (gone, waited) = self.machine.devices.unregister(i).expect("it is there");
            self.drop_waiting(waited);
            self.devices.retain(|d| d.core().ifindex != i);
            // Whoever held it might have put something in on the way.
            drop(gone);
        }
        self.add_pair(first);
    }

    fn drop_waiting(&mut self, waited: Vec<xdp::RingItem>) {
        self.machine.on_cpu(0, |cx| waited.into_iter().for_each(|item| cx.net.drop_waiting(item)));
    }

    /// Packets in rings that have lost their NAPI.
    fn drain(&mut self) {
        for i in 0..self.devices.len() {
            let waited = self.devices[i].drain();
            self.drop_waiting(waited);
        }
    }

    fn settle(&mut self) {
        if self.machine.settle(TURNS).is_err() {
            // In circles: whatever sends goes.
            for device in self.devices.clone() {
                for mode in [AttachFlags::SKB_MODE, AttachFlags::DRV_MODE] {
                    let detach = XdpRequest::new(None, mode);
                    let _ = self.machine.devices.set_xdp(device.core().ifindex, &detach);
                }
            }
            self.machine.settle(1 << 16).expect("nothing sends any more");
            self.drain();
        }
        self.machine.take_received(|_, _| {});
    }

    fn check(&self, seed: u64) {
        if let Err(error) = self.machine.check_frames() {
            panic!("EARLYBIRD_SEED={seed}: {error}\n{}", self.log);
        }
    }
}

/// Plays a life to its end, and answers what all counters were then.
fn live(seed: u64) -> (machine::softirq::Moves, String) {
    let mut life = Life::new(seed);
    for _ in 0..EVENTS {
        life.event();
        life.check(seed);
    }
    let counters = life.machine.counters();
    life.settle();
    for device in life.devices.clone() {
        let waited = device.set_up(false).expect("goes down");
        life.drop_waiting(waited);
    }
    life.settle();
    life.check(seed);
    let pools = (0..CPUS).map(|cpu| life.machine.net(cpu).pool.stats());
    let (taken, returned) = pools.fold((0, 0), |(t, r), s| (t + s.taken, r + s.returned));
    assert_eq!(taken, returned, "EARLYBIRD_SEED={seed}: pages that did not come back\n{}", life.log);
    (counters, life.log)
}

#[test]
fn no_life_loses_or_doubles_a_packet() {
    let number = |name| std::env::var(name).ok().and_then(|v: String| v.parse::<u64>().ok());
    if let Some(seed) = number("EARLYBIRD_SEED") {
        let (counters, log) = live(seed);
        println!("{log}{counters:#?}");
        return;
    }
    let seeds = number("EARLYBIRD_SEEDS").unwrap_or(SEEDS);
    std::thread::scope(|s| {
        for half in 0..2 {
            s.spawn(move || (0..seeds).filter(|seed| seed % 2 == half).for_each(|seed| drop(live(seed))));
        }
    });
}

#[test]
fn a_life_can_be_lived_again() {
    for seed in 0..50 {
        assert_eq!(live(seed), live(seed), "seed {seed}");
    }
    assert_ne!(live(1).0, live(2).0);
}
