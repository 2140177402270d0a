//! [`GuestMemory`]: from the addresses that a program holds to bytes.
//!
//! In a checked run an address is `region << 36 | BIAS + offset`. The bias keeps pointers recognisable
//! that a program moved before the start of their region. The region number holds a slot of the table
//! and a generation, so a pointer to something that is gone is told from a wrong one. In an unchecked
//! run addresses are the host's and there is no table.
//!
//! The packet is reached through here alone: whoever moves or resizes it does so in
//! [`GuestMemory::with_buff`], which ends all pointers into it.
// UNSAFETY: turns addresses that a program computed into memory.
#![allow(unsafe_code)]

mod access;

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

pub(super) use access::AtomicOp;
use mem::{Frame, SharedSlice, XdpBuff};

use super::regions::{CONTEXT, PACKET, Scratch};
use super::{Access, Fault};
use crate::maps::Map;
use crate::object::AttachType;
use crate::verifier::Verified;

/// What a region of memory is to the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum RegionKind {
    /// The context, `struct xdp_md`.
    Context,
    /// Metadata and linear part of the packet, or one of its fragments.
    Packet,
    /// Stack of the call frame of this depth.
    Stack(u8),
    /// A value of the map with this id.
    MapValue(u32),
    /// A key of the map with this id.
    MapKey(u32),
    /// The map with this id itself.
    Map(u32),
    /// A function of the program that may be called back: its first instruction.
    Callback(u32),
    /// A record reserved in the ring buffer with this id.
    RingbufRecord(u32),
    /// A kernel object that a helper or kfunc gave out, by the name of its type.
    Object(&'static str),
}

impl fmt::Display for RegionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Context => f.write_str("the context"),
            Self::Packet => f.write_str("the packet"),
            Self::Stack(depth) => write!(f, "the stack of call frame {depth}"),
            Self::MapValue(id) => write!(f, "a value of map {id}"),
            Self::MapKey(id) => write!(f, "a key of map {id}"),
            Self::Map(id) => write!(f, "map {id}"),
            Self::Callback(insn) => write!(f, "the function at insn {insn}"),
            Self::RingbufRecord(id) => write!(f, "a record of ring buffer {id}"),
            Self::Object(name) => write!(f, "an object of type {name}"),
        }
    }
}

/// The memory of one run, and its packet.
pub struct GuestMemory<'r, 'q> {
    /// The table of a checked run; `None` if addresses are the host's.
    table: Option<&'r mut Scratch>,
    buff: &'r mut XdpBuff<'q>,
    /// Memory that helpers gave the program, by its address.
    owned: BTreeMap<u64, Arc<Frame>>,
    /// Pointers to fragments that the program may hold.
    fragments: Vec<u64>,
    ctx: u64,
    packet: u64,
    attach_type: AttachType,
    owner: PhantomData<&'r Arc<Map>>,
}

impl<'r, 'q> GuestMemory<'r, 'q> {
    /// Memory of the checked interpreter.
    pub(super) fn checked(
        scratch: &'r mut Scratch,
        buff: &'r mut XdpBuff<'q>,
        attach_type: AttachType,
    ) -> Self {
        scratch.begin();
        let empty = SharedSlice::from_mut(&mut []);
        let ctx = scratch.renew(CONTEXT, RegionKind::Context, empty, false);
        let packet = scratch.renew(PACKET, RegionKind::Packet, buff.meta_and_linear(), true);
        let (owned, fragments) = (BTreeMap::new(), Vec::new());
        Self { table: Some(scratch), buff, owned, fragments, ctx, packet, attach_type, owner: PhantomData }
    }

    /// Memory of a program that may run without checks, as its proof says. Addresses are the host's.
    #[inline]
    pub(super) fn unchecked(_: &Verified, buff: &'r mut XdpBuff<'q>, attach_type: AttachType) -> Self {
        let (owned, fragments) = (BTreeMap::new(), Vec::new());
        Self { table: None, buff, owned, fragments, ctx: 0, packet: 0, attach_type, owner: PhantomData }
    }

    /// Where the packet's address is kept, for compiled programs.
    pub(super) const OFF_BUFF: usize = std::mem::offset_of!(Self, buff);

