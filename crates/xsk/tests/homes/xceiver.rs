//! The equivalents of the 31 kinds of test of the kernel's xskxceiver, under its names, with sockets at both ends of
//! a cable: what one application sends by the safe API another receives by it. Descriptors that are invalid cannot
//! be made by that API, so those kinds write rings by hand.
//!
//! Kernel: `tools/testing/selftests/bpf/xskxceiver.c, v6.18`

use std::time::{Duration, Instant};

use uapi::Errno;
use uapi::if_xdp::*;
use xsk::*;

use crate::lab::Lab;
use crate::raw::{Spec, Xsk};
use crate::{on_all_homes, packet};

on_all_homes!(
    send_receive,
    send_receive_2k_frame,
    send_receive_single_pkt,
    poll_rx,
    poll_tx,
    poll_rxq_empty,
    poll_txq_full,
    send_receive_unaligned,
    aligned_inv_desc,
    aligned_inv_desc_2k_frame_size,
    unaligned_inv_desc,
    unaligned_inv_desc_4001_frame_size,
    umem_headroom,
    teardown,
    bidirectional,
    stat_rx_dropped,
    stat_tx_invalid,
    stat_rx_full,
    stat_rx_fill_empty,
    xdp_prog_cleanup,
    xdp_drop_half,
    xdp_shared_umem,
    xdp_metadata_copy,
    xdp_metadata_copy_multi_buff,
    send_receive_9k_packets,
    send_receive_unaligned_9k_packets,
    aligned_inv_desc_multi_buff,
    unaligned_inv_desc_multi_buff,
    too_many_frags,
    hw_sw_min_ring_size,
    hw_sw_max_ring_size,
);

const PATIENCE: Duration = Duration::from_secs(10);
/// Packets on their way at most.
const WINDOW: usize = 16;

/// What a kind of test varies.
#[derive(Clone, Copy)]
struct Kind {
    umem: UmemConfig,
    ring: u32,
    multi_buffer: bool,
    /// Wait in poll(2) for packets, or for room to send.
    poll_rx: bool,
    poll_tx: bool,
}

fn kind() -> Kind {
    let umem = UmemConfig { frames: 256, ..UmemConfig::default() };
    Kind { umem, ring: 128, multi_buffer: false, poll_rx: false, poll_tx: false }
}

fn config(kind: &Kind, ifindex: u32) -> SocketConfig {
    SocketConfig {
        rx_entries: kind.ring,
        tx_entries: kind.ring,
        fill_entries: kind.ring,
        completion_entries: kind.ring,
        mode: Mode::Copy,
        multi_buffer: kind.multi_buffer,
        ..SocketConfig::new(ifindex, 0)
    }
}

/// Packet `i`: its number is in each of its bytes after the header.
fn numbered(i: usize, len: usize) -> Vec<u8> {
    let mut packet = packet(len);
    packet[14..].iter_mut().enumerate().for_each(|(at, byte)| *byte = (i * 31 + at) as u8);
    packet
}

/// A socket on a queue that the one before has perhaps just left: the kernel gives it back a little later.
fn open<'u>(lab: &dyn Lab, umem: &'u Umem, config: SocketConfig) -> Socket<'u> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Socket::open(lab.home(), umem, config) {
            Ok(socket) => return socket,
            Err(e) if e.errno == Errno::EBUSY && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(e) => panic!("{e}"),
        }
    }
}

/// A receiver on `here`, with its xskmap entry and a full fill ring.
fn receiver<'u>(lab: &dyn Lab, umem: &'u Umem, kind: &Kind) -> Socket<'u> {
    let mut socket = open(lab, umem, config(kind, lab.here()));
    lab.redirect(0, socket.number()).unwrap();
    socket.fill.as_mut().unwrap().refill(kind.ring);
    socket
}

