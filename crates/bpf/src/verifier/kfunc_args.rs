//! Arguments of kernel functions: what each parameter's type and name ask for.
//!
//! Kernel: `kernel/bpf/verifier.c check_kfunc_args`, v6.18.

use uapi::Errno;

use super::btfx;
use super::env::{Env, Res};
use super::kfunc_call::KfuncCall;
use super::kfuncs::kf;
use super::mem::Access;
use super::refs::LockUse;
use super::reg::{BtfRef, Payload, Reg};
use super::types::{ArgType, RegType, flag};
use crate::btf::{Btf, Kind, TypeId};
use crate::maps::FieldKind;

/// What a pointer parameter wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Want {
    Ctx,
    AllocObj,
    Refcounted,
    Dynptr,
    Iter,
    ListHead,
    ListNode,
    RbRoot,
    RbNode,
    Btf,
    Mem,
    /// Memory whose size is the next argument.
    MemSize,
    Callback,
    Null,
    ConstStr,
    Map,
    Workqueue,
    TaskWork,
    IrqFlag,
    ResSpinLock,
}

/// A parameter's name ends in one of the suffixes that say what it is.
fn suffix(name: &str, suffix: &str) -> bool {
    name.len() > suffix.len() && name.ends_with(suffix)
}

fn is_aggregate(btf: &Btf, id: TypeId) -> bool {
    matches!(btfx::kind(btf, id), Kind::Struct { .. } | Kind::Union { .. })
}

/// Type that a pointer points to, without modifiers.
pub(super) fn pointee(btf: &Btf, id: TypeId) -> Option<TypeId> {
    match btfx::kind(btf, btfx::skip_modifiers(btf, id)) {
        Kind::Ptr(to) => Some(btfx::skip_modifiers(btf, *to)),
        _ => None,
    }
}

/// The kernel struct that a register of a BTF-less kind points to.
fn struct_behind(ty: RegType) -> Option<&'static str> {
    Some(match ty.base() {
        RegType::SOCKET => "sock",
        RegType::SOCK_COMMON => "sock_common",
        RegType::TCP_SOCK => "tcp_sock",
        RegType::MAP_PTR => "bpf_map",
        _ => return None,
    })
}

/// Types that are the same in memory, but must not be taken for each other: `x` and `x___init`.
fn nocast_alias(a: &str, b: &str) -> bool {
    a.strip_suffix("___init") == Some(b) || b.strip_suffix("___init") == Some(a)
}

/// Flags that a trusted pointer may have.
const TRUSTED_FLAGS: u32 = flag::MEM_ALLOC | flag::PTR_TRUSTED | flag::NON_OWN_REF;

impl<'a> Env<'a> {
    pub(super) fn check_kfunc_args(&mut self, call: &mut KfuncCall, btf: &'a Btf) -> Res {
        let n = call.kf.params.len();
        let name = call.kf.name.clone();
        if n > 5 {
            return self.fail(Errno::EINVAL, format_args!("Function {name} has {n} > 5 args\n"));
        }
        let mut i = 0;
        while i < n {
            let took_size = self.check_kfunc_arg(i, call, btf)?;
            i += 1 + usize::from(took_size);
        }
        if call.kf.has(kf::RELEASE) && call.release_regno == 0 {
            return self.fail(
                Errno::EINVAL,
                format_args!("release kernel function {name} expects refcounted PTR_TO_BTF_ID\n"),
            );
        }
        Ok(())
    }

