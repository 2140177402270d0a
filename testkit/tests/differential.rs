//! Random packets, contexts, map contents and programs, in two homes: all that a program can see and do must
//! be the same. A failure prints the seed that repeats it:
//!
//! ```text
//! EARLYBIRD_SEED=1234 cargo test -p earlybird-testkit --test differential
//! ```
//!
//! `EARLYBIRD_PACKETS` is the number of packets for each half of the test.

use std::path::{Path, PathBuf};

use bpf::object::{AttachType, ObjectSpec};
use control::{Backend, LoadOptions, TestRun};
use linux::KernelBackend;
use linux::testing::VethPair;
use testkit::differential::{Pair, PairError};
use testkit::generate::{self, Rng, program};

/// Packets of each half unless told otherwise.
const PACKETS: u64 = 60_000;
/// Packets for one random program, or between two looks at all maps.
const PACKETS_PER_ROUND: u64 = 100;
/// Programs that one home refuses, of a thousand, before that is a failure.
const REFUSED_PER_MILLE: u64 = 20;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |v| v.parse().unwrap_or_else(|e| panic!("{name}={v}: {e}")))
}

type Home = Box<dyn Backend>;

/// The two homes, the first of which answers clocks.
struct Homes {
    first: Home,
    second: Home,
    ifindexes: Vec<u32>,
}

impl Homes {
    fn load(&mut self, spec: &ObjectSpec, programs: Vec<String>) -> Result<Pair, PairError> {
        let options = LoadOptions { programs, scripted: true, unverified: true, ..LoadOptions::default() };
        Pair::load([self.first.as_mut(), self.second.as_mut()], spec, &options)
    }
}

/// Some rounds: changes of maps, packets, and a look at all maps.
fn round(
    rng: &mut Rng,
    homes: &Homes,
    pair: &mut Pair,
    spec: &ObjectSpec,
    programs: &[&str],
) -> Result<u64, String> {
    let count = rng.index(24);
    for change in generate::changes(rng, spec, homes.second.possible_cpus(), count) {
        pair.change(&change)?;
    }
    for number in 0..PACKETS_PER_ROUND {
        let program = rng.pick(programs);
        let packet = generate::packet(rng);
        let (ctx, mut data) = generate::context(rng, packet.len(), &homes.ifindexes);
        data.extend(packet);
        let request = TestRun {
            data,
            ctx,
            repeat: if rng.one_in(50) { 3 } else { 1 },
            time_ns: 1_000_000_000_000 + rng.below(1 << 40),
            ..TestRun::default()
        };
        pair.run(program, &request).map_err(|what| {
            format!("program {program}, packet {number} of the round: {what}\n{request:x?}")
        })?;
    }
    pair.compare_maps()?;
    Ok(PACKETS_PER_ROUND)
}

fn programs_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../programs")
}

fn objects() -> Vec<ObjectSpec> {
    let mut files: Vec<_> =
        std::fs::read_dir(programs_folder()).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.to_string_lossy().ends_with(".bpf.o"));
    files.sort();
    let target = linux::host::target();
    let parse = |f: &PathBuf| {
        let name = f.file_name().unwrap().to_string_lossy().into_owned();
        ObjectSpec::parse(&std::fs::read(f).unwrap(), &name, &target).unwrap()
    };
    files.iter().map(parse).collect()
}

/// Every program of `programs/`.
fn compare_objects(homes: &mut Homes, seed: u64, packets: u64) {
    let specs = objects();
    let rounds = packets / PACKETS_PER_ROUND / specs.len() as u64 + 1;
    let mut total = 0;
    for spec in &specs {
        let of_type = spec.programs.iter().filter(|p| p.attach_type == AttachType::Xdp);
        let names: Vec<&str> = of_type.map(|p| p.name.as_str()).collect();
        let owned = names.iter().map(|n| (*n).to_owned()).collect();
        let mut pair = homes.load(spec, owned).unwrap_or_else(|e| panic!("{}: {e:?}", spec.name));
        for number in 0..rounds {
            let round_seed = seed ^ number;
            total += round(&mut Rng::new(round_seed), homes, &mut pair, spec, &names)
                .unwrap_or_else(|e| panic!("{}, round {number}, EARLYBIRD_SEED={seed}: {e}", spec.name));
        }
    }
    println!("{total} packets over {} objects", specs.len());
}

/// Random programs, each with some packets.
fn compare_random_programs(homes: &mut Homes, seed: u64, packets: u64) {
    let rounds = packets / PACKETS_PER_ROUND;
    let (mut total, mut refused) = (0, Vec::new());
    for number in 0..rounds {
        let round_seed = seed.wrapping_add(number);
        let failed = |e: &str| panic!("program {number}, EARLYBIRD_SEED={round_seed}: {e}");
        let mut rng = Rng::new(round_seed);
        let spec = program::object(&mut rng);
        let mut pair = match homes.load(&spec, vec![program::MAIN.to_owned()]) {
            Ok(pair) => pair,
            Err(PairError::Both(_)) => continue,
            Err(PairError::One(home, e)) => {
                refused.push(format!("{home}, EARLYBIRD_SEED={round_seed}: {e}"));
                continue;
            }
        };
        total += round(&mut rng, homes, &mut pair, &spec, &[program::MAIN]).unwrap_or_else(|e| failed(&e));
    }
    println!("{total} packets over {rounds} random programs, {} refused", refused.len());
    let limit = rounds * REFUSED_PER_MILLE / 1000;
    assert!(refused.len() as u64 <= limit, "{} refused:\n{}", refused.len(), refused.join("\n"));
}

/// Both halves, in a network namespace of their own.
fn compare(make: fn() -> (Home, Home)) {
    let pair = VethPair::new().unwrap();
    let (seed, packets) = (setting("EARLYBIRD_SEED", 1), setting("EARLYBIRD_PACKETS", PACKETS));
    let ifindexes = vec![1, pair.ifindex0, pair.ifindex1];
    let run = || {
        let (first, second) = make();
        let mut homes = Homes { first, second, ifindexes: ifindexes.clone() };
        compare_random_programs(&mut homes, seed, packets);
        compare_objects(&mut homes, seed, packets);
    };
    pair.netns.run(run).unwrap();
}

fn kernel() -> Home {
    Box::new(KernelBackend::new().unwrap())
}

/// The kernel agrees with itself: what is compared depends on nothing but the inputs.
#[test]
fn kernel_agrees_with_itself() {
    linux::needs_kernel!();
    compare(|| (kernel(), kernel()));
}
