//! The network device of virtio: feature bits, packet headers, control commands. Names are the header's.

/// Feature bit: the device computes checksums of what it sends.
pub const VIRTIO_NET_F_CSUM: u32 = 0;
/// Feature bit: the driver takes packets without checksum.
pub const VIRTIO_NET_F_GUEST_CSUM: u32 = 1;
/// Feature bit: offloads towards the driver can be turned on and off.
pub const VIRTIO_NET_F_CTRL_GUEST_OFFLOADS: u32 = 2;
/// Feature bit: the device says the largest MTU.
pub const VIRTIO_NET_F_MTU: u32 = 3;
/// Feature bit: the device says its address.
pub const VIRTIO_NET_F_MAC: u32 = 5;
/// Feature bit: the driver takes TSO over IPv4.
pub const VIRTIO_NET_F_GUEST_TSO4: u32 = 7;
/// Feature bit: the driver takes TSO over IPv6.
pub const VIRTIO_NET_F_GUEST_TSO6: u32 = 8;
/// Feature bit: the driver takes TSO with ECN.
pub const VIRTIO_NET_F_GUEST_ECN: u32 = 9;
/// Feature bit: the driver takes UFO.
pub const VIRTIO_NET_F_GUEST_UFO: u32 = 10;
/// Feature bit: a packet may span several receive buffers.
pub const VIRTIO_NET_F_MRG_RXBUF: u32 = 15;
/// Feature bit: there is a control queue.
pub const VIRTIO_NET_F_CTRL_VQ: u32 = 17;
/// Feature bit: there are several pairs of queues.
pub const VIRTIO_NET_F_MQ: u32 = 22;
/// Feature bit: the driver takes USO over IPv4.
pub const VIRTIO_NET_F_GUEST_USO4: u32 = 54;
/// Feature bit: the driver takes USO over IPv6.
pub const VIRTIO_NET_F_GUEST_USO6: u32 = 55;
/// Feature bit: headers carry a hash of the packet.
pub const VIRTIO_NET_F_HASH_REPORT: u32 = 57;
/// Feature bit: any layout of descriptors (`include/uapi/linux/virtio_config.h`).
pub const VIRTIO_F_ANY_LAYOUT: u32 = 27;
/// Feature bit: not legacy (`include/uapi/linux/virtio_config.h`).
pub const VIRTIO_F_VERSION_1: u32 = 32;

/// `hdr.flags`: the checksum is to be computed from `csum_start`.
pub const VIRTIO_NET_HDR_F_NEEDS_CSUM: u8 = 1;
/// `hdr.flags`: the checksum is right.
pub const VIRTIO_NET_HDR_F_DATA_VALID: u8 = 2;

/// `hdr.gso_type`: not a segmented packet.
pub const VIRTIO_NET_HDR_GSO_NONE: u8 = 0;
/// `hdr.gso_type`: TCP over IPv4.
pub const VIRTIO_NET_HDR_GSO_TCPV4: u8 = 1;
/// `hdr.gso_type`: UDP fragments.
pub const VIRTIO_NET_HDR_GSO_UDP: u8 = 3;
/// `hdr.gso_type`: TCP over IPv6.
pub const VIRTIO_NET_HDR_GSO_TCPV6: u8 = 4;
/// `hdr.gso_type`: UDP segments.
pub const VIRTIO_NET_HDR_GSO_UDP_L4: u8 = 5;
/// `hdr.gso_type`: with ECN, beside another.
pub const VIRTIO_NET_HDR_GSO_ECN: u8 = 0x80;

/// `sizeof(struct virtio_net_hdr)`: flags 1, gso_type 1, hdr_len 2, gso_size 2, csum_start 2, csum_offset 2.
pub const VIRTIO_NET_HDR_LEN: usize = 10;
/// `sizeof(struct virtio_net_hdr_mrg_rxbuf)`: the same and num_buffers 2.
pub const VIRTIO_NET_HDR_MRG_LEN: usize = 12;
/// `sizeof(struct virtio_net_hdr_v1_hash)`: the same and hash_value 4, hash_report 2, padding 2.
pub const VIRTIO_NET_HDR_HASH_LEN: usize = 20;
/// `sizeof(struct padded_vnet_hdr)` of the driver: header of big packets with padding.
pub const VIRTIO_NET_HDR_PADDED_LEN: usize = 32;

/// Answer of a control command: done.
pub const VIRTIO_NET_OK: u8 = 0;
/// Answer of a control command: refused.
pub const VIRTIO_NET_ERR: u8 = 1;
/// Control class: queue pairs.
pub const VIRTIO_NET_CTRL_MQ: u8 = 4;
/// Control command: use so many queue pairs, a 16-bit number.
pub const VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET: u8 = 0;
/// Most queue pairs.
pub const VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MAX: u16 = 0x8000;
/// Control class: offloads towards the driver.
pub const VIRTIO_NET_CTRL_GUEST_OFFLOADS: u8 = 5;
/// Control command: these offloads and no others, a 64-bit set of feature bits.
pub const VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET: u8 = 0;
