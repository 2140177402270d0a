//! Ring buffers, to user space and from it.

use std::ops::ControlFlow;
use std::sync::Arc;

use uapi::Errno;

use super::{Args, Dynptr, DynptrKind, Reply, errno, status};
use crate::maps::{Map, Ringbuf};
use crate::vm::{Fault, RegionKind, Run};

/// Longest record of a dynptr, bytes.
const DYNPTR_MAX_SIZE: u64 = (1 << 24) - 1;

fn ring<'r>(run: &Run<'r, '_>, map: u64) -> Result<(&'r Arc<Map>, &'r Ringbuf), Fault> {
    let map = run.map(map)?;
    let none = || Fault::illegal(format!("map {:?} is passed as a ring buffer", map.def().name));
    Ok((map, map.ringbuf().ok_or_else(none)?))
}

/// Kernel: `kernel/bpf/ringbuf.c bpf_ringbuf_output, v6.18`
pub(super) fn output(run: &mut Run<'_, '_>, [map, data, size, flags, _]: Args) -> Reply {
    let (_, ring) = ring(run, map)?;
    status(ring.output(run.read(data, size)?, flags))
}

/// Kernel: `kernel/bpf/ringbuf.c bpf_ringbuf_reserve, v6.18`
pub(super) fn reserve(run: &mut Run<'_, '_>, [map, size, flags, ..]: Args) -> Reply {
    let (map, ring) = ring(run, map)?;
    if flags != 0 {
        return Ok(0);
    }
    match ring.reserve(size) {
        Some(record) => {
            let kind = RegionKind::RingbufRecord(map.id());
            let addr = run.expose(kind, record, true)?;
            run.acquire_from(addr, kind, map);
            Ok(addr)
        }
        None => Ok(0),
    }
}

/// Kernel: `kernel/bpf/ringbuf.c bpf_ringbuf_submit, v6.18`
pub(super) fn submit(run: &mut Run<'_, '_>, [record, flags, ..]: Args) -> Reply {
    finish(run, record, |ring, addr| ring.submit(addr, flags))
}

/// Kernel: `kernel/bpf/ringbuf.c bpf_ringbuf_discard, v6.18`
pub(super) fn discard(run: &mut Run<'_, '_>, [record, flags, ..]: Args) -> Reply {
    finish(run, record, |ring, addr| ring.discard(addr, flags))
}

/// Ends the program's hold on a record and does with it what `how` says.
fn finish(run: &mut Run<'_, '_>, record: u64, how: impl FnOnce(&Ringbuf, u64)) -> Reply {
    let not_one = || Fault::illegal(format!("{record:#x} is no record of a ring buffer"));
    let ring = run.release_to(record)?.and_then(|map| map.ringbuf()).ok_or_else(not_one)?;
    let host = run.memory.host_addr(record).ok_or_else(not_one)?;
    run.memory.retire(record);
    how(ring, host);
    Ok(0)
}

/// Kernel: `kernel/bpf/ringbuf.c bpf_ringbuf_query, v6.18`
pub(super) fn query(run: &mut Run<'_, '_>, [map, what, ..]: Args) -> Reply {
    Ok(ring(run, map)?.1.query(what))
}

/// Reserves a record as a dynptr, which the program must submit or discard even if there is none.
///
/// Kernel: `kernel/bpf/ringbuf.c bpf_ringbuf_reserve_dynptr, v6.18`
pub(super) fn reserve_dynptr(run: &mut Run<'_, '_>, [map, size, flags, ptr, _]: Args) -> Reply {
    let size = u64::from(size as u32);
    let error = match (flags, size > DYNPTR_MAX_SIZE) {
        (0, false) => Errno::EINVAL,
        (0, true) => Errno::E2BIG,
        _ => Errno::EINVAL,
    };
    let usable = flags == 0 && size <= DYNPTR_MAX_SIZE;
    let record = if usable { reserve(run, [map, size, 0, 0, 0])? } else { 0 };
    let dynptr = (record != 0).then(|| Dynptr::new(record, DynptrKind::Ringbuf, size as u32));
    Dynptr::store(dynptr, run, ptr)?;
    if dynptr.is_some() { Ok(0) } else { errno(error) }
}

/// Kernel: `kernel/bpf/ringbuf.c bpf_ringbuf_submit_dynptr, v6.18`
pub(super) fn submit_dynptr(run: &mut Run<'_, '_>, [ptr, flags, ..]: Args) -> Reply {
    finish_dynptr(run, ptr, |ring, addr| ring.submit(addr, flags))
}

/// Kernel: `kernel/bpf/ringbuf.c bpf_ringbuf_discard_dynptr, v6.18`
pub(super) fn discard_dynptr(run: &mut Run<'_, '_>, [ptr, flags, ..]: Args) -> Reply {
    finish_dynptr(run, ptr, |ring, addr| ring.discard(addr, flags))
}

fn finish_dynptr(run: &mut Run<'_, '_>, ptr: u64, how: impl FnOnce(&Ringbuf, u64)) -> Reply {
    if let Some(dynptr) = Dynptr::load(run, ptr)? {
        finish(run, dynptr.data, how)?;
    }
    Dynptr::store(None, run, ptr)?;
    Ok(0)
}

/// Calls a function with a dynptr and a pointer of the program's for each sample that user space has
/// written, until it answers something else than 0; answers how many there were.
///
/// Kernel: `kernel/bpf/ringbuf.c bpf_user_ringbuf_drain, v6.18`
pub(super) fn user_ringbuf_drain(run: &mut Run<'_, '_>, [map, callback, ctx, flags, _]: Args) -> Reply {
    let map = run.map(map)?;
    let Some(ring) = map.user_ringbuf() else {
        let text = format!(
            "cannot pass map_type {} into func bpf_user_ringbuf_drain#209",
            map.def().map_type as u32
        );
        return Err(Fault::illegal(text));
    };
    let ptr = run.memory.own(RegionKind::Object("bpf_dynptr"), &[0; 16], true)?;
    let mut fault = None;
    let samples = ring.drain(flags, |sample| {
        let mut visit = || {
            let data = run.memory.own(RegionKind::Object("user_ringbuf_sample"), &sample.to_vec(), true)?;
            let dynptr = Dynptr::new(data, DynptrKind::Local, sample.len() as u32);
            Dynptr::store(Some(dynptr), run, ptr)?;
            let answer = run.call(callback, [ptr, ctx, 0, 0, 0]);
            run.memory.retire(data);
            answer
        };
        match visit() {
            Ok(0) => ControlFlow::Continue(()),
            Ok(_) => ControlFlow::Break(()),
            Err(e) => {
                fault = Some(e);
                ControlFlow::Break(())
            }
        }
    });
    run.memory.retire(ptr);
    match (fault, samples) {
        (Some(fault), _) => Err(fault),
        (None, Ok(samples)) => Ok(samples),
        (None, Err(e)) => errno(e),
    }
}
