//! [`Array`] and [`PercpuArray`]: values at `base + index * stride`; and [`PercpuValues`], which per-CPU
//! hash tables use too.

use std::ops::ControlFlow;

use mem::{SharedSlice, Slab};
use uapi::Errno;
use uapi::bpf::*;

use super::{Bytes, CreateError, MapContext, MapDef, Record, round8};

/// `BPF_MAP_TYPE_ARRAY`.
///
/// Kernel: `kernel/bpf/arraymap.c, v6.18`
#[derive(Debug)]
pub(super) struct Array {
    values: Slab,
    value_size: usize,
}

impl Array {
    pub(super) fn new(def: &MapDef, cx: &MapContext) -> Result<Self, CreateError> {
        let stride = round8(def.value_size);
        let align = if def.map_flags & BPF_F_MMAPABLE == 0 { 64 } else { 4096 };
        let values = super::slab(def.max_entries as usize, stride, align, cx)?;
        Ok(Self { values, value_size: def.value_size as usize })
    }

    pub(super) fn slab(&self) -> &Slab {
        &self.values
    }

    pub(super) fn max_entries(&self) -> u32 {
        self.values.count() as u32
    }

    #[inline]
    pub(super) fn lookup(&self, index: u32) -> Option<SharedSlice<'_>> {
        ((index as usize) < self.values.count())
            .then(|| self.values.slot(index as usize).get(0, self.value_size))?
    }

    /// Kernel: `kernel/bpf/arraymap.c array_map_update_elem, v6.18`
    #[inline]
    pub(super) fn update(
        &self,
        record: &Record,
        index: u32,
        value: Bytes<'_>,
        flags: u64,
    ) -> Result<SharedSlice<'_>, Errno> {
        check_update(record, index, self.max_entries(), flags)?;
        let dst = self.lookup(index).ok_or(Errno::E2BIG)?;
        if flags & BPF_F_LOCK == 0 {
            record.copy(value, dst);
        } else {
            record.copy_locked(value, dst);
        }
        Ok(dst)
    }

    pub(super) fn for_each<'m>(
        &'m self,
        mut f: impl FnMut(SharedSlice<'_>, SharedSlice<'m>) -> ControlFlow<()>,
    ) -> u64 {
        each_index(self.max_entries(), |key, i| {
            self.lookup(i).map_or(ControlFlow::Break(()), |value| f(key, value))
        })
    }
}

/// Values of which every CPU has its own, apart from those of other CPUs by cache lines.
#[derive(Debug)]
pub(super) struct PercpuValues {
    values: Slab,
    stride: usize,
    value_size: usize,
}

impl PercpuValues {
    pub(super) fn new(count: usize, def: &MapDef, cx: &MapContext) -> Result<Self, CreateError> {
        let stride = round8(def.value_size);
        let bytes = count.checked_mul(stride).and_then(|n| n.checked_next_multiple_of(128));
        let bytes = bytes.ok_or_else(|| CreateError::no_memory(u64::MAX))?;
        let values = super::slab(cx.cpus as usize, bytes, 128, cx)?;
        Ok(Self { values, stride, value_size: def.value_size as usize })
    }

    pub(super) fn base(&self) -> u64 {
        self.values.base()
    }

    /// Bytes from one CPU's values to the next one's.
    pub(super) fn cpu_stride(&self) -> usize {
        self.values.stride()
    }

    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    fn cpus(&self) -> usize {
        self.values.count()
    }

    /// One CPU's value with its padding.
    #[inline]
    fn padded(&self, cpu: usize, index: usize) -> Option<SharedSlice<'_>> {
        (cpu < self.cpus()).then(|| self.values.slot(cpu).get(index * self.stride, self.stride))?
    }

    #[inline]
    pub(super) fn get(&self, cpu: u32, index: usize) -> Option<SharedSlice<'_>> {
        self.padded(cpu as usize, index)?.get(0, self.value_size)
    }

    /// All CPUs' values one after the other, padded, special fields zeroed.
    pub(super) fn read_all(&self, record: &Record, index: usize) -> Vec<u8> {
        let cpus = (0..self.cpus()).filter_map(|cpu| self.padded(cpu, index));
        cpus.flat_map(|value| record.read(value, false)).collect()
    }

    /// Writes all CPUs' values from the form of [`PercpuValues::read_all`].
    pub(super) fn write_all(&self, record: &Record, index: usize, values: Bytes<'_>) {
        for cpu in 0..self.cpus() {
            let Some(dst) = self.padded(cpu, index) else { return };
            let src = values.part(cpu * self.stride, self.stride);
            record.copy(src, dst);
            if record.is_plain() {
                // User space gets the padding back as it wrote it.
                let pad = self.stride - self.value_size;
                let mut bytes = [0; 8];
                src.copy_to(self.value_size, &mut bytes[..pad]);
                dst.copy_from(self.value_size, &bytes[..pad]);
            }
        }
    }

    /// The values of a new entry: one CPU's is given, the others' are zero.
    pub(super) fn init(&self, record: &Record, cpu: u32, index: usize, value: Bytes<'_>) {
        self.clear(index);
        if let Some(dst) = self.get(cpu, index) {
            record.copy(value, dst);
        }
    }

    pub(super) fn clear(&self, index: usize) {
        for dst in (0..self.cpus()).filter_map(|cpu| self.padded(cpu, index)) {
            dst.fill(0, self.stride, 0);
        }
    }
}

