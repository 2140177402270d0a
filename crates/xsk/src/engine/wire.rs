//! [`Wire`]: two devices with a cable between them, for applications to be tested without a kernel.
//!
//! What one device sends, the other receives as a driver with the default redirect program would: each
//! packet goes to the socket that was put into the receiving device's xskmap for its queue, or is dropped.
//! Refusals are those of the kernel's veth.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};

use mem::{Frag, Frame, MemType, Packet, RxqInfo, XdpBuff};
use uapi::Errno;
use uapi::xdp::{ETH_HLEN, MAX_SKB_FRAGS, XDP_PACKET_HEADROOM, XDP_TAILROOM};

use super::xmit::TxPacket;
use super::{Xmit, XskDevice, XskHost, XskSocket, locked};

/// Linear bytes of a packet in one page.
const LINEAR_MAX: usize = Frame::PAGE_SIZE - XDP_PACKET_HEADROOM - XDP_TAILROOM;
/// Room for a VLAN tag above the MTU.
const VLAN_HLEN: usize = 4;

/// What runs on each packet before it goes to its socket.
type Program = dyn Fn(&mut XdpBuff<'_>) + Send + Sync;

/// Who is shown what comes in.
type Tap = dyn Fn(&[u8]) + Send + Sync;

/// Two devices, numbers 1 and 2 of a host.
#[derive(Clone, Debug)]
pub struct Wire {
    /// The host, where sockets are opened.
    pub host: XskHost,
    /// Device 1.
    pub a: Arc<WireDevice>,
    /// Device 2.
    pub b: Arc<WireDevice>,
}

/// One end.
pub struct WireDevice {
    ifindex: u32,
    queues: u32,
    up: AtomicBool,
    mtu: AtomicU32,
    peer: Mutex<Weak<WireDevice>>,
    /// A socket leaves the map when it is closed.
    xsks_map: Mutex<BTreeMap<u32, Weak<XskSocket>>>,
    program: Mutex<Option<Arc<Program>>>,
    tap: Mutex<Option<Arc<Tap>>>,
    /// Packets that are kept instead of delivered, while this is on.
    hold: AtomicBool,
    held: Mutex<Vec<(u16, TxPacket)>>,
    busy: AtomicBool,
    received: AtomicU64,
    dropped: AtomicU64,
    last_error: Mutex<Option<Errno>>,
}

impl Wire {
    /// Two devices that are up, with so many queues each and an MTU of 1500.
    #[must_use]
    pub fn new(queues: u32, clock_tai_ns: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self::on(XskHost::new(clock_tai_ns), queues)
    }

    /// As [`Wire::new`], on a host that was made before. It gets devices 1 and 2.
    #[must_use]
    pub fn on(host: XskHost, queues: u32) -> Self {
        let device = |ifindex| {
            Arc::new(WireDevice {
                ifindex,
                queues,
                up: AtomicBool::new(true),
                mtu: AtomicU32::new(1500),
                peer: Mutex::default(),
                xsks_map: Mutex::default(),
                program: Mutex::default(),
                tap: Mutex::default(),
                hold: AtomicBool::new(false),
                held: Mutex::default(),
                busy: AtomicBool::new(false),
                received: AtomicU64::new(0),
                dropped: AtomicU64::new(0),
                last_error: Mutex::default(),
            })
        };
        let (a, b) = (device(1), device(2));
        *locked(&a.peer) = Arc::downgrade(&b);
        *locked(&b.peer) = Arc::downgrade(&a);
        host.register_device(1, a.clone());
        host.register_device(2, b.clone());
        Self { host, a, b }
    }
}

impl WireDevice {
    /// Number.
    #[must_use]
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Sends the packets of a queue to a socket, by its number.
    ///
    /// # Errors
    ///
    /// `EBADF` if there is no such socket. Any socket will do, as in the kernel, bound or not.
    pub fn insert(&self, host: &XskHost, queue: u32, socket: i32) -> Result<(), Errno> {
        let socket = host.by_number(socket)?;
        locked(&self.xsks_map).insert(queue, Arc::downgrade(&socket));
        Ok(())
    }

    /// Takes the socket of a queue out.
    pub fn remove(&self, queue: u32) {
        locked(&self.xsks_map).remove(&queue);
    }

    /// Something to run on each packet before it goes to its socket, e.g. to give it metadata.
    pub fn set_program(&self, program: impl Fn(&mut XdpBuff<'_>) + Send + Sync + 'static) {
        *locked(&self.program) = Some(Arc::new(program));
    }

    /// Someone who is shown every packet that comes in.
    pub fn set_tap(&self, tap: impl Fn(&[u8]) + Send + Sync + 'static) {
        *locked(&self.tap) = Some(Arc::new(tap));
    }

    /// Up or down.
    pub fn set_up(&self, up: bool) {
        self.up.store(up, Relaxed);
    }

    /// Largest payload, bytes.
    pub fn set_mtu(&self, mtu: u32) {
        self.mtu.store(mtu, Relaxed);
    }

    /// Keeps what is sent on the device, uncompleted, until it is told not to.
    pub fn hold(&self, on: bool) {
        self.hold.store(on, Relaxed);
        if !on {
            let held = std::mem::take(&mut *locked(&self.held));
            held.into_iter().for_each(|(queue, packet)| self.deliver(queue, packet));
        }
    }

    /// Refuses what is sent as a full queue does.
    pub fn set_busy(&self, on: bool) {
        self.busy.store(on, Relaxed);
    }

    /// Packets that came to this end, and those of them that went to no socket.
    #[must_use]
    pub fn counters(&self) -> (u64, u64) {
        (self.received.load(Relaxed), self.dropped.load(Relaxed))
    }

    /// Why the last packet that was dropped was dropped, as `xdp_redirect_err` says it.
    #[must_use]
    pub fn take_error(&self) -> Option<Errno> {
        locked(&self.last_error).take()
    }

    /// A packet comes in from outside.
    pub fn receive(&self, queue: u32, data: &[u8]) {
        self.received.fetch_add(1, Relaxed);
        let tap = locked(&self.tap).clone();
        if let Some(tap) = tap {
            tap(data);
        }
        let result = self.redirect(queue, data);
        if let Err(errno) = result {
            self.dropped.fetch_add(1, Relaxed);
            *locked(&self.last_error) = Some(errno);
        }
    }

    fn redirect(&self, queue: u32, data: &[u8]) -> Result<(), Errno> {
        let socket = locked(&self.xsks_map).get(&queue).and_then(Weak::upgrade).ok_or(Errno::EINVAL)?;
        let rxq = RxqInfo {
            ifindex: self.ifindex,
            queue_index: queue,
            mem_type: MemType::PageShared as u32,
            frag_size: 0,
        };
        let mut buff = packet_of(data)?.into_buff(&rxq);
        let program = locked(&self.program).clone();
        if let Some(program) = program {
            program(&mut buff);
        }
        let result = socket.rcv(&buff);
        if result.is_ok() {
            socket.flush();
        }
        result
    }

    fn deliver(&self, queue: u16, packet: TxPacket) {
        let peer = locked(&self.peer).upgrade();
        if let Some(peer) = peer {
            // As veth picks the peer's queue.
            peer.receive(u32::from(queue) % peer.queues, &packet.data);
        }
    }
}

impl XskDevice for WireDevice {
    fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    fn queues(&self) -> (u32, u32) {
        (self.queues, self.queues)
    }

    fn xmit(&self, queue: u16, packet: TxPacket) -> Xmit {
        if self.busy.load(Relaxed) {
            return Xmit::Busy(packet);
        }
        let peer = locked(&self.peer).upgrade();
        let Some(peer) = peer.filter(|p| p.is_up()) else { return Xmit::Dropped };
        let most = peer.mtu.load(Relaxed) as usize + ETH_HLEN + VLAN_HLEN;
        if packet.data.len() < ETH_HLEN || packet.data.len() > most {
            return Xmit::Dropped;
        }
        if self.hold.load(Relaxed) {
            locked(&self.held).push((queue, packet));
        } else {
            self.deliver(queue, packet);
        }
        Xmit::Sent
    }
}

/// A packet in pages, as a driver makes it.
fn packet_of(data: &[u8]) -> Result<Packet, Errno> {
    let (linear, rest) = data.split_at(data.len().min(LINEAR_MAX));
    if rest.len().div_ceil(Frame::PAGE_SIZE) > MAX_SKB_FRAGS {
        return Err(Errno::EMSGSIZE);
    }
    let frame = Frame::new(Frame::PAGE_SIZE);
    frame.bytes().copy_from(XDP_PACKET_HEADROOM, linear);
    let len = linear.len() as u32;
    let mut packet = Packet::new(frame, Frame::PAGE_SIZE as u32, XDP_PACKET_HEADROOM as u32, len)
        .map_err(|(errno, _)| errno)?;
    for part in rest.chunks(Frame::PAGE_SIZE) {
        let frame = Frame::new(Frame::PAGE_SIZE);
        frame.bytes().copy_from(0, part);
        packet.push_frag(Frag::new(frame, 0, part.len() as u32)?).map_err(|(errno, _)| errno)?;
    }
    Ok(packet)
}

impl std::fmt::Debug for WireDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (received, dropped) = self.counters();
        f.debug_struct("WireDevice")
            .field("ifindex", &self.ifindex)
            .field("received", &received)
            .field("dropped", &dropped)
            .finish_non_exhaustive()
    }
}
