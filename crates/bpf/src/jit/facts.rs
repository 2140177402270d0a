//! What the compiler is told about a program beyond its instructions: what the verifier proved.

use crate::verifier::{Branch, InsnFact, Place};

/// What memory a pointer points into. Pointers into different kinds never meet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Class {
    /// Anything.
    #[default]
    Unknown,
    /// The context; programs do not write it.
    Ctx,
    /// A stack frame.
    Stack,
    /// The packet and its metadata.
    Packet,
    /// A map's value.
    Map,
    /// Something else, for example a ring buffer's record.
    Other,
}

impl Class {
    /// Number of classes.
    pub(super) const COUNT: usize = 6;

    fn of(place: Place) -> Self {
        match place {
            Place::Ctx => Self::Ctx,
            Place::Stack => Self::Stack,
            Place::Packet | Place::PacketMeta => Self::Packet,
            Place::MapValue(_) => Self::Map,
            Place::Other => Self::Unknown,
            Place::MapKey | Place::Mem | Place::Sock | Place::Object | Place::Kernel | Place::MapStruct => {
                Self::Other
            }
        }
    }
}

/// The facts of a program, by instruction; instructions without an entry have none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// By instruction.
    pub insns: &'a [InsnFact],
    /// Bytes of stack that each function uses, in the order of the functions; what its own loads and stores
    /// show, or 512, without an entry.
    pub stack: &'a [u32],
}

impl Facts<'_> {
    /// Those of one instruction.
    pub(super) fn insn(&self, i: u32) -> InsnFact {
        let unknown = InsnFact { reached: true, ..InsnFact::default() };
        self.insns.get(i as usize).copied().unwrap_or(unknown)
    }

    /// What the base of a load, store or atomic operation points into.
    pub(super) fn class(&self, i: u32) -> Class {
        self.insns.get(i as usize).map_or(Class::Unknown, |f| Class::of(f.place))
    }

    /// Whether a conditional jump is none: it always (`true`) or never jumps.
    pub(super) fn decided(&self, i: u32) -> Option<bool> {
        match self.insns.get(i as usize)?.branch {
            Branch::Jumps => Some(true),
            Branch::FallsThrough => Some(false),
            Branch::None | Branch::Both => None,
        }
    }
}
