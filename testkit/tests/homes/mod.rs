//! What tests that compare two homes share: random programs and all of `programs/`, the same packets in both.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bpf::object::{AttachType, ObjectSpec};
use control::{Backend, LoadOptions, TestRun};
use testkit::differential::{Difference, Pair, PairError};
use testkit::generate::{self, Rng, program};

/// Packets for one random program, or between two looks at all maps.
const PACKETS_PER_ROUND: u64 = 100;
/// Programs that one home refuses, of a thousand, before that is a failure.
const REFUSED_PER_MILLE: u64 = 20;
/// Threads: with the kernel, most of a round is waiting for it to unload something.
const THREADS: usize = 8;

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
    /// The kernel's timers stand while they are compared.
    pub(crate) hold_timers: bool,
}

impl Homes {
    fn load(&mut self, spec: &ObjectSpec, programs: Vec<String>) -> Result<Pair, PairError> {
        let options = LoadOptions { programs, ..self.options.clone() };
        Pair::load([self.first.as_mut(), self.second.as_mut()], spec, &options)
    }
}

/// Makes homes, for each thread its own.
pub(crate) type Make<'a> = &'a (dyn Fn() -> Homes + Sync);

/// How closely a round is watched.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Watch {
    /// Maps are compared at its end.
    Loose,
    /// Maps are compared after each packet.
    Close,
}

/// A round: changes of maps, packets, and a look at all maps.
fn round(
    rng: &mut Rng,
    homes: &Homes,
    pair: &mut Pair,
    spec: &ObjectSpec,
    programs: &[&str],
    watch: Watch,
) -> Result<u64, Difference> {
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
            // Seldom: the kernel then patches its code twice and waits for all CPUs to see it.
            repeat: if rng.one_in(400) { 3 } else { 1 },
            time_ns: 1_000_000_000_000 + rng.below(1 << 40),
            hold_timers: homes.hold_timers,
            ..TestRun::default()
        };
        let mut ran = pair.run(program, &request).map(drop);
        if watch == Watch::Close || number + 1 == PACKETS_PER_ROUND {
            // Maps say best where a difference comes from.
            ran = match (ran, pair.compare_maps()) {
                (Err(d), Err(m)) => Err(Difference { what: format!("{d}\n{m}"), ..m }),
                (ran, maps) => ran.and(maps),
            };
        }
        ran.map_err(|d| Difference {
            what: format!("{program}, packet {number} of the round: {d}\n{}", show(&request)),
            ..d
        })?;
    }
    Ok(PACKETS_PER_ROUND)
}

/// A request in one line; its seed makes it again.
fn show(request: &TestRun) -> String {
    let hex: String = request.data.iter().map(|b| format!("{b:02x}")).collect();
    let (len, ctx, repeat) = (request.data.len(), request.ctx, request.repeat);
    format!("packet of {len} bytes, {ctx:?}, repeat {repeat}: {hex}")
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

/// Does jobs in several threads, each with homes of its own, up to the first that fails.
fn in_parallel(make: Make<'_>, jobs: u64, job: impl Fn(&mut Homes, u64) -> Result<(), String> + Sync) {
    let (next, failure) = (AtomicU64::new(0), Mutex::new(None));
    let work = || {
        let mut homes = make();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= jobs {
                break;
            }
            if let Err(e) = job(&mut homes, number) {
                next.store(jobs, Ordering::Relaxed);
                failure.lock().unwrap().get_or_insert(e);
            }
        }
    };
    std::thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(work))));
    if let Some(e) = failure.into_inner().unwrap() {
        panic!("{e}");
    }
}

/// Every program of `programs/`, in as many rounds each as make the packets.
pub(crate) fn compare_objects(make: Make<'_>, seed: u64, packets: u64) {
    let specs = objects();
    let rounds = (packets / PACKETS_PER_ROUND).div_ceil(specs.len() as u64);
    let total = AtomicU64::new(0);
    in_parallel(make, specs.len() as u64, |homes, number| {
        let spec = &specs[number as usize];
        let failed = |(number, d): (u64, Difference)| {
            format!("{}, round {number}, EARLYBIRD_SEED={seed}: {d}", spec.name)
        };
        let loose = all_rounds(homes, spec, seed, rounds, Watch::Loose);
        // Once more after a difference, to see which packet it was.
        let ran = loose.or_else(|e| all_rounds(homes, spec, seed, rounds, Watch::Close).and(Err(e)));
        total.fetch_add(ran.map_err(failed)?, Ordering::Relaxed);
        Ok(())
    });
    println!("{} packets over {} objects", total.into_inner(), specs.len());
}

