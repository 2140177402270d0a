//! `cargo xtask mutants`: whether random programs find a verifier that is wrong.
//!
//! The mutants of `testdata/verifier/mutants.toml` are written into a copy of the workspace, all of them at
//! once: an environment variable says which of them is on. So the copy is built once, and no mutant is in the
//! workspace itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Deserialize;

const LIST: &str = "testdata/verifier/mutants.toml";
const VERIFIER: &str = "crates/bpf/src/verifier";
/// Number of the mutant that is on; without it none is.
const VARIABLE: &str = "EARLYBIRD_MUTANT";
/// What the copy needs to be built.
const PARTS: &[&str] =
    &["Cargo.toml", "Cargo.lock", "crates", "testkit", "xtask", "testdata/isa", "rustfmt.toml"];

#[derive(Args)]
pub(crate) struct Options {
    /// First seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Accepted programs after which a mutant counts as not found
    #[arg(long, default_value_t = 20_000)]
    accepted: u64,
    /// Only mutants whose name contains this
    #[arg(long, default_value = "")]
    filter: String,
    /// Where the copy is made and built [default: target/mutants]
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Deserialize)]
struct List {
    mutant: Vec<Mutant>,
}

#[derive(Deserialize)]
struct Mutant {
    name: String,
    file: String,
    right: String,
    wrong: String,
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let list: List = toml::from_str(&fs::read_to_string(root.join(LIST))?).context(LIST)?;
    let dir = options.dir.clone().unwrap_or_else(|| root.join("target/mutants"));
    let copy = dir.join("copy");
    write_copy(root, &copy, &list.mutant)?;
    let binary = build(&dir, &copy)?;
    let run = |number: usize| -> Result<(bool, String)> {
        let out = Command::new(&binary)
            .args([options.seed.to_string(), options.accepted.to_string()])
            .env(VARIABLE, number.to_string())
            .output()
            .with_context(|| binary.display().to_string())?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        // A mutant that makes the verifier panic has shown itself, too.
        Ok((!out.status.success(), text.lines().next().unwrap_or("no word").to_owned()))
    };
    let (wrong, first) = run(0)?;
    ensure!(!wrong, "a finding without any mutant: {first}");
    let (mut found, mut tried) = (0, 0);
    for (i, m) in list.mutant.iter().enumerate().filter(|(_, m)| m.name.contains(&options.filter)) {
        let (shown, first) = run(i + 1)?;
        tried += 1;
        found += u32::from(shown);
        println!("{}  {}: {first}", if shown { "found    " } else { "NOT FOUND" }, m.name);
    }
    println!("found {found} of {tried}");
    if found < tried {
        bail!("{} mutants are not found", tried - found);
    }
    Ok(())
}

/// Copies the workspace and writes the mutants into it.
fn write_copy(root: &Path, copy: &Path, mutants: &[Mutant]) -> Result<()> {
    fs::create_dir_all(copy.join("testdata"))?;
    for part in PARTS {
        let to = copy.join(part);
        let status = Command::new("cp").args(["-rpT"]).arg(root.join(part)).arg(&to).status()?;
        ensure!(status.success(), "cannot copy {part} to {}", to.display());
    }
    for (i, m) in mutants.iter().enumerate() {
        let path = copy.join(VERIFIER).join(&m.file);
        let source = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let places = source.matches(&m.right).count();
        ensure!(places == 1, "{:?}: its text is there {places} times in {}", m.name, m.file);
        let wrong = m.wrong.replace("MUTANT", &format!("crate::verifier::mutant({})", i + 1));
        fs::write(&path, source.replace(&m.right, &wrong))?;
    }
    let path = copy.join(VERIFIER).join("mod.rs");
    let source = fs::read_to_string(&path)? + SWITCH;
    Ok(fs::write(&path, source)?)
}

/// Tells whether a mutant is on.
const SWITCH: &str = r#"
pub(crate) fn mutant(number: u32) -> bool {
    static ON: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    let on = || std::env::var("EARLYBIRD_MUTANT").ok().and_then(|v| v.parse().ok()).unwrap_or(0);
    *ON.get_or_init(on) == number
}
"#;

fn build(dir: &Path, copy: &Path) -> Result<PathBuf> {
    let target = dir.join("build");
    let status = Command::new("cargo")
        .args(["build", "--release", "-p", "earlybird-testkit", "--bin", "soundness", "--target-dir"])
        .arg(&target)
        .current_dir(copy)
        .status()?;
    ensure!(status.success(), "the copy with the mutants does not build");
    Ok(target.join("release/soundness"))
}
