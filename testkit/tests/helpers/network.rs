//! Devices, routes and sockets: what the engine's tables answer, made of what `ip` prints, against a network
//! namespace with the same network.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;

use linux::testing::{VethPair, command};
use machine::net::{Protocol, SocketEntry, SocketState};
use machine::{NetConfig, NetTables};
use rustix::net::sockopt::set_socket_reuseport;
use rustix::net::{AddressFamily, SocketType};
use testkit::network::lock_mtus;

use uapi::bpf::func;

use super::{Case, Homes};

const SETUP: &[&str] = &[
    "addr add 10.1.0.1/24 dev veth0",
    "addr add 10.2.0.1/24 dev veth1",
    "addr add 10.2.0.129/25 dev veth1",
    "-6 addr add fd01::1/64 dev veth0 nodad",
    "-6 addr add fd02::1/64 dev veth1 nodad",
    "link set veth1 mtu 1300",
    "link add down0 numtxqueues 1 numrxqueues 1 type veth peer name down1 numtxqueues 1 numrxqueues 1",
    "route add 198.51.100.0/24 via 10.2.0.2 metric 7",
    "route add 198.51.100.128/25 via 10.2.0.3",
    "route add 198.51.100.200/32 via 10.1.0.2 mtu lock 600",
    "route add 198.51.100.201/32 via 10.1.0.2 mtu 600",
    "route add 198.51.100.202/32 via 10.1.0.2 src 10.2.0.1",
    "route add 198.51.101.0/24 via 10.2.0.4 metric 100",
    "route add 198.51.101.0/24 via 10.1.0.2 metric 50",
    "route add 198.51.102.0/24 via 10.1.0.2 tos 0x10",
    "route add 198.51.102.0/24 via 10.2.0.2",
    "route add 198.51.103.0/24 via inet6 fd02::2 dev veth1",
    "route add blackhole 203.0.113.0/26",
    "route add unreachable 203.0.113.64/26",
    "route add prohibit 203.0.113.128/26",
    "route add throw 203.0.113.192/26",
    "route add 192.0.2.0/24 via 10.2.0.2 table 100",
    "route add default via 10.1.0.2 table 10",
    "-6 route add 2001:db8:1::/48 via fd02::2",
    "-6 route add 2001:db8:2::/48 via fd01::2 metric 77",
    "-6 route add 2001:db8:2::/48 via fd02::2 metric 99",
    "-6 route add blackhole 2001:db8:3::/48",
    "-6 route add unreachable 2001:db8:4::/48",
    "-6 route add prohibit 2001:db8:5::/48",
    "-6 route add 2001:db8:6::/48 via fd01::2 mtu lock 1290",
    "-6 route add 2001:db8:7::/48 dev veth1",
    "neigh add 10.1.0.2 lladdr 02:00:00:00:01:02 dev veth0 nud permanent",
    "neigh add 10.2.0.2 lladdr 02:00:00:00:02:02 dev veth1 nud permanent",
    "neigh add 10.2.0.3 lladdr 02:00:00:00:02:03 dev veth1 nud stale",
    "-6 neigh add fd01::2 lladdr 02:00:00:00:06:01 dev veth0 nud permanent",
    "-6 neigh add fd02::2 lladdr 02:00:00:00:06:02 dev veth1 nud permanent",
];

struct Network {
    veth: VethPair,
    config: NetConfig,
}

/// Not every kernel has this kind of device.
const SETUP_VRF: &[&str] = &["link add red type vrf table 10", "link set red up"];

