//! What an object file says, as data: no map is created and no program is loaded yet.
//!
//! Both homes take the same [`ObjectSpec`]: the engine makes its own maps and programs of it, the
//! kernel backend makes kernel objects of it.

use std::sync::Arc;

use uapi::bpf::MapType;

use crate::btf::{Btf, TypeId};
use crate::insn::Insn;
use crate::maps::MapDef;

use super::error::Problem;

/// An object file, parsed, with its relocations applied.
#[derive(Clone, Debug, Default)]
pub struct ObjectSpec {
    /// File name without directories.
    pub name: String,
    /// Contents of the `license` section, empty if there is none.
    pub license: String,
    /// Contents of the `version` section (`KERNEL_VERSION`), 0 if there is none.
    pub version: u32,
    /// Maps in the order in which instructions count them ([`MapIndex`]).
    pub maps: Vec<MapSpec>,
    /// Entry programs in the order of their sections and offsets.
    pub programs: Vec<ProgramSpec>,
    /// Entry programs that cannot be prepared for this home, and that no one has to load.
    pub unusable: Vec<UnusableProgram>,
    /// The object's own type information, completed from the file.
    pub btf: Option<Arc<Btf>>,
    /// Oddities that a user may want to know of.
    pub warnings: Vec<String>,
}

/// A program that cannot be prepared for a home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnusableProgram {
    /// Function name.
    pub name: String,
    /// Section that it was found in, without a leading `?`.
    pub section: String,
    /// Why.
    pub problem: Problem,
}

/// Position of a map in [`ObjectSpec::maps`].
pub type MapIndex = usize;

/// A map to be created.
#[derive(Clone, Debug)]
pub struct MapSpec {
    /// Name in the source; the maps of data sections are called after the section (`.rodata`, `.bss`, ...).
    pub name: String,
    /// `enum bpf_map_type`.
    pub map_type: MapType,
    /// Bytes of a key, 0 where the type has none.
    pub key_size: u32,
    /// Bytes of a value, 0 where the type has none.
    pub value_size: u32,
    /// Entries; bytes for ring buffers. 0 where the source leaves it to the loader (per-CPU arrays of
    /// perf events: number of CPUs; libbpf's rules).
    pub max_entries: u32,
    /// `BPF_F_*` of map creation.
    pub map_flags: u32,
    /// Type-specific extra value (bloom filter: number of hash functions).
    pub map_extra: u64,
    /// NUMA node asked for, with `BPF_F_NUMA_NODE`.
    pub numa_node: Option<u32>,
    /// Type of a key in the object's BTF.
    pub key_type: Option<TypeId>,
    /// Type of a value in the object's BTF (for data sections: the `DATASEC`).
    pub value_type: Option<TypeId>,
    /// Template of the maps that a map-in-map holds.
    pub inner: Option<Box<MapSpec>>,
    /// What the map holds before the first packet.
    pub contents: MapContents,
    /// Frozen after filling (`.rodata`, `.kconfig`): user space can no longer write it.
    pub frozen: bool,
    /// `LIBBPF_PIN_BY_NAME`.
    pub pin_by_name: bool,
}

impl MapSpec {
    /// What a backend creates: the part without contents and types. The name is cut to what fits.
    #[must_use]
    pub fn def(&self) -> MapDef {
        MapDef {
            name: self.name.chars().take(uapi::bpf::BPF_OBJ_NAME_LEN - 1).collect(),
            map_type: self.map_type,
            key_size: self.key_size,
            value_size: self.value_size,
            max_entries: self.max_entries,
            map_flags: self.map_flags,
            map_extra: self.map_extra,
            inner: self.inner.as_ref().map(|inner| Box::new(inner.def())),
            // They are found in the object's BTF by `verifier::special_fields`.
            fields: Vec::new(),
        }
    }

    /// The name that the kernel shows: libbpf puts the object's name before a data section's, and 15 bytes
    /// fit.
    #[doc(alias = "internal_map_name")]
    #[must_use]
    pub fn kernel_name(&self, object: &str) -> String {
        let max = uapi::bpf::BPF_OBJ_NAME_LEN - 1;
        let prefix = match self.name.strip_prefix('.') {
            // `.rodata` and its like; `.rodata.custom` has no room for more.
            Some(rest) if !rest.contains('.') => object.split('.').next().unwrap_or(""),
            _ => "",
        };
        let room = max.saturating_sub(self.name.len().max(7));
        let prefix = &prefix[..prefix.floor_char_boundary(room)];
        let suffix = &self.name[..self.name.floor_char_boundary(max - prefix.len())];
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
        [prefix, suffix].concat().chars().map(|c| if allowed(c) { c } else { '_' }).collect()
    }
}

/// Initial contents of a map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum MapContents {
    /// Nothing beyond what the type starts with.
    #[default]
    Empty,
    /// The bytes of a data section: value 0 of an array map.
    Data(Vec<u8>),
    /// `.values` initialisers of map-in-map and program arrays: key and what is stored there.
    Slots(Vec<(u32, SlotRef)>),
}

