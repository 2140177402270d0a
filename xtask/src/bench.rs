//! `cargo xtask bench verifier`: the engine's verifier and the running kernel's, timed side by side.
//!
//! The engine's time is that of `verify` alone; the kernel's is what it says itself ("verification time"),
//! which includes its rewriting of the program. Both are whole microseconds, as the kernel cuts its own; both
//! verify all programs of an object in turn, round after round, and of both the least counts.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use bpf::Insn;
use bpf::btf::Btf;
use bpf::object::{ObjectSpec, ProgramSpec};
use bpf::verifier::{Input, MapDef, Options as VerifierOptions, verify};
use clap::Args;
use uapi::bpf::*;

use crate::corpus::{Source, VERIFIER_TESTS};

#[derive(Args)]
pub(crate) struct Options {
    /// Objects to time instead of programs/, the kernel's tests and the large programs
    #[arg(long)]
    object: Vec<PathBuf>,
    /// Where the kernel's tests are unpacked and built; without it they are left out
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Rounds, of which the least time counts
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Programs printed by themselves: those whose times are furthest apart
    #[arg(long, default_value_t = 12)]
    worst: usize,
}

/// Log level at which the kernel tells its time and nothing else.
const LOG_STATS: u32 = 4;

struct Timed {
    name: String,
    insns: usize,
    processed: u32,
    engine_us: f64,
    kernel_us: f64,
}

impl Timed {
    fn ratio(&self) -> f64 {
        self.engine_us.max(1.0) / self.kernel_us.max(1.0)
    }
}

pub(crate) fn verifier(root: &Path, options: &Options) -> Result<()> {
    let kernel_btf = linux::host::vmlinux().ok();
    let btf = kernel_btf.as_deref();
    if !options.object.is_empty() {
        return group("objects", &time_files(&options.object, btf, options)?, options);
    }
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(root.join("programs"))?.filter_map(|f| Some(f.ok()?.path())).collect();
    files.retain(|f| f.to_string_lossy().ends_with(".bpf.o"));
    files.sort();
    group("programs/", &time_files(&files, btf, options)?, options)?;
    if let Some(dir) = &options.dir {
        let files = Source::fetch(dir)?.build_programs(VERIFIER_TESTS, "")?;
        group("the kernel's verifier_*.c", &time_files(&files, btf, options)?, options)?;
    }
    let large = [
        ("straight", straight(14_000)),
        ("branches", branches(14_000)),
        ("paths", paths()),
        ("endless", endless()),
    ];
    let mut timed = Vec::new();
    for (name, insns) in large {
        let before = peak_mib();
        let spec = ObjectSpec {
            name: name.to_owned(),
            license: "GPL".to_owned(),
            programs: vec![ProgramSpec::bare("large", insns)],
            ..ObjectSpec::default()
        };
        timed.extend(time_object(&spec, btf, options)?);
        println!("peak memory of this process after {name}: {} MiB (before: {before})", peak_mib());
    }
    let all = Options { worst: timed.len(), object: Vec::new(), dir: None, ..*options };
    group("large programs", &timed, &all)
}

fn time_files(files: &[PathBuf], btf: Option<&Btf>, options: &Options) -> Result<Vec<Timed>> {
    let target = linux::host::target();
    let mut timed = Vec::new();
    for file in files {
        let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Ok(spec) = ObjectSpec::parse(&bytes, &name, &target) else { continue };
        timed.extend(time_object(&spec, btf, options)?);
    }
    Ok(timed)
}

fn time_object(spec: &ObjectSpec, btf: Option<&Btf>, options: &Options) -> Result<Vec<Timed>> {
    let maps: Vec<MapDef> = spec.maps.iter().map(|m| MapDef::from_spec(m, &spec.name)).collect();
    let verifier = VerifierOptions { nr_cpus: linux::sys::possible_cpus(), ..VerifierOptions::default() };
    let mut timed: Vec<Timed> = Vec::new();
    for p in &spec.programs {
        let name = format!("{}/{}", spec.name, p.name);
        let insns = p.insns.len();
        timed.push(Timed { name, insns, processed: 0, engine_us: f64::MAX, kernel_us: f64::MAX });
    }
    let programs: Vec<&ProgramSpec> = spec.programs.iter().collect();
    for _ in 0..options.rounds {
        for (t, p) in timed.iter_mut().zip(&programs) {
            let input = Input::of_program(p, &maps, &spec.license, spec.btf.as_deref(), btf);
            let started = Instant::now();
            let outcome = verify(&input, &verifier);
            t.engine_us = t.engine_us.min(started.elapsed().as_micros() as f64);
            t.processed = outcome.map_or_else(|r| r.stats.processed_insns, |v| v.stats().processed_insns);
        }
        let Ok(verdicts) = linux::verdicts(spec, &programs, LOG_STATS) else { return Ok(Vec::new()) };
        for (t, v) in timed.iter_mut().zip(verdicts) {
            let log = match &v.outcome {
                Ok(Ok(log) | Err((_, log))) => log.as_str(),
                Err(_) => "",
            };
            let words = log.lines().find_map(|l| l.strip_prefix("verification time "));
            if let Some(us) = words.and_then(|w| w.split(' ').next()?.parse::<f64>().ok()) {
                t.kernel_us = t.kernel_us.min(us);
            }
        }
    }
    // Without a time of the kernel's there is nothing to compare: it refused before it began.
    timed.retain(|t| t.kernel_us < f64::MAX);
    Ok(timed)
}

