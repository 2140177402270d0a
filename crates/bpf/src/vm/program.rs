//! [`Program`]: a linked, runnable program.

use std::collections::BTreeMap;
use std::sync::Arc;

use uapi::Errno;
use uapi::bpf::{
    BPF_EXIT, BPF_JMP, BPF_PSEUDO_BTF_ID, BPF_PSEUDO_FUNC, BPF_PSEUDO_MAP_IDX, BPF_PSEUDO_MAP_IDX_VALUE,
    HELPER_NAMES, MapType, func,
};

use super::check::check;
use super::interp::{Code, THROW, decode, make_probe};
use super::{Fault, Run};
use crate::helpers::{absent_helper, absent_kfunc};
use crate::insn::Insn;
use crate::jit::Compiled;
use crate::maps::{Map, MapDef};
use crate::object::{AttachType, ProgramSpec, Subprog};
use crate::verifier::{Place, Verified};

/// A helper or kfunc: arguments R1 to R5, result R0. What the kernel answers with a negative number is
/// `Ok`; a [`Fault`] is what the kernel's verifier rules out.
pub type HelperFn = for<'r, 'q> fn(&mut Run<'r, 'q>, [u64; 5]) -> Result<u64, Fault>;

/// What programs can call, decided when they are linked.
#[derive(Clone, Copy)]
pub struct Symbols {
    /// The helper of a number.
    pub helper: fn(i32) -> Option<HelperFn>,
    /// The kernel function of a name.
    pub kfunc: fn(&str) -> Option<HelperFn>,
}

/// A program with its maps and functions, ready to run.
pub struct Program {
    name: String,
    id: u32,
    attach_type: AttachType,
    frags: bool,
    insns: Box<[Insn]>,
    code: Box<[Code]>,
    subprogs: Box<[Subprog]>,
    maps: Box<[Arc<Map>]>,
    helpers: Box<[Option<HelperFn>]>,
    kfuncs: Box<[Option<HelperFn>]>,
    verified: Option<Verified>,
    /// Its machine code, and that one's address for tail calls; 0 without.
    pub(super) native: Option<Compiled>,
    pub(super) entry: u64,
}

/// A program cannot be made runnable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct LinkError {
    /// Program.
    pub program: String,
    /// Instruction, if it is about one.
    pub insn: Option<u32>,
    /// What the kernel's `BPF_PROG_LOAD` answers.
    pub errno: Errno,
    /// Why, in the kernel's words where it has some.
    pub message: String,
}

impl std::fmt::Display for LinkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.insn {
            Some(insn) => write!(f, "{}: insn {insn}: {}", self.program, self.message),
            None => write!(f, "{}: {}", self.program, self.message),
        }
    }
}

impl Program {
    /// Links a program: `maps` are those of its object, in the object's order.
    ///
    /// # Errors
    ///
    /// The instruction that names something that is not there.
    pub fn link(spec: &ProgramSpec, id: u32, maps: &[Arc<Map>], symbols: Symbols) -> Result<Self, LinkError> {
        Self::link_live(spec, spec, id, maps, symbols)
    }

    /// Links a program of which `live` is what may run.
    fn link_live(
        whole: &ProgramSpec,
        live: &ProgramSpec,
        id: u32,
        maps: &[Arc<Map>],
        symbols: Symbols,
    ) -> Result<Self, LinkError> {
        let spec = live;
        let linker = Linker { spec, maps, symbols };
        let subprogs = linker.subprogs()?;
        check(&spec.insns, &subprogs).map_err(|flaw| linker.error(flaw.insn, flaw.errno, flaw.message))?;
        let (helpers, kfuncs, ksyms) = (linker.helpers()?, linker.kfuncs()?, linker.ksyms()?);
        linker.check_wide(&subprogs)?;
        Ok(Self {
            name: spec.name.clone(),
            id,
            attach_type: spec.attach_type,
            frags: spec.frags,
            insns: whole.insns.clone().into(),
            code: decode(spec, &ksyms),
            subprogs,
            maps: maps.into(),
            helpers,
            kfuncs,
            verified: None,
            native: None,
            entry: 0,
        })
    }

