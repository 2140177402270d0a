//! The packet's ends and bytes.

use uapi::bpf::func;

use super::{Case, homes};

/// Calls of helpers with the context and a number each; the answer is that of the last.
fn sequence(calls: &[(i32, i32)]) -> String {
    let one = |(id, arg): &(i32, i32)| format!("mov %r1, %r6\nmov %r2, {arg}\ncall {id}\n");
    calls.iter().map(one).collect()
}

#[test]
fn adjusting_agrees_with_the_kernel() {
    linux::needs_kernel!();
    let (head, meta, tail) = (func::XDP_ADJUST_HEAD, func::XDP_ADJUST_META, func::XDP_ADJUST_TAIL);
    let mut homes = homes();
    let mut lists: Vec<(usize, Vec<(i32, i32)>)> = Vec::new();
    for n in [-217, -216, -1, 0, 1, 50, 51, 64, i32::MIN, i32::MAX] {
        lists.push((64, vec![(head, n)]));
        lists.push((9000, vec![(head, n)]));
        lists.push((64, vec![(meta, -32), (head, n)]));
    }
    for n in [-256, -252, -220, -216, -212, -36, -32, -4, -3, -1, 0, 1, 4, i32::MIN, i32::MAX] {
        lists.push((64, vec![(meta, n)]));
        lists.push((64, vec![(meta, -32), (meta, n)]));
        lists.push((64, vec![(head, 4), (meta, n)]));
    }
    for n in [-64, -51, -50, -1, 0, 1, 3456, 3457, i32::MIN, i32::MAX] {
        lists.push((64, vec![(tail, n)]));
        lists.push((64, vec![(tail, -20), (tail, n)]));
    }
    for n in [-8987, -8986, -5481, -5480, -5479, -1, 0, 1, 2712, 2713, i32::MIN, i32::MAX] {
        lists.push((9000, vec![(tail, n)]));
        lists.push((9000, vec![(tail, -5480), (tail, n)]));
        lists.push((3520 + 4096, vec![(tail, n)]));
    }
    for n in [-185, -184] {
        lists.push((64, vec![(meta, -32), (head, n), (meta, 16), (head, 1)]));
    }
    for (size, list) in lists {
        homes.answer(&Case::new(sequence(&list)).packet(size));
    }
}

#[test]
fn loads_and_stores_agree_with_the_kernel() {
    linux::needs_kernel!();
    let mut homes = homes();
    for id in [func::XDP_LOAD_BYTES, func::XDP_STORE_BYTES] {
        for (offset, len, size) in [
            (0, 64, 64),
            (63, 1, 64),
            (63, 2, 64),
            (64, 1, 64),
            (0x10000, 1, 64),
            (0xffff, 1, 64),
            (0xffff_ffff_u32, 1, 64),
            (3500, 64, 9000),
            (3519, 2, 9000),
            (8990, 10, 9000),
            (8990, 11, 9000),
            (7600, 64, 9000),
        ] {
            let fill: String = (0..8).map(|i| format!("stdw [%r10-{}], 0x4141\n", 64 - 8 * i)).collect();
            let text = format!(
                "{fill}
                 mov %r1, %r6
                 mov32 %r2, {offset:#x}
                 mov %r3, %r10
                 add %r3, -64
                 mov %r4, {len}
                 call {id}"
            );
            homes.answer(&Case::new(text).packet(size));
        }
    }
}

#[test]
fn pulling_data_agrees_with_the_kernel() {
    linux::needs_kernel!();
    let mut homes = homes();
    for (len, size, linear) in [
        (33, 64, 32),
        (64, 64, 32),
        (65, 64, 32),
        (14, 64, 0),
        (3520, 9000, 3520),
        (3736, 9000, 3520),
        (3737, 9000, 3520),
        (3736, 9000, 14),
        (0, 64, 32),
        (-1, 64, 32),
    ] {
        for before in ["", "mov %r1, %r6\nmov %r2, -32\ncall 54", "mov %r1, %r6\nmov %r2, -50\ncall 44"] {
            let text = format!("{before}\nmov %r1, %r6\nmov %r2, {len}\ncall runtime 0");
            let case = Case::new(text).kfuncs(&["bpf_xdp_pull_data"]).packet(size).linear(linear);
            homes.answer(&case);
        }
    }
}

#[test]
fn checksums_agree_with_the_kernel() {
    linux::needs_kernel!();
    let mut homes = homes();
    for seed in ["0", "1", "0xffff", "0xffffffff", "0x12345678", "-1"] {
        for (from, to) in [(0, 4), (4, 0), (4, 4), (0, 3), (5, 7), (0, 0), (16, 16), (1, 1), (33, 2)] {
            let end = |reg: u8, offset: i32, len: i32| match len {
                0 => format!("mov %r{reg}, 0\nmov %r{}, 0\n", reg + 1),
                _ => format!("mov %r{reg}, %r10\nadd %r{reg}, {offset}\nmov %r{}, {len}\n", reg + 1),
            };
            let fill: String = (1..=10)
                .map(|i| {
                    format!(
                        "lddw %r1, {:#x}\nstxdw [%r10-{}], %r1\n",
                        0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(i),
                        8 * i
                    )
                })
                .collect();
            let text = format!("{fill}{}{}lddw %r5, {seed}\ncall 28", end(1, -80, from), end(3, -40, to));
            homes.answer(&Case::new(text));
        }
    }
    for text in ["0xffffffffffffffff", "0"] {
        let same = format!(
            "lddw %r1, {text}\nstxdw [%r10-8], %r1\nmov %r1, %r10\nadd %r1, -8\nmov %r2, 8\n
             mov %r3, %r1\nmov %r4, 8\nmov %r5, 0\ncall 28"
        );
        homes.answer(&Case::new(same));
    }
}

#[test]
fn redirects_agree_with_the_kernel() {
    linux::needs_kernel!();
    let mut homes = homes();
    for (ifindex, flags) in [(1, 0), (0, 0), (-1, 0), (1, 1), (1, 1 << 20)] {
        homes.answer(&Case::new(format!("mov %r1, {ifindex}\nmov %r2, {flags}\ncall 23")));
    }
}
