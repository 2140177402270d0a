//! The corpus of testdata/isa: cases in the form of the bpf_conformance suite, and how engines run them.
//!
//! A file holds one case, or several that begin with a line `-- case: NAME`. A case has sections:
//!
//! - `-- asm` a program ([`crate::asm`]), or `-- raw` its slots as numbers;
//! - `-- mem` the bytes that R1 points to and R2 has the length of;
//! - `-- result` R0, and `-- after` the memory afterwards, if that is of interest;
//! - `-- error` instead of a result, what the kernel's verifier and the engine's link say;
//! - `-- fault` instead of a result, what the checked interpreter says.
//! - `-- engine` if the kernel's verifier refuses the program, though it runs well.

use std::path::{Path, PathBuf};

use bpf::Insn;

use crate::asm::assemble;

/// One case of the corpus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// File and name.
    pub name: String,
    /// The program.
    pub insns: Vec<Insn>,
    /// Memory that it gets.
    pub mem: Vec<u8>,
    /// What is to come of it.
    pub expect: Expect,
    /// The memory afterwards, if the case says.
    pub after: Option<Vec<u8>>,
    /// Whether the kernel refuses it for a reason of its verifier's that is not the case's point.
    pub engine_only: bool,
}

/// What is to come of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// R0 at the end.
    Result(u64),
    /// A sentence with which it is refused.
    Error(String),
    /// A violation that the checked interpreter reports.
    Fault(String),
}

/// Reads a file of cases.
///
/// # Errors
///
/// What cannot be read, with the file's name.
pub fn read_file(path: &Path) -> Result<Vec<Case>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    parse(&stem, &text).map_err(|e| format!("{}: {e}", path.display()))
}

/// All cases of a directory's `.data` files, in the order of their names.
///
/// # Errors
///
/// What cannot be read.
pub fn read_dir(dir: &Path) -> Result<Vec<Case>, String> {
    let entries = std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "data"));
    paths.sort();
    paths.iter().map(|p| read_file(p)).collect::<Result<Vec<_>, _>>().map(|files| files.concat())
}

/// Parses a text of cases.
///
/// # Errors
///
/// The case and what is wrong with it.
pub fn parse(file: &str, text: &str) -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    let mut draft: Option<Draft> = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("-- case:") {
            cases.extend(draft.take().filter(Draft::has_code).map(Draft::finish));
            draft = Some(Draft::new(format!("{file}: {}", name.trim())));
        } else {
            draft.get_or_insert_with(|| Draft::new(file.to_owned())).line(line);
        }
    }
    cases.extend(draft.filter(Draft::has_code).map(Draft::finish));
    cases.into_iter().collect()
}

/// A case while its lines are read.
struct Draft {
    name: String,
    section: String,
    asm: String,
    raw: String,
    mem: Option<String>,
    after: Option<String>,
    result: String,
    error: String,
    fault: String,
    engine_only: bool,
}

impl Draft {
    fn new(name: String) -> Self {
        let empty = String::new;
        Self {
            name,
            section: empty(),
            asm: empty(),
            raw: empty(),
            mem: None,
            after: None,
            result: empty(),
            error: empty(),
            fault: empty(),
            engine_only: false,
        }
    }

    fn has_code(&self) -> bool {
        !self.asm.is_empty() || !self.raw.is_empty()
    }

    fn line(&mut self, line: &str) {
        if let Some(section) = line.strip_prefix("--") {
            let section = section.split('#').next().unwrap_or_default().trim();
            self.engine_only |= section == "engine";
            section.clone_into(&mut self.section);
            return;
        }
        if line.trim_start().starts_with('#') {
            return;
        }
        let target = match self.section.as_str() {
            "asm" => &mut self.asm,
            "raw" => &mut self.raw,
            "mem" => self.mem.get_or_insert_default(),
            "after" => self.after.get_or_insert_default(),
            "result" => &mut self.result,
            "error" => &mut self.error,
            "fault" => &mut self.fault,
            _ => return,
        };
        target.push_str(line);
        target.push('\n');
    }

