//! Kernel functions that a program calls: what their BTF and the kernel's flags say of them.

use std::rc::Rc;

use uapi::Errno;

use super::btfx;
use super::env::{Env, Res};
use super::reg::Reg;
use crate::btf::TypeId;
use crate::insn::Insn;

/// Flags of a kfunc (`KF_*`).
pub(crate) mod kf {
    pub(crate) const ACQUIRE: u32 = 1 << 0;
    pub(crate) const RELEASE: u32 = 1 << 1;
    pub(crate) const RET_NULL: u32 = 1 << 2;
    pub(crate) const TRUSTED_ARGS: u32 = 1 << 4;
    pub(crate) const SLEEPABLE: u32 = 1 << 5;
    pub(crate) const RCU: u32 = 1 << 7;
    pub(crate) const ITER_NEW: u32 = 1 << 8;
    pub(crate) const ITER_NEXT: u32 = 1 << 9;
    pub(crate) const ITER_DESTROY: u32 = 1 << 10;
    pub(crate) const RCU_PROTECTED: u32 = 1 << 11;
    pub(crate) const FASTCALL: u32 = 1 << 12;
}

/// A kernel function as the program's call sees it.
#[derive(Clone, Debug)]
pub(crate) struct Kfunc {
    pub(crate) name: String,
    /// `FUNC` in the kernel's BTF, 0 if it is not there.
    pub(crate) id: u32,
    pub(crate) flags: u32,
    /// XDP programs may call it.
    pub(crate) allowed: bool,
    pub(crate) params: Vec<(String, TypeId)>,
    pub(crate) ret: TypeId,
}

impl Kfunc {
    pub(crate) fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    /// One of the functions of an open-coded iterator.
    pub(crate) fn is_iter(&self) -> bool {
        self.has(kf::ITER_NEW | kf::ITER_NEXT | kf::ITER_DESTROY)
    }

    pub(crate) fn is_iter_next(&self) -> bool {
        self.allowed && self.has(kf::ITER_NEXT)
    }

    pub(crate) fn sleepable(&self) -> bool {
        self.allowed && self.has(kf::SLEEPABLE)
    }

    pub(crate) fn changes_pkt_data(&self) -> bool {
        self.name == "bpf_xdp_pull_data"
    }

    pub(crate) fn is_sync_callback(&self) -> bool {
        self.name == "bpf_rbtree_add_impl"
    }

    pub(crate) fn is_async_callback(&self) -> bool {
        matches!(
            self.name.as_str(),
            "bpf_wq_set_callback_impl"
                | "bpf_wq_set_callback"
                | "bpf_task_work_schedule_signal_impl"
                | "bpf_task_work_schedule_resume_impl"
                | "bpf_task_work_schedule_signal"
                | "bpf_task_work_schedule_resume"
        )
    }
}

