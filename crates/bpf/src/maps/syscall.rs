//! [`MapFd`]: what user space does with maps, the commands of bpf(2).

use std::sync::Arc;
use std::sync::atomic::Ordering::*;

use mem::{SharedSlice, epoch};
use uapi::Errno;
use uapi::bpf::*;

use super::fd_array::{NoRefs, Refs};
use super::htab::{Entries, NewValue, Update};
use super::queue::Take;
use super::{Bytes, FieldKind, Kind, Map, round8};

/// What a handle allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum FdMode {
    /// Everything.
    ReadWrite,
    /// Lookups (`BPF_F_RDONLY`).
    ReadOnly,
    /// Updates (`BPF_F_WRONLY`).
    WriteOnly,
}

/// A handle of user space. The commands answer the errno of the system call.
///
/// Commands that take numbers of programs, maps, devices or sockets come in two forms; the one without
/// [`Refs`] knows none.
pub struct MapFd {
    map: Arc<Map>,
    mode: FdMode,
    cpu: u32,
}

impl Map {
    /// A handle with the mode that the map was created with.
    #[must_use]
    pub fn open(self: &Arc<Self>) -> MapFd {
        let mode = match self.def.map_flags & (BPF_F_RDONLY | BPF_F_WRONLY) {
            BPF_F_RDONLY => FdMode::ReadOnly,
            BPF_F_WRONLY => FdMode::WriteOnly,
            _ => FdMode::ReadWrite,
        };
        self.open_as(mode)
    }

    /// A handle with another mode, as `BPF_MAP_GET_FD_BY_ID` gives it.
    #[must_use]
    pub fn open_as(self: &Arc<Self>, mode: FdMode) -> MapFd {
        self.user_refs.fetch_add(1, Relaxed);
        MapFd { map: self.clone(), mode, cpu: 0 }
    }

    /// Whether user space still holds it. Timers cannot be started in a map that it has given up.
    #[must_use]
    pub fn has_user_ref(&self) -> bool {
        self.user_refs.load(Acquire) > 0
    }

    /// Bytes of a value as user space sees it: in per-CPU maps all CPUs' values, padded.
    #[must_use]
    pub fn user_value_size(&self) -> usize {
        match &self.kind {
            _ if self.def.is_percpu() => round8(self.def.value_size) * self.cpus as usize,
            Kind::ProgArray(_) | Kind::PerfEventArray(_) | Kind::ArrayOfMaps(_) | Kind::HashOfMaps(_) => 4,
            _ => self.def.value_size as usize,
        }
    }

    /// The last handle takes programs and timers with it, which may keep the map alive themselves.
    ///
    /// Kernel: `kernel/bpf/syscall.c bpf_map_put_uref, v6.18`
    fn release_user_ref(&self) {
        if self.user_refs.fetch_sub(1, AcqRel) != 1 {
            return;
        }
        if let Kind::ProgArray(array) = &self.kind {
            array.clear();
        }
        let timed = [FieldKind::Timer, FieldKind::Workqueue].iter().any(|kind| self.record.has(*kind));
        if let (true, Some(hook)) = (timed, self.free_fields.get()) {
            self.each_value(|value| hook.cancel_timers(self, value));
        }
    }
}

impl Clone for MapFd {
    fn clone(&self) -> Self {
        self.map.open_as(self.mode).on_cpu(self.cpu)
    }
}

impl Drop for MapFd {
    fn drop(&mut self) {
        self.map.release_user_ref();
        epoch::collect();
    }
}

impl MapFd {
    /// The map.
    #[must_use]
    pub fn map(&self) -> &Arc<Map> {
        &self.map
    }

    /// The same handle for commands that run on another CPU, which LRU lists tell apart.
    #[must_use]
    pub fn on_cpu(mut self, cpu: u32) -> Self {
        self.cpu = cpu;
        self
    }

    /// Kernel: `kernel/bpf/syscall.c map_get_sys_perms, v6.18`
    fn may_read(&self) -> Result<(), Errno> {
        if self.mode == FdMode::WriteOnly { Err(Errno::EPERM) } else { Ok(()) }
    }

