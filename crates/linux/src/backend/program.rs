//! From a [`ProgramSpec`] to a program of the kernel: maps, kernel symbols and functions become what the
//! kernel knows them by.

use std::os::fd::{AsFd, AsRawFd};

use bpf::Insn;
use bpf::btf::{Btf, BtfKind};
use bpf::object::{KfuncRef, KsymRef, ObjectSpec, POISON_KFUNC, ProgramSpec};
use control::{LoadError, Verification};
use uapi::bpf::*;
use uapi::bpf_attr;

use crate::host;
use crate::sys::{Map, Prog, ProgArgs, ProgError};

use super::btf::KernelBtf;
use super::refusal;
use super::script::Script;

/// What is needed to load programs of one object.
pub(super) struct Loader<'a> {
    pub(super) spec: &'a ObjectSpec,
    pub(super) maps: &'a [Map],
    pub(super) btf: Option<&'a KernelBtf>,
    pub(super) script: Option<&'a Script>,
}

impl Loader<'_> {
    /// Loads a program; with a script if there is one, without and with a warning where the verifier does
    /// not take that.
    pub(super) fn load(
        &mut self,
        program: &ProgramSpec,
        warnings: &mut Vec<String>,
    ) -> Result<Prog, LoadError> {
        let plain = self.resolve(program).map_err(|reason| refusal::unresolved(&program.name, reason))?;
        let Some(script) = self.script else { return self.submit(program, &plain) };
        let mut scripted = plain.clone();
        if !script.rewrite(&mut scripted, self.btf) {
            return self.submit(program, &plain);
        }
        match self.submit(program, &scripted) {
            Ok(prog) => Ok(prog),
            Err(refused) => {
                let prog = self.submit(program, &plain)?;
                warnings.push(format!(
                    "program {} follows no script: with the answers put in, the kernel says: {refused}",
                    program.name
                ));
                Ok(prog)
            }
        }
    }

    /// What the kernel's verifier says of a program: its log, or its errno and log; `Err` where the
    /// program cannot even be submitted.
    pub(super) fn verdict(
        &self,
        program: &ProgramSpec,
        log_level: u32,
    ) -> Result<Result<String, (uapi::Errno, String)>, String> {
        let body = self.resolve(program)?;
        let args = ProgArgs { log_level, ..self.args(program, &body) };
        Ok(Prog::load(&args).map(|(_, log)| log).map_err(|refused| (refused.errno, refused.log)))
    }

    /// Loads a program for its verifier's log, with statistics, and lets go of it.
    pub(super) fn verify(&self, program: &ProgramSpec, log_level: u32) -> Result<Verification, LoadError> {
        const STATISTICS: u32 = 4;
        let body = self.resolve(program).map_err(|reason| refusal::unresolved(&program.name, reason))?;
        // Without level 1 the log does not show the instruction that was refused.
        let args = ProgArgs { log_level: log_level.max(1) | STATISTICS, ..self.args(program, &body) };
        let mut verification = match Prog::load(&args) {
            Ok((_, log)) => Verification::from_kernel_log(None, &log),
            Err(ProgError { errno, log }) => Verification::from_kernel_log(Some(errno), &log),
        };
        if log_level == 0 {
            verification.log.clear();
        }
        Ok(verification)
    }

    fn submit(&self, program: &ProgramSpec, body: &Body) -> Result<Prog, LoadError> {
        let loaded = Prog::load(&self.args(program, body));
        loaded.map(|(prog, _)| prog).map_err(|refused| refusal::program(&program.name, refused))
    }

    fn args<'b>(&'b self, program: &'b ProgramSpec, body: &'b Body) -> ProgArgs<'b> {
        ProgArgs {
            insns: &body.insns,
            license: &self.spec.license,
            name: &program.name,
            flags: program.prog_flags | if program.frags { BPF_F_XDP_HAS_FRAGS } else { 0 },
            attach_type: program.attach_type.raw(),
            btf: self.btf.filter(|_| !body.func_info.is_empty()).map(AsFd::as_fd),
            func_info: &body.func_info,
            line_info: &body.line_info,
            ..ProgArgs::default()
        }
    }

    /// The instructions as the kernel takes them.
    fn resolve(&self, program: &ProgramSpec) -> Result<Body, String> {
        let mut insns = program.insns.clone();
        let mut i = 0;
        while i < insns.len() {
            let insn = insns[i];
            if insn.is_ld_imm64() {
                if let Some((first, rest)) = insns[i..].split_first_mut()
                    && let Some(second) = rest.first_mut()
                {
                    self.resolve_address(program, first, second)?;
                }
                i += 2;
                continue;
            }
            if insn.is_kfunc_call() {
                let kfunc = program.kfuncs.get(insn.imm as usize);
                let kfunc =
                    kfunc.ok_or_else(|| format!("instruction {i} calls an unknown kernel function"))?;
                insns[i] = resolve_kfunc(insn, kfunc)?;
            }
            i += 1;
        }
        let (func_info, line_info) = if self.btf.is_some() { tables(program) } else { Default::default() };
        Ok(Body { insns, func_info, line_info })
    }

    fn resolve_address(
        &self,
        program: &ProgramSpec,
        first: &mut Insn,
        second: &mut Insn,
    ) -> Result<(), String> {
        match first.src {
            BPF_PSEUDO_MAP_IDX | BPF_PSEUDO_MAP_IDX_VALUE => {
                let map = self.maps.get(first.imm as usize);
                let map = map.ok_or_else(|| format!("there is no map {}", first.imm))?;
                let of_value = first.src == BPF_PSEUDO_MAP_IDX_VALUE;
                first.src = if of_value { BPF_PSEUDO_MAP_VALUE } else { BPF_PSEUDO_MAP_FD };
                first.imm = map.as_fd().as_raw_fd();
            }
            BPF_PSEUDO_BTF_ID => {
                let ksym = program.ksyms.get(first.imm as usize);
                let ksym = ksym.ok_or_else(|| format!("there is no kernel symbol {}", first.imm))?;
                let (src, value) = resolve_ksym(ksym)?;
                first.src = src;
                (first.imm, second.imm) = (value as i32, (value >> 32) as i32);
            }
            _ => {}
        }
        Ok(())
    }
}

