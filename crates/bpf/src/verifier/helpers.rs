//! Calls of helpers.

use uapi::Errno;
use uapi::bpf::*;

use super::callbacks::Callback;
use super::env::{Env, LoopState, MapState, Res};
use super::mem::{Access, CallMeta};
use super::protos::{self, Proto};
use super::reg::{BtfRef, DynptrType, Payload, Reg};
use super::types::{ArgType, RegType, RetType, flag};
use crate::btf::TypeId;
use crate::insn::Insn;

const MAX_ERRNO: i64 = 4095;

/// Name of a helper, as error texts have it.
pub(super) fn helper_name(id: i32) -> String {
    match usize::try_from(id).ok().and_then(|i| HELPER_NAMES.get(i)) {
        Some(name) => format!("bpf_{name}"),
        None => "unknown".to_owned(),
    }
}

/// Runs its callback before it returns.
pub(super) fn is_sync_callback(id: i32) -> bool {
    matches!(id, func::FOR_EACH_MAP_ELEM | func::FIND_VMA | func::LOOP | func::USER_RINGBUF_DRAIN)
}

/// The result belongs to the same object as the argument.
fn is_ptr_cast(id: i32) -> bool {
    matches!(
        id,
        func::TCP_SOCK
            | func::SK_FULLSOCK
            | func::SKC_TO_TCP_SOCK
            | func::SKC_TO_TCP6_SOCK
            | func::SKC_TO_UDP6_SOCK
            | func::SKC_TO_MPTCP_SOCK
            | func::SKC_TO_TCP_TIMEWAIT_SOCK
            | func::SKC_TO_TCP_REQUEST_SOCK
    )
}

fn acquires(id: i32, map: Option<MapType>) -> bool {
    matches!(
        id,
        func::SK_LOOKUP_TCP
            | func::SK_LOOKUP_UDP
            | func::SKC_LOOKUP_TCP
            | func::RINGBUF_RESERVE
            | func::KPTR_XCHG
    ) || id == func::MAP_LOOKUP_ELEM && matches!(map, Some(MapType::Sockmap | MapType::Sockhash))
}

