//! What the loader makes of small objects, each about one feature. Needs neither root nor a kernel with BTF.

mod common;

use std::collections::BTreeMap;

use bpf::btf::{Btf, BtfKind, Kind};
use bpf::maps::FieldKind;
use bpf::object::*;
use bpf::verifier::special_fields;
use uapi::bpf::*;

fn parse_with(name: &str, target: &Target) -> Result<ObjectSpec, ObjectError> {
    let bytes = std::fs::read(common::root().join("testdata/objects").join(name)).expect(name);
    ObjectSpec::parse(&bytes, name, target)
}

fn parse(name: &str) -> ObjectSpec {
    parse_with(name, &Target::bundled()).unwrap_or_else(|e| panic!("{e}"))
}

/// What a straight-line program stores to 64-bit elements of a map's value, by element.
fn stores(p: &ProgramSpec) -> BTreeMap<usize, u64> {
    #[derive(Clone, Copy)]
    enum Value {
        Number(u64),
        /// Offset into the value.
        Address(u64),
        Unknown,
    }
    let mut regs = [Value::Unknown; 11];
    let mut out = BTreeMap::new();
    let mut i = 0;
    while i < p.insns.len() {
        let insn = p.insns[i];
        let (dst, src) = (insn.dst as usize, insn.src as usize);
        match (insn.class(), insn.op()) {
            _ if insn.is_ld_imm64() => {
                let second = p.insns[i + 1].imm;
                let number = u64::from(insn.imm as u32) | u64::from(second as u32) << 32;
                let is_value = insn.src == BPF_PSEUDO_MAP_IDX_VALUE;
                regs[dst] = if is_value { Value::Address(second as u64) } else { Value::Number(number) };
                i += 1;
            }
            (BPF_ALU64 | BPF_ALU, BPF_MOV) => {
                regs[dst] = if insn.is_src_reg() { regs[src] } else { Value::Number(insn.imm as i64 as u64) };
            }
            (BPF_ALU64, BPF_ADD) if !insn.is_src_reg() => {
                if let Value::Number(n) = regs[dst] {
                    regs[dst] = Value::Number(n.wrapping_add(insn.imm as i64 as u64));
                }
            }
            (BPF_STX | BPF_ST, _) if insn.access_size() == 8 => {
                let value =
                    if insn.class() == BPF_ST { Value::Number(insn.imm as i64 as u64) } else { regs[src] };
                if let (Value::Address(at), Value::Number(value)) = (regs[dst], value) {
                    out.insert((at.wrapping_add(insn.off as i64 as u64) / 8) as usize, value);
                }
            }
            (BPF_LDX, _) => regs[dst] = Value::Unknown,
            _ => regs[dst] = Value::Unknown,
        }
        i += 1;
    }
    out
}

fn expect_stores(spec: &ObjectSpec, program: &str, expected: &[u64]) {
    let out = stores(spec.program(Some(program)).unwrap());
    let got: Vec<_> = (0..expected.len()).map(|i| out.get(&i).copied()).collect();
    let expected: Vec<_> = expected.iter().map(|&v| Some(v)).collect();
    assert_eq!(got, expected, "{program}");
}

#[test]
fn core_relocations_give_the_targets_values() {
    let spec = parse("core_relo.o");
    expect_stores(&spec, "field_offsets", &[32, 48, 56, 280, 283, 12, 24, 10, 112]);
    expect_stores(&spec, "field_sizes_and_signs", &[16, 8, 4, 1, 1, 0, 1]);
    expect_stores(&spec, "bitfields", &[12, 56, 60, 54, 63, 56, 0, 2, 0]);
    expect_stores(&spec, "existence", &[1, 0, 0, 1, 0, 0, 1, 0, 1, 0, 0, 1]);
    let id_in = |btf: &Btf| u64::from(btf.find("xdp_buff", BtfKind::Struct).unwrap().0);
    let local_id = id_in(spec.btf.as_ref().unwrap());
    let target_id = id_in(&Target::bundled().btf.unwrap());
    expect_stores(&spec, "types", &[56, 0, 8, local_id, target_id, 0, 1, 0, 1, 1, 0, 0]);
    expect_stores(&spec, "enumerators", &[2, 54]);
}

#[test]
fn core_relocations_give_the_same_here_as_on_a_running_6_18() {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = common::running_kernel().filter(|_| release.starts_with("6.18."));
    let Some(kernel) = kernel else {
        return common::skip("core_relocations_give_the_same_here_as_on_a_running_6_18", "no 6.18 with BTF");
    };
    let (ours, theirs) = (parse("core_relo.o"), parse_with("core_relo.o", &kernel).unwrap());
    for (a, b) in ours.programs.iter().zip(&theirs.programs) {
        // Numbers of types differ, of course.
        if a.name != "types" {
            assert_eq!(a.insns, b.insns, "{}", a.name);
        }
    }
}

