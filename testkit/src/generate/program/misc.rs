//! Steps of arithmetic, calls, and helpers that concern neither packet nor maps.

use uapi::bpf::*;

use super::maps::*;
use super::{AUX, BUF, Builder, CTX, FP, KEY, SUM as SUM_REG, SubprogKind, VALUE};

/// Helpers without arguments whose answers follow the script.
const CLOCKS: [i32; 8] = [
    func::KTIME_GET_NS,
    func::KTIME_GET_BOOT_NS,
    func::KTIME_GET_COARSE_NS,
    func::KTIME_GET_TAI_NS,
    func::JIFFIES64,
    func::GET_PRANDOM_U32,
    func::GET_SMP_PROCESSOR_ID,
    func::GET_NUMA_NODE_ID,
];

impl Builder<'_> {
    pub(super) fn misc_step(&mut self) {
        match self.rng.below(14) {
            0 | 1 => {
                let helper = self.rng.pick(&CLOCKS);
                self.call(helper);
                self.fold();
            }
            2 => self.csum_diff(),
            3 => self.redirect(),
            4 => self.send(),
            5 => self.reserve(),
            6 => self.parse_number(),
            7 => self.strncmp(),
            8 => self.snprintf(),
            9 => self.stack_atomic(),
            10 => {
                self.code.mov_reg(1, SUM_REG);
                self.code.mov_reg(2, AUX);
                self.use_subprog(SubprogKind::Mix, None);
                self.fold();
            }
            11 => self.loop_helper(),
            12 => self.for_each(),
            _ if self.may_tail_call => self.tail_call(),
            _ => self.arithmetic(),
        }
    }

    /// A few operations on the two numbers.
    pub(super) fn arithmetic(&mut self) {
        for _ in 0..=self.rng.below(4) {
            let (dst, src) = self.rng.pick(&[(SUM_REG, AUX), (AUX, SUM_REG), (AUX, AUX)]);
            self.operation(dst, src);
        }
    }

    fn operation(&mut self, dst: u8, src: u8) {
        let wide = self.rng.one_in(2);
        let (class, bits) = if wide { (BPF_ALU64, 64) } else { (BPF_ALU, 32) };
        let imm = self.rng.odd_number() as i32;
        let source = self.rng.pick(&[BPF_K, BPF_X]);
        let operand = |op: u8, off: i16, imm: i32| {
            let (src, imm) = if source == BPF_X { (src, 0) } else { (0, imm) };
            (class | op | source, dst, src, off, imm)
        };
        let (code, dst, src, off, imm) = match self.rng.below(12) {
            0..=4 => {
                let op = self.rng.pick(&[BPF_ADD, BPF_SUB, BPF_MUL, BPF_OR, BPF_AND, BPF_XOR]);
                operand(op, 0, imm)
            }
            5 => {
                let op = self.rng.pick(&[BPF_LSH, BPF_RSH, BPF_ARSH]);
                // A shift by a register beyond the width is masked; by a constant it is refused.
                operand(op, 0, imm & (bits - 1))
            }
            6 => {
                let op = self.rng.pick(&[BPF_DIV, BPF_MOD]);
                let signed = i16::from(self.rng.one_in(2));
                operand(op, signed, if imm == 0 { 7 } else { imm })
            }
            7 => (class | BPF_NEG, dst, 0, 0, 0),
            8 => {
                let width = self.rng.pick(&[16, 32, 64]);
                let class = self.rng.pick(&[BPF_ALU, BPF_ALU64]);
                let to = if class == BPF_ALU { self.rng.pick(&[BPF_TO_LE, BPF_TO_BE]) } else { 0 };
                (class | BPF_END | to, dst, 0, 0, width)
            }
            9 => {
                let widths: &[i16] = if wide { &[8, 16, 32] } else { &[8, 16] };
                (class | BPF_MOV | BPF_X, dst, src, self.rng.pick(widths), 0)
            }
            _ => operand(BPF_MOV, 0, imm),
        };
        self.code.push(code, dst, src, off, imm);
    }

    fn csum_diff(&mut self) {
        let len = |b: &mut Self| b.rng.pick(&[0, 4, 20, 32, 64, 3, 7, 1]);
        let (from, to) = (len(self), len(self));
        let c = &mut self.code;
        c.stack(1, BUF);
        c.mov(2, from);
        c.stack(3, BUF);
        c.mov(4, to);
        c.mov_reg(5, if self.rng.one_in(2) { SUM_REG } else { AUX });
        self.call(func::CSUM_DIFF);
        self.fold();
    }

    fn redirect(&mut self) {
        let ifindex = self.rng.below(4) as i32;
        self.code.mov(1, ifindex);
        let flags = self.rng.pick(&[0, 0, 1, 8]);
        self.code.mov(2, flags);
        self.call(func::REDIRECT);
        self.fold();
    }

    /// `strtol` and `strtoul` of the buffer, which often begins with digits.
    fn parse_number(&mut self) {
        let len = self.rng.range(1, 64) as i32;
        let base = self.rng.pick(&[0, 8, 10, 16, 16, 2, 99]);
        let c = &mut self.code;
        c.st(BPF_DW, FP, VALUE, 0);
        c.stack(1, BUF);
        c.mov(2, len);
        c.mov(3, base);
        c.stack(4, VALUE);
        let helper = self.rng.pick(&[func::STRTOL, func::STRTOUL]);
        self.call(helper);
        self.fold();
        self.code.ldx(BPF_DW, 0, FP, VALUE);
        self.fold();
    }

    fn strncmp(&mut self) {
        let len = self.rng.range(1, 64) as i32;
        let text = self.rng.pick(&[0, 16, 32, 48]);
        let c = &mut self.code;
        c.stack(1, BUF);
        c.mov(2, len);
        c.ld_map_value(3, TEXTS, text);
        self.call(func::STRNCMP);
        // Only the sign has a meaning.
        self.code.push(BPF_ALU64 | BPF_ARSH | BPF_K, 0, 0, 0, 63);
        self.fold();
    }

    fn snprintf(&mut self) {
        let (text, args) = self.rng.pick(&FORMATS);
        let size = self.rng.pick(&[32, 8, 1, 64]);
        let c = &mut self.code;
        for i in 0..3 {
            c.stx(BPF_DW, FP, if i % 2 == 0 { SUM_REG } else { AUX }, VALUE + 8 * i);
        }
        c.stack(1, BUF);
        c.mov(2, size);
        c.ld_map_value(3, TEXTS, text);
        c.stack(4, VALUE);
        c.mov(5, 8 * args as i32);
        self.call(func::SNPRINTF);
        self.fold();
        self.code.ldx(BPF_DW, 0, FP, BUF);
        self.fold();
    }

    fn stack_atomic(&mut self) {
        let slot = -8 * self.rng.range(1, 8) as i16;
        self.atomic(FP, slot);
    }

    fn tail_call(&mut self) {
        self.code.ldx_sum_to_map();
        self.code.mov_reg(1, CTX);
        self.code.ld_map(2, JUMPS);
        let index = self.rng.pick(&[0, 1, 1, 2, 3, 4, 77]);
        self.code.mov(3, index);
        self.call(func::TAIL_CALL);
        self.code.alu_imm(BPF_ADD, SUM_REG, 3);
    }

    fn loop_helper(&mut self) {
        let times = self.rng.pick(&[0, 1, 3, 10, 1 << 23, (1 << 23) + 1]);
        // The callback ends early, so even a great number takes no time.
        self.code.mov(1, times);
        self.use_subprog(SubprogKind::LoopBody, Some(2));
        self.code.mov(3, 0);
        let flags = if self.rng.one_in(8) { 1 } else { 0 };
        self.code.mov(4, flags);
        self.call(func::LOOP);
        self.fold();
    }

    fn for_each(&mut self) {
        let map = self.rng.pick(&[ARRAY, HASH, PERCPU_ARRAY, PERCPU_HASH]);
        self.code.ld_map(1, map);
        self.use_subprog(SubprogKind::EachElem, Some(2));
        self.code.mov(3, 0);
        let flags = if self.rng.one_in(8) { 1 } else { 0 };
        self.code.mov(4, flags);
        self.call(func::FOR_EACH_MAP_ELEM);
        self.fold();
    }

    /// `u64 mix(u64 a, u64 b)`: arithmetic, a clock, and memory of its own.
    pub(super) fn mix_body(&mut self) {
        let c = &mut self.code;
        c.stx(BPF_DW, FP, 1, -8);
        c.mov_reg(SUM_REG, 1);
        c.mov_reg(AUX, 2);
        for _ in 0..3 {
            self.operation(SUM_REG, AUX);
        }
        if self.rng.one_in(2) {
            let helper = self.rng.pick(&CLOCKS);
            self.call(helper);
            self.code.alu_reg(BPF_XOR, SUM_REG, 0);
        }
        self.code.ldx(BPF_DW, 0, FP, -8);
        self.code.alu_reg(BPF_ADD, 0, SUM_REG);
        self.code.exit();
    }

    /// `long loop_body(u64 i, void *)`: adds to a value; ends after the fifth turn.
    pub(super) fn loop_body(&mut self) {
        let c = &mut self.code;
        c.mov_reg(SUM_REG, 1);
        c.ld_map_value(2, CELL, 0);
        c.push(BPF_STX | BPF_ATOMIC | BPF_DW, 2, 1, 0, i32::from(BPF_ADD));
        c.mov(0, 0);
        let more = c.jump_imm(BPF_JLT, SUM_REG, 5);
        c.mov(0, 1);
        c.land(more);
        c.exit();
    }

    /// `long each_elem(map, key, value, void *)`: adds to a sum, since elements of a hash table have no
    /// order.
    pub(super) fn each_elem_body(&mut self) {
        let c = &mut self.code;
        c.ldx(BPF_DW, 1, 3, 8);
        c.ldx(BPF_W, 4, 2, 0);
        c.alu_reg(BPF_ADD, 1, 4);
        c.ld_map_value(2, CELL, 8);
        c.push(BPF_STX | BPF_ATOMIC | BPF_DW, 2, 1, 0, i32::from(BPF_ADD));
        c.mov(0, 0);
        c.exit();
    }
}

impl super::code::Code {
    /// Stores the sum where the epilogue would, since a tail call does not come back.
    fn ldx_sum_to_map(&mut self) {
        self.ld_map_value(1, SUM, 0);
        self.stx(BPF_DW, 1, SUM_REG, 0);
        self.st(BPF_W, FP, KEY, 0);
    }
}
