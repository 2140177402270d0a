//! Lookups in tables, against what a 6.18 kernel with the same network answers.

use std::net::IpAddr;

use bpf::host::{FibAnswer, FibCode, FibQuery, SocketProtocol, SocketQuery};
use uapi::Errno;

use super::*;

const NETWORK: &str = r#"
[[devices]]
ifindex = 2
name = "in"
mac = "02:00:00:00:00:02"
addresses = ["10.0.2.1/24", "fd02::1/64"]

[[devices]]
ifindex = 3
name = "out"
mac = "02:00:00:00:00:03"
mtu = 1400
addresses = ["10.0.3.1/24", "fd03::1/64"]

[[devices]]
ifindex = 4
name = "host"
mac = "02:00:00:00:00:04"
forwarding = false
forwarding6 = false

[[devices]]
ifindex = 5
name = "down"
up = false

[[routes]]
dst = "default"
via = "10.0.3.254"

[[routes]]
dst = "192.0.2.0/24"
via = "10.0.3.253"
metric = 7

[[routes]]
dst = "192.0.2.0/24"
dev = "down"

[[routes]]
dst = "192.0.2.128/25"
type = "blackhole"

[[routes]]
dst = "192.0.3.0/24"
type = "unreachable"

[[routes]]
dst = "192.0.4.0/24"
type = "prohibit"

[[routes]]
dst = "192.0.5.0/24"
type = "throw"

[[routes]]
dst = "192.0.6.0/24"
dev = "out"
encap = true

[[routes]]
dst = "192.0.7.0/24"
via = "fd03::fe"
dev = "out"

[[routes]]
dst = "192.0.8.0/24"
dev = "out"
mtu = 1000
mtu_lock = true

[[routes]]
dst = "192.0.9.0/24"
dev = "in"
table = 100

[[routes]]
dst = "default"
via = "fd03::fe"

[[routes]]
dst = "fd09::/64"
type = "blackhole"

[[neighbours]]
ip = "10.0.3.254"
dev = "out"
mac = "02:00:00:00:03:fe"

[[neighbours]]
ip = "10.0.3.253"
dev = "out"
mac = "02:00:00:00:03:fd"
state = "failed"

[[neighbours]]
ip = "fd03::fe"
dev = "out"
mac = "02:00:00:00:03:06"
state = "stale"
"#;

fn tables() -> NetTables {
    NetTables::from_toml(NETWORK).expect("consistent")
}

fn query(dst: &str, flags: u32) -> FibQuery {
    let dst: IpAddr = dst.parse().expect("an address");
    let src = if dst.is_ipv4() { "10.0.2.9" } else { "fd02::9" };
    FibQuery {
        ifindex: 2,
        flags,
        src: src.parse().expect("an address"),
        dst,
        tos: 0,
        l4_protocol: 6,
        sport: 1000,
        dport: 80,
        tot_len: 100,
        tbid: 0,
        mark: 0,
    }
}

fn ask(dst: &str, flags: u32) -> FibAnswer {
    tables().fib_lookup(&query(dst, flags)).expect("the device exists")
}

#[test]
fn a_gateway_gives_its_neighbours_address() {
    let answer = ask("198.51.100.1", 0);
    let expected = FibAnswer {
        code: FibCode::Success,
        asked: true,
        mtu: Some(1400),
        egress: Some((3, 0)),
        gateway: Some("10.0.3.254".parse().unwrap()),
        src: None,
        macs: Some(([2, 0, 0, 0, 0, 3], [2, 0, 0, 0, 3, 0xfe])),
    };
    assert_eq!(answer, expected);
    let answer = ask("2001:db8::1", 0);
    assert_eq!((answer.code, answer.egress), (FibCode::Success, Some((3, 1024))));
    assert_eq!(answer.gateway, Some("fd03::fe".parse().unwrap()));
    let answer = ask("192.0.7.1", 0);
    assert_eq!(answer.gateway, Some("fd03::fe".parse().unwrap()), "IPv4 by IPv6");
    assert_eq!(answer.macs.map(|(_, dmac)| dmac[5]), Some(6));
}

