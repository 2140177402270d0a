//! Running compiled programs: the one place that jumps to machine code.
// UNSAFETY: calls code that the compiler made.
#![allow(unsafe_code)]

use mem::{RxqInfo, TxqInfo, XdpBuff};

use crate::jit::{Abi, Compiled};

/// Where compiled code finds things.
#[must_use]
pub fn abi() -> Abi {
    let offset = |n: usize| n as i32;
    Abi {
        data: offset(XdpBuff::OFF_DATA),
        data_end: offset(XdpBuff::OFF_DATA_END),
        data_meta: offset(XdpBuff::OFF_DATA_META),
        rxq: offset(XdpBuff::OFF_RXQ),
        txq: offset(XdpBuff::OFF_TXQ),
        rxq_ifindex: offset(std::mem::offset_of!(RxqInfo, ifindex)),
        rxq_queue_index: offset(std::mem::offset_of!(RxqInfo, queue_index)),
        txq_ifindex: offset(std::mem::offset_of!(TxqInfo, ifindex)),
        call_helper: call_helper as *const () as usize as u64,
    }
}

/// What compiled code gets beside the packet.
#[repr(C)]
#[derive(Debug, Default)]
pub struct NativeRun {
    unused: u64,
}

type Entry = unsafe extern "sysv64" fn(buff: *mut XdpBuff<'_>, run: *mut NativeRun) -> u64;

extern "sysv64" fn call_helper(_: u64, _: u64, _: u64, _: u64, _: u64, _: *mut NativeRun, key: i64) -> u64 {
    unreachable!("helper {key} cannot be called from compiled code yet")
}

/// Runs a compiled program over a packet.
///
/// # Safety
///
/// The verifier must have accepted the program, with the facts that it was compiled with.
pub unsafe fn call(compiled: &Compiled, buff: &mut XdpBuff<'_>, run: &mut NativeRun) -> u64 {
    // SAFETY: `entry` is the address of code that was compiled to this signature and lives as long as
    // `compiled`; what it does with its arguments the verifier has proved.
    let entry: Entry = unsafe { std::mem::transmute(compiled.entry() as usize) };
    // SAFETY: as above.
    unsafe { entry(std::ptr::from_mut(buff), std::ptr::from_mut(run)) }
}

/// Runs code that a test knows to be safe.
#[cfg(test)]
pub(crate) fn call_in_test(compiled: &Compiled, buff: &mut XdpBuff<'_>) -> u64 {
    // SAFETY: tests compile only what the checked interpreter has run without a fault on the same input.
    unsafe { call(compiled, buff, &mut NativeRun::default()) }
}
