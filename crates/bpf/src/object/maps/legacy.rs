//! Maps declared in sections `maps` and `maps/...`, as before BTF: `struct bpf_map_def` and iproute2's
//! `struct bpf_elf_map`. libbpf has given them up; objects that have them are still in use.

use std::collections::BTreeMap;

use object::elf::STT_FUNC;

use super::super::elf::{Elf, Place, Section};
use super::super::error::{Outcome, Problem};
use super::super::spec::{MapContents, MapIndex, MapSpec, SlotRef};
use super::Maps;
use crate::btf::{Btf, BtfKind};

/// Bytes of `struct bpf_map_def`: type, key size, value size, entries, flags.
const DEF_SIZE: usize = 20;
/// The same with inner map index and NUMA node, as in the kernel's samples.
const SAMPLE_SIZE: usize = 28;
/// Bytes of iproute2's `struct bpf_elf_map`: a definition, then id, pinning, inner id, inner index.
const IPROUTE2_SIZE: usize = 36;
/// Most bytes of one definition.
const SIZE_MAX: usize = 4096;

/// Most maps in maps of one object.
const SLOTS_MAX: usize = 65536;

/// What links the maps of one file of iproute2.
struct Link {
    map: MapIndex,
    id: u32,
    inner_id: u32,
    /// Where a map of `inner_id` wants to be in it; -1 for nowhere.
    inner_idx: u32,
}

impl Maps {
    pub(super) fn collect_legacy(&mut self, elf: &Elf<'_>, btf: Option<&Btf>) -> Outcome<()> {
        let mut links = Vec::new();
        let places = symbols_by_section(elf);
        for (index, section) in elf.sections.iter().enumerate() {
            let Some(places) = places.get(&index) else { continue };
            for (i, &(offset, size, name)) in places.iter().enumerate() {
                let next = places.get(i + 1).map_or(section.data.len() as u64, |p| p.0);
                let link = self
                    .collect_definition((index, section), (offset, size, next), name, btf)
                    .map_err(|p| p.in_section(section.name).in_symbol(name))?;
                links.extend(link);
            }
        }
        self.link(&links)
    }

    fn collect_definition(
        &mut self,
        (index, section): (usize, &Section<'_>),
        (offset, size, next): (u64, u64, u64),
        name: &str,
        btf: Option<&Btf>,
    ) -> Outcome<Option<Link>> {
        let size = if size == 0 { next.saturating_sub(offset) } else { size };
        let range = usize::try_from(offset).ok().zip(usize::try_from(size).ok());
        let bytes = range.and_then(|(at, len)| section.data.get(at..at.checked_add(len)?));
        let bytes = bytes.ok_or_else(|| Problem::new("the map definition lies outside of its section"))?;
        if bytes.len() < 16 || bytes.len() > SIZE_MAX || !bytes.len().is_multiple_of(4) {
            let reason = format!(
                "a map definition of {size} bytes; struct bpf_map_def has 20, iproute2's struct bpf_elf_map 36"
            );
            return Err(Problem::new(reason));
        }
        let words: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let word = |i: usize| words.get(i).copied().unwrap_or(0);
        let mut map = MapSpec {
            name: name.to_owned(),
            map_type: super::map_type(word(0))?,
            key_size: word(1),
            value_size: word(2),
            max_entries: word(3),
            map_flags: word(4),
            map_extra: 0,
            numa_node: None,
            key_type: None,
            value_type: None,
            inner: None,
            contents: MapContents::Empty,
            frozen: false,
            pin_by_name: false,
        };
        annotate(&mut map, btf);
        let mut link = None;
        match bytes.len() {
            SAMPLE_SIZE => map.numa_node = Some(word(6)).filter(|&n| n != 0),
            IPROUTE2_SIZE => {
                map.pin_by_name = word(6) != 0;
                link =
                    Some(Link { map: self.list.len(), id: word(5), inner_id: word(7), inner_idx: word(8) });
            }
            _ if words.iter().skip(DEF_SIZE / 4).any(|&w| w != 0) => {
                let reason = format!("a map definition of {size} bytes with attributes of unknown meaning");
                return Err(Problem::new(reason));
            }
            _ => {}
        }
        self.declare(index, offset, map)?;
        Ok(link)
    }

    /// Connects iproute2's outer maps with their inner ones.
    fn link(&mut self, links: &[Link]) -> Outcome<()> {
        for link in links.iter().filter(|l| l.id != 0) {
            self.ids.entry(link.id).or_insert(link.map);
        }
        let mut members: BTreeMap<u32, Vec<(u32, MapIndex)>> = BTreeMap::new();
        for link in links.iter().filter(|l| l.id != 0 && l.inner_idx != u32::MAX) {
            members.entry(link.id).or_default().push((link.inner_idx, link.map));
        }
        let mut budget = SLOTS_MAX;
        for outer in links.iter().filter(|l| l.inner_id != 0) {
            let inner = self.ids.get(&outer.inner_id).map(|&i| self.list[i].clone()).ok_or_else(|| {
                let reason = format!("it holds maps of id {}, which no map has", outer.inner_id);
                Problem::new(reason).in_symbol(&self.list[outer.map].name)
            })?;
            let slots = members.get(&outer.inner_id).cloned().unwrap_or_default();
            budget = budget.checked_sub(slots.len()).ok_or_else(|| {
                Problem::new("more than 65536 maps in maps").in_symbol(&self.list[outer.map].name)
            })?;
            let map = &mut self.list[outer.map];
            let name = format!("{}.inner", map.name);
            map.inner = Some(Box::new(MapSpec { name, inner: None, pin_by_name: false, ..inner }));
            map.contents = MapContents::Slots(slots.into_iter().map(|(i, m)| (i, SlotRef::Map(m))).collect());
        }
        Ok(())
    }
}

/// Places of map definitions, by section: offset, size, name, ascending.
fn symbols_by_section<'a>(elf: &Elf<'a>) -> BTreeMap<usize, Vec<(u64, u64, &'a str)>> {
    let mut places: BTreeMap<usize, Vec<_>> = BTreeMap::new();
    for symbol in &elf.symbols {
        let Place::Section(section) = symbol.place else { continue };
        let name = elf.sections[section].name;
        let is_maps = name == "maps" || name.starts_with("maps/");
        if is_maps && !symbol.name.is_empty() && !symbol.is_section() && symbol.kind != STT_FUNC {
            places.entry(section).or_default().push((symbol.value, symbol.size, symbol.name));
        }
    }
    places.values_mut().for_each(|v| v.sort_unstable());
    places
}

/// Types of keys and values from `BPF_ANNOTATE_KV_PAIR`: a struct `____btf_map_NAME` with both.
fn annotate(map: &mut MapSpec, btf: Option<&Btf>) {
    let Some(btf) = btf else { return };
    let Some(id) = btf.find(&format!("____btf_map_{}", map.name), BtfKind::Struct) else { return };
    if let [key, value] = btf.ty(id).kind.members() {
        let fits = |ty, size: u32| btf.size_of(ty) == Some(u64::from(size));
        map.key_type = Some(key.ty).filter(|&ty| fits(ty, map.key_size));
        map.value_type = Some(value.ty).filter(|&ty| fits(ty, map.value_size));
    }
}
