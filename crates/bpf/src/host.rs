//! [`Host`]: everything that a program can learn from the world around it.
//!
//! Programs are deterministic but for what this trait answers, so a run is repeatable with the same host.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use uapi::Errno;

use crate::helpers::Timers;
use crate::kfuncs::Conntrack;

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

/// Length of an interface's or task's name with its NUL, bytes.
pub const NAME_LEN: usize = 16;

/// A network device as helpers see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceInfo {
    /// Number.
    pub ifindex: u32,
    /// Name, NUL-terminated.
    pub name: [u8; NAME_LEN],
    /// Largest packet without link header, bytes.
    pub mtu: u32,
    /// Link header, bytes.
    pub hard_header_len: u32,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Receive queues.
    pub rx_queues: u32,
}

/// The task that a softirq interrupts, as `bpf_get_current_*` show it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Task {
    /// Thread's number.
    pub pid: u32,
    /// Process's number.
    pub tgid: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Name, NUL-terminated.
    pub comm: [u8; NAME_LEN],
    /// Number of its cgroup in the unified hierarchy.
    pub cgroup_id: u64,
}

/// A secret of the host that cookies and hashes are keyed with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Secret {
    /// The first key of IPv4 SYN cookies.
    SynCookie4,
    /// The key of the part of IPv4 SYN cookies that changes with time.
    SynCookie4Timed,
    /// The first key of IPv6 SYN cookies.
    SynCookie6,
    /// The key of the part of IPv6 SYN cookies that changes with time.
    SynCookie6Timed,
    /// Of `%p`.
    Pointer,
}

/// What `bpf_fib_lookup` asks.
///
/// Kernel: `include/uapi/linux/bpf.h struct bpf_fib_lookup, v6.18`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FibQuery {
    /// Device that the packet came in on, or goes out with [`FibQuery::OUTPUT`].
    pub ifindex: u32,
    /// `BPF_FIB_LOOKUP_*`.
    pub flags: u32,
    /// Sender; of the family of `dst`.
    pub src: IpAddr,
    /// Where the packet goes.
    pub dst: IpAddr,
    /// Type of service (IPv4).
    pub tos: u8,
    /// Transport protocol, for rules.
    pub l4_protocol: u8,
    /// Transport source port, for rules.
    pub sport: u16,
    /// Transport destination port, for rules.
    pub dport: u16,
    /// Length from the network header, bytes; 0 for no check.
    pub tot_len: u16,
    /// Table, with [`FibQuery::DIRECT`] and [`FibQuery::TBID`].
    pub tbid: u32,
    /// Firewall mark, with [`FibQuery::MARK`].
    pub mark: u32,
}

impl FibQuery {
    /// `BPF_FIB_LOOKUP_DIRECT`: ask one table, not the rules.
    pub const DIRECT: u32 = 1;
    /// `BPF_FIB_LOOKUP_OUTPUT`: the device is the one to send by.
    pub const OUTPUT: u32 = 2;
    /// `BPF_FIB_LOOKUP_SKIP_NEIGH`: no hardware addresses wanted.
    pub const SKIP_NEIGH: u32 = 4;
    /// `BPF_FIB_LOOKUP_TBID`: the table is named.
    pub const TBID: u32 = 8;
    /// `BPF_FIB_LOOKUP_SRC`: a source address is wanted.
    pub const SRC: u32 = 16;
    /// `BPF_FIB_LOOKUP_MARK`: rules see a mark.
    pub const MARK: u32 = 32;
    /// All flags.
    pub const FLAGS: u32 = 0x3f;
}

/// `BPF_FIB_LKUP_RET_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u32)]
pub enum FibCode {
    /// A route, and unless skipped a neighbour.
    Success = 0,
    /// The route drops.
    Blackhole = 1,
    /// The route refuses: unreachable.
    Unreachable = 2,
    /// The route refuses: prohibited.
    Prohibit = 3,
    /// Not forwarded: local, no route, multicast.
    NotForwarded = 4,
    /// The device does not forward.
    ForwardingDisabled = 5,
    /// The route encapsulates.
    UnsupportedTunnel = 6,
    /// The next hop's hardware address is not known.
    NoNeighbour = 7,
    /// The packet is longer than the route's MTU.
    FragmentationNeeded = 8,
    /// No source address.
    NoSourceAddress = 9,
}

