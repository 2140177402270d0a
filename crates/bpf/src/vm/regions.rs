//! [`Scratch`]: the table of regions that a checked run can reach, kept between runs for its memory.
//!
//! This is bookkeeping of numbers: nothing here touches the memory that regions stand for, which
//! [`super::GuestMemory`] does.
// UNSAFETY: the table holds raw pointers, and must go to another thread with its owner.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};

use mem::{Frame, SharedSlice};
use uapi::bpf::{MAX_BPF_STACK, MAX_CALL_FRAMES};

use super::{Access, Fault, FaultKind, RegionKind};

/// Bits of an address that are the offset into its region.
const OFFSET_BITS: u32 = 36;
/// Offset of a region's first byte.
const BIAS: u64 = 1 << (OFFSET_BITS - 1);
/// Bits of a region's number that are its slot; the 8 bits above are a generation.
const SLOT_BITS: u32 = 20;
/// Regions that can exist at the same time.
const SLOTS_MAX: usize = 1 << SLOT_BITS;
/// A slot is used again only when so many were given up after it, so that stale pointers are found.
const QUARANTINE: usize = 1024;

/// Slot of the context; stack frames have the slots before it.
pub(super) const CONTEXT: usize = MAX_CALL_FRAMES;
/// Slot of metadata and linear part of the packet.
pub(super) const PACKET: usize = CONTEXT + 1;
const FIXED_SLOTS: usize = PACKET + 1;

/// Granularity in which the kernel counts the stack of a frame, bytes.
const STACK_ROUND: usize = 16;

/// The bounds of one region: `host` is what the guest address `guest` names.
///
/// The limits are 0 for what may not be accessed so, and for what is gone.
#[derive(Clone, Copy)]
pub(super) struct Region {
    pub(super) guest: u64,
    pub(super) host: *mut u8,
    pub(super) read: u64,
    pub(super) write: u64,
}

/// What is known about a region beside its bounds.
#[derive(Clone, Copy)]
struct Label {
    kind: RegionKind,
    generation: u8,
    alive: bool,
    writable: bool,
    len: usize,
}

/// Memory for checked runs, to be used for one run after the other. No run sees anything of an
/// earlier one in it.
pub struct Scratch {
    regions: Vec<Region>,
    labels: Vec<Label>,
    by_host: BTreeMap<(u64, usize, bool), u64>,
    free: VecDeque<u32>,
    stack: Frame,
    /// Bytes below the frame pointer that each live frame has touched.
    depths: [Cell<usize>; MAX_CALL_FRAMES],
    frames: usize,
    /// Pointers to maps and to their values that the running program has loaded; 0 if it has not.
    constants: Vec<u64>,
    /// Address of the program that they belong to.
    constants_of: usize,
}

// SAFETY: the pointers in the table are used only during a run, which borrows the scratch, and
// `begin` removes those of earlier runs; by itself the table is plain data.
unsafe impl Send for Scratch {}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Scratch {
    /// Memory for runs; it grows to what the largest of them needs.
    #[must_use]
    pub fn new() -> Self {
        let mut scratch = Self {
            regions: Vec::with_capacity(64),
            labels: Vec::with_capacity(64),
            by_host: BTreeMap::new(),
            free: VecDeque::new(),
            stack: Frame::new(MAX_CALL_FRAMES * MAX_BPF_STACK),
            depths: Default::default(),
            frames: 0,
            constants: Vec::new(),
            constants_of: 0,
        };
        for slot in 0..FIXED_SLOTS {
            let kind = match slot {
                CONTEXT => RegionKind::Context,
                PACKET => RegionKind::Packet,
                depth => RegionKind::Stack(depth as u8),
            };
            scratch.add_slot(kind);
        }
        scratch
    }

    /// Forgets the last run.
    pub(super) fn begin(&mut self) {
        self.regions.truncate(FIXED_SLOTS);
        self.labels.truncate(FIXED_SLOTS);
        // Generations start over, so that pointers do not depend on earlier runs.
        for (region, label) in self.regions.iter_mut().zip(&mut self.labels) {
            (region.read, region.write) = (0, 0);
            (label.generation, label.alive) = (0, false);
        }
        if !self.by_host.is_empty() {
            self.by_host.clear();
        }
        self.free.clear();
        self.frames = 0;
        self.constants_of = 0;
    }

    /// Where a program's constant is kept, 0 if it is not known yet.
    #[inline]
    pub(super) fn constant(&mut self, program: usize, index: usize) -> &mut u64 {
        if self.constants_of != program {
            self.constants_of = program;
            self.constants.clear();
        }
        if index >= self.constants.len() {
            self.constants.resize(index + 1, 0);
        }
        &mut self.constants[index]
    }

