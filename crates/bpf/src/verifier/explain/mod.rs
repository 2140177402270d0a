//! Why a program was refused, for its author: the place, the story of the register, what was known, what was
//! needed, whose doing it is.
//!
//! [`explain`] verifies the program once more, this time keeping the [`history`] of the path; a verification
//! that nobody asks to explain pays nothing. [`story`] follows a register back along the path, [`cause`] looks
//! for checks that did not reach the access, [`words`] puts what is known into words.

mod cause;
pub(crate) mod history;
mod needs;
mod story;
#[cfg(test)]
mod tests;
mod words;

use uapi::bpf::*;

use self::history::History;
use self::story::{Kind, Story, Teller};
use super::env::Env;
use super::input::{Input, Options};
use super::rules::{Cause, Family, Rule};
use super::token::Rejection;

/// Points of a story that are told; the first and the latest ones.
const MAX_LABELS: usize = 5;

/// A place in the program with something to say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The instruction.
    pub insn: u32,
    /// What happened there.
    pub text: String,
}

/// A rejection, explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The rule that is broken.
    pub rule: &'static Rule,
    /// Whose doing it is.
    pub cause: Cause,
    /// How the path shows that, where it shows more than the rule says.
    pub why: Option<String>,
    /// Where the program was refused.
    pub at: Label,
    /// How it came to that, oldest first.
    pub story: Vec<Label>,
    /// What was known of the registers that the instruction uses.
    pub known: Vec<String>,
    /// What would have had to be known.
    pub needed: Option<String>,
}

/// Explains a rejection by this verifier of this program with these options.
#[must_use]
pub fn explain(input: &Input<'_>, opts: &Options, rejection: &Rejection) -> Explanation {
    let rule = rejection.rule;
    let mut out = Explanation {
        rule,
        cause: rule.cause,
        why: None,
        at: Label { insn: place(rejection), text: rule.title.to_owned() },
        story: Vec::new(),
        known: Vec::new(),
        needed: needs::needed(rule, &rejection.message),
    };
    let opts = Options { log_level: 0, claims: false, ..opts.clone() };
    let Some((env, history)) = Env::repeat(input, &opts, rejection) else { return out };
    let teller = Teller { env: &env, history: &history };
    if !history.steps().is_empty() && rejection.insn == out.at.insn {
        teller.tell(&mut out, rejection);
    }
    teller.held(&mut out);
    out
}

/// The instruction that a message is about, which may be found before the walk has begun.
fn place(rejection: &Rejection) -> u32 {
    let first = rejection.message.lines().next().unwrap_or_default();
    // What all functions use together is not found at any one place.
    if ["combined stack size of ", "tail_calls are not allowed when "].iter().any(|p| first.starts_with(p)) {
        return 0;
    }
    let named = ["unreachable insn ", "jump out of range from insn ", "infinite loop detected at insn "]
        .iter()
        .find_map(|prefix| first.strip_prefix(prefix));
    let number = named.and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse().ok());
    number.unwrap_or(rejection.insn)
}

/// The first register that a message names. Arguments of helpers are counted from 1, those of kernel functions
/// from 0.
fn subject(message: &str) -> Option<u8> {
    let from_zero = message.contains("arg#") || message.contains("trusted arg");
    message.split(|c: char| !c.is_ascii_alphanumeric() && c != '#').find_map(|word| {
        let number = |prefix| word.strip_prefix(prefix)?.parse::<u8>().ok();
        let argument = || number("arg#").or_else(|| number("arg"))?.checked_add(u8::from(from_zero));
        number("R").or_else(argument).filter(|n| *n <= 10)
    })
}

impl Teller<'_, '_> {
    /// The path's part of an explanation.
    fn tell(&self, out: &mut Explanation, rejection: &Rejection) {
        let step = self.history.steps().len() - 1;
        self.known(out, step, subject(&rejection.message));
        if out.rule.family == Family::Limit {
            self.repeated(out);
            return;
        }
        let named = subject(&rejection.message);
        if let Some(value) = named.and_then(|reg| self.history.value(step, reg).map(|v| (reg, v))) {
            out.at.text = format!("R{} is {}", value.0, self.env.words(value.1));
        }
        let Some(reg) = named.or_else(|| self.number_added(step)) else { return };
        let story = self.story(reg, step);
        let finding = self.cause(out.rule, reg, step, &story);
        let mut events = story.events.clone();
        if let Some((index, at)) = story.index {
            events.extend(self.story(index, at).events);
        }
        if let Some(finding) = finding {
            out.cause = finding.cause;
            out.why = Some(finding.why);
            if let Some((step, text)) = finding.shown_at {
                events.retain(|e| e.step != step);
                events.push(story::Event { step, kind: Kind::Lost, text });
            }
        }
        out.story = self.labels(&Story { events, ..Story::default() }, out.at.insn);
    }

    /// The number by which the refused instruction moves a pointer.
    fn number_added(&self, step: usize) -> Option<u8> {
        let insn = self.insn(step);
        let scalar = |reg| self.value(step, reg).is_some_and(|r| r.is_scalar());
        let sum = insn.class() == BPF_ALU64 && matches!(insn.op(), BPF_ADD | BPF_SUB) && insn.is_src_reg();
        sum.then(|| [insn.src, insn.dst].into_iter().find(|r| scalar(*r)))?
    }