    /// `true`: the next argument was the size of this one.
    fn check_kfunc_arg(&mut self, i: usize, call: &mut KfuncCall, btf: &'a Btf) -> Res<bool> {
        let kfunc = std::rc::Rc::clone(&call.kf);
        let (name, ty) = (kfunc.params[i].0.as_str(), kfunc.params[i].1);
        let t = btfx::skip_modifiers(btf, ty);
        if suffix(name, "__ign") || suffix(name, "__prog") {
            return Ok(false);
        }
        if btfx::is_scalar(btf, t) {
            return self.kfunc_scalar(i + 1, name, call).map(|()| false);
        }
        let Some(target) = pointee(btf, t) else {
            let kind = btfx::kind_text(btf, t);
            return self.fail(Errno::EINVAL, format_args!("Unrecognized arg#{i} type {kind}\n"));
        };
        let regno = i + 1;
        let reg = *self.reg(regno);
        let strict = kfunc.has(kf::TRUSTED_ARGS | kf::RELEASE);
        if (strict || kfunc.has(kf::RCU))
            && (reg.is_null() || reg.ty.may_be_null())
            && !suffix(name, "__nullable")
        {
            return self
                .fail(Errno::EACCES, format_args!("Possibly NULL pointer passed to trusted arg{i}\n"));
        }
        if reg.ref_obj_id != 0 {
            if kfunc.has(kf::RELEASE) && call.ref_obj_id != 0 {
                return self.bug(format_args!(
                    "more than one arg with ref_obj_id R{regno} {} {}",
                    reg.ref_obj_id, call.ref_obj_id
                ));
            }
            call.ref_obj_id = reg.ref_obj_id;
            if kfunc.has(kf::RELEASE) {
                call.release_regno = regno;
            }
        }
        let want = self.kfunc_wants(i, target, call, btf)?;
        if want == Want::Null {
            return Ok(false);
        }
        if want == Want::Map {
            self.kfunc_map(regno, &reg, call)?;
        }
        if matches!(want, Want::Map | Want::AllocObj | Want::Btf) {
            self.kfunc_trust(regno, &reg, strict, kfunc.has(kf::RCU))?;
        }
        let releases = kfunc.has(kf::RELEASE) && reg.ref_obj_id != 0;
        let arg = if releases { ArgType::DONTCARE.with(flag::OBJ_RELEASE) } else { ArgType::DONTCARE };
        self.check_arg_off(&reg, regno, arg)?;
        self.kfunc_pointer(i, want, target, call, btf)?;
        Ok(want == Want::MemSize)
    }

    fn kfunc_scalar(&mut self, regno: usize, name: &str, call: &mut KfuncCall) -> Res {
        let reg = *self.reg(regno);
        if !reg.is_scalar() {
            return self.fail(Errno::EINVAL, format_args!("R{regno} is not a scalar\n"));
        }
        if suffix(name, "__k") {
            return self.kfunc_constant(regno, call, true);
        }
        if name != "rdonly_buf_size" && name != "rdwr_buf_size" {
            return Ok(());
        }
        call.r0_rdonly |= name == "rdonly_buf_size";
        if call.r0_size != 0 {
            return self
                .fail(Errno::EINVAL, format_args!("2 or more rdonly/rdwr_buf_size parameters for kfunc"));
        }
        if !reg.var_off.is_const() {
            return self.fail(Errno::EINVAL, format_args!("R{regno} is not a const\n"));
        }
        call.r0_size = reg.var_off.value as u32;
        self.mark_precise(regno)
    }

    /// A scalar whose value decides what the call does.
    fn kfunc_constant(&mut self, regno: usize, call: &mut KfuncCall, precise: bool) -> Res {
        if call.constant.is_some() {
            return self.bug(format_args!("only one constant argument permitted"));
        }
        let reg = *self.reg(regno);
        if !reg.var_off.is_const() {
            return self.fail(Errno::EINVAL, format_args!("R{regno} must be a known constant\n"));
        }
        if precise {
            self.mark_precise(regno)?;
        }
        call.constant = Some(reg.var_off.value);
        Ok(())
    }

    fn kfunc_trust(&mut self, regno: usize, reg: &Reg, strict: bool, rcu: bool) -> Res {
        if !strict && !rcu || self.is_trusted(reg) {
            return Ok(());
        }
        if !rcu {
            return self.fail(Errno::EINVAL, format_args!("R{regno} must be referenced or trusted\n"));
        }
        if !reg.ty.has(flag::MEM_RCU) {
            return self.fail(Errno::EINVAL, format_args!("R{regno} must be a rcu pointer\n"));
        }
        Ok(())
    }

