//! [`DropReason`]: why a packet ended, where the kernel says nothing; each with a counter and a cure.

/// Counts of one CPU, one for each reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropCounters([u64; DropReason::COUNT]);

impl Default for DropCounters {
    fn default() -> Self {
        Self([0; DropReason::COUNT])
    }
}

impl DropCounters {
    /// Packets that ended for a reason.
    #[must_use]
    pub const fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// Packets that ended for any reason.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The reasons that occurred, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.into_iter().map(|r| (r, self.get(r))).filter(|(_, n)| *n > 0)
    }

    #[inline]
    pub(crate) const fn add(&mut self, reason: DropReason, n: u64) {
        self.0[reason as usize] += n;
    }
}

macro_rules! reasons {
    ($($name:ident = $number:literal $id:literal, $text:literal, $cure:literal;)*) => {
        /// Why a packet ended. The data path gives exactly one for each packet that does not leave or reach
        /// a stack or socket.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $(#[doc = $text] $name,)* }

        impl DropReason {
            /// Number of reasons.
            pub const COUNT: usize = [$(Self::$name),*].len();
            /// All reasons.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$name),*];

            /// A stable name for users and counters.
            #[must_use]
            pub const fn id(self) -> &'static str {
                match self { $(Self::$name => $id,)* }
            }

            /// The number that stays, of `EB2001` and the like: the page in `docs/rules`.
            #[must_use]
            pub const fn number(self) -> u16 {
                match self { $(Self::$name => $number,)* }
            }

            /// What happened, in one sentence.
            #[must_use]
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What to do about it.
            #[must_use]
            pub const fn cure(self) -> &'static str {
                match self { $(Self::$name => $cure,)* }
            }
        }
    };
}

