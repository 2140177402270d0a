//! What tests need to ask the running kernel: whether they may, raw programs, network namespaces.
//!
//! A test that needs the kernel starts with [`needs_kernel!`](crate::needs_kernel) and has `kernel` in its
//! name, so that a filter finds all of them.

use std::io::Write as _;
use std::process::Command;

use bpf::Insn;
use uapi::Errno;
use uapi::bpf::BPF_PROG_TYPE_XDP;
use uapi::bpf::MapType;
use uapi::xdp::XdpMd;

use crate::sys::{Capabilities, Capability, Map, MapArgs, NetNs, Prog, ProgArgs, ProgError, TestRunArgs};

/// With this variable set, tests that need the kernel fail where they would be skipped.
pub const REQUIRE_KERNEL: &str = "EARLYBIRD_REQUIRE_KERNEL";

/// Returns from a test, loudly, if it cannot ask the kernel.
#[macro_export]
macro_rules! needs_kernel {
    () => {
        if let Err(why) = $crate::testing::kernel_available() {
            $crate::testing::skipped(&why);
            return;
        }
    };
}

/// Whether this process may load programs and make namespaces; else what is missing.
///
/// # Errors
///
/// A sentence that says what is missing.
pub fn kernel_available() -> Result<(), String> {
    let caps = Capabilities::effective().map_err(|e| format!("capabilities cannot be read: {e}"))?;
    let needed = [Capability::Bpf, Capability::NetAdmin, Capability::Perfmon, Capability::SysAdmin];
    let missing: Vec<_> = needed.into_iter().filter(|c| !caps.has(*c)).map(Capability::name).collect();
    if !missing.is_empty() {
        return Err(format!("needs root ({} missing)", missing.join(", ")));
    }
    Map::create(&MapArgs::default()).map(drop).map_err(|e| format!("bpf(2) does not work: {e}"))
}

/// Says that the running test is skipped, so that it cannot be overlooked.
///
/// # Panics
///
/// If [`REQUIRE_KERNEL`] is set.
pub fn skipped(why: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var_os(REQUIRE_KERNEL).is_none(), "{name} may not be skipped here: {why}");
    // Not with `eprintln!`, which the test harness swallows.
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {why}");
}

/// A raw program for [`load_insns`].
#[derive(Clone, Debug)]
pub struct RawProg<'a> {
    /// `enum bpf_prog_type`.
    pub prog_type: u32,
    /// Instructions; maps are descriptors ([`map_fd`]).
    pub insns: &'a [Insn],
    /// `BPF_F_*`.
    pub flags: u32,
    /// `expected_attach_type`.
    pub attach_type: u32,
    /// Licence text.
    pub license: &'a str,
    /// `BPF_LOG_*`; 0 asks for a log only if the program is refused.
    pub log_level: u32,
}

impl<'a> RawProg<'a> {
    /// A GPL XDP program without flags.
    #[must_use]
    pub fn xdp(insns: &'a [Insn]) -> Self {
        Self { prog_type: BPF_PROG_TYPE_XDP, insns, flags: 0, attach_type: 0, license: "GPL", log_level: 0 }
    }
}

/// Loads raw instructions; also answers the log that was asked for.
///
/// # Errors
///
/// The kernel's errno and the verifier's log.
pub fn load_insns(prog: &RawProg<'_>) -> Result<(Prog, String), ProgError> {
    Prog::load(&ProgArgs {
        prog_type: prog.prog_type,
        insns: prog.insns,
        license: prog.license,
        name: "raw",
        flags: prog.flags,
        attach_type: prog.attach_type,
        log_level: prog.log_level,
        ..ProgArgs::default()
    })
}

/// The number of a map as `BPF_PSEUDO_MAP_FD` wants it.
#[must_use]
pub fn map_fd(map: &Map) -> i32 {
    use std::os::fd::{AsFd, AsRawFd};
    map.as_fd().as_raw_fd()
}

/// Makes a map of a type with default name and no type information.
///
/// # Errors
///
/// The kernel's errno.
pub fn create_map(map_type: MapType, key: u32, value: u32, entries: u32, flags: u32) -> Result<Map, Errno> {
    Map::create(&MapArgs {
        map_type: map_type as u32,
        key_size: key,
        value_size: value,
        max_entries: entries,
        map_flags: flags,
        name: "t",
        ..MapArgs::default()
    })
}

/// What [`test_run`] answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawRun {
    /// The program's return value.
    pub retval: u32,
    /// Metadata and packet afterwards.
    pub data: Vec<u8>,
    /// `ctx_out`.
    pub ctx: XdpMd,
    /// Mean time of one run, nanoseconds.
    pub duration_ns: u32,
}

/// `BPF_PROG_TEST_RUN` of an XDP program over one packet.
///
/// # Errors
///
/// The kernel's errno.
pub fn test_run(prog: &Prog, data: &[u8], ctx: Option<XdpMd>, repeat: u32) -> Result<RawRun, Errno> {
    // What a packet can grow by is less than a page beside its own length.
    let mut out = vec![0; data.len() + 8192];
    let mut ctx_out = [0; 24];
    // Asking for `ctx_out` alone counts as a context of zeroes, in which no byte is linear.
    let whole = XdpMd { data_end: data.len() as u32, ..XdpMd::default() };
    let ctx_in = ctx.unwrap_or(whole).to_bytes();
    let result = prog
        .test_run(&mut TestRunArgs {
            data_in: data,
            data_out: &mut out,
            ctx_in: &ctx_in,
            ctx_out: &mut ctx_out,
            repeat,
            ..TestRunArgs::default()
        })
        .map_err(|(errno, _)| errno)?;
    out.truncate(result.data_len);
    Ok(RawRun {
        retval: result.retval,
        data: out,
        ctx: XdpMd::from_bytes(ctx_out),
        duration_ns: result.duration_ns,
    })
}

/// Runs a command of the system, e.g. `ip`, in the calling thread's namespaces.
///
/// # Errors
///
/// The command with what it wrote.
pub fn command(program: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{program} {}: {}", args.join(" "), text(&output.stderr).trim()))
    }
}

/// A network namespace with a pair of veth devices, `veth0` and `veth1`, both up. Nothing of it is visible
/// outside, and all of it ends with the value.
#[derive(Debug)]
pub struct VethPair {
    /// The namespace.
    pub netns: NetNs,
    /// Number of `veth0`.
    pub ifindex0: u32,
    /// Number of `veth1`.
    pub ifindex1: u32,
}

impl VethPair {
    /// Makes it, with `ip`.
    ///
    /// # Errors
    ///
    /// What did not work.
    pub fn new() -> Result<Self, String> {
        let netns = NetNs::new().map_err(|e| format!("network namespace: {e}"))?;
        let make = || -> Result<(u32, u32), String> {
            // One queue each, as many as are in use: `ip` shows how many there could be.
            let queues = ["numtxqueues", "1", "numrxqueues", "1"];
            let [add, peer] = [["link", "add", "veth0"], ["peer", "name", "veth1"]];
            command("ip", &[&add[..], &queues, &["type", "veth"], &peer, &queues].concat())?;
            for device in ["lo", "veth0", "veth1"] {
                command("ip", &["link", "set", device, "up"])?;
            }
            let index = |name| crate::sys::if_index(name).ok_or_else(|| format!("no device {name}"));
            Ok((index("veth0")?, index("veth1")?))
        };
        let (ifindex0, ifindex1) = netns.run(make).map_err(|e| e.to_string())??;
        Ok(Self { netns, ifindex0, ifindex1 })
    }
}

#[cfg(test)]
mod tests;
