//! The functions of an object: found by symbol, relocated within themselves, not yet put together.
//!
//! What does not depend on the program that a function ends up in is done here, once: CO-RE, references to
//! maps and configuration. Calls and kernel symbols stay as [`Site`]s for the linker.

use std::collections::{BTreeMap, BTreeSet};

use object::elf::{SHT_PROGBITS, STT_FUNC};
use uapi::bpf::*;

use super::core_relo;
use super::elf::{Binding, Elf, Place, Relocation, Symbol};
use super::error::{Outcome, Problem};
use super::externs::{Externs, Meaning};
use super::maps::Maps;
use super::section_name::is_subprograms;
use crate::btf::core::Matcher;
use crate::btf::{Btf, BtfExt, Kind, LineRecord, Linkage, TypeId};
use crate::insn::Insn;

/// Position in [`Functions::list`].
pub(super) type FunctionId = usize;

/// All functions of an object, by section and offset.
pub(super) struct Functions<'a> {
    pub(super) list: Vec<Function<'a>>,
}

/// A function as it stands in its section.
pub(super) struct Function<'a> {
    pub(super) name: &'a str,
    /// Number of its section.
    pub(super) section: usize,
    /// First instruction in the section.
    pub(super) start: u32,
    pub(super) insns: Vec<Insn>,
    /// Outside of `.text` and not local: a program begins here.
    pub(super) is_entry: bool,
    /// Verified on its own when called.
    pub(super) is_global: bool,
    /// Its `FUNC`.
    pub(super) btf: Option<TypeId>,
    /// Ascending; instructions count from the start of the function.
    pub(super) lines: Vec<LineRecord>,
    /// Instructions that the linker completes, ascending.
    pub(super) sites: Vec<Site>,
    /// Why programs with this function cannot be used.
    pub(super) problem: Option<Problem>,
}

/// An instruction that depends on the program that the function becomes part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Site {
    /// From the start of the function.
    pub(super) insn: u32,
    pub(super) what: SiteKind,
}

/// What is at a [`Site`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SiteKind {
    /// A call of a function of the object.
    Call(FunctionId),
    /// The address of a function of the object.
    Address(FunctionId),
    /// A call of an extern.
    KernelCall(usize),
    /// The address of an extern.
    KernelAddress(usize),
}

/// What the relocations of a function refer to.
pub(super) struct Context<'a, 'b> {
    pub(super) elf: &'b Elf<'a>,
    pub(super) btf: Option<&'b Btf>,
    pub(super) ext: &'b BtfExt,
    pub(super) target: Option<&'b Btf>,
    pub(super) maps: &'b Maps,
    pub(super) externs: &'b Externs<'a>,
}

impl<'a> Functions<'a> {
    /// Finds the functions of all executable sections.
    pub(super) fn collect(elf: &Elf<'a>) -> Outcome<Self> {
        let mut places: BTreeMap<usize, Vec<&Symbol<'a>>> = BTreeMap::new();
        for symbol in elf.symbols.iter().filter(|s| s.kind == STT_FUNC) {
            let Place::Section(section) = symbol.place else { continue };
            let s = &elf.sections[section];
            if s.executable && s.kind == SHT_PROGBITS && s.size > 0 {
                places.entry(section).or_default().push(symbol);
            }
        }
        let mut list = Vec::new();
        for (section, mut symbols) in places {
            let name = elf.sections[section].name;
            // Of two names for one function the global one counts.
            symbols.sort_by_key(|s| (s.value, s.binding == Binding::Local));
            symbols.dedup_by_key(|s| s.value);
            for (i, symbol) in symbols.iter().enumerate() {
                let next = symbols.get(i + 1).map(|s| s.value);
                let function = read_function(elf, section, symbol, next)
                    .map_err(|p| p.in_section(name).in_symbol(symbol.name))?;
                list.push(function);
            }
        }
        Ok(Self { list })
    }