/// Whether a helper may be given a map of a type.
fn map_fits(ty: MapType, id: i32) -> bool {
    use MapType as T;
    let of_map = match ty {
        T::ProgArray => id == func::TAIL_CALL,
        T::PerfEventArray => matches!(
            id,
            func::PERF_EVENT_READ
                | func::PERF_EVENT_OUTPUT
                | func::SKB_OUTPUT
                | func::PERF_EVENT_READ_VALUE
                | func::XDP_OUTPUT
        ),
        T::Ringbuf => matches!(
            id,
            func::RINGBUF_OUTPUT
                | func::RINGBUF_RESERVE
                | func::RINGBUF_QUERY
                | func::RINGBUF_RESERVE_DYNPTR
                | func::RINGBUF_SUBMIT_DYNPTR
                | func::RINGBUF_DISCARD_DYNPTR
        ),
        T::UserRingbuf => id == func::USER_RINGBUF_DRAIN,
        T::StackTrace => id == func::GET_STACKID,
        T::CgroupArray => matches!(id, func::SKB_UNDER_CGROUP | func::CURRENT_TASK_UNDER_CGROUP),
        T::CgroupStorage | T::PercpuCgroupStorage => id == func::GET_LOCAL_STORAGE,
        T::Devmap | T::DevmapHash | T::Xskmap => matches!(id, func::REDIRECT_MAP | func::MAP_LOOKUP_ELEM),
        T::Cpumap => id == func::REDIRECT_MAP,
        T::ArrayOfMaps | T::HashOfMaps => id == func::MAP_LOOKUP_ELEM,
        T::Sockmap => matches!(
            id,
            func::SK_REDIRECT_MAP
                | func::SOCK_MAP_UPDATE
                | func::MSG_REDIRECT_MAP
                | func::SK_SELECT_REUSEPORT
                | func::MAP_LOOKUP_ELEM
                | func::MAP_UPDATE_ELEM
                | func::MAP_DELETE_ELEM
        ),
        T::Sockhash => matches!(
            id,
            func::SK_REDIRECT_HASH
                | func::SOCK_HASH_UPDATE
                | func::MSG_REDIRECT_HASH
                | func::SK_SELECT_REUSEPORT
                | func::MAP_LOOKUP_ELEM
                | func::MAP_UPDATE_ELEM
                | func::MAP_DELETE_ELEM
        ),
        T::ReuseportSockarray => id == func::SK_SELECT_REUSEPORT,
        T::Queue | T::Stack => {
            matches!(id, func::MAP_PEEK_ELEM | func::MAP_POP_ELEM | func::MAP_PUSH_ELEM)
        }
        T::SkStorage => matches!(id, func::SK_STORAGE_GET | func::SK_STORAGE_DELETE | func::KPTR_XCHG),
        T::InodeStorage => {
            matches!(id, func::INODE_STORAGE_GET | func::INODE_STORAGE_DELETE | func::KPTR_XCHG)
        }
        T::TaskStorage => {
            matches!(id, func::TASK_STORAGE_GET | func::TASK_STORAGE_DELETE | func::KPTR_XCHG)
        }
        T::CgrpStorage => {
            matches!(id, func::CGRP_STORAGE_GET | func::CGRP_STORAGE_DELETE | func::KPTR_XCHG)
        }
        T::BloomFilter => matches!(id, func::MAP_PEEK_ELEM | func::MAP_PUSH_ELEM),
        _ => true,
    };
    let of_helper = match id {
        func::TAIL_CALL => ty == T::ProgArray,
        func::PERF_EVENT_READ | func::PERF_EVENT_OUTPUT | func::PERF_EVENT_READ_VALUE => {
            ty == T::PerfEventArray
        }
        func::RINGBUF_OUTPUT | func::RINGBUF_RESERVE | func::RINGBUF_QUERY | func::RINGBUF_RESERVE_DYNPTR => {
            ty == T::Ringbuf
        }
        func::USER_RINGBUF_DRAIN => ty == T::UserRingbuf,
        func::CURRENT_TASK_UNDER_CGROUP => ty == T::CgroupArray,
        func::REDIRECT_MAP => matches!(ty, T::Devmap | T::DevmapHash | T::Cpumap | T::Xskmap),
        func::MAP_POP_ELEM => matches!(ty, T::Queue | T::Stack),
        func::MAP_PEEK_ELEM | func::MAP_PUSH_ELEM => matches!(ty, T::Queue | T::Stack | T::BloomFilter),
        func::MAP_LOOKUP_PERCPU_ELEM => {
            matches!(ty, T::PercpuArray | T::PercpuHash | T::LruPercpuHash)
        }
        func::TASK_STORAGE_GET | func::TASK_STORAGE_DELETE => ty == T::TaskStorage,
        func::CGRP_STORAGE_GET | func::CGRP_STORAGE_DELETE => ty == T::CgrpStorage,
        _ => true,
    };
    of_map && of_helper
}

