//! [`Run`]: one packet's run of one program, as helpers see it.

use std::sync::Arc;

use mem::{SharedSlice, XdpBuff};

use super::{Access, Callback, Fault, FaultKind, GuestMemory, Observer, Program, RegionKind, Scratch};
use crate::host::Host;
use crate::maps::{Guard, Map};
use crate::redirect::RedirectInfo;

/// The state of one run.
///
/// Helpers get it together with their five arguments. What they read and write of the program's memory
/// they reach by [`Run::read`] and [`Run::write`]; a pointer that they give the program comes from one of
/// the `expose` methods. The packet is changed inside of [`Run::with_buff`] alone.
pub struct Run<'r, 'q> {
    /// What the program can reach, and the packet.
    pub memory: GuestMemory<'r, 'q>,
    /// Where redirects point; it outlives the packet.
    pub redirect: &'r mut RedirectInfo,
    /// The world around.
    pub host: &'r mut dyn Host,
    pub(super) program: &'r Arc<Program>,
    pub(super) guard: &'r Guard,
    pub(super) tail_calls: u32,
    /// Instructions that may still be taken, counted where the program goes back or calls.
    pub(super) fuel: u64,
    /// The call that is being made.
    pub(super) insn: u32,
    pub(super) observer: Option<&'r mut dyn Observer>,
    /// How compiled programs enter a function.
    pub(super) compiled: Option<EnterFn>,
    pub(super) cpu: u32,
    references: Vec<Reference<'r>>,
}

/// Enters the function that starts at an instruction of the running program, and answers R0.
pub(crate) type EnterFn = for<'r, 'q> fn(&mut Run<'r, 'q>, u32, [u64; 5]) -> Result<u64, Fault>;

/// Something that the program must give back before it ends.
#[derive(Clone, Copy)]
struct Reference<'r> {
    addr: u64,
    kind: RegionKind,
    insn: u32,
    /// The map that it belongs to.
    map: Option<&'r Arc<Map>>,
}

impl<'r, 'q> Run<'r, 'q> {
    /// A checked run of `program` over the packet in `buff`. What lookups in maps find stays valid as long
    /// as the guard is held.
    pub fn checked(
        program: &'r Arc<Program>,
        guard: &'r Guard,
        scratch: &'r mut Scratch,
        buff: &'r mut XdpBuff<'q>,
        redirect: &'r mut RedirectInfo,
        host: &'r mut dyn Host,
    ) -> Self {
        let cpu = host.cpu();
        let memory = GuestMemory::checked(scratch, buff, program.attach_type());
        Self {
            memory,
            redirect,
            host,
            program,
            guard,
            tail_calls: 0,
            fuel: u64::MAX,
            insn: 0,
            observer: None,
            compiled: None,
            cpu,
            references: Vec::new(),
        }
    }

    /// A run of compiled code, which makes no checks; `None` if nothing proves that it may. Pointers are
    /// the host's, but for functions: those are named as in checked runs.
    #[inline]
    pub(crate) fn unchecked(
        program: &'r Arc<Program>,
        guard: &'r Guard,
        buff: &'r mut XdpBuff<'q>,
        redirect: &'r mut RedirectInfo,
        host: &'r mut dyn Host,
        enter: EnterFn,
    ) -> Option<Self> {
        let cpu = host.cpu();
        let memory = GuestMemory::unchecked(program.verified()?, buff, program.attach_type());
        Some(Self {
            memory,
            redirect,
            host,
            program,
            guard,
            tail_calls: 0,
            fuel: u64::MAX,
            insn: 0,
            observer: None,
            compiled: Some(enter),
            cpu,
            references: Vec::new(),
        })
    }

    /// Stops the run with [`FaultKind::OutOfFuel`] after about so many instructions: it is noticed where
    /// the program jumps back or calls, so the run takes at most the program's length more.
    #[must_use]
    pub fn with_fuel(mut self, instructions: u64) -> Self {
        self.fuel = instructions;
        self
    }

    /// Lets someone see each instruction.
    #[must_use]
    pub fn with_observer(mut self, observer: &'r mut dyn Observer) -> Self {
        self.observer = Some(observer);
        self
    }

