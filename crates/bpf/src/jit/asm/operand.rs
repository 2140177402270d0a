//! Operands of x86-64 instructions: registers, memory, conditions.

/// A general register, by its number in machine code.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names say all")]
pub(crate) enum Gpr {
    #[default]
    Rax,
    Rcx,
    Rdx,
    Rbx,
    Rsp,
    Rbp,
    Rsi,
    Rdi,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
}

impl Gpr {
    /// All of them, by number.
    pub(crate) const ALL: [Self; 16] = [
        Self::Rax,
        Self::Rcx,
        Self::Rdx,
        Self::Rbx,
        Self::Rsp,
        Self::Rbp,
        Self::Rsi,
        Self::Rdi,
        Self::R8,
        Self::R9,
        Self::R10,
        Self::R11,
        Self::R12,
        Self::R13,
        Self::R14,
        Self::R15,
    ];

    /// The register of a number (its lowest four bits).
    pub(crate) const fn from_number(n: u8) -> Self {
        Self::ALL[(n & 15) as usize]
    }

    /// Its number.
    pub(crate) const fn n(self) -> u8 {
        self as u8
    }

    /// A set of this register alone.
    pub(crate) const fn bit(self) -> u16 {
        1 << self as u8
    }
}

/// Bits of a register that an instruction works on. 32-bit results clear the upper half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Width {
    /// 32 bits.
    W32,
    /// 64 bits.
    W64,
}

/// Bytes of memory that an instruction touches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(crate) enum Size {
    /// 1 byte.
    B,
    /// 2 bytes.
    H,
    /// 4 bytes.
    W,
    /// 8 bytes.
    D,
}

impl Size {
    /// Number of bytes.
    pub(crate) const fn bytes(self) -> u8 {
        1 << self as u8
    }

    /// The size of a number of bytes, a power of two up to 8.
    pub(crate) const fn from_bytes(n: u8) -> Self {
        match n {
            1 => Self::B,
            2 => Self::H,
            4 => Self::W,
            _ => Self::D,
        }
    }
}

/// A memory operand: `base + index * scale + disp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mem {
    /// Base register.
    pub(crate) base: Gpr,
    /// Index register, any but `rsp`, and the power of two it is multiplied with (0..=3).
    pub(crate) index: Option<(Gpr, u8)>,
    /// Displacement, bytes.
    pub(crate) disp: i32,
}

impl Mem {
    /// `base + disp`.
    pub(crate) const fn new(base: Gpr, disp: i32) -> Self {
        Self { base, index: None, disp }
    }

    /// `base + index * 2^shift + disp`.
    pub(crate) const fn indexed(base: Gpr, index: Gpr, shift: u8, disp: i32) -> Self {
        Self { base, index: Some((index, shift)), disp }
    }
}

/// A condition of a jump, set or move, by its number in machine code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Cond {
    /// Unsigned less.
    B = 2,
    /// Unsigned greater or equal.
    Ae = 3,
    /// Equal, zero.
    E = 4,
    /// Not equal, not zero.
    Ne = 5,
    /// Unsigned less or equal.
    Be = 6,
    /// Unsigned greater.
    A = 7,
    /// Negative.
    S = 8,
    /// Not negative.
    Ns = 9,
    /// Signed less.
    L = 12,
    /// Signed greater or equal.
    Ge = 13,
    /// Signed less or equal.
    Le = 14,
    /// Signed greater.
    G = 15,
}

impl Cond {
    /// Number in machine code.
    pub(crate) const fn n(self) -> u8 {
        self as u8
    }

    /// The opposite.
    pub(crate) const fn negated(self) -> Self {
        match self {
            Self::B => Self::Ae,
            Self::Ae => Self::B,
            Self::E => Self::Ne,
            Self::Ne => Self::E,
            Self::Be => Self::A,
            Self::A => Self::Be,
            Self::S => Self::Ns,
            Self::Ns => Self::S,
            Self::L => Self::Ge,
            Self::Ge => Self::L,
            Self::Le => Self::G,
            Self::G => Self::Le,
        }
    }

    /// The condition after the operands of the comparison have been exchanged.
    pub(crate) const fn swapped(self) -> Self {
        match self {
            Self::B => Self::A,
            Self::A => Self::B,
            Self::Ae => Self::Be,
            Self::Be => Self::Ae,
            Self::L => Self::G,
            Self::G => Self::L,
            Self::Ge => Self::Le,
            Self::Le => Self::Ge,
            same => same,
        }
    }
}

/// Two-operand arithmetic of the classic group, by its number in machine code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names say all")]
pub(crate) enum Alu {
    Add = 0,
    Or = 1,
    Adc = 2,
    And = 4,
    Sub = 5,
    Xor = 6,
    Cmp = 7,
}

/// Shifts and rotations, by their number in machine code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names say all")]
pub(crate) enum Shift {
    Rol = 0,
    Ror = 1,
    Shl = 4,
    Shr = 5,
    Sar = 7,
}

/// One-operand arithmetic, by its number in machine code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Unary {
    /// Complement.
    Not = 2,
    /// Two's complement.
    Neg = 3,
    /// `rdx:rax = rax * x`, unsigned.
    Mul = 4,
    /// `rax, rdx = rdx:rax / x, % x`, unsigned.
    Div = 6,
    /// The same, signed.
    Idiv = 7,
}
