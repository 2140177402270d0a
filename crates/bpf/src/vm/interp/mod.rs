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

pub(super) use decode::{decode, make_probe};
pub use observer::{Observer, Profile, Step};
pub(super) use op::Code;

use std::sync::Arc;

use uapi::bpf::{BPF_F_RDONLY_PROG, MAX_TAIL_CALL_CNT, MapType};

use super::{Callback, Fault, FaultKind, RegionKind, Run};

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
    #[inline]
    pub fn execute(&mut self) -> Result<u64, Fault> {
        match self.execute_compiled() {
            Some(result) if !self.owes() => Ok(result),
            Some(_) => Err(self.unreleased().expect("it owes something")),
            None => self.interpret(),
        }
    }

    fn interpret(&mut self) -> Result<u64, Fault> {
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

    /// Runs a function that was put by for later, as a timer does. The run is one of the callback's
    /// program.
    ///
    /// # Errors
    ///
    /// What the function did that it may not do.
    ///
    /// # Panics
    ///
    /// If the callback belongs to another program.
    pub fn execute_callback(&mut self, callback: &Callback, args: [u64; 5]) -> Result<u64, Fault> {
        assert!(Arc::ptr_eq(callback.program(), self.program), "a callback runs in its own program");
        self.enter(callback.insn(), args, true)
    }

    fn enter(&mut self, entry: u32, args: [u64; 5], main: bool) -> Result<u64, Fault> {
        if let Some(compiled) = self.compiled {
            return compiled(self, entry, args);
        }
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

    /// The pointer to a map of the program.
    fn load_map(&mut self, index: usize) -> Result<u64, Fault> {
        let program = self.program;
        let key = Arc::as_ptr(program).addr();
        let known = self.memory.constant(key, 2 * index).map_or(0, |slot| *slot);
        if known != 0 {
            return Ok(known);
        }
        let addr = self.memory.expose_map(&program.maps()[index])?;
        self.memory.constant(key, 2 * index).into_iter().for_each(|slot| *slot = addr);
        Ok(addr)
    }

    /// The pointer to the value of a map of the program that has one.
    fn load_map_value(&mut self, index: usize) -> Result<u64, Fault> {
        let program = self.program;
        let key = Arc::as_ptr(program).addr();
        let known = self.memory.constant(key, 2 * index + 1).map_or(0, |slot| *slot);
        if known != 0 {
            return Ok(known);
        }
        let map = &program.maps()[index];
        let bytes = map.lookup(self.guard, self.cpu(), &[0; 4]);
        let bytes = bytes.ok_or_else(|| Fault::illegal(format!("map {} has no value 0", map.id())))?;
        let writable = map.def().map_flags & BPF_F_RDONLY_PROG == 0;
        let addr = self.memory.expose(RegionKind::MapValue(map.id()), bytes, writable)?;
        self.memory.constant(key, 2 * index + 1).into_iter().for_each(|slot| *slot = addr);
        Ok(addr)
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
