//! From checked instructions to [`Code`].

use uapi::bpf::*;

use super::op::Op::{self, *};
use super::{Code, THROW};
use crate::insn::Insn;
use crate::object::ProgramSpec;
use crate::vm::program::CALLBACK_BASE;

/// Decodes a program that has passed the structural checks. `ksyms` are the values of its symbols.
pub(in crate::vm) fn decode(spec: &ProgramSpec, ksyms: &[u64]) -> Box<[Code]> {
    let insns = &spec.insns;
    let mut code = Vec::with_capacity(insns.len());
    while let Some(insn) = insns.get(code.len()) {
        let at = code.len();
        if insn.is_ld_imm64() {
            code.push(wide(*insn, insns[at + 1], at, ksyms));
            code.push(Code { op: Unreachable, dst: 0, src: 0, size: 0, off: 0, imm: 0 });
        } else {
            code.push(narrow(*insn, at, spec));
        }
    }
    code.into()
}

/// Makes an instruction one that reads 0 where there is nothing, if it is a load.
pub(in crate::vm) fn make_probe(code: &mut Code) {
    let signed = matches!(code.op, Ldxs8 | Ldxs16 | Ldxs32);
    if signed || matches!(code.op, Ldx8 | Ldx16 | Ldx32 | Ldx64) {
        (code.op, code.imm) = (Probe, signed.into());
    }
}

fn wide(insn: Insn, second: Insn, at: usize, ksyms: &[u64]) -> Code {
    let whole = (second.imm as u32 as u64) << 32 | insn.imm as u32 as u64;
    let load = |op, off, imm: u64| Code { op, dst: insn.dst & 15, src: 0, size: 0, off, imm: imm as i64 };
    match insn.src {
        BPF_PSEUDO_MAP_IDX => load(LoadMap, 0, insn.imm as u64),
        BPF_PSEUDO_MAP_IDX_VALUE => load(LoadMapValue, insn.imm, second.imm as u32 as u64),
        BPF_PSEUDO_FUNC => load(LoadImm64, 0, CALLBACK_BASE + (at as i64 + 1 + i64::from(insn.imm)) as u64),
        BPF_PSEUDO_BTF_ID => load(LoadImm64, 0, ksyms[insn.imm as usize]),
        _ => load(LoadImm64, 0, whole),
    }
}

fn narrow(insn: Insn, at: usize, spec: &ProgramSpec) -> Code {
    let imm = i64::from(insn.imm);
    let (dst, src, off) = (insn.dst & 15, insn.src & 15, i32::from(insn.off));
    let plain = Code { op: Exit, dst, src, size: insn.access_size(), off, imm };
    match insn.class() {
        BPF_ALU | BPF_ALU64 => Code { op: alu(insn), ..plain },
        BPF_JMP | BPF_JMP32 => jump(insn, at, spec, plain),
        BPF_LDX => {
            let ops = if insn.mode() == BPF_MEM {
                [Ldx8, Ldx16, Ldx32, Ldx64]
            } else {
                [Ldxs8, Ldxs16, Ldxs32, Unreachable]
            };
            Code { op: by_size(insn, ops), ..plain }
        }
        BPF_ST => Code { op: by_size(insn, [St8, St16, St32, St64]), ..plain },
        _ if insn.mode() == BPF_MEM => Code { op: by_size(insn, [Stx8, Stx16, Stx32, Stx64]), ..plain },
        _ => {
            let op = match insn.imm {
                BPF_LOAD_ACQ => LoadAcquire,
                BPF_STORE_REL => StoreRelease,
                _ => by_size(insn, [Unreachable, Unreachable, Atomic32, Atomic64]),
            };
            Code { op, ..plain }
        }
    }
}

fn by_size(insn: Insn, ops: [Op; 4]) -> Op {
    ops[insn.access_size().trailing_zeros() as usize]
}

/// Of the operations (64 bits, 64 bits with register, 32 bits, 32 bits with register) the one that fits.
fn pick(insn: Insn, [k64, x64, k32, x32]: [Op; 4]) -> Op {
    match (matches!(insn.class(), BPF_ALU64 | BPF_JMP), insn.is_src_reg()) {
        (true, false) => k64,
        (true, true) => x64,
        (false, false) => k32,
        (false, true) => x32,
    }
}

