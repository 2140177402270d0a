//! The four rings as an application sees them: frames go in and come out.

use mem::spsc::{Consumer, Producer};
use uapi::if_xdp::{XDP_PKT_CONTD, XDP_TX_METADATA, XdpDesc};

use crate::frame::Frame;
use crate::umem::{Place, Umem};

/// What the other side has done against the rules. The kernel does none of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Violations {
    /// Descriptors for chunks that were not with the other side, or that do not lie within their chunk.
    pub bad_descriptors: u64,
}

/// Frames to be received into, on their way to the kernel.
#[doc(alias = "xsk_ring_prod")]
#[derive(Debug)]
pub struct FillRing<'u> {
    umem: &'u Umem,
    ring: Producer<u64>,
}

/// Places reserved in a fill ring. What was pushed is submitted when it goes.
#[derive(Debug)]
pub struct FillBatch<'r, 'u> {
    ring: &'r mut FillRing<'u>,
    left: u32,
}

impl<'u> FillRing<'u> {
    pub(crate) fn new(umem: &'u Umem, ring: Producer<u64>) -> Self {
        Self { umem, ring }
    }

    /// Entries of the ring.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.ring.capacity()
    }

    /// Reserves `n` places, all or none.
    #[doc(alias = "xsk_ring_prod__reserve")]
    #[inline]
    pub fn reserve(&mut self, n: u32) -> Option<FillBatch<'_, 'u>> {
        (self.ring.free(n) == n).then_some(FillBatch { ring: self, left: n })
    }

    /// Reserves up to `n` places, as many as are free.
    #[inline]
    pub fn reserve_up_to(&mut self, n: u32) -> FillBatch<'_, 'u> {
        let left = self.ring.free(n);
        FillBatch { ring: self, left }
    }

    /// Gives up to `n` free frames of the memory to the ring; answers how many.
    pub fn refill(&mut self, n: u32) -> u32 {
        let umem = self.umem;
        let mut batch = self.reserve_up_to(n);
        let mut filled = 0;
        for frame in umem.alloc_batch(batch.left as usize) {
            batch.put(frame);
            filled += 1;
        }
        filled
    }

    /// Frames that the other side has not taken yet.
    #[must_use]
    #[inline]
    pub fn in_flight(&self) -> u32 {
        self.ring.in_flight()
    }

    /// Whether the driver sleeps until it is woken ([`crate::Socket::wake_rx`]).
    #[doc(alias = "xsk_ring_prod__needs_wakeup")]
    #[must_use]
    #[inline]
    pub fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

impl<'u> FillBatch<'_, 'u> {
    /// Places that are left.
    #[must_use]
    #[inline]
    pub fn left(&self) -> u32 {
        self.left
    }

    /// Puts a frame in. It comes back, dropped, if no place is left or it is of another memory.
    #[inline]
    pub fn push(&mut self, frame: Frame<'u>) {
        if self.left > 0 && std::ptr::eq(frame.umem(), self.ring.umem) {
            self.put(frame);
        }
    }

    #[inline]
    fn put(&mut self, frame: Frame<'u>) {
        self.left -= 1;
        let pushed = self.ring.ring.push(frame.into_filled());
        debug_assert!(pushed, "the place was reserved, and places do not become fewer");
    }

    /// Shows what was pushed to the other side.
    #[doc(alias = "xsk_ring_prod__submit")]
    #[inline]
    pub fn submit(self) {}
}

impl Drop for FillBatch<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        self.ring.ring.submit();
    }
}

/// Frames with packets that were received.
#[doc(alias = "xsk_ring_cons")]
#[derive(Debug)]
pub struct RxRing<'u> {
    umem: &'u Umem,
    ring: Consumer<XdpDesc>,
    violations: Violations,
}

/// Packets that wait in an RX ring, taken out one after the other. Those not taken when it goes stay.
#[derive(Debug)]
pub struct RxBatch<'r, 'u> {
    ring: &'r mut RxRing<'u>,
    left: u32,
}

impl<'u> RxRing<'u> {
    pub(crate) fn new(umem: &'u Umem, ring: Consumer<XdpDesc>) -> Self {
        Self { umem, ring, violations: Violations::default() }
    }

    /// Entries of the ring.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.ring.capacity()
    }

    /// Up to `n` frames that were received.
    #[doc(alias = "xsk_ring_cons__peek")]
    #[inline]
    pub fn peek(&mut self, n: u32) -> RxBatch<'_, 'u> {
        let left = self.ring.available(n);
        RxBatch { ring: self, left }
    }

    /// What the other side has done against the rules.
    #[must_use]
    pub fn violations(&self) -> Violations {
        self.violations
    }
}

