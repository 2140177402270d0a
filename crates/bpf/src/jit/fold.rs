//! Making nodes, simplified: constants are computed, steps without effect vanish, sequences of shifts
//! become the extension or rotation they mean.
//!
//! All rules are local and look at most two nodes back, so making a node takes constant time.

use super::asm::{Cond, Size, Width};
use super::facts::Class;
use super::node::{Graph, Id, Node, Op, Test, WIDE};

/// Bits of a width.
pub(super) const fn width_bits(w: Width) -> u8 {
    match w {
        Width::W32 => 32,
        Width::W64 => 64,
    }
}

/// Bits that a constant has.
pub(super) const fn bits_of(v: u64) -> u8 {
    (64 - v.leading_zeros()) as u8
}

/// Whether a constant can be part of an instruction.
pub(super) const fn fits32(v: i64) -> bool {
    v as i32 as i64 == v
}

/// All ones below `2^bits`.
const fn ones(bits: u8) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// A value cut to a width.
const fn cut(w: Width, v: u64) -> u64 {
    match w {
        Width::W32 => v as u32 as u64,
        Width::W64 => v,
    }
}

/// A value as an instruction's immediate: 32-bit operations take it sign-extended.
const fn immediate(w: Width, v: u64) -> i64 {
    match w {
        Width::W32 => v as i32 as i64,
        Width::W64 => v as i64,
    }
}

/// What an operation makes of two constants, with the BPF rules for division.
pub(super) fn eval(op: Op, w: Width, a: u64, b: u64) -> u64 {
    match w {
        Width::W32 => u64::from(eval32(op, a as u32, b as u32)),
        Width::W64 => eval64(op, a, b),
    }
}

fn eval32(op: Op, a: u32, b: u32) -> u32 {
    match op {
        Op::Shr => a >> (b & 31),
        Op::Shl => a << (b & 31),
        Op::Sar => ((a as i32) >> (b & 31)) as u32,
        Op::Rol => a.rotate_left(b & 31),
        Op::Div => a.checked_div(b).unwrap_or(0),
        Op::Mod => a.checked_rem(b).unwrap_or(a),
        Op::Sdiv if b == 0 => 0,
        Op::Sdiv => (a as i32).wrapping_div(b as i32) as u32,
        Op::Smod if b == 0 => a,
        Op::Smod => (a as i32).wrapping_rem(b as i32) as u32,
        _ => eval64(op, u64::from(a), u64::from(b)) as u32,
    }
}

fn eval64(op: Op, a: u64, b: u64) -> u64 {
    match op {
        Op::Add => a.wrapping_add(b),
        Op::Sub => a.wrapping_sub(b),
        Op::Mul => a.wrapping_mul(b),
        Op::And => a & b,
        Op::Or => a | b,
        Op::Xor => a ^ b,
        Op::Shl => a << (b & 63),
        Op::Shr => a >> (b & 63),
        Op::Sar => ((a as i64) >> (b & 63)) as u64,
        Op::Rol => a.rotate_left((b & 63) as u32),
        Op::Div => a.checked_div(b).unwrap_or(0),
        Op::Mod => a.checked_rem(b).unwrap_or(a),
        Op::Sdiv if b == 0 => 0,
        Op::Sdiv => (a as i64).wrapping_div(b as i64) as u64,
        Op::Smod if b == 0 => a,
        Op::Smod => (a as i64).wrapping_rem(b as i64) as u64,
        _ => unreachable!("{op:?} is no two-operand arithmetic"),
    }
}

impl Graph {
    /// A constant.
    pub(super) fn konst(&mut self, v: u64) -> Id {
        let mut n = Node::new(Op::Const, Width::W64);
        n.imm = v as i64;
        n.bits = bits_of(v);
        if n.bits <= 32 || fits32(n.imm) {
            return self.push(n);
        }
        let place = (v.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61) as usize % WIDE;
        match self.wide[place] {
            Some(id) if self[id].imm == n.imm => id,
            _ => {
                let id = self.push(n);
                self.wide[place] = Some(id);
                id
            }
        }
    }

    /// A node of one or two operands and a constant, as it is.
    fn make(&mut self, op: Op, w: Width, (a, b, imm): (Id, Id, i64), bits: u8) -> Id {
        let mut n = Node::new(op, w);
        (n.a, n.b, n.imm, n.bits) = (a, b, imm, bits.min(width_bits(w)));
        self.push(n)
    }

