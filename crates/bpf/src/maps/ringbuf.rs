//! [`Ringbuf`] and [`UserRingbuf`]: records between programs and user space.
//!
//! A record lies in one piece at `position & mask` and may reach beyond the end of the ring. The kernel maps
//! the ring twice for that; here the memory behind the end is simply there: the bytes at the start of the
//! ring that a record stands for belong to no other record as long as it is not consumed.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};

use mem::{SharedSlice, Slab, SpinLock};
use uapi::Errno;

use super::{CreateError, MapContext, MapDef};

/// The consumer is not woken (`BPF_RB_NO_WAKEUP`).
pub const BPF_RB_NO_WAKEUP: u64 = 1;
/// The consumer is woken in any case (`BPF_RB_FORCE_WAKEUP`).
pub const BPF_RB_FORCE_WAKEUP: u64 = 2;
/// Bytes before a record: length and flags, then the map's number.
pub const BPF_RINGBUF_HDR_SZ: usize = 8;

const BUSY: u32 = 1 << 31;
const DISCARD: u32 = 1 << 30;
/// Longest record, bytes.
const MAX_RECORD: u64 = u32::MAX as u64 / 4;
/// Longest sample that a dynptr can describe, bytes.
const DYNPTR_MAX_SIZE: u32 = 0xff_ffff;
/// Samples of one `bpf_user_ringbuf_drain`.
const BPF_MAX_USER_RINGBUF_SAMPLES: u64 = 128 * 1024;

fn record_len(size: u32) -> u64 {
    (u64::from(size) + BPF_RINGBUF_HDR_SZ as u64).next_multiple_of(8)
}

/// Memory and positions, common to both directions.
#[derive(Debug)]
struct Ring {
    data: Slab,
    mask: u64,
    consumer: AtomicU64,
    producer: AtomicU64,
    wakeups: AtomicU64,
}

impl Ring {
    fn new(def: &MapDef, cx: &MapContext) -> Result<Self, CreateError> {
        Ok(Self {
            data: super::slab(2, def.max_entries as usize, 4096, cx)?,
            mask: u64::from(def.max_entries) - 1,
            consumer: AtomicU64::new(0),
            producer: AtomicU64::new(0),
            wakeups: AtomicU64::new(0),
        })
    }

    /// `len` bytes from a position on; at most the size of the ring.
    fn at(&self, pos: u64, len: u64) -> SharedSlice<'_> {
        let offset = (pos & self.mask) as usize;
        self.data.bytes().get(offset, len as usize).expect("a record is no longer than the ring")
    }

    fn header(&self, pos: u64) -> SharedSlice<'_> {
        self.at(pos, BPF_RINGBUF_HDR_SZ as u64)
    }

    fn load_len(&self, pos: u64) -> u32 {
        self.header(pos).atomic_u32(0).expect("records are aligned").load(Acquire)
    }

    fn store_len(&self, pos: u64, len: u32) {
        self.header(pos).atomic_u32(0).expect("records are aligned").store(len, Release);
    }

    fn query(&self, what: u64) -> u64 {
        let (consumer, producer) = (self.consumer.load(Acquire), self.producer.load(Acquire));
        match what {
            0 => producer.wrapping_sub(consumer),
            1 => self.mask + 1,
            2 => consumer,
            3 => producer,
            _ => 0,
        }
    }
}

/// `BPF_MAP_TYPE_RINGBUF`: programs write, user space reads.
///
/// Kernel: `kernel/bpf/ringbuf.c, v6.18`
#[derive(Debug)]
pub struct Ringbuf {
    ring: Ring,
    map_id: u32,
    /// Position of the oldest record that was not finished when it was looked at last.
    pending: SpinLock<u64>,
}

impl Ringbuf {
    pub(super) fn new(def: &MapDef, cx: &MapContext) -> Result<Self, CreateError> {
        Ok(Self { ring: Ring::new(def, cx)?, map_id: cx.id, pending: SpinLock::new(0) })
    }