impl<'u> RxBatch<'_, 'u> {
    /// Frames that are left.
    #[must_use]
    pub fn left(&self) -> u32 {
        self.left
    }

    /// Takes all frames of the next packet, if its end is there.
    pub fn next_packet(&mut self) -> Option<Vec<Frame<'u>>> {
        let contd = |i| self.ring.ring.read(i).is_some_and(|d: XdpDesc| d.options & XDP_PKT_CONTD != 0);
        let last = (0..self.left).find(|&i| !contd(i))?;
        let end = self.left - last - 1;
        let mut frames = Vec::with_capacity(last as usize + 1);
        while self.left > end {
            frames.extend(self.next());
        }
        Some(frames)
    }

    /// Gives the places of what was taken back to the other side.
    #[doc(alias = "xsk_ring_cons__release")]
    #[inline]
    pub fn release(self) {}
}

impl<'u> Iterator for RxBatch<'_, 'u> {
    type Item = Frame<'u>;

    #[inline]
    fn next(&mut self) -> Option<Frame<'u>> {
        while self.left > 0 {
            self.left -= 1;
            let desc = self.ring.ring.pop()?;
            match self.ring.umem.received(desc) {
                Some(frame) => return Some(frame),
                None => self.ring.violations.bad_descriptors += 1,
            }
        }
        None
    }
}

impl Drop for RxBatch<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        self.ring.ring.release();
    }
}

/// Frames with packets to send.
#[doc(alias = "xsk_ring_prod")]
#[derive(Debug)]
pub struct TxRing<'u> {
    umem: &'u Umem,
    ring: Producer<XdpDesc>,
}

/// Places reserved in a TX ring. What was pushed is submitted when it goes.
#[derive(Debug)]
pub struct TxBatch<'r, 'u> {
    ring: &'r mut TxRing<'u>,
    left: u32,
}

impl<'u> TxRing<'u> {
    pub(crate) fn new(umem: &'u Umem, ring: Producer<XdpDesc>) -> Self {
        Self { umem, ring }
    }

    /// Entries of the ring.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.ring.capacity()
    }

    /// Reserves `n` places, all or none.
    #[doc(alias = "xsk_ring_prod__reserve")]
    #[inline]
    pub fn reserve(&mut self, n: u32) -> Option<TxBatch<'_, 'u>> {
        (self.ring.free(n) == n).then_some(TxBatch { ring: self, left: n })
    }

    /// Reserves up to `n` places, as many as are free.
    #[inline]
    pub fn reserve_up_to(&mut self, n: u32) -> TxBatch<'_, 'u> {
        let left = self.ring.free(n);
        TxBatch { ring: self, left }
    }

    /// Descriptors that the other side has not taken yet.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.ring.in_flight()
    }

    /// Whether the other side sleeps until it is woken ([`crate::Socket::wake_tx`]).
    #[doc(alias = "xsk_ring_prod__needs_wakeup")]
    #[must_use]
    pub fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }

    /// Whether a frame makes a valid descriptor here.
    #[inline]
    fn takes(&self, frame: &Frame<'_>, metadata: bool) -> bool {
        let meta = self.umem.config().tx_metadata_len;
        std::ptr::eq(frame.umem(), self.umem)
            && !frame.is_empty()
            && frame.headroom() >= meta.unwrap_or(0) as usize
            && !(metadata && meta.is_none_or(|len| len == 0))
    }
}

