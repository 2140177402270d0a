//! The kernel's ABI as Rust types: `repr(C)` structs, constants and errno, one file per kernel
//! header, without logic. Everything else in the workspace stands on this crate.

/// `include/uapi/linux/bpf.h`: opcodes, map types, commands, flags and helper numbers.
pub mod bpf;
/// `include/uapi/linux/bpf.h`: arguments and answers of bpf(2).
pub mod bpf_attr;
/// Error numbers of the control plane (`include/uapi/asm-generic/errno*.h`, `include/linux/errno.h`).
pub mod errno;
/// `include/uapi/linux/if_xdp.h`: AF_XDP.
pub mod if_xdp;
/// `include/uapi/linux/virtio_net.h`: network devices of virtio.
pub mod virtio_net;
/// `include/uapi/linux/virtio_ring.h`: queues of virtio.
pub mod virtio_ring;
/// `include/uapi/linux/bpf.h`: what concerns XDP alone: actions and `xdp_md`.
pub mod xdp;

pub use errno::Errno;
