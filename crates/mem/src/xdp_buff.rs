//! [`XdpBuff`]: a packet at the hook, with the geometry of `struct xdp_buff`.

use uapi::Errno;
use uapi::xdp::*;

use crate::{Frame, SharedSlice};

/// A packet while a program works on it: one linear buffer with head and tail room, metadata before
/// the packet, and perhaps fragments after it.
///
/// The first 56 bytes are the ABI of compiled code: 64-bit host addresses in the places of
/// `struct xdp_buff`. Offsets inside are always within the frame:
/// `hard_start <= data_meta <= data <= data_end <= hard_end`, where `hard_end` leaves
/// [`XDP_TAILROOM`] bytes. Without support for metadata `data_meta` is `data + 1`.
///
/// A buff borrows the queue that it came in on, so it cannot outlive the poll; a frame can.
///
/// Kernel: `include/net/xdp.h struct xdp_buff, v6.18`
#[doc(alias = "xdp_buff")]
#[repr(C)]
pub struct XdpBuff<'q> {
    data: u64,
    data_end: u64,
    data_meta: u64,
    data_hard_start: u64,
    rxq: &'q RxqInfo,
    txq: Option<&'q TxqInfo>,
    frame_sz: u32,
    flags: u32,
    frags: Vec<Frag>,
    frame: Frame,
}

/// `XDP_FLAGS_*` of a buff.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XdpBuffFlags;

impl XdpBuffFlags {
    /// The packet has fragments.
    pub const HAS_FRAGS: u32 = 1;
}

/// A part of a packet beside the linear one.
pub struct Frag {
    /// Memory.
    pub frame: Frame,
    /// First byte of the packet within the frame.
    pub offset: u32,
    /// Bytes of the packet.
    pub len: u32,
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
    pub fn new(frame: Frame, headroom: usize, len: usize, rxq: &'q RxqInfo) -> Result<Self, Errno> {
        let end = headroom.checked_add(len).and_then(|n| n.checked_add(XDP_TAILROOM));
        if end.is_none_or(|end| end > frame.len()) || u32::try_from(frame.len()).is_err() {
            return Err(Errno::EINVAL);
        }
        let start = frame.bytes().addr();
        let data = start + headroom as u64;
        Ok(Self {
            data,
            data_end: data + len as u64,
            data_meta: data,
            data_hard_start: start,
            rxq,
            txq: None,
            frame_sz: frame.len() as u32,
            flags: 0,
            frags: Vec::new(),
            frame,
        })
    }

    /// Bytes of the linear part.
    #[must_use]
    pub fn linear_len(&self) -> usize {
        (self.data_end - self.data) as usize
    }

    /// The linear part.
    #[must_use]
    pub fn linear(&self) -> SharedSlice<'_> {
        self.part(self.data, self.data_end)
    }

    /// Metadata and linear part in one: what a program may reach by packet pointers.
    #[must_use]
    pub fn meta_and_linear(&self) -> SharedSlice<'_> {
        self.part(self.data_meta.min(self.data), self.data_end)
    }

    /// Bytes of metadata before the packet.
    #[must_use]
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
    pub fn rxq(&self) -> &'q RxqInfo {
        self.rxq
    }

    /// Where the packet goes out, in devmap programs.
    #[must_use]
    pub fn txq(&self) -> Option<&'q TxqInfo> {
        self.txq
    }
}
