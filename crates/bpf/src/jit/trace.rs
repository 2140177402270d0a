//! From instructions to a trace of nodes.
//!
//! A trace follows control as long as each block has one way in, so that what is known at its end is
//! known at the next one's beginning. Branches are ways out of it. Registers are names of nodes: a move
//! costs nothing, and what nobody reads is never computed.

use uapi::bpf::*;

use super::asm::{Cond, Size, Width};
use super::cfg::{BlockId, Flow, arguments, flow};
use super::facts::Class;
use super::inline::plan;
use super::memlog::MemLog;
use super::node::{Graph, Id, Node, Op, Test};
use super::{Compiler, JitError};
use crate::insn::Insn;
use crate::maps::Layout;

/// Most instructions of a trace.
const TRACE_INSNS: u32 = 1024;

/// A way out of a trace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exit {
    /// Where to.
    pub(super) target: BlockId,
    /// When, of a branch.
    pub(super) test: Test,
    /// Registers that the target reads; their nodes stand in [`Trace::outs`] from `first` on.
    pub(super) regs: u16,
    /// See `regs`.
    pub(super) first: u32,
}

/// What is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Callee {
    /// A helper by number.
    Helper(i32),
    /// A kernel function by its position in the program's list.
    Kfunc(i32),
    /// A function of the program by number.
    Local(u32),
}

/// A call.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallSite {
    /// What is called.
    pub(super) callee: Callee,
    /// R1 to R5; [`Id::NONE`] where nothing is passed.
    pub(super) args: [Id; 5],
    /// Instruction.
    pub(super) insn: u32,
}

/// An atomic operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct AtomicSite {
    /// `BPF_ADD | BPF_FETCH` and so on.
    pub(super) op: i32,
    /// What `BPF_CMPXCHG` compares with.
    pub(super) expected: Id,
}

/// A trace under construction, and then being emitted.
#[derive(Debug, Default)]
pub(super) struct Trace {
    /// Values and effects in order.
    pub(super) graph: Graph,
    /// Ways out.
    pub(super) exits: Vec<Exit>,
    /// Nodes that ways out pass on.
    pub(super) outs: Vec<Id>,
    /// Calls.
    pub(super) calls: Vec<CallSite>,
    /// Atomic operations.
    pub(super) atomics: Vec<AtomicSite>,
    /// R0 to R10 where the instruction being read stands.
    regs: [Id; 11],
    /// Stores to the stack that may turn out to be needed, and other accesses.
    pub(super) log: MemLog,
    /// The number of the CPU, once it has been read.
    pub(super) cpu: Id,
    /// `xdp_md` fields that have been read since the last call.
    ctx_fields: [Id; 6],
}

impl Default for Id {
    fn default() -> Self {
        Self::NONE
    }
}

impl Trace {
    /// An empty one, which notes the instructions that nodes come from if there is to be a `listing`.
    pub(super) fn new(listing: bool) -> Self {
        let mut trace = Self::default();
        trace.graph.origins = listing.then(Vec::new);
        trace
    }

    /// Nodes that a way out passes on, with the registers they are passed in.
    pub(super) fn outs(&self, exit: &Exit) -> impl Iterator<Item = (u8, Id)> + use<> {
        let (regs, first) = (exit.regs, exit.first as usize);
        let ids: [Id; 10] = {
            let mut ids = [Id::NONE; 10];
            let n = regs.count_ones() as usize;
            ids[..n].copy_from_slice(&self.outs[first..first + n]);
            ids
        };
        (0..10).filter(move |r| regs >> r & 1 != 0).zip(ids)
    }

    /// Sets what a register holds when the trace begins.
    pub(super) fn set_reg(&mut self, r: u8, id: Id) {
        self.regs[r as usize] = id;
    }
}

/// A comparison of a node with 0.
#[derive(Clone, Copy)]
struct ZeroTest {
    tested: Id,
    /// What it is then known to be, if it is 0 and if it is not.
    zero: Id,
    other: Id,
    taken_if_zero: bool,
}

/// Where the trace goes on after a block.
enum Next {
    Block(BlockId),
    End,
}