/// Gives one packet to the TX ring, in as many frames as it takes.
fn push<'u>(umem: &'u Umem, socket: &mut Socket<'u>, bytes: &[u8]) -> bool {
    let room = umem.config().frame_size as usize - umem.config().tx_metadata_len.unwrap_or(0) as usize;
    let parts: Vec<_> = bytes.chunks(room).collect();
    let Some(mut batch) = socket.tx.as_mut().unwrap().reserve(parts.len() as u32) else { return false };
    let mut frames: Vec<_> = umem.alloc_batch(parts.len()).collect();
    if frames.len() < parts.len() {
        return false;
    }
    frames.iter_mut().zip(&parts).for_each(|(frame, part)| frame.put(part).unwrap());
    batch.push_packet(frames).unwrap();
    true
}

fn transmit(socket: &mut Socket<'_>, kind: &Kind) {
    if kind.poll_tx {
        socket.poll(PollEvents::OUT, Some(Duration::from_millis(100))).unwrap();
    } else {
        while socket.wake_tx().unwrap() == Wakeup::Again {
            socket.completion.as_mut().unwrap().recycle(64);
        }
    }
    socket.completion.as_mut().unwrap().recycle(64);
}

/// Packets that came, whole.
fn receive(socket: &mut Socket<'_>, kind: &Kind) -> Vec<Vec<u8>> {
    if kind.poll_rx {
        socket.poll(PollEvents::IN, Some(Duration::from_millis(100))).unwrap();
    }
    let mut batch = socket.rx.as_mut().unwrap().peek(64);
    let packets = std::iter::from_fn(|| batch.next_packet());
    let bytes = |frames: Vec<Frame<'_>>| frames.iter().flat_map(|f| f.data().to_vec()).collect();
    let got = packets.map(bytes).collect();
    drop(batch);
    socket.fill.as_mut().unwrap().refill(64);
    got
}

/// Sends packets of these lengths from `there` to `here`: all arrive, whole and in order, and every frame comes
/// back.
fn exchange(lab: &dyn Lab, kind: &Kind, lens: &[usize]) {
    let umem = || Umem::shared(kind.umem).unwrap();
    let (ours, theirs) = (umem(), umem());
    let mut here = receiver(lab, &ours, kind);
    let mut there = open(lab, &theirs, config(kind, lab.there()));
    let (mut sent, mut got) = (0, 0);
    let deadline = Instant::now() + PATIENCE;
    while got < lens.len() {
        assert!(Instant::now() < deadline, "{got} of {sent} packets came");
        while sent < lens.len()
            && sent < got + WINDOW
            && push(&theirs, &mut there, &numbered(sent, lens[sent]))
        {
            sent += 1;
        }
        transmit(&mut there, kind);
        for bytes in receive(&mut here, kind) {
            assert_eq!(bytes, numbered(got, lens[got]), "packet {got}");
            got += 1;
        }
    }
    while theirs.counts().sent > 0 {
        assert!(Instant::now() < deadline, "{:?}", theirs.counts());
        transmit(&mut there, kind);
    }
    assert_eq!((ours.counts().held, theirs.counts().free), (0, kind.umem.frames));
    let stats = here.statistics().unwrap();
    assert_eq!((stats.rx_dropped, stats.rx_ring_full), (0, 0));
    assert_eq!(there.statistics().unwrap().tx_invalid_descs, 0);
}

fn small(n: usize) -> Vec<usize> {
    vec![64; n]
}

fn send_receive(lab: &dyn Lab) {
    exchange(lab, &kind(), &small(300));
}

fn send_receive_2k_frame(lab: &dyn Lab) {
    exchange(lab, &Kind { umem: UmemConfig { frame_size: 2048, ..kind().umem }, ..kind() }, &small(300));
}

fn send_receive_single_pkt(lab: &dyn Lab) {
    exchange(lab, &kind(), &small(1));
}

fn poll_rx(lab: &dyn Lab) {
    exchange(lab, &Kind { poll_rx: true, ..kind() }, &small(100));
}

