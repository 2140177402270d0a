//! Questions to a type graph: what stands behind typedefs, sizes, alignments, members, prototypes.
//!
//! Every answer is bounded: a graph from a hostile file may be cyclic or fan out without end.

use super::types::*;

/// Most typedefs and modifiers before a type, and most nested arrays (`MAX_RESOLVE_DEPTH`).
const DEPTH_MAX: usize = 32;
/// Most members that one search looks at.
const SEARCH_MAX: u32 = 1 << 16;
/// Bytes of a pointer in BPF code.
const PTR_SIZE: u64 = 8;

/// A member found by name, possibly within anonymous structs and unions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundMember {
    /// The struct or union that has it directly.
    pub parent: TypeId,
    /// The member.
    pub member: Member,
    /// Offset from the start of the type that was searched, bits.
    pub bit_offset: u64,
}

impl Btf {
    /// The type behind typedefs, `const`, `volatile`, `restrict` and type tags; `void` if they never end.
    #[doc(alias = "skip_mods_and_typedefs")]
    #[must_use]
    pub fn resolve(&self, id: TypeId) -> TypeId {
        let mut id = id;
        for _ in 0..DEPTH_MAX {
            match self.ty(id).kind.modified() {
                Some(next) => id = next,
                None => return id,
            }
        }
        TypeId::VOID
    }

    /// What the type behind typedefs and modifiers is.
    #[must_use]
    pub fn resolved(&self, id: TypeId) -> &Kind {
        &self.ty(self.resolve(id)).kind
    }

    /// Bytes of a value of this type; `None` for `void`, functions and what has no size.
    #[doc(alias = "btf__resolve_size")]
    #[must_use]
    pub fn size_of(&self, id: TypeId) -> Option<u64> {
        let (mut id, mut elems) = (id, 1u64);
        for _ in 0..DEPTH_MAX {
            let size = match self.ty(id).kind {
                Kind::Int { size, .. }
                | Kind::Struct { size, .. }
                | Kind::Union { size, .. }
                | Kind::Enum { size, .. }
                | Kind::Datasec { size, .. }
                | Kind::Float { size } => u64::from(size),
                Kind::Ptr(_) => PTR_SIZE,
                Kind::Array { elem, len, .. } => {
                    elems = elems.checked_mul(u64::from(len)).filter(|&n| n <= u64::from(u32::MAX))?;
                    id = elem;
                    continue;
                }
                Kind::Var { ty, .. } => {
                    id = ty;
                    continue;
                }
                ref other => {
                    id = other.modified()?;
                    continue;
                }
            };
            return size.checked_mul(elems);
        }
        None
    }

    /// Alignment of a value of this type, bytes; 1 for a packed struct, `None` where there is none.
    #[doc(alias = "btf__align_of")]
    #[must_use]
    pub fn align_of(&self, id: TypeId) -> Option<u64> {
        self.align_within(id, DEPTH_MAX, &mut SEARCH_MAX.clone())
    }

    fn align_within(&self, id: TypeId, depth: usize, fuel: &mut u32) -> Option<u64> {
        let depth = depth.checked_sub(1)?;
        *fuel = fuel.checked_sub(1)?;
        match &self.ty(id).kind {
            Kind::Int { size, .. } | Kind::Enum { size, .. } | Kind::Float { size } => {
                Some(u64::from(*size).min(PTR_SIZE)).filter(|&n| n > 0)
            }
            Kind::Ptr(_) => Some(PTR_SIZE),
            Kind::Array { elem, .. } => self.align_within(*elem, depth, fuel),
            Kind::Struct { size, members } | Kind::Union { size, members } => {
                let mut most = 1;
                for m in members {
                    let align = self.align_within(m.ty, depth, fuel)?;
                    most = most.max(align);
                    if m.bitfield_bits == 0 && u64::from(m.bit_offset) % (8 * align) != 0 {
                        return Some(1);
                    }
                }
                Some(if u64::from(*size).is_multiple_of(most) { most } else { 1 })
            }
            other => self.align_within(other.modified()?, depth, fuel),
        }
    }

    /// The member of a name in a struct or union (behind typedefs), also within anonymous members.
    #[must_use]
    pub fn member(&self, id: TypeId, name: &str) -> Option<FoundMember> {
        self.member_within(id, name, DEPTH_MAX, &mut SEARCH_MAX.clone())
    }

    fn member_within(&self, id: TypeId, name: &str, depth: usize, fuel: &mut u32) -> Option<FoundMember> {
        let depth = depth.checked_sub(1)?;
        let parent = self.resolve(id);
        for &member in self.ty(parent).kind.members() {
            *fuel = fuel.checked_sub(1)?;
            if member.name.is_empty() {
                if let Some(found) = self.member_within(member.ty, name, depth, fuel) {
                    let bit_offset = found.bit_offset + u64::from(member.bit_offset);
                    return Some(FoundMember { bit_offset, ..found });
                }
            } else if self.str(member.name) == name {
                return Some(FoundMember { parent, member, bit_offset: u64::from(member.bit_offset) });
            }
        }
        None
    }

