//! The driver's side of a virtqueue.

use std::sync::Arc;
use std::sync::atomic::{Ordering::*, fence};

use uapi::virtio_ring::*;

use super::{CHAIN_MAX, Desc, QueueLayout, Ring, RingFeatures};
use crate::SharedMem;

/// Bytes of a table of descriptors that one ring descriptor may point to.
const TABLE_BYTES: usize = CHAIN_MAX * VRING_DESC_SIZE;

/// A piece of the memory, for the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Buffer {
    /// Offset in the memory.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
}

/// Why buffers were not made available.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddError {
    /// There are not as many free descriptors (`ENOSPC`).
    Full,
    /// The device broke the rules, so the queue is out of use (`EIO`).
    Broken,
    /// No buffers, or more than [`CHAIN_MAX`] (`EINVAL`).
    Chain,
}

/// What the driver remembers of a descriptor.
#[derive(Debug)]
struct DescState<T> {
    /// Of the first descriptor of a chain: what the driver will get back.
    token: Option<T>,
    /// The next free one, or the next of the chain.
    next: u16,
    /// Of the first descriptor: descriptors of the chain.
    chain: u16,
}

/// The driver's side: makes buffers available and gets them back, with a `T` of its own for each chain.
///
/// The device can write all of the memory at any time. It can keep buffers, and lie about their lengths, which
/// are answered as they are read; it cannot make the driver believe that a buffer came back that is not with
/// the device: then the queue is broken, and nothing comes back any more.
///
/// Kernel: `drivers/virtio/virtio_ring.c struct vring_virtqueue, v6.18`
#[doc(alias = "vring_virtqueue")]
#[derive(Debug)]
pub struct DriverQueue<T> {
    ring: Ring,
    features: RingFeatures,
    /// Offset of the tables for indirect descriptors, one for each descriptor.
    tables: usize,
    state: Box<[DescState<T>]>,
    free_head: u16,
    num_free: u16,
    avail_idx: u16,
    avail_flags: u16,
    num_added: u16,
    last_used: u16,
    broken: bool,
}

impl<T> DriverQueue<T> {
    /// Bytes of the tables of a queue of that size.
    #[must_use]
    pub const fn tables_len(size: u16) -> usize {
        size as usize * TABLE_BYTES
    }

    /// The driver's side of a queue that was not used before, with tables for indirect descriptors at `tables`.
    /// `None` if layout or tables do not fit the memory.
    #[must_use]
    pub fn new(
        memory: Arc<SharedMem>,
        layout: QueueLayout,
        tables: usize,
        features: RingFeatures,
    ) -> Option<Self> {
        memory.view().get(tables, Self::tables_len(layout.size))?;
        let ring = Ring::new(memory, layout)?;
        if !tables.is_multiple_of(VRING_DESC_SIZE) {
            return None;
        }
        let free = |i| DescState { token: None, next: i + 1, chain: 0 };
        let state = (0..layout.size).map(free).collect();
        let (size, num_added) = (layout.size, 0);
        Some(Self {
            ring,
            features,
            tables,
            state,
            free_head: 0,
            num_free: size,
            avail_idx: 0,
            avail_flags: 0,
            num_added,
            last_used: 0,
            broken: false,
        })
    }

    /// Descriptors.
    #[must_use]
    pub const fn size(&self) -> u16 {
        self.ring.layout.size
    }

    /// Free descriptors.
    #[must_use]
    pub const fn num_free(&self) -> u16 {
        self.num_free
    }

    /// Whether the device broke the rules.
    ///
    /// Kernel: `drivers/virtio/virtio_ring.c virtqueue_is_broken, v6.18`
    #[doc(alias = "virtqueue_is_broken")]
    #[must_use]
    pub const fn is_broken(&self) -> bool {
        self.broken
    }

