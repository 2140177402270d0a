//! [`PagePool`]: pages that one CPU takes for packets and gives back, and [`Depot`], through which CPUs pass
//! them on.

use std::sync::Arc;

use crate::{Frame, Packet, SpinLock, Template, XdpBuff};

/// Pages that move between a pool and the depot at once.
const MAGAZINE: usize = 64;
/// Pages that a pool keeps before it gives a magazine to the depot.
const KEEP: usize = 4 * MAGAZINE;

/// Where pools of several CPUs leave pages for each other: a packet is often freed on another CPU than the
/// one that took it. Locked once for [`MAGAZINE`] pages.
#[derive(Default)]
pub struct Depot {
    full: SpinLock<Vec<Vec<Packet>>>,
    empty: SpinLock<Vec<Vec<Packet>>>,
}

/// The pages of one CPU, most of them as packets that are ready for use. What was taken comes back as it is:
/// pages are not cleared.
///
/// Kernel: `net/core/page_pool.c struct page_pool, v6.18`
#[doc(alias = "page_pool")]
pub struct PagePool {
    packets: Vec<Packet>,
    /// Pages without a packet: for fragments, and from them.
    pages: Vec<Frame>,
    depot: Arc<Depot>,
    /// Pages made, taken and given back by this pool.
    stats: PoolStats,
    limit: u64,
}

/// What a pool has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Pages asked of the allocator.
    pub allocated: u64,
    /// Pages given out.
    pub taken: u64,
    /// Pages that came back.
    pub returned: u64,
    /// Requests that failed because the limit was reached.
    pub failed: u64,
    /// Buffers larger than a page that came back, and were freed.
    pub large: u64,
}

impl PagePool {
    /// A pool without pages, which shares pages with others through the depot.
    #[must_use]
    pub fn new(depot: Arc<Depot>) -> Self {
        let packets = Vec::with_capacity(KEEP + MAGAZINE);
        let pages = Vec::with_capacity(KEEP);
        Self { packets, pages, depot, stats: PoolStats::default(), limit: u64::MAX }
    }

    /// Lets the pool make no more than so many pages in all.
    pub fn set_limit(&mut self, pages: u64) {
        self.limit = pages;
    }

    /// What it has done so far.
    #[must_use]
    pub const fn stats(&self) -> PoolStats {
        self.stats
    }

    /// A packet in a page, of which `frame_sz` bytes are used; `None` if the limit is reached, or if packet and
    /// tail room do not fit. What the page held before is still there.
    ///
    /// Kernel: `net/core/page_pool.c page_pool_alloc_pages, v6.18`
    #[doc(alias = "page_pool_alloc_pages")]
    #[inline]
    pub fn take_packet(&mut self, frame_sz: u32, headroom: u32, len: u32) -> Option<Packet> {
        let mut packet = match self.packets.pop() {
            Some(packet) => packet,
            None => self.refill()?,
        };
        if packet.reset(frame_sz, headroom, len).is_err() {
            self.packets.push(packet);
            return None;
        }
        self.stats.taken += 1;
        Some(packet)
    }

    /// Up to `n` packets made after a template, fewer if the limit is reached; `each` gets them.
    #[inline]
    pub fn take_filled(&mut self, n: usize, template: &Template<'_>, mut each: impl FnMut(Packet)) {
        let kept = n.min(self.packets.len());
        self.stats.taken += kept as u64;
        for mut packet in self.packets.drain(self.packets.len() - kept..) {
            packet.fill(template);
            each(packet);
        }
        for _ in kept..n {
            let Some(mut packet) = self.packets.pop().or_else(|| self.refill()) else { return };
            self.stats.taken += 1;
            packet.fill(template);
            each(packet);
        }
    }

    /// A page without a packet; `None` if the limit is reached.
    pub fn take(&mut self) -> Option<Frame> {
        let mut page = self.pages.pop();
        if page.is_none() {
            let packet = self.packets.pop().or_else(|| self.refill())?;
            packet.into_frames(|frame| page = Some(frame));
        }
        self.stats.taken += 1;
        page
    }

