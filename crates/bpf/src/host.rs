//! [`Host`]: everything that a program can learn from the world around it.
//!
//! Programs are deterministic but for what this trait answers, so a run is repeatable with the same host.

use mem::SharedSlice;
use uapi::Errno;

/// Which clock a helper reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Clock {
    /// `bpf_ktime_get_ns`: monotonic, stops in suspend.
    Monotonic,
    /// `bpf_ktime_get_boot_ns`: monotonic, runs in suspend.
    Boottime,
    /// `bpf_ktime_get_coarse_ns`: monotonic, of tick resolution.
    Coarse,
    /// `bpf_ktime_get_tai_ns`: international atomic time.
    Tai,
}

/// A network device as helpers see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceInfo {
    /// Number.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// Largest packet without link header, bytes.
    pub mtu: u32,
    /// Link header, bytes.
    pub hard_header_len: u32,
    /// Hardware address.
    pub mac: [u8; 6],
}

/// An event that a program sends to user space.
#[derive(Debug)]
pub enum Event<'a> {
    /// `bpf_trace_printk`, `bpf_trace_vprintk`: one formatted line.
    Trace(&'a str),
    /// `bpf_perf_event_output`: map id, CPU, the sample's data and the packet bytes after it.
    PerfSample {
        /// Map's id.
        map_id: u32,
        /// CPU of the ring.
        cpu: u32,
        /// What the program passed, then the bytes of the packet that it asked for.
        data: &'a [u8],
    },
}

/// The world around a program. `bpf` itself reads no clock and does no I/O.
///
/// A method without meaning for a host keeps its default, which answers as a kernel does on which
/// nothing of the kind exists.
pub trait Host {
    /// Nanoseconds of a clock.
    fn ktime_ns(&mut self, clock: Clock) -> u64;

    /// Scheduler ticks since boot.
    fn jiffies64(&mut self) -> u64 {
        self.ktime_ns(Clock::Coarse) / 4_000_000
    }

    /// 32 random bits.
    fn prandom_u32(&mut self) -> u32;

    /// The CPU that runs the program.
    fn cpu(&self) -> u32 {
        0
    }

    /// Its NUMA node.
    fn numa_node(&self) -> u32 {
        0
    }

    /// A device in the network namespace of the receiving one.
    fn device(&self, ifindex: u32) -> Option<DeviceInfo> {
        let _ = ifindex;
        None
    }

    /// `bpf_fib_lookup`: reads and writes `struct bpf_fib_lookup`; the result is the helper's.
    ///
    /// # Errors
    ///
    /// `ENODEV` and the like, as the helper returns them.
    fn fib_lookup(&mut self, params: SharedSlice<'_>, flags: u32) -> Result<u32, Errno> {
        let _ = (params, flags);
        Err(Errno::ENODEV)
    }

    /// An event for user space.
    ///
    /// # Errors
    ///
    /// `ENOENT` if nobody listens on that ring.
    fn event(&mut self, event: Event<'_>) -> Result<(), Errno> {
        let _ = event;
        Err(Errno::ENOENT)
    }
}
