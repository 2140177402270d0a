//! The file: [`Scene`], and what may be wrong with one, by line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::host::{FileHost, FileOp, Host, HostOp};
use super::net::{
    Address, COUNT_MAX, FIRST_IFINDEX, FileNeighbour, FileRoute, FileTraffic, Generator, Neighbour,
    ReadCapture, Route, Traffic, addresses,
};
use super::packet;

/// Devices of a scene at most.
const DEVICES_MAX: usize = 64;
/// Routes and neighbours of a scene at most.
const ENTRIES_MAX: usize = 4096;

/// A scene that was read and makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    /// The file, for messages.
    pub path: PathBuf,
    /// What it shows.
    pub title: String,
    /// Numbers of the facts that it shows.
    pub facts: Vec<String>,
    /// CPUs of the engine, 1 or 2; the kernel has its own.
    pub cpus: u32,
    /// Number of the first device but the loopback; those of the others follow.
    pub first_ifindex: u32,
    /// Object files by the name that steps know them by.
    pub objects: BTreeMap<String, PathBuf>,
    /// Devices.
    pub devices: Vec<Device>,
    /// Routes, beside those that the devices' addresses make.
    pub routes: Vec<Route>,
    /// Neighbours.
    pub neighbours: Vec<Neighbour>,
    /// Stacks behind devices.
    pub hosts: Vec<Host>,
    /// What makes packets while the scene is up.
    pub generators: Vec<Generator>,
    /// The script.
    pub steps: Vec<Step>,
}

/// What kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A pair of veths.
    Veth,
    /// `lo`.
    Loopback,
    /// A virtio_net device and its wire: what the wire sends the device receives, and what the device sends
    /// reaches the wire.
    Virtio,
}

/// A device, or a pair of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Kind.
    pub kind: DeviceKind,
    /// Its name; for a veth those of both ends; for a virtio_net device its own and that of its wire; for the
    /// loopback device `lo`.
    pub names: Vec<String>,
    /// Hardware addresses of the names.
    pub macs: Vec<[u8; 6]>,
    /// Addresses, by name.
    pub addresses: BTreeMap<String, Vec<Address>>,
    /// Largest packet without link header, bytes.
    pub mtu: Option<u32>,
    /// Queues each way.
    pub queues: u32,
    /// Whether it is up at first.
    pub up: bool,
}

/// A step of the script: something is done, and this must come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Line of the file.
    pub line: usize,
    /// What is done.
    pub action: Action,
    /// What the answer must be; `None` if it must succeed.
    pub refused: Option<String>,
    /// How far which counters must move; all others must stand. None at all for what a host does: any may.
    pub counters: BTreeMap<String, u64>,
    /// Packets that must reach the stack, as `N x DEVICE`, or `N x DEVICE: PACKET`.
    pub received: Vec<String>,
    /// Events that must occur, in order, equal ones in a row as `N x EVENT`; `None` if they do not matter.
    pub events: Option<Vec<String>>,
    /// Values that map entries must have then: `OBJECT.MAP[KEY]`. Per-CPU values are added up.
    pub maps: BTreeMap<String, u64>,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Attaches a program, or detaches whatever there is.
    Attach {
        /// Device.
        device: String,
        /// Object and program.
        program: Option<(String, String)>,
        /// Mode; `None` leaves it to the kernel.
        mode: Option<AttachMode>,
        /// `XDP_FLAGS_*` beside the mode.
        flags: u32,
        /// The program that must be there now (`XDP_FLAGS_REPLACE`).
        expected: Option<(String, String)>,
    },
    /// Sends packets by a device as a packet socket does, or by the wire of a virtio_net device.
    Send {
        /// Device.
        device: String,
        /// Packets; their count is given.
        traffic: Traffic,
        /// CPU of the sender.
        cpu: u32,
    },
    /// Runs a program over live frames.
    Live {
        /// Object and program.
        program: (String, String),
        /// Device that they come in on.
        device: String,
        /// Packet.
        packet: Vec<u8>,
        /// Times.
        count: u32,
        /// CPU that they come in on.
        cpu: u32,
    },
    /// Attaches a program by a link, which the scene keeps; replaces its program if there is one.
    Link {
        /// Device.
        device: String,
        /// Object and program.
        program: (String, String),
        /// Mode; `None` leaves it to the kernel.
        mode: Option<AttachMode>,
        /// The program that must be there now.
        expected: Option<(String, String)>,
    },
    /// Closes the link of a device.
    Unlink(String),
    /// Lets a host do something; it must come to a good end.
    Host {
        /// Device of the host.
        device: String,
        /// What.
        op: HostOp,
    },
    /// Sets an entry of a map.
    Set {
        /// Object and map.
        map: (String, String),
        /// Key.
        key: u32,
        /// Value.
        value: MapValue,
    },
    /// Deletes an entry of a map.
    Delete {
        /// Object and map.
        map: (String, String),
        /// Key.
        key: u32,
    },
    /// Changes a device's MTU.
    Mtu(String, u32),
    /// Brings a device up or down.
    Up(String, bool),
    /// Turns a device's GRO on or off.
    Gro(String, bool),
}

