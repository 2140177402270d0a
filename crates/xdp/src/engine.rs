//! [`Engine`]: how a CPU runs programs.

use std::sync::Arc;

use bpf::host::Host;
use bpf::maps::Guard;
use bpf::redirect::RedirectInfo;
use bpf::vm::{Fault, Program, Run, Scratch};
use mem::XdpBuff;

use crate::Verdicts;
use crate::verdicts::BATCH_MAX;

/// Runs programs over packets, one after the other, on one CPU.
pub trait Engine: Send {
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

    /// Runs a program over packets in one go, until `verdicts` says to stop. Answers how many there were, at
    /// least one.
    ///
    /// # Errors
    ///
    /// What an unverified program did with the first packet that it may not do.
    fn run_batch(
        &mut self,
        program: &Arc<Program>,
        guard: &Guard,
        buffs: &mut [Box<XdpBuff<'_>>],
        redirect: &mut RedirectInfo,
        host: &mut dyn Host,
        verdicts: &mut Verdicts,
    ) -> Result<usize, Fault> {
        let Some(buff) = buffs.first_mut() else { return Ok(0) };
        let act = self.run(program, guard, buff, redirect, host)? as u32;
        verdicts.note(act, redirect);
        Ok(1)
    }
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

/// Compiled programs as machine code, all others in the checked interpreter.
#[derive(Default)]
pub struct Native {
    interp: Interp,
}

impl Engine for Native {
    #[inline]
    fn run(
        &mut self,
        program: &Arc<Program>,
        guard: &Guard,
        buff: &mut XdpBuff<'_>,
        redirect: &mut RedirectInfo,
        host: &mut dyn Host,
    ) -> Result<u64, Fault> {
        if program.compiled().is_none() {
            return self.interp.run(program, guard, buff, redirect, host);
        }
        let run = Run::compiled(program, guard, buff, redirect, host);
        run.expect("it is compiled").execute()
    }

    fn run_batch(
        &mut self,
        program: &Arc<Program>,
        guard: &Guard,
        buffs: &mut [Box<XdpBuff<'_>>],
        redirect: &mut RedirectInfo,
        host: &mut dyn Host,
        verdicts: &mut Verdicts,
    ) -> Result<usize, Fault> {
        let n = buffs.len().min(BATCH_MAX);
        if program.compiled().is_none() {
            return self.interp.run_batch(program, guard, buffs, redirect, host, verdicts);
        }
        let Some((first, more)) = buffs[..n].split_first_mut() else { return Ok(0) };
        let run = Run::compiled(program, guard, first, redirect, host);
        let mut run = run.expect("it is compiled");
        if program.calls_redirect() || verdicts.tx_redirects() {
            return Ok(run.execute_each(more, |act, redirect| verdicts.note(act, redirect)));
        }
        let mut acts = [0; BATCH_MAX];
        let done = run.execute_all(more, &mut acts[..n]);
        drop(run);
        // Only the last one can be a redirect.
        for act in &acts[..done] {
            verdicts.note(*act, redirect);
        }
        Ok(done)
    }
}