/// What is known of a packet's way. Fields are filled in as far as the lookup came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FibAnswer {
    /// How it ended.
    pub code: FibCode,
    /// Whether a table was asked.
    pub asked: bool,
    /// MTU of the route, bytes.
    pub mtu: Option<u32>,
    /// Device to send by and the route's metric.
    pub egress: Option<(u32, u32)>,
    /// Next hop, if it is not the destination itself.
    pub gateway: Option<IpAddr>,
    /// Source address, if it was wanted.
    pub src: Option<IpAddr>,
    /// Hardware addresses of device and next hop.
    pub macs: Option<([u8; 6], [u8; 6])>,
}

impl FibAnswer {
    /// An answer that knows nothing but its code.
    #[must_use]
    pub const fn only(code: FibCode) -> Self {
        Self { code, asked: false, mtu: None, egress: None, gateway: None, src: None, macs: None }
    }
}

/// Transport protocol of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum SocketProtocol {
    /// TCP, 6.
    Tcp,
    /// UDP, 17.
    Udp,
}

/// What `bpf_sk_lookup_*` asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SocketQuery {
    /// Protocol.
    pub protocol: SocketProtocol,
    /// The far end.
    pub src: SocketAddr,
    /// The near end.
    pub dst: SocketAddr,
    /// Device that the packet came in on.
    pub ifindex: u32,
    /// Number of a network namespace; `None` for the device's own.
    pub netns: Option<u32>,
}

/// A socket as programs see it.
///
/// Kernel: `include/uapi/linux/bpf.h struct bpf_sock, v6.18`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Socket {
    /// Number, unique within the host.
    pub id: u64,
    /// Protocol.
    pub protocol: SocketProtocol,
    /// `BPF_TCP_*`, also for UDP.
    pub state: u8,
    /// The near end. An unspecified IPv6 address of a socket that is not `ipv6_only` takes IPv4 too.
    pub local: SocketAddr,
    /// The far end; unspecified for a listener.
    pub remote: SocketAddr,
    /// Device that it is bound to; 0 for none.
    pub bound_ifindex: u32,
    /// Firewall mark.
    pub mark: u32,
    /// Priority.
    pub priority: u32,
    /// `IPV6_V6ONLY`.
    pub ipv6_only: bool,
    /// Queue that its packets come in on.
    pub rx_queue_mapping: Option<u32>,
}

/// States of TCP sockets that helpers look at.
pub mod tcp_state {
    /// `BPF_TCP_ESTABLISHED`.
    pub const ESTABLISHED: u8 = 1;
    /// `BPF_TCP_TIME_WAIT`.
    pub const TIME_WAIT: u8 = 6;
    /// `BPF_TCP_CLOSE`, also of unconnected UDP sockets.
    pub const CLOSE: u8 = 7;
    /// `BPF_TCP_LISTEN`.
    pub const LISTEN: u8 = 10;
    /// `BPF_TCP_NEW_SYN_RECV`: a connection request.
    pub const NEW_SYN_RECV: u8 = 12;
}

/// Whether and how a listener uses SYN cookies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SynCookiePolicy {
    /// `net.ipv4.tcp_syncookies` is not 0.
    pub enabled: bool,
    /// The listener answers with cookies: its queue is full, or the sysctl is 2.
    pub generate: bool,
    /// Cookies were generated not long ago, so that one may come back.
    pub recent_overflow: bool,
}

/// What `bpf_xdp_get_xfrm_state` asks.
///
/// Kernel: `net/xfrm/xfrm_state_bpf.c struct bpf_xfrm_state_opts, v6.18`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XfrmQuery {
    /// Number of a network namespace; `None` for the device's own.
    pub netns: Option<u32>,
    /// Firewall mark.
    pub mark: u32,
    /// Destination.
    pub daddr: IpAddr,
    /// Security parameter index.
    pub spi: u32,
    /// IP protocol: 50 for ESP.
    pub protocol: u8,
}

/// An IPsec state as programs see it.
///
/// Kernel: `include/net/xfrm.h struct xfrm_state, v6.18`
#[doc(alias = "xfrm_state")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XfrmState {
    /// Number of its network namespace; `None` for the devices' own.
    pub netns: Option<u32>,
    /// Destination.
    pub daddr: IpAddr,
    /// Source.
    pub saddr: IpAddr,
    /// Security parameter index.
    pub spi: u32,
    /// IP protocol.
    pub protocol: u8,
    /// What the bits of the packet's mark that count must be.
    pub mark: u32,
    /// Which count.
    pub mark_mask: u32,
    /// Interface's number.
    pub if_id: u32,
    /// Number that policies refer to.
    pub reqid: u32,
    /// `XFRM_MODE_*`: 0 transport, 1 tunnel.
    pub mode: u8,
    /// Packets.
    pub replay_window: u8,
    /// Last number sent.
    pub oseq: u32,
    /// Last number received.
    pub seq: u32,
    /// Which were received before.
    pub bitmap: u32,
}

