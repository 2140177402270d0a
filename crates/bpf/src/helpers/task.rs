//! The task that a softirq interrupts: `bpf_get_current_*` and control groups.

use uapi::Errno;
use uapi::bpf::func;

use super::{Args, Reply, errno, scripted};
use crate::host::NAME_LEN;
use crate::vm::Run;

/// Process in the upper half, thread in the lower.
///
/// Kernel: `kernel/bpf/helpers.c bpf_get_current_pid_tgid, v6.18`
pub(super) fn get_current_pid_tgid(run: &mut Run<'_, '_>, _: Args) -> Reply {
    scripted(run, func::GET_CURRENT_PID_TGID, |run| {
        let task = run.host.task();
        Ok(u64::from(task.tgid) << 32 | u64::from(task.pid))
    })
}

/// Group in the upper half, user in the lower.
///
/// Kernel: `kernel/bpf/helpers.c bpf_get_current_uid_gid, v6.18`
pub(super) fn get_current_uid_gid(run: &mut Run<'_, '_>, _: Args) -> Reply {
    scripted(run, func::GET_CURRENT_UID_GID, |run| {
        let task = run.host.task();
        Ok(u64::from(task.gid) << 32 | u64::from(task.uid))
    })
}

/// The task's name, padded with zeros.
///
/// Kernel: `kernel/bpf/helpers.c bpf_get_current_comm, v6.18`
pub(super) fn get_current_comm(run: &mut Run<'_, '_>, [buf, size, ..]: Args) -> Reply {
    let size = u64::from(size as u32);
    let out = run.write(buf, size)?;
    let comm = run.host.task().comm;
    let n = out.len().min(NAME_LEN);
    out.fill(0, out.len(), 0);
    out.copy_from(0, &comm[..n]);
    if n > 0 {
        out.write_u8(n - 1, 0);
    }
    Ok(0)
}

/// Kernel: `kernel/bpf/cgroup.c bpf_get_current_cgroup_id, v6.18`
pub(super) fn get_current_cgroup_id(run: &mut Run<'_, '_>, _: Args) -> Reply {
    scripted(run, func::GET_CURRENT_CGROUP_ID, |run| Ok(run.host.task().cgroup_id))
}

/// The task's control group is the only level that there is below the root.
///
/// Kernel: `kernel/bpf/helpers.c bpf_get_current_ancestor_cgroup_id, v6.18`
pub(super) fn get_current_ancestor_cgroup_id(run: &mut Run<'_, '_>, [level, ..]: Args) -> Reply {
    scripted(run, func::GET_CURRENT_ANCESTOR_CGROUP_ID, |run| {
        Ok(match level as i32 {
            0 => ROOT_CGROUP_ID,
            1 if run.host.task().cgroup_id != ROOT_CGROUP_ID => run.host.task().cgroup_id,
            _ => 0,
        })
    })
}

/// The root of the unified hierarchy.
const ROOT_CGROUP_ID: u64 = 1;

/// No task has a class unless the net_cls controller gave it one.
///
/// Kernel: `net/core/filter.c bpf_get_cgroup_classid_curr, v6.18`
pub(super) fn get_cgroup_classid(run: &mut Run<'_, '_>, _: Args) -> Reply {
    scripted(run, func::GET_CGROUP_CLASSID, |_| Ok(0))
}

/// No process of a host outside of a kernel has a PID namespace that a program could name.
///
/// Kernel: `kernel/bpf/helpers.c bpf_get_ns_current_pid_tgid, v6.18`
pub(super) fn get_ns_current_pid_tgid(run: &mut Run<'_, '_>, [_, _, nsdata, size, _]: Args) -> Reply {
    let out = run.write(nsdata, u64::from(size as u32))?;
    out.fill(0, out.len(), 0);
    errno(Errno::EINVAL)
}

/// What runs programs is no process that could be sent a signal.
///
/// Kernel: `kernel/trace/bpf_trace.c bpf_send_signal_common, v6.18`
pub(super) fn send_signal(_: &mut Run<'_, '_>, _: Args) -> Reply {
    errno(Errno::EPERM)
}

/// No branches are recorded.
///
/// Kernel: `kernel/trace/bpf_trace.c bpf_get_branch_snapshot, v6.18`
pub(super) fn get_branch_snapshot(_: &mut Run<'_, '_>, [_, _, flags, ..]: Args) -> Reply {
    errno(if flags == 0 { Errno::ENOENT } else { Errno::EINVAL })
}
