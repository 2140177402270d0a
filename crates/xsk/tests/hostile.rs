//! An application that writes anything into its rings and its memory at any time: the engine's side must not
//! panic, hang, or touch anything outside of the memory, and other sockets must not notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use mem::SharedMem;
use uapi::if_xdp::*;
use xsk::engine::{Sanitizer, Wire, XskHost};
use xsk::*;

/// A small generator, so that a seed says everything (xorshift64*).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Numbers as someone would choose them who wants to break things.
    fn nasty(&mut self) -> u64 {
        let edges =
            [0, 1, 2047, 2048, 2049, 4096, 65535, 65536, 131_071, 131_072, 1 << 48, u64::MAX, u64::MAX - 255];
        match self.below(4) {
            0 => self.next(),
            1 => self.next() & 0x1_ffff,
            2 => self.below(64) * 2048,
            _ => edges[self.below(edges.len() as u64) as usize],
        }
    }
}

const ENTRIES: u32 = 16;
/// Pages before and after the memory that was registered.
const GUARD: usize = 4096;
const UMEM: usize = 64 * 2048;

/// A socket whose memory and rings the test writes by hand.
struct Victim {
    raw: Arc<dyn RawSocket>,
    memory: Arc<SharedMem>,
    rings: [Arc<SharedMem>; 4],
}

impl Victim {
    fn new(wire: &Wire, queue: u32, flags: u32, sg: bool) -> Self {
        let raw = wire.host.open().unwrap();
        let memory = Arc::new(SharedMem::anonymous(GUARD + UMEM + GUARD).unwrap());
        memory.view().fill(0, GUARD, 0xa5);
        memory.view().fill(GUARD + UMEM, GUARD, 0x5a);
        let reg = XdpUmemReg {
            addr: memory.addr() + GUARD as u64,
            len: UMEM as u64,
            chunk_size: 2048,
            headroom: 64,
            flags,
            tx_metadata_len: 32,
        };
        raw.register_umem(&memory, &reg.to_bytes()).unwrap();
        let rings = [
            (XDP_RX_RING, XDP_PGOFF_RX_RING),
            (XDP_TX_RING, XDP_PGOFF_TX_RING),
            (XDP_UMEM_FILL_RING, XDP_UMEM_PGOFF_FILL_RING),
            (XDP_UMEM_COMPLETION_RING, XDP_UMEM_PGOFF_COMPLETION_RING),
        ]
        .map(|(name, offset)| {
            raw.setsockopt(SOL_XDP, name, &ENTRIES.to_le_bytes()).unwrap();
            raw.mmap(offset, 4096).unwrap()
        });
        let flags = XDP_COPY | if sg { XDP_USE_SG } else { 0 };
        let addr = SockaddrXdp { family: AF_XDP, flags, ifindex: 1, queue_id: queue, shared_umem_fd: 0 };
        raw.bind(&addr.to_bytes()).unwrap();
        wire.a.insert(&wire.host, queue, raw.number()).unwrap();
        Self { raw, memory, rings }
    }

    /// One write somewhere.
    fn poke(&self, rng: &mut Rng) {
        let ring = self.rings[rng.below(4) as usize].view();
        match rng.below(8) {
            // An index: near where it is, or far away.
            0 => ring.write_u32(128 * rng.below(2) as usize, rng.next() as u32),
            1..=3 => {
                let at = 128 * rng.below(2) as usize;
                ring.write_u32(at, ring.read_u32(at).wrapping_add(rng.below(20) as u32));
            }
            4 => ring.write_u32(196, rng.next() as u32),
            5 | 6 => ring.write_u64(320 + 8 * rng.below(32) as usize, rng.nasty()),
            _ => {
                let at = GUARD as u64 + rng.below(UMEM as u64 - 8);
                self.memory.view().write_u64(at as usize, rng.nasty());
            }
        }
    }

    fn guards_are_whole(&self) -> bool {
        let all = self.memory.view().to_vec();
        all[..GUARD].iter().all(|b| *b == 0xa5) && all[GUARD + UMEM..].iter().all(|b| *b == 0x5a)
    }
}

