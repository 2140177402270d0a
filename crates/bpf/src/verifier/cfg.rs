//! The control-flow graph: subprograms, reachability, prune points, orders, loops, live registers.
//!
//! Everything here is done once, before the first path is explored.

use uapi::Errno;
use uapi::bpf::*;

use super::env::{Env, Res, Subprog};
use crate::insn::Insn;

/// Where execution may go after an instruction: at most two places.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Succ {
    len: u8,
    items: [u32; 2],
}

impl Succ {
    pub(crate) fn as_slice(&self) -> &[u32] {
        &self.items[..usize::from(self.len)]
    }

    fn push(&mut self, to: i64) {
        self.items[usize::from(self.len)] = to as u32;
        self.len += 1;
    }
}

/// Distance of a jump, from the field where its class keeps it.
pub(crate) fn jmp_offset(insn: &Insn) -> i32 {
    if insn.code == BPF_JMP32 | BPF_JA { insn.imm } else { i32::from(insn.off) }
}

pub(crate) fn is_jmp_class(insn: &Insn) -> bool {
    insn.class() == BPF_JMP || insn.class() == BPF_JMP32
}

pub(crate) fn is_may_goto(insn: &Insn) -> bool {
    insn.code == BPF_JMP | BPF_JCOND && insn.src == 0
}

/// `BPF_LD | BPF_IMM | BPF_DW` that takes the address of a subprogram.
pub(crate) fn is_pseudo_func(insn: &Insn) -> bool {
    insn.is_ld_imm64() && insn.src == BPF_PSEUDO_FUNC
}

fn successors(insn: &Insn, idx: usize) -> Succ {
    let mut s = Succ::default();
    let (jump, fall) = if is_jmp_class(insn) {
        match insn.op() {
            BPF_EXIT => (false, false),
            BPF_JA => (true, false),
            BPF_CALL | 0xf0 => (false, true),
            _ => (true, true),
        }
    } else {
        (false, true)
    };
    if fall {
        s.push(idx as i64 + if insn.is_ld_imm64() { 2 } else { 1 });
    }
    if jump {
        s.push(idx as i64 + i64::from(jmp_offset(insn)) + 1);
    }
    s
}

const DISCOVERED: u8 = 0x10;
const EXPLORED: u8 = 0x20;
const FALLTHROUGH: u8 = 1;
const BRANCH: u8 = 2;
/// Most functions a program may have.
const MAX_SUBPROGS: usize = 256;

struct Walk {
    state: Vec<u8>,
    stack: Vec<u32>,
}

