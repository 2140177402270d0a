//! What is known of a register, in plain words.

use super::super::env::Env;
use super::super::reg::Reg;
use super::super::types::RegType;

/// A number's range.
pub(super) fn number(reg: &Reg) -> String {
    if reg.var_off.is_const() {
        return format!("the number {}", reg.var_off.value as i64);
    }
    match (reg.smin, reg.smax, reg.umax) {
        (i64::MIN, i64::MAX, _) if reg.u32_max < u32::MAX => {
            format!("a number whose low half is {} to {}", reg.u32_min, reg.u32_max)
        }
        (i64::MIN, i64::MAX, _) => "a number that may be anything".to_owned(),
        (0, _, umax) if umax == u64::from(u32::MAX) => "any number of 32 bits".to_owned(),
        (0.., _, _) => format!("a number from {} to {}", reg.umin, reg.umax),
        (i64::MIN, max, _) => format!("a number up to {max}, perhaps negative"),
        (min, i64::MAX, _) => format!("a number from {min} on"),
        (min, max, _) => format!("a number from {min} to {max}"),
    }
}

/// Where a pointer points within what it points to: fixed and variable part together.
fn place(reg: &Reg) -> String {
    let off = i64::from(reg.off);
    if reg.var_off.is_const() {
        return off.wrapping_add(reg.var_off.value as i64).to_string();
    }
    match (reg.smin.checked_add(off), reg.smax.checked_add(off)) {
        (Some(min), Some(max)) if reg.smin != i64::MIN && reg.smax != i64::MAX => format!("{min} to {max}"),
        (Some(min), _) if reg.smin >= 0 => format!("{min} or more"),
        _ => "anything".to_owned(),
    }
}

/// So many bytes, in words.
pub(super) fn bytes(n: impl Into<i64>) -> String {
    match n.into() {
        1 => "1 byte".to_owned(),
        n => format!("{n} bytes"),
    }
}

/// Bytes from a packet pointer on that are known to lie in the packet.
pub(super) fn checked_bytes(reg: &Reg) -> i64 {
    (i64::from(reg.range()) - i64::from(reg.off)).max(0)
}

impl Env<'_> {
    /// A register in words.
    pub(super) fn words(&self, reg: &Reg) -> String {
        let null = if reg.ty.may_be_null() { ", or null" } else { "" };
        let base = match reg.ty.base() {
            RegType::NOT_INIT => "not set".to_owned(),
            RegType::SCALAR => number(reg),
            RegType::CTX => "the context".to_owned(),
            RegType::PACKET => match checked_bytes(reg) {
                0 => format!("a packet pointer at offset {}, no byte checked from there on", place(reg)),
                n => format!("a packet pointer at offset {}, {} checked from there on", place(reg), bytes(n)),
            },
            RegType::PACKET_META => format!("a pointer into the metadata at offset {}", place(reg)),
            RegType::PACKET_END => "the end of the packet".to_owned(),
            RegType::MAP_PTR => format!("the map `{}`", self.maps[reg.map()].def.name),
            RegType::MAP_VALUE => {
                let def = self.maps[reg.map()].def;
                let at = place(reg);
                let at = if at == "0" { String::new() } else { format!(" at offset {at}") };
                format!("a pointer to a value of `{}` ({}){at}", def.name, bytes(def.value_size))
            }
            RegType::MAP_KEY => format!("a pointer to a key of `{}`", self.maps[reg.map()].def.name),
            RegType::STACK => match place(reg).as_str() {
                "0" => "the stack's end, fp".to_owned(),
                at => format!("the stack address fp{}", signed(at)),
            },
            RegType::MEM => {
                format!("a pointer to {} of memory, at offset {}", bytes(reg.mem_size()), place(reg))
            }
            RegType::BTF_ID => {
                let (which, id) = reg.btf();
                format!("a pointer to `struct {}`", self.btf_name(which, id))
            }
            RegType::FUNC => "the address of a function".to_owned(),
            RegType::SOCKET | RegType::SOCK_COMMON | RegType::TCP_SOCK => "a socket".to_owned(),
            _ => format!("`{}`", reg.ty.text()),
        };
        base + null
    }
}

fn signed(place: &str) -> String {
    if place.starts_with('-') { place.to_owned() } else { format!("+{place}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_ranges() {
        let between = |min: i64, max: i64| {
            let mut r = Reg { smin: min, smax: max, ..Reg::UNKNOWN };
            r.bounds_sync();
            number(&r)
        };
        assert_eq!(number(&Reg::scalar(5)), "the number 5");
        assert_eq!(number(&Reg::UNKNOWN), "a number that may be anything");
        assert_eq!(between(0, 63), "a number from 0 to 63");
        assert_eq!(between(0, i64::from(u32::MAX)), "any number of 32 bits");
        assert_eq!(between(-4, 9), "a number from -4 to 9");
        assert_eq!(between(i64::MIN, 9), "a number up to 9, perhaps negative");
        assert_eq!(between(-4, i64::MAX), "a number from -4 on");
    }
}
