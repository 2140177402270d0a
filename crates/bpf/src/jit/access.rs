//! Loads, stores and atomic operations.

use uapi::bpf::*;

use super::Compiler;
use super::asm::{Alu, Cond, Gpr, Mem, Size, Width};
use super::node::{FOLDED, Id, LAZY, Loc, NO_HINT, Node, Op, STORES_IMM, UPDATE};

impl Compiler<'_> {
    /// The address `disp` bytes from the frame's end.
    pub(super) fn frame_mem(&self, disp: i32) -> Mem {
        let f = &self.function;
        let end = if f.red_zone { 0 } else { f.below_stack + f.stack };
        Mem::new(Gpr::Rsp, end + disp)
    }

    /// The memory operand of a load or store. Registers that it names are locked; who uses it releases the
    /// node, and with it the address.
    pub(super) fn mem_of(&mut self, id: Id) -> Mem {
        let n = self.trace.graph[id];
        let disp = n.imm as i32;
        let base = self.trace.graph[n.a];
        if n.a == Id::FRAME {
            return self.frame_mem(disp);
        }
        let sum = base.op == Op::Add && base.is(LAZY) && base.b.is_some();
        if sum && base.loc == Loc::NONE && base.uses == 1 {
            return self.sum_of(base, disp);
        }
        let r = self.ensure_locked(n.a);
        Mem::new(r, disp)
    }

    fn sum_of(&mut self, sum: Node, disp: i32) -> Mem {
        let base = self.ensure_locked(sum.a);
        let index = self.ensure_locked(sum.b);
        Mem::indexed(base, index, 0, disp)
    }

    pub(super) fn emit_load(&mut self, id: Id) -> Gpr {
        let n = self.trace.graph[id];
        let locked = self.regs.locked();
        let mem = self.mem_of(id);
        self.release(n.a);
        // If the base was read for the last time its register may become the value's.
        self.regs.set_locked(locked);
        let r = self.alloc_for(id);
        self.asm.load(n.size, r, mem);
        self.bind(id, r);
        r
    }

    pub(super) fn emit_store(&mut self, id: Id) {
        let n = self.trace.graph[id];
        let locked = self.regs.locked();
        if n.is(UPDATE) {
            self.update(id, n);
        } else if n.is(STORES_IMM) {
            let mem = self.mem_of(id);
            self.asm.store_imm(n.size, mem, n.aux as i32);
            self.release(n.a);
        } else {
            self.plain_store(id, n);
        }
        self.regs.set_locked(locked);
    }

    fn plain_store(&mut self, id: Id, n: Node) {
        let value = self.trace.graph[n.b];
        let mem = self.mem_of(id);
        if value.op == Op::Bswap && value.is(FOLDED) && value.loc == Loc::NONE {
            let r = self.ensure_locked(value.a);
            self.asm.store_be(n.size, mem, r);
        } else {
            let r = self.ensure_locked(n.b);
            self.asm.store(n.size, mem, r);
        }
        self.release(n.a);
        self.release(n.b);
    }

    /// `[mem] op= x`.
    fn update(&mut self, id: Id, n: Node) {
        let v = self.trace.graph[n.b];
        let mem = self.mem_of(id);
        let is_load = |c: &Self, x: Id| {
            let l = &c.trace.graph[x];
            l.op == Op::Load && l.is(FOLDED) && l.a == n.a && l.imm == n.imm
        };
        let alu = match v.op {
            Op::Add => Alu::Add,
            Op::Sub => Alu::Sub,
            Op::And => Alu::And,
            Op::Or => Alu::Or,
            _ => Alu::Xor,
        };
        if v.b == Id::NONE {
            match (alu, v.imm as i32) {
                (Alu::Add, imm @ (1 | -1)) => self.asm.inc_m(n.size, mem, imm < 0),
                (_, imm) => self.asm.alu_mi(alu, n.size, mem, narrow(imm, n.size)),
            }
        } else {
            let x = if is_load(self, v.a) { v.b } else { v.a };
            let r = self.ensure_locked(x);
            self.asm.alu_mr(alu, n.size, mem, r);
        }
        self.release(n.a);
        self.release(n.b);
    }

    pub(super) fn emit_atomic(&mut self, id: Id) {
        let n = self.trace.graph[id];
        let site = self.trace.atomics[n.aux as usize];
        let locked = self.regs.locked();
        match site.op {
            BPF_LOAD_ACQ => self.load_acquire(id),
            BPF_STORE_REL => {
                let mem = self.mem_of(id);
                let r = self.ensure_locked(n.b);
                self.asm.store(n.size, mem, r);
                self.release(n.a);
                self.release(n.b);
            }
            BPF_CMPXCHG => self.compare_exchange(id, n, site.expected),
            BPF_XCHG => self.exchange(id, n, false),
            op if op == BPF_ADD_FETCH => self.exchange(id, n, true),
            op if op & BPF_FETCH != 0 => self.fetch_loop(id, n, alu_of(op)),
            op => self.atomic_alu(id, n, alu_of(op)),
        }
        self.regs.set_locked(locked);
    }

    /// Loads are not reordered with later accesses by this processor.
    fn load_acquire(&mut self, id: Id) {
        let n = self.trace.graph[id];
        let mem = self.mem_of(id);
        let r = self.alloc_for(id);
        self.asm.load(n.size, r, mem);
        self.release(n.a);
        // The operand stands for nothing.
        self.release(n.b);
        self.bind(id, r);
    }

    fn atomic_alu(&mut self, id: Id, n: Node, alu: Alu) {
        let mem = self.mem_of(id);
        let operand = self.trace.graph.constant(n.b).map(|v| v as i64);
        match operand.map(|v| if n.w == Width::W32 { i64::from(v as i32) } else { v }) {
            Some(v) if v as i32 as i64 == v => self.asm.lock_alu_mi(alu, n.size, mem, v as i32),
            _ => {
                let r = self.ensure_locked(n.b);
                self.asm.lock_alu_mr(alu, n.size, mem, r);
            }
        }
        self.release(n.a);
        self.release(n.b);
    }

    /// `xchg` or `xadd`: the operand's register becomes the result's.
    fn exchange(&mut self, id: Id, n: Node, add: bool) {
        let mem = self.mem_of(id);
        let rb = self.ensure_locked(n.b);
        let r = if self.dies(n.b, 1) && n.a != n.b {
            rb
        } else {
            let r = self.alloc_for(id);
            self.asm.mov_rr(n.w, r, rb);
            r
        };
        if add {
            self.asm.lock_xadd(n.w, mem, r)
        } else {
            self.asm.xchg_mr(n.size, mem, r)
        }
        self.release(n.a);
        self.release(n.b);
        self.bind(id, r);
    }

    /// Empties a register for an instruction that needs it.
    pub(super) fn take_fixed(&mut self, r: Gpr) {
        self.regs.lock(r);
        self.vacate(r);
        self.function.used |= r.bit();
    }

    fn compare_exchange(&mut self, id: Id, n: Node, expected: Id) {
        let there = self.regs.owner(Gpr::Rax) == expected && self.dies(expected, 1);
        if !there {
            self.take_fixed(Gpr::Rax);
        }
        self.regs.lock(Gpr::Rax);
        let mem = self.mem_of(id);
        let rb = self.ensure_locked(n.b);
        if !there {
            let re = self.ensure_locked(expected);
            self.asm.mov_rr(Width::W64, Gpr::Rax, re);
        }
        self.asm.lock_cmpxchg(n.w, mem, rb);
        if n.w == Width::W32 {
            // On success the processor leaves the upper half alone.
            self.asm.mov_rr(Width::W32, Gpr::Rax, Gpr::Rax);
        }
        self.release(expected);
        self.release(n.a);
        self.release(n.b);
        self.bind(id, Gpr::Rax);
    }

    /// What the processor has no single instruction for.
    fn fetch_loop(&mut self, id: Id, n: Node, alu: Alu) {
        self.take_fixed(Gpr::Rax);
        let mem = self.mem_of(id);
        let rb = self.ensure_locked(n.b);
        let t = self.alloc(NO_HINT, false);
        let again = self.asm.label();
        self.asm.load(n.size, Gpr::Rax, mem);
        self.asm.bind(again);
        self.asm.mov_rr(n.w, t, Gpr::Rax);
        self.asm.alu_rr(alu, n.w, t, rb);
        self.asm.lock_cmpxchg(n.w, mem, t);
        self.asm.jcc(Cond::Ne, again);
        if n.w == Width::W32 {
            self.asm.mov_rr(Width::W32, Gpr::Rax, Gpr::Rax);
        }
        self.release(n.a);
        self.release(n.b);
        self.bind(id, Gpr::Rax);
    }
}

const BPF_ADD_FETCH: i32 = BPF_ADD as i32 | BPF_FETCH;

fn alu_of(op: i32) -> Alu {
    match (op & !BPF_FETCH) as u8 {
        BPF_ADD => Alu::Add,
        BPF_AND => Alu::And,
        BPF_OR => Alu::Or,
        _ => Alu::Xor,
    }
}

/// An immediate as the instruction of a size shows it.
const fn narrow(imm: i32, size: Size) -> i32 {
    match size {
        Size::B => imm as i8 as i32,
        Size::H => imm as i16 as i32,
        Size::W | Size::D => imm,
    }
}
