//! Basic blocks and what is live between them: registers, and the stack in granules of 4 bytes.

use uapi::bpf::*;

use super::Source;
use super::facts::{Class, Facts};
use super::inline::{Inline, plan};
use crate::insn::Insn;
use crate::verifier::protos::available;

/// Position of a block in its [`Cfg`].
pub(super) type BlockId = u32;
/// No block.
pub(super) const NO_BLOCK: BlockId = u32::MAX;

/// What is live at a point: registers by bit, and 4-byte granules of the own stack frame from its lowest
/// address by bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Live {
    /// R0 to R9.
    pub(super) regs: u16,
    /// Bit 127 is the granule below the frame pointer.
    pub(super) stack: u128,
}

/// The result of a function, where it returns it and does nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ret {
    /// A constant.
    Const(u64),
    /// What R0 holds.
    R0,
}

/// A stretch of instructions without jumps in or out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    /// First instruction.
    pub(super) start: u32,
    /// One past the last.
    pub(super) end: u32,
    /// Where control goes on by itself, or [`NO_BLOCK`].
    pub(super) fall: BlockId,
    /// Where the jump at the end goes, or [`NO_BLOCK`].
    pub(super) taken: BlockId,
    /// Ways in.
    pub(super) preds: u32,
    /// Whether a jump from further down comes here.
    pub(super) is_loop: bool,
    /// Set if it only returns; such a block is put wherever something goes to it.
    pub(super) ret: Option<Ret>,
    /// What is live when it begins.
    pub(super) live_in: Live,
}

/// A function of the program.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function {
    /// First block.
    pub(super) first: BlockId,
    /// One past the last.
    pub(super) end: BlockId,
    /// Whether it calls anything, so that only some registers survive.
    pub(super) calls: bool,
    /// Whether it calls routines of this code that change few registers.
    pub(super) routines: bool,
    /// Whether it reads the run.
    pub(super) uses_run: bool,
    /// Whether the address of its frame is more than the base of loads and stores.
    pub(super) frame_escapes: bool,
    /// Bytes of BPF stack that it uses, a multiple of 8.
    pub(super) stack: u32,
    /// Whether `may_goto` counts in it.
    pub(super) may_goto: bool,
}

/// A program as blocks, in the order of the instructions.
#[derive(Debug, Default)]
pub(super) struct Cfg {
    /// All blocks, function by function.
    pub(super) blocks: Vec<Block>,
    /// All functions, the entry first.
    pub(super) functions: Vec<Function>,
    /// Block that starts at an instruction, or [`NO_BLOCK`].
    starts: Vec<BlockId>,
    /// Per block what it reads before it writes it, and what it writes.
    reads: Vec<Live>,
    writes: Vec<Live>,
}

/// An instruction goes where no program may go. The verifier excludes that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BadJump(pub(super) u32);

/// How an instruction ends or splits a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flow {
    /// Not at all.
    Next,
    /// To a place.
    Goto(i64),
    /// To a place or on.
    Branch(i64),
    /// Out of the function.
    Exit,
}

/// Where control goes after the instruction at `i`.
pub(super) fn flow(insn: Insn, i: u32, facts: &Facts<'_>) -> Flow {
    let class = insn.class();
    if class != BPF_JMP && class != BPF_JMP32 {
        return Flow::Next;
    }
    let near = i64::from(i) + 1 + i64::from(insn.off);
    match insn.op() {
        BPF_JA if class == BPF_JMP32 => Flow::Goto(i64::from(i) + 1 + i64::from(insn.imm)),
        BPF_JA => Flow::Goto(near),
        BPF_CALL => Flow::Next,
        BPF_EXIT => Flow::Exit,
        _ => match facts.decided(i) {
            Some(true) => Flow::Goto(near),
            Some(false) => Flow::Goto(i64::from(i) + 1),
            None => Flow::Branch(near),
        },
    }
}

