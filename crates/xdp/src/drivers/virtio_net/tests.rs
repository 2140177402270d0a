//! Fact 6, by its numbers. There is no running kernel to ask: what is expected was read in the driver's source.

mod attach;
mod geometry;
mod hostile;
mod receive;
mod rust_vmm;
mod send;

use std::sync::Arc;

use bpf::Insn;
use bpf::object::AttachType;
use bpf::vm::Program;

use super::{DeviceSide, Header, HostSide, VirtioConfig, VirtioNet};
use crate::testing::*;
use crate::{AttachFlags, NetDevice};

const DROP: i32 = 1;
const PASS: i32 = 2;
const TX: i32 = 3;
const DRV: u32 = AttachFlags::DRV_MODE;
const ADJUST_HEAD: i32 = 44;
const ADJUST_TAIL: i32 = 65;

/// A virtio device of number 11 with its other end, and a world around.
struct Rig {
    w: World,
    dev: Arc<VirtioNet>,
    host: Arc<HostSide>,
    side: DeviceSide,
}

fn rig() -> Rig {
    rig_with(|_| {})
}

fn rig_with(change: impl FnOnce(&mut VirtioConfig)) -> Rig {
    let w = World::new();
    let (dev, host, side) = device(&w, 11, change);
    Rig { w, dev, host, side }
}

fn device(
    w: &World,
    ifindex: u32,
    change: impl FnOnce(&mut VirtioConfig),
) -> (Arc<VirtioNet>, Arc<HostSide>, DeviceSide) {
    let mut config = VirtioConfig::new(&format!("v{ifindex}"));
    change(&mut config);
    let (dev, side) = VirtioNet::new(ifindex, config).unwrap();
    let host = HostSide::new(&dev, &side);
    w.devices.register(dev.clone()).unwrap();
    assert!(dev.set_up(true).unwrap().is_empty());
    (dev, host, side)
}

impl Rig {
    /// Packets from the other end, then everything settles; answers how many found buffers.
    fn deliver(&mut self, n: usize, len: usize) -> usize {
        self.deliver_as(n, Header::default(), len)
    }

    fn deliver_as(&mut self, n: usize, header: Header, len: usize) -> usize {
        let host = self.host.clone();
        let delivered = self.w.cx(|cx| (0..n).filter(|_| host.deliver(cx, 0, header, &packet(len))).count());
        self.w.settle();
        delivered
    }

    fn attach(&mut self, insns: &[Insn], frags: bool) -> Arc<Program> {
        let program = self.w.program(insns, &[], AttachType::Xdp, frags);
        self.w.attach(11, &program, DRV).unwrap();
        program
    }

    /// Lets all buffers that were made available before a program came be used.
    fn use_old_buffers(&mut self) {
        for _ in 0..5 {
            self.deliver(64, 60);
        }
        self.received();
    }

    /// Lengths of the packets at the stack.
    fn received(&mut self) -> Vec<usize> {
        self.w.received().into_iter().map(|(_, bytes)| bytes.len()).collect()
    }

    /// `link.rx_packets` and the claims for queue 0, in sums and by queue.
    fn rx(
        &mut self,
        packets: u64,
        claims: &[(&str, u64)],
        others: &[(&str, u64)],
        f: impl FnOnce(&mut Self),
    ) {
        let before = self.w.counters();
        f(self);
        let mut moved = self.w.counters();
        moved.retain(|k, v| {
            *v -= before[k];
            *v > 0 && !k.ends_with("kicks") && !k.contains("link.tx") && !k.contains("wake")
        });
        let mut claimed = Moves::new();
        claimed.insert("v11.link.rx_packets".to_owned(), packets);
        for (name, n) in claims {
            claimed.insert(format!("v11.rx_{name}"), *n);
            claimed.insert(format!("v11.rx0_{name}"), *n);
            if *name == "drops" {
                claimed.insert("v11.link.rx_dropped".to_owned(), *n);
            }
        }
        claimed.extend(others.iter().map(|(k, v)| ((*k).to_owned(), *v)));
        claimed.retain(|_, v| *v > 0);
        assert_eq!(moved, claimed, "moved is left, claimed is right");
        self.w.check_frames();
    }
}

/// `return helper(ctx, n) == 0 ? PASS : DROP`.
fn try_adjust(helper: i32, n: i32) -> Vec<Insn> {
    let jne = Insn::new(0x55, 0, 0, 2, 0);
    [&[mov(2, n), call(helper), jne][..], &answer(PASS), &answer(DROP)].concat()
}
