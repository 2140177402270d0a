//! How machine code calls helpers: with R1 to R5 and the run in registers.
//!
//! [`native`] makes such a function of any helper. [`of_map`] knows functions for operations on a map that is
//! known when the program is compiled: they need not ask what the map is and how long its keys are. What they
//! do is the map's ([`crate::maps`]), and the same as what the helper does.
// UNSAFETY: is called by machine code, with addresses.
#![allow(unsafe_code)]

use std::ptr::{NonNull, with_exposed_provenance, with_exposed_provenance_mut};
use std::sync::Arc;

use mem::SharedSlice;
use uapi::Errno;
use uapi::bpf::{MapType, func};

use super::{Fault, Run};
use crate::maps::Map;

/// A helper as machine code calls it: takes R1 to R5 and the run, answers R0.
///
/// # Safety
///
/// The run must be the one of the program that calls, which waits for the answer, and the arguments what the
/// verifier lets that program pass to the helper.
pub(crate) type NativeFn = unsafe extern "C" fn(u64, u64, u64, u64, u64, run: *mut Run<'_, '_>) -> u64;

/// A helper for machine code. The helper must be a function itself, not a pointer to one, so that it becomes
/// part of what is called.
pub(crate) const fn native<F>(_: F) -> NativeFn
where
    F: for<'r, 'q> Fn(&mut Run<'r, 'q>, [u64; 5]) -> Result<u64, Fault> + Copy + 'static,
{
    const { assert!(size_of::<F>() == 0, "a helper is a function") };
    call::<F>
}

/// A violation cannot be told to the program, and it proves the verifier wrong: it ends the process.
unsafe extern "C" fn call<F>(r1: u64, r2: u64, r3: u64, r4: u64, r5: u64, run: *mut Run<'_, '_>) -> u64
where
    F: for<'r, 'q> Fn(&mut Run<'r, 'q>, [u64; 5]) -> Result<u64, Fault> + Copy + 'static,
{
    // SAFETY: `native` has checked that there is nothing in it, so any aligned address holds one; and it had
    // one, so there can be some.
    let helper = unsafe { NonNull::<F>::dangling().read() };
    // SAFETY: borrowed for all of the call that the program is in, and touched by nobody else meanwhile.
    let run = unsafe { &mut *run };
    match helper(run, [r1, r2, r3, r4, r5]) {
        Ok(r0) => r0,
        Err(fault) => violated(&fault),
    }
}

#[cold]
#[inline(never)]
pub(super) fn violated(fault: &Fault) -> ! {
    panic!("a verified program did what it may not do: {fault}")
}

/// The function for a helper and a map that it is always called with; `None` if the helper itself is as good.
pub(super) fn of_map(map: &Map, helper: i32) -> Option<NativeFn> {
    use MapType::*;
    let def = map.def();
    Some(match (helper, def.map_type, def.key_size) {
        (func::MAP_UPDATE_ELEM, Array | PercpuArray, _) => update_array,
        (func::MAP_UPDATE_ELEM, Hash | PercpuHash | LruHash | LruPercpuHash, key) => match key {
            4 => update_hash::<4>,
            8 => update_hash::<8>,
            16 => update_hash::<16>,
            _ => return None,
        },
        (func::MAP_DELETE_ELEM, Hash | PercpuHash | LruHash | LruPercpuHash, key) => match key {
            4 => delete_hash::<4>,
            8 => delete_hash::<8>,
            16 => delete_hash::<16>,
            _ => return None,
        },
        (func::MAP_LOOKUP_ELEM, LpmTrie, key) => match key {
            8 => lookup_prefix::<8>,
            20 => lookup_prefix::<20>,
            _ => return None,
        },
        _ => return None,
    })
}

unsafe extern "C" fn update_array(
    map: u64,
    key: u64,
    value: u64,
    flags: u64,
    _: u64,
    run: *mut Run<'_, '_>,
) -> u64 {
    // SAFETY: the arguments of a call of `bpf_map_update_elem`.
    let (map, key, cpu) = unsafe { (self::map(map), bytes(key, 4), cpu(run)) };
    // SAFETY: as above.
    let value = unsafe { bytes(value, map.def().value_size as usize) };
    status(map.update_array(cpu, key.read_u32(0), value, flags))
}

unsafe extern "C" fn update_hash<const K: usize>(
    map: u64,
    key: u64,
    value: u64,
    flags: u64,
    _: u64,
    run: *mut Run<'_, '_>,
) -> u64 {
    // SAFETY: the arguments of a call of `bpf_map_update_elem`.
    let (map, key, cpu) = unsafe { (self::map(map), bytes(key, K), cpu(run)) };
    // SAFETY: as above.
    let value = unsafe { bytes(value, map.def().value_size as usize) };
    status(map.update_hash(cpu, &key.read_array::<K>(0), value, flags))
}

unsafe extern "C" fn delete_hash<const K: usize>(
    map: u64,
    key: u64,
    _: u64,
    _: u64,
    _: u64,
    run: *mut Run<'_, '_>,
) -> u64 {
    // SAFETY: the arguments of a call of `bpf_map_delete_elem`.
    let (map, key, cpu) = unsafe { (self::map(map), bytes(key, K), cpu(run)) };
    status(map.delete_hash(cpu, &key.read_array::<K>(0)))
}

unsafe extern "C" fn lookup_prefix<const K: usize>(
    map: u64,
    key: u64,
    _: u64,
    _: u64,
    _: u64,
    run: *mut Run<'_, '_>,
) -> u64 {
    // SAFETY: the arguments of a call of `bpf_map_lookup_elem`; the run is borrowed for longer.
    let (map, key, run) = unsafe { (self::map(map), bytes(key, K), &*run) };
    let value = map.lookup_prefix(run.guard(), &key.read_array::<K>(0));
    value.map_or(0, |value| value.as_ptr().expose_provenance().get() as u64)
}

/// # Safety
///
/// It must be the address of the `Arc` of a map that lives for `'a`, as machine code names one.
#[inline]
unsafe fn map<'a>(addr: u64) -> &'a Map {
    // SAFETY: the caller's promise.
    unsafe { &*with_exposed_provenance::<Arc<Map>>(addr as usize) }
}

/// # Safety
///
/// So many bytes must be there for `'a`, as the verifier has proved of a helper's argument.
#[inline]
unsafe fn bytes<'a>(addr: u64, len: usize) -> SharedSlice<'a> {
    let ptr = NonNull::new(with_exposed_provenance_mut(addr as usize)).unwrap_or(NonNull::dangling());
    // SAFETY: the caller's promise; at the null pointer that are no bytes.
    unsafe { SharedSlice::from_raw(ptr, len) }
}

/// # Safety
///
/// It must be a run that nobody else uses now.
#[inline]
unsafe fn cpu(run: *mut Run<'_, '_>) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { (*run).cpu }
}

#[inline]
fn status(result: Result<(), Errno>) -> u64 {
    result.err().map_or(0, Errno::as_ret)
}