    /// Links a program that has been verified, with the helpers and kfuncs that the verifier knows. It may
    /// be compiled.
    ///
    /// # Errors
    ///
    /// As [`Program::link`]; `EINVAL` if the proof is of another program or of other maps.
    pub fn link_verified(
        spec: &ProgramSpec,
        id: u32,
        maps: &[Arc<Map>],
        verified: Verified,
    ) -> Result<Self, LinkError> {
        let symbols = Symbols { helper: crate::helpers::helper, kfunc: crate::kfuncs::kfunc };
        let live = without_dead(spec, &verified);
        let program = Self::link_live(spec, &live, id, maps, symbols)?;
        if let Err(message) = verified.covers(spec, maps) {
            let (program, errno) = (spec.name.clone(), Errno::EINVAL);
            return Err(LinkError { program, insn: None, errno, message });
        }
        if let Some((insn, message)) = verified.unserved().cloned() {
            let (program, errno) = (spec.name.clone(), Errno::EOPNOTSUPP);
            return Err(LinkError { program, insn: Some(insn), errno, message });
        }
        let mut code = program.code;
        for (code, fact) in code.iter_mut().zip(verified.facts()) {
            if fact.place == Place::Kernel {
                make_probe(code);
            }
        }
        Ok(Self { verified: Some(verified), code, ..program })
    }

    /// The proof that the program may run without checks, if it has one.
    #[must_use]
    pub fn verified(&self) -> Option<&Verified> {
        self.verified.as_ref()
    }

    /// Function name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number, unique within a host.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Where it may run.
    #[must_use]
    pub fn attach_type(&self) -> AttachType {
        self.attach_type
    }

    /// Whether it can handle packets in several buffers.
    #[must_use]
    pub fn has_frags(&self) -> bool {
        self.frags
    }

    /// Its instructions, as they were loaded.
    #[must_use]
    pub fn insns(&self) -> &[Insn] {
        &self.insns
    }

    /// What the interpreter runs.
    pub(super) fn code(&self) -> &[Code] {
        &self.code
    }

    /// The first instruction of the function that a pointer of a checked run names.
    pub(super) fn function_at(&self, addr: u64) -> Result<u32, Fault> {
        let insn = addr.checked_sub(CALLBACK_BASE).and_then(|insn| u32::try_from(insn).ok());
        let known = insn.filter(|insn| self.subprogs.binary_search_by_key(insn, |s| s.start).is_ok());
        known.ok_or_else(|| Fault::illegal(format!("{addr:#x} is passed as a function, which it is not")))
    }

    /// Its functions, the entry first. Those without a name in the object are called after their position.
    #[must_use]
    pub fn subprogs(&self) -> &[Subprog] {
        &self.subprogs
    }

    /// The maps of its object, in the object's order.
    #[must_use]
    pub fn maps(&self) -> &[Arc<Map>] {
        &self.maps
    }

    /// The helper that the program calls by this number, if it calls it.
    #[must_use]
    pub fn helper(&self, number: i32) -> Option<HelperFn> {
        *self.helpers.get(usize::try_from(number).ok()?)?
    }

    /// Whether it calls a helper that redirects. A program without may answer `XDP_REDIRECT` all the same, or
    /// call one that does.
    #[must_use]
    #[inline]
    pub fn calls_redirect(&self) -> bool {
        self.helper(func::REDIRECT_MAP).or_else(|| self.helper(func::REDIRECT)).is_some()
    }

    /// The kernel function at a position of the program's list; `None` if it is weak and absent.
    #[must_use]
    pub fn kfunc(&self, position: usize) -> Option<HelperFn> {
        *self.kfuncs.get(position)?
    }
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Program({} {:?}, {} insns)", self.id, self.name, self.insns.len())
    }
}

/// A function of a program that is called later, by a timer for example.
#[derive(Clone, Debug)]
pub struct Callback {
    program: Arc<Program>,
    insn: u32,
}

/// Checked programs hold this plus the function's first instruction as a function's address.
pub(crate) const CALLBACK_BASE: u64 = 0xffff_f000_0000_0000;

