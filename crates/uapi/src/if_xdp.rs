//! Socket options, flags and structs of AF_XDP. Names are the header's.

/// Address family of AF_XDP sockets.
pub const AF_XDP: u16 = 44;
/// Level of the socket options below.
pub const SOL_XDP: i32 = 283;

/// getsockopt: where the parts of the rings lie ([`XdpMmapOffsets`]).
pub const XDP_MMAP_OFFSETS: i32 = 1;
/// setsockopt: entries of the RX ring.
pub const XDP_RX_RING: i32 = 2;
/// setsockopt: entries of the TX ring.
pub const XDP_TX_RING: i32 = 3;
/// setsockopt: the memory that packets lie in ([`XdpUmemReg`]).
pub const XDP_UMEM_REG: i32 = 4;
/// setsockopt: entries of the fill ring.
pub const XDP_UMEM_FILL_RING: i32 = 5;
/// setsockopt: entries of the completion ring.
pub const XDP_UMEM_COMPLETION_RING: i32 = 6;
/// getsockopt: [`XdpStatistics`].
pub const XDP_STATISTICS: i32 = 7;
/// getsockopt: [`XDP_OPTIONS_ZEROCOPY`].
pub const XDP_OPTIONS: i32 = 8;
/// setsockopt: most descriptors that one sendto(2) takes in copy mode.
pub const XDP_MAX_TX_SKB_BUDGET: i32 = 9;

/// Bit of [`XDP_OPTIONS`]: the socket is zero-copy.
pub const XDP_OPTIONS_ZEROCOPY: u32 = 1;

/// Bind: share the memory of another socket.
pub const XDP_SHARED_UMEM: u16 = 1 << 0;
/// Bind: copy mode.
pub const XDP_COPY: u16 = 1 << 1;
/// Bind: zero-copy or fail.
pub const XDP_ZEROCOPY: u16 = 1 << 2;
/// Bind: the application looks at [`XDP_RING_NEED_WAKEUP`].
pub const XDP_USE_NEED_WAKEUP: u16 = 1 << 3;
/// Bind: the application takes packets in several descriptors.
pub const XDP_USE_SG: u16 = 1 << 4;

/// Memory: chunks lie anywhere.
pub const XDP_UMEM_UNALIGNED_CHUNK_FLAG: u32 = 1 << 0;
/// Memory: checksums that TX metadata asks for are computed in software.
pub const XDP_UMEM_TX_SW_CSUM: u32 = 1 << 1;
/// Memory: [`XdpUmemReg::tx_metadata_len`] counts.
pub const XDP_UMEM_TX_METADATA_LEN: u32 = 1 << 2;

/// Flag of the fill and TX rings: their consumer sleeps until it is woken.
pub const XDP_RING_NEED_WAKEUP: u32 = 1;

/// Descriptor: the packet goes on in the next one.
pub const XDP_PKT_CONTD: u32 = 1 << 0;
/// TX descriptor: metadata lies before the packet.
pub const XDP_TX_METADATA: u32 = 1 << 1;

/// TX metadata: write the time of sending.
pub const XDP_TXMD_FLAGS_TIMESTAMP: u64 = 1 << 0;
/// TX metadata: fill in a checksum.
pub const XDP_TXMD_FLAGS_CHECKSUM: u64 = 1 << 1;
/// TX metadata: send at a time.
pub const XDP_TXMD_FLAGS_LAUNCH_TIME: u64 = 1 << 2;

/// mmap offset of the RX ring.
pub const XDP_PGOFF_RX_RING: u64 = 0;
/// mmap offset of the TX ring.
pub const XDP_PGOFF_TX_RING: u64 = 0x8000_0000;
/// mmap offset of the fill ring.
pub const XDP_UMEM_PGOFF_FILL_RING: u64 = 0x1_0000_0000;
/// mmap offset of the completion ring.
pub const XDP_UMEM_PGOFF_COMPLETION_RING: u64 = 0x1_8000_0000;

