//! Redirect to devices: bulk queues, broadcast, and the programs that run when a devmap transmits.

use std::sync::Arc;

use arrayvec::ArrayVec;
use bpf::maps::{DevEntry, Map};
use bpf::redirect::RedirectInfo;
use bpf::vm::Program;
use mem::{Packet, RxqInfo, TxqInfo, XdpBuff};
use uapi::Errno;
use uapi::xdp::{BPF_F_BROADCAST, XdpAction};

use super::{Enqueued, RedirectError, Target};
use crate::frame::Epoch;
use crate::verdicts::{Alike, Redirects};
use crate::{
    DeviceCore, Devices, DropReason, Feature, NetDevice, Note, Softirq, TraceEvent, Tracepoint, XdpFrame,
    Xmit, XmitFlags,
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

    /// Frames that may be enqueued before a queue is sent and the programs of its target run: at the last of
    /// them.
    pub(crate) fn room(&self) -> usize {
        let fullest = self.list.iter().map(|i| self.queues[*i as usize].frames.len()).max();
        DEV_MAP_BULK_SIZE + 1 - fullest.unwrap_or(0)
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

/// Where frames of a batch go.
pub(super) struct To<'t> {
    device: &'t Arc<dyn NetDevice>,
    program: Option<&'t Arc<Program>>,
}

/// What a device can take now.
struct Capacity {
    features: u32,
    up: bool,
    /// Packets of one buffer, and packets with fragments.
    able: bool,
    frags: bool,
    len: usize,
}

impl Capacity {
    #[inline]
    fn of(dev: &DeviceCore) -> Self {
        let (features, up) = (dev.xdp_features(), dev.is_up());
        let able = up && features & Feature::NDO_XMIT != 0;
        let frags = able && features & Feature::NDO_XMIT_SG != 0;
        Self { features, up, able, frags, len: dev.max_frame_len() }
    }

    /// Whether it can take a frame.
    ///
    /// Kernel: `kernel/bpf/devmap.c __xdp_enqueue, include/linux/netdevice.h xdp_ok_fwd_dev, v6.18`
    #[doc(alias = "xdp_ok_fwd_dev")]
    #[inline]
    fn check(&self, frame: &XdpFrame) -> Result<(), RedirectError> {
        let fits = frame.packet().total_len() <= self.len;
        let able = if frame.packet().has_frags() { self.frags } else { self.able };
        if able && fits { Ok(()) } else { Err(self.refusal(frame)) }
    }

    /// The frame of a packet, if it can take it; else why not.
    #[inline]
    fn admit(&self, buff: Box<XdpBuff<'_>>) -> Result<XdpFrame, (DropReason, Packet)> {
        match XdpFrame::from_buff(buff) {
            Ok(frame) => match self.check(&frame) {
                Ok(()) => Ok(frame),
                Err(error) => Err((error.reason, frame.into_packet())),
            },
            Err((_, packet)) => Err((DropReason::RedirectNoFrameRoom, packet)),
        }
    }

    #[cold]
    fn refusal(&self, frame: &XdpFrame) -> RedirectError {
        if self.features & Feature::NDO_XMIT == 0 {
            RedirectError::new(Errno::EOPNOTSUPP, DropReason::RedirectNotSupported)
        } else if frame.packet().has_frags() && self.features & Feature::NDO_XMIT_SG == 0 {
            RedirectError::new(Errno::EOPNOTSUPP, DropReason::RedirectNoFrags)
        } else if !self.up {
            RedirectError::new(Errno::ENETDOWN, DropReason::RedirectDeviceDown)
        } else {
            RedirectError::new(Errno::EMSGSIZE, DropReason::RedirectTooLong)
        }
    }
}

impl<'a> Softirq<'a> {
    /// The device that a target names, if it is one that is there.
    pub(super) fn device_of<'t>(&self, dev_rx: &DeviceCore, target: &Target<'t>) -> Option<To<'t>>
    where
        'a: 't,
    {
        let (guard, devices): (Epoch<'t>, &'t Devices) = (self.guard, self.devices);
        let Some(map) = target.map else {
            let by_ifindex = target.map_id == RedirectInfo::MAP_ID_IFINDEX;
            let device = by_ifindex.then(|| devices.get_in(guard, dev_rx.netns, target.key()))??;
            return Some(To { device, program: None });
        };
        if target.flags & BPF_F_BROADCAST != 0 {
            return None;
        }
        let entry = map.device(guard, target.key())?;
        let device = devices.get(guard, entry.ifindex)?;
        Some(To { device, program: entry.program.as_ref() })
    }
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
        if let Err(error) = Capacity::of(device.core()).check(&frame) {
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

    /// Gives frames of a batch to a device's bulk queue; answers how many it could take. Those that it cannot
    /// take end here.
    #[inline]
    pub(super) fn enqueue_all<'q>(
        &mut self,
        dev_rx: u32,
        to: &To<'_>,
        mut buffs: impl ExactSizeIterator<Item = Box<XdpBuff<'q>>>,
    ) -> u32 {
        let core = to.device.core();
        let (ifindex, capacity) = (core.ifindex, Capacity::of(core));
        let mut taken = 0;
        while buffs.len() > 0 {
            let mut refused = None;
            let bulk = self.net.dev_flush.queue(ifindex);
            let room = DEV_MAP_BULK_SIZE - bulk.frames.len();
            if bulk.dev.is_some() && room > 0 {
                let before = bulk.frames.len();
                for buff in buffs.by_ref().take(room) {
                    match capacity.admit(buff) {
                        Ok(frame) => bulk.frames.push(frame),
                        Err(why) => {
                            refused = Some(why);
                            break;
                        }
                    }
                }
                taken += (bulk.frames.len() - before) as u32;
            } else if let Some(buff) = buffs.next() {
                match capacity.admit(buff) {
                    Ok(frame) => {
                        taken += 1;
                        self.bq_enqueue(frame, dev_rx, to.device, to.program);
                    }
                    Err(why) => refused = Some(why),
                }
            }
            if let Some((reason, packet)) = refused {
                self.net.drop_packet(packet, reason);
            }
        }
        taken
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
            if excluded || Capacity::of(device.core()).check(&frame).is_err() {
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
        // Taken and put back, so that no reference is counted.
        let Some(device) = bulk.dev.take() else { return };
        let program = bulk.program.take();
        let mut frames = std::mem::take(&mut bulk.frames);
        let dev_rx = bulk.dev_rx;
        let count = frames.len();
        if count > 0 {
            if let Some(program) = &program {
                self.dev_map_bpf_prog_run(program, &mut frames, device.core(), dev_rx);
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
        let bulk = self.net.dev_flush.queue(ifindex);
        (bulk.frames, bulk.dev, bulk.program) = (frames, Some(device), program);
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
        let mut verdicts = self.net.take_verdicts();
        let mut waiting = ArrayVec::<_, DEV_MAP_BULK_SIZE>::new();
        waiting.extend(frames.drain(..).map(|frame| {
            let mut buff = frame.into_buff(&rxq);
            buff.set_txq(Some(&txq));
            buff
        }));
        while !waiting.is_empty() {
            let done = self.run_xdp_batch(program, &mut waiting, Redirects::Ignored, &mut verdicts);
            let mut buffs = waiting.drain(..done);
            for Alike { count, act, .. } in verdicts.alike() {
                for buff in buffs.by_ref().take(count) {
                    match self.egress_verdict(program, act, tx_dev) {
                        None => match XdpFrame::from_packet(buff.into_packet()) {
                            Ok(frame) => kept.push(frame),
                            Err((_, packet)) => self.net.drop_packet(packet, DropReason::EgressNoFrameRoom),
                        },
                        Some(reason) => self.net.drop_packet(buff.into_packet(), reason),
                    }
                }
            }
        }
        self.net.give_verdicts(verdicts);
        std::mem::swap(frames, &mut kept);
        self.net.give_spare(kept);
    }

    /// Why a frame is dropped after the program of a devmap entry; `None` if it is not.
    #[inline]
    fn egress_verdict(&mut self, program: &Program, act: u32, tx_dev: &DeviceCore) -> Option<DropReason> {
        match XdpAction::from_raw(act) {
            Some(XdpAction::Pass) => None,
            Some(XdpAction::Drop) => Some(DropReason::EgressDrop),
            action => {
                self.exception(program, act, tx_dev.ifindex);
                let aborted = action == Some(XdpAction::Aborted);
                Some(if aborted { DropReason::EgressAborted } else { DropReason::EgressInvalidAction })
            }
        }
    }

    /// A device by number, for drivers that need themselves as others see them.
    pub(crate) fn device(&self, ifindex: u32) -> Option<&Arc<dyn NetDevice>> {
        let guard: Epoch<'_> = self.guard;
        self.devices.get(guard, ifindex)
    }
}