/// Sets the network up and reads it back.
fn network(rules: &[&str]) -> Network {
    let veth = VethPair::new().expect("a namespace");
    let config = veth.netns.run(|| {
        for family in ["ipv4", "ipv6"] {
            for device in ["lo", "veth0"] {
                let path = format!("/proc/sys/net/{family}/conf/{device}/forwarding");
                std::fs::write(path, "1").expect("a device's setting");
            }
        }
        let ip = |line: &str| command("ip", &line.split(' ').collect::<Vec<_>>());
        for line in SETUP_VRF {
            ip(line).map_or_else(|e| eprintln!("WITHOUT VRF: {e}"), drop);
        }
        for line in SETUP.iter().chain(rules) {
            ip(line).unwrap_or_else(|e| panic!("ip {line}: {e}"));
        }
        read()
    });
    Network { veth, config: config.expect("in the namespace") }
}

fn read() -> NetConfig {
    let ask = |line: &str| command("ip", &line.split(' ').collect::<Vec<_>>()).expect("ip");
    let routes = ask("-json -4 route show table all") + &ask("-json -6 route show table all");
    let config =
        NetConfig::from_ip_json(&ask("-json -d link"), &ask("-json addr"), &routes, &ask("-json neigh"));
    let mut config = config.expect("as ip prints");
    lock_mtus(&mut config, SETUP);
    for device in &mut config.devices {
        let on = |family: &str| {
            let path = format!("/proc/sys/net/{family}/conf/{}/forwarding", device.name);
            std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
        };
        (device.forwarding, device.forwarding6) = (on("ipv4"), on("ipv6"));
    }
    config
}

/// One call of `bpf_fib_lookup`; the structure comes back in the packet.
struct Fib<'a> {
    dst: &'a str,
    ifindex: u32,
    flags: u32,
    tot_len: u16,
    tos: u8,
    extra: u32,
    mark: u32,
}

impl Fib<'_> {
    fn case(&self) -> Case {
        let dst: std::net::IpAddr = self.dst.parse().expect("an address");
        let mut params = [0xee; 64];
        params[1] = 6;
        params[2..6].copy_from_slice(&[3, 0xe8, 0, 80]);
        params[6..8].copy_from_slice(&self.tot_len.to_le_bytes());
        params[8..12].copy_from_slice(&self.ifindex.to_le_bytes());
        params[12..16].copy_from_slice(&[self.tos, 0, 0, 0]);
        params[48..52].copy_from_slice(&self.extra.to_le_bytes());
        params[52..56].copy_from_slice(&self.mark.to_le_bytes());
        match dst {
            std::net::IpAddr::V4(ip) => {
                params[0] = 2;
                params[16..20].copy_from_slice(&[10, 1, 0, 9]);
                params[32..36].copy_from_slice(&ip.octets());
            }
            std::net::IpAddr::V6(ip) => {
                params[0] = 10;
                params[16..32].copy_from_slice(&"fd01::9".parse::<std::net::Ipv6Addr>().unwrap().octets());
                params[32..48].copy_from_slice(&ip.octets());
            }
        }
        let fill: String = params
            .as_chunks::<8>()
            .0
            .iter()
            .enumerate()
            .map(|(i, w)| {
                format!("lddw %r1, {:#x}\nstxdw [%r10-{}], %r1\n", u64::from_le_bytes(*w), 64 - 8 * i)
            })
            .collect();
        Case::new(format!(
            "{fill}mov %r1, %r6\nmov %r2, %r10\nadd %r2, -64\nmov %r3, 64\nmov %r4, {}\ncall 69
             mov %r7, %r0
             mov %r1, %r6\nmov %r2, 0\nmov %r3, %r10\nadd %r3, -64\nmov %r4, 64\ncall 190
             mov %r1, %r6\nmov %r2, -8\ncall 44
             mov %r0, %r7",
            self.flags
        ))
    }
}

