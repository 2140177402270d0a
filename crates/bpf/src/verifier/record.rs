//! Special fields of map values and of objects that programs allocate: locks, timers, kernel pointers,
//! list and tree nodes. They may only be used through the functions made for them.

use super::btfx;
use super::env::{Env, MapInfo};
use super::reg::{BtfRef, Payload, Reg};
use super::types::RegType;
use crate::btf::{Btf, BtfKind, Kind, TypeId};
use crate::maps::{FieldKind, SpecialField};

/// One special field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Field {
    pub(crate) kind: FieldKind,
    pub(crate) offset: u32,
    pub(crate) size: u32,
    /// Type that a kernel pointer points to, or that a list or tree holds.
    pub(crate) target: Option<(BtfRef, u32)>,
    /// Offset of the node in what a list or tree holds.
    pub(crate) node_offset: u32,
}

/// The special fields of one type, by offset.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Record {
    pub(crate) fields: Vec<Field>,
}

impl Record {
    pub(crate) fn has(&self, kind: FieldKind) -> bool {
        self.fields.iter().any(|f| f.kind == kind)
    }

    pub(crate) fn offset_of(&self, kind: FieldKind) -> Option<u32> {
        self.fields.iter().find(|f| f.kind == kind).map(|f| f.offset)
    }

    pub(crate) fn at(&self, off: i32, kind: FieldKind) -> Option<&Field> {
        self.fields.iter().find(|f| f.kind == kind && i64::from(f.offset) == i64::from(off))
    }

    pub(crate) fn kptr_at(&self, off: i32) -> Option<&Field> {
        self.fields.iter().find(|f| f.kind.is_kptr() && i64::from(f.offset) == i64::from(off))
    }

    pub(crate) fn has_lock(&self) -> bool {
        self.has(FieldKind::SpinLock) || self.has(FieldKind::ResSpinLock)
    }
}

/// Most special fields of one type.
const MAX_FIELDS: usize = 11;

struct Finder<'b> {
    btf: &'b Btf,
    kernel: Option<&'b Btf>,
    out: Vec<Field>,
}

/// The special fields of a map's value, for creating the map.
#[must_use]
pub fn special_fields(btf: &Btf, kernel: Option<&Btf>, value: TypeId) -> Vec<SpecialField> {
    let fields = find(btf, kernel, value).map(|record| record.fields).unwrap_or_default();
    fields.iter().map(|f| SpecialField { offset: f.offset, kind: f.kind }).collect()
}

/// The special fields of a struct or data section, `None` if it has none.
pub(crate) fn find(btf: &Btf, kernel: Option<&Btf>, id: TypeId) -> Option<Record> {
    let mut f = Finder { btf, kernel, out: Vec::new() };
    f.walk(btfx::skip_modifiers(btf, id), 0, 0);
    f.out.sort_by_key(|x| x.offset);
    // A list or tree of nothing makes the whole type one without special fields.
    let unusable =
        |x: &Field| matches!(x.kind, FieldKind::ListHead | FieldKind::RbRoot) && x.target.is_none();
    (!f.out.is_empty() && !f.out.iter().any(unusable)).then_some(Record { fields: f.out })
}

