//! Checks of structure: what every engine relies on before it looks at a program's meaning.
//!
//! Register numbers, opcodes, reserved fields, jump targets and the ends of functions. The sentences are
//! those of the kernel's verifier, which makes the same checks among its others.

use uapi::Errno;
use uapi::bpf::*;

use crate::insn::Insn;
use crate::object::Subprog;

/// What is wrong with an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    pub(super) insn: usize,
    pub(super) errno: Errno,
    pub(super) message: String,
}

/// Checks a whole program: each instruction, and how they hang together.
pub(super) fn check(insns: &[Insn], subprogs: &[Subprog]) -> Result<(), Flaw> {
    let flaw = |insn, message: String| Flaw { insn, errno: Errno::EINVAL, message };
    if insns.is_empty() {
        return Err(flaw(0, "a program has at least one instruction".to_owned()));
    }
    check_functions(insns, subprogs)?;
    let second = second_slots(insns)?;
    let starts = || insns.iter().enumerate().filter(|(i, _)| !second[*i]);
    for (i, insn) in starts() {
        check_insn(*insn).map_err(|message| flaw(i, message))?;
    }
    let targets = starts().filter_map(|(i, insn)| Some((i, (i as i64 + 1 + jump_distance(*insn)?) as usize)));
    let entries = subprogs.iter().map(|s| (s.start as usize, s.start as usize));
    match targets.chain(entries).find(|(_, to)| second[*to]) {
        Some((i, to)) => Err(flaw(i, format!("jump into the middle of ldimm64 insn {}", to - 1))),
        None => Ok(()),
    }
}

/// Which slots are the second half of a 16-byte instruction.
fn second_slots(insns: &[Insn]) -> Result<Vec<bool>, Flaw> {
    let mut second = vec![false; insns.len()];
    let mut i = 0;
    while i < insns.len() {
        if insns[i].is_ld_imm64() {
            let rest = insns.get(i + 1).filter(|n| (n.code, n.dst, n.src, n.off) == (0, 0, 0, 0));
            if rest.is_none() {
                return Err(Flaw {
                    insn: i,
                    errno: Errno::EINVAL,
                    message: "invalid bpf_ld_imm64 insn".to_owned(),
                });
            }
            second[i + 1] = true;
            i += 1;
        }
        i += 1;
    }
    Ok(second)
}

/// Where a jump goes, counted from the instruction after it; `None` if it is no jump.
pub(super) fn jump_distance(insn: Insn) -> Option<i64> {
    match (insn.class(), insn.op()) {
        (BPF_JMP | BPF_JMP32, BPF_CALL | BPF_EXIT) => None,
        (BPF_JMP32, BPF_JA) => Some(i64::from(insn.imm)),
        (BPF_JMP | BPF_JMP32, _) => Some(i64::from(insn.off)),
        _ => None,
    }
}

/// Every jump stays in its function, and no function runs into the next one.
fn check_functions(insns: &[Insn], subprogs: &[Subprog]) -> Result<(), Flaw> {
    let flaw = |insn, message: String| Err(Flaw { insn, errno: Errno::EINVAL, message });
    for (n, subprog) in subprogs.iter().enumerate() {
        let start = subprog.start as usize;
        let end = subprogs.get(n + 1).map_or(insns.len(), |next| next.start as usize);
        if start >= end || end > insns.len() {
            return flaw(start, format!("function {:?} has no instructions", subprog.name));
        }
        for (i, insn) in insns[start..end].iter().enumerate().map(|(i, insn)| (start + i, *insn)) {
            let Some(distance) = jump_distance(insn) else { continue };
            let to = i as i64 + 1 + distance;
            if to < start as i64 || to >= end as i64 {
                return flaw(i, format!("jump out of range from insn {i} to {to}"));
            }
        }
        let last = insns[end - 1];
        let ends = last.is_exit() || matches!(last.code, JA | GOTOL);
        if !ends {
            return flaw(end - 1, "last insn is not an exit or jmp".to_owned());
        }
    }
    Ok(())
}

const JA: u8 = BPF_JMP | BPF_JA;
const GOTOL: u8 = BPF_JMP32 | BPF_JA;

