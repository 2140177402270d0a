//! CO-RE: "compile once, run everywhere". A relocation names a field, type or enumerator of the types that
//! a program was compiled with; [`Matcher`] finds its counterpart in the target's types and the value that
//! the instruction must carry there.
//!
//! The rules are libbpf's (tools/lib/bpf/relo_core.c), since programs are written against them: which types
//! are candidates, which differences are harmless, and which relocations fail only if they are reached.

mod matching;
mod spec;
mod value;

use std::collections::BTreeMap;

use super::index::essential_name;
use super::types::{Btf, Name, TypeId};
use matching::Matching;
use spec::Spec;

pub use matching::types_are_compatible;

/// What a relocation asks (`enum bpf_core_relo_kind`).
#[doc(alias = "bpf_core_relo_kind")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub enum CoreKind {
    /// Offset of a field, bytes.
    FieldByteOffset = 0,
    /// Size of a field, bytes.
    FieldByteSize = 1,
    /// Whether there is such a field.
    FieldExists = 2,
    /// Whether a field is signed.
    FieldSigned = 3,
    /// Left shift that brings a bit field to the top of 64 bits.
    FieldLshiftU64 = 4,
    /// Right shift that brings it down again.
    FieldRshiftU64 = 5,
    /// Number of a type in the object's own BTF.
    TypeIdLocal = 6,
    /// Number of a type in the target's BTF.
    TypeIdTarget = 7,
    /// Whether there is such a type.
    TypeExists = 8,
    /// Size of a type, bytes.
    TypeSize = 9,
    /// Whether there is such an enumerator.
    EnumvalExists = 10,
    /// Value of an enumerator.
    EnumvalValue = 11,
    /// Whether a type has all that the program knows of it.
    TypeMatches = 12,
}

/// One relocation record of `.BTF.ext` (`struct bpf_core_relo`).
#[doc(alias = "bpf_core_relo")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoreRelo {
    /// Instruction, from the start of its section.
    pub insn: u32,
    /// Type in the object's BTF that the access starts from.
    pub ty: TypeId,
    /// Access path (`0:1:2`), in the object's string table.
    pub access: Name,
    /// What is asked.
    pub kind: CoreKind,
}

/// The answer to a relocation.
#[doc(alias = "bpf_core_relo_res")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resolved {
    /// What the compiler put into the instruction.
    pub orig_val: u64,
    /// What belongs there.
    pub new_val: u64,
    /// There is no counterpart: the instruction must not be reached.
    pub poison: bool,
    /// Whether the instruction must carry `orig_val` now.
    pub validate: bool,
    /// Field sizes differ in a way that a load or store cannot follow.
    pub fail_memsz_adjust: bool,
    /// Bytes of the field as compiled; 0 if irrelevant.
    pub orig_sz: u32,
    /// Bytes of the field in the target; 0 if irrelevant.
    pub new_sz: u32,
}

/// Why a relocation cannot be decided at all.
pub type CoreError = String;

/// Pairs of types or members that all relocations of an object may look at together. Real objects need a few
/// million.
const STEPS_MAX: u64 = 1 << 28;

/// Matches types of one object against one target, remembering the candidates of each type.
pub struct Matcher<'a> {
    local: &'a Btf,
    target: Option<&'a Btf>,
    candidates: BTreeMap<TypeId, Vec<TypeId>>,
    steps_left: u64,
}

impl CoreKind {
    /// The kind of a number in `.BTF.ext`.
    #[must_use]
    pub fn from_raw(raw: u32) -> Option<Self> {
        use CoreKind::*;
        const ALL: [CoreKind; 13] = [
            FieldByteOffset,
            FieldByteSize,
            FieldExists,
            FieldSigned,
            FieldLshiftU64,
            FieldRshiftU64,
            TypeIdLocal,
            TypeIdTarget,
            TypeExists,
            TypeSize,
            EnumvalExists,
            EnumvalValue,
            TypeMatches,
        ];
        ALL.get(raw as usize).copied()
    }

