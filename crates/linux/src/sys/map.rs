//! [`Map`]: a kernel map, with the lengths that its commands need.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use uapi::Errno;
use uapi::bpf::MapType;
use uapi::bpf_attr::{self as attr, cmd};

use super::{addr_of, addr_of_mut, bpf, bpf_fd, fd_by_id, object_info, object_name, possible_cpus, raw};

/// What a map is created from (`BPF_MAP_CREATE`).
#[derive(Clone, Copy, Debug)]
pub struct MapArgs<'a> {
    /// `enum bpf_map_type`; a number, so that a test can ask for one that does not exist.
    pub map_type: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Entries; bytes for ring buffers.
    pub max_entries: u32,
    /// `BPF_F_*`.
    pub map_flags: u32,
    /// Name; cut and cleaned as needed.
    pub name: &'a str,
    /// NUMA node, with `BPF_F_NUMA_NODE`.
    pub numa_node: u32,
    /// Type-specific extra value.
    pub map_extra: u64,
    /// Template of inner maps.
    pub inner: Option<BorrowedFd<'a>>,
    /// Type information with the type numbers of key and value in it.
    pub btf: Option<(BorrowedFd<'a>, u32, u32)>,
}

impl Default for MapArgs<'_> {
    fn default() -> Self {
        Self {
            map_type: MapType::Array as u32,
            key_size: 4,
            value_size: 4,
            max_entries: 1,
            map_flags: 0,
            name: "",
            numa_node: 0,
            map_extra: 0,
            inner: None,
            btf: None,
        }
    }
}

/// A kernel map that is held open.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    map_type: u32,
    key_size: usize,
    /// Bytes that user space reads and writes as one value.
    value_len: usize,
    id: u32,
}

/// What a batch lookup has read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Keys, one after the other.
    pub keys: Vec<u8>,
    /// Values, one after the other.
    pub values: Vec<u8>,
    /// Entries in both.
    pub count: u32,
    /// Where the next batch starts; `None` after the last.
    pub next: Option<Vec<u8>>,
}

