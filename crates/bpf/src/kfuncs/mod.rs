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

const KFUNCS: &[(&str, HelperFn)] = &[
    ("bpf_cast_to_kern_ctx", xdp::cast_to_kern_ctx),
    ("bpf_dynptr_adjust", dynptr::adjust),
    ("bpf_dynptr_clone", dynptr::clone),
    ("bpf_dynptr_copy", dynptr::copy),
    ("bpf_dynptr_from_xdp", dynptr::from_xdp),
    ("bpf_dynptr_is_null", dynptr::is_null),
    ("bpf_dynptr_is_rdonly", dynptr::is_rdonly),
    ("bpf_dynptr_memset", dynptr::memset),
    ("bpf_dynptr_size", dynptr::size),
    ("bpf_dynptr_slice", dynptr::slice),
    ("bpf_dynptr_slice_rdwr", dynptr::slice_rdwr),
    ("bpf_iter_bits_destroy", iter::bits_destroy),
    ("bpf_iter_bits_new", iter::bits_new),
    ("bpf_iter_bits_next", iter::bits_next),
    ("bpf_iter_num_destroy", iter::num_destroy),
    ("bpf_iter_num_new", iter::num_new),
    ("bpf_iter_num_next", iter::num_next),
    ("bpf_local_irq_restore", critical::local_irq_restore),
    ("bpf_local_irq_save", critical::local_irq_save),
    ("bpf_map_sum_elem_count", crate::helpers::sum_elem_count),
    ("bpf_preempt_disable", critical::nothing),
    ("bpf_preempt_enable", critical::nothing),
    ("bpf_rcu_read_lock", critical::nothing),
    ("bpf_rcu_read_unlock", critical::nothing),
    ("bpf_rdonly_cast", xdp::rdonly_cast),
    ("bpf_strcasecmp", string::strcasecmp),
    ("bpf_strchr", string::strchr),
    ("bpf_strchrnul", string::strchrnul),
    ("bpf_strcmp", string::strcmp),
    ("bpf_strcspn", string::strcspn),
    ("bpf_strlen", string::strlen),
    ("bpf_strnchr", string::strnchr),
    ("bpf_strnlen", string::strnlen),
    ("bpf_strnstr", string::strnstr),
    ("bpf_strrchr", string::strrchr),
    ("bpf_strspn", string::strspn),
    ("bpf_strstr", string::strstr),
    ("bpf_xdp_metadata_rx_hash", xdp::rx_hash),
    ("bpf_xdp_metadata_rx_timestamp", xdp::rx_timestamp),
    ("bpf_xdp_metadata_rx_vlan_tag", xdp::rx_vlan_tag),
    ("bpf_xdp_pull_data", xdp::pull_data),
];
