//! `earlybird xsk`: AF_XDP applications on a device of the running kernel or of an engine, with rate lines.

mod serve;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use earlybird::capture::{PacketOptions, Writer};
use linux::xsk::{AttachMode, RedirectProgram};
use serde_json::json;
use uapi::if_xdp::XdpStatistics;
use xsk::app::{self, Counters, Job, Pace};
use xsk::remote::RemoteHome;
use xsk::{BusyPoll, Home, KernelHome, Mode, Socket, SocketConfig, Umem, UmemConfig};

use super::Failure;

/// Receive, send and forward packets through AF_XDP sockets
///
/// Packets of the queue go to the socket by the default redirect program, which is detached at the end; other
/// queues are not touched. On the running kernel this needs root. With `--engine` the device is one of an engine
/// that `earlybird xsk serve` runs, and nothing is needed.
#[derive(Subcommand)]
pub(crate) enum XskCommand {
    /// Drop what comes in
    Drop(Common),
    /// Send one packet over and over
    Tx(TxArgs),
    /// Send what comes in back, with Ethernet addresses swapped
    L2fwd(Common),
    /// Print packets, or write them to a capture
    Dump(DumpArgs),
    /// Run an engine with the devices of a scene, for sockets of other processes
    Serve(serve::ServeArgs),
}

#[derive(Args)]
pub(crate) struct Common {
    /// Device
    ifname: String,

    /// Use a device of the engine that serves at this socket, not one of the kernel
    #[arg(long, value_name = "SOCKET", conflicts_with = "mode")]
    engine: Option<PathBuf>,

    /// Queue of the device
    #[arg(long, short, default_value_t = 0)]
    queue: u32,

    /// Hook of the program
    #[arg(long, short, value_enum, default_value_t = Hook::Unspecified)]
    mode: Hook,

    /// Copy packets even if the driver need not
    #[arg(long, conflicts_with = "zero_copy")]
    copy: bool,

    /// Fail if the driver has to copy packets
    #[arg(long)]
    zero_copy: bool,

    /// Bytes of a frame
    #[arg(long, value_name = "BYTES", default_value_t = 4096)]
    frame_size: u32,

    /// Frames of the memory
    #[arg(long, value_name = "N", default_value_t = 8192)]
    frames: u32,

    /// Entries of each ring
    #[arg(long, value_name = "N", default_value_t = 2048)]
    ring: u32,

    /// Frames that are handled at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,

    /// Take packets in several frames
    #[arg(long)]
    multi_buffer: bool,

    /// Let this thread run the driver's poll, 20 microseconds at a time
    #[arg(long)]
    busy_poll: bool,

    /// Never sleep
    #[arg(long)]
    spin: bool,

    /// Stop after so many packets
    #[arg(long, short = 'c', value_name = "N")]
    count: Option<u64>,

    /// Stop after a time
    #[arg(long, short = 'd', value_name = "SECONDS")]
    seconds: Option<u64>,

    /// Time between rate lines
    #[arg(long, short = 'n', value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    interval: u64,

    /// Print the socket's counters with each rate line
    #[arg(long, short = 'x')]
    extra_stats: bool,

    /// Print one JSON object at the end instead of rate lines
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct TxArgs {
    #[command(flatten)]
    common: Common,

    /// Bytes of the packet
    #[arg(long, short = 's', value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(14..=4096))]
    size: u32,
}

#[derive(Args)]
pub(crate) struct DumpArgs {
    #[command(flatten)]
    common: Common,

