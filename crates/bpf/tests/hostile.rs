//! Files made to hurt: errors must be errors, and time and memory stay in proportion to the file.

mod common;

use std::time::{Duration, Instant};

use bpf::Insn;
use bpf::btf::{BtfBuilder, Kind, Linkage, Member, Param, TypeId};
use bpf::object::{ObjectError, ObjectSpec, Target};
use common::elf::{EXECUTABLE, ElfWriter, GLOBAL_FUNC, GLOBAL_NOTYPE, LOCAL_FUNC, PROGBITS};
use uapi::bpf::*;

const EXIT: Insn = Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);

fn bytes_of(insns: &[Insn]) -> Vec<u8> {
    insns.iter().flat_map(|i| i.encode()).collect()
}

fn parse(bytes: &[u8]) -> Result<ObjectSpec, ObjectError> {
    ObjectSpec::parse(bytes, "hostile.o", &Target::bundled())
}

/// Parses within two seconds, whatever comes out.
fn parse_in_time(bytes: &[u8]) -> Result<ObjectSpec, ObjectError> {
    let started = Instant::now();
    let result = parse(bytes);
    let took = started.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?} for {} bytes", bytes.len());
    result
}

fn error_of(bytes: &[u8]) -> String {
    parse_in_time(bytes).unwrap_err().to_string()
}

#[test]
fn what_is_no_object_is_told_in_one_line() {
    let elf = ElfWriter::new().finish();
    let with = |at: usize, value: u8| {
        let mut bytes = elf.clone();
        bytes[at] = value;
        bytes
    };
    let cases: [(&[u8], &str); 8] = [
        (b"", "empty"),
        (b"#!/bin/sh\necho hello\n", "not an ELF file"),
        (&elf[..40], "damaged ELF file"),
        (&with(4, 1), "32-bit"),
        (&with(5, 2), "big-endian"),
        (&with(18, 62), "x86-64"),
        (&with(18, 183), "arm64"),
        (&with(16, 2), "not a relocatable object"),
    ];
    for (bytes, why) in cases {
        let text = error_of(bytes);
        assert!(text.starts_with("hostile.o: ") && text.contains(why) && !text.contains('\n'), "{text}");
    }
}

#[test]
fn every_truncation_of_a_real_object_is_an_error_or_an_object() {
    let path = common::root().join("testdata/objects/calls.o");
    let bytes = std::fs::read(path).unwrap();
    // The section headers come last, so nothing but the whole file has all of them.
    for len in (0..bytes.len()).step_by(7) {
        assert!(parse(&bytes[..len]).is_err(), "{len}");
    }
}

#[test]
fn an_object_without_programs_has_none_to_choose() {
    let spec = parse(&ElfWriter::new().finish()).unwrap();
    let text = spec.program(None).unwrap_err().to_string();
    assert_eq!(text, "hostile.o: no program in this object");
}

/// Many small programs that all call one large function.
fn shared_subprogram(programs: u32, large: usize) -> Vec<u8> {
    let mut elf = ElfWriter::new();
    let mut body = vec![Insn::new(BPF_ALU64 | BPF_MOV, 0, 0, 0, 0); large - 1];
    body.push(EXIT);
    let text = elf.section(".text", PROGBITS, EXECUTABLE, bytes_of(&body));
    let call = Insn::new(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, -1);
    let code: Vec<_> = (0..programs).flat_map(|_| [call, EXIT]).collect();
    let xdp = elf.section("xdp", PROGBITS, EXECUTABLE, bytes_of(&code));
    let name = elf.name(b"large");
    let large = elf.symbol(name, LOCAL_FUNC, text, 0, body.len() as u64 * 8);
    let name = elf.name(b"p");
    let mut relocations = Vec::new();
    for i in 0..u64::from(programs) {
        elf.symbol(name, GLOBAL_FUNC, xdp, i * 16, 16);
        relocations.push((i * 16, large));
    }
    elf.relocations(xdp, &relocations);
    elf.finish()
}

#[test]
fn programs_that_multiply_a_subprogram_hit_a_bound() {
    assert_eq!(parse_in_time(&shared_subprogram(10, 1000)).unwrap().programs.len(), 10);
    let bytes = shared_subprogram(10_000, 20_000);
    let text = error_of(&bytes);
    assert!(text.contains("too large together"), "{text}");
}

