//! Every object of `programs/` as the compiler left it.

use std::path::PathBuf;

use bpf::object::AttachType;

use super::*;
use crate::host;

fn programs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../programs")
}

fn parse(name: &str) -> ObjectSpec {
    let bytes = std::fs::read(programs().join(name)).unwrap();
    ObjectSpec::parse(&bytes, name, &host::target()).unwrap()
}

/// An Ethernet frame with a UDP packet over IPv4, 60 bytes.
fn udp() -> TestRun {
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
