//! Dynptrs: memory whose size only the run knows, and the helpers that work on it. The kfuncs for them
//! are in [`crate::kfuncs`].

use mem::SharedSlice;
use uapi::Errno;

use super::{Args, Reply, errno, status};
use crate::vm::{Fault, Run};

/// Most bytes that a dynptr covers.
const MAX_SIZE: u64 = (1 << 24) - 1;
const SIZE_MASK: u32 = 0x00ff_ffff;
const TYPE_SHIFT: u32 = 28;
const RDONLY: u32 = 1 << 31;

/// What the length of a packet's dynptr has above it.
pub(crate) const DYNPTR_OF_PACKET: u32 = 4 << TYPE_SHIFT;

/// Largest offset and length of what can be pointed to in a packet.
const MAX_PACKET_OFFSET: u64 = 0xffff;

/// What a dynptr covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DynptrKind {
    /// Memory of the program: a map's value.
    Local,
    /// A record of a ring buffer.
    Ringbuf,
    /// The packet.
    Xdp,
}

/// A dynptr as it stands on the program's stack.
///
/// Kernel: `include/linux/bpf.h struct bpf_dynptr_kern, v6.18`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Dynptr {
    pub(crate) data: u64,
    pub(crate) kind: DynptrKind,
    pub(crate) size: u32,
    pub(crate) offset: u32,
    pub(crate) rdonly: bool,
}

/// `sizeof(struct bpf_dynptr)`.
const DYNPTR_SIZE: u64 = 16;

impl Dynptr {
    pub(crate) fn new(data: u64, kind: DynptrKind, size: u32) -> Self {
        Self { data, kind, size, offset: 0, rdonly: false }
    }

    /// Reads a dynptr; `None` for the null one.
    ///
    /// # Errors
    ///
    /// The violation if there is none.
    pub(crate) fn load(run: &Run<'_, '_>, addr: u64) -> Result<Option<Self>, Fault> {
        let bytes = run.read(addr, DYNPTR_SIZE)?;
        let (data, size, offset) = (bytes.read_u64(0), bytes.read_u32(8), bytes.read_u32(12));
        if data == 0 {
            return Ok(None);
        }
        let kind = match (size & !RDONLY) >> TYPE_SHIFT {
            1 => DynptrKind::Local,
            2 => DynptrKind::Ringbuf,
            4 => DynptrKind::Xdp,
            _ => return Err(Fault::illegal(format!("what {addr:#x} points to is no dynptr"))),
        };
        Ok(Some(Self { data, kind, size: size & SIZE_MASK, offset, rdonly: size & RDONLY != 0 }))
    }

    /// Writes a dynptr, or the null one.
    pub(crate) fn store(this: Option<Self>, run: &Run<'_, '_>, addr: u64) -> Result<(), Fault> {
        let bytes = run.write(addr, DYNPTR_SIZE)?;
        let kind = |kind| match kind {
            DynptrKind::Local => 1,
            DynptrKind::Ringbuf => 2,
            DynptrKind::Xdp => 4,
        };
        let (data, size, offset) = this.map_or((0, 0, 0), |d| {
            (d.data, d.size | kind(d.kind) << TYPE_SHIFT | if d.rdonly { RDONLY } else { 0 }, d.offset)
        });
        bytes.write_u64(0, data);
        bytes.write_u32(8, size);
        bytes.write_u32(12, offset);
        Ok(())
    }

    /// Whether a stretch lies within.
    ///
    /// Kernel: `kernel/bpf/helpers.c bpf_dynptr_check_off_len, v6.18`
    pub(crate) fn check(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let size = u64::from(self.size);
        if len > size || offset > size - len { Err(Errno::E2BIG) } else { Ok(()) }
    }

    /// Where in the whole a stretch starts.
    pub(crate) fn at(&self, offset: u64) -> u64 {
        u64::from(self.offset) + offset
    }

    /// Copies out, after [`Self::check`].
    pub(crate) fn read(
        &self,
        run: &Run<'_, '_>,
        offset: u64,
        dst: SharedSlice<'_>,
    ) -> Result<Result<(), Errno>, Fault> {
        if self.kind == DynptrKind::Xdp {
            return Ok(run.buff().load_bytes(self.at(offset) as u32, dst));
        }
        let src = run.read(self.data.wrapping_add(self.at(offset)), dst.len() as u64)?;
        dst.copy_from_shared(0, src);
        Ok(Ok(()))
    }

