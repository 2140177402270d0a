//! Random packets, contexts, map contents and programs, in two homes: all that a program can see and do must
//! be the same. A failure prints the seed that repeats it:
//!
//! ```text
//! EARLYBIRD_SEED=1234 cargo test -p earlybird-testkit --test differential
//! ```
//!
//! `EARLYBIRD_PACKETS` is the number of packets for each half of the test: the programs of `programs/`, and
//! random programs.

mod homes;

use control::LoadOptions;
use homes::{Home, Homes, compare_objects, compare_random_programs, setting};
use linux::KernelBackend;
use machine::EngineBackend;
use testkit::network::Network;

/// Packets of each half of the test against the engine, unless told otherwise.
const PACKETS: u64 = 100_000;
/// Packets of each half when the kernel is held against itself.
const PACKETS_KERNEL: u64 = 10_000;

/// How two homes are made, in a network and with a seed.
type MakePair = fn(&Network, u64) -> (Home, Home);

/// Both halves, in a network namespace of their own.
fn compare(make: MakePair, packets: u64) {
    let network = Network::new().unwrap();
    let (seed, packets) = (setting("EARLYBIRD_SEED", 1), setting("EARLYBIRD_PACKETS", packets));
    println!("EARLYBIRD_SEED={seed} EARLYBIRD_PACKETS={packets}");
    let homes = || {
        let (first, second) = make(&network, seed);
        let options = LoadOptions { scripted: true, unverified: true, ..LoadOptions::default() };
        Homes { first, second, ifindexes: network.ifindexes(), options, hold_timers: true }
    };
    let run = || {
        compare_objects(&homes, seed, packets);
        compare_random_programs(&homes, seed, packets);
    };
    network.veth.netns.run(run).unwrap();
}

fn kernel() -> Home {
    Box::new(KernelBackend::new().unwrap())
}

fn engine(network: &Network, seed: u64) -> Home {
    let mut engine = EngineBackend::new(linux::sys::possible_cpus(), seed, network.tables.clone());
    engine.kernel_btf = linux::host::vmlinux().ok();
    Box::new(engine)
}

#[test]
fn kernel_agrees_with_the_engine() {
    linux::needs_kernel!();
    compare(|network, seed| (engine(network, seed), kernel()), PACKETS);
}

/// What is compared depends on nothing but the inputs, or the test above would fail by chance.
#[test]
fn kernel_agrees_with_itself() {
    linux::needs_kernel!();
    compare(|_, _| (kernel(), kernel()), PACKETS_KERNEL);
}
