//! The network around a program: devices, routes, neighbours, sockets, connections and IPsec states, as tables.
//!
//! [`NetConfig`] is what a file says, [`NetTables`] what is looked things up in; `fib` finds routes and
//! `sockets` sockets, `netfilter` holds connections and states, `import` makes a [`NetConfig`] of what `ip -json` prints.

mod config;
mod fib;
mod import;
mod netfilter;
mod sockets;
mod types;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use bpf::host::{DeviceInfo, NAME_LEN};

pub use config::*;
pub use import::ImportError;
pub use netfilter::{ConnectionEntry, XfrmEntry};
pub use types::{Mac, Prefix, TableId};

use fib::{Family, Hop, Table, TableRoute};
use netfilter::Netfilter;
use sockets::SocketTable;

/// Tables that lookups answer from.
#[derive(Clone, Debug)]
pub struct NetTables {
    devices: BTreeMap<u32, NetDevice>,
    tables: BTreeMap<(Family, TableId), Table>,
    rules: Vec<Rule>,
    /// Hardware addresses that may be used.
    neighbours: HashMap<(u32, IpAddr), [u8; 6]>,
    sockets: SocketTable,
    netfilter: Netfilter,
    sysctl: Sysctl,
}

/// A device as lookups see it.
#[derive(Clone, Debug)]
struct NetDevice {
    info: DeviceInfo,
    up: bool,
    forwarding: bool,
    forwarding6: bool,
    addresses: Vec<Prefix>,
    /// The VRF that it belongs to.
    master: Option<u32>,
    /// For a VRF: its table.
    vrf_table: Option<TableId>,
}

/// A description of a network contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// Not the form that was expected.
    #[error("network description: {0}")]
    Syntax(String),
    /// A name that no device has.
    #[error("network description: {what} names device {name:?}, which does not exist")]
    NoDevice {
        /// Where.
        what: String,
        /// Name.
        name: String,
    },
    /// Anything else.
    #[error("network description: {0}")]
    Invalid(String),
}

impl Default for NetTables {
    /// A fresh network namespace: a loopback device, nothing else.
    fn default() -> Self {
        Self::new(&NetConfig::default()).expect("an empty description is consistent")
    }
}

impl NetTables {
    /// Number of the loopback device.
    pub const LOOPBACK: u32 = 1;

    /// Tables for a description. Without a device of number 1 there is a loopback device `lo` that does
    /// not forward, as in a fresh network namespace.
    ///
    /// # Errors
    ///
    /// What contradicts itself: names of devices that do not exist, numbers used twice, addresses of
    /// different families.
    pub fn new(config: &NetConfig) -> Result<Self, NetError> {
        let mut tables = Self {
            devices: BTreeMap::new(),
            tables: BTreeMap::new(),
            rules: config.rules.clone(),
            neighbours: HashMap::new(),
            sockets: SocketTable::default(),
            netfilter: Netfilter::new(config)?,
            sysctl: config.sysctl.clone(),
        };
        if config.devices.iter().all(|device| device.ifindex != Self::LOOPBACK) {
            tables.add_device(&loopback())?;
        }
        config.devices.iter().try_for_each(|device| tables.add_device(device))?;
        tables.join_vrfs(&config.devices)?;
        config.routes.iter().try_for_each(|route| tables.add_route(route))?;
        tables.add_address_routes();
        config.neighbours.iter().try_for_each(|neighbour| tables.add_neighbour(neighbour))?;
        tables.check_rules()?;
        for entry in &config.sockets {
            let bound = entry.dev.as_deref().map(|dev| tables.named("a socket", dev)).transpose()?;
            tables.sockets.add(entry, bound.unwrap_or(0))?;
        }
        Ok(tables)
    }

    /// Tables for a description in TOML.
    ///
    /// # Errors
    ///
    /// What is no [`NetConfig`], or contradicts itself.
    pub fn from_toml(text: &str) -> Result<Self, NetError> {
        Self::new(&toml::from_str(text).map_err(|e| NetError::Syntax(e.to_string()))?)
    }

    /// Tables for a description in JSON.
    ///
    /// # Errors
    ///
    /// What is no [`NetConfig`], or contradicts itself.
    pub fn from_json(text: &str) -> Result<Self, NetError> {
        Self::new(&serde_json::from_str(text).map_err(|e| NetError::Syntax(e.to_string()))?)
    }

    /// A device.
    #[must_use]
    pub fn device(&self, ifindex: u32) -> Option<DeviceInfo> {
        self.devices.get(&ifindex).map(|device| device.info)
    }

    /// The devices by number.
    pub fn devices(&self) -> impl Iterator<Item = &DeviceInfo> {
        self.devices.values().map(|device| &device.info)
    }

