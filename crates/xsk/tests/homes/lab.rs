//! What a scenario runs in: two devices with a cable, on the engine or on the running kernel.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

use bpf::Insn;
use linux::sys::{Link, Map, NetNs, PacketSocket, Prog, if_index};
use linux::testing::{RawProg, command, create_map, load_insns, map_fd};
use mem::XdpBuff;
use uapi::Errno;
use uapi::bpf::*;
use uapi::xdp::BPF_XDP;
use xsk::engine::{Wire, XskHost};
use xsk::{Home, KernelHome};

/// Two devices, `here` and `there`, with two queues each. Packets that come to `here` go to the socket of
/// their queue in its xskmap; what comes to `there` is counted.
pub(crate) trait Lab: Sync {
    fn home(&self) -> &dyn Home;
    fn here(&self) -> u32;
    fn there(&self) -> u32;
    /// Puts a socket into the xskmap.
    fn redirect(&self, slot: u32, socket: i32) -> Result<(), Errno>;
    /// Takes a socket out of the xskmap.
    fn unredirect(&self, slot: u32);
    /// A packet comes to queue 0 of `here`.
    fn inject(&self, packet: &[u8]);
    /// Packets that came to `there` since the last time.
    fn arrived(&self) -> Vec<Vec<u8>>;
    fn set_up(&self, here: bool, up: bool);
    fn set_mtu(&self, mtu: u32);
    fn remove_here(&self);
    /// From now on each packet gets 8 bytes of metadata, `0x11` eight times.
    fn with_metadata(&self);
}

pub(crate) struct EngineLab {
    pub(crate) wire: Wire,
    arrived: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl EngineLab {
    pub(crate) fn new() -> Self {
        Self::on(XskHost::new(|| 1_795_344_080_578_294_572))
    }

    pub(crate) fn on(host: XskHost) -> Self {
        let wire = Wire::on(host, 2);
        let arrived: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let to = arrived.clone();
        wire.b.set_tap(move |packet| to.lock().unwrap().push(packet.to_vec()));
        Self { wire, arrived }
    }
}

impl Lab for EngineLab {
    fn home(&self) -> &dyn Home {
        &self.wire.host
    }

    fn here(&self) -> u32 {
        1
    }

    fn there(&self) -> u32 {
        2
    }

    fn redirect(&self, slot: u32, socket: i32) -> Result<(), Errno> {
        self.wire.a.insert(&self.wire.host, slot, socket)
    }

    fn unredirect(&self, slot: u32) {
        self.wire.a.remove(slot);
    }

    fn inject(&self, packet: &[u8]) {
        self.wire.a.receive(0, packet);
    }

    fn arrived(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.arrived.lock().unwrap())
    }

    fn set_up(&self, here: bool, up: bool) {
        if here { &self.wire.a } else { &self.wire.b }.set_up(up);
    }

    fn set_mtu(&self, mtu: u32) {
        self.wire.a.set_mtu(mtu);
        self.wire.b.set_mtu(mtu);
    }

    fn remove_here(&self) {
        self.wire.host.unregister_device(1);
    }

    fn with_metadata(&self) {
        self.wire.a.set_program(|buff: &mut XdpBuff<'_>| {
            buff.adjust_meta(-8).expect("there is headroom");
            buff.meta_and_linear().fill(0, 8, 0x11);
        });
    }
}

/// veth devices in a namespace of their own. Scenarios run in a thread that is in it.
pub(crate) struct KernelLab {
    packets: PacketSocket,
    here: u32,
    there: u32,
    xsks_map: Map,
    link: Link,
    /// Programs in use.
    programs: Mutex<Vec<Prog>>,
}

impl KernelLab {
    /// Runs a scenario in a new namespace.
    pub(crate) fn run(scenario: impl FnOnce(&dyn Lab) + Send) {
        let netns = NetNs::new().unwrap();
        netns.run(|| scenario(&Self::new())).unwrap();
    }

    fn new() -> Self {
        command("sysctl", &["-qw", "net.ipv6.conf.all.disable_ipv6=1"]).unwrap();
        command("sysctl", &["-qw", "net.ipv6.conf.default.disable_ipv6=1"]).unwrap();
        let queues = "numrxqueues 2 numtxqueues 2";
        let add = format!("link add veth0 {queues} type veth peer name veth1 {queues}");
        command("ip", &add.split(' ').collect::<Vec<_>>()).unwrap();
        for device in ["lo", "veth0", "veth1"] {
            command("ip", &["link", "set", device, "up"]).unwrap();
        }
        let (here, there) = (if_index("veth0").unwrap(), if_index("veth1").unwrap());
        let xsks_map = create_map(MapType::Xskmap, 4, 4, 4, 0).unwrap();
        let program = load(&redirect_program((1, map_fd(&xsks_map)), &[]));
        let link = Link::create(program.as_fd(), here, 1 << 2).unwrap();
        let packets = PacketSocket::new().unwrap();
        sleep(Duration::from_millis(50));
        Self { packets, here, there, xsks_map, link, programs: Mutex::new(vec![program]) }
    }
}

