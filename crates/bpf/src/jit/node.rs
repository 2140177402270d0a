//! Values of a trace: [`Node`]s in an arena, each computed once from earlier ones.
//!
//! A trace is a stretch of code with one way in. Its nodes stand in program order; [`super::fold`]
//! makes them, [`super::uses`] decides which are needed and which become part of another's
//! instruction, [`super::emit`] turns them into machine code.

use super::asm::{Cond, Size, Width};
use super::facts::Class;

/// Position of a node in its trace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Id(pub(super) u32);

impl Id {
    /// No node.
    pub(super) const NONE: Self = Self(u32::MAX);
    /// The register that nobody has written, the first node of every trace.
    pub(super) const UNDEF: Self = Self(0);
    /// The end of the stack frame, the second.
    pub(super) const FRAME: Self = Self(1);

    /// Whether there is one.
    pub(super) fn is_some(self) -> bool {
        self != Self::NONE
    }
}

/// What a node does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Op {
    /// A register that nobody has written.
    Undef,
    /// Was in a machine register when the trace began.
    Input,
    /// `imm`.
    Const,
    /// Address of the stack frame's end plus `imm`.
    Frame,
    /// `a + b`, as for all two-operand forms with `imm` in place of `b` if there is no `b`.
    Add,
    /// `a - b`.
    Sub,
    /// `a * b`.
    Mul,
    /// `a & b`.
    And,
    /// `a | b`.
    Or,
    /// `a ^ b`.
    Xor,
    /// `a << b`, the count modulo the width.
    Shl,
    /// `a >> b`, zeros come in.
    Shr,
    /// `a >> b`, signs come in.
    Sar,
    /// `a` rotated left by `imm`.
    Rol,
    /// Unsigned quotient, 0 by 0.
    Div,
    /// Unsigned remainder, `a` by 0.
    Mod,
    /// Signed quotient.
    Sdiv,
    /// Signed remainder.
    Smod,
    /// `-a`.
    Neg,
    /// The lowest 32 bits of `a`.
    Zext,
    /// The lowest `imm` bits of `a`, sign-extended to the width.
    Sext,
    /// The lowest `imm` bits of `a` with their bytes reversed.
    Bswap,
    /// `size` bytes at `a + imm`.
    Load,
    /// The 32-bit number at `imm` in the run.
    RunField,
    /// `a` if `b < imm`, both 32 bits unsigned, else 0.
    Select,
    /// Entry number `a` of the table of 64-bit numbers at address `imm`; 0 from the `aux`-th on.
    Slot,
    /// Lookup in the hash table of the map of number `aux`, with `b` as the key or the key at `a + imm`.
    HashLookup,
    /// `size` bytes of `b`, or of the constant in `aux`, to `a + imm`.
    Store,
    /// An atomic operation of kind `aux` on `size` bytes at `a + imm` with operand `b`; its value is what
    /// was there before.
    Atomic,
    /// A call, [`super::trace::CallSite`] number `aux`; its value is R0.
    Call,
    /// A conditional way out, [`super::trace::Exit`] number `aux`; compares `a` with `b` or `imm`.
    Branch,
    /// The same, taken when the function's loop budget is used up.
    MayGoto,
    /// The end of the trace, `Exit` number `aux`.
    Jump,
    /// The end of the function with `a` as its result.
    Return,
}

impl Op {
    /// Whether `a op b == b op a`.
    pub(super) const fn commutes(self) -> bool {
        matches!(self, Self::Add | Self::Mul | Self::And | Self::Or | Self::Xor)
    }

    /// Whether it stands for code that runs even if nobody uses its value.
    pub(super) const fn is_root(self) -> bool {
        matches!(
            self,
            Self::Atomic
                | Self::Call
                | Self::HashLookup
                | Self::Branch
                | Self::MayGoto
                | Self::Jump
                | Self::Return
        )
    }
}

/// A condition between two values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Test {
    /// As after `cmp`.
    Compare(Cond),
    /// `a & b != 0`.
    AnyBit,
    /// `a & b == 0`.
    NoBit,
}

impl Test {
    /// The opposite.
    pub(super) const fn negated(self) -> Self {
        match self {
            Self::Compare(c) => Self::Compare(c.negated()),
            Self::AnyBit => Self::NoBit,
            Self::NoBit => Self::AnyBit,
        }
    }

    /// Whether it holds between two constants.
    pub(super) fn holds(self, w: Width, a: u64, b: u64) -> bool {
        let (a, b, sa, sb) = match w {
            Width::W32 => (a as u32 as u64, b as u32 as u64, i64::from(a as i32), i64::from(b as i32)),
            Width::W64 => (a, b, a as i64, b as i64),
        };
        match self {
            Self::AnyBit => a & b != 0,
            Self::NoBit => a & b == 0,
            Self::Compare(c) => match c {
                Cond::B => a < b,
                Cond::Ae => a >= b,
                Cond::E => a == b,
                Cond::Ne => a != b,
                Cond::Be => a <= b,
                Cond::A => a > b,
                Cond::S => sa < 0,
                Cond::Ns => sa >= 0,
                Cond::L => sa < sb,
                Cond::Ge => sa >= sb,
                Cond::Le => sa <= sb,
                Cond::G => sa > sb,
            },
        }
    }
}

