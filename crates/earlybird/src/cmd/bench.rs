//! `earlybird bench`: what programs cost, on each engine, in one run on one machine.

mod exec;
mod path;
mod peers;
mod report;

use clap::Subcommand;

use super::Failure;

/// Measure what programs cost
#[derive(Subcommand)]
pub(crate) enum BenchCommand {
    Exec(exec::ExecArgs),
    Path(path::PathArgs),
}

/// Runs the command.
pub(crate) fn run(command: &BenchCommand) -> Result<(), Failure> {
    match command {
        BenchCommand::Exec(args) => exec::run(args),
        BenchCommand::Path(args) => path::run(args),
    }
}