#[test]
fn core_relocations_change_sizes_of_loads_and_poison_what_has_no_target() {
    let spec = parse("core_relo.o");
    let codes = |name: &str| -> Vec<_> {
        spec.program(Some(name)).unwrap().insns.iter().map(|i| (i.code, i.off, i.imm)).collect()
    };
    let accesses = codes("accesses");
    let load = |size, off| (BPF_LDX | BPF_MEM | size, off, 0);
    assert!(accesses.contains(&load(BPF_W, 4)), "mem->id is 4 bytes at 4: {accesses:x?}");
    assert!(accesses.contains(&load(BPF_W, 16)), "ip->daddr moves to 16");
    assert!(accesses.contains(&load(BPF_W, 8)), "rxq->queue_index moves to 8");
    let poison = (BPF_JMP | BPF_CALL, 0, POISON_CORE);
    assert!(codes("wrong_size").contains(&poison));
    assert!(codes("guarded").contains(&poison));
}

#[test]
fn without_types_of_a_target_nothing_exists() {
    let target = Target::new(None);
    let spec = parse_with("core_relo.o", &target).unwrap();
    expect_stores(&spec, "existence", &[0; 12]);
    let poisoned = spec.program(Some("field_offsets")).unwrap();
    assert!(poisoned.insns.iter().any(|i| i.is_helper_call() && i.imm == POISON_CORE));
}

#[test]
fn maps_have_their_attributes() {
    let spec = parse("maps.o");
    let map = |name: &str| spec.map(name).unwrap().1;
    let typed = map("typed");
    assert_eq!((typed.map_type, typed.key_size, typed.value_size), (MapType::Hash, 12, 16));
    assert_eq!((typed.max_entries, typed.map_flags), (1000, BPF_F_NO_PREALLOC));
    let btf = spec.btf.as_ref().unwrap();
    assert_eq!(btf.c_declaration(typed.key_type.unwrap(), "key"), "struct key key");
    assert_eq!(btf.c_declaration(typed.value_type.unwrap(), "v"), "struct value v");
    let sized = map("sized");
    assert_eq!((sized.key_size, sized.value_size, sized.key_type), (12, 40, None));
    assert_eq!(map("ring").max_entries, 8192);
    assert_eq!(map("events").max_entries, 1);
    assert_eq!((map("bloom").map_extra, map("bloom").key_size), (7, 0));
    assert_eq!((map("near").numa_node, map("near").map_flags), (Some(0), BPF_F_NUMA_NODE));
    let wanted = parse_with("maps.o", &Target { possible_cpus: 6, ..Target::bundled() }).unwrap();
    assert_eq!(wanted.map("events").unwrap().1.max_entries, 6);
}

#[test]
fn special_fields_of_values_are_found() {
    let spec = parse("maps.o");
    let fields = |name: &str| -> Vec<_> {
        let value = spec.map(name).unwrap().1.value_type.unwrap();
        let fields = special_fields(spec.btf.as_deref().unwrap(), None, value);
        fields.iter().map(|f| (f.offset, f.kind)).collect()
    };
    assert_eq!(fields("typed"), [(8, FieldKind::SpinLock)]);
    assert_eq!(fields("special"), [(8, FieldKind::Timer), (32, FieldKind::SpinLock)]);
    assert_eq!(fields("near"), []);
}

#[test]
fn maps_in_maps_and_program_arrays_are_initialised() {
    let spec = parse("maps.o");
    let index = |name: &str| spec.map(name).unwrap().0;
    let map = |name: &str| spec.map(name).unwrap().1;
    let inner = map("outer_array").inner.as_deref().unwrap();
    assert_eq!((inner.name.as_str(), inner.max_entries), ("outer_array.inner", 4));
    let slots = vec![(1, SlotRef::Map(index("inner_a"))), (5, SlotRef::Map(index("inner_b")))];
    assert_eq!(map("outer_array").contents, MapContents::Slots(slots));
    assert_eq!(map("outer_hash").contents, MapContents::Empty);
    assert_eq!(map("outer_hash").inner.as_deref().unwrap().value_size, 2);
    let program = |name: &str| SlotRef::Program(name.to_owned());
    let slots = vec![(0, program("tail_one")), (3, program("tail_two"))];
    assert_eq!(map("programs").contents, MapContents::Slots(slots));
}