fn poll_tx(lab: &dyn Lab) {
    exchange(lab, &Kind { poll_tx: true, ..kind() }, &small(100));
}

/// Nothing comes, so the whole time is waited and nothing is found.
fn poll_rxq_empty(lab: &dyn Lab) {
    let umem = Umem::shared(kind().umem).unwrap();
    let here = receiver(lab, &umem, &kind());
    let start = Instant::now();
    let found = here.poll(PollEvents::IN, Some(Duration::from_millis(50))).unwrap();
    assert_eq!(found, PollEvents::default());
    assert!(start.elapsed() >= Duration::from_millis(50));
}

/// Completions are not taken, so the TX ring stays full, and there is no room to send.
fn poll_txq_full(lab: &dyn Lab) {
    let kind = Kind { ring: 16, ..kind() };
    let umem = Umem::shared(kind.umem).unwrap();
    let mut here = open(lab, &umem, config(&kind, lab.here()));
    for round in 0..2 {
        for i in 0..16 {
            assert!(push(&umem, &mut here, &numbered(i, 64)));
        }
        let again = here.wake_tx().unwrap();
        assert_eq!(again, if round == 0 { Wakeup::Done } else { Wakeup::Again }, "round {round}");
    }
    let start = Instant::now();
    let found = here.poll(PollEvents::OUT, Some(Duration::from_millis(50))).unwrap();
    assert_eq!(found, PollEvents::default());
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert_eq!(here.completion.as_mut().unwrap().recycle(64), 16);
    assert_eq!(here.poll(PollEvents::OUT, Some(PATIENCE)), Ok(PollEvents::OUT), "poll(2) sends");
}

fn send_receive_unaligned(lab: &dyn Lab) {
    let umem = UmemConfig { unaligned: true, frame_size: 3000, ..kind().umem };
    exchange(lab, &Kind { umem, ..kind() }, &small(300));
}

/// Descriptors around every bound of chunk and memory: valid ones are sent, others are counted and given back.
fn invalid(lab: &dyn Lab, chunk: u32, unaligned: bool) {
    let umem_flags = if unaligned { XDP_UMEM_UNALIGNED_CHUNK_FLAG } else { 0 };
    let spec = Spec { chunk, umem_flags, tx: 32, completion: 32, ..Spec::default() };
    // Whole pages, so that it ends where the memory ends.
    let mut xsk = Xsk::new(lab, &spec);
    let (c, end) = (u64::from(chunk), u64::from(chunk) * u64::from(spec.chunks));
    (0..u64::from(spec.chunks)).for_each(|i| xsk.write(i * c, &packet(60)));
    let crosses = c - 32;
    let descs = [
        // (address, length, valid aligned, valid unaligned)
        (0, 64, true, true),
        (0, 0, false, false),
        (end, 64, false, false),
        (end - 64, 64, true, true),
        (end - 32, 64, false, false),
        (u64::MAX - 63, 64, false, false),
        (crosses, 64, false, true),
        (0, chunk + 1, false, false),
        (2 * c, 64, true, true),
    ];
    xsk.write(crosses, &packet(64));
    xsk.write(end - 64, &packet(64));
    let mut expected = (0, 0);
    for (addr, len, aligned, other) in descs {
        let valid = if unaligned { other } else { aligned };
        expected = if valid { (expected.0 + 1, expected.1) } else { (expected.0, expected.1 + 1) };
        xsk.put(&[(addr, len, 0)]);
        assert_eq!(xsk.kick(), Ok(()), "{addr:#x}+{len}");
        // The lowest bit of a valid one is lost.
        assert_eq!(xsk.completed(), [if valid { addr & !1 } else { addr }], "{addr:#x}+{len}");
        let invalid = xsk.stats().tx_invalid_descs;
        assert_eq!(invalid, expected.1, "{addr:#x}+{len}");
    }
    assert_eq!(lab.arrived().len(), expected.0);
}

fn aligned_inv_desc(lab: &dyn Lab) {
    invalid(lab, 4096, false);
}

