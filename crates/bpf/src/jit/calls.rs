//! Calls of helpers, kernel functions and functions of the program.
//!
//! Arguments are where the platform's calling convention has them, because R1 to R5 have their homes
//! there. Helpers take two more: the run, and which helper is meant.

use uapi::bpf::func;

use super::asm::{Gpr, Mem, Size, Width};
use super::node::{Id, Loc, NO_HINT, Op};
use super::regs::{CALLEE_SAVED, CALLER_SAVED};
use super::trace::{CallSite, Callee};
use super::{Compiler, JitError};

/// Holds the run in functions that call something.
pub(super) const RUN: Gpr = Gpr::Rbp;

impl Compiler<'_> {
    pub(super) fn emit_call(&mut self, id: Id) -> Result<(), JitError> {
        let site = self.trace.calls[self.trace.graph[id].aux as usize];
        if site.callee == Callee::Helper(func::TAIL_CALL) {
            return Err(JitError::Unsupported { insn: site.insn, what: "tail call" });
        }
        self.pass_arguments(&site);
        match site.callee {
            Callee::Local(number) => {
                let label = self.functions[number as usize].label;
                self.asm.call(label);
            }
            Callee::Helper(number) => self.call_helper(number),
            Callee::Kfunc(position) => self.call_helper(-1 - position),
        }
        self.function.used |= CALLER_SAVED;
        for arg in site.args.into_iter().filter(|arg| arg.is_some()) {
            self.release(arg);
        }
        self.bind(id, Gpr::Rax);
        Ok(())
    }

    /// Calls the function that calls helpers.
    fn call_helper(&mut self, key: i32) {
        self.asm.mov_rr(Width::W64, Gpr::R9, RUN);
        self.asm.store_imm(Size::D, Mem::new(Gpr::Rsp, 0), key);
        match self.far_calls {
            false => self.asm.call_addr(self.source.abi.call_helper),
            true => {
                self.asm.mov_ri(Gpr::Rax, self.source.abi.call_helper);
                self.asm.call_r(Gpr::Rax);
            }
        }
    }

    /// Puts arguments where the callee takes them, and everything else that is still needed where the callee
    /// leaves it alone.
    fn pass_arguments(&mut self, site: &CallSite) {
        let homes = self.function.homes;
        let args: Vec<(Id, Gpr)> =
            site.args.into_iter().zip(homes[1..6].iter().copied()).filter(|(arg, _)| arg.is_some()).collect();
        for (arg, _) in &args {
            let n = self.trace.graph[*arg];
            let cheap = matches!(n.op, Op::Const | Op::Frame | Op::Undef | Op::Function);
            if n.loc == Loc::NONE && !cheap {
                self.ensure(*arg);
            }
        }
        let left = self.save_across(&args);
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

    /// Moves what lives on out of the registers that calls change. Answers what still stands in them all the
    /// same.
    fn save_across(&mut self, args: &[(Id, Gpr)]) -> [Id; 16] {
        let mut left = [Id::NONE; 16];
        for r in Gpr::ALL.into_iter().filter(|r| CALLER_SAVED & r.bit() != 0) {
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
            let kept = self.regs.free_of(CALLEE_SAVED);
            if kept == 0 || n.op == Op::Const {
                self.spill(id);
                continue;
            }
            let wanted = n.hint != NO_HINT && kept & (1 << n.hint) != 0;
            let to = if wanted { Gpr::from_number(n.hint) } else { self.alloc(NO_HINT, true) };
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
            (Op::Function, None) => {
                let label = self.functions[n.imm as usize].label;
                self.asm.lea_label(home, label);
            }
            _ => {}
        }
    }
}