reasons! {
    ProgramDrop = 2001 "program-drop", "The program answered XDP_DROP.",
        "Nothing is wrong, unless the program is.";
    ProgramAborted = 2002 "program-aborted", "The program answered XDP_ABORTED, or a helper made it do so.",
        "Look at the tracepoint xdp_exception. bpf_redirect with flags other than 0, and bpf_redirect_map with unknown flags, answer XDP_ABORTED.";
    InvalidAction = 2003 "invalid-action", "The program answered a number that is no action.",
        "Answer XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX or XDP_REDIRECT: 0 to 4.";
    PassNoFrameRoom = 2004 "pass-no-frame-room", "The program passed a frame, but left less than 40 bytes of headroom.",
        "Keep 40 bytes before packet and metadata: with a headroom of 256 bytes at most 216 can be used.";
    TxNoFrameRoom = 2005 "tx-no-frame-room", "XDP_TX needs 40 bytes before packet and metadata, which are not there.",
        "Use less headroom or metadata.";
    RedirectNoTarget = 2006 "redirect-no-target", "The program answered XDP_REDIRECT, and no helper has named a target (EBADRQC).",
        "Call bpf_redirect or bpf_redirect_map, and return what it answers.";
    RedirectNoDevice = 2007 "redirect-no-device", "There is no device of the ifindex that bpf_redirect named, in the namespace of the receiving device (EINVAL).",
        "Check the ifindex. After a bpf_redirect_map that missed, a bare XDP_REDIRECT goes to the index of an earlier packet.";
    RedirectMapGone = 2008 "redirect-map-gone", "The map to broadcast to was freed (ENOENT).",
        "Keep the map alive while programs redirect to it.";
    RedirectEntryGone = 2009 "redirect-entry-gone", "The map entry was deleted between helper and redirect.",
        "None: the next packets see the deleted entry.";
    RedirectNoFrameRoom = 2010 "redirect-no-frame-room", "A redirect needs 40 bytes before packet and metadata, which are not there (EOVERFLOW).",
        "Use less headroom or metadata: 216 of 256 bytes are the program's.";
    RedirectNotSupported = 2011 "redirect-not-supported", "The target device takes no frames (EOPNOTSUPP).",
        "For veth: attach a program to the peer, or turn its GRO on (ethtool -K peer gro on).";
    RedirectNoFrags = 2012 "redirect-no-frags", "The target device takes no frames with fragments (EOPNOTSUPP).",
        "Lower the MTU, or redirect to a device with NDO_XMIT_SG.";
    RedirectDeviceDown = 2013 "redirect-device-down", "The target device is down (ENETDOWN).",
        "ip link set DEVICE up";
    RedirectTooLong = 2014 "redirect-too-long", "The packet is longer than the target's MTU, its link header and a VLAN tag (EMSGSIZE).",
        "Raise the target's MTU, or let the program answer long packets otherwise (bpf_check_mtu).";
    RedirectCloneFailed = 2015 "redirect-clone-failed", "Broadcast could not copy the packet (ENOMEM).",
        "Packets with headroom must fit a page of 4096 bytes to be copied.";
    BroadcastNoReceiver = 2016 "broadcast-no-receiver", "No device of the map could take the broadcast; the redirect counts as success.",
        "Check the map's entries: devices that are down or take no frames are skipped silently.";
    EgressDrop = 2017 "egress-drop", "The devmap program answered XDP_DROP.",
        "Nothing is wrong, unless the program is. In one poll the program of a device's first frame runs for all.";
    EgressAborted = 2018 "egress-aborted", "The devmap program answered XDP_ABORTED.",
        "Look at the tracepoint xdp_exception.";
    EgressInvalidAction = 2019 "egress-invalid-action", "The devmap program answered XDP_TX, XDP_REDIRECT or no action.",
        "Devmap programs may only pass or drop.";
    EgressNoFrameRoom = 2020 "egress-no-frame-room", "The devmap program left less than 40 bytes of headroom.",
        "Use less headroom or metadata.";
    XmitNoReceiver = 2021 "xmit-no-receiver", "The veth peer is gone, or has neither program nor GRO (ENXIO).",
        "Attach a program to the peer, or turn its GRO on (ethtool -K peer gro on).";
    XmitRingFull = 2022 "xmit-ring-full", "The ring of the veth peer's queue is full: 256 packets wait.",
        "Let the receiver keep up: more queues, more CPUs, or less work per packet.";
    XmitTooLong = 2023 "xmit-too-long", "A frame of the batch is longer than the veth peer's MTU, link header and a VLAN tag; it and all after it are lost.",
        "Give both ends of the pair the same MTU.";
    XmitNotSupported = 2024 "xmit-not-supported", "The device cannot transmit frames.",
        "Redirect to another device.";
    CpumapRingFull = 2025 "cpumap-ring-full", "The ring of the cpumap entry is full.",
        "A larger qsize, or more CPUs in the map.";
    CpumapDrop = 2026 "cpumap-drop", "The cpumap program answered XDP_DROP, XDP_ABORTED, XDP_TX or no action.",
        "Cpumap programs may pass, redirect or drop.";
    CpumapNoFrameRoom = 2027 "cpumap-no-frame-room", "The cpumap program left less than 40 bytes of headroom.",
        "Use less headroom or metadata.";
    CpumapEntryGone = 2028 "cpumap-entry-gone", "The cpumap entry was replaced or deleted while frames waited.",
        "None: frames in the ring of an old entry are still taken, later ones are not.";
    CpumapNoDevice = 2029 "cpumap-no-device", "The device that the frame came in on is gone, so its program cannot redirect.",
        "None: the device was removed while frames waited.";
    XskRefused = 2030 "xsk-refused", "The AF_XDP socket did not take the packet.",
        "Look at the socket's statistics: it must be bound to this device and queue, and have fill and rx entries.";
    XskMissing = 2031 "xsk-missing", "The xskmap entry holds no socket of this engine.",
        "Put a bound AF_XDP socket into the map.";
    SkbFragList = 2032 "skb-frag-list", "A packet with a frag_list cannot be shown to a program.",
        "Turn fraglist GRO off (ethtool -K DEVICE rx-gro-list off).";
    SkbTooLong = 2033 "skb-too-long", "The packet does not fit 3520 bytes and 17 pages (ENOMEM).",
        "Lower the MTU or the sender's GSO size.";
    NoMemory = 2034 "no-memory", "There was no page left.",
        "Raise the limit of the page pool.";
    ForwardNotPossible = 2035 "forward-not-possible", "The veth peer is down, or its MTU too small for the packet.",
        "Bring the peer up and give both ends the same MTU.";
    ForwardNoPeer = 2036 "forward-no-peer", "The veth has no peer, or the packet no Ethernet header.",
        "Check that the other end of the pair still exists.";
    ForwardRingFull = 2037 "forward-ring-full", "The ring of the veth peer's queue is full, and the sender has no qdisc to wait in.",
        "Add a qdisc to the sending device, or let the receiver keep up.";
    BacklogFull = 2038 "backlog-full", "More than 1000 packets wait for the stack on this CPU.",
        "Let the CPU keep up, or give the receiver a NAPI (a program, or GRO).";
    DeviceDown = 2039 "device-down", "The device is down.",
        "ip link set DEVICE up";
    QueueDrained = 2040 "queue-drained", "The packet waited in a ring when the program was detached or the device went.",
        "None: detaching loses what waits.";
    GenericUnprepared = 2041 "generic-unprepared", "Generic XDP could not make the packet fit for the program.",
        "Attach in native mode, or lower the MTU.";
    GenericTxFailed = 2042 "generic-tx-failed", "Generic XDP_TX found the transmit queue stopped, or the driver refused.",
        "Attach in native mode, or let the queue drain.";
    GenericRedirectFailed = 2043 "generic-redirect-failed", "Generic XDP could not redirect the packet.",
        "Look at the tracepoint xdp_redirect_err for the error.";
    VirtioRxLength = 2044 "virtio-rx-length", "A virtio device gave back a receive buffer that is shorter than headers or longer than the buffer (rx_length_errors).",
        "Look at the other end: its packets must fit the MTU; without mergeable buffers, 1518 bytes.";
    VirtioRxMissing = 2045 "virtio-rx-missing", "A virtio device announced more receive buffers for a packet than it gave back.",
        "Look at the other end: num_buffers of the header must be what it used.";
    VirtioRxOffloaded = 2046 "virtio-rx-offloaded", "A virtio device sent a segmented packet, or one without checksum, to a program.",
        "Turn its offloads off, or let the driver do so (CTRL_GUEST_OFFLOADS).";
    VirtioRxNotLinear = 2047 "virtio-rx-not-linear", "A packet in several receive buffers does not fit a page for a program without fragments.",
        "Build the program as xdp.frags, or lower the MTU.";
    VirtioRxTooManyBuffers = 2048 "virtio-rx-too-many-buffers", "A packet takes more than 18 receive buffers.",
        "Lower the MTU, or turn the device's segmentation offloads off.";
    VirtioRxHeader = 2049 "virtio-rx-header", "A virtio device gave a packet header that makes no sense (rx_frame_errors).",
        "Look at the other end: gso_type, gso_size, csum_start and csum_offset.";
    VirtioNoProgram = 2050 "virtio-no-program", "The virtio device has no program, and takes frames of others only with one (ENXIO).",
        "Attach a program to it; one that passes everything is enough.";
    VirtioTxFull = 2051 "virtio-tx-full", "The send queue of the virtio device is full.",
        "Let the other end keep up, or use more queue pairs.";
    VirtioTxNoHeadroom = 2052 "virtio-tx-no-headroom", "The virtio header needs 10 to 20 bytes before the frame, which are not there; it and all after it are lost.",
        "Use less headroom or metadata.";
    VirtioBroken = 2053 "virtio-broken", "The virtio device has returned a buffer that it did not have, so the queue is out of use.",
        "Look at the other end, and set the device up anew.";
    VirtioHostNoBuffer = 2054 "virtio-host-no-buffer", "The other end of a virtio device had no receive buffer for a packet, or the device is down.",
        "Let the receiver keep up, with more queue pairs or a larger ring.";
    NoHandler = 2055 "no-handler", "Nobody takes packets that the device receives.",
        "Attach a host or a port to the device.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_reason_has_its_own_name_and_says_what_to_do() {
        let ids: BTreeSet<_> = DropReason::ALL.iter().map(|r| r.id()).collect();
        assert_eq!(ids.len(), DropReason::COUNT);
        let numbers: BTreeSet<_> = DropReason::ALL.iter().map(|r| r.number()).collect();
        assert_eq!(numbers.len(), DropReason::COUNT);
        assert!(numbers.iter().all(|n| (2001..2100).contains(n)));
        for reason in DropReason::ALL {
            assert!(reason.explanation().ends_with('.') && !reason.cure().is_empty(), "{reason:?}");
        }
    }

    #[test]
    fn counters_show_what_occurred() {
        let mut counters = DropCounters::default();
        counters.add(DropReason::XmitRingFull, 3);
        assert_eq!(counters.iter().collect::<Vec<_>>(), [(DropReason::XmitRingFull, 3)]);
        assert_eq!(counters.total(), 3);
    }
}
