//! Reads through pointers to kernel structs and to objects that the program allocated.

use uapi::Errno;

use super::btfx;
use super::env::{Env, Res};
use super::mem::Access;
use super::record::Field;
use super::reg::{BtfRef, Payload, Reg};
use super::types::{RegType, flag};
use crate::btf::{Btf, Kind, TypeId};
use crate::maps::FieldKind;

/// What lies at an offset of a struct.
enum Walk {
    Scalar,
    /// A pointer to a struct: its type, flags from type tags, the member's name.
    Ptr(u32, u32, String),
    PtrUntrusted,
    /// A nested struct that begins here.
    Struct(u32),
}

/// Elements of an array (all dimensions), their type and total size.
fn array_of(btf: &Btf, id: TypeId) -> Option<(TypeId, u32, u32)> {
    let mut elem = btfx::skip_modifiers(btf, id);
    let mut total = 1u32;
    while let Kind::Array { elem: e, len, .. } = btfx::kind(btf, elem) {
        total = total.checked_mul(*len)?;
        elem = btfx::skip_modifiers(btf, *e);
    }
    Some((elem, total, btfx::size(btf, id)?))
}

impl Env<'_> {
    fn struct_walk(&mut self, btf: &Btf, id: u32, mut off: i32, size: i32, flags: &mut u32) -> Res<Walk> {
        let mut t = btfx::skip_modifiers(btf, TypeId(id));
        for _ in 0..32 {
            let name = btfx::name(btf, t).to_owned();
            let (members, tsize) = match btfx::kind(btf, t) {
                Kind::Struct { size, members } => (members, *size as i32),
                Kind::Union { size, members } => {
                    if members.len() != 1 {
                        *flags |= flag::PTR_UNTRUSTED;
                    }
                    (members, *size as i32)
                }
                _ => return self.fail(Errno::EINVAL, format_args!("Type '{name}' is not a struct\n")),
            };
            if off + size > tsize {
                match flexible_array(btf, members, off) {
                    Some((elem, at)) if btfx::is_scalar(btf, elem) => {
                        let _ = at;
                        return Ok(Walk::Scalar);
                    }
                    Some((elem, at)) if !btfx::members(btf, elem).is_empty() => {
                        let esize = btfx::size(btf, elem).unwrap_or(1).max(1) as i32;
                        off = (off - at) % esize;
                        t = elem;
                        continue;
                    }
                    _ => {
                        return self.fail(
                            Errno::EACCES,
                            format_args!("access beyond struct {name} at off {off} size {size}\n"),
                        );
                    }
                }
            }
            match self.walk_member(btf, members, off, size, &name, flags)? {
                Ok(w) => return Ok(w),
                Err((inner, at)) => {
                    t = inner;
                    off = at;
                }
            }
        }
        Err(Errno::EINVAL)
    }

    /// The member at an offset; `Err`: look on within a nested struct.
    fn walk_member(
        &mut self,
        btf: &Btf,
        members: &[crate::btf::Member],
        off: i32,
        size: i32,
        tname: &str,
        flags: &mut u32,
    ) -> Res<Result<Walk, (TypeId, i32)>> {
        for m in members {
            let mut moff = (m.bit_offset / 8) as i32;
            if off + size <= moff {
                break;
            }
            if m.bitfield_bits != 0 {
                let end = (m.bit_offset + u32::from(m.bitfield_bits)).div_ceil(8) as i32;
                if off <= moff && end <= off + size {
                    return Ok(Ok(Walk::Scalar));
                }
                continue;
            }
            if off < moff {
                break;
            }
            let mname = btfx::member_name(btf, m).to_owned();
            let Some((elem, count, msize)) = array_of(btf, m.ty) else {
                return self.fail(Errno::EFAULT, format_args!("field {mname} doesn't have size\n"));
            };
            let end = moff + msize as i32;
            if off >= end {
                continue;
            }
            let esize = msize as i32 / count.max(1) as i32;
            moff += (off - moff) / esize.max(1) * esize;
            match btfx::kind(btf, elem) {
                Kind::Struct { .. } | Kind::Union { .. } => {
                    if off == moff {
                        return Ok(Ok(Walk::Struct(elem.0)));
                    }
                    return Ok(Err((elem, off - moff)));
                }
                Kind::Ptr(to) => {
                    if esize != size || off != moff {
                        return self.fail(
                            Errno::EACCES,
                            format_args!(
                                "cannot access ptr member {mname} with moff {moff} in struct {tname} with off {off} size {size}\n"
                            ),
                        );
                    }
                    return Ok(Ok(pointer_member(btf, *to, mname, flags)));
                }
                _ => {}
            }
            if off + size > end && *flags & flag::PTR_UNTRUSTED == 0 {
                return self.fail(
                    Errno::EACCES,
                    format_args!(
                        "access beyond the end of member {mname} (mend:{end}) in struct {tname} with off {off} size {size}\n"
                    ),
                );
            }
            return Ok(Ok(Walk::Scalar));
        }
        self.fail(Errno::EINVAL, format_args!("struct {tname} doesn't have field at offset {off}\n"))
    }

    /// A read of a struct: what the destination becomes, its flags and the member's name.
    fn struct_access(&mut self, reg: &Reg, off: i32, size: i32) -> Res<(RegType, u32, u32, String)> {
        let (which, id) = reg.btf();
        let Some(btf) = self.btf(which) else {
            return self.fail(Errno::EINVAL, format_args!("no BTF for the accessed type\n"));
        };
        let alloc = reg.ty.has(flag::MEM_ALLOC);
        if alloc && let Some(rec) = self.struct_record(id) {
            let hit = rec
                .fields
                .iter()
                .find(|f| off < (f.offset + f.size) as i32 && (f.offset as i32) < off + size);
            if let Some(f) = hit {
                let what = f.kind.text();
                return self.fail(Errno::EACCES, format_args!("direct access to {what} is disallowed\n"));
            }
        }
        let (mut id, mut off, mut flags) = (id, off, 0);
        for _ in 0..32 {
            match self.struct_walk(btf, id, off, size, &mut flags)? {
                Walk::Scalar => return Ok((RegType::SCALAR, 0, 0, String::new())),
                Walk::Ptr(..) if alloc => return Ok((RegType::SCALAR, 0, 0, String::new())),
                Walk::Ptr(to, f, name) => return Ok((RegType::BTF_ID, to, flags | f, name)),
                Walk::PtrUntrusted => {
                    return Ok((RegType::MEM, 0, flag::MEM_RDONLY | flag::PTR_UNTRUSTED, String::new()));
                }
                Walk::Struct(inner) => {
                    id = inner;
                    off = 0;
                }
            }
        }
        Err(Errno::EINVAL)
    }

    pub(super) fn btf_access(
        &mut self,
        regno: usize,
        reg: &Reg,
        off: i32,
        size: i32,
        access: Access,
    ) -> Res<Option<Reg>> {
        let (which, id) = reg.btf();
        let tname = self.btf_name(which, id).to_owned();
        if !self.input.gpl && which == BtfRef::Kernel {
            return self.fail(
                Errno::EINVAL,
                format_args!("Cannot access kernel 'struct {tname}' from non-GPL compatible program\n"),
            );
        }
        if off < 0 {
            return self.fail(
                Errno::EACCES,
                format_args!("R{regno} is ptr_{tname} invalid negative access: off={off}\n"),
            );
        }
        if !reg.var_off.equals_const(0) {
            let t = reg.var_off;
            return self.fail(
                Errno::EACCES,
                format_args!("R{regno} is ptr_{tname} invalid variable offset: off={off}, var_off={t}\n"),
            );
        }
        for (bit, what) in [(flag::MEM_USER, "user"), (flag::MEM_PERCPU, "percpu")] {
            if reg.ty.has(bit) {
                return self.fail(
                    Errno::EACCES,
                    format_args!("R{regno} is ptr_{tname} access {what} memory: off={off}\n"),
                );
            }
        }
        if which == BtfRef::Kernel {
            self.note_unserved(id, off, size);
        }
        if access == Access::Write && !reg.ty.is_ptr_alloc_obj() {
            // Kernel structs are written through functions; XDP has nf_conn's mark as an exception.
            return self.write_kernel_struct(reg, off, size);
        }
        let (ty, target, mut flags, field) = self.struct_access(reg, off, size)?;
        if access == Access::Write || ty == RegType::SCALAR {
            return Ok(Some(Reg::UNKNOWN));
        }
        if ty == RegType::MEM {
            return Ok(Some(Reg::pointer(ty.with(flags), Payload::Mem { size: 0, dynptr_id: 0 })));
        }
        flags = self.trust_of_field(reg, &field, target, flags);
        let mut r = Reg::pointer(RegType::BTF_ID.with(flags), Payload::Btf { btf: which, id: target });
        if r.ty.may_be_null() {
            r.id = self.new_id();
        }
        Ok(Some(r))
    }

    /// Notes what the program will not find where it runs, although a kernel would have it.
    fn note_unserved(&mut self, id: u32, off: i32, size: i32) {
        if self.unserved.is_none()
            && let Some(btf) = self.input.kernel_btf
            && let Err(why) = crate::kfuncs::served::check(btf, TypeId(id), off, size)
        {
            self.unserved = Some((self.insn_idx, why));
        }
    }

    /// How far a pointer read from a struct can be trusted.
    fn trust_of_field(&self, reg: &Reg, field: &str, target: u32, flags: u32) -> u32 {
        use flag::{MEM_PERCPU, MEM_RCU, MEM_USER, PTR_MAYBE_NULL, PTR_TRUSTED, PTR_UNTRUSTED};
        let clear = |f: u32| f & !(PTR_TRUSTED | flag::MEM_ALLOC | flag::NON_OWN_REF | MEM_RCU);
        if reg.ty.has(PTR_UNTRUSTED) {
            return PTR_UNTRUSTED;
        }
        if !self.is_trusted(reg) && !reg.ty.has(MEM_RCU) {
            return clear(flags);
        }
        let listed = |suffix: &str| self.nested_type_listed(reg, field, target, suffix);
        if listed("__safe_trusted") {
            return flags | PTR_TRUSTED;
        }
        if listed("__safe_trusted_or_null") {
            return flags | PTR_TRUSTED | PTR_MAYBE_NULL;
        }
        if !self.in_rcu_cs() || reg.ty.may_be_null() {
            return PTR_UNTRUSTED;
        }
        if listed("__safe_rcu") {
            return flags | MEM_RCU;
        }
        let rcu_or_null = listed("__safe_rcu_or_null");
        if flags & MEM_RCU != 0 || rcu_or_null {
            let f = flags | MEM_RCU | PTR_MAYBE_NULL;
            return if rcu_or_null { f & !PTR_UNTRUSTED } else { f };
        }
        if flags & (MEM_PERCPU | MEM_USER) != 0 { flags } else { clear(flags) }
    }

    /// The kernel keeps, in its BTF, structs that list the fields that can be trusted.
    fn nested_type_listed(&self, reg: &Reg, field: &str, target: u32, suffix: &str) -> bool {
        let (which, id) = reg.btf();
        let Some(btf) = self.btf(which) else { return false };
        let name = format!("{}{suffix}", btfx::name(btf, TypeId(id)));
        let Some(list) = btfx::find_struct(btf, &name) else { return false };
        btfx::members(btf, TypeId(list)).iter().any(|m| {
            btfx::member_name(btf, m) == field
                && matches!(btfx::kind(btf, m.ty), Kind::Ptr(to) if btfx::skip_modifiers(btf, *to).0 == target)
        })
    }

    /// Writes to kernel structs that XDP programs may make: only `nf_conn.mark`.
    fn write_kernel_struct(&mut self, reg: &Reg, off: i32, size: i32) -> Res<Option<Reg>> {
        let (which, id) = reg.btf();
        let writable = matches!(self.btf_name(which, id), "nf_conn" | "nf_conn___init");
        if reg.ty.has(flag::PTR_UNTRUSTED) || !writable {
            return self.fail(Errno::EACCES, format_args!("only read is supported\n"));
        }
        let conn = self.btf(which).and_then(|b| Some((b, btfx::find_struct(b, "nf_conn")?)));
        let mark = conn.and_then(|(b, id)| b.member(TypeId(id), "mark"));
        let at = mark.map(|m| (m.bit_offset / 8) as i32);
        match at {
            Some(m) if off >= m && off + size <= m + 4 => Ok(Some(Reg::UNKNOWN)),
            Some(m) if off >= m && off < m + 4 => {
                let end = m + 4;
                self.fail(
                    Errno::EACCES,
                    format_args!("write access at off {off} with size {size} beyond the member of nf_conn ended at {end}\n"),
                )
            }
            _ => self.fail(Errno::EACCES, format_args!("no write support to nf_conn at off {off}\n")),
        }
    }

    /// Reads of a map itself: `map->max_entries` and the like.
    pub(super) fn map_ptr_access(
        &mut self,
        regno: usize,
        reg: &Reg,
        off: i32,
        size: i32,
        access: Access,
    ) -> Res<Option<Reg>> {
        let ty = self.maps[reg.map()].def.map_type;
        let Some(name) = map_struct(ty) else {
            return self.fail(
                Errno::ENOTSUPP,
                format_args!("map_ptr access not supported for map type {}\n", ty as u32),
            );
        };
        let Some(id) = self.input.kernel_btf.and_then(|b| btfx::find_struct(b, name)) else {
            return self.fail(
                Errno::ENOTSUPP,
                format_args!("map_ptr access not supported without CONFIG_DEBUG_INFO_BTF\n"),
            );
        };
        if off < 0 {
            return self.fail(
                Errno::EACCES,
                format_args!("R{regno} is {name} invalid negative access: off={off}\n"),
            );
        }
        if access == Access::Write {
            return self.fail(Errno::EACCES, format_args!("only read from {name} is supported\n"));
        }
        let whole = Reg::pointer(RegType::BTF_ID, Payload::Btf { btf: BtfRef::Kernel, id });
        let (ty, target, flags, _) = self.struct_access(&whole, off, size)?;
        Ok(Some(match ty {
            RegType::BTF_ID => {
                Reg::pointer(RegType::BTF_ID.with(flags), Payload::Btf { btf: BtfRef::Kernel, id: target })
            }
            RegType::MEM => Reg::pointer(RegType::MEM.with(flags), Payload::Mem { size: 0, dynptr_id: 0 }),
            _ => Reg::UNKNOWN,
        }))
    }

    /// Whether a pointer to one struct will do where another is wanted: the same, or one that begins
    /// with it.
    pub(super) fn struct_matches(
        &mut self,
        have: (BtfRef, u32),
        off: i32,
        need: (BtfRef, u32),
        strict: bool,
    ) -> bool {
        if off == 0 && self.same_type(have, need) {
            return true;
        }
        let Some(btf) = self.btf(have.0) else { return false };
        if strict {
            return false;
        }
        let (mut id, mut off, mut flags) = (have.1, off, 0);
        let len = self.message.len();
        for _ in 0..32 {
            let Ok(Walk::Struct(inner)) = self.struct_walk(btf, id, off, 1, &mut flags) else {
                self.message.truncate(len);
                return false;
            };
            if self.same_type((have.0, inner), need) {
                return true;
            }
            id = inner;
            off = 0;
        }
        false
    }

    fn same_type(&self, a: (BtfRef, u32), b: (BtfRef, u32)) -> bool {
        a.0 == b.0 && a.1 == b.1
    }

    /// A pointer about to be stored in a kernel-pointer field is of the field's type.
    pub(super) fn kptr_match(&mut self, f: &Field, reg: &Reg, regno: usize) -> Res {
        let target = f.target.unwrap_or((BtfRef::Kernel, 0));
        let want = self.btf_name(target.0, target.1).to_owned();
        let (which, id) = reg.btf();
        let mut allowed = if which == BtfRef::Kernel {
            let u = if f.kind == FieldKind::KptrUnref { flag::PTR_UNTRUSTED } else { 0 };
            flag::PTR_MAYBE_NULL | flag::PTR_TRUSTED | flag::MEM_RCU | u
        } else {
            flag::PTR_MAYBE_NULL | flag::MEM_ALLOC
        };
        if which == BtfRef::Program && f.kind == FieldKind::KptrPercpu {
            allowed |= flag::MEM_PERCPU;
        }
        let mut name = String::new();
        if reg.ty.base() == RegType::BTF_ID && reg.ty.flags() & !allowed == 0 {
            name = self.btf_name(which, id).to_owned();
            if self.check_ptr_off(reg, regno, true).is_err() {
                return Err(Errno::EACCES);
            }
            if self.struct_matches((which, id), reg.off, target, f.kind != FieldKind::KptrUnref) {
                return Ok(());
            }
        }
        let text = reg.ty.text();
        let or =
            if f.kind == FieldKind::KptrUnref { format!(" or untrusted_ptr_{want}") } else { String::new() };
        self.fail(
            Errno::EINVAL,
            format_args!("invalid kptr access, R{regno} type={text}{name} expected=ptr_{want}{or}\n"),
        )
    }

    /// What a load of a kernel pointer from a map gives.
    pub(super) fn load_kptr(&mut self, f: &Field) -> Reg {
        let (btf, id) = f.target.unwrap_or((BtfRef::Kernel, 0));
        if f.kind == FieldKind::Uptr {
            let size = self.btf(btf).and_then(|b| btfx::size(b, TypeId(id))).unwrap_or(0);
            let ty = RegType::MEM.with(flag::PTR_MAYBE_NULL);
            let mut r = Reg::pointer(ty, Payload::Mem { size, dynptr_id: 0 });
            r.id = self.new_id();
            return r;
        }
        let protected = btf == BtfRef::Program
            || matches!(
                self.btf_name(btf, id),
                "prog_test_ref_kfunc" | "cgroup" | "bpf_cpumask" | "task_struct" | "bpf_crypto_ctx"
            );
        let rcu_safe = f.kind == FieldKind::KptrPercpu || f.kind == FieldKind::KptrRef && protected;
        let mut flags = flag::PTR_MAYBE_NULL;
        if rcu_safe && self.in_rcu_cs() {
            flags |= flag::MEM_RCU;
            if f.kind == FieldKind::KptrPercpu {
                flags |= flag::MEM_PERCPU;
            } else if btf == BtfRef::Program {
                flags |= flag::MEM_ALLOC;
            }
            let node = |k: FieldKind| matches!(k, FieldKind::ListNode | FieldKind::RbNode);
            if btf == BtfRef::Program
                && self.struct_record(id).is_some_and(|r| r.fields.iter().any(|f| node(f.kind)))
            {
                flags |= flag::NON_OWN_REF;
            }
        } else {
            flags |= flag::PTR_UNTRUSTED;
        }
        let mut r = Reg::pointer(RegType::BTF_ID.with(flags), Payload::Btf { btf, id });
        r.id = self.new_id();
        r
    }
}

