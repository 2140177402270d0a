//! [`Engine`]: how a CPU runs programs.

use std::sync::Arc;

use bpf::host::Host;
use bpf::maps::Guard;
use bpf::redirect::RedirectInfo;
use bpf::vm::{Fault, Program, Run, Scratch};
use mem::XdpBuff;

/// Runs programs over packets, one after the other, on one CPU.
pub trait Engine {
    /// Runs a program and answers R0, of which the low 32 bits are the action.
    ///
    /// # Errors
    ///
    /// What an unverified program did that it may not do.
    fn run(
        &mut self,
        program: &Arc<Program>,
        guard: &Guard,
        buff: &mut XdpBuff<'_>,
        redirect: &mut RedirectInfo,
        host: &mut dyn Host,
    ) -> Result<u64, Fault>;
}

/// The checked interpreter.
#[derive(Default)]
pub struct Interp {
    scratch: Scratch,
    fuel: Option<u64>,
}

impl Interp {
    /// An interpreter that stops a run after about so many instructions; for programs that were not verified.
    #[must_use]
    pub fn with_fuel(instructions: u64) -> Self {
        Self { fuel: Some(instructions), ..Self::default() }
    }
}

impl Engine for Interp {
    fn run(
        &mut self,
        program: &Arc<Program>,
        guard: &Guard,
        buff: &mut XdpBuff<'_>,
        redirect: &mut RedirectInfo,
        host: &mut dyn Host,
    ) -> Result<u64, Fault> {
        let run = Run::checked(program, guard, &mut self.scratch, buff, redirect, host);
        match self.fuel {
            Some(fuel) => run.with_fuel(fuel).execute(),
            None => { run }.execute(),
        }
    }
}
