//! Batches of one packet, for measuring what a batch costs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bpf::redirect::RedirectInfo;
use bpf::vm::{Program, Run};
use control::{TestRun, TestRunError};
use mem::{XdpBuff, epoch};
use uapi::Errno;

use super::{Layout, Runner, receive_queue, refused};
use crate::SeededHost;

impl Runner {
    /// Runs a compiled program over batches of `n` copies of a packet, `repeat` times over the same buffers as
    /// the data path does it, and answers how long that took without the making of packets.
    ///
    /// # Errors
    ///
    /// As [`Runner::test_run`]; `EOPNOTSUPP` for a program that is interpreted, `EINVAL` for a batch of none.
    pub fn time_batches(
        &mut self,
        program: &Arc<Program>,
        host: &mut SeededHost,
        request: &TestRun,
        n: usize,
    ) -> Result<Duration, TestRunError> {
        if program.compiled().is_none() {
            return Err(refused(Errno::EOPNOTSUPP, "only compiled programs run batches"));
        }
        if n == 0 {
            return Err(refused(Errno::EINVAL, "a batch has packets"));
        }
        let layout = Layout::new(request)?;
        let rxq = receive_queue(request.ctx, host.net())?;
        let mut own = self.buff(&layout, &request.data, &rxq)?;
        let mut buffs = Vec::new();
        for _ in 0..n {
            buffs.push(self.buff(&layout, &request.data, &rxq)?);
        }
        host.begin(None);
        let (mut redirect, guard, mut verdicts) = (RedirectInfo::default(), epoch::pin(), vec![0; n]);
        let mut refs: Vec<&mut XdpBuff<'_>> = buffs.iter_mut().collect();
        let started = Instant::now();
        let run = Run::compiled(program, &guard, &mut own, &mut redirect, host);
        let mut run = run.expect("it is compiled");
        for _ in 0..request.repeat.max(1) {
            let mut done = 0;
            while done < n {
                done += run.execute_batch(&mut refs[done..], &mut verdicts[done..]);
            }
        }
        drop(run);
        let took = started.elapsed();
        host.end();
        Ok(took)
    }
}
