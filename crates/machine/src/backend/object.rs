//! [`EngineObject`]: maps and programs that have been loaded into the engine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bpf::helpers::Timers;
use bpf::host::Host;
use bpf::kfuncs::Connection;
use bpf::maps::{Map, MapFd};
use bpf::object::{ObjectSpec, SlotRef};
use bpf::vm::Program;
use control::{
    EngineKind, LoadError, Loaded, MapInfo, OutputEvent, ProgramInfo, TestRun, TestRunError, TestRunOutput,
};
use uapi::Errno;
use uapi::bpf::MapType;

use super::EngineBackend;
use super::maps::{error, is_perf};
use super::refs::EngineRefs;
use crate::SeededHost;
use crate::host::HostEvent;
use crate::test_run::Runner;

/// An object in the engine. Dropping it drops its maps and programs.
pub struct EngineObject {
    maps: Vec<MapFd>,
    map_infos: Vec<MapInfo>,
    programs: Vec<Arc<Program>>,
    program_infos: Vec<ProgramInfo>,
    refs: EngineRefs,
    host: SeededHost,
    runner: Runner,
    /// By program; empty if they are interpreted.
    compile_times: Vec<Duration>,
    warnings: Vec<String>,
}

/// Instructions after which a run of a program that was not verified is stopped.
const UNVERIFIED_FUEL: u64 = 1 << 28;

