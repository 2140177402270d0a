//! Real objects, damaged in thousands of ways: the loader answers each with an object or an error, never
//! with a panic, a hang or a lot of memory.
//!
//! `EARLYBIRD_FUZZ_SECONDS` says how long (3 unless given), `EARLYBIRD_FUZZ_SEED` where to begin. An input
//! that breaks the loader is written to the directory of temporary files and named with its seed; it belongs
//! into `testdata/bad`, where `hostile.rs` tries it from then on.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use bpf::btf::Btf;
use bpf::object::{ObjectSpec, Target};
use common::mutate::{Random, mutate};

/// Longest time for one input. They are small.
const TIME_MAX: Duration = Duration::from_millis(500);
/// Most resident memory of this process, kB.
const MEMORY_MAX_KB: u64 = 512 << 10;

fn number_from(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|v| v.parse().ok()).unwrap_or(otherwise)
}

/// All that one does with an object file.
fn exercise(bytes: &[u8], target: &Target) -> bool {
    let spec = match ObjectSpec::parse(bytes, "mutant.o", target) {
        Ok(spec) => spec,
        Err(e) => {
            assert!(!e.to_string().contains('\n'), "{e}");
            return false;
        }
    };
    for p in &spec.programs {
        let end = p.insns.len() as u32;
        assert!(p.subprogs.iter().all(|s| s.start < end) && p.line_info.iter().all(|l| l.insn < end));
        assert!(p.raw_func_info.len().is_multiple_of(8) && p.raw_line_info.len().is_multiple_of(16));
    }
    let _ = spec.program(None);
    let _: Vec<String> = spec.maps.iter().map(|m| m.kernel_name(&spec.name)).collect();
    if let Some(btf) = &spec.btf {
        assert!(Btf::parse(&btf.for_kernel()).is_ok());
        for (id, _) in btf.iter() {
            let _ = (btf.c_definition(id).len(), btf.size_of(id), btf.decl_tags(id).count());
        }
    }
    true
}

/// The most memory that this process has had, kB.
fn memory_peak_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

#[test]
fn damaged_objects_are_objects_or_errors() {
    let seeds: Vec<Vec<u8>> =
        common::all_objects().iter().map(|p| std::fs::read(p).expect("an object")).collect();
    let target = Target::bundled();
    let first = number_from("EARLYBIRD_FUZZ_SEED", 1);
    let end = Instant::now() + Duration::from_secs(number_from("EARLYBIRD_FUZZ_SECONDS", 3));
    let (mut tried, mut accepted) = (0u64, 0u64);
    while Instant::now() < end {
        let seed = first + tried;
        let mut random = Random::new(seed);
        let (one, other) = (random.below(seeds.len()), random.below(seeds.len()));
        let bytes = mutate(&seeds[one], &seeds[other], &mut random);
        let started = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| exercise(&bytes, &target)));
        let took = started.elapsed();
        if result.is_err() || took > TIME_MAX {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("mutant-{seed}.o"));
            std::fs::write(&path, &bytes).expect("the mutant can be written");
            let what = if result.is_err() { "breaks the loader" } else { "takes too long" };
            panic!("seed {seed} {what} ({took:?}): {}", path.display());
        }
        accepted += u64::from(result.unwrap_or(false));
        tried += 1;
        let peak = memory_peak_kb();
        assert!(peak < MEMORY_MAX_KB, "{peak} kB after seed {seed}");
    }
    println!("{tried} damaged objects from seed {first}: {accepted} still loadable, {} kB", memory_peak_kb());
    assert!(tried > 100 && accepted > 0 && accepted < tried);
}
