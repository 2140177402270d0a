//! Clocks, random numbers, CPUs: the helpers whose answers come from the host alone.

use uapi::bpf::func;

use super::{Args, Reply, scripted};
use crate::host::Clock;
use crate::vm::Run;

macro_rules! from_host {
    ($(#[$doc:meta] $name:ident = $func:ident, |$run:ident| $answer:expr;)*) => {
        $(#[$doc]
        pub(super) fn $name(run: &mut Run<'_, '_>, _: Args) -> Reply {
            scripted(run, func::$func, |$run| Ok($answer))
        })*
    };
}

from_host! {
    /// Nanoseconds since boot without suspend.
    ktime_get_ns = KTIME_GET_NS, |run| run.host.ktime_ns(Clock::Monotonic);
    /// Nanoseconds since boot.
    ktime_get_boot_ns = KTIME_GET_BOOT_NS, |run| run.host.ktime_ns(Clock::Boottime);
    /// Nanoseconds since boot at the last tick.
    ktime_get_coarse_ns = KTIME_GET_COARSE_NS, |run| run.host.ktime_ns(Clock::Coarse);
    /// Nanoseconds of international atomic time.
    ktime_get_tai_ns = KTIME_GET_TAI_NS, |run| run.host.ktime_ns(Clock::Tai);
    /// Ticks since boot.
    jiffies64 = JIFFIES64, |run| run.host.jiffies64();
    /// 32 random bits.
    get_prandom_u32 = GET_PRANDOM_U32, |run| run.host.prandom_u32().into();
    /// The CPU.
    get_smp_processor_id = GET_SMP_PROCESSOR_ID, |run| run.host.cpu().into();
    /// The CPU's NUMA node.
    get_numa_node_id = GET_NUMA_NODE_ID, |run| run.host.numa_node().into();
}
