//! Structured random programs that are nearly always well-formed and often, not always, safe.
//!
//! [`Gen`] keeps a rough idea of what each register holds, so that most instructions make sense, and goes
//! to the edges on purpose: bounds that are just right or one off, odd constants, values that travel
//! through copies, the stack and calls before they are used. A *sloppy* program takes liberties: those are
//! the ones a verifier has to refuse. Steps are in [`numbers`], [`memory`] and [`calls`].

mod calls;
mod memory;
mod numbers;

use std::sync::{Arc, OnceLock};

use bpf::Insn;
use bpf::btf::{Btf, BtfBuilder, Kind as BtfKind, Linkage, Param, TypeId};
use bpf::object::{KfuncRef, ObjectSpec, ProgramSpec, Subprog};
use uapi::bpf::*;

use super::world;
use crate::generate::Rng;

/// Frame pointer.
const FP: u8 = 10;
/// Eight-byte slots of stack that a function uses.
const SLOTS: usize = 12;
/// Instructions of a function after which no further step begins.
const LENGTH: usize = 90;
/// Functions beside the main one.
const FUNCTIONS: usize = 6;

/// What a register or slot holds, as far as the generator knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Unset,
    Num,
    Ctx,
    /// Into the packet; so many bytes from there have been checked.
    Pkt(u16),
    Meta,
    End,
    /// Frame pointer plus this.
    Stack(i16),
    /// The start of a value of a map.
    Value(usize),
    MaybeValue(usize),
    /// A ring buffer record.
    Record(u16),
}

/// Parameters of a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Params {
    /// Two numbers, by a global function.
    Global,
    /// Two numbers.
    Numbers,
    /// The context and a number.
    Ctx,
    /// 16 bytes of the caller's stack and a number.
    Buffer,
    /// `bpf_loop`'s: index and 16 bytes of the caller's stack.
    Callback,
    /// `bpf_for_each_map_elem`'s: map, key, value, 16 bytes of the caller's stack.
    Each(usize),
}

/// What a generated program consists of, counted for the report.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Feature {
    /// Arithmetic on numbers.
    Alu,
    /// Sign-extending moves, byte swaps, signed division.
    Extension,
    /// A condition with code under it.
    Branch,
    /// Copies of a number of which one is bounded and another used.
    Linked,
    /// A comparison with the packet's end.
    PacketCheck,
    /// Packet bytes at a variable offset.
    PacketVariable,
    /// Memory at a constant offset.
    Constant,
    /// Map values, stack or records at a variable offset.
    Variable,
    /// An atomic operation.
    Atomic,
    /// A register stored on the stack and loaded again.
    Spill,
    /// A lookup in a map.
    Lookup,
    /// A helper that changes maps.
    MapChange,
    /// A helper with memory and size.
    MemorySize,
    /// A helper that moves the packet.
    Adjust,
    /// Metadata.
    Metadata,
    /// A ring buffer record.
    Ringbuf,
    /// A loop with a counter.
    Loop,
    /// A loop that `may_goto` ends.
    MayGoto,
    /// `bpf_loop`.
    BpfLoop,
    /// `bpf_for_each_map_elem`.
    ForEach,
    /// An open-coded iterator.
    Iterator,
    /// A call of a static function.
    Call,
    /// A call of a global function.
    GlobalCall,
}

/// A program, with what is in it.
#[derive(Clone, Debug)]
pub struct Generated {
    /// Instructions and functions.
    pub spec: ProgramSpec,
    /// What steps it was made of.
    pub features: Vec<Feature>,
}

impl Generated {
    /// The object that the program is alone in.
    #[must_use]
    pub fn object(&self) -> ObjectSpec {
        ObjectSpec {
            name: "random.bpf.o".to_owned(),
            license: "GPL".to_owned(),
            maps: world::maps(),
            programs: vec![self.spec.clone()],
            btf: Some(types().btf.clone()),
            ..ObjectSpec::default()
        }
    }
}

/// Type information that all programs share.
pub(super) struct Types {
    pub(super) btf: Arc<Btf>,
    main: TypeId,
    statics: [TypeId; FUNCTIONS],
    globals: [TypeId; FUNCTIONS],
}

