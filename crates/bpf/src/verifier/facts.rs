//! What a verification proved, for those who run the program: the JIT, the interpreter's checks, tests.

use super::env::{Aux, Env, KeyState, LoopState, MapState, Pseudo};
use super::reg::Reg;
use super::tnum::Tnum;
use super::types::RegType;

/// Kind of the memory that a load, store or atomic instruction goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Place {
    /// No memory access, or different kinds on different paths.
    #[default]
    Other,
    /// The context (`struct xdp_md`).
    Ctx,
    /// The packet.
    Packet,
    /// Metadata before the packet.
    PacketMeta,
    /// The stack, of this frame or of a caller's.
    Stack,
    /// A value of a map; which one, if it is the same on all paths.
    MapValue(Option<u32>),
    /// A key of a map, in a callback.
    MapKey,
    /// Other sized memory: a ring buffer record, a dynptr's slice, an argument of a global function.
    Mem,
    /// A socket of the BTF-less kinds.
    Sock,
    /// A kernel object; reads cannot fault but may have to be checked at run time.
    Kernel,
    /// A map's own struct.
    MapStruct,
}

/// Which ways a conditional jump goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Branch {
    /// No conditional jump, or never reached.
    #[default]
    None,
    /// Never jumps.
    FallsThrough,
    /// Always jumps.
    Jumps,
    /// Both are possible.
    Both,
}

/// What holds at one instruction on every path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct InsnFact {
    /// Some path reaches it. An instruction that none reaches may be left out.
    pub reached: bool,
    /// Where a memory access goes.
    pub place: Place,
    /// Which ways a conditional jump goes.
    pub branch: Branch,
    /// The map of a helper call, if it is the same on all paths (index into the input's maps; templates
    /// of inner maps are not named).
    pub map: Option<u32>,
    /// The key of a map access or the index of a tail call, if it is one constant on all paths.
    pub key: Option<u64>,
    /// The result of a map lookup is never null.
    pub never_null: bool,
    /// First instruction of the callback of `bpf_loop`, if the same on all paths and flags are zero.
    pub callback: Option<u32>,
    /// The map that a wide load names, with the offset into its value if it is one's address.
    pub ld_map: Option<(u32, Option<u32>)>,
    /// Registers that may still be read before this instruction, a bit each.
    pub live_regs: u16,
}

impl InsnFact {
    pub(super) fn of(a: &Aux, callback_start: impl Fn(u32) -> u32, maps: u32) -> Self {
        let own = |m: u32| (m < maps).then_some(m);
        let one = |m: MapState| if let MapState::One(m) = m { own(m) } else { None };
        Self {
            reached: a.seen,
            place: match a.ptr_type.base() {
                RegType::CTX => Place::Ctx,
                RegType::PACKET => Place::Packet,
                RegType::PACKET_META => Place::PacketMeta,
                RegType::STACK => Place::Stack,
                RegType::MAP_VALUE => Place::MapValue(one(a.access_map)),
                RegType::MAP_KEY => Place::MapKey,
                RegType::MEM => Place::Mem,
                RegType::SOCKET | RegType::SOCK_COMMON | RegType::TCP_SOCK | RegType::XDP_SOCK => Place::Sock,
                RegType::BTF_ID => Place::Kernel,
                RegType::MAP_PTR => Place::MapStruct,
                _ => Place::Other,
            },
            branch: match a.branch_taken {
                1 => Branch::FallsThrough,
                2 => Branch::Jumps,
                3 => Branch::Both,
                _ => Branch::None,
            },
            map: one(a.map),
            key: if let KeyState::Const(k) = a.map_key { Some(k) } else { None },
            never_null: a.non_null == Some(true),
            callback: if let LoopState::One(s) = a.loop_callback { Some(callback_start(s)) } else { None },
            ld_map: match a.pseudo {
                Pseudo::Map(m) => Some((m, None)),
                Pseudo::MapValue { map, off } => Some((map, Some(off))),
                _ => None,
            },
            live_regs: a.live_regs_before,
        }
    }
}

/// What was claimed of a scalar register before an instruction, joined over all paths.
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

    fn join(&mut self, b: &Self) {
        self.bits = self.bits.union(b.bits);
        self.unsigned = (self.unsigned.0.min(b.unsigned.0), self.unsigned.1.max(b.unsigned.1));
        self.signed = (self.signed.0.min(b.signed.0), self.signed.1.max(b.signed.1));
        self.unsigned32 = (self.unsigned32.0.min(b.unsigned32.0), self.unsigned32.1.max(b.unsigned32.1));
        self.signed32 = (self.signed32.0.min(b.signed32.0), self.signed32.1.max(b.signed32.1));
    }

    /// Whether a concrete value is one of those claimed.
    #[must_use]
    pub fn contains(&self, v: u64) -> bool {
        let within = |v: i64, (lo, hi): (i64, i64)| v >= lo && v <= hi;
        self.bits.contains(v)
            && v >= self.unsigned.0
            && v <= self.unsigned.1
            && within(v as i64, self.signed)
            && v as u32 >= self.unsigned32.0
            && v as u32 <= self.unsigned32.1
            && v as i32 >= self.signed32.0
            && v as i32 <= self.signed32.1
    }
}

/// What was claimed of a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Claim {
    /// No path reached the instruction with this register set.
    #[default]
    Nothing,
    /// A number on all paths.
    Scalar(ScalarClaim),
    /// A pointer on some path, or unset on some: nothing to compare a number with.
    Other,
}

/// Claims before every instruction, for registers R0 to R9.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// By instruction, then register.
    pub claims: Vec<[Claim; 10]>,
}

impl Env<'_> {
    /// Joins the current claims into the trace.
    pub(super) fn trace_state(&mut self) {
        let at = self.insn_idx as usize;
        let frame = self.cur.frame();
        let Some(trace) = &mut self.trace else { return };
        for (claim, r) in trace.claims[at].iter_mut().zip(&frame.regs) {
            // A pruned path joins with imprecise scalars: those stand for any value.
            let now = match r.ty {
                RegType::SCALAR => Claim::Scalar(ScalarClaim::of(r)),
                _ => Claim::Other,
            };
            *claim = match (*claim, now) {
                (Claim::Nothing, n) => n,
                (Claim::Scalar(mut a), Claim::Scalar(b)) => {
                    a.join(&b);
                    Claim::Scalar(a)
                }
                _ => Claim::Other,
            };
        }
    }
}