const ARGS: u16 = 0b11_1110;

/// Registers that a call passes, as far as the callee is known.
pub(super) fn arguments(insn: Insn) -> u16 {
    // What is printed is not in the prototype.
    if !insn.is_helper_call() || insn.imm == func::TRACE_PRINTK {
        return ARGS;
    }
    available(insn.imm).map_or(ARGS, |proto| ARGS & ((2 << proto.nargs()) - 1))
}

/// Registers that an instruction reads and writes.
pub(super) fn registers(insn: Insn) -> (u16, u16) {
    let (dst, src) = (1 << insn.dst, 1 << insn.src);
    match insn.class() {
        BPF_LD => (0, dst),
        BPF_LDX => (src, dst),
        BPF_ST => (dst, 0),
        BPF_STX if insn.mode() == BPF_ATOMIC => match insn.imm {
            BPF_CMPXCHG => (dst | src | 1, 1),
            BPF_LOAD_ACQ => (src, dst),
            imm if imm != BPF_STORE_REL && imm & BPF_FETCH != 0 => (dst | src, src),
            _ => (dst | src, 0),
        },
        BPF_STX => (dst | src, 0),
        BPF_ALU | BPF_ALU64 => match insn.op() {
            BPF_MOV if insn.is_src_reg() => (src, dst),
            BPF_MOV => (0, dst),
            BPF_NEG | BPF_END => (dst, dst),
            _ if insn.is_src_reg() => (dst | src, dst),
            _ => (dst, dst),
        },
        class => match insn.op() {
            BPF_JA | BPF_JCOND => (0, 0),
            BPF_EXIT => (1, 0),
            BPF_CALL if class == BPF_JMP => (arguments(insn), ARGS | 1),
            _ if insn.is_src_reg() => (dst | src, 0),
            _ => (dst, 0),
        },
    }
}

/// Granules of the frame that `size` bytes at `off` from its end lie in, and those that they fill.
pub(super) fn granules(off: i64, size: i64) -> (u128, u128) {
    let (from, to) = (512 + off, 512 + off + size);
    if from < 0 || to > 512 || size <= 0 {
        return (u128::MAX, 0);
    }
    let mask = |from: i64, to: i64| {
        let n = to - from;
        if n <= 0 { 0 } else { (u128::MAX >> (128 - n)) << from }
    };
    (mask(from / 4, (to + 3) / 4), mask((from + 3) / 4, to / 4))
}

/// Granules of the own frame that an instruction may read, and those that it certainly fills.
pub(super) fn stack_effect(insn: Insn, class: Class, frame_escapes: bool) -> (u128, u128) {
    let indirect = frame_escapes && matches!(class, Class::Unknown | Class::Stack);
    let anything = if indirect { u128::MAX } else { 0 };
    let size = i64::from(insn.access_size());
    match insn.class() {
        BPF_LDX if insn.src == 10 => (granules(i64::from(insn.off), size).0, 0),
        BPF_LDX => (anything, 0),
        BPF_ST | BPF_STX if insn.mode() == BPF_ATOMIC => {
            (if insn.dst == 10 || insn.src == 10 { u128::MAX } else { anything }, 0)
        }
        BPF_ST | BPF_STX if insn.dst == 10 => (0, granules(i64::from(insn.off), size).1),
        BPF_JMP if insn.op() == BPF_CALL && frame_escapes => (u128::MAX, 0),
        _ => (0, 0),
    }
}

impl Cfg {
    /// Splits a program into blocks and finds what is live. `starts` are the first instructions of its
    /// functions, ascending from 0.
    ///
    /// # Errors
    ///
    /// A jump out of its function or into the middle of an instruction.
    pub(super) fn build(source: &Source<'_>) -> Result<Self, BadJump> {
        let (insns, starts) = (source.insns, source.functions);
        let mut cfg = Self::default();
        cfg.leaders(source)?;
        for (f, start) in starts.iter().enumerate() {
            let end = starts.get(f + 1).copied().unwrap_or(insns.len() as u32);
            cfg.function(source, (*start, end), f)?;
        }
        cfg.liveness();
        Ok(cfg)
    }

