//! Connections and IPsec states that a run begins with.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use bpf::host::{HZ, XfrmQuery, XfrmState};
use bpf::kfuncs::{Connection, Conntrack, Tuple, Zone};
use serde::{Deserialize, Serialize};
use uapi::Errno;

use super::config::Protocol;
use super::{NetConfig, NetError, NetTables};

/// A tracked connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionEntry {
    /// Protocol.
    pub protocol: Protocol,
    /// Who began it.
    pub src: SocketAddr,
    /// With whom.
    pub dst: SocketAddr,
    /// Where answers come from; `dst` unless that is translated.
    #[serde(default)]
    pub reply_src: Option<SocketAddr>,
    /// Where answers go to; `src` unless that is translated.
    #[serde(default)]
    pub reply_dst: Option<SocketAddr>,
    /// Number of the network namespace that it is in; none for the devices' own.
    #[serde(default)]
    pub netns: Option<u32>,
    /// Zone.
    #[serde(default)]
    pub zone: u16,
    /// Mark.
    #[serde(default)]
    pub mark: u32,
    /// Packets went both ways (`IPS_SEEN_REPLY`).
    #[serde(default)]
    pub seen_reply: bool,
    /// Worth keeping when the table is full (`IPS_ASSURED`).
    #[serde(default)]
    pub assured: bool,
    /// Milliseconds until it ends, from the first packet that asks for connections.
    #[serde(default = "ten_minutes")]
    pub timeout_ms: u32,
}

/// An IPsec state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XfrmEntry {
    /// Source.
    pub src: IpAddr,
    /// Destination.
    pub dst: IpAddr,
    /// IP protocol, ESP unless said otherwise.
    #[serde(default = "esp")]
    pub proto: u8,
    /// Security parameter index.
    pub spi: u32,
    /// Number of the network namespace that it is in; none for the devices' own.
    #[serde(default)]
    pub netns: Option<u32>,
    /// What the packet's mark must be.
    #[serde(default)]
    pub mark: u32,
    /// Bits of the mark that count.
    #[serde(default)]
    pub mask: u32,
    /// Interface's number.
    #[serde(default)]
    pub if_id: u32,
    /// Number that policies refer to.
    #[serde(default)]
    pub reqid: u32,
    /// `XFRM_MODE_*`: 0 transport, 1 tunnel.
    #[serde(default)]
    pub mode: u8,
    /// Packets.
    #[serde(default)]
    pub replay_window: u8,
    /// Last number sent.
    #[serde(default)]
    pub oseq: u32,
    /// Last number received.
    #[serde(default)]
    pub seq: u32,
    /// Which were received before.
    #[serde(default)]
    pub bitmap: u32,
}

/// What [`NetTables`] keeps of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Netfilter {
    connections: Vec<Connection>,
    states: Vec<XfrmState>,
    namespaces: BTreeSet<u32>,
}

/// `IPS_SEEN_REPLY`, `IPS_ASSURED`, `IPS_CONFIRMED`, `IPS_SRC_NAT`, `IPS_DST_NAT` and that both are decided.
const SEEN_REPLY: u32 = 1 << 1;
const ASSURED: u32 = 1 << 2;
const CONFIRMED: u32 = 1 << 3;
const SRC_NAT: u32 = 1 << 4;
const DST_NAT: u32 = 1 << 5;
const NAT_DONE: u32 = 1 << 7 | 1 << 8;

impl Netfilter {
    pub(super) fn new(config: &NetConfig) -> Result<Self, NetError> {
        if config.connections.len() > Conntrack::MAX {
            let most = Conntrack::MAX;
            return Err(NetError::Invalid(format!("more than {most} connections")));
        }
        let connections = config.connections.iter().map(connection).collect::<Result<Vec<_>, _>>()?;
        let states = config.xfrm_states.iter().map(state).collect::<Result<Vec<_>, _>>()?;
        let namespaces = config.sockets.iter().filter_map(|socket| socket.netns);
        let namespaces = namespaces.chain(states.iter().filter_map(|state| state.netns));
        let namespaces = namespaces.chain(connections.iter().filter_map(|connection| connection.netns));
        let namespaces = namespaces.collect();
        Ok(Self { connections, states, namespaces })
    }
}

