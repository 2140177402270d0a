//! What an object declares `extern`: kernel functions and variables (`.ksyms`), configuration (`.kconfig`).
//!
//! A fault of one extern is a fault of the programs that use it, not of the object.

use std::collections::BTreeMap;

use uapi::bpf::{BPF_F_MMAPABLE, BPF_F_RDONLY_PROG, MapType};

use super::elf::{Binding, Elf};
use super::error::{Outcome, Problem};
use super::kconfig::{self, ConfigType, ConfigVar};
use super::spec::{MapContents, MapSpec};
use super::target::{Symbols, Target};
use crate::btf::core::types_are_compatible;
use crate::btf::{Btf, BtfKind, Kind, Linkage, TypeId, essential_name};

/// Most bytes of the `.kconfig` map.
const KCONFIG_SIZE_MAX: u32 = 1 << 20;

/// Everything undefined in an object's symbol table.
pub(super) struct Externs<'a> {
    list: Vec<Extern<'a>>,
    by_symbol: BTreeMap<usize, usize>,
    /// Bytes of the `.kconfig` map, if a program sees any configuration.
    pub(super) kconfig: Option<Vec<u8>>,
}

/// One extern.
pub(super) struct Extern<'a> {
    pub(super) name: &'a str,
    pub(super) weak: bool,
    /// What it resolves to, or why it cannot be used.
    pub(super) meaning: Outcome<Meaning>,
}

/// What an extern resolves to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Meaning {
    /// The configuration value at this offset of the `.kconfig` map.
    Config {
        offset: u32,
    },
    /// A kernel function, its `FUNC` in the object.
    Function(TypeId),
    /// A kernel variable, its `VAR` in the object; `None` if it has no type.
    Variable(Option<TypeId>),
    /// A weak symbol that the target lacks: its address is 0, its call is never made.
    AbsentFunction(TypeId),
    AbsentVariable,
}

impl<'a> Externs<'a> {
    /// Finds and resolves all externs of an object.
    pub(super) fn collect(elf: &Elf<'a>, btf: Option<&Btf>, target: &Target) -> Self {
        let sections = btf.map(sections_of_variables).unwrap_or_default();
        let mut externs = Self { list: Vec::new(), by_symbol: BTreeMap::new(), kconfig: None };
        let mut configs = Vec::new();
        for (symbol, s) in elf.symbols.iter().enumerate() {
            if !s.is_extern() || s.name.is_empty() {
                continue;
            }
            let weak = s.binding == Binding::Weak;
            let declared = declaration(btf, &sections, s.name);
            let meaning = declared.and_then(|declared| match declared {
                (btf, id, ".ksyms") => resolve_ksym(btf, id, weak, target),
                (btf, id, ".kconfig") => {
                    let var = ConfigVar::new(btf, id, s.name, weak)?;
                    configs.push((externs.list.len(), var));
                    Ok(Meaning::Config { offset: 0 })
                }
                (_, _, other) => {
                    let reason = format!(
                        "an extern in section {other:?}, not __ksym or __kconfig, cannot be resolved"
                    );
                    Err(Problem::new(reason))
                }
            });
            externs.by_symbol.insert(symbol, externs.list.len());
            let meaning = meaning.map_err(|p| p.in_symbol(s.name));
            externs.list.push(Extern { name: s.name, weak, meaning });
        }
        if !configs.is_empty() {
            externs.fill_kconfig(configs, target);
        }
        externs
    }

    /// The extern of a symbol.
    pub(super) fn of_symbol(&self, symbol: usize) -> Option<usize> {
        self.by_symbol.get(&symbol).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn get(&self, index: usize) -> &Extern<'a> {
        &self.list[index]
    }

    /// Lays the configuration variables out as libbpf does and gives them their values.
    fn fill_kconfig(&mut self, mut configs: Vec<(usize, ConfigVar<'a>)>, target: &Target) {
        configs.sort_by(|(_, a), (_, b)| a.layout_order(b));
        let mut end = 0u32;
        for (index, var) in &mut configs {
            var.offset = end.next_multiple_of(var.align);
            end = var.offset.saturating_add(var.size);
            self.list[*index].meaning = Ok(Meaning::Config { offset: var.offset });
        }
        if end > KCONFIG_SIZE_MAX {
            for (index, var) in &configs {
                let p = Problem::new("the object asks for more than 1 MiB of configuration values");
                self.list[*index].meaning = Err(p.in_section(".kconfig").in_symbol(var.name));
            }
            return;
        }
        let mut vars: Vec<_> = configs.iter().map(|(_, var)| var).collect();
        vars.sort_by_key(|v| v.name);
        let mut data = vec![0; end as usize];
        let mut problems = kconfig::fill(&vars, &target.kconfig, &mut data);
        for (index, var) in &configs {
            if let Some(problem) = problems.remove(var.name) {
                self.list[*index].meaning = Err(problem.in_section(".kconfig").in_symbol(var.name));
            }
        }
        self.kconfig = Some(data);
    }

    /// The map of the configuration.
    pub(super) fn kconfig_map(&self, btf: Option<&Btf>) -> Option<MapSpec> {
        let data = self.kconfig.as_ref()?;
        Some(MapSpec {
            name: ".kconfig".to_owned(),
            map_type: MapType::Array,
            key_size: 4,
            value_size: data.len() as u32,
            max_entries: 1,
            map_flags: BPF_F_RDONLY_PROG | BPF_F_MMAPABLE,
            map_extra: 0,
            numa_node: None,
            key_type: None,
            value_type: btf.and_then(|btf| btf.find(".kconfig", BtfKind::Datasec)),
            inner: None,
            contents: MapContents::Data(data.clone()),
            frozen: true,
            pin_by_name: false,
        })
    }

    /// Where each configuration variable lies in the `.kconfig` map, by name.
    pub(super) fn kconfig_offsets(&self) -> BTreeMap<&str, u32> {
        let offset = |e: &Extern<'a>| match e.meaning {
            Ok(Meaning::Config { offset }) => Some((e.name, offset)),
            _ => None,
        };
        self.list.iter().filter_map(offset).collect()
    }
}

