//! Stack over chains of calls, and registers that calls need not save.

use uapi::Errno;
use uapi::bpf::*;

use super::cfg::is_pseudo_func;
use super::env::{Env, Res};

const MAX_STACK: u32 = MAX_BPF_STACK as u32;

fn round_up(depth: u32) -> u32 {
    depth.div_ceil(16) * 16
}

impl Env<'_> {
    /// The stacks of every chain of calls together fit.
    pub(super) fn check_max_stack_depth(&mut self) -> Res {
        for i in (0..self.subprog_cnt).rev() {
            if i == 0 || self.subprogs[i].is_async_cb {
                self.check_depth_from(i)?;
            }
        }
        Ok(())
    }

    fn check_depth_from(&mut self, root: usize) -> Res {
        let mut chain: Vec<(usize, usize)> = Vec::new();
        let (mut sub, mut depth) = (root, 0);
        let mut tail_reachable = false;
        let mut i = self.subprogs[root].start as usize;
        let mut entering = true;
        loop {
            if entering {
                if sub != 0 && self.subprogs[sub].has_tail_call && depth >= 256 {
                    return self.fail(
                        Errno::EACCES,
                        format_args!(
                            "tail_calls are not allowed when call stack of previous frames is {depth} bytes. Too large\n"
                        ),
                    );
                }
                depth += round_up(self.subprogs[sub].stack_depth);
                if depth > MAX_STACK {
                    let n = chain.len() + 1;
                    return self.fail(
                        Errno::EACCES,
                        format_args!("combined stack size of {n} calls is {depth}. Too large\n"),
                    );
                }
                entering = false;
            }
            let end = self.subprogs[sub + 1].start as usize;
            let call = (i..end).find(|j| {
                let insn = &self.insns[*j];
                insn.is_pseudo_call() || is_pseudo_func(insn) || self.is_throw(*j)
            });
            let Some(at) = call else {
                if tail_reachable {
                    for (c, _) in &chain {
                        if self.subprogs[*c].is_exception_cb {
                            return self
                                .fail(Errno::EINVAL, format_args!("cannot tail call within exception cb\n"));
                        }
                        self.subprogs[*c].tail_call_reachable = true;
                    }
                }
                let Some((back, next)) = chain.pop() else { return Ok(()) };
                depth -= round_up(self.subprogs[sub].stack_depth);
                sub = back;
                i = next;
                continue;
            };
            if self.is_throw(at) {
                self.check_throw(at, sub, &chain)?;
                i = at + 1;
                continue;
            }
            let insn = self.insns[at];
            let target = at as i64 + i64::from(insn.imm) + 1;
            let Some(callee) = self.find_subprog(target) else {
                return self.bug(format_args!("callee not found at insn {target}"));
            };
            if self.subprogs[callee].is_async_cb {
                if self.subprogs[callee].has_tail_call {
                    return self.bug(format_args!("subprog has tail_call and async cb"));
                }
                if !insn.is_pseudo_call() {
                    i = at + 1;
                    continue;
                }
                if self.subprogs[callee].is_exception_cb {
                    return self
                        .fail(Errno::EINVAL, format_args!("insn {at} cannot call exception cb directly"));
                }
            }
            chain.push((sub, at + 1));
            sub = callee;
            i = target as usize;
            tail_reachable |= self.subprogs[sub].has_tail_call;
            if chain.len() >= MAX_CALL_FRAMES {
                let n = chain.len();
                return self.fail(Errno::E2BIG, format_args!("the call stack of {n} frames is too deep !\n"));
            }
            entering = true;
        }
    }

    fn is_throw(&self, at: usize) -> bool {
        let insn = &self.insns[at];
        insn.is_kfunc_call() && self.kfunc_of(insn).is_some_and(|k| k.name == "bpf_throw")
    }

    fn check_throw(&mut self, at: usize, sub: usize, chain: &[(usize, usize)]) -> Res {
        let in_cb = self.subprogs[sub].is_cb || chain.iter().any(|(c, _)| self.subprogs[*c].is_cb);
        if !in_cb {
            return Ok(());
        }
        self.fail(
            Errno::EINVAL,
            format_args!("bpf_throw kfunc (insn {at}) cannot be called from callback subprog {sub}\n"),
        )
    }

    /// Finds calls whose surrounding spills and fills the kernel can leave out.
    ///
    /// Kernel: `kernel/bpf/verifier.c mark_fastcall_patterns`, v6.18.
    pub(super) fn mark_fastcall(&mut self) {
        for s in 0..self.subprog_cnt {
            let range = self.subprogs[s].start as usize..self.subprogs[s + 1].start as usize;
            let lowest = range
                .clone()
                .filter(|i| {
                    let x = &self.insns[*i];
                    x.code == BPF_STX | BPF_MEM | BPF_DW && x.dst == 10
                })
                .map(|i| i32::from(self.insns[i].off))
                .min()
                .unwrap_or(0)
                .min(0);
            for i in range {
                if self.insns[i].code == BPF_JMP | BPF_CALL {
                    self.mark_fastcall_at(s, i, lowest);
                }
            }
        }
    }

    fn mark_fastcall_at(&mut self, sub: usize, at: usize, lowest: i32) {
        let call = self.insns[at];
        let (params, void, fast) = if call.is_helper_call() {
            let Some(p) = super::protos::available(call.imm) else { return };
            (p.nargs(), p.ret == super::types::RetType::VOID, p.fastcall)
        } else if let Some(k) = self.kfunc_of(&call).filter(|k| k.allowed) {
            let void = k.ret.0 == 0;
            (k.params.len(), void, k.has(super::kfuncs::kf::FASTCALL))
        } else {
            return;
        };
        let clobbered = ((1u32 << (params + 1)) - 1) & if void { !1 } else { !0 };
        let mut expected = !clobbered & 0x3f;
        let mut off = lowest;
        let mut n = 0;
        for i in 1..=6usize {
            if at < i || at + i >= self.insns.len() {
                break;
            }
            let (st, ld) = (self.insns[at - i], self.insns[at + i]);
            let pair = st.code == BPF_STX | BPF_MEM | BPF_DW
                && ld.code == BPF_LDX | BPF_MEM | BPF_DW
                && st.dst == 10
                && ld.src == 10
                && st.src == ld.dst
                && expected & (1 << st.src) != 0
                && i32::from(st.off) == off
                && i32::from(ld.off) == off;
            if !pair {
                break;
            }
            expected &= !(1 << st.src);
            self.aux[at - i].fastcall_pattern = true;
            self.aux[at + i].fastcall_pattern = true;
            off += 8;
            n = i;
        }
        if n == 0 {
            return;
        }
        if fast {
            self.aux[at].fastcall_spills = n as u8;
        } else {
            self.subprogs[sub].keep_fastcall_stack = true;
        }
        let s = &mut self.subprogs[sub];
        s.fastcall_stack_off = s.fastcall_stack_off.min(off);
    }

    /// An access below the spills of fastcall patterns makes them necessary.
    pub(super) fn check_fastcall_contract(&mut self, frameno: u32, insn: u32, off: i32) {
        let sub = self.cur.frames[frameno as usize].subprogno as usize;
        if self.subprogs[sub].fastcall_stack_off <= off || self.aux[insn as usize].fastcall_pattern {
            return;
        }
        self.subprogs[sub].fastcall_stack_off = i32::from(i16::MIN);
        let range = self.subprogs[sub].start as usize..self.subprogs[sub + 1].start as usize;
        for a in &mut self.aux[range] {
            a.fastcall_spills = 0;
            a.fastcall_pattern = false;
        }
    }

    /// Leaving the spills out shrinks the stack.
    pub(super) fn shrink_fastcall_stack(&mut self) {
        for s in 0..self.subprog_cnt {
            let range = self.subprogs[s].start as usize..self.subprogs[s + 1].start as usize;
            let removed = self.aux[range].iter().any(|a| a.fastcall_spills > 0);
            if removed && !self.subprogs[s].keep_fastcall_stack {
                self.subprogs[s].stack_depth = (-self.subprogs[s].fastcall_stack_off).max(0) as u32;
            }
        }
    }
}
