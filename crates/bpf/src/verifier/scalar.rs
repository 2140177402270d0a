//! Arithmetic on what is known of scalars.
//!
//! One function per operation and width, each giving the kernel's bounds: overflow makes a bound
//! unknown, and what one view loses, [`Reg::bounds_sync`] may win back from another.

use uapi::bpf::*;

use super::reg::Reg;
use super::tnum::Tnum;
use crate::insn::Insn;

/// Whether the result of the operation can be computed from what is known of the operand.
pub(super) fn is_computable(insn: &Insn, src: &Reg) -> bool {
    let alu32 = insn.class() != BPF_ALU64;
    let src_const = if alu32 {
        src.var_off.subreg_is_const() && src.s32_min == src.s32_max && src.u32_min == src.u32_max
    } else {
        src.var_off.is_const() && src.smin == src.smax && src.umin == src.umax
    };
    match insn.op() {
        BPF_ADD | BPF_SUB | BPF_NEG | BPF_AND | BPF_XOR | BPF_OR | BPF_MUL | BPF_END => true,
        BPF_LSH | BPF_RSH | BPF_ARSH => src_const && src.umax < if alu32 { 32 } else { 64 },
        _ => false,
    }
}

/// Applies an operation that is [`is_computable`] to `d`.
pub(super) fn compute(insn: &Insn, d: &mut Reg, s: &Reg) {
    let alu32 = insn.class() != BPF_ALU64;
    match insn.op() {
        BPF_ADD => d.add(s),
        BPF_SUB => d.sub(s),
        BPF_NEG => {
            let v = *d;
            d.mark_known(0);
            d.sub32(&v);
            d.sub64(&v);
            d.var_off = v.var_off.neg();
        }
        BPF_MUL => {
            d.var_off = d.var_off.mul(s.var_off);
            d.mul32(s);
            d.mul64(s);
        }
        BPF_AND => {
            d.var_off = d.var_off.and(s.var_off);
            d.and32(s);
            d.and64(s);
        }
        BPF_OR => {
            d.var_off = d.var_off.or(s.var_off);
            d.or32(s);
            d.or64(s);
        }
        BPF_XOR => {
            d.var_off = d.var_off.xor(s.var_off);
            d.xor32(s);
            d.xor64(s);
        }
        BPF_LSH if alu32 => d.lsh32(s),
        BPF_LSH => d.lsh64(s),
        BPF_RSH if alu32 => d.rsh32(s),
        BPF_RSH => d.rsh64(s),
        BPF_ARSH if alu32 => d.arsh32(s),
        BPF_ARSH => d.arsh64(s),
        _ => d.byte_swap(insn),
    }
    if alu32 && insn.op() != BPF_END {
        d.zext_32_to_64();
    }
    d.bounds_sync();
}

impl Reg {
    pub(super) fn add(&mut self, s: &Self) {
        self.add32(s);
        self.add64(s);
        self.var_off = self.var_off.add(s.var_off);
    }

    fn sub(&mut self, s: &Self) {
        self.sub32(s);
        self.sub64(s);
        self.var_off = self.var_off.sub(s.var_off);
    }

    fn add32(&mut self, s: &Self) {
        (self.s32_min, self.s32_max) =
            match (self.s32_min.checked_add(s.s32_min), self.s32_max.checked_add(s.s32_max)) {
                (Some(lo), Some(hi)) => (lo, hi),
                _ => (i32::MIN, i32::MAX),
            };
        let (lo, lo_over) = self.u32_min.overflowing_add(s.u32_min);
        let (hi, hi_over) = self.u32_max.overflowing_add(s.u32_max);
        (self.u32_min, self.u32_max) = if !lo_over && hi_over { (0, u32::MAX) } else { (lo, hi) };
    }

    fn add64(&mut self, s: &Self) {
        (self.smin, self.smax) = match (self.smin.checked_add(s.smin), self.smax.checked_add(s.smax)) {
            (Some(lo), Some(hi)) => (lo, hi),
            _ => (i64::MIN, i64::MAX),
        };
        let (lo, lo_over) = self.umin.overflowing_add(s.umin);
        let (hi, hi_over) = self.umax.overflowing_add(s.umax);
        (self.umin, self.umax) = if !lo_over && hi_over { (0, u64::MAX) } else { (lo, hi) };
    }

