//! [`LpmTrie`]: `BPF_MAP_TYPE_LPM_TRIE`, longest prefix match.
//!
//! A path-compressed binary trie, as the kernel's: a node is a prefix that was inserted, or one where two
//! inserted ones part (*intermediate*, always with two children). Writers work under a lock and exchange
//! nodes rather than change them; readers take none.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*, fence};

use mem::epoch;
use mem::{ElementPool, SharedSlice, Slab, SpinLock, Taken};
use uapi::Errno;
use uapi::bpf::*;

use super::{Bytes, CreateError, Guard, MapContext, MapDef, round8};

/// Offsets in a node: bits of its prefix, whether it is intermediate, links to its two children, the prefix.
const OFF_PREFIXLEN: usize = 0;
const OFF_INTERMEDIATE: usize = 4;
const OFF_CHILD: [usize; 2] = [8, 16];
const OFF_DATA: usize = 24;

/// What stands where a node is named: its number plus 1 (0 for none), the bits of its prefix, and whether it is
/// intermediate. With these a lookup knows which of the node's children comes next before it has the node, and
/// waits for one load a step instead of two.
#[derive(Clone, Copy)]
struct Link(u64);

impl Link {
    const NONE: Self = Self(0);

    fn new(node: u32, prefixlen: u32, intermediate: bool) -> Self {
        Self(u64::from(node + 1) | u64::from(prefixlen) << 32 | u64::from(intermediate) << 63)
    }

    #[inline]
    fn node(self) -> Option<u32> {
        (self.0 as u32).checked_sub(1)
    }

    #[inline]
    fn prefixlen(self) -> u32 {
        (self.0 >> 32) as u32 & 0xffff
    }

    #[inline]
    fn is_intermediate(self) -> bool {
        self.0 >> 63 != 0
    }
}

/// Bytes before the prefix in a key.
const KEY_HEAD: usize = 4;

/// Kernel: `kernel/bpf/lpm_trie.c struct lpm_trie, v6.18`
#[doc(alias = "lpm_trie")]
#[derive(Debug)]
pub(super) struct LpmTrie {
    nodes: Slab,
    pool: ElementPool,
    /// The [`Link`] to the root.
    root: AtomicU64,
    /// Odd while a node is written that readers may still see.
    rewrites: AtomicU32,
    /// Entries; also the lock of all writers.
    entries: SpinLock<u32>,
    max_entries: u32,
    data_size: usize,
    value_size: usize,
    off_value: usize,
}

/// A key, taken apart: its length in bits, its bytes, and these as numbers whose highest bit is the first.
#[derive(Clone, Copy)]
struct Prefix<'a, const WORDS: usize> {
    len: u32,
    data: &'a [u8],
    words: [u64; WORDS],
}

/// Words of the longest prefix.
const MAX_WORDS: usize = 32;

/// Where the number of a node stands: the root, or a child of a node.
#[derive(Clone, Copy)]
enum Place {
    Root,
    Child(u32, usize),
}

/// Where a walk along a key ended.
struct Walk {
    place: Place,
    node: Option<u32>,
    matched: u32,
    /// The node above, and where it stands.
    parent: Option<(u32, Place)>,
}

impl LpmTrie {
    pub(super) fn new(def: &MapDef, cx: &MapContext) -> Result<Self, CreateError> {
        let data_size = def.key_size as usize - KEY_HEAD;
        let off_value = OFF_DATA + data_size.next_multiple_of(8);
        let size = off_value + round8(def.value_size);
        // A node that fits a cache line never lies across two.
        let stride = if size <= 64 { size.next_power_of_two() } else { size };
        // Two nodes per entry at most. A trie is not preallocated: one that is larger than memory can be
        // created, and says ENOMEM only when it is full.
        let fits = u32::try_from(cx.memory_limit / stride as u64).unwrap_or(u32::MAX / 2);
        let capacity = def.max_entries.saturating_mul(2).saturating_add(2).min(fits).min(u32::MAX / 2);
        let pool = ElementPool::new(capacity, stride, cx.cpus)
            .ok_or_else(|| CreateError::new(Errno::ENOMEM, "too many nodes"))?;
        Ok(Self {
            nodes: super::slab_unchecked(pool.elements() as usize, stride, 64)?,
            pool,
            root: AtomicU64::new(Link::NONE.0),
            rewrites: AtomicU32::new(0),
            entries: SpinLock::new(0),
            max_entries: def.max_entries,
            data_size,
            value_size: def.value_size as usize,
            off_value,
        })
    }

