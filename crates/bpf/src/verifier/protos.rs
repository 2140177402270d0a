//! Prototypes of the helpers that an XDP program may call: arguments, result, conditions.
//!
//! The table is the contract of each helper. The verifier checks calls against it; the helpers module
//! can rely on what it promises. A number that is not in the table is refused for XDP.

use uapi::bpf::func;

use super::types::{ArgType, RetType, flag};

/// What a helper wants of one argument.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arg {
    pub(crate) ty: ArgType,
    /// Bytes, for memory of a fixed size.
    pub(crate) size: u32,
    /// Kernel type, for pointers to such.
    pub(crate) btf: Option<&'static str>,
}

/// A helper's prototype.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proto {
    pub(crate) id: i32,
    pub(crate) ret: RetType,
    pub(crate) ret_btf: Option<&'static str>,
    pub(crate) args: [Arg; 5],
    /// Only for programs under a licence compatible with the GPL.
    pub(crate) gpl_only: bool,
    /// Packet memory may be passed.
    pub(crate) pkt_access: bool,
    pub(crate) might_sleep: bool,
    /// Keeps the argument registers intact where the compiler spills and fills them around the call.
    pub(crate) fastcall: bool,
}

impl Proto {
    /// Number of arguments.
    pub(crate) fn nargs(&self) -> usize {
        self.args.iter().take_while(|a| a.ty != ArgType::DONTCARE).count()
    }

    const fn size(mut self, arg: usize, bytes: u32) -> Self {
        self.args[arg].size = bytes;
        self
    }

    const fn arg_btf(mut self, arg: usize, name: &'static str) -> Self {
        self.args[arg].btf = Some(name);
        self
    }

    const fn ret_btf(mut self, name: &'static str) -> Self {
        self.ret_btf = Some(name);
        self
    }

    const fn gpl(mut self) -> Self {
        self.gpl_only = true;
        self
    }

    const fn pkt(mut self) -> Self {
        self.pkt_access = true;
        self
    }

    const fn sleeps(mut self) -> Self {
        self.might_sleep = true;
        self
    }

    const fn fastcall(mut self) -> Self {
        self.fastcall = true;
        self
    }
}

const fn p(id: i32, ret: u32, args: &[u32]) -> Proto {
    let mut out = [Arg { ty: ArgType::DONTCARE, size: 0, btf: None }; 5];
    let mut i = 0;
    while i < args.len() {
        out[i].ty = ArgType(args[i]);
        i += 1;
    }
    Proto {
        id,
        ret: RetType(ret),
        ret_btf: None,
        args: out,
        gpl_only: false,
        pkt_access: false,
        might_sleep: false,
        fastcall: false,
    }
}

/// The prototype, if the number is one of a helper that XDP programs may call.
pub(crate) fn available(id: i32) -> Option<&'static Proto> {
    TABLE.binary_search_by_key(&id, |p| p.id).ok().map(|i| &TABLE[i])
}

/// Whether the helper may move packet data, so that old packet pointers no longer hold.
pub(crate) fn changes_pkt_data(id: i32) -> bool {
    matches!(id, func::TAIL_CALL | func::XDP_ADJUST_HEAD | func::XDP_ADJUST_META | func::XDP_ADJUST_TAIL)
        || matches!(
            id,
            func::CLONE_REDIRECT | func::SKB_CHANGE_TAIL | func::SKB_PULL_DATA | func::SKB_ADJUST_ROOM
        )
}

use flag::{
    DYNPTR_LOCAL as LOCAL, DYNPTR_RINGBUF as RINGBUF, MEM_ALIGNED as ALIGNED, MEM_RDONLY as RDONLY,
    MEM_RINGBUF as RINGBUF_M, MEM_UNINIT as UNINIT, MEM_WRITE as WRITE, OBJ_RELEASE as RELEASE,
    PTR_MAYBE_NULL as NULL, PTR_TRUSTED as TRUSTED,
};

