//! [`KernelBackend`]: an [`ObjectSpec`] becomes maps and programs of the running kernel.
//!
//! The order is libbpf's: type information, maps with their contents, programs, what program arrays hold.
//! `btf` makes the object's types acceptable to the kernel, `maps` creates maps, `program` resolves and
//! loads programs, `script` puts recorded answers in the place of clocks and random numbers, `refusal`
//! says in words what the kernel says in numbers, `object` runs what was loaded and `events` reads what
//! it sends.

mod btf;
mod events;
mod maps;
mod object;
mod program;
mod refusal;
mod script;
#[cfg(test)]
mod tests;

use bpf::object::{ObjectSpec, ProgramSpec, SlotRef};
use control::{Backend, LoadError, LoadOptions, Loaded, ProgramInfo, Verification};

use crate::sys::{self, Map, MapArgs, Prog};

use self::btf::KernelBtf;
use self::events::Events;
pub use self::object::KernelObject;
use self::script::Script;

/// The running kernel as a home of XDP programs. Objects live in the network namespace of the thread that
/// loads them; nothing is pinned, so all of it ends with the [`Loaded`] value.
#[derive(Debug)]
pub struct KernelBackend {
    /// Nobody makes one but [`KernelBackend::new`], which has looked whether the kernel can be used.
    _checked: (),
}

impl KernelBackend {
    /// Looks whether the kernel can be used by this process.
    ///
    /// # Errors
    ///
    /// [`LoadError::Unavailable`] with what is missing: a capability, or bpf(2) itself.
    pub fn new() -> Result<Self, LoadError> {
        refusal::check_capabilities()?;
        // Kernels before 5.11 count maps against this limit; without the right to raise it, creating a
        // map says so.
        if Map::create(&MapArgs::default()).is_err() {
            let _ = sys::raise_memlock_limit();
            Map::create(&MapArgs::default()).map_err(refusal::unavailable)?;
        }
        Ok(Self { _checked: () })
    }
}

impl Backend for KernelBackend {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn possible_cpus(&self) -> u32 {
        sys::possible_cpus()
    }

    fn load(&mut self, spec: &ObjectSpec, options: &LoadOptions) -> Result<Box<dyn Loaded>, LoadError> {
        KernelObject::load(spec, options).map(|object| Box::new(object) as Box<dyn Loaded>)
    }

    fn verify(
        &mut self,
        spec: &ObjectSpec,
        program: &str,
        log_level: u32,
    ) -> Result<Verification, LoadError> {
        let named = spec.programs.iter().find(|p| p.name == program);
        let program = named.ok_or_else(|| refusal::no_program(program))?;
        let mut warnings = Vec::new();
        let btf = KernelBtf::load(spec, false, &mut warnings);
        let maps = maps::create_all(spec, btf.as_ref(), &mut warnings)?;
        maps::fill_map_slots(spec, &maps)?;
        let loader = program::Loader { spec, maps: &maps, btf: btf.as_ref(), script: None };
        loader.verify(program, log_level)
    }
}

impl KernelObject {
    /// Creates the maps of an object and loads programs of it.
    ///
    /// # Errors
    ///
    /// What could not be created or loaded, and why.
    pub fn load(spec: &ObjectSpec, options: &LoadOptions) -> Result<Self, LoadError> {
        let wanted = spec.programs_with_slots(&options.programs).map_err(refusal::no_program)?;
        let mut warnings = Vec::new();
        let script = if options.scripted { Some(Script::new()?) } else { None };
        let btf = KernelBtf::load(spec, script.is_some(), &mut warnings);
        let maps = maps::create_all(spec, btf.as_ref(), &mut warnings)?;
        maps::fill_map_slots(spec, &maps)?;
        let mut loader = program::Loader { spec, maps: &maps, btf: btf.as_ref(), script: script.as_ref() };
        let mut programs = Vec::with_capacity(wanted.len());
        for program in wanted {
            let prog = loader.load(program, &mut warnings)?;
            let info =
                ProgramInfo { name: program.name.clone(), section: program.section.clone(), id: prog.id() };
            programs.push((info, prog));
        }
        fill_program_slots(spec, &maps, &programs)?;
        let events = Events::open(spec, &maps, &mut warnings);
        Ok(Self::new(spec, maps, programs, events, script, warnings))
    }
}

/// What the kernel said of one program.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Program.
    pub program: String,
    /// The verifier's log, or its errno and log; a sentence where the program could not be submitted.
    pub outcome: Result<Result<String, (uapi::Errno, String)>, String>,
    /// Time that the system call took, nanoseconds.
    pub elapsed_ns: u64,
}

/// Submits programs of an object to the kernel's verifier, one by one, and unloads them again.
///
/// # Errors
///
/// A map of the object could not be created.
pub fn verdicts(
    spec: &ObjectSpec,
    programs: &[&ProgramSpec],
    log_level: u32,
) -> Result<Vec<Verdict>, LoadError> {
    let mut warnings = Vec::new();
    let btf = KernelBtf::load(spec, false, &mut warnings);
    let maps = maps::create_all(spec, btf.as_ref(), &mut warnings)?;
    let loader = program::Loader { spec, maps: &maps, btf: btf.as_ref(), script: None };
    Ok(programs
        .iter()
        .map(|program| {
            let started = std::time::Instant::now();
            let outcome = loader.verdict(program, log_level);
            let elapsed_ns = started.elapsed().as_nanos() as u64;
            Verdict { program: program.name.clone(), outcome, elapsed_ns }
        })
        .collect())
}

/// Puts loaded programs into the program arrays that name them.
fn fill_program_slots(
    spec: &ObjectSpec,
    maps: &[Map],
    programs: &[(ProgramInfo, Prog)],
) -> Result<(), LoadError> {
    use std::os::fd::{AsFd, AsRawFd};
    for (map_spec, map) in spec.maps.iter().zip(maps) {
        for (key, slot) in map_spec.contents.slots() {
            let SlotRef::Program(name) = slot else { continue };
            let Some((_, prog)) = programs.iter().find(|(info, _)| info.name == *name) else { continue };
            let fd = prog.as_fd().as_raw_fd();
            map.update(&key.to_le_bytes(), &fd.to_le_bytes(), 0)
                .map_err(|errno| refusal::slot(map_spec, *key, name, errno))?;
        }
    }
    Ok(())
}