    /// Makes buffers available: first those that the device reads, then those that it writes. A chain of
    /// several takes one descriptor of the ring if indirect ones were agreed on.
    ///
    /// # Errors
    ///
    /// Gives `token` back with the reason.
    ///
    /// Kernel: `drivers/virtio/virtio_ring.c virtqueue_add_split, v6.18`
    #[doc(alias = "virtqueue_add_split")]
    pub fn add(&mut self, read: &[Buffer], write: &[Buffer], token: T) -> Result<(), (AddError, T)> {
        let total = read.len() + write.len();
        if self.broken {
            return Err((AddError::Broken, token));
        }
        if total == 0 || total > CHAIN_MAX {
            return Err((AddError::Chain, token));
        }
        let indirect = self.features.indirect && total > 1 && self.num_free > 0;
        let used = if indirect { 1 } else { total };
        if usize::from(self.num_free) < used {
            return Err((AddError::Full, token));
        }
        let head = self.free_head;
        let buffers = read.iter().map(|b| (b, 0)).chain(write.iter().map(|b| (b, VRING_DESC_F_WRITE)));
        if indirect {
            self.write_table(head, total, buffers);
            self.free_head = self.state[usize::from(head)].next;
        } else {
            let mut at = head;
            for (i, (buffer, flags)) in buffers.enumerate() {
                let more = if i + 1 < total { VRING_DESC_F_NEXT } else { 0 };
                let next = self.state[usize::from(at)].next;
                let Buffer { addr, len } = *buffer;
                Desc { addr, len, flags: flags | more, next }.write(self.ring.table(), usize::from(at));
                at = next;
            }
            self.free_head = at;
        }
        self.num_free -= used as u16;
        let state = &mut self.state[usize::from(head)];
        state.token = Some(token);
        state.chain = used as u16;
        self.ring.set_avail_entry(self.avail_idx, head);
        // The device sees descriptors and entry before the index.
        fence(Release);
        self.avail_idx = self.avail_idx.wrapping_add(1);
        self.ring.set_avail_idx(self.avail_idx);
        self.num_added = self.num_added.saturating_add(1);
        Ok(())
    }

