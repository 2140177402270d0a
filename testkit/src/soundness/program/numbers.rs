//! Steps with numbers: arithmetic, conditions, bounds.

use uapi::bpf::*;

use super::{FP, Feature, Gen, Jump, Kind, meet, slot_offset};

/// Operations that take a register or a constant.
const OPS: [u8; 12] = [
    BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_OR, BPF_AND, BPF_LSH, BPF_RSH, BPF_MOD, BPF_XOR, BPF_MOV,
    BPF_ARSH,
];
/// Conditions.
const TESTS: [u8; 11] =
    [BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET, BPF_JNE, BPF_JSGT, BPF_JSGE, BPF_JLT, BPF_JLE, BPF_JSLT, BPF_JSLE];

impl Gen<'_> {
    /// A register with a number, made if there is none.
    pub(super) fn number(&mut self) -> u8 {
        let all = self.holding(|k| k == Kind::Num);
        if !all.is_empty() && !self.rng.one_in(6) {
            return self.rng.pick(&all);
        }
        let r = self.fresh();
        self.unknown(r);
        r
    }

    /// Puts a number of which little is known into a register, or sometimes a constant.
    fn unknown(&mut self, r: u8) {
        let packets = self.holding(|k| matches!(k, Kind::Pkt(n) if n >= 8));
        let values = self.holding(|k| matches!(k, Kind::Value(_)));
        let size = self.rng.pick(&[BPF_B, BPF_H, BPF_W, BPF_DW]);
        match (self.rng.below(8), self.ctx) {
            (0, _) => self.constant(r),
            (1 | 2, _) if !values.is_empty() => {
                let from = self.rng.pick(&values);
                self.push(BPF_LDX | BPF_MEM | size, r, from, 0, 0);
            }
            (3..=5, _) if !packets.is_empty() => {
                let from = self.rng.pick(&packets);
                self.push(BPF_LDX | BPF_MEM | size, r, from, 0, 0);
            }
            (_, Some(ctx)) => {
                let field = self.rng.pick(&[12, 16]);
                self.push(BPF_LDX | BPF_MEM | BPF_W, r, ctx, field, 0);
            }
            _ => self.constant(r),
        }
        self.set(r, Kind::Num);
    }

    fn constant(&mut self, r: u8) {
        let v = self.rng.odd_number();
        if self.rng.one_in(3) { self.wide(r, 0, v as i32, (v >> 32) as i32) } else { self.mov(r, v as i32) }
    }

    /// A number that may be overwritten: a copy if need be.
    fn scratch_number(&mut self) -> u8 {
        let n = self.number();
        if self.locked & (1 << n) == 0 && self.rng.one_in(2) {
            return n;
        }
        let r = self.keeping(n, Self::fresh);
        let code = if self.rng.one_in(5) { BPF_ALU } else { BPF_ALU64 };
        self.push(code | BPF_MOV | BPF_X, r, n, 0, 0);
        self.set(r, Kind::Num);
        r
    }

    pub(super) fn arithmetic(&mut self) {
        self.feature(Feature::Alu);
        let dst = self.scratch_number();
        for _ in 0..=self.rng.below(4) {
            let op = self.rng.pick(&OPS);
            self.operation(op, dst);
        }
    }

    fn operation(&mut self, op: u8, dst: u8) {
        let (class, bits) = if self.rng.one_in(2) { (BPF_ALU64, 64) } else { (BPF_ALU, 32) };
        if self.rng.one_in(14) {
            return self.push(class | BPF_NEG, dst, 0, 0, 0);
        }
        if self.rng.one_in(3) {
            let src = self.keeping(dst, Self::number);
            return self.push(class | op | BPF_X, dst, src, 0, 0);
        }
        let shift = matches!(op, BPF_LSH | BPF_RSH | BPF_ARSH);
        let imm = match op {
            _ if shift => self.rng.below(bits) as i32,
            BPF_DIV | BPF_MOD => (self.rng.odd_number() as i32).max(1),
            _ => self.rng.odd_number() as i32,
        };
        self.push(class | op | BPF_K, dst, 0, 0, imm);
    }

    /// The rarer operations.
    pub(super) fn extension(&mut self) {
        self.feature(Feature::Extension);
        let dst = self.scratch_number();
        match self.rng.below(5) {
            0 | 1 => {
                let src = self.number();
                let (class, sizes): (u8, &[i16]) =
                    if self.rng.one_in(2) { (BPF_ALU64, &[8, 16, 32]) } else { (BPF_ALU, &[8, 16]) };
                let size = self.rng.pick(sizes);
                self.push(class | BPF_MOV | BPF_X, dst, src, size, 0);
            }
            2 => {
                let size = self.rng.pick(&[16, 32, 64]);
                let code = self.rng.pick(&[
                    BPF_ALU | BPF_END | BPF_TO_BE,
                    BPF_ALU | BPF_END | BPF_TO_LE,
                    BPF_ALU64 | BPF_END,
                ]);
                self.push(code, dst, 0, 0, size);
            }
            3 => {
                let class = self.rng.pick(&[BPF_ALU, BPF_ALU64]);
                let op = self.rng.pick(&[BPF_DIV, BPF_MOD]);
                let imm = self.rng.odd_number() as i32;
                self.push(class | op | BPF_K, dst, 0, 1, if imm == 0 { -1 } else { imm });
            }
            _ => {
                let src = self.number();
                let class = self.rng.pick(&[BPF_ALU, BPF_ALU64]);
                let op = self.rng.pick(&[BPF_DIV, BPF_MOD]);
                self.push(class | op | BPF_X, dst, src, 1, 0);
            }
        }
    }

    /// Some condition on numbers.
    fn condition(&mut self) -> Jump {
        let a = self.number();
        let class = if self.rng.one_in(3) { BPF_JMP32 } else { BPF_JMP };
        let op = self.rng.pick(&TESTS);
        if self.rng.one_in(3) {
            let b = self.keeping(a, Self::number);
            return self.jump(class | op | BPF_X, a, b, 0);
        }
        let imm = self.rng.odd_number() as i32;
        self.jump(class | op | BPF_K, a, 0, imm)
    }

    /// Code under a condition, with or without an alternative, or an early end.
    pub(super) fn branch(&mut self) {
        self.feature(Feature::Branch);
        let over = self.condition();
        if self.rng.one_in(5) && !self.in_callback() {
            self.mov(0, 1);
            self.push(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
            return self.land(over);
        }
        let with_else = self.rng.one_in(3);
        self.either(over, with_else);
    }

    /// Steps that `over` jumps over, and steps for when it does.
    pub(super) fn either(&mut self, over: Jump, with_else: bool) {
        let before = (self.regs, self.slots);
        self.nested();
        if !with_else {
            self.land(over);
            return self.join(before);
        }
        let end = self.goto();
        let after = (self.regs, self.slots);
        (self.regs, self.slots) = before;
        self.land(over);
        self.nested();
        self.land(end);
        self.join(after);
    }

    /// Goes on where another path, with this in registers and slots, joins.
    pub(super) fn join(&mut self, other: ([Kind; 10], [Kind; super::SLOTS])) {
        self.regs = meet(self.regs, other.0);
        self.slots = meet(self.slots, other.1);
    }

    pub(super) fn nested(&mut self) {
        self.nesting += 1;
        let n = if self.nesting > 3 { 0 } else { self.rng.below(3) };
        self.steps(n.max(1));
        self.nesting -= 1;
    }

    /// A bound for numbers that should be up to `limit`: nearly always that, in a sloppy program now and
    /// then too much.
    pub(super) fn limit(&mut self, limit: i32) -> i32 {
        if self.sloppy && self.rng.one_in(4) { limit + self.rng.range(1, 3) as i32 } else { limit }
    }

    /// Makes sure that the number in `r` is 0 to `limit`; the jumps go where it is not.
    pub(super) fn bound(&mut self, r: u8, limit: i32, out: &mut Vec<Jump>) {
        let limit = self.limit(limit);
        let width = 32 - (limit as u32 + 1).leading_zeros() - 1;
        match self.rng.below(11) {
            0 | 1 => self.alu(BPF_AND, r, (1 << width) - 1),
            2 => {
                let j = self.jump(BPF_JMP | BPF_JGT | BPF_K, r, 0, limit);
                out.push(j);
            }
            3 => {
                let j = self.jump(BPF_JMP | BPF_JGE | BPF_K, r, 0, limit + 1);
                out.push(j);
            }
            4 => {
                let j = self.jump(BPF_JMP | BPF_JSGT | BPF_K, r, 0, limit);
                out.push(j);
                let j = self.jump(BPF_JMP | BPF_JSLT | BPF_K, r, 0, 0);
                out.push(j);
            }
            5 => {
                let (op, v) = if self.rng.one_in(2) { (BPF_JLE, limit) } else { (BPF_JLT, limit + 1) };
                let fine = self.jump(BPF_JMP | op | BPF_K, r, 0, v);
                let j = self.goto();
                out.push(j);
                self.land(fine);
            }
            6 => {
                self.push(BPF_ALU | BPF_MOV | BPF_X, r, r, 0, 0);
                let j = self.jump(BPF_JMP32 | BPF_JGT | BPF_K, r, 0, limit);
                out.push(j);
            }
            7 => self.alu(BPF_MOD, r, limit + 1),
            8 => self.alu(BPF_RSH, r, 64 - width as i32),
            9 => {
                self.alu(BPF_AND, r, (1 << width) - 1);
                if limit + 1 > 1 << width {
                    let most = limit + 1 - (1 << width);
                    let n = self.rng.range(0, i64::from(most)) as i32;
                    self.alu(BPF_ADD, r, n);
                }
            }
            _ => self.bound_sum(r, limit, out),
        }
    }

    /// Compares a sum and takes it back.
    fn bound_sum(&mut self, r: u8, limit: i32, out: &mut Vec<Jump>) {
        let c = self.rng.range(1, 100) as i32;
        self.alu(BPF_ADD, r, c);
        let low = self.jump(BPF_JMP | BPF_JLT | BPF_K, r, 0, c);
        out.push(low);
        let high = self.jump(BPF_JMP | BPF_JGT | BPF_K, r, 0, limit + c);
        out.push(high);
        self.alu(BPF_SUB, r, c);
    }

    /// Bounds one copy of a number and uses another.
    pub(super) fn linked(&mut self) {
        self.feature(Feature::Linked);
        let Some((pointer, size)) = self.room() else { return self.arithmetic() };
        self.keeping(pointer, |g| {
            let n = g.scratch_number();
            g.keeping(n, |g| g.linked_access(n, pointer, size));
        });
    }

    fn linked_access(&mut self, n: u8, pointer: u8, room: u16) {
        let mut out = Vec::new();
        let delta =
            if self.rng.one_in(2) { self.rng.range(0, i64::from(room.min(16)) - 1) as i32 } else { 0 };
        let before = (self.regs, self.slots);
        let copy = self.fresh();
        let through_stack = self.rng.one_in(3);
        if through_stack {
            let slot = self.rng.index(self.free_slots);
            self.push(BPF_STX | BPF_MEM | BPF_DW, FP, n, slot_offset(slot), 0);
            self.bound(n, i32::from(room) - 1 - delta, &mut out);
            self.push(BPF_LDX | BPF_MEM | BPF_DW, copy, FP, slot_offset(slot), 0);
            self.slots[slot] = Kind::Num;
        } else {
            if self.rng.one_in(4) {
                self.push(BPF_ALU | BPF_MOV | BPF_X, n, n, 0, 0);
            }
            self.mov_reg(copy, n);
            if delta != 0 {
                let class = self.rng.pick(&[BPF_ALU64, BPF_ALU64, BPF_ALU]);
                self.push(class | BPF_ADD | BPF_K, copy, 0, 0, delta);
            }
            self.bound(n, i32::from(room) - 1 - delta, &mut out);
        }
        self.set(copy, Kind::Num);
        self.keeping(copy, |g| g.touch_at(pointer, copy, 1));
        for j in out {
            self.land(j);
        }
        self.join((before.0, meet(self.slots, before.1)));
    }
}
