//! Answers UDP datagrams to port 7 with what they said, and ARP requests, for an address that the host's
//! stack knows nothing of. Everything else of the queue is dropped.
//!
//! `cargo run -p earlybird-xsk --example udp_echo -- IFNAME ADDRESS MAC`, as root; then from the other side:
//! `echo hello | nc -u -q1 ADDRESS 7`.

use std::net::Ipv4Addr;

use linux::xsk::{AttachMode, RedirectProgram};
use xsk::{Frame, KernelHome, PollEvents, Socket, SocketConfig, Umem, UmemConfig};

const ECHO: [u8; 2] = 7_u16.to_be_bytes();

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let [ifname, address, mac] = &args[..] else { return Err("usage: udp_echo IFNAME ADDRESS MAC".into()) };
    let ifindex = linux::sys::if_index(ifname).ok_or(format!("{ifname}: no such device"))?;
    let address: Ipv4Addr = address.parse()?;
    let bytes: Result<Vec<_>, _> = mac.split(':').map(|b| u8::from_str_radix(b, 16)).collect();
    let mac: [u8; 6] = bytes?.try_into().map_err(|_| "a MAC address has six bytes")?;

    let umem = Umem::new(UmemConfig::default())?;
    let mut socket = Socket::open(&KernelHome, &umem, SocketConfig::new(ifindex, 0))?;
    let program = RedirectProgram::attach(ifindex, 1, AttachMode::Unspecified, false)
        .map_err(|e| format!("{ifname}: {} {}", e.errno, e.log))?;
    program.insert(0, socket.number())?;
    loop {
        if let (Some(fill), Some(completion)) = (&mut socket.fill, &mut socket.completion) {
            completion.recycle(256);
            fill.refill(256);
        }
        socket.poll(PollEvents::IN, None)?;
        let (Some(rx), Some(tx)) = (&mut socket.rx, &mut socket.tx) else { unreachable!("it has both") };
        let mut received = rx.peek(64);
        let mut replies = tx.reserve_up_to(received.left());
        for mut frame in received.by_ref() {
            if arp_reply(&mut frame, address, mac) || echo(&mut frame, address) {
                // Without a place it is dropped, as a datagram may be.
                drop(replies.push(frame));
            }
        }
        drop((received, replies));
        socket.wake_tx()?;
    }
}

/// Turns a datagram to port 7 around. Sums stay right: the same words are in them.
fn echo(frame: &mut Frame<'_>, address: Ipv4Addr) -> bool {
    let Some(old) = frame.read::<42>(0) else { return false };
    let udp = old[12..15] == [8, 0, 0x45] && old[23] == 17;
    if !udp || old[30..34] != address.octets() || old[36..38] != ECHO {
        return false;
    }
    let mut new = old;
    for (a, b, n) in [(0, 6, 6), (26, 30, 4), (34, 36, 2)] {
        new[a..a + n].copy_from_slice(&old[b..b + n]);
        new[b..b + n].copy_from_slice(&old[a..a + n]);
    }
    frame.write(0, &new).is_ok()
}

/// Turns a request for the address into its answer.
fn arp_reply(frame: &mut Frame<'_>, address: Ipv4Addr, mac: [u8; 6]) -> bool {
    let Some(old) = frame.read::<42>(0) else { return false };
    let request = old[12..22] == [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
    if !request || old[38..42] != address.octets() {
        return false;
    }
    let mut new = old;
    new[0..6].copy_from_slice(&old[6..12]);
    new[6..12].copy_from_slice(&mac);
    new[21] = 2;
    new[22..28].copy_from_slice(&mac);
    new[28..32].copy_from_slice(&address.octets());
    new[32..42].copy_from_slice(&old[22..32]);
    frame.write(0, &new).is_ok()
}
