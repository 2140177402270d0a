//! [`MapDef`]: what a map is created from, and every check of `BPF_MAP_CREATE`.

use std::fmt;

use uapi::Errno;
use uapi::bpf::*;

use super::{FieldKind, SpecialField};

/// What a map is created from: [`crate::object::MapSpec`] without names of the object's sections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapDef {
    /// Name as `bpf_map_info` shows it.
    pub name: String,
    /// `enum bpf_map_type`.
    pub map_type: MapType,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Entries; bytes for ring buffers.
    pub max_entries: u32,
    /// `BPF_F_*` of map creation.
    pub map_flags: u32,
    /// Type-specific extra value.
    pub map_extra: u64,
    /// Template of inner maps.
    pub inner: Option<Box<MapDef>>,
    /// Special fields of a value (spin locks, timers, kptrs, ...), found in its BTF.
    pub fields: Vec<SpecialField>,
}

/// What a map is created with beside its definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapContext {
    /// Number of the map, unique within a host, not 0.
    pub id: u32,
    /// CPUs of the host (`num_possible_cpus`), at least 1.
    pub cpus: u32,
    /// Decides the order of hash tables, unless the map asks for `BPF_F_ZERO_SEED`.
    pub seed: u64,
    /// Bytes that the map may take at most; more is `ENOMEM`.
    pub memory_limit: u64,
}

impl Default for MapContext {
    fn default() -> Self {
        Self { id: 1, cpus: 1, seed: 0, memory_limit: 16 << 30 }
    }
}

/// A map could not be created.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreateError {
    /// What `BPF_MAP_CREATE` answers.
    pub errno: Errno,
    /// What is wrong.
    pub reason: String,
}

impl CreateError {
    pub(super) fn new(errno: Errno, reason: impl Into<String>) -> Self {
        Self { errno, reason: reason.into() }
    }

    pub(super) fn no_memory(bytes: u64) -> Self {
        Self::new(Errno::ENOMEM, format!("there is no room for {bytes} bytes"))
    }
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.errno, self.reason)
    }
}

impl std::error::Error for CreateError {}

impl From<CreateError> for Errno {
    fn from(e: CreateError) -> Self {
        e.errno
    }
}

/// `KMALLOC_MAX_SIZE` of x86-64: values that a system call can copy, bytes.
const KMALLOC_MAX_SIZE: u64 = 4 << 20;
/// `sizeof(struct htab_elem)`.
const HTAB_ELEM_SIZE: u64 = 48;
/// `sizeof(struct lpm_trie_node)`.
const LPM_NODE_SIZE: u64 = 40;
/// `PCPU_MIN_UNIT_SIZE`: largest per-CPU value, bytes.
const PCPU_MIN_UNIT_SIZE: u64 = 32 << 10;
/// `NR_CPUS` of the kernel that is the judge.
const NR_CPUS: u32 = 8192;
/// Size of a ring buffer's page, bytes.
const PAGE_SIZE: u32 = 4096;

const ACCESS_MASK: u32 = BPF_F_RDONLY | BPF_F_RDONLY_PROG | BPF_F_WRONLY | BPF_F_WRONLY_PROG;
const HTAB_FLAGS: u32 =
    BPF_F_NO_PREALLOC | BPF_F_NO_COMMON_LRU | BPF_F_NUMA_NODE | ACCESS_MASK | BPF_F_ZERO_SEED;
const ARRAY_FLAGS: u32 =
    BPF_F_NUMA_NODE | BPF_F_MMAPABLE | ACCESS_MASK | BPF_F_PRESERVE_ELEMS | BPF_F_INNER_MAP;

impl MapDef {
    /// A definition without name, flags or anything special.
    #[must_use]
    pub fn new(map_type: MapType, key_size: u32, value_size: u32, max_entries: u32) -> Self {
        Self {
            name: String::new(),
            map_type,
            key_size,
            value_size,
            max_entries,
            map_flags: 0,
            map_extra: 0,
            inner: None,
            fields: Vec::new(),
        }
    }

    /// The same with other flags.
    #[must_use]
    pub fn flags(mut self, map_flags: u32) -> Self {
        self.map_flags = map_flags;
        self
    }

    /// Whether each CPU has a value of its own.
    #[must_use]
    pub fn is_percpu(&self) -> bool {
        use MapType::*;
        matches!(self.map_type, PercpuHash | PercpuArray | LruPercpuHash)
    }