/// Those that `BPF_PROG_TEST_RUN` takes.
fn xdp_programs(spec: &ObjectSpec) -> Vec<String> {
    let programs = spec.programs.iter().filter(|p| p.attach_type == AttachType::Xdp);
    programs.map(|p| p.name.clone()).collect()
}

/// All rounds of one object, or the number of the one that failed.
fn all_rounds(
    homes: &mut Homes,
    spec: &ObjectSpec,
    seed: u64,
    rounds: u64,
    watch: Watch,
) -> Result<u64, (u64, Difference)> {
    let programs = xdp_programs(spec);
    let names: Vec<&str> = programs.iter().map(String::as_str).collect();
    let pair = homes.load(spec, programs.clone());
    let mut pair = pair.map_err(|e| (0, format!("refused: {e:?}").into()))?;
    (0..rounds).try_fold(0, |total, number| {
        let mut rng = Rng::new(seed ^ number);
        let ran = round(&mut rng, homes, &mut pair, spec, &names, watch);
        ran.map(|n| total + n).map_err(|d| (number, d))
    })
}

/// Random programs, each with some packets.
pub(crate) fn compare_random_programs(make: Make<'_>, seed: u64, packets: u64) {
    let rounds = packets / PACKETS_PER_ROUND;
    let (total, refused) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    in_parallel(make, rounds, |homes, number| {
        let seed = seed.wrapping_add(number);
        match one_program(homes, seed, Watch::Loose) {
            Ok(packets) => drop(total.fetch_add(packets, Ordering::Relaxed)),
            Err(Trouble::Refused(why)) => refused.lock().unwrap().extend(why),
            Err(Trouble::Differs(d)) => {
                // Once more, to see which packet it was.
                let close = one_program(homes, seed, Watch::Close);
                let d = if let Err(Trouble::Differs(d)) = close { d } else { d };
                return Err(format!("random program, EARLYBIRD_SEED={seed}: {d}{}", origin(seed, &d)));
            }
        }
        Ok(())
    });
    let (total, refused) = (total.into_inner(), refused.into_inner().unwrap());
    println!("{total} packets over {rounds} random programs, {} refused by one home", refused.len());
    refused.iter().take(3).for_each(|why| println!("{why}"));
    let limit = (rounds * REFUSED_PER_MILLE / 1000).max(2);
    assert!(refused.len() as u64 <= limit, "{} refused:\n{}", refused.len(), refused.join("\n"));
}

/// Why a random program did not get through its round.
enum Trouble {
    /// By one home, with its reason, or by both.
    Refused(Option<String>),
    Differs(Difference),
}

fn one_program(homes: &mut Homes, seed: u64, watch: Watch) -> Result<u64, Trouble> {
    let mut rng = Rng::new(seed);
    let spec = program::object(&mut rng);
    let mut pair = match homes.load(&spec, vec![program::MAIN.to_owned()]) {
        Ok(pair) => pair,
        Err(PairError::Both(_)) => return Err(Trouble::Refused(None)),
        Err(PairError::One(home, e)) => {
            return Err(Trouble::Refused(Some(format!("{home}, EARLYBIRD_SEED={seed}: {e}"))));
        }
    };
    round(&mut rng, homes, &mut pair, &spec, &[program::MAIN], watch).map_err(Trouble::Differs)
}

/// The instructions that a difference comes from, where the trace tells.
fn origin(seed: u64, difference: &Difference) -> String {
    match difference.place {
        Some((map, offset)) if program::is_trace(map) => {
            format!("\n{}", program::listing(&program::object(&mut Rng::new(seed)), offset))
        }
        _ => String::new(),
    }
}
