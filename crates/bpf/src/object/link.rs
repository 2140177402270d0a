//! Putting a program together: the entry function, then every function that it reaches, each once, in the
//! order in which calls are found (libbpf's order), with calls made relative.

use uapi::bpf::*;

use super::error::{Outcome, Problem};
use super::externs::{Externs, Meaning};
use super::functions::{Function, FunctionId, Functions, Site, SiteKind};
use super::section_name;
use super::spec::{KfuncRef, KsymRef, LineInfo, POISON_KFUNC, ProgramSpec, Subprog};
use super::texts::Texts;
use crate::btf::{Btf, BtfKind, TypeId, essential_name};
use crate::insn::Insn;

/// Instructions of all programs together that an object may always have.
const TOTAL_BASE: usize = 1 << 20;
/// And how often, on average, each of its instructions may be in a program.
const TOTAL_FACTOR: usize = 16;

/// Puts programs together, one after the other.
pub(super) struct Linker<'a, 'b> {
    functions: &'b Functions<'a>,
    externs: &'b Externs<'a>,
    btf: Option<&'b Btf>,
    texts: Texts<'b>,
    /// For each function: the last program that it was placed in, and where.
    placed: Vec<(u32, u32)>,
    /// For each extern twice, as called and as taken the address of: the last program that does so, and the
    /// position there.
    numbered: Vec<(u32, u32)>,
    generation: u32,
    budget: usize,
}

/// A program as far as it has been put together.
struct Building {
    insns: Vec<Insn>,
    order: Vec<(FunctionId, u32)>,
    kfuncs: Vec<KfuncRef>,
    ksyms: Vec<KsymRef>,
}

impl<'a, 'b> Linker<'a, 'b> {
    pub(super) fn new(functions: &'b Functions<'a>, externs: &'b Externs<'a>, btf: Option<&'b Btf>) -> Self {
        let insns: usize = functions.list.iter().map(|f| f.insns.len()).sum();
        Self {
            functions,
            externs,
            btf,
            texts: Texts::new(btf),
            placed: vec![(0, 0); functions.list.len()],
            numbered: vec![(0, 0); 2 * externs.len()],
            generation: 0,
            budget: TOTAL_BASE + TOTAL_FACTOR * insns,
        }
    }

    /// The program that begins with an entry function.
    #[doc(alias = "bpf_object__relocate_calls")]
    pub(super) fn link(&mut self, entry: FunctionId, section: &str) -> Outcome<ProgramSpec> {
        self.generation += 1;
        let mut building =
            Building { insns: Vec::new(), order: Vec::new(), kfuncs: Vec::new(), ksyms: Vec::new() };
        self.place_reachable(&mut building, entry)?;
        if let Some(callback) = self.exception_callback(entry)? {
            self.place_reachable(&mut building, callback)?;
        }
        self.complete_sites(&mut building)?;
        Ok(self.finish(building, entry, section))
    }

    /// Appends a function and, before anything else, all that it reaches and that is not there yet.
    fn place_reachable(&mut self, building: &mut Building, first: FunctionId) -> Outcome<()> {
        let mut path: Vec<(FunctionId, usize)> = Vec::new();
        self.place(building, first, &mut path)?;
        while let Some((id, next)) = path.last_mut() {
            let Some(site) = self.functions.list[*id].sites.get(*next) else {
                path.pop();
                continue;
            };
            *next += 1;
            if let SiteKind::Call(callee) | SiteKind::Address(callee) = site.what {
                self.place(building, callee, &mut path)?;
            }
        }
        Ok(())
    }

    fn place(
        &mut self,
        building: &mut Building,
        id: FunctionId,
        path: &mut Vec<(FunctionId, usize)>,
    ) -> Outcome<()> {
        if self.placed[id].0 == self.generation {
            return Ok(());
        }
        let f = &self.functions.list[id];
        if let Some(problem) = &f.problem {
            return Err(problem.clone());
        }
        self.budget = self.budget.checked_sub(f.insns.len()).ok_or_else(|| {
            Problem::new(
                "the object's programs are too large together: more than a million instructions and \
                          sixteen times those in the file",
            )
        })?;
        let start = building.insns.len() as u32;
        self.placed[id] = (self.generation, start);
        building.order.push((id, start));
        building.insns.extend_from_slice(&f.insns);
        path.push((id, 0));
        Ok(())
    }

