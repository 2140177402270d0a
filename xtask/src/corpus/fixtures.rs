//! The kernel's older verifier tests: arrays of instructions in C, 526 of them, made into objects.
//!
//! A C program that includes them is built and run; what it prints is read here.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use bpf::Insn;
use bpf::btf::{BtfBuilder, Kind, Member, TypeId};
use bpf::object::{KfuncRef, MapContents, MapSpec, ObjectSpec, ProgramSpec};
use uapi::bpf::*;

use super::source::{Source, run};

/// Maps by the name of the list of instructions that want them: kind, bytes of key and value, entries, flags.
const MAPS: [(&str, MapType, u32, u32, u32, u32); 21] = [
    ("map_hash_8b", MapType::Hash, 8, 8, 1, BPF_F_NO_PREALLOC),
    ("map_hash_48b", MapType::Hash, 8, 48, 1, BPF_F_NO_PREALLOC),
    ("map_hash_16b", MapType::Hash, 8, 16, 1, BPF_F_NO_PREALLOC),
    ("map_array_48b", MapType::Array, 4, 48, 1, 0),
    ("map_sockmap", MapType::Sockmap, 4, 4, 1, 0),
    ("map_sockhash", MapType::Sockhash, 4, 4, 1, 0),
    ("map_xskmap", MapType::Xskmap, 4, 4, 1, 0),
    ("map_stacktrace", MapType::StackTrace, 4, 8, 1, 0),
    ("prog1", MapType::ProgArray, 4, 4, 4, 0),
    ("prog2", MapType::ProgArray, 4, 4, 8, 0),
    ("map_in_map", MapType::ArrayOfMaps, 4, 4, 1, 0),
    ("cgroup_storage", MapType::CgroupStorage, 16, 64, 0, 0),
    ("percpu_cgroup_storage", MapType::PercpuCgroupStorage, 16, 64, 0, 0),
    ("map_spin_lock", MapType::Array, 4, 8, 1, 0),
    ("map_array_ro", MapType::Array, 4, 48, 1, BPF_F_RDONLY_PROG),
    ("map_array_wo", MapType::Array, 4, 48, 1, BPF_F_WRONLY_PROG),
    ("map_array_small", MapType::Array, 4, 1, 1, 0),
    ("map_event_output", MapType::PerfEventArray, 4, 4, 1, 0),
    ("map_reuseport_array", MapType::ReuseportSockarray, 4, 8, 1, 0),
    ("map_ringbuf", MapType::Ringbuf, 0, 0, 4096, 0),
    ("map_timer", MapType::Array, 4, 16, 1, 0),
];
/// Of `test_verifier.c`, flags of a test.
const UNALIGNED: u32 = 1;
const STRICT: u32 = 2;

