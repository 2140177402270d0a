//! What the kernel offers to XDP programs and this engine does not, with the reason: [`absent_helper`] and
//! [`absent_kfunc`].

use uapi::bpf::func;

const TASKS: &str = "it is about the kernel's tasks, of which there are none here";
const CGROUPS: &str = "it is about control groups, of which there are none here";
const PERF: &str = "it reads counters of the CPU, which belong to the kernel";
const KERNEL_SOCKET: &str = "it gives out the kernel's own struct of a socket";
const KERNEL_TYPES: &str = "it is about the kernel's own variables and types";
const SLEEPS: &str = "it may sleep, and XDP programs may not";
const OBJECTS: &str = "allocated objects, and lists, trees and pointers of them in maps, are not there yet";
const FLOWTABLE: &str = "there are no flow tables here";
const CRYPTO: &str = "contexts for it are made by the kernel";
const KEYS: &str = "there are no keyrings here";
const WORK: &str = "work queues and task work run in the kernel";
const KMEM: &str = "it is about the kernel's memory";
const NOT_XDP: &str = "no XDP program has the context that it takes";
const TRAP: &str = "compilers put it where a program must not come";

/// Why there is no helper of this number, where the kernel has one for XDP programs.
#[must_use]
pub fn absent_helper(number: i32) -> Option<&'static str> {
    Some(match number {
        func::PERF_EVENT_READ | func::PERF_EVENT_READ_VALUE => PERF,
        func::CURRENT_TASK_UNDER_CGROUP | func::CGRP_STORAGE_GET | func::CGRP_STORAGE_DELETE => CGROUPS,
        func::GET_CURRENT_TASK
        | func::GET_CURRENT_TASK_BTF
        | func::GET_TASK_STACK
        | func::TASK_STORAGE_GET
        | func::TASK_STORAGE_DELETE
        | func::TASK_PT_REGS
        | func::FIND_VMA => TASKS,
        func::SKC_TO_TCP6_SOCK
        | func::SKC_TO_TCP_SOCK
        | func::SKC_TO_TCP_TIMEWAIT_SOCK
        | func::SKC_TO_TCP_REQUEST_SOCK
        | func::SKC_TO_UDP6_SOCK
        | func::SKC_TO_UNIX_SOCK
        | func::SKC_TO_MPTCP_SOCK => KERNEL_SOCKET,
        func::COPY_FROM_USER | func::COPY_FROM_USER_TASK => SLEEPS,
        func::SNPRINTF_BTF | func::PER_CPU_PTR | func::THIS_CPU_PTR => KERNEL_TYPES,
        func::KPTR_XCHG => OBJECTS,
        _ => return None,
    })
}

/// Why there is no kernel function of this name, where the kernel has one for XDP programs.
#[must_use]
pub fn absent_kfunc(name: &str) -> Option<&'static str> {
    ABSENT_KFUNCS.iter().find(|(_, names)| names.contains(&name)).map(|(reason, _)| *reason)
}

const ABSENT_KFUNCS: &[(&str, &[&str])] = &[
    (TRAP, &["__bpf_trap"]),
    (
        SLEEPS,
        &[
            "bpf_arena_alloc_pages",
            "bpf_arena_free_pages",
            "bpf_arena_reserve_pages",
            "bpf_copy_from_user_dynptr",
            "bpf_copy_from_user_str",
            "bpf_copy_from_user_str_dynptr",
            "bpf_copy_from_user_task_dynptr",
            "bpf_copy_from_user_task_str",
            "bpf_copy_from_user_task_str_dynptr",
            "bpf_iter_dmabuf_destroy",
            "bpf_iter_dmabuf_new",
            "bpf_iter_dmabuf_next",
            "bpf_iter_kmem_cache_destroy",
            "bpf_iter_kmem_cache_new",
            "bpf_iter_kmem_cache_next",
        ],
    ),
    (
        CGROUPS,
        &[
            "bpf_cgroup_acquire",
            "bpf_cgroup_ancestor",
            "bpf_cgroup_from_id",
            "bpf_cgroup_read_xattr",
            "bpf_cgroup_release",
            "bpf_iter_css_destroy",
            "bpf_iter_css_new",
            "bpf_iter_css_next",
            "bpf_iter_css_task_destroy",
            "bpf_iter_css_task_new",
            "bpf_iter_css_task_next",
        ],
    ),
    (
        TASKS,
        &[
            "bpf_iter_task_destroy",
            "bpf_iter_task_new",
            "bpf_iter_task_next",
            "bpf_iter_task_vma_destroy",
            "bpf_iter_task_vma_new",
            "bpf_iter_task_vma_next",
            "bpf_send_signal_task",
            "bpf_task_acquire",
            "bpf_task_from_pid",
            "bpf_task_from_vpid",
            "bpf_task_get_cgroup1",
            "bpf_task_release",
            "bpf_task_under_cgroup",
        ],
    ),
    (
        WORK,
        &[
            "bpf_task_work_schedule_resume_impl",
            "bpf_task_work_schedule_signal_impl",
            "bpf_wq_init",
            "bpf_wq_set_callback_impl",
            "bpf_wq_start",
        ],
    ),
    (CRYPTO, &["bpf_crypto_decrypt", "bpf_crypto_encrypt"]),
    (FLOWTABLE, &["bpf_xdp_flow_lookup"]),
    (KEYS, &["bpf_key_put", "bpf_lookup_system_key", "bpf_lookup_user_key"]),
    (
        OBJECTS,
        &[
            "bpf_list_back",
            "bpf_list_front",
            "bpf_list_pop_back",
            "bpf_list_pop_front",
            "bpf_list_push_back_impl",
            "bpf_list_push_front_impl",
            "bpf_obj_drop_impl",
            "bpf_obj_new_impl",
            "bpf_percpu_obj_drop_impl",
            "bpf_percpu_obj_new_impl",
            "bpf_rbtree_add_impl",
            "bpf_rbtree_first",
            "bpf_rbtree_left",
            "bpf_rbtree_remove",
            "bpf_rbtree_right",
            "bpf_rbtree_root",
            "bpf_refcount_acquire_impl",
        ],
    ),
    (KMEM, &["bpf_get_kmem_cache"]),
    (NOT_XDP, &["bpf_modify_return_test_tp", "bpf_skb_ct_alloc", "bpf_skb_ct_lookup"]),
];
