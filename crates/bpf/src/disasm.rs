//! Instructions as text, in the form of the kernel's verifier log and of bpftool.
//!
//! `(61) r2 = *(u32 *)(r1 +0)`: the opcode in parentheses, then an assignment or statement.

use uapi::bpf::*;

use crate::insn::Insn;

/// Writes one instruction. `next` is the second slot of a wide load; `kfunc` names a called kernel
/// function, where it is known.
///
/// ```
/// use bpf::{Insn, disasm::disassemble};
/// assert_eq!(disassemble(&Insn::new(0x61, 2, 1, 0, 0), None, None), "(61) r2 = *(u32 *)(r1 +0)");
/// assert_eq!(disassemble(&Insn::new(0x95, 0, 0, 0, 0), None, None), "(95) exit");
/// ```
#[must_use]
pub fn disassemble(insn: &Insn, next: Option<&Insn>, kfunc: Option<&str>) -> String {
    let code = insn.code;
    let body = match insn.class() {
        BPF_ALU | BPF_ALU64 => alu(insn),
        BPF_STX => match stx(insn) {
            Some(s) => s,
            None => return format!("BUG_{code:02x}"),
        },
        BPF_ST => match insn.mode() {
            BPF_MEM => format!("*({} *)(r{} {:+}) = {}", size(insn), insn.dst, insn.off, insn.imm),
            BPF_ATOMIC => "nospec".to_owned(),
            _ => return format!("BUG_st_{code:02x}"),
        },
        BPF_LDX => match insn.mode() {
            BPF_MEM | BPF_MEMSX => {
                let size = if insn.mode() == BPF_MEM { size(insn) } else { signed_size(insn) };
                format!("r{} = *({size} *)(r{} {:+})", insn.dst, insn.src, insn.off)
            }
            _ => return format!("BUG_ldx_{code:02x}"),
        },
        BPF_LD => match insn.mode() {
            BPF_ABS => format!("r0 = *({} *)skb[{}]", size(insn), insn.imm),
            BPF_IND => format!("r0 = *({} *)skb[r{} + {}]", size(insn), insn.src, insn.imm),
            BPF_IMM if insn.is_ld_imm64() => {
                let high = next.map_or(0, |n| u64::from(n.imm as u32));
                format!("r{} = {:#x}", insn.dst, (high << 32) | u64::from(insn.imm as u32))
            }
            _ => return format!("BUG_ld_{code:02x}"),
        },
        _ => jump(insn, kfunc),
    };
    format!("({code:02x}) {body}")
}

fn size(insn: &Insn) -> &'static str {
    match insn.access_size() {
        1 => "u8",
        2 => "u16",
        4 => "u32",
        _ => "u64",
    }
}

fn signed_size(insn: &Insn) -> &'static str {
    match insn.access_size() {
        1 => "s8",
        2 => "s16",
        4 => "s32",
        _ => "s64",
    }
}

fn operator(op: u8) -> &'static str {
    const OPS: [&str; 16] = [
        "+=", "-=", "*=", "/=", "|=", "&=", "<<=", ">>=", "neg", "%=", "^=", "=", "s>>=", "endian", "(null)",
        "(null)",
    ];
    OPS[usize::from(op >> 4)]
}

fn alu(insn: &Insn) -> String {
    let w = if insn.class() == BPF_ALU { 'w' } else { 'r' };
    let (dst, src, imm) = (insn.dst, insn.src, insn.imm);
    match insn.op() {
        BPF_END if insn.class() == BPF_ALU64 => return format!("r{dst} = bswap{imm} r{dst}"),
        BPF_END => {
            let order = if insn.is_src_reg() { "be" } else { "le" };
            return format!("r{dst} = {order}{imm} r{dst}");
        }
        BPF_NEG => return format!("{w}{dst} = -{w}{dst}"),
        _ => {}
    }
    let signed = matches!(insn.op(), BPF_DIV | BPF_MOD) && insn.off == 1;
    let op = match (insn.op(), signed) {
        (BPF_DIV, true) => "s/=",
        (_, true) => "s%=",
        (op, false) => operator(op),
    };
    if !insn.is_src_reg() {
        return format!("{w}{dst} {op} {imm}");
    }
    if insn.op() == BPF_MOV && insn.class() == BPF_ALU64 {
        if insn.off == 1 {
            return format!("r{dst} = addr_space_cast(r{src}, {}, {})", imm as u32 >> 16, imm as u16);
        }
        if insn.off == -1 {
            return format!("r{dst} = &(void __percpu *)(r{src})");
        }
    }
    let cast = match (insn.op(), insn.off) {
        (BPF_MOV, 8) => "(s8)",
        (BPF_MOV, 16) => "(s16)",
        (BPF_MOV, 32) => "(s32)",
        _ => "",
    };
    format!("{w}{dst} {op} {cast}{w}{src}")
}

