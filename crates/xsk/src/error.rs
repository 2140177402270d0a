//! [`SetupError`]: which step of opening a socket failed, the errno, and what usually helps.

use std::fmt;

use uapi::Errno;

/// A step of opening a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Step {
    Memory,
    Open,
    RegisterUmem,
    FillRing,
    CompletionRing,
    RxRing,
    TxRing,
    Offsets,
    Map,
    BusyPoll,
    Bind,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "getting memory",
            Self::Open => "opening the socket",
            Self::RegisterUmem => "registering the memory",
            Self::FillRing => "making the fill ring",
            Self::CompletionRing => "making the completion ring",
            Self::RxRing => "making the RX ring",
            Self::TxRing => "making the TX ring",
            Self::Offsets => "asking where the rings are",
            Self::Map => "mapping a ring",
            Self::BusyPoll => "setting up busy polling",
            Self::Bind => "binding to the queue",
        })
    }
}

/// A socket could not be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetupError {
    /// What was being done.
    pub step: Step,
    /// The kernel's errno.
    pub errno: Errno,
}

impl SetupError {
    /// What the errno means at this step; empty if it speaks for itself.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match (self.step, self.errno) {
            (Step::Open, Errno::EPERM) => "AF_XDP needs CAP_NET_RAW; run as root",
            (Step::Open, Errno::EAFNOSUPPORT) => "the kernel was built without CONFIG_XDP_SOCKETS",
            (Step::Memory | Step::RegisterUmem, Errno::ENOMEM) => "not enough memory for the UMEM",
            (Step::RegisterUmem, Errno::ENOBUFS) => {
                "the UMEM is above RLIMIT_MEMLOCK; raise it, or CAP_IPC_LOCK"
            }
            (Step::Memory | Step::RegisterUmem, Errno::EINVAL) => {
                "chunks are 2048 to 4096 bytes, a power of two unless unaligned, and the headroom must leave \
                 room for 256 bytes of XDP's and 320 at the end; TX metadata is a multiple of 8 below 256"
            }
            (Step::FillRing | Step::CompletionRing | Step::RxRing | Step::TxRing, Errno::EINVAL) => {
                "the number of entries must be a power of two above 0"
            }
            (Step::Bind, Errno::EBUSY) => {
                "another socket with memory of its own has this queue; close it (mapped rings hold it open), \
                 share its UMEM, or take another queue"
            }
            (Step::Bind, Errno::ENODEV) => "no such device in this network namespace",
            (Step::Bind, Errno::EOPNOTSUPP) => "the driver has no zero-copy on this queue; use copy mode",
            (Step::Bind, Errno::EINVAL) => {
                "the queue does not exist (see `ethtool -l`), or options do not go together: copy with \
                 zero-copy, or flags of its own with a shared queue"
            }
            (Step::BusyPoll, Errno::EPERM) => "a busy-poll budget above 64 needs CAP_NET_ADMIN",
            _ => "",
        }
    }
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.errno)?;
        match self.hint() {
            "" => Ok(()),
            hint => write!(f, ": {hint}"),
        }
    }
}

impl std::error::Error for SetupError {}
