//! Remembering states and recognising that a path has nothing new to show.

use uapi::Errno;

use super::env::{Env, Explored, Res};
use super::reg::{ADD_CONST, Payload, Reg};
use super::state::{Frame, REG_SIZE, SlotType, StackSlot, State, StateId, ref_type};
use super::types::RegType;

/// Most pairs that an [`IdMap`] holds.
const ID_MAP_SIZE: usize = (11 + 512 / 8) * 8;

/// Which id of the remembered state stands for which id of the current one.
#[derive(Default)]
pub(crate) struct IdMap {
    tmp_id_gen: u32,
    pairs: Vec<(u32, u32)>,
}

impl IdMap {
    fn check(&mut self, old: u32, cur: u32) -> bool {
        if old == 0 || cur == 0 {
            return old == cur;
        }
        for (o, c) in &self.pairs {
            if *o == old {
                return *c == cur;
            }
            if *c == cur {
                return false;
            }
        }
        if self.pairs.len() >= ID_MAP_SIZE {
            return false;
        }
        self.pairs.push((old, cur));
        true
    }

    fn check_scalar(&mut self, old: u32, cur: u32) -> bool {
        if old == 0 {
            return true;
        }
        let cur = if cur == 0 {
            self.tmp_id_gen += 1;
            self.tmp_id_gen
        } else {
            cur
        };
        // A sum must be linked to the same copies, too.
        self.check(old, cur) && (old & ADD_CONST == 0 || self.check(old & !ADD_CONST, cur & !ADD_CONST))
    }
}

/// How strictly two states are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exact {
    /// Imprecise scalars do not matter.
    No,
    /// Everything is the same.
    Yes,
    /// All scalars of the current state lie within those of the remembered one.
    RangeWithin,
}

fn range_within(old: &Reg, cur: &Reg) -> bool {
    old.umin <= cur.umin
        && old.umax >= cur.umax
        && old.smin <= cur.smin
        && old.smax >= cur.smax
        && old.u32_min <= cur.u32_min
        && old.u32_max >= cur.u32_max
        && old.s32_min <= cur.s32_min
        && old.s32_max >= cur.s32_max
}

/// Kind, offset and payload are the same.
fn same_head(a: &Reg, b: &Reg) -> bool {
    a.ty == b.ty && a.off == b.off && a.pl == b.pl
}

/// All but ids, frame and precision is the same.
fn same_value(a: &Reg, b: &Reg) -> bool {
    same_head(a, b)
        && a.var_off == b.var_off
        && (a.smin, a.smax, a.umin, a.umax) == (b.smin, b.smax, b.umin, b.umax)
        && (a.s32_min, a.s32_max, a.u32_min, a.u32_max) == (b.s32_min, b.s32_max, b.u32_min, b.u32_max)
}

pub(super) fn regs_exact(old: &Reg, cur: &Reg, ids: &mut IdMap) -> bool {
    same_value(old, cur) && ids.check(old.id, cur.id) && ids.check(old.ref_obj_id, cur.ref_obj_id)
}

fn scalars_safe(old: &Reg, cur: &Reg, ids: &mut IdMap, exact: Exact) -> bool {
    if !old.precise && exact == Exact::No {
        return true;
    }
    let (old_add, cur_add) = (old.id & ADD_CONST != 0, cur.id & ADD_CONST != 0);
    if old_add && !cur_add || old.id != 0 && !old_add && cur_add {
        return false;
    }
    if old_add && (old.off != cur.off || old.id & ADD_CONST != cur.id & ADD_CONST) {
        return false;
    }
    ids.check_scalar(old.id, cur.id) && range_within(old, cur) && old.var_off.includes(cur.var_off)
}

/// It is safe to take such a register for itself: there are no ids to be mapped.
fn has_no_ids(r: &Reg) -> bool {
    r.id == 0 && r.ref_obj_id == 0
}

