//! The maps of an object, in libbpf's order: legacy `maps` sections, `.maps`, data sections, `.kconfig`.

mod btf_maps;
mod data_maps;
mod legacy;

use std::collections::BTreeMap;

use uapi::bpf::MapType;

use super::elf::Elf;
use super::error::{Outcome, Problem};
use super::spec::{MapIndex, MapSpec};
use super::target::Target;
use crate::btf::Btf;

/// An object's maps and what leads to them.
#[derive(Default)]
pub(super) struct Maps {
    pub(super) list: Vec<MapSpec>,
    /// Declared maps by section and offset.
    declared: BTreeMap<(usize, u64), MapIndex>,
    /// Maps of data sections by section.
    data: BTreeMap<usize, MapIndex>,
    pub(super) kconfig: Option<MapIndex>,
    /// `.maps` variables by offset, for their initialisers.
    initialised: Vec<btf_maps::Initialised>,
    /// Program arrays of iproute2 by their `id`.
    ids: BTreeMap<u32, MapIndex>,
}

impl Maps {
    /// Collects all maps. Program slots are filled by [`Maps::fill_slots`] when programs are known.
    pub(super) fn collect(elf: &Elf<'_>, btf: Option<&Btf>, target: &Target) -> Outcome<Self> {
        let mut maps = Self::default();
        maps.collect_legacy(elf, btf)?;
        maps.collect_btf(elf, btf)?;
        maps.collect_data(elf, btf)?;
        for map in &mut maps.list {
            complete(map, target);
            map.inner.iter_mut().for_each(|inner| complete(inner, target));
        }
        Ok(maps)
    }

    /// The declared map at an offset of a section.
    pub(super) fn at(&self, section: usize, offset: u64) -> Option<MapIndex> {
        self.declared.get(&(section, offset)).copied()
    }

    /// The map of a data section.
    pub(super) fn of_data(&self, section: usize) -> Option<MapIndex> {
        self.data.get(&section).copied()
    }

    fn declare(&mut self, section: usize, offset: u64, map: MapSpec) -> Outcome<MapIndex> {
        let index = self.list.len();
        let name = map.name.clone();
        self.list.push(map);
        if self.declared.insert((section, offset), index).is_some() {
            return Err(Problem::new("two maps at the same place of the section").in_symbol(&name));
        }
        Ok(index)
    }
}

/// Sizes that a source may leave to the loader.
fn complete(map: &mut MapSpec, target: &Target) {
    match map.map_type {
        MapType::Ringbuf | MapType::UserRingbuf => {
            map.max_entries = ringbuf_size(map.max_entries, target.page_size);
        }
        MapType::PerfEventArray => {
            for size in [&mut map.key_size, &mut map.value_size] {
                if *size == 0 {
                    *size = 4;
                }
            }
            if map.max_entries == 0 {
                map.max_entries = target.possible_cpus;
            }
        }
        _ => {}
    }
}

/// The next size that a ring buffer can have: a power of two of pages. 0 and what is too large stay, for
/// the map's own error.
#[doc(alias = "adjust_ringbuf_sz")]
fn ringbuf_size(size: u32, page_size: u32) -> u32 {
    if size == 0 || page_size == 0 {
        return size;
    }
    let pages = size.div_ceil(page_size).checked_next_power_of_two();
    pages.and_then(|n| n.checked_mul(page_size)).unwrap_or(size)
}

/// The map type of a number.
fn map_type(raw: u32) -> Outcome<MapType> {
    MapType::from_raw(raw).ok_or_else(|| match raw {
        0 => Problem::new("the map has no type"),
        _ => {
            Problem::new(format!("map type {raw} is unknown; the newest known is {}", MapType::Arena.name()))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_buffers_are_rounded_up_to_powers_of_two_of_pages() {
        let cases = [(0, 0), (1, 4096), (4096, 4096), (4097, 8192), (12288, 16384), (1 << 31, 1 << 31)];
        for (asked, got) in cases {
            assert_eq!(ringbuf_size(asked, 4096), got, "{asked}");
        }
        assert_eq!(ringbuf_size(u32::MAX, 4096), u32::MAX);
    }
}
