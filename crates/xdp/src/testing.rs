//! What the tests share: a host of one CPU with veth pairs, and small programs.

use std::collections::BTreeMap;
use std::sync::Arc;

use bpf::Insn;
use bpf::host::{Clock, Host};
use bpf::maps::{Map, MapContext, MapDef, Refs};
use bpf::object::{AttachType, ProgramSpec};
use bpf::vm::{Program, Symbols};
use mem::epoch;
use uapi::Errno;
use uapi::bpf::MapType;

use crate::drivers::veth::Veth;
use crate::{
    AttachFlags, DeviceConfig, Devices, DropReason, Interp, LiveRun, LiveStats, NetContext, NetDevice,
    ProgramHandle, SetupError, Softirq, TraceEvent, Tracepoint, XdpRequest,
};

pub(crate) struct NoHost;

impl Host for NoHost {
    fn ktime_ns(&mut self, _: Clock) -> u64 {
        0
    }

    fn prandom_u32(&mut self) -> u32 {
        0
    }
}

/// A host of one CPU. All tracepoints are on.
pub(crate) struct World {
    pub(crate) devices: Arc<Devices>,
    pub(crate) net: NetContext,
    engine: Interp,
    programs: BTreeMap<i32, Arc<Program>>,
}

impl Refs for World {
    fn has_device(&self, ifindex: u32) -> bool {
        self.devices.find(ifindex).is_some()
    }

    fn program(&self, fd: i32) -> Result<Arc<Program>, Errno> {
        self.programs.get(&fd).cloned().ok_or(Errno::EBADF)
    }
}

/// Moves of counters by name; what did not move is left out.
pub(crate) type Moves = BTreeMap<String, u64>;

impl World {
    pub(crate) fn new() -> Self {
        let mut net = NetContext::new(0, Arc::default());
        net.trace.enable(&Tracepoint::ALL, 1 << 12);
        Self { devices: Arc::default(), net, engine: Interp::default(), programs: BTreeMap::new() }
    }

    /// A pair of devices of these numbers, up.
    pub(crate) fn veth(&mut self, a: u32, b: u32) -> (Arc<Veth>, Arc<Veth>) {
        self.veth_with(a, b, |_| {})
    }

    pub(crate) fn veth_with(
        &mut self,
        a: u32,
        b: u32,
        change: impl Fn(&mut DeviceConfig),
    ) -> (Arc<Veth>, Arc<Veth>) {
        let config = |i: u32| {
            let mac = [2, 0, 0, 0, 0, i as u8];
            let mut config = DeviceConfig { mac, ..DeviceConfig::new(&format!("v{i}")) };
            change(&mut config);
            config
        };
        let (x, y) = Veth::pair((a, config(a)), (b, config(b)));
        for device in [&x, &y] {
            self.devices.register(device.clone()).unwrap();
            assert!(device.set_up(true).unwrap().is_empty());
        }
        (x, y)
    }

