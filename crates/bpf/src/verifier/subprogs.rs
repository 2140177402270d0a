//! Contracts of functions: what their BTF says of their arguments, and whether a caller keeps it.

use uapi::Errno;

use super::btfx;
use super::env::{Env, Res, SubArg};
use super::mem::CallMeta;
use super::reg::BtfRef;
use super::types::{ArgType, RegType, flag};
use crate::btf::{Btf, Kind, TypeId};

/// Tags of an argument (`__arg_ctx` and so on).
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Tags {
    ctx: bool,
    trusted: bool,
    untrusted: bool,
    nonnull: bool,
    nullable: bool,
    arena: bool,
}

impl Tags {
    const NONE: Self =
        Self { ctx: false, trusted: false, untrusted: false, nonnull: false, nullable: false, arena: false };

    fn set(&mut self, tag: &str) -> bool {
        match tag {
            "ctx" => self.ctx = true,
            "trusted" => self.trusted = true,
            "untrusted" => self.untrusted = true,
            "nonnull" => self.nonnull = true,
            "nullable" => self.nullable = true,
            "arena" => self.arena = true,
            _ => return false,
        }
        true
    }
}

/// Whether a pointer's target is the context of XDP programs.
pub(super) fn is_ctx_type(btf: &Btf, ptr: TypeId) -> bool {
    let Kind::Ptr(to) = btfx::kind(btf, ptr) else { return false };
    let t = btfx::skip_modifiers(btf, *to);
    // A renamed copy (`xdp_md___local`) is a projection of the same type.
    btfx::is_struct(btf, t) && {
        let name = btfx::name(btf, t);
        name == "xdp_md" || name.starts_with("xdp_md___")
    }
}

impl<'a> Env<'a> {
    /// Reads a function's argument contract from its BTF.
    ///
    /// Kernel: `kernel/bpf/btf.c btf_prepare_func_args`, v6.18.
    pub(super) fn prepare_func_args(&mut self, sub: usize) -> Res {
        if self.subprogs[sub].args.is_some() {
            return Ok(());
        }
        let global = self.subprogs[sub].is_global;
        let (Some(btf), Some(id)) = (self.input.btf, self.subprogs[sub].btf) else {
            if !global {
                return Err(Errno::EINVAL);
            }
            return self.fail(Errno::EFAULT, format_args!("Global functions need valid BTF\n"));
        };
        let name = btfx::name(btf, id).to_owned();
        let Some((params, ret)) = btfx::params(btf, id) else {
            return self.fail(Errno::EFAULT, format_args!("Invalid type of function {name}()\n"));
        };
        if params.len() > 5 {
            if !global {
                return Err(Errno::EINVAL);
            }
            let n = params.len();
            return self.fail(
                Errno::EINVAL,
                format_args!("Global function {name}() with {n} > 5 args. Buggy compiler.\n"),
            );
        }
        if !btfx::is_scalar(btf, btfx::skip_modifiers(btf, ret)) {
            if !global {
                return Err(Errno::EINVAL);
            }
            return self.fail(
                Errno::EINVAL,
                format_args!("Global function {name}() doesn't return scalar. Only those are supported.\n"),
            );
        }
        let mut args = Vec::with_capacity(params.len());
        for (i, (_, ty)) in params.iter().enumerate() {
            args.push(self.prepare_arg(btf, id, i, *ty, global, &name)?);
        }
        self.subprogs[sub].args = Some(args);
        Ok(())
    }

    fn arg_tags(&mut self, btf: &'a Btf, func: TypeId, i: usize, global: bool) -> Res<Tags> {
        let mut tags = Tags::default();
        for t in btfx::decl_tags(btf, func, i as i32).filter_map(|t| t.strip_prefix("arg:")) {
            if !global {
                return self.fail(
                    Errno::EOPNOTSUPP,
                    format_args!("arg#{i} type tag is not supported in static functions\n"),
                );
            }
            if !tags.set(t) {
                return self.fail(Errno::EOPNOTSUPP, format_args!("arg#{i} has unsupported set of tags\n"));
            }
        }
        Ok(tags)
    }

