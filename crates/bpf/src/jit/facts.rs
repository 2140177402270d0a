//! What the compiler is told about a program beyond its instructions: what the verifier proved and
//! where things are.

/// What memory a pointer points into. Pointers into different kinds never meet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Class {
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
}

/// What the verifier proved about one instruction, on every path that reaches it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct InsnFact {
    /// Of a load, store or atomic operation: what its base register points into.
    pub class: Class,
    /// No path reaches it.
    pub dead: bool,
}

/// The facts of a program, by instruction; instructions without an entry have none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// By instruction.
    pub insns: &'a [InsnFact],
    /// Bytes of stack that each function uses, in the order of the functions; 512 without an entry.
    pub stack: &'a [u32],
}

impl Facts<'_> {
    /// Those of one instruction.
    pub(super) fn insn(&self, i: u32) -> InsnFact {
        self.insns.get(i as usize).copied().unwrap_or_default()
    }
}