fn reg_safe(old: &Reg, cur: &Reg, ids: &mut IdMap, exact: Exact) -> bool {
    if exact == Exact::Yes {
        return regs_exact(old, cur, ids);
    }
    if old.ty == RegType::NOT_INIT {
        return true;
    }
    if old.ty != cur.ty {
        return false;
    }
    match old.ty.base() {
        RegType::SCALAR => scalars_safe(old, cur, ids, exact),
        RegType::MAP_KEY | RegType::MAP_VALUE | RegType::MEM | RegType::BUF | RegType::TP_BUFFER => {
            same_head(old, cur)
                && range_within(old, cur)
                && old.var_off.includes(cur.var_off)
                && ids.check(old.id, cur.id)
                && ids.check(old.ref_obj_id, cur.ref_obj_id)
        }
        RegType::PACKET | RegType::PACKET_META => {
            let (o, c) = (old.range(), cur.range());
            // The special values say what comparisons will do; they are not ranges.
            (if o < 0 || c < 0 { o == c } else { o <= c })
                && old.off == cur.off
                && ids.check(old.id, cur.id)
                && range_within(old, cur)
                && old.var_off.includes(cur.var_off)
        }
        RegType::STACK => regs_exact(old, cur, ids) && old.frameno == cur.frameno,
        RegType::ARENA => true,
        _ => regs_exact(old, cur, ids),
    }
}

fn all_misc(s: &StackSlot) -> bool {
    s.types.iter().all(|t| matches!(t, SlotType::Misc | SlotType::Invalid))
}

/// The slot as one 64-bit scalar, where it can be seen as that.
fn as_scalar(s: &StackSlot) -> Option<&Reg> {
    if s.is_spilled_scalar64() {
        Some(&s.reg)
    } else if all_misc(s) {
        Some(&Reg::UNKNOWN)
    } else {
        None
    }
}

fn special_slot_safe(old: &StackSlot, cur: &StackSlot, ids: &mut IdMap, exact: Exact) -> bool {
    let (o, c) = (&old.reg, &cur.reg);
    match old.types[7] {
        SlotType::Spill => reg_safe(o, c, ids, exact),
        SlotType::Dynptr => o.pl == c.pl && ids.check(o.ref_obj_id, c.ref_obj_id),
        SlotType::Iter => {
            let key = |p: Payload| match p {
                Payload::Iter { btf, id, state, .. } => Some((btf, id, state)),
                _ => None,
            };
            o.ty == c.ty && key(o.pl) == key(c.pl) && ids.check(o.ref_obj_id, c.ref_obj_id)
        }
        SlotType::IrqFlag => ids.check(o.ref_obj_id, c.ref_obj_id) && o.pl == c.pl,
        SlotType::Misc | SlotType::Zero | SlotType::Invalid => true,
    }
}

fn stack_safe(old: &Frame, cur: &Frame, ids: &mut IdMap, exact: Exact) -> bool {
    let shared = old.stack.share(&cur.stack);
    for (spi, os) in old.stack.iter().enumerate() {
        if shared && has_no_ids(&os.reg) {
            continue;
        }
        let cs = cur.stack.get(spi);
        if !slot_safe(os, cs, ids, exact) {
            return false;
        }
    }
    true
}

fn slot_safe(os: &StackSlot, cs: Option<&StackSlot>, ids: &mut IdMap, exact: Exact) -> bool {
    for i in 0..REG_SIZE as usize {
        if exact != Exact::No && cs.is_none_or(|cs| cs.types[i] != os.types[i]) {
            return false;
        }
        if matches!(os.types[i], SlotType::Invalid | SlotType::Misc) {
            continue;
        }
        let Some(cs) = cs else { return false };
        if let (Some(o), Some(c)) = (as_scalar(os), as_scalar(cs)) {
            return reg_safe(o, c, ids, exact);
        }
        if os.types[i] != cs.types[i] {
            return false;
        }
        if i == 7 {
            return special_slot_safe(os, cs, ids, exact);
        }
    }
    true
}

fn refs_safe(old: &State, cur: &State, ids: &mut IdMap) -> bool {
    if old.refs.len() != cur.refs.len()
        || old.active_locks != cur.active_locks
        || old.active_preempt_locks != cur.active_preempt_locks
        || old.active_rcu_locks != cur.active_rcu_locks
        || !ids.check(old.active_irq_id, cur.active_irq_id)
        || !ids.check(old.active_lock_id, cur.active_lock_id)
        || old.active_lock_place != cur.active_lock_place
    {
        return false;
    }
    old.refs.iter().zip(&cur.refs).all(|(o, c)| {
        ids.check(o.id, c.id) && o.ty == c.ty && (o.ty & ref_type::LOCK_MASK == 0 || o.place == c.place)
    })
}