fn aligned_inv_desc_2k_frame_size(lab: &dyn Lab) {
    invalid(lab, 2048, false);
}

fn unaligned_inv_desc(lab: &dyn Lab) {
    invalid(lab, 4096, true);
}

fn unaligned_inv_desc_4001_frame_size(lab: &dyn Lab) {
    invalid(lab, 4001, true);
}

fn umem_headroom(lab: &dyn Lab) {
    let kind = Kind { umem: UmemConfig { headroom: 128, ..kind().umem }, ..kind() };
    exchange(lab, &kind, &small(100));
    let umem = Umem::shared(kind.umem).unwrap();
    let mut here = receiver(lab, &umem, &kind);
    lab.inject(&packet(64));
    let frame = here.rx.as_mut().unwrap().peek(1).next().unwrap();
    assert_eq!(frame.headroom(), 256 + 128);
}

/// Sockets are closed and opened again, with packets between.
fn teardown(lab: &dyn Lab) {
    for _ in 0..8 {
        let umem = Umem::shared(kind().umem).unwrap();
        drop(open(lab, &umem, config(&kind(), lab.here())));
        exchange(lab, &kind(), &small(20));
    }
}

/// One socket receives and sends.
fn bidirectional(lab: &dyn Lab) {
    let umem = Umem::shared(kind().umem).unwrap();
    let mut here = receiver(lab, &umem, &kind());
    for i in 0..50 {
        lab.inject(&numbered(i, 64));
        assert!(push(&umem, &mut here, &numbered(i, 80)));
        transmit(&mut here, &kind());
        assert_eq!(receive(&mut here, &kind()), [numbered(i, 64)]);
    }
    let arrived = lab.arrived();
    assert_eq!(arrived, (0..50).map(|i| numbered(i, 80)).collect::<Vec<_>>());
}

/// Half of the packets are longer than a chunk has room for.
fn stat_rx_dropped(lab: &dyn Lab) {
    let kind = Kind { umem: UmemConfig { frame_size: 2048, headroom: 1024, ..kind().umem }, ..kind() };
    let umem = Umem::shared(kind.umem).unwrap();
    let mut here = receiver(lab, &umem, &kind);
    for i in 0..20 {
        lab.inject(&numbered(i, if i % 2 == 0 { 64 } else { 2048 - 1024 - 256 + 1 }));
    }
    assert_eq!(receive(&mut here, &kind).len(), 10);
    assert_eq!(here.statistics().unwrap().rx_dropped, 10);
}

fn stat_tx_invalid(lab: &dyn Lab) {
    let mut xsk = Xsk::new(lab, &Spec { tx: 32, completion: 32, ..Spec::default() });
    xsk.write(0, &packet(64));
    for i in 0..20 {
        xsk.put(&[(0, if i % 2 == 0 { 64 } else { 4096 }, 0)]);
        assert_eq!(xsk.kick(), Ok(()));
    }
    assert_eq!((xsk.stats().tx_invalid_descs, lab.arrived().len()), (10, 10));
}

fn stat_rx_full(lab: &dyn Lab) {
    let umem = Umem::shared(kind().umem).unwrap();
    let config = SocketConfig { rx_entries: 4, ..config(&kind(), lab.here()) };
    let mut here = open(lab, &umem, config);
    lab.redirect(0, here.number()).unwrap();
    here.fill.as_mut().unwrap().refill(128);
    (0..10).for_each(|i| lab.inject(&numbered(i, 64)));
    assert_eq!(here.statistics().unwrap().rx_ring_full, 6);
    assert_eq!(receive(&mut here, &kind()).len(), 4);
}

fn stat_rx_fill_empty(lab: &dyn Lab) {
    let umem = Umem::shared(kind().umem).unwrap();
    let mut here = open(lab, &umem, config(&kind(), lab.here()));
    lab.redirect(0, here.number()).unwrap();
    here.fill.as_mut().unwrap().refill(4);
    (0..10).for_each(|i| lab.inject(&numbered(i, 64)));
    let stats = here.statistics().unwrap();
    assert_eq!((stats.rx_fill_ring_empty_descs, stats.rx_dropped), (6, 6));
}

