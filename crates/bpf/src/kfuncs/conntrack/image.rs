//! A connection as `struct nf_conn`, the form in which programs see it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use mem::{Frame, SharedSlice};

use super::table::{Connection, Tuple, Zone};

/// `sizeof(struct nf_conn)` of the kernel that is the reference, and offsets of what programs read there.
pub(in crate::kfuncs) const SIZE: usize = 248;
const OFF_USE: usize = 0;
pub(super) const OFF_TIMEOUT: usize = 8;
const OFF_ZONE: usize = 12;
const OFF_TUPLES: [usize; 2] = [32, 88];
const TUPLE_SIZE: usize = 40;
pub(super) const OFF_STATUS: usize = 128;
pub(super) const OFF_MARK: usize = 168;
/// Behind what programs see: one more than the number of the network namespace, 0 for the devices' own.
const OFF_NETNS: usize = SIZE;
const IMAGE_SIZE: usize = SIZE + 8;

/// `NF_CT_DEFAULT_ZONE_DIR`: a zone counts for both directions.
pub(super) const BOTH_DIRECTIONS: u8 = 3;

/// `IPS_*` bits.
pub(super) const EXPECTED: u32 = 1;
pub(super) const SEEN_REPLY: u32 = 1 << 1;
pub(super) const ASSURED: u32 = 1 << 2;
pub(super) const CONFIRMED: u32 = 1 << 3;
/// Source, destination.
pub(super) const NAT: [u32; 2] = [1 << 4, 1 << 5];
pub(super) const SRC_NAT_DONE: u32 = 1 << 7;
pub(super) const NAT_DONE: [u32; 2] = [SRC_NAT_DONE, 1 << 8];
pub(super) const DYING: u32 = 1 << 9;
pub(super) const FIXED_TIMEOUT: u32 = 1 << 10;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Memory that holds a connection.
pub(super) fn of(connection: &Connection) -> Arc<Frame> {
    let frame = Frame::new(IMAGE_SIZE);
    let bytes = frame.bytes();
    bytes.write_u32(OFF_USE, 1);
    bytes.write_u16(OFF_ZONE, connection.zone.id);
    bytes.write_u8(OFF_ZONE + 3, connection.zone.dir);
    bytes.write_u64(OFF_NETNS, connection.netns.map_or(0, |n| u64::from(n) + 1));
    write(bytes, connection);
    Arc::new(frame)
}

/// Writes what functions change.
pub(super) fn write(bytes: SharedSlice<'_>, connection: &Connection) {
    bytes.write_u32(OFF_TIMEOUT, connection.timeout);
    for (dir, tuple) in [connection.original, connection.reply].iter().enumerate() {
        write_tuple(bytes, OFF_TUPLES[dir], tuple);
        bytes.write_u8(OFF_TUPLES[dir] + TUPLE_SIZE - 1, dir as u8);
    }
    bytes.write_u64(OFF_STATUS, connection.status.into());
    bytes.write_u32(OFF_MARK, connection.mark);
}

fn write_tuple(bytes: SharedSlice<'_>, at: usize, tuple: &Tuple) {
    for (at, ip) in [(at, tuple.src), (at + 20, tuple.dst)] {
        bytes.fill(at, 16, 0);
        match ip {
            IpAddr::V4(ip) => bytes.copy_from(at, &ip.octets()),
            IpAddr::V6(ip) => bytes.copy_from(at, &ip.octets()),
        }
    }
    bytes.write_u16(at + 16, tuple.sport.to_be());
    bytes.write_u16(at + 36, tuple.dport.to_be());
    bytes.write_u16(at + 18, if tuple.src.is_ipv4() { AF_INET } else { AF_INET6 });
    bytes.write_u8(at + 38, tuple.protocol);
}

/// The connection in memory of [`of`].
pub(super) fn read(bytes: SharedSlice<'_>) -> Connection {
    Connection {
        netns: bytes.read_u64(OFF_NETNS).checked_sub(1).map(|n| n as u32),
        original: read_tuple(bytes, OFF_TUPLES[0]),
        reply: read_tuple(bytes, OFF_TUPLES[1]),
        zone: Zone { id: bytes.read_u16(OFF_ZONE), dir: bytes.read_u8(OFF_ZONE + 3) },
        status: bytes.read_u64(OFF_STATUS) as u32,
        mark: bytes.read_u32(OFF_MARK),
        timeout: timeout(bytes),
    }
}

fn read_tuple(bytes: SharedSlice<'_>, at: usize) -> Tuple {
    let is_ipv4 = bytes.read_u16(at + 18) == AF_INET;
    let port = |at| u16::from_be(bytes.read_u16(at));
    Tuple {
        src: read_ip(bytes, at, is_ipv4),
        sport: port(at + 16),
        dst: read_ip(bytes, at + 20, is_ipv4),
        dport: port(at + 36),
        protocol: bytes.read_u8(at + 38),
    }
}

/// An address in `union nf_inet_addr` and its like.
pub(super) fn read_ip(bytes: SharedSlice<'_>, at: usize, is_ipv4: bool) -> IpAddr {
    let mut ip = [0; 16];
    bytes.copy_to(at, &mut ip[..if is_ipv4 { 4 } else { 16 }]);
    let [a, b, c, d, ..] = ip;
    if is_ipv4 { Ipv4Addr::new(a, b, c, d).into() } else { Ipv6Addr::from(ip).into() }
}

/// When it ends, ticks; before it is in the table, how long it shall last.
pub(super) fn timeout(bytes: SharedSlice<'_>) -> u32 {
    bytes.read_u32(OFF_TIMEOUT)
}
