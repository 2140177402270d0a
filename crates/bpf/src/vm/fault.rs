//! [`Fault`]: what a program did that it may not do.

use std::fmt;

use super::RegionKind;

/// How memory is touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Access {
    /// Loaded, or read by a helper.
    Read,
    /// Stored, or written by a helper.
    Write,
}

/// A violation found by the checked interpreter. A verified program never causes one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Instruction, counted from the start of the program that ran.
    pub insn: u32,
    /// What happened.
    pub kind: FaultKind,
}

/// Kinds of violation.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FaultKind {
    /// The address belongs to no region: a number used as a pointer.
    NotAPointer {
        /// The address.
        addr: u64,
        /// Bytes.
        len: u64,
        /// How.
        access: Access,
    },
    /// The region was there, but is no more: a packet pointer from before the packet was moved, a
    /// record that was submitted, a released object.
    Stale {
        /// What it was.
        region: RegionKind,
        /// How.
        access: Access,
    },
    /// Outside of the bytes that the region allows.
    OutOfBounds {
        /// Region.
        region: RegionKind,
        /// Offset from the start of what is allowed, bytes.
        offset: i64,
        /// Bytes.
        len: u64,
        /// Bytes that are allowed.
        limit: u64,
        /// How.
        access: Access,
    },
    /// The region may not be written (or not read).
    Denied {
        /// Region.
        region: RegionKind,
        /// How.
        access: Access,
    },
    /// Something else that the kernel's verifier would have refused, in words.
    Illegal(String),
    /// More instructions than the run was allowed.
    OutOfFuel,
    /// No violation: an exception on its way out to the program's entry, with its cookie (`bpf_throw`).
    /// Helpers that call back pass it on.
    Thrown(u64),
}

impl Fault {
    /// A fault in words; the engine fills the instruction in.
    #[must_use]
    pub fn illegal(text: impl Into<String>) -> Self {
        FaultKind::Illegal(text.into()).into()
    }
}

impl From<FaultKind> for Fault {
    fn from(kind: FaultKind) -> Self {
        Self { insn: u32::MAX, kind }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAPointer { addr, len, access } => {
                write!(f, "{access} of {len} bytes at {addr:#x}, which is no pointer")
            }
            Self::Stale { region, access } => write!(f, "{access} through a stale pointer to {region}"),
            Self::OutOfBounds { region, offset, len, limit, access } => {
                write!(f, "{access} of {len} bytes at offset {offset} of {region}, which has {limit} bytes")
            }
            Self::Denied { region, access } => write!(f, "{access} of {region} is not allowed"),
            Self::Illegal(text) => f.write_str(text),
            Self::Thrown(cookie) => write!(f, "exception {cookie:#x} that nothing caught"),
            Self::OutOfFuel => f.write_str("the run was stopped: it took more instructions than allowed"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "insn {}: {}", self.insn, self.kind)
    }
}

impl std::error::Error for Fault {}