    #[cold]
    fn refill(&mut self) -> Option<Packet> {
        if let Some(mut magazine) = self.depot.full.with(Vec::pop) {
            self.packets.append(&mut magazine);
            self.depot.empty.with(|all| all.push(magazine));
            if let Some(packet) = self.packets.pop() {
                return Some(packet);
            }
        }
        let page = match self.pages.pop() {
            Some(page) => page,
            None if self.stats.allocated >= self.limit => {
                self.stats.failed += 1;
                return None;
            }
            None => {
                self.stats.allocated += 1;
                Frame::new(Frame::PAGE_SIZE)
            }
        };
        Packet::new(page, Frame::PAGE_SIZE as u32, 0, 0).ok()
    }

    /// A buffer larger than a page, asked of the allocator; `None` if the limit is reached.
    #[cold]
    pub fn take_large(&mut self, len: usize) -> Option<Frame> {
        if self.stats.allocated >= self.limit || len == 0 {
            self.stats.failed += 1;
            return None;
        }
        self.stats.allocated += 1;
        self.stats.taken += 1;
        Some(Frame::new(len))
    }

    /// Takes a page back.
    ///
    /// Kernel: `net/core/page_pool.c page_pool_put_unrefed_netmem, v6.18`
    #[doc(alias = "page_pool_put_page")]
    pub fn put(&mut self, frame: Frame) {
        self.stats.returned += 1;
        if frame.len() != Frame::PAGE_SIZE {
            self.stats.large += 1;
            return drop(frame);
        }
        if self.pages.len() < KEEP {
            return self.pages.push(frame);
        }
        // Packets are what CPUs pass on to each other.
        if let Ok(packet) = Packet::new(frame, Frame::PAGE_SIZE as u32, 0, 0) {
            self.keep(packet);
        }
    }

    #[inline]
    fn keep(&mut self, packet: Packet) {
        if self.packets.len() >= KEEP {
            self.spill();
        }
        self.packets.push(packet);
    }

    #[cold]
    fn spill(&mut self) {
        let magazine = self.depot.empty.with(Vec::pop);
        let mut magazine = magazine.unwrap_or_else(|| Vec::with_capacity(MAGAZINE));
        magazine.extend(self.packets.drain(KEEP - MAGAZINE..));
        self.depot.full.with(|all| all.push(magazine));
    }

    /// Notes that so many pages that were taken here or elsewhere are freed, and do not come back.
    pub const fn note_freed(&mut self, pages: u64) {
        self.stats.returned += pages;
    }

    /// Takes all pages of a packet back.
    #[inline]
    pub fn put_packet(&mut self, packet: Packet) {
        if !packet.is_one_page() {
            return self.put_parts(packet);
        }
        self.stats.returned += 1;
        self.keep(packet);
    }

    /// As [`PagePool::put_packet`] of a packet that is still in a poll.
    #[inline]
    pub fn put_buff(&mut self, buff: Box<XdpBuff<'_>>) {
        self.put_packet(Packet::done(buff));
    }

    #[cold]
    fn put_parts(&mut self, packet: Packet) {
        packet.into_frames(|frame| self.put(frame));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn pages_are_used_again() {
        let mut pool = PagePool::new(Arc::default());
        for _ in 0..10 {
            let pages: Vec<_> = (0..100).map(|_| pool.take().unwrap()).collect();
            pages.into_iter().for_each(|p| pool.put(p));
        }
        assert_eq!(
            pool.stats(),
            PoolStats { allocated: 100, taken: 1000, returned: 1000, ..Default::default() }
        );
    }

    #[test]
    fn pages_freed_on_another_cpu_come_back_through_the_depot() {
        let depot = Arc::new(Depot::default());
        let (mut a, mut b) = (PagePool::new(depot.clone()), PagePool::new(depot));
        for _ in 0..100 {
            (0..MAGAZINE).for_each(|_| b.put(a.take().unwrap()));
        }
        assert!(a.stats().allocated <= (2 * KEEP + 2 * MAGAZINE) as u64, "{:?}", a.stats());
    }

    #[test]
    fn a_limit_holds() {
        let mut pool = PagePool::new(Arc::default());
        pool.set_limit(2);
        let (a, b) = (pool.take(), pool.take());
        assert!(a.is_some() && b.is_some() && pool.take().is_none());
        a.into_iter().for_each(|p| pool.put(p));
        assert!(pool.take().is_some());
        assert_eq!(pool.stats().failed, 1);
    }

    #[test]
    fn pages_of_another_size_are_not_kept() {
        let mut pool = PagePool::new(Arc::default());
        pool.put(Frame::new(8192));
        assert_eq!(pool.take().unwrap().len(), Frame::PAGE_SIZE);
    }
}