    fn add_device(&mut self, device: &Device) -> Result<(), NetError> {
        let invalid = |why: &str| Err(NetError::Invalid(format!("device {:?} {why}", device.name)));
        let mut name = [0; NAME_LEN];
        let bytes = device.name.as_bytes();
        if bytes.is_empty() || bytes.len() >= NAME_LEN {
            return invalid("has a name that is empty or longer than 15 bytes");
        }
        name[..bytes.len()].copy_from_slice(bytes);
        if device.ifindex == 0 || i32::try_from(device.ifindex).is_err() {
            return invalid("has no number from 1 to 2147483647");
        }
        if self.ifindex(&device.name).is_some() || self.devices.contains_key(&device.ifindex) {
            return invalid("has a name or number that another one has");
        }
        let info = DeviceInfo {
            ifindex: device.ifindex,
            name,
            mtu: device.mtu,
            hard_header_len: device.hard_header_len,
            mac: device.mac.0,
            rx_queues: device.rx_queues,
        };
        let device = NetDevice {
            info,
            up: device.up,
            forwarding: device.forwarding,
            forwarding6: device.forwarding6,
            addresses: device.addresses.clone(),
            master: None,
            vrf_table: device.vrf_table,
        };
        self.devices.insert(info.ifindex, device);
        Ok(())
    }

    fn join_vrfs(&mut self, devices: &[Device]) -> Result<(), NetError> {
        for device in devices {
            let Some(name) = &device.vrf else { continue };
            let master = self.named(&format!("device {:?}", device.name), name)?;
            if self.devices[&master].vrf_table.is_none() {
                return Err(NetError::Invalid(format!("device {name:?} is no VRF: it has no vrf_table")));
            }
            if let Some(device) = self.devices.get_mut(&device.ifindex) {
                device.master = Some(master);
            }
        }
        Ok(())
    }

    fn ifindex(&self, name: &str) -> Option<u32> {
        let has_name = |info: &DeviceInfo| info.name.split(|c| *c == 0).next() == Some(name.as_bytes());
        self.devices().find(|info| has_name(info)).map(|info| info.ifindex)
    }

    fn named(&self, what: &str, name: &str) -> Result<u32, NetError> {
        let missing = || NetError::NoDevice { what: what.to_owned(), name: name.to_owned() };
        self.ifindex(name).ok_or_else(missing)
    }

    fn add_route(&mut self, route: &Route) -> Result<(), NetError> {
        let what = format!("route to {}", route.dst);
        let dst = destination(route);
        let single = Nexthop {
            via: route.via,
            dev: route.dev.clone().unwrap_or_default(),
            weight: 1,
            encap: route.encap,
        };
        let one = [single];
        let needs_hop = matches!(route.kind, RouteKind::Unicast | RouteKind::Multicast);
        let hops: &[Nexthop] = match (route.nexthops.as_slice(), &route.dev, route.via) {
            ([], None, None) if !needs_hop => &[],
            ([], ..) => &one,
            (hops, None, None) => hops,
            _ => {
                return Err(NetError::Invalid(format!("{what} has both nexthops and a next hop of its own")));
            }
        };
        let hops = hops.iter().map(|hop| self.hop(&what, dst, hop)).collect::<Result<Vec<_>, _>>()?;
        let default_metric = if dst.ip.is_ipv4() { 0 } else { 1024 };
        self.insert_route(
            route.table,
            dst,
            TableRoute {
                kind: route.kind,
                tos: route.tos,
                metric: route.metric.unwrap_or(default_metric),
                locked_mtu: route.mtu.filter(|_| route.mtu_lock),
                prefsrc: route.prefsrc,
                hops,
            },
        );
        Ok(())
    }

    fn hop(&self, what: &str, dst: Prefix, hop: &Nexthop) -> Result<Hop, NetError> {
        if hop.via.is_some_and(|via| via.is_ipv4() && dst.ip.is_ipv6()) {
            return Err(NetError::Invalid(format!("{what} has a gateway of the wrong family")));
        }
        let ifindex = match (hop.dev.as_str(), hop.via) {
            ("", Some(via)) => self.connected(via).ok_or_else(|| {
                NetError::Invalid(format!("{what}: no device has an address in the network of {via}"))
            })?,
            ("", None) => return Err(NetError::Invalid(format!("{what} has neither device nor gateway"))),
            (name, _) => self.named(what, name)?,
        };
        Ok(Hop { ifindex, via: hop.via, weight: hop.weight.max(1), encap: hop.encap })
    }

