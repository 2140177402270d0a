//! One file per subcommand. Exit status: 0 done, 1 could not, 2 usage, 3 the backends differ.

mod bench;
mod disasm;
mod explain;
mod explain_packet;
mod generate;
mod run;
mod scene_files;
mod test;
mod up;
mod verify;
mod xsk;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// The Linux eXpress Data Path in user space: run, test and measure unmodified XDP programs.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(Box<run::RunArgs>),
    Verify(verify::VerifyArgs),
    Explain(explain::ExplainArgs),
    Disasm(disasm::DisasmArgs),
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    #[command(subcommand)]
    Xsk(xsk::XskCommand),
    Test(test::TestArgs),
    Up(up::UpArgs),
    ExplainPacket(explain_packet::ExplainPacketArgs),
    Completions(generate::CompletionsArgs),
    Man(generate::ManArgs),
}

/// How a command ended, other than well.
pub(crate) enum Failure {
    /// It could not be done; status 1.
    Failed(anyhow::Error),
    /// It was asked for wrongly; status 2.
    Usage(anyhow::Error),
    /// Programs were rejected, which has been said; status 1.
    Rejected,
    /// It was done, and the engine and the kernel differ; status 3.
    Differ,
}

impl From<anyhow::Error> for Failure {
    fn from(e: anyhow::Error) -> Self {
        Self::Failed(e)
    }
}

/// Parses the command line and runs the command.
pub(crate) fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Disasm(args) => disasm::run(&args),
        Command::Bench(command) => bench::run(&command),
        Command::Xsk(command) => xsk::run(&command),
        Command::Test(args) => test::run(&args),
        Command::Up(args) => up::run(&args),
        Command::ExplainPacket(args) => explain_packet::run(&args),
        Command::Completions(args) => {
            generate::completions(&args, Args::command());
            Ok(())
        }
        Command::Man(args) => generate::man(&args, Args::command()),
    };
    let (status, error) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Rejected) => return ExitCode::from(1),
        Err(Failure::Differ) => return ExitCode::from(3),
        Err(Failure::Failed(e)) => (1, e),
        Err(Failure::Usage(e)) => (2, e),
    };
    eprintln!("earlybird: {e}", e = one_line(&error));
    ExitCode::from(status)
}

/// An error with its causes, on one line. Causes that the sentence before them tells already are left out.
fn one_line(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |line, cause| match line.is_empty() {
        true => cause,
        false if line.contains(&cause) => line,
        false => format!("{line}: {cause}"),
    })
}
