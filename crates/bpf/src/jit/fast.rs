//! Helpers whose usual way is part of the program: moving the packet's ends, checksums, copies out of the
//! linear part, slices of the packet, spin locks.
//!
//! The arguments are in the registers of the calling convention, everything that outlives the call is
//! elsewhere, so the code here may use all registers that calls change. What it does not decide it leaves
//! to the helper, with the arguments as they were.

use uapi::Errno;
use uapi::bpf::func;
use uapi::xdp::{ETH_HLEN, XDP_FRAME_SIZE, XDP_META_MAX};

use super::Compiler;
use super::asm::{Alu, Cond, Gpr, Label, Mem, Shift, Size, Unary, Width};
use super::calls::RUN;
use super::facts::Class;
use super::trace::{CallSite, Callee};
use crate::vm::CALLBACK_BASE;
use Gpr::{R8, R9, R10, R11, Rax, Rcx, Rdi, Rdx, Rsi};
use Width::{W32, W64};

/// Bytes that are copied or summed without a loop, at most.
const UNROLLED: u64 = 64;
/// Offsets into a packet that helpers take, at most.
const MAX_OFFSET: i32 = 0xffff;

/// Rounds of `bpf_loop`, at most.
const MAX_LOOPS: i32 = 8 << 20;

/// What was made of a call.
pub(super) enum Fast {
    /// Nothing.
    No,
    /// All that it does.
    Whole,
    /// The usual way; from the label on the helper has to be called.
    Usual(Label),
}

/// Bytes that `bpf_csum_diff` adds or takes off.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Known(u32),
    /// The number is in its argument's register.
    Unknown,
}

