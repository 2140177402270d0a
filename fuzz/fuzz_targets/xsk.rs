//! An application that writes anything into the rings and the memory of its AF_XDP socket, and calls the engine in
//! any order: no panic, nothing outside of the memory that it registered, and another socket does not notice.
//!
//!     cargo +nightly fuzz run xsk
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use mem::SharedMem;
use uapi::if_xdp::*;
use xsk::engine::{Sanitizer, Wire, XskHost};
use xsk::{Home, PollEvents, RawSocket, Socket, SocketConfig, Umem, UmemConfig};

const ENTRIES: u32 = 16;
/// Bytes before and after what is registered.
const GUARD: usize = 4096;
const CHUNKS: usize = 16;
const LEN: usize = CHUNKS * 2048;
/// What one input may do.
const STEPS: usize = 512;

/// The socket under attack: its rings and memory are written by hand.
struct Victim {
    raw: Arc<dyn RawSocket>,
    memory: Arc<SharedMem>,
    rings: [Arc<SharedMem>; 4],
}

impl Victim {
    fn new(wire: &Wire, u: &mut Unstructured<'_>) -> Result<Option<Self>> {
        let raw = wire.host.open().expect("a socket");
        let memory = Arc::new(SharedMem::anonymous(GUARD + LEN + GUARD).expect("memory"));
        memory.view().fill(0, GUARD, 0xa5);
        memory.view().fill(GUARD + LEN, GUARD, 0x5a);
        // Half of them as they should be, the others anything.
        let sane: bool = u.arbitrary()?;
        let reg = XdpUmemReg {
            addr: memory.addr().wrapping_add(if sane { GUARD as u64 } else { u.arbitrary()? }),
            len: if sane { LEN as u64 } else { u.arbitrary()? },
            chunk_size: if sane { 2048 } else { u.int_in_range(2048..=4096)? },
            headroom: u.int_in_range(0..=1500)?,
            flags: u.int_in_range(0..=7)?,
            tx_metadata_len: u.arbitrary::<u8>()?.into(),
        };
        if raw.register_umem(&memory, &reg.to_bytes()).is_err() {
            return Ok(None);
        }
        let rings = [
            (XDP_RX_RING, XDP_PGOFF_RX_RING),
            (XDP_TX_RING, XDP_PGOFF_TX_RING),
            (XDP_UMEM_FILL_RING, XDP_UMEM_PGOFF_FILL_RING),
            (XDP_UMEM_COMPLETION_RING, XDP_UMEM_PGOFF_COMPLETION_RING),
        ]
        .map(|(name, offset)| {
            raw.setsockopt(SOL_XDP, name, &ENTRIES.to_le_bytes()).expect("a ring");
            raw.mmap(offset, 4096).expect("its memory")
        });
        let flags = XDP_COPY | u.choose(&[0, XDP_USE_SG, XDP_USE_NEED_WAKEUP])?;
        let addr = SockaddrXdp { family: AF_XDP, flags, ifindex: 1, queue_id: 0, shared_umem_fd: 0 };
        if raw.bind(&addr.to_bytes()).is_err() {
            return Ok(None);
        }
        wire.a.insert(&wire.host, 0, raw.number()).expect("into the map");
        Ok(Some(Self { raw, memory, rings }))
    }

    /// Writes something somewhere.
    fn poke(&self, u: &mut Unstructured<'_>) -> Result<()> {
        let ring = self.rings[u.int_in_range(0..=3)?].view();
        match u.int_in_range(0..=5)? {
            0 => ring.write_u32(128 * u.int_in_range(0..=1)?, u.arbitrary()?),
            1 | 2 => {
                let at = 128 * u.int_in_range(0..=1)?;
                ring.write_u32(at, ring.read_u32(at).wrapping_add(u.int_in_range(0..=20)?));
            }
            3 => ring.write_u64(320 + 8 * u.int_in_range(0..=31)?, u.arbitrary()?),
            4 => {
                // Like an address, perhaps with a length behind it.
                let at = 320 + 16 * u.int_in_range(0..=15)?;
                ring.write_u64(at, u.int_in_range(0..=LEN as u64 + 4096)?);
                ring.write_u64(at + 8, u.int_in_range(0..=5000_u64)? | u.int_in_range(0..=4_u64)? << 32);
            }
            _ => self.memory.view().write_u64(GUARD + u.int_in_range(0..=LEN - 8)?, u.arbitrary()?),
        }
        Ok(())
    }

    fn guards_are_whole(&self) -> bool {
        let all = self.memory.view().to_vec();
        all[..GUARD].iter().all(|b| *b == 0xa5) && all[GUARD + LEN..].iter().all(|b| *b == 0x5a)
    }
}

fn attack(wire: &Wire, victim: &Victim, packet: &[u8], u: &mut Unstructured<'_>) -> Result<()> {
    for _ in 0..STEPS {
        if u.is_empty() {
            break;
        }
        match u.int_in_range(0..=9)? {
            0 | 1 => wire.a.receive(u.int_in_range(0..=1)?, &packet[..u.int_in_range(0..=packet.len())?]),
            2 => drop(victim.raw.send(u.arbitrary()?)),
            3 => drop(victim.raw.poll(PollEvents::BOTH, Some(Duration::ZERO))),
            4 => wire.a.hold(u.arbitrary()?),
            5 => {
                let mut bytes = [0; 64];
                let _ = victim.raw.getsockopt(SOL_XDP, u.arbitrary()?, &mut bytes);
                let _ = victim.raw.setsockopt(SOL_XDP, u.int_in_range(0..=10)?, &bytes[..4]);
            }
            _ => victim.poke(u)?,
        }
    }
    Ok(())
}

fn run(u: &mut Unstructured<'_>, packet: &[u8]) -> Result<()> {
    // The sanitizer believes no more than the sockets do.
    let host = if u.arbitrary()? {
        XskHost::with_sanitizer(|| 7, Arc::new(Sanitizer::default()))
    } else {
        XskHost::new(|| 7)
    };
    let wire = Wire::on(host, 2);
    wire.a.set_mtu(9000);
    wire.b.set_mtu(9000);
    let umem = Umem::new(UmemConfig { frames: 4, frame_size: 2048, ..UmemConfig::default() });
    let umem = umem.expect("a UMEM");
    let config = SocketConfig {
        rx_entries: 4,
        tx_entries: 4,
        fill_entries: 4,
        completion_entries: 4,
        ..SocketConfig::new(1, 1)
    };
    let mut bystander = Socket::open(&wire.host, &umem, config).expect("a socket of its own queue");
    wire.a.insert(&wire.host, 1, bystander.number()).expect("into the map");
    let victim = Victim::new(&wire, u)?;
    let done = victim.as_ref().map_or(Ok(()), |victim| attack(&wire, victim, packet, u));
    wire.a.hold(false);
    bystander.fill.as_mut().expect("a fill ring").refill(1);
    wire.a.receive(1, &packet[..100]);
    let got: Vec<_> = bystander.rx.as_mut().expect("RX").peek(4).map(|f| f.data().to_vec()).collect();
    assert_eq!(got, [&packet[..100]]);
    assert!(victim.is_none_or(|victim| victim.guards_are_whole()));
    done
}

fuzz_target!(|bytes: &[u8]| {
    let packet: Vec<u8> = (0..9000_u32).map(|i| i as u8).collect();
    // Not enough bytes is the end, not a fault.
    let _ = run(&mut Unstructured::new(bytes), &packet);
});
