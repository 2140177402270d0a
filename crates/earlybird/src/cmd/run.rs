//! `earlybird run`: packets through a program, in user space, on the kernel, or on both.

mod input;
mod output;

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use bpf::object::SelectError;
use clap::{Args, ValueEnum};
use control::{Backend, EngineKind, LoadOptions, Loaded};
use earlybird::backends::{self, EngineSettings};
use earlybird::run::{DumpMode, MapView, Session, SessionOptions, Setting};
use earlybird::{Object, object::Home};
use machine::NetConfig;
use machine::net::Device;

use super::Failure;
use input::Packets;
use output::Outputs;

/// Run an XDP program over packets and show what it did
///
/// The object is loaded as libbpf loads it. Packets come from a capture, from a file or from the command line.
/// Time, random numbers and the CPU id come from the run itself (--seed, and the packets' time stamps), so a
/// run is repeatable. With `--backend both` the running kernel gets the same packets, clocks and random numbers,
/// and every verdict, byte, context field, event and map entry is compared.
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct RunArgs {
    /// Object file (ELF, as clang makes it for the target bpf)
    object: PathBuf,

    /// Program: function name or section name [default: the only one]
    #[arg(long, value_name = "NAME")]
    prog: Option<String>,

    /// Where it runs; the kernel needs root
    #[arg(long, value_enum, default_value_t = Where::Engine)]
    backend: Where,

    /// How the engine runs it [default: jit where there is one]
    #[arg(long, value_enum)]
    engine: Option<How>,

    #[command(flatten)]
    packets: input::PacketArgs,

    /// Runs over each packet, on the buffer as the run before left it; times are means
    #[arg(long, default_value_t = 1, value_name = "N")]
    repeat: u32,

    /// Interface number that packets come in on
    #[arg(long, value_name = "N")]
    ifindex: Option<u32>,

    /// Receive queue that packets come in on
    #[arg(long, value_name = "N")]
    rx_queue: Option<u32>,

    /// Context: a file with a `struct xdp_md` as bpftool takes it (binary), or JSON:
    /// {"metadata":"0x0102","linear":64,"ingress_ifindex":1,"rx_queue_index":0}
    #[arg(long, value_name = "FILE|JSON")]
    ctx_in: Option<String>,

    /// Fill maps from a JSON file: {"map":{"key":value}}, or as --dump-maps prints them
    #[arg(long, value_name = "FILE")]
    maps: Option<PathBuf>,

    /// Set a map's entry, or a variable of a data section, typed by BTF; may be repeated
    #[arg(long, num_args = 2, value_names = ["MAP", "KEY=VALUE"], action = clap::ArgAction::Append)]
    set: Vec<String>,

    /// Devices, routes, neighbours, sockets, connections and IPsec states for fib_lookup, sk_lookup, connection
    /// tracking and the like (JSON or TOML)
    #[arg(long, value_name = "FILE")]
    net: Option<PathBuf>,

    /// Take devices, routes and neighbours from this host
    #[arg(long, conflicts_with = "net")]
    net_from_host: bool,

    /// Show all of the maps, also what is zero
    #[arg(long)]
    dump_maps: bool,

    /// Seed of random numbers and secrets
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Run without verifying, in the checked interpreter
    #[arg(long, conflicts_with = "backend")]
    unverified: bool,

    /// Write packets before and after the program to a pcapng file with queue, packet id and verdict
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  earlybird run programs/firewall.bpf.o --pcap testdata/pcaps/web.pcapng
  earlybird run prog.o --prog my_func --pcap in.pcap --out out.pcapng --backend both --json
  earlybird run prog.o --packet 'ffffffffffff 020000000001 0800 4500001c...' --repeat 1000000
  earlybird run prog.o --pcap in.pcap --set .rodata limit=5 --set blocked '{\"prefixlen\":8,\"addr\":\"10.0.0.0\"}=1'

Exit status: 0 done, 1 could not load or run, 2 usage, 3 the two backends differ.";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Where {
    /// In user space
    Engine,
    /// On the running kernel, by BPF_PROG_TEST_RUN
    Kernel,
    /// On both, and compare
    Both,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum How {
    /// Compiled to machine code
    Jit,
    /// Checked interpreter
    Interp,
}

/// Runs the command.
pub(crate) fn run(args: &RunArgs) -> Result<(), Failure> {
    let (ctx, metadata) = input::context(args.ctx_in.as_deref(), args.ifindex, args.rx_queue)?;
    let packets = Packets::open(&args.packets)?;
    let home = if args.backend == Where::Engine { Home::Engine } else { Home::Kernel };
    let mut object = Object::open_for(&args.object, home).map_err(anyhow::Error::from)?;
    let program = object.spec().program(args.prog.as_deref()).map_err(selection)?.name.clone();
    let settings = MapView::set_variables(object.spec_mut(), settings(args)?).map_err(anyhow::Error::from)?;

    let loaded = load(args, &object, &program, &settings)?;
    let options = SessionOptions {
        repeat: args.repeat,
        ctx,
        metadata,
        dump: if args.dump_maps { DumpMode::All } else { DumpMode::Used },
        ..SessionOptions::default()
    };
    let mut session = Session::new(object.spec(), &program, loaded.engine, loaded.kernel, options);
    let mut outputs = Outputs::open(args.out.as_deref(), &program, packets.size())?;
    for packet in packets {
        let packet = packet?;
        let output = session.run(&packet).map_err(anyhow::Error::from)?;
        outputs.packet(&packet, &output, args.rx_queue.unwrap_or(0))?;
    }
    outputs.finish()?;
    let report = session.finish();
    if report.packets == 0 {
        return Err(Failure::Failed(anyhow!("no packet to run")));
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report).context("the report as JSON")?);
    } else {
        print!("{}", report.text());
    }
    if report.differences_total > 0 { Err(Failure::Differ) } else { Ok(()) }
}

