//! [`EngineScene`]: a scene on the engine, in one thread and virtual time.

pub mod fate;
mod hosts;
pub mod up;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bpf::object::{LineInfo, ObjectSpec};
use bpf::vm::Program;
use control::scene::{
    Action, Answer, AttachMode, Counters, DeviceKind, MapValue, Refuses, Scene, SceneError, SceneHome, Step,
    Traffic, map_number,
};
use control::{EngineKind, LoadOptions, Loaded};
use uapi::Errno;
use uapi::xdp::ETH_HLEN;
use xdp::drivers::loopback::Loopback;
use xdp::drivers::veth::Veth;
use xdp::drivers::virtio_net::{Header, HostSide, VirtioConfig, VirtioNet};
use xdp::{
    AttachFlags, DeviceConfig, LiveRun, NetDevice, ProgramHandle, SetupError, Tracepoint, XdpLink, XdpRequest,
};

use crate::net::{
    Destination, Device, Mac, Neighbour, NeighbourState, NetConfig, Prefix, Route, RouteKind, TableId,
};
use crate::port::Host;
use crate::softirq::{LoopConfig, SoftirqLoop};
use crate::{EngineBackend, EngineObject, NetTables, SeededHost};
use fate::{Follower, Names, Recorder};

/// Events that a step may cause.
const EVENTS_MAX: usize = 1 << 16;
/// Turns after which a step counts as going on for ever.
const TURNS_MAX: u64 = 1 << 20;

/// A scene's devices and objects in the engine.
pub struct EngineScene {
    machine: SoftirqLoop,
    objects: BTreeMap<String, EngineObject>,
    devices: BTreeMap<String, u32>,
    /// Loaded programs by number, to attach and to name.
    handles: BTreeMap<u32, (String, ProgramHandle)>,
    veths: BTreeMap<String, Arc<Veth>>,
    /// Device's ends of virtio devices by the names of their wires.
    wires: BTreeMap<String, Arc<HostSide>>,
    /// Names of virtio devices by those of their wires.
    wire_of: BTreeMap<String, String>,
    links: BTreeMap<String, XdpLink>,
    /// Stacks behind devices, by the devices' numbers.
    hosts: BTreeMap<u32, Host>,
    /// What reached the stack of devices without a host.
    received: Vec<(String, Vec<u8>)>,
    /// Where each instruction of a program comes from, by the program's number.
    lines: BTreeMap<u32, Vec<LineInfo>>,
    follower: Option<Arc<Follower>>,
    /// Line of the step that is taken.
    line: usize,
}

impl EngineScene {
    /// Makes devices and loads objects, of which `open` reads the files. `settings` has CPUs of maps, seed and
    /// types; `engine` says how programs run.
    ///
    /// # Errors
    ///
    /// What could not be made, for example a program that the verifier refuses.
    pub fn new(
        scene: &Scene,
        settings: &EngineBackend,
        engine: EngineKind,
        open: &dyn Fn(&Path) -> Result<ObjectSpec, String>,
    ) -> Result<Self, SceneError> {
        let seed = settings.seed;
        let (devices, config) = (scene.ifindexes(), network(scene));
        let net = Arc::new(NetTables::new(&config).map_err(|e| home(e.to_string()))?);
        let mut backend = settings.clone();
        backend.net = net.clone();
        let machine = SoftirqLoop::new(
            LoopConfig { cpus: scene.cpus, seed, ..LoopConfig::default() },
            SeededHost::new(seed, net),
        );
        let mut this = Self {
            machine,
            objects: BTreeMap::new(),
            devices,
            handles: BTreeMap::new(),
            veths: BTreeMap::new(),
            wires: BTreeMap::new(),
            wire_of: BTreeMap::new(),
            links: BTreeMap::new(),
            hosts: BTreeMap::new(),
            received: Vec::new(),
            lines: BTreeMap::new(),
            follower: None,
            line: 0,
        };
        this.make_devices(scene)?;
        this.make_hosts(scene, seed)?;
        for (name, path) in &scene.objects {
            let spec = open(path).map_err(home)?;
            let programs = spec.programs.iter().map(|p| p.name.clone()).collect();
            let options = LoadOptions { programs, engine, ..LoadOptions::default() };
            let object = backend.load_object(&spec, &options);
            let object = object.map_err(|e| home(format!("{}: {e}", path.display())))?;
            for info in object.programs() {
                if let Some(program) = object.program(&info.name) {
                    let handle = ProgramHandle::new(program.clone());
                    this.handles.insert(info.id, (format!("{name}.{}", info.name), handle));
                    let lines = spec.programs.iter().find(|p| p.name == info.name).map(|p| &p.line_info);
                    this.lines.extend(lines.map(|lines| (info.id, lines.clone())));
                }
            }
            this.objects.insert(name.clone(), object);
        }
        for cpu in 0..scene.cpus {
            this.machine.net(cpu).trace.enable(&Tracepoint::ALL, EVENTS_MAX);
        }
        Ok(this)
    }

