//! [`Trace`]: what the kernel's XDP tracepoints would say, as typed events; and [`Note`], what they do not say.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use uapi::xdp::XdpAction;

use crate::DropReason;

/// The tracepoints of `events/xdp` that the data path has.
///
/// Kernel: `include/trace/events/xdp.h, v6.18`
#[allow(missing_docs)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Tracepoint {
    XdpException,
    XdpBulkTx,
    XdpRedirect,
    XdpRedirectErr,
    XdpCpumapKthread,
    XdpCpumapEnqueue,
    XdpDevmapXmit,
    BpfXdpLinkAttachFailed,
}

impl Tracepoint {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::XdpException,
        Self::XdpBulkTx,
        Self::XdpRedirect,
        Self::XdpRedirectErr,
        Self::XdpCpumapKthread,
        Self::XdpCpumapEnqueue,
        Self::XdpDevmapXmit,
        Self::BpfXdpLinkAttachFailed,
    ];

    /// The kernel's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::XdpException => "xdp_exception",
            Self::XdpBulkTx => "xdp_bulk_tx",
            Self::XdpRedirect => "xdp_redirect",
            Self::XdpRedirectErr => "xdp_redirect_err",
            Self::XdpCpumapKthread => "xdp_cpumap_kthread",
            Self::XdpCpumapEnqueue => "xdp_cpumap_enqueue",
            Self::XdpDevmapXmit => "xdp_devmap_xmit",
            Self::BpfXdpLinkAttachFailed => "bpf_xdp_link_attach_failed",
        }
    }
}

/// An event, with the fields of the kernel's tracepoint. `err` is 0 or a negative errno.
#[allow(missing_docs)]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TraceEvent {
    /// `xdp_exception`: a program failed, or its action could not be done.
    XdpException { prog_id: u32, act: u32, ifindex: u32 },
    /// `xdp_bulk_tx`: a driver sent what programs answered `XDP_TX` to.
    XdpBulkTx { ifindex: u32, drops: u32, sent: u32, err: i32 },
    /// `xdp_redirect` and, with an error, `xdp_redirect_err`.
    XdpRedirect { prog_id: u32, ifindex: u32, err: i32, to_ifindex: u32, map_id: u32, map_index: u32 },
    /// `xdp_cpumap_kthread`: a CPU's thread took frames from its ring.
    XdpCpumapKthread {
        map_id: u32,
        cpu: u32,
        drops: u32,
        processed: u32,
        sched: u32,
        xdp_pass: u32,
        xdp_drop: u32,
        xdp_redirect: u32,
    },
    /// `xdp_cpumap_enqueue`: frames were put into a CPU's ring.
    XdpCpumapEnqueue { map_id: u32, cpu: u32, drops: u32, processed: u32, to_cpu: u32 },
    /// `xdp_devmap_xmit`: a bulk queue was sent.
    XdpDevmapXmit { from_ifindex: u32, to_ifindex: u32, drops: u32, sent: u32, err: i32 },
    /// `bpf_xdp_link_attach_failed`.
    BpfXdpLinkAttachFailed { msg: &'static str },
}

impl TraceEvent {
    /// Its tracepoint.
    #[must_use]
    pub const fn tracepoint(&self) -> Tracepoint {
        match self {
            Self::XdpException { .. } => Tracepoint::XdpException,
            Self::XdpBulkTx { .. } => Tracepoint::XdpBulkTx,
            Self::XdpRedirect { err: 0, .. } => Tracepoint::XdpRedirect,
            Self::XdpRedirect { .. } => Tracepoint::XdpRedirectErr,
            Self::XdpCpumapKthread { .. } => Tracepoint::XdpCpumapKthread,
            Self::XdpCpumapEnqueue { .. } => Tracepoint::XdpCpumapEnqueue,
            Self::XdpDevmapXmit { .. } => Tracepoint::XdpDevmapXmit,
            Self::BpfXdpLinkAttachFailed { .. } => Tracepoint::BpfXdpLinkAttachFailed,
        }
    }
}

/// As the kernel prints it to `trace_pipe`, after the time.
impl fmt::Display for TraceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.tracepoint().name())?;
        match self {
            Self::XdpException { prog_id, act, ifindex } => {
                write!(f, "prog_id={prog_id} action={} ifindex={ifindex}", Action(*act))
            }
            Self::XdpBulkTx { ifindex, drops, sent, err } => {
                write!(f, "ifindex={ifindex} action=TX sent={sent} drops={drops} err={err}")
            }
            Self::XdpRedirect { prog_id, ifindex, err, to_ifindex, map_id, map_index } => write!(
                f,
                "prog_id={prog_id} action=REDIRECT ifindex={ifindex} to_ifindex={to_ifindex} err={err} \
                 map_id={map_id} map_index={map_index}"
            ),
            Self::XdpCpumapKthread {
                map_id,
                cpu,
                drops,
                processed,
                sched,
                xdp_pass,
                xdp_drop,
                xdp_redirect,
            } => {
                write!(
                    f,
                    "kthread cpu={cpu} map_id={map_id} action=REDIRECT processed={processed} drops={drops} \
                     sched={sched} xdp_pass={xdp_pass} xdp_drop={xdp_drop} xdp_redirect={xdp_redirect}"
                )
            }
            Self::XdpCpumapEnqueue { map_id, cpu, drops, processed, to_cpu } => write!(
                f,
                "enqueue cpu={cpu} map_id={map_id} action=REDIRECT processed={processed} drops={drops} \
                 to_cpu={to_cpu}"
            ),
            Self::XdpDevmapXmit { from_ifindex, to_ifindex, drops, sent, err } => write!(
                f,
                "ndo_xdp_xmit from_ifindex={from_ifindex} to_ifindex={to_ifindex} action=REDIRECT sent={sent} \
                 drops={drops} err={err}"
            ),
            Self::BpfXdpLinkAttachFailed { msg } => write!(f, "errmsg={msg}"),
        }
    }
}

