//! Connection tracking: `bpf_xdp_ct_*` and `bpf_ct_*`.
//!
//! [`Conntrack`] is the table, which the host has. Programs hold pointers to the very memory that the table
//! has of a connection, so what they write there (`mark`) is there for all.

mod image;
mod nat;
mod table;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use mem::{Frame, SharedSlice};
use uapi::Errno;

pub(super) use image::SIZE as NF_CONN_SIZE;
pub(super) use nat::set_nat_info;
pub use table::{Connection, Conntrack, Tuple, Zone};

use crate::helpers::{Args, Reply, errno};
use crate::host::HZ;
use crate::vm::{Fault, RegionKind, Run};
use image::*;

/// A connection, in the table or on its way there.
const CONN: RegionKind = RegionKind::Object("nf_conn");

const TCP: u8 = 6;
const UDP: u8 = 17;

/// `sizeof(struct bpf_ct_opts)`, and of an older form without zones.
const OPTS_SIZE: u32 = 16;
const OLD_OPTS_SIZE: u32 = 12;
/// Offsets of `struct bpf_ct_opts`.
const ERROR: usize = 4;
const PROTOCOL: usize = 8;
const DIR: usize = 9;
const ZONE: usize = 10;
const ZONE_DIR: usize = 12;
const RESERVED: usize = 13;

/// How long a new connection lasts, ticks.
const DEFAULT_TIMEOUT: u32 = 10 * HZ as u32;
/// `IPS_*` bits that programs cannot change: translation, sequence numbers, templates, offloads and others.
const UNCHANGEABLE: u32 = EXPECTED | CONFIRMED | DYING | 0x1f0 | 1 << 11 | 1 << 12 | 1 << 14 | 1 << 15;
const ALL_BITS: u32 = 0xffff;

/// Makes a connection that is not in the table yet.
///
/// Kernel: `net/netfilter/nf_conntrack_bpf.c bpf_xdp_ct_alloc, v6.18`
pub(super) fn alloc(run: &mut Run<'_, '_>, args: Args) -> Reply {
    let request = match request(run, args, Check::Namespace)? {
        Ok(request) => request,
        Err(e) => return give_error(run, args, e),
    };
    let now = now(run);
    let Some(table) = run.host.conntrack().filter(|table| table.has_room(now)) else {
        return give_error(run, args, Errno::ENOMEM);
    };
    drop(table);
    let connection = Connection {
        netns: request.netns,
        original: request.tuple,
        reply: request.tuple.inverted(),
        zone: request.zone,
        status: 0,
        mark: 0,
        timeout: DEFAULT_TIMEOUT,
    };
    give(run, image::of(&connection))
}

/// Finds a connection by one of its directions.
///
/// Kernel: `net/netfilter/nf_conntrack_bpf.c bpf_xdp_ct_lookup, v6.18`
pub(super) fn lookup(run: &mut Run<'_, '_>, args: Args) -> Reply {
    let Request { tuple, zone, netns } = match request(run, args, Check::Protocol)? {
        Ok(request) => request,
        Err(e) => return give_error(run, args, e),
    };
    let now = now(run);
    let found = run.host.conntrack().and_then(|table| table.find(netns, zone, tuple, now));
    let Some((conn, dir)) = found else { return give_error(run, args, Errno::ENOENT) };
    run.write(args[3], u64::from(args[4] as u32))?.write_u8(DIR, dir as u8);
    give(run, conn)
}

fn give(run: &mut Run<'_, '_>, conn: Arc<Frame>) -> Reply {
    let addr = run.memory.share(CONN, conn, NF_CONN_SIZE)?;
    run.acquire(addr, CONN);
    Ok(addr)
}