const DESTINATIONS: &[&str] = &[
    "10.1.0.1",
    "10.1.0.2",
    "10.1.0.9",
    "10.1.0.255",
    "10.2.0.130",
    "10.2.0.2",
    "127.0.0.1",
    "224.0.0.1",
    "198.51.100.1",
    "198.51.100.130",
    "198.51.100.200",
    "198.51.100.201",
    "198.51.100.202",
    "198.51.101.1",
    "198.51.102.1",
    "198.51.103.1",
    "203.0.113.1",
    "203.0.113.65",
    "203.0.113.129",
    "203.0.113.193",
    "192.0.2.1",
    "8.8.8.8",
    "fd01::1",
    "fd01::2",
    "fd01::9",
    "fd02::2",
    "fe80::1",
    "ff02::1",
    "::1",
    "2001:db8:1::1",
    "2001:db8:2::1",
    "2001:db8:3::1",
    "2001:db8:4::1",
    "2001:db8:5::1",
    "2001:db8:6::1",
    "2001:db8:7::1",
    "2001::1",
];

#[test]
fn routes_agree_with_the_kernel() {
    linux::needs_kernel!();
    let Network { veth, config } = network(&[]);
    let plain = Fib { dst: "", ifindex: veth.ifindex0, flags: 0, tot_len: 100, tos: 0, extra: 0, mark: 0 };
    veth.netns
        .run(|| {
            let mut homes = Homes::new(NetTables::new(&config).expect("consistent"));
            for dst in DESTINATIONS {
                // With and without DIRECT, OUTPUT, SKIP_NEIGH, TBID, SRC.
                for flags in [0, 1, 2, 4, 5, 6, 9, 13, 16, 20, 32, 64] {
                    for table in [0, 10, 100, 254, 255, 999] {
                        if table != 0 && flags & 8 == 0 {
                            continue;
                        }
                        homes.run(&Fib { dst, flags, extra: table, ..plain }.case());
                    }
                }
                for ifindex in [1, veth.ifindex1, 9999] {
                    homes.run(&Fib { dst, ifindex, ..plain }.case());
                    homes.run(&Fib { dst, ifindex, flags: 2, ..plain }.case());
                }
                for tot_len in [0, 600, 601, 1290, 1291, 1300, 1301, 1500, 1501, 65535] {
                    homes.run(&Fib { dst, tot_len, ..plain }.case());
                }
                homes.run(&Fib { dst, tos: 0x10, ..plain }.case());
                homes.run(&Fib { dst, tos: 0x13, ..plain }.case());
            }
        })
        .expect("in the namespace");
}

#[test]
fn rules_agree_with_the_kernel() {
    linux::needs_kernel!();
    let rules = [
        "rule add pref 10 fwmark 7 lookup 100",
        "rule add pref 20 to 198.51.101.0/24 iif veth0 blackhole",
        "rule add pref 30 to 198.51.102.0/24 ipproto tcp dport 80 prohibit",
        "rule add pref 40 from 10.1.0.0/24 to 198.51.103.0/24 unreachable",
        "rule add pref 32800 to 192.0.2.128/25 lookup 100",
        "-6 rule add pref 20 to 2001:db8:1::/48 iif veth0 blackhole",
        "-6 rule add pref 30 to 2001:db8:2::/48 prohibit",
    ];
    let Network { veth, mut config } = network(&rules);
    config.rules = toml_rules();
    let plain = Fib { dst: "", ifindex: veth.ifindex0, flags: 0, tot_len: 100, tos: 0, extra: 0, mark: 0 };
    veth.netns
        .run(|| {
            let mut homes = Homes::new(NetTables::new(&config).expect("consistent"));
            for dst in DESTINATIONS.iter().chain(&["192.0.2.129"]) {
                for (flags, mark) in [(0, 0), (0, 7), (32, 7), (32, 8), (1, 7), (2, 0), (36, 7)] {
                    homes.run(&Fib { dst, flags, mark, ..plain }.case());
                }
                homes.run(&Fib { dst, ifindex: 1, ..plain }.case());
            }
        })
        .expect("in the namespace");
}

