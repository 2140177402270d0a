//! `earlybird bench exec`: nanoseconds of one run of a program over one packet.
//!
//! A packet is run many times in one call, as `BPF_PROG_TEST_RUN` repeats it: over the same, changing buffer.
//! What a program that does nothing costs in the same way is taken off and shown apart. Engines take turns,
//! and the fastest of several rounds counts, so that what else the machine does disturbs little. The kernel
//! measures itself, in whole nanoseconds, and leaves out what other threads take; the engine is measured in
//! slices so short that most of them are not interrupted.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use bpf::Insn;
use bpf::object::{AttachType, ObjectSpec, ProgramSpec, SectionKind};
use clap::{Args, ValueEnum};
use control::{EngineKind, LoadOptions, Loaded, TestRun};
use earlybird::backends::{self, EngineSettings};
use earlybird::capture::Reader;
use earlybird::{Object, object::Home};
use uapi::bpf::{BPF_ALU64, BPF_EXIT, BPF_JMP, BPF_MOV};

use super::report::{Measurement, Report};
use crate::cmd::Failure;

/// Measure how long one run of each program takes
///
/// All XDP programs of the objects are run over the same packets by every engine. Pin the command to a CPU
/// that does nothing else: taskset -c 1 earlybird bench exec ...
#[derive(Args)]
pub(crate) struct ExecArgs {
    /// Object files
    #[arg(required = true)]
    objects: Vec<PathBuf>,

    /// Only programs of this name
    #[arg(long, value_name = "NAME")]
    prog: Option<String>,

    /// What runs them; the kernel needs root
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Engine::Interp, Engine::Jit])]
    engines: Vec<Engine>,

    /// Packets to run, one after the other [default: a UDP packet of 64 bytes]
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,

    /// Packets of the capture that are used
    #[arg(long, value_name = "N", default_value_t = 16)]
    limit: usize,

    /// Runs of one measurement
    #[arg(long, value_name = "N", default_value_t = 400_000)]
    repeat: u32,

    /// Measurements, of which the fastest counts
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: u32,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Engine {
    /// The checked interpreter
    Interp,
    /// Compiled code
    Jit,
    /// The running kernel's compiled code
    Kernel,
}

impl Engine {
    /// What users call it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Interp => "interp",
            Self::Jit => "jit",
            Self::Kernel => "kernel",
        }
    }

    /// Runs per measurement: the interpreter needs fewer to be measured well.
    const fn repeat(self, repeat: u32) -> u32 {
        match self {
            Self::Interp => repeat.div_ceil(20),
            Self::Jit | Self::Kernel => repeat,
        }
    }
}

/// Parts of a measurement, of which the fastest counts.
const SLICES: u32 = 20;

/// An engine with a program that does nothing.
struct Runner {
    engine: Engine,
    empty: Box<dyn Loaded>,
    /// Nanoseconds of one run of that.
    entry_ns: f64,
}

/// A program on an engine.
struct Subject {
    loaded: Box<dyn Loaded>,
    measured: Measurement,
}

/// Runs the command.
pub(crate) fn run(args: &ExecArgs) -> Result<(), Failure> {
    let packets = packets(args)?;
    let mut runners = Vec::new();
    for engine in &args.engines {
        let empty = empty_object();
        let (loaded, _) = load(*engine, &empty, &empty.programs[0])?;
        runners.push(Runner { engine: *engine, empty: loaded, entry_ns: f64::INFINITY });
    }
    let mut report = Report::default();
    for path in &args.objects {
        let object = Object::open_for(path, Home::Kernel).map_err(anyhow::Error::from)?;
        for program in object.spec().programs.iter().filter(|p| is_wanted(args, p)) {
            measure(args, object.spec(), program, &packets, &mut runners, &mut report)?;
        }
    }
    report.set_entries(runners.iter().map(|r| (r.engine, r.entry_ns)));
    if report.is_empty() {
        return Err(Failure::Failed(anyhow!("no XDP program to run")));
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report.to_json()).context("the report as JSON")?);
    } else {
        print!("{}", report.to_text());
    }
    Ok(())
}

fn is_wanted(args: &ExecArgs, program: &ProgramSpec) -> bool {
    let runs = program.section_kind == SectionKind::Xdp && program.attach_type == AttachType::Xdp;
    runs && args.prog.as_ref().is_none_or(|name| *name == program.name)
}

/// `return XDP_PASS`.
fn empty_object() -> ObjectSpec {
    let insns = vec![Insn::new(BPF_ALU64 | BPF_MOV, 0, 0, 0, 2), Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)];
    let programs = vec![ProgramSpec::bare("empty", insns)];
    ObjectSpec { name: "empty".to_owned(), license: "GPL".to_owned(), programs, ..ObjectSpec::default() }
}