fn connection(entry: &ConnectionEntry) -> Result<Connection, NetError> {
    let (reply_src, reply_dst) = (entry.reply_src.unwrap_or(entry.dst), entry.reply_dst.unwrap_or(entry.src));
    if [entry.dst, reply_src, reply_dst].iter().any(|end| end.is_ipv4() != entry.src.is_ipv4()) {
        let why = format!("connection from {} has ends of different families", entry.src);
        return Err(NetError::Invalid(why));
    }
    let tuple = |src: SocketAddr, dst: SocketAddr| Tuple {
        src: src.ip(),
        sport: src.port(),
        dst: dst.ip(),
        dport: dst.port(),
        protocol: if entry.protocol == Protocol::Tcp { 6 } else { 17 },
    };
    let flags = [
        (entry.seen_reply, SEEN_REPLY),
        (entry.assured, ASSURED),
        (reply_dst != entry.src, SRC_NAT | NAT_DONE),
        (reply_src != entry.dst, DST_NAT | NAT_DONE),
    ];
    let set = flags.iter().filter(|(is_set, _)| *is_set).fold(CONFIRMED, |status, (_, bits)| status | bits);
    Ok(Connection {
        netns: entry.netns,
        original: tuple(entry.src, entry.dst),
        reply: tuple(reply_src, reply_dst),
        zone: Zone { id: entry.zone, ..Zone::default() },
        status: set,
        mark: entry.mark,
        timeout: (u64::from(entry.timeout_ms).div_ceil(1000 / HZ)).min(i32::MAX as u64) as u32,
    })
}

fn state(entry: &XfrmEntry) -> Result<XfrmState, NetError> {
    if entry.src.is_ipv4() != entry.dst.is_ipv4() {
        let why = format!("IPsec state {:#x} has ends of different families", entry.spi);
        return Err(NetError::Invalid(why));
    }
    Ok(XfrmState {
        netns: entry.netns,
        daddr: entry.dst,
        saddr: entry.src,
        spi: entry.spi,
        protocol: entry.proto,
        mark: entry.mark & entry.mask,
        mark_mask: entry.mask,
        if_id: entry.if_id,
        reqid: entry.reqid,
        mode: entry.mode,
        replay_window: entry.replay_window,
        oseq: entry.oseq,
        seq: entry.seq,
        bitmap: entry.bitmap,
    })
}

impl NetTables {
    /// A table of connections that begins with those that are described.
    #[must_use]
    pub fn conntrack(&self) -> Conntrack {
        Conntrack::new(self.netfilter.connections.clone(), self.netfilter.namespaces.clone())
    }

    /// An IPsec state.
    ///
    /// # Errors
    ///
    /// `ENONET` for a network namespace that is not described.
    pub fn xfrm_state(&self, query: &XfrmQuery) -> Result<Option<XfrmState>, Errno> {
        if query.netns.is_some_and(|netns| !self.netfilter.namespaces.contains(&netns)) {
            return Err(Errno::ENONET);
        }
        Ok(self.netfilter.states.iter().find(|state| state.answers(query)).copied())
    }
}

fn ten_minutes() -> u32 {
    600_000
}

fn esp() -> u8 {
    50
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES: &str = r#"
        [[connections]]
        protocol = "tcp"
        src = "10.0.0.1:1024"
        dst = "10.0.0.2:80"
        reply_dst = "192.0.2.1:5000"
        seen_reply = true
        mark = 7
        timeout_ms = 1001

        [[xfrm_states]]
        src = "10.0.0.1"
        dst = "10.0.0.2"
        spi = 0x1234
        mark = 5
        mask = 0xff
        netns = 3
    "#;

    #[test]
    fn connections_and_states_are_described() {
        let tables = NetTables::from_toml(TABLES).expect("consistent");
        let all = tables.conntrack().connections(0);
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].status, all[0].mark, all[0].timeout), (0x19a, 7, 251));
        assert_eq!((all[0].reply.dst, all[0].reply.dport), ([192, 0, 2, 1].into(), 5000));
        let daddr = [10, 0, 0, 2].into();
        let query = XfrmQuery { netns: Some(3), mark: 0x105, daddr, spi: 0x1234, protocol: 50 };
        assert!(tables.xfrm_state(&query).unwrap().is_some());
        assert!(tables.xfrm_state(&XfrmQuery { mark: 4, ..query }).unwrap().is_none());
        assert_eq!(tables.xfrm_state(&XfrmQuery { netns: Some(4), ..query }), Err(Errno::ENONET));
    }

    #[test]
    fn ends_of_different_families_are_refused() {
        let text = TABLES.replace("10.0.0.2:80", "[::1]:80");
        let error = NetTables::from_toml(&text).expect_err("IPv4 to IPv6").to_string();
        assert!(error.contains("different families"), "{error}");
    }
}