    fn make_devices(&mut self, scene: &Scene) -> Result<(), SceneError> {
        for device in &scene.devices {
            let config = |at: usize| {
                let (mac, rx_queues, tx_queues) = (device.macs[at], device.queues, device.queues);
                DeviceConfig { mac, rx_queues, tx_queues, ..DeviceConfig::new(&device.names[at]) }
            };
            let made: Vec<Arc<dyn NetDevice>> = match device.kind {
                DeviceKind::Veth => {
                    let end = |at: usize| (self.devices[&device.names[at]], config(at));
                    let (x, y) = Veth::pair(end(0), end(1));
                    self.veths
                        .extend([(device.names[0].clone(), x.clone()), (device.names[1].clone(), y.clone())]);
                    vec![x, y]
                }
                DeviceKind::Virtio => vec![self.virtio(device, config(0), scene.cpus)?],
                DeviceKind::Loopback => vec![Loopback::new(1, 0)],
            };
            for d in made {
                if let Some(mtu) = device.mtu {
                    d.core().set_mtu(mtu).map_err(|e| home(e.to_string()))?;
                }
                self.machine.devices.register(d.clone()).map_err(|e| home(e.to_string()))?;
                if device.up {
                    d.set_up(true).map_err(|e| home(e.to_string()))?;
                }
            }
        }
        Ok(())
    }

    /// A virtio device with its wire. Its queues are those that it has at most; programs take theirs from them.
    fn virtio(
        &mut self,
        device: &control::scene::Device,
        core: DeviceConfig,
        cpus: u32,
    ) -> Result<Arc<dyn NetDevice>, SceneError> {
        let name = &device.names[0];
        let config = VirtioConfig {
            device: core,
            max_queue_pairs: device.queues as u16,
            cpus,
            ..VirtioConfig::new(name)
        };
        let made = VirtioNet::new(self.devices[name], config);
        let (virtio, side) = made.map_err(|e| home(format!("memory of {name}: {e}")))?;
        self.wires.insert(device.names[1].clone(), HostSide::new(&virtio, &side));
        self.wire_of.insert(device.names[1].clone(), name.clone());
        Ok(virtio)
    }

    /// The state of all devices and CPUs, for whoever wants to look beyond a scene.
    pub fn machine(&mut self) -> &mut SoftirqLoop {
        &mut self.machine
    }

    /// Follows the packets of the scene from now on: all of them, or one in full. Programs run in the checked
    /// interpreter then.
    pub fn follow(&mut self, packet: Option<u64>) -> Arc<Follower> {
        let mut names = Names {
            devices: self.devices.iter().map(|(name, ifindex)| (*ifindex, name.clone())).collect(),
            ..Names::default()
        };
        for (name, veth) in &self.veths {
            names.peers.extend(veth.peer().map(|peer| (self.devices[name], peer.core().ifindex)));
        }
        for (id, (name, _)) in &self.handles {
            names.programs.insert(*id, (name.clone(), self.lines.get(id).cloned().unwrap_or_default()));
        }
        for (object, loaded) in &self.objects {
            names.maps.extend(loaded.maps().iter().map(|m| (m.id, format!("{object}.{}", m.name))));
        }
        let follower = Arc::new(Follower::new(names, packet));
        for cpu in 0..self.machine.cpus() {
            self.machine.set_engine(cpu, Box::new(Recorder::new(follower.clone())));
            self.machine.net(cpu).trace.follow(Some(follower.clone()));
        }
        self.follower = Some(follower.clone());
        follower
    }

    /// Devices by name, with their numbers.
    #[must_use]
    pub const fn device_numbers(&self) -> &BTreeMap<String, u32> {
        &self.devices
    }

    /// Turns the tracepoints off.
    pub fn stop_tracing(&mut self) {
        (0..self.machine.cpus()).for_each(|cpu| self.machine.net(cpu).trace.disable());
    }

    /// Runs a program over live frames that come in on a device, on CPU 0, and nothing else.
    ///
    /// # Errors
    ///
    /// If there is no such program or device, or no page.
    pub fn run_live(
        &mut self,
        program: &(String, String),
        device: &str,
        packet: &[u8],
        count: u32,
    ) -> Result<(), SceneError> {
        let program = self.program(program)?.clone();
        let ingress = (self.ifindex(device)?, 0);
        self.live(&LiveRun { program: &program, data: packet, ingress, repeat: count, batch: 0 }, 0)?
            .map_err(home)
    }