/// The rules above, as the engine's file has them.
fn toml_rules() -> Vec<machine::net::Rule> {
    let text = r#"
        rules = [
            { priority = 10, fwmark = 7, table = 100 },
            { priority = 20, to = "198.51.101.0/24", iif = "veth0", action = "blackhole" },
            { priority = 30, to = "198.51.102.0/24", ipproto = 6, dport = 80, action = "prohibit" },
            { priority = 40, from = "10.1.0.0/24", to = "198.51.103.0/24", action = "unreachable" },
            { priority = 32800, to = "192.0.2.128/25", table = 100 },
            { priority = 20, to = "2001:db8:1::/48", iif = "veth0", action = "blackhole" },
            { priority = 30, to = "2001:db8:2::/48", action = "prohibit" },
        ]"#;
    toml::from_str::<NetConfig>(text).expect("a description").rules
}

#[test]
fn mtu_checks_agree_with_the_kernel() {
    linux::needs_kernel!();
    let Network { veth, config } = network(&[]);
    let run = || {
        let mut homes = Homes::new(NetTables::new(&config).expect("consistent"));
        for ifindex in [0, 1, veth.ifindex0, veth.ifindex1, 9999] {
            for (len, diff, flags) in [
                (0, 0, 0),
                (0, 1236, 0),
                (0, 1251, 0),
                (1300, 0, 0),
                (1301, 0, 0),
                (1301, -1, 0),
                (1500, 0, 0),
                (1501, 0, 0),
                (65536, 0, 0),
                (65537, 0, 0),
                (0, i32::MAX, 0),
                (0, i32::MIN, 0),
                (-1, 0, 0),
                (0, 0, 1),
            ] {
                let text = format!(
                    "stw [%r10-4], {len}\nmov %r1, %r6\nmov %r2, {ifindex}\nmov %r3, %r10\nadd %r3, -4\nmov %r4, {diff}\nmov %r5, {flags}\ncall 163
                     mov %r7, %r0
                     mov %r1, %r6\nmov %r2, 8\nmov %r3, %r10\nadd %r3, -4\nmov %r4, 4\ncall 190
                     mov %r0, %r7"
                );
                homes.answer(&Case::new(text));
            }
        }
    };
    veth.netns.run(run).expect("in the namespace");
}

/// One lookup of a socket; which one it is comes back by its state and ports.
fn socket_case(id: i32, src: &str, dst: &str, netns: &str, flags: u32) -> Case {
    let (src, dst): (SocketAddr, SocketAddr) = (src.parse().unwrap(), dst.parse().unwrap());
    let mut tuple = Vec::new();
    for end in [src, dst] {
        match end.ip() {
            std::net::IpAddr::V4(ip) => tuple.extend(ip.octets()),
            std::net::IpAddr::V6(ip) => tuple.extend(ip.octets()),
        }
    }
    tuple.extend(src.port().to_be_bytes());
    tuple.extend(dst.port().to_be_bytes());
    let len = tuple.len();
    let fill: String = tuple
        .as_chunks::<4>()
        .0
        .iter()
        .enumerate()
        .map(|(i, w)| format!("mov32 %r1, {:#x}\nstxw [%r10-{}], %r1\n", u32::from_le_bytes(*w), 40 - 4 * i))
        .collect();
    let field =
        |offset: u32, shift: u32| format!("ldxw %r1, [%r7+{offset}]\nlsh %r1, {shift}\nxor %r8, %r1\n");
    Case::new(format!(
        "{fill}mov %r1, %r6\nmov %r2, %r10\nadd %r2, -40\nmov %r3, {len}\nlddw %r4, {netns}\nmov %r5, {flags}\ncall {id}
         mov %r8, -1
         jeq %r0, 0, none
         mov %r7, %r0
         mov %r8, 0
         {}{}{}{}{}{}{}
         mov %r1, %r7
         call 86
         none:
         mov %r0, %r8",
        field(72, 0),
        field(44, 8),
        field(4, 26),
        // Of a socket that need not be whole, the protocol cannot be read.
        if id == func::SKC_LOOKUP_TCP { String::new() } else { field(12, 34) },
        field(48, 40),
        field(24, 3),
        field(52, 5),
    ))
}