    /// What a pointer parameter wants, by the function, the parameter's type and name, and the register.
    fn kfunc_wants(&mut self, i: usize, target: TypeId, call: &KfuncCall, btf: &'a Btf) -> Res<Want> {
        let params = &call.kf.params;
        let name = params[i].0.as_str();
        let reg = *self.reg(i + 1);
        let sized = params.get(i + 1).is_some_and(|(n, t)| {
            btfx::is_scalar(btf, btfx::skip_modifiers(btf, *t))
                && self.reg(i + 2).is_scalar()
                && (suffix(n, "__sz") || suffix(n, "__szk"))
        });
        let struct_name = if is_aggregate(btf, target) { btfx::name(btf, target) } else { "" };
        if call.kf.name == "bpf_cast_to_kern_ctx" || matches!(struct_name, "xdp_md" | "xdp_buff") {
            return Ok(Want::Ctx);
        }
        if suffix(name, "__nullable") && reg.is_null() && !sized {
            return Ok(Want::Null);
        }
        let by_suffix = [("__alloc", Want::AllocObj), ("__refcounted_kptr", Want::Refcounted)];
        if let Some((_, w)) = by_suffix.iter().find(|(s, _)| suffix(name, s)) {
            return Ok(*w);
        }
        if struct_name == "bpf_dynptr" {
            return Ok(Want::Dynptr);
        }
        let iter = if call.kf.is_iter() { i == 0 } else { suffix(name, "__iter") };
        if iter {
            return Ok(Want::Iter);
        }
        let early = match struct_name {
            "bpf_list_head" => Some(Want::ListHead),
            "bpf_list_node" => Some(Want::ListNode),
            "bpf_rb_root" => Some(Want::RbRoot),
            "bpf_rb_node" => Some(Want::RbNode),
            _ if suffix(name, "__str") => Some(Want::ConstStr),
            _ if suffix(name, "__map") => Some(Want::Map),
            "bpf_wq" => Some(Want::Workqueue),
            "bpf_task_work" => Some(Want::TaskWork),
            _ if suffix(name, "__irq_flag") => Some(Want::IrqFlag),
            "bpf_res_spin_lock" => Some(Want::ResSpinLock),
            _ => None,
        };
        if let Some(w) = early {
            return Ok(w);
        }
        self.kfunc_wants_by_register(i, target, call, btf, sized)
    }

    fn kfunc_wants_by_register(
        &mut self,
        i: usize,
        target: TypeId,
        call: &KfuncCall,
        btf: &'a Btf,
        sized: bool,
    ) -> Res<Want> {
        let reg = *self.reg(i + 1);
        let (kind, tname) = (btfx::kind_text(btf, target), btfx::name(btf, target));
        if reg.ty.base() == RegType::BTF_ID || struct_behind(reg.ty).is_some() {
            if !is_aggregate(btf, target) {
                let name = &call.kf.name;
                return self.fail(
                    Errno::EINVAL,
                    format_args!(
                        "kernel function {name} args#{i} pointer type {kind} {tname} is not supported\n"
                    ),
                );
            }
            return Ok(Want::Btf);
        }
        if matches!(btfx::kind(btf, target), Kind::FuncProto { .. }) {
            return Ok(Want::Callback);
        }
        let void = matches!(btfx::kind(btf, target), Kind::Void);
        let plain = btfx::is_scalar(btf, target) || self.scalar_struct(btf, target, 0);
        let untyped = sized && void;
        if !plain && !untyped {
            let or_void = if sized { "void, " } else { "" };
            return self.fail(
                Errno::EINVAL,
                format_args!(
                    "arg#{i} pointer type {kind} {tname} must point to {or_void}scalar, or struct with scalar\n"
                ),
            );
        }
        Ok(if sized { Want::MemSize } else { Want::Mem })
    }

