//! Conditional jumps: which way they go, and what each way teaches about the compared registers.

use uapi::Errno;
use uapi::bpf::*;

use super::alu::Use;
use super::env::{Env, Pending, Res};
use super::refine::{flip, refine, scalar_branch};
use super::reg::{ADD_CONST, ADD_CONST32, AT_PKT_END, BEYOND_PKT_END, Payload, Reg};
use super::state::{LinkedReg, LinkedRegs, State, hist_flag};
use super::types::RegType;
use crate::insn::Insn;

/// Pointers into a packet reach at most this far.
const MAX_PACKET_OFF: u64 = 0xffff;
/// Most paths that may wait to be explored.
const JMP_SEQ_LIMIT: usize = 8192;

impl Env<'_> {
    /// Queues a copy of the current state to continue at `idx`.
    pub(super) fn push_state(&mut self, idx: u32, prev: u32) -> Res<&mut State> {
        let mut state = self.spare.pop().unwrap_or_default();
        state.copy_from(&self.cur);
        let (log_pos, history_pos) = (self.log.len(), self.history_pos());
        let parent = state.parent;
        self.pending.push(Pending { state, insn_idx: idx, prev_insn_idx: prev, log_pos, history_pos });
        let n = self.pending.len();
        if n > JMP_SEQ_LIMIT {
            return self.fail(Errno::E2BIG, format_args!("The sequence of {n} jumps is too complex.\n"));
        }
        if let Some(p) = parent
            && let Some(sl) = &mut self.states[p.0 as usize]
        {
            sl.state.branches += 1;
        }
        Ok(&mut self.pending[n - 1].state)
    }

    /// The path that was queued last.
    fn other(&mut self) -> &mut State {
        let n = self.pending.len() - 1;
        &mut self.pending[n].state
    }

    fn other_reg(&mut self, regno: usize) -> &mut Reg {
        &mut self.other().frame_mut().regs[regno]
    }

    pub(super) fn check_cond_jmp(&mut self, insn: &Insn) -> Res {
        let op = insn.op();
        if op == BPF_JA || op > BPF_JCOND {
            return self.fail(Errno::EINVAL, format_args!("invalid BPF_JMP/JMP32 opcode {op:x}\n"));
        }
        if op == BPF_JCOND {
            return self.check_may_goto(insn);
        }
        self.check_reg(insn.dst, Use::Src)?;
        let dst = usize::from(insn.dst);
        let src = usize::from(insn.src);
        let s = self.jmp_operand(insn)?;
        let d = *self.reg(dst);
        let mut flags = 0;
        if insn.is_src_reg() && s.ty == RegType::STACK {
            flags |= hist_flag::SRC_REG_STACK;
        }
        if d.ty == RegType::STACK {
            flags |= hist_flag::DST_REG_STACK;
        }
        if flags != 0 {
            self.push_history(flags, LinkedRegs::default());
        }
        let jmp32 = insn.class() == BPF_JMP32;
        if let Some(taken) = self.branch_taken(&d, &s, op, jmp32) {
            if d.is_scalar() {
                self.mark_precise(dst)?;
            }
            if insn.is_src_reg() && s.is_scalar() {
                self.mark_precise(src)?;
            }
            self.aux[self.insn_idx as usize].branch_taken |= if taken { 2 } else { 1 };
            self.log_insn_state();
            if taken {
                self.insn_idx = self.insn_idx.wrapping_add_signed(i32::from(insn.off));
            }
            return Ok(());
        }
        self.aux[self.insn_idx as usize].branch_taken |= 3;
        self.fork(insn)?;
        self.log_insn_state();
        Ok(())
    }

    fn jmp_operand(&mut self, insn: &Insn) -> Res<Reg> {
        if insn.is_src_reg() {
            if insn.imm != 0 {
                return self.fail(Errno::EINVAL, format_args!("BPF_JMP/JMP32 uses reserved fields\n"));
            }
            self.check_reg(insn.src, Use::Src)?;
            return Ok(*self.reg(usize::from(insn.src)));
        }
        if insn.src != 0 {
            return self.fail(Errno::EINVAL, format_args!("BPF_JMP/JMP32 uses reserved fields\n"));
        }
        Ok(Reg::scalar(i64::from(insn.imm) as u64))
    }

    fn check_may_goto(&mut self, insn: &Insn) -> Res {
        if insn.code != BPF_JMP | BPF_JCOND || insn.src != 0 || insn.dst != 0 || insn.imm != 0 {
            return self.fail(Errno::EINVAL, format_args!("invalid may_goto imm {}\n", insn.imm));
        }
        let idx = self.insn_idx;
        let prev = self.find_prev_entry(self.cur.parent, idx);
        self.push_state(idx + 1, idx)?.may_goto_depth += 1;
        if let Some(p) = prev {
            self.widen_pending(p)?;
        }
        self.aux[idx as usize].branch_taken |= 3;
        self.insn_idx = idx.wrapping_add_signed(i32::from(insn.off));
        Ok(())
    }

    /// `Some(true)`: the jump is taken on every run of this path.
    fn branch_taken(&self, d: &Reg, s: &Reg, op: u8, jmp32: bool) -> Option<bool> {
        if d.is_pkt_pointer_any() && s.is_pkt_pointer_any() && !jmp32 {
            return pkt_branch_taken(d, s, op);
        }
        if d.is_scalar() && s.is_scalar() {
            return scalar_branch(d, s, op, jmp32);
        }
        // A pointer that cannot be null, compared with null.
        let (ptr, zero, op) = if s.is_const(jmp32) { (d, s, op) } else { (s, d, flip(op)) };
        if !zero.is_const(jmp32) || !self.reg_not_null(ptr) || zero.const_value(jmp32) != 0 {
            return None;
        }
        match op {
            BPF_JEQ => Some(false),
            BPF_JNE => Some(true),
            _ => None,
        }
    }

    /// Both ways are possible: the jump is queued, this path falls through.
    fn fork(&mut self, insn: &Insn) -> Res {
        let (dst, src) = (usize::from(insn.dst), usize::from(insn.src));
        let is_x = insn.is_src_reg();
        let jmp32 = insn.class() == BPF_JMP32;
        let mut linked = LinkedRegs::default();
        if is_x && self.reg(src).is_scalar() && self.reg(src).id != 0 {
            self.collect_linked(self.reg(src).id, &mut linked);
        }
        if self.reg(dst).is_scalar() && self.reg(dst).id != 0 {
            self.collect_linked(self.reg(dst).id, &mut linked);
        }
        if linked.len > 1 {
            self.push_history(0, linked);
        }
        let idx = self.insn_idx;
        // The kernel's conditional jump has another errno for it than what else queues paths.
        let to = idx.wrapping_add_signed(i32::from(insn.off) + 1);
        self.push_state(to, idx).map_err(|_| Errno::EFAULT)?;
        self.learn(insn, jmp32)?;
        if is_x && self.reg(src).is_scalar() && self.reg(src).id != 0 {
            self.sync_both(src, &linked);
        }
        if self.reg(dst).is_scalar() && self.reg(dst).id != 0 {
            self.sync_both(dst, &linked);
        }
        let (d, s) = (*self.reg(dst), if is_x { *self.reg(src) } else { Reg::UNKNOWN });
        if !jmp32 && is_x {
            self.learn_not_null(insn.op(), dst, src, &d, &s);
        }
        let d = *self.reg(dst);
        if !jmp32 && !is_x && insn.imm == 0 && matches!(insn.op(), BPF_JEQ | BPF_JNE) && d.ty.may_be_null() {
            let jump_is_null = insn.op() == BPF_JEQ;
            self.mark_or_null_here(dst, !jump_is_null);
            self.mark_or_null_there(dst, jump_is_null);
        } else if is_x && !jmp32 {
            self.match_pkt_pointers(insn.op(), dst, src);
        }
        Ok(())
    }

    /// Narrows the compared scalars on both paths.
    fn learn(&mut self, insn: &Insn, jmp32: bool) -> Res {
        let (dst, src) = (usize::from(insn.dst), usize::from(insn.src));
        let (mut f1, op) = (*self.reg(dst), insn.op());
        let mut f2 = if insn.is_src_reg() { *self.reg(src) } else { Reg::scalar(i64::from(insn.imm) as u64) };
        if !f1.is_scalar() || !f2.is_scalar() {
            return Ok(());
        }
        let (mut t1, mut t2) = (f1, f2);
        refine(&mut f1, &mut f2, super::refine::rev(op), jmp32);
        f1.bounds_sync();
        f2.bounds_sync();
        refine(&mut t1, &mut t2, super::refine::Cond::Op(op), jmp32);
        t1.bounds_sync();
        t2.bounds_sync();
        if insn.is_src_reg() && src == dst {
            (f1, t1) = (both_of(f1, f2), both_of(t1, t2));
            (f2, t2) = (f1, t1);
        }
        for (r, what) in
            [(&mut t1, "true_reg1"), (&mut t2, "true_reg2"), (&mut f1, "false_reg1"), (&mut f2, "false_reg2")]
        {
            if let Some(fixed) = self.checked_bounds(*r, what)? {
                *r = fixed;
            }
        }
        *self.reg_mut(dst) = f1;
        *self.other_reg(dst) = t1;
        if insn.is_src_reg() {
            *self.reg_mut(src) = f2;
            *self.other_reg(src) = t2;
        }
        Ok(())
    }

    /// Equality with a pointer that cannot be null shows that the other cannot be either.
    fn learn_not_null(&mut self, op: u8, dst: usize, src: usize, d: &Reg, s: &Reg) {
        if d.is_scalar() || s.is_scalar() || d.ty.base() == RegType::BTF_ID || s.ty.base() == RegType::BTF_ID
        {
            return;
        }
        let which = match (d.ty.may_be_null(), s.ty.may_be_null()) {
            (false, true) => src,
            (true, false) => dst,
            _ => return,
        };
        let mut r = match op {
            BPF_JEQ => *self.other_reg(which),
            BPF_JNE => *self.reg(which),
            _ => return,
        };
        self.mark_not_null(&mut r);
        if op == BPF_JEQ {
            *self.other_reg(which) = r;
        } else {
            *self.reg_mut(which) = r;
        }
    }

    /// A nullable pointer was found not to be null.
    pub(super) fn mark_not_null(&self, r: &mut Reg) {
        if r.ty.base() != RegType::MAP_VALUE {
            r.ty = r.ty.without(super::types::flag::PTR_MAYBE_NULL);
            return;
        }
        let info = &self.maps[r.map()];
        if let Some(inner) = info.inner {
            r.ty = RegType::MAP_PTR;
            let uid = if self.maps[inner as usize].has_async_field() { r.id } else { r.map_uid() };
            r.pl = Payload::Map { map: inner, uid };
        } else {
            r.ty = match info.def.map_type {
                MapType::Xskmap => RegType::XDP_SOCK,
                MapType::Sockmap | MapType::Sockhash => RegType::SOCKET,
                _ => RegType::MAP_VALUE,
            };
        }
    }

    fn null_known(&self, r: &mut Reg, id: u32, is_null: bool) {
        if !r.ty.may_be_null() || r.id != id {
            return;
        }
        if r.smin != 0 || r.smax != 0 || !r.var_off.equals_const(0) {
            return;
        }
        if !r.ty.is_ptr_alloc_obj() && r.off != 0 {
            return;
        }
        if is_null {
            r.ty = RegType::SCALAR;
            r.pl = Payload::None;
            r.id = 0;
            r.ref_obj_id = 0;
            return;
        }
        self.mark_not_null(r);
        if !self.may_point_to_spin_lock(r) {
            r.id = 0;
        }
    }

    fn mark_or_null_here(&mut self, regno: usize, is_null: bool) {
        let mut st = std::mem::take(&mut self.cur);
        self.mark_or_null(&mut st, regno, is_null);
        self.cur = st;
    }

    fn mark_or_null_there(&mut self, regno: usize, is_null: bool) {
        let n = self.pending.len() - 1;
        let mut st = std::mem::take(&mut self.pending[n].state);
        self.mark_or_null(&mut st, regno, is_null);
        self.pending[n].state = st;
    }

    fn mark_or_null(&self, st: &mut State, regno: usize, is_null: bool) {
        let r = &st.frame().regs[regno];
        let (id, ref_obj_id) = (r.id, r.ref_obj_id);
        if ref_obj_id != 0 && ref_obj_id == id && is_null {
            st.refs.retain(|r| r.id != id || r.ty != super::state::ref_type::PTR);
        }
        let concerned = |r: &Reg| r.id == id && r.ty.may_be_null();
        st.change_regs(concerned, |r| self.null_known(r, id, is_null));
    }

    /// Comparisons with the packet's end, or of metadata with its end, prove bytes to exist.
    fn match_pkt_pointers(&mut self, op: u8, dst: usize, src: usize) {
        let (d, s) = (*self.reg(dst), *self.reg(src));
        let bounded = |p: &Reg, end: &Reg| {
            p.ty == RegType::PACKET && end.ty == RegType::PACKET_END
                || p.ty == RegType::PACKET_META && end.is_init_pkt_pointer(RegType::PACKET)
        };
        // `left` is the pointer, compared as `left op end`.
        let (left, regno, op) = if bounded(&d, &s) {
            (d, dst, op)
        } else if bounded(&s, &d) {
            (s, src, flip(op))
        } else {
            return;
        };
        // On which path the bytes before the pointer exist, and whether one more does.
        let (good_here, strict) = match op {
            BPF_JGT => (true, false),
            BPF_JLT => (false, true),
            BPF_JGE => (true, true),
            BPF_JLE => (false, false),
            _ => return,
        };
        if good_here {
            good_pkt_pointers(&mut self.cur, &left, strict);
        } else {
            good_pkt_pointers(self.other(), &left, strict);
        }
        let bad = if good_here { self.other_reg(regno) } else { self.reg_mut(regno) };
        mark_pkt_end(bad, !strict);
    }

    /// The live registers and slots that share an id.
    fn collect_linked(&mut self, id: u32, out: &mut LinkedRegs) {
        let id = id & !ADD_CONST;
        for f in (0..self.cur.frames.len()).rev() {
            let live = self.aux[self.cur.frame_insn_idx(f) as usize].live_regs_before;
            let frame = &mut self.cur.frames[f];
            // Where there are too many, the others lose their link.
            let mut too_many = |r: &Reg, index: usize, is_reg: bool| {
                r.is_scalar()
                    && r.id & !ADD_CONST == id
                    && !out.push(LinkedReg { frameno: f as u8, index: index as u8, is_reg })
            };
            for j in (0..10).filter(|j| live & (1 << j) != 0) {
                if too_many(&frame.regs[j], j, true) {
                    super::alu::clear_scalar_id(&mut frame.regs[j]);
                }
            }
            for j in 0..frame.stack.len() {
                let s = &frame.stack[j];
                if s.is_spilled() && too_many(&s.reg, j, false) {
                    super::alu::clear_scalar_id(&mut frame.stack[j].reg);
                }
            }
        }
    }

    fn sync_both(&mut self, regno: usize, linked: &LinkedRegs) {
        sync_linked(&mut self.cur, regno, linked);
        sync_linked(self.other(), regno, linked);
    }
}