    fn add_slot(&mut self, kind: RegionKind) {
        self.labels.push(Label { kind, generation: 0, alive: false, writable: false, len: 0 });
        self.regions.push(Region { guest: 0, host: std::ptr::null_mut(), read: 0, write: 0 });
    }

    /// The region that an address names, alive or not.
    #[inline]
    pub(super) fn region(&self, addr: u64) -> Option<&Region> {
        self.regions.get((addr >> OFFSET_BITS) as usize & (SLOTS_MAX - 1))
    }

    fn base(slot: usize, generation: u8) -> u64 {
        (u64::from(generation) << SLOT_BITS | slot as u64) << OFFSET_BITS | BIAS
    }

    /// The slot that an address names, if its generation is the current one.
    fn live_slot(&self, addr: u64) -> Option<usize> {
        let slot = (addr >> OFFSET_BITS) as usize & (SLOTS_MAX - 1);
        let label = self.labels.get(slot)?;
        let same = Self::base(slot, label.generation) >> OFFSET_BITS == addr >> OFFSET_BITS;
        (same && label.alive).then_some(slot)
    }

    /// Starts a fresh region in a slot, so that pointers to what was there before are stale.
    pub(super) fn renew(
        &mut self,
        slot: usize,
        kind: RegionKind,
        bytes: SharedSlice<'_>,
        writable: bool,
    ) -> u64 {
        let label = &mut self.labels[slot];
        // Generation 0 is never used: small numbers are no pointers.
        let generation = label.generation.checked_add(1).unwrap_or(1);
        *label = Label { kind, generation, alive: true, writable, len: bytes.len() };
        let guest = Self::base(slot, generation);
        let len = bytes.len() as u64;
        let write = if writable { len } else { 0 };
        self.regions[slot] = Region { guest, host: bytes.as_ptr().as_ptr(), read: len, write };
        guest
    }

    /// A region for these bytes: the one that they have, or a new one.
    pub(super) fn expose(
        &mut self,
        kind: RegionKind,
        bytes: SharedSlice<'_>,
        writable: bool,
    ) -> Result<u64, Fault> {
        let key = (bytes.addr(), bytes.len(), writable);
        if let Some(addr) = self.by_host.get(&key) {
            return Ok(*addr);
        }
        let slot = self.take_slot(kind)?;
        let addr = self.renew(slot, kind, bytes, writable);
        self.by_host.insert(key, addr);
        Ok(addr)
    }

    fn take_slot(&mut self, kind: RegionKind) -> Result<usize, Fault> {
        let full = self.regions.len() == SLOTS_MAX;
        if (full || self.free.len() > QUARANTINE)
            && let Some(slot) = self.free.pop_front()
        {
            return Ok(slot as usize);
        }
        if full {
            return Err(Fault::illegal(format!("pointers to more than {SLOTS_MAX} things in one run")));
        }
        self.add_slot(kind);
        Ok(self.regions.len() - 1)
    }

    /// Ends a region; answers whether the address named one that was alive.
    pub(super) fn retire(&mut self, addr: u64) -> bool {
        let Some(slot) = self.live_slot(addr) else { return false };
        let (region, label) = (&mut self.regions[slot], &mut self.labels[slot]);
        self.by_host.remove(&(region.host.addr() as u64, label.len, label.writable));
        label.alive = false;
        (region.read, region.write) = (0, 0);
        if slot >= FIXED_SLOTS {
            self.free.push_back(slot as u32);
        }
        true
    }

    /// What a live pointer points to, if it points to the start.
    pub(super) fn kind_at(&self, addr: u64) -> Option<(RegionKind, *mut u8)> {
        let slot = self.live_slot(addr)?;
        let region = &self.regions[slot];
        (region.guest == addr).then_some((self.labels[slot].kind, region.host))
    }

    /// What the region of a live pointer is.
    pub(super) fn kind_of(&self, addr: u64) -> Option<RegionKind> {
        self.live_slot(addr).map(|slot| self.labels[slot].kind)
    }

    /// What the region of a live pointer is, and where the pointer is in it.
    pub(super) fn describe(&self, addr: u64) -> Option<(RegionKind, i64)> {
        let slot = self.live_slot(addr)?;
        let base = Self::base(slot, self.labels[slot].generation);
        Some((self.labels[slot].kind, addr.wrapping_sub(base) as i64))
    }

