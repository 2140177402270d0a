//! Dynptrs, iterators, loops, rings.

use uapi::bpf::{MapType, func};

use super::{Case, homes, map};

const DYNPTR: [&str; 10] = [
    "bpf_dynptr_from_xdp",
    "bpf_dynptr_slice",
    "bpf_dynptr_slice_rdwr",
    "bpf_dynptr_adjust",
    "bpf_dynptr_size",
    "bpf_dynptr_is_null",
    "bpf_dynptr_is_rdonly",
    "bpf_dynptr_clone",
    "bpf_dynptr_copy",
    "bpf_dynptr_memset",
];

/// A dynptr of the packet at -16, and calls with it.
fn on_packet(calls: &str) -> Case {
    let text = format!(
        "mov %r1, %r6
         mov %r2, 0
         mov %r3, %r10
         add %r3, -16
         call runtime 0
         {calls}"
    );
    Case::new(text).kfuncs(&DYNPTR)
}

/// Calls kfunc `n` with the dynptr and numbers.
fn dynptr_call(n: usize, numbers: &[&str]) -> String {
    let rest: String = numbers.iter().enumerate().map(|(i, v)| format!("lddw %r{}, {v}\n", i + 2)).collect();
    format!("mov %r1, %r10\nadd %r1, -16\n{rest}call runtime {n}\n")
}

/// Calls kfunc `n`, which answers `bool`: the rest of the register has no meaning.
fn dynptr_asks(n: usize) -> String {
    dynptr_call(n, &[]) + "and %r0, 0xff\n"
}

#[test]
fn dynptrs_of_packets_agree_with_the_kernel() {
    linux::needs_kernel!();
    let mut homes = homes();
    let mut calls = vec![dynptr_call(4, &[]), dynptr_asks(5), dynptr_asks(6)];
    for (start, end) in [("0", "10"), ("10", "5"), ("0", "65"), ("64", "64"), ("65", "65"), ("-1", "-1")] {
        calls.push(format!(
            "{}mov %r7, %r0\n{}mov %r0, %r7",
            dynptr_call(3, &[start, end]),
            dynptr_call(4, &[])
        ));
        calls.push(format!("{}{}", dynptr_call(3, &[start, end]), dynptr_call(4, &[])));
    }
    for (offset, size) in
        [("0", "64"), ("1", "64"), ("60", "4"), ("20", "20"), ("-1", "2"), ("0", "0"), ("64", "0")]
    {
        calls.push(dynptr_call(9, &[offset, size, "0xab"]));
    }
    for call in calls {
        for linear in [64, 32, 14] {
            homes.answer(&on_packet(&call).linear(linear));
        }
    }
}

#[test]
fn reading_and_writing_dynptrs_agrees_with_the_kernel() {
    linux::needs_kernel!();
    let mut homes = homes();
    for (offset, len, flags) in
        [(0, 64, 0), (1, 64, 0), (30, 8, 0), (63, 1, 0), (64, 1, 0), (-1, 1, 0), (0, 1, 1), (10, 40, 0)]
    {
        for linear in [64, 32] {
            let fill: String = (0..8).map(|i| format!("stdw [%r10-{}], 0x4242\n", 96 - 8 * i)).collect();
            let read = format!(
                "{fill}mov %r1, %r10\nadd %r1, -96\nmov %r2, {len}\nmov %r3, %r10\nadd %r3, -16\n
                 mov %r4, {offset}\nmov %r5, {flags}\ncall 201\nmov %r7, %r0\n
                 mov %r1, %r10\nadd %r1, -16\nmov %r2, 0\nmov %r3, %r10\nadd %r3, -96\nmov %r4, 64\nmov %r5, 0\ncall 202
                 mov %r0, %r7"
            );
            homes.answer(&on_packet(&read).linear(linear));
            let write = format!(
                "{fill}mov %r1, %r10\nadd %r1, -16\nmov %r2, {offset}\nmov %r3, %r10\nadd %r3, -96\n
                 mov %r4, {len}\nmov %r5, {flags}\ncall 202"
            );
            homes.answer(&on_packet(&write).linear(linear));
        }
    }
}