impl Callback {
    pub(super) fn resolve(program: &Arc<Program>, addr: u64) -> Result<Self, Fault> {
        Ok(Self { program: program.clone(), insn: program.function_at(addr)? })
    }

    /// The program that it belongs to.
    #[must_use]
    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// First instruction.
    #[must_use]
    pub fn insn(&self) -> u32 {
        self.insn
    }
}

/// The program with an end in place of each instruction that no path reaches: the verifier has not looked
/// at those, so they may be anything.
fn without_dead(spec: &ProgramSpec, verified: &Verified) -> ProgramSpec {
    let mut live = spec.clone();
    let facts = verified.facts();
    if facts.len() != live.insns.len() {
        // A proof of another program, which is found out later.
        return live;
    }
    let mut second = false;
    for (insn, fact) in live.insns.iter_mut().zip(facts) {
        let narrow = !second && !insn.is_ld_imm64();
        second = !second && insn.is_ld_imm64();
        if narrow && !fact.reached {
            *insn = Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
        }
    }
    live
}

/// Resolves what a program's instructions name.
struct Linker<'a> {
    spec: &'a ProgramSpec,
    maps: &'a [Arc<Map>],
    symbols: Symbols,
}

impl Linker<'_> {
    fn error(&self, insn: usize, errno: Errno, message: String) -> LinkError {
        LinkError { program: self.spec.name.clone(), insn: u32::try_from(insn).ok(), errno, message }
    }

    fn helpers(&self) -> Result<Box<[Option<HelperFn>]>, LinkError> {
        let mut helpers = vec![None; HELPER_NAMES.len()];
        for (i, insn) in self.spec.insns.iter().enumerate().filter(|(_, insn)| insn.is_helper_call()) {
            let number = insn.imm;
            let named = usize::try_from(number).ok().filter(|n| *n < HELPER_NAMES.len());
            let Some(n) = named else {
                return Err(self.error(i, Errno::EINVAL, format!("invalid func unknown#{number}")));
            };
            if number == func::TAIL_CALL {
                continue;
            }
            let Some(helper) = (self.symbols.helper)(number) else {
                let name = HELPER_NAMES[n];
                let message = match absent_helper(number) {
                    Some(why) => format!("helper bpf_{name}#{number} is not there: {why}"),
                    None => format!("program of this type cannot use helper bpf_{name}#{number}"),
                };
                return Err(self.error(i, Errno::EINVAL, message));
            };
            helpers[n] = Some(helper);
        }
        Ok(helpers.into())
    }

    fn kfuncs(&self) -> Result<Box<[Option<HelperFn>]>, LinkError> {
        let resolved: Box<[_]> = self.spec.kfuncs.iter().map(|k| (self.symbols.kfunc)(&k.name)).collect();
        for (i, insn) in self.spec.insns.iter().enumerate().filter(|(_, insn)| insn.is_kfunc_call()) {
            let position = usize::try_from(insn.imm).ok().filter(|p| *p < resolved.len());
            let Some(position) = position else {
                return Err(self.error(
                    i,
                    Errno::EINVAL,
                    format!("call of kernel function number {}", insn.imm),
                ));
            };
            let kfunc = &self.spec.kfuncs[position];
            if kfunc.name == THROW {
                continue;
            }
            if resolved[position].is_none() && !kfunc.weak {
                let message = match absent_kfunc(&kfunc.name) {
                    Some(why) => format!("kernel function {} is not there: {why}", kfunc.name),
                    None => format!("calling kernel function {} is not allowed", kfunc.name),
                };
                return Err(self.error(i, Errno::EACCES, message));
            }
        }
        Ok(resolved)
    }

    /// Values of the symbols whose addresses the program takes. Addresses of kernel objects are of no use
    /// here; that of a function says whether it can be called.
    fn ksyms(&self) -> Result<Vec<u64>, LinkError> {
        let mut values = Vec::with_capacity(self.spec.ksyms.len());
        for ksym in &self.spec.ksyms {
            let present = ksym.is_func && (ksym.name == THROW || (self.symbols.kfunc)(&ksym.name).is_some());
            if !present && !ksym.weak {
                let message = format!("extern {:?}: there is no such kernel symbol here", ksym.name);
                return Err(LinkError { insn: None, ..self.error(0, Errno::ENOENT, message) });
            }
            values.push(if present { KSYM_PRESENT } else { 0 });
        }
        Ok(values)
    }

    /// All functions: those that the object names, and whatever is called or taken the address of.
    fn subprogs(&self) -> Result<Box<[Subprog]>, LinkError> {
        let len = self.spec.insns.len();
        let mut starts: BTreeMap<u32, Subprog> = BTreeMap::new();
        for subprog in &self.spec.subprogs {
            starts.insert(subprog.start, subprog.clone());
        }
        let named = |start| Subprog { name: format!("func@{start}"), start, btf: None, is_global: false };
        starts.entry(0).or_insert_with(|| Subprog { name: self.spec.name.clone(), ..named(0) });
        for (i, insn) in self.spec.insns.iter().enumerate() {
            let pseudo_func = insn.is_ld_imm64() && insn.src == BPF_PSEUDO_FUNC;
            if !insn.is_pseudo_call() && !pseudo_func {
                continue;
            }
            let to = i as i64 + 1 + i64::from(insn.imm);
            let start = u32::try_from(to).ok().filter(|to| (*to as usize) < len);
            let Some(start) = start else {
                return Err(self.error(i, Errno::EINVAL, format!("call to invalid destination insn {to}")));
            };
            starts.entry(start).or_insert_with(|| named(start));
        }
        Ok(starts.into_values().collect())
    }

    /// What 16-byte instructions name is there.
    fn check_wide(&self, subprogs: &[Subprog]) -> Result<(), LinkError> {
        for (i, insn) in self.spec.insns.iter().enumerate().filter(|(_, insn)| insn.is_ld_imm64()) {
            let number = usize::try_from(insn.imm).unwrap_or(usize::MAX);
            let (known, message) = match insn.src {
                BPF_PSEUDO_MAP_IDX | BPF_PSEUDO_MAP_IDX_VALUE => {
                    let message = format!("map number {number} of an object with {} maps", self.maps.len());
                    (number < self.maps.len(), message)
                }
                BPF_PSEUDO_BTF_ID => {
                    let message = format!("kernel symbol number {number} of {}", self.spec.ksyms.len());
                    (number < self.spec.ksyms.len(), message)
                }
                BPF_PSEUDO_FUNC => {
                    let entry = i as i64 + 1 + i64::from(insn.imm) == 0;
                    (!entry && !subprogs.is_empty(), "the address of the entry is taken".to_owned())
                }
                0 => continue,
                _ => (false, "a map by its descriptor; maps are named by their number here".to_owned()),
            };
            if !known {
                return Err(self.error(i, Errno::EBADF, message));
            }
            if insn.src == BPF_PSEUDO_MAP_IDX_VALUE {
                let offset = self.spec.insns[i + 1].imm as u32;
                direct_value(self.maps[number].def(), offset).map_err(|(e, text)| self.error(i, e, text))?;
            }
        }
        Ok(())
    }
}

/// Checks that instructions may name a byte of a map's value.
///
/// Kernel: `kernel/bpf/verifier.c resolve_pseudo_ldimm64, kernel/bpf/arraymap.c array_map_direct_value_addr,
/// v6.18`
fn direct_value(def: &MapDef, offset: u32) -> Result<(), (Errno, String)> {
    if def.map_type != MapType::Array {
        return Err((Errno::EINVAL, "no direct value access support for this map type".to_owned()));
    }
    let errno = match def.max_entries {
        1 if offset < def.value_size => return Ok(()),
        1 => Errno::EINVAL,
        _ => Errno::ENOTSUPP,
    };
    let size = def.value_size;
    Err((errno, format!("invalid access to map value pointer, value_size={size} off={offset}")))
}

/// What the address of a kernel function that exists is.
const KSYM_PRESENT: u64 = 0xffff_e000_0000_0000;
