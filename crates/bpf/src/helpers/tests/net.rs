//! Devices, routes, sockets, SYN cookies.

use std::net::Ipv4Addr;
use std::sync::Arc;

use uapi::Errno;
use uapi::bpf::func;

use super::EINVAL;
use super::world::{World, call, give, with_run};
use crate::host::*;
use crate::vm::Run;

fn device(ifindex: u32, mtu: u32) -> DeviceInfo {
    DeviceInfo { ifindex, name: [0; NAME_LEN], mtu, hard_header_len: 14, mac: [2; 6], rx_queues: 1 }
}

#[test]
fn check_mtu_counts_the_linear_part_or_what_it_is_told() {
    let devices = vec![device(1, 65536), device(2, 50)];
    with_run(64, World { devices, ..World::default() }, |run| {
        let mtu = give(run, &[0; 4]);
        for (ifindex, len, diff, flags, expected, written) in [
            (0, 0, 0, 0, 0, 65536),
            (999, 0, 0, 0, Errno::ENODEV.as_ret(), 0),
            (0, 0, 0, 1, EINVAL, 0),
            (0, 0, 70_000, 0, 1, 65536),
            (1, 65536, 0, 0, 0, 65536),
            (1, 65537, 0, 0, 1, 65536),
            (2, 0, 0, 0, 0, 50),
            (2, 0, 1, 0, 1, 50),
            (2, 51, -1_i64 as u64, 0, 0, 50),
        ] {
            run.write(mtu, 4).unwrap().write_u32(0, len);
            assert_eq!(call(run, func::CHECK_MTU, [0, ifindex, mtu, diff, flags]), expected);
            let left = run.read(mtu, 4).unwrap().read_u32(0);
            assert_eq!(left, if written == 0 { len } else { written });
        }
    });
}

#[test]
fn fib_lookup_checks_its_arguments_before_the_host_is_asked() {
    let world = World::default();
    let log = world.log.clone();
    with_run(64, world, |run| {
        let params = give(run, &[0; 64]);
        let mut ask = |family: u8, plen: u64, flags: u64| {
            run.write(params, 1).unwrap().write_u8(0, family);
            call(run, func::FIB_LOOKUP, [0, params, plen, flags, 0])
        };
        assert_eq!(ask(2, 63, 0), EINVAL);
        assert_eq!(ask(2, 64, 64), EINVAL);
        assert_eq!(ask(3, 64, 0), Errno::EAFNOSUPPORT.as_ret());
    });
    assert!(log.borrow().is_empty());
}

#[test]
fn fib_lookup_writes_as_far_as_the_lookup_came() {
    let way = FibAnswer {
        code: FibCode::Success,
        asked: true,
        mtu: Some(1500),
        egress: Some((7, 100)),
        gateway: Some(Ipv4Addr::new(10, 0, 0, 254).into()),
        src: None,
        macs: Some(([1; 6], [2; 6])),
    };
    let untouched: Vec<u8> = std::iter::once(2).chain([0xee; 63]).collect();
    let ask = |fib: FibAnswer, flags: u32| {
        let mut left = Vec::new();
        with_run(64, World { fib: Some(fib), ..World::default() }, |run| {
            let params = give(run, &untouched);
            assert_eq!(call(run, func::FIB_LOOKUP, [0, params, 64, flags.into(), 0]), fib.code as u64);
            left = run.read(params, 64).unwrap().to_vec();
        });
        left
    };
    let left = ask(way, 0);
    assert_eq!((left[0], &left[6..12]), (2, &[0xdc, 5, 7, 0, 0, 0][..]));
    assert_eq!(left[12..16], [100, 0, 0, 0]);
    assert_eq!(left[16..20], [0xee; 4]);
    assert_eq!(left[32..36], [10, 0, 0, 254]);
    assert_eq!(left[48..64], [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]);
    assert_eq!(
        ask(FibAnswer::only(FibCode::ForwardingDisabled), FibQuery::DIRECT | FibQuery::TBID),
        untouched
    );
    let left = ask(FibAnswer { code: FibCode::NoNeighbour, macs: None, ..way }, 0);
    assert_eq!((&left[6..12], left[48]), (&[0xee, 0xee, 7, 0, 0, 0][..], 0xee), "MTU and VLAN stay");
    let too_long =
        FibAnswer { mtu: Some(1400), asked: true, ..FibAnswer::only(FibCode::FragmentationNeeded) };
    let left = ask(too_long, FibQuery::DIRECT | FibQuery::TBID);
    assert_eq!((&left[6..8], &left[48..52], left[8]), (&[0x78, 5][..], &[0; 4][..], 0xee));
    let by_ipv6 = FibAnswer { gateway: Some("fe80::1".parse().unwrap()), ..way };
    let left = ask(by_ipv6, 0);
    assert_eq!((left[0], left[32], left[47]), (10, 0xfe, 1));
}

