//! [`Conntrack`]: the connections of a host, as far as programs see and make them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mem::Frame;

use super::image::{self, BOTH_DIRECTIONS};

/// One direction of a connection.
///
/// Kernel: `include/net/netfilter/nf_conntrack_tuple.h struct nf_conntrack_tuple, v6.18`
#[doc(alias = "nf_conntrack_tuple")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Sender.
    pub src: IpAddr,
    /// Sender's port.
    pub sport: u16,
    /// Receiver.
    pub dst: IpAddr,
    /// Receiver's port.
    pub dport: u16,
    /// 6 for TCP, 17 for UDP.
    pub protocol: u8,
}

impl Tuple {
    /// The other direction.
    #[must_use]
    pub fn inverted(self) -> Self {
        Self { src: self.dst, sport: self.dport, dst: self.src, dport: self.sport, ..self }
    }
}

/// What keeps connections of the same tuple apart.
///
/// Kernel: `include/net/netfilter/nf_conntrack_zones.h struct nf_conntrack_zone, v6.18`
#[doc(alias = "nf_conntrack_zone")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
pub struct Zone {
    /// Number; 0 is the default zone.
    pub id: u16,
    /// Bits of the directions that it counts for; the others are in the default zone.
    pub dir: u8,
}

impl Default for Zone {
    fn default() -> Self {
        Self { id: 0, dir: BOTH_DIRECTIONS }
    }
}

impl Zone {
    /// The zone of one direction: 0 the original one, 1 the reply.
    fn of(self, dir: usize) -> u16 {
        if self.dir & (1 << dir) != 0 { self.id } else { 0 }
    }
}

/// A connection, as a table of them is given and shown.
///
/// Kernel: `include/net/netfilter/nf_conntrack.h struct nf_conn, v6.18`
#[doc(alias = "nf_conn")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connection {
    /// Number of its network namespace; `None` for the devices' own.
    pub netns: Option<u32>,
    /// As the first packet went.
    pub original: Tuple,
    /// As answers come.
    pub reply: Tuple,
    /// Zone.
    pub zone: Zone,
    /// `IPS_*`.
    pub status: u32,
    /// Mark.
    pub mark: u32,
    /// Ticks until it ends.
    pub timeout: u32,
}

/// Connections by their tuples. What is too old is not found, and goes when room is needed.
#[derive(Default)]
pub struct Conntrack {
    state: Mutex<State>,
    namespaces: BTreeSet<u32>,
}

type Key = (Option<u32>, u16, Tuple);
/// Sender of the original direction.
type Source = (Option<u32>, u16, IpAddr, u16, u8);

#[derive(Default)]
struct State {
    /// Those that were there before the first question, whose time runs from then on.
    given: Vec<Connection>,
    /// Both directions of all.
    by_tuple: BTreeMap<Key, (Arc<Frame>, usize)>,
    /// The last connection with a translated sender.
    by_source: BTreeMap<Source, Arc<Frame>>,
}

impl Conntrack {
    /// Connections that a table holds at most.
    ///
    /// Kernel: `net/netfilter/nf_conntrack_core.c nf_conntrack_max, v6.18`
    #[doc(alias = "nf_conntrack_max")]
    pub const MAX: usize = 262_144;

    /// A table that begins with some connections, of a host with these other network namespaces. The first
    /// [`Conntrack::MAX`] of them count.
    #[must_use]
    pub fn new(mut given: Vec<Connection>, mut namespaces: BTreeSet<u32>) -> Self {
        given.truncate(Self::MAX);
        namespaces.extend(given.iter().filter_map(|c| c.netns));
        Self { state: Mutex::new(State { given, ..State::default() }), namespaces }
    }

    /// Whether there is a network namespace of this number.
    #[must_use]
    pub fn has_namespace(&self, netns: u32) -> bool {
        self.namespaces.contains(&netns)
    }

    /// The connections at a time, ticks; sorted by namespace, zone and original tuple.
    #[must_use]
    pub fn connections(&self, now: u32) -> Vec<Connection> {
        let state = self.state(now);
        let of = state.by_tuple.values().filter(|(conn, dir)| *dir == 0 && !is_past(conn, now));
        of.map(|(conn, _)| {
            let connection = image::read(conn.bytes());
            Connection { timeout: connection.timeout.wrapping_sub(now), ..connection }
        })
        .collect()
    }

