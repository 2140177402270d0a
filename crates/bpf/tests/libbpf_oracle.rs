//! The loader against libbpf: both read the same objects, and what comes out must be the same, byte for
//! byte. Needs root (libbpf asks the kernel), a C compiler and libbpf-dev.
//!
//! `EARLYBIRD_LIBBPF_ORACLE` names an oracle built against another libbpf.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use bpf::Insn;
use bpf::btf::BtfKind;
use bpf::object::{MapContents, ObjectSpec, POISON_KFUNC, ProgramSpec, Target};
use uapi::bpf::*;

/// What libbpf made of one object.
#[derive(Default, Debug)]
struct Expected {
    refused: Option<String>,
    maps: Vec<String>,
    /// Contents of data sections, empty for other maps.
    values: Vec<String>,
    /// Attributes and instructions by function name.
    programs: BTreeMap<String, (String, Vec<String>)>,
}

#[test]
fn root_libbpf_makes_the_same_of_every_object() {
    const NAME: &str = "root_libbpf_makes_the_same_of_every_object";
    let Some(target) = common::running_kernel() else {
        return common::skip(NAME, "the running kernel shows no BTF");
    };
    let Some(oracle) = build_oracle() else {
        return common::skip(NAME, "it needs root, cc and libbpf-dev");
    };
    let objects = common::all_objects();
    assert!(!objects.is_empty());
    let mut compared = 0;
    let mut failures = Vec::new();
    let (version, answers) = ask(&oracle, &objects);
    for (path, expected) in objects.iter().zip(answers) {
        if path.ends_with("newer.o") && version < (1, 3) {
            println!("newer.o: not compared, libbpf is {}.{}", version.0, version.1);
            continue;
        }
        match compare(path, &expected, &target) {
            Ok(programs) => compared += programs,
            Err(why) => failures.push(format!("{}: {why}", path.display())),
        }
    }
    println!("{compared} programs of {} objects are as libbpf makes them", objects.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(compared > 0);
}

/// Compiles the oracle, or takes the one given.
fn build_oracle() -> Option<PathBuf> {
    if let Ok(path) = std::env::var("EARLYBIRD_LIBBPF_ORACLE") {
        return Some(path.into());
    }
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.starts_with(b"0\n"));
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libbpf_oracle");
    let source = common::root().join("testdata/objects/libbpf_oracle.c");
    let built = Command::new("cc").args(["-O1", "-o"]).arg(&out).arg(source).arg("-lbpf").status();
    (is_root && built.is_ok_and(|s| s.success())).then_some(out)
}

/// libbpf's version and what it makes of each object.
fn ask(oracle: &Path, objects: &[PathBuf]) -> ((u32, u32), Vec<Expected>) {
    let output = Command::new(oracle).args(objects).output().expect("the oracle runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let mut all: Vec<Expected> = Vec::new();
    let mut program = String::new();
    let mut version = (0, 0);
    for line in text.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word == "libbpf" {
            let (major, minor) = rest.split_once('.').expect("a version");
            version = (major.parse().expect("major"), minor.parse().expect("minor"));
            continue;
        }
        if word == "object" {
            all.push(Expected::default());
            continue;
        }
        let now = all.last_mut().expect("an object first");
        match word {
            "refused" => now.refused = Some(rest.to_owned()),
            "map" => now.maps.push(rest.to_owned()),
            "value" => now.values.push(rest.to_owned()),
            "program" => {
                let (name, attributes) = rest.split_once(' ').expect("attributes");
                name.clone_into(&mut program);
                now.programs.insert(program.clone(), (attributes.to_owned(), Vec::new()));
            }
            hex => now.programs.get_mut(&program).expect("a program first").1.push(hex.to_owned()),
        }
    }
    assert_eq!(all.len(), objects.len(), "the oracle stopped: {}", String::from_utf8_lossy(&output.stderr));
    (version, all)
}

