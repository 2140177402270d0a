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
pub(crate) use print::stream_vprintk;
pub(crate) use probe::{Prober, absence};
pub use timer::{DueTimer, Timers};

use crate::vm::{Fault, HelperFn, NativeFn, Run, native};

/// R1 to R5.
pub(crate) type Args = [u64; 5];
/// R0.
pub(crate) type Reply = Result<u64, Fault>;

/// The helper of a number; `None` for one that does not exist, that an XDP program may not call, or that
/// has no meaning outside of a kernel.
#[must_use]
pub fn helper(id: i32) -> Option<HelperFn> {
    HELPERS.iter().find(|entry| entry.id == id).map(|entry| entry.helper)
}

/// The same helper as compiled programs call it.
pub(crate) fn native_helper(id: i32) -> Option<NativeFn> {
    HELPERS.iter().find(|entry| entry.id == id).map(|entry| entry.native)
}

/// A helper, as both engines call it.
struct Entry {
    id: i32,
    helper: HelperFn,
    native: NativeFn,
}

/// The table of helpers.
macro_rules! helpers {
    ($($id:ident => $helper:path,)*) => {
        const HELPERS: &[Entry] =
            &[$(Entry { id: func::$id, helper: $helper, native: native($helper) },)*];
    };
}

helpers! {
    CHECK_MTU => mtu::check_mtu,
    CSUM_DIFF => csum::csum_diff,
    DYNPTR_DATA => dynptr::dynptr_data,
    DYNPTR_FROM_MEM => dynptr::dynptr_from_mem,
    DYNPTR_READ => dynptr::dynptr_read,
    DYNPTR_WRITE => dynptr::dynptr_write,
    FIB_LOOKUP => fib::fib_lookup,
    FOR_EACH_MAP_ELEM => map::for_each_map_elem,
    GET_BRANCH_SNAPSHOT => task::get_branch_snapshot,
    GET_CGROUP_CLASSID => task::get_cgroup_classid,
    GET_CURRENT_ANCESTOR_CGROUP_ID => task::get_current_ancestor_cgroup_id,
    GET_CURRENT_CGROUP_ID => task::get_current_cgroup_id,
    GET_CURRENT_COMM => task::get_current_comm,
    GET_CURRENT_PID_TGID => task::get_current_pid_tgid,
    GET_CURRENT_UID_GID => task::get_current_uid_gid,
    GET_NS_CURRENT_PID_TGID => task::get_ns_current_pid_tgid,
    GET_NUMA_NODE_ID => time::get_numa_node_id,
    GET_PRANDOM_U32 => time::get_prandom_u32,
    GET_SMP_PROCESSOR_ID => time::get_smp_processor_id,
    JIFFIES64 => time::jiffies64,
    KTIME_GET_BOOT_NS => time::ktime_get_boot_ns,
    KTIME_GET_COARSE_NS => time::ktime_get_coarse_ns,
    KTIME_GET_NS => time::ktime_get_ns,
    KTIME_GET_TAI_NS => time::ktime_get_tai_ns,
    LOOP => bpf_loop::bpf_loop,
    MAP_DELETE_ELEM => map::delete_elem,
    MAP_LOOKUP_ELEM => map::lookup_elem,
    MAP_LOOKUP_PERCPU_ELEM => map::lookup_percpu_elem,
    MAP_PEEK_ELEM => map::peek_elem,
    MAP_POP_ELEM => map::pop_elem,
    MAP_PUSH_ELEM => map::push_elem,
    MAP_UPDATE_ELEM => map::update_elem,
    PERF_EVENT_OUTPUT => perf::event_output,
    PROBE_READ_KERNEL => probe::probe_read_kernel,
    PROBE_READ_KERNEL_STR => probe::probe_read_kernel_str,
    PROBE_READ_USER => probe::probe_read_user,
    PROBE_READ_USER_STR => probe::probe_read_user,
    REDIRECT => redirect::redirect,
    REDIRECT_MAP => redirect::redirect_map,
    RINGBUF_DISCARD => ringbuf::discard,
    RINGBUF_DISCARD_DYNPTR => ringbuf::discard_dynptr,
    RINGBUF_OUTPUT => ringbuf::output,
    RINGBUF_QUERY => ringbuf::query,
    RINGBUF_RESERVE => ringbuf::reserve,
    RINGBUF_RESERVE_DYNPTR => ringbuf::reserve_dynptr,
    RINGBUF_SUBMIT => ringbuf::submit,
    RINGBUF_SUBMIT_DYNPTR => ringbuf::submit_dynptr,
    SKC_LOOKUP_TCP => sock::skc_lookup_tcp,
    SEND_SIGNAL => task::send_signal,
    SEND_SIGNAL_THREAD => task::send_signal,
    SK_LOOKUP_TCP => sock::sk_lookup_tcp,
    SK_LOOKUP_UDP => sock::sk_lookup_udp,
    SK_RELEASE => sock::sk_release,
    SNPRINTF => print::snprintf,
    SPIN_LOCK => spin::lock,
    SPIN_UNLOCK => spin::unlock,
    STRNCMP => string::strncmp,
    STRTOL => string::strtol,
    STRTOUL => string::strtoul,
    TCP_CHECK_SYNCOOKIE => syncookie::tcp_check_syncookie,
    TCP_GEN_SYNCOOKIE => syncookie::tcp_gen_syncookie,
    TCP_RAW_CHECK_SYNCOOKIE_IPV4 => syncookie::tcp_raw_check_syncookie_ipv4,
    TCP_RAW_CHECK_SYNCOOKIE_IPV6 => syncookie::tcp_raw_check_syncookie_ipv6,
    TCP_RAW_GEN_SYNCOOKIE_IPV4 => syncookie::tcp_raw_gen_syncookie_ipv4,
    TCP_RAW_GEN_SYNCOOKIE_IPV6 => syncookie::tcp_raw_gen_syncookie_ipv6,
    TIMER_CANCEL => timer::cancel,
    TIMER_INIT => timer::init,
    TIMER_SET_CALLBACK => timer::set_callback,
    TIMER_START => timer::start,
    TRACE_PRINTK => print::trace_printk,
    TRACE_VPRINTK => print::trace_vprintk,
    USER_RINGBUF_DRAIN => ringbuf::user_ringbuf_drain,
    XDP_ADJUST_HEAD => packet::adjust_head,
    XDP_ADJUST_META => packet::adjust_meta,
    XDP_ADJUST_TAIL => packet::adjust_tail,
    XDP_GET_BUFF_LEN => packet::get_buff_len,
    XDP_LOAD_BYTES => packet::load_bytes,
    XDP_STORE_BYTES => packet::store_bytes,
}

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
