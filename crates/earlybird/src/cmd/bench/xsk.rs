//! `earlybird bench xsk`: AF_XDP sockets side by side, ours and those of a C program on libxdp.
//!
//! Applications on the running kernel are processes of their own that do the same work over a pair of veth devices
//! each, in turns on one CPU: a generator of live frames puts packets of 64 bytes into the RX ring, then the
//! application is asked to do them. What is counted is CPU time of the generator and the application, system calls
//! and softirqs included; waiting is no work. Of each round the fastest slice counts.

mod kernel;
mod peer;

use std::path::Path;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::cmd::Failure;
use kernel::{Cost, Side, Who};

/// Measure AF_XDP sockets: ours, libxdp's, the engine's
///
/// Cases on the running kernel (root, a C compiler and libxdp-dev): `rx`, receive and drop, generator and kernel
/// included; `rx-app`, the application's part of it alone; `tx`, send; `l2fwd`, send back what came. Packets have
/// 64 bytes; rates are millions of packets for a second of CPU.
#[derive(Args)]
pub(crate) struct XskArgs {
    /// Only these cases
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Work::Rx, Work::Tx, Work::L2fwd])]
    case: Vec<Work>,

    /// Rounds, each with a rate
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,

    /// Slices of a round, of which the fastest counts
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=10000))]
    slices: u32,

    /// CPU that everything runs on
    #[arg(long, default_value_t = 0)]
    cpu: u32,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Be the measured application
    #[arg(long, hide = true, value_enum, requires = "ifname")]
    serve: Option<Work>,

    /// Device of the measured application
    #[arg(long, hide = true)]
    ifname: Option<String>,
}

/// What an application does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Work {
    Rx,
    Tx,
    L2fwd,
}

impl Work {
    const fn name(self) -> &'static str {
        match self {
            Self::Rx => "rx",
            Self::Tx => "tx",
            Self::L2fwd => "l2fwd",
        }
    }
}

/// Packets of a slice: all of them wait in the RX ring before they are taken.
const PACKETS: u32 = 1024;

/// One line of the result.
struct Row {
    case: String,
    other: &'static str,
    /// Rates of each round, millions of packets a second.
    ours: Vec<f64>,
    others: Vec<f64>,
}

/// Runs the command.
pub(super) fn run(args: &XskArgs) -> Result<(), Failure> {
    if let (Some(work), Some(ifname)) = (args.serve, &args.ifname) {
        return Ok(peer::serve(work, ifname, args.cpu)?);
    }
    let libxdp = kernel::build_libxdp()?;
    let measured = args.case.iter().map(|work| on_kernel(args, *work, &libxdp).context(work.name()));
    let rows = measured.collect::<Result<Vec<_>>>();
    if let Some(dir) = libxdp.parent() {
        std::fs::remove_dir_all(dir).context("the built peer")?;
    }
    let rows: Vec<Row> = rows?.into_iter().flatten().collect();
    if args.json {
        println!("{:#}", rows.iter().map(Row::json).collect::<Value>());
    } else {
        rows.iter().for_each(|row| println!("{}", row.json()));
    }
    Ok(())
}

fn on_kernel(args: &XskArgs, work: Work, libxdp: &Path) -> Result<Vec<Row>> {
    let mut ours = Side::start(Who::Ours, work, args.cpu, libxdp)?;
    let mut theirs = Side::start(Who::Libxdp, work, args.cpu, libxdp)?;
    let row = |case: String| Row { case, other: "libxdp", ours: Vec::new(), others: Vec::new() };
    let mut whole = row(work.name().to_owned());
    let mut app = row(format!("{}-app", work.name()));
    for round in 0..=args.rounds {
        let mut best = [None; 2];
        for _ in 0..args.slices {
            for (best, side) in best.iter_mut().zip([&mut ours, &mut theirs]) {
                least(best, side.slice(PACKETS)?);
            }
        }
        let [Some(a), Some(b)] = best else { continue };
        // The first round warms up.
        if round > 0 {
            whole.add(a.all, b.all);
            app.add(a.app, b.app);
        }
    }
    // Sending has no generator, and echoing is mostly the kernel's work in either.
    Ok(if work == Work::Rx { vec![whole, app] } else { vec![whole] })
}

/// The least of each.
fn least(best: &mut Option<Cost>, new: Cost) {
    *best = Some(best.map_or(new, |b| Cost { app: b.app.min(new.app), all: b.all.min(new.all) }));
}

impl Row {
    fn add(&mut self, ours: std::time::Duration, others: std::time::Duration) {
        let rate = |time: std::time::Duration| f64::from(PACKETS) / time.as_secs_f64() / 1e6;
        self.ours.push(rate(ours));
        self.others.push(rate(others));
    }

    fn json(&self) -> Value {
        let hundredth = |v: f64| (v * 100.0).round() / 100.0;
        let ratios: Vec<f64> = self.ours.iter().zip(&self.others).map(|(a, b)| a / b).collect();
        let (ratio, min, max) = super::spread(&ratios);
        json!({
            "case": self.case,
            "ours_mpps": hundredth(super::spread(&self.ours).0),
            "other": self.other,
            "other_mpps": hundredth(super::spread(&self.others).0),
            "ratio": hundredth(ratio),
            "ratio_min": hundredth(min),
            "ratio_max": hundredth(max),
        })
    }
}
