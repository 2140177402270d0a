//! The ownership sanitizer: watches what any application does with its rings, from the engine's side, and
//! names each mistake with where it happened.
//!
//! A host made with [`super::XskHost::with_sanitizer`] has one. It follows every chunk: the application's,
//! in the fill ring or kept for receiving, or being sent. It looks when the engine looks, so a mistake is
//! found at the packet or system call after it. Packets go their way as without it.
//!
//! Where chunks may lie anywhere (`XDP_UMEM_UNALIGNED_CHUNK_FLAG`) it follows stretches of a chunk's size,
//! which finds mistakes with frames that begin at multiples of it.

use std::collections::BTreeMap;
use std::fmt;

use mem::SpinLock;
use mem::spsc::Consumer;
use uapi::if_xdp::{XDP_PKT_CONTD, XDP_TX_METADATA, XdpDesc};

use super::umem::EngineUmem;

/// Most findings that are kept; others are only counted.
pub const FINDINGS_MAX: usize = 1000;
/// Packets after which descriptors that nobody was woken for are a missed wakeup.
pub const WAKEUP_PATIENCE: u64 = 64;
/// Packets for each chunk of the memory after which one that was not given back is a leak.
pub const LEAK_PATIENCE: u64 = 4;

/// A kind of mistake.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Mistake {
    /// A chunk was given to the fill ring that is there already, or kept for receiving.
    DoubleFill,
    /// A chunk was given to the fill ring that is being sent.
    FillWhileSending,
    /// A chunk was written after it was given to the fill ring.
    UseAfterFill,
    /// An entry of the fill ring was changed after it was submitted.
    EntryChanged,
    /// A chunk was sent that is in the fill ring, or kept for receiving.
    SendNotOwned,
    /// A chunk was sent that is being sent already.
    DoubleSend,
    /// A descriptor to send is invalid.
    BadDescriptor,
    /// An address in the fill ring does not lie in the memory.
    BadFillAddress,
    /// The producer's index is ahead of the consumer's by more than the ring.
    Overrun,
    /// A received chunk was not given back for long, while the fill ring is empty.
    Leak,
    /// Packets wait in the TX ring, and nobody calls sendto(2) or poll(2).
    MissedWakeup,
    /// Packets were lost because the fill ring is empty.
    StarvingFillRing,
    /// Nothing is sent because completions are not taken.
    CompletionsNotTaken,
    /// A packet of another queue or device was redirected to the socket.
    WrongQueue,
}

impl Mistake {
    /// Its name, for filters and output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DoubleFill => "double-fill",
            Self::FillWhileSending => "fill-while-sending",
            Self::UseAfterFill => "use-after-fill",
            Self::EntryChanged => "entry-changed",
            Self::SendNotOwned => "send-not-owned",
            Self::DoubleSend => "double-send",
            Self::BadDescriptor => "bad-descriptor",
            Self::BadFillAddress => "bad-fill-address",
            Self::Overrun => "overrun",
            Self::Leak => "leak",
            Self::MissedWakeup => "missed-wakeup",
            Self::StarvingFillRing => "starving-fill-ring",
            Self::CompletionsNotTaken => "completions-not-taken",
            Self::WrongQueue => "wrong-queue",
        }
    }
}

/// A mistake, and where it was seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What.
    pub mistake: Mistake,
    /// Device and queue of the rings.
    pub queue: (u32, u16),
    /// Address that it is about, if it is about one.
    pub addr: Option<u64>,
    /// Index of the entry in its ring (running, not modulo), if it is about one.
    pub entry: Option<u32>,
    /// Packets and calls that the queue had seen before.
    pub event: u64,
    /// How often, of this chunk.
    pub times: u64,
    /// In words.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ifindex, queue) = self.queue;
        write!(f, "{}: device {ifindex} queue {queue}", self.mistake.name())?;
        if let Some(entry) = self.entry {
            write!(f, " entry {entry}")?;
        }
        write!(f, " at event {}: {}", self.event, self.text)?;
        if self.times > 1 { write!(f, " ({} times)", self.times) } else { Ok(()) }
    }
}

/// Findings of all queues of a host.
#[derive(Default)]
pub struct Sanitizer {
    findings: SpinLock<Findings>,
}

#[derive(Default)]
struct Findings {
    list: Vec<Finding>,
    /// Where the finding of a mistake with a chunk is.
    index: BTreeMap<(Mistake, u32, u16, Option<u64>), usize>,
    dropped: u64,
}

impl Sanitizer {
    /// What was found so far, in order of its first time.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        self.findings.with(|f| f.list.clone())
    }

    /// Findings that were not kept because there were too many.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.findings.with(|f| f.dropped)
    }

    fn add(&self, finding: Finding, chunk: Option<u64>) {
        let key = (finding.mistake, finding.queue.0, finding.queue.1, chunk);
        self.findings.with(|f| match f.index.get(&key) {
            Some(&at) => f.list[at].times += 1,
            None if f.list.len() == FINDINGS_MAX => f.dropped += 1,
            None => {
                f.index.insert(key, f.list.len());
                f.list.push(finding);
            }
        });
    }
}