#[test]
fn the_longest_prefix_wins_and_dead_devices_do_not_count() {
    let answer = ask("192.0.2.1", 0);
    assert_eq!((answer.code, answer.egress), (FibCode::NoNeighbour, Some((3, 7))));
    assert_eq!(answer.macs, None, "a failed neighbour");
    assert_eq!(ask("192.0.2.1", FibQuery::SKIP_NEIGH).code, FibCode::Success);
    assert_eq!(ask("192.0.2.200", 0).code, FibCode::Blackhole);
    assert_eq!(ask("192.0.3.1", 0).code, FibCode::Unreachable);
    assert_eq!(ask("192.0.4.1", 0).code, FibCode::Prohibit);
    assert_eq!(ask("192.0.5.1", 0).code, FibCode::NotForwarded, "throw leaves the table");
    assert_eq!(ask("192.0.6.1", 0).code, FibCode::UnsupportedTunnel);
    assert_eq!(ask("fd09::1", 0).code, FibCode::Blackhole);
}

#[test]
fn addresses_of_devices_are_local_and_their_networks_connected() {
    assert_eq!(ask("10.0.3.1", 0).code, FibCode::NotForwarded);
    assert_eq!(ask("10.0.3.255", 0).code, FibCode::NotForwarded, "broadcast");
    assert_eq!(ask("fd03::1", 0).code, FibCode::NotForwarded);
    let connected = ask("10.0.3.7", FibQuery::SKIP_NEIGH);
    assert_eq!((connected.egress, connected.gateway), (Some((3, 0)), None));
    let connected = ask("fd03::7", FibQuery::SKIP_NEIGH);
    assert_eq!((connected.egress, connected.gateway), (Some((3, 256)), None));
}

#[test]
fn link_local_and_multicast_stay_even_on_unknown_devices() {
    for dst in ["fe80::1", "ff02::1", "::1"] {
        assert_eq!(ask(dst, 0).code, FibCode::NotForwarded);
        let elsewhere = FibQuery { ifindex: 99, ..query(dst, 0) };
        assert_eq!(tables().fib_lookup(&elsewhere).map(|a| a.code), Ok(FibCode::NotForwarded));
    }
    assert_eq!(tables().fib_lookup(&FibQuery { ifindex: 99, ..query("::2", 0) }), Err(Errno::ENODEV));
    assert_eq!(tables().fib_lookup(&FibQuery { ifindex: 99, ..query("10.0.3.7", 0) }), Err(Errno::ENODEV));
    for dst in ["10.0.3.7", "fd03::7"] {
        let answer = tables().fib_lookup(&FibQuery { ifindex: 4, ..query(dst, 0) });
        assert_eq!(answer, Ok(FibAnswer::only(FibCode::ForwardingDisabled)));
    }
}

#[test]
fn the_mtu_counts_before_tunnels_and_neighbours() {
    let long = |dst: &str, tot_len| tables().fib_lookup(&FibQuery { tot_len, ..query(dst, 0) }).unwrap();
    assert_eq!(long("198.51.100.1", 1400).code, FibCode::Success);
    let answer = long("192.0.6.1", 1401);
    assert_eq!((answer.code, answer.mtu, answer.egress), (FibCode::FragmentationNeeded, Some(1400), None));
    assert_eq!(long("192.0.8.1", 1001).mtu, Some(1000));
    assert_eq!(long("2001:db8::1", 1401).code, FibCode::FragmentationNeeded);
}

