//! What of a trace is needed, how often, and in whose instruction.
//!
//! One pass from the end to the beginning: a node comes after all that use it. It counts uses, sees
//! which loads can be memory operands and which read-modify-write sequences one instruction, what only
//! a way out needs, what lives across calls, and which register would suit each value.

use super::asm::{Cond, Gpr, Size, Width};
use super::cpu::Features;
use super::facts::Class;
use super::fold::width_bits;
use super::node::{
    CROSSES, FOLDED, Graph, Id, KEPT, LAZY, MAIN, NO_HINT, Node, Op, STORES_IMM, Test, UPDATE,
};
use super::trace::Trace;

/// Longest chain of nodes that a way out computes by itself.
const MAX_SUNK: u8 = 6;
const NEVER: u32 = u32::MAX;

/// What is noted about a node before it is reached.
#[derive(Clone, Copy, Debug, Default)]
struct Note {
    /// The node that may take this one into its instruction.
    consumer: u32,
    /// Calls that came after its last use.
    calls: u32,
    /// Whether its hint is more than the register it was written to.
    hinted: bool,
}

/// The pass, with room that is used again.
#[derive(Debug, Default)]
pub(super) struct Uses {
    notes: Vec<Note>,
    /// Per class the next node that may change its memory.
    clobber: [u32; Class::COUNT],
    /// The next load of memory that others see too.
    shared_load: u32,
    calls: u32,
    movbe: bool,
}

/// Where ways out expect registers: the hint for each BPF register, per exit whether it is fixed.
pub(super) struct Hints<'a> {
    /// Home of each BPF register.
    pub(super) homes: &'a [Gpr; 10],
    /// By exit: whether its target takes registers from their homes.
    pub(super) at_home: &'a [bool],
}

impl Uses {
    /// Runs the pass over a trace.
    pub(super) fn run(&mut self, t: &mut Trace, cpu: Features, hints: &Hints<'_>) {
        let n = t.graph.len();
        self.notes.clear();
        self.notes.resize(n as usize, Note::default());
        self.clobber = [NEVER; Class::COUNT];
        (self.shared_load, self.calls, self.movbe) = (NEVER, 0, cpu.movbe);
        for i in (0..n).rev() {
            self.node(t, Id(i), hints);
        }
    }

    fn node(&mut self, t: &mut Trace, id: Id, hints: &Hints<'_>) {
        let node = t.graph[id];
        if node.op.is_root() {
            t.graph[id].flags |= MAIN;
            return self.root(t, id, hints);
        }
        if node.op == Op::Store {
            if node.is(KEPT) {
                t.graph[id].flags |= MAIN;
                self.store(&mut t.graph, id);
            }
            return;
        }
        if node.uses == 0 {
            return;
        }
        self.value(&mut t.graph, id);
    }

    /// Counts one use of `id` by the node `by`.
    fn visit(&mut self, g: &mut Graph, id: Id, by: Id) {
        let (main, depth) = (g[by].is(MAIN), g[by].depth);
        let note = &mut self.notes[id.0 as usize];
        let n = &mut g[id];
        if n.uses == 0 {
            (note.calls, note.consumer) = (self.calls, by.0);
        }
        n.uses += 1;
        if main {
            n.flags |= MAIN;
        } else {
            n.depth = n.depth.max(depth + 1);
        }
    }

    fn visit_operands(&mut self, g: &mut Graph, id: Id) {
        let Node { a, b, .. } = g[id];
        for operand in [a, b] {
            if operand.is_some() {
                self.visit(g, operand, id);
            }
        }
    }

    fn hint(&mut self, g: &mut Graph, id: Id, reg: Gpr) {
        let note = &mut self.notes[id.0 as usize];
        if !note.hinted {
            note.hinted = true;
            g[id].hint = reg.n();
        }
    }

    fn root(&mut self, t: &mut Trace, id: Id, hints: &Hints<'_>) {
        let node = t.graph[id];
        match node.op {
            Op::Return => {
                self.hint(&mut t.graph, node.a, Gpr::Rax);
                self.visit(&mut t.graph, node.a, id);
            }
            Op::Jump | Op::Branch | Op::MayGoto => {
                self.exit(t, id, hints);
                if node.op == Op::Branch {
                    self.branch(&mut t.graph, id, t.exits[node.aux as usize].test);
                }
            }
            Op::Call => {
                self.calls += 1;
                self.fence(id);
                let site = t.calls[node.aux as usize];
                for (arg, home) in site.args.into_iter().zip(&hints.homes[1..6]) {
                    if arg.is_some() {
                        self.hint(&mut t.graph, arg, *home);
                        self.visit(&mut t.graph, arg, id);
                    }
                }
            }
            Op::HashLookup => {
                self.calls += 1;
                let key = if node.b.is_some() { node.b } else { node.a };
                if node.b.is_some() || node.imm == 0 {
                    self.hint(&mut t.graph, key, super::hash::KEY);
                }
                self.visit(&mut t.graph, key, id);
            }
            Op::Atomic => {
                self.fence(id);
                let site = t.atomics[node.aux as usize];
                if site.op == uapi::bpf::BPF_CMPXCHG {
                    self.hint(&mut t.graph, site.expected, Gpr::Rax);
                    self.visit(&mut t.graph, site.expected, id);
                }
                self.visit_operands(&mut t.graph, id);
            }
            _ => unreachable!("{:?} is no root", node.op),
        }
    }

