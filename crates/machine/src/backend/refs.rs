//! What numbers mean that user space writes into maps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use ::xsk::engine::XskHost;
use bpf::host::PerfEvent;
use bpf::maps::{Map, Object, Refs};
use bpf::vm::Program;
use uapi::Errno;

use crate::NetTables;
use crate::xsk::map_object;

/// The engine has no file descriptors: where the kernel takes one, the number of a map or program stands, as
/// lookups show it.
pub(super) struct EngineRefs {
    pub(super) net: Arc<NetTables>,
    pub(super) maps: BTreeMap<i32, Arc<Map>>,
    pub(super) programs: BTreeMap<i32, Arc<Program>>,
    /// AF_XDP sockets, by their own numbers.
    pub(super) sockets: Option<XskHost>,
    /// Maps that a socket leaves when it is closed.
    pub(super) watched: Mutex<BTreeSet<(u32, i32)>>,
}

impl EngineRefs {
    /// A socket was put into a map: it leaves the map when it is closed, as in the kernel.
    pub(super) fn watch_socket(&self, map: &Arc<Map>, value: &[u8]) {
        let Some(fd) = value.first_chunk().copied().map(i32::from_le_bytes) else { return };
        let Some(Ok(socket)) = self.sockets.as_ref().map(|host| host.by_number(fd)) else { return };
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.insert((map.id(), fd)) {
            let (map, entry) = (Arc::downgrade(map), Arc::downgrade(&map_object(&socket)));
            socket.when_closed(move || {
                if let (Some(map), Some(entry)) = (map.upgrade(), entry.upgrade()) {
                    map.remove_socket(&entry);
                }
            });
        }
    }
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

    fn socket(&self, fd: i32) -> Result<Object, Errno> {
        let host = self.sockets.as_ref().ok_or(Errno::EBADF)?;
        Ok(map_object(&host.by_number(fd)?))
    }

    fn perf_event(&self, fd: i32) -> Result<Object, Errno> {
        // Each CPU has one ring, and its number is the CPU's.
        u32::try_from(fd).map(|cpu| Arc::new(PerfEvent { cpu }) as Object).map_err(|_| Errno::EBADF)
    }
}