/// `mode` of a step.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    Skb,
    Drv,
    Hw,
}

/// What a map entry is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapValue {
    /// A number in as many bytes as the map's values have.
    Number(u64),
    /// A device, for devmaps perhaps with a program of the same object, for other maps its number.
    Device(String, Option<String>),
    /// Slots of a CPU's queue, perhaps with a program of the same object.
    Queue(u32, Option<String>),
}

/// A scene cannot be played, or has an error in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SceneError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something in the file is wrong.
    #[error("{}:{line}: {message}", path.display())]
    Line {
        /// File.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What.
        message: String,
    },
    /// A home cannot play it.
    #[error("{0}")]
    Home(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    title: String,
    #[serde(default)]
    facts: Vec<String>,
    #[serde(default = "one")]
    cpus: Spanned<u32>,
    first_ifindex: Option<Spanned<u32>>,
    #[serde(default)]
    objects: BTreeMap<String, Spanned<PathBuf>>,
    #[serde(default)]
    device: Vec<Spanned<FileDevice>>,
    #[serde(default)]
    route: Vec<Spanned<FileRoute>>,
    #[serde(default)]
    neighbour: Vec<Spanned<FileNeighbour>>,
    #[serde(default)]
    host: Vec<Spanned<FileHost>>,
    #[serde(default)]
    generator: Vec<Spanned<FileTraffic>>,
    #[serde(default)]
    step: Vec<Spanned<FileStep>>,
}

