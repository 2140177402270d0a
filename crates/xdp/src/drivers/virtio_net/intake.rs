//! From used buffers to a packet: what the device says is read once, checked, and copied out.

use mem::{Frag, Frame, Packet, PagePool, SharedMem};
use uapi::virtio_net::VIRTIO_NET_HDR_HASH_LEN;
use uapi::xdp::{ETH_HLEN, MAX_SKB_FRAGS};

use super::arena::{NONE, PAGE};
use super::buffers::{
    GOOD_PACKET_LEN, HEADROOM, MERGEABLE_ROOM, PADDED, RxBuf, RxMode, RxQueue, TAILROOM, small_geometry,
};
use super::header::Header;
use super::stats::PollStats;
use crate::DropReason;

/// Packets up to this length are copied out of the buffer into an skb of their own.
const GOOD_COPY_LEN: u32 = 128;
/// Headroom and size of such an skb (`napi_alloc_skb`), bytes.
const COPY_HEADROOM: u32 = 64;
const COPY_FRAME_SZ: u32 = COPY_HEADROOM + GOOD_COPY_LEN + TAILROOM;

/// A packet that came in.
pub(super) struct Incoming {
    pub(super) packet: Packet,
    pub(super) header: Header,
}

/// What the intake of one packet works with.
pub(super) struct Intake<'a> {
    pub(super) queue: &'a mut RxQueue,
    pub(super) memory: &'a SharedMem,
    pub(super) pool: &'a mut PagePool,
    pub(super) stats: &'a mut PollStats,
    pub(super) mode: RxMode,
    pub(super) hdr_len: u32,
    /// Whether a program will see the packet, and whether it takes fragments.
    pub(super) program: Option<Frags>,
}

/// Whether a program takes fragments (`xdp.frags`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Frags {
    Yes,
    No,
}

type Taken<T> = Result<T, DropReason>;

