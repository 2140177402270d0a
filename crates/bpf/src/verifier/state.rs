//! What is known at one point of one path: frames of registers and stack slots, held references.
//!
//! [`State`] is the unit that is forked at branches and compared at prune points.

use super::reg::Reg;
use super::regs::{Regs, Slots};
use super::types::RegType;

/// Bytes of a stack slot.
pub(crate) const REG_SIZE: i32 = 8;
/// Callsite of a frame that nobody called.
pub(crate) const MAIN_FUNC: i32 = -1;

/// What a byte of the stack holds (`enum bpf_stack_slot_type`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum SlotType {
    Invalid,
    Spill,
    Misc,
    Zero,
    Dynptr,
    Iter,
    IrqFlag,
}

/// Eight bytes of stack.
#[doc(alias = "bpf_stack_state")]
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct StackSlot {
    pub(crate) reg: Reg,
    pub(crate) types: [SlotType; 8],
}

impl StackSlot {
    /// The state of stack that nobody touched: all zero, as the kernel's allocator gives it.
    pub(crate) const EMPTY: Self = Self { reg: EMPTY_REG, types: [SlotType::Invalid; 8] };

    /// A whole or partial register lies here.
    pub(crate) fn is_spilled(&self) -> bool {
        self.types[7] == SlotType::Spill
    }

    pub(crate) fn is_spilled_scalar(&self) -> bool {
        self.is_spilled() && self.reg.is_scalar()
    }

    pub(crate) fn is_spilled_scalar64(&self) -> bool {
        self.types[0] == SlotType::Spill && self.reg.is_scalar()
    }

    /// Anything else than raw bytes lies here.
    pub(crate) fn is_special(&self) -> bool {
        !matches!(self.types[7], SlotType::Invalid | SlotType::Misc | SlotType::Zero)
    }

    /// Spilled bytes become bytes of unknown value.
    pub(crate) fn scrub(&mut self) {
        for t in &mut self.types {
            if *t != SlotType::Invalid {
                *t = SlotType::Misc;
            }
        }
    }
}

const EMPTY_REG: Reg = Reg {
    ty: RegType::NOT_INIT,
    var_off: super::tnum::Tnum { value: 0, mask: 0 },
    smin: 0,
    smax: 0,
    umin: 0,
    umax: 0,
    s32_min: 0,
    s32_max: 0,
    u32_min: 0,
    u32_max: 0,
    ..Reg::UNKNOWN
};

/// Values that a callback may return.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct RetRange {
    pub(crate) min: i32,
    pub(crate) max: i32,
}

/// One function's activation.
#[doc(alias = "bpf_func_state")]
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) regs: Regs,
    /// Instruction of the call, [`MAIN_FUNC`] if there is none.
    pub(crate) callsite: i32,
    pub(crate) frameno: u32,
    pub(crate) subprogno: u32,
    pub(crate) async_entry_cnt: u32,
    pub(crate) callback_ret: RetRange,
    pub(crate) in_callback: bool,
    pub(crate) in_async_callback: bool,
    pub(crate) in_exception_callback: bool,
    /// How often the callback of this frame has been entered so far.
    pub(crate) callback_depth: u32,
    /// Slot 0 holds fp-8..fp-1.
    pub(crate) stack: Slots,
}

impl Frame {
    pub(crate) fn new(callsite: i32, frameno: u32, subprogno: u32) -> Self {
        let mut f = Self {
            regs: Regs::unset(),
            callsite,
            frameno,
            subprogno,
            async_entry_cnt: 0,
            callback_ret: RetRange::default(),
            in_callback: false,
            in_async_callback: false,
            in_exception_callback: false,
            callback_depth: 0,
            stack: Slots::default(),
        };
        f.regs[10] = Reg::pointer(RegType::STACK, super::reg::Payload::None);
        f.regs[10].frameno = frameno;
        f
    }
}

/// Kinds of held references, a bit each (`enum ref_state_type`).
pub(crate) mod ref_type {
    pub(crate) const PTR: u8 = 1 << 1;
    pub(crate) const IRQ: u8 = 1 << 2;
    pub(crate) const LOCK: u8 = 1 << 3;
    pub(crate) const RES_LOCK: u8 = 1 << 4;
    pub(crate) const RES_LOCK_IRQ: u8 = 1 << 5;
    pub(crate) const LOCK_MASK: u8 = LOCK | RES_LOCK | RES_LOCK_IRQ;
}

/// What a lock lies in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LockPlace {
    None,
    Map(u32),
    ProgramBtf,
}

/// Something held that must be given back.
#[doc(alias = "bpf_reference_state")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RefState {
    pub(crate) ty: u8,
    pub(crate) id: u32,
    pub(crate) insn_idx: u32,
    pub(crate) place: LockPlace,
}

/// A register or spilled slot that shares its id with others, as kept in the history of jumps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct LinkedReg {
    pub(crate) frameno: u8,
    /// Register number or slot.
    pub(crate) index: u8,
    pub(crate) is_reg: bool,
}

/// At most this many linked registers are followed.
pub(crate) const LINKED_REGS_MAX: usize = 6;

/// A few [`LinkedReg`]s.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct LinkedRegs {
    pub(crate) len: u8,
    pub(crate) entries: [LinkedReg; LINKED_REGS_MAX],
}

