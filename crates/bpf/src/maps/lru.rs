//! [`Lru`]: which entry a full LRU map throws out, exactly as the kernel chooses.
//!
//! Each entry has a *node*. Nodes are in an active, an inactive or a free list, or in one of a CPU's own two
//! lists: free nodes fetched in batches of up to 128, and *pending* ones that are in use but not yet in the
//! shared lists. A lookup only sets a bit in the element; the lists are looked through when free nodes are
//! needed. With `BPF_F_NO_COMMON_LRU` each CPU has the three lists for itself and no others.
//!
//! Nodes are what the kernel counts; the memory of an entry is an element of the table's slab, and a node gets
//! another one each time, so that readers keep what they found.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::*};

use mem::{CachePadded, Slab, SpinLock, zeroed_u8, zeroed_u32};
use uapi::bpf::BPF_F_NO_COMMON_LRU;

use super::htab::OFF_REF;
use super::{CreateError, MapContext, MapDef};

/// Free nodes that a CPU fetches at once from common lists, and nodes looked at while it does.
const LOCAL_FREE_TARGET: u32 = 128;
/// The same for lists per CPU.
const PERCPU_FREE_TARGET: u32 = 4;

/// Lists of a set, and values of a node's type.
const ACTIVE: u8 = 0;
const INACTIVE: u8 = 1;
const FREE: u8 = 2;
/// Lists of a CPU.
const LOCAL_FREE: u8 = 3;
const LOCAL_PENDING: u8 = 4;

/// Kernel: `kernel/bpf/bpf_lru_list.c struct bpf_lru, v6.18`
#[doc(alias = "bpf_lru")]
pub(super) struct Lru {
    nodes: u32,
    /// Neighbours in a list. Behind the nodes come the heads of all lists.
    next: Box<[AtomicU32]>,
    prev: Box<[AtomicU32]>,
    kind: Box<[AtomicU8]>,
    cpu: Box<[AtomicU32]>,
    /// Element of a node, plus 1.
    element: Box<[AtomicU32]>,
    /// One set of lists, or one per CPU.
    sets: Box<[CachePadded<SpinLock<Set>>]>,
    locals: Box<[CachePadded<SpinLock<Local>>]>,
    percpu: bool,
    target_free: u32,
    nr_scans: u32,
}

/// Active, inactive and free list.
///
/// Kernel: `kernel/bpf/bpf_lru_list.h struct bpf_lru_list, v6.18`
#[derive(Debug)]
struct Set {
    /// Head of the active list; the other two follow.
    heads: u32,
    counts: [u32; 2],
    /// Where looking through the inactive list goes on.
    next_inactive_rotation: u32,
}

/// Kernel: `kernel/bpf/bpf_lru_list.h struct bpf_lru_locallist, v6.18`
#[derive(Debug)]
struct Local {
    /// Head of the free list; the pending list's follows.
    heads: u32,
    next_steal: u32,
}

impl Set {
    fn head(&self, list: u8) -> u32 {
        self.heads + u32::from(list)
    }
}

impl Local {
    fn free(&self) -> u32 {
        self.heads
    }

    fn pending(&self) -> u32 {
        self.heads + 1
    }
}

/// The reference bits, which lie in the elements.
#[derive(Clone, Copy)]
pub(super) struct Refs<'a> {
    pub(super) lru: &'a Lru,
    pub(super) elems: &'a Slab,
}

impl Refs<'_> {
    fn get(&self, node: u32) -> bool {
        self.lru.element(node).is_some_and(|elem| self.elems.slot(elem as usize).read_u8(OFF_REF) != 0)
    }

    fn clear(&self, node: u32) {
        if let Some(elem) = self.lru.element(node) {
            self.elems.slot(elem as usize).write_u8(OFF_REF, 0);
        }
    }
}

/// Takes a node's entry out of the table; `false` if it was not there.
type Evict<'a> = &'a dyn Fn(u32) -> bool;