impl Env<'_> {
    /// The kfunc that an instruction calls.
    pub(super) fn kfunc_of(&self, insn: &Insn) -> Option<&Rc<Kfunc>> {
        if !insn.is_kfunc_call() {
            return None;
        }
        usize::try_from(insn.imm).ok().and_then(|i| self.kfuncs.get(i))
    }

    pub(super) fn is_unresolved_kfunc(&self, insn: &Insn) -> bool {
        self.kfunc_of(insn).is_some_and(|k| k.id == 0)
    }

    /// Looks up a called kfunc when the program's functions are found.
    pub(super) fn add_kfunc_call(&mut self, insn: &Insn) -> Res {
        if !self.input.gpl {
            return self.fail(
                Errno::EINVAL,
                format_args!("cannot call kernel function from non-GPL compatible program\n"),
            );
        }
        let Some(wanted) = usize::try_from(insn.imm).ok().and_then(|i| self.input.kfuncs.get(i)) else {
            return self.fail(Errno::EINVAL, format_args!("kernel btf_id {} is not a function\n", insn.imm));
        };
        if self.input.kernel_btf.is_none() && !wanted.weak {
            return self.fail(
                Errno::ENOTSUPP,
                format_args!("calling kernel function is not supported without CONFIG_DEBUG_INFO_BTF\n"),
            );
        }
        let dev_bound = self.input.prog_flags & uapi::bpf::BPF_F_XDP_DEV_BOUND_ONLY != 0;
        if !dev_bound && wanted.name.starts_with("bpf_xdp_metadata_rx_") {
            return self.fail(Errno::EINVAL, format_args!("metadata kfuncs require device-bound program\n"));
        }
        Ok(())
    }

    /// All kfuncs that the program names, in its own numbering.
    pub(super) fn resolve_kfuncs(&self) -> Vec<Rc<Kfunc>> {
        self.input
            .kfuncs
            .iter()
            .map(|r| {
                let found = self.input.kernel_btf.and_then(|b| Some((b, btfx::find_func(b, &r.name)?)));
                let (id, params, ret) = match found {
                    Some((b, id)) => {
                        let (p, ret) = btfx::params(b, TypeId(id)).unwrap_or_default();
                        (id, p, ret)
                    }
                    None => (0, Vec::new(), TypeId(0)),
                };
                let known = super::kfunc_table::flags(&r.name);
                Rc::new(Kfunc {
                    name: r.name.clone(),
                    id,
                    flags: known.unwrap_or(0),
                    allowed: known.is_some(),
                    params,
                    ret,
                })
            })
            .collect()
    }

    /// The function that handles thrown exceptions, by its declaration tag on the main function.
    pub(super) fn exception_callback_insn(&mut self) -> Res<Option<u32>> {
        let (Some(btf), Some(main)) = (self.input.btf, self.input.subprogs.first().and_then(|s| s.btf))
        else {
            return Ok(None);
        };
        let mut tags = btfx::decl_tags(btf, main, -1).filter_map(|t| t.strip_prefix("exception_callback:"));
        let Some(name) = tags.next() else { return Ok(None) };
        if tags.next().is_some() {
            return self
                .fail(Errno::EEXIST, format_args!("multiple exception callback tags for main subprog\n"));
        }
        let Some(id) = btfx::find_func(btf, name) else {
            return self.fail(
                Errno::ENOENT,
                format_args!("exception callback '{name}' could not be found in BTF\n"),
            );
        };
        let global = matches!(
            btfx::kind(btf, TypeId(id)),
            crate::btf::Kind::Func { linkage: crate::btf::Linkage::Global, .. }
        );
        if !global {
            return self
                .fail(Errno::EINVAL, format_args!("exception callback '{name}' must have global linkage\n"));
        }
        match self.input.subprogs.iter().find(|s| s.btf == Some(TypeId(id))) {
            Some(s) if s.start != 0 => Ok(Some(s.start)),
            Some(_) => self
                .fail(Errno::EINVAL, format_args!("invalid exception callback insn_off in func_info: 0\n")),
            None => {
                self.fail(Errno::EINVAL, format_args!("exception callback type id not found in func_info\n"))
            }
        }
    }

    /// Whether the frame is a callback of a tree insertion, under the tree's lock.
    pub(super) fn in_rbtree_cb(&self) -> bool {
        let f = self.cur.frame();
        f.in_callback
            && usize::try_from(f.callsite)
                .ok()
                .and_then(|c| self.insns.get(c))
                .is_some_and(|i| self.kfunc_of(i).is_some_and(|k| k.name.starts_with("bpf_rbtree_")))
    }

    /// A node as the comparison function of a tree insertion sees it.
    pub(super) fn rbtree_callback_node(&mut self, root: &Reg) -> Res<Reg> {
        let off = root.off.wrapping_add(root.var_off.value as i32);
        let rec = self.reg_record(root).unwrap_or_default();
        let Some(f) = rec.at(off, crate::maps::FieldKind::RbRoot).filter(|f| f.target.is_some()) else {
            return Err(Errno::EFAULT);
        };
        Ok(self.graph_node(f))
    }

    /// A borrowed reference to a node of a list or tree.
    pub(super) fn graph_node(&self, root: &super::record::Field) -> Reg {
        use super::types::{RegType, flag};
        let (btf, id) = root.target.unwrap_or((super::reg::BtfRef::Program, 0));
        let rcu = self.struct_record(id).is_some_and(|r| r.has(crate::maps::FieldKind::Refcount));
        let flags = flag::MEM_ALLOC | flag::NON_OWN_REF | if rcu { flag::MEM_RCU } else { 0 };
        let mut r = Reg::pointer(RegType::BTF_ID.with(flags), super::reg::Payload::Btf { btf, id });
        r.off = root.node_offset as i32;
        r
    }
}