impl Compiler<'_> {
    /// Builds the trace that starts with a block.
    pub(super) fn build_trace(&mut self, head: BlockId) -> Result<(), JitError> {
        self.begin_trace(head);
        let mut b = head;
        let mut room = TRACE_INSNS;
        loop {
            let block = self.cfg.blocks[b as usize];
            self.state[b as usize].emitted |= block.ret.is_none();
            room = room.saturating_sub(block.end - block.start);
            match self.block(b, room > 0)? {
                Next::Block(next) => b = next,
                Next::End => return Ok(()),
            }
        }
    }

    fn begin_trace(&mut self, head: BlockId) {
        let t = &mut self.trace;
        t.graph.clear();
        t.exits.clear();
        t.outs.clear();
        t.calls.clear();
        t.atomics.clear();
        t.log.clear();
        t.ctx_fields = [Id::NONE; 6];
        t.cpu = Id::NONE;
        t.graph.push(Node::new(Op::Undef, Width::W64));
        t.graph.frame(0);
        t.regs = [Id::UNDEF; 11];
        t.regs[10] = Id::FRAME;
        self.enter_block(head);
    }

    fn reg(&self, r: u8) -> Id {
        self.trace.regs[r as usize & 15]
    }

    fn set(&mut self, r: u8, id: Id) {
        self.trace.regs[r as usize & 15] = id;
    }

    /// Reads a block's instructions; `extend` tells whether the trace may go on after it.
    fn block(&mut self, b: BlockId, extend: bool) -> Result<Next, JitError> {
        let block = self.cfg.blocks[b as usize];
        if !self.source.facts.insn(block.start).reached {
            // What comes after `bpf_throw`, for example.
            let zero = self.trace.graph.konst(0);
            return Ok(self.return_node(zero));
        }
        let mut i = block.start;
        while i < block.end {
            let insn = self.source.insns[i as usize];
            self.trace.graph.at = i;
            match flow(insn, i, &self.source.facts) {
                Flow::Next if insn.is_ld_imm64() => {
                    self.load_imm64(insn, i)?;
                    i += 1;
                }
                Flow::Next => self.insn(insn, i)?,
                Flow::Goto(_) => {}
                Flow::Branch(_) => return self.branch(insn, b, extend),
                Flow::Exit => return Ok(self.return_node(self.reg(0))),
            }
            i += 1;
        }
        Ok(self.go_on(block.fall, extend))
    }

    fn return_node(&mut self, value: Id) -> Next {
        let mut n = Node::new(Op::Return, Width::W64);
        n.a = value;
        self.trace.graph.push(n);
        Next::End
    }

    /// Whether the trace may take in a block.
    fn can_take(&self, b: BlockId) -> bool {
        let (state, block) = (&self.state[b as usize], &self.cfg.blocks[b as usize]);
        block.ret.is_some() || (block.preds == 1 && !state.emitted && state.entry.is_none())
    }

    fn go_on(&mut self, to: BlockId, extend: bool) -> Next {
        if self.can_take(to) && (extend || self.cfg.blocks[to as usize].ret.is_some()) {
            return Next::Block(to);
        }
        let exit = self.exit(to, Test::AnyBit);
        let mut n = Node::new(Op::Jump, Width::W64);
        n.aux = exit;
        self.trace.graph.push(n);
        Next::End
    }

    /// A way out to a block, with everything that the block needs.
    fn exit(&mut self, target: BlockId, test: Test) -> u32 {
        let live = self.cfg.blocks[target as usize].live_in;
        let t = &mut self.trace;
        let first = t.outs.len() as u32;
        for r in (0..10).filter(|r| live.regs >> r & 1 != 0) {
            t.outs.push(t.regs[r]);
        }
        t.log.leave(&mut t.graph, live.stack);
        t.exits.push(Exit { target, test, regs: live.regs & 0x3ff, first });
        t.exits.len() as u32 - 1
    }

    fn branch(&mut self, insn: Insn, b: BlockId, extend: bool) -> Result<Next, JitError> {
        let block = self.cfg.blocks[b as usize];
        let w = if insn.class() == BPF_JMP32 { Width::W32 } else { Width::W64 };
        if insn.op() == BPF_JCOND {
            self.push_branch(Op::MayGoto, block.taken, (Test::AnyBit, w, Id::NONE, Id::NONE));
            return Ok(self.go_on(block.fall, extend));
        }
        let test = test_of(insn).ok_or(JitError::Unsupported { insn: block.end - 1, what: "jump" })?;
        let a = self.reg(insn.dst);
        let other = if insn.is_src_reg() {
            self.reg(insn.src)
        } else {
            self.trace.graph.konst(insn.imm as i64 as u64)
        };
        let decided = self.trace.graph.decided(test, w, a, other);
        if let Some(taken) = decided {
            return Ok(self.go_on(if taken { block.taken } else { block.fall }, extend));
        }
        // Go on where nothing else comes in, and leave where something does.
        let (mut test, mut out, mut on) = (test, block.taken, block.fall);
        let returns = |b: BlockId| self.cfg.blocks[b as usize].ret.is_some();
        if extend && !returns(out) && self.can_take(out) && (returns(on) || !self.can_take(on)) {
            (test, out, on) = (test.negated(), on, out);
        }
        self.push_branch(Op::Branch, out, (test, w, a, other));
        Ok(self.go_on(on, extend))
    }

    fn push_branch(&mut self, op: Op, target: BlockId, (test, w, a, b): (Test, Width, Id, Id)) {
        let zero = if op == Op::Branch { self.zero_test(test, w, a, b) } else { None };
        let (test, w, a, b, imm) = match op {
            Op::Branch => self.trace.graph.comparison(test, w, a, b),
            _ => (test, w, a, b, 0),
        };
        let before = self.trace.regs;
        if let Some(z) = zero {
            self.rename(z.tested, if z.taken_if_zero { z.zero } else { z.other });
        }
        let exit = self.exit(target, test);
        self.trace.regs = before;
        if let Some(z) = zero {
            self.rename(z.tested, if z.taken_if_zero { z.other } else { z.zero });
        }
        let mut n = Node::new(op, w);
        (n.a, n.b, n.imm, n.aux) = (a, b, imm, exit);
        self.trace.graph.push(n);
    }

    /// What a comparison with 0 tells about the number compared.
    fn zero_test(&mut self, test: Test, w: Width, a: Id, b: Id) -> Option<ZeroTest> {
        let g = &mut self.trace.graph;
        let whole = w == Width::W64 || g.bits(a) <= 32;
        let (Test::Compare(cond @ (Cond::E | Cond::Ne)), Some(0), true) = (test, g.constant(b), whole) else {
            return None;
        };
        let other = if g[a].op == Op::Select { g[a].a } else { a };
        Some(ZeroTest { tested: a, zero: g.konst(0), other, taken_if_zero: cond == Cond::E })
    }

    /// Lets all registers that hold one node hold another.
    fn rename(&mut self, from: Id, to: Id) {
        for r in self.trace.regs[..10].iter_mut().filter(|r| **r == from) {
            *r = to;
        }
    }

    fn load_imm64(&mut self, insn: Insn, i: u32) -> Result<(), JitError> {
        let high = self.source.insns[i as usize + 1].imm;
        let unknown = JitError::Unsupported { insn: i, what: "64-bit constant" };
        let map = |index: i32| usize::try_from(index).ok().and_then(|m| self.source.maps.get(m));
        let (value, class) = match insn.src {
            0 => ((insn.imm as u32 as u64) | (high as u32 as u64) << 32, Class::Unknown),
            BPF_PSEUDO_MAP_IDX => (map(insn.imm).ok_or(unknown)?.handle, Class::Unknown),
            BPF_PSEUDO_MAP_IDX_VALUE => {
                let Some(Layout::Array { base, .. }) = map(insn.imm).map(|m| m.layout) else {
                    return Err(unknown);
                };
                (base.wrapping_add(high as u32 as u64), Class::Map)
            }
            _ => return Err(unknown),
        };
        let id = self.trace.graph.konst(value);
        self.trace.graph[id].class = class;
        self.set(insn.dst, id);
        Ok(())
    }

    fn insn(&mut self, insn: Insn, i: u32) -> Result<(), JitError> {
        match insn.class() {
            BPF_ALU | BPF_ALU64 => self.alu(insn, i),
            BPF_LDX => self.load(insn, i),
            BPF_ST | BPF_STX if insn.mode() == BPF_MEM => self.store(insn, i),
            BPF_STX if insn.mode() == BPF_ATOMIC => self.atomic(insn, i),
            BPF_JMP if insn.op() == BPF_CALL => self.call(insn, i),
            _ => Err(JitError::Unsupported { insn: i, what: "instruction" }),
        }
    }

    fn alu(&mut self, insn: Insn, i: u32) -> Result<(), JitError> {
        let w = if insn.class() == BPF_ALU { Width::W32 } else { Width::W64 };
        let a = self.reg(insn.dst);
        let imm = insn.imm as i64 as u64;
        let unsupported = JitError::Unsupported { insn: i, what: "arithmetic" };
        let id = match insn.op() {
            BPF_MOV if !insn.is_src_reg() => {
                let v = if w == Width::W32 { u64::from(imm as u32) } else { imm };
                self.trace.graph.konst(v)
            }
            BPF_MOV => {
                let s = self.reg(insn.src);
                let g = &mut self.trace.graph;
                match (insn.off, w) {
                    (0, Width::W64) => s,
                    (0, Width::W32) => g.zext(s),
                    (8 | 16 | 32, _) => g.sext(w, insn.off as u8, s),
                    _ => return Err(unsupported),
                }
            }
            BPF_NEG => self.trace.graph.neg(w, a),
            BPF_END => {
                let n = insn.imm as u8;
                let swaps = w == Width::W64 || insn.is_src_reg();
                let g = &mut self.trace.graph;
                match (insn.imm, swaps) {
                    (16 | 32 | 64, true) => g.bswap(n, a),
                    (16 | 32 | 64, false) => g.truncate(n, a),
                    _ => return Err(unsupported),
                }
            }
            _ => {
                let op = alu_op(insn).ok_or(unsupported)?;
                if insn.is_src_reg() {
                    let b = self.reg(insn.src);
                    self.binary(op, w, a, b)
                } else {
                    self.trace.graph.bin_imm(op, w, a, imm)
                }
            }
        };
        self.set(insn.dst, id);
        Ok(())
    }

    /// `a op b`; a number that is put together from bytes of memory is loaded at once instead.
    fn binary(&mut self, op: Op, w: Width, a: Id, b: Id) -> Id {
        let t = &mut self.trace;
        if matches!(op, Op::Or | Op::Add | Op::Xor)
            && let Some(id) = t.log.join(&mut t.graph, op, w, a, b)
        {
            return id;
        }
        t.graph.bin(op, w, a, b)
    }

    /// The class of a pointer where an instruction uses it.
    fn class_at(&mut self, base: Id, i: u32) -> Class {
        let known = self.trace.graph[base].class;
        if known != Class::Unknown {
            return known;
        }
        let fact = self.source.facts.class(i);
        self.trace.graph[base].class = fact;
        fact
    }

    fn load(&mut self, insn: Insn, i: u32) -> Result<(), JitError> {
        let signed = match insn.mode() {
            BPF_MEM => false,
            BPF_MEMSX => true,
            _ => return Err(JitError::Unsupported { insn: i, what: "load" }),
        };
        let base = self.reg(insn.src);
        let class = self.class_at(base, i);
        if class == Class::Ctx {
            let id = self.ctx_field(base, insn, i)?;
            self.set(insn.dst, id);
            return Ok(());
        }
        let size = Size::from_bytes(insn.access_size());
        let escapes = self.frame_escapes();
        let t = &mut self.trace;
        let (base, disp) = t.graph.address(base, i64::from(insn.off));
        let mut id = t.log.load(&mut t.graph, size, (base, disp, class), escapes);
        if signed {
            id = t.graph.sext(Width::W64, size.bytes() * 8, id);
        }
        self.set(insn.dst, id);
        Ok(())
    }

    /// A field of `struct xdp_md`, from the buff behind it.
    fn ctx_field(&mut self, base: Id, insn: Insn, i: u32) -> Result<Id, JitError> {
        let unsupported = JitError::Unsupported { insn: i, what: "context field" };
        let (base, offset) = self.trace.graph.address(base, i64::from(insn.off));
        if offset % 4 != 0 || insn.access_size() != 4 || insn.mode() != BPF_MEM {
            return Err(unsupported);
        }
        let field = usize::try_from(offset / 4).ok().filter(|f| *f < 6).ok_or(unsupported)?;
        if self.trace.ctx_fields[field].is_some() {
            return Ok(self.trace.ctx_fields[field]);
        }
        let abi = &self.source.abi;
        let (first, then) = [
            (abi.data, None),
            (abi.data_end, None),
            (abi.data_meta, None),
            (abi.rxq, Some(abi.rxq_ifindex)),
            (abi.rxq, Some(abi.rxq_queue_index)),
            (abi.txq, Some(abi.txq_ifindex)),
        ][field];
        let g = &mut self.trace.graph;
        let mut id = g.load(Size::D, base, i64::from(first), Class::Ctx);
        match then {
            Some(then) => id = g.load(Size::W, id, i64::from(then), Class::Ctx),
            None => g[id].class = Class::Packet,
        }
        self.trace.ctx_fields[field] = id;
        Ok(id)
    }

    fn store(&mut self, insn: Insn, i: u32) -> Result<(), JitError> {
        let base = self.reg(insn.dst);
        let class = self.class_at(base, i);
        let escapes = self.frame_escapes();
        let value = match insn.class() {
            BPF_STX => self.reg(insn.src),
            _ => self.trace.graph.konst(insn.imm as i64 as u64),
        };
        let size = Size::from_bytes(insn.access_size());
        let t = &mut self.trace;
        let (base, disp) = t.graph.address(base, i64::from(insn.off));
        t.log.store(&mut t.graph, size, (base, disp, class), value, escapes);
        Ok(())
    }

    pub(super) fn frame_escapes(&self) -> bool {
        self.cfg.functions[self.function.number as usize].frame_escapes
    }

    fn atomic(&mut self, insn: Insn, i: u32) -> Result<(), JitError> {
        let known = [BPF_ADD, BPF_AND, BPF_OR, BPF_XOR].map(i32::from);
        let simple = known.contains(&(insn.imm & !BPF_FETCH));
        let ordered = matches!(insn.imm, BPF_LOAD_ACQ | BPF_STORE_REL);
        let size = Size::from_bytes(insn.access_size());
        let sized = matches!(size, Size::W | Size::D) || ordered;
        if !sized || !(simple || ordered || matches!(insn.imm, BPF_XCHG | BPF_CMPXCHG)) {
            return Err(JitError::Unsupported { insn: i, what: "atomic operation" });
        }
        let is_load = insn.imm == BPF_LOAD_ACQ;
        let base = self.reg(if is_load { insn.src } else { insn.dst });
        let operand = if is_load { Id::UNDEF } else { self.reg(insn.src) };
        let class = self.class_at(base, i);
        let escapes = self.frame_escapes();
        let site = AtomicSite { op: insn.imm, expected: self.reg(0) };
        let t = &mut self.trace;
        let (base, disp) = t.graph.address(base, i64::from(insn.off));
        t.log.atomic(&mut t.graph, base, class, escapes);
        t.atomics.push(site);
        let mut n = Node::new(Op::Atomic, if size == Size::D { Width::W64 } else { Width::W32 });
        (n.a, n.b, n.imm, n.aux) = (base, operand, disp, t.atomics.len() as u32 - 1);
        (n.size, n.mem, n.bits) = (size, class, size.bytes() * 8);
        let id = t.graph.push(n);
        match insn.imm {
            BPF_CMPXCHG => self.set(0, id),
            BPF_LOAD_ACQ => self.set(insn.dst, id),
            BPF_STORE_REL => {}
            imm if imm & BPF_FETCH != 0 => self.set(insn.src, id),
            _ => {}
        }
        Ok(())
    }

    fn call(&mut self, insn: Insn, i: u32) -> Result<(), JitError> {
        if let Some(inline) = plan(self.source, i) {
            let id = self.inline_call(inline, self.reg(2));
            self.after_call(id);
            return Ok(());
        }
        let (callee, live) = match insn.src {
            0 => (Callee::Helper(insn.imm), arguments(insn)),
            BPF_PSEUDO_CALL => {
                let start = i64::from(i) + 1 + i64::from(insn.imm);
                let number = self.source.functions.iter().position(|f| i64::from(*f) == start);
                let number = number.ok_or(JitError::Unsupported { insn: i, what: "call" })?;
                let first = self.cfg.functions[number].first;
                (Callee::Local(number as u32), self.cfg.blocks[first as usize].live_in.regs)
            }
            BPF_PSEUDO_KFUNC_CALL => (Callee::Kfunc(insn.imm), 0b11_1110),
            _ => return Err(JitError::Unsupported { insn: i, what: "call" }),
        };
        let mut args = [Id::NONE; 5];
        for (r, arg) in (1..).zip(&mut args) {
            let id = self.reg(r);
            if live >> r & 1 != 0 && id != Id::UNDEF {
                *arg = id;
            }
        }
        if callee == Callee::Helper(func::TAIL_CALL) {
            // The map is known, and perhaps the index.
            args[1] = Id::NONE;
            args[2] = if self.source.facts.insn(i).key.is_some() { Id::NONE } else { args[2] };
        }
        self.memory_of_call(callee, &args, i);
        let t = &mut self.trace;
        t.ctx_fields = [Id::NONE; 6];
        t.calls.push(CallSite { callee, args, insn: i });
        let mut n = Node::new(Op::Call, Width::W64);
        n.aux = t.calls.len() as u32 - 1;
        let id = t.graph.push(n);
        self.after_call(id);
        Ok(())
    }

    /// What a call may read and write of what the trace knows.
    fn memory_of_call(&mut self, callee: Callee, args: &[Id; 5], i: u32) {
        let escapes = self.frame_escapes();
        let map = self.source.facts.insn(i).map.and_then(|m| self.source.maps.get(m as usize));
        let reads = match (callee, map) {
            (Callee::Helper(func::MAP_LOOKUP_ELEM | func::MAP_DELETE_ELEM), Some(m)) => [m.key_size, 0],
            (Callee::Helper(func::MAP_UPDATE_ELEM), Some(m)) => [m.key_size, m.value_size],
            _ => return self.trace.log.call(&mut self.trace.graph, escapes),
        };
        let t = &mut self.trace;
        for (pointer, size) in args[1..3].iter().zip(reads) {
            if pointer.is_some() && size > 0 {
                let (base, disp) = t.graph.address(*pointer, 0);
                let class = t.graph[*pointer].class;
                t.log.read_by_call(&mut t.graph, (base, disp, class), size, escapes);
            }
        }
        t.log.fence();
    }

    /// R0 has the result, and R1 to R5 have nothing.
    fn after_call(&mut self, result: Id) {
        self.set(0, result);
        for r in 1..=5 {
            self.set(r, Id::UNDEF);
        }
    }
}