    fn state(&self, now: u32) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for connection in std::mem::take(&mut state.given) {
            let timeout = connection.timeout.wrapping_add(now);
            state.insert(&image::of(&Connection { timeout, ..connection }), now);
        }
        state
    }

    /// Whether another one has a place in the table.
    pub(super) fn has_room(&self, now: u32) -> bool {
        let mut state = self.state(now);
        if state.len() >= Self::MAX {
            state.collect(now);
        }
        state.len() < Self::MAX
    }

    /// Puts a connection in; false if one of its tuples is another one's.
    ///
    /// Kernel: `net/netfilter/nf_conntrack_core.c nf_conntrack_hash_check_insert, v6.18`
    #[doc(alias = "nf_conntrack_hash_check_insert")]
    pub(super) fn insert(&self, conn: &Arc<Frame>, now: u32) -> bool {
        let mut state = self.state(now);
        if state.len() >= Self::MAX {
            state.collect(now);
        }
        state.len() < Self::MAX && state.insert(conn, now)
    }

    /// The connection that a tuple belongs to, and in which direction.
    ///
    /// Kernel: `net/netfilter/nf_conntrack_core.c nf_conntrack_find_get, v6.18`
    #[doc(alias = "nf_conntrack_find_get")]
    pub(super) fn find(
        &self,
        netns: Option<u32>,
        zone: Zone,
        tuple: Tuple,
        now: u32,
    ) -> Option<(Arc<Frame>, usize)> {
        let mut state = self.state(now);
        [0, 1].into_iter().find_map(|dir| {
            let (conn, found) = state.live((netns, zone.of(dir), tuple), now)?;
            (zone.of(found) == zone.of(dir)).then_some((conn, found))
        })
    }

    /// Whether a connection of these tuples would have a reply that is another one's.
    ///
    /// Kernel: `net/netfilter/nf_conntrack_core.c nf_conntrack_tuple_taken, v6.18`
    #[doc(alias = "nf_conntrack_tuple_taken")]
    pub(super) fn is_taken(&self, connection: &Connection, tuple: Tuple, now: u32) -> bool {
        let zone = connection.zone.of(1);
        self.state(now).live((connection.netns, zone, tuple.inverted()), now).is_some()
    }

    /// The connection that translated the same sender last.
    ///
    /// Kernel: `net/netfilter/nf_nat_core.c find_appropriate_src, v6.18`
    #[doc(alias = "find_appropriate_src")]
    pub(super) fn translated(&self, connection: &Connection, now: u32) -> Option<Connection> {
        let state = self.state(now);
        let conn = state.by_source.get(&source(connection))?;
        (!is_past(conn, now)).then(|| image::read(conn.bytes()))
    }
}

impl std::fmt::Debug for Conntrack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conntrack").field("namespaces", &self.namespaces).finish_non_exhaustive()
    }
}

impl State {
    /// Number of connections.
    fn len(&self) -> usize {
        self.by_tuple.len() / 2
    }

    fn insert(&mut self, conn: &Arc<Frame>, now: u32) -> bool {
        let connection = image::read(conn.bytes());
        let keys = keys(&connection);
        if keys.iter().any(|key| self.live(*key, now).is_some()) {
            return false;
        }
        for (dir, key) in keys.into_iter().enumerate() {
            // Both directions are one where a host talks with itself through one port.
            self.by_tuple.entry(key).or_insert_with(|| (conn.clone(), dir));
        }
        if connection.status & image::SRC_NAT_DONE != 0 {
            self.by_source.insert(source(&connection), conn.clone());
        }
        true
    }

    /// The connection of a key, unless its time is over.
    fn live(&mut self, key: Key, now: u32) -> Option<(Arc<Frame>, usize)> {
        let (conn, dir) = self.by_tuple.get(&key)?.clone();
        if is_past(&conn, now) {
            self.remove(&conn);
            return None;
        }
        Some((conn, dir))
    }

    fn remove(&mut self, conn: &Arc<Frame>) {
        let connection = image::read(conn.bytes());
        for key in keys(&connection) {
            self.by_tuple.remove(&key);
        }
        let source = source(&connection);
        if self.by_source.get(&source).is_some_and(|last| Arc::ptr_eq(last, conn)) {
            self.by_source.remove(&source);
        }
    }

    /// Removes what is too old.
    fn collect(&mut self, now: u32) {
        self.by_tuple.retain(|_, (conn, _)| !is_past(conn, now));
        self.by_source.retain(|_, conn| !is_past(conn, now));
    }
}

fn keys(connection: &Connection) -> [Key; 2] {
    let Connection { netns, zone, original, reply, .. } = *connection;
    [(netns, zone.of(0), original), (netns, zone.of(1), reply)]
}

fn source(connection: &Connection) -> Source {
    let Connection { netns, zone, original, .. } = *connection;
    (netns, zone.of(0), original.src, original.sport, original.protocol)
}

/// Whether the time of a connection, on a counter that wraps, is over.
fn is_past(conn: &Frame, now: u32) -> bool {
    image::timeout(conn.bytes()).wrapping_sub(now) as i32 <= 0
}
