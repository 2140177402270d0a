//! Whose doing a rejection is, as far as the path shows it: no check, a check that does not reach the access,
//! or a check that the verifier does not count.

use uapi::bpf::*;

use super::super::reg::Reg;
use super::super::rules::{Cause, Rule};
use super::super::types::RegType;
use super::story::{Kind, NO_BOUND, Story, Teller};

/// Comparisons of a path that are looked at, the latest.
const MAX_COMPARISONS: usize = 64;
/// A packet pointer that was moved by more than this is not compared with the packet's end.
const MAX_PACKET_OFF: u64 = 0xffff;

/// A cause with the sentence that tells how it is known, and the step that shows it.
pub(super) struct Finding {
    pub(super) cause: Cause,
    pub(super) why: String,
    pub(super) shown_at: Option<(usize, String)>,
}

impl Teller<'_, '_> {
    /// What the path shows about the cause, where it shows more than the rule itself says.
    pub(super) fn cause(&self, rule: &Rule, reg: u8, step: usize, story: &Story) -> Option<Finding> {
        let value = self.value(step, reg)?;
        match rule.id.0 {
            403 if value.is_pkt_pointer() => self.packet_cause(&value, step, story),
            204 | 205 => self.joined_pointers(step),
            207 | 302 | 404 | 406 | 505 => self.bound_cause(reg, step, story),
            _ => None,
        }
    }

    /// Two pointers joined by `|`: how compilers test both for null at once.
    fn joined_pointers(&self, step: usize) -> Option<Finding> {
        let insn = self.insn(step);
        let pointer = |reg| self.value(step, reg).is_some_and(|r| !r.is_scalar());
        let joined = insn.op() == BPF_OR && insn.is_src_reg() && pointer(insn.dst) && pointer(insn.src);
        joined.then(|| Finding {
            cause: Cause::Lowering,
            why:
                "the compiler joined two comparisons with null into one of both pointers together. Put `asm \
                  volatile(\"\")` between the two comparisons"
                    .to_owned(),
            shown_at: None,
        })
    }

    /// Comparisons with the end of the packet on the path: of this pointer, of another one moved by the same
    /// number, of none.
    fn packet_cause(&self, value: &Reg, step: usize, story: &Story) -> Option<Finding> {
        if story.events.iter().any(|e| e.kind == Kind::Lost) {
            return None;
        }
        let moved = story.index.and_then(|(r, at)| self.story(r, at).origin);
        for (at, insn) in self.comparisons(step) {
            let (Some(a), Some(b)) = (self.value(at, insn.dst), self.value(at, insn.src)) else { continue };
            let (pointer, reg) = match (a.ty, b.ty) {
                (_, RegType::PACKET_END) => (a, insn.dst),
                (RegType::PACKET_END, _) => (b, insn.src),
                _ => continue,
            };
            if pointer.ty != value.ty {
                continue;
            }
            if pointer.id == value.id && pointer.umax > MAX_PACKET_OFF {
                return Some(Finding {
                    cause: Cause::Limit,
                    why: format!(
                        "the comparison is there, but the pointer may have been moved by up to {}: of packet pointers \
                         that were moved by more than {MAX_PACKET_OFF} the verifier learns nothing. Bound the number \
                         before it is added",
                        pointer.umax
                    ),
                    shown_at: Some((at, "this comparison does not count".to_owned())),
                });
            }
            let same_number = moved.is_some()
                && self.story(reg, at).index.is_some_and(|(r, s)| self.story(r, s).origin == moved);
            if pointer.id != value.id && same_number {
                return Some(Finding {
                    cause: Cause::Lowering,
                    why: "the compiler computed the pointer twice: one copy is compared with data_end, the other one \
                          is used. Compare and access through one variable, and keep it one with \
                          `asm volatile(\"\" : \"+r\"(p))`"
                        .to_owned(),
                    shown_at: Some((at, "this compares another copy of the pointer".to_owned())),
                });
            }
        }
        None
    }

    /// Whether the number was bounded, but in another copy, or bounded and then widened.
    fn bound_cause(&self, reg: u8, step: usize, story: &Story) -> Option<Finding> {
        let latest = story.events.iter().find(|e| matches!(e.kind, Kind::Lost | Kind::Bound));
        if let Some(lost) = latest.filter(|e| e.kind == Kind::Lost) {
            return Some(Finding {
                cause: Cause::Lowering,
                why: "the number had a bound, and an instruction between the check and the use lost it. Use a variable \
                      of 64 bits without sign for the check and the use alike"
                    .to_owned(),
                shown_at: Some((lost.step, lost.text.clone())),
            });
        }
        let (reg, at) = story.index.unwrap_or((reg, step));
        let value = self.value(at, reg).filter(Reg::is_scalar)?;
        let origin = self.story(reg, at).origin?;
        for (when, insn) in self.comparisons(step) {
            for operand in [Some(insn.dst), insn.is_src_reg().then_some(insn.src)].into_iter().flatten() {
                let compared = self.value(when, operand).filter(|r| r.is_scalar() && !r.var_off.is_const());
                if compared.is_none() || self.story(operand, when).origin != Some(origin) {
                    continue;
                }
                // The comparison has to have taught of its operand what is missing of the number used.
                let bounded = |r: &Reg| r.umax < NO_BOUND && r.smin >= 0;
                let taught = !bounded(&value) && self.value(when + 1, operand).is_some_and(|r| bounded(&r));
                if taught {
                    return Some(Finding {
                        cause: Cause::Lowering,
                        why: "the comparison is made with another copy of the number than the one that is used, and the \
                              verifier does not know that they are the same. Keep the number one with `asm \
                              volatile(\"\" : \"+r\"(n))` before the check, or mask it at the use"
                            .to_owned(),
                        shown_at: Some((when, "this bounds another copy of the number".to_owned())),
                    });
                }
            }
        }
        None
    }

    /// Conditional jumps of the path before a step, latest first.
    fn comparisons(&self, step: usize) -> impl Iterator<Item = (usize, crate::insn::Insn)> {
        let depth = self.history.steps()[step].depth;
        (0..step)
            .rev()
            .filter(move |i| self.history.steps()[*i].depth == depth)
            .map(|i| (i, self.insn(i)))
            .filter(|(_, insn)| {
                matches!(insn.class(), BPF_JMP | BPF_JMP32)
                    && !matches!(insn.op(), BPF_JA | BPF_CALL | BPF_EXIT | BPF_JCOND)
            })
            .take(MAX_COMPARISONS)
    }
}
