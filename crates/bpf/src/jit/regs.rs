//! Machine registers for the nodes of a trace.
//!
//! Code is made in one pass in program order. A node gets a register when it is computed and keeps it to
//! its last use; what is cheap to compute again or only part of an address gets one when it is first
//! needed. With 15 registers for at most ten live BPF registers, spilling is rare, so it is simple.

use super::Compiler;
use super::asm::{Gpr, Mem, Size, Width};
use super::hash::CLOBBERED;
use super::node::{CROSSES, Id, Loc, NO_HINT, Op};

/// Registers that calls change.
pub(super) const CALLER_SAVED: u16 = 0b0000_1111_1100_0111;
/// Registers that a function must leave as they were.
pub(super) const CALLEE_SAVED: u16 = 0b1111_0000_0010_1000;

/// Order in which registers are taken if none is better: short encodings first, those of arguments last.
const ORDER: [Gpr; 15] = [
    Gpr::Rax,
    Gpr::R9,
    Gpr::R10,
    Gpr::R11,
    Gpr::R8,
    Gpr::Rcx,
    Gpr::Rdx,
    Gpr::Rsi,
    Gpr::Rdi,
    Gpr::Rbx,
    Gpr::R14,
    Gpr::R15,
    Gpr::R13,
    Gpr::R12,
    Gpr::Rbp,
];

/// Who is where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Regs {
    /// Owner of each register.
    owner: [Id; 16],
    /// Registers without owner.
    free: u16,
    /// Registers that the instruction being written needs.
    locked: u16,
    /// Registers that may be used at all.
    usable: u16,
    /// Spill slots in use.
    slots: u64,
}

impl Regs {
    /// All free.
    pub(super) const fn new(usable: u16) -> Self {
        Self { owner: [Id::NONE; 16], free: usable, locked: 0, usable, slots: 0 }
    }

    /// Owner of a register, or [`Id::NONE`].
    pub(super) const fn owner(&self, r: Gpr) -> Id {
        self.owner[r as usize]
    }

    /// Registers that the instruction being written needs.
    pub(super) const fn locked(&self) -> u16 {
        self.locked
    }

    /// Sets them.
    pub(super) fn set_locked(&mut self, locked: u16) {
        self.locked = locked;
    }

    /// Adds one.
    pub(super) fn lock(&mut self, r: Gpr) {
        self.locked |= r.bit();
    }

    /// Free registers of a set that nobody has locked.
    pub(super) const fn free_of(&self, set: u16) -> u16 {
        self.free & !self.locked & set
    }

    fn free_now(&self) -> u16 {
        self.free & !self.locked
    }
}

/// What has to be undone after code of a way out has been made.
#[derive(Debug, Default)]
pub(super) struct Journal {
    active: bool,
    entries: Vec<(Id, Loc, u16)>,
}

/// Operands that an instruction reads for the last time perhaps, to be released after it.
#[derive(Debug)]
pub(super) struct Reads {
    ids: [Id; 6],
    n: usize,
}

impl Reads {
    /// None.
    pub(super) const fn new() -> Self {
        Self { ids: [Id::NONE; 6], n: 0 }
    }

    /// One more.
    pub(super) fn push(&mut self, id: Id) {
        self.ids[self.n] = id;
        self.n += 1;
    }
}

