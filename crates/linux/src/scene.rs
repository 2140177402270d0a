//! [`KernelScene`]: a scene in a network namespace of the running kernel.
//!
//! Devices are made with `ip`, programs attached by netlink, packets sent and seen by packet sockets, counters
//! read from netlink and ethtool, events from the tracing file system. All of it goes with the value. Packets
//! are sent from CPU 0.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use bpf::object::ObjectSpec;
use control::scene::{
    Action, Answer, AttachMode, Counters, DeviceKind, MapValue, Scene, SceneError, SceneHome, Traffic,
    map_number,
};
use control::{LoadOptions, Loaded};
use uapi::Errno;
use uapi::xdp::XdpMd;

use crate::backend::KernelObject;
use crate::sys::{
    Link, NetNs, PacketSocket, PinnedToCpu, Prog, Refused, RouteSocket, TestRunArgs, XdpRequest,
    ethtool_stats, thread_cpu_time,
};
use crate::testing::command;
use crate::trace::{TraceFilter, XdpTrace};

/// `BPF_F_TEST_XDP_LIVE_FRAMES`.
const LIVE_FRAMES: u32 = 2;
/// Counters stand this long before everything counts as come to rest.
const REST: Duration = Duration::from_millis(4);
/// And this long it may take at most.
const REST_MAX: Duration = Duration::from_secs(2);

/// A scene's devices and objects in the kernel.
pub struct KernelScene {
    netns: NetNs,
    /// Devices by name with their numbers.
    devices: BTreeMap<String, u32>,
    objects: BTreeMap<String, KernelObject>,
    links: BTreeMap<String, Link>,
    capture: PacketSocket,
    trace: Option<XdpTrace>,
}

impl KernelScene {
    /// Makes devices and loads objects, of which `open` reads the files.
    ///
    /// # Errors
    ///
    /// What could not be made: a missing capability, a device that the kernel refuses, a program.
    pub fn new(
        scene: &Scene,
        open: &dyn Fn(&std::path::Path) -> Result<ObjectSpec, String>,
    ) -> Result<Self, SceneError> {
        if let Some(why) = scene.engine_only() {
            return Err(home(why));
        }
        let netns = NetNs::new().map_err(|e| home(format!("network namespace: {e}")))?;
        let devices = netns.run(|| make_devices(scene)).map_err(|e| home(e.to_string()))??;
        let mut objects = BTreeMap::new();
        for (name, path) in &scene.objects {
            let spec = open(path).map_err(home)?;
            let programs = spec.programs.iter().map(|p| p.name.clone()).collect();
            let options = LoadOptions { programs, ..LoadOptions::default() };
            let object =
                netns.run(|| KernelObject::load(&spec, &options)).map_err(|e| home(e.to_string()))?;
            objects.insert(name.clone(), object.map_err(|e| home(format!("{}: {e}", path.display())))?);
        }
        let filter = TraceFilter {
            programs: objects.values().flat_map(|o| o.programs().iter().map(|p| p.id)).collect(),
            maps: objects.values().flat_map(|o| o.maps().iter().map(|m| m.id)).collect(),
            devices: devices.values().copied().filter(|i| *i > 1).collect(),
        };
        let trace = XdpTrace::new(&filter).map_err(|e| home(format!("tracepoints: {e}")))?;
        let capture = netns.run(PacketSocket::new).and_then(|s| s).map_err(|e| home(e.to_string()))?;
        Ok(Self { netns, devices, objects, links: BTreeMap::new(), capture, trace: Some(trace) })
    }

    fn ifindex(&self, device: &str) -> Result<u32, SceneError> {
        self.devices.get(device).copied().ok_or_else(|| home(format!("no device {device}")))
    }

    fn object(&self, name: &str) -> Result<&KernelObject, SceneError> {
        self.objects.get(name).ok_or_else(|| home(format!("no object {name}")))
    }

    fn prog(&self, program: &(String, String)) -> Result<&Prog, SceneError> {
        let (object, name) = program;
        let found = self.object(object)?.prog(name);
        found.ok_or_else(|| home(format!("{object} has no program {name}")))
    }