    fn ifindex(&self, device: &str) -> Result<u32, SceneError> {
        self.devices.get(device).copied().ok_or_else(|| home(format!("no device {device}")))
    }

    fn device(&self, name: &str) -> Result<Arc<dyn NetDevice>, SceneError> {
        let found = self.machine.devices.find(self.ifindex(name)?);
        found.ok_or_else(|| home(format!("no device {name}")))
    }

    fn object(&self, name: &str) -> Result<&EngineObject, SceneError> {
        self.objects.get(name).ok_or_else(|| home(format!("no object {name}")))
    }

    fn program(&self, (object, name): &(String, String)) -> Result<&Arc<Program>, SceneError> {
        let found = self.object(object)?.program(name);
        found.ok_or_else(|| home(format!("{object} has no program {name}")))
    }

    fn handle(&self, program: &(String, String)) -> Result<ProgramHandle, SceneError> {
        let id = self.program(program)?.id();
        Ok(self.handles[&id].1.clone())
    }

    fn map(&self, (object, name): &(String, String)) -> Result<(&EngineObject, usize), SceneError> {
        let loaded = self.object(object)?;
        let at = loaded.maps().iter().position(|m| m.name == *name);
        Ok((loaded, at.ok_or_else(|| home(format!("{object} has no map {name}")))?))
    }

    fn set(&self, map: &(String, String), key: u32, value: &MapValue) -> Result<Answer, SceneError> {
        let (object, at) = self.map(map)?;
        let program = |name: &Option<String>| -> Result<u32, SceneError> {
            let Some(name) = name else { return Ok(0) };
            self.program(&(map.0.clone(), name.clone())).map(|p| p.id())
        };
        let def = &object.maps()[at].def;
        let bytes = match value {
            MapValue::Number(n) => n.to_le_bytes().to_vec(),
            MapValue::Device(device, p) => pair(self.ifindex(device)?, program(p)?),
            MapValue::Queue(slots, p) => pair(*slots, program(p)?),
        };
        let mut bytes: Vec<u8> = bytes.into_iter().take(def.value_size as usize).collect();
        if def.is_percpu() {
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            let all = object.map_lookup(at, &key.to_le_bytes()).map_or(8, |old| old.len());
            bytes = bytes.repeat(all / bytes.len().max(1));
        }
        Ok(object.map_update(at, &key.to_le_bytes(), &bytes, 0).map_err(name))
    }

    fn send(&mut self, device: &str, traffic: &Traffic, cpu: u32) -> Result<Answer, SceneError> {
        let wire = self.wires.get(device).cloned();
        let ifindex = self.ifindex(if wire.is_some() { &self.wire_of[device] } else { device })?;
        let mut answer = Ok(());
        let started = self.machine.host.time_ns();
        for i in 0..traffic.count.unwrap_or(1) {
            if let Some(rate) = traffic.rate {
                // Time that the packets before took is not given back.
                let due = started + (u128::from(i) * 1_000_000_000 / u128::from(rate)) as u64;
                self.machine.host.set_time_ns(due.max(self.machine.host.time_ns()));
            }
            let packet = traffic.packet(i);
            match &wire {
                Some(wire) => {
                    // A packet that finds no buffer is counted as dropped; a wire hears of nothing.
                    self.follower.iter().for_each(|f| f.wire_sends(device, ifindex, &packet));
                    let taken =
                        self.machine.on_cpu(cpu, |cx| wire.deliver(cx, cpu, Header::default(), &packet));
                    self.follower.iter().filter(|_| !taken).for_each(|f| f.wire_lost(ifindex));
                }
                None => {
                    if let Err(errno) = self.machine.on_cpu(cpu, |cx| cx.packet_send(ifindex, &packet)) {
                        answer = Err(name(errno));
                    }
                }
            }
            // A sender's softirqs run before its system call returns.
            self.settle()?;
        }
        Ok(answer)
    }

    fn live(&mut self, run: &LiveRun<'_>, cpu: u32) -> Result<Answer, SceneError> {
        let mut left = run.repeat;
        while left > 0 {
            // Softirqs run between batches.
            let n = left.min(xdp::LIVE_BATCH_DEFAULT);
            let batch = LiveRun { repeat: n, ..run.clone() };
            let follower = &self.follower;
            if let Some(f) = follower {
                f.step(self.line, Some((run.program.id(), run.ingress.0)));
            }
            let result = self.machine.on_cpu(cpu, |cx| {
                let result = cx.test_run_live(&batch);
                follower.iter().for_each(|f| f.live_ends());
                cx.net_rx_action();
                result
            });
            if let Err(errno) = result {
                return Ok(Err(name(errno)));
            }
            self.settle()?;
            left -= n;
        }
        Ok(Ok(()))
    }

