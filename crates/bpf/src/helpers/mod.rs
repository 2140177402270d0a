//! The helpers: functions of the kernel that programs call by number.
//!
//! [`helper`] finds them. They are grouped in files by subject, and written once for both engines: they
//! reach the program's memory through [`Run`], whatever form its addresses have. Where a helper's answer
//! is an error, it is the kernel's errno; a [`Fault`] is what a verified program never causes.

mod absent;
mod bpf_loop;
mod csum;
mod dynptr;
mod fib;
mod map;
mod mtu;
mod packet;
mod perf;
mod print;
mod probe;
mod redirect;
mod ringbuf;
mod sock;
mod spin;
mod string;
mod syncookie;
mod task;
#[cfg(test)]
pub(crate) mod tests;
mod time;
mod timer;

use uapi::Errno;
use uapi::bpf::func;

pub use absent::{absent_helper, absent_kfunc};
pub(crate) use dynptr::{DYNPTR_OF_PACKET, Dynptr, DynptrKind};
pub(crate) use map::sum_elem_count;
pub(crate) use probe::{Prober, absence};
pub use timer::{DueTimer, Timers};

use crate::vm::{Fault, HelperFn, Run};

/// R1 to R5.
pub(crate) type Args = [u64; 5];
/// R0.
pub(crate) type Reply = Result<u64, Fault>;

/// The helper of a number; `None` for one that does not exist, that an XDP program may not call, or that
/// has no meaning outside of a kernel.
#[must_use]
pub fn helper(id: i32) -> Option<HelperFn> {
    HELPERS.iter().find(|(number, _)| *number == id).map(|(_, helper)| *helper)
}

