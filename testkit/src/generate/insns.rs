//! Random instructions: every form of arithmetic, jumps, stack, packet, atomics and local calls, in programs
//! that the kernel's verifier accepts.
//!
//! R7 holds the packet, of which [`PACKET_LEN`] bytes are there, R6 the context; the other registers are
//! numbers. At the end all numbers and the stack are folded into R0, so nothing that went wrong stays
//! hidden. Where the verifier has to know a bound, the program makes it certain with a mask.

use bpf::Insn;
use uapi::bpf::*;

use super::Rng;

/// Bytes of packet that the programs touch, and ask for.
pub const PACKET_LEN: usize = 64;
/// Bytes of stack that are always initialised.
const STACK: i16 = 64;
/// Conditional jumps whose outcome is open: each may double the verifier's work.
const BRANCHES_MAX: usize = 8;

const PACKET: u8 = 7;
const COUNTER: u8 = 9;
const FP: u8 = 10;
/// Registers that always hold a number.
const NUMBERS: [u8; 7] = [0, 1, 2, 3, 4, 5, 8];

/// A random program that expects the packet in R1, as [`crate::isa::with_prolog`] has it.
#[must_use]
pub fn instructions(rng: &mut Rng) -> Vec<Insn> {
    let mut g = Generator { rng, out: Vec::new(), calls: Vec::new(), branches: 0, in_function: false };
    g.begin();
    let steps = 5 + g.rng.index(40);
    g.steps(steps, 0);
    g.end();
    let functions = g.calls.iter().map(|(_, f)| f + 1).max().unwrap_or(0);
    let starts: Vec<usize> = (0..functions).map(|_| g.function()).collect();
    for (at, function) in std::mem::take(&mut g.calls) {
        g.out[at].imm = (starts[function] as i64 - at as i64 - 1) as i32;
    }
    g.out
}

struct Generator<'r> {
    rng: &'r mut Rng,
    out: Vec<Insn>,
    /// Calls to be given their distance: where, and which function.
    calls: Vec<(usize, usize)>,
    branches: usize,
    in_function: bool,
}