    /// The device with an address in the network of another one.
    fn connected(&self, ip: IpAddr) -> Option<u32> {
        let reaches = |device: &&NetDevice| device.addresses.iter().any(|prefix| prefix.contains(ip));
        self.devices.values().find(reaches).map(|device| device.info.ifindex)
    }

    fn insert_route(&mut self, table: TableId, dst: Prefix, route: TableRoute) {
        let family = if dst.ip.is_ipv4() { Family::V4 } else { Family::V6 };
        self.tables.entry((family, table)).or_default().insert(dst, route);
    }

    /// The routes that the kernel makes for each address of a device, unless they are given.
    fn add_address_routes(&mut self) {
        let of = |device: &NetDevice, prefix: Prefix| {
            let table = device.master.and_then(|master| self.devices[&master].vrf_table);
            (device.info.ifindex, prefix, table)
        };
        let all: Vec<_> = self
            .devices
            .values()
            .filter(|device| device.up)
            .flat_map(|device| device.addresses.iter().map(move |prefix| of(device, *prefix)))
            .collect();
        for (ifindex, prefix, vrf) in all {
            let is_ipv4 = prefix.ip.is_ipv4();
            let host = Prefix { ip: prefix.ip, len: if is_ipv4 { 32 } else { 128 } };
            let route = |kind, metric| TableRoute {
                kind,
                tos: 0,
                metric,
                locked_mtu: None,
                prefsrc: Some(prefix.ip).filter(IpAddr::is_ipv4),
                hops: vec![Hop { ifindex, via: None, weight: 1, encap: false }],
            };
            let local = vrf.unwrap_or(TableId::LOCAL);
            self.insert_missing(local, host, route(RouteKind::Local, 0));
            if ifindex == Self::LOOPBACK && is_ipv4 {
                self.insert_missing(local, prefix, route(RouteKind::Local, 0));
            } else if prefix.len < host.len {
                let connected = route(RouteKind::Unicast, if is_ipv4 { 0 } else { 256 });
                self.insert_missing(vrf.unwrap_or(TableId::MAIN), prefix, connected);
            }
            if let IpAddr::V4(network) = prefix.network()
                && prefix.len < 31
            {
                let last = IpAddr::V4((network.to_bits() | u32::MAX.unbounded_shr(prefix.len.into())).into());
                let broadcast = Prefix { ip: last, len: 32 };
                self.insert_missing(local, broadcast, route(RouteKind::Broadcast, 0));
            }
        }
    }

    fn insert_missing(&mut self, table: TableId, dst: Prefix, route: TableRoute) {
        let family = if dst.ip.is_ipv4() { Family::V4 } else { Family::V6 };
        let known = self.tables.get(&(family, table)).is_some_and(|table| table.has(dst, route.kind));
        if !known {
            self.insert_route(table, dst, route);
        }
    }

    fn add_neighbour(&mut self, neighbour: &Neighbour) -> Result<(), NetError> {
        let ifindex = self.named(&format!("neighbour {}", neighbour.ip), &neighbour.dev)?;
        if let Some(mac) = neighbour.mac.filter(|_| neighbour.state.is_valid()) {
            self.neighbours.insert((ifindex, neighbour.ip), mac.0);
        }
        Ok(())
    }

    fn check_rules(&mut self) -> Result<(), NetError> {
        for rule in &self.rules {
            let what = format!("rule {}", rule.priority);
            for name in [&rule.iif, &rule.oif].into_iter().flatten() {
                self.named(&what, name)?;
            }
            if let (Some(from), Some(to)) = (rule.from, rule.to)
                && from.ip.is_ipv4() != to.ip.is_ipv4()
            {
                return Err(NetError::Invalid(format!("{what} has networks of different families")));
            }
        }
        self.rules.sort_by_key(|rule| rule.priority);
        Ok(())
    }
}

fn loopback() -> Device {
    Device {
        ifindex: NetTables::LOOPBACK,
        name: "lo".to_owned(),
        mac: Mac::default(),
        mtu: 65536,
        hard_header_len: 14,
        up: true,
        forwarding: false,
        forwarding6: false,
        rx_queues: 1,
        addresses: Vec::new(),
        vrf: None,
        vrf_table: None,
    }
}

fn destination(route: &Route) -> Prefix {
    match route.dst {
        Destination::Prefix(prefix) => prefix,
        Destination::Default => {
            let via = route.via.or_else(|| route.nexthops.first().and_then(|hop| hop.via));
            let ip: IpAddr = if via.is_some_and(|via| via.is_ipv6()) {
                std::net::Ipv6Addr::UNSPECIFIED.into()
            } else {
                std::net::Ipv4Addr::UNSPECIFIED.into()
            };
            Prefix { ip, len: 0 }
        }
    }
}

#[cfg(test)]
mod tests;