impl XfrmState {
    /// Whether it is what is asked for.
    ///
    /// Kernel: `net/xfrm/xfrm_state.c __xfrm_state_lookup, v6.18`
    #[must_use]
    pub fn answers(&self, query: &XfrmQuery) -> bool {
        let same = (self.netns, self.daddr, self.spi, self.protocol);
        same == (query.netns, query.daddr, query.spi, query.protocol)
            && query.mark & self.mark_mask == self.mark
    }
}

/// What user space puts into a slot of a perf event array to receive samples: an event that is open on a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PerfEvent {
    /// CPU.
    pub cpu: u32,
}

/// An event that a program sends to user space.
#[derive(Debug)]
pub enum Event<'a> {
    /// `bpf_trace_printk`, `bpf_trace_vprintk`: one formatted line.
    Trace(&'a str),
    /// `bpf_perf_event_output`.
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

    /// Scheduler ticks since boot, [`HZ`] a second.
    fn jiffies64(&mut self) -> u64 {
        self.ktime_ns(Clock::Coarse) / (1_000_000_000 / HZ)
    }

    /// 32 random bits.
    fn prandom_u32(&mut self) -> u32;

    /// A secret, the same for the host's whole life.
    fn secret(&self, which: Secret) -> [u64; 2] {
        [0, which as u64]
    }

    /// The CPU that runs the program.
    fn cpu(&self) -> u32 {
        0
    }

    /// Its NUMA node.
    fn numa_node(&self) -> u32 {
        0
    }

    /// The task that is interrupted.
    fn task(&self) -> Task {
        Task::default()
    }

    /// The answer that a call of a nondeterministic helper shall give, if a script says so.
    fn scripted(&mut self, helper: i32) -> Option<u64> {
        let _ = helper;
        None
    }

    /// Takes note of what a nondeterministic helper answered, so that the run can be repeated elsewhere.
    fn answered(&mut self, helper: i32, value: u64) {
        let _ = (helper, value);
    }

    /// A device in the network namespace of the receiving one.
    fn device(&self, ifindex: u32) -> Option<DeviceInfo> {
        let _ = ifindex;
        None
    }

    /// The way of a packet.
    ///
    /// # Errors
    ///
    /// `ENODEV` if there is no such device.
    fn fib_lookup(&mut self, query: &FibQuery) -> Result<FibAnswer, Errno> {
        let _ = query;
        Err(Errno::ENODEV)
    }

    /// The socket that a packet belongs to.
    fn socket_lookup(&mut self, query: &SocketQuery) -> Option<Arc<Socket>> {
        let _ = query;
        None
    }

    /// The listener that a connection request belongs to.
    fn socket_listener(&mut self, request: &Socket) -> Option<Arc<Socket>> {
        let _ = request;
        None
    }

    /// What the listener of this number does about SYN cookies.
    fn syncookie_policy(&self, socket: u64) -> SynCookiePolicy {
        let _ = socket;
        SynCookiePolicy::default()
    }

    /// Notes that the listener of this number answered with a SYN cookie.
    fn syncookie_sent(&mut self, socket: u64) {
        let _ = socket;
    }

    /// The timers of the host; `None` if it has none and programs can make none.
    fn timers(&self) -> Option<Arc<Timers>> {
        None
    }

    /// The connections of the host; `None` if it does not track any and programs can make none.
    fn conntrack(&self) -> Option<Arc<Conntrack>> {
        None
    }

    /// An IPsec state.
    ///
    /// # Errors
    ///
    /// `ENONET` if there is no such network namespace.
    fn xfrm_state(&mut self, query: &XfrmQuery) -> Result<Option<XfrmState>, Errno> {
        if query.netns.is_some() { Err(Errno::ENONET) } else { Ok(None) }
    }

    /// An event for user space.
    ///
    /// # Errors
    ///
    /// `ENOENT` if nobody listens on that ring; `ENOSPC` if it is full.
    fn event(&mut self, event: Event<'_>) -> Result<(), Errno> {
        let _ = event;
        Err(Errno::ENOENT)
    }
}

/// Scheduler ticks a second, as on the kernel that is the reference.
pub const HZ: u64 = 250;
