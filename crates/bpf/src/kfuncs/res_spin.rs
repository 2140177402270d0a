//! `bpf_res_spin_lock` and its kin: locks that say so when they cannot be had.

use std::sync::atomic::{AtomicU32, Ordering};

use uapi::Errno;

use super::critical;
use crate::helpers::{Args, Reply, errno};
use crate::maps::spin_unlock;
use crate::vm::{Fault, RegionKind, Run};

/// What a held lock is to the run.
const LOCK: RegionKind = RegionKind::Object("bpf_res_spin_lock");
/// Tries after which a lock counts as one that cannot be had; the kernel waits for a quarter of a second.
const MAX_TRIES: u32 = 1 << 20;

/// Takes a lock: 0, `EDEADLK` if the run holds it already, `ETIMEDOUT` if another one does not let go of it.
///
/// Kernel: `kernel/bpf/rqspinlock.c bpf_res_spin_lock, v6.18`
pub(super) fn lock(run: &mut Run<'_, '_>, [lock, ..]: Args) -> Reply {
    if run.holds_at(lock) {
        return errno(Errno::EDEADLK);
    }
    if !acquire(atomic(run, lock)?) {
        return errno(Errno::ETIMEDOUT);
    }
    run.acquire(lock, LOCK);
    Ok(0)
}

/// Kernel: `kernel/bpf/rqspinlock.c bpf_res_spin_unlock, v6.18`
pub(super) fn unlock(run: &mut Run<'_, '_>, [lock, ..]: Args) -> Reply {
    run.release(lock)?;
    spin_unlock(atomic(run, lock)?);
    Ok(0)
}

/// Kernel: `kernel/bpf/rqspinlock.c bpf_res_spin_lock_irqsave, v6.18`
pub(super) fn lock_irqsave(run: &mut Run<'_, '_>, args: Args) -> Reply {
    let result = lock(run, args)?;
    if result == 0 {
        critical::local_irq_save(run, [args[1], 0, 0, 0, 0])?;
    }
    Ok(result)
}

/// Kernel: `kernel/bpf/rqspinlock.c bpf_res_spin_unlock_irqrestore, v6.18`
pub(super) fn unlock_irqrestore(run: &mut Run<'_, '_>, args: Args) -> Reply {
    critical::local_irq_restore(run, [args[1], 0, 0, 0, 0])?;
    unlock(run, args)
}

fn atomic<'a>(run: &'a Run<'_, '_>, lock: u64) -> Result<&'a AtomicU32, Fault> {
    let word = run.write(lock, 4)?.atomic_u32(0);
    word.ok_or_else(|| Fault::illegal(format!("{lock:#x} is passed as a spin lock, but is not aligned")))
}

fn acquire(lock: &AtomicU32) -> bool {
    (0..MAX_TRIES).any(|tries| {
        if lock.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return true;
        }
        // The holder may wait for this very core.
        if tries % 128 == 127 {
            std::thread::yield_now()
        } else {
            std::hint::spin_loop()
        }
        false
    })
}
