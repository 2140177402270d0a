//! [`Htab`]: hash tables, with values per CPU or not, with LRU eviction or not.
//!
//! A [`HashIndex`] of cache-line buckets finds the number of an element; the element lies at
//! `base + number * stride`: a word of its own, the key, the value. The way of a lookup is the bucket's line
//! and the element's. An update of a key that exists writes another element and exchanges the number, as the
//! kernel does: who holds a pointer to the old value keeps seeing it to the end of the poll.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU32, Ordering::*, fence};

use mem::epoch;
use mem::{Chain, ElementPool, HashIndex, SharedSlice, Slab, Taken};
use uapi::Errno;
use uapi::bpf::*;

use super::array::PercpuValues;
use super::hash::{Seed, key_equals, with_key};
use super::lru::Lru;
use super::{Bytes, CreateError, FieldKind, Guard, MapContext, MapDef, Record, round8};

/// Offset of the count of an element's lives: odd while it is written for a new key although readers of the
/// old one may be left.
pub(super) const OFF_GENERATION: usize = 0;
/// Offset of the LRU's reference bit, a byte.
pub(super) const OFF_REF: usize = 4;
/// Offset of the number of the LRU node, in LRU tables.
const OFF_NODE: usize = 8;

/// `BPF_MAP_TYPE_HASH`, `PERCPU_HASH`, `LRU_HASH`, `LRU_PERCPU_HASH`.
///
/// Kernel: `kernel/bpf/hashtab.c, v6.18`
#[derive(Debug)]
pub(super) struct Htab {
    pub(super) index: HashIndex,
    pub(super) elems: Slab,
    pub(super) pool: ElementPool,
    percpu: Option<PercpuValues>,
    lru: Option<Lru>,
    /// Whether values have no special fields.
    plain: bool,
    pub(super) seed: Seed,
    key_size: usize,
    value_size: usize,
    pub(super) off_key: usize,
    pub(super) off_value: usize,
}

/// Keys and values.
pub(super) type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// An update of a key.
#[derive(Clone, Copy)]
pub(super) struct Update<'a> {
    pub(super) record: &'a Record,
    pub(super) cpu: u32,
    pub(super) key: &'a [u8],
    pub(super) value: NewValue<'a>,
    pub(super) flags: u64,
    pub(super) free_fields: FreeFields<'a>,
}