fn flexible_array(btf: &Btf, members: &[crate::btf::Member], off: i32) -> Option<(TypeId, i32)> {
    let last = members.last()?;
    let Kind::Array { elem, len: 0, .. } = btfx::kind(btf, btfx::skip_modifiers(btf, last.ty)) else {
        return None;
    };
    let at = (last.bit_offset / 8) as i32;
    (off >= at).then(|| (btfx::skip_modifiers(btf, *elem), at))
}

fn pointer_member(btf: &Btf, to: TypeId, name: String, flags: &mut u32) -> Walk {
    let mut tag = 0;
    if let Kind::TypeTag(_) = btfx::kind(btf, to) {
        tag = match btfx::name(btf, to) {
            "user" => flag::MEM_USER,
            "percpu" => flag::MEM_PERCPU,
            "rcu" => flag::MEM_RCU,
            _ => 0,
        };
    }
    let target = btfx::skip_modifiers(btf, to);
    if matches!(btfx::kind(btf, target), Kind::Struct { .. } | Kind::Union { .. }) {
        *flags |= tag;
        return Walk::Ptr(target.0, *flags, name);
    }
    Walk::PtrUntrusted
}

/// The kernel's struct behind a map of a type.
fn map_struct(ty: uapi::bpf::MapType) -> Option<&'static str> {
    use uapi::bpf::MapType as T;
    Some(match ty {
        T::Hash | T::PercpuHash | T::LruHash | T::LruPercpuHash | T::HashOfMaps => "bpf_htab",
        T::Array | T::PercpuArray | T::ProgArray | T::PerfEventArray | T::CgroupArray | T::ArrayOfMaps => {
            "bpf_array"
        }
        T::LpmTrie => "lpm_trie",
        T::StackTrace => "bpf_stack_map",
        T::Devmap | T::DevmapHash => "bpf_dtab",
        T::Cpumap => "bpf_cpu_map",
        T::Xskmap => "xsk_map",
        T::Sockmap => "bpf_stab",
        T::Sockhash => "bpf_shtab",
        T::Queue | T::Stack => "bpf_queue_stack",
        T::Ringbuf | T::UserRingbuf => "bpf_ringbuf_map",
        T::BloomFilter => "bpf_bloom_filter",
        T::ReuseportSockarray => "reuseport_array",
        T::CgroupStorage | T::PercpuCgroupStorage => "bpf_cgroup_storage_map",
        T::SkStorage | T::InodeStorage | T::TaskStorage | T::CgrpStorage => "bpf_local_storage_map",
        T::Arena => "bpf_arena",
        T::StructOps => return None,
    })
}