impl<'u> TxBatch<'_, 'u> {
    /// Places that are left.
    #[must_use]
    pub fn left(&self) -> u32 {
        self.left
    }

    /// Puts a packet in.
    ///
    /// # Errors
    ///
    /// The frame, if no place is left, it has no packet, is of another memory, or there is less before the
    /// packet than the memory's TX metadata takes.
    #[inline]
    pub fn push(&mut self, frame: Frame<'u>) -> Result<(), Frame<'u>> {
        self.put(frame, 0)
    }

    /// Puts a packet in that has TX metadata before it.
    ///
    /// # Errors
    ///
    /// As [`TxBatch::push`]; also if the memory has no TX metadata.
    #[inline]
    pub fn push_with_metadata(&mut self, frame: Frame<'u>) -> Result<(), Frame<'u>> {
        self.put(frame, XDP_TX_METADATA)
    }

    /// Puts a packet of several frames in, all or none.
    ///
    /// # Errors
    ///
    /// The frames, if one of them cannot be pushed ([`TxBatch::push`]), or there are none.
    pub fn push_packet(&mut self, frames: Vec<Frame<'u>>) -> Result<(), Vec<Frame<'u>>> {
        let n = frames.len();
        let fits = n > 0 && n <= self.left as usize && frames.iter().all(|f| self.ring.takes(f, false));
        if !fits {
            return Err(frames);
        }
        for (i, frame) in frames.into_iter().enumerate() {
            let options = if i + 1 < n { XDP_PKT_CONTD } else { 0 };
            let put = self.put(frame, options);
            debug_assert!(put.is_ok(), "checked above");
        }
        Ok(())
    }

    #[inline]
    fn put(&mut self, frame: Frame<'u>, options: u32) -> Result<(), Frame<'u>> {
        if self.left == 0 || !self.ring.takes(&frame, options & XDP_TX_METADATA != 0) {
            return Err(frame);
        }
        self.left -= 1;
        let pushed = self.ring.ring.push(frame.into_sent(options));
        debug_assert!(pushed, "the place was reserved, and places do not become fewer");
        Ok(())
    }

    /// Shows what was pushed to the other side.
    #[doc(alias = "xsk_ring_prod__submit")]
    #[inline]
    pub fn submit(self) {}
}

impl Drop for TxBatch<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        self.ring.ring.submit();
    }
}

/// Frames that were sent, or given up.
#[doc(alias = "xsk_ring_cons")]
#[derive(Debug)]
pub struct CompletionRing<'u> {
    umem: &'u Umem,
    ring: Consumer<u64>,
    violations: Violations,
}

/// Frames that wait in a completion ring. Those not taken when it goes stay.
#[derive(Debug)]
pub struct CompletionBatch<'r, 'u> {
    ring: &'r mut CompletionRing<'u>,
    left: u32,
}

impl<'u> CompletionRing<'u> {
    pub(crate) fn new(umem: &'u Umem, ring: Consumer<u64>) -> Self {
        Self { umem, ring, violations: Violations::default() }
    }

    /// Entries of the ring.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.ring.capacity()
    }

    /// Up to `n` frames that were completed.
    #[doc(alias = "xsk_ring_cons__peek")]
    #[inline]
    pub fn peek(&mut self, n: u32) -> CompletionBatch<'_, 'u> {
        let left = self.ring.available(n);
        CompletionBatch { ring: self, left }
    }

    /// Makes up to `n` completed frames free; answers how many. Cheaper than taking and dropping them.
    pub fn recycle(&mut self, n: u32) -> u32 {
        let (umem, ring, violations) = (self.umem, &mut self.ring, &mut self.violations);
        let waiting = ring.available(n);
        if waiting == 0 {
            return 0;
        }
        let done = umem.give_back_all((0..waiting).filter_map(|_| {
            let chunk = ring.pop().and_then(|addr| umem.completed(addr, Place::Free));
            violations.bad_descriptors += u64::from(chunk.is_none());
            chunk.map(|(chunk, _)| chunk)
        }));
        ring.release();
        done
    }

    /// What the other side has done against the rules.
    #[must_use]
    pub fn violations(&self) -> Violations {
        self.violations
    }
}

impl CompletionBatch<'_, '_> {
    /// Frames that are left.
    #[must_use]
    pub fn left(&self) -> u32 {
        self.left
    }

    /// Gives the places of what was taken back to the other side.
    #[doc(alias = "xsk_ring_cons__release")]
    #[inline]
    pub fn release(self) {}
}

impl<'u> Iterator for CompletionBatch<'_, 'u> {
    type Item = Frame<'u>;

    /// The next completed frame: as it was sent, with its start (rounded down to an even address) and without a
    /// length.
    #[inline]
    fn next(&mut self) -> Option<Frame<'u>> {
        while self.left > 0 {
            self.left -= 1;
            let addr = self.ring.ring.pop()?;
            let umem = self.ring.umem;
            match umem.completed(addr, Place::Held) {
                Some((chunk, offset)) => return Some(Frame::new(umem, chunk, offset, 0, 0)),
                None => self.ring.violations.bad_descriptors += 1,
            }
        }
        None
    }
}

impl Drop for CompletionBatch<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        self.ring.ring.release();
    }
}
