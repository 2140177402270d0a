//! The kfuncs: functions of the kernel that programs call by name.
//!
//! [`kfunc`] finds them. They are written as the helpers are ([`crate::helpers`]), grouped in files by
//! subject. `bpf_throw` is not among them: the engines unwind the program's frames themselves.

mod critical;
mod dynptr;
mod iter;
mod string;
#[cfg(test)]
mod tests;
mod xdp;

use crate::vm::HelperFn;

/// The kfunc of a name; `None` for one that does not exist, that an XDP program may not call, or that has
/// no meaning outside of a kernel.
#[must_use]
pub fn kfunc(name: &str) -> Option<HelperFn> {
    KFUNCS.iter().find(|(known, _)| *known == name).map(|(_, kfunc)| *kfunc)
}

/// A kfunc that returns `int`: the upper half of the register is zero, where a helper's is the sign.
macro_rules! int {
    ($kfunc:path) => {
        |run, args| $kfunc(run, args).map(|value| value & 0xffff_ffff)
    };
}

const KFUNCS: &[(&str, HelperFn)] = &[
    ("bpf_cast_to_kern_ctx", xdp::cast_to_kern_ctx),
    ("bpf_dynptr_adjust", int!(dynptr::adjust)),
    ("bpf_dynptr_clone", int!(dynptr::clone)),
    ("bpf_dynptr_copy", int!(dynptr::copy)),
    ("bpf_dynptr_from_xdp", int!(dynptr::from_xdp)),
    ("bpf_dynptr_is_null", dynptr::is_null),
    ("bpf_dynptr_is_rdonly", dynptr::is_rdonly),
    ("bpf_dynptr_memset", int!(dynptr::memset)),
    ("bpf_dynptr_size", int!(dynptr::size)),
    ("bpf_dynptr_slice", dynptr::slice),
    ("bpf_dynptr_slice_rdwr", dynptr::slice_rdwr),
    ("bpf_iter_bits_destroy", iter::bits_destroy),
    ("bpf_iter_bits_new", int!(iter::bits_new)),
    ("bpf_iter_bits_next", iter::bits_next),
    ("bpf_iter_num_destroy", iter::num_destroy),
    ("bpf_iter_num_new", int!(iter::num_new)),
    ("bpf_iter_num_next", iter::num_next),
    ("bpf_local_irq_restore", critical::local_irq_restore),
    ("bpf_local_irq_save", critical::local_irq_save),
    ("bpf_map_sum_elem_count", crate::helpers::sum_elem_count),
    ("bpf_preempt_disable", critical::nothing),
    ("bpf_preempt_enable", critical::nothing),
    ("bpf_rcu_read_lock", critical::nothing),
    ("bpf_rcu_read_unlock", critical::nothing),
    ("bpf_rdonly_cast", xdp::rdonly_cast),
    ("bpf_strcasecmp", int!(string::strcasecmp)),
    ("bpf_strchr", int!(string::strchr)),
    ("bpf_strchrnul", int!(string::strchrnul)),
    ("bpf_strcmp", int!(string::strcmp)),
    ("bpf_strcspn", int!(string::strcspn)),
    ("bpf_strlen", int!(string::strlen)),
    ("bpf_strnchr", int!(string::strnchr)),
    ("bpf_strnlen", int!(string::strnlen)),
    ("bpf_strnstr", int!(string::strnstr)),
    ("bpf_strrchr", int!(string::strrchr)),
    ("bpf_strspn", int!(string::strspn)),
    ("bpf_strstr", int!(string::strstr)),
    ("bpf_xdp_metadata_rx_hash", int!(xdp::rx_hash)),
    ("bpf_xdp_metadata_rx_timestamp", int!(xdp::rx_timestamp)),
    ("bpf_xdp_metadata_rx_vlan_tag", int!(xdp::rx_vlan_tag)),
    ("bpf_xdp_pull_data", int!(xdp::pull_data)),
];
