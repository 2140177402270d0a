//! The stack: spilling and filling registers, bytes of unknown value, zeros, bounds.

use uapi::Errno;
use uapi::bpf::*;

use super::alu::{MAX_VAR_OFF, clear_scalar_id};
use super::env::{Env, Res};
use super::mem::{Access, CallMeta};
use super::reg::Reg;
use super::state::{LinkedRegs, REG_SIZE, SlotType, StackSlot, hist_flag};
use super::types::RegType;
use crate::insn::Insn;

const MAX_STACK: i64 = MAX_BPF_STACK as i64;

/// Slot of a byte at a negative offset from the frame pointer.
pub(crate) fn spi_of(off: i32) -> i32 {
    (-off - 1) / REG_SIZE
}

/// A register of these kinds keeps its meaning when it is spilled.
fn is_spillable(ty: RegType) -> bool {
    matches!(
        ty.base(),
        RegType::MAP_VALUE
            | RegType::STACK
            | RegType::CTX
            | RegType::PACKET
            | RegType::PACKET_META
            | RegType::PACKET_END
            | RegType::FLOW_KEYS
            | RegType::MAP_PTR
            | RegType::SOCKET
            | RegType::SOCK_COMMON
            | RegType::TCP_SOCK
            | RegType::XDP_SOCK
            | RegType::BTF_ID
            | RegType::BUF
            | RegType::MEM
            | RegType::FUNC
            | RegType::MAP_KEY
            | RegType::ARENA
    )
}

fn is_st_mem(insn: &Insn) -> bool {
    insn.class() == BPF_ST && insn.mode() == BPF_MEM
}

