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
    Action, Answer, AttachMode, Counters, MapValue, Scene, SceneError, SceneHome, map_number,
};
use control::{LoadOptions, Loaded};
use uapi::Errno;
use uapi::xdp::XdpMd;

use crate::backend::KernelObject;
use crate::sys::{
    NetNs, PacketSocket, PinnedToCpu, Prog, Refused, RouteSocket, TestRunArgs, XdpRequest, ethtool_stats,
    thread_cpu_time,
};
use crate::testing::command;
use crate::trace::{TraceFilter, XdpTrace};

/// `BPF_F_TEST_XDP_LIVE_FRAMES`.
const LIVE_FRAMES: u32 = 2;
/// Numbers of devices start here, so that other namespaces hardly have the same.
const FIRST_IFINDEX: u32 = 1001;
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
        Ok(Self { netns, devices, objects, capture, trace: Some(trace) })
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

    fn send(&self, device: &str, packet: &[u8], count: u32) -> Result<Answer, SceneError> {
        let ifindex = self.ifindex(device)?;
        let mut answer = Ok(());
        self.in_netns(|| {
            let _pin = PinnedToCpu::new(0)?;
            let socket = PacketSocket::new()?;
            for _ in 0..count {
                if let Err(errno) = socket.send(ifindex, packet) {
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
        let mut last = self.read_counters()?;
        while started.elapsed() < REST_MAX {
            std::thread::sleep(REST);
            let now = self.read_counters()?;
            if now == last {
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
        let ip = |args: &[&str]| self.in_netns(|| command("ip", args));
        let answer = match action {
            Action::Attach { device, program, mode, flags, expected } => {
                let mode = match mode {
                    None => 0,
                    Some(AttachMode::Skb) => 2,
                    Some(AttachMode::Drv) => 4,
                    Some(AttachMode::Hw) => 8,
                };
                self.attach(device, program.as_ref(), flags | mode, expected.as_ref())?
            }
            Action::Send { device, packet, count } => self.send(device, packet, *count)?,
            Action::Live { program, device, packet, count } => {
                self.live(program, device, packet, *count, 0)?.1
            }
            Action::Set { map, key, value } => self.set(map, *key, value)?,
            Action::Delete { map, key } => {
                let (object, at) = self.map(map)?;
                object.map_delete(at, &key.to_le_bytes()).map_err(name)
            }
            Action::Mtu(device, mtu) => of_ip(ip(&["link", "set", "dev", device, "mtu", &mtu.to_string()])?),
            Action::Up(device, up) => {
                of_ip(ip(&["link", "set", "dev", device, if *up { "up" } else { "down" }])?)
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
    let mut devices = BTreeMap::new();
    let mut next = FIRST_IFINDEX;
    for device in &scene.devices {
        let queues = device.queues.to_string();
        if let [a, b] = device.names.as_slice() {
            let (i, j) = (next.to_string(), (next + 1).to_string());
            let (rx, tx) = (["numrxqueues", &queues], ["numtxqueues", &queues]);
            let mut args = vec!["link", "add", "name", a, "index", &i];
            args.extend(rx.iter().chain(&tx));
            args.extend(["type", "veth", "peer", "name", b, "index", &j]);
            args.extend(rx.iter().chain(&tx));
            ip(&args)?;
            devices.extend([(a.clone(), next), (b.clone(), next + 1)]);
            next += 2;
        } else {
            devices.insert("lo".to_owned(), 1);
        }
        for name in &device.names {
            if let Some(mtu) = device.mtu {
                ip(&["link", "set", "dev", name, "mtu", &mtu.to_string()])?;
            }
            if device.up {
                ip(&["link", "set", "dev", name, "up"])?;
            }
        }
    }
    Ok(devices)
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
