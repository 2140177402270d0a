//! [`Packet`]: a packet's memory with its geometry, outside of a poll. What `xdp_frame` and `sk_buff` have in
//! common; [`crate::XdpBuff`] is the same while a program works on it.

use uapi::Errno;
use uapi::xdp::{MAX_SKB_FRAGS, XDP_FRAME_SIZE, XDP_TAILROOM};

use crate::{Frag, Frame, SharedSlice};

/// Who owned a packet's memory at first: `enum xdp_mem_type`. Programs see it, and receivers copy it.
///
/// Kernel: `include/net/xdp.h enum xdp_mem_type, v6.18`
#[doc(alias = "xdp_mem_type")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
#[repr(u8)]
pub enum MemType {
    /// `MEM_TYPE_PAGE_SHARED`.
    #[default]
    PageShared = 0,
    /// `MEM_TYPE_PAGE_ORDER0`.
    PageOrder0 = 1,
    /// `MEM_TYPE_PAGE_POOL`.
    PagePool = 2,
    /// `MEM_TYPE_XSK_BUFF_POOL`.
    XskBuffPool = 3,
}

/// A packet: one linear buffer with head and tail room, metadata before the packet, perhaps fragments.
///
/// It is 64 bytes, so that queues hold packets by value. Its parts always lie within the frame:
/// `meta_len <= data` and `data + len <= frame_sz - XDP_TAILROOM`.
pub struct Packet {
    frame: Frame,
    frags: Vec<Frag>,
    frame_sz: u32,
    data: u32,
    len: u32,
    rx_ifindex: u32,
    meta_len: u8,
    mem_type: MemType,
}

const _: () = assert!(size_of::<Packet>() == 64);

impl Packet {
    /// A packet that starts `headroom` bytes into the frame, of which `frame_sz` bytes are used, and has
    /// `len` linear bytes.
    ///
    /// # Errors
    ///
    /// `EINVAL` with the frame if `frame_sz` is larger than the frame, or if packet and tail room do not fit.
    pub fn new(frame: Frame, frame_sz: u32, headroom: u32, len: u32) -> Result<Self, (Errno, Frame)> {
        let end = u64::from(headroom) + u64::from(len) + XDP_TAILROOM as u64;
        if frame_sz as usize > frame.len() || end > u64::from(frame_sz) {
            return Err((Errno::EINVAL, frame));
        }
        Ok(Self {
            frame,
            frags: Vec::new(),
            frame_sz,
            data: headroom,
            len,
            rx_ifindex: 0,
            meta_len: 0,
            mem_type: MemType::PageShared,
        })
    }

    /// Unchecked by intent: for buffs, which keep the same bounds.
    #[inline]
    pub(crate) fn from_parts(parts: Parts) -> Self {
        let Parts { frame, frags, frame_sz, data, len, meta_len, rx_ifindex } = parts;
        Self { frame, frags, frame_sz, data, len, rx_ifindex, meta_len, mem_type: MemType::PageShared }
    }

    #[inline]
    pub(crate) fn into_parts(self) -> Parts {
        let Self { frame, frags, frame_sz, data, len, meta_len, rx_ifindex, .. } = self;
        Parts { frame, frags, frame_sz, data, len, meta_len, rx_ifindex }
    }

    /// Bytes of the frame that are the packet's, tail room included.
    #[must_use]
    pub const fn frame_sz(&self) -> u32 {
        self.frame_sz
    }

    /// Bytes before the packet, metadata included.
    #[must_use]
    pub const fn headroom(&self) -> u32 {
        self.data
    }

    /// Bytes of the linear part.
    #[must_use]
    pub const fn linear_len(&self) -> u32 {
        self.len
    }

    /// Bytes after the linear part, before the reserved tail.
    #[must_use]
    pub const fn tailroom(&self) -> u32 {
        self.frame_sz - XDP_TAILROOM as u32 - self.data - self.len
    }

    /// Bytes of metadata.
    #[must_use]
    pub const fn meta_len(&self) -> u32 {
        self.meta_len as u32
    }

    /// Bytes of the packet with its fragments.
    ///
    /// Kernel: `include/net/xdp.h xdp_get_frame_len, v6.18`
    #[must_use]
    #[doc(alias = "xdp_get_frame_len")]
    #[inline]
    pub fn total_len(&self) -> usize {
        self.len as usize + self.frags.iter().map(|f| f.len() as usize).sum::<usize>()
    }

