//! Live frames: a program over packets that then really go where it says, as `BPF_PROG_TEST_RUN` with
//! `BPF_F_TEST_XDP_LIVE_FRAMES` does. The fastest generator there is, in the kernel as here.

use std::sync::Arc;

use bpf::redirect::RedirectInfo;
use bpf::vm::Program;
use mem::{MemType, Packet, RxqInfo, XdpBuff};
use uapi::Errno;
use uapi::xdp::{ETH_HLEN, XDP_PACKET_HEADROOM, XDP_TAILROOM, XdpAction};

use crate::{DropReason, Softirq, XdpFrame};

/// Packets of a batch, unless asked for otherwise.
pub const LIVE_BATCH_DEFAULT: u32 = 64;
/// Most packets of a batch.
#[doc(alias = "TEST_XDP_MAX_BATCH")]
pub const LIVE_BATCH_MAX: u32 = 256;
/// Bytes that the kernel keeps before the frame in the same page.
const PAGE_HEAD: u32 = 112;
const FRAME_SZ: u32 = 4096 - PAGE_HEAD;
/// Longest packet of a live run, bytes.
pub const LIVE_LEN_MAX: usize = FRAME_SZ as usize - XDP_PACKET_HEADROOM - XDP_TAILROOM;

/// What to run.
#[derive(Clone, Debug)]
pub struct LiveRun<'a> {
    /// Program.
    pub program: &'a Arc<Program>,
    /// Packet that each run starts with.
    pub data: &'a [u8],
    /// Device and queue that it comes in on.
    pub ingress: (u32, u32),
    /// How often.
    pub repeat: u32,
    /// Packets between two flushes; 0 for [`LIVE_BATCH_DEFAULT`].
    pub batch: u32,
}

/// What became of the packets of a live run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveStats {
    /// Handed to the stack of the ingress device.
    pub passed: u64,
    /// Redirected, `XDP_TX` included.
    pub redirected: u64,
    /// Dropped, by the program or because redirecting failed.
    pub dropped: u64,
}

impl Softirq<'_> {
    /// Runs a program over packets and lets them go.
    ///
    /// Where redirects point is kept within a batch, as in a softirq, and forgotten after it.
    ///
    /// # Errors
    ///
    /// `E2BIG` for a batch above [`LIVE_BATCH_MAX`], `EINVAL` for a packet that is shorter than an Ethernet
    /// header or longer than [`LIVE_LEN_MAX`], `ENODEV` for an unknown device; `ENOMEM` without pages.
    ///
    /// Kernel: `net/bpf/test_run.c bpf_test_run_xdp_live, v6.18`
    #[doc(alias = "bpf_test_run_xdp_live")]
    pub fn test_run_live(&mut self, run: &LiveRun<'_>) -> Result<LiveStats, Errno> {
        let batch = if run.batch == 0 { LIVE_BATCH_DEFAULT } else { run.batch };
        if batch > LIVE_BATCH_MAX {
            return Err(Errno::E2BIG);
        }
        if run.data.len() < ETH_HLEN || run.data.len() > LIVE_LEN_MAX {
            return Err(Errno::EINVAL);
        }
        let (ifindex, queue_index) = run.ingress;
        self.devices.get(self.guard, ifindex).ok_or(Errno::ENODEV)?;
        let rxq = RxqInfo { ifindex, queue_index, mem_type: MemType::PagePool as u32, frag_size: 0 };
        let mut stats = LiveStats::default();
        let mut left = run.repeat.max(1);
        while left > 0 {
            let n = left.min(batch);
            self.net.begin();
            self.live_batch(run, &rxq, n, &mut stats)?;
            left -= n;
        }
        Ok(stats)
    }

    /// Kernel: `net/bpf/test_run.c xdp_test_run_batch, v6.18`
    #[doc(alias = "xdp_test_run_batch")]
    fn live_batch(
        &mut self,
        run: &LiveRun<'_>,
        rxq: &RxqInfo,
        n: u32,
        stats: &mut LiveStats,
    ) -> Result<(), Errno> {
        let mut passed = self.net.take_spare();
        let mut result = Ok(());
        for _ in 0..n {
            let Some(packet) = self.live_packet(run.data) else {
                result = Err(Errno::ENOMEM);
                break;
            };
            let mut buff = packet.into_buff(rxq);
            let act = self.run_xdp(run.program, &mut buff);
            match XdpAction::from_raw(act) {
                Some(XdpAction::Pass) => match XdpFrame::from_buff(buff) {
                    Ok(frame) => {
                        stats.passed += 1;
                        passed.push(frame);
                    }
                    Err((_, packet)) => {
                        stats.dropped += 1;
                        self.net.drop_packet(packet, DropReason::PassNoFrameRoom);
                    }
                },
                Some(action @ (XdpAction::Tx | XdpAction::Redirect)) => {
                    self.live_redirect(run, buff, action, stats);
                }
                action => {
                    stats.dropped += 1;
                    let reason = match action {
                        Some(XdpAction::Drop) => DropReason::ProgramDrop,
                        Some(_) => DropReason::ProgramAborted,
                        None => DropReason::InvalidAction,
                    };
                    self.net.drop_packet(buff.into_packet(), reason);
                }
            }
        }
        self.xdp_do_flush();
        for frame in passed.drain(..) {
            self.receive_frame(frame, rxq.ifindex);
        }
        self.net.give_spare(passed);
        result
    }

    /// `XDP_TX` is a redirect to the device that the packet came in on.
    #[inline]
    fn live_redirect(
        &mut self,
        run: &LiveRun<'_>,
        buff: Box<XdpBuff<'_>>,
        action: XdpAction,
        stats: &mut LiveStats,
    ) {
        let (ifindex, _) = run.ingress;
        if action == XdpAction::Tx {
            let redirect = &mut self.net.redirect;
            redirect.tgt_index = ifindex.into();
            redirect.map = None;
            redirect.map_id = RedirectInfo::MAP_ID_IFINDEX;
        }
        let (guard, devices) = (self.guard, self.devices);
        let Some(device) = devices.get(guard, ifindex) else {
            stats.dropped += 1;
            return self.net.drop_packet(buff.into_packet(), DropReason::RedirectNoDevice);
        };
        match self.xdp_do_redirect(device.core(), buff, run.program.id()) {
            Ok(()) => stats.redirected += 1,
            Err(_) => stats.dropped += 1,
        }
    }

    #[inline]
    fn live_packet(&mut self, data: &[u8]) -> Option<Packet> {
        let (headroom, len) = (XDP_PACKET_HEADROOM as u32, data.len() as u32);
        let mut packet = self.net.pool.take_packet(FRAME_SZ, headroom, len)?;
        packet.set_mem_type(MemType::PagePool);
        packet.linear().copy_from(0, data);
        Some(packet)
    }
}