fn socket(id: u64, protocol: SocketProtocol, state: u8, local: &str, remote: &str) -> Arc<Socket> {
    Arc::new(Socket {
        id,
        protocol,
        state,
        local: local.parse().unwrap(),
        remote: remote.parse().unwrap(),
        bound_ifindex: 3,
        mark: 4,
        priority: 5,
        ipv6_only: false,
        rx_queue_mapping: None,
    })
}

/// 10.0.0.2:1000 to 10.0.0.1:`port`.
fn tuple(run: &mut Run<'_, '_>, port: u16) -> u64 {
    let [high, low] = port.to_be_bytes();
    give(run, &[10, 0, 0, 2, 10, 0, 0, 1, 0x03, 0xe8, high, low])
}

fn sockets() -> Vec<Arc<Socket>> {
    use SocketProtocol::*;
    vec![
        socket(1, Tcp, tcp_state::NEW_SYN_RECV, "10.0.0.1:80", "10.0.0.2:1000"),
        socket(2, Tcp, tcp_state::LISTEN, "10.0.0.1:80", "0.0.0.0:0"),
        socket(3, Tcp, tcp_state::TIME_WAIT, "10.0.0.1:81", "10.0.0.2:1000"),
        socket(4, Udp, tcp_state::CLOSE, "10.0.0.1:53", "0.0.0.0:0"),
    ]
}

#[test]
fn socket_lookups_give_whole_sockets_or_any() {
    with_run(64, World { sockets: sockets(), ..World::default() }, |run| {
        let (http, closing, dns) = (tuple(run, 80), tuple(run, 81), tuple(run, 53));
        let current = u64::from(u32::MAX);
        let listener = call(run, func::SK_LOOKUP_TCP, [0, http, 12, current, 0]);
        let field = |run: &Run<'_, '_>, sk, at| run.read(sk + at, 4).unwrap().read_u32(0);
        assert_eq!(field(run, listener, 72), u32::from(tcp_state::LISTEN));
        assert_eq!([0, 4, 8, 12, 16, 20].map(|at| field(run, listener, at)), [3, 2, 1, 6, 4, 5]);
        assert_eq!((field(run, listener, 24), field(run, listener, 44)), (0x0100_000a, 80));
        assert_eq!(field(run, listener, 76), u32::MAX);
        let request = call(run, func::SKC_LOOKUP_TCP, [0, http, 12, current, 0]);
        assert_eq!(field(run, request, 72), u32::from(tcp_state::NEW_SYN_RECV));
        assert_eq!(field(run, request, 48), u32::from(1000_u16.to_be()));
        assert_eq!(call(run, func::SK_LOOKUP_TCP, [0, closing, 12, current, 0]), 0);
        assert_ne!(call(run, func::SKC_LOOKUP_TCP, [0, closing, 12, current, 0]), 0);
        assert_ne!(call(run, func::SK_LOOKUP_UDP, [0, dns, 12, current, 0]), 0);
        assert_eq!(call(run, func::SK_LOOKUP_TCP, [0, dns, 12, current, 0]), 0);
        assert_eq!(call(run, func::SK_LOOKUP_UDP, [0, dns, 12, current, 1]), 0, "flags");
        assert_eq!(call(run, func::SK_LOOKUP_UDP, [0, dns, 11, current, 0]), 0, "length");
    });
}

#[test]
fn a_released_socket_is_gone() {
    with_run(64, World { sockets: sockets(), ..World::default() }, |run| {
        let http = tuple(run, 80);
        let sk = call(run, func::SK_LOOKUP_TCP, [0, http, 12, 0, 0]);
        assert_eq!(call(run, func::SK_RELEASE, [sk, 0, 0, 0, 0]), 0);
        assert!(run.read(sk, 4).is_err());
        let twice = crate::helpers::helper(func::SK_RELEASE).unwrap()(run, [sk, 0, 0, 0, 0]);
        assert!(twice.is_err());
        assert!(run.write(sk, 4).is_err());
    });
}

/// An IPv4 header from 10.0.0.2 to 10.0.0.1.
fn iph() -> Vec<u8> {
    let mut iph = vec![0; 20];
    iph[0] = 0x45;
    iph[12..20].copy_from_slice(&[10, 0, 0, 2, 10, 0, 0, 1]);
    iph
}

fn th(flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    let mut th = vec![0x03, 0xe8, 0, 80];
    th.extend(seq.to_be_bytes());
    th.extend(ack.to_be_bytes());
    th.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
    th
}