pub(super) fn types() -> &'static Types {
    static TYPES: OnceLock<Types> = OnceLock::new();
    TYPES.get_or_init(|| {
        let mut btf = BtfBuilder::default();
        let int =
            BtfKind::Int { size: 8, signed: false, is_char: false, is_bool: false, bit_offset: 0, bits: 64 };
        let int = btf.add("u64", int);
        let params = ["a", "b"].map(|n| Param { name: btf.name(n), ty: int });
        let none = btf.add("", BtfKind::FuncProto { ret: int, params: Box::new([]) });
        let two = btf.add("", BtfKind::FuncProto { ret: int, params: Box::new(params) });
        let main = btf.add("main", BtfKind::Func { proto: none, linkage: Linkage::Global });
        let statics = std::array::from_fn(|i| {
            btf.add(&format!("f{i}"), BtfKind::Func { proto: two, linkage: Linkage::Static })
        });
        let globals = std::array::from_fn(|i| {
            btf.add(&format!("g{i}"), BtfKind::Func { proto: two, linkage: Linkage::Global })
        });
        Types { btf: Arc::new(btf.finish()), main, statics, globals }
    })
}

/// Makes a program. `kfuncs` says whether it may call kernel functions.
#[must_use]
pub fn generate(rng: &mut Rng, kfuncs: bool) -> Generated {
    let sloppy = rng.one_in(3);
    let mut g = Gen {
        sloppy,
        with_kfuncs: kfuncs,
        rng,
        insns: Vec::new(),
        regs: [Kind::Unset; 10],
        slots: [Kind::Unset; SLOTS],
        locked: 0,
        free_slots: SLOTS,
        ctx: None,
        nesting: 0,
        start: 0,
        functions: Vec::new(),
        uses: Vec::new(),
        kfuncs: Vec::new(),
        features: Vec::new(),
        own: None,
    };
    g.main();
    let mut starts = vec![0];
    let mut next = 0;
    while next < g.functions.len() {
        starts.push(g.insns.len());
        g.function(next);
        next += 1;
    }
    g.finish(&starts)
}

/// A program while it is written.
struct Gen<'r> {
    rng: &'r mut Rng,
    insns: Vec<Insn>,
    regs: [Kind; 10],
    slots: [Kind; SLOTS],
    /// Registers that have to keep what they hold, a bit each.
    locked: u16,
    /// Slots below this one may be written.
    free_slots: usize,
    /// Where the context is.
    ctx: Option<u8>,
    nesting: u32,
    /// First instruction of the function.
    start: usize,
    functions: Vec<Params>,
    /// Instructions that name a function.
    uses: Vec<(usize, usize)>,
    kfuncs: Vec<KfuncRef>,
    features: Vec<Feature>,
    with_kfuncs: bool,
    sloppy: bool,
    /// Number of the function that is being written; the main one has none.
    own: Option<usize>,
}

/// A jump without a target yet.
#[must_use]
struct Jump(usize);