    /// Whether a full map throws old entries out.
    #[must_use]
    pub fn is_lru(&self) -> bool {
        matches!(self.map_type, MapType::LruHash | MapType::LruPercpuHash)
    }

    fn flag(&self, flag: u32) -> bool {
        self.map_flags & flag != 0
    }

    /// The checks of the system call and of the map type, in the kernel's order.
    ///
    /// Kernel: `kernel/bpf/syscall.c map_create, v6.18`
    pub(super) fn check(&self) -> Result<(), CreateError> {
        use MapType::*;
        if self.map_type != BloomFilter && self.map_type != Arena && self.map_extra != 0 {
            return Err(invalid("map_extra must be 0 for this type"));
        }
        if self.flag(BPF_F_RDONLY) && self.flag(BPF_F_WRONLY) {
            return Err(invalid("BPF_F_RDONLY and BPF_F_WRONLY exclude each other"));
        }
        match self.map_type {
            Hash | PercpuHash | LruHash | LruPercpuHash => self.check_htab(),
            HashOfMaps => self.fd_value().and_then(|()| self.check_htab()),
            Array | PercpuArray => self.check_array(),
            ProgArray | PerfEventArray | ArrayOfMaps => self.check_fd_array(),
            LpmTrie => self.check_lpm(),
            Queue | Stack => self.check_queue(),
            BloomFilter => self.check_bloom(),
            Ringbuf | UserRingbuf => self.check_ringbuf(),
            Devmap | DevmapHash => self.check_devmap(),
            Cpumap => self.check_cpumap(),
            Xskmap => self.check_xskmap(),
            _ => Err(CreateError::new(
                Errno::EOPNOTSUPP,
                format!("maps of type {} are not supported by the engine", self.map_type.name()),
            )),
        }
        .and_then(|()| self.check_name())
    }

    /// The kernel keeps 15 bytes of a name; libbpf cuts longer ones off, so length is no error here.
    ///
    /// Kernel: `kernel/bpf/syscall.c bpf_obj_name_cpy, v6.18`
    fn check_name(&self) -> Result<(), CreateError> {
        let ok = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'.';
        if !self.name.bytes().all(ok) {
            return Err(invalid("a map's name has letters, digits, dots and underscores"));
        }
        Ok(())
    }

    /// Kernel: `include/linux/bpf.h bpf_map_flags_access_ok, v6.18`
    fn check_flags(&self, allowed: u32) -> Result<(), CreateError> {
        if self.map_flags & !allowed != 0 {
            return Err(invalid(format!("flags {:#x} do not fit this type", self.map_flags & !allowed)));
        }
        if self.flag(BPF_F_RDONLY_PROG) && self.flag(BPF_F_WRONLY_PROG) {
            return Err(invalid("BPF_F_RDONLY_PROG and BPF_F_WRONLY_PROG exclude each other"));
        }
        Ok(())
    }

    fn fd_value(&self) -> Result<(), CreateError> {
        if self.value_size != 4 {
            return Err(invalid("a value is a file descriptor of 4 bytes"));
        }
        Ok(())
    }

    fn no_empty(&self) -> Result<(), CreateError> {
        if self.max_entries == 0 || self.key_size == 0 || self.value_size == 0 {
            return Err(invalid("max_entries, key_size and value_size must not be 0"));
        }
        Ok(())
    }

    /// Kernel: `kernel/bpf/hashtab.c htab_map_alloc_check, v6.18`
    fn check_htab(&self) -> Result<(), CreateError> {
        self.check_flags(HTAB_FLAGS)?;
        let lru = self.is_lru();
        if !lru && self.flag(BPF_F_NO_COMMON_LRU) {
            return Err(invalid("BPF_F_NO_COMMON_LRU is for LRU maps"));
        }
        if lru && self.flag(BPF_F_NO_PREALLOC) {
            return Err(CreateError::new(Errno::ENOTSUPP, "LRU maps are always preallocated"));
        }
        if self.flag(BPF_F_NUMA_NODE) && (self.is_percpu() || self.flag(BPF_F_NO_COMMON_LRU)) {
            return Err(invalid("BPF_F_NUMA_NODE does not go with values or lists per CPU"));
        }
        self.no_empty()?;
        if u64::from(self.key_size) + u64::from(self.value_size) >= KMALLOC_MAX_SIZE - HTAB_ELEM_SIZE {
            return Err(CreateError::new(Errno::E2BIG, "key and value together must stay below 4 MiB"));
        }
        self.check_percpu_size()?;
        // u32 number of buckets times 16 bytes must not overflow.
        if self.max_entries > 1 << 27 {
            return Err(CreateError::new(Errno::E2BIG, "a hash map has at most 2^27 entries"));
        }
        Ok(())
    }

