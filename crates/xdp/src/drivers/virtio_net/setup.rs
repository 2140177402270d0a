//! Attaching and detaching, up and down, queues and offloads.

use std::sync::atomic::Ordering::*;
use std::sync::{Arc, PoisonError};

use bpf::vm::Program;
use uapi::Errno;
use uapi::virtio_net::*;
use uapi::xdp::ETH_HLEN;

use super::arena::PAGE;
use super::backend::has;
use super::buffers::{MERGEABLE_ROOM, RxMode};
use super::{VirtioNet, gro_hw, guest_offloads, rx_queue};
use crate::attach::SetupError;

/// Largest MTU for programs that take no fragments, bytes.
pub(super) const MAX_MTU: u32 = PAGE - MERGEABLE_ROOM - ETH_HLEN as u32;

impl VirtioNet {
    /// Kernel: `drivers/net/virtio_net.c virtnet_xdp_set, v6.18`
    #[doc(alias = "virtnet_xdp_set")]
    pub(super) fn xdp_set(&self, program: Option<&Arc<Program>>) -> Result<(), SetupError> {
        self.check_xdp(program)?;
        let (all, for_xdp) = self.queue_pairs();
        let curr = all - for_xdp;
        let mut xdp = if program.is_some() { self.cpus } else { 0 };
        if curr + xdp > self.max_queue_pairs() {
            self.warn_once(curr + xdp);
            xdp = 0;
        }
        let old = self.rqs[0].program.get_arc(0, &mem::epoch::pin());
        if program.is_none() && old.is_none() {
            return Ok(());
        }
        let set = |program: Option<&Arc<Program>>| {
            self.rqs.iter().for_each(|rq| drop(rq.program.swap(0, program.map(|p| Arc::new(p.clone())))));
        };
        if program.is_none() {
            set(None);
            self.restore_offloads();
        }
        if let Err(errno) = self.set_queues(curr, xdp) {
            if program.is_none() {
                self.clear_offloads();
                set(old.as_deref());
            }
            return Err(SetupError::bare(errno));
        }
        self.core.rx_queues.store(curr + xdp, Release);
        self.xdp_enabled.store(program.is_some(), Release);
        match program {
            Some(_) => {
                set(program);
                if old.is_none() {
                    self.clear_offloads();
                    self.update_features(true);
                }
            }
            None => self.update_features(false),
        }
        // As the refill that follows a change of queues.
        if self.core.is_up() {
            self.fill_queues();
        }
        Ok(())
    }

    fn check_xdp(&self, program: Option<&Arc<Program>>) -> Result<(), SetupError> {
        if !has(self.features, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) && self.features & guest_offloads() != 0 {
            let text =
                "virtio_net: Can't set XDP while host is implementing GRO_HW/CSUM, disable GRO_HW/CSUM first";
            return Err(SetupError::new(Errno::EOPNOTSUPP, text));
        }
        let any_header_sg = has(self.features, VIRTIO_F_ANY_LAYOUT) || has(self.features, VIRTIO_F_VERSION_1);
        if self.mode == RxMode::Mergeable && !any_header_sg {
            let text = "virtio_net: XDP expects header/data in single page, any_header_sg required";
            return Err(SetupError::new(Errno::EINVAL, text));
        }
        if program.is_some_and(|p| !p.has_frags()) && self.core.mtu() > MAX_MTU {
            let text = "virtio_net: MTU too large to enable XDP without frags";
            return Err(SetupError::new(Errno::EINVAL, text));
        }
        Ok(())
    }

    fn warn_once(&self, wanted: u32) {
        let mut warning = self.warning.lock().unwrap_or_else(PoisonError::into_inner);
        warning.get_or_insert_with(|| {
            format!(
                "XDP request {wanted} queues but max is {}. XDP_TX and XDP_REDIRECT will operate in a slower \
                 locked tx mode.",
                self.max_queue_pairs()
            )
        });
    }

    fn command(&self, class: u8, number: u8, data: &[u8]) -> bool {
        let backend = self.backend.get().map(|b| &**b);
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        control.send(&self.memory, backend, (class, number), data)
    }

    /// Kernel: `drivers/net/virtio_net.c virtnet_set_queues, v6.18`
    #[doc(alias = "virtnet_set_queues")]
    fn set_queues(&self, for_stack: u32, for_xdp: u32) -> Result<(), Errno> {
        let pairs = for_stack + for_xdp;
        if !has(self.features, VIRTIO_NET_F_CTRL_VQ) || !has(self.features, VIRTIO_NET_F_MQ) {
            return Ok(());
        }
        let number = u16::try_from(pairs).map_err(|_| Errno::EINVAL)?;
        let data = number.to_le_bytes();
        if !self.command(VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &data) {
            return Err(Errno::EINVAL);
        }
        self.pairs.store(u64::from(pairs) | u64::from(for_xdp) << 32, Release);
        Ok(())
    }