/// Checks one instruction by itself.
fn check_insn(insn: Insn) -> Result<(), String> {
    if !known_opcode(insn.code) {
        return Err(format!("unknown opcode {:02x}", insn.code));
    }
    for reg in [insn.dst, if names_register(insn) { insn.src } else { 0 }] {
        if reg >= MAX_BPF_REG {
            return Err(format!("R{reg} is invalid"));
        }
    }
    match insn.class() {
        BPF_ALU | BPF_ALU64 => check_alu(insn)?,
        BPF_JMP | BPF_JMP32 => check_jump(insn)?,
        BPF_LD => check_ld(insn)?,
        BPF_LDX if insn.imm != 0 => return Err("BPF_LDX uses reserved fields".to_owned()),
        BPF_ST if insn.src != 0 => return Err("BPF_ST uses reserved fields".to_owned()),
        BPF_STX if insn.mode() == BPF_ATOMIC => check_atomic(insn)?,
        BPF_STX if insn.imm != 0 => return Err("BPF_STX uses reserved fields".to_owned()),
        _ => {}
    }
    if writes_dst(insn) && insn.dst == BPF_REG_FP || fetches(insn) && insn.src == BPF_REG_FP {
        return Err("frame pointer is read only".to_owned());
    }
    Ok(())
}

/// Register 10.
const BPF_REG_FP: u8 = 10;

/// Whether the source field is a register, not a kind of immediate.
fn names_register(insn: Insn) -> bool {
    match insn.class() {
        BPF_LD => false,
        BPF_JMP | BPF_JMP32 => insn.is_src_reg(),
        _ => true,
    }
}

fn writes_dst(insn: Insn) -> bool {
    let load_acquire = insn.class() == BPF_STX && insn.mode() == BPF_ATOMIC && insn.imm == BPF_LOAD_ACQ;
    matches!(insn.class(), BPF_ALU | BPF_ALU64 | BPF_LD | BPF_LDX) || load_acquire
}

/// Whether an atomic instruction leaves the old value in its source register.
fn fetches(insn: Insn) -> bool {
    let atomic = insn.class() == BPF_STX && insn.mode() == BPF_ATOMIC;
    atomic && insn.imm & BPF_FETCH != 0 && insn.imm != BPF_CMPXCHG
}

/// The opcodes of the kernel's table (`bpf_opcode_in_insntable`).
fn known_opcode(code: u8) -> bool {
    let insn = Insn { code, ..Insn::default() };
    match insn.class() {
        BPF_ALU | BPF_ALU64 => match insn.op() {
            BPF_NEG => !insn.is_src_reg(),
            BPF_END => insn.class() == BPF_ALU || !insn.is_src_reg(),
            op => op < BPF_END,
        },
        BPF_JMP => match insn.op() {
            BPF_JA | BPF_CALL | BPF_EXIT | BPF_JCOND => !insn.is_src_reg(),
            op => op < BPF_JCOND,
        },
        BPF_JMP32 => match insn.op() {
            BPF_JA => !insn.is_src_reg(),
            BPF_CALL | BPF_EXIT => false,
            op => op < BPF_JCOND,
        },
        BPF_LD => match insn.mode() {
            BPF_IMM => insn.is_ld_imm64(),
            BPF_ABS | BPF_IND => insn.access_size() != 8,
            _ => false,
        },
        BPF_LDX => insn.mode() == BPF_MEM || insn.mode() == BPF_MEMSX && insn.access_size() != 8,
        BPF_ST => insn.mode() == BPF_MEM,
        _ => matches!(insn.mode(), BPF_MEM | BPF_ATOMIC),
    }
}

fn check_alu(insn: Insn) -> Result<(), String> {
    let op = insn.op();
    let reserved = |what: &str| Err(format!("BPF_{what} uses reserved fields"));
    match op {
        BPF_NEG if insn.src != 0 || insn.off != 0 || insn.imm != 0 => return reserved("NEG"),
        BPF_END if insn.src != 0 || insn.off != 0 || !matches!(insn.imm, 16 | 32 | 64) => {
            return reserved("END");
        }
        BPF_NEG | BPF_END => return Ok(()),
        BPF_MOV => {
            let widths: &[i16] = if insn.class() == BPF_ALU64 { &[0, 8, 16, 32] } else { &[0, 8, 16] };
            let ok = if insn.is_src_reg() {
                widths.contains(&insn.off) && insn.imm == 0
            } else {
                insn.src == 0 && insn.off == 0
            };
            return if ok { Ok(()) } else { reserved("MOV") };
        }
        _ => {}
    }
    let signed = insn.off == 1 && matches!(op, BPF_DIV | BPF_MOD);
    let unused = if insn.is_src_reg() { insn.imm } else { i32::from(insn.src) };
    if unused != 0 || insn.off != 0 && !signed {
        return reserved("ALU");
    }
    if matches!(op, BPF_DIV | BPF_MOD) && !insn.is_src_reg() && insn.imm == 0 {
        return Err("div by zero".to_owned());
    }
    let bits = if insn.class() == BPF_ALU64 { 64 } else { 32 };
    if matches!(op, BPF_LSH | BPF_RSH | BPF_ARSH) && !insn.is_src_reg() && !(0..bits).contains(&insn.imm) {
        return Err(format!("invalid shift {}", insn.imm));
    }
    Ok(())
}