    fn sub32(&mut self, s: &Self) {
        (self.s32_min, self.s32_max) =
            match (self.s32_min.checked_sub(s.s32_max), self.s32_max.checked_sub(s.s32_min)) {
                (Some(lo), Some(hi)) => (lo, hi),
                _ => (i32::MIN, i32::MAX),
            };
        let (lo, lo_under) = self.u32_min.overflowing_sub(s.u32_max);
        let (hi, hi_under) = self.u32_max.overflowing_sub(s.u32_min);
        (self.u32_min, self.u32_max) = if lo_under && !hi_under { (0, u32::MAX) } else { (lo, hi) };
    }

    fn sub64(&mut self, s: &Self) {
        (self.smin, self.smax) = match (self.smin.checked_sub(s.smax), self.smax.checked_sub(s.smin)) {
            (Some(lo), Some(hi)) => (lo, hi),
            _ => (i64::MIN, i64::MAX),
        };
        let (lo, lo_under) = self.umin.overflowing_sub(s.umax);
        let (hi, hi_under) = self.umax.overflowing_sub(s.umin);
        (self.umin, self.umax) = if lo_under && !hi_under { (0, u64::MAX) } else { (lo, hi) };
    }

    fn mul32(&mut self, s: &Self) {
        (self.u32_min, self.u32_max) =
            match (self.u32_min.checked_mul(s.u32_min), self.u32_max.checked_mul(s.u32_max)) {
                (Some(lo), Some(hi)) => (lo, hi),
                _ => (0, u32::MAX),
            };
        let products = [
            (self.s32_min, s.s32_min),
            (self.s32_min, s.s32_max),
            (self.s32_max, s.s32_min),
            (self.s32_max, s.s32_max),
        ]
        .map(|(a, b)| a.checked_mul(b));
        (self.s32_min, self.s32_max) = match products {
            [Some(a), Some(b), Some(c), Some(d)] => (a.min(b).min(c).min(d), a.max(b).max(c).max(d)),
            _ => (i32::MIN, i32::MAX),
        };
    }

    fn mul64(&mut self, s: &Self) {
        (self.umin, self.umax) = match (self.umin.checked_mul(s.umin), self.umax.checked_mul(s.umax)) {
            (Some(lo), Some(hi)) => (lo, hi),
            _ => (0, u64::MAX),
        };
        let products = [(self.smin, s.smin), (self.smin, s.smax), (self.smax, s.smin), (self.smax, s.smax)]
            .map(|(a, b)| a.checked_mul(b));
        (self.smin, self.smax) = match products {
            [Some(a), Some(b), Some(c), Some(d)] => (a.min(b).min(c).min(d), a.max(b).max(c).max(d)),
            _ => (i64::MIN, i64::MAX),
        };
    }

    /// Signed 32-bit bounds from the unsigned ones, where these do not cross the sign.
    fn s32_from_u32(&mut self) {
        (self.s32_min, self.s32_max) = if self.u32_min as i32 <= self.u32_max as i32 {
            (self.u32_min as i32, self.u32_max as i32)
        } else {
            (i32::MIN, i32::MAX)
        };
    }

    fn s64_from_u64(&mut self) {
        (self.smin, self.smax) = if self.umin as i64 <= self.umax as i64 {
            (self.umin as i64, self.umax as i64)
        } else {
            (i64::MIN, i64::MAX)
        };
    }

    fn both_const32(&self, s: &Self) -> bool {
        s.var_off.subreg_is_const() && self.var_off.subreg_is_const()
    }

    fn both_const64(&self, s: &Self) -> bool {
        s.var_off.is_const() && self.var_off.is_const()
    }

    fn and32(&mut self, s: &Self) {
        if self.both_const32(s) {
            return self.mark32_known(self.var_off.value as u32);
        }
        self.u32_min = self.var_off.value as u32;
        self.u32_max = self.u32_max.min(s.u32_max);
        self.s32_from_u32();
    }

