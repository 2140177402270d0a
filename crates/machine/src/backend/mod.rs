//! [`EngineBackend`]: an [`ObjectSpec`] becomes maps and programs of the engine.
//!
//! The order is libbpf's: maps with what their data sections hold, frozen where that is constant, programs,
//! what program arrays and maps of maps hold. `object` runs what was loaded.

mod maps;
mod object;
mod refs;
mod verify;

use std::sync::Arc;
use std::time::Instant;

use ::xsk::engine::XskHost;
use bpf::btf::Btf;
use bpf::jit::JitError;
use bpf::maps::Map;
use bpf::object::{ObjectSpec, ProgramSpec};
use bpf::verifier::Verified;
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
    /// Whether to note which machine code is of which instruction ([`bpf::jit::Compiled::origins`]).
    pub listing: bool,
    /// AF_XDP sockets that xskmaps can hold.
    pub sockets: Option<XskHost>,
    next_id: u32,
}

impl EngineBackend {
    /// A host with this many CPUs and this network.
    #[must_use]
    pub fn new(cpus: u32, seed: u64, net: Arc<NetTables>) -> Self {
        Self {
            cpus: cpus.max(1),
            seed,
            net,
            memory_limit: 16 << 30,
            kernel_btf: None,
            listing: false,
            sockets: None,
            next_id: 0,
        }
    }

    fn new_id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    /// As [`Backend::load`], with all that the engine knows of what it loaded.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn load_object(
        &mut self,
        spec: &ObjectSpec,
        options: &LoadOptions,
    ) -> Result<EngineObject, LoadError> {
        let compiled = match options.engine {
            EngineKind::Interp => None,
            EngineKind::Auto if options.unverified => None,
            EngineKind::Jit | EngineKind::Auto => {
                let first_id = self.next_id;
                match self.load_as(spec, options, EngineKind::Jit)? {
                    Ok(object) => return Ok(object),
                    Err(refusal) if options.engine == EngineKind::Jit => {
                        let reason = format!("{refusal}; the interpreter runs it (--engine interp)");
                        return Err(refused(&refusal.program, Errno::EOPNOTSUPP, reason));
                    }
                    Err(refusal) => {
                        self.next_id = first_id;
                        Some(refusal)
                    }
                }
            }
        };
        let object = self.load_as(spec, options, EngineKind::Interp)?;
        let object = object.expect("nothing is compiled");
        Ok(match compiled {
            Some(refusal) => object.with_warning(format!("programs are interpreted: {refusal}")),
            None => object,
        })
    }

    /// Loads everything for one engine, because compiled programs and others cannot call each other. The inner
    /// error is of a program that cannot be compiled.
    fn load_as(
        &mut self,
        spec: &ObjectSpec,
        options: &LoadOptions,
        engine: EngineKind,
    ) -> Result<Result<EngineObject, NotCompiled>, LoadError> {
        let maps = maps::create_all(self, spec)?;
        let (mut programs, mut compile_times) = (Vec::new(), Vec::new());
        for wanted in spec.programs_with_slots(&options.programs).map_err(no_program)? {
            let verified = if options.unverified { None } else { Some(verify::check(self, spec, wanted)?) };
            let id = self.new_id();
            let mut program = link(wanted, id, &maps, verified)?;
            if engine == EngineKind::Jit {
                let started = Instant::now();
                let result =
                    if self.listing { program.compile_listed() } else { program.compile(options.scripted) };
                if let Err(why) = result {
                    return Ok(Err(NotCompiled { program: wanted.name.clone(), why }));
                }
                compile_times.push(started.elapsed());
            }
            programs.push((Arc::new(program), info(wanted, id)));
        }
        let object = EngineObject::new(self, spec, maps, programs, options.unverified);
        let object = object.with_compile_times(compile_times);
        object.fill_slots(spec)?;
        Ok(Ok(object))
    }
}

/// A program that the interpreter has to run.
#[derive(Debug, thiserror::Error)]
#[error("{program}: {why}")]
struct NotCompiled {
    program: String,
    why: JitError,
}

impl Backend for EngineBackend {
    fn name(&self) -> &'static str {
        "engine"
    }

    fn possible_cpus(&self) -> u32 {
        self.cpus
    }

    fn load(&mut self, spec: &ObjectSpec, options: &LoadOptions) -> Result<Box<dyn Loaded>, LoadError> {
        self.load_object(spec, options).map(|object| Box::new(object) as Box<dyn Loaded>)
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

fn refused(program: &str, errno: Errno, reason: String) -> LoadError {
    LoadError::Program { program: program.to_owned(), errno, reason, log: String::new() }
}

fn link(
    spec: &ProgramSpec,
    id: u32,
    maps: &[Arc<Map>],
    verified: Option<Verified>,
) -> Result<Program, LoadError> {
    let symbols = Symbols { helper: bpf::helpers::helper, kfunc: bpf::kfuncs::kfunc };
    let linked = match verified {
        Some(verified) => Program::link_verified(spec, id, maps, verified),
        None => Program::link(spec, id, maps, symbols),
    };
    linked.map_err(|e| {
        let at = e.insn.map(|insn| format!("insn {insn}: ")).unwrap_or_default();
        refused(&spec.name, e.errno, format!("{at}{}", e.message))
    })
}