/// `BPF_MAP_TYPE_PERCPU_ARRAY`.
#[derive(Debug)]
pub(super) struct PercpuArray {
    pub(super) values: PercpuValues,
    max_entries: u32,
}

impl PercpuArray {
    pub(super) fn new(def: &MapDef, cx: &MapContext) -> Result<Self, CreateError> {
        let values = PercpuValues::new(def.max_entries as usize, def, cx)?;
        Ok(Self { values, max_entries: def.max_entries })
    }

    pub(super) fn max_entries(&self) -> u32 {
        self.max_entries
    }

    #[inline]
    pub(super) fn lookup(&self, cpu: u32, index: u32) -> Option<SharedSlice<'_>> {
        (index < self.max_entries).then(|| self.values.get(cpu, index as usize))?
    }

    /// An update by a program: of its own CPU's value.
    #[inline]
    pub(super) fn update(
        &self,
        record: &Record,
        cpu: u32,
        index: u32,
        value: Bytes<'_>,
        flags: u64,
    ) -> Result<SharedSlice<'_>, Errno> {
        check_update(record, index, self.max_entries, flags)?;
        let dst = self.lookup(cpu, index).ok_or(Errno::EINVAL)?;
        record.copy(value, dst);
        Ok(dst)
    }

    /// Kernel: `kernel/bpf/arraymap.c bpf_percpu_array_copy, v6.18`
    pub(super) fn sys_lookup(&self, record: &Record, index: u32) -> Result<Vec<u8>, Errno> {
        if index >= self.max_entries {
            return Err(Errno::ENOENT);
        }
        Ok(self.values.read_all(record, index as usize))
    }

    /// Kernel: `kernel/bpf/arraymap.c bpf_percpu_array_update, v6.18`
    pub(super) fn sys_update(
        &self,
        record: &Record,
        index: u32,
        values: Bytes<'_>,
        flags: u64,
    ) -> Result<(), Errno> {
        if flags > BPF_EXIST {
            return Err(Errno::EINVAL);
        }
        check_update(record, index, self.max_entries, flags)?;
        self.values.write_all(record, index as usize, values);
        Ok(())
    }

    pub(super) fn for_each<'m>(
        &'m self,
        cpu: u32,
        mut f: impl FnMut(SharedSlice<'_>, SharedSlice<'m>) -> ControlFlow<()>,
    ) -> u64 {
        each_index(self.max_entries, |key, i| {
            self.lookup(cpu, i).map_or(ControlFlow::Break(()), |value| f(key, value))
        })
    }
}

#[inline]
fn check_update(record: &Record, index: u32, max_entries: u32, flags: u64) -> Result<(), Errno> {
    if flags & !BPF_F_LOCK > BPF_EXIST {
        return Err(Errno::EINVAL);
    }
    if index >= max_entries {
        return Err(Errno::E2BIG);
    }
    if flags & BPF_NOEXIST != 0 {
        return Err(Errno::EEXIST);
    }
    if flags & BPF_F_LOCK != 0 && !record.has(super::FieldKind::SpinLock) {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// Calls `f` with each index, as key and as number, until it breaks; answers how often.
fn each_index(n: u32, mut f: impl FnMut(SharedSlice<'_>, u32) -> ControlFlow<()>) -> u64 {
    let mut calls = 0;
    for i in 0..n {
        calls += 1;
        if f(SharedSlice::from_mut(&mut i.to_le_bytes()), i).is_break() {
            break;
        }
    }
    calls
}

/// The key after one in a map whose keys are `0..max_entries`.
///
/// Kernel: `kernel/bpf/arraymap.c array_map_get_next_key, v6.18`
pub(super) fn next_index(key: Option<u32>, max_entries: u32) -> Result<u32, Errno> {
    match key {
        Some(i) if i == max_entries - 1 => Err(Errno::ENOENT),
        Some(i) if i < max_entries => Ok(i + 1),
        _ => Ok(0),
    }
}
