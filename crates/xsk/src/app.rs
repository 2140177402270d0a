//! The loops of AF_XDP applications: drop what comes, send, send back, look. They run on a socket of either
//! home; `earlybird xsk` is their command.

use std::time::Duration;

use crate::{FillRing, Frame, PollEvents, Socket, Umem, Wakeup};
use uapi::Errno;

/// How long an idle application sleeps before it looks at its limits again.
const NAP: Duration = Duration::from_millis(100);

/// What an application does with packets.
pub enum Job<'a> {
    /// Takes packets and gives the frames back.
    Drop,
    /// Sends a packet over and over.
    Send(&'a [u8]),
    /// Sends packets back the way they came, with addresses swapped.
    Echo,
    /// Shows packets to someone.
    Look(&'a mut dyn FnMut(&[u8])),
}

/// How a loop runs.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Frames that are handled at once.
    pub batch: u32,
    /// Look again at once when nothing came, instead of sleeping in poll(2).
    pub spin: bool,
}

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes of them.
    pub rx_bytes: u64,
    /// Packets given to the TX ring.
    pub tx_packets: u64,
    /// Bytes of them.
    pub tx_bytes: u64,
    /// Frames that came back after sending.
    pub completed: u64,
}

/// Runs a job until `go_on` says no. It is asked after every batch, and every 100 ms when nothing comes.
///
/// # Errors
///
/// The first errno that is not about being busy: `ENETDOWN`, `ENXIO` and so on.
///
/// # Panics
///
/// If the socket has no fill ring, or none of the rings that the job needs.
pub fn run<'u>(
    umem: &'u Umem,
    socket: &mut Socket<'u>,
    job: &mut Job<'_>,
    pace: Pace,
    mut go_on: impl FnMut(&Counters) -> bool,
) -> Result<Counters, Errno> {
    let mut counters = Counters::default();
    while go_on(&counters) {
        let worked = match job {
            Job::Drop => receive(socket, pace.batch, &mut counters, |_| {}),
            Job::Look(show) => {
                receive(socket, pace.batch, &mut counters, |frame| show(&frame.data().to_vec()))
            }
            Job::Echo => echo(socket, pace.batch, &mut counters)?,
            Job::Send(packet) => send(umem, socket, packet, pace.batch, &mut counters)?,
        };
        if !worked {
            idle(socket, job, pace)?;
        }
    }
    Ok(counters)
}

/// Takes a batch and gives the frames back; answers whether anything came.
fn receive(
    socket: &mut Socket<'_>,
    batch: u32,
    counters: &mut Counters,
    mut each: impl FnMut(&Frame<'_>),
) -> bool {
    let (Some(rx), Some(fill)) = (&mut socket.rx, &mut socket.fill) else { panic!("no RX or fill ring") };
    let mut received = rx.peek(batch);
    let n = received.left();
    if n == 0 {
        // What found no place earlier.
        fill.refill(batch);
        return false;
    }
    let mut back = fill.reserve_up_to(n);
    for frame in received.by_ref() {
        counters.rx_packets += u64::from(!frame.continues());
        counters.rx_bytes += frame.len() as u64;
        each(&frame);
        back.push(frame);
    }
    true
}

fn echo(socket: &mut Socket<'_>, batch: u32, counters: &mut Counters) -> Result<bool, Errno> {
    let Socket { rx: Some(rx), tx: Some(tx), fill: Some(fill), completion: Some(completion), .. } = socket
    else {
        panic!("a ring is missing")
    };
    let mut received = rx.peek(batch);
    let n = received.left();
    let mut out = tx.reserve_up_to(n);
    for mut frame in received.by_ref() {
        counters.rx_packets += 1;
        counters.rx_bytes += frame.len() as u64;
        let len = frame.len() as u64;
        swap_addresses(&mut frame);
        // A frame that finds no place is dropped, and free again.
        if out.push(frame).is_ok() {
            counters.tx_packets += 1;
            counters.tx_bytes += len;
        }
    }
    drop(received);
    out.submit();
    let waits = tx.in_flight() > 0 && tx.needs_wakeup();
    counters.completed += u64::from(completion.recycle(2 * batch));
    fill.refill(2 * batch);
    if waits {
        wake(socket)?;
    }
    Ok(n > 0)
}

/// Exchanges source and destination of an Ethernet frame.
fn swap_addresses(frame: &mut Frame<'_>) {
    if let Some(old) = frame.read::<12>(0) {
        let mut new = [0; 12];
        new[..6].copy_from_slice(&old[6..]);
        new[6..].copy_from_slice(&old[..6]);
        // It was as long when it was read.
        let _ = frame.write(0, &new);
    }
}

fn send<'u>(
    umem: &'u Umem,
    socket: &mut Socket<'u>,
    packet: &[u8],
    batch: u32,
    counters: &mut Counters,
) -> Result<bool, Errno> {
    let (Some(tx), Some(completion)) = (&mut socket.tx, &mut socket.completion) else { panic!("no TX ring") };
    let mut out = tx.reserve_up_to(batch);
    let places = out.left();
    let mut done = completion.peek(places);
    counters.completed += u64::from(done.left());
    // Frames that come back hold the packet still.
    for mut frame in done.by_ref() {
        if frame.set_len(packet.len()).is_ok() {
            let _ = out.push(frame);
        }
    }
    drop(done);
    for mut frame in umem.alloc_batch(out.left() as usize) {
        if frame.put(packet).is_ok() {
            let _ = out.push(frame);
        }
    }
    let n = places - out.left();
    out.submit();
    counters.tx_packets += u64::from(n);
    counters.tx_bytes += u64::from(n) * packet.len() as u64;
    if tx.needs_wakeup() {
        wake(socket)?;
    }
    Ok(n > 0)
}

