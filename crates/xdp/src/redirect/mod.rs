//! `XDP_REDIRECT`: from what a helper left in [`RedirectInfo`] to a device, a CPU or a socket.
//!
//! [`Softirq::xdp_do_redirect`] decides, [`devmap`], [`cpumap`] and [`xskmap`] collect frames in bulk queues,
//! and [`Softirq::xdp_do_flush`] sends them when the poll ends. Errors of the target device show only there.
//!
//! [`RedirectInfo`]: bpf::redirect::RedirectInfo

mod cpumap;
mod devmap;
#[cfg(test)]
mod tests;
mod xskmap;

pub use cpumap::{CPU_MAP_BULK_SIZE, CpuItem, CpuQueue};
pub use devmap::DEV_MAP_BULK_SIZE;
pub use xskmap::{XskEntry, XskSocket};

pub(crate) use cpumap::CpuFlush;
pub(crate) use devmap::DevFlush;
pub(crate) use xskmap::XskFlush;

use std::sync::Arc;

use bpf::maps::Map;
use bpf::redirect::RedirectInfo;
use mem::XdpBuff;
use uapi::Errno;
use uapi::bpf::MapType;
use uapi::xdp::{BPF_F_BROADCAST, BPF_F_EXCLUDE_INGRESS};

use crate::{DeviceCore, DropReason, Softirq, TraceEvent, Tracepoint, XdpFrame};

/// Why a redirect failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedirectError {
    /// What the tracepoint says.
    pub errno: Errno,
    /// Why, more exactly.
    pub reason: DropReason,
}

impl RedirectError {
    pub(crate) const fn new(errno: Errno, reason: DropReason) -> Self {
        Self { errno, reason }
    }
}

/// A target as the helpers left it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Target<'m> {
    pub(crate) map: Option<&'m Arc<Map>>,
    pub(crate) map_id: u32,
    pub(crate) index: u64,
    pub(crate) flags: u64,
}

/// A target taken out of [`RedirectInfo`].
///
/// The map goes back when the packet is done ([`Softirq::keep_map`]), so that the next packet for the same
/// map need not count references; with `map_id` 0 it means nothing.
pub(crate) struct Taken {
    map: Option<Arc<Map>>,
    map_id: u32,
    index: u64,
    flags: u64,
}

impl Taken {
    /// Takes map and flags; the index stays for whoever redirects without a helper.
    pub(crate) fn take(info: &mut RedirectInfo) -> Self {
        let map_id = std::mem::take(&mut info.map_id);
        let unset = map_id == 0 || map_id == RedirectInfo::MAP_ID_IFINDEX;
        Self {
            map: if unset { None } else { info.map.take() },
            map_id,
            index: info.tgt_index,
            flags: std::mem::take(&mut info.flags),
        }
    }

    pub(crate) const fn target(&self) -> Target<'_> {
        Target { map: self.map.as_ref(), map_id: self.map_id, index: self.index, flags: self.flags }
    }
}

impl Target<'_> {
    /// The key as maps see it: its low half.
    pub(crate) const fn key(&self) -> u32 {
        self.index as u32
    }

    fn map_type(&self) -> Option<MapType> {
        self.map.map(|m| m.def().map_type)
    }
}