impl MapContents {
    /// The `.values` initialisers.
    #[must_use]
    pub fn slots(&self) -> &[(u32, SlotRef)] {
        match self {
            Self::Slots(slots) => slots,
            Self::Empty | Self::Data(_) => &[],
        }
    }
}

/// What a `.values` initialiser names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotRef {
    /// A map of the same object.
    Map(MapIndex),
    /// An entry program of the same object, by function name.
    Program(String),
}

/// Where an XDP program runs (`expected_attach_type`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub enum AttachType {
    /// A device's receive hook (`BPF_XDP`).
    #[default]
    Xdp,
    /// A devmap entry's transmit hook (`BPF_XDP_DEVMAP`).
    Devmap,
    /// A cpumap entry's thread (`BPF_XDP_CPUMAP`).
    Cpumap,
}

impl AttachType {
    /// The number in the bpf(2) ABI.
    #[must_use]
    pub fn raw(self) -> u32 {
        match self {
            Self::Xdp => uapi::xdp::BPF_XDP,
            Self::Devmap => uapi::xdp::BPF_XDP_DEVMAP,
            Self::Cpumap => uapi::xdp::BPF_XDP_CPUMAP,
        }
    }
}

/// Whether a section name says that its programs are XDP programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SectionKind {
    /// `xdp`, `xdp/...`, `xdp.frags...`: libbpf gives these the type XDP by name.
    #[default]
    Xdp,
    /// Any other executable section; a user may still choose such a program by name.
    Other,
}

/// An entry program with everything that it reaches by bpf2bpf calls and callbacks.
///
/// Instructions are in the kernel's own encoding. Maps are named by position:
/// `BPF_PSEUDO_MAP_IDX` and `BPF_PSEUDO_MAP_IDX_VALUE` with the [`MapIndex`] in `imm` (and the offset
/// into the value in the second slot). Calls within the program are relative (`BPF_PSEUDO_CALL`,
/// `BPF_PSEUDO_FUNC`). A kfunc call is `BPF_PSEUDO_KFUNC_CALL` with the position in
/// [`ProgramSpec::kfuncs`] in `imm`. The address of a kernel symbol is `BPF_PSEUDO_BTF_ID` with the
/// position in [`ProgramSpec::ksyms`] in `imm`. What the target is known to lack is already resolved as
/// libbpf does: the address of an absent weak symbol is a plain 0, and a call that cannot be made is a
/// call of a helper that does not exist ([`POISON_CORE`], [`POISON_KFUNC`]), refused if it is reached.
#[derive(Clone, Debug, Default)]
pub struct ProgramSpec {
    /// Function name.
    pub name: String,
    /// Section that it was found in, without a leading `?`.
    pub section: String,
    /// Whether the section makes it an XDP program.
    pub section_kind: SectionKind,
    /// `expected_attach_type`.
    pub attach_type: AttachType,
    /// `BPF_F_XDP_HAS_FRAGS`: the program can handle packets in several buffers.
    pub frags: bool,
    /// Further `BPF_F_*` of program loading.
    pub prog_flags: u32,
    /// Whether loading the whole object loads it (its section name does not begin with `?`).
    pub autoload: bool,
    /// The entry function first, then subprograms.
    pub insns: Vec<Insn>,
    /// Functions in the order of their first instruction; the entry is the first.
    pub subprogs: Vec<Subprog>,
    /// C source positions, ascending by instruction.
    pub line_info: Vec<LineInfo>,
    /// Kernel functions called.
    pub kfuncs: Vec<KfuncRef>,
    /// Kernel variables and functions whose addresses are taken with `BPF_PSEUDO_BTF_ID` (`imm` = position
    /// here).
    pub ksyms: Vec<KsymRef>,
    /// `struct bpf_func_info` of every function, as the kernel takes it with `Btf::for_kernel`; empty if
    /// the object has none.
    pub raw_func_info: Vec<u8>,
    /// `struct bpf_line_info` likewise.
    pub raw_line_info: Vec<u8>,
}

/// Helper number of a call that stands for a CO-RE relocation without a target. As in libbpf, where the
/// number reads `0xbad2310` ("bad relo").
pub const POISON_CORE: i32 = 195_896_080;
/// Helper number of a call of an absent weak kfunc: this plus the position in [`ProgramSpec::kfuncs`]. As
/// in libbpf.
pub const POISON_KFUNC: i32 = 2_002_000_000;

impl ProgramSpec {
    /// A program of bare instructions: section `xdp`, one function, no type information.
    #[must_use]
    pub fn bare(name: &str, insns: Vec<Insn>) -> Self {
        Self {
            name: name.to_owned(),
            section: "xdp".to_owned(),
            section_kind: SectionKind::Xdp,
            attach_type: AttachType::Xdp,
            frags: false,
            prog_flags: 0,
            autoload: true,
            insns,
            subprogs: vec![Subprog { name: name.to_owned(), start: 0, btf: None, is_global: true }],
            line_info: Vec::new(),
            kfuncs: Vec::new(),
            ksyms: Vec::new(),
            raw_func_info: Vec::new(),
            raw_line_info: Vec::new(),
        }
    }
}

