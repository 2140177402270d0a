//! Sending from the host: a packet socket, or a stack behind the devices.

use uapi::Errno;
use uapi::xdp::ETH_HLEN;

use xsk::engine::{TxPacket, Xmit};

use crate::cow::socket_packet;
use crate::{DropReason, NetDevice, NetdevTx, Note, Skb, Softirq};

impl Softirq<'_> {
    /// Sends an Ethernet frame by a device, as a packet socket does.
    ///
    /// # Errors
    ///
    /// `ENODEV` for an unknown device, `ENETDOWN` for one that is down, `EINVAL` for less than an Ethernet
    /// header, `EMSGSIZE` for more than MTU, header and a VLAN tag, `ENOBUFS` if the driver drops it or has
    /// no room.
    ///
    /// Kernel: `net/packet/af_packet.c packet_snd, v6.18`
    #[doc(alias = "packet_snd")]
    pub fn packet_send(&mut self, ifindex: u32, bytes: &[u8]) -> Result<(), Errno> {
        let core = self.device(ifindex).ok_or(Errno::ENODEV)?.core();
        if !core.is_up() {
            return Err(Errno::ENETDOWN);
        }
        if bytes.len() < ETH_HLEN {
            return Err(Errno::EINVAL);
        }
        if bytes.len() > core.max_frame_len() {
            return Err(Errno::EMSGSIZE);
        }
        let packet = socket_packet(self.net, bytes).map_err(|_| Errno::ENOBUFS)?;
        self.net.trace.note(|| Note::Sent { packet: packet.identity(), ifindex });
        self.dev_queue_xmit(ifindex, Box::new(Skb::new(packet)))
    }

    /// Sends an skb by a device.
    ///
    /// # Errors
    ///
    /// `ENODEV`, `ENETDOWN`; `ENOBUFS` if the driver drops it or has no room.
    ///
    /// Kernel: `net/core/dev.c __dev_queue_xmit, v6.18`
    #[doc(alias = "__dev_queue_xmit")]
    pub fn dev_queue_xmit(&mut self, ifindex: u32, mut skb: Box<Skb>) -> Result<(), Errno> {
        let Some(device) = self.device(ifindex).cloned() else {
            self.net.drop_packet(skb.packet, DropReason::DeviceDown);
            return Err(Errno::ENODEV);
        };
        if !device.core().is_up() {
            self.net.drop_packet(skb.packet, DropReason::DeviceDown);
            return Err(Errno::ENETDOWN);
        }
        skb.queue_mapping = self.net.cpu % device.core().tx_queues();
        match device.ndo_start_xmit(self, skb) {
            NetdevTx::Ok => Ok(()),
            NetdevTx::Dropped => Err(Errno::ENOBUFS),
            // There is no qdisc to wait in: the sender hears of it at once.
            NetdevTx::Busy(skb) => {
                self.net.drop_packet(skb.packet, DropReason::ForwardRingFull);
                Err(Errno::ENOBUFS)
            }
        }
    }

    /// Sends a packet of an AF_XDP socket by a queue of its device, past any qdisc.
    ///
    /// Kernel: `net/core/dev.c __dev_direct_xmit, v6.18`
    #[doc(alias = "__dev_direct_xmit")]
    pub fn dev_direct_xmit(&mut self, device: &dyn NetDevice, queue: u32, packet: TxPacket) -> Xmit {
        if !device.core().is_up() {
            return Xmit::Dropped;
        }
        // As without memory for the packet: the sender may try again.
        let Ok(bytes) = socket_packet(self.net, &packet.data) else { return Xmit::Busy(packet) };
        let ifindex = device.core().ifindex;
        self.net.trace.note(|| Note::Sent { packet: bytes.identity(), ifindex });
        let mut skb = Box::new(Skb::new(bytes));
        skb.queue_mapping = queue;
        skb.csum_partial = packet.checksum.is_some();
        let TxPacket { data, parts, checksum, launch_time_ns, completion } = packet;
        skb.completion = Some(completion);
        match device.ndo_start_xmit(self, skb) {
            NetdevTx::Ok => Xmit::Sent,
            NetdevTx::Dropped => Xmit::Dropped,
            NetdevTx::Busy(skb) => {
                let Skb { packet, completion, .. } = *skb;
                self.net.pool.put_packet(packet);
                let Some(completion) = completion else { return Xmit::Dropped };
                Xmit::Busy(TxPacket { data, parts, checksum, launch_time_ns, completion })
            }
        }
    }
}