    fn link(
        &mut self,
        device: &str,
        program: &(String, String),
        mode: Option<AttachMode>,
        expected: Option<&(String, String)>,
    ) -> Result<Answer, SceneError> {
        let handle = self.handle(program)?;
        let expected = expected.map(|p| self.handle(p)).transpose()?;
        if let Some(link) = self.links.get(device) {
            return Ok(link.update(&handle, expected.as_ref()).map_err(|e| name(e.errno)));
        }
        // The text of a refusal is in a tracepoint, not in the answer.
        let link = self.machine.devices.link_create(handle, self.ifindex(device)?, mode_flag(mode));
        Ok(link.map(|link| drop(self.links.insert(device.to_owned(), link))).map_err(|e| name(e.errno)))
    }

    fn settle(&mut self) -> Result<(), SceneError> {
        let settled = self.machine.settle(TURNS_MAX);
        settled.map_err(|e| home(e.to_string()))?;
        if self.hosts.is_empty() { Ok(()) } else { self.serve_hosts() }
    }

    /// Names in the place of numbers.
    fn with_names(&self, event: &str) -> String {
        let words = event.split(' ').map(|word| {
            let Some((field, number)) = word.split_once('=') else { return word.to_owned() };
            let Ok(id) = number.parse::<u32>() else { return word.to_owned() };
            let name = match field {
                "prog_id" => self.handles.get(&id).map(|(name, _)| name.clone()),
                "map_id" => self.objects.iter().find_map(|(object, o)| {
                    o.maps().iter().find(|m| m.id == id).map(|m| format!("{object}.{}", m.name))
                }),
                "ifindex" | "to_ifindex" | "from_ifindex" => {
                    self.devices.iter().find(|(_, i)| **i == id).map(|(name, _)| name.clone())
                }
                _ => None,
            };
            name.map_or_else(|| word.to_owned(), |name| format!("{field}={name}"))
        });
        words.collect::<Vec<_>>().join(" ")
    }
}

impl AsMut<SoftirqLoop> for EngineScene {
    fn as_mut(&mut self) -> &mut SoftirqLoop {
        &mut self.machine
    }
}

impl SceneHome for EngineScene {
    fn name(&self) -> &'static str {
        "engine"
    }

    fn begin(&mut self, step: &Step) {
        self.line = step.line;
        self.follower.iter().for_each(|f| f.step(step.line, None));
    }

    fn act(&mut self, action: &Action) -> Result<Answer, SceneError> {
        let answer = match action {
            Action::Attach { device, program, mode, flags, expected } => {
                let request = XdpRequest {
                    fd: Some(program.as_ref().map(|p| self.handle(p)).transpose()?),
                    flags: Some(flags | mode_flag(*mode)),
                    expected: expected.as_ref().map(|p| self.handle(p)).transpose()?.map(Some),
                };
                self.machine.devices.set_xdp(self.ifindex(device)?, &request).map_err(refusal)
            }
            Action::Link { device, program, mode, expected } => {
                self.link(device, program, *mode, expected.as_ref())?
            }
            Action::Unlink(device) => match self.links.remove(device) {
                Some(link) => {
                    drop(link);
                    Ok(())
                }
                None => return Err(home(format!("{device} has no link of this scene"))),
            },
            Action::Host { device, op } => self.host_op(device, op)?,
            Action::Send { device, traffic, cpu } => self.send(device, traffic, *cpu)?,
            Action::Live { program, device, packet, count, cpu } => {
                let program = self.program(program)?.clone();
                let ingress = (self.ifindex(device)?, 0);
                let run = LiveRun { program: &program, data: packet, ingress, repeat: *count, batch: 0 };
                self.live(&run, *cpu)?
            }
            Action::Set { map, key, value } => self.set(map, *key, value)?,
            Action::Delete { map, key } => {
                let (object, at) = self.map(map)?;
                object.map_delete(at, &key.to_le_bytes()).map_err(name)
            }
            Action::Mtu(device, mtu) => {
                let device = self.device(device)?;
                device.core().set_mtu(*mtu).map_err(refusal)
            }
            Action::Up(device, up) => {
                let device = self.device(device)?;
                let waited = device.set_up(*up).map_err(|e| home(e.to_string()))?;
                self.machine.on_cpu(0, |cx| waited.into_iter().for_each(|item| cx.net.drop_waiting(item)));
                Ok(())
            }
            Action::Gro(device, on) => {
                let veth =
                    self.veths.get(device).ok_or_else(|| home(format!("{device} has no GRO to turn")))?;
                veth.set_gro(*on);
                Ok(())
            }
        };
        self.settle()?;
        self.machine.check_frames().map_err(|e| home(e.to_string()))?;
        Ok(answer)
    }

    fn counters(&mut self) -> Result<Counters, SceneError> {
        Ok(self.machine.counters())
    }

    fn take_received(&mut self) -> Result<Vec<(String, Vec<u8>)>, SceneError> {
        self.collect();
        let mut all = std::mem::take(&mut self.received);
        for (name, wire) in &self.wires {
            all.extend(wire.take_sent().into_iter().map(|bytes| (name.clone(), bytes)));
        }
        Ok(all)
    }

    fn take_events(&mut self) -> Result<Vec<String>, SceneError> {
        let events = self.machine.take_events();
        Ok(events.iter().map(|(_, event)| self.with_names(&event.to_string())).collect())
    }

    fn map_value(&mut self, object: &str, map: &str, key: u32) -> Result<u64, SceneError> {
        let (loaded, at) = self.map(&(object.to_owned(), map.to_owned()))?;
        let value = loaded.map_lookup(at, &key.to_le_bytes());
        let value = value.map_err(|e| home(format!("{object}.{map}[{key}]: {e}")))?;
        Ok(map_number(&loaded.maps()[at].def, &value))
    }
}

