//! Finding, backwards along a path, which scalars a decision depended on.
//!
//! Kernel: `kernel/bpf/verifier.c __mark_chain_precision` and `backtrack_insn`, v6.18.

use uapi::Errno;
use uapi::bpf::*;

use super::env::{Env, Res};
use super::state::{Hist, LinkedReg, LinkedRegs, MAIN_FUNC, State, StateId, hist_flag};

const ARGS: u32 = 0b11_1110;

/// Registers and slots that are still to be followed, per frame.
#[derive(Clone, Default, Debug)]
pub(crate) struct Backtrack {
    frame: usize,
    regs: [u32; 8],
    slots: [u64; 8],
}

impl Backtrack {
    /// Asks for a spilled scalar to be followed by the next [`Env::mark_chain`].
    pub(crate) fn follow_slot(&mut self, frame: usize, spi: usize) {
        self.slots[frame] |= 1 << spi;
    }

    fn is_empty(&self) -> bool {
        (0..=self.frame).all(|f| self.regs[f] == 0 && self.slots[f] == 0)
    }

    fn set(&mut self, r: u8) {
        self.regs[self.frame] |= 1 << r;
    }

    fn clear(&mut self, r: u8) {
        self.regs[self.frame] &= !(1 << r);
    }

    fn has(&self, r: u8) -> bool {
        self.regs[self.frame] & (1 << r) != 0
    }

    fn contains(&self, e: &LinkedReg) -> bool {
        let f = usize::from(e.frameno);
        if e.is_reg { self.regs[f] & (1 << e.index) != 0 } else { self.slots[f] & (1 << e.index) != 0 }
    }

    fn sync_linked(&mut self, hist: Option<&Hist>) {
        let Some(h) = hist else { return };
        if !h.linked.as_slice().iter().any(|e| self.contains(e)) {
            return;
        }
        for e in h.linked.as_slice() {
            let f = usize::from(e.frameno);
            if e.is_reg {
                self.regs[f] |= 1 << e.index;
            } else {
                self.slots[f] |= 1 << e.index;
            }
        }
    }

    fn frame_text(&self, frame: usize) -> String {
        let list = |mask: u64, f: &dyn Fn(u32) -> String| {
            (0..64).filter(|i| mask & (1 << i) != 0).map(f).collect::<Vec<_>>().join(",")
        };
        let regs = list(u64::from(self.regs[frame]), &|i| format!("r{i}"));
        let slots = list(self.slots[frame], &|i| format!("-{}", (i + 1) * 8));
        format!("regs={regs} stack={slots}")
    }
}

/// Why following back stopped before its end.
enum Stop {
    /// The instruction cannot be followed: everything has to be precise.
    Unsupported,
    /// The verifier contradicts itself, in words.
    Bug(String),
    Failed(Errno),
}

