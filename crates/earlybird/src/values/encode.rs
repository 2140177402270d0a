//! From JSON and command-line text to bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

use bpf::btf::{Btf, Kind, Member, TypeId};
use serde_json::Value;

use super::{DEPTH_MAX, NetworkOrder, Shape, network_order};

/// A value that does not fit its type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given} is no {wanted}")]
pub struct ValueError {
    /// What was given.
    pub given: String,
    /// What the type asks for.
    pub wanted: String,
}

fn wrong<T>(given: &Value, wanted: impl Into<String>) -> Result<T, ValueError> {
    let given = match given {
        Value::String(s) => format!("{s:?}"),
        other => other.to_string(),
    };
    Err(ValueError { given, wanted: wanted.into() })
}

/// Text of a command line as JSON: JSON if it is that, else a string.
#[must_use]
pub fn parse_text(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// Writes a value as a shape says.
///
/// # Errors
///
/// [`ValueError`] if the value is of another type or does not fit.
pub fn encode(shape: Shape<'_>, value: &Value) -> Result<Vec<u8>, ValueError> {
    let mut out = vec![0; shape.size];
    if let Some(bytes) = raw_bytes(value, shape.ty.is_none()) {
        if bytes.len() != shape.size {
            return wrong(value, format!("value of {} bytes", shape.size));
        }
        return Ok(bytes);
    }
    match shape.ty {
        Some((btf, ty)) => Encoder { btf }.value(ty, value, &mut out, DEPTH_MAX)?,
        None => untyped(value, &mut out)?,
    }
    Ok(out)
}

/// `hex:0a000001` anywhere, `0x0a000001` where there is no type to say otherwise.
fn raw_bytes(value: &Value, untyped: bool) -> Option<Vec<u8>> {
    let text = value.as_str()?;
    let digits = text.strip_prefix("hex:").or_else(|| text.strip_prefix("0x").filter(|_| untyped))?;
    hex_bytes(digits)
}

fn hex_bytes(digits: &str) -> Option<Vec<u8>> {
    let digits: Vec<char> = digits.chars().filter(|c| !c.is_whitespace() && *c != ':').collect();
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    pairs.iter().map(|[a, b]| Some((a.to_digit(16)? * 16 + b.to_digit(16)?) as u8)).collect()
}

fn untyped(value: &Value, out: &mut [u8]) -> Result<(), ValueError> {
    let wanted = || format!("number or hexadecimal string of {} bytes (the map has no BTF)", out.len());
    let raw = match value.as_u64() {
        Some(raw) => raw,
        None => match value.as_i64() {
            Some(raw) => raw as u64,
            None => return wrong(value, wanted()),
        },
    };
    if out.is_empty() || out.len() > 8 {
        return wrong(value, wanted());
    }
    let len = out.len();
    out.copy_from_slice(&raw.to_le_bytes()[..len]);
    Ok(())
}

/// A number given as one, or as text in decimal or hexadecimal.
fn integer(value: &Value) -> Option<i128> {
    if let Some(n) = value.as_u64() {
        return Some(n.into());
    }
    if let Some(n) = value.as_i64() {
        return Some(n.into());
    }
    if let Some(b) = value.as_bool() {
        return Some(b.into());
    }
    let text = value.as_str()?;
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok().map(i128::from),
        None => text.parse::<i128>().ok(),
    }
}

fn put_integer(value: &Value, size: usize, signed: bool, out: &mut [u8]) -> Result<(), ValueError> {
    let bits = 8 * size as u32;
    let wanted = || format!("{}{bits}-bit number", if signed { "signed " } else { "" });
    let Some(n) = integer(value).filter(|_| matches!(size, 1 | 2 | 4 | 8) && size <= out.len()) else {
        return wrong(value, wanted());
    };
    let (low, high) = if signed { (-(1i128 << (bits - 1)), 1i128 << (bits - 1)) } else { (0, 1i128 << bits) };
    if n < low || n >= high {
        return wrong(value, wanted());
    }
    out[..size].copy_from_slice(&(n as u64).to_le_bytes()[..size]);
    Ok(())
}

struct Encoder<'a> {
    btf: &'a Btf,
}

