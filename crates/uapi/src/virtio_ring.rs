//! The split ring of virtio. Names are the header's.

/// Descriptor: another one follows, at `next`.
pub const VRING_DESC_F_NEXT: u16 = 1;
/// Descriptor: the device writes it; without, it reads it.
pub const VRING_DESC_F_WRITE: u16 = 2;
/// Descriptor: it holds a table of descriptors.
pub const VRING_DESC_F_INDIRECT: u16 = 4;

/// `used->flags`: the device wants no notifications.
pub const VRING_USED_F_NO_NOTIFY: u16 = 1;
/// `avail->flags`: the driver wants no interrupts.
pub const VRING_AVAIL_F_NO_INTERRUPT: u16 = 1;

/// Feature bit: descriptors may be tables.
pub const VIRTIO_RING_F_INDIRECT_DESC: u32 = 28;
/// Feature bit: each side says at which index it wants to hear from the other.
pub const VIRTIO_RING_F_EVENT_IDX: u32 = 29;

/// `sizeof(struct vring_desc)`: address 8, length 4, flags 2, next 2.
pub const VRING_DESC_SIZE: usize = 16;
/// `sizeof(struct vring_used_elem)`: id 4, length 4.
pub const VRING_USED_ELEM_SIZE: usize = 8;
/// Most descriptors of a ring.
pub const VRING_SIZE_MAX: u16 = 32768;

/// Whether the other side wants to hear of a move of an index from `old` to `new`, having said `event`.
#[must_use]
pub const fn vring_need_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
