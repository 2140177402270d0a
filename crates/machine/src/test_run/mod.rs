//! `BPF_PROG_TEST_RUN` of the engine: one packet through one program, with the kernel's checks.

mod batch;
mod timers;

use std::sync::Arc;
use std::time::Instant;

use bpf::host::Host;
use bpf::maps::Guard;
use bpf::object::AttachType;
use bpf::redirect::RedirectInfo;
use bpf::vm::{Fault, Program, Run, Scratch};
use control::{RedirectTarget, TestRun, TestRunError, TestRunOutput};
use mem::{Frag, Frame, RxqInfo, XdpBuff, epoch};
use uapi::Errno;
use uapi::xdp::*;

use crate::{NetTables, SeededHost};

/// Size of the page that the linear part lives in, and of each fragment's, bytes.
const PAGE_SIZE: usize = Frame::PAGE_SIZE;
/// Runs of one read-side section, as many as a NAPI poll has packets.
const POLL_BUDGET: u32 = 64;
/// Largest metadata that a request may bring: the headroom less the room of an `xdp_frame`, bytes.
const META_MAX: usize = XDP_PACKET_HEADROOM - XDP_FRAME_SIZE;

/// Runs packets, one after the other. It keeps memory between runs, and nothing else.
#[derive(Default)]
pub struct Runner {
    scratch: Scratch,
    frame: Option<Frame>,
    fuel: Option<u64>,
}

impl Runner {
    /// A runner without a bound on the instructions of a run.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A runner that stops each run after about so many instructions; for programs that were not verified.
    #[must_use]
    pub fn with_fuel(instructions: u64) -> Self {
        Self { fuel: Some(instructions), ..Self::default() }
    }

    /// Runs a program over a packet, `repeat` times over the same, changing buffer.
    ///
    /// # Errors
    ///
    /// The kernel's errno for a packet or context that cannot be run; `EFAULT` with the violation for a
    /// program that does what it may not do, which a verified one never does.
    ///
    /// Kernel: `net/bpf/test_run.c bpf_prog_test_run_xdp, v6.18`
    #[doc(alias = "bpf_prog_test_run_xdp")]
    pub fn test_run(
        &mut self,
        program: &Arc<Program>,
        host: &mut SeededHost,
        request: &TestRun,
    ) -> Result<TestRunOutput, TestRunError> {
        if program.attach_type() != AttachType::Xdp {
            return Err(refused(Errno::EINVAL, "a devmap or cpumap program cannot be run by itself"));
        }
        let layout = Layout::new(request)?;
        let rxq = receive_queue(request.ctx, host.net())?;
        let mut buff = self.buff(&layout, &request.data, &rxq)?;
        host.set_time_ns(request.time_ns);
        host.set_cpu(request.cpu);
        host.begin(Some(request.script.clone()).filter(|script| !script.is_empty()));
        let mut redirect = RedirectInfo::default();
        let repeat = request.repeat.max(1);
        let mut guard = epoch::pin();
        let started = Instant::now();
        let retval = self.run_repeatedly(repeat, program, &mut guard, &mut buff, &mut redirect, host);
        let duration_ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX) / u64::from(repeat);
        let (scripted, off_script) = host.end();
        let retval = retval.map_err(|fault| refused(Errno::EFAULT, fault.to_string()))? as u32;
        let output = TestRunOutput {
            retval,
            data: buff.to_vec(),
            ctx: context(&buff, request.ctx),
            duration_ns,
            redirect: redirect_target(retval, &redirect),
            scripted,
            off_script,
        };
        self.frame = Some(buff.into_frame());
        Ok(output)
    }

    /// Answers the last result. A read-side section lasts as long as in a poll, so that what programs delete
    /// does not pile up.
    fn run_repeatedly(
        &mut self,
        repeat: u32,
        program: &Arc<Program>,
        guard: &mut Guard,
        buff: &mut XdpBuff<'_>,
        redirect: &mut RedirectInfo,
        host: &mut dyn Host,
    ) -> Result<u64, Fault> {
        let mut retval = Ok(0);
        let mut left = repeat;
        while left > 0 && retval.is_ok() {
            let now = left.min(POLL_BUDGET);
            left -= now;
            retval = self.run_some(now, program, guard, buff, redirect, host);
            guard.repin();
        }
        retval
    }

    fn run_some(
        &mut self,
        repeat: u32,
        program: &Arc<Program>,
        guard: &Guard,
        buff: &mut XdpBuff<'_>,
        redirect: &mut RedirectInfo,
        host: &mut dyn Host,
    ) -> Result<u64, Fault> {
        let mut retval = Ok(0);
        if program.compiled().is_some() {
            let run = Run::compiled(program, guard, buff, redirect, host);
            let mut run = run.expect("it is compiled");
            for _ in 0..repeat {
                retval = run.execute();
                if retval.is_err() {
                    break;
                }
            }
            return retval;
        }
        for _ in 0..repeat {
            let run = Run::checked(program, guard, &mut self.scratch, buff, redirect, host);
            retval = match self.fuel {
                Some(fuel) => run.with_fuel(fuel).execute(),
                None => { run }.execute(),
            };
            if retval.is_err() {
                break;
            }
        }
        retval
    }

    /// The packet in a page of its own, and what does not fit in fragments.
    fn buff<'q>(
        &mut self,
        layout: &Layout,
        data: &[u8],
        rxq: &'q RxqInfo,
    ) -> Result<XdpBuff<'q>, TestRunError> {
        let frame = match self.frame.take() {
            Some(frame) => {
                frame.bytes().fill(0, frame.len(), 0);
                frame
            }
            None => Frame::new(PAGE_SIZE),
        };
        let (linear, rest) = data.split_at(layout.linear);
        let start = XDP_PACKET_HEADROOM - layout.meta;
        let internal = |errno| refused(errno, "the packet does not fit its page");
        let mut buff = XdpBuff::new(frame, start, layout.linear, rxq).map_err(internal)?;
        buff.linear().copy_from(0, linear);
        buff.split_metadata(layout.meta).map_err(internal)?;
        for chunk in rest.chunks(PAGE_SIZE) {
            let page = Frame::new(PAGE_SIZE);
            page.bytes().copy_from(0, chunk);
            let frag = Frag::new(page, 0, chunk.len() as u32).map_err(internal)?;
            let too_long = "a packet has at most 3520 bytes in its first page and 17 pages more";
            buff.push_frag(frag).map_err(|errno| refused(errno, too_long))?;
        }
        Ok(buff)
    }
}