const MAP: u32 = ArgType::CONST_MAP_PTR.0;
const MAP_KEY: u32 = ArgType::PTR_TO_MAP_KEY.0;
const MAP_VALUE: u32 = ArgType::PTR_TO_MAP_VALUE.0;
const MEM: u32 = ArgType::PTR_TO_MEM.0;
const UNINIT_MEM: u32 = MEM | UNINIT | WRITE;
const FIXED_MEM: u32 = MEM | flag::MEM_FIXED_SIZE;
const SIZE: u32 = ArgType::CONST_SIZE.0;
const SIZE0: u32 = ArgType::CONST_SIZE_OR_ZERO.0;
const CTX: u32 = ArgType::PTR_TO_CTX.0;
const ANY: u32 = ArgType::ANYTHING.0;
const SPIN_LOCK: u32 = ArgType::PTR_TO_SPIN_LOCK.0;
const SOCK_COMMON: u32 = ArgType::PTR_TO_SOCK_COMMON.0;
const SOCK_COMMON_BTF: u32 = ArgType::PTR_TO_BTF_ID_SOCK_COMMON.0;
const BTF_ID: u32 = ArgType::PTR_TO_BTF_ID.0;
const RINGBUF_MEM: u32 = ArgType::PTR_TO_RINGBUF_MEM.0;
const ALLOC_SIZE0: u32 = ArgType::CONST_ALLOC_SIZE_OR_ZERO.0;
const PERCPU_BTF_ID: u32 = ArgType::PTR_TO_PERCPU_BTF_ID.0;
const FUNC: u32 = ArgType::PTR_TO_FUNC.0;
const STACK: u32 = ArgType::PTR_TO_STACK.0;
const CONST_STR: u32 = ArgType::PTR_TO_CONST_STR.0;
const TIMER: u32 = ArgType::PTR_TO_TIMER.0;
const KPTR_DEST: u32 = ArgType::KPTR_XCHG_DEST.0;
const DYNPTR: u32 = ArgType::PTR_TO_DYNPTR.0;
const R_INT: u32 = RetType::INTEGER.0;
const R_VOID: u32 = RetType::VOID.0;
const R_MAP_VALUE: u32 = RetType::PTR_TO_MAP_VALUE.0;
const R_SOCKET: u32 = RetType::PTR_TO_SOCKET.0;
const R_SOCK_COMMON: u32 = RetType::PTR_TO_SOCK_COMMON.0;
const R_MEM: u32 = RetType::PTR_TO_MEM.0;
const R_MEM_OR_BTF_ID: u32 = RetType::PTR_TO_MEM_OR_BTF_ID.0;
const R_BTF_ID: u32 = RetType::PTR_TO_BTF_ID.0;

