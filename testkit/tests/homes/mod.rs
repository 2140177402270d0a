//! What tests that compare two homes share: random programs and all of `programs/`, the same packets in both.

use std::path::{Path, PathBuf};

use bpf::object::{AttachType, ObjectSpec};
use control::{Backend, LoadOptions, TestRun};
use testkit::differential::{Pair, PairError};
use testkit::generate::{self, Rng, program};

/// Packets for one random program, or between two looks at all maps.
const PACKETS_PER_ROUND: u64 = 100;
/// Programs that one home refuses, of a thousand, before that is a failure.
const REFUSED_PER_MILLE: u64 = 20;

/// A number from the environment.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |v| v.parse().unwrap_or_else(|e| panic!("{name}={v}: {e}")))
}

pub(crate) type Home = Box<dyn Backend>;

/// The two homes, the first of which answers clocks.
pub(crate) struct Homes {
    pub(crate) first: Home,
    pub(crate) second: Home,
    pub(crate) ifindexes: Vec<u32>,
    /// How programs are loaded.
    pub(crate) options: LoadOptions,
}

impl Homes {
    fn load(&mut self, spec: &ObjectSpec, programs: Vec<String>) -> Result<Pair, PairError> {
        let options = LoadOptions { programs, ..self.options.clone() };
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
pub(crate) fn compare_objects(homes: &mut Homes, seed: u64, packets: u64) {
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
pub(crate) fn compare_random_programs(homes: &mut Homes, seed: u64, packets: u64) {
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