    fn fence(&mut self, id: Id) {
        self.clobber = [id.0; Class::COUNT];
        self.shared_load = id.0;
    }

    fn exit(&mut self, t: &mut Trace, id: Id, hints: &Hints<'_>) {
        let number = t.graph[id].aux as usize;
        let exit = t.exits[number];
        let sunk = t.graph[id].op != Op::Jump;
        for (r, out) in t.outs(&exit) {
            if hints.at_home[number] {
                self.hint(&mut t.graph, out, hints.homes[r as usize]);
            }
            if sunk {
                // Not yet for the usual path: whoever else needs it there says so.
                t.graph[id].flags &= !MAIN;
            }
            self.visit(&mut t.graph, out, id);
            t.graph[id].flags |= MAIN;
        }
    }

    fn branch(&mut self, g: &mut Graph, id: Id, test: Test) {
        let n = g[id];
        let compares = matches!(test, Test::Compare(_));
        let in_b = n.b.is_some() && compares && is_wide_load(g, n.b, n.w);
        let in_a = match g[n.a].op {
            Op::Load if n.b.is_some() => !in_b && is_wide_load(g, n.a, n.w),
            Op::Load => test_of_memory(&g[n.a], test, n.w, n.imm),
            _ => false,
        };
        self.visit_operands(g, id);
        if in_b {
            self.offer(g, n.b, id);
        } else if in_a {
            self.offer(g, n.a, id);
        }
    }

    /// Notes that `by` could take a load into its instruction. Whether it does is decided at the load.
    fn offer(&mut self, g: &mut Graph, load: Id, by: Id) {
        if g[load].uses == 1 {
            g[load].flags |= FOLDED;
            self.notes[load.0 as usize].consumer = by.0;
        }
    }

    fn store(&mut self, g: &mut Graph, id: Id) {
        let n = g[id];
        if matches!(n.mem, Class::Unknown) {
            self.clobber = [id.0; Class::COUNT];
        } else {
            self.clobber[n.mem as usize] = id.0;
            self.clobber[Class::Unknown as usize] = id.0;
        }
        if n.is(STORES_IMM) {
            return self.visit(g, n.a, id);
        }
        let fresh = g[n.b].uses == 0;
        self.visit_operands(g, id);
        let v = g[n.b];
        let swapped = v.op == Op::Bswap && v.imm == i64::from(n.size.bytes()) * 8;
        if fresh && swapped && self.movbe {
            g[n.b].flags |= FOLDED;
        } else if fresh && is_update(g, &n, &v) {
            // A request; it holds if the load agrees.
            g[n.b].flags |= UPDATE;
        }
    }

    fn value(&mut self, g: &mut Graph, id: Id) {
        let n = g[id];
        let lazy = n.is(LAZY)
            || matches!(n.op, Op::Const | Op::Frame | Op::Undef | Op::Input)
            || (n.op == Op::Add && n.b == Id::NONE && n.w == Width::W64);
        if lazy {
            g[id].flags |= LAZY | MAIN;
        }
        let is_load = n.op == Op::Load;
        if !n.is(MAIN) && (is_load || n.uses > 1 || n.depth > MAX_SUNK) {
            g[id].flags |= MAIN;
        }
        if self.notes[id.0 as usize].calls != self.calls {
            g[id].flags |= CROSSES;
        }
        let requested = n.is(UPDATE) && n.uses == 1;
        g[id].flags &= !UPDATE;
        if is_load {
            self.load(g, id);
        } else if n.uses > 1 {
            g[id].flags &= !FOLDED;
        }
        self.pass_hint(g, id);
        self.visit_operands(g, id);
        if requested {
            self.request_update(g, id);
        } else if g[id].flags & (MAIN | LAZY | FOLDED) == MAIN {
            self.operands_in_memory(g, id);
        }
        if is_load {
            self.address_parts(g, id);
        }
    }

    /// What a two-operand instruction overwrites would best be where its result is wanted.
    fn pass_hint(&mut self, g: &mut Graph, id: Id) {
        let n = g[id];
        let note = self.notes[id.0 as usize];
        let overwrites = !matches!(
            n.op,
            Op::Load | Op::Const | Op::Frame | Op::Undef | Op::Input | Op::RunField | Op::Select | Op::Slot
        );
        if overwrites && note.hinted && n.a.is_some() && n.hint != NO_HINT {
            self.hint(g, n.a, Gpr::from_number(n.hint));
        }
    }

