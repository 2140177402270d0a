//! The fate of packets: [`Follower`] sees a scene's packets from the socket or generator that makes them to where
//! each ends, through programs, redirects, copies, devices and CPUs.
//!
//! The engine pays nothing for it when nobody follows: programs run in [`Recorder`]'s checked interpreter only
//! then, and the data path's [`Note`]s are behind the bit that its tracepoints have anyway.

mod recorder;

pub(super) use recorder::Recorder;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bpf::object::LineInfo;
use serde::Serialize;
use uapi::xdp::XdpAction;
use xdp::{DropReason, Journal, Note, TraceEvent};

/// Packets that are listed at most; the one that is asked for is followed in any case.
const LISTED_MAX: u64 = 1 << 16;

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fate {
    /// Its number, from 1 in the order in which the scene makes them.
    pub packet: u64,
    /// Line of the step that made it.
    pub line: usize,
    /// Device that it was sent by, or that it came in on.
    pub device: String,
    /// Whether it was made by a run of live frames, and not sent by a socket.
    pub live: bool,
    /// Its bytes at first, if it is the packet that was asked for.
    #[serde(serialize_with = "as_hex")]
    pub bytes: Vec<u8>,
    /// What happened to it, in order.
    pub hops: Vec<Hop>,
    /// Where it ended; several for a packet that was copied.
    pub ends: Vec<End>,
}

/// Something that happened to a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Hop {
    /// A program ran over it.
    Run(Box<ProgramRun>),
    /// It was copied, and both went on.
    Copied,
    /// What a tracepoint says of it, or of the batch that it was in.
    Event {
        /// With the names of devices, programs and maps in the place of numbers.
        event: String,
    },
}

/// A program's run over a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProgramRun {
    /// `OBJECT.PROGRAM`.
    pub program: String,
    /// What kind: `device`, `devmap` (at the exit) or `cpumap` (on the other CPU).
    pub hook: &'static str,
    /// Device that the packet came in on.
    pub device: String,
    /// Queue of it.
    pub queue: u32,
    /// Device that it leaves by, for a devmap's program.
    pub egress: Option<String>,
    /// CPU.
    pub cpu: u32,
    /// Answer: `XDP_DROP` and the like, or a number.
    pub action: String,
    /// What the program did that it may not do.
    pub fault: Option<String>,
    /// Bytes before and after.
    pub len: (usize, usize),
    /// Bytes of metadata after.
    pub metadata: usize,
    /// Instructions.
    pub instructions: u64,
    /// Helpers and kernel functions that were called, in order; the first of them.
    pub calls: Vec<Call>,
    /// Calls that found no room.
    pub calls_left_out: u64,
    /// The line that decided: the last one that was run of those that stand for something.
    pub decided: Option<Place>,
    /// The lines that led there, the last ones.
    pub lines: Vec<Place>,
}

/// A call of a helper or kernel function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Call {
    /// Its name.
    pub function: String,
    /// Map that it was about: `OBJECT.MAP`.
    pub map: Option<String>,
    /// Key of the entry, if it was about one.
    pub key: Option<String>,
    /// Other arguments that matter.
    pub arguments: String,
    /// What it answered.
    pub answer: String,
    /// Where it was called.
    pub place: Option<Place>,
}

/// A place in a source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Place {
    /// File, as the compiler named it.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Its text.
    pub text: String,
}

/// Where a packet ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(tag = "end", rename_all = "kebab-case")]
pub enum End {
    /// It was dropped.
    Dropped {
        /// Why.
        #[serde(serialize_with = "reason_id")]
        reason: DropReason,
        /// Device where, as far as that can be said.
        device: Option<String>,
    },
    /// It reached the stack.
    Stack {
        /// As received by this device.
        device: String,
    },
    /// It left the host: by this device, or by a socket that took it where it was seen last.
    Left {
        /// Device.
        device: Option<String>,
    },
    /// It still waits somewhere, and nothing moves any more.
    Waits {
        /// The last place where it was seen.
        device: Option<String>,
    },
}

/// Names of what has numbers.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) devices: BTreeMap<u32, String>,
    /// Numbers of the other ends of veths.
    pub(super) peers: BTreeMap<u32, u32>,
    pub(super) maps: BTreeMap<u32, String>,
    /// Names and lines of programs.
    pub(super) programs: BTreeMap<u32, (String, Vec<LineInfo>)>,
}