fn one() -> Spanned<u32> {
    Spanned::new(0..0, 1)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileDevice {
    veth: Option<[String; 2]>,
    virtio: Option<[String; 2]>,
    #[serde(default)]
    loopback: bool,
    mac: Option<BTreeMap<String, String>>,
    #[serde(default)]
    addresses: BTreeMap<String, Vec<String>>,
    mtu: Option<u32>,
    queues: Option<u32>,
    up: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileStep {
    attach: Option<FileAttach>,
    detach: Option<FileAttach>,
    link: Option<FileAttach>,
    unlink: Option<String>,
    ping: Option<FileOp>,
    fetch: Option<FileOp>,
    echo: Option<FileOp>,
    send: Option<FileTraffic>,
    live: Option<FileTraffic>,
    set: Option<FileSet>,
    delete: Option<FileSet>,
    mtu: Option<BTreeMap<String, u32>>,
    up: Option<BTreeMap<String, bool>>,
    gro: Option<BTreeMap<String, bool>>,
    refused: Option<String>,
    #[serde(default)]
    counters: BTreeMap<String, u64>,
    #[serde(default)]
    received: Vec<String>,
    events: Option<Vec<String>>,
    #[serde(default)]
    maps: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileAttach {
    device: String,
    program: Option<String>,
    mode: Option<AttachMode>,
    #[serde(default)]
    no_replace: bool,
    expected: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSet {
    map: String,
    key: u32,
    value: Option<u64>,
    device: Option<String>,
    qsize: Option<u32>,
    program: Option<String>,
}

impl Scene {
    /// Reads a scene. Object files are relative to it; they are not opened. `captures` reads those that it sends.
    ///
    /// # Errors
    ///
    /// That it cannot be read, or what is wrong with it, in which line.
    pub fn open(path: &Path, captures: ReadCapture<'_>) -> Result<Self, SceneError> {
        let io = |source| SceneError::Io { path: path.to_owned(), source };
        Self::parse_with(path, &std::fs::read_to_string(path).map_err(io)?, captures)
    }

    /// Makes a scene of the text of a file.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in which line.
    pub fn parse(path: &Path, text: &str) -> Result<Self, SceneError> {
        Self::parse_with(path, text, &|path| Err(format!("{}: captures are not read here", path.display())))
    }

    /// As [`Scene::parse`], with captures.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in which line.
    pub fn parse_with(path: &Path, text: &str, captures: ReadCapture<'_>) -> Result<Self, SceneError> {
        let line =
            |at: usize| 1 + text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count();
        let error =
            |at: usize, message: String| SceneError::Line { path: path.to_owned(), line: line(at), message };
        let file: File = toml::from_str(text)
            .map_err(|e| error(e.span().map_or(0, |span| span.start), e.message().replace('\n', " ")))?;
        if !(1..=2).contains(file.cpus.as_ref()) {
            return Err(error(file.cpus.span().start, "cpus must be 1 or 2".to_owned()));
        }
        let first_ifindex = file.first_ifindex.as_ref().map_or(FIRST_IFINDEX, |n| *n.as_ref());
        if !(2..=FIRST_IFINDEX).contains(&first_ifindex) {
            let at = file.first_ifindex.map_or(0, |n| n.span().start);
            return Err(error(at, format!("first_ifindex is 2 to {FIRST_IFINDEX}")));
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        let objects = file.objects.into_iter().map(|(name, p)| (name, folder.join(p.into_inner())));
        let mut scene = Self {
            path: path.to_owned(),
            title: file.title,
            facts: file.facts,
            cpus: file.cpus.into_inner(),
            first_ifindex,
            objects: objects.collect(),
            devices: Vec::new(),
            routes: Vec::new(),
            neighbours: Vec::new(),
            hosts: Vec::new(),
            generators: Vec::new(),
            steps: Vec::new(),
        };
        if file.device.len() > DEVICES_MAX {
            return Err(error(0, format!("more than {DEVICES_MAX} devices")));
        }
        if file.route.len().max(file.neighbour.len()) > ENTRIES_MAX {
            return Err(error(0, format!("more than {ENTRIES_MAX} routes or neighbours")));
        }
        for device in file.device {
            let at = device.span().start;
            let device = scene.device(device.into_inner()).map_err(|e| error(at, e))?;
            scene.devices.push(device);
        }
        for route in file.route {
            let at = route.span().start;
            let route = scene.route(route.into_inner()).map_err(|e| error(at, e))?;
            scene.routes.push(route);
        }
        for neighbour in file.neighbour {
            let at = neighbour.span().start;
            let checked =
                scene.netdev(&neighbour.as_ref().device).and_then(|_| neighbour.into_inner().neighbour());
            scene.neighbours.push(checked.map_err(|e| error(at, e))?);
        }
        for host in file.host {
            let at = host.span().start;
            let host = scene.host(host.into_inner()).map_err(|e| error(at, e))?;
            scene.hosts.push(host);
        }
        for generator in file.generator {
            let at = generator.span().start;
            let made = scene.generator(generator.as_ref(), line(at), folder, captures);
            scene.generators.push(made.map_err(|e| error(at, e))?);
        }
        for step in file.step {
            let at = step.span().start;
            let step = scene.step(step.into_inner(), folder, captures).map_err(|e| error(at, e))?;
            scene.steps.push(Step { line: line(at), ..step });
        }
        Ok(scene)
    }

    /// The devices with their numbers, which are the same in all homes. Wires have none.
    #[must_use]
    pub fn ifindexes(&self) -> BTreeMap<String, u32> {
        let mut all = BTreeMap::new();
        let mut next = self.first_ifindex;
        for device in &self.devices {
            let netdevs = if device.kind == DeviceKind::Virtio { &device.names[..1] } else { &device.names };
            for name in netdevs {
                let ifindex = if device.kind == DeviceKind::Loopback { 1 } else { next };
                next += u32::from(ifindex != 1);
                all.insert(name.clone(), ifindex);
            }
        }
        all
    }

    /// Whether addresses or routes are given, so that hosts forward.
    #[must_use]
    pub fn has_network(&self) -> bool {
        !self.routes.is_empty()
            || !self.neighbours.is_empty()
            || self.devices.iter().any(|d| !d.addresses.is_empty())
    }

    /// Whether there is a device of a name.
    #[must_use]
    pub fn has_device(&self, name: &str) -> bool {
        self.devices.iter().any(|d| d.names.iter().any(|n| n == name))
    }

    /// The name, if it is one of a network device: wires are none.
    fn netdev(&self, name: &str) -> Result<String, String> {
        let wire = |d: &Device| d.kind == DeviceKind::Virtio && d.names[1] == name;
        match self.devices.iter().any(wire) {
            true => Err(format!("{name:?} is the wire of a virtio device: it sends and receives, no more")),
            false => self.named(name),
        }
    }

    fn route(&self, file: FileRoute) -> Result<Route, String> {
        file.device.as_ref().map(|d| self.netdev(d)).transpose()?;
        file.route()
    }

    fn host(&self, file: FileHost) -> Result<Host, String> {
        let device = self.netdev(&file.device)?;
        if self.hosts.iter().any(|h| h.device == device) {
            return Err(format!("{device:?} has a host already"));
        }
        let of_device = self.devices.iter().find_map(|d| d.addresses.get(&device));
        file.host(of_device.map_or(&[], Vec::as_slice))
    }

    fn host_ops(&self, file: &FileStep) -> Result<Vec<Action>, String> {
        type Read = fn(&FileOp) -> Result<HostOp, String>;
        let ops =
            [(&file.ping, FileOp::ping as Read), (&file.fetch, FileOp::fetch), (&file.echo, FileOp::echo)];
        let ops = ops.into_iter().filter_map(|(op, read)| op.as_ref().map(|op| (op, read)));
        let action = |(op, read): (&FileOp, Read)| {
            if !self.hosts.iter().any(|h| h.device == op.host) {
                return Err(format!("there is no host at {:?}", op.host));
            }
            Ok(Action::Host { device: op.host.clone(), op: read(op)? })
        };
        ops.map(action).collect()
    }

    fn generator(
        &self,
        file: &FileTraffic,
        line: usize,
        folder: &Path,
        captures: ReadCapture<'_>,
    ) -> Result<Generator, String> {
        if file.program.is_some() {
            return Err("a generator runs no program; attach it to the other end of its device".to_owned());
        }
        let device = self.netdev(&file.device)?;
        let veth = self.devices.iter().any(|d| d.kind == DeviceKind::Veth && d.names.contains(&device));
        if !veth {
            return Err(format!("a generator sends by an end of a veth, which {device:?} is not"));
        }
        Ok(Generator { line, device, traffic: file.traffic(folder, captures)?, cpu: self.cpu(file.cpu)? })
    }

    fn cpu(&self, cpu: Option<u32>) -> Result<u32, String> {
        let cpu = cpu.unwrap_or(0);
        if cpu < self.cpus { Ok(cpu) } else { Err(format!("there is no CPU {cpu}: cpus = {}", self.cpus)) }
    }

    fn device(&self, file: FileDevice) -> Result<Device, String> {
        let (kind, names) = match (file.veth, file.virtio, file.loopback) {
            (Some(names), None, false) => (DeviceKind::Veth, names.to_vec()),
            (None, Some(names), false) => (DeviceKind::Virtio, names.to_vec()),
            (None, None, true) => (DeviceKind::Loopback, vec!["lo".to_owned()]),
            _ => {
                return Err(
                    "a device is one of veth = [\"NAME\", \"PEER\"], virtio = [\"NAME\", \"WIRE\"] and \
                            loopback = true"
                        .to_owned(),
                );
            }
        };
        for (i, name) in names.iter().enumerate() {
            let taken = self.has_device(name) || names[..i].contains(name);
            let is_lo = name == "lo" && kind != DeviceKind::Loopback;
            if name.is_empty() || name.len() > 15 || name.contains(['/', ' ', '.']) || taken || is_lo {
                return Err(format!("{name:?} is no name for a device: 1 to 15 letters, once each, no dot"));
            }
        }
        let queues = file.queues.unwrap_or(1);
        if !(1..=16).contains(&queues) {
            return Err("a device has 1 to 16 queues".to_owned());
        }
        if file.mtu.is_some_and(|mtu| !(68..=65535).contains(&mtu)) {
            return Err("the MTU of a device is 68 to 65535 bytes".to_owned());
        }
        let next = self.ifindexes().values().copied().max().unwrap_or(0).max(self.first_ifindex - 1) + 1;
        let mut macs = Vec::new();
        for (name, ifindex) in names.iter().zip(next..) {
            let given = file
                .mac
                .as_ref()
                .and_then(|macs| macs.get(name))
                .map(|text| packet::mac(text))
                .transpose()?;
            let own = [2, 0, 0, 0, (ifindex >> 8) as u8, ifindex as u8];
            macs.push(given.unwrap_or(if kind == DeviceKind::Loopback { [0; 6] } else { own }));
        }
        if let Some(name) = file.mac.iter().flatten().map(|(name, _)| name).find(|name| !names.contains(name))
        {
            return Err(format!("mac is of {name:?}, which is not this device"));
        }
        let addresses = addresses(file.addresses, &names)?;
        Ok(Device { kind, names, macs, addresses, mtu: file.mtu, queues, up: file.up.unwrap_or(true) })
    }

    fn step(&self, file: FileStep, folder: &Path, captures: ReadCapture<'_>) -> Result<Step, String> {
        let mut actions = self.host_ops(&file)?;
        if let Some(a) = file.attach {
            if a.program.is_none() {
                return Err("attach needs a program".to_owned());
            }
            actions.push(self.attach(a)?);
        }
        if let Some(a) = file.detach {
            if a.program.is_some() {
                return Err("detach takes no program; expected names what must be there".to_owned());
            }
            actions.push(self.attach(a)?);
        }
        if let Some(a) = file.link {
            actions.push(self.link(a)?);
        }
        if let Some(device) = file.unlink {
            actions.push(Action::Unlink(self.netdev(&device)?));
        }
        if let Some(send) = file.send {
            actions.push(self.send(&send, folder, captures)?);
        }
        if let Some(live) = file.live {
            actions.push(self.live(&live, folder, captures)?);
        }
        if let Some(s) = file.set {
            actions.push(self.set(s)?);
        }
        if let Some(s) = file.delete {
            actions.push(Action::Delete { map: self.within(&s.map)?, key: s.key });
        }
        for (device, mtu) in file.mtu.into_iter().flatten() {
            actions.push(Action::Mtu(self.netdev(&device)?, mtu));
        }
        for (device, up) in file.up.into_iter().flatten() {
            actions.push(Action::Up(self.netdev(&device)?, up));
        }
        for (device, on) in file.gro.into_iter().flatten() {
            actions.push(Action::Gro(self.netdev(&device)?, on));
        }
        let mut actions = actions.into_iter();
        let (Some(action), None) = (actions.next(), actions.next()) else {
            return Err(
                "a step does one thing: attach, detach, link, unlink, ping, fetch, echo, send, live, set, \
                        delete, mtu, up or gro"
                    .to_owned(),
            );
        };
        for counter in file.counters.keys() {
            let device = counter.split('.').next().unwrap_or_default();
            if device != "drop" && !self.has_device(device) {
                return Err(format!("counter {counter:?} is of no device of this scene"));
            }
        }
        Ok(Step {
            line: 0,
            action,
            refused: file.refused,
            counters: file.counters,
            received: self.received(&file.received)?,
            events: file.events,
            maps: file.maps,
        })
    }

    /// Checks `N x DEVICE: PACKET` and writes the packet as the bytes that it is.
    fn received(&self, lines: &[String]) -> Result<Vec<String>, String> {
        let mut all = Vec::new();
        for line in lines {
            let (count, rest) = line.split_once(" x ").unwrap_or(("1", line));
            let count: u32 = count.parse().map_err(|_| format!("{line:?} does not start with a number"))?;
            all.push(match rest.split_once(": ") {
                None => format!("{count} x {}", self.named(rest)?),
                Some((device, packet)) => {
                    format!("{count} x {}: {}", self.named(device)?, super::run::hex(&packet::parse(packet)?))
                }
            });
        }
        Ok(all)
    }

    fn attach(&self, file: FileAttach) -> Result<Action, String> {
        let program = file.program.map(|p| self.within(&p)).transpose()?;
        let expected = file.expected.map(|p| self.within(&p)).transpose()?;
        let flags = u32::from(file.no_replace) | if expected.is_some() { 16 } else { 0 };
        Ok(Action::Attach { device: self.netdev(&file.device)?, program, mode: file.mode, flags, expected })
    }

    fn send(&self, s: &FileTraffic, folder: &Path, captures: ReadCapture<'_>) -> Result<Action, String> {
        if s.program.is_some() {
            return Err("send runs no program; live does".to_owned());
        }
        let mut traffic = s.traffic(folder, captures)?;
        traffic.count = Some(self.count(traffic.count.or(Some(traffic.packets.len() as u64)))?.into());
        Ok(Action::Send { device: self.named(&s.device)?, traffic, cpu: self.cpu(s.cpu)? })
    }

    fn live(&self, s: &FileTraffic, folder: &Path, captures: ReadCapture<'_>) -> Result<Action, String> {
        let program = self.within(s.program.as_deref().ok_or("live needs a program")?)?;
        let traffic = s.traffic(folder, captures)?;
        let (device, count) = (self.netdev(&s.device)?, self.count(traffic.count)?);
        if traffic.packets.len() != 1 || traffic.flows != 1 || traffic.rate.is_some() {
            return Err(
                "live has one packet, without flows or rate: the kernel repeats it as it is".to_owned()
            );
        }
        let packet = traffic.packets.into_iter().next().unwrap_or_default();
        Ok(Action::Live { program, device, packet, count, cpu: self.cpu(s.cpu)? })
    }

    fn link(&self, file: FileAttach) -> Result<Action, String> {
        if file.no_replace {
            return Err("a link never replaces another program".to_owned());
        }
        let program =
            self.within(file.program.as_deref().ok_or("link needs a program; unlink closes it")?)?;
        let expected = file.expected.map(|p| self.within(&p)).transpose()?;
        Ok(Action::Link { device: self.netdev(&file.device)?, program, mode: file.mode, expected })
    }

    fn count(&self, count: Option<u64>) -> Result<u32, String> {
        let count = u32::try_from(count.unwrap_or(1)).ok().filter(|n| (1..=COUNT_MAX).contains(n));
        count.ok_or_else(|| format!("a step sends 1 to {COUNT_MAX} packets"))
    }

    fn set(&self, file: FileSet) -> Result<Action, String> {
        let value = match (file.value, file.device, file.qsize) {
            (Some(n), None, None) if file.program.is_none() => MapValue::Number(n),
            (None, Some(device), None) => MapValue::Device(self.netdev(&device)?, file.program),
            (None, None, Some(slots)) => MapValue::Queue(slots, file.program),
            _ => {
                return Err(
                    "an entry is a value, a device or a qsize; program goes with the last two".to_owned()
                );
            }
        };
        Ok(Action::Set { map: self.within(&file.map)?, key: file.key, value })
    }

    fn named(&self, device: &str) -> Result<String, String> {
        match self.has_device(device) {
            true => Ok(device.to_owned()),
            false => Err(format!("there is no device {device:?} in this scene")),
        }
    }

    /// `OBJECT.NAME`.
    fn within(&self, name: &str) -> Result<(String, String), String> {
        let (object, name) = name.split_once('.').ok_or_else(|| format!("{name:?} is not OBJECT.NAME"))?;
        match self.objects.contains_key(object) {
            true => Ok((object.to_owned(), name.to_owned())),
            false => Err(format!("there is no object {object:?} in this scene")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "title = \"t\"\nobjects = { p = \"p.o\" }\n[[device]]\nveth = [\"a\", \"b\"]\n";

    fn error(text: &str) -> String {
        Scene::parse(Path::new("s.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn a_scene_is_read() {
        let text = format!(
            "{HEAD}[[step]]\nattach = {{ device = \"b\", program = \"p.x\", mode = \"drv\" }}\n\n[[step]]\n\
             send = {{ device = \"a\", packet = \"eth 02::1 > 02::2, len 60\", count = 3 }}\n\
             received = [\"2 x b: hex 00ff\", \"b\"]\n"
        );
        let scene = Scene::parse(Path::new("dir/s.toml"), &text).unwrap();
        assert_eq!(scene.objects["p"], Path::new("dir/p.o"));
        assert_eq!((scene.steps[0].line, scene.steps[1].line), (5, 8));
        assert_eq!(scene.steps[1].received, ["2 x b: 00ff", "1 x b"]);
        assert!(matches!(&scene.steps[1].action, Action::Send { traffic, .. }
                if traffic.count == Some(3) && traffic.packets[0].len() == 60));
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        let step = |s: &str| error(&format!("{HEAD}[[step]]\n{s}\n"));
        assert_eq!(
            step("send = { device = \"c\", packet = \"len 60\" }"),
            "s.toml:5: there is no device \"c\" in this scene"
        );
        assert!(step("sent = 1").starts_with("s.toml:6: unknown field `sent`"), "{}", step("sent = 1"));
        assert!(step("").starts_with("s.toml:5: a step does one thing"));
        assert!(step("up = { a = true, b = true }").contains("a step does one thing"));
        assert!(step("attach = { device = \"a\", program = \"q.x\" }").contains("no object \"q\""));
        assert!(step("up = { a = true }\ncounters = { \"z.x\" = 1 }").contains("of no device"));
        assert!(step("set = { map = \"p.m\", key = 0 }").contains("an entry is a value"));
        assert!(error("title = \"t\"\ncpus = 3").starts_with("s.toml:2: cpus must be 1 or 2"));
        assert!(error("title = ").starts_with("s.toml:1:"));
        let twice = format!("{HEAD}[[device]]\nveth = [\"c\", \"a\"]\n");
        assert!(error(&twice).starts_with("s.toml:5: \"a\" is no name for a device"));
        assert_eq!(
            step("attach = { device = \"b\", program = \"p.x\", mode = \"fast\" }"),
            "s.toml:6: unknown variant `fast`, expected one of `skb`, `drv`, `hw`"
        );
        for (text, wanted) in [
            ("mtu = { c = 1500 }", "there is no device \"c\""),
            ("live = { device = \"a\", packet = \"len 60\" }", "live needs a program"),
            ("send = { device = \"a\", packet = \"len 60\", program = \"p.x\" }", "send runs no program"),
            ("send = { device = \"a\", packet = \"len 60\", cpu = 1 }", "there is no CPU 1: cpus = 1"),
            ("send = { device = \"a\", packet = \"len 60\", count = 9999999 }", "a step sends 1 to 1048576"),
            ("send = { device = \"a\", packet = \"udp 1 > 2\" }", "cannot stand here"),
            ("send = { device = \"a\", pcap = \"x\" }", "captures are not read here"),
            ("link = { device = \"a\" }", "link needs a program"),
            ("attach = { device = \"a\", program = \"px\" }", "\"px\" is not OBJECT.NAME"),
        ] {
            let told = step(text);
            assert!(told.starts_with("s.toml:5: ") && told.contains(wanted), "{text}: {told}");
        }
        for (table, wanted) in [
            ("[[route]]\nto = \"10.0.0.0/8\"\ndevice = \"x\"", "there is no device \"x\""),
            ("[[route]]\nto = \"10.0.0.0\"\ndevice = \"a\"", "no address with a prefix"),
            ("[[neighbour]]\nip = \"10.0.0.1\"\ndevice = \"x\"\nmac = \"02::1\"", "there is no device \"x\""),
            ("[[neighbour]]\nip = \"10.0.0.1\"\ndevice = \"a\"\nmac = \"02\"", "02 is no hardware address"),
            ("[[device]]\nvirtio = [\"v\", \"w\"]\n[[step]]\nup = { w = true }", "\"w\" is the wire"),
            ("[[device]]\nveth = [\"c\", \"d\"]\nqueues = 17", "1 to 16 queues"),
            ("[[device]]\nveth = [\"c\", \"d\"]\naddresses = { x = [] }", "which is not this device"),
            ("[[device]]\nveth = [\"c\", \"d\"]\nmac = { c = \"1\" }", "1 is no hardware address"),
            ("[[generator]]\ndevice = \"a\"\npacket = \"len 60\"\nrate = 0", "packets a second"),
            ("[[host]]\ndevice = \"a\"", "one or two addresses"),
            ("[[step]]\nping = { host = \"a\", to = \"10.0.0.1\" }", "there is no host at \"a\""),
            ("[[generator]]\ndevice = \"a\"", "either a packet or a pcap"),
        ] {
            let told = error(&format!("{HEAD}{table}\n"));
            assert!(told.starts_with("s.toml:") && told.contains(wanted), "{table}: {told}");
        }
        let big = "title = \"t\"\n[[device]]\nveth = [\"a\", \"b\"]\nmtu = 70000";
        assert!(error(big).starts_with("s.toml:2: the MTU of a device is 68 to 65535"));
    }
}