    /// Applies all relocations. A failure stays with its function.
    pub(super) fn relocate(&mut self, context: &Context<'a, '_>) -> Outcome<()> {
        self.take_debug_info(context);
        self.relocate_core(context);
        let sections: BTreeSet<usize> = self.list.iter().map(|f| f.section).collect();
        for section in sections {
            for relocation in context.elf.relocations(section)? {
                self.relocate_one(context, section, &relocation)?;
            }
        }
        for id in 0..self.list.len() {
            self.find_local_calls(id);
            self.list[id].sites.sort_by_key(|s| s.insn);
            self.list[id].sites.dedup_by_key(|s| s.insn);
        }
        Ok(())
    }

    /// The name of the entry program that a symbol stands for.
    pub(super) fn entry_at(&self, symbol: &Symbol<'_>) -> Option<&'a str> {
        let Place::Section(section) = symbol.place else { return None };
        let insn = symbol.value.is_multiple_of(8).then(|| u32::try_from(symbol.value / 8).ok())??;
        let function = &self.list[self.containing(section, insn)?];
        (function.start == insn && function.is_entry).then_some(function.name)
    }

    /// Entry programs in sections called `id/index`, as iproute2 fills program arrays.
    pub(super) fn tail_call_sections<'b>(
        &'b self,
        elf: &'b Elf<'a>,
    ) -> impl Iterator<Item = (u32, u32, &'a str)> + 'b {
        self.list.iter().filter(|f| f.is_entry).filter_map(|f| {
            let (id, index) = elf.sections[f.section].name.split_once('/')?;
            Some((id.parse().ok()?, index.parse().ok()?, f.name))
        })
    }

    /// The function that an instruction of a section belongs to.
    fn containing(&self, section: usize, insn: u32) -> Option<FunctionId> {
        let after = self.list.partition_point(|f| (f.section, f.start) <= (section, insn));
        let id = after.checked_sub(1)?;
        let f = &self.list[id];
        (f.section == section && (insn - f.start) < f.insns.len() as u32).then_some(id)
    }

    /// The function that begins at an instruction of a section.
    fn starting(&self, section: usize, insn: i64) -> Outcome<FunctionId> {
        let found = u32::try_from(insn)
            .ok()
            .and_then(|insn| self.containing(section, insn).filter(|&id| self.list[id].start == insn));
        found.ok_or_else(|| Problem::new("it calls or names a place where no function begins"))
    }

    /// Gives every function its type and its source lines.
    fn take_debug_info(&mut self, context: &Context<'_, '_>) {
        for (name, info) in &context.ext.sections {
            let Some(section) = context.elf.section_named(name) else { continue };
            for &(insn, ty) in &info.funcs {
                if let Some(id) = self.containing(section, insn).filter(|&id| self.list[id].start == insn) {
                    self.list[id].btf = Some(ty);
                }
            }
            for line in &info.lines {
                let Some(id) = self.containing(section, line.insn) else { continue };
                let f = &mut self.list[id];
                let line = LineRecord { insn: line.insn - f.start, ..*line };
                // The kernel wants them ascending; a record that is not says nothing.
                if f.lines.last().is_none_or(|last| last.insn < line.insn) {
                    f.lines.push(line);
                }
            }
        }
        for f in &mut self.list {
            let kind = f.btf.and_then(|id| context.btf.map(|btf| &btf.ty(id).kind));
            f.is_global &= matches!(kind, Some(Kind::Func { linkage: Linkage::Global, .. }));
        }
    }

    fn relocate_core(&mut self, context: &Context<'_, '_>) {
        let Some(btf) = context.btf else { return };
        let mut matcher = Matcher::new(btf, context.target);
        for (name, info) in &context.ext.sections {
            let Some(section) = context.elf.section_named(name) else { continue };
            for relo in &info.relos {
                let Some(id) = self.containing(section, relo.insn) else { continue };
                let f = &mut self.list[id];
                let insn = relo.insn - f.start;
                if let Err(reason) = core_relo::apply(&mut matcher, relo, &mut f.insns[insn as usize..]) {
                    f.fail(core_relo::problem(btf, relo, reason).at_insn(insn));
                }
            }
        }
    }

    fn relocate_one(&mut self, context: &Context<'a, '_>, section: usize, r: &Relocation) -> Outcome<()> {
        let name = context.elf.sections[section].name;
        let insn = u32::try_from(r.offset / 8).ok().filter(|_| r.offset.is_multiple_of(8));
        let Some(insn) = insn.filter(|&n| u64::from(n) * 8 < context.elf.sections[section].size) else {
            let reason = format!("damaged ELF file: relocation at offset {}", r.offset);
            return Err(Problem::new(reason).in_section(name));
        };
        // What lies outside of all functions is never run.
        let Some(id) = self.containing(section, insn) else { return Ok(()) };
        let at = insn - self.list[id].start;
        match self.relocate_insn(context, id, at, r.symbol) {
            Ok(Some(what)) => self.list[id].sites.push(Site { insn: at, what }),
            Ok(None) => {}
            Err(problem) => self.list[id].fail(problem.at_insn(at)),
        }
        Ok(())
    }

    #[doc(alias = "bpf_program__record_reloc")]
    fn relocate_insn(
        &mut self,
        context: &Context<'a, '_>,
        id: FunctionId,
        at: u32,
        symbol: usize,
    ) -> Outcome<Option<SiteKind>> {
        let s = context.elf.symbols[symbol];
        let insn = self.list[id].insns[at as usize];
        let is_call = insn.code == BPF_JMP | BPF_CALL;
        if !is_call && !insn.is_ld_imm64() {
            let reason = format!("relocation of an instruction with code {:#04x}", insn.code);
            return Err(Problem::new(reason));
        }
        if s.is_extern() {
            return self.relocate_extern(context, id, at, symbol);
        }
        let Place::Section(section) = s.place else {
            let reason = format!("{:?} is defined nowhere; link the files with bpftool gen object", s.name);
            return Err(Problem::new(reason));
        };
        let target = &context.elf.sections[section];
        if is_call {
            if insn.src != BPF_PSEUDO_CALL || !s.value.is_multiple_of(8) {
                return Err(Problem::new("relocation of a call that is none of a function"));
            }
            let to = (s.value / 8) as i64 + i64::from(insn.imm) + 1;
            return self.starting(section, to).map(|f| Some(SiteKind::Call(f)));
        }
        if target.executable {
            let to = s.value.wrapping_add(i64::from(insn.imm) as u64) as i64;
            if to % 8 != 0 {
                return Err(Problem::new("the address of a function lies within an instruction"));
            }
            return self.starting(section, to / 8).map(|f| Some(SiteKind::Address(f)));
        }
        self.relocate_map(context, id, at, &s, section)?;
        Ok(None)
    }

    fn relocate_extern(
        &mut self,
        context: &Context<'a, '_>,
        id: FunctionId,
        at: u32,
        symbol: usize,
    ) -> Outcome<Option<SiteKind>> {
        let unknown =
            || Problem::new(format!("{:?} is extern and unknown", context.elf.symbols[symbol].name));
        let index = context.externs.of_symbol(symbol).ok_or_else(unknown)?;
        let meaning = context.externs.get(index).meaning.clone()?;
        let is_call = self.list[id].insns[at as usize].code == BPF_JMP | BPF_CALL;
        match meaning {
            Meaning::Config { offset } if !is_call => {
                let map = context.maps.kconfig.ok_or_else(unknown)?;
                self.list[id].refer_to_value(at, map, offset as i32)?;
                Ok(None)
            }
            Meaning::Function(_) | Meaning::AbsentFunction(_) if is_call => {
                Ok(Some(SiteKind::KernelCall(index)))
            }
            Meaning::Config { .. } | Meaning::Variable(_) | Meaning::AbsentVariable if is_call => Err(
                Problem::new(format!("{:?} is called, but is no function", context.elf.symbols[symbol].name)),
            ),
            _ => Ok(Some(SiteKind::KernelAddress(index))),
        }
    }

    /// A reference to a map, or to a variable in a data section.
    fn relocate_map(
        &mut self,
        context: &Context<'a, '_>,
        id: FunctionId,
        at: u32,
        s: &Symbol<'_>,
        section: usize,
    ) -> Outcome<()> {
        let imm = self.list[id].insns[at as usize].imm;
        if let Some(map) = context.maps.of_data(section) {
            return self.list[id].refer_to_value(at, map, imm.wrapping_add(s.value as i32));
        }
        // A static map is named by its section, with the place in the instruction.
        let place = if s.is_section() { s.value.wrapping_add(imm as u64) } else { s.value };
        let map = context.maps.at(section, place).ok_or_else(|| {
            let name = context.elf.sections[section].name;
            let hint = match name {
                ".addr_space.1" => "; arenas are not supported",
                _ => "",
            };
            let what = if s.name.is_empty() { name } else { s.name };
            Problem::new(format!(
                "{what:?} in section {name:?} is neither a map nor a variable in a map{hint}"
            ))
        })?;
        let f = &mut self.list[id];
        f.second_slot(at)?;
        let insn = &mut f.insns[at as usize];
        (insn.src, insn.imm) = (BPF_PSEUDO_MAP_IDX, map as i32);
        Ok(())
    }

    /// Calls of functions in the same section need no relocation.
    fn find_local_calls(&mut self, id: FunctionId) {
        let f = &self.list[id];
        let relocated: BTreeSet<u32> = f.sites.iter().map(|s| s.insn).collect();
        let mut found = Vec::new();
        let mut problem = None;
        for (i, insn) in f.insns.iter().enumerate() {
            let call = insn.is_pseudo_call() && insn.dst == 0 && insn.off == 0;
            if !call || relocated.contains(&(i as u32)) {
                continue;
            }
            let to = i64::from(f.start) + i as i64 + i64::from(insn.imm) + 1;
            match self.starting(f.section, to) {
                Ok(target) => found.push(Site { insn: i as u32, what: SiteKind::Call(target) }),
                Err(p) => problem = problem.or(Some(p.at_insn(i as u32))),
            }
        }
        let f = &mut self.list[id];
        f.sites.extend(found);
        problem.into_iter().for_each(|p| f.fail(p));
    }
}

impl Function<'_> {
    /// Remembers the first failure.
    fn fail(&mut self, problem: Problem) {
        self.problem.get_or_insert_with(|| problem.in_symbol(self.name));
    }

