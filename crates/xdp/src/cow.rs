//! Copies of skbs that programs may write to, with the geometry that the kernel's allocator gives them.

use mem::{Frag, Frame, Packet};
use uapi::xdp::{ETH_HLEN, MAX_SKB_FRAGS, XDP_PACKET_HEADROOM, XDP_TAILROOM};

use crate::{DropReason, NetContext, Note};

const PAGE: u32 = Frame::PAGE_SIZE as u32;
/// Most linear bytes of a copy.
pub(crate) const MAX_LINEAR: u32 = PAGE - XDP_PACKET_HEADROOM as u32 - XDP_TAILROOM as u32;

/// Where the kernel would cut the next buffer from its current page. It decides how much room a packet has
/// behind it, so it is followed exactly, although each packet has a page of its own here.
///
/// Kernel: `net/core/page_pool.c page_pool_alloc_frag_netmem, include/net/page_pool/helpers.h page_pool_alloc, v6.18`
#[doc(alias = "page_pool_alloc_frag")]
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct FragOffset {
    /// Bytes used of the current page; 0 if there is none.
    used: u32,
}

impl FragOffset {
    /// The bytes that a request for `size` gets.
    pub(crate) fn alloc(&mut self, size: u32) -> u32 {
        if size * 2 > PAGE {
            return PAGE;
        }
        if self.used + size > PAGE {
            self.used = 0;
        }
        let offset = self.used;
        self.used += size;
        if self.used + size > PAGE {
            // Not enough for another of its kind: this one gets the rest.
            self.used = PAGE;
            return PAGE - offset;
        }
        size
    }
}

fn align64(n: u32) -> u32 {
    n.next_multiple_of(64)
}

/// A copy with a headroom of 256 bytes; what exceeds 3520 bytes goes to fragments of a page.
///
/// Kernel: `net/core/skbuff.c skb_pp_cow_data, v6.18`
pub(crate) fn skb_pp_cow_data(
    net: &mut NetContext,
    offset: &mut FragOffset,
    packet: &Packet,
) -> Result<Packet, DropReason> {
    let total = packet.total_len();
    if total > MAX_LINEAR as usize + MAX_SKB_FRAGS * PAGE as usize {
        return Err(DropReason::SkbTooLong);
    }
    let linear = (total as u32).min(MAX_LINEAR);
    let frame_sz = offset.alloc(align64(linear) + (XDP_TAILROOM + XDP_PACKET_HEADROOM) as u32);
    let headroom = XDP_PACKET_HEADROOM as u32;
    let mut copy = net.pool.take_packet(frame_sz, headroom, linear).ok_or(DropReason::NoMemory)?;
    let mut done = packet.copy_out(0, copy.linear());
    while done < total {
        let len = (total - done).min(PAGE as usize) as u32;
        let Some(page) = net.pool.take() else {
            net.pool.put_packet(copy);
            return Err(DropReason::NoMemory);
        };
        offset.alloc(len);
        packet.copy_out(done, page.bytes().get(0, len as usize).expect("no more than a page"));
        let frag = Frag::new(page, 0, len).expect("within a page, and not empty");
        let pushed = copy.push_frag(frag);
        assert!(pushed.is_ok(), "the total is within what seventeen pages hold");
        done += len as usize;
    }
    net.trace.note(|| Note::Replaced { packet: packet.identity(), by: copy.identity() });
    Ok(copy)
}

/// `NET_SKB_PAD`.
const NET_SKB_PAD: u32 = 64;

/// A linear copy with at least 256 bytes of headroom, in the size that `kmalloc` would choose.
///
/// Kernel: `net/core/skbuff.c pskb_expand_head, net/core/dev.c netif_skb_check_for_xdp, v6.18`
#[doc(alias = "pskb_expand_head")]
pub(crate) fn expand_head(net: &mut NetContext, packet: &Packet) -> Result<Packet, DropReason> {
    let total = u32::try_from(packet.total_len()).map_err(|_| DropReason::GenericUnprepared)?;
    let missing = (XDP_PACKET_HEADROOM as u32).saturating_sub(packet.headroom());
    let more_head = missing.next_multiple_of(NET_SKB_PAD);
    let end = packet.frame_sz() - XDP_TAILROOM as u32;
    let beyond = (packet.headroom() + total).saturating_sub(end);
    let more_tail = if beyond > 0 { beyond + 128 } else { 0 };
    let frame_sz = kmalloc_size(align64(end + more_head + more_tail) + XDP_TAILROOM as u32);
    let copy = take_packet(net, frame_sz, packet.headroom() + more_head, total)?;
    packet.copy_out(0, copy.linear());
    Ok(copy)
}

/// The bytes that `kmalloc` really gives.
///
/// Kernel: `mm/slab_common.c kmalloc_size_roundup, v6.18`
#[doc(alias = "kmalloc_size_roundup")]
pub(crate) fn kmalloc_size(size: u32) -> u32 {
    size.next_power_of_two().max(256)
}

/// Bytes of a large fragment: the largest that the kernel asks the page allocator for without need.
///
/// Kernel: `include/linux/mmzone.h PAGE_ALLOC_COSTLY_ORDER, v6.18`
const LARGE_FRAG: usize = Frame::PAGE_SIZE << 3;

