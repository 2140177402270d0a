//! The machine code of each form of instruction, as text in `testdata/golden/jit.txt`.
//!
//! `UPDATE=1 cargo test -p earlybird-bpf --lib golden` writes the file anew; look at what changed.

use std::fmt::Write;
use std::path::Path;

use uapi::bpf::*;

use super::*;
use crate::disasm;
use crate::verifier::{InsnFact, Place};

/// R6 is the packet, R2 and R3 are its first two numbers; the form; R2 goes back to the packet.
fn around(form: &[Insn]) -> (Vec<Insn>, Vec<InsnFact>) {
    let mut insns = vec![
        Insn::new(BPF_LDX | BPF_MEM | BPF_W, 6, 1, 0, 0),
        Insn::new(BPF_LDX | BPF_MEM | BPF_DW, 2, 6, 0, 0),
        Insn::new(BPF_LDX | BPF_MEM | BPF_DW, 3, 6, 8, 0),
    ];
    insns.extend(form);
    insns.extend([
        Insn::new(BPF_STX | BPF_MEM | BPF_DW, 6, 2, 16, 0),
        Insn::new(BPF_ALU64 | BPF_MOV, 0, 0, 0, 2),
        Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
    ]);
    let place = |(i, insn): (usize, &Insn)| match (i, insn.class(), insn.dst, insn.src) {
        (0, ..) => Place::Ctx,
        (_, BPF_LDX, _, 10) | (_, BPF_ST | BPF_STX, 10, _) => Place::Stack,
        (_, BPF_LDX | BPF_ST | BPF_STX, ..) => Place::Packet,
        _ => Place::Other,
    };
    let fact = |x| InsnFact { place: place(x), reached: true, ..InsnFact::default() };
    let facts = insns.iter().enumerate().map(fact).collect();
    (insns, facts)
}

/// Both operand sizes, with a register and with numbers of one byte and of four.
fn arithmetic() -> Vec<Vec<Insn>> {
    let ops = [
        (BPF_ADD, 0),
        (BPF_SUB, 0),
        (BPF_MUL, 0),
        (BPF_DIV, 0),
        (BPF_DIV, 1),
        (BPF_MOD, 0),
        (BPF_MOD, 1),
        (BPF_OR, 0),
        (BPF_AND, 0),
        (BPF_XOR, 0),
        (BPF_LSH, 0),
        (BPF_RSH, 0),
        (BPF_ARSH, 0),
        (BPF_MOV, 0),
    ];
    let mut forms = Vec::new();
    for class in [BPF_ALU64, BPF_ALU] {
        for (op, off) in ops {
            forms.push(vec![Insn::new(class | op | BPF_X, 2, 3, off, 0)]);
            forms.push(vec![Insn::new(class | op | BPF_K, 2, 0, off, 7)]);
            if !matches!(op, BPF_LSH | BPF_RSH | BPF_ARSH) {
                forms.push(vec![Insn::new(class | op | BPF_K, 2, 0, off, -70_000)]);
            }
        }
        forms.push(vec![Insn::new(class | BPF_NEG, 2, 0, 0, 0)]);
        let bits: &[i16] = if class == BPF_ALU64 { &[8, 16, 32] } else { &[8, 16] };
        forms.extend(bits.iter().map(|n| vec![Insn::new(class | BPF_MOV | BPF_X, 2, 3, *n, 0)]));
    }
    for bits in [16, 32, 64] {
        forms.push(vec![Insn::new(BPF_ALU | BPF_END | BPF_K, 2, 0, 0, bits)]);
        forms.push(vec![Insn::new(BPF_ALU | BPF_END | BPF_X, 2, 0, 0, bits)]);
        forms.push(vec![Insn::new(BPF_ALU64 | BPF_END, 2, 0, 0, bits)]);
    }
    let wide = |high| vec![Insn::new(BPF_LD | BPF_IMM | BPF_DW, 2, 0, 0, -2), Insn::new(0, 0, 0, 0, high)];
    forms.extend([wide(0), wide(-1), wide(0x1234_5678)]);
    forms
}