/// Where a chunk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// The application's since an event; whether it got it by receiving.
    Application { since: u64, received: bool },
    /// In the fill ring, with what was in it when it was seen there first.
    Filled { hash: u64 },
    /// Taken from the fill ring.
    Kept,
    /// Being sent.
    Sending,
}

/// What is followed of one queue's memory.
pub(super) struct Watch {
    queue: (u32, u16),
    chunk_size: u64,
    places: Vec<Place>,
    /// Entries of the fill ring up to here were looked at; their addresses, oldest first.
    seen: std::collections::VecDeque<u64>,
    /// Index in the fill ring of the oldest of `seen`.
    first: u32,
    event: u64,
    last_kick: u64,
}

impl Watch {
    pub(super) fn new(queue: (u32, u16), umem: &EngineUmem) -> Self {
        let chunks = usize::try_from(umem.size / u64::from(umem.chunk_size)).unwrap_or(0);
        Self {
            queue,
            chunk_size: umem.chunk_size.into(),
            places: vec![Place::Application { since: 0, received: false }; chunks],
            seen: std::collections::VecDeque::new(),
            first: 0,
            event: 0,
            last_kick: 0,
        }
    }

    fn chunk(&self, offset: u64) -> Option<usize> {
        let chunk = usize::try_from(offset / self.chunk_size).ok()?;
        (chunk < self.places.len()).then_some(chunk)
    }

    fn found(&self, to: &Sanitizer, mistake: Mistake, addr: Option<u64>, entry: Option<u32>, text: String) {
        let Self { queue, event, .. } = *self;
        let chunk = addr.map(|a| a / self.chunk_size);
        to.add(Finding { mistake, queue, addr, entry, event, times: 1, text }, chunk);
    }

    /// Looks at entries of the fill ring that were not there before.
    pub(super) fn scan(&mut self, to: &Sanitizer, umem: &EngineUmem, ring: &mut Consumer<u64>) {
        self.event += 1;
        let present = ring.available(u32::MAX);
        if ring.claimed() > ring.capacity() {
            let text =
                format!("the fill ring's producer claims {} entries of {}", ring.claimed(), ring.capacity());
            self.found(to, Mistake::Overrun, None, None, text);
        }
        for ahead in self.seen.len() as u32..present {
            let Some(entry) = ring.read(ahead) else { break };
            self.seen.push_back(entry);
            self.filled(to, umem, entry, self.first.wrapping_add(ahead));
        }
    }

    /// An entry was seen in the fill ring.
    fn filled(&mut self, to: &Sanitizer, umem: &EngineUmem, entry: u64, at: u32) {
        let base = umem.fill_base(entry);
        let Some((base, chunk)) = base.and_then(|b| Some((b, self.chunk(b)?))) else {
            let text = format!("fill address {entry:#x} does not lie in the UMEM of {:#x} bytes", umem.size);
            return self.found(to, Mistake::BadFillAddress, Some(entry), Some(at), text);
        };
        match self.places[chunk] {
            Place::Application { .. } => self.places[chunk] = Place::Filled { hash: hash(umem, base) },
            Place::Filled { .. } | Place::Kept => {
                let text = format!("chunk {base:#x} was filled twice; it was not received in between");
                self.found(to, Mistake::DoubleFill, Some(base), Some(at), text);
            }
            Place::Sending => {
                let text =
                    format!("chunk {base:#x} was filled while it is being sent: wait for its completion");
                self.found(to, Mistake::FillWhileSending, Some(base), Some(at), text);
            }
        }
    }

    /// An entry of the fill ring was taken.
    pub(super) fn taken(&mut self, to: &Sanitizer, umem: &EngineUmem, entry: u64) {
        let at = self.first;
        self.first = self.first.wrapping_add(1);
        let Some(seen) = self.seen.pop_front() else { return };
        let Some(base) = umem.fill_base(entry) else { return };
        if seen != entry {
            let text = format!("fill entry was {seen:#x} when it was submitted and is {entry:#x} now");
            self.found(to, Mistake::EntryChanged, Some(base), Some(at), text);
        }
        let Some(chunk) = self.chunk(base) else { return };
        if let Place::Filled { hash: before } = self.places[chunk]
            && before != hash(umem, base)
        {
            let text = format!("chunk {base:#x} was written after it was given to the fill ring");
            self.found(to, Mistake::UseAfterFill, Some(base), Some(at), text);
        }
        self.places[chunk] = Place::Kept;
    }

    /// A packet was put into a chunk, which is the application's again.
    pub(super) fn received(&mut self, base: u64) {
        if let Some(chunk) = self.chunk(base) {
            self.places[chunk] = Place::Application { since: self.event, received: true };
        }
    }

