//! Random programs that the verifier accepts: sequences of steps, each of which does one thing that a
//! program can do (arithmetic, packet bytes, maps, helpers) and folds what it saw into a sum.
//!
//! A program ends by storing the sum in a map and by returning some bits of it, so whatever a backend
//! answers differently shows. `code` has the instructions' short names, `maps` what every program has at
//! hand, `packet`, `storage` and `misc` the steps.

mod code;
mod maps;
mod misc;
mod packet;
mod storage;

use std::sync::Arc;

use bpf::btf::{BtfBuilder, Kind, Linkage};
use bpf::object::{ObjectSpec, ProgramSpec, Subprog};
use uapi::bpf::*;

use self::code::Code;
use super::Rng;

/// Keeps the context.
pub(super) const CTX: u8 = 6;
/// The sum of all that was seen.
pub(super) const SUM: u8 = 7;
/// Another number, for steps to play with.
pub(super) const AUX: u8 = 8;
/// A pointer that a step keeps across a call; of no meaning between steps.
pub(super) const PTR: u8 = 9;
/// Frame pointer.
pub(super) const FP: u8 = 10;

/// 64 bytes of stack that are always initialised, from here up to the frame pointer.
pub(super) const BUF: i16 = -64;
/// 16 bytes for keys.
pub(super) const KEY: i16 = -80;
/// 32 bytes for values.
pub(super) const VALUE: i16 = -112;
/// 16 bytes for a dynptr or an iterator.
pub(super) const DYNPTR: i16 = -128;
/// A loop's counter, 8 bytes.
const COUNTER: i16 = -136;

/// Blocks within blocks.
const DEPTH_MAX: u32 = 2;

/// Name of the program to run; [`SECOND`] and [`THIRD`] are in its program array.
pub const MAIN: &str = "main";
const SECOND: &str = "second";
const THIRD: &str = "third";

/// A random object: maps of all kinds, the program [`MAIN`], and two that it may tail call.
pub fn object(rng: &mut Rng) -> ObjectSpec {
    let mut btf = BtfBuilder::default();
    let int = Kind::Int { size: 4, signed: true, is_char: false, is_bool: false, bit_offset: 0, bits: 32 };
    let int = btf.add("int", int);
    let proto = btf.add("", Kind::FuncProto { ret: int, params: Box::new([]) });
    let programs = [MAIN, SECOND, THIRD].map(|name| {
        let steps = if name == MAIN { 4 + rng.index(24) } else { rng.index(5) };
        let mut program = Builder::program(rng, name, steps, name == MAIN);
        for (i, s) in program.subprogs.iter_mut().enumerate() {
            let linkage = if i == 0 { Linkage::Global } else { Linkage::Static };
            let id = btf.add(&s.name, Kind::Func { proto, linkage });
            s.btf = Some(id);
            program.raw_func_info.extend(s.start.to_le_bytes().into_iter().chain(id.0.to_le_bytes()));
        }
        program
    });
    ObjectSpec {
        name: "random.bpf.o".to_owned(),
        license: "GPL".to_owned(),
        maps: maps::all(),
        programs: programs.into(),
        btf: Some(Arc::new(btf.finish())),
        ..ObjectSpec::default()
    }
}

/// The instructions of [`MAIN`] that lead to what the trace has at an offset.
#[must_use]
pub fn listing(spec: &ObjectSpec, trace_offset: usize) -> String {
    let insns = &spec.programs[0].insns;
    let names_it = |i: usize| {
        let (first, second) = (&insns[i], insns.get(i + 1));
        first.is_ld_imm64()
            && (first.src, first.imm) == (BPF_PSEUDO_MAP_IDX_VALUE, maps::TRACE)
            && second.is_some_and(|s| s.imm as usize == trace_offset)
    };
    let Some(at) = (0..insns.len()).find(|&i| names_it(i)) else { return String::new() };
    let from = at.saturating_sub(24);
    let line = |i: usize| format!("{i}: {}", bpf::disasm::disassemble(&insns[i], insns.get(i + 1), None));
    let second_half = |i: usize| i > 0 && insns[i - 1].is_ld_imm64();
    (from..at).filter(|&i| !second_half(i)).map(line).collect::<Vec<_>>().join("\n")
}

