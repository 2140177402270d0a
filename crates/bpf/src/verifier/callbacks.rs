//! Calls into the program itself: subprograms and callbacks, and the way back.

use uapi::Errno;
use uapi::bpf::*;

use super::env::{Env, Pending, Res};
use super::mem::CallMeta;
use super::reg::{DynptrType, Payload, Reg};
use super::state::{Frame, RetRange, State, StateId};
use super::types::RegType;
use crate::insn::Insn;

/// Who calls back, which decides what the callback is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Callback {
    MapElem,
    Loop,
    Timer,
    FindVma,
    UserRingbuf,
    RbtreeAdd,
    TaskWork,
}

impl Env<'_> {
    pub(super) fn is_sync_callback_insn(&self, insn: &Insn) -> bool {
        insn.is_helper_call() && super::helpers::is_sync_callback(insn.imm)
            || insn.is_kfunc_call() && self.kfunc_of(insn).is_some_and(|k| k.is_sync_callback())
    }

    pub(super) fn is_async_callback_insn(&self, insn: &Insn) -> bool {
        insn.is_helper_call() && insn.imm == func::TIMER_SET_CALLBACK
            || insn.is_kfunc_call() && self.kfunc_of(insn).is_some_and(|k| k.is_async_callback())
    }

    fn check_frame_depth(&mut self, frames: usize) -> Res {
        if frames >= MAX_CALL_FRAMES {
            let n = frames + 1;
            return self.fail(Errno::E2BIG, format_args!("the call stack of {n} frames is too deep\n"));
        }
        Ok(())
    }

    /// Queues a path through a callback.
    pub(super) fn push_callback(&mut self, insn: &Insn, meta: &CallMeta, kind: Callback) -> Res {
        let sub = meta.subprogno as usize;
        if self.check_subprog_call(sub) == Err(Errno::EFAULT) {
            return Err(Errno::EFAULT);
        }
        self.subprogs[sub].is_cb = true;
        let idx = self.insn_idx;
        let start = self.subprogs[sub].start;
        if self.is_async_callback_insn(insn) {
            self.subprogs[sub].is_async_cb = true;
            let mut callee = Frame::new(super::state::MAIN_FUNC, 0, sub as u32);
            callee.async_entry_cnt = self.cur.frame().async_entry_cnt + 1;
            self.callback_args(&mut callee, kind, meta)?;
            let sleepable = insn.is_kfunc_call();
            return self.push_async(callee, start, idx, sleepable);
        }
        self.push_state(start, idx)?;
        let frameno = self.cur.frames.len();
        self.check_frame_depth(frameno)?;
        let mut callee = Frame::new(idx as i32, frameno as u32, sub as u32);
        self.scratched_regs = u32::MAX;
        self.scratched_slots = u64::MAX;
        self.callback_args(&mut callee, kind, meta)?;
        let n = self.pending.len() - 1;
        let st = &mut self.pending[n].state;
        st.frames.push(callee);
        st.callback_unroll_depth += 1;
        st.frames[frameno - 1].callback_depth += 1;
        self.cur.frame_mut().callback_depth = 0;
        Ok(())
    }

    /// A callback that runs some time later, on its own.
    fn push_async(&mut self, callee: Frame, idx: u32, prev: u32, sleepable: bool) -> Res {
        let mut state = State { branches: 1, in_sleepable: sleepable, ..State::default() };
        state.frames.push(callee);
        let (log_pos, history_pos) = (self.log.len(), self.history_pos());
        self.scratched_regs = u32::MAX;
        self.scratched_slots = u64::MAX;
        self.pending.push(Pending { state, insn_idx: idx, prev_insn_idx: prev, log_pos, history_pos });
        let n = self.pending.len();
        if n > 8192 {
            return self.fail(
                Errno::E2BIG,
                format_args!("The sequence of {n} jumps is too complex for async cb.\n"),
            );
        }
        Ok(())
    }

    /// What the callback finds in its registers.
    fn callback_args(&mut self, callee: &mut Frame, kind: Callback, meta: &CallMeta) -> Res {
        let caller = self.regs().clone();
        let map_args = |map: u32, uid: u32| {
            let pl = Payload::Map { map, uid };
            (Reg::pointer(RegType::MAP_KEY, pl), Reg::pointer(RegType::MAP_VALUE, pl))
        };
        callee.callback_ret = RetRange { min: 0, max: 1 };
        callee.in_callback = !matches!(kind, Callback::Timer | Callback::TaskWork);
        callee.in_async_callback = !callee.in_callback;
        match kind {
            Callback::MapElem => {
                let map = meta.map.map_or(0, |(m, _)| m);
                if !matches!(
                    self.maps[map as usize].def.map_type,
                    MapType::Hash
                        | MapType::Array
                        | MapType::PercpuHash
                        | MapType::PercpuArray
                        | MapType::LruHash
                        | MapType::LruPercpuHash
                ) {
                    return self
                        .fail(Errno::ENOTSUPP, format_args!("callback function not allowed for map\n"));
                }
                callee.regs[1] = caller[1];
                (callee.regs[2], callee.regs[3]) = map_args(caller[1].map() as u32, 0);
                callee.regs[4] = caller[3];
            }
            Callback::Loop => {
                callee.regs[1] = Reg::UNKNOWN;
                callee.regs[2] = caller[3];
            }
            Callback::Timer | Callback::TaskWork => {
                let which = if kind == Callback::Timer { &caller[1] } else { &caller[3] };
                let map = which.map() as u32;
                callee.regs[1] = Reg::pointer(RegType::MAP_PTR, Payload::Map { map, uid: 0 });
                (callee.regs[2], callee.regs[3]) = map_args(map, 0);
                callee.callback_ret = if kind == Callback::Timer {
                    RetRange { min: 0, max: 0 }
                } else {
                    RetRange { min: i32::MIN, max: i32::MAX }
                };
            }
            Callback::FindVma => {
                let id = self.input.kernel_btf.and_then(|b| super::btfx::find_struct(b, "vm_area_struct"));
                callee.regs[1] = caller[1];
                let pl = Payload::Btf { btf: super::reg::BtfRef::Kernel, id: id.unwrap_or(0) };
                callee.regs[2] = Reg::pointer(RegType::BTF_ID, pl);
                callee.regs[3] = caller[4];
            }
            Callback::UserRingbuf => {
                let ty = DynptrType::Local;
                callee.regs[1] = Reg::pointer(RegType::DYNPTR, Payload::Dynptr { ty, first_slot: true });
                callee.regs[1].id = self.new_id();
                callee.regs[2] = caller[3];
            }
            Callback::RbtreeAdd => {
                let node = self.rbtree_callback_node(&caller[1])?;
                callee.regs[1] = node;
                callee.regs[2] = node;
            }
        }
        Ok(())
    }

    /// A bpf2bpf call.
    pub(super) fn check_func_call(&mut self, insn: &Insn) -> Res {
        let target = i64::from(self.insn_idx) + i64::from(insn.imm) + 1;
        let Some(sub) = self.find_subprog(target) else {
            return self.bug(format_args!("target of func call at insn {target} is not a program"));
        };
        let args = self.check_subprog_call(sub);
        if args == Err(Errno::EFAULT) {
            return args;
        }
        if self.subprogs[sub].is_global {
            return self.call_global(sub, args);
        }
        let frames = self.cur.frames.len();
        self.check_frame_depth(frames)?;
        let mut callee = Frame::new(self.insn_idx as i32, frames as u32, sub as u32);
        for r in 1..6 {
            callee.regs.take(r, self.regs());
        }
        self.clear_caller_saved();
        self.cur.frames.push(callee);
        self.scratched_regs = u32::MAX;
        self.scratched_slots = u64::MAX;
        self.insn_idx = self.subprogs[sub].start - 1;
        self.live_reset_callchain();
        if self.level1() {
            let caller = self.state_text(&self.cur, frames - 1, true);
            let callee = self.state_text(&self.cur, frames, true);
            self.log(format_args!("caller:\n{caller}callee:\n{callee}"));
            self.scratched_regs = u32::MAX;
            self.scratched_slots = u64::MAX;
        }
        Ok(())
    }

    /// A global function is verified on its own: here only its contract counts.
    fn call_global(&mut self, sub: usize, args: Res) -> Res {
        let name = self.subprogs[sub].name.clone();
        if self.cur.active_locks != 0 {
            return self.fail(
                Errno::EINVAL,
                format_args!(
                    "global function calls are not allowed while holding a lock,\nuse static function instead\n"
                ),
            );
        }
        let atomic = self.cur.active_rcu_locks != 0
            || self.cur.active_preempt_locks != 0
            || self.cur.active_irq_id != 0
            || !self.cur.in_sleepable;
        if self.subprogs[sub].might_sleep && atomic {
            return self.fail(
                Errno::EINVAL,
                format_args!(
                    "global functions that may sleep are not allowed in non-sleepable context,\n\
                     i.e., in a RCU/IRQ/preempt-disabled section, or in\n\
                     a non-sleepable BPF program context\n"
                ),
            );
        }
        if let Err(e) = args {
            return self.fail(e, format_args!("Caller passes invalid args into func#{sub} ('{name}')\n"));
        }
        self.log(format_args!("Func#{sub} ('{name}') is global and assumed valid.\n"));
        if self.subprogs[sub].changes_pkt_data {
            self.clear_pkt_pointers();
        }
        self.subprogs[sub].called = true;
        self.clear_caller_saved();
        self.mark_unknown(0);
        Ok(())
    }

    pub(super) fn ret_range_text(&mut self, r: &Reg, range: RetRange, ctx: &str, name: &str) {
        let mut text = String::new();
        if r.smin > i64::MIN {
            text += &format!(" smin={}", r.smin);
        }
        if r.smax < i64::MAX {
            text += &format!(" smax={}", r.smax);
        }
        if text.is_empty() {
            text = " unknown scalar value".to_owned();
        }
        let (min, max) = (range.min, range.max);
        self.say(format_args!("{ctx} the register {name} has{text} should have been in [{min}, {max}]\n"));
    }

    /// Returns from a subprogram or a callback.
    pub(super) fn func_exit(&mut self) -> Res {
        self.live_update();
        let r0 = self.cur.frame().regs[0];
        if r0.ty == RegType::STACK {
            return self.fail(Errno::EINVAL, format_args!("cannot return stack pointer to the caller\n"));
        }
        let (in_callback, callsite) = (self.cur.frame().in_callback, self.cur.frame().callsite);
        let n = self.cur.frames.len();
        if in_callback {
            if !r0.is_scalar() {
                return self.fail(Errno::EACCES, format_args!("R0 not a scalar value\n"));
            }
            self.mark_precise(0)?;
            let range = self.cur.frame().callback_ret;
            if i64::from(range.min) > r0.smin || r0.smax > i64::from(range.max) {
                self.ret_range_text(&r0, range, "At callback return", "R0");
                return Err(Errno::EINVAL);
            }
            if !self.aux[callsite as usize].calls_callback {
                return self.bug(format_args!("in callback at callsite {callsite} !calls_callback"));
            }
        } else {
            self.cur.frames[n - 2].regs[0] = r0;
        }
        self.insn_idx = callsite as u32 + u32::from(!in_callback);
        if self.level1() {
            let callee = self.state_text(&self.cur, n - 1, true);
            let caller = self.state_text(&self.cur, n - 2, true);
            let at = self.insn_idx;
            self.log(format_args!("returning from callee:\n{callee}to caller at {at}:\n{caller}"));
        }
        self.cur.frames.pop();
        if in_callback && let Some(prev) = self.find_prev_entry_cur(self.insn_idx) {
            let mut st = std::mem::take(&mut self.cur);
            self.widen(prev, &mut st);
            self.cur = st;
        }
        Ok(())
    }

    fn prev_entry(&self, st: &State, insn: u32) -> Option<StateId> {
        let bucket = (insn ^ self.cur.frame().callsite as u32) as usize % self.insns.len();
        self.explored[bucket].iter().rev().copied().find(|id| {
            self.states[id.0 as usize].as_ref().is_some_and(|sl| {
                let old = &sl.state;
                old.insn_idx == insn
                    && old.branches != 0
                    && old.same_callsites(st)
                    && old.dfs_depth < st.dfs_depth
            })
        })
    }

    fn find_prev_entry_cur(&self, insn: u32) -> Option<StateId> {
        self.prev_entry(&self.cur, insn)
    }

    /// The state of an earlier visit of this instruction on the same path.
    pub(super) fn find_prev_entry(&self, of: Option<StateId>, insn: u32) -> Option<StateId> {
        let sl = self.states[of?.0 as usize].as_ref()?;
        self.prev_entry(&sl.state, insn)
    }

    /// Scalars that changed since an earlier visit, and whose value mattered to nobody, may be
    /// anything: so loops over iterators converge.
    fn widen(&self, old: StateId, cur: &mut State) {
        let Some(sl) = &self.states[old.0 as usize] else { return };
        let mut ids = super::prune::IdMap::default();
        let mut widens = |o: &Reg, c: &Reg| {
            let fixed = !o.is_scalar() || !c.is_scalar() || o.precise || c.precise;
            !fixed && !super::prune::regs_exact(o, c, &mut ids)
        };
        for (o, c) in sl.state.frames.iter().zip(&mut cur.frames).rev() {
            for i in 0..11 {
                if widens(&o.regs[i], &c.regs[i]) {
                    c.regs[i] = Reg::UNKNOWN;
                }
            }
            for (a, b) in o.stack.iter().zip(c.stack.iter_mut()) {
                if a.is_spilled() && b.is_spilled() && widens(&a.reg, &b.reg) {
                    b.reg = Reg::UNKNOWN;
                }
            }
        }
    }

    /// Widens the path that was queued last.
    pub(super) fn widen_pending(&mut self, old: StateId) -> Res {
        let n = self.pending.len() - 1;
        let mut st = std::mem::take(&mut self.pending[n].state);
        self.widen(old, &mut st);
        self.pending[n].state = st;
        Ok(())
    }
}
