//! A [`NetConfig`] of what `ip -json` prints, so that a program sees the host's own network.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

use super::config::*;
use super::types::{Mac, Prefix, TableId};

/// What `ip -json` printed is not what is expected of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("output of `ip -json {command}`: {reason}")]
pub struct ImportError {
    /// The command whose output it was.
    pub command: &'static str,
    /// What is wrong.
    pub reason: String,
}

impl NetConfig {
    /// A description of a host's network from the output of `ip -json -d link`, `ip -json addr`,
    /// `ip -json -4 route show table all` and `ip -json -6 route show table all` (one array or the two
    /// joined), and `ip -json neigh`. Forwarding, which `ip` does not print there, is on.
    ///
    /// # Errors
    ///
    /// Output that is not what `ip -json` prints.
    pub fn from_ip_json(links: &str, addrs: &str, routes: &str, neighs: &str) -> Result<Self, ImportError> {
        let links: Vec<IpLink> = parse("link", links)?;
        let addrs: Vec<IpAddrs> = parse("addr", addrs)?;
        let routes: Vec<IpRoute> = parse("route", routes)?;
        let neighs: Vec<IpNeigh> = parse("neigh", neighs)?;
        let mut addresses: BTreeMap<u32, Vec<Prefix>> = BTreeMap::new();
        for of in addrs {
            let own = of.addr_info.iter().filter_map(IpAddrInfo::prefix);
            addresses.entry(of.ifindex).or_default().extend(own);
        }
        let device = |link: IpLink| {
            let own = addresses.get(&link.ifindex).cloned().unwrap_or_default();
            link.device(own)
        };
        Ok(Self {
            devices: links.into_iter().map(device).collect(),
            routes: routes
                .into_iter()
                .filter_map(|route| route.route().transpose())
                .collect::<Result<_, _>>()?,
            neighbours: neighs.into_iter().filter_map(IpNeigh::neighbour).collect(),
            ..Self::default()
        })
    }
}

fn parse<'a, T: Deserialize<'a>>(command: &'static str, text: &'a str) -> Result<Vec<T>, ImportError> {
    let stream = serde_json::Deserializer::from_str(text).into_iter::<Vec<T>>();
    let arrays = stream.collect::<Result<Vec<_>, _>>();
    let arrays = arrays.map_err(|e| ImportError { command, reason: e.to_string() })?;
    Ok(arrays.into_iter().flatten().collect())
}

#[derive(Deserialize)]
struct IpLink {
    ifindex: u32,
    ifname: String,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    mtu: u32,
    #[serde(default)]
    link_type: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    master: Option<String>,
    #[serde(default)]
    num_rx_queues: Option<u32>,
    #[serde(default)]
    linkinfo: LinkInfo,
}

#[derive(Default, Deserialize)]
struct LinkInfo {
    #[serde(default)]
    info_kind: Option<String>,
    #[serde(default)]
    info_slave_kind: Option<String>,
    #[serde(default)]
    info_data: serde_json::Value,
}

impl IpLink {
    fn device(self, addresses: Vec<Prefix>) -> Device {
        let is_vrf = self.linkinfo.info_kind.as_deref() == Some("vrf");
        let in_vrf = self.linkinfo.info_slave_kind.as_deref() == Some("vrf");
        let table = self.linkinfo.info_data.get("table").and_then(serde_json::Value::as_u64);
        Device {
            ifindex: self.ifindex,
            name: self.ifname,
            mac: self.address.parse().unwrap_or_default(),
            mtu: self.mtu,
            hard_header_len: if matches!(self.link_type.as_str(), "ether" | "loopback") { 14 } else { 0 },
            up: self.flags.iter().any(|flag| flag == "UP"),
            forwarding: true,
            forwarding6: true,
            rx_queues: self.num_rx_queues.unwrap_or(1).max(1),
            addresses,
            vrf: self.master.filter(|_| in_vrf),
            vrf_table: table.filter(|_| is_vrf).and_then(|id| u32::try_from(id).ok()).map(TableId),
        }
    }
}

#[derive(Deserialize)]
struct IpAddrs {
    ifindex: u32,
    #[serde(default)]
    addr_info: Vec<IpAddrInfo>,
}