    fn check_percpu_size(&self) -> Result<(), CreateError> {
        if self.is_percpu() && u64::from(self.value_size).next_multiple_of(8) > PCPU_MIN_UNIT_SIZE {
            return Err(CreateError::new(Errno::E2BIG, "a per-CPU value has at most 32 KiB"));
        }
        Ok(())
    }

    /// Kernel: `kernel/bpf/arraymap.c array_map_alloc_check, v6.18`
    fn check_array(&self) -> Result<(), CreateError> {
        self.no_empty()?;
        if self.key_size != 4 {
            return Err(invalid("the key of an array has 4 bytes"));
        }
        self.check_flags(ARRAY_FLAGS)?;
        if self.map_type == MapType::PercpuArray && self.flag(BPF_F_NUMA_NODE) {
            return Err(invalid("BPF_F_NUMA_NODE does not go with values per CPU"));
        }
        if self.map_type != MapType::Array && self.flag(BPF_F_MMAPABLE | BPF_F_INNER_MAP) {
            return Err(invalid("BPF_F_MMAPABLE and BPF_F_INNER_MAP are for plain arrays"));
        }
        if self.map_type != MapType::PerfEventArray && self.flag(BPF_F_PRESERVE_ELEMS) {
            return Err(invalid("BPF_F_PRESERVE_ELEMS is for arrays of perf events"));
        }
        if self.value_size > i32::MAX as u32 {
            return Err(CreateError::new(Errno::E2BIG, "a value has at most 2 GiB"));
        }
        self.check_percpu_size()
    }

    /// Kernel: `kernel/bpf/arraymap.c fd_array_map_alloc_check, v6.18`
    fn check_fd_array(&self) -> Result<(), CreateError> {
        self.fd_value()?;
        if self.flag(BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG) {
            return Err(invalid("BPF_F_RDONLY_PROG and BPF_F_WRONLY_PROG are not for arrays of files"));
        }
        self.check_array()
    }

    /// Kernel: `kernel/bpf/lpm_trie.c trie_alloc, v6.18`
    fn check_lpm(&self) -> Result<(), CreateError> {
        if !self.flag(BPF_F_NO_PREALLOC) {
            return Err(invalid("an LPM trie needs BPF_F_NO_PREALLOC"));
        }
        self.check_flags(BPF_F_NO_PREALLOC | BPF_F_NUMA_NODE | ACCESS_MASK)?;
        let most = KMALLOC_MAX_SIZE - 256 - LPM_NODE_SIZE;
        if self.max_entries == 0
            || !(5..=260).contains(&self.key_size)
            || !(1..=most).contains(&u64::from(self.value_size))
        {
            return Err(invalid(
                "an LPM trie has entries, keys of 4 + 1 to 256 bytes and values up to 4 MiB",
            ));
        }
        Ok(())
    }

    /// Kernel: `kernel/bpf/queue_stack_maps.c queue_stack_map_alloc_check, v6.18`
    fn check_queue(&self) -> Result<(), CreateError> {
        if self.max_entries == 0 || self.key_size != 0 || self.value_size == 0 {
            return Err(invalid("queues and stacks have entries and values, but no keys"));
        }
        self.check_flags(BPF_F_NUMA_NODE | ACCESS_MASK)?;
        if u64::from(self.value_size) > KMALLOC_MAX_SIZE || self.max_entries >= u32::MAX / self.value_size {
            return Err(CreateError::new(Errno::E2BIG, "values up to 4 MiB, 4 GiB together"));
        }
        Ok(())
    }

    /// Kernel: `kernel/bpf/bloom_filter.c bloom_map_alloc, v6.18`
    fn check_bloom(&self) -> Result<(), CreateError> {
        if u64::from(self.value_size) > KMALLOC_MAX_SIZE {
            return Err(CreateError::new(Errno::E2BIG, "a value has at most 4 MiB"));
        }
        if self.key_size != 0 || self.value_size == 0 || self.max_entries == 0 {
            return Err(invalid("a bloom filter has entries and values, but no keys"));
        }
        self.check_flags(BPF_F_NUMA_NODE | BPF_F_ZERO_SEED | ACCESS_MASK)?;
        if self.map_extra & !0xf != 0 {
            return Err(invalid("map_extra of a bloom filter is the number of hash functions, up to 15"));
        }
        Ok(())
    }

