//! An assembler for the syntax of the public bpf_conformance suite, with Linux's additions.
//!
//! One instruction a line, `#` starts a comment, `name:` is a label. A label `exit` stands for the first
//! `exit` unless the text defines it. The additions: `may_goto LABEL`, `ldacq{b,h,w,dw} %r0, [%r1+4]`,
//! `strel{b,h,w,dw} [%r1+4], %r2`, `lddw %r1, map 0`, `lddw %r1, value 0 8`, `lddw %r1, func LABEL`.

use std::collections::HashMap;
use std::fmt;

use bpf::Insn;
use uapi::bpf::*;

/// A text that is no program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsmError {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for AsmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for AsmError {}

type Result<T> = std::result::Result<T, String>;

/// Assembles a whole program.
///
/// # Errors
///
/// The first line that cannot be assembled.
pub fn assemble(text: &str) -> std::result::Result<Vec<Insn>, AsmError> {
    let mut asm = Assembler::default();
    for (n, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            asm.line(line, n + 1).map_err(|message| AsmError { line: n + 1, message })?;
        }
    }
    asm.finish()
}

#[derive(Default)]
struct Assembler {
    insns: Vec<Insn>,
    labels: HashMap<String, usize>,
    fixups: Vec<Fixup>,
    first_exit: Option<usize>,
}

/// A place that waits for a label.
struct Fixup {
    insn: usize,
    label: String,
    line: usize,
    /// Whether the distance goes into the immediate instead of the offset.
    imm: bool,
}

impl Assembler {
    fn line(&mut self, line: &str, n: usize) -> Result<()> {
        let mut words = line.split([' ', '\t', ',']).filter(|w| !w.is_empty());
        let mnemonic = words.next().ok_or("nothing to assemble")?;
        let operands: Vec<&str> = words.collect();
        if let Some(label) = mnemonic.strip_suffix(':') {
            return match self.labels.insert(label.to_owned(), self.insns.len()) {
                Some(_) => Err(format!("label {label:?} is there twice")),
                None => Ok(()),
            };
        }
        if mnemonic == "exit" {
            self.first_exit.get_or_insert(self.insns.len());
        }
        if mnemonic == "lddw" {
            return self.lddw(&operands, n);
        }
        let insn = self.encode(mnemonic, &operands, n)?;
        self.insns.push(insn);
        Ok(())
    }

    fn finish(mut self) -> std::result::Result<Vec<Insn>, AsmError> {
        for fixup in std::mem::take(&mut self.fixups) {
            let error = |message| AsmError { line: fixup.line, message };
            let implied = self.first_exit.filter(|_| fixup.label == "exit");
            let to = self.labels.get(&fixup.label).copied().or(implied);
            let to = to.ok_or_else(|| error(format!("there is no label {:?}", fixup.label)))?;
            let distance = to as i64 - fixup.insn as i64 - 1;
            let insn = &mut self.insns[fixup.insn];
            if fixup.imm {
                insn.imm = distance as i32;
            } else {
                insn.off = i16::try_from(distance).map_err(|_| error(format!("{distance} is too far")))?;
            }
        }
        Ok(self.insns)
    }