/// Loads one program, and answers how long it took to compile, microseconds.
fn load(engine: Engine, spec: &ObjectSpec, program: &ProgramSpec) -> Result<(Box<dyn Loaded>, Option<f64>)> {
    let kind = if engine == Engine::Jit { EngineKind::Jit } else { EngineKind::Interp };
    let options =
        LoadOptions { programs: vec![program.name.clone()], engine: kind, ..LoadOptions::default() };
    if engine == Engine::Kernel {
        return Ok((backends::kernel()?.load(spec, &options)?, None));
    }
    let loaded = backends::own_engine(&EngineSettings::default())?.load_object(spec, &options)?;
    let compile_us = loaded.compile_time(&program.name).map(|t| t.as_secs_f64() * 1e6);
    Ok((Box::new(loaded), compile_us))
}

/// The program on an engine, loaded several times so that the compiler is measured warm.
fn subject(args: &ExecArgs, engine: Engine, spec: &ObjectSpec, program: &ProgramSpec) -> Result<Subject> {
    let (mut loaded, mut compile_us) = load(engine, spec, program)?;
    let times = if engine == Engine::Jit { args.rounds } else { 0 };
    for _ in 0..times {
        let again = load(engine, spec, program)?;
        loaded = again.0;
        compile_us = compile_us.zip(again.1).map(|(a, b)| a.min(b));
    }
    let measured = Measurement {
        object: spec.name.clone(),
        program: program.name.clone(),
        insns: program.insns.len(),
        engine,
        total_ns: f64::INFINITY,
        compile_us,
        verdicts: Vec::new(),
        error: None,
    };
    Ok(Subject { loaded, measured })
}

fn measure(
    args: &ExecArgs,
    spec: &ObjectSpec,
    program: &ProgramSpec,
    packets: &[Vec<u8>],
    runners: &mut [Runner],
    report: &mut Report,
) -> Result<(), Failure> {
    let mut subjects = Vec::new();
    for runner in runners.iter() {
        match subject(args, runner.engine, spec, program) {
            Ok(subject) => subjects.push(subject),
            Err(e) => report.refused(spec, program, runner.engine, &e),
        }
    }
    for _ in 0..args.rounds {
        for runner in runners.iter_mut() {
            let repeat = runner.engine.repeat(args.repeat);
            let (ns, _) = time(runner.engine, &mut *runner.empty, "empty", &packets[0], repeat)?;
            runner.entry_ns = runner.entry_ns.min(ns);
        }
        for subject in &mut subjects {
            round(args, subject, packets)?;
        }
    }
    report.extend(subjects.into_iter().map(|s| s.measured));
    Ok(())
}

/// All packets once; the mean of their times counts.
fn round(args: &ExecArgs, subject: &mut Subject, packets: &[Vec<u8>]) -> Result<()> {
    let repeat = subject.measured.engine.repeat(args.repeat);
    let (mut sum, mut verdicts) = (0.0, Vec::new());
    for packet in packets {
        let (ns, verdict) =
            time(subject.measured.engine, &mut *subject.loaded, &subject.measured.program, packet, repeat)?;
        sum += ns;
        verdicts.push(verdict);
    }
    let measured = &mut subject.measured;
    measured.total_ns = measured.total_ns.min(sum / packets.len() as f64);
    if measured.verdicts.is_empty() {
        measured.verdicts = verdicts;
    }
    Ok(())
}

/// Nanoseconds of one run, and its verdict after all of them.
fn time(
    engine: Engine,
    loaded: &mut dyn Loaded,
    program: &str,
    packet: &[u8],
    repeat: u32,
) -> Result<(f64, u32)> {
    if engine == Engine::Kernel {
        let request = TestRun { data: packet.to_vec(), repeat, ..TestRun::default() };
        let output = loaded.test_run(program, &request).with_context(|| program.to_owned())?;
        return Ok((output.duration_ns as f64, output.retval));
    }
    let (mut best, mut verdict) = (f64::INFINITY, 0);
    let request = TestRun { data: packet.to_vec(), repeat: repeat.div_ceil(SLICES), ..TestRun::default() };
    for _ in 0..SLICES {
        let started = Instant::now();
        let output = loaded.test_run(program, &request).with_context(|| program.to_owned())?;
        best = best.min(started.elapsed().as_secs_f64() * 1e9 / f64::from(request.repeat));
        verdict = output.retval;
    }
    Ok((best, verdict))
}

fn packets(args: &ExecArgs) -> Result<Vec<Vec<u8>>> {
    let Some(path) = &args.pcap else { return Ok(vec![udp_packet()]) };
    let mut packets = Vec::new();
    for packet in Reader::open(path)?.take(args.limit) {
        let data = packet?.data;
        if data.len() >= 14 {
            packets.push(data);
        }
    }
    if packets.is_empty() {
        return Err(anyhow!("{}: no packet to run", path.display()));
    }
    Ok(packets)
}

/// An Ethernet frame of 64 bytes without its checksum's 4: IPv4, UDP, ports 4000 to 53.
fn udp_packet() -> Vec<u8> {
    let mut p = vec![0; 60];
    p[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
    p[12..14].copy_from_slice(&[8, 0]);
    p[14..34].copy_from_slice(&[0x45, 0, 0, 46, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    p[34..42].copy_from_slice(&[0x0f, 0xa0, 0, 53, 0, 26, 0, 0]);
    let words = p[14..34].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
    let sum: u32 = words.sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    p[24..26].copy_from_slice(&sum.to_be_bytes());
    p
}
