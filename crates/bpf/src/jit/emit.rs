//! From nodes to machine code: the walk over a trace, and arithmetic.

use super::asm::{Alu, Cond, Gpr, Mem, Shift, Size, Unary, Width};
use super::fold::width_bits;
use super::node::{FOLDED, Id, KEPT, LAZY, Loc, MAIN, NO_HINT, Node, Op};
use super::regs::Reads;
use super::{Compiler, JitError};

/// The second operand of an instruction.
#[derive(Clone, Copy)]
enum Source {
    Reg(Gpr),
    Imm(i32),
    Mem(Mem),
}

impl Compiler<'_> {
    /// Makes the code of the trace.
    pub(super) fn emit_trace(&mut self) -> Result<(), JitError> {
        for i in 0..self.trace.graph.len() {
            let id = Id(i);
            let n = self.trace.graph[id];
            self.mark(id);
            match n.op {
                Op::Branch | Op::MayGoto => self.emit_branch(id),
                Op::Jump => self.emit_jump(id),
                Op::Return => self.emit_return(n.a),
                Op::Call => self.emit_call(id)?,
                Op::HashLookup => self.emit_hash_lookup(id),
                Op::Atomic => self.emit_atomic(id),
                Op::Store if n.is(KEPT) => self.emit_store(id),
                Op::Store => {}
                // What is not needed here, or not yet.
                _ if n.uses == 0 || n.flags & (MAIN | LAZY | FOLDED) != MAIN || n.loc != Loc::NONE => {}
                _ => {
                    self.compute(id);
                }
            }
        }
        Ok(())
    }

    /// Computes a value into a register.
    pub(super) fn compute(&mut self, id: Id) -> Gpr {
        let n = self.trace.graph[id];
        self.compute_operands(&n);
        let outer = self.asm.marked();
        self.mark(id);
        let locked = self.regs.locked();
        let r = match n.op {
            Op::Const | Op::Frame | Op::Undef | Op::Input => self.simple(id, n),
            Op::Load => self.emit_load(id),
            Op::Sext => self.extend(id, n),
            Op::Shl | Op::Shr | Op::Sar | Op::Rol => self.shift(id, n),
            Op::Div | Op::Mod | Op::Sdiv | Op::Smod => self.divide(id, n),
            Op::Mul => self.multiply(id, n),
            Op::Zext => self.zero_extend(id, n),
            Op::RunField => self.run_field(id, n),
            Op::Select => self.select(id, n),
            Op::Slot => self.slot_entry(id, n),
            Op::Neg | Op::Bswap => self.one_operand(id, n),
            _ => self.binary_op(id, n),
        };
        self.regs.set_locked(locked);
        if let Some(outer) = outer {
            self.asm.mark(outer);
        }
        r
    }

    /// Notes whose code comes now, if anybody wants to know.
    fn mark(&mut self, id: Id) {
        if let Some(insn) = self.trace.graph.origin(id) {
            self.asm.mark(Some(insn));
        }
    }

    /// Computes operands that only a way out needs before any register is settled on: a division among them
    /// may move others.
    fn compute_operands(&mut self, n: &Node) {
        for x in [n.a, n.b] {
            if x.is_some() {
                let operand = &self.trace.graph[x];
                if operand.loc == Loc::NONE && operand.flags & (LAZY | FOLDED | MAIN) == 0 {
                    self.ensure(x);
                }
            }
        }
    }

    fn simple(&mut self, id: Id, n: Node) -> Gpr {
        let r = self.alloc_for(id);
        match n.op {
            Op::Const => self.load_constant(r, n.imm as u64),
            Op::Frame => {
                let mem = self.frame_mem(n.imm as i32);
                self.asm.lea(Width::W64, r, mem);
            }
            _ => {}
        }
        self.bind(id, r);
        r
    }

    /// A constant into a register. The flags may be lost.
    pub(super) fn load_constant(&mut self, r: Gpr, v: u64) {
        if v == 0 { self.asm.zero(r) } else { self.asm.mov_ri(r, v) }
    }

    /// The register for a result that overwrites its first operand: that one's own if nobody reads it
    /// later, else a new one with a copy.
    fn overwrite(&mut self, id: Id, a: Id, ra: Gpr, reads: u16) -> Gpr {
        if self.dies(a, reads) {
            return ra;
        }
        let to = self.alloc_for(id);
        let bits = if self.trace.graph[id].w == Width::W32 { 32 } else { self.trace.graph.bits(a) };
        self.copy(to, ra, bits);
        to
    }

    fn finish(&mut self, id: Id, r: Gpr, reads: &Reads) -> Gpr {
        self.release_all(reads);
        self.bind(id, r);
        r
    }

    /// The second operand, wherever it is.
    fn source(&mut self, b: Id, imm: i64) -> Source {
        if b == Id::NONE {
            return Source::Imm(imm as i32);
        }
        let n = self.trace.graph[b];
        if n.is(FOLDED) && n.loc == Loc::NONE {
            Source::Mem(self.mem_of(b))
        } else {
            Source::Reg(self.ensure_locked(b))
        }
    }

    /// Operands in the order in which they cost least.
    fn ordered(&self, n: &Node) -> (Id, Id) {
        let (a, b) = (n.a, n.b);
        if b == Id::NONE || !n.op.commutes() || a == b {
            return (a, b);
        }
        let g = &self.trace.graph;
        let in_memory = |x: Id| g[x].is(FOLDED) && g[x].loc == Loc::NONE;
        if in_memory(a) || (!in_memory(b) && !self.dies(a, 1) && self.dies(b, 1)) { (b, a) } else { (a, b) }
    }

    fn binary_op(&mut self, id: Id, n: Node) -> Gpr {
        let (a, b) = self.ordered(&n);
        let ra = self.ensure_locked(a);
        let source = self.source(b, n.imm);
        let mut reads = Reads::new();
        reads.push(a);
        if b.is_some() {
            reads.push(b);
        }
        let times = if a == b { 2 } else { 1 };
        if n.op == Op::Add && !self.dies(a, times) {
            let to = match source {
                Source::Reg(rb) => Some(Mem::indexed(ra, rb, 0, 0)),
                Source::Imm(imm) => Some(Mem::new(ra, imm)),
                Source::Mem(_) => None,
            };
            // rsp is no operand, so every register can be an index.
            if let Some(mem) = to {
                let r = self.alloc_for(id);
                self.asm.lea(n.w, r, mem);
                return self.finish(id, r, &reads);
            }
        }
        if let (Op::And, Source::Imm(mask @ (0xff | 0xffff))) = (n.op, source) {
            let size = if mask == 0xff { Size::B } else { Size::H };
            let r = if self.dies(a, 1) { ra } else { self.alloc_for(id) };
            self.asm.movzx(size, r, ra);
            return self.finish(id, r, &reads);
        }
        let r = self.overwrite(id, a, ra, times);
        self.apply(n.op, n.w, r, source);
        let complement = matches!((n.op, source), (Op::Xor, Source::Imm(-1)));
        // A complement leaves the flags alone.
        self.flags_of = (!complement).then(|| (id, self.asm.here()));
        self.finish(id, r, &reads)
    }

    /// Whether the flags still tell whether a value is 0.
    pub(super) fn flags_tell(&self, id: Id, w: Width) -> bool {
        let n = &self.trace.graph[id];
        (n.w == w || n.w == Width::W32) && self.flags_of == Some((id, self.asm.here()))
    }

    fn apply(&mut self, op: Op, w: Width, r: Gpr, source: Source) {
        let alu = match op {
            Op::Add => Alu::Add,
            Op::Sub => Alu::Sub,
            Op::And => Alu::And,
            Op::Or => Alu::Or,
            Op::Xor => Alu::Xor,
            _ => unreachable!("{op:?} has an emitter of its own"),
        };
        match source {
            Source::Imm(imm @ (1 | -1)) if op == Op::Add => self.asm.inc(w, r, imm < 0),
            Source::Imm(-1) if op == Op::Xor => self.asm.unary(Unary::Not, w, r),
            // One byte shorter than adding 128.
            Source::Imm(128) if op == Op::Add => self.asm.alu_ri(Alu::Sub, w, r, -128),
            Source::Imm(imm) => self.asm.alu_ri(alu, w, r, imm),
            Source::Reg(b) => self.asm.alu_rr(alu, w, r, b),
            Source::Mem(mem) => self.asm.alu_rm(alu, w, r, mem),
        }
    }

    fn multiply(&mut self, id: Id, n: Node) -> Gpr {
        let (a, b) = self.ordered(&n);
        let ra = self.ensure_locked(a);
        let source = self.source(b, n.imm);
        let mut reads = Reads::new();
        reads.push(a);
        if b.is_some() {
            reads.push(b);
        }
        let r = match source {
            Source::Imm(imm) => {
                let r = if self.dies(a, 1) { ra } else { self.alloc_for(id) };
                match lea_factor(imm) {
                    Some(shift) => self.asm.lea(n.w, r, Mem::indexed(ra, ra, shift, 0)),
                    None => self.asm.imul_rri(n.w, r, ra, imm),
                }
                r
            }
            Source::Reg(rb) => {
                let r = self.overwrite(id, a, ra, if a == b { 2 } else { 1 });
                self.asm.imul_rr(n.w, r, rb);
                r
            }
            Source::Mem(mem) => {
                let r = self.overwrite(id, a, ra, 1);
                self.asm.imul_rm(n.w, r, mem);
                r
            }
        };
        self.finish(id, r, &reads)
    }

    fn run_field(&mut self, id: Id, n: Node) -> Gpr {
        let r = self.alloc_for(id);
        self.asm.load(Size::W, r, Mem::new(self.function.run, n.imm as i32));
        self.bind(id, r);
        r
    }

    fn select(&mut self, id: Id, n: Node) -> Gpr {
        let (ra, rb) = (self.ensure_locked(n.a), self.ensure_locked(n.b));
        let r = self.alloc_for(id);
        self.asm.zero(r);
        self.asm.alu_ri(Alu::Cmp, Width::W32, rb, n.imm as i32);
        self.asm.cmov(Cond::B, Width::W64, r, ra);
        let mut reads = Reads::new();
        reads.push(n.a);
        reads.push(n.b);
        self.finish(id, r, &reads)
    }

    fn slot_entry(&mut self, id: Id, n: Node) -> Gpr {
        let ra = self.ensure_locked(n.a);
        let r = self.alloc_for(id);
        self.regs.lock(r);
        let t = self.alloc(NO_HINT, false);
        let none = self.asm.label();
        self.asm.zero(r);
        self.asm.alu_ri(Alu::Cmp, Width::W32, ra, n.aux as i32);
        self.asm.jcc(Cond::Ae, none);
        self.asm.mov_ri(t, n.imm as u64);
        self.asm.load(Size::D, r, Mem::indexed(t, ra, 3, 0));
        self.asm.bind(none);
        let mut reads = Reads::new();
        reads.push(n.a);
        self.finish(id, r, &reads)
    }

    fn zero_extend(&mut self, id: Id, n: Node) -> Gpr {
        let ra = self.ensure_locked(n.a);
        let r = if self.dies(n.a, 1) { ra } else { self.alloc_for(id) };
        self.asm.mov_rr(Width::W32, r, ra);
        let mut reads = Reads::new();
        reads.push(n.a);
        self.finish(id, r, &reads)
    }

    fn extend(&mut self, id: Id, n: Node) -> Gpr {
        let size = Size::from_bytes((n.imm / 8) as u8);
        let mut reads = Reads::new();
        reads.push(n.a);
        let x = self.trace.graph[n.a];
        if x.is(FOLDED) && x.loc == Loc::NONE {
            let mem = self.mem_of(n.a);
            let r = self.alloc_for(id);
            self.asm.load_sx(n.w, size, r, mem);
            return self.finish(id, r, &reads);
        }
        let ra = self.ensure_locked(n.a);
        let r = if self.dies(n.a, 1) { ra } else { self.alloc_for(id) };
        self.asm.movsx(n.w, size, r, ra);
        self.finish(id, r, &reads)
    }

    fn one_operand(&mut self, id: Id, n: Node) -> Gpr {
        let mut reads = Reads::new();
        reads.push(n.a);
        let x = self.trace.graph[n.a];
        if n.op == Op::Bswap && x.is(FOLDED) && x.loc == Loc::NONE {
            let mem = self.mem_of(n.a);
            let r = self.alloc_for(id);
            self.asm.load_be(n.w, r, mem);
            return self.finish(id, r, &reads);
        }
        let ra = self.ensure_locked(n.a);
        let r = self.overwrite(id, n.a, ra, 1);
        match (n.op, n.imm) {
            (Op::Neg, _) => self.asm.unary(Unary::Neg, n.w, r),
            (_, 16) => {
                self.asm.rol16(r, 8);
                if x.bits > 16 {
                    self.asm.movzx(Size::H, r, r);
                }
            }
            _ => self.asm.bswap(n.w, r),
        }
        self.finish(id, r, &reads)
    }

    fn shift(&mut self, id: Id, n: Node) -> Gpr {
        if n.b.is_some() {
            return self.shift_by_register(id, n);
        }
        let ra = self.ensure_locked(n.a);
        let mut reads = Reads::new();
        reads.push(n.a);
        let k = (n.imm as u8) & (width_bits(n.w) - 1);
        let op = shift_op(n.op);
        if !self.dies(n.a, 1) {
            let r = self.alloc_for(id);
            match (n.op, k) {
                (Op::Rol, _) if self.cpu.bmi2 => self.asm.rorx(n.w, r, ra, width_bits(n.w) - k),
                (Op::Shl, 1) => self.asm.lea(n.w, r, Mem::indexed(ra, ra, 0, 0)),
                _ => {
                    self.asm.mov_rr(n.w, r, ra);
                    self.asm.shift_ri(op, n.w, r, k);
                }
            }
            return self.finish(id, r, &reads);
        }
        match (n.op, k) {
            (Op::Shl, 1) => self.asm.alu_rr(Alu::Add, n.w, ra, ra),
            _ => self.asm.shift_ri(op, n.w, ra, k),
        }
        self.finish(id, ra, &reads)
    }

    fn shift_by_register(&mut self, id: Id, n: Node) -> Gpr {
        let op = shift_op(n.op);
        let mut reads = Reads::new();
        reads.push(n.a);
        reads.push(n.b);
        if self.cpu.bmi2 {
            let (ra, rb) = (self.ensure_locked(n.a), self.ensure_locked(n.b));
            let r = if self.dies(n.a, 1) { ra } else { self.alloc_for(id) };
            self.asm.shift_x(op, n.w, r, ra, rb);
            return self.finish(id, r, &reads);
        }
        // The count has to be in rcx, and nothing else may be there.
        let rb = self.ensure_locked(n.b);
        if rb != Gpr::Rcx {
            self.vacate(Gpr::Rcx);
            self.asm.mov_rr(Width::W32, Gpr::Rcx, rb);
        }
        self.regs.lock(Gpr::Rcx);
        let ra = self.ensure_locked(n.a);
        let r = if ra != Gpr::Rcx && self.dies(n.a, if n.a == n.b { 2 } else { 1 }) {
            ra
        } else {
            let r = self.alloc_for(id);
            self.asm.mov_rr(n.w, r, ra);
            r
        };
        self.asm.shift_cl(op, n.w, r);
        self.finish(id, r, &reads)
    }
}

/// `k` if a multiplication by `imm` is `x + x << k`.
const fn lea_factor(imm: i32) -> Option<u8> {
    match imm {
        3 => Some(1),
        5 => Some(2),
        9 => Some(3),
        _ => None,
    }
}

fn shift_op(op: Op) -> Shift {
    match op {
        Op::Shl => Shift::Shl,
        Op::Shr => Shift::Shr,
        Op::Sar => Shift::Sar,
        Op::Rol => Shift::Rol,
        _ => unreachable!("{op:?} does not shift"),
    }
}