impl EngineObject {
    pub(super) fn new(
        backend: &EngineBackend,
        spec: &ObjectSpec,
        maps: Vec<Arc<Map>>,
        programs: Vec<(Arc<Program>, ProgramInfo)>,
        unverified: bool,
    ) -> Self {
        let by_number = |id: u32| i32::try_from(id).unwrap_or(i32::MAX);
        let infos = spec.maps.iter().zip(&maps);
        let map_infos =
            infos.map(|(s, m)| MapInfo { name: s.name.clone(), def: m.def().clone(), id: m.id() });
        let refs = EngineRefs {
            net: backend.net.clone(),
            maps: maps.iter().map(|m| (by_number(m.id()), m.clone())).collect::<BTreeMap<_, _>>(),
            programs: programs.iter().map(|(p, i)| (by_number(i.id), p.clone())).collect(),
            sockets: backend.sockets.clone(),
            watched: Mutex::default(),
        };
        let map_infos = map_infos.collect();
        let host = SeededHost::new(backend.seed, backend.net.clone());
        if let Some(timers) = host.timers() {
            maps.iter().for_each(|map| map.on_free_fields(Timers::canceller(&timers)));
        }
        let (programs, program_infos) = programs.into_iter().unzip();
        Self {
            maps: maps.iter().map(Map::open).collect(),
            map_infos,
            programs,
            program_infos,
            refs,
            host,
            runner: if unverified { Runner::with_fuel(UNVERIFIED_FUEL) } else { Runner::new() },
            compile_times: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Notes how long each program took to compile.
    pub(super) fn with_compile_times(mut self, compile_times: Vec<Duration>) -> Self {
        self.compile_times = compile_times;
        self
    }

    /// Notes what the user should know.
    pub(super) fn with_warning(mut self, warning: String) -> Self {
        self.warnings.push(warning);
        self
    }

    /// How long it took to compile the program of a name; `None` if it is interpreted.
    #[must_use]
    pub fn compile_time(&self, name: &str) -> Option<Duration> {
        let at = self.program_infos.iter().position(|p| p.name == name)?;
        self.compile_times.get(at).copied()
    }

    /// Fills maps of maps and program arrays as the object's initialisers say, and gives each CPU a ring in
    /// perf event arrays.
    pub(super) fn fill_slots(&self, spec: &ObjectSpec) -> Result<(), LoadError> {
        for (map_spec, map) in spec.maps.iter().zip(&self.maps) {
            if is_perf(map.map()) {
                for cpu in 0..map.map().def().max_entries.min(map.map().cpus()) {
                    let number = cpu.to_le_bytes();
                    map.update_with(&self.refs, &number, &number, 0)
                        .map_err(|errno| error(map_spec, errno, "its rings"))?;
                }
            }
            for (key, slot) in map_spec.contents.slots() {
                let number = match slot {
                    SlotRef::Map(index) => self.map_infos.get(*index).map(|m| m.id),
                    SlotRef::Program(name) => {
                        self.program_infos.iter().find(|p| p.name == *name).map(|p| p.id)
                    }
                };
                let Some(number) = number else {
                    return Err(error(
                        map_spec,
                        Errno::ENOENT,
                        &format!("slot {key} names what is not there"),
                    ));
                };
                map.update_with(&self.refs, &key.to_le_bytes(), &number.to_le_bytes(), 0)
                    .map_err(|errno| error(map_spec, errno, &format!("slot {key}")))?;
            }
        }
        Ok(())
    }

    /// The program of a name.
    #[must_use]
    pub fn program(&self, name: &str) -> Option<&Arc<Program>> {
        let at = self.program_infos.iter().position(|p| p.name == name)?;
        self.programs.get(at)
    }

    /// How long batches of `n` copies of a packet take through a compiled program; see
    /// [`Runner::time_batches`].
    ///
    /// # Errors
    ///
    /// As there; `ENOENT` for a program that is not loaded.
    pub fn time_batches(
        &mut self,
        program: &str,
        request: &TestRun,
        n: usize,
    ) -> Result<Duration, TestRunError> {
        let Some(program) = self.program(program).cloned() else {
            let reason = format!("no program {program:?} is loaded");
            return Err(TestRunError { errno: Errno::ENOENT, reason });
        };
        self.runner.time_batches(&program, &mut self.host, request, n)
    }

    fn map(&self, index: usize) -> Result<&MapFd, Errno> {
        self.maps.get(index).ok_or(Errno::EBADF)
    }

    fn position_of(&self, map_id: u32) -> Option<usize> {
        self.map_infos.iter().position(|m| m.id == map_id)
    }

    fn ringbuf_events(&self, out: &mut Vec<OutputEvent>) {
        for (map, fd) in self.maps.iter().enumerate() {
            if let Some(ring) = fd.map().ringbuf() {
                out.extend(
                    std::iter::from_fn(|| ring.consume()).map(|data| OutputEvent::Ringbuf { map, data }),
                );
            }
        }
    }

    fn host_event(&self, event: HostEvent) -> Option<OutputEvent> {
        Some(match event {
            HostEvent::Trace(line) => OutputEvent::Trace(line),
            HostEvent::Perf { map_id, cpu, data } => {
                OutputEvent::Perf { map: self.position_of(map_id)?, cpu, data }
            }
        })
    }
}

impl Loaded for EngineObject {
    fn programs(&self) -> &[ProgramInfo] {
        &self.program_infos
    }

    fn maps(&self) -> &[MapInfo] {
        &self.map_infos
    }

    fn engine(&self) -> EngineKind {
        if self.compile_times.is_empty() { EngineKind::Interp } else { EngineKind::Jit }
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn test_run(&mut self, program: &str, request: &TestRun) -> Result<TestRunOutput, TestRunError> {
        let Some(program) = self.program(program).cloned() else {
            let reason = format!("no program {program:?} is loaded");
            return Err(TestRunError { errno: Errno::ENOENT, reason });
        };
        if !request.hold_timers {
            self.runner.run_timers(&mut self.host, request.time_ns).map_err(|fault| TestRunError {
                errno: Errno::EFAULT,
                reason: format!("a timer's callback: {fault}"),
            })?;
        }
        self.runner.test_run(&program, &mut self.host, request)
    }

    fn map_lookup(&self, map: usize, key: &[u8]) -> Result<Vec<u8>, Errno> {
        self.map(map)?.lookup_elem(key, 0)
    }

    fn map_update(&self, map: usize, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        let map = self.map(map)?;
        map.update_with(&self.refs, key, value, flags)?;
        if map.map().def().map_type == MapType::Xskmap {
            self.refs.watch_socket(map.map(), value);
        }
        Ok(())
    }

    fn map_delete(&self, map: usize, key: &[u8]) -> Result<(), Errno> {
        self.map(map)?.delete_elem(key)
    }

    fn map_next_key(&self, map: usize, key: Option<&[u8]>) -> Result<Vec<u8>, Errno> {
        self.map(map)?.get_next_key(key)
    }

    fn connections(&self) -> Vec<Connection> {
        self.host.connections()
    }

    fn take_events(&mut self) -> Vec<OutputEvent> {
        let mut events = Vec::new();
        self.ringbuf_events(&mut events);
        let sent = self.host.take_events();
        events.extend(sent.into_iter().filter_map(|e| self.host_event(e)));
        events
    }
}