    fn bad_tags<T>(&mut self, i: usize) -> Res<T> {
        self.fail(Errno::EINVAL, format_args!("arg#{i} has invalid combination of tags\n"))
    }

    fn prepare_arg(
        &mut self,
        btf: &'a Btf,
        func: TypeId,
        i: usize,
        ty: TypeId,
        global: bool,
        name: &str,
    ) -> Res<SubArg> {
        let tags = self.arg_tags(btf, func, i, global)?;
        let t = btfx::skip_modifiers(btf, ty);
        let plain = |ty| SubArg { ty, extra: 0 };
        if !matches!(btfx::kind(btf, t), Kind::Ptr(_)) {
            if tags != Tags::NONE {
                return self.fail(
                    Errno::EINVAL,
                    format_args!("arg#{i} has pointer tag, but is not a pointer type\n"),
                );
            }
            if btfx::is_scalar(btf, t) {
                return Ok(plain(ArgType::ANYTHING));
            }
            if !global {
                return Err(Errno::EINVAL);
            }
            let kind = btfx::kind_text(btf, t);
            return self.fail(
                Errno::EINVAL,
                format_args!("Arg#{i} type {kind} in {name}() is not supported yet.\n"),
            );
        }
        if tags.ctx || is_ctx_type(btf, t) {
            if (Tags { ctx: false, ..tags }) != Tags::NONE {
                return self.bad_tags(i);
            }
            if tags.ctx {
                self.validate_ctx_arg(btf, t, i)?;
            }
            return Ok(plain(ArgType::PTR_TO_CTX));
        }
        let Kind::Ptr(to) = btfx::kind(btf, t) else { return Err(Errno::EINVAL) };
        let target = btfx::skip_modifiers(btf, *to);
        if btfx::is_struct(btf, target) && matches!(btfx::name(btf, target), "bpf_dynptr" | "bpf_dynptr_kern")
        {
            if tags != Tags::NONE {
                return self.bad_tags(i);
            }
            return Ok(plain(ArgType::PTR_TO_DYNPTR.with(flag::MEM_RDONLY)));
        }
        if tags.trusted {
            if tags.nonnull {
                return self.bad_tags(i);
            }
            let null = if tags.nullable { flag::PTR_MAYBE_NULL } else { 0 };
            let extra = self.kernel_type_of(btf, target, i)?;
            return Ok(SubArg { ty: ArgType::PTR_TO_BTF_ID.with(flag::PTR_TRUSTED | null), extra });
        }
        if tags.untrusted {
            return self.untrusted_arg(btf, target, i, tags);
        }
        if tags.arena {
            if (Tags { arena: false, ..tags }) != Tags::NONE {
                return self.fail(
                    Errno::EINVAL,
                    format_args!("arg#{i} arena cannot be combined with any other tags\n"),
                );
            }
            return Ok(plain(ArgType::PTR_TO_ARENA));
        }
        if !global {
            return Err(Errno::EINVAL);
        }
        if tags.nullable {
            return self.bad_tags(i);
        }
        let Some(extra) = btfx::size(btf, target) else {
            let (kind, tname) = (btfx::kind_text(btf, target), btfx::name(btf, target).to_owned());
            return self.fail(
                Errno::EINVAL,
                format_args!("arg#{i} reference type('{kind} {tname}') size cannot be determined: -22\n"),
            );
        };
        let null = if tags.nonnull { 0 } else { flag::PTR_MAYBE_NULL };
        Ok(SubArg { ty: ArgType::PTR_TO_MEM.with(null), extra })
    }

    fn untrusted_arg(&mut self, btf: &'a Btf, target: TypeId, i: usize, tags: Tags) -> Res<SubArg> {
        if (Tags { untrusted: false, ..tags }) != Tags::NONE {
            return self.fail(
                Errno::EINVAL,
                format_args!("arg#{i} untrusted cannot be combined with any other tags\n"),
            );
        }
        if matches!(btfx::kind(btf, target), Kind::Void) || btfx::is_scalar(btf, target) {
            let ty = ArgType::PTR_TO_MEM.with(flag::MEM_RDONLY | flag::PTR_UNTRUSTED);
            return Ok(SubArg { ty, extra: 0 });
        }
        let extra = self.kernel_type_of(btf, target, i)?;
        Ok(SubArg { ty: ArgType::PTR_TO_BTF_ID.with(flag::PTR_UNTRUSTED), extra })
    }

