//! Sending: descriptors of the TX ring become packets of the device, copied.
//!
//! Kernel: `net/xdp/xsk.c __xsk_generic_xmit, v6.18`

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use mem::SharedSlice;
use mem::spsc::Consumer;
use uapi::Errno;
use uapi::if_xdp::*;
use uapi::xdp::MAX_SKB_FRAGS;

use super::pool::Pool;
use super::socket::Link;
use super::umem::EngineUmem;
use super::{Xmit, XskSocket, locked};

/// Descriptors that one call handles, unless told otherwise.
pub(super) const TX_BATCH_SIZE: u32 = 32;
/// Bytes of packets that may be on their way (`sk_sndbuf`).
const SNDBUF: u64 = 212_992;
/// What a packet counts beside its bytes (`SKB_TRUESIZE`).
const SKB_OVERHEAD: u64 = 640;

/// The TX ring and what one call leaves to the next.
pub(super) struct TxSide {
    pub(super) ring: Consumer<XdpDesc>,
    pub(super) max_budget: u32,
    pub(super) invalid: u64,
    /// How often the ring was found empty.
    pub(super) empty: u64,
    /// A packet whose end has not come yet.
    partial: Option<Building>,
    /// Descriptors up to the end of a broken packet are given back unsent.
    drain: bool,
}

/// A packet that is being built.
#[derive(Default)]
struct Building {
    data: Vec<u8>,
    parts: Vec<u32>,
    addrs: Vec<u64>,
    bytes: u64,
    metadata: Metadata,
}

/// A packet of a socket for its device. Dropping it completes its descriptors.
#[derive(Debug)]
pub struct TxPacket {
    /// The packet.
    pub data: Vec<u8>,
    /// Lengths of its parts: one for each descriptor.
    pub parts: Vec<u32>,
    /// A checksum that the device is to fill in: where the sum starts, and where it goes counted from there.
    pub checksum: Option<(u16, u16)>,
    /// When to send, if it says.
    pub launch_time_ns: Option<u64>,
    /// Goes with the packet to its end.
    pub completion: Completion,
}

/// What is due when a packet is done.
pub struct Completion {
    socket: Arc<XskSocket>,
    addrs: Vec<u64>,
    bytes: u64,
    /// Where the time of sending goes.
    timestamp_at: Option<u64>,
}

/// A packet could not be built.
enum BuildError {
    /// More parts than a packet may have.
    Overflow,
    /// The application may try again.
    Retry(Errno),
    /// Its metadata is wrong: the address is given back although the descriptor is not taken.
    Metadata,
}

impl TxSide {
    pub(super) fn new(ring: Consumer<XdpDesc>) -> Self {
        Self { ring, max_budget: TX_BATCH_SIZE, invalid: 0, empty: 0, partial: None, drain: false }
    }

    /// Kernel: `net/xdp/xsk.c xsk_tx_writeable, v6.18`
    pub(super) fn is_writable(&self) -> bool {
        self.ring.present() <= self.ring.capacity() / 2
    }
}

impl XskSocket {
    /// Sends what is in the TX ring, up to the budget.
    ///
    /// Kernel: `net/xdp/xsk.c xsk_generic_xmit, v6.18`
    #[doc(alias = "xsk_generic_xmit")]
    pub(super) fn generic_xmit(&self, link: &Link) -> Result<(), Errno> {
        let mut tx = locked(&self.tx);
        let Some(tx) = tx.as_mut() else { return Ok(()) };
        if u32::from(link.queue) >= link.device.queues().1 {
            return Ok(());
        }
        link.pool.watch(|w, _| w.kicked());
        let result = self.xmit_batch(link, tx);
        tx.ring.release();
        result
    }