    fn complete_sites(&mut self, building: &mut Building) -> Outcome<()> {
        let order = std::mem::take(&mut building.order);
        for &(id, start) in &order {
            let f = &self.functions.list[id];
            for site in &f.sites {
                self.complete_site(building, start, site)
                    .map_err(|p| p.in_symbol(f.name).at_insn(site.insn))?;
            }
        }
        building.order = order;
        Ok(())
    }

    fn complete_site(&mut self, building: &mut Building, start: u32, site: &Site) -> Outcome<()> {
        let at = start + site.insn;
        match site.what {
            SiteKind::Call(callee) | SiteKind::Address(callee) => {
                let insn = &mut building.insns[at as usize];
                insn.imm = self.placed[callee].1.wrapping_sub(at).wrapping_sub(1) as i32;
                if site.what == SiteKind::Address(callee) {
                    insn.src = BPF_PSEUDO_FUNC;
                }
            }
            SiteKind::KernelCall(e) => {
                let (index, absent) = self.kfunc(building, e)?;
                building.insns[at as usize] = match absent {
                    true => Insn::new(BPF_JMP | BPF_CALL, 0, 0, 0, POISON_KFUNC.wrapping_add(index as i32)),
                    false => Insn::new(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL, 0, index as i32),
                };
            }
            SiteKind::KernelAddress(e) => {
                let symbol = self.ksym(building, e)?;
                let Some([insn, second]) = building.insns.get_mut(at as usize..at as usize + 2) else {
                    return Err(Problem::new("a 64-bit load is cut off by the end of the function"));
                };
                (insn.imm, second.imm) = (0, 0);
                if let Some(index) = symbol {
                    (insn.src, insn.imm) = (BPF_PSEUDO_BTF_ID, index as i32);
                }
            }
        }
        Ok(())
    }

    /// The position of a called extern in [`ProgramSpec::kfuncs`], and whether it is absent.
    fn kfunc(&mut self, building: &mut Building, e: usize) -> Outcome<(u32, bool)> {
        let ext = self.externs.get(e);
        let (id, absent) = match ext.meaning.clone()? {
            Meaning::Function(id) => (id, false),
            Meaning::AbsentFunction(id) => (id, true),
            _ => return Err(Problem::new("a call of a variable")),
        };
        let list = &mut building.kfuncs;
        let index = number(&mut self.numbered[2 * e], self.generation, list.len());
        if index as usize == list.len() {
            let name = essential_name(ext.name).to_owned();
            list.push(KfuncRef { name, btf: Some(id), weak: ext.weak });
        }
        Ok((index, absent))
    }

    /// The position of an extern in [`ProgramSpec::ksyms`]; `None` if it is absent, so that its address is 0.
    fn ksym(&mut self, building: &mut Building, e: usize) -> Outcome<Option<u32>> {
        let ext = self.externs.get(e);
        let (btf, is_func) = match ext.meaning.clone()? {
            Meaning::Function(id) => (Some(id), true),
            Meaning::Variable(id) => (id, false),
            Meaning::AbsentFunction(_) | Meaning::AbsentVariable => return Ok(None),
            Meaning::Config { .. } => return Err(Problem::new("a configuration value without its map")),
        };
        let list = &mut building.ksyms;
        let index = number(&mut self.numbered[2 * e + 1], self.generation, list.len());
        if index as usize == list.len() {
            let name = if is_func { essential_name(ext.name) } else { ext.name }.to_owned();
            list.push(KsymRef { name, btf, weak: ext.weak, is_func });
        }
        Ok(Some(index))
    }

