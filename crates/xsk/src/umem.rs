//! [`Umem`]: the memory of packets, and the ledger of who has which piece of it.
//!
//! Each chunk is in one place: free, with the application as a [`Frame`], or with the other side, to be
//! received into or to be sent. The ledger decides what a descriptor that comes back may become: one for a
//! chunk that is not with the other side makes no frame, whoever wrote it.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};

use mem::{SharedMem, SharedSlice, SpinLock};
use uapi::Errno;
use uapi::if_xdp::*;

use crate::frame::Frame;
use crate::port::RawSocket;
use crate::{SetupError, Step};

/// How memory is divided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UmemConfig {
    /// Number of chunks, each for one frame.
    pub frames: u32,
    /// Bytes of a chunk: 2048 to 4096, a power of two unless `unaligned`.
    pub frame_size: u32,
    /// Bytes that stay free before each received packet, beside the 256 of XDP.
    pub headroom: u32,
    /// Chunks of any size, which may cross pages.
    pub unaligned: bool,
    /// Bytes of metadata before each packet to send: a multiple of 8 below 256; `None` for none.
    pub tx_metadata_len: Option<u32>,
    /// Checksums that TX metadata asks for are computed in software; copy mode only.
    pub tx_sw_csum: bool,
}

impl Default for UmemConfig {
    /// libxdp's: 4096 frames of 4096 bytes.
    fn default() -> Self {
        Self {
            frames: 4096,
            frame_size: 4096,
            headroom: 0,
            unaligned: false,
            tx_metadata_len: None,
            tx_sw_csum: false,
        }
    }
}

/// Where chunks are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FrameCounts {
    /// Free, for [`Umem::alloc`].
    pub free: u32,
    /// With the application, as frames.
    pub held: u32,
    /// Given to a fill ring and not yet received.
    pub filled: u32,
    /// Given to a TX ring and not yet completed.
    pub sent: u32,
}

/// Where a chunk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Place {
    Free,
    Held,
    Filled,
    Sent,
}

/// A socket that was bound with this memory, for others to share with.
pub(crate) struct Bound {
    pub(crate) socket: Weak<dyn RawSocket>,
    pub(crate) ifindex: u32,
    pub(crate) queue: u32,
}

/// Memory for packets. Sockets and frames borrow it, so it outlives them.
///
/// Kernel: `net/xdp/xdp_umem.c struct xdp_umem, v6.18`
#[doc(alias = "xsk_umem")]
pub struct Umem {
    memory: Arc<SharedMem>,
    config: UmemConfig,
    /// Of aligned chunks: bits of the offset within one.
    shift: u32,
    places: Box<[AtomicU8]>,
    free: SpinLock<Vec<u32>>,
    pub(crate) bound: Mutex<Vec<Bound>>,
}

impl Umem {
    /// Memory of this process.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a division that the kernel would refuse, `ENOMEM`.
    pub fn new(config: UmemConfig) -> Result<Self, SetupError> {
        let memory = SharedMem::anonymous(bytes(&config)?).map_err(|_| failed(Errno::ENOMEM))?;
        Self::over(Arc::new(memory), config)
    }

    /// Memory that an engine in another process can map, too ([`crate::remote::RemoteHome`]).
    ///
    /// # Errors
    ///
    /// As [`Umem::new`].
    pub fn shared(config: UmemConfig) -> Result<Self, SetupError> {
        let (memory, _) = SharedMem::memfd(bytes(&config)?).map_err(|_| failed(Errno::ENOMEM))?;
        Self::over(Arc::new(memory), config)
    }

