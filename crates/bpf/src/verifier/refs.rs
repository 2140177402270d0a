//! What is held: references, locks, regions. And dynptrs on the stack, some of which hold one.

use uapi::Errno;

use super::alu::Use;
use super::env::{Env, Res};
use super::mem::{Access, CallMeta};
use super::reg::{DynptrType, Payload, Reg};
use super::stack::spi_of;
use super::state::{LockPlace, REG_SIZE, RefState, SlotType, StackSlot, ref_type};
use super::types::{ArgType, RegType, flag};
use crate::maps::FieldKind;

/// How a lock function is used.
#[derive(Clone, Copy)]
pub(crate) struct LockUse {
    pub(crate) lock: bool,
    pub(crate) resilient: bool,
    pub(crate) irq: bool,
}

/// Where an object on the stack lies, or why it cannot.
pub(crate) enum SlotError {
    Invalid,
    /// The stack there was never touched.
    Range,
}

impl Env<'_> {
    pub(super) fn acquire(&mut self, insn: u32) -> u32 {
        let id = self.new_id();
        self.cur.refs.push(RefState { ty: ref_type::PTR, id, insn_idx: insn, place: LockPlace::None });
        id
    }

    /// Gives a reference back without touching registers. `false`: it is not held.
    pub(super) fn release_nomark(&mut self, id: u32) -> bool {
        let Some(i) = self.cur.refs.iter().position(|r| r.ty == ref_type::PTR && r.id == id) else {
            return false;
        };
        self.cur.refs.remove(i);
        true
    }

    /// Gives a reference back; pointers to the object become plain numbers.
    pub(super) fn release(&mut self, id: u32) -> bool {
        if !self.release_nomark(id) {
            return false;
        }
        self.cur.change_regs(|r| r.ref_obj_id == id, |r| *r = Reg::UNKNOWN);
        true
    }

    pub(super) fn acquire_irq(&mut self, insn: u32) -> u32 {
        let id = self.new_id();
        self.cur.refs.push(RefState { ty: ref_type::IRQ, id, insn_idx: insn, place: LockPlace::None });
        self.cur.active_irq_id = id;
        id
    }

    /// Interrupt states are restored in the reverse order of saving. `false`: this is not the last.
    pub(super) fn release_irq(&mut self, id: u32) -> bool {
        if id != self.cur.active_irq_id {
            return false;
        }
        let mut prev = 0;
        for i in 0..self.cur.refs.len() {
            let r = self.cur.refs[i];
            if r.ty != ref_type::IRQ {
                continue;
            }
            if r.id == id {
                self.cur.refs.remove(i);
                self.cur.active_irq_id = prev;
                return true;
            }
            prev = r.id;
        }
        false
    }

    pub(super) fn find_lock(&self, ty: u8, id: u32, place: LockPlace) -> bool {
        self.cur.refs.iter().any(|r| r.ty & ty != 0 && r.id == id && r.place == place)
    }

    fn release_lock(&mut self, ty: u8, id: u32, place: LockPlace) -> bool {
        let (mut prev_id, mut prev_place) = (0, None);
        for i in 0..self.cur.refs.len() {
            let r = self.cur.refs[i];
            if r.ty == ty && r.id == id && r.place == place {
                self.cur.refs.remove(i);
                self.cur.active_locks -= 1;
                self.cur.active_lock_id = prev_id;
                self.cur.active_lock_place = prev_place;
                return true;
            }
            if r.ty & ref_type::LOCK_MASK != 0 {
                prev_id = r.id;
                prev_place = Some(r.place);
            }
        }
        false
    }

    pub(super) fn invalidate_non_owning(&mut self) {
        self.cur.change_regs(|r| r.ty.is_non_owning_ref(), |r| *r = Reg::UNKNOWN);
    }

    /// What lock a register's object counts as.
    pub(super) fn lock_place(&self, r: &Reg) -> LockPlace {
        if r.ty == RegType::MAP_VALUE { LockPlace::Map(r.map() as u32) } else { LockPlace::ProgramBtf }
    }

    pub(super) fn process_spin_lock(&mut self, regno: usize, how: LockUse) -> Res {
        let reg = *self.reg(regno);
        let name = if how.resilient { "bpf_res_spin" } else { "bpf_spin" };
        if !reg.var_off.is_const() {
            return self.fail(
                Errno::EINVAL,
                format_args!(
                    "R{regno} doesn't have constant offset. {name}_lock has to be at the constant offset\n"
                ),
            );
        }
        let map = (reg.ty == RegType::MAP_VALUE).then(|| self.maps[reg.map()].def);
        if let Some(m) = map
            && !m.has_btf
        {
            return self.fail(
                Errno::EINVAL,
                format_args!("map '{}' has to have BTF in order to use {name}_lock\n", m.name),
            );
        }
        let kind = if how.resilient { FieldKind::ResSpinLock } else { FieldKind::SpinLock };
        let Some(field_off) = self.reg_record(&reg).and_then(|r| r.offset_of(kind)) else {
            let (what, which) = map.map_or(("local", "kptr"), |m| ("map", m.name.as_str()));
            return self.fail(Errno::EINVAL, format_args!("{what} '{which}' has no valid {name}_lock\n"));
        };
        let off = (reg.var_off.value as i64).wrapping_add(i64::from(reg.off));
        if i64::from(field_off) != off {
            return self.fail(
                Errno::EINVAL,
                format_args!("off {off} doesn't point to 'struct {name}_lock' that is at {field_off}\n"),
            );
        }
        let ty = match (how.resilient, how.irq) {
            (true, true) => ref_type::RES_LOCK_IRQ,
            (true, false) => ref_type::RES_LOCK,
            _ => ref_type::LOCK,
        };
        let place = self.lock_place(&reg);
        if how.lock {
            self.take_lock(ty, reg.id, place, how)
        } else {
            self.give_lock(ty, reg.id, place, name)
        }
    }

    fn take_lock(&mut self, ty: u8, id: u32, place: LockPlace, how: LockUse) -> Res {
        if self.cur.active_locks != 0 {
            if !how.resilient && self.cur.refs.iter().any(|r| r.ty == ref_type::LOCK) {
                return self
                    .fail(Errno::EINVAL, format_args!("Locking two bpf_spin_locks are not allowed\n"));
            }
            if how.resilient && self.find_lock(ref_type::RES_LOCK | ref_type::RES_LOCK_IRQ, id, place) {
                return self.fail(
                    Errno::EINVAL,
                    format_args!("Acquiring the same lock again, AA deadlock detected\n"),
                );
            }
        }
        let insn_idx = self.insn_idx;
        self.cur.refs.push(RefState { ty, id, insn_idx, place });
        self.cur.active_locks += 1;
        self.cur.active_lock_id = id;
        self.cur.active_lock_place = Some(place);
        Ok(())
    }

    fn give_lock(&mut self, ty: u8, id: u32, place: LockPlace, name: &str) -> Res {
        if self.cur.active_locks == 0 {
            return self.fail(Errno::EINVAL, format_args!("{name}_unlock without taking a lock\n"));
        }
        if !self.find_lock(ty, id, place) {
            return self.fail(Errno::EINVAL, format_args!("{name}_unlock of different lock\n"));
        }
        if id != self.cur.active_lock_id || Some(place) != self.cur.active_lock_place {
            return self.fail(Errno::EINVAL, format_args!("{name}_unlock cannot be out of order\n"));
        }
        if !self.release_lock(ty, id, place) {
            return self.fail(Errno::EINVAL, format_args!("{name}_unlock of different lock\n"));
        }
        self.invalidate_non_owning();
        Ok(())
    }

    /// Nothing may be held here.
    pub(super) fn check_resource_leak(&mut self, exception: bool, check_lock: bool, what: &str) -> Res {
        if check_lock && self.cur.active_locks != 0 {
            return self
                .fail(Errno::EINVAL, format_args!("{what} cannot be used inside bpf_spin_lock-ed region\n"));
        }
        if exception || self.cur.curframe() == 0 {
            let mut lingering = false;
            for i in 0..self.cur.refs.len() {
                let r = self.cur.refs[i];
                if r.ty == ref_type::PTR {
                    self.say(format_args!("Unreleased reference id={} alloc_insn={}\n", r.id, r.insn_idx));
                    lingering = true;
                }
            }
            if lingering {
                return self.fail(Errno::EINVAL, format_args!("{what} would lead to reference leak\n"));
            }
        }
        let held = [
            (self.cur.active_irq_id, "bpf_local_irq_save-ed"),
            (self.cur.active_rcu_locks, "bpf_rcu_read_lock-ed"),
            (self.cur.active_preempt_locks, "bpf_preempt_disable-ed"),
        ];
        for (n, region) in held {
            if check_lock && n != 0 {
                return self
                    .fail(Errno::EINVAL, format_args!("{what} cannot be used inside {region} region\n"));
            }
        }
        Ok(())
    }

    /// Slot of an object that a stack pointer points to.
    pub(super) fn object_spi(&mut self, reg: &Reg, what: &str, slots: i32) -> Result<usize, SlotError> {
        if !reg.var_off.is_const() {
            self.say(format_args!("{what} has to be at a constant offset\n"));
            return Err(SlotError::Invalid);
        }
        let off = reg.off.wrapping_add(reg.var_off.value as i32);
        let spi = spi_of(off);
        if off % REG_SIZE != 0 || spi + 1 < slots {
            self.say(format_args!("cannot pass in {what} at an offset={off}\n"));
            return Err(SlotError::Invalid);
        }
        let frame = self.func(reg);
        if spi - slots + 1 < 0 || spi as usize >= frame.stack.len() {
            return Err(SlotError::Range);
        }
        Ok(spi as usize)
    }

    pub(super) fn dynptr_spi(&mut self, reg: &Reg) -> Result<usize, SlotError> {
        self.object_spi(reg, "dynptr", 2)
    }

    fn slot_errno(e: SlotError) -> Errno {
        match e {
            SlotError::Invalid => Errno::EINVAL,
            SlotError::Range => Errno::ERANGE,
        }
    }

    /// Overwriting a dynptr destroys it, and slices of it with it.
    pub(super) fn destroy_if_dynptr(&mut self, frameno: u32, spi: usize) -> Res {
        let f = frameno as usize;
        if self.cur.frames[f].stack[spi].types[0] != SlotType::Dynptr {
            return Ok(());
        }
        let spi = if self.cur.frames[f].stack[spi].reg.dynptr_first() { spi } else { spi + 1 };
        if self.cur.frames[f].stack[spi].reg.dynptr_type().refcounted() {
            return self.fail(Errno::EINVAL, format_args!("cannot overwrite referenced dynptr\n"));
        }
        self.scratched_slots |= (1 << spi) | (1 << (spi - 1));
        let id = self.cur.frames[f].stack[spi].reg.id;
        for s in &mut self.cur.frames[f].stack[spi - 1..=spi] {
            s.types = [SlotType::Invalid; 8];
        }
        let slice = |r: &Reg| r.ty.base() == RegType::MEM && r.dynptr_id() == id;
        self.cur.change_regs(slice, |r| *r = Reg::UNKNOWN);
        for s in &mut self.cur.frames[f].stack[spi - 1..=spi] {
            s.reg = Reg::NOT_INIT;
        }
        self.live_mark_write(frameno, (1 << spi) | (1 << (spi - 1)));
        Ok(())
    }

    fn mark_dynptr_slots(&mut self, reg: &Reg, arg: ArgType, insn: u32, clone_ref: u32) -> Res {
        let spi = match self.dynptr_spi(reg) {
            Ok(s) => s,
            Err(e) => return Err(Self::slot_errno(e)),
        };
        self.destroy_if_dynptr(reg.frameno, spi)?;
        self.destroy_if_dynptr(reg.frameno, spi - 1)?;
        let ty = DynptrType::from_flags(arg.flags());
        if ty == DynptrType::Invalid {
            return Err(Errno::EINVAL);
        }
        let id = self.new_id();
        let ref_id = match (ty.refcounted(), clone_ref) {
            (false, _) => 0,
            (true, 0) => self.acquire(insn),
            (true, r) => r,
        };
        let frame = self.func_mut(reg);
        for (at, first_slot) in [(spi, true), (spi - 1, false)] {
            let mut r = Reg::pointer(RegType::DYNPTR, Payload::Dynptr { ty, first_slot });
            r.id = id;
            r.ref_obj_id = ref_id;
            frame.stack[at] = StackSlot { reg: r, types: [SlotType::Dynptr; 8] };
        }
        self.live_mark_write(reg.frameno, (1 << spi) | (1 << (spi - 1)));
        Ok(())
    }

    fn invalidate_dynptr(&mut self, frameno: u32, spi: usize) {
        for s in &mut self.cur.frames[frameno as usize].stack[spi - 1..=spi] {
            *s = StackSlot { reg: Reg::NOT_INIT, types: [SlotType::Invalid; 8] };
        }
        self.live_mark_write(frameno, (1 << spi) | (1 << (spi - 1)));
    }

    /// A dynptr is given back, with all its clones.
    pub(super) fn unmark_dynptr(&mut self, reg: &Reg) -> Res {
        if reg.ty == RegType::DYNPTR {
            return self.bug(format_args!("CONST_PTR_TO_DYNPTR cannot be released"));
        }
        let spi = match self.dynptr_spi(reg) {
            Ok(s) => s,
            Err(e) => return Err(Self::slot_errno(e)),
        };
        let slot = self.func(reg).stack[spi];
        if !slot.reg.dynptr_type().refcounted() {
            self.invalidate_dynptr(reg.frameno, spi);
            return Ok(());
        }
        let id = slot.reg.ref_obj_id;
        self.release(id);
        for i in 1..self.func(reg).stack.len() {
            let s = &self.func(reg).stack[i];
            if s.reg.ref_obj_id == id && s.types[0] == SlotType::Dynptr && s.reg.dynptr_first() {
                self.invalidate_dynptr(reg.frameno, i);
            }
        }
        Ok(())
    }

    fn dynptr_valid_init(&mut self, reg: &Reg) -> bool {
        if reg.ty == RegType::DYNPTR {
            return true;
        }
        let Ok(spi) = self.dynptr_spi(reg) else { return false };
        let stack = &self.func(reg).stack;
        stack[spi].reg.dynptr_first() && stack[spi - 1..=spi].iter().all(|s| s.types == [SlotType::Dynptr; 8])
    }

    /// The dynptr that a register points to or is: kind, id, reference.
    pub(super) fn dynptr_of(&mut self, reg: &Reg) -> Option<Reg> {
        if reg.ty == RegType::DYNPTR {
            return Some(*reg);
        }
        let spi = self.dynptr_spi(reg).ok()?;
        Some(self.func(reg).stack[spi].reg)
    }

    /// A dynptr argument: one to be made, or one that exists and is of the right kind.
    pub(super) fn process_dynptr(&mut self, regno: usize, insn: u32, arg: ArgType, clone_ref: u32) -> Res {
        let reg = *self.reg(regno);
        if reg.ty != RegType::STACK && reg.ty != RegType::DYNPTR {
            return self.fail(
                Errno::EINVAL,
                format_args!("arg#{} expected pointer to stack or const struct bpf_dynptr\n", regno - 1),
            );
        }
        if arg.has(flag::MEM_UNINIT) {
            let fits = reg.ty != RegType::DYNPTR && !matches!(self.dynptr_spi(&reg), Err(SlotError::Invalid));
            if !fits {
                return self.fail(Errno::EINVAL, format_args!("Dynptr has to be an uninitialized dynptr\n"));
            }
            for i in [0, 8] {
                self.check_mem(regno, i, 8, Access::Write, None, false, false)?;
            }
            return self.mark_dynptr_slots(&reg, arg, insn, clone_ref);
        }
        if reg.ty == RegType::DYNPTR && !arg.has(flag::MEM_RDONLY) {
            return self.fail(
                Errno::EINVAL,
                format_args!("cannot pass pointer to const bpf_dynptr, the helper mutates it\n"),
            );
        }
        if !self.dynptr_valid_init(&reg) {
            return self
                .fail(Errno::EINVAL, format_args!("Expected an initialized dynptr as arg #{}\n", regno - 1));
        }
        let wanted = arg.without(flag::MEM_RDONLY);
        let have = self.dynptr_of(&reg).map(|d| d.dynptr_type());
        if wanted != ArgType::PTR_TO_DYNPTR && have != Some(DynptrType::from_flags(wanted.flags())) {
            let text = DynptrType::from_flags(arg.flags()).text();
            return self.fail(
                Errno::EINVAL,
                format_args!("Expected a dynptr of type {text} as arg #{}\n", regno - 1),
            );
        }
        if reg.ty == RegType::STACK
            && let Ok(spi) = self.dynptr_spi(&reg)
        {
            self.mark_object_read(&reg, spi, 2);
        }
        Ok(())
    }

    /// An object of several slots on the stack is read whole.
    pub(super) fn mark_object_read(&mut self, reg: &Reg, spi: usize, slots: usize) {
        for i in 0..slots {
            self.live_mark_read(reg.frameno, self.insn_idx, 1 << (spi - i));
            self.scratched_slots |= 1 << (spi - i);
        }
    }

    /// A timer, work queue or task work in a map value.
    pub(super) fn map_field(&mut self, regno: usize, kind: FieldKind, meta: &mut CallMeta) -> Res {
        let reg = *self.reg(regno);
        let what = kind.text();
        if !reg.var_off.is_const() {
            return self.fail(
                Errno::EINVAL,
                format_args!(
                    "R{regno} doesn't have constant offset. {what} has to be at the constant offset\n"
                ),
            );
        }
        let def = self.maps[reg.map()].def;
        if !def.has_btf {
            return self.fail(
                Errno::EINVAL,
                format_args!("map '{}' has to have BTF in order to use {what}\n", def.name),
            );
        }
        let Some(at) = self.maps[reg.map()].record.as_ref().and_then(|r| r.offset_of(kind)) else {
            return self.fail(Errno::EINVAL, format_args!("map '{}' has no valid {what}\n", def.name));
        };
        let off = (reg.var_off.value as i64).wrapping_add(i64::from(reg.off));
        if i64::from(at) != off {
            return self.fail(
                Errno::EINVAL,
                format_args!("off {off} doesn't point to 'struct {what}' that is at {at}\n"),
            );
        }
        if meta.map.is_some() {
            return self.bug(format_args!("Two map pointers in a {what} helper"));
        }
        meta.map = Some((reg.map() as u32, reg.map_uid()));
        Ok(())
    }

    /// Forgets the registers that a call overwrites.
    pub(super) fn clear_caller_saved(&mut self) {
        for r in 0..6 {
            *self.reg_mut(r) = Reg::NOT_INIT;
        }
        self.scratched_regs |= 0x3f;
    }

    /// Packet pointers, and slices of packet dynptrs, no longer hold.
    pub(super) fn clear_pkt_pointers(&mut self) {
        let stale = |r: &Reg| r.is_pkt_pointer_any() || r.is_dynptr_slice_pkt();
        self.cur.change_regs(stale, |r| *r = Reg::UNKNOWN);
    }

    /// A register argument may be read; its use as a number is all right for anything.
    pub(super) fn readable(&mut self, regno: usize) -> Res {
        self.check_reg(regno as u8, Use::Src)
    }
}
