//! Calls of kernel functions.
//!
//! Kernel: `kernel/bpf/verifier.c check_kfunc_call`, v6.18.

use std::rc::Rc;

use uapi::Errno;

use super::btfx;
use super::callbacks::Callback;
use super::env::{Env, Res};
use super::kfuncs::{Kfunc, kf};
use super::mem::CallMeta;
use super::record::Field;
use super::reg::{BtfRef, DynptrType, Payload, Reg};
use super::state::{SlotType, StackSlot};
use super::types::{RegType, flag};
use crate::btf::{Btf, Kind, TypeId};
use crate::insn::Insn;

/// Largest error number that a function returns.
const MAX_ERRNO: i32 = 4095;
/// Largest per-CPU object that a program may allocate.
const MAX_PERCPU_OBJ: u32 = 512;

/// What has been learnt of a call so far.
pub(super) struct KfuncCall {
    pub(super) kf: Rc<Kfunc>,
    pub(super) meta: CallMeta,
    pub(super) ref_obj_id: u32,
    pub(super) release_regno: usize,
    /// Size of the memory that is returned.
    pub(super) r0_size: u32,
    pub(super) r0_rdonly: bool,
    pub(super) constant: Option<u64>,
    pub(super) owning_ref: bool,
    /// Type of an allocated object among the arguments.
    pub(super) obj: Option<(BtfRef, u32)>,
    /// The list's head or the tree's root among them.
    pub(super) root: Option<Field>,
    /// Identity, kind and reference of a dynptr among them.
    pub(super) dynptr: Option<(u32, DynptrType, u32)>,
    /// Frame and slot of an iterator among them.
    pub(super) iter: Option<(u32, usize)>,
}

impl<'a> Env<'a> {
    pub(super) fn check_kfunc_call(&mut self, insn: &Insn) -> Res {
        let Some(kf) = self.kfunc_of(insn).cloned() else { return Ok(()) };
        let (Some(btf), true) = (self.input.kernel_btf, kf.id != 0) else { return Ok(()) };
        let name = kf.name.as_str();
        if !kf.allowed {
            return self.fail(Errno::EACCES, format_args!("calling kernel function {name} is not allowed\n"));
        }
        self.cur_aux().is_iter_next = kf.is_iter_next();
        match name {
            "bpf_res_spin_lock" | "bpf_res_spin_lock_irqsave" => self.fork_failed_lock()?,
            "__bpf_trap" => {
                return self.fail(
                    Errno::EFAULT,
                    format_args!("unexpected __bpf_trap() due to uninitialized variable?\n"),
                );
            }
            _ => {}
        }
        if kf.sleepable() && !self.cur.in_sleepable {
            return self.fail(
                Errno::EACCES,
                format_args!("program must be sleepable to call sleepable kfunc {name}\n"),
            );
        }
        let mut call = KfuncCall {
            kf: Rc::clone(&kf),
            meta: CallMeta::default(),
            ref_obj_id: 0,
            release_regno: 0,
            r0_size: 0,
            r0_rdonly: false,
            constant: None,
            owning_ref: false,
            obj: None,
            root: None,
            dynptr: None,
            iter: None,
        };
        self.check_kfunc_args(&mut call, btf)?;
        self.kfunc_callback(insn, &call)?;
        self.kfunc_regions(&kf)?;
        self.kfunc_release(&call)?;
        if matches!(name, "bpf_list_push_front_impl" | "bpf_list_push_back_impl" | "bpf_rbtree_add_impl") {
            let id = self.reg(2).ref_obj_id;
            self.lend_to_graph(id)?;
        }
        if name == "bpf_throw" {
            self.seen_exception = true;
            if self.exception_cb == 0 {
                self.check_return_code(1, "R1")?;
            }
        }
        self.clear_caller_saved();
        self.kfunc_result(&call, btf)?;
        if kf.changes_pkt_data() {
            self.clear_pkt_pointers();
        }
        if kf.is_iter_next() {
            self.iter_next(&call)?;
        }
        Ok(())
    }

    /// The path on which the lock could not be taken.
    fn fork_failed_lock(&mut self) -> Res {
        let idx = self.insn_idx;
        let regs = &mut self.push_state(idx + 1, idx)?.frame_mut().regs;
        for r in 0..6 {
            regs[r] = Reg::NOT_INIT;
        }
        let mut r = Reg::UNKNOWN;
        (r.s32_min, r.s32_max) = (-MAX_ERRNO, -1);
        (r.smin, r.smax) = (i64::from(-MAX_ERRNO), -1);
        r.bounds_sync();
        regs[0] = r;
        Ok(())
    }

