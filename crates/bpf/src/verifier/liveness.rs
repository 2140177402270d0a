//! Which stack slots may still be read.
//!
//! Marks are kept per function instance (a function together with the call sites that lead to it),
//! per instruction and per frame: what the instruction may read and what it must overwrite. From
//! them [`Liveness::update`] computes, backwards over the instance's instructions, which slots are
//! live. Dead slots are forgotten before states are compared.
//!
//! Kernel: `kernel/bpf/liveness.c`, v6.18.

use std::collections::HashMap;

use super::env::Env;
use super::state::State;

const FRAMES: usize = 8;

/// Call sites down to a function; the last entry is the function's first instruction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct CallChain {
    callsites: [u32; FRAMES],
    sp_starts: [u32; FRAMES],
    curframe: usize,
}

impl CallChain {
    fn of(env: &Env<'_>, st: &State, frameno: usize) -> Self {
        let mut c = Self { curframe: frameno, ..Self::default() };
        for i in 0..=frameno {
            c.sp_starts[i] = env.subprogs[st.frames[i].subprogno as usize].start;
            if i < st.curframe() {
                c.callsites[i] = st.frames[i + 1].callsite as u32;
            }
        }
        c.callsites[frameno] = c.sp_starts[frameno];
        c
    }

    fn start(&self) -> u32 {
        self.sp_starts[self.curframe]
    }

    fn key(&self) -> ([u32; FRAMES], usize) {
        (self.callsites, self.curframe)
    }

    fn outer(&self) -> Self {
        let mut c = *self;
        c.callsites[c.curframe] = 0;
        c.sp_starts[c.curframe] = 0;
        c.curframe -= 1;
        c.callsites[c.curframe] = c.sp_starts[c.curframe];
        c
    }
}

#[derive(Clone, Copy, Default)]
struct Masks {
    may_read: u64,
    must_write: u64,
    must_write_acc: u64,
    live_before: u64,
}

struct Instance {
    chain: CallChain,
    subprog: usize,
    insn_cnt: usize,
    updated: bool,
    must_write_dropped: bool,
    frames: [Vec<Masks>; FRAMES],
    must_write_set: Vec<bool>,
}

impl Instance {
    fn rel(&self, insn: u32) -> usize {
        (insn - self.chain.start()) as usize
    }

    fn masks(&self, frame: usize, insn: u32) -> Option<&Masks> {
        self.frames[frame].get(self.rel(insn))
    }

    fn alloc(&mut self, frame: usize, insn: u32) -> &mut Masks {
        let rel = self.rel(insn);
        if self.frames[frame].is_empty() {
            self.frames[frame] = vec![Masks::default(); self.insn_cnt];
        }
        &mut self.frames[frame][rel]
    }

    fn mark_read(&mut self, frame: usize, insn: u32, mask: u64) {
        let m = self.alloc(frame, insn);
        let new = m.may_read | mask;
        let changed = new != m.may_read && (new | m.live_before) != m.live_before;
        m.may_read = new;
        self.updated |= changed;
    }

    fn is_live(&self, insn: u32, frame: usize, spi: usize) -> bool {
        self.masks(frame, insn).is_some_and(|m| m.live_before & (1 << spi) != 0)
    }
}

/// All marks of a verification.
#[derive(Default)]
pub(crate) struct Liveness {
    instances: Vec<Instance>,
    index: HashMap<([u32; FRAMES], usize), usize, Fnv>,
    /// What was looked up last, which is often asked for again.
    last: usize,
    current: Option<usize>,
    write_acc: [u64; FRAMES],
    write_insn: u32,
    query: Query,
}

#[derive(Default)]
struct Query {
    instances: [usize; FRAMES],
    curframe: usize,
    insn_idx: u32,
}

impl Liveness {
    fn lookup(&mut self, env_subprogs: &[super::env::Subprog], chain: CallChain) -> usize {
        if self.instances.get(self.last).is_some_and(|i| i.chain.key() == chain.key()) {
            return self.last;
        }
        if let Some(i) = self.index.get(&chain.key()) {
            self.last = *i;
            return *i;
        }
        let subprog = super::env::containing(env_subprogs, chain.start());
        let insn_cnt = (env_subprogs[subprog + 1].start - env_subprogs[subprog].start) as usize;
        self.instances.push(Instance {
            chain,
            subprog,
            insn_cnt,
            updated: false,
            must_write_dropped: false,
            frames: Default::default(),
            must_write_set: vec![false; insn_cnt],
        });
        self.index.insert(chain.key(), self.instances.len() - 1);
        self.instances.len() - 1
    }

    fn reset_writes(&mut self, insn: u32) {
        self.write_insn = insn;
        self.write_acc = [0; FRAMES];
    }

    fn commit(&mut self, which: usize) {
        let (insn, acc) = (self.write_insn, self.write_acc);
        let inst = &mut self.instances[which];
        let rel = inst.rel(insn);
        for (frame, acc) in acc.into_iter().enumerate().take(inst.chain.curframe + 1) {
            let seen = inst.must_write_set[rel];
            if acc == 0 && !seen {
                continue;
            }
            let m = inst.alloc(frame, insn);
            let old = m.must_write;
            let mask = if seen { acc & old } else { acc };
            m.must_write = mask;
            inst.updated |= old != mask;
            // The kernel keeps the old mask in 32 bits here; slots above 31 never count as dropped.
            inst.must_write_dropped |= u64::from(old as u32) & !mask != 0;
        }
        inst.must_write_set[rel] = true;
        self.write_insn = 0;
    }
}