    /// `bpf_ringbuf_reserve`: room for a record; `None` if there is none or it is longer than any can be.
    #[must_use]
    pub fn reserve(&self, size: u64) -> Option<SharedSlice<'_>> {
        if size > MAX_RECORD {
            return None;
        }
        let len = record_len(size as u32);
        if len > self.ring.mask + 1 {
            return None;
        }
        let consumer = self.ring.consumer.load(Acquire);
        self.pending.with(|pending| {
            let producer = self.ring.producer.load(Relaxed);
            while *pending < producer {
                let old = self.ring.load_len(*pending);
                if old & BUSY != 0 {
                    break;
                }
                *pending += record_len(old & !DISCARD);
            }
            let end = producer + len;
            if end - consumer > self.ring.mask || end - *pending > self.ring.mask {
                return None;
            }
            self.ring.header(producer).write_u32(4, self.map_id);
            self.ring.store_len(producer, size as u32 | BUSY);
            self.ring.producer.store(end, Release);
            self.ring.at(producer, len).get(BPF_RINGBUF_HDR_SZ, size as usize)
        })
    }

    /// The number of the map that a record lies in, from the header before it.
    #[must_use]
    pub fn map_id_of(header: SharedSlice<'_>) -> u32 {
        header.read_u32(4)
    }

    /// The record that starts at an address, if it is one that is being written.
    #[must_use]
    pub fn record_at(&self, addr: u64) -> Option<SharedSlice<'_>> {
        let offset = self.offset_of(addr)?;
        let len = self.ring.load_len(offset);
        (len & BUSY != 0).then(|| self.ring.data.bytes().get(offset as usize + 8, (len & !BUSY) as usize))?
    }

    /// Offset of the header of the record at an address.
    fn offset_of(&self, addr: u64) -> Option<u64> {
        let offset = addr.checked_sub(self.ring.data.base())?.checked_sub(BPF_RINGBUF_HDR_SZ as u64)?;
        (offset <= self.ring.mask && offset.is_multiple_of(8)).then_some(offset)
    }

    /// `bpf_ringbuf_submit` of the record at an address. An address that is none is ignored.
    pub fn submit(&self, addr: u64, flags: u64) {
        self.commit(addr, flags, 0);
    }

    /// `bpf_ringbuf_discard` of the record at an address. An address that is none is ignored.
    pub fn discard(&self, addr: u64, flags: u64) {
        self.commit(addr, flags, DISCARD);
    }

    fn commit(&self, addr: u64, flags: u64, discard: u32) {
        let Some(offset) = self.offset_of(addr) else { return };
        let len = self.ring.load_len(offset);
        if len & BUSY == 0 {
            return;
        }
        self.ring.store_len(offset, (len & !BUSY) | discard);
        let waits = self.ring.consumer.load(SeqCst) & self.ring.mask == offset;
        if flags & BPF_RB_FORCE_WAKEUP != 0 || (waits && flags & BPF_RB_NO_WAKEUP == 0) {
            self.ring.wakeups.fetch_add(1, Relaxed);
        }
    }

    /// `bpf_ringbuf_output`: a copy of `data` as a record.
    ///
    /// # Errors
    ///
    /// `EINVAL` for unknown flags, `EAGAIN` if there is no room.
    pub fn output(&self, data: SharedSlice<'_>, flags: u64) -> Result<(), Errno> {
        if flags & !(BPF_RB_NO_WAKEUP | BPF_RB_FORCE_WAKEUP) != 0 {
            return Err(Errno::EINVAL);
        }
        let record = self.reserve(data.len() as u64).ok_or(Errno::EAGAIN)?;
        record.copy_from_shared(0, data);
        self.submit(record.addr(), flags);
        Ok(())
    }

    /// `bpf_ringbuf_query`: 0 bytes not consumed, 1 size, 2 and 3 the two positions; else 0.
    #[must_use]
    pub fn query(&self, what: u64) -> u64 {
        self.ring.query(what)
    }

    /// The next record for user space; `None` if there is none that is finished.
    pub fn consume(&self) -> Option<Vec<u8>> {
        loop {
            let pos = self.ring.consumer.load(Relaxed);
            if pos == self.ring.producer.load(Acquire) {
                return None;
            }
            let len = self.ring.load_len(pos);
            if len & BUSY != 0 {
                return None;
            }
            let size = len & !DISCARD;
            let data = (len & DISCARD == 0)
                .then(|| self.ring.at(pos, record_len(size)).get(BPF_RINGBUF_HDR_SZ, size as usize))
                .flatten()
                .map(SharedSlice::to_vec);
            let end = pos + record_len(size);
            // Several threads of user space may ask; a record goes to one of them.
            let mine = self.ring.consumer.compare_exchange(pos, end, SeqCst, Relaxed).is_ok();
            if let (true, Some(data)) = (mine, data) {
                return Some(data);
            }
        }
    }

    /// How often the consumer was woken.
    #[must_use]
    pub fn wakeups(&self) -> u64 {
        self.ring.wakeups.load(Relaxed)
    }
}

/// `BPF_MAP_TYPE_USER_RINGBUF`: user space writes, programs read.
///
/// Kernel: `kernel/bpf/ringbuf.c bpf_user_ringbuf_drain, v6.18`
#[derive(Debug)]
pub struct UserRingbuf {
    ring: Ring,
    busy: AtomicBool,
}

impl UserRingbuf {
    pub(super) fn new(def: &MapDef, cx: &MapContext) -> Result<Self, CreateError> {
        Ok(Self { ring: Ring::new(def, cx)?, busy: AtomicBool::new(false) })
    }