/// A register compared with itself is narrowed from both sides.
fn both_of(mut a: Reg, b: Reg) -> Reg {
    (a.umin, a.umax) = (a.umin.max(b.umin), a.umax.min(b.umax));
    (a.smin, a.smax) = (a.smin.max(b.smin), a.smax.min(b.smax));
    (a.u32_min, a.u32_max) = (a.u32_min.max(b.u32_min), a.u32_max.min(b.u32_max));
    (a.s32_min, a.s32_max) = (a.s32_min.max(b.s32_min), a.s32_max.min(b.s32_max));
    a.bounds_sync();
    a.bounds_sync();
    a
}

/// Carries what was learnt of a register to those linked to it.
fn sync_linked(st: &mut State, regno: usize, linked: &LinkedRegs) {
    let cur = st.curframe();
    let known = st.frames[cur].regs[regno];
    for e in linked.as_slice() {
        let f = usize::from(e.frameno);
        let index = usize::from(e.index);
        if e.is_reg && f == cur && index == regno {
            continue;
        }
        let mut r = if e.is_reg { st.frames[f].regs[index] } else { st.frames[f].stack[index].reg };
        if !r.is_scalar() || r.id & !ADD_CONST != known.id & !ADD_CONST {
            continue;
        }
        let (mine, theirs) = (r.id & ADD_CONST, known.id & ADD_CONST);
        // A sum of 32 bits says nothing of one of 64.
        if mine != 0 && theirs != 0 && mine != theirs {
            continue;
        }
        if mine == 0 && theirs == 0 || r.off == known.off {
            r = known;
        } else {
            let delta = Reg::scalar((i64::from(r.off) - i64::from(known.off)) as u64);
            r = Reg { off: r.off, id: r.id, ..known };
            r.add(&delta);
            if (mine | theirs) & ADD_CONST32 != 0 {
                r.zext_32_to_64();
            }
            r.bounds_sync();
        }
        if e.is_reg {
            st.frames[f].regs[index] = r;
        } else {
            st.frames[f].stack[index].reg = r;
        }
    }
}