    /// `__arg_ctx` on a type that is no context.
    fn validate_ctx_arg(&mut self, btf: &'a Btf, ptr: TypeId, i: usize) -> Res {
        let Kind::Ptr(to) = btfx::kind(btf, ptr) else { return Ok(()) };
        let t = btfx::skip_modifiers(btf, *to);
        if matches!(btfx::kind(btf, t), Kind::Void) || is_ctx_type(btf, ptr) {
            return Ok(());
        }
        self.fail(Errno::EINVAL, format_args!("arg#{i} doesn't match xdp prog ctx type\n"))
    }

    /// The kernel's struct of the same name.
    fn kernel_type_of(&mut self, btf: &'a Btf, target: TypeId, i: usize) -> Res<u32> {
        let name = btfx::name(btf, target);
        let essential = name.split("___").next().unwrap_or(name);
        let found = self.input.kernel_btf.and_then(|k| btfx::find_struct(k, essential));
        match found {
            Some(id) => Ok(id),
            None => {
                let name = name.to_owned();
                let kind = btfx::kind_text(btf, target);
                self.fail(
                    Errno::ENOENT,
                    format_args!("arg#{i} type {kind} {name} could not be found in kernel BTF\n"),
                )
            }
        }
    }

    /// Whether the current argument registers keep a function's contract.
    pub(super) fn check_subprog_call(&mut self, sub: usize) -> Res {
        if !self.has_func_info {
            return Err(Errno::EINVAL);
        }
        let len = self.message.len();
        let out = self.prepare_func_args(sub).and_then(|()| self.match_args(sub));
        if out.is_err() && !self.subprogs[sub].is_global {
            // For a static function the contract is no rule: it is verified with what it is given.
            self.message.truncate(len);
        }
        out
    }

    fn match_args(&mut self, sub: usize) -> Res {
        let args = self.subprogs[sub].args.clone().unwrap_or_default();
        for (i, a) in args.iter().enumerate() {
            let regno = i + 1;
            let reg = *self.reg(regno);
            match a.ty.base() {
                ArgType::ANYTHING => {
                    if !reg.is_scalar() {
                        return self.fail(Errno::EINVAL, format_args!("R{regno} is not a scalar\n"));
                    }
                }
                _ if a.ty.has(flag::PTR_UNTRUSTED) => {}
                ArgType::PTR_TO_CTX => {
                    self.check_arg_off(&reg, regno, ArgType::DONTCARE)?;
                    if reg.ty != RegType::CTX {
                        return self.fail(Errno::EINVAL, format_args!("arg#{i} expects pointer to ctx\n"));
                    }
                }
                ArgType::PTR_TO_MEM => {
                    self.check_arg_off(&reg, regno, ArgType::DONTCARE)?;
                    if self.check_mem_reg(regno, a.extra).is_err() {
                        return Err(Errno::EINVAL);
                    }
                    if !a.ty.may_be_null() && reg.ty.may_be_null() {
                        return self
                            .fail(Errno::EINVAL, format_args!("arg#{i} is expected to be non-NULL\n"));
                    }
                }
                ArgType::PTR_TO_ARENA => {
                    if reg.ty != RegType::ARENA && !reg.is_scalar() {
                        return self.fail(
                            Errno::EINVAL,
                            format_args!("R{regno} is not a pointer to arena or scalar.\n"),
                        );
                    }
                }
                ArgType::PTR_TO_DYNPTR => {
                    self.check_arg_off(&reg, regno, ArgType::PTR_TO_DYNPTR)?;
                    self.process_dynptr(regno, u32::MAX, a.ty, 0)?;
                }
                _ => {
                    if reg.is_null() && a.ty.may_be_null() {
                        continue;
                    }
                    let name = self.btf_name(BtfRef::Kernel, a.extra).to_owned();
                    self.check_reg_type(regno, a.ty, Some(&name), &CallMeta::default())?;
                    self.check_arg_off(&reg, regno, a.ty)?;
                }
            }
        }
        Ok(())
    }
}