    /// A struct of nothing but numbers.
    pub(super) fn scalar_struct(&mut self, btf: &'a Btf, id: TypeId, depth: u32) -> bool {
        if !is_aggregate(btf, id) {
            return false;
        }
        for m in btfx::members(btf, id) {
            let t = btfx::skip_modifiers(btf, m.ty);
            if is_aggregate(btf, t) {
                if depth >= 3 {
                    self.say(format_args!("max struct nesting depth exceeded\n"));
                    return false;
                }
                if !self.scalar_struct(btf, t, depth + 1) {
                    return false;
                }
                continue;
            }
            let ok = match btfx::kind(btf, t) {
                Kind::Array { elem, len, .. } => {
                    *len != 0 && btfx::is_scalar(btf, btfx::skip_modifiers(btf, *elem))
                }
                _ => btfx::is_scalar(btf, t),
            };
            if !ok {
                return false;
            }
        }
        true
    }

    /// A map argument: the same map as that of a work queue or task work before it.
    fn kfunc_map(&mut self, regno: usize, reg: &Reg, call: &mut KfuncCall) -> Res {
        let Payload::Map { map, uid } = reg.pl else {
            return self.fail(Errno::EINVAL, format_args!("pointer in R{regno} isn't map pointer\n"));
        };
        let rec = self.maps[map as usize].record.as_ref();
        let has = |k| rec.is_some_and(|r| r.has(k));
        if let Some((before, before_uid)) = call.meta.map
            && (has(FieldKind::Workqueue) || has(FieldKind::TaskWork))
            && (before, before_uid) != (map, uid)
        {
            return if has(FieldKind::TaskWork) {
                self.fail(
                    Errno::EINVAL,
                    format_args!(
                        "bpf_task_work pointer in R2 map_uid={before_uid} doesn't match map pointer in R3 \
                         map_uid={uid}\n"
                    ),
                )
            } else {
                self.fail(
                    Errno::EINVAL,
                    format_args!(
                        "workqueue pointer in R1 map_uid={before_uid} doesn't match map pointer in R2 \
                         map_uid={uid}\n"
                    ),
                )
            };
        }
        call.meta.map = Some((map, uid));
        Ok(())
    }

    fn kfunc_pointer(
        &mut self,
        i: usize,
        want: Want,
        target: TypeId,
        call: &mut KfuncCall,
        btf: &'a Btf,
    ) -> Res {
        let regno = i + 1;
        let reg = *self.reg(regno);
        match want {
            Want::Ctx if reg.ty != RegType::CTX => {
                let text = reg.ty.text();
                self.fail(Errno::EINVAL, format_args!("arg#{i} expected pointer to ctx, but got {text}\n"))
            }
            Want::Ctx | Want::Null => Ok(()),
            Want::AllocObj => self.kfunc_alloc_obj(i, &reg, call),
            Want::Refcounted => self.kfunc_refcounted(i, &reg, call),
            Want::Dynptr => self.kfunc_dynptr(i, &reg, call),
            Want::Iter => self.kfunc_iter(i, call, btf),
            Want::ListHead => self.kfunc_graph_root(i, FieldKind::ListHead, call),
            Want::RbRoot => self.kfunc_graph_root(i, FieldKind::RbRoot, call),
            Want::ListNode => self.kfunc_graph_node(i, FieldKind::ListNode, call),
            Want::RbNode => self.kfunc_graph_node(i, FieldKind::RbNode, call),
            Want::Map => {
                let id = btfx::find_struct(btf, "bpf_map").unwrap_or(0);
                self.kfunc_btf_arg(i, &reg, TypeId(id), call, btf)
            }
            Want::Btf => self.kfunc_btf_arg(i, &reg, target, call, btf),
            Want::Mem => match btfx::size(btf, target) {
                Some(size) => self.check_mem_reg(regno, size),
                None => {
                    let (kind, name) = (btfx::kind_text(btf, target), btfx::name(btf, target));
                    self.fail(
                        Errno::EINVAL,
                        format_args!(
                            "arg#{i} reference type('{kind} {name}') size cannot be determined: -22\n"
                        ),
                    )
                }
            },
            Want::MemSize => self.kfunc_sized_mem(i, &reg, call),
            Want::Callback => match reg.pl {
                Payload::Subprog(n) if reg.ty == RegType::FUNC => {
                    call.meta.subprogno = n;
                    Ok(())
                }
                _ => self.fail(Errno::EINVAL, format_args!("arg{i} expected pointer to func\n")),
            },
            Want::ConstStr if reg.ty != RegType::MAP_VALUE => {
                self.fail(Errno::EINVAL, format_args!("arg#{i} doesn't point to a const string\n"))
            }
            Want::ConstStr => self.const_str(&reg, regno),
            Want::Workqueue | Want::TaskWork if reg.ty != RegType::MAP_VALUE => {
                self.fail(Errno::EINVAL, format_args!("arg#{i} doesn't point to a map value\n"))
            }
            Want::Workqueue => self.map_field(regno, FieldKind::Workqueue, &mut call.meta),
            Want::TaskWork => self.map_field(regno, FieldKind::TaskWork, &mut call.meta),
            Want::IrqFlag if reg.ty != RegType::STACK => {
                self.fail(Errno::EINVAL, format_args!("arg#{i} doesn't point to an irq flag on stack\n"))
            }
            Want::IrqFlag => self.kfunc_irq_flag(i, call),
            Want::ResSpinLock => self.kfunc_res_lock(i, &reg, call),
        }
    }

