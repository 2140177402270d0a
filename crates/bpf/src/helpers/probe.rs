//! Reading through pointers that nothing is known of: [`Prober`], and the `bpf_probe_read_*` helpers.

use std::cell::Cell;

use uapi::Errno;

use super::{Args, Reply, errno};
use crate::vm::Run;

/// The lowest address that a kernel could have. What lies below is user space's, or no address at all.
const KERNEL_START: u64 = 0xffff_8000_0000_0000;

/// Why there is nothing at an address.
///
/// Kernel: `mm/maccess.c copy_from_kernel_nofault, v6.18`
pub(crate) fn absence(addr: u64) -> Errno {
    if addr < KERNEL_START { Errno::ERANGE } else { Errno::EFAULT }
}

/// Bytes that are fetched at a time, aligned: they never reach into another page.
const LINE: u64 = 64;

/// Reads byte by byte.
pub(crate) struct Prober<'a, 'r, 'q> {
    run: &'a Run<'r, 'q>,
    /// The line that was fetched last, in unchecked runs, where fetching costs a system call.
    line: Cell<Option<(u64, [u8; LINE as usize])>>,
}

impl<'a, 'r, 'q> Prober<'a, 'r, 'q> {
    pub(crate) fn new(run: &'a Run<'r, 'q>) -> Self {
        Self { run, line: Cell::new(None) }
    }

    pub(crate) fn run(&self) -> &'a Run<'r, 'q> {
        self.run
    }

    /// The byte at an address; `None` if there is none.
    pub(crate) fn byte(&self, addr: u64) -> Option<u8> {
        if self.run.memory.is_checked() {
            let mut byte = [0];
            return self.run.memory.probe(addr, &mut byte).then_some(byte[0]);
        }
        let base = addr & !(LINE - 1);
        let line = match self.line.get() {
            Some((known, line)) if known == base => line,
            _ => {
                let mut line = [0; LINE as usize];
                if !self.run.memory.probe(base, &mut line) {
                    return None;
                }
                self.line.set(Some((base, line)));
                line
            }
        };
        Some(line[(addr - base) as usize])
    }
}

/// Copies memory that may not be there; the destination is zeroed if it is not.
///
/// Kernel: `kernel/trace/bpf_trace.c bpf_probe_read_kernel, v6.18`
pub(super) fn probe_read_kernel(run: &mut Run<'_, '_>, [dst, size, src, ..]: Args) -> Reply {
    let dst = run.write(dst, u64::from(size as u32))?;
    let mut bytes = vec![0; dst.len()];
    let there = run.memory.probe(src, &mut bytes);
    if !there {
        bytes.fill(0);
    }
    dst.copy_from(0, &bytes);
    if there { Ok(0) } else { errno(absence(src)) }
}

/// Copies a string that may not be there, cut to the size with its NUL; answers its length with the NUL.
///
/// Kernel: `kernel/trace/bpf_trace.c bpf_probe_read_kernel_str, v6.18`
pub(super) fn probe_read_kernel_str(run: &mut Run<'_, '_>, [dst, size, src, ..]: Args) -> Reply {
    let dst = run.write(dst, u64::from(size as u32))?;
    let prober = Prober::new(run);
    let mut text = Vec::new();
    while text.len() < dst.len() {
        match prober.byte(src.wrapping_add(text.len() as u64)) {
            Some(c) => text.push(c),
            None => {
                dst.fill(0, dst.len(), 0);
                // Only where it starts is looked at before; what is met on the way is a fault.
                return errno(if text.is_empty() { absence(src) } else { Errno::EFAULT });
            }
        }
        if text.last() == Some(&0) {
            break;
        }
    }
    if let Some(last) = text.last_mut() {
        *last = 0;
    }
    dst.copy_from(0, &text);
    Ok(text.len() as u64)
}

/// There is no user space to read from.
///
/// Kernel: `kernel/trace/bpf_trace.c bpf_probe_read_user, bpf_probe_read_user_str, v6.18`
pub(super) fn probe_read_user(run: &mut Run<'_, '_>, [dst, size, ..]: Args) -> Reply {
    let dst = run.write(dst, u64::from(size as u32))?;
    dst.fill(0, dst.len(), 0);
    errno(Errno::EFAULT)
}
