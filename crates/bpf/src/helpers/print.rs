//! `bpf_trace_printk`, `bpf_trace_vprintk`, `bpf_snprintf`.

mod format;

use uapi::Errno;

pub(super) use format::is_space;
use format::{Probe, prepare};

use super::probe::Prober;
use super::syncookie::keyed;
use super::{Args, Reply, errno};
use crate::host::{Event, Secret};
use crate::vm::{Fault, Run};

/// Most arguments beside those of `bpf_trace_printk`.
const MAX_VARARGS: u64 = 12;
/// Longest line with its NUL, bytes.
const MAX_LINE: usize = 1024;

/// Kernel: `kernel/trace/bpf_trace.c bpf_trace_printk, v6.18`
pub(super) fn trace_printk(run: &mut Run<'_, '_>, [fmt, fmt_size, a, b, c]: Args) -> Reply {
    print_line(run, fmt, fmt_size, &[a, b, c])
}

/// Kernel: `kernel/trace/bpf_trace.c bpf_trace_vprintk, v6.18`
pub(super) fn trace_vprintk(run: &mut Run<'_, '_>, [fmt, fmt_size, args, len, _]: Args) -> Reply {
    match varargs(run, args, len)? {
        Ok(args) => print_line(run, fmt, fmt_size, &args),
        Err(e) => errno(e),
    }
}

/// A line for the program's standard output (1) or error output (2), which come out with its traces.
///
/// Kernel: `kernel/bpf/stream.c bpf_stream_vprintk_impl, v6.18`
pub(crate) fn stream_vprintk(run: &mut Run<'_, '_>, [stream, fmt, args, len, _]: Args) -> Reply {
    if !matches!(stream as u32, 1 | 2) {
        return errno(Errno::ENOENT);
    }
    let fmt_size = constant_string(run, fmt)?.len() as u64;
    let printed = trace_vprintk(run, [fmt, fmt_size, args, len, 0])?;
    Ok(if (printed as i64) < 0 { printed } else { 0 })
}

/// Prints to memory of the program; answers the length of the whole text with its NUL.
///
/// Kernel: `kernel/bpf/helpers.c bpf_snprintf, v6.18`
pub(super) fn snprintf(run: &mut Run<'_, '_>, [out, out_size, fmt, args, len]: Args) -> Reply {
    let args = match varargs(run, args, len)? {
        Ok(args) => args,
        Err(e) => return errno(e),
    };
    let fmt = constant_string(run, fmt)?;
    let out_size = u64::from(out_size as u32);
    let out = run.write(out, out_size)?;
    let memory = Memory::new(run);
    match prepare(&fmt, &args, &memory) {
        Ok(prepared) => {
            let printed = prepared.render(out.len(), &memory);
            if !out.is_empty() {
                out.copy_from(0, &printed.text);
                out.write_u8(printed.text.len(), 0);
            }
            Ok(printed.len + 1)
        }
        Err(e) => errno(e),
    }
}

fn print_line(run: &mut Run<'_, '_>, fmt: u64, fmt_size: u64, args: &[u64]) -> Reply {
    let fmt = run.read(fmt, u64::from(fmt_size as u32))?.to_vec();
    let memory = Memory::new(run);
    match prepare(&fmt, args, &memory) {
        Ok(prepared) => {
            let printed = prepared.render(MAX_LINE, &memory);
            // A line that nobody reads is no error of the program.
            let _ = run.host.event(Event::Trace(&String::from_utf8_lossy(&printed.text)));
            Ok(printed.len)
        }
        Err(e) => errno(e),
    }
}

fn varargs(run: &Run<'_, '_>, args: u64, len: u64) -> Result<Result<Vec<u64>, Errno>, Fault> {
    let len = u64::from(len as u32);
    if !len.is_multiple_of(8) || len > MAX_VARARGS * 8 || (len > 0 && args == 0) {
        return Ok(Err(Errno::EINVAL));
    }
    let bytes = if len == 0 { Vec::new() } else { run.read(args, len)?.to_vec() };
    Ok(Ok(bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect()))
}

/// A string that the verifier has seen the end of.
pub(super) fn constant_string(run: &Run<'_, '_>, addr: u64) -> Result<Vec<u8>, Fault> {
    let mut text = Vec::new();
    loop {
        let c = run.read(addr.wrapping_add(text.len() as u64), 1)?.read_u8(0);
        text.push(c);
        if c == 0 {
            return Ok(text);
        }
    }
}

/// What format arguments point to.
struct Memory<'a, 'r, 'q>(Prober<'a, 'r, 'q>);

impl<'a, 'r, 'q> Memory<'a, 'r, 'q> {
    fn new(run: &'a Run<'r, 'q>) -> Self {
        Self(Prober::new(run))
    }
}

impl Probe for Memory<'_, '_, '_> {
    fn byte(&self, addr: u64) -> Option<u8> {
        self.0.byte(addr)
    }

    fn hash_pointer(&self, addr: u64) -> u32 {
        keyed(self.0.run().host.secret(Secret::Pointer), &addr.to_le_bytes()) as u32
    }
}
