//! Comparing scalars: deciding a condition, and narrowing both sides by its outcome.

use uapi::bpf::*;

use super::reg::Reg;
use super::tnum::Tnum;

/// A condition, or the one that holds when `JSET` does not jump.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cond {
    Op(u8),
    NotSet,
}

/// The operator with its sides exchanged.
pub(super) fn flip(op: u8) -> u8 {
    match op {
        BPF_JGE => BPF_JLE,
        BPF_JGT => BPF_JLT,
        BPF_JLE => BPF_JGE,
        BPF_JLT => BPF_JGT,
        BPF_JSGE => BPF_JSLE,
        BPF_JSGT => BPF_JSLT,
        BPF_JSLE => BPF_JSGE,
        BPF_JSLT => BPF_JSGT,
        other => other,
    }
}

/// The opposite condition.
pub(super) fn rev(op: u8) -> Cond {
    Cond::Op(match op {
        BPF_JEQ => BPF_JNE,
        BPF_JNE => BPF_JEQ,
        BPF_JGE => BPF_JLT,
        BPF_JGT => BPF_JLE,
        BPF_JLE => BPF_JGT,
        BPF_JLT => BPF_JGE,
        BPF_JSGE => BPF_JSLT,
        BPF_JSGT => BPF_JSLE,
        BPF_JSLE => BPF_JSGT,
        BPF_JSLT => BPF_JSGE,
        _ => return Cond::NotSet,
    })
}

/// The views of a scalar that a comparison of one width looks at.
struct View {
    t: Tnum,
    umin: u64,
    umax: u64,
    smin: i64,
    smax: i64,
}

impl View {
    fn of(r: &Reg, jmp32: bool) -> Self {
        if jmp32 {
            Self {
                t: r.var_off.subreg(),
                umin: u64::from(r.u32_min),
                umax: u64::from(r.u32_max),
                smin: i64::from(r.s32_min),
                smax: i64::from(r.s32_max),
            }
        } else {
            Self { t: r.var_off, umin: r.umin, umax: r.umax, smin: r.smin, smax: r.smax }
        }
    }
}

/// `Some` where the comparison has the same outcome for all values.
pub(super) fn scalar_branch(r1: &Reg, r2: &Reg, op: u8, jmp32: bool) -> Option<bool> {
    let (a, b) = (View::of(r1, jmp32), View::of(r2, jmp32));
    let decide = |yes: bool, no: bool| if yes { Some(true) } else { no.then_some(false) };
    match op {
        BPF_JEQ => equal(r1, r2, &a, &b, jmp32),
        BPF_JNE => equal(r1, r2, &a, &b, jmp32).map(|e| !e),
        BPF_JSET => {
            let (x, y) = if r2.is_const(jmp32) { (a.t, b.t) } else { (b.t, a.t) };
            if !y.is_const() {
                return None;
            }
            decide(x.value & !x.mask & y.value != 0, x.max() & y.value == 0)
        }
        BPF_JGT => decide(a.umin > b.umax, a.umax <= b.umin),
        BPF_JSGT => decide(a.smin > b.smax, a.smax <= b.smin),
        BPF_JLT => decide(a.umax < b.umin, a.umin >= b.umax),
        BPF_JSLT => decide(a.smax < b.smin, a.smin >= b.smax),
        BPF_JGE => decide(a.umin >= b.umax, a.umax < b.umin),
        BPF_JSGE => decide(a.smin >= b.smax, a.smax < b.smin),
        BPF_JLE => decide(a.umax <= b.umin, a.umin > b.umax),
        BPF_JSLE => decide(a.smax <= b.smin, a.smin > b.smax),
        _ => None,
    }
}

fn equal(r1: &Reg, r2: &Reg, a: &View, b: &View, jmp32: bool) -> Option<bool> {
    if a.t.is_const() && b.t.is_const() {
        return Some(a.t.value == b.t.value);
    }
    let apart = !a.t.overlap(b.t)
        || a.umin > b.umax
        || a.umax < b.umin
        || a.smin > b.smax
        || a.smax < b.smin
        || !jmp32
            && (r1.u32_min > r2.u32_max
                || r1.u32_max < r2.u32_min
                || r1.s32_min > r2.s32_max
                || r1.s32_max < r2.s32_min);
    apart.then_some(false)
}

