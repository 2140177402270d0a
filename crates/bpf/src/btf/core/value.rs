//! The value that a path stands for: offset, size, signedness, shifts, existence, enumerator.

use super::super::types::{Kind, TypeId};
use super::spec::Spec;
use super::{CoreError, CoreKind, Resolved};

/// What one side of a relocation amounts to.
struct Side {
    value: u64,
    /// Bytes and type of the field, where a load or store must agree with them.
    field: Option<(u32, TypeId)>,
    validate: bool,
}

/// What came out for a path, or that there is no such thing (the instruction is then poisoned).
enum Answer {
    Value(Side),
    Absent,
}

/// Compares the local path's value with the target's, or with nothing.
#[doc(alias = "bpf_core_calc_relo")]
pub(super) fn resolve(
    kind: CoreKind,
    local: &Spec<'_>,
    target: Option<&Spec<'_>>,
) -> Result<Resolved, CoreError> {
    let of = |spec: Option<&Spec<'_>>| match kind {
        k if k.is_field() => field(kind, spec),
        k if k.is_enumval() => enumerator(kind, spec),
        _ => whole_type(kind, spec),
    };
    let Answer::Value(orig) = of(Some(local))? else {
        return Ok(Resolved { poison: true, ..Resolved::ZERO });
    };
    let mut resolved = Resolved { orig_val: orig.value, validate: orig.validate, ..Resolved::ZERO };
    let Answer::Value(new) = of(target)? else {
        return Ok(Resolved { poison: true, ..resolved });
    };
    resolved.new_val = new.value;
    resolved.orig_sz = orig.field.map_or(0, |(size, _)| size);
    resolved.new_sz = new.field.map_or(0, |(size, _)| size);
    if resolved.orig_sz != resolved.new_sz {
        let kind_of = |spec: Option<&Spec<'_>>, field: Option<(u32, TypeId)>| match (spec, field) {
            (Some(spec), Some((_, ty))) => spec.btf.ty(ty).kind.clone(),
            _ => Kind::Void,
        };
        // The program sees zero-extended values, so pointers and unsigned integers may change size.
        resolved.fail_memsz_adjust = match (kind_of(Some(local), orig.field), kind_of(target, new.field)) {
            (Kind::Ptr(_), Kind::Ptr(_)) => false,
            (a @ Kind::Int { .. }, b @ Kind::Int { .. }) => is_signed_int(&a) || is_signed_int(&b),
            _ => true,
        };
    }
    Ok(resolved)
}

/// Signed and nothing else (`BTF_INT_SIGNED` alone).
fn is_signed_int(kind: &Kind) -> bool {
    matches!(kind, Kind::Int { signed: true, is_char: false, is_bool: false, .. })
}

#[doc(alias = "bpf_core_calc_field_relo")]
fn field(kind: CoreKind, spec: Option<&Spec<'_>>) -> Result<Answer, CoreError> {
    if kind == CoreKind::FieldExists {
        return Ok(value(u64::from(spec.is_some()), None, true));
    }
    let Some(spec) = spec else { return Ok(Answer::Absent) };
    let Some(last) = spec.accessors.last() else { return Ok(Answer::Absent) };
    let btf = spec.btf;
    let no_size = || "the field has no size".to_owned();
    if last.name.is_none() {
        let size = btf.size_of(last.ty).ok_or_else(no_size)?;
        return match kind {
            CoreKind::FieldByteOffset => Ok(value(spec.bit_offset / 8, Some((size as u32, last.ty)), true)),
            CoreKind::FieldByteSize => Ok(value(size, None, true)),
            _ => Err("signedness and shifts cannot be asked of an array element".to_owned()),
        };
    }
    let member = btf.ty(last.ty).kind.members()[last.idx as usize];
    let ty = btf.resolve(member.ty);
    let is_bitfield = member.bitfield_bits > 0;
    let storage = if is_bitfield {
        bitfield_storage(spec.bit_offset, member.bitfield_bits, &btf.ty(ty).kind)?
    } else {
        let size = btf.size_of(ty).ok_or_else(no_size)?;
        Storage { byte_off: spec.bit_offset / 8, byte_sz: size, bits: size * 8 }
    };
    Ok(match kind {
        CoreKind::FieldByteOffset => {
            let field = (!is_bitfield).then_some((storage.byte_sz as u32, ty));
            value(storage.byte_off, field, !is_bitfield)
        }
        CoreKind::FieldByteSize => value(storage.byte_sz, None, !is_bitfield),
        CoreKind::FieldSigned => {
            let signed =
                matches!(btf.ty(ty).kind, Kind::Int { signed: true, .. } | Kind::Enum { signed: true, .. });
            value(u64::from(signed), None, true)
        }
        CoreKind::FieldLshiftU64 => {
            let top = spec.bit_offset + storage.bits - storage.byte_off * 8;
            value(64u64.wrapping_sub(top), None, !is_bitfield)
        }
        _ => value(64u64.wrapping_sub(storage.bits), None, true),
    })
}

/// The bytes to load for a field, and its width in bits.
struct Storage {
    byte_off: u64,
    byte_sz: u64,
    bits: u64,
}

/// The smallest aligned load that covers a bit field.
fn bitfield_storage(bit_off: u64, bits: u8, ty: &Kind) -> Result<Storage, CoreError> {
    let (Kind::Int { size, .. } | Kind::Enum { size, .. }) = ty else {
        return Err("a bit field that is no integer".to_owned());
    };
    let (mut byte_sz, bits) = (u64::from(*size), u64::from(bits));
    if byte_sz == 0 {
        return Err("a bit field of an enum without a size".to_owned());
    }
    loop {
        let byte_off = bit_off / 8 / byte_sz * byte_sz;
        if bit_off + bits <= byte_off * 8 + byte_sz * 8 {
            return Ok(Storage { byte_off, byte_sz, bits });
        }
        if byte_sz >= 8 {
            return Err("a bit field that no 64-bit load covers".to_owned());
        }
        byte_sz *= 2;
    }
}

#[doc(alias = "bpf_core_calc_type_relo")]
fn whole_type(kind: CoreKind, spec: Option<&Spec<'_>>) -> Result<Answer, CoreError> {
    let Some(spec) = spec else { return Ok(value(0, None, true)) };
    Ok(match kind {
        CoreKind::TypeIdTarget => value(u64::from(spec.root.0), None, false),
        CoreKind::TypeSize => {
            let size = spec.btf.size_of(spec.root).ok_or("the type has no size")?;
            value(size, None, true)
        }
        _ => value(1, None, true),
    })
}

#[doc(alias = "bpf_core_calc_enumval_relo")]
fn enumerator(kind: CoreKind, spec: Option<&Spec<'_>>) -> Result<Answer, CoreError> {
    if kind == CoreKind::EnumvalExists {
        return Ok(value(u64::from(spec.is_some()), None, true));
    }
    let Some(at) = spec.and_then(|s| s.accessors.first().map(|a| (s.btf, a))) else {
        return Ok(Answer::Absent);
    };
    let (btf, accessor) = at;
    let Kind::Enum { size, values, .. } = &btf.ty(accessor.ty).kind else { return Ok(Answer::Absent) };
    let number = values[accessor.idx as usize].value;
    // An enumerator of 32 bits is compared with an immediate, which is signed.
    let number = if *size < 8 && u32::try_from(number).is_ok() { i64::from(number as i32) } else { number };
    Ok(value(number as u64, None, true))
}

fn value(value: u64, field: Option<(u32, TypeId)>, validate: bool) -> Answer {
    Answer::Value(Side { value, field, validate })
}
