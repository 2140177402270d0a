//! Packets exchanged with an application on libxdp that knows nothing of us, over veth.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use linux::needs_kernel;
use linux::testing::{VethPair, command, skipped};
use linux::xsk::{AttachMode, RedirectProgram};
use xsk::*;

/// Compiles the other application; `None` where there is no libxdp, which is said.
fn peer() -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/peer.c");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peer");
    let built = Command::new("cc")
        .args(["-O2", "-Wall", "-Werror", "-o"])
        .args([&program, &source])
        .args(["-lxdp", "-lbpf"])
        .output();
    match built {
        Ok(output) if output.status.success() => Some(program),
        Ok(output) => {
            skipped(&format!("needs libxdp-dev: {}", String::from_utf8_lossy(&output.stderr)));
            None
        }
        Err(e) => {
            skipped(&format!("needs a C compiler: {e}"));
            None
        }
    }
}

/// Stops with its value, whatever becomes of the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the peer and waits until it is ready.
fn start(program: &Path, args: &[&str]) -> (Running, BufReader<std::process::ChildStdout>) {
    let mut child = Command::new(program).args(args).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let running = Running(child);
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n", "the peer says why on its standard error");
    (running, out)
}

fn config(ifindex: u32) -> SocketConfig {
    SocketConfig { mode: Mode::Copy, ..SocketConfig::new(ifindex, 0) }
}

#[test]
fn kernel_sockets_exchange_packets_with_libxdp() {
    needs_kernel!();
    let Some(program) = peer() else { return };
    const COUNT: u32 = 20_000;
    let pair = VethPair::new().unwrap();
    let test = || {
        command("sysctl", &["-qw", "net.ipv6.conf.all.disable_ipv6=1"]).unwrap();
        let umem = Umem::new(UmemConfig::default()).unwrap();
        let mut socket = Socket::open(&KernelHome, &umem, config(pair.ifindex0)).unwrap();
        let redirect = RedirectProgram::attach(pair.ifindex0, 1, AttachMode::Native, false).unwrap();
        redirect.insert(0, socket.number()).unwrap();
        socket.fill.as_mut().unwrap().refill(1024);
        let (mut peer, mut out) = start(&program, &["echo", "veth1", "0", &COUNT.to_string()]);

        let (mut sent, mut back) = (0, 0);
        let deadline = Instant::now() + Duration::from_secs(20);
        while back < COUNT && Instant::now() < deadline {
            // At most as many on their way as everyone has room for.
            let room = COUNT.min(back + 512) - sent;
            let mut batch = socket.tx.as_mut().unwrap().reserve_up_to(room.min(64));
            for mut frame in umem.alloc_batch(batch.left() as usize) {
                let mut packet = [0; 64];
                packet[..14].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
                packet[14..18].copy_from_slice(&sent.to_be_bytes());
                frame.put(&packet).unwrap();
                batch.push(frame).unwrap();
                sent += 1;
            }
            batch.submit();
            while socket.wake_tx().unwrap() == Wakeup::Again {
                socket.completion.as_mut().unwrap().recycle(64);
            }
            socket.completion.as_mut().unwrap().recycle(256);
            for frame in socket.rx.as_mut().unwrap().peek(256) {
                let header = frame.read::<18>(0).unwrap();
                assert_eq!(header[..12], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], "swapped");
                assert_eq!(header[14..18], back.to_be_bytes(), "in order");
                back += 1;
            }
            socket.fill.as_mut().unwrap().refill(256);
        }
        assert_eq!((sent, back), (COUNT, COUNT));
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert!(line.starts_with(&format!("{COUNT} ")), "{line}");
        assert!(peer.0.wait().unwrap().success());
        let stats = socket.statistics().unwrap();
        assert_eq!((stats.rx_dropped, stats.rx_ring_full, stats.tx_invalid_descs), (0, 0, 0));
    };
    pair.netns.run(test).unwrap();
}

/// A measurement, not a test of speed: what we and libxdp reach at the same work, to be printed with
/// `--nocapture`. Each of ours must come to its end.
#[test]
fn kernel_sockets_are_measured_beside_libxdp() {
    needs_kernel!();
    let Some(program) = peer() else { return };
    const COUNT: u64 = 200_000;
    let pair = VethPair::new().unwrap();
    let test = || {
        command("sysctl", &["-qw", "net.ipv6.conf.all.disable_ipv6=1"]).unwrap();
        // Sending, one after the other.
        let (_peer, mut out) = start(&program, &["tx", "veth1", "0", &COUNT.to_string()]);
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let (n, seconds) = line.trim().split_once(' ').unwrap();
        let theirs = n.parse::<f64>().unwrap() / seconds.parse::<f64>().unwrap();
        let umem = Umem::new(UmemConfig::default()).unwrap();
        let mut socket = Socket::open(&KernelHome, &umem, config(pair.ifindex0)).unwrap();
        let begin = Instant::now();
        let pace = app::Pace { batch: 64, spin: true };
        let done = app::run(&umem, &mut socket, &mut app::Job::Send(&[0xff; 64]), pace, |c| {
            c.completed < COUNT && begin.elapsed() < Duration::from_secs(20)
        });
        let done = done.unwrap().completed;
        let ours = done as f64 / begin.elapsed().as_secs_f64();
        assert!(done >= COUNT);
        let text = format!("tx: ours {:.3} Mpps, libxdp {:.3} Mpps\n", ours / 1e6, theirs / 1e6);
        let _ = std::io::stdout().write_all(text.as_bytes());
    };
    pair.netns.run(test).unwrap();
}