impl Intake<'_> {
    /// The next packet that the device has used buffers for, or why there is none of it.
    ///
    /// Kernel: `drivers/net/virtio_net.c receive_buf, v6.18`
    #[doc(alias = "receive_buf")]
    pub(super) fn next(&mut self) -> Option<Taken<Incoming>> {
        let (buf, len) = self.queue.get_buf()?;
        if len < self.hdr_len + ETH_HLEN as u32 {
            self.stats.rx_length_errors += 1;
            self.queue.put(buf);
            return Some(Err(DropReason::VirtioRxLength));
        }
        Some(match self.mode {
            RxMode::Mergeable => self.mergeable(buf, len),
            RxMode::Big(more) => self.big(buf, len, more),
            RxMode::Small => self.small(buf, len),
        })
    }

    fn header(&self, buf: &RxBuf) -> ([u8; VIRTIO_NET_HDR_HASH_LEN], Header) {
        let mut bytes = [0; VIRTIO_NET_HDR_HASH_LEN];
        let read = &mut bytes[..self.hdr_len as usize];
        self.memory.view().copy_to(self.queue.arena.offset(buf.page), read);
        let header = Header::parse(read);
        (bytes, header)
    }

    fn page(&mut self) -> Taken<Frame> {
        self.pool.take().ok_or(DropReason::NoMemory)
    }

    /// Copies bytes of a page of the device's into a page of the host's.
    fn copy(&self, page: u32, offset: u32, len: u32, to: &Frame, at: u32) {
        let from = self.queue.arena.offset(page) + offset as usize;
        let bytes = self.memory.view().get(from, len as usize).expect("lengths are checked before");
        to.bytes().copy_from_shared(at as usize, bytes);
    }

    fn packet(&mut self, frame: Frame, frame_sz: u32, headroom: u32, len: u32) -> Taken<Packet> {
        Packet::new(frame, frame_sz, headroom, len).map_err(|(_, frame)| {
            self.pool.put(frame);
            DropReason::VirtioRxLength
        })
    }

    /// Kernel: `drivers/net/virtio_net.c receive_small, receive_small_xdp, v6.18`
    #[doc(alias = "receive_small")]
    fn small(&mut self, buf: RxBuf, len: u32) -> Taken<Incoming> {
        let taken = self.small_packet(&buf, len - self.hdr_len);
        self.queue.put(buf);
        taken.inspect_err(|_| self.stats.drops += 1)
    }

    fn small_packet(&mut self, buf: &RxBuf, len: u32) -> Taken<Incoming> {
        self.stats.bytes += u64::from(len);
        if len > GOOD_PACKET_LEN {
            self.stats.rx_length_errors += 1;
            return Err(DropReason::VirtioRxLength);
        }
        let (bytes, header) = self.header(buf);
        let hdr_len = self.hdr_len;
        let (frame_sz, headroom) = if self.program.is_some() {
            if header.is_offloaded() {
                self.stats.xdp_drops += 1;
                return Err(DropReason::VirtioRxOffloaded);
            }
            // The frame's size counts from the padding, its start from the header's end. A buffer without
            // headroom is from before the program, and copied.
            (small_geometry(hdr_len, HEADROOM).0, HEADROOM)
        } else {
            small_geometry(hdr_len, buf.headroom)
        };
        let frame = self.page()?;
        frame.bytes().copy_from((headroom - hdr_len) as usize, &bytes[..hdr_len as usize]);
        self.copy(buf.page, hdr_len, len, &frame, headroom);
        let packet = self.packet(frame, frame_sz, headroom, len)?;
        Ok(Incoming { packet, header })
    }

    /// No program ever sees these.
    ///
    /// Kernel: `drivers/net/virtio_net.c receive_big, v6.18`
    #[doc(alias = "receive_big")]
    fn big(&mut self, buf: RxBuf, len: u32, more: u32) -> Taken<Incoming> {
        let most = (more + 1) * PAGE - PADDED + self.hdr_len;
        let taken = if len > most {
            Err(DropReason::VirtioRxLength)
        } else {
            self.stats.bytes += u64::from(len - self.hdr_len);
            self.big_packet(&buf, len - self.hdr_len)
        };
        self.queue.put(buf);
        taken.inspect_err(|_| self.stats.drops += 1)
    }

    fn big_packet(&mut self, buf: &RxBuf, len: u32) -> Taken<Incoming> {
        let (_, header) = self.header(buf);
        let first = len.min(PAGE - PADDED);
        let mut building =
            self.start(Part { page: buf.page, offset: PADDED, len: first }, PADDED, PAGE, len)?;
        let (mut rest, mut page) = (len - first, self.queue.arena.after(buf.page));
        while rest > 0 && page != NONE {
            let n = rest.min(PAGE);
            building = self.append(building, Part { page, offset: 0, len: n })?;
            rest -= n;
            page = self.queue.arena.after(page);
        }
        let packet = self.finish(building)?;
        Ok(Incoming { packet, header })
    }

    /// Kernel: `drivers/net/virtio_net.c receive_mergeable, v6.18`
    #[doc(alias = "receive_mergeable")]
    fn mergeable(&mut self, buf: RxBuf, len: u32) -> Taken<Incoming> {
        let (bytes, header) = self.header(&buf);
        let mut num_buf = i32::from(header.num_buffers);
        self.stats.bytes += u64::from(len - self.hdr_len);
        let taken = if len > buf.room() {
            self.stats.rx_length_errors += 1;
            Err((DropReason::VirtioRxLength, Rest::Free))
        } else if let Some(frags) = self.program {
            let taken = if header.is_offloaded() {
                Err(DropReason::VirtioRxOffloaded)
            } else {
                self.mergeable_xdp(&buf, len, &bytes, &mut num_buf, frags)
            };
            taken.map_err(|reason| {
                self.stats.xdp_drops += 1;
                (reason, Rest::Free)
            })
        } else {
            self.mergeable_plain(&buf, len, &mut num_buf)
        };
        self.queue.put(buf);
        match taken {
            Ok(packet) => Ok(Incoming { packet, header }),
            Err((reason, rest)) => {
                if rest == Rest::Free {
                    self.free_rest(num_buf);
                }
                self.stats.drops += 1;
                Err(reason)
            }
        }
    }

    /// Takes back the other buffers of a packet that is lost.
    ///
    /// Kernel: `drivers/net/virtio_net.c mergeable_buf_free, v6.18`
    #[doc(alias = "mergeable_buf_free")]
    fn free_rest(&mut self, num_buf: i32) {
        for _ in 1..num_buf.max(1) {
            let Some((buf, len)) = self.queue.get_buf() else {
                self.stats.rx_length_errors += 1;
                return;
            };
            self.stats.bytes += u64::from(len);
            self.queue.put(buf);
        }
    }

    /// A packet for a program: linear, or with fragments if it takes them.
    ///
    /// Kernel: `drivers/net/virtio_net.c mergeable_xdp_get_buf, v6.18`
    #[doc(alias = "mergeable_xdp_get_buf")]
    fn mergeable_xdp(
        &mut self,
        buf: &RxBuf,
        len: u32,
        header: &[u8],
        num_buf: &mut i32,
        frags: Frags,
    ) -> Taken<Packet> {
        let in_place = buf.headroom >= HEADROOM && (*num_buf == 1 || frags == Frags::Yes);
        if !in_place && frags == Frags::No {
            return self.linearize(buf, len, header, num_buf);
        }
        let frame_sz = if in_place { buf.truesize } else { PAGE };
        if len + MERGEABLE_ROOM > PAGE {
            return Err(DropReason::VirtioRxNotLinear);
        }
        let frame = self.page()?;
        frame.bytes().copy_from(HEADROOM as usize, &header[..self.hdr_len as usize]);
        self.copy(buf.page, self.hdr_len, len - self.hdr_len, &frame, HEADROOM + self.hdr_len);
        let mut packet = self.packet(frame, frame_sz, HEADROOM + self.hdr_len, len - self.hdr_len)?;
        match self.add_frags(&mut packet, num_buf) {
            Ok(()) => Ok(packet),
            Err(reason) => {
                self.pool.put_packet(packet);
                Err(reason)
            }
        }
    }

    /// Kernel: `drivers/net/virtio_net.c virtnet_build_xdp_buff_mrg, v6.18`
    #[doc(alias = "virtnet_build_xdp_buff_mrg")]
    fn add_frags(&mut self, packet: &mut Packet, num_buf: &mut i32) -> Taken<()> {
        if *num_buf == 0 {
            return Ok(());
        }
        if *num_buf > MAX_SKB_FRAGS as i32 + 1 {
            return Err(DropReason::VirtioRxTooManyBuffers);
        }
        loop {
            *num_buf -= 1;
            if *num_buf <= 0 {
                return Ok(());
            }
            let Some((buf, len)) = self.queue.get_buf() else {
                self.stats.rx_length_errors += 1;
                return Err(DropReason::VirtioRxMissing);
            };
            self.stats.bytes += u64::from(len);
            let frag = if len > buf.room() || buf.truesize > PAGE {
                self.stats.rx_length_errors += 1;
                Err(DropReason::VirtioRxLength)
            } else {
                self.frag(&buf, len)
            };
            self.queue.put(buf);
            // The device may say that it wrote nothing; then there is nothing to add.
            let Some(frag) = frag? else { continue };
            if let Err((_, frag)) = packet.push_frag(frag) {
                self.pool.put(frag.into_frame());
                return Err(DropReason::VirtioRxTooManyBuffers);
            }
        }
    }

    fn frag(&mut self, buf: &RxBuf, len: u32) -> Taken<Option<Frag>> {
        if len == 0 {
            return Ok(None);
        }
        let frame = self.page()?;
        self.copy(buf.page, 0, len, &frame, buf.headroom);
        Ok(Some(Frag::new(frame, buf.headroom, len).expect("no longer than the room of a buffer")))
    }

    /// All buffers of a packet in one page.
    ///
    /// Kernel: `drivers/net/virtio_net.c xdp_linearize_page, v6.18`
    #[doc(alias = "xdp_linearize_page")]
    fn linearize(&mut self, buf: &RxBuf, len: u32, header: &[u8], num_buf: &mut i32) -> Taken<Packet> {
        if HEADROOM + len + TAILROOM > PAGE {
            return Err(DropReason::VirtioRxNotLinear);
        }
        let frame = self.page()?;
        frame.bytes().copy_from(HEADROOM as usize, &header[..self.hdr_len as usize]);
        self.copy(buf.page, self.hdr_len, len - self.hdr_len, &frame, HEADROOM + self.hdr_len);
        let mut end = HEADROOM + len;
        loop {
            *num_buf -= 1;
            if *num_buf == 0 {
                break;
            }
            if let Err(reason) = self.linearize_more(&frame, &mut end) {
                self.pool.put(frame);
                return Err(reason);
            }
        }
        let start = HEADROOM + self.hdr_len;
        self.packet(frame, PAGE, start, end - start)
    }

    fn linearize_more(&mut self, frame: &Frame, end: &mut u32) -> Taken<()> {
        let (buf, len) = self.queue.get_buf().ok_or(DropReason::VirtioRxMissing)?;
        let taken = if len > buf.room() {
            self.stats.rx_length_errors += 1;
            Err(DropReason::VirtioRxLength)
        } else if *end + len + TAILROOM > PAGE {
            Err(DropReason::VirtioRxNotLinear)
        } else {
            self.copy(buf.page, 0, len, frame, *end);
            *end += len;
            Ok(())
        };
        self.queue.put(buf);
        taken
    }

    /// A packet for the stack.
    fn mergeable_plain(
        &mut self,
        buf: &RxBuf,
        len: u32,
        num_buf: &mut i32,
    ) -> Result<Packet, (DropReason, Rest)> {
        let free = |reason| (reason, Rest::Free);
        let data_len = len - self.hdr_len;
        let part = Part { page: buf.page, offset: self.hdr_len, len: data_len };
        let before = buf.headroom + self.hdr_len;
        let mut building = self.start(part, before, buf.truesize, data_len).map_err(free)?;
        loop {
            *num_buf -= 1;
            if *num_buf == 0 {
                break;
            }
            let Some((buf, len)) = self.queue.get_buf() else {
                self.stats.rx_length_errors += 1;
                self.abandon(building);
                return Err((DropReason::VirtioRxMissing, Rest::Gone));
            };
            self.stats.bytes += u64::from(len);
            let appended = if len > buf.room() {
                self.stats.rx_length_errors += 1;
                self.abandon(building);
                Err(DropReason::VirtioRxLength)
            } else {
                self.append(building, Part { page: buf.page, offset: 0, len })
            };
            self.queue.put(buf);
            building = appended.map_err(free)?;
        }
        let packet = self.finish(building).map_err(free)?;
        self.queue.note_len(packet.total_len());
        Ok(packet)
    }

    /// Starts an skb: around the buffer if the packet is long and there is room behind it, else a copy of the
    /// packet or of its Ethernet header.
    ///
    /// Kernel: `drivers/net/virtio_net.c page_to_skb, v6.18`
    #[doc(alias = "page_to_skb")]
    fn start(&mut self, part: Part, before: u32, truesize: u32, len: u32) -> Taken<Building> {
        let frame = self.page()?;
        let around = len > GOOD_COPY_LEN && before + len + TAILROOM <= truesize && part.len == len;
        let (frame_sz, headroom, linear) = if around {
            (truesize, before, len)
        } else if len <= GOOD_COPY_LEN {
            (COPY_FRAME_SZ, COPY_HEADROOM, len)
        } else {
            (COPY_FRAME_SZ, COPY_HEADROOM, ETH_HLEN as u32)
        };
        self.copy(part.page, part.offset, linear, &frame, headroom);
        let packet = self.packet(frame, frame_sz, headroom, linear)?;
        let rest = Part { page: part.page, offset: part.offset + linear, len: part.len - linear };
        self.append(Building { packet, tail: None }, rest)
    }

    /// Adds bytes behind, in pages that are filled one after the other.
    fn append(&mut self, mut building: Building, part: Part) -> Taken<Building> {
        let mut done = 0;
        while done < part.len {
            let (frame, used) = match building.tail.take() {
                Some(tail) => tail,
                None => match self.page() {
                    Ok(frame) => (frame, 0),
                    Err(reason) => {
                        self.abandon(building);
                        return Err(reason);
                    }
                },
            };
            let n = (part.len - done).min(PAGE - used);
            self.copy(part.page, part.offset + done, n, &frame, used);
            done += n;
            building.tail = Some((frame, used + n));
            if used + n == PAGE {
                building = self.close_page(building)?;
            }
        }
        Ok(building)
    }

    /// Makes a fragment of the page that is being filled.
    fn close_page(&mut self, mut building: Building) -> Taken<Building> {
        let Some((frame, used)) = building.tail.take() else { return Ok(building) };
        let frag = Frag::new(frame, 0, used).expect("within a page, and not empty");
        match building.packet.push_frag(frag) {
            Ok(()) => Ok(building),
            Err((_, frag)) => {
                self.pool.put(frag.into_frame());
                self.abandon(building);
                Err(DropReason::VirtioRxTooManyBuffers)
            }
        }
    }

    fn finish(&mut self, building: Building) -> Taken<Packet> {
        self.close_page(building).map(|b| b.packet)
    }

    fn abandon(&mut self, building: Building) {
        if let Some((frame, _)) = building.tail {
            self.pool.put(frame);
        }
        self.pool.put_packet(building.packet);
    }
}

/// What becomes of the other buffers of a lost packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rest {
    Free,
    /// There are none.
    Gone,
}

/// Bytes in a page of the device's.
#[derive(Clone, Copy)]
struct Part {
    page: u32,
    offset: u32,
    len: u32,
}

/// An skb that is not complete.
struct Building {
    packet: Packet,
    /// The page that is being filled, and how far it is.
    tail: Option<(Frame, u32)>,
}