/// An action as tracepoints print it: the name without prefix, or the number.
struct Action(u32);

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match XdpAction::from_raw(self.0) {
            Some(action) => f.write_str(action.name().trim_start_matches("XDP_")),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

/// What happens to a packet that no tracepoint tells. Packets go by [`mem::Packet::identity`].
///
/// A packet that a driver hook's program answers `XDP_DROP` to ends without a note: the answer says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Note {
    /// A socket or a stack sends it by a device.
    Sent {
        /// Packet.
        packet: usize,
        /// Device.
        ifindex: u32,
    },
    /// It goes on as another packet with the same bytes.
    Replaced {
        /// What it was; that one ends.
        packet: usize,
        /// What it is now.
        by: usize,
    },
    /// It was copied, and both go on.
    Copied {
        /// Packet.
        packet: usize,
        /// Copy.
        to: usize,
    },
    /// A device sends it out of the host.
    Left {
        /// Packet.
        packet: usize,
        /// Device.
        ifindex: u32,
    },
    /// It ends here.
    Ended {
        /// Packet.
        packet: usize,
        /// Why.
        reason: DropReason,
    },
}

/// Who follows packets: told of notes and of events as they happen, in order.
pub trait Journal: Send + Sync {
    /// A note.
    fn note(&self, note: Note);

    /// An event of a tracepoint that is on.
    fn event(&self, event: &TraceEvent);
}

/// Events of one CPU, until someone takes them. Off at first, which costs one test of a bit.
#[derive(Default)]
pub struct Trace {
    on: u16,
    ring: VecDeque<TraceEvent>,
    capacity: usize,
    lost: u64,
    journal: Option<Arc<dyn Journal>>,
}

/// The bit of [`Trace::on`] that says there is a journal.
const JOURNAL: u16 = 1 << 15;

impl Trace {
    /// Turns tracepoints on and keeps up to `capacity` events; the room is allocated now.
    pub fn enable(&mut self, tracepoints: &[Tracepoint], capacity: usize) {
        self.on = tracepoints.iter().fold(self.on & JOURNAL, |bits, t| bits | 1 << (*t as u8));
        self.capacity = capacity;
        self.ring.reserve(capacity.saturating_sub(self.ring.len()));
    }

    /// Turns all tracepoints off; events stay.
    pub const fn disable(&mut self) {
        self.on &= JOURNAL;
    }

    /// Tells someone of all notes, and of the events of tracepoints that are on; they are kept as well.
    pub fn follow(&mut self, journal: Option<Arc<dyn Journal>>) {
        self.on = self.on & !JOURNAL | if journal.is_some() { JOURNAL } else { 0 };
        self.journal = journal;
    }

    /// The oldest event that was not taken yet.
    pub fn pop(&mut self) -> Option<TraceEvent> {
        self.ring.pop_front()
    }

    /// All events, the oldest first.
    pub fn drain(&mut self) -> impl Iterator<Item = TraceEvent> {
        self.ring.drain(..)
    }

    /// Events that found no room.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether any tracepoint is on.
    #[inline]
    pub(crate) const fn is_any_on(&self) -> bool {
        self.on != 0
    }

    /// Notes an event, if its tracepoint is on.
    #[inline]
    pub(crate) fn emit(&mut self, tracepoint: Tracepoint, event: impl FnOnce() -> TraceEvent) {
        if self.on & 1 << (tracepoint as u8) != 0 {
            self.keep(event());
        }
    }

    /// Notes what happens to a packet, if someone follows.
    #[inline]
    pub(crate) fn note(&self, note: impl FnOnce() -> Note) {
        if self.on & JOURNAL != 0 {
            self.write(note());
        }
    }

    #[cold]
    fn write(&self, note: Note) {
        self.journal.iter().for_each(|j| j.note(note));
    }

    #[cold]
    fn keep(&mut self, event: TraceEvent) {
        self.journal.iter().for_each(|j| j.event(&event));
        if self.ring.len() < self.capacity {
            self.ring.push_back(event);
        } else {
            self.lost += 1;
        }
    }
}