fn stx(insn: &Insn) -> Option<String> {
    let (dst, src, off, size) = (insn.dst, insn.src, insn.off, size(insn));
    if insn.mode() == BPF_MEM {
        return Some(format!("*({size} *)(r{dst} {off:+}) = r{src}"));
    }
    if insn.mode() != BPF_ATOMIC {
        return None;
    }
    let wide = if insn.access_size() == 8 { "64" } else { "" };
    let name = match (insn.imm & !BPF_FETCH) as u8 {
        BPF_ADD => "add",
        BPF_AND => "and",
        BPF_OR => "or",
        _ => "xor",
    };
    Some(match insn.imm {
        0x00 | 0x40 | 0x50 | 0xa0 => {
            format!("lock *({size} *)(r{dst} {off:+}) {} r{src}", operator(insn.imm as u8))
        }
        0x01 | 0x41 | 0x51 | 0xa1 => {
            format!("r{src} = atomic{wide}_fetch_{name}(({size} *)(r{dst} {off:+}), r{src})")
        }
        BPF_CMPXCHG => format!("r0 = atomic{wide}_cmpxchg(({size} *)(r{dst} {off:+}), r0, r{src})"),
        BPF_XCHG => format!("r{src} = atomic{wide}_xchg(({size} *)(r{dst} {off:+}), r{src})"),
        BPF_LOAD_ACQ => format!("r{dst} = load_acquire(({size} *)(r{src} {off:+}))"),
        BPF_STORE_REL => format!("store_release(({size} *)(r{dst} {off:+}), r{src})"),
        _ => return None,
    })
}

fn jump(insn: &Insn, kfunc: Option<&str>) -> String {
    const OPS: [&str; 16] = [
        "jmp", "==", ">", ">=", "&", "!=", "s>", "s>=", "call", "exit", "<", "<=", "s<", "s<=", "(null)",
        "(null)",
    ];
    if insn.op() == BPF_CALL {
        if insn.src == BPF_PSEUDO_CALL {
            return format!("call pc{:+}", insn.imm);
        }
        let helper = usize::try_from(insn.imm).ok().and_then(|i| HELPER_NAMES.get(i)).copied();
        let name = match (insn.src, helper) {
            (0, Some(name)) => name,
            (BPF_PSEUDO_KFUNC_CALL, _) => kfunc.unwrap_or("kernel-function"),
            _ => "unknown",
        };
        let prefix = if insn.src == 0 && name != "unknown" { "bpf_" } else { "" };
        return format!("call {prefix}{name}#{}", insn.imm);
    }
    match insn.code {
        c if c == BPF_JMP | BPF_JA => return format!("goto pc{:+}", insn.off),
        c if c == BPF_JMP32 | BPF_JA => return format!("gotol pc{:+}", insn.imm),
        c if c == BPF_JMP | BPF_JCOND && insn.src == 0 => return format!("may_goto pc{:+}", insn.off),
        c if c == BPF_JMP | BPF_EXIT => return "exit".to_owned(),
        _ => {}
    }
    let w = if insn.class() == BPF_JMP32 { 'w' } else { 'r' };
    let op = OPS[usize::from(insn.op() >> 4)];
    if insn.is_src_reg() {
        format!("if {w}{} {op} {w}{} goto pc{:+}", insn.dst, insn.src, insn.off)
    } else {
        format!("if {w}{} {op} {:#x} goto pc{:+}", insn.dst, insn.imm as u32, insn.off)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_reads_as_the_kernel_writes_it() {
        let cases = [
            (Insn::new(0xb7, 0, 0, 0, 2), "(b7) r0 = 2"),
            (Insn::new(0xbc, 1, 2, 8, 0), "(bc) w1 = (s8)w2"),
            (Insn::new(0x3f, 1, 2, 1, 0), "(3f) r1 s/= r2"),
            (Insn::new(0xdc, 1, 0, 0, 16), "(dc) r1 = be16 r1"),
            (Insn::new(0x85, 0, 0, 0, 1), "(85) call bpf_map_lookup_elem#1"),
            (Insn::new(0x85, 0, 1, 0, 3), "(85) call pc+3"),
            (Insn::new(0x2d, 4, 3, 7, 0), "(2d) if r4 > r3 goto pc+7"),
            (Insn::new(0x16, 1, 0, -2, -1), "(16) if w1 == 0xffffffff goto pc-2"),
            (Insn::new(0x7a, 10, 0, -8, 5), "(7a) *(u64 *)(r10 -8) = 5"),
            (Insn::new(0xdb, 1, 2, 0, 1), "(db) r2 = atomic64_fetch_add((u64 *)(r1 +0), r2)"),
        ];
        for (insn, text) in cases {
            assert_eq!(disassemble(&insn, None, None), text);
        }
    }
}
