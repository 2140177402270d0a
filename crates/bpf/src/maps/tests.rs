//! Maps as their users see them. Each type's error codes are those that the running kernel answered.

mod concurrency;
mod errors;
mod fds;
mod lru;
mod programs;
mod rings;

use std::sync::Arc;

use uapi::Errno;
use uapi::bpf::MapType;

use super::*;
use crate::insn::Insn;
use crate::object::{AttachType, ProgramSpec};
use crate::vm::{Program, Symbols};

fn cx(cpus: u32) -> MapContext {
    MapContext { cpus, ..MapContext::default() }
}

fn try_create(def: MapDef) -> Result<Arc<Map>, Errno> {
    Ok(Map::create(def, &cx(2))?)
}

fn create(map_type: MapType, key: u32, value: u32, n: u32, flags: u32) -> Arc<Map> {
    Map::create(MapDef::new(map_type, key, value, n).flags(flags), &cx(2)).unwrap()
}

fn open(map_type: MapType, key: u32, value: u32, n: u32, flags: u32) -> MapFd {
    create(map_type, key, value, n, flags).open()
}

fn k(n: u32) -> [u8; 4] {
    n.to_le_bytes()
}

fn q(n: u64) -> [u8; 8] {
    n.to_le_bytes()
}

/// A program that can be put into maps.
fn program(id: u32, attach_type: AttachType, frags: bool) -> Arc<Program> {
    let code = vec![Insn::new(0xb7, 0, 0, 0, 2), Insn::new(0x95, 0, 0, 0, 0)];
    let mut spec = ProgramSpec::bare("p", code);
    (spec.attach_type, spec.frags) = (attach_type, frags);
    let symbols = Symbols { helper: |_| None, kfunc: |_| None };
    Arc::new(Program::link(&spec, id, &[], symbols).unwrap())
}

/// Devices 1 to 9; programs, maps and sockets by number.
#[derive(Default)]
struct Files {
    programs: Vec<(i32, Arc<Program>)>,
    maps: Vec<(i32, Arc<Map>)>,
    sockets: Vec<(i32, Object)>,
}

impl Refs for Files {
    fn has_device(&self, ifindex: u32) -> bool {
        (1..10).contains(&ifindex)
    }

    fn program(&self, fd: i32) -> Result<Arc<Program>, Errno> {
        self.programs.iter().find(|(n, _)| *n == fd).map(|(_, p)| p.clone()).ok_or(Errno::EBADF)
    }

    fn map(&self, fd: i32) -> Result<Arc<Map>, Errno> {
        self.maps.iter().find(|(n, _)| *n == fd).map(|(_, m)| m.clone()).ok_or(Errno::EBADF)
    }

    fn socket(&self, fd: i32) -> Result<Object, Errno> {
        self.sockets.iter().find(|(n, _)| *n == fd).map(|(_, s)| s.clone()).ok_or(Errno::EBADF)
    }
}