impl Env<'_> {
    /// Notes that the running instruction is a step that backtracking must know.
    pub(super) fn push_history(&mut self, flags: u16, linked: LinkedRegs) {
        if self.hist_open
            && let Some(h) = self.cur.jmp_history.last_mut()
        {
            h.flags |= flags;
            h.linked = linked;
            return;
        }
        let (idx, prev_idx) = (self.insn_idx, self.prev_insn_idx as u32);
        self.cur.jmp_history.push(Hist { idx, prev_idx, flags, linked });
        self.hist_open = true;
    }

    /// The exact value of a register matters.
    pub(super) fn mark_precise(&mut self, regno: usize) -> Res {
        self.mark_chain(None, Some(regno)).map(|_| ())
    }

    /// Collects the precise scalars of a remembered state, to be followed by [`Self::mark_chain`].
    pub(super) fn collect_precise(&mut self, old: StateId) {
        let Some(sl) = &self.states[old.0 as usize] else { return };
        let mut text = String::new();
        for (fr, frame) in sl.state.frames.iter().enumerate().rev() {
            let mut first = true;
            let mut note = |what: String, first: &mut bool| {
                if self.opts.log_level & 2 != 0 {
                    let sep = if *first { format!("frame {fr}: propagating ") } else { ",".into() };
                    text.push_str(&(sep + &what));
                }
                *first = false;
            };
            for (i, r) in frame.regs.iter().take(10).enumerate() {
                if r.is_scalar() && r.precise {
                    self.bt.regs[fr] |= 1 << i;
                    note(format!("r{i}"), &mut first);
                }
            }
            for (i, s) in frame.stack.iter().enumerate() {
                if s.is_spilled_scalar() && s.reg.precise {
                    self.bt.slots[fr] |= 1 << i;
                    note(format!("fp{}", -(i as i32 + 1) * 8), &mut first);
                }
            }
            if !first && self.opts.log_level & 2 != 0 {
                text.push('\n');
            }
        }
        if !text.is_empty() {
            self.log(format_args!("{text}"));
        }
    }

    /// Marks everything that a register (or what was collected) depends on as precise, in the states
    /// that lead to `start` (the current state if `None`). Tells whether any mark was new.
    pub(super) fn mark_chain(&mut self, start: Option<&State>, regno: Option<usize>) -> Res<bool> {
        let mut bt = std::mem::take(&mut self.bt);
        let out = self.walk_back(start, regno, &mut bt);
        self.bt = Backtrack::default();
        out
    }

    fn walk_back(&mut self, start: Option<&State>, regno: Option<usize>, bt: &mut Backtrack) -> Res<bool> {
        let st = start.unwrap_or(&self.cur);
        bt.frame = st.curframe();
        if let Some(r) = regno {
            if !st.frame().regs[r].is_scalar() {
                return self.bug(format_args!("backtracking misuse"));
            }
            bt.set(r as u8);
        }
        if bt.is_empty() {
            return Ok(false);
        }
        let start_parent = st.parent;
        let start_frame = st.curframe();
        let mut changed = false;
        let mut first_idx = i64::from(st.first_insn_idx);
        let mut last_idx = i64::from(st.insn_idx);
        if start.is_none() {
            last_idx = i64::from(self.insn_idx);
        }
        let mut subseq = -1i64;
        let mut skip_first = true;
        // `None` is the starting state, then its ancestors.
        let mut at: Option<StateId> = None;
        loop {
            if self.level2() {
                let f = bt.frame;
                self.log(format_args!(
                    "mark_precise: frame{f}: last_idx {last_idx} first_idx {first_idx} subseq_idx {subseq} \n"
                ));
            }
            if last_idx < 0 {
                return self.reached_entry(at, bt, changed);
            }
            match self.walk_state(start, at, bt, last_idx, &mut subseq, &mut skip_first) {
                Ok(true) => return Ok(changed),
                Ok(false) => {}
                Err(Stop::Unsupported) => {
                    self.mark_all_precise(start_parent, start_frame);
                    return Ok(changed);
                }
                Err(Stop::Failed(e)) => return Err(e),
                Err(Stop::Bug(what)) => return self.bug(format_args!("{what}")),
            }
            let parent = match at {
                None => start_parent,
                Some(id) => self.states[id.0 as usize].as_ref().and_then(|s| s.state.parent),
            };
            let Some(p) = parent else { break };
            changed |= self.mark_parent(p, bt)?;
            if bt.is_empty() {
                return Ok(changed);
            }
            at = Some(p);
            subseq = first_idx;
            if let Some(sl) = &self.states[p.0 as usize] {
                last_idx = i64::from(sl.state.last_insn_idx);
                first_idx = i64::from(sl.state.first_insn_idx);
            }
        }
        if !bt.is_empty() {
            self.mark_all_precise(start_parent, start_frame);
        }
        Ok(changed)
    }

    fn state_at<'s>(&'s self, start: Option<&'s State>, at: Option<StateId>) -> &'s State {
        match at {
            None => start.unwrap_or(&self.cur),
            Some(id) => &self.states[id.0 as usize].as_ref().expect("ancestors are kept").state,
        }
    }

    /// Follows one state's instructions back. `true`: nothing is left to follow.
    fn walk_state(
        &mut self,
        start: Option<&State>,
        at: Option<StateId>,
        bt: &mut Backtrack,
        last: i64,
        subseq: &mut i64,
        skip_first: &mut bool,
    ) -> Result<bool, Stop> {
        let mut trace = String::new();
        let st = self.state_at(start, at);
        let out = self.walk_history(st, bt, last, subseq, skip_first, &mut trace);
        if !trace.is_empty() {
            self.log(format_args!("{trace}"));
        }
        out
    }

    fn walk_history(
        &self,
        st: &State,
        bt: &mut Backtrack,
        last: i64,
        subseq: &mut i64,
        skip_first: &mut bool,
        trace: &mut String,
    ) -> Result<bool, Stop> {
        let first = i64::from(st.first_insn_idx);
        let mut history = st.jmp_history.len();
        let mut i = last;
        loop {
            let hist = history.checked_sub(1).map(|h| &st.jmp_history[h]).filter(|h| i64::from(h.idx) == i);
            if *skip_first {
                *skip_first = false;
            } else {
                if self.level2() {
                    self.trace_step(i, bt, trace);
                }
                self.backtrack_insn(i, *subseq, hist, bt)?;
            }
            if bt.is_empty() {
                return Ok(true);
            }
            *subseq = i;
            if i == first && (history == 0 || history == 1 && hist.is_some()) {
                return Ok(false);
            }
            i = match hist {
                Some(h) => {
                    history -= 1;
                    i64::from(h.prev_idx as i32)
                }
                None => i - 1,
            };
            if i < 0 || i >= self.insns.len() as i64 {
                return Err(Stop::Bug(format!("backtracking idx {i}")));
            }
        }
    }

    fn trace_step(&self, idx: i64, bt: &Backtrack, trace: &mut String) {
        if self.insns[idx as usize].code != 0 {
            let (f, marks, text) = (bt.frame, bt.frame_text(bt.frame), self.disasm(idx as usize));
            trace.push_str(&format!("mark_precise: frame{f}: {marks} before {idx}: {text}\n"));
        }
    }

    /// The path began here, at the entry of a global function: its arguments are what is left.
    fn reached_entry(&mut self, at: Option<StateId>, bt: &mut Backtrack, mut changed: bool) -> Res<bool> {
        let id = at;
        let ok = {
            let st = self.state_at(None, at);
            st.curframe() == 0 && st.frames[0].subprogno > 0 && st.frames[0].callsite == MAIN_FUNC
        };
        if ok && bt.slots[bt.frame] == 0 && bt.regs[bt.frame] & !ARGS == 0 {
            let mask = bt.regs[bt.frame];
            let st = match id {
                None => &mut self.cur,
                Some(id) => match &mut self.states[id.0 as usize] {
                    Some(s) => &mut s.state,
                    None => return Ok(changed),
                },
            };
            for r in (0..11).filter(|r| mask & (1 << r) != 0) {
                let reg = &mut st.frames[0].regs[r];
                if reg.is_scalar() {
                    reg.precise = true;
                    changed = true;
                }
            }
            return Ok(changed);
        }
        let (regs, slots) = (bt.regs[bt.frame], bt.slots[bt.frame]);
        self.bug(format_args!("backtracking func entry reg_mask {regs:x} stack_mask {slots:x}"))
    }

    fn mark_parent(&mut self, id: StateId, bt: &mut Backtrack) -> Res<bool> {
        let mut changed = false;
        for fr in (0..=bt.frame).rev() {
            let Some(sl) = &mut self.states[id.0 as usize] else { return Ok(changed) };
            let func = &mut sl.state.frames[fr];
            for i in 0..11 {
                if bt.regs[fr] & (1 << i) == 0 {
                    continue;
                }
                let reg = &func.regs[i];
                if !reg.is_scalar() || reg.precise {
                    bt.regs[fr] &= !(1 << i);
                } else {
                    func.regs[i].precise = true;
                    changed = true;
                }
            }
            for i in 0..64 {
                if bt.slots[fr] & (1 << i) == 0 {
                    continue;
                }
                let total = func.stack.len();
                let Some(slot) = func.stack.get(i) else {
                    return self.bug(format_args!("stack slot {i}, total slots {total}"));
                };
                if !slot.is_spilled_scalar() || slot.reg.precise {
                    bt.slots[fr] &= !(1 << i);
                } else {
                    func.stack[i].reg.precise = true;
                    changed = true;
                }
            }
            if self.level2() {
                let marks = bt.frame_text(fr);
                let state = match &self.states[id.0 as usize] {
                    Some(s) => self.state_text(&s.state, fr, true),
                    None => String::new(),
                };
                self.log(format_args!("mark_precise: frame{fr}: parent state {marks}: {state}"));
            }
        }
        Ok(changed)
    }

    /// Gives up following: all scalars of all ancestors become precise.
    pub(super) fn mark_all_precise(&mut self, parent: Option<StateId>, frame: usize) {
        if self.level2() {
            self.log(format_args!(
                "mark_precise: frame{frame}: falling back to forcing all scalars precise\n"
            ));
        }
        let mut text = String::new();
        let mut next = parent;
        while let Some(id) = next {
            let Some(sl) = &mut self.states[id.0 as usize] else { return };
            for (f, frame) in sl.state.frames.iter_mut().enumerate() {
                for j in 0..10 {
                    if frame.regs[j].is_scalar() && !frame.regs[j].precise {
                        frame.regs[j].precise = true;
                        text.push_str(&format!("force_precise: frame{f}: forcing r{j} to be precise\n"));
                    }
                }
                for j in 0..frame.stack.len() {
                    if frame.stack[j].is_spilled_scalar() && !frame.stack[j].reg.precise {
                        frame.stack[j].reg.precise = true;
                        let off = -(j as i32 + 1) * 8;
                        text.push_str(&format!("force_precise: frame{f}: forcing fp{off} to be precise\n"));
                    }
                }
            }
            next = sl.state.parent;
        }
        if self.level2() {
            self.log(format_args!("{text}"));
        }
    }

    fn backtrack_insn(
        &self,
        idx: i64,
        subseq: i64,
        hist: Option<&Hist>,
        bt: &mut Backtrack,
    ) -> Result<(), Stop> {
        let insn = self.insns[idx as usize];
        if insn.code == 0 {
            return Ok(());
        }
        bt.sync_linked(hist);
        let (dst, src) = (insn.dst, insn.src);
        match insn.class() {
            BPF_ALU | BPF_ALU64 => {
                if !bt.has(dst) || matches!(insn.op(), BPF_END | BPF_NEG) {
                    return Ok(());
                }
                if insn.op() == BPF_MOV {
                    bt.clear(dst);
                }
                if insn.is_src_reg() && src != 10 {
                    bt.set(src);
                }
            }
            BPF_STX | BPF_ST if !is_atomic_load(&insn) => {
                if bt.has(dst) || fetched(&insn).is_some_and(|reg| bt.has(reg)) {
                    return Err(Stop::Unsupported);
                }
                let Some(h) = hist.filter(|h| h.flags & hist_flag::STACK_ACCESS != 0) else { return Ok(()) };
                let (fr, spi) = (hist_flag::frameno(h.flags), hist_flag::spi(h.flags));
                if bt.slots[fr] & (1 << spi) == 0 {
                    return Ok(());
                }
                bt.slots[fr] &= !(1 << spi);
                if insn.class() == BPF_STX {
                    bt.set(src);
                }
            }
            BPF_LDX | BPF_STX => {
                if !bt.has(dst) {
                    return Ok(());
                }
                bt.clear(dst);
                let Some(h) = hist.filter(|h| h.flags & hist_flag::STACK_ACCESS != 0) else { return Ok(()) };
                bt.slots[hist_flag::frameno(h.flags)] |= 1 << hist_flag::spi(h.flags);
            }
            BPF_JMP | BPF_JMP32 => {
                if self.backtrack_jmp(idx, subseq, hist, bt)? {
                    return Ok(());
                }
            }
            _ => {
                if !bt.has(dst) {
                    return Ok(());
                }
                bt.clear(dst);
                if insn.mode() == BPF_IND || insn.mode() == BPF_ABS {
                    return Err(Stop::Unsupported);
                }
            }
        }
        bt.sync_linked(hist);
        Ok(())
    }

    /// `true`: registers linked at this instruction are not to be looked at again.
    fn backtrack_jmp(
        &self,
        idx: i64,
        subseq: i64,
        hist: Option<&Hist>,
        bt: &mut Backtrack,
    ) -> Result<bool, Stop> {
        let insn = self.insns[idx as usize];
        if insn.is_pseudo_call() {
            return self.backtrack_call(idx, bt).map(|()| true);
        }
        if self.is_sync_callback_insn(&insn) && idx != subseq - 1 {
            // From the callback's first instruction back to the call that runs it.
            self.bt_no_leftover(bt, "callback")?;
            bt.regs[bt.frame] &= !ARGS;
            self.bt_exit(bt)?;
            return Ok(true);
        }
        match insn.op() {
            BPF_CALL => {
                if insn.src == BPF_PSEUDO_KFUNC_CALL && self.is_unresolved_kfunc(&insn) {
                    return Err(Stop::Unsupported);
                }
                bt.clear(0);
                if bt.regs[bt.frame] & ARGS != 0 {
                    let mask = bt.regs[bt.frame];
                    return Err(Stop::Bug(format!("backtracking call unexpected regs {mask:x}")));
                }
            }
            BPF_EXIT => {
                if subseq >= 0 && self.aux[subseq as usize].calls_callback {
                    bt.regs[bt.frame] &= !ARGS;
                }
                if bt.regs[bt.frame] & ARGS != 0 {
                    let mask = bt.regs[bt.frame];
                    return Err(Stop::Bug(format!("backtracking exit unexpected regs {mask:x}")));
                }
                let r0 = subseq >= 1 && self.insns[subseq as usize - 1].is_pseudo_call() && bt.has(0);
                bt.clear(0);
                if bt.frame == 7 {
                    return Err(Stop::Bug("subprog enter from frame 7".to_owned()));
                }
                bt.frame += 1;
                if r0 {
                    bt.set(0);
                }
                return Ok(true);
            }
            _ if insn.is_src_reg() => {
                if !bt.has(insn.dst) && !bt.has(insn.src) {
                    return Ok(true);
                }
                let flags = hist.map_or(0, |h| h.flags);
                if flags & hist_flag::SRC_REG_STACK == 0 {
                    bt.set(insn.src);
                }
                if flags & hist_flag::DST_REG_STACK == 0 {
                    bt.set(insn.dst);
                }
            }
            _ => {}
        }
        Ok(false)
    }

    fn backtrack_call(&self, idx: i64, bt: &mut Backtrack) -> Result<(), Stop> {
        let insn = self.insns[idx as usize];
        let Some(sub) = self.find_subprog(idx + i64::from(insn.imm) + 1) else {
            return Err(Stop::Failed(Errno::EFAULT));
        };
        if self.subprogs[sub].is_global {
            if bt.regs[bt.frame] & ARGS != 0 {
                let mask = bt.regs[bt.frame];
                return Err(Stop::Bug(format!("global subprog unexpected regs {mask:x}")));
            }
            bt.clear(0);
            return Ok(());
        }
        self.bt_no_leftover(bt, "static subprog")?;
        let args = bt.regs[bt.frame] & ARGS;
        bt.regs[bt.frame] &= !ARGS;
        self.bt_exit(bt)?;
        bt.regs[bt.frame] |= args;
        Ok(())
    }

    fn bt_no_leftover(&self, bt: &Backtrack, what: &str) -> Result<(), Stop> {
        let (regs, slots) = (bt.regs[bt.frame], bt.slots[bt.frame]);
        if regs & !ARGS != 0 {
            return Err(Stop::Bug(format!("{what} unexpected regs {regs:x}")));
        }
        if slots != 0 {
            return Err(Stop::Bug(format!("{what} leftover stack slots {slots:x}")));
        }
        Ok(())
    }

    fn bt_exit(&self, bt: &mut Backtrack) -> Result<(), Stop> {
        if bt.frame == 0 {
            return Err(Stop::Bug("subprog exit from frame 0".to_owned()));
        }
        bt.frame -= 1;
        Ok(())
    }
}

/// A load with acquire semantics, which is encoded among the stores.
pub(crate) fn is_atomic_load(insn: &crate::insn::Insn) -> bool {
    insn.class() == BPF_STX && insn.mode() == BPF_ATOMIC && insn.imm == BPF_LOAD_ACQ
}

/// The register that an atomic instruction leaves what was in memory in. The kernel of 6.18 does not ask: it
/// goes on looking for the number before the fetch, and takes paths for the same that are not.
fn fetched(insn: &crate::insn::Insn) -> Option<u8> {
    match insn.imm {
        _ if insn.class() != BPF_STX || insn.mode() != BPF_ATOMIC => None,
        BPF_CMPXCHG => Some(0),
        imm => (imm & BPF_FETCH != 0).then_some(insn.src),
    }
}
