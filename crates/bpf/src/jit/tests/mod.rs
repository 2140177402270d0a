//! Compiled programs against the checked interpreter.

mod generate;
mod golden;

use std::sync::Arc;

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use mem::{Frame, RxqInfo, XdpBuff};
use uapi::bpf::{BPF_ALU, BPF_ALU64, BPF_JA, BPF_JMP, BPF_LDX, BPF_MOV};

use self::generate::{Generated, Rng};
use super::*;
use crate::host::{Clock, Host};
use crate::object::{ProgramSpec, Subprog};
use crate::redirect::RedirectInfo;
use crate::vm::{Program, Run, Scratch, Symbols, run_in_test};

const RXQ: RxqInfo = RxqInfo { ifindex: 7, queue_index: 3, mem_type: 0, frag_size: 4096 };
const PACKET: usize = 256;

struct NoHost;

impl Host for NoHost {
    fn ktime_ns(&mut self, _: Clock) -> u64 {
        0
    }

    fn prandom_u32(&mut self) -> u32 {
        0
    }
}

fn buff(seed: u64) -> XdpBuff<'static> {
    let buff = XdpBuff::new(Frame::new(4096), 256, PACKET, &RXQ).expect("it fits");
    let mut rng = Rng::new(seed);
    for i in 0..PACKET {
        buff.linear().write_u8(i, rng.next() as u8);
    }
    buff
}

/// R0 and the packet after a run; `None` if the program does what it may not do.
fn interpret(program: &Arc<Program>, seed: u64) -> Option<(u64, Vec<u8>)> {
    let mut buff = buff(seed);
    let (mut scratch, mut redirect) = (Scratch::new(), RedirectInfo::default());
    let (mut host, guard) = (NoHost, mem::epoch::pin());
    let mut run =
        Run::checked(program, &guard, &mut scratch, &mut buff, &mut redirect, &mut host).with_fuel(100_000);
    let result = run.execute().ok()?;
    drop(run);
    Some((result, buff.linear().to_vec()))
}

fn link(g: &Generated) -> Arc<Program> {
    let mut spec = ProgramSpec::bare("generated", g.insns.clone());
    spec.subprogs = g
        .functions
        .iter()
        .map(|start| Subprog { name: format!("f{start}"), start: *start, btf: None, is_global: false })
        .collect();
    let symbols = Symbols { helper: |_| None, kfunc: |_| None };
    Arc::new(Program::link(&spec, 1, &[], symbols).unwrap_or_else(|e| panic!("{e}")))
}

fn source<'a>(g: &'a Generated) -> Source<'a> {
    let facts = Facts { insns: &g.facts, stack: &[] };
    Source { functions: &g.functions, facts, ..Source::bare(&g.insns) }
}

/// Machine code as text.
fn disassemble(code: &[u8]) -> String {
    let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
    let mut formatter = IntelFormatter::new();
    let mut text = String::new();
    while decoder.can_decode() {
        let insn = decoder.decode();
        text.push_str(&format!("{:5x}  ", insn.ip()));
        formatter.format(&insn, &mut text);
        text.push('\n');
    }
    text
}

/// The first input for which compiled code and the interpreter differ, and how.
fn difference(g: &Generated, cpu: Features) -> Option<String> {
    let program = link(g);
    let compiled = compile(&source(g), cpu).unwrap_or_else(|e| panic!("{e}"));
    for input in 0..inputs() {
        let expected = interpret(&program, input)?;
        let mut buff = buff(input);
        let result = run_in_test(&compiled, &mut buff);
        let got = (result, buff.linear().to_vec());
        if got != expected {
            let at = (0..PACKET).find(|i| got.1[*i] != expected.1[*i]);
            let code = disassemble(compiled.code());
            let (r0, e0) = (got.0, expected.0);
            return Some(format!("input {input}: r0 {r0:#x}, not {e0:#x}; first wrong byte {at:?}\n{code}"));
        }
    }
    None
}