#[test]
fn data_sections_become_maps() {
    let spec = parse("data.o");
    let names: Vec<_> = spec.maps.iter().map(|m| m.name.as_str()).collect();
    let expected = [
        ".data",
        ".bss",
        ".data.custom",
        ".data.quiet",
        ".rodata.custom",
        ".bss.custom",
        ".data.hidden",
        ".rodata",
        ".rodata.str1.1",
    ];
    let sorted = |mut names: Vec<&str>| {
        names.sort_unstable();
        names.join(" ")
    };
    assert_eq!(sorted(names), sorted(expected.to_vec()));
    let map = |name: &str| spec.map(name).unwrap().1;
    assert!(map(".rodata").frozen && !map(".data").frozen);
    assert_eq!(map(".rodata").map_flags, BPF_F_RDONLY_PROG | BPF_F_MMAPABLE);
    assert_eq!(map(".data.quiet").map_flags, 0);
    assert_eq!(map(".data.hidden").map_flags, 0);
    assert_eq!(map(".data.custom").map_flags, BPF_F_MMAPABLE);
    assert_eq!(map(".data.custom").contents, MapContents::Data(vec![11, 0, 0, 0]));
    assert_eq!((&map(".bss").contents, map(".bss").value_size), (&MapContents::Empty, 48));
    assert_eq!(map(".rodata").kernel_name(&spec.name), "data.rodata");
    assert_eq!(map(".data.custom").kernel_name(&spec.name), ".data.custom");
    assert_eq!((spec.license.as_str(), spec.version), ("GPL", 0x0006_1200));
}

#[test]
fn configuration_values_are_filled_in() {
    let mut target = Target::bundled();
    target.kconfig.text = "# a comment\nCONFIG_HZ=250\nCONFIG_HZ=100\nCONFIG_BPF_SYSCALL=y\nCONFIG_NET=m\n\
        CONFIG_BPF_JIT=y\nCONFIG_DEFAULT_HOSTNAME=\"earlybird-long-name\"\nCONFIG_CC_VERSION_TEXT=\"gcc\"\n\
        CONFIG_PAGE_OFFSET=0xffff888000000000\n"
        .to_owned();
    let spec = parse_with("kconfig.o", &target).unwrap();
    let (_, map) = spec.map(".kconfig").unwrap();
    assert!(map.frozen);
    let MapContents::Data(data) = &map.contents else { panic!("{:?}", map.contents) };
    let btf = spec.btf.as_ref().unwrap();
    let Kind::Datasec { vars, .. } = &btf.ty(map.value_type.unwrap()).kind else { panic!() };
    let value = |name: &str| {
        let var = vars.iter().find(|v| btf.name_of(v.ty) == name).unwrap();
        &data[var.offset as usize..(var.offset + var.size) as usize]
    };
    assert_eq!(value("LINUX_KERNEL_VERSION"), 0x0006_1200u32.to_le_bytes());
    assert_eq!(value("CONFIG_HZ"), 250u64.to_le_bytes());
    assert_eq!(value("CONFIG_BPF_SYSCALL"), [1]);
    assert_eq!(value("CONFIG_NET"), 2u32.to_le_bytes());
    assert_eq!(value("CONFIG_NO_SUCH_OPTION"), [0; 4]);
    assert_eq!(value("CONFIG_BPF_JIT"), *b"y");
    assert_eq!(value("CONFIG_DEFAULT_HOSTNAME"), *b"earlybird-l\0");
    assert_eq!(value("CONFIG_CC_VERSION_TEXT"), *b"gcc\0\0\0");
    assert_eq!(value("CONFIG_PAGE_OFFSET"), 0xffff_8880_0000_0000u64.to_le_bytes());
}

#[test]
fn a_configuration_value_that_is_missing_or_misfit_names_its_variable() {
    let error = |text: &str| {
        let mut target = Target::bundled();
        target.kconfig.text = text.to_owned();
        parse_with("kconfig.o", &target).unwrap_err().to_string()
    };
    let missing = error("");
    assert!(missing.contains("CONFIG_") && missing.contains("__weak"), "{missing}");
    let rest = "CONFIG_BPF_SYSCALL=y\nCONFIG_NET=y\nCONFIG_BPF_JIT=y\nCONFIG_CC_VERSION_TEXT=\"x\"\n";
    for (value, why) in [("y", "needs type bool"), ("\"x\"", "char array"), ("12a", "no number")] {
        let text = error(&format!("CONFIG_HZ={value}\n{rest}"));
        assert!(text.contains("CONFIG_HZ") && text.contains(why), "{text}");
    }
    let text = error(&format!("CONFIG_HZ=100\nCONFIG_NODES_SHIFT=70000\n{rest}"));
    assert!(text.contains("CONFIG_NODES_SHIFT") && text.contains("fit"), "{text}");
}