fn memory() -> Vec<Vec<Insn>> {
    let mut forms = Vec::new();
    for size in [BPF_B, BPF_H, BPF_W, BPF_DW] {
        forms.push(vec![Insn::new(BPF_LDX | BPF_MEM | size, 2, 6, 21, 0)]);
        if size != BPF_DW {
            forms.push(vec![Insn::new(BPF_LDX | BPF_MEMSX | size, 2, 6, 21, 0)]);
        }
        forms.push(vec![Insn::new(BPF_STX | BPF_MEM | size, 6, 3, 200, 0)]);
        forms.push(vec![Insn::new(BPF_ST | BPF_MEM | size, 6, 0, 200, -5)]);
    }
    for size in [BPF_W, BPF_DW] {
        for op in [BPF_ADD, BPF_AND, BPF_OR, BPF_XOR].map(i32::from) {
            forms.push(vec![Insn::new(BPF_STX | BPF_ATOMIC | size, 6, 2, 24, op)]);
            forms.push(vec![Insn::new(BPF_STX | BPF_ATOMIC | size, 6, 2, 24, op | BPF_FETCH)]);
        }
        forms.push(vec![Insn::new(BPF_STX | BPF_ATOMIC | size, 6, 2, 24, BPF_XCHG)]);
        let expected = Insn::new(BPF_ALU64 | BPF_MOV | BPF_X, 0, 3, 0, 0);
        let result = Insn::new(BPF_ALU64 | BPF_MOV | BPF_X, 2, 0, 0, 0);
        forms.push(vec![expected, Insn::new(BPF_STX | BPF_ATOMIC | size, 6, 2, 24, BPF_CMPXCHG), result]);
    }
    for size in [BPF_B, BPF_H, BPF_W, BPF_DW] {
        forms.push(vec![Insn::new(BPF_STX | BPF_ATOMIC | size, 2, 6, 24, BPF_LOAD_ACQ)]);
        forms.push(vec![Insn::new(BPF_STX | BPF_ATOMIC | size, 6, 2, 24, BPF_STORE_REL)]);
    }
    forms
}

fn jumps() -> Vec<Vec<Insn>> {
    let ops = [
        BPF_JEQ, BPF_JNE, BPF_JGT, BPF_JGE, BPF_JLT, BPF_JLE, BPF_JSGT, BPF_JSGE, BPF_JSLT, BPF_JSLE,
        BPF_JSET,
    ];
    let skipped = Insn::new(BPF_ALU64 | BPF_MOV, 2, 0, 0, 7);
    let mut forms = Vec::new();
    for class in [BPF_JMP, BPF_JMP32] {
        for op in ops {
            forms.push(vec![Insn::new(class | op | BPF_X, 2, 3, 1, 0), skipped]);
            forms.push(vec![Insn::new(class | op | BPF_K, 2, 0, 1, 9), skipped]);
        }
    }
    forms.push(vec![Insn::new(BPF_JMP | BPF_JA, 0, 0, 1, 0), skipped]);
    forms.push(vec![Insn::new(BPF_JMP32 | BPF_JA, 0, 0, 0, 1), skipped]);
    forms.push(vec![Insn::new(BPF_JMP | BPF_JCOND, 0, 0, 1, 0), skipped]);
    forms
}

/// What compilers make of packed headers and rotations, which is joined.
fn joined() -> Vec<Vec<Insn>> {
    let load = |dst, off| Insn::new(BPF_LDX | BPF_MEM | BPF_B, dst, 6, off, 0);
    let shift = |dst, n| Insn::new(BPF_ALU64 | BPF_LSH, dst, 0, 0, n);
    let or = |dst, src| Insn::new(BPF_ALU64 | BPF_OR | BPF_X, dst, src, 0, 0);
    let right = Insn::new(BPF_ALU | BPF_RSH, 3, 0, 0, 19);
    let left = Insn::new(BPF_ALU | BPF_LSH, 2, 0, 0, 13);
    let copy = Insn::new(BPF_ALU64 | BPF_MOV | BPF_X, 3, 2, 0, 0);
    vec![
        vec![load(2, 30), load(3, 31), shift(3, 8), or(2, 3)],
        vec![load(2, 30), load(3, 31), shift(2, 8), or(2, 3)],
        vec![copy, left, right, Insn::new(BPF_ALU | BPF_OR | BPF_X, 2, 3, 0, 0)],
        vec![Insn::new(BPF_ALU64 | BPF_RSH, 2, 0, 0, 12), Insn::new(BPF_ALU64 | BPF_AND, 2, 0, 0, 255)],
        vec![
            load(2, 24),
            Insn::new(BPF_ALU64 | BPF_ADD, 2, 0, 0, 1),
            Insn::new(BPF_STX | BPF_MEM, 6, 2, 24, 0),
        ],
    ]
}

