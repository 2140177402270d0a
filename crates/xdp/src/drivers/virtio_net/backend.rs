//! [`Backend`]: the device's end of a virtio device, wherever it is, and what it has to know ([`DeviceSide`]).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use mem::SharedMem;
use mem::virtq::{QueueLayout, RingFeatures};
use uapi::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use crate::Softirq;

/// The device's end of a virtio network device: a part of this process, or another process.
///
/// It is not believed: whatever it writes into the shared memory, the driver keeps its own.
pub trait Backend: Send + Sync {
    /// The driver has made buffers available in a queue and the device wanted to hear of it. A command in the
    /// control queue is to be answered before this returns. Answers whether [`Backend::poll`] is to be called.
    fn notify(&self, queue: u16) -> bool;

    /// Lets a device that is a part of this process work, on the CPU that notified it. It interrupts the driver
    /// by [`super::VirtioNet::interrupt`]. Answers whether it is due again.
    fn poll(&self, cx: &mut Softirq<'_>) -> bool {
        let _ = cx;
        false
    }
}

/// What the device's end needs: memory, queues, and the features that were agreed on.
#[derive(Clone, Debug)]
pub struct DeviceSide {
    /// Rings and buffers; addresses in descriptors are offsets into it.
    pub memory: Arc<SharedMem>,
    /// The same as a file, for another process.
    pub fd: Arc<OwnedFd>,
    /// Queues: receive and transmit in turns, then control.
    pub queues: Vec<QueueLayout>,
    /// Feature bits.
    pub features: u64,
    /// Bytes of the header before each packet.
    pub hdr_len: usize,
}

impl DeviceSide {
    /// What was agreed on about rings.
    #[must_use]
    pub fn ring_features(&self) -> RingFeatures {
        ring_features(self.features)
    }
}

pub(super) const fn has(features: u64, bit: u32) -> bool {
    features >> bit & 1 != 0
}

pub(super) const fn ring_features(features: u64) -> RingFeatures {
    RingFeatures {
        event_idx: has(features, VIRTIO_RING_F_EVENT_IDX),
        indirect: has(features, VIRTIO_RING_F_INDIRECT_DESC),
    }
}