    /// The program that runs now: the entry, or what the last tail call went to.
    #[must_use]
    pub fn program(&self) -> &'r Arc<Program> {
        self.program
    }

    /// The read-side section that the run is in: for lookups in maps.
    pub fn guard(&self) -> &'r Guard {
        self.guard
    }

    /// The CPU that the run is on, the same to its end.
    #[must_use]
    pub fn cpu(&self) -> u32 {
        self.cpu
    }

    /// Tail calls so far.
    #[must_use]
    pub fn tail_calls(&self) -> u32 {
        self.tail_calls
    }

    /// The packet.
    #[must_use]
    pub fn buff(&self) -> &XdpBuff<'q> {
        self.memory.buff()
    }

    /// Moves or resizes the packet; see [`GuestMemory::with_buff`].
    pub fn with_buff<R>(&mut self, change: impl FnOnce(&mut XdpBuff<'q>) -> R) -> R {
        self.memory.with_buff(change)
    }

    /// Checks that a helper's argument is the context.
    ///
    /// # Errors
    ///
    /// The violation if it is something else.
    pub fn check_ctx(&self, addr: u64) -> Result<(), Fault> {
        self.memory.check_ctx(addr)
    }

    /// Bytes that a helper reads through a pointer of the program's. No bytes may be anywhere, as the null
    /// pointer with a size of 0.
    ///
    /// # Errors
    ///
    /// The violation.
    pub fn read(&self, addr: u64, len: u64) -> Result<SharedSlice<'_>, Fault> {
        self.memory.slice(addr, len, Access::Read)
    }

    /// Bytes that a helper writes through a pointer of the program's.
    ///
    /// # Errors
    ///
    /// The violation.
    pub fn write(&self, addr: u64, len: u64) -> Result<SharedSlice<'_>, Fault> {
        self.memory.slice(addr, len, Access::Write)
    }

    /// Gives the program a pointer; see [`GuestMemory::expose`].
    ///
    /// # Errors
    ///
    /// The violation of holding too many pointers.
    pub fn expose(&mut self, kind: RegionKind, bytes: SharedSlice<'r>, writable: bool) -> Result<u64, Fault> {
        self.memory.expose(kind, bytes, writable)
    }

    /// The map that a helper's argument names. The pointer comes from the program's own instructions or
    /// from a lookup in a map of maps ([`GuestMemory::expose_map`]).
    ///
    /// # Errors
    ///
    /// The violation if it names something else.
    pub fn map(&self, addr: u64) -> Result<&'r Arc<Map>, Fault> {
        self.memory.map(addr)
    }

    /// The function that a pointer of the program's names, for calling it after this run (timers).
    ///
    /// # Errors
    ///
    /// The violation if it names none.
    pub fn callback(&self, addr: u64) -> Result<Callback, Fault> {
        Callback::resolve(self.program, addr)
    }

    /// Notes that the program must give back what `addr` points to.
    pub fn acquire(&mut self, addr: u64, kind: RegionKind) {
        self.references.push(Reference { addr, kind, insn: self.insn, map: None });
    }

    /// Notes that the program must give back what `addr` points to, which belongs to a map.
    pub fn acquire_from(&mut self, addr: u64, kind: RegionKind, map: &'r Arc<Map>) {
        self.references.push(Reference { addr, kind, insn: self.insn, map: Some(map) });
    }

    /// Whether the program has what `addr` points to to give back.
    #[must_use]
    pub fn holds_at(&self, addr: u64) -> bool {
        self.references.iter().any(|r| r.addr == addr)
    }

    /// Whether the program has something of this kind to give back.
    #[must_use]
    pub fn holds(&self, kind: RegionKind) -> bool {
        self.references.iter().any(|r| r.kind == kind)
    }

    /// Notes that the program has given back what `addr` points to.
    ///
    /// # Errors
    ///
    /// The violation if it has not acquired that, or has released it before.
    pub fn release(&mut self, addr: u64) -> Result<RegionKind, Fault> {
        self.take_reference(addr).map(|r| r.kind)
    }

    /// As [`Run::release`], and answers the map that it belongs to.
    ///
    /// # Errors
    ///
    /// The violation if it has not acquired that, or has released it before.
    pub fn release_to(&mut self, addr: u64) -> Result<Option<&'r Arc<Map>>, Fault> {
        self.take_reference(addr).map(|r| r.map)
    }

    fn take_reference(&mut self, addr: u64) -> Result<Reference<'r>, Fault> {
        match self.references.iter().rposition(|r| r.addr == addr) {
            Some(i) => Ok(self.references.swap_remove(i)),
            None => Err(Fault::illegal(format!("{addr:#x} is released, but is no acquired reference"))),
        }
    }

    /// Goes on with another packet; what the program held of the last one is gone.
    #[inline]
    pub(super) fn next_packet(&mut self, buff: &'r mut XdpBuff<'q>) {
        self.memory.next_packet(buff);
        self.references.clear();
    }

    /// Whether the program has something to give back.
    #[inline]
    pub(super) fn owes(&self) -> bool {
        !self.references.is_empty()
    }

    /// The fault of ending with something not given back.
    pub(super) fn unreleased(&self) -> Option<Fault> {
        let Reference { kind, insn, .. } = self.references.first()?;
        let text = format!("the program ends and has not released {kind}, acquired at insn {insn}");
        Some(Fault { insn: *insn, kind: FaultKind::Illegal(text) })
    }
}

#[cfg(test)]
mod tests;
