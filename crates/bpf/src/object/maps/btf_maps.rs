//! Maps declared in `.maps`: the fields of an anonymous struct are the attributes, encoded in types.

use std::collections::BTreeMap;

use uapi::bpf::MapType;

use super::super::elf::{Elf, Place};
use super::super::error::{Outcome, Problem};
use super::super::functions::Functions;
use super::super::spec::{MapContents, MapIndex, MapSpec, SlotRef};
use super::Maps;
use crate::btf::{Btf, BtfKind, Kind, Linkage, Member, SecVar, TypeId};

/// Most fields of a map declaration. There are fewer attributes.
const FIELDS_MAX: usize = 64;
/// Bytes of a pointer in an object.
const PTR_SIZE: u64 = 8;
/// `LIBBPF_PIN_BY_NAME`.
const PIN_BY_NAME: u32 = 1;

/// A `.maps` variable that may be initialised.
pub(super) struct Initialised {
    map: MapIndex,
    /// In the section, bytes.
    offset: u64,
    /// Of the variable, bytes.
    size: u64,
    /// Of its `values` member from its start, bytes.
    values: Option<u64>,
}

impl Maps {
    pub(super) fn collect_btf(&mut self, elf: &Elf<'_>, btf: Option<&Btf>) -> Outcome<()> {
        let Some(section) = elf.section_named(".maps") else { return Ok(()) };
        let no_types = || {
            let reason = "maps are declared by types, but the object has no BTF for them; build it with -g";
            Problem::new(reason).in_section(".maps")
        };
        let btf = btf.ok_or_else(no_types)?;
        let datasec = btf.find(".maps", BtfKind::Datasec).ok_or_else(no_types)?;
        let Kind::Datasec { vars, .. } = &btf.ty(datasec).kind else { return Err(no_types()) };
        for var in vars {
            let name = btf.name_of(var.ty);
            self.collect_btf_map(elf, section, btf, var)
                .map_err(|p| p.in_section(".maps").in_symbol(name))?;
        }
        self.initialised.sort_by_key(|v| v.offset);
        Ok(())
    }

    fn collect_btf_map(&mut self, elf: &Elf<'_>, section: usize, btf: &Btf, var: &SecVar) -> Outcome<()> {
        let name = btf.name_of(var.ty);
        let Kind::Var { ty, linkage } = btf.ty(var.ty).kind else {
            return Err(Problem::new("a map that is no variable"));
        };
        if name.is_empty() {
            return Err(Problem::new("a map without a name"));
        }
        if linkage != Linkage::Global {
            return Err(Problem::new("a static or extern map; declare it global (without static)"));
        }
        let def = btf.resolve(ty);
        let Kind::Struct { size, members } = &btf.ty(def).kind else {
            return Err(Problem::new(format!(
                "a map declared as {}, not as a struct",
                btf.ty(def).tag().name()
            )));
        };
        let end = u64::from(var.offset) + u64::from(var.size);
        if end > elf.sections[section].size || *size > var.size {
            return Err(Problem::new("damaged BTF: the map lies outside of its section"));
        }
        let declaration = Declaration::parse(btf, members, name, false)?;
        let values = members.last().filter(|m| btf.str(m.name) == "values");
        self.initialised.push(Initialised {
            map: self.list.len(),
            offset: var.offset.into(),
            size: var.size.into(),
            values: values.map(|m| u64::from(m.bit_offset) / 8),
        });
        self.declare(section, var.offset.into(), declaration.map)?;
        Ok(())
    }

    /// Fills map-in-map and program arrays from the relocations of `.maps` and from iproute2's section
    /// names (`id/index`).
    #[doc(alias = "bpf_object__collect_map_relos")]
    pub(in super::super) fn fill_slots(&mut self, elf: &Elf<'_>, functions: &Functions<'_>) -> Outcome<()> {
        let mut slots: BTreeMap<MapIndex, BTreeMap<u32, SlotRef>> = BTreeMap::new();
        if let Some(section) = elf.section_named(".maps") {
            for relocation in elf.relocations(section)? {
                let symbol = &elf.symbols[relocation.symbol];
                let (map, slot, what) = self
                    .initialiser(elf, functions, section, relocation.offset, relocation.symbol)
                    .map_err(|p| p.in_section(".maps").in_symbol(symbol.name))?;
                slots.entry(map).or_default().insert(slot, what);
            }
        }
        for (id, index, program) in functions.tail_call_sections(elf) {
            if let Some(&map) = self.ids.get(&id) {
                slots.entry(map).or_default().insert(index, SlotRef::Program(program.to_owned()));
            }
        }
        for (map, slots) in slots {
            let old = std::mem::take(&mut self.list[map].contents);
            let mut all: BTreeMap<u32, SlotRef> = match old {
                MapContents::Slots(old) => old.into_iter().collect(),
                _ => BTreeMap::new(),
            };
            all.extend(slots);
            self.list[map].contents = MapContents::Slots(all.into_iter().collect());
        }
        Ok(())
    }

