//! Random programs against the verifier's claims; see `testkit::soundness`. A failure prints the seed:
//!
//! ```text
//! EARLYBIRD_SEED=1234 EARLYBIRD_PROGRAMS=1 cargo test -p earlybird-testkit --test soundness
//! ```

use testkit::soundness::Campaign;

/// Programs made unless told otherwise.
const PROGRAMS: u64 = 10_000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |v| v.parse().unwrap_or_else(|e| panic!("{name}={v}: {e}")))
}

#[test]
fn what_is_accepted_does_what_was_claimed() {
    let mut campaign = Campaign::new(linux::host::vmlinux().ok(), 8);
    let first = setting("EARLYBIRD_SEED", 0);
    for seed in first..first + setting("EARLYBIRD_PROGRAMS", PROGRAMS) {
        campaign.try_seed(seed).unwrap_or_else(|finding| panic!("{finding}"));
    }
    println!("{}", campaign.report());
}