#[test]
fn a_chain_of_calls_may_be_as_long_as_it_likes() {
    const N: u64 = 60_000;
    let mut elf = ElfWriter::new();
    // Each function calls the next; the last one nothing.
    let call = Insn::new(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 1);
    let mut code: Vec<_> = (0..N - 1).flat_map(|_| [call, EXIT]).collect();
    code.extend([EXIT, EXIT]);
    let section = elf.section("xdp", PROGBITS, EXECUTABLE, bytes_of(&code));
    let name = elf.name(b"f");
    elf.symbol(name, GLOBAL_FUNC, section, 0, 16);
    (1..N).for_each(|i| {
        elf.symbol(name, LOCAL_FUNC, section, i * 16, 16);
    });
    let spec = parse_in_time(&elf.finish()).unwrap();
    assert_eq!(spec.programs[0].subprogs.len(), N as usize);
}

#[test]
fn functions_that_overlap_are_refused() {
    let mut elf = ElfWriter::new();
    let section = elf.section("xdp", PROGBITS, EXECUTABLE, bytes_of(&[EXIT; 4]));
    let name = elf.name(b"f");
    elf.symbol(name, GLOBAL_FUNC, section, 0, 24);
    elf.symbol(name, GLOBAL_FUNC, section, 8, 24);
    assert!(error_of(&elf.finish()).contains("overlaps"));
}

#[test]
fn sections_that_share_bytes_are_refused() {
    let mut elf = ElfWriter::new();
    (0..1000).for_each(|i| {
        elf.section(&format!(".data.{i}"), PROGBITS, 3, vec![0; 8]);
    });
    let mut bytes = elf.finish();
    let headers = u64::from_le_bytes(bytes[40..48].try_into().unwrap()) as usize;
    // All of them the whole file.
    let len = headers as u64;
    for i in 1..=1000 {
        bytes[headers + i * 64 + 24..][..8].copy_from_slice(&0u64.to_le_bytes());
        bytes[headers + i * 64 + 32..][..8].copy_from_slice(&len.to_le_bytes());
    }
    assert!(error_of(&bytes).contains("overlap"));
}

#[test]
fn long_names_that_share_their_ends_cost_little() {
    let mut elf = ElfWriter::new();
    let section = elf.section("xdp", PROGBITS, EXECUTABLE, bytes_of(&[EXIT; 40_000]));
    let at = elf.name(&vec![b'a'; 1 << 20]);
    for i in 0..40_000u32 {
        elf.symbol(at + i, GLOBAL_FUNC, section, u64::from(i) * 8, 8);
    }
    assert!(error_of(&elf.finish()).contains("longer than 1023"));
}

/// An object with types and nothing else but an entry program.
fn with_btf(btf: &[u8], externs: &[&str]) -> Vec<u8> {
    let mut elf = ElfWriter::new();
    elf.section(".BTF", PROGBITS, 0, btf.to_vec());
    let section = elf.section("xdp", PROGBITS, EXECUTABLE, bytes_of(&[EXIT]));
    let name = elf.name(b"f");
    elf.symbol(name, GLOBAL_FUNC, section, 0, 8);
    for name in externs {
        let name = elf.name(name.as_bytes());
        elf.symbol(name, GLOBAL_NOTYPE, 0, 0, 0);
    }
    elf.finish()
}

#[test]
fn cyclic_and_exponential_types_end() {
    let mut b = BtfBuilder::default();
    let cycle = b.add("cycle", Kind::Void);
    b.set(cycle, Kind::Typedef(cycle));
    let member = |ty| Member { name: Default::default(), ty, bit_offset: 0, bitfield_bits: 0 };
    let itself = b.add("itself", Kind::Void);
    b.set(itself, Kind::Struct { size: 8, members: [member(itself), member(itself)].into() });
    let mut ty = itself;
    for _ in 0..40 {
        let param = Param { name: Default::default(), ty };
        let proto = b.add("", Kind::FuncProto { ret: ty, params: [param, param].into() });
        ty = b.add("", Kind::Ptr(proto));
    }
    for (name, ty) in [("CONFIG_CYCLE", cycle), ("CONFIG_ITSELF", itself), ("CONFIG_DEEP", ty)] {
        let var = b.add(name, Kind::Var { ty, linkage: Linkage::Extern });
        let vars = [bpf::btf::SecVar { ty: var, offset: 0, size: 8 }].into();
        b.add(".kconfig", Kind::Datasec { size: 0, vars });
    }
    let btf = b.finish();
    for id in 0..btf.types().len() as u32 {
        assert!(btf.c_definition(TypeId(id)).len() < 1 << 20);
        assert!(btf.align_of(TypeId(id)).is_none_or(|align| align <= 8));
        assert_eq!(btf.member(TypeId(id), "x"), None);
    }
    let object = with_btf(&btf.encode(), &["CONFIG_CYCLE", "CONFIG_ITSELF", "CONFIG_DEEP"]);
    assert!(parse_in_time(&object).is_ok());
}