/// Narrows both sides of a condition that holds.
pub(super) fn refine<'r>(mut r1: &'r mut Reg, mut r2: &'r mut Reg, cond: Cond, jmp32: bool) {
    let mut cond = cond;
    if let Cond::Op(op @ (BPF_JGE | BPF_JGT | BPF_JSGE | BPF_JSGT)) = cond {
        cond = Cond::Op(flip(op));
        std::mem::swap(&mut r1, &mut r2);
    }
    if matches!(cond, Cond::NotSet | Cond::Op(BPF_JNE | BPF_JSET)) {
        if !r2.is_const(jmp32) {
            std::mem::swap(&mut r1, &mut r2);
        }
        if r2.is_const(jmp32) {
            refine_by_const(r1, r2.const_value(jmp32), cond, jmp32);
        }
        return;
    }
    let Cond::Op(op) = cond else { return };
    if op == BPF_JEQ {
        return if jmp32 { refine_eq32(r1, r2) } else { refine_eq64(r1, r2) };
    }
    let strict = matches!(op, BPF_JLT | BPF_JSLT);
    match (op, jmp32) {
        (BPF_JLE | BPF_JLT, true) => {
            let d = u32::from(strict);
            r1.u32_max = r1.u32_max.min(r2.u32_max.wrapping_sub(d));
            r2.u32_min = r1.u32_min.wrapping_add(d).max(r2.u32_min);
        }
        (BPF_JLE | BPF_JLT, false) => {
            let d = u64::from(strict);
            r1.umax = r1.umax.min(r2.umax.wrapping_sub(d));
            r2.umin = r1.umin.wrapping_add(d).max(r2.umin);
        }
        (BPF_JSLE | BPF_JSLT, true) => {
            let d = i32::from(strict);
            r1.s32_max = r1.s32_max.min(r2.s32_max.wrapping_sub(d));
            r2.s32_min = r1.s32_min.wrapping_add(d).max(r2.s32_min);
        }
        (BPF_JSLE | BPF_JSLT, false) => {
            let d = i64::from(strict);
            r1.smax = r1.smax.min(r2.smax.wrapping_sub(d));
            r2.smin = r1.smin.wrapping_add(d).max(r2.smin);
        }
        _ => {}
    }
}

fn refine_eq32(r1: &mut Reg, r2: &mut Reg) {
    r1.u32_min = r1.u32_min.max(r2.u32_min);
    r1.u32_max = r1.u32_max.min(r2.u32_max);
    r1.s32_min = r1.s32_min.max(r2.s32_min);
    r1.s32_max = r1.s32_max.min(r2.s32_max);
    (r2.u32_min, r2.u32_max, r2.s32_min, r2.s32_max) = (r1.u32_min, r1.u32_max, r1.s32_min, r1.s32_max);
    let t = r1.var_off.subreg().intersect(r2.var_off.subreg());
    r1.var_off = r1.var_off.with_subreg(t);
    r2.var_off = r2.var_off.with_subreg(t);
}

fn refine_eq64(r1: &mut Reg, r2: &mut Reg) {
    r1.umin = r1.umin.max(r2.umin);
    r1.umax = r1.umax.min(r2.umax);
    r1.smin = r1.smin.max(r2.smin);
    r1.smax = r1.smax.min(r2.smax);
    (r2.umin, r2.umax, r2.smin, r2.smax) = (r1.umin, r1.umax, r1.smin, r1.smax);
    r1.var_off = r1.var_off.intersect(r2.var_off);
    r2.var_off = r1.var_off;
}

/// Inequality with a constant moves an end that is the constant; bit tests set or clear bits.
fn refine_by_const(r: &mut Reg, v: u64, cond: Cond, jmp32: bool) {
    match (cond, jmp32) {
        (Cond::Op(BPF_JNE), true) => {
            let (u, s) = (v as u32, v as i32);
            r.u32_min = r.u32_min.wrapping_add(u32::from(r.u32_min == u));
            r.u32_max = r.u32_max.wrapping_sub(u32::from(r.u32_max == u));
            r.s32_min = r.s32_min.wrapping_add(i32::from(r.s32_min == s));
            r.s32_max = r.s32_max.wrapping_sub(i32::from(r.s32_max == s));
        }
        (Cond::Op(BPF_JNE), false) => {
            let s = v as i64;
            r.umin = r.umin.wrapping_add(u64::from(r.umin == v));
            r.umax = r.umax.wrapping_sub(u64::from(r.umax == v));
            r.smin = r.smin.wrapping_add(i64::from(r.smin == s));
            r.smax = r.smax.wrapping_sub(i64::from(r.smax == s));
        }
        (Cond::Op(BPF_JSET), _) => {
            if v.is_power_of_two() {
                r.var_off = if jmp32 {
                    r.var_off.with_subreg(r.var_off.subreg().or(Tnum::constant(v)))
                } else {
                    r.var_off.or(Tnum::constant(v))
                };
            }
        }
        _ => {
            // The old bounds may not fit the cleared bits; they follow from these again.
            r.unbound();
            r.var_off = if jmp32 {
                r.var_off.with_subreg(r.var_off.subreg().and(Tnum::constant(!v)))
            } else {
                r.var_off.and(Tnum::constant(!v))
            };
        }
    }
}