    fn encode(&mut self, mnemonic: &str, operands: &[&str], line: usize) -> Result<Insn> {
        match (mnemonic, operands) {
            ("exit", []) => Ok(Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)),
            ("call", _) => self.call(operands, line),
            ("ja", [to]) => self.jump(Insn::new(BPF_JMP | BPF_JA, 0, 0, 0, 0), to, false, line),
            ("ja32", [to]) => self.jump(Insn::new(BPF_JMP32 | BPF_JA, 0, 0, 0, 0), to, true, line),
            ("may_goto", [to]) => self.jump(Insn::new(BPF_JMP | BPF_JCOND, 0, 0, 0, 0), to, false, line),
            ("lock", _) => atomic(operands),
            _ => {
                if let Some(insn) = memory(mnemonic, operands)? {
                    return Ok(insn);
                }
                if let Some(insn) = arithmetic(mnemonic, operands)? {
                    return Ok(insn);
                }
                self.conditional(mnemonic, operands, line)
            }
        }
    }

    fn lddw(&mut self, operands: &[&str], line: usize) -> Result<()> {
        let [dst, what @ ..] = operands else { return Err("lddw takes a register and a value".to_owned()) };
        let dst = register(dst)?;
        let at = self.insns.len();
        let (src, low, high) = match what {
            [value] => {
                let value = number(value)?;
                (0, value as i32, (value >> 32) as i32)
            }
            ["map", index] => (BPF_PSEUDO_MAP_IDX, imm32(index)?, 0),
            ["value", index, offset] => (BPF_PSEUDO_MAP_IDX_VALUE, imm32(index)?, imm32(offset)?),
            ["func", label] => {
                self.fixups.push(Fixup { insn: at, label: (*label).to_owned(), line, imm: true });
                (BPF_PSEUDO_FUNC, 0, 0)
            }
            _ => return Err(format!("lddw of {what:?}")),
        };
        self.insns.push(Insn::new(BPF_LD | BPF_IMM | BPF_DW, dst, src, 0, low));
        self.insns.push(Insn::new(0, 0, 0, 0, high));
        Ok(())
    }

    fn call(&mut self, operands: &[&str], line: usize) -> Result<Insn> {
        let insn = Insn::new(BPF_JMP | BPF_CALL, 0, 0, 0, 0);
        match operands {
            [reg] | ["helper", reg] if reg.starts_with('%') => {
                Ok(Insn { code: insn.code | BPF_X, dst: register(reg)?, ..insn })
            }
            [n] | ["helper", n] => Ok(Insn { imm: imm32(n)?, ..insn }),
            ["runtime", n] => Ok(Insn { src: BPF_PSEUDO_KFUNC_CALL, imm: imm32(n)?, ..insn }),
            ["local", to] => self.jump(Insn { src: BPF_PSEUDO_CALL, ..insn }, to, true, line),
            _ => Err(format!("call of {operands:?}")),
        }
    }

    /// Fills in where a jump goes: a distance such as `+3`, or a label.
    fn jump(&mut self, insn: Insn, to: &str, imm: bool, line: usize) -> Result<Insn> {
        if to.starts_with(['+', '-']) {
            return Ok(if imm {
                Insn { imm: imm32(to)?, ..insn }
            } else {
                Insn { off: offset(to)?, ..insn }
            });
        }
        self.fixups.push(Fixup { insn: self.insns.len(), label: to.to_owned(), line, imm });
        Ok(insn)
    }

    fn conditional(&mut self, mnemonic: &str, operands: &[&str], line: usize) -> Result<Insn> {
        let (name, class) = match mnemonic.strip_suffix("32") {
            Some(name) => (name, BPF_JMP32),
            None => (mnemonic, BPF_JMP),
        };
        let op = match name {
            "jeq" => BPF_JEQ,
            "jne" => BPF_JNE,
            "jgt" => BPF_JGT,
            "jge" => BPF_JGE,
            "jlt" => BPF_JLT,
            "jle" => BPF_JLE,
            "jset" => BPF_JSET,
            "jsgt" => BPF_JSGT,
            "jsge" => BPF_JSGE,
            "jslt" => BPF_JSLT,
            "jsle" => BPF_JSLE,
            _ => return Err(format!("{mnemonic:?} is no instruction")),
        };
        let [dst, value, to] = operands else { return Err(format!("{mnemonic} takes three operands")) };
        let insn = with_source(Insn::new(class | op, register(dst)?, 0, 0, 0), value)?;
        self.jump(insn, to, false, line)
    }
}

/// The second operand of an arithmetic or jump instruction.
fn with_source(insn: Insn, value: &str) -> Result<Insn> {
    if value.starts_with('%') {
        return Ok(Insn { code: insn.code | BPF_X, src: register(value)?, ..insn });
    }
    Ok(Insn { imm: imm32(value)?, ..insn })
}

