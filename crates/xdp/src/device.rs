//! [`NetDevice`], what all devices have in common ([`DeviceCore`]), and the table of them.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use bpf::vm::Program;
use mem::RcuArray;
use uapi::Errno;
use uapi::xdp::ETH_HLEN;

use crate::attach::{AttachState, Mode, SetupError};
use crate::frame::Epoch;
use crate::{DropReason, NapiCtx, Polled, Skb, Softirq, XdpFrame};

/// Devices that a host can have; numbers go from 1 to one less.
pub const DEVICES_MAX: usize = 4096;
/// Largest payload of an ordinary Ethernet frame, bytes.
pub const ETH_DATA_LEN: u32 = 1500;
/// Largest MTU of Ethernet devices, bytes.
pub const ETH_MAX_MTU: u32 = 65535;
/// Smallest MTU of Ethernet devices, bytes.
pub(crate) const ETH_MIN_MTU: u32 = 68;
/// Length of a VLAN tag, bytes.
pub const VLAN_HLEN: u32 = 4;

/// Bits of `xdp-features`, as netlink shows them.
///
/// Kernel: `include/uapi/linux/netdev.h enum netdev_xdp_act, v6.18`
#[doc(alias = "netdev_xdp_act")]
#[derive(Clone, Copy, Debug)]
pub struct Feature;

#[allow(missing_docs)]
impl Feature {
    pub const BASIC: u32 = 1;
    pub const REDIRECT: u32 = 2;
    pub const NDO_XMIT: u32 = 4;
    pub const XSK_ZEROCOPY: u32 = 8;
    pub const HW_OFFLOAD: u32 = 16;
    pub const RX_SG: u32 = 32;
    pub const NDO_XMIT_SG: u32 = 64;
}

/// `XDP_XMIT_*`.
#[derive(Clone, Copy, Debug)]
pub struct XmitFlags;

impl XmitFlags {
    /// Wake the receiver now.
    pub const FLUSH: u32 = 1;
}

/// How a batch was transmitted: the first `sent` frames were taken out of it; the others were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xmit {
    /// Frames taken.
    pub sent: usize,
    /// Why the first of the others was refused.
    pub stopped_by: DropReason,
}

/// A batch was not transmitted at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XmitError {
    /// What `ndo_xdp_xmit` answers.
    pub errno: Errno,
    /// Why.
    pub reason: DropReason,
}

/// What a driver did with an skb.
pub enum NetdevTx {
    /// Sent, or dropped and counted: it is gone.
    Ok,
    /// Dropped by the driver (`NET_XMIT_DROP`): the sender hears of it.
    Dropped,
    /// The queue is full and has stopped: the sender keeps the packet (`NETDEV_TX_BUSY`).
    Busy(Box<Skb>),
}

/// What waits in a device's ring.
pub enum RingItem {
    /// From `ndo_xdp_xmit`.
    Frame(XdpFrame),
    /// From `ndo_start_xmit`.
    Skb(Box<Skb>),
}

/// A network device. Methods are called from any CPU; what they share is in rings, atomics and short locks.
///
/// Kernel: `include/linux/netdevice.h struct net_device_ops, v6.18`
#[doc(alias = "net_device_ops")]
pub trait NetDevice: Send + Sync {
    /// What it has in common with others.
    fn core(&self) -> &DeviceCore;

    /// Receives up to `budget` packets of a queue.
    ///
    /// Kernel: `include/linux/netdevice.h napi_struct.poll, v6.18`
    fn poll(&self, queue: u32, budget: u32, cx: NapiCtx<'_, '_>) -> Polled;

    /// Sends frames. Those that were sent are taken out of `frames`, the others stay with the caller.
    ///
    /// # Errors
    ///
    /// If none can be sent, for a reason that is not the frames'.
    ///
    /// Kernel: `include/linux/netdevice.h ndo_xdp_xmit, v6.18`
    fn ndo_xdp_xmit(
        &self,
        cx: &mut Softirq<'_>,
        frames: &mut Vec<XdpFrame>,
        flags: u32,
    ) -> Result<Xmit, XmitError> {
        let _ = (cx, frames, flags);
        Err(XmitError { errno: Errno::EOPNOTSUPP, reason: DropReason::XmitNotSupported })
    }