    /// The fault of an access that the region's bounds do not allow.
    #[cold]
    pub(super) fn refuse(&self, addr: u64, len: u64, access: Access) -> Fault {
        let slot = (addr >> OFFSET_BITS) as usize & (SLOTS_MAX - 1);
        let generation = (addr >> (OFFSET_BITS + SLOT_BITS)) as u8;
        let label = self.labels.get(slot).filter(|l| generation != 0 && generation <= l.generation);
        let Some(label) = label else { return FaultKind::NotAPointer { addr, len, access }.into() };
        let region = label.kind;
        if !label.alive || label.generation != generation {
            return FaultKind::Stale { region, access }.into();
        }
        let bounds = &self.regions[slot];
        let limit = if access == Access::Read { bounds.read } else { bounds.write };
        if limit == 0 && !matches!(region, RegionKind::Stack(_)) {
            return FaultKind::Denied { region, access }.into();
        }
        let (start, limit) = match region {
            RegionKind::Stack(_) => (Self::base(slot, generation), MAX_BPF_STACK as u64),
            _ => (bounds.guest, limit),
        };
        let offset = addr.wrapping_sub(start) as i64;
        FaultKind::OutOfBounds { region, offset, len, limit, access }.into()
    }
}

/// Stack frames. A frame's bytes become accessible as it touches them, so that the stack of the whole
/// call chain can be held to the kernel's limit.
impl Scratch {
    /// Enters the next frame and answers its frame pointer, which is one past its last byte.
    pub(super) fn push_frame(&mut self) -> Result<u64, Fault> {
        let depth = self.frames;
        if depth == MAX_CALL_FRAMES {
            return Err(Fault::illegal(format!("the call stack of {} frames is too deep", depth + 1)));
        }
        self.frames += 1;
        self.depths[depth].set(0);
        let top = self.stack.bytes().get((depth + 1) * MAX_BPF_STACK, 0).expect("room for each frame");
        let label = &mut self.labels[depth];
        label.generation = label.generation.checked_add(1).unwrap_or(1);
        label.alive = true;
        let guest = Self::base(depth, label.generation);
        self.regions[depth] = Region { guest, host: top.as_ptr().as_ptr(), read: 0, write: 0 };
        Ok(guest)
    }

    /// Leaves the innermost frame.
    fn pop_frame(&mut self) {
        self.frames -= 1;
        self.labels[self.frames].alive = false;
        (self.regions[self.frames].read, self.regions[self.frames].write) = (0, 0);
    }

    /// Leaves all frames but the first `keep`.
    pub(super) fn unwind_frames(&mut self, keep: usize) {
        while self.frames > keep {
            self.pop_frame();
        }
    }

    /// Frames that are live.
    pub(super) fn frames(&self) -> usize {
        self.frames
    }

    /// The bytes at an address within the stack, which count as touched from now on; `None` if the
    /// address is not in a live frame.
    pub(super) fn touch_stack(&self, addr: u64, len: u64) -> Option<Result<SharedSlice<'_>, Fault>> {
        let depth = self.live_slot(addr).filter(|slot| *slot < MAX_CALL_FRAMES)?;
        let fp = Self::base(depth, self.labels[depth].generation);
        let below =
            fp.checked_sub(addr).filter(|below| *below <= MAX_BPF_STACK as u64 && len <= *below)? as usize;
        if below > self.depths[depth].get()
            && let Err(fault) = self.deepen(depth, below)
        {
            return Some(Err(fault));
        }
        self.stack.bytes().get((depth + 1) * MAX_BPF_STACK - below, len as usize).map(Ok)
    }

    /// Lets a frame have `below` bytes. New ones are zero, whatever earlier frames left there.
    fn deepen(&self, depth: usize, below: usize) -> Result<(), Fault> {
        let new = below.next_multiple_of(STACK_ROUND);
        let old = self.depths[depth].replace(new);
        let total: usize = self.depths[..self.frames].iter().map(Cell::get).sum();
        if total > MAX_BPF_STACK {
            let frames = self.frames;
            return Err(Fault::illegal(format!(
                "combined stack size of {frames} calls is {total}. Too large"
            )));
        }
        let top = (depth + 1) * MAX_BPF_STACK;
        let fresh = self.stack.bytes().get(top - new, new - old).expect("within the frame's part");
        fresh.copy_from(0, &[0; MAX_BPF_STACK][..new - old]);
        Ok(())
    }

    /// Lets later accesses to what a frame has touched take the fast way.
    pub(super) fn widen_frame(&mut self, addr: u64) {
        let Some(depth) = self.live_slot(addr).filter(|slot| *slot < MAX_CALL_FRAMES) else { return };
        let touched = self.depths[depth].get();
        let from = self.stack.bytes().get((depth + 1) * MAX_BPF_STACK - touched, touched).expect("checked");
        let guest = Self::base(depth, self.labels[depth].generation) - touched as u64;
        let touched = touched as u64;
        self.regions[depth] = Region { guest, host: from.as_ptr().as_ptr(), read: touched, write: touched };
    }
}
