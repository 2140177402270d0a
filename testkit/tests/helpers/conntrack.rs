//! Connection tracking: every function, in a network namespace of its own, as the kernel keeps connections.

use bpf::object::ObjectSpec;
use control::{EngineKind, LoadOptions, TestRun};
use linux::testing::VethPair;
use machine::NetTables;
use testkit::differential::Pair;

use super::{Case, Homes};

const KFUNCS: [&str; 9] = [
    "bpf_xdp_ct_alloc",
    "bpf_xdp_ct_lookup",
    "bpf_ct_insert_entry",
    "bpf_ct_release",
    "bpf_ct_set_timeout",
    "bpf_ct_change_timeout",
    "bpf_ct_set_status",
    "bpf_ct_change_status",
    "bpf_ct_set_nat_info",
];
const ALLOC: u32 = 0;
const LOOKUP: u32 = 1;

/// `struct bpf_ct_opts` for TCP in the namespace of the device.
const OPTS: [u8; 16] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0];

/// Puts bytes on the stack.
fn fill(at: i32, bytes: &[u8]) -> String {
    let words = bytes.as_chunks::<8>().0.iter().enumerate();
    words
        .map(|(i, w)| {
            let word = u64::from_le_bytes(*w);
            format!("lddw %r1, {word:#x}\nstxdw [%r10-{}], %r1\n", at - 8 * i as i32)
        })
        .collect()
}

/// Asks for a connection with the tuple at -80 and the options at -32.
fn ask(function: u32, lens: (u32, u32)) -> String {
    let (tuple, opts) = lens;
    format!(
        "mov %r1, %r6\nmov %r2, %r10\nadd %r2, -80\nmov %r3, {tuple}\nmov %r4, %r10\nadd %r4, -32
         mov %r5, {opts}\ncall runtime {function}\n"
    )
}

/// Addresses and ports, of which the first is another one in each case, as the kernel remembers.
fn tuple(src: [u8; 4], sport: u16, dst: [u8; 4], dport: u16) -> Vec<u8> {
    let mut bytes = [src, dst].concat();
    bytes.extend(sport.to_be_bytes());
    bytes.extend(dport.to_be_bytes());
    bytes.resize(40, 0);
    bytes
}

fn at(sport: u16) -> Vec<u8> {
    tuple([10, 1, 0, 2], sport, [10, 2, 0, 2], 80)
}

/// Copies what programs read of the connection in R7 into the packet: both tuples, status, mark.
fn show() -> String {
    let mut text = String::new();
    let mut to = 176;
    for from in [32, 88] {
        for (at, load, store, size) in [
            (0, "ldxw", "stxw", 4),
            (20, "ldxw", "stxw", 4),
            (16, "ldxh", "stxh", 2),
            (18, "ldxh", "stxh", 2),
            (36, "ldxh", "stxh", 2),
            (38, "ldxb", "stxb", 1),
            (39, "ldxb", "stxb", 1),
        ] {
            text += &format!("{load} %r1, [%r7+{}]\n{store} [%r10-{to}], %r1\n", from + at);
            to -= size;
        }
    }
    text += "ldxdw %r1, [%r7+128]\nstxdw [%r10-144], %r1\nldxw %r1, [%r7+168]\nstxdw [%r10-136], %r1\n";
    text + "mov %r1, %r6\nmov %r2, 8\nmov %r3, %r10\nadd %r3, -176\nmov %r4, 48\ncall 190\n"
}

/// A connection's whole life: what happens to it before it is inserted (as R7) and after; R8 is the answer.
fn life(tuple: &[u8], before: &str, after: &str) -> Case {
    let text = format!(
        "mov %r8, 0\n{}{}{}
         jeq %r0, 0, none
         mov %r7, %r0
         {before}
         mov %r1, %r7
         call runtime 2
         jeq %r0, 0, none
         mov %r7, %r0
         {after}
         {}
         mov %r1, %r7
         call runtime 3
         mov %r0, %r8
         ja end
         none:
         mov %r0, 1000
         end:
         mov %r0, %r0",
        fill(80, tuple),
        fill(32, &OPTS),
        ask(ALLOC, (12, 16)),
        show()
    );
    Case::new(text).kfuncs(&KFUNCS)
}

/// Calls a function with the connection and a number.
fn call(function: u32, number: u64) -> String {
    format!("mov %r1, %r7\nlddw %r2, {number:#x}\ncall runtime {function}\n")
}

/// As [`call`], and keeps the lower half of the answer, as that is what there is of an `int`.
fn answer(function: u32, number: u64) -> String {
    call(function, number) + "mov32 %r0, %r0\nlsh %r8, 16\nxor %r8, %r0\n"
}