/// What an element gives back to its map when it goes: called with the old value, before the element is
/// reused.
pub(super) type FreeFields<'a> = &'a dyn Fn(SharedSlice<'_>);

impl Htab {
    pub(super) fn new(def: &MapDef, cx: &MapContext) -> Result<Self, CreateError> {
        let capacity = capacity(def, cx.cpus);
        let off_key = if def.is_lru() { 16 } else { 8 };
        let off_value = off_key + round8(def.key_size);
        let size = off_value + if def.is_percpu() { 0 } else { round8(def.value_size) };
        // An element that fits a cache line never lies across two.
        let stride = if size <= 64 { size.next_power_of_two() } else { size.next_multiple_of(16) };
        let bytes = stride + if def.is_percpu() { round8(def.value_size) * cx.cpus as usize } else { 0 };
        let pool = ElementPool::new(capacity, bytes, cx.cpus)
            .ok_or_else(|| CreateError::new(Errno::E2BIG, "too many elements"))?;
        let total = pool.elements();
        let percpu = def.is_percpu().then(|| PercpuValues::new(total as usize, def, cx)).transpose()?;
        let zero_seed = def.map_flags & BPF_F_ZERO_SEED != 0;
        super::check_memory(u64::from(capacity) * 24, cx)?;
        Ok(Self {
            index: HashIndex::new(capacity)
                .ok_or_else(|| CreateError::no_memory(u64::from(capacity) * 24))?,
            elems: super::slab(total as usize, stride, 64, cx)?,
            pool,
            percpu,
            lru: def.is_lru().then(|| Lru::new(def, capacity, cx)).transpose()?,
            plain: def.fields.is_empty(),
            seed: Seed::new(if zero_seed { 0 } else { cx.seed }),
            key_size: def.key_size as usize,
            value_size: def.value_size as usize,
            off_key,
            off_value,
        })
    }

    /// Entries that fit, which user space is shown.
    pub(super) fn max_entries(&self, def: &MapDef, cpus: u32) -> u32 {
        capacity(def, cpus)
    }

    pub(super) fn percpu(&self) -> Option<&PercpuValues> {
        self.percpu.as_ref()
    }

    pub(super) fn is_lru(&self) -> bool {
        self.lru.is_some()
    }

    // --- elements ---

    #[inline]
    fn generation(&self, elem: u32) -> &AtomicU32 {
        let slot = self.elems.slot(elem as usize);
        slot.atomic_u32(OFF_GENERATION).expect("elements are aligned and larger than their head")
    }

    #[inline]
    fn stored_key(&self, elem: u32) -> SharedSlice<'_> {
        let slot = self.elems.slot(elem as usize);
        slot.get(self.off_key, self.off_value - self.off_key).expect("within the element")
    }

    /// The key of an element that cannot change now.
    pub(super) fn key_of(&self, elem: u32) -> Vec<u8> {
        let mut key = vec![0; self.key_size];
        self.stored_key(elem).copy_to(0, &mut key);
        key
    }

    /// The key of the value at an address.
    pub(super) fn key_at(&self, addr: u64) -> Option<Vec<u8>> {
        let offset = addr.checked_sub(self.elems.base())?.checked_sub(self.off_value as u64)?;
        let (elem, stride) = (offset / self.elems.stride() as u64, self.elems.stride() as u64);
        let is_value = offset.is_multiple_of(stride) && elem < self.elems.count() as u64;
        (is_value && self.percpu.is_none()).then(|| self.key_of(elem as u32))
    }

    #[inline]
    fn value_of(&self, cpu: u32, elem: u32) -> Option<SharedSlice<'_>> {
        match &self.percpu {
            Some(values) => values.get(cpu, elem as usize),
            None => self.elems.slot(elem as usize).get(self.off_value, self.value_size),
        }
    }

    /// Whether an element that may be reused at any moment is the one of a key.
    #[inline]
    pub(super) fn is_key(&self, elem: u32, key: &[u8]) -> bool {
        let generation = self.generation(elem);
        let before = generation.load(Acquire);
        let equal = key_equals(self.stored_key(elem), key);
        fence(Acquire);
        equal && before & 1 == 0 && generation.load(Relaxed) == before
    }

    /// Writes an element that is not in the index yet.
    #[inline(always)]
    fn write(&self, taken: Taken, key: &[u8], fill: impl FnOnce(u32)) {
        let generation = self.generation(taken.index);
        let life = generation.load(Relaxed);
        if taken.seen {
            // A reader that finds any byte of the new key finds this too.
            generation.store(life.wrapping_add(1), Relaxed);
            fence(Release);
        }
        let stored = self.stored_key(taken.index);
        if let Some(last) = stored.len().checked_sub(8).filter(|_| !key.len().is_multiple_of(8)) {
            stored.write_u64(last, 0);
        }
        stored.copy_from(0, key);
        fill(taken.index);
        if taken.seen {
            generation.store(life.wrapping_add(2), Release);
        }
    }

    #[inline(always)]
    fn fill_value(&self, record: &Record, elem: u32, value: Bytes<'_>) {
        if let Some(dst) = self.value_of(0, elem) {
            record.init(dst);
            record.copy(value, dst);
        }
    }

    #[inline(always)]
    fn find_locked(&self, chain: &Chain<'_>, hash: u64, key: &[u8]) -> Option<(mem::Position, u32)> {
        chain.find(hash, |elem| key_equals(self.stored_key(elem), key))
    }

    /// Lets go of an element that has been taken out of the index.
    fn free(&self, cpu: u32, elem: u32, free_fields: FreeFields<'_>) {
        self.free_fields(elem, free_fields);
        self.pool.retire_with_token(cpu, elem);
    }

    #[inline]
    fn free_fields(&self, elem: u32, free_fields: FreeFields<'_>) {
        if !self.plain {
            self.free_special(elem, free_fields);
        }
    }

    fn free_special(&self, elem: u32, free_fields: FreeFields<'_>) {
        match &self.percpu {
            None => self.value_of(0, elem).into_iter().for_each(free_fields),
            Some(values) => {
                (0..).map_while(|cpu| values.get(cpu, elem as usize)).for_each(free_fields);
            }
        }
    }

    // --- programs ---

    /// The element of a key.
    #[inline]
    pub(super) fn find(&self, key: &[u8]) -> Option<u32> {
        self.index.find(self.seed.hash(key), |elem| self.is_key(elem, key))
    }

    #[inline]
    pub(super) fn lookup<'g>(&'g self, _guard: &'g Guard, cpu: u32, key: &[u8]) -> Option<SharedSlice<'g>> {
        let elem = self.find(key)?;
        if self.lru.is_some() {
            self.set_ref(elem);
        }
        self.value_of(cpu, elem)
    }

    pub(super) fn prefetch(&self, key: &[u8]) {
        self.index.prefetch(self.seed.hash(key));
    }

    pub(super) fn prefetch_value(&self, key: &[u8]) {
        if let Some(elem) = self.index.candidate(self.seed.hash(key)) {
            self.elems.prefetch(elem as usize);
        }
    }

    /// Kernel: `kernel/bpf/hashtab.c htab_map_update_elem and its kin, v6.18`
    #[inline(always)]
    pub(super) fn update(&self, u: &Update<'_>) -> Result<(), Errno> {
        match (&self.lru, &self.percpu) {
            (None, None) => self.update_plain(u),
            (None, Some(values)) => self.update_percpu(values, u),
            (Some(lru), None) => self.update_lru(lru, u),
            (Some(lru), Some(values)) => self.update_lru_percpu(lru, values, u),
        }
    }

    #[inline(always)]
    fn update_plain(&self, u: &Update<'_>) -> Result<(), Errno> {
        let (lock, flags) = (u.flags & BPF_F_LOCK != 0, u.flags & !BPF_F_LOCK);
        if flags > BPF_EXIST || (lock && !u.record.has(FieldKind::SpinLock)) {
            return Err(Errno::EINVAL);
        }
        // With a spin lock the element must not be given to another key while its value is written.
        let _guard = lock.then(epoch::pin);
        let hash = self.seed.hash(u.key);
        let chain = self.index.lock(hash);
        let old = self.find_locked(&chain, hash, u.key);
        check_flags(old.is_some(), flags)?;
        if let (Some((_, elem)), true) = (old, lock) {
            // Not under the chain's lock: whoever holds the spin lock may wait for the chain.
            drop(chain);
            if let Some(dst) = self.value_of(0, elem) {
                u.record.copy_locked(u.value.bytes(), dst);
            }
            return Ok(());
        }
        let fill = |elem| self.fill_value(u.record, elem, u.value.bytes());
        let Some((at, old)) = old else {
            let taken = self.pool.take_with_token(u.cpu, epoch::domain()).ok_or(Errno::E2BIG)?;
            self.write(taken, u.key, fill);
            chain.insert(hash, taken.index);
            return Ok(());
        };
        if self.plain {
            self.pool.exchange(u.cpu, epoch::domain(), old, |taken| {
                self.write(taken, u.key, fill);
                chain.replace(at, taken.index);
            });
            return Ok(());
        }
        let taken = self.pool.take(u.cpu, epoch::domain());
        self.write(taken, u.key, fill);
        chain.replace(at, taken.index);
        drop(chain);
        self.free_fields(old, u.free_fields);
        self.pool.retire(u.cpu, old);
        Ok(())
    }

    #[inline(always)]
    fn update_percpu(&self, values: &PercpuValues, u: &Update<'_>) -> Result<(), Errno> {
        if u.flags > BPF_EXIST {
            return Err(Errno::EINVAL);
        }
        let hash = self.seed.hash(u.key);
        let chain = self.index.lock(hash);
        let old = self.find_locked(&chain, hash, u.key);
        check_flags(old.is_some(), u.flags)?;
        if let Some((_, elem)) = old {
            u.value.write(u.record, values, u.cpu, elem);
            return Ok(());
        }
        let taken = self.pool.take_with_token(u.cpu, epoch::domain()).ok_or(Errno::E2BIG)?;
        self.write(taken, u.key, |elem| u.value.init(u.record, values, u.cpu, elem));
        chain.insert(hash, taken.index);
        Ok(())
    }

    /// Kernel: `kernel/bpf/hashtab.c htab_map_delete_elem, v6.18`
    #[inline]
    pub(super) fn delete(&self, cpu: u32, key: &[u8], free_fields: FreeFields<'_>) -> Result<(), Errno> {
        self.take_out(cpu, key, free_fields, |_| ())
    }

    /// Removes a key; `look` sees its element while nobody else can change it.
    #[inline]
    fn take_out<R>(
        &self,
        cpu: u32,
        key: &[u8],
        free_fields: FreeFields<'_>,
        look: impl FnOnce(u32) -> R,
    ) -> Result<R, Errno> {
        let hash = self.seed.hash(key);
        let chain = self.index.lock(hash);
        let (at, elem) = self.find_locked(&chain, hash, key).ok_or(Errno::ENOENT)?;
        let seen = look(elem);
        chain.remove(at);
        drop(chain);
        self.let_go(cpu, elem, free_fields);
        Ok(seen)
    }

    /// Removes a key; `clean` takes out what belongs to its element elsewhere, after nobody finds it any more.
    pub(super) fn remove_with(&self, cpu: u32, key: &[u8], clean: impl FnOnce(u32)) -> Result<(), Errno> {
        let hash = self.seed.hash(key);
        let chain = self.index.lock(hash);
        let (at, elem) = self.find_locked(&chain, hash, key).ok_or(Errno::ENOENT)?;
        chain.remove(at);
        drop(chain);
        clean(elem);
        self.pool.retire_with_token(cpu, elem);
        Ok(())
    }

    /// Writes the value of a key in place, of a new element if there is none yet.
    pub(super) fn upsert(
        &self,
        cpu: u32,
        key: &[u8],
        check: impl FnOnce(bool) -> Result<(), Errno>,
        fill: impl FnOnce(u32, SharedSlice<'_>),
    ) -> Result<(), Errno> {
        let hash = self.seed.hash(key);
        let chain = self.index.lock(hash);
        let old = self.find_locked(&chain, hash, key);
        check(old.is_some())?;
        let fill = |elem| {
            if let Some(value) = self.value_of(0, elem) {
                fill(elem, value);
            }
        };
        if let Some((_, elem)) = old {
            fill(elem);
            return Ok(());
        }
        let taken = self.pool.take_with_token(cpu, epoch::domain()).ok_or(Errno::E2BIG)?;
        self.write(taken, key, fill);
        chain.insert(hash, taken.index);
        Ok(())
    }

    /// What follows the removal of an element from the index.
    #[inline]
    fn let_go(&self, cpu: u32, elem: u32, free_fields: FreeFields<'_>) {
        match &self.lru {
            None => self.free(cpu, elem, free_fields),
            Some(lru) => self.free_lru(lru, cpu, elem, free_fields),
        }
    }

    /// Kernel: `kernel/bpf/hashtab.c bpf_for_each_hash_elem, v6.18`
    pub(super) fn for_each<'g>(
        &'g self,
        _guard: &'g Guard,
        cpu: u32,
        mut f: impl FnMut(SharedSlice<'g>, SharedSlice<'g>) -> ControlFlow<()>,
    ) -> u64 {
        let (mut calls, mut elems) = (0, Vec::new());
        for chain in 0..self.index.chains() {
            elems.clear();
            self.chain_elements(chain, &mut elems);
            for elem in &elems {
                let key = self.stored_key(*elem).get(0, self.key_size);
                let (Some(key), Some(value)) = (key, self.value_of(cpu, *elem)) else { continue };
                calls += 1;
                if f(key, value).is_break() {
                    return calls;
                }
            }
        }
        calls
    }

    fn chain_elements(&self, chain: u32, out: &mut Vec<u32>) {
        if !self.index.is_chain_empty(chain) {
            self.index.lock_chain(chain).elements(out);
        }
    }

    /// Entries, counted now.
    pub(super) fn count(&self) -> u64 {
        let mut elems = Vec::new();
        let chains = 0..self.index.chains();
        chains
            .map(|chain| {
                elems.clear();
                self.chain_elements(chain, &mut elems);
                elems.len() as u64
            })
            .sum()
    }

    // --- user space ---

    fn read(&self, record: &Record, elem: u32, locked: bool) -> Vec<u8> {
        match &self.percpu {
            Some(values) => values.read_all(record, elem as usize),
            None => record.read(self.value_of(0, elem).expect("a value has a place"), locked),
        }
    }

    /// A lookup by user space does not count as use for the LRU.
    pub(super) fn sys_lookup(&self, record: &Record, key: &[u8], locked: bool) -> Result<Vec<u8>, Errno> {
        let _guard = epoch::pin();
        let elem = self.find(key).ok_or(Errno::ENOENT)?;
        Ok(self.read(record, elem, locked))
    }

    pub(super) fn sys_lookup_and_delete(
        &self,
        record: &Record,
        cpu: u32,
        key: &[u8],
        locked: bool,
        free_fields: FreeFields<'_>,
    ) -> Result<Vec<u8>, Errno> {
        self.take_out(cpu, key, free_fields, |elem| self.read(record, elem, locked))
    }

    /// Kernel: `kernel/bpf/hashtab.c htab_map_get_next_key, v6.18`
    pub(super) fn next_key(&self, key: Option<&[u8]>) -> Result<Vec<u8>, Errno> {
        let mut elems = Vec::new();
        let mut start = 0;
        if let Some(key) = key {
            let chain_no = (self.seed.hash(key) & (u64::from(self.index.chains()) - 1)) as u32;
            let chain = self.index.lock_chain(chain_no);
            chain.elements(&mut elems);
            let mine = elems.iter().position(|elem| key_equals(self.stored_key(*elem), key));
            if let Some(i) = mine {
                if let Some(next) = elems.get(i + 1) {
                    return Ok(self.key_of(*next));
                }
                start = chain_no + 1;
            }
        }
        for chain_no in (start..self.index.chains()).filter(|c| !self.index.is_chain_empty(*c)) {
            let chain = self.index.lock_chain(chain_no);
            elems.clear();
            chain.elements(&mut elems);
            if let Some(first) = elems.first() {
                return Ok(self.key_of(*first));
            }
        }
        Err(Errno::ENOENT)
    }

    /// Keys and values of a chain; removes them too if `delete` says what to do with their fields.
    pub(super) fn sys_chain(
        &self,
        record: &Record,
        cpu: u32,
        chain_no: u32,
        most: usize,
        locked: bool,
        delete: Option<FreeFields<'_>>,
    ) -> Result<Entries, usize> {
        let mut elems = Vec::new();
        let chain = self.index.lock_chain(chain_no);
        chain.elements(&mut elems);
        if elems.len() > most {
            return Err(elems.len());
        }
        let all = elems.iter().map(|elem| (self.key_of(*elem), self.read(record, *elem, locked))).collect();
        if let Some(free_fields) = delete {
            for elem in &elems {
                let hash = self.seed.hash(&self.key_of(*elem));
                if let Some((at, _)) = chain.find(hash, |e| e == *elem) {
                    chain.remove(at);
                }
            }
            drop(chain);
            elems.iter().for_each(|elem| self.let_go(cpu, *elem, free_fields));
        }
        Ok(all)
    }

    // --- LRU ---

    #[inline]
    fn set_ref(&self, elem: u32) {
        let slot = self.elems.slot(elem as usize);
        if slot.read_u8(OFF_REF) == 0 {
            slot.write_u8(OFF_REF, 1);
        }
    }

    fn node_of(&self, elem: u32) -> u32 {
        self.elems.slot(elem as usize).read_u32(OFF_NODE)
    }

    /// Takes a node, throwing the least recently used entry out if there is no other.
    #[inline]
    fn pop_node(&self, lru: &Lru, cpu: u32, free_fields: FreeFields<'_>) -> Result<u32, Errno> {
        let evict = |node| self.evict(lru, cpu, node, free_fields);
        lru.pop_free(cpu, &self.refs(lru), &evict).ok_or(Errno::ENOMEM)
    }

    /// An element for a node that has none.
    #[inline]
    fn take_for_node(&self, lru: &Lru, cpu: u32, key: &[u8], node: u32, fill: impl FnOnce(u32)) -> Taken {
        let taken = self.pool.take(cpu, epoch::domain());
        self.write_for_node(lru, taken, key, node, fill);
        taken
    }

    #[inline]
    fn write_for_node(&self, lru: &Lru, taken: Taken, key: &[u8], node: u32, fill: impl FnOnce(u32)) {
        self.write(taken, key, |elem| {
            let slot = self.elems.slot(elem as usize);
            slot.write_u8(OFF_REF, 0);
            slot.write_u32(OFF_NODE, node);
            fill(elem);
        });
        lru.set_element(node, Some(taken.index));
    }

    fn refs<'a>(&'a self, lru: &'a Lru) -> super::lru::Refs<'a> {
        super::lru::Refs { lru, elems: &self.elems }
    }

    /// Removes the entry of a node from the table; `false` if it is not in the table.
    ///
    /// Kernel: `kernel/bpf/hashtab.c htab_lru_map_delete_node, v6.18`
    fn evict(&self, lru: &Lru, cpu: u32, node: u32, free_fields: FreeFields<'_>) -> bool {
        let Some(elem) = lru.element(node) else { return false };
        let Some(key) = self.stored_key(elem).get(0, self.key_size) else { return false };
        let hash = with_key(key, |key| self.seed.hash(key));
        let chain = self.index.lock(hash);
        let found = chain.find(hash, |e| e == elem).filter(|_| self.node_of(elem) == node);
        let Some((at, _)) = found else { return false };
        chain.remove(at);
        drop(chain);
        self.free_fields(elem, free_fields);
        lru.set_element(node, None);
        self.pool.retire(cpu, elem);
        true
    }

    fn free_lru(&self, lru: &Lru, cpu: u32, elem: u32, free_fields: FreeFields<'_>) {
        self.free_fields(elem, free_fields);
        let node = self.node_of(elem);
        lru.set_element(node, None);
        self.pool.retire(cpu, elem);
        lru.push_free(node);
    }

    fn update_lru(&self, lru: &Lru, u: &Update<'_>) -> Result<(), Errno> {
        if u.flags > BPF_EXIST {
            return Err(Errno::EINVAL);
        }
        // Before the chain is locked: to evict takes the lock of another chain.
        let node = self.pop_node(lru, u.cpu, u.free_fields)?;
        let hash = self.seed.hash(u.key);
        let chain = self.index.lock(hash);
        let old = self.find_locked(&chain, hash, u.key);
        if let Err(e) = check_flags(old.is_some(), u.flags) {
            drop(chain);
            lru.push_free(node);
            return Err(e);
        }
        let fill = |elem| self.fill_value(u.record, elem, u.value.bytes());
        let Some((at, old)) = old else {
            chain.insert(hash, self.take_for_node(lru, u.cpu, u.key, node, fill).index);
            return Ok(());
        };
        if !self.plain {
            let taken = self.take_for_node(lru, u.cpu, u.key, node, fill);
            self.set_ref(taken.index);
            chain.replace(at, taken.index);
            drop(chain);
            self.free_lru(lru, u.cpu, old, u.free_fields);
            return Ok(());
        }
        let old_node = self.node_of(old);
        self.pool.exchange(u.cpu, epoch::domain(), old, |taken| {
            self.write_for_node(lru, taken, u.key, node, fill);
            self.set_ref(taken.index);
            chain.replace(at, taken.index);
            lru.set_element(old_node, None);
        });
        drop(chain);
        lru.push_free(old_node);
        Ok(())
    }

    fn update_lru_percpu(&self, lru: &Lru, values: &PercpuValues, u: &Update<'_>) -> Result<(), Errno> {
        if u.flags > BPF_EXIST {
            return Err(Errno::EINVAL);
        }
        // Before the chain is locked: to evict takes the lock of another chain.
        let node = match u.flags {
            BPF_EXIST => None,
            _ => Some(self.pop_node(lru, u.cpu, u.free_fields)?),
        };
        let hash = self.seed.hash(u.key);
        let chain = self.index.lock(hash);
        let old = self.find_locked(&chain, hash, u.key);
        let result = check_flags(old.is_some(), u.flags);
        let unused = match (result, old, node) {
            (Ok(()), None, Some(node)) => {
                let fill = |elem| u.value.init(u.record, values, u.cpu, elem);
                chain.insert(hash, self.take_for_node(lru, u.cpu, u.key, node, fill).index);
                None
            }
            (Ok(()), Some((_, elem)), unused) => {
                self.set_ref(elem);
                u.value.write(u.record, values, u.cpu, elem);
                unused
            }
            (_, _, unused) => unused,
        };
        drop(chain);
        unused.into_iter().for_each(|node| lru.push_free(node));
        result
    }
}

