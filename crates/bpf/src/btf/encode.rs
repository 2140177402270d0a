//! Back to bytes: the layout that `BPF_BTF_LOAD` takes.

use super::types::*;

impl Btf {
    /// The blob of this graph. Numbers of types and offsets of names stay what they are.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut types = Vec::with_capacity(self.types.len() * 20);
        self.types.iter().skip(1).for_each(|t| encode_type(t, &mut types));
        let mut out = Vec::with_capacity(24 + types.len() + self.strings.len());
        out.extend_from_slice(&[0x9f, 0xeb, 1, 0]);
        let (types_len, strings_len) = (types.len() as u32, self.strings.len() as u32);
        put(&mut out, &[24, 0, types_len, types_len, strings_len]);
        out.extend_from_slice(&types);
        out.extend_from_slice(self.strings.as_bytes());
        out
    }
}

fn encode_type(t: &Type, out: &mut Vec<u8>) {
    let (kind, len, flag, size_or_type) = head(&t.kind);
    put(out, &[t.name.0, len as u32 | kind << 24 | u32::from(flag) << 31, size_or_type]);
    match &t.kind {
        Kind::Int { signed, is_char, is_bool, bit_offset, bits, .. } => {
            let flags = u32::from(*signed) | u32::from(*is_char) << 1 | u32::from(*is_bool) << 2;
            put(out, &[flags << 24 | u32::from(*bit_offset) << 16 | u32::from(*bits)]);
        }
        Kind::Array { elem, index, len } => put(out, &[elem.0, index.0, *len]),
        Kind::Struct { members, .. } | Kind::Union { members, .. } => {
            for m in members {
                let bits = if flag { u32::from(m.bitfield_bits) << 24 } else { 0 };
                put(out, &[m.name.0, m.ty.0, m.bit_offset | bits]);
            }
        }
        Kind::Enum { values, .. } => {
            for v in values {
                put(out, &[v.name.0, v.value as u32]);
                if kind == 19 {
                    put(out, &[(v.value >> 32) as u32]);
                }
            }
        }
        Kind::FuncProto { params, .. } => params.iter().for_each(|p| put(out, &[p.name.0, p.ty.0])),
        Kind::Var { linkage, .. } => put(out, &[*linkage as u32]),
        Kind::Datasec { vars, .. } => vars.iter().for_each(|v| put(out, &[v.ty.0, v.offset, v.size])),
        Kind::DeclTag { component, .. } => put(out, &[*component as u32]),
        _ => {}
    }
}

/// Kind number, `vlen`, `kind_flag` and the third word of `struct btf_type`.
fn head(kind: &Kind) -> (u32, usize, bool, u32) {
    let bitfields = |members: &[Member]| members.iter().any(|m| m.bitfield_bits != 0);
    match kind {
        Kind::Void => (0, 0, false, 0),
        Kind::Int { size, .. } => (1, 0, false, *size),
        Kind::Ptr(t) => (2, 0, false, t.0),
        Kind::Array { .. } => (3, 0, false, 0),
        Kind::Struct { size, members } => (4, members.len(), bitfields(members), *size),
        Kind::Union { size, members } => (5, members.len(), bitfields(members), *size),
        Kind::Enum { size, signed, values } => {
            let wide = *size == 8 || values.iter().any(|v| !fits_in_32_bits(v.value, *signed));
            (if wide { 19 } else { 6 }, values.len(), *signed, *size)
        }
        Kind::Fwd { is_union } => (7, 0, *is_union, 0),
        Kind::Typedef(t) => (8, 0, false, t.0),
        Kind::Volatile(t) => (9, 0, false, t.0),
        Kind::Const(t) => (10, 0, false, t.0),
        Kind::Restrict(t) => (11, 0, false, t.0),
        Kind::Func { proto, linkage } => (12, *linkage as usize, false, proto.0),
        Kind::FuncProto { ret, params } => (13, params.len(), false, ret.0),
        Kind::Var { ty, .. } => (14, 0, false, ty.0),
        Kind::Datasec { size, vars } => (15, vars.len(), false, *size),
        Kind::Float { size } => (16, 0, false, *size),
        Kind::DeclTag { ty, .. } => (17, 0, false, ty.0),
        Kind::TypeTag(t) => (18, 0, false, t.0),
    }
}

fn fits_in_32_bits(value: i64, signed: bool) -> bool {
    if signed { i32::try_from(value).is_ok() } else { u32::try_from(value).is_ok() }
}

fn put(out: &mut Vec<u8>, words: &[u32]) {
    words.iter().for_each(|w| out.extend_from_slice(&w.to_le_bytes()));
}
