//! Kernel functions that XDP programs may call, with their flags.

use super::kfuncs::kf;

/// Flags of a kfunc that XDP programs may call; `None` for any other name.
pub(crate) fn flags(name: &str) -> Option<u32> {
    TABLE.iter().find(|(n, _)| *n == name).map(|(_, f)| *f)
}

static TABLE: &[(&str, u32)] = &[
    ("bpf_rcu_read_lock", 0),
    ("bpf_rcu_read_unlock", 0),
    ("bpf_iter_num_new", kf::ITER_NEW),
    ("bpf_iter_num_next", kf::ITER_NEXT | kf::RET_NULL),
    ("bpf_iter_num_destroy", kf::ITER_DESTROY),
];
