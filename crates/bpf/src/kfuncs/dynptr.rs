//! Dynptrs: of the packet, and what can be done with any.

use uapi::Errno;

use crate::helpers::{Args, Dynptr, DynptrKind, Reply, errno, status};
use crate::vm::Run;

/// Bytes that are copied at a time where a dynptr has no single piece of memory.
const CHUNK: u64 = 256;

/// A dynptr of the packet with its fragments.
///
/// Kernel: `net/core/filter.c bpf_dynptr_from_xdp, v6.18`
pub(super) fn from_xdp(run: &mut Run<'_, '_>, [ctx, flags, ptr, ..]: Args) -> Reply {
    run.check_ctx(ctx)?;
    if flags != 0 {
        Dynptr::store(None, run, ptr)?;
        return errno(Errno::EINVAL);
    }
    let size = run.buff().buff_len() as u32;
    Dynptr::store(Some(Dynptr::new(ctx, DynptrKind::Xdp, size)), run, ptr)?;
    Ok(0)
}

/// A pointer to read by; the buffer, if the bytes lie in several pieces.
///
/// Kernel: `kernel/bpf/helpers.c bpf_dynptr_slice, v6.18`
pub(super) fn slice(run: &mut Run<'_, '_>, [ptr, offset, buffer, len, _]: Args) -> Reply {
    let Some(dynptr) = Dynptr::load(run, ptr)? else { return Ok(0) };
    if let Some(addr) = dynptr.slice(run, offset, len)? {
        return Ok(addr);
    }
    if buffer == 0 || dynptr.check(offset, len).is_err() {
        return Ok(0);
    }
    run.buff().copy_out(dynptr.at(offset) as usize, run.write(buffer, len)?);
    Ok(buffer)
}

/// A pointer to write by; the buffer, if the bytes lie in several pieces.
///
/// Kernel: `kernel/bpf/helpers.c bpf_dynptr_slice_rdwr, v6.18`
pub(super) fn slice_rdwr(run: &mut Run<'_, '_>, args: Args) -> Reply {
    match Dynptr::load(run, args[0])? {
        Some(dynptr) if !dynptr.rdonly => slice(run, args),
        _ => Ok(0),
    }
}

/// Makes a dynptr smaller from both ends.
///
/// Kernel: `kernel/bpf/helpers.c bpf_dynptr_adjust, v6.18`
pub(super) fn adjust(run: &mut Run<'_, '_>, [ptr, start, end, ..]: Args) -> Reply {
    let Some(dynptr) = Dynptr::load(run, ptr)?.filter(|_| start <= end) else { return errno(Errno::EINVAL) };
    if end > u64::from(dynptr.size) {
        return errno(Errno::ERANGE);
    }
    let offset = dynptr.offset + start as u32;
    Dynptr::store(Some(Dynptr { offset, size: (end - start) as u32, ..dynptr }), run, ptr)?;
    Ok(0)
}

/// Kernel: `kernel/bpf/helpers.c bpf_dynptr_is_null, v6.18`
pub(super) fn is_null(run: &mut Run<'_, '_>, [ptr, ..]: Args) -> Reply {
    Ok(Dynptr::load(run, ptr)?.is_none().into())
}

/// Kernel: `kernel/bpf/helpers.c bpf_dynptr_is_rdonly, v6.18`
pub(super) fn is_rdonly(run: &mut Run<'_, '_>, [ptr, ..]: Args) -> Reply {
    Ok(Dynptr::load(run, ptr)?.is_some_and(|dynptr| dynptr.rdonly).into())
}

/// Kernel: `kernel/bpf/helpers.c bpf_dynptr_size, v6.18`
pub(super) fn size(run: &mut Run<'_, '_>, [ptr, ..]: Args) -> Reply {
    Ok(Dynptr::load(run, ptr)?.map_or(Errno::EINVAL.as_ret(), |dynptr| dynptr.size.into()))
}

/// Kernel: `kernel/bpf/helpers.c bpf_dynptr_clone, v6.18`
pub(super) fn clone(run: &mut Run<'_, '_>, [ptr, clone, ..]: Args) -> Reply {
    let dynptr = Dynptr::load(run, ptr)?;
    Dynptr::store(dynptr, run, clone)?;
    status(dynptr.map(|_| ()).ok_or(Errno::EINVAL))
}

