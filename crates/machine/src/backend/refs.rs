//! What numbers mean that user space writes into maps.

use std::collections::BTreeMap;
use std::sync::Arc;

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

/// What stands in the slots of perf event arrays: samples go to the host's event list.
pub(super) struct PerfRing;

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
        if fd >= 0 { Ok(Arc::new(PerfRing)) } else { Err(Errno::EBADF) }
    }
}
