//! `cargo xtask tidy`: the house rules that a machine can check.

mod arrows;
mod sizes;
mod text;
mod unsafety;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// `xtask/tidy.toml`: what is allowed where.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    /// Crates and the crates of the workspace that they may depend on.
    arrows: std::collections::BTreeMap<String, Vec<String>>,
    /// Files and folders in which unsafe code may live.
    unsafe_rooms: Vec<String>,
    /// Functions that may be longer than the limit.
    #[serde(default)]
    long_function: Vec<LongFunction>,
}

/// A function that is exempt from the limit on lines.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LongFunction {
    file: String,
    name: String,
    /// Said here so that nobody is exempt by accident.
    #[allow(dead_code, reason = "for readers")]
    reason: String,
}

/// A tracked file of the workspace.
struct Source {
    /// Relative to the workspace.
    path: String,
    text: String,
}

pub(crate) fn run(root: &Path, quick: bool) -> Result<()> {
    let rules_text = std::fs::read_to_string(root.join("xtask/tidy.toml"))?;
    let rules: Rules = toml::from_str(&rules_text).context("xtask/tidy.toml")?;
    let files = tracked(root)?;
    let sources: Vec<Source> = files.iter().filter_map(|p| read(root, p)).collect();
    let mut complaints = Vec::new();
    complaints.extend(sizes::check(&sources, &rules));
    complaints.extend(unsafety::check(&sources, &rules));
    complaints.extend(arrows::check(root, &sources, &rules)?);
    complaints.extend(text::check(&sources));
    for complaint in &complaints {
        eprintln!("tidy: {complaint}");
    }
    if !complaints.is_empty() {
        bail!("{} complaints", complaints.len());
    }
    crate::sh(root, "cargo", &["fmt", "--all", "--check"])?;
    if !quick {
        crate::sh(root, "cargo", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    }
    eprintln!("tidy: {} files in order", files.len());
    Ok(())
}

/// Files that git tracks or would track.
fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("git ls-files")?;
    let list = String::from_utf8(output.stdout)?;
    Ok(list.lines().map(PathBuf::from).filter(|p| root.join(p).is_file()).collect())
}

/// Text files only; objects and captures are no sources.
fn read(root: &Path, path: &Path) -> Option<Source> {
    let text = std::fs::read_to_string(root.join(path)).ok()?;
    Some(Source { path: path.to_str()?.to_owned(), text })
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}
