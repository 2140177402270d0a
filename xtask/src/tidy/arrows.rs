//! Crates depend on each other only along the arrows of ARCHITECTURE.md, and no Rust file is an orphan.

use std::path::Path;

use anyhow::{Context, Result};

use super::{Rules, Source};

pub(super) fn check(root: &Path, sources: &[Source], rules: &Rules) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    let apart = |path: &str| path.starts_with("fuzz/") || path.starts_with("peers/");
    for source in sources.iter().filter(|s| s.path.ends_with("/Cargo.toml") && !apart(&s.path)) {
        let manifest: toml::Table = source.text.parse().with_context(|| source.path.clone())?;
        let folder = source.path.trim_end_matches("/Cargo.toml").rsplit('/').next().unwrap_or_default();
        let Some(allowed) = rules.arrows.get(folder) else {
            complaints.push(format!("xtask/tidy.toml: no arrows for the crate {folder}"));
            continue;
        };
        let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table);
        let ours = dependencies.into_iter().flat_map(|d| d.keys()).filter(|d| rules.arrows.contains_key(*d));
        for dependency in ours.filter(|d| !allowed.contains(d)) {
            complaints.push(format!("{}: {folder} may not depend on {dependency}", source.path));
        }
    }
    complaints.extend(sources.iter().filter(|s| s.is_rust()).filter_map(|s| orphan(root, s)));
    Ok(complaints)
}

/// A file that no `mod` names is not compiled.
fn orphan(root: &Path, source: &Source) -> Option<String> {
    let (folder, file) = source.path.rsplit_once('/')?;
    let root_folder = ["/src", "/src/bin", "/tests", "/benches", "/examples", "/fuzz_targets"];
    let is_root = matches!(file, "main.rs" | "lib.rs" | "build.rs")
        || (!folder.ends_with("/src") && root_folder.iter().any(|f| folder.ends_with(f)));
    if is_root {
        return None;
    }
    let stem = file.trim_end_matches(".rs");
    let (name, parent) =
        if stem == "mod" { folder.rsplit_once('/').map(|(p, n)| (n, p))? } else { (stem, folder) };
    let candidates = [
        format!("{parent}/mod.rs"),
        format!("{parent}/lib.rs"),
        format!("{parent}/main.rs"),
        format!("{parent}.rs"),
    ];
    let siblings = std::fs::read_dir(root.join(parent)).ok()?.filter_map(|e| Some(e.ok()?.path()));
    let texts = candidates
        .iter()
        .map(|c| root.join(c))
        .chain(siblings)
        .filter_map(|p| std::fs::read_to_string(p).ok());
    let mut texts =
        texts.filter(|t| t.contains(&format!("mod {name};")) || t.contains(&format!("#[path = \"{file}\"]")));
    texts.next().is_none().then(|| format!("{}: no `mod {name};` names this file", source.path))
}