    /// The packet's address, as compiled programs get it.
    pub(super) fn buff_ptr(&mut self) -> *mut XdpBuff<'q> {
        std::ptr::from_mut(self.buff)
    }

    /// Goes on with another packet, in an unchecked run.
    #[inline]
    pub(super) fn next_packet(&mut self, buff: &'r mut XdpBuff<'q>) {
        self.buff = buff;
        if !self.owned.is_empty() {
            self.owned.clear();
        }
    }

    /// Puts the packet back that compiled code has exchanged for others.
    ///
    /// # Safety
    ///
    /// It must be what [`GuestMemory::buff_ptr`] answered before.
    pub(super) unsafe fn restore_buff(&mut self, buff: *mut XdpBuff<'q>) {
        // SAFETY: the caller's promise: it was borrowed for `'r`, and nobody else got it meanwhile.
        self.buff = unsafe { &mut *buff };
    }

    /// Where a checked run keeps a pointer that the program's instructions name, 0 if it is not known yet.
    #[inline]
    pub(super) fn constant(&mut self, program: usize, index: usize) -> Option<&mut u64> {
        Some(self.table.as_deref_mut()?.constant(program, index))
    }

    /// The packet.
    #[must_use]
    pub fn buff(&self) -> &XdpBuff<'q> {
        self.buff
    }

    /// Moves, resizes or replaces the packet. All pointers into it are stale afterwards, as the verifier
    /// takes them to be, whether or not anything moved.
    pub fn with_buff<R>(&mut self, change: impl FnOnce(&mut XdpBuff<'q>) -> R) -> R {
        let Some(table) = self.table.as_deref_mut() else { return change(self.buff) };
        table.retire(self.packet);
        for addr in self.fragments.drain(..) {
            table.retire(addr);
        }
        let result = change(self.buff);
        self.packet = table.renew(PACKET, RegionKind::Packet, self.buff.meta_and_linear(), true);
        result
    }

    /// The pointer to the context, as programs get it in R1.
    #[must_use]
    pub fn ctx(&self) -> u64 {
        match self.table {
            Some(_) => self.ctx,
            None => std::ptr::from_ref::<XdpBuff<'q>>(self.buff).expose_provenance() as u64,
        }
    }

    /// Checks that a helper's argument is the context.
    ///
    /// # Errors
    ///
    /// The violation if it is something else.
    pub fn check_ctx(&self, addr: u64) -> Result<(), Fault> {
        if self.table.is_none() || addr == self.ctx {
            return Ok(());
        }
        Err(Fault::illegal(format!("{addr:#x} is passed as the context, which it is not")))
    }

    /// Pointers to the start of the metadata, the packet and its end: what the program reads from
    /// `data_meta`, `data` and `data_end`.
    #[must_use]
    pub fn packet_bounds(&self) -> PacketBounds {
        let base = match self.table {
            Some(_) => self.packet,
            None => self.buff.meta_and_linear().addr(),
        };
        let data = base + self.buff.meta_len() as u64;
        let meta = if self.buff.metadata_unsupported() { data + 1 } else { base };
        PacketBounds { meta, data, end: data + self.buff.linear_len() as u64 }
    }

    /// A pointer to `len` bytes of the packet at `offset`; `None` if they do not lie in one piece.
    ///
    /// # Errors
    ///
    /// The violation of holding too many pointers.
    ///
    /// Kernel: `net/core/filter.c bpf_xdp_pointer, v6.18`
    #[doc(alias = "bpf_xdp_pointer")]
    pub fn packet_pointer(&mut self, offset: usize, len: usize) -> Result<Option<u64>, Fault> {
        let end = offset.checked_add(len);
        if end.is_some_and(|end| end <= self.buff.linear_len()) {
            return Ok(Some(self.packet_bounds().data + offset as u64));
        }
        let mut offset = offset.wrapping_sub(self.buff.linear_len());
        for frag in self.buff.frags() {
            let bytes = frag.bytes();
            if offset < bytes.len() {
                if bytes.get(offset, len).is_none() {
                    return Ok(None);
                }
                let base = match self.table.as_deref_mut() {
                    Some(table) => table.expose(RegionKind::Packet, bytes, true)?,
                    None => bytes.as_ptr().expose_provenance().get() as u64,
                };
                if self.table.is_some() && !self.fragments.contains(&base) {
                    self.fragments.push(base);
                }
                return Ok(Some(base + offset as u64));
            }
            offset = offset.wrapping_sub(bytes.len());
        }
        Ok(None)
    }

    /// Lets the program reach `bytes` and answers the pointer to `bytes[0]`. The same bytes get the same
    /// pointer as long as they are reachable.
    ///
    /// # Errors
    ///
    /// The violation of holding too many pointers.
    pub fn expose(&mut self, kind: RegionKind, bytes: SharedSlice<'r>, writable: bool) -> Result<u64, Fault> {
        match self.table.as_deref_mut() {
            Some(table) => table.expose(kind, bytes, writable),
            None => Ok(bytes.as_ptr().expose_provenance().get() as u64),
        }
    }

    /// Gives the program a pointer to a map.
    ///
    /// # Errors
    ///
    /// The violation of holding too many pointers.
    pub fn expose_map(&mut self, map: &'r Arc<Map>) -> Result<u64, Fault> {
        let ptr = NonNull::from_ref(map).cast();
        let Some(table) = self.table.as_deref_mut() else { return Ok(ptr.expose_provenance().get() as u64) };
        // SAFETY: no byte of it is accessed as memory: the region is opaque, and the length is 0.
        let bytes = unsafe { SharedSlice::from_raw(ptr, 0) };
        table.expose(RegionKind::Map(map.id()), bytes, false)
    }

    /// The map that a pointer of the program's names.
    ///
    /// # Errors
    ///
    /// The violation if it names something else.
    pub fn map(&self, addr: u64) -> Result<&'r Arc<Map>, Fault> {
        let host = match &self.table {
            None => std::ptr::with_exposed_provenance::<Arc<Map>>(addr as usize),
            Some(table) => match table.kind_at(addr) {
                Some((RegionKind::Map(_), host)) => host.cast_const().cast(),
                _ => return Err(Fault::illegal(format!("{addr:#x} is passed as a map, which it is not"))),
            },
        };
        // SAFETY: regions of this kind are made by `expose_map` alone, from references that live for
        // `'r`; unchecked, the verifier has proved that the argument is a pointer from there.
        Ok(unsafe { &*host })
    }

    /// Gives the program a copy of `bytes` in memory of its own, until [`GuestMemory::retire`] or the end
    /// of the run.
    ///
    /// # Errors
    ///
    /// The violation of holding too many pointers.
    pub fn own(&mut self, kind: RegionKind, bytes: &[u8], writable: bool) -> Result<u64, Fault> {
        let frame = Frame::new(bytes.len().max(1));
        frame.bytes().copy_from(0, bytes);
        self.give(kind, Arc::new(frame), bytes.len(), writable)
    }

    /// Gives the program a pointer to the first `len` bytes of memory that others have too, and keeps that
    /// until [`GuestMemory::retire`] or the end of the run. It may write them.
    ///
    /// # Errors
    ///
    /// The violation of holding too many pointers.
    ///
    /// # Panics
    ///
    /// If there are not so many bytes.
    pub fn share(&mut self, kind: RegionKind, frame: Arc<Frame>, len: usize) -> Result<u64, Fault> {
        self.give(kind, frame, len, true)
    }

    fn give(
        &mut self,
        kind: RegionKind,
        frame: Arc<Frame>,
        len: usize,
        writable: bool,
    ) -> Result<u64, Fault> {
        let view = frame.bytes().get(0, len).expect("at least as long");
        let addr = match self.table.as_deref_mut() {
            Some(table) => table.expose(kind, view, writable)?,
            None => view.as_ptr().expose_provenance().get() as u64,
        };
        self.owned.insert(addr, frame);
        Ok(addr)
    }

    /// The memory behind a pointer of [`GuestMemory::share`].
    #[must_use]
    pub fn shared(&self, addr: u64) -> Option<Arc<Frame>> {
        self.owned.get(&addr).cloned()
    }

    /// Ends what a pointer points to: later accesses through it are faults. It must be the pointer that
    /// [`GuestMemory::expose`] or [`GuestMemory::own`] answered.
    pub fn retire(&mut self, addr: u64) {
        if let Some(table) = self.table.as_deref_mut() {
            table.retire(addr);
        }
        self.owned.remove(&addr);
    }

    /// The host address that a pointer to the start of something stands for; `None` if it is not alive.
    #[must_use]
    pub fn host_addr(&self, addr: u64) -> Option<u64> {
        match &self.table {
            None => Some(addr),
            Some(table) => table.kind_at(addr).map(|(_, host)| host.addr() as u64),
        }
    }

    /// What a live pointer points to, if it points to the start of it. Unchecked runs do not know.
    #[must_use]
    pub fn kind_at(&self, addr: u64) -> Option<RegionKind> {
        self.table.as_ref()?.kind_at(addr).map(|(kind, _)| kind)
    }

    /// Enters a call frame and answers its frame pointer, R10.
    pub(super) fn push_frame(&mut self) -> Result<u64, Fault> {
        self.table.as_deref_mut().map_or(Ok(0), Scratch::push_frame)
    }

    /// Leaves call frames until `keep` are left.
    pub(super) fn unwind_frames(&mut self, keep: usize) {
        if let Some(table) = self.table.as_deref_mut() {
            table.unwind_frames(keep);
        }
    }

    /// Call frames of the run, callbacks included.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.table.as_deref().map_or(0, Scratch::frames)
    }

    /// What an address of a checked run is: the region and the offset into it, bytes. Stack offsets count
    /// from the frame pointer, those of the packet from the start of the metadata.
    #[must_use]
    pub fn describe(&self, addr: u64) -> Option<(RegionKind, i64)> {
        self.table.as_deref()?.describe(addr)
    }

    /// Whether every access is checked, so that addresses are not the host's.
    #[must_use]
    pub fn is_checked(&self) -> bool {
        self.table.is_some()
    }

    /// Copies bytes from an address that nothing is known of, if they are there to be read; answers whether
    /// they are. Checked programs reach their own memory so, unchecked ones whatever the process has.
    #[must_use]
    pub fn probe(&self, addr: u64, dst: &mut [u8]) -> bool {
        if !self.is_checked() {
            return mem::probe_read(addr, dst);
        }
        let bytes = self.slice(addr, dst.len() as u64, Access::Read);
        bytes.is_ok_and(|bytes| {
            bytes.copy_to(0, dst);
            true
        })
    }

    /// The bytes that a pointer names, checked.
    ///
    /// # Errors
    ///
    /// The violation, if the program may not touch them so.
    #[inline]
    pub fn slice(&self, addr: u64, len: u64, access: Access) -> Result<SharedSlice<'_>, Fault> {
        let Some(table) = self.table.as_deref() else {
            // SAFETY: a run is unchecked only if the verifier has accepted the program, and it proves
            // for each access and each helper argument that the bytes are there.
            return Ok(unsafe { raw(addr, len) });
        };
        if len == 0 {
            // SAFETY: no bytes at a dangling pointer are always accessible.
            return Ok(unsafe { SharedSlice::from_raw(NonNull::dangling(), 0) });
        }
        if let Some(region) = table.region(addr) {
            let offset = addr.wrapping_sub(region.guest);
            let limit = if access == Access::Read { region.read } else { region.write };
            if offset < limit && len <= limit - offset {
                // SAFETY: a region with a limit is alive, which means that its bytes are there: those
                // exposed live for `'r`, and the others end by methods that take `&mut self`.
                return Ok(unsafe { view(region.host, offset, len) });
            }
        }
        match table.touch_stack(addr, len) {
            Some(result) => result,
            None => Err(table.refuse(addr, len, access)),
        }
    }
}