/// What stands before and after the part of `test_verifier.c` that has the tests.
const HEAD: &str = "#include <assert.h>\n#include <endian.h>\n#include <errno.h>\n#include <stdbool.h>\n\
#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n\
#include <limits.h>\n#include <linux/types.h>\n#include <linux/bpf.h>\n#include <linux/btf.h>\n\
#include <linux/if_ether.h>\n#include <linux/bpf_perf_event.h>\n#include \"bpf_rand.h\"\n\
#include \"test_btf.h\"\n#include \"filter.h\"\n\
#define offsetofend(T, M) (offsetof(T, M) + sizeof(((T *)0)->M))\n";
const TAIL: &str = "int main(void) {
  for (unsigned i = 0; i < sizeof(tests) / sizeof(*tests); i++) {
    struct bpf_test *t = &tests[i];
    struct bpf_insn *p = t->insns;
    int n = MAX_INSNS;
    if (t->fill_helper) {
      t->fill_insns = p = calloc(MAX_TEST_INSNS, sizeof(*p));
      t->fill_helper(t);
      n = t->prog_len;
    } else {
      while (n > 1 && !p[n - 1].code && !p[n - 1].imm) n--;
    }
    printf(\"test %d %d %s\\n\", t->flags, t->func_info_cnt, t->descr);
    for (int k = 0; k < MAX_FIXUPS && t->fixup_kfunc_btf_id[k].kfunc; k++)
      printf(\"kfunc %s %d\\n\", t->fixup_kfunc_btf_id[k].kfunc, t->fixup_kfunc_btf_id[k].insn_idx);
    @LISTS@
    for (int k = 0; k < n; k++) {
      uint64_t raw;
      memcpy(&raw, &p[k], 8);
      printf(\"insn %llx\\n\", (unsigned long long)raw);
    }
  }
}
";

/// All tests, an object each. Those that need the kernel's test module or types of their own are left out
/// and named.
pub(crate) fn objects(source: &Source) -> Result<Vec<ObjectSpec>> {
    let text = dump(source)?;
    let mut objects = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(test) = line.strip_prefix("test ") else { bail!("unexpected {line:?}") };
        let mut words = test.splitn(3, ' ');
        let mut number = || words.next().and_then(|w| w.parse::<u32>().ok()).context("a number");
        let (flags, typed) = (number()?, number()? > 0);
        let name = words.next().unwrap_or("").to_owned();
        let mut fixture = Fixture { name, flags, ..Fixture::default() };
        while let Some(line) = lines.next_if(|l| !l.starts_with("test ")) {
            fixture.add(line)?;
        }
        match fixture.object() {
            Ok(object) if !typed => objects.push(object),
            Ok(_) => println!("not submitted {}: has types of its own", fixture.name),
            Err(e) => println!("not submitted {}: {e}", fixture.name),
        }
    }
    Ok(objects)
}

/// Builds and runs the program that prints the tests.
fn dump(source: &Source) -> Result<String> {
    let (tests, dir) = (source.selftests(), source.build.join("fixtures"));
    fs::create_dir_all(dir.join("verifier"))?;
    fs::create_dir_all(dir.join("linux"))?;
    let mut files: Vec<_> =
        fs::read_dir(tests.join("verifier"))?.filter_map(|f| Some(f.ok()?.path())).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "c"));
    files.sort();
    let includes: String = files.iter().map(|f| format!("#include \"{}\"\n", f.display())).collect();
    fs::write(dir.join("verifier/tests.h"), includes)?;
    for header in ["bpf.h", "bpf_common.h", "btf.h", "bpf_perf_event.h"] {
        fs::copy(source.tree.join("include/uapi/linux").join(header), dir.join("linux").join(header))?;
    }
    fs::copy(source.tree.join("tools/include/linux/filter.h"), dir.join("filter.h"))?;
    let whole = fs::read_to_string(tests.join("test_verifier.c"))?;
    let from = whole.find("#define MAX_INSNS").context("test_verifier.c has another form")?;
    let to = whole.find("static int probe_filter_length").context("test_verifier.c has another form")?;
    let mut fixups = String::new();
    for (name, ..) in MAPS {
        let _ = writeln!(
            fixups,
            "for (int k = 0; k < MAX_FIXUPS && t->fixup_{name}[k]; k++) printf(\"map {name} %d\\n\", t->fixup_{name}[k]);"
        );
    }
    for other in ["sk_storage_map", "map_kptr"] {
        let _ = writeln!(fixups, "if (t->fixup_{other}[0]) printf(\"other {other}\\n\");");
    }
    let text = format!("{HEAD}{}{}", &whole[from..to], TAIL.replace("@LISTS@", &fixups));
    let file = dir.join("dump.c");
    fs::write(&file, text)?;
    build(&dir, &tests, &file)?;
    let out = Command::new(dir.join("dump")).output()?;
    Ok(String::from_utf8(out.stdout)?)
}

fn build(dir: &Path, tests: &Path, file: &Path) -> Result<()> {
    let mut cc = Command::new("cc");
    cc.args(["-w", "-O0", "-I"]).arg(dir).arg("-I").arg(tests).arg("-o").arg(dir.join("dump")).arg(file);
    run(&mut cc)
}

/// A test as it is read.
#[derive(Default)]
struct Fixture {
    name: String,
    flags: u32,
    insns: Vec<Insn>,
    /// Map and instruction.
    maps: Vec<(usize, usize)>,
    kfuncs: Vec<(String, usize)>,
    other: Option<String>,
}

