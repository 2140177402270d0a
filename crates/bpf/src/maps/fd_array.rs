//! Maps whose values are files to user space and objects to programs: [`ProgArray`], [`PerfEventArray`],
//! [`ArrayOfMaps`] and [`HashOfMaps`]; and [`Refs`], what such numbers mean.

use std::any::Any;
use std::sync::Arc;

use mem::epoch;
use mem::{Frame, RcuArray, SharedSlice};
use uapi::Errno;
use uapi::bpf::*;

use super::htab::{Htab, check_flags};
use super::{CreateError, Guard, Map, MapContext, MapDef};
use crate::vm::Program;

/// Any object that a map can hold for someone else: an AF_XDP socket, a perf event.
pub type Object = Arc<dyn Any + Send + Sync>;

/// An AF_XDP socket as an xskmap holds it: what programs see of it, and the socket itself.
///
/// Kernel: `include/uapi/linux/bpf.h struct bpf_xdp_sock, v6.18`
#[doc(alias = "bpf_xdp_sock")]
pub struct SocketObject {
    queue_id: Frame,
    /// The socket, for whoever put it in.
    pub inner: Box<dyn Any + Send + Sync>,
}

impl SocketObject {
    /// Bytes that programs can read.
    const SIZE: usize = 4;

    /// A socket that is bound to no queue yet.
    #[must_use]
    pub fn new(inner: Box<dyn Any + Send + Sync>) -> Self {
        Self { queue_id: Frame::new(Self::SIZE), inner }
    }

    /// Says which queue it is bound to.
    pub fn set_queue_id(&self, queue_id: u32) {
        self.value().write_u32(0, queue_id);
    }

    /// What a lookup in a program finds.
    pub(super) fn value(&self) -> SharedSlice<'_> {
        self.queue_id.bytes()
    }
}

/// What the file descriptors and device numbers mean that user space writes into maps.
pub trait Refs {
    /// Whether there is a network device of this number.
    fn has_device(&self, ifindex: u32) -> bool {
        let _ = ifindex;
        false
    }

    /// The XDP program of a file descriptor.
    ///
    /// # Errors
    ///
    /// `EBADF` if there is no such file, `EINVAL` if it is no XDP program.
    fn program(&self, fd: i32) -> Result<Arc<Program>, Errno> {
        let _ = fd;
        Err(Errno::EBADF)
    }

    /// The map of a file descriptor.
    ///
    /// # Errors
    ///
    /// `EBADF` if there is no such file, `EINVAL` if it is no map.
    fn map(&self, fd: i32) -> Result<Arc<Map>, Errno> {
        let _ = fd;
        Err(Errno::EBADF)
    }

    /// The AF_XDP socket of a file descriptor.
    ///
    /// # Errors
    ///
    /// `EBADF` if there is no such file, `ENOTSOCK` if it is no socket, `EOPNOTSUPP` if it is one of another
    /// family.
    fn socket(&self, fd: i32) -> Result<Object, Errno> {
        let _ = fd;
        Err(Errno::EBADF)
    }

    /// The perf event of a file descriptor.
    ///
    /// # Errors
    ///
    /// `EBADF` if there is no such file, `EINVAL` if it is no perf event.
    fn perf_event(&self, fd: i32) -> Result<Object, Errno> {
        let _ = fd;
        Err(Errno::EBADF)
    }
}

/// A host without devices and files.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRefs;

impl Refs for NoRefs {}

/// `BPF_MAP_TYPE_PROG_ARRAY`, `PERF_EVENT_ARRAY` and `ARRAY_OF_MAPS`: slots for objects.
///
/// Kernel: `kernel/bpf/arraymap.c bpf_fd_array_map_update_elem, v6.18`
#[derive(Debug)]
pub(super) struct FdArray<T: Send + Sync + 'static> {
    pub(super) slots: RcuArray<T>,
}

pub(super) type ProgArray = FdArray<Arc<Program>>;
pub(super) type PerfEventArray = FdArray<Object>;
pub(super) type ArrayOfMaps = FdArray<Arc<Map>>;

