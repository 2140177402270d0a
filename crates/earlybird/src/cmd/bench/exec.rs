//! `earlybird bench exec`: nanoseconds of one run of a program over one packet.
//!
//! A packet is run many times in one call, as `BPF_PROG_TEST_RUN` repeats it: over the same, changing buffer.
//! What a program that does nothing costs in the same way is measured in turns with it, taken off and shown
//! apart. A measurement is a slice of time so short that most of them are not interrupted; the shortest
//! counts. What a call costs by itself is taken off too: it is that of one with two runs (the kernel prepares
//! more for two than for one). All engines are timed by the same clock, the time that the thread has had a
//! CPU, from outside. The kernel's own figure is in whole nanoseconds, rounded down; the fraction comes from
//! outside. A call of the kernel's costs milliseconds before and after the runs, so its slices are longer and
//! fewer.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use bpf::Insn;
use bpf::object::{AttachType, ObjectSpec, ProgramSpec, SectionKind};
use clap::{Args, ValueEnum};
use control::{EngineKind, LoadOptions, Loaded, TestRun, TestRunOutput};
use earlybird::backends::{self, EngineSettings};
use earlybird::capture::Reader;
use earlybird::{Object, object::Home};
use linux::sys::thread_cpu_time;
use uapi::bpf::{BPF_ALU64, BPF_EXIT, BPF_JMP, BPF_MOV};

use super::peers::Peer;
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

    /// Runs of one measurement at most; usually as many as a fifth of a millisecond takes, or ten in the
    /// kernel
    #[arg(long, value_name = "N", default_value_t = 2_000_000)]
    repeat: u32,

    /// Rounds of measurements in which engines take turns; the fastest counts
    #[arg(long, value_name = "N", default_value_t = 10)]
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
    /// rbpf's compiled code, for programs without maps and helpers; cargo builds it
    Rbpf,
    /// DPDK's librte_bpf, for the same programs; needs libdpdk-dev, pkg-config and a C compiler
    Dpdk,
}

impl Engine {
    /// What users call it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Interp => "interp",
            Self::Jit => "jit",
            Self::Kernel => "kernel",
            Self::Rbpf => "rbpf",
            Self::Dpdk => "dpdk",
        }
    }

    /// Measurements of a round, and how long each is to take, nanoseconds.
    const fn slices(self) -> (u32, f64) {
        match self {
            Self::Kernel => (1, 1e7),
            _ => (SLICES, 2e5),
        }
    }

    /// Whether it is somebody else's, which runs some programs only.
    pub(super) const fn is_peer(self) -> bool {
        matches!(self, Self::Rbpf | Self::Dpdk)
    }
}

/// Packets of a batch.
const BATCH: usize = 64;
/// Measurements of batches in a round.
const SLICES: u32 = 8;

/// An engine with a program that does nothing.
struct Runner {
    engine: Engine,
    empty: Subject,
}

/// A program on an engine.
struct Subject {
    engine: Engine,
    loaded: Box<dyn Loaded>,
    name: String,
    /// What a call with one run takes, nanoseconds.
    call_ns: f64,
    /// Runs of one measurement.
    repeat: u32,
}