    fn xmit_batch(&self, link: &Link, tx: &mut TxSide) -> Result<(), Errno> {
        let pool = &link.pool;
        let mut left = tx.max_budget;
        loop {
            let Some(desc) = tx.ring.peek() else {
                tx.empty += 1;
                return Ok(());
            };
            if !pool.umem.validate_desc(&desc) {
                return self.give_back_invalid(pool, tx, desc);
            }
            if left == 0 {
                return Err(Errno::EAGAIN);
            }
            left -= 1;
            let more = desc.options & XDP_PKT_CONTD != 0;
            if tx.drain {
                if !pool.post_completion(desc.addr) {
                    return Err(Errno::EAGAIN);
                }
                tx.invalid += 1;
                tx.ring.take(1);
                tx.drain = more;
                continue;
            }
            if !pool.reserve_completion() {
                let entries = pool.completion_entries();
                pool.watch(|w, to| w.completions_not_taken(to, entries));
                return Err(Errno::EAGAIN);
            }
            match self.build(pool, tx, &desc) {
                Ok(()) => {
                    let offset = pool.umem.offset_of(desc.addr);
                    pool.watch(|w, to| w.sending(to, offset, tx.ring.position()));
                    tx.ring.take(1);
                }
                Err(BuildError::Overflow) => {
                    tx.invalid += self.abandon(pool, tx) + 1;
                    pool.complete(std::iter::once(desc.addr));
                    tx.ring.take(1);
                    tx.drain = more;
                    continue;
                }
                Err(BuildError::Metadata) => {
                    pool.complete(std::iter::once(desc.addr));
                    return Err(Errno::EINVAL);
                }
                Err(BuildError::Retry(errno)) => {
                    pool.cancel_completion();
                    return Err(errno);
                }
            }
            if !more && let Some(packet) = tx.partial.take() {
                Self::hand_over(link, tx, self.finish(packet))?;
            }
        }
    }

    fn hand_over(link: &Link, tx: &mut TxSide, packet: TxPacket) -> Result<(), Errno> {
        match link.device.xmit(link.queue, packet) {
            Xmit::Sent => Ok(()),
            Xmit::Dropped => Err(Errno::EBUSY),
            // Its descriptors are read again next time, and yet completed, as the kernel does.
            Xmit::Busy(packet) => {
                tx.ring.cancel_n(packet.parts.len() as u32);
                Err(Errno::EAGAIN)
            }
        }
    }

    /// An invalid descriptor goes back unsent, with what was built of its packet; the call ends there.
    fn give_back_invalid(&self, pool: &Pool, tx: &mut TxSide, desc: XdpDesc) -> Result<(), Errno> {
        pool.watch(|w, to| w.bad_descriptor(to, &pool.umem, &desc, tx.ring.position()));
        let more = desc.options & XDP_PKT_CONTD != 0;
        let drain = tx.partial.is_some() || tx.drain || more;
        tx.invalid += self.abandon(pool, tx);
        if !pool.post_completion(desc.addr) {
            tx.drain = drain;
            return Err(Errno::EAGAIN);
        }
        tx.invalid += 1;
        tx.ring.take(1);
        tx.drain = more;
        Ok(())
    }

    /// Adds the bytes of a descriptor to the packet at hand, or begins one.
    ///
    /// Kernel: `net/xdp/xsk.c xsk_build_skb, v6.18`
    #[doc(alias = "xsk_build_skb")]
    fn build(&self, pool: &Pool, tx: &mut TxSide, desc: &XdpDesc) -> Result<(), BuildError> {
        let umem = &pool.umem;
        let offset = umem.offset_of(desc.addr);
        let Some(bytes) = umem.bytes(offset, desc.len.into()) else {
            return Err(BuildError::Retry(Errno::EFAULT));
        };
        let size = u64::from(desc.len) + SKB_OVERHEAD;
        if let Some(packet) = &mut tx.partial {
            // The linear part and 17 more; the last of them must be the end.
            if packet.parts.len() == MAX_SKB_FRAGS && desc.options & XDP_PKT_CONTD != 0 {
                return Err(BuildError::Overflow);
            }
            packet.add(desc, bytes, size);
        } else {
            if self.wmem.load(Relaxed) >= SNDBUF {
                return Err(BuildError::Retry(Errno::EAGAIN));
            }
            let asks = desc.options & XDP_TX_METADATA != 0;
            let metadata = if asks { metadata(umem, offset, desc.len)? } else { Metadata::default() };
            let mut packet = Building { metadata, ..Building::default() };
            packet.add(desc, bytes, size);
            if umem.tx_sw_csum
                && let Some((start, at)) = packet.metadata.checksum.take()
            {
                fill_checksum(&mut packet.data, start.into(), at.into());
            }
            tx.partial = Some(packet);
        }
        self.wmem.fetch_add(size, Relaxed);
        Ok(())
    }

    /// A whole packet, whose descriptors are completed when it goes.
    fn finish(&self, packet: Building) -> TxPacket {
        let Building { data, parts, addrs, bytes, metadata } = packet;
        let Metadata { checksum, launch_time_ns, timestamp_at } = metadata;
        let completion = Completion { socket: self.this(), addrs, bytes, timestamp_at };
        TxPacket { data, parts, checksum, launch_time_ns, completion }
    }