#[test]
fn slices_agree_with_the_kernel() {
    linux::needs_kernel!();
    let mut homes = homes();
    for (offset, len) in [(0, 8), (28, 8), (32, 8), (56, 8), (57, 8), (40, 16), (16, 16)] {
        for (n, buffer) in [(1, true), (1, false), (2, true), (2, false)] {
            let pointer = if buffer { "mov %r3, %r10\nadd %r3, -48" } else { "mov %r3, 0" };
            let fill: String = (0..4).map(|i| format!("stdw [%r10-{}], 0\n", 48 - 8 * i)).collect();
            // Null answers 1, else the first byte.
            let text = format!(
                "{fill}mov %r1, %r10\nadd %r1, -16\nmov %r2, {offset}\n{pointer}\nmov %r4, {len}\ncall runtime {n}
                 mov %r1, %r0
                 mov %r0, 1000
                 jeq %r1, 0, none
                 ldxb %r0, [%r1+{}]
                 none:",
                len - 1
            );
            for linear in [64, 32] {
                homes.answer(&on_packet(&text).linear(linear));
            }
        }
    }
}

#[test]
fn copying_dynptrs_agrees_with_the_kernel() {
    linux::needs_kernel!();
    let mut homes = homes();
    let array = map("array", MapType::Array, 4, 600, 1, 0);
    for (to_packet, dst, src, size) in [
        (true, 100, 0, 600),
        (true, 3000, 1, 599),
        (true, 0, 1, 600),
        (false, 0, 3300, 600),
        (false, 1, 0, 600),
        (false, 0, 8400, 600),
        (false, 0, 8401, 600),
        (true, 8400, 0, 600),
    ] {
        let (first, second) = if to_packet { (-16, -32) } else { (-32, -16) };
        let text = format!(
            "stw [%r10-40], 0
             lddw %r1, map 0
             mov %r2, %r10
             add %r2, -40
             call 1
             jne %r0, 0, found
             mov %r0, 0
             exit
             found:
             mov %r1, %r0
             stdw [%r1+8], 0x1234
             stb [%r1+599], 0x77
             mov %r2, 600
             mov %r3, 0
             mov %r4, %r10
             add %r4, -32
             call 197
             mov %r1, %r10
             add %r1, {first}
             mov %r2, {dst}
             mov %r3, %r10
             add %r3, {second}
             mov %r4, {src}
             mov %r5, {size}
             call runtime 8"
        );
        let case = on_packet(&text).packet(9000);
        homes.answer(&Case { maps: vec![array.clone()], ..case });
    }
}

#[test]
fn null_dynptrs_agree_with_the_kernel() {
    linux::needs_kernel!();
    let mut homes = homes();
    let null = |calls: &str| {
        let text = format!("mov %r1, %r6\nmov %r2, 1\nmov %r3, %r10\nadd %r3, -16\ncall runtime 0\n{calls}");
        Case::new(text).kfuncs(&DYNPTR)
    };
    let mut calls = vec![String::new(), dynptr_call(4, &[]), dynptr_asks(5), dynptr_asks(6)];
    calls.push(dynptr_call(3, &["0", "0"]));
    for (offset, size) in [("0", "0"), ("0", "1"), ("1", "0")] {
        calls.push(dynptr_call(9, &[offset, size, "0"]));
        calls.push(format!(
            "mov %r1, %r10\nadd %r1, -16\nlddw %r2, {offset}\nmov %r3, %r10\nadd %r3, -16\nlddw %r4, {offset}\nlddw %r5, {size}\ncall runtime 8"
        ));
    }
    for call in calls {
        homes.answer(&null(&call));
    }
}

#[test]
fn iterating_numbers_agrees_with_the_kernel() {
    linux::needs_kernel!();
    let mut homes = homes();
    for (start, end) in [
        (0, 5),
        (-3, 3),
        (5, 5),
        (6, 5),
        (0, 8 << 20),
        (0, (8 << 20) + 1),
        (i32::MIN, 0),
        (i32::MAX - 2, i32::MAX),
    ] {
        let text = format!(
            "mov %r1, %r10
             add %r1, -8
             mov32 %r2, {start}
             mov32 %r3, {end}
             call runtime 0
             mov %r7, %r0
             mov %r8, 0
             again:
             mov %r1, %r10
             add %r1, -8
             call runtime 1
             jeq %r0, 0, done
             ldxw %r1, [%r0]
             add %r8, %r1
             ja again
             done:
             mov %r1, %r10
             add %r1, -8
             call runtime 2
             lsh %r8, 32
             mov %r0, %r7
             xor %r0, %r8"
        );
        homes.answer(&Case::new(text).kfuncs(&[
            "bpf_iter_num_new",
            "bpf_iter_num_next",
            "bpf_iter_num_destroy",
        ]));
    }
}