    /// The events that are told, oldest first, one for each instruction.
    fn labels(&self, story: &Story, at: u32) -> Vec<Label> {
        let mut events = story.events.clone();
        events.sort_by_key(|e| e.step);
        let mut told: Vec<(Label, Kind)> = Vec::new();
        for event in events {
            let insn = self.history.steps()[event.step].insn;
            if event.text.is_empty() || insn == at && event.kind != Kind::Origin {
                continue;
            }
            told.retain(|(l, _)| l.insn != insn);
            told.push((Label { insn, text: event.text }, event.kind));
        }
        // What was learnt in between is told least.
        while told.len() > MAX_LABELS {
            let least = told.iter().position(|(_, kind)| *kind == Kind::Bound).unwrap_or(1);
            told.remove(least);
        }
        told.into_iter().map(|(label, _)| label).collect()
    }

    /// What is known of the registers that the refused instruction uses.
    fn known(&self, out: &mut Explanation, step: usize, subject: Option<u8>) {
        let insn = self.insn(step);
        let mut regs: Vec<u8> = match insn.class() {
            BPF_LDX => vec![insn.src],
            BPF_STX => vec![insn.dst, insn.src],
            BPF_ST => vec![insn.dst],
            BPF_LD => Vec::new(),
            BPF_JMP if insn.op() == BPF_CALL => (1..=subject.unwrap_or(0).min(5)).collect(),
            BPF_JMP if insn.op() == BPF_EXIT => vec![0],
            _ if insn.is_src_reg() => vec![insn.dst, insn.src],
            _ => vec![insn.dst],
        };
        regs.dedup();
        regs.extend(subject.filter(|s| !regs.contains(s)));
        regs.retain(|r| *r < 10 || subject == Some(*r));
        for reg in regs {
            if let Some(value) = self.history.value(step, reg) {
                out.known.push(format!("R{reg} is {}", self.env.words(value)));
            }
        }
    }

    /// The instruction that the path came to most often, for those that go on too long.
    fn repeated(&self, out: &mut Explanation) {
        let mut counts = vec![0u32; self.env.insns.len()];
        for step in self.history.steps() {
            counts[step.insn as usize] += 1;
        }
        let most = counts.iter().enumerate().max_by_key(|(i, n)| (**n, usize::MAX - i));
        if let Some((insn, n)) = most.filter(|(_, n)| **n > 2) {
            let least = if self.history.is_whole() { "" } else { "more than " };
            let text = format!("the path comes here {least}{n} times");
            out.story.push(Label { insn: insn as u32, text });
        }
    }

    /// What the path still holds, for rules about that.
    fn held(&self, out: &mut Explanation) {
        if !matches!(out.rule.family, Family::Reference | Family::Region) {
            return;
        }
        let at = out.at.insn;
        for held in self.env.cur.refs.iter().filter(|r| r.id != 0 && r.insn_idx != at).take(2) {
            let label = Label { insn: held.insn_idx, text: "taken here, and still held".to_owned() };
            out.story.retain(|l| l.insn != label.insn);
            self.way_from(out, held.insn_idx);
            out.story.push(label);
        }
    }

    /// Where the path turned after an instruction, the latest places.
    fn way_from(&self, out: &mut Explanation, from: u32) {
        let steps = self.history.steps();
        let line = |insn: u32| {
            let lines = self.env.input.line_info;
            lines[..lines.partition_point(|l| l.insn <= insn)]
                .iter()
                .rev()
                .find(|l| l.line != 0)
                .map(|l| l.line)
        };
        let Some(start) = steps.iter().rposition(|s| s.insn == from) else { return };
        let turns = (start + 1..steps.len().saturating_sub(1)).rev().filter(|i| {
            let insn = self.insn(*i);
            matches!(insn.class(), BPF_JMP | BPF_JMP32) && !matches!(insn.op(), BPF_JA | BPF_CALL | BPF_EXIT)
        });
        for turn in turns.take(2).collect::<Vec<_>>().into_iter().rev() {
            let next = line(steps[turn + 1].insn);
            if next.is_some() && next == line(steps[turn].insn) {
                continue;
            }
            let text = match next {
                Some(line) => format!("the path goes on to line {line}"),
                None => format!("the path goes on to instruction {}", steps[turn + 1].insn),
            };
            let label = Label { insn: steps[turn].insn, text };
            out.story.retain(|l| l.insn != label.insn);
            out.story.push(label);
        }
    }
}

impl<'a> Env<'a> {
    /// Verifies once more, with a history. `None` if the outcome is not the one of before.
    fn repeat(input: &'a Input<'a>, opts: &'a Options, rejection: &Rejection) -> Option<(Self, History)> {
        if input.insns.len() > super::token::MAX_INSNS {
            return None;
        }
        let mut env = Self::new(input, opts);
        env.history = Some(Box::default());
        let same = env.run() == Err(rejection.errno) && env.insn_idx == rejection.insn;
        let history = env.history.take().filter(|_| same)?;
        Some((env, *history))
    }
}
