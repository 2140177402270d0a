//! Writing the answers of CO-RE relocations into instructions.

use uapi::bpf::*;

use super::error::Problem;
use super::spec::POISON_CORE;
use crate::btf::Btf;
use crate::btf::core::{CoreError, CoreRelo, Matcher, Resolved};
use crate::insn::Insn;

/// Decides a relocation and patches the first of `insns`.
pub(super) fn apply(matcher: &mut Matcher<'_>, relo: &CoreRelo, insns: &mut [Insn]) -> Result<(), CoreError> {
    let resolved = matcher.resolve(relo)?;
    patch(&resolved, insns)
}

/// A failure in words that name the type and the access.
pub(super) fn problem(btf: &Btf, relo: &CoreRelo, reason: CoreError) -> Problem {
    let kind = btf.ty(relo.ty).tag().name();
    let name = btf.str_up_to(btf.ty(relo.ty).name, 128);
    let path = btf.str_up_to(relo.access, 64);
    Problem::new(format!("CO-RE relocation {:?} of {kind} {name} (path {path}): {reason}", relo.kind))
}

#[doc(alias = "bpf_core_patch_insn")]
fn patch(r: &Resolved, insns: &mut [Insn]) -> Result<(), CoreError> {
    let Some(insn) = insns.first_mut() else { return Err("no instruction".to_owned()) };
    match insn.class() {
        BPF_ALU | BPF_ALU64 if !insn.is_src_reg() => {
            if r.poison {
                *insn = poison();
                return Ok(());
            }
            expect(r, i64::from(insn.imm) as u64)?;
            insn.imm = r.new_val as i32;
            Ok(())
        }
        BPF_LDX | BPF_ST | BPF_STX => patch_access(r, insn),
        BPF_LD => patch_load_imm64(r, insns),
        _ => Err(format!("an instruction with code {:#04x} carries no relocatable value", insn.code)),
    }
}

/// A load or store: the offset, and the size if pointers or unsigned integers differ in it.
fn patch_access(r: &Resolved, insn: &mut Insn) -> Result<(), CoreError> {
    if r.poison {
        *insn = poison();
        return Ok(());
    }
    expect(r, i64::from(insn.off) as u64)?;
    let offset = i16::try_from(r.new_val);
    let offset = offset.map_err(|_| format!("offset {} does not fit the instruction", r.new_val))?;
    if r.fail_memsz_adjust {
        *insn = poison();
        return Ok(());
    }
    insn.off = offset;
    if r.new_sz == r.orig_sz {
        return Ok(());
    }
    if u32::from(insn.access_size()) != r.orig_sz {
        return Err(format!(
            "the instruction moves {} bytes, the field has {}",
            insn.access_size(),
            r.orig_sz
        ));
    }
    let size = match r.new_sz {
        8 => BPF_DW,
        4 => BPF_W,
        2 => BPF_H,
        1 => BPF_B,
        other => return Err(format!("no instruction moves {other} bytes")),
    };
    insn.code = insn.mode() | size | insn.class();
    Ok(())
}

fn patch_load_imm64(r: &Resolved, insns: &mut [Insn]) -> Result<(), CoreError> {
    let [insn, second, ..] = insns else { return Err("a 64-bit load is cut off".to_owned()) };
    let plain = insn.is_ld_imm64() && (insn.src, insn.off) == (0, 0);
    if !plain || (second.code, second.dst, second.src, second.off) != (0, 0, 0, 0) {
        return Err("a 64-bit load of unexpected form".to_owned());
    }
    if r.poison {
        (*insn, *second) = (poison(), poison());
        return Ok(());
    }
    expect(r, u64::from(insn.imm as u32) | (i64::from(second.imm) << 32) as u64)?;
    (insn.imm, second.imm) = (r.new_val as i32, (r.new_val >> 32) as i32);
    Ok(())
}

/// The instruction must carry what the compiler put there.
fn expect(r: &Resolved, found: u64) -> Result<(), CoreError> {
    if r.validate && found != r.orig_val {
        return Err(format!("the instruction has {found} where the types say {}", r.orig_val));
    }
    Ok(())
}

/// A call that the verifier refuses if it can be reached.
fn poison() -> Insn {
    Insn::new(BPF_JMP | BPF_CALL, 0, 0, 0, POISON_CORE)
}