    fn write_table<'b>(&self, head: u16, total: usize, buffers: impl Iterator<Item = (&'b Buffer, u16)>) {
        let at = self.tables + usize::from(head) * TABLE_BYTES;
        let table = self.ring.view().get(at, TABLE_BYTES).expect("checked when the queue was made");
        for (i, (buffer, flags)) in buffers.enumerate() {
            let more = if i + 1 < total { VRING_DESC_F_NEXT } else { 0 };
            let Buffer { addr, len } = *buffer;
            Desc { addr, len, flags: flags | more, next: i as u16 + 1 }.write(table, i);
        }
        let len = (total * VRING_DESC_SIZE) as u32;
        let desc = Desc { addr: at as u64, len, flags: VRING_DESC_F_INDIRECT, next: 0 };
        desc.write(self.ring.table(), usize::from(head));
    }

    /// Whether the device wants to hear of what was added since the last call.
    ///
    /// Kernel: `drivers/virtio/virtio_ring.c virtqueue_kick_prepare_split, v6.18`
    #[doc(alias = "virtqueue_kick_prepare_split")]
    pub fn kick_prepare(&mut self) -> bool {
        // The index is written before the device's wish is read; the device does it the other way round.
        fence(SeqCst);
        let added = std::mem::take(&mut self.num_added);
        if added == u16::MAX {
            return true;
        }
        let (old, new) = (self.avail_idx.wrapping_sub(added), self.avail_idx);
        if self.features.event_idx {
            vring_need_event(self.ring.avail_event(), new, old)
        } else {
            self.ring.used_flags() & VRING_USED_F_NO_NOTIFY == 0
        }
    }

    /// Takes back a chain that the device has used, with the bytes that it says it has written.
    ///
    /// Kernel: `drivers/virtio/virtio_ring.c virtqueue_get_buf_ctx_split, v6.18`
    #[doc(alias = "virtqueue_get_buf_ctx_split")]
    pub fn get_buf(&mut self) -> Option<(T, u32)> {
        if self.broken || self.ring.used_idx() == self.last_used {
            return None;
        }
        // The entry is read after the index.
        fence(Acquire);
        let (id, len) = self.ring.used_entry(self.last_used);
        let head = u16::try_from(id).ok().filter(|head| *head < self.size());
        let Some(token) = head.and_then(|head| self.state[usize::from(head)].token.take()) else {
            self.broken = true;
            return None;
        };
        self.free_chain(id as u16);
        self.last_used = self.last_used.wrapping_add(1);
        if self.avail_flags & VRING_AVAIL_F_NO_INTERRUPT == 0 {
            self.ring.set_used_event(self.last_used);
            fence(SeqCst);
        }
        Some((token, len))
    }

    /// Puts a chain back to the free descriptors; all from the driver's own memory.
    fn free_chain(&mut self, head: u16) {
        let count = self.state[usize::from(head)].chain;
        let mut last = head;
        for _ in 1..count {
            last = self.state[usize::from(last)].next;
        }
        self.state[usize::from(last)].next = self.free_head;
        self.free_head = head;
        self.num_free += count;
    }

    /// Asks for no interrupts; a hint.
    ///
    /// Kernel: `drivers/virtio/virtio_ring.c virtqueue_disable_cb_split, v6.18`
    #[doc(alias = "virtqueue_disable_cb")]
    pub fn disable_cb(&mut self) {
        if self.avail_flags & VRING_AVAIL_F_NO_INTERRUPT == 0 {
            self.avail_flags |= VRING_AVAIL_F_NO_INTERRUPT;
            if !self.features.event_idx {
                self.ring.set_avail_flags(self.avail_flags);
            }
        }
    }

    fn allow_cb(&mut self) {
        if self.avail_flags & VRING_AVAIL_F_NO_INTERRUPT != 0 {
            self.avail_flags &= !VRING_AVAIL_F_NO_INTERRUPT;
            if !self.features.event_idx {
                self.ring.set_avail_flags(self.avail_flags);
            }
        }
    }

    /// Asks for an interrupt with the next chain; answers what [`Self::poll`] wants to know.
    ///
    /// Kernel: `drivers/virtio/virtio_ring.c virtqueue_enable_cb_prepare_split, v6.18`
    #[doc(alias = "virtqueue_enable_cb_prepare")]
    pub fn enable_cb_prepare(&mut self) -> u16 {
        self.allow_cb();
        self.ring.set_used_event(self.last_used);
        self.last_used
    }

    /// Whether the device has used chains since [`Self::enable_cb_prepare`], perhaps without an interrupt.
    ///
    /// Kernel: `drivers/virtio/virtio_ring.c virtqueue_poll, v6.18`
    #[doc(alias = "virtqueue_poll")]
    #[must_use]
    pub fn poll(&self, last_used: u16) -> bool {
        fence(SeqCst);
        !self.broken && self.ring.used_idx() != last_used
    }

    /// Asks for an interrupt when most chains came back. Answers `false` if that is so already.
    ///
    /// Kernel: `drivers/virtio/virtio_ring.c virtqueue_enable_cb_delayed_split, v6.18`
    #[doc(alias = "virtqueue_enable_cb_delayed")]
    pub fn enable_cb_delayed(&mut self) -> bool {
        self.allow_cb();
        let waiting = self.avail_idx.wrapping_sub(self.last_used);
        let most = (u32::from(waiting) * 3 / 4) as u16;
        self.ring.set_used_event(self.last_used.wrapping_add(most));
        fence(SeqCst);
        self.broken || self.ring.used_idx().wrapping_sub(self.last_used) <= most
    }

    /// Asks for an interrupt with the next chain that the device uses from now on, whatever waits already.
    pub fn rearm_from_now(&mut self) {
        self.allow_cb();
        self.ring.set_used_event(self.ring.used_idx());
        fence(SeqCst);
    }
}