    /// Sends a packet of the stack.
    ///
    /// Kernel: `include/linux/netdevice.h ndo_start_xmit, v6.18`
    fn ndo_start_xmit(&self, cx: &mut Softirq<'_>, skb: Box<Skb>) -> NetdevTx;

    /// Whether the driver has the native hook (`ndo_bpf`).
    fn has_ndo_bpf(&self) -> bool {
        false
    }

    /// Sets or removes the program of the driver hook; called with the control lock held.
    ///
    /// # Errors
    ///
    /// The driver's errno and extack text.
    ///
    /// Kernel: `include/linux/netdevice.h ndo_bpf, XDP_SETUP_PROG, v6.18`
    fn ndo_bpf(&self, mode: Mode, program: Option<&Arc<Program>>) -> Result<(), SetupError> {
        let _ = (mode, program);
        Err(SetupError::bare(Errno::EOPNOTSUPP))
    }

    /// Brings the device up or down. Answers packets that waited and are lost now.
    ///
    /// # Errors
    ///
    /// The driver's errno.
    fn set_up(&self, up: bool) -> Result<Vec<RingItem>, Errno> {
        self.core().up.store(up, Relaxed);
        Ok(Vec::new())
    }

    /// Whether the program may ask for what the device knows of a packet (rx-metadata features).
    fn rx_metadata_features(&self) -> u64 {
        0
    }

    /// The counters of the driver, under the names of `ethtool -S`.
    fn ethtool_stats(&self, out: &mut Vec<(String, u64)>) {
        let _ = out;
    }

    /// `ip -s link`.
    fn link_stats(&self) -> DeviceCounters {
        self.core().counters()
    }

    /// Calls `f` for each packet that waits inside of the device; a checker counts them. Takes them out, and
    /// what `f` answers goes back.
    fn waiting_frames(&self) -> u64 {
        0
    }
}

/// `struct rtnl_link_stats64`, as far as the data path moves it.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceCounters {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub rx_dropped: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub tx_dropped: u64,
}

/// What a device is made with.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    /// Name.
    pub name: String,
    /// Network namespace.
    pub netns: u32,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Largest packet without link header, bytes.
    pub mtu: u32,
    /// Receive queues.
    pub rx_queues: u32,
    /// Transmit queues.
    pub tx_queues: u32,
}

impl DeviceConfig {
    /// A device with one queue each way and the usual MTU.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), netns: 0, mac: [0; 6], mtu: ETH_DATA_LEN, rx_queues: 1, tx_queues: 1 }
    }
}

/// What every device has.
///
/// Kernel: `include/linux/netdevice.h struct net_device, v6.18`
#[doc(alias = "net_device")]
pub struct DeviceCore {
    /// Number, unique in the host.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// Network namespace.
    pub netns: u32,
    /// Hardware address.
    pub mac: [u8; 6],
    pub(crate) up: AtomicBool,
    pub(crate) mtu: AtomicU32,
    pub(crate) max_mtu: AtomicU32,
    pub(crate) xdp_features: AtomicU32,
    /// `real_num_rx_queues`, `real_num_tx_queues`.
    pub(crate) rx_queues: AtomicU32,
    pub(crate) tx_queues: AtomicU32,
    /// `NETIF_F_ALL_TSO`: off on the peer of a veth with a program.
    pub(crate) tso: AtomicBool,
    /// `NETIF_F_GRO`, as asked for by the user.
    pub(crate) gro: AtomicBool,
    /// Whether packets can wait before the device.
    pub(crate) qdisc: AtomicBool,
    /// Program of generic mode.
    pub(crate) generic: RcuArray<Arc<Program>>,
    pub(crate) attach: Mutex<AttachState>,
    /// Devices on top of this one (`netdev_upper_dev_link`).
    pub(crate) uppers: Mutex<Vec<u32>>,
    pub(crate) tx_packets: AtomicU64,
    pub(crate) tx_bytes: AtomicU64,
    pub(crate) tx_dropped: AtomicU64,
    pub(crate) rx_dropped: AtomicU64,
}

