//! Loads and stores: every kind of pointer has its own rules.

use uapi::Errno;
use uapi::bpf::*;

use super::alu::{MAX_VAR_OFF, Use};
use super::env::{Env, KeyState, MapState, Res};
use super::reg::{Payload, Reg};
use super::types::{RegType, flag};
use crate::insn::Insn;
use crate::maps::FieldKind;

/// Reading or writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    Read,
    Write,
}

/// What has been learnt of a call's arguments so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallMeta {
    pub(crate) func_id: i32,
    /// The map argument: index and identity of an inner map.
    pub(crate) map: Option<(u32, u32)>,
    /// The helper fills memory that need not be initialised.
    pub(crate) raw_mode: bool,
    pub(crate) pkt_access: bool,
    pub(crate) release_regno: usize,
    pub(crate) regno: usize,
    pub(crate) access_size: i32,
    pub(crate) mem_size: u64,
    pub(crate) msize_max: u64,
    pub(crate) ref_obj_id: u32,
    pub(crate) dynptr_id: u32,
    pub(crate) ret_btf: Option<(super::reg::BtfRef, u32)>,
    /// The per-CPU object is one that the program allocated.
    pub(crate) ret_alloc: bool,
    pub(crate) subprogno: u32,
    /// Field of a map value that a kernel pointer is exchanged with.
    pub(crate) kptr: Option<super::record::Field>,
    pub(crate) const_map_key: Option<i64>,
}

/// What the context gives at an offset.
fn ctx_field(off: i32, size: i32, access: Access, sx: bool, attach: u32) -> Option<RegType> {
    let in_range = (0..24).contains(&off) && size == 4 && off % size == 0;
    if off == 20 && attach != uapi::xdp::BPF_XDP_DEVMAP || access == Access::Write {
        return None;
    }
    if matches!(off, 0 | 4 | 8) && sx || !in_range {
        return None;
    }
    Some(match off {
        0 => RegType::PACKET,
        4 => RegType::PACKET_END,
        8 => RegType::PACKET_META,
        _ => RegType::SCALAR,
    })
}

/// Whether a load from a socket of the BTF-less kinds is one of its fields.
fn sock_field(ty: RegType, off: i32, size: i32) -> bool {
    let aligned = off >= 0 && off % size == 0;
    match ty {
        RegType::XDP_SOCK => aligned && off < 4 && size == 4,
        RegType::TCP_SOCK => {
            // bytes_received and bytes_acked are the two 64-bit fields.
            aligned && off < 92 && size == if matches!(off, 56 | 64) { 8 } else { 4 }
        }
        RegType::SOCK_COMMON if (8..24).contains(&off) => false,
        _ => aligned && off < 80 && bpf_sock_field(off, size),
    }
}

fn bpf_sock_field(off: i32, size: i32) -> bool {
    let narrow = |default: i32| size <= default && off % default + size <= default && size.count_ones() == 1;
    match off {
        // state, family, type, protocol, src_port, rx_queue_mapping and the addresses.
        4 | 8 | 12 | 44 | 72 | 76 | 24..=43 | 52..=71 => narrow(4),
        48..=49 => narrow(if size == 4 { 4 } else { 2 }),
        50..=51 => false,
        _ => size == 4,
    }
}