    fn map(&self, map: &(String, String)) -> Result<(&KernelObject, usize), SceneError> {
        let (object, name) = map;
        let loaded = self.object(object)?;
        let at = loaded.maps().iter().position(|m| m.name == *name);
        Ok((loaded, at.ok_or_else(|| home(format!("{object} has no map {name}")))?))
    }

    fn attach(
        &self,
        device: &str,
        program: Option<&(String, String)>,
        flags: u32,
        expected: Option<&(String, String)>,
    ) -> Result<Answer, SceneError> {
        let fd = |p: &(String, String)| self.prog(p).map(|p| p.as_fd().as_raw_fd());
        let request = XdpRequest {
            fd: Some(program.map(fd).transpose()?.unwrap_or(-1)),
            flags: Some(flags),
            expected_fd: expected.map(fd).transpose()?,
        };
        let ifindex = self.ifindex(device)?;
        let result = self.in_netns(|| RouteSocket::new()?.set_xdp(ifindex, &request))?;
        Ok(result.map_err(|Refused { errno, extack }| match extack {
            Some(text) => format!("{}: {text}", name(errno)),
            None => name(errno),
        }))
    }

    fn link(
        &mut self,
        device: &str,
        program: &(String, String),
        mode: Option<AttachMode>,
        expected: Option<&(String, String)>,
    ) -> Result<Answer, SceneError> {
        let ifindex = self.ifindex(device)?;
        let prog = self.prog(program)?.as_fd();
        if let Some(link) = self.links.get(device) {
            let expected = expected.map(|p| self.prog(p).map(|p| p.as_fd())).transpose()?;
            return Ok(link.update(prog, expected).map_err(name));
        }
        let link = self.in_netns(|| Link::create(prog, ifindex, mode_flag(mode)).map_err(Refused::from))?;
        Ok(match link {
            Ok(link) => {
                self.links.insert(device.to_owned(), link);
                Ok(())
            }
            Err(e) => Err(name(e.errno)),
        })
    }

    fn send(&self, device: &str, traffic: &Traffic, cpu: u32) -> Result<Answer, SceneError> {
        let ifindex = self.ifindex(device)?;
        let mut answer = Ok(());
        self.in_netns(|| {
            let _pin = PinnedToCpu::new(cpu)?;
            let socket = PacketSocket::new()?;
            for i in 0..traffic.count.unwrap_or(1) {
                if let Err(errno) = socket.send(ifindex, &traffic.packet(i)) {
                    answer = Err(name(errno));
                }
            }
            Ok::<_, Refused>(())
        })?
        .map_err(|e| home(e.to_string()))?;
        Ok(answer)
    }

    /// Turns the tracepoints off.
    pub fn stop_tracing(&mut self) {
        self.trace = None;
    }

    /// Runs a program over live frames that come in on a device, on a CPU; answers the CPU time that this took,
    /// with the softirqs of the packets, but without the wait for a grace period at the end.
    ///
    /// # Errors
    ///
    /// If there is no such program or device, or the kernel refuses.
    pub fn time_live(
        &self,
        program: &(String, String),
        device: &str,
        packet: &[u8],
        count: u32,
        cpu: u32,
    ) -> Result<Duration, SceneError> {
        let (elapsed, answer) = self.live(program, device, packet, count, cpu)?;
        answer.map(|()| elapsed).map_err(home)
    }

