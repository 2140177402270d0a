//! Arguments of helpers: kinds, offsets, memory, maps.

use uapi::Errno;
use uapi::bpf::*;

use super::env::{Env, Res};
use super::mem::{Access, CallMeta};
use super::protos::Proto;
use super::refs::LockUse;
use super::reg::{BtfRef, Reg};
use super::state::SlotType;
use super::types::{ArgType, RegType, flag};
use crate::maps::FieldKind;

use flag::{
    MEM_ALLOC, MEM_PERCPU, MEM_RCU, MEM_RDONLY, MEM_RINGBUF, NON_OWN_REF, PTR_MAYBE_NULL, PTR_TRUSTED,
};

/// Register kinds that an argument kind takes.
fn compatible(arg: ArgType) -> &'static [RegType] {
    const BTF: RegType = RegType::BTF_ID;
    const MEM: [RegType; 9] = [
        RegType::STACK,
        RegType::PACKET,
        RegType::PACKET_META,
        RegType::MAP_KEY,
        RegType::MAP_VALUE,
        RegType::MEM,
        RegType::MEM.with(MEM_RINGBUF),
        RegType::BUF,
        BTF.with(PTR_TRUSTED),
    ];
    const SOCK: [RegType; 4] = [RegType::SOCK_COMMON, RegType::SOCKET, RegType::TCP_SOCK, RegType::XDP_SOCK];
    const SOCK_BTF: [RegType; 6] = [SOCK[0], SOCK[1], SOCK[2], SOCK[3], BTF, BTF.with(PTR_TRUSTED)];
    match arg.base() {
        ArgType::PTR_TO_MAP_KEY | ArgType::PTR_TO_MAP_VALUE | ArgType::PTR_TO_MEM => &MEM,
        ArgType::CONST_SIZE | ArgType::CONST_SIZE_OR_ZERO | ArgType::CONST_ALLOC_SIZE_OR_ZERO => {
            &[RegType::SCALAR]
        }
        ArgType::CONST_MAP_PTR => &[RegType::MAP_PTR],
        ArgType::PTR_TO_CTX => &[RegType::CTX],
        ArgType::PTR_TO_SOCK_COMMON => &SOCK,
        ArgType::PTR_TO_BTF_ID_SOCK_COMMON => &SOCK_BTF,
        ArgType::PTR_TO_SOCKET => &[RegType::SOCKET],
        ArgType::PTR_TO_BTF_ID => &const { [BTF, BTF.with(PTR_TRUSTED), BTF.with(MEM_RCU)] },
        ArgType::PTR_TO_SPIN_LOCK | ArgType::KPTR_XCHG_DEST => {
            &const { [RegType::MAP_VALUE, BTF.with(MEM_ALLOC)] }
        }
        ArgType::PTR_TO_RINGBUF_MEM => &const { [RegType::MEM.with(MEM_RINGBUF)] },
        ArgType::PTR_TO_PERCPU_BTF_ID => {
            &const { [BTF.with(MEM_PERCPU), BTF.with(MEM_PERCPU | MEM_RCU), BTF.with(MEM_PERCPU | PTR_TRUSTED)] }
        }
        ArgType::PTR_TO_FUNC => &[RegType::FUNC],
        ArgType::PTR_TO_STACK => &[RegType::STACK],
        ArgType::PTR_TO_CONST_STR | ArgType::PTR_TO_TIMER => &[RegType::MAP_VALUE],
        ArgType::PTR_TO_DYNPTR => &[RegType::STACK, RegType::DYNPTR],
        _ => &[],
    }
}