/// Puts a new connection into the table; null if it is there already.
///
/// Kernel: `net/netfilter/nf_conntrack_bpf.c bpf_ct_insert_entry, v6.18`
pub(super) fn insert_entry(run: &mut Run<'_, '_>, [addr, ..]: Args) -> Reply {
    run.release(addr)?;
    let now = now(run);
    let conn = held(run, addr)?;
    let bytes = conn.bytes();
    if bytes.read_u64(OFF_STATUS) & u64::from(CONFIRMED) == 0 {
        bytes.write_u32(OFF_TIMEOUT, bytes.read_u32(OFF_TIMEOUT).wrapping_add(now));
    }
    bytes.write_u64(OFF_STATUS, bytes.read_u64(OFF_STATUS) | u64::from(CONFIRMED));
    if run.host.conntrack().is_some_and(|table| table.insert(&conn, now)) {
        run.acquire(addr, CONN);
        return Ok(addr);
    }
    run.memory.retire(addr);
    Ok(0)
}

/// Gives a connection back.
///
/// Kernel: `net/netfilter/nf_conntrack_bpf.c bpf_ct_release, v6.18`
pub(super) fn release(run: &mut Run<'_, '_>, [addr, ..]: Args) -> Reply {
    run.release(addr)?;
    // Another lookup may have found the same.
    if !run.holds_at(addr) {
        run.memory.retire(addr);
    }
    Ok(0)
}

/// Says how long a new connection lasts, milliseconds.
///
/// Kernel: `net/netfilter/nf_conntrack_bpf.c bpf_ct_set_timeout, v6.18`
pub(super) fn set_timeout(run: &mut Run<'_, '_>, [addr, timeout_ms, ..]: Args) -> Reply {
    write_timeout(run, addr, ticks(timeout_ms as u32))?;
    Ok(0)
}

/// Says how long a connection lasts from now, milliseconds.
///
/// Kernel: `net/netfilter/nf_conntrack_core.c __nf_ct_change_timeout, v6.18`
pub(super) fn change_timeout(run: &mut Run<'_, '_>, [addr, timeout_ms, ..]: Args) -> Reply {
    let status = connection(run, addr)?.read_u64(OFF_STATUS) as u32;
    if status & FIXED_TIMEOUT != 0 {
        return errno(Errno::EPERM);
    }
    write_timeout(run, addr, ticks(timeout_ms as u32))?;
    if status & DYING != 0 { errno(Errno::ETIME) } else { Ok(0) }
}

/// Kernel: `include/net/netfilter/nf_conntrack_core.h __nf_ct_set_timeout, v6.18`
fn write_timeout(run: &mut Run<'_, '_>, addr: u64, ticks: u32) -> Result<(), Fault> {
    let now = now(run);
    let bytes = connection(run, addr)?;
    let confirmed = bytes.read_u64(OFF_STATUS) & u64::from(CONFIRMED) != 0;
    bytes.write_u32(OFF_TIMEOUT, if confirmed { now.wrapping_add(ticks) } else { ticks });
    Ok(())
}

/// Sets bits of a connection's status.
///
/// Kernel: `net/netfilter/nf_conntrack_core.c nf_ct_change_status_common, v6.18`
pub(super) fn change_status(run: &mut Run<'_, '_>, [addr, wanted, ..]: Args) -> Reply {
    let wanted = wanted as u32;
    let bytes = connection(run, addr)?;
    let status = bytes.read_u64(OFF_STATUS) as u32;
    let changed = status ^ wanted;
    let cleared = changed & !wanted;
    if changed & (EXPECTED | CONFIRMED | DYING) != 0 || cleared & (SEEN_REPLY | ASSURED) != 0 {
        return errno(Errno::EBUSY);
    }
    bytes.write_u64(OFF_STATUS, u64::from(status | wanted & ALL_BITS & !UNCHANGEABLE));
    Ok(0)
}

/// What a program asks for.
struct Request {
    tuple: Tuple,
    zone: Zone,
    netns: Option<u32>,
}

/// What is looked at first where two things are wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    Namespace,
    Protocol,
}