    pub(crate) fn cx<R>(&mut self, f: impl FnOnce(&mut Softirq<'_>) -> R) -> R {
        let guard = epoch::pin();
        f(&mut Softirq {
            net: &mut self.net,
            engine: &mut self.engine,
            host: &mut NoHost,
            guard: &guard,
            devices: &self.devices,
        })
    }

    /// Runs softirqs and threads until nothing is due.
    pub(crate) fn settle(&mut self) {
        while !self.net.poll_list.is_empty() || !self.net.woken.is_empty() {
            self.cx(|cx| {
                cx.net_rx_action();
                while let Some(queue) = cx.net.woken.pop() {
                    while cx.cpu_map_kthread_run(&queue) {}
                }
            });
        }
        assert!(self.net.is_flushed());
    }

    /// Live frames by a program, as if they came in on a device; then everything settles.
    pub(crate) fn live(&mut self, program: &Arc<Program>, ingress: u32, n: u32, len: usize) -> LiveStats {
        let data = packet(len);
        let run = LiveRun { program, data: &data, ingress: (ingress, 0), repeat: n, batch: 0 };
        let stats = self.cx(|cx| cx.test_run_live(&run)).unwrap();
        self.settle();
        stats
    }

    pub(crate) fn send(&mut self, ifindex: u32, len: usize) -> Result<(), Errno> {
        let result = self.cx(|cx| cx.packet_send(ifindex, &packet(len)));
        self.settle();
        result
    }

    pub(crate) fn attach(&self, ifindex: u32, program: &Arc<Program>, flags: u32) -> Result<(), SetupError> {
        self.devices.set_xdp(ifindex, &XdpRequest::new(Some(ProgramHandle::new(program.clone())), flags))
    }

    pub(crate) fn detach(&self, ifindex: u32, flags: u32) -> Result<(), SetupError> {
        self.devices.set_xdp(ifindex, &XdpRequest::new(None, flags))
    }

    /// Attaches a program that answers `act` in native mode.
    pub(crate) fn answer(&mut self, ifindex: u32, act: i32) -> Arc<Program> {
        let program = self.program(&answer(act), &[], AttachType::Xdp, false);
        self.attach(ifindex, &program, AttachFlags::DRV_MODE).unwrap();
        program
    }

    pub(crate) fn program(
        &mut self,
        insns: &[Insn],
        maps: &[Arc<Map>],
        attach_type: AttachType,
        frags: bool,
    ) -> Arc<Program> {
        let id = 100 + self.programs.len() as u32;
        let spec = ProgramSpec { attach_type, frags, ..ProgramSpec::bare("p", insns.to_vec()) };
        let symbols = Symbols { helper: bpf::helpers::helper, kfunc: bpf::kfuncs::kfunc };
        let program = Arc::new(Program::link(&spec, id, maps, symbols).expect("links"));
        self.programs.insert(id as i32, program.clone());
        program
    }

    pub(crate) fn xdp(&mut self, insns: &[Insn], maps: &[Arc<Map>]) -> Arc<Program> {
        self.program(insns, maps, AttachType::Xdp, false)
    }

    /// An entry of a devmap or cpumap: device or queue size, and perhaps a program.
    pub(crate) fn entry(&self, map: &Arc<Map>, key: u32, first: u32, program: Option<&Arc<Program>>) {
        let second = program.map_or(0, |p| p.id());
        let value = [first.to_le_bytes(), second.to_le_bytes()].concat();
        map.open().update_with(self, &key.to_le_bytes(), &value, 0).unwrap();
    }

    pub(crate) fn events(&mut self) -> Vec<TraceEvent> {
        self.net.trace.drain().collect()
    }

    /// Events of one tracepoint, as the kernel prints them after its name.
    pub(crate) fn lines(&mut self, tracepoint: Tracepoint) -> Vec<String> {
        let prefix = format!("{}: ", tracepoint.name());
        let events = self.events().into_iter().filter(|e| e.tracepoint() == tracepoint);
        events.map(|e| e.to_string().replacen(&prefix, "", 1)).collect()
    }

    /// Packets at the stack, as device and bytes; their pages are free again.
    pub(crate) fn received(&mut self) -> Vec<(u32, Vec<u8>)> {
        let skbs = std::mem::take(&mut self.net.received);
        skbs.into_iter()
            .map(|skb| {
                let seen = (skb.dev, skb.frame_bytes());
                self.net.pool.put_packet(skb.packet);
                seen
            })
            .collect()
    }

    /// All counters that there are.
    pub(crate) fn counters(&self) -> Moves {
        let mut all = Moves::new();
        for device in self.devices.all() {
            let name = &device.core().name;
            let mut stats = Vec::new();
            device.ethtool_stats(&mut stats);
            all.extend(stats.into_iter().map(|(k, v)| (format!("{name}.{k}"), v)));
            let link = device.link_stats();
            all.insert(format!("{name}.link.tx_dropped"), link.tx_dropped);
            all.insert(format!("{name}.link.rx_dropped"), link.rx_dropped);
            all.insert(format!("{name}.link.tx_packets"), link.tx_packets);
            all.insert(format!("{name}.link.rx_packets"), link.rx_packets);
        }
        for reason in DropReason::ALL {
            all.insert(format!("drop.{}", reason.id()), self.net.drops.get(reason));
        }
        all
    }

    /// The ledger: the counters that are claimed must be exactly those that `f` moves.
    #[track_caller]
    pub(crate) fn ledger<R>(&mut self, claims: &[(&str, u64)], f: impl FnOnce(&mut Self) -> R) -> R {
        let before = self.counters();
        let result = f(self);
        let mut after = self.counters();
        let after_all = after.clone();
        after.retain(|k, v| {
            *v -= before[k];
            *v > 0
        });
        let claims: Moves = claims.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
        let state: Vec<_> = after_all.iter().filter(|(_, v)| **v > 0).collect();
        assert_eq!(after, claims, "moved is left, claimed is right; counters now: {state:#?}");
        self.check_frames();
        result
    }

    /// Pages that were taken are in exactly one of the places that the checker knows.
    #[track_caller]
    pub(crate) fn check_frames(&self) {
        let stats = self.net.pool.stats();
        let waiting: u64 = self.devices.all().iter().map(|d| d.waiting_frames()).sum();
        assert_eq!(stats.taken - stats.returned, waiting + self.net.held_frames(), "{stats:?}");
    }
}

pub(crate) fn packet(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bytes[..14].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 99, 0x88, 0xb5]);
    bytes.iter_mut().enumerate().skip(14).for_each(|(i, b)| *b = i as u8);
    bytes
}

pub(crate) fn map(map_type: MapType, value: u32, entries: u32, id: u32) -> Arc<Map> {
    let cx = MapContext { id, cpus: 4, ..MapContext::default() };
    Map::create(MapDef::new(map_type, 4, value, entries), &cx).unwrap()
}

pub(crate) fn mov(dst: u8, imm: i32) -> Insn {
    Insn::new(0xb7, dst, 0, 0, imm)
}

pub(crate) fn mov_reg(dst: u8, src: u8) -> Insn {
    Insn::new(0xbf, dst, src, 0, 0)
}

pub(crate) fn call(helper: i32) -> Insn {
    Insn::new(0x85, 0, 0, 0, helper)
}

pub(crate) fn exit() -> Insn {
    Insn::new(0x95, 0, 0, 0, 0)
}

pub(crate) fn answer(act: i32) -> Vec<Insn> {
    vec![mov(0, act), exit()]
}

/// `r1 =` the map of that number.
pub(crate) fn ld_map(dst: u8, number: i32) -> [Insn; 2] {
    [Insn::new(0x18, dst, 5, 0, number), Insn::default()]
}

/// `r2 =` the first value of the array of that number.
pub(crate) fn ld_value(dst: u8, number: i32) -> [Insn; 2] {
    [Insn::new(0x18, dst, 6, 0, number), Insn::default()]
}

/// `return bpf_redirect_map(map 0, key, flags)`.
pub(crate) fn redirect_map(key: i32, flags: i32) -> Vec<Insn> {
    [&ld_map(1, 0)[..], &[mov(2, key), mov(3, flags), call(51), exit()]].concat()
}

/// `return bpf_redirect(ifindex, flags)`.
pub(crate) fn redirect(ifindex: u32, flags: i32) -> Vec<Insn> {
    vec![mov(1, ifindex as i32), mov(2, flags), call(23), exit()]
}