    /// Marks where blocks start, with anything but [`NO_BLOCK`].
    fn leaders(&mut self, source: &Source<'_>) -> Result<(), BadJump> {
        let (insns, starts) = (source.insns, source.functions);
        let n = insns.len();
        self.starts = vec![NO_BLOCK; n + 1];
        for s in starts {
            *self.starts.get_mut(*s as usize).ok_or(BadJump(*s))? = 0;
        }
        let mut i = 0;
        while i < n {
            let to = match flow(insns[i], i as u32, &source.facts) {
                Flow::Next => {
                    i += if insns[i].is_ld_imm64() { 2 } else { 1 };
                    continue;
                }
                Flow::Goto(to) | Flow::Branch(to) => to,
                Flow::Exit => i as i64 + 1,
            };
            let slot = usize::try_from(to).ok().and_then(|to| self.starts.get_mut(to));
            *slot.ok_or(BadJump(i as u32))? = 0;
            self.starts[i + 1] = 0;
            i += 1;
        }
        Ok(())
    }

    fn function(
        &mut self,
        source: &Source<'_>,
        (start, end): (u32, u32),
        number: usize,
    ) -> Result<(), BadJump> {
        let first = self.blocks.len() as BlockId;
        let mut scan = Scan::default();
        let mut i = start;
        while i < end {
            let b = self.block(source, (i, end), &mut scan)?;
            self.starts[i as usize] = self.blocks.len() as BlockId;
            i = b.end;
            self.blocks.push(b);
        }
        let last = self.blocks.len() as BlockId;
        // The verifier leaves out spills around calls that the kernel would remove.
        let proved = source.facts.stack.get(number).map(|s| (*s).min(512).max(scan.deepest()));
        let deepest = proved.unwrap_or(if scan.frame_escapes { 512 } else { scan.deepest() });
        self.functions.push(Function {
            first,
            end: last,
            calls: scan.calls,
            routines: scan.routines,
            uses_run: scan.uses_run,
            frame_escapes: scan.frame_escapes,
            stack: deepest.next_multiple_of(8),
            may_goto: scan.may_goto,
        });
        for b in first..last {
            self.connect(source, b, (first, last))?;
        }
        self.blocks[first as usize].preds += 1;
        for b in first..last {
            self.effects(source, b, (scan.frame_escapes, scan.helpers));
        }
        Ok(())
    }

    fn block(
        &self,
        source: &Source<'_>,
        (start, end): (u32, u32),
        scan: &mut Scan,
    ) -> Result<Block, BadJump> {
        let insns = source.insns;
        let mut i = start;
        loop {
            let insn = insns[i as usize];
            scan.insn(insn, || plan(source, i));
            let next = i + if insn.is_ld_imm64() { 2 } else { 1 };
            let ends = !matches!(flow(insn, i, &source.facts), Flow::Next);
            if next > end || (next == end && !ends) {
                return Err(BadJump(i));
            }
            if ends || self.starts[next as usize] != NO_BLOCK {
                return Ok(Block {
                    start,
                    end: next,
                    fall: NO_BLOCK,
                    taken: NO_BLOCK,
                    preds: 0,
                    is_loop: false,
                    ret: only_returns(&insns[start as usize..next as usize]),
                    live_in: Live::default(),
                });
            }
            i = next;
        }
    }