/// Unaligned chunks: bits of an address above the base are the offset.
pub const XSK_UNALIGNED_BUF_OFFSET_SHIFT: u32 = 48;
/// Unaligned chunks: bits of an address that are the base.
pub const XSK_UNALIGNED_BUF_ADDR_MASK: u64 = (1 << XSK_UNALIGNED_BUF_OFFSET_SHIFT) - 1;

/// `struct xdp_desc`: a packet, or a part of one, in the RX and TX rings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
#[repr(C)]
pub struct XdpDesc {
    /// Where it lies in the memory.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// [`XDP_PKT_CONTD`], [`XDP_TX_METADATA`].
    pub options: u32,
}

/// `struct sockaddr_xdp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct SockaddrXdp {
    /// [`AF_XDP`].
    pub family: u16,
    /// [`XDP_COPY`] and so on.
    pub flags: u16,
    /// Device.
    pub ifindex: u32,
    /// Queue of the device.
    pub queue_id: u32,
    /// Descriptor of a bound socket, with [`XDP_SHARED_UMEM`].
    pub shared_umem_fd: u32,
}

impl SockaddrXdp {
    /// Bytes of the struct.
    pub const SIZE: usize = 16;

    /// As bind(2) takes it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[0..2].copy_from_slice(&self.family.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.flags.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.ifindex.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.queue_id.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.shared_umem_fd.to_le_bytes());
        bytes
    }

    /// What bind(2) was given; bytes after the struct do not matter.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::SIZE] = bytes.first_chunk()?;
        let word = |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        Some(Self {
            family: word(0) as u16,
            flags: (word(0) >> 16) as u16,
            ifindex: word(4),
            queue_id: word(8),
            shared_umem_fd: word(12),
        })
    }
}

/// `struct xdp_umem_reg`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct XdpUmemReg {
    /// Where the memory starts in the address space of the caller.
    pub addr: u64,
    /// Bytes.
    pub len: u64,
    /// Bytes of a chunk.
    pub chunk_size: u32,
    /// Bytes before each packet that the application wants.
    pub headroom: u32,
    /// [`XDP_UMEM_UNALIGNED_CHUNK_FLAG`] and so on.
    pub flags: u32,
    /// Bytes of metadata before each packet to send.
    pub tx_metadata_len: u32,
}

impl XdpUmemReg {
    /// Bytes of the struct.
    pub const SIZE: usize = 32;
    /// Bytes of the struct before there were flags.
    pub const SIZE_V1: usize = 24;

    /// As setsockopt(2) takes it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[0..8].copy_from_slice(&self.addr.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.len.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.chunk_size.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.headroom.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.flags.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.tx_metadata_len.to_le_bytes());
        bytes
    }

    /// What setsockopt(2) was given: of fewer than 32 bytes the first 24 count.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let v1: &[u8; Self::SIZE_V1] = bytes.first_chunk()?;
        let mut all = [0; Self::SIZE];
        all[..Self::SIZE_V1].copy_from_slice(v1);
        if let Some(full) = bytes.first_chunk() {
            all = *full;
        }
        let word = |i: usize| u32::from_le_bytes([all[i], all[i + 1], all[i + 2], all[i + 3]]);
        let long = |i: usize| u64::from(word(i)) | u64::from(word(i + 4)) << 32;
        Some(Self {
            addr: long(0),
            len: long(8),
            chunk_size: word(16),
            headroom: word(20),
            flags: word(24),
            tx_metadata_len: word(28),
        })
    }
}

/// `struct xdp_ring_offset`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct XdpRingOffset {
    /// Index of the producer.
    pub producer: u64,
    /// Index of the consumer.
    pub consumer: u64,
    /// First entry.
    pub desc: u64,
    /// Flags.
    pub flags: u64,
}

/// `struct xdp_mmap_offsets`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct XdpMmapOffsets {
    /// RX ring.
    pub rx: XdpRingOffset,
    /// TX ring.
    pub tx: XdpRingOffset,
    /// Fill ring.
    pub fr: XdpRingOffset,
    /// Completion ring.
    pub cr: XdpRingOffset,
}

impl XdpMmapOffsets {
    /// Bytes of the struct.
    pub const SIZE: usize = 128;
    /// Bytes of the struct before rings had flags.
    pub const SIZE_V1: usize = 96;

