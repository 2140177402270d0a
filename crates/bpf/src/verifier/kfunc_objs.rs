//! Objects that kernel functions work on: iterators and saved interrupt flags on the stack, lists and
//! trees of allocated objects.

use uapi::Errno;

use super::btfx;
use super::env::{Env, Res};
use super::kfunc_call::KfuncCall;
use super::kfuncs::kf;
use super::mem::Access;
use super::refs::SlotError;
use super::reg::{BtfRef, IterState, Payload, Reg};
use super::state::{SlotType, StackSlot, ref_type};
use super::types::{RegType, flag};
use crate::btf::{Btf, TypeId};
use crate::maps::FieldKind;

/// Why an object on the stack is not usable.
enum Unusable {
    NotOne,
    /// An iterator that was made outside the RCU section it needs.
    OutsideRcu,
}

impl<'a> Env<'a> {
    /// No slot holds an object of the kind, or the stack there was never touched.
    fn slots_free(&mut self, reg: &Reg, what: &str, slots: usize, kind: SlotType) -> bool {
        match self.object_spi(reg, what, slots as i32) {
            Err(SlotError::Range) => true,
            Err(SlotError::Invalid) => false,
            Ok(spi) => {
                let stack = &self.func(reg).stack;
                stack[spi + 1 - slots..=spi].iter().all(|s| !s.types.contains(&kind))
            }
        }
    }

    /// The slot of an object about to be made there.
    fn slot_for(&mut self, reg: &Reg, what: &str, slots: usize) -> Res<usize> {
        self.object_spi(reg, what, slots as i32).map_err(|e| match e {
            SlotError::Invalid => Errno::EINVAL,
            SlotError::Range => Errno::ERANGE,
        })
    }

    pub(super) fn kfunc_iter(&mut self, i: usize, call: &mut KfuncCall, btf: &'a Btf) -> Res {
        let regno = i + 1;
        let reg = *self.reg(regno);
        if reg.ty != RegType::STACK {
            return self
                .fail(Errno::EINVAL, format_args!("arg#{i} expected pointer to an iterator on stack\n"));
        }
        let ty = super::kfunc_args::pointee(btf, call.kf.params[i].1)
            .filter(|t| btfx::is_struct(btf, *t) && btfx::name(btf, *t).starts_with("bpf_iter_"));
        let Some(ty) = ty else {
            return self.fail(Errno::EINVAL, format_args!("expected valid iter pointer as arg #{i}\n"));
        };
        if call.kf.name == "bpf_iter_css_task_new" && !self.cur.in_sleepable {
            return self.fail(
                Errno::EINVAL,
                format_args!("css_task_iter is only allowed in bpf_lsm, bpf_iter and sleepable progs\n"),
            );
        }
        let slots = btfx::size(btf, ty).unwrap_or(0) as usize / 8;
        if call.kf.has(kf::ITER_NEW) {
            return self.new_iter(i, &reg, ty, slots, call);
        }
        let spi = match self.iter_valid(&reg, ty, slots) {
            Ok(spi) => spi,
            Err(Unusable::NotOne) => {
                let name = self.iter_name(BtfRef::Kernel, ty.0).to_owned();
                return self
                    .fail(Errno::EINVAL, format_args!("expected an initialized iter_{name} as arg #{i}\n"));
            }
            Err(Unusable::OutsideRcu) => {
                let name = &call.kf.name;
                return self.fail(Errno::EPROTO, format_args!("expected an RCU CS when using {name}\n"));
            }
        };
        self.mark_object_read(&reg, spi, slots);
        call.iter = Some((reg.frameno, spi));
        call.ref_obj_id = self.func(&reg).stack[spi].reg.ref_obj_id;
        if call.kf.has(kf::ITER_DESTROY) {
            self.release(call.ref_obj_id);
            self.wipe_slots(&reg, spi, slots);
        }
        Ok(())
    }

    fn wipe_slots(&mut self, reg: &Reg, spi: usize, slots: usize) {
        for at in spi + 1 - slots..=spi {
            self.func_mut(reg).stack[at] = StackSlot { reg: Reg::NOT_INIT, types: [SlotType::Invalid; 8] };
            self.live_mark_write(reg.frameno, 1 << at);
            self.scratched_slots |= 1 << at;
        }
    }

