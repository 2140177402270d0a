//! Whether types of the object and of the target fit each other, and where a field is in the target.

use super::super::index::essential_name;
use super::super::types::{Btf, BtfKind, EnumValue, Kind, Member, Name, TypeId};
use super::spec::{Accessor, SPEC_LEN_MAX, Spec};
use super::{CoreError, CoreKind};

/// Deepest nesting that a comparison follows.
const DEPTH_MAX: u32 = 32;
/// Most pairs of types or members that one comparison looks at.
const STEPS_MAX: u32 = 1 << 20;

/// One comparison of types of an object with types of a target.
pub(super) struct Matching<'a> {
    local: &'a Btf,
    target: &'a Btf,
    steps: u32,
}

/// Whether two types are compatible for a type-based relocation, a kernel variable or a kernel function:
/// same kinds all the way, names ignored.
///
/// # Errors
///
/// The types are nested too deeply to say.
#[doc(alias = "bpf_core_types_are_compat")]
pub fn types_are_compatible(
    local: &Btf,
    local_id: TypeId,
    target: &Btf,
    target_id: TypeId,
) -> Result<bool, CoreError> {
    Matching::new(local, target).are_compatible(local_id, target_id, DEPTH_MAX)
}

impl<'a> Matching<'a> {
    pub(super) fn new(local: &'a Btf, target: &'a Btf) -> Self {
        Self { local, target, steps: STEPS_MAX }
    }

    /// Pairs of types or members that were looked at.
    pub(super) fn steps_taken(&self) -> u64 {
        u64::from(STEPS_MAX - self.steps)
    }