/// A program on its way into the kernel.
#[derive(Clone, Debug)]
pub(super) struct Body {
    pub(super) insns: Vec<Insn>,
    /// One per function, or none at all.
    pub(super) func_info: Vec<bpf_attr::FuncInfo>,
    /// Ascending, with one for each function's first instruction, or none at all.
    pub(super) line_info: Vec<bpf_attr::LineInfo>,
}

/// Functions and lines. The kernel takes either table only if it covers every function, and lines only
/// together with functions.
fn tables(program: &ProgramSpec) -> (Vec<bpf_attr::FuncInfo>, Vec<bpf_attr::LineInfo>) {
    let word = |b: &[u8], i: usize| u32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
    let func = |b: &[u8; 8]| bpf_attr::FuncInfo { insn_off: word(b, 0), type_id: word(b, 4) };
    let line = |b: &[u8; 16]| bpf_attr::LineInfo {
        insn_off: word(b, 0),
        file_name_off: word(b, 4),
        line_off: word(b, 8),
        line_col: word(b, 12),
    };
    let func_info: Vec<_> = program.raw_func_info.as_chunks().0.iter().map(func).collect();
    if func_info.len() != program.subprogs.len() {
        return Default::default();
    }
    let mut line_info: Vec<_> = program.raw_line_info.as_chunks().0.iter().map(line).collect();
    line_info.dedup_by_key(|l| l.insn_off);
    let starts_with_line = |f: &bpf_attr::FuncInfo| {
        line_info.binary_search_by_key(&f.insn_off, |l: &bpf_attr::LineInfo| l.insn_off).is_ok()
    };
    if !func_info.iter().all(starts_with_line) {
        line_info.clear();
    }
    (func_info, line_info)
}

/// A call of a kernel function by its number in the kernel's types.
fn resolve_kfunc(insn: Insn, kfunc: &KfuncRef) -> Result<Insn, String> {
    match host::vmlinux()?.func(&kfunc.name) {
        Some(id) => Ok(Insn { imm: id.0 as i32, off: 0, ..insn }),
        // The program asks before it calls, so the verifier never sees this.
        None if kfunc.weak => Ok(Insn { src: 0, off: 0, imm: POISON_KFUNC, ..insn }),
        None => Err(format!("this kernel has no function {} (modules are not searched)", kfunc.name)),
    }
}

/// What takes the place of a kernel symbol: the kind of reference and its 64 bits.
fn resolve_ksym(ksym: &KsymRef) -> Result<(u8, u64), String> {
    let found = match ksym.btf {
        Some(_) => {
            let vmlinux = host::vmlinux()?;
            typed_symbol(&vmlinux, ksym).map(|id| (BPF_PSEUDO_BTF_ID, u64::from(id)))
        }
        None => host::symbol_address(&ksym.name).map(|address| (0, address)),
    };
    match found {
        Some(found) => Ok(found),
        None if ksym.weak => Ok((0, 0)),
        None => Err(format!("this kernel has no symbol {}", ksym.name)),
    }
}

fn typed_symbol(vmlinux: &Btf, ksym: &KsymRef) -> Option<u32> {
    let kind = if ksym.is_func { BtfKind::Func } else { BtfKind::Var };
    vmlinux.find(&ksym.name, kind).map(|id| id.0)
}