    /// Write to a pcapng file; `-` is standard output
    #[arg(long, short = 'w', value_name = "FILE")]
    write: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Hook {
    /// The driver's if it has one
    Unspecified,
    /// The driver's
    #[value(alias = "drv", alias = "driver")]
    Native,
    /// Generic mode
    #[value(alias = "generic")]
    Skb,
}

/// Runs the command.
pub(crate) fn run(command: &XskCommand) -> Result<(), Failure> {
    match command {
        XskCommand::Drop(common) => session(common, "rxdrop", true, &mut Job::Drop),
        XskCommand::L2fwd(common) => session(common, "l2fwd", true, &mut Job::Echo),
        XskCommand::Tx(args) => session(&args.common, "txonly", false, &mut Job::Send(&packet(args.size))),
        XskCommand::Dump(args) => dump(args),
        XskCommand::Serve(args) => serve::run(args),
    }
}

fn dump(args: &DumpArgs) -> Result<(), Failure> {
    let common = &args.common;
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let Some(path) = &args.write else {
        let mut show = |data: &[u8]| println!("{:.6} {}", now().as_secs_f64(), line_of(data));
        return session(common, "dump", true, &mut Job::Look(&mut show));
    };
    let out: Box<dyn Write> = match path.as_os_str().as_encoded_bytes() {
        b"-" => Box::new(io::stdout()),
        _ => Box::new(File::create(path).with_context(|| path.display().to_string())?),
    };
    let text = path.display().to_string();
    let mut writer = Writer::new(BufWriter::new(out)).with_context(|| text.clone())?;
    let interface = writer.interface(&common.ifname).with_context(|| text.clone())?;
    let mut failed = None;
    let mut id = 0;
    let mut record = |data: &[u8]| {
        let options = PacketOptions { queue: Some(common.queue), packet_id: Some(id), verdict: None };
        id += 1;
        if failed.is_none() {
            failed = writer.packet(interface, now().as_nanos() as u64, data, options).err();
        }
    };
    let done = session(common, "dump", true, &mut Job::Look(&mut record));
    let mut out = writer.finish().with_context(|| text.clone())?;
    out.flush().with_context(|| text.clone())?;
    failed.map_or(done, |e| Err(Failure::Failed(anyhow!(e).context(text))))
}

/// Opens the socket, sends the queue's packets to it, and runs the job.
fn session(common: &Common, name: &str, receives: bool, job: &mut Job<'_>) -> Result<(), Failure> {
    let ifname = &common.ifname;
    let remote = common.engine.as_deref().map(connect).transpose()?;
    let (home, ifindex): (&dyn Home, _) = match &remote {
        Some(engine) => (engine, engine.device(ifname).ok()),
        None => (&KernelHome, linux::sys::if_index(ifname)),
    };
    let ifindex = ifindex.ok_or_else(|| anyhow!("{ifname}: no such device"))?;
    let config = UmemConfig { frames: common.frames, frame_size: common.frame_size, ..UmemConfig::default() };
    let umem = if remote.is_some() { Umem::shared(config) } else { Umem::new(config) }.context("UMEM")?;
    let mut socket = Socket::open(home, &umem, socket_config(common, ifindex, receives))
        .with_context(|| format!("{ifname} queue {}", common.queue))?;
    let program = match &remote {
        None if receives => Some(attach(common, ifindex)?),
        _ => None,
    };
    if receives {
        let (queue, number) = (common.queue, socket.number());
        match (&program, &remote) {
            (Some(program), _) => program.insert(queue, number).context("xsks_map")?,
            (None, Some(engine)) => {
                engine.redirect(ifindex, queue, number).map_err(|e| refused(ifname, e))?
            }
            (None, None) => {}
        }
        let fill = socket.fill.as_mut().context("no fill ring")?;
        fill.refill(common.frames.min(common.ring));
    }
    let copies = if socket.is_zerocopy().unwrap_or(false) { "zero-copy" } else { "copy" };
    let title = format!("{ifname}:{} {name} {copies}", common.queue);
    let mut rates = Rates::new(common, title);
    let pace = Pace { batch: common.batch, spin: common.spin };
    let stats = socket.raw().clone();
    let result = app::run(&umem, &mut socket, job, pace, |counters| rates.go_on(counters, &*stats));
    let counters = result.map_err(|errno| match errno {
        uapi::Errno::ENXIO => anyhow!("{ifname}: ENXIO: the device, or the engine that had it, is gone"),
        errno => anyhow!("{ifname}: {errno}"),
    })?;
    rates.finish(&counters, socket.statistics().ok());
    Ok(())
}

fn connect(path: &Path) -> Result<RemoteHome, Failure> {
    let connected = RemoteHome::connect(path);
    Ok(connected
        .map_err(|e| anyhow!("{}: {e}: no engine serves there (`earlybird xsk serve`)", path.display()))?)
}

fn refused(ifname: &str, errno: uapi::Errno) -> anyhow::Error {
    match errno {
        uapi::Errno::EBUSY => anyhow!("{ifname}: another XDP program is attached; detach it first"),
        errno => anyhow!("{ifname}: attaching the redirect program: {errno}"),
    }
}

fn attach(common: &Common, ifindex: u32) -> Result<RedirectProgram, Failure> {
    let mode = match common.mode {
        Hook::Unspecified => AttachMode::Unspecified,
        Hook::Native => AttachMode::Native,
        Hook::Skb => AttachMode::Skb,
    };
    let refused = |e: linux::sys::ProgError| match e.log.as_str() {
        "" => refused(&common.ifname, e.errno),
        log => anyhow!("{}: the redirect program: {} {log}", common.ifname, e.errno),
    };
    Ok(RedirectProgram::attach(ifindex, common.queue + 1, mode, common.multi_buffer).map_err(refused)?)
}

fn socket_config(common: &Common, ifindex: u32, receives: bool) -> SocketConfig {
    SocketConfig {
        rx_entries: if receives { common.ring } else { 0 },
        tx_entries: common.ring,
        fill_entries: common.ring,
        completion_entries: common.ring,
        mode: match (common.copy, common.zero_copy) {
            (true, _) => Mode::Copy,
            (_, true) => Mode::ZeroCopy,
            _ => Mode::Auto,
        },
        multi_buffer: common.multi_buffer,
        busy_poll: common.busy_poll.then_some(BusyPoll { timeout_us: 20, budget: 64 }),
        ..SocketConfig::new(ifindex, common.queue)
    }
}

/// Rate lines and limits.
struct Rates<'a> {
    common: &'a Common,
    title: String,
    start: Instant,
    /// Of the last line.
    last: Instant,
    before: Counters,
}

impl<'a> Rates<'a> {
    fn new(common: &'a Common, title: String) -> Self {
        let now = Instant::now();
        Self { common, title, start: now, last: now, before: Counters::default() }
    }