/// A well-behaved socket on another queue gets exactly what is sent to it.
fn bystander_works(wire: &Wire, socket: &mut Socket<'_>, number: u8) {
    let packet = vec![number; 100];
    socket.fill.as_mut().unwrap().refill(1);
    wire.a.receive(1, &packet);
    let got: Vec<_> = socket.rx.as_mut().unwrap().peek(16).map(|f| f.data().to_vec()).collect();
    assert_eq!(got, [packet]);
}

fn scenario(seed: u64, rounds: u32) {
    let mut rng = Rng(seed | 1);
    let flags = [0, XDP_UMEM_UNALIGNED_CHUNK_FLAG][rng.below(2) as usize]
        | [0, XDP_UMEM_TX_METADATA_LEN, XDP_UMEM_TX_METADATA_LEN | XDP_UMEM_TX_SW_CSUM]
            [rng.below(3) as usize];
    // The sanitizer believes no more than the sockets do.
    let host = match seed % 2 {
        0 => XskHost::new(|| 7),
        _ => XskHost::with_sanitizer(|| 7, Arc::new(Sanitizer::default())),
    };
    let wire = Wire::on(host, 2);
    wire.a.set_mtu(9000);
    wire.b.set_mtu(9000);
    let umem = Umem::new(UmemConfig { frames: 16, frame_size: 2048, ..UmemConfig::default() }).unwrap();
    let config = SocketConfig {
        rx_entries: 16,
        tx_entries: 16,
        fill_entries: 16,
        completion_entries: 16,
        ..SocketConfig::new(1, 1)
    };
    let mut bystander = Socket::open(&wire.host, &umem, config).unwrap();
    wire.a.insert(&wire.host, 1, bystander.number()).unwrap();
    let victim = Victim::new(&wire, 0, flags, rng.below(2) == 0);
    let packet: Vec<u8> = (0..9000).map(|i| i as u8).collect();
    for round in 0..rounds {
        for _ in 0..rng.below(12) {
            victim.poke(&mut rng);
        }
        match rng.below(5) {
            0 | 1 => wire.a.receive(0, &packet[..rng.below(9000) as usize]),
            2 => drop(victim.raw.send(false)),
            3 => drop(victim.raw.poll(PollEvents::BOTH, Some(std::time::Duration::ZERO))),
            _ => {
                // Packets stay on the device for a while, then complete in whatever ring there is.
                wire.a.hold(rng.below(2) == 0);
            }
        }
        if round % 64 == 0 {
            bystander_works(&wire, &mut bystander, round as u8);
        }
    }
    wire.a.hold(false);
    assert!(victim.guards_are_whole(), "seed {seed}");
    assert_eq!(bystander.statistics().unwrap().rx_dropped, 0);
    assert_eq!(umem.counts().free, 16, "seed {seed}");
}

#[test]
fn anything_may_be_written_between_calls() {
    for seed in 1..=60 {
        scenario(seed * 0x9e37_79b9, 2000);
    }
}

#[test]
fn anything_may_be_written_during_calls() {
    let wire = Wire::new(2, || 7);
    wire.a.set_mtu(9000);
    wire.b.set_mtu(9000);
    let victim = Victim::new(&wire, 0, XDP_UMEM_TX_METADATA_LEN, true);
    let (stop, pokes) = (AtomicBool::new(false), AtomicU32::new(0));
    let packet = vec![3; 5000];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rng = Rng(99);
            while !stop.load(Relaxed) {
                victim.poke(&mut rng);
                pokes.fetch_add(1, Relaxed);
            }
        });
        let mut rng = Rng(77);
        for _ in 0..20_000 {
            match rng.below(3) {
                0 => wire.a.receive(0, &packet[..rng.below(5000) as usize]),
                1 => drop(victim.raw.send(false)),
                _ => drop(victim.raw.poll(PollEvents::BOTH, Some(std::time::Duration::ZERO))),
            }
        }
        stop.store(true, Relaxed);
    });
    assert!(pokes.load(Relaxed) > 1000);
    assert!(victim.guards_are_whole());
}
