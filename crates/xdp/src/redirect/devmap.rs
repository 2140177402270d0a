//! Redirect to devices: bulk queues, broadcast, and the programs that run when a devmap transmits.

use std::sync::Arc;

use bpf::maps::{DevEntry, Map};
use bpf::vm::Program;
use mem::{MemType, RxqInfo, TxqInfo};
use uapi::Errno;
use uapi::xdp::XdpAction;

use super::{Enqueued, RedirectError};
use crate::frame::Epoch;
use crate::{
    DeviceCore, DropReason, Feature, NetDevice, Note, Softirq, TraceEvent, Tracepoint, XdpFrame, Xmit,
    XmitFlags,
};

/// Frames that wait for one device on one CPU before they are sent.
pub const DEV_MAP_BULK_SIZE: usize = 16;

/// The bulk queues of one CPU, by device number, and the list of those that hold frames.
#[derive(Default)]
pub(crate) struct DevFlush {
    queues: Vec<BulkQueue>,
    /// Devices with frames; the last touched is the last.
    list: Vec<u32>,
}

/// Frames of one CPU for one device.
///
/// Kernel: `kernel/bpf/devmap.c struct xdp_dev_bulk_queue, v6.18`
#[doc(alias = "xdp_dev_bulk_queue")]
#[derive(Default)]
struct BulkQueue {
    frames: Vec<XdpFrame>,
    /// Of the first frame since the last flush, for all of them.
    dev: Option<Arc<dyn NetDevice>>,
    dev_rx: u32,
    program: Option<Arc<Program>>,
}

impl DevFlush {
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn held_frames(&self) -> u64 {
        let frames = self.queues.iter().flat_map(|q| &q.frames);
        frames.map(|f| f.packet().frame_count() as u64).sum()
    }

    #[inline]
    fn queue(&mut self, ifindex: u32) -> &mut BulkQueue {
        if ifindex as usize >= self.queues.len() {
            self.grow(ifindex);
        }
        &mut self.queues[ifindex as usize]
    }

    #[cold]
    fn grow(&mut self, ifindex: u32) {
        self.queues.resize_with(ifindex as usize + 1, BulkQueue::default);
        self.queues[ifindex as usize].frames.reserve_exact(DEV_MAP_BULK_SIZE);
        self.list.reserve(self.queues.len());
    }
}

/// Whether a device can take a frame.
///
/// Kernel: `kernel/bpf/devmap.c __xdp_enqueue, include/linux/netdevice.h xdp_ok_fwd_dev, v6.18`
#[doc(alias = "xdp_ok_fwd_dev")]
fn check_device(dev: &DeviceCore, frame: &XdpFrame) -> Result<(), RedirectError> {
    let features = dev.xdp_features();
    if features & Feature::NDO_XMIT == 0 {
        return Err(RedirectError::new(Errno::EOPNOTSUPP, DropReason::RedirectNotSupported));
    }
    if !frame.packet().frags().is_empty() && features & Feature::NDO_XMIT_SG == 0 {
        return Err(RedirectError::new(Errno::EOPNOTSUPP, DropReason::RedirectNoFrags));
    }
    if !dev.is_up() {
        return Err(RedirectError::new(Errno::ENETDOWN, DropReason::RedirectDeviceDown));
    }
    if frame.packet().total_len() > dev.max_frame_len() {
        return Err(RedirectError::new(Errno::EMSGSIZE, DropReason::RedirectTooLong));
    }
    Ok(())
}

