//! Running compiled programs: making machine code of a verified program, and jumping to it.
//!
//! In an unchecked run addresses are the host's: R1 is the address of the buff, a map is named by the
//! address of its `Arc`; functions are named as in checked runs. Helpers and kernel functions are the same as
//! in the interpreter; [`super::direct`] and [`call_kfunc`] are what machine code calls to get to them.
// UNSAFETY: calls machine code, and is called by it with addresses.
#![allow(unsafe_code)]

use std::mem::offset_of;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use mem::{RxqInfo, SharedSlice, TxqInfo, XdpBuff};
use uapi::bpf::{BPF_PSEUDO_BTF_ID, BPF_PSEUDO_FUNC, MapType};
use uapi::xdp::XdpAction;

use super::direct;
use super::{Fault, GuestMemory, HelperFn, Program, Run};
use crate::host::Host;
use crate::insn::Insn;
use crate::jit::{self, Abi, Compiled, Facts, Features, JitError, MapLink, Source};
use crate::maps::{Guard, Map, spin_lock, with_key};
use crate::redirect::RedirectInfo;
use crate::verifier::{Place, Verified};

/// Machine code of a program: takes the packet and the run, answers R0.
type Entry = unsafe extern "C" fn(buff: *mut XdpBuff<'_>, run: *mut Run<'_, '_>) -> u64;
/// Machine code of a program for many packets.
type BatchEntry = unsafe extern "C" fn(
    buffs: *mut *mut XdpBuff<'_>,
    run: *mut Run<'_, '_>,
    n: u32,
    verdicts: *mut u32,
) -> u32;
/// Machine code of a function that is called back: takes R1 to R5 and the run.
type CallbackEntry = unsafe extern "C" fn(u64, u64, u64, u64, u64, run: *mut Run<'_, '_>) -> u64;

/// Bytes from where an `Arc` points to what it holds: its two counts. A test compares it with the truth.
const ARC_HEADER: usize = 2 * size_of::<usize>();

/// Where compiled code finds things.
fn abi() -> Abi {
    Abi {
        data: XdpBuff::OFF_DATA as i32,
        data_end: XdpBuff::OFF_DATA_END as i32,
        data_meta: XdpBuff::OFF_DATA_META as i32,
        data_hard_start: XdpBuff::OFF_DATA_HARD_START as i32,
        flags: XdpBuff::OFF_FLAGS as i32,
        has_frags: XdpBuff::HAS_FRAGS as i32,
        rxq: XdpBuff::OFF_RXQ as i32,
        txq: XdpBuff::OFF_TXQ as i32,
        rxq_ifindex: offset_of!(RxqInfo, ifindex) as i32,
        rxq_queue_index: offset_of!(RxqInfo, queue_index) as i32,
        txq_ifindex: offset_of!(TxqInfo, ifindex) as i32,
        call_kfunc: call_kfunc as *const () as usize as u64,
        map_lookup: map_lookup as *const () as usize as u64,
        spin_lock: take_spin_lock as *const () as usize as u64,
        dynptr_from_xdp: kfunc_address("bpf_dynptr_from_xdp"),
        dynptr_slice: kfunc_address("bpf_dynptr_slice"),
        dynptr_of_packet: crate::helpers::DYNPTR_OF_PACKET,
        run_buff: (offset_of!(Run<'_, '_>, memory) + GuestMemory::OFF_BUFF) as i32,
        run_cpu: offset_of!(Run<'_, '_>, cpu) as i32,
        run_tail_calls: offset_of!(Run<'_, '_>, tail_calls) as i32,
        run_program: offset_of!(Run<'_, '_>, program) as i32,
        program_entry: (ARC_HEADER + offset_of!(Program, entry)) as i32,
    }
}

/// Where a kernel function is.
fn kfunc_address(name: &str) -> u64 {
    crate::kfuncs::kfunc(name).map_or(0, |f| f as usize as u64)
}

/// Waits for a spin lock that machine code found taken.
extern "C" fn take_spin_lock(lock: *mut u32) {
    // SAFETY: machine code passes the address of a lock in a map's value, as the verifier has proved; locks
    // are aligned, and everybody uses them as atomic numbers alone.
    spin_lock(unsafe { AtomicU32::from_ptr(lock) });
}

/// Calls a kernel function for machine code.
extern "C" fn call_kfunc(
    r1: u64,
    r2: u64,
    r3: u64,
    r4: u64,
    r5: u64,
    run: *mut Run<'_, '_>,
    kfunc: u64,
) -> u64 {
    // SAFETY: machine code passes on the run that it was called with, which is borrowed for all of that
    // call and touched by nobody else meanwhile.
    let run = unsafe { &mut *run };
    // SAFETY: and the address of a kernel function that the program was linked with, as
    // `Program::compile` gave it to the compiler.
    let kfunc: HelperFn = unsafe { std::mem::transmute(kfunc as usize) };
    match kfunc(run, [r1, r2, r3, r4, r5]) {
        Ok(r0) => r0,
        Err(fault) => direct::violated(&fault),
    }
}

/// Looks up for machine code that could not decide it by itself.
extern "C" fn map_lookup(map: *const Arc<Map>, key: *mut u8) -> u64 {
    // SAFETY: machine code passes the address of one of its program's maps.
    let map = unsafe { &*map };
    let len = map.def().key_size as usize;
    let Some(key) = NonNull::new(key) else { return 0 };
    // SAFETY: and of a key's bytes, which the verifier has proved to be there, or which it has put there.
    let key = unsafe { SharedSlice::from_raw(key, len) };
    // The run holds a guard for longer, so what is found stays.
    let guard = mem::epoch::pin();
    if map.def().map_type == MapType::HashOfMaps {
        let inner = with_key(key, |key| map.inner(&guard, key).map(NonNull::from_ref));
        return inner.map_or(0, |inner| inner.expose_provenance().get() as u64);
    }
    with_key(key, |key| match map.def().is_percpu() {
        true => map.lookup_percpu(&guard, key, 0),
        false => map.lookup(&guard, 0, key),
    })
    .map_or(0, |value| value.as_ptr().expose_provenance().get() as u64)
}

impl Program {
    /// Makes machine code of a verified program, which later runs then use. In a `scripted` program every
    /// call of a helper is made whose answer no program, packet or map decides, so that hosts can record and
    /// replay.
    ///
    /// # Errors
    ///
    /// What cannot be compiled, or that this processor has no compiler; the interpreter runs it all the
    /// same. That it is not verified.
    pub fn compile(&mut self, scripted: bool) -> Result<(), JitError> {
        self.compile_with(scripted, false)
    }

    /// As [`Program::compile`], and notes which machine code is of which instruction
    /// ([`Compiled::origins`]).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn compile_listed(&mut self) -> Result<(), JitError> {
        self.compile_with(false, true)
    }

    fn compile_with(&mut self, scripted: bool, listing: bool) -> Result<(), JitError> {
        let verified = self.verified().ok_or(JitError::Unverified)?;
        let cpu = Features::detect().ok_or(JitError::NoBackend)?;
        check_supported(verified)?;
        let insns = self.resolved();
        let starts: Vec<u32> = self.subprogs().iter().map(|s| s.start).collect();
        let depths = &verified.stats().stack_depth;
        let stack = if depths.len() == starts.len() { depths.as_slice() } else { &[] };
        let addresses = self.insns().iter().enumerate();
        let addresses = addresses.filter(|(_, x)| x.is_ld_imm64() && x.src == BPF_PSEUDO_FUNC);
        let called_back: Vec<u32> = addresses.map(|(i, x)| (i as i32 + 1 + x.imm) as u32).collect();
        let maps: Vec<MapLink> = self.maps().iter().map(link).collect();
        let source = Source {
            insns: &insns,
            functions: &starts,
            called_back: &called_back,
            facts: Facts { insns: verified.facts(), stack },
            maps: &maps,
            helper: &|number| helper(self, number),
            of_map: &|map, number| {
                direct::of_map(self.maps().get(map as usize)?, number).map(|f| f as usize as u64)
            },
            kfunc: &|position| self.kfunc(position).map(|f| f as usize as u64),
            scripted,
            listing,
            abi: abi(),
        };
        let compiled = jit::compile(&source, cpu)?;
        self.entry = compiled.entry();
        self.native = Some(compiled);
        // From now on its tail calls jump to whatever is in the map.
        let arrays = self.maps().iter().filter(|m| m.def().map_type == MapType::ProgArray);
        if let Some(map) = arrays.into_iter().find(|m| !m.admits(self)) {
            let name = map.def().name.clone();
            (self.native, self.entry) = (None, 0);
            return Err(JitError::OtherPrograms(name));
        }
        Ok(())
    }

    /// The instructions with the values of symbols and addresses of functions in place of their names.
    fn resolved(&self) -> Vec<Insn> {
        let mut insns = self.insns().to_vec();
        for i in 0..insns.len() {
            if insns[i].is_ld_imm64() && matches!(insns[i].src, BPF_PSEUDO_BTF_ID | BPF_PSEUDO_FUNC) {
                let value = self.code()[i].imm;
                (insns[i].src, insns[i].imm, insns[i + 1].imm) = (0, value as i32, (value >> 32) as i32);
            }
        }
        insns
    }

    /// Its machine code, if it has been compiled.
    #[must_use]
    pub fn compiled(&self) -> Option<&Compiled> {
        self.native.as_ref()
    }
}

