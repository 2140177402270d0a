use std::fmt;

/// `enum xdp_action`: what a program decides for a packet.
///
/// A return value that is no action is handled as [`XdpAction::Aborted`] by every driver, with a warning.
#[doc(alias = "xdp_action")]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[repr(u32)]
pub enum XdpAction {
    /// `XDP_ABORTED`: an error in the program; dropped, and the tracepoint `xdp_exception` fires.
    Aborted = 0,
    /// `XDP_DROP`.
    Drop = 1,
    /// `XDP_PASS`: on to the host's stack.
    Pass = 2,
    /// `XDP_TX`: back out of the device that it came in on.
    Tx = 3,
    /// `XDP_REDIRECT`: to where the last redirect helper said.
    Redirect = 4,
}

impl XdpAction {
    /// All actions in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Aborted, Self::Drop, Self::Pass, Self::Tx, Self::Redirect];

    /// The action of a return value; `None` for a value that is no action.
    #[must_use]
    pub fn from_raw(raw: u32) -> Option<Self> {
        Self::ALL.get(raw as usize).copied()
    }

    /// The kernel's name, `XDP_PASS`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Aborted => "XDP_ABORTED",
            Self::Drop => "XDP_DROP",
            Self::Pass => "XDP_PASS",
            Self::Tx => "XDP_TX",
            Self::Redirect => "XDP_REDIRECT",
        }
    }
}

impl fmt::Display for XdpAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Room before the packet that every native driver leaves, bytes.
pub const XDP_PACKET_HEADROOM: usize = 256;
/// `sizeof(struct xdp_frame)`: kept free at the start of the headroom, bytes.
pub const XDP_FRAME_SIZE: usize = 40;
/// `SKB_DATA_ALIGN(sizeof(struct skb_shared_info))`: kept free at the end of a buffer, bytes.
pub const XDP_TAILROOM: usize = 320;
/// Most fragments that a packet may have beside its linear part.
pub const MAX_SKB_FRAGS: usize = 17;
/// Length of an Ethernet header, bytes.
pub const ETH_HLEN: usize = 14;
/// Largest metadata, bytes: a multiple of 4 that fits the kernel's 8-bit length.
pub const XDP_META_MAX: usize = 252;

/// `bpf_redirect_map`: to every entry of the devmap.
pub const BPF_F_BROADCAST: u64 = 1 << 3;
/// `bpf_redirect_map` with [`BPF_F_BROADCAST`]: but not to the device that the packet came in on.
pub const BPF_F_EXCLUDE_INGRESS: u64 = 1 << 4;

/// `expected_attach_type` of a program that runs when a devmap transmits.
pub const BPF_XDP_DEVMAP: u32 = 33;
/// `expected_attach_type` of a program that runs in a cpumap's thread.
pub const BPF_XDP_CPUMAP: u32 = 35;
/// `expected_attach_type` of a program at a device's driver hook.
pub const BPF_XDP: u32 = 37;

/// `struct xdp_md`: the context as the program sees it and as BPF_PROG_TEST_RUN takes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct XdpMd {
    /// Offset 0: start of the packet; in TEST_RUN the length of the metadata.
    pub data: u32,
    /// Offset 4: end of the linear part; in TEST_RUN metadata plus linear length.
    pub data_end: u32,
    /// Offset 8: start of the metadata.
    pub data_meta: u32,
    /// Offset 12.
    pub ingress_ifindex: u32,
    /// Offset 16.
    pub rx_queue_index: u32,
    /// Offset 20: readable in devmap programs only.
    pub egress_ifindex: u32,
}

impl XdpMd {
    /// Bytes of the struct.
    pub const SIZE: usize = 24;

    /// As TEST_RUN takes it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let words = [
            self.data,
            self.data_end,
            self.data_meta,
            self.ingress_ifindex,
            self.rx_queue_index,
            self.egress_ifindex,
        ];
        let mut bytes = [0; Self::SIZE];
        bytes.chunks_exact_mut(4).zip(words).for_each(|(b, w)| b.copy_from_slice(&w.to_le_bytes()));
        bytes
    }

    /// As TEST_RUN answers it.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let word = |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        Self {
            data: word(0),
            data_end: word(4),
            data_meta: word(8),
            ingress_ifindex: word(12),
            rx_queue_index: word(16),
            egress_ifindex: word(20),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_round_trip_through_their_bytes() {
        let bytes = std::array::from_fn(|i| i as u8);
        assert_eq!(XdpMd::from_bytes(bytes).to_bytes(), bytes);
        assert_eq!(XdpMd::from_bytes(bytes).data_end, 0x0706_0504);
    }
}
