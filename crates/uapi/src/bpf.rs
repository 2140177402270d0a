//! Numbers of the bpf(2) ABI. Names are the header's.
#![allow(missing_docs)]

/// Instruction classes (`code & 0x07`).
pub const BPF_LD: u8 = 0x00;
pub const BPF_LDX: u8 = 0x01;
pub const BPF_ST: u8 = 0x02;
pub const BPF_STX: u8 = 0x03;
pub const BPF_ALU: u8 = 0x04;
pub const BPF_JMP: u8 = 0x05;
pub const BPF_JMP32: u8 = 0x06;
pub const BPF_ALU64: u8 = 0x07;

/// Sizes of loads and stores (`code & 0x18`).
pub const BPF_W: u8 = 0x00;
pub const BPF_H: u8 = 0x08;
pub const BPF_B: u8 = 0x10;
pub const BPF_DW: u8 = 0x18;

/// Modes of loads and stores (`code & 0xe0`).
pub const BPF_IMM: u8 = 0x00;
pub const BPF_ABS: u8 = 0x20;
pub const BPF_IND: u8 = 0x40;
pub const BPF_MEM: u8 = 0x60;
pub const BPF_MEMSX: u8 = 0x80;
pub const BPF_ATOMIC: u8 = 0xc0;

/// Operand source (`code & 0x08`): immediate or register.
pub const BPF_K: u8 = 0x00;
pub const BPF_X: u8 = 0x08;

/// Arithmetic operations (`code & 0xf0`).
pub const BPF_ADD: u8 = 0x00;
pub const BPF_SUB: u8 = 0x10;
pub const BPF_MUL: u8 = 0x20;
pub const BPF_DIV: u8 = 0x30;
pub const BPF_OR: u8 = 0x40;
pub const BPF_AND: u8 = 0x50;
pub const BPF_LSH: u8 = 0x60;
pub const BPF_RSH: u8 = 0x70;
pub const BPF_NEG: u8 = 0x80;
pub const BPF_MOD: u8 = 0x90;
pub const BPF_XOR: u8 = 0xa0;
pub const BPF_MOV: u8 = 0xb0;
pub const BPF_ARSH: u8 = 0xc0;
pub const BPF_END: u8 = 0xd0;

/// Source bit of [`BPF_END`]: to little or to big endian.
pub const BPF_TO_LE: u8 = 0x00;
pub const BPF_TO_BE: u8 = 0x08;

/// Jump operations (`code & 0xf0`).
pub const BPF_JA: u8 = 0x00;
pub const BPF_JEQ: u8 = 0x10;
pub const BPF_JGT: u8 = 0x20;
pub const BPF_JGE: u8 = 0x30;
pub const BPF_JSET: u8 = 0x40;
pub const BPF_JNE: u8 = 0x50;
pub const BPF_JSGT: u8 = 0x60;
pub const BPF_JSGE: u8 = 0x70;
pub const BPF_CALL: u8 = 0x80;
pub const BPF_EXIT: u8 = 0x90;
pub const BPF_JLT: u8 = 0xa0;
pub const BPF_JLE: u8 = 0xb0;
pub const BPF_JSLT: u8 = 0xc0;
pub const BPF_JSLE: u8 = 0xd0;
/// Conditional jump of `may_goto`, `BPF_JMP | BPF_JCOND`.
pub const BPF_JCOND: u8 = 0xe0;

/// Atomic operations, in the immediate of a `BPF_STX | BPF_ATOMIC` instruction.
pub const BPF_FETCH: i32 = 0x01;
pub const BPF_XCHG: i32 = 0xe0 | BPF_FETCH;
pub const BPF_CMPXCHG: i32 = 0xf0 | BPF_FETCH;
pub const BPF_LOAD_ACQ: i32 = 0x100;
pub const BPF_STORE_REL: i32 = 0x110;

/// `src_reg` of `BPF_LD | BPF_IMM | BPF_DW`: what the 64-bit immediate names.
pub const BPF_PSEUDO_MAP_FD: u8 = 1;
pub const BPF_PSEUDO_MAP_VALUE: u8 = 2;
pub const BPF_PSEUDO_BTF_ID: u8 = 3;
pub const BPF_PSEUDO_FUNC: u8 = 4;
pub const BPF_PSEUDO_MAP_IDX: u8 = 5;
pub const BPF_PSEUDO_MAP_IDX_VALUE: u8 = 6;