/// Address of the function that machine code calls for a helper that the program is linked with.
fn helper(program: &Program, number: i32) -> Option<u64> {
    program.helper(number)?;
    crate::helpers::native_helper(number).map(|f| f as usize as u64)
}

/// Memory of the kernel's is not where an address of it points here.
fn check_supported(verified: &Verified) -> Result<(), JitError> {
    let foreign = |f: Place| matches!(f, Place::Kernel | Place::MapStruct);
    match verified.facts().iter().position(|f| f.reached && foreign(f.place)) {
        Some(i) => Err(JitError::Unsupported {
            insn: i as u32,
            what: "access to memory of the kernel's that may not be there",
        }),
        None => Ok(()),
    }
}

/// How machine code names a map.
fn link(map: &Arc<Map>) -> MapLink {
    let handle = std::ptr::from_ref(map).expose_provenance() as u64;
    let def = map.def();
    let holds_maps = def.map_type == MapType::ArrayOfMaps;
    MapLink { handle, layout: map.layout(), key_size: def.key_size, value_size: def.value_size, holds_maps }
}

impl<'r, 'q> Run<'r, 'q> {
    /// A run of compiled programs over the packet in `buff`; `None` if the program is not compiled.
    #[inline]
    pub fn compiled(
        program: &'r Arc<Program>,
        guard: &'r Guard,
        buff: &'r mut XdpBuff<'q>,
        redirect: &'r mut RedirectInfo,
        host: &'r mut dyn Host,
    ) -> Option<Self> {
        program.compiled()?;
        Self::unchecked(program, guard, buff, redirect, host, enter)
    }