impl DeviceCore {
    /// A device that is down.
    #[must_use]
    pub fn new(ifindex: u32, config: DeviceConfig) -> Self {
        let DeviceConfig { name, netns, mac, mtu, rx_queues, tx_queues } = config;
        Self {
            ifindex,
            name,
            netns,
            mac,
            up: AtomicBool::new(false),
            mtu: AtomicU32::new(mtu),
            max_mtu: AtomicU32::new(ETH_MAX_MTU),
            xdp_features: AtomicU32::new(0),
            rx_queues: AtomicU32::new(rx_queues.max(1)),
            tx_queues: AtomicU32::new(tx_queues.max(1)),
            tso: AtomicBool::new(true),
            gro: AtomicBool::new(false),
            qdisc: AtomicBool::new(false),
            generic: RcuArray::new(1).expect("one slot"),
            attach: Mutex::default(),
            uppers: Mutex::default(),
            tx_packets: AtomicU64::new(0),
            tx_bytes: AtomicU64::new(0),
            tx_dropped: AtomicU64::new(0),
            rx_dropped: AtomicU64::new(0),
        }
    }

    /// `IFF_UP`.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    /// Largest packet without link header, bytes.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.mtu.load(Relaxed)
    }

    /// Largest MTU that can be set now, bytes.
    #[must_use]
    pub fn max_mtu(&self) -> u32 {
        self.max_mtu.load(Relaxed)
    }

    /// Sets the MTU.
    ///
    /// # Errors
    ///
    /// The errno and extack text for one that is too small or too large.
    ///
    /// Kernel: `net/core/dev.c dev_validate_mtu, v6.18`
    #[doc(alias = "dev_validate_mtu")]
    pub fn set_mtu(&self, mtu: u32) -> Result<(), SetupError> {
        if mtu < ETH_MIN_MTU {
            return Err(SetupError::new(Errno::EINVAL, "mtu less than device minimum"));
        }
        if mtu > self.max_mtu() {
            return Err(SetupError::new(Errno::EINVAL, "mtu greater than device maximum"));
        }
        self.mtu.store(mtu, Relaxed);
        Ok(())
    }

    /// Longest frame that may be sent by it, bytes: MTU, link header and a VLAN tag.
    #[must_use]
    pub fn max_frame_len(&self) -> usize {
        self.mtu() as usize + ETH_HLEN + VLAN_HLEN as usize
    }

    /// [`Feature`] bits.
    #[must_use]
    pub fn xdp_features(&self) -> u32 {
        self.xdp_features.load(Relaxed)
    }

    /// Receive queues in use.
    #[must_use]
    pub fn rx_queues(&self) -> u32 {
        self.rx_queues.load(Relaxed)
    }

    /// Transmit queues in use.
    #[must_use]
    pub fn tx_queues(&self) -> u32 {
        self.tx_queues.load(Relaxed)
    }

    /// Whether senders may leave segmentation to it.
    #[must_use]
    pub fn tso(&self) -> bool {
        self.tso.load(Relaxed)
    }

    /// Gives the device a qdisc, so that packets wait while its queue is stopped, or takes it away.
    pub fn set_qdisc(&self, qdisc: bool) {
        self.qdisc.store(qdisc, Relaxed);
    }

    /// The program of generic mode.
    pub(crate) fn generic_program<'g>(&'g self, guard: Epoch<'g>) -> Option<&'g Arc<Program>> {
        self.generic.get(0, guard)
    }

    /// Declares that a device stands on this one, or no longer does.
    pub fn set_upper(&self, upper: u32, linked: bool) {
        let mut uppers = self.uppers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        uppers.retain(|u| *u != upper);
        if linked {
            uppers.push(upper);
        }
    }

    pub(crate) fn counters(&self) -> DeviceCounters {
        DeviceCounters {
            rx_dropped: self.rx_dropped.load(Relaxed),
            tx_packets: self.tx_packets.load(Relaxed),
            tx_bytes: self.tx_bytes.load(Relaxed),
            tx_dropped: self.tx_dropped.load(Relaxed),
            ..DeviceCounters::default()
        }
    }
}

