//! [`Claims`]: what the verifier believes before each instruction, for tests that hold runs against it.
//!
//! With [`Options::claims`](super::Options::claims) a state is remembered at every instruction and none is
//! forgotten. When all paths are done, dead registers and slots are cleared and precision marks are final;
//! what is left is all that later decisions rely on: before each instruction a run's registers and stack
//! lie inside at least one of the states remembered there.

use super::env::Env;
use super::reg::{ADD_CONST, ADD_CONST32, Payload, Reg};
use super::state::{Frame, SlotType, StackSlot, State};
use super::tnum::Tnum;
use super::types::RegType;

/// What was claimed of a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScalarClaim {
    /// Bits.
    pub bits: Tnum,
    /// Unsigned 64-bit range.
    pub unsigned: (u64, u64),
    /// Signed 64-bit range.
    pub signed: (i64, i64),
    /// Unsigned range of the low half.
    pub unsigned32: (u32, u32),
    /// Signed range of the low half.
    pub signed32: (i32, i32),
}

impl ScalarClaim {
    fn of(r: &Reg) -> Self {
        Self {
            bits: r.var_off,
            unsigned: (r.umin, r.umax),
            signed: (r.smin, r.smax),
            unsigned32: (r.u32_min, r.u32_max),
            signed32: (r.s32_min, r.s32_max),
        }
    }

    /// Whether a concrete value is one of those claimed.
    #[must_use]
    pub fn contains(&self, v: u64) -> bool {
        let (u, s, u32s, s32s) = (self.unsigned, self.signed, self.unsigned32, self.signed32);
        self.bits.contains(v)
            && (u.0..=u.1).contains(&v)
            && (s.0..=s.1).contains(&(v as i64))
            && (u32s.0..=u32s.1).contains(&(v as u32))
            && (s32s.0..=s32s.1).contains(&(v as i32))
    }
}

/// What a pointer points into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// The context.
    Ctx,
    /// The packet, counted from its start.
    Packet,
    /// Metadata, counted from its start.
    PacketMeta,
    /// The end of the packet.
    PacketEnd,
    /// The stack of this frame, 0 being the outermost; counted from the frame pointer.
    Stack(u32),
    /// A value of a map (position in the input's maps; templates of inner maps follow).
    MapValue(u32),
    /// A key of a map.
    MapKey(u32),
    /// A map itself.
    Map(u32),
    /// Other memory of so many bytes.
    Mem(u32),
    /// Something that no offset is counted in.
    Opaque,
}

/// What was claimed of a pointer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PointerClaim {
    /// What it points into.
    pub target: Target,
    /// It may be null instead.
    pub nullable: bool,
    /// Known part of the offset, bytes.
    pub off: i32,
    /// The other part.
    pub var: ScalarClaim,
    /// Packet pointers of one id other than 0 differ in `off` alone.
    pub id: u32,
    /// Bytes from `off` = 0 on that are proven to exist; negative values are marks of comparisons.
    pub range: i32,
}

/// What was claimed of a register or slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// Nothing: not read again, or no decision depends on the value.
    Any,
    /// A number.
    Number {
        /// Its values.
        range: ScalarClaim,
        /// Numbers of one id other than 0 are the same but for `delta`.
        id: u32,
        /// What was added since the copy was made.
        delta: i32,
        /// The sum was one of 32 bits.
        delta32: bool,
    },
    /// A pointer.
    Pointer(PointerClaim),
}

/// What was claimed of eight bytes of stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotClaim {
    /// Of the register that was stored here, and how many of its bytes were.
    pub spilled: Option<(Claim, u8)>,
    /// Bytes that are zero, a bit each, bit 0 the lowest address.
    pub zero: u8,
}