    fn and64(&mut self, s: &Self) {
        if self.both_const64(s) {
            return self.mark_known(self.var_off.value);
        }
        self.umin = self.var_off.value;
        self.umax = self.umax.min(s.umax);
        self.s64_from_u64();
        self.update_bounds();
    }

    fn or32(&mut self, s: &Self) {
        if self.both_const32(s) {
            return self.mark32_known(self.var_off.value as u32);
        }
        self.u32_min = self.u32_min.max(s.u32_min);
        self.u32_max = self.var_off.max() as u32;
        self.s32_from_u32();
    }

    fn or64(&mut self, s: &Self) {
        if self.both_const64(s) {
            return self.mark_known(self.var_off.value);
        }
        self.umin = self.umin.max(s.umin);
        self.umax = self.var_off.max();
        self.s64_from_u64();
        self.update_bounds();
    }

    fn xor32(&mut self, s: &Self) {
        if self.both_const32(s) {
            return self.mark32_known(self.var_off.value as u32);
        }
        self.u32_min = self.var_off.value as u32;
        self.u32_max = self.var_off.max() as u32;
        self.s32_from_u32();
    }

    fn xor64(&mut self, s: &Self) {
        if self.both_const64(s) {
            return self.mark_known(self.var_off.value);
        }
        self.umin = self.var_off.value;
        self.umax = self.var_off.max();
        self.s64_from_u64();
        self.update_bounds();
    }

    fn lsh32_bounds(&mut self, min: u64, max: u64) {
        (self.s32_min, self.s32_max) = (i32::MIN, i32::MAX);
        if max > 31 || u64::from(self.u32_max) > 1 << (31 - max) {
            (self.u32_min, self.u32_max) = (0, u32::MAX);
        } else {
            self.u32_min <<= min;
            self.u32_max <<= max;
        }
    }

    fn lsh32(&mut self, s: &Self) {
        let (min, max) = (s.u32_min, s.u32_max);
        let low = self.var_off.subreg();
        self.lsh32_bounds(u64::from(min), u64::from(max));
        self.var_off = low.lshift(min as u8).subreg();
        self.unbound64();
        self.update32_only();
    }

    fn lsh64(&mut self, s: &Self) {
        let (min, max) = (s.umin, s.umax);
        if min == 32 && max == 32 {
            // Compilers sign-extend with << 32, s>> 32: the sign of the low half moves to the top.
            self.smax = i64::from(self.s32_max) << 32;
            self.smin = i64::from(self.s32_min) << 32;
        } else {
            (self.smin, self.smax) = (i64::MIN, i64::MAX);
        }
        if self.umax > 1 << (63 - max) {
            (self.umin, self.umax) = (0, u64::MAX);
        } else {
            self.umin <<= min;
            self.umax <<= max;
        }
        self.lsh32_bounds(min, max);
        self.var_off = self.var_off.lshift(min as u8);
        self.update_bounds();
    }

    fn rsh32(&mut self, s: &Self) {
        (self.s32_min, self.s32_max) = (i32::MIN, i32::MAX);
        self.var_off = self.var_off.subreg().rshift(s.u32_min as u8);
        self.u32_min >>= s.u32_max;
        self.u32_max >>= s.u32_min;
        self.unbound64();
        self.update32_only();
    }

    fn rsh64(&mut self, s: &Self) {
        (self.smin, self.smax) = (i64::MIN, i64::MAX);
        self.var_off = self.var_off.rshift(s.umin as u8);
        self.umin >>= s.umax;
        self.umax >>= s.umin;
        self.unbound32();
        self.update_bounds();
    }

    fn arsh32(&mut self, s: &Self) {
        self.s32_min >>= s.u32_min;
        self.s32_max >>= s.u32_min;
        self.var_off = self.var_off.subreg().arshift(s.u32_min as u8, 32);
        (self.u32_min, self.u32_max) = (0, u32::MAX);
        self.unbound64();
        self.update32_only();
    }

