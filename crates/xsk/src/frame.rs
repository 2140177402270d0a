//! [`Frame`]: the right to one chunk of a [`Umem`], with its bounds.

use mem::SharedSlice;
use uapi::if_xdp::{XDP_PKT_CONTD, XdpDesc};

use crate::umem::{Place, Umem};

/// More bytes than a frame has room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{wanted} bytes where there is room for {room}")]
pub struct TooLong {
    /// Bytes that were wanted.
    pub wanted: usize,
    /// Bytes that there are.
    pub room: usize,
}

/// A chunk that is the application's now, with a packet or room for one. Dropping it makes it free.
///
/// Its bytes are seen as a [`SharedSlice`], copied in and out: the memory stays mapped by the other side, and
/// only its good manners keep it from writing there.
#[must_use]
pub struct Frame<'u> {
    umem: &'u Umem,
    chunk: u32,
    /// Where the packet starts within the chunk.
    offset: u32,
    len: u32,
    /// Of the descriptor that it came in.
    options: u32,
}

impl<'u> Frame<'u> {
    /// The caller has put the chunk into its hands in the ledger, and checked the bounds.
    #[inline]
    pub(crate) fn new(umem: &'u Umem, chunk: u32, offset: u32, len: u32, options: u32) -> Self {
        Self { umem, chunk, offset, len, options }
    }

    /// The memory that it is of.
    #[must_use]
    #[inline]
    pub fn umem(&self) -> &'u Umem {
        self.umem
    }

    /// Bytes of the packet.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is no packet.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes from the start of the packet to the end of the chunk.
    #[must_use]
    #[inline]
    pub fn capacity(&self) -> usize {
        (self.umem.config().frame_size - self.offset) as usize
    }

    /// Bytes before the packet.
    #[must_use]
    #[inline]
    pub fn headroom(&self) -> usize {
        self.offset as usize
    }

    /// Whether the packet goes on in the next frame of the ring (`XDP_PKT_CONTD`).
    #[must_use]
    #[inline]
    pub fn continues(&self) -> bool {
        self.options & XDP_PKT_CONTD != 0
    }

    /// The packet.
    #[must_use]
    #[inline]
    pub fn data(&self) -> SharedSlice<'_> {
        self.umem.bytes(self.chunk, self.offset, self.len)
    }

    /// The last `n` bytes before the packet: metadata that the XDP program has put there.
    #[must_use]
    pub fn metadata(&self, n: usize) -> Option<SharedSlice<'_>> {
        let n = u32::try_from(n).ok()?;
        Some(self.umem.bytes(self.chunk, self.offset.checked_sub(n)?, n))
    }

    /// Sets the length of the packet; what comes in is what the chunk held.
    ///
    /// # Errors
    ///
    /// [`TooLong`], and nothing is changed.
    #[inline]
    pub fn set_len(&mut self, len: usize) -> Result<(), TooLong> {
        if len > self.capacity() {
            return Err(TooLong { wanted: len, room: self.capacity() });
        }
        self.len = len as u32;
        Ok(())
    }

    /// Makes these bytes the packet.
    ///
    /// # Errors
    ///
    /// [`TooLong`], and nothing is changed.
    #[inline]
    pub fn put(&mut self, packet: &[u8]) -> Result<(), TooLong> {
        self.set_len(packet.len())?;
        self.data().copy_from(0, packet);
        Ok(())
    }

    /// Moves the start of the packet: `delta` below 0 makes it longer at the front.
    ///
    /// # Errors
    ///
    /// [`TooLong`] if there is not as much headroom, or not as much packet; nothing is changed.
    pub fn adjust_head(&mut self, delta: i32) -> Result<(), TooLong> {
        let too_long = |room| TooLong { wanted: delta.unsigned_abs() as usize, room };
        if delta >= 0 {
            let n = delta as u32;
            self.len = self.len.checked_sub(n).ok_or(too_long(self.len as usize))?;
            self.offset += n;
        } else {
            let n = delta.unsigned_abs();
            self.offset = self.offset.checked_sub(n).ok_or(too_long(self.offset as usize))?;
            self.len += n;
        }
        Ok(())
    }

    /// Reads part of the packet; `None` if it is shorter.
    #[must_use]
    #[inline]
    pub fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let part = self.data().get(offset, N)?;
        let mut bytes = [0; N];
        part.copy_to(0, &mut bytes);
        Some(bytes)
    }

    /// Overwrites part of the packet.
    ///
    /// # Errors
    ///
    /// [`TooLong`] if it does not lie within, and nothing is changed.
    #[inline]
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), TooLong> {
        match self.data().get(offset, bytes.len()) {
            Some(part) => {
                part.copy_from(0, bytes);
                Ok(())
            }
            None => Err(TooLong { wanted: offset.saturating_add(bytes.len()), room: self.len() }),
        }
    }

    /// The address for a fill ring; the chunk is the other side's from now on.
    #[inline]
    pub(crate) fn into_filled(self) -> u64 {
        let frame = std::mem::ManuallyDrop::new(self);
        frame.umem.set_place(frame.chunk, Place::Filled);
        frame.umem.base(frame.chunk)
    }

    /// The descriptor for a TX ring; the chunk is the other side's from now on.
    #[inline]
    pub(crate) fn into_sent(self, options: u32) -> XdpDesc {
        let frame = std::mem::ManuallyDrop::new(self);
        frame.umem.set_place(frame.chunk, Place::Sent);
        XdpDesc { addr: frame.umem.base(frame.chunk) + u64::from(frame.offset), len: frame.len, options }
    }
}

impl Drop for Frame<'_> {
    #[inline]
    fn drop(&mut self) {
        self.umem.give_back(self.chunk);
    }
}

impl std::fmt::Debug for Frame<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame(chunk {}, {} bytes at {})", self.chunk, self.len, self.offset)
    }
}