const HELPERS: &[(i32, HelperFn)] = &[
    (func::CHECK_MTU, mtu::check_mtu),
    (func::CSUM_DIFF, csum::csum_diff),
    (func::DYNPTR_DATA, dynptr::dynptr_data),
    (func::DYNPTR_FROM_MEM, dynptr::dynptr_from_mem),
    (func::DYNPTR_READ, dynptr::dynptr_read),
    (func::DYNPTR_WRITE, dynptr::dynptr_write),
    (func::FIB_LOOKUP, fib::fib_lookup),
    (func::FOR_EACH_MAP_ELEM, map::for_each_map_elem),
    (func::GET_BRANCH_SNAPSHOT, task::get_branch_snapshot),
    (func::GET_CGROUP_CLASSID, task::get_cgroup_classid),
    (func::GET_CURRENT_ANCESTOR_CGROUP_ID, task::get_current_ancestor_cgroup_id),
    (func::GET_CURRENT_CGROUP_ID, task::get_current_cgroup_id),
    (func::GET_CURRENT_COMM, task::get_current_comm),
    (func::GET_CURRENT_PID_TGID, task::get_current_pid_tgid),
    (func::GET_CURRENT_UID_GID, task::get_current_uid_gid),
    (func::GET_NS_CURRENT_PID_TGID, task::get_ns_current_pid_tgid),
    (func::GET_NUMA_NODE_ID, time::get_numa_node_id),
    (func::GET_PRANDOM_U32, time::get_prandom_u32),
    (func::GET_SMP_PROCESSOR_ID, time::get_smp_processor_id),
    (func::JIFFIES64, time::jiffies64),
    (func::KTIME_GET_BOOT_NS, time::ktime_get_boot_ns),
    (func::KTIME_GET_COARSE_NS, time::ktime_get_coarse_ns),
    (func::KTIME_GET_NS, time::ktime_get_ns),
    (func::KTIME_GET_TAI_NS, time::ktime_get_tai_ns),
    (func::LOOP, bpf_loop::bpf_loop),
    (func::MAP_DELETE_ELEM, map::delete_elem),
    (func::MAP_LOOKUP_ELEM, map::lookup_elem),
    (func::MAP_LOOKUP_PERCPU_ELEM, map::lookup_percpu_elem),
    (func::MAP_PEEK_ELEM, map::peek_elem),
    (func::MAP_POP_ELEM, map::pop_elem),
    (func::MAP_PUSH_ELEM, map::push_elem),
    (func::MAP_UPDATE_ELEM, map::update_elem),
    (func::PERF_EVENT_OUTPUT, perf::event_output),
    (func::PROBE_READ_KERNEL, probe::probe_read_kernel),
    (func::PROBE_READ_KERNEL_STR, probe::probe_read_kernel_str),
    (func::PROBE_READ_USER, probe::probe_read_user),
    (func::PROBE_READ_USER_STR, probe::probe_read_user),
    (func::REDIRECT, redirect::redirect),
    (func::REDIRECT_MAP, redirect::redirect_map),
    (func::RINGBUF_DISCARD, ringbuf::discard),
    (func::RINGBUF_DISCARD_DYNPTR, ringbuf::discard_dynptr),
    (func::RINGBUF_OUTPUT, ringbuf::output),
    (func::RINGBUF_QUERY, ringbuf::query),
    (func::RINGBUF_RESERVE, ringbuf::reserve),
    (func::RINGBUF_RESERVE_DYNPTR, ringbuf::reserve_dynptr),
    (func::RINGBUF_SUBMIT, ringbuf::submit),
    (func::RINGBUF_SUBMIT_DYNPTR, ringbuf::submit_dynptr),
    (func::SKC_LOOKUP_TCP, sock::skc_lookup_tcp),
    (func::SEND_SIGNAL, task::send_signal),
    (func::SEND_SIGNAL_THREAD, task::send_signal),
    (func::SK_LOOKUP_TCP, sock::sk_lookup_tcp),
    (func::SK_LOOKUP_UDP, sock::sk_lookup_udp),
    (func::SK_RELEASE, sock::sk_release),
    (func::SNPRINTF, print::snprintf),
    (func::SPIN_LOCK, spin::lock),
    (func::SPIN_UNLOCK, spin::unlock),
    (func::STRNCMP, string::strncmp),
    (func::STRTOL, string::strtol),
    (func::STRTOUL, string::strtoul),
    (func::TCP_CHECK_SYNCOOKIE, syncookie::tcp_check_syncookie),
    (func::TCP_GEN_SYNCOOKIE, syncookie::tcp_gen_syncookie),
    (func::TCP_RAW_CHECK_SYNCOOKIE_IPV4, syncookie::tcp_raw_check_syncookie_ipv4),
    (func::TCP_RAW_CHECK_SYNCOOKIE_IPV6, syncookie::tcp_raw_check_syncookie_ipv6),
    (func::TCP_RAW_GEN_SYNCOOKIE_IPV4, syncookie::tcp_raw_gen_syncookie_ipv4),
    (func::TCP_RAW_GEN_SYNCOOKIE_IPV6, syncookie::tcp_raw_gen_syncookie_ipv6),
    (func::TIMER_CANCEL, timer::cancel),
    (func::TIMER_INIT, timer::init),
    (func::TIMER_SET_CALLBACK, timer::set_callback),
    (func::TIMER_START, timer::start),
    (func::TRACE_PRINTK, print::trace_printk),
    (func::TRACE_VPRINTK, print::trace_vprintk),
    (func::USER_RINGBUF_DRAIN, ringbuf::user_ringbuf_drain),
    (func::XDP_ADJUST_HEAD, packet::adjust_head),
    (func::XDP_ADJUST_META, packet::adjust_meta),
    (func::XDP_ADJUST_TAIL, packet::adjust_tail),
    (func::XDP_GET_BUFF_LEN, packet::get_buff_len),
    (func::XDP_LOAD_BYTES, packet::load_bytes),
    (func::XDP_STORE_BYTES, packet::store_bytes),
];

/// The error as a program sees it.
pub(crate) fn errno(error: Errno) -> Reply {
    Ok(error.as_ret())
}

/// 0, or the error as a program sees it.
pub(crate) fn status(result: Result<(), Errno>) -> Reply {
    Ok(result.err().map_or(0, Errno::as_ret))
}

/// Answers a nondeterministic helper from the host's script, or by itself and on the host's record.
fn scripted<'r, 'q>(
    run: &mut Run<'r, 'q>,
    helper: i32,
    answer: impl FnOnce(&mut Run<'r, 'q>) -> Reply,
) -> Reply {
    if let Some(value) = run.host.scripted(helper) {
        return Ok(value);
    }
    let value = answer(run)?;
    run.host.answered(helper, value);
    Ok(value)
}
