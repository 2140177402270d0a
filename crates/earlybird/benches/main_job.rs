//! Loading, running, and each map's operations: the engine against the running kernel in one run.
//!
//! `cargo bench -p earlybird --bench main_job`. The kernel's figures need root; without it they are left out, loudly.
//! Map programs do 64 operations a run (programs/bench/{maps,lookups}.c); a criterion "iteration" here is one run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use control::{Backend, EngineKind, LoadOptions, Loaded, TestRun};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use earlybird::Object;
use earlybird::backends::{self, EngineSettings};
use earlybird::object::Home;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../programs").join(name)
}

fn homes() -> Vec<(&'static str, Box<dyn Backend>, EngineKind)> {
    let engine = || backends::engine(&EngineSettings::default()).expect("an empty network");
    let mut homes = vec![("interp", engine(), EngineKind::Interp)];
    if bpf::jit::Features::detect().is_some() {
        homes.push(("jit", engine(), EngineKind::Jit));
    }
    match backends::kernel() {
        Ok(kernel) => homes.push(("kernel", kernel, EngineKind::Interp)),
        Err(why) => eprintln!("\n*** the kernel is left out: {why}\n"),
    }
    homes
}

/// Time of `iters` runs as the backend measures it, so that both homes are measured alike.
fn runs(loaded: &mut dyn Loaded, program: &str, packet: &[u8], iters: u64) -> Duration {
    let mut left = iters;
    let mut total = 0;
    while left > 0 {
        let repeat = left.min(1 << 20) as u32;
        let request = TestRun { data: packet.to_vec(), repeat, ..TestRun::default() };
        let output = loaded.test_run(program, &request).expect("a bench program runs");
        // Homes answer whole nanoseconds; a mean of 0 counts as a quarter.
        total += (u128::from(output.duration_ns) * u128::from(repeat)).max(u128::from(repeat) / 4);
        left -= u64::from(repeat);
    }
    Duration::from_nanos(total.try_into().unwrap_or(u64::MAX))
}

fn load(c: &mut Criterion) {
    let mut group = c.benchmark_group("load");
    for name in ["drop", "firewall", "lb"] {
        let file = path(&format!("{name}.bpf.o"));
        let bytes = std::fs::read(&file).expect("programs/ has its objects");
        group.bench_function(BenchmarkId::new("parse", name), |b| {
            b.iter(|| Object::parse(&bytes, name, Home::Engine).expect("a program of ours parses"));
        });
        for (home, mut backend, engine) in homes() {
            let object = Object::parse(&bytes, name, Home::Engine).expect("a program of ours parses");
            let program = object.spec().program(None).expect("one program").name.clone();
            let options = LoadOptions { programs: vec![program], engine, ..LoadOptions::default() };
            group.bench_function(BenchmarkId::new(home, name), |b| {
                b.iter(|| backend.load(object.spec(), &options).expect("a program of ours loads"));
            });
        }
    }
    group.finish();
}

fn run(c: &mut Criterion) {
    let mut group = c.benchmark_group("run");
    let packet = [0x11; 64];
    for name in ["drop", "stats", "firewall", "router"] {
        let object = Object::open(path(&format!("{name}.bpf.o"))).expect("programs/ has its objects");
        let program = object.spec().program(None).expect("one program").name.clone();
        for (home, mut backend, engine) in homes() {
            let options = LoadOptions { programs: vec![program.clone()], engine, ..LoadOptions::default() };
            let mut loaded = backend.load(object.spec(), &options).expect("a program of ours loads");
            group.bench_function(BenchmarkId::new(home, name), |b| {
                b.iter_custom(|iters| runs(loaded.as_mut(), &program, &packet, iters));
            });
        }
    }
    group.finish();
}

fn maps(c: &mut Criterion) {
    let mut group = c.benchmark_group("maps");
    for file in ["bench/maps.bpf.o", "bench/lookups.bpf.o"] {
        let object = Object::open(path(file)).expect("programs/ has its objects");
        let programs: Vec<String> = object.spec().programs.iter().map(|p| p.name.clone()).collect();
        for (home, mut backend, engine) in homes() {
            let options = LoadOptions { programs: programs.clone(), engine, ..LoadOptions::default() };
            let mut loaded = backend.load(object.spec(), &options).expect("a program of ours loads");
            for program in &programs {
                group.bench_function(BenchmarkId::new(home, program), |b| {
                    b.iter_custom(|iters| runs(loaded.as_mut(), program, &[0; 64], iters));
                });
            }
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(600));
    targets = load, run, maps
}
criterion_main!(benches);
