//! The checked interpreter: the reference that every other engine is held to.
//!
//! A program is decoded once ([`decode`]) and then run by [`function`], one call of which is one call
//! frame. Loads and stores are checked by [`super::GuestMemory`]; everything else that a program could do
//! wrong is checked here or by the structural checks before. A run is deterministic: the same program,
//! packet, maps and host give the same steps, and the same guest addresses.

mod decode;
mod exec;
mod observer;
mod op;
#[cfg(test)]
mod tests;

pub(super) use decode::decode;
pub use observer::{Observer, Profile, Step};
pub(super) use op::Code;
use uapi::bpf::{MAX_TAIL_CALL_CNT, MapType};

use super::{Fault, FaultKind, Run};

/// The kfunc that throws an exception; the engines know it by name.
pub(super) const THROW: &str = "bpf_throw";

/// Rounds that `may_goto` allows in one call of a function.
///
/// Kernel: `include/linux/bpf.h BPF_MAX_LOOPS, v6.18`
#[doc(alias = "BPF_MAX_LOOPS")]
const MAX_LOOPS: u32 = 8 << 20;

impl Run<'_, '_> {
    /// Runs the program from its entry to its end and answers R0.
    ///
    /// # Errors
    ///
    /// What the program did that it may not do.
    pub fn execute(&mut self) -> Result<u64, Fault> {
        let ctx = self.memory.ctx();
        let result = self.enter(0, [ctx, 0, 0, 0, 0], true)?;
        match self.unreleased() {
            Some(fault) => Err(fault),
            None => Ok(result),
        }
    }

    /// Calls a function of the program back, as `bpf_loop` does, and answers what it returns.
    ///
    /// # Errors
    ///
    /// The violation if the pointer names no function, or what the function violates.
    pub fn call(&mut self, callback: u64, args: [u64; 5]) -> Result<u64, Fault> {
        let entry = self.program.function_at(callback)?;
        self.enter(entry, args, false)
    }

    fn enter(&mut self, entry: u32, args: [u64; 5], main: bool) -> Result<u64, Fault> {
        if self.observer.is_some() {
            exec::function::<true>(self, entry, args, main)
        } else {
            exec::function::<false>(self, entry, args, main)
        }
    }

    /// Takes `n` instructions off what the run may still do.
    #[inline]
    fn charge(&mut self, n: u32) -> Result<(), Fault> {
        match self.fuel.checked_sub(u64::from(n)) {
            Some(left) => {
                self.fuel = left;
                Ok(())
            }
            None => Err(FaultKind::OutOfFuel.into()),
        }
    }

    /// `bpf_tail_call`: goes on with another program in the same frame and answers its frame pointer, or
    /// `None` if it falls through.
    ///
    /// Kernel: `kernel/bpf/core.c bpf_tail_call, v6.18`
    #[doc(alias = "bpf_tail_call")]
    fn tail_call(&mut self, ctx: u64, map: u64, index: u64) -> Result<Option<u64>, Fault> {
        self.check_ctx(ctx)?;
        let map = self.map(map)?;
        if map.def().map_type != MapType::ProgArray {
            return Err(Fault::illegal(format!("bpf_tail_call with a map of type {:?}", map.def().map_type)));
        }
        if index as u32 >= map.def().max_entries || self.tail_calls >= MAX_TAIL_CALL_CNT {
            return Ok(None);
        }
        let Some(target) = map.program(self.guard, index as u32) else { return Ok(None) };
        self.tail_calls += 1;
        self.program = target;
        self.memory.unwind_frames(self.memory.frames() - 1);
        self.memory.push_frame().map(Some)
    }

    fn observe(&mut self, insn: u32, regs: &[u64; 11]) {
        let Some(observer) = self.observer.take() else { return };
        let depth = self.memory.frames();
        observer.step(self, &Step { program: self.program, insn, depth, regs });
        self.observer = Some(observer);
    }
}

/// Adds the instruction to a fault that a helper or the memory found.
#[cold]
fn located(mut fault: Fault, insn: u32) -> Fault {
    if fault.insn == u32::MAX {
        fault.insn = insn;
    }
    fault
}
