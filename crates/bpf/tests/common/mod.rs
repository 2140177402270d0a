//! What the loader's integration tests share: where objects are, and the running kernel as a target.

// Each test file uses a part of this.
#![allow(dead_code)]

pub(crate) mod elf;
pub(crate) mod mutate;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bpf::btf::Btf;
use bpf::object::{Kconfig, Symbols, Target};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("root of the repository")
}

/// The object files of a directory, sorted; none if it does not exist.
pub(crate) fn objects_in(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<_> =
        entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "o")).collect();
    paths.sort();
    paths
}

/// All objects at hand: our own programs, the loader's test objects, and what Debian installs.
pub(crate) fn all_objects() -> Vec<PathBuf> {
    let root = root();
    let mut all = Vec::new();
    for dir in ["programs", "programs/bench", "testdata/objects"] {
        all.extend(objects_in(&root.join(dir)));
    }
    for arch in ["x86_64", "aarch64"] {
        all.extend(objects_in(Path::new(&format!("/usr/lib/{arch}-linux-gnu/bpf"))));
    }
    all
}

/// The running kernel as libbpf sees it; `None` if it shows no types.
pub(crate) fn running_kernel() -> Option<Target> {
    let btf = std::fs::read("/sys/kernel/btf/vmlinux").ok()?;
    let btf = Arc::new(Btf::parse(&btf).expect("the running kernel's BTF"));
    let config = Command::new("zcat").arg("/proc/config.gz").output().ok();
    let text = config.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let mut numbers = release.split(['.', '-']).map(|n| n.trim().parse::<u32>().unwrap_or(0));
    let mut number = || numbers.next().unwrap_or(0);
    let kernel_version = (number() << 16) + (number() << 8) + number();
    let possible = std::fs::read_to_string("/sys/devices/system/cpu/possible").ok()?;
    let last = possible.trim().rsplit(['-', ',']).next().and_then(|n| n.parse::<u32>().ok());
    // libbpf looks for the wrapper with a kprobe.
    let has_syscall_wrapper = Path::new("/sys/bus/event_source/devices/kprobe/type").exists();
    let kconfig = Kconfig { text, kernel_version, has_bpf_cookie: true, has_syscall_wrapper };
    Some(Target {
        functions: Symbols::Btf,
        variables: Symbols::Btf,
        kconfig,
        possible_cpus: last.unwrap_or(0) + 1,
        ..Target::new(Some(btf))
    })
}

/// Says loudly that a test did not run.
pub(crate) fn skip(test: &str, why: &str) {
    eprintln!("SKIPPED {test}: {why}");
}
