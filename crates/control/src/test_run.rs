//! Requests and answers of `BPF_PROG_TEST_RUN`.

use uapi::Errno;
use uapi::xdp::XdpMd;

/// One packet to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// Metadata (if the context says so), then the packet.
    pub data: Vec<u8>,
    /// `ctx_in`: `data` is the metadata's length, `data_end` the end of the linear part.
    pub ctx: Option<XdpMd>,
    /// Runs over the same, changing buffer; 0 counts as 1.
    pub repeat: u32,
    /// What the clocks say, nanoseconds.
    pub time_ns: u64,
}

/// What a run left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRunOutput {
    /// The program's return value.
    pub retval: u32,
    /// Metadata, then the packet with its fragments.
    pub data: Vec<u8>,
    /// `ctx_out`.
    pub ctx: XdpMd,
    /// Mean time of one run, nanoseconds.
    pub duration_ns: u64,
    /// Where `XDP_REDIRECT` pointed, for backends that can tell.
    pub redirect: Option<RedirectTarget>,
}

/// Where a redirect pointed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RedirectTarget {
    /// A device by number (`bpf_redirect`).
    Ifindex(u32),
    /// An entry of a map (`bpf_redirect_map`).
    Map {
        /// Name of the map.
        map: String,
        /// Key; `None` for a broadcast.
        key: Option<u32>,
    },
}

/// A packet could not be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{errno}: {reason}")]
pub struct TestRunError {
    /// The kernel's errno for the request.
    pub errno: Errno,
    /// What it means.
    pub reason: String,
}
