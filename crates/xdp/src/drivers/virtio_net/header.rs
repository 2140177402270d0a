//! [`Header`]: what precedes each packet, as it was read once.

use mem::RxHints;
use uapi::Errno;
use uapi::virtio_net::*;

/// `struct virtio_net_hdr_v1_hash` and its shorter forms; what a form does not have is 0.
///
/// Kernel: `include/uapi/linux/virtio_net.h struct virtio_net_hdr_v1_hash, v6.18`
#[doc(alias = "virtio_net_hdr")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Header {
    /// `VIRTIO_NET_HDR_F_*`.
    pub flags: u8,
    /// `VIRTIO_NET_HDR_GSO_*`.
    pub gso_type: u8,
    /// Bytes of headers of a segmented packet.
    pub hdr_len: u16,
    /// Bytes of a segment.
    pub gso_size: u16,
    /// From where the checksum counts.
    pub csum_start: u16,
    /// Where it is to be put, from there.
    pub csum_offset: u16,
    /// Receive buffers of the packet.
    pub num_buffers: u16,
    /// Hash of the flow.
    pub hash_value: u32,
    /// `VIRTIO_NET_HASH_REPORT_*`.
    pub hash_report: u16,
}

impl Header {
    /// The header in bytes of one of its lengths.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let u16_at = |at: usize| bytes.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]));
        let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
        Self {
            flags: byte(0),
            gso_type: byte(1),
            hdr_len: u16_at(2),
            gso_size: u16_at(4),
            csum_start: u16_at(6),
            csum_offset: u16_at(8),
            num_buffers: u16_at(10),
            hash_value: u32::from(u16_at(12)) | u32::from(u16_at(14)) << 16,
            hash_report: u16_at(16),
        }
    }

    /// Its bytes in the longest form.
    #[must_use]
    pub fn to_bytes(self) -> [u8; VIRTIO_NET_HDR_HASH_LEN] {
        let mut bytes = [0; VIRTIO_NET_HDR_HASH_LEN];
        (bytes[0], bytes[1]) = (self.flags, self.gso_type);
        let fields = [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset, self.num_buffers];
        for (at, field) in fields.into_iter().enumerate() {
            bytes[2 + 2 * at..4 + 2 * at].copy_from_slice(&field.to_le_bytes());
        }
        bytes[12..16].copy_from_slice(&self.hash_value.to_le_bytes());
        bytes[16..18].copy_from_slice(&self.hash_report.to_le_bytes());
        bytes
    }

    /// Whether the packet is one that programs are not shown: segmented, or without checksum.
    pub(super) const fn is_offloaded(&self) -> bool {
        self.gso_type != VIRTIO_NET_HDR_GSO_NONE || self.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0
    }

    /// Whether the stack can make sense of it for a packet of `len` bytes.
    ///
    /// Kernel: `include/linux/virtio_net.h __virtio_net_hdr_to_skb, v6.18`
    #[doc(alias = "virtio_net_hdr_to_skb")]
    pub(super) fn is_valid(&self, len: usize) -> bool {
        let known = matches!(
            self.gso_type & !VIRTIO_NET_HDR_GSO_ECN,
            VIRTIO_NET_HDR_GSO_TCPV4
                | VIRTIO_NET_HDR_GSO_TCPV6
                | VIRTIO_NET_HDR_GSO_UDP
                | VIRTIO_NET_HDR_GSO_UDP_L4
        );
        let gso = self.gso_type == VIRTIO_NET_HDR_GSO_NONE || (known && self.gso_size > 0);
        let needs_csum = self.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0;
        let csum_end = usize::from(self.csum_start) + usize::from(self.csum_offset) + 2;
        gso && (!needs_csum || csum_end <= len)
    }

    /// What the device knows of the packet, for a queue with hashes or without.
    ///
    /// Kernel: `drivers/net/virtio_net.c virtnet_xdp_rx_hash, v6.18`
    #[doc(alias = "virtnet_xdp_rx_hash")]
    pub(super) fn hints(&self, rxhash: Rxhash) -> RxHints {
        let hash = match rxhash {
            Rxhash::Unsupported => Err(Errno::EOPNOTSUPP),
            Rxhash::Off => Err(Errno::ENODATA),
            Rxhash::On => {
                let report = usize::from(self.hash_report);
                Ok((self.hash_value, RSS_TYPES.get(report).copied().unwrap_or(0)))
            }
        };
        RxHints { hash, ..RxHints::UNSUPPORTED }
    }

    /// The hash as skbs have it: the value, and whether it covers the transport header.
    ///
    /// Kernel: `drivers/net/virtio_net.c virtio_skb_set_hash, v6.18`
    #[doc(alias = "virtio_skb_set_hash")]
    pub(super) fn skb_hash(&self) -> Option<(u32, bool)> {
        let l4 = matches!(self.hash_report, 2 | 3 | 5 | 6 | 8 | 9);
        (1..10).contains(&self.hash_report).then_some((self.hash_value, l4))
    }
}

/// Whether hashes reach programs and stack (`ethtool -K rxhash`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rxhash {
    Unsupported,
    Off,
    On,
}

/// `enum xdp_rss_hash_type` by `VIRTIO_NET_HASH_REPORT_*`: none, IPv4, TCPv4, UDPv4, IPv6, TCPv6, UDPv6, and the
/// last three with extension headers.
///
/// Kernel: `drivers/net/virtio_net.c virtnet_xdp_rss_type, v6.18`
#[doc(alias = "virtnet_xdp_rss_type")]
const RSS_TYPES: [u32; 10] = [0, 1, 25, 41, 2, 26, 42, 6, 30, 46];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_their_bytes() {
        let header = Header {
            flags: 1,
            gso_type: 0x81,
            hdr_len: 0x1234,
            gso_size: 1448,
            csum_start: 34,
            csum_offset: 16,
            num_buffers: 3,
            hash_value: 0xdead_beef,
            hash_report: 2,
        };
        let bytes = header.to_bytes();
        assert_eq!(Header::parse(&bytes), header);
        let short = Header { num_buffers: 0, hash_value: 0, hash_report: 0, ..header };
        assert_eq!(Header::parse(&bytes[..10]), short);
        assert!(header.is_offloaded() && header.is_valid(52) && !header.is_valid(51));
        assert!(!Header { gso_type: 2, gso_size: 1, ..Header::default() }.is_valid(1500));
        assert!(!Header { gso_type: 1, ..Header::default() }.is_valid(1500));
        assert_eq!(header.hints(Rxhash::On).hash, Ok((0xdead_beef, 25)));
        assert_eq!(header.skb_hash(), Some((0xdead_beef, true)));
    }
}