    fn initialiser(
        &self,
        elf: &Elf<'_>,
        functions: &Functions<'_>,
        section: usize,
        offset: u64,
        symbol: usize,
    ) -> Outcome<(MapIndex, u32, SlotRef)> {
        let nowhere = || Problem::new(format!("an initialiser at offset {offset}, where no map has values"));
        let at = self.initialised.partition_point(|v| v.offset <= offset);
        let var = at.checked_sub(1).map(|i| &self.initialised[i]).ok_or_else(nowhere)?;
        let within = offset - var.offset;
        let values = var.values.ok_or_else(nowhere)?;
        let slot = within.checked_sub(values).ok_or_else(nowhere)?;
        if within.saturating_add(PTR_SIZE) > var.size || !slot.is_multiple_of(PTR_SIZE) {
            return Err(nowhere());
        }
        let slot = u32::try_from(slot / PTR_SIZE).map_err(|_| nowhere())?;
        let (symbol, map) = (&elf.symbols[symbol], &self.list[var.map]);
        let what = match map.map_type {
            MapType::ArrayOfMaps | MapType::HashOfMaps => {
                if map.map_type == MapType::HashOfMaps && map.key_size != 4 {
                    let reason = format!("{} has values by index, so its keys must be 4 bytes", map.name);
                    return Err(Problem::new(reason));
                }
                let inner = if symbol.place == Place::Section(section) {
                    self.at(section, symbol.value)
                } else {
                    None
                };
                inner.map(SlotRef::Map)
            }
            _ => functions.entry_at(symbol).map(|name| SlotRef::Program(name.to_owned())),
        };
        let what = what.ok_or_else(|| {
            let wanted = if map.inner.is_some() { "a map in .maps" } else { "an entry program" };
            Problem::new(format!("it initialises {}, but is not {wanted} of this object", map.name))
        })?;
        Ok((var.map, slot, what))
    }
}

/// A declaration as far as its fields have been read.
struct Declaration<'a> {
    btf: &'a Btf,
    map: MapSpec,
    is_inner: bool,
}

impl<'a> Declaration<'a> {
    #[doc(alias = "parse_btf_map_def")]
    fn parse(btf: &'a Btf, members: &[Member], name: &str, is_inner: bool) -> Outcome<Self> {
        if members.len() > FIELDS_MAX {
            return Err(Problem::new("a map declaration of more than 64 fields"));
        }
        // The type decides what `values` may be, so it is read first wherever it stands.
        let raw_type =
            members.iter().find(|m| btf.str(m.name) == "type").map(|m| number(btf, m)).transpose()?;
        let map = MapSpec {
            name: name.to_owned(),
            map_type: super::map_type(raw_type.unwrap_or(0))?,
            key_size: 0,
            value_size: 0,
            max_entries: 0,
            map_flags: 0,
            map_extra: 0,
            numa_node: None,
            key_type: None,
            value_type: None,
            inner: None,
            contents: MapContents::Empty,
            frozen: false,
            pin_by_name: false,
        };
        let mut declaration = Self { btf, map, is_inner };
        for (i, m) in members.iter().enumerate() {
            let is_last = i + 1 == members.len();
            declaration.field(m, is_last).map_err(|p| p.in_symbol(name))?;
        }
        Ok(declaration)
    }

