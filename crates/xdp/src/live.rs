//! Live frames: a program over packets that then really go where it says, as `BPF_PROG_TEST_RUN` with
//! `BPF_F_TEST_XDP_LIVE_FRAMES` does. The fastest generator there is, in the kernel as here.

use std::sync::Arc;

use arrayvec::ArrayVec;
use bpf::vm::Program;
use mem::{MemType, RxqInfo, Template, XdpBuff};
use uapi::Errno;
use uapi::xdp::{ETH_HLEN, XDP_PACKET_HEADROOM, XDP_TAILROOM, XdpAction};

use crate::redirect::Target;
use crate::verdicts::{Alike, BATCH_MAX, Redirects};
use crate::{DropReason, Softirq, Verdicts, XdpFrame};

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

/// Packets that the program was not run over yet.
type Waiting<'q> = ArrayVec<Box<XdpBuff<'q>>, BATCH_MAX>;

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
        let mut words = std::mem::take(&mut self.net.words);
        let template =
            Template::new(FRAME_SZ, XDP_PACKET_HEADROOM as u32, MemType::PagePool, run.data, &mut words)?;
        let mut result = Ok(());
        while left > 0 && result.is_ok() {
            let n = left.min(batch);
            self.net.begin();
            result = self.live_batch(run, &rxq, n, &template, &mut stats);
            left -= n;
        }
        self.net.words = words;
        result.map(|()| stats)
    }

    /// Kernel: `net/bpf/test_run.c xdp_test_run_batch, v6.18`
    #[doc(alias = "xdp_test_run_batch")]
    fn live_batch(
        &mut self,
        run: &LiveRun<'_>,
        rxq: &RxqInfo,
        n: u32,
        template: &Template<'_>,
        stats: &mut LiveStats,
    ) -> Result<(), Errno> {
        let mut passed = self.net.take_spare();
        let mut verdicts = self.net.take_verdicts();
        let mut waiting = Waiting::new();
        let (mut left, mut result) = (n, Ok(()));
        while left > 0 {
            let most = (left as usize).min(BATCH_MAX);
            self.net.pool.take_filled(most, template, |packet| waiting.push(packet.into_buff(rxq)));
            if waiting.is_empty() {
                result = Err(Errno::ENOMEM);
                break;
            }
            left -= waiting.len() as u32;
            while !waiting.is_empty() {
                let redirects = Redirects::WithTx { most: self.redirects_most(), ifindex: run.ingress.0 };
                let done = self.run_xdp_batch(run.program, &mut waiting, redirects, &mut verdicts);
                self.live_finish(run, waiting.drain(..done), &verdicts, &mut passed, stats);
            }
        }
        self.net.give_verdicts(verdicts);
        self.xdp_do_flush();
        for frame in passed.drain(..) {
            self.receive_frame(frame, rxq.ifindex);
        }
        self.net.give_spare(passed);
        result
    }

    /// Does with packets what was decided.
    #[inline]
    fn live_finish(
        &mut self,
        run: &LiveRun<'_>,
        mut buffs: arrayvec::Drain<'_, Box<XdpBuff<'_>>, BATCH_MAX>,
        verdicts: &Verdicts,
        passed: &mut Vec<XdpFrame>,
        stats: &mut LiveStats,
    ) {
        for Alike { count, act, target } in verdicts.alike() {
            let alike = buffs.by_ref().take(count);
            let reason = match XdpAction::from_raw(act) {
                Some(XdpAction::Pass) => {
                    for buff in alike {
                        match XdpFrame::from_buff(buff) {
                            Ok(frame) => {
                                stats.passed += 1;
                                passed.push(frame);
                            }
                            Err((_, packet)) => {
                                stats.dropped += 1;
                                self.net.drop_packet(packet, DropReason::PassNoFrameRoom);
                            }
                        }
                    }
                    continue;
                }
                Some(XdpAction::Tx | XdpAction::Redirect) => {
                    let sent = self.live_redirect(run, &target, alike);
                    stats.redirected += u64::from(sent);
                    stats.dropped += count as u64 - u64::from(sent);
                    continue;
                }
                Some(XdpAction::Drop) => DropReason::ProgramDrop,
                Some(_) => DropReason::ProgramAborted,
                None => DropReason::InvalidAction,
            };
            stats.dropped += count as u64;
            self.net.drop_buffs(alike, reason);
        }
    }

    /// `XDP_TX` is a redirect to the device that the packet came in on. Answers how many could be sent.
    #[inline]
    fn live_redirect<'q>(
        &mut self,
        run: &LiveRun<'_>,
        target: &Target<'_>,
        buffs: impl ExactSizeIterator<Item = Box<XdpBuff<'q>>>,
    ) -> u32 {
        let (guard, devices) = (self.guard, self.devices);
        let Some(device) = devices.get(guard, run.ingress.0) else {
            self.net.drop_buffs(buffs, DropReason::RedirectNoDevice);
            return 0;
        };
        self.redirect_all(device.core(), run.program.id(), target, buffs)
    }
}