    fn kfunc_callback(&mut self, insn: &Insn, call: &KfuncCall) -> Res {
        let kind = match call.kf.name.as_str() {
            n if n.starts_with("bpf_rbtree_add") => Callback::RbtreeAdd,
            n if n.starts_with("bpf_wq_set_callback") => Callback::Timer,
            n if n.starts_with("bpf_task_work_schedule_") => Callback::TaskWork,
            _ => return Ok(()),
        };
        let out = self.push_callback(insn, &call.meta, kind);
        if let Err(e) = out {
            let (name, id) = (&call.kf.name, call.kf.id);
            return self.fail(e, format_args!("kfunc {name}#{id} failed callback verification\n"));
        }
        Ok(())
    }

    /// Sections that the call begins or ends, and those it must not or must be made in.
    fn kfunc_regions(&mut self, kf: &Kfunc) -> Res {
        let name = kf.name.as_str();
        let sleepable = kf.sleepable();
        self.rcu_section(name, sleepable)?;
        match name {
            "bpf_preempt_disable" => self.cur.active_preempt_locks += 1,
            "bpf_preempt_enable" if self.cur.active_preempt_locks == 0 => {
                return self.fail(
                    Errno::EINVAL,
                    format_args!("unmatched attempt to enable preemption (kernel function {name})\n"),
                );
            }
            "bpf_preempt_enable" => self.cur.active_preempt_locks -= 1,
            _ if sleepable && self.cur.active_preempt_locks != 0 => {
                return self.fail(
                    Errno::EACCES,
                    format_args!("kernel func {name} is sleepable within non-preemptible region\n"),
                );
            }
            _ => {}
        }
        if sleepable && self.cur.active_irq_id != 0 {
            return self.fail(
                Errno::EACCES,
                format_args!("kernel func {name} is sleepable within IRQ-disabled region\n"),
            );
        }
        if kf.has(kf::RCU_PROTECTED) && !self.in_rcu_cs() {
            return self.fail(
                Errno::EACCES,
                format_args!("kernel func {name} requires RCU critical section protection\n"),
            );
        }
        Ok(())
    }

    fn rcu_section(&mut self, name: &str, sleepable: bool) -> Res {
        let (lock, unlock) = (name == "bpf_rcu_read_lock", name == "bpf_rcu_read_unlock");
        if self.cur.active_rcu_locks == 0 {
            if unlock {
                return self.fail(
                    Errno::EINVAL,
                    format_args!("unmatched rcu read unlock (kernel function {name})\n"),
                );
            }
            self.cur.active_rcu_locks = u32::from(lock);
            return Ok(());
        }
        if (lock || unlock) && self.in_rbtree_cb() {
            return self.fail(
                Errno::EACCES,
                format_args!("Calling bpf_rcu_read_{{lock,unlock}} in unnecessary rbtree callback\n"),
            );
        }
        if lock {
            return self.fail(Errno::EINVAL, format_args!("nested rcu read lock (kernel function {name})\n"));
        }
        if unlock {
            self.cur.active_rcu_locks = 0;
            self.end_rcu_section();
        } else if sleepable {
            return self.fail(
                Errno::EACCES,
                format_args!("kernel func {name} is sleepable within rcu_read_lock region\n"),
            );
        }
        Ok(())
    }

    /// Pointers that the section protected are no longer trusted.
    fn end_rcu_section(&mut self) {
        let protected = |r: &Reg| r.ty.has(flag::MEM_RCU);
        let distrust = |r: &mut Reg| {
            r.ty = r.ty.without(flag::MEM_RCU | flag::PTR_MAYBE_NULL).with(flag::PTR_UNTRUSTED);
        };
        self.cur.change_regs(protected, distrust);
        for f in &mut self.cur.frames {
            let iterator = |s: &StackSlot| s.types[0] == SlotType::Iter && protected(&s.reg);
            f.stack.change(iterator, |s| distrust(&mut s.reg));
        }
    }

    fn kfunc_release(&mut self, call: &KfuncCall) -> Res {
        if call.release_regno == 0 {
            return Ok(());
        }
        let reg = *self.reg(call.release_regno);
        if call.dynptr.is_some_and(|(_, _, id)| id != 0) {
            return self.unmark_dynptr(&reg);
        }
        if !self.release(reg.ref_obj_id) {
            let (name, id) = (&call.kf.name, call.kf.id);
            return self.fail(
                Errno::EINVAL,
                format_args!("kfunc {name}#{id} reference has not been acquired before\n"),
            );
        }
        Ok(())
    }

