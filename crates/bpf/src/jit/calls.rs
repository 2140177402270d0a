//! Calls of helpers, kernel functions and functions of the program.
//!
//! Arguments are where the platform's calling convention has them, because R1 to R5 have their homes
//! there. Helpers take one more, the run, and kernel functions two: the run, and which one is meant.

use uapi::bpf::{MAX_TAIL_CALL_CNT, func};

use super::asm::{Alu, Cond, Gpr, Mem, Size, Width};
use super::fast::Fast;
use super::node::{Id, Loc, NO_HINT, Op};
use super::regs::{CALLEE_SAVED, CALLER_SAVED};
use super::trace::{CallSite, Callee};
use super::{Compiler, JitError};
use crate::maps::Layout;

/// Holds the run in functions that call something.
pub(super) const RUN: Gpr = Gpr::Rbp;

impl Compiler<'_> {
    pub(super) fn emit_call(&mut self, id: Id) -> Result<(), JitError> {
        let site = self.trace.calls[self.trace.graph[id].aux as usize];
        self.pass_arguments(&site);
        match site.callee {
            Callee::Helper(func::TAIL_CALL) => self.tail_call(&site)?,
            Callee::Local(number) => {
                let label = self.functions[number as usize].label;
                self.asm.call(label);
            }
            Callee::Helper(number) => {
                let map = self.source.facts.insn(site.insn).map;
                let known = map.and_then(|map| (self.source.of_map)(map, number));
                let helper = known.or_else(|| (self.source.helper)(number));
                let helper = helper.ok_or(JitError::Unsupported { insn: site.insn, what: "helper call" })?;
                self.helper_or_fast_path(&site, helper);
            }
            Callee::Kfunc(position) => {
                let kfunc = usize::try_from(position).ok().and_then(self.source.kfunc);
                let kfunc = kfunc.ok_or(JitError::Unsupported { insn: site.insn, what: "kfunc call" })?;
                self.helper_or_fast_path(&site, kfunc);
            }
        }
        self.function.used |= CALLER_SAVED;
        for arg in site.args.into_iter().filter(|arg| arg.is_some()) {
            self.release(arg);
        }
        self.bind(id, Gpr::Rax);
        Ok(())
    }

    /// The usual way of a helper in place, and the call of it aside.
    fn helper_or_fast_path(&mut self, site: &CallSite, helper: u64) {
        match self.fast_path(site, helper) {
            Fast::Whole => {}
            Fast::No => self.call_function(site.callee, helper),
            Fast::Usual(slow) => {
                let done = self.asm.label();
                self.asm.bind(done);
                let marked = self.asm.marked();
                self.asm.switch(true);
                if let Some(insn) = marked {
                    self.asm.mark(insn);
                }
                self.asm.bind(slow);
                self.call_function(site.callee, helper);
                self.asm.jmp(done);
                self.asm.switch(false);
            }
        }
    }

    fn call_function(&mut self, callee: Callee, function: u64) {
        match callee {
            Callee::Kfunc(_) => self.call_kfunc(function),
            _ => self.call_helper(function),
        }
    }

    /// Calls a helper's function.
    fn call_helper(&mut self, helper: u64) {
        self.asm.mov_rr(Width::W64, Gpr::R9, RUN);
        self.call_address(helper);
    }

    /// Calls the function that calls kernel functions.
    fn call_kfunc(&mut self, kfunc: u64) {
        self.asm.mov_ri(Gpr::Rax, kfunc);
        self.asm.mov_rr(Width::W64, Gpr::R9, RUN);
        self.asm.store(Size::D, Mem::new(Gpr::Rsp, 0), Gpr::Rax);
        self.call_address(self.source.abi.call_kfunc);
    }

    /// Calls a function elsewhere; rax may be changed before.
    pub(super) fn call_address(&mut self, addr: u64) {
        if self.far_calls {
            self.asm.mov_ri(Gpr::Rax, addr);
            return self.asm.call_r(Gpr::Rax);
        }
        self.asm.call_addr(addr);
    }

    /// Goes on with another program, whose entry finds everything as if it had been called itself. Falls
    /// through if there is none.
    ///
    /// Kernel: `arch/x86/net/bpf_jit_comp.c emit_bpf_tail_call_indirect, v6.18`
    fn tail_call(&mut self, site: &CallSite) -> Result<(), JitError> {
        let fact = self.source.facts.insn(site.insn);
        let map = fact.map.and_then(|m| self.source.maps.get(m as usize)).map(|m| m.layout);
        let Some(Layout::Slots { base, max_entries }) = map else {
            return Err(JitError::Unsupported { insn: site.insn, what: "tail call with an unknown map" });
        };
        let abi = &self.source.abi;
        let (count, current) = (Mem::new(RUN, abi.run_tail_calls), Mem::new(RUN, abi.run_program));
        let (program, code) = (Gpr::Rax, Gpr::Rcx);
        let fail = self.asm.label();
        match fact.key.map(|k| k as u32) {
            Some(index) if index >= max_entries => return Ok(()),
            Some(index) => {
                self.asm.mov_ri(program, base + u64::from(index) * 8);
                self.asm.load(Size::D, program, Mem::new(program, 0));
            }
            None => {
                let index = self.function.homes[3];
                self.asm.mov_rr(Width::W32, index, index);
                self.asm.alu_ri(Alu::Cmp, Width::W32, index, max_entries as i32);
                self.asm.jcc(Cond::Ae, fail);
                self.asm.mov_ri(program, base);
                self.asm.load(Size::D, program, Mem::indexed(program, index, 3, 0));
            }
        }
        self.asm.alu_mi(Alu::Cmp, Size::W, count, MAX_TAIL_CALL_CNT as i32);
        self.asm.jcc(Cond::Ae, fail);
        self.asm.test_rr(Width::W64, program, program);
        self.asm.jcc(Cond::E, fail);
        self.asm.load(Size::D, code, Mem::new(program, 0));
        self.asm.load(Size::D, code, Mem::new(code, abi.program_entry));
        self.asm.inc_m(Size::W, count, false);
        self.asm.store(Size::D, current, program);
        self.asm.mov_rr(Width::W64, Gpr::Rsi, RUN);
        self.asm.leave(self.function.number);
        self.asm.jmp_r(code);
        self.asm.bind(fail);
        Ok(())
    }

    /// Code between helpers and the functions that they call back, which expect the run in its register.
    pub(super) fn callback_entries(&mut self) {
        self.asm.switch(true);
        for i in 0..self.functions.len() {
            if !self.source.called_back.contains(&self.source.functions[i]) {
                continue;
            }
            let label = self.functions[i].label;
            let callback = self.asm.label();
            self.functions[i].callback = Some(callback);
            self.asm.bind(callback);
            self.asm.push(RUN);
            self.asm.mov_rr(Width::W64, RUN, Gpr::R9);
            self.asm.call(label);
            self.asm.pop(RUN);
            self.asm.ret();
        }
        self.asm.switch(false);
    }

    /// Puts arguments where the callee takes them, and everything else that is still needed where the callee
    /// leaves it alone.
    fn pass_arguments(&mut self, site: &CallSite) {
        let homes = self.function.homes;
        let args: Vec<(Id, Gpr)> =
            site.args.into_iter().zip(homes[1..6].iter().copied()).filter(|(arg, _)| arg.is_some()).collect();
        for (arg, _) in &args {
            let n = self.trace.graph[*arg];
            let cheap = matches!(n.op, Op::Const | Op::Frame | Op::Undef);
            if n.loc == Loc::NONE && !cheap {
                self.ensure(*arg);
            }
        }
        let left = self.save_across(&args, CALLER_SAVED);
        let mut moves = std::mem::take(&mut self.moves);
        moves.clear();
        for (arg, home) in &args {
            if left[home.n() as usize] != *arg
                && let Some(from) = self.trace.graph[*arg].loc.as_reg()
            {
                moves.push((Gpr::from_number(from), *home));
            }
        }
        self.shuffle(&mut moves);
        self.moves = moves;
        for (arg, home) in args {
            if left[home.n() as usize] != arg && self.trace.graph[arg].loc.as_reg().is_none() {
                self.load_argument(arg, home);
            }
        }
    }

    /// Moves what lives on out of the registers that are about to be changed. Answers what still stands in them
    /// all the same.
    pub(super) fn save_across(&mut self, args: &[(Id, Gpr)], changed: u16) -> [Id; 16] {
        let mut left = [Id::NONE; 16];
        for r in Gpr::ALL.into_iter().filter(|r| changed & r.bit() != 0) {
            let id = self.regs.owner(r);
            if id == Id::NONE {
                continue;
            }
            let n = self.trace.graph[id];
            let passed = args.iter().filter(|(arg, _)| *arg == id).count() as u16;
            if n.uses == passed {
                continue;
            }
            left[r.n() as usize] = id;
            let kept = self.regs.free_of(if changed == CALLER_SAVED { CALLEE_SAVED } else { !changed });
            if kept == 0 || n.op == Op::Const {
                self.spill(id);
                continue;
            }
            let wanted = n.hint != NO_HINT && kept & (1 << n.hint) != 0;
            let to = if wanted { Gpr::from_number(n.hint) } else { self.pick(kept) };
            self.copy(to, r, n.bits);
            self.rebind(id, to);
        }
        left
    }

    fn load_argument(&mut self, arg: Id, home: Gpr) {
        let n = self.trace.graph[arg];
        match (n.op, n.loc.as_slot()) {
            (_, Some(slot)) => {
                let mem = self.slot(slot);
                self.asm.load(Size::D, home, mem);
            }
            (Op::Const, None) => self.load_constant(home, n.imm as u64),
            (Op::Frame, None) => {
                let mem = self.frame_mem(n.imm as i32);
                self.asm.lea(Width::W64, home, mem);
            }
            _ => {}
        }
    }
}