    fn kfunc_res_lock(&mut self, i: usize, reg: &Reg, call: &KfuncCall) -> Res {
        if reg.ty != RegType::MAP_VALUE && reg.ty != RegType::BTF_ID.with(flag::MEM_ALLOC) {
            return self.fail(
                Errno::EINVAL,
                format_args!("arg#{i} doesn't point to map value or allocated object\n"),
            );
        }
        let name = call.kf.name.as_str();
        let lock = name.starts_with("bpf_res_spin_lock");
        let irq = matches!(name, "bpf_res_spin_lock_irqsave" | "bpf_res_spin_unlock_irqrestore");
        self.process_spin_lock(i + 1, LockUse { lock, resilient: true, irq })
    }

    fn kfunc_alloc_obj(&mut self, i: usize, reg: &Reg, call: &mut KfuncCall) -> Res {
        let alloc = RegType::BTF_ID.with(flag::MEM_ALLOC);
        let wanted = if reg.ty == alloc {
            "bpf_obj_drop_impl"
        } else if reg.ty == alloc.with(flag::MEM_PERCPU) {
            "bpf_percpu_obj_drop_impl"
        } else {
            return self.fail(Errno::EINVAL, format_args!("arg#{i} expected pointer to allocated object\n"));
        };
        if call.kf.name != wanted {
            return self.fail(Errno::EINVAL, format_args!("arg#{i} expected for {wanted}()\n"));
        }
        if reg.ref_obj_id == 0 {
            return self.fail(Errno::EINVAL, format_args!("allocated object must be referenced\n"));
        }
        call.obj = Some(reg.btf());
        Ok(())
    }

    fn kfunc_refcounted(&mut self, i: usize, reg: &Reg, call: &mut KfuncCall) -> Res {
        if !reg.ty.is_ptr_alloc_obj() {
            return self.fail(Errno::EINVAL, format_args!("arg#{i} is neither owning or non-owning ref\n"));
        }
        if !reg.ty.is_non_owning_ref() {
            call.owning_ref = true;
        }
        let Some(rec) = self.reg_record(reg) else {
            return self.bug(format_args!("Couldn't find btf_record"));
        };
        if !rec.has(FieldKind::Refcount) {
            return self.fail(
                Errno::EINVAL,
                format_args!("arg#{i} doesn't point to a type with bpf_refcount field\n"),
            );
        }
        call.obj = Some(reg.btf());
        Ok(())
    }