/// What a conditional jump tests.
fn test_of(insn: Insn) -> Option<Test> {
    Some(Test::Compare(match insn.op() {
        BPF_JEQ => Cond::E,
        BPF_JNE => Cond::Ne,
        BPF_JGT => Cond::A,
        BPF_JGE => Cond::Ae,
        BPF_JLT => Cond::B,
        BPF_JLE => Cond::Be,
        BPF_JSGT => Cond::G,
        BPF_JSGE => Cond::Ge,
        BPF_JSLT => Cond::L,
        BPF_JSLE => Cond::Le,
        BPF_JSET => return Some(Test::AnyBit),
        _ => return None,
    }))
}

/// The operation of an arithmetic instruction of two operands.
fn alu_op(insn: Insn) -> Option<Op> {
    Some(match (insn.op(), insn.off) {
        (BPF_ADD, _) => Op::Add,
        (BPF_SUB, _) => Op::Sub,
        (BPF_MUL, _) => Op::Mul,
        (BPF_DIV, 0) => Op::Div,
        (BPF_DIV, 1) => Op::Sdiv,
        (BPF_MOD, 0) => Op::Mod,
        (BPF_MOD, 1) => Op::Smod,
        (BPF_OR, _) => Op::Or,
        (BPF_AND, _) => Op::And,
        (BPF_XOR, _) => Op::Xor,
        (BPF_LSH, _) => Op::Shl,
        (BPF_RSH, _) => Op::Shr,
        (BPF_ARSH, _) => Op::Sar,
        _ => return None,
    })
}