impl Env<'_> {
    /// Forgets which function instance is running; to be called whenever the frame changes.
    pub(super) fn live_reset_callchain(&mut self) {
        self.live.current = None;
    }

    fn live_instance(&mut self) -> usize {
        if let Some(i) = self.live.current {
            return i;
        }
        let chain = CallChain::of(self, &self.cur, self.cur.curframe());
        let i = self.live.lookup(&self.subprogs, chain);
        self.live.current = Some(i);
        i
    }

    /// The instruction may read the slots of `mask` in `frame`.
    pub(super) fn live_mark_read(&mut self, frame: u32, insn: u32, mask: u64) {
        let i = self.live_instance();
        self.live.instances[i].mark_read(frame as usize, insn, mask);
    }

    /// Starts collecting what the instruction surely overwrites.
    pub(super) fn live_reset_writes(&mut self, insn: u32) {
        self.live_instance();
        self.live.reset_writes(insn);
    }

    /// The running instruction overwrites the slots of `mask` in `frame`.
    pub(super) fn live_mark_write(&mut self, frame: u32, mask: u64) {
        self.live.write_acc[frame as usize] |= mask;
    }

    /// Ends the collection begun by [`Self::live_reset_writes`].
    pub(super) fn live_commit_writes(&mut self) {
        if let Some(i) = self.live.current {
            self.live.commit(i);
        }
    }

    /// Brings liveness up to date for the current chain of callers.
    pub(super) fn live_update(&mut self) {
        self.live_reset_callchain();
        for frame in (0..=self.cur.curframe()).rev() {
            let chain = CallChain::of(self, &self.cur, frame);
            let i = self.live.lookup(&self.subprogs, chain);
            if self.live.instances[i].updated {
                self.live_update_instance(i);
                self.live.instances[i].updated = false;
                self.live.instances[i].must_write_dropped = false;
            }
        }
    }

    fn live_update_instance(&mut self, i: usize) {
        let inst = &mut self.live.instances[i];
        let curframe = inst.chain.curframe;
        if inst.must_write_dropped {
            for f in &mut inst.frames[..=curframe] {
                f.iter_mut().for_each(|m| m.must_write_acc = 0);
            }
        }
        let start = self.subprogs[inst.subprog].postorder_start;
        let end = self.subprogs[inst.subprog + 1].postorder_start;
        let base = inst.chain.start();
        loop {
            let mut changed = false;
            for masks in &mut inst.frames[..=curframe] {
                if masks.is_empty() {
                    continue;
                }
                for insn in &self.postorder[start..end] {
                    changed |= update_insn(masks, &self.succ[*insn as usize], (*insn - base) as usize, base);
                }
            }
            if !changed {
                break;
            }
        }
        if curframe > 0 {
            self.live_propagate_outwards(i);
        }
    }

    fn live_propagate_outwards(&mut self, i: usize) {
        let chain = self.live.instances[i].chain;
        let outer = self.live.lookup(&self.subprogs, chain.outer());
        let callsite = chain.callsites[chain.curframe - 1];
        self.live.reset_writes(callsite);
        for frame in 0..chain.curframe {
            if let Some(m) = self.live.instances[i].masks(frame, chain.start()).copied() {
                self.live.write_acc[frame] |= m.must_write_acc;
                self.live.instances[outer].mark_read(frame, callsite, m.live_before);
            }
        }
        self.live.commit(outer);
    }

    /// Prepares [`Self::live_slot_alive`] for questions about `st`.
    pub(super) fn live_query(&mut self, st: &State) {
        let mut q = Query { curframe: st.curframe(), insn_idx: st.insn_idx, ..Query::default() };
        for frame in 0..=q.curframe {
            let chain = CallChain::of(self, st, frame);
            q.instances[frame] = self.live.lookup(&self.subprogs, chain);
        }
        self.live.query = q;
    }

    /// Whether the slot may still be read after the state of the last [`Self::live_query`].
    pub(super) fn live_slot_alive(&self, frameno: usize, spi: usize) -> bool {
        let q = &self.live.query;
        let here = &self.live.instances[q.instances[q.curframe]];
        if here.is_live(q.insn_idx, frameno, spi) {
            return true;
        }
        (frameno..q.curframe).any(|i| {
            let callsite = here.chain.callsites[i];
            let at = if self.aux[callsite as usize].calls_callback { callsite } else { callsite + 1 };
            self.live.instances[q.instances[i]].is_live(at, frameno, spi)
        })
    }
}

fn update_insn(masks: &mut [Masks], succ: &super::cfg::Succ, rel: usize, base: u32) -> bool {
    let succ = succ.as_slice();
    if succ.is_empty() {
        return false;
    }
    let mut after = 0;
    let mut acc = u64::MAX;
    for s in succ {
        let m = &masks[(*s - base) as usize];
        after |= m.live_before;
        acc &= m.must_write_acc;
    }
    let m = &mut masks[rel];
    acc |= m.must_write;
    let before = (after & !m.must_write) | m.may_read;
    let changed = before != m.live_before || acc != m.must_write_acc;
    m.live_before = before;
    m.must_write_acc = acc;
    changed
}

/// FNV-1a by words: the same order and speed on every run, and the keys are not hostile in number.
#[derive(Clone, Copy, Default)]
pub(crate) struct Fnv(u64);

impl std::hash::BuildHasher for Fnv {
    type Hasher = Self;
    fn build_hasher(&self) -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl std::hash::Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for w in words {
            self.write_u64(u64::from_le_bytes(*w));
        }
        for b in rest {
            self.write_u64(u64::from(*b));
        }
    }
    fn write_u64(&mut self, word: u64) {
        // The upper half takes part in what the table takes its position from.
        let mixed = (self.0 ^ word).wrapping_mul(0x0100_0000_01b3);
        self.0 = mixed ^ mixed >> 32;
    }
    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}
