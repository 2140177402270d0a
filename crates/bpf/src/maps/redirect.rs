//! The maps that packets are redirected through: [`DevEntry`], [`CpuEntry`] and AF_XDP sockets. What a packet
//! meets there is the data path's; here they are storage with the kernel's checks.

use std::sync::{Arc, OnceLock};

use mem::epoch;
use mem::{RcuArray, SharedSlice, Slab, SpinLock};
use uapi::Errno;
use uapi::bpf::*;

use super::array::next_index;
use super::{CreateError, Guard, Map, MapContext, MapDef, Object, Refs};
use crate::object::AttachType;
use crate::vm::Program;

/// Longest queue of a cpumap entry.
const CPUMAP_MAX_QSIZE: u32 = 16384;

/// An entry of a devmap.
///
/// Kernel: `kernel/bpf/devmap.c struct bpf_dtab_netdev, v6.18`
#[doc(alias = "bpf_dtab_netdev")]
#[derive(Debug)]
pub struct DevEntry {
    /// Its key.
    pub key: u32,
    /// Device.
    pub ifindex: u32,
    /// Program that runs when a frame is sent.
    pub program: Option<Arc<Program>>,
    value: Slab,
}

/// An entry of a cpumap.
///
/// Kernel: `kernel/bpf/cpumap.c struct bpf_cpu_map_entry, v6.18`
#[doc(alias = "bpf_cpu_map_entry")]
#[derive(Debug)]
pub struct CpuEntry {
    /// CPU, which is its key.
    pub cpu: u32,
    /// Frames that its ring holds.
    pub qsize: u32,
    /// Program that runs on that CPU.
    pub program: Option<Arc<Program>>,
    /// What the data path keeps with the entry: its ring and thread.
    pub private: OnceLock<Object>,
    value: Slab,
}

/// Eight bytes that programs read: a number and a program's id.
fn value(first: u32, program: Option<&Arc<Program>>) -> Result<Slab, Errno> {
    let slab = Slab::new(1, 8, 8).ok_or(Errno::ENOMEM)?;
    slab.slot(0).write_u32(0, first);
    slab.slot(0).write_u32(4, program.map_or(0, |p| p.id()));
    Ok(slab)
}

/// The two numbers of `struct bpf_devmap_val` and `struct bpf_cpumap_val`; the second may be left out.
fn numbers(value: &[u8]) -> (u32, i32) {
    let word =
        |at: usize| value.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or([0; 4], |b: [u8; 4]| b);
    (u32::from_le_bytes(word(0)), i32::from_le_bytes(word(4)))
}

impl DevEntry {
    /// Offset of the host address of what programs read, bytes.
    pub(super) const OFF_VALUE: usize = std::mem::offset_of!(Self, value) + Slab::OFF_BASE;

    /// Kernel: `kernel/bpf/devmap.c __dev_map_alloc_node, v6.18`
    fn new(map: &Map, refs: &dyn Refs, key: u32, ifindex: u32, fd: i32) -> Result<Arc<Self>, Errno> {
        if !refs.has_device(ifindex) {
            return Err(Errno::EINVAL);
        }
        let program = if fd > 0 { Some(refs.program(fd).map_err(|_| Errno::EINVAL)?) } else { None };
        if program.as_ref().is_some_and(|p| p.attach_type() != AttachType::Devmap || !map.admits(p)) {
            return Err(Errno::EINVAL);
        }
        let value = value(ifindex, program.as_ref())?;
        Ok(Arc::new(Self { key, ifindex, program, value }))
    }

    pub(super) fn value(&self, size: u32) -> Option<SharedSlice<'_>> {
        self.value.slot(0).get(0, size as usize)
    }
}