    /// Resolves where a block goes.
    fn connect(
        &mut self,
        source: &Source<'_>,
        b: BlockId,
        (first, last): (BlockId, BlockId),
    ) -> Result<(), BadJump> {
        let (insns, facts) = (source.insns, &source.facts);
        let Block { start, end, .. } = self.blocks[b as usize];
        if !facts.insn(start).reached {
            return Ok(());
        }
        let at = if end - start >= 2 && insns[end as usize - 2].is_ld_imm64() { end - 2 } else { end - 1 };
        let resolve = |to: i64| {
            let block = usize::try_from(to).ok().and_then(|to| self.starts.get(to)).copied();
            let inside = block.filter(|b| (first..last).contains(b));
            inside.filter(|b| i64::from(self.blocks[*b as usize].start) == to).ok_or(BadJump(at))
        };
        let next = i64::from(end);
        let (fall, taken) = match flow(insns[at as usize], at, facts) {
            Flow::Next => (resolve(next)?, NO_BLOCK),
            Flow::Goto(to) => (resolve(to)?, NO_BLOCK),
            Flow::Branch(to) => (resolve(next)?, resolve(to)?),
            Flow::Exit => (NO_BLOCK, NO_BLOCK),
        };
        let block = &mut self.blocks[b as usize];
        (block.fall, block.taken) = (fall, taken);
        for to in [fall, taken] {
            if to != NO_BLOCK {
                let target = &mut self.blocks[to as usize];
                target.preds += 1;
                target.is_loop |= to <= b;
            }
        }
        Ok(())
    }

    /// What a block reads from before itself and what it writes.
    fn effects(&mut self, source: &Source<'_>, b: BlockId, (frame_escapes, helpers): (bool, bool)) {
        let Block { start, end, .. } = self.blocks[b as usize];
        let (mut reads, mut writes) = (Live::default(), Live::default());
        let mut frame = FramePointers::default();
        let mut i = start;
        while i < end {
            let insn = source.insns[i as usize];
            let call = if insn.is_helper_call() { Some(call_reads(source, i, &frame)) } else { None };
            let (mut read, written) = registers(insn);
            // What an access points into matters only where the frame's address is known elsewhere.
            let class = if frame_escapes { source.facts.class(i) } else { Class::Unknown };
            let (mut slots, filled) = stack_effect(insn, class, frame_escapes);
            if let Some(CallReads { args, stack: Some(stack) }) = call {
                (read, slots) = (args, if frame_escapes { stack } else { 0 });
            }
            reads.regs |= read & !writes.regs;
            writes.regs |= written;
            reads.stack |= slots & !writes.stack;
            writes.stack |= filled;
            if helpers {
                frame.insn(insn);
            }
            i += if insn.is_ld_imm64() { 2 } else { 1 };
        }
        reads.regs &= 0x3ff;
        self.reads.push(reads);
        self.writes.push(writes);
    }

    fn liveness(&mut self) {
        loop {
            let mut changed = false;
            for b in (0..self.blocks.len()).rev() {
                let out = self.live_out(b as BlockId);
                let (r, w) = (self.reads[b], self.writes[b]);
                let live =
                    Live { regs: r.regs | (out.regs & !w.regs), stack: r.stack | (out.stack & !w.stack) };
                let block = &mut self.blocks[b];
                changed |= block.live_in != live;
                block.live_in = live;
            }
            if !changed {
                return;
            }
        }
    }

    /// What is live when a block ends.
    pub(super) fn live_out(&self, b: BlockId) -> Live {
        let Block { fall, taken, .. } = self.blocks[b as usize];
        let mut out = Live::default();
        for to in [fall, taken] {
            if to != NO_BLOCK {
                let l = self.blocks[to as usize].live_in;
                out.regs |= l.regs;
                out.stack |= l.stack;
            }
        }
        out
    }
}

/// What a helper call reads.
struct CallReads {
    /// Registers.
    args: u16,
    /// Granules of the own frame; `None` if that is not known.
    stack: Option<u128>,
}

