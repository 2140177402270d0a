//! What the files say that describe a network: [`NetConfig`], in JSON or TOML.
//!
//! ```toml
//! [[devices]]
//! ifindex = 2
//! name = "eth0"
//! mac = "02:00:00:00:00:01"
//! addresses = ["10.0.0.1/24", "fd00::1/64"]   # make their local and connected routes
//!
//! [[routes]]
//! dst = "default"
//! via = "10.0.0.254"
//! dev = "eth0"
//!
//! [[neighbours]]
//! ip = "10.0.0.254"
//! dev = "eth0"
//! mac = "02:00:00:00:00:fe"
//!
//! [[sockets]]
//! protocol = "tcp"
//! state = "listen"
//! local = "10.0.0.1:80"
//!
//! [[connections]]
//! protocol = "tcp"
//! src = "10.0.0.9:1024"
//! dst = "10.0.0.1:80"
//! timeout_ms = 30000
//!
//! [[xfrm_states]]
//! src = "10.0.0.9"
//! dst = "10.0.0.1"
//! spi = 0x1234
//! ```

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::netfilter::{ConnectionEntry, XfrmEntry};
use super::types::{Mac, Prefix, TableId};

/// Everything that `bpf_fib_lookup`, `bpf_check_mtu`, the socket lookups, connection tracking and
/// `bpf_xdp_get_xfrm_state` answer from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetConfig {
    /// Settings of the whole network namespace.
    pub sysctl: Sysctl,
    /// Devices.
    pub devices: Vec<Device>,
    /// Routes, beside those that the devices' addresses make.
    pub routes: Vec<Route>,
    /// Neighbours.
    pub neighbours: Vec<Neighbour>,
    /// Rules of policy routing, beside the kernel's own (0 local, 1000 VRF, 32766 main, 32767 default).
    pub rules: Vec<Rule>,
    /// Sockets.
    pub sockets: Vec<SocketEntry>,
    /// Connections that are tracked when the run begins.
    pub connections: Vec<ConnectionEntry>,
    /// IPsec states.
    pub xfrm_states: Vec<XfrmEntry>,
}

/// Settings of a network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sysctl {
    /// `net.ipv4.tcp_syncookies`: 0 never, 1 when a listener's queue is full, 2 always.
    pub tcp_syncookies: u8,
}

impl Default for Sysctl {
    fn default() -> Self {
        Self { tcp_syncookies: 1 }
    }
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Number, from 1.
    pub ifindex: u32,
    /// Name, at most 15 bytes.
    pub name: String,
    /// Hardware address.
    #[serde(default)]
    pub mac: Mac,
    /// Largest packet without link header, bytes.
    #[serde(default = "default_mtu")]
    pub mtu: u32,
    /// Link header, bytes.
    #[serde(default = "default_hard_header_len")]
    pub hard_header_len: u32,
    /// Whether it is up; routes over a device that is down do not exist.
    #[serde(default = "yes")]
    pub up: bool,
    /// `net.ipv4.conf.NAME.forwarding`.
    #[serde(default = "yes")]
    pub forwarding: bool,
    /// `net.ipv6.conf.NAME.forwarding`.
    #[serde(default = "yes")]
    pub forwarding6: bool,
    /// Receive queues.
    #[serde(default = "one")]
    pub rx_queues: u32,
    /// Addresses with the prefixes of their networks.
    #[serde(default)]
    pub addresses: Vec<Prefix>,
    /// The VRF device that it belongs to.
    #[serde(default)]
    pub vrf: Option<String>,
    /// For a VRF device: its table.
    #[serde(default)]
    pub vrf_table: Option<TableId>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Destination: a prefix, or `default` (IPv4 unless the gateway is IPv6).
    pub dst: Destination,
    /// Table.
    #[serde(default)]
    pub table: TableId,
    /// What happens to its packets.
    #[serde(rename = "type", default)]
    pub kind: RouteKind,
    /// Type of service that it is for (IPv4).
    #[serde(default)]
    pub tos: u8,
    /// Preference among routes of the same prefix, the smallest first; 0 for IPv4 and 1024 for IPv6 if
    /// not given.
    #[serde(default)]
    pub metric: Option<u32>,
    /// Gateway of a route with a single next hop.
    #[serde(default)]
    pub via: Option<IpAddr>,
    /// Device of a route with a single next hop.
    #[serde(default)]
    pub dev: Option<String>,
    /// Whether the next hop encapsulates.
    #[serde(default)]
    pub encap: bool,
    /// Next hops of a multipath route.
    #[serde(default)]
    pub nexthops: Vec<Nexthop>,
    /// MTU, bytes. As in the kernel it counts for lookups only if it is locked.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Whether the MTU is locked.
    #[serde(default)]
    pub mtu_lock: bool,
    /// Preferred source address.
    #[serde(default)]
    pub prefsrc: Option<IpAddr>,
}

/// Where a route goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Everywhere.
    Default,
    /// To a network.
    Prefix(Prefix),
}

/// What happens to a route's packets: `RTN_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub enum RouteKind {
    #[default]
    Unicast,
    Local,
    Broadcast,
    Anycast,
    Multicast,
    Blackhole,
    Unreachable,
    Prohibit,
    Throw,
}

/// One of several next hops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nexthop {
    /// Gateway; none for a network that is connected.
    #[serde(default)]
    pub via: Option<IpAddr>,
    /// Device.
    pub dev: String,
    /// Share of the packets.
    #[serde(default = "one")]
    pub weight: u32,
    /// Whether it encapsulates.
    #[serde(default)]
    pub encap: bool,
}

