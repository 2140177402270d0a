//! Sockets on the running kernel, over a pair of veth devices in a network namespace of their own.

use std::time::{Duration, Instant};

use linux::needs_kernel;
use linux::testing::{VethPair, command};
use linux::xsk::{AttachMode, RedirectProgram};
use uapi::Errno;
use xsk::*;

const WAIT: Option<Duration> = Some(Duration::from_secs(5));

fn config(ifindex: u32) -> SocketConfig {
    SocketConfig {
        rx_entries: 64,
        tx_entries: 64,
        fill_entries: 64,
        completion_entries: 64,
        mode: Mode::Copy,
        ..SocketConfig::new(ifindex, 0)
    }
}

fn umem() -> Umem {
    Umem::new(UmemConfig { frames: 128, frame_size: 2048, ..UmemConfig::default() }).unwrap()
}

/// An Ethernet frame of `len` bytes of a type that nobody else sends.
fn packet(number: u8, len: usize) -> Vec<u8> {
    let mut packet = vec![number; len];
    packet[..14].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    packet
}

/// Runs `test` in a namespace with a pair of devices that nothing but the test talks on.
fn on_veth(test: impl FnOnce(&VethPair) + Send) {
    let pair = VethPair::new().unwrap();
    let quiet = "net.ipv6.conf.all.disable_ipv6=1";
    pair.netns.run(|| command("sysctl", &["-qw", quiet]).map(drop)).unwrap().unwrap();
    pair.netns.run(|| test(&pair)).unwrap();
}

/// Takes packets until there are `n`.
fn receive<'u>(socket: &mut Socket<'u>, n: usize) -> Vec<Frame<'u>> {
    let deadline = Instant::now() + WAIT.unwrap();
    let mut frames = Vec::new();
    while frames.len() < n && Instant::now() < deadline {
        socket.poll(PollEvents::IN, Some(Duration::from_millis(100))).unwrap();
        frames.extend(socket.rx.as_mut().unwrap().peek(64));
    }
    frames
}

#[test]
fn kernel_sockets_exchange_packets() {
    needs_kernel!();
    on_veth(|pair| {
        let program = RedirectProgram::attach(pair.ifindex0, 1, AttachMode::Native, false).unwrap();
        let (here, there) = (umem(), umem());
        let mut a = Socket::open(&KernelHome, &here, config(pair.ifindex0)).unwrap();
        let mut b = Socket::open(&KernelHome, &there, config(pair.ifindex1)).unwrap();
        assert!(!a.is_zerocopy().unwrap());
        program.insert(0, a.number()).unwrap();
        assert_eq!(a.fill.as_mut().unwrap().refill(64), 64);

        let tx = b.tx.as_mut().unwrap();
        let mut batch = tx.reserve(40).unwrap();
        for i in 0..40 {
            let mut frame = there.alloc().unwrap();
            frame.put(&packet(i, 60 + usize::from(i))).unwrap();
            batch.push(frame).unwrap();
        }
        batch.submit();
        assert!(b.tx.as_ref().unwrap().needs_wakeup(), "always, in copy mode");
        assert_eq!(b.wake_tx(), Ok(Wakeup::Again), "32 at a time");
        assert_eq!(b.wake_tx(), Ok(Wakeup::Done));

        let got = receive(&mut a, 40);
        for (i, frame) in got.iter().enumerate() {
            assert_eq!(frame.data().to_vec(), packet(i as u8, 60 + i));
            assert_eq!((frame.headroom(), frame.continues()), (256, false));
        }
        assert_eq!(got.len(), 40);
        assert_eq!(here.counts(), FrameCounts { free: 64, held: 40, filled: 24, sent: 0 });
        assert_eq!(b.completion.as_mut().unwrap().recycle(64), 40);
        assert_eq!(there.counts().free, 128);
        assert_eq!(a.statistics().unwrap().rx_dropped, 0);
        assert_eq!(a.rx.as_ref().unwrap().violations(), Violations::default());

        // What was received goes back the way it came, from the same frames.
        let back = RedirectProgram::attach(pair.ifindex1, 1, AttachMode::Native, false).unwrap();
        back.insert(0, b.number()).unwrap();
        b.fill.as_mut().unwrap().refill(64);
        let mut batch = a.tx.as_mut().unwrap().reserve(8).unwrap();
        for frame in got.into_iter().take(8) {
            batch.push(frame).unwrap();
        }
        drop(batch);
        a.poll(PollEvents::OUT, WAIT).unwrap();
        let got = receive(&mut b, 8);
        assert_eq!(got.iter().map(Frame::len).collect::<Vec<_>>(), (60..68).collect::<Vec<_>>());
    });
}

#[test]
fn kernel_sockets_share_memory_between_devices_and_within_a_queue() {
    needs_kernel!();
    on_veth(|pair| {
        let umem = umem();
        let program = RedirectProgram::attach(pair.ifindex0, 1, AttachMode::Native, false).unwrap();
        let mut a = Socket::open(&KernelHome, &umem, config(pair.ifindex0)).unwrap();
        let mut same_queue = Socket::open(&KernelHome, &umem, config(pair.ifindex0)).unwrap();
        let mut other = Socket::open(&KernelHome, &umem, config(pair.ifindex1)).unwrap();
        assert!(a.fill.is_some() && other.fill.is_some());
        assert!(same_queue.fill.is_none() && same_queue.completion.is_none());
        program.insert(0, same_queue.number()).unwrap();
        a.fill.as_mut().unwrap().refill(8);
        let mut frame = umem.alloc().unwrap();
        frame.put(&packet(9, 99)).unwrap();
        other.tx.as_mut().unwrap().reserve(1).unwrap().push(frame).unwrap();
        assert_eq!(other.wake_tx(), Ok(Wakeup::Done));
        let got = receive(&mut same_queue, 1);
        assert_eq!(got[0].data().to_vec(), packet(9, 99));
        assert_eq!(a.rx.as_mut().unwrap().peek(1).count(), 0);
    });
}

