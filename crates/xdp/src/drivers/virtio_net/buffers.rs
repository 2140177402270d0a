//! Receive buffers: their geometry in the three modes, and filling a queue with them.

use mem::virtq::{Buffer, CHAIN_MAX, DriverQueue};
use uapi::virtio_net::*;
use uapi::xdp::{ETH_HLEN, MAX_SKB_FRAGS, XDP_PACKET_HEADROOM, XDP_TAILROOM};

use super::arena::{Arena, NONE, PAGE};
use super::backend::has;
use super::{Used, gro_hw};
use crate::{ETH_DATA_LEN, ETH_MAX_MTU, VLAN_HLEN};

/// Headroom that a program gets, bytes (`VIRTIO_XDP_HEADROOM`).
pub(super) const HEADROOM: u32 = XDP_PACKET_HEADROOM as u32;
/// Reserved behind a packet, bytes.
pub(super) const TAILROOM: u32 = XDP_TAILROOM as u32;
/// Longest packet of a small buffer, bytes.
pub(super) const GOOD_PACKET_LEN: u32 = ETH_HLEN as u32 + VLAN_HLEN + ETH_DATA_LEN;
/// Before header and headroom of small buffers, bytes.
#[doc(alias = "VIRTNET_RX_PAD")]
const RX_PAD: u32 = 64;
/// Bytes before the packet in the first page of big buffers.
pub(super) const PADDED: u32 = VIRTIO_NET_HDR_PADDED_LEN as u32;

/// What a mergeable buffer of a queue with a program does not have for the packet, bytes.
pub(super) const MERGEABLE_ROOM: u32 = align64(HEADROOM + TAILROOM);

pub(super) const fn align64(n: u32) -> u32 {
    n.next_multiple_of(64)
}

/// How a device receives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RxMode {
    /// A buffer for each packet of the usual length.
    Small,
    /// A chain of pages for each packet: this many beside the first.
    Big(u32),
    /// As many buffers as a packet needs.
    Mergeable,
}

impl RxMode {
    /// Kernel: `drivers/net/virtio_net.c virtnet_set_big_packets, v6.18`
    #[doc(alias = "virtnet_set_big_packets")]
    pub(super) fn of(features: u64, mtu: u32) -> Self {
        let mtu = if has(features, VIRTIO_NET_F_MTU) { mtu } else { 0 };
        let guest_gso = features & gro_hw() != 0;
        if has(features, VIRTIO_NET_F_MRG_RXBUF) {
            Self::Mergeable
        } else if guest_gso {
            Self::Big(MAX_SKB_FRAGS as u32)
        } else if mtu > ETH_DATA_LEN {
            Self::Big(mtu.min(ETH_MAX_MTU).div_ceil(PAGE))
        } else {
            Self::Small
        }
    }

    /// Pages that a packet's buffers take.
    pub(super) const fn pages(self) -> usize {
        match self {
            Self::Big(more) => 1 + more as usize,
            _ => 1,
        }
    }
}

/// A buffer that the device has.
#[derive(Clone, Copy, Debug)]
pub(super) struct RxBuf {
    /// The first of its pages.
    pub(super) page: u32,
    /// Room before it that was thought of when it was made available.
    pub(super) headroom: u32,
    /// Bytes with head and tail room; of mergeable ones.
    pub(super) truesize: u32,
}

impl RxBuf {
    /// Bytes of a mergeable buffer that the device may write.
    pub(super) const fn room(&self) -> u32 {
        let room = if self.headroom > 0 { MERGEABLE_ROOM } else { 0 };
        self.truesize - room
    }
}

/// Average length of packets, in whole bytes and with a weight of 64.
///
/// Kernel: `drivers/net/virtio_net.c DECLARE_EWMA(pkt_len, 0, 64), v6.18`
#[derive(Default)]
struct PktLen(u64);

impl PktLen {
    fn add(&mut self, len: u64) {
        self.0 = if self.0 == 0 { len } else { ((self.0 << 6) - self.0 + len) >> 6 };
    }
}

/// What a receive queue keeps under its lock.
pub(super) struct RxQueue {
    pub(super) vq: DriverQueue<RxBuf>,
    pub(super) arena: Arena,
    mode: RxMode,
    hdr_len: u32,
    min_buf_len: u32,
    average: PktLen,
}