    /// Return type and parameters of a `FUNC`, a `FUNC_PROTO`, or a pointer to one.
    #[must_use]
    pub fn prototype(&self, id: TypeId) -> Option<(TypeId, &[Param])> {
        match *self.resolved(id) {
            Kind::Func { proto: inner, .. } | Kind::Ptr(inner) => self.prototype_of(self.resolve(inner)),
            _ => self.prototype_of(self.resolve(id)),
        }
    }

    fn prototype_of(&self, id: TypeId) -> Option<(TypeId, &[Param])> {
        match &self.ty(id).kind {
            Kind::FuncProto { ret, params } => Some((*ret, params)),
            _ => None,
        }
    }

    /// The `FUNC` of a name.
    #[must_use]
    pub fn func(&self, name: &str) -> Option<TypeId> {
        self.find(name, BtfKind::Func)
    }

    /// What a pointer points to, behind typedefs and modifiers on both sides.
    #[must_use]
    pub fn pointee(&self, id: TypeId) -> Option<TypeId> {
        match *self.resolved(id) {
            Kind::Ptr(to) => Some(self.resolve(to)),
            _ => None,
        }
    }

    /// Whether a type is a pointer to the struct of this name.
    #[must_use]
    pub fn is_ptr_to_struct(&self, id: TypeId, name: &str) -> bool {
        self.pointee(id).is_some_and(|to| self.ty(to).tag() == BtfKind::Struct && self.name_of(to) == name)
    }

    /// The value of an enumerator, wherever it is defined.
    #[must_use]
    pub fn enumerator(&self, name: &str) -> Option<i64> {
        self.types().iter().find_map(|t| match &t.kind {
            Kind::Enum { values, .. } => values.iter().find(|v| self.str(v.name) == name).map(|v| v.value),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btf::BtfBuilder;

    fn int(b: &mut BtfBuilder, name: &str, size: u32) -> TypeId {
        let bits = (size * 8) as u8;
        let kind = Kind::Int { size, signed: false, is_char: false, is_bool: false, bit_offset: 0, bits };
        b.add(name, kind)
    }

    fn field(b: &mut BtfBuilder, name: &str, ty: TypeId, bit_offset: u32) -> Member {
        Member { name: b.name(name), ty, bit_offset, bitfield_bits: 0 }
    }

    #[test]
    fn sizes_go_through_typedefs_and_arrays() {
        let mut b = BtfBuilder::default();
        let u32 = int(&mut b, "u32", 4);
        let alias = b.add("alias", Kind::Typedef(u32));
        let row = b.add("", Kind::Array { elem: alias, index: u32, len: 3 });
        let table = b.add("", Kind::Array { elem: row, index: u32, len: 5 });
        let ptr = b.add("", Kind::Ptr(TypeId::VOID));
        let huge = b.add("", Kind::Array { elem: table, index: u32, len: u32::MAX });
        let btf = b.finish();
        assert_eq!(btf.size_of(table), Some(60));
        assert_eq!(btf.size_of(ptr), Some(8));
        assert_eq!(btf.size_of(TypeId::VOID), None);
        assert_eq!(btf.size_of(huge), None);
        assert_eq!(btf.align_of(table), Some(4));
    }

    #[test]
    fn members_of_anonymous_members_are_found_at_their_whole_offset() {
        let mut b = BtfBuilder::default();
        let u32 = int(&mut b, "u32", 4);
        let inner_members = [field(&mut b, "x", u32, 0), field(&mut b, "y", u32, 32)];
        let inner = b.add("", Kind::Struct { size: 8, members: inner_members.into() });
        let outer_members = [field(&mut b, "a", u32, 0), field(&mut b, "", inner, 32)];
        let outer = b.add("outer", Kind::Struct { size: 12, members: outer_members.into() });
        let btf = b.finish();
        let y = btf.member(outer, "y").unwrap();
        assert_eq!((y.bit_offset, y.parent, y.member.bit_offset), (64, inner, 32));
        assert_eq!(btf.member(outer, "z"), None);
    }

    #[test]
    fn cycles_and_fan_out_end() {
        let mut b = BtfBuilder::default();
        let loop_id = b.add("loop", Kind::Void);
        b.set(loop_id, Kind::Const(loop_id));
        let mut ty = b.add("", Kind::Struct { size: 0, members: Box::default() });
        for _ in 0..40 {
            let members = [field(&mut b, "", ty, 0), field(&mut b, "", ty, 0)];
            ty = b.add("", Kind::Struct { size: 0, members: members.into() });
        }
        let btf = b.finish();
        assert_eq!(btf.resolve(loop_id), TypeId::VOID);
        assert_eq!(btf.size_of(loop_id), None);
        assert_eq!(btf.member(ty, "x"), None);
        assert_eq!(btf.align_of(ty), None);
    }
}
