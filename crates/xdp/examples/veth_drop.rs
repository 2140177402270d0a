//! Drop after counting on veth, fed by the live-frame generator, one CPU: what the data path costs.
//!
//! `cargo run --release -p earlybird-xdp --example veth_drop [SECONDS]`
//!
//! The programs are run twice: by the checked interpreter, and by a stand-in that does in Rust what the two
//! programs do. The stand-in shows what everything but the program costs; it is no engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bpf::Insn;
use bpf::host::{Clock, Host};
use bpf::maps::Guard;
use bpf::object::ProgramSpec;
use bpf::redirect::RedirectInfo;
use bpf::vm::{Fault, Program, Symbols};
use mem::XdpBuff;
use xdp::drivers::veth::Veth;
use xdp::{
    AttachFlags, DeviceConfig, Devices, DropReason, Engine, Interp, LiveRun, NetContext, NetDevice,
    ProgramHandle, Softirq, XdpRequest,
};

struct NoHost;

impl Host for NoHost {
    fn ktime_ns(&mut self, _: Clock) -> u64 {
        0
    }

    fn prandom_u32(&mut self) -> u32 {
        0
    }
}

/// Program 1 redirects to device 1, program 2 counts and drops.
struct StandIn {
    dropped: u64,
}

impl Engine for StandIn {
    fn run(
        &mut self,
        program: &Arc<Program>,
        _guard: &Guard,
        buff: &mut XdpBuff<'_>,
        redirect: &mut RedirectInfo,
        _host: &mut dyn Host,
    ) -> Result<u64, Fault> {
        if program.id() == 1 {
            redirect.tgt_index = 1;
            redirect.map = None;
            redirect.map_id = RedirectInfo::MAP_ID_IFINDEX;
            return Ok(4);
        }
        self.dropped += u64::from(buff.linear().read_u8(12) == 0x88);
        Ok(1)
    }
}

fn program(id: u32, insns: &[Insn]) -> Arc<Program> {
    let symbols = Symbols { helper: bpf::helpers::helper, kfunc: bpf::kfuncs::kfunc };
    let spec = ProgramSpec::bare("p", insns.to_vec());
    Arc::new(Program::link(&spec, id, &[], symbols).expect("links"))
}

fn main() {
    let seconds = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(1.0);
    let mov = |dst, imm| Insn::new(0xb7, dst, 0, 0, imm);
    let (call, exit) = (|n| Insn::new(0x85, 0, 0, 0, n), Insn::new(0x95, 0, 0, 0, 0));
    let generator = program(1, &[mov(1, 1), mov(2, 0), call(23), exit]);
    let drop = program(2, &[mov(0, 1), exit]);
    for round in 0..3 {
        let interp = rate(&mut Interp::default(), &generator, &drop, seconds);
        let path = rate(&mut StandIn { dropped: 0 }, &generator, &drop, seconds);
        println!("round {round}: interpreter {interp:.2} Mpps, data path with stand-in {path:.2} Mpps");
    }
}

/// Nanoseconds that this thread has had a CPU: others may be at work on this machine.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel counts them");
    text.split(' ').next().and_then(|n| n.parse().ok()).expect("the first number")
}

/// Millions of packets a second from the generator into the drop.
fn rate(engine: &mut dyn Engine, generator: &Arc<Program>, drop: &Arc<Program>, seconds: f64) -> f64 {
    let devices = Arc::new(Devices::default());
    let (a, b) = Veth::pair((1, DeviceConfig::new("a")), (2, DeviceConfig::new("b")));
    for device in [&a, &b] {
        devices.register(device.clone()).expect("the numbers are free");
        device.set_up(true).expect("comes up");
    }
    let attach = XdpRequest::new(Some(ProgramHandle::new(drop.clone())), AttachFlags::DRV_MODE);
    devices.set_xdp(2, &attach).expect("attaches");
    let mut net = NetContext::new(0, Arc::default());
    let mut data = [0; 60];
    data[12..14].copy_from_slice(&[0x88, 0xb5]);
    let run = LiveRun { program: generator, data: &data, ingress: (1, 0), repeat: 64, batch: 64 };
    let (start, mut sent) = (Instant::now(), 0_u64);
    let on_cpu = cpu_ns();
    while start.elapsed() < Duration::from_secs_f64(seconds) {
        for _ in 0..64 {
            let guard = mem::epoch::pin();
            let mut cx = Softirq {
                net: &mut net,
                engine: &mut *engine,
                host: &mut NoHost,
                guard: &guard,
                devices: &devices,
            };
            cx.test_run_live(&run).expect("runs");
            cx.net_rx_action();
            sent += 64;
        }
    }
    let elapsed = (cpu_ns() - on_cpu) as f64 / 1e9;
    assert_eq!(net.drops.get(DropReason::ProgramDrop), sent, "every packet arrived and was dropped");
    sent as f64 / elapsed / 1e6
}