/// A program is replaced while a socket is in use; packets go on to arrive.
fn xdp_prog_cleanup(lab: &dyn Lab) {
    let umem = Umem::shared(kind().umem).unwrap();
    let mut here = receiver(lab, &umem, &kind());
    lab.inject(&numbered(1, 64));
    lab.with_metadata();
    lab.inject(&numbered(2, 64));
    assert_eq!(receive(&mut here, &kind()), [numbered(1, 64), numbered(2, 64)]);
}

/// What is not redirected to the socket does not arrive there: every other packet finds an empty slot.
fn xdp_drop_half(lab: &dyn Lab) {
    let umem = Umem::shared(kind().umem).unwrap();
    let mut here = receiver(lab, &umem, &kind());
    for i in 0..10 {
        if i % 2 == 1 {
            lab.unredirect(0);
        }
        lab.inject(&numbered(i, 64));
        lab.redirect(0, here.number()).unwrap();
    }
    let got = receive(&mut here, &kind());
    assert_eq!(got, (0..10).step_by(2).map(|i| numbered(i, 64)).collect::<Vec<_>>());
}

/// Two sockets of one queue with one memory: packets go to the one that the map names.
fn xdp_shared_umem(lab: &dyn Lab) {
    let umem = Umem::shared(kind().umem).unwrap();
    let mut first = receiver(lab, &umem, &kind());
    let mut second = open(lab, &umem, config(&kind(), lab.here()));
    assert!(second.fill.is_none() && second.completion.is_none(), "the first has them");
    for i in 0..10 {
        lab.redirect(0, if i % 2 == 0 { first.number() } else { second.number() }).unwrap();
        lab.inject(&numbered(i, 64));
    }
    let of = |socket: &mut Socket<'_>| -> Vec<Vec<u8>> {
        socket.rx.as_mut().unwrap().peek(64).map(|f| f.data().to_vec()).collect()
    };
    let odd = of(&mut second);
    assert_eq!(of(&mut first), (0..10).step_by(2).map(|i| numbered(i, 64)).collect::<Vec<_>>());
    assert_eq!(odd, (1..10).step_by(2).map(|i| numbered(i, 64)).collect::<Vec<_>>());
    // Both send; the first gets the completions.
    let Socket { completion, .. } = &mut first;
    for i in 0..4 {
        assert!(push(&umem, &mut second, &numbered(i, 64)));
    }
    assert_eq!(second.wake_tx(), Ok(Wakeup::Done));
    assert_eq!(lab.arrived().len(), 4);
    assert_eq!(completion.as_mut().unwrap().recycle(64), 4);
}

fn xdp_metadata_copy(lab: &dyn Lab) {
    let umem = Umem::shared(kind().umem).unwrap();
    let mut here = receiver(lab, &umem, &kind());
    lab.with_metadata();
    lab.inject(&numbered(1, 64));
    let frame = here.rx.as_mut().unwrap().peek(1).next().unwrap();
    assert_eq!(frame.metadata(8).unwrap().to_vec(), [0x11; 8]);
    assert_eq!(frame.data().to_vec(), numbered(1, 64));
}

/// Only the first frame of a packet has metadata before it.
fn xdp_metadata_copy_multi_buff(lab: &dyn Lab) {
    lab.set_mtu(9000);
    lab.with_metadata();
    let kind = Kind { multi_buffer: true, ..kind() };
    let umem = Umem::shared(kind.umem).unwrap();
    let mut here = receiver(lab, &umem, &kind);
    lab.inject(&numbered(1, 5000));
    let mut batch = here.rx.as_mut().unwrap().peek(8);
    let frames = batch.next_packet().unwrap();
    assert_eq!(frames.len(), 2);
    assert_eq!(frames[0].metadata(8).unwrap().to_vec(), [0x11; 8]);
    assert!(frames[0].continues() && !frames[1].continues());
    let bytes: Vec<u8> = frames.iter().flat_map(|f| f.data().to_vec()).collect();
    assert_eq!(bytes, numbered(1, 5000));
}

