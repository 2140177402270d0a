//! The file: [`Scene`], and what may be wrong with one, by line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::packet;

/// Devices of a scene at most.
const DEVICES_MAX: usize = 64;
/// Packets that a step may send.
const COUNT_MAX: u32 = 1 << 20;

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
    /// Object files by the name that steps know them by.
    pub objects: BTreeMap<String, PathBuf>,
    /// Devices.
    pub devices: Vec<Device>,
    /// The script.
    pub steps: Vec<Step>,
}

/// A device, or a pair of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name; for a veth those of both ends; for the loopback device `lo`.
    pub names: Vec<String>,
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
    /// How far which counters must move; all others must stand.
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
    /// Sends a packet by a device as a packet socket does, so often.
    Send {
        /// Device.
        device: String,
        /// Packet.
        packet: Vec<u8>,
        /// Times.
        count: u32,
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
    #[serde(default)]
    objects: BTreeMap<String, Spanned<PathBuf>>,
    #[serde(default)]
    device: Vec<Spanned<FileDevice>>,
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
    #[serde(default)]
    loopback: bool,
    mtu: Option<u32>,
    queues: Option<u32>,
    up: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileStep {
    attach: Option<FileAttach>,
    detach: Option<FileAttach>,
    send: Option<FileSend>,
    live: Option<FileSend>,
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
struct FileSend {
    device: String,
    program: Option<String>,
    packet: String,
    count: Option<u32>,
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
    /// Reads a scene. Object files are relative to it; they are not opened.
    ///
    /// # Errors
    ///
    /// That it cannot be read, or what is wrong with it, in which line.
    pub fn open(path: &Path) -> Result<Self, SceneError> {
        let io = |source| SceneError::Io { path: path.to_owned(), source };
        Self::parse(path, &std::fs::read_to_string(path).map_err(io)?)
    }

    /// Makes a scene of the text of a file.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in which line.
    pub fn parse(path: &Path, text: &str) -> Result<Self, SceneError> {
        let error = |at: usize, message: String| SceneError::Line {
            path: path.to_owned(),
            line: 1 + text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count(),
            message,
        };
        let file: File = toml::from_str(text)
            .map_err(|e| error(e.span().map_or(0, |span| span.start), e.message().replace('\n', " ")))?;
        if !(1..=2).contains(file.cpus.as_ref()) {
            return Err(error(file.cpus.span().start, "cpus must be 1 or 2".to_owned()));
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        let objects = file.objects.into_iter().map(|(name, p)| (name, folder.join(p.into_inner())));
        let mut scene = Self {
            path: path.to_owned(),
            title: file.title,
            facts: file.facts,
            cpus: file.cpus.into_inner(),
            objects: objects.collect(),
            devices: Vec::new(),
            steps: Vec::new(),
        };
        if file.device.len() > DEVICES_MAX {
            return Err(error(0, format!("more than {DEVICES_MAX} devices")));
        }
        for device in file.device {
            let at = device.span().start;
            let device = scene.device(device.into_inner()).map_err(|e| error(at, e))?;
            scene.devices.push(device);
        }
        for step in file.step {
            let at = step.span().start;
            let step = scene.step(step.into_inner()).map_err(|e| error(at, e))?;
            let SceneError::Line { line, .. } = error(at, String::new()) else { unreachable!("made above") };
            scene.steps.push(Step { line, ..step });
        }
        Ok(scene)
    }

    /// Whether there is a device of a name.
    #[must_use]
    pub fn has_device(&self, name: &str) -> bool {
        self.devices.iter().any(|d| d.names.iter().any(|n| n == name))
    }

    fn device(&self, file: FileDevice) -> Result<Device, String> {
        let names = match (file.veth, file.loopback) {
            (Some(names), false) => names.to_vec(),
            (None, true) => vec!["lo".to_owned()],
            _ => return Err("a device is either veth = [\"NAME\", \"PEER\"] or loopback = true".to_owned()),
        };
        for (i, name) in names.iter().enumerate() {
            let taken = self.has_device(name) || names[..i].contains(name);
            if name.is_empty() || name.len() > 15 || name.contains(['/', ' ', '.']) || taken {
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
        Ok(Device { names, mtu: file.mtu, queues, up: file.up.unwrap_or(true) })
    }

    fn step(&self, file: FileStep) -> Result<Step, String> {
        let mut actions = Vec::new();
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
        if let Some(s) = file.send {
            if s.program.is_some() {
                return Err("send runs no program; live does".to_owned());
            }
            let (device, packet, count) = self.packets(&s)?;
            actions.push(Action::Send { device, packet, count });
        }
        if let Some(s) = file.live {
            let program = self.within(s.program.as_deref().ok_or("live needs a program")?)?;
            let (device, packet, count) = self.packets(&s)?;
            actions.push(Action::Live { program, device, packet, count });
        }
        if let Some(s) = file.set {
            actions.push(self.set(s)?);
        }
        if let Some(s) = file.delete {
            actions.push(Action::Delete { map: self.within(&s.map)?, key: s.key });
        }
        for (device, mtu) in file.mtu.into_iter().flatten() {
            actions.push(Action::Mtu(self.named(&device)?, mtu));
        }
        for (device, up) in file.up.into_iter().flatten() {
            actions.push(Action::Up(self.named(&device)?, up));
        }
        for (device, on) in file.gro.into_iter().flatten() {
            actions.push(Action::Gro(self.named(&device)?, on));
        }
        let mut actions = actions.into_iter();
        let (Some(action), None) = (actions.next(), actions.next()) else {
            return Err(
                "a step does one thing: attach, detach, send, live, set, delete, mtu, up or gro".to_owned()
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
        Ok(Action::Attach { device: self.named(&file.device)?, program, mode: file.mode, flags, expected })
    }

    fn packets(&self, file: &FileSend) -> Result<(String, Vec<u8>, u32), String> {
        let count = file.count.unwrap_or(1);
        if !(1..=COUNT_MAX).contains(&count) {
            return Err(format!("a step sends 1 to {COUNT_MAX} packets"));
        }
        Ok((self.named(&file.device)?, packet::parse(&file.packet)?, count))
    }

    fn set(&self, file: FileSet) -> Result<Action, String> {
        let value = match (file.value, file.device, file.qsize) {
            (Some(n), None, None) if file.program.is_none() => MapValue::Number(n),
            (None, Some(device), None) => MapValue::Device(self.named(&device)?, file.program),
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
        assert!(
            matches!(&scene.steps[1].action, Action::Send { count: 3, packet, .. } if packet.len() == 60)
        );
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
        let big = "title = \"t\"\n[[device]]\nveth = [\"a\", \"b\"]\nmtu = 70000";
        assert!(error(big).starts_with("s.toml:2: the MTU of a device is 68 to 65535"));
    }
}