    fn new_iter(&mut self, i: usize, reg: &Reg, ty: TypeId, slots: usize, call: &KfuncCall) -> Res {
        if !self.slots_free(reg, "iter", slots, SlotType::Iter) {
            let name = self.iter_name(BtfRef::Kernel, ty.0).to_owned();
            return self
                .fail(Errno::EINVAL, format_args!("expected uninitialized iter_{name} as arg #{i}\n"));
        }
        for off in (0..slots as i32 * 8).step_by(8) {
            self.check_mem(i + 1, off, 8, Access::Write, None, false, false)?;
        }
        let spi = self.slot_for(reg, "iter", slots)?;
        let id = self.acquire(self.insn_idx);
        let guard = match (call.kf.has(kf::RCU_PROTECTED), self.in_rcu_cs()) {
            (false, _) => 0,
            (true, true) => flag::MEM_RCU,
            (true, false) => flag::PTR_UNTRUSTED,
        };
        for n in 0..slots {
            let pl = Payload::Iter { btf: BtfRef::Kernel, id: ty.0, state: IterState::Active, depth: 0 };
            let mut r = Reg::pointer(RegType::STACK.with(guard), pl);
            r.ref_obj_id = if n == 0 { id } else { 0 };
            self.func_mut(reg).stack[spi - n] = StackSlot { reg: r, types: [SlotType::Iter; 8] };
            self.live_mark_write(reg.frameno, 1 << (spi - n));
            self.scratched_slots |= 1 << (spi - n);
        }
        Ok(())
    }

    fn iter_valid(&mut self, reg: &Reg, ty: TypeId, slots: usize) -> Result<usize, Unusable> {
        let spi = self.object_spi(reg, "iter", slots as i32).map_err(|_| Unusable::NotOne)?;
        for n in 0..slots {
            let slot = &self.func(reg).stack[spi - n];
            if slot.reg.ty.has(flag::PTR_UNTRUSTED) {
                return Err(Unusable::OutsideRcu);
            }
            let is_iter = matches!(slot.reg.pl, Payload::Iter { id, .. } if id == ty.0);
            if !is_iter || (n == 0) != (slot.reg.ref_obj_id != 0) || slot.types != [SlotType::Iter; 8] {
                return Err(Unusable::NotOne);
            }
        }
        Ok(spi)
    }

    /// An iterator's next element: there may be one, or it is drained.
    ///
    /// Kernel: `kernel/bpf/verifier.c process_iter_next_call`, v6.18.
    pub(super) fn iter_next(&mut self, call: &KfuncCall) -> Res {
        let Some((frame, spi)) = call.iter else {
            return self.bug(format_args!("no iterator of an iter_next call"));
        };
        let frame = frame as usize;
        let Payload::Iter { state, .. } = self.cur.frames[frame].stack[spi].reg.pl else {
            return self.bug(format_args!("unexpected iterator state"));
        };
        if state == IterState::Active {
            let idx = self.insn_idx;
            let here = self
                .cur
                .parent
                .and_then(|p| self.states[p.0 as usize].as_ref())
                .is_some_and(|sl| sl.state.insn_idx == idx && sl.state.same_callsites(&self.cur));
            if !here {
                return self.bug(format_args!("bad parent state for iter next call"));
            }
            let prev = self.find_prev_entry(self.cur.parent, idx);
            self.push_state(idx + 1, idx)?;
            let n = self.pending.len() - 1;
            if let Payload::Iter { depth, .. } = &mut self.pending[n].state.frames[frame].stack[spi].reg.pl {
                *depth += 1;
            }
            if let Some(p) = prev {
                self.widen_pending(p)?;
            }
            let mut r0 = self.pending[n].state.frame().regs[0];
            self.mark_not_null(&mut r0);
            self.pending[n].state.frame_mut().regs[0] = r0;
        }
        if let Payload::Iter { state, .. } = &mut self.cur.frames[frame].stack[spi].reg.pl {
            *state = IterState::Drained;
        }
        *self.reg_mut(0) = Reg::scalar(0);
        Ok(())
    }