impl Lru {
    pub(super) fn new(def: &MapDef, nodes: u32, cx: &MapContext) -> Result<Self, CreateError> {
        let percpu = def.map_flags & BPF_F_NO_COMMON_LRU != 0;
        let sets = if percpu { cx.cpus } else { 1 };
        let links = nodes as usize + (sets * 3 + cx.cpus * 2) as usize;
        let no_memory = || CreateError::no_memory(links as u64 * 17);
        let set = |i| Set {
            heads: nodes + i * 3,
            counts: [0; 2],
            next_inactive_rotation: nodes + i * 3 + u32::from(INACTIVE),
        };
        let local = |cpu| Local { heads: nodes + sets * 3 + cpu * 2, next_steal: cpu };
        let lru = Self {
            nodes,
            next: zeroed_u32(links).ok_or_else(no_memory)?,
            prev: zeroed_u32(links).ok_or_else(no_memory)?,
            kind: zeroed_u8(nodes as usize).ok_or_else(no_memory)?,
            cpu: zeroed_u32(nodes as usize).ok_or_else(no_memory)?,
            element: zeroed_u32(nodes as usize).ok_or_else(no_memory)?,
            sets: (0..sets).map(|i| CachePadded(SpinLock::new(set(i)))).collect(),
            locals: (0..cx.cpus).map(|cpu| CachePadded(SpinLock::new(local(cpu)))).collect(),
            percpu,
            target_free: (nodes / cx.cpus / 2).clamp(1, LOCAL_FREE_TARGET),
            nr_scans: if percpu { PERCPU_FREE_TARGET } else { LOCAL_FREE_TARGET },
        };
        lru.populate();
        Ok(lru)
    }

    /// Kernel: `kernel/bpf/bpf_lru_list.c bpf_lru_populate, v6.18`
    fn populate(&self) {
        for head in self.nodes..self.next.len() as u32 {
            self.next[head as usize].store(head, Relaxed);
            self.prev[head as usize].store(head, Relaxed);
        }
        let sets = self.sets.len() as u32;
        for node in 0..self.nodes {
            let set = node / self.nodes.div_ceil(sets);
            self.kind[node as usize].store(FREE, Relaxed);
            self.cpu[node as usize].store(set, Relaxed);
            self.list_add(node, self.nodes + set * 3 + u32::from(FREE));
        }
    }

    /// The element of a node.
    pub(super) fn element(&self, node: u32) -> Option<u32> {
        self.element[node as usize].load(Acquire).checked_sub(1)
    }

    pub(super) fn set_element(&self, node: u32, elem: Option<u32>) {
        self.element[node as usize].store(elem.map_or(0, |e| e + 1), Release);
    }

    // --- lists ---

    fn next(&self, at: u32) -> u32 {
        self.next[at as usize].load(Relaxed)
    }

    fn prev(&self, at: u32) -> u32 {
        self.prev[at as usize].load(Relaxed)
    }

    fn link(&self, a: u32, b: u32) {
        self.next[a as usize].store(b, Relaxed);
        self.prev[b as usize].store(a, Relaxed);
    }

    fn list_add(&self, node: u32, head: u32) {
        let first = self.next(head);
        self.link(head, node);
        self.link(node, first);
    }

    fn list_del(&self, node: u32) {
        self.link(self.prev(node), self.next(node));
    }

    fn is_empty(&self, head: u32) -> bool {
        self.next(head) == head
    }

    fn first(&self, head: u32) -> Option<u32> {
        Some(self.next(head)).filter(|n| *n != head)
    }

    fn kind(&self, node: u32) -> u8 {
        self.kind[node as usize].load(Relaxed)
    }

    fn set_kind(&self, node: u32, kind: u8) {
        self.kind[node as usize].store(kind, Relaxed);
    }

    /// Moves a node between or within the lists of a set, and clears its bit.
    ///
    /// Kernel: `kernel/bpf/bpf_lru_list.c __bpf_lru_node_move, v6.18`
    fn node_move(&self, set: &mut Set, refs: &Refs<'_>, node: u32, to: u8) {
        self.node_leave(set, node);
        if let Some(n) = set.counts.get_mut(to as usize) {
            *n += 1;
        }
        self.set_kind(node, to);
        refs.clear(node);
        self.list_add(node, set.head(to));
    }

    /// Takes a node out of its list of a set.
    fn node_leave(&self, set: &mut Set, node: u32) {
        if node == set.next_inactive_rotation {
            set.next_inactive_rotation = self.prev(node);
        }
        if let Some(n) = set.counts.get_mut(self.kind(node) as usize) {
            *n -= 1;
        }
        self.list_del(node);
    }

    /// Moves a node of a set to a list of free ones.
    ///
    /// Kernel: `kernel/bpf/bpf_lru_list.c __bpf_lru_node_move_to_free, v6.18`
    fn move_to_free(&self, set: &mut Set, node: u32, free: (u32, u8)) {
        self.node_leave(set, node);
        self.set_kind(node, free.1);
        self.list_add(node, free.0);
    }

    // --- looking through a set ---

