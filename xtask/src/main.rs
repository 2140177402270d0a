//! The project's own chores: `cargo xtask tidy`, `cargo xtask ci`, ...

mod bench;
mod corpus;
mod mutants;
mod soundness;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Chores of the Earlybird workspace")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check the house rules: format, lints, sizes, crate arrows, unsafe rooms, paths, orphans
    Tidy {
        /// Leave out the checks that compile (clippy)
        #[arg(long)]
        quick: bool,
    },
    /// Everything that has to hold before a change lands
    Ci,
    /// Compare with other implementations over fetched corpora
    #[command(subcommand)]
    Corpus(Corpus),
    /// Measure beside the running kernel (needs root)
    #[command(subcommand)]
    Bench(Bench),
    /// Random programs: what the verifier accepts does what it claims, and the kernel accepts it too
    Soundness(soundness::Options),
    /// Wrong verifiers: how many of them random programs find
    Mutants(mutants::Options),
    /// Check that the committed objects of programs/ and of the verifier's tests are what their sources build to
    Programs,
}

#[derive(Subcommand)]
enum Corpus {
    /// The verifier against the running kernel's, over the kernel's own tests (needs root)
    Verifier(corpus::verifier::Options),
}

#[derive(Subcommand)]
enum Bench {
    /// Times of verification
    Verifier(bench::Options),
}

fn main() -> Result<()> {
    let root = root();
    match Args::parse().task {
        Task::Tidy { quick } => tidy::run(&root, quick),
        Task::Ci => ci(&root),
        Task::Corpus(Corpus::Verifier(options)) => corpus::verifier::run(&root, &options),
        Task::Bench(Bench::Verifier(options)) => bench::verifier(&root, &options),
        Task::Soundness(options) => soundness::run(&options),
        Task::Mutants(options) => mutants::run(&root, &options),
        Task::Programs => programs(&root),
    }
}

/// The workspace's directory.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}

fn ci(root: &Path) -> Result<()> {
    tidy::run(root, false)?;
    programs(root)?;
    sh(root, "cargo", &["test", "--workspace", "--lib", "--bins", "--tests"])?;
    sh(root, "cargo", &["test", "--workspace", "--doc"])
}

/// Objects are what their sources build to.
fn programs(root: &Path) -> Result<()> {
    sh(root, "programs/build.sh", &["--check"])?;
    sh(root, "testdata/verifier/rejections/build.sh", &["--check"])
}

/// Runs a command in the workspace and fails with it.
fn sh(root: &Path, program: &str, args: &[&str]) -> Result<()> {
    eprintln!("$ {program} {}", args.join(" "));
    let status = Command::new(program).args(args).current_dir(root).status();
    let status = status.with_context(|| format!("cannot run {program}"))?;
    if !status.success() {
        bail!("{program} {} failed: {status}", args.join(" "));
    }
    Ok(())
}