fn arithmetic(mnemonic: &str, operands: &[&str]) -> Result<Option<Insn>> {
    let swaps = [("be", BPF_ALU | BPF_X), ("le", BPF_ALU), ("bswap", BPF_ALU64), ("swap", BPF_ALU64)];
    for (name, code) in swaps {
        if let (Some(width), [dst]) = (mnemonic.strip_prefix(name), operands) {
            return Ok(Some(Insn::new(code | BPF_END, register(dst)?, 0, 0, imm32(width)?)));
        }
    }
    let (name, class) = match (mnemonic.strip_suffix("32"), mnemonic.strip_suffix("64")) {
        (Some(name), _) => (name, BPF_ALU),
        (_, Some(name)) => (name, BPF_ALU64),
        _ => (mnemonic, BPF_ALU64),
    };
    let (op, off) = match name {
        "add" => (BPF_ADD, 0),
        "sub" => (BPF_SUB, 0),
        "mul" => (BPF_MUL, 0),
        "div" => (BPF_DIV, 0),
        "sdiv" => (BPF_DIV, 1),
        "or" => (BPF_OR, 0),
        "and" => (BPF_AND, 0),
        "lsh" => (BPF_LSH, 0),
        "rsh" => (BPF_RSH, 0),
        "neg" => (BPF_NEG, 0),
        "mod" => (BPF_MOD, 0),
        "smod" => (BPF_MOD, 1),
        "xor" => (BPF_XOR, 0),
        "mov" => (BPF_MOV, 0),
        "arsh" => (BPF_ARSH, 0),
        "movsx8" => (BPF_MOV, 8),
        "movsx16" => (BPF_MOV, 16),
        "movsx32" => (BPF_MOV, 32),
        _ => return Ok(None),
    };
    match operands {
        [dst] if op == BPF_NEG => Ok(Some(Insn::new(class | op, register(dst)?, 0, 0, 0))),
        [dst, value] => with_source(Insn::new(class | op, register(dst)?, 0, off, 0), value).map(Some),
        _ => Err(format!("{mnemonic} with {} operands", operands.len())),
    }
}

fn size_suffix(mnemonic: &str) -> Option<u8> {
    Some(match mnemonic {
        "b" => BPF_B,
        "h" => BPF_H,
        "w" => BPF_W,
        "dw" => BPF_DW,
        _ => return None,
    })
}

/// Loads and stores.
fn memory(mnemonic: &str, operands: &[&str]) -> Result<Option<Insn>> {
    let forms = [
        ("ldxs", BPF_LDX | BPF_MEMSX, 0),
        ("ldx", BPF_LDX | BPF_MEM, 0),
        ("ldacq", BPF_STX | BPF_ATOMIC, BPF_LOAD_ACQ),
        ("strel", BPF_STX | BPF_ATOMIC, BPF_STORE_REL),
        ("stx", BPF_STX | BPF_MEM, 0),
        ("st", BPF_ST | BPF_MEM, 0),
    ];
    let form = forms.iter().find_map(|(name, code, imm)| {
        let size = size_suffix(mnemonic.strip_prefix(name)?)?;
        Some((*name, code | size, *imm))
    });
    let Some((name, code, imm)) = form else { return Ok(None) };
    let [first, second] = operands else { return Err(format!("{mnemonic} takes two operands")) };
    if name.starts_with("ld") {
        let (src, off) = address(second)?;
        return Ok(Some(Insn::new(code, register(first)?, src, off, imm)));
    }
    let (dst, off) = address(first)?;
    let insn = Insn::new(code, dst, 0, off, imm);
    if name == "st" {
        return Ok(Some(Insn { imm: imm32(second)?, ..insn }));
    }
    Ok(Some(Insn { src: register(second)?, ..insn }))
}

/// `lock [fetch] OP [%r1+0], %r2`.
fn atomic(operands: &[&str]) -> Result<Insn> {
    let (fetch, rest) = match operands {
        ["fetch", rest @ ..] => (BPF_FETCH, rest),
        _ => (0, operands),
    };
    let [name, at, src] = rest else { return Err("lock takes an operation and two operands".to_owned()) };
    let (name, size) = match name.strip_suffix("32") {
        Some(name) => (name, BPF_W),
        None => (*name, BPF_DW),
    };
    let op = match name {
        "add" => i32::from(BPF_ADD) | fetch,
        "or" => i32::from(BPF_OR) | fetch,
        "and" => i32::from(BPF_AND) | fetch,
        "xor" => i32::from(BPF_XOR) | fetch,
        "xchg" => BPF_XCHG,
        "cmpxchg" => BPF_CMPXCHG,
        _ => return Err(format!("there is no atomic {name:?}")),
    };
    let (dst, off) = address(at)?;
    Ok(Insn::new(BPF_STX | BPF_ATOMIC | size, dst, register(src)?, off, op))
}

