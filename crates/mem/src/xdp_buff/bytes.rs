//! Reading and writing a packet across its fragments.

use uapi::Errno;

use super::XdpBuff;
use crate::SharedSlice;

/// Where a stretch of the packet lies.
pub enum PacketPart<'a> {
    /// In one piece.
    Whole(SharedSlice<'a>),
    /// In several pieces, so that it has to be copied.
    Split,
}

/// Largest offset and length of [`XdpBuff::load_bytes`] and its kin.
const MAX_OFFSET: u32 = 0xffff;

impl XdpBuff<'_> {
    /// Where `len` bytes at `offset` of the packet lie.
    ///
    /// # Errors
    ///
    /// `EFAULT` if offset or length is above 65,535; `EINVAL` if the packet is shorter.
    ///
    /// Kernel: `net/core/filter.c bpf_xdp_pointer, v6.18`
    #[doc(alias = "bpf_xdp_pointer")]
    pub fn locate(&self, offset: u32, len: u32) -> Result<PacketPart<'_>, Errno> {
        if offset > MAX_OFFSET || len > MAX_OFFSET {
            return Err(Errno::EFAULT);
        }
        if (offset + len) as usize > self.buff_len() {
            return Err(Errno::EINVAL);
        }
        let (mut offset, len) = (offset as usize, len as usize);
        for part in self.parts() {
            if offset < part.len() {
                return Ok(part.get(offset, len).map_or(PacketPart::Split, PacketPart::Whole));
            }
            offset -= part.len();
        }
        // No bytes at the very end.
        Ok(self.linear().get(0, 0).map_or(PacketPart::Split, PacketPart::Whole))
    }

    /// Copies bytes of the packet to `dst`.
    ///
    /// # Errors
    ///
    /// As [`Self::locate`].
    ///
    /// Kernel: `net/core/filter.c bpf_xdp_load_bytes, v6.18`
    #[doc(alias = "bpf_xdp_load_bytes")]
    pub fn load_bytes(&self, offset: u32, dst: SharedSlice<'_>) -> Result<(), Errno> {
        self.locate(offset, length(dst)?)?;
        self.copy_out(offset as usize, dst);
        Ok(())
    }

    /// Copies bytes from `src` into the packet.
    ///
    /// # Errors
    ///
    /// As [`Self::locate`].
    ///
    /// Kernel: `net/core/filter.c bpf_xdp_store_bytes, v6.18`
    #[doc(alias = "bpf_xdp_store_bytes")]
    pub fn store_bytes(&self, offset: u32, src: SharedSlice<'_>) -> Result<(), Errno> {
        self.locate(offset, length(src)?)?;
        self.copy_in(offset as usize, src);
        Ok(())
    }

    /// Copies bytes of the packet to `dst`, as many as both have.
    pub fn copy_out(&self, offset: usize, dst: SharedSlice<'_>) {
        self.each_part(offset, dst.len(), |part, at| dst.copy_from_shared(at, part));
    }

    /// Copies bytes from `src` into the packet, as many as both have.
    pub fn copy_in(&self, offset: usize, src: SharedSlice<'_>) {
        self.each_part(offset, src.len(), |part, at| {
            part.copy_from_shared(0, src.get(at, part.len()).expect("within the source"));
        });
    }

    /// Metadata, then the packet with its fragments.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let head = self.meta_and_linear();
        let mut bytes = vec![0; head.len() + self.frags_size as usize];
        head.copy_to(0, &mut bytes[..head.len()]);
        let mut at = head.len();
        for frag in &self.frags {
            let end = at + frag.len as usize;
            frag.bytes().copy_to(0, &mut bytes[at..end]);
            at = end;
        }
        bytes
    }

    /// The linear part, then the fragments.
    pub fn parts(&self) -> impl Iterator<Item = SharedSlice<'_>> {
        std::iter::once(self.linear()).chain(self.frags.iter().map(super::Frag::bytes))
    }

    /// Calls `f` with each piece of `len` bytes at `offset` of the packet, and its place in the whole.
    fn each_part(&self, offset: usize, len: usize, mut f: impl FnMut(SharedSlice<'_>, usize)) {
        let (mut skip, mut done) = (offset, 0);
        for part in self.parts() {
            if done == len {
                break;
            }
            if skip >= part.len() {
                skip -= part.len();
                continue;
            }
            let n = (part.len() - skip).min(len - done);
            f(part.get(skip, n).expect("within the part"), done);
            done += n;
            skip = 0;
        }
    }
}

fn length(bytes: SharedSlice<'_>) -> Result<u32, Errno> {
    u32::try_from(bytes.len()).map_err(|_| Errno::EFAULT)
}
