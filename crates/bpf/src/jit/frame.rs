//! A function's frame: what is saved, and where things are in memory.
//!
//! From the stack pointer upwards: room for what is passed to helpers, the BPF stack, the loop budget of
//! `may_goto`, spilled values. A function that calls nothing and needs little has its frame below the
//! stack pointer, in the 128 bytes that nobody else touches there, and does not move the stack pointer.

use super::Compiler;
use super::asm::{Asm, Frame, Gpr, Label, Mem, Size, Width};
use super::calls::RUN;
use super::regs::CALLEE_SAVED;

/// Iterations that `may_goto` allows a function.
///
/// Kernel: `include/linux/bpf.h BPF_MAX_LOOPS, v6.18`
const MAX_LOOPS: i32 = 8 * 1024 * 1024;
/// Bytes below the stack pointer that belong to a function.
const RED_ZONE: i32 = 128;
/// Room for the helper's number.
const OUTGOING: i32 = 16;

/// The function whose code is being made.
#[derive(Debug, Default)]
pub(super) struct FunctionState {
    /// Its number.
    pub(super) number: u32,
    /// Where R0 to R9 are between traces.
    pub(super) homes: [Gpr; 10],
    /// Holds the run, if it is used.
    pub(super) run: Gpr,
    /// Registers that may be used.
    pub(super) usable: u16,
    /// Registers that are.
    pub(super) used: u16,
    /// Bytes of BPF stack.
    pub(super) stack: i32,
    /// Bytes below it.
    pub(super) below_stack: i32,
    /// Bytes of the loop budget above it.
    pub(super) counter: i32,
    /// Spill slots above that.
    pub(super) spill_slots: u8,
    /// Whether the frame lies below the stack pointer.
    pub(super) red_zone: bool,
    /// Code that returns a constant.
    pub(super) returns: Vec<(u64, Label)>,
}

/// Homes of R0 to R9 where calls happen: R6 to R9 in registers that calls leave alone.
const CALLING: [Gpr; 10] =
    [Gpr::Rax, Gpr::Rdi, Gpr::Rsi, Gpr::Rdx, Gpr::Rcx, Gpr::R8, Gpr::Rbx, Gpr::R13, Gpr::R14, Gpr::R15];

/// Homes where nothing is called, so that nothing need be saved.
const LEAF: [Gpr; 10] =
    [Gpr::Rax, Gpr::Rdi, Gpr::Rsi, Gpr::Rdx, Gpr::Rcx, Gpr::R8, Gpr::R9, Gpr::R10, Gpr::R11, Gpr::Rbx];

/// Homes in the entry function where nothing is called and the run stays in rsi.
const LEAF_WITH_RUN: [Gpr; 10] =
    [Gpr::Rax, Gpr::Rdi, Gpr::R9, Gpr::Rdx, Gpr::Rcx, Gpr::R8, Gpr::R10, Gpr::R11, Gpr::Rbx, Gpr::R12];

impl Compiler<'_> {
    pub(super) fn begin_function(&mut self, number: u32) {
        let f = self.cfg.functions[number as usize];
        let (stack, counter) = (f.stack as i32, if f.may_goto { 8 } else { 0 });
        // Spilling is rare and needs few slots: two are set aside.
        let small = stack + counter + 16 <= RED_ZONE;
        // Callers of other functions hold the run in its register, so it is there in these too.
        let run = if f.calls || number > 0 { RUN } else { Gpr::Rsi };
        let reserved = Gpr::Rsp.bit() | if f.calls || f.uses_run { run.bit() } else { 0 };
        let homes = match (f.calls, f.uses_run && number == 0) {
            (true, _) => CALLING,
            (false, true) => LEAF_WITH_RUN,
            (false, false) => LEAF,
        };
        self.function = FunctionState {
            number,
            homes,
            run,
            usable: !reserved,
            used: 0,
            stack,
            below_stack: if f.calls { OUTGOING } else { 0 },
            counter,
            spill_slots: 0,
            red_zone: !f.calls && !f.routines && small && !self.options.no_red_zone,
            returns: Vec::new(),
        };
    }

    /// The frame of the function whose body is complete; `None` if it does not fit below the stack pointer
    /// after all.
    pub(super) fn end_function(&mut self) -> Option<Frame> {
        let f = &self.function;
        let calls = self.cfg.functions[f.number as usize].calls;
        let takes_run = calls && f.number == 0;
        let saved = f.used & f.usable & CALLEE_SAVED;
        let mut size = f.below_stack + f.stack + f.counter + i32::from(f.spill_slots) * 8;
        if f.red_zone {
            if size > RED_ZONE {
                return None;
            }
            size = 0;
        }
        let saved: Vec<Gpr> =
            Gpr::ALL.into_iter().filter(|r| saved & r.bit() != 0 || (takes_run && *r == RUN)).collect();
        if calls && (8 + 8 * saved.len() as i32 + size) % 16 != 0 {
            size += 8;
        }
        let (mut enter, mut leave) = (Asm::with_capacity(64), Asm::with_capacity(64));
        for r in &saved {
            enter.push(*r);
        }
        if takes_run {
            enter.mov_rr(Width::W64, RUN, Gpr::Rsi);
        }
        if size > 0 {
            enter.lea(Width::W64, Gpr::Rsp, Mem::new(Gpr::Rsp, -size));
            leave.lea(Width::W64, Gpr::Rsp, Mem::new(Gpr::Rsp, size));
        }
        self.initialise(&mut enter);
        for r in saved.iter().rev() {
            leave.pop(*r);
        }
        let bytes = |asm: Asm| asm.link(&[], 0).map(|l| l.bytes).unwrap_or_default();
        Some(Frame { enter: bytes(enter), leave: bytes(leave) })
    }

    /// Stack that may be read before it is written is zero, and the loop budget is full.
    fn initialise(&self, enter: &mut Asm) {
        let f = self.cfg.functions[self.function.number as usize];
        let mut granules = self.cfg.blocks[f.first as usize].live_in.stack;
        let lowest = 128 - (self.function.stack as u32) / 4;
        granules &= u128::MAX.checked_shl(lowest).unwrap_or(0);
        if granules.count_ones() >= 4 {
            enter.zero_xmm0();
        }
        while granules != 0 {
            let first = granules.trailing_zeros();
            let run = (granules >> first).trailing_ones();
            let mem = self.frame_mem(first as i32 * 4 - 512);
            let n = match run {
                4.. => {
                    enter.store_xmm0(mem);
                    4
                }
                2.. => {
                    enter.store_imm(Size::D, mem, 0);
                    2
                }
                _ => {
                    enter.store_imm(Size::W, mem, 0);
                    1
                }
            };
            granules &= !((u128::MAX >> (128 - n)) << first);
        }
        if self.function.counter > 0 {
            enter.store_imm(Size::D, self.counter(), MAX_LOOPS);
        }
    }
}
