//! Programs at random that are safe by construction, in the patterns that compilers write.
//!
//! R6 holds the packet, whose first 256 bytes are there; R7 counts loops; the rest are numbers. At the
//! end all numbers are written to the packet, so nothing that went wrong stays hidden.

use uapi::bpf::*;

use crate::insn::Insn;
use crate::verifier::{InsnFact, Place};

/// A small generator of random numbers (xorshift64*).
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xdead_beef_cafe_f00d)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A program with its facts.
pub(super) struct Generated {
    pub(super) insns: Vec<Insn>,
    pub(super) functions: Vec<u32>,
    pub(super) facts: Vec<InsnFact>,
}

struct Gen {
    rng: Rng,
    out: Vec<Insn>,
    facts: Vec<InsnFact>,
    functions: Vec<u32>,
    /// Calls to be resolved: instruction and number of the function.
    calls: Vec<(usize, usize)>,
    main: bool,
    in_loop: bool,
    helpers: usize,
    tell: bool,
}

const SCALARS: [u8; 7] = [0, 1, 2, 3, 4, 5, 8];
const PACKET: u8 = 6;
const COUNTER: u8 = 7;
const CTX: u8 = 9;
const FRAME: u8 = 10;
/// Bytes of the packet that the body may touch; the rest takes the result.
const BODY: u64 = 160;

/// Makes the program of a seed.
pub(super) fn program(seed: u64) -> Generated {
    let rng = Rng::new(seed);
    let functions = vec![0];
    let mut g = Gen {
        rng,
        out: Vec::new(),
        facts: Vec::new(),
        functions,
        calls: Vec::new(),
        main: true,
        in_loop: false,
        helpers: 0,
        tell: true,
    };
    g.helpers = if g.rng.chance(30) { 1 + g.rng.below(2) as usize } else { 0 };
    g.tell = g.rng.chance(60);
    g.prologue();
    let n = 5 + g.rng.below(60);
    g.body(n);
    g.epilogue();
    for _ in 0..g.helpers {
        g.subprogram();
    }
    for (at, number) in std::mem::take(&mut g.calls) {
        g.out[at].imm = g.functions[number] as i32 - at as i32 - 1;
    }
    Generated { insns: g.out, functions: g.functions, facts: g.facts }
}

impl Gen {
    fn push(&mut self, code: u8, dst: u8, src: u8, off: i16, imm: i32) {
        self.push_fact(Insn::new(code, dst, src, off, imm), Place::Other);
    }

    fn push_fact(&mut self, insn: Insn, place: Place) {
        let place = if self.tell || place == Place::Ctx { place } else { Place::Other };
        self.out.push(insn);
        self.facts.push(InsnFact { place, reached: true, ..InsnFact::default() });
    }

    fn memory(&mut self, code: u8, (dst, src): (u8, u8), off: i16, imm: i32, base: u8) {
        let place = match base {
            PACKET => Place::Packet,
            CTX | 1 => Place::Ctx,
            _ => Place::Stack,
        };
        self.push_fact(Insn::new(code, dst, src, off, imm), place);
    }

