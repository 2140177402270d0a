//! What programs do with maps.

use std::ops::ControlFlow;
use std::sync::Arc;

use mem::SharedSlice;
use uapi::Errno;

use super::htab::{Htab, NewValue, Update};
use super::queue::Take;
use super::{Bytes, CpuEntry, DevEntry, Guard, Kind, Map, Object, Ringbuf, SocketObject, UserRingbuf};
use crate::vm::Program;

/// The key of an array; `None` if it has not four bytes.
#[inline]
fn index(key: &[u8]) -> Option<u32> {
    key.try_into().ok().map(u32::from_le_bytes)
}

impl Map {
    /// `bpf_map_lookup_elem`: the value of a key, of the own CPU in per-CPU maps. `None` also for types
    /// that programs cannot look up.
    ///
    /// Maps of maps are looked up by [`Map::inner`]. Of an AF_XDP socket programs see its `bpf_xdp_sock`; the
    /// socket itself is found by [`Map::socket`].
    #[doc(alias = "bpf_map_lookup_elem")]
    #[inline]
    pub fn lookup<'g>(&'g self, guard: &'g Guard, cpu: u32, key: &[u8]) -> Option<SharedSlice<'g>> {
        match &self.kind {
            Kind::Hash(table) => table.lookup(guard, cpu, key),
            Kind::Array(array) => array.lookup(index(key)?),
            Kind::PercpuArray(array) => array.lookup(cpu, index(key)?),
            _ => self.lookup_other(guard, key),
        }
    }

    fn lookup_other<'g>(&'g self, guard: &'g Guard, key: &[u8]) -> Option<SharedSlice<'g>> {
        let size = self.def.value_size;
        match &self.kind {
            Kind::Lpm(trie) => trie.lookup(guard, key),
            Kind::Devmap(_) | Kind::DevmapHash(_) => self.device(guard, index(key)?)?.value(size),
            Kind::Cpumap(_) => self.cpu_entry(guard, index(key)?)?.value(size),
            Kind::Xskmap(_) => {
                self.socket(guard, index(key)?)?.downcast_ref::<SocketObject>().map(SocketObject::value)
            }
            _ => None,
        }
    }

    /// `bpf_map_lookup_percpu_elem`: the value of a key on another CPU.
    #[doc(alias = "bpf_map_lookup_percpu_elem")]
    pub fn lookup_percpu<'g>(&'g self, guard: &'g Guard, key: &[u8], cpu: u32) -> Option<SharedSlice<'g>> {
        (self.def.is_percpu() && cpu < self.cpus).then(|| self.lookup(guard, cpu, key))?
    }

    /// Asks the processor to fetch what a lookup of this key will read first. In a batch, call it for all
    /// keys, then [`Map::prefetch_value`] for all, then look up.
    #[inline]
    pub fn prefetch(&self, key: &[u8]) {
        match &self.kind {
            Kind::Hash(table) => table.prefetch(key),
            Kind::Array(array) => {
                if let Some(i) = index(key) {
                    array.slab().prefetch(i as usize);
                }
            }
            _ => {}
        }
    }

    /// Asks the processor to fetch the element that a lookup of this key will probably find.
    #[inline]
    pub fn prefetch_value(&self, key: &[u8]) {
        if let Kind::Hash(table) = &self.kind {
            table.prefetch_value(key);
        }
    }