    fn kfunc_result(&mut self, call: &KfuncCall, btf: &'a Btf) -> Res {
        let name = call.kf.name.as_str();
        let t = btfx::skip_modifiers(btf, call.kf.ret);
        let target = super::kfunc_args::pointee(btf, t);
        let acquires = call.kf.has(kf::ACQUIRE);
        let makes_own =
            matches!(name, "bpf_obj_new_impl" | "bpf_percpu_obj_new_impl" | "bpf_refcount_acquire_impl");
        if acquires && !makes_own && !target.is_some_and(|t| btfx::is_struct(btf, t)) {
            return self.fail(
                Errno::EINVAL,
                format_args!("acquire kernel function does not return PTR_TO_BTF_ID\n"),
            );
        }
        let Some(target) = target else {
            if btfx::is_scalar(btf, t) {
                let locked = matches!(name, "bpf_res_spin_lock" | "bpf_res_spin_lock_irqsave");
                *self.reg_mut(0) = if locked { Reg::scalar(0) } else { Reg::UNKNOWN };
            }
            return Ok(());
        };
        let mut r0 = match self.special_result(call, target, btf)? {
            Some(r) => r,
            None => self.pointer_result(call, target, btf)?,
        };
        let ret_null = call.kf.has(kf::RET_NULL) && !(name == "bpf_refcount_acquire_impl" && call.owning_ref);
        if ret_null {
            r0.ty = r0.ty.with(flag::PTR_MAYBE_NULL);
            r0.id = self.new_id();
        }
        let node = matches!(btfx::name(btf, target), "bpf_rb_node" | "bpf_list_node");
        if acquires {
            let id = self.acquire(self.insn_idx);
            if ret_null {
                r0.id = id;
            }
            r0.ref_obj_id = id;
        } else if node {
            self.borrow_node(&mut r0);
        }
        if r0.id == 0 && self.may_point_to_spin_lock(&r0) {
            r0.id = self.new_id();
        }
        *self.reg_mut(0) = r0;
        Ok(())
    }

    fn pointer_result(&mut self, call: &KfuncCall, target: TypeId, btf: &'a Btf) -> Res<Reg> {
        let name = call.kf.name.as_str();
        if matches!(btfx::kind(btf, target), Kind::Void) {
            return Ok(Reg::UNKNOWN);
        }
        if matches!(btfx::kind(btf, target), Kind::Struct { .. } | Kind::Union { .. }) {
            let iter = call.iter.filter(|_| call.kf.is_iter_next());
            let rcu_iter =
                iter.map(|(f, spi)| self.cur.frames[f as usize].stack[spi].reg.ty.has(flag::MEM_RCU));
            let trust = match rcu_iter {
                _ if name == "bpf_get_kmem_cache" => flag::PTR_UNTRUSTED,
                _ if call.kf.has(kf::RCU_PROTECTED) => flag::MEM_RCU,
                Some(true) => flag::MEM_RCU,
                Some(false) => flag::PTR_TRUSTED,
                None => 0,
            };
            let pl = Payload::Btf { btf: BtfRef::Kernel, id: target.0 };
            return Ok(Reg::pointer(RegType::BTF_ID.with(trust), pl));
        }
        let (mut size, mut rdonly) = (call.r0_size, call.r0_rdonly);
        if size == 0 {
            size = btfx::size(btf, target).unwrap_or(0);
            rdonly = true;
        }
        if size == 0 {
            let (kind, tname) = (btfx::kind_text(btf, target), btfx::name(btf, target));
            return self.fail(
                Errno::EINVAL,
                format_args!("kernel function {name} returns pointer type {kind} {tname} is not supported\n"),
            );
        }
        let mut ty = RegType::MEM;
        if rdonly {
            ty = ty.with(flag::MEM_RDONLY);
        }
        if call.kf.has(kf::RCU_PROTECTED) {
            ty = ty.with(flag::MEM_RCU);
        }
        let mut r = Reg::pointer(ty, Payload::Mem { size, dynptr_id: 0 });
        r.ref_obj_id = call.ref_obj_id;
        Ok(r)
    }

