use super::*;

/// One type of every kind, with names, flags and values at their limits.
fn every_kind() -> Btf {
    let mut b = BtfBuilder::default();
    let int = Kind::Int { size: 4, signed: true, is_char: false, is_bool: false, bit_offset: 0, bits: 32 };
    let int = b.add("int", int);
    let ptr = b.add("", Kind::Ptr(int));
    let array = b.add("", Kind::Array { elem: ptr, index: int, len: 7 });
    let plain = Member { name: b.name("plain"), ty: array, bit_offset: 0x0123_4560, bitfield_bits: 0 };
    b.add("s", Kind::Struct { size: 64, members: [plain].into() });
    let bits = Member { name: b.name("bits"), ty: int, bit_offset: 0x00ff_ffff, bitfield_bits: 31 };
    b.add("u", Kind::Union { size: 8, members: [bits].into() });
    let mut value = |text: &str, value| EnumValue { name: b.name(text), value };
    let small = [value("NEG", -1), value("MIN", i64::from(i32::MIN))];
    let wide = [value("BIG", i64::MIN), value("ALL", -1)];
    let plain = [value("U32", i64::from(u32::MAX))];
    b.add("e", Kind::Enum { size: 4, signed: true, values: small.into() });
    b.add("e64", Kind::Enum { size: 8, signed: false, values: wide.into() });
    b.add("e32", Kind::Enum { size: 4, signed: false, values: plain.into() });
    b.add("f", Kind::Fwd { is_union: true });
    b.add("t", Kind::Typedef(int));
    b.add("", Kind::Volatile(int));
    b.add("", Kind::Const(int));
    b.add("", Kind::Restrict(ptr));
    let params = [Param { name: b.name("x"), ty: int }, Param { name: Name::EMPTY, ty: TypeId::VOID }];
    let proto = b.add("", Kind::FuncProto { ret: TypeId::VOID, params: params.into() });
    let func = b.add("fn", Kind::Func { proto, linkage: Linkage::Global });
    let var = b.add("v", Kind::Var { ty: int, linkage: Linkage::Extern });
    b.add(".data", Kind::Datasec { size: 4, vars: [SecVar { ty: var, offset: 0, size: 4 }].into() });
    b.add("double", Kind::Float { size: 8 });
    b.add("tag", Kind::DeclTag { ty: func, component: -1 });
    b.add("arg:ctx", Kind::DeclTag { ty: func, component: 0 });
    b.add("user", Kind::TypeTag(int));
    b.finish()
}

#[test]
fn every_kind_survives_encoding_and_parsing() {
    let btf = every_kind();
    let bytes = btf.encode();
    let again = Btf::parse(&bytes).unwrap();
    assert_eq!(again, btf);
    assert_eq!(again.encode(), bytes);
}

#[test]
fn tags_of_a_function_are_found() {
    let btf = every_kind();
    let func = btf.func("fn").unwrap();
    assert_eq!(btf.decl_tags(func).collect::<Vec<_>>(), [(-1, "tag"), (0, "arg:ctx")]);
    assert_eq!(btf.decl_tags(TypeId(1)).count(), 0);
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = every_kind().encode();
    for len in 0..bytes.len() {
        assert!(Btf::parse(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
    }
}

#[test]
fn references_out_of_range_are_errors() {
    let mut b = BtfBuilder::default();
    b.add("p", Kind::Ptr(TypeId(9)));
    let error = Btf::parse(&b.finish().encode()).unwrap_err();
    assert_eq!(error, BtfError::Type { id: 1, reason: "refers to a type that does not exist" });
    let mut b = BtfBuilder::default();
    let p = b.add("p", Kind::Ptr(TypeId::VOID));
    b.add("f", Kind::Func { proto: p, linkage: Linkage::Static });
    let error = Btf::parse(&b.finish().encode()).unwrap_err();
    assert_eq!(error, BtfError::Type { id: 2, reason: "function whose type is no prototype" });
}

#[test]
fn a_name_that_is_no_utf8_keeps_the_offsets_of_the_others() {
    let mut bytes = every_kind().encode();
    let at = bytes.windows(5).position(|w| w == b"plain").unwrap();
    bytes[at] = 0xff;
    let btf = Btf::parse(&bytes).unwrap();
    assert!(btf.find("s", BtfKind::Struct).is_some());
    let s = btf.find("s", BtfKind::Struct).unwrap();
    assert!(btf.member(s, "?lain").is_some());
}

#[test]
fn the_running_kernels_types_round_trip() {
    let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else {
        eprintln!("SKIPPED: this kernel has no /sys/kernel/btf/vmlinux");
        return;
    };
    let started = std::time::Instant::now();
    let btf = Btf::parse(&bytes).unwrap();
    let parsed = started.elapsed();
    let xdp = btf.find("xdp_buff", BtfKind::Struct).expect("xdp_buff");
    println!(
        "{} types: parsed in {parsed:?}, indexed in {:?}",
        btf.types().len(),
        started.elapsed() - parsed
    );
    assert_eq!(btf.member(xdp, "data_meta").unwrap().bit_offset, 16 * 8);
    let again = Btf::parse(&btf.encode()).unwrap();
    assert_eq!(again, btf);
}