    /// Decides about a load that another node offered to take in.
    fn load(&mut self, g: &mut Graph, id: Id) {
        let n = g[id];
        let consumer = self.notes[id.0 as usize].consumer;
        let shared = matches!(n.mem, Class::Unknown | Class::Map | Class::Other);
        let moved = self.clobber[n.mem as usize] < consumer
            || (n.mem == Class::Unknown && self.clobber.iter().any(|c| *c < consumer))
            || (shared && self.shared_load < consumer);
        if n.is(FOLDED) && (n.uses > 1 || moved) {
            g[id].flags &= !FOLDED;
        } else if n.is(FOLDED) && g[Id(consumer)].op == Op::Store {
            let v = g[Id(consumer)].b;
            g[v].flags |= FOLDED;
            g[Id(consumer)].flags |= UPDATE;
        }
        if shared {
            self.shared_load = id.0;
        }
    }

    /// `load op x` that is stored to where the load was.
    fn request_update(&mut self, g: &mut Graph, id: Id) {
        let n = g[id];
        let store = Id(self.notes[id.0 as usize].consumer);
        let s = g[store];
        let same = |x: Id| x.is_some() && is_same_place(&g[x], &s) && g[x].uses == 1;
        let load = if same(n.a) { n.a } else { n.b };
        if load.is_some() && same(load) && (load == n.a || n.op.commutes()) {
            g[load].flags |= FOLDED;
            self.notes[load.0 as usize].consumer = store.0;
        }
    }

    fn operands_in_memory(&mut self, g: &mut Graph, id: Id) {
        let n = g[id];
        match n.op {
            Op::Add | Op::Sub | Op::Mul | Op::And | Op::Or | Op::Xor if n.b.is_some() => {
                if is_wide_load(g, n.b, n.w) && g[n.b].uses == 1 {
                    self.offer(g, n.b, id);
                } else if n.op.commutes() && is_wide_load(g, n.a, n.w) {
                    self.offer(g, n.a, id);
                }
            }
            Op::Sext if g[n.a].op == Op::Load && i64::from(g[n.a].size.bytes()) * 8 == n.imm => {
                self.offer(g, n.a, id);
            }
            Op::Bswap
                if self.movbe
                    && n.imm >= 32
                    && g[n.a].op == Op::Load
                    && i64::from(g[n.a].size.bytes()) * 8 == n.imm =>
            {
                self.offer(g, n.a, id);
            }
            _ => {}
        }
    }

    /// A sum that is only the base of one access is computed by that access.
    fn address_parts(&mut self, g: &mut Graph, id: Id) {
        let base = g[id].a;
        let sum = g[base];
        if sum.op == Op::Add && sum.w == Width::W64 && sum.b.is_some() && sum.uses == 1 {
            g[base].flags |= LAZY;
        }
    }
}

/// Whether an instruction of this width can take the load as its memory operand.
fn is_wide_load(g: &Graph, id: Id, w: Width) -> bool {
    let n = &g[id];
    n.op == Op::Load
        && match w {
            Width::W64 => n.size == Size::D,
            Width::W32 => matches!(n.size, Size::W | Size::D),
        }
}

/// Whether a comparison with a constant can read memory by itself.
fn test_of_memory(load: &Node, test: Test, w: Width, imm: i64) -> bool {
    let bits = load.size.bytes() * 8;
    let unsigned = match test {
        Test::Compare(c) => {
            matches!(c, Cond::E | Cond::Ne | Cond::B | Cond::Be | Cond::A | Cond::Ae)
        }
        Test::AnyBit | Test::NoBit => true,
    };
    match (test, load.size) {
        (Test::Compare(_), Size::B) => unsigned && (0..256).contains(&imm),
        (Test::Compare(_), Size::H) => unsigned && (0..128).contains(&imm),
        (Test::Compare(_), Size::W | Size::D) => bits == width_bits(w),
        (_, Size::B) => (0..256).contains(&imm),
        (_, Size::W) => w == Width::W32,
        (_, Size::H | Size::D) => false,
    }
}

/// Whether `v` may be what a read-modify-write instruction in place of the store computes.
fn is_update(g: &Graph, store: &Node, v: &Node) -> bool {
    let computes = matches!(v.op, Op::Add | Op::Sub | Op::And | Op::Or | Op::Xor);
    let wide_enough = store.size != Size::D || v.w == Width::W64;
    let short = store.size != Size::H || v.b.is_some() || (-128..128).contains(&v.imm);
    let found = |x: Id| x.is_some() && is_same_place(&g[x], store);
    computes && wide_enough && short && (found(v.a) || (v.op.commutes() && found(v.b)))
}

fn is_same_place(load: &Node, store: &Node) -> bool {
    load.op == Op::Load && load.a == store.a && load.imm == store.imm && load.size == store.size
}