/// A listener on a port that others may listen on.
fn listen(at: &str) -> TcpListener {
    let socket = shared(at, SocketType::STREAM);
    rustix::net::listen(&socket, 16).unwrap();
    socket.into()
}

fn receive(at: &str) -> UdpSocket {
    shared(at, SocketType::DGRAM).into()
}

fn shared(at: &str, kind: SocketType) -> OwnedFd {
    let at: SocketAddr = at.parse().unwrap();
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket(family, kind, None).unwrap();
    set_socket_reuseport(&socket, true).unwrap();
    rustix::net::bind(&socket, &at).unwrap();
    socket
}

#[test]
fn socket_lookups_agree_with_the_kernel() {
    linux::needs_kernel!();
    let Network { veth, mut config } = network(&[]);
    let run = || {
        // Both on one port: the listener of the address comes before the one of all addresses.
        let (any, exact) = (listen("0.0.0.0:80"), listen("10.1.0.1:80"));
        let dual = TcpListener::bind("[::]:81").unwrap();
        let six = TcpListener::bind("[fd01::1]:82").unwrap();
        let client = TcpStream::connect("10.1.0.1:80").unwrap();
        let (server, _) = exact.accept().unwrap();
        let (udp_any, udp_exact) = (receive("0.0.0.0:53"), receive("10.2.0.1:53"));
        let udp_connected = UdpSocket::bind("10.1.0.1:54").unwrap();
        udp_connected.connect("10.1.0.9:1000").unwrap();
        let entry = |protocol, local: SocketAddr, remote: Option<SocketAddr>| SocketEntry {
            protocol,
            state: None,
            local,
            remote,
            dev: None,
            netns: None,
            mark: 0,
            priority: 0,
            ipv6_only: false,
            rx_queue: None,
            queue_full: false,
            recent_overflow: false,
        };
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        config.sockets = vec![
            entry(tcp, any.local_addr().unwrap(), None),
            entry(tcp, exact.local_addr().unwrap(), None),
            entry(tcp, dual.local_addr().unwrap(), None),
            entry(tcp, six.local_addr().unwrap(), None),
            entry(tcp, client.local_addr().unwrap(), Some(client.peer_addr().unwrap())),
            entry(tcp, server.local_addr().unwrap(), Some(server.peer_addr().unwrap())),
            entry(udp, udp_any.local_addr().unwrap(), None),
            entry(udp, udp_exact.local_addr().unwrap(), None),
            SocketEntry {
                state: Some(SocketState::Established),
                ..entry(udp, udp_connected.local_addr().unwrap(), Some(udp_connected.peer_addr().unwrap()))
            },
        ];
        let mut homes = Homes::new(NetTables::new(&config).expect("consistent"));
        let client_end = client.local_addr().unwrap().to_string();
        let ends =
            ["10.1.0.9:1000", "10.1.0.9:1001", &client_end, "[fd01::9]:1000", "[::ffff:10.1.0.9]:1000"];
        let locals = [
            "10.1.0.1:80",
            "10.2.0.1:80",
            "127.0.0.1:80",
            "10.1.0.1:81",
            "10.1.0.1:82",
            "10.1.0.1:53",
            "10.2.0.1:53",
            "10.1.0.1:54",
            "10.2.0.1:54",
            "[fd01::1]:80",
            "[fd01::1]:81",
            "[fd01::1]:82",
            "[fd02::1]:82",
            "[fd02::1]:81",
        ];
        for id in [func::SK_LOOKUP_TCP, func::SK_LOOKUP_UDP, func::SKC_LOOKUP_TCP] {
            for src in ends {
                for dst in locals {
                    if src.starts_with('[') == dst.starts_with('[') {
                        homes.answer(&socket_case(id, src, dst, "-1", 0));
                    }
                }
            }
            homes.answer(&socket_case(id, ends[0], locals[0], "-1", 1));
            homes.answer(&socket_case(id, ends[0], locals[0], "99", 0));
        }
    };
    veth.netns.run(run).expect("in the namespace");
}