/// The sections (`.ksyms`, `.kconfig`) that variables and functions are declared in.
fn sections_of_variables(btf: &Btf) -> BTreeMap<TypeId, TypeId> {
    let mut sections = BTreeMap::new();
    for (id, t) in btf.iter() {
        if let Kind::Datasec { vars, .. } = &t.kind {
            vars.iter().for_each(|v| {
                sections.entry(v.ty).or_insert(id);
            });
        }
    }
    sections
}

/// The declaration of an extern and the name of its section.
fn declaration<'b>(
    btf: Option<&'b Btf>,
    sections: &BTreeMap<TypeId, TypeId>,
    name: &str,
) -> Outcome<(&'b Btf, TypeId, &'b str)> {
    let none = "it is extern, and the object's BTF has no extern declaration of it; declare it with __ksym or \
                __kconfig and build with -g";
    let error = || Problem::new(none);
    let btf = btf.ok_or_else(error)?;
    let is_extern = |id: &TypeId| {
        matches!(
            btf.ty(*id).kind,
            Kind::Var { linkage: Linkage::Extern, .. } | Kind::Func { linkage: Linkage::Extern, .. }
        )
    };
    let found = [BtfKind::Var, BtfKind::Func].into_iter().find_map(|kind| btf.find(name, kind));
    let id = found.filter(is_extern).ok_or_else(error)?;
    let section = sections.get(&id).ok_or_else(error)?;
    Ok((btf, id, btf.name_of(*section)))
}

fn resolve_ksym(btf: &Btf, id: TypeId, weak: bool, target: &Target) -> Outcome<Meaning> {
    let full_name = btf.name_of(id);
    match btf.ty(id).kind {
        Kind::Func { proto, .. } => {
            let name = essential_name(full_name);
            let there = match exists(&target.functions, target, name, BtfKind::Func, (btf, proto)) {
                Err(_) if weak => false,
                there => there?,
            };
            match there {
                true => Ok(Meaning::Function(id)),
                false if weak => Ok(Meaning::AbsentFunction(id)),
                false => Err(Problem::new(format!(
                    "the kernel function {name} does not exist here; declare it __weak and test its address \
                     if the program can do without"
                ))),
            }
        }
        Kind::Var { ty, .. } => {
            let typed = btf.resolve(ty) != TypeId::VOID;
            let there = match (&target.variables, typed) {
                (Symbols::Btf, false) => true,
                (symbols, _) => exists(symbols, target, full_name, BtfKind::Var, (btf, btf.resolve(ty)))?,
            };
            match there {
                true => Ok(Meaning::Variable(typed.then_some(id))),
                false if weak => Ok(Meaning::AbsentVariable),
                false => Err(Problem::new(
                    "this kernel variable does not exist here; declare it __weak if the \
                                           program can do without",
                )),
            }
        }
        _ => Err(Problem::new("an extern that is neither a function nor a variable")),
    }
}

/// Whether a target has a symbol; an error if it has one of another type.
fn exists(
    symbols: &Symbols,
    target: &Target,
    name: &str,
    kind: BtfKind,
    local: (&Btf, TypeId),
) -> Outcome<bool> {
    match symbols {
        Symbols::Later => Ok(true),
        Symbols::Only(names) => Ok(names.contains(name)),
        Symbols::Btf => {
            let Some(btf) = target.btf.as_deref() else { return Ok(false) };
            let Some(id) = btf.find(name, kind) else { return Ok(false) };
            let ty = match btf.ty(id).kind {
                Kind::Func { proto: ty, .. } | Kind::Var { ty, .. } => btf.resolve(ty),
                _ => return Ok(false),
            };
            let fits = types_are_compatible(local.0, local.1, btf, ty).map_err(Problem::new)?;
            if !fits {
                return Err(Problem::new("the kernel's symbol of this name has another type"));
            }
            Ok(true)
        }
    }
}

/// Types that [`ConfigVar`] can have, from BTF.
#[doc(alias = "find_kcfg_type")]
pub(super) fn config_type(btf: &Btf, id: TypeId) -> Option<ConfigType> {
    let id = btf.resolve(id);
    match btf.ty(id).kind {
        Kind::Int { size, is_bool: true, .. } => (size == 1).then_some(ConfigType::Bool),
        Kind::Int { size: 1, .. } => Some(ConfigType::Char),
        Kind::Int { size: 2 | 4 | 8, signed, .. } => Some(ConfigType::Int { signed }),
        Kind::Enum { .. } if btf.name_of(id) == "libbpf_tristate" => Some(ConfigType::Tristate),
        Kind::Array { elem, len, .. } if len > 0 => match config_type_of_element(btf, elem)? {
            ConfigType::Char => Some(ConfigType::String),
            _ => None,
        },
        _ => None,
    }
}

fn config_type_of_element(btf: &Btf, id: TypeId) -> Option<ConfigType> {
    match *btf.resolved(id) {
        Kind::Int { size: 1, is_bool: false, .. } => Some(ConfigType::Char),
        _ => None,
    }
}