impl CpuEntry {
    /// Kernel: `kernel/bpf/cpumap.c __cpu_map_entry_alloc, v6.18`
    fn new(map: &Map, refs: &dyn Refs, cpu: u32, qsize: u32, fd: i32) -> Result<Arc<Self>, Errno> {
        let program = if fd > 0 { Some(refs.program(fd)?) } else { None };
        if program.as_ref().is_some_and(|p| p.attach_type() != AttachType::Cpumap || !map.admits(p)) {
            return Err(Errno::EINVAL);
        }
        let value = value(qsize, program.as_ref())?;
        Ok(Arc::new(Self { cpu, qsize, program, private: OnceLock::new(), value }))
    }

    pub(super) fn value(&self, size: u32) -> Option<SharedSlice<'_>> {
        self.value.slot(0).get(0, size as usize)
    }
}

fn slots<T: Send + Sync>(n: u32, cx: &MapContext) -> Result<RcuArray<T>, CreateError> {
    let bytes = u64::from(n) * 8;
    super::check_memory(bytes, cx)?;
    RcuArray::new(n as usize).ok_or_else(|| CreateError::no_memory(bytes))
}

/// `BPF_MAP_TYPE_DEVMAP`.
#[derive(Debug)]
pub(super) struct Devmap {
    pub(super) entries: RcuArray<DevEntry>,
}

impl Devmap {
    pub(super) fn new(def: &MapDef, cx: &MapContext) -> Result<Self, CreateError> {
        Ok(Self { entries: slots(def.max_entries, cx)? })
    }

    fn max_entries(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Kernel: `kernel/bpf/devmap.c __dev_map_update_elem, v6.18`
    pub(super) fn update(
        &self,
        map: &Map,
        refs: &dyn Refs,
        key: u32,
        val: &[u8],
        flags: u64,
    ) -> Result<(), Errno> {
        if flags > BPF_EXIST {
            return Err(Errno::EINVAL);
        }
        if key >= self.max_entries() {
            return Err(Errno::E2BIG);
        }
        if flags == BPF_NOEXIST {
            return Err(Errno::EEXIST);
        }
        let (ifindex, fd) = numbers(val);
        let entry = match ifindex {
            0 if fd > 0 => return Err(Errno::EINVAL),
            0 => None,
            _ => Some(DevEntry::new(map, refs, key, ifindex, fd)?),
        };
        self.entries.swap(key as usize, entry);
        Ok(())
    }

    pub(super) fn delete(&self, key: u32) -> Result<(), Errno> {
        if key >= self.max_entries() {
            return Err(Errno::EINVAL);
        }
        self.entries.swap(key as usize, None);
        Ok(())
    }

    pub(super) fn next_key(&self, key: Option<u32>) -> Result<u32, Errno> {
        next_index(key, self.max_entries())
    }

    pub(super) fn remove_device(&self, ifindex: u32) {
        let guard = epoch::pin();
        for i in 0..self.entries.len() {
            if let Some(entry) = self.entries.get_arc(i, &guard).filter(|e| e.ifindex == ifindex) {
                self.entries.remove(i, &entry);
            }
        }
    }
}

/// Entries of one bucket, the newest first.
type Bucket = Vec<Arc<DevEntry>>;

/// `BPF_MAP_TYPE_DEVMAP_HASH`: buckets in the kernel's order, which broadcast follows.
#[derive(Debug)]
pub(super) struct DevmapHash {
    pub(super) buckets: RcuArray<Bucket>,
    /// Entries; also the lock of all writers.
    entries: SpinLock<u32>,
    max_entries: u32,
}

impl DevmapHash {
    pub(super) fn new(def: &MapDef, cx: &MapContext) -> Result<Self, CreateError> {
        let buckets = slots(def.max_entries.next_power_of_two(), cx)?;
        Ok(Self { buckets, entries: SpinLock::new(0), max_entries: def.max_entries })
    }

    fn bucket_of(&self, key: u32) -> usize {
        key as usize & (self.buckets.len() - 1)
    }

    pub(super) fn get<'g>(&'g self, guard: &'g Guard, key: u32) -> Option<&'g DevEntry> {
        let bucket = self.buckets.get(self.bucket_of(key), guard)?;
        bucket.iter().find(|e| e.key == key).map(Arc::as_ref)
    }