    fn may_write(&self) -> Result<(), Errno> {
        let denied = self.mode == FdMode::ReadOnly || self.map.frozen.load(SeqCst);
        if denied { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// `BPF_F_LOCK` needs a lock in the value.
    fn check_lock(&self, flags: u64) -> Result<bool, Errno> {
        let locked = flags & BPF_F_LOCK != 0;
        if locked && !self.map.record.has(FieldKind::SpinLock) {
            return Err(Errno::EINVAL);
        }
        Ok(locked)
    }

    /// The kernel reads as many bytes as a key has; here a key of another length is refused.
    fn check_key(&self, key: &[u8]) -> Result<(), Errno> {
        if key.len() == self.map.def.key_size as usize { Ok(()) } else { Err(Errno::EINVAL) }
    }

    fn check_value(&self, value: &[u8]) -> Result<(), Errno> {
        if value.len() == self.map.user_value_size() { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// Runs a command that writes, so that freezing can tell.
    fn writing<R>(&self, f: impl FnOnce() -> Result<R, Errno>) -> Result<R, Errno> {
        self.map.writers.fetch_add(1, SeqCst);
        let result = self.may_write().and_then(|()| f());
        self.map.writers.fetch_sub(1, SeqCst);
        epoch::collect();
        result
    }

    /// `BPF_MAP_LOOKUP_ELEM`. Of a bloom filter, [`MapFd::peek`] asks instead, since the value goes in.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    pub fn lookup_elem(&self, key: &[u8], flags: u64) -> Result<Vec<u8>, Errno> {
        if flags & !BPF_F_LOCK != 0 {
            return Err(Errno::EINVAL);
        }
        self.may_read()?;
        let locked = self.check_lock(flags)?;
        self.check_key(key)?;
        self.copy_value(key, locked)
    }

    /// Kernel: `kernel/bpf/syscall.c bpf_map_copy_value, v6.18`
    fn copy_value(&self, key: &[u8], locked: bool) -> Result<Vec<u8>, Errno> {
        let map = &*self.map;
        let index = || number(key);
        match &map.kind {
            Kind::Hash(table) => table.sys_lookup(&map.record, key, locked),
            Kind::PercpuArray(array) => array.sys_lookup(&map.record, index()?),
            Kind::Array(array) => {
                array.lookup(index()?).map(|v| map.record.read(v, locked)).ok_or(Errno::ENOENT)
            }
            Kind::Lpm(trie) => trie.sys_lookup(key).ok_or(Errno::ENOENT),
            Kind::Queue(queue) => {
                let mut value = vec![0; map.def.value_size as usize];
                queue.take(Take::Peek, SharedSlice::from_mut(&mut value)).map(|()| value)
            }
            Kind::Bloom(_) => Err(Errno::EINVAL),
            Kind::Ringbuf(_) | Kind::UserRingbuf(_) => Err(Errno::ENOTSUPP),
            Kind::ProgArray(array) => array.sys_lookup(index()?, |p| p.id()),
            Kind::ArrayOfMaps(array) => array.sys_lookup(index()?, |m| m.id()),
            Kind::PerfEventArray(_) => Err(Errno::ENOTSUPP),
            Kind::HashOfMaps(table) => table.table.sys_lookup(&map.record, key, false),
            Kind::Devmap(_) | Kind::DevmapHash(_) | Kind::Cpumap(_) => {
                map.lookup(&epoch::pin(), 0, key).map(SharedSlice::to_vec).ok_or(Errno::ENOENT)
            }
            Kind::Xskmap(_) => Err(Errno::EOPNOTSUPP),
        }
    }

    /// Whether a value may be in a bloom filter: `BPF_MAP_LOOKUP_ELEM` with the value given.
    ///
    /// # Errors
    ///
    /// `ENOENT` if it is not; `EINVAL` for other maps.
    pub fn peek(&self, value: &[u8]) -> Result<(), Errno> {
        self.may_read()?;
        self.check_value(value)?;
        match &self.map.kind {
            Kind::Bloom(bloom) => bloom.peek(Bytes::Own(value)),
            _ => Err(Errno::EINVAL),
        }
    }

    /// [`MapFd::update_with`] without any file or device.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    pub fn update_elem(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        self.update_with(&NoRefs, key, value, flags)
    }

    /// `BPF_MAP_UPDATE_ELEM`. Queues, stacks and bloom filters take an empty key.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    pub fn update_with(&self, refs: &dyn Refs, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        self.writing(|| {
            self.check_lock(flags)?;
            self.check_key(key)?;
            self.check_value(value)?;
            self.update_value(refs, key, value, flags)
        })
    }

    /// Kernel: `kernel/bpf/syscall.c bpf_map_update_value, v6.18`
    fn update_value(&self, refs: &dyn Refs, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        let map = &*self.map;
        let index = || number(key);
        let fd = || number(value).map(|n| n as i32);
        match &map.kind {
            Kind::Hash(table) => {
                let free_fields = &|old: SharedSlice<'_>| map.free_fields(old);
                let value = NewValue::All(Bytes::Own(value));
                table.update(&Update { record: &map.record, cpu: self.cpu, key, value, flags, free_fields })
            }
            Kind::PercpuArray(array) => array.sys_update(&map.record, index()?, Bytes::Own(value), flags),
            Kind::Array(_) | Kind::Lpm(_) => map.update(self.cpu, key, Bytes::Own(value), flags),
            Kind::Queue(_) | Kind::Bloom(_) => map.push(Bytes::Own(value), flags),
            Kind::Ringbuf(_) | Kind::UserRingbuf(_) => Err(Errno::ENOTSUPP),
            Kind::ProgArray(array) => array.update(index()?, flags, || {
                let program = refs.program(fd()?)?;
                if map.admits(&program) { Ok(program) } else { Err(Errno::EINVAL) }
            }),
            Kind::PerfEventArray(array) => array.update(index()?, flags, || refs.perf_event(fd()?)),
            Kind::ArrayOfMaps(array) => array.update(index()?, flags, || map.inner_of(refs.map(fd()?)?)),
            Kind::HashOfMaps(table) => table.update(self.cpu, key, map.inner_of(refs.map(fd()?)?)?, flags),
            Kind::Devmap(devmap) => devmap.update(map, refs, index()?, value, flags),
            Kind::DevmapHash(devmap) => devmap.update(map, refs, index()?, value, flags),
            Kind::Cpumap(cpumap) => cpumap.update(map, refs, index()?, value, flags),
            Kind::Xskmap(xskmap) => xskmap.update(refs, index()?, value, flags),
        }
    }

    /// `BPF_MAP_DELETE_ELEM`.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    pub fn delete_elem(&self, key: &[u8]) -> Result<(), Errno> {
        self.writing(|| {
            self.check_key(key)?;
            self.map.delete(self.cpu, key)
        })
    }

    /// `BPF_MAP_GET_NEXT_KEY`: the first key if none is given, or if it is not in the map.
    ///
    /// # Errors
    ///
    /// `ENOENT` after the last key; else the kernel's errno.
    pub fn get_next_key(&self, key: Option<&[u8]>) -> Result<Vec<u8>, Errno> {
        self.may_read()?;
        if let Some(key) = key {
            self.check_key(key)?;
        }
        let index = key.map(number).transpose();
        let bytes = |key: u32| key.to_le_bytes().to_vec();
        match &self.map.kind {
            Kind::Hash(table) => table.next_key(key),
            Kind::HashOfMaps(table) => table.table.next_key(key),
            Kind::Lpm(trie) => trie.next_key(key),
            Kind::Devmap(map) => map.next_key(index?).map(bytes),
            Kind::DevmapHash(map) => map.next_key(index?).map(bytes),
            Kind::Cpumap(map) => map.next_key(index?).map(bytes),
            Kind::Xskmap(map) => map.next_key(index?).map(bytes),
            Kind::Array(_)
            | Kind::PercpuArray(_)
            | Kind::ProgArray(_)
            | Kind::PerfEventArray(_)
            | Kind::ArrayOfMaps(_) => super::array::next_index(index?, self.map.def.max_entries).map(bytes),
            Kind::Queue(_) => Err(Errno::EINVAL),
            Kind::Bloom(_) => Err(Errno::EOPNOTSUPP),
            Kind::Ringbuf(_) | Kind::UserRingbuf(_) => Err(Errno::ENOTSUPP),
        }
    }

    /// `BPF_MAP_LOOKUP_AND_DELETE_ELEM`; queues and stacks take an empty key.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    pub fn lookup_and_delete_elem(&self, key: &[u8], flags: u64) -> Result<Vec<u8>, Errno> {
        if flags & !BPF_F_LOCK != 0 {
            return Err(Errno::EINVAL);
        }
        self.writing(|| {
            self.may_read()?;
            let map = &*self.map;
            if flags != 0 && matches!(map.kind, Kind::Queue(_)) {
                return Err(Errno::EINVAL);
            }
            let locked = self.check_lock(flags)?;
            self.check_key(key)?;
            match &map.kind {
                Kind::Queue(queue) => {
                    let mut value = vec![0; map.def.value_size as usize];
                    queue.take(Take::Pop, SharedSlice::from_mut(&mut value)).map(|()| value)
                }
                Kind::Hash(table) => {
                    let free_fields = |old: SharedSlice<'_>| map.free_fields(old);
                    table.sys_lookup_and_delete(&map.record, self.cpu, key, locked, &free_fields)
                }
                _ => Err(Errno::ENOTSUPP),
            }
        })
    }

    /// `BPF_MAP_FREEZE`: user space can no longer write.
    ///
    /// # Errors
    ///
    /// `ENOTSUPP` with special fields, `EPERM` without the right to write, `EBUSY` if it is frozen already or
    /// someone writes.
    pub fn freeze(&self) -> Result<(), Errno> {
        if !self.map.record.is_plain() {
            return Err(Errno::ENOTSUPP);
        }
        self.may_write()?;
        if self.map.writers.load(SeqCst) > 0 || self.map.frozen.swap(true, SeqCst) {
            return Err(Errno::EBUSY);
        }
        Ok(())
    }

    /// `BPF_MAP_LOOKUP_BATCH`: up to `count` entries from a position on.
    ///
    /// # Errors
    ///
    /// The kernel's errno, beside [`Batch::end`].
    pub fn lookup_batch(&self, from: Option<&[u8]>, count: u32, flags: u64) -> Result<Batch, Errno> {
        self.may_read()?;
        self.batch(from, count, flags, false)
    }

    /// `BPF_MAP_LOOKUP_AND_DELETE_BATCH`, of hash tables.
    ///
    /// # Errors
    ///
    /// The kernel's errno, beside [`Batch::end`].
    pub fn lookup_and_delete_batch(
        &self,
        from: Option<&[u8]>,
        count: u32,
        flags: u64,
    ) -> Result<Batch, Errno> {
        self.writing(|| {
            self.may_read()?;
            if !matches!(self.map.kind, Kind::Hash(_)) {
                return Err(Errno::ENOTSUPP);
            }
            self.batch(from, count, flags, true)
        })
    }

    fn batch(&self, from: Option<&[u8]>, count: u32, flags: u64, delete: bool) -> Result<Batch, Errno> {
        if !self.has_batches() {
            return Err(Errno::ENOTSUPP);
        }
        if flags & !BPF_F_LOCK != 0 {
            return Err(Errno::EINVAL);
        }
        let locked = self.check_lock(flags)?;
        if count == 0 {
            return Ok(Batch::default());
        }
        match &self.map.kind {
            Kind::Hash(table) => {
                let map = &*self.map;
                let free_fields = |old: SharedSlice<'_>| map.free_fields(old);
                let read = |chain, most| {
                    let delete: Option<super::htab::FreeFields<'_>> = delete.then_some(&free_fields);
                    table.sys_chain(&map.record, self.cpu, chain, most, locked, delete)
                };
                batch_chains(table.index.chains(), from, count, read)
            }
            Kind::HashOfMaps(maps) => {
                let read = |chain, most| maps.table.sys_chain(&self.map.record, 0, chain, most, false, None);
                batch_chains(maps.table.index.chains(), from, count, read)
            }
            _ => self.batch_keys(from, count, locked),
        }
    }

    /// Whether the type has `map_lookup_batch`.
    fn has_batches(&self) -> bool {
        matches!(
            self.map.kind,
            Kind::Hash(_)
                | Kind::HashOfMaps(_)
                | Kind::Array(_)
                | Kind::PercpuArray(_)
                | Kind::ArrayOfMaps(_)
                | Kind::Lpm(_)
        )
    }

    /// Key by key; the position is the last key.
    ///
    /// Kernel: `kernel/bpf/syscall.c generic_map_lookup_batch, v6.18`
    fn batch_keys(&self, from: Option<&[u8]>, count: u32, locked: bool) -> Result<Batch, Errno> {
        let mut batch = Batch::default();
        let mut previous = from.map(<[u8]>::to_vec);
        while (batch.entries.len() as u64) < u64::from(count) {
            let key = match self.get_next_key(previous.as_deref()) {
                Ok(key) => key,
                Err(e) => {
                    batch.end = Some(e);
                    break;
                }
            };
            match self.copy_value(&key, locked) {
                Ok(value) => batch.entries.push((key.clone(), value)),
                Err(Errno::ENOENT) => {}
                Err(e) => return Err(e),
            }
            previous = Some(key);
        }
        batch.next = previous.unwrap_or_default();
        Ok(batch)
    }

    /// `BPF_MAP_UPDATE_BATCH`: answers how many entries were written and why it stopped there.
    pub fn update_batch(
        &self,
        refs: &dyn Refs,
        entries: &[(&[u8], &[u8])],
        flags: u64,
    ) -> (usize, Result<(), Errno>) {
        let supported = self.has_batches();
        let check = self.writing(|| self.check_batch(supported, flags));
        first_error(entries.len(), check, |i| self.update_with(refs, entries[i].0, entries[i].1, flags))
    }

    /// `BPF_MAP_DELETE_BATCH`: answers how many entries were deleted and why it stopped there.
    pub fn delete_batch(&self, keys: &[&[u8]], flags: u64) -> (usize, Result<(), Errno>) {
        let supported = matches!(self.map.kind, Kind::Hash(_) | Kind::HashOfMaps(_) | Kind::Lpm(_));
        let check = self.writing(|| self.check_batch(supported, flags));
        first_error(keys.len(), check, |i| self.delete_elem(keys[i]))
    }

    fn check_batch(&self, supported: bool, flags: u64) -> Result<(), Errno> {
        if !supported {
            return Err(Errno::ENOTSUPP);
        }
        if flags & !BPF_F_LOCK != 0 {
            return Err(Errno::EINVAL);
        }
        self.check_lock(flags).map(|_| ())
    }
}