    /// A packet found no buffer.
    pub(super) fn starving(&mut self, to: &Sanitizer) {
        let own = |p: &&Place| matches!(p, Place::Application { .. });
        let (held, all) = (self.places.iter().filter(own).count(), self.places.len());
        let sending = self.places.iter().filter(|p| **p == Place::Sending).count();
        let text = format!(
            "a packet was lost: the application has {held} of {all} chunks, {sending} are being sent"
        );
        self.found(to, Mistake::StarvingFillRing, None, None, text);
        let patience = LEAK_PATIENCE * all as u64;
        for chunk in 0..all {
            let Place::Application { since, received: true } = self.places[chunk] else { continue };
            if self.event > since + patience {
                let base = chunk as u64 * self.chunk_size;
                let ago = self.event - since;
                let text = format!("chunk {base:#x} was received {ago} packets ago and never given back");
                self.found(to, Mistake::Leak, Some(base), None, text);
            }
        }
    }

    /// sendto(2) or poll(2) was called.
    pub(super) fn kicked(&mut self) {
        self.event += 1;
        self.last_kick = self.event;
    }

    /// A packet came while so many descriptors wait in the TX ring of a socket.
    pub(super) fn tx_waits(&mut self, to: &Sanitizer, waiting: u32) {
        if waiting == 0 {
            self.last_kick = self.event;
        } else if self.event > self.last_kick + WAKEUP_PATIENCE {
            let ago = self.event - self.last_kick;
            let text = format!(
                "{waiting} descriptors wait in the TX ring, whose flag asks for a wakeup; none came for {ago} packets"
            );
            self.found(to, Mistake::MissedWakeup, None, None, text);
            self.last_kick = self.event;
        }
    }

    /// A descriptor is being sent.
    pub(super) fn sending(&mut self, to: &Sanitizer, offset: u64, at: u32) {
        let Some(chunk) = self.chunk(offset) else { return };
        match self.places[chunk] {
            Place::Application { .. } => {}
            Place::Sending => {
                let text = format!("the packet at {offset:#x} is in a chunk that is being sent already");
                self.found(to, Mistake::DoubleSend, Some(offset), Some(at), text);
            }
            Place::Filled { .. } | Place::Kept => {
                let text = format!("the packet at {offset:#x} is in a chunk that was given to the fill ring");
                self.found(to, Mistake::SendNotOwned, Some(offset), Some(at), text);
                // It is still there to be received into.
                return;
            }
        }
        self.places[chunk] = Place::Sending;
    }

    /// A descriptor was completed.
    pub(super) fn completed(&mut self, offset: u64) {
        if let Some(chunk) = self.chunk(offset)
            && self.places[chunk] == Place::Sending
        {
            self.places[chunk] = Place::Application { since: self.event, received: false };
        }
    }

    /// A descriptor was found invalid.
    pub(super) fn bad_descriptor(&mut self, to: &Sanitizer, umem: &EngineUmem, desc: &XdpDesc, at: u32) {
        let text = format!("descriptor {desc:?} {}", reason(umem, desc));
        self.found(to, Mistake::BadDescriptor, Some(desc.addr), Some(at), text);
    }

    /// The completion ring was found full.
    pub(super) fn completions_not_taken(&mut self, to: &Sanitizer, entries: u32) {
        let text = format!("nothing is sent: the completion ring's {entries} entries are all in use");
        self.found(to, Mistake::CompletionsNotTaken, None, None, text);
    }

    /// A packet of another queue came.
    pub(super) fn wrong_queue(&mut self, to: &Sanitizer, ifindex: u32, queue: u32) {
        let (own_dev, own) = self.queue;
        let text = format!(
            "a packet of device {ifindex} queue {queue} was redirected to a socket of device {own_dev} queue {own}; \
             it is dropped and counted nowhere"
        );
        self.found(to, Mistake::WrongQueue, None, None, text);
    }
}

/// Why a descriptor is invalid.
fn reason(umem: &EngineUmem, desc: &XdpDesc) -> &'static str {
    let (len, meta) = (u64::from(desc.len), u64::from(umem.tx_metadata_len));
    let chunk = u64::from(umem.chunk_size);
    if len == 0 {
        return "is empty";
    }
    if desc.options & !(XDP_PKT_CONTD | XDP_TX_METADATA) != 0 {
        return "has unknown options";
    }
    match umem.offset_of(desc.addr).checked_sub(meta) {
        None => "has no room for the TX metadata before it",
        Some(start) if start >= umem.size => "begins outside of the UMEM",
        Some(_) if umem.unaligned && len + meta > chunk => "is longer than a chunk",
        Some(_) if umem.unaligned => "ends outside of the UMEM",
        Some(_) => "goes past the end of its chunk",
    }
}

/// A number for the bytes of a chunk (FNV-1a over words).
fn hash(umem: &EngineUmem, base: u64) -> u64 {
    let Some(bytes) = umem.bytes(base, umem.chunk_size.into()) else { return 0 };
    let words = (0..bytes.len() / 8).map(|i| bytes.read_u64(i * 8));
    words.fold(0xcbf2_9ce4_8422_2325, |h, w| (h ^ w).wrapping_mul(0x0100_0000_01b3))
}