    /// Copies in, after [`Self::check`].
    pub(crate) fn write(
        &self,
        run: &Run<'_, '_>,
        offset: u64,
        src: SharedSlice<'_>,
    ) -> Result<Result<(), Errno>, Fault> {
        if self.kind == DynptrKind::Xdp {
            return Ok(run.buff().store_bytes(self.at(offset) as u32, src));
        }
        let dst = run.write(self.data.wrapping_add(self.at(offset)), src.len() as u64)?;
        dst.copy_from_shared(0, src);
        Ok(Ok(()))
    }

    /// A pointer to a stretch that lies in one piece; `None` if it does not.
    ///
    /// Kernel: `kernel/bpf/helpers.c bpf_dynptr_slice, v6.18`
    pub(crate) fn slice(&self, run: &mut Run<'_, '_>, offset: u64, len: u64) -> Result<Option<u64>, Fault> {
        if self.check(offset, len).is_err() {
            return Ok(None);
        }
        let at = self.at(offset);
        match self.kind {
            DynptrKind::Local | DynptrKind::Ringbuf => Ok(Some(self.data.wrapping_add(at))),
            DynptrKind::Xdp if at > MAX_PACKET_OFFSET || len > MAX_PACKET_OFFSET => Ok(None),
            DynptrKind::Xdp => run.memory.packet_pointer(at as usize, len as usize),
        }
    }
}

/// A dynptr of memory of the program.
///
/// Kernel: `kernel/bpf/helpers.c bpf_dynptr_from_mem, v6.18`
pub(super) fn dynptr_from_mem(run: &mut Run<'_, '_>, [data, size, flags, ptr, _]: Args) -> Reply {
    let made = match (size > MAX_SIZE, flags) {
        (true, _) => Err(Errno::E2BIG),
        (false, 0) => Ok(Dynptr::new(data, DynptrKind::Local, size as u32)),
        (false, _) => Err(Errno::EINVAL),
    };
    if made.is_ok() {
        run.read(data, size)?;
    }
    Dynptr::store(made.ok(), run, ptr)?;
    status(made.map(|_| ()))
}

/// Copies out of a dynptr.
///
/// Kernel: `kernel/bpf/helpers.c bpf_dynptr_read, v6.18`
pub(super) fn dynptr_read(run: &mut Run<'_, '_>, [dst, len, src, offset, flags]: Args) -> Reply {
    let dst = run.write(dst, len)?;
    let Some(src) = Dynptr::load(run, src)?.filter(|_| flags == 0) else { return errno(Errno::EINVAL) };
    match src.check(offset, len) {
        Ok(()) => status(src.read(run, offset, dst)?),
        Err(e) => errno(e),
    }
}

/// Copies into a dynptr.
///
/// Kernel: `kernel/bpf/helpers.c bpf_dynptr_write, v6.18`
pub(super) fn dynptr_write(run: &mut Run<'_, '_>, [dst, offset, src, len, flags]: Args) -> Reply {
    let src = run.read(src, len)?;
    let Some(dst) = Dynptr::load(run, dst)?.filter(|dst| !dst.rdonly) else { return errno(Errno::EINVAL) };
    match dst.check(offset, len) {
        Ok(()) if flags != 0 => errno(Errno::EINVAL),
        Ok(()) => status(dst.write(run, offset, src)?),
        Err(e) => errno(e),
    }
}

/// A pointer into a dynptr of memory or of a record.
///
/// Kernel: `kernel/bpf/helpers.c bpf_dynptr_data, v6.18`
pub(super) fn dynptr_data(run: &mut Run<'_, '_>, [ptr, offset, len, ..]: Args) -> Reply {
    match Dynptr::load(run, ptr)? {
        Some(d) if !d.rdonly && d.kind != DynptrKind::Xdp && d.check(offset, len).is_ok() => {
            Ok(d.data.wrapping_add(d.at(offset)))
        }
        _ => Ok(0),
    }
}