    /// Kernel: `kernel/bpf/bpf_lru_list.c __bpf_lru_list_rotate, v6.18`
    fn rotate(&self, set: &mut Set, refs: &Refs<'_>) {
        if set.counts[INACTIVE as usize] < set.counts[ACTIVE as usize] {
            self.rotate_active(set, refs);
        }
        self.rotate_inactive(set, refs);
    }

    /// The end of the active list: who was used goes to its front again, the others become inactive.
    fn rotate_active(&self, set: &mut Set, refs: &Refs<'_>) {
        let head = set.head(ACTIVE);
        let first = self.next(head);
        let mut node = self.prev(head);
        for _ in 0..self.nr_scans {
            let before = self.prev(node);
            self.node_move(set, refs, node, if refs.get(node) { ACTIVE } else { INACTIVE });
            if node == first {
                break;
            }
            node = before;
        }
    }

    /// A stretch of the inactive list: who was used becomes active.
    fn rotate_inactive(&self, set: &mut Set, refs: &Refs<'_>) {
        let head = set.head(INACTIVE);
        if self.is_empty(head) {
            return;
        }
        let mut last = self.next(set.next_inactive_rotation);
        if last == head {
            last = self.next(last);
        }
        let mut at = set.next_inactive_rotation;
        let mut next = head;
        let mut scanned = 0;
        while scanned < self.nr_scans {
            if at == head {
                at = self.prev(at);
                continue;
            }
            next = self.prev(at);
            if refs.get(at) {
                self.node_move(set, refs, at, ACTIVE);
            }
            if at == last {
                break;
            }
            at = next;
            scanned += 1;
        }
        set.next_inactive_rotation = next;
    }

    /// Makes free nodes of inactive ones that were not used, or of any one if there is none.
    ///
    /// Kernel: `kernel/bpf/bpf_lru_list.c __bpf_lru_list_shrink, v6.18`
    fn shrink(&self, set: &mut Set, refs: &Refs<'_>, want: u32, free: (u32, u8), evict: Evict<'_>) {
        if self.shrink_inactive(set, refs, want, free, evict) > 0 {
            return;
        }
        let list = if self.is_empty(set.head(INACTIVE)) { ACTIVE } else { INACTIVE };
        let head = set.head(list);
        let mut node = self.prev(head);
        while node != head {
            let before = self.prev(node);
            if evict(node) {
                self.move_to_free(set, node, free);
                return;
            }
            node = before;
        }
    }

    fn shrink_inactive(
        &self,
        set: &mut Set,
        refs: &Refs<'_>,
        want: u32,
        free: (u32, u8),
        evict: Evict<'_>,
    ) -> u32 {
        let head = set.head(INACTIVE);
        let mut node = self.prev(head);
        let mut freed = 0;
        for _ in 0..self.nr_scans {
            if node == head {
                break;
            }
            let before = self.prev(node);
            if refs.get(node) {
                self.node_move(set, refs, node, ACTIVE);
            } else if evict(node) {
                self.move_to_free(set, node, free);
                freed += 1;
                if freed == want {
                    break;
                }
            }
            node = before;
        }
        freed
    }

    // --- taking and giving back ---

    /// A node for a new entry. `evict` is called with no lock of the table held.
    ///
    /// Kernel: `kernel/bpf/bpf_lru_list.c bpf_lru_pop_free, v6.18`
    pub(super) fn pop_free(&self, cpu: u32, refs: &Refs<'_>, evict: Evict<'_>) -> Option<u32> {
        if self.percpu {
            self.percpu_pop_free(cpu, refs, evict)
        } else {
            self.common_pop_free(cpu, refs, evict)
        }
    }

    fn percpu_pop_free(&self, cpu: u32, refs: &Refs<'_>, evict: Evict<'_>) -> Option<u32> {
        self.set(cpu).with(|set| {
            self.rotate(set, refs);
            let head = set.head(FREE);
            if self.is_empty(head) {
                self.shrink(set, refs, PERCPU_FREE_TARGET, (head, FREE), evict);
            }
            let node = self.first(head)?;
            self.node_move(set, refs, node, INACTIVE);
            Some(node)
        })
    }

    fn set(&self, cpu: u32) -> &SpinLock<Set> {
        let cpu = cpu as usize;
        // A division takes longer than the rest.
        &self.sets[if cpu < self.sets.len() { cpu } else { cpu % self.sets.len() }].0
    }

    fn local(&self, cpu: u32) -> &SpinLock<Local> {
        let cpu = cpu as usize;
        &self.locals[if cpu < self.locals.len() { cpu } else { cpu % self.locals.len() }].0
    }