impl Names {
    pub(super) fn device(&self, ifindex: u32) -> String {
        self.devices.get(&ifindex).cloned().unwrap_or_else(|| format!("ifindex {ifindex}"))
    }
}

/// Follows the packets of a scene.
pub struct Follower {
    names: Names,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The packet that is told in full.
    wanted: Option<u64>,
    last: u64,
    line: usize,
    /// Program and device of a run of live frames: its runs there make packets.
    live: Option<(u32, u32)>,
    alive: BTreeMap<usize, Alive>,
    fates: BTreeMap<u64, Fate>,
    /// The packet of the last run that redirects, for the event that follows.
    redirects: Option<u64>,
    awaits: Awaits,
}

/// A packet that is somewhere.
#[derive(Clone, Copy)]
struct Alive {
    number: u64,
    /// Device where it was seen last.
    device: u32,
    /// A program has dropped it, so it is gone unless a note says more.
    dropped: bool,
}

/// What the wanted packet waits in: the events of those batches are its own.
#[derive(Default)]
struct Awaits {
    /// `xdp_devmap_xmit` to these devices.
    devices: Vec<u32>,
    /// The same from this device, for broadcast.
    broadcast: Option<u32>,
    /// `xdp_bulk_tx` of this device.
    tx: Option<u32>,
    /// `xdp_cpumap_enqueue`, then `xdp_cpumap_kthread`, of this map and CPU.
    enqueue: Option<(u32, u32)>,
    kthread: Option<(u32, u32)>,
}

impl Follower {
    pub(super) fn new(names: Names, wanted: Option<u64>) -> Self {
        Self { names, state: Mutex::new(State { wanted, ..State::default() }) }
    }

