//! Socket lookups, and the socket that a program sees.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use mem::SharedSlice;

use super::fib::{AF_INET, AF_INET6};
use super::{Args, Reply};
use crate::host::{Socket, SocketProtocol, SocketQuery, tcp_state};
use crate::vm::{Fault, RegionKind, Run};

/// Socket before what it represents is known to be a whole one: `struct sock_common`.
const SOCK_COMMON: RegionKind = RegionKind::Object("sock_common");
/// `struct sock`.
const SOCK: RegionKind = RegionKind::Object("sock");

/// `sizeof(bpf_sock_tuple.ipv4)`.
const TUPLE4: u32 = 12;
/// `sizeof(bpf_sock_tuple.ipv6)`.
const TUPLE6: u32 = 36;

/// Finds a TCP socket of any kind, also a connection request or a closing one.
///
/// Kernel: `net/core/filter.c bpf_xdp_skc_lookup_tcp, v6.18`
pub(super) fn skc_lookup_tcp(run: &mut Run<'_, '_>, args: Args) -> Reply {
    match lookup(run, args, SocketProtocol::Tcp)? {
        Some(socket) => give(run, SOCK_COMMON, &socket),
        None => Ok(0),
    }
}

/// Finds a TCP socket; for a connection request its listener, for a closing connection none.
///
/// Kernel: `net/core/filter.c bpf_xdp_sk_lookup_tcp, v6.18`
pub(super) fn sk_lookup_tcp(run: &mut Run<'_, '_>, args: Args) -> Reply {
    let Some(socket) = lookup(run, args, SocketProtocol::Tcp)? else { return Ok(0) };
    match socket.state {
        tcp_state::TIME_WAIT => Ok(0),
        tcp_state::NEW_SYN_RECV => match run.host.socket_listener(&socket) {
            Some(listener) => give(run, SOCK, &listener),
            None => Ok(0),
        },
        _ => give(run, SOCK, &socket),
    }
}

/// Finds a UDP socket.
///
/// Kernel: `net/core/filter.c bpf_xdp_sk_lookup_udp, v6.18`
pub(super) fn sk_lookup_udp(run: &mut Run<'_, '_>, args: Args) -> Reply {
    match lookup(run, args, SocketProtocol::Udp)? {
        Some(socket) => give(run, SOCK, &socket),
        None => Ok(0),
    }
}

/// Gives a socket back.
///
/// Kernel: `net/core/filter.c bpf_sk_release, v6.18`
pub(super) fn sk_release(run: &mut Run<'_, '_>, [sk, ..]: Args) -> Reply {
    run.release(sk)?;
    run.memory.retire(sk);
    Ok(0)
}

fn lookup(
    run: &mut Run<'_, '_>,
    [_, tuple, len, netns, flags]: Args,
    protocol: SocketProtocol,
) -> Result<Option<Arc<Socket>>, Fault> {
    let tuple = run.read(tuple, u64::from(len as u32))?;
    let (src, dst) = match len as u32 {
        TUPLE4 => (ipv4(tuple, 0, 8), ipv4(tuple, 4, 10)),
        TUPLE6 => (ipv6(tuple, 0, 32), ipv6(tuple, 16, 34)),
        _ => return Ok(None),
    };
    if flags != 0 {
        return Ok(None);
    }
    let ifindex = run.buff().rxq().ifindex;
    let netns = u32::try_from(netns as u32 as i32).ok();
    Ok(run.host.socket_lookup(&SocketQuery { protocol, src, dst, ifindex, netns }))
}

fn ipv4(tuple: SharedSlice<'_>, ip: usize, port: usize) -> SocketAddr {
    let ip = Ipv4Addr::from(u32::from_be(tuple.read_u32(ip)));
    SocketAddr::new(ip.into(), u16::from_be(tuple.read_u16(port)))
}

fn ipv6(tuple: SharedSlice<'_>, ip: usize, port: usize) -> SocketAddr {
    let mut bytes = [0; 16];
    tuple.copy_to(ip, &mut bytes);
    SocketAddr::new(Ipv6Addr::from(bytes).into(), u16::from_be(tuple.read_u16(port)))
}

fn give(run: &mut Run<'_, '_>, kind: RegionKind, socket: &Socket) -> Reply {
    let addr = run.memory.own(kind, &image(socket), false)?;
    run.acquire(addr, kind);
    Ok(addr)
}

/// `sizeof(struct bpf_sock)`.
const SIZE: usize = 80;
/// Kernel: `include/linux/in6.h LOOPBACK4_IPV6, v6.18`
const LOOPBACK4_IPV6: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
/// Behind what the program may read: the socket's number and what the SYN cookie helpers need.
const IMAGE_SIZE: usize = SIZE + 16;

/// What helpers need of a socket that a program passes.
pub(super) struct SocketHandle {
    pub(super) id: u64,
    pub(super) is_tcp: bool,
    pub(super) state: u32,
    pub(super) family: u8,
    pub(super) ipv6_only: bool,
}

/// Reads what [`give`] has given.
///
/// # Errors
///
/// The violation if it is no socket.
pub(super) fn handle(run: &Run<'_, '_>, sk: u64) -> Result<SocketHandle, Fault> {
    if run.memory.kind_at(sk).is_some_and(|kind| kind != SOCK && kind != SOCK_COMMON) {
        return Err(Fault::illegal(format!("{sk:#x} is passed as a socket, which it is not")));
    }
    let image = run.read(sk, IMAGE_SIZE as u64)?;
    Ok(SocketHandle {
        id: image.read_u64(SIZE),
        is_tcp: image.read_u32(12) == 6,
        state: image.read_u32(72),
        family: image.read_u32(4) as u8,
        ipv6_only: image.read_u8(SIZE + 8) != 0,
    })
}

/// The socket as `struct bpf_sock`, and behind it what programs do not see.
fn image(socket: &Socket) -> [u8; IMAGE_SIZE] {
    let mut image = [0; IMAGE_SIZE];
    let mut put = |offset: usize, value: u32| image[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    let (kind, protocol) = match socket.protocol {
        SocketProtocol::Tcp => (1, 6),
        SocketProtocol::Udp => (2, 17),
    };
    put(0, socket.bound_ifindex);
    put(4, u32::from(if socket.local.is_ipv4() { AF_INET } else { AF_INET6 }));
    put(8, kind);
    put(12, protocol);
    put(16, socket.mark);
    put(20, socket.priority);
    put(44, socket.local.port().into());
    put(48, socket.remote.port().to_be().into());
    put(72, socket.state.into());
    put(76, socket.rx_queue_mapping.unwrap_or(u32::MAX));
    // What IPv6 sockets with an address of their own have in the place of one of IPv4.
    if let IpAddr::V6(ip) = socket.local.ip()
        && !ip.is_unspecified()
    {
        let mapped = ip.to_ipv4_mapped().unwrap_or(LOOPBACK4_IPV6);
        image[24..28].copy_from_slice(&mapped.octets());
    }
    for (at4, at6, ip) in [(24, 28, socket.local.ip()), (52, 56, socket.remote.ip())] {
        match ip {
            IpAddr::V4(ip) => image[at4..at4 + 4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => image[at6..at6 + 16].copy_from_slice(&ip.octets()),
        }
    }
    image[SIZE..SIZE + 8].copy_from_slice(&socket.id.to_le_bytes());
    image[SIZE + 8] = socket.ipv6_only.into();
    image
}