    /// Whether there is room for an `xdp_frame` before packet and metadata.
    #[must_use]
    pub const fn has_frame_room(&self) -> bool {
        self.data >= self.meta_len as u32 + XDP_FRAME_SIZE as u32
    }

    /// Device that it came in on; 0 if none is known.
    #[must_use]
    pub const fn rx_ifindex(&self) -> u32 {
        self.rx_ifindex
    }

    /// Says which device it came in on.
    pub const fn set_rx_ifindex(&mut self, ifindex: u32) {
        self.rx_ifindex = ifindex;
    }

    /// Who owned its memory at first.
    #[must_use]
    pub const fn mem_type(&self) -> MemType {
        self.mem_type
    }

    /// Says who owned its memory at first.
    pub const fn set_mem_type(&mut self, mem_type: MemType) {
        self.mem_type = mem_type;
    }

    /// Fragments after the linear part.
    #[must_use]
    pub fn frags(&self) -> &[Frag] {
        &self.frags
    }

    /// Adds a fragment at the end.
    ///
    /// # Errors
    ///
    /// `ENOMEM` with the fragment if there are [`MAX_SKB_FRAGS`] already.
    pub fn push_frag(&mut self, frag: Frag) -> Result<(), (Errno, Frag)> {
        if self.frags.len() == MAX_SKB_FRAGS {
            return Err((Errno::ENOMEM, frag));
        }
        self.frags.push(frag);
        Ok(())
    }

    /// The linear part.
    #[must_use]
    pub fn linear(&self) -> SharedSlice<'_> {
        self.frame.bytes().get(self.data as usize, self.len as usize).expect("within the frame")
    }

    /// Metadata and linear part in one.
    #[must_use]
    pub fn meta_and_linear(&self) -> SharedSlice<'_> {
        let meta = u32::from(self.meta_len);
        let (from, len) = (self.data - meta, self.len + meta);
        self.frame.bytes().get(from as usize, len as usize).expect("within the frame")
    }

    /// Moves the start of the packet towards the end; metadata is given up if it is not zero.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the linear part is shorter.
    ///
    /// Kernel: `include/linux/skbuff.h __skb_pull, v6.18`
    #[doc(alias = "__skb_pull")]
    pub const fn pull(&mut self, n: u32) -> Result<(), Errno> {
        if n > self.len {
            return Err(Errno::EINVAL);
        }
        self.data += n;
        self.len -= n;
        self.meta_len = 0;
        Ok(())
    }

    /// Moves the start of the packet towards the start of the frame; what comes in is what lies there.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is less headroom.
    ///
    /// Kernel: `net/core/skbuff.c skb_push, v6.18`
    #[doc(alias = "skb_push")]
    pub const fn push(&mut self, n: u32) -> Result<(), Errno> {
        if n > self.data {
            return Err(Errno::EINVAL);
        }
        self.data -= n;
        self.len += n;
        self.meta_len = 0;
        Ok(())
    }

    /// Declares `len` bytes before the packet to be metadata.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is less headroom, or if the length is no multiple of 4 or above 252.
    ///
    /// Kernel: `include/linux/skbuff.h skb_metadata_set, v6.18`
    #[doc(alias = "skb_metadata_set")]
    pub fn set_meta_len(&mut self, len: u32) -> Result<(), Errno> {
        let byte = u8::try_from(len).ok().filter(|b| len <= self.data && b.is_multiple_of(4));
        self.meta_len = byte.ok_or(Errno::EINVAL)?;
        Ok(())
    }

    /// The packet's bytes, without metadata.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = self.linear().to_vec();
        self.frags.iter().for_each(|f| bytes.extend(f.bytes().to_vec()));
        bytes
    }

    /// Copies bytes of the packet from `offset` to `dst`, as many as both have; answers how many.
    pub fn copy_out(&self, offset: usize, dst: SharedSlice<'_>) -> usize {
        let (mut skip, mut done) = (offset, 0);
        let parts = std::iter::once(self.linear()).chain(self.frags.iter().map(Frag::bytes));
        for part in parts {
            if done == dst.len() {
                break;
            }
            if skip >= part.len() {
                skip -= part.len();
                continue;
            }
            let n = (part.len() - skip).min(dst.len() - done);
            dst.copy_from_shared(done, part.get(skip, n).expect("within the part"));
            done += n;
            skip = 0;
        }
        done
    }

    /// Number of frames that it is made of.
    #[must_use]
    pub fn frame_count(&self) -> usize {
        1 + self.frags.len()
    }

    /// The whole linear frame, with head and tail room.
    #[must_use]
    pub fn frame_bytes(&self) -> SharedSlice<'_> {
        self.frame.bytes()
    }

    /// Takes it apart, when the packet is done with.
    #[inline]
    pub fn into_frames(self, mut give: impl FnMut(Frame)) {
        for frag in self.frags {
            give(frag.into_frame());
        }
        give(self.frame);
    }
}