impl Env<'_> {
    /// A pointer that was certainly given by the kernel and still holds.
    pub(super) fn is_trusted(&self, r: &Reg) -> bool {
        let safe = !r.ty.has(!(PTR_TRUSTED | MEM_ALLOC | NON_OWN_REF) & !0xff);
        r.ref_obj_id != 0
            || safe
                && (matches!(
                    r.ty.base(),
                    RegType::SOCKET | RegType::SOCK_COMMON | RegType::TCP_SOCK | RegType::MAP_PTR
                ) || r.ty.has(PTR_TRUSTED | MEM_ALLOC | NON_OWN_REF))
    }

    /// The pointer cannot be null.
    pub(super) fn reg_not_null(&self, r: &Reg) -> bool {
        if r.ty.may_be_null() {
            return false;
        }
        match r.ty.base() {
            RegType::SOCKET
            | RegType::TCP_SOCK
            | RegType::MAP_VALUE
            | RegType::MAP_KEY
            | RegType::SOCK_COMMON
            | RegType::MAP_PTR => true,
            RegType::BTF_ID => self.is_trusted(r),
            RegType::MEM => !r.ty.has(flag::PTR_UNTRUSTED),
            _ => false,
        }
    }

    pub(super) fn check_reg_type(
        &mut self,
        regno: usize,
        arg: ArgType,
        btf: Option<&str>,
        meta: &CallMeta,
    ) -> Res {
        let reg = *self.reg(regno);
        let types = compatible(arg);
        if types.is_empty() {
            return self.bug(format_args!("unsupported arg type {}", arg.0));
        }
        let mut ty = reg.ty;
        if arg.has(MEM_RDONLY) {
            ty = ty.without(MEM_RDONLY);
        }
        if arg.has(PTR_MAYBE_NULL) {
            ty = ty.without(PTR_MAYBE_NULL);
        }
        if arg.base() == ArgType::PTR_TO_MEM {
            ty = ty.without(flag::DYNPTR_MASK);
        }
        let alloc = ty.has(MEM_ALLOC) && regno == 2;
        if meta.func_id == func::KPTR_XCHG && alloc {
            ty = ty.without(MEM_ALLOC | MEM_PERCPU);
        }
        if !types.contains(&ty) {
            let expected = types.iter().map(|t| t.text()).collect::<Vec<_>>().join(", ");
            let text = reg.ty.text();
            return self.fail(Errno::EACCES, format_args!("R{regno} type={text} expected={expected}\n"));
        }
        if reg.ty.base() != RegType::BTF_ID {
            return Ok(());
        }
        if matches!(arg.base(), ArgType::PTR_TO_MEM | ArgType::PTR_TO_MAP_KEY | ArgType::PTR_TO_MAP_VALUE) {
            if !arg.has(MEM_RDONLY) {
                let (name, text) = (super::helpers::helper_name(meta.func_id), reg.ty.text());
                return self.fail(
                    Errno::EACCES,
                    format_args!("{name}() may write into memory pointed by R{regno} type={text}\n"),
                );
            }
            return Ok(());
        }
        self.check_btf_arg(regno, &reg, arg, btf, meta)
    }

    fn check_btf_arg(
        &mut self,
        regno: usize,
        reg: &Reg,
        arg: ArgType,
        btf: Option<&str>,
        meta: &CallMeta,
    ) -> Res {
        if reg.ty.has(MEM_ALLOC) {
            if !matches!(meta.func_id, func::SPIN_LOCK | func::SPIN_UNLOCK | func::KPTR_XCHG) {
                return self.bug(format_args!("unimplemented handling of MEM_ALLOC"));
            }
            if meta.func_id == func::KPTR_XCHG
                && regno == 2
                && let Some(f) = meta.kptr.clone()
                && self.kptr_match(&f, reg, regno).is_err()
            {
                return Err(Errno::EACCES);
            }
            return Ok(());
        }
        if reg.ty.has(MEM_PERCPU) {
            return Ok(());
        }
        if reg.ty.may_be_null() && (!arg.may_be_null() || arg.has(flag::OBJ_RELEASE)) {
            return self
                .fail(Errno::EACCES, format_args!("Possibly NULL pointer passed to helper arg{regno}\n"));
        }
        if meta.func_id == func::KPTR_XCHG {
            if let Some(f) = meta.kptr.clone()
                && self.kptr_match(&f, reg, regno).is_err()
            {
                return Err(Errno::EACCES);
            }
            return Ok(());
        }
        let wanted = btf.unwrap_or("sock_common");
        let strict = arg.has(flag::OBJ_RELEASE) && meta.func_id != func::SK_RELEASE;
        let (which, id) = reg.btf();
        let target = self.input.kernel_btf.and_then(|b| super::btfx::find_struct(b, wanted)).unwrap_or(0);
        if !self.struct_matches((which, id), reg.off, (BtfRef::Kernel, target), strict) {
            let have = self.btf_name(which, id).to_owned();
            return self
                .fail(Errno::EACCES, format_args!("R{regno} is of type {have} but {wanted} is expected\n"));
        }
        Ok(())
    }

    /// Offsets that an argument kind allows its pointer to have.
    pub(super) fn check_arg_off(&mut self, reg: &Reg, regno: usize, arg: ArgType) -> Res {
        if arg.has(flag::OBJ_RELEASE) {
            if arg.base() == ArgType::PTR_TO_DYNPTR && reg.ty == RegType::STACK {
                return Ok(());
            }
            if reg.off != 0 {
                return self.fail(
                    Errno::EINVAL,
                    format_args!(
                        "R{regno} must have zero offset when passed to release func or trusted arg to kfunc\n"
                    ),
                );
            }
            return self.check_ptr_off(reg, regno, false);
        }
        let (base, flags) = (reg.ty.base(), reg.ty.flags());
        let free = match base {
            RegType::STACK
            | RegType::PACKET
            | RegType::PACKET_META
            | RegType::MAP_KEY
            | RegType::MAP_VALUE
            | RegType::ARENA
            | RegType::SCALAR => flags == 0,
            RegType::MEM => matches!(flags, 0 | MEM_RDONLY | MEM_RINGBUF),
            RegType::BUF => matches!(flags, 0 | MEM_RDONLY),
            _ => false,
        };
        if free {
            return Ok(());
        }
        const OWNED: u32 = MEM_ALLOC | NON_OWN_REF;
        const OWNED_RCU: u32 = MEM_ALLOC | NON_OWN_REF | MEM_RCU;
        let fixed_ok = base == RegType::BTF_ID
            && matches!(flags, 0 | MEM_ALLOC | PTR_TRUSTED | MEM_RCU | OWNED | OWNED_RCU);
        self.check_ptr_off(reg, regno, fixed_ok)
    }

    pub(super) fn check_arg(&mut self, i: usize, p: &Proto, meta: &mut CallMeta) -> Res {
        let mut arg = p.args[i].ty;
        let regno = i + 1;
        if arg == ArgType::DONTCARE {
            return Ok(());
        }
        self.readable(regno)?;
        if arg == ArgType::ANYTHING {
            return Ok(());
        }
        let reg = *self.reg(regno);
        if reg.ty.is_pkt_pointer() && !meta.pkt_access {
            return self.fail(Errno::EACCES, format_args!("helper access to the packet is not allowed\n"));
        }
        if arg.base() == ArgType::PTR_TO_MAP_VALUE {
            arg = self.map_value_arg(arg, meta)?;
        }
        if !(reg.is_null() && arg.may_be_null()) {
            let btf = if matches!(arg.base(), ArgType::PTR_TO_BTF_ID | ArgType::PTR_TO_SPIN_LOCK) {
                p.args[i].btf
            } else {
                None
            };
            self.check_reg_type(regno, arg, btf, meta)?;
            self.check_arg_off(&reg, regno, arg)?;
        }
        if arg.has(flag::OBJ_RELEASE) {
            self.release_arg(regno, &reg, arg, meta)?;
        }
        if reg.ref_obj_id != 0 && arg.base() != ArgType::KPTR_XCHG_DEST {
            if meta.ref_obj_id != 0 {
                return self.fail(
                    Errno::EACCES,
                    format_args!(
                        "more than one arg with ref_obj_id R{regno} {} {}",
                        reg.ref_obj_id, meta.ref_obj_id
                    ),
                );
            }
            meta.ref_obj_id = reg.ref_obj_id;
        }
        self.check_arg_kind(i, regno, &reg, arg, p, meta)
    }

    /// What a map's type makes of a value argument.
    fn map_value_arg(&mut self, arg: ArgType, meta: &CallMeta) -> Res<ArgType> {
        let Some((map, _)) = meta.map else {
            return self.bug(format_args!("invalid map_ptr to access map->type"));
        };
        match self.maps[map as usize].def.map_type {
            MapType::Sockmap | MapType::Sockhash => {
                if arg == ArgType::PTR_TO_MAP_VALUE {
                    return Ok(ArgType::PTR_TO_BTF_ID_SOCK_COMMON);
                }
                self.fail(Errno::EINVAL, format_args!("invalid arg_type for sockmap/sockhash\n"))
            }
            MapType::BloomFilter if meta.func_id == func::MAP_PEEK_ELEM => Ok(ArgType::PTR_TO_MAP_VALUE),
            _ => Ok(arg),
        }
    }

    fn release_arg(&mut self, regno: usize, reg: &Reg, arg: ArgType, meta: &mut CallMeta) -> Res {
        if arg.base() == ArgType::PTR_TO_DYNPTR {
            if reg.ty != RegType::STACK {
                return self.fail(Errno::EINVAL, format_args!("cannot release unowned const bpf_dynptr\n"));
            }
            let held = match self.dynptr_spi(reg) {
                Ok(spi) => self.func(reg).stack[spi].reg.ref_obj_id != 0,
                Err(_) => false,
            };
            if !held {
                return self.fail(Errno::EINVAL, format_args!("arg {regno} is an unacquired reference\n"));
            }
        } else if reg.ref_obj_id == 0 && !reg.is_null() {
            return self.fail(
                Errno::EINVAL,
                format_args!("R{regno} must be referenced when passed to release function\n"),
            );
        }
        meta.release_regno = regno;
        Ok(())
    }

    fn check_arg_kind(
        &mut self,
        i: usize,
        regno: usize,
        reg: &Reg,
        arg: ArgType,
        p: &Proto,
        meta: &mut CallMeta,
    ) -> Res {
        let access = |a: ArgType| if a.has(flag::MEM_WRITE) { Access::Write } else { Access::Read };
        match arg.base() {
            ArgType::CONST_MAP_PTR => self.map_ptr_arg(reg, meta),
            ArgType::PTR_TO_MAP_KEY => self.map_key_arg(regno, reg, meta),
            ArgType::PTR_TO_MAP_VALUE => {
                if arg.may_be_null() && reg.is_null() {
                    return Ok(());
                }
                let Some((map, _)) = meta.map else {
                    return self.bug(format_args!("invalid map_ptr to access map->value"));
                };
                meta.raw_mode = arg.has(flag::MEM_UNINIT);
                let size = self.maps[map as usize].def.value_size as i32;
                self.helper_mem(regno, size, access(arg), false, Some(meta))
            }
            ArgType::PTR_TO_PERCPU_BTF_ID => {
                if reg.btf_id() == 0 {
                    return self.fail(Errno::EACCES, format_args!("Helper has invalid btf_id in R{regno}\n"));
                }
                meta.ret_btf = Some(reg.btf());
                meta.ret_alloc = reg.ty.has(MEM_RCU);
                Ok(())
            }
            ArgType::PTR_TO_SPIN_LOCK => {
                if self.in_rbtree_cb() {
                    return self
                        .fail(Errno::EACCES, format_args!("can't spin_{{lock,unlock}} in rbtree cb\n"));
                }
                let lock = meta.func_id == func::SPIN_LOCK;
                self.process_spin_lock(regno, LockUse { lock, resilient: false, irq: false })
            }
            ArgType::PTR_TO_TIMER => self.map_field(regno, FieldKind::Timer, meta),
            ArgType::PTR_TO_FUNC => {
                if let super::reg::Payload::Subprog(n) = reg.pl {
                    meta.subprogno = n;
                }
                Ok(())
            }
            ArgType::PTR_TO_MEM => {
                meta.raw_mode = arg.has(flag::MEM_UNINIT);
                if arg.has(flag::MEM_FIXED_SIZE) {
                    let size = p.args[i].size as i32;
                    self.helper_mem(regno, size, access(arg), false, Some(meta))?;
                    if arg.has(flag::MEM_ALIGNED) {
                        self.check_alignment(reg, 0, size, true)?;
                    }
                }
                Ok(())
            }
            ArgType::CONST_SIZE => self.mem_size_arg(regno, access(p.args[i - 1].ty), false, meta),
            ArgType::CONST_SIZE_OR_ZERO => self.mem_size_arg(regno, access(p.args[i - 1].ty), true, meta),
            ArgType::PTR_TO_DYNPTR => self.process_dynptr(regno, self.insn_idx, arg, 0),
            ArgType::CONST_ALLOC_SIZE_OR_ZERO => {
                if !reg.var_off.is_const() {
                    return self.fail(Errno::EACCES, format_args!("R{regno} is not a known constant'\n"));
                }
                meta.mem_size = reg.var_off.value;
                self.mark_precise(regno)
            }
            ArgType::PTR_TO_CONST_STR => self.const_str(reg, regno),
            ArgType::KPTR_XCHG_DEST => self.kptr_dest(regno, reg, meta),
            _ => Ok(()),
        }
    }

    fn map_ptr_arg(&mut self, reg: &Reg, meta: &mut CallMeta) -> Res {
        let this = (reg.map() as u32, reg.map_uid());
        if let Some(m) = meta.map
            && m != this
        {
            return self.fail(
                Errno::EINVAL,
                format_args!(
                    "timer pointer in R1 map_uid={} doesn't match map pointer in R2 map_uid={}\n",
                    m.1, this.1
                ),
            );
        }
        meta.map = Some(this);
        Ok(())
    }

    fn map_key_arg(&mut self, regno: usize, reg: &Reg, meta: &mut CallMeta) -> Res {
        let Some((map, _)) = meta.map else {
            return self.bug(format_args!("invalid map_ptr to access map->key"));
        };
        let def = self.maps[map as usize].def;
        self.helper_mem(regno, def.key_size as i32, Access::Read, false, None)?;
        if matches!(def.map_type, MapType::Array | MapType::PercpuArray) {
            meta.const_map_key = self.constant_key(reg, def.key_size)?;
        }
        Ok(())
    }

    /// The key, if it is a constant on the stack.
    fn constant_key(&mut self, key: &Reg, size: u32) -> Res<Option<i64>> {
        if key.ty != RegType::STACK || !key.var_off.is_const() {
            return Ok(None);
        }
        let slot = -key.off.wrapping_add(key.var_off.value as i32) - 1;
        let (spi, off) = ((slot / 8) as usize, (slot % 8) as usize);
        let Some(s) = self.func(key).stack.get(spi).copied() else { return Ok(None) };
        let run = |t: SlotType| s.types[..=off].iter().rev().take_while(|x| **x == t).count() as u32;
        if run(SlotType::Zero) >= size {
            return Ok(Some(0));
        }
        if !s.is_spilled_scalar() || run(SlotType::Spill) != size || !s.reg.var_off.is_const() {
            return Ok(None);
        }
        self.bt.follow_slot(key.frameno as usize, spi);
        self.mark_chain(None, None)?;
        Ok(Some(s.reg.var_off.value as i64))
    }

    /// A string in a frozen map.
    pub(super) fn const_str(&mut self, reg: &Reg, regno: usize) -> Res {
        if reg.ty != RegType::MAP_VALUE {
            return Err(Errno::EINVAL);
        }
        let def = self.maps[reg.map()].def;
        if def.flags & BPF_F_RDONLY_PROG == 0 || !def.frozen {
            return self.fail(Errno::EACCES, format_args!("R{regno} does not point to a readonly map'\n"));
        }
        if !reg.var_off.is_const() {
            return self.fail(Errno::EACCES, format_args!("R{regno} is not a constant address'\n"));
        }
        if def.map_type != MapType::Array {
            return self
                .fail(Errno::EACCES, format_args!("no direct value access support for this map type\n"));
        }
        self.map_access(regno, reg.off, def.value_size as i32 - reg.off, false, false)?;
        let at = (i64::from(reg.off)).wrapping_add(reg.var_off.value as i64) as usize;
        let ends = def.contents.as_deref().and_then(|c| c.get(at..)).is_some_and(|c| c.contains(&0));
        if !ends {
            return self.fail(Errno::EINVAL, format_args!("string is not zero-terminated\n"));
        }
        Ok(())
    }

    fn kptr_dest(&mut self, regno: usize, reg: &Reg, meta: &mut CallMeta) -> Res {
        if !reg.ty.is_ptr_alloc_obj() {
            let def = self.maps[reg.map()].def;
            if !def.has_btf {
                return self.fail(
                    Errno::EINVAL,
                    format_args!("map '{}' has to have BTF in order to use bpf_kptr_xchg\n", def.name),
                );
            }
            meta.map = Some((reg.map() as u32, 0));
        }
        if !reg.var_off.is_const() {
            return self.fail(
                Errno::EINVAL,
                format_args!(
                    "R{regno} doesn't have constant offset. kptr has to be at the constant offset\n"
                ),
            );
        }
        let rec = self.reg_record(reg).unwrap_or_default();
        if !rec.fields.iter().any(|f| f.kind.is_kptr() && f.kind != FieldKind::Uptr) {
            return self.fail(Errno::EINVAL, format_args!("R{regno} has no valid kptr\n"));
        }
        let off = reg.off.wrapping_add(reg.var_off.value as i32);
        let Some(f) = rec.kptr_at(off).filter(|f| f.kind != FieldKind::Uptr) else {
            return self.fail(Errno::EACCES, format_args!("off={off} doesn't point to kptr\n"));
        };
        if f.kind == FieldKind::KptrUnref {
            return self.fail(Errno::EACCES, format_args!("off={off} kptr isn't referenced kptr\n"));
        }
        meta.kptr = Some(f.clone());
        Ok(())
    }
}
