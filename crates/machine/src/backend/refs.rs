//! What numbers mean that user space writes into maps.

use std::collections::BTreeMap;
use std::sync::Arc;

use bpf::host::PerfEvent;
use bpf::maps::{Map, Object, Refs};
use bpf::vm::Program;
use uapi::Errno;

use crate::NetTables;

/// The engine has no file descriptors: where the kernel takes one, the number of a map or program stands, as
/// lookups show it.
pub(super) struct EngineRefs {
    pub(super) net: Arc<NetTables>,
    pub(super) maps: BTreeMap<i32, Arc<Map>>,
    pub(super) programs: BTreeMap<i32, Arc<Program>>,
}

impl Refs for EngineRefs {
    fn has_device(&self, ifindex: u32) -> bool {
        self.net.device(ifindex).is_some()
    }

    fn program(&self, fd: i32) -> Result<Arc<Program>, Errno> {
        self.programs.get(&fd).cloned().ok_or(Errno::EBADF)
    }

    fn map(&self, fd: i32) -> Result<Arc<Map>, Errno> {
        self.maps.get(&fd).cloned().ok_or(Errno::EBADF)
    }

    fn perf_event(&self, fd: i32) -> Result<Object, Errno> {
        // Each CPU has one ring, and its number is the CPU's.
        u32::try_from(fd).map(|cpu| Arc::new(PerfEvent { cpu }) as Object).map_err(|_| Errno::EBADF)
    }
}
