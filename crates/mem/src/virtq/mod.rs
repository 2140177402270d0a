//! Virtqueues: split rings of virtio in shared memory. [`DriverQueue`] is the side that makes buffers
//! available, [`DeviceQueue`] the one that uses them.
//!
//! Neither side believes the other: what is read from the memory is read once, checked, and used as the copy.
//! Each side remembers its own part of the ring by itself. The memory is only seen as a
//! [`SharedSlice`](crate::SharedSlice), whose words are relaxed atomics; fences order them, as in the kernel.
//!
//! Addresses in descriptors are offsets into the memory. The specification is virtio 1.3, section 2.7.

mod device;
mod driver;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use device::{BadChain, Chain, DeviceQueue, Segment};
pub use driver::{AddError, Buffer, DriverQueue};
use uapi::virtio_ring::{VRING_DESC_SIZE, VRING_SIZE_MAX, VRING_USED_ELEM_SIZE};

use crate::{SharedMem, SharedSlice};

/// Most descriptors that a driver puts into one chain.
pub const CHAIN_MAX: usize = 40;

/// Where the parts of a queue lie in the memory, bytes, and its size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueLayout {
    /// Descriptors: a power of two.
    pub size: u16,
    /// Of the table of descriptors; a multiple of 16.
    pub desc: usize,
    /// Of the ring that the driver writes; a multiple of 2.
    pub avail: usize,
    /// Of the ring that the device writes; a multiple of 4.
    pub used: usize,
}

impl QueueLayout {
    /// The parts one after the other from `offset`, and where they end.
    #[must_use]
    pub const fn at(offset: usize, size: u16) -> (Self, usize) {
        let desc = offset.next_multiple_of(VRING_DESC_SIZE);
        let avail = desc + VRING_DESC_SIZE * size as usize;
        let used = (avail + Self::avail_len(size)).next_multiple_of(4);
        (Self { size, desc, avail, used }, used + Self::used_len(size))
    }

    const fn avail_len(size: u16) -> usize {
        6 + 2 * size as usize
    }

    const fn used_len(size: u16) -> usize {
        6 + VRING_USED_ELEM_SIZE * size as usize
    }

    /// Whether all parts are aligned and lie within memory of that length.
    #[must_use]
    pub fn fits(&self, len: usize) -> bool {
        let within = |from: usize, bytes| from.checked_add(bytes).is_some_and(|end| end <= len);
        let size = self.size;
        let aligned = self.desc.is_multiple_of(VRING_DESC_SIZE)
            && self.avail.is_multiple_of(2)
            && self.used.is_multiple_of(4);
        let counted = size.is_power_of_two() && size <= VRING_SIZE_MAX;
        counted
            && aligned
            && within(self.desc, VRING_DESC_SIZE * size as usize)
            && within(self.avail, Self::avail_len(size))
            && within(self.used, Self::used_len(size))
    }
}

/// Features of the ring that both sides have agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RingFeatures {
    /// `VIRTIO_RING_F_EVENT_IDX`.
    pub event_idx: bool,
    /// `VIRTIO_RING_F_INDIRECT_DESC`.
    pub indirect: bool,
}

/// A descriptor as it lies in the memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Desc {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Desc {
    fn write(self, table: SharedSlice<'_>, index: usize) {
        let at = index * VRING_DESC_SIZE;
        table.write_u64(at, self.addr);
        table.write_u64(
            at + 8,
            u64::from(self.len) | u64::from(self.flags) << 32 | u64::from(self.next) << 48,
        );
    }

    fn read(table: SharedSlice<'_>, index: usize) -> Self {
        let at = index * VRING_DESC_SIZE;
        let word = table.read_u64(at + 8);
        let addr = table.read_u64(at);
        Self { addr, len: word as u32, flags: (word >> 32) as u16, next: (word >> 48) as u16 }
    }
}

/// The words of a ring; the layout was checked when it was made.
#[derive(Debug)]
struct Ring {
    memory: Arc<SharedMem>,
    layout: QueueLayout,
}

impl Ring {
    fn new(memory: Arc<SharedMem>, layout: QueueLayout) -> Option<Self> {
        layout.fits(memory.len()).then_some(Self { memory, layout })
    }

    fn view(&self) -> SharedSlice<'_> {
        self.memory.view()
    }

    fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.layout.size - 1))
    }

    fn table(&self) -> SharedSlice<'_> {
        let len = VRING_DESC_SIZE * usize::from(self.layout.size);
        self.view().get(self.layout.desc, len).expect("the layout fits the memory")
    }

    fn avail_flags(&self) -> u16 {
        self.view().read_u16(self.layout.avail)
    }

    fn set_avail_flags(&self, flags: u16) {
        self.view().write_u16(self.layout.avail, flags);
    }

    fn avail_idx(&self) -> u16 {
        self.view().read_u16(self.layout.avail + 2)
    }

    fn set_avail_idx(&self, idx: u16) {
        self.view().write_u16(self.layout.avail + 2, idx);
    }

    fn avail_entry(&self, index: u16) -> u16 {
        self.view().read_u16(self.layout.avail + 4 + 2 * self.slot(index))
    }

    fn set_avail_entry(&self, index: u16, head: u16) {
        self.view().write_u16(self.layout.avail + 4 + 2 * self.slot(index), head);
    }

    /// At which index of the used ring the driver wants an interrupt: behind the avail ring.
    fn used_event(&self) -> u16 {
        self.view().read_u16(self.layout.avail + 4 + 2 * usize::from(self.layout.size))
    }

    fn set_used_event(&self, event: u16) {
        self.view().write_u16(self.layout.avail + 4 + 2 * usize::from(self.layout.size), event);
    }

    fn used_flags(&self) -> u16 {
        self.view().read_u16(self.layout.used)
    }

    fn set_used_flags(&self, flags: u16) {
        self.view().write_u16(self.layout.used, flags);
    }

    fn used_idx(&self) -> u16 {
        self.view().read_u16(self.layout.used + 2)
    }

    fn set_used_idx(&self, idx: u16) {
        self.view().write_u16(self.layout.used + 2, idx);
    }

    fn used_entry(&self, index: u16) -> (u32, u32) {
        let at = self.layout.used + 4 + VRING_USED_ELEM_SIZE * self.slot(index);
        (self.view().read_u32(at), self.view().read_u32(at + 4))
    }

    fn set_used_entry(&self, index: u16, id: u32, len: u32) {
        let at = self.layout.used + 4 + VRING_USED_ELEM_SIZE * self.slot(index);
        self.view().write_u32(at, id);
        self.view().write_u32(at + 4, len);
    }

    /// At which index of the avail ring the device wants a notification: behind the used ring.
    fn avail_event(&self) -> u16 {
        let at = self.layout.used + 4 + VRING_USED_ELEM_SIZE * usize::from(self.layout.size);
        self.view().read_u16(at)
    }

    fn set_avail_event(&self, event: u16) {
        let at = self.layout.used + 4 + VRING_USED_ELEM_SIZE * usize::from(self.layout.size);
        self.view().write_u16(at, event);
    }
}
