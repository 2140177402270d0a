//! From bytes to JSON.

use std::net::{Ipv4Addr, Ipv6Addr};

use bpf::btf::{Btf, Kind, Member, TypeId};
use serde_json::{Map, Value, json};

use super::{DEPTH_MAX, NetworkOrder, Shape, hex, network_order};

/// Reads bytes as a shape says.
#[must_use]
pub fn decode(shape: Shape<'_>, bytes: &[u8]) -> Value {
    match shape.ty {
        Some((btf, ty)) => Decoder { btf }.value(ty, bytes, DEPTH_MAX),
        None => Value::String(hex(bytes)),
    }
}

struct Decoder<'a> {
    btf: &'a Btf,
}

impl Decoder<'_> {
    fn value(&self, ty: TypeId, bytes: &[u8], depth: u32) -> Value {
        let Some(depth) = depth.checked_sub(1) else { return Value::String(hex(bytes)) };
        if let Some(value) = self.in_network_order(ty, bytes) {
            return value;
        }
        match self.btf.resolved(ty) {
            Kind::Int { size, signed, is_bool, .. } => {
                number(bytes, *size as usize, *signed, *is_bool).unwrap_or_else(|| Value::String(hex(bytes)))
            }
            Kind::Enum { size, signed, values } => {
                let raw = integer(bytes, *size as usize, *signed);
                let named = raw.and_then(|raw| values.iter().find(|v| i128::from(v.value) == raw));
                match (named, raw) {
                    (Some(v), _) => json!(self.btf.str(v.name)),
                    (None, Some(raw)) => json_integer(raw),
                    (None, None) => Value::String(hex(bytes)),
                }
            }
            Kind::Struct { members, .. } | Kind::Union { members, .. } => {
                let mut object = Map::new();
                self.members(members, bytes, depth, &mut object);
                Value::Object(object)
            }
            Kind::Array { elem, len, .. } => self.array(*elem, *len as usize, bytes, depth),
            Kind::Datasec { vars, .. } => {
                let fields = vars.iter().filter_map(|v| {
                    let part =
                        bytes.get(v.offset as usize..(v.offset as usize).checked_add(v.size as usize)?)?;
                    let Kind::Var { ty, .. } = self.btf.ty(v.ty).kind else { return None };
                    Some((self.btf.name_of(v.ty).to_owned(), self.value(ty, part, depth)))
                });
                Value::Object(fields.collect())
            }
            _ => Value::String(hex(bytes)),
        }
    }

    fn in_network_order(&self, ty: TypeId, bytes: &[u8]) -> Option<Value> {
        Some(match network_order(self.btf, ty)? {
            NetworkOrder::Be16 => json!(u16::from_be_bytes(bytes.try_into().ok()?)),
            NetworkOrder::Be32 => json!(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).to_string()),
            NetworkOrder::Be64 => json!(u64::from_be_bytes(bytes.try_into().ok()?)),
        })
    }

    fn members(&self, members: &[Member], bytes: &[u8], depth: u32, out: &mut Map<String, Value>) {
        for m in members {
            let name = self.btf.str(m.name);
            if m.bitfield_bits != 0 {
                out.insert(name.to_owned(), self.bitfield(m, bytes));
                continue;
            }
            let offset = (m.bit_offset / 8) as usize;
            let size = self.btf.size_of(m.ty).unwrap_or(0) as usize;
            let Some(part) = offset.checked_add(size).and_then(|end| bytes.get(offset..end)) else {
                continue;
            };
            match self.btf.resolved(m.ty) {
                Kind::Struct { members, .. } | Kind::Union { members, .. }
                    if name.is_empty() && depth > 0 =>
                {
                    self.members(members, part, depth - 1, out);
                }
                _ => {
                    out.insert(name.to_owned(), self.value(m.ty, part, depth));
                }
            }
        }
    }

    fn bitfield(&self, m: &Member, bytes: &[u8]) -> Value {
        let signed = matches!(self.btf.resolved(m.ty), Kind::Int { signed: true, .. });
        let bits = u32::from(m.bitfield_bits).min(64);
        let raw = (0..bits).fold(0u64, |acc, i| {
            let at = m.bit_offset.saturating_add(i);
            let bit = bytes.get((at / 8) as usize).map_or(0, |b| (b >> (at % 8)) & 1);
            acc | (u64::from(bit) << i)
        });
        if signed { json!(((raw << (64 - bits)) as i64) >> (64 - bits)) } else { json!(raw) }
    }

    fn array(&self, elem: TypeId, len: usize, bytes: &[u8], depth: u32) -> Value {
        if let (Some(NetworkOrder::Be32), Ok(octets)) =
            (network_order(self.btf, elem), <[u8; 16]>::try_from(bytes))
        {
            return json!(Ipv6Addr::from(octets).to_string());
        }
        match self.btf.resolved(elem) {
            Kind::Int { size: 1, is_bool: false, .. } => {
                let is_text = self.btf.name_of(self.btf.resolve(elem)) == "char";
                match text(bytes).filter(|_| is_text) {
                    Some(text) => json!(text),
                    None => Value::String(hex(bytes)),
                }
            }
            _ => {
                let size = self.btf.size_of(elem).unwrap_or(0) as usize;
                if size == 0 {
                    return Value::Array(Vec::new());
                }
                bytes.chunks_exact(size).take(len).map(|part| self.value(elem, part, depth)).collect()
            }
        }
    }
}

/// Printable text before a zero, with nothing but zeros after it.
fn text(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let (head, tail) = bytes.split_at(end);
    let printable = head.iter().all(|b| (0x20..0x7f).contains(b)) && !head.starts_with(b"0x");
    (printable && tail.iter().all(|b| *b == 0)).then(|| std::str::from_utf8(head).ok()).flatten()
}

fn integer(bytes: &[u8], size: usize, signed: bool) -> Option<i128> {
    let bytes = bytes.get(..size)?;
    if !matches!(size, 1 | 2 | 4 | 8) {
        return None;
    }
    let mut le = [0; 8];
    le[..size].copy_from_slice(bytes);
    let raw = u64::from_le_bytes(le);
    let shift = 64 - 8 * size as u32;
    Some(if signed { i128::from(((raw << shift) as i64) >> shift) } else { i128::from(raw) })
}

fn json_integer(raw: i128) -> Value {
    u64::try_from(raw).map_or_else(|_| json!(raw as i64), |raw| json!(raw))
}

fn number(bytes: &[u8], size: usize, signed: bool, is_bool: bool) -> Option<Value> {
    let raw = integer(bytes, size, signed)?;
    Some(if is_bool && (0..=1).contains(&raw) { json!(raw == 1) } else { json_integer(raw) })
}