    fn kfunc_dynptr(&mut self, i: usize, reg: &Reg, call: &mut KfuncCall) -> Res {
        let mut arg = ArgType::PTR_TO_DYNPTR;
        if reg.ty == RegType::DYNPTR {
            arg = arg.with(flag::MEM_RDONLY);
        }
        let uninit = suffix(&call.kf.params[i].0, "__uninit");
        if uninit {
            arg = arg.with(flag::MEM_UNINIT);
        }
        let mut clone_ref = 0;
        match call.kf.name.as_str() {
            "bpf_dynptr_from_skb" => arg = arg.with(flag::DYNPTR_SKB),
            "bpf_dynptr_from_xdp" => arg = arg.with(flag::DYNPTR_XDP),
            "bpf_dynptr_from_skb_meta" => arg = arg.with(flag::DYNPTR_SKB_META),
            "bpf_dynptr_clone" if uninit => {
                let Some((_, parent, parent_ref)) = call.dynptr else {
                    return self.bug(format_args!("no dynptr type for parent of clone"));
                };
                arg = arg.with(parent.to_flag());
                clone_ref = parent_ref;
            }
            _ => {}
        }
        self.process_dynptr(i + 1, self.insn_idx, arg, clone_ref)?;
        if !uninit {
            let Some(d) = self.dynptr_of(reg) else {
                return self.bug(format_args!("failed to obtain dynptr id"));
            };
            call.dynptr = Some((d.id, d.dynptr_type(), d.ref_obj_id));
        }
        Ok(())
    }

    fn kfunc_btf_arg(&mut self, i: usize, reg: &Reg, want: TypeId, call: &KfuncCall, btf: &'a Btf) -> Res {
        let unsafe_flags = reg.ty.has(!TRUSTED_FLAGS & !0xff);
        let behind = struct_behind(reg.ty);
        let is_btf = reg.ty.base() == RegType::BTF_ID && (!unsafe_flags || reg.ty.has(flag::MEM_RCU));
        if !is_btf && behind.is_none() {
            let expected = RegType(reg.ty.base().0 | reg.ty.flags() & TRUSTED_FLAGS).text();
            let text = reg.ty.text();
            return self
                .fail(Errno::EINVAL, format_args!("arg#{i} is {text} expected {expected} or socket\n"));
        }
        let have = match behind {
            Some(n) if reg.ty.base() != RegType::BTF_ID => {
                (BtfRef::Kernel, btfx::find_struct(btf, n).unwrap_or(0))
            }
            _ => reg.btf(),
        };
        let want_name = btfx::name(btf, want);
        let have_name = self.btf_name(have.0, have.1).to_owned();
        let strict = call.kf.has(kf::RELEASE) && reg.ref_obj_id != 0 || nocast_alias(&have_name, want_name);
        let same = self.struct_matches(have, reg.off, (BtfRef::Kernel, want.0), strict);
        let projection = matches!((want_name, have_name.as_str()), ("xdp_md", "xdp_buff"));
        if same || projection {
            return Ok(());
        }
        let (name, want_kind) = (&call.kf.name, btfx::kind_text(btf, want));
        let have_kind = self.btf(have.0).map_or("UNKNOWN", |b| btfx::kind_text(b, TypeId(have.1)));
        let regno = i + 1;
        self.fail(
            Errno::EINVAL,
            format_args!(
                "kernel function {name} args#{i} expected pointer to {want_kind} {want_name} but R{regno} has \
                 a pointer to {have_kind} {have_name}\n"
            ),
        )
    }

    /// Memory and its size: readable and writable.
    fn kfunc_sized_mem(&mut self, i: usize, reg: &Reg, call: &mut KfuncCall) -> Res {
        let (buf, size) = (i + 1, i + 2);
        let name = call.kf.params[i].0.as_str();
        let optional = suffix(name, "__opt") || suffix(name, "__nullable");
        if !reg.is_null() || !optional {
            if reg.ty.may_be_null() {
                let mut r = *reg;
                self.mark_not_null(&mut r);
                *self.reg_mut(buf) = r;
            }
            let mut meta = super::mem::CallMeta::default();
            let out = self
                .mem_size_arg(size, Access::Read, true, &mut meta)
                .and_then(|()| self.mem_size_arg(size, Access::Write, true, &mut meta));
            if reg.ty.may_be_null() {
                *self.reg_mut(buf) = *reg;
            }
            if let Err(e) = out {
                let j = i + 1;
                return self.fail(
                    e,
                    format_args!("arg#{i} arg#{j} memory, len pair leads to invalid memory access\n"),
                );
            }
        }
        if suffix(&call.kf.params[i + 1].0, "__szk") {
            self.kfunc_constant(size, call, false)?;
        }
        Ok(())
    }
}