    fn max_prefixlen(&self) -> u32 {
        self.data_size as u32 * 8
    }

    #[inline]
    fn prefix<'k, const WORDS: usize>(&self, key: &'k [u8]) -> Option<Prefix<'k, WORDS>> {
        let (len, data) = key.split_first_chunk::<KEY_HEAD>()?;
        let len = u32::from_le_bytes(*len);
        (len <= self.max_prefixlen()).then(|| Prefix { len, data, words: words(data) })
    }

    /// For updates, where nothing hurries.
    fn any_prefix<'k>(&self, key: &'k [u8]) -> Option<Prefix<'k, MAX_WORDS>> {
        self.prefix(key)
    }

    // --- nodes ---

    #[inline]
    fn node(&self, node: u32) -> SharedSlice<'_> {
        self.nodes.slot(node as usize)
    }

    fn prefixlen(&self, node: u32) -> u32 {
        self.node(node).read_u32(OFF_PREFIXLEN)
    }

    fn is_intermediate(&self, node: u32) -> bool {
        self.node(node).read_u32(OFF_INTERMEDIATE) != 0
    }

    fn place(&self, place: Place) -> &AtomicU64 {
        match place {
            Place::Root => &self.root,
            Place::Child(node, side) => {
                self.node(node).atomic_u64(OFF_CHILD[side]).expect("nodes are aligned")
            }
        }
    }

    /// What stands at a place. A node that is being reused may name any node, but never none of the slab.
    fn at(&self, place: Place) -> Option<u32> {
        Link(self.place(place).load(Acquire)).node()
    }

    fn put(&self, place: Place, node: Option<u32>) {
        let link = node.map(|n| Link::new(n, self.prefixlen(n), self.is_intermediate(n)));
        self.place(place).store(link.unwrap_or(Link::NONE).0, Release);
    }

    fn child(&self, node: u32, side: usize) -> Option<u32> {
        self.at(Place::Child(node, side))
    }

    #[inline]
    fn value(&self, node: u32) -> SharedSlice<'_> {
        self.node(node).get(self.off_value, self.value_size).expect("a value fits its node")
    }

    fn matching<const WORDS: usize>(&self, node: u32, key: &Prefix<'_, WORDS>) -> u32 {
        matching(self.node(node), self.prefixlen(node), key)
    }

    fn bit_of_node(&self, node: u32, bit: u32) -> usize {
        let byte = self.node(node).read_u8(OFF_DATA + bit as usize / 8);
        usize::from(byte >> (7 - bit % 8) & 1)
    }

    // --- programs ---

    #[inline(always)]
    pub(super) fn lookup<'g>(&'g self, _guard: &'g Guard, key: &[u8]) -> Option<SharedSlice<'g>> {
        match key.len().saturating_sub(KEY_HEAD) {
            0..=8 => self.lookup_words::<1>(key),
            9..=16 => self.lookup_words::<2>(key),
            _ => self.lookup_words::<MAX_WORDS>(key),
        }
    }

    #[inline(always)]
    fn lookup_words<const WORDS: usize>(&self, key: &[u8]) -> Option<SharedSlice<'_>> {
        let key = &self.prefix::<WORDS>(key)?;
        loop {
            let before = self.rewrites.load(Acquire);
            let found = self.find_longest(key);
            fence(Acquire);
            if before & 1 == 0 && self.rewrites.load(Relaxed) == before {
                return found.map(|node| self.value(node));
            }
            std::hint::spin_loop();
        }
    }

    #[inline(always)]
    fn find_longest<const WORDS: usize>(&self, key: &Prefix<'_, WORDS>) -> Option<u32> {
        let max = key.data.len() as u32 * 8;
        let mut found = None;
        let mut link = Link(self.root.load(Acquire));
        // A prefix grows with every step; the bound only matters when a node changes under our feet.
        for _ in 0..=max {
            let Some(node) = link.node() else { break };
            let (stored, len) = (self.node(node), link.prefixlen());
            let matched = matching(stored, len, key);
            if matched == max {
                return Some(node);
            }
            if matched < len {
                break;
            }
            if !link.is_intermediate() {
                found = Some(node);
            }
            let child = stored.atomic_u64(OFF_CHILD[0] + 8 * key.bit(len));
            link = Link(child.expect("nodes are aligned").load(Acquire));
        }
        found
    }

    /// Kernel: `kernel/bpf/lpm_trie.c trie_update_elem, v6.18`
    pub(super) fn update(&self, cpu: u32, key: &[u8], value: Bytes<'_>, flags: u64) -> Result<(), Errno> {
        if flags > BPF_EXIST {
            return Err(Errno::EINVAL);
        }
        let key = &self.any_prefix(key).ok_or(Errno::EINVAL)?;
        self.entries.with(|entries| {
            let walk = self.walk(key, true);
            let exact = walk.node.filter(|n| self.prefixlen(*n) == walk.matched);
            match exact {
                Some(node) if !self.is_intermediate(node) && flags == BPF_NOEXIST => {
                    return Err(Errno::EEXIST);
                }
                Some(node) if !self.is_intermediate(node) => {}
                _ if flags == BPF_EXIST => return Err(Errno::ENOENT),
                _ if *entries == self.max_entries => return Err(Errno::ENOSPC),
                _ => {}
            }
            let added = exact.is_none_or(|n| self.is_intermediate(n));
            self.insert(cpu, key, value, &walk, exact)?;
            *entries += u32::from(added);
            Ok(())
        })
    }

    fn insert(
        &self,
        cpu: u32,
        key: &Prefix<'_, MAX_WORDS>,
        value: Bytes<'_>,
        walk: &Walk,
        exact: Option<u32>,
    ) -> Result<(), Errno> {
        let fresh = self.take(cpu)?;
        let children = match (exact, walk.node) {
            (Some(old), _) => [self.child(old, 0), self.child(old, 1)],
            (None, Some(below)) if walk.matched == key.len => {
                let mut children = [None; 2];
                children[self.bit_of_node(below, walk.matched)] = Some(below);
                children
            }
            _ => [None; 2],
        };
        self.write(fresh, key.len, false, children, |node| {
            node.copy_from(OFF_DATA, key.data);
            let dst = node.get(self.off_value, self.value_size).expect("a value fits its node");
            match value {
                Bytes::Own(b) => dst.copy_from(0, &b[..self.value_size]),
                Bytes::Shared(b) => dst.copy_from_shared(0, b),
            }
        });
        match (exact, walk.node) {
            (Some(old), _) => {
                self.put(walk.place, Some(fresh.index));
                self.pool.retire_with_token(cpu, old);
            }
            (None, Some(beside)) if walk.matched != key.len => {
                let Ok(fork) = self.take(cpu) else {
                    self.put_back(cpu, fresh);
                    return Err(Errno::ENOMEM);
                };
                let side = key.bit(walk.matched);
                let mut children = [Some(beside); 2];
                children[side] = Some(fresh.index);
                self.write(fork, walk.matched, true, children, |node| {
                    let prefix = self.node(beside).get(OFF_DATA, self.data_size).expect("within the node");
                    node.copy_from_shared(OFF_DATA, prefix);
                });
                self.put(walk.place, Some(fork.index));
            }
            _ => self.put(walk.place, Some(fresh.index)),
        }
        Ok(())
    }

    fn take(&self, cpu: u32) -> Result<Taken, Errno> {
        if !self.pool.take_token(cpu) {
            return Err(Errno::ENOMEM);
        }
        Ok(self.pool.take(cpu, epoch::domain()))
    }

    fn put_back(&self, cpu: u32, taken: Taken) {
        self.pool.put_back(cpu, taken);
        self.pool.give_token(cpu);
    }

    /// Writes a node that is not in the trie yet.
    fn write(
        &self,
        taken: Taken,
        prefixlen: u32,
        intermediate: bool,
        children: [Option<u32>; 2],
        fill: impl FnOnce(SharedSlice<'_>),
    ) {
        if taken.seen {
            // Writers are alone, so this is a plain count.
            self.rewrites.fetch_add(1, Relaxed);
            fence(Release);
        }
        let node = self.node(taken.index);
        node.write_u32(OFF_PREFIXLEN, prefixlen);
        node.write_u32(OFF_INTERMEDIATE, u32::from(intermediate));
        for (side, child) in children.into_iter().enumerate() {
            self.put(Place::Child(taken.index, side), child);
        }
        fill(node);
        if taken.seen {
            self.rewrites.fetch_add(1, Release);
        }
    }

    /// Follows a key down. With `to_leaf` also through a node that has all bits that there are.
    fn walk(&self, key: &Prefix<'_, MAX_WORDS>, to_insert: bool) -> Walk {
        let mut walk = Walk { place: Place::Root, node: None, matched: 0, parent: None };
        while let Some(node) = self.at(walk.place) {
            walk.node = Some(node);
            walk.matched = self.matching(node, key);
            let len = self.prefixlen(node);
            if len != walk.matched || len == key.len || (to_insert && len == self.max_prefixlen()) {
                return walk;
            }
            walk.parent = Some((node, walk.place));
            walk.place = Place::Child(node, key.bit(len));
            walk.node = None;
        }
        walk
    }

    /// The node of exactly this prefix, if it was inserted.
    fn find_exact(&self, key: &Prefix<'_, MAX_WORDS>) -> Option<Walk> {
        let walk = self.walk(key, false);
        let node = walk.node?;
        let exact = self.prefixlen(node) == key.len && walk.matched == key.len;
        (exact && !self.is_intermediate(node)).then_some(walk)
    }

    /// Kernel: `kernel/bpf/lpm_trie.c trie_delete_elem, v6.18`
    pub(super) fn delete(&self, cpu: u32, key: &[u8]) -> Result<(), Errno> {
        let key = &self.any_prefix(key).ok_or(Errno::EINVAL)?;
        self.entries.with(|entries| {
            let walk = self.find_exact(key).ok_or(Errno::ENOENT)?;
            let Some(node) = walk.node else { return Err(Errno::ENOENT) };
            *entries -= 1;
            match (self.child(node, 0), self.child(node, 1)) {
                (Some(_), Some(_)) => {
                    self.node(node).write_u32(OFF_INTERMEDIATE, 1);
                    self.put(walk.place, Some(node));
                }
                (None, None) => self.remove_leaf(cpu, node, &walk),
                (one, other) => {
                    self.put(walk.place, one.or(other));
                    self.pool.retire_with_token(cpu, node);
                }
            }
            Ok(())
        })
    }

    /// Removes a node without children, and the fork above it that is none any more.
    fn remove_leaf(&self, cpu: u32, node: u32, walk: &Walk) {
        match walk.parent.filter(|(parent, _)| self.is_intermediate(*parent)) {
            Some((fork, above)) => {
                let sibling = if self.child(fork, 0) == Some(node) { 1 } else { 0 };
                self.put(above, self.child(fork, sibling));
                self.pool.retire_with_token(cpu, fork);
            }
            None => self.put(walk.place, None),
        }
        self.pool.retire_with_token(cpu, node);
    }

    // --- user space ---

    pub(super) fn sys_lookup(&self, key: &[u8]) -> Option<Vec<u8>> {
        let guard = epoch::pin();
        self.lookup(&guard, key).map(SharedSlice::to_vec)
    }

    fn key_of(&self, node: u32) -> Vec<u8> {
        let mut key = self.prefixlen(node).to_le_bytes().to_vec();
        key.resize(KEY_HEAD + self.data_size, 0);
        self.node(node).copy_to(OFF_DATA, &mut key[KEY_HEAD..]);
        key
    }

    /// The next key, more specific ones first.
    ///
    /// Kernel: `kernel/bpf/lpm_trie.c trie_get_next_key, v6.18`
    pub(super) fn next_key(&self, key: Option<&[u8]>) -> Result<Vec<u8>, Errno> {
        // Under the writers' lock: user space asks, so nothing hurries.
        self.entries.with(|_| {
            let root = self.at(Place::Root).ok_or(Errno::ENOENT)?;
            let path = key.and_then(|k| self.any_prefix(k)).and_then(|k| self.path_to(root, &k));
            let next = match path {
                None => Some(self.leftmost(root)),
                Some(path) => self.after(&path),
            };
            next.map(|node| self.key_of(node)).ok_or(Errno::ENOENT)
        })
    }

    /// The nodes from the root to the one of a prefix.
    fn path_to(&self, root: u32, key: &Prefix<'_, MAX_WORDS>) -> Option<Vec<u32>> {
        let target = self.find_exact(key)?.node?;
        let mut path = vec![root];
        while let Some(last) = path.last().copied().filter(|n| *n != target) {
            path.push(self.child(last, key.bit(self.prefixlen(last)))?);
        }
        Some(path)
    }

    /// The node that follows the last one of a path in postorder.
    fn after(&self, path: &[u32]) -> Option<u32> {
        path.windows(2).rev().find_map(|pair| {
            let (parent, node) = (pair[0], pair[1]);
            let right = self.child(parent, 1);
            match right {
                Some(right) if self.child(parent, 0) == Some(node) => Some(self.leftmost(right)),
                _ => (!self.is_intermediate(parent)).then_some(parent),
            }
        })
    }

    /// The first node in postorder of a subtrie.
    fn leftmost(&self, mut node: u32) -> u32 {
        while let Some(below) = self.child(node, 0).or_else(|| self.child(node, 1)) {
            node = below;
        }
        node
    }
}

