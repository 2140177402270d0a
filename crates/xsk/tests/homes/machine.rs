//! [`MachineLab`]: the engine's sockets on veth devices of the engine's own machine, behind a redirect program.

use std::sync::{Arc, Mutex};

use bpf::Insn;
use bpf::maps::{Map, MapContext, MapDef, Object, Refs};
use bpf::object::{AttachType, ProgramSpec};
use bpf::vm::{Program, Symbols};
use machine::softirq::{LoopConfig, SoftirqLoop};
use machine::{NetConfig, NetTables, SeededHost};
use uapi::Errno;
use uapi::bpf::MapType;
use xdp::drivers::veth::Veth;
use xdp::{AttachFlags, DeviceConfig, NetDevice, ProgramHandle, XdpRequest};
use xsk::Home;
use xsk::engine::XskHost;

use crate::lab::{Lab, METADATA, redirect_program};

const HERE: u32 = 1;
const THERE: u32 = 2;

pub(crate) struct MachineLab {
    host: XskHost,
    machine: Arc<Mutex<SoftirqLoop>>,
    devices: [Arc<Veth>; 2],
    xsks_map: Arc<Map>,
}

struct Sockets<'a>(&'a XskHost);

impl Refs for Sockets<'_> {
    fn socket(&self, fd: i32) -> Result<Object, Errno> {
        self.0.by_number(fd).map(|socket| machine::xsk::map_object(&socket))
    }
}

impl MachineLab {
    pub(crate) fn new() -> Self {
        let net = Arc::new(NetTables::new(&NetConfig::default()).unwrap());
        let machine = SoftirqLoop::new(LoopConfig::default(), SeededHost::new(0, net));
        let end =
            |ifindex, name| (ifindex, DeviceConfig { rx_queues: 2, tx_queues: 2, ..DeviceConfig::new(name) });
        let (a, b) = Veth::pair(end(HERE, "here"), end(THERE, "there"));
        let devices = [a, b];
        let host = XskHost::new(|| 1_795_344_080_578_294_572);
        let inside = machine.devices.clone();
        let machine = Arc::new(Mutex::new(machine));
        for device in &devices {
            inside.register(device.clone()).unwrap();
            device.set_up(true).unwrap();
            machine::xsk::register(&host, device.clone(), machine.clone());
        }
        let cx = MapContext { id: 1, ..MapContext::default() };
        let xsks_map = Map::create(MapDef::new(MapType::Xskmap, 4, 4, 4), &cx).unwrap();
        let lab = Self { host, machine, devices, xsks_map };
        lab.attach(&[]);
        lab
    }

    fn attach(&self, first: &[Insn]) {
        let insns = redirect_program((5, 0), first);
        let spec =
            ProgramSpec { attach_type: AttachType::Xdp, frags: true, ..ProgramSpec::bare("redirect", insns) };
        let symbols = Symbols { helper: bpf::helpers::helper, kfunc: bpf::kfuncs::kfunc };
        let program = Program::link(&spec, 7, std::slice::from_ref(&self.xsks_map), symbols).unwrap();
        let request = XdpRequest {
            fd: Some(Some(ProgramHandle::new(Arc::new(program)))),
            flags: Some(AttachFlags::DRV_MODE),
            expected: None,
        };
        self.machine.lock().unwrap().devices.set_xdp(HERE, &request).unwrap();
    }
}

impl Lab for MachineLab {
    fn home(&self) -> &dyn Home {
        &self.host
    }

    fn here(&self) -> u32 {
        HERE
    }

    fn there(&self) -> u32 {
        THERE
    }

    fn redirect(&self, slot: u32, socket: i32) -> Result<(), Errno> {
        self.xsks_map.open().update_with(&Sockets(&self.host), &slot.to_ne_bytes(), &socket.to_ne_bytes(), 0)
    }

    fn unredirect(&self, slot: u32) {
        self.xsks_map.open().delete_elem(&slot.to_ne_bytes()).unwrap();
    }

    fn inject(&self, packet: &[u8]) {
        let mut machine = self.machine.lock().unwrap();
        machine.on_cpu(0, |cx| cx.packet_send(THERE, packet)).unwrap();
        machine.settle(1000).unwrap();
    }

    fn arrived(&self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut machine = self.machine.lock().unwrap();
        machine.settle(1000).unwrap();
        machine.take_received(|_, skb| {
            if skb.dev == THERE {
                packets.push(skb.frame_bytes());
            }
        });
        packets
    }

    fn set_up(&self, here: bool, up: bool) {
        let lost = self.devices[usize::from(!here)].set_up(up).unwrap();
        let mut machine = self.machine.lock().unwrap();
        machine.on_cpu(0, |cx| lost.into_iter().for_each(|item| cx.net.drop_waiting(item)));
    }

    fn set_mtu(&self, mtu: u32) {
        self.devices.iter().for_each(|d| d.core().set_mtu(mtu).unwrap());
    }

    fn remove_here(&self) {
        let removed = self.machine.lock().unwrap().devices.unregister(HERE);
        assert!(removed.is_some());
        self.host.unregister_device(HERE);
    }

    fn with_metadata(&self) {
        self.attach(&METADATA);
    }
}
