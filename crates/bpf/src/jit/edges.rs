//! Ways from one trace to another: branches, jumps and returns, and how values get to where the next
//! trace expects them.
//!
//! A block with several ways in takes registers from their homes. A block with one way in takes them
//! from wherever they are there, constants included ([`Entry`]). What a way out has to do first is
//! written to the rare stream, so the usual path has the branch alone.

use super::Compiler;
use super::asm::{Alu, Cond, Gpr, Label, Mem, Size, Width};
use super::cfg::{BlockId, Ret};
use super::facts::Class;
use super::node::{FOLDED, Id, Loc, Node, Op, Test};
use super::trace::Exit;

/// Where a register's value is when a block begins.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Place {
    /// Nowhere, because nobody reads it.
    #[default]
    None,
    /// In a register, plus a constant.
    Reg(Gpr, i32),
    /// It is a constant.
    Const(i64),
    /// It is an address in the stack frame.
    Frame(i64),
}

/// A register's value when a block begins.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arrival {
    place: Place,
    /// Of the value without the constant.
    bits: u8,
    class: Class,
}

/// R0 to R9 when a block with one way in begins.
pub(super) type Entry = [Arrival; 10];

impl Compiler<'_> {
    /// The label of a block.
    pub(super) fn label_of(&mut self, b: BlockId) -> Label {
        if let Some(label) = self.state[b as usize].label {
            return label;
        }
        let label = self.asm.label();
        self.state[b as usize].label = Some(label);
        label
    }

    /// Whether a block takes registers from their homes.
    pub(super) fn is_at_home(&self, b: BlockId) -> bool {
        let state = &self.state[b as usize];
        state.entry.is_none() && (state.emitted || self.cfg.blocks[b as usize].preds > 1)
    }

    /// Makes the nodes that a trace begins with.
    pub(super) fn enter_block(&mut self, head: BlockId) {
        self.regs = super::regs::Regs::new(self.function.usable);
        let live = self.cfg.blocks[head as usize].live_in.regs;
        let entry = self.state[head as usize].entry.map(|e| self.entries[e as usize]);
        let mut inputs = [Id::NONE; 16];
        for r in (0..10u8).filter(|r| live >> r & 1 != 0) {
            let home = Arrival {
                place: Place::Reg(self.function.homes[r as usize], 0),
                bits: 64,
                class: Class::Unknown,
            };
            let at = entry.map_or(home, |e| e[r as usize]);
            let id = self.arrive(at, &mut inputs);
            self.trace.set_reg(r, id);
        }
        let is_entry = self.function.number == 0 && head == self.cfg.functions[0].first;
        if is_entry && live & 2 != 0 && self.cfg.blocks[head as usize].preds == 1 {
            let ctx = inputs[self.function.homes[1] as usize];
            self.trace.graph[ctx].class = Class::Ctx;
        }
    }

    fn arrive(&mut self, at: Arrival, inputs: &mut [Id; 16]) -> Id {
        let g = &mut self.trace.graph;
        let id = match at.place {
            Place::None => return Id::UNDEF,
            Place::Const(v) => g.konst(v as u64),
            Place::Frame(off) => return g.frame(off),
            Place::Reg(r, plus) => {
                let input = &mut inputs[r as usize];
                if !input.is_some() {
                    let mut n = Node::new(Op::Input, Width::W64);
                    (n.loc, n.bits) = (Loc::reg(r.n()), at.bits);
                    (n.hint, n.class) = (r.n(), at.class);
                    *input = g.push(n);
                }
                let input = *input;
                g.bin_imm(Op::Add, Width::W64, input, plus as i64 as u64)
            }
        };
        if g.constant(id).is_some() {
            g[id].class = at.class;
        }
        id
    }

    /// Gives the values that the trace begins with their registers, now that it is known who reads them.
    pub(super) fn claim_inputs(&mut self) {
        for i in 2..self.trace.graph.len() {
            let id = Id(i);
            let n = self.trace.graph[id];
            match n.op {
                Op::Input if n.uses > 0 => {
                    let r = Gpr::from_number(n.loc.as_reg().expect("inputs are in registers"));
                    self.bind(id, r);
                }
                Op::Input | Op::Const | Op::Frame | Op::Add => {}
                _ => return,
            }
        }
    }

    pub(super) fn emit_branch(&mut self, id: Id) {
        let n = self.trace.graph[id];
        let exit = self.trace.exits[n.aux as usize];
        let locked = self.regs.locked();
        let cond = if n.op == Op::MayGoto {
            let counter = self.counter();
            self.asm.alu_mi(Alu::Cmp, Size::D, counter, 0);
            Cond::E
        } else {
            self.compare(&n, exit.test)
        };
        self.regs.set_locked(locked);
        for operand in [n.a, n.b] {
            if operand.is_some() {
                self.release(operand);
            }
        }
        if self.is_back_edge(&exit) {
            // The way back is the usual one: what it has to do is done here.
            let on = self.asm.label();
            self.asm.jcc(cond.negated(), on);
            self.sketch(|c| c.go_home(&exit));
            self.asm.bind(on);
        } else {
            let to = self.way_out(&exit);
            self.asm.jcc(cond, to);
        }
        let outs: Vec<Id> = self.trace.outs(&exit).map(|(_, id)| id).collect();
        for out in outs {
            self.release(out);
        }
        if n.op == Op::MayGoto {
            let counter = self.counter();
            self.asm.inc_m(Size::D, counter, true);
        }
    }

    /// The loop budget of `may_goto`.
    pub(super) fn counter(&self) -> Mem {
        let f = &self.function;
        let below = f.stack + 8;
        if f.red_zone { Mem::new(Gpr::Rsp, -below) } else { Mem::new(Gpr::Rsp, f.below_stack + f.stack) }
    }

    /// Sets the flags, and answers under which condition the test holds.
    fn compare(&mut self, n: &Node, test: Test) -> Cond {
        let in_memory = |c: &Self, x: Id| {
            let m = &c.trace.graph[x];
            m.op == Op::Load && m.is(FOLDED) && m.loc == Loc::NONE
        };
        if in_memory(self, n.a) {
            return self.compare_memory(n, test);
        }
        let ra = self.ensure_locked(n.a);
        match test {
            Test::Compare(c @ (Cond::E | Cond::Ne))
                if n.b == Id::NONE && n.imm == 0 && self.flags_tell(n.a, n.w) =>
            {
                c
            }
            Test::Compare(c) => {
                if n.b.is_some() && in_memory(self, n.b) {
                    let mem = self.mem_of(n.b);
                    self.asm.alu_rm(Alu::Cmp, n.w, ra, mem);
                } else if n.b.is_some() {
                    let rb = self.ensure_locked(n.b);
                    self.asm.alu_rr(Alu::Cmp, n.w, ra, rb);
                } else if n.imm == 0 {
                    self.asm.test_rr(n.w, ra, ra);
                } else {
                    self.asm.alu_ri(Alu::Cmp, n.w, ra, n.imm as i32);
                }
                c
            }
            Test::AnyBit | Test::NoBit => {
                if n.b.is_some() {
                    let rb = self.ensure_locked(n.b);
                    self.asm.test_rr(n.w, ra, rb);
                } else {
                    self.asm.test_ri(n.w, ra, n.imm as i32);
                }
                if test == Test::AnyBit { Cond::Ne } else { Cond::E }
            }
        }
    }

    /// The same with the first operand in memory.
    fn compare_memory(&mut self, n: &Node, test: Test) -> Cond {
        let load = self.trace.graph[n.a];
        let rb = n.b.is_some().then(|| self.ensure_locked(n.b));
        let mem = self.mem_of(n.a);
        let size = if rb.is_some() && n.w == Width::W32 { Size::W } else { load.size };
        match (test, rb) {
            (Test::Compare(c), Some(rb)) => {
                self.asm.alu_mr(Alu::Cmp, size, mem, rb);
                c
            }
            (Test::Compare(c), None) => {
                let imm = if size == Size::B { n.imm as i8 as i32 } else { n.imm as i32 };
                self.asm.alu_mi(Alu::Cmp, size, mem, imm);
                c
            }
            (_, Some(rb)) => {
                self.asm.test_mr(n.w, mem, rb);
                if test == Test::AnyBit { Cond::Ne } else { Cond::E }
            }
            (_, None) => {
                self.asm.test_mi(size, mem, if size == Size::B { n.imm as i8 as i32 } else { n.imm as i32 });
                if test == Test::AnyBit { Cond::Ne } else { Cond::E }
            }
        }
    }

    /// The label that a branch out of the trace goes to, after whatever has to be done on the way.
    fn way_out(&mut self, exit: &Exit) -> Label {
        if let Some(ret) = self.cfg.blocks[exit.target as usize].ret {
            return self.return_label(exit, ret);
        }
        if self.is_at_home(exit.target) {
            let target = self.label_of(exit.target);
            if self.all_at_home(exit) {
                return target;
            }
            return self.detour(|c| c.go_home(exit));
        }
        let target = self.label_of(exit.target);
        if self.outs_have_places(exit) {
            self.arrange(exit);
            return target;
        }
        self.detour(|c| {
            c.place_outs(exit);
            c.arrange(exit);
            c.asm.jmp(target);
        })
    }

    /// Whether a way out goes back to code that is there already, and has something to do before.
    fn is_back_edge(&self, exit: &Exit) -> bool {
        let emitted = self.state[exit.target as usize].emitted;
        emitted && self.is_at_home(exit.target) && !self.all_at_home(exit)
    }

    fn go_home(&mut self, exit: &Exit) {
        self.move_home(exit);
        let target = self.label_of(exit.target);
        self.asm.jmp(target);
    }

    fn detour(&mut self, f: impl FnOnce(&mut Self)) -> Label {
        let label = self.asm.label();
        self.aside(|c| {
            c.asm.bind(label);
            f(c);
        });
        label
    }

    fn all_at_home(&self, exit: &Exit) -> bool {
        self.trace.outs(exit).all(|(r, id)| {
            id == Id::UNDEF || self.trace.graph[id].loc == Loc::reg(self.function.homes[r as usize].n())
        })
    }

    /// Brings everything that the target reads to its home. Other values are lost.
    fn move_home(&mut self, exit: &Exit) {
        let outs: Vec<(u8, Id)> = self.trace.outs(exit).filter(|(_, id)| *id != Id::UNDEF).collect();
        for (_, id) in &outs {
            if !self.is_constant(*id) {
                self.ensure(*id);
            }
        }
        let mut moves = std::mem::take(&mut self.moves);
        moves.clear();
        for (r, id) in &outs {
            if let Some(from) = self.trace.graph[*id].loc.as_reg() {
                moves.push((Gpr::from_number(from), self.function.homes[*r as usize]));
            }
        }
        self.shuffle(&mut moves);
        self.moves = moves;
        for (r, id) in outs {
            let n = self.trace.graph[id];
            let home = self.function.homes[r as usize];
            if n.loc.as_reg().is_some() {
                continue;
            }
            self.function.used |= home.bit();
            match n.op {
                Op::Const => self.load_constant(home, n.imm as u64),
                _ => {
                    let mem = self.frame_mem(n.imm as i32);
                    self.asm.lea(Width::W64, home, mem);
                }
            }
        }
    }

    /// Whether a node is a constant or an address in the frame, which no register need hold.
    fn is_constant(&self, id: Id) -> bool {
        matches!(self.trace.graph[id].op, Op::Const | Op::Frame) && self.trace.graph[id].loc == Loc::NONE
    }

    /// Whether [`Compiler::place_of`] has an answer for everything that the target reads.
    fn outs_have_places(&self, exit: &Exit) -> bool {
        self.trace.outs(exit).all(|(_, id)| self.place_of(id).is_some())
    }

    fn place_of(&self, id: Id) -> Option<Arrival> {
        let n = &self.trace.graph[id];
        let (bits, class) = (n.bits, n.class);
        let place = match n.op {
            Op::Undef => Place::None,
            Op::Const => Place::Const(n.imm),
            Op::Frame => Place::Frame(n.imm),
            _ if n.loc.as_reg().is_some() => Place::Reg(Gpr::from_number(n.loc.as_reg()?), 0),
            Op::Add if n.b == Id::NONE && n.w == Width::W64 && n.loc == Loc::NONE => {
                let base = &self.trace.graph[n.a];
                let arrival = Place::Reg(Gpr::from_number(base.loc.as_reg()?), n.imm as i32);
                return Some(Arrival { place: arrival, bits: base.bits, class: base.class });
            }
            _ => return None,
        };
        Some(Arrival { place, bits, class })
    }

    fn place_outs(&mut self, exit: &Exit) {
        let outs: Vec<Id> = self.trace.outs(exit).map(|(_, id)| id).collect();
        for id in outs {
            if self.place_of(id).is_none() {
                self.ensure(id);
            }
        }
    }

    /// Tells the target, which has no other way in, where its registers are.
    fn arrange(&mut self, exit: &Exit) {
        let mut entry = Entry::default();
        for (r, id) in self.trace.outs(exit) {
            entry[r as usize] = self.place_of(id).expect("made sure of before");
        }
        self.state[exit.target as usize].entry = Some(self.entries.len() as u32);
        self.entries.push(entry);
    }

    pub(super) fn emit_jump(&mut self, id: Id) {
        let exit = self.trace.exits[self.trace.graph[id].aux as usize];
        let target = self.label_of(exit.target);
        if self.is_at_home(exit.target) {
            self.move_home(&exit);
        } else {
            self.place_outs(&exit);
            self.arrange(&exit);
        }
        self.asm.jmp(target);
    }

    /// A branch to the end of the function.
    fn return_label(&mut self, exit: &Exit, ret: Ret) -> Label {
        let result = match ret {
            Ret::Const(v) => Some(v),
            Ret::R0 => self.trace.outs(exit).next().and_then(|(_, id)| self.trace.graph.constant(id)),
        };
        let Some(v) = result else {
            let id = self.trace.outs(exit).next().map_or(Id::UNDEF, |(_, id)| id);
            return self.detour(|c| c.return_value(id));
        };
        if let Some((_, label)) = self.function.returns.iter().find(|(known, _)| *known == v) {
            return *label;
        }
        let label = self.detour(|c| c.return_constant(v));
        self.function.returns.push((v, label));
        label
    }

    fn return_constant(&mut self, v: u64) {
        self.load_constant(Gpr::Rax, v);
        self.asm.leave(self.function.number);
        self.asm.ret();
    }

    fn return_value(&mut self, id: Id) {
        let r = self.ensure(id);
        if r != Gpr::Rax {
            let bits = self.trace.graph.bits(id);
            self.copy(Gpr::Rax, r, bits);
        }
        self.asm.leave(self.function.number);
        self.asm.ret();
    }

    pub(super) fn emit_return(&mut self, id: Id) {
        match self.trace.graph.constant(id) {
            Some(v) => self.return_constant(v),
            None => self.return_value(id),
        }
    }
}