    pub(super) fn kfunc_irq_flag(&mut self, i: usize, call: &KfuncCall) -> Res {
        let reg = *self.reg(i + 1);
        let name = call.kf.name.as_str();
        let lock = name.starts_with("bpf_res_spin_");
        if matches!(name, "bpf_local_irq_save" | "bpf_res_spin_lock_irqsave") {
            if !self.slots_free(&reg, "irq_flag", 1, SlotType::IrqFlag) {
                return self
                    .fail(Errno::EINVAL, format_args!("expected uninitialized irq flag as arg#{i}\n"));
            }
            self.check_mem(i + 1, 0, 8, Access::Write, None, false, false)?;
            let spi = self.slot_for(&reg, "irq_flag", 1)?;
            let id = self.acquire_irq(self.insn_idx);
            self.live_mark_write(reg.frameno, 1 << spi);
            let mut r = Reg::pointer(RegType::STACK, Payload::Irq { lock });
            r.ref_obj_id = id;
            self.func_mut(&reg).stack[spi] = StackSlot { reg: r, types: [SlotType::IrqFlag; 8] };
            self.scratched_slots |= 1 << spi;
            return Ok(());
        }
        let spi = self.object_spi(&reg, "irq_flag", 1).ok().filter(|spi| {
            let s = &self.func(&reg).stack[*spi];
            s.reg.ref_obj_id != 0 && s.types == [SlotType::IrqFlag; 8]
        });
        let Some(spi) = spi else {
            return self.fail(Errno::EINVAL, format_args!("expected an initialized irq flag as arg#{i}\n"));
        };
        self.mark_object_read(&reg, spi, 1);
        self.restore_irq(&reg, spi, lock)
    }

    fn restore_irq(&mut self, reg: &Reg, spi: usize, lock: bool) -> Res {
        let slot = self.func(reg).stack[spi].reg;
        let saved_by_lock = matches!(slot.pl, Payload::Irq { lock: true });
        let text = |lock: bool| if lock { "lock" } else { "native" };
        if saved_by_lock != lock {
            let (by, with) = (text(saved_by_lock), text(lock));
            return self.fail(
                Errno::EINVAL,
                format_args!("irq flag acquired by {by} kfuncs cannot be restored with {with} kfuncs\n"),
            );
        }
        if !self.release_irq(slot.ref_obj_id) {
            let id = self.cur.active_irq_id;
            let at = self.cur.refs.iter().find(|r| r.id == id).map_or(0, |r| r.insn_idx);
            return self.fail(
                Errno::EACCES,
                format_args!(
                    "cannot restore irq state out of order, expected id={id} acquired at insn_idx={at}\n"
                ),
            );
        }
        self.wipe_slots(reg, spi, 1);
        Ok(())
    }

    /// The object lies under the lock that is held.
    fn allocation_locked(&mut self, reg: &Reg) -> Res<bool> {
        if reg.ty != RegType::MAP_VALUE && reg.ty != RegType::BTF_ID.with(flag::MEM_ALLOC) {
            self.bug::<()>(format_args!("unknown reg type for lock check"))?;
        }
        if self.cur.active_locks == 0 {
            return Ok(false);
        }
        let place = self.lock_place(reg);
        if !self.find_lock(ref_type::LOCK_MASK, reg.id, place) {
            self.say(format_args!("held lock and object are not in the same allocation\n"));
            return Ok(false);
        }
        Ok(true)
    }

    /// A list's head or a tree's root.
    pub(super) fn kfunc_graph_root(&mut self, i: usize, kind: FieldKind, call: &mut KfuncCall) -> Res {
        let regno = i + 1;
        let reg = *self.reg(regno);
        let alloc = reg.ty == RegType::BTF_ID.with(flag::MEM_ALLOC);
        if reg.ty != RegType::MAP_VALUE && !alloc {
            return self.fail(
                Errno::EINVAL,
                format_args!("arg#{i} expected pointer to map value or allocated object\n"),
            );
        }
        if alloc && reg.ref_obj_id == 0 {
            return self.fail(Errno::EINVAL, format_args!("allocated object must be referenced\n"));
        }
        let what = kind.text();
        if !reg.var_off.is_const() {
            return self.fail(
                Errno::EINVAL,
                format_args!(
                    "R{regno} doesn't have constant offset. {what} has to be at the constant offset\n"
                ),
            );
        }
        let rec = self.reg_record(&reg).unwrap_or_default();
        let off = reg.off.wrapping_add(reg.var_off.value as i32);
        let Some(field) = rec.at(off, kind) else {
            return self.fail(Errno::EINVAL, format_args!("{what} not found at offset={}\n", off as u32));
        };
        if !self.allocation_locked(&reg).unwrap_or(false) {
            let lock = rec.offset_of(FieldKind::SpinLock).map_or(-22, i64::from);
            return self
                .fail(Errno::EINVAL, format_args!("bpf_spin_lock at off={lock} must be held for {what}\n"));
        }
        call.root = Some(field.clone());
        Ok(())
    }

