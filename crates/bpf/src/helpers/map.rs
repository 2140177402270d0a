//! Maps: lookups, changes, queues, going through all entries. What each type of map answers is with
//! [`crate::maps::Map`].

use std::ops::ControlFlow;
use std::sync::Arc;

use mem::SharedSlice;
use uapi::Errno;
use uapi::bpf::{BPF_F_RDONLY_PROG, BPF_F_WRONLY_PROG, MapType};

use super::{Args, Reply, errno, status};
use crate::maps::{Map, with_key};
use crate::vm::{Fault, RegionKind, Run};

/// The value of a key, or the inner map; null if there is none.
///
/// Kernel: `kernel/bpf/helpers.c bpf_map_lookup_elem, v6.18`
pub(super) fn lookup_elem(run: &mut Run<'_, '_>, [map, key, ..]: Args) -> Reply {
    let map = run.map(map)?;
    let (guard, cpu, key) = (run.guard(), run.cpu(), read_key(run, map, key)?);
    if matches!(map.def().map_type, MapType::ArrayOfMaps | MapType::HashOfMaps) {
        return match with_key(key, |key| map.inner(guard, key)) {
            Some(inner) => run.memory.expose_map(inner),
            None => Ok(0),
        };
    }
    may_read(map)?;
    match with_key(key, |key| map.lookup(guard, cpu, key)) {
        Some(value) => run.expose(RegionKind::MapValue(map.id()), value, is_writable(map)),
        None => Ok(0),
    }
}

/// The value of a key on another CPU; null if there is none.
///
/// Kernel: `kernel/bpf/helpers.c bpf_map_lookup_percpu_elem, v6.18`
pub(super) fn lookup_percpu_elem(run: &mut Run<'_, '_>, [map, key, cpu, ..]: Args) -> Reply {
    let map = run.map(map)?;
    let (guard, key) = (run.guard(), read_key(run, map, key)?);
    may_read(map)?;
    match with_key(key, |key| map.lookup_percpu(guard, key, cpu as u32)) {
        Some(value) => run.expose(RegionKind::MapValue(map.id()), value, is_writable(map)),
        None => Ok(0),
    }
}

/// Kernel: `kernel/bpf/helpers.c bpf_map_update_elem, v6.18`
pub(super) fn update_elem(run: &mut Run<'_, '_>, [map, key, value, flags, _]: Args) -> Reply {
    let map = run.map(map)?;
    may_write(map)?;
    let key = read_key(run, map, key)?;
    let value = run.read(value, map.def().value_size.into())?;
    status(with_key(key, |key| map.update(run.cpu(), key, value.into(), flags)))
}

/// Kernel: `kernel/bpf/helpers.c bpf_map_delete_elem, v6.18`
pub(super) fn delete_elem(run: &mut Run<'_, '_>, [map, key, ..]: Args) -> Reply {
    let map = run.map(map)?;
    may_write(map)?;
    let key = read_key(run, map, key)?;
    status(with_key(key, |key| map.delete(run.cpu(), key)))
}

/// Kernel: `kernel/bpf/helpers.c bpf_map_push_elem, v6.18`
pub(super) fn push_elem(run: &mut Run<'_, '_>, [map, value, flags, ..]: Args) -> Reply {
    let map = run.map(map)?;
    may_write(map)?;
    let value = run.read(value, map.def().value_size.into())?;
    status(map.push(value.into(), flags))
}

/// Kernel: `kernel/bpf/helpers.c bpf_map_pop_elem, v6.18`
pub(super) fn pop_elem(run: &mut Run<'_, '_>, [map, value, ..]: Args) -> Reply {
    let map = run.map(map)?;
    may_write(map)?;
    status(map.pop(run.write(value, map.def().value_size.into())?))
}

/// Of a bloom filter, asks whether the value may be in it.
///
/// Kernel: `kernel/bpf/helpers.c bpf_map_peek_elem, v6.18`
pub(super) fn peek_elem(run: &mut Run<'_, '_>, [map, value, ..]: Args) -> Reply {
    let map = run.map(map)?;
    may_read(map)?;
    let size = map.def().value_size.into();
    let asks = map.def().map_type == MapType::BloomFilter;
    let value = if asks { run.read(value, size)? } else { run.write(value, size)? };
    status(map.peek(value))
}

/// Calls a function with map, key, value and a pointer of the program's for each entry, until it answers
/// something else than 0; answers how often.
///
/// Kernel: `kernel/bpf/helpers.c bpf_for_each_map_elem, v6.18`
pub(super) fn for_each_map_elem(run: &mut Run<'_, '_>, [addr, callback, ctx, flags, _]: Args) -> Reply {
    let map = run.map(addr)?;
    if flags != 0 {
        return errno(Errno::EINVAL);
    }
    let key_addr =
        run.memory.own(RegionKind::MapKey(map.id()), &vec![0; map.def().key_size as usize], true)?;
    let (guard, cpu, writable) = (run.guard(), run.cpu(), is_writable(map));
    let mut fault = None;
    let calls = map.for_each(guard, cpu, |key, value| {
        let mut visit = || {
            run.write(key_addr, key.len() as u64)?.copy_from_shared(0, key);
            let value = run.expose(RegionKind::MapValue(map.id()), value, writable)?;
            run.call(callback, [addr, key_addr, value, ctx, 0])
        };
        match visit() {
            Ok(0) => ControlFlow::Continue(()),
            Ok(_) => ControlFlow::Break(()),
            Err(e) => {
                fault = Some(e);
                ControlFlow::Break(())
            }
        }
    });
    run.memory.retire(key_addr);
    match (fault, calls) {
        (Some(fault), _) => Err(fault),
        (None, Ok(calls)) => Ok(calls),
        (None, Err(e)) => errno(e),
    }
}

/// Entries of a hash table.
///
/// Kernel: `kernel/bpf/map_iter.c bpf_map_sum_elem_count, v6.18`
pub(crate) fn sum_elem_count(run: &mut Run<'_, '_>, [map, ..]: Args) -> Reply {
    Ok(run.map(map)?.element_count())
}

#[inline]
fn read_key<'a>(run: &'a Run<'_, '_>, map: &Map, key: u64) -> Result<SharedSlice<'a>, Fault> {
    run.read(key, map.def().key_size.into())
}

/// Whether programs may write values.
#[inline]
fn is_writable(map: &Map) -> bool {
    map.def().map_flags & BPF_F_RDONLY_PROG == 0
}

#[inline]
fn may_write(map: &Arc<Map>) -> Result<(), Fault> {
    if is_writable(map) {
        return Ok(());
    }
    Err(Fault::illegal(format!("write into map {:?} forbidden", map.def().name)))
}

#[inline]
fn may_read(map: &Arc<Map>) -> Result<(), Fault> {
    if map.def().map_flags & BPF_F_WRONLY_PROG == 0 {
        return Ok(());
    }
    Err(Fault::illegal(format!("read from map {:?} forbidden", map.def().name)))
}