impl Map {
    /// Creates a map.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    pub fn create(args: &MapArgs<'_>) -> Result<Self, Errno> {
        let (btf_fd, key_type, value_type) = args.btf.map_or((0, 0, 0), |(fd, k, v)| (raw(fd), k, v));
        let mut attr = attr::MapCreate {
            map_type: args.map_type,
            key_size: args.key_size,
            value_size: args.value_size,
            max_entries: args.max_entries,
            map_flags: args.map_flags,
            inner_map_fd: args.inner.map_or(0, raw),
            numa_node: args.numa_node,
            map_name: object_name(args.name),
            btf_fd,
            btf_key_type_id: key_type,
            btf_value_type_id: value_type,
            map_extra: args.map_extra,
            ..Default::default()
        };
        // SAFETY: no pointers; the command answers with a descriptor.
        Self::adopt(unsafe { bpf_fd(cmd::MAP_CREATE, &mut attr) }?)
    }

    /// Opens a map by its number.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is none.
    pub fn by_id(id: u32) -> Result<Self, Errno> {
        Self::adopt(fd_by_id(cmd::MAP_GET_FD_BY_ID, id)?)
    }

    /// Takes over a descriptor of a map.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is none.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Errno> {
        // Programs and links answer the same command with structs of another shape, so ask first.
        if !is_map(fd.as_fd()) {
            return Err(Errno::EINVAL);
        }
        Self::adopt(fd)
    }

    /// Takes over a descriptor that is known to be a map's.
    fn adopt(fd: OwnedFd) -> Result<Self, Errno> {
        let info: attr::MapInfo = object_info(fd.as_fd())?;
        let value_len = user_value_len(info.map_type, info.value_size as usize);
        Ok(Self { fd, map_type: info.map_type, key_size: info.key_size as usize, value_len, id: info.id })
    }

    /// The kernel's number for it.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Bytes of a key.
    #[must_use]
    pub fn key_size(&self) -> usize {
        self.key_size
    }

    /// Bytes of a value as user space sees it: per-CPU values one after the other, each padded to 8 bytes;
    /// 4 for maps that hold programs, maps or events.
    #[must_use]
    pub fn value_len(&self) -> usize {
        self.value_len
    }

    /// `bpf_map_info`.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    pub fn info(&self) -> Result<attr::MapInfo, Errno> {
        object_info(self.fd.as_fd())
    }

    /// `BPF_MAP_LOOKUP_ELEM`. A bloom filter has no keys: the value to ask for is given as `key`.
    ///
    /// # Errors
    ///
    /// The kernel's errno; `EINVAL` for a key of the wrong length.
    pub fn lookup(&self, key: &[u8], flags: u64) -> Result<Vec<u8>, Errno> {
        let mut value = vec![0; self.value_len];
        self.lookup_into(key, &mut value, flags)?;
        Ok(value)
    }

    /// As [`Map::lookup`], into a buffer of [`Map::value_len`] bytes.
    ///
    /// # Errors
    ///
    /// As there; `EINVAL` for a buffer of the wrong length.
    pub fn lookup_into(&self, key: &[u8], value: &mut [u8], flags: u64) -> Result<(), Errno> {
        if value.len() != self.value_len {
            return Err(Errno::EINVAL);
        }
        let key = if self.map_type == MapType::BloomFilter as u32 {
            if key.len() != self.value_len {
                return Err(Errno::EINVAL);
            }
            value.copy_from_slice(key);
            &[]
        } else {
            key
        };
        self.elem(cmd::MAP_LOOKUP_ELEM, key, addr_of_mut(value), flags)
    }

    /// `BPF_MAP_LOOKUP_AND_DELETE_ELEM`: pops from queues and stacks.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    pub fn lookup_and_delete(&self, key: &[u8], flags: u64) -> Result<Vec<u8>, Errno> {
        let mut value = vec![0; self.value_len];
        self.elem(cmd::MAP_LOOKUP_AND_DELETE_ELEM, key, addr_of_mut(&mut value), flags)?;
        Ok(value)
    }

    /// `BPF_MAP_UPDATE_ELEM`.
    ///
    /// # Errors
    ///
    /// The kernel's errno; `EINVAL` for a key or value of the wrong length.
    pub fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        if value.len() != self.value_len {
            return Err(Errno::EINVAL);
        }
        self.elem(cmd::MAP_UPDATE_ELEM, key, addr_of(value), flags)
    }

    /// `BPF_MAP_DELETE_ELEM`.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    pub fn delete(&self, key: &[u8]) -> Result<(), Errno> {
        self.elem(cmd::MAP_DELETE_ELEM, key, 0, 0)
    }

    /// `BPF_MAP_GET_NEXT_KEY`; the first key if none is given.
    ///
    /// # Errors
    ///
    /// The kernel's errno; `ENOENT` after the last key.
    pub fn next_key(&self, key: Option<&[u8]>) -> Result<Vec<u8>, Errno> {
        if key.is_some_and(|k| k.len() != self.key_size) {
            return Err(Errno::EINVAL);
        }
        let mut next = vec![0; self.key_size];
        let mut attr = attr::MapElem {
            map_fd: raw(self.fd.as_fd()),
            key: key.map_or(0, addr_of),
            value: addr_of_mut(&mut next),
            ..Default::default()
        };
        // SAFETY: `key` is null or valid for `key_size` bytes; `next` is valid for writing as many.
        unsafe { bpf(cmd::MAP_GET_NEXT_KEY, &mut attr) }?;
        Ok(next)
    }

    /// `BPF_MAP_LOOKUP_BATCH` of at most `count` entries from where the last batch ended.
    ///
    /// # Errors
    ///
    /// The kernel's errno; 524 (`ENOTSUPP`) for types without it, `ENOSPC` if a hash bucket holds more
    /// entries than asked for.
    pub fn lookup_batch(&self, from: Option<&[u8]>, count: u32) -> Result<Batch, Errno> {
        let cursor = self.key_size.max(8);
        if from.is_some_and(|f| f.len() != cursor) {
            return Err(Errno::EINVAL);
        }
        let entries = count as usize;
        let mut next = vec![0; cursor];
        let mut keys = vec![0; self.key_size.checked_mul(entries).ok_or(Errno::E2BIG)?];
        let mut values = vec![0; self.value_len.checked_mul(entries).ok_or(Errno::E2BIG)?];
        let mut attr = attr::MapBatch {
            in_batch: from.map_or(0, addr_of),
            out_batch: addr_of_mut(&mut next),
            keys: addr_of_mut(&mut keys),
            values: addr_of_mut(&mut values),
            count,
            map_fd: raw(self.fd.as_fd()),
            ..Default::default()
        };
        // SAFETY: the cursors are as long as the longest that any map type uses (its key, or 4 bytes for
        // hash tables); `keys` and `values` are valid for writing `count` entries.
        let last = match unsafe { bpf(cmd::MAP_LOOKUP_BATCH, &mut attr) } {
            Ok(_) => false,
            Err(Errno::ENOENT) => true,
            Err(errno) => return Err(errno),
        };
        let got = (attr.count as usize).min(entries);
        keys.truncate(got * self.key_size);
        values.truncate(got * self.value_len);
        Ok(Batch { keys, values, count: got as u32, next: (!last).then_some(next) })
    }

    /// `BPF_MAP_UPDATE_BATCH`. The result is the number of entries written before an error, with it.
    ///
    /// # Errors
    ///
    /// Entries written and the kernel's errno; `EINVAL` for lengths that do not fit each other.
    pub fn update_batch(&self, keys: &[u8], values: &[u8], flags: u64) -> Result<u32, (u32, Errno)> {
        let count = keys.len().checked_div(self.key_size).ok_or((0, Errno::EINVAL))?;
        if count * self.key_size != keys.len() || count.checked_mul(self.value_len) != Some(values.len()) {
            return Err((0, Errno::EINVAL));
        }
        self.batch(cmd::MAP_UPDATE_BATCH, addr_of(keys), addr_of(values), count as u32, flags)
    }

    /// `BPF_MAP_DELETE_BATCH`.
    ///
    /// # Errors
    ///
    /// Entries deleted and the kernel's errno.
    pub fn delete_batch(&self, keys: &[u8]) -> Result<u32, (u32, Errno)> {
        let count = keys.len().checked_div(self.key_size).ok_or((0, Errno::EINVAL))?;
        if count * self.key_size != keys.len() {
            return Err((0, Errno::EINVAL));
        }
        self.batch(cmd::MAP_DELETE_BATCH, addr_of(keys), 0, count as u32, 0)
    }

    /// `BPF_MAP_FREEZE`: user space can no longer write it.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    pub fn freeze(&self) -> Result<(), Errno> {
        let mut attr = attr::MapElem { map_fd: raw(self.fd.as_fd()), ..Default::default() };
        // SAFETY: no pointers.
        unsafe { bpf(cmd::MAP_FREEZE, &mut attr) }.map(drop)
    }

    /// One of the element commands. `value` is null or valid for `value_len` bytes.
    fn elem(&self, cmd: u32, key: &[u8], value: u64, flags: u64) -> Result<(), Errno> {
        if key.len() != self.key_size {
            return Err(Errno::EINVAL);
        }
        let map_fd = raw(self.fd.as_fd());
        let mut attr = attr::MapElem { map_fd, pad: 0, key: addr_of(key), value, flags };
        // SAFETY: `key` is valid for `key_size` bytes (null for 0), `value` as this function demands; both
        // lengths are those of the map, taken from the kernel's own answer.
        unsafe { bpf(cmd, &mut attr) }.map(drop)
    }

    /// A batch of writes. `keys` and `values` are null or valid for `count` entries.
    fn batch(
        &self,
        cmd: u32,
        keys: u64,
        values: u64,
        count: u32,
        elem_flags: u64,
    ) -> Result<u32, (u32, Errno)> {
        let map_fd = raw(self.fd.as_fd());
        let mut attr = attr::MapBatch { keys, values, count, map_fd, elem_flags, ..Default::default() };
        // SAFETY: as this function demands; these commands only read through the pointers.
        match unsafe { bpf(cmd, &mut attr) } {
            Ok(_) => Ok(attr.count),
            Err(errno) => Err((attr.count, errno)),
        }
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether a descriptor is a map's: only those have a `map_type` line in their fdinfo.
fn is_map(fd: BorrowedFd<'_>) -> bool {
    std::fs::read_to_string(format!("/proc/self/fdinfo/{}", raw(fd)))
        .is_ok_and(|text| text.lines().any(|l| l.starts_with("map_type:")))
}

/// Kernel: `kernel/bpf/syscall.c bpf_map_value_size, v6.18`
fn user_value_len(map_type: u32, value_size: usize) -> usize {
    use MapType::*;
    match MapType::from_raw(map_type) {
        Some(PercpuHash | PercpuArray | LruPercpuHash | PercpuCgroupStorage) => {
            value_size.next_multiple_of(8) * possible_cpus() as usize
        }
        Some(ProgArray | PerfEventArray | CgroupArray | ArrayOfMaps | HashOfMaps) => 4,
        _ => value_size,
    }
}