    fn live(
        &self,
        program: &(String, String),
        device: &str,
        packet: &[u8],
        count: u32,
        cpu: u32,
    ) -> Result<(Duration, Answer), SceneError> {
        let ctx = XdpMd {
            data_end: packet.len() as u32,
            ingress_ifindex: self.ifindex(device)?,
            ..XdpMd::default()
        };
        let prog = self.prog(program)?;
        let result = self.in_netns(|| {
            let _pin = PinnedToCpu::new(cpu)?;
            let mut args = TestRunArgs {
                data_in: packet,
                ctx_in: &ctx.to_bytes(),
                repeat: count,
                flags: LIVE_FRAMES,
                ..TestRunArgs::default()
            };
            let before = thread_cpu_time();
            prog.test_run(&mut args).map_err(|(errno, _)| Refused::from(errno))?;
            Ok::<_, Refused>(thread_cpu_time() - before)
        })?;
        Ok(match result {
            Ok(elapsed) => (elapsed, Ok(())),
            Err(e) => (Duration::ZERO, Err(name(e.errno))),
        })
    }

    fn set(&self, map: &(String, String), key: u32, value: &MapValue) -> Result<Answer, SceneError> {
        let (object, at) = self.map(map)?;
        let program = |name: &Option<String>| -> Result<i32, SceneError> {
            let Some(name) = name else { return Ok(0) };
            self.prog(&(map.0.clone(), name.clone())).map(|p| p.as_fd().as_raw_fd())
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
            bytes = bytes.repeat(crate::sys::possible_cpus() as usize);
        }
        // Devices are looked up in the namespace of who sets the entry.
        let key = key.to_le_bytes();
        let result = self.in_netns(|| object.map_update(at, &key, &bytes, 0).map_err(Refused::from))?;
        Ok(result.map_err(|e| name(e.errno)))
    }

    fn ip(&self, args: &[&str]) -> Result<Result<String, String>, SceneError> {
        self.in_netns(|| command("ip", args))
    }

    /// Runs something in the namespace.
    fn in_netns<R: Send>(&self, f: impl FnOnce() -> R + Send) -> Result<R, SceneError> {
        self.netns.run(f).map_err(|e| home(format!("network namespace: {e}")))
    }

    fn read_counters(&self) -> Result<Counters, SceneError> {
        let read = || -> Result<Counters, Refused> {
            let mut all = Counters::new();
            let mut route = RouteSocket::new()?;
            for (device, ifindex) in &self.devices {
                let stats = ethtool_stats(device)?;
                let stats = stats.into_iter().filter(|(name, _)| !name.starts_with("rx_pp_"));
                all.extend(stats.map(|(counter, n)| (format!("{device}.{counter}"), n)));
                let [rx_packets, tx_packets, rx_bytes, tx_bytes, _, _, rx_dropped, tx_dropped] =
                    route.link(*ifindex)?.stats;
                let link = [
                    ("rx_packets", rx_packets),
                    ("rx_bytes", rx_bytes),
                    ("rx_dropped", rx_dropped),
                    ("tx_packets", tx_packets),
                    ("tx_bytes", tx_bytes),
                    ("tx_dropped", tx_dropped),
                ];
                all.extend(link.map(|(counter, n)| (format!("{device}.link.{counter}"), n)));
            }
            Ok(all)
        };
        self.in_netns(read)?.map_err(|e| home(format!("counters: {e}")))
    }

    /// Waits until no counter moves any more.
    fn rest(&self) -> Result<(), SceneError> {
        let started = Instant::now();
        let (mut last, mut same) = (self.read_counters()?, 0);
        while started.elapsed() < REST_MAX {
            std::thread::sleep(REST);
            let now = self.read_counters()?;
            same = if now == last { same + 1 } else { 0 };
            // A busy machine lets a thread wait for one look, hardly for two.
            if same == 2 {
                return Ok(());
            }
            last = now;
        }
        Err(home("packets still move after two seconds".to_owned()))
    }

    /// Names in the place of numbers.
    fn with_names(&self, event: &str) -> String {
        let words = event.split(' ').map(|word| {
            let Some((field, number)) = word.split_once('=') else { return word.to_owned() };
            let Ok(id) = number.parse::<u32>() else { return word.to_owned() };
            let name = match field {
                "prog_id" => {
                    self.name_of(|o| o.programs().iter().find(|p| p.id == id).map(|p| p.name.clone()))
                }
                "map_id" => self.name_of(|o| o.maps().iter().find(|m| m.id == id).map(|m| m.name.clone())),
                "ifindex" | "to_ifindex" | "from_ifindex" => {
                    self.devices.iter().find(|(_, i)| **i == id).map(|(name, _)| name.clone())
                }
                _ => None,
            };
            name.map_or_else(|| word.to_owned(), |name| format!("{field}={name}"))
        });
        words.collect::<Vec<_>>().join(" ")
    }

