//! Sockets by their ends, chosen as the kernel's hash tables choose.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bpf::host::{Socket, SocketProtocol, SocketQuery, SynCookiePolicy, tcp_state};

use super::config::{Protocol, SocketEntry, SocketState};
use super::{NetError, NetTables};

/// The sockets of all network namespaces that are described.
#[derive(Clone, Debug, Default)]
pub(super) struct SocketTable {
    sockets: Vec<Record>,
}

#[derive(Clone, Debug)]
struct Record {
    socket: Arc<Socket>,
    netns: Option<u32>,
    queue_full: bool,
    recent_overflow: bool,
}

impl SocketTable {
    pub(super) fn add(&mut self, entry: &SocketEntry, bound_ifindex: u32) -> Result<(), NetError> {
        let invalid = |why: &str| Err(NetError::Invalid(format!("socket at {} {why}", entry.local)));
        let state = match (entry.state, entry.protocol, entry.remote) {
            (Some(state), ..) => state,
            (None, _, Some(_)) => SocketState::Established,
            (None, Protocol::Tcp, None) => SocketState::Listen,
            (None, Protocol::Udp, None) => SocketState::Unconnected,
        };
        let alone = matches!(state, SocketState::Listen | SocketState::Unconnected | SocketState::Close);
        let any = SocketAddr::new(unspecified(entry.local.ip()), 0);
        let remote = match entry.remote {
            Some(remote) if remote.is_ipv4() != entry.local.is_ipv4() => {
                return invalid("has ends of different families");
            }
            None if !alone => return invalid("is connected but has no remote"),
            remote => remote.unwrap_or(any),
        };
        let socket = Socket {
            id: self.sockets.len() as u64 + 1,
            protocol: match entry.protocol {
                Protocol::Tcp => SocketProtocol::Tcp,
                Protocol::Udp => SocketProtocol::Udp,
            },
            state: state.raw(),
            local: entry.local,
            remote,
            bound_ifindex,
            mark: entry.mark,
            priority: entry.priority,
            ipv6_only: entry.ipv6_only,
            rx_queue_mapping: entry.rx_queue,
        };
        self.sockets.push(Record {
            socket: Arc::new(socket),
            netns: entry.netns,
            queue_full: entry.queue_full,
            recent_overflow: entry.recent_overflow,
        });
        Ok(())
    }

    fn record(&self, id: u64) -> Option<&Record> {
        self.sockets.get(usize::try_from(id.checked_sub(1)?).ok()?)
    }
}

impl NetTables {
    /// The socket that a packet belongs to.
    ///
    /// Kernel: `include/net/inet_hashtables.h __inet_lookup, net/ipv4/udp.c __udp4_lib_lookup, v6.18`
    #[must_use]
    pub fn socket_lookup(&self, query: &SocketQuery) -> Option<Arc<Socket>> {
        let candidates = self.sockets.sockets.iter().filter(|record| record.netns == query.netns);
        let sockets = candidates.map(|record| &record.socket);
        let sockets = sockets.filter(|socket| socket.protocol == query.protocol);
        let score = |socket: &&Arc<Socket>| match query.protocol {
            SocketProtocol::Tcp => tcp_score(socket, query),
            SocketProtocol::Udp => udp_score(socket, query),
        };
        // The first of equals, as `max_by_key` takes the last.
        let best = sockets.rev().filter_map(|socket| Some((score(&socket)?, socket))).max_by_key(|(s, _)| *s);
        best.map(|(_, socket)| socket.clone())
    }

    /// The listener that a connection request belongs to.
    #[must_use]
    pub fn socket_listener(&self, request: &Socket) -> Option<Arc<Socket>> {
        let netns = self.sockets.record(request.id).and_then(|record| record.netns);
        let query = SocketQuery {
            protocol: SocketProtocol::Tcp,
            src: SocketAddr::new(request.remote.ip(), 0),
            dst: request.local,
            ifindex: request.bound_ifindex,
            netns,
        };
        self.socket_lookup(&query).filter(|socket| socket.state == tcp_state::LISTEN)
    }

    /// What a listener does about SYN cookies.
    #[must_use]
    pub fn syncookie_policy(&self, socket: u64) -> SynCookiePolicy {
        let Some(record) = self.sockets.record(socket) else { return SynCookiePolicy::default() };
        SynCookiePolicy {
            enabled: self.sysctl.tcp_syncookies != 0,
            generate: self.sysctl.tcp_syncookies == 2 || record.queue_full,
            recent_overflow: record.recent_overflow,
        }
    }
}

/// Connections by both ends before listeners by one; exact addresses before any.
fn tcp_score(socket: &Socket, query: &SocketQuery) -> Option<u32> {
    if socket.local.port() != query.dst.port() || !bound_to(socket, query) {
        return None;
    }
    if socket.state == tcp_state::LISTEN {
        let exact = local_match(socket, query)?;
        let same_family = socket.local.is_ipv4() == query.dst.is_ipv4();
        return Some(exact * 8 + u32::from(socket.bound_ifindex != 0) * 2 + u32::from(same_family));
    }
    (socket.local == query.dst && socket.remote == query.src).then_some(100)
}

fn udp_score(socket: &Socket, query: &SocketQuery) -> Option<u32> {
    if socket.local.port() != query.dst.port() || !bound_to(socket, query) {
        return None;
    }
    let exact = local_match(socket, query)?;
    let same_family = 1 + u32::from(socket.local.is_ipv4() == query.dst.is_ipv4());
    let ip = end_match(socket.remote.ip().is_unspecified(), socket.remote.ip() == query.src.ip())?;
    let port = end_match(socket.remote.port() == 0, socket.remote.port() == query.src.port())?;
    Some(exact * 100 + same_family + ip + port + if socket.bound_ifindex == 0 { 0 } else { 4 })
}

/// 4 for an end that is given and right, 0 for one that is not given.
fn end_match(any: bool, same: bool) -> Option<u32> {
    if any { Some(0) } else { same.then_some(4) }
}

/// 1 for the exact address, 0 for any.
fn local_match(socket: &Socket, query: &SocketQuery) -> Option<u32> {
    let local = socket.local.ip();
    if local == query.dst.ip() {
        return Some(1);
    }
    let takes = match (local, query.dst.ip()) {
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => true,
        (IpAddr::V6(_), IpAddr::V4(_)) => !socket.ipv6_only,
        (IpAddr::V4(_), IpAddr::V6(_)) => false,
    };
    (takes && local.is_unspecified()).then_some(0)
}

fn bound_to(socket: &Socket, query: &SocketQuery) -> bool {
    socket.bound_ifindex == 0 || socket.bound_ifindex == query.ifindex
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}