impl Encoder<'_> {
    fn value(&self, ty: TypeId, value: &Value, out: &mut [u8], depth: u32) -> Result<(), ValueError> {
        let Some(depth) = depth.checked_sub(1) else { return wrong(value, "value of a type this deep") };
        if let Some(order) = network_order(self.btf, ty) {
            return in_network_order(order, value, out);
        }
        match self.btf.resolved(ty) {
            Kind::Int { size, signed, .. } => put_integer(value, *size as usize, *signed, out),
            Kind::Enum { size, signed, values } => {
                let named = values.iter().find(|v| value.as_str() == Some(self.btf.str(v.name)));
                let number = named.map_or_else(|| value.clone(), |v| Value::from(v.value));
                put_integer(&number, *size as usize, *signed, out)
            }
            Kind::Struct { members, .. } | Kind::Union { members, .. } => {
                self.structure(members, value, out, depth)
            }
            Kind::Array { elem, len, .. } => self.array(*elem, *len as usize, value, out, depth),
            Kind::Datasec { vars, .. } => {
                let Some(object) = value.as_object() else { return wrong(value, "object of variables") };
                for (name, value) in object {
                    let var = vars.iter().find(|v| self.btf.name_of(v.ty) == name);
                    let Some((var, Kind::Var { ty, .. })) = var.map(|v| (v, &self.btf.ty(v.ty).kind)) else {
                        return wrong(&Value::String(name.clone()), "variable of this section");
                    };
                    self.part(*ty, value, var.offset as usize, var.size as usize, out, depth)?;
                }
                Ok(())
            }
            _ => match value.as_str().and_then(|s| hex_bytes(s.strip_prefix("0x")?)) {
                Some(bytes) if bytes.len() == out.len() => {
                    out.copy_from_slice(&bytes);
                    Ok(())
                }
                _ => wrong(value, format!("hexadecimal string of {} bytes", out.len())),
            },
        }
    }

    fn part(
        &self,
        ty: TypeId,
        value: &Value,
        offset: usize,
        size: usize,
        out: &mut [u8],
        depth: u32,
    ) -> Result<(), ValueError> {
        match offset.checked_add(size).and_then(|end| out.get_mut(offset..end)) {
            Some(out) => self.value(ty, value, out, depth),
            None => wrong(value, "member within its structure"),
        }
    }

    fn structure(
        &self,
        members: &[Member],
        value: &Value,
        out: &mut [u8],
        depth: u32,
    ) -> Result<(), ValueError> {
        let Some(object) = value.as_object() else {
            return wrong(value, "object with the structure's members");
        };
        for (name, value) in object {
            if !self.named_member(members, name, value, out, depth)? {
                return wrong(&Value::String(name.clone()), "member of this structure");
            }
        }
        Ok(())
    }

    fn named_member(
        &self,
        members: &[Member],
        name: &str,
        value: &Value,
        out: &mut [u8],
        depth: u32,
    ) -> Result<bool, ValueError> {
        for m in members {
            let offset = (m.bit_offset / 8) as usize;
            let size = self.btf.size_of(m.ty).unwrap_or(0) as usize;
            let own = self.btf.str(m.name);
            if own == name {
                if m.bitfield_bits != 0 {
                    return put_bits(m, value, out).map(|()| true);
                }
                return self.part(m.ty, value, offset, size, out, depth).map(|()| true);
            }
            let (Kind::Struct { members, .. } | Kind::Union { members, .. }) = self.btf.resolved(m.ty) else {
                continue;
            };
            let part = offset.checked_add(size).and_then(|end| out.get_mut(offset..end));
            if let (true, Some(part), Some(depth)) = (own.is_empty(), part, depth.checked_sub(1))
                && self.named_member(members, name, value, part, depth)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn array(
        &self,
        elem: TypeId,
        len: usize,
        value: &Value,
        out: &mut [u8],
        depth: u32,
    ) -> Result<(), ValueError> {
        let size = self.btf.size_of(elem).unwrap_or(0) as usize;
        if let (Some(text), 1) = (value.as_str(), size) {
            return byte_string(text, out)
                .ok_or(())
                .or_else(|()| wrong(value, format!("string of {len} bytes")));
        }
        let address = value.as_str().and_then(|s| s.parse::<Ipv6Addr>().ok());
        if let (Some(NetworkOrder::Be32), Some(address), 16) =
            (network_order(self.btf, elem), address, out.len())
        {
            out.copy_from_slice(&address.octets());
            return Ok(());
        }
        let Some(list) = value.as_array().filter(|l| l.len() <= len) else {
            return wrong(value, format!("list of at most {len} elements"));
        };
        list.iter().enumerate().try_for_each(|(i, v)| self.part(elem, v, i * size, size, out, depth))
    }
}

fn in_network_order(order: NetworkOrder, value: &Value, out: &mut [u8]) -> Result<(), ValueError> {
    let address = value.as_str().and_then(|s| s.parse::<Ipv4Addr>().ok());
    if let (NetworkOrder::Be32, Some(address), 4) = (order, address, out.len()) {
        out.copy_from_slice(&address.octets());
        return Ok(());
    }
    put_integer(value, out.len(), false, out)?;
    out.reverse();
    Ok(())
}

/// Hexadecimal, an address of the right length, or text with zeros after it.
fn byte_string(text: &str, out: &mut [u8]) -> Option<()> {
    let exact = |bytes: &[u8], out: &mut [u8]| (bytes.len() == out.len()).then(|| out.copy_from_slice(bytes));
    if let Some(digits) = text.strip_prefix("0x") {
        return exact(&hex_bytes(digits)?, out);
    }
    if let (Ok(address), 16) = (text.parse::<Ipv6Addr>(), out.len()) {
        return exact(&address.octets(), out);
    }
    if let (Ok(address), 4) = (text.parse::<Ipv4Addr>(), out.len()) {
        return exact(&address.octets(), out);
    }
    if out.len() == 6
        && text.matches(':').count() == 5
        && let Some(mac) = hex_bytes(text)
    {
        return exact(&mac, out);
    }
    out.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
    Some(())
}

fn put_bits(m: &Member, value: &Value, out: &mut [u8]) -> Result<(), ValueError> {
    let bits = u32::from(m.bitfield_bits);
    let Some(n) = integer(value).filter(|n| *n >= -(1 << (bits - 1)) && *n < (1 << bits)) else {
        return wrong(value, format!("{bits}-bit number"));
    };
    for i in 0..bits {
        let at = m.bit_offset.saturating_add(i);
        let Some(byte) = out.get_mut((at / 8) as usize) else {
            return wrong(value, "bit field in its structure");
        };
        let bit = ((n >> i) & 1) as u8;
        *byte = (*byte & !(1 << (at % 8))) | (bit << (at % 8));
    }
    Ok(())
}
