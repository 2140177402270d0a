//! Compiled code against the checked interpreter: random programs and all of `programs/`, with random packets
//! and changes of maps. Both homes are the engine, so neither root nor a kernel is needed.
//!
//! ```text
//! EARLYBIRD_SEED=1234 cargo test -p earlybird-testkit --test compiled
//! ```
//!
//! `EARLYBIRD_PACKETS` is the number of packets for each half of the test.

mod fast_paths;
mod homes;

use std::sync::Arc;

use bpf::object::ObjectSpec;
use control::{
    Backend, EngineKind, LoadError, LoadOptions, Loaded, MapInfo, OutputEvent, ProgramInfo, TestRun,
    TestRunError, TestRunOutput, Verification,
};
use homes::{Home, Homes, compare_objects, compare_random_programs, setting};
use machine::{EngineBackend, NetConfig, NetTables};
use uapi::Errno;

/// Packets of each half unless told otherwise.
const PACKETS: u64 = 20_000;

/// The engine with one way to run programs.
struct Engine {
    backend: EngineBackend,
    kind: EngineKind,
}

impl Engine {
    fn home(kind: EngineKind) -> Home {
        Box::new(Self { backend: Self::backend(), kind })
    }

    /// The engine, which knows the kernel's types if there is one.
    fn backend() -> EngineBackend {
        let net = NetTables::new(&NetConfig::default()).expect("the default network contradicts nothing");
        let mut backend = EngineBackend::new(2, 1, Arc::new(net));
        backend.kernel_btf = linux::host::target().btf;
        backend
    }
}

impl Backend for Engine {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn possible_cpus(&self) -> u32 {
        self.backend.possible_cpus()
    }

    fn load(&mut self, spec: &ObjectSpec, options: &LoadOptions) -> Result<Box<dyn Loaded>, LoadError> {
        let loaded = self.backend.load(spec, &LoadOptions { engine: self.kind, ..options.clone() })?;
        Ok(if options.scripted { loaded } else { Box::new(Unscripted(loaded)) })
    }

    fn verify(
        &mut self,
        spec: &ObjectSpec,
        program: &str,
        log_level: u32,
    ) -> Result<Verification, LoadError> {
        self.backend.verify(spec, program, log_level)
    }
}

/// Compiled code that is not scripted makes fewer calls than the interpreter, which needs no script: the same
/// seed and time give the same answers.
struct Unscripted(Box<dyn Loaded>);

impl Loaded for Unscripted {
    fn programs(&self) -> &[ProgramInfo] {
        self.0.programs()
    }

    fn maps(&self) -> &[MapInfo] {
        self.0.maps()
    }

    fn test_run(&mut self, program: &str, request: &TestRun) -> Result<TestRunOutput, TestRunError> {
        self.0.test_run(program, request).map(|output| TestRunOutput { scripted: Vec::new(), ..output })
    }

    fn map_lookup(&self, map: usize, key: &[u8]) -> Result<Vec<u8>, Errno> {
        self.0.map_lookup(map, key)
    }

    fn map_update(&self, map: usize, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        self.0.map_update(map, key, value, flags)
    }

    fn map_delete(&self, map: usize, key: &[u8]) -> Result<(), Errno> {
        self.0.map_delete(map, key)
    }

    fn map_next_key(&self, map: usize, key: Option<&[u8]>) -> Result<Vec<u8>, Errno> {
        self.0.map_next_key(map, key)
    }

    fn take_events(&mut self) -> Vec<OutputEvent> {
        self.0.take_events()
    }
}

fn homes(scripted: bool) -> Homes {
    let options = LoadOptions { scripted, ..LoadOptions::default() };
    let (first, second) = (Engine::home(EngineKind::Interp), Engine::home(EngineKind::Jit));
    Homes { first, second, ifindexes: vec![1, 2], options, hold_timers: false }
}

#[test]
fn random_programs_run_the_same_compiled() {
    let (seed, packets) = (setting("EARLYBIRD_SEED", 1), setting("EARLYBIRD_PACKETS", PACKETS));
    compare_random_programs(&|| homes(false), seed, packets);
    compare_random_programs(&|| homes(true), !seed, packets / 4);
}

#[test]
fn our_programs_run_the_same_compiled() {
    let (seed, packets) = (setting("EARLYBIRD_SEED", 1), setting("EARLYBIRD_PACKETS", PACKETS));
    compare_objects(&|| homes(false), seed, packets);
}