fn call_reads(source: &Source<'_>, i: u32, frame: &FramePointers) -> CallReads {
    let inline = plan(source, i);
    if let Some(inline) = inline {
        let (args, stack) = match inline.key_size() {
            Some(size) => (1 << 2, frame.granules(2, size).unwrap_or(u128::MAX)),
            None => (0, 0),
        };
        return CallReads { args, stack: Some(stack) };
    }
    let insn = source.insns[i as usize];
    let map = source.facts.insn(i).map.and_then(|m| source.maps.get(m as usize));
    let (args, stack) = match (insn.imm, map) {
        (func::MAP_LOOKUP_ELEM | func::MAP_DELETE_ELEM, Some(m)) => (0b110, frame.granules(2, m.key_size)),
        (func::MAP_UPDATE_ELEM, Some(m)) => {
            let both = frame.granules(2, m.key_size).zip(frame.granules(3, m.value_size));
            (0b1_1110, both.map(|(key, value)| key | value))
        }
        _ => (ARGS, None),
    };
    CallReads { args, stack }
}

/// Registers that hold addresses in the own frame, as far as one block shows.
#[derive(Default)]
struct FramePointers {
    known: [Option<i64>; 11],
    /// Registers that hold something else that was made in this block.
    other: u16,
}

impl FramePointers {
    fn insn(&mut self, insn: Insn) {
        let (dst, src) = (insn.dst as usize & 15, insn.src as usize & 15);
        let offset = |r: usize| if r == 10 { Some(0) } else { self.known.get(r).copied().flatten() };
        let is_64 = insn.class() == BPF_ALU64;
        let value = match insn.op() {
            BPF_MOV if is_64 && insn.is_src_reg() && insn.off == 0 => offset(src),
            BPF_ADD if is_64 && !insn.is_src_reg() => offset(dst).map(|o| o + i64::from(insn.imm)),
            _ => None,
        };
        let mut written = registers(insn).1 & 0x3ff;
        self.other = if insn.class() == BPF_LD { self.other | written } else { self.other & !written };
        while written != 0 {
            let r = written.trailing_zeros() as usize;
            self.known[r] = if r == dst { value } else { None };
            written &= written - 1;
        }
    }

    /// Granules that `size` bytes at the address in a register lie in; `None` if it may be anywhere.
    fn granules(&self, r: usize, size: u32) -> Option<u128> {
        if self.other >> r & 1 != 0 {
            return Some(0);
        }
        self.known[r].map(|off| granules(off, i64::from(size)).0)
    }
}

fn only_returns(block: &[Insn]) -> Option<Ret> {
    let constant = |insn: &Insn| insn.dst == 0 && insn.op() == BPF_MOV && !insn.is_src_reg();
    match block {
        [exit] if exit.is_exit() => Some(Ret::R0),
        [mov, exit] if exit.is_exit() && mov.class() == BPF_ALU64 && constant(mov) => {
            Some(Ret::Const(mov.imm as i64 as u64))
        }
        [mov, exit] if exit.is_exit() && mov.class() == BPF_ALU && constant(mov) => {
            Some(Ret::Const(u64::from(mov.imm as u32)))
        }
        _ => None,
    }
}

/// What a function does somewhere.
#[derive(Default)]
struct Scan {
    calls: bool,
    routines: bool,
    uses_run: bool,
    frame_escapes: bool,
    may_goto: bool,
    /// Helpers are called or inlined.
    helpers: bool,
    deepest: i32,
}