/// `src_reg` of `BPF_JMP | BPF_CALL`: a helper is 0.
pub const BPF_PSEUDO_CALL: u8 = 1;
pub const BPF_PSEUDO_KFUNC_CALL: u8 = 2;

pub const MAX_BPF_REG: u8 = 11;
/// Stack of a program together with the subprograms that it calls, bytes.
pub const MAX_BPF_STACK: usize = 512;
/// Deepest chain of bpf2bpf calls, the entry included.
pub const MAX_CALL_FRAMES: usize = 8;
/// Tail calls that one run may chain.
pub const MAX_TAIL_CALL_CNT: u32 = 33;
/// Bytes of a program, map or link name, the terminating zero included.
pub const BPF_OBJ_NAME_LEN: usize = 16;

pub const BPF_PROG_TYPE_XDP: u32 = 6;
pub const BPF_PROG_TYPE_EXT: u32 = 28;

/// Flags of a map update.
pub const BPF_ANY: u64 = 0;
pub const BPF_NOEXIST: u64 = 1;
pub const BPF_EXIST: u64 = 2;
pub const BPF_F_LOCK: u64 = 4;

/// Flags of map creation.
pub const BPF_F_NO_PREALLOC: u32 = 1 << 0;
pub const BPF_F_NO_COMMON_LRU: u32 = 1 << 1;
pub const BPF_F_NUMA_NODE: u32 = 1 << 2;
pub const BPF_F_RDONLY: u32 = 1 << 3;
pub const BPF_F_WRONLY: u32 = 1 << 4;
pub const BPF_F_STACK_BUILD_ID: u32 = 1 << 5;
pub const BPF_F_ZERO_SEED: u32 = 1 << 6;
pub const BPF_F_RDONLY_PROG: u32 = 1 << 7;
pub const BPF_F_WRONLY_PROG: u32 = 1 << 8;
pub const BPF_F_CLONE: u32 = 1 << 9;
pub const BPF_F_MMAPABLE: u32 = 1 << 10;
pub const BPF_F_PRESERVE_ELEMS: u32 = 1 << 11;
pub const BPF_F_INNER_MAP: u32 = 1 << 12;

/// Flags of program loading.
pub const BPF_F_STRICT_ALIGNMENT: u32 = 1 << 0;
pub const BPF_F_ANY_ALIGNMENT: u32 = 1 << 1;
pub const BPF_F_TEST_RND_HI32: u32 = 1 << 2;
pub const BPF_F_TEST_STATE_FREQ: u32 = 1 << 3;
pub const BPF_F_SLEEPABLE: u32 = 1 << 4;
pub const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
pub const BPF_F_XDP_DEV_BOUND_ONLY: u32 = 1 << 6;
pub const BPF_F_TEST_REG_INVARIANTS: u32 = 1 << 7;

