//! Generic XDP: programs in the stack, on skbs, whatever the driver.

use std::sync::Arc;

use bpf::maps::Map;
use bpf::redirect::RedirectInfo;
use bpf::vm::Program;
use mem::{Packet, RxqInfo, TxqInfo};
use uapi::Errno;
use uapi::bpf::MapType;
use uapi::xdp::{BPF_F_BROADCAST, BPF_F_EXCLUDE_INGRESS, XDP_PACKET_HEADROOM, XdpAction};

use crate::cow::{expand_head, skb_pp_cow_data};
use crate::redirect::{CpuQueue, RedirectError, Taken};
use crate::{DropReason, NetDevice, NetdevTx, Note, Skb, Softirq};

/// What became of an skb.
pub(crate) enum Verdict {
    Pass(Box<Skb>),
    Tx(Box<Skb>),
    Redirected,
    Dropped,
}

impl Softirq<'_> {
    /// The stack has the packet, which is no longer the sender's (`skb_orphan`).
    fn give_to_stack(&mut self, mut skb: Box<Skb>) {
        skb.completion = None;
        self.net.received.push(skb);
    }

    /// Takes a packet that a device has received: generic XDP, then the stack.
    ///
    /// Kernel: `net/core/dev.c __netif_receive_skb_core, v6.18`
    pub fn netif_receive_skb(&mut self, skb: Box<Skb>) {
        let guard = self.guard;
        let device = self.devices.get(guard, skb.dev);
        let program = device.and_then(|d| d.core().generic_program(guard));
        let (Some(device), Some(program), false) = (device, program, skb.redirected) else {
            return self.give_to_stack(skb);
        };
        match self.run_generic(program, skb) {
            Verdict::Pass(skb) => self.give_to_stack(skb),
            Verdict::Tx(skb) => self.generic_xdp_tx(device, skb, program),
            Verdict::Redirected | Verdict::Dropped => {}
        }
    }

    /// Runs a program over an skb that was received; redirects it if so decided.
    ///
    /// Kernel: `net/core/dev.c do_xdp_generic, netif_receive_generic_xdp, v6.18`
    #[doc(alias = "do_xdp_generic")]
    #[doc(alias = "netif_receive_generic_xdp")]
    pub(crate) fn run_generic(&mut self, program: &Arc<Program>, mut skb: Box<Skb>) -> Verdict {
        skb.push_mac();
        let p = &skb.packet;
        let unfit = skb.shared || !p.frags().is_empty() || p.headroom() < XDP_PACKET_HEADROOM as u32;
        if unfit && let Err(reason) = self.make_writable(&mut skb, program.has_frags()) {
            self.net.drop_packet(skb.packet, reason);
            return Verdict::Dropped;
        }
        let rxq =
            RxqInfo { ifindex: skb.dev, queue_index: skb.rx_queue.unwrap_or(0), mem_type: 0, frag_size: 0 };
        let (act, mut skb) = self.run_on_skb(program, skb, &rxq, None);
        match XdpAction::from_raw(act) {
            Some(XdpAction::Pass) => {
                let mac = self.device(skb.dev).map_or([0; 6], |d| d.core().mac);
                let dev = skb.dev;
                skb.eth_type_trans(dev, mac);
                Verdict::Pass(skb)
            }
            Some(XdpAction::Tx) => Verdict::Tx(skb),
            Some(XdpAction::Redirect) => self.generic_redirect(program, skb),
            Some(XdpAction::Drop) => {
                self.net.drop_packet(skb.packet, DropReason::ProgramDrop);
                Verdict::Dropped
            }
            action => {
                self.exception(program, act, skb.dev);
                let aborted = action == Some(XdpAction::Aborted);
                let reason = if aborted { DropReason::ProgramAborted } else { DropReason::InvalidAction };
                self.net.drop_packet(skb.packet, reason);
                Verdict::Dropped
            }
        }
    }

    /// Kernel: `net/core/dev.c netif_skb_check_for_xdp, v6.18`
    fn make_writable(&mut self, skb: &mut Skb, frags: bool) -> Result<(), DropReason> {
        let copy = if frags {
            let mut offset = self.net.system_frags;
            let copy = skb_pp_cow_data(self.net, &mut offset, &skb.packet);
            self.net.system_frags = offset;
            copy?
        } else {
            let copy = expand_head(self.net, &skb.packet)?;
            self.net.trace.note(|| Note::Replaced { packet: skb.packet.identity(), by: copy.identity() });
            copy
        };
        let old = std::mem::replace(&mut skb.packet, copy);
        self.net.pool.put_packet(old);
        skb.shared = false;
        Ok(())
    }

    /// Runs a program over the bytes of an skb, whose Ethernet header is in place.
    ///
    /// Kernel: `net/core/dev.c bpf_prog_run_generic_xdp, v6.18`
    #[doc(alias = "bpf_prog_run_generic_xdp")]
    fn run_on_skb(
        &mut self,
        program: &Arc<Program>,
        mut skb: Box<Skb>,
        rxq: &RxqInfo,
        txq: Option<&TxqInfo>,
    ) -> (u32, Box<Skb>) {
        let mut buff = skb.packet.into_buff(rxq);
        buff.set_txq(txq);
        let act = self.run_xdp(program, &mut buff);
        skb.packet = buff.into_packet();
        (act, skb)
    }

    /// Kernel: `net/core/filter.c xdp_do_generic_redirect, v6.18`
    #[doc(alias = "xdp_do_generic_redirect")]
    fn generic_redirect(&mut self, program: &Arc<Program>, skb: Box<Skb>) -> Verdict {
        let taken = Taken::take(&mut self.net.redirect);
        let target = taken.target();
        let ifindex = skb.dev;
        let map_type = target.map.map(|m| m.def().map_type);
        let result = match (map_type, target.map) {
            (None, None) if target.map_id == RedirectInfo::MAP_ID_IFINDEX => {
                self.generic_to_ifindex(program, skb, target.key())
            }
            (Some(MapType::Devmap | MapType::DevmapHash), Some(map)) => {
                if target.flags & BPF_F_BROADCAST != 0 {
                    let exclude = target.flags & BPF_F_EXCLUDE_INGRESS != 0;
                    self.generic_broadcast(program, skb, map, exclude)
                } else {
                    self.generic_to_entry(program, skb, map, target.key())
                }
            }
            (Some(MapType::Cpumap), Some(map)) => self.generic_to_cpu(skb, map, target.key()),
            (Some(MapType::Xskmap), Some(_)) => {
                let rxq =
                    RxqInfo { ifindex, queue_index: skb.rx_queue.unwrap_or(0), mem_type: 0, frag_size: 0 };
                let result = self.xsk_map_redirect(&target, skb.packet.into_buff(&rxq));
                // Each packet is shown at once.
                self.xsk_map_flush();
                result
            }
            _ => self.generic_refuse(skb.packet, Errno::EBADRQC, DropReason::RedirectNoTarget),
        };
        if self.net.trace.is_any_on() {
            self.trace_redirect(&target, program.id(), ifindex, result.err());
        }
        self.keep_map(taken);
        if result.is_ok() { Verdict::Redirected } else { Verdict::Dropped }
    }

    fn generic_refuse(
        &mut self,
        packet: Packet,
        errno: Errno,
        reason: DropReason,
    ) -> Result<(), RedirectError> {
        self.net.drop_packet(packet, reason);
        Err(RedirectError::new(errno, reason))
    }

    fn generic_to_ifindex(
        &mut self,
        program: &Arc<Program>,
        skb: Box<Skb>,
        ifindex: u32,
    ) -> Result<(), RedirectError> {
        let guard = self.guard;
        let netns = self.device(skb.dev).map(|d| d.core().netns);
        let device = netns.and_then(|netns| self.devices.get_in(guard, netns, ifindex));
        let Some(device) = device else {
            return self.generic_refuse(skb.packet, Errno::EINVAL, DropReason::RedirectNoDevice);
        };
        if let Err(error) = ok_fwd_dev(&**device, &skb.packet) {
            return self.generic_refuse(skb.packet, error.errno, error.reason);
        }
        self.generic_xdp_tx(device, skb, program);
        Ok(())
    }

    /// Kernel: `kernel/bpf/devmap.c dev_map_generic_redirect, v6.18`
    #[doc(alias = "dev_map_generic_redirect")]
    fn generic_to_entry(
        &mut self,
        program: &Arc<Program>,
        mut skb: Box<Skb>,
        map: &Map,
        key: u32,
    ) -> Result<(), RedirectError> {
        let guard = self.guard;
        let entry = map.device(guard, key);
        let device = entry.and_then(|e| self.devices.get(guard, e.ifindex));
        let (Some(entry), Some(device)) = (entry, device) else {
            return self.generic_refuse(skb.packet, Errno::EINVAL, DropReason::RedirectEntryGone);
        };
        if let Err(error) = ok_fwd_dev(&**device, &skb.packet) {
            return self.generic_refuse(skb.packet, error.errno, error.reason);
        }
        if let Some(egress) = &entry.program {
            let rxq = RxqInfo { ifindex: skb.dev, queue_index: 0, mem_type: 0, frag_size: 0 };
            let txq = TxqInfo { ifindex: entry.ifindex };
            let act;
            (act, skb) = self.run_on_skb(egress, skb, &rxq, Some(&txq));
            if act != XdpAction::Pass as u32 {
                // The redirect has succeeded all the same.
                self.egress_refused(egress, act, entry.ifindex, skb.packet);
                return Ok(());
            }
        }
        self.generic_xdp_tx(device, skb, program);
        Ok(())
    }

    fn egress_refused(&mut self, egress: &Program, act: u32, ifindex: u32, packet: Packet) {
        let reason = match XdpAction::from_raw(act) {
            Some(XdpAction::Drop) => DropReason::EgressDrop,
            action => {
                self.exception(egress, act, ifindex);
                let aborted = action == Some(XdpAction::Aborted);
                if aborted { DropReason::EgressAborted } else { DropReason::EgressInvalidAction }
            }
        };
        self.net.drop_packet(packet, reason);
    }

    /// Kernel: `kernel/bpf/devmap.c dev_map_redirect_multi, v6.18`
    #[doc(alias = "dev_map_redirect_multi")]
    fn generic_broadcast(
        &mut self,
        program: &Arc<Program>,
        skb: Box<Skb>,
        map: &Map,
        exclude_ingress: bool,
    ) -> Result<(), RedirectError> {
        let (guard, devices, ingress) = (self.guard, self.devices, skb.dev);
        let mut last: Option<u32> = None;
        for entry in map.devices(guard) {
            if exclude_ingress && devices.is_or_is_upper_of(guard, entry.ifindex, ingress) {
                continue;
            }
            let Some(key) = last.replace(entry.key) else { continue };
            let Some(copy) = self.clone_skb(&skb) else {
                return self.generic_refuse(skb.packet, Errno::ENOMEM, DropReason::RedirectCloneFailed);
            };
            if let Err(error) = self.generic_to_entry(program, copy, map, key) {
                return self.generic_refuse(skb.packet, error.errno, error.reason);
            }
        }
        match last {
            Some(key) => self.generic_to_entry(program, skb, map, key),
            None => {
                self.net.drop_packet(skb.packet, DropReason::BroadcastNoReceiver);
                Ok(())
            }
        }
    }

    fn clone_skb(&mut self, skb: &Skb) -> Option<Box<Skb>> {
        let copy = expand_head(self.net, &skb.packet).ok()?;
        self.net.trace.note(|| Note::Copied { packet: skb.packet.identity(), to: copy.identity() });
        let mut clone = Box::new(Skb::new(copy));
        (clone.dev, clone.protocol, clone.packet_type) = (skb.dev, skb.protocol, skb.packet_type);
        (clone.mac_pulled, clone.rx_queue, clone.vlan) = (skb.mac_pulled, skb.rx_queue, skb.vlan);
        (clone.csum_partial, clone.hash) = (skb.csum_partial, skb.hash);
        Some(clone)
    }

    /// Kernel: `kernel/bpf/cpumap.c cpu_map_generic_redirect, v6.18`
    #[doc(alias = "cpu_map_generic_redirect")]
    fn generic_to_cpu(&mut self, mut skb: Box<Skb>, map: &Map, key: u32) -> Result<(), RedirectError> {
        let entry = map.cpu_entry(self.guard, key);
        let Some(queue) = entry.and_then(|e| CpuQueue::of(e, map.id())) else {
            return self.generic_refuse(skb.packet, Errno::EINVAL, DropReason::CpumapEntryGone);
        };
        let mac = self.device(skb.dev).map_or([0; 6], |d| d.core().mac);
        let dev = skb.dev;
        skb.eth_type_trans(dev, mac);
        skb.redirected = true;
        if let Err(skb) = queue.produce_skb(skb) {
            return self.generic_refuse(skb.packet, Errno::ENOSPC, DropReason::CpumapRingFull);
        }
        self.wake_cpu_thread(queue);
        Ok(())
    }

    /// Sends past qdisc and taps.
    ///
    /// Kernel: `net/core/dev.c generic_xdp_tx, v6.18`
    fn generic_xdp_tx(&mut self, device: &Arc<dyn NetDevice>, mut skb: Box<Skb>, program: &Program) {
        let core = device.core();
        skb.queue_mapping = self.net.cpu % core.tx_queues();
        if let NetdevTx::Busy(skb) = device.ndo_start_xmit(self, skb) {
            self.exception(program, XdpAction::Tx as u32, core.ifindex);
            core.tx_dropped.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.net.drop_packet(skb.packet, DropReason::GenericTxFailed);
        }
    }
}

/// Whether a device can send a packet. That it takes frames is not asked for.
///
/// Kernel: `include/linux/netdevice.h xdp_ok_fwd_dev, v6.18`
fn ok_fwd_dev(device: &dyn NetDevice, packet: &Packet) -> Result<(), RedirectError> {
    let core = device.core();
    if !core.is_up() {
        return Err(RedirectError::new(Errno::ENETDOWN, DropReason::RedirectDeviceDown));
    }
    if packet.total_len() > core.max_frame_len() {
        return Err(RedirectError::new(Errno::EMSGSIZE, DropReason::RedirectTooLong));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
