//! Strings, numbers, printing.

use super::{Case, homes};

/// Addresses where nothing is. Which of those between are taken for the kernel's depends on the CPU.
const WILD: &[&str] = &["0", "8", "0x7fffffffe000", "0x4000000000000000", "-8"];

/// `bpf_snprintf` of a format into a buffer on the stack, which then goes into the packet.
fn snprintf(format: &str, args: &str, count: usize, size: usize) -> Case {
    let fill: String = (0..8).map(|i| format!("stdw [%r10-{}], 0x5a5a5a5a\n", 192 - 8 * i)).collect();
    let text = format!(
        "{fill}{args}
         mov %r1, %r10
         add %r1, -192
         mov %r2, {size}
         lddw %r3, value 0 0
         mov %r4, %r10
         add %r4, -96
         mov %r5, {}
         call 165
         mov %r7, %r0
         mov %r1, %r6
         mov %r2, 0
         mov %r3, %r10
         add %r3, -192
         mov %r4, 64
         call 190
         mov %r1, %r6
         mov %r2, -8
         call 44
         mov %r0, %r7",
        count * 8
    );
    Case::new(text).rodata(
        &[format.as_bytes(), b"\0hello\0\xc0\xa8\x01\x02\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0"].concat(),
    )
}

/// Arguments for a format: numbers as they are, `@n` for the address of byte `n` behind the format.
fn arguments(format: &str, args: &[&str]) -> String {
    let one = |(i, arg): (usize, &&str)| {
        let value = match arg.strip_prefix('@') {
            Some(n) => format!("value 0 {}", format.len() + 1 + n.parse::<usize>().expect("a number")),
            None => (*arg).to_owned(),
        };
        format!("lddw %r1, {value}\nstxdw [%r10-{}], %r1\n", 96 - 8 * i)
    };
    args.iter().enumerate().map(one).collect()
}

#[test]
fn printing_agrees_with_the_kernel() {
    linux::needs_kernel!();
    let mut homes = homes();
    for (format, args) in [
        ("plain", &[][..]),
        ("100%%", &[]),
        ("%d %u %i", &["-1", "-1", "0x1ffffffff"]),
        ("%ld %lu %lld %llu", &["-1", "-1", "-2", "-2"]),
        ("%x %X %lx %lX", &["0xabcdef", "0xabcdef", "-1", "0xabc"]),
        ("[%5d|%-5d|%05d|%+d|% d]", &["42", "42", "42", "42", "42"]),
        ("[%5d|%-5d|%05d|%+d|% d]", &["-42", "-42", "-42", "-42", "-42"]),
        ("[%-05d|%+5d|% 05d|%0+5x]", &["42", "42", "42", "42"]),
        ("[%10x|%-10X|%010x]", &["0xab", "0xab", "0xab"]),
        ("[%s|%10s|%-10s|%3s]", &["@0", "@0", "@0", "@0"]),
        ("[%c|%3c|%-3c|%c]", &["65", "66", "67", "0x141"]),
        ("%s%c%s", &["@0", "65", "@0"]),
        ("%c%d%c%ld", &["65", "1", "66", "2"]),
        ("%pI4 %pi4", &["@6", "@6"]),
        ("%pI6", &["@10"]),
        ("%pi6", &["@10"]),
        ("%pI4abc def", &["@6"]),
        ("%pI6c!", &["@10"]),
        ("%px", &["0x1234"]),
        ("[%20px]", &["0x1234"]),
        ("[%-20px|%5px]", &["0x1234", "0x1234"]),
        ("%p %p", &["0", "-1"]),
        ("%pK", &["0"]),
        ("%pks!", &["@0"]),
        ("%pus!", &["@0"]),
        ("%s", &["8"]),
        ("%pI4", &["8"]),
        ("%ps %pS", &["0x1234", "0x1234"]),
        ("[%20ps|%-20pS]", &["0x1234", "0x1234"]),
        ("%pB", &["0x1234"]),
    ] {
        for size in [64, 5, 1, 0] {
            homes.run(&snprintf(format, &arguments(format, args), args.len(), size));
        }
    }
}

fn strtox(id: u32, text: &str, flags: u64) -> Case {
    let code = format!(
        "lddw %r1, value 0 0
         mov %r2, {}
         lddw %r3, {flags}
         mov %r4, %r10
         add %r4, -8
         call {id}
         mov %r7, %r0
         mov %r1, %r6
         mov %r2, 8
         mov %r3, %r10
         add %r3, -8
         mov %r4, 8
         call 190
         mov %r0, %r7",
        text.len()
    );
    Case::new(code).rodata(text.as_bytes())
}

