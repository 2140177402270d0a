//! [`XdpBuff`]: a packet at the hook, with the geometry of `struct xdp_buff`.
//!
//! Here is what a buff is and how one is made; `geometry` moves its ends as the helpers do, `bytes`
//! reads and writes across fragments.

mod bytes;
mod geometry;
#[cfg(test)]
mod tests;

pub use bytes::PacketPart;
use uapi::Errno;
use uapi::xdp::*;

use crate::{Frame, MemType, Packet, SharedSlice};

/// A packet while a program works on it: one linear buffer with head and tail room, metadata before
/// the packet, and perhaps fragments after it.
///
/// The first 56 bytes are the ABI of compiled code: 64-bit host addresses in the places of
/// `struct xdp_buff`. Up to `frame` is one cache line, and all that a packet without fragments needs. Offsets inside are always within the frame:
/// `hard_start <= data_meta <= data <= data_end <= hard_end`, where `hard_end` leaves
/// [`XDP_TAILROOM`] bytes. Without support for metadata `data_meta` is `data + 1`.
///
/// A buff borrows the queue that it came in on, so it cannot outlive the poll; a frame can.
///
/// Kernel: `include/net/xdp.h struct xdp_buff, v6.18`
#[doc(alias = "xdp_buff")]
#[repr(C, align(64))]
pub struct XdpBuff<'q> {
    pub(crate) data: u64,
    pub(crate) data_end: u64,
    pub(crate) data_meta: u64,
    pub(crate) data_hard_start: u64,
    rxq: &'q RxqInfo,
    txq: Option<&'q TxqInfo>,
    pub(crate) frame_sz: u32,
    flags: u32,
    /// Device that it came in on, while it is in no queue.
    pub(crate) rx_ifindex: u32,
    /// Who owned its memory at first, while it is in no queue.
    pub(crate) mem_type: MemType,
    hints: HintsKind,
    /// The frame is of the size that pools keep.
    pub(crate) is_page: bool,
    pub(crate) frame: Frame,
    pub(crate) frags: Vec<Frag>,
    frags_size: u32,
    known: RxHints,
}

/// What [`XdpBuff::hints`] answers.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum HintsKind {
    Unsupported,
    None,
    Known,
}

