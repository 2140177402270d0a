//! `XDP_DROP` and `XDP_TX` on virtio_net through real virtqueues, one CPU: what the driver costs.
//!
//! `cargo run --release -p earlybird-xdp --example virtio_drop [SECONDS]`
//!
//! The answers come from a stand-in, which is no engine: what is measured are the driver, its rings, and the
//! copies out of the shared memory and, for `XDP_TX`, into it. The other end works outside of the time taken.
//! The rate is that of the median poll of 64 packets, so that it means something on a busy machine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bpf::Insn;
use bpf::host::{Clock, Host};
use bpf::maps::Guard;
use bpf::object::ProgramSpec;
use bpf::redirect::RedirectInfo;
use bpf::vm::{Fault, Program, Symbols};
use mem::virtq::{Chain, DeviceQueue};
use mem::{SpinLock, XdpBuff};
use uapi::virtio_net::{VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_VQ};
use xdp::drivers::virtio_net::{Backend, DeviceSide, VirtioConfig, VirtioNet};
use xdp::{AttachFlags, Devices, Engine, NetContext, NetDevice, ProgramHandle, Softirq, XdpRequest};

const BATCH: usize = 64;
const LEN: usize = 60;

struct NoHost;

impl Host for NoHost {
    fn ktime_ns(&mut self, _: Clock) -> u64 {
        0
    }

    fn prandom_u32(&mut self) -> u32 {
        0
    }
}

/// Answers the same for every packet, after a look at it.
struct StandIn(u64);

impl Engine for StandIn {
    fn run(
        &mut self,
        _program: &Arc<Program>,
        _guard: &Guard,
        buff: &mut XdpBuff<'_>,
        _redirect: &mut RedirectInfo,
        _host: &mut dyn Host,
    ) -> Result<u64, Fault> {
        Ok(if buff.linear().read_u8(12) == 0x88 { self.0 } else { 0 })
    }
}

/// The other end: fills receive buffers, and takes what was sent without looking at it.
struct Wire {
    queues: SpinLock<Vec<DeviceQueue>>,
}

impl Backend for Wire {
    fn notify(&self, _queue: u16) -> bool {
        false
    }
}

impl Wire {
    fn new(side: &DeviceSide) -> Self {
        let queue = |l| DeviceQueue::new(side.memory.clone(), l, side.ring_features()).expect("it fits");
        Self { queues: SpinLock::new(side.queues.iter().map(|l| queue(*l)).collect()) }
    }

    fn receive(&self, bytes: &[u8]) {
        let mut chain = Chain::default();
        self.queues.with(|queues| {
            for _ in 0..BATCH {
                assert_eq!(queues[0].pop(&mut chain), Ok(true), "the driver fills its ring");
                let n = queues[0].write(&chain, bytes);
                queues[0].push_used(&chain, n as u32);
            }
            queues[0].publish();
        });
    }

    /// How many packets were sent.
    fn drain(&self) -> u64 {
        let (mut chain, mut sent) = (Chain::default(), 0);
        self.queues.with(|queues| {
            while queues[1].pop(&mut chain) == Ok(true) {
                assert_eq!(chain.readable(), 12 + LEN);
                queues[1].push_used(&chain, 0);
                sent += 1;
            }
            queues[1].publish();
        });
        sent
    }
}

fn main() {
    let seconds = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(1.0);
    for round in 0..3 {
        let [drop, tx] = [1, 3].map(|act| rate(act, seconds));
        println!("round {round}: XDP_DROP {drop:.2} Mpps, XDP_TX {tx:.2} Mpps");
    }
}

/// Millions of packets a second that the driver receives, all of which get this answer.
fn rate(act: u64, seconds: f64) -> f64 {
    let devices = Arc::new(Devices::default());
    let mut config = VirtioConfig::new("v");
    // Nobody answers commands.
    config.features &= !(1 << VIRTIO_NET_F_CTRL_VQ | 1 << VIRTIO_NET_F_CTRL_GUEST_OFFLOADS);
    let (device, side) = VirtioNet::new(1, config).expect("there is memory");
    let wire = Arc::new(Wire::new(&side));
    assert!(device.connect(wire.clone()));
    devices.register(device.clone()).expect("the number is free");
    let symbols = Symbols { helper: bpf::helpers::helper, kfunc: bpf::kfuncs::kfunc };
    let insns = [Insn::new(0xb7, 0, 0, 0, 2), Insn::new(0x95, 0, 0, 0, 0)];
    let program = Program::link(&ProgramSpec::bare("p", insns.to_vec()), 1, &[], symbols).expect("links");
    let attach = XdpRequest::new(Some(ProgramHandle::new(Arc::new(program))), AttachFlags::DRV_MODE);
    devices.set_xdp(1, &attach).expect("attaches");
    device.set_up(true).expect("comes up");
    let mut net = NetContext::new(0, Arc::default());
    let mut bytes = [0; 12 + LEN];
    bytes[10] = 1;
    bytes[24..26].copy_from_slice(&[0x88, 0xb5]);
    let (mut polls, mut sent) = (Vec::new(), 0);
    let mut engine = StandIn(act);
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    while Instant::now() < end {
        wire.receive(&bytes);
        let guard = mem::epoch::pin();
        let engine: &mut dyn Engine = &mut engine;
        let mut cx = Softirq { net: &mut net, engine, host: &mut NoHost, guard: &guard, devices: &devices };
        let start = Instant::now();
        device.interrupt(&mut cx, 0);
        cx.net_rx_action();
        polls.push(start.elapsed());
        sent += wire.drain();
    }
    let packets = (polls.len() * BATCH) as u64;
    let expected = if act == 3 { packets } else { 0 };
    assert_eq!(sent, expected, "every packet went where it should");
    assert_eq!(net.drops.total(), packets - sent);
    polls.sort_unstable();
    BATCH as f64 / polls[polls.len() / 2].as_secs_f64() / 1e6
}