    fn finish(self) -> Result<Case, String> {
        let fail = |what: String| format!("{}: {what}", self.name);
        let insns = if self.raw.trim().is_empty() {
            assemble(&self.asm).map_err(|e| fail(e.to_string()))?
        } else {
            raw(&self.raw).map_err(fail)?
        };
        let first_line = |text: &str| text.trim().lines().next().map(|l| l.trim().to_owned());
        let expect = match (first_line(&self.result), first_line(&self.error), first_line(&self.fault)) {
            (Some(result), None, None) => Expect::Result(value(&result).map_err(fail)?),
            (None, Some(error), None) => Expect::Error(error),
            (None, None, Some(fault)) => Expect::Fault(fault),
            _ => return Err(fail("one of result, error and fault is needed".to_owned())),
        };
        let mem = self.mem.as_deref().map(bytes).transpose().map_err(fail)?.unwrap_or_default();
        let after = self.after.as_deref().map(bytes).transpose().map_err(fail)?;
        Ok(Case { name: self.name, insns, mem, expect, after, engine_only: self.engine_only })
    }
}

fn value(text: &str) -> Result<u64, String> {
    let word = text.split('#').next().unwrap_or_default().trim();
    let parsed = match word.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    };
    parsed.ok_or_else(|| format!("{text:?} is no number"))
}

fn raw(text: &str) -> Result<Vec<Insn>, String> {
    let lines = text.lines().map(|l| l.split('#').next().unwrap_or_default());
    let words = lines.flat_map(str::split_whitespace);
    words.map(|word| value(word).map(|slot| Insn::decode(slot.to_le_bytes()))).collect()
}

/// Bytes in hexadecimal, apart by white space.
///
/// # Errors
///
/// What is no byte.
pub fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let lines = text.lines().map(|l| l.split('#').next().unwrap_or_default());
    let words = lines.flat_map(str::split_whitespace);
    words.map(|w| u8::from_str_radix(w, 16).map_err(|_| format!("{w:?} is no byte"))).collect()
}

/// The program as an XDP program: instructions in front that check that the packet has `len` bytes and
/// put its address into R1 and the length into R2. Without memory R1 is the context.
#[must_use]
pub fn with_prolog(insns: &[Insn], len: usize) -> Vec<Insn> {
    if len == 0 {
        return insns.to_vec();
    }
    let prolog = format!(
        "mov %r0, -1\nmov %r6, %r1\nldxw %r1, [%r6]\nldxw %r2, [%r6+4]\nmov %r3, %r1\nadd %r3, {len}\n\
         jle %r3, %r2, +1\nexit\nmov %r2, {len}"
    );
    let mut program = assemble(&prolog).expect("the prolog assembles");
    program.extend_from_slice(insns);
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_one_case_or_many() {
        let one = "-- asm\nmov %r0, 1\nexit\n-- mem\n01 02 # two\n-- result\n0x1\n";
        let cases = parse("f", one).unwrap();
        assert_eq!(
            (cases.len(), cases[0].name.as_str(), cases[0].mem.as_slice()),
            (1, "f", [1, 2].as_slice())
        );
        let two =
            format!("# a comment\n-- case: a\n{one}-- after\n03\n-- case: b\n-- raw\n0x95\n-- error\nno\n");
        let cases = parse("f", &two).unwrap();
        assert_eq!((cases[0].name.as_str(), cases[0].after.as_deref()), ("f: a", Some([3].as_slice())));
        assert_eq!(cases[1].expect, Expect::Error("no".to_owned()));
        assert_eq!(cases[1].insns, [Insn::new(0x95, 0, 0, 0, 0)]);
    }

    #[test]
    fn a_case_without_an_expectation_is_refused() {
        assert_eq!(parse("f", "-- asm\nexit").unwrap_err(), "f: one of result, error and fault is needed");
    }
}