/// What buff and packet have in common.
pub(crate) struct Parts {
    pub(crate) frame: Frame,
    pub(crate) frags: Vec<Frag>,
    pub(crate) frame_sz: u32,
    pub(crate) data: u32,
    pub(crate) len: u32,
    pub(crate) meta_len: u8,
    pub(crate) rx_ifindex: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RxqInfo, XdpBuff};

    const RXQ: RxqInfo = RxqInfo { ifindex: 7, queue_index: 0, mem_type: 0, frag_size: 0 };

    fn packet(frame_sz: u32, headroom: u32, len: u32) -> Result<Packet, Errno> {
        Packet::new(Frame::new(4096), frame_sz, headroom, len).map_err(|(e, _)| e)
    }

    #[test]
    fn bounds_are_checked() {
        assert!(packet(4096, 256, 3520).is_ok());
        assert_eq!(packet(4096, 256, 3521).err(), Some(Errno::EINVAL));
        assert_eq!(packet(4097, 256, 60).err(), Some(Errno::EINVAL));
        assert_eq!(packet(640, 256, 64).map(|p| p.tailroom()), Ok(0));
        assert_eq!(packet(640, 256, 65).err(), Some(Errno::EINVAL));
        assert_eq!(packet(640, u32::MAX, u32::MAX).err(), Some(Errno::EINVAL));
    }

    #[test]
    fn a_packet_survives_a_buff_with_its_geometry() {
        let mut p = packet(640, 256, 60).unwrap();
        p.push_frag(Frag::new(Frame::new(4096), 8, 100).unwrap()).map_err(|(e, _)| e).unwrap();
        p.set_meta_len(16).unwrap();
        let mut buff = XdpBuff::from_packet(p, &RXQ);
        assert_eq!((buff.frame_sz(), buff.headroom(), buff.meta_len(), buff.buff_len()), (640, 256, 16, 160));
        assert_eq!(buff.adjust_tail(5), Err(Errno::EOPNOTSUPP));
        buff.adjust_head(4).unwrap();
        buff.adjust_meta(-4).unwrap();
        let p = buff.into_packet();
        assert_eq!((p.frame_sz(), p.headroom(), p.meta_len(), p.total_len()), (640, 260, 20, 156));
        assert_eq!((p.rx_ifindex(), p.frame_count()), (7, 2));
    }

    #[test]
    fn unsupported_metadata_counts_as_none() {
        let mut buff = XdpBuff::from_packet(packet(4096, 256, 60).unwrap(), &RXQ);
        buff.set_metadata_unsupported();
        assert_eq!(buff.into_packet().meta_len(), 0);
    }

    #[test]
    fn fragments_do_not_fit_without_end() {
        let mut p = packet(4096, 256, 60).unwrap();
        let frag = || Frag::new(Frame::new(64), 0, 1).unwrap();
        (0..MAX_SKB_FRAGS).for_each(|_| assert!(p.push_frag(frag()).is_ok()));
        assert_eq!(p.push_frag(frag()).err().map(|(e, _)| e), Some(Errno::ENOMEM));
        let mut frames = 0;
        p.into_frames(|_| frames += 1);
        assert_eq!(frames, MAX_SKB_FRAGS + 1);
    }

    #[test]
    fn pushing_and_pulling_stay_within_the_frame() {
        let mut p = packet(4096, 20, 60).unwrap();
        p.linear().copy_from(0, b"abcdef");
        assert_eq!(p.pull(61), Err(Errno::EINVAL));
        p.pull(2).unwrap();
        assert_eq!(p.linear().read_u8(0), b'c');
        assert_eq!(p.push(23), Err(Errno::EINVAL));
        p.push(22).unwrap();
        assert_eq!((p.headroom(), p.linear_len()), (0, 80));
        assert_eq!(p.set_meta_len(4), Err(Errno::EINVAL));
    }
}