#[test]
fn numbers_agree_with_the_kernel() {
    linux::needs_kernel!();
    let mut homes = homes();
    for text in [
        "0",
        "7",
        "-7",
        "+7",
        " \t\n7",
        "- 7",
        "0x1F",
        "0X1f",
        "0xg",
        "0x",
        "017",
        "08",
        "123abc",
        "",
        "  ",
        "-",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "-9223372036854775809",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999999999999999999999999999999999",
        "000000000000000000000000000000000000000000000000000000000000000000000000000000001",
        "12\x0034",
        "\u{a0}5",
    ] {
        if text.is_empty() {
            continue;
        }
        for flags in [0, 8, 10, 16, 2, 32, 1 << 40] {
            for id in [105, 106] {
                homes.answer(&strtox(id, text, flags));
            }
        }
    }
}

#[test]
fn comparing_agrees_with_the_kernel() {
    linux::needs_kernel!();
    let mut homes = homes();
    for (left, len) in
        [("abc\0", 4), ("abd\0", 4), ("abb\0", 3), ("ab\0c", 4), ("abcd", 4), ("abcd", 3), ("\u{ff}bc", 3)]
    {
        let text = format!("lddw %r1, value 0 0\nmov %r2, {len}\nlddw %r3, value 0 {}\ncall 182", left.len());
        homes.answer(&Case::new(text).rodata(format!("{left}abc\0").as_bytes()));
    }
}

#[test]
fn string_functions_agree_with_the_kernel() {
    linux::needs_kernel!();
    let mut homes = homes();
    // Offsets: "hello" 0, "HeLLo" 6, "ll" 12, "" 15, "help" 16, "xyz" 21, "\xe9\xc9" 25.
    let rodata = b"hello\0HeLLo\0ll\0\0help\0xyz\0\xe9\xc9\0\xc9\xe9\0";
    let at = [0, 6, 12, 15, 16, 21, 25, 28];
    let two = ["bpf_strcmp", "bpf_strcasecmp", "bpf_strspn", "bpf_strcspn", "bpf_strstr"];
    for name in two {
        for a in at {
            for b in at {
                let text = format!("lddw %r1, value 0 {a}\nlddw %r2, value 0 {b}\ncall runtime 0");
                homes.answer(&Case::new(text).kfuncs(&[name]).rodata(rodata));
            }
        }
    }
    let with_number = ["bpf_strchr", "bpf_strchrnul", "bpf_strrchr", "bpf_strnlen"];
    for name in with_number {
        for a in at {
            for n in [0, 1, 2, 5, 6, 0x6c, 0x78, 0xe9, 0x16c, -1] {
                let text = format!("lddw %r1, value 0 {a}\nmov %r2, {n}\ncall runtime 0");
                homes.answer(&Case::new(text).kfuncs(&[name]).rodata(rodata));
            }
        }
    }
    for a in at {
        for (n, c) in [(0, 0x6c), (2, 0x6c), (3, 0x6c), (99, 0x78), (99, 0)] {
            let text = format!("lddw %r1, value 0 {a}\nmov %r2, {n}\nmov %r3, {c}\ncall runtime 0");
            homes.answer(&Case::new(text).kfuncs(&["bpf_strnchr"]).rodata(rodata));
        }
        for b in at {
            for n in [0, 1, 3, 4, 5, 99] {
                let text =
                    format!("lddw %r1, value 0 {a}\nlddw %r2, value 0 {b}\nmov %r3, {n}\ncall runtime 0");
                homes.answer(&Case::new(text).kfuncs(&["bpf_strnstr"]).rodata(rodata));
            }
        }
        let text = format!("lddw %r1, value 0 {a}\ncall runtime 0");
        homes.answer(&Case::new(text).kfuncs(&["bpf_strlen"]).rodata(rodata));
    }
    for wild in WILD {
        let text = format!("lddw %r1, {wild}\ncall runtime 0");
        homes.answer(&Case::new(text).kfuncs(&["bpf_strlen"]).rodata(rodata));
    }
}

#[test]
fn probing_agrees_with_the_kernel() {
    linux::needs_kernel!();
    let mut homes = homes();
    for id in [112, 113, 114, 115] {
        for from in ["value 0 0", "value 0 3"].iter().chain(WILD) {
            for size in [1, 3, 8] {
                let text = format!(
                    "stdw [%r10-8], -1
                     mov %r1, %r10
                     add %r1, -8
                     mov %r2, {size}
                     lddw %r3, {from}
                     call {id}
                     mov %r7, %r0
                     mov %r1, %r6
                     mov %r2, 8
                     mov %r3, %r10
                     add %r3, -8
                     mov %r4, 8
                     call 190
                     mov %r0, %r7"
                );
                homes.answer(&Case::new(text).rodata(b"hello\0world, this is long enough"));
            }
        }
    }
}
