//! [`Observer`]: who looks at a run, instruction by instruction.

use std::sync::Arc;

use crate::vm::{Program, Run};

/// The state before an instruction.
pub struct Step<'a> {
    /// The program.
    pub program: &'a Arc<Program>,
    /// The instruction that is about to run, an index of [`Program::insns`].
    pub insn: u32,
    /// Call frames, the innermost included.
    pub depth: usize,
    /// R0 to R10 of the innermost frame.
    pub regs: &'a [u64; 11],
}

/// Someone who is told of each instruction before it runs. A run without an observer does not pay for it.
pub trait Observer {
    /// Called before each instruction.
    fn step(&mut self, run: &Run<'_, '_>, step: &Step<'_>);
}

/// Counts how often each instruction runs.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// Per program id and instruction.
    counts: std::collections::BTreeMap<u32, Vec<u64>>,
}

impl Profile {
    /// How often each instruction of a program ran; empty if none did.
    #[must_use]
    pub fn counts(&self, program_id: u32) -> &[u64] {
        self.counts.get(&program_id).map_or(&[], Vec::as_slice)
    }

    /// Instructions that ran, of all programs.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.values().flatten().sum()
    }
}

impl Observer for Profile {
    fn step(&mut self, _: &Run<'_, '_>, step: &Step<'_>) {
        let counts = self.counts.entry(step.program.id()).or_default();
        if counts.is_empty() {
            counts.resize(step.program.insns().len(), 0);
        }
        counts[step.insn as usize] += 1;
    }
}
