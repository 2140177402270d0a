//! [`XdpFrame`]: a packet that outlives its poll, in queues of the data path.

use bpf::maps::Guard;
use mem::{Frame, MemType, Packet, PagePool, RxqInfo, XdpBuff};
use uapi::Errno;
use uapi::xdp::XDP_FRAME_SIZE;

/// A packet between devices and CPUs. There are at least 40 bytes before packet and metadata, which in the
/// kernel hold this struct; programs meet that in every headroom.
///
/// Kernel: `include/net/xdp.h struct xdp_frame, v6.18`
#[doc(alias = "xdp_frame")]
pub struct XdpFrame(Packet);

impl XdpFrame {
    /// The frame of a buff, as `XDP_REDIRECT` and `XDP_TX` need it. The new owner of the memory is told what
    /// type it was of.
    ///
    /// # Errors
    ///
    /// `ENOSPC` with the packet if there is no room for the frame before packet and metadata. A buff cannot
    /// be without tail room, so the kernel's other reason does not occur.
    ///
    /// Kernel: `include/net/xdp.h xdp_convert_buff_to_frame, xdp_update_frame_from_buff, v6.18`
    #[doc(alias = "xdp_convert_buff_to_frame")]
    #[inline]
    pub fn from_buff(buff: Box<XdpBuff<'_>>) -> Result<Self, (Errno, Packet)> {
        let mem_type = mem_type(buff.rxq().mem_type);
        let mut packet = buff.into_packet();
        packet.set_mem_type(mem_type);
        Self::from_packet(packet)
    }

    /// A frame of a packet.
    ///
    /// # Errors
    ///
    /// `ENOSPC` with the packet if there is no room for the frame.
    #[inline]
    pub fn from_packet(packet: Packet) -> Result<Self, (Errno, Packet)> {
        if packet.has_frame_room() { Ok(Self(packet)) } else { Err((Errno::ENOSPC, packet)) }
    }

    /// The frame as programs see it. Device and queue are those of `rxq`.
    ///
    /// Kernel: `include/net/xdp.h xdp_convert_frame_to_buff, v6.18`
    #[doc(alias = "xdp_convert_frame_to_buff")]
    #[must_use]
    #[inline]
    pub fn into_buff(self, rxq: &RxqInfo) -> Box<XdpBuff<'_>> {
        self.0.into_buff(rxq)
    }

    /// A copy for broadcast: linear, in a page of its own, whatever memory the original has.
    ///
    /// `None` if the linear part does not fit a page, or if there is none left. Fragments are not copied.
    ///
    /// Kernel: `net/core/xdp.c xdpf_clone, v6.18`
    #[doc(alias = "xdpf_clone")]
    pub fn clone_into(&self, pool: &mut PagePool) -> Option<Self> {
        let p = &self.0;
        let mut copy = pool.take_packet(Frame::PAGE_SIZE as u32, p.headroom(), p.linear_len())?;
        // All of the headroom counts as used in the kernel; what is before the metadata means nothing.
        let from = (p.headroom() - p.meta_len()) as usize;
        copy.frame_bytes().copy_from_shared(from, p.meta_and_linear());
        copy.set_meta_len(p.meta_len()).ok()?;
        copy.set_rx_ifindex(p.rx_ifindex());
        copy.set_mem_type(MemType::PageOrder0);
        Some(Self(copy))
    }

    /// The packet.
    #[must_use]
    #[inline]
    pub const fn packet(&self) -> &Packet {
        &self.0
    }

    /// Says which device it came in on.
    pub const fn set_dev_rx(&mut self, ifindex: u32) {
        self.0.set_rx_ifindex(ifindex);
    }

    /// The packet itself.
    #[must_use]
    #[inline]
    pub fn into_packet(self) -> Packet {
        self.0
    }

    /// `headroom` of the struct: bytes between the struct and the packet.
    #[must_use]
    pub const fn headroom(&self) -> u32 {
        self.0.headroom() - XDP_FRAME_SIZE as u32
    }
}

/// The type of memory as buffs show it.
fn mem_type(raw: u32) -> MemType {
    match raw {
        1 => MemType::PageOrder0,
        2 => MemType::PagePool,
        3 => MemType::XskBuffPool,
        _ => MemType::PageShared,
    }
}

/// The receive queue of a device for packets of each type of memory: the kernel overwrites the type in the
/// queue for each frame, here a buff takes the queue with the right one.
#[derive(Debug)]
pub(crate) struct RxqByMem([RxqInfo; 4]);

impl RxqByMem {
    /// The queue of a device.
    #[must_use]
    pub(crate) fn new(ifindex: u32, queue_index: u32) -> Self {
        Self(std::array::from_fn(|mem| RxqInfo { ifindex, queue_index, mem_type: mem as u32, frag_size: 0 }))
    }

    /// The queue as a packet of that memory sees it.
    #[must_use]
    #[inline]
    pub(crate) const fn of(&self, mem: MemType) -> &RxqInfo {
        &self.0[mem as usize]
    }
}

/// A read-side section lives at least as long as the buffs in it.
pub(crate) type Epoch<'g> = &'g Guard;