    fn copy_without(&self, guard: &Guard, key: u32) -> (Bucket, bool) {
        let mut bucket = self.buckets.get(self.bucket_of(key), guard).cloned().unwrap_or_default();
        let before = bucket.len();
        bucket.retain(|e| e.key != key);
        let existed = bucket.len() < before;
        (bucket, existed)
    }

    fn put(&self, index: usize, bucket: Bucket) {
        self.buckets.swap(index, (!bucket.is_empty()).then(|| Arc::new(bucket)));
    }

    /// Kernel: `kernel/bpf/devmap.c __dev_map_hash_update_elem, v6.18`
    pub(super) fn update(
        &self,
        map: &Map,
        refs: &dyn Refs,
        key: u32,
        val: &[u8],
        flags: u64,
    ) -> Result<(), Errno> {
        let (ifindex, fd) = numbers(val);
        if flags > BPF_EXIST || ifindex == 0 {
            return Err(Errno::EINVAL);
        }
        let guard = epoch::pin();
        self.entries.with(|entries| {
            let (mut bucket, exists) = self.copy_without(&guard, key);
            if exists && flags == BPF_NOEXIST {
                return Err(Errno::EEXIST);
            }
            let entry = DevEntry::new(map, refs, key, ifindex, fd)?;
            if !exists {
                if *entries >= self.max_entries {
                    return Err(Errno::E2BIG);
                }
                *entries += 1;
            }
            bucket.insert(0, entry);
            self.put(self.bucket_of(key), bucket);
            Ok(())
        })
    }

    pub(super) fn delete(&self, key: u32) -> Result<(), Errno> {
        let guard = epoch::pin();
        self.entries.with(|entries| {
            let (bucket, existed) = self.copy_without(&guard, key);
            if !existed {
                return Err(Errno::ENOENT);
            }
            *entries -= 1;
            self.put(self.bucket_of(key), bucket);
            Ok(())
        })
    }

    /// All entries in the order of buckets.
    pub(super) fn all<'g>(&'g self, guard: &'g Guard) -> impl Iterator<Item = &'g DevEntry> {
        (0..self.buckets.len()).filter_map(|i| self.buckets.get(i, guard)).flatten().map(Arc::as_ref)
    }

    /// Kernel: `kernel/bpf/devmap.c dev_map_hash_get_next_key, v6.18`
    pub(super) fn next_key(&self, key: Option<u32>) -> Result<u32, Errno> {
        let guard = epoch::pin();
        let mut start = 0;
        if let Some(key) = key.filter(|k| self.get(&guard, *k).is_some()) {
            let index = self.bucket_of(key);
            let bucket = self.buckets.get(index, &guard).map_or(&[][..], |b| b);
            let mine = bucket.iter().position(|e| e.key == key).unwrap_or(bucket.len());
            if let Some(next) = bucket.get(mine + 1) {
                return Ok(next.key);
            }
            start = index + 1;
        }
        (start..self.buckets.len())
            .find_map(|i| self.buckets.get(i, &guard)?.first().map(|e| e.key))
            .ok_or(Errno::ENOENT)
    }

    pub(super) fn remove_device(&self, ifindex: u32) {
        let guard = epoch::pin();
        self.entries.with(|entries| {
            for i in 0..self.buckets.len() {
                let Some(bucket) = self.buckets.get(i, &guard) else { continue };
                let left: Bucket = bucket.iter().filter(|e| e.ifindex != ifindex).cloned().collect();
                if left.len() < bucket.len() {
                    *entries -= (bucket.len() - left.len()) as u32;
                    self.put(i, left);
                }
            }
        });
    }
}

/// `BPF_MAP_TYPE_CPUMAP`.
#[derive(Debug)]
pub(super) struct Cpumap {
    pub(super) entries: RcuArray<CpuEntry>,
    cpus: u32,
}

impl Cpumap {
    pub(super) fn new(def: &MapDef, cx: &MapContext) -> Result<Self, CreateError> {
        Ok(Self { entries: slots(def.max_entries, cx)?, cpus: cx.cpus })
    }