#[test]
fn tables_devices_and_sources_can_be_named() {
    let by_table =
        |flags, tbid| tables().fib_lookup(&FibQuery { tbid, ..query("192.0.9.1", flags) }).unwrap();
    let flags = FibQuery::DIRECT | FibQuery::TBID | FibQuery::SKIP_NEIGH;
    assert_eq!(by_table(flags, 100).egress, Some((2, 0)));
    assert_eq!(by_table(flags, 101).code, FibCode::NotForwarded);
    assert_eq!(by_table(FibQuery::SKIP_NEIGH, 100).egress, Some((3, 0)));
    assert_eq!(ask("10.0.3.1", FibQuery::DIRECT).code, FibCode::NotForwarded, "main has local in it");
    let output = FibQuery { ifindex: 2, ..query("198.51.100.1", FibQuery::OUTPUT) };
    assert_eq!(tables().fib_lookup(&output).unwrap().code, FibCode::NotForwarded, "no route over it");
    let answer = ask("198.51.100.1", FibQuery::SRC);
    assert_eq!(answer.src, Some("10.0.3.1".parse().unwrap()));
    assert_eq!(ask("2001:db8::1", FibQuery::SRC).src, Some("fd03::1".parse().unwrap()));
    let without = NETWORK.replace(r#""10.0.3.1/24", "fd03::1/64""#, r#""10.0.3.1/24""#);
    let without = without.replace(r#"via = "fd03::fe""#, "via = \"fd03::fe\"\ndev = \"out\"");
    let without = without.replace("dev = \"out\"\ndev = \"out\"", "dev = \"out\"");
    let tables = NetTables::from_toml(&without).expect("consistent");
    let answer = tables.fib_lookup(&query("2001:db8::1", FibQuery::SRC)).unwrap();
    assert_eq!(answer.code, FibCode::NoSourceAddress);
}

#[test]
fn rules_choose_tables_by_their_priority() {
    let with =
        |rule: &str| NetTables::from_toml(&format!("{NETWORK}\n[[rules]]\n{rule}")).expect("consistent");
    let egress = |tables: &NetTables, q: &FibQuery| tables.fib_lookup(q).map(|a| (a.code, a.egress));
    let q = query("192.0.9.1", FibQuery::SKIP_NEIGH);
    let marked = FibQuery { flags: q.flags | FibQuery::MARK, mark: 0x17, ..q };
    let tables = with("priority = 100\nfwmark = 7\nfwmask = 15\ntable = 100");
    assert_eq!(egress(&tables, &q), Ok((FibCode::Success, Some((3, 0)))));
    assert_eq!(egress(&tables, &marked), Ok((FibCode::Success, Some((2, 0)))));
    let unseen = FibQuery { flags: q.flags, ..marked };
    assert_eq!(egress(&tables, &unseen), Ok((FibCode::Success, Some((3, 0)))), "the mark needs its flag");
    let tables = with("priority = 40000\niif = \"in\"\ntable = 100");
    assert_eq!(egress(&tables, &q), Ok((FibCode::Success, Some((3, 0)))), "after main");
    for (action, code) in [
        ("blackhole", FibCode::Blackhole),
        ("prohibit", FibCode::Prohibit),
        ("unreachable", FibCode::NotForwarded),
    ] {
        let tables = with(&format!("priority = 5\nfrom = \"10.0.2.0/24\"\naction = \"{action}\""));
        assert_eq!(egress(&tables, &q), Ok((code, None)), "{action}");
        let other = with(&format!("priority = 5\nfrom = \"10.0.3.0/24\"\naction = \"{action}\""));
        assert_eq!(egress(&other, &q), Ok((FibCode::Success, Some((3, 0)))));
    }
}

#[test]
fn a_vrf_has_its_own_table() {
    let text = r#"
        devices = [
            { ifindex = 2, name = "red", vrf_table = 10 },
            { ifindex = 3, name = "a", vrf = "red", addresses = ["10.0.0.1/24"] },
            { ifindex = 4, name = "b", addresses = ["10.0.0.1/24"] },
        ]"#;
    let tables = NetTables::from_toml(text).expect("consistent");
    for flags in [FibQuery::SKIP_NEIGH, FibQuery::SKIP_NEIGH | FibQuery::DIRECT] {
        for ifindex in [3, 4] {
            let answer = tables.fib_lookup(&FibQuery { ifindex, ..query("10.0.0.9", flags) }).unwrap();
            assert_eq!(answer.egress, Some((ifindex, 0)));
        }
    }
}

#[test]
fn next_hops_share_flows_by_weight() {
    let text = r#"
        devices = [{ ifindex = 2, name = "a" }, { ifindex = 3, name = "b" }]
        [[routes]]
        dst = "default"
        nexthops = [{ dev = "a", weight = 3 }, { dev = "b" }]"#;
    let tables = NetTables::from_toml(text).expect("consistent");
    let count = (0..4000_u32)
        .filter(|i| {
            let dst = IpAddr::V4((0x0a00_0000 + i).into());
            let q = FibQuery { dst, ..query("10.0.0.1", FibQuery::SKIP_NEIGH) };
            tables.fib_lookup(&q).unwrap().egress == Some((2, 0))
        })
        .count();
    assert!((2800..3200).contains(&count), "{count} of 4000 by the hop of weight 3 of 4");
    let output = FibQuery { ifindex: 3, ..query("10.0.0.1", FibQuery::SKIP_NEIGH | FibQuery::OUTPUT) };
    assert_eq!(tables.fib_lookup(&output).unwrap().egress, Some((3, 0)));
}

#[test]
fn contradictions_are_told() {
    for (text, expected) in [
        ("x = 1", "unknown field"),
        ("routes = [{ dst = \"default\", dev = \"nope\" }]", "route to default names device \"nope\""),
        ("routes = [{ dst = \"default\" }]", "neither device nor gateway"),
        ("routes = [{ dst = \"default\", via = \"10.0.0.1\" }]", "no device has an address"),
        ("devices = [{ ifindex = 0, name = \"a\" }]", "no number"),
        ("devices = [{ ifindex = 2, name = \"abcdefghijklmnop\" }]", "longer than 15"),
        ("devices = [{ ifindex = 2, name = \"a\" }, { ifindex = 2, name = \"b\" }]", "another one has"),
        ("devices = [{ ifindex = 2, name = \"a\", vrf = \"lo\" }]", "no VRF"),
        ("devices = [{ ifindex = 2, name = \"a\", mac = \"1\" }]", "no hardware address"),
        ("sockets = [{ protocol = \"tcp\", state = \"established\", local = \"1.1.1.1:1\" }]", "no remote"),
    ] {
        let error = NetTables::from_toml(text).expect_err(text).to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    assert!(NetTables::from_json("{").is_err());
    assert!(NetTables::from_json("{}").is_ok());
}

#[test]
fn without_a_description_there_is_a_loopback_device_that_does_not_forward() {
    let tables = NetTables::default();
    assert_eq!(tables.device(1).map(|d| (d.mtu, d.hard_header_len)), Some((65536, 14)));
    let q = FibQuery { ifindex: 1, ..query("127.0.0.1", 0) };
    assert_eq!(tables.fib_lookup(&q).map(|a| a.code), Ok(FibCode::ForwardingDisabled));
}

fn socket_id(tables: &NetTables, protocol: SocketProtocol, src: &str, dst: &str) -> Option<u64> {
    let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
    let query = SocketQuery { protocol, src, dst, ifindex: 2, netns: None };
    tables.socket_lookup(&query).map(|socket| socket.id)
}

#[test]
fn sockets_are_found_from_the_most_to_the_least_particular() {
    use SocketProtocol::*;
    let text = r#"
        devices = [{ ifindex = 2, name = "a" }, { ifindex = 3, name = "b" }]
        sockets = [
            { protocol = "tcp", local = "0.0.0.0:80" },
            { protocol = "tcp", local = "10.0.0.1:80" },
            { protocol = "tcp", local = "10.0.0.1:80", remote = "10.0.0.2:1000" },
            { protocol = "tcp", local = "[::]:81" },
            { protocol = "tcp", local = "[::]:82", ipv6_only = true },
            { protocol = "tcp", local = "0.0.0.0:83", dev = "b" },
            { protocol = "udp", local = "0.0.0.0:53" },
            { protocol = "udp", local = "0.0.0.0:53", remote = "10.0.0.2:1000" },
            { protocol = "udp", local = "10.0.0.1:53" },
            { protocol = "udp", local = "0.0.0.0:54", netns = 7 },
        ]"#;
    let tables = NetTables::from_toml(text).expect("consistent");
    for (protocol, src, dst, expected) in [
        (Tcp, "10.0.0.2:1000", "10.0.0.1:80", Some(3)),
        (Tcp, "10.0.0.2:1001", "10.0.0.1:80", Some(2)),
        (Tcp, "10.0.0.2:1001", "10.0.0.9:80", Some(1)),
        (Tcp, "10.0.0.2:1001", "10.0.0.9:81", Some(4)),
        (Tcp, "10.0.0.2:1001", "10.0.0.9:82", None),
        (Tcp, "[fd00::1]:1001", "[fd00::2]:82", Some(5)),
        (Tcp, "10.0.0.2:1001", "10.0.0.9:83", None),
        (Tcp, "10.0.0.2:1001", "10.0.0.9:53", None),
        (Udp, "10.0.0.2:1000", "10.0.0.9:53", Some(8)),
        (Udp, "10.0.0.2:1001", "10.0.0.9:53", Some(7)),
        (Udp, "10.0.0.2:1000", "10.0.0.1:53", Some(9)),
        (Udp, "10.0.0.2:1000", "10.0.0.1:54", None),
    ] {
        assert_eq!(socket_id(&tables, protocol, src, dst), expected, "{protocol:?} {src} {dst}");
    }
}

#[test]
fn what_ip_prints_becomes_tables() {
    let links = r#"[{"ifindex":1,"ifname":"lo","flags":["LOOPBACK","UP"],"mtu":65536,"link_type":"loopback","address":"00:00:00:00:00:00"},
        {"ifindex":7,"ifname":"e0","flags":["UP"],"mtu":1400,"link_type":"ether","address":"02:fc:00:00:00:01","num_rx_queues":4}]"#;
    let addrs = r#"[{"ifindex":7,"addr_info":[{"family":"inet","local":"192.0.2.2","prefixlen":24},{"family":"inet6","local":"fd00::2","prefixlen":64}]}]"#;
    let routes = r#"[{"dst":"default","gateway":"192.0.2.1","dev":"e0","flags":[]},
        {"type":"local","dst":"192.0.2.2","dev":"e0","table":"local","prefsrc":"192.0.2.2","flags":[]},
        {"type":"nat","dst":"1.2.3.4","flags":[]}]
        [{"dst":"default","dev":"e0","metric":1024,"flags":[],"pref":"medium"}]"#;
    let neighs = r#"[{"dst":"192.0.2.1","dev":"e0","lladdr":"02:fc:00:00:00:05","state":["STALE"]},{"dst":"fd00::1","dev":"e0","state":["FAILED"]}]"#;
    let config = NetConfig::from_ip_json(links, addrs, routes, neighs).expect("as ip prints");
    let tables = NetTables::new(&config).expect("consistent");
    let answer = tables.fib_lookup(&FibQuery { ifindex: 7, ..query("1.1.1.1", 0) }).unwrap();
    assert_eq!((answer.code, answer.macs.map(|(_, d)| d[5])), (FibCode::Success, Some(5)));
    let answer =
        tables.fib_lookup(&FibQuery { ifindex: 7, ..query("2001::1", FibQuery::SKIP_NEIGH) }).unwrap();
    assert_eq!(answer.egress, Some((7, 1024)));
    assert_eq!(tables.device(7).map(|d| (d.mtu, d.rx_queues)), Some((1400, 4)));
    let error = NetConfig::from_ip_json("{}", "[]", "[]", "[]").expect_err("no array");
    assert_eq!(error.command, "link");
    let text = toml::to_string(&config).expect("can be written");
    assert_eq!(toml::from_str::<NetConfig>(&text), Ok(config), "and read again");
}