/// Long and short packets in turn.
fn jumbo(lab: &dyn Lab, umem: UmemConfig) {
    lab.set_mtu(9000);
    let lens: Vec<usize> = (0..40).map(|i| if i % 3 == 0 { 64 } else { 9000 }).collect();
    exchange(lab, &Kind { umem, multi_buffer: true, ..kind() }, &lens);
}

fn send_receive_9k_packets(lab: &dyn Lab) {
    jumbo(lab, kind().umem);
}

fn send_receive_unaligned_9k_packets(lab: &dyn Lab) {
    jumbo(lab, UmemConfig { unaligned: true, frame_size: 3000, ..kind().umem });
}

/// In each place of a packet of three parts an invalid one: nothing of it is sent, all of it comes back, and the
/// next packet goes.
fn invalid_part(lab: &dyn Lab, unaligned: bool) {
    let umem_flags = if unaligned { XDP_UMEM_UNALIGNED_CHUNK_FLAG } else { 0 };
    let mut xsk = Xsk::new(lab, &Spec { umem_flags, tx: 32, completion: 32, ..Spec::default() });
    const C: u64 = 2048;
    (0..4).for_each(|i| xsk.write(i * C, &packet(60)));
    for bad in 0..3 {
        let part = |i: u64| (if i == bad { 64 * C } else { i * C }, 60, u32::from(i < 2));
        xsk.put(&(0..3).map(part).collect::<Vec<_>>());
        xsk.put(&[(3 * C, 64, 0)]);
        let before = xsk.tx_taken();
        for _ in 0..4 {
            assert_eq!(xsk.kick(), Ok(()));
        }
        assert_eq!(xsk.tx_taken() - before, 4, "part {bad}");
        assert_eq!(xsk.completed().len(), 4, "part {bad}");
        assert_eq!(lab.arrived().iter().map(Vec::len).collect::<Vec<_>>(), [64], "part {bad}");
    }
}

fn aligned_inv_desc_multi_buff(lab: &dyn Lab) {
    invalid_part(lab, false);
}

fn unaligned_inv_desc_multi_buff(lab: &dyn Lab) {
    invalid_part(lab, true);
}

/// 18 parts are a packet, 19 are none.
fn too_many_frags(lab: &dyn Lab) {
    lab.set_mtu(9000);
    let umem = Umem::shared(kind().umem).unwrap();
    let mut here = open(lab, &umem, config(&kind(), lab.here()));
    for (parts, arrives) in [(18, 1), (19, 0), (18, 1)] {
        let mut batch = here.tx.as_mut().unwrap().reserve(parts).unwrap();
        let mut frames: Vec<_> = umem.alloc_batch(parts as usize).collect();
        frames.iter_mut().for_each(|f| f.put(&packet(64)).unwrap());
        batch.push_packet(frames).unwrap();
        batch.submit();
        assert_eq!(here.wake_tx(), Ok(Wakeup::Done));
        assert_eq!(lab.arrived().len(), arrives, "{parts} parts");
        assert_eq!(here.completion.as_mut().unwrap().recycle(64), parts);
    }
    assert_eq!(here.statistics().unwrap().tx_invalid_descs, 19);
}

fn hw_sw_min_ring_size(lab: &dyn Lab) {
    exchange(lab, &Kind { ring: 1, ..kind() }, &small(20));
    exchange(lab, &Kind { ring: 2, ..kind() }, &small(20));
}

fn hw_sw_max_ring_size(lab: &dyn Lab) {
    exchange(lab, &Kind { ring: 1 << 15, ..kind() }, &small(300));
}
