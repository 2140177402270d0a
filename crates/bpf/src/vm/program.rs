//! [`Program`]: a linked, runnable program.

use std::sync::Arc;

use uapi::Errno;
use uapi::bpf::{BPF_PSEUDO_MAP_IDX, BPF_PSEUDO_MAP_IDX_VALUE, HELPER_NAMES};

use super::{Fault, Run};
use crate::insn::Insn;
use crate::maps::Map;
use crate::object::{AttachType, ProgramSpec, Subprog};

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
    subprogs: Box<[Subprog]>,
    maps: Box<[Arc<Map>]>,
    helpers: Box<[Option<HelperFn>]>,
    kfuncs: Box<[Option<HelperFn>]>,
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
        let linker = Linker { spec, maps, symbols };
        let (helpers, kfuncs) = (linker.helpers()?, linker.kfuncs()?);
        linker.check_maps()?;
        Ok(Self {
            name: spec.name.clone(),
            id,
            attach_type: spec.attach_type,
            frags: spec.frags,
            insns: spec.insns.clone().into(),
            subprogs: spec.subprogs.clone().into(),
            maps: maps.into(),
            helpers,
            kfuncs,
        })
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

    /// Its functions, the entry first.
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
const CALLBACK_BASE: u64 = 0xffff_f000_0000_0000;

impl Callback {
    pub(super) fn resolve(program: &Arc<Program>, addr: u64) -> Result<Self, Fault> {
        let insn = addr.checked_sub(CALLBACK_BASE).and_then(|insn| u32::try_from(insn).ok());
        match insn.filter(|insn| program.subprogs.iter().any(|s| s.start == *insn)) {
            Some(insn) => Ok(Self { program: program.clone(), insn }),
            None => Err(Fault::illegal(format!("{addr:#x} is passed as a function, which it is not"))),
        }
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
            let named = usize::try_from(number).ok().filter(|n| (1..HELPER_NAMES.len()).contains(n));
            let Some(n) = named else {
                return Err(self.error(i, Errno::EINVAL, format!("invalid func unknown#{number}")));
            };
            let Some(helper) = (self.symbols.helper)(number) else {
                let message =
                    format!("program of this type cannot use helper bpf_{}#{number}", HELPER_NAMES[n]);
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
            if resolved[position].is_none() && !kfunc.weak {
                let message = format!("calling kernel function {} is not allowed", kfunc.name);
                return Err(self.error(i, Errno::EACCES, message));
            }
        }
        Ok(resolved)
    }

    fn check_maps(&self) -> Result<(), LinkError> {
        let mut insns = self.spec.insns.iter().enumerate();
        while let Some((i, insn)) = insns.next() {
            if !insn.is_ld_imm64() {
                continue;
            }
            insns.next();
            if !matches!(insn.src, BPF_PSEUDO_MAP_IDX | BPF_PSEUDO_MAP_IDX_VALUE) {
                continue;
            }
            if usize::try_from(insn.imm).is_ok_and(|index| index < self.maps.len()) {
                continue;
            }
            let message = format!("map number {} of an object with {} maps", insn.imm, self.maps.len());
            return Err(self.error(i, Errno::EBADF, message));
        }
        Ok(())
    }
}
