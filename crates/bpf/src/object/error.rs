//! Why an object, or one of its programs, cannot be used.

use std::fmt::{self, Write};

/// What cannot be loaded: where in which object, and the reason with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectError {
    /// Object file.
    pub object: String,
    /// Where and why.
    pub problem: Problem,
}

/// The place of a fault within an object, and the reason.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Problem {
    /// Section, if the fault lies in one.
    pub section: Option<String>,
    /// Function, map or variable.
    pub symbol: Option<String>,
    /// Instruction, counted from the start of the function.
    pub insn: Option<u32>,
    /// A sentence.
    pub reason: String,
}

/// What functions of the loader return.
pub(super) type Outcome<T> = Result<T, Problem>;

impl Problem {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), ..Self::default() }
    }

    /// Names the section, if that is not known yet.
    pub(super) fn in_section(mut self, section: &str) -> Self {
        self.section.get_or_insert_with(|| section.to_owned());
        self
    }

    /// Names the function, map or variable, if that is not known yet.
    pub(super) fn in_symbol(mut self, symbol: &str) -> Self {
        self.symbol.get_or_insert_with(|| symbol.to_owned());
        self
    }

    /// Names the instruction, if that is not known yet.
    pub(super) fn at_insn(mut self, insn: u32) -> Self {
        self.insn.get_or_insert(insn);
        self
    }

    pub(super) fn of(self, object: &str) -> ObjectError {
        ObjectError { object: object.to_owned(), problem: self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = [
            self.section.as_ref().map(|s| format!("section {s:?}")),
            self.symbol.as_ref().map(|s| format!("symbol {s:?}")),
            self.insn.map(|n| format!("instruction {n}")),
        ];
        let places: Vec<_> = places.into_iter().flatten().collect();
        if !places.is_empty() {
            write!(f, "{}: ", places.join(", "))?;
        }
        // Names come from the file, and a message is one line.
        let plain = |c: char| if c.is_control() { '?' } else { c };
        self.reason.chars().try_for_each(|c| f.write_char(plain(c)))
    }
}

impl fmt::Display for ObjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.problem)
    }
}

impl std::error::Error for ObjectError {}