    /// Makes a 64-bit load point into a map's value.
    fn refer_to_value(&mut self, at: u32, map: usize, offset: i32) -> Outcome<()> {
        self.second_slot(at)?.imm = offset;
        let insn = &mut self.insns[at as usize];
        (insn.src, insn.imm) = (BPF_PSEUDO_MAP_IDX_VALUE, map as i32);
        Ok(())
    }

    fn second_slot(&mut self, at: u32) -> Outcome<&mut Insn> {
        let slot = self.insns.get_mut(at as usize + 1);
        slot.ok_or_else(|| Problem::new("a 64-bit load is cut off by the end of the function"))
    }
}

fn read_function<'a>(
    elf: &Elf<'a>,
    section: usize,
    symbol: &Symbol<'a>,
    next: Option<u64>,
) -> Outcome<Function<'a>> {
    let data = elf.sections[section].data;
    let limit = next.unwrap_or(data.len() as u64);
    // Assembly without .size: up to what follows.
    let size = if symbol.size == 0 { limit.saturating_sub(symbol.value) } else { symbol.size };
    let end = symbol.value.checked_add(size).filter(|&end| end <= limit.max(symbol.value));
    let end = end.ok_or_else(|| {
        Problem::new(match next {
            Some(_) => "damaged ELF file: the function overlaps the next one",
            None => "damaged ELF file: the function crosses the end of its section",
        })
    })?;
    if size == 0 || !symbol.value.is_multiple_of(8) || !size.is_multiple_of(8) {
        let reason = format!("damaged ELF file: function of {size} bytes at offset {}", symbol.value);
        return Err(Problem::new(reason));
    }
    let bytes = data.get(symbol.value as usize..end as usize);
    let insns = bytes
        .and_then(Insn::decode_all)
        .ok_or_else(|| Problem::new("damaged ELF file: the function crosses the end of its section"))?;
    let start = u32::try_from(symbol.value / 8).map_err(|_| Problem::new("the section is too large"))?;
    let is_local = symbol.binding == Binding::Local;
    Ok(Function {
        name: symbol.name,
        section,
        start,
        insns,
        is_entry: !is_local && !is_subprograms(elf.sections[section].name),
        is_global: !is_local && !symbol.hidden,
        btf: None,
        lines: Vec::new(),
        sites: Vec::new(),
        problem: None,
    })
}