fn group(name: &str, timed: &[Timed], options: &Options) -> Result<()> {
    let sum = |of: fn(&Timed) -> f64| timed.iter().map(of).sum::<f64>() / 1e3;
    let slower = timed.iter().filter(|t| t.ratio() > 1.0).count();
    let logs: f64 = timed.iter().map(|t| t.ratio().ln()).sum();
    println!(
        "{name}: {} programs, engine {:.2} ms, kernel {:.2} ms, geometric mean of engine/kernel {:.2}, slower {slower}",
        timed.len(),
        sum(|t| t.engine_us),
        sum(|t| t.kernel_us),
        (logs / timed.len().max(1) as f64).exp()
    );
    let mut worst: Vec<&Timed> = timed.iter().collect();
    worst.sort_by(|a, b| b.ratio().total_cmp(&a.ratio()));
    println!(
        "{:>8} {:>9} {:>12} {:>12} {:>6}  program",
        "insns", "processed", "engine us", "kernel us", "ratio"
    );
    for t in worst.into_iter().take(options.worst) {
        let (r, n) = (t.ratio(), &t.name);
        println!(
            "{:>8} {:>9} {:>12.0} {:>12.0} {r:>6.2}  {n}",
            t.insns, t.processed, t.engine_us, t.kernel_us
        );
    }
    Ok(())
}

/// The most memory that this process has had, MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib / 1024)
}

fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    Insn::new(code, dst, src, off, imm)
}

/// Arithmetic and stack accesses one after the other.
fn straight(n: usize) -> Vec<Insn> {
    let mut p = vec![insn(BPF_ALU64 | BPF_MOV, 0, 0, 0, 2), insn(BPF_LDX | BPF_MEM | BPF_W, 6, 1, 12, 0)];
    while p.len() < n - 2 {
        let i = p.len();
        p.push(match i % 5 {
            0 => insn(BPF_ALU64 | BPF_ADD | BPF_K, 6, 0, 0, i as i32),
            1 => insn(BPF_ALU64 | BPF_XOR | BPF_X, 6, 6, 0, 0),
            2 => insn(BPF_STX | BPF_MEM | BPF_DW, 10, 6, -8 * (1 + (i % 60) as i16), 0),
            3 => insn(BPF_ALU64 | BPF_MUL | BPF_K, 6, 0, 0, 3),
            _ => insn(BPF_ALU64 | BPF_RSH | BPF_K, 6, 0, 0, 1),
        });
    }
    p.extend([insn(BPF_ALU64 | BPF_MOV, 0, 0, 0, 2), insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)]);
    p
}

/// Packet bytes compared one after the other, each with a path of its own for a moment.
fn branches(n: usize) -> Vec<Insn> {
    let mut p = vec![
        insn(BPF_LDX | BPF_MEM | BPF_W, 2, 1, 0, 0),
        insn(BPF_LDX | BPF_MEM | BPF_W, 3, 1, 4, 0),
        insn(BPF_ALU64 | BPF_MOV | BPF_X, 4, 2, 0, 0),
        insn(BPF_ALU64 | BPF_ADD | BPF_K, 4, 0, 0, 64),
        insn(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 1),
        insn(BPF_JMP | BPF_JLE | BPF_X, 4, 3, 1, 0),
        insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
    ];
    while p.len() < n - 2 {
        let i = p.len();
        p.push(insn(BPF_LDX | BPF_MEM | BPF_B, 5, 2, (i % 64) as i16, 0));
        p.push(insn(BPF_JMP | BPF_JNE | BPF_K, 5, 0, 1, (i % 251) as i32));
        p.push(insn(BPF_ALU64 | BPF_ADD | BPF_K, 0, 0, 0, 1));
    }
    p.extend([insn(BPF_ALU64 | BPF_MOV, 0, 0, 0, 2), insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)]);
    p
}

/// A loop of which every round leaves a path to be followed later, until those are too many.
fn paths() -> Vec<Insn> {
    let mut p = endless();
    p.insert(1, insn(BPF_JMP | BPF_CALL, 0, 0, 0, func::GET_PRANDOM_U32));
    p.insert(2, insn(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1, 7));
    p[7].off -= 2;
    p
}

/// A loop that the verifier follows until it gives up.
fn endless() -> Vec<Insn> {
    vec![
        insn(BPF_ALU64 | BPF_MOV | BPF_K, 6, 0, 0, 0),
        insn(BPF_ALU64 | BPF_ADD | BPF_K, 6, 0, 0, 1),
        insn(BPF_STX | BPF_MEM | BPF_DW, 10, 6, -8, 0),
        insn(BPF_LDX | BPF_MEM | BPF_DW, 7, 10, -8, 0),
        insn(BPF_ALU64 | BPF_AND | BPF_K, 7, 0, 0, 255),
        insn(BPF_JMP | BPF_JLT | BPF_K, 6, 0, -5, 2_000_000_000),
        insn(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 2),
        insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
    ]
}