    /// Packets that the scene has made so far.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.state().last
    }

    /// The fates so far: of the packet that is wanted, else of the first 65,536. Packets that are still somewhere
    /// wait.
    #[must_use]
    pub fn fates(&self) -> Vec<Fate> {
        let mut state = self.state();
        let left: Vec<Alive> = std::mem::take(&mut state.alive).into_values().collect();
        for alive in left {
            let device = self.names.devices.get(&alive.device).cloned();
            let end = match alive.dropped {
                true => End::Dropped { reason: DropReason::ProgramDrop, device },
                false => End::Waits { device },
            };
            state.end(alive.number, end);
        }
        std::mem::take(&mut state.fates).into_values().collect()
    }

    /// The device at the other end of a veth.
    #[must_use]
    pub fn peer(&self, device: &str) -> Option<String> {
        let (ifindex, _) = self.names.devices.iter().find(|(_, name)| *name == device)?;
        self.names.devices.get(self.names.peers.get(ifindex)?).cloned()
    }

    /// The step of this line begins; with `live` it runs this program over frames of this device.
    pub(super) fn step(&self, line: usize, live: Option<(u32, u32)>) {
        let mut state = self.state();
        (state.line, state.live, state.redirects) = (line, live, None);
        state.awaits = Awaits::default();
    }

    /// The frames of a live run are all made.
    pub(super) fn live_ends(&self) {
        self.state().live = None;
    }

    /// A wire gives a packet to its device.
    pub(super) fn wire_sends(&self, wire: &str, ifindex: u32, bytes: &[u8]) {
        let mut state = self.state();
        let packet = state.wire(ifindex);
        state.make(packet, ifindex, wire.to_owned(), false, bytes.to_vec());
    }

    /// The device has not taken what its wire gave last.
    pub(super) fn wire_lost(&self, ifindex: u32) {
        let mut state = self.state();
        let packet = state.wire(ifindex);
        if let Some(alive) = state.alive.remove(&packet) {
            let (reason, device) = (DropReason::VirtioHostNoBuffer, Some(self.names.device(ifindex)));
            state.end(alive.number, End::Dropped { reason, device });
        }
    }

    /// A packet has reached the stack.
    pub(super) fn received(&self, packet: usize, dev: u32) {
        let mut state = self.state();
        state.adopt(packet, Some(dev));
        if let Some(alive) = state.alive.remove(&packet) {
            state.end(alive.number, End::Stack { device: self.names.device(dev) });
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drop_device(&self, state: &State, alive: Alive, reason: DropReason) -> Option<String> {
        // What a device did not take was lost on the way to it.
        let to = match reason {
            DropReason::XmitNoReceiver | DropReason::XmitRingFull | DropReason::XmitTooLong => {
                state.awaits.devices.last().copied().filter(|_| state.wanted == Some(alive.number))
            }
            _ => None,
        };
        self.names.devices.get(&to.unwrap_or(alive.device)).cloned()
    }
}

impl Journal for Follower {
    fn note(&self, note: Note) {
        let mut state = self.state();
        match note {
            Note::Sent { packet, ifindex } => {
                state.make(packet, ifindex, self.names.device(ifindex), false, Vec::new());
            }
            Note::Replaced { packet, by } => {
                if let Some(alive) = state.alive.remove(&packet) {
                    state.bind(by, alive);
                }
            }
            Note::Copied { packet, to } => {
                if let Some(alive) = state.alive.get(&packet).copied() {
                    state.bind(to, alive);
                    state.hop(alive.number, Hop::Copied);
                }
            }
            Note::Left { packet, ifindex } => {
                if let Some(alive) = state.alive.remove(&packet) {
                    state.end(alive.number, End::Left { device: self.names.devices.get(&ifindex).cloned() });
                }
            }
            Note::Ended { packet, reason } => {
                state.adopt(packet, None);
                if let Some(alive) = state.alive.remove(&packet) {
                    let device = self.drop_device(&state, alive, reason);
                    state.end(alive.number, End::Dropped { reason, device });
                }
            }
        }
    }

    fn event(&self, event: &TraceEvent) {
        let mut state = self.state();
        let number = match *event {
            TraceEvent::XdpRedirect { err, ifindex, to_ifindex, map_id, map_index, .. } => {
                let number = state.redirects.take();
                if number.is_some() && number == state.wanted && err == 0 {
                    state.awaits.devices.extend((to_ifindex != 0).then_some(to_ifindex));
                    state.awaits.broadcast = (to_ifindex == 0).then_some(ifindex);
                    state.awaits.enqueue = (to_ifindex == 0).then_some((map_id, map_index));
                }
                number
            }
            TraceEvent::XdpDevmapXmit { from_ifindex, to_ifindex, .. } => {
                let mine = state.awaits.devices.iter().position(|d| *d == to_ifindex);
                let mine = mine.map(|at| state.awaits.devices.remove(at));
                let mine = mine.or(state.awaits.broadcast.filter(|from| *from == from_ifindex));
                mine.and(state.wanted)
            }
            TraceEvent::XdpBulkTx { ifindex, .. } => {
                let mine = state.awaits.tx.take_if(|tx| *tx == ifindex);
                mine.and(state.wanted)
            }
            TraceEvent::XdpCpumapEnqueue { map_id, to_cpu, .. } => {
                let mine = state.awaits.enqueue.take_if(|key| *key == (map_id, to_cpu));
                state.awaits.kthread = mine.or(state.awaits.kthread);
                mine.and(state.wanted)
            }
            TraceEvent::XdpCpumapKthread { map_id, cpu, .. } => {
                let mine = state.awaits.kthread.take_if(|key| *key == (map_id, cpu));
                mine.and(state.wanted)
            }
            // It is of the packet that just ran.
            TraceEvent::XdpException { .. } | TraceEvent::BpfXdpLinkAttachFailed { .. } => None,
        };
        if let Some(number) = number {
            let event = with_names(&self.names, &event.to_string());
            state.hop(number, Hop::Event { event });
        }
    }
}

impl State {
    /// A new packet.
    fn make(&mut self, packet: usize, ifindex: u32, device: String, live: bool, bytes: Vec<u8>) -> u64 {
        self.last += 1;
        let number = self.last;
        self.bind(packet, Alive { number, device: ifindex, dropped: false });
        if self.wanted.map_or(number <= LISTED_MAX, |wanted| wanted == number) {
            let fate = Fate {
                packet: number,
                line: self.line,
                device,
                live,
                bytes,
                hops: Vec::new(),
                ends: Vec::new(),
            };
            self.fates.insert(number, fate);
        }
        number
    }

    /// Memory becomes a packet's. What was in it before has gone on without a note.
    fn bind(&mut self, packet: usize, alive: Alive) {
        if let Some(before) = self.alive.insert(packet, alive) {
            let end = match before.dropped {
                true => End::Dropped { reason: DropReason::ProgramDrop, device: None },
                false => End::Left { device: None },
            };
            self.end(before.number, end);
        }
    }

    /// In the place of an address, for what a wire has given to a device and was not seen there yet.
    fn wire(&self, ifindex: u32) -> usize {
        usize::MAX - ifindex as usize
    }

    /// A packet that nobody knows is what a wire has given: to this device, or to any.
    fn adopt(&mut self, packet: usize, ifindex: Option<u32>) {
        if self.alive.get(&packet).is_some_and(|alive| !alive.dropped) {
            return;
        }
        let on_wire = match ifindex {
            Some(ifindex) => self.alive.remove(&self.wire(ifindex)),
            None => self.alive.split_off(&self.wire(xdp::DEVICES_MAX as u32)).into_values().next(),
        };
        if let Some(alive) = on_wire {
            self.bind(packet, alive);
        }
    }

    fn hop(&mut self, number: u64, hop: Hop) {
        if let Some(fate) = self.fates.get_mut(&number) {
            fate.hops.push(hop);
        }
    }

    fn end(&mut self, number: u64, mut end: End) {
        let Some(fate) = self.fates.get_mut(&number) else { return };
        let run = |hop: &Hop| if let Hop::Run(run) = hop { Some(run.clone()) } else { None };
        let last = fate.hops.iter().rev().find_map(run);
        if let (End::Dropped { device, .. }, Some(egress)) =
            (&mut end, last.as_ref().and_then(|r| r.egress.clone()))
        {
            *device = Some(egress);
        }
        if let End::Dropped { device: device @ None, .. } | End::Left { device: device @ None } = &mut end {
            *device = last.map(|run| run.device);
        }
        fate.ends.push(end);
    }

    /// A program is about to run over a packet: answers its number, and whether to look closely.
    fn runs(
        &mut self,
        packet: usize,
        prog_id: u32,
        ifindex: u32,
        names: &Names,
        bytes: &[u8],
    ) -> Option<(u64, bool)> {
        let number = match self.live {
            Some(live) if live == (prog_id, ifindex) => {
                self.make(packet, ifindex, names.device(ifindex), true, bytes.to_vec())
            }
            _ => {
                self.adopt(packet, Some(ifindex));
                let alive = self.alive.get_mut(&packet)?;
                alive.device = ifindex;
                alive.number
            }
        };
        if let Some(fate) = self.fates.get_mut(&number).filter(|f| f.bytes.is_empty()) {
            fate.bytes = bytes.to_vec();
        }
        Some((number, self.wanted == Some(number)))
    }

    /// A program has run.
    fn ran(&mut self, packet: usize, number: u64, act: u32, run: ProgramRun, at: (u32, &str)) {
        let (ifindex, hook) = at;
        let action = XdpAction::from_raw(act);
        let live = self.live.is_some();
        if action == Some(XdpAction::Redirect) || (live && action == Some(XdpAction::Tx)) {
            self.redirects = Some(number);
        } else if action == Some(XdpAction::Tx) && self.wanted == Some(number) {
            self.awaits.tx = Some(ifindex);
        }
        if let Some(alive) = self.alive.get_mut(&packet) {
            alive.dropped = action == Some(XdpAction::Drop) && hook != "devmap";
        }
        self.hop(number, Hop::Run(Box::new(run)));
    }
}

/// Names in the place of numbers in what a tracepoint prints.
pub(super) fn with_names(names: &Names, event: &str) -> String {
    let words = event.split(' ').map(|word| {
        let Some((field, number)) = word.split_once('=') else { return word.to_owned() };
        let Ok(id) = number.parse::<u32>() else { return word.to_owned() };
        let name = match field {
            "prog_id" => names.programs.get(&id).map(|(name, _)| name),
            "map_id" => names.maps.get(&id),
            "ifindex" | "to_ifindex" | "from_ifindex" => names.devices.get(&id),
            _ => None,
        };
        name.map_or_else(|| word.to_owned(), |name| format!("{field}={name}"))
    });
    words.collect::<Vec<_>>().join(" ")
}

fn as_hex<S: serde::Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&hex(bytes))
}

fn reason_id<S: serde::Serializer>(reason: &DropReason, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(reason.id())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
