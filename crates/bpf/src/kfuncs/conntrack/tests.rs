use std::sync::Arc;

use uapi::Errno;

use super::{Connection, Conntrack, Tuple, Zone, image};
use crate::helpers::tests::world::{World, give, kcall, with_run};
use crate::vm::Run;

const TUPLE: [u8; 12] = [10, 0, 0, 1, 10, 0, 0, 2, 0x04, 0x00, 0, 80];

fn world() -> World {
    World { time_ns: 1_000_000_000, conntrack: Some(Arc::default()), ..World::default() }
}

/// Options for TCP in the own namespace.
fn opts(run: &mut Run<'_, '_>, change: impl FnOnce(&mut [u8; 16])) -> u64 {
    let mut bytes = [0; 16];
    bytes[..4].fill(0xff);
    bytes[8] = super::TCP;
    change(&mut bytes);
    give(run, &bytes)
}

fn error(run: &Run<'_, '_>, opts: u64) -> i32 {
    run.read(opts, 16).unwrap().read_u32(4) as i32
}

fn entry(table: &Conntrack, now: u32) -> Connection {
    let all = table.connections(now);
    assert_eq!(all.len(), 1);
    all[0]
}

#[test]
fn requests_are_checked_in_the_kernels_order() {
    with_run(64, world(), |run| {
        let (ctx, tuple) = (run.memory.ctx(), give(run, &[0; 40]));
        let errno = |e: Errno| e.as_ret() as i32;
        type Change = fn(&mut [u8; 16]);
        let cases: [(u64, u64, Change, [Errno; 2]); 8] = [
            (12, 13, |_| (), [Errno::EINVAL; 2]),
            (12, 16, |o| o[15] = 1, [Errno::EINVAL; 2]),
            (12, 12, |o| o[10] = 1, [Errno::EINVAL; 2]),
            (12, 16, |o| o[8] = 1, [Errno::EPROTO; 2]),
            (12, 16, |o| (o[0], o[8]) = (0xfe, 1), [Errno::EINVAL, Errno::EPROTO]),
            (13, 16, |_| (), [Errno::EAFNOSUPPORT; 2]),
            (12, 16, |o| o[..4].fill(0), [Errno::ENONET; 2]),
            (36, 16, |_| (), [Errno::ENOENT; 2]),
        ];
        for (i, (tuple_len, opts_len, change, errors)) in cases.into_iter().enumerate() {
            for (name, expected) in ["bpf_xdp_ct_alloc", "bpf_xdp_ct_lookup"].into_iter().zip(errors) {
                let opts = opts(run, change);
                let got = kcall(run, name, [ctx, tuple, tuple_len, opts, opts_len]);
                if name == "bpf_xdp_ct_alloc" && expected == Errno::ENOENT {
                    assert_ne!(got, 0);
                } else {
                    assert_eq!((got, error(run, opts)), (0, errno(expected)), "case {i} of {name}");
                }
            }
        }
    });
}

#[test]
fn a_connection_is_found_in_both_directions_until_its_time_is_over() {
    let world = world();
    let table = world.conntrack.clone().unwrap();
    with_run(64, world, |run| {
        let (ctx, tuple) = (run.memory.ctx(), give(run, &TUPLE));
        let reply = give(run, &[10, 0, 0, 2, 10, 0, 0, 1, 0, 80, 0x04, 0x00]);
        let opts = opts(run, |_| ());
        let new = kcall(run, "bpf_xdp_ct_alloc", [ctx, tuple, 12, opts, 16]);
        assert_eq!(kcall(run, "bpf_xdp_ct_lookup", [ctx, tuple, 12, opts, 16]), 0, "not inserted yet");
        kcall(run, "bpf_ct_set_timeout", [new, 1001, 0, 0, 0]);
        run.write(new, 248).unwrap().write_u32(image::OFF_MARK, 7);
        assert_eq!(kcall(run, "bpf_ct_set_status", [new, 6, 0, 0, 0]), 0);
        let conn = kcall(run, "bpf_ct_insert_entry", [new, 0, 0, 0, 0]);
        assert_eq!(conn, new);
        let expected = Connection {
            netns: None,
            original: Tuple {
                src: [10, 0, 0, 1].into(),
                sport: 1024,
                dst: [10, 0, 0, 2].into(),
                dport: 80,
                protocol: 6,
            },
            reply: Tuple {
                src: [10, 0, 0, 2].into(),
                sport: 80,
                dst: [10, 0, 0, 1].into(),
                dport: 1024,
                protocol: 6,
            },
            zone: Zone::default(),
            status: 0xe,
            mark: 7,
            timeout: 251,
        };
        assert_eq!(entry(&table, 250), expected);
        for (tuple, dir) in [(tuple, 0), (reply, 1)] {
            let found = kcall(run, "bpf_xdp_ct_lookup", [ctx, tuple, 12, opts, 16]);
            assert_eq!((found, run.read(opts, 16).unwrap().read_u8(9)), (conn, dir));
            kcall(run, "bpf_ct_release", [found, 0, 0, 0, 0]);
        }
        let busy = Errno::EBUSY.as_ret() & 0xffff_ffff;
        assert_eq!(kcall(run, "bpf_ct_change_status", [conn, 8 + 4, 0, 0, 0]), busy, "a reply was seen");
        assert_eq!(kcall(run, "bpf_ct_change_status", [conn, 0xe | 1 << 13 | 1 << 5, 0, 0, 0]), 0);
        assert_eq!(kcall(run, "bpf_ct_change_timeout", [conn, u64::MAX, 0, 0, 0]), 0);
        assert_eq!((entry(&table, 250).status, entry(&table, 250).timeout), (0x200e, i32::MAX as u32));
        kcall(run, "bpf_ct_change_timeout", [conn, 4, 0, 0, 0]);
        kcall(run, "bpf_ct_release", [conn, 0, 0, 0, 0]);
        assert!(run.read(conn, 1).is_err(), "given back");
        assert!(!run.holds(super::CONN));
    });
    assert_eq!((table.connections(250).len(), table.connections(251).len()), (1, 0));
}