/// A scene's network as maps and helpers see it.
fn network(scene: &Scene) -> NetConfig {
    let ifindexes = scene.ifindexes();
    let prefix = |a: &control::scene::Address| Prefix { ip: a.ip, len: a.len };
    let mut config = NetConfig::default();
    for device in &scene.devices {
        for (name, mac) in device.names.iter().zip(&device.macs) {
            let Some(ifindex) = ifindexes.get(name) else { continue };
            config.devices.push(Device {
                ifindex: *ifindex,
                name: name.clone(),
                mac: Mac(*mac),
                mtu: device.mtu.unwrap_or(xdp::ETH_DATA_LEN),
                hard_header_len: ETH_HLEN as u32,
                up: device.up,
                forwarding: true,
                forwarding6: true,
                rx_queues: device.queues,
                addresses: device.addresses.get(name).into_iter().flatten().map(prefix).collect(),
                vrf: None,
                vrf_table: None,
            });
        }
    }
    for route in &scene.routes {
        config.routes.push(Route {
            dst: route.to.as_ref().map_or(Destination::Default, |to| Destination::Prefix(prefix(to))),
            table: TableId::default(),
            kind: route.refuses.map_or(RouteKind::Unicast, |refuses| match refuses {
                Refuses::Blackhole => RouteKind::Blackhole,
                Refuses::Unreachable => RouteKind::Unreachable,
                Refuses::Prohibit => RouteKind::Prohibit,
            }),
            tos: 0,
            metric: None,
            via: route.via,
            dev: route.device.clone(),
            encap: false,
            nexthops: Vec::new(),
            mtu: None,
            mtu_lock: false,
            prefsrc: None,
        });
    }
    let neighbour = |n: &control::scene::Neighbour| Neighbour {
        ip: n.ip,
        dev: n.device.clone(),
        mac: Some(Mac(n.mac)),
        state: NeighbourState::Permanent,
    };
    config.neighbours = scene.neighbours.iter().map(neighbour).collect();
    config
}

/// `XDP_FLAGS_*` of a mode.
fn mode_flag(mode: Option<AttachMode>) -> u32 {
    match mode {
        None => 0,
        Some(AttachMode::Skb) => AttachFlags::SKB_MODE,
        Some(AttachMode::Drv) => AttachFlags::DRV_MODE,
        Some(AttachMode::Hw) => AttachFlags::HW_MODE,
    }
}

fn pair(first: u32, second: u32) -> Vec<u8> {
    [first.to_le_bytes(), second.to_le_bytes()].concat()
}

fn name(errno: Errno) -> String {
    errno.name().map_or_else(|| errno.to_string(), str::to_owned)
}

fn refusal(SetupError { errno, extack }: SetupError) -> String {
    match extack {
        Some(text) => format!("{}: {text}", name(errno)),
        None => name(errno),
    }
}

fn home(message: impl Into<String>) -> SceneError {
    SceneError::Home(message.into())
}