    /// Whether no limit is reached; prints a line when it is time.
    fn go_on(&mut self, counters: &Counters, socket: &dyn xsk::RawSocket) -> bool {
        let now = Instant::now();
        let period = now - self.last;
        if period >= Duration::from_secs(self.common.interval) && !self.common.json {
            self.line(counters, period);
            if self.common.extra_stats {
                let mut bytes = [0; XdpStatistics::SIZE];
                if socket.getsockopt(uapi::if_xdp::SOL_XDP, uapi::if_xdp::XDP_STATISTICS, &mut bytes).is_ok()
                {
                    eprintln!("{}", stats_line(&XdpStatistics::from_bytes(&bytes)));
                }
            }
            (self.last, self.before) = (now, *counters);
        }
        let packets = counters.rx_packets.max(counters.tx_packets);
        self.common.count.is_none_or(|n| packets < n)
            && self.common.seconds.is_none_or(|s| now - self.start < Duration::from_secs(s))
    }

    fn line(&self, counters: &Counters, period: Duration) {
        let seconds = period.as_secs_f64();
        let rate = |now: u64, before: u64| ((now - before) as f64 / seconds).round() as u64;
        eprintln!(
            "{}  rx {} pps {} pkts  tx {} pps {} pkts  {seconds:.2} s",
            self.title,
            rate(counters.rx_packets, self.before.rx_packets),
            counters.rx_packets,
            rate(counters.tx_packets, self.before.tx_packets),
            counters.tx_packets,
        );
    }

    fn finish(&self, counters: &Counters, stats: Option<XdpStatistics>) {
        let period = self.start.elapsed();
        if !self.common.json {
            let whole = Self { before: Counters::default(), title: format!("{} all", self.title), ..*self };
            whole.line(counters, period);
            return;
        }
        let seconds = period.as_secs_f64();
        let stats = stats.unwrap_or_default();
        let report = json!({
            "seconds": seconds,
            "rx_packets": counters.rx_packets,
            "rx_bytes": counters.rx_bytes,
            "rx_mpps": counters.rx_packets as f64 / seconds / 1e6,
            "tx_packets": counters.tx_packets,
            "tx_bytes": counters.tx_bytes,
            "tx_mpps": counters.completed as f64 / seconds / 1e6,
            "completed": counters.completed,
            "rx_dropped": stats.rx_dropped,
            "rx_invalid_descs": stats.rx_invalid_descs,
            "tx_invalid_descs": stats.tx_invalid_descs,
            "rx_ring_full": stats.rx_ring_full,
            "rx_fill_ring_empty_descs": stats.rx_fill_ring_empty_descs,
            "tx_ring_empty_descs": stats.tx_ring_empty_descs,
        });
        println!("{report}");
    }
}

fn stats_line(s: &XdpStatistics) -> String {
    format!(
        "    rx dropped {}  rx ring full {}  fill ring empty {}  tx invalid {}  tx ring empty {}",
        s.rx_dropped, s.rx_ring_full, s.rx_fill_ring_empty_descs, s.tx_invalid_descs, s.tx_ring_empty_descs
    )
}

/// A broadcast frame of the local experimental type, with a count in it.
fn packet(size: u32) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..size).map(|i| i as u8).collect();
    packet[..14].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    packet
}

/// Addresses, type, length and the first bytes.
fn line_of(data: &[u8]) -> String {
    let hex = |bytes: &[u8], between: &str| {
        bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(between)
    };
    match data.split_at_checked(14) {
        Some((header, payload)) => format!(
            "{} > {} type 0x{} length {}: {}",
            hex(&header[6..12], ":"),
            hex(&header[..6], ":"),
            hex(&header[12..], ""),
            data.len(),
            hex(&payload[..payload.len().min(16)], "")
        ),
        None => format!("length {}: {}", data.len(), hex(data, "")),
    }
}