    /// The node whose lowest 32 bits are the same, with as little as possible before it.
    fn low32(&self, mut id: Id) -> Id {
        loop {
            let n = &self[id];
            let passes = match n.op {
                Op::Zext => true,
                Op::Sext => n.imm == 32,
                _ => false,
            };
            if !passes {
                return id;
            }
            id = n.a;
        }
    }

    fn operand(&self, w: Width, id: Id) -> Id {
        match w {
            Width::W32 => self.low32(id),
            Width::W64 => id,
        }
    }

    /// Bits of an operand as an operation of a width sees it.
    fn bits_at(&self, w: Width, id: Id) -> u8 {
        self.bits(id).min(width_bits(w))
    }

    /// The value itself as the result of an operation of a width.
    fn same(&mut self, w: Width, id: Id) -> Id {
        match w {
            Width::W32 => self.zext(id),
            Width::W64 => id,
        }
    }

    /// `a op b`.
    pub(super) fn bin(&mut self, op: Op, w: Width, a: Id, b: Id) -> Id {
        let (a, mut b) = (self.operand(w, a), self.operand(w, b));
        match (self.constant(a), self.constant(b)) {
            (Some(x), Some(y)) => return self.konst(eval(op, w, cut(w, x), cut(w, y))),
            (_, Some(y)) => return self.bin_imm(op, w, a, y),
            (Some(x), None) if op.commutes() => return self.bin_imm(op, w, b, x),
            _ => {}
        }
        if a == b {
            match op {
                Op::Sub | Op::Xor => return self.konst(0),
                Op::And | Op::Or => return self.same(w, a),
                _ => {}
            }
        }
        if matches!(op, Op::Shl | Op::Shr | Op::Sar) {
            b = self.shift_count(w, b);
        }
        if matches!(op, Op::Or | Op::Xor | Op::Add)
            && let Some(id) = self.rotation(w, a, b)
        {
            return id;
        }
        let bits = self.result_bits(op, w, a, b);
        let w = if bits <= 32 && narrows(op) && self.bits(a) <= 32 && self.bits(b) <= 32 {
            Width::W32
        } else {
            w
        };
        let id = self.make(op, w, (a, b, 0), bits);
        if op == Op::Add && w == Width::W64 {
            self[id].class = self.pointer_class(a, b);
        }
        id
    }

    /// Of a sum, one part is the pointer.
    fn pointer_class(&self, a: Id, b: Id) -> Class {
        match (self[a].class, self[b].class) {
            (Class::Unknown, c) | (c, Class::Unknown) => c,
            _ => Class::Unknown,
        }
    }

    fn result_bits(&self, op: Op, w: Width, a: Id, b: Id) -> u8 {
        let (x, y) = (self.bits_at(w, a), self.bits_at(w, b));
        match op {
            Op::Add => x.max(y).saturating_add(1),
            Op::Mul => x.saturating_add(y),
            Op::And => x.min(y),
            Op::Or | Op::Xor => x.max(y),
            Op::Shr | Op::Div | Op::Mod => x,
            _ => 64,
        }
    }

    /// A count without a mask that the operation has by itself.
    fn shift_count(&self, w: Width, b: Id) -> Id {
        let n = &self[b];
        let mask = i64::from(width_bits(w) - 1);
        if n.op == Op::And && n.b == Id::NONE && n.imm & mask == mask { n.a } else { b }
    }

    /// `x << k | x >> (w - k)`.
    fn rotation(&mut self, w: Width, a: Id, b: Id) -> Option<Id> {
        let (l, r) = match (self[a].op, self[b].op) {
            (Op::Shl, Op::Shr) => (self[a], self[b]),
            (Op::Shr, Op::Shl) => (self[b], self[a]),
            _ => return None,
        };
        let constant = l.b == Id::NONE && r.b == Id::NONE;
        let whole = l.imm + r.imm == i64::from(width_bits(w));
        // A 32-bit shift to the right reads the same lowest bits as one of the other width only if it was
        // made in the same width.
        if !constant || !whole || l.a != r.a || l.w != w || r.w != w {
            return None;
        }
        Some(self.make(Op::Rol, w, (l.a, Id::NONE, l.imm), 64))
    }

