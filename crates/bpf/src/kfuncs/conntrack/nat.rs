//! Translation of addresses and ports: `bpf_ct_set_nat_info`.

use std::net::IpAddr;

use uapi::Errno;

use super::image::{self, CONFIRMED, NAT, NAT_DONE, read_ip};
use super::table::{Connection, Conntrack, Tuple};
use crate::helpers::{Args, Reply, errno};
use crate::vm::Run;

/// `NF_NAT_MANIP_SRC`: packets of the original direction get another sender; else another receiver.
const SOURCE: usize = 0;
/// Ports that are tried before giving up.
const MAX_ATTEMPTS: u32 = 128;

/// Says what the packets of a new connection are translated to: 0 the sender, 1 the receiver. Without a port
/// the connection keeps its own, or gets another one if that is taken.
///
/// Kernel: `net/netfilter/nf_nat_bpf.c bpf_ct_set_nat_info, net/netfilter/nf_nat_core.c nf_nat_setup_info,
/// v6.18`
pub(in crate::kfuncs) fn set_nat_info(run: &mut Run<'_, '_>, [addr, to, port, manip, _]: Args) -> Reply {
    super::connection(run, addr)?;
    let conn = super::held(run, addr)?;
    let mut connection = image::read(conn.bytes());
    let ip = read_ip(run.read(to, 16)?, 0, connection.original.src.is_ipv4());
    if connection.status & CONFIRMED != 0 {
        return Ok(0);
    }
    let which = usize::try_from(manip as u32).ok().filter(|which| *which < 2);
    let Some(which) = which.filter(|which| connection.status & NAT_DONE[*which] == 0) else {
        return errno(Errno::ENOMEM);
    };
    let port = (port as i32 > 0).then_some(port as u16);
    // What the packets look like after the translations so far is the reply the other way round.
    let before = connection.reply.inverted();
    let after = unique(run, &connection, before, (ip, port), which);
    if after != before {
        connection.reply = after.inverted();
        connection.status |= NAT[which];
    }
    connection.status |= NAT_DONE[which];
    image::write(conn.bytes(), &connection);
    Ok(0)
}

/// A tuple with the new end that no other connection has, if there is one.
///
/// Kernel: `net/netfilter/nf_nat_core.c get_unique_tuple, v6.18`
fn unique(
    run: &mut Run<'_, '_>,
    connection: &Connection,
    before: Tuple,
    (ip, port): (IpAddr, Option<u16>),
    which: usize,
) -> Tuple {
    let now = super::now(run);
    let Some(table) = run.host.conntrack() else { return before };
    let in_range = |t: &Tuple| t.src == ip && port.is_none_or(|port| port == t.sport);
    if which == SOURCE {
        if in_range(&before) {
            if !table.is_taken(connection, before, now) {
                return before;
            }
        } else if let Some(known) = table.translated(connection, now) {
            let end = known.reply.inverted();
            let tuple = Tuple { src: end.src, sport: end.sport, ..before };
            if in_range(&tuple) && !table.is_taken(connection, tuple, now) {
                return tuple;
            }
        }
    }
    let mut tuple = before;
    *address(&mut tuple, which) = ip;
    match port {
        Some(port) => *end(&mut tuple, which) = port,
        None if which == SOURCE && table.is_taken(connection, tuple, now) => {
            tuple.sport = free_port(run, &table, connection, tuple, now);
        }
        None => {}
    }
    tuple
}

/// A port of the same range, by chance; the last that was tried, if none was found free.
///
/// Kernel: `net/netfilter/nf_nat_core.c nf_nat_l4proto_unique_tuple, v6.18`
fn free_port(
    run: &mut Run<'_, '_>,
    table: &Conntrack,
    connection: &Connection,
    mut tuple: Tuple,
    now: u32,
) -> u16 {
    let (min, size) = match tuple.sport {
        0..512 => (1, 511),
        512..1024 => (600, 424),
        _ => (1024, 64512),
    };
    let mut attempts = MAX_ATTEMPTS;
    while attempts >= 8 {
        let from = run.host.prandom_u32() as u16;
        for i in 0..attempts {
            tuple.sport = (min + u32::from(from.wrapping_add(i as u16)) % size) as u16;
            if !table.is_taken(connection, tuple, now) {
                return tuple.sport;
            }
        }
        attempts /= 2;
    }
    tuple.sport
}

fn address(tuple: &mut Tuple, which: usize) -> &mut IpAddr {
    if which == SOURCE { &mut tuple.src } else { &mut tuple.dst }
}

fn end(tuple: &mut Tuple, which: usize) -> &mut u16 {
    if which == SOURCE { &mut tuple.sport } else { &mut tuple.dport }
}
