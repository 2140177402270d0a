//! `bpf_loop`.

use uapi::Errno;

use super::{Args, Reply, errno};
use crate::vm::Run;

/// Most rounds.
///
/// Kernel: `include/linux/bpf.h BPF_MAX_LOOPS, v6.18`
const MAX_LOOPS: u64 = 8 << 20;

/// Calls a function until it answers something else than 0; answers how often.
///
/// The verifier puts a loop in the place of a call without flags: that one takes the number of rounds in
/// full, and its answer to too many is a 32-bit number.
///
/// Kernel: `kernel/bpf/bpf_iter.c bpf_loop, kernel/bpf/verifier.c inline_bpf_loop, v6.18`
pub(super) fn bpf_loop(run: &mut Run<'_, '_>, [rounds, callback, ctx, flags, _]: Args) -> Reply {
    if flags != 0 {
        return errno(Errno::EINVAL);
    }
    if rounds > MAX_LOOPS {
        return Ok(Errno::E2BIG.as_ret() & 0xffff_ffff);
    }
    for i in 0..rounds {
        if run.call(callback, [i, ctx, 0, 0, 0])? != 0 {
            return Ok(i + 1);
        }
    }
    Ok(rounds)
}