/// Leaves out every instruction that the difference does not need.
fn reduce(g: &mut Generated, cpu: Features) -> String {
    let nop = Insn::new(BPF_JMP | BPF_JA, 0, 0, 0, 0);
    let mut last = difference(g, cpu).expect("there is one");
    for i in (8..g.insns.len()).rev() {
        let old = g.insns[i];
        if old.is_exit() || old.code == 0 || old.is_ld_imm64() || old == nop {
            continue;
        }
        let writes = matches!(old.class(), BPF_ALU | BPF_ALU64 | BPF_LDX);
        // Pointers differ between engines, so no register may keep one for longer than it did.
        g.insns[i] = if writes { Insn::new(BPF_ALU64 | BPF_MOV, old.dst, 0, 0, 5) } else { nop };
        match difference(g, cpu) {
            Some(text) => last = text,
            None => g.insns[i] = old,
        }
    }
    let lines = g.insns.iter().enumerate().filter(|(_, x)| **x != nop);
    let listing: Vec<String> = lines.map(|(i, x)| format!("{i:4} {x:?}")).collect();
    format!("{}\n{last}", listing.join("\n"))
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |n| n.parse().unwrap_or_else(|e| panic!("{name}={n}: {e}")))
}

/// Packets that each program is run over.
fn inputs() -> u64 {
    setting("JIT_INPUTS", 4)
}

fn check(seed: u64, cpu: Features) {
    let mut g = generate::program(seed);
    let program = link(&g);
    assert!((0..3).all(|input| interpret(&program, input).is_some()), "seed {seed} is no good program");
    if difference(&g, cpu).is_some() {
        panic!("seed {seed}:\n{}", reduce(&mut g, cpu));
    }
}

/// Registers that callers keep things in, by their names of 64 and 32 bits.
const KEPT: [(&str, &str); 6] =
    [("rbx", "ebx"), ("rbp", "ebp"), ("r12", "r12d"), ("r13", "r13d"), ("r14", "r14d"), ("r15", "r15d")];

/// The usual path of the entry function saves each register that it writes and that is its caller's.
#[test]
fn what_belongs_to_the_caller_is_saved() {
    for seed in (0..600).chain([390]) {
        let g = generate::program(seed);
        let compiled = compile(&source(&g), Features::BASELINE).unwrap_or_else(|e| panic!("{e}"));
        let text = disassemble(compiled.code());
        let lines: Vec<&str> = text.lines().map(|l| l[5..].trim()).take_while(|l| *l != "ret").collect();
        for (name, half) in KEPT {
            let writes = |l: &&str| {
                let (mnemonic, operands) = l.split_once(' ').unwrap_or((l, ""));
                let first = operands.split(',').next().unwrap_or("");
                !matches!(mnemonic, "push" | "pop" | "cmp" | "test" | "call")
                    && (first == name || first == half)
            };
            let written = lines.iter().find(|l| writes(l));
            let saved = lines.contains(&format!("push {name}").as_str());
            assert!(written.is_none() || saved, "seed {seed}: {written:?} without saving {name}:\n{text}");
        }
    }
}

/// A register was not saved for the caller; a comparison took the constant in the other byte order.
#[test]
fn programs_that_once_went_wrong_do_what_the_interpreter_does() {
    for seed in [390, 179_088] {
        check(seed, Features::BASELINE);
    }
}

#[test]
fn random_programs_do_what_the_interpreter_does() {
    let all = Features { bmi2: true, movbe: true, sse42: true };
    let here = Features::detect().expect("tests run on x86-64");
    let (first, n) = (setting("JIT_SEED", 0), setting("JIT_RANDOM", 3000));
    for seed in first..first + n {
        if (seed - first) % 100_000 == 99_999 {
            println!("seeds {first} to {seed}: no difference");
        }
        check(seed, if seed % 3 == 0 || here != all { Features::BASELINE } else { all });
    }
    println!("{} runs of {n} programs from seed {first} on: no difference", n * inputs());
}
