//! Sockets of the running kernel over veth, ours and those of an application on libxdp.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bpf::Insn;
use linux::sys::{Link, PinnedToCpu, Prog, TestRunArgs, thread_cpu_time};
use linux::testing::{RawProg, VethPair, command, load_insns};
use uapi::bpf::*;
use uapi::bpf_attr::BPF_F_TEST_XDP_LIVE_FRAMES;
use uapi::xdp::{XdpAction, XdpMd};

use super::Work;
use super::peer::{Peer, packet};

/// The application on libxdp.
const PEER_C: &str = include_str!("peer.c");

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Who {
    Ours,
    Libxdp,
}

/// A pair of devices in a namespace of its own, an application on `veth0`, and a generator behind `veth1`, where
/// what comes back is dropped. Everything runs on one CPU.
pub(super) struct Side {
    work: Work,
    cpu: u32,
    pair: VethPair,
    peer: Peer,
    generator: Prog,
    _drop: Link,
}

/// CPU time of some packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    /// Of the application, with what its system calls do.
    pub(super) app: Duration,
    /// Of everything, generator included.
    pub(super) all: Duration,
}

impl Side {
    pub(super) fn start(who: Who, work: Work, cpu: u32, libxdp: &Path) -> Result<Self> {
        let pair = VethPair::new().map_err(|e| anyhow!(e))?;
        let make = || -> Result<(Link, Prog, Peer)> {
            command("sysctl", &["-qw", "net.ipv6.conf.all.disable_ipv6=1"]).map_err(|e| anyhow!(e))?;
            let drop = load(&[ret(XdpAction::Drop as i32), EXIT])?;
            let link = Link::create(std::os::fd::AsFd::as_fd(&drop), pair.ifindex1, 1 << 2);
            let link = link.map_err(|e| anyhow!("attaching to veth1: {e}"))?;
            let generator = load(&redirect_to(pair.ifindex1))?;
            let mut command = match who {
                Who::Ours => {
                    let mut own = Command::new(std::env::current_exe()?);
                    own.args(["bench", "xsk", "--serve", work.name(), "--ifname", "veth0"]);
                    own.args(["--cpu", &cpu.to_string()]);
                    own
                }
                Who::Libxdp => {
                    let mut other = Command::new(libxdp);
                    // Its program is to be attached as ours is, not behind a dispatcher.
                    other.args([work.name(), "veth0", &cpu.to_string()]).env("LIBXDP_SKIP_DISPATCHER", "1");
                    other
                }
            };
            Ok((link, generator, Peer::start(&mut command)?))
        };
        let made = pair.netns.run(make).map_err(|e| anyhow!("network namespace: {e}"))?;
        let (link, generator, peer) = made.with_context(|| format!("{who:?} {}", work.name()))?;
        Ok(Self { work, cpu, pair, peer, generator, _drop: link })
    }

    /// Does so many packets.
    pub(super) fn slice(&mut self, packets: u32) -> Result<Cost> {
        let sent = if self.work == Work::Tx { Duration::ZERO } else { self.generate(packets)? };
        let (done, app) = self.peer.run(packets)?;
        anyhow::ensure!(done >= u64::from(packets), "{packets} packets were to be done and {done} were");
        // It sends in batches, so the last may be more than was asked for.
        let app = app.mul_f64(f64::from(packets) / done as f64);
        Ok(Cost { app, all: sent + app })
    }

    fn generate(&self, packets: u32) -> Result<Duration> {
        let ctx = XdpMd { data_end: 64, ingress_ifindex: self.pair.ifindex1, ..XdpMd::default() };
        let run = || {
            let _pin = PinnedToCpu::new(self.cpu)?;
            let mut args = TestRunArgs {
                data_in: &packet(),
                ctx_in: &ctx.to_bytes(),
                repeat: packets,
                flags: BPF_F_TEST_XDP_LIVE_FRAMES,
                ..TestRunArgs::default()
            };
            let before = thread_cpu_time();
            self.generator.test_run(&mut args).map_err(|(errno, _)| errno)?;
            Ok::<_, uapi::Errno>(thread_cpu_time() - before)
        };
        let result = self.pair.netns.run(run).map_err(|e| anyhow!("network namespace: {e}"))?;
        result.map_err(|e| anyhow!("live frames: {e}"))
    }
}

/// Builds the application on libxdp.
pub(super) fn build_libxdp() -> Result<PathBuf> {
    let dir = std::env::temp_dir().join(format!("earlybird-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let (source, program) = (dir.join("peer.c"), dir.join("peer"));
    std::fs::write(&source, PEER_C)?;
    let mut cc = Command::new("cc");
    cc.arg("-O2").arg("-o").args([&program, &source]).args(["-lxdp", "-lbpf"]);
    let output = cc.output().context("cc")?;
    let text = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "needs libxdp-dev and a C compiler: {text}");
    Ok(program)
}

const EXIT: Insn = Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);

fn ret(value: i32) -> Insn {
    Insn::new(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, value)
}

/// `return bpf_redirect(ifindex, 0)`.
fn redirect_to(ifindex: u32) -> [Insn; 4] {
    [
        Insn::new(BPF_ALU64 | BPF_MOV | BPF_K, 1, 0, 0, ifindex as i32),
        Insn::new(BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, 0),
        Insn::new(BPF_JMP | BPF_CALL, 0, 0, 0, 23),
        EXIT,
    ]
}

fn load(insns: &[Insn]) -> Result<Prog> {
    let loaded = load_insns(&RawProg::xdp(insns));
    loaded.map(|(prog, _)| prog).map_err(|e| anyhow!("{} {}", e.errno, e.log))
}