impl Map {
    /// Checks an inner map against the template.
    ///
    /// Kernel: `kernel/bpf/map_in_map.c bpf_map_fd_get_ptr, v6.18`
    fn inner_of(&self, inner: Arc<Map>) -> Result<Arc<Map>, Errno> {
        let Some(template) = &self.def.inner else { return Err(Errno::EINVAL) };
        let (t, i) = (&**template, &inner.def);
        // The kernel forces this flag on devmaps, after the template was given.
        let flags = |def: &super::MapDef| match def.map_type {
            MapType::Devmap | MapType::DevmapHash => def.map_flags | BPF_F_RDONLY_PROG,
            _ => def.map_flags,
        };
        let same = t.map_type == i.map_type
            && t.key_size == i.key_size
            && t.value_size == i.value_size
            && flags(t) == flags(i)
            && t.fields == i.fields;
        let same_entries = match t.map_type {
            MapType::Array => t.map_flags & BPF_F_INNER_MAP != 0 || t.max_entries == i.max_entries,
            MapType::Xskmap => t.max_entries == i.max_entries,
            _ => true,
        };
        if same && same_entries { Ok(inner) } else { Err(Errno::EINVAL) }
    }
}

/// A part of a map, read at once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    /// Keys and values.
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the next batch starts.
    pub next: Vec<u8>,
    /// `ENOENT` if this was the last one, `ENOSPC` if not even a part fits that cannot be split.
    pub end: Option<Errno>,
}