impl Env<'_> {
    /// Finds all functions: those that are called and those whose address is taken.
    pub(super) fn add_subprogs(&mut self) -> Res {
        self.add_subprog(0)?;
        for i in 0..self.insns.len() {
            let insn = self.insns[i];
            if is_pseudo_func(&insn) || insn.is_pseudo_call() {
                self.add_subprog(i as i64 + i64::from(insn.imm) + 1)?;
            } else if insn.is_kfunc_call() {
                self.add_kfunc_call(&insn)?;
            }
        }
        if let Some(at) = self.exception_callback_insn()? {
            self.add_subprog(i64::from(at))?;
            if let Some(i) = self.subprogs.iter().skip(1).position(|s| s.start == at) {
                self.exception_cb = i + 1;
                let s = &mut self.subprogs[i + 1];
                (s.is_cb, s.is_async_cb, s.is_exception_cb) = (true, true, true);
            }
        }
        if self.level2() {
            for i in 0..self.subprogs.len() {
                let start = self.subprogs[i].start;
                self.log(format_args!("func#{i} @{start}\n"));
            }
        }
        self.subprog_cnt = self.subprogs.len();
        self.subprogs.push(Subprog { start: self.insns.len() as u32, ..Subprog::default() });
        Ok(())
    }

    fn add_subprog(&mut self, off: i64) -> Res {
        if off < 0 || off >= self.insns.len() as i64 {
            return self.fail(Errno::EINVAL, format_args!("call to invalid destination\n"));
        }
        let Err(at) = self.subprogs.binary_search_by_key(&(off as u32), |s| s.start) else { return Ok(()) };
        if self.subprogs.len() >= MAX_SUBPROGS {
            return self.fail(Errno::E2BIG, format_args!("too many subprograms\n"));
        }
        self.subprogs.insert(at, Subprog { start: off as u32, ..Subprog::default() });
        Ok(())
    }

    /// Jumps stay in their function and each function ends in an exit or a jump.
    pub(super) fn check_subprogs(&mut self) -> Res {
        let mut cur = 0;
        for i in 0..self.insns.len() {
            let insn = self.insns[i];
            let (start, end) = (self.subprogs[cur].start, self.subprogs[cur + 1].start);
            if insn.is_helper_call() && insn.imm == func::TAIL_CALL {
                self.subprogs[cur].has_tail_call = true;
                self.subprogs[cur].tail_call_reachable = true;
            }
            if insn.class() == BPF_LD && (insn.mode() == BPF_ABS || insn.mode() == BPF_IND) {
                self.subprogs[cur].has_ld_abs = true;
            }
            if is_jmp_class(&insn) && insn.op() != BPF_CALL && insn.op() != BPF_EXIT {
                let off = i as i64 + i64::from(jmp_offset(&insn)) + 1;
                if off < i64::from(start) || off >= i64::from(end) {
                    return self
                        .fail(Errno::EINVAL, format_args!("jump out of range from insn {i} to {off}\n"));
                }
            }
            if i as u32 == end - 1 {
                if !insn.is_exit() && insn.code != BPF_JMP32 | BPF_JA && insn.code != BPF_JMP | BPF_JA {
                    return self.fail(Errno::EINVAL, format_args!("last insn is not an exit or jmp\n"));
                }
                if cur + 2 < self.subprogs.len() {
                    cur += 1;
                }
            }
        }
        Ok(())
    }

    /// Walks the graph depth first: everything is reachable, nothing jumps into a wide instruction.
    pub(super) fn check_cfg(&mut self) -> Res {
        let n = self.insns.len();
        let mut w = Walk { state: vec![0; n], stack: vec![0] };
        w.state[0] = DISCOVERED;
        self.walk_cfg(&mut w)?;
        if self.exception_cb != 0 {
            let at = self.subprogs[self.exception_cb].start;
            if w.state[at as usize] != EXPLORED {
                w.state[at as usize] = DISCOVERED;
                w.stack.push(at);
                self.walk_cfg(&mut w)?;
            }
        }
        let mut i = 0;
        while i < n {
            if w.state[i] != EXPLORED {
                return self.fail(Errno::EINVAL, format_args!("unreachable insn {i}\n"));
            }
            if self.insns[i].is_ld_imm64() {
                if w.state.get(i + 1) != Some(&0) {
                    return self
                        .fail(Errno::EINVAL, format_args!("jump into the middle of ldimm64 insn {i}\n"));
                }
                i += 1;
            }
            i += 1;
        }
        Ok(())
    }

    fn walk_cfg(&mut self, w: &mut Walk) -> Res {
        while let Some(&t) = w.stack.last() {
            if !self.visit_insn(w, t)? {
                w.state[t as usize] = EXPLORED;
                w.stack.pop();
            }
        }
        Ok(())
    }

    /// Follows one edge; true if there is something new to explore first.
    fn push_edge(&mut self, w: &mut Walk, t: u32, to: i64, edge: u8) -> Res<bool> {
        let st = w.state[t as usize];
        if st >= DISCOVERED | edge {
            return Ok(false);
        }
        if to < 0 || to >= self.insns.len() as i64 {
            self.log_line(t as usize, &format!("{t}: "));
            return self.fail(Errno::EINVAL, format_args!("jump out of range from insn {t} to {to}\n"));
        }
        let to = to as usize;
        if edge == BRANCH {
            self.mark_prune_jmp(to);
        }
        match w.state[to] {
            0 => {
                w.state[t as usize] = DISCOVERED | edge;
                w.state[to] = DISCOVERED;
                w.stack.push(to as u32);
                return Ok(true);
            }
            EXPLORED => w.state[t as usize] = DISCOVERED | edge,
            _ => {}
        }
        Ok(false)
    }

    fn mark_prune_jmp(&mut self, idx: usize) {
        if let Some(a) = self.aux.get_mut(idx) {
            a.prune_point = true;
            a.jmp_point = true;
        }
    }

    fn visit_insn(&mut self, w: &mut Walk, t: u32) -> Res<bool> {
        let ti = t as usize;
        let insn = self.insns[ti];
        let next = i64::from(t) + if insn.is_ld_imm64() { 2 } else { 1 };
        if is_pseudo_func(&insn) {
            return self.visit_call(w, t, next, true);
        }
        if !is_jmp_class(&insn) {
            return self.push_edge(w, t, next, FALLTHROUGH);
        }
        match insn.op() {
            BPF_EXIT => Ok(false),
            BPF_CALL => {
                self.note_call(ti, &insn);
                self.visit_call(w, t, next, insn.src == BPF_PSEUDO_CALL)
            }
            BPF_JA => {
                let to = i64::from(t) + i64::from(jmp_offset(&insn)) + 1;
                if self.push_edge(w, t, to, FALLTHROUGH)? {
                    return Ok(true);
                }
                self.mark_prune_jmp(to as usize);
                Ok(false)
            }
            _ => {
                self.aux[ti].prune_point = true;
                if is_may_goto(&insn) {
                    self.aux[ti].force_checkpoint = true;
                }
                if self.push_edge(w, t, i64::from(t) + 1, FALLTHROUGH)? {
                    return Ok(true);
                }
                self.push_edge(w, t, i64::from(t) + i64::from(insn.off) + 1, BRANCH)
            }
        }
    }

    /// What a call means for prune points and for its function's summary.
    fn note_call(&mut self, t: usize, insn: &Insn) {
        if self.is_async_callback_insn(insn) {
            self.aux[t].prune_point = true;
        }
        if self.is_sync_callback_insn(insn) {
            self.aux[t].calls_callback = true;
            self.aux[t].force_checkpoint = true;
            self.mark_prune_jmp(t);
        }
        let own = self.subprog_of(t as u32);
        if insn.is_helper_call() {
            if let Some(p) = super::protos::available(insn.imm) {
                self.subprogs[own].might_sleep |= p.might_sleep;
            }
            self.subprogs[own].changes_pkt_data |= super::protos::changes_pkt_data(insn.imm);
        } else if insn.is_kfunc_call()
            && let Some(k) = self.kfunc_of(insn)
        {
            let (next, sleep, pkt) = (k.is_iter_next(), k.sleepable(), k.changes_pkt_data());
            if next {
                self.aux[t].prune_point = true;
                self.aux[t].force_checkpoint = true;
            }
            self.subprogs[own].might_sleep |= sleep;
            self.subprogs[own].changes_pkt_data |= pkt;
        }
    }

    fn visit_call(&mut self, w: &mut Walk, t: u32, next: i64, callee: bool) -> Res<bool> {
        if self.push_edge(w, t, next, FALLTHROUGH)? {
            return Ok(true);
        }
        self.mark_prune_jmp(next as usize);
        if !callee {
            return Ok(false);
        }
        let to = i64::from(t) + i64::from(self.insns[t as usize].imm) + 1;
        self.aux[t as usize].prune_point = true;
        let (caller, callee) = (self.subprog_of(t), self.subprog_of(to as u32));
        self.subprogs[caller].changes_pkt_data |= self.subprogs[callee].changes_pkt_data;
        self.subprogs[caller].might_sleep |= self.subprogs[callee].might_sleep;
        self.push_edge(w, t, to, BRANCH)
    }

    /// Successors of every instruction and the post-order of every function.
    pub(super) fn compute_postorder(&mut self) {
        self.succ = self.insns.iter().enumerate().map(|(i, insn)| successors(insn, i)).collect();
        let mut state = vec![0u8; self.insns.len()];
        let mut order = Vec::with_capacity(self.insns.len());
        for s in 0..self.subprog_cnt {
            self.subprogs[s].postorder_start = order.len();
            let mut stack = vec![self.subprogs[s].start];
            while let Some(&top) = stack.last() {
                state[top as usize] |= DISCOVERED;
                if state[top as usize] & EXPLORED != 0 {
                    order.push(top);
                    stack.pop();
                    continue;
                }
                for &to in self.succ[top as usize].as_slice() {
                    if state[to as usize] == 0 {
                        stack.push(to);
                        state[to as usize] |= DISCOVERED;
                    }
                }
                state[top as usize] |= EXPLORED;
            }
        }
        self.subprogs[self.subprog_cnt].postorder_start = order.len();
        self.postorder = order;
    }

    /// Numbers the loops: strongly connected components of the graph, 0 for straight code.
    pub(super) fn compute_scc(&mut self) {
        let n = self.insns.len();
        let (mut pre, mut low) = (vec![0u32; n], vec![0u32; n]);
        let (mut stack, mut dfs): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
        let (mut preorder, mut scc) = (1, 1);
        for i in 0..n {
            if pre[i] != 0 {
                continue;
            }
            dfs.push(i as u32);
            'visit: while let Some(&w) = dfs.last() {
                let wi = w as usize;
                if pre[wi] == 0 {
                    (pre[wi], low[wi]) = (preorder, preorder);
                    preorder += 1;
                    stack.push(w);
                }
                // The second slot of a wide instruction leads on like any other.
                for &s in self.succ[wi].as_slice() {
                    if s as usize >= n {
                        continue;
                    }
                    if pre[s as usize] == 0 {
                        dfs.push(s);
                        continue 'visit;
                    }
                    low[wi] = low[wi].min(low[s as usize]);
                }
                dfs.pop();
                if low[wi] < pre[wi] {
                    continue;
                }
                let is_loop = stack.last() != Some(&w) || self.succ[wi].as_slice().contains(&w);
                while let Some(t) = stack.pop() {
                    low[t as usize] = u32::MAX;
                    if is_loop {
                        self.aux[t as usize].scc = scc;
                    }
                    if t == w {
                        break;
                    }
                }
                scc += u32::from(is_loop);
            }
        }
        self.scc_visits = (0..scc).map(|_| Vec::new()).collect();
    }

    /// Which registers may still be read before each instruction.
    pub(super) fn compute_live_registers(&mut self) {
        let n = self.insns.len();
        let use_def: Vec<(u16, u16)> = (0..n).map(|i| self.use_def(&self.insns[i])).collect();
        let mut live_in = vec![0u16; n];
        loop {
            let mut changed = false;
            for &i in &self.postorder {
                let i = i as usize;
                let out = self.succ[i].as_slice().iter().fold(0, |acc, s| acc | live_in[*s as usize]);
                let new = (out & !use_def[i].1) | use_def[i].0;
                changed |= new != live_in[i];
                live_in[i] = new;
            }
            if !changed {
                break;
            }
        }
        for (a, l) in self.aux.iter_mut().zip(&live_in) {
            a.live_regs_before = *l;
        }
        if self.level2() {
            self.log_live_regs();
        }
    }

    fn log_live_regs(&mut self) {
        self.log(format_args!("Live regs before insn:\n"));
        let mut i = 0;
        while i < self.insns.len() {
            let (scc, live) = (self.aux[i].scc, self.aux[i].live_regs_before);
            let scc = if scc == 0 { "    ".to_owned() } else { format!("{scc:3} ") };
            let regs: String =
                (0..10u8).map(|j| if live & (1 << j) != 0 { char::from(b'0' + j) } else { '.' }).collect();
            let text = self.disasm(i);
            self.log(format_args!("{scc}{i:3}: {regs} {text}\n"));
            i += if self.insns[i].is_ld_imm64() { 2 } else { 1 };
        }
    }

    /// Registers that an instruction reads and those that it sets.
    fn use_def(&self, insn: &Insn) -> (u16, u16) {
        let (src, dst) = (1u16 << insn.src, 1u16 << insn.dst);
        let both = src | dst;
        match insn.class() {
            BPF_LD if insn.is_ld_imm64() => (0, dst),
            BPF_LDX if matches!(insn.mode(), BPF_MEM | BPF_MEMSX) => (src, dst),
            BPF_ST if insn.mode() == BPF_MEM => (dst, 0),
            BPF_STX if insn.mode() == BPF_MEM => (both, 0),
            BPF_STX if insn.mode() == BPF_ATOMIC => match insn.imm {
                BPF_CMPXCHG => (1 | both, 1),
                BPF_LOAD_ACQ => (src, dst),
                BPF_STORE_REL => (both, 0),
                imm if imm & BPF_FETCH != 0 => (both, src),
                _ => (both, 0),
            },
            BPF_ALU | BPF_ALU64 => match (insn.op(), insn.is_src_reg()) {
                (BPF_END, _) => (dst, dst),
                (BPF_MOV, true) => (src, dst),
                (BPF_MOV, false) => (0, dst),
                (_, true) => (both, dst),
                (_, false) => (dst, dst),
            },
            BPF_JMP | BPF_JMP32 => match (insn.op(), insn.is_src_reg()) {
                (BPF_JA | BPF_JCOND, _) => (0, 0),
                (BPF_EXIT, _) => (1, 0),
                (BPF_CALL, _) => {
                    let params = self.call_params(insn).unwrap_or(5);
                    (((1u16 << (params + 1)) - 1) & !1, 0x3f)
                }
                (_, true) => (both, 0),
                (_, false) => (dst, 0),
            },
            _ => (u16::MAX, 0),
        }
    }

    /// Number of parameters of a helper or kfunc, where that is known.
    fn call_params(&self, insn: &Insn) -> Option<u32> {
        if insn.is_helper_call() {
            return super::protos::available(insn.imm).map(|p| p.nargs() as u32);
        }
        if insn.is_kfunc_call() {
            return self.kfunc_of(insn).map(|k| k.params.len() as u32);
        }
        None
    }
}
