//! Loads and stores of the checked interpreter.
//!
//! The common case is one lookup of the region and two comparisons. What is not so simple goes out of
//! line: the context, stack that a frame touches for the first time, and whatever is a fault.
// UNSAFETY: reads and writes the bytes of regions that have been checked.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use mem::SharedSlice;
use uapi::bpf::{BPF_ADD, BPF_AND, BPF_CMPXCHG, BPF_FETCH, BPF_OR, BPF_XCHG};

use super::{GuestMemory, RegionKind, Scratch};
use crate::object::AttachType;
use crate::vm::{Access, Fault};

/// An atomic instruction, taken apart.
#[derive(Clone, Copy)]
pub(in crate::vm) struct AtomicOp {
    /// `BPF_ADD | BPF_FETCH` and so on.
    pub(in crate::vm) op: i32,
    /// The source register.
    pub(in crate::vm) operand: u64,
    /// R0, for `BPF_CMPXCHG`.
    pub(in crate::vm) expected: u64,
}

impl GuestMemory<'_, '_> {
    #[inline(always)]
    fn table(&mut self) -> &mut Scratch {
        self.table.as_deref_mut().expect("the interpreter runs on checked memory")
    }

    /// The address of `size` bytes, if the common case applies.
    #[inline(always)]
    fn fast(&mut self, addr: u64, size: u64, access: Access) -> Option<*mut u8> {
        let region = self.table().region(addr)?;
        let limit = if access == Access::Read { region.read } else { region.write };
        let offset = addr.wrapping_sub(region.guest);
        if offset < limit && size <= limit - offset {
            // SAFETY: `offset` lies within the region's bytes.
            return Some(unsafe { region.host.add(offset as usize) });
        }
        None
    }

    /// Loads 1, 2, 4 or 8 bytes, zero-extended. `signed` says that the instruction extends the sign.
    #[inline(always)]
    pub(in crate::vm) fn load<const SIZE: u64>(&mut self, addr: u64, signed: bool) -> Result<u64, Fault> {
        match self.fast(addr, SIZE, Access::Read) {
            // SAFETY: `SIZE` bytes there belong to a live region; see `GuestMemory::slice`.
            Some(ptr) => Ok(unsafe { read::<SIZE>(ptr) }),
            None => self.load_slow(addr, SIZE, signed),
        }
    }

    #[cold]
    #[inline(never)]
    fn load_slow(&mut self, addr: u64, size: u64, signed: bool) -> Result<u64, Fault> {
        if self.is_context(addr) {
            return self.load_context(addr, size, signed);
        }
        let bytes = self.slice(addr, size, Access::Read)?;
        let value = match size {
            1 => u64::from(bytes.read_u8(0)),
            2 => u64::from(bytes.read_u16(0)),
            4 => u64::from(bytes.read_u32(0)),
            _ => bytes.read_u64(0),
        };
        self.table().widen_frame(addr);
        Ok(value)
    }

    /// Loads 1, 2, 4 or 8 bytes if they are there, else 0.
    #[cold]
    pub(in crate::vm) fn probe_load(&mut self, addr: u64, size: u64, signed: bool) -> u64 {
        let value = self.load_slow(addr, size, signed).unwrap_or(0);
        let unused = 64 - 8 * size as u32;
        if signed { ((value << unused) as i64 >> unused) as u64 } else { value }
    }

