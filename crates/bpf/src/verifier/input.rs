//! What is verified, and under which conditions.

use uapi::bpf::{BPF_F_RDONLY_PROG, MapType};

use crate::btf::{Btf, TypeId};
use crate::insn::Insn;
use crate::object::{KfuncRef, KsymRef, LineInfo, MapContents, MapSpec, ProgramSpec, Subprog};

/// A map as the verifier sees it.
#[derive(Clone, Debug)]
pub struct MapDef {
    /// Name, as logs write it (the kernel keeps 15 bytes).
    pub name: String,
    /// `enum bpf_map_type`.
    pub map_type: MapType,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Entries.
    pub max_entries: u32,
    /// `BPF_F_*` of map creation.
    pub flags: u32,
    /// Type of a value in the object's BTF, if the map was created with it.
    pub value_type: Option<TypeId>,
    /// Whether the map carries BTF at all.
    pub has_btf: bool,
    /// Template of the maps that this one holds.
    pub inner: Option<Box<MapDef>>,
    /// User space can no longer write it.
    pub frozen: bool,
    /// Value 0, for frozen maps whose contents may be treated as constants.
    pub contents: Option<Vec<u8>>,
}

impl MapDef {
    /// The view of a map that an object declares.
    #[must_use]
    pub fn from_spec(spec: &MapSpec, object: &str) -> Self {
        let name = spec.kernel_name(object);
        Self {
            name,
            map_type: spec.map_type,
            key_size: spec.key_size,
            value_size: spec.value_size,
            max_entries: spec.max_entries,
            flags: created_flags(spec.map_type, spec.map_flags),
            value_type: spec.value_type,
            has_btf: spec.value_type.is_some(),
            inner: spec.inner.as_ref().map(|i| Box::new(Self::from_spec(i, object))),
            frozen: spec.frozen,
            contents: match &spec.contents {
                MapContents::Data(d) => Some(d.clone()),
                _ => None,
            },
        }
    }
}

/// The flags that a map has once it is created: programs never write what is in a devmap.
///
/// Kernel: `kernel/bpf/devmap.c dev_map_alloc, v6.18`
pub(super) fn created_flags(map_type: MapType, flags: u32) -> u32 {
    match map_type {
        MapType::Devmap | MapType::DevmapHash => flags | BPF_F_RDONLY_PROG,
        _ => flags,
    }
}

/// A program with what it refers to.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// Instructions; maps are named by position in `maps` (`BPF_PSEUDO_MAP_IDX`), kfuncs in `kfuncs`.
    pub insns: &'a [Insn],
    /// Functions with their types; empty if the program comes without type information.
    pub subprogs: &'a [Subprog],
    /// Source positions.
    pub line_info: &'a [LineInfo],
    /// Kernel functions called.
    pub kfuncs: &'a [KfuncRef],
    /// Kernel symbols used.
    pub ksyms: &'a [KsymRef],
    /// Maps.
    pub maps: &'a [MapDef],
    /// The object's BTF.
    pub btf: Option<&'a Btf>,
    /// The kernel's BTF, for kfuncs and kernel types.
    pub kernel_btf: Option<&'a Btf>,
    /// The licence is compatible with the GPL.
    pub gpl: bool,
    /// `expected_attach_type`.
    pub attach_type: u32,
    /// `BPF_F_*` of program loading.
    pub prog_flags: u32,
}

impl<'a> Input<'a> {
    /// A program of an object, with the maps already viewed as [`MapDef`]s.
    #[must_use]
    pub fn of_program(
        program: &'a ProgramSpec,
        maps: &'a [MapDef],
        license: &str,
        btf: Option<&'a Btf>,
        kernel_btf: Option<&'a Btf>,
    ) -> Self {
        Self {
            insns: &program.insns,
            subprogs: &program.subprogs,
            line_info: &program.line_info,
            kfuncs: &program.kfuncs,
            ksyms: &program.ksyms,
            maps,
            btf,
            kernel_btf,
            gpl: license_is_gpl_compatible(license),
            attach_type: program.attach_type.raw(),
            prog_flags: program.prog_flags | if program.frags { uapi::bpf::BPF_F_XDP_HAS_FRAGS } else { 0 },
        }
    }
}

/// Whether the kernel lets programs of a licence use GPL-only helpers.
///
/// Kernel: `include/linux/license.h license_is_gpl_compatible`, v6.18.
#[must_use]
pub fn license_is_gpl_compatible(license: &str) -> bool {
    matches!(
        license,
        "GPL" | "GPL v2" | "GPL and additional rights" | "Dual BSD/GPL" | "Dual MIT/GPL" | "Dual MPL/GPL"
    )
}

/// How to verify.
#[derive(Clone, Debug)]
pub struct Options {
    /// 0: only the outcome; 1: the failing path; 2: every path (the kernel's `log_level`).
    pub log_level: u32,
    /// CPUs that the machine may have (`nr_cpu_ids`): the range of `bpf_get_smp_processor_id`.
    pub nr_cpus: u32,
    /// Kernel variables have addresses (`CONFIG_KALLSYMS_ALL`); none do in user space.
    pub kernel_variables: bool,
    /// Keep what is claimed before every instruction, for tests that hold runs against it. States are then
    /// remembered at every instruction, so the cost counted is another.
    pub claims: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { log_level: 0, nr_cpus: 8192, kernel_variables: false, claims: false }
    }
}