/// A neighbour on a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neighbour {
    /// Address.
    pub ip: IpAddr,
    /// Device.
    pub dev: String,
    /// Hardware address.
    pub mac: Option<Mac>,
    /// How well it is known.
    #[serde(default)]
    pub state: NeighbourState,
}

/// How well a neighbour is known: `NUD_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub enum NeighbourState {
    #[default]
    Permanent,
    Noarp,
    Reachable,
    Stale,
    Delay,
    Probe,
    Failed,
    Incomplete,
    None,
}

impl NeighbourState {
    /// `NUD_VALID`: its hardware address may be used.
    #[must_use]
    pub fn is_valid(self) -> bool {
        !matches!(self, Self::Failed | Self::Incomplete | Self::None)
    }
}

/// A rule of policy routing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Rules are asked in the order of their priorities.
    pub priority: u32,
    /// Family of a rule that has neither `from` nor `to`: `ipv4` unless said otherwise.
    #[serde(default)]
    pub family: RuleFamily,
    /// Source network.
    #[serde(default)]
    pub from: Option<Prefix>,
    /// Destination network.
    #[serde(default)]
    pub to: Option<Prefix>,
    /// Device that the packet came in on.
    #[serde(default)]
    pub iif: Option<String>,
    /// Device that the packet goes out of.
    #[serde(default)]
    pub oif: Option<String>,
    /// Firewall mark.
    #[serde(default)]
    pub fwmark: Option<u32>,
    /// Bits of the mark that count.
    #[serde(default = "all_bits")]
    pub fwmask: u32,
    /// Type of service.
    #[serde(default)]
    pub tos: u8,
    /// Transport protocol.
    #[serde(default)]
    pub ipproto: Option<u8>,
    /// Source port.
    #[serde(default)]
    pub sport: Option<u16>,
    /// Destination port.
    #[serde(default)]
    pub dport: Option<u16>,
    /// What then happens.
    #[serde(default)]
    pub action: RuleAction,
    /// Table to ask, with [`RuleAction::Table`].
    #[serde(default)]
    pub table: TableId,
    /// The rule matches packets for which none of the other fields say otherwise.
    #[serde(default)]
    pub not: bool,
}

/// Family of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum RuleFamily {
    #[default]
    Ipv4,
    Ipv6,
}

/// What a rule does: `FR_ACT_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleAction {
    /// Asks a table.
    #[default]
    Table,
    /// Drops.
    Blackhole,
    /// Refuses: network unreachable.
    Unreachable,
    /// Refuses: prohibited.
    Prohibit,
}

/// A socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SocketEntry {
    /// Protocol.
    pub protocol: Protocol,
    /// State; for UDP `unconnected` unless there is a `remote`.
    #[serde(default)]
    pub state: Option<SocketState>,
    /// The near end.
    pub local: SocketAddr,
    /// The far end.
    #[serde(default)]
    pub remote: Option<SocketAddr>,
    /// Device that it is bound to.
    #[serde(default)]
    pub dev: Option<String>,
    /// Number of the network namespace that it is in; none for the devices' own.
    #[serde(default)]
    pub netns: Option<u32>,
    /// Firewall mark.
    #[serde(default)]
    pub mark: u32,
    /// Priority.
    #[serde(default)]
    pub priority: u32,
    /// `IPV6_V6ONLY`.
    #[serde(default)]
    pub ipv6_only: bool,
    /// Queue that its packets come in on.
    #[serde(default)]
    pub rx_queue: Option<u32>,
    /// For a listener: its queue of requests is full, so it answers with SYN cookies.
    #[serde(default)]
    pub queue_full: bool,
    /// For a listener: it has answered with SYN cookies not long ago.
    #[serde(default)]
    pub recent_overflow: bool,
}

/// Transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Protocol {
    Tcp,
    Udp,
}

/// State of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub enum SocketState {
    Established,
    SynSent,
    SynRecv,
    FinWait1,
    FinWait2,
    TimeWait,
    Close,
    Unconnected,
    CloseWait,
    LastAck,
    Listen,
    Closing,
    NewSynRecv,
}

impl SocketState {
    /// `BPF_TCP_*`.
    #[must_use]
    pub fn raw(self) -> u8 {
        match self {
            Self::Established => 1,
            Self::SynSent => 2,
            Self::SynRecv => 3,
            Self::FinWait1 => 4,
            Self::FinWait2 => 5,
            Self::TimeWait => 6,
            Self::Close | Self::Unconnected => 7,
            Self::CloseWait => 8,
            Self::LastAck => 9,
            Self::Listen => 10,
            Self::Closing => 11,
            Self::NewSynRecv => 12,
        }
    }
}

impl Device {
    /// An Ethernet device that is up and forwards, without addresses.
    #[must_use]
    pub fn new(ifindex: u32, name: &str, rx_queues: u32) -> Self {
        Self {
            ifindex,
            name: name.to_owned(),
            mac: Mac::default(),
            mtu: default_mtu(),
            hard_header_len: default_hard_header_len(),
            up: true,
            forwarding: true,
            forwarding6: true,
            rx_queues,
            addresses: Vec::new(),
            vrf: None,
            vrf_table: None,
        }
    }
}

fn default_mtu() -> u32 {
    1500
}

fn default_hard_header_len() -> u32 {
    14
}

fn yes() -> bool {
    true
}

fn one() -> u32 {
    1
}

fn all_bits() -> u32 {
    u32::MAX
}