#[test]
fn kernel_symbols_are_kept_until_a_target_knows_them() {
    let spec = parse("ksyms.o");
    let p = spec.program(None).unwrap();
    let names: Vec<_> = p.kfuncs.iter().map(|k| (k.name.as_str(), k.weak)).collect();
    let expected = [
        ("bpf_iter_num_new", false),
        ("bpf_iter_num_next", false),
        ("bpf_iter_num_destroy", true),
        ("bpf_no_such_kfunc", true),
        ("bpf_no_such_kfunc_either", true),
    ];
    assert_eq!(names.len(), expected.len());
    assert!(expected.iter().all(|e| names.contains(e)), "{names:?}");
    for (i, insn) in p.insns.iter().enumerate().filter(|(_, insn)| insn.is_kfunc_call()) {
        assert!((insn.imm as usize) < p.kfuncs.len(), "instruction {i}");
    }
    let ksyms: Vec<_> = p.ksyms.iter().map(|k| (k.name.as_str(), k.is_func, k.btf.is_some())).collect();
    assert!(ksyms.contains(&("no_such_variable", false, true)), "{ksyms:?}");
    assert!(ksyms.contains(&("no_such_symbol", false, false)), "{ksyms:?}");
    assert!(ksyms.contains(&("bpf_no_such_kfunc", true, true)), "{ksyms:?}");
}

#[test]
fn absent_weak_symbols_are_zero_and_their_calls_poison() {
    let known = ["bpf_iter_num_new", "bpf_iter_num_next", "bpf_iter_num_destroy"].map(str::to_owned);
    let target = Target {
        functions: Symbols::Only(known.into()),
        variables: Symbols::Only(["schedule".to_owned()].into()),
        ..Target::bundled()
    };
    let spec = parse_with("ksyms.o", &target).unwrap();
    let p = spec.program(None).unwrap();
    let poisoned = p.insns.iter().filter(|i| i.is_helper_call() && i.imm >= POISON_KFUNC);
    let named: Vec<_> = poisoned.map(|i| p.kfuncs[(i.imm - POISON_KFUNC) as usize].name.as_str()).collect();
    assert_eq!(named, ["bpf_no_such_kfunc", "bpf_no_such_kfunc_either"]);
    assert_eq!(p.ksyms.iter().map(|k| k.name.as_str()).collect::<Vec<_>>(), ["schedule"]);

    let target = Target { functions: Symbols::Only(Default::default()), ..Target::bundled() };
    let error = parse_with("ksyms.o", &target).unwrap_err().to_string();
    assert!(error.contains("bpf_iter_num_new") && error.contains("does not exist"), "{error}");
}

#[test]
fn programs_hold_every_function_that_they_reach_once() {
    let spec = parse("calls.o");
    let order = |name: &str| -> Vec<_> {
        spec.program(Some(name)).unwrap().subprogs.iter().map(|s| (s.name.as_str(), s.is_global)).collect()
    };
    let first =
        [("first", true), ("hidden_one", false), ("global_one", true), ("middle", false), ("leaf", false)];
    assert_eq!(order("first"), first);
    assert_eq!(order("second").len(), 5);
    assert_eq!(order("third"), [("third", true), ("weak_one", true), ("leaf", false), ("middle", false)]);
    assert_eq!(order("alone"), [("alone", true)]);
    for p in &spec.programs {
        let starts: Vec<_> = p.subprogs.iter().map(|s| s.start as usize).collect();
        for (i, insn) in p.insns.iter().enumerate() {
            let is_address = insn.is_ld_imm64() && insn.src == BPF_PSEUDO_FUNC;
            if insn.is_pseudo_call() || is_address {
                let to = (i as i64 + 1 + i64::from(insn.imm)) as usize;
                assert!(starts.contains(&to), "{}: {i} -> {to}", p.name);
            }
        }
        assert_eq!(p.raw_func_info.len(), 8 * p.subprogs.len());
        assert_eq!(p.raw_line_info.len(), 16 * p.line_info.len());
        assert!(p.line_info.windows(2).all(|w| w[0].insn < w[1].insn));
        assert!(p.line_info.iter().all(|l| l.file.ends_with("calls.c") && l.line > 0));
    }
    let line = &spec.program(Some("alone")).unwrap().line_info[0];
    assert_eq!(&*line.text, "\treturn XDP_PASS;");
    assert!(!spec.program(Some("optional")).unwrap().autoload);
}