/// The devices of a host by their number.
pub struct Devices {
    slots: RcuArray<Arc<dyn NetDevice>>,
    rtnl: Mutex<()>,
}

impl Default for Devices {
    fn default() -> Self {
        Self {
            slots: RcuArray::new(DEVICES_MAX).expect("room for the table of devices"),
            rtnl: Mutex::default(),
        }
    }
}

impl Devices {
    /// A number that is free, from 1.
    #[must_use]
    pub fn free_ifindex(&self) -> Option<u32> {
        let guard = mem::epoch::pin();
        (1..DEVICES_MAX as u32).find(|i| self.get(&guard, *i).is_none())
    }

    /// The device of a number.
    #[inline]
    pub fn get<'g>(&'g self, guard: Epoch<'g>, ifindex: u32) -> Option<&'g Arc<dyn NetDevice>> {
        self.slots.get(ifindex as usize, guard)
    }

    /// The device of a number, in one network namespace.
    #[inline]
    pub fn get_in<'g>(
        &'g self,
        guard: Epoch<'g>,
        netns: u32,
        ifindex: u32,
    ) -> Option<&'g Arc<dyn NetDevice>> {
        self.get(guard, ifindex).filter(|d| d.core().netns == netns)
    }

    /// Adds a device under its number.
    ///
    /// # Errors
    ///
    /// `EEXIST` if the number is taken, `ENFILE` if there are too many.
    pub fn register(&self, device: Arc<dyn NetDevice>) -> Result<(), Errno> {
        let ifindex = device.core().ifindex;
        if ifindex == 0 || ifindex as usize >= DEVICES_MAX {
            return Err(Errno::ENFILE);
        }
        if self.get(&mem::epoch::pin(), ifindex).is_some() {
            return Err(Errno::EEXIST);
        }
        self.slots.swap(ifindex as usize, Some(Arc::new(device)));
        Ok(())
    }

    /// Takes a device away, detached from programs and down; polls that run now still see it. Answers it with
    /// the packets that waited in it.
    pub fn unregister(&self, ifindex: u32) -> Option<(Arc<dyn NetDevice>, Vec<RingItem>)> {
        let _rtnl = self.rtnl();
        let device = self.find(ifindex)?;
        self.detach_all(&device);
        let waiting = device.set_up(false).unwrap_or_default();
        self.slots.swap(ifindex as usize, None);
        Some((device, waiting))
    }

    /// The lock that control operations take one after the other.
    ///
    /// Kernel: `net/core/rtnetlink.c rtnl_lock, v6.18`
    #[doc(alias = "rtnl_lock")]
    pub(crate) fn rtnl(&self) -> std::sync::MutexGuard<'_, ()> {
        self.rtnl.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// All devices by number.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<dyn NetDevice>> {
        let guard = mem::epoch::pin();
        (1..DEVICES_MAX as u32).filter_map(|i| self.get(&guard, i).cloned()).collect()
    }

    /// Whether a device, or one below it, is this one: `EXCLUDE_INGRESS` skips a device's uppers too.
    pub(crate) fn is_or_is_upper_of(&self, guard: Epoch<'_>, ifindex: u32, below: u32) -> bool {
        if ifindex == below {
            return true;
        }
        let Some(device) = self.get(guard, below) else { return false };
        let uppers = device.core().uppers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        uppers.contains(&ifindex)
    }
}