/// A packet as `ndo_start_xmit` gets it from a packet socket: in one buffer with the headroom of the device, or
/// if it does not fit a page, the Ethernet header there and the rest in large fragments.
///
/// Kernel: `net/packet/af_packet.c packet_alloc_skb, net/core/skbuff.c alloc_skb_with_frags, v6.18`
#[doc(alias = "packet_alloc_skb")]
pub(crate) fn socket_packet(net: &mut NetContext, bytes: &[u8]) -> Result<Packet, DropReason> {
    /// `LL_RESERVED_SPACE` of an Ethernet device.
    const RESERVED: usize = 16;
    let linear = if RESERVED + bytes.len() < Frame::PAGE_SIZE { bytes.len() } else { ETH_HLEN };
    let frame_sz = kmalloc_size(align64((RESERVED + linear) as u32) + XDP_TAILROOM as u32);
    let headroom = (RESERVED - ETH_HLEN) as u32;
    let mut packet = take_packet(net, frame_sz, headroom, linear as u32)?;
    packet.linear().copy_from(0, &bytes[..linear]);
    for chunk in bytes[linear..].chunks(LARGE_FRAG) {
        if let Err(reason) = push_copy(net, &mut packet, chunk) {
            net.pool.put_packet(packet);
            return Err(reason);
        }
    }
    Ok(packet)
}

fn push_copy(net: &mut NetContext, packet: &mut Packet, bytes: &[u8]) -> Result<(), DropReason> {
    let frame = take(net, bytes.len())?;
    frame.bytes().copy_from(0, bytes);
    let frag = Frag::new(frame, 0, bytes.len() as u32).expect("within the frame, and not empty");
    packet.push_frag(frag).map_err(|(_, frag)| {
        net.pool.put(frag.into_frame());
        DropReason::SkbTooLong
    })
}

/// Largest buffer of one packet, bytes. A packet that goes in circles and is made longer each time meets it.
///
/// Kernel: `include/linux/slab.h KMALLOC_MAX_SIZE, v6.18`
const KMALLOC_MAX_SIZE: u32 = 4 << 20;

/// A packet in a buffer of that size: in a page if that is enough.
fn take_packet(net: &mut NetContext, frame_sz: u32, headroom: u32, len: u32) -> Result<Packet, DropReason> {
    if frame_sz as usize <= Frame::PAGE_SIZE {
        return net.pool.take_packet(frame_sz, headroom, len).ok_or(DropReason::NoMemory);
    }
    if frame_sz > KMALLOC_MAX_SIZE {
        return Err(DropReason::NoMemory);
    }
    let frame = net.pool.take_large(frame_sz as usize).ok_or(DropReason::NoMemory)?;
    Packet::new(frame, frame_sz, headroom, len).map_err(|(_, frame)| {
        net.pool.put(frame);
        DropReason::GenericUnprepared
    })
}

/// A buffer of at least so many bytes: a page if that is enough.
fn take(net: &mut NetContext, len: usize) -> Result<Frame, DropReason> {
    let frame = if len <= Frame::PAGE_SIZE { net.pool.take() } else { net.pool.take_large(len) };
    frame.ok_or(DropReason::NoMemory)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fact 5.5: how far packets of these lengths could grow, sent one after the other [V].
    #[test]
    fn room_behind_a_copy_is_what_the_kernel_gave() {
        let observed = [
            (14, 50),
            (60, 4),
            (63, 1),
            (64, 0),
            (65, 63),
            (100, 156),
            (128, 0),
            (1000, 24),
            (1472, 0),
            (1473, 2047),
            (1514, 2006),
            (2000, 1520),
            (3500, 20),
        ];
        let mut net = NetContext::new(0, std::sync::Arc::default());
        let mut offset = FragOffset::default();
        for (len, room) in observed {
            let packet = socket_packet(&mut net, &vec![0xab; len]).unwrap();
            let copy = skb_pp_cow_data(&mut net, &mut offset, &packet).unwrap();
            assert_eq!((copy.headroom(), copy.tailroom()), (256, room), "length {len}");
            assert_eq!(copy.to_vec(), vec![0xab; len]);
        }
    }

    /// Fact 5.5 and 7.2: 3520 linear bytes, the rest in pages; generic mode makes all of it linear [V].
    #[test]
    fn long_packets_get_fragments_or_one_large_buffer() {
        let mut net = NetContext::new(0, std::sync::Arc::default());
        for (len, frags) in [(3520, 0), (3521, 1), (4000, 1), (7616, 1), (7617, 2), (9014, 2)] {
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let packet = socket_packet(&mut net, &bytes).unwrap();
            let copy = skb_pp_cow_data(&mut net, &mut FragOffset::default(), &packet).unwrap();
            assert_eq!((copy.frags().len(), copy.total_len()), (frags, len));
            assert_eq!(copy.to_vec(), bytes);
        }
        let packet = socket_packet(&mut net, &[1; 9014]).unwrap();
        let copy = expand_head(&mut net, &packet).unwrap();
        assert_eq!((copy.headroom(), copy.linear_len(), copy.frame_sz()), (258, 9014, 16384));
        let packet = socket_packet(&mut net, &[1; 60]).unwrap();
        assert_eq!(expand_head(&mut net, &packet).map(|c| (c.headroom(), c.frame_sz())), Ok((258, 1024)));
    }

    #[test]
    fn what_does_not_fit_seventeen_pages_is_refused() {
        let mut net = NetContext::new(0, std::sync::Arc::default());
        let most = MAX_LINEAR as usize + MAX_SKB_FRAGS * 4096;
        let packet = |net: &mut NetContext, len| socket_packet(net, &vec![0; len]).unwrap();
        let (fits, too_long) = (packet(&mut net, most), packet(&mut net, most + 1));
        let offset = &mut FragOffset::default();
        assert!(skb_pp_cow_data(&mut net, offset, &fits).is_ok());
        assert_eq!(skb_pp_cow_data(&mut net, offset, &too_long).err(), Some(DropReason::SkbTooLong));
    }
}