#[test]
fn the_second_of_two_equal_connections_is_not_inserted() {
    with_run(64, world(), |run| {
        let (ctx, tuple, opts) = (run.memory.ctx(), give(run, &TUPLE), opts(run, |_| ()));
        let [a, b] = [0, 0].map(|_| kcall(run, "bpf_xdp_ct_alloc", [ctx, tuple, 12, opts, 16]));
        assert_ne!(a, b);
        assert_ne!(kcall(run, "bpf_ct_insert_entry", [a, 0, 0, 0, 0]), 0);
        assert_eq!(kcall(run, "bpf_ct_insert_entry", [b, 0, 0, 0, 0]), 0);
        assert!(super::insert_entry(run, [b, 0, 0, 0, 0]).is_err(), "it was given back");
    });
}

#[test]
fn zones_keep_connections_apart_in_the_directions_that_they_are_for() {
    with_run(64, world(), |run| {
        let (ctx, tuple) = (run.memory.ctx(), give(run, &TUPLE));
        let reply = give(run, &[10, 0, 0, 2, 10, 0, 0, 1, 0, 80, 0x04, 0x00]);
        let zone = |id, dir| move |o: &mut [u8; 16]| (o[10], o[12]) = (id, dir);
        let in_original = opts(run, zone(5, 1));
        let new = kcall(run, "bpf_xdp_ct_alloc", [ctx, tuple, 12, in_original, 16]);
        assert_ne!(kcall(run, "bpf_ct_insert_entry", [new, 0, 0, 0, 0]), 0);
        for (tuple, id, dir, found) in [
            (tuple, 5, 0, true),
            (tuple, 5, 1, true),
            (tuple, 5, 2, false),
            (tuple, 0, 0, false),
            (tuple, 6, 0, false),
            (reply, 5, 0, false),
            (reply, 5, 1, true),
            (reply, 0, 0, true),
        ] {
            let opts = opts(run, zone(id, dir));
            let conn = kcall(run, "bpf_xdp_ct_lookup", [ctx, tuple, 12, opts, 16]);
            assert_eq!(conn != 0, found, "zone {id}, directions {dir}");
        }
    });
}

#[test]
fn translation_changes_what_replies_look_like() {
    let world = world();
    let table = world.conntrack.clone().unwrap();
    with_run(64, world, |run| {
        let (ctx, tuple, opts) = (run.memory.ctx(), give(run, &TUPLE), opts(run, |_| ()));
        let to = give(run, &[192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let new = kcall(run, "bpf_xdp_ct_alloc", [ctx, tuple, 12, opts, 16]);
        assert_eq!(kcall(run, "bpf_ct_set_nat_info", [new, to, 5000, 0, 0]), 0);
        let nomem = Errno::ENOMEM.as_ret() & 0xffff_ffff;
        assert_eq!(kcall(run, "bpf_ct_set_nat_info", [new, to, 5000, 0, 0]), nomem, "once");
        assert_eq!(kcall(run, "bpf_ct_set_nat_info", [new, to, 0, 1, 0]), 0);
        assert_ne!(kcall(run, "bpf_ct_insert_entry", [new, 0, 0, 0, 0]), 0);
        let Connection { reply, status, .. } = entry(&table, 250);
        assert_eq!(status, 8 | 0x30 | 0x180);
        let ip = [192, 0, 2, 1].into();
        assert_eq!(reply, Tuple { src: ip, sport: 80, dst: ip, dport: 5000, protocol: 6 });

        // Another connection to the same place from the same port: the port is taken.
        let other = give(run, &[10, 0, 0, 9, 192, 0, 2, 1, 0x13, 0x88, 0, 80]);
        let new = kcall(run, "bpf_xdp_ct_alloc", [ctx, other, 12, opts, 16]);
        assert_eq!(kcall(run, "bpf_ct_set_nat_info", [new, to, 0, 0, 0]), 0);
        let reply = image::read(run.memory.shared(new).unwrap().bytes()).reply;
        assert_eq!((reply.dst, reply.dport), (ip, 1024), "the first of the range, as random numbers are 0");
    });
}

#[test]
fn connections_that_are_given_count_from_the_first_question_on() {
    let tuple =
        Tuple { src: [10, 0, 0, 1].into(), sport: 1024, dst: [10, 0, 0, 2].into(), dport: 80, protocol: 6 };
    let given = Connection {
        netns: Some(3),
        original: tuple,
        reply: tuple.inverted(),
        zone: Zone::default(),
        status: 8,
        mark: 1,
        timeout: 100,
    };
    let table = Conntrack::new(vec![given], [4].into());
    assert!(table.has_namespace(3) && table.has_namespace(4) && !table.has_namespace(5));
    assert_eq!(entry(&table, u32::MAX - 9), given);
    assert_eq!(entry(&table, 0).timeout, 90);
    assert!(table.find(None, Zone::default(), tuple, 0).is_none());
    assert!(table.find(Some(3), Zone::default(), tuple, 89).is_some());
    assert!(table.find(Some(3), Zone::default(), tuple, 90).is_none());
}
