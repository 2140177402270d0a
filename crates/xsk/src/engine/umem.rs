//! Memory that was registered, and the checks of `XDP_UMEM_REG`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mem::{PAGE_SIZE, SharedMem, SharedSlice};
use uapi::Errno;
use uapi::if_xdp::*;
use uapi::xdp::{XDP_PACKET_HEADROOM, XDP_TAILROOM};

/// Smallest chunk, bytes.
const XDP_UMEM_MIN_CHUNK_SIZE: u32 = 2048;
/// What a chunk must have beside headroom and tailroom, bytes.
const LEAST_PACKET: u32 = 128;

/// Memory that an application has registered.
///
/// Kernel: `include/net/xdp_sock.h struct xdp_umem, v6.18`
#[doc(alias = "xdp_umem")]
pub(super) struct EngineUmem {
    memory: Arc<SharedMem>,
    start: usize,
    pub(super) size: u64,
    pub(super) chunk_size: u32,
    pub(super) headroom: u32,
    pub(super) unaligned: bool,
    pub(super) tx_sw_csum: bool,
    pub(super) tx_metadata_len: u32,
    /// A socket was bound with `XDP_USE_SG`; holds for all who share the memory.
    pub(super) sg: AtomicBool,
}

impl EngineUmem {
    /// Checks a registration in the kernel's order.
    ///
    /// Kernel: `net/xdp/xdp_umem.c xdp_umem_reg, v6.18`
    pub(super) fn register(memory: &Arc<SharedMem>, reg: &XdpUmemReg) -> Result<Self, Errno> {
        let unaligned = reg.flags & XDP_UMEM_UNALIGNED_CHUNK_FLAG != 0;
        let known = XDP_UMEM_UNALIGNED_CHUNK_FLAG | XDP_UMEM_TX_SW_CSUM | XDP_UMEM_TX_METADATA_LEN;
        let chunk = reg.chunk_size;
        if !(XDP_UMEM_MIN_CHUNK_SIZE..=PAGE_SIZE as u32).contains(&chunk) || reg.flags & !known != 0 {
            return Err(Errno::EINVAL);
        }
        let whole = unaligned || (chunk.is_power_of_two() && reg.len.is_multiple_of(chunk.into()));
        let chunks = reg.len / u64::from(chunk);
        let page_aligned = reg.addr.is_multiple_of(PAGE_SIZE as u64);
        let wraps = reg.addr.checked_add(reg.len).is_none();
        if !whole || !page_aligned || wraps || chunks == 0 || chunks > u32::MAX.into() {
            return Err(Errno::EINVAL);
        }
        let reserved = (XDP_PACKET_HEADROOM + XDP_TAILROOM) as u32 + LEAST_PACKET;
        if reg.headroom > chunk - reserved {
            return Err(Errno::EINVAL);
        }
        let meta_len = if reg.flags & XDP_UMEM_TX_METADATA_LEN != 0 { reg.tx_metadata_len } else { 0 };
        if meta_len >= 256 || !meta_len.is_multiple_of(8) {
            return Err(Errno::EINVAL);
        }
        // What pinning the pages finds.
        let start = reg.addr.checked_sub(memory.addr()).ok_or(Errno::EFAULT)?;
        if start.checked_add(reg.len).is_none_or(|end| end > memory.len() as u64) {
            return Err(Errno::EFAULT);
        }
        Ok(Self {
            memory: memory.clone(),
            start: start as usize,
            size: reg.len,
            chunk_size: chunk,
            headroom: reg.headroom,
            unaligned,
            tx_sw_csum: reg.flags & XDP_UMEM_TX_SW_CSUM != 0,
            tx_metadata_len: meta_len,
            sg: AtomicBool::new(false),
        })
    }

    /// Bytes of the memory; `None` if they do not lie within it.
    #[inline]
    pub(super) fn bytes(&self, addr: u64, len: u64) -> Option<SharedSlice<'_>> {
        if addr.checked_add(len)? > self.size {
            return None;
        }
        // Both fit: the size was within the mapping when it was registered.
        self.memory.view().get(self.start + addr as usize, len as usize)
    }

    /// Longest packet that one chunk takes.
    ///
    /// Kernel: `include/net/xdp_sock_drv.h __xsk_pool_get_rx_frame_size, v6.18`
    pub(super) fn rx_frame_size(&self) -> u32 {
        self.chunk_size - self.headroom - XDP_PACKET_HEADROOM as u32
    }

    /// The address in a descriptor of the TX ring as an offset into the memory.
    #[inline]
    pub(super) fn offset_of(&self, addr: u64) -> u64 {
        if self.unaligned {
            // Neither part has more than 48 bits.
            (addr & XSK_UNALIGNED_BUF_ADDR_MASK) + (addr >> XSK_UNALIGNED_BUF_OFFSET_SHIFT)
        } else {
            addr
        }
    }

    /// The start of the buffer that an entry of the fill ring names; `None` if it does not lie in the memory.
    ///
    /// Kernel: `net/xdp/xsk_buff_pool.c xp_check_aligned, xp_check_unaligned, v6.18`
    #[inline]
    pub(super) fn fill_base(&self, addr: u64) -> Option<u64> {
        let chunk = u64::from(self.chunk_size);
        if self.unaligned {
            let base = addr & XSK_UNALIGNED_BUF_ADDR_MASK;
            (base + chunk <= self.size).then_some(base)
        } else {
            let base = addr & !(chunk - 1);
            (base < self.size).then_some(base)
        }
    }

    /// Whether a descriptor of the TX ring is valid.
    ///
    /// Kernel: `net/xdp/xsk_queue.h xp_validate_desc, v6.18`
    #[doc(alias = "xp_validate_desc")]
    pub(super) fn validate_desc(&self, desc: &XdpDesc) -> bool {
        let (len, meta) = (u64::from(desc.len), u64::from(self.tx_metadata_len));
        let chunk = u64::from(self.chunk_size);
        let Some(start) = self.offset_of(desc.addr).checked_sub(meta) else { return false };
        let fits = if self.unaligned {
            let end = start.checked_add(len + meta);
            len + meta <= chunk && end.is_some_and(|end| end <= self.size)
        } else {
            start % chunk + len + meta <= chunk
        };
        len > 0 && fits && start < self.size && desc.options & !(XDP_PKT_CONTD | XDP_TX_METADATA) == 0
    }
}