    /// R0 of the compiled program; `None` in a run of the interpreter.
    #[inline]
    pub(super) fn execute_compiled(&mut self) -> Option<u64> {
        self.compiled?;
        (self.program.entry != 0).then(|| enter_program(self))
    }

    /// Runs the compiled program over several packets in one go, and answers how many: all, or as many as
    /// there are up to the first that is to be redirected, because [`Run::redirect`] tells where to only
    /// until the next packet is run.
    ///
    /// # Panics
    ///
    /// If the run is one of the interpreter, if there is no packet, or not as many verdicts as packets.
    pub fn execute_batch(&mut self, buffs: &mut [&'r mut XdpBuff<'q>], verdicts: &mut [u32]) -> usize {
        assert_eq!(buffs.len(), verdicts.len(), "every packet has its verdict");
        assert!(!buffs.is_empty() && u32::try_from(buffs.len()).is_ok(), "a batch has packets");
        // SAFETY: a reference is the address of what it points to, and there are as many as verdicts.
        unsafe { self.enter_batch(buffs.as_mut_ptr().cast(), verdicts) }
    }

    /// As [`Run::execute_batch`], over the run's packet and then over `more`.
    ///
    /// # Panics
    ///
    /// If the run is one of the interpreter, or if there is not one verdict more than `more` has packets.
    pub fn execute_all(&mut self, more: &'r mut [Box<XdpBuff<'q>>], verdicts: &mut [u32]) -> usize {
        assert_eq!(more.len() + 1, verdicts.len(), "every packet has its verdict");
        assert!(!self.memory.is_checked(), "only compiled programs run batches");
        verdicts[0] = enter_program(self) as u32;
        if more.is_empty() || verdicts[0] == XdpAction::Redirect as u32 {
            return 1;
        }
        // SAFETY: a box is the address of what it holds, and there are as many as verdicts but one.
        1 + unsafe { self.enter_batch(more.as_mut_ptr().cast(), &mut verdicts[1..]) }
    }

    /// # Safety
    ///
    /// `buffs` must be the addresses of as many buffs as there are verdicts, borrowed for `'r`.
    unsafe fn enter_batch(&mut self, buffs: *mut *mut XdpBuff<'_>, verdicts: &mut [u32]) -> usize {
        assert!(!self.memory.is_checked(), "only compiled programs run batches");
        let program = self.program;
        let compiled = program.compiled().expect("an unchecked run is one of a compiled program");
        self.tail_calls = 0;
        let own = self.memory.buff_ptr();
        // SAFETY: code of this signature, which `program` keeps.
        let entry: BatchEntry = unsafe { std::mem::transmute(compiled.batch() as usize) };
        let (verdicts, n) = (verdicts.as_mut_ptr(), verdicts.len());
        // SAFETY: as in `enter_program`, for each of the buffs: the code reads as many addresses and writes as
        // many verdicts as it is told, and puts into the run only addresses of buffs that live for `'r`.
        let done = unsafe { entry(buffs, std::ptr::from_mut(self), n as u32, verdicts) };
        // SAFETY: as asked for; the packets of the batch are the caller's again.
        unsafe { self.memory.restore_buff(own) };
        done as usize
    }

    /// Runs the compiled program over the run's packet and then over `more`, one after the other, and answers
    /// how many that were. `after` gets each packet's verdict, and [`Run::redirect`] before the next packet is
    /// run; it answers whether to go on.
    ///
    /// # Panics
    ///
    /// If the run is one of the interpreter.
    #[inline]
    pub fn execute_each(
        &mut self,
        more: &'r mut [Box<XdpBuff<'q>>],
        mut after: impl FnMut(u32, &mut RedirectInfo) -> bool,
    ) -> usize {
        assert!(self.program.compiled().is_some(), "the run is one of a compiled program");
        assert!(!self.memory.is_checked(), "only compiled programs run batches");
        let act = enter_program(self) as u32;
        let mut done = 1;
        if !after(act, self.redirect) {
            return done;
        }
        for buff in more {
            self.next_packet(buff);
            let act = enter_program(self) as u32;
            done += 1;
            if !after(act, self.redirect) {
                break;
            }
        }
        done
    }
}