/// Ascending by number.
static TABLE: [Proto; 104] = [
    p(func::MAP_LOOKUP_ELEM, R_MAP_VALUE | NULL, &[MAP, MAP_KEY]).pkt(),
    p(func::MAP_UPDATE_ELEM, R_INT, &[MAP, MAP_KEY, MAP_VALUE, ANY]).pkt(),
    p(func::MAP_DELETE_ELEM, R_INT, &[MAP, MAP_KEY]).pkt(),
    p(func::KTIME_GET_NS, R_INT, &[]),
    p(func::TRACE_PRINTK, R_INT, &[MEM | RDONLY, SIZE]).gpl(),
    p(func::GET_PRANDOM_U32, R_INT, &[]),
    p(func::GET_SMP_PROCESSOR_ID, R_INT, &[]).fastcall(),
    p(func::TAIL_CALL, R_VOID, &[CTX, MAP, ANY]),
    p(func::GET_CURRENT_PID_TGID, R_INT, &[]),
    p(func::GET_CURRENT_UID_GID, R_INT, &[]),
    p(func::GET_CURRENT_COMM, R_INT, &[UNINIT_MEM, SIZE]),
    p(func::GET_CGROUP_CLASSID, R_INT, &[]),
    p(func::PERF_EVENT_READ, R_INT, &[MAP, ANY]).gpl(),
    p(func::REDIRECT, R_INT, &[ANY, ANY]),
    p(func::PERF_EVENT_OUTPUT, R_INT, &[CTX, MAP, ANY, MEM | RDONLY, SIZE0]).gpl().pkt(),
    p(func::CSUM_DIFF, R_INT, &[MEM | NULL | RDONLY, SIZE0, MEM | NULL | RDONLY, SIZE0, ANY]).pkt(),
    p(func::GET_CURRENT_TASK, R_INT, &[]).gpl(),
    p(func::CURRENT_TASK_UNDER_CGROUP, R_INT, &[MAP, ANY]),
    p(func::GET_NUMA_NODE_ID, R_INT, &[]),
    p(func::XDP_ADJUST_HEAD, R_INT, &[CTX, ANY]),
    p(func::REDIRECT_MAP, R_INT, &[MAP, ANY, ANY]),
    p(func::XDP_ADJUST_META, R_INT, &[CTX, ANY]),
    p(func::PERF_EVENT_READ_VALUE, R_INT, &[MAP, ANY, UNINIT_MEM, SIZE]).gpl(),
    p(func::XDP_ADJUST_TAIL, R_INT, &[CTX, ANY]),
    p(func::FIB_LOOKUP, R_INT, &[CTX, MEM | WRITE, SIZE, ANY]).gpl(),
    p(func::GET_CURRENT_CGROUP_ID, R_INT, &[]),
    p(func::SK_LOOKUP_TCP, R_SOCKET | NULL, &[CTX, MEM | RDONLY, SIZE0, ANY, ANY]).pkt(),
    p(func::SK_LOOKUP_UDP, R_SOCKET | NULL, &[CTX, MEM | RDONLY, SIZE0, ANY, ANY]).pkt(),
    p(func::SK_RELEASE, R_INT, &[SOCK_COMMON_BTF | RELEASE]),
    p(func::MAP_PUSH_ELEM, R_INT, &[MAP, MAP_VALUE, ANY]).pkt(),
    p(func::MAP_POP_ELEM, R_INT, &[MAP, MAP_VALUE | UNINIT | WRITE]),
    p(func::MAP_PEEK_ELEM, R_INT, &[MAP, MAP_VALUE | UNINIT | WRITE]),
    p(func::SPIN_LOCK, R_VOID, &[SPIN_LOCK]),
    p(func::SPIN_UNLOCK, R_VOID, &[SPIN_LOCK]),
    p(func::SKC_LOOKUP_TCP, R_SOCK_COMMON | NULL, &[CTX, MEM | RDONLY, SIZE0, ANY, ANY]).pkt(),
    p(func::TCP_CHECK_SYNCOOKIE, R_INT, &[SOCK_COMMON_BTF, MEM | RDONLY, SIZE, MEM | RDONLY, SIZE])
        .gpl()
        .pkt(),
    p(func::STRTOL, R_INT, &[MEM | RDONLY, SIZE, ANY, FIXED_MEM | UNINIT | WRITE | ALIGNED]).size(3, 8),
    p(func::STRTOUL, R_INT, &[MEM | RDONLY, SIZE, ANY, FIXED_MEM | UNINIT | WRITE | ALIGNED]).size(3, 8),
    p(func::SEND_SIGNAL, R_INT, &[ANY]),
    p(func::TCP_GEN_SYNCOOKIE, R_INT, &[SOCK_COMMON_BTF, MEM | RDONLY, SIZE, MEM | RDONLY, SIZE]).gpl().pkt(),
    p(func::PROBE_READ_USER, R_INT, &[UNINIT_MEM, SIZE0, ANY]).gpl(),
    p(func::PROBE_READ_KERNEL, R_INT, &[UNINIT_MEM, SIZE0, ANY]).gpl(),
    p(func::PROBE_READ_USER_STR, R_INT, &[UNINIT_MEM, SIZE0, ANY]).gpl(),
    p(func::PROBE_READ_KERNEL_STR, R_INT, &[UNINIT_MEM, SIZE0, ANY]).gpl(),
    p(func::SEND_SIGNAL_THREAD, R_INT, &[ANY]),
    p(func::JIFFIES64, R_INT, &[]),
    p(func::GET_NS_CURRENT_PID_TGID, R_INT, &[ANY, ANY, UNINIT_MEM, SIZE]),
    p(func::GET_CURRENT_ANCESTOR_CGROUP_ID, R_INT, &[ANY]),
    p(func::KTIME_GET_BOOT_NS, R_INT, &[]),
    p(func::RINGBUF_OUTPUT, R_INT, &[MAP, MEM | RDONLY, SIZE0, ANY]),
    p(func::RINGBUF_RESERVE, R_MEM | RINGBUF_M | NULL, &[MAP, ALLOC_SIZE0, ANY]),
    p(func::RINGBUF_SUBMIT, R_VOID, &[RINGBUF_MEM | RELEASE, ANY]),
    p(func::RINGBUF_DISCARD, R_VOID, &[RINGBUF_MEM | RELEASE, ANY]),
    p(func::RINGBUF_QUERY, R_INT, &[MAP, ANY]),
    p(func::SKC_TO_TCP6_SOCK, R_BTF_ID | NULL, &[SOCK_COMMON_BTF]).ret_btf("tcp6_sock"),
    p(func::SKC_TO_TCP_SOCK, R_BTF_ID | NULL, &[SOCK_COMMON_BTF]).ret_btf("tcp_sock"),
    p(func::SKC_TO_TCP_TIMEWAIT_SOCK, R_BTF_ID | NULL, &[SOCK_COMMON_BTF]).ret_btf("tcp_timewait_sock"),
    p(func::SKC_TO_TCP_REQUEST_SOCK, R_BTF_ID | NULL, &[SOCK_COMMON_BTF]).ret_btf("tcp_request_sock"),
    p(func::SKC_TO_UDP6_SOCK, R_BTF_ID | NULL, &[SOCK_COMMON_BTF]).ret_btf("udp6_sock"),
    p(func::GET_TASK_STACK, R_INT, &[BTF_ID, UNINIT_MEM, SIZE0, ANY]).arg_btf(0, "task_struct"),
    p(func::COPY_FROM_USER, R_INT, &[UNINIT_MEM, SIZE0, ANY]).sleeps(),
    p(func::SNPRINTF_BTF, R_INT, &[MEM | WRITE, SIZE, MEM | RDONLY, SIZE, ANY]),
    p(func::PER_CPU_PTR, R_MEM_OR_BTF_ID | NULL | RDONLY, &[PERCPU_BTF_ID, ANY]),
    p(func::THIS_CPU_PTR, R_MEM_OR_BTF_ID | RDONLY, &[PERCPU_BTF_ID]),
    p(func::TASK_STORAGE_GET, R_MAP_VALUE | NULL, &[MAP, BTF_ID | NULL, MAP_VALUE | NULL, ANY])
        .arg_btf(1, "task_struct"),
    p(func::TASK_STORAGE_DELETE, R_INT, &[MAP, BTF_ID | NULL]).arg_btf(1, "task_struct"),
    p(func::GET_CURRENT_TASK_BTF, R_BTF_ID | TRUSTED, &[]).ret_btf("task_struct").gpl(),
    p(func::KTIME_GET_COARSE_NS, R_INT, &[]),
    p(func::CHECK_MTU, R_INT, &[CTX, ANY, FIXED_MEM | WRITE | ALIGNED, ANY, ANY]).size(2, 4).gpl(),
    p(func::FOR_EACH_MAP_ELEM, R_INT, &[MAP, FUNC, STACK | NULL, ANY]),
    p(func::SNPRINTF, R_INT, &[MEM | NULL | WRITE, SIZE0, CONST_STR, MEM | NULL | RDONLY, SIZE0]).gpl(),
    p(func::TIMER_INIT, R_INT, &[TIMER, MAP, ANY]).gpl(),
    p(func::TIMER_SET_CALLBACK, R_INT, &[TIMER, FUNC]).gpl(),
    p(func::TIMER_START, R_INT, &[TIMER, ANY, ANY]).gpl(),
    p(func::TIMER_CANCEL, R_INT, &[TIMER]).gpl(),
    p(func::TASK_PT_REGS, R_BTF_ID, &[BTF_ID]).arg_btf(0, "task_struct").ret_btf("pt_regs").gpl(),
    p(func::GET_BRANCH_SNAPSHOT, R_INT, &[UNINIT_MEM, SIZE0]).gpl(),
    p(func::TRACE_VPRINTK, R_INT, &[MEM | RDONLY, SIZE, MEM | NULL | RDONLY, SIZE0]).gpl(),
    p(func::SKC_TO_UNIX_SOCK, R_BTF_ID | NULL, &[SOCK_COMMON_BTF]).ret_btf("unix_sock"),
    p(func::FIND_VMA, R_INT, &[BTF_ID, ANY, FUNC, STACK | NULL, ANY]).arg_btf(0, "task_struct"),
    p(func::LOOP, R_INT, &[ANY, FUNC, STACK | NULL, ANY]),
    p(func::STRNCMP, R_INT, &[MEM | RDONLY, SIZE, CONST_STR]),
    p(func::XDP_GET_BUFF_LEN, R_INT, &[CTX]),
    p(func::XDP_LOAD_BYTES, R_INT, &[CTX, ANY, UNINIT_MEM, SIZE]),
    p(func::XDP_STORE_BYTES, R_INT, &[CTX, ANY, MEM | RDONLY, SIZE]),
    p(func::COPY_FROM_USER_TASK, R_INT, &[UNINIT_MEM, SIZE0, ANY, BTF_ID, ANY])
        .arg_btf(3, "task_struct")
        .gpl()
        .sleeps(),
    p(func::KPTR_XCHG, R_BTF_ID | NULL, &[KPTR_DEST, BTF_ID | NULL | RELEASE]),
    p(func::MAP_LOOKUP_PERCPU_ELEM, R_MAP_VALUE | NULL, &[MAP, MAP_KEY, ANY]).pkt(),
    p(func::SKC_TO_MPTCP_SOCK, R_BTF_ID | NULL, &[SOCK_COMMON]).ret_btf("mptcp_sock"),
    p(func::DYNPTR_FROM_MEM, R_INT, &[UNINIT_MEM, SIZE0, ANY, DYNPTR | LOCAL | UNINIT | WRITE]),
    p(func::RINGBUF_RESERVE_DYNPTR, R_INT, &[MAP, ANY, ANY, DYNPTR | RINGBUF | UNINIT | WRITE]),
    p(func::RINGBUF_SUBMIT_DYNPTR, R_VOID, &[DYNPTR | RINGBUF | RELEASE, ANY]),
    p(func::RINGBUF_DISCARD_DYNPTR, R_VOID, &[DYNPTR | RINGBUF | RELEASE, ANY]),
    p(func::DYNPTR_READ, R_INT, &[UNINIT_MEM, SIZE0, DYNPTR | RDONLY, ANY, ANY]),
    p(func::DYNPTR_WRITE, R_INT, &[DYNPTR | RDONLY, ANY, MEM | RDONLY, SIZE0, ANY]),
    p(func::DYNPTR_DATA, R_MEM | NULL, &[DYNPTR | RDONLY, ANY, ALLOC_SIZE0]),
    p(func::TCP_RAW_GEN_SYNCOOKIE_IPV4, R_INT, &[FIXED_MEM | RDONLY, MEM | RDONLY, SIZE0])
        .size(0, 20)
        .gpl()
        .pkt(),
    p(func::TCP_RAW_GEN_SYNCOOKIE_IPV6, R_INT, &[FIXED_MEM | RDONLY, MEM | RDONLY, SIZE0])
        .size(0, 40)
        .gpl()
        .pkt(),
    p(func::TCP_RAW_CHECK_SYNCOOKIE_IPV4, R_INT, &[FIXED_MEM | RDONLY, FIXED_MEM | RDONLY])
        .size(0, 20)
        .size(1, 20)
        .gpl()
        .pkt(),
    p(func::TCP_RAW_CHECK_SYNCOOKIE_IPV6, R_INT, &[FIXED_MEM | RDONLY, FIXED_MEM | RDONLY])
        .size(0, 40)
        .size(1, 20)
        .gpl()
        .pkt(),
    p(func::KTIME_GET_TAI_NS, R_INT, &[]),
    p(func::USER_RINGBUF_DRAIN, R_INT, &[MAP, FUNC, STACK | NULL, ANY]),
    p(func::CGRP_STORAGE_GET, R_MAP_VALUE | NULL, &[MAP, BTF_ID | NULL, MAP_VALUE | NULL, ANY])
        .arg_btf(1, "cgroup"),
    p(func::CGRP_STORAGE_DELETE, R_INT, &[MAP, BTF_ID | NULL]).arg_btf(1, "cgroup"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_sizes_follow_their_memory() {
        assert!(TABLE.is_sorted_by_key(|p| p.id));
        for p in &TABLE {
            for (i, a) in p.args.iter().enumerate() {
                if matches!(a.ty, ArgType::CONST_SIZE | ArgType::CONST_SIZE_OR_ZERO) {
                    assert_eq!(p.args[i - 1].ty.base(), ArgType::PTR_TO_MEM, "helper {}", p.id);
                }
                let fixed = a.ty.has(flag::MEM_FIXED_SIZE);
                assert_eq!(fixed, a.size != 0, "helper {} argument {i}", p.id);
            }
        }
    }

    #[test]
    fn helpers_of_other_program_types_are_absent() {
        assert!(available(func::SKB_LOAD_BYTES).is_none());
        assert!(available(func::XDP_OUTPUT).is_none());
        assert!(available(func::REDIRECT_MAP).is_some_and(|p| p.nargs() == 3));
    }
}