fn load(insns: &[Insn]) -> Prog {
    let args = RawProg { attach_type: BPF_XDP, flags: BPF_F_XDP_HAS_FRAGS, ..RawProg::xdp(insns) };
    load_insns(&args).unwrap_or_else(|e| panic!("{}: {}", e.errno, e.log)).0
}

/// `first`, then to the socket of the packet's queue; packets without one are dropped. `map` is how its
/// instruction names the map.
pub(crate) fn redirect_program(map: (u8, i32), first: &[Insn]) -> Vec<Insn> {
    let mov = |dst, src| Insn::new(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0);
    let mut insns = vec![mov(6, 1)];
    insns.extend(first);
    insns.extend([
        Insn::new(BPF_LDX | BPF_MEM | BPF_W, 2, 6, 16, 0),
        Insn::new(BPF_LD | BPF_IMM | BPF_DW, 1, map.0, 0, map.1),
        Insn::new(0, 0, 0, 0, 0),
        Insn::new(BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, 1),
        Insn::new(BPF_JMP | BPF_CALL, 0, 0, 0, 51),
        Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
    ]);
    insns
}

/// Instructions that give a packet eight bytes of metadata, `0x11` each.
pub(crate) const METADATA: [Insn; 9] = [
    Insn::new(BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, -8),
    Insn::new(BPF_JMP | BPF_CALL, 0, 0, 0, 54),
    Insn::new(BPF_LDX | BPF_MEM | BPF_W, 2, 6, 0, 0),
    Insn::new(BPF_LDX | BPF_MEM | BPF_W, 3, 6, 8, 0),
    Insn::new(BPF_ALU64 | BPF_MOV | BPF_X, 4, 3, 0, 0),
    Insn::new(BPF_ALU64 | BPF_ADD | BPF_K, 4, 0, 0, 8),
    Insn::new(BPF_JMP | BPF_JGT | BPF_X, 4, 2, 2, 0),
    Insn::new(BPF_ST | BPF_MEM | BPF_W, 3, 0, 0, 0x1111_1111),
    Insn::new(BPF_ST | BPF_MEM | BPF_W, 3, 0, 4, 0x1111_1111),
];

impl Lab for KernelLab {
    fn home(&self) -> &dyn Home {
        &KernelHome
    }

    fn here(&self) -> u32 {
        self.here
    }

    fn there(&self) -> u32 {
        self.there
    }

    fn redirect(&self, slot: u32, socket: i32) -> Result<(), Errno> {
        self.xsks_map.update(&slot.to_ne_bytes(), &socket.to_ne_bytes(), 0)
    }

    fn unredirect(&self, slot: u32) {
        self.xsks_map.delete(&slot.to_ne_bytes()).unwrap();
    }

    fn inject(&self, packet: &[u8]) {
        self.packets.send(self.there, packet).unwrap();
        sleep(Duration::from_millis(10));
    }

    fn arrived(&self) -> Vec<Vec<u8>> {
        sleep(Duration::from_millis(20));
        let mut packets = Vec::new();
        loop {
            match self.packets.receive() {
                Ok(Some((ifindex, packet))) if ifindex == self.there => packets.push(packet),
                Ok(Some(_)) => {}
                Ok(None) => return packets,
                // Told once after a device went down.
                Err(Errno::ENETDOWN) => {}
                Err(errno) => panic!("{errno}"),
            }
        }
    }

    fn set_up(&self, here: bool, up: bool) {
        let device = if here { "veth0" } else { "veth1" };
        command("ip", &["link", "set", device, if up { "up" } else { "down" }]).unwrap();
        sleep(Duration::from_millis(50));
    }

    fn set_mtu(&self, mtu: u32) {
        for device in ["veth0", "veth1"] {
            command("ip", &["link", "set", device, "mtu", &mtu.to_string()]).unwrap();
        }
    }

    fn remove_here(&self) {
        command("ip", &["link", "del", "veth0"]).unwrap();
        sleep(Duration::from_millis(50));
    }

    fn with_metadata(&self) {
        let program = load(&redirect_program((1, map_fd(&self.xsks_map)), &METADATA));
        self.link.update(program.as_fd(), None).unwrap();
        self.programs.lock().unwrap().push(program);
    }
}