impl Compiler<'_> {
    /// Makes the usual way of a call of `function` whose arguments are in place. The result is in rax.
    pub(super) fn fast_path(&mut self, site: &CallSite, function: u64) -> Fast {
        match site.callee {
            Callee::Helper(func::LOOP) => self.bpf_loop(site),
            Callee::Helper(func::SPIN_LOCK) => self.spin_lock(),
            Callee::Helper(func::SPIN_UNLOCK) => self.spin_unlock(),
            Callee::Kfunc(_) if function == self.source.abi.dynptr_from_xdp => {
                Fast::Usual(self.dynptr_from_xdp())
            }
            Callee::Kfunc(_) if function == self.source.abi.dynptr_slice => Fast::Usual(self.dynptr_slice()),
            Callee::Helper(func::XDP_ADJUST_HEAD) => Fast::Usual(self.adjust_head()),
            Callee::Helper(func::XDP_ADJUST_META) => Fast::Usual(self.adjust_meta()),
            Callee::Helper(func::XDP_ADJUST_TAIL) => Fast::Usual(self.adjust_tail()),
            Callee::Helper(func::XDP_GET_BUFF_LEN) => Fast::Usual(self.buff_len()),
            Callee::Helper(func::XDP_LOAD_BYTES) => self.copy_bytes(site, false),
            Callee::Helper(func::XDP_STORE_BYTES) => self.copy_bytes(site, true),
            Callee::Helper(func::CSUM_DIFF) => self.csum_diff(site),
            _ => Fast::No,
        }
    }

    /// The argument of a number from 0 on, if it is known.
    fn known_argument(&self, site: &CallSite, n: usize) -> Option<u64> {
        let arg = site.args[n];
        if arg.is_some() { self.trace.graph.constant(arg) } else { None }
    }

    /// `rsi = sign-extended esi`, which the helpers read as a 32-bit number all the same.
    fn extend_offset(&mut self) {
        self.asm.movsx(W64, Size::W, Rsi, Rsi);
    }

    /// Where metadata and packet may start: `to` becomes the end of the room that a frame takes.
    fn frame_end(&mut self, to: Gpr) {
        self.asm.load(Size::D, to, Mem::new(Rdi, self.source.abi.data_hard_start));
        self.asm.alu_ri(Alu::Add, W64, to, XDP_FRAME_SIZE as i32);
    }

    /// Answers 0, or from `invalid` on `EINVAL`.
    fn answer(&mut self, invalid: Label) {
        let done = self.asm.label();
        self.asm.zero(Rax);
        self.asm.jmp(done);
        self.asm.bind(invalid);
        self.asm.mov_ri(Rax, Errno::EINVAL.as_ret());
        self.asm.bind(done);
    }

    /// A packet without metadata.
    fn adjust_head(&mut self) -> Label {
        let (abi, slow, invalid) = (self.source.abi, self.asm.label(), self.asm.label());
        let (data, meta) = (Mem::new(Rdi, abi.data), Mem::new(Rdi, abi.data_meta));
        self.extend_offset();
        self.asm.load(Size::D, Rax, data);
        self.asm.alu_rm(Alu::Cmp, W64, Rax, meta);
        self.asm.jcc(Cond::Ne, slow);
        self.frame_end(Rdx);
        self.asm.alu_rr(Alu::Add, W64, Rax, Rsi);
        self.asm.alu_rr(Alu::Cmp, W64, Rax, Rdx);
        self.asm.jcc(Cond::B, invalid);
        self.asm.lea(W64, Rdx, Mem::new(Rax, ETH_HLEN as i32));
        self.asm.alu_rm(Alu::Cmp, W64, Rdx, Mem::new(Rdi, abi.data_end));
        self.asm.jcc(Cond::A, invalid);
        self.asm.store(Size::D, data, Rax);
        self.asm.store(Size::D, meta, Rax);
        self.answer(invalid);
        slow
    }

    /// A device with room for metadata, and metadata of a good length.
    fn adjust_meta(&mut self) -> Label {
        let (abi, slow) = (self.source.abi, self.asm.label());
        let meta = Mem::new(Rdi, abi.data_meta);
        self.extend_offset();
        self.asm.load(Size::D, Rax, meta);
        self.asm.load(Size::D, Rcx, Mem::new(Rdi, abi.data));
        self.asm.alu_rr(Alu::Cmp, W64, Rax, Rcx);
        self.asm.jcc(Cond::A, slow);
        self.frame_end(Rdx);
        self.asm.alu_rr(Alu::Add, W64, Rax, Rsi);
        self.asm.alu_rr(Alu::Cmp, W64, Rax, Rdx);
        self.asm.jcc(Cond::B, slow);
        // Negative, and so too long, if it is after the packet's start.
        self.asm.alu_rr(Alu::Sub, W64, Rcx, Rax);
        self.asm.alu_ri(Alu::Cmp, W64, Rcx, XDP_META_MAX as i32);
        self.asm.jcc(Cond::A, slow);
        self.asm.test_ri(W32, Rcx, 3);
        self.asm.jcc(Cond::Ne, slow);
        self.asm.store(Size::D, meta, Rax);
        self.asm.zero(Rax);
        slow
    }

    fn without_frags(&mut self, slow: Label) {
        let abi = self.source.abi;
        self.asm.test_mi(Size::B, Mem::new(Rdi, abi.flags), abi.has_frags);
        self.asm.jcc(Cond::Ne, slow);
    }

    /// A packet without fragments that becomes shorter.
    fn adjust_tail(&mut self) -> Label {
        let (abi, slow, invalid) = (self.source.abi, self.asm.label(), self.asm.label());
        let end = Mem::new(Rdi, abi.data_end);
        self.extend_offset();
        self.without_frags(slow);
        self.asm.test_rr(W64, Rsi, Rsi);
        self.asm.jcc(Cond::G, slow);
        self.asm.load(Size::D, Rax, end);
        self.asm.load(Size::D, Rdx, Mem::new(Rdi, abi.data));
        self.asm.alu_ri(Alu::Add, W64, Rdx, ETH_HLEN as i32);
        self.asm.alu_rr(Alu::Add, W64, Rax, Rsi);
        self.asm.alu_rr(Alu::Cmp, W64, Rax, Rdx);
        // Addresses are positive numbers, but a sum may not be.
        self.asm.jcc(Cond::L, invalid);
        self.asm.store(Size::D, end, Rax);
        self.answer(invalid);
        slow
    }

    fn buff_len(&mut self) -> Label {
        let (abi, slow) = (self.source.abi, self.asm.label());
        self.without_frags(slow);
        self.asm.load(Size::D, Rax, Mem::new(Rdi, abi.data_end));
        self.asm.alu_rm(Alu::Sub, W64, Rax, Mem::new(Rdi, abi.data));
        slow
    }

    /// Calls the function as others of the program are called. The number of the round, that of rounds and
    /// what the function gets besides are in the frame meanwhile.
    fn bpf_loop(&mut self, site: &CallSite) -> Fast {
        let callback = self.known_argument(site, 1).and_then(|v| v.checked_sub(CALLBACK_BASE));
        let number = callback.and_then(|at| self.source.functions.iter().position(|f| u64::from(*f) == at));
        let (Some(number), Some(0)) = (number, self.known_argument(site, 3)) else { return Fast::No };
        let (slow, again, done) = (self.asm.label(), self.asm.label(), self.asm.label());
        let [round, rounds, ctx] = self.three_slots();
        self.asm.alu_ri(Alu::Cmp, W64, Rdi, MAX_LOOPS);
        self.asm.jcc(Cond::A, slow);
        self.asm.mov_rr(W32, Rax, Rdi);
        self.asm.test_rr(W32, Rdi, Rdi);
        self.asm.jcc(Cond::E, done);
        self.asm.store(Size::D, rounds, Rdi);
        self.asm.store(Size::D, ctx, Rdx);
        self.asm.zero(Rdi);
        self.asm.bind(again);
        self.asm.store(Size::D, round, Rdi);
        self.asm.load(Size::D, Rsi, ctx);
        let function = self.functions[number].label;
        self.asm.call(function);
        self.asm.load(Size::D, Rdi, round);
        self.asm.inc(W64, Rdi, false);
        self.asm.test_rr(W64, Rax, Rax);
        self.asm.mov_rr(W64, Rax, Rdi);
        self.asm.jcc(Cond::Ne, done);
        self.asm.alu_rm(Alu::Cmp, W64, Rdi, rounds);
        self.asm.jcc(Cond::B, again);
        self.asm.bind(done);
        Fast::Usual(slow)
    }

    /// What the helpers note of locks for checked runs is not needed: the verifier has seen that each is
    /// released. Control planes lock in the same way.
    fn spin_lock(&mut self) -> Fast {
        let (slow, done) = (self.asm.label(), self.asm.label());
        self.asm.mov_ri(Rax, 1);
        self.asm.xchg_mr(Size::W, Mem::new(Rdi, 0), Rax);
        self.asm.test_rr(W32, Rax, Rax);
        self.asm.jcc(Cond::Ne, slow);
        self.asm.bind(done);
        let marked = self.asm.marked();
        self.asm.switch(true);
        if let Some(insn) = marked {
            self.asm.mark(insn);
        }
        self.asm.bind(slow);
        self.call_address(self.source.abi.spin_lock);
        self.asm.jmp(done);
        self.asm.switch(false);
        Fast::Whole
    }

    fn spin_unlock(&mut self) -> Fast {
        self.asm.store_imm(Size::W, Mem::new(Rdi, 0), 0);
        Fast::Whole
    }

    /// A dynptr of a packet without fragments: address of the context, length and kind, offset.
    fn dynptr_from_xdp(&mut self) -> Label {
        let (abi, slow) = (self.source.abi, self.asm.label());
        self.asm.test_rr(W64, Rsi, Rsi);
        self.asm.jcc(Cond::Ne, slow);
        self.without_frags(slow);
        self.asm.load(Size::D, Rax, Mem::new(Rdi, abi.data_end));
        self.asm.alu_rm(Alu::Sub, W64, Rax, Mem::new(Rdi, abi.data));
        self.asm.alu_ri(Alu::Or, W32, Rax, abi.dynptr_of_packet as i32);
        self.asm.store(Size::D, Mem::new(Rdx, 0), Rdi);
        self.asm.store(Size::D, Mem::new(Rdx, 8), Rax);
        self.asm.zero(Rax);
        slow
    }

    /// A slice of the packet's linear part.
    fn dynptr_slice(&mut self) -> Label {
        const SIZE: i32 = 0x00ff_ffff;
        const KIND: i32 = 0x7000_0000;
        let (abi, slow) = (self.source.abi, self.asm.label());
        self.asm.load(Size::W, Rax, Mem::new(Rdi, 8));
        self.asm.mov_rr(W32, R8, Rax);
        self.asm.alu_ri(Alu::And, W32, R8, KIND);
        self.asm.alu_ri(Alu::Cmp, W32, R8, abi.dynptr_of_packet as i32);
        self.asm.jcc(Cond::Ne, slow);
        self.asm.alu_ri(Alu::And, W32, Rax, SIZE);
        self.asm.alu_ri(Alu::Cmp, W64, Rcx, MAX_OFFSET);
        self.asm.jcc(Cond::A, slow);
        self.asm.alu_rr(Alu::Sub, W64, Rax, Rcx);
        self.asm.jcc(Cond::B, slow);
        self.asm.alu_rr(Alu::Cmp, W64, Rsi, Rax);
        self.asm.jcc(Cond::A, slow);
        self.asm.load(Size::W, Rax, Mem::new(Rdi, 12));
        self.asm.alu_rr(Alu::Add, W64, Rax, Rsi);
        self.asm.alu_ri(Alu::Cmp, W64, Rax, MAX_OFFSET);
        self.asm.jcc(Cond::A, slow);
        self.asm.load(Size::D, R8, Mem::new(RUN, abi.run_buff));
        self.asm.alu_rm(Alu::Add, W64, Rax, Mem::new(R8, abi.data));
        self.asm.lea(W64, R9, Mem::indexed(Rax, Rcx, 0, 0));
        self.asm.alu_rm(Alu::Cmp, W64, R9, Mem::new(R8, abi.data_end));
        self.asm.jcc(Cond::A, slow);
        slow
    }

    /// A few bytes that lie in the linear part.
    fn copy_bytes(&mut self, site: &CallSite, store: bool) -> Fast {
        let class =
            if site.args[2].is_some() { self.trace.graph[site.args[2]].class } else { Class::Unknown };
        let Some(len @ 1..=UNROLLED) = self.known_argument(site, 3) else { return Fast::No };
        // Copies of what overlaps would have to be made in one go.
        if !matches!(class, Class::Stack | Class::Map) {
            return Fast::No;
        }
        let (abi, slow) = (self.source.abi, self.asm.label());
        self.asm.mov_rr(W32, Rax, Rsi);
        self.asm.alu_ri(Alu::Cmp, W32, Rax, MAX_OFFSET);
        self.asm.jcc(Cond::A, slow);
        self.asm.alu_rm(Alu::Add, W64, Rax, Mem::new(Rdi, abi.data));
        self.asm.lea(W64, R9, Mem::new(Rax, len as i32));
        self.asm.alu_rm(Alu::Cmp, W64, R9, Mem::new(Rdi, abi.data_end));
        self.asm.jcc(Cond::A, slow);
        let mut at = 0;
        while at < len as i32 {
            let size = Size::from_bytes(1 << (len as i32 - at).ilog2().min(3));
            let (packet, own) = (Mem::new(Rax, at), Mem::new(Rdx, at));
            let (from, to) = if store { (own, packet) } else { (packet, own) };
            self.asm.load(size, R9, from);
            self.asm.store(size, to, R9);
            at += i32::from(size.bytes());
        }
        self.asm.zero(Rax);
        Fast::Usual(slow)
    }

    /// Sums of whole 32-bit words. Ones' complement sums of the same bytes are the same number however they
    /// are grouped: 0 if all is 0, else 1 to `2^n - 1`.
    ///
    /// See [`crate::helpers`]' `csum_diff`.
    fn csum_diff(&mut self, site: &CallSite) -> Fast {
        let part = |n| match self.known_argument(site, n) {
            Some(size) => Part::Known(size as u32),
            None => Part::Unknown,
        };
        let (from, to) = (part(1), part(3));
        let whole = |p| !matches!(p, Part::Known(n) if n % 4 != 0);
        let decided = matches!((from, to), (Part::Known(_), Part::Known(_)))
            || from == Part::Known(0)
            || to == Part::Known(0);
        if !whole(from) || !whole(to) || !decided {
            return Fast::No;
        }
        let slow =
            [(from, Rsi), (to, Rcx)].into_iter().find(|(p, _)| *p == Part::Unknown).map(|(_, size)| {
                let slow = self.asm.label();
                self.asm.test_ri(W32, size, 3);
                self.asm.jcc(Cond::Ne, slow);
                slow
            });
        self.asm.mov_rr(W32, R8, R8);
        match (from, to) {
            (Part::Known(0), to) => self.sum(to, Rdx, Rcx),
            (from, Part::Known(0)) => {
                self.asm.unary(Unary::Not, W32, R8);
                self.sum(from, Rdi, Rsi);
                self.asm.unary(Unary::Not, W32, Rax);
            }
            (from, to) => {
                self.sum(to, Rdx, Rcx);
                self.asm.mov_rr(W32, R10, Rax);
                self.asm.zero(R8);
                self.sum(from, Rdi, Rsi);
                self.asm.unary(Unary::Not, W32, Rax);
                self.asm.alu_rr(Alu::Add, W32, Rax, R10);
                self.asm.alu_ri(Alu::Adc, W32, Rax, 0);
            }
        }
        self.fold_to_16();
        slow.map_or(Fast::Whole, Fast::Usual)
    }

    /// `eax = r8 + bytes at ptr`, in ones' complement of 32 bits.
    fn sum(&mut self, part: Part, ptr: Gpr, size: Gpr) {
        match part {
            Part::Known(n) if u64::from(n) <= UNROLLED => self.add_words(ptr, n as i32),
            _ => {
                self.asm.mov_rr(W64, R9, ptr);
                self.asm.mov_rr(W32, R11, size);
                let routine = self.sum_routine.unwrap_or_else(|| self.asm.label());
                self.sum_routine = Some(routine);
                self.asm.call(routine);
            }
        }
        self.asm.mov_rr(W64, Rax, R8);
        self.asm.shift_ri(Shift::Shr, W64, Rax, 32);
        self.asm.alu_rr(Alu::Add, W32, Rax, R8);
        self.asm.alu_ri(Alu::Adc, W32, Rax, 0);
    }

    fn add_words(&mut self, ptr: Gpr, n: i32) {
        if n == 0 {
            return;
        }
        let mut op = Alu::Add;
        for at in (0..n & !7).step_by(8) {
            self.asm.alu_rm(op, W64, R8, Mem::new(ptr, at));
            op = Alu::Adc;
        }
        if n % 8 != 0 {
            self.asm.load(Size::W, R9, Mem::new(ptr, n & !7));
            self.asm.alu_rr(op, W64, R8, R9);
        }
        self.asm.alu_ri(Alu::Adc, W64, R8, 0);
    }

    /// `eax` to 16 bits.
    fn fold_to_16(&mut self) {
        for _ in 0..2 {
            self.asm.mov_rr(W32, R9, Rax);
            self.asm.shift_ri(Shift::Shr, W32, R9, 16);
            self.asm.movzx(Size::H, Rax, Rax);
            self.asm.alu_rr(Alu::Add, W32, Rax, R9);
        }
        self.asm.movzx(Size::H, Rax, Rax);
    }

    /// Routines that the fast paths call.
    pub(super) fn fast_routines(&mut self) {
        let Some(label) = self.sum_routine else { return };
        self.asm.switch(true);
        self.asm.align(4);
        self.asm.bind(label);
        self.add_bytes();
        self.asm.switch(false);
    }

    /// Adds `r11` bytes at `r9` to `r8`, a multiple of 4; changes both.
    fn add_bytes(&mut self) {
        let (many, few, eight, four, done) =
            (self.asm.label(), self.asm.label(), self.asm.label(), self.asm.label(), self.asm.label());
        self.asm.bind(many);
        self.asm.alu_ri(Alu::Cmp, W32, R11, 32);
        self.asm.jcc(Cond::B, few);
        self.add_words(R9, 32);
        self.asm.lea(W64, R9, Mem::new(R9, 32));
        self.asm.lea(W32, R11, Mem::new(R11, -32));
        self.asm.jmp(many);
        self.asm.bind(few);
        self.asm.alu_ri(Alu::Cmp, W32, R11, 8);
        self.asm.jcc(Cond::B, four);
        self.asm.bind(eight);
        self.add_words(R9, 8);
        self.asm.lea(W64, R9, Mem::new(R9, 8));
        self.asm.lea(W32, R11, Mem::new(R11, -8));
        self.asm.jmp(few);
        self.asm.bind(four);
        self.asm.test_rr(W32, R11, R11);
        self.asm.jcc(Cond::E, done);
        self.asm.load(Size::W, R9, Mem::new(R9, 0));
        self.asm.alu_rr(Alu::Add, W64, R8, R9);
        self.asm.alu_ri(Alu::Adc, W64, R8, 0);
        self.asm.bind(done);
        self.asm.ret();
    }
}