impl Fixture {
    fn add(&mut self, line: &str) -> Result<()> {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["insn", raw] => self.insns.push(Insn::decode(u64::from_str_radix(raw, 16)?.to_le_bytes())),
            ["map", name, at] => {
                let map = MAPS.iter().position(|m| m.0 == name).with_context(|| format!("no map {name}"))?;
                self.maps.push((map, at.parse()?));
            }
            ["kfunc", name, at] => self.kfuncs.push((name.to_owned(), at.parse()?)),
            ["other", name] => self.other = Some(name.to_owned()),
            _ => bail!("unexpected {line:?}"),
        }
        Ok(())
    }

    fn object(&self) -> Result<ObjectSpec> {
        if let Some(other) = &self.other {
            bail!("needs {other}");
        }
        if let Some((name, _)) = self.kfuncs.iter().find(|k| k.0.starts_with("bpf_kfunc_call_")) {
            bail!("needs {name} of the kernel's test module");
        }
        let mut program = ProgramSpec::bare("test", self.insns.clone());
        program.prog_flags = match self.flags {
            f if f & STRICT != 0 => BPF_F_STRICT_ALIGNMENT,
            f if f & UNALIGNED != 0 => BPF_F_ANY_ALIGNMENT,
            _ => 0,
        };
        let mut btf = BtfBuilder::default();
        let (lock, timer) = value_types(&mut btf);
        let mut used: Vec<usize> = self.maps.iter().map(|m| m.0).collect();
        used.sort_unstable();
        used.dedup();
        for (map, at) in &self.maps {
            let insn = program.insns.get_mut(*at).ok_or_else(|| anyhow!("no instruction {at}"))?;
            insn.src =
                if insn.src == BPF_PSEUDO_MAP_VALUE { BPF_PSEUDO_MAP_IDX_VALUE } else { BPF_PSEUDO_MAP_IDX };
            insn.imm = used.iter().position(|u| u == map).map_or(-1, |p| p as i32);
        }
        for (name, at) in &self.kfuncs {
            program.insns[*at].imm = program.kfuncs.len() as i32;
            program.kfuncs.push(KfuncRef { name: name.clone(), btf: None, weak: false });
        }
        let maps: Vec<MapSpec> = used.iter().map(|m| map_spec(*m, lock, timer)).collect();
        let btf = maps.iter().any(|m| m.value_type.is_some()).then(|| Arc::new(btf.finish()));
        let name = self.name.clone();
        Ok(ObjectSpec {
            name,
            license: "GPL".to_owned(),
            maps,
            programs: vec![program],
            btf,
            ..ObjectSpec::default()
        })
    }
}

/// `struct val { int cnt; struct bpf_spin_lock l; }` and `struct timer { struct bpf_timer t; }`.
fn value_types(btf: &mut BtfBuilder) -> (TypeId, TypeId) {
    let int = Kind::Int { size: 4, signed: true, is_char: false, is_bool: false, bit_offset: 0, bits: 32 };
    let int = btf.add("int", int);
    let mut structure = |name: &str, size: u32, members: &[(&str, TypeId, u32)]| {
        let members = members
            .iter()
            .map(|(n, ty, bit_offset)| Member {
                name: btf.name(n),
                ty: *ty,
                bit_offset: *bit_offset,
                bitfield_bits: 0,
            })
            .collect();
        btf.add(name, Kind::Struct { size, members })
    };
    let lock = structure("bpf_spin_lock", 4, &[("val", int, 0)]);
    let val = structure("val", 8, &[("cnt", int, 0), ("l", lock, 32)]);
    let timer = structure("bpf_timer", 16, &[]);
    let holder = structure("timer", 16, &[("t", timer, 0)]);
    (val, holder)
}

fn map_spec(map: usize, lock: TypeId, timer: TypeId) -> MapSpec {
    let (name, map_type, key_size, value_size, max_entries, map_flags) = MAPS[map];
    let plain = MapSpec {
        name: name.to_owned(),
        map_type,
        key_size,
        value_size,
        max_entries,
        map_flags,
        map_extra: 0,
        numa_node: None,
        key_type: None,
        value_type: None,
        inner: None,
        contents: MapContents::Empty,
        frozen: false,
        pin_by_name: false,
    };
    match name {
        "map_in_map" => {
            let inner = MapSpec { map_type: MapType::Array, name: "inner".to_owned(), ..plain.clone() };
            MapSpec { inner: Some(Box::new(inner)), ..plain }
        }
        "map_spin_lock" => MapSpec { value_type: Some(lock), ..plain },
        "map_timer" => MapSpec { value_type: Some(timer), ..plain },
        "map_array_ro" => {
            // An index, and a number where it points to.
            let mut value = vec![0; 48];
            value[..4].copy_from_slice(&28_u32.to_le_bytes());
            value[28..32].copy_from_slice(&0xabcd_ef12_u32.to_le_bytes());
            MapSpec { contents: MapContents::Data(value), ..plain }
        }
        _ => plain,
    }
}
