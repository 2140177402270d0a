//! The devices of the engine.

pub mod loopback;
pub mod veth;
pub mod virtio_net;
