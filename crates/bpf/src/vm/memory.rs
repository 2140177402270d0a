//! [`GuestMemory`]: from the addresses that a program holds to bytes.
//!
//! A guest address is `region << 40 | BIAS + offset`. The bias keeps pointers recognisable that a
//! program moved before the start of their region. Regions are never reused within a run, so a pointer to
//! something that is gone is told from a wrong one.
// UNSAFETY: turns addresses that a verified program computed into memory.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::fmt;
use std::ptr::NonNull;

use mem::SharedSlice;

use super::{Access, Fault, FaultKind};

/// What a region of memory is to the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum RegionKind {
    /// The context, `struct xdp_md`.
    Context,
    /// Metadata and linear part of the packet.
    Packet,
    /// Stack of the call frame of this depth.
    Stack(u8),
    /// A value of the map with this id.
    MapValue(u32),
    /// The map with this id itself.
    Map(u32),
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
            Self::Map(id) => write!(f, "map {id}"),
            Self::RingbufRecord(id) => write!(f, "a record of ring buffer {id}"),
            Self::Object(name) => write!(f, "an object of type {name}"),
        }
    }
}

/// One region. `start..start + limit` may be accessed.
struct Region<'r> {
    kind: RegionKind,
    bytes: SharedSlice<'r>,
    start: u64,
    writable: bool,
    alive: bool,
}

/// The memory of one run.
pub struct GuestMemory<'r> {
    regions: Vec<Region<'r>>,
    by_host: HashMap<(u64, usize), u64>,
    checked: bool,
}

const REGION_SHIFT: u32 = 40;
const BIAS: u64 = 1 << 36;
const OFFSET_MASK: u64 = (1 << REGION_SHIFT) - 1;

impl<'r> GuestMemory<'r> {
    /// Memory of the checked interpreter.
    #[must_use]
    pub fn checked() -> Self {
        Self { regions: Vec::new(), by_host: HashMap::new(), checked: true }
    }

    /// Lets the program reach `bytes` and answers the pointer to `bytes[0]`. The same bytes get the same
    /// pointer as long as they are reachable.
    pub fn expose(&mut self, kind: RegionKind, bytes: SharedSlice<'r>, writable: bool) -> u64 {
        if !self.checked {
            return bytes.addr();
        }
        let host = (bytes.addr(), bytes.len());
        if let Some(addr) = self.by_host.get(&host) {
            return *addr;
        }
        let addr = self.push(Region { kind, bytes, start: 0, writable, alive: true });
        self.by_host.insert(host, addr);
        addr
    }

    fn push(&mut self, region: Region<'r>) -> u64 {
        self.regions.push(region);
        ((self.regions.len() as u64) << REGION_SHIFT) + BIAS
    }

    /// Ends a region: later accesses through pointers to it are faults.
    pub fn retire(&mut self, addr: u64) {
        if let Some(region) = self.region_index(addr).and_then(|i| self.regions.get_mut(i)) {
            region.alive = false;
            self.by_host.remove(&(region.bytes.addr(), region.bytes.len()));
        }
    }

    fn region_index(&self, addr: u64) -> Option<usize> {
        if !self.checked {
            return None;
        }
        (addr >> REGION_SHIFT).checked_sub(1).map(|i| i as usize)
    }

    /// The bytes that a pointer names, checked.
    ///
    /// # Errors
    ///
    /// The violation, if the program may not touch them so.
    #[inline]
    pub fn slice(&self, addr: u64, len: u64, access: Access) -> Result<SharedSlice<'r>, Fault> {
        if !self.checked {
            // SAFETY: a run is unchecked only if the verifier has accepted the program, and it proves
            // for each access and each helper argument that the bytes are there.
            return Ok(unsafe { raw(addr, len) });
        }
        let region = self.region_index(addr).and_then(|i| self.regions.get(i));
        let Some(region) = region else { return Err(FaultKind::NotAPointer { addr, len, access }.into()) };
        let offset = (addr & OFFSET_MASK) as i64 - BIAS as i64 - region.start as i64;
        let limit = region.bytes.len() as u64;
        let fits = offset >= 0 && (offset as u64).checked_add(len).is_some_and(|end| end <= limit);
        if !region.alive || !fits || (access == Access::Write && !region.writable) {
            return Err(refuse(region, offset, len, access));
        }
        Ok(region.bytes.get(offset as usize, len as usize).expect("checked against the region"))
    }
}

#[cold]
fn refuse(region: &Region<'_>, offset: i64, len: u64, access: Access) -> Fault {
    let (kind, limit) = (region.kind, region.bytes.len() as u64);
    if !region.alive {
        return FaultKind::Stale { region: kind, access }.into();
    }
    if access == Access::Write && !region.writable {
        return FaultKind::Denied { region: kind, access }.into();
    }
    FaultKind::OutOfBounds { region: kind, offset, len, limit, access }.into()
}

/// # Safety
///
/// `len` bytes at `addr` must be accessible for `'r`, by atomics and compiled code alone.
unsafe fn raw<'r>(addr: u64, len: u64) -> SharedSlice<'r> {
    let ptr = NonNull::new(std::ptr::with_exposed_provenance_mut::<u8>(addr as usize));
    match ptr {
        // SAFETY: the caller's promise.
        Some(ptr) => unsafe { SharedSlice::from_raw(ptr, len as usize) },
        // SAFETY: no bytes at a dangling pointer are always accessible.
        None => unsafe { SharedSlice::from_raw(NonNull::dangling(), 0) },
    }
}