impl Gen<'_> {
    fn push(&mut self, code: u8, dst: u8, src: u8, off: i16, imm: i32) {
        self.insns.push(Insn::new(code, dst, src, off, imm));
    }

    fn mov(&mut self, dst: u8, imm: i32) {
        self.push(BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, imm);
    }

    fn mov_reg(&mut self, dst: u8, src: u8) {
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0);
    }

    fn alu(&mut self, op: u8, dst: u8, imm: i32) {
        self.push(BPF_ALU64 | op | BPF_K, dst, 0, 0, imm);
    }

    fn wide(&mut self, dst: u8, src: u8, low: i32, high: i32) {
        self.push(BPF_LD | BPF_IMM | BPF_DW, dst, src, 0, low);
        self.push(0, 0, 0, 0, high);
    }

    fn jump(&mut self, code: u8, dst: u8, src: u8, imm: i32) -> Jump {
        self.push(code, dst, src, 0, imm);
        Jump(self.insns.len() - 1)
    }

    fn goto(&mut self) -> Jump {
        self.jump(BPF_JMP | BPF_JA, 0, 0, 0)
    }

    fn land(&mut self, jump: Jump) {
        self.insns[jump.0].off = (self.insns.len() - jump.0 - 1) as i16;
    }

    /// A jump back to `target`.
    fn back(&mut self, code: u8, dst: u8, src: u8, imm: i32, target: usize) {
        let off = target as i64 - self.insns.len() as i64 - 1;
        self.push(code, dst, src, off as i16, imm);
    }

    fn call(&mut self, helper: i32) {
        self.push(BPF_JMP | BPF_CALL, 0, 0, 0, helper);
        self.clobber();
    }

    fn kfunc(&mut self, name: &str) {
        let known = self.kfuncs.iter().position(|k| k.name == name);
        let index = known.unwrap_or_else(|| {
            self.kfuncs.push(KfuncRef { name: name.to_owned(), btf: None, weak: false });
            self.kfuncs.len() - 1
        });
        self.push(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL, 0, index as i32);
        self.clobber();
    }

    fn clobber(&mut self) {
        self.regs[..6].fill(Kind::Unset);
    }

    /// A register that may be overwritten.
    fn fresh(&mut self) -> u8 {
        let mut pool: Vec<u8> =
            (0..10).filter(|r| self.locked & (1 << r) == 0 && self.ctx != Some(*r)).collect();
        if pool.is_empty() {
            // Then something is lost, and the program may be refused for it.
            pool.extend([0, 1, 2, 3]);
        }
        let unset: Vec<u8> =
            pool.iter().copied().filter(|r| self.regs[usize::from(*r)] == Kind::Unset).collect();
        if unset.is_empty() || self.rng.one_in(4) { self.rng.pick(&pool) } else { self.rng.pick(&unset) }
    }

    /// A fresh register that is none of these and will not be given out again while `f` runs.
    fn with_fresh<R>(&mut self, f: impl FnOnce(&mut Self, u8) -> R) -> R {
        let r = self.fresh();
        let old = self.locked;
        self.locked |= 1 << r;
        let result = f(self, r);
        self.locked = old;
        result
    }

    /// Keeps a register while `f` runs.
    fn keeping<R>(&mut self, r: u8, f: impl FnOnce(&mut Self) -> R) -> R {
        let old = self.locked;
        if r < 10 {
            self.locked |= 1 << r;
        }
        let result = f(self);
        self.locked = old;
        result
    }

    fn set(&mut self, r: u8, kind: Kind) {
        self.regs[usize::from(r)] = kind;
    }

    fn kind(&self, r: u8) -> Kind {
        if r == FP { Kind::Stack(0) } else { self.regs[usize::from(r)] }
    }

    fn feature(&mut self, f: Feature) {
        if !self.features.contains(&f) {
            self.features.push(f);
        }
    }

    /// Registers of a kind.
    fn holding(&self, want: impl Fn(Kind) -> bool) -> Vec<u8> {
        (0..10).filter(|r| want(self.regs[usize::from(*r)])).collect()
    }

    fn main(&mut self) {
        self.mov_reg(6, 1);
        self.set(1, Kind::Ctx);
        self.set(6, Kind::Ctx);
        self.ctx = Some(6);
        self.buffer();
        let steps = 3 + self.rng.below(10);
        self.steps(steps);
        self.result();
    }

    fn function(&mut self, number: usize) {
        self.start = self.insns.len();
        self.own = Some(number);
        self.regs = [Kind::Unset; 10];
        self.slots = [Kind::Unset; SLOTS];
        (self.locked, self.ctx, self.nesting) = (0, None, 0);
        let params = self.functions[number];
        let kinds: &[Kind] = match params {
            Params::Global | Params::Numbers => &[Kind::Num, Kind::Num],
            Params::Ctx => &[Kind::Ctx, Kind::Num],
            // The caller's stack: the offset is counted from its first byte, so nothing is below it.
            Params::Buffer => &[Kind::Record(16), Kind::Num],
            Params::Callback => &[Kind::Num, Kind::Record(16)],
            Params::Each(map) => &[Kind::Unset, Kind::Unset, Kind::Value(map), Kind::Record(16)],
        };
        for (i, k) in kinds.iter().enumerate() {
            self.set(i as u8 + 1, *k);
        }
        if params == Params::Ctx {
            self.mov_reg(6, 1);
            self.set(6, Kind::Ctx);
            self.ctx = Some(6);
        }
        if self.rng.one_in(2) {
            self.buffer();
        }
        let steps = 1 + self.rng.below(4);
        self.steps(steps);
        if matches!(params, Params::Callback | Params::Each(_)) {
            let stop = i32::from(self.rng.one_in(3));
            self.mov(0, stop);
            self.set(0, Kind::Num);
            self.push(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
        } else {
            self.result();
        }
    }

    /// Initialises the upper part of the stack.
    fn buffer(&mut self) {
        for slot in 0..4 {
            let value = self.rng.odd_number() as i32;
            self.push(BPF_ST | BPF_MEM | BPF_DW, FP, 0, slot_offset(slot), value);
            self.slots[slot] = Kind::Num;
        }
    }

    /// Ends the function with some number.
    fn result(&mut self) {
        let numbers = self.holding(|k| k == Kind::Num);
        if numbers.is_empty() || self.rng.one_in(4) {
            let value = self.rng.range(0, 5) as i32;
            self.mov(0, value);
        } else {
            let r = self.rng.pick(&numbers);
            self.mov_reg(0, r);
        }
        self.push(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    }

    fn steps(&mut self, n: u64) {
        for _ in 0..n {
            if self.insns.len() - self.start > LENGTH {
                return;
            }
            self.step();
        }
    }

    fn step(&mut self) {
        let free = (0..10).filter(|r| self.locked & (1 << r) == 0 && self.ctx != Some(*r)).count();
        match self.rng.below(100) {
            // Steps take up to five registers at a time.
            _ if free < 3 => {}
            _ if free < 6 => self.arithmetic(),
            0..=19 => self.arithmetic(),
            20..=23 => self.extension(),
            24..=33 => self.branch(),
            34..=38 => self.linked(),
            39..=47 => self.packet_check(),
            48..=52 => self.packet_variable(),
            53..=60 => self.constant_access(),
            61..=70 => self.variable_access(),
            71..=77 => self.spill(),
            78..=82 => self.lookup(),
            83..=90 => self.helper(),
            91..=94 => self.repeat(),
            95..=97 => self.call_function(),
            _ if self.sloppy => self.junk(),
            _ => self.arithmetic(),
        }
    }

    /// An instruction that need not make sense.
    fn junk(&mut self) {
        let (dst, src) = (self.rng.below(10) as u8, self.rng.below(11) as u8);
        let imm = self.rng.odd_number() as i32;
        let op = self.rng.below(14) as u8 * 16;
        match self.rng.below(4) {
            0 => self.push(BPF_ALU64 | op | BPF_X, dst, src, 0, 0),
            1 => self.push(BPF_ALU | BPF_ADD | BPF_K, dst, 0, 0, imm),
            2 => self.mov_reg(dst, src),
            _ => {
                let off = self.rng.range(-40, 40) as i16;
                self.push(BPF_LDX | BPF_MEM | BPF_W, dst, src, off, 0);
            }
        }
        // Left as it was thought to be: what follows may be wrong.
    }

    fn finish(self, starts: &[usize]) -> Generated {
        let Self { mut insns, functions, uses, kfuncs, features, .. } = self;
        for (at, function) in uses {
            insns[at].imm = starts[function + 1] as i32 - at as i32 - 1;
        }
        let t = types();
        let mut subprogs =
            vec![Subprog { name: "main".to_owned(), start: 0, btf: Some(t.main), is_global: true }];
        for (i, params) in functions.iter().enumerate() {
            let is_global = *params == Params::Global;
            let (name, btf) =
                if is_global { (format!("g{i}"), t.globals[i]) } else { (format!("f{i}"), t.statics[i]) };
            subprogs.push(Subprog { name, start: starts[i + 1] as u32, btf: Some(btf), is_global });
        }
        let mut spec = ProgramSpec { kfuncs, ..ProgramSpec::bare("main", insns) };
        for s in &subprogs {
            let id = s.btf.map_or(0, |b| b.0);
            spec.raw_func_info.extend(s.start.to_le_bytes().into_iter().chain(id.to_le_bytes()));
        }
        Generated { spec: ProgramSpec { subprogs, ..spec }, features }
    }
}

/// Offset of a slot from the frame pointer.
fn slot_offset(slot: usize) -> i16 {
    -8 * (slot as i16 + 1)
}

/// What is the same on two paths.
fn meet<const N: usize>(a: [Kind; N], b: [Kind; N]) -> [Kind; N] {
    std::array::from_fn(|i| match (a[i], b[i]) {
        (Kind::Pkt(x), Kind::Pkt(y)) => Kind::Pkt(x.min(y)),
        (x, y) if x == y => x,
        _ => Kind::Unset,
    })
}
