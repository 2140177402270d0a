//! Spin locks in map values.

use std::sync::atomic::{AtomicU32, Ordering};

use super::{Args, Reply};
use crate::maps::spin_unlock;
use crate::vm::{Fault, RegionKind, Run};

/// What a held lock is to the run.
const LOCK: RegionKind = RegionKind::Object("bpf_spin_lock");
/// A lock that is not free after so many tries was left behind by a run that was stopped.
const MAX_TRIES: u32 = 1 << 24;

/// Kernel: `kernel/bpf/helpers.c bpf_spin_lock, v6.18`
pub(super) fn lock(run: &mut Run<'_, '_>, [lock, ..]: Args) -> Reply {
    if run.holds(LOCK) {
        return Err(Fault::illegal("bpf_spin_lock: only one spin lock may be held at a time"));
    }
    acquire(atomic(run, lock)?)?;
    run.acquire(lock, LOCK);
    Ok(0)
}

/// Kernel: `kernel/bpf/helpers.c bpf_spin_unlock, v6.18`
pub(super) fn unlock(run: &mut Run<'_, '_>, [lock, ..]: Args) -> Reply {
    run.release(lock)?;
    spin_unlock(atomic(run, lock)?);
    Ok(0)
}

fn atomic<'a>(run: &'a Run<'_, '_>, lock: u64) -> Result<&'a AtomicU32, Fault> {
    let word = run.write(lock, 4)?.atomic_u32(0);
    word.ok_or_else(|| Fault::illegal(format!("{lock:#x} is passed as a spin lock, but is not aligned")))
}

fn acquire(lock: &AtomicU32) -> Result<(), Fault> {
    for tries in 0..MAX_TRIES {
        if lock.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return Ok(());
        }
        // The holder may wait for this very core.
        if tries % 128 == 127 { std::thread::yield_now() } else { std::hint::spin_loop() }
    }
    Err(Fault::illegal("bpf_spin_lock: the lock is never released"))
}