impl<const WORDS: usize> Prefix<'_, WORDS> {
    #[inline]
    fn bit(&self, bit: u32) -> usize {
        (self.words[bit as usize / 64] >> (63 - bit % 64)) as usize & 1
    }
}

/// Bits that the prefixes of a node and of a key have in common.
///
/// Kernel: `kernel/bpf/lpm_trie.c longest_prefix_match, v6.18`
#[inline]
fn matching<const WORDS: usize>(stored: SharedSlice<'_>, prefixlen: u32, key: &Prefix<'_, WORDS>) -> u32 {
    let limit = prefixlen.min(key.len);
    for (i, word) in (0..).zip(&key.words) {
        let differ = stored.read_u64(OFF_DATA + i as usize * 8).swap_bytes() ^ word;
        if differ != 0 {
            return limit.min(i * 64 + differ.leading_zeros());
        }
        if limit <= (i + 1) * 64 {
            break;
        }
    }
    limit
}

/// The bytes of a prefix as numbers, filled up with zeroes.
#[inline]
fn words<const WORDS: usize>(data: &[u8]) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    if let ([first], Ok(data)) = (words.as_mut_slice(), <[u8; 4]>::try_from(data)) {
        *first = u64::from(u32::from_be_bytes(data)) << 32;
        return words;
    }
    let (whole, rest) = data.as_chunks::<8>();
    for (word, bytes) in words.iter_mut().zip(whole) {
        *word = u64::from_be_bytes(*bytes);
    }
    if let (Some(word), false) = (words.get_mut(whole.len()), rest.is_empty()) {
        let mut all = [0; 8];
        all[..rest.len()].copy_from_slice(rest);
        *word = u64::from_be_bytes(all);
    }
    words
}