    /// The counterpart of a local path in a candidate type, if it has one.
    #[doc(alias = "bpf_core_spec_match")]
    pub(super) fn find(
        &mut self,
        kind: CoreKind,
        local: &Spec<'_>,
        candidate: TypeId,
    ) -> Result<Option<Spec<'a>>, CoreError> {
        let mut spec = Spec::new(self.target, candidate);
        let found = match kind {
            CoreKind::TypeMatches => self.do_match(local.root, candidate, false, DEPTH_MAX)?,
            k if k.is_type() => self.are_compatible(local.root, candidate, DEPTH_MAX)?,
            k if k.is_enumval() => self.find_enumerator(local, candidate, &mut spec)?,
            _ => self.find_field(local, candidate, &mut spec)?,
        };
        Ok(found.then_some(spec))
    }

    fn find_enumerator(
        &mut self,
        local: &Spec<'_>,
        candidate: TypeId,
        spec: &mut Spec<'a>,
    ) -> Result<bool, CoreError> {
        let id = self.target.resolve(candidate);
        let (Kind::Enum { values, .. }, Some(wanted)) = (&self.target.ty(id).kind, local.accessors[0].name)
        else {
            return Ok(false);
        };
        for (idx, value) in values.iter().enumerate() {
            self.step()?;
            let name = self.target.str(value.name);
            if essential_name(name) == essential_name(wanted) {
                spec.accessors.push(Accessor { ty: id, idx: idx as u32, name: Some(name) });
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn find_field(
        &mut self,
        local: &Spec<'_>,
        candidate: TypeId,
        spec: &mut Spec<'a>,
    ) -> Result<bool, CoreError> {
        let mut id = candidate;
        for (i, accessor) in local.accessors.iter().enumerate() {
            id = self.target.resolve(id);
            if accessor.name.is_some() {
                match self.find_member(accessor, id, spec)? {
                    Some(ty) => id = ty,
                    None => return Ok(false),
                }
                continue;
            }
            // The first accessor is an index to values of the candidate itself.
            if i > 0 {
                let Kind::Array { elem, len, .. } = self.target.ty(id).kind else { return Ok(false) };
                if accessor.idx >= len && !spec.is_flexible_array(len) {
                    return Ok(false);
                }
                id = self.target.resolve(elem);
            }
            take_step(spec)?;
            spec.accessors.push(Accessor { ty: id, idx: accessor.idx, name: None });
            spec.add_elements(id, accessor.idx)?;
        }
        Ok(true)
    }

    /// The member of the accessor's name, also within anonymous members, if its type fits.
    #[doc(alias = "bpf_core_match_member")]
    fn find_member(
        &mut self,
        wanted: &Accessor<'_>,
        id: TypeId,
        spec: &mut Spec<'a>,
    ) -> Result<Option<TypeId>, CoreError> {
        let id = self.target.resolve(id);
        let (target, local) = (self.target, self.local);
        for (idx, m) in target.ty(id).kind.members().iter().enumerate() {
            self.step()?;
            take_step(spec)?;
            spec.bit_offset += u64::from(m.bit_offset);
            let name = target.str(m.name);
            if name.is_empty() {
                if let Some(ty) = self.find_member(wanted, m.ty, spec)? {
                    return Ok(Some(ty));
                }
            } else if Some(name) == wanted.name {
                let local_member = local.ty(wanted.ty).kind.members()[wanted.idx as usize];
                if self.fields_are_compatible(local_member.ty, m.ty)? {
                    spec.accessors.push(Accessor { ty: id, idx: idx as u32, name: Some(name) });
                    return Ok(Some(m.ty));
                }
            }
            spec.bit_offset -= u64::from(m.bit_offset);
            spec.raw_len -= 1;
        }
        Ok(None)
    }

    /// Whether a field of one type can be read as a field of the other.
    #[doc(alias = "bpf_core_fields_are_compat")]
    fn fields_are_compatible(&mut self, mut local: TypeId, mut target: TypeId) -> Result<bool, CoreError> {
        loop {
            self.step()?;
            (local, target) = (self.local.resolve(local), self.target.resolve(target));
            let (a, b) = (self.local.ty(local), self.target.ty(target));
            let composite = |k: BtfKind| matches!(k, BtfKind::Struct | BtfKind::Union);
            if composite(a.tag()) && composite(b.tag()) {
                return Ok(true);
            }
            if a.tag() != b.tag() {
                return Ok(false);
            }
            match (&a.kind, &b.kind) {
                (Kind::Ptr(_) | Kind::Float { .. }, _) => return Ok(true),
                (Kind::Fwd { .. } | Kind::Enum { .. }, _) => {
                    let [a, b] = [self.local.str(a.name), self.target.str(b.name)].map(essential_name);
                    return Ok(a.is_empty() || b.is_empty() || a == b);
                }
                (Kind::Int { bit_offset: x, .. }, Kind::Int { bit_offset: y, .. }) => {
                    return Ok(*x == 0 && *y == 0);
                }
                (Kind::Array { elem: x, .. }, Kind::Array { elem: y, .. }) => (local, target) = (*x, *y),
                _ => return Ok(false),
            }
        }
    }

    #[doc(alias = "bpf_core_types_are_compat")]
    fn are_compatible(
        &mut self,
        mut local: TypeId,
        mut target: TypeId,
        depth: u32,
    ) -> Result<bool, CoreError> {
        for _ in 0..DEPTH_MAX {
            self.step()?;
            (local, target) = (self.local.resolve(local), self.target.resolve(target));
            match (&self.local.ty(local).kind, &self.target.ty(target).kind) {
                (Kind::Int { bit_offset: x, .. }, Kind::Int { bit_offset: y, .. }) => {
                    return Ok(*x == 0 && *y == 0);
                }
                (Kind::Ptr(x), Kind::Ptr(y)) => (local, target) = (*x, *y),
                (Kind::Array { elem: x, .. }, Kind::Array { elem: y, .. }) => (local, target) = (*x, *y),
                (Kind::FuncProto { ret: x, params: xs }, Kind::FuncProto { ret: y, params: ys }) => {
                    if xs.len() != ys.len() {
                        return Ok(false);
                    }
                    for (x, y) in xs.iter().zip(ys) {
                        let depth = depth.checked_sub(1).ok_or_else(too_deep)?;
                        if !self.are_compatible(x.ty, y.ty, depth)? {
                            return Ok(false);
                        }
                    }
                    (local, target) = (*x, *y);
                }
                (a, b) => {
                    use BtfKind::*;
                    let plain = matches!(a.tag(), Void | Struct | Union | Enum | Fwd);
                    return Ok(plain && a.tag() == b.tag());
                }
            }
        }
        Err(too_deep())
    }

    /// Whether the target has all that the local type says.
    #[doc(alias = "bpf_core_types_match")]
    fn do_match(
        &mut self,
        mut local: TypeId,
        mut target: TypeId,
        mut behind_ptr: bool,
        depth: u32,
    ) -> Result<bool, CoreError> {
        let depth = depth.checked_sub(1).ok_or_else(too_deep)?;
        for _ in 0..DEPTH_MAX {
            self.step()?;
            (local, target) = (self.local.resolve(local), self.target.resolve(target));
            let (a, b) = (self.local.ty(local), self.target.ty(target));
            if !self.names_match(a.name, b.name) {
                return Ok(false);
            }
            match (&a.kind, &b.kind) {
                (Kind::Void, k) => return Ok(*k == Kind::Void),
                (Kind::Fwd { is_union: x }, k) => return Ok(forward_matches(*x, k, behind_ptr)),
                (Kind::Enum { size: n, values: xs, .. }, Kind::Enum { size: m, values: ys, .. }) => {
                    return Ok(n == m && self.enums_match(xs, ys)?);
                }
                (Kind::Struct { members: xs, .. }, Kind::Struct { members: ys, .. })
                | (Kind::Union { members: xs, .. }, Kind::Union { members: ys, .. }) => {
                    return Ok(behind_ptr || self.members_match(xs, ys, depth)?);
                }
                (k @ (Kind::Struct { .. } | Kind::Union { .. }), Kind::Fwd { is_union }) => {
                    return Ok(behind_ptr && (k.tag() == BtfKind::Union) == *is_union);
                }
                (Kind::Int { size: n, signed: x, .. }, Kind::Int { size: m, signed: y, .. }) => {
                    return Ok((n, x) == (m, y));
                }
                (Kind::Ptr(x), Kind::Ptr(y)) => (local, target, behind_ptr) = (*x, *y, true),
                (Kind::Array { elem: x, len: n, .. }, Kind::Array { elem: y, len: m, .. }) => {
                    if n != m {
                        return Ok(false);
                    }
                    (local, target) = (*x, *y);
                }
                (Kind::FuncProto { ret: x, params: xs }, Kind::FuncProto { ret: y, params: ys }) => {
                    if xs.len() != ys.len() {
                        return Ok(false);
                    }
                    for (x, y) in xs.iter().zip(ys) {
                        if !self.do_match(x.ty, y.ty, behind_ptr, depth)? {
                            return Ok(false);
                        }
                    }
                    (local, target) = (*x, *y);
                }
                _ => return Ok(false),
            }
        }
        Err(too_deep())
    }

    /// Each local member has a matching one of its name in the target.
    fn members_match(&mut self, local: &[Member], target: &[Member], depth: u32) -> Result<bool, CoreError> {
        if local.len() > target.len() {
            return Ok(false);
        }
        for x in local {
            let mut matched = false;
            for y in target {
                self.step()?;
                if self.names_match(x.name, y.name) && self.do_match(x.ty, y.ty, false, depth)? {
                    matched = true;
                    break;
                }
            }
            if !matched {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Each local enumerator has one of its name in the target.
    fn enums_match(&mut self, local: &[EnumValue], target: &[EnumValue]) -> Result<bool, CoreError> {
        if local.len() > target.len() {
            return Ok(false);
        }
        for x in local {
            let mut matched = false;
            for y in target {
                self.step()?;
                if self.names_match(x.name, y.name) {
                    matched = true;
                    break;
                }
            }
            if !matched {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn names_match(&self, local: Name, target: Name) -> bool {
        essential_name(self.local.str(local)) == essential_name(self.target.str(target))
    }

    fn step(&mut self) -> Result<(), CoreError> {
        self.steps = self.steps.checked_sub(1).ok_or("the types are too large to compare")?;
        Ok(())
    }
}

fn forward_matches(is_union: bool, target: &Kind, behind_ptr: bool) -> bool {
    match target {
        Kind::Fwd { is_union: other } => is_union == *other,
        Kind::Struct { .. } => behind_ptr && !is_union,
        Kind::Union { .. } => behind_ptr && is_union,
        _ => false,
    }
}

/// Counts a step of the target's path.
fn take_step(spec: &mut Spec<'_>) -> Result<(), CoreError> {
    if spec.raw_len == SPEC_LEN_MAX {
        return Err("the target's types are nested too deeply".to_owned());
    }
    spec.raw_len += 1;
    Ok(())
}

fn too_deep() -> CoreError {
    "the types are nested too deeply to compare".to_owned()
}
