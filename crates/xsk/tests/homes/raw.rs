//! A socket with its rings, by hand: whatever the API would not let one do.

use std::sync::Arc;

use mem::SharedMem;
use mem::spsc::{Consumer, Producer, RingLayout};
use uapi::Errno;
use uapi::if_xdp::*;
use xsk::{PollEvents, RawSocket};

use crate::lab::Lab;

const LAYOUT: RingLayout = RingLayout { producer: 0, consumer: 128, flags: 196, entries: 320 };

/// What to make a socket with; 0 entries for no ring.
#[derive(Clone)]
pub(crate) struct Spec {
    pub(crate) chunk: u32,
    pub(crate) chunks: u32,
    pub(crate) headroom: u32,
    pub(crate) umem_flags: u32,
    pub(crate) meta: u32,
    pub(crate) rx: u32,
    pub(crate) tx: u32,
    pub(crate) fill: u32,
    pub(crate) completion: u32,
    pub(crate) queue: u32,
    pub(crate) flags: u16,
    pub(crate) ifindex: Option<u32>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            chunk: 2048,
            chunks: 64,
            headroom: 0,
            umem_flags: 0,
            meta: 0,
            rx: 8,
            tx: 8,
            fill: 8,
            completion: 8,
            queue: 0,
            flags: XDP_COPY,
            ifindex: None,
        }
    }
}

pub(crate) struct Xsk {
    pub(crate) raw: Arc<dyn RawSocket>,
    pub(crate) memory: Arc<SharedMem>,
    pub(crate) rx: Option<Consumer<XdpDesc>>,
    pub(crate) tx: Option<Producer<XdpDesc>>,
    pub(crate) fill: Option<Producer<u64>>,
    pub(crate) completion: Option<Consumer<u64>>,
}

pub(crate) fn anon(len: usize) -> Arc<SharedMem> {
    Arc::new(SharedMem::memfd(len).unwrap().0)
}

pub(crate) fn set(raw: &dyn RawSocket, name: i32, value: u32) -> Result<(), Errno> {
    raw.setsockopt(SOL_XDP, name, &value.to_le_bytes())
}

pub(crate) fn addr(flags: u16, ifindex: u32, queue_id: u32, shared_umem_fd: i32) -> [u8; 16] {
    SockaddrXdp { family: AF_XDP, flags, ifindex, queue_id, shared_umem_fd: shared_umem_fd as u32 }.to_bytes()
}

impl Xsk {
    /// Not bound yet.
    pub(crate) fn unbound(lab: &dyn Lab, spec: &Spec, share: Option<&Self>) -> Self {
        let raw = lab.home().open().unwrap();
        let memory = share.map_or_else(|| anon((spec.chunk * spec.chunks) as usize), |s| s.memory.clone());
        if share.is_none() {
            let reg = XdpUmemReg {
                addr: memory.addr(),
                len: u64::from(spec.chunk * spec.chunks),
                chunk_size: spec.chunk,
                headroom: spec.headroom,
                flags: spec.umem_flags,
                tx_metadata_len: spec.meta,
            };
            raw.register_umem(&memory, &reg.to_bytes()).unwrap();
        }
        let make = |name, entries: u32, pgoff, word: usize| -> Option<Arc<SharedMem>> {
            (entries > 0).then(|| {
                set(&*raw, name, entries).unwrap();
                raw.mmap(pgoff, (320 + entries as usize * word).next_multiple_of(4096)).unwrap()
            })
        };
        let rx = make(XDP_RX_RING, spec.rx, XDP_PGOFF_RX_RING, 16);
        let tx = make(XDP_TX_RING, spec.tx, XDP_PGOFF_TX_RING, 16);
        let fill = make(XDP_UMEM_FILL_RING, spec.fill, XDP_UMEM_PGOFF_FILL_RING, 8);
        let completion = make(XDP_UMEM_COMPLETION_RING, spec.completion, XDP_UMEM_PGOFF_COMPLETION_RING, 8);
        Self {
            rx: rx.map(|m| Consumer::new(m, &LAYOUT, spec.rx).unwrap()),
            tx: tx.map(|m| Producer::new(m, &LAYOUT, spec.tx).unwrap()),
            fill: fill.map(|m| Producer::new(m, &LAYOUT, spec.fill).unwrap()),
            completion: completion.map(|m| Consumer::new(m, &LAYOUT, spec.completion).unwrap()),
            raw,
            memory,
        }
    }

    /// Bound to `here`.
    pub(crate) fn new(lab: &dyn Lab, spec: &Spec) -> Self {
        let xsk = Self::unbound(lab, spec, None);
        xsk.raw.bind(&addr(spec.flags, spec.ifindex.unwrap_or(lab.here()), spec.queue, 0)).unwrap();
        xsk
    }

    pub(crate) fn number(&self) -> i32 {
        self.raw.number()
    }

    pub(crate) fn give(&mut self, addrs: &[u64]) {
        let fill = self.fill.as_mut().unwrap();
        addrs.iter().for_each(|&a| assert!(fill.push(a)));
        fill.submit();
    }

    pub(crate) fn put(&mut self, descs: &[(u64, u32, u32)]) {
        let tx = self.tx.as_mut().unwrap();
        descs.iter().for_each(|&(addr, len, options)| assert!(tx.push(XdpDesc { addr, len, options })));
        tx.submit();
    }

    /// What was received.
    pub(crate) fn take(&mut self) -> Vec<(u64, u32, u32)> {
        let rx = self.rx.as_mut().unwrap();
        let got = std::iter::from_fn(|| rx.pop()).map(|d| (d.addr, d.len, d.options)).collect();
        rx.release();
        got
    }

    /// What was completed.
    pub(crate) fn completed(&mut self) -> Vec<u64> {
        let completion = self.completion.as_mut().unwrap();
        let got = std::iter::from_fn(|| completion.pop()).collect();
        completion.release();
        got
    }

    pub(crate) fn kick(&self) -> Result<(), Errno> {
        self.raw.send(false)
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.view().copy_from(at as usize, bytes);
    }

    pub(crate) fn read(&self, at: u64, len: usize) -> Vec<u8> {
        self.memory.view().get(at as usize, len).unwrap().to_vec()
    }

    pub(crate) fn poll(&self) -> i16 {
        self.raw.poll(PollEvents::BOTH, Some(std::time::Duration::ZERO)).unwrap().0
    }

    pub(crate) fn stats(&self) -> XdpStatistics {
        let mut bytes = [0; XdpStatistics::SIZE];
        assert_eq!(self.raw.getsockopt(SOL_XDP, XDP_STATISTICS, &mut bytes), Ok(48));
        XdpStatistics::from_bytes(&bytes)
    }

    /// Entries that the other side has taken of the fill ring, as it says.
    pub(crate) fn fill_taken(&self) -> u32 {
        self.fill.as_ref().unwrap().memory().view().read_u32(LAYOUT.consumer)
    }

    /// As [`Xsk::fill_taken`], of the TX ring.
    pub(crate) fn tx_taken(&self) -> u32 {
        self.tx.as_ref().unwrap().memory().view().read_u32(LAYOUT.consumer)
    }
}