const _: () = {
    assert!(std::mem::offset_of!(XdpBuff<'_>, data) == XdpBuff::OFF_DATA);
    assert!(std::mem::offset_of!(XdpBuff<'_>, data_end) == XdpBuff::OFF_DATA_END);
    assert!(std::mem::offset_of!(XdpBuff<'_>, data_meta) == XdpBuff::OFF_DATA_META);
    assert!(std::mem::offset_of!(XdpBuff<'_>, data_hard_start) == XdpBuff::OFF_DATA_HARD_START);
    assert!(std::mem::offset_of!(XdpBuff<'_>, rxq) == XdpBuff::OFF_RXQ);
    assert!(std::mem::offset_of!(XdpBuff<'_>, txq) == XdpBuff::OFF_TXQ);
    assert!(std::mem::offset_of!(XdpBuff<'_>, frame_sz) == 48);
    assert!(std::mem::offset_of!(XdpBuff<'_>, flags) == XdpBuff::OFF_FLAGS);
    assert!(std::mem::offset_of!(XdpBuff<'_>, frame) == 64);
};

/// `XDP_FLAGS_*` of a buff.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XdpBuffFlags;

impl XdpBuffFlags {
    /// The packet has fragments.
    pub const HAS_FRAGS: u32 = 1;
}

/// A part of a packet beside the linear one. Its bytes always lie within its frame.
#[doc(alias = "skb_frag_t")]
pub struct Frag {
    frame: Frame,
    offset: u32,
    len: u32,
}

impl Frag {
    /// A fragment of `len` bytes, `offset` bytes into a frame.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is empty or does not lie within the frame.
    pub fn new(frame: Frame, offset: u32, len: u32) -> Result<Self, Errno> {
        let end = offset.checked_add(len).ok_or(Errno::EINVAL)?;
        if len == 0 || end as usize > frame.len() {
            return Err(Errno::EINVAL);
        }
        Ok(Self { frame, offset, len })
    }

    /// Bytes of the packet in it.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Never: a fragment has at least one byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// The packet's bytes.
    #[must_use]
    pub fn bytes(&self) -> SharedSlice<'_> {
        let bytes = self.frame.bytes().get(self.offset as usize, self.len as usize);
        bytes.expect("a fragment lies within its frame")
    }

    /// The memory, when the packet is done with.
    #[must_use]
    pub fn into_frame(self) -> Frame {
        self.frame
    }
}

/// What a device knows about a packet beside its bytes: the answers of the metadata kfuncs.
///
/// `EOPNOTSUPP` where the driver has no such operation, `ENODATA` where it has, but not for this packet.
///
/// Kernel: `include/net/xdp.h struct xdp_metadata_ops, v6.18`
#[doc(alias = "xdp_metadata_ops")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RxHints {
    /// `bpf_xdp_metadata_rx_timestamp`: nanoseconds of international atomic time.
    pub timestamp_ns: Result<u64, Errno>,
    /// `bpf_xdp_metadata_rx_hash`: the hash and `enum xdp_rss_hash_type`.
    pub hash: Result<(u32, u32), Errno>,
    /// `bpf_xdp_metadata_rx_vlan_tag`: protocol in network order, tag control information.
    pub vlan: Result<(u16, u16), Errno>,
}

impl RxHints {
    /// A device without any of the operations.
    pub const UNSUPPORTED: Self = Self {
        timestamp_ns: Err(Errno::EOPNOTSUPP),
        hash: Err(Errno::EOPNOTSUPP),
        vlan: Err(Errno::EOPNOTSUPP),
    };

    /// A device that has the operations, but nothing to answer.
    pub const NO_DATA: Self =
        Self { timestamp_ns: Err(Errno::ENODATA), hash: Err(Errno::ENODATA), vlan: Err(Errno::ENODATA) };
}

/// Where a packet came in: `struct xdp_rxq_info`, in the engine's own layout.
#[doc(alias = "xdp_rxq_info")]
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RxqInfo {
    /// Offset 0: device.
    pub ifindex: u32,
    /// Offset 4: queue of the device.
    pub queue_index: u32,
    /// Offset 8: `enum xdp_mem_type`.
    pub mem_type: u32,
    /// Offset 12: size of a fragment's buffer; 0 where fragments cannot grow, bytes.
    pub frag_size: u32,
}

/// Where a packet goes out, for devmap programs: `struct xdp_txq_info`, in the engine's own layout.
#[doc(alias = "xdp_txq_info")]
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TxqInfo {
    /// Offset 0: device.
    pub ifindex: u32,
}

impl<'q> XdpBuff<'q> {
    /// Offset of `data` in the ABI of compiled code, bytes.
    pub const OFF_DATA: usize = 0;
    /// Offset of `data_end`, bytes.
    pub const OFF_DATA_END: usize = 8;
    /// Offset of `data_meta`, bytes.
    pub const OFF_DATA_META: usize = 16;
    /// Offset of the start of the frame, bytes.
    pub const OFF_DATA_HARD_START: usize = 24;
    /// Offset of the flags, bytes.
    pub const OFF_FLAGS: usize = 52;
    /// The flag for fragments, in the lowest byte.
    pub const HAS_FRAGS: u32 = XdpBuffFlags::HAS_FRAGS;
    /// Offset of the pointer to [`RxqInfo`], bytes.
    pub const OFF_RXQ: usize = 32;
    /// Offset of the pointer to [`TxqInfo`], bytes.
    pub const OFF_TXQ: usize = 40;

    /// A buff over a whole frame: the packet starts `headroom` bytes in and has `len` linear bytes.
    ///
    /// # Errors
    ///
    /// `EINVAL` if packet and tail room do not fit.
    ///
    /// Kernel: `include/net/xdp.h xdp_init_buff, xdp_prepare_buff, v6.18`
    #[doc(alias = "xdp_init_buff")]
    pub fn new(frame: Frame, headroom: usize, len: usize, rxq: &'q RxqInfo) -> Result<Self, Errno> {
        u32::try_from(frame.len()).map_err(|_| Errno::EINVAL)?;
        let mut buff = Self::empty(frame, rxq);
        buff.prepare(headroom, len)?;
        Ok(buff)
    }

    /// A buff without a packet over a whole frame.
    pub(crate) fn empty(frame: Frame, rxq: &'q RxqInfo) -> Self {
        let start = frame.bytes().addr();
        Self {
            data: start,
            data_end: start,
            data_meta: start,
            data_hard_start: start,
            rxq,
            txq: None,
            // Larger ones are refused before, or get a size of their own after.
            frame_sz: frame.len() as u32,
            flags: 0,
            rx_ifindex: 0,
            mem_type: MemType::PageShared,
            hints: HintsKind::Unsupported,
            is_page: frame.len() == Frame::PAGE_SIZE,
            frame,
            frags: Vec::new(),
            frags_size: 0,
            known: RxHints::UNSUPPORTED,
        }
    }

    /// The packet comes in on a queue.
    #[inline]
    pub(crate) fn arrive(&mut self, rxq: &'q RxqInfo) {
        self.rxq = rxq;
        self.txq = None;
        self.hints = HintsKind::Unsupported;
    }

    /// The packet leaves its queue for good.
    #[inline]
    pub(crate) fn leave(&mut self, to: &'q RxqInfo) {
        self.rxq = to;
        self.txq = None;
    }

    /// The packet leaves its queue, which is noted, for another one.
    #[inline]
    pub(crate) fn depart(&mut self, to: &'q RxqInfo) {
        self.rx_ifindex = self.rxq.ifindex;
        self.rxq = to;
        self.txq = None;
        if self.metadata_unsupported() {
            self.data_meta = self.data;
        }
    }

    /// The packet, so that it can outlive the poll. Metadata that the device has no room for counts as none.
    #[must_use]
    #[inline]
    pub fn into_packet(self: Box<Self>) -> Packet {
        Packet::of(self)
    }

    /// Whether it is one frame, of the size that pools keep.
    #[inline]
    pub(crate) const fn is_one_page(&self) -> bool {
        self.is_page && !self.has_frags()
    }

    /// Size of the frame, bytes.
    #[inline]
    pub(crate) const fn frame_len(&self) -> usize {
        if self.is_page { Frame::PAGE_SIZE } else { self.frame.len() }
    }

    #[cold]
    pub(crate) fn drop_frags(&mut self) {
        self.flags = 0;
        self.frags.clear();
        self.frags_size = 0;
    }

    /// Starts over with another packet in the same frame: no metadata, no fragments, no target, no hints.
    /// The bytes stay.
    ///
    /// # Errors
    ///
    /// `EINVAL` if packet and tail room do not fit; the buff is as it was.
    ///
    /// Kernel: `include/net/xdp.h xdp_prepare_buff, v6.18`
    #[doc(alias = "xdp_prepare_buff")]
    pub fn prepare(&mut self, headroom: usize, len: usize) -> Result<(), Errno> {
        let end = headroom.checked_add(len).and_then(|n| n.checked_add(XDP_TAILROOM));
        if end.is_none_or(|end| end > self.frame_sz as usize) {
            return Err(Errno::EINVAL);
        }
        self.data = self.data_hard_start + headroom as u64;
        self.data_end = self.data + len as u64;
        self.data_meta = self.data;
        self.txq = None;
        self.drop_frags();
        self.hints = HintsKind::Unsupported;
        Ok(())
    }

    /// Declares the first `len` bytes of the linear part to be metadata: the packet starts after them.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `len` is more than the linear part has, above [`XDP_META_MAX`] or no multiple of 4.
    pub fn split_metadata(&mut self, len: usize) -> Result<(), Errno> {
        if len > self.linear_len() || geometry::metalen_invalid(len as u64) {
            return Err(Errno::EINVAL);
        }
        self.data_meta = self.data;
        self.data += len as u64;
        Ok(())
    }

    /// Declares that the device has no room for metadata: programs see `data_meta > data`.
    #[doc(alias = "xdp_set_data_meta_invalid")]
    pub fn set_metadata_unsupported(&mut self) {
        self.data_meta = self.data + 1;
    }

    /// Whether the device has no room for metadata.
    #[must_use]
    #[doc(alias = "xdp_data_meta_unsupported")]
    #[inline]
    pub const fn metadata_unsupported(&self) -> bool {
        self.data_meta > self.data
    }

    /// Adds a fragment at the end of the packet.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if there are [`MAX_SKB_FRAGS`] already.
    pub fn push_frag(&mut self, frag: Frag) -> Result<(), Errno> {
        if self.frags.len() == MAX_SKB_FRAGS {
            return Err(Errno::ENOMEM);
        }
        self.frags_size += frag.len;
        self.frags.push(frag);
        self.flags |= XdpBuffFlags::HAS_FRAGS;
        Ok(())
    }

    /// Says where the packet goes out, for a devmap program.
    pub fn set_txq(&mut self, txq: Option<&'q TxqInfo>) {
        self.txq = txq;
    }

    /// Says what the device knows about the packet.
    pub fn set_hints(&mut self, hints: RxHints) {
        self.known = hints;
        self.hints = HintsKind::Known;
    }

    /// Says that the device could know something about packets, but does not about this one.
    #[inline]
    pub const fn set_no_hints(&mut self) {
        self.hints = HintsKind::None;
    }

    /// What the device knows about the packet.
    #[must_use]
    pub const fn hints(&self) -> &RxHints {
        match self.hints {
            HintsKind::Unsupported => &RxHints::UNSUPPORTED,
            HintsKind::None => &RxHints::NO_DATA,
            HintsKind::Known => &self.known,
        }
    }

    /// A number that no other packet has while this one lives, as buff or as packet.
    #[must_use]
    pub fn identity(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Bytes of the frame.
    #[must_use]
    pub const fn frame_sz(&self) -> u32 {
        self.frame_sz
    }

    /// [`XdpBuffFlags`].
    #[must_use]
    pub const fn flags(&self) -> u32 {
        self.flags
    }

    /// Whether the packet has fragments.
    #[must_use]
    #[doc(alias = "xdp_buff_has_frags")]
    #[inline]
    pub const fn has_frags(&self) -> bool {
        self.flags & XdpBuffFlags::HAS_FRAGS != 0
    }

    /// Bytes between the start of the frame and the packet.
    #[must_use]
    #[inline]
    pub const fn headroom(&self) -> usize {
        (self.data - self.data_hard_start) as usize
    }

    /// Bytes of the packet with its fragments, without metadata.
    #[must_use]
    #[doc(alias = "xdp_get_buff_len")]
    #[inline]
    pub const fn buff_len(&self) -> usize {
        let linear = (self.data_end - self.data) as usize;
        if self.has_frags() { linear + self.frags_size as usize } else { linear }
    }

    /// The frame, when the packet is done with.
    #[must_use]
    pub fn into_frame(self) -> Frame {
        self.frame
    }

    /// The whole frame, with head and tail room.
    #[must_use]
    pub fn frame_bytes(&self) -> SharedSlice<'_> {
        self.frame.bytes()
    }

    /// Bytes of the linear part.
    #[must_use]
    #[inline]
    pub const fn linear_len(&self) -> usize {
        (self.data_end - self.data) as usize
    }

    /// The linear part.
    #[must_use]
    #[inline]
    pub fn linear(&self) -> SharedSlice<'_> {
        self.part(self.data, self.data_end)
    }

    /// Metadata and linear part in one: what a program may reach by packet pointers.
    #[must_use]
    #[inline]
    pub fn meta_and_linear(&self) -> SharedSlice<'_> {
        self.part(self.data_meta.min(self.data), self.data_end)
    }

    /// Bytes of metadata before the packet.
    #[must_use]
    #[inline]
    pub fn meta_len(&self) -> usize {
        self.data.saturating_sub(self.data_meta) as usize
    }

    fn part(&self, from: u64, to: u64) -> SharedSlice<'_> {
        let offset = (from - self.data_hard_start) as usize;
        self.frame.bytes().get(offset, (to - from) as usize).expect("a buff's offsets lie within its frame")
    }

    /// Fragments after the linear part.
    #[must_use]
    pub fn frags(&self) -> &[Frag] {
        &self.frags
    }

    /// Where the packet came in.
    #[must_use]
    #[inline]
    pub fn rxq(&self) -> &'q RxqInfo {
        self.rxq
    }

    /// Where the packet goes out, in devmap programs.
    #[must_use]
    pub fn txq(&self) -> Option<&'q TxqInfo> {
        self.txq
    }
}
