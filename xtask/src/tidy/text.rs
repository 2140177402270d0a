//! Text that has no place in the repository: paths of one machine, unfinished code, tests switched off.

use super::Source;

pub(super) fn check(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|s| !s.path.ends_with(".lock")) {
        // This file names what it looks for.
        if source.path == "xtask/src/tidy/text.rs" {
            continue;
        }
        for (i, line) in source.text.lines().enumerate() {
            if let Some(what) = objection(source, line) {
                complaints.push(format!("{}:{}: {what}", source.path, i + 1));
            }
        }
    }
    complaints
}

fn objection(source: &Source, line: &str) -> Option<String> {
    const MACHINE: [&str; 4] = ["/work/", "/root/", "/home/", "/farm/"];
    if let Some(path) = MACHINE.iter().find(|p| starts_path(line, p)) {
        return Some(format!("a path of one machine ({path})"));
    }
    const UNFINISHED: [&str; 4] = ["todo!(", "unimplemented!(", "#[ignore", "FIXME"];
    let found = UNFINISHED.iter().find(|u| source.is_rust() && line.contains(**u))?;
    Some(format!("unfinished or switched off ({found})"))
}

/// Whether an absolute path begins with this, as opposed to a folder of that name somewhere in one.
fn starts_path(line: &str, prefix: &str) -> bool {
    line.match_indices(prefix).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '_' | '.' | '-' | '}' | '/' | '$' | ')'))
    })
}