    /// `bpf_map_update_elem`, of the own CPU's value in per-CPU maps. `key` and `value` have the map's sizes.
    ///
    /// # Errors
    ///
    /// The helper's errno.
    ///
    /// # Panics
    ///
    /// If `value` is shorter than a value.
    #[doc(alias = "bpf_map_update_elem")]
    pub fn update(&self, cpu: u32, key: &[u8], value: Bytes<'_>, flags: u64) -> Result<(), Errno> {
        match &self.kind {
            Kind::Hash(table) => self.update_table(table, cpu, key, value, flags),
            Kind::Array(_) | Kind::PercpuArray(_) => {
                self.update_index(cpu, index(key).ok_or(Errno::EINVAL)?, value, flags)
            }
            Kind::Lpm(trie) => trie.update(cpu, key, value, flags),
            Kind::Queue(_) | Kind::Bloom(_) => Err(Errno::EINVAL),
            Kind::Ringbuf(_) | Kind::UserRingbuf(_) => Err(Errno::ENOTSUPP),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    // PERF: called, its arguments go through memory in pieces of other sizes than they are read in, which
    // costs as much as a lock (`cargo bench -p earlybird --bench main_job -- maps/jit/hash_update`).
    #[inline(always)]
    fn update_table(
        &self,
        table: &Htab,
        cpu: u32,
        key: &[u8],
        value: Bytes<'_>,
        flags: u64,
    ) -> Result<(), Errno> {
        let free_fields = &|old: SharedSlice<'_>| self.free_fields(old);
        let value = NewValue::One(value);
        table.update(&Update { record: &self.record, cpu, key, value, flags, free_fields })
    }

    #[inline]
    fn update_index(&self, cpu: u32, index: u32, value: Bytes<'_>, flags: u64) -> Result<(), Errno> {
        let old = match &self.kind {
            Kind::Array(array) => array.update(&self.record, index, value, flags)?,
            Kind::PercpuArray(array) => array.update(&self.record, cpu, index, value, flags)?,
            _ => return Err(Errno::EINVAL),
        };
        self.free_fields(old);
        Ok(())
    }

    /// `bpf_map_delete_elem`.
    ///
    /// # Errors
    ///
    /// The helper's errno.
    #[doc(alias = "bpf_map_delete_elem")]
    pub fn delete(&self, cpu: u32, key: &[u8]) -> Result<(), Errno> {
        let number = || index(key).ok_or(Errno::EINVAL);
        match &self.kind {
            Kind::Hash(table) => table.delete(cpu, key, &|old| self.free_fields(old)),
            Kind::Lpm(trie) => trie.delete(cpu, key),
            Kind::HashOfMaps(table) => table.delete(cpu, key),
            Kind::ProgArray(array) => array.delete(number()?),
            Kind::PerfEventArray(array) => array.delete(number()?),
            Kind::ArrayOfMaps(array) => array.delete(number()?),
            Kind::Devmap(map) => map.delete(number()?),
            Kind::DevmapHash(map) => map.delete(number()?),
            Kind::Cpumap(map) => map.delete(number()?),
            Kind::Xskmap(map) => map.delete(number()?),
            Kind::Array(_) | Kind::PercpuArray(_) | Kind::Queue(_) => Err(Errno::EINVAL),
            Kind::Bloom(_) => Err(Errno::EOPNOTSUPP),
            Kind::Ringbuf(_) | Kind::UserRingbuf(_) => Err(Errno::ENOTSUPP),
        }
    }

    /// `bpf_map_push_elem`.
    ///
    /// # Errors
    ///
    /// `E2BIG` for a full queue or stack, `EINVAL` for wrong flags and maps.
    #[doc(alias = "bpf_map_push_elem")]
    pub fn push(&self, value: Bytes<'_>, flags: u64) -> Result<(), Errno> {
        match &self.kind {
            Kind::Queue(queue) => queue.push(value, flags),
            Kind::Bloom(bloom) => bloom.push(value, flags),
            _ => Err(Errno::EINVAL),
        }
    }

    /// `bpf_map_pop_elem`: takes the next value into `dst`, which is zeroed if there is none.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is none.
    #[doc(alias = "bpf_map_pop_elem")]
    pub fn pop(&self, dst: SharedSlice<'_>) -> Result<(), Errno> {
        match &self.kind {
            Kind::Queue(queue) => queue.take(Take::Pop, dst),
            Kind::Bloom(_) => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::EINVAL),
        }
    }

    /// `bpf_map_peek_elem`: copies the next value; of a bloom filter, asks whether `value` may be in it.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is none, or if it is not in the filter.
    #[doc(alias = "bpf_map_peek_elem")]
    pub fn peek(&self, value: SharedSlice<'_>) -> Result<(), Errno> {
        match &self.kind {
            Kind::Queue(queue) => queue.take(Take::Peek, value),
            Kind::Bloom(bloom) => bloom.peek(value.into()),
            _ => Err(Errno::EINVAL),
        }
    }

    /// `bpf_for_each_map_elem`: calls `f` with key and value of each entry until it breaks; answers how often.
    /// `f` may change the map.
    ///
    /// # Errors
    ///
    /// `EINVAL` for maps that cannot be gone through.
    #[doc(alias = "bpf_for_each_map_elem")]
    pub fn for_each<'g>(
        &'g self,
        guard: &'g Guard,
        cpu: u32,
        f: impl FnMut(SharedSlice<'_>, SharedSlice<'g>) -> ControlFlow<()>,
    ) -> Result<u64, Errno> {
        match &self.kind {
            Kind::Array(array) => Ok(array.for_each(f)),
            Kind::PercpuArray(array) => Ok(array.for_each(cpu, f)),
            Kind::Hash(table) => Ok(table.for_each(guard, cpu, f)),
            _ => Err(Errno::EINVAL),
        }
    }

