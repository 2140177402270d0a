//! The entry for many packets: one call runs the program over each of them.
//!
//! While a packet is worked on, the header of the one after the next is fetched. The loop ends after a packet
//! that is to be redirected, because where to is only known until the next one is run.

use uapi::xdp::XdpAction;

use super::Compiler;
use super::asm::{Alu, Cond, Gpr, Label, Mem, Size, Unary, Width};

/// Packets that the fetching is ahead.
const AHEAD: i32 = 2;

/// End of the array of buffs' addresses.
const BUFFS: Gpr = Gpr::Rbx;
const RUN: Gpr = Gpr::R12;
/// Packets that are left, as a negative number: counted up, it is the place in both arrays.
const LEFT: Gpr = Gpr::R13;
/// End of the array of verdicts.
const VERDICTS: Gpr = Gpr::R14;
/// The program, for after tail calls.
const PROGRAM: Gpr = Gpr::R15;
/// Registers that the loop keeps things in, in the order in which they are saved. An odd number of them keeps
/// the stack where calls expect it.
const SAVED: [Gpr; 5] = [BUFFS, RUN, LEFT, VERDICTS, PROGRAM];

impl Compiler<'_> {
    /// Takes the address of an array of buffs' addresses, the run, their number (not 0), and room for as many
    /// verdicts; answers how many packets were run.
    pub(super) fn batch_entry(&mut self) -> Label {
        let (entry, again, last) = (self.asm.label(), self.asm.label(), self.asm.label());
        self.asm.switch(true);
        self.asm.align(4);
        self.asm.bind(entry);
        for r in SAVED {
            self.asm.push(r);
        }
        self.asm.mov_rr(Width::W32, Gpr::Rdx, Gpr::Rdx);
        self.asm.lea(Width::W64, BUFFS, Mem::indexed(Gpr::Rdi, Gpr::Rdx, 3, 0));
        self.asm.mov_rr(Width::W64, RUN, Gpr::Rsi);
        self.asm.lea(Width::W64, VERDICTS, Mem::indexed(Gpr::Rcx, Gpr::Rdx, 2, 0));
        self.asm.mov_rr(Width::W64, LEFT, Gpr::Rdx);
        self.asm.unary(Unary::Neg, Width::W64, LEFT);
        // The number, to tell how many are done.
        self.asm.push(Gpr::Rdx);
        self.asm.push(Gpr::Rdx);
        if self.tail_calls {
            self.asm.load(Size::D, PROGRAM, Mem::new(RUN, self.source.abi.run_program));
        }
        self.asm.align(4);
        self.asm.bind(again);
        self.fetch_ahead();
        self.one_packet();
        self.asm.alu_ri(Alu::Cmp, Width::W32, Gpr::Rax, XdpAction::Redirect as i32);
        self.asm.jcc(Cond::E, last);
        self.asm.inc(Width::W64, LEFT, false);
        self.asm.jcc(Cond::Ne, again);
        // As after a redirect: the packet that was run last is not counted yet.
        self.asm.inc(Width::W64, LEFT, true);
        self.asm.bind(last);
        self.asm.pop(Gpr::Rax);
        self.asm.pop(Gpr::Rax);
        self.asm.lea(Width::W32, Gpr::Rax, Mem::indexed(Gpr::Rax, LEFT, 0, 1));
        for r in SAVED.into_iter().rev() {
            self.asm.pop(r);
        }
        self.asm.ret();
        self.asm.switch(false);
        entry
    }

    fn fetch_ahead(&mut self) {
        let none = self.asm.label();
        self.asm.alu_ri(Alu::Cmp, Width::W64, LEFT, -AHEAD);
        self.asm.jcc(Cond::Ge, none);
        self.asm.load(Size::D, Gpr::Rax, Mem::indexed(BUFFS, LEFT, 3, 8 * AHEAD));
        self.asm.load(Size::D, Gpr::Rax, Mem::new(Gpr::Rax, self.source.abi.data));
        self.asm.prefetch(Mem::new(Gpr::Rax, 0));
        self.asm.bind(none);
    }

    fn one_packet(&mut self) {
        let (abi, main) = (self.source.abi, self.functions[0].label);
        let function = self.cfg.functions[0];
        self.asm.load(Size::D, Gpr::Rdi, Mem::indexed(BUFFS, LEFT, 3, 0));
        if self.cfg.functions.iter().any(|f| f.calls) {
            self.asm.store(Size::D, Mem::new(RUN, abi.run_buff), Gpr::Rdi);
        }
        if function.calls || function.uses_run {
            self.asm.mov_rr(Width::W64, Gpr::Rsi, RUN);
        }
        if self.tail_calls {
            self.asm.store_imm(Size::W, Mem::new(RUN, abi.run_tail_calls), 0);
        }
        self.asm.call(main);
        if self.tail_calls {
            self.asm.store(Size::D, Mem::new(RUN, abi.run_program), PROGRAM);
        }
        self.asm.store(Size::W, Mem::indexed(VERDICTS, LEFT, 2, 0), Gpr::Rax);
    }
}
