//! The device's end by rust-vmm's queues, in a mapping of its own: what virtual machine monitors would do.

use std::fs::File;
use std::sync::Mutex;

use uapi::virtio_net::VIRTIO_NET_OK;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use super::super::Backend;
use super::*;
use crate::Softirq;

/// A device with one queue pair.
struct Vmm {
    memory: GuestMemoryMmap<()>,
    queues: Mutex<Vec<Queue>>,
    sent: Mutex<Vec<Vec<u8>>>,
    dev: Arc<VirtioNet>,
    hdr_len: usize,
}

impl Vmm {
    fn new(dev: &Arc<VirtioNet>, side: &DeviceSide) -> Arc<Self> {
        let file = FileOffset::new(File::from(side.fd.try_clone().unwrap()), 0);
        let region = MmapRegion::from_file(file, side.memory.len()).unwrap();
        let region = GuestRegionMmap::new(region, GuestAddress(0)).unwrap();
        let memory = GuestMemoryMmap::from_regions(vec![region]).unwrap();
        let queues = side.queues.iter().map(|layout| {
            let mut queue = Queue::new(layout.size).unwrap();
            queue.set_size(layout.size);
            queue.set_desc_table_address(Some(layout.desc as u32), Some(0));
            queue.set_avail_ring_address(Some(layout.avail as u32), Some(0));
            queue.set_used_ring_address(Some(layout.used as u32), Some(0));
            queue.set_event_idx(side.ring_features().event_idx);
            queue.set_ready(true);
            assert!(queue.is_valid(&memory));
            queue.enable_notification(&memory).unwrap();
            queue
        });
        let queues = Mutex::new(queues.collect());
        let (sent, hdr_len) = (Mutex::default(), side.hdr_len);
        let vmm = Arc::new(Self { memory, queues, sent, dev: dev.clone(), hdr_len });
        assert!(dev.connect(vmm.clone()));
        vmm
    }

    /// Takes all chains of a queue: `f` sees what the device may read, and answers what is written.
    fn serve(&self, queue: usize, mut f: impl FnMut(Vec<u8>) -> Vec<u8>) -> bool {
        let queue = &mut self.queues.lock().unwrap()[queue];
        let mut used = false;
        while let Some(chain) = queue.pop_descriptor_chain(&self.memory) {
            let (mut bytes, head) = (Vec::new(), chain.head_index());
            for desc in chain.clone().readable() {
                let start = bytes.len();
                bytes.resize(start + desc.len() as usize, 0);
                self.memory.read_slice(&mut bytes[start..], desc.addr()).unwrap();
            }
            let answer = f(bytes);
            for desc in chain.writable().take(1) {
                self.memory.write_slice(&answer, desc.addr()).unwrap();
            }
            queue.add_used(&self.memory, head, answer.len() as u32).unwrap();
            used = true;
        }
        used && queue.needs_notification(&self.memory).unwrap()
    }

    /// A packet into as many receive buffers as it needs; answers whether the driver wants an interrupt.
    fn receive(&self, packet: &[u8]) -> bool {
        let queue = &mut self.queues.lock().unwrap()[0];
        let mut bytes = vec![0; self.hdr_len];
        bytes.extend(packet);
        let (mut at, mut used) = (0, Vec::new());
        while at < bytes.len() {
            let chain = queue.pop_descriptor_chain(&self.memory).expect("there are buffers");
            let head = chain.head_index();
            let desc = chain.writable().next().expect("of one piece");
            let n = (bytes.len() - at).min(desc.len() as usize);
            self.memory.write_slice(&bytes[at..at + n], desc.addr()).unwrap();
            used.push((head, desc.addr(), n as u32));
            at += n;
        }
        let first = GuestAddress(used[0].1.0 + 10);
        self.memory.write_obj(used.len() as u16, first).unwrap();
        for (head, _, n) in used {
            queue.add_used(&self.memory, head, n).unwrap();
        }
        queue.needs_notification(&self.memory).unwrap()
    }
}

impl Backend for Vmm {
    fn notify(&self, queue: u16) -> bool {
        if queue == 2 {
            self.serve(2, |_| vec![VIRTIO_NET_OK]);
        }
        queue == 1
    }

    fn poll(&self, cx: &mut Softirq<'_>) -> bool {
        let interrupt = self.serve(1, |bytes| {
            self.sent.lock().unwrap().push(bytes[self.hdr_len..].to_vec());
            Vec::new()
        });
        if interrupt {
            self.dev.interrupt(cx, 1);
        }
        self.queues.lock().unwrap()[1].enable_notification(&self.memory).unwrap()
    }
}

/// Facts 6.3 to 6.5 against queues that others wrote: bytes there and back, with and without event index and
/// indirect descriptors, through rings that wrap many times.
#[test]
fn rust_vmm_and_the_driver_understand_each_other() {
    use uapi::virtio_ring::*;
    for bits in 0..4_u64 {
        let mut w = World::new();
        let mut config = VirtioConfig::new("v11");
        config.features &= !(1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC);
        config.features |= bits << VIRTIO_RING_F_INDIRECT_DESC;
        let (dev, side) = VirtioNet::new(11, config).unwrap();
        let vmm = Vmm::new(&dev, &side);
        w.devices.register(dev.clone()).unwrap();
        dev.set_up(true).unwrap();
        let program = w.program(&answer(TX), &[], AttachType::Xdp, true);
        w.attach(11, &program, DRV).unwrap();
        let mut expected = Vec::new();
        for i in 0..600 {
            let bytes = packet(60 + i * 31 % 9000);
            if vmm.receive(&bytes) {
                w.cx(|cx| dev.interrupt(cx, 0));
            }
            expected.push(bytes);
            if i % 3 == 0 {
                w.settle();
            }
        }
        w.settle();
        assert!(*vmm.sent.lock().unwrap() == expected, "features {bits}");
        assert!(dev.broken_queues().is_empty());
        w.check_frames();
    }
}
