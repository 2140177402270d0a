//! [`Arena`]: the pages of a queue that the device may see.

use mem::Frame;

/// Bytes of a page.
pub(super) const PAGE: u32 = Frame::PAGE_SIZE as u32;
/// No page.
pub(super) const NONE: u32 = u32::MAX;

/// Pages of the shared memory, in chains: each knows the next, in the driver's own memory.
pub(super) struct Arena {
    base: usize,
    next: Box<[u32]>,
    free: u32,
}

impl Arena {
    /// `pages` free pages from an offset on.
    pub(super) fn new(base: usize, pages: usize) -> Self {
        let mut next: Box<[u32]> = (1..=pages as u32).collect();
        let free = if pages == 0 { NONE } else { 0 };
        if let Some(last) = next.last_mut() {
            *last = NONE;
        }
        Self { base, next, free }
    }

    /// A page, as a chain of its own.
    pub(super) fn take(&mut self) -> Option<u32> {
        let page = self.free;
        self.free = *self.next.get(page as usize)?;
        self.next[page as usize] = NONE;
        Some(page)
    }

    /// Puts a chain behind the last page of another.
    pub(super) fn link(&mut self, last: u32, page: u32) {
        self.next[last as usize] = page;
    }

    /// The page behind one in its chain, or [`NONE`].
    pub(super) fn after(&self, page: u32) -> u32 {
        self.next[page as usize]
    }

    /// Takes all pages of a chain back.
    pub(super) fn put_chain(&mut self, first: u32) {
        let mut page = first;
        while page != NONE {
            let next = self.next[page as usize];
            self.next[page as usize] = self.free;
            self.free = page;
            page = next;
        }
    }

    /// Offset of a page in the memory.
    pub(super) fn offset(&self, page: u32) -> usize {
        self.base + page as usize * PAGE as usize
    }

    /// Pages that are free.
    #[cfg(test)]
    pub(super) fn free_pages(&self) -> usize {
        std::iter::successors(Some(self.free), |p| self.next.get(*p as usize).copied())
            .take_while(|p| *p != NONE)
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_come_back_whole() {
        let mut arena = Arena::new(4096, 3);
        let (a, b, c) = (arena.take().unwrap(), arena.take().unwrap(), arena.take().unwrap());
        assert_eq!((arena.take(), arena.offset(b)), (None, 8192));
        arena.link(a, c);
        assert_eq!((arena.after(a), arena.after(c)), (c, NONE));
        arena.put_chain(a);
        assert_eq!(arena.free_pages(), 2);
        arena.put_chain(b);
        arena.put_chain(NONE);
        assert_eq!(arena.free_pages(), 3);
    }
}