/// Several programs without `--prog` is a question of usage; an object without XDP programs is not.
fn selection(e: SelectError) -> Failure {
    let usage = (e.has_xdp || e.wanted.is_some()) && e.unusable.is_none();
    if usage { Failure::Usage(e.into()) } else { Failure::Failed(e.into()) }
}

struct LoadedHomes {
    engine: Option<(Box<dyn Loaded>, String)>,
    kernel: Option<Box<dyn Loaded>>,
}

fn load(
    args: &RunArgs,
    object: &Object,
    program: &str,
    settings: &[Setting],
) -> Result<LoadedHomes, Failure> {
    let both = args.backend == Where::Both;
    let engine_kind = match (args.engine, args.unverified) {
        (Some(How::Interp), _) | (None, true) => EngineKind::Interp,
        (Some(How::Jit), true) => {
            return Err(Failure::Usage(anyhow!(
                "--engine jit runs verified programs only; leave --unverified out"
            )));
        }
        (Some(How::Jit), false) => EngineKind::Jit,
        (None, false) => backends::default_engine(),
    };
    let options = |scripted| LoadOptions {
        programs: vec![program.to_owned()],
        scripted,
        engine: engine_kind,
        unverified: args.unverified,
    };
    let fill = |backend: &mut dyn Backend, options: &LoadOptions| -> anyhow::Result<Box<dyn Loaded>> {
        let loaded = backend.load(object.spec(), options).with_context(|| object.spec().name.clone())?;
        MapView::new(object.spec()).apply(loaded.as_ref(), settings, backend.possible_cpus())?;
        Ok(loaded)
    };
    let mut homes = LoadedHomes { engine: None, kernel: None };
    if args.backend != Where::Kernel {
        let settings = EngineSettings { seed: args.seed, net: network(args)? };
        let loaded = fill(&mut *backends::engine(&settings)?, &options(both))?;
        let name = loaded.engine().name().to_owned();
        homes.engine = Some((loaded, name));
    }
    if args.backend != Where::Engine {
        homes.kernel = Some(fill(&mut *backends::kernel()?, &options(both))?);
    }
    Ok(homes)
}

/// The engine's network: as told, as the kernel has it if that is to be compared with, else a loopback device
/// and the one that packets come in on.
fn network(args: &RunArgs) -> anyhow::Result<NetConfig> {
    let mut net = match &args.net {
        Some(path) => backends::net_from_file(path)?,
        None if args.net_from_host || args.backend == Where::Both => backends::net_from_host()?,
        None => NetConfig::default(),
    };
    let known = |net: &NetConfig, ifindex| net.devices.iter().any(|d| d.ifindex == ifindex);
    if let Some(ifindex) =
        args.ifindex.filter(|i| *i > 1 && args.backend == Where::Engine && !known(&net, *i))
    {
        let queues = args.rx_queue.unwrap_or(0).saturating_add(1);
        net.devices.push(Device::new(ifindex, &format!("dev{ifindex}"), queues));
    }
    Ok(net)
}

fn settings(args: &RunArgs) -> anyhow::Result<Vec<Setting>> {
    let mut settings = Vec::new();
    if let Some(path) = &args.maps {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let json = serde_json::from_str(&text).with_context(|| format!("{}: not JSON", path.display()))?;
        settings = Setting::parse_file(&json).with_context(|| path.display().to_string())?;
    }
    for pair in args.set.chunks(2) {
        let setting = Setting::parse(&pair[0], &pair[1]);
        settings.push(setting.with_context(|| format!("--set {} {}: no KEY=VALUE", pair[0], pair[1]))?);
    }
    Ok(settings)
}