impl Generator<'_> {
    fn push(&mut self, code: u8, dst: u8, src: u8, off: i16, imm: i32) {
        self.out.push(Insn::new(code, dst, src, off, imm));
    }

    fn number(&mut self) -> u8 {
        self.rng.pick(&NUMBERS)
    }

    fn immediate(&mut self) -> i32 {
        self.rng.odd_number() as i32
    }

    fn load_number(&mut self, dst: u8) {
        match self.rng.below(3) {
            0 if !self.in_function => self.load_packet(dst),
            1 => {
                let value = self.rng.odd_number();
                self.push(BPF_LD | BPF_IMM | BPF_DW, dst, 0, 0, value as i32);
                self.push(0, 0, 0, 0, (value >> 32) as i32);
            }
            _ => {
                let imm = self.immediate();
                self.push(BPF_ALU64 | BPF_MOV, dst, 0, 0, imm);
            }
        }
    }

    /// The packet's pointer, numbers in all registers, and something on the stack.
    fn begin(&mut self) {
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, PACKET, 1, 0, 0);
        for reg in NUMBERS {
            self.load_packet(reg);
        }
        for slot in 1..=STACK / 8 {
            let reg = self.number();
            self.push(BPF_STX | BPF_MEM | BPF_DW, FP, reg, -8 * slot, 0);
        }
    }

    /// Folds registers and stack into R0.
    fn end(&mut self) {
        for reg in &NUMBERS[1..] {
            self.fold(*reg);
        }
        for slot in 1..=STACK / 8 {
            self.push(BPF_LDX | BPF_MEM | BPF_DW, 1, FP, -8 * slot, 0);
            self.fold(1);
        }
        self.push(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    }

    fn fold(&mut self, reg: u8) {
        self.push(BPF_ALU64 | BPF_MUL, 0, 0, 0, 0x0100_0193);
        self.push(BPF_ALU64 | BPF_XOR | BPF_X, 0, reg, 0, 0);
    }

    fn steps(&mut self, count: usize, depth: usize) {
        for _ in 0..count {
            self.step(depth);
        }
    }

    fn step(&mut self, depth: usize) {
        match self.rng.below(16) {
            0..=5 => self.arithmetic(),
            6 => self.mov(),
            7 => self.swap(),
            8 | 9 if !self.in_function => self.packet(),
            10 | 11 if !self.in_function => self.stack(),
            12 if !self.in_function => self.atomic(),
            13 if depth < 2 && self.branches < BRANCHES_MAX => self.branch(depth),
            14 if depth == 0 && !self.in_function => self.repeat(),
            15 if !self.in_function && depth < 2 => self.call(),
            _ => {
                let dst = self.number();
                self.load_number(dst);
            }
        }
    }

    fn arithmetic(&mut self) {
        let class = self.rng.pick(&[BPF_ALU, BPF_ALU64]);
        let bits = if class == BPF_ALU { 32 } else { 64 };
        let op = self.rng.pick(&[
            BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_OR, BPF_AND, BPF_LSH, BPF_RSH, BPF_NEG, BPF_MOD, BPF_XOR,
            BPF_ARSH,
        ]);
        let dst = self.number();
        let off = i16::from(matches!(op, BPF_DIV | BPF_MOD) && self.rng.one_in(2));
        if op == BPF_NEG {
            self.push(class | op, dst, 0, 0, 0);
        } else if self.rng.one_in(2) {
            let src = self.number();
            self.push(class | op | BPF_X, dst, src, off, 0);
        } else {
            let imm = match op {
                BPF_LSH | BPF_RSH | BPF_ARSH => self.rng.below(bits) as i32,
                BPF_DIV | BPF_MOD => match self.immediate() {
                    0 => 1,
                    imm => imm,
                },
                _ => self.immediate(),
            };
            self.push(class | op, dst, 0, off, imm);
        }
    }

    fn mov(&mut self) {
        let (dst, src) = (self.number(), self.number());
        let class = self.rng.pick(&[BPF_ALU, BPF_ALU64]);
        let widths: &[i16] = if class == BPF_ALU { &[0, 8, 16] } else { &[0, 8, 16, 32] };
        let off = self.rng.pick(widths);
        self.push(class | BPF_MOV | BPF_X, dst, src, off, 0);
    }

    fn swap(&mut self) {
        let (dst, width) = (self.number(), self.rng.pick(&[16, 32, 64]));
        let code = self.rng.pick(&[BPF_ALU, BPF_ALU | BPF_X, BPF_ALU64]);
        self.push(code | BPF_END, dst, 0, 0, width);
    }

    /// The size's code and its bytes.
    fn size(&mut self) -> (u8, i16) {
        self.rng.pick(&[(BPF_B, 1), (BPF_H, 2), (BPF_W, 4), (BPF_DW, 8)])
    }

    fn load_packet(&mut self, dst: u8) {
        let (size, bytes) = self.size();
        let off = self.rng.index(PACKET_LEN - bytes as usize + 1) as i16;
        let signed = bytes < 8 && self.rng.one_in(3);
        let mode = if signed { BPF_MEMSX } else { BPF_MEM };
        self.push(BPF_LDX | mode | size, dst, PACKET, off, 0);
    }

    fn packet(&mut self) {
        if self.rng.one_in(2) {
            let dst = self.number();
            return self.load_packet(dst);
        }
        let (size, bytes) = self.size();
        let off = self.rng.index(PACKET_LEN - bytes as usize + 1) as i16;
        self.store(size, PACKET, off);
    }

    fn store(&mut self, size: u8, dst: u8, off: i16) {
        if self.rng.one_in(3) {
            let imm = self.immediate();
            self.push(BPF_ST | BPF_MEM | size, dst, 0, off, imm);
        } else {
            let src = self.number();
            self.push(BPF_STX | BPF_MEM | size, dst, src, off, 0);
        }
    }

    /// Accesses to the stack are aligned, as the verifier wants them.
    fn stack(&mut self) {
        let (size, bytes) = self.size();
        let off = -bytes * (1 + self.rng.index((STACK / bytes) as usize) as i16);
        if self.rng.one_in(4) {
            return self.stack_at_a_number(size, bytes);
        }
        if self.rng.one_in(2) {
            let dst = self.number();
            let mode = if bytes < 8 && self.rng.one_in(3) { BPF_MEMSX } else { BPF_MEM };
            self.push(BPF_LDX | mode | size, dst, FP, off, 0);
        } else {
            self.store(size, FP, off);
        }
    }

    /// At an offset that is known only when the program runs. The number is added to the pointer and not the
    /// pointer to the number: 6.18 then takes the stack of a function for that of its caller.
    fn stack_at_a_number(&mut self, size: u8, bytes: i16) {
        let (index, value) = (self.number(), self.number());
        let base = if index == 0 { 1 } else { 0 };
        self.push(BPF_ALU64 | BPF_AND, index, 0, 0, i32::from((STACK - 1) & -bytes));
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, base, FP, 0, 0);
        self.push(BPF_ALU64 | BPF_ADD | BPF_X, base, index, 0, 0);
        if self.rng.one_in(2) || base == value {
            self.push(BPF_LDX | BPF_MEM | size, base, base, -STACK, 0);
        } else {
            self.push(BPF_STX | BPF_MEM | size, base, value, -STACK, 0);
            self.push(BPF_ALU64 | BPF_MOV, base, 0, 0, 0);
        }
    }

    fn atomic(&mut self) {
        let (size, bytes) = self.rng.pick(&[(BPF_W, 4), (BPF_DW, 8)]);
        let off = -bytes * (1 + self.rng.index((STACK / bytes) as usize) as i16);
        let src = self.number();
        let ops = [BPF_ADD, BPF_OR, BPF_AND, BPF_XOR].map(i32::from);
        let op = match self.rng.below(8) {
            0..=2 => self.rng.pick(&ops),
            3..=5 => self.rng.pick(&ops) | BPF_FETCH,
            6 => BPF_XCHG,
            _ => BPF_CMPXCHG,
        };
        self.push(BPF_STX | BPF_ATOMIC | size, FP, src, off, op);
        if op & BPF_FETCH != 0 {
            self.forget(if op == BPF_CMPXCHG { 0 } else { src });
        }
        if self.rng.one_in(3) {
            let (size, bytes) = self.size();
            let off = -bytes * (1 + self.rng.index((STACK / bytes) as usize) as i16);
            let reg = self.number();
            if self.rng.one_in(2) {
                self.push(BPF_STX | BPF_ATOMIC | size, reg, FP, off, BPF_LOAD_ACQ);
            } else {
                self.push(BPF_STX | BPF_ATOMIC | size, FP, reg, off, BPF_STORE_REL);
            }
        }
    }

    /// Sends a number through the packet, so that the verifier knows nothing of it. Through atomics that
    /// fetch, 6.18 does not follow where a number came from, and takes branches for dead that are not.
    fn forget(&mut self, reg: u8) {
        let off = self.rng.index(PACKET_LEN - 7) as i16;
        self.push(BPF_STX | BPF_MEM | BPF_DW, PACKET, reg, off, 0);
        self.push(BPF_LDX | BPF_MEM | BPF_DW, reg, PACKET, off, 0);
    }

    /// Some steps that are skipped under a condition, and perhaps others in their place.
    fn branch(&mut self, depth: usize) {
        self.branches += 1;
        let condition = self.condition();
        let steps = 1 + self.rng.index(5);
        self.steps(steps, depth + 1);
        if self.rng.one_in(2) {
            let over = self.out.len();
            if self.rng.one_in(2) {
                self.push(BPF_JMP | BPF_JA, 0, 0, 0, 0);
            } else {
                self.push(BPF_JMP32 | BPF_JA, 0, 0, 0, 0);
            }
            self.land(condition);
            let steps = 1 + self.rng.index(4);
            self.steps(steps, depth + 1);
            self.land(over);
        } else {
            self.land(condition);
        }
    }

    /// A conditional jump without a distance.
    fn condition(&mut self) -> usize {
        let class = self.rng.pick(&[BPF_JMP, BPF_JMP32]);
        let op = self.rng.pick(&[
            BPF_JEQ, BPF_JNE, BPF_JGT, BPF_JGE, BPF_JLT, BPF_JLE, BPF_JSET, BPF_JSGT, BPF_JSGE, BPF_JSLT,
            BPF_JSLE,
        ]);
        let dst = self.number();
        if self.rng.one_in(2) {
            let src = self.number();
            self.push(class | op | BPF_X, dst, src, 0, 0);
        } else {
            let imm = self.immediate();
            self.push(class | op, dst, 0, 0, imm);
        }
        self.out.len() - 1
    }

    /// Lets the jump at an instruction go to the next one to be written.
    fn land(&mut self, at: usize) {
        let distance = self.out.len() - at - 1;
        let insn = &mut self.out[at];
        if insn.code == BPF_JMP32 | BPF_JA {
            insn.imm = distance as i32;
        } else {
            insn.off = distance as i16;
        }
    }

    /// A loop of a few rounds without branches in it.
    fn repeat(&mut self) {
        let rounds = 2 + self.rng.index(5) as i32;
        let branches = std::mem::replace(&mut self.branches, BRANCHES_MAX);
        self.push(BPF_ALU64 | BPF_MOV, COUNTER, 0, 0, 0);
        let top = self.out.len();
        let bounded = self.rng.one_in(4);
        if bounded {
            self.push(BPF_JMP | BPF_JCOND, 0, 0, 0, 0);
        }
        let steps = 1 + self.rng.index(6);
        self.steps(steps, 1);
        self.push(BPF_ALU64 | BPF_ADD, COUNTER, 0, 0, 1);
        let back = -(self.out.len() as i64 - top as i64 + 1) as i16;
        self.push(BPF_JMP | BPF_JLT, COUNTER, 0, back, rounds);
        if bounded {
            self.land(top);
        }
        self.branches = branches;
    }

    /// A call of a function that takes and gives numbers; R1 to R5 are lost by it.
    fn call(&mut self) {
        // In the order of their first calls, so that there is none without a call.
        let known = self.calls.iter().map(|(_, f)| f + 1).max().unwrap_or(0);
        let function = self.rng.index(2).min(known);
        self.calls.push((self.out.len(), function));
        self.push(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 0);
        for reg in 1..=5 {
            self.load_number(reg);
        }
    }

    /// Writes a function and answers where it starts.
    fn function(&mut self) -> usize {
        let start = self.out.len();
        self.in_function = true;
        self.branches = BRANCHES_MAX - 2;
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, 0, 1, 0, 0);
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, 8, 2, 0, 0);
        let steps = 1 + self.rng.index(8);
        self.steps(steps, 1);
        for reg in 1..=5 {
            self.fold(reg);
        }
        self.push(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
        start
    }
}

/// A packet for such programs, with bytes that are often all zeroes or all ones.
#[must_use]
pub fn input(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = rng.bytes(PACKET_LEN);
    for word in bytes.chunks_mut(8) {
        if rng.one_in(2) {
            word.copy_from_slice(&rng.odd_number().to_le_bytes());
        }
    }
    bytes
}
