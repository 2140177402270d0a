//! Unsafe code lives in its rooms, and each of its files says why. (That each block proves itself is
//! clippy's `undocumented_unsafe_blocks`.)

use super::{Rules, Source};

pub(super) fn check(sources: &[Source], rules: &Rules) -> Vec<String> {
    let rust = sources.iter().filter(|s| s.is_rust());
    rust.filter_map(|source| {
        let opted_in = source.text.lines().any(|l| {
            let l = l.trim_start();
            l.starts_with("#![allow(unsafe_code") || l.starts_with("#[allow(unsafe_code")
        });
        let in_room = rules.unsafe_rooms.iter().any(|room| source.path.starts_with(room.as_str()));
        match (opted_in, in_room, source.text.contains("UNSAFETY: ")) {
            (true, false, _) => {
                Some(format!("{}: unsafe code outside of its rooms (xtask/tidy.toml)", source.path))
            }
            (true, true, false) => {
                Some(format!("{}: allows unsafe code without `// UNSAFETY: why`", source.path))
            }
            _ => None,
        }
    })
    .collect()
}
