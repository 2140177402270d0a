//! How long the loader takes for objects: `cargo run --release --example load_time -- OBJECT...`

use std::sync::Arc;
use std::time::{Duration, Instant};

use bpf::btf::Btf;
use bpf::object::{ObjectSpec, Target};

/// Best of this many runs.
const RUNS: u32 = 20;

fn best<T>(mut run: impl FnMut() -> T) -> (Duration, T) {
    let mut timed = || {
        let started = Instant::now();
        let result = run();
        (started.elapsed(), result)
    };
    let first = timed();
    (1..RUNS).map(|_| timed()).fold(first, |a, b| if b.0 < a.0 { b } else { a })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut target = Target::bundled();
    if let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") {
        let (parsed, btf) = best(|| Btf::parse(&bytes));
        let btf = btf?;
        let (indexed, _) = best(|| btf.clone().func("bpf_xdp_adjust_head"));
        println!(
            "kernel BTF: {} types parsed in {parsed:?}, copied and indexed in {indexed:?}",
            btf.types().len()
        );
        target.btf = Some(Arc::new(btf));
    }
    for path in std::env::args().skip(1) {
        let bytes = std::fs::read(&path)?;
        let (time, spec) = best(|| ObjectSpec::parse(&bytes, &path, &target));
        let spec = spec?;
        let insns: usize = spec.programs.iter().map(|p| p.insns.len()).sum();
        println!("{path}: {} programs, {insns} instructions in {time:?}", spec.programs.len());
    }
    Ok(())
}