    /// `a op imm`.
    pub(super) fn bin_imm(&mut self, op: Op, w: Width, a: Id, imm: u64) -> Id {
        let a = self.operand(w, a);
        let imm = cut(w, imm);
        if let Some(x) = self.constant(a) {
            return self.konst(eval(op, w, cut(w, x), imm));
        }
        match op {
            Op::Sub => self.add_imm(w, a, cut(w, imm.wrapping_neg())),
            Op::Add => self.add_imm(w, a, imm),
            Op::And => self.and_imm(w, a, imm),
            Op::Or | Op::Xor if imm == 0 => self.same(w, a),
            Op::Shl | Op::Shr | Op::Sar => {
                self.shift_imm(op, w, a, (imm & u64::from(width_bits(w) - 1)) as u8)
            }
            Op::Mul if imm == 0 => self.konst(0),
            Op::Mul if imm.is_power_of_two() => self.shift_imm(Op::Shl, w, a, imm.trailing_zeros() as u8),
            Op::Div if imm == 0 => self.konst(0),
            Op::Mod | Op::Smod if imm == 0 => self.same(w, a),
            Op::Div if imm.is_power_of_two() => self.shift_imm(Op::Shr, w, a, imm.trailing_zeros() as u8),
            Op::Mod if imm.is_power_of_two() => self.and_imm(w, a, imm - 1),
            _ => self.with_imm(op, w, a, imm),
        }
    }

    fn add_imm(&mut self, w: Width, a: Id, imm: u64) -> Id {
        let n = self[a];
        let total = immediate(w, imm.wrapping_add(n.imm as u64));
        match n.op {
            _ if imm == 0 => self.same(w, a),
            Op::Frame if w == Width::W64 && fits32(total) => self.frame(total),
            Op::Add if n.b == Id::NONE && n.w == w && fits32(total) => {
                if total == 0 {
                    return self.same(w, n.a);
                }
                self.with_imm(Op::Add, w, n.a, total as u64)
            }
            _ => self.with_imm(Op::Add, w, a, imm),
        }
    }

    /// Address of the frame's end plus something.
    pub(super) fn frame(&mut self, offset: i64) -> Id {
        let mut n = Node::new(Op::Frame, Width::W64);
        (n.imm, n.class) = (offset, Class::Stack);
        self.push(n)
    }

    fn and_imm(&mut self, w: Width, a: Id, imm: u64) -> Id {
        let n = self[a];
        let seen = ones(self.bits_at(w, a));
        if imm & seen == 0 {
            return self.konst(0);
        }
        if imm & seen == seen {
            return self.same(w, a);
        }
        if imm == ones(32) {
            return self.zext(a);
        }
        if n.op == Op::And && n.b == Id::NONE {
            let both = cut(w, imm & cut(n.w, n.imm as u64));
            return self.and_imm(w, n.a, both);
        }
        // A mask without upper half needs no 64-bit operation.
        if w == Width::W64 && imm <= ones(32) {
            self.and_imm(Width::W32, a, imm)
        } else {
            self.with_imm(Op::And, w, a, imm)
        }
    }

    fn shift_imm(&mut self, op: Op, w: Width, a: Id, k: u8) -> Id {
        if k == 0 {
            return self.same(w, a);
        }
        let n = self[a];
        let total = n.imm + i64::from(k);
        let stacked = n.op == op && n.b == Id::NONE && n.w == w && total < i64::from(width_bits(w));
        match op {
            Op::Shr if self.bits_at(w, a) <= k => return self.konst(0),
            Op::Sar if self.bits(a) < width_bits(w) => return self.shift_imm(Op::Shr, w, a, k),
            _ if stacked => return self.with_imm(op, w, n.a, total as u64),
            Op::Shr | Op::Sar if n.op == Op::Shl && n.b == Id::NONE && n.w == w && n.imm == i64::from(k) => {
                if let Some(id) = self.extension(op, w, n.a, k) {
                    return id;
                }
            }
            _ => {}
        }
        self.with_imm(op, w, a, u64::from(k))
    }

    /// `x << k >> k`.
    fn extension(&mut self, op: Op, w: Width, x: Id, k: u8) -> Option<Id> {
        let kept = width_bits(w) - k;
        if op == Op::Shr {
            return (kept <= 32).then(|| self.and_imm(w, x, ones(kept)));
        }
        matches!(kept, 8 | 16 | 32).then(|| self.sext(w, kept, x))
    }

