//! Moving the ends of a packet, as `bpf_xdp_adjust_*` and `bpf_xdp_pull_data` do.

use uapi::Errno;
use uapi::xdp::*;

use super::{XdpBuff, XdpBuffFlags};

impl XdpBuff<'_> {
    /// Moves the start of the packet; metadata moves along. What comes in is not cleared.
    ///
    /// # Errors
    ///
    /// `EINVAL` if less than the room of an `xdp_frame` would stay free before packet and metadata, or
    /// less than an Ethernet header in the linear part.
    ///
    /// Kernel: `net/core/filter.c bpf_xdp_adjust_head, v6.18`
    #[doc(alias = "bpf_xdp_adjust_head")]
    pub fn adjust_head(&mut self, offset: i32) -> Result<(), Errno> {
        let meta_len = self.meta_len();
        let data = moved(self.data, offset)?;
        if data < self.frame_end() + meta_len as u64 || data + ETH_HLEN as u64 > self.data_end {
            return Err(Errno::EINVAL);
        }
        if meta_len > 0 {
            let from = self.part(self.data_meta, self.data);
            let to = data - meta_len as u64 - self.data_hard_start;
            self.frame.bytes().copy_from_shared(to as usize, from);
        }
        self.data_meta = self.data_meta.wrapping_add_signed(offset.into());
        self.data = data;
        Ok(())
    }

    /// Moves the start of the metadata.
    ///
    /// # Errors
    ///
    /// `ENOTSUPP` if the device has no room for metadata; `EINVAL` if it would lie after the packet's
    /// start or in the room of the `xdp_frame`; `EACCES` if its length would be no multiple of 4 or above
    /// [`XDP_META_MAX`].
    ///
    /// Kernel: `net/core/filter.c bpf_xdp_adjust_meta, v6.18`
    #[doc(alias = "bpf_xdp_adjust_meta")]
    pub fn adjust_meta(&mut self, offset: i32) -> Result<(), Errno> {
        if self.metadata_unsupported() {
            return Err(Errno::ENOTSUPP);
        }
        let meta = moved(self.data_meta, offset)?;
        if meta < self.frame_end() || meta > self.data {
            return Err(Errno::EINVAL);
        }
        if metalen_invalid(self.data - meta) {
            return Err(Errno::EACCES);
        }
        self.data_meta = meta;
        Ok(())
    }

    /// Moves the end of the packet. What comes in is zero.
    ///
    /// # Errors
    ///
    /// `EINVAL` if less than an Ethernet header would remain, or if there is no such room before the
    /// reserved tail (with fragments: in the last one); `EOPNOTSUPP` for growing a packet with fragments
    /// on a queue whose fragments cannot grow.
    ///
    /// Kernel: `net/core/filter.c bpf_xdp_adjust_tail, v6.18`
    #[doc(alias = "bpf_xdp_adjust_tail")]
    pub fn adjust_tail(&mut self, offset: i32) -> Result<(), Errno> {
        if self.has_frags() {
            // There is no positive number of this size, and the kernel then takes nothing off.
            if offset == i32::MIN {
                return Ok(());
            }
            return match u32::try_from(offset) {
                Ok(grow) => self.grow_frags(grow),
                Err(_) => self.shrink_frags(offset.unsigned_abs()),
            };
        }
        let end = moved(self.data_end, offset)?;
        if end > self.hard_end() || end < self.data + ETH_HLEN as u64 {
            return Err(Errno::EINVAL);
        }
        if end > self.data_end {
            self.part(self.data_end, end).fill(0, (end - self.data_end) as usize, 0);
        }
        self.data_end = end;
        Ok(())
    }

    /// Grows the last fragment.
    fn grow_frags(&mut self, grow: u32) -> Result<(), Errno> {
        let frag_size = self.rxq.frag_size;
        if frag_size == 0 || frag_size > self.frame_sz {
            return Err(Errno::EOPNOTSUPP);
        }
        let frag = self.frags.last_mut().ok_or(Errno::EINVAL)?;
        let used = u64::from(frag.len) + u64::from(frag.offset % frag_size);
        let end = u64::from(frag.offset) + u64::from(frag.len) + u64::from(grow);
        if used + u64::from(grow) > u64::from(frag_size) || end > frag.frame.len() as u64 {
            return Err(Errno::EINVAL);
        }
        frag.frame.bytes().fill((frag.offset + frag.len) as usize, grow as usize, 0);
        frag.len += grow;
        self.frags_size += grow;
        Ok(())
    }

    /// Takes bytes off the last fragments, and off the linear part once there are none.
    fn shrink_frags(&mut self, shrink: u32) -> Result<(), Errno> {
        let mut rest = shrink;
        if i64::from(rest) > self.buff_len() as i64 - ETH_HLEN as i64 {
            return Err(Errno::EINVAL);
        }
        while let Some(frag) = self.frags.last_mut().filter(|_| rest > 0) {
            let cut = rest.min(frag.len);
            rest -= cut;
            self.frags_size -= cut;
            if cut == frag.len {
                self.frags.pop();
            } else {
                frag.len -= cut;
            }
        }
        if self.frags.is_empty() {
            self.flags &= !XdpBuffFlags::HAS_FRAGS;
            self.data_end -= u64::from(rest);
        }
        Ok(())
    }

    /// Makes at least `len` bytes of the packet linear, by moving bytes out of the fragments and, if the
    /// tail room is too small, the packet towards the start of the frame.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the packet is shorter or the frame too small.
    ///
    /// Kernel: `net/core/filter.c bpf_xdp_pull_data, v6.18`
    #[doc(alias = "bpf_xdp_pull_data")]
    pub fn pull_data(&mut self, len: u32) -> Result<(), Errno> {
        let linear = self.linear_len() as u64;
        let len = u64::from(len);
        if len <= linear {
            return Ok(());
        }
        let start = self.data_meta.min(self.data);
        let tailroom = self.hard_end() - self.data_end;
        let delta = len - linear;
        let headroom = start.checked_sub(self.frame_end());
        let room = headroom.map_or(i128::from(tailroom), |head| i128::from(tailroom) + i128::from(head));
        if len > self.buff_len() as u64 || i128::from(delta) > room {
            return Err(Errno::EINVAL);
        }
        if let Some(shift) = delta.checked_sub(tailroom).filter(|shift| *shift > 0) {
            let to = (start - shift - self.data_hard_start) as usize;
            self.frame.bytes().copy_from_shared(to, self.part(start, self.data_end));
            self.data_meta -= shift;
            self.data -= shift;
            self.data_end -= shift;
        }
        self.pull_frags(delta as u32);
        Ok(())
    }

    /// Moves the first `rest` bytes of the fragments behind the linear part, where there is room for them.
    fn pull_frags(&mut self, mut rest: u32) {
        let mut freed = 0;
        for frag in &mut self.frags {
            if rest == 0 {
                break;
            }
            let n = rest.min(frag.len);
            let bytes = frag.bytes().get(0, n as usize).expect("no more than the fragment has");
            self.frame.bytes().copy_from_shared((self.data_end - self.data_hard_start) as usize, bytes);
            self.data_end += u64::from(n);
            self.frags_size -= n;
            rest -= n;
            frag.offset += n;
            frag.len -= n;
            freed += usize::from(frag.len == 0);
        }
        self.frags.drain(..freed);
        if self.frags.is_empty() {
            self.flags &= !XdpBuffFlags::HAS_FRAGS;
        }
    }

    /// The end of the room that an `xdp_frame` takes at the start of the frame.
    const fn frame_end(&self) -> u64 {
        self.data_hard_start + XDP_FRAME_SIZE as u64
    }

    /// The end of the room for the packet.
    #[doc(alias = "xdp_data_hard_end")]
    const fn hard_end(&self) -> u64 {
        self.data_hard_start + self.frame_sz as u64 - XDP_TAILROOM as u64
    }
}

/// Whether the length of metadata is one that no packet can have.
///
/// Kernel: `include/net/xdp.h xdp_metalen_invalid, v6.18`
pub(super) const fn metalen_invalid(len: u64) -> bool {
    !len.is_multiple_of(4) || len > XDP_META_MAX as u64
}

fn moved(addr: u64, offset: i32) -> Result<u64, Errno> {
    addr.checked_add_signed(offset.into()).ok_or(Errno::EINVAL)
}