    fn max_entries(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Kernel: `kernel/bpf/cpumap.c cpu_map_update_elem, v6.18`
    pub(super) fn update(
        &self,
        map: &Map,
        refs: &dyn Refs,
        key: u32,
        val: &[u8],
        flags: u64,
    ) -> Result<(), Errno> {
        if flags > BPF_EXIST {
            return Err(Errno::EINVAL);
        }
        if key >= self.max_entries() {
            return Err(Errno::E2BIG);
        }
        if flags == BPF_NOEXIST {
            return Err(Errno::EEXIST);
        }
        let (qsize, fd) = numbers(val);
        if qsize > CPUMAP_MAX_QSIZE {
            return Err(Errno::EOVERFLOW);
        }
        if key >= self.cpus {
            return Err(Errno::ENODEV);
        }
        // Whatever is wrong with the program, the kernel says that it has no memory.
        let entry = match qsize {
            0 => None,
            _ => Some(CpuEntry::new(map, refs, key, qsize, fd).map_err(|_| Errno::ENOMEM)?),
        };
        self.entries.swap(key as usize, entry);
        Ok(())
    }

    pub(super) fn delete(&self, key: u32) -> Result<(), Errno> {
        if key >= self.max_entries() {
            return Err(Errno::EINVAL);
        }
        self.entries.swap(key as usize, None);
        Ok(())
    }

    pub(super) fn next_key(&self, key: Option<u32>) -> Result<u32, Errno> {
        next_index(key, self.max_entries())
    }
}

/// `BPF_MAP_TYPE_XSKMAP`.
#[derive(Debug)]
pub(super) struct Xskmap {
    pub(super) sockets: RcuArray<Object>,
    writers: SpinLock<()>,
}

impl Xskmap {
    pub(super) fn new(def: &MapDef, cx: &MapContext) -> Result<Self, CreateError> {
        Ok(Self { sockets: slots(def.max_entries, cx)?, writers: SpinLock::new(()) })
    }

    fn max_entries(&self) -> u32 {
        self.sockets.len() as u32
    }

    /// Kernel: `net/xdp/xskmap.c xsk_map_update_elem, v6.18`
    pub(super) fn update(&self, refs: &dyn Refs, key: u32, val: &[u8], flags: u64) -> Result<(), Errno> {
        if flags > BPF_EXIST {
            return Err(Errno::EINVAL);
        }
        if key >= self.max_entries() {
            return Err(Errno::E2BIG);
        }
        let socket = refs.socket(numbers(val).0 as i32)?;
        let guard = epoch::pin();
        self.writers.with(|_| {
            match self.sockets.get(key as usize, &guard) {
                Some(old) if Arc::ptr_eq(old, &socket) => return Ok(()),
                Some(_) if flags == BPF_NOEXIST => return Err(Errno::EEXIST),
                None if flags == BPF_EXIST => return Err(Errno::ENOENT),
                _ => {}
            }
            self.sockets.swap(key as usize, Some(Arc::new(socket)));
            Ok(())
        })
    }

    pub(super) fn delete(&self, key: u32) -> Result<(), Errno> {
        if key >= self.max_entries() {
            return Err(Errno::EINVAL);
        }
        self.sockets.swap(key as usize, None);
        Ok(())
    }

    pub(super) fn next_key(&self, key: Option<u32>) -> Result<u32, Errno> {
        next_index(key, self.max_entries())
    }

    pub(super) fn remove_socket(&self, socket: &Object) {
        let guard = epoch::pin();
        for i in 0..self.sockets.len() {
            if let Some(mine) = self.sockets.get_arc(i, &guard).filter(|s| Arc::ptr_eq(&**s, socket)) {
                self.sockets.remove(i, &mine);
            }
        }
    }
}
