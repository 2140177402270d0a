//! `bpf_perf_event_output`.

use mem::SharedSlice;
use uapi::Errno;

use super::{Args, Reply, errno, status};
use crate::host::{Event, PerfEvent};
use crate::vm::{Access, Run};

/// The part of the flags that is the index; all ones for the own CPU.
const INDEX_MASK: u64 = 0xffff_ffff;
/// The part of the flags that is the number of bytes of the packet, and where it starts.
const CTXLEN_MASK: u64 = 0xf_ffff << 32;

/// Samples of up to so many bytes, with what they bring of the packet, are put together on the stack.
const SHORT: usize = 256;

/// Sends a sample, and bytes of the packet after it, to user space.
///
/// Kernel: `net/core/filter.c bpf_xdp_event_output, kernel/trace/bpf_trace.c bpf_event_output, v6.18`
pub(super) fn event_output(run: &mut Run<'_, '_>, [ctx, map, flags, data, size]: Args) -> Reply {
    run.check_ctx(ctx)?;
    let map = run.map(map)?;
    let packet_len = ((flags & CTXLEN_MASK) >> 32) as usize;
    let sample = run.memory.slice(data, size, Access::Read)?;
    if flags & !(CTXLEN_MASK | INDEX_MASK) != 0 {
        return errno(Errno::EINVAL);
    }
    if packet_len > run.memory.buff().buff_len() {
        return errno(Errno::EFAULT);
    }
    let cpu = run.cpu();
    let index = if flags & INDEX_MASK == INDEX_MASK { cpu } else { (flags & INDEX_MASK) as u32 };
    if index >= map.def().max_entries {
        return errno(Errno::E2BIG);
    }
    let Some(event) = map.perf_event(run.guard(), index) else { return errno(Errno::ENOENT) };
    let Some(event) = event.downcast_ref::<PerfEvent>() else { return errno(Errno::EINVAL) };
    if event.cpu != cpu {
        return errno(Errno::EOPNOTSUPP);
    }
    let len = sample.len() + packet_len;
    let (mut short, mut long) = ([0; SHORT], Vec::new());
    let bytes = if len <= SHORT {
        &mut short[..len]
    } else {
        long.resize(len, 0);
        &mut long[..]
    };
    let (start, packet) = bytes.split_at_mut(sample.len());
    sample.copy_to(0, start);
    run.buff().copy_out(0, SharedSlice::from_mut(packet));
    status(run.host.event(Event::PerfSample { map_id: map.id(), cpu, data: bytes }))
}