#[test]
fn many_types_of_one_name_cost_little() {
    let mut b = BtfBuilder::default();
    let members = |n: usize, name, ty| -> Box<[Member]> {
        vec![Member { name, ty, bit_offset: 0, bitfield_bits: 0 }; n].into()
    };
    let name = b.name("net_device");
    let int = Kind::Int { size: 4, signed: true, is_char: false, is_bool: false, bit_offset: 0, bits: 32 };
    let int = b.add("int", int);
    for _ in 0..50_000 {
        b.add("net_device", Kind::Struct { size: 4, members: members(1, name, int) });
    }
    let var = b.add("extern_one", Kind::Var { ty: int, linkage: Linkage::Extern });
    for _ in 0..20_000 {
        let vars = [bpf::btf::SecVar { ty: var, offset: 0, size: 4 }].into();
        b.add(".ksyms", Kind::Datasec { size: 0, vars });
    }
    let object = with_btf(&b.finish().encode(), &["extern_one"; 2000]);
    let spec = parse_in_time(&object).unwrap();
    let started = Instant::now();
    assert!(!spec.btf.unwrap().for_kernel().is_empty());
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[test]
fn source_lines_that_share_their_text_cost_little() {
    let mut b = BtfBuilder::default();
    let text = b.name(&"x".repeat(1 << 20));
    let section_name = b.name("xdp");
    const N: u32 = 50_000;
    let mut ext = Vec::new();
    let mut put = |words: &[u32]| words.iter().for_each(|w| ext.extend_from_slice(&w.to_le_bytes()));
    let lines = 4 + 8 + 16 * N;
    put(&[0x0001_eb9f, 32, 0, 0, 0, lines, 0, 0]);
    put(&[16, section_name.0, N]);
    (0..N).for_each(|i| put(&[i * 8, text.0 + i, text.0 + N + i, 1 << 10]));
    let mut elf = ElfWriter::new();
    elf.section(".BTF", PROGBITS, 0, b.finish().encode());
    elf.section(".BTF.ext", PROGBITS, 0, ext);
    let section = elf.section("xdp", PROGBITS, EXECUTABLE, bytes_of(&vec![EXIT; N as usize]));
    let name = elf.name(b"f");
    elf.symbol(name, GLOBAL_FUNC, section, 0, u64::from(N) * 8);
    let spec = parse_in_time(&elf.finish()).unwrap();
    let lines = &spec.programs[0].line_info;
    assert_eq!(lines.len(), N as usize);
    let bytes: usize = lines.iter().map(|l| l.file.len() + l.text.len()).sum();
    assert!(bytes < 8 << 20, "{bytes}");
}

#[test]
fn damaged_type_information_is_an_error_only_where_it_matters() {
    let spec = parse(&with_btf(b"no types at all", &[])).unwrap();
    assert!(spec.btf.is_none() && spec.warnings[0].contains(".BTF"), "{:?}", spec.warnings);
    let text = error_of(&with_btf(b"no types at all", &["bpf_kfunc"]));
    assert!(text.contains(".BTF") && text.contains("magic"), "{text}");
}

#[test]
fn a_section_without_contents_may_claim_any_size() {
    let mut elf = ElfWriter::new();
    elf.section(".bss", 8, 3, Vec::new());
    let mut bytes = elf.finish();
    let headers = u64::from_le_bytes(bytes[40..48].try_into().unwrap()) as usize;
    let set =
        |bytes: &mut Vec<u8>, size: u64| bytes[headers + 64 + 32..][..8].copy_from_slice(&size.to_le_bytes());
    set(&mut bytes, 1 << 30);
    assert_eq!(parse_in_time(&bytes).unwrap().maps[0].value_size, 1 << 30);
    set(&mut bytes, u64::MAX);
    assert!(error_of(&bytes).contains("too many for a map"));
}

#[test]
fn inputs_that_once_broke_the_loader_no_longer_do() {
    for path in common::objects_in(&common::root().join("testdata/bad")) {
        let bytes = std::fs::read(&path).unwrap();
        if let Err(e) = parse_in_time(&bytes) {
            assert!(!e.to_string().contains('\n'), "{}: {e}", path.display());
        }
    }
}
