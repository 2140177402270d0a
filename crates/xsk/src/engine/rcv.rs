//! Receiving: packets of the data path are copied into the application's buffers.

use std::sync::atomic::Ordering::Relaxed;

use mem::{SharedSlice, XdpBuff};
use uapi::Errno;
use uapi::if_xdp::{XDP_PKT_CONTD, XdpDesc};

use super::XskSocket;
use super::pool::{FillSide, Pool};
use super::socket::RxSide;

impl XskSocket {
    /// Copies a packet into the application's memory. It is seen after [`XskSocket::flush`].
    ///
    /// # Errors
    ///
    /// `ENXIO` if the socket is not bound, `EINVAL` for a packet of another device or queue, `ENOSPC` if the
    /// packet is too long, `ENOMEM` without a buffer, `ENOBUFS` if the RX ring is full.
    ///
    /// Kernel: `net/xdp/xsk.c xsk_rcv, v6.18`
    #[doc(alias = "xsk_rcv")]
    pub fn rcv(&self, buff: &XdpBuff<'_>) -> Result<(), Errno> {
        let link = self.bound()?;
        let rxq = buff.rxq();
        if rxq.ifindex != link.ifindex || rxq.queue_index != u32::from(link.queue) {
            link.pool.watch(|w, to| w.wrong_queue(to, rxq.ifindex, rxq.queue_index));
            return Err(Errno::EINVAL);
        }
        let len = buff.linear().len() + buff.frags().iter().map(|f| f.bytes().len()).sum::<usize>();
        let frame_size = link.pool.umem.rx_frame_size() as usize;
        if len > frame_size && !link.sg {
            self.rx_dropped.fetch_add(1, Relaxed);
            return Err(Errno::ENOSPC);
        }
        let pool = &link.pool;
        pool.fill.with(|fill| {
            self.watch_rings(pool, fill);
            self.rx.with(|rx| match rx {
                None => Err(Errno::ENXIO),
                Some(rx) if len <= frame_size && buff.frags().is_empty() => {
                    self.copy_one(pool, fill, rx, buff, len)
                }
                Some(rx) => self.copy_split(pool, fill, rx, buff, len),
            })
        })
    }

    /// Shows received packets to the application, tells it which buffers were taken, and wakes it.
    ///
    /// Kernel: `net/xdp/xsk.c xsk_flush, v6.18`
    #[doc(alias = "xsk_flush")]
    pub fn flush(&self) {
        let Ok(link) = self.bound() else { return };
        link.pool.fill.with(|fill| fill.ring.release());
        self.rx.with(|rx| rx.iter_mut().for_each(|rx| rx.ring.submit()));
        self.wake_readers();
    }

    /// Lets the sanitizer look before a packet comes. Its lock is the innermost.
    #[inline]
    fn watch_rings(&self, pool: &Pool, fill: &mut FillSide) {
        pool.watch(|w, to| {
            w.scan(to, &pool.umem, &mut fill.ring);
            if let Ok(tx) = self.tx.try_lock() {
                w.tx_waits(to, tx.as_ref().map_or(0, |tx| tx.ring.present()));
            }
        });
    }

    fn copy_one(
        &self,
        pool: &Pool,
        fill: &mut FillSide,
        rx: &mut RxSide,
        buff: &XdpBuff<'_>,
        len: usize,
    ) -> Result<(), Errno> {
        let Some(base) = fill.alloc(pool) else {
            self.rx_dropped.fetch_add(1, Relaxed);
            return Err(Errno::ENOMEM);
        };
        let meta = buff.meta_len() as u64;
        let from = buff.meta_and_linear();
        copy(pool, pool.data_offset(base) - meta, from);
        if rx.ring.push(XdpDesc { addr: pool.handle(base), len: len as u32, options: 0 }) {
            pool.watch(|w, _| w.received(base));
            return Ok(());
        }
        self.rx_ring_full.fetch_add(1, Relaxed);
        fill.free(&pool.umem, base);
        Err(Errno::ENOBUFS)
    }

    /// Over as many buffers as it takes, all or none.
    fn copy_split(
        &self,
        pool: &Pool,
        fill: &mut FillSide,
        rx: &mut RxSide,
        buff: &XdpBuff<'_>,
        len: usize,
    ) -> Result<(), Errno> {
        let frame_size = pool.umem.rx_frame_size() as usize;
        let n = (len.max(1) - 1) / frame_size + 1;
        let wanted = u32::try_from(n).map_err(|_| Errno::ENOMEM)?;
        if !fill.can_alloc(wanted) {
            pool.watch(|w, to| w.starving(to));
            self.rx_dropped.fetch_add(1, Relaxed);
            return Err(Errno::ENOMEM);
        }
        if rx.ring.free(wanted) < wanted {
            self.rx_ring_full.fetch_add(1, Relaxed);
            return Err(Errno::ENOBUFS);
        }
        if !self.take_buffers(pool, fill, rx, n) {
            self.rx_dropped.fetch_add(1, Relaxed);
            return Err(Errno::ENOMEM);
        }
        let meta = buff.meta_len();
        let mut parts = std::iter::once(buff.meta_and_linear()).chain(buff.frags().iter().map(|f| f.bytes()));
        let mut part = parts.next();
        for (i, &base) in rx.bases.iter().enumerate() {
            let meta = if i == 0 { meta } else { 0 };
            let (mut to, mut room) = (pool.data_offset(base) - meta as u64, frame_size + meta);
            while let Some(from) = part.filter(|_| room > 0) {
                let take = from.len().min(room);
                copy(pool, to, from.get(0, take).unwrap_or(from));
                (to, room) = (to + take as u64, room - take);
                part = from
                    .get(take, from.len() - take)
                    .filter(|rest| !rest.is_empty())
                    .or_else(|| parts.next());
            }
            let options = if i + 1 < n { XDP_PKT_CONTD } else { 0 };
            // What metadata took does not count.
            let len = frame_size.saturating_sub(room) as u32;
            let pushed = rx.ring.push(XdpDesc { addr: pool.handle(base), len, options });
            pool.watch(|w, _| w.received(base));
            debug_assert!(pushed, "the places were counted, and do not become fewer");
        }
        Ok(())
    }

    /// Takes `n` buffers into `rx.bases`, all or none. One that is there twice, because the application has
    /// filled it twice, counts as none.
    fn take_buffers(&self, pool: &Pool, fill: &mut FillSide, rx: &mut RxSide, n: usize) -> bool {
        rx.bases.clear();
        while rx.bases.len() < n {
            match fill.alloc(pool) {
                Some(base) if !rx.bases.contains(&base) => rx.bases.push(base),
                _ => {
                    rx.bases.drain(..).for_each(|base| fill.free(&pool.umem, base));
                    return false;
                }
            }
        }
        true
    }
}

/// Copies within the memory; bases were checked, so it always fits.
#[inline]
fn copy(pool: &Pool, to: u64, from: SharedSlice<'_>) {
    if let Some(to) = pool.umem.bytes(to, from.len() as u64) {
        to.copy_from_shared(0, from);
    }
}