impl LinkedRegs {
    pub(crate) fn push(&mut self, e: LinkedReg) -> bool {
        if usize::from(self.len) == LINKED_REGS_MAX {
            return false;
        }
        self.entries[usize::from(self.len)] = e;
        self.len += 1;
        true
    }

    pub(crate) fn as_slice(&self) -> &[LinkedReg] {
        &self.entries[..usize::from(self.len)]
    }
}

/// Marks of a [`Hist`] entry.
pub(crate) mod hist_flag {
    pub(crate) const STACK_ACCESS: u16 = 1 << 9;
    pub(crate) const DST_REG_STACK: u16 = 1 << 10;
    pub(crate) const SRC_REG_STACK: u16 = 1 << 11;

    pub(crate) fn stack_access(frameno: u32, spi: i32) -> u16 {
        STACK_ACCESS | ((spi as u16 & 0x3f) << 3) | (frameno as u16 & 7)
    }

    pub(crate) fn spi(flags: u16) -> usize {
        usize::from(flags >> 3) & 0x3f
    }

    pub(crate) fn frameno(flags: u16) -> usize {
        usize::from(flags) & 7
    }
}

/// One step of a path that cannot be found again by walking backwards.
#[doc(alias = "bpf_jmp_history_entry")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hist {
    pub(crate) idx: u32,
    pub(crate) prev_idx: u32,
    pub(crate) flags: u16,
    pub(crate) linked: LinkedRegs,
}

/// Position of a remembered state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StateId(pub(crate) u32);

/// Everything known at one point of one path.
#[doc(alias = "bpf_verifier_state")]
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) frames: Vec<Frame>,
    pub(crate) refs: Vec<RefState>,
    /// The remembered state that this one continues.
    pub(crate) parent: Option<StateId>,
    /// Paths from here that are not finished.
    pub(crate) branches: u32,
    pub(crate) insn_idx: u32,
    pub(crate) active_locks: u32,
    pub(crate) active_preempt_locks: u32,
    pub(crate) active_irq_id: u32,
    pub(crate) active_lock_id: u32,
    pub(crate) active_lock_place: Option<LockPlace>,
    pub(crate) active_rcu_locks: u32,
    pub(crate) in_sleepable: bool,
    pub(crate) cleaned: bool,
    pub(crate) first_insn_idx: u32,
    pub(crate) last_insn_idx: i32,
    /// The state that this one was found equal to, while that one is still being explored.
    pub(crate) equal_state: Option<StateId>,
    pub(crate) jmp_history: Vec<Hist>,
    pub(crate) dfs_depth: u32,
    pub(crate) callback_unroll_depth: u32,
    pub(crate) may_goto_depth: u32,
}

impl State {
    pub(crate) fn curframe(&self) -> usize {
        self.frames.len() - 1
    }

    pub(crate) fn frame(&self) -> &Frame {
        &self.frames[self.frames.len() - 1]
    }

    pub(crate) fn frame_mut(&mut self) -> &mut Frame {
        let n = self.frames.len() - 1;
        &mut self.frames[n]
    }

    /// Where execution of a frame is or will continue.
    pub(crate) fn frame_insn_idx(&self, frame: usize) -> u32 {
        if frame == self.curframe() { self.insn_idx } else { self.frames[frame + 1].callsite as u32 }
    }

    /// Whether both have the same chain of callers.
    pub(crate) fn same_callsites(&self, b: &Self) -> bool {
        self.frames.len() == b.frames.len()
            && self.frames.iter().zip(&b.frames).all(|(x, y)| x.callsite == y.callsite)
    }

    /// Changes every register and every spilled register of every frame that is `wanted`.
    pub(crate) fn change_regs(&mut self, wanted: impl Fn(&Reg) -> bool, mut f: impl FnMut(&mut Reg)) {
        for frame in &mut self.frames {
            frame.regs.change(&wanted, &mut f);
            frame.stack.change(|s| s.is_spilled() && wanted(&s.reg), |s| f(&mut s.reg));
        }
    }

    /// Copies all but the history of jumps, keeping this state's memory for reuse.
    pub(crate) fn copy_from(&mut self, src: &Self) {
        self.frames.clone_from(&src.frames);
        self.refs.clone_from(&src.refs);
        self.jmp_history.clone_from(&src.jmp_history);
        self.parent = src.parent;
        self.branches = src.branches;
        self.insn_idx = src.insn_idx;
        self.active_locks = src.active_locks;
        self.active_preempt_locks = src.active_preempt_locks;
        self.active_irq_id = src.active_irq_id;
        self.active_lock_id = src.active_lock_id;
        self.active_lock_place = src.active_lock_place;
        self.active_rcu_locks = src.active_rcu_locks;
        self.in_sleepable = src.in_sleepable;
        self.cleaned = src.cleaned;
        self.first_insn_idx = src.first_insn_idx;
        self.last_insn_idx = src.last_insn_idx;
        self.equal_state = src.equal_state;
        self.dfs_depth = src.dfs_depth;
        self.callback_unroll_depth = src.callback_unroll_depth;
        self.may_goto_depth = src.may_goto_depth;
    }
}
