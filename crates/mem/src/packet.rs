//! [`Packet`]: a packet's memory with its geometry, outside of a poll. What `xdp_frame` and `sk_buff` have in
//! common; [`crate::XdpBuff`] is the same while a program works on it.
// UNSAFETY: a packet is a buff whose lifetime was forgotten, so that neither way copies anything.
#![allow(unsafe_code)]

use std::sync::atomic::Ordering::Relaxed;

use uapi::Errno;
use uapi::xdp::{MAX_SKB_FRAGS, XDP_FRAME_SIZE, XDP_TAILROOM};

use crate::{Frag, Frame, RxqInfo, SharedSlice, XdpBuff};

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
/// It is one pointer, so that queues and moves are cheap; pools keep what it points to. Its parts always lie
/// within the frame, as a buff's do.
pub struct Packet(Box<XdpBuff<'static>>);

const _: () = assert!(size_of::<Packet>() == 8);

/// What [`crate::PagePool::take_filled`] makes packets of: shape and bytes, checked once for all of them.
pub struct Template<'b> {
    frame_sz: u32,
    headroom: u32,
    mem_type: MemType,
    bytes: &'b [u8],
    /// The bytes once more, filled up with zeros; those come to lie after the packet's end.
    words: &'b [u64],
}

impl<'b> Template<'b> {
    /// Packets that start `headroom` bytes into a page, of which `frame_sz` bytes are used. The bytes are kept
    /// in `scratch` too.
    ///
    /// # Errors
    ///
    /// `EINVAL` if packet and tail room do not fit.
    pub fn new(
        frame_sz: u32,
        headroom: u32,
        mem_type: MemType,
        bytes: &'b [u8],
        scratch: &'b mut Vec<u64>,
    ) -> Result<Self, Errno> {
        let end = headroom as usize + bytes.len() + XDP_TAILROOM;
        if frame_sz as usize > Frame::PAGE_SIZE || end > frame_sz as usize {
            return Err(Errno::EINVAL);
        }
        let word = |chunk: &[u8]| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_ne_bytes(word)
        };
        scratch.clear();
        scratch.extend(bytes.chunks(8).map(word));
        Ok(Self { frame_sz, headroom, mem_type, bytes, words: scratch })
    }
}

/// Where packets are that are in no queue.
static NOWHERE: RxqInfo = RxqInfo { ifindex: 0, queue_index: 0, mem_type: 0, frag_size: 0 };

impl Packet {
    /// A packet that starts `headroom` bytes into the frame, of which `frame_sz` bytes are used, and has
    /// `len` linear bytes.
    ///
    /// # Errors
    ///
    /// `EINVAL` with the frame if `frame_sz` is larger than the frame, or if packet and tail room do not fit.
    pub fn new(frame: Frame, frame_sz: u32, headroom: u32, len: u32) -> Result<Self, (Errno, Frame)> {
        let mut packet = Self(Box::new(XdpBuff::empty(frame, &NOWHERE)));
        match packet.reset(frame_sz, headroom, len) {
            Ok(()) => Ok(packet),
            Err(errno) => Err((errno, packet.0.into_frame())),
        }
    }

    /// Makes another packet of it, in the same frame: without fragments, metadata or origin. The bytes stay.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `frame_sz` is larger than the frame, or if packet and tail room do not fit; nothing is
    /// changed then.
    #[inline]
    pub fn reset(&mut self, frame_sz: u32, headroom: u32, len: u32) -> Result<(), Errno> {
        let buff = &mut *self.0;
        let end = u64::from(headroom) + u64::from(len) + XDP_TAILROOM as u64;
        if frame_sz as usize > buff.frame_len() || end > u64::from(frame_sz) {
            return Err(Errno::EINVAL);
        }
        buff.frame_sz = frame_sz;
        buff.data = buff.data_hard_start + u64::from(headroom);
        buff.data_end = buff.data + u64::from(len);
        buff.data_meta = buff.data;
        if buff.has_frags() {
            buff.drop_frags();
        }
        buff.rx_ifindex = 0;
        buff.mem_type = MemType::PageShared;
        Ok(())
    }