#[test]
fn iterating_bits_agrees_with_the_kernel() {
    linux::needs_kernel!();
    let mut homes = homes();
    let rodata: Vec<u8> = [5_u64, 1 << 63, 0, 0x8000_0001].iter().flat_map(|w| w.to_le_bytes()).collect();
    for (from, words) in [
        ("value 0 0", 1),
        ("value 0 0", 4),
        ("value 0 8", 3),
        ("value 0 16", 1),
        ("value 0 0", 0),
        ("value 0 0", 512),
        ("0", 1),
        ("8", 1),
        ("8", 2),
        ("-8", 2),
    ] {
        let text = format!(
            "mov %r1, %r10
             add %r1, -16
             lddw %r2, {from}
             mov32 %r3, {words}
             call runtime 0
             mov %r7, %r0
             mov %r8, 0
             again:
             mov %r1, %r10
             add %r1, -16
             call runtime 1
             jeq %r0, 0, done
             ldxw %r1, [%r0]
             add %r1, 1
             add %r8, %r1
             ja again
             done:
             mov %r1, %r10
             add %r1, -16
             call runtime 2
             lsh %r8, 32
             mov %r0, %r7
             xor %r0, %r8"
        );
        let names = ["bpf_iter_bits_new", "bpf_iter_bits_next", "bpf_iter_bits_destroy"];
        homes.answer(&Case::new(text).kfuncs(&names).rodata(&rodata));
    }
}

#[test]
fn rings_agree_with_the_kernel() {
    linux::needs_kernel!();
    let mut homes = homes();
    let ring = map("ring", MapType::Ringbuf, 0, 0, 4096, 0);
    let with_ring = |text: String| Case { maps: vec![ring.clone()], ..Case::new(text) };
    for (size, flags) in [(8, 0), (8, 1), (8, 2), (8, 4), (512, 0), (1, 0)] {
        let text = format!(
            "{}lddw %r1, map 0\nmov %r2, %r10\nadd %r2, -504\nmov %r3, {}\nmov %r4, {flags}\ncall {}",
            (0..63).map(|i| format!("stdw [%r10-{}], {i}\n", 504 - 8 * i)).collect::<String>(),
            size.min(504),
            func::RINGBUF_OUTPUT
        );
        homes.answer(&with_ring(text));
    }
    for what in [0, 1, 2, 3, 4, 99] {
        let text = format!(
            "stdw [%r10-8], 7\nlddw %r1, map 0\nmov %r2, %r10\nadd %r2, -8\nmov %r3, 8\nmov %r4, 0\ncall {}
             lddw %r1, map 0\nmov %r2, {what}\ncall {}",
            func::RINGBUF_OUTPUT,
            func::RINGBUF_QUERY
        );
        homes.answer(&with_ring(text));
    }
    for (size, flags, finish) in [
        (8, 0, func::RINGBUF_SUBMIT_DYNPTR),
        (8, 0, func::RINGBUF_DISCARD_DYNPTR),
        (8, 1, func::RINGBUF_SUBMIT_DYNPTR),
        (5000, 0, func::RINGBUF_DISCARD_DYNPTR),
        (1 << 24, 0, func::RINGBUF_DISCARD_DYNPTR),
    ] {
        let text = format!(
            "lddw %r1, map 0\nmov %r2, {size}\nmov %r3, {flags}\nmov %r4, %r10\nadd %r4, -16\ncall {}
             mov %r7, %r0
             stdw [%r10-24], 0x77
             mov %r1, %r10\nadd %r1, -16\nmov %r2, 0\nmov %r3, %r10\nadd %r3, -24\nmov %r4, 8\nmov %r5, 0\ncall {}
             mov %r1, %r10\nadd %r1, -16\nmov %r2, 0\ncall {finish}
             mov %r0, %r7",
            func::RINGBUF_RESERVE_DYNPTR,
            func::DYNPTR_WRITE
        );
        homes.answer(&with_ring(text));
    }
}

#[test]
fn perf_samples_agree_with_the_kernel() {
    linux::needs_kernel!();
    let mut homes = homes();
    let perf = map("perf", MapType::PerfEventArray, 4, 4, linux::sys::possible_cpus(), 0);
    for (flags, len) in [
        ("0xffffffff", 4),
        ("0", 4),
        ("0xffffffff", 8),
        ("0x3ffffffff", 4),
        ("0x40ffffffff", 4),
        ("0x41ffffffff", 4),
        ("0x100000000000ff", 4),
        ("0x63", 4),
        ("0x10000000000000", 4),
    ] {
        let text = format!(
            "stdw [%r10-8], 0x12345678\nmov %r1, %r6\nlddw %r2, map 0\nlddw %r3, {flags}\nmov %r4, %r10\nadd %r4, -8\nmov %r5, {len}\ncall 25"
        );
        homes.answer(&Case { maps: vec![perf.clone()], ..Case::new(text) });
    }
}