    fn field(&mut self, m: &Member, is_last: bool) -> Outcome<()> {
        let btf = self.btf;
        match btf.str(m.name) {
            "type" => {}
            "max_entries" => self.map.max_entries = number(btf, m)?,
            "map_flags" => self.map.map_flags = number(btf, m)?,
            "numa_node" => self.map.numa_node = Some(number(btf, m)?),
            "map_extra" => self.map.map_extra = long_number(btf, m)?,
            "key_size" => agree("key", &mut self.map.key_size, number(btf, m)?)?,
            "value_size" => agree("value", &mut self.map.value_size, number(btf, m)?)?,
            "key" => {
                let (ty, size) = pointed_type(btf, m)?;
                agree("key", &mut self.map.key_size, size)?;
                self.map.key_type = Some(ty);
            }
            "value" => {
                let (ty, size) = pointed_type(btf, m)?;
                agree("value", &mut self.map.value_size, size)?;
                self.map.value_type = Some(ty);
            }
            "pinning" => match number(btf, m)? {
                _ if self.is_inner => return Err(Problem::new("an inner map cannot be pinned")),
                pin @ (0 | PIN_BY_NAME) => self.map.pin_by_name = pin == PIN_BY_NAME,
                other => return Err(Problem::new(format!("pinning is {other}, neither none nor by name"))),
            },
            "values" if is_last => self.values(m)?,
            "values" => return Err(Problem::new("values must be the last field of a map declaration")),
            other => {
                let reason = format!("the map declaration has an unknown field {other:?}");
                return Err(Problem::new(reason));
            }
        }
        Ok(())
    }

    /// `values`: what a map-in-map holds, or the programs of a program array.
    fn values(&mut self, m: &Member) -> Outcome<()> {
        let btf = self.btf;
        if self.is_inner {
            return Err(Problem::new("maps in maps in maps do not exist"));
        }
        let map_in_map = matches!(self.map.map_type, MapType::ArrayOfMaps | MapType::HashOfMaps);
        if !map_in_map && self.map.map_type != MapType::ProgArray {
            return Err(Problem::new(format!("a map of type {} has no values", self.map.map_type.name())));
        }
        agree("value", &mut self.map.value_size, 4)?;
        let error = || Problem::new("values must be an array without a length, of pointers");
        let Kind::Array { elem, len: 0, .. } = btf.ty(m.ty).kind else { return Err(error()) };
        let pointee = btf.pointee(elem).ok_or_else(error)?;
        match (&btf.ty(pointee).kind, map_in_map) {
            (Kind::FuncProto { .. }, false) => {}
            (Kind::Struct { members, .. }, true) => {
                let name = format!("{}.inner", self.map.name);
                let inner = Self::parse(btf, members, &name, true)?;
                self.map.inner = Some(Box::new(inner.map));
            }
            (kind, _) => {
                return Err(Problem::new(format!("values point to {}", kind.tag().name())));
            }
        }
        Ok(())
    }
}

/// A number written as `int (*name)[number]`.
#[doc(alias = "get_map_field_int")]
fn number(btf: &Btf, m: &Member) -> Outcome<u32> {
    let error = || Problem::new(format!("field {:?} is not declared with __uint()", btf.str(m.name)));
    let Kind::Ptr(to) = *btf.resolved(m.ty) else { return Err(error()) };
    match btf.ty(to).kind {
        Kind::Array { len, .. } => Ok(len),
        _ => Err(error()),
    }
}

/// A number, or a long one written as an enum with one value (`__ulong`).
#[doc(alias = "get_map_field_long")]
fn long_number(btf: &Btf, m: &Member) -> Outcome<u64> {
    match btf.resolved(m.ty) {
        Kind::Enum { values, .. } if values.len() == 1 => Ok(values[0].value as u64),
        _ => number(btf, m).map(u64::from),
    }
}

/// A type written as a pointer to it, and its size.
fn pointed_type(btf: &Btf, m: &Member) -> Outcome<(TypeId, u32)> {
    let name = btf.str(m.name);
    let Kind::Ptr(to) = btf.ty(m.ty).kind else {
        return Err(Problem::new(format!("field {name:?} is not declared with __type()")));
    };
    let size = btf.size_of(to).and_then(|n| u32::try_from(n).ok());
    let size = size.ok_or_else(|| Problem::new(format!("the {name} type has no size")))?;
    Ok((to, size))
}

/// Two ways to say one size must say the same.
fn agree(what: &str, size: &mut u32, new: u32) -> Outcome<()> {
    if *size != 0 && *size != new {
        return Err(Problem::new(format!("the {what} has {size} bytes in one place and {new} in another")));
    }
    *size = new;
    Ok(())
}