/// Whether a map is the trace of random programs.
#[must_use]
pub fn is_trace(map: usize) -> bool {
    map == maps::TRACE as usize
}

/// A program while it is written.
pub(super) struct Builder<'r> {
    pub(super) rng: &'r mut Rng,
    pub(super) code: Code,
    /// Calls of static functions, to be patched when these have a place: where, and which.
    subprog_uses: Vec<(usize, SubprogKind)>,
    kfuncs: Vec<bpf::object::KfuncRef>,
    may_tail_call: bool,
    /// Places where something was folded into the sum.
    sites: usize,
}

/// Static functions that a program may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SubprogKind {
    /// `u64 mix(u64, u64)`, called directly.
    Mix,
    /// Callback of `bpf_loop`.
    LoopBody,
    /// Callback of `bpf_for_each_map_elem`.
    EachElem,
}

impl SubprogKind {
    const ALL: [Self; 3] = [Self::Mix, Self::LoopBody, Self::EachElem];

    fn name(self) -> &'static str {
        match self {
            Self::Mix => "mix",
            Self::LoopBody => "loop_body",
            Self::EachElem => "each_elem",
        }
    }
}

impl Builder<'_> {
    fn program(rng: &mut Rng, name: &str, steps: usize, may_tail_call: bool) -> ProgramSpec {
        let mut b = Builder {
            rng,
            code: Code::default(),
            subprog_uses: Vec::new(),
            kfuncs: Vec::new(),
            may_tail_call,
            // Only one program has the trace for itself.
            sites: if may_tail_call { 0 } else { maps::TRACE_SITES },
        };
        b.prologue();
        for _ in 0..steps {
            b.step(0);
        }
        b.epilogue();
        let mut subprogs =
            vec![Subprog { name: format!("{name}_entry"), start: 0, btf: None, is_global: true }];
        for kind in SubprogKind::ALL {
            if b.subprog_uses.iter().any(|(_, k)| *k == kind) {
                let start = b.code.insns.len() as u32;
                b.place_subprog(kind);
                let name = format!("{name}_{}", kind.name());
                subprogs.push(Subprog { name, start, btf: None, is_global: false });
            }
        }
        let Builder { code, kfuncs, .. } = b;
        ProgramSpec { subprogs, kfuncs, ..ProgramSpec::bare(name, code.insns) }
    }

    /// Sets the registers up and fills the buffer on the stack.
    fn prologue(&mut self) {
        let c = &mut self.code;
        c.mov_reg(CTX, 1);
        c.ld_imm64(SUM, self.rng.odd_number());
        c.ld_imm64(AUX, self.rng.odd_number());
        for slot in 1..=8 {
            let text = self.rng.pick(&[0x3139_3837_i32, 0x2d31, 0x7a79_7877, 0x20, 0, -1]);
            let value = if self.rng.one_in(2) { text } else { self.rng.odd_number() as i32 };
            c.st(BPF_DW, FP, -8 * slot, value);
        }
    }

    /// Stores the sum and returns some of its bits.
    fn epilogue(&mut self) {
        let c = &mut self.code;
        c.ld_map_value(1, maps::SUM, 0);
        c.stx(BPF_DW, 1, SUM, 0);
        c.mov_reg(0, SUM);
        c.alu_imm(BPF_AND, 0, if self.rng.one_in(20) { -1 } else { 3 });
        c.exit();
    }

    /// One step of any kind.
    fn step(&mut self, depth: u32) {
        match self.rng.below(20) {
            0..=3 => self.arithmetic(),
            4..=9 => self.packet_step(),
            10..=14 => self.storage_step(),
            15..=17 => self.misc_step(),
            18 if depth < DEPTH_MAX => self.branch(depth),
            19 if depth < DEPTH_MAX => self.bounded_loop(depth),
            _ => self.arithmetic(),
        }
    }

    /// Some steps under a condition.
    fn branch(&mut self, depth: u32) {
        let jump = self.random_jump();
        for _ in 0..=self.rng.below(3) {
            self.step(depth + 1);
        }
        self.code.land(jump);
    }

    /// Some steps a few times.
    fn bounded_loop(&mut self, depth: u32) {
        // An inner loop would need a counter of its own.
        if depth > 0 {
            return self.branch(depth);
        }
        let times = self.rng.range(2, 4) as i32;
        self.code.st(BPF_DW, FP, COUNTER, 0);
        let start = self.code.insns.len();
        self.step(DEPTH_MAX);
        let c = &mut self.code;
        c.ldx(BPF_DW, 1, FP, COUNTER);
        c.alu_imm(BPF_ADD, 1, 1);
        c.stx(BPF_DW, FP, 1, COUNTER);
        let back = start as i64 - c.insns.len() as i64 - 1;
        c.push(BPF_JMP | BPF_JLT | BPF_K, 1, 0, back as i16, times);
    }

    /// Folds r0 into the sum, and leaves it in the trace, so that a difference shows where it comes from.
    /// r1 is lost.
    pub(super) fn fold(&mut self) {
        if self.sites < maps::TRACE_SITES {
            self.code.ld_map_value(1, maps::TRACE, 8 * self.sites as i32);
            self.code.stx(BPF_DW, 1, 0, 0);
            self.sites += 1;
        }
        self.code.alu_imm(BPF_MUL, SUM, 0x01f3_5b95);
        self.code.alu_reg(BPF_ADD, SUM, 0);
    }

    /// Calls a helper.
    pub(super) fn call(&mut self, helper: i32) {
        self.code.push(BPF_JMP | BPF_CALL, 0, 0, 0, helper);
    }

    /// Calls a kernel function.
    pub(super) fn call_kfunc(&mut self, name: &str) {
        let index = self.kfuncs.iter().position(|k| k.name == name).unwrap_or_else(|| {
            self.kfuncs.push(bpf::object::KfuncRef { name: name.to_owned(), btf: None, weak: false });
            self.kfuncs.len() - 1
        });
        self.code.push(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL, 0, index as i32);
    }

    /// Calls a static function, or takes the address of one in a register.
    pub(super) fn use_subprog(&mut self, kind: SubprogKind, address_in: Option<u8>) {
        self.subprog_uses.push((self.code.insns.len(), kind));
        match address_in {
            Some(reg) => {
                self.code.push(BPF_LD | BPF_IMM | BPF_DW, reg, BPF_PSEUDO_FUNC, 0, 0);
                self.code.push(0, 0, 0, 0, 0);
            }
            None => self.code.push(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 0),
        }
    }

    /// Writes a static function and points its uses at it.
    fn place_subprog(&mut self, kind: SubprogKind) {
        let start = self.code.insns.len();
        for (at, k) in &self.subprog_uses {
            if *k == kind {
                self.code.insns[*at].imm = (start - at - 1) as i32;
            }
        }
        match kind {
            SubprogKind::Mix => self.mix_body(),
            SubprogKind::LoopBody => self.loop_body(),
            SubprogKind::EachElem => self.each_elem_body(),
        }
    }
}

#[cfg(test)]
mod tests {
    use control::{LoadOptions, Loaded, TestRun};
    use linux::KernelObject;

    use super::*;

    #[test]
    fn a_seed_gives_the_same_program() {
        let code = |seed| object(&mut Rng::new(seed)).programs[0].insns.clone();
        assert_eq!(code(7), code(7));
        assert_ne!(code(7), code(8));
    }

    #[test]
    fn kernel_accepts_nearly_all_random_programs() {
        linux::needs_kernel!();
        let mut refused = Vec::new();
        let total = 150;
        for seed in 0..total {
            let spec = object(&mut Rng::new(seed));
            let options =
                LoadOptions { programs: vec![MAIN.to_owned()], scripted: true, ..LoadOptions::default() };
            match KernelObject::load(&spec, &options) {
                Ok(mut loaded) => {
                    assert_eq!(loaded.warnings(), &[] as &[String], "seed {seed}");
                    let request = TestRun { data: vec![1; 100], ..TestRun::default() };
                    loaded.test_run(MAIN, &request).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
                }
                Err(e) => refused.push(format!("seed {seed}: {e}")),
            }
        }
        assert!(refused.len() * 50 <= total as usize, "{} refused:\n{}", refused.len(), refused.join("\n"));
    }
}
