//! Requests and answers of `BPF_PROG_TEST_RUN`.

use uapi::Errno;
use uapi::bpf::func;
use uapi::xdp::XdpMd;

/// One packet to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TestRun {
    /// Metadata (if the context says so), then the packet.
    pub data: Vec<u8>,
    /// `ctx_in`: `data` is the metadata's length, `data_end` the end of the linear part.
    pub ctx: Option<XdpMd>,
    /// Runs over the same, changing buffer; 0 counts as 1.
    pub repeat: u32,
    /// What the clocks say, nanoseconds.
    pub time_ns: u64,
    /// Timers that are due do not expire before the run. The kernel's timers follow a clock that cannot be
    /// set, so the two homes can be compared only while theirs stand.
    pub hold_timers: bool,
    /// CPU that runs the program: which values of per-CPU maps it sees.
    pub cpu: u32,
    /// Answers for the calls of scripted helpers, in the order of the calls: another backend's
    /// [`TestRunOutput::scripted`]. Only with [`LoadOptions::scripted`](crate::LoadOptions::scripted).
    pub script: Vec<ScriptedCall>,
}

/// A call of a helper whose answer is no function of program, packet and maps: clocks, random
/// numbers, CPU, current task, SYN cookies ([`SCRIPTED_HELPERS`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ScriptedCall {
    /// Number of the helper.
    pub helper: i32,
    /// What it returned.
    pub value: u64,
}

/// The helpers whose answers a backend records, or takes from a script.
pub const SCRIPTED_HELPERS: &[i32] = &[
    func::KTIME_GET_NS,
    func::KTIME_GET_BOOT_NS,
    func::KTIME_GET_COARSE_NS,
    func::KTIME_GET_TAI_NS,
    func::JIFFIES64,
    func::GET_PRANDOM_U32,
    func::GET_SMP_PROCESSOR_ID,
    func::GET_NUMA_NODE_ID,
    func::GET_CURRENT_PID_TGID,
    func::GET_CURRENT_UID_GID,
    func::GET_CURRENT_CGROUP_ID,
    func::GET_CURRENT_ANCESTOR_CGROUP_ID,
    func::GET_CURRENT_TASK,
    func::GET_CGROUP_CLASSID,
    func::TCP_CHECK_SYNCOOKIE,
    func::TCP_GEN_SYNCOOKIE,
    func::TCP_RAW_GEN_SYNCOOKIE_IPV4,
    func::TCP_RAW_GEN_SYNCOOKIE_IPV6,
    func::TCP_RAW_CHECK_SYNCOOKIE_IPV4,
    func::TCP_RAW_CHECK_SYNCOOKIE_IPV6,
];

/// What a run left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// What the scripted helpers returned, in the order of the calls.
    pub scripted: Vec<ScriptedCall>,
    /// How many of these a backend answered by itself although it follows scripts: from the first call on
    /// that the script had no answer for, because it had ended or named another helper at that place.
    pub off_script: u64,
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
