//! [`History`]: the steps of the path that is being walked, with what each changed in the registers.
//!
//! Only a verification that is repeated to explain its end keeps one. When a path ends, its steps are taken
//! back to where the next one left it, so that in the end the failing path remains, from the function's
//! entry on.

use super::super::reg::Reg;
use super::super::regs::Regs;
use super::super::state::State;

/// Changes that are kept; of a longer path the later half is.
const MAX_CHANGES: usize = 1 << 19;

/// One instruction that the path comes to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// The instruction.
    pub(crate) insn: u32,
    /// How many frames lie below the current one.
    pub(crate) depth: u32,
    /// Where in the list of changes those before the instruction begin.
    first: u32,
}

/// A register's new value.
#[derive(Clone, Copy, Debug)]
struct Change {
    reg: u8,
    value: Reg,
}

/// A path.
#[derive(Debug, Default)]
pub(crate) struct History {
    steps: Vec<Step>,
    changes: Vec<Change>,
    /// Steps that were dropped at the beginning.
    dropped: usize,
    /// Registers before the last step, and the frame that they belong to.
    last: Option<(usize, i32, Regs)>,
}

impl History {
    /// The path has come to an instruction.
    pub(crate) fn record(&mut self, insn: u32, state: &State) {
        let frame = state.frame();
        let depth = state.frames.len() - 1;
        let first = self.changes.len() as u32;
        let known = self.last.as_ref().filter(|(d, callsite, _)| (*d, *callsite) == (depth, frame.callsite));
        for (reg, value) in frame.regs.iter().enumerate() {
            if known.is_none_or(|(_, _, old)| old[reg] != *value) {
                self.changes.push(Change { reg: reg as u8, value: *value });
            }
        }
        self.steps.push(Step { insn, depth: depth as u32, first });
        self.last = Some((depth, frame.callsite, frame.regs.clone()));
        if self.changes.len() > MAX_CHANGES {
            self.drop_half();
        }
    }

    /// Where the path is, for [`Self::return_to`].
    pub(crate) fn position(&self) -> usize {
        self.dropped + self.steps.len()
    }

    /// Another path continues from a position of before.
    pub(crate) fn return_to(&mut self, position: usize) {
        let keep = position.saturating_sub(self.dropped);
        if let Some(step) = self.steps.get(keep) {
            self.changes.truncate(step.first as usize);
            self.steps.truncate(keep);
        }
        self.last = None;
    }

    fn drop_half(&mut self) {
        let half = self.steps.len() / 2;
        let first = self.steps[half].first;
        self.steps.drain(..half);
        self.changes.drain(..first as usize);
        self.steps.iter_mut().for_each(|s| s.first -= first);
        self.dropped += half;
    }

    /// Whether the path is here from its beginning.
    pub(crate) fn is_whole(&self) -> bool {
        self.dropped == 0
    }

    /// The steps, oldest first.
    pub(crate) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// What a step's changes say of a register.
    fn change(&self, step: usize, reg: u8) -> Option<&Reg> {
        let end = self.steps.get(step + 1).map_or(self.changes.len(), |s| s.first as usize);
        let changes = &self.changes[self.steps[step].first as usize..end];
        changes.iter().find(|c| c.reg == reg).map(|c| &c.value)
    }

    /// The step before this one in the same activation of the function; `None`: this one entered it.
    pub(crate) fn previous(&self, step: usize) -> Option<usize> {
        let depth = self.steps[step].depth;
        let before = (0..step).rev().find(|i| self.steps[*i].depth <= depth)?;
        (self.steps[before].depth == depth).then_some(before)
    }

    /// A register before a step, in the step's frame.
    pub(crate) fn value(&self, step: usize, reg: u8) -> Option<&Reg> {
        let mut at = step;
        loop {
            if let Some(value) = self.change(at, reg) {
                return Some(value);
            }
            at = self.previous(at)?;
        }
    }

    /// The latest step up to this one before which a register has changed, and the step whose instruction
    /// changed it; `None` for that: it had this value when the function was entered, or longer ago than is
    /// kept.
    pub(crate) fn changed(&self, step: usize, reg: u8) -> Option<(usize, Option<usize>)> {
        let mut at = step;
        loop {
            let Some(value) = self.change(at, reg) else {
                at = self.previous(at)?;
                continue;
            };
            let Some(before) = self.previous(at) else { return Some((at, None)) };
            if self.value(before, reg).is_none_or(|old| !same(old, value)) {
                return Some((at, Some(before)));
            }
            at = before;
        }
    }
}

/// Whether two values say the same to a reader.
fn same(a: &Reg, b: &Reg) -> bool {
    Reg { precise: false, id: 0, ..*a } == Reg { precise: false, id: 0, ..*b }
}