fn maybe_looping(old: &State, cur: &State) -> bool {
    old.frames.len() == cur.frames.len()
        && old.frame().regs.iter().zip(cur.frame().regs.iter()).all(|(o, c)| {
            std::ptr::eq(o, c) || same_value(o, c) && o.id == c.id && o.ref_obj_id == c.ref_obj_id
        })
}

fn iter_depths_differ(old: &State, cur: &State) -> bool {
    use super::reg::IterState;
    old.frames.iter().zip(&cur.frames).any(|(of, cf)| {
        of.stack.iter().enumerate().any(|(i, s)| {
            let Payload::Iter { state: IterState::Active, depth, .. } = s.reg.pl else { return false };
            s.types[0] == SlotType::Iter
                && !matches!(cf.stack.get(i).map(|c| c.reg.pl), Some(Payload::Iter { depth: d, .. }) if d == depth)
        })
    })
}

impl Env<'_> {
    fn states_equal(&self, old: &State, cur: &State, ids: &mut IdMap, exact: Exact) -> bool {
        if old.frames.len() != cur.frames.len() || old.in_sleepable != cur.in_sleepable {
            return false;
        }
        ids.tmp_id_gen = self.id_gen;
        ids.pairs.clear();
        if !refs_safe(old, cur, ids) {
            return false;
        }
        for (i, (of, cf)) in old.frames.iter().zip(&cur.frames).enumerate() {
            if of.callsite != cf.callsite || of.callback_depth > cf.callback_depth {
                return false;
            }
            let live = self.aux[old.frame_insn_idx(i) as usize].live_regs_before;
            for r in 0..11 {
                if live & (1 << r) == 0 || of.regs.share(&cf.regs, r) && has_no_ids(&of.regs[r]) {
                    continue;
                }
                if !reg_safe(&of.regs[r], &cf.regs[r], ids, exact) {
                    return false;
                }
            }
            if !stack_safe(of, cf, ids, exact) {
                return false;
            }
        }
        true
    }

    fn bucket(&self, insn: u32) -> usize {
        (insn ^ self.cur.frame().callsite as u32) as usize % self.insns.len()
    }

    /// Forgets dead registers and slots of finished states at this instruction.
    fn clean_live_states(&mut self, insn: u32) {
        let bucket = self.bucket(insn);
        for i in 0..self.explored[bucket].len() {
            let id = self.explored[bucket][i];
            let Some(sl) = &self.states[id.0 as usize] else { continue };
            let st = &sl.state;
            if st.branches != 0
                || st.insn_idx != insn
                || st.cleaned
                || !st.same_callsites(&self.cur)
                || self.incomplete_marks(st)
            {
                continue;
            }
            let Some(mut sl) = self.states[id.0 as usize].take() else { continue };
            self.clean_state(&mut sl.state);
            self.states[id.0 as usize] = Some(sl);
        }
    }

    pub(super) fn clean_state(&mut self, st: &mut State) {
        self.live_query(st);
        st.cleaned = true;
        for i in 0..st.frames.len() {
            let live = self.aux[st.frame_insn_idx(i) as usize].live_regs_before;
            let frame = &mut st.frames[i];
            frame.regs.keep(live);
            for spi in 0..frame.stack.len() {
                if !self.live_slot_alive(i, spi) {
                    frame.stack[spi] = StackSlot { reg: Reg::NOT_INIT, types: [SlotType::Invalid; 8] };
                }
            }
        }
    }

    /// Compares the current state with those remembered here. `true`: nothing new can come of it.
    /// Otherwise the state may be remembered in turn.
    pub(super) fn is_state_visited(&mut self, insn: u32) -> Res<bool> {
        let force = self.opts_test_state_freq()
            || self.claims.is_some()
            || self.aux[insn as usize].force_checkpoint
            || self.cur.jmp_history.len() > 40;
        let mut add_new = force
            || (self.jmps_processed - self.prev_jmps_processed >= 2
                && self.insn_processed - self.prev_insn_processed >= 8);
        self.clean_live_states(insn);
        let bucket = self.bucket(insn);
        let mut states_cnt = 0;
        // Latest first, as the kernel's list has it.
        let mut i = self.explored[bucket].len();
        while i > 0 {
            i -= 1;
            let id = self.explored[bucket][i];
            states_cnt += 1;
            match self.compare_with(id, insn)? {
                Compared::Elsewhere => continue,
                Compared::Hit { looping } => {
                    self.hit(id, insn, looping)?;
                    return Ok(true);
                }
                Compared::Unfinished => {
                    if !force
                        && self.jmps_processed - self.prev_jmps_processed < 20
                        && self.insn_processed - self.prev_insn_processed < 100
                    {
                        add_new = false;
                    }
                }
                Compared::Different => {}
            }
            self.miss(id, insn, bucket, i, add_new);
        }
        self.max_states_per_insn = self.max_states_per_insn.max(states_cnt);
        if add_new {
            self.remember(insn, bucket);
        }
        Ok(false)
    }

    fn compare_with(&mut self, id: StateId, insn: u32) -> Res<Compared> {
        let Some(sl) = &self.states[id.0 as usize] else { return Ok(Compared::Elsewhere) };
        let old = &sl.state;
        if old.insn_idx != insn {
            return Ok(Compared::Elsewhere);
        }
        let mut ids = std::mem::take(&mut self.idmap);
        let (old, cur) = (&self.states[id.0 as usize].as_ref().expect("checked above").state, &self.cur);
        let outcome = if old.branches == 0 {
            let looping = self.incomplete_marks(old);
            let exact = if looping { Exact::RangeWithin } else { Exact::No };
            Ok(if self.states_equal(old, cur, &mut ids, exact) {
                Compared::Hit { looping }
            } else {
                Compared::Different
            })
        } else {
            self.compare_unfinished(old, cur, &mut ids, insn)
        };
        self.idmap = ids;
        match outcome {
            Ok(c) => Ok(c),
            Err(()) => self.infinite_loop(id, insn),
        }
    }

    /// `Err`: the path came back to where it was, with nothing changed.
    fn compare_unfinished(
        &self,
        old: &State,
        cur: &State,
        ids: &mut IdMap,
        insn: u32,
    ) -> Result<Compared, ()> {
        let (of, cf) = (old.frame(), cur.frame());
        if of.in_async_callback && of.async_entry_cnt != cf.async_entry_cnt {
            return Ok(Compared::Unfinished);
        }
        let aux = &self.aux[insn as usize];
        if aux.is_iter_next {
            let hit = self.states_equal(old, cur, ids, Exact::RangeWithin) && self.iter_reg_active(cur);
            return Ok(if hit { Compared::Hit { looping: true } } else { Compared::Unfinished });
        }
        if super::cfg::is_may_goto(&self.insns[insn as usize])
            && old.may_goto_depth != cur.may_goto_depth
            && self.states_equal(old, cur, ids, Exact::RangeWithin)
        {
            return Ok(Compared::Hit { looping: true });
        }
        if aux.calls_callback {
            let hit = self.states_equal(old, cur, ids, Exact::RangeWithin);
            return Ok(if hit { Compared::Hit { looping: false } } else { Compared::Unfinished });
        }
        if maybe_looping(old, cur)
            && self.states_equal(old, cur, ids, Exact::Yes)
            && !iter_depths_differ(old, cur)
            && old.may_goto_depth == cur.may_goto_depth
            && old.callback_unroll_depth == cur.callback_unroll_depth
        {
            return Err(());
        }
        Ok(Compared::Unfinished)
    }

    fn iter_reg_active(&self, cur: &State) -> bool {
        let r1 = &cur.frame().regs[1];
        let off = r1.off.wrapping_add(r1.var_off.value as i32);
        let spi = super::stack::spi_of(off);
        let slot = cur.frames.get(r1.frameno as usize).and_then(|f| f.stack.get(spi as usize));
        matches!(slot.map(|s| s.reg.pl), Some(Payload::Iter { state: super::reg::IterState::Active, .. }))
    }

    #[cold]
    fn infinite_loop<T>(&mut self, old: StateId, insn: u32) -> Res<T> {
        self.log_line(insn as usize, "; ");
        self.say(format_args!("infinite loop detected at insn {insn}\n"));
        let frame = self.cur.curframe();
        let text = self.state_text(&self.cur, frame, true);
        self.say(format_args!("cur state:{text}"));
        let text = self.states[old.0 as usize].as_ref().map(|s| self.state_text(&s.state, frame, true));
        self.say(format_args!("old state:{}", text.unwrap_or_default()));
        Err(Errno::EINVAL)
    }

    fn hit(&mut self, id: StateId, insn: u32, looping: bool) -> Res {
        if let Some(sl) = &mut self.states[id.0 as usize] {
            sl.hit_cnt += 1;
        }
        if self.aux[self.insn_idx as usize].jmp_point {
            self.push_history(0, Default::default());
        }
        self.collect_precise(id);
        self.mark_chain(None, None)?;
        if looping {
            self.scc_add_backedge(id, insn)?;
        }
        Ok(())
    }

    fn miss(&mut self, id: StateId, insn: u32, bucket: usize, at: usize, add_new: bool) {
        let force = self.aux[insn as usize].force_checkpoint;
        let Some(sl) = &mut self.states[id.0 as usize] else { return };
        if add_new {
            sl.miss_cnt += 1;
        }
        // A state that seldom helps is not compared with any more.
        let n = if force && sl.state.branches > 0 { 64 } else { 3 };
        if sl.miss_cnt > sl.hit_cnt * n + n {
            sl.in_free_list = true;
            self.explored[bucket].remove(at);
            self.free_list_size += 1;
            self.explored_size -= 1;
            self.maybe_free(id);
        }
    }

    fn maybe_free(&mut self, id: StateId) {
        let Some(sl) = &self.states[id.0 as usize] else { return };
        // What was claimed is kept whether or not it helps to prune.
        if self.claims.is_some()
            || !sl.in_free_list
            || sl.state.branches != 0
            || self.incomplete_marks(&sl.state)
        {
            return;
        }
        self.states[id.0 as usize] = None;
        self.free_ids.push(id);
        self.free_list_size -= 1;
    }

    fn remember(&mut self, insn: u32, bucket: usize) {
        self.total_states += 1;
        self.explored_size += 1;
        self.update_peak_states();
        self.prev_jmps_processed = self.jmps_processed;
        self.prev_insn_processed = self.insn_processed;
        self.cur.change_regs(|r| r.precise && r.is_scalar(), |r| r.precise = false);
        let mut state = State::default();
        state.copy_from(&self.cur);
        state.insn_idx = insn;
        let dfs_depth = state.dfs_depth;
        let sl = Box::new(Explored { state, hit_cnt: 0, miss_cnt: 0, in_free_list: false });
        let id = if let Some(id) = self.free_ids.pop() {
            self.states[id.0 as usize] = Some(sl);
            id
        } else {
            self.states.push(Some(sl));
            StateId(self.states.len() as u32 - 1)
        };
        self.scc_enter(id);
        self.cur.parent = Some(id);
        self.cur.first_insn_idx = insn;
        self.cur.dfs_depth = dfs_depth + 1;
        self.cur.jmp_history.clear();
        self.explored[bucket].push(id);
    }

    /// The current path is finished: counts down the branches of the states that led here.
    pub(super) fn finish_path(&mut self) -> Res {
        self.cur.branches -= 1;
        if self.cur.branches != 0 {
            return Ok(());
        }
        // The current state itself enters no loop: only remembered states do.
        let mut next = self.cur.parent;
        let mut done: Option<StateId> = None;
        while let Some(id) = next {
            let Some(sl) = &mut self.states[id.0 as usize] else { break };
            sl.state.branches -= 1;
            if let Some(d) = done.take() {
                // Freed only after its parent has been counted down, as its parent link is needed.
                self.maybe_free(d);
            }
            let Some(sl) = &self.states[id.0 as usize] else { break };
            if sl.state.branches != 0 {
                return Ok(());
            }
            next = sl.state.parent;
            self.scc_exit(id)?;
            done = Some(id);
        }
        if let Some(d) = done {
            self.maybe_free(d);
        }
        Ok(())
    }

    fn opts_test_state_freq(&self) -> bool {
        self.input.prog_flags & uapi::bpf::BPF_F_TEST_STATE_FREQ != 0
    }
}

enum Compared {
    Elsewhere,
    Hit { looping: bool },
    Unfinished,
    Different,
}
