use std::collections::BTreeMap;

use ::xsk::engine::XskHost;
use ::xsk::remote::Rules;
use ::xsk::{Socket, SocketConfig, Umem, UmemConfig};
use bpf::object::{ObjectSpec, Target};
use control::{LoadOptions, Loaded};
use uapi::Errno;
use xdp::drivers::veth::Veth;
use xdp::{AttachFlags, DeviceConfig, ProgramHandle, XdpRequest};

use super::*;
use crate::softirq::LoopConfig;
use crate::{EngineBackend, NetConfig, NetTables, SeededHost};

/// The program of the AF_XDP tutorials: looks its queue up, and redirects if there is a socket.
const OBJECT: &[u8] = include_bytes!("../../../../programs/legacy_xsk.bpf.o");
const A: u32 = 1;
const B: u32 = 2;

struct World {
    machine: Arc<Mutex<SoftirqLoop>>,
    host: XskHost,
    backend: EngineBackend,
}

fn world() -> World {
    let net = Arc::new(NetTables::new(&NetConfig::default()).unwrap());
    let machine = SoftirqLoop::new(LoopConfig::default(), SeededHost::new(0, net.clone()));
    let (a, b) = Veth::pair((A, DeviceConfig::new("a")), (B, DeviceConfig::new("b")));
    let host = XskHost::new(|| 0);
    let mut backend = EngineBackend::new(1, 0, net);
    backend.sockets = Some(host.clone());
    let machine = Arc::new(Mutex::new(machine));
    for device in [a, b] {
        device.set_up(true).unwrap();
        machine.lock().unwrap().devices.register(device.clone()).unwrap();
        register(&host, device, machine.clone());
    }
    World { machine, host, backend }
}

impl World {
    /// Sends a packet from `b`; answers how many reached the stack of `a`.
    fn send(&self) -> usize {
        let mut machine = self.machine.lock().unwrap();
        let mut packet = [7; 60];
        packet[12..14].copy_from_slice(&[0x88, 0xb5]);
        machine.on_cpu(0, |cx| cx.packet_send(B, &packet)).unwrap();
        machine.settle(100).unwrap();
        let mut passed = 0;
        machine.take_received(|_, skb| passed += usize::from(skb.dev == A));
        machine.check_frames().unwrap();
        passed
    }
}

fn umem() -> Umem {
    Umem::new(UmemConfig { frames: 16, ..UmemConfig::default() }).unwrap()
}

#[test]
fn the_tutorials_program_finds_a_socket_until_it_is_closed() {
    let mut w = world();
    let spec = ObjectSpec::parse(OBJECT, "legacy_xsk.bpf.o", &Target::bundled()).unwrap();
    let options = LoadOptions { programs: vec!["xdp_sock_prog".to_owned()], ..LoadOptions::default() };
    let object = w.backend.load_object(&spec, &options).unwrap();
    let handle = ProgramHandle::new(object.program("xdp_sock_prog").unwrap().clone());
    let request = XdpRequest { fd: Some(Some(handle)), flags: Some(AttachFlags::DRV_MODE), expected: None };
    w.machine.lock().unwrap().devices.set_xdp(A, &request).unwrap();
    assert_eq!(w.send(), 1, "no socket: it passes");

    let umem = umem();
    let mut socket = Socket::open(&w.host, &umem, SocketConfig::new(A, 0)).unwrap();
    socket.fill.as_mut().unwrap().refill(8);
    let put = |number: i32| object.map_update(0, &0_u32.to_ne_bytes(), &number.to_ne_bytes(), 0);
    assert_eq!(put(4711), Err(Errno::EBADF));
    assert_eq!(put(socket.number()), Ok(()));
    assert_eq!(w.send(), 0);
    let got: Vec<_> = socket.rx.as_mut().unwrap().peek(8).map(|f| f.len()).collect();
    assert_eq!(got, [60]);
    drop(socket);
    assert_eq!(w.send(), 1, "a closed socket has left the map");
}

#[test]
fn what_a_socket_sends_runs_softirqs_before_it_answers() {
    let w = world();
    let (ours, theirs) = (umem(), umem());
    let mut a = Socket::open(&w.host, &ours, SocketConfig::new(A, 0)).unwrap();
    let mut b = Socket::open(&w.host, &theirs, SocketConfig::new(B, 0)).unwrap();
    let names = BTreeMap::from([("a".to_owned(), A), ("b".to_owned(), B)]);
    let rules = Redirects::new(w.machine.clone(), &w.host, names, w.backend.clone());
    assert_eq!((rules.device("a"), rules.device("c")), (Some(A), None));
    rules.redirect(A, 0, &w.host.by_number(a.number()).unwrap()).unwrap();
    assert_eq!(rules.redirect(7, 0, &w.host.by_number(a.number()).unwrap()), Err(Errno::ENODEV));
    a.fill.as_mut().unwrap().refill(8);
    let mut batch = b.tx.as_mut().unwrap().reserve(3).unwrap();
    for mut frame in theirs.alloc_batch(3) {
        frame.put(&[9; 60]).unwrap();
        batch.push(frame).unwrap();
    }
    batch.submit();
    assert_eq!(b.wake_tx(), Ok(::xsk::Wakeup::Done));
    assert_eq!(a.rx.as_mut().unwrap().peek(8).count(), 3);
    assert_eq!(b.completion.as_mut().unwrap().recycle(8), 3);
    // Another's program on the device is left alone.
    let other = Redirects::new(w.machine.clone(), &w.host, BTreeMap::from([("a".to_owned(), A)]), w.backend);
    assert_eq!(other.redirect(A, 0, &w.host.by_number(a.number()).unwrap()), Err(Errno::EBUSY));
}