    /// Stores the low 1, 2, 4 or 8 bytes of a value.
    #[inline(always)]
    pub(in crate::vm) fn store<const SIZE: u64>(&mut self, addr: u64, value: u64) -> Result<(), Fault> {
        match self.fast(addr, SIZE, Access::Write) {
            // SAFETY: as for loading.
            Some(ptr) => unsafe { write::<SIZE>(ptr, value) },
            None => self.store_slow(addr, SIZE, value)?,
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn store_slow(&mut self, addr: u64, size: u64, value: u64) -> Result<(), Fault> {
        let bytes = self.slice(addr, size, Access::Write)?;
        match size {
            1 => bytes.write_u8(0, value as u8),
            2 => bytes.write_u16(0, value as u16),
            4 => bytes.write_u32(0, value as u32),
            _ => bytes.write_u64(0, value),
        }
        self.table().widen_frame(addr);
        Ok(())
    }

    /// The bytes of an atomic access. The kernel's verifier allows none to the packet.
    fn atomic_bytes(&mut self, addr: u64, size: u64, access: Access) -> Result<SharedSlice<'_>, Fault> {
        if matches!(self.table().kind_of(addr), Some(RegionKind::Packet | RegionKind::Context)) {
            let text = format!("atomic {access} of {size} bytes of the packet or the context is not allowed");
            return Err(Fault::illegal(text));
        }
        self.slice(addr, size, access)
    }

    /// A 32-bit atomic operation; answers the old value.
    pub(in crate::vm) fn atomic32(&mut self, addr: u64, atomic: AtomicOp) -> Result<u64, Fault> {
        let bytes = self.atomic_bytes(addr, 4, Access::Write)?;
        let old = match bytes.atomic_u32(0) {
            Some(cell) => update32(cell, atomic),
            None => {
                let cell = AtomicU32::new(bytes.read_u32(0));
                let old = update32(&cell, atomic);
                bytes.write_u32(0, cell.into_inner());
                old
            }
        };
        Ok(u64::from(old))
    }

    /// A 64-bit atomic operation; answers the old value.
    pub(in crate::vm) fn atomic64(&mut self, addr: u64, atomic: AtomicOp) -> Result<u64, Fault> {
        let bytes = self.atomic_bytes(addr, 8, Access::Write)?;
        Ok(match bytes.atomic_u64(0) {
            Some(cell) => update64(cell, atomic),
            None => {
                let cell = AtomicU64::new(bytes.read_u64(0));
                let old = update64(&cell, atomic);
                bytes.write_u64(0, cell.into_inner());
                old
            }
        })
    }

    /// `BPF_LOAD_ACQ` of `size` bytes.
    pub(in crate::vm) fn load_acquire(&mut self, addr: u64, size: u64) -> Result<u64, Fault> {
        self.atomic_bytes(addr, size, Access::Read)?;
        let value = match size {
            1 => self.load::<1>(addr, false),
            2 => self.load::<2>(addr, false),
            4 => self.load::<4>(addr, false),
            _ => self.load::<8>(addr, false),
        };
        std::sync::atomic::fence(Ordering::Acquire);
        value
    }

    /// `BPF_STORE_REL` of `size` bytes.
    pub(in crate::vm) fn store_release(&mut self, addr: u64, size: u64, value: u64) -> Result<(), Fault> {
        self.atomic_bytes(addr, size, Access::Write)?;
        std::sync::atomic::fence(Ordering::Release);
        match size {
            1 => self.store::<1>(addr, value),
            2 => self.store::<2>(addr, value),
            4 => self.store::<4>(addr, value),
            _ => self.store::<8>(addr, value),
        }
    }

    fn is_context(&self, addr: u64) -> bool {
        // 36 bits are the offset into a region, half of them below its start.
        addr >> 36 == self.ctx >> 36
    }

    /// What a load from `struct xdp_md` gives: pointers into the packet, or numbers.
    ///
    /// Kernel: `net/core/filter.c xdp_is_valid_access, xdp_convert_ctx_access, v6.18`
    #[doc(alias = "xdp_is_valid_access")]
    fn load_context(&self, addr: u64, size: u64, signed: bool) -> Result<u64, Fault> {
        let offset = addr.wrapping_sub(self.ctx) as i64;
        let bounds = self.packet_bounds();
        let rxq = self.buff.rxq();
        let egress = self.attach_type == AttachType::Devmap;
        Ok(match offset {
            _ if size != 4 => return Err(invalid_context(offset, size)),
            0 if !signed => bounds.data,
            4 if !signed => bounds.end,
            8 if !signed => bounds.meta,
            12 => u64::from(rxq.ifindex),
            16 => u64::from(rxq.queue_index),
            20 if egress => u64::from(self.buff.txq().map_or(0, |txq| txq.ifindex)),
            _ => return Err(invalid_context(offset, size)),
        })
    }
}

#[cold]
fn invalid_context(offset: i64, size: u64) -> Fault {
    Fault::illegal(format!("invalid bpf_context access off={offset} size={size}"))
}

/// # Safety
///
/// `SIZE` bytes at `ptr` must be readable by atomics.
#[inline(always)]
unsafe fn read<const SIZE: u64>(ptr: *mut u8) -> u64 {
    if !ptr.addr().is_multiple_of(SIZE as usize) {
        // SAFETY: the caller's promise.
        return unsafe { read_unaligned::<SIZE>(ptr) };
    }
    // SAFETY: the caller's promise; aligned.
    unsafe {
        match SIZE {
            1 => u64::from(AtomicU8::from_ptr(ptr).load(Ordering::Relaxed)),
            2 => u64::from(AtomicU16::from_ptr(ptr.cast()).load(Ordering::Relaxed)),
            4 => u64::from(AtomicU32::from_ptr(ptr.cast()).load(Ordering::Relaxed)),
            _ => AtomicU64::from_ptr(ptr.cast()).load(Ordering::Relaxed),
        }
    }
}

/// In the largest pieces that alignment allows: headers behind an Ethernet header are at even addresses.
///
/// # Safety
///
/// As for [`read`].
#[inline(never)]
unsafe fn read_unaligned<const SIZE: u64>(ptr: *mut u8) -> u64 {
    let step = piece(ptr);
    let mut value = 0;
    for at in (0..SIZE).step_by(step as usize) {
        // SAFETY: the caller's promise; `at + step` is at most `SIZE`, since both are powers of two.
        let part = unsafe {
            let ptr = ptr.add(at as usize);
            match step {
                4 => read::<4>(ptr),
                2 => read::<2>(ptr),
                _ => read::<1>(ptr),
            }
        };
        value |= part << (at * 8);
    }
    value
}

/// The alignment of an address that is not aligned to 8, bytes.
fn piece(ptr: *mut u8) -> u64 {
    1 << (ptr.addr() | 8).trailing_zeros()
}

/// # Safety
///
/// `SIZE` bytes at `ptr` must be writable by atomics.
#[inline(always)]
unsafe fn write<const SIZE: u64>(ptr: *mut u8, value: u64) {
    if !ptr.addr().is_multiple_of(SIZE as usize) {
        // SAFETY: the caller's promise.
        return unsafe { write_unaligned::<SIZE>(ptr, value) };
    }
    // SAFETY: the caller's promise; aligned.
    unsafe {
        match SIZE {
            1 => AtomicU8::from_ptr(ptr).store(value as u8, Ordering::Relaxed),
            2 => AtomicU16::from_ptr(ptr.cast()).store(value as u16, Ordering::Relaxed),
            4 => AtomicU32::from_ptr(ptr.cast()).store(value as u32, Ordering::Relaxed),
            _ => AtomicU64::from_ptr(ptr.cast()).store(value, Ordering::Relaxed),
        }
    }
}

/// # Safety
///
/// As for [`write`].
#[inline(never)]
unsafe fn write_unaligned<const SIZE: u64>(ptr: *mut u8, value: u64) {
    let step = piece(ptr);
    for at in (0..SIZE).step_by(step as usize) {
        // SAFETY: the caller's promise; `at + step` is at most `SIZE`, since both are powers of two.
        unsafe {
            let (ptr, part) = (ptr.add(at as usize), value >> (at * 8));
            match step {
                4 => write::<4>(ptr, part),
                2 => write::<2>(ptr, part),
                _ => write::<1>(ptr, part),
            }
        }
    }
}

macro_rules! update {
    ($name:ident, $atomic:ty, $int:ty) => {
        /// Does the operation and answers the old value. With `BPF_FETCH` it is a full barrier, as in the
        /// kernel.
        fn $name(cell: &$atomic, atomic: AtomicOp) -> $int {
            let operand = atomic.operand as $int;
            let order = if atomic.op & BPF_FETCH != 0 { Ordering::SeqCst } else { Ordering::Relaxed };
            const ADD: i32 = BPF_ADD as i32;
            const AND: i32 = BPF_AND as i32;
            const OR: i32 = BPF_OR as i32;
            match atomic.op {
                BPF_XCHG => return cell.swap(operand, order),
                BPF_CMPXCHG => {
                    let result = cell.compare_exchange(atomic.expected as $int, operand, order, order);
                    return result.unwrap_or_else(|old| old);
                }
                _ => {}
            }
            match atomic.op & !BPF_FETCH {
                ADD => cell.fetch_add(operand, order),
                AND => cell.fetch_and(operand, order),
                OR => cell.fetch_or(operand, order),
                _ => cell.fetch_xor(operand, order),
            }
        }
    };
}

update!(update32, AtomicU32, u32);
update!(update64, AtomicU64, u64);
