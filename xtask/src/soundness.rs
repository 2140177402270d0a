//! `cargo xtask soundness`: many random programs, by the engine alone or beside the running kernel.

use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use testkit::soundness::Campaign;

#[derive(Args)]
pub(crate) struct Options {
    /// First seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Programs that have to be accepted and run
    #[arg(long, default_value_t = 1_000_000)]
    accepted: u64,
    /// Compare verdicts with the running kernel's instead of running the programs (needs root)
    #[arg(long)]
    kernel: bool,
    /// Print both logs of the program of the first seed, and stop
    #[arg(long)]
    logs: bool,
    /// Go on after a finding
    #[arg(long)]
    keep_going: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let started = Instant::now();
    let mut campaign = Campaign::new(linux::host::vmlinux().ok(), linux::sys::possible_cpus());
    if options.logs {
        return logs(&campaign, options.seed);
    }
    let (mut seed, mut accepted, mut findings) = (options.seed, 0, 0);
    while accepted < options.accepted {
        let outcome = if options.kernel { compare(&campaign, seed) } else { check(&mut campaign, seed) };
        match outcome {
            Ok(yes) => accepted += u64::from(yes),
            Err(what) => {
                findings += 1;
                println!("{what}");
                if !options.keep_going {
                    break;
                }
            }
        }
        seed += 1;
    }
    println!("{}", campaign.report());
    println!(
        "seeds {} to {}, {accepted} accepted, {findings} findings, {:.0} s",
        options.seed,
        seed - 1,
        started.elapsed().as_secs_f64()
    );
    if findings > 0 {
        bail!("{findings} findings");
    }
    Ok(())
}

fn check(campaign: &mut Campaign, seed: u64) -> Result<bool> {
    campaign.try_seed(seed).map_err(|finding| anyhow!("{finding}"))
}

/// Both verdicts on the program of a seed; they have to be the same.
fn compare(campaign: &Campaign, seed: u64) -> Result<bool> {
    let program = campaign.program(seed);
    let ours = campaign.verdict(&program.spec, false);
    let object = program.object();
    let kernel = linux::verdicts(&object, &[&program.spec], 1).map_err(|e| anyhow!("seed {seed}: {e}"))?;
    let kernel = kernel[0].outcome.clone().map_err(|e| anyhow!("seed {seed}: {e}"))?;
    match (&ours, &kernel) {
        (Ok(_), Ok(_)) => Ok(true),
        (Err((x, _)), Err((y, _))) if x == y => Ok(false),
        (Err((x, why)), Err((y, log))) => {
            bail!("seed {seed}: both refuse, with {x} [{why}] and {y} [{}]", last_words(log))
        }
        (Ok(_), Err((errno, log))) => {
            bail!("seed {seed}: UNSOUND accepted here, refused there: {errno} [{}]", last_words(log))
        }
        (Err((errno, why)), Ok(_)) => bail!("seed {seed}: refused here, accepted there: {errno} [{why}]"),
    }
}

fn logs(campaign: &Campaign, seed: u64) -> Result<()> {
    let program = campaign.program(seed);
    let kernel = linux::verdicts(&program.object(), &[&program.spec], 2).map_err(|e| anyhow!("{e}"))?;
    let kernel = match kernel[0].outcome.clone().map_err(|e| anyhow!("{e}"))? {
        Ok(log) => log,
        Err((_, log)) => log,
    };
    println!("---- engine\n{}---- kernel\n{kernel}", campaign.log(&program.spec));
    Ok(())
}

/// The reason that a log gives.
fn last_words(log: &str) -> &str {
    log.lines().rev().find(|l| !l.starts_with("processed ")).unwrap_or("")
}
