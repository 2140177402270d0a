//! [`Skb`]: a packet on its way to or from the host's stack.

use mem::Packet;
use uapi::xdp::ETH_HLEN;
use xsk::engine::Completion;

/// Who a packet is for, as `eth_type_trans` sees it.
///
/// Kernel: `include/uapi/linux/if_packet.h PACKET_HOST, v6.18`
#[allow(missing_docs)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum PacketType {
    #[default]
    Host,
    Broadcast,
    Multicast,
    OtherHost,
}

/// What the stack knows of a packet, as far as XDP meets it.
///
/// Kernel: `include/linux/skbuff.h struct sk_buff, v6.18`
#[doc(alias = "sk_buff")]
pub struct Skb {
    /// The bytes. After [`Skb::eth_type_trans`] they start behind the Ethernet header.
    pub packet: Packet,
    /// Device that it is at.
    pub dev: u32,
    /// Bytes of metadata before the Ethernet header.
    pub meta_len: u32,
    /// EtherType, host order; 0 before [`Skb::eth_type_trans`].
    pub protocol: u16,
    /// Who it is for.
    pub packet_type: PacketType,
    /// Whether the Ethernet header was taken off.
    pub mac_pulled: bool,
    /// Transmit queue that was chosen.
    pub queue_mapping: u32,
    /// Receive queue that it came in on, if one was recorded.
    pub rx_queue: Option<u32>,
    /// VLAN tag beside the packet: protocol and control information, host order. Programs do not see it.
    pub vlan: Option<(u16, u16)>,
    /// Whether the transport checksum is still to be computed (`CHECKSUM_PARTIAL`).
    pub csum_partial: bool,
    /// Flow hash, and whether it covers the transport header.
    pub hash: Option<(u32, bool)>,
    /// Someone else has the same packet, or its memory.
    pub shared: bool,
    /// Its memory may not be given to others.
    pub head_locked: bool,
    /// More packets hang on it (`frag_list`).
    pub frag_list: bool,
    /// Several packets in one, to be cut by the device.
    pub gso: bool,
    /// Redirected once, so that generic XDP leaves it alone.
    pub redirected: bool,
    /// What is due when nobody has it any more: its AF_XDP socket hears that it was sent (`skb->destructor`).
    pub completion: Option<Completion>,
}

impl Skb {
    /// A packet as a socket sends it: an Ethernet frame, nothing else known.
    #[must_use]
    pub fn new(packet: Packet) -> Self {
        Self {
            packet,
            dev: 0,
            meta_len: 0,
            protocol: 0,
            packet_type: PacketType::Host,
            mac_pulled: false,
            queue_mapping: 0,
            rx_queue: None,
            vlan: None,
            csum_partial: false,
            hash: None,
            shared: false,
            head_locked: false,
            frag_list: false,
            gso: false,
            redirected: false,
            completion: None,
        }
    }

    /// Bytes of the packet from where it starts now: what `skb->len` says.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packet.total_len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the Ethernet header off, and notes what it says for a device of that address.
    ///
    /// Kernel: `net/ethernet/eth.c eth_type_trans, v6.18`
    pub fn eth_type_trans(&mut self, dev: u32, mac: [u8; 6]) {
        self.dev = dev;
        let header = self.packet.linear();
        if header.len() < ETH_HLEN {
            return;
        }
        let mut bytes = [0; ETH_HLEN];
        header.copy_to(0, &mut bytes);
        self.meta_len = self.packet.meta_len();
        // Cannot fail: the linear part has as many bytes.
        let _ = self.packet.pull(ETH_HLEN as u32);
        self.mac_pulled = true;
        self.packet_type = match bytes {
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, ..] => PacketType::Broadcast,
            [first, ..] if first & 1 != 0 => PacketType::Multicast,
            _ if bytes[..6] == mac => PacketType::Host,
            _ => PacketType::OtherHost,
        };
        let ethertype = u16::from_be_bytes([bytes[12], bytes[13]]);
        self.protocol = if ethertype >= ETH_P_802_3_MIN { ethertype } else { ETH_P_802_2 };
    }

    /// Puts the Ethernet header back, if it was taken off.
    pub fn push_mac(&mut self) {
        if self.mac_pulled && self.packet.push(ETH_HLEN as u32).is_ok() {
            self.mac_pulled = false;
        }
    }

    /// The whole Ethernet frame.
    #[must_use]
    pub fn frame_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len() + ETH_HLEN);
        if self.mac_pulled {
            let at = self.packet.headroom() as usize - ETH_HLEN;
            let header = self.packet.frame_bytes().get(at, ETH_HLEN).expect("within the headroom");
            bytes.extend(header.to_vec());
        }
        bytes.extend(self.packet.to_vec());
        bytes
    }
}

const ETH_P_802_3_MIN: u16 = 0x600;
const ETH_P_802_2: u16 = 4;
