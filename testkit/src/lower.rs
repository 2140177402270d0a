//! From RFC 9669 to what Linux takes: two forms that the specification has and the kernel refuses.
//!
//! Shifts by an immediate out of range shift by the immediate modulo the width (RFC 9669, 4.1). A helper
//! called by the number in a register becomes a choice among the helpers that there are.

use bpf::Insn;
use uapi::bpf::*;

/// Replaces such forms; `helpers` are the numbers that a call by register may name. A call of another
/// number leaves R0 as it is.
#[must_use]
pub fn lower(insns: &[Insn], helpers: &[i32]) -> Vec<Insn> {
    let mut out = Vec::with_capacity(insns.len());
    // Where each old slot begins in the new program, and what has to be pointed at new places.
    let mut starts = Vec::with_capacity(insns.len() + 1);
    let mut relative = Vec::new();
    let mut wide = false;
    for (i, insn) in insns.iter().enumerate() {
        starts.push(out.len());
        let second = wide;
        wide = !second && insn.is_ld_imm64();
        if second {
            out.push(*insn);
        } else if insn.code == BPF_JMP | BPF_CALL | BPF_X {
            call_by_register(&mut out, insn.dst, helpers);
        } else {
            if distance(*insn).is_some() {
                relative.push((i, out.len()));
            }
            out.push(mask_shift(*insn));
        }
    }
    starts.push(out.len());
    for (old, new) in relative {
        let target = old as i64 + 1 + distance(insns[old]).unwrap_or(0);
        // What goes nowhere is left for the engine to refuse.
        let Some(start) = usize::try_from(target).ok().and_then(|t| starts.get(t)) else { continue };
        set_distance(&mut out[new], *start as i64 - new as i64 - 1);
    }
    out
}

fn mask_shift(insn: Insn) -> Insn {
    let bits = match insn.class() {
        BPF_ALU => 32,
        BPF_ALU64 => 64,
        _ => return insn,
    };
    let shift = matches!(insn.op(), BPF_LSH | BPF_RSH | BPF_ARSH) && !insn.is_src_reg();
    if shift { Insn { imm: insn.imm & (bits - 1), ..insn } } else { insn }
}

/// For each helper: skip its call unless the register has its number; after the call, to the end.
fn call_by_register(out: &mut Vec<Insn>, register: u8, helpers: &[i32]) {
    for (n, helper) in helpers.iter().enumerate() {
        let rest = 3 * (helpers.len() - n - 1);
        out.push(Insn::new(BPF_JMP | BPF_JNE, register, 0, 2, *helper));
        out.push(Insn::new(BPF_JMP | BPF_CALL, 0, 0, 0, *helper));
        out.push(Insn::new(BPF_JMP | BPF_JA, 0, 0, rest as i16, 0));
    }
}

/// How far an instruction points, if it points at another one.
fn distance(insn: Insn) -> Option<i64> {
    let by_imm = insn.is_pseudo_call()
        || insn.code == BPF_JMP32 | BPF_JA
        || insn.is_ld_imm64() && insn.src == BPF_PSEUDO_FUNC;
    if by_imm {
        return Some(i64::from(insn.imm));
    }
    let jump = matches!(insn.class(), BPF_JMP | BPF_JMP32) && !matches!(insn.op(), BPF_CALL | BPF_EXIT);
    jump.then_some(i64::from(insn.off))
}

fn set_distance(insn: &mut Insn, distance: i64) {
    if insn.is_ld_imm64() || insn.is_pseudo_call() || insn.code == BPF_JMP32 | BPF_JA {
        insn.imm = distance as i32;
    } else {
        insn.off = distance as i16;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asm::assemble;
    use crate::engine;

    fn run(text: &str) -> u64 {
        let insns = lower(&assemble(text).unwrap(), &[func::KTIME_GET_NS]);
        engine::interpret(&engine::link(&insns).unwrap(), &[], 1000).0.unwrap()
    }

    #[test]
    fn shifts_are_taken_modulo_the_width() {
        assert_eq!(run("mov %r0, 1\nlsh %r0, 65\nexit"), 2);
        assert_eq!(run("mov %r0, -1\nrsh32 %r0, -16\nexit"), 0xffff);
    }

    #[test]
    fn a_call_by_register_chooses_and_jumps_over_it_stay_right() {
        let text =
            "mov %r6, 0\nagain:\nmov %r2, 5\ncall %r2\nadd %r6, 1\njlt %r6, 3, again\nmov %r0, %r6\nexit";
        assert_eq!(run(text), 3);
        assert_eq!(run("mov %r0, 9\nmov %r2, 1000\ncall %r2\nexit"), 9);
    }
}
