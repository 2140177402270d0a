//! The network of a scene: addresses of its devices, routes and neighbours, and generators.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::packet::{self, mac};
use super::{DeviceKind, Scene};

/// Number of a scene's first device but the loopback, which has 1: large, so that other namespaces of the kernel
/// hardly have the same.
pub const FIRST_IFINDEX: u32 = 1001;
/// Packets that differ in their flow at most.
const FLOWS_MAX: u32 = 1 << 15;
/// Packets a second that a generator makes at most.
const RATE_MAX: u64 = 1_000_000_000;
/// Packets of a capture that are read at most.
pub(super) const CAPTURE_MAX: usize = 1 << 16;
/// Packets that a step may send.
pub(super) const COUNT_MAX: u32 = 1 << 20;

/// An address and how many of its bits name its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Address.
    pub ip: IpAddr,
    /// Bits.
    pub len: u8,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to; `None` for everywhere.
    pub to: Option<Address>,
    /// Gateway.
    pub via: Option<IpAddr>,
    /// Device.
    pub device: Option<String>,
    /// Whether its packets are refused, and how: `blackhole`, `unreachable` or `prohibit`.
    pub refuses: Option<Refuses>,
}

/// `type` of a route.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Refuses {
    Blackhole,
    Unreachable,
    Prohibit,
}

impl Refuses {
    /// As `ip route` names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blackhole => "blackhole",
            Self::Unreachable => "unreachable",
            Self::Prohibit => "prohibit",
        }
    }
}

/// A neighbour that is known for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Address.
    pub ip: IpAddr,
    /// Device.
    pub device: String,
    /// Hardware address.
    pub mac: [u8; 6],
}

impl Scene {
    /// Why a scene plays on the engine only, if it does.
    #[must_use]
    pub fn engine_only(&self) -> Option<String> {
        if let Some(device) = self.devices.iter().find(|d| d.kind == DeviceKind::Virtio) {
            let name = &device.names[0];
            return Some(format!(
                "{name} is a virtio_net device, which a namespace cannot have: play it on the engine"
            ));
        }
        if let Some(host) = self.hosts.first() {
            return Some(format!("the host at {} is the engine's: play the scene there", host.device));
        }
        let addresses = self.devices.iter().flat_map(|d| d.addresses.values().flatten()).map(|a| a.ip);
        let routes = self.routes.iter().flat_map(|r| r.via.into_iter().chain(r.to.map(|to| to.ip)));
        let mut all = addresses.chain(self.neighbours.iter().map(|n| n.ip)).chain(routes);
        let six = all.find(IpAddr::is_ipv6)?;
        Some(format!("{six}: IPv6 is off in the kernel's namespaces, whose own messages would be in the way"))
    }
}

/// Packets that are made one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// The packets, which follow each other in turns.
    pub packets: Vec<Vec<u8>>,
    /// How many are made; `None` without an end.
    pub count: Option<u64>,
    /// In how many flows: source ports of UDP and TCP, else the last byte of the source address, go up.
    pub flows: u32,
    /// Packets a second, in virtual time or real; `None` as fast as it goes.
    pub rate: Option<u64>,
}

impl Traffic {
    /// Packets that differ.
    #[must_use]
    pub fn variants(&self) -> u64 {
        // Packet `i` depends on `i` modulo both.
        (self.packets.len() as u64) * u64::from(self.flows)
    }

    /// The packet of a number from 0.
    #[must_use]
    pub fn packet(&self, i: u64) -> Vec<u8> {
        let mut bytes = self.packets[(i % self.packets.len() as u64) as usize].clone();
        let flow = (i / self.packets.len() as u64 % u64::from(self.flows)) as u16;
        if flow > 0 {
            packet::vary(&mut bytes, flow);
        }
        bytes
    }
}

/// Makes packets as long as `earlybird up` runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generator {
    /// Line of the file.
    pub line: usize,
    /// Device that sends them: the other end receives them.
    pub device: String,
    /// What.
    pub traffic: Traffic,
    /// CPU that it runs on.
    pub cpu: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileRoute {
    to: String,
    via: Option<IpAddr>,
    pub(super) device: Option<String>,
    #[serde(rename = "type")]
    refuses: Option<Refuses>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileNeighbour {
    ip: IpAddr,
    pub(super) device: String,
    mac: String,
}

/// `packet`, `pcap` and how many, as a step or a generator has them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileTraffic {
    pub(super) device: String,
    pub(super) program: Option<String>,
    packet: Option<String>,
    pcap: Option<PathBuf>,
    count: Option<u64>,
    flows: Option<u32>,
    rate: Option<u64>,
    pub(super) cpu: Option<u32>,
}

/// Reads the packets of a capture.
pub type ReadCapture<'a> = &'a dyn Fn(&std::path::Path) -> Result<Vec<Vec<u8>>, String>;