/// Where a node's value is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Loc(u8);

impl Loc {
    /// Not computed yet.
    pub(super) const NONE: Self = Self(0xff);
    const SLOT: u8 = 0x40;

    /// In the register of this number.
    pub(super) const fn reg(n: u8) -> Self {
        Self(n)
    }

    /// In the spill slot of this number.
    pub(super) const fn slot(n: u8) -> Self {
        Self(Self::SLOT | n)
    }

    /// The register's number.
    pub(super) const fn as_reg(self) -> Option<u8> {
        if self.0 < 16 { Some(self.0) } else { None }
    }

    /// The slot's number.
    pub(super) const fn as_slot(self) -> Option<u8> {
        if self.0 & 0xc0 == Self::SLOT { Some(self.0 & 0x3f) } else { None }
    }
}

/// No register is preferred.
pub(super) const NO_HINT: u8 = 0xff;

/// One value or effect.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    /// What it does.
    pub(super) op: Op,
    /// Width that it computes in; a 32-bit result has no upper half.
    pub(super) w: Width,
    /// The value is below `2^bits`.
    pub(super) bits: u8,
    /// What the value points into, if it is a pointer.
    pub(super) class: Class,
    /// What a load or store touches.
    pub(super) mem: Class,
    /// Bytes that a load or store moves.
    pub(super) size: Size,
    /// See the constants.
    pub(super) flags: u8,
    /// Where the value is, while code is made.
    pub(super) loc: Loc,
    /// Register that would suit, or [`NO_HINT`].
    pub(super) hint: u8,
    /// First operand.
    pub(super) a: Id,
    /// Second operand.
    pub(super) b: Id,
    /// Constant operand.
    pub(super) imm: i64,
    /// How often it is still to be read. Traces are short enough for 16 bits.
    pub(super) uses: u16,
    /// How many nodes are computed at once with this one at most.
    pub(super) depth: u8,
    /// Depends on `op`.
    pub(super) aux: u32,
}

/// The node is part of the instruction of the one that uses it.
pub(super) const FOLDED: u8 = 1;
/// It is computed when first read, because then it costs least (address arithmetic).
pub(super) const LAZY: u8 = 2;
/// It lives across a call.
pub(super) const CROSSES: u8 = 4;
/// The usual path needs it, not only a way out.
pub(super) const MAIN: u8 = 8;
/// A store that must happen.
pub(super) const KEPT: u8 = 16;
/// A store of `load op value` to where the load was.
pub(super) const UPDATE: u8 = 32;
/// A store whose value is the constant `aux`.
pub(super) const STORES_IMM: u8 = 64;

impl Node {
    /// A node without operands.
    pub(super) const fn new(op: Op, w: Width) -> Self {
        Self {
            op,
            w,
            bits: if matches!(w, Width::W32) { 32 } else { 64 },
            class: Class::Unknown,
            mem: Class::Unknown,
            size: Size::D,
            flags: 0,
            loc: Loc::NONE,
            hint: NO_HINT,
            a: Id::NONE,
            b: Id::NONE,
            imm: 0,
            uses: 0,
            depth: 0,
            aux: 0,
        }
    }

    /// Whether a flag is set.
    pub(super) const fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The nodes of a trace.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    /// Instruction that is being read.
    pub(super) at: u32,
    /// By node: the instruction that it comes from, if anybody wants to know.
    pub(super) origins: Option<Vec<u32>>,
    /// Constants that no instruction holds, as they were made last: in a register once, they serve all
    /// that read them.
    pub(super) wide: [Option<Id>; WIDE],
}

/// Wide constants that are known at a time.
pub(super) const WIDE: usize = 8;

impl Graph {
    /// Forgets all nodes.
    pub(super) fn clear(&mut self) {
        self.nodes.clear();
        self.wide = [None; WIDE];
        if let Some(origins) = &mut self.origins {
            origins.clear();
        }
    }

    /// The instruction that a node comes from, if it was noted.
    pub(super) fn origin(&self, id: Id) -> Option<u32> {
        self.origins.as_ref()?.get(id.0 as usize).copied()
    }

    /// Number of nodes.
    pub(super) fn len(&self) -> u32 {
        self.nodes.len() as u32
    }

    /// Adds a node as it is.
    #[inline]
    pub(super) fn push(&mut self, node: Node) -> Id {
        self.nodes.push(node);
        if let Some(origins) = &mut self.origins {
            origins.push(self.at);
        }
        Id(self.nodes.len() as u32 - 1)
    }

    /// The constant, if it is one.
    #[inline]
    pub(super) fn constant(&self, id: Id) -> Option<u64> {
        let n = &self[id];
        (n.op == Op::Const).then_some(n.imm as u64)
    }

    /// Bits below which the value lies.
    #[inline]
    pub(super) fn bits(&self, id: Id) -> u8 {
        self[id].bits
    }
}

impl std::ops::Index<Id> for Graph {
    type Output = Node;

    #[inline]
    fn index(&self, id: Id) -> &Node {
        &self.nodes[id.0 as usize]
    }
}

impl std::ops::IndexMut<Id> for Graph {
    #[inline]
    fn index_mut(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }
}
