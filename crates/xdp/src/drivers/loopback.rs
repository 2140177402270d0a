//! [`Loopback`]: what is sent comes back in. It has no native hook: programs run on it in generic mode.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::{DeviceConfig, DeviceCore, DeviceCounters, NapiCtx, NetDevice, NetdevTx, Polled, Skb, Softirq};

/// MTU of `lo`, bytes.
const LOOPBACK_MTU: u32 = 65536;

/// `lo`.
///
/// Kernel: `drivers/net/loopback.c, v6.18`
pub struct Loopback(DeviceCore);

impl Loopback {
    /// The loopback device of a network namespace, up.
    #[must_use]
    pub fn new(ifindex: u32, netns: u32) -> Arc<Self> {
        let config = DeviceConfig { netns, mtu: LOOPBACK_MTU, ..DeviceConfig::new("lo") };
        let core = DeviceCore::new(ifindex, config);
        core.max_mtu.store(u32::MAX, Relaxed);
        core.up.store(true, Relaxed);
        Arc::new(Self(core))
    }
}

impl NetDevice for Loopback {
    fn core(&self) -> &DeviceCore {
        &self.0
    }

    /// There is no queue of its own: packets wait in the CPU's backlog.
    fn poll(&self, _queue: u32, _budget: u32, cx: NapiCtx<'_, '_>) -> Polled {
        cx.complete(0, false)
    }

    /// Kernel: `drivers/net/loopback.c loopback_xmit, v6.18`
    #[doc(alias = "loopback_xmit")]
    fn ndo_start_xmit(&self, cx: &mut Softirq<'_>, mut skb: Box<Skb>) -> NetdevTx {
        let len = skb.len() as u64;
        skb.eth_type_trans(self.0.ifindex, self.0.mac);
        cx.netif_rx(skb);
        self.0.tx_packets.fetch_add(1, Relaxed);
        self.0.tx_bytes.fetch_add(len, Relaxed);
        NetdevTx::Ok
    }

    fn link_stats(&self) -> DeviceCounters {
        let sent = self.0.counters();
        DeviceCounters { rx_packets: sent.tx_packets, rx_bytes: sent.tx_bytes, ..sent }
    }
}