    /// The node of an operation with a constant, which is put where it fits.
    fn with_imm(&mut self, op: Op, w: Width, a: Id, imm: u64) -> Id {
        let bits = match op {
            Op::Add => sum_bits(self.bits_at(w, a), imm, w),
            Op::Mul => self.bits_at(w, a).saturating_add(bits_of(imm)),
            Op::And => self.bits_at(w, a).min(bits_of(imm)),
            Op::Or | Op::Xor => self.bits_at(w, a).max(bits_of(imm)),
            Op::Shl => self.bits_at(w, a).saturating_add(imm as u8),
            Op::Shr => self.bits_at(w, a).saturating_sub(imm as u8),
            Op::Div => self.bits_at(w, a),
            Op::Mod => self.bits_at(w, a).min(bits_of(imm - 1)),
            _ => 64,
        };
        let narrow =
            w == Width::W64 && bits <= 32 && self.bits(a) <= 32 && bits_of(imm) <= 32 && narrows_imm(op);
        let w = if narrow { Width::W32 } else { w };
        let value = immediate(w, imm);
        let class = if op == Op::Add && w == Width::W64 { self[a].class } else { Class::Unknown };
        let id = if fits32(value) {
            self.make(op, w, (a, Id::NONE, value), bits)
        } else {
            let b = self.konst(imm);
            self.make(op, w, (a, b, 0), bits)
        };
        self[id].class = class;
        id
    }

    /// The lowest 32 bits.
    pub(super) fn zext(&mut self, a: Id) -> Id {
        let a = self.low32(a);
        if let Some(v) = self.constant(a) {
            return self.konst(cut(Width::W32, v));
        }
        let bits = self.bits(a);
        if bits <= 32 { a } else { self.make(Op::Zext, Width::W32, (a, Id::NONE, 0), 32) }
    }

    /// The lowest `from` bits sign-extended to a width.
    pub(super) fn sext(&mut self, w: Width, from: u8, a: Id) -> Id {
        let a = if from <= 32 { self.low32(a) } else { a };
        if from >= width_bits(w) {
            return self.same(w, a);
        }
        if let Some(v) = self.constant(a) {
            let shift = 64 - from;
            return self.konst(cut(w, (((v << shift) as i64) >> shift) as u64));
        }
        if self.bits(a) < from { a } else { self.make(Op::Sext, w, (a, Id::NONE, i64::from(from)), 64) }
    }

    /// The lowest `n` bits.
    pub(super) fn truncate(&mut self, n: u8, a: Id) -> Id {
        match n {
            64 => a,
            32 => self.zext(a),
            _ => self.bin_imm(Op::And, Width::W32, a, ones(n)),
        }
    }

    /// The lowest `n` bits with their bytes reversed.
    pub(super) fn bswap(&mut self, n: u8, a: Id) -> Id {
        let a = if n <= 32 { self.low32(a) } else { a };
        if let Some(v) = self.constant(a) {
            return self.konst(v.swap_bytes() >> (64 - n));
        }
        let x = self[a];
        if x.op == Op::Bswap && x.imm == i64::from(n) {
            return self.truncate(n, x.a);
        }
        let w = if n == 64 { Width::W64 } else { Width::W32 };
        self.make(Op::Bswap, w, (a, Id::NONE, i64::from(n)), n)
    }

    /// `-a`.
    pub(super) fn neg(&mut self, w: Width, a: Id) -> Id {
        let a = self.operand(w, a);
        match self.constant(a) {
            Some(v) => self.konst(cut(w, v.wrapping_neg())),
            None => self.make(Op::Neg, w, (a, Id::NONE, 0), 64),
        }
    }

    /// Base and displacement that an address is made of.
    pub(super) fn address(&self, base: Id, offset: i64) -> (Id, i64) {
        let n = &self[base];
        let total = n.imm.wrapping_add(offset);
        if n.op == Op::Frame {
            return (Id::FRAME, total);
        }
        if n.op == Op::Add && n.b == Id::NONE && n.w == Width::W64 && fits32(total) {
            return (n.a, total);
        }
        (base, offset)
    }

    /// `size` bytes at an address, zero-extended.
    pub(super) fn load(&mut self, size: Size, base: Id, disp: i64, class: Class) -> Id {
        let w = if size == Size::D { Width::W64 } else { Width::W32 };
        let id = self.make(Op::Load, w, (base, Id::NONE, disp), size.bytes() * 8);
        (self[id].size, self[id].mem) = (size, class);
        id
    }