fn listing(form: &[Insn]) -> String {
    let (insns, facts) = around(form);
    let source = Source { facts: Facts { insns: &facts, stack: &[] }, ..Source::bare(&insns) };
    text_of(form, &source)
}

/// Calls of a function of the program, of a helper, of a kernel function, and of a helper that calls back.
fn calls() -> String {
    let call = |src, imm| Insn::new(BPF_JMP | BPF_CALL, 0, src, 0, imm);
    let set = |dst, imm| Insn::new(BPF_ALU64 | BPF_MOV, dst, 0, 0, imm);
    let add = Insn::new(BPF_ALU64 | BPF_ADD | BPF_X, 0, 6, 0, 0);
    let keep = Insn::new(BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0);
    let exit = Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    let body = [set(0, 7), Insn::new(BPF_ALU64 | BPF_ADD | BPF_X, 0, 1, 0, 0), exit];
    let mut text = String::new();
    for (made, called_back) in [
        (call(BPF_PSEUDO_CALL, 2), &[][..]),
        (call(0, func::KTIME_GET_NS), &[]),
        (call(BPF_PSEUDO_KFUNC_CALL, 0), &[]),
        (call(0, func::LOOP), &[5]),
    ] {
        let insns = [&[keep, set(1, 1), made, add, exit][..], &body].concat();
        let fact = InsnFact { reached: true, place: Place::Other, ..InsnFact::default() };
        let facts = vec![fact; insns.len()];
        // Helpers are within reach of a call, kernel functions anywhere.
        let near = crate::vm::abi_in_test().call_kfunc;
        let (helper, kfunc) = (&|_| Some(near), &|_| Some(0x5566_7788));
        let source = Source {
            facts: Facts { insns: &facts, stack: &[] },
            functions: &[0, 5],
            called_back,
            helper,
            kfunc,
            ..Source::bare(&insns)
        };
        text += &text_of(&insns, &source);
        text.push('\n');
    }
    text
}

/// Where code and helpers lie is another place each time.
fn without_addresses(line: &str) -> String {
    match line.split_once("call ") {
        Some((before, to)) if to.len() > 12 && to.starts_with(|c: char| c.is_ascii_digit()) => {
            let far = !to.starts_with("000000000000");
            if far { format!("{before}call helpers") } else { line.to_owned() }
        }
        _ => line.to_owned(),
    }
}

fn text_of(form: &[Insn], source: &Source<'_>) -> String {
    let all = Features { bmi2: true, movbe: true, sse42: true };
    let compiled = compile(source, all).unwrap_or_else(|e| panic!("{form:?}: {e}"));
    let mut text = String::new();
    let mut slots = form.iter().enumerate();
    while let Some((i, insn)) = slots.next() {
        let _ = writeln!(text, "{}", disasm::disassemble(insn, form.get(i + 1), None));
        if insn.is_ld_imm64() {
            slots.next();
        }
    }
    let code = disassemble(&compiled.code()[..compiled.batch as usize]);
    for line in code.lines().map(|line| line[5..].trim()).filter(|line| !line.starts_with("nop")) {
        let _ = writeln!(text, "    {}", without_addresses(line));
    }
    text
}

#[test]
fn machine_code_of_each_form_is_what_it_was() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/jit.txt");
    let forms = [arithmetic(), memory(), jumps(), joined()].concat();
    let forms: String = forms.iter().map(|form| listing(form) + "\n").collect();
    let text = forms + &calls();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().expect("it has a folder")).expect("the folder");
        std::fs::write(&path, &text).expect("the file");
        return;
    }
    let golden = std::fs::read_to_string(&path).expect("testdata/golden/jit.txt");
    let first = golden.split("\n\n").zip(text.split("\n\n")).find(|(a, b)| a != b);
    if let Some((old, new)) = first {
        panic!("UPDATE=1 writes it anew. The first difference is\n{old}\nnow\n{new}");
    }
    assert_eq!(golden.len(), text.len(), "forms are missing");
}