    fn prologue(&mut self) {
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, CTX, 1, 0, 0);
        self.memory(BPF_LDX | BPF_MEM | BPF_W, (PACKET, CTX), 0, 0, CTX);
        self.memory(BPF_LDX | BPF_MEM | BPF_W, (2, 1), 4, 0, 1);
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, 3, PACKET, 0, 0);
        self.push(BPF_ALU64 | BPF_ADD | BPF_K, 3, 0, 0, 256);
        self.push(BPF_JMP | BPF_JLE | BPF_X, 3, 2, 2, 0);
        self.push(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 1);
        self.push(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
        self.scalars();
    }

    /// Gives every number a value.
    fn scalars(&mut self) {
        for r in SCALARS {
            match self.rng.below(4) {
                0 => self.constant(r),
                1 if self.main => {
                    let off = self.rng.below(BODY - 8) as i16;
                    let size = self.rng.one_of(&[BPF_B, BPF_H, BPF_W, BPF_DW]);
                    self.memory(BPF_LDX | BPF_MEM | size, (r, PACKET), off, 0, PACKET);
                }
                2 => {
                    let field = self.rng.one_of(&[12, 16]);
                    if self.main {
                        self.memory(BPF_LDX | BPF_MEM | BPF_W, (r, CTX), field, 0, CTX);
                    } else {
                        self.constant(r);
                    }
                }
                _ => {
                    let imm = self.imm();
                    self.push(BPF_ALU64 | BPF_MOV | BPF_K, r, 0, 0, imm);
                }
            }
        }
    }

    fn imm(&mut self) -> i32 {
        match self.rng.below(5) {
            0 => self.rng.below(64) as i32,
            1 => -(self.rng.below(64) as i32),
            2 => self.rng.one_of(&[0xff, 0xffff, 0xff00, i32::MAX, i32::MIN, 0x7fff, 128, -128, 127, 1, 0]),
            3 => 1 << self.rng.below(32),
            _ => self.rng.next() as i32,
        }
    }

    fn constant(&mut self, r: u8) {
        let v = match self.rng.below(3) {
            0 => self.rng.next() << 8,
            1 => self.rng.one_of(&[u64::MAX, 1 << 63, u64::from(u32::MAX), 1 << 32, 0x7fff_ffff]),
            _ => self.imm() as i64 as u64,
        };
        self.push(BPF_LD | BPF_IMM | BPF_DW, r, 0, 0, v as i32);
        self.push(0, 0, 0, 0, (v >> 32) as i32);
    }

    fn scalar(&mut self) -> u8 {
        self.rng.one_of(&SCALARS)
    }

    fn class(&mut self) -> u8 {
        self.rng.one_of(&[BPF_ALU, BPF_ALU64])
    }

    fn body(&mut self, n: u64) {
        for _ in 0..n {
            self.step();
        }
    }

    fn step(&mut self) {
        match self.rng.below(24) {
            0..=6 => self.alu(),
            7 | 8 => self.access(),
            9 => self.bytes(),
            10 => self.split_store(),
            11 => self.copy(),
            12 | 13 => self.branch(),
            14 => self.looped(),
            15 => self.atomic(),
            16 => self.idiom(),
            17 => self.update(),
            18 => self.call(),
            19 => self.spill(),
            20 => self.indexed(),
            21 => self.divide(),
            22 => self.early_exit(),
            _ => self.extend(),
        }
    }

    fn alu(&mut self) {
        let op = self.rng.one_of(&[
            BPF_ADD, BPF_SUB, BPF_MUL, BPF_OR, BPF_AND, BPF_XOR, BPF_LSH, BPF_RSH, BPF_ARSH, BPF_MOV,
            BPF_NEG, BPF_ADD,
        ]);
        let (class, dst, src) = (self.class(), self.scalar(), self.scalar());
        if op == BPF_NEG {
            return self.push(class | op, dst, 0, 0, 0);
        }
        if self.rng.chance(50) {
            return self.push(class | op | BPF_X, dst, src, 0, 0);
        }
        let mut imm = self.imm();
        if matches!(op, BPF_LSH | BPF_RSH | BPF_ARSH) {
            let width = if class == BPF_ALU { 32 } else { 64 };
            imm = self.rng.below(width) as i32;
        }
        self.push(class | op | BPF_K, dst, 0, 0, imm);
    }

    fn divide(&mut self) {
        let op = self.rng.one_of(&[BPF_DIV, BPF_MOD]);
        let (class, dst, src) = (self.class(), self.scalar(), self.scalar());
        let signed = self.rng.below(2) as i16;
        if self.rng.chance(40) {
            return self.push(class | op | BPF_X, dst, src, signed, 0);
        }
        let imm = self.imm();
        self.push(class | op | BPF_K, dst, 0, signed, if imm == 0 { 3 } else { imm });
    }

    fn size(&mut self) -> u8 {
        self.rng.one_of(&[BPF_B, BPF_H, BPF_W, BPF_DW])
    }

    /// A base register and an offset at which eight bytes are there.
    fn place(&mut self) -> (u8, i16) {
        if self.main && self.rng.chance(60) {
            return (PACKET, self.rng.below(BODY - 8) as i16);
        }
        if self.rng.chance(70) {
            return (FRAME, -8 - 8 * self.rng.below(6) as i16);
        }
        (FRAME, -8 - self.rng.below(48) as i16)
    }

    fn access(&mut self) {
        let (base, off) = self.place();
        let size = self.size();
        let (r, imm) = (self.scalar(), self.imm());
        match self.rng.below(5) {
            0 | 1 => self.memory(BPF_LDX | BPF_MEM | size, (r, base), off, 0, base),
            2 if size != BPF_DW => self.memory(BPF_LDX | BPF_MEMSX | size, (r, base), off, 0, base),
            3 => self.memory(BPF_ST | BPF_MEM | size, (base, 0), off, imm, base),
            _ => self.memory(BPF_STX | BPF_MEM | size, (base, r), off, 0, base),
        }
    }

    /// A number put together from bytes, as from packed structures, perhaps with a mistake in it.
    fn bytes(&mut self) {
        let (base, off) = self.place();
        let n = self.rng.one_of(&[2, 4, 8, 3]);
        let big = self.rng.chance(50);
        let step = if n == 8 && self.rng.chance(50) { 4 } else { 1 };
        let size = if step == 4 { BPF_W } else { BPF_B };
        let (acc, part) = self.two();
        let join = self.rng.one_of(&[BPF_OR, BPF_OR, BPF_OR, BPF_ADD, BPF_XOR]);
        let class = if n == 8 { BPF_ALU64 } else { self.class() };
        for (k, i) in (0..n / step).enumerate() {
            let at = off + i * step;
            let place = if big { n / step - 1 - i } else { i };
            let to = if k == 0 { acc } else { part };
            self.memory(BPF_LDX | BPF_MEM | size, (to, base), at, 0, base);
            if place > 0 {
                self.push(class | BPF_LSH | BPF_K, to, 0, 0, i32::from(place * step) * 8);
            }
            if k > 0 {
                self.push(class | join | BPF_X, acc, part, 0, 0);
            }
            if self.rng.chance(5) {
                self.access();
            }
        }
        if self.rng.chance(20) {
            let bits = self.rng.one_of(&[16, 32, 64]);
            self.push(BPF_ALU | BPF_END | BPF_TO_BE, acc, 0, 0, bits);
        }
    }

    /// Two different numbers.
    fn two(&mut self) -> (u8, u8) {
        let a = self.scalar();
        loop {
            let b = self.scalar();
            if a != b {
                return (a, b);
            }
        }
    }

    /// A number stored in pieces, in either order.
    fn split_store(&mut self) {
        let (base, off) = self.place();
        let (x, t) = self.two();
        let big = self.rng.chance(40);
        let n = self.rng.one_of(&[2, 4, 8]);
        let class = self.rng.one_of(&[BPF_ALU64, BPF_ALU64, BPF_ALU]);
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, t, x, 0, 0);
        for i in 0..n {
            let at = if big { n - 1 - i } else { i };
            self.memory(BPF_STX | BPF_MEM | BPF_B, (base, t), off + at, 0, base);
            self.push(class | BPF_RSH | BPF_K, t, 0, 0, 8);
            if self.rng.chance(4) {
                self.access();
            }
        }
    }

    /// Bytes copied one by one, loads and stores mixed.
    fn copy(&mut self) {
        let ((from, a), (to, b)) = (self.place(), self.place());
        let n = self.rng.one_of(&[2, 4, 6, 8]);
        let (x, y) = self.two();
        let reverse = self.rng.chance(20);
        for i in (0..n).step_by(2) {
            self.memory(BPF_LDX | BPF_MEM | BPF_B, (x, from), a + i, 0, from);
            if self.rng.chance(50) {
                self.memory(BPF_LDX | BPF_MEM | BPF_B, (y, from), a + i + 1, 0, from);
                self.memory(BPF_STX | BPF_MEM | BPF_B, (to, x), b + i, 0, to);
            } else {
                self.memory(BPF_STX | BPF_MEM | BPF_B, (to, x), b + if reverse { i + 1 } else { i }, 0, to);
                self.memory(BPF_LDX | BPF_MEM | BPF_B, (y, from), a + i + 1, 0, from);
            }
            self.memory(BPF_STX | BPF_MEM | BPF_B, (to, y), b + if reverse { i } else { i + 1 }, 0, to);
        }
    }

    fn condition(&mut self, skip: i16) {
        let op = self.rng.one_of(&[
            BPF_JEQ, BPF_JNE, BPF_JGT, BPF_JGE, BPF_JLT, BPF_JLE, BPF_JSGT, BPF_JSGE, BPF_JSLT, BPF_JSLE,
            BPF_JSET,
        ]);
        let class = self.rng.one_of(&[BPF_JMP, BPF_JMP32]);
        let (dst, src, imm) = (self.scalar(), self.scalar(), self.imm());
        if self.rng.chance(40) {
            self.push(class | op | BPF_X, dst, src, skip, 0);
        } else {
            self.push(class | op | BPF_K, dst, 0, skip, imm);
        }
    }

    fn branch(&mut self) {
        let at = self.out.len();
        self.condition(0);
        let n = 1 + self.rng.below(4);
        self.body(n);
        if self.rng.chance(40) {
            let over = self.out.len();
            self.push(BPF_JMP | BPF_JA, 0, 0, 0, 0);
            self.out[at].off = (self.out.len() - at - 1) as i16;
            let n = 1 + self.rng.below(3);
            self.body(n);
            self.out[over].off = (self.out.len() - over - 1) as i16;
        } else {
            self.out[at].off = (self.out.len() - at - 1) as i16;
        }
    }

    fn looped(&mut self) {
        if self.in_loop {
            return self.alu();
        }
        self.in_loop = true;
        let n = 1 + self.rng.below(5) as i32;
        self.push(BPF_ALU64 | BPF_MOV | BPF_K, COUNTER, 0, 0, n);
        let head = self.out.len();
        if self.rng.chance(20) {
            self.push(BPF_JMP | BPF_JCOND, 0, 0, 0, 0);
        }
        let n = 1 + self.rng.below(6);
        self.body(n);
        self.push(BPF_ALU64 | BPF_ADD | BPF_K, COUNTER, 0, 0, -1);
        let back = head as i64 - self.out.len() as i64 - 1;
        self.push(BPF_JMP | BPF_JNE | BPF_K, COUNTER, 0, back as i16, 0);
        self.in_loop = false;
    }

    fn atomic(&mut self) {
        let size = self.rng.one_of(&[BPF_W, BPF_DW]);
        let (base, off) = (FRAME, -8 - 8 * self.rng.below(6) as i16);
        let imm = self.rng.one_of(&[
            i32::from(BPF_ADD),
            i32::from(BPF_AND),
            i32::from(BPF_OR),
            i32::from(BPF_XOR),
            i32::from(BPF_ADD) | BPF_FETCH,
            i32::from(BPF_AND) | BPF_FETCH,
            i32::from(BPF_OR) | BPF_FETCH,
            i32::from(BPF_XOR) | BPF_FETCH,
            BPF_XCHG,
            BPF_CMPXCHG,
            BPF_LOAD_ACQ,
            BPF_STORE_REL,
        ]);
        let r = self.scalar();
        let regs = if imm == BPF_LOAD_ACQ { (r, base) } else { (base, r) };
        self.memory(BPF_STX | BPF_ATOMIC | size, regs, off, imm, base);
    }

    /// Shifts that mean something else.
    fn idiom(&mut self) {
        let (a, b) = self.two();
        let class = self.class();
        let width = if class == BPF_ALU { 32 } else { 64 };
        match self.rng.below(4) {
            0 => {
                let k = 1 + self.rng.below(width - 1) as i32;
                self.push(class | BPF_MOV | BPF_X, b, a, 0, 0);
                self.push(class | BPF_LSH | BPF_K, a, 0, 0, k);
                self.push(class | BPF_RSH | BPF_K, b, 0, 0, width as i32 - k);
                self.push(class | BPF_OR | BPF_X, a, b, 0, 0);
            }
            1 => {
                let k = self.rng.one_of(&[8, 16, 24, 32, 48, 56, 5]) % width as i32;
                let op = self.rng.one_of(&[BPF_RSH, BPF_ARSH]);
                self.push(class | BPF_LSH | BPF_K, a, 0, 0, k);
                self.push(class | op | BPF_K, a, 0, 0, k);
            }
            2 => {
                let mask = self.rng.one_of(&[31, 63, 0xff]);
                self.push(BPF_ALU64 | BPF_AND | BPF_K, b, 0, 0, mask);
                self.push(class | BPF_LSH | BPF_X, a, b, 0, 0);
            }
            _ => {
                let (k, mask) = (self.rng.below(width) as i32, self.imm());
                self.push(class | BPF_RSH | BPF_K, a, 0, 0, k);
                self.push(BPF_ALU64 | BPF_AND | BPF_K, a, 0, 0, mask);
            }
        }
    }

    /// Load, change, store.
    fn update(&mut self) {
        let (base, off) = self.place();
        let (size, class) = (self.size(), self.class());
        let (r, s) = self.two();
        let op = self.rng.one_of(&[BPF_ADD, BPF_SUB, BPF_AND, BPF_OR, BPF_XOR]);
        self.memory(BPF_LDX | BPF_MEM | size, (r, base), off, 0, base);
        if self.rng.chance(50) {
            let imm = self.imm();
            self.push(class | op | BPF_K, r, 0, 0, imm);
        } else {
            self.push(class | op | BPF_X, r, s, 0, 0);
        }
        self.memory(BPF_STX | BPF_MEM | size, (base, r), off, 0, base);
        if self.rng.chance(60) {
            self.push(BPF_ALU64 | BPF_MOV | BPF_K, r, 0, 0, 1);
        }
    }

    fn call(&mut self) {
        if self.helpers == 0 || !self.main {
            return self.alu();
        }
        let number = 1 + self.rng.below(self.helpers as u64) as usize;
        self.calls.push((self.out.len(), number));
        self.push(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 0);
        for r in 1..=5 {
            let imm = self.imm();
            self.push(BPF_ALU64 | BPF_MOV | BPF_K, r, 0, 0, imm);
        }
    }

    /// To the stack and back, directly or through a copy of the frame pointer.
    fn spill(&mut self) {
        let off = -8 - 8 * self.rng.below(6) as i16;
        let (r, s) = (self.scalar(), self.scalar());
        self.memory(BPF_STX | BPF_MEM | BPF_DW, (FRAME, r), off, 0, FRAME);
        if self.rng.chance(30) {
            let (p, v) = self.two();
            self.push(BPF_ALU64 | BPF_MOV | BPF_X, p, FRAME, 0, 0);
            self.push(BPF_ALU64 | BPF_ADD | BPF_K, p, 0, 0, i32::from(off));
            if self.rng.chance(50) {
                self.memory(BPF_STX | BPF_MEM | BPF_DW, (p, v), 0, 0, FRAME);
                self.push(BPF_ALU64 | BPF_MOV | BPF_K, v, 0, 0, 7);
            } else {
                self.memory(BPF_LDX | BPF_MEM | BPF_DW, (v, p), 0, 0, FRAME);
            }
            self.push(BPF_ALU64 | BPF_MOV | BPF_K, p, 0, 0, 9);
            if p == v {
                return;
            }
        }
        let n = self.rng.below(3);
        self.body(n);
        self.memory(BPF_LDX | BPF_MEM | BPF_DW, (s, FRAME), off, 0, FRAME);
    }

    /// A packet pointer plus a number.
    fn indexed(&mut self) {
        if !self.main {
            return self.alu();
        }
        let (p, v) = self.two();
        let size = self.size();
        let shift = self.rng.below(4) as i32;
        self.push(BPF_ALU64 | BPF_AND | BPF_K, p, 0, 0, 15);
        if shift > 0 {
            self.push(BPF_ALU64 | BPF_LSH | BPF_K, p, 0, 0, shift);
        }
        self.push(BPF_ALU64 | BPF_ADD | BPF_X, p, PACKET, 0, 0);
        let off = self.rng.below(16) as i16;
        if self.rng.chance(60) {
            self.memory(BPF_LDX | BPF_MEM | size, (v, p), off, 0, PACKET);
        } else {
            self.memory(BPF_STX | BPF_MEM | size, (p, v), off, 0, PACKET);
        }
        self.push(BPF_ALU64 | BPF_MOV | BPF_K, p, 0, 0, 3);
    }

    fn early_exit(&mut self) {
        if !self.rng.chance(30) {
            return self.alu();
        }
        let at = self.out.len();
        self.condition(0);
        match self.rng.below(3) {
            0 => self.push(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 2),
            1 => {
                let r = self.scalar();
                self.push(BPF_ALU64 | BPF_MOV | BPF_X, 0, r, 0, 0);
            }
            _ => {}
        }
        self.push(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
        self.out[at].off = (self.out.len() - at - 1) as i16;
    }

    fn extend(&mut self) {
        let (dst, src) = (self.scalar(), self.scalar());
        match self.rng.below(4) {
            0 => {
                let class = self.class();
                let bits =
                    if class == BPF_ALU { self.rng.one_of(&[8, 16]) } else { self.rng.one_of(&[8, 16, 32]) };
                self.push(class | BPF_MOV | BPF_X, dst, src, bits, 0);
            }
            1 => self.push(BPF_ALU | BPF_MOV | BPF_X, dst, src, 0, 0),
            n => {
                let bits = self.rng.one_of(&[16, 32, 64]);
                let code = if n == 2 {
                    BPF_ALU64 | BPF_END
                } else {
                    BPF_ALU | BPF_END | self.rng.one_of(&[BPF_TO_LE, BPF_TO_BE])
                };
                self.push(code, dst, 0, 0, bits);
            }
        }
    }

    /// Writes all numbers where they can be seen.
    fn epilogue(&mut self) {
        for (i, r) in SCALARS.into_iter().enumerate() {
            self.memory(BPF_STX | BPF_MEM | BPF_DW, (PACKET, r), 168 + 8 * i as i16, 0, PACKET);
        }
        for slot in 1..=3 {
            self.memory(BPF_LDX | BPF_MEM | BPF_DW, (1, FRAME), -8 * slot, 0, FRAME);
            self.memory(BPF_STX | BPF_MEM | BPF_DW, (PACKET, 1), 224 + 8 * (slot - 1), 0, PACKET);
        }
        self.push(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    }

    fn subprogram(&mut self) {
        self.main = false;
        self.functions.push(self.out.len() as u32);
        // R1 to R5 come from the caller.
        for r in [0, 8] {
            self.constant(r);
        }
        let n = 3 + self.rng.below(15);
        self.body(n);
        for r in [1, 2, 3, 4, 5, 8] {
            self.push(BPF_ALU64 | BPF_XOR | BPF_X, 0, r, 0, 0);
        }
        self.push(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    }
}