/// Copies from one dynptr to another.
///
/// Kernel: `kernel/bpf/helpers.c bpf_dynptr_copy, v6.18`
pub(super) fn copy(run: &mut Run<'_, '_>, [dst, dst_off, src, src_off, size]: Args) -> Reply {
    let (dst, src) = (Dynptr::load(run, dst)?, Dynptr::load(run, src)?);
    let from = slice_of(run, src, src_off, size)?;
    let to = slice_of(run, dst.filter(|dst| !dst.rdonly), dst_off, size)?;
    let (Some(dst), Some(src)) = (dst, src) else {
        // Either end is null. To the bytes of the other, if they are in one piece, there is no way; else
        // both are held to their sizes, and nothing can be copied from nothing to nothing.
        if (from.is_some() && dst.is_none()) || (to.is_some() && src.is_none()) {
            return errno(Errno::EINVAL);
        }
        let fits = |end: Option<Dynptr>, offset| match end {
            Some(dynptr) => dynptr.check(offset, size).is_ok(),
            None => (offset, size) == (0, 0),
        };
        return if fits(dst, dst_off) && fits(src, src_off) { Ok(0) } else { errno(Errno::E2BIG) };
    };
    match (from, to) {
        (Some(from), Some(to)) => {
            run.write(to, size)?.copy_from_shared(0, run.read(from, size)?);
            Ok(0)
        }
        (Some(from), None) => write(run, dst, dst_off, from, size),
        (None, Some(to)) => match src.check(src_off, size) {
            Ok(()) => status(src.read(run, src_off, run.write(to, size)?)?),
            Err(e) => errno(e),
        },
        (None, None) => copy_chunks(run, (dst, dst_off), (src, src_off), size),
    }
}

fn slice_of(
    run: &mut Run<'_, '_>,
    dynptr: Option<Dynptr>,
    offset: u64,
    size: u64,
) -> Result<Option<u64>, crate::vm::Fault> {
    dynptr.map_or(Ok(None), |dynptr| dynptr.slice(run, offset, size))
}

/// `bpf_dynptr_write` from memory of the program.
fn write(run: &Run<'_, '_>, dst: Dynptr, offset: u64, from: u64, size: u64) -> Reply {
    if dst.rdonly {
        return errno(Errno::EINVAL);
    }
    match dst.check(offset, size) {
        Ok(()) => status(dst.write(run, offset, run.read(from, size)?)?),
        Err(e) => errno(e),
    }
}

/// Copies where neither end lies in one piece.
fn copy_chunks(
    run: &Run<'_, '_>,
    (dst, dst_off): (Dynptr, u64),
    (src, src_off): (Dynptr, u64),
    size: u64,
) -> Reply {
    if dst.check(dst_off, size).is_err() || src.check(src_off, size).is_err() {
        return errno(Errno::E2BIG);
    }
    let mut buffer = [0; CHUNK as usize];
    let mut done = 0;
    while done < size {
        let n = CHUNK.min(size - done);
        let bytes = mem::SharedSlice::from_mut(&mut buffer[..n as usize]);
        if let Err(e) = src.read(run, src_off + done, bytes)? {
            return errno(e);
        }
        if dst.rdonly {
            return errno(Errno::EINVAL);
        }
        if let Err(e) = dst.write(run, dst_off + done, bytes)? {
            return errno(e);
        }
        done += n;
    }
    Ok(0)
}

/// Sets bytes of a dynptr to one value.
///
/// Kernel: `kernel/bpf/helpers.c bpf_dynptr_memset, v6.18`
pub(super) fn memset(run: &mut Run<'_, '_>, [ptr, offset, size, value, _]: Args) -> Reply {
    let Some(dynptr) = Dynptr::load(run, ptr)? else {
        // The null dynptr has no bytes, and none can be written.
        return if (offset, size) == (0, 0) { Ok(0) } else { errno(Errno::E2BIG) };
    };
    if dynptr.rdonly {
        return errno(Errno::EINVAL);
    }
    if let Some(addr) = dynptr.slice(run, offset, size)? {
        let bytes = run.write(addr, size)?;
        bytes.fill(0, bytes.len(), value as u8);
        return Ok(0);
    }
    if let Err(e) = dynptr.check(offset, size) {
        return errno(e);
    }
    let mut buffer = [value as u8; CHUNK as usize];
    let mut done = 0;
    while done < size {
        let n = CHUNK.min(size - done);
        let bytes = mem::SharedSlice::from_mut(&mut buffer[..n as usize]);
        if let Err(e) = dynptr.write(run, offset + done, bytes)? {
            return errno(e);
        }
        done += n;
    }
    Ok(0)
}
