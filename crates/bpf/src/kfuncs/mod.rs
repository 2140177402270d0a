//! The kfuncs: functions of the kernel that programs call by name.
//!
//! [`kfunc`] finds them. They are written as the helpers are ([`crate::helpers`]), grouped in files by
//! subject. `bpf_throw` is not among them: the engines unwind the program's frames themselves.

mod conntrack;
mod critical;
mod dynptr;
mod iter;
mod probe;
mod res_spin;
pub(crate) mod served;
mod string;
#[cfg(test)]
mod tests;
mod xdp;
mod xfrm;

pub use conntrack::{Connection, Conntrack, Tuple, Zone};

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
    ("bpf_ct_change_status", int!(conntrack::change_status)),
    ("bpf_ct_change_timeout", int!(conntrack::change_timeout)),
    ("bpf_ct_insert_entry", conntrack::insert_entry),
    ("bpf_ct_release", conntrack::release),
    ("bpf_ct_set_nat_info", int!(conntrack::set_nat_info)),
    ("bpf_ct_set_status", int!(conntrack::change_status)),
    ("bpf_ct_set_timeout", conntrack::set_timeout),
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
    ("bpf_probe_read_kernel_dynptr", int!(probe::kernel)),
    ("bpf_probe_read_kernel_str_dynptr", int!(probe::kernel_str)),
    ("bpf_probe_read_user_dynptr", int!(probe::user)),
    ("bpf_probe_read_user_str_dynptr", int!(probe::user)),
    ("bpf_rcu_read_lock", critical::nothing),
    ("bpf_rcu_read_unlock", critical::nothing),
    ("bpf_rdonly_cast", xdp::rdonly_cast),
    // The verifier takes their errors for 64-bit numbers.
    ("bpf_res_spin_lock", res_spin::lock),
    ("bpf_res_spin_lock_irqsave", res_spin::lock_irqsave),
    ("bpf_res_spin_unlock", res_spin::unlock),
    ("bpf_res_spin_unlock_irqrestore", res_spin::unlock_irqrestore),
    ("bpf_strcasecmp", int!(string::strcasecmp)),
    ("bpf_strchr", int!(string::strchr)),
    ("bpf_strchrnul", int!(string::strchrnul)),
    ("bpf_strcmp", int!(string::strcmp)),
    ("bpf_strcspn", int!(string::strcspn)),
    ("bpf_stream_vprintk_impl", int!(crate::helpers::stream_vprintk)),
    ("bpf_strlen", int!(string::strlen)),
    ("bpf_strnchr", int!(string::strnchr)),
    ("bpf_strnlen", int!(string::strnlen)),
    ("bpf_strnstr", int!(string::strnstr)),
    ("bpf_strrchr", int!(string::strrchr)),
    ("bpf_strspn", int!(string::strspn)),
    ("bpf_strstr", int!(string::strstr)),
    ("bpf_xdp_ct_alloc", conntrack::alloc),
    ("bpf_xdp_ct_lookup", conntrack::lookup),
    ("bpf_xdp_get_xfrm_state", xfrm::get_state),
    ("bpf_xdp_metadata_rx_hash", int!(xdp::rx_hash)),
    ("bpf_xdp_metadata_rx_timestamp", int!(xdp::rx_timestamp)),
    ("bpf_xdp_metadata_rx_vlan_tag", int!(xdp::rx_vlan_tag)),
    ("bpf_xdp_pull_data", int!(xdp::pull_data)),
    ("bpf_xdp_xfrm_state_release", xfrm::release),
];