impl Softirq<'_> {
    /// Kernel: `kernel/bpf/devmap.c dev_map_enqueue, v6.18`
    pub(super) fn dev_map_enqueue(
        &mut self,
        frame: XdpFrame,
        dev_rx: &DeviceCore,
        map: &Map,
        key: u32,
    ) -> Enqueued {
        let guard = self.guard;
        let gone = RedirectError::new(Errno::EINVAL, DropReason::RedirectEntryGone);
        let Some(entry) = map.device(guard, key) else { return Err((gone, frame)) };
        let Some(device) = self.devices.get(guard, entry.ifindex) else { return Err((gone, frame)) };
        self.xdp_enqueue(frame, dev_rx.ifindex, device, entry.program.as_ref())
    }

    /// Redirect by ifindex, in the network namespace of the receiving device.
    ///
    /// Kernel: `kernel/bpf/devmap.c dev_xdp_enqueue, v6.18`
    pub(super) fn dev_xdp_enqueue(&mut self, frame: XdpFrame, dev_rx: &DeviceCore, ifindex: u32) -> Enqueued {
        let Some(device) = self.devices.get_in(self.guard, dev_rx.netns, ifindex) else {
            return Err((RedirectError::new(Errno::EINVAL, DropReason::RedirectNoDevice), frame));
        };
        self.xdp_enqueue(frame, dev_rx.ifindex, device, None)
    }

    #[inline]
    fn xdp_enqueue(
        &mut self,
        frame: XdpFrame,
        dev_rx: u32,
        device: &Arc<dyn NetDevice>,
        program: Option<&Arc<Program>>,
    ) -> Enqueued {
        if let Err(error) = check_device(device.core(), &frame) {
            return Err((error, frame));
        }
        self.bq_enqueue(frame, dev_rx, device, program);
        Ok(())
    }

    /// Kernel: `kernel/bpf/devmap.c bq_enqueue, v6.18`
    #[inline]
    fn bq_enqueue(
        &mut self,
        frame: XdpFrame,
        dev_rx: u32,
        device: &Arc<dyn NetDevice>,
        program: Option<&Arc<Program>>,
    ) {
        let ifindex = device.core().ifindex;
        if self.net.dev_flush.queue(ifindex).frames.len() == DEV_MAP_BULK_SIZE {
            self.bq_xmit_all(ifindex, 0);
        }
        let bulk = self.net.dev_flush.queue(ifindex);
        bulk.frames.push(frame);
        if bulk.dev.is_none() {
            bulk.dev = Some(device.clone());
            bulk.dev_rx = dev_rx;
            bulk.program = program.cloned();
            self.net.dev_flush.list.push(ifindex);
        }
    }

    /// Kernel: `kernel/bpf/devmap.c dev_map_enqueue_multi, v6.18`
    pub(super) fn dev_map_enqueue_multi(
        &mut self,
        frame: XdpFrame,
        dev_rx: &DeviceCore,
        map: &Map,
        exclude_ingress: bool,
    ) -> Enqueued {
        let (guard, devices) = (self.guard, self.devices);
        let mut last: Option<(&DevEntry, &Arc<dyn NetDevice>)> = None;
        for entry in map.devices(guard) {
            let Some(device) = devices.get(guard, entry.ifindex) else { continue };
            let excluded = exclude_ingress && devices.is_or_is_upper_of(guard, entry.ifindex, dev_rx.ifindex);
            if excluded || check_device(device.core(), &frame).is_err() {
                continue;
            }
            let Some((entry, device)) = last.replace((entry, device)) else { continue };
            let Some(copy) = frame.clone_into(&mut self.net.pool) else {
                return Err((RedirectError::new(Errno::ENOMEM, DropReason::RedirectCloneFailed), frame));
            };
            let (packet, to) = (frame.packet().identity(), copy.packet().identity());
            self.net.trace.note(|| Note::Copied { packet, to });
            self.bq_enqueue(copy, dev_rx.ifindex, device, entry.program.as_ref());
        }
        match last {
            Some((entry, device)) => self.bq_enqueue(frame, dev_rx.ifindex, device, entry.program.as_ref()),
            None => self.net.drop_packet(frame.into_packet(), DropReason::BroadcastNoReceiver),
        }
        Ok(())
    }

    /// Kernel: `kernel/bpf/devmap.c __dev_flush, v6.18`
    #[doc(alias = "__dev_flush")]
    pub(super) fn dev_flush(&mut self) {
        while let Some(ifindex) = self.net.dev_flush.list.pop() {
            self.bq_xmit_all(ifindex, XmitFlags::FLUSH);
            let bulk = self.net.dev_flush.queue(ifindex);
            bulk.dev = None;
            bulk.program = None;
            bulk.dev_rx = 0;
        }
    }

    /// Kernel: `kernel/bpf/devmap.c bq_xmit_all, v6.18`
    fn bq_xmit_all(&mut self, ifindex: u32, flags: u32) {
        let bulk = self.net.dev_flush.queue(ifindex);
        let Some(device) = bulk.dev.clone() else { return };
        let mut frames = std::mem::take(&mut bulk.frames);
        let dev_rx = bulk.dev_rx;
        let program = bulk.program.clone();
        let count = frames.len();
        if count > 0 {
            if let Some(program) = program {
                self.dev_map_bpf_prog_run(&program, &mut frames, device.core(), dev_rx);
            }
            let (sent, err) = if frames.is_empty() { (0, 0) } else { self.xmit(&device, &mut frames, flags) };
            self.net.trace.emit(Tracepoint::XdpDevmapXmit, || TraceEvent::XdpDevmapXmit {
                from_ifindex: dev_rx,
                to_ifindex: ifindex,
                drops: (count - sent) as u32,
                sent: sent as u32,
                err,
            });
        }
        self.net.dev_flush.queue(ifindex).frames = frames;
    }

    /// Sends a batch, and frees what the device does not take; answers how many it took and its error.
    pub(crate) fn xmit(
        &mut self,
        device: &Arc<dyn NetDevice>,
        frames: &mut Vec<XdpFrame>,
        flags: u32,
    ) -> (usize, i32) {
        let (sent, err, reason) = match device.ndo_xdp_xmit(self, frames, flags) {
            Ok(Xmit { sent, stopped_by }) => (sent, 0, stopped_by),
            Err(error) => (0, -error.errno.raw(), error.reason),
        };
        for frame in frames.drain(..) {
            self.net.drop_packet(frame.into_packet(), reason);
        }
        (sent, err)
    }

    /// Runs the program of a devmap entry; the frames that it passes stay.
    ///
    /// Kernel: `kernel/bpf/devmap.c dev_map_bpf_prog_run, v6.18`
    fn dev_map_bpf_prog_run(
        &mut self,
        program: &Arc<Program>,
        frames: &mut Vec<XdpFrame>,
        tx_dev: &DeviceCore,
        dev_rx: u32,
    ) {
        let rxq = RxqInfo { ifindex: dev_rx, queue_index: 0, mem_type: 0, frag_size: 0 };
        let txq = TxqInfo { ifindex: tx_dev.ifindex };
        let mut kept = self.net.take_spare();
        for frame in frames.drain(..) {
            let mem_type: MemType = frame.packet().mem_type();
            let mut buff = frame.into_buff(&rxq);
            buff.set_txq(Some(&txq));
            let act = self.run_xdp(program, &mut buff);
            let mut packet = buff.into_packet();
            packet.set_mem_type(mem_type);
            let reason = match XdpAction::from_raw(act) {
                Some(XdpAction::Pass) => match XdpFrame::from_packet(packet) {
                    Ok(frame) => {
                        kept.push(frame);
                        continue;
                    }
                    Err((_, back)) => {
                        packet = back;
                        DropReason::EgressNoFrameRoom
                    }
                },
                Some(XdpAction::Drop) => DropReason::EgressDrop,
                action => {
                    self.exception(program, act, tx_dev.ifindex);
                    let aborted = action == Some(XdpAction::Aborted);
                    if aborted { DropReason::EgressAborted } else { DropReason::EgressInvalidAction }
                }
            };
            self.net.drop_packet(packet, reason);
        }
        std::mem::swap(frames, &mut kept);
        self.net.give_spare(kept);
    }

    /// A device by number, for drivers that need themselves as others see them.
    pub(crate) fn device(&self, ifindex: u32) -> Option<&Arc<dyn NetDevice>> {
        let guard: Epoch<'_> = self.guard;
        self.devices.get(guard, ifindex)
    }
}