impl Softirq<'_> {
    /// Sends a packet to where the last redirect helper pointed. If that fails, the packet ends here; the
    /// caller counts it as its driver does.
    ///
    /// Map and flags of [`RedirectInfo`] are used up, its index stays: a packet that redirects without calling
    /// a helper follows what earlier packets of the softirq left.
    ///
    /// # Errors
    ///
    /// `EOVERFLOW` without room for a frame, `EBADRQC` without a target, `EINVAL` for no such device,
    /// `ENOENT` for a freed map, `ENOMEM` if broadcast cannot copy; `EOPNOTSUPP`, `ENETDOWN`, `EMSGSIZE` if the
    /// device cannot take the frame; the socket's error for an xskmap.
    ///
    /// Kernel: `net/core/filter.c xdp_do_redirect, v6.18`
    pub fn xdp_do_redirect(
        &mut self,
        dev: &DeviceCore,
        buff: Box<XdpBuff<'_>>,
        prog_id: u32,
    ) -> Result<(), RedirectError> {
        let taken = Taken::take(&mut self.net.redirect);
        let result = self.redirect_to(dev, buff, prog_id, &taken.target());
        self.keep_map(taken);
        result
    }

    /// As [`Softirq::xdp_do_redirect`], with the target in hand.
    fn redirect_to(
        &mut self,
        dev: &DeviceCore,
        buff: Box<XdpBuff<'_>>,
        prog_id: u32,
        target: &Target<'_>,
    ) -> Result<(), RedirectError> {
        let result = match target.map_type() {
            Some(MapType::Xskmap) => self.xsk_map_redirect(target, buff),
            map_type => self.redirect_frame(dev, target, map_type, buff),
        };
        if self.net.trace.is_any_on() {
            self.trace_redirect(target, prog_id, dev.ifindex, result.err());
        }
        result
    }

    /// Redirects packets of a batch that have the same target, one after the other; answers how many of them
    /// could be.
    #[inline]
    pub(crate) fn redirect_all<'q>(
        &mut self,
        dev: &DeviceCore,
        prog_id: u32,
        target: &Target<'_>,
        buffs: impl ExactSizeIterator<Item = Box<XdpBuff<'q>>>,
    ) -> u32 {
        let to = if self.net.trace.is_any_on() { None } else { self.device_of(dev, target) };
        if let Some(to) = to {
            return self.enqueue_all(dev.ifindex, &to, buffs);
        }
        buffs.map(|buff| u32::from(self.redirect_to(dev, buff, prog_id, target).is_ok())).sum()
    }

    #[cold]
    pub(crate) fn trace_redirect(
        &mut self,
        target: &Target<'_>,
        prog_id: u32,
        ifindex: u32,
        error: Option<RedirectError>,
    ) {
        let to_ifindex = self.to_ifindex(target);
        let err = error.map_or(0, |e| -e.errno.raw());
        let tracepoint = if err == 0 { Tracepoint::XdpRedirect } else { Tracepoint::XdpRedirectErr };
        self.net.trace.emit(tracepoint, || {
            let by_ifindex = target.map.is_none() && target.map_id == RedirectInfo::MAP_ID_IFINDEX;
            let map_index = if by_ifindex { 0 } else { target.key() };
            TraceEvent::XdpRedirect { prog_id, ifindex, err, to_ifindex, map_id: target.map_id, map_index }
        });
    }

    pub(crate) fn keep_map(&mut self, taken: Taken) {
        if taken.map.is_some() {
            self.net.redirect.map = taken.map;
        }
    }

    /// Kernel: `net/core/filter.c __xdp_do_redirect_frame, v6.18`
    fn redirect_frame(
        &mut self,
        dev: &DeviceCore,
        target: &Target<'_>,
        map_type: Option<MapType>,
        buff: Box<XdpBuff<'_>>,
    ) -> Result<(), RedirectError> {
        let frame = match XdpFrame::from_buff(buff) {
            Ok(frame) => frame,
            Err((_, packet)) => {
                let error = RedirectError::new(Errno::EOVERFLOW, DropReason::RedirectNoFrameRoom);
                self.net.drop_packet(packet, error.reason);
                return Err(error);
            }
        };
        let sent = match (map_type, target.map) {
            (Some(MapType::Devmap | MapType::DevmapHash), Some(map)) => {
                if target.flags & BPF_F_BROADCAST != 0 {
                    let exclude = target.flags & BPF_F_EXCLUDE_INGRESS != 0;
                    self.dev_map_enqueue_multi(frame, dev, map, exclude)
                } else {
                    self.dev_map_enqueue(frame, dev, map, target.key())
                }
            }
            (Some(MapType::Cpumap), Some(map)) => self.cpu_map_enqueue(frame, dev, map, target.key()),
            (None, None) if target.map_id == RedirectInfo::MAP_ID_IFINDEX => {
                self.dev_xdp_enqueue(frame, dev, target.key())
            }
            _ => Err((RedirectError::new(Errno::EBADRQC, DropReason::RedirectNoTarget), frame)),
        };
        sent.map_err(|(error, frame)| {
            self.net.drop_packet(frame.into_packet(), error.reason);
            error
        })
    }

    /// The device that tracepoints show: none for broadcast and CPUs.
    fn to_ifindex(&self, target: &Target<'_>) -> u32 {
        match (target.map_type(), target.map) {
            (Some(MapType::Devmap | MapType::DevmapHash), Some(map)) => {
                let one = target.flags & BPF_F_BROADCAST == 0;
                let entry = if one { map.device(self.guard, target.key()) } else { None };
                entry.map_or(0, |e| e.ifindex)
            }
            (None, _) if target.map_id == RedirectInfo::MAP_ID_IFINDEX => target.key(),
            _ => 0,
        }
    }

    /// Sends what the bulk queues hold: devices, then CPUs, then sockets, of each the last touched first.
    ///
    /// Kernel: `net/core/filter.c xdp_do_flush, v6.18`
    #[inline]
    pub fn xdp_do_flush(&mut self) {
        if !self.net.dev_flush.is_empty() {
            self.dev_flush();
        }
        if !self.net.cpu_flush.is_empty() {
            self.cpu_map_flush();
        }
        if !self.net.xsk_flush.is_empty() {
            self.xsk_map_flush();
        }
    }
}

/// The outcome of giving a frame to a queue: the frame comes back with the reason if it was not taken.
type Enqueued = Result<(), (RedirectError, XdpFrame)>;