impl Finder<'_> {
    fn walk(&mut self, id: TypeId, base: u32, depth: u32) {
        if depth > 4 || self.out.len() >= MAX_FIELDS {
            return;
        }
        match btfx::kind(self.btf, id) {
            Kind::Struct { members, .. } => {
                for (i, m) in members.iter().enumerate() {
                    if m.bitfield_bits == 0 && m.bit_offset % 8 == 0 {
                        self.field(m.ty, base + m.bit_offset / 8, depth, (id, i as i32));
                    }
                }
            }
            Kind::Datasec { vars, .. } => {
                for v in vars.iter() {
                    if let Kind::Var { ty, .. } = btfx::kind(self.btf, v.ty) {
                        self.field(*ty, base + v.offset, depth, (v.ty, -1));
                    }
                }
            }
            _ => {}
        }
    }

    /// A member or variable; `decl` is where its declaration tags are.
    fn field(&mut self, ty: TypeId, offset: u32, depth: u32, decl: (TypeId, i32)) {
        let (mut elem, mut count) = (btfx::skip_modifiers(self.btf, ty), 1u32);
        while let Kind::Array { elem: e, len, .. } = btfx::kind(self.btf, elem) {
            count = count.saturating_mul(*len);
            elem = btfx::skip_modifiers(self.btf, *e);
        }
        match btfx::kind(self.btf, elem) {
            Kind::Ptr(to) => {
                if let Some((kind, target)) = self.kptr(*to) {
                    for i in 0..count.min(MAX_FIELDS as u32) {
                        self.push(Field {
                            kind,
                            offset: offset + i * 8,
                            size: 8,
                            target: Some(target),
                            node_offset: 0,
                        });
                    }
                }
            }
            Kind::Struct { size, .. } => {
                let size = *size;
                if let Some(kind) = FieldKind::of_struct(btfx::name(self.btf, elem)) {
                    // A struct of that name and another size is none of the kernel's, and nothing is in it.
                    if size != kind.size() {
                        return;
                    }
                    let (target, node_offset) = self.graph_target(kind, decl);
                    for i in 0..count.min(MAX_FIELDS as u32) {
                        self.push(Field {
                            kind,
                            offset: offset + i * size,
                            size: kind.size(),
                            target,
                            node_offset,
                        });
                    }
                } else {
                    for i in 0..count.min(MAX_FIELDS as u32) {
                        self.walk(elem, offset + i * size, depth + 1);
                    }
                }
            }
            _ => {}
        }
    }

    fn push(&mut self, f: Field) {
        if self.out.len() < MAX_FIELDS {
            self.out.push(f);
        }
    }

    /// A pointer whose target carries one of the kptr type tags.
    fn kptr(&self, to: TypeId) -> Option<(FieldKind, (BtfRef, u32))> {
        let Kind::TypeTag(inner) = btfx::kind(self.btf, to) else { return None };
        let kind = match btfx::name(self.btf, to) {
            "kptr_untrusted" => FieldKind::KptrUnref,
            "kptr" => FieldKind::KptrRef,
            "percpu_kptr" => FieldKind::KptrPercpu,
            "uptr" => FieldKind::Uptr,
            _ => return None,
        };
        let target = btfx::skip_modifiers(self.btf, *inner);
        let name = btfx::name(self.btf, target);
        let kernel = self.kernel.and_then(|k| btfx::find_struct(k, name));
        Some((
            kind,
            match kernel {
                Some(id) if kind != FieldKind::Uptr => (BtfRef::Kernel, id),
                _ => (BtfRef::Program, target.0),
            },
        ))
    }

    /// `__attribute__((btf_decl_tag("contains:STRUCT:NODE")))` of a list head or tree root.
    fn graph_target(&self, kind: FieldKind, decl: (TypeId, i32)) -> (Option<(BtfRef, u32)>, u32) {
        if !matches!(kind, FieldKind::ListHead | FieldKind::RbRoot) {
            return (None, 0);
        }
        let tag = btfx::decl_tags(self.btf, decl.0, decl.1).find_map(|t| t.strip_prefix("contains:"));
        let Some((holder, node)) = tag.and_then(|t| t.split_once(':')) else { return (None, 0) };
        let Some(id) = self.btf.find(holder, BtfKind::Struct) else { return (None, 0) };
        let node_type = if kind == FieldKind::ListHead { "bpf_list_node" } else { "bpf_rb_node" };
        let node = btfx::members(self.btf, id).iter().find(|m| {
            btfx::member_name(self.btf, m) == node
                && btfx::name(self.btf, btfx::skip_modifiers(self.btf, m.ty)) == node_type
        });
        match node {
            Some(m) => (Some((BtfRef::Program, id.0)), m.bit_offset / 8),
            None => (None, 0),
        }
    }
}

impl MapInfo<'_> {
    /// Fields whose callbacks run later and need to know their map.
    pub(super) fn has_async_field(&self) -> bool {
        self.record.as_ref().is_some_and(|r| {
            r.has(FieldKind::Timer) || r.has(FieldKind::Workqueue) || r.has(FieldKind::TaskWork)
        })
    }
}

impl Env<'_> {
    /// Special fields of what a register points to.
    pub(super) fn reg_record(&self, r: &Reg) -> Option<Record> {
        if r.ty == RegType::MAP_VALUE {
            return self.maps[r.map()].record.clone();
        }
        if let (true, Payload::Btf { btf: BtfRef::Program, id }) = (r.ty.is_ptr_alloc_obj(), r.pl) {
            return self.struct_record(id);
        }
        None
    }

    /// Special fields of one of the program's own structs.
    pub(super) fn struct_record(&self, id: u32) -> Option<Record> {
        let btf = self.input.btf?;
        find(btf, self.input.kernel_btf, TypeId(id))
    }

    pub(super) fn may_point_to_spin_lock(&self, r: &Reg) -> bool {
        self.reg_record(r).is_some_and(|r| r.has_lock())
    }
}