    /// [`Map::update`] of an array, for callers who know that it is one.
    #[inline]
    pub(crate) fn update_array(
        &self,
        cpu: u32,
        index: u32,
        value: SharedSlice<'_>,
        flags: u64,
    ) -> Result<(), Errno> {
        self.update_index(cpu, index, value.into(), flags)
    }

    /// [`Map::update`] of a hash table, for callers who know that it is one and how long its keys are.
    #[inline]
    pub(crate) fn update_hash<const K: usize>(
        &self,
        cpu: u32,
        key: &[u8; K],
        value: SharedSlice<'_>,
        flags: u64,
    ) -> Result<(), Errno> {
        match &self.kind {
            Kind::Hash(table) => self.update_table(table, cpu, key, value.into(), flags),
            _ => Err(Errno::EINVAL),
        }
    }

    /// [`Map::delete`] in a hash table, as [`Map::update_hash`].
    #[inline]
    pub(crate) fn delete_hash<const K: usize>(&self, cpu: u32, key: &[u8; K]) -> Result<(), Errno> {
        match &self.kind {
            Kind::Hash(table) => table.delete(cpu, key, &|old| self.free_fields(old)),
            _ => Err(Errno::EINVAL),
        }
    }

    /// [`Map::lookup`] in an LPM trie, as [`Map::update_hash`].
    #[inline]
    pub(crate) fn lookup_prefix<'g, const K: usize>(
        &'g self,
        guard: &'g Guard,
        key: &[u8; K],
    ) -> Option<SharedSlice<'g>> {
        match &self.kind {
            Kind::Lpm(trie) => trie.lookup(guard, key),
            _ => None,
        }
    }

    /// The key of the value at a host address, in arrays and hash tables whose values are no CPU's own.
    #[must_use]
    pub fn key_of(&self, value: u64) -> Option<Vec<u8>> {
        match &self.kind {
            Kind::Array(array) => {
                let (offset, stride) =
                    (value.checked_sub(array.slab().base())?, array.slab().stride() as u64);
                let index = u32::try_from(offset / stride).ok().filter(|i| *i < array.max_entries())?;
                offset.is_multiple_of(stride).then(|| index.to_le_bytes().to_vec())
            }
            Kind::Hash(table) => table.key_at(value),
            _ => None,
        }
    }

    /// Entries of a hash table, counted now (`bpf_map_sum_elem_count`).
    #[doc(alias = "bpf_map_sum_elem_count")]
    #[must_use]
    pub fn element_count(&self) -> u64 {
        match &self.kind {
            Kind::Hash(table) => table.count(),
            Kind::HashOfMaps(table) => table.table.count(),
            _ => 0,
        }
    }

    /// The inner map of a key of a map of maps.
    #[inline]
    pub fn inner<'g>(&'g self, guard: &'g Guard, key: &[u8]) -> Option<&'g Arc<Map>> {
        match &self.kind {
            Kind::ArrayOfMaps(array) => array.get(guard, index(key)?),
            Kind::HashOfMaps(table) => table.get(guard, key),
            _ => None,
        }
    }

    /// The program in a slot of a program array.
    #[inline]
    pub fn program<'g>(&'g self, guard: &'g Guard, slot: u32) -> Option<&'g Arc<Program>> {
        match &self.kind {
            Kind::ProgArray(array) => array.get(guard, slot),
            _ => None,
        }
    }

    /// The perf event in a slot of an array of perf events.
    pub fn perf_event<'g>(&'g self, guard: &'g Guard, slot: u32) -> Option<&'g Object> {
        match &self.kind {
            Kind::PerfEventArray(array) => array.get(guard, slot),
            _ => None,
        }
    }

    /// The entry of a devmap of either kind.
    #[inline]
    pub fn device<'g>(&'g self, guard: &'g Guard, key: u32) -> Option<&'g DevEntry> {
        match &self.kind {
            Kind::Devmap(map) => map.entries.get(key as usize, guard),
            Kind::DevmapHash(map) => map.get(guard, key),
            _ => None,
        }
    }

    /// All entries of a devmap of either kind in the order in which broadcast goes through them.
    pub fn devices<'g>(&'g self, guard: &'g Guard) -> Box<dyn Iterator<Item = &'g DevEntry> + 'g> {
        match &self.kind {
            Kind::Devmap(map) => Box::new((0..map.entries.len()).filter_map(|i| map.entries.get(i, guard))),
            Kind::DevmapHash(map) => Box::new(map.all(guard)),
            _ => Box::new(std::iter::empty()),
        }
    }

    /// The entry of a cpumap.
    #[inline]
    pub fn cpu_entry<'g>(&'g self, guard: &'g Guard, cpu: u32) -> Option<&'g CpuEntry> {
        match &self.kind {
            Kind::Cpumap(map) => map.entries.get(cpu as usize, guard),
            _ => None,
        }
    }

    /// The socket of an xskmap.
    #[inline]
    pub fn socket<'g>(&'g self, guard: &'g Guard, slot: u32) -> Option<&'g Object> {
        match &self.kind {
            Kind::Xskmap(map) => map.sockets.get(slot as usize, guard),
            _ => None,
        }
    }

    /// Whether `bpf_redirect_map` would find a target.
    #[inline]
    pub fn has_target(&self, guard: &Guard, key: u32) -> bool {
        match &self.kind {
            Kind::Devmap(_) | Kind::DevmapHash(_) => self.device(guard, key).is_some(),
            Kind::Cpumap(_) => self.cpu_entry(guard, key).is_some(),
            Kind::Xskmap(_) => self.socket(guard, key).is_some(),
            _ => false,
        }
    }

    /// A device is gone: its entries leave the map.
    pub fn remove_device(&self, ifindex: u32) {
        match &self.kind {
            Kind::Devmap(map) => map.remove_device(ifindex),
            Kind::DevmapHash(map) => map.remove_device(ifindex),
            _ => {}
        }
        mem::epoch::collect();
    }

    /// A socket is closed: its entries leave the map.
    pub fn remove_socket(&self, socket: &Object) {
        if let Kind::Xskmap(map) = &self.kind {
            map.remove_socket(socket);
        }
        mem::epoch::collect();
    }

    /// The ring buffer that this map is.
    #[inline]
    #[must_use]
    pub fn ringbuf(&self) -> Option<&Ringbuf> {
        match &self.kind {
            Kind::Ringbuf(ring) => Some(ring),
            _ => None,
        }
    }

    /// The ring buffer from user space that this map is.
    #[must_use]
    pub fn user_ringbuf(&self) -> Option<&UserRingbuf> {
        match &self.kind {
            Kind::UserRingbuf(ring) => Some(ring),
            _ => None,
        }
    }
}
