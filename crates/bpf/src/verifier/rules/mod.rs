//! The rules that a program can break, each with an identifier that stays: `EB0403`.
//!
//! [`RULES`] is the one table: identifier, family, title, what usually mends it, and the forms of the kernel's
//! messages. A rejection finds its rule by its message, whoever wrote it, this verifier or the kernel's
//! ([`Rule::of_message`]); so the table serves both. Each rule has a page in `docs/rules`.

mod calls;
mod code;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;

pub use table::RULES;

/// Identifier of a [`Rule`], shown as `EB0403`: two digits for the family, two within it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RuleId(pub u16);

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EB{:04}", self.0)
    }
}

impl RuleId {
    /// Reads `EB0403`, in either case; also `403` alone.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let prefix = text.get(..2).filter(|p| p.eq_ignore_ascii_case("eb")).map_or(0, str::len);
        let digits = &text[prefix..];
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse().ok().map(Self))?
    }
}

/// What a rule is about; the first two digits of its identifier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Family {
    /// The form of the program: instructions, jumps, functions, symbols.
    Form = 1,
    /// Registers and arithmetic.
    Register = 2,
    /// The stack.
    Stack = 3,
    /// Loads and stores elsewhere.
    Memory = 4,
    /// Calls of helpers.
    Helper = 5,
    /// References that have to be given back.
    Reference = 6,
    /// Locks, RCU, preemption and interrupts.
    Region = 7,
    /// The program's own functions.
    Function = 8,
    /// Kernel functions and their objects: dynptrs, iterators, lists, trees.
    Kfunc = 9,
    /// Limits of the verifier.
    Limit = 10,
}

impl Family {
    /// The family in words.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Form => "form of the program",
            Self::Register => "registers and arithmetic",
            Self::Stack => "stack",
            Self::Memory => "memory",
            Self::Helper => "helpers",
            Self::Reference => "references",
            Self::Region => "locks and regions",
            Self::Function => "functions",
            Self::Kfunc => "kernel functions",
            Self::Limit => "limits",
        }
    }
}

/// Whose doing a rejection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The source lacks a check, or breaks a rule.
    Source,
    /// The source is right; the compiler made of it what the verifier cannot follow.
    Lowering,
    /// The program may be right; the verifier does not see it or gives up.
    Limit,
    /// The program is right elsewhere: licence, kernel or program type do not allow it here.
    Environment,
}

impl Cause {
    /// The cause in a sentence.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Source => "the source lacks a check or breaks a rule",
            Self::Lowering => "the compiler turned the source into a form that the verifier cannot follow",
            Self::Limit => "a limit of the verifier: the program may well be right",
            Self::Environment => {
                "what the program asks for is not there for it: licence, kernel or program type"
            }
        }
    }
}

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its identifier, which never changes and is never given again.
    pub id: RuleId,
    /// What it is about.
    pub family: Family,
    /// Whose doing it mostly is.
    pub cause: Cause,
    /// What is wrong, in a few words.
    pub title: &'static str,
    /// What usually mends it.
    pub help: &'static str,
    /// Lines that the kernel writes when the rule is broken, with `*` for any text.
    pub messages: &'static [&'static str],
}

/// Lines that follow from what a line before them says. They count only if no other line names a rule.
const CONSEQUENCES: &[&str] = &[
    "Caller passes invalid args into func#*",
    "Unreleased reference id=* alloc_insn=*",
    "arg#* memory, len pair leads to invalid memory access",
    "R* min value is outside of the allowed memory range",
    "R* max value is outside of the allowed memory range",
];

impl Rule {
    /// The rule of an identifier.
    #[must_use]
    pub fn by_id(id: RuleId) -> Option<&'static Self> {
        RULES.iter().find(|r| r.id == id)
    }

    /// The rule that a message of the kernel names: the lines that were written for the refused instruction.
    #[must_use]
    pub fn of_message(message: &str) -> Option<&'static Self> {
        let lines = || message.lines().map(str::trim).filter(|l| !l.is_empty());
        let consequence = |line: &str| CONSEQUENCES.iter().any(|p| matches(p, line));
        lines().filter(|l| !consequence(l)).find_map(of_line).or_else(|| lines().find_map(of_line))
    }

    /// The rule for refusals of which the kernel says nothing.
    #[must_use]
    pub fn silent() -> &'static Self {
        &RULES[RULES.len() - 1]
    }
}

fn of_line(line: &str) -> Option<&'static Rule> {
    RULES.iter().find(|r| r.messages.iter().any(|p| matches(p, line)))
}

/// Whether a text is of a form, in which `*` stands for any text, also none.
fn matches(form: &str, text: &str) -> bool {
    // Most forms begin or end with something else: not worth taking apart.
    let differs = |f: Option<&u8>, t: Option<&u8>| f != Some(&b'*') && f != t;
    let (f, t) = (form.as_bytes(), text.as_bytes());
    if differs(f.first(), t.first()) || differs(f.last(), t.last()) {
        return false;
    }
    let mut parts = form.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}