    /// Memory that the caller has made, e.g. a memfd for another process.
    ///
    /// # Errors
    ///
    /// As [`Umem::new`]; `EINVAL` also if it is too small.
    pub fn over(memory: Arc<SharedMem>, config: UmemConfig) -> Result<Self, SetupError> {
        let sizes = 2048..=4096;
        let fits = bytes(&config)? <= memory.len();
        let meta = config.tx_metadata_len.unwrap_or(0);
        let meta_fits = meta < 256 && meta.is_multiple_of(8);
        let pow2 = config.unaligned || config.frame_size.is_power_of_two();
        if !sizes.contains(&config.frame_size) || !fits || !meta_fits || !pow2 || config.frames == 0 {
            return Err(failed(Errno::EINVAL));
        }
        let places = (0..config.frames).map(|_| AtomicU8::new(Place::Free as u8)).collect();
        Ok(Self {
            memory,
            config,
            shift: config.frame_size.trailing_zeros(),
            places,
            // The lowest are given out first.
            free: SpinLock::new((0..config.frames).rev().collect()),
            bound: Mutex::new(Vec::new()),
        })
    }

    /// How it is divided.
    #[must_use]
    #[inline]
    pub fn config(&self) -> &UmemConfig {
        &self.config
    }

    /// The memory.
    #[must_use]
    pub fn memory(&self) -> &Arc<SharedMem> {
        &self.memory
    }

