//! `bpf_fib_lookup`: the fields of its structure; the lookup is the host's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mem::SharedSlice;
use uapi::Errno;

use super::{Args, Reply, errno};
use crate::host::{FibAnswer, FibCode, FibQuery};
use crate::vm::{Access, Run};

/// `sizeof(struct bpf_fib_lookup)`.
const SIZE: u64 = 64;

/// `AF_INET`.
pub(super) const AF_INET: u8 = 2;
/// `AF_INET6`.
pub(super) const AF_INET6: u8 = 10;

// Offsets of `struct bpf_fib_lookup`.
const FAMILY: usize = 0;
const L4_PROTOCOL: usize = 1;
const SPORT: usize = 2;
const DPORT: usize = 4;
const TOT_LEN: usize = 6;
const IFINDEX: usize = 8;
const TOS: usize = 12;
const SRC: usize = 16;
const DST: usize = 32;
const VLAN: usize = 48;
const MARK: usize = 52;
const SMAC: usize = 52;
const DMAC: usize = 58;

/// Where the stack would send a packet.
///
/// Kernel: `net/core/filter.c bpf_xdp_fib_lookup, v6.18`
pub(super) fn fib_lookup(run: &mut Run<'_, '_>, [_, params, plen, flags, _]: Args) -> Reply {
    let (plen, flags) = (plen as i32, flags as u32);
    let params = run.memory.slice(params, u64::from(plen.max(0) as u32), Access::Write)?;
    if (params.len() as u64) < SIZE || flags & !FibQuery::FLAGS != 0 {
        return errno(Errno::EINVAL);
    }
    let family = params.read_u8(FAMILY);
    if family != AF_INET && family != AF_INET6 {
        return errno(Errno::EAFNOSUPPORT);
    }
    match run.host.fib_lookup(&query(params, family, flags)) {
        Ok(answer) => {
            write_answer(params, flags, &answer);
            Ok(answer.code as u64)
        }
        Err(e) => errno(e),
    }
}

fn query(params: SharedSlice<'_>, family: u8, flags: u32) -> FibQuery {
    FibQuery {
        ifindex: params.read_u32(IFINDEX),
        flags,
        src: read_ip(params, SRC, family),
        dst: read_ip(params, DST, family),
        tos: params.read_u8(TOS),
        l4_protocol: params.read_u8(L4_PROTOCOL),
        sport: u16::from_be(params.read_u16(SPORT)),
        dport: u16::from_be(params.read_u16(DPORT)),
        tot_len: params.read_u16(TOT_LEN),
        tbid: params.read_u32(VLAN),
        mark: params.read_u32(MARK),
    }
}

/// Writes what the kernel has written when it ends with this code, and nothing else.
fn write_answer(params: SharedSlice<'_>, flags: u32, answer: &FibAnswer) {
    if answer.asked && flags & FibQuery::DIRECT != 0 && flags & FibQuery::TBID != 0 {
        params.write_u32(VLAN, 0);
    }
    if let FibAnswer { code: FibCode::Success | FibCode::FragmentationNeeded, mtu: Some(mtu), .. } = answer {
        params.write_u16(TOT_LEN, *mtu as u16);
    }
    if let Some((ifindex, metric)) = answer.egress {
        params.write_u32(TOS, metric);
        params.write_u32(IFINDEX, ifindex);
    }
    if let Some(src) = answer.src {
        write_ip(params, SRC, src);
    }
    if let Some(gateway) = answer.gateway {
        if gateway.is_ipv6() {
            params.write_u8(FAMILY, AF_INET6);
        }
        write_ip(params, DST, gateway);
    }
    if let Some((smac, dmac)) = answer.macs {
        params.copy_from(SMAC, &smac);
        params.copy_from(DMAC, &dmac);
    }
    if answer.code == FibCode::Success {
        params.write_u32(VLAN, 0);
    }
}

fn read_ip(params: SharedSlice<'_>, offset: usize, family: u8) -> IpAddr {
    if family == AF_INET {
        return Ipv4Addr::from(u32::from_be(params.read_u32(offset))).into();
    }
    let mut bytes = [0; 16];
    params.copy_to(offset, &mut bytes);
    Ipv6Addr::from(bytes).into()
}

fn write_ip(params: SharedSlice<'_>, offset: usize, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => params.copy_from(offset, &ip.octets()),
        IpAddr::V6(ip) => params.copy_from(offset, &ip.octets()),
    }
}