    fn arsh64(&mut self, s: &Self) {
        self.smin >>= s.umin;
        self.smax >>= s.umin;
        self.var_off = self.var_off.arshift(s.umin as u8, 64);
        (self.umin, self.umax) = (0, u64::MAX);
        self.unbound32();
        self.update_bounds();
    }

    /// To the byte order of the other kind, or cut to size where it already has it.
    fn byte_swap(&mut self, insn: &Insn) {
        let to_be = insn.is_src_reg();
        if insn.class() == BPF_ALU64 || to_be {
            self.var_off = self.var_off.bswap(insn.imm);
            self.unbound();
        }
        if insn.imm != 64 {
            self.coerce_to_size(insn.imm as u32 / 8);
        }
    }

    /// Cuts a value to its low `size` bytes, zero-extended.
    pub(super) fn coerce_to_size(&mut self, size: u32) {
        self.var_off = self.var_off.cast(size as u8);
        let mask = (1u64 << (size * 8)) - 1;
        if self.umin & !mask == self.umax & !mask {
            self.umin &= mask;
            self.umax &= mask;
        } else {
            (self.umin, self.umax) = (0, mask);
        }
        (self.smin, self.smax) = (self.umin as i64, self.umax as i64);
        if size < 4 {
            self.unbound32();
        }
        self.bounds_sync();
    }

    /// Cuts a value to its low `size` bytes, sign-extended to 64 bits.
    pub(super) fn coerce_to_size_sx(&mut self, size: u32) {
        let bits = size * 8;
        let sext = |v: u64| ((v << (64 - bits)) as i64) >> (64 - bits);
        if self.var_off.is_const() {
            return self.set_const(sext(self.var_off.value) as u64);
        }
        if (self.smax as u64) >> bits == (self.smin as u64) >> bits {
            let (a, b) = (sext(self.smax as u64), sext(self.smin as u64));
            let (max, min) = (a.max(b), a.min(b));
            if (max >= 0) == (min >= 0) {
                (self.smin, self.smax) = (min, max);
                (self.s32_min, self.s32_max) = (min as i32, max as i32);
                (self.umin, self.umax) = (min as u64, max as u64);
                (self.u32_min, self.u32_max) = (min as u32, max as u32);
                self.var_off = Tnum::range(min as u64, max as u64);
                return;
            }
        }
        (self.smin, self.smax) = (-(1i64 << (bits - 1)), (1i64 << (bits - 1)) - 1);
        (self.s32_min, self.s32_max) = (self.smin as i32, self.smax as i32);
        (self.umin, self.umax) = (0, u64::MAX);
        (self.u32_min, self.u32_max) = (0, u32::MAX);
        self.var_off = Tnum::UNKNOWN;
    }

    /// Cuts the low half to its low `size` bytes, sign-extended to 32 bits.
    pub(super) fn coerce_subreg_to_size_sx(&mut self, size: u32) {
        let bits = size * 8;
        let sext = |v: u32| ((v << (32 - bits)) as i32) >> (32 - bits);
        if self.var_off.is_const() {
            let v = sext(self.var_off.value as u32);
            self.var_off = Tnum::constant(v as i64 as u64);
            (self.s32_min, self.s32_max) = (v, v);
            (self.u32_min, self.u32_max) = (v as u32, v as u32);
            return;
        }
        if (self.s32_max as u32) >> bits == (self.s32_min as u32) >> bits {
            let (a, b) = (sext(self.s32_max as u32), sext(self.s32_min as u32));
            let (max, min) = (a.max(b), a.min(b));
            if (max >= 0) == (min >= 0) {
                (self.s32_min, self.s32_max) = (min, max);
                (self.u32_min, self.u32_max) = (min as u32, max as u32);
                self.var_off = Tnum::range(min as i64 as u64, max as i64 as u64).subreg();
                return;
            }
        }
        (self.s32_min, self.s32_max) = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1);
        (self.u32_min, self.u32_max) = (0, u32::MAX);
        self.var_off = Tnum::UNKNOWN.subreg();
    }
}