/// One function of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subprog {
    /// Function name.
    pub name: String,
    /// First instruction in [`ProgramSpec::insns`].
    pub start: u32,
    /// `FUNC` in the object's BTF, if it has one there.
    pub btf: Option<TypeId>,
    /// Global functions are verified on their own, static ones within their callers.
    pub is_global: bool,
}

/// A source position, from `.BTF.ext`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineInfo {
    /// First instruction that belongs to it.
    pub insn: u32,
    /// File as the compiler named it.
    pub file: Arc<str>,
    /// The line's text.
    pub text: Arc<str>,
    /// From 1.
    pub line: u32,
    /// From 1; 0 if unknown.
    pub column: u32,
}

/// A kernel function that a program calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KfuncRef {
    /// Name without the `___flavour` suffix.
    pub name: String,
    /// Its `FUNC` in the object's BTF.
    pub btf: Option<TypeId>,
    /// `__weak`: absence is no error.
    pub weak: bool,
}

/// A kernel symbol that a program takes the address of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KsymRef {
    /// Name without the `___flavour` suffix.
    pub name: String,
    /// Its `VAR` or `FUNC` in the object's BTF; `None` for an untyped symbol.
    pub btf: Option<TypeId>,
    /// `__weak`: absence is no error.
    pub weak: bool,
    /// Whether a function or a variable.
    pub is_func: bool,
}

impl ObjectSpec {
    /// The programs of these names, and those that program arrays of the object name, in the object's order.
    ///
    /// # Errors
    ///
    /// The name that no program has.
    pub fn programs_with_slots<'s>(&'s self, names: &'s [String]) -> Result<Vec<&'s ProgramSpec>, &'s str> {
        let in_slots = self.maps.iter().flat_map(|m| m.contents.slots()).filter_map(|(_, slot)| match slot {
            SlotRef::Program(name) => Some(name.as_str()),
            SlotRef::Map(_) => None,
        });
        let names: Vec<&str> = names.iter().map(String::as_str).chain(in_slots).collect();
        match names.iter().find(|n| !self.programs.iter().any(|p| p.name == **n)) {
            Some(missing) => Err(missing),
            None => Ok(self.programs.iter().filter(|p| names.contains(&p.name.as_str())).collect()),
        }
    }

    /// The map of a name.
    #[must_use]
    pub fn map(&self, name: &str) -> Option<(MapIndex, &MapSpec)> {
        self.maps.iter().enumerate().find(|(_, m)| m.name == name)
    }

    /// Chooses a program by function name or section name. If no name is given, the only one for a device's
    /// receive hook, or else the only one, of those in XDP sections; sections of other names may hold programs
    /// of other types.
    ///
    /// # Errors
    ///
    /// A sentence that lists the programs there are.
    pub fn program(&self, wanted: Option<&str>) -> Result<&ProgramSpec, SelectError> {
        let error = |wanted: Option<&str>| SelectError {
            object: self.name.clone(),
            wanted: wanted.map(str::to_owned),
            available: self.programs.iter().map(|p| (p.name.clone(), p.section.clone())).collect(),
            has_xdp: self.programs.iter().any(|p| p.section_kind == SectionKind::Xdp),
            unusable: self.unusable.iter().find(|p| wanted == Some(p.name.as_str())).cloned().map(Box::new),
        };
        let Some(name) = wanted else {
            let xdp = || self.programs.iter().filter(|p| p.section_kind == SectionKind::Xdp);
            let for_devices = xdp().filter(|p| p.attach_type == AttachType::Xdp);
            return only(for_devices).or_else(|| only(xdp())).ok_or_else(|| error(None));
        };
        if let Some(p) = self.programs.iter().find(|p| p.name == name) {
            return Ok(p);
        }
        only(self.programs.iter().filter(|p| p.section == name)).ok_or_else(|| error(Some(name)))
    }
}

/// The first, if there is no second.
fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    items.next().filter(|_| items.next().is_none())
}

/// No program, or more than one, answers to what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectError {
    /// Object file.
    pub object: String,
    /// Name that was asked for.
    pub wanted: Option<String>,
    /// Functions and their sections.
    pub available: Vec<(String, String)>,
    /// Whether one of them is in an XDP section.
    pub has_xdp: bool,
    /// The program that was asked for, if it is there and cannot be used.
    pub unusable: Option<Box<UnusableProgram>>,
}

impl std::fmt::Display for SelectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(p) = &self.unusable {
            return write!(f, "{}: program {:?} cannot be used: {}", self.object, p.name, p.problem);
        }
        if self.available.is_empty() {
            return write!(f, "{}: no program in this object", self.object);
        }
        match &self.wanted {
            Some(name) => write!(f, "{}: no single program is called {name:?}", self.object)?,
            None if self.has_xdp => write!(f, "{}: several programs; choose one with --prog", self.object)?,
            None => write!(
                f,
                "{}: no program in an XDP section; choose one with --prog if it is one",
                self.object
            )?,
        }
        f.write_str(". There are:")?;
        self.available.iter().try_for_each(|(name, section)| write!(f, " {name} (section {section:?})"))
    }
}

impl std::error::Error for SelectError {}