    /// `bpf_user_ringbuf_drain`: calls `f` with each sample until it breaks; answers how many there were.
    ///
    /// # Errors
    ///
    /// `EINVAL` for unknown flags, `EBUSY` if another program drains, `EINVAL` and `E2BIG` if user space has
    /// written nonsense into the ring.
    pub fn drain(
        &self,
        flags: u64,
        mut f: impl FnMut(SharedSlice<'_>) -> ControlFlow<()>,
    ) -> Result<u64, Errno> {
        if flags & !(BPF_RB_NO_WAKEUP | BPF_RB_FORCE_WAKEUP) != 0 {
            return Err(Errno::EINVAL);
        }
        if self.busy.swap(true, Acquire) {
            return Err(Errno::EBUSY);
        }
        let (seen, result) = self.drain_samples(&mut f);
        self.busy.store(false, Release);
        if flags & BPF_RB_FORCE_WAKEUP != 0 || (flags & BPF_RB_NO_WAKEUP == 0 && seen > 0) {
            self.ring.wakeups.fetch_add(1, Relaxed);
        }
        result
    }

    fn drain_samples(
        &self,
        f: &mut impl FnMut(SharedSlice<'_>) -> ControlFlow<()>,
    ) -> (u64, Result<u64, Errno>) {
        let (mut seen, mut discarded) = (0, 0);
        while seen < BPF_MAX_USER_RINGBUF_SAMPLES {
            match self.peek() {
                Err(Errno::ENODATA) => break,
                Err(Errno::EAGAIN) => discarded += 1,
                Err(e) => return (seen, Err(e)),
                Ok(sample) => {
                    let flow = f(sample);
                    let end = self.ring.consumer.load(Relaxed) + record_len(sample.len() as u32);
                    self.ring.consumer.store(end, Release);
                    if flow.is_break() {
                        seen += 1;
                        break;
                    }
                }
            }
            seen += 1;
        }
        (seen, Ok(seen - discarded))
    }

    /// The next sample. Everything in the ring is an allegation: it is read once and checked.
    fn peek(&self) -> Result<SharedSlice<'_>, Errno> {
        let producer = self.ring.producer.load(Acquire);
        if !producer.is_multiple_of(8) {
            return Err(Errno::EINVAL);
        }
        let consumer = self.ring.consumer.load(Acquire);
        if consumer >= producer {
            return Err(Errno::ENODATA);
        }
        let header = self.ring.load_len(consumer);
        let size = header & !(BUSY | DISCARD);
        let total = record_len(size);
        if total > producer - consumer {
            return Err(Errno::EINVAL);
        }
        if total > self.ring.mask + 1 || size > DYNPTR_MAX_SIZE {
            return Err(Errno::E2BIG);
        }
        if header & DISCARD != 0 {
            self.ring.consumer.store(consumer + total, Release);
            return Err(Errno::EAGAIN);
        }
        if header & BUSY != 0 {
            return Err(Errno::ENODATA);
        }
        self.ring.at(consumer, total).get(BPF_RINGBUF_HDR_SZ, size as usize).ok_or(Errno::EINVAL)
    }

    /// User space puts a sample in, as libbpf's `user_ring_buffer__reserve` and `submit` do.
    ///
    /// # Errors
    ///
    /// `E2BIG` if it can never fit, `ENOSPC` if there is no room now.
    pub fn produce(&self, sample: &[u8]) -> Result<(), Errno> {
        let size = u32::try_from(sample.len()).ok().filter(|n| *n < DISCARD).ok_or(Errno::E2BIG)?;
        let total = record_len(size);
        if total > self.ring.mask + 1 {
            return Err(Errno::E2BIG);
        }
        let (consumer, producer) = (self.ring.consumer.load(Acquire), self.ring.producer.load(Relaxed));
        if producer + total - consumer > self.ring.mask + 1 {
            return Err(Errno::ENOSPC);
        }
        self.ring.at(producer, total).copy_from(BPF_RINGBUF_HDR_SZ, sample);
        self.ring.store_len(producer, size);
        self.ring.producer.store(producer + total, Release);
        Ok(())
    }

    /// What user space can write at will: a header at a position, and the producer's position itself.
    pub fn write_raw(&self, pos: u64, header: u32, producer: u64) {
        self.ring.store_len(pos & !7, header);
        self.ring.producer.store(producer, Release);
    }

    /// As [`Ringbuf::query`].
    #[must_use]
    pub fn query(&self, what: u64) -> u64 {
        self.ring.query(what)
    }

    /// How often the producer was woken.
    #[must_use]
    pub fn wakeups(&self) -> u64 {
        self.ring.wakeups.load(Relaxed)
    }
}