/// The value of an update.
#[derive(Clone, Copy, Debug)]
pub(super) enum NewValue<'a> {
    /// From a program: for its own CPU.
    One(Bytes<'a>),
    /// From user space: for all CPUs in per-CPU maps.
    All(Bytes<'a>),
}

impl<'a> NewValue<'a> {
    fn bytes(self) -> Bytes<'a> {
        match self {
            Self::One(b) | Self::All(b) => b,
        }
    }

    #[inline]
    fn write(self, record: &Record, values: &PercpuValues, cpu: u32, elem: u32) {
        match self {
            Self::All(b) => values.write_all(record, elem as usize, b),
            Self::One(b) => {
                if let Some(dst) = values.get(cpu, elem as usize) {
                    record.copy(b, dst);
                }
            }
        }
    }

    #[inline]
    fn init(self, record: &Record, values: &PercpuValues, cpu: u32, elem: u32) {
        match self {
            Self::One(b) => values.init(record, cpu, elem as usize, b),
            Self::All(b) => {
                values.clear(elem as usize);
                values.write_all(record, elem as usize, b);
            }
        }
    }
}

/// Kernel: `kernel/bpf/hashtab.c check_flags, v6.18`
pub(super) fn check_flags(exists: bool, flags: u64) -> Result<(), Errno> {
    match (exists, flags) {
        (true, BPF_NOEXIST) => Err(Errno::EEXIST),
        (false, BPF_EXIST) => Err(Errno::ENOENT),
        _ => Ok(()),
    }
}

/// Entries of a table. With LRU lists per CPU each list has as many.
fn capacity(def: &MapDef, cpus: u32) -> u32 {
    if def.map_flags & BPF_F_NO_COMMON_LRU == 0 {
        return def.max_entries;
    }
    def.max_entries.checked_next_multiple_of(cpus).unwrap_or(def.max_entries / cpus * cpus)
}