macro_rules! map_types {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        /// `enum bpf_map_type`.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum MapType { $($name = $value,)* }

        impl MapType {
            /// The type of a number, if it is one.
            #[must_use]
            pub fn from_raw(raw: u32) -> Option<Self> {
                match raw { $($value => Some(Self::$name),)* _ => None }
            }
            /// The name as bpftool prints it (`percpu_array`).
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

map_types! {
    Hash = 1, "hash";
    Array = 2, "array";
    ProgArray = 3, "prog_array";
    PerfEventArray = 4, "perf_event_array";
    PercpuHash = 5, "percpu_hash";
    PercpuArray = 6, "percpu_array";
    StackTrace = 7, "stack_trace";
    CgroupArray = 8, "cgroup_array";
    LruHash = 9, "lru_hash";
    LruPercpuHash = 10, "lru_percpu_hash";
    LpmTrie = 11, "lpm_trie";
    ArrayOfMaps = 12, "array_of_maps";
    HashOfMaps = 13, "hash_of_maps";
    Devmap = 14, "devmap";
    Sockmap = 15, "sockmap";
    Cpumap = 16, "cpumap";
    Xskmap = 17, "xskmap";
    Sockhash = 18, "sockhash";
    CgroupStorage = 19, "cgroup_storage";
    ReuseportSockarray = 20, "reuseport_sockarray";
    PercpuCgroupStorage = 21, "percpu_cgroup_storage";
    Queue = 22, "queue";
    Stack = 23, "stack";
    SkStorage = 24, "sk_storage";
    DevmapHash = 25, "devmap_hash";
    StructOps = 26, "struct_ops";
    Ringbuf = 27, "ringbuf";
    InodeStorage = 28, "inode_storage";
    TaskStorage = 29, "task_storage";
    BloomFilter = 30, "bloom_filter";
    UserRingbuf = 31, "user_ringbuf";
    CgrpStorage = 32, "cgrp_storage";
    Arena = 33, "arena";
}

/// Names of the helpers, indexed by their number (`___BPF_FUNC_MAPPER`). The table is closed: new
/// functions of the kernel are kfuncs.
pub const HELPER_NAMES: [&str; 212] = [
    "unspec",
    "map_lookup_elem",
    "map_update_elem",
    "map_delete_elem",
    "probe_read",
    "ktime_get_ns",
    "trace_printk",
    "get_prandom_u32",
    "get_smp_processor_id",
    "skb_store_bytes",
    "l3_csum_replace",
    "l4_csum_replace",
    "tail_call",
    "clone_redirect",
    "get_current_pid_tgid",
    "get_current_uid_gid",
    "get_current_comm",
    "get_cgroup_classid",
    "skb_vlan_push",
    "skb_vlan_pop",
    "skb_get_tunnel_key",
    "skb_set_tunnel_key",
    "perf_event_read",
    "redirect",
    "get_route_realm",
    "perf_event_output",
    "skb_load_bytes",
    "get_stackid",
    "csum_diff",
    "skb_get_tunnel_opt",
    "skb_set_tunnel_opt",
    "skb_change_proto",
    "skb_change_type",
    "skb_under_cgroup",
    "get_hash_recalc",
    "get_current_task",
    "probe_write_user",
    "current_task_under_cgroup",
    "skb_change_tail",
    "skb_pull_data",
    "csum_update",
    "set_hash_invalid",
    "get_numa_node_id",
    "skb_change_head",
    "xdp_adjust_head",
    "probe_read_str",
    "get_socket_cookie",
    "get_socket_uid",
    "set_hash",
    "setsockopt",
    "skb_adjust_room",
    "redirect_map",
    "sk_redirect_map",
    "sock_map_update",
    "xdp_adjust_meta",
    "perf_event_read_value",
    "perf_prog_read_value",
    "getsockopt",
    "override_return",
    "sock_ops_cb_flags_set",
    "msg_redirect_map",
    "msg_apply_bytes",
    "msg_cork_bytes",
    "msg_pull_data",
    "bind",
    "xdp_adjust_tail",
    "skb_get_xfrm_state",
    "get_stack",
    "skb_load_bytes_relative",
    "fib_lookup",
    "sock_hash_update",
    "msg_redirect_hash",
    "sk_redirect_hash",
    "lwt_push_encap",
    "lwt_seg6_store_bytes",
    "lwt_seg6_adjust_srh",
    "lwt_seg6_action",
    "rc_repeat",
    "rc_keydown",
    "skb_cgroup_id",
    "get_current_cgroup_id",
    "get_local_storage",
    "sk_select_reuseport",
    "skb_ancestor_cgroup_id",
    "sk_lookup_tcp",
    "sk_lookup_udp",
    "sk_release",
    "map_push_elem",
    "map_pop_elem",
    "map_peek_elem",
    "msg_push_data",
    "msg_pop_data",
    "rc_pointer_rel",
    "spin_lock",
    "spin_unlock",
    "sk_fullsock",
    "tcp_sock",
    "skb_ecn_set_ce",
    "get_listener_sock",
    "skc_lookup_tcp",
    "tcp_check_syncookie",
    "sysctl_get_name",
    "sysctl_get_current_value",
    "sysctl_get_new_value",
    "sysctl_set_new_value",
    "strtol",
    "strtoul",
    "sk_storage_get",
    "sk_storage_delete",
    "send_signal",
    "tcp_gen_syncookie",
    "skb_output",
    "probe_read_user",
    "probe_read_kernel",
    "probe_read_user_str",
    "probe_read_kernel_str",
    "tcp_send_ack",
    "send_signal_thread",
    "jiffies64",
    "read_branch_records",
    "get_ns_current_pid_tgid",
    "xdp_output",
    "get_netns_cookie",
    "get_current_ancestor_cgroup_id",
    "sk_assign",
    "ktime_get_boot_ns",
    "seq_printf",
    "seq_write",
    "sk_cgroup_id",
    "sk_ancestor_cgroup_id",
    "ringbuf_output",
    "ringbuf_reserve",
    "ringbuf_submit",
    "ringbuf_discard",
    "ringbuf_query",
    "csum_level",
    "skc_to_tcp6_sock",
    "skc_to_tcp_sock",
    "skc_to_tcp_timewait_sock",
    "skc_to_tcp_request_sock",
    "skc_to_udp6_sock",
    "get_task_stack",
    "load_hdr_opt",
    "store_hdr_opt",
    "reserve_hdr_opt",
    "inode_storage_get",
    "inode_storage_delete",
    "d_path",
    "copy_from_user",
    "snprintf_btf",
    "seq_printf_btf",
    "skb_cgroup_classid",
    "redirect_neigh",
    "per_cpu_ptr",
    "this_cpu_ptr",
    "redirect_peer",
    "task_storage_get",
    "task_storage_delete",
    "get_current_task_btf",
    "bprm_opts_set",
    "ktime_get_coarse_ns",
    "ima_inode_hash",
    "sock_from_file",
    "check_mtu",
    "for_each_map_elem",
    "snprintf",
    "sys_bpf",
    "btf_find_by_name_kind",
    "sys_close",
    "timer_init",
    "timer_set_callback",
    "timer_start",
    "timer_cancel",
    "get_func_ip",
    "get_attach_cookie",
    "task_pt_regs",
    "get_branch_snapshot",
    "trace_vprintk",
    "skc_to_unix_sock",
    "kallsyms_lookup_name",
    "find_vma",
    "loop",
    "strncmp",
    "get_func_arg",
    "get_func_ret",
    "get_func_arg_cnt",
    "get_retval",
    "set_retval",
    "xdp_get_buff_len",
    "xdp_load_bytes",
    "xdp_store_bytes",
    "copy_from_user_task",
    "skb_set_tstamp",
    "ima_file_hash",
    "kptr_xchg",
    "map_lookup_percpu_elem",
    "skc_to_mptcp_sock",
    "dynptr_from_mem",
    "ringbuf_reserve_dynptr",
    "ringbuf_submit_dynptr",
    "ringbuf_discard_dynptr",
    "dynptr_read",
    "dynptr_write",
    "dynptr_data",
    "tcp_raw_gen_syncookie_ipv4",
    "tcp_raw_gen_syncookie_ipv6",
    "tcp_raw_check_syncookie_ipv4",
    "tcp_raw_check_syncookie_ipv6",
    "ktime_get_tai_ns",
    "user_ringbuf_drain",
    "cgrp_storage_get",
    "cgrp_storage_delete",
];

/// Helper numbers under their names, e.g. `func::MAP_LOOKUP_ELEM`.
pub mod func {
    pub const UNSPEC: i32 = 0;
    pub const MAP_LOOKUP_ELEM: i32 = 1;
    pub const MAP_UPDATE_ELEM: i32 = 2;
    pub const MAP_DELETE_ELEM: i32 = 3;
    pub const PROBE_READ: i32 = 4;
    pub const KTIME_GET_NS: i32 = 5;
    pub const TRACE_PRINTK: i32 = 6;
    pub const GET_PRANDOM_U32: i32 = 7;
    pub const GET_SMP_PROCESSOR_ID: i32 = 8;
    pub const SKB_STORE_BYTES: i32 = 9;
    pub const L3_CSUM_REPLACE: i32 = 10;
    pub const L4_CSUM_REPLACE: i32 = 11;
    pub const TAIL_CALL: i32 = 12;
    pub const CLONE_REDIRECT: i32 = 13;
    pub const GET_CURRENT_PID_TGID: i32 = 14;
    pub const GET_CURRENT_UID_GID: i32 = 15;
    pub const GET_CURRENT_COMM: i32 = 16;
    pub const GET_CGROUP_CLASSID: i32 = 17;
    pub const SKB_VLAN_PUSH: i32 = 18;
    pub const SKB_VLAN_POP: i32 = 19;
    pub const SKB_GET_TUNNEL_KEY: i32 = 20;
    pub const SKB_SET_TUNNEL_KEY: i32 = 21;
    pub const PERF_EVENT_READ: i32 = 22;
    pub const REDIRECT: i32 = 23;
    pub const GET_ROUTE_REALM: i32 = 24;
    pub const PERF_EVENT_OUTPUT: i32 = 25;
    pub const SKB_LOAD_BYTES: i32 = 26;
    pub const GET_STACKID: i32 = 27;
    pub const CSUM_DIFF: i32 = 28;
    pub const SKB_GET_TUNNEL_OPT: i32 = 29;
    pub const SKB_SET_TUNNEL_OPT: i32 = 30;
    pub const SKB_CHANGE_PROTO: i32 = 31;
    pub const SKB_CHANGE_TYPE: i32 = 32;
    pub const SKB_UNDER_CGROUP: i32 = 33;
    pub const GET_HASH_RECALC: i32 = 34;
    pub const GET_CURRENT_TASK: i32 = 35;
    pub const PROBE_WRITE_USER: i32 = 36;
    pub const CURRENT_TASK_UNDER_CGROUP: i32 = 37;
    pub const SKB_CHANGE_TAIL: i32 = 38;
    pub const SKB_PULL_DATA: i32 = 39;
    pub const CSUM_UPDATE: i32 = 40;
    pub const SET_HASH_INVALID: i32 = 41;
    pub const GET_NUMA_NODE_ID: i32 = 42;
    pub const SKB_CHANGE_HEAD: i32 = 43;
    pub const XDP_ADJUST_HEAD: i32 = 44;
    pub const PROBE_READ_STR: i32 = 45;
    pub const GET_SOCKET_COOKIE: i32 = 46;
    pub const GET_SOCKET_UID: i32 = 47;
    pub const SET_HASH: i32 = 48;
    pub const SETSOCKOPT: i32 = 49;
    pub const SKB_ADJUST_ROOM: i32 = 50;
    pub const REDIRECT_MAP: i32 = 51;
    pub const SK_REDIRECT_MAP: i32 = 52;
    pub const SOCK_MAP_UPDATE: i32 = 53;
    pub const XDP_ADJUST_META: i32 = 54;
    pub const PERF_EVENT_READ_VALUE: i32 = 55;
    pub const PERF_PROG_READ_VALUE: i32 = 56;
    pub const GETSOCKOPT: i32 = 57;
    pub const OVERRIDE_RETURN: i32 = 58;
    pub const SOCK_OPS_CB_FLAGS_SET: i32 = 59;
    pub const MSG_REDIRECT_MAP: i32 = 60;
    pub const MSG_APPLY_BYTES: i32 = 61;
    pub const MSG_CORK_BYTES: i32 = 62;
    pub const MSG_PULL_DATA: i32 = 63;
    pub const BIND: i32 = 64;
    pub const XDP_ADJUST_TAIL: i32 = 65;
    pub const SKB_GET_XFRM_STATE: i32 = 66;
    pub const GET_STACK: i32 = 67;
    pub const SKB_LOAD_BYTES_RELATIVE: i32 = 68;
    pub const FIB_LOOKUP: i32 = 69;
    pub const SOCK_HASH_UPDATE: i32 = 70;
    pub const MSG_REDIRECT_HASH: i32 = 71;
    pub const SK_REDIRECT_HASH: i32 = 72;
    pub const LWT_PUSH_ENCAP: i32 = 73;
    pub const LWT_SEG6_STORE_BYTES: i32 = 74;
    pub const LWT_SEG6_ADJUST_SRH: i32 = 75;
    pub const LWT_SEG6_ACTION: i32 = 76;
    pub const RC_REPEAT: i32 = 77;
    pub const RC_KEYDOWN: i32 = 78;
    pub const SKB_CGROUP_ID: i32 = 79;
    pub const GET_CURRENT_CGROUP_ID: i32 = 80;
    pub const GET_LOCAL_STORAGE: i32 = 81;
    pub const SK_SELECT_REUSEPORT: i32 = 82;
    pub const SKB_ANCESTOR_CGROUP_ID: i32 = 83;
    pub const SK_LOOKUP_TCP: i32 = 84;
    pub const SK_LOOKUP_UDP: i32 = 85;
    pub const SK_RELEASE: i32 = 86;
    pub const MAP_PUSH_ELEM: i32 = 87;
    pub const MAP_POP_ELEM: i32 = 88;
    pub const MAP_PEEK_ELEM: i32 = 89;
    pub const MSG_PUSH_DATA: i32 = 90;
    pub const MSG_POP_DATA: i32 = 91;
    pub const RC_POINTER_REL: i32 = 92;
    pub const SPIN_LOCK: i32 = 93;
    pub const SPIN_UNLOCK: i32 = 94;
    pub const SK_FULLSOCK: i32 = 95;
    pub const TCP_SOCK: i32 = 96;
    pub const SKB_ECN_SET_CE: i32 = 97;
    pub const GET_LISTENER_SOCK: i32 = 98;
    pub const SKC_LOOKUP_TCP: i32 = 99;
    pub const TCP_CHECK_SYNCOOKIE: i32 = 100;
    pub const SYSCTL_GET_NAME: i32 = 101;
    pub const SYSCTL_GET_CURRENT_VALUE: i32 = 102;
    pub const SYSCTL_GET_NEW_VALUE: i32 = 103;
    pub const SYSCTL_SET_NEW_VALUE: i32 = 104;
    pub const STRTOL: i32 = 105;
    pub const STRTOUL: i32 = 106;
    pub const SK_STORAGE_GET: i32 = 107;
    pub const SK_STORAGE_DELETE: i32 = 108;
    pub const SEND_SIGNAL: i32 = 109;
    pub const TCP_GEN_SYNCOOKIE: i32 = 110;
    pub const SKB_OUTPUT: i32 = 111;
    pub const PROBE_READ_USER: i32 = 112;
    pub const PROBE_READ_KERNEL: i32 = 113;
    pub const PROBE_READ_USER_STR: i32 = 114;
    pub const PROBE_READ_KERNEL_STR: i32 = 115;
    pub const TCP_SEND_ACK: i32 = 116;
    pub const SEND_SIGNAL_THREAD: i32 = 117;
    pub const JIFFIES64: i32 = 118;
    pub const READ_BRANCH_RECORDS: i32 = 119;
    pub const GET_NS_CURRENT_PID_TGID: i32 = 120;
    pub const XDP_OUTPUT: i32 = 121;
    pub const GET_NETNS_COOKIE: i32 = 122;
    pub const GET_CURRENT_ANCESTOR_CGROUP_ID: i32 = 123;
    pub const SK_ASSIGN: i32 = 124;
    pub const KTIME_GET_BOOT_NS: i32 = 125;
    pub const SEQ_PRINTF: i32 = 126;
    pub const SEQ_WRITE: i32 = 127;
    pub const SK_CGROUP_ID: i32 = 128;
    pub const SK_ANCESTOR_CGROUP_ID: i32 = 129;
    pub const RINGBUF_OUTPUT: i32 = 130;
    pub const RINGBUF_RESERVE: i32 = 131;
    pub const RINGBUF_SUBMIT: i32 = 132;
    pub const RINGBUF_DISCARD: i32 = 133;
    pub const RINGBUF_QUERY: i32 = 134;
    pub const CSUM_LEVEL: i32 = 135;
    pub const SKC_TO_TCP6_SOCK: i32 = 136;
    pub const SKC_TO_TCP_SOCK: i32 = 137;
    pub const SKC_TO_TCP_TIMEWAIT_SOCK: i32 = 138;
    pub const SKC_TO_TCP_REQUEST_SOCK: i32 = 139;
    pub const SKC_TO_UDP6_SOCK: i32 = 140;
    pub const GET_TASK_STACK: i32 = 141;
    pub const LOAD_HDR_OPT: i32 = 142;
    pub const STORE_HDR_OPT: i32 = 143;
    pub const RESERVE_HDR_OPT: i32 = 144;
    pub const INODE_STORAGE_GET: i32 = 145;
    pub const INODE_STORAGE_DELETE: i32 = 146;
    pub const D_PATH: i32 = 147;
    pub const COPY_FROM_USER: i32 = 148;
    pub const SNPRINTF_BTF: i32 = 149;
    pub const SEQ_PRINTF_BTF: i32 = 150;
    pub const SKB_CGROUP_CLASSID: i32 = 151;
    pub const REDIRECT_NEIGH: i32 = 152;
    pub const PER_CPU_PTR: i32 = 153;
    pub const THIS_CPU_PTR: i32 = 154;
    pub const REDIRECT_PEER: i32 = 155;
    pub const TASK_STORAGE_GET: i32 = 156;
    pub const TASK_STORAGE_DELETE: i32 = 157;
    pub const GET_CURRENT_TASK_BTF: i32 = 158;
    pub const BPRM_OPTS_SET: i32 = 159;
    pub const KTIME_GET_COARSE_NS: i32 = 160;
    pub const IMA_INODE_HASH: i32 = 161;
    pub const SOCK_FROM_FILE: i32 = 162;
    pub const CHECK_MTU: i32 = 163;
    pub const FOR_EACH_MAP_ELEM: i32 = 164;
    pub const SNPRINTF: i32 = 165;
    pub const SYS_BPF: i32 = 166;
    pub const BTF_FIND_BY_NAME_KIND: i32 = 167;
    pub const SYS_CLOSE: i32 = 168;
    pub const TIMER_INIT: i32 = 169;
    pub const TIMER_SET_CALLBACK: i32 = 170;
    pub const TIMER_START: i32 = 171;
    pub const TIMER_CANCEL: i32 = 172;
    pub const GET_FUNC_IP: i32 = 173;
    pub const GET_ATTACH_COOKIE: i32 = 174;
    pub const TASK_PT_REGS: i32 = 175;
    pub const GET_BRANCH_SNAPSHOT: i32 = 176;
    pub const TRACE_VPRINTK: i32 = 177;
    pub const SKC_TO_UNIX_SOCK: i32 = 178;
    pub const KALLSYMS_LOOKUP_NAME: i32 = 179;
    pub const FIND_VMA: i32 = 180;
    pub const LOOP: i32 = 181;
    pub const STRNCMP: i32 = 182;
    pub const GET_FUNC_ARG: i32 = 183;
    pub const GET_FUNC_RET: i32 = 184;
    pub const GET_FUNC_ARG_CNT: i32 = 185;
    pub const GET_RETVAL: i32 = 186;
    pub const SET_RETVAL: i32 = 187;
    pub const XDP_GET_BUFF_LEN: i32 = 188;
    pub const XDP_LOAD_BYTES: i32 = 189;
    pub const XDP_STORE_BYTES: i32 = 190;
    pub const COPY_FROM_USER_TASK: i32 = 191;
    pub const SKB_SET_TSTAMP: i32 = 192;
    pub const IMA_FILE_HASH: i32 = 193;
    pub const KPTR_XCHG: i32 = 194;
    pub const MAP_LOOKUP_PERCPU_ELEM: i32 = 195;
    pub const SKC_TO_MPTCP_SOCK: i32 = 196;
    pub const DYNPTR_FROM_MEM: i32 = 197;
    pub const RINGBUF_RESERVE_DYNPTR: i32 = 198;
    pub const RINGBUF_SUBMIT_DYNPTR: i32 = 199;
    pub const RINGBUF_DISCARD_DYNPTR: i32 = 200;
    pub const DYNPTR_READ: i32 = 201;
    pub const DYNPTR_WRITE: i32 = 202;
    pub const DYNPTR_DATA: i32 = 203;
    pub const TCP_RAW_GEN_SYNCOOKIE_IPV4: i32 = 204;
    pub const TCP_RAW_GEN_SYNCOOKIE_IPV6: i32 = 205;
    pub const TCP_RAW_CHECK_SYNCOOKIE_IPV4: i32 = 206;
    pub const TCP_RAW_CHECK_SYNCOOKIE_IPV6: i32 = 207;
    pub const KTIME_GET_TAI_NS: i32 = 208;
    pub const USER_RINGBUF_DRAIN: i32 = 209;
    pub const CGRP_STORAGE_GET: i32 = 210;
    pub const CGRP_STORAGE_DELETE: i32 = 211;
}
