mod virtio;

use std::sync::Arc;

use bpf::Insn;
use bpf::maps::{Map, MapContext, MapDef, Refs};
use bpf::object::{AttachType, ProgramSpec};
use bpf::vm::{Program, Symbols};
use uapi::bpf::MapType;
use xdp::drivers::veth::Veth;
use xdp::{AttachFlags, DeviceConfig, LiveRun, NetDevice, ProgramHandle, Tracepoint, XdpRequest};

use super::*;

fn mov(dst: u8, imm: i32) -> Insn {
    Insn::new(0xb7, dst, 0, 0, imm)
}

fn exit() -> Insn {
    Insn::new(0x95, 0, 0, 0, 0)
}

fn program(insns: &[Insn], maps: &[Arc<Map>]) -> Arc<Program> {
    let spec = ProgramSpec { attach_type: AttachType::Xdp, ..ProgramSpec::bare("p", insns.to_vec()) };
    let symbols = Symbols { helper: bpf::helpers::helper, kfunc: bpf::kfuncs::kfunc };
    Arc::new(Program::link(&spec, 1, maps, symbols).unwrap())
}

struct Host;

impl Refs for Host {}

/// Four CPUs; frames for CPUs 1 to 3 by a cpumap, drawn from the random numbers of the host.
/// Answers how many packets each CPU's stack had after each turn.
fn spread(seed: u64) -> (SoftirqLoop, Vec<[usize; 4]>) {
    let host = SeededHost::new(7, Arc::default());
    let mut m = SoftirqLoop::new(LoopConfig { cpus: 4, seed, turn_ns: 500 }, host);
    let (a, b) = Veth::pair((1, DeviceConfig::new("a")), (2, DeviceConfig::new("b")));
    for device in [&a, &b] {
        m.devices.register(device.clone()).unwrap();
        assert!(device.set_up(true).unwrap().is_empty());
    }
    let cx = MapContext { id: 5, cpus: 4, ..MapContext::default() };
    let cpus = Map::create(MapDef::new(MapType::Cpumap, 4, 4, 4), &cx).unwrap();
    (1_u32..4)
        .for_each(|i| cpus.open().update_with(&Host, &i.to_le_bytes(), &64_u32.to_le_bytes(), 0).unwrap());
    // return bpf_redirect_map(&cpus, 1 + prandom % 3, 0)
    let insns = [
        Insn::new(0x85, 0, 0, 0, 7),
        Insn::new(0x97, 0, 0, 0, 3),
        Insn::new(0x07, 0, 0, 0, 1),
        Insn::new(0xbf, 2, 0, 0, 0),
        Insn::new(0x18, 1, 5, 0, 0),
        Insn::default(),
        mov(3, 0),
        Insn::new(0x85, 0, 0, 0, 51),
        exit(),
    ];
    let program = program(&insns, &[cpus]);
    let attach = XdpRequest::new(Some(ProgramHandle::new(program)), AttachFlags::DRV_MODE);
    m.devices.set_xdp(2, &attach).unwrap();
    (0..4).for_each(|cpu| m.net(cpu).trace.enable(&Tracepoint::ALL, 1 << 12));
    let before = m.counters();
    for i in 0..40_u32 {
        m.on_cpu(i % 4, |cx| cx.packet_send(1, &[i as u8; 60])).unwrap();
    }
    let mut order = Vec::new();
    while m.turn() {
        order.push([0, 1, 2, 3].map(|cpu| m.net(cpu).received.len()));
    }
    assert_eq!(m.host.time_ns(), order.len() as u64 * 500);
    let claims = [
        ("a.link.tx_bytes", 40 * 46),
        ("a.link.tx_packets", 40),
        ("b.link.rx_bytes", 40 * 46),
        ("b.link.rx_packets", 40),
        ("b.rx_queue_0_xdp_bytes", 40 * 46),
        ("b.rx_queue_0_xdp_packets", 40),
        ("b.rx_queue_0_xdp_redirect", 40),
    ];
    m.check(&before, &claims).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    let threads = m.take_events().into_iter().filter(|(_, e)| e.tracepoint() == Tracepoint::XdpCpumapKthread);
    assert!(threads.count() >= 3);
    (m, order)
}

#[test]
fn the_same_seed_gives_the_same_run_and_others_lose_nothing() {
    let (mut m, order) = spread(1);
    assert_eq!(order, spread(1).1);
    assert!((2..20).any(|seed| spread(seed).1 != order), "turns follow the seed");
    let mut cpus = [0; 4];
    m.take_received(|cpu, _| cpus[cpu as usize] += 1);
    assert_eq!((cpus[0], cpus.iter().sum::<i32>()), (0, 40));
    m.check_frames().unwrap();
}

#[test]
fn a_lost_frame_and_an_unclaimed_counter_are_found() {
    let (mut m, _) = spread(3);
    let before = m.counters();
    m.on_cpu(0, |cx| cx.packet_send(1, &[0; 60])).unwrap();
    m.settle(100).unwrap();
    let error = m.check(&before, &[]).unwrap_err();
    assert!(error.to_string().contains("b.rx_queue_0_xdp_redirect"), "{error}");
    drop(m.net(0).pool.take());
    assert!(matches!(m.check_frames(), Err(LedgerError::Frames { .. })));
}

#[test]
fn packets_that_run_in_circles_are_noticed() {
    let host = SeededHost::new(7, Arc::default());
    let mut m = SoftirqLoop::new(LoopConfig::default(), host);
    let (a, b) = Veth::pair((1, DeviceConfig::new("a")), (2, DeviceConfig::new("b")));
    let tx = program(&[mov(0, 3), exit()], &[]);
    for device in [a, b] {
        let ifindex = device.core().ifindex;
        m.devices.register(device.clone()).unwrap();
        device.set_up(true).unwrap();
        let attach = XdpRequest::new(Some(ProgramHandle::new(tx.clone())), AttachFlags::DRV_MODE);
        m.devices.set_xdp(ifindex, &attach).unwrap();
    }
    let run = LiveRun { program: &tx, data: &[0; 60], ingress: (1, 0), repeat: 1, batch: 0 };
    m.on_cpu(0, |cx| cx.test_run_live(&run)).unwrap();
    assert_eq!(m.settle(50), Err(NotIdle { turns: 50 }));
    m.check_frames().unwrap();
}