fn in_namespace(test: impl FnOnce(&mut Homes) + Send) {
    let veth = VethPair::new().expect("a namespace");
    veth.netns.run(|| test(&mut Homes::new(NetTables::default()))).expect("in the namespace");
}

#[test]
fn refusals_to_look_up_connections_agree_with_the_kernel() {
    linux::needs_kernel!();
    in_namespace(|homes| {
        type Change = fn(&mut [u8; 16]);
        let changes: [Change; 13] = [
            |_| (),
            |o| o[0] = 0xfe,
            |o| o[..4].fill(0),
            |o| o[..4].copy_from_slice(&99_u32.to_le_bytes()),
            |o| o[8] = 17,
            |o| o[8] = 1,
            |o| (o[0], o[8]) = (0xfe, 1),
            |o| o[9] = 9,
            |o| o[10] = 5,
            |o| o[12] = 1,
            |o| o[12] = 7,
            |o| o[13] = 1,
            |o| o[15] = 1,
        ];
        let mut sport = 1000;
        for change in changes {
            for lens in [(12, 16), (12, 12), (36, 16), (13, 16), (12, 8), (12, 15), (12, 24)] {
                for function in [LOOKUP, ALLOC] {
                    let mut opts = OPTS;
                    change(&mut opts);
                    sport += 1;
                    let give_back = if function == ALLOC {
                        "mov %r1, %r0\ncall runtime 2\njeq %r0, 0, none\n"
                    } else {
                        ""
                    };
                    let text = format!(
                        "{}{}stdw [%r10-16], 0\n{}
                         mov %r7, 0
                         jeq %r0, 0, none
                         {give_back}
                         mov %r1, %r0
                         call runtime 3
                         mov %r7, 1000
                         none:
                         ldxdw %r1, [%r10-24]
                         ldxw %r0, [%r10-28]
                         lsh %r0, 32
                         xor %r0, %r1
                         add %r0, %r7",
                        fill(80, &at(sport)),
                        fill(32, &opts),
                        ask(function, lens)
                    );
                    homes.answer(&Case::new(text).kfuncs(&KFUNCS));
                }
            }
        }
    });
}

#[test]
fn states_of_connections_agree_with_the_kernel() {
    linux::needs_kernel!();
    in_namespace(|homes| {
        let mut sport = 2000;
        let mut agree = |before: &str, after: &str| {
            sport += 1;
            homes.answer(&life(&at(sport), before, after))
        };
        for status in [0, 1, 2, 4, 6, 8, 0x10, 0x20, 0x40, 0x80, 0x100, 0x200, 0x400, 0xf000, 0x2000, 1 << 16]
        {
            agree(&answer(6, status), "");
            agree("", &answer(7, status | 8));
            agree(&answer(6, 6), &answer(7, status | 8));
            agree(&answer(6, 6), &answer(7, status | 14));
        }
        // What is left of the time of one that is not inserted yet; and once it cannot change any more.
        for ms in [0, 1, 3, 4, 5, 1000, 1001, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
            agree(&(call(4, ms) + "ldxw %r8, [%r7+8]\n"), "");
        }
        agree("ldxw %r8, [%r7+8]\n", "");
        agree(&answer(6, 0x400), &answer(5, 1000));
        agree("", &answer(5, 100_000));
        agree(
            "",
            &(call(5, 2000) + "ldxw %r8, [%r7+8]\n" + &call(5, 1000) + "ldxw %r1, [%r7+8]\nsub %r8, %r1\n"),
        );
        agree("stw [%r7+168], 77\n", "ldxw %r8, [%r7+168]\nstw [%r7+168], 78\n");
    });
}

