//! The measured applications: our own in this process, and how another process is driven that does the same.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use linux::sys::{PinnedToCpu, if_index, thread_cpu_time};
use linux::xsk::{AttachMode, RedirectProgram};
use xsk::app::{self, Counters, Job, Pace};
use xsk::{KernelHome, Mode, Socket, SocketConfig, Umem, UmemConfig};

use super::Work;

/// How long an application waits for packets before it gives up.
const PATIENCE: Duration = Duration::from_secs(2);

/// Serves packet counts from standard input, as `peer.c` does with libxdp.
pub(super) fn serve(work: Work, ifname: &str, cpu: u32) -> Result<()> {
    let _pin = PinnedToCpu::new(cpu).map_err(|e| anyhow!("CPU {cpu}: {e}"))?;
    let ifindex = if_index(ifname).ok_or_else(|| anyhow!("{ifname}: no such device"))?;
    let umem = Umem::new(UmemConfig::default())?;
    let config = SocketConfig { mode: Mode::Copy, ..SocketConfig::new(ifindex, 0) };
    let mut socket = Socket::open(&KernelHome, &umem, config)?;
    let redirect = if work == Work::Tx { None } else { Some(redirect(ifindex, socket.number())?) };
    if redirect.is_some() {
        socket.fill.as_mut().context("no fill ring")?.refill(config.fill_entries);
    }
    let packet = packet();
    let mut job = match work {
        Work::Rx => Job::Drop,
        Work::Tx => Job::Send(&packet),
        Work::L2fwd => Job::Echo,
    };
    let pace = Pace { batch: 64, spin: true };
    println!("ready");
    for line in std::io::stdin().lines() {
        let count: u64 = line?.trim().parse()?;
        let (before, limit) = (thread_cpu_time(), Instant::now() + PATIENCE);
        let seen = |c: &Counters| if work == Work::Rx { c.rx_packets } else { c.completed };
        let mut last = 0;
        let counters = app::run(&umem, &mut socket, &mut job, pace, |c| {
            // The clock is only asked when nothing came, as on the other side.
            let idle = std::mem::replace(&mut last, seen(c)) == seen(c);
            seen(c) < count && !(idle && Instant::now() > limit)
        });
        let counters = counters.map_err(|e| anyhow!("{ifname}: {e}"))?;
        println!("{} {}", seen(&counters), (thread_cpu_time() - before).as_nanos());
    }
    Ok(())
}

fn redirect(ifindex: u32, socket: i32) -> Result<RedirectProgram> {
    let program = RedirectProgram::attach(ifindex, 1, AttachMode::Native, false)
        .map_err(|e| anyhow!("the redirect program: {} {}", e.errno, e.log))?;
    program.insert(0, socket).map_err(|e| anyhow!("xsks_map: {e}"))?;
    Ok(program)
}

/// 64 bytes of a type that no stack takes.
pub(super) fn packet() -> [u8; 64] {
    let mut packet = [0; 64];
    packet[..14].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 2, 0x88, 0xb5]);
    packet
}

/// An application in another process.
pub(super) struct Peer {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts it in the network namespace of the calling thread, and waits until it is ready.
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(requests), Some(out)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("no pipes to the application");
        };
        let mut peer = Self { child, requests, answers: BufReader::new(out) };
        let line = peer.line()?;
        anyhow::ensure!(line == "ready", "the application says why on its standard error");
        Ok(peer)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Lets it do so many packets; answers how many it did and the CPU time.
    pub(super) fn run(&mut self, packets: u32) -> Result<(u64, Duration)> {
        writeln!(self.requests, "{packets}")?;
        let line = self.line()?;
        let numbers = line.split_once(' ').and_then(|(n, ns)| Some((n.parse().ok()?, ns.parse().ok()?)));
        let (n, ns) = numbers.ok_or_else(|| anyhow!("the application answered {line:?}"))?;
        Ok((n, Duration::from_nanos(ns)))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Both fail if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