    /// What a comparison comes to if it is decided already.
    pub(super) fn decided(&self, test: Test, w: Width, a: Id, b: Id) -> Option<bool> {
        let (x, y) = (self.constant(a)?, self.constant(b)?);
        Some(test.holds(w, x, y))
    }

    /// A comparison in its simplest form: test, width, first operand, second operand or a constant.
    pub(super) fn comparison(&mut self, test: Test, w: Width, a: Id, b: Id) -> (Test, Width, Id, Id, i64) {
        let (mut test, mut w) = (test, w);
        let (mut a, mut b) = (self.operand(w, a), self.operand(w, b));
        if self.constant(a).is_some() {
            (a, b) = (b, a);
            if let Test::Compare(c) = test {
                test = Test::Compare(c.swapped());
            }
        }
        let Some(imm) = self.constant(b).map(|v| cut(w, v)) else {
            if w == Width::W64 && narrow_test(test, self.bits(a).max(self.bits(b))) {
                w = Width::W32;
            }
            return (test, w, a, b, 0);
        };
        self.comparison_imm(test, w, a, (b, imm))
    }

    fn comparison_imm(
        &mut self,
        test: Test,
        w: Width,
        a: Id,
        (mut b, imm): (Id, u64),
    ) -> (Test, Width, Id, Id, i64) {
        let (mut test, mut w, mut a, mut imm) = (test, w, a, imm);
        if let (Test::Compare(c), 0) = (test, imm >> 1) {
            test = match (c, imm) {
                (Cond::A, 0) | (Cond::Ae, 1) => Test::Compare(Cond::Ne),
                (Cond::Be, 0) | (Cond::B, 1) => Test::Compare(Cond::E),
                _ => test,
            };
            if matches!((c, imm), (Cond::Ae | Cond::B, 1)) {
                imm = 0;
            }
        }
        let equality = matches!(test, Test::Compare(Cond::E | Cond::Ne));
        let n = self[a];
        // The number in its own byte order is as good for finding equality.
        let whole = n.op == Op::Bswap && n.imm <= i64::from(width_bits(w)) && self.bits(n.a) <= n.imm as u8;
        if equality && whole && bits_of(imm) <= n.imm as u8 {
            imm = imm.swap_bytes() >> (64 - n.imm);
            (a, b) = (n.a, self.konst(imm));
        }
        if w == Width::W64 && narrow_test(test, self.bits(a).max(bits_of(imm))) {
            w = Width::W32;
        }
        let n = self[a];
        if equality && imm == 0 && n.op == Op::Select && w == Width::W64 {
            // What is selected is never null: only the choice counts.
            let is_null = test == Test::Compare(Cond::E);
            let test = Test::Compare(if is_null { Cond::Ae } else { Cond::B });
            return (test, Width::W32, n.b, Id::NONE, i64::from(n.imm as i32));
        }
        if equality && imm == 0 && n.op == Op::And && n.w == w {
            let any = test == Test::Compare(Cond::Ne);
            return (if any { Test::AnyBit } else { Test::NoBit }, w, n.a, n.b, n.imm);
        }
        let value = immediate(w, imm);
        if fits32(value) { (test, w, a, Id::NONE, value) } else { (test, w, a, b, 0) }
    }
}

/// Bits of a sum with a constant.
fn sum_bits(a: u8, imm: u64, w: Width) -> u8 {
    // Of a negative constant nothing is known: the sum may wrap either way.
    if bits_of(imm) >= width_bits(w) { 64 } else { a.max(bits_of(imm)).saturating_add(1) }
}

/// Whether values below `2^bits` compare the same in 32 bits.
const fn narrow_test(test: Test, bits: u8) -> bool {
    let signed = matches!(test, Test::Compare(Cond::L | Cond::Ge | Cond::Le | Cond::G | Cond::S | Cond::Ns));
    bits < 32 || (bits == 32 && !signed)
}

/// Whether the 32-bit operation gives the same result if operands and result have no upper half.
const fn narrows(op: Op) -> bool {
    matches!(op, Op::Add | Op::Mul | Op::And | Op::Or | Op::Xor | Op::Div | Op::Mod)
}

/// The same for constants, where shift counts are known.
const fn narrows_imm(op: Op) -> bool {
    narrows(op) || matches!(op, Op::Shl | Op::Shr)
}