    fn is_field(self) -> bool {
        self <= Self::FieldRshiftU64
    }

    fn is_enumval(self) -> bool {
        matches!(self, Self::EnumvalExists | Self::EnumvalValue)
    }

    fn is_type(self) -> bool {
        !self.is_field() && !self.is_enumval()
    }
}

impl<'a> Matcher<'a> {
    /// Between an object's types and those of a target; without a target nothing exists there.
    #[must_use]
    pub fn new(local: &'a Btf, target: Option<&'a Btf>) -> Self {
        Self { local, target, candidates: BTreeMap::new(), steps_left: STEPS_MAX }
    }

    /// Decides a relocation.
    ///
    /// # Errors
    ///
    /// The record makes no sense, or several types of the target fit and disagree.
    #[doc(alias = "bpf_core_calc_relo_insn")]
    pub fn resolve(&mut self, relo: &CoreRelo) -> Result<Resolved, CoreError> {
        let local = Spec::parse(self.local, relo)?;
        if relo.kind == CoreKind::TypeIdLocal {
            let id = u64::from(relo.ty.0);
            return Ok(Resolved { orig_val: id, new_val: id, validate: false, ..Resolved::ZERO });
        }
        if self.local.name_of(relo.ty).is_empty() {
            return Err("it is about an anonymous type".to_owned());
        }
        let Some(target) = self.target else { return value::resolve(relo.kind, &local, None) };
        let candidates = self.candidates_of(relo.ty);
        let mut found: Option<(Resolved, u64)> = None;
        let mut fitting = Vec::new();
        for &id in &candidates {
            if self.steps_left == 0 {
                return Err("the object's relocations together are too much work".to_owned());
            }
            let mut matching = Matching::new(self.local, target);
            let spec = matching.find(relo.kind, &local, id);
            self.steps_left = self.steps_left.saturating_sub(matching.steps_taken());
            let Some(spec) = spec? else { continue };
            let resolved = value::resolve(relo.kind, &local, Some(&spec))?;
            match found {
                None => found = Some((resolved, spec.bit_offset)),
                Some((first, bit_offset)) => check_agreement(&first, bit_offset, &resolved, spec.bit_offset)?,
            }
            fitting.push(id);
        }
        match found {
            Some((resolved, _)) => {
                // What fits once is what later relocations of this type look at.
                self.candidates.insert(relo.ty, fitting);
                Ok(resolved)
            }
            None => value::resolve(relo.kind, &local, None),
        }
    }

    /// Types of the target with the same kind and the same name up to flavours, in order of number.
    fn candidates_of(&mut self, ty: TypeId) -> Vec<TypeId> {
        if let Some(known) = self.candidates.get(&ty) {
            return known.clone();
        }
        let (local, Some(target)) = (self.local.ty(ty), self.target) else { return Vec::new() };
        let name = essential_name(self.local.str(local.name));
        let mut ids: Vec<_> =
            target.candidates(name).filter(|&id| target.ty(id).tag() == local.tag()).collect();
        ids.sort_unstable();
        self.candidates.insert(ty, ids.clone());
        ids
    }
}

fn check_agreement(a: &Resolved, a_offset: u64, b: &Resolved, b_offset: u64) -> Result<(), CoreError> {
    if a_offset != b_offset {
        let reason = "ambiguous: types of the same name in the target have it at bit offsets";
        return Err(format!("{reason} {a_offset} and {b_offset}"));
    }
    if (a.poison, a.new_val) != (b.poison, b.new_val) {
        let reason = "ambiguous: types of the same name in the target give the values";
        return Err(format!("{reason} {} and {}", a.new_val, b.new_val));
    }
    Ok(())
}

impl Resolved {
    const ZERO: Self = Self {
        orig_val: 0,
        new_val: 0,
        poison: false,
        validate: true,
        fail_memsz_adjust: false,
        orig_sz: 0,
        new_sz: 0,
    };
}