/// The number of programs that agree, or the first difference.
fn compare(path: &Path, expected: &Expected, target: &Target) -> Result<usize, String> {
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let spec = ObjectSpec::parse(&bytes, name, target);
    if let Some(refused) = &expected.refused {
        // Legacy maps, and static functions beside entry programs, are beyond libbpf.
        if !name.starts_with("legacy") && name != "sections.o" {
            return Err(format!("libbpf refuses it ({refused}); the loader: {}", verdict(&spec)));
        }
        println!("{name}: libbpf refuses it ({refused}); the loader: {}", verdict(&spec));
        return spec.map(|_| 0).map_err(|e| e.to_string());
    }
    let spec = spec.map_err(|e| format!("libbpf loads it, the loader does not: {e}"))?;
    let maps: Vec<_> = spec.maps.iter().map(|m| describe_map(m, &spec.name)).collect();
    let expected_maps: Vec<_> = expected.maps.iter().map(|m| without_types(m)).collect();
    if maps != expected_maps {
        return Err(format!("maps\n  loader {maps:#?}\n  libbpf {expected_maps:#?}"));
    }
    // libbpf forgets what user space cannot map once the kernel has it.
    for (map, expected) in spec.maps.iter().zip(&expected.values).filter(|(_, e)| !e.is_empty()) {
        let value = match &map.contents {
            MapContents::Data(data) => data.iter().map(|b| format!("{b:02x}")).collect(),
            _ => "00".repeat(expected.len() / 2),
        };
        if value != *expected {
            return Err(format!("{}: loader {value}, libbpf {expected}", map.name));
        }
    }
    for (name, (attributes, insns)) in &expected.programs {
        let program = spec.program(Some(name)).map_err(|e| e.to_string())?;
        let ours = describe_program(program);
        if is_known_to_libbpf(&program.section) && ours != *attributes {
            return Err(format!("{name}: loader {ours}, libbpf {attributes}"));
        }
        compare_insns(program, insns, target).map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(expected.programs.len())
}

fn verdict(spec: &Result<ObjectSpec, bpf::object::ObjectError>) -> String {
    match spec {
        Ok(spec) => format!("{} programs, {} maps", spec.programs.len(), spec.maps.len()),
        Err(e) => e.to_string(),
    }
}

fn describe_map(m: &bpf::object::MapSpec, object: &str) -> String {
    let name = if m.name.starts_with('.') { m.kernel_name(object) } else { m.name.clone() };
    let [ty, key, value] = [m.map_type as u32, m.key_size, m.value_size];
    let flags = if m.map_flags == 0 { "0".to_owned() } else { format!("{:#x}", m.map_flags) };
    let [entries, numa] = [m.max_entries, m.numa_node.unwrap_or(0)];
    let extra = m.map_extra;
    format!(
        "{name} type={ty} key={key} value={value} entries={entries} flags={flags} extra={extra} numa={numa}"
    )
}

/// libbpf drops the types of keys and values where the kernel does not take them.
fn without_types(map: &str) -> String {
    map.rsplit_once(" btf=").map_or(map, |(head, _)| head).to_owned()
}

/// Section and attach type; libbpf adds the flag for fragments only as it loads.
fn describe_program(p: &ProgramSpec) -> String {
    format!("section={} type=6 attach={} flags={:#x}", p.section, p.attach_type.raw(), p.prog_flags)
        .replace("flags=0x0", "flags=0")
}

/// Whether libbpf knows a section's programs for XDP programs. To the loader `xdp/name` is one, too.
fn is_known_to_libbpf(section: &str) -> bool {
    let rest = section.strip_prefix("xdp").map(|s| s.strip_prefix(".frags").unwrap_or(s));
    matches!(rest, Some("" | "/devmap" | "/cpumap"))
}

fn compare_insns(p: &ProgramSpec, expected: &[String], target: &Target) -> Result<(), String> {
    if p.insns.len() != expected.len() {
        return Err(format!("{} instructions, libbpf has {}", p.insns.len(), expected.len()));
    }
    for (i, (insn, expected)) in resolve(p, target).iter().zip(expected).enumerate() {
        let ours = hex(*insn);
        // libbpf before 1.3 left the call of an absent weak kfunc as a call of kfunc 0.
        let is_absent = insn.is_helper_call() && (POISON_KFUNC..POISON_KFUNC + 1000).contains(&insn.imm);
        let absent = ["8520000000000000", &hex(Insn::new(BPF_JMP | BPF_CALL, 0, 0, 0, insn.imm))[..8]];
        let same =
            ours == *expected || expected.strip_suffix("????????").is_some_and(|e| ours.starts_with(e));
        let same = same || is_absent && absent.iter().any(|a| expected.starts_with(a));
        if !same {
            return Err(format!("instruction {i} is {ours}, libbpf has {expected}"));
        }
    }
    Ok(())
}

/// The instructions with positions of kernel symbols replaced by what libbpf writes: numbers in the kernel's
/// BTF, addresses of symbols without a type.
fn resolve(p: &ProgramSpec, target: &Target) -> Vec<Insn> {
    let btf = target.btf.as_ref().expect("a kernel");
    let id = |name: &str, kind| btf.find(name, kind).map_or(0, |id| id.0 as i32);
    let mut insns = p.insns.clone();
    for i in 0..insns.len() {
        let insn = insns[i];
        if insn.is_kfunc_call() {
            insns[i].imm = id(&p.kfuncs[insn.imm as usize].name, BtfKind::Func);
        }
        if !insn.is_ld_imm64() || insn.src != BPF_PSEUDO_BTF_ID {
            continue;
        }
        let symbol = &p.ksyms[insn.imm as usize];
        match symbol.btf {
            Some(_) if symbol.is_func => insns[i].imm = id(&symbol.name, BtfKind::Func),
            Some(_) => insns[i].imm = id(&symbol.name, BtfKind::Var),
            None => {
                let address = address_of(&symbol.name);
                (insns[i].src, insns[i].imm) = (0, address as i32);
                insns[i + 1].imm = (address >> 32) as i32;
            }
        }
    }
    insns
}

/// The address of a kernel symbol; 0 if there is none.
fn address_of(name: &str) -> u64 {
    let symbols = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let found = symbols.lines().find(|l| l.split_whitespace().nth(2) == Some(name));
    let address = found.and_then(|l| l.split_whitespace().next());
    address.map_or(0, |hex| u64::from_str_radix(hex, 16).expect("an address"))
}

fn hex(insn: Insn) -> String {
    insn.encode().iter().map(|b| format!("{b:02x}")).collect()
}
