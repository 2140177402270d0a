//! The maps of `.data*`, `.rodata*` and `.bss*`: arrays of one entry with the section's bytes.

use object::elf::{SHT_NOBITS, SHT_PROGBITS};
use uapi::bpf::{BPF_F_MMAPABLE, BPF_F_RDONLY_PROG, MapType};

use super::super::elf::{Elf, Section};
use super::super::error::{Outcome, Problem};
use super::super::spec::{MapContents, MapSpec};
use super::Maps;
use crate::btf::{Btf, BtfKind, Kind, Linkage, TypeId};

/// Largest data section, bytes: an array's value is an `int` in the kernel.
const SIZE_MAX: u64 = i32::MAX as u64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum DataKind {
    Data,
    Rodata,
    Bss,
}

impl Maps {
    #[doc(alias = "bpf_object__init_global_data_maps")]
    pub(super) fn collect_data(&mut self, elf: &Elf<'_>, btf: Option<&Btf>) -> Outcome<()> {
        for (index, section) in elf.sections.iter().enumerate() {
            let Some(kind) = data_kind(section) else { continue };
            let map = data_map(section, kind, btf).map_err(|p| p.in_section(section.name))?;
            self.data.insert(index, self.list.len());
            self.list.push(map);
        }
        Ok(())
    }
}

fn data_kind(section: &Section<'_>) -> Option<DataKind> {
    let named = |prefix| {
        section.name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    match section.kind {
        _ if section.size == 0 => None,
        SHT_PROGBITS if section.executable => None,
        SHT_PROGBITS if named(".data") => Some(DataKind::Data),
        SHT_PROGBITS if named(".rodata") => Some(DataKind::Rodata),
        SHT_NOBITS if named(".bss") => Some(DataKind::Bss),
        _ => None,
    }
}

#[doc(alias = "bpf_object__init_internal_map")]
fn data_map(section: &Section<'_>, kind: DataKind, btf: Option<&Btf>) -> Outcome<MapSpec> {
    if section.size > SIZE_MAX {
        return Err(Problem::new(format!("{} bytes are too many for a map", section.size)));
    }
    let datasec = btf.and_then(|btf| btf.find(section.name, BtfKind::Datasec));
    let mut map_flags = if kind == DataKind::Rodata { BPF_F_RDONLY_PROG } else { 0 };
    if let (Some(btf), Some(id)) = (btf, datasec) {
        map_flags |= if is_visible(btf, id) { BPF_F_MMAPABLE } else { 0 };
    }
    Ok(MapSpec {
        name: section.name.to_owned(),
        map_type: MapType::Array,
        key_size: 4,
        value_size: section.size as u32,
        max_entries: 1,
        map_flags,
        map_extra: 0,
        numa_node: None,
        key_type: None,
        value_type: datasec,
        inner: None,
        contents: match kind {
            DataKind::Bss => MapContents::Empty,
            _ => MapContents::Data(section.data.to_vec()),
        },
        frozen: kind == DataKind::Rodata,
        pin_by_name: false,
    })
}

/// Whether user space is meant to see one of the section's variables.
#[doc(alias = "map_is_mmapable")]
fn is_visible(btf: &Btf, id: TypeId) -> bool {
    let Kind::Datasec { vars, .. } = &btf.ty(id).kind else { return false };
    let linkage = |ty| match btf.ty(ty).kind {
        Kind::Var { linkage, .. } => Some(linkage),
        _ => None,
    };
    vars.iter().filter_map(|v| linkage(v.ty)).any(|l| l != Linkage::Static)
}
