//! Arithmetic instructions: encoding, scalars, pointers moved by scalars.

use uapi::Errno;
use uapi::bpf::*;

use super::env::{Env, Res};
use super::reg::{ADD_CONST, ADD_CONST32, ADD_CONST64, Payload, Reg};
use super::scalar;
use super::types::{RegType, flag};
use crate::insn::Insn;

/// Offsets of pointers stay below this, so that sums cannot overflow.
pub(crate) const MAX_VAR_OFF: i64 = 1 << 29;

/// How a register operand is used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Src,
    Dst,
    /// Written, but what it becomes is decided later.
    DstNoMark,
}

/// The operator as the log writes it.
pub(crate) fn alu_text(op: u8) -> &'static str {
    match op {
        BPF_ADD => "+=",
        BPF_SUB => "-=",
        BPF_MUL => "*=",
        BPF_DIV => "/=",
        BPF_OR => "|=",
        BPF_AND => "&=",
        BPF_LSH => "<<=",
        BPF_RSH => ">>=",
        BPF_NEG => "neg",
        BPF_MOD => "%=",
        BPF_XOR => "^=",
        BPF_MOV => "=",
        BPF_ARSH => "s>>=",
        _ => "endian",
    }
}

impl Env<'_> {
    /// A register may be used like this.
    pub(super) fn check_reg(&mut self, regno: u8, how: Use) -> Res {
        if regno >= MAX_BPF_REG {
            return self.fail(Errno::EINVAL, format_args!("R{regno} is invalid\n"));
        }
        self.scratched_regs |= 1 << regno;
        let r = usize::from(regno);
        if how == Use::Src {
            if self.reg(r).ty == RegType::NOT_INIT {
                return self.fail(Errno::EACCES, format_args!("R{regno} !read_ok\n"));
            }
        } else {
            if regno == 10 {
                return self.fail(Errno::EACCES, format_args!("frame pointer is read only\n"));
            }
            if how == Use::Dst {
                self.mark_unknown(r);
            }
        }
        Ok(())
    }

    /// Contradictory bounds are a bug of the verifier; they are forgotten, or reported on request.
    pub(super) fn sanity_check(&mut self, regno: usize, ctx: &str) -> Res {
        let reg = *self.reg(regno);
        let fixed = self.checked_bounds(reg, ctx)?;
        if let Some(r) = fixed {
            *self.reg_mut(regno) = r;
        }
        Ok(())
    }

    /// The register with its bounds forgotten, if they contradict each other.
    pub(super) fn checked_bounds(&mut self, mut reg: Reg, ctx: &str) -> Res<Option<Reg>> {
        let Some(what) = reg.invariant_violation() else { return Ok(None) };
        self.say(format_args!(
            "verifier bug: REG INVARIANTS VIOLATION ({ctx}): {what} u64=[{:#x}, {:#x}] s64=[{:#x}, {:#x}] \
             u32=[{:#x}, {:#x}] s32=[{:#x}, {:#x}] var_off=({:#x}, {:#x})\n",
            reg.umin,
            reg.umax,
            reg.smin,
            reg.smax,
            reg.u32_min,
            reg.u32_max,
            reg.s32_min,
            reg.s32_max,
            reg.var_off.value,
            reg.var_off.mask
        ));
        if self.input.prog_flags & BPF_F_TEST_REG_INVARIANTS != 0 {
            return Err(Errno::EFAULT);
        }
        reg.unbound();
        Ok(Some(reg))
    }

    pub(super) fn check_alu(&mut self, insn: &Insn) -> Res {
        match insn.op() {
            BPF_END | BPF_NEG => self.check_unary(insn)?,
            BPF_MOV => self.check_mov(insn)?,
            op if op > BPF_END => {
                return self.fail(Errno::EINVAL, format_args!("invalid BPF_ALU opcode {op:x}\n"));
            }
            _ => self.check_binary(insn)?,
        }
        self.sanity_check(usize::from(insn.dst), "alu")
    }

    fn check_unary(&mut self, insn: &Insn) -> Res {
        if insn.op() == BPF_NEG {
            if insn.is_src_reg() || insn.src != 0 || insn.off != 0 || insn.imm != 0 {
                return self.fail(Errno::EINVAL, format_args!("BPF_NEG uses reserved fields\n"));
            }
        } else if insn.src != 0
            || insn.off != 0
            || !matches!(insn.imm, 16 | 32 | 64)
            || insn.class() == BPF_ALU64 && insn.is_src_reg()
        {
            return self.fail(Errno::EINVAL, format_args!("BPF_END uses reserved fields\n"));
        }
        self.check_reg(insn.dst, Use::Src)?;
        let dst = usize::from(insn.dst);
        if self.reg(dst).is_scalar() {
            self.check_reg(insn.dst, Use::DstNoMark)?;
            let src = *self.reg(dst);
            self.adjust_scalar(insn, src)?;
            clear_scalar_id(self.reg_mut(dst));
            return Ok(());
        }
        self.check_reg(insn.dst, Use::Dst)
    }

    fn check_mov(&mut self, insn: &Insn) -> Res {
        let alu64 = insn.class() == BPF_ALU64;
        let reserved = if !insn.is_src_reg() {
            insn.src != 0 || insn.off != 0
        } else if alu64 && insn.off == 1 {
            return self.check_addr_space_cast(insn);
        } else {
            insn.imm != 0 || !(matches!(insn.off, 0 | 8 | 16) || alu64 && insn.off == 32)
        };
        if reserved {
            return self.fail(Errno::EINVAL, format_args!("BPF_MOV uses reserved fields\n"));
        }
        if insn.is_src_reg() {
            self.check_reg(insn.src, Use::Src)?;
        }
        self.check_reg(insn.dst, Use::DstNoMark)?;
        let dst = usize::from(insn.dst);
        if !insn.is_src_reg() {
            let v = if alu64 { i64::from(insn.imm) as u64 } else { u64::from(insn.imm as u32) };
            *self.reg_mut(dst) = Reg::scalar(v);
        } else if alu64 {
            self.mov64(insn);
        } else {
            self.mov32(insn);
        }
        Ok(())
    }

    fn check_addr_space_cast(&mut self, insn: &Insn) -> Res {
        if insn.imm != 1 && insn.imm as u32 != 1 << 16 {
            return self.fail(
                Errno::EINVAL,
                format_args!("addr_space_cast insn can only convert between address space 1 and 0\n"),
            );
        }
        if !self.has_arena() {
            return self.fail(
                Errno::EINVAL,
                format_args!(
                    "addr_space_cast insn can only be used in a program that has an associated arena\n"
                ),
            );
        }
        self.check_reg(insn.src, Use::Src)?;
        self.check_reg(insn.dst, Use::DstNoMark)?;
        let dst = usize::from(insn.dst);
        self.mark_unknown(dst);
        if insn.imm == 1 {
            self.reg_mut(dst).ty = RegType::ARENA;
        }
        Ok(())
    }

    fn mov64(&mut self, insn: &Insn) {
        let (src, dst) = (usize::from(insn.src), usize::from(insn.dst));
        if insn.off == 0 {
            self.assign_scalar_id(src);
            *self.reg_mut(dst) = *self.reg(src);
            return;
        }
        if !self.reg(src).is_scalar() {
            return self.mark_unknown(dst);
        }
        let keeps_value = self.reg(src).umax < 1 << (insn.off - 1);
        if keeps_value {
            self.assign_scalar_id(src);
        }
        let mut r = *self.reg(src);
        if !keeps_value {
            clear_scalar_id(&mut r);
        }
        r.coerce_to_size_sx(insn.off as u32 / 8);
        *self.reg_mut(dst) = r;
    }

    fn mov32(&mut self, insn: &Insn) {
        let (src, dst) = (usize::from(insn.src), usize::from(insn.dst));
        if self.reg(src).is_scalar() {
            let keeps_value = if insn.off == 0 {
                self.reg(src).width() <= 32
            } else {
                self.reg(src).umax < 1 << (insn.off - 1)
            };
            if keeps_value {
                self.assign_scalar_id(src);
            }
            let mut r = *self.reg(src);
            if !keeps_value {
                clear_scalar_id(&mut r);
            }
            if insn.off != 0 {
                r.coerce_subreg_to_size_sx(insn.off as u32 / 8);
            }
            *self.reg_mut(dst) = r;
        } else {
            self.mark_unknown(dst);
        }
        let r = self.reg_mut(dst);
        r.zext_32_to_64();
        r.bounds_sync();
    }

    fn assign_scalar_id(&mut self, regno: usize) {
        let mut r = *self.reg(regno);
        self.give_scalar_id(&mut r);
        *self.reg_mut(regno) = r;
    }

    /// A scalar about to be copied gets an id, so that what is learnt of one copy holds for all.
    pub(super) fn give_scalar_id(&mut self, r: &mut Reg) {
        if !r.is_scalar() {
            return;
        }
        if r.id & ADD_CONST != 0 {
            clear_scalar_id(r);
        }
        if r.id == 0 && !r.var_off.is_const() {
            r.id = self.new_id();
        }
    }

    fn check_binary(&mut self, insn: &Insn) -> Res {
        let divides = matches!(insn.op(), BPF_MOD | BPF_DIV);
        let off_ok = insn.off == 0 || insn.off == 1 && divides;
        if insn.is_src_reg() {
            if insn.imm != 0 || !off_ok {
                return self.fail(Errno::EINVAL, format_args!("BPF_ALU uses reserved fields\n"));
            }
            self.check_reg(insn.src, Use::Src)?;
        } else if insn.src != 0 || !off_ok {
            return self.fail(Errno::EINVAL, format_args!("BPF_ALU uses reserved fields\n"));
        }
        self.check_reg(insn.dst, Use::Src)?;
        if divides && !insn.is_src_reg() && insn.imm == 0 {
            return self.fail(Errno::EINVAL, format_args!("div by zero\n"));
        }
        if matches!(insn.op(), BPF_LSH | BPF_RSH | BPF_ARSH) && !insn.is_src_reg() {
            let size = if insn.class() == BPF_ALU64 { 64 } else { 32 };
            if insn.imm < 0 || insn.imm >= size {
                return self.fail(Errno::EINVAL, format_args!("invalid shift {}\n", insn.imm));
            }
        }
        self.check_reg(insn.dst, Use::DstNoMark)?;
        self.adjust_reg(insn)
    }

    fn adjust_reg(&mut self, insn: &Insn) -> Res {
        let dst = usize::from(insn.dst);
        let d = *self.reg(dst);
        let s = if insn.is_src_reg() {
            *self.reg(usize::from(insn.src))
        } else {
            Reg::scalar(i64::from(insn.imm) as u64)
        };
        if d.ty == RegType::ARENA || s.ty == RegType::ARENA {
            if d.ty != RegType::ARENA {
                *self.reg_mut(dst) = s;
            }
            return Ok(());
        }
        match (d.is_scalar(), s.is_scalar()) {
            (false, false) => {
                if insn.op() == BPF_SUB {
                    self.mark_unknown(dst);
                    return Ok(());
                }
                let op = alu_text(insn.op());
                return self.fail(Errno::EACCES, format_args!("R{dst} pointer {op} pointer prohibited\n"));
            }
            (true, false) => {
                // The scalar's exact range decides where the pointer may point.
                self.mark_precise(dst)?;
                return self.adjust_ptr(insn, s, d);
            }
            (false, true) => {
                if insn.is_src_reg() {
                    self.mark_precise(usize::from(insn.src))?;
                }
                return self.adjust_ptr(insn, d, s);
            }
            (true, true) => {
                if insn.is_src_reg() && d.precise {
                    self.mark_precise(usize::from(insn.src))?;
                }
            }
        }
        self.adjust_scalar(insn, s)?;
        self.link_constant_sum(insn, &s, d.umax);
        Ok(())
    }

    /// After `r += constant` the register is still linked to the copies it was made from.
    fn link_constant_sum(&mut self, insn: &Insn, s: &Reg, umax_before: u64) {
        let alu32 = insn.class() != BPF_ALU64;
        let d = self.reg_mut(usize::from(insn.dst));
        let value = s.const_value(alu32);
        let delta = match insn.op() {
            BPF_ADD | BPF_SUB if !s.is_const(alu32) => None,
            _ if insn.is_src_reg() && insn.src == insn.dst || d.id & ADD_CONST != 0 => None,
            _ if alu32 && umax_before > u64::from(u32::MAX) => None,
            BPF_ADD if alu32 => Some(value as i32),
            BPF_ADD => i32::try_from(value as i64).ok(),
            BPF_SUB if alu32 => (value as i32).checked_neg(),
            BPF_SUB => i32::try_from(value as i64).ok().and_then(i32::checked_neg),
            _ => None,
        };
        match delta {
            Some(delta) if d.id != 0 => {
                d.id |= if alu32 { ADD_CONST32 } else { ADD_CONST64 };
                d.off = delta;
            }
            _ => clear_scalar_id(d),
        }
    }

    /// `dst op= s` on scalars.
    fn adjust_scalar(&mut self, insn: &Insn, s: Reg) -> Res {
        let dst = usize::from(insn.dst);
        if !scalar::is_computable(insn, &s) {
            self.mark_unknown(dst);
            return Ok(());
        }
        if matches!(insn.op(), BPF_AND | BPF_OR) && s.var_off.is_const() {
            self.fork_all_ones(dst)?;
        }
        let mut d = *self.reg(dst);
        scalar::compute(insn, &mut d, &s);
        *self.reg_mut(dst) = d;
        Ok(())
    }

    /// A value that is either 0 or all ones is followed as two constants: the idiom of a branchless
    /// select.
    fn fork_all_ones(&mut self, dst: usize) -> Res {
        let d = *self.reg(dst);
        let wide = d.smin == -1 && d.smax == 0;
        let narrow = d.s32_min == -1 && d.s32_max == 0;
        if !wide && !narrow {
            return Ok(());
        }
        let idx = self.insn_idx;
        let other = self.push_state(idx, idx)?;
        let zero = &mut other.frame_mut().regs[dst];
        if wide {
            zero.mark_known(0);
            self.reg_mut(dst).mark_known(u64::MAX);
        } else {
            zero.mark32_known(0);
            self.reg_mut(dst).mark32_known(u32::MAX);
        }
        Ok(())
    }

    /// A pointer moves by a scalar.
    fn adjust_ptr(&mut self, insn: &Insn, ptr: Reg, off: Reg) -> Res {
        let dst = usize::from(insn.dst);
        let known = off.var_off.is_const();
        if known && (off.smin != off.smax || off.umin != off.umax)
            || off.smin > off.smax
            || off.umin > off.umax
        {
            // The bounds contradict each other: this path cannot be.
            self.mark_unknown(dst);
            return Ok(());
        }
        if insn.class() != BPF_ALU64 {
            if insn.op() == BPF_SUB {
                self.mark_unknown(dst);
                return Ok(());
            }
            return self.fail(Errno::EACCES, format_args!("R{dst} 32-bit pointer arithmetic prohibited\n"));
        }
        if ptr.ty.may_be_null() {
            let text = ptr.ty.text();
            return self.fail(
                Errno::EACCES,
                format_args!("R{dst} pointer arithmetic on {text} prohibited, null-check it first\n"),
            );
        }
        if ptr.ty.base() == RegType::MEM && ptr.ty.has(flag::PTR_UNTRUSTED) {
            // Reads through it are checked at run time anyway.
            if !self.reg(dst).ty.has(flag::PTR_UNTRUSTED) {
                *self.reg_mut(dst) = ptr;
            }
            return Ok(());
        }
        if !Self::ptr_may_move(&ptr, &off, insn.op()) {
            let text = ptr.ty.text();
            return self
                .fail(Errno::EACCES, format_args!("R{dst} pointer arithmetic on {text} prohibited\n"));
        }
        self.sane_offset(&off, ptr.ty)?;
        self.sane_offset(&ptr, ptr.ty)?;
        let mut d = ptr;
        d.unbound32();
        match insn.op() {
            BPF_ADD => self.ptr_add(&mut d, &ptr, &off),
            BPF_SUB => self.ptr_sub(insn, &mut d, &ptr, &off)?,
            op @ (BPF_AND | BPF_OR | BPF_XOR) => {
                return self.fail(
                    Errno::EACCES,
                    format_args!("R{dst} bitwise operator {} on pointer prohibited\n", alu_text(op)),
                );
            }
            op => {
                return self.fail(
                    Errno::EACCES,
                    format_args!("R{dst} pointer arithmetic with {} operator prohibited\n", alu_text(op)),
                );
            }
        }
        self.sane_offset(&d, ptr.ty)?;
        d.bounds_sync();
        *self.reg_mut(dst) = d;
        Ok(())
    }

    fn ptr_may_move(ptr: &Reg, off: &Reg, op: u8) -> bool {
        match ptr.ty.base() {
            RegType::CTX
            | RegType::MAP_VALUE
            | RegType::MAP_KEY
            | RegType::STACK
            | RegType::PACKET_META
            | RegType::PACKET
            | RegType::TP_BUFFER
            | RegType::BTF_ID
            | RegType::MEM
            | RegType::BUF
            | RegType::FUNC
            | RegType::DYNPTR => true,
            RegType::FLOW_KEYS if off.var_off.is_const() => true,
            RegType::FLOW_KEYS | RegType::MAP_PTR => off.var_off.is_const() && off.smin == 0 && op == BPF_ADD,
            _ => false,
        }
    }

    fn ptr_add(&mut self, d: &mut Reg, ptr: &Reg, off: &Reg) {
        if off.var_off.is_const()
            && let Ok(sum) = i32::try_from(i64::from(ptr.off) + off.smin)
        {
            d.off = sum;
            forget_pkt_end(d, ptr);
            return;
        }
        (d.smin, d.smax) = match (ptr.smin.checked_add(off.smin), ptr.smax.checked_add(off.smax)) {
            (Some(lo), Some(hi)) => (lo, hi),
            _ => (i64::MIN, i64::MAX),
        };
        (d.umin, d.umax) = match (ptr.umin.checked_add(off.umin), ptr.umax.checked_add(off.umax)) {
            (Some(lo), Some(hi)) => (lo, hi),
            _ => (0, u64::MAX),
        };
        d.var_off = ptr.var_off.add(off.var_off);
        if ptr.is_pkt_pointer() {
            d.id = self.new_id();
            d.pl = Payload::Range(0);
        }
    }

    fn ptr_sub(&mut self, insn: &Insn, d: &mut Reg, ptr: &Reg, off: &Reg) -> Res {
        let dst = usize::from(insn.dst);
        if self.reg(dst).is_scalar() {
            return self.fail(Errno::EACCES, format_args!("R{dst} tried to subtract pointer from scalar\n"));
        }
        if ptr.ty == RegType::STACK {
            return self
                .fail(Errno::EACCES, format_args!("R{dst} subtraction from stack pointer prohibited\n"));
        }
        if off.var_off.is_const()
            && let Ok(diff) = i32::try_from(i64::from(ptr.off).wrapping_sub(off.smin))
        {
            d.off = diff;
            forget_pkt_end(d, ptr);
            return Ok(());
        }
        (d.smin, d.smax) = match (ptr.smin.checked_sub(off.smax), ptr.smax.checked_sub(off.smin)) {
            (Some(lo), Some(hi)) => (lo, hi),
            _ => (i64::MIN, i64::MAX),
        };
        (d.umin, d.umax) = if ptr.umin < off.umax {
            (0, u64::MAX)
        } else {
            (ptr.umin - off.umax, ptr.umax.wrapping_sub(off.umin))
        };
        d.var_off = ptr.var_off.sub(off.var_off);
        if ptr.is_pkt_pointer() {
            d.id = self.new_id();
            if off.smin < 0 {
                d.pl = Payload::Range(0);
            }
        }
        Ok(())
    }

    /// Sums of offsets cannot overflow.
    fn sane_offset(&mut self, r: &Reg, ty: RegType) -> Res {
        let v = r.var_off.value as i64;
        if r.var_off.is_const() && (v >= MAX_VAR_OFF || v <= -MAX_VAR_OFF) {
            return self.fail(
                Errno::EINVAL,
                format_args!("math between {} pointer and {v} is not allowed\n", ty.text()),
            );
        }
        if i64::from(r.off) >= MAX_VAR_OFF || i64::from(r.off) <= -MAX_VAR_OFF {
            return self.fail(
                Errno::EINVAL,
                format_args!("{} pointer offset {} is not allowed\n", ty.text(), r.off),
            );
        }
        if r.smin == i64::MIN {
            return self.fail(
                Errno::EINVAL,
                format_args!(
                    "math between {} pointer and register with unbounded min value is not allowed\n",
                    ty.text()
                ),
            );
        }
        if r.smin >= MAX_VAR_OFF || r.smin <= -MAX_VAR_OFF {
            return self.fail(
                Errno::EINVAL,
                format_args!("value {} makes {} pointer be out of bounds\n", r.smin, ty.text()),
            );
        }
        Ok(())
    }
}

/// The value is no longer that of the copies it was linked to.
pub(super) fn clear_scalar_id(r: &mut Reg) {
    r.id = 0;
    r.off = 0;
}

/// A pointer that was at or beyond the packet's end may not be any more once it has moved back. Here the
/// kernel goes on believing it (docs/parity.md).
fn forget_pkt_end(moved: &mut Reg, from: &Reg) {
    if from.is_pkt_pointer() && moved.off < from.off && moved.range() < 0 {
        moved.pl = Payload::Range(0);
    }
}