    /// A node of a list or tree.
    pub(super) fn kfunc_graph_node(&mut self, i: usize, kind: FieldKind, call: &mut KfuncCall) -> Res {
        let regno = i + 1;
        let reg = *self.reg(regno);
        let name = call.kf.name.as_str();
        if kind == FieldKind::ListNode || name == "bpf_rbtree_add_impl" {
            if reg.ty != RegType::BTF_ID.with(flag::MEM_ALLOC) {
                return self
                    .fail(Errno::EINVAL, format_args!("arg#{i} expected pointer to allocated object\n"));
            }
            if reg.ref_obj_id == 0 {
                return self.fail(Errno::EINVAL, format_args!("allocated object must be referenced\n"));
            }
        } else {
            if !reg.ty.is_non_owning_ref() && reg.ref_obj_id == 0 {
                return self.fail(
                    Errno::EINVAL,
                    format_args!("{name} can only take non-owning or refcounted bpf_rb_node pointer\n"),
                );
            }
            if self.in_rbtree_cb() {
                return self.fail(Errno::EINVAL, format_args!("{name} not allowed in rbtree cb\n"));
            }
        }
        let what = kind.text();
        if !reg.var_off.is_const() {
            return self.fail(
                Errno::EINVAL,
                format_args!(
                    "R{regno} doesn't have constant offset. {what} has to be at the constant offset\n"
                ),
            );
        }
        let off = reg.off.wrapping_add(reg.var_off.value as i32);
        if self.reg_record(&reg).is_none_or(|r| r.at(off, kind).is_none()) {
            return self.fail(Errno::EINVAL, format_args!("{what} not found at offset={}\n", off as u32));
        }
        self.node_fits_root(&reg, off, kind, call)
    }

    fn node_fits_root(&mut self, reg: &Reg, off: i32, kind: FieldKind, call: &mut KfuncCall) -> Res {
        let Some(root) = call.root.clone() else {
            return self.bug(format_args!("graph node without a graph root"));
        };
        let target = root.target.unwrap_or((BtfRef::Program, 0));
        let (at, what) = (root.node_offset, kind.text());
        let holder = self.btf_name(target.0, target.1).to_owned();
        let have = reg.btf();
        if !self.struct_matches(have, 0, target, true) {
            let have = self.btf_name(have.0, have.1).to_owned();
            let list = root.kind.text();
            return self.fail(
                Errno::EINVAL,
                format_args!(
                    "operation on {list} expects arg#1 {what} at offset={at} in struct {holder}, but arg is at \
                     offset={off} in struct {have}\n"
                ),
            );
        }
        call.obj = Some(have);
        if i64::from(off) != i64::from(at) {
            return self.fail(
                Errno::EINVAL,
                format_args!("arg#1 offset={off}, but expected {what} at offset={at} in struct {holder}\n"),
            );
        }
        Ok(())
    }

    /// After insertion into a list or tree the program only borrows the object.
    pub(super) fn lend_to_graph(&mut self, id: u32) -> Res {
        if id == 0 {
            return self.bug(format_args!("ref_obj_id is zero for owning -> non-owning conversion"));
        }
        if !self.cur.refs.iter().any(|r| r.id == id) {
            return self.bug(format_args!("ref state missing for ref_obj_id"));
        }
        let mut st = std::mem::take(&mut self.cur);
        st.change_regs(
            |r| r.ref_obj_id == id,
            |r| {
                r.ref_obj_id = 0;
                self.borrow_node(r);
            },
        );
        self.cur = st;
        self.release(id);
        Ok(())
    }

    /// Makes a pointer one that is valid only while the lock is held.
    pub(super) fn borrow_node(&self, r: &mut Reg) {
        let rcu = self.reg_record(r).is_some_and(|rec| rec.has(FieldKind::Refcount));
        r.ty = r.ty.with(flag::NON_OWN_REF | if rcu { flag::MEM_RCU } else { 0 });
    }
}