fn alu(insn: Insn) -> Op {
    let signed = insn.off == 1;
    let forms = match insn.op() {
        BPF_ADD => [Add64K, Add64X, Add32K, Add32X],
        BPF_SUB => [Sub64K, Sub64X, Sub32K, Sub32X],
        BPF_MUL => [Mul64K, Mul64X, Mul32K, Mul32X],
        BPF_DIV if signed => [Sdiv64K, Sdiv64X, Sdiv32K, Sdiv32X],
        BPF_DIV => [Div64K, Div64X, Div32K, Div32X],
        BPF_MOD if signed => [Smod64K, Smod64X, Smod32K, Smod32X],
        BPF_MOD => [Mod64K, Mod64X, Mod32K, Mod32X],
        BPF_OR => [Or64K, Or64X, Or32K, Or32X],
        BPF_AND => [And64K, And64X, And32K, And32X],
        BPF_XOR => [Xor64K, Xor64X, Xor32K, Xor32X],
        BPF_LSH => [Lsh64K, Lsh64X, Lsh32K, Lsh32X],
        BPF_RSH => [Rsh64K, Rsh64X, Rsh32K, Rsh32X],
        BPF_ARSH => [Arsh64K, Arsh64X, Arsh32K, Arsh32X],
        BPF_NEG => [Neg64, Neg64, Neg32, Neg32],
        BPF_END => return swap(insn),
        _ => return mov(insn),
    };
    pick(insn, forms)
}

fn mov(insn: Insn) -> Op {
    match (insn.class(), insn.off) {
        (BPF_ALU64, 8) => Movs8To64,
        (BPF_ALU64, 16) => Movs16To64,
        (BPF_ALU64, 32) => Movs32To64,
        (BPF_ALU, 8) => Movs8To32,
        (BPF_ALU, 16) => Movs16To32,
        _ => pick(insn, [Mov64K, Mov64X, Mov32K, Mov32X]),
    }
}

fn swap(insn: Insn) -> Op {
    let forms = match (insn.class(), insn.is_src_reg()) {
        (BPF_ALU64, _) => [Bswap16, Bswap32, Bswap64],
        (_, true) => [Be16, Be32, Be64],
        (_, false) => [Le16, Le32, Le64],
    };
    match insn.imm {
        16 => forms[0],
        32 => forms[1],
        _ => forms[2],
    }
}

fn jump(insn: Insn, at: usize, spec: &ProgramSpec, plain: Code) -> Code {
    let forms = match insn.op() {
        BPF_CALL => return call(insn, spec, Code { off: (at as i64 + 1 + plain.imm) as i32, ..plain }),
        BPF_EXIT => return plain,
        BPF_JA if insn.class() == BPF_JMP32 => return Code { op: Ja, off: insn.imm, ..plain },
        BPF_JA => [Ja; 4],
        BPF_JCOND => [MayGoto; 4],
        BPF_JEQ => [Jeq64K, Jeq64X, Jeq32K, Jeq32X],
        BPF_JNE => [Jne64K, Jne64X, Jne32K, Jne32X],
        BPF_JGT => [Jgt64K, Jgt64X, Jgt32K, Jgt32X],
        BPF_JGE => [Jge64K, Jge64X, Jge32K, Jge32X],
        BPF_JLT => [Jlt64K, Jlt64X, Jlt32K, Jlt32X],
        BPF_JLE => [Jle64K, Jle64X, Jle32K, Jle32X],
        BPF_JSGT => [Jsgt64K, Jsgt64X, Jsgt32K, Jsgt32X],
        BPF_JSGE => [Jsge64K, Jsge64X, Jsge32K, Jsge32X],
        BPF_JSLT => [Jslt64K, Jslt64X, Jslt32K, Jslt32X],
        BPF_JSLE => [Jsle64K, Jsle64X, Jsle32K, Jsle32X],
        _ => [Jset64K, Jset64X, Jset32K, Jset32X],
    };
    Code { op: pick(insn, forms), ..plain }
}

fn call(insn: Insn, spec: &ProgramSpec, code: Code) -> Code {
    let op = match insn.src {
        BPF_PSEUDO_CALL => Call,
        BPF_PSEUDO_KFUNC_CALL if spec.kfuncs[insn.imm as usize].name == THROW => Throw,
        BPF_PSEUDO_KFUNC_CALL => Kfunc,
        _ if insn.imm == func::TAIL_CALL => TailCall,
        _ => Helper,
    };
    Code { op, ..code }
}