/// Runs the command.
pub(crate) fn run(args: &ExecArgs) -> Result<(), Failure> {
    let packets = packets(args)?;
    let mut runners = Vec::new();
    let spec = empty_object();
    let mut report = Report::new(args.engines.clone());
    let (peers, own): (Vec<Engine>, Vec<Engine>) = args.engines.iter().copied().partition(|e| e.is_peer());
    let mut ready = Vec::new();
    for engine in peers {
        match Peer::new(engine) {
            Ok(peer) => ready.push((engine, peer)),
            Err(e) => report.leave_out(engine, format!("{e:#}")),
        }
    }
    for engine in &own {
        let (loaded, _) = load(*engine, &spec, &spec.programs[0])?;
        runners.push(Runner { engine: *engine, empty: Subject::new(*engine, loaded, "empty") });
    }
    for path in &args.objects {
        let object = Object::open_for(path, Home::Kernel).map_err(anyhow::Error::from)?;
        for program in object.spec().programs.iter().filter(|p| is_wanted(args, p)) {
            measure(args, object.spec(), program, &packets, &mut runners, &mut report)?;
            for (engine, peer) in &ready {
                report.extend(std::iter::once(measure_peer(*engine, peer, object.spec(), program, &packets)));
            }
        }
    }
    if report.is_empty() {
        return Err(Failure::Failed(anyhow!("no XDP program to run")));
    }
    if args.engines.contains(&Engine::Jit) {
        report.set_batch(batch_entry(args, &spec, &packets[0])?);
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
fn subject(
    args: &ExecArgs,
    engine: Engine,
    spec: &ObjectSpec,
    program: &ProgramSpec,
) -> Result<(Subject, Measurement)> {
    let (mut loaded, mut compile_us) = load(engine, spec, program)?;
    let times = if engine == Engine::Jit { args.rounds } else { 0 };
    for _ in 0..times {
        let again = load(engine, spec, program)?;
        loaded = again.0;
        compile_us = compile_us.zip(again.1).map(|(a, b)| a.min(b));
    }
    let measured = Measurement { compile_us, ..Measurement::new(spec, program, engine) };
    Ok((Subject::new(engine, loaded, &program.name), measured))
}

/// The program over all packets on somebody else's engine.
fn measure_peer(
    engine: Engine,
    peer: &Peer,
    spec: &ObjectSpec,
    program: &ProgramSpec,
    packets: &[Vec<u8>],
) -> Measurement {
    let mut measured = Measurement::new(spec, program, engine);
    let mut total = 0.0;
    for packet in packets {
        match peer.measure(program, packet) {
            Ok(answer) => {
                total += answer.total_ns;
                measured.entry_ns = measured.entry_ns.min(answer.entry_ns);
                measured.compile_us = Some(answer.compile_us);
                measured.verdicts.push(answer.verdict);
            }
            Err(e) => measured.error = Some(format!("{e:#}")),
        }
    }
    measured.total_ns = total / packets.len() as f64;
    measured
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
    for runner in runners.iter_mut() {
        match subject(args, runner.engine, spec, program) {
            Ok((subject, measured)) => subjects.push((runner, subject, measured)),
            Err(e) => report.refused(spec, program, runner.engine, &e),
        }
    }
    let mut best = vec![vec![f64::INFINITY; packets.len()]; subjects.len()];
    for _ in 0..args.rounds {
        for ((runner, subject, measured), best) in subjects.iter_mut().zip(&mut best) {
            for (packet, best) in packets.iter().zip(best) {
                // With one packet once is enough.
                let first = measured.verdicts.len() < packets.len();
                if first || packets.len() > 1 {
                    let verdict = subject.calibrate(packet, args.repeat)?;
                    if first {
                        measured.verdicts.push(verdict);
                    }
                }
                if runner.empty.repeat == 1 {
                    runner.empty.calibrate(packet, args.repeat)?;
                }
                for _ in 0..runner.engine.slices().0 {
                    measured.entry_ns = measured.entry_ns.min(runner.empty.slice(packet)?);
                    *best = best.min(subject.slice(packet)?);
                }
            }
        }
    }
    for ((.., measured), best) in subjects.iter_mut().zip(best) {
        measured.total_ns = best.iter().sum::<f64>() / best.len() as f64;
    }
    report.extend(subjects.into_iter().map(|(.., measured)| measured));
    Ok(())
}

impl Subject {
    fn new(engine: Engine, loaded: Box<dyn Loaded>, name: &str) -> Self {
        Self { engine, loaded, name: name.to_owned(), call_ns: 0.0, repeat: 1 }
    }

    /// Nanoseconds of a call with so many runs, and what it answers.
    fn call(&mut self, packet: &[u8], repeat: u32) -> Result<(f64, TestRunOutput)> {
        let request = TestRun { data: packet.to_vec(), repeat, ..TestRun::default() };
        let started = thread_cpu_time();
        let output = self.loaded.test_run(&self.name, &request).with_context(|| self.name.clone())?;
        Ok(((thread_cpu_time() - started).as_secs_f64() * 1e9, output))
    }

    /// Finds out what a call takes and how many runs fit in a measurement; answers the verdict.
    fn calibrate(&mut self, packet: &[u8], most: u32) -> Result<u32> {
        let (slices, slice_ns) = self.engine.slices();
        let trial = if slices > 1 { 64 } else { 2_000 };
        let (mut once, mut many, mut verdict) = (f64::INFINITY, f64::INFINITY, 0);
        for _ in 0..slices.max(2) {
            verdict = self.call(packet, 1)?.1.retval;
            once = once.min(self.call(packet, 2)?.0);
            many = many.min(self.call(packet, trial)?.0);
        }
        self.call_ns = once;
        let run_ns = ((many - once) / f64::from(trial)).max(0.5);
        self.repeat = (slice_ns / run_ns).clamp(64.0, f64::from(most.max(64))) as u32;
        Ok(verdict)
    }

    /// Nanoseconds of one run in one measurement.
    fn slice(&mut self, packet: &[u8]) -> Result<f64> {
        let (ns, output) = self.call(packet, self.repeat)?;
        let run_ns = (ns - self.call_ns) / f64::from(self.repeat - 2);
        if self.engine != Engine::Kernel {
            return Ok(run_ns);
        }
        let whole = output.duration_ns as f64;
        Ok(run_ns.clamp(whole, whole + 1.0))
    }
}

/// Nanoseconds that a program that does nothing takes for one packet of a batch.
fn batch_entry(args: &ExecArgs, spec: &ObjectSpec, packet: &[u8]) -> Result<f64> {
    let programs = vec!["empty".to_owned()];
    let options = LoadOptions { programs, engine: EngineKind::Jit, ..LoadOptions::default() };
    let mut loaded = backends::own_engine(&EngineSettings::default())?.load_object(spec, &options)?;
    let request = TestRun { data: packet.to_vec(), repeat: 1_000, ..TestRun::default() };
    let mut best = f64::INFINITY;
    for _ in 0..args.rounds * SLICES {
        let took = loaded.time_batches("empty", &request, BATCH).context("batches of the empty program")?;
        best = best.min(took.as_secs_f64() * 1e9 / f64::from(request.repeat) / BATCH as f64);
    }
    Ok(best)
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