    /// A frame without a packet, for one to send or to give to a fill ring; `None` if none is free.
    #[must_use]
    #[inline]
    pub fn alloc(&self) -> Option<Frame<'_>> {
        let chunk = self.free.with(Vec::pop)?;
        Some(self.hold(chunk))
    }

    /// Up to `n` frames at once.
    pub fn alloc_batch(&self, n: usize) -> impl Iterator<Item = Frame<'_>> {
        let chunks = self.free.with(|free| free.split_off(free.len().saturating_sub(n)));
        chunks.into_iter().rev().map(|chunk| self.hold(chunk))
    }

    /// Where chunks are now. Counts of a moment, if other threads use the memory.
    #[must_use]
    pub fn counts(&self) -> FrameCounts {
        let mut counts = FrameCounts::default();
        for place in &self.places {
            match place.load(Relaxed) {
                0 => counts.free += 1,
                1 => counts.held += 1,
                2 => counts.filled += 1,
                _ => counts.sent += 1,
            }
        }
        counts
    }

    /// Takes back every chunk. Nobody else has one: the exclusive borrow says that no socket and no frame of
    /// this memory is left, and the kernel gives nothing back once its sockets are closed.
    pub fn reclaim(&mut self) {
        let frames = self.config.frames;
        self.places.iter().for_each(|p| p.store(Place::Free as u8, Relaxed));
        self.free.with(|free| *free = (0..frames).rev().collect());
        self.bound.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
    }

    #[inline]
    fn hold(&self, chunk: u32) -> Frame<'_> {
        self.set_place(chunk, Place::Held);
        Frame::new(self, chunk, self.config.tx_metadata_len.unwrap_or(0), 0, 0)
    }

    #[inline]
    pub(crate) fn set_place(&self, chunk: u32, place: Place) {
        self.places[chunk as usize].store(place as u8, Relaxed);
    }

    #[inline]
    pub(crate) fn give_back(&self, chunk: u32) {
        self.set_place(chunk, Place::Free);
        self.free.with(|free| free.push(chunk));
    }

    /// Gives many back under one lock.
    pub(crate) fn give_back_all(&self, chunks: impl Iterator<Item = u32>) -> u32 {
        self.free.with(|free| {
            let before = free.len();
            free.extend(chunks.inspect(|&chunk| self.set_place(chunk, Place::Free)));
            (free.len() - before) as u32
        })
    }

    /// The bytes of a chunk from an offset, which the caller has kept within it.
    #[inline]
    pub(crate) fn bytes(&self, chunk: u32, offset: u32, len: u32) -> SharedSlice<'_> {
        let at = self.base(chunk) as usize + offset as usize;
        let slice = self.memory.view().get(at, len as usize);
        slice.expect("a frame lies within its chunk, and chunks within the memory")
    }

    /// Where a chunk starts.
    #[inline]
    pub(crate) fn base(&self, chunk: u32) -> u64 {
        u64::from(chunk) * u64::from(self.config.frame_size)
    }

    /// The chunk that an address lies in, and where; `None` outside.
    #[inline]
    fn locate(&self, addr: u64) -> Option<(u32, u32)> {
        let size = u64::from(self.config.frame_size);
        let (chunk, offset) = if self.config.unaligned {
            let at =
                (addr & XSK_UNALIGNED_BUF_ADDR_MASK).checked_add(addr >> XSK_UNALIGNED_BUF_OFFSET_SHIFT)?;
            (at / size, at % size)
        } else {
            (addr >> self.shift, addr & (size - 1))
        };
        (chunk < u64::from(self.config.frames)).then_some((chunk as u32, offset as u32))
    }

    /// The frame of a received packet; `None` if the chunk was not given to a fill ring, or the packet does
    /// not lie within it.
    #[inline]
    pub(crate) fn received(&self, desc: XdpDesc) -> Option<Frame<'_>> {
        let (chunk, offset) = self.locate(desc.addr)?;
        let end = u64::from(offset) + u64::from(desc.len);
        if end > self.config.frame_size.into() || !self.move_place(chunk, Place::Filled, Place::Held) {
            return None;
        }
        Some(Frame::new(self, chunk, offset, desc.len, desc.options))
    }

    /// The chunk of a completed packet; `None` if it was not given to a TX ring.
    ///
    /// Completions lose the lowest bit of the address, so that a packet at the start of a chunk with an odd address
    /// seems to be in the last byte of the one before, where no packet can be.
    ///
    /// Kernel: `net/xdp/xsk.c xsk_skb_destructor_set_addr, v6.18`
    #[inline]
    pub(crate) fn completed(&self, addr: u64, to: Place) -> Option<(u32, u32)> {
        let (mut chunk, mut offset) = self.locate(addr)?;
        if offset + 1 == self.config.frame_size && chunk + 1 < self.config.frames {
            (chunk, offset) = (chunk + 1, 0);
        }
        self.move_place(chunk, Place::Sent, to).then_some((chunk, offset))
    }

    /// Not one atomic step: a peer that gives one chunk to two sockets at the same time can make two frames
    /// of it. Both may be used; what is in them is then anybody's guess, as with any peer that writes where
    /// it should not.
    #[inline]
    fn move_place(&self, chunk: u32, from: Place, to: Place) -> bool {
        let place = &self.places[chunk as usize];
        let ok = place.load(Relaxed) == from as u8;
        if ok {
            place.store(to as u8, Relaxed);
        }
        ok
    }

    /// What the memory is registered as.
    #[must_use]
    pub fn registration(&self) -> XdpUmemReg {
        let flag = |on, bit| if on { bit } else { 0 };
        XdpUmemReg {
            addr: self.memory.addr(),
            len: u64::from(self.config.frames) * u64::from(self.config.frame_size),
            chunk_size: self.config.frame_size,
            headroom: self.config.headroom,
            flags: flag(self.config.unaligned, XDP_UMEM_UNALIGNED_CHUNK_FLAG)
                | flag(self.config.tx_sw_csum, XDP_UMEM_TX_SW_CSUM)
                | flag(self.config.tx_metadata_len.is_some(), XDP_UMEM_TX_METADATA_LEN),
            tx_metadata_len: self.config.tx_metadata_len.unwrap_or(0),
        }
    }
}

fn failed(errno: Errno) -> SetupError {
    SetupError { step: Step::Memory, errno }
}

fn bytes(config: &UmemConfig) -> Result<usize, SetupError> {
    (config.frames as usize).checked_mul(config.frame_size as usize).ok_or(failed(Errno::EINVAL))
}

impl std::fmt::Debug for Umem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Umem").field("config", &self.config).field("counts", &self.counts()).finish()
    }
}

#[cfg(test)]
mod tests;