#[derive(Deserialize)]
struct IpAddrInfo {
    #[serde(default)]
    local: Option<IpAddr>,
    #[serde(default)]
    prefixlen: u8,
}

impl IpAddrInfo {
    fn prefix(&self) -> Option<Prefix> {
        self.local.map(|ip| Prefix { ip, len: self.prefixlen })
    }
}

#[derive(Deserialize)]
struct IpRoute {
    dst: String,
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    gateway: Option<IpAddr>,
    #[serde(default)]
    via: Option<IpVia>,
    #[serde(default)]
    dev: Option<String>,
    #[serde(default)]
    table: Option<TableId>,
    #[serde(default)]
    prefsrc: Option<IpAddr>,
    #[serde(default)]
    metric: Option<u32>,
    #[serde(default)]
    tos: Option<String>,
    #[serde(default)]
    encap: Option<serde_json::Value>,
    #[serde(default)]
    pref: Option<String>,
    #[serde(default)]
    metrics: Vec<IpMetrics>,
    #[serde(default)]
    nexthops: Vec<IpNexthop>,
}

#[derive(Deserialize)]
struct IpVia {
    host: IpAddr,
}

#[derive(Deserialize)]
struct IpMetrics {
    #[serde(default)]
    mtu: Option<u32>,
    #[serde(default)]
    locked: Vec<String>,
}

#[derive(Deserialize)]
struct IpNexthop {
    #[serde(default)]
    gateway: Option<IpAddr>,
    #[serde(default)]
    via: Option<IpVia>,
    dev: String,
    #[serde(default)]
    weight: Option<u32>,
    #[serde(default)]
    encap: Option<serde_json::Value>,
}

impl IpRoute {
    /// `None` for kinds of routes that lookups never see.
    fn route(self) -> Result<Option<Route>, ImportError> {
        let error = |reason: String| ImportError { command: "route", reason };
        let kind = match self.kind.as_deref() {
            None => RouteKind::Unicast,
            Some(name) => match serde_json::from_value(name.into()) {
                Ok(kind) => kind,
                Err(_) => return Ok(None),
            },
        };
        let dst = match self.dst.as_str() {
            "default" if self.is_ipv6() => "::/0",
            "default" => "0.0.0.0/0",
            text => text,
        };
        let metrics = self.metrics.first();
        let tos =
            self.tos.as_deref().map_or(Some(0), |t| u8::from_str_radix(t.trim_start_matches("0x"), 16).ok());
        Ok(Some(Route {
            dst: Destination::Prefix(dst.parse().map_err(error)?),
            table: self.table.unwrap_or_default(),
            kind,
            tos: tos.unwrap_or(0),
            metric: self.metric,
            via: self.gateway.or(self.via.as_ref().map(|via| via.host)),
            dev: self.dev.clone(),
            encap: self.encap.is_some(),
            nexthops: self.nexthops.iter().map(IpNexthop::nexthop).collect(),
            mtu: metrics.and_then(|m| m.mtu),
            mtu_lock: metrics.is_some_and(|m| m.locked.iter().any(|name| name == "mtu")),
            prefsrc: self.prefsrc,
        }))
    }

    /// Only routes of IPv6 have a preference.
    fn is_ipv6(&self) -> bool {
        self.pref.is_some()
    }
}

impl IpNexthop {
    fn nexthop(&self) -> Nexthop {
        Nexthop {
            via: self.gateway.or(self.via.as_ref().map(|via| via.host)),
            dev: self.dev.clone(),
            weight: self.weight.unwrap_or(1),
            encap: self.encap.is_some(),
        }
    }
}

#[derive(Deserialize)]
struct IpNeigh {
    dst: IpAddr,
    dev: String,
    #[serde(default)]
    lladdr: Option<String>,
    #[serde(default)]
    state: Vec<String>,
}

impl IpNeigh {
    /// `None` for one whose address is no Ethernet address, or that is just being forgotten.
    fn neighbour(self) -> Option<Neighbour> {
        let state = self.state.first().map(|name| name.to_lowercase()).unwrap_or_default();
        let mac = match self.lladdr {
            Some(text) => Some(text.parse::<Mac>().ok()?),
            None => None,
        };
        let state = serde_json::from_value(state.into()).unwrap_or(NeighbourState::None);
        Some(Neighbour { ip: self.dst, dev: self.dev, mac, state })
    }
}
