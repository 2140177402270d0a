//! Stores to the own stack frame, until it is known whether anybody reads them.
//!
//! A store is only made if something reads it from memory: a load that the stored value cannot simply be
//! handed to, a call that may see the frame, or code after the trace for which it is live.

use super::node::{Graph, Id, KEPT};

/// 8-byte slots of a frame.
const SLOTS: usize = 64;
/// Longest list of stores that is kept per slot.
const MAX_CHAIN: u8 = 12;
const NONE: u32 = u32::MAX;

/// A store within one slot.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The store, and the value stored; `None` for one that was merged into another.
    id: Id,
    value: Id,
    /// Offset from the frame's lowest address, and bytes.
    at: u16,
    size: u8,
    /// The value in memory may have been changed since.
    stale: bool,
    dead: bool,
    /// The store before it in this slot.
    before: u32,
    chain: u8,
}

/// See the module.
#[derive(Debug)]
pub(super) struct StackLog {
    entries: Vec<Entry>,
    heads: [u32; SLOTS],
    /// Entries before this one are kept already.
    settled: usize,
    /// Entries before this one are stale.
    fresh: usize,
}

impl Default for StackLog {
    fn default() -> Self {
        Self { entries: Vec::new(), heads: [NONE; SLOTS], settled: 0, fresh: 0 }
    }
}

/// What a load from the stack finds.
pub(super) enum Found {
    /// The value of a store that covers it, and the bits that the load's lowest bit is above its own.
    Value(Id, u8),
    /// Several stores cover it together.
    Parts(Parts),
    /// Memory has to be read.
    Memory,
}

/// Most stores that one load is put together from: with more, memory is as good.
const MAX_PARTS: usize = 4;

/// A piece of a load that is a piece of a stored value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// The value, and the bits that the piece's lowest bit is above its own.
    pub(super) value: Id,
    pub(super) shift: u8,
    /// Bytes of the piece, and its place in the load.
    pub(super) bytes: u8,
    pub(super) at: u8,
}

/// Pieces, first to last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    parts: [Option<Part>; MAX_PARTS],
}

impl Parts {
    /// The pieces.
    pub(super) fn iter(&self) -> impl Iterator<Item = Part> + '_ {
        self.parts.iter().flatten().copied()
    }
}

/// Slot of an access that lies within one slot, and its offset in the frame.
fn slot(off: i64, size: u8) -> Option<(usize, u16)> {
    let at = u16::try_from(512 + off).ok()?;
    let (first, last) = (at / 8, (at + u16::from(size) - 1) / 8);
    (first == last && usize::from(last) < SLOTS).then_some((usize::from(first), at))
}

impl StackLog {
    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.heads = [NONE; SLOTS];
        (self.settled, self.fresh) = (0, 0);
    }

    /// Notes a store `off` bytes from the frame's end.
    pub(super) fn store(&mut self, g: &mut Graph, (id, value): (Id, Id), off: i64, size: u8) {
        let Some((slot, at)) = slot(off, size) else {
            // Across slots: as if by somebody else.
            g[id].flags |= KEPT;
            self.keep_all(g);
            self.stale_all();
            return;
        };
        let head = self.heads[slot];
        let covered = size == 8;
        let chain = if covered || head == NONE { 0 } else { self.entries[head as usize].chain + 1 };
        let mut before = if covered { NONE } else { head };
        if chain > MAX_CHAIN {
            self.keep_all(g);
            before = NONE;
        }
        self.entries.push(Entry {
            id,
            value,
            at,
            size,
            stale: false,
            dead: false,
            before,
            chain: chain % MAX_CHAIN,
        });
        self.heads[slot] = self.entries.len() as u32 - 1;
    }

    /// Forgets a store that became part of another one.
    pub(super) fn remove(&mut self, id: Id) {
        if let Some(e) = self.entries.iter_mut().rev().take(32).find(|e| e.id == id) {
            e.dead = true;
        }
    }

    /// Where the value of a load comes from.
    pub(super) fn load(&mut self, g: &mut Graph, off: i64, size: u8) -> Found {
        let Some((slot, at)) = slot(off, size) else {
            self.keep_all(g);
            return Found::Memory;
        };
        let end = at + u16::from(size);
        let mut i = self.heads[slot];
        while i != NONE {
            let e = self.entries[i as usize];
            let e_end = e.at + u16::from(e.size);
            if !e.dead && e.at < end && at < e_end {
                if e.at <= at && end <= e_end && (i as usize) >= self.fresh && !e.stale {
                    return Found::Value(e.value, ((at - e.at) * 8) as u8);
                }
                if let Some(parts) = self.parts(i, at, size) {
                    return Found::Parts(parts);
                }
                self.keep_chain(g, i);
                return Found::Memory;
            }
            i = e.before;
        }
        Found::Memory
    }

    /// The stores from the `i`-th back that cover a load together.
    fn parts(&self, mut i: u32, at: u16, size: u8) -> Option<Parts> {
        let mut sources = [NONE; 8];
        let mut missing = size;
        while i != NONE && missing > 0 {
            let e = self.entries[i as usize];
            for b in 0..u16::from(size) {
                let inside = (e.at..e.at + u16::from(e.size)).contains(&(at + b));
                if !e.dead && inside && sources[b as usize] == NONE {
                    if (i as usize) < self.fresh || e.stale {
                        return None;
                    }
                    sources[b as usize] = i;
                    missing -= 1;
                }
            }
            i = e.before;
        }
        if missing > 0 {
            return None;
        }
        let mut parts = [None; MAX_PARTS];
        let mut n = 0;
        let mut b = 0;
        while b < size {
            let run =
                sources[b as usize..size as usize].iter().take_while(|s| **s == sources[b as usize]).count();
            let e = self.entries[sources[b as usize] as usize];
            let shift = ((at + u16::from(b) - e.at) * 8) as u8;
            *parts.get_mut(n)? = Some(Part { value: e.value, shift, bytes: run as u8, at: b });
            n += 1;
            b += run as u8;
        }
        Some(Parts { parts })
    }

    fn keep_chain(&mut self, g: &mut Graph, mut i: u32) {
        while i != NONE {
            let e = self.entries[i as usize];
            if !e.dead {
                g[e.id].flags |= KEPT;
            }
            i = e.before;
        }
    }

    /// Everything that was stored may be read by somebody unknown.
    pub(super) fn keep_all(&mut self, g: &mut Graph) {
        self.keep(g, u128::MAX);
        // Of what was overwritten nobody asks any more.
        self.settled = self.entries.len();
    }

    /// What lies in some 4-byte granules may be read by somebody unknown.
    pub(super) fn keep(&mut self, g: &mut Graph, granules: u128) {
        if granules == 0 || self.settled == self.entries.len() {
            return;
        }
        for slot in 0..SLOTS {
            if granules >> (slot * 2) & 3 != 0 {
                self.keep_slot(g, slot, granules);
            }
        }
    }

    fn keep_slot(&mut self, g: &mut Graph, slot: usize, granules: u128) {
        let mut i = self.heads[slot];
        while i != NONE {
            let e = self.entries[i as usize];
            let (first, last) = (e.at / 4, (e.at + u16::from(e.size) - 1) / 4);
            if !e.dead && (first..=last).any(|granule| granules >> granule & 1 != 0) {
                g[e.id].flags |= KEPT;
            }
            i = e.before;
        }
    }

    /// Somebody unknown may have written anything.
    pub(super) fn stale_all(&mut self) {
        self.fresh = self.entries.len();
    }
}