    /// Kernel: `kernel/bpf/ringbuf.c ringbuf_map_alloc, v6.18`
    fn check_ringbuf(&self) -> Result<(), CreateError> {
        self.check_flags(BPF_F_NUMA_NODE)?;
        if self.key_size != 0 || self.value_size != 0 {
            return Err(invalid("a ring buffer has no keys and values"));
        }
        if !self.max_entries.is_power_of_two() || !self.max_entries.is_multiple_of(PAGE_SIZE) {
            return Err(invalid("the size of a ring buffer is a power of two and a multiple of 4096"));
        }
        Ok(())
    }

    /// Kernel: `kernel/bpf/devmap.c dev_map_alloc_check, v6.18`
    fn check_devmap(&self) -> Result<(), CreateError> {
        self.index_key(&[4, 8])?;
        self.check_flags(BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY)?;
        if self.map_type == MapType::DevmapHash && self.max_entries > 1 << 31 {
            return Err(invalid("a devmap has at most 2^31 entries"));
        }
        Ok(())
    }

    /// Kernel: `kernel/bpf/cpumap.c cpu_map_alloc, v6.18`
    fn check_cpumap(&self) -> Result<(), CreateError> {
        self.index_key(&[4, 8])?;
        self.check_flags(BPF_F_NUMA_NODE)?;
        if self.max_entries > NR_CPUS {
            return Err(CreateError::new(Errno::E2BIG, "more entries than a kernel can have CPUs"));
        }
        Ok(())
    }

    /// Kernel: `net/xdp/xskmap.c xsk_map_alloc, v6.18`
    fn check_xskmap(&self) -> Result<(), CreateError> {
        self.index_key(&[4])?;
        self.check_flags(BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY)
    }

    fn index_key(&self, value_sizes: &[u32]) -> Result<(), CreateError> {
        if self.max_entries == 0 || self.key_size != 4 || !value_sizes.contains(&self.value_size) {
            return Err(invalid("there are entries, keys of 4 bytes, and values of a fixed size"));
        }
        Ok(())
    }

    /// Which special fields a map type may have.
    ///
    /// Kernel: `kernel/bpf/syscall.c map_check_btf, v6.18`
    pub(super) fn check_fields(&self) -> Result<(), CreateError> {
        use MapType::*;
        if self.fields.is_empty() {
            return Ok(());
        }
        if self.flag(BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG) {
            return Err(CreateError::new(Errno::EACCES, "special fields need programs that read and write"));
        }
        for field in &self.fields {
            let types: &[MapType] = match field.kind {
                FieldKind::SpinLock | FieldKind::ResSpinLock => &[Hash, Array],
                FieldKind::Timer | FieldKind::Workqueue | FieldKind::TaskWork => &[Hash, LruHash, Array],
                FieldKind::KptrUnref | FieldKind::KptrRef | FieldKind::KptrPercpu | FieldKind::Refcount => {
                    &[Hash, PercpuHash, LruHash, LruPercpuHash, Array, PercpuArray]
                }
                FieldKind::ListHead | FieldKind::RbRoot => &[Hash, LruHash, Array],
                FieldKind::Uptr | FieldKind::ListNode | FieldKind::RbNode => &[],
            };
            if !types.contains(&self.map_type) {
                let what = format!("values of this type cannot have a {:?} field", field.kind);
                return Err(CreateError::new(Errno::EOPNOTSUPP, what));
            }
        }
        Ok(())
    }

    /// The checks of the template of inner maps.
    ///
    /// Kernel: `kernel/bpf/map_in_map.c bpf_map_meta_alloc, v6.18`
    pub(super) fn check_inner(&self) -> Result<(), CreateError> {
        use MapType::*;
        if !matches!(self.map_type, ArrayOfMaps | HashOfMaps) {
            return Ok(());
        }
        let Some(inner) = &self.inner else {
            return Err(CreateError::new(Errno::EBADF, "a map of maps needs a template of its inner maps"));
        };
        if matches!(inner.map_type, ArrayOfMaps | HashOfMaps) {
            return Err(invalid("an inner map cannot hold maps itself"));
        }
        if inner.map_type == ProgArray {
            return Err(CreateError::new(Errno::ENOTSUPP, "a program array cannot be an inner map"));
        }
        inner.check()?;
        inner.check_fields()
    }
}

fn invalid(reason: impl Into<String>) -> CreateError {
    CreateError::new(Errno::EINVAL, reason)
}