/// Enters a function of the running program: the whole program at instruction 0, else one that is called
/// back.
fn enter(run: &mut Run<'_, '_>, insn: u32, args: [u64; 5]) -> Result<u64, Fault> {
    let program = run.program;
    let compiled = program.compiled().expect("only runs of compiled programs enter here");
    if insn == 0 {
        return Ok(enter_program(run));
    }
    let function = program.subprogs().binary_search_by_key(&insn, |s| s.start).ok();
    let Some(entry) = function.and_then(|f| compiled.callback(f)) else {
        return Err(Fault::illegal(format!("the function at insn {insn} is not one that is called back")));
    };
    let [r1, r2, r3, r4, r5] = args;
    // SAFETY: code of this signature, which `program` keeps.
    let entry: CallbackEntry = unsafe { std::mem::transmute(entry as usize) };
    // SAFETY: as in `enter_program`; the verifier has proved that the function takes what the helpers that
    // call back pass. Whoever called the helper that calls this waits for its answer.
    Ok(unsafe { entry(r1, r2, r3, r4, r5, std::ptr::from_mut(run)) })
}

#[inline]
fn enter_program(run: &mut Run<'_, '_>) -> u64 {
    let program = run.program;
    run.tail_calls = 0;
    let buff = run.memory.buff_ptr();
    debug_assert!(program.compiled().is_some(), "only compiled programs are entered");
    // SAFETY: code of this signature, which `program` keeps.
    let entry: Entry = unsafe { std::mem::transmute(program.entry as usize) };
    // SAFETY: the verifier has accepted the program (only verified ones are compiled), so what it does to the
    // packet, its maps and its stack is within bounds; it reaches the run only to pass it on.
    let r0 = unsafe { entry(buff, std::ptr::from_mut(run)) };
    // Tail calls have made it another program's.
    run.program = program;
    r0
}

/// Runs code that a test knows to be safe.
#[cfg(test)]
pub(crate) fn run_in_test(compiled: &Compiled, buff: &mut XdpBuff<'_>) -> u64 {
    // SAFETY: as above.
    let entry: Entry = unsafe { std::mem::transmute(compiled.entry() as usize) };
    // SAFETY: tests compile what the checked interpreter has run without a fault on the same input, and
    // which calls no helpers, so that nobody looks for a run.
    unsafe { entry(std::ptr::from_mut(buff), std::ptr::null_mut()) }
}

/// What tests compile with.
#[cfg(test)]
pub(crate) fn abi_in_test() -> Abi {
    abi()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::ProgramSpec;
    use crate::vm::Symbols;

    #[test]
    fn what_an_arc_holds_follows_its_counts() {
        let insns = vec![Insn::new(0xb7, 0, 0, 0, 2), Insn::new(0x95, 0, 0, 0, 0)];
        let symbols = Symbols { helper: |_| None, kfunc: |_| None };
        let program = Program::link(&ProgramSpec::bare("p", insns), 1, &[], symbols).unwrap();
        let arc = Arc::new(program);
        let held = Arc::as_ptr(&arc) as usize;
        // SAFETY: an `Arc` of a sized type is one non-null pointer.
        let points_to: usize = unsafe { std::mem::transmute_copy(&arc) };
        assert_eq!(held - points_to, ARC_HEADER);
    }
}