/// How the bytes of a request are laid out.
struct Layout {
    /// Bytes of metadata.
    meta: usize,
    /// Bytes of metadata and linear part.
    linear: usize,
}

impl Layout {
    fn new(request: &TestRun) -> Result<Self, TestRunError> {
        let size = request.data.len();
        let (mut meta, mut linear) = (0, size);
        if let Some(ctx) = &request.ctx {
            let (data, data_end) = (ctx.data as usize, ctx.data_end as usize);
            if ctx.data_meta != 0 {
                return Err(refused(Errno::EINVAL, "context: data_meta must be 0"));
            }
            if data_end > size || data > data_end {
                let what = format!("context: data {data} <= data_end {data_end} <= size {size} must hold");
                return Err(refused(Errno::EINVAL, what));
            }
            if !data.is_multiple_of(4) || data > META_MAX {
                let what = format!("context: {data} bytes of metadata, not a multiple of 4 up to {META_MAX}");
                return Err(refused(Errno::EINVAL, what));
            }
            (meta, linear) = (data, data_end);
        }
        if size - meta < ETH_HLEN {
            let what = format!("a packet of {} bytes is shorter than an Ethernet header", size - meta);
            return Err(refused(Errno::EINVAL, what));
        }
        let room = PAGE_SIZE - (XDP_PACKET_HEADROOM - meta) - XDP_TAILROOM;
        Ok(Self { meta, linear: linear.min(room) })
    }
}

/// The queue that the packet pretends to have come in on: the loopback device's, or the context's.
fn receive_queue(ctx: Option<XdpMd>, net: &NetTables) -> Result<RxqInfo, TestRunError> {
    let XdpMd { ingress_ifindex, rx_queue_index, egress_ifindex, .. } = ctx.unwrap_or_default();
    if egress_ifindex != 0 {
        return Err(refused(Errno::EINVAL, "context: egress_ifindex must be 0"));
    }
    // Only the loopback device's queue is told how large the fragments are.
    let default = NetTables::LOOPBACK;
    let frag_size = if matches!(ingress_ifindex, 0 | NetTables::LOOPBACK) { PAGE_SIZE as u32 } else { 0 };
    if ingress_ifindex == 0 {
        if rx_queue_index != 0 {
            return Err(refused(Errno::EINVAL, "context: rx_queue_index without ingress_ifindex"));
        }
        return Ok(RxqInfo { ifindex: default, queue_index: 0, mem_type: 0, frag_size });
    }
    let Some(device) = net.device(ingress_ifindex) else {
        return Err(refused(Errno::ENODEV, format!("context: no device {ingress_ifindex}")));
    };
    if rx_queue_index >= device.rx_queues {
        let what = format!("context: device {ingress_ifindex} has {} receive queues", device.rx_queues);
        return Err(refused(Errno::EINVAL, what));
    }
    Ok(RxqInfo { ifindex: ingress_ifindex, queue_index: rx_queue_index, mem_type: 0, frag_size })
}

/// `ctx_out`: the lengths, and the rest as it came in.
fn context(buff: &XdpBuff<'_>, ctx: Option<XdpMd>) -> XdpMd {
    let meta = buff.meta_len();
    XdpMd { data: meta as u32, data_end: (meta + buff.linear_len()) as u32, ..ctx.unwrap_or_default() }
}

/// Where the packet would go now.
fn redirect_target(retval: u32, redirect: &RedirectInfo) -> Option<RedirectTarget> {
    if XdpAction::from_raw(retval) != Some(XdpAction::Redirect) {
        return None;
    }
    if let Some(map) = &redirect.map {
        let broadcast = redirect.flags & BPF_F_BROADCAST != 0;
        let key = (!broadcast).then_some(redirect.tgt_index as u32);
        return Some(RedirectTarget::Map { map: map.def().name.clone(), key });
    }
    (redirect.map_id == RedirectInfo::MAP_ID_IFINDEX)
        .then_some(RedirectTarget::Ifindex(redirect.tgt_index as u32))
}

fn refused(errno: Errno, reason: impl Into<String>) -> TestRunError {
    TestRunError { errno, reason: reason.into() }
}

#[cfg(test)]
mod tests;
