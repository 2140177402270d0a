//! Maps: storage that programs and user space share, with the kernel's error codes.
//!
//! - [`MapDef`] says what to create, [`Map::create`] checks it as `BPF_MAP_CREATE` does.
//! - [`Map`] is what programs use: lookups take no lock, and what they find stays valid until the run's
//!   [`Guard`] is dropped, even when another CPU deletes the entry.
//! - [`MapFd`] is what user space holds: the commands of bpf(2), modes, freezing, batches.
//! - [`Refs`] says what the file descriptors mean that user space writes into maps.
//! - [`Layout`] tells compiled programs where values lie.
//!
//! Each type has its file; the memory, free lists and the hash index below them are `mem`'s. Nothing here
//! depends on time, threads or random numbers: the order of a hash table follows from [`MapContext::seed`].

mod array;
mod bloom;
mod def;
mod fd_array;
mod hash;
mod htab;
mod layout;
mod lpm;
mod lru;
mod owner;
mod program;
mod queue;
mod redirect;
mod ringbuf;
mod special;
mod syscall;

use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex, OnceLock};

use mem::{SharedSlice, Slab};
use uapi::bpf::*;

use array::{Array, PercpuArray};
use bloom::Bloom;
use fd_array::{ArrayOfMaps, FdArray, HashOfMaps, PerfEventArray, ProgArray};
use htab::Htab;
use lpm::LpmTrie;
use owner::Owner;
use queue::QueueStack;
use redirect::{Cpumap, Devmap, DevmapHash, Xskmap};

pub use def::{CreateError, MapContext, MapDef};
pub use fd_array::{NoRefs, Object, Refs, SocketObject};
pub use hash::Seed;
pub(crate) use hash::with_key;
pub use layout::{HashLayout, Layout};
pub use redirect::{CpuEntry, DevEntry};
pub use ringbuf::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, BPF_RINGBUF_HDR_SZ, Ringbuf, UserRingbuf};
pub use special::{Bytes, FieldKind, Record, SpecialField, spin_lock, spin_unlock};
pub use syscall::{Batch, FdMode, MapFd};

/// A read-side section: as long as it lasts, what lookups found stays valid. A NAPI poll or one test run.
pub type Guard = mem::epoch::Guard<'static>;

/// A map.
pub struct Map {
    def: MapDef,
    id: u32,
    cpus: u32,
    record: Record,
    kind: Kind,
    frozen: AtomicBool,
    /// Handles of user space. When the last one goes, program arrays are emptied.
    user_refs: AtomicU32,
    /// System calls that write now.
    writers: AtomicU32,
    owner: Mutex<Option<Owner>>,
    free_fields: OnceLock<Arc<dyn FreeFields>>,
}

/// What the map is made of, by type.
#[derive(Debug)]
enum Kind {
    Array(Array),
    PercpuArray(PercpuArray),
    Hash(Htab),
    Lpm(LpmTrie),
    Queue(QueueStack),
    Bloom(Bloom),
    Ringbuf(Ringbuf),
    UserRingbuf(UserRingbuf),
    ProgArray(ProgArray),
    PerfEventArray(PerfEventArray),
    ArrayOfMaps(ArrayOfMaps),
    HashOfMaps(HashOfMaps),
    Devmap(Devmap),
    DevmapHash(DevmapHash),
    Cpumap(Cpumap),
    Xskmap(Xskmap),
}

/// What happens to the special fields of a value that goes: timers are cancelled, kptrs released.
///
/// Kernel: `kernel/bpf/syscall.c bpf_obj_free_fields, v6.18`
#[doc(alias = "bpf_obj_free_fields")]
pub trait FreeFields: Send + Sync {
    /// The value is deleted, replaced or overwritten. Programs that still hold a pointer to it may go on
    /// reading it. Locks of the map may be held, so this must not use the map.
    fn free_fields(&self, map: &Map, value: SharedSlice<'_>);

    /// User space has given the map up: its timers are cancelled, all else stays. By default everything
    /// goes, for those that know of nothing but timers.
    ///
    /// Not called when the map itself goes: then there are no timers any more.
    ///
    /// Kernel: `kernel/bpf/hashtab.c htab_map_free_timers_and_wq, v6.18`
    fn cancel_timers(&self, map: &Map, value: SharedSlice<'_>) {
        self.free_fields(map, value);
    }
}

impl Map {
    /// Creates a map.
    ///
    /// ```
    /// use bpf::maps::{Map, MapContext, MapDef};
    /// use uapi::bpf::MapType;
    ///
    /// let map = Map::create(MapDef::new(MapType::Hash, 4, 8, 100), &MapContext::default()).unwrap();
    /// let fd = map.open();
    /// fd.update_elem(&7_u32.to_le_bytes(), &1_u64.to_le_bytes(), 0).unwrap();
    ///
    /// let guard = mem::epoch::pin();
    /// let value = map.lookup(&guard, 0, &7_u32.to_le_bytes()).unwrap();
    /// assert_eq!(value.read_u64(0), 1);
    /// ```
    ///
    /// # Errors
    ///
    /// The errno of `BPF_MAP_CREATE` and a reason; `EOPNOTSUPP` for types that the engine does not have.
    pub fn create(mut def: MapDef, cx: &MapContext) -> Result<Arc<Self>, CreateError> {
        def.check()?;
        def.check_inner()?;
        let kind = Kind::new(&def, cx)?;
        def.check_fields()?;
        let record = Record::new(&def.fields, def.value_size).map_err(|offset| {
            let reason = format!("the special field at offset {offset} does not fit the value");
            CreateError::new(uapi::Errno::EINVAL, reason)
        })?;
        if matches!(def.map_type, MapType::Devmap | MapType::DevmapHash) {
            // A lookup gives out the very entry, so programs must not write it.
            def.map_flags |= BPF_F_RDONLY_PROG;
        }
        if let Kind::Hash(table) = &kind {
            def.max_entries = table.max_entries(&def, cx.cpus);
        }
        Ok(Arc::new(Self {
            def,
            id: cx.id,
            cpus: cx.cpus,
            record,
            kind,
            frozen: AtomicBool::new(false),
            user_refs: AtomicU32::new(0),
            writers: AtomicU32::new(0),
            owner: Mutex::new(None),
            free_fields: OnceLock::new(),
        }))
    }

