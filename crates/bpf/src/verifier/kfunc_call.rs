//! Calls of kernel functions.

use uapi::Errno;

use super::env::{Env, Res};
use crate::insn::Insn;

impl Env<'_> {
    pub(super) fn check_kfunc_call(&mut self, insn: &Insn) -> Res {
        let Some(k) = self.kfunc_of(insn).cloned() else { return Ok(()) };
        self.fail(Errno::EACCES, format_args!("calling kernel function {} is not allowed\n", k.name))
    }

    /// Whether the call may be made while a lock is held.
    pub(super) fn kfunc_under_lock(&self, insn: &Insn) -> bool {
        self.kfunc_of(insn).is_some_and(|k| {
            let n = k.name.as_str();
            n.starts_with("bpf_list_")
                || n.starts_with("bpf_rbtree_")
                || n.starts_with("bpf_refcount_acquire")
                || n.starts_with("bpf_iter_num_")
                || n.starts_with("bpf_res_spin_")
                || n.starts_with("bpf_arena_")
                || n.starts_with("bpf_stream_")
        })
    }
}
