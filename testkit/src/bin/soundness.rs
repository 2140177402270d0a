//! Random programs from a seed on, until one shows a fault of the verifier or so many were accepted:
//! `soundness SEED ACCEPTED`. Exit status 1 and the first line tell of a fault. For `cargo xtask mutants`,
//! which builds it together with verifiers that are wrong on purpose.

use std::process::ExitCode;

use testkit::soundness::Campaign;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u64>());
    let (Some(Ok(first)), Some(Ok(wanted)), None) = (args.next(), args.next(), args.next()) else {
        eprintln!("usage: soundness SEED ACCEPTED");
        return ExitCode::from(2);
    };
    let mut campaign = Campaign::new(linux::host::vmlinux().ok(), linux::sys::possible_cpus());
    let (mut seed, mut accepted) = (first, 0);
    while accepted < wanted {
        match campaign.try_seed(seed) {
            Ok(yes) => accepted += u64::from(yes),
            Err(finding) => {
                println!("after {accepted} accepted: {finding}");
                return ExitCode::FAILURE;
            }
        }
        seed += 1;
    }
    println!("{accepted} accepted");
    ExitCode::SUCCESS
}