    /// As [`Packet::reset`] of a packet that is a page, with another one's shape and bytes.
    #[inline]
    pub(crate) fn fill(&mut self, template: &Template<'_>) {
        let buff = &mut *self.0;
        assert!(buff.is_page, "a template fits a page, and pools have no others");
        let Template { frame_sz, headroom, mem_type, bytes, words } = template;
        buff.frame_sz = *frame_sz;
        buff.data = buff.data_hard_start + u64::from(*headroom);
        buff.data_end = buff.data + bytes.len() as u64;
        buff.data_meta = buff.data;
        if buff.has_frags() {
            buff.drop_frags();
        }
        buff.rx_ifindex = 0;
        buff.mem_type = *mem_type;
        let frame = buff.frame.bytes();
        match frame.atomic_u64s(*headroom as usize, words.len()) {
            Some(to) => to.iter().zip(*words).for_each(|(to, word)| to.store(*word, Relaxed)),
            None => frame.copy_from(*headroom as usize, bytes),
        }
    }

    /// The packet as programs see it. Where it came in before is forgotten, its memory's type too: both are
    /// the queue's now.
    ///
    /// Kernel: `include/net/xdp.h xdp_convert_frame_to_buff, v6.18`
    #[doc(alias = "xdp_convert_frame_to_buff")]
    #[must_use]
    #[inline]
    pub fn into_buff(self, rxq: &RxqInfo) -> Box<XdpBuff<'_>> {
        let mut buff: Box<XdpBuff<'_>> = self.0;
        buff.arrive(rxq);
        buff
    }

    /// The packet of a buff that is done with: where it came in is of no interest any more.
    #[inline]
    pub(crate) fn done(mut buff: Box<XdpBuff<'_>>) -> Self {
        buff.leave(&NOWHERE);
        // SAFETY: as in `of`; `leave` replaces both references too.
        Self(unsafe { Box::from_raw(Box::into_raw(buff).cast()) })
    }

    /// The packet of a buff, so that it can outlive the poll; what [`XdpBuff::into_packet`] does.
    #[inline]
    pub(crate) fn of(mut buff: Box<XdpBuff<'_>>) -> Self {
        buff.depart(&NOWHERE);
        // SAFETY: the two types differ in the lifetime of the references to queues alone. `depart` has
        // replaced both by what lives for ever.
        Self(unsafe { Box::from_raw(Box::into_raw(buff).cast()) })
    }

    /// A number that no other packet has while this one lives, as packet or as buff ([`XdpBuff::identity`]).
    #[must_use]
    pub fn identity(&self) -> usize {
        self.0.identity()
    }

    /// Bytes of the frame that are the packet's, tail room included.
    #[must_use]
    pub const fn frame_sz(&self) -> u32 {
        self.0.frame_sz
    }

    /// Bytes before the packet, metadata included.
    #[must_use]
    pub const fn headroom(&self) -> u32 {
        (self.0.data - self.0.data_hard_start) as u32
    }

    /// Bytes of the linear part.
    #[must_use]
    pub const fn linear_len(&self) -> u32 {
        (self.0.data_end - self.0.data) as u32
    }

    /// Bytes after the linear part, before the reserved tail.
    #[must_use]
    pub const fn tailroom(&self) -> u32 {
        self.0.frame_sz - XDP_TAILROOM as u32 - self.headroom() - self.linear_len()
    }

    /// Bytes of metadata.
    #[must_use]
    pub fn meta_len(&self) -> u32 {
        self.0.meta_len() as u32
    }

    /// Bytes of the packet with its fragments.
    ///
    /// Kernel: `include/net/xdp.h xdp_get_frame_len, v6.18`
    #[must_use]
    #[doc(alias = "xdp_get_frame_len")]
    #[inline]
    pub fn total_len(&self) -> usize {
        self.0.buff_len()
    }

    /// Whether there is room for an `xdp_frame` before packet and metadata.
    #[must_use]
    #[inline]
    pub fn has_frame_room(&self) -> bool {
        self.headroom() >= self.meta_len() + XDP_FRAME_SIZE as u32
    }

    /// Device that it came in on; 0 if none is known.
    #[must_use]
    pub const fn rx_ifindex(&self) -> u32 {
        self.0.rx_ifindex
    }

    /// Says which device it came in on.
    pub const fn set_rx_ifindex(&mut self, ifindex: u32) {
        self.0.rx_ifindex = ifindex;
    }

    /// Who owned its memory at first.
    #[must_use]
    pub const fn mem_type(&self) -> MemType {
        self.0.mem_type
    }

    /// Says who owned its memory at first.
    pub const fn set_mem_type(&mut self, mem_type: MemType) {
        self.0.mem_type = mem_type;
    }

    /// Fragments after the linear part.
    #[must_use]
    pub fn frags(&self) -> &[Frag] {
        &self.0.frags
    }

    /// Adds a fragment at the end.
    ///
    /// # Errors
    ///
    /// `ENOMEM` with the fragment if there are [`MAX_SKB_FRAGS`] already.
    pub fn push_frag(&mut self, frag: Frag) -> Result<(), (Errno, Frag)> {
        if self.0.frags.len() == MAX_SKB_FRAGS {
            return Err((Errno::ENOMEM, frag));
        }
        self.0.push_frag(frag).expect("there is room for one more");
        Ok(())
    }

    /// The linear part.
    #[must_use]
    pub fn linear(&self) -> SharedSlice<'_> {
        self.0.linear()
    }

    /// Metadata and linear part in one.
    #[must_use]
    pub fn meta_and_linear(&self) -> SharedSlice<'_> {
        self.0.meta_and_linear()
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
        if n > self.linear_len() {
            return Err(Errno::EINVAL);
        }
        self.0.data += n as u64;
        self.0.data_meta = self.0.data;
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
        if n > self.headroom() {
            return Err(Errno::EINVAL);
        }
        self.0.data -= n as u64;
        self.0.data_meta = self.0.data;
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
        if len > self.headroom() || !len.is_multiple_of(4) || len > u32::from(u8::MAX) {
            return Err(Errno::EINVAL);
        }
        self.0.data_meta = self.0.data - u64::from(len);
        Ok(())
    }

    /// The packet's bytes, without metadata.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = self.linear().to_vec();
        self.0.frags.iter().for_each(|f| bytes.extend(f.bytes().to_vec()));
        bytes
    }

    /// Copies bytes of the packet from `offset` to `dst`, as many as both have; answers how many.
    pub fn copy_out(&self, offset: usize, dst: SharedSlice<'_>) -> usize {
        let (mut skip, mut done) = (offset, 0);
        let parts = std::iter::once(self.linear()).chain(self.0.frags.iter().map(Frag::bytes));
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
    #[inline]
    pub const fn frame_count(&self) -> usize {
        if self.0.has_frags() { 1 + self.0.frags.len() } else { 1 }
    }

    /// Whether it has fragments.
    #[must_use]
    #[inline]
    pub const fn has_frags(&self) -> bool {
        self.0.has_frags()
    }

    /// Whether it is one frame, of the size that pools keep.
    #[inline]
    pub(crate) const fn is_one_page(&self) -> bool {
        self.0.is_one_page()
    }

    /// The whole linear frame, with head and tail room.
    #[must_use]
    pub fn frame_bytes(&self) -> SharedSlice<'_> {
        self.0.frame.bytes()
    }

    /// Takes it apart, when the packet is done with.
    #[inline]
    pub fn into_frames(self, mut give: impl FnMut(Frame)) {
        let XdpBuff { frame, frags, .. } = *self.0;
        for frag in frags {
            give(frag.into_frame());
        }
        give(frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut buff = p.into_buff(&RXQ);
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
        let mut buff = packet(4096, 256, 60).unwrap().into_buff(&RXQ);
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
