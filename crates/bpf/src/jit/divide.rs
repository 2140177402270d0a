//! Division, with the BPF rules: by 0 the quotient is 0 and the remainder the dividend, and the
//! smallest number by -1 wraps.

use super::Compiler;
use super::asm::{Alu, Cond, Gpr, Label, Mem, Shift, Unary, Width};
use super::node::{CROSSES, Id, NO_HINT, Node, Op};
use super::regs::Reads;

impl Compiler<'_> {
    pub(super) fn divide(&mut self, id: Id, n: Node) -> Gpr {
        let signed = matches!(n.op, Op::Sdiv | Op::Smod);
        if n.b == Id::NONE && !signed && n.w == Width::W32 {
            return self.divide_by_constant(id, n);
        }
        let mut reads = Reads::new();
        reads.push(n.a);
        if n.b.is_some() {
            reads.push(n.b);
        }
        let rb = self.place_operands(n);
        self.divide_registers(n, rb, signed);
        let result = if matches!(n.op, Op::Div | Op::Sdiv) { Gpr::Rax } else { Gpr::Rdx };
        self.release_all(&reads);
        self.bind(id, result);
        result
    }

    /// Dividend to rax, rdx empty, and the divisor in the register that is answered.
    fn place_operands(&mut self, n: Node) -> Gpr {
        self.ensure_locked(n.a);
        if n.b.is_some() {
            self.ensure_locked(n.b);
        }
        self.regs.lock(Gpr::Rax);
        self.regs.lock(Gpr::Rdx);
        self.vacate(Gpr::Rdx);
        let in_place = self.regs.owner(Gpr::Rax) == n.a && n.a != n.b && self.dies(n.a, 1);
        if !in_place {
            self.vacate(Gpr::Rax);
            let ra = self.ensure(n.a);
            self.asm.mov_rr(n.w, Gpr::Rax, ra);
        }
        self.function.used |= Gpr::Rax.bit() | Gpr::Rdx.bit();
        if n.b.is_some() {
            return self.ensure_locked(n.b);
        }
        let r = self.alloc(NO_HINT, false);
        self.regs.lock(r);
        self.asm.mov_ri(r, if n.w == Width::W32 { u64::from(n.imm as u32) } else { n.imm as u64 });
        r
    }

    /// `rax / rb` and `rax % rb` to rax and rdx, as BPF defines them.
    fn divide_registers(&mut self, n: Node, rb: Gpr, signed: bool) {
        let (w, done, special) = (n.w, self.asm.label(), self.asm.label());
        let constant = (n.b == Id::NONE).then_some(n.imm);
        let safe = constant.is_some_and(|c| c != 0 && c != -1);
        if safe {
            self.divide_plain(w, rb, signed);
            return;
        }
        if signed {
            // 0 and -1 at once: both are at most 1 after adding 1.
            let t = Gpr::Rdx;
            self.asm.lea(w, t, Mem::new(rb, 1));
            self.asm.alu_ri(Alu::Cmp, w, t, 1);
            self.asm.jcc(Cond::Be, special);
        } else {
            self.asm.test_rr(w, rb, rb);
            self.asm.jcc(Cond::E, special);
        }
        self.divide_plain(w, rb, signed);
        self.asm.bind(done);
        let cold = self.asm.in_cold();
        self.asm.switch(true);
        let after = if cold { Some(self.asm.label()) } else { None };
        if let Some(after) = after {
            // Already among rare code: that goes on after this.
            self.asm.jmp(after);
        }
        self.asm.bind(special);
        self.divide_specially(n, rb, signed, done);
        if let Some(after) = after {
            self.asm.bind(after);
        }
        self.asm.switch(cold);
    }

    fn divide_plain(&mut self, w: Width, rb: Gpr, signed: bool) {
        if signed {
            self.asm.sign_into_rdx(w);
            self.asm.unary(Unary::Idiv, w, rb);
        } else {
            self.asm.zero(Gpr::Rdx);
            self.asm.unary(Unary::Div, w, rb);
        }
    }

    /// By 0, and by -1 if signed.
    fn divide_specially(&mut self, n: Node, rb: Gpr, signed: bool, done: Label) {
        let (w, quotient) = (n.w, matches!(n.op, Op::Div | Op::Sdiv));
        if signed {
            let by_zero = self.asm.label();
            self.asm.test_rr(w, rb, rb);
            self.asm.jcc(Cond::E, by_zero);
            if quotient {
                self.asm.unary(Unary::Neg, w, Gpr::Rax)
            } else {
                self.asm.zero(Gpr::Rdx)
            }
            self.asm.jmp(done);
            self.asm.bind(by_zero);
        }
        if quotient {
            self.asm.zero(Gpr::Rax);
        } else {
            self.asm.mov_rr(w, Gpr::Rdx, Gpr::Rax);
        }
        self.asm.jmp(done);
    }

    /// A 32-bit division by a constant as a multiplication: the quotient is the upper part of a product.
    fn divide_by_constant(&mut self, id: Id, n: Node) -> Gpr {
        let d = n.imm as u32;
        let mut reads = Reads::new();
        reads.push(n.a);
        let ra = self.ensure_locked(n.a);
        let crosses = self.trace.graph[id].is(CROSSES);
        let q = self.alloc(self.trace.graph[id].hint, crosses);
        self.regs.lock(q);
        let (magic, shift, add) = reciprocal(d);
        // The dividend's upper half must not take part.
        self.asm.mov_rr(Width::W32, q, ra);
        let t = self.alloc(NO_HINT, false);
        self.regs.lock(t);
        if add {
            // The factor has 33 bits: q = (((x - hi) >> 1) + hi) >> shift with hi = x * low >> 32.
            self.asm.mov_ri(t, u64::from(magic));
            self.asm.imul_rr(Width::W64, t, q);
            self.asm.shift_ri(Shift::Shr, Width::W64, t, 32);
            self.asm.alu_rr(Alu::Sub, Width::W32, q, t);
            self.asm.shift_ri(Shift::Shr, Width::W32, q, 1);
            self.asm.alu_rr(Alu::Add, Width::W32, q, t);
            if shift > 0 {
                self.asm.shift_ri(Shift::Shr, Width::W32, q, shift);
            }
        } else {
            self.asm.mov_ri(t, u64::from(magic));
            self.asm.imul_rr(Width::W64, q, t);
            self.asm.shift_ri(Shift::Shr, Width::W64, q, 32 + shift);
        }
        if n.op == Op::Div {
            self.release_all(&reads);
            self.bind(id, q);
            return q;
        }
        // The remainder is what the quotient leaves.
        self.asm.imul_rri(Width::W32, t, q, d as i32);
        self.asm.mov_rr(Width::W32, q, ra);
        self.asm.alu_rr(Alu::Sub, Width::W32, q, t);
        self.release_all(&reads);
        self.bind(id, q);
        q
    }
}

