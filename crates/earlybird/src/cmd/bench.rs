//! `earlybird bench`: what programs cost, on each engine, in one run on one machine.

mod exec;
mod path;
mod peers;
mod report;
mod xsk;

use clap::Subcommand;

use super::Failure;

/// Measure what programs cost
#[derive(Subcommand)]
pub(crate) enum BenchCommand {
    Exec(exec::ExecArgs),
    Path(path::PathArgs),
    Xsk(xsk::XskArgs),
}

/// Runs the command.
pub(crate) fn run(command: &BenchCommand) -> Result<(), Failure> {
    match command {
        BenchCommand::Exec(args) => exec::run(args),
        BenchCommand::Path(args) => path::run(args),
        BenchCommand::Xsk(args) => xsk::run(args),
    }
}

/// The middle, the smallest and the largest.
fn spread(values: &[f64]) -> (f64, f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
    (at(sorted.len() / 2), at(0), at(sorted.len().saturating_sub(1)))
}
