//! [`EngineBackend`]: an [`ObjectSpec`] becomes maps and programs of the engine.
//!
//! The order is libbpf's: maps with what their data sections hold, programs, what program arrays and
//! maps of maps hold, freezing. `object` runs what was loaded.

mod maps;
mod object;
mod refs;
mod verify;

use std::sync::Arc;

use bpf::btf::Btf;
use bpf::maps::Map;
use bpf::object::{ObjectSpec, ProgramSpec};
use bpf::vm::{Program, Symbols};
use control::{Backend, EngineKind, LoadError, LoadOptions, Loaded, ProgramInfo, Verification};
use uapi::Errno;

use crate::NetTables;

pub use object::EngineObject;

/// The engine as a home of XDP programs.
#[derive(Clone, Debug)]
pub struct EngineBackend {
    /// CPUs that per-CPU maps have room for, at least 1.
    pub cpus: u32,
    /// Seed of random numbers, secrets and the order of hash tables.
    pub seed: u64,
    /// Devices, routes, neighbours and sockets.
    pub net: Arc<NetTables>,
    /// Bytes that each map may take at most.
    pub memory_limit: u64,
    /// Types of the kernel that is stood in for, which kfuncs and kernel pointers are verified against.
    pub kernel_btf: Option<Arc<Btf>>,
    next_id: u32,
}

impl EngineBackend {
    /// A host with this many CPUs and this network.
    #[must_use]
    pub fn new(cpus: u32, seed: u64, net: Arc<NetTables>) -> Self {
        Self { cpus: cpus.max(1), seed, net, memory_limit: 16 << 30, kernel_btf: None, next_id: 0 }
    }

    fn new_id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }
}

impl Backend for EngineBackend {
    fn name(&self) -> &'static str {
        "engine"
    }

    fn possible_cpus(&self) -> u32 {
        self.cpus
    }

    fn load(&mut self, spec: &ObjectSpec, options: &LoadOptions) -> Result<Box<dyn Loaded>, LoadError> {
        let maps = maps::create_all(self, spec)?;
        let mut programs = Vec::new();
        for wanted in spec.programs_with_slots(&options.programs).map_err(no_program)? {
            if !options.unverified {
                verify::check(self, spec, wanted)?;
            }
            let id = self.new_id();
            programs.push((link(wanted, id, &maps, options)?, info(wanted, id)));
        }
        let object = EngineObject::new(self, spec, maps, programs, options.unverified);
        object.fill_slots(spec)?;
        object.freeze(spec)?;
        Ok(Box::new(object))
    }

    fn verify(
        &mut self,
        spec: &ObjectSpec,
        program: &str,
        log_level: u32,
    ) -> Result<Verification, LoadError> {
        let named = spec.programs.iter().find(|p| p.name == program);
        Ok(verify::verify(self, spec, named.ok_or_else(|| no_program(program))?, log_level))
    }
}

fn no_program(name: &str) -> LoadError {
    LoadError::Program {
        program: name.to_owned(),
        errno: Errno::ENOENT,
        reason: "the object has no such program".to_owned(),
        log: String::new(),
    }
}

fn info(spec: &ProgramSpec, id: u32) -> ProgramInfo {
    ProgramInfo { name: spec.name.clone(), section: spec.section.clone(), id }
}

fn link(
    spec: &ProgramSpec,
    id: u32,
    maps: &[Arc<Map>],
    options: &LoadOptions,
) -> Result<Arc<Program>, LoadError> {
    let refused =
        |errno, reason| LoadError::Program { program: spec.name.clone(), errno, reason, log: String::new() };
    if options.engine == EngineKind::Jit {
        let reason = "the engine has no compiler yet; run it in the interpreter".to_owned();
        return Err(refused(Errno::EOPNOTSUPP, reason));
    }
    let symbols = Symbols { helper: bpf::helpers::helper, kfunc: bpf::kfuncs::kfunc };
    Program::link(spec, id, maps, symbols).map(Arc::new).map_err(|e| {
        let at = e.insn.map(|insn| format!("insn {insn}: ")).unwrap_or_default();
        refused(e.errno, format!("{at}{}", e.message))
    })
}