/// For a divisor that is no power of two: factor, shift beyond 32 bits, and whether the factor has a
/// 33rd bit. (Granlund and Montgomery, "Division by invariant integers using multiplication", fig. 4.1.)
fn reciprocal(d: u32) -> (u32, u8, bool) {
    debug_assert!(d > 2 && !d.is_power_of_two());
    let l = 32 - (d - 1).leading_zeros();
    // The smallest factor that is exact for all dividends needs the smallest shift.
    for shift in 0..l {
        let p = 1u128 << (32 + shift);
        let magic = p.div_ceil(u128::from(d));
        let error = magic * u128::from(d) - p;
        if magic < 1 << 32 && error <= 1 << shift {
            return (magic as u32, shift as u8, false);
        }
    }
    let magic = (1u128 << (32 + l)).div_ceil(u128::from(d)) - (1 << 32);
    (magic as u32, l as u8 - 1, true)
}

#[cfg(test)]
mod tests {
    use super::reciprocal;

    fn quotient(x: u32, d: u32) -> u32 {
        let (magic, shift, add) = reciprocal(d);
        if add {
            let hi = ((u64::from(x) * u64::from(magic)) >> 32) as u32;
            return (((x - hi) >> 1) + hi) >> shift;
        }
        ((u64::from(x) * u64::from(magic)) >> (32 + shift)) as u32
    }

    #[test]
    fn multiplication_by_the_reciprocal_divides() {
        let interesting = |around: u32| (0..=40).map(move |i| around.wrapping_sub(20).wrapping_add(i));
        for d in (3..3000).chain(interesting(1 << 31)).chain(interesting(u32::MAX - 20)).chain([
            641,
            6_700_417,
            0xaaaa_aaab,
        ]) {
            if d <= 2 || d.is_power_of_two() {
                continue;
            }
            let multiples = (0..50).flat_map(|k| interesting(d.wrapping_mul(k * 7919)));
            for x in interesting(0)
                .chain(interesting(u32::MAX))
                .chain(interesting(1 << 31))
                .chain(interesting(d))
                .chain(multiples)
            {
                assert_eq!(quotient(x, d), x / d, "{x} / {d}");
            }
        }
    }
}
