//! Every object of `programs/` as the compiler left it.

use std::path::PathBuf;

use bpf::object::AttachType;

use super::*;
use crate::host;

pub(super) fn programs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../programs")
}

fn parse(name: &str) -> ObjectSpec {
    let bytes = std::fs::read(programs().join(name)).unwrap();
    ObjectSpec::parse(&bytes, name, &host::target()).unwrap()
}

/// An Ethernet frame with a UDP packet over IPv4, 60 bytes.
pub(super) fn udp() -> TestRun {
    let mut data = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    data.extend([0x45, 0, 0, 46, 0, 1, 0, 0, 64, 17, 0x66, 0xbc, 10, 0, 0, 1, 10, 0, 0, 2]);
    data.extend([0x30, 0x39, 0, 53, 0, 26, 0, 0]);
    data.resize(60, 0);
    TestRun { data, ..TestRun::default() }
}

#[test]
fn kernel_loads_and_runs_every_program_of_ours() {
    crate::needs_kernel!();
    let files = std::fs::read_dir(programs()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut files: Vec<_> = files.filter(|f| f.ends_with(".bpf.o")).collect();
    files.sort();
    assert!(files.len() >= 15, "{files:?}");
    for scripted in [false, true] {
        for file in &files {
            let spec = parse(file);
            let names: Vec<&str> = spec.programs.iter().map(|p| p.name.as_str()).collect();
            let mut loaded = load(&spec, &names, scripted).unwrap_or_else(|e| panic!("{file}: {e}"));
            assert!(
                loaded.warnings().iter().all(|w| w.contains("pinned")),
                "{file}: {:?}",
                loaded.warnings()
            );
            assert_eq!(loaded.maps().len(), spec.maps.len());
            for program in spec.programs.iter().filter(|p| p.attach_type == AttachType::Xdp) {
                let output = loaded.test_run(&program.name, &udp()).unwrap();
                assert!(output.retval <= 4, "{file} {}: {}", program.name, output.retval);
            }
        }
    }
}

#[test]
fn kernel_knows_functions_lines_and_map_types_of_our_programs() {
    crate::needs_kernel!();
    let spec = parse("firewall.bpf.o");
    let name = spec.program(None).unwrap().name.clone();
    for scripted in [false, true] {
        let loaded = load(&spec, &[&name], scripted).unwrap();
        let info = loaded.prog(&name).unwrap().info().unwrap();
        assert!(info.btf_id != 0 && info.nr_func_info > 0 && info.nr_line_info > 0, "{info:?}");
        let typed =
            (0..spec.maps.len()).filter_map(|i| loaded.map(i)).filter(|m| m.info().unwrap().btf_id != 0);
        assert!(typed.count() > 0);
    }
}

/// An object of the loader's tests.
fn parse_feature(name: &str) -> ObjectSpec {
    parse(&format!("../testdata/objects/{name}.o"))
}

#[test]
fn kernel_takes_every_feature_of_objects() {
    crate::needs_kernel!();
    let files = [
        "calls",
        "core_relo",
        "data",
        "kconfig",
        "ksyms",
        "legacy",
        "legacy_iproute2",
        "maps",
        "newer",
        "sections",
    ];
    for file in files {
        let spec = parse_feature(file);
        for program in &spec.programs {
            let loaded = match load(&spec, &[program.name.as_str()], false) {
                Ok(loaded) => loaded,
                // A CO-RE relocation without a target that is reached.
                Err(e) if program.name == "wrong_size" => {
                    assert!(e.to_string().contains("195896080"), "{e}");
                    continue;
                }
                Err(e) => panic!("{file} {}: {e}", program.name),
            };
            assert!(
                loaded.warnings().iter().all(|w| w.contains("pinned")),
                "{file}: {:?}",
                loaded.warnings()
            );
            let info = loaded.prog(&program.name).unwrap().info().unwrap();
            assert_eq!(info.nr_func_info as usize, program.subprogs.len(), "{file} {}", program.name);
            // The kernel forgets the lines of code that is never reached.
            let lines = info.nr_line_info as usize;
            assert!(lines > 0 && lines <= program.line_info.len(), "{file} {}: {lines}", program.name);
        }
    }
}

#[test]
fn kernel_finds_what_an_object_puts_into_its_maps() {
    crate::needs_kernel!();
    let spec = parse_feature("maps");
    let loaded = load(&spec, &["uses_all", "tail_one", "tail_two"], false).unwrap();
    let index = |name: &str| spec.map(name).unwrap().0;
    let id = |map: usize| loaded.maps()[map].id.to_le_bytes().to_vec();
    let at = |map: &str, key: u32| loaded.map_lookup(index(map), &key.to_le_bytes());
    assert_eq!(at("outer_array", 1).unwrap(), id(index("inner_a")));
    assert_eq!(at("outer_array", 5).unwrap(), id(index("inner_b")));
    assert_eq!(at("outer_array", 0), Err(Errno::ENOENT));
    let prog = |name: &str| loaded.prog(name).unwrap().info().unwrap().id.to_le_bytes().to_vec();
    assert_eq!(at("programs", 0).unwrap(), prog("tail_one"));
    assert_eq!(at("programs", 3).unwrap(), prog("tail_two"));

    let mut ksyms = load(&parse_feature("ksyms"), &["ksyms"], false).unwrap();
    assert_eq!(ksyms.test_run("ksyms", &udp()).unwrap().retval, 2);
}