/// Wakes the sending side as often as it says that there is more, within bounds: the rest is for the next
/// round.
fn wake(socket: &Socket<'_>) -> Result<(), Errno> {
    for _ in 0..4 {
        if socket.wake_tx()? != Wakeup::Again {
            break;
        }
    }
    Ok(())
}

fn idle(socket: &Socket<'_>, job: &Job<'_>, pace: Pace) -> Result<(), Errno> {
    if socket.fill.as_ref().is_some_and(FillRing::needs_wakeup) {
        socket.wake_rx()?;
    }
    if !pace.spin {
        let events = if matches!(job, Job::Send(_)) { PollEvents::OUT } else { PollEvents::IN };
        match socket.poll(events, Some(NAP)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use uapi::if_xdp::XdpStatistics;

    use super::*;
    use crate::engine::Wire;
    use crate::{SocketConfig, UmemConfig};

    const PACE: Pace = Pace { batch: 16, spin: true };

    fn config(ifindex: u32) -> SocketConfig {
        let n = 64;
        SocketConfig {
            rx_entries: n,
            tx_entries: n,
            fill_entries: n,
            completion_entries: n,
            ..SocketConfig::new(ifindex, 0)
        }
    }

    fn packet() -> Vec<u8> {
        (0..60).collect()
    }

    /// A sender, and an application at the other end that does `job` until it has seen 1000 packets.
    fn against_sender(job: &mut Job<'_>) -> (Counters, XdpStatistics) {
        let wire = Wire::new(1, || 0);
        let umem_of = || Umem::new(UmemConfig { frames: 256, ..UmemConfig::default() }).unwrap();
        let (ours, theirs) = (umem_of(), umem_of());
        let mut a = Socket::open(&wire.host, &ours, config(1)).unwrap();
        let mut b = Socket::open(&wire.host, &theirs, config(2)).unwrap();
        wire.a.insert(&wire.host, 0, a.number()).unwrap();
        wire.b.insert(&wire.host, 0, b.number()).unwrap();
        a.fill.as_mut().unwrap().refill(64);
        b.fill.as_mut().unwrap().refill(64);
        let mut counters = Counters::default();
        while counters.rx_packets < 1000 {
            let before = counters;
            let more = run(&theirs, &mut b, &mut Job::Send(&packet()), PACE, |c| c.tx_packets < 16).unwrap();
            assert_eq!(more.tx_packets, 16);
            run(&theirs, &mut b, &mut Job::Drop, PACE, |_| false).unwrap();
            receive(&mut b, 64, &mut Counters::default(), |f| assert_eq!(f.read::<2>(0), Some([6, 7])));
            let turn = std::cell::Cell::new(0);
            let done = run(&ours, &mut a, job, PACE, |_| turn.replace(turn.get() + 1) < 3).unwrap();
            counters.rx_packets += done.rx_packets;
            counters.tx_packets += done.tx_packets;
            counters.completed += done.completed;
            counters.rx_bytes += done.rx_bytes;
            assert_ne!(counters, before);
        }
        assert_eq!(ours.counts().held, 0, "no frame is lost");
        (counters, a.statistics().unwrap())
    }

    #[test]
    fn packets_are_dropped_and_their_frames_come_back() {
        let (counters, stats) = against_sender(&mut Job::Drop);
        assert_eq!((counters.rx_packets, counters.rx_bytes), (1008, 60 * 1008));
        assert_eq!((stats.rx_dropped, stats.rx_ring_full), (0, 0));
    }

    #[test]
    fn packets_are_sent_back_with_addresses_swapped() {
        let (counters, stats) = against_sender(&mut Job::Echo);
        assert_eq!((counters.rx_packets, counters.tx_packets), (1008, 1008));
        assert_eq!(stats.tx_invalid_descs, 0);
    }

    #[test]
    fn packets_are_shown() {
        let mut seen = 0;
        let mut show = |data: &[u8]| {
            assert_eq!(data, packet());
            seen += 1;
        };
        against_sender(&mut Job::Look(&mut show));
        assert_eq!(seen, 1008);
    }
}