impl Scan {
    fn insn(&mut self, insn: Insn, inline: impl FnOnce() -> Option<Inline>) {
        let (class, op) = (insn.class(), insn.op());
        self.helpers |= insn.is_helper_call();
        match class {
            BPF_JMP if op == BPF_CALL => match inline() {
                Some(inline) => {
                    self.uses_run |= inline.uses_run();
                    self.routines |= matches!(inline, Inline::Routine { .. });
                }
                None => self.calls = true,
            },
            BPF_JMP if op == BPF_JCOND => self.may_goto = true,
            BPF_ALU | BPF_ALU64 if insn.is_src_reg() && insn.src == 10 && op != BPF_END => {
                self.frame_escapes = true
            }
            BPF_JMP | BPF_JMP32
                if op != BPF_JA && (insn.dst == 10 || (insn.is_src_reg() && insn.src == 10)) =>
            {
                self.frame_escapes = true;
            }
            BPF_STX if insn.src == 10 && insn.mode() != BPF_ATOMIC => self.frame_escapes = true,
            BPF_STX if insn.src == 10 && insn.imm != BPF_LOAD_ACQ => self.frame_escapes = true,
            _ => {}
        }
        let on_stack = match class {
            BPF_LDX => insn.src == 10,
            BPF_ST | BPF_STX => insn.dst == 10 || (insn.mode() == BPF_ATOMIC && insn.src == 10),
            _ => false,
        };
        if on_stack {
            self.deepest = self.deepest.max(-i32::from(insn.off));
        }
    }

    /// Bytes of stack that its own loads and stores reach.
    fn deepest(&self) -> u32 {
        self.deepest.clamp(0, 512) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alu(op: u8, dst: u8, src: u8, imm: i32) -> Insn {
        let x = if imm == 0 { BPF_X } else { BPF_K };
        Insn::new(BPF_ALU64 | op | x, dst, src, 0, imm)
    }

    fn build(insns: &[Insn]) -> Result<Cfg, BadJump> {
        Cfg::build(&Source::bare(insns))
    }

    const EXIT: Insn = Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);

    #[test]
    fn a_loop_keeps_its_counter_live() {
        let insns = [
            alu(BPF_MOV, 1, 0, 10),
            alu(BPF_MOV, 0, 0, 7),
            alu(BPF_ADD, 1, 0, -1),
            Insn::new(BPF_JMP | BPF_JNE, 1, 0, -2, 0),
            EXIT,
        ];
        let cfg = build(&insns).unwrap();
        let blocks: Vec<_> = cfg.blocks.iter().map(|b| (b.start, b.end, b.preds, b.is_loop)).collect();
        assert_eq!(blocks, [(0, 2, 1, false), (2, 4, 2, true), (4, 5, 1, false)]);
        let live: Vec<_> = cfg.blocks.iter().map(|b| b.live_in.regs).collect();
        assert_eq!(live, [0, 0b11, 0b1]);
    }

    #[test]
    fn a_stack_slot_is_live_from_its_store_to_its_load() {
        let slot = |code, dst, src, off| Insn::new(code | BPF_MEM | BPF_DW, dst, src, off, 0);
        let insns = [
            slot(BPF_ST, 10, 0, -8),
            Insn::new(BPF_JMP | BPF_JA, 0, 0, 0, 0),
            slot(BPF_LDX, 0, 10, -8),
            slot(BPF_LDX, 1, 10, -16),
            EXIT,
        ];
        let cfg = build(&insns).unwrap();
        assert_eq!(cfg.blocks[1].live_in.stack, 0b1111 << 124);
        assert_eq!(cfg.blocks[0].live_in.stack, 0b11 << 124, "never written, so it is read as it was");
        assert_eq!(cfg.functions[0].stack, 16);
    }

    #[test]
    fn a_jump_out_of_the_function_is_refused() {
        let out = Insn::new(BPF_JMP | BPF_JA, 0, 0, 1, 0);
        assert_eq!(build(&[out, EXIT]).err(), Some(BadJump(0)));
        let into = [
            Insn::new(BPF_JMP | BPF_JA, 0, 0, 1, 0),
            Insn::new(BPF_LD | BPF_DW, 0, 0, 0, 0),
            Insn::default(),
            EXIT,
        ];
        assert_eq!(build(&into).err(), Some(BadJump(0)));
        assert!(build(&[alu(BPF_MOV, 0, 0, 1)]).is_err());
    }
}