    fn set_offloads(&self, offloads: u64) -> Result<(), Errno> {
        let data = offloads.to_le_bytes();
        let done = self.command(VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, &data);
        if done { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// Turns offloads off that programs cannot live with. Whether the device does so is not asked; its packets
    /// are dropped if it does not.
    ///
    /// Kernel: `drivers/net/virtio_net.c virtnet_clear_guest_offloads, v6.18`
    #[doc(alias = "virtnet_clear_guest_offloads")]
    fn clear_offloads(&self) {
        if self.offloads.load(Relaxed) != 0 {
            let _ = self.set_offloads(0);
        }
    }

    /// Kernel: `drivers/net/virtio_net.c virtnet_restore_guest_offloads, v6.18`
    #[doc(alias = "virtnet_restore_guest_offloads")]
    fn restore_offloads(&self) {
        let offloads = self.offloads.load(Relaxed);
        if offloads != 0 {
            let _ = self.set_offloads(offloads);
        }
    }

    /// Turns GRO in the device on or off (`ethtool -K dev rx-gro-hw`).
    ///
    /// # Errors
    ///
    /// `EBUSY` with a program; `EOPNOTSUPP` if the device cannot change it, `EINVAL` if it does not.
    ///
    /// Kernel: `drivers/net/virtio_net.c virtnet_set_features, v6.18`
    #[doc(alias = "virtnet_set_features")]
    pub fn set_gro_hw(&self, on: bool) -> Result<(), SetupError> {
        if !has(self.features, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) {
            return Err(SetupError::bare(Errno::EOPNOTSUPP));
        }
        if self.xdp_enabled.load(Acquire) {
            return Err(SetupError::bare(Errno::EBUSY));
        }
        let offloads = if on { self.offloads_capable } else { self.offloads_capable & !gro_hw() };
        self.set_offloads(offloads).map_err(SetupError::bare)?;
        self.offloads.store(offloads, Relaxed);
        Ok(())
    }

    /// Lets hashes of the device reach programs and stack, or not (`ethtool -K dev rxhash`).
    pub fn set_rxhash(&self, on: bool) {
        self.rxhash.store(on, Relaxed);
    }

    /// Sets the queue pairs in use (`ethtool -L dev combined`).
    ///
    /// # Errors
    ///
    /// `EINVAL` for none, for more than there are, while a program is attached, or if the device refuses.
    ///
    /// Kernel: `drivers/net/virtio_net.c virtnet_set_channels, v6.18`
    #[doc(alias = "virtnet_set_channels")]
    pub fn set_channels(&self, pairs: u32) -> Result<(), SetupError> {
        let with_program = self.rqs[0].program.get(0, &mem::epoch::pin()).is_some();
        if pairs == 0 || pairs > self.max_queue_pairs() || with_program {
            return Err(SetupError::bare(Errno::EINVAL));
        }
        self.set_queues(pairs, 0).map_err(SetupError::bare)?;
        self.core.tx_queues.store(pairs, Release);
        self.core.rx_queues.store(pairs, Release);
        if self.core.is_up() {
            self.fill_queues();
        }
        Ok(())
    }

    /// Kernel: `drivers/net/virtio_net.c virtnet_open, v6.18`
    #[doc(alias = "virtnet_open")]
    pub(super) fn open(&self) {
        self.fill_queues();
        for rq in &self.rqs {
            rq.queue.with(|q| q.vq.rearm_from_now());
        }
        for sq in &self.sqs {
            sq.queue.with(|q| q.vq.rearm_from_now());
        }
        self.catch_up.store(true, Release);
    }

    /// Fills the receive queues in use.
    ///
    /// Kernel: `drivers/net/virtio_net.c refill_work, v6.18`
    #[doc(alias = "refill_work")]
    fn fill_queues(&self) {
        let headroom = self.headroom();
        let (curr, _) = self.queue_pairs();
        for rq in self.rqs.iter().take(curr as usize) {
            let kick = rq.queue.with(|q| {
                q.fill(headroom);
                q.vq.kick_prepare()
            });
            if let (true, Some(backend)) = (kick, self.backend.get()) {
                rq.stats.kicks.fetch_add(1, Relaxed);
                // Nothing waits for receive buffers in a device that is polled: packets without are dropped.
                backend.notify(rx_queue(rq.index));
            }
        }
    }
}
