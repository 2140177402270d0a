//! Walking the paths of a function: one instruction after the other, one path after the other.

use uapi::Errno;
use uapi::bpf::*;

use super::alu::Use;
use super::env::{Env, Pending, Res};
use super::reg::{BtfRef, DynptrType, Payload, Reg};
use super::state::{Frame, State};
use super::types::{ArgType, RegType, flag};
use crate::insn::Insn;

/// Instructions that may be processed over all paths.
const COMPLEXITY_LIMIT: u32 = 1_000_000;

/// States that may be kept for [`Claims`](super::Claims).
const CLAIMED_STATES: u32 = 20_000;

/// Whether the path goes on.
#[derive(PartialEq, Eq)]
enum Flow {
    On,
    End,
}

impl Env<'_> {
    /// Verifies the program: the main function, then every global function that is called.
    pub(super) fn check_all(&mut self) -> Res {
        self.check_function(0)?;
        if !self.has_func_info {
            return Ok(());
        }
        if self.exception_cb != 0 {
            let cb = self.exception_cb;
            self.subprogs[cb].called = true;
        }
        loop {
            let next = (1..self.subprog_cnt).find(|i| {
                let s = &self.subprogs[*i];
                s.is_global && s.called && !s.verified
            });
            let Some(sub) = next else { return Ok(()) };
            // The kernel makes rounds over all functions; the order within a round is the same.
            for i in sub..self.subprog_cnt {
                let s = &self.subprogs[i];
                if !s.is_global || !s.called || s.verified {
                    continue;
                }
                self.check_function(i)?;
                self.subprogs[i].verified = true;
                let name = self.subprogs[i].name.clone();
                self.log(format_args!("Func#{i} ('{name}') is safe for any args that match its prototype\n"));
            }
        }
    }

    fn check_function(&mut self, sub: usize) -> Res {
        self.prev_line = None;
        self.insn_idx = self.subprogs[sub].start;
        self.cur = State {
            branches: 1,
            first_insn_idx: self.insn_idx,
            last_insn_idx: -1,
            in_sleepable: self.input.prog_flags & BPF_F_SLEEPABLE != 0,
            ..State::default()
        };
        self.cur.frames.push(Frame::new(super::state::MAIN_FUNC, 0, sub as u32));
        self.touch_all();
        if sub != 0 {
            let name = self.subprogs[sub].name.clone();
            self.log(format_args!("Validating {name}() func#{sub}...\n"));
            self.entry_args(sub)?;
        } else {
            if self.has_func_info {
                let len = self.message.len();
                let _ = self.prepare_func_args(0);
                self.message.truncate(len);
            }
            *self.reg_mut(1) = Reg::pointer(RegType::CTX, Payload::None);
        }
        self.walk_paths()?;
        if !self.level2() {
            self.log.clear();
        }
        if self.claims.is_some() {
            self.collect_claims();
        }
        self.forget_states();
        Ok(())
    }

    fn touch_all(&mut self) {
        self.scratched_regs = u32::MAX;
        self.scratched_slots = u64::MAX;
    }

    fn forget_states(&mut self) {
        self.history = self.history.take().map(|_| Box::default());
        self.states.clear();
        self.free_ids.clear();
        self.explored.iter_mut().for_each(Vec::clear);
        self.scc_visits.iter_mut().for_each(Vec::clear);
        self.explored_size = 0;
        self.free_list_size = 0;
        self.num_backedges = 0;
        while let Some(p) = self.pending.pop() {
            self.spare.push(p.state);
        }
    }

    /// What a global function finds in its registers.
    fn entry_args(&mut self, sub: usize) -> Res {
        self.prepare_func_args(sub)?;
        let args = self.subprogs[sub].args.clone().unwrap_or_default();
        if self.subprogs[sub].is_exception_cb {
            self.cur.frame_mut().in_exception_callback = true;
            if args.len() != 1 || args[0].ty != ArgType::ANYTHING {
                return self.fail(
                    Errno::EINVAL,
                    format_args!("exception cb only supports single integer argument\n"),
                );
            }
        }
        for (i, a) in args.iter().enumerate() {
            let keep = |flags: u32| a.ty.0 & flags;
            let r = match a.ty.base() {
                ArgType::PTR_TO_CTX => Reg::pointer(RegType::CTX, Payload::None),
                ArgType::PTR_TO_DYNPTR => {
                    let pl = Payload::Dynptr { ty: DynptrType::Local, first_slot: true };
                    let mut r = Reg::pointer(RegType::DYNPTR, pl);
                    r.id = self.new_id();
                    r
                }
                ArgType::PTR_TO_MEM => {
                    let ty = RegType::MEM
                        .with(keep(flag::PTR_MAYBE_NULL | flag::PTR_UNTRUSTED | flag::MEM_RDONLY));
                    let mut r = Reg::pointer(ty, Payload::Mem { size: a.extra, dynptr_id: 0 });
                    if a.ty.may_be_null() {
                        r.id = self.new_id();
                    }
                    r
                }
                ArgType::PTR_TO_BTF_ID => {
                    let ty = RegType::BTF_ID
                        .with(keep(flag::PTR_MAYBE_NULL | flag::PTR_UNTRUSTED | flag::PTR_TRUSTED));
                    let mut r = Reg::pointer(ty, Payload::Btf { btf: BtfRef::Kernel, id: a.extra });
                    r.id = self.new_id();
                    r
                }
                _ => Reg::UNKNOWN,
            };
            *self.reg_mut(i + 1) = r;
        }
        Ok(())
    }

    fn walk_paths(&mut self) -> Res {
        let mut print_state = false;
        let mut prev: i32 = -1;
        loop {
            self.hist_open = false;
            self.prev_insn_idx = prev;
            self.message.clear();
            let idx = self.insn_idx;
            if idx as usize >= self.insns.len() {
                let n = self.insns.len();
                return self.fail(Errno::EFAULT, format_args!("invalid insn idx {idx} insn_cnt {n}\n"));
            }
            self.insn_processed += 1;
            let unclaimable = self.claims.is_some() && self.total_states > CLAIMED_STATES;
            if self.insn_processed > COMPLEXITY_LIMIT || unclaimable {
                let n = self.insn_processed;
                return self
                    .fail(Errno::E2BIG, format_args!("BPF program is too large. Processed {n} insn\n"));
            }
            self.cur.last_insn_idx = prev;
            self.cur.insn_idx = idx;
            let aux = &self.aux[idx as usize];
            let (prune, jmp) = (aux.prune_point, aux.jmp_point);
            if (prune || self.claims.is_some()) && self.is_state_visited(idx)? {
                if print_state {
                    self.log(format_args!("\nfrom {prev} to {idx}: safe\n"));
                } else {
                    self.log(format_args!("{idx}: safe\n"));
                }
                if !self.next_path(&mut prev)? {
                    return Ok(());
                }
                print_state = true;
                continue;
            }
            if jmp {
                self.push_history(0, Default::default());
            }
            if self.level1() {
                self.log_before(&mut print_state, prev);
            }
            self.aux[idx as usize].seen = true;
            if let Some(history) = &mut self.history {
                history.record(idx, &self.cur);
            }
            prev = idx as i32;
            self.live_reset_writes(idx);
            let out = self.check_insn(&mut print_state);
            if !matches!(out, Err(e) if !matches!(e, Errno::EPERM | Errno::EACCES | Errno::EINVAL)) {
                self.live_commit_writes();
            }
            if out? == Flow::End {
                if !self.next_path(&mut prev)? {
                    return Ok(());
                }
                print_state = true;
            }
        }
    }

    fn log_before(&mut self, print_state: &mut bool, prev: i32) {
        if self.level2() && *print_state {
            let frame = self.cur.curframe();
            let text = self.state_text(&self.cur, frame, true);
            let idx = self.insn_idx;
            self.log(format_args!("\nfrom {prev} to {idx}:{text}"));
            *print_state = false;
        }
        self.log_insn();
    }

    /// Ends the current path and takes up the one queued last. `false`: there is none.
    fn next_path(&mut self, prev: &mut i32) -> Res<bool> {
        self.touch_all();
        self.finish_path()?;
        self.live_update();
        let Some(Pending { state, insn_idx, prev_insn_idx, log_pos, history_pos }) = self.pending.pop()
        else {
            return Ok(false);
        };
        let done = std::mem::replace(&mut self.cur, state);
        self.spare.push(done);
        if !self.level2() && self.level1() {
            self.log.truncate(log_pos);
        }
        if let Some(history) = &mut self.history {
            history.return_to(history_pos);
        }
        self.insn_idx = insn_idx;
        *prev = prev_insn_idx as i32;
        Ok(true)
    }

    fn check_insn(&mut self, print_state: &mut bool) -> Res<Flow> {
        let insn = self.insn();
        match insn.class() {
            BPF_ALU | BPF_ALU64 => self.check_alu(&insn)?,
            BPF_LDX => self.check_load(&insn, false, insn.mode() == BPF_MEMSX, true, "ldx")?,
            BPF_STX if insn.mode() == BPF_ATOMIC => self.check_atomic(&insn)?,
            BPF_STX => {
                if insn.mode() != BPF_MEM || insn.imm != 0 {
                    return self.fail(Errno::EINVAL, format_args!("BPF_STX uses reserved fields\n"));
                }
                self.check_store(&insn, false)?;
            }
            BPF_ST => {
                if insn.mode() != BPF_MEM || insn.src != 0 {
                    return self.fail(Errno::EINVAL, format_args!("BPF_ST uses reserved fields\n"));
                }
                self.check_store(&insn, false)?;
            }
            BPF_JMP | BPF_JMP32 => return self.check_jmp(&insn, print_state),
            _ => match insn.mode() {
                BPF_ABS | BPF_IND => {
                    return self.fail(
                        Errno::EINVAL,
                        format_args!("BPF_LD_[ABS|IND] instructions not allowed for this program type\n"),
                    );
                }
                BPF_IMM => {
                    self.check_ld_imm(&insn)?;
                    self.insn_idx += 1;
                    let second = self.insn_idx as usize;
                    self.aux[second].seen = true;
                }
                _ => return self.fail(Errno::EINVAL, format_args!("invalid BPF_LD mode\n")),
            },
        }
        self.insn_idx += 1;
        Ok(Flow::On)
    }

    fn check_jmp(&mut self, insn: &Insn, print_state: &mut bool) -> Res<Flow> {
        let jmp32 = insn.class() == BPF_JMP32;
        self.jmps_processed += 1;
        match insn.op() {
            BPF_CALL => {
                if self.check_call(insn)? == Flow::End {
                    return self.check_exit(true, print_state);
                }
            }
            BPF_JA => {
                let reserved = insn.is_src_reg()
                    || insn.src != 0
                    || insn.dst != 0
                    || !jmp32 && insn.imm != 0
                    || jmp32 && insn.off != 0;
                if reserved {
                    return self.fail(Errno::EINVAL, format_args!("BPF_JA uses reserved fields\n"));
                }
                self.insn_idx = self.insn_idx.wrapping_add_signed(super::cfg::jmp_offset(insn) + 1);
                return Ok(Flow::On);
            }
            BPF_EXIT => {
                if insn.is_src_reg() || insn.imm != 0 || insn.src != 0 || insn.dst != 0 || jmp32 {
                    return self.fail(Errno::EINVAL, format_args!("BPF_EXIT uses reserved fields\n"));
                }
                return self.check_exit(false, print_state);
            }
            _ => self.check_cond_jmp(insn)?,
        }
        // A jump that is known to go to the first instruction has left the one before it.
        self.insn_idx = self.insn_idx.wrapping_add(1);
        Ok(Flow::On)
    }

    fn check_call(&mut self, insn: &Insn) -> Res<Flow> {
        let reserved = insn.is_src_reg()
            || insn.src != BPF_PSEUDO_KFUNC_CALL && insn.off != 0
            || !matches!(insn.src, 0 | BPF_PSEUDO_CALL | BPF_PSEUDO_KFUNC_CALL)
            || insn.dst != 0
            || insn.class() == BPF_JMP32;
        if reserved {
            return self.fail(Errno::EINVAL, format_args!("BPF_CALL uses reserved fields\n"));
        }
        if self.cur.active_locks != 0
            && (insn.src == 0 && insn.imm != func::SPIN_UNLOCK
                || insn.src == BPF_PSEUDO_KFUNC_CALL && !self.kfunc_under_lock(insn))
        {
            return self
                .fail(Errno::EINVAL, format_args!("function calls are not allowed while holding a lock\n"));
        }
        match insn.src {
            BPF_PSEUDO_CALL => self.check_func_call(insn)?,
            BPF_PSEUDO_KFUNC_CALL => {
                self.check_kfunc_call(insn)?;
                if self.kfunc_of(insn).is_some_and(|k| k.name == "bpf_throw") {
                    return self.check_exit(true, &mut false);
                }
            }
            _ => self.check_helper_call(insn)?,
        }
        self.scratched_regs |= 1;
        Ok(Flow::On)
    }

    fn check_exit(&mut self, exception: bool, print_state: &mut bool) -> Res<Flow> {
        let main = self.cur.curframe() == 0;
        let what = if exception { "bpf_throw" } else { "BPF_EXIT instruction in main prog" };
        self.check_resource_leak(exception, exception || main, what)?;
        if exception {
            return Ok(Flow::End);
        }
        if !main {
            self.func_exit()?;
            *print_state = true;
            return Ok(Flow::On);
        }
        self.check_return_code(0, "R0")?;
        Ok(Flow::End)
    }

    /// What a program, a global function or an asynchronous callback may return.
    pub(super) fn check_return_code(&mut self, regno: usize, name: &str) -> Res {
        self.check_reg(regno as u8, Use::Src)?;
        let frame = &self.cur.frames[0];
        let (range, is_async) = (frame.callback_ret, frame.in_async_callback);
        let (is_sub, is_exc) = (frame.subprogno != 0, frame.in_exception_callback);
        let reg = *self.reg(regno);
        if is_async {
            let ctx = "At async callback return";
            if !reg.is_scalar() {
                let text = reg.ty.text();
                return self.fail(
                    Errno::EINVAL,
                    format_args!("{ctx} the register R{regno} is not a known value ({text})\n"),
                );
            }
            self.mark_precise(regno)?;
            if i64::from(range.min) > reg.smin || reg.smax > i64::from(range.max) {
                self.ret_range_text(&reg, range, ctx, name);
                return Err(Errno::EINVAL);
            }
        } else if is_sub && !is_exc && !reg.is_scalar() {
            let text = reg.ty.text();
            return self.fail(
                Errno::EINVAL,
                format_args!("At subprogram exit the register R{regno} is not a scalar value ({text})\n"),
            );
        }
        Ok(())
    }
}