impl FileTraffic {
    /// The traffic; captures are relative to `folder`. A step without a count sends each packet once.
    pub(super) fn traffic(&self, folder: &std::path::Path, read: ReadCapture<'_>) -> Result<Traffic, String> {
        let packets = match (&self.packet, &self.pcap) {
            (Some(line), None) => vec![packet::parse(line)?],
            (None, Some(path)) => {
                let packets = read(&folder.join(path))?;
                if packets.is_empty() || packets.len() > CAPTURE_MAX {
                    return Err(format!(
                        "{}: {} packets, not 1 to {CAPTURE_MAX}",
                        path.display(),
                        packets.len()
                    ));
                }
                packets
            }
            _ => return Err("what is sent is either a packet or a pcap".to_owned()),
        };
        let flows = self.flows.unwrap_or(1);
        if !(1..=FLOWS_MAX).contains(&flows) {
            return Err(format!("there are 1 to {FLOWS_MAX} flows"));
        }
        if self.rate.is_some_and(|rate| !(1..=RATE_MAX).contains(&rate)) {
            return Err(format!("a rate is 1 to {RATE_MAX} packets a second"));
        }
        if self.count == Some(0) {
            return Err("a count is 1 or more".to_owned());
        }
        Ok(Traffic { packets, count: self.count, flows, rate: self.rate })
    }
}

impl FileRoute {
    pub(super) fn route(self) -> Result<Route, String> {
        let to = match self.to.as_str() {
            "default" => None,
            to => Some(address(to)?),
        };
        if self.refuses.is_none() && self.device.is_none() && self.via.is_none() {
            return Err("a route goes via an address, to a device, or has a type that refuses".to_owned());
        }
        if let (Some(to), Some(via)) = (to, self.via)
            && to.ip.is_ipv4() != via.is_ipv4()
        {
            return Err(format!("{via} is of another family than {}", to.ip));
        }
        Ok(Route { to, via: self.via, device: self.device, refuses: self.refuses })
    }
}

impl FileNeighbour {
    pub(super) fn neighbour(self) -> Result<Neighbour, String> {
        Ok(Neighbour { ip: self.ip, device: self.device, mac: mac(&self.mac)? })
    }
}

/// `10.0.0.1/24`.
pub(super) fn address(text: &str) -> Result<Address, String> {
    let wrong = || format!("{text:?} is no address with a prefix such as 10.0.0.1/24");
    let (ip, len) = text.split_once('/').ok_or_else(wrong)?;
    let (ip, len): (IpAddr, u8) = (ip.parse().map_err(|_| wrong())?, len.parse().map_err(|_| wrong())?);
    if len > if ip.is_ipv4() { 32 } else { 128 } {
        return Err(wrong());
    }
    Ok(Address { ip, len })
}

/// Addresses of the devices of a scene.
pub(super) fn addresses(
    file: BTreeMap<String, Vec<String>>,
    names: &[String],
) -> Result<BTreeMap<String, Vec<Address>>, String> {
    let mut all = BTreeMap::new();
    for (name, list) in file {
        if !names.contains(&name) {
            return Err(format!("addresses are of {name:?}, which is not this device"));
        }
        all.insert(name, list.iter().map(|text| address(text)).collect::<Result<_, _>>()?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(toml: &str) -> Result<Traffic, String> {
        let file: FileTraffic = toml::from_str(toml).map_err(|e| e.message().to_owned())?;
        let read = |_: &std::path::Path| Ok(vec![vec![1; 60], vec![2; 60]]);
        file.traffic(std::path::Path::new("."), &read)
    }

    #[test]
    fn flows_differ_in_their_ports() {
        let line = "eth 02::1 > 02::2, ipv4 10.0.0.1 > 10.0.0.2, udp 1000 > 53, len 60";
        let traffic = traffic(&format!("device = \"a\"\npacket = \"{line}\"\nflows = 3")).unwrap();
        let ports: Vec<u16> =
            (0..4).map(|i| traffic.packet(i)).map(|p| u16::from_be_bytes([p[34], p[35]])).collect();
        assert_eq!((ports, traffic.variants()), (vec![1000, 1001, 1002, 1000], 3));
        assert_eq!(traffic.packet(3), packet::parse(line).unwrap());
    }

    #[test]
    fn captures_are_sent_in_turns() {
        let traffic = traffic("device = \"a\"\npcap = \"x.pcap\"\ncount = 5").unwrap();
        assert_eq!((traffic.packet(0)[0], traffic.packet(1)[0], traffic.packet(4)[0]), (1, 2, 1));
    }

    #[test]
    fn mistakes_are_told() {
        for (toml, text) in [
            ("device = \"a\"", "either a packet or a pcap"),
            ("device = \"a\"\npacket = \"len 60\"\nflows = 0", "1 to 32768 flows"),
            ("device = \"a\"\npacket = \"len 60\"\nrate = 0", "packets a second"),
            ("device = \"a\"\npacket = \"len 60\"\ncount = 0", "1 or more"),
        ] {
            assert!(traffic(toml).unwrap_err().contains(text), "{toml}");
        }
        for (toml, text) in [
            ("to = \"10.0.0.0\"\ndevice = \"a\"", "no address with a prefix"),
            ("to = \"10.0.0.0/33\"\ndevice = \"a\"", "no address with a prefix"),
            ("to = \"default\"", "a route goes via"),
            ("to = \"10.0.0.0/8\"\nvia = \"fd00::1\"", "of another family"),
        ] {
            let route: FileRoute = toml::from_str(toml).unwrap();
            assert!(route.route().unwrap_err().contains(text), "{toml}");
        }
    }
}