impl Env<'_> {
    /// The access lies within the stack; the frame grows to hold it.
    pub(super) fn stack_within_bounds(&mut self, regno: usize, off: i32, size: i64, access: Access) -> Res {
        let reg = *self.reg(regno);
        let what = if access == Access::Read { " read from" } else { " write to" };
        let (min, max);
        if reg.var_off.is_const() {
            min = (reg.var_off.value as i64).wrapping_add(i64::from(off));
            max = min.wrapping_add(size);
        } else {
            if reg.smax >= MAX_VAR_OFF || reg.smin <= -MAX_VAR_OFF {
                return self.fail(
                    Errno::EACCES,
                    format_args!("invalid unbounded variable-offset{what} stack R{regno}\n"),
                );
            }
            min = reg.smin + i64::from(off);
            max = reg.smax + i64::from(off) + size;
        }
        let err = if !(-MAX_STACK..=-1).contains(&min) {
            Some(Errno::EACCES)
        } else if max > 0 {
            Some(Errno::EINVAL)
        } else if size < 0 {
            Some(Errno::EFAULT)
        } else {
            None
        };
        if let Some(e) = err {
            if reg.var_off.is_const() {
                return self.fail(e, format_args!("invalid{what} stack R{regno} off={off} size={size}\n"));
            }
            let t = reg.var_off;
            return self.fail(
                e,
                format_args!(
                    "invalid variable-offset{what} stack R{regno} var_off={t} off={off} size={size}\n"
                ),
            );
        }
        self.grow_stack(&reg, -min as i32);
        Ok(())
    }

    pub(super) fn grow_stack(&mut self, reg: &Reg, size: i32) {
        let slots = (size + REG_SIZE - 1) / REG_SIZE;
        let frame = self.func_mut(reg);
        if frame.stack.len() >= slots as usize {
            return;
        }
        frame.stack.resize(slots as usize, StackSlot::EMPTY);
        let sub = frame.subprogno as usize;
        let depth = &mut self.subprogs[sub].stack_depth;
        *depth = (*depth).max(slots as u32 * REG_SIZE as u32);
    }

    pub(super) fn stack_write(&mut self, ptr: usize, off: i32, size: i32, value: Option<usize>) -> Res {
        let reg = *self.reg(ptr);
        if reg.var_off.is_const() {
            let off = off.wrapping_add(reg.var_off.value as i32);
            self.stack_write_fixed(reg.frameno, off, size, value)
        } else {
            self.stack_write_var(&reg, off, size, value)
        }
    }

    fn stack_write_fixed(&mut self, frameno: u32, off: i32, size: i32, value: Option<usize>) -> Res {
        let slot = -off - 1;
        let spi = slot / REG_SIZE;
        let insn = self.insn();
        self.destroy_if_dynptr(frameno, spi as usize)?;
        let aligned = off % REG_SIZE == 0;
        if aligned && size == REG_SIZE {
            self.live_mark_write(frameno, 1 << spi);
        }
        self.check_fastcall_contract(frameno, self.insn_idx, off);
        self.scratched_slots |= 1 << spi;
        let reg = value.map(|v| *self.reg(v));
        match reg {
            Some(r) if aligned && r.is_scalar() => {
                let fits = r.width() <= 8 * size as u32;
                let mut r = r;
                if fits && let Some(v) = value {
                    self.give_scalar_id(&mut r);
                    *self.reg_mut(v) = r;
                }
                if !fits {
                    clear_scalar_id(&mut r);
                }
                self.save_register(frameno, spi, r, size);
            }
            None if aligned && is_st_mem(&insn) => {
                self.save_register(frameno, spi, Reg::scalar(i64::from(insn.imm) as u64), size);
            }
            Some(r) if is_spillable(r.ty) => {
                if size != REG_SIZE {
                    self.log_line(self.insn_idx as usize, "; ");
                    return self.fail(Errno::EACCES, format_args!("invalid size of register spill\n"));
                }
                if frameno as usize != self.cur.curframe() && r.ty == RegType::STACK {
                    return self.fail(
                        Errno::EINVAL,
                        format_args!("cannot spill pointers to stack into stack frame of the caller\n"),
                    );
                }
                self.save_register(frameno, spi, r, size);
            }
            _ => return self.stack_write_bytes(frameno, slot, size, value, reg),
        }
        self.push_history(hist_flag::stack_access(frameno, spi), LinkedRegs::default());
        Ok(())
    }

    /// Bytes that are no whole register: only zero is remembered.
    fn stack_write_bytes(
        &mut self,
        frameno: u32,
        slot: i32,
        size: i32,
        value: Option<usize>,
        reg: Option<Reg>,
    ) -> Res {
        let spi = (slot / REG_SIZE) as usize;
        let insn = self.insn();
        let s = &mut self.cur.frames[frameno as usize].stack[spi];
        s.reg.ty = RegType::NOT_INIT;
        if s.is_special() {
            s.scrub();
        }
        let mut ty = SlotType::Misc;
        let zero = match reg {
            Some(r) => r.is_null(),
            None => is_st_mem(&insn) && insn.imm == 0,
        };
        if zero {
            if let Some(v) = value {
                self.mark_precise(v)?;
            }
            ty = SlotType::Zero;
        }
        let s = &mut self.cur.frames[frameno as usize].stack[spi];
        for i in 0..size {
            s.types[((slot - i) % REG_SIZE) as usize] = ty;
        }
        Ok(())
    }

    fn save_register(&mut self, frameno: u32, spi: i32, reg: Reg, size: i32) {
        let s = &mut self.cur.frames[frameno as usize].stack[spi as usize];
        s.reg = reg;
        for i in 0..REG_SIZE {
            let t = &mut s.types[i as usize];
            if i >= REG_SIZE - size {
                *t = SlotType::Spill;
            } else if !matches!(*t, SlotType::Zero | SlotType::Invalid) {
                *t = SlotType::Misc;
            }
        }
    }

    fn stack_write_var(&mut self, ptr: &Reg, off: i32, size: i32, value: Option<usize>) -> Res {
        let insn = self.insn();
        let (min, max) = (ptr.smin as i32 + off, ptr.smax as i32 + off + size);
        let writing_zero = match value {
            Some(v) => self.reg(v).is_null(),
            None => is_st_mem(&insn) && insn.imm == 0,
        };
        for i in min..max {
            self.destroy_if_dynptr(ptr.frameno, spi_of(i) as usize)?;
        }
        self.check_fastcall_contract(ptr.frameno, self.insn_idx, min);
        let mut zero_used = false;
        for i in min..max {
            let slot = -i - 1;
            let spi = (slot / REG_SIZE) as usize;
            self.scratched_slots |= 1 << spi;
            let s = &mut self.func_mut(ptr).stack[spi];
            let byte = (slot % REG_SIZE) as usize;
            if writing_zero
                && s.types[byte] == SlotType::Spill
                && s.is_spilled_scalar()
                && s.reg.var_off.equals_const(0)
            {
                zero_used = true;
                continue;
            }
            let old = s.types[byte];
            s.reg.ty = RegType::NOT_INIT;
            if s.is_special() {
                s.scrub();
            }
            s.types[byte] = if writing_zero && old == SlotType::Zero {
                zero_used = true;
                SlotType::Zero
            } else {
                SlotType::Misc
            };
        }
        if zero_used && let Some(v) = value {
            self.mark_precise(v)?;
        }
        Ok(())
    }

    pub(super) fn stack_read(&mut self, ptr: usize, off: i32, size: i32, dst: Option<usize>) -> Res {
        let reg = *self.reg(ptr);
        if reg.var_off.is_const() {
            let off = off.wrapping_add(reg.var_off.value as i32);
            return self.stack_read_fixed(reg.frameno, off, size, dst);
        }
        let Some(dst) = dst else {
            let t = reg.var_off;
            return self.fail(
                Errno::EACCES,
                format_args!(
                    "variable offset stack pointer cannot be passed into helper function; var_off={t} off={off} size={size}\n"
                ),
            );
        };
        self.stack_range_initialized(ptr, off, size, false, Access::Read, None)?;
        let (min, max) = (reg.smin as i32 + off, reg.smax as i32 + off);
        self.fill_from_bytes(reg.frameno, min, max + size, dst);
        self.check_fastcall_contract(reg.frameno, self.insn_idx, min);
        Ok(())
    }

    fn stack_read_fixed(&mut self, frameno: u32, off: i32, size: i32, dst: Option<usize>) -> Res {
        let slot = -off - 1;
        let spi = slot / REG_SIZE;
        self.scratched_slots |= 1 << spi;
        self.check_fastcall_contract(self.cur.curframe() as u32, self.insn_idx, off);
        self.live_mark_read(frameno, self.insn_idx, 1 << spi);
        let s = self.cur.frames[frameno as usize].stack[spi as usize];
        if !s.is_spilled() {
            self.readable_bytes(&s, off, slot, size)?;
            if let Some(d) = dst {
                self.fill_from_bytes(frameno, off, off + size, d);
            }
            return Ok(());
        }
        let mut access = true;
        let spill_size = s.types.iter().rev().take_while(|t| **t == SlotType::Spill).count() as i32;
        if size != REG_SIZE || spill_size != REG_SIZE {
            if !s.reg.is_scalar() {
                self.log_line(self.insn_idx as usize, "; ");
                return self.fail(Errno::EACCES, format_args!("invalid size of register fill\n"));
            }
            let Some(d) = dst else { return Ok(()) };
            if size <= spill_size && off % REG_SIZE == 0 {
                let mut r = s.reg;
                if r.width() > size as u32 * 8 {
                    clear_scalar_id(&mut r);
                }
                *self.reg_mut(d) = r;
            } else {
                access = self.fill_part(&s, off, slot, size, d)?;
            }
        } else if let Some(d) = dst {
            *self.reg_mut(d) = s.reg;
        }
        if access {
            self.push_history(hist_flag::stack_access(frameno, spi), LinkedRegs::default());
        }
        Ok(())
    }

    /// Part of a spilled scalar and what lies beside it. `true`: the spilled register matters.
    fn fill_part(&mut self, s: &StackSlot, off: i32, slot: i32, size: i32, dst: usize) -> Res<bool> {
        let (mut spilled, mut zeros) = (0, 0);
        for i in 0..size {
            match s.types[((slot - i) % REG_SIZE) as usize] {
                SlotType::Spill => spilled += 1,
                SlotType::Zero => zeros += 1,
                SlotType::Misc | SlotType::Invalid => {}
                _ => return self.invalid_read(off, i, size),
            }
        }
        let is_zero = spilled == size && s.reg.var_off.equals_const(0);
        *self.reg_mut(dst) = if is_zero || zeros == size { Reg::scalar(0) } else { Reg::UNKNOWN };
        Ok(is_zero)
    }

    fn readable_bytes(&mut self, s: &StackSlot, off: i32, slot: i32, size: i32) -> Res {
        for i in 0..size {
            if !matches!(
                s.types[((slot - i) % REG_SIZE) as usize],
                SlotType::Misc | SlotType::Zero | SlotType::Invalid
            ) {
                return self.invalid_read(off, i, size);
            }
        }
        Ok(())
    }

    fn invalid_read<T>(&mut self, off: i32, i: i32, size: i32) -> Res<T> {
        self.fail(Errno::EACCES, format_args!("invalid read from stack off {off}+{i} size {size}\n"))
    }

    fn fill_from_bytes(&mut self, frameno: u32, min: i32, max: i32, dst: usize) {
        let mut all_zero = true;
        for i in min..max {
            let slot = -i - 1;
            let spi = (slot / REG_SIZE) as usize;
            self.scratched_slots |= 1 << spi;
            let s = &self.cur.frames[frameno as usize].stack[spi];
            if s.types[(slot % REG_SIZE) as usize] != SlotType::Zero {
                all_zero = false;
                break;
            }
        }
        *self.reg_mut(dst) = if all_zero { Reg::scalar(0) } else { Reg::UNKNOWN };
    }

    /// A helper may read (or overwrite) this part of the stack.
    pub(super) fn stack_range_initialized(
        &mut self,
        regno: usize,
        off: i32,
        size: i32,
        zero_ok: bool,
        access: Access,
        meta: Option<&mut CallMeta>,
    ) -> Res {
        if size == 0 && !zero_ok {
            return self.fail(Errno::EACCES, format_args!("invalid zero-sized read\n"));
        }
        self.stack_within_bounds(regno, off, i64::from(size), access)?;
        let reg = *self.reg(regno);
        let mut meta = meta;
        let (min, max) = if reg.var_off.is_const() {
            let at = (reg.var_off.value as i32).wrapping_add(off);
            (at, at)
        } else {
            // Where exactly the helper writes is not known: all of it has to be readable.
            meta = meta.filter(|m| !m.raw_mode);
            (reg.smin as i32 + off, reg.smax as i32 + off)
        };
        if let Some(meta) = meta.filter(|m| m.raw_mode) {
            for i in min..max + size {
                let slot = -i - 1;
                let s = self.func(&reg).stack.get((slot / REG_SIZE) as usize);
                if s.is_some_and(|s| s.types[(slot % REG_SIZE) as usize] == SlotType::Dynptr) {
                    return self.fail(
                        Errno::EACCES,
                        format_args!("potential write to dynptr at off={i} disallowed\n"),
                    );
                }
            }
            meta.access_size = size;
            meta.regno = regno;
            return Ok(());
        }
        for i in min..max + size {
            self.helper_stack_byte(regno, &reg, i, (min, size), access == Access::Write)?;
        }
        Ok(())
    }

    fn helper_stack_byte(&mut self, regno: usize, reg: &Reg, i: i32, at: (i32, i32), clobber: bool) -> Res {
        let slot = -i - 1;
        let spi = slot / REG_SIZE;
        let Some(s) = self.func_mut(reg).stack.get_mut(spi as usize) else {
            return self.bug(format_args!("allocated_stack too small"));
        };
        let byte = (slot % REG_SIZE) as usize;
        match s.types[byte] {
            SlotType::Misc => {}
            SlotType::Zero | SlotType::Invalid => {
                if clobber {
                    s.types[byte] = SlotType::Misc;
                }
            }
            _ if s.is_spilled() => {
                if clobber {
                    s.reg = Reg::UNKNOWN;
                    s.scrub();
                }
            }
            _ => {
                let (min, size) = at;
                let n = i - min;
                if reg.var_off.is_const() {
                    return self.fail(
                        Errno::EACCES,
                        format_args!("invalid read from stack R{regno} off {min}+{n} size {size}\n"),
                    );
                }
                let t = reg.var_off;
                return self.fail(
                    Errno::EACCES,
                    format_args!("invalid read from stack R{regno} var_off {t}+{n} size {size}\n"),
                );
            }
        }
        self.live_mark_read(reg.frameno, self.insn_idx, 1 << spi);
        Ok(())
    }
}