impl Env<'_> {
    /// The access lies in memory of a fixed size.
    fn within(&mut self, regno: usize, off: i64, size: i64, mem_size: u64, zero_ok: bool) -> Res {
        let size_ok = size > 0 || size == 0 && zero_ok;
        let off32 = off as i32;
        if off32 >= 0 && size_ok && off32 as u64 + size as u64 <= mem_size {
            return Ok(());
        }
        let reg = *self.reg(regno);
        let off = off32;
        match reg.ty {
            RegType::MAP_KEY => {
                self.say(format_args!(
                    "invalid access to map key, key_size={mem_size} off={off} size={size}\n"
                ));
            }
            RegType::MAP_VALUE => self.say(format_args!(
                "invalid access to map value, value_size={mem_size} off={off} size={size}\n"
            )),
            RegType::PACKET | RegType::PACKET_META | RegType::PACKET_END => self.say(format_args!(
                "invalid access to packet, off={off} size={size}, R{regno}(id={},off={off},r={mem_size})\n",
                reg.id
            )),
            _ => self
                .say(format_args!("invalid access to memory, mem_size={mem_size} off={off} size={size}\n")),
        }
        Err(Errno::EACCES)
    }

    fn negative_min<T>(&mut self, regno: usize) -> Res<T> {
        self.fail(
            Errno::EACCES,
            format_args!(
                "R{regno} min value is negative, either use unsigned index or do a if (index >=0) check.\n"
            ),
        )
    }

    /// The access lies in memory of a fixed size, for every possible offset.
    pub(super) fn mem_region(&mut self, regno: usize, off: i32, size: i32, mem: u64, zero_ok: bool) -> Res {
        let reg = *self.reg(regno);
        let o = i64::from(off);
        if reg.smin < 0 && (reg.smin == i64::MIN || i32::try_from(o + reg.smin).is_err() || reg.smin + o < 0)
        {
            return self.negative_min(regno);
        }
        let size = i64::from(size);
        if let Err(e) = self.within(regno, reg.smin.wrapping_add(o), size, mem, zero_ok) {
            return self.fail(e, format_args!("R{regno} min value is outside of the allowed memory range\n"));
        }
        if reg.umax >= MAX_VAR_OFF as u64 {
            return self.fail(
                Errno::EACCES,
                format_args!("R{regno} unbounded memory access, make sure to bounds check any such access\n"),
            );
        }
        if let Err(e) = self.within(regno, (reg.umax as i64).wrapping_add(o), size, mem, zero_ok) {
            return self.fail(e, format_args!("R{regno} max value is outside of the allowed memory range\n"));
        }
        Ok(())
    }

    /// A pointer that may not have been moved (or not by a variable amount).
    pub(super) fn check_ptr_off(&mut self, reg: &Reg, regno: usize, fixed_ok: bool) -> Res {
        let (text, off) = (reg.ty.text(), reg.off);
        if off < 0 {
            return self.fail(
                Errno::EACCES,
                format_args!("negative offset {text} ptr R{regno} off={off} disallowed\n"),
            );
        }
        if !fixed_ok && off != 0 {
            return self.fail(
                Errno::EACCES,
                format_args!("dereference of modified {text} ptr R{regno} off={off} disallowed\n"),
            );
        }
        if !reg.var_off.equals_const(0) {
            let t = reg.var_off;
            return self.fail(Errno::EACCES, format_args!("variable {text} access var_off={t} disallowed\n"));
        }
        Ok(())
    }

    pub(super) fn map_access_allowed(&mut self, regno: usize, off: i32, size: i32, access: Access) -> Res {
        let def = self.maps[self.reg(regno).map()].def;
        let (flags, vs) = (def.flags, def.value_size);
        if access == Access::Write && flags & BPF_F_RDONLY_PROG != 0 {
            return self.fail(
                Errno::EACCES,
                format_args!("write into map forbidden, value_size={vs} off={off} size={size}\n"),
            );
        }
        if access == Access::Read && flags & BPF_F_WRONLY_PROG != 0 {
            return self.fail(
                Errno::EACCES,
                format_args!("read from map forbidden, value_size={vs} off={off} size={size}\n"),
            );
        }
        Ok(())
    }

    /// An access to a map value: in bounds, and special fields only as they allow.
    pub(super) fn map_access(
        &mut self,
        regno: usize,
        off: i32,
        size: i32,
        zero_ok: bool,
        direct: bool,
    ) -> Res {
        let reg = *self.reg(regno);
        let map = reg.map();
        let vs = self.maps[map].def.value_size;
        self.mem_region(regno, off, size, u64::from(vs), zero_ok)?;
        let Some(rec) = &self.maps[map].record else { return Ok(()) };
        let lo = reg.smin + i64::from(off);
        let hi = reg.umax as i64 + i64::from(off) + i64::from(size);
        let hit = rec
            .fields
            .iter()
            .find(|f| {
                let p = i64::from(f.offset);
                lo < p + i64::from(f.size) && p < hi && {
                    let at = i64::from(off).wrapping_add(reg.var_off.value as i64);
                    !(f.kind.is_kptr() && direct && reg.var_off.is_const() && p == at && size == 8)
                }
            })
            .cloned();
        let Some(f) = hit else { return Ok(()) };
        let (name, p) = (f.kind.text(), f.offset);
        let at = i64::from(off).wrapping_add(reg.var_off.value as i64);
        if !f.kind.is_kptr() {
            self.say(format_args!("{name} cannot be accessed directly by load/store\n"));
        } else if !direct {
            self.say(format_args!("{name} cannot be accessed indirectly by helper\n"));
        } else if !reg.var_off.is_const() {
            self.say(format_args!("{name} access cannot have variable offset\n"));
        } else if i64::from(p) != at {
            self.say(format_args!("{name} access misaligned expected={p} off={at}\n"));
        } else {
            self.say(format_args!("{name} access size must be BPF_DW\n"));
        }
        Err(Errno::EACCES)
    }

    pub(super) fn packet_access(&mut self, regno: usize, off: i32, size: i32, zero_ok: bool) -> Res {
        let reg = *self.reg(regno);
        if reg.smin < 0 {
            return self.negative_min(regno);
        }
        let range = reg.range();
        let out = if range < 0 {
            Err(Errno::EINVAL)
        } else {
            self.within(regno, i64::from(off), i64::from(size), range as u64, zero_ok)
        };
        out.or_else(|e| self.fail(e, format_args!("R{regno} offset is outside of the packet\n")))
    }

    pub(super) fn check_alignment(&mut self, reg: &Reg, off: i32, size: i32, strict_once: bool) -> Res {
        let mut strict = self.strict_alignment || strict_once;
        let what = match reg.ty {
            RegType::PACKET | RegType::PACKET_META => {
                // NET_IP_ALIGN as drivers without it have it: the kernel assumes 2.
                let t = reg.var_off.add(super::tnum::Tnum::constant((2 + reg.off + off) as i64 as u64));
                if strict && size != 1 && !t.is_aligned(size as u64) {
                    let (v, o) = (reg.var_off, reg.off);
                    return self.fail(
                        Errno::EACCES,
                        format_args!("misaligned packet access off 2+{v}+{o}+{off} size {size}\n"),
                    );
                }
                return Ok(());
            }
            RegType::FLOW_KEYS => "flow keys ",
            RegType::MAP_KEY => "key ",
            RegType::MAP_VALUE => "value ",
            RegType::CTX => "context ",
            RegType::STACK => {
                strict = true;
                "stack "
            }
            RegType::SOCKET => "sock ",
            RegType::SOCK_COMMON => "sock_common ",
            RegType::TCP_SOCK => "tcp_sock ",
            RegType::XDP_SOCK => "xdp_sock ",
            RegType::ARENA => return Ok(()),
            _ => "",
        };
        if !strict || size == 1 {
            return Ok(());
        }
        let t = reg.var_off.add(super::tnum::Tnum::constant(i64::from(reg.off.wrapping_add(off)) as u64));
        if t.is_aligned(size as u64) {
            return Ok(());
        }
        let (v, o) = (reg.var_off, reg.off);
        self.fail(Errno::EACCES, format_args!("misaligned {what}access off {v}+{o}+{off} size {size}\n"))
    }

    /// A load into (or a store from) `value` through the pointer in `regno`.
    #[allow(clippy::too_many_arguments)] // One parameter per property of the access.
    pub(super) fn check_mem(
        &mut self,
        regno: usize,
        off: i32,
        size: i32,
        access: Access,
        value: Option<usize>,
        strict_once: bool,
        sx: bool,
    ) -> Res {
        let reg = *self.reg(regno);
        self.check_alignment(&reg, off, size, strict_once)?;
        let off = off.wrapping_add(reg.off);
        let reads = access == Access::Read;
        let mut result = Some(Reg::UNKNOWN);
        match reg.ty.base() {
            RegType::MAP_KEY if reg.ty == RegType::MAP_KEY => {
                if !reads {
                    return self
                        .fail(Errno::EACCES, format_args!("write to change key R{regno} not allowed\n"));
                }
                let ks = self.maps[reg.map()].def.key_size;
                self.mem_region(regno, off, size, u64::from(ks), false)?;
            }
            RegType::MAP_VALUE if reg.ty == RegType::MAP_VALUE => {
                result = self.map_value_access(regno, &reg, off, size, access, value, sx)?;
            }
            RegType::MEM => self.sized_mem_access(regno, &reg, off, size, access)?,
            RegType::CTX if reg.ty == RegType::CTX => {
                result = Some(self.ctx_access(regno, &reg, off, size, access, sx)?);
            }
            RegType::STACK if reg.ty == RegType::STACK => {
                self.stack_within_bounds(regno, off, i64::from(size), access)?;
                if reads {
                    self.stack_read(regno, off, size, value)?;
                } else {
                    self.stack_write(regno, off, size, value)?;
                }
                result = None;
            }
            RegType::PACKET | RegType::PACKET_META if reg.is_pkt_pointer() && !reg.ty.may_be_null() => {
                self.packet_access(regno, off, size, false)?;
            }
            _ if reg.ty.is_sk_pointer() => {
                if !reads {
                    return self.cannot_write(regno, &reg);
                }
                if reg.smin < 0 {
                    return self.negative_min(regno);
                }
                if !sock_field(reg.ty, off, size) {
                    let text = reg.ty.text();
                    return self.fail(
                        Errno::EACCES,
                        format_args!("R{regno} invalid {text} access off={off} size={size}\n"),
                    );
                }
            }
            RegType::BTF_ID if !reg.ty.may_be_null() => {
                result = self.btf_access(regno, &reg, off, size, access)?;
            }
            RegType::MAP_PTR if reg.ty == RegType::MAP_PTR => {
                result = self.map_ptr_access(regno, &reg, off, size, access)?;
            }
            RegType::BUF => {
                if !reads && reg.ty.has(flag::MEM_RDONLY) {
                    return self.cannot_write(regno, &reg);
                }
                self.buffer_access(regno, &reg, off, size)?;
            }
            RegType::ARENA => {}
            _ => {
                let text = reg.ty.text();
                return self.fail(Errno::EACCES, format_args!("R{regno} invalid mem access '{text}'\n"));
            }
        }
        if let (true, Some(v)) = (reads, value) {
            if let Some(r) = result {
                *self.reg_mut(v) = r;
            }
            self.cut_to_size(v, size, sx);
        }
        Ok(())
    }

    fn cut_to_size(&mut self, regno: usize, size: i32, sx: bool) {
        let r = self.reg_mut(regno);
        if size < 8 && r.is_scalar() {
            if sx {
                // A value that changes its sign is not that of the copies any more. The kernel keeps the
                // link where the value fits the size (docs/parity.md).
                if r.umax >= 1 << (size * 8 - 1) {
                    super::alu::clear_scalar_id(r);
                }
                r.coerce_to_size_sx(size as u32);
            } else {
                r.coerce_to_size(size as u32);
            }
        }
    }

    pub(super) fn cannot_write<T>(&mut self, regno: usize, reg: &Reg) -> Res<T> {
        let text = reg.ty.text();
        self.fail(Errno::EACCES, format_args!("R{regno} cannot write into {text}\n"))
    }

    #[allow(clippy::too_many_arguments)] // One parameter per property of the access.
    fn map_value_access(
        &mut self,
        regno: usize,
        reg: &Reg,
        off: i32,
        size: i32,
        access: Access,
        value: Option<usize>,
        sx: bool,
    ) -> Res<Option<Reg>> {
        self.map_access_allowed(regno, off, size, access)?;
        self.map_access(regno, off, size, false, true)?;
        let map = reg.map();
        self.note_access_map(map as u32);
        if reg.var_off.is_const() {
            let at = off.wrapping_add(reg.var_off.value as i32);
            let kptr = self.maps[map].record.as_ref().and_then(|r| r.kptr_at(at)).cloned();
            if let Some(f) = kptr {
                return self.kptr_access(value, &f).map(Some);
            }
            if access == Access::Read
                && value.is_some()
                && let Some(v) = self.frozen_value(map, at, size, sx)
            {
                return Ok(Some(Reg::scalar(v)));
            }
        }
        Ok(Some(Reg::UNKNOWN))
    }

    /// Remembers which map's value the instruction goes to.
    fn note_access_map(&mut self, map: u32) {
        let a = &mut self.aux[self.insn_idx as usize].access_map;
        *a = match *a {
            MapState::Unseen => MapState::One(map),
            MapState::One(m) if m == map => MapState::One(m),
            _ => MapState::Many,
        };
    }

    /// The constant that a map frozen before loading holds.
    fn frozen_value(&self, map: usize, off: i32, size: i32, sx: bool) -> Option<u64> {
        let def = self.maps[map].def;
        if def.flags & BPF_F_RDONLY_PROG == 0 || !def.frozen || def.map_type != MapType::Array {
            return None;
        }
        let start = usize::try_from(off).ok()?;
        let bytes = def.contents.as_deref()?.get(start..start + size as usize)?;
        let mut le = [0; 8];
        le[..bytes.len()].copy_from_slice(bytes);
        let v = u64::from_le_bytes(le);
        let shift = 64 - size as u32 * 8;
        Some(if sx { (((v << shift) as i64) >> shift) as u64 } else { v })
    }

    fn sized_mem_access(&mut self, regno: usize, reg: &Reg, off: i32, size: i32, access: Access) -> Res {
        let text = reg.ty.text();
        if reg.ty.may_be_null() {
            return self.fail(Errno::EACCES, format_args!("R{regno} invalid mem access '{text}'\n"));
        }
        let rdonly = reg.ty.has(flag::MEM_RDONLY);
        if access == Access::Write && rdonly {
            return self.cannot_write(regno, reg);
        }
        if rdonly && reg.ty.has(flag::PTR_UNTRUSTED) {
            // Such reads cannot fault: they are made with an exception handler.
            return Ok(());
        }
        self.mem_region(regno, off, size, u64::from(reg.mem_size()), false)
    }

    fn ctx_access(
        &mut self,
        regno: usize,
        reg: &Reg,
        off: i32,
        size: i32,
        access: Access,
        sx: bool,
    ) -> Res<Reg> {
        self.check_ptr_off(reg, regno, false)?;
        let off = off.wrapping_sub(reg.off);
        let Some(ty) = ctx_field(off, size, access, sx, self.input.attach_type) else {
            self.say(format_args!("invalid bpf_context access off={off} size={size}\n"));
            self.log_line(self.insn_idx as usize, "; ");
            return Err(Errno::EACCES);
        };
        Ok(match ty {
            RegType::SCALAR => Reg::UNKNOWN,
            RegType::PACKET_END => Reg::pointer(ty, Payload::None),
            _ => Reg::pointer(ty, Payload::Range(0)),
        })
    }

    pub(super) fn buffer_access(&mut self, regno: usize, reg: &Reg, off: i32, size: i32) -> Res {
        let what = if reg.ty.has(flag::MEM_RDONLY) { "rdonly" } else { "rdwr" };
        if off < 0 {
            return self.fail(
                Errno::EACCES,
                format_args!("R{regno} invalid {what} buffer access: off={off}, size={size}\n"),
            );
        }
        if !reg.var_off.equals_const(0) {
            let t = reg.var_off;
            return self.fail(
                Errno::EACCES,
                format_args!("R{regno} invalid variable buffer offset: off={off}, var_off={t}\n"),
            );
        }
        Ok(())
    }

    /// Kinds that a rewritten access depends on may not be mixed at one instruction.
    fn save_ptr_type(&mut self, ty: RegType, allow_trust_mismatch: bool) -> Res {
        let rewritten = |t: RegType| {
            matches!(
                t.base(),
                RegType::CTX
                    | RegType::SOCKET
                    | RegType::SOCK_COMMON
                    | RegType::TCP_SOCK
                    | RegType::XDP_SOCK
                    | RegType::BTF_ID
                    | RegType::ARENA
            )
        };
        self.cur_aux().untrusted |= ty.has(flag::PTR_UNTRUSTED);
        let prev = self.cur_aux().ptr_type;
        if prev == RegType::NOT_INIT {
            self.cur_aux().ptr_type = ty;
            return Ok(());
        }
        if ty == prev || !rewritten(ty) && !rewritten(prev) {
            return Ok(());
        }
        let mixable = |t: RegType| matches!(t.base(), RegType::MEM | RegType::BTF_ID);
        if allow_trust_mismatch && mixable(ty) && mixable(prev) {
            let base = if ty.base() == RegType::MEM || prev.base() == RegType::MEM {
                RegType::MEM
            } else {
                RegType::BTF_ID
            };
            let flags = (ty.0 | prev.0) & (flag::PTR_UNTRUSTED | flag::MEM_RDONLY);
            self.cur_aux().ptr_type = base.with(flags);
            return Ok(());
        }
        self.fail(Errno::EINVAL, format_args!("same insn cannot be used with different pointers\n"))
    }

    pub(super) fn check_load(
        &mut self,
        insn: &Insn,
        strict_once: bool,
        sx: bool,
        mix: bool,
        ctx: &str,
    ) -> Res {
        self.check_reg(insn.src, Use::Src)?;
        self.check_reg(insn.dst, Use::DstNoMark)?;
        let (src, dst) = (usize::from(insn.src), usize::from(insn.dst));
        let ty = self.reg(src).ty;
        let size = i32::from(insn.access_size());
        self.check_mem(src, i32::from(insn.off), size, Access::Read, Some(dst), strict_once, sx)?;
        self.save_ptr_type(ty, mix)?;
        self.sanity_check(dst, ctx)
    }

    pub(super) fn check_store(&mut self, insn: &Insn, strict_once: bool) -> Res {
        let value = if insn.class() == BPF_STX {
            self.check_reg(insn.src, Use::Src)?;
            Some(usize::from(insn.src))
        } else {
            None
        };
        self.check_reg(insn.dst, Use::Src)?;
        let dst = usize::from(insn.dst);
        let ty = self.reg(dst).ty;
        let size = i32::from(insn.access_size());
        self.check_mem(dst, i32::from(insn.off), size, Access::Write, value, strict_once, false)?;
        self.save_ptr_type(ty, false)
    }

    fn atomic_ptr_ok(&self, regno: u8) -> bool {
        let ty = self.reg(usize::from(regno)).ty;
        ty != RegType::CTX && !ty.is_pkt_pointer() && ty != RegType::FLOW_KEYS && !ty.is_sk_pointer()
    }

    pub(super) fn check_atomic(&mut self, insn: &Insn) -> Res {
        const ADD: i32 = BPF_ADD as i32;
        const AND: i32 = BPF_AND as i32;
        const OR: i32 = BPF_OR as i32;
        const XOR: i32 = BPF_XOR as i32;
        match insn.imm {
            BPF_LOAD_ACQ => {
                self.check_load(insn, true, false, false, "atomic_load")?;
                self.atomic_place(insn.src, "loads from")
            }
            BPF_STORE_REL => {
                self.check_store(insn, true)?;
                self.atomic_place(insn.dst, "stores into")
            }
            BPF_XCHG | BPF_CMPXCHG => self.check_atomic_rmw(insn),
            imm if matches!(imm & !BPF_FETCH, ADD | AND | OR | XOR) => self.check_atomic_rmw(insn),
            imm => {
                self.fail(Errno::EINVAL, format_args!("BPF_ATOMIC uses invalid atomic opcode {imm:02x}\n"))
            }
        }
    }

    fn atomic_place(&mut self, regno: u8, what: &str) -> Res {
        if self.atomic_ptr_ok(regno) {
            return Ok(());
        }
        let text = self.reg(usize::from(regno)).ty.text();
        self.fail(Errno::EACCES, format_args!("BPF_ATOMIC {what} R{regno} {text} is not allowed\n"))
    }

    fn check_atomic_rmw(&mut self, insn: &Insn) -> Res {
        let size = i32::from(insn.access_size());
        if size < 4 {
            return self.fail(Errno::EINVAL, format_args!("invalid atomic operand size\n"));
        }
        self.check_reg(insn.src, Use::Src)?;
        self.check_reg(insn.dst, Use::Src)?;
        if insn.imm == BPF_CMPXCHG {
            self.check_reg(0, Use::Src)?;
        }
        self.atomic_place(insn.dst, "stores into")?;
        let dst = usize::from(insn.dst);
        let off = i32::from(insn.off);
        let ty = self.reg(dst).ty;
        let load = match insn.imm {
            BPF_CMPXCHG => Some(0),
            imm if imm & BPF_FETCH != 0 => Some(insn.src),
            _ => None,
        };
        if let Some(r) = load {
            self.check_reg(r, Use::Dst)?;
        }
        // First whether it may be read at all, then what the fetched value is, which may overwrite the
        // pointer itself.
        self.check_mem(dst, off, size, Access::Read, None, true, false)?;
        if let Some(r) = load {
            self.check_mem(dst, off, size, Access::Read, Some(usize::from(r)), true, false)?;
        }
        self.save_ptr_type(ty, false)?;
        self.check_mem(dst, off, size, Access::Write, None, true, false)
    }

    /// A helper reads or writes `size` bytes at the pointer in `regno`.
    pub(super) fn helper_mem(
        &mut self,
        regno: usize,
        size: i32,
        access: Access,
        zero_ok: bool,
        meta: Option<&mut CallMeta>,
    ) -> Res {
        let reg = *self.reg(regno);
        match reg.ty.base() {
            RegType::PACKET | RegType::PACKET_META => self.packet_access(regno, reg.off, size, zero_ok),
            RegType::MAP_KEY => {
                if access == Access::Write {
                    return self.cannot_write(regno, &reg);
                }
                let ks = self.maps[reg.map()].def.key_size;
                self.mem_region(regno, reg.off, size, u64::from(ks), false)
            }
            RegType::MAP_VALUE => {
                self.map_access_allowed(regno, reg.off, size, access)?;
                self.map_access(regno, reg.off, size, zero_ok, false)
            }
            RegType::MEM => {
                if access == Access::Write && reg.ty.has(flag::MEM_RDONLY) {
                    return self.cannot_write(regno, &reg);
                }
                self.mem_region(regno, reg.off, size, u64::from(reg.mem_size()), zero_ok)
            }
            RegType::BUF => {
                if access == Access::Write && reg.ty.has(flag::MEM_RDONLY) {
                    return self.cannot_write(regno, &reg);
                }
                self.buffer_access(regno, &reg, reg.off, size)
            }
            RegType::STACK => self.stack_range_initialized(regno, reg.off, size, zero_ok, access, meta),
            RegType::BTF_ID => self.btf_access(regno, &reg, reg.off, size, Access::Read).map(|_| ()),
            _ => {
                if zero_ok && size == 0 && reg.is_null() {
                    return Ok(());
                }
                let text = reg.ty.text();
                self.fail(Errno::EACCES, format_args!("R{regno} type={text} expected=fp\n"))
            }
        }
    }

    /// A size argument and the pointer argument before it.
    pub(super) fn mem_size_arg(
        &mut self,
        regno: usize,
        access: Access,
        zero_ok: bool,
        meta: &mut CallMeta,
    ) -> Res {
        let reg = *self.reg(regno);
        meta.msize_max = reg.umax;
        // With a variable size the memory may end up partly unwritten.
        let meta = if reg.var_off.is_const() { Some(meta) } else { None };
        if reg.smin < 0 {
            return self.fail(
                Errno::EACCES,
                format_args!("R{regno} min value is negative, either use unsigned or 'var &= const'\n"),
            );
        }
        if reg.umin == 0 && !zero_ok {
            return self.fail(
                Errno::EACCES,
                format_args!(
                    "R{regno} invalid zero-sized read: u64=[{},{}]\n",
                    reg.umin as i64, reg.umax as i64
                ),
            );
        }
        if reg.umax >= MAX_VAR_OFF as u64 {
            return self.fail(
                Errno::EACCES,
                format_args!("R{regno} unbounded memory access, use 'var &= const' or 'if (var < const)'\n"),
            );
        }
        self.helper_mem(regno - 1, reg.umax as i32, access, zero_ok, meta)?;
        self.mark_precise(regno)
    }

    /// Memory of a known size that a global function or a kfunc may read and write.
    pub(super) fn check_mem_reg(&mut self, regno: usize, size: u32) -> Res {
        let saved = *self.reg(regno);
        if saved.is_null() {
            return Ok(());
        }
        if saved.ty.may_be_null() {
            let mut r = saved;
            self.mark_not_null(&mut r);
            *self.reg_mut(regno) = r;
        }
        let size = size as i32;
        let out = self
            .helper_mem(regno, size, Access::Read, true, None)
            .and_then(|()| self.helper_mem(regno, size, Access::Write, true, None));
        if saved.ty.may_be_null() {
            *self.reg_mut(regno) = saved;
        }
        out
    }

    /// Remembers the constant key of a map operation, over all paths.
    pub(super) fn note_map_key(&mut self, key: Option<u64>) {
        let k = &mut self.aux[self.insn_idx as usize].map_key;
        *k = match (*k, key) {
            (KeyState::Unseen, Some(v)) => KeyState::Const(v),
            (KeyState::Const(old), Some(v)) if old == v => KeyState::Const(v),
            _ => KeyState::Poisoned,
        };
    }

    fn kptr_access(&mut self, value: Option<usize>, f: &super::record::Field) -> Res<Reg> {
        let insn = self.insn();
        if insn.mode() != BPF_MEM {
            return self.fail(
                Errno::EACCES,
                format_args!("kptr in map can only be accessed using BPF_MEM instruction mode\n"),
            );
        }
        let loads = insn.class() == BPF_LDX;
        if !loads && matches!(f.kind, FieldKind::KptrRef | FieldKind::KptrPercpu) {
            return self.fail(Errno::EACCES, format_args!("store to referenced kptr disallowed\n"));
        }
        if !loads && f.kind == FieldKind::Uptr {
            return self.fail(Errno::EACCES, format_args!("store to uptr disallowed\n"));
        }
        match insn.class() {
            BPF_LDX => Ok(self.load_kptr(f)),
            BPF_STX => {
                if let Some(v) = value {
                    let r = *self.reg(v);
                    if !r.is_null() && self.kptr_match(f, &r, v).is_err() {
                        return Err(Errno::EACCES);
                    }
                }
                Ok(Reg::UNKNOWN)
            }
            _ => {
                if insn.imm != 0 {
                    let off = f.offset;
                    return self.fail(
                        Errno::EACCES,
                        format_args!("BPF_ST imm must be 0 when storing to kptr at off={off}\n"),
                    );
                }
                Ok(Reg::UNKNOWN)
            }
        }
    }
}