#[test]
fn newer_features_are_understood() {
    let spec = parse("newer.o");
    let p = spec.program(None).unwrap();
    assert_eq!(p.subprogs.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["throws", "on_exception"]);
    assert!(p.kfuncs.iter().any(|k| k.name == "bpf_preempt_disable" && k.weak), "{:?}", p.kfuncs);
}

#[test]
fn legacy_maps_are_read() {
    let spec = parse("legacy.o");
    let map = |name: &str| spec.map(name).unwrap().1;
    let stats = map("stats");
    assert_eq!((stats.map_type, stats.key_size, stats.value_size), (MapType::Hash, 4, 16));
    assert_eq!((stats.max_entries, stats.map_flags), (64, BPF_F_NO_PREALLOC));
    let btf = spec.btf.as_ref().unwrap();
    assert_eq!(btf.c_declaration(stats.value_type.unwrap(), "v"), "struct value v");
    assert_eq!(map("xsks_map").map_type, MapType::Xskmap);
    assert_eq!((map("wide").map_type, map("wide").max_entries), (MapType::Array, 2));
    assert_eq!(map("own").map_type, MapType::PercpuArray);
    let p = spec.program(Some("xdp_sock")).unwrap();
    assert_eq!((p.section.as_str(), p.section_kind), ("xdp_sock", SectionKind::Other));
    let used: Vec<_> = p
        .insns
        .iter()
        .filter(|i| i.is_ld_imm64() && i.src == BPF_PSEUDO_MAP_IDX)
        .map(|i| spec.maps[i.imm as usize].name.as_str())
        .collect();
    assert_eq!(used, ["stats", "wide", "own", "xsks_map"]);
}

#[test]
fn maps_of_iproute2_are_read_and_linked() {
    let spec = parse("legacy_iproute2.o");
    let map = |name: &str| spec.map(name).unwrap().1;
    assert!(map("map_inner").pin_by_name);
    let outer = map("map_outer");
    assert_eq!(outer.inner.as_deref().unwrap().value_size, 8);
    let inner = SlotRef::Map(spec.map("map_inner").unwrap().0);
    assert_eq!(outer.contents, MapContents::Slots(vec![(3, inner)]));
    let jump = SlotRef::Program("second".to_owned());
    assert_eq!(map("jumps").contents, MapContents::Slots(vec![(2, jump)]));
}

#[test]
fn sections_say_what_programs_are() {
    let spec = parse("sections.o");
    let p = |name: &str| spec.program(Some(name)).unwrap();
    assert_eq!((p("frags").frags, p("frags").attach_type), (true, AttachType::Xdp));
    assert_eq!((p("devmap").frags, p("devmap").attach_type), (false, AttachType::Devmap));
    assert_eq!((p("frags_cpumap").frags, p("frags_cpumap").attach_type), (true, AttachType::Cpumap));
    assert_eq!(p("old_devmap").attach_type, AttachType::Devmap);
    assert_eq!(p("named").section_kind, SectionKind::Xdp);
    assert_eq!(p("sock").section_kind, SectionKind::Other);
    assert_eq!(p("classifier").section_kind, SectionKind::Other);
    assert_eq!((p("optional").section.as_str(), p("optional").autoload), ("xdp", false));
    assert_eq!(p("xdp.frags").name, "frags");
    // A static function beside entry programs is a subprogram.
    let names: Vec<_> = p("calls_beside").subprogs.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["calls_beside", "beside"]);
}

#[test]
fn a_program_that_no_one_must_load_may_be_unusable() {
    let target = Target { functions: Symbols::Only(Default::default()), ..Target::bundled() };
    let spec = parse_with("sections.o", &target).unwrap();
    let names: Vec<_> = spec.unusable.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["needs_config", "needs_kfunc"]);
    let error = spec.program(Some("needs_kfunc")).unwrap_err().to_string();
    assert!(error.contains("bpf_no_such_kfunc") && error.contains("does not exist"), "{error}");
    let error = spec.program(Some("needs_config")).unwrap_err().to_string();
    assert!(error.contains("CONFIG_NO_SUCH_OPTION"), "{error}");
}

#[test]
fn every_object_at_hand_can_be_read_without_a_kernel() {
    let objects = common::all_objects();
    assert!(objects.len() > 20);
    for path in objects.into_iter().filter(|p| !p.ends_with("kconfig.o")) {
        let bytes = std::fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let spec = ObjectSpec::parse(&bytes, name, &Target::bundled()).unwrap_or_else(|e| panic!("{e}"));
        assert!(!spec.programs.is_empty(), "{name}");
        let btf = spec.btf.expect("types");
        assert!(Btf::parse(&btf.for_kernel()).is_ok(), "{name}");
    }
}