    /// Results whose type depends on the arguments.
    fn special_result(&mut self, call: &KfuncCall, target: TypeId, btf: &'a Btf) -> Res<Option<Reg>> {
        let alloc = RegType::BTF_ID.with(flag::MEM_ALLOC);
        Ok(Some(match call.kf.name.as_str() {
            "bpf_obj_new_impl" | "bpf_percpu_obj_new_impl" => self.new_object(call)?,
            "bpf_refcount_acquire_impl" => {
                let (btf, id) = call.obj.unwrap_or((BtfRef::Program, 0));
                Reg::pointer(alloc, Payload::Btf { btf, id })
            }
            _ if matches!(btfx::name(btf, target), "bpf_list_node" | "bpf_rb_node") => {
                let Some(root) = &call.root else {
                    return self.bug(format_args!("graph node without a graph root"));
                };
                let (btf, id) = root.target.unwrap_or((BtfRef::Program, 0));
                let mut r = Reg::pointer(alloc, Payload::Btf { btf, id });
                r.off = root.node_offset as i32;
                r
            }
            "bpf_cast_to_kern_ctx" => {
                let Some(id) = btfx::find_struct(btf, "xdp_buff") else { return Err(Errno::EINVAL) };
                let pl = Payload::Btf { btf: BtfRef::Kernel, id };
                Reg::pointer(RegType::BTF_ID.with(flag::PTR_TRUSTED), pl)
            }
            "bpf_rdonly_cast" => self.rdonly_cast(call.constant.unwrap_or(0), btf)?,
            name @ ("bpf_dynptr_slice" | "bpf_dynptr_slice_rdwr") => {
                let (Some(size), Some((id, ty, _))) = (call.constant, call.dynptr) else {
                    return self.bug(format_args!("bpf_dynptr_slice(_rdwr) no constant size"));
                };
                let rdonly = if name == "bpf_dynptr_slice" { flag::MEM_RDONLY } else { 0 };
                let ty = RegType::MEM.with(ty.to_flag() | rdonly);
                Reg::pointer(ty, Payload::Mem { size: size as u32, dynptr_id: id })
            }
            _ => return Ok(None),
        }))
    }

    fn rdonly_cast(&mut self, id: u64, btf: &'a Btf) -> Res<Reg> {
        let Some(id32) = u32::try_from(id).ok().filter(|i| (*i as usize) < btf.types().len()) else {
            return self.fail(
                Errno::EINVAL,
                format_args!("Unknown type ID {} passed to kfunc bpf_rdonly_cast\n", id as i64),
            );
        };
        match btfx::kind(btf, TypeId(id32)) {
            Kind::Struct { .. } | Kind::Union { .. } => {
                let pl = Payload::Btf { btf: BtfRef::Kernel, id: id32 };
                Ok(Reg::pointer(RegType::BTF_ID.with(flag::PTR_UNTRUSTED), pl))
            }
            Kind::Void => {
                let ty = RegType::MEM.with(flag::MEM_RDONLY | flag::PTR_UNTRUSTED);
                Ok(Reg::pointer(ty, Payload::Mem { size: 0, dynptr_id: 0 }))
            }
            _ => self.fail(
                Errno::EINVAL,
                format_args!("kfunc bpf_rdonly_cast type ID argument must be of a struct or void\n"),
            ),
        }
    }

    /// `bpf_obj_new`: an object of one of the program's own structs.
    fn new_object(&mut self, call: &KfuncCall) -> Res<Reg> {
        let percpu = call.kf.name == "bpf_percpu_obj_new_impl";
        let Ok(id) = u32::try_from(call.constant.unwrap_or(0)) else {
            return self
                .fail(Errno::EINVAL, format_args!("local type ID argument must be in range [0, U32_MAX]\n"));
        };
        let Some(btf) = self.input.btf else {
            return self
                .fail(Errno::EINVAL, format_args!("bpf_obj_new/bpf_percpu_obj_new requires prog BTF\n"));
        };
        let Kind::Struct { size, .. } = btfx::kind(btf, TypeId(id)) else {
            return self.fail(
                Errno::EINVAL,
                format_args!("bpf_obj_new/bpf_percpu_obj_new type ID argument must be of a struct\n"),
            );
        };
        let mut ty = RegType::BTF_ID.with(flag::MEM_ALLOC);
        if percpu {
            ty = ty.with(flag::MEM_PERCPU);
            if *size > MAX_PERCPU_OBJ {
                return self.fail(
                    Errno::EINVAL,
                    format_args!("bpf_percpu_obj_new type size ({size}) is greater than {MAX_PERCPU_OBJ}\n"),
                );
            }
            if !self.scalar_struct(btf, TypeId(id), 0) {
                return self.fail(
                    Errno::EINVAL,
                    format_args!("bpf_percpu_obj_new type ID argument must be of a struct of scalars\n"),
                );
            }
            if self.struct_record(id).is_some() {
                return self.fail(
                    Errno::EINVAL,
                    format_args!("bpf_percpu_obj_new type ID argument must not contain special fields\n"),
                );
            }
        }
        Ok(Reg::pointer(ty, Payload::Btf { btf: BtfRef::Program, id }))
    }

    /// Whether the call may be made while a lock is held.
    pub(super) fn kfunc_under_lock(&self, insn: &Insn) -> bool {
        const FAMILIES: [&str; 7] = [
            "bpf_list_",
            "bpf_rbtree_",
            "bpf_refcount_acquire",
            "bpf_iter_num_",
            "bpf_res_spin_",
            "bpf_arena_",
            "bpf_stream_",
        ];
        self.kfunc_of(insn).is_some_and(|k| FAMILIES.iter().any(|f| k.name.starts_with(f)))
    }
}