    /// What it was created from, as `bpf_map_info` shows it.
    #[must_use]
    pub fn def(&self) -> &MapDef {
        &self.def
    }

    /// Its number, unique within a host.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// CPUs that it has values for.
    #[must_use]
    pub fn cpus(&self) -> u32 {
        self.cpus
    }

    /// The special fields of its values.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Says what to do with special fields of values that go. Once; a second one is ignored.
    pub fn on_free_fields(&self, hook: Arc<dyn FreeFields>) {
        let _ = self.free_fields.set(hook);
    }

    fn free_fields(&self, value: SharedSlice<'_>) {
        if !self.record.is_plain()
            && let Some(hook) = self.free_fields.get()
        {
            hook.free_fields(self, value);
        }
    }

    /// Whether user space can no longer write it (`BPF_MAP_FREEZE`).
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// Calls `f` with every value, of all CPUs.
    fn each_value(&self, mut f: impl FnMut(SharedSlice<'_>)) {
        let guard = mem::epoch::pin();
        for cpu in 0..if self.def.is_percpu() { self.cpus } else { 1 } {
            let visit = |_: SharedSlice<'_>, value: SharedSlice<'_>| {
                f(value);
                std::ops::ControlFlow::Continue(())
            };
            // Types that cannot be gone through have no special fields.
            let _ = self.for_each(&guard, cpu, visit);
        }
    }

    /// Where values lie, for compiled programs.
    #[must_use]
    pub fn layout(&self) -> Layout {
        Layout::of(&self.kind)
    }
}

impl Kind {
    fn new(def: &MapDef, cx: &MapContext) -> Result<Self, CreateError> {
        use MapType as T;
        Ok(match def.map_type {
            T::Array => Self::Array(Array::new(def, cx)?),
            T::PercpuArray => Self::PercpuArray(PercpuArray::new(def, cx)?),
            T::Hash | T::PercpuHash | T::LruHash | T::LruPercpuHash => Self::Hash(Htab::new(def, cx)?),
            T::LpmTrie => Self::Lpm(LpmTrie::new(def, cx)?),
            T::Queue | T::Stack => Self::Queue(QueueStack::new(def, cx)?),
            T::BloomFilter => Self::Bloom(Bloom::new(def, cx)?),
            T::Ringbuf => Self::Ringbuf(Ringbuf::new(def, cx)?),
            T::UserRingbuf => Self::UserRingbuf(UserRingbuf::new(def, cx)?),
            T::ProgArray => Self::ProgArray(FdArray::new(def, cx)?),
            T::PerfEventArray => Self::PerfEventArray(FdArray::new(def, cx)?),
            T::ArrayOfMaps => Self::ArrayOfMaps(FdArray::new(def, cx)?),
            T::HashOfMaps => Self::HashOfMaps(HashOfMaps::new(def, cx)?),
            T::Devmap => Self::Devmap(Devmap::new(def, cx)?),
            T::DevmapHash => Self::DevmapHash(DevmapHash::new(def, cx)?),
            T::Cpumap => Self::Cpumap(Cpumap::new(def, cx)?),
            T::Xskmap => Self::Xskmap(Xskmap::new(def, cx)?),
            other => {
                let reason = format!("maps of type {} are not supported by the engine", other.name());
                return Err(CreateError::new(uapi::Errno::EOPNOTSUPP, reason));
            }
        })
    }
}

impl std::fmt::Debug for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Map({} {:?}, {})", self.id, self.def.name, self.def.map_type.name())
    }
}

/// A size rounded up to whole words, as the kernel stores values.
fn round8(size: u32) -> usize {
    (size as usize).next_multiple_of(8)
}

fn check_memory(bytes: u64, cx: &MapContext) -> Result<(), CreateError> {
    if bytes > cx.memory_limit { Err(CreateError::no_memory(bytes)) } else { Ok(()) }
}

/// A slab within the limit of the context.
fn slab(count: usize, stride: usize, align: usize, cx: &MapContext) -> Result<Slab, CreateError> {
    check_memory(count as u64 * stride as u64, cx)?;
    slab_unchecked(count, stride, align)
}

fn slab_unchecked(count: usize, stride: usize, align: usize) -> Result<Slab, CreateError> {
    Slab::new(count, stride, align).ok_or_else(|| CreateError::no_memory(count as u64 * stride as u64))
}

#[cfg(test)]
mod tests;
