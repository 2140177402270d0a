//! [`Pool`]: the fill and completion rings of one queue, and the buffers between them.
//!
//! Kernel: `net/xdp/xsk_buff_pool.c, v6.18`

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mem::SpinLock;
use mem::spsc::{Consumer, Producer};
use uapi::if_xdp::*;
use uapi::xdp::XDP_PACKET_HEADROOM;

use super::sanitizer::{Sanitizer, Watch};
use super::umem::EngineUmem;

/// Kernel: `include/net/xsk_buff_pool.h struct xsk_buff_pool, v6.18`
#[doc(alias = "xsk_buff_pool")]
pub(super) struct Pool {
    pub(super) umem: Arc<EngineUmem>,
    pub(super) fill: SpinLock<FillSide>,
    completion: SpinLock<CompletionSide>,
    /// `XDP_USE_NEED_WAKEUP`, which those that share inherit.
    pub(super) uses_need_wakeup: AtomicBool,
    /// Who is told of mistakes.
    sanitizer: Option<(Arc<Sanitizer>, SpinLock<Watch>)>,
}

/// Where buffers to receive into come from.
pub(super) struct FillSide {
    pub(super) ring: Consumer<u64>,
    /// Buffers that were taken and not used; the last is used first.
    free: Vec<u64>,
    /// How often nothing was found (`queue_empty_descs`).
    pub(super) empty: u64,
}

/// Where sent buffers go. An entry is reserved before a packet is built and written when it is done.
struct CompletionSide {
    ring: Producer<u64>,
    reserved: u32,
}

impl Pool {
    pub(super) fn new(
        umem: Arc<EngineUmem>,
        fill: Consumer<u64>,
        completion: Producer<u64>,
        uses_need_wakeup: bool,
        sanitizer: Option<(Arc<Sanitizer>, Watch)>,
    ) -> Self {
        Self {
            umem,
            fill: SpinLock::new(FillSide { ring: fill, free: Vec::new(), empty: 0 }),
            completion: SpinLock::new(CompletionSide { ring: completion, reserved: 0 }),
            uses_need_wakeup: AtomicBool::new(uses_need_wakeup),
            sanitizer: sanitizer.map(|(to, watch)| (to, SpinLock::new(watch))),
        }
    }

    /// Tells the sanitizer, if there is one.
    #[inline]
    pub(super) fn watch(&self, tell: impl FnOnce(&mut Watch, &Sanitizer)) {
        if let Some((to, watch)) = &self.sanitizer {
            watch.with(|w| tell(w, to));
        }
    }

    /// Entries of the completion ring.
    pub(super) fn completion_entries(&self) -> u32 {
        self.completion.with(|c| c.ring.capacity())
    }

    /// Reserves an entry of the completion ring; `false` if it is full.
    ///
    /// Kernel: `net/xdp/xsk.c xsk_cq_reserve_locked, v6.18`
    pub(super) fn reserve_completion(&self) -> bool {
        self.completion.with(|c| {
            let ok = c.ring.free(c.reserved + 1) > c.reserved;
            c.reserved += u32::from(ok);
            ok
        })
    }

    /// Gives up an entry that was reserved.
    pub(super) fn cancel_completion(&self) {
        self.completion.with(|c| c.reserved = c.reserved.saturating_sub(1));
    }

    /// Writes entries that were reserved, and shows them.
    ///
    /// Kernel: `net/xdp/xsk.c xsk_cq_submit_addr_locked, v6.18`
    pub(super) fn complete(&self, addrs: impl Iterator<Item = u64>) {
        self.completion.with(|c| {
            for addr in addrs {
                self.watch(|w, _| w.completed(self.umem.offset_of(addr)));
                c.reserved = c.reserved.saturating_sub(1);
                // A peer that moves its index back can make the ring full meanwhile; it has lost this one.
                let _ = c.ring.push(addr);
            }
            c.ring.submit();
        });
    }

    /// Reserves and completes at once; `false` if the ring is full.
    pub(super) fn post_completion(&self, addr: u64) -> bool {
        let ok = self.reserve_completion();
        if ok {
            self.complete(std::iter::once(addr));
        }
        ok
    }

    /// Where data goes in a buffer, as an offset into the memory.
    #[inline]
    pub(super) fn data_offset(&self, base: u64) -> u64 {
        base + u64::from(self.umem.headroom) + XDP_PACKET_HEADROOM as u64
    }

    /// What the RX ring says of it.
    ///
    /// Kernel: `include/net/xsk_buff_pool.h xp_get_handle, v6.18`
    #[doc(alias = "xp_get_handle")]
    #[inline]
    pub(super) fn handle(&self, base: u64) -> u64 {
        if self.umem.unaligned {
            base | (self.data_offset(base) - base) << XSK_UNALIGNED_BUF_OFFSET_SHIFT
        } else {
            self.data_offset(base)
        }
    }
}

impl FillSide {
    /// A buffer; `None` if the application has filled none. Invalid entries are skipped, a ring of them at
    /// most, so that a peer which produces them cannot hold this side up.
    ///
    /// Kernel: `net/xdp/xsk_buff_pool.c xp_alloc, v6.18`
    #[doc(alias = "xp_alloc")]
    #[inline]
    pub(super) fn alloc(&mut self, pool: &Pool) -> Option<u64> {
        if let Some(base) = self.free.pop() {
            return Some(base);
        }
        for _ in 0..self.ring.capacity() {
            let Some(addr) = self.ring.peek() else { break };
            self.ring.take(1);
            pool.watch(|w, to| w.taken(to, &pool.umem, addr));
            if let Some(base) = pool.umem.fill_base(addr) {
                return Some(base);
            }
        }
        self.empty += 1;
        pool.watch(|w, to| w.starving(to));
        None
    }

    /// Whether `n` buffers are there, as far as entries say.
    ///
    /// Kernel: `net/xdp/xsk_buff_pool.c xp_can_alloc, v6.18`
    #[doc(alias = "xp_can_alloc")]
    pub(super) fn can_alloc(&mut self, n: u32) -> bool {
        let Some(wanted) = n.checked_sub(self.free.len() as u32).filter(|&w| w > 0) else { return true };
        let there = self.ring.available(wanted);
        self.empty += u64::from(there == 0);
        there >= wanted
    }

    /// Keeps a buffer that was not used. There are never more than the memory has chunks, because a peer
    /// that fills one twice would make the list grow; the kernel's is as long as its chunks, too.
    ///
    /// Kernel: `net/xdp/xsk_buff_pool.c xp_free, v6.18`
    #[doc(alias = "xp_free")]
    pub(super) fn free(&mut self, umem: &EngineUmem, base: u64) {
        if (self.free.len() as u64) < umem.size / u64::from(umem.chunk_size) {
            self.free.push(base);
        }
    }
}
