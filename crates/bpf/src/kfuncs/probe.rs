//! Reading memory that may not be there into a dynptr: `bpf_probe_read_*_dynptr`.

use mem::Frame;
use uapi::Errno;

use crate::helpers::{Args, Dynptr, Prober, Reply, absence, errno};
use crate::vm::Run;

/// Bytes that are copied at a time into a dynptr that has no single piece of memory.
const CHUNK: usize = 256;

/// What a copy brought.
struct Copied {
    bytes: Vec<u8>,
    result: Result<u64, Errno>,
}

/// Copies `size` bytes, or up to the end of a string of at most that size with its NUL.
type Copy = fn(&Run<'_, '_>, u64, usize) -> Copied;

/// Copies memory of the kernel.
///
/// Kernel: `kernel/trace/bpf_trace.c bpf_probe_read_kernel_dynptr, v6.18`
pub(super) fn kernel(run: &mut Run<'_, '_>, args: Args) -> Reply {
    into(run, args, copy_kernel, 0)
}

/// Copies a string of the kernel; answers its length with the NUL.
///
/// Kernel: `kernel/trace/bpf_trace.c bpf_probe_read_kernel_str_dynptr, v6.18`
pub(super) fn kernel_str(run: &mut Run<'_, '_>, args: Args) -> Reply {
    into(run, args, copy_kernel_str, 1)
}

/// Copies memory of user space, of which there is none.
///
/// Kernel: `kernel/trace/bpf_trace.c bpf_probe_read_user_dynptr, bpf_probe_read_user_str_dynptr, v6.18`
pub(super) fn user(run: &mut Run<'_, '_>, args: Args) -> Reply {
    into(run, args, copy_user, 0)
}

/// Copies in pieces that overlap by so many bytes, as a string's last byte is its NUL.
///
/// Kernel: `kernel/trace/bpf_trace.c __bpf_dynptr_copy, __bpf_dynptr_copy_str, v6.18`
fn into(run: &mut Run<'_, '_>, [ptr, offset, size, src, _]: Args, copy: Copy, overlap: usize) -> Reply {
    let (offset, size) = (u64::from(offset as u32), u64::from(size as u32));
    let dynptr = Dynptr::load(run, ptr)?;
    if let Some(dynptr) = dynptr.filter(|dynptr| !dynptr.rdonly)
        && let Some(addr) = dynptr.slice(run, offset, size)?
    {
        let copied = copy(run, src, size as usize);
        run.write(addr, copied.bytes.len() as u64)?.copy_from(0, &copied.bytes);
        return match copied.result {
            Ok(len) => Ok(if overlap == 0 { 0 } else { len }),
            Err(e) => errno(e),
        };
    }
    let Some(dynptr) = dynptr else {
        return if offset == 0 && size == 0 { Ok(0) } else { errno(Errno::E2BIG) };
    };
    if let Err(e) = dynptr.check(offset, size) {
        return errno(e);
    }
    let mut done = 0;
    while done < size as usize {
        let chunk = CHUNK.min(size as usize - done);
        let copied = copy(run, src.wrapping_add(done as u64), chunk);
        let len = match copied.result {
            Ok(len) => len as usize,
            Err(e) => return errno(e),
        };
        if dynptr.rdonly {
            return errno(Errno::EINVAL);
        }
        let frame = Frame::new(len.max(1));
        frame.bytes().copy_from(0, &copied.bytes[..len]);
        let bytes = frame.bytes().get(0, len).expect("as long");
        if let Err(e) = dynptr.write(run, offset + done as u64, bytes)? {
            return errno(e);
        }
        if overlap != 0 && (len < chunk || chunk == 1) {
            return Ok((done + len) as u64);
        }
        done += chunk - overlap;
    }
    Ok(if overlap == 0 { 0 } else { done as u64 })
}

fn copy_kernel(run: &Run<'_, '_>, src: u64, size: usize) -> Copied {
    let mut bytes = vec![0; size];
    if run.memory.probe(src, &mut bytes) {
        return Copied { bytes, result: Ok(size as u64) };
    }
    Copied { bytes: Vec::new(), result: Err(absence(src)) }
}

fn copy_kernel_str(run: &Run<'_, '_>, src: u64, size: usize) -> Copied {
    let prober = Prober::new(run);
    let mut bytes = Vec::new();
    while bytes.len() < size {
        let Some(c) = prober.byte(src.wrapping_add(bytes.len() as u64)) else {
            // Only where it starts is looked at before; what is met on the way is a fault.
            let error = if bytes.is_empty() { absence(src) } else { Errno::EFAULT };
            if error == Errno::EFAULT {
                bytes.push(0);
            }
            return Copied { bytes, result: Err(error) };
        };
        bytes.push(c);
        if c == 0 {
            break;
        }
    }
    if let Some(last) = bytes.last_mut() {
        *last = 0;
    }
    let len = bytes.len() as u64;
    Copied { bytes, result: Ok(len) }
}

fn copy_user(_: &Run<'_, '_>, _: u64, size: usize) -> Copied {
    Copied { bytes: Vec::new(), result: if size == 0 { Ok(0) } else { Err(Errno::EFAULT) } }
}