    /// Gives back the descriptors of a packet that will not be whole; answers how many.
    fn abandon(&self, pool: &Pool, tx: &mut TxSide) -> u64 {
        let Some(packet) = tx.partial.take() else { return 0 };
        self.wmem.fetch_sub(packet.bytes, Relaxed);
        let n = packet.addrs.len() as u64;
        pool.complete(packet.addrs.into_iter());
        n
    }

    /// What is left when the socket is closed.
    pub(super) fn release_tx(&mut self) {
        let mut tx = std::mem::take(&mut self.tx);
        let tx = tx.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let (Some(tx), Some(link)) = (tx, self.link.get()) {
            self.abandon(&link.pool, tx);
        }
    }
}

impl TxPacket {
    /// Addresses of its descriptors, as the application gave them.
    #[must_use]
    pub fn descriptors(&self) -> &[u64] {
        &self.completion.addrs
    }
}

impl Building {
    fn add(&mut self, desc: &XdpDesc, bytes: SharedSlice<'_>, size: u64) {
        let at = self.data.len();
        self.data.resize(at + bytes.len(), 0);
        bytes.copy_to(0, &mut self.data[at..]);
        self.parts.push(desc.len);
        // The kernel keeps the first address in a pointer with a tag in its lowest bit, so that this bit is lost.
        self.addrs.push(if self.addrs.is_empty() { desc.addr & !1 } else { desc.addr });
        self.bytes += size;
    }
}

impl Drop for Completion {
    /// Kernel: `net/xdp/xsk.c xsk_destruct_skb, v6.18`
    fn drop(&mut self) {
        self.socket.wmem.fetch_sub(self.bytes, Relaxed);
        // A packet is only built by a bound socket, and stays with its pool when the device goes.
        let Some(link) = self.socket.link.get() else { return };
        if let Some(at) = self.timestamp_at.and_then(|at| link.pool.umem.bytes(at, 8)) {
            at.write_u64(0, (self.socket.host.clock_tai_ns)());
        }
        link.pool.complete(self.addrs.drain(..));
    }
}

impl std::fmt::Debug for Completion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Completion({:?})", self.addrs)
    }
}

/// What TX metadata asks for.
#[derive(Default)]
struct Metadata {
    checksum: Option<(u16, u16)>,
    launch_time_ns: Option<u64>,
    timestamp_at: Option<u64>,
}

/// Reads the metadata of a packet once, and checks it.
fn metadata(umem: &EngineUmem, offset: u64, len: u32) -> Result<Metadata, BuildError> {
    let meta_len = u64::from(umem.tx_metadata_len);
    let at = offset.checked_sub(meta_len).filter(|_| meta_len > 0).ok_or(BuildError::Metadata)?;
    let word = |i: u64| umem.bytes(at + i, 8).map_or(0, |b| b.read_u64(0));
    let (flags, request) = (word(0), word(8));
    let known = XDP_TXMD_FLAGS_TIMESTAMP | XDP_TXMD_FLAGS_CHECKSUM | XDP_TXMD_FLAGS_LAUNCH_TIME;
    if flags & !known != 0 {
        return Err(BuildError::Metadata);
    }
    let (start, csum_at) = (request as u16, (request >> 16) as u16);
    let checksum = (flags & XDP_TXMD_FLAGS_CHECKSUM != 0).then_some((start, csum_at));
    if checksum.is_some() && u32::from(start) + u32::from(csum_at) + 2 > len {
        return Err(BuildError::Metadata);
    }
    Ok(Metadata {
        checksum,
        launch_time_ns: (flags & XDP_TXMD_FLAGS_LAUNCH_TIME != 0).then(|| word(16)),
        timestamp_at: (flags & XDP_TXMD_FLAGS_TIMESTAMP != 0).then_some(at + 8),
    })
}

/// The Internet checksum from `start` to the end, written `at` bytes behind it.
///
/// Kernel: `net/core/dev.c skb_checksum_help, v6.18`
#[doc(alias = "skb_checksum_help")]
fn fill_checksum(data: &mut [u8], start: usize, at: usize) {
    let sum: u64 = data[start..]
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| low.into()))
        .sum();
    let folded = (0..4).fold(sum, |s, _| (s & 0xffff) + (s >> 16));
    let checksum = match !(folded as u16) {
        // No checksum and a checksum of 0 are not the same.
        0 => 0xffff,
        c => c,
    };
    data[start + at..start + at + 2].copy_from_slice(&checksum.to_be_bytes());
}