/// See [`GuestMemory::packet_bounds`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PacketBounds {
    /// Start of the metadata; one more than `data` where there can be none.
    pub meta: u64,
    /// Start of the packet.
    pub data: u64,
    /// One past the last byte of the linear part.
    pub end: u64,
}

/// # Safety
///
/// `len` bytes at `offset` of `host` must be accessible for `'a`, by atomics and compiled code alone.
#[inline]
unsafe fn view<'a>(host: *mut u8, offset: u64, len: u64) -> SharedSlice<'a> {
    // SAFETY: the caller's promise.
    let ptr = unsafe { NonNull::new_unchecked(host.add(offset as usize)) };
    // SAFETY: the caller's promise.
    unsafe { SharedSlice::from_raw(ptr, len as usize) }
}

/// # Safety
///
/// `len` bytes at `addr` must be accessible for `'a`, by atomics and compiled code alone.
unsafe fn raw<'a>(addr: u64, len: u64) -> SharedSlice<'a> {
    let ptr = NonNull::new(std::ptr::with_exposed_provenance_mut::<u8>(addr as usize));
    match ptr {
        // SAFETY: the caller's promise.
        Some(ptr) => unsafe { SharedSlice::from_raw(ptr, len as usize) },
        // SAFETY: no bytes at a dangling pointer are always accessible.
        None => unsafe { SharedSlice::from_raw(NonNull::dangling(), 0) },
    }
}