    fn name_of(&self, find: impl Fn(&KernelObject) -> Option<String>) -> Option<String> {
        self.objects.iter().find_map(|(object, o)| find(o).map(|name| format!("{object}.{name}")))
    }
}

impl SceneHome for KernelScene {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn act(&mut self, action: &Action) -> Result<Answer, SceneError> {
        let answer = match action {
            Action::Attach { device, program, mode, flags, expected } => {
                self.attach(device, program.as_ref(), flags | mode_flag(*mode), expected.as_ref())?
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
            Action::Host { device, .. } => return Err(home(format!("there is no host at {device}"))),
            Action::Send { device, traffic, cpu } => self.send(device, traffic, *cpu)?,
            Action::Live { program, device, packet, count, cpu } => {
                self.live(program, device, packet, *count, *cpu)?.1
            }
            Action::Set { map, key, value } => self.set(map, *key, value)?,
            Action::Delete { map, key } => {
                let (object, at) = self.map(map)?;
                object.map_delete(at, &key.to_le_bytes()).map_err(name)
            }
            Action::Mtu(device, mtu) => {
                of_ip(self.ip(&["link", "set", "dev", device, "mtu", &mtu.to_string()])?)
            }
            Action::Up(device, up) => {
                of_ip(self.ip(&["link", "set", "dev", device, if *up { "up" } else { "down" }])?)
            }
            Action::Gro(device, on) => {
                let on = if *on { "on" } else { "off" };
                let result = self.in_netns(|| command("ethtool", &["-K", device, "gro", on]))?;
                result.map(drop).map_err(home)?;
                Ok(())
            }
        };
        self.rest()?;
        Ok(answer)
    }

    fn counters(&mut self) -> Result<Counters, SceneError> {
        self.read_counters()
    }

    fn take_received(&mut self) -> Result<Vec<(String, Vec<u8>)>, SceneError> {
        let mut all = Vec::new();
        loop {
            match self.capture.receive() {
                Ok(None) => return Ok(all),
                Ok(Some((ifindex, bytes))) => {
                    let device = self.devices.iter().find(|(_, i)| **i == ifindex);
                    all.extend(device.map(|(device, _)| (device.clone(), bytes)));
                }
                // A device went down, which the socket tells once.
                Err(Errno::ENETDOWN) => {}
                Err(e) => return Err(home(format!("received packets: {e}"))),
            }
        }
    }

    fn take_events(&mut self) -> Result<Vec<String>, SceneError> {
        let Some(trace) = &self.trace else { return Ok(Vec::new()) };
        let events = trace.take().map_err(|e| home(format!("tracepoints: {e}")))?;
        // A cpumap's thread that ends says so some time after its entry was replaced.
        let events = events.iter().filter(|e| !e.contains(" processed=0 "));
        Ok(events.map(|e| self.with_names(e)).collect())
    }

