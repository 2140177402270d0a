//! `earlybird bench path`: packets a second from a generator of live frames through veth to a program that
//! counts and drops them, in the engine and in the running kernel.
//!
//! Both do the same work with the same objects: `BPF_PROG_TEST_RUN` with live frames on one CPU, whose program
//! redirects to a veth by a devmap; behind it the case's program, and at the end one that counts per CPU. The
//! homes take turns in slices, and of each round the fastest slice counts. What is counted is the CPU time of the
//! one thread that does it all, in the kernel with its softirqs: waiting for others, and for the grace period that ends
//! each live run of the kernel, is no work. That every packet arrived is checked.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bpf::object::ObjectSpec;
use clap::{Args, ValueEnum};
use control::EngineKind;
use control::scene::{Scene, SceneHome, parse_packet, play};
use earlybird::backends::{self, EngineSettings};
use earlybird::{Object, object::Home};
use linux::scene::KernelScene;
use linux::sys::{PinnedToCpu, thread_cpu_time};
use machine::scene::EngineScene;
use serde_json::{Value, json};

use super::spread;
use crate::cmd::Failure;

/// The programs, which are the same file for both.
const OBJECT: &[u8] = include_bytes!("../../../../../programs/path/path.bpf.o");

/// Measure how many packets a second pass through devices
///
/// Cases: `drop`, redirect to a veth whose peer counts and drops; `tx`, whose peer sends it back, where it is
/// counted and dropped; `redirect`, whose peer redirects it to another veth, where it is. Packets have 64 bytes.
#[derive(Args)]
pub(crate) struct PathArgs {
    /// Where; the kernel needs root
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Where::Engine, Where::Kernel])]
    backend: Vec<Where>,

    /// Only these cases
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Case::Drop, Case::Tx, Case::Redirect])]
    case: Vec<Case>,

    /// How the engine runs programs
    #[arg(long, value_enum, default_value_t = How::Jit)]
    engine: How,

    /// Rounds, each with a rate
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,

    /// Slices of a round, of which the fastest counts
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10000))]
    slices: u32,

    /// Packets of a slice
    #[arg(long, value_name = "N", default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(64..=10_000_000))]
    packets: u32,

    /// CPU that everything runs on
    #[arg(long, default_value_t = 0)]
    cpu: u32,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Where {
    Engine,
    Kernel,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum How {
    Interp,
    Jit,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Case {
    Drop,
    Tx,
    Redirect,
}

impl Case {
    const fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Tx => "tx",
            Self::Redirect => "redirect",
        }
    }

    /// What stands at which device, beside the generator's redirect to `a`.
    const fn steps(self) -> &'static str {
        match self {
            Self::Drop => {
                "[[step]]\nattach = { device = \"b\", program = \"end.count_drop\", mode = \"drv\" }\n"
            }
            Self::Tx => {
                "[[step]]\nattach = { device = \"b\", program = \"mid.tx\", mode = \"drv\" }\n\
                 [[step]]\nattach = { device = \"a\", program = \"end.count_drop\", mode = \"drv\" }\n"
            }
            Self::Redirect => {
                "[[step]]\nattach = { device = \"b\", program = \"mid.redirect_map\", mode = \"drv\" }\n\
                 [[step]]\nset = { map = \"mid.devices\", key = 0, device = \"c\" }\n\
                 [[step]]\nattach = { device = \"d\", program = \"end.count_drop\", mode = \"drv\" }\n"
            }
        }
    }

    fn scene(self) -> Result<Scene> {
        let text = format!(
            "title = \"{}\"\nobjects = {{ gen = \"path\", mid = \"path\", end = \"path\" }}\n\
             [[device]]\nveth = [\"a\", \"b\"]\n[[device]]\nveth = [\"c\", \"d\"]\n\
             [[step]]\nset = {{ map = \"gen.devices\", key = 0, device = \"a\" }}\n{}",
            self.name(),
            self.steps()
        );
        Scene::parse(Path::new("bench"), &text).context("the scene of a case")
    }
}

/// A home that has been set up for a case.
enum Running {
    Engine(Box<EngineScene>),
    Kernel(Box<KernelScene>),
}

impl Running {
    fn home(&mut self) -> &mut dyn SceneHome {
        match self {
            Self::Engine(scene) => &mut **scene,
            Self::Kernel(scene) => &mut **scene,
        }
    }

