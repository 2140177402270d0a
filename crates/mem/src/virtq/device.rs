//! The device's side of a virtqueue.

use std::sync::Arc;
use std::sync::atomic::{Ordering::*, fence};

use uapi::virtio_ring::*;

use super::{Desc, QueueLayout, Ring, RingFeatures};
use crate::{SharedMem, SharedSlice};

/// A piece of a chain, within the memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Offset in the memory.
    addr: usize,
    len: usize,
    /// Whether it is the device's to write.
    write: bool,
}

/// A chain of buffers that the driver has made available.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Chain {
    head: u16,
    segments: Vec<Segment>,
}

/// A chain is not one: its descriptors point out of the table or the memory, go in circles, or nest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadChain {
    /// Its first descriptor, as the driver says.
    pub head: u16,
}

/// The device's side: takes chains that the driver has made available and gives them back used.
///
/// The driver can write all of the memory at any time. Segments are checked to lie within the memory when a
/// chain is taken, and kept as they were read.
#[derive(Debug)]
pub struct DeviceQueue {
    ring: Ring,
    features: RingFeatures,
    next_avail: u16,
    next_used: u16,
    /// Of the used ring, when the driver was last interrupted or need not be.
    signalled: u16,
}

impl Chain {
    fn bytes(&self, write: bool) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(move |s| s.write == write)
    }

    /// Bytes that the device may read.
    #[must_use]
    pub fn readable(&self) -> usize {
        self.bytes(false).map(|s| s.len).sum()
    }

    /// Bytes that the device may write.
    #[must_use]
    pub fn writable(&self) -> usize {
        self.bytes(true).map(|s| s.len).sum()
    }

    /// Number of descriptors.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        self.segments.len()
    }
}

impl DeviceQueue {
    /// The device's side of a queue that was not used before; `None` if the layout does not fit the memory.
    #[must_use]
    pub fn new(memory: Arc<SharedMem>, layout: QueueLayout, features: RingFeatures) -> Option<Self> {
        let ring = Ring::new(memory, layout)?;
        Some(Self { ring, features, next_avail: 0, next_used: 0, signalled: 0 })
    }

    /// The memory.
    #[must_use]
    pub const fn memory(&self) -> &Arc<SharedMem> {
        &self.ring.memory
    }

    /// Chains that can be taken now; none if the driver claims more than there can be.
    #[must_use]
    pub fn available(&self) -> u16 {
        let n = self.ring.avail_idx().wrapping_sub(self.next_avail);
        if n > self.ring.layout.size { 0 } else { n }
    }

    /// Takes the next chain into `chain`; `Ok(false)` if there is none.
    ///
    /// # Errors
    ///
    /// If the driver broke the rules. The entry is taken, but no chain is there.
    pub fn pop(&mut self, chain: &mut Chain) -> Result<bool, BadChain> {
        chain.segments.clear();
        if self.available() == 0 {
            return Ok(false);
        }
        // The entry is read after the index.
        fence(Acquire);
        let head = self.ring.avail_entry(self.next_avail);
        self.next_avail = self.next_avail.wrapping_add(1);
        chain.head = head;
        match self.walk(head, chain) {
            Some(()) => Ok(true),
            None => Err(BadChain { head }),
        }
    }

    fn walk(&self, head: u16, chain: &mut Chain) -> Option<()> {
        let size = usize::from(self.ring.layout.size);
        let mut at = usize::from(head);
        for _ in 0..size {
            if at >= size {
                return None;
            }
            let desc = Desc::read(self.ring.table(), at);
            if desc.flags & VRING_DESC_F_INDIRECT != 0 {
                let alone = self.features.indirect && chain.segments.is_empty();
                return if alone { self.walk_table(desc, chain) } else { None };
            }
            self.push(desc, chain)?;
            if desc.flags & VRING_DESC_F_NEXT == 0 {
                return Some(());
            }
            at = usize::from(desc.next);
        }
        None
    }

    fn walk_table(&self, desc: Desc, chain: &mut Chain) -> Option<()> {
        let len = desc.len as usize;
        if desc.flags & VRING_DESC_F_NEXT != 0 || !len.is_multiple_of(VRING_DESC_SIZE) {
            return None;
        }
        let table = self.ring.view().get(usize::try_from(desc.addr).ok()?, len)?;
        let (count, mut at) = (len / VRING_DESC_SIZE, 0);
        for _ in 0..count.min(usize::from(VRING_SIZE_MAX)) {
            if at >= count {
                return None;
            }
            let desc = Desc::read(table, at);
            if desc.flags & VRING_DESC_F_INDIRECT != 0 {
                return None;
            }
            self.push(desc, chain)?;
            if desc.flags & VRING_DESC_F_NEXT == 0 {
                return Some(());
            }
            at = usize::from(desc.next);
        }
        None
    }

    fn push(&self, desc: Desc, chain: &mut Chain) -> Option<()> {
        let (addr, len) = (usize::try_from(desc.addr).ok()?, desc.len as usize);
        self.ring.view().get(addr, len)?;
        let write = desc.flags & VRING_DESC_F_WRITE != 0;
        chain.segments.push(Segment { addr, len, write });
        Some(())
    }

    /// Gives back the last `n` chains that were taken, as if they were not.
    pub fn unpop(&mut self, n: u16) {
        self.next_avail = self.next_avail.wrapping_sub(n);
    }

    /// Copies from what the device may read, from the start; answers how much.
    pub fn read(&self, chain: &Chain, dst: &mut [u8]) -> usize {
        let mut done = 0;
        for segment in chain.bytes(false) {
            let n = segment.len.min(dst.len() - done);
            self.segment(segment).copy_to(0, &mut dst[done..done + n]);
            done += n;
        }
        done
    }

    /// Copies into what the device may write, from the start; answers how much.
    pub fn write(&self, chain: &Chain, src: &[u8]) -> usize {
        let mut done = 0;
        for segment in chain.bytes(true) {
            let n = segment.len.min(src.len() - done);
            self.segment(segment).copy_from(0, &src[done..done + n]);
            done += n;
        }
        done
    }

    fn segment(&self, segment: &Segment) -> SharedSlice<'_> {
        self.ring.view().get(segment.addr, segment.len).expect("checked when the chain was taken")
    }

    /// Gives a chain back with the bytes that were written, but does not show it yet.
    pub fn push_used(&mut self, chain: &Chain, len: u32) {
        self.ring.set_used_entry(self.next_used, chain.head.into(), len);
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// Shows the driver everything that was given back; answers whether it wants an interrupt.
    pub fn publish(&mut self) -> bool {
        fence(Release);
        self.ring.set_used_idx(self.next_used);
        fence(SeqCst);
        let old = std::mem::replace(&mut self.signalled, self.next_used);
        if old == self.next_used {
            return false;
        }
        if self.features.event_idx {
            return vring_need_event(self.ring.used_event(), self.next_used, old);
        }
        self.ring.avail_flags() & VRING_AVAIL_F_NO_INTERRUPT == 0
    }

    /// Asks for a notification with the next chain; answers whether there is one already.
    pub fn enable_notify(&mut self) -> bool {
        if self.features.event_idx {
            self.ring.set_avail_event(self.next_avail);
        } else {
            self.ring.set_used_flags(0);
        }
        fence(SeqCst);
        self.available() > 0
    }

    /// Asks for no notifications; a hint.
    pub fn disable_notify(&mut self) {
        if !self.features.event_idx {
            self.ring.set_used_flags(VRING_USED_F_NO_NOTIFY);
        }
    }
}