#[test]
fn kernel_sockets_split_long_packets_over_frames() {
    needs_kernel!();
    on_veth(|pair| {
        for device in ["veth0", "veth1"] {
            command("ip", &["link", "set", device, "mtu", "9000"]).unwrap();
        }
        let umem = umem();
        let sg = |ifindex| SocketConfig { multi_buffer: true, ..config(ifindex) };
        let program = RedirectProgram::attach(pair.ifindex0, 1, AttachMode::Native, true).unwrap();
        let mut a = Socket::open(&KernelHome, &umem, sg(pair.ifindex0)).unwrap();
        let mut b = Socket::open(&KernelHome, &umem, sg(pair.ifindex1)).unwrap();
        program.insert(0, a.number()).unwrap();
        a.fill.as_mut().unwrap().refill(32);
        let long = packet(5, 5000);
        let frames: Vec<_> = long
            .chunks(2048)
            .map(|part| {
                let mut frame = umem.alloc().unwrap();
                frame.put(part).unwrap();
                frame
            })
            .collect();
        let mut batch = b.tx.as_mut().unwrap().reserve_up_to(64);
        batch.push_packet(frames).unwrap();
        batch.submit();
        assert_eq!(b.wake_tx(), Ok(Wakeup::Done));
        a.poll(PollEvents::IN, WAIT).unwrap();
        let mut batch = a.rx.as_mut().unwrap().peek(64);
        let got = batch.next_packet().expect("a whole packet");
        let bytes: Vec<u8> = got.iter().flat_map(|f| f.data().to_vec()).collect();
        assert_eq!(bytes, long);
        assert_eq!(got.iter().map(Frame::continues).collect::<Vec<_>>(), [true, true, false]);
        assert!(batch.next_packet().is_none());
    });
}

#[test]
fn kernel_sockets_use_unaligned_chunks_and_headroom() {
    needs_kernel!();
    on_veth(|pair| {
        let config_of = UmemConfig {
            frames: 40,
            frame_size: 3000,
            unaligned: true,
            headroom: 64,
            ..UmemConfig::default()
        };
        let umem = Umem::new(config_of).unwrap();
        let program = RedirectProgram::attach(pair.ifindex0, 1, AttachMode::Skb, false).unwrap();
        let mut a = Socket::open(&KernelHome, &umem, config(pair.ifindex0)).unwrap();
        let mut b = Socket::open(&KernelHome, &umem, config(pair.ifindex1)).unwrap();
        program.insert(0, a.number()).unwrap();
        a.fill.as_mut().unwrap().refill(20);
        for i in 0..20 {
            let mut frame = umem.alloc().unwrap();
            frame.put(&packet(i, 1400)).unwrap();
            b.tx.as_mut().unwrap().reserve(1).unwrap().push(frame).unwrap();
        }
        assert_eq!(b.wake_tx(), Ok(Wakeup::Done));
        let got = receive(&mut a, 20);
        assert_eq!(got.len(), 20);
        for (i, frame) in got.iter().enumerate() {
            assert_eq!((frame.data().to_vec(), frame.headroom()), (packet(i as u8, 1400), 320));
        }
        assert_eq!(b.completion.as_mut().unwrap().peek(64).count(), 20);
    });
}

#[test]
fn kernel_says_why_a_socket_cannot_be_opened() {
    needs_kernel!();
    on_veth(|pair| {
        let umem_a = umem();
        let refused = |umem: &Umem, config| Socket::open(&KernelHome, umem, config).map(drop).unwrap_err();
        let first = config(pair.ifindex0);
        assert_eq!(refused(&umem_a, SocketConfig { ifindex: 999, ..first }).errno, Errno::ENODEV);
        let queue = refused(&umem_a, SocketConfig { queue: 77, ..first });
        assert_eq!((queue.step, queue.errno), (Step::Bind, Errno::EINVAL));
        assert!(queue.to_string().contains("ethtool -l"), "{queue}");
        let zc = refused(&umem_a, SocketConfig { mode: Mode::ZeroCopy, ..first });
        assert_eq!((zc.step, zc.errno), (Step::Bind, Errno::EOPNOTSUPP));
        let odd = refused(&umem_a, SocketConfig { rx_entries: 65, ..first });
        assert_eq!((odd.step, odd.errno), (Step::RxRing, Errno::EINVAL));
        let a = Socket::open(&KernelHome, &umem_a, first).unwrap();
        let taken = refused(&umem(), first);
        assert_eq!((taken.step, taken.errno), (Step::Bind, Errno::EBUSY));
        drop(a);
    });
}

#[test]
fn kernel_busy_polls_when_told_to() {
    needs_kernel!();
    on_veth(|pair| {
        let umem = umem();
        let busy = SocketConfig {
            busy_poll: Some(BusyPoll { timeout_us: 20, budget: 64 }),
            ..config(pair.ifindex0)
        };
        let socket = Socket::open(&KernelHome, &umem, busy).unwrap();
        socket.wake_rx().unwrap();
        assert_eq!(socket.wake_tx(), Ok(Wakeup::Done));
    });
}