fn good_pkt_pointers(st: &mut State, ptr: &Reg, range_open: bool) {
    if ptr.off < 0 || ptr.off == 0 && range_open {
        return;
    }
    if ptr.umax > MAX_PACKET_OFF || ptr.umax + ptr.off as u64 > MAX_PACKET_OFF {
        return;
    }
    let range = ptr.off + i32::from(range_open);
    let shorter = |r: &Reg| r.ty == ptr.ty && r.id == ptr.id && r.range() < range;
    st.change_regs(shorter, |r| r.pl = Payload::Range(range));
}

fn mark_pkt_end(r: &mut Reg, beyond: bool) {
    if r.ty == RegType::PACKET {
        r.pl = Payload::Range(if beyond { BEYOND_PKT_END } else { AT_PKT_END });
    }
}

fn pkt_branch_taken(d: &Reg, s: &Reg, op: u8) -> Option<bool> {
    let (pkt, op) = if s.ty == RegType::PACKET_END {
        (d, op)
    } else if d.ty == RegType::PACKET_END {
        (s, flip(op))
    } else {
        return None;
    };
    match (op, pkt.range()) {
        (_, 0..) => None,
        (BPF_JLE | BPF_JGT, BEYOND_PKT_END) => Some(op == BPF_JGT),
        (BPF_JLT | BPF_JGE, BEYOND_PKT_END | AT_PKT_END) => Some(op == BPF_JGE),
        _ => None,
    }
}
