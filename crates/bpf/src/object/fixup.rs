//! What the compiler could not write into an object's BTF: sizes and offsets of data sections, and which
//! hidden symbols are static after all. [`Btf::for_kernel`] then makes it fit for `BPF_BTF_LOAD`.

use std::collections::{BTreeMap, BTreeSet};

use object::elf::{STT_FUNC, STT_OBJECT};

use super::elf::{Binding, Elf, Symbol};
use crate::btf::{Btf, BtfKind, Kind, Linkage, Member, Name, SecVar, Type, TypeId};

/// Completes the data sections from the ELF file and lays `.kconfig` out as given. Returns the names of
/// sections that stay without a size because the file has no such section.
#[doc(alias = "bpf_object_fixup_btf")]
pub(super) fn complete_btf(btf: &mut Btf, elf: &Elf<'_>, kconfig: &BTreeMap<&str, u32>) -> Vec<String> {
    let symbols = global_symbols(elf);
    let sizes: BTreeMap<&str, u64> = elf.sections.iter().rev().map(|s| (s.name, s.size)).collect();
    let mut incomplete = Vec::new();
    let sections: Vec<TypeId> =
        btf.iter().filter(|(_, t)| t.tag() == BtfKind::Datasec).map(|(id, _)| id).collect();
    for id in sections {
        let name = btf.name_of(id).to_owned();
        let Kind::Datasec { size, vars } = btf.ty(id).kind.clone() else { continue };
        let mut layout = Layout { size, vars };
        match name.as_str() {
            ".ksyms" => {}
            ".kconfig" => layout.place_configuration(btf, kconfig),
            _ => {
                let known = sizes.get(name.as_str()).copied().unwrap_or(0);
                layout.place_variables(btf, known, &symbols);
                if layout.size == 0 {
                    incomplete.push(name);
                }
            }
        }
        layout.vars.sort_by_key(|v| v.offset);
        btf.set_kind(id, Kind::Datasec { size: layout.size, vars: layout.vars });
    }
    hide_functions(btf, elf);
    incomplete
}

struct Layout {
    size: u32,
    vars: Box<[SecVar]>,
}

impl Layout {
    /// Offsets from the symbols, unless a linker has filled them in; hidden variables become static.
    #[doc(alias = "btf_fixup_datasec")]
    fn place_variables(&mut self, btf: &mut Btf, size: u64, symbols: &BTreeMap<&str, Symbol<'_>>) {
        let unplaced = self.size == 0;
        if unplaced {
            self.size = u32::try_from(size).unwrap_or(0);
        }
        for var in &mut self.vars {
            let Kind::Var { ty, linkage: Linkage::Global } = btf.ty(var.ty).kind else { continue };
            let Some(symbol) = symbols.get(btf.name_of(var.ty)) else { continue };
            if unplaced {
                var.offset = u32::try_from(symbol.value).unwrap_or(u32::MAX);
            }
            if symbol.hidden {
                btf.set_kind(var.ty, Kind::Var { ty, linkage: Linkage::Static });
            }
        }
    }

    fn place_configuration(&mut self, btf: &mut Btf, offsets: &BTreeMap<&str, u32>) {
        for var in &mut self.vars {
            let Kind::Var { ty, .. } = btf.ty(var.ty).kind else { continue };
            if let Some(&offset) = offsets.get(btf.name_of(var.ty)) {
                var.offset = offset;
                btf.set_kind(var.ty, Kind::Var { ty, linkage: Linkage::Global });
                self.size = self.size.max(offset.saturating_add(btf.size_of(ty).unwrap_or(0) as u32));
            }
        }
    }
}

fn global_symbols<'a>(elf: &Elf<'a>) -> BTreeMap<&'a str, Symbol<'a>> {
    let globals = elf.symbols.iter().rev();
    let globals = globals.filter(|s| s.kind == STT_OBJECT && s.binding != Binding::Local);
    globals.map(|s| (s.name, *s)).collect()
}

/// A global function that is hidden from other files is verified in its callers' context.
fn hide_functions(btf: &mut Btf, elf: &Elf<'_>) {
    let hidden = elf.symbols.iter().filter(|s| s.kind == STT_FUNC && s.hidden && s.binding != Binding::Local);
    for symbol in hidden {
        let Some(id) = btf.func(symbol.name) else { continue };
        if let Kind::Func { proto, linkage: Linkage::Global } = btf.ty(id).kind {
            btf.set_kind(id, Kind::Func { proto, linkage: Linkage::Static });
        }
    }
}

impl Btf {
    /// The blob of this object's types as the kernel takes it: what is extern becomes something that the
    /// kernel can check (libbpf's rules), all else keeps its number, so func and line information fit.
    #[must_use]
    pub fn for_kernel(&self) -> Vec<u8> {
        let mut btf = self.clone();
        let int = btf.iter().find(|(_, t)| matches!(t.kind, Kind::Int { size: 4, bits: 32, .. }));
        let int = int.map(|(id, _)| id);
        let int = int.unwrap_or_else(|| btf.append("int", INT));
        let has_ksyms = btf.find(".ksyms", BtfKind::Datasec).is_some();
        let dummy = Kind::Var { ty: int, linkage: Linkage::Global };
        let dummy = has_ksyms.then(|| btf.append("dummy_ksym", dummy));
        let mut named = BTreeSet::new();
        for id in (1..btf.types().len() as u32).map(TypeId) {
            let kind = btf.ty(id).kind.clone();
            match kind {
                Kind::Func { proto, linkage: Linkage::Extern } => {
                    btf.set_kind(id, Kind::Func { proto, linkage: Linkage::Global });
                    if let Some(dummy) = dummy.filter(|_| named.insert(proto)) {
                        btf.name_parameters(proto, btf.ty(dummy).name);
                    }
                }
                Kind::Var { linkage: Linkage::Extern, .. } => {
                    btf.set_kind(id, Kind::Var { ty: int, linkage: Linkage::Global });
                }
                Kind::Datasec { vars, .. } if btf.name_of(id) == ".ksyms" => {
                    let kind = btf.kernel_symbols_section(vars, dummy);
                    btf.set_kind(id, kind);
                }
                Kind::Datasec { size: 0, .. } => btf.set_type(id, nothing()),
                _ => {}
            }
        }
        btf.encode()
    }

    /// `.ksyms` as a section of integers, four bytes each.
    fn kernel_symbols_section(&self, mut vars: Box<[SecVar]>, dummy: Option<TypeId>) -> Kind {
        for (i, var) in vars.iter_mut().enumerate() {
            (var.offset, var.size) = (i as u32 * 4, 4);
            if let (BtfKind::Func, Some(dummy)) = (self.ty(var.ty).tag(), dummy) {
                var.ty = dummy;
            }
        }
        Kind::Datasec { size: vars.len() as u32 * 4, vars }
    }

    /// The kernel wants names of the parameters of a global function.
    fn name_parameters(&mut self, proto: TypeId, name: Name) {
        let Kind::FuncProto { ret, mut params } = self.ty(proto).kind.clone() else { return };
        for p in params.iter_mut().filter(|p| p.ty != TypeId::VOID && p.name.is_empty()) {
            p.name = name;
        }
        self.set_kind(proto, Kind::FuncProto { ret, params });
    }
}

const INT: Kind =
    Kind::Int { size: 4, signed: true, is_char: false, is_bool: false, bit_offset: 0, bits: 32 };

/// What stands in for a section without a size, which the kernel refuses.
fn nothing() -> Type {
    let members: Box<[Member]> = Box::default();
    Type { name: Name::EMPTY, kind: Kind::Struct { size: 0, members } }
}