impl<T: Send + Sync + 'static> FdArray<T> {
    pub(super) fn new(def: &MapDef, cx: &MapContext) -> Result<Self, CreateError> {
        let bytes = u64::from(def.max_entries) * 8;
        super::check_memory(bytes, cx)?;
        let slots = RcuArray::new(def.max_entries as usize).ok_or_else(|| CreateError::no_memory(bytes))?;
        Ok(Self { slots })
    }

    pub(super) fn max_entries(&self) -> u32 {
        self.slots.len() as u32
    }

    #[inline]
    pub(super) fn get<'g>(&'g self, guard: &'g Guard, index: u32) -> Option<&'g T> {
        self.slots.get(index as usize, guard)
    }

    pub(super) fn update(
        &self,
        index: u32,
        flags: u64,
        object: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<(), Errno> {
        if flags != BPF_ANY {
            return Err(Errno::EINVAL);
        }
        if index >= self.max_entries() {
            return Err(Errno::E2BIG);
        }
        self.slots.swap(index as usize, Some(Arc::new(object()?)));
        Ok(())
    }

    pub(super) fn delete(&self, index: u32) -> Result<(), Errno> {
        if index >= self.max_entries() {
            return Err(Errno::E2BIG);
        }
        self.slots.swap(index as usize, None).map(|_| ()).ok_or(Errno::ENOENT)
    }

    pub(super) fn clear(&self) {
        (0..self.slots.len()).for_each(|i| drop(self.slots.swap(i, None)));
    }

    /// The number that user space reads.
    pub(super) fn sys_lookup(&self, index: u32, id: impl FnOnce(&T) -> u32) -> Result<Vec<u8>, Errno> {
        let guard = epoch::pin();
        let object = self.get(&guard, index).ok_or(Errno::ENOENT)?;
        Ok(id(object).to_le_bytes().to_vec())
    }
}

/// `BPF_MAP_TYPE_HASH_OF_MAPS`: a hash table whose values are the inner maps' numbers, with the maps beside.
///
/// Kernel: `kernel/bpf/hashtab.c bpf_fd_htab_map_update_elem, v6.18`
#[derive(Debug)]
pub(super) struct HashOfMaps {
    pub(super) table: Htab,
    /// By number of the element.
    maps: RcuArray<Arc<Map>>,
}

impl HashOfMaps {
    pub(super) fn new(def: &MapDef, cx: &MapContext) -> Result<Self, CreateError> {
        let table = Htab::new(def, cx)?;
        let bytes = table.elems.count() as u64 * 8;
        super::check_memory(bytes, cx)?;
        let maps = RcuArray::new(table.elems.count()).ok_or_else(|| CreateError::no_memory(bytes))?;
        Ok(Self { table, maps })
    }

    /// Host address of where element 0's map is named, for compiled programs.
    pub(super) fn base(&self) -> u64 {
        self.maps.base()
    }

    pub(super) fn get<'g>(&'g self, guard: &'g Guard, key: &[u8]) -> Option<&'g Arc<Map>> {
        loop {
            let elem = self.table.find(key)?;
            let map = self.maps.get(elem as usize, guard);
            // The element is still the key's, so the map was the key's too.
            if map.is_some() && self.table.is_key(elem, key) {
                return map;
            }
        }
    }

    pub(super) fn update(&self, cpu: u32, key: &[u8], map: Arc<Map>, flags: u64) -> Result<(), Errno> {
        if flags > BPF_EXIST {
            return Err(Errno::EINVAL);
        }
        let id = map.id();
        self.table.upsert(
            cpu,
            key,
            |exists| check_flags(exists, flags),
            |elem, value| {
                value.write_u32(0, id);
                self.maps.swap(elem as usize, Some(Arc::new(map)));
            },
        )
    }

    pub(super) fn delete(&self, cpu: u32, key: &[u8]) -> Result<(), Errno> {
        self.table.remove_with(cpu, key, |elem| drop(self.maps.swap(elem as usize, None)))
    }
}