#[test]
fn zones_and_directions_agree_with_the_kernel() {
    linux::needs_kernel!();
    in_namespace(|homes| {
        let mut sport = 3000;
        for (made, asked) in [(0, 0), (5, 5), (5, 6), (5, 0), (0, 5)] {
            for (made_dir, asked_dir) in
                [(0, 0), (1, 0), (2, 0), (1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (4, 4)]
            {
                for reply in [false, true] {
                    sport += 1;
                    let (forth, back) = (at(sport), tuple([10, 2, 0, 2], 80, [10, 1, 0, 2], sport));
                    let zone = |id, dir| {
                        let mut opts = OPTS;
                        (opts[10], opts[12]) = (id, dir);
                        fill(32, &opts)
                    };
                    let text = format!(
                        "{}{}{}
                         jeq %r0, 0, none
                         mov %r1, %r0
                         call runtime 2
                         jeq %r0, 0, none
                         mov %r1, %r0
                         call runtime 3
                         {}{}{}
                         mov %r1, %r0
                         mov %r0, 500
                         jeq %r1, 0, end
                         call runtime 3
                         ldxdw %r0, [%r10-24]
                         ja end
                         none:
                         mov %r0, 1000
                         end:
                         mov %r0, %r0",
                        fill(80, &forth),
                        zone(made, made_dir),
                        ask(ALLOC, (12, 16)),
                        fill(80, if reply { &back } else { &forth }),
                        zone(asked, asked_dir),
                        ask(LOOKUP, (12, 16)),
                    );
                    homes.answer(&Case::new(text).kfuncs(&KFUNCS));
                }
            }
        }
    });
}

#[test]
fn translations_agree_with_the_kernel() {
    linux::needs_kernel!();
    in_namespace(|homes| {
        let nat = |ip: [u8; 4], port: i64, manip: u32| {
            let mut addr = [0; 16];
            addr[..4].copy_from_slice(&ip);
            fill(112, &addr)
                + &format!(
                    "mov %r1, %r7\nmov %r2, %r10\nadd %r2, -112\nlddw %r3, {port}\nmov %r4, {manip}
                     call runtime 8\nmov32 %r0, %r0\nlsh %r8, 16\nxor %r8, %r0\n"
                )
        };
        let mut sport = 4000;
        let mut agree = |before: &str| {
            sport += 1;
            homes.answer(&life(&at(sport), before, ""))
        };
        for (ip, port) in [
            ([192, 0, 2, 1], 5000),
            ([192, 0, 2, 1], 0),
            ([192, 0, 2, 1], -1),
            ([192, 0, 2, 2], 65535),
            ([192, 0, 2, 2], 65536 + 81),
            ([10, 1, 0, 2], 0),
            ([10, 2, 0, 2], 0),
        ] {
            agree(&nat(ip, port, 0));
            agree(&nat(ip, port, 1));
            agree(&(nat(ip, port + 1000, 1) + &nat([192, 0, 2, 3], port, 0)));
        }
    });
}

#[test]
fn a_firewall_that_tracks_connections_agrees_with_the_kernel() {
    linux::needs_kernel!();
    in_namespace(|homes| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/objects/conntrack.o");
        let bytes = std::fs::read(path).expect("the object");
        let spec = ObjectSpec::parse(&bytes, "conntrack", &linux::host::target()).expect("an object");
        homes.engine.kernel_btf = linux::host::vmlinux().ok();
        // The kernel remembers connections, so that each engine has clients of its own.
        for (client, engine) in [(1, EngineKind::Interp), (2, EngineKind::Jit)] {
            let programs = vec!["conntrack".to_owned()];
            let options = LoadOptions { programs, scripted: true, engine, ..LoadOptions::default() };
            let mut pair =
                Pair::load([&mut homes.engine, &mut homes.kernel], &spec, &options).expect("both take it");
            let (mut verdicts, mut order) = (Vec::new(), conversation(client));
            order.extend(conversation(client));
            for (i, data) in order.into_iter().enumerate() {
                let request = TestRun { data, time_ns: i as u64 * 1_000_000, ..TestRun::default() };
                let output = pair.run("conntrack", &request).expect("the same").expect("it runs");
                verdicts.push(output.retval);
            }
            pair.compare_maps().expect("the same");
            // An acknowledgement without a connection is dropped, the first time.
            let first = [1, 2, 2, 2, 2, 2, 2];
            assert_eq!(verdicts, [first, [2; 7]].concat(), "{engine:?}");
        }
    });
}

/// An acknowledgement too early, a TCP handshake with data, a UDP question and its answer.
fn conversation(client: u8) -> Vec<Vec<u8>> {
    const SYN: u8 = 2;
    const ACK: u8 = 0x10;
    let (us, them) = ([10, 9, 0, client], [10, 9, 1, 1]);
    let tcp = |from: ([u8; 4], u16), to: ([u8; 4], u16), flags: u8| {
        let mut rest = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
        rest.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        packet(6, from.0, to.0, &rest)
    };
    let udp = |from: ([u8; 4], u16), to: ([u8; 4], u16)| {
        let mut rest = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
        rest.extend([0, 8, 0, 0]);
        packet(17, from.0, to.0, &rest)
    };
    vec![
        tcp((us, 1234), (them, 80), ACK),
        tcp((us, 1234), (them, 80), SYN),
        tcp((them, 80), (us, 1234), SYN | ACK),
        tcp((us, 1234), (them, 80), ACK),
        udp((us, 5353), (them, 53)),
        udp((them, 53), (us, 5353)),
        udp((us, 5353), (them, 53)),
    ]
}

fn packet(protocol: u8, src: [u8; 4], dst: [u8; 4], rest: &[u8]) -> Vec<u8> {
    let mut packet = vec![2; 12];
    packet.extend([8, 0, 0x45, 0, 0, 20 + rest.len() as u8, 0, 0, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(src);
    packet.extend(dst);
    packet.extend(rest);
    packet.resize(packet.len().max(60), 0);
    packet
}