impl RxQueue {
    pub(super) fn new(
        vq: DriverQueue<RxBuf>,
        arena: Arena,
        mode: RxMode,
        hdr_len: u32,
        max_mtu: u32,
    ) -> Self {
        let longest = hdr_len + ETH_HLEN as u32 + VLAN_HLEN + max_mtu;
        let min = longest.div_ceil(u32::from(vq.size()));
        let min_buf_len = (min.max(hdr_len) - hdr_len).max(GOOD_PACKET_LEN);
        Self { vq, arena, mode, hdr_len, min_buf_len, average: PktLen::default() }
    }

    /// The next buffer that the device has used.
    pub(super) fn get_buf(&mut self) -> Option<Used> {
        self.vq.get_buf()
    }

    /// Gives the pages of a buffer back.
    pub(super) fn put(&mut self, buf: RxBuf) {
        self.arena.put_chain(buf.page);
    }

    /// Notes the length of a packet, by which later buffers are measured.
    pub(super) fn note_len(&mut self, len: usize) {
        self.average.add(len as u64);
    }

    /// Makes buffers available until the ring is full.
    ///
    /// Kernel: `drivers/net/virtio_net.c try_fill_recv, v6.18`
    #[doc(alias = "try_fill_recv")]
    pub(super) fn fill(&mut self, headroom: u32) {
        while self.vq.num_free() > 0 {
            let added = match self.mode {
                RxMode::Small => {
                    let len = self.hdr_len + GOOD_PACKET_LEN;
                    self.add_one(len, RxBuf { page: NONE, headroom, truesize: 0 })
                }
                RxMode::Mergeable => {
                    let room = if headroom > 0 { MERGEABLE_ROOM } else { 0 };
                    let len = self.mergeable_len(room);
                    self.add_one(len, RxBuf { page: NONE, headroom, truesize: len + room })
                }
                RxMode::Big(more) => self.add_big(more),
            };
            if !added {
                break;
            }
        }
    }

    /// Kernel: `drivers/net/virtio_net.c get_mergeable_buf_len, v6.18`
    #[doc(alias = "get_mergeable_buf_len")]
    fn mergeable_len(&self, room: u32) -> u32 {
        if room > 0 {
            return PAGE - room;
        }
        let most = PAGE - self.hdr_len;
        let average = u32::try_from(self.average.0).unwrap_or(u32::MAX);
        align64(self.hdr_len + average.clamp(self.min_buf_len.min(most), most))
    }

    /// Kernel: `drivers/net/virtio_net.c add_recvbuf_small, add_recvbuf_mergeable, v6.18`
    #[doc(alias = "add_recvbuf_mergeable")]
    fn add_one(&mut self, len: u32, buf: RxBuf) -> bool {
        let Some(page) = self.arena.take() else { return false };
        let buffer = Buffer { addr: self.arena.offset(page) as u64, len };
        let added = self.vq.add(&[], &[buffer], RxBuf { page, ..buf }).is_ok();
        if !added {
            self.arena.put_chain(page);
        }
        added
    }

    /// Header and start of the packet in one page, the rest in others.
    ///
    /// Kernel: `drivers/net/virtio_net.c add_recvbuf_big, v6.18`
    #[doc(alias = "add_recvbuf_big")]
    fn add_big(&mut self, more: u32) -> bool {
        let mut buffers = [Buffer::default(); CHAIN_MAX];
        let Some(first) = self.arena.take() else { return false };
        let addr = self.arena.offset(first) as u64;
        buffers[0] = Buffer { addr, len: self.hdr_len };
        buffers[1] = Buffer { addr: addr + u64::from(PADDED), len: PAGE - PADDED };
        let mut last = first;
        for buffer in &mut buffers[2..2 + more as usize] {
            let Some(page) = self.arena.take() else {
                self.arena.put_chain(first);
                return false;
            };
            self.arena.link(last, page);
            last = page;
            *buffer = Buffer { addr: self.arena.offset(page) as u64, len: PAGE };
        }
        let buf = RxBuf { page: first, headroom: 0, truesize: PAGE };
        let added = self.vq.add(&[], &buffers[..2 + more as usize], buf).is_ok();
        if !added {
            self.arena.put_chain(first);
        }
        added
    }
}

/// Frame size of small buffers, and the room before the packet in it, for an skb.
///
/// Kernel: `drivers/net/virtio_net.c receive_small_build_skb, v6.18`
#[doc(alias = "receive_small_build_skb")]
pub(super) const fn small_geometry(hdr_len: u32, headroom: u32) -> (u32, u32) {
    let before = hdr_len + RX_PAD + headroom;
    (align64(GOOD_PACKET_LEN + before) + TAILROOM, before)
}
