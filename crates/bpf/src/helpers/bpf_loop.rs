//! `bpf_loop`.

use uapi::Errno;

use super::{Args, Reply, errno};
use crate::vm::Run;

/// Most rounds.
///
/// Kernel: `include/linux/bpf.h BPF_MAX_LOOPS, v6.18`
const MAX_LOOPS: u32 = 8 << 20;

/// Calls a function until it answers something else than 0; answers how often.
///
/// Kernel: `kernel/bpf/bpf_iter.c bpf_loop, v6.18`
pub(super) fn bpf_loop(run: &mut Run<'_, '_>, [rounds, callback, ctx, flags, _]: Args) -> Reply {
    let rounds = rounds as u32;
    if flags != 0 {
        return errno(Errno::EINVAL);
    }
    if rounds > MAX_LOOPS {
        return errno(Errno::E2BIG);
    }
    for i in 0..rounds {
        if run.call(callback, [i.into(), ctx, 0, 0, 0])? != 0 {
            return Ok(u64::from(i) + 1);
        }
    }
    Ok(rounds.into())
}