/// What was claimed before an instruction, on some of the paths that lead there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateClaim {
    /// Where the outermost function starts.
    pub root: u32,
    /// The calls from there to here.
    pub callsites: Vec<u32>,
    /// R0 to R9.
    pub regs: [Claim; 10],
    /// Stack of each frame, the outermost first; in each, the eight bytes below the frame pointer first.
    pub stacks: Vec<Vec<SlotClaim>>,
}

/// Claims before every instruction.
#[derive(Clone, Debug)]
pub struct Claims {
    at: Vec<Vec<StateClaim>>,
}

impl Claims {
    pub(super) fn new(insns: usize) -> Self {
        Self { at: vec![Vec::new(); insns] }
    }

    /// The states of an instruction.
    #[must_use]
    pub fn at(&self, insn: u32) -> &[StateClaim] {
        self.at.get(insn as usize).map_or(&[], Vec::as_slice)
    }
}

impl Env<'_> {
    /// Adds what was remembered of a function that has been verified.
    pub(super) fn collect_claims(&mut self) {
        let Some(mut claims) = self.claims.take() else { return };
        for i in 0..self.states.len() {
            let Some(mut explored) = self.states[i].take() else { continue };
            self.clean_state(&mut explored.state);
            let claim = self.state_claim(&explored.state);
            claims.at[explored.state.insn_idx as usize].push(claim);
        }
        self.claims = Some(claims);
    }

    fn state_claim(&self, st: &State) -> StateClaim {
        let regs = &st.frame().regs;
        StateClaim {
            root: self.subprogs[st.frames[0].subprogno as usize].start,
            callsites: st.frames[1..].iter().map(|f| f.callsite as u32).collect(),
            regs: std::array::from_fn(|r| claim(&regs[r])),
            stacks: st.frames.iter().map(stack_claim).collect(),
        }
    }
}

fn stack_claim(frame: &Frame) -> Vec<SlotClaim> {
    frame.stack.iter().map(slot_claim).collect()
}

fn slot_claim(slot: &StackSlot) -> SlotClaim {
    let spilled = slot.is_spilled().then(|| {
        let bytes = slot.types.iter().filter(|t| **t == SlotType::Spill).count();
        (claim(&slot.reg), bytes as u8)
    });
    // The kernel numbers a slot's bytes from the frame pointer downwards.
    let zero = slot.types.iter().rev().enumerate();
    let zero = zero.fold(0, |bits, (i, t)| bits | u8::from(*t == SlotType::Zero) << i);
    SlotClaim { spilled, zero }
}

fn claim(r: &Reg) -> Claim {
    match r.ty.base() {
        RegType::NOT_INIT => Claim::Any,
        RegType::SCALAR if !r.precise => Claim::Any,
        RegType::SCALAR => {
            let summed = r.id & ADD_CONST != 0;
            Claim::Number {
                range: ScalarClaim::of(r),
                id: r.id & !ADD_CONST,
                delta: if summed { r.off } else { 0 },
                delta32: r.id & ADD_CONST32 != 0,
            }
        }
        base => Claim::Pointer(PointerClaim {
            target: target(base, r),
            nullable: r.ty.may_be_null(),
            off: r.off,
            var: ScalarClaim::of(r),
            id: if base == RegType::PACKET || base == RegType::PACKET_META { r.id } else { 0 },
            range: r.range(),
        }),
    }
}

fn target(base: RegType, r: &Reg) -> Target {
    match base {
        RegType::CTX => Target::Ctx,
        RegType::PACKET => Target::Packet,
        RegType::PACKET_META => Target::PacketMeta,
        RegType::PACKET_END => Target::PacketEnd,
        RegType::STACK => Target::Stack(r.frameno),
        RegType::MAP_VALUE => Target::MapValue(r.map() as u32),
        RegType::MAP_KEY => Target::MapKey(r.map() as u32),
        RegType::MAP_PTR => Target::Map(r.map() as u32),
        RegType::MEM if matches!(r.pl, Payload::Mem { .. }) => Target::Mem(r.mem_size()),
        _ => Target::Opaque,
    }
}
