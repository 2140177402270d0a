//! Sections that a kernel cannot be interrupted in. Here a run is never interrupted, and what it holds
//! stays to its end, so entering and leaving is only written down where the program can see it.

use crate::helpers::{Args, Reply};
use crate::vm::Run;

/// `bpf_rcu_read_lock`, `bpf_rcu_read_unlock`, `bpf_preempt_disable`, `bpf_preempt_enable`.
///
/// Kernel: `kernel/bpf/helpers.c bpf_rcu_read_lock, bpf_preempt_disable, v6.18`
pub(super) fn nothing(_: &mut Run<'_, '_>, _: Args) -> Reply {
    Ok(0)
}

/// `X86_EFLAGS_IF`: interrupts are on.
const INTERRUPTS_ON: u64 = 1 << 9;

/// Kernel: `kernel/bpf/helpers.c bpf_local_irq_save, v6.18`
pub(super) fn local_irq_save(run: &mut Run<'_, '_>, [flags, ..]: Args) -> Reply {
    run.write(flags, 8)?.write_u64(0, INTERRUPTS_ON);
    Ok(0)
}

/// Kernel: `kernel/bpf/helpers.c bpf_local_irq_restore, v6.18`
pub(super) fn local_irq_restore(run: &mut Run<'_, '_>, [flags, ..]: Args) -> Reply {
    run.read(flags, 8)?;
    Ok(0)
}