    fn common_pop_free(&self, cpu: u32, refs: &Refs<'_>, evict: Evict<'_>) -> Option<u32> {
        let own = self.local(cpu).with(|local| {
            if self.is_empty(local.free()) {
                self.fetch(local, refs, evict);
            }
            let node = self.first(local.free())?;
            self.list_del(node);
            self.add_pending(local, refs, cpu, node);
            Some(node)
        });
        own.or_else(|| self.steal(cpu, refs, evict))
    }

    /// Kernel: `kernel/bpf/bpf_lru_list.c bpf_lru_list_pop_free_to_local, v6.18`
    fn fetch(&self, local: &Local, refs: &Refs<'_>, evict: Evict<'_>) {
        self.sets[0].with(|set| {
            self.flush_pending(set, local, refs);
            self.rotate(set, refs);
            let mut fetched = 0;
            while fetched < self.target_free
                && let Some(node) = self.first(set.head(FREE))
            {
                self.move_to_free(set, node, (local.free(), LOCAL_FREE));
                fetched += 1;
            }
            if fetched < self.target_free {
                let want = self.target_free - fetched;
                self.shrink(set, refs, want, (local.free(), LOCAL_FREE), evict);
            }
        });
    }

    /// Moves a CPU's pending nodes into the common lists, oldest first.
    ///
    /// Kernel: `kernel/bpf/bpf_lru_list.c __local_list_flush, v6.18`
    fn flush_pending(&self, set: &mut Set, local: &Local, refs: &Refs<'_>) {
        let head = local.pending();
        let mut node = self.prev(head);
        while node != head {
            let before = self.prev(node);
            let list = if refs.get(node) { ACTIVE } else { INACTIVE };
            set.counts[list as usize] += 1;
            self.set_kind(node, list);
            refs.clear(node);
            self.list_del(node);
            self.list_add(node, set.head(list));
            node = before;
        }
    }

    fn add_pending(&self, local: &Local, refs: &Refs<'_>, cpu: u32, node: u32) {
        self.cpu[node as usize].store(cpu, Relaxed);
        self.set_kind(node, LOCAL_PENDING);
        refs.clear(node);
        self.list_add(node, local.pending());
    }

    /// From the CPUs' own lists, this one's too, round robin.
    #[cold]
    fn steal(&self, cpu: u32, refs: &Refs<'_>, evict: Evict<'_>) -> Option<u32> {
        let cpus = self.locals.len() as u32;
        let first = self.local(cpu).with(|local| local.next_steal);
        let mut victim = first;
        let node = loop {
            let node = self.local(victim).with(|local| {
                let free = self.first(local.free());
                let node = free.or_else(|| self.pop_pending(local, refs, evict))?;
                self.list_del(node);
                Some(node)
            });
            victim = (victim + 1) % cpus;
            if node.is_some() || victim == first {
                break node;
            }
        };
        self.local(cpu).with(|local| {
            local.next_steal = victim;
            if let Some(node) = node {
                self.add_pending(local, refs, cpu, node);
            }
        });
        node
    }

    /// The oldest pending node whose entry can be thrown out, unused ones first.
    ///
    /// Kernel: `kernel/bpf/bpf_lru_list.c __local_list_pop_pending, v6.18`
    fn pop_pending(&self, local: &Local, refs: &Refs<'_>, evict: Evict<'_>) -> Option<u32> {
        for force in [false, true] {
            let mut node = self.prev(local.pending());
            while node != local.pending() {
                if (force || !refs.get(node)) && evict(node) {
                    return Some(node);
                }
                node = self.prev(node);
            }
        }
        None
    }

    /// Gives a node back whose entry is gone.
    ///
    /// Kernel: `kernel/bpf/bpf_lru_list.c bpf_lru_push_free, v6.18`
    pub(super) fn push_free(&self, node: u32) {
        let refs = |set: &mut Set| {
            self.node_leave(set, node);
            self.set_kind(node, FREE);
            self.list_add(node, set.head(FREE));
        };
        let cpu = self.cpu[node as usize].load(Relaxed);
        if self.percpu {
            return self.set(cpu).with(refs);
        }
        if self.kind(node) == LOCAL_PENDING {
            let done = self.local(cpu).with(|local| {
                let pending = self.kind(node) == LOCAL_PENDING;
                if pending {
                    self.set_kind(node, LOCAL_FREE);
                    self.list_del(node);
                    self.list_add(node, local.free());
                }
                pending
            });
            if done {
                return;
            }
        }
        self.sets[0].with(refs);
    }
}

impl std::fmt::Debug for Lru {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lru({} nodes)", self.nodes)
    }
}