/// Chain by chain; the position is the number of the chain.
///
/// Kernel: `kernel/bpf/hashtab.c __htab_map_lookup_and_delete_batch, v6.18`
fn batch_chains(
    chains: u32,
    from: Option<&[u8]>,
    count: u32,
    mut read: impl FnMut(u32, usize) -> Result<Entries, usize>,
) -> Result<Batch, Errno> {
    let mut chain = from.map_or(Ok(0), number)?;
    if chain >= chains {
        return Err(Errno::ENOENT);
    }
    let mut batch = Batch::default();
    while chain < chains {
        match read(chain, count as usize - batch.entries.len()) {
            Ok(entries) => batch.entries.extend(entries),
            Err(_) => {
                batch.end = batch.entries.is_empty().then_some(Errno::ENOSPC);
                batch.next = chain.to_le_bytes().to_vec();
                return Ok(batch);
            }
        }
        chain += 1;
    }
    batch.end = Some(Errno::ENOENT);
    batch.next = chain.to_le_bytes().to_vec();
    Ok(batch)
}

fn first_error(
    n: usize,
    check: Result<(), Errno>,
    mut each: impl FnMut(usize) -> Result<(), Errno>,
) -> (usize, Result<(), Errno>) {
    if check.is_err() {
        return (0, check);
    }
    for i in 0..n {
        if let Err(e) = each(i) {
            return (i, Err(e));
        }
    }
    (n, Ok(()))
}

fn number(bytes: &[u8]) -> Result<u32, Errno> {
    let (first, _) = bytes.split_first_chunk().ok_or(Errno::EINVAL)?;
    Ok(u32::from_le_bytes(*first))
}