    fn map_value(&mut self, object: &str, map: &str, key: u32) -> Result<u64, SceneError> {
        let (loaded, at) = self.map(&(object.to_owned(), map.to_owned()))?;
        let def = &loaded.maps()[at].def;
        let value = loaded.map_lookup(at, &key.to_le_bytes());
        let value = value.map_err(|e| home(format!("{object}.{map}[{key}]: {e}")))?;
        Ok(map_number(def, &value))
    }
}

/// Makes the devices of a scene in the namespace of this thread.
fn make_devices(scene: &Scene) -> Result<BTreeMap<String, u32>, SceneError> {
    let ip = |args: &[&str]| command("ip", args).map(drop).map_err(home);
    // No router solicitations and the like in between. Without IPv6 there is nothing to turn off.
    for set in ["all", "default"] {
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{set}/disable_ipv6"), "1");
    }
    let devices = scene.ifindexes();
    for device in &scene.devices {
        let queues = device.queues.to_string();
        if let [a, b] = device.names.as_slice() {
            let (i, j) = (devices[a].to_string(), devices[b].to_string());
            let (rx, tx) = (["numrxqueues", &queues], ["numtxqueues", &queues]);
            let mut args = vec!["link", "add", "name", a, "index", &i];
            args.extend(rx.iter().chain(&tx));
            args.extend(["type", "veth", "peer", "name", b, "index", &j]);
            args.extend(rx.iter().chain(&tx));
            ip(&args)?;
        }
        for (name, mac) in device.names.iter().zip(&device.macs) {
            if device.kind == DeviceKind::Veth {
                let mac: Vec<_> = mac.iter().map(|b| format!("{b:02x}")).collect();
                ip(&["link", "set", "dev", name, "address", &mac.join(":")])?;
            }
            if let Some(mtu) = device.mtu {
                ip(&["link", "set", "dev", name, "mtu", &mtu.to_string()])?;
            }
            if device.up {
                ip(&["link", "set", "dev", name, "up"])?;
            }
        }
    }
    if scene.has_network() {
        make_network(scene, &ip)?;
    }
    Ok(devices)
}

/// Addresses, routes and neighbours, in a namespace that forwards.
fn make_network(scene: &Scene, ip: &dyn Fn(&[&str]) -> Result<(), SceneError>) -> Result<(), SceneError> {
    let forward = "/proc/sys/net/ipv4/ip_forward";
    std::fs::write(forward, "1").map_err(|e| home(format!("{forward}: {e}")))?;
    for (name, addresses) in scene.devices.iter().flat_map(|d| &d.addresses) {
        for address in addresses {
            ip(&["address", "add", &format!("{}/{}", address.ip, address.len), "dev", name])?;
        }
    }
    for route in &scene.routes {
        let to = route.to.map_or_else(|| "default".to_owned(), |to| format!("{}/{}", to.ip, to.len));
        let via = route.via.map(|via| via.to_string());
        let mut args = vec!["route", "add"];
        args.extend(route.refuses.map(control::scene::Refuses::name));
        args.push(&to);
        args.extend(via.iter().flat_map(|via| ["via", via.as_str()]));
        args.extend(route.device.iter().flat_map(|device| ["dev", device.as_str()]));
        ip(&args)?;
    }
    for n in &scene.neighbours {
        let mac: Vec<_> = n.mac.iter().map(|b| format!("{b:02x}")).collect();
        let (address, mac) = (n.ip.to_string(), mac.join(":"));
        ip(&["neighbour", "replace", &address, "lladdr", &mac, "dev", &n.device, "nud", "permanent"])?;
    }
    Ok(())
}

/// `XDP_FLAGS_*` of a mode.
fn mode_flag(mode: Option<AttachMode>) -> u32 {
    match mode {
        None => 0,
        Some(AttachMode::Skb) => 2,
        Some(AttachMode::Drv) => 4,
        Some(AttachMode::Hw) => 8,
    }
}

fn pair(first: u32, second: i32) -> Vec<u8> {
    [first.to_le_bytes(), second.to_le_bytes()].concat()
}

fn name(errno: Errno) -> String {
    errno.name().map_or_else(|| errno.to_string(), str::to_owned)
}

/// What `ip` says of a refusal: the kernel's text, if there is one, and its error in words.
fn of_ip(result: Result<String, String>) -> Answer {
    let text = match result {
        Ok(_) => return Ok(()),
        Err(text) => text,
    };
    let extack = text.split("Error: ").nth(1).map(|t| t.lines().next().unwrap_or(t).trim_end_matches('.'));
    Err(extack.map_or_else(|| text.clone(), |t| format!("EINVAL: {t}")))
}

fn home(message: impl Into<String>) -> SceneError {
    SceneError::Home(message.into())
}
