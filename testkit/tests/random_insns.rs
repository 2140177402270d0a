//! Random instructions on the checked interpreter and on the running kernel: R0, the packet and whether the
//! program may run at all must be the same. A failure prints what repeats it:
//!
//! ```text
//! EARLYBIRD_SEED=1234 EARLYBIRD_PROGRAMS=1 cargo test -p earlybird-testkit --test random_insns
//! ```

use bpf::Insn;
use bpf::disasm::disassemble;
use bpf::vm::Fault;
use testkit::engine;
use testkit::generate::{Rng, insns};
use testkit::isa::with_prolog;
use testkit::kernel::KernelProgram;
use uapi::bpf::{BPF_JA, BPF_JMP};

/// Programs unless told otherwise, and packets for each.
const PROGRAMS: u64 = 3_000;
const PACKETS: usize = 4;
/// Programs of a thousand that the kernel refuses, before that is a failure of the generator.
const REFUSED_PER_MILLE: u64 = 20;
/// Instructions after which a run is stopped; the longest programs take a few hundred.
const FUEL: u64 = 100_000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |v| v.parse().unwrap_or_else(|e| panic!("{name}={v}: {e}")))
}

/// What does nothing.
const NOP: Insn = Insn::new(BPF_JMP | BPF_JA, 0, 0, 0, 0);

fn listing(program: &[Insn]) -> String {
    let lines = program.iter().enumerate().filter(|(_, insn)| **insn != NOP);
    lines.map(|(i, insn)| format!("{i:4}: {}\n", disassemble(insn, program.get(i + 1), None))).collect()
}

/// R0 and the packet afterwards.
type Answer = (Result<u64, Fault>, Vec<u8>);

/// What interpreter and kernel answer; `None` if one of them does not take the program.
fn answers(program: &[Insn], packet: &[u8]) -> Option<[Answer; 2]> {
    let linked = engine::link(program).ok()?;
    let (r0, after) = KernelProgram::load(program).ok()?.run(packet).ok()?;
    Some([engine::interpret(&linked, packet, FUEL), (Ok(r0), after)])
}

/// Leaves out instructions as long as the two still differ.
fn shrink(program: &[Insn], packet: &[u8]) -> Vec<Insn> {
    let mut small = program.to_vec();
    let mut before = Vec::new();
    while before != small {
        before.clone_from(&small);
        for at in (0..small.len()).rev().filter(|&at| before[at] != NOP && before[at].code != 0) {
            let mut less = small.clone();
            less[at] = NOP;
            if small[at].is_ld_imm64() {
                less[at + 1] = NOP;
            }
            if answers(&less, packet).is_some_and(|[ours, theirs]| ours.0.is_ok() && ours != theirs) {
                small = less;
            }
        }
    }
    small
}

#[test]
fn generated_programs_never_fault() {
    for seed in 0..setting("EARLYBIRD_PROGRAMS", PROGRAMS) {
        let mut rng = Rng::new(seed);
        let program = with_prolog(&insns::instructions(&mut rng), insns::PACKET_LEN);
        let linked = engine::link(&program).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let (result, _) = engine::interpret(&linked, &insns::input(&mut rng), FUEL);
        assert!(result.is_ok(), "seed {seed}: {result:?}\n{}", listing(&program));
    }
}

#[test]
fn the_kernel_runs_generated_programs_as_the_interpreter_does() {
    linux::needs_kernel!();
    let (first, programs) = (setting("EARLYBIRD_SEED", 1), setting("EARLYBIRD_PROGRAMS", PROGRAMS));
    let mut refused = Vec::new();
    for seed in first..first + programs {
        let mut rng = Rng::new(seed);
        let program = with_prolog(&insns::instructions(&mut rng), insns::PACKET_LEN);
        let linked = engine::link(&program).unwrap_or_else(|e| panic!("EARLYBIRD_SEED={seed}: {e}"));
        let kernel = match KernelProgram::load(&program) {
            Ok(kernel) => kernel,
            Err(e) => {
                let last: Vec<&str> = e.log.lines().rev().take(3).collect();
                refused.push(format!("EARLYBIRD_SEED={seed}: {} {last:?}", e.errno));
                continue;
            }
        };
        for _ in 0..PACKETS {
            let packet = insns::input(&mut rng);
            let ours = engine::interpret(&linked, &packet, FUEL);
            let theirs = kernel.run(&packet).unwrap_or_else(|e| panic!("EARLYBIRD_SEED={seed}: {e}"));
            if (ours.0.as_ref().ok(), &ours.1) != (Some(&theirs.0), &theirs.1) {
                let small = shrink(&program, &packet);
                let [ours, theirs] = answers(&small, &packet).unwrap_or([ours, (Ok(theirs.0), theirs.1)]);
                panic!(
                    "EARLYBIRD_SEED={seed} over {packet:x?}: {ours:x?} and the kernel {theirs:x?}\n{}",
                    listing(&small)
                );
            }
        }
    }
    let share = refused.len() as u64 * 1000 / programs.max(1);
    assert!(share <= REFUSED_PER_MILLE, "the kernel refuses {}:\n{}", refused.len(), refused.join("\n"));
    println!("{programs} programs, {PACKETS} packets each, {} refused by the kernel", refused.len());
}
