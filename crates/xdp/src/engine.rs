//! [`Engine`]: how a CPU runs programs.

use std::sync::Arc;

use arrayvec::ArrayVec;
use bpf::host::Host;
use bpf::maps::Guard;
use bpf::redirect::RedirectInfo;
use bpf::vm::{Fault, Program, Run, Scratch};
use mem::{Frame, Packet, XdpBuff};

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

    /// Runs a program over packets as long as none of them is to be redirected, which must be done before the
    /// next one is run. Writes the actions into `acts` and answers how many there are, at least one.
    ///
    /// # Errors
    ///
    /// What an unverified program did with the first packet that it may not do.
    fn run_batch<'q>(
        &mut self,
        program: &Arc<Program>,
        guard: &Guard,
        buffs: &mut [Box<XdpBuff<'q>>],
        redirect: &mut RedirectInfo,
        host: &mut dyn Host,
        acts: &mut [u32],
    ) -> Result<usize, Fault> {
        let (Some(buff), Some(act)) = (buffs.first_mut(), acts.first_mut()) else { return Ok(0) };
        *act = self.run(program, guard, buff, redirect, host)? as u32;
        Ok(1)
    }
}

/// Packets that are run in one go at most.
pub(crate) const BATCH_MAX: usize = 64;

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
    /// What a batch starts from.
    spare: Option<Packet>,
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

    fn run_batch<'q>(
        &mut self,
        program: &Arc<Program>,
        guard: &Guard,
        buffs: &mut [Box<XdpBuff<'q>>],
        redirect: &mut RedirectInfo,
        host: &mut dyn Host,
        acts: &mut [u32],
    ) -> Result<usize, Fault> {
        let n = buffs.len().min(acts.len()).min(BATCH_MAX);
        let (Some(first), true) = (buffs.first_mut(), program.compiled().is_some()) else {
            return self.interp.run_batch(program, guard, buffs, redirect, host, acts);
        };
        if n == 1 {
            acts[0] = self.run(program, guard, first, redirect, host)? as u32;
            return Ok(1);
        }
        let spare = self.spare.take().or_else(|| {
            let size = Frame::PAGE_SIZE as u32;
            Packet::new(Frame::new(Frame::PAGE_SIZE), size, 256, 64).ok()
        });
        let mut own = spare.expect("a page is large enough").into_buff(first.rxq());
        let mut refs: ArrayVec<&mut XdpBuff<'q>, BATCH_MAX> =
            buffs[..n].iter_mut().map(|buff| &mut **buff).collect();
        let run = Run::compiled(program, guard, &mut own, redirect, host);
        let done = run.expect("it is compiled").execute_batch(&mut refs, &mut acts[..n]);
        drop(refs);
        self.spare = Some(own.into_packet());
        Ok(done)
    }
}