#[test]
fn a_raw_cookie_comes_back() {
    with_run(64, World { time_ns: 1 << 40, ..World::default() }, |run| {
        let (iph, syn) = (give(run, &iph()), give(run, &th(2, 7, 0)));
        let cookie = call(run, func::TCP_RAW_GEN_SYNCOOKIE_IPV4, [iph, syn, 20, 0, 0]);
        assert_eq!(cookie >> 32, 536);
        let ack = give(run, &th(16, 8, (cookie as u32).wrapping_add(1)));
        assert_eq!(call(run, func::TCP_RAW_CHECK_SYNCOOKIE_IPV4, [iph, ack, 0, 0, 0]), 0);
        let wrong = give(run, &th(16, 8, (cookie as u32).wrapping_add(9)));
        let denied = Errno::EACCES.as_ret();
        assert_eq!(call(run, func::TCP_RAW_CHECK_SYNCOOKIE_IPV4, [iph, wrong, 0, 0, 0]), denied);
        assert_eq!(call(run, func::TCP_RAW_GEN_SYNCOOKIE_IPV4, [iph, syn, 19, 0, 0]), EINVAL);
        let longer = give(run, &[th(2, 7, 0), vec![0; 4]].concat());
        assert_eq!(call(run, func::TCP_RAW_GEN_SYNCOOKIE_IPV4, [iph, longer, 24, 0, 0]), EINVAL, "doff");
        let iph6 = give(run, &[0x60; 40]);
        let cookie = call(run, func::TCP_RAW_GEN_SYNCOOKIE_IPV6, [iph6, syn, 20, 0, 0]);
        assert_eq!(cookie >> 32, 1220);
        let ack = give(run, &th(16, 8, (cookie as u32).wrapping_add(1)));
        assert_eq!(call(run, func::TCP_RAW_CHECK_SYNCOOKIE_IPV6, [iph6, ack, 0, 0, 0]), 0);
    });
}

#[test]
fn a_listeners_cookies_depend_on_its_policy() {
    let ask = |policy: SynCookiePolicy, check: bool, flags: u8, iph_len: u64, version: u8| {
        let mut answer = 0;
        let world = World { sockets: sockets(), syncookies: policy, ..World::default() };
        with_run(64, world, |run| {
            let http = tuple(run, 80);
            let sk = call(run, func::SK_LOOKUP_TCP, [0, http, 12, 0, 0]);
            let mut header = iph();
            header[0] = version << 4 | 5;
            let (iph, th) = (give(run, &header), give(run, &th(flags, 1, 1)));
            let id = if check { func::TCP_CHECK_SYNCOOKIE } else { func::TCP_GEN_SYNCOOKIE };
            answer = call(run, id, [sk, iph, iph_len, th, 20]);
        });
        answer
    };
    let off = SynCookiePolicy::default();
    let on = SynCookiePolicy { enabled: true, generate: true, recent_overflow: true };
    let (syn, ack, enoent) = (2, 16, Errno::ENOENT.as_ret());
    assert_eq!(ask(off, true, ack, 20, 4), EINVAL);
    assert_eq!(ask(on, true, ack, 20, 4), enoent, "no cookie");
    assert_eq!(ask(on, true, syn, 20, 4), enoent, "no acknowledgement");
    assert_eq!(ask(on, true, ack, 19, 4), EINVAL);
    assert_eq!(ask(SynCookiePolicy { recent_overflow: false, ..on }, true, ack, 20, 7), enoent);
    assert_eq!(ask(on, true, ack, 20, 7), Errno::EPROTONOSUPPORT.as_ret());
    assert_eq!(ask(on, true, ack, 20, 6), EINVAL, "an IPv4 socket");
    assert_eq!(ask(off, false, syn, 20, 4), enoent);
    assert_eq!(ask(on, false, ack, 20, 4), EINVAL);
    assert_eq!(ask(SynCookiePolicy { generate: false, ..on }, false, syn, 20, 4), enoent);
    assert_eq!(ask(on, false, syn, 20, 7), Errno::EPROTONOSUPPORT.as_ret());
    assert_eq!(ask(on, false, syn, 20, 4) >> 32, 536);
}

#[test]
fn only_a_listener_makes_cookies() {
    let sockets = vec![sockets().remove(3)];
    with_run(64, World { sockets, ..World::default() }, |run| {
        let dns = tuple(run, 53);
        let sk = call(run, func::SK_LOOKUP_UDP, [0, dns, 12, 0, 0]);
        let (iph, th) = (give(run, &iph()), give(run, &th(2, 1, 1)));
        assert_eq!(call(run, func::TCP_GEN_SYNCOOKIE, [sk, iph, 20, th, 20]), EINVAL);
        assert_eq!(call(run, func::TCP_CHECK_SYNCOOKIE, [sk, iph, 20, th, 20]), EINVAL);
        let no_socket = crate::helpers::helper(func::TCP_GEN_SYNCOOKIE).unwrap();
        assert!(no_socket(run, [iph, iph, 20, th, 20]).is_err());
    });
}
