//! [`Op`] and [`Code`]: the form in which the interpreter reads instructions.

/// What one decoded instruction does. `X` takes the source register, `K` the immediate.
///
/// Every operation of the wire format has one of its own, so that the loop decides once per instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[rustfmt::skip]
pub(super) enum Op {
    Add64K, Add64X, Add32K, Add32X, Sub64K, Sub64X, Sub32K, Sub32X,
    Mul64K, Mul64X, Mul32K, Mul32X, Div64K, Div64X, Div32K, Div32X,
    Mod64K, Mod64X, Mod32K, Mod32X, Sdiv64K, Sdiv64X, Sdiv32K, Sdiv32X,
    Smod64K, Smod64X, Smod32K, Smod32X, Or64K, Or64X, Or32K, Or32X,
    And64K, And64X, And32K, And32X, Xor64K, Xor64X, Xor32K, Xor32X,
    Lsh64K, Lsh64X, Lsh32K, Lsh32X, Rsh64K, Rsh64X, Rsh32K, Rsh32X,
    Arsh64K, Arsh64X, Arsh32K, Arsh32X, Mov64K, Mov64X, Mov32K, Mov32X,
    Movs8To64, Movs16To64, Movs32To64, Movs8To32, Movs16To32,
    Neg64, Neg32, Le16, Le32, Le64, Be16, Be32, Be64, Bswap16, Bswap32, Bswap64,

    Jeq64K, Jeq64X, Jeq32K, Jeq32X, Jne64K, Jne64X, Jne32K, Jne32X,
    Jgt64K, Jgt64X, Jgt32K, Jgt32X, Jge64K, Jge64X, Jge32K, Jge32X,
    Jlt64K, Jlt64X, Jlt32K, Jlt32X, Jle64K, Jle64X, Jle32K, Jle32X,
    Jsgt64K, Jsgt64X, Jsgt32K, Jsgt32X, Jsge64K, Jsge64X, Jsge32K, Jsge32X,
    Jslt64K, Jslt64X, Jslt32K, Jslt32X, Jsle64K, Jsle64X, Jsle32K, Jsle32X,
    Jset64K, Jset64X, Jset32K, Jset32X, Ja, MayGoto,

    Ldx8, Ldx16, Ldx32, Ldx64, Ldxs8, Ldxs16, Ldxs32,
    Stx8, Stx16, Stx32, Stx64, St8, St16, St32, St64,
    Atomic32, Atomic64, LoadAcquire, StoreRelease,
    /// A load of what may not be there, which then counts as 0; `imm` says that the sign is extended.
    Probe,

    /// A 64-bit number, which may be the address of a function or symbol. These three take two slots.
    LoadImm64,
    /// A map of the program: its position in `imm`.
    LoadMap,
    /// The bytes of a map of the program: its position in `off`, the offset in `imm`.
    LoadMapValue,

    /// A function of the program at `off`.
    Call,
    /// A helper: its number in `imm`.
    Helper,
    /// A kfunc: its position in `imm`.
    Kfunc,
    TailCall,
    Throw,
    Exit,
    /// The second slot of a wide instruction, which no jump reaches.
    Unreachable,
}

/// One decoded instruction, at the index of its slot in the program.
#[derive(Clone, Copy, Debug)]
pub(in crate::vm) struct Code {
    pub(super) op: Op,
    /// A number of 4 bits, as [`Code::src`].
    pub(super) dst: u8,
    pub(super) src: u8,
    /// Bytes of an access of [`Op::LoadAcquire`], [`Op::StoreRelease`] or [`Op::Probe`].
    pub(super) size: u8,
    /// The offset of a load or store; how far a jump goes from the next instruction; what a call calls.
    pub(super) off: i32,
    /// The immediate, sign-extended.
    pub(in crate::vm) imm: i64,
}