impl Compiler<'_> {
    fn note(&mut self, id: Id) {
        if self.journal.active {
            let n = &self.trace.graph[id];
            self.journal.entries.push((id, n.loc, n.uses));
        }
    }

    /// Makes rare code whose effect on registers and nodes is forgotten afterwards.
    pub(super) fn aside<R>(&mut self, f: impl FnOnce(&mut Self) -> R) -> R {
        let cold = self.asm.in_cold();
        self.asm.switch(true);
        let result = self.sketch(f);
        self.asm.switch(cold);
        result
    }

    /// Makes code whose effect on registers and nodes is forgotten afterwards.
    pub(super) fn sketch<R>(&mut self, f: impl FnOnce(&mut Self) -> R) -> R {
        debug_assert!(!self.journal.active, "ways out have no ways out");
        let regs = self.regs;
        self.journal.active = true;
        let result = f(self);
        self.journal.active = false;
        while let Some((id, loc, uses)) = self.journal.entries.pop() {
            let n = &mut self.trace.graph[id];
            (n.loc, n.uses) = (loc, uses);
        }
        self.regs = regs;
        result
    }

    /// Says where a node's value is from now on.
    pub(super) fn bind(&mut self, id: Id, r: Gpr) {
        self.note(id);
        self.regs.owner[r as usize] = id;
        self.regs.free &= !r.bit();
        self.trace.graph[id].loc = Loc::reg(r.n());
        self.function.used |= r.bit();
        if self.trace.graph[id].uses == 0 {
            self.forget(id);
        }
    }

    /// Frees what a node occupies.
    fn forget(&mut self, id: Id) {
        let loc = self.trace.graph[id].loc;
        if let Some(r) = loc.as_reg() {
            self.regs.owner[r as usize] = Id::NONE;
            self.regs.free |= (1 << r) & self.regs.usable;
        } else if let Some(slot) = loc.as_slot() {
            self.regs.slots &= !(1 << slot);
        }
    }

    /// One use of a node less. What was never computed passes that on to its operands.
    pub(super) fn release(&mut self, id: Id) {
        self.note(id);
        let n = &mut self.trace.graph[id];
        debug_assert!(n.uses > 0, "{id:?} is read more often than counted: {n:?}");
        n.uses -= 1;
        if n.uses > 0 {
            return;
        }
        let n = *n;
        if n.loc != Loc::NONE {
            return self.forget(id);
        }
        for operand in [n.a, n.b] {
            if operand.is_some() {
                self.release(operand);
            }
        }
    }

    /// The same for all operands of an instruction.
    pub(super) fn release_all(&mut self, reads: &Reads) {
        for id in &reads.ids[..reads.n] {
            self.release(*id);
        }
    }

    /// Whether the instruction being written is the last to read a node, `reads` times.
    pub(super) fn dies(&self, id: Id, reads: u16) -> bool {
        self.trace.graph[id].uses == reads
    }

    /// The register that a node's value is in, computed or loaded now if it is nowhere.
    pub(super) fn ensure(&mut self, id: Id) -> Gpr {
        let n = self.trace.graph[id];
        if let Some(r) = n.loc.as_reg() {
            return Gpr::from_number(r);
        }
        if let Some(slot) = n.loc.as_slot() {
            let r = self.alloc_for(id);
            let mem = self.slot(slot);
            self.asm.load(Size::D, r, mem);
            self.regs.slots &= !(1 << slot);
            self.bind(id, r);
            return r;
        }
        self.compute(id)
    }

    /// The same, and nobody takes the register away while the instruction is written.
    pub(super) fn ensure_locked(&mut self, id: Id) -> Gpr {
        let r = self.ensure(id);
        self.regs.lock(r);
        r
    }

    /// A free register for a node's value.
    pub(super) fn alloc_for(&mut self, id: Id) -> Gpr {
        let n = self.trace.graph[id];
        // A constant is made again after a call.
        self.alloc(n.hint, n.is(CROSSES) && n.op != Op::Const)
    }

    /// A free register. Its owner has to be bound, or it stays free.
    pub(super) fn alloc(&mut self, hint: u8, crosses: bool) -> Gpr {
        let free = self.regs.free_now();
        let keeps = if crosses { self.survivors() } else { u16::MAX };
        if hint != NO_HINT && free & keeps & (1 << hint) != 0 {
            return self.took(Gpr::from_number(hint));
        }
        let cheap = match keeps {
            u16::MAX => CALLER_SAVED | self.function.used,
            _ if self.calls() => keeps,
            _ => keeps & (CALLER_SAVED | self.function.used),
        };
        for set in [free & cheap & !self.wanted, free & cheap, free] {
            if set != 0 {
                let r = ORDER.into_iter().find(|r| set & r.bit() != 0);
                return self.took(r.expect("the order has all registers"));
            }
        }
        let r = self.evict();
        self.took(r)
    }

    /// Any register of a set that is not empty.
    pub(super) fn pick(&mut self, set: u16) -> Gpr {
        let cheap = set & (CALLER_SAVED | self.function.used);
        let set = if cheap != 0 { cheap } else { set };
        let r = ORDER.into_iter().find(|r| set & r.bit() != 0);
        self.took(r.expect("the set is not empty"))
    }

    fn took(&mut self, r: Gpr) -> Gpr {
        self.function.used |= r.bit();
        r
    }

    fn calls(&self) -> bool {
        self.cfg.functions[self.function.number as usize].calls
    }

    /// Registers whose values survive what the function calls.
    fn survivors(&self) -> u16 {
        let f = &self.cfg.functions[self.function.number as usize];
        match (f.calls, f.routines) {
            (true, _) => CALLEE_SAVED,
            (false, true) => !CLOBBERED,
            (false, false) => u16::MAX,
        }
    }

    /// Empties some register.
    fn evict(&mut self) -> Gpr {
        let candidates = self.regs.usable & !self.regs.locked & !self.regs.free;
        let cost = |c: &Self, r: &Gpr| {
            let n = &c.trace.graph[c.regs.owner(*r)];
            if n.op == Op::Const { 0 } else { n.uses }
        };
        let r = ORDER.into_iter().filter(|r| candidates & r.bit() != 0).min_by_key(|r| cost(self, r));
        let r = r.expect("an instruction never locks all registers");
        self.spill(self.regs.owner(r));
        r
    }

    /// Puts a node's value into memory, if it cannot be had again for nothing.
    pub(super) fn spill(&mut self, id: Id) {
        let n = self.trace.graph[id];
        let Some(r) = n.loc.as_reg() else { return };
        self.note(id);
        self.forget(id);
        if matches!(n.op, Op::Const | Op::Frame | Op::Undef) {
            self.trace.graph[id].loc = Loc::NONE;
            return;
        }
        let slot = self.regs.slots.trailing_ones() as u8;
        self.regs.slots |= 1 << slot;
        self.function.spill_slots = self.function.spill_slots.max(slot + 1);
        let mem = self.slot(slot);
        self.asm.store(Size::D, mem, Gpr::from_number(r));
        self.trace.graph[id].loc = Loc::slot(slot);
    }

    /// Makes sure that a register has no owner; its value moves elsewhere.
    pub(super) fn vacate(&mut self, r: Gpr) {
        let id = self.regs.owner(r);
        if id == Id::NONE {
            return;
        }
        let n = self.trace.graph[id];
        if n.op == Op::Const {
            return self.spill(id);
        }
        let locked = self.regs.locked;
        self.regs.lock(r);
        let free = self.regs.free_now();
        if free == 0 {
            self.spill(id);
        } else {
            let to = self.alloc(if n.hint == r.n() { NO_HINT } else { n.hint }, n.is(CROSSES));
            self.copy(to, r, n.bits);
            self.rebind(id, to);
        }
        self.regs.locked = locked;
    }

    /// Says that a node's value has been copied to a register, which is its place from now on.
    pub(super) fn rebind(&mut self, id: Id, to: Gpr) {
        self.note(id);
        self.forget(id);
        self.bind(id, to);
    }

    /// `to = from` for a value below `2^bits`.
    pub(super) fn copy(&mut self, to: Gpr, from: Gpr, bits: u8) {
        let w = if bits <= 32 { Width::W32 } else { Width::W64 };
        self.asm.mov_rr(w, to, from);
    }

    /// Copies registers to registers at once. No register is written twice.
    pub(super) fn shuffle(&mut self, moves: &mut Vec<(Gpr, Gpr)>) {
        moves.retain(|(from, to)| from != to);
        self.function.used |= moves.iter().fold(0, |set, (_, to)| set | to.bit());
        while !moves.is_empty() {
            let sources = moves.iter().fold(0, |set, (from, _)| set | from.bit());
            if let Some(i) = moves.iter().position(|(_, to)| sources & to.bit() == 0) {
                let (from, to) = moves.swap_remove(i);
                self.asm.mov_rr(Width::W64, to, from);
                continue;
            }
            // Only cycles are left. After an exchange one of them is shorter by one.
            let (from, to) = moves.swap_remove(moves.len() - 1);
            self.asm.xchg_rr(from, to);
            for (source, _) in moves.iter_mut() {
                if *source == to {
                    *source = from;
                } else if *source == from {
                    *source = to;
                }
            }
            moves.retain(|(from, to)| from != to);
        }
    }

    /// Addresses of three spill slots that are free now.
    pub(super) fn three_slots(&mut self) -> [Mem; 3] {
        let mut taken = self.regs.slots;
        [(); 3].map(|()| {
            let slot = taken.trailing_ones() as u8;
            taken |= 1 << slot;
            self.function.spill_slots = self.function.spill_slots.max(slot + 1);
            self.slot(slot)
        })
    }

    /// Address of a spill slot.
    pub(super) fn slot(&self, slot: u8) -> Mem {
        let at = i32::from(slot) * 8;
        let f = &self.function;
        if f.red_zone {
            return Mem::new(Gpr::Rsp, -(f.stack + f.counter + 8) - at);
        }
        Mem::new(Gpr::Rsp, f.below_stack + f.stack + f.counter + at)
    }
}