    /// The function that a declaration tag of the entry names as its exception callback.
    #[doc(alias = "bpf_prog_assign_exc_cb")]
    fn exception_callback(&self, entry: FunctionId) -> Outcome<Option<FunctionId>> {
        let f = &self.functions.list[entry];
        let (Some(btf), Some(id)) = (self.btf, f.btf) else { return Ok(None) };
        let mut names = btf
            .decl_tags(id)
            .filter(|(component, _)| *component == -1)
            .filter_map(|(_, tag)| tag.strip_prefix("exception_callback:"));
        // More than one is the verifier's to refuse.
        let (Some(name), None) = (names.next(), names.next()) else { return Ok(None) };
        let found = self.functions.list.iter().position(|f| f.name == name && !f.is_entry && f.is_global);
        found.map(Some).ok_or_else(|| {
            let name: String = name.chars().take(128).collect();
            let reason = format!("its exception callback {name:?} is no global function of the object");
            Problem::new(reason).in_symbol(f.name)
        })
    }

    fn finish(&mut self, building: Building, entry: FunctionId, section: &str) -> ProgramSpec {
        let list = &self.functions.list;
        let meaning = section_name::read(section);
        let placed: Vec<(&Function<'_>, u32)> =
            building.order.iter().map(|&(id, start)| (&list[id], start)).collect();
        ProgramSpec {
            name: list[entry].name.to_owned(),
            section: meaning.name.to_owned(),
            section_kind: meaning.kind,
            attach_type: meaning.attach_type,
            frags: meaning.frags,
            prog_flags: 0,
            autoload: meaning.autoload,
            insns: building.insns,
            subprogs: placed.iter().map(|(f, start)| subprog(f, *start)).collect(),
            line_info: self.line_info(&placed),
            kfuncs: building.kfuncs,
            ksyms: building.ksyms,
            raw_func_info: raw_func_info(self.btf, &placed),
            raw_line_info: raw_line_info(&placed),
        }
    }

    fn line_info(&mut self, placed: &[(&Function<'_>, u32)]) -> Vec<LineInfo> {
        let mut all = Vec::with_capacity(placed.iter().map(|(f, _)| f.lines.len()).sum());
        for (f, start) in placed {
            for line in &f.lines {
                all.push(LineInfo {
                    insn: start + line.insn,
                    file: self.texts.get(line.file),
                    text: self.texts.get(line.text),
                    line: line.line_col >> 10,
                    column: line.line_col & 0x3ff,
                });
            }
        }
        all
    }
}

/// The number of something in the current program, newly given if it has none there.
fn number(slot: &mut (u32, u32), generation: u32, next: usize) -> u32 {
    if slot.0 != generation {
        *slot = (generation, next as u32);
    }
    slot.1
}

fn subprog(f: &Function<'_>, start: u32) -> Subprog {
    Subprog { name: f.name.to_owned(), start, btf: f.btf, is_global: f.is_global }
}

/// `struct bpf_func_info` for all functions, or nothing if one has no type.
fn raw_func_info(btf: Option<&Btf>, placed: &[(&Function<'_>, u32)]) -> Vec<u8> {
    let is_func = |id: TypeId| btf.is_some_and(|btf| btf.ty(id).tag() == BtfKind::Func);
    let mut out = Vec::with_capacity(placed.len() * 8);
    for (f, start) in placed {
        let Some(id) = f.btf.filter(|&id| is_func(id)) else { return Vec::new() };
        [*start, id.0].iter().for_each(|w| out.extend_from_slice(&w.to_le_bytes()));
    }
    out
}

/// `struct bpf_line_info` for all functions, or nothing if one does not begin with a line.
fn raw_line_info(placed: &[(&Function<'_>, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (f, start) in placed {
        if f.lines.first().is_none_or(|line| line.insn != 0) {
            return Vec::new();
        }
        for line in &f.lines {
            let words = [start + line.insn, line.file.0, line.text.0, line.line_col];
            words.iter().for_each(|w| out.extend_from_slice(&w.to_le_bytes()));
        }
    }
    out
}
