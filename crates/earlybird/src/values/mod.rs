//! Keys and values of maps as text and JSON, typed by the object's BTF.
//!
//! Numbers in types called `__be16` and `__be32` are in network order: a port reads as `443`, an address as
//! `"10.0.0.1"`, four in an array as an IPv6 address. Arrays of bytes are hexadecimal strings; text in arrays of `char` is text. What has no
//! type is a hexadecimal string. Everything that is printed can be read back.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

use bpf::btf::{Btf, TypeId};

pub use decode::decode;
pub use encode::{ValueError, encode, parse_text};

/// How bytes are to be read: as a type of a BTF, or as bare bytes.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// The type, if there is one.
    pub ty: Option<(&'a Btf, TypeId)>,
    /// Size, bytes.
    pub size: usize,
}

/// Deepest nesting of types that is followed.
const DEPTH_MAX: u32 = 32;

/// Types in network order, by the name of their typedef.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NetworkOrder {
    Be16,
    Be32,
    Be64,
}

fn network_order(btf: &Btf, mut ty: TypeId) -> Option<NetworkOrder> {
    for _ in 0..DEPTH_MAX {
        match btf.name_of(ty) {
            "__be16" => return Some(NetworkOrder::Be16),
            "__be32" => return Some(NetworkOrder::Be32),
            "__be64" => return Some(NetworkOrder::Be64),
            _ => ty = btf.ty(ty).kind.modified()?,
        }
    }
    None
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::from("0x"), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}