    /// As getsockopt(2) answers it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let longs = [self.rx, self.tx, self.fr, self.cr]
            .into_iter()
            .flat_map(|o| [o.producer, o.consumer, o.desc, o.flags]);
        bytes.chunks_exact_mut(8).zip(longs).for_each(|(b, v)| b.copy_from_slice(&v.to_le_bytes()));
        bytes
    }

    /// From what getsockopt(2) has answered.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let ring = |i: usize| {
            let long = |k: usize| {
                let at = i * 32 + k * 8;
                bytes[at..at + 8].iter().rev().fold(0, |v, b| v << 8 | u64::from(*b))
            };
            XdpRingOffset { producer: long(0), consumer: long(1), desc: long(2), flags: long(3) }
        };
        Self { rx: ring(0), tx: ring(1), fr: ring(2), cr: ring(3) }
    }
}

/// `struct xdp_statistics`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct XdpStatistics {
    /// Packets that were too long, or found no buffer.
    pub rx_dropped: u64,
    /// Always 0: the kernel counts invalid fill entries where nobody can see them.
    pub rx_invalid_descs: u64,
    /// Invalid descriptors in the TX ring.
    pub tx_invalid_descs: u64,
    /// Packets that found the RX ring full.
    pub rx_ring_full: u64,
    /// Packets that found the fill ring empty.
    pub rx_fill_ring_empty_descs: u64,
    /// How often the TX ring was found empty.
    pub tx_ring_empty_descs: u64,
}

impl XdpStatistics {
    /// Bytes of the struct.
    pub const SIZE: usize = 48;
    /// Bytes of the struct's first version.
    pub const SIZE_V1: usize = 24;

    /// As getsockopt(2) answers it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let longs = [
            self.rx_dropped,
            self.rx_invalid_descs,
            self.tx_invalid_descs,
            self.rx_ring_full,
            self.rx_fill_ring_empty_descs,
            self.tx_ring_empty_descs,
        ];
        bytes.chunks_exact_mut(8).zip(longs).for_each(|(b, v)| b.copy_from_slice(&v.to_le_bytes()));
        bytes
    }

    /// From what getsockopt(2) has answered.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let long = |k: usize| bytes[k * 8..k * 8 + 8].iter().rev().fold(0, |v, b| v << 8 | u64::from(*b));
        Self {
            rx_dropped: long(0),
            rx_invalid_descs: long(1),
            tx_invalid_descs: long(2),
            rx_ring_full: long(3),
            rx_fill_ring_empty_descs: long(4),
            tx_ring_empty_descs: long(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_round_trip_through_their_bytes() {
        let bytes: [u8; 128] = std::array::from_fn(|i| i as u8);
        assert_eq!(XdpMmapOffsets::from_bytes(&bytes).to_bytes(), bytes);
        assert_eq!(XdpMmapOffsets::from_bytes(&bytes).tx.consumer.to_le_bytes(), bytes[40..48]);
        let stats: [u8; 48] = *bytes.first_chunk().unwrap();
        assert_eq!(XdpStatistics::from_bytes(&stats).to_bytes(), stats);
        assert_eq!(&XdpUmemReg::from_bytes(&bytes).unwrap().to_bytes(), &bytes[..32]);
        assert_eq!(XdpUmemReg::from_bytes(&bytes[..31]).unwrap().flags, 0, "the first version has none");
        assert_eq!(&SockaddrXdp::from_bytes(&bytes).unwrap().to_bytes(), &bytes[..16]);
        assert_eq!(SockaddrXdp::from_bytes(&bytes[..15]), None);
    }

    #[test]
    fn sizes_are_the_kernels() {
        assert_eq!(size_of::<XdpDesc>(), 16);
        assert_eq!(size_of::<SockaddrXdp>(), SockaddrXdp::SIZE);
        assert_eq!(size_of::<XdpUmemReg>(), XdpUmemReg::SIZE);
        assert_eq!(size_of::<XdpMmapOffsets>(), XdpMmapOffsets::SIZE);
        assert_eq!(size_of::<XdpStatistics>(), XdpStatistics::SIZE);
    }
}