/// Kernel: `net/netfilter/nf_conntrack_bpf.c __bpf_nf_ct_lookup, bpf_nf_ct_tuple_parse, v6.18`
fn request(
    run: &mut Run<'_, '_>,
    [ctx, tuple, tuple_len, opts, opts_len]: Args,
    first: Check,
) -> Result<Result<Request, Errno>, Fault> {
    run.check_ctx(ctx)?;
    let table = run.host.conntrack();
    let (tuple_len, opts_len) = (tuple_len as u32, opts_len as u32);
    let tuple = run.read(tuple, tuple_len.into())?;
    let opts = run.write(opts, opts_len.into())?;
    if opts_len != OPTS_SIZE && opts_len != OLD_OPTS_SIZE {
        return Ok(Err(Errno::EINVAL));
    }
    let netns = opts.read_u32(0) as i32;
    let mut zone = Zone { id: opts.read_u16(ZONE), ..Zone::default() };
    let extended = opts_len == OPTS_SIZE;
    let reserved = |at| opts.read_u8(at) != 0;
    if if extended { (RESERVED..RESERVED + 3).any(reserved) } else { zone.id != 0 } {
        return Ok(Err(Errno::EINVAL));
    }
    let protocol = opts.read_u8(PROTOCOL);
    let no_protocol = protocol != TCP && protocol != UDP;
    match (netns < -1, no_protocol, first) {
        (true, false, _) | (true, true, Check::Namespace) => return Ok(Err(Errno::EINVAL)),
        (_, true, _) => return Ok(Err(Errno::EPROTO)),
        (false, false, _) => {}
    }
    let Some(tuple) = read_tuple(tuple, protocol) else { return Ok(Err(Errno::EAFNOSUPPORT)) };
    let netns = u32::try_from(netns).ok();
    if netns.is_some_and(|netns| !table.is_some_and(|table| table.has_namespace(netns))) {
        return Ok(Err(Errno::ENONET));
    }
    if extended {
        if opts.read_u8(ZONE_DIR) == 0 {
            opts.write_u8(ZONE_DIR, BOTH_DIRECTIONS);
        }
        zone.dir = opts.read_u8(ZONE_DIR);
    }
    Ok(Ok(Request { tuple, zone, netns }))
}

/// `struct bpf_sock_tuple`.
fn read_tuple(bytes: SharedSlice<'_>, protocol: u8) -> Option<Tuple> {
    let (is_ipv4, dst, ports) = match bytes.len() {
        12 => (true, 4, 8),
        36 => (false, 16, 32),
        _ => return None,
    };
    let port = |at| u16::from_be(bytes.read_u16(at));
    Some(Tuple {
        src: read_ip(bytes, 0, is_ipv4),
        sport: port(ports),
        dst: read_ip(bytes, dst, is_ipv4),
        dport: port(ports + 2),
        protocol,
    })
}

/// Tells the program why it gets nothing.
fn give_error(run: &mut Run<'_, '_>, [.., opts, opts_len]: Args, error: Errno) -> Reply {
    let len = u64::from(opts_len as u32);
    if len >= 8 {
        run.write(opts, len)?.write_u32(ERROR, error.as_ret() as u32);
    }
    Ok(0)
}

/// The bytes of a connection that a program passes.
fn connection<'a>(run: &'a Run<'_, '_>, addr: u64) -> Result<SharedSlice<'a>, Fault> {
    if run.memory.kind_at(addr).is_some_and(|kind| kind != CONN) {
        return Err(Fault::illegal(format!("{addr:#x} is passed as a connection, which it is not")));
    }
    run.write(addr, NF_CONN_SIZE as u64)
}

/// The connection that a program holds.
fn held(run: &Run<'_, '_>, addr: u64) -> Result<Arc<Frame>, Fault> {
    connection(run, addr)?;
    let conn = run.memory.shared(addr);
    conn.ok_or_else(|| Fault::illegal(format!("{addr:#x} is passed as a connection, which it is not")))
}

fn now(run: &mut Run<'_, '_>) -> u32 {
    run.host.jiffies64() as u32
}

/// Kernel: `include/linux/jiffies.h msecs_to_jiffies, v6.18`
fn ticks(timeout_ms: u32) -> u32 {
    if (timeout_ms as i32) < 0 {
        return i32::MAX as u32;
    }
    u64::from(timeout_ms).div_ceil(1000 / HZ) as u32
}