fn check_jump(insn: Insn) -> Result<(), String> {
    let reserved = |what: &str| Err(format!("BPF_{what} uses reserved fields"));
    match insn.op() {
        BPF_CALL => {
            let kind_known = matches!(insn.src, 0 | BPF_PSEUDO_CALL | BPF_PSEUDO_KFUNC_CALL);
            let off_used = insn.src == BPF_PSEUDO_KFUNC_CALL;
            if !kind_known || insn.dst != 0 || insn.off != 0 && !off_used {
                return reserved("CALL");
            }
        }
        BPF_EXIT if (insn.dst, insn.src, insn.off, insn.imm) != (0, 0, 0, 0) => return reserved("EXIT"),
        BPF_JA => {
            let unused = if insn.class() == BPF_JMP { insn.imm } else { i32::from(insn.off) };
            if (insn.dst, insn.src, unused) != (0, 0, 0) {
                return reserved("JA");
            }
        }
        BPF_JCOND if (insn.dst, insn.src, insn.imm) != (0, 0, 0) => {
            return Err(format!("invalid may_goto imm {}", insn.imm));
        }
        BPF_EXIT | BPF_JCOND => {}
        _ => {
            let unused = if insn.is_src_reg() { insn.imm } else { i32::from(insn.src) };
            if unused != 0 {
                return reserved("JMP/JMP32");
            }
        }
    }
    Ok(())
}

fn check_ld(insn: Insn) -> Result<(), String> {
    if !insn.is_ld_imm64() {
        return Err("BPF_LD_[ABS|IND] instructions not allowed for this program type".to_owned());
    }
    if insn.off != 0 {
        return Err("BPF_LD_IMM64 uses reserved fields".to_owned());
    }
    if insn.src > BPF_PSEUDO_MAP_IDX_VALUE {
        return Err("unrecognized bpf_ld_imm64 insn".to_owned());
    }
    Ok(())
}

fn check_atomic(insn: Insn) -> Result<(), String> {
    let ordered = matches!(insn.imm, BPF_LOAD_ACQ | BPF_STORE_REL);
    let arithmetic = [BPF_ADD, BPF_OR, BPF_AND, BPF_XOR].map(i32::from);
    let known = arithmetic.contains(&(insn.imm & !BPF_FETCH)) || matches!(insn.imm, BPF_XCHG | BPF_CMPXCHG);
    if !ordered && !known {
        return Err(format!("BPF_ATOMIC uses invalid atomic opcode {:02x}", insn.imm));
    }
    if known && insn.access_size() < 4 {
        return Err("invalid atomic operand size".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXIT: Insn = Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);

    fn message(insns: &[Insn]) -> String {
        let subprogs = [Subprog { name: "p".into(), start: 0, btf: None, is_global: true }];
        check(insns, &subprogs).expect_err("a flaw").message
    }

    #[test]
    fn each_of_the_twelve_shifts_out_of_range_is_refused() {
        for op in [BPF_LSH, BPF_RSH, BPF_ARSH] {
            for (class, high) in [(BPF_ALU, 33), (BPF_ALU64, 65)] {
                for imm in [high, -1] {
                    let text = message(&[Insn::new(class | op, 0, 0, 0, imm), EXIT]);
                    assert_eq!(text, format!("invalid shift {imm}"));
                }
            }
        }
    }

    #[test]
    fn every_byte_is_an_opcode_or_refused_without_a_panic() {
        for code in 0..=255 {
            for (src, off, imm) in [(0, 0, 0), (0, 0, 1), (11, -1, -1), (15, 1, 0x1f1)] {
                let subprogs = [Subprog { name: "p".into(), start: 0, btf: None, is_global: true }];
                let _ = check(&[Insn::new(code, 15, src, off, imm), EXIT], &subprogs);
            }
        }
    }

    #[test]
    fn jumps_stay_in_their_function_and_out_of_wide_instructions() {
        let wide = [Insn::new(0x18, 0, 0, 0, 1), Insn::new(0, 0, 0, 0, 2)];
        let ja = |off| Insn::new(BPF_JMP | BPF_JA, 0, 0, off, 0);
        assert_eq!(message(&[ja(1), EXIT]), "jump out of range from insn 0 to 2");
        assert_eq!(message(&[ja(-2), EXIT]), "jump out of range from insn 0 to -1");
        assert_eq!(message(&[ja(1), wide[0], wide[1], EXIT]), "jump into the middle of ldimm64 insn 1");
        assert_eq!(message(&[EXIT, wide[0], wide[1]]), "last insn is not an exit or jmp");
        assert_eq!(message(&[wide[0], EXIT]), "invalid bpf_ld_imm64 insn");
    }
}
