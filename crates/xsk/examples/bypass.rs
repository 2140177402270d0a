//! Past the host's stack: packets of a queue go to this process, as in the XDP tutorial's AF_XDP lesson.
//!
//! The program that does it is the one that looks its queue up in `xsks_map` and redirects there; packets of
//! queues without a socket pass. `cargo run -p earlybird-xsk --example bypass -- IFNAME [QUEUE]`, as root.

use linux::xsk::{AttachMode, RedirectProgram};
use xsk::{KernelHome, PollEvents, Socket, SocketConfig, Umem, UmemConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let ifname = args.next().ok_or("usage: bypass IFNAME [QUEUE]")?;
    let queue = args.next().map_or(Ok(0), |q| q.parse())?;
    let ifindex = linux::sys::if_index(&ifname).ok_or(format!("{ifname}: no such device"))?;

    // The memory, a socket with its four rings, and the program with its map.
    let umem = Umem::new(UmemConfig::default())?;
    let mut socket = Socket::open(&KernelHome, &umem, SocketConfig::new(ifindex, queue))?;
    let program = RedirectProgram::attach(ifindex, queue + 1, AttachMode::Unspecified, false)
        .map_err(|e| format!("{ifname}: {} {}", e.errno, e.log))?;
    program.insert(queue, socket.number())?;

    let raw = socket.raw().clone();
    let (Some(rx), Some(fill)) = (&mut socket.rx, &mut socket.fill) else { unreachable!("it has both") };
    fill.refill(2048);
    loop {
        raw.poll(PollEvents::IN, None)?;
        let mut received = rx.peek(64);
        let mut back = fill.reserve_up_to(received.left());
        for frame in received.by_ref() {
            let header = frame.read::<14>(0).unwrap_or_default();
            println!("{} bytes, type 0x{:02x}{:02x}", frame.len(), header[12], header[13]);
            back.push(frame);
        }
    }
}
