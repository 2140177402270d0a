use bpf::btf::{Btf, BtfBuilder, EnumValue, Kind, Member, TypeId};
use serde_json::json;

use super::*;

/// `struct { __be32 addr; __be16 port; char tag[6]; u8 mac[6]; union { s16 level; u16 raw; };
/// unsigned low:3, high:5; enum { A = 1 } e; bool b[2]; }`
fn sample() -> (Btf, TypeId) {
    let mut b = BtfBuilder::default();
    let int = |b: &mut BtfBuilder, name: &str, size: u32, signed: bool, is_bool: bool| {
        b.add(name, Kind::Int { size, signed, is_char: false, is_bool, bit_offset: 0, bits: 8 * size as u8 })
    };
    let u32t = int(&mut b, "unsigned int", 4, false, false);
    let u16t = int(&mut b, "unsigned short", 2, false, false);
    let s16t = int(&mut b, "short", 2, true, false);
    let char_t = int(&mut b, "char", 1, true, false);
    let u8t = int(&mut b, "unsigned char", 1, false, false);
    let bool_t = int(&mut b, "_Bool", 1, false, true);
    let be32 = b.add("__be32", Kind::Typedef(u32t));
    let be16 = b.add("__be16", Kind::Typedef(u16t));
    let tag = b.add("", Kind::Array { elem: char_t, index: u32t, len: 6 });
    let mac = b.add("", Kind::Array { elem: u8t, index: u32t, len: 6 });
    let bools = b.add("", Kind::Array { elem: bool_t, index: u32t, len: 2 });
    let a = b.name("A");
    let e =
        b.add("", Kind::Enum { size: 1, signed: false, values: [EnumValue { name: a, value: 1 }].into() });
    let member = |b: &mut BtfBuilder, name: &str, ty, bit_offset, bits| Member {
        name: b.name(name),
        ty,
        bit_offset,
        bitfield_bits: bits,
    };
    let level = member(&mut b, "level", s16t, 0, 0);
    let raw = member(&mut b, "raw", u16t, 0, 0);
    let union = b.add("", Kind::Union { size: 2, members: [level, raw].into() });
    let members = [
        ("addr", be32, 0, 0),
        ("port", be16, 32, 0),
        ("tag", tag, 48, 0),
        ("mac", mac, 96, 0),
        ("", union, 144, 0),
        ("low", u8t, 160, 3),
        ("high", u8t, 163, 5),
        ("e", e, 168, 0),
        ("b", bools, 176, 0),
    ]
    .map(|(name, ty, at, bits)| member(&mut b, name, ty, at, bits));
    let ty = b.add("sample", Kind::Struct { size: 24, members: members.into() });
    (b.finish(), ty)
}

#[test]
fn a_structure_round_trips() {
    let (btf, ty) = sample();
    let shape = Shape { ty: Some((&btf, ty)), size: 24 };
    let value = json!({
        "addr": "10.0.0.1", "port": 443, "tag": "web", "mac": "02:00:00:00:00:01",
        "level": -2, "low": 5, "high": 17, "e": "A", "b": [true, false],
    });
    let bytes = encode(shape, &value).unwrap();
    assert_eq!(&bytes[..6], [10, 0, 0, 1, 0x01, 0xbb]);
    assert_eq!(bytes[20], 5 | (17 << 3));
    let back = decode(shape, &bytes);
    let mut expected = value;
    expected["mac"] = json!("0x020000000001");
    expected["raw"] = json!(65534);
    assert_eq!(back, expected);
    assert_eq!(encode(shape, &back).unwrap(), bytes);
}

#[test]
fn what_does_not_fit_is_said() {
    let (btf, ty) = sample();
    let shape = Shape { ty: Some((&btf, ty)), size: 24 };
    for (value, text) in [
        (json!({"port": 65536}), "65536 is no 16-bit number"),
        (json!({"prot": 6}), "\"prot\" is no member of this structure"),
        (json!({"addr": "10.0.0"}), "\"10.0.0\" is no 32-bit number"),
        (json!({"low": 8}), "8 is no 3-bit number"),
        (json!(3), "3 is no object with the structure's members"),
        (json!("hex:00"), "\"hex:00\" is no value of 24 bytes"),
    ] {
        assert_eq!(encode(shape, &value).unwrap_err().to_string(), text);
    }
}

#[test]
fn bytes_without_a_type_are_hexadecimal_or_small_numbers() {
    let shape = Shape { ty: None, size: 4 };
    assert_eq!(encode(shape, &json!(258)).unwrap(), [2, 1, 0, 0]);
    assert_eq!(encode(shape, &parse_text("0x0a000001")).unwrap(), [10, 0, 0, 1]);
    assert_eq!(decode(shape, &[10, 0, 0, 1]), json!("0x0a000001"));
    assert!(encode(shape, &json!("abc")).is_err());
}
