//! What a verification proved, for those who run the program: the JIT, the interpreter's checks, tests.

use super::env::{Aux, KeyState, LoopState, MapState, Pseudo};
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
    /// An object of the kernel's or of the program's own that is there.
    Object,
    /// Memory of the kernel's that may not be there: reads have to be checked at run time.
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
                _ if a.untrusted => Place::Kernel,
                RegType::CTX => Place::Ctx,
                RegType::PACKET => Place::Packet,
                RegType::PACKET_META => Place::PacketMeta,
                RegType::STACK => Place::Stack,
                RegType::MAP_VALUE => Place::MapValue(one(a.access_map)),
                RegType::MAP_KEY => Place::MapKey,
                RegType::MEM => Place::Mem,
                RegType::SOCKET | RegType::SOCK_COMMON | RegType::TCP_SOCK | RegType::XDP_SOCK => Place::Sock,
                RegType::BTF_ID => Place::Object,
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