/// `[%r1+4]`: the register and the offset.
fn address(text: &str) -> Result<(u8, i16)> {
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let inner = inner.ok_or_else(|| format!("{text:?} is no address"))?;
    match inner.find(['+', '-']) {
        Some(at) => Ok((register(&inner[..at])?, offset(&inner[at..])?)),
        None => Ok((register(inner)?, 0)),
    }
}

/// A register by its number; up to 15, which can be encoded.
fn register(text: &str) -> Result<u8> {
    let number = text.strip_prefix("%r").and_then(|n| n.parse::<u8>().ok()).filter(|n| *n < 16);
    number.ok_or_else(|| format!("{text:?} is no register"))
}

/// Decimal or hexadecimal, with or without a sign.
fn number(text: &str) -> Result<u64> {
    let error = || format!("{text:?} is no number");
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let value = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).map_err(|_| error())?,
        None => digits.parse().map_err(|_| error())?,
    };
    Ok(if negative { value.wrapping_neg() } else { value })
}

/// A 32-bit immediate: signed, or unsigned if it is written in hexadecimal.
fn imm32(text: &str) -> Result<i32> {
    let value = number(text)? as i64;
    let fits = i32::try_from(value).is_ok() || text.contains("0x") && u32::try_from(value).is_ok();
    if fits { Ok(value as i32) } else { Err(format!("{text} does not fit 32 bits")) }
}

fn offset(text: &str) -> Result<i16> {
    let value = number(text)? as i64;
    let fits = i16::try_from(value).is_ok() || text.contains("0x") && u16::try_from(value).is_ok();
    if fits { Ok(value as i16) } else { Err(format!("{text} does not fit 16 bits")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> u64 {
        u64::from_le_bytes(assemble(text).unwrap()[0].encode())
    }

    #[test]
    fn instructions_have_the_encoding_of_the_specification() {
        assert_eq!(one("mov %r1, -1"), 0xffff_ffff_0000_01b7);
        assert_eq!(one("mov32 %r1, %r2"), 0x21bc);
        assert_eq!(one("ldxw %r0, [%r1+4]"), 0x0004_1061);
        assert_eq!(one("stxdw [%r10-8], %r1"), 0xfff8_1a7b);
        assert_eq!(one("stb [%r1], 0xff"), 0xff_0000_0172);
        assert_eq!(one("be16 %r3"), 0x10_0000_03dc);
        assert_eq!(one("swap64 %r3"), 0x40_0000_03d7);
        assert_eq!(one("sdiv32 %r0, 3"), 0x3_0001_0034);
        assert_eq!(one("movsx1664 %r0, %r1"), 0x0010_10bf);
        assert_eq!(one("lock fetch add32 [%r10-4], %r1"), 0x1_fffc_1ac3);
        assert_eq!(one("ldacqh %r0, [%r10-2]"), 0x100_fffe_a0cb);
        assert_eq!(one("call %r2"), 0x028d);
    }

    #[test]
    fn labels_are_resolved_both_ways() {
        let insns = assemble("top: \n jeq %r1, 3, exit\n may_goto top\n ja32 top\n exit").unwrap();
        assert_eq!((insns[0].off, insns[1].off, insns[2].imm), (2, -2, -3));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_line() {
        for (text, message) in [
            ("exit\n mov %r1, 0x100000000", "line 2: 0x100000000 does not fit 32 bits"),
            ("mov %r16, 1", "line 1: \"%r16\" is no register"),
            ("ja nowhere", "line 1: there is no label \"nowhere\""),
            ("ldxw %r0, [%r1+40000]", "line 1: +40000 does not fit 16 bits"),
            ("nop", "line 1: \"nop\" is no instruction"),
            ("a:\na:", "line 2: label \"a\" is there twice"),
        ] {
            assert_eq!(assemble(text).unwrap_err().to_string(), message);
        }
    }
}