impl Env<'_> {
    pub(super) fn check_helper_call(&mut self, insn: &Insn) -> Res {
        let id = insn.imm;
        let name = &helper_name(id);
        if usize::try_from(id).map_or(true, |i| i >= HELPER_NAMES.len()) {
            return self.fail(Errno::EINVAL, format_args!("invalid func {name}#{id}\n"));
        }
        let Some(p) = protos::available(id) else {
            return self
                .fail(Errno::EINVAL, format_args!("program of this type cannot use helper {name}#{id}\n"));
        };
        if !self.input.gpl && p.gpl_only {
            return self.fail(
                Errno::EINVAL,
                format_args!("cannot call GPL-restricted function from non-GPL compatible program\n"),
            );
        }
        self.check_may_sleep(p, name, id)?;
        let mut meta = CallMeta { func_id: id, pkt_access: p.pkt_access, ..CallMeta::default() };
        for i in 0..5 {
            self.check_arg(i, p, &mut meta)?;
        }
        self.record_map(&meta, id)?;
        self.record_key(&meta, id)?;
        for i in 0..meta.access_size {
            self.check_mem(meta.regno, i, 1, Access::Write, None, false, false)?;
        }
        if meta.release_regno != 0 {
            self.release_call(p, &meta, name, id)?;
        }
        let mut changes_data = protos::changes_pkt_data(id);
        self.special_helper(insn, id, &mut meta, &mut changes_data)?;
        self.clear_caller_saved();
        self.helper_result(p, &meta, id)?;
        if let Some((map, _)) = meta.map
            && !map_fits(self.maps[map as usize].def.map_type, id)
        {
            let ty = self.maps[map as usize].def.map_type as u32;
            return self
                .fail(Errno::EINVAL, format_args!("cannot pass map_type {ty} into func {name}#{id}\n"));
        }
        if id == func::TAIL_CALL {
            return self.after_tail_call();
        }
        if changes_data {
            self.clear_pkt_pointers();
        }
        Ok(())
    }

    fn check_may_sleep(&mut self, p: &Proto, name: &str, id: i32) -> Res {
        if !p.might_sleep {
            return Ok(());
        }
        if !self.cur.in_sleepable {
            return self
                .fail(Errno::EINVAL, format_args!("helper call might sleep in a non-sleepable prog\n"));
        }
        let regions = [
            (self.cur.active_rcu_locks, "rcu_read_lock"),
            (self.cur.active_preempt_locks, "non-preemptible"),
            (self.cur.active_irq_id, "IRQ-disabled"),
        ];
        for (n, region) in regions {
            if n != 0 {
                return self
                    .fail(Errno::EINVAL, format_args!("sleepable helper {name}#{id} in {region} region\n"));
            }
        }
        Ok(())
    }

    fn record_map(&mut self, meta: &CallMeta, id: i32) -> Res {
        let recorded = matches!(
            id,
            func::TAIL_CALL
                | func::MAP_LOOKUP_ELEM
                | func::MAP_UPDATE_ELEM
                | func::MAP_DELETE_ELEM
                | func::MAP_PUSH_ELEM
                | func::MAP_POP_ELEM
                | func::MAP_PEEK_ELEM
                | func::FOR_EACH_MAP_ELEM
                | func::REDIRECT_MAP
                | func::MAP_LOOKUP_PERCPU_ELEM
        );
        let Some((map, _)) = meta.map else {
            return if recorded { self.bug(format_args!("expected map for helper call")) } else { Ok(()) };
        };
        let writes = matches!(
            id,
            func::MAP_DELETE_ELEM | func::MAP_UPDATE_ELEM | func::MAP_PUSH_ELEM | func::MAP_POP_ELEM
        );
        if recorded && writes && self.maps[map as usize].def.flags & BPF_F_RDONLY_PROG != 0 {
            return self.fail(Errno::EACCES, format_args!("write into map forbidden\n"));
        }
        let aux = self.cur_aux();
        aux.map = match aux.map {
            MapState::Unseen => MapState::One(map),
            MapState::One(m) if m == map => MapState::One(m),
            _ => MapState::Many,
        };
        if let Some(k) = meta.const_map_key {
            self.note_map_key(Some(k as u64));
        } else if id != func::TAIL_CALL {
            self.note_map_key(None);
        }
        Ok(())
    }

    fn record_key(&mut self, meta: &CallMeta, id: i32) -> Res {
        if id != func::TAIL_CALL {
            return Ok(());
        }
        let def = meta.map.map(|(m, _)| self.maps[m as usize].def);
        let Some(def) = def.filter(|d| d.map_type == MapType::ProgArray) else {
            return self.fail(Errno::EINVAL, format_args!("expected prog array map for tail call"));
        };
        let r = *self.reg(3);
        if !r.is_const(false) || r.var_off.value >= u64::from(def.max_entries) {
            self.note_map_key(None);
            return Ok(());
        }
        self.mark_precise(3)?;
        self.note_map_key(Some(r.var_off.value));
        Ok(())
    }

    fn release_call(&mut self, p: &Proto, meta: &CallMeta, name: &str, id: i32) -> Res {
        let regno = meta.release_regno;
        let reg = *self.reg(regno);
        if p.args[regno - 1].ty.base() == ArgType::PTR_TO_DYNPTR {
            return self.unmark_dynptr(&reg);
        }
        let released = if id == func::KPTR_XCHG && meta.ref_obj_id != 0 {
            let in_rcu = self.in_rcu_cs();
            let held = self.release_nomark(meta.ref_obj_id);
            let concerned = |r: &Reg| held && r.ref_obj_id == meta.ref_obj_id;
            self.cur.change_regs(concerned, |r| {
                if in_rcu && r.ty.has(flag::MEM_ALLOC) && r.ty.has(flag::MEM_PERCPU) {
                    r.ref_obj_id = 0;
                    r.ty = r.ty.without(flag::MEM_ALLOC).with(flag::MEM_RCU);
                } else {
                    *r = Reg::UNKNOWN;
                }
            });
            held
        } else if meta.ref_obj_id != 0 {
            self.release(meta.ref_obj_id)
        } else {
            reg.is_null()
        };
        if released {
            return Ok(());
        }
        self.fail(Errno::EINVAL, format_args!("func {name}#{id} reference has not been acquired before\n"))
    }

    /// What single helpers do beyond their prototype.
    fn special_helper(&mut self, insn: &Insn, id: i32, meta: &mut CallMeta, changes_data: &mut bool) -> Res {
        match id {
            func::TAIL_CALL => self.check_resource_leak(false, true, "tail_call"),
            func::FOR_EACH_MAP_ELEM => self.push_callback(insn, meta, Callback::MapElem),
            func::TIMER_SET_CALLBACK => self.push_callback(insn, meta, Callback::Timer),
            func::FIND_VMA => self.push_callback(insn, meta, Callback::FindVma),
            func::USER_RINGBUF_DRAIN => self.push_callback(insn, meta, Callback::UserRingbuf),
            func::LOOP => self.check_loop(insn, meta),
            func::SNPRINTF => self.check_snprintf(),
            func::DYNPTR_FROM_MEM => {
                let r = *self.reg(1);
                if r.ty != RegType::MAP_VALUE {
                    let text = r.ty.text();
                    return self.fail(
                        Errno::EACCES,
                        format_args!("Unsupported reg type {text} for bpf_dynptr_from_mem data\n"),
                    );
                }
                Ok(())
            }
            func::DYNPTR_DATA => {
                let r = *self.reg(1);
                let Some(d) = self.dynptr_of(&r) else {
                    return self.bug(format_args!("failed to obtain dynptr id"));
                };
                meta.dynptr_id = d.id;
                meta.ref_obj_id = d.ref_obj_id;
                Ok(())
            }
            func::DYNPTR_WRITE => {
                let r = *self.reg(1);
                let ty = self.dynptr_of(&r).map_or(DynptrType::Invalid, |d| d.dynptr_type());
                if ty == DynptrType::Invalid {
                    return Err(Errno::EFAULT);
                }
                *changes_data |= matches!(ty, DynptrType::Skb | DynptrType::SkbMeta);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn check_loop(&mut self, insn: &Insn, meta: &CallMeta) -> Res {
        let flags_zero = self.reg(4).is_null();
        if flags_zero {
            self.mark_precise(4)?;
        }
        let aux = self.cur_aux();
        aux.loop_callback = match aux.loop_callback {
            LoopState::Unseen if flags_zero => LoopState::One(meta.subprogno),
            LoopState::One(s) if flags_zero && s == meta.subprogno => LoopState::One(s),
            _ => LoopState::Many,
        };
        self.mark_precise(1)?;
        if u64::from(self.cur.frame().callback_depth) < self.reg(1).umax {
            return self.push_callback(insn, meta, Callback::Loop);
        }
        self.cur.frame_mut().callback_depth = 0;
        if self.level2() {
            let frame = self.cur.curframe();
            self.log(format_args!("frame{frame} bpf_loop iteration limit reached\n"));
        }
        Ok(())
    }

    /// The format string is known, so its conversions can be counted against the data.
    fn check_snprintf(&mut self) -> Res {
        let (fmt, len) = (*self.reg(3), self.reg(5).var_off.value);
        if len % 8 != 0 {
            return Err(Errno::EINVAL);
        }
        let at = (i64::from(fmt.off)).wrapping_add(fmt.var_off.value as i64) as usize;
        let text = self.maps[fmt.map()].def.contents.as_deref().and_then(|c| c.get(at..)).unwrap_or(&[]);
        let text = text.split(|b| *b == 0).next().unwrap_or(&[]);
        if let Err(e) = super::printf::check(text, (len / 8) as usize) {
            return self.fail(e, format_args!("Invalid format string\n"));
        }
        Ok(())
    }

    fn helper_result(&mut self, p: &Proto, meta: &CallMeta, id: i32) -> Res {
        let mut flags = p.ret.flags();
        let map_type = meta.map.map(|(m, _)| self.maps[m as usize].def.map_type);
        let mut r0 = match p.ret.base() {
            RetType::INTEGER => Reg::UNKNOWN,
            RetType::VOID => Reg::NOT_INIT,
            RetType::PTR_TO_MAP_VALUE => {
                let Some((map, uid)) = meta.map else {
                    return self.bug(format_args!("unexpected null map_ptr"));
                };
                let info = &self.maps[map as usize];
                let in_range = |k: i64| k >= 0 && k < i64::from(info.def.max_entries);
                if id == func::MAP_LOOKUP_ELEM && meta.const_map_key.is_some_and(in_range) {
                    flags &= !flag::PTR_MAYBE_NULL;
                }
                let locked = info.record.as_ref().is_some_and(|r| r.has_lock());
                let mut r = Reg::pointer(RegType::MAP_VALUE.with(flags), Payload::Map { map, uid });
                if flags & flag::PTR_MAYBE_NULL == 0 {
                    if locked {
                        r.id = self.new_id();
                    }
                    if id == func::MAP_LOOKUP_ELEM {
                        self.cur_aux().non_null.get_or_insert(true);
                    }
                } else {
                    self.cur_aux().non_null = Some(false);
                }
                r
            }
            RetType::PTR_TO_SOCKET => Reg::pointer(RegType::SOCKET.with(flags), Payload::None),
            RetType::PTR_TO_SOCK_COMMON => Reg::pointer(RegType::SOCK_COMMON.with(flags), Payload::None),
            RetType::PTR_TO_TCP_SOCK => Reg::pointer(RegType::TCP_SOCK.with(flags), Payload::None),
            RetType::PTR_TO_MEM => Reg::pointer(
                RegType::MEM.with(flags),
                Payload::Mem { size: meta.mem_size as u32, dynptr_id: meta.dynptr_id },
            ),
            RetType::PTR_TO_MEM_OR_BTF_ID => self.percpu_result(meta, flags)?,
            _ => self.btf_result(p, meta, id, flags)?,
        };
        if r0.ty.may_be_null() {
            r0.id = self.new_id();
        }
        if is_ptr_cast(id) || id == func::DYNPTR_DATA {
            r0.ref_obj_id = meta.ref_obj_id;
        } else if acquires(id, map_type) {
            let rid = self.acquire(self.insn_idx);
            r0.id = rid;
            r0.ref_obj_id = rid;
        }
        self.refine_result(&mut r0, id, meta);
        *self.reg_mut(0) = r0;
        if p.ret == RetType::INTEGER {
            self.sanity_check(0, "retval")?;
        }
        Ok(())
    }

    fn percpu_result(&mut self, meta: &CallMeta, flags: u32) -> Res<Reg> {
        let Some((which, id)) = meta.ret_btf else {
            return self.bug(format_args!("no type of a per-CPU variable"));
        };
        let Some(btf) = self.btf(which) else {
            return self.bug(format_args!("no BTF of a per-CPU variable"));
        };
        let t = super::btfx::skip_modifiers(btf, TypeId(id));
        if super::btfx::is_struct(btf, t) {
            let ty = RegType::BTF_ID.with(if meta.ret_alloc {
                flag::MEM_ALLOC | flag::MEM_RCU
            } else {
                flags & !flag::MEM_RDONLY
            });
            return Ok(Reg::pointer(ty, Payload::Btf { btf: which, id }));
        }
        let Some(size) = super::btfx::size(btf, t) else {
            let name = super::btfx::name(btf, t).to_owned();
            return self
                .fail(Errno::EINVAL, format_args!("unable to resolve the size of type '{name}': -22\n"));
        };
        Ok(Reg::pointer(RegType::MEM.with(flags), Payload::Mem { size, dynptr_id: 0 }))
    }

    fn btf_result(&mut self, p: &Proto, meta: &CallMeta, id: i32, flags: u32) -> Res<Reg> {
        let mut ty = RegType::BTF_ID.with(flags);
        let (btf, target) = if let (func::KPTR_XCHG, Some(f)) = (id, &meta.kptr) {
            let (which, t) = f.target.unwrap_or((BtfRef::Kernel, 0));
            if which == BtfRef::Program {
                ty = ty.with(flag::MEM_ALLOC);
                if f.kind == crate::maps::FieldKind::KptrPercpu {
                    ty = ty.with(flag::MEM_PERCPU);
                }
            }
            (which, t)
        } else {
            let found =
                p.ret_btf.and_then(|n| self.input.kernel_btf.and_then(|b| super::btfx::find_struct(b, n)));
            (BtfRef::Kernel, found.unwrap_or(0))
        };
        if target == 0 {
            let name = helper_name(id);
            return self.fail(
                Errno::EINVAL,
                format_args!("invalid return type {} of func {name}#{id}\n", p.ret.base().0),
            );
        }
        Ok(Reg::pointer(ty, Payload::Btf { btf, id: target }))
    }

    /// Ranges that some helpers promise for their result.
    fn refine_result(&self, r0: &mut Reg, id: i32, meta: &CallMeta) {
        match id {
            func::GET_STACK
            | func::GET_TASK_STACK
            | func::PROBE_READ_STR
            | func::PROBE_READ_KERNEL_STR
            | func::PROBE_READ_USER_STR => {
                r0.smax = meta.msize_max as i64;
                r0.s32_max = meta.msize_max as i32;
                r0.smin = -MAX_ERRNO;
                r0.s32_min = -MAX_ERRNO as i32;
            }
            func::GET_SMP_PROCESSOR_ID => {
                let max = self.opts.nr_cpus.max(1) - 1;
                (r0.umin, r0.umax) = (0, u64::from(max));
                (r0.u32_min, r0.u32_max) = (0, max);
                (r0.smin, r0.smax) = (0, i64::from(max));
                (r0.s32_min, r0.s32_max) = (0, max as i32);
            }
            _ => return,
        }
        r0.bounds_sync();
    }

    /// A tail call that is made does not come back: in a subprogram, that is a way to return.
    fn after_tail_call(&mut self) -> Res {
        if self.cur.curframe() == 0 {
            return Ok(());
        }
        self.scratched_regs |= 1;
        let idx = self.insn_idx;
        self.push_state(idx + 1, idx)?;
        self.clear_pkt_pointers();
        self.mark_unknown(0);
        self.func_exit()?;
        self.insn_idx -= 1;
        Ok(())
    }
}