    /// Runs so many packets and answers the CPU time.
    fn slice(&mut self, packet: &[u8], count: u32, cpu: u32) -> Result<Duration> {
        let program = ("gen".to_owned(), "redirect_map".to_owned());
        Ok(match self {
            Self::Engine(scene) => {
                let before = thread_cpu_time();
                scene.run_live(&program, "a", packet, count)?;
                thread_cpu_time() - before
            }
            Self::Kernel(scene) => scene.time_live(&program, "a", packet, count, cpu)?,
        })
    }
}

/// Millions of packets a second, one number a round.
struct Rates {
    home: Where,
    mpps: Vec<f64>,
}

/// Runs the command.
pub(super) fn run(args: &PathArgs) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for case in &args.case {
        rows.push((*case, measure(args, *case).with_context(|| case.name())?));
    }
    if args.json {
        let rows: Vec<Value> = rows.iter().map(|(case, rates)| entry(*case, rates)).collect();
        println!("{:#}", Value::from(rows));
        return Ok(());
    }
    for (case, rates) in &rows {
        let shown = entry(*case, rates);
        println!("{shown}");
    }
    Ok(())
}

fn measure(args: &PathArgs, case: Case) -> Result<Vec<Rates>> {
    let packet = parse_packet("eth 02::1 > 02::2, ipv4 10.0.0.1 > 10.0.0.2, udp 1000 > 2000, len 64");
    let packet = packet.map_err(|e| anyhow!(e))?;
    let _pin = PinnedToCpu::new(args.cpu).map_err(|e| anyhow!("CPU {}: {e}", args.cpu))?;
    let mut homes = Vec::new();
    for place in &args.backend {
        homes.push((*place, start(args, case, *place)?, Vec::new()));
    }
    let mut sent = 0;
    for round in 0..=args.rounds {
        let mut best = vec![Duration::MAX; homes.len()];
        for _ in 0..args.slices {
            for ((_, home, _), best) in homes.iter_mut().zip(&mut best) {
                *best = home.slice(&packet, args.packets, args.cpu)?.min(*best);
            }
            sent += u64::from(args.packets);
        }
        // The first round warms up.
        for ((_, _, rates), best) in homes.iter_mut().zip(&best).filter(|_| round > 0) {
            rates.push(f64::from(args.packets) / best.as_secs_f64() / 1e6);
        }
    }
    for (place, home, _) in &mut homes {
        let arrived = home.home().map_value("end", "packets", 0)?;
        anyhow::ensure!(arrived == sent, "{place:?}: {sent} packets were sent and {arrived} arrived");
    }
    Ok(homes.into_iter().map(|(home, _, mpps)| Rates { home, mpps }).collect())
}

fn start(args: &PathArgs, case: Case, place: Where) -> Result<Running> {
    let scene = case.scene()?;
    let home = if place == Where::Engine { Home::Engine } else { Home::Kernel };
    let open = |_: &Path| -> Result<ObjectSpec, String> {
        Object::parse(OBJECT, "path.bpf.o", home).map(|o| o.spec().clone()).map_err(|e| e.to_string())
    };
    let mut running = match place {
        Where::Engine => {
            let kind = if args.engine == How::Jit { EngineKind::Jit } else { EngineKind::Interp };
            let settings = backends::own_engine(&EngineSettings::default())?;
            let mut engine = EngineScene::new(&scene, &settings, kind, &open)?;
            engine.stop_tracing();
            Running::Engine(Box::new(engine))
        }
        Where::Kernel => {
            let mut kernel = KernelScene::new(&scene, &open)?;
            kernel.stop_tracing();
            Running::Kernel(Box::new(kernel))
        }
    };
    let report = play(&scene, running.home(), false)?;
    let failure = report.steps.iter().flat_map(|s| &s.failures).next();
    failure.map_or(Ok(running), |f| Err(anyhow!("{}: {f}", report.home)))
}

fn entry(case: Case, rates: &[Rates]) -> Value {
    let of = |place| rates.iter().find(|r| r.home == place).map(|r| &r.mpps);
    let hundredth = |v: f64| (v * 100.0).round() / 100.0;
    let mut row = json!({ "case": case.name() });
    for (place, name) in [(Where::Engine, "engine_mpps"), (Where::Kernel, "kernel_mpps")] {
        if let Some(mpps) = of(place) {
            row[name] = hundredth(spread(mpps).0).into();
        }
    }
    if let (Some(engine), Some(kernel)) = (of(Where::Engine), of(Where::Kernel)) {
        let ratios: Vec<f64> = engine.iter().zip(kernel).map(|(e, k)| e / k).collect();
        let (middle, min, max) = spread(&ratios);
        row["ratio"] = hundredth(middle).into();
        row["ratio_min"] = hundredth(min).into();
        row["ratio_max"] = hundredth(max).into();
    }
    row
}
