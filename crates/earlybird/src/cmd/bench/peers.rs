//! Other engines beside ours in the table of `earlybird bench exec`: rbpf and DPDK's librte_bpf.
//!
//! Nothing of the project is built with them. Each is measured by a small program of `peers/`, which is built
//! when it is asked for, into the user's cache: rbpf by cargo from crates.io, librte_bpf by the C compiler if
//! its headers are installed. They run what needs no maps and no helpers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use bpf::Insn;
use bpf::object::ProgramSpec;
use uapi::bpf::{BPF_ADD, BPF_ALU64, BPF_CALL, BPF_JA, BPF_JMP, BPF_JMP32, BPF_MOV, BPF_X};

use super::exec::Engine;

const RBPF_MANIFEST: &str = include_str!("../../../../../peers/rbpf/Cargo.toml");
const RBPF_MAIN: &str = include_str!("../../../../../peers/rbpf/src/main.rs");
const DPDK_MAIN: &str = include_str!("../../../../../peers/dpdk.c");

/// An engine of others, ready to measure.
pub(super) struct Peer {
    engine: Engine,
    binary: PathBuf,
    dir: PathBuf,
}

/// What a peer found.
pub(super) struct Answer {
    /// One run, nanoseconds.
    pub(super) total_ns: f64,
    /// One run of a program that does nothing, nanoseconds.
    pub(super) entry_ns: f64,
    /// Compilation, microseconds.
    pub(super) compile_us: f64,
    /// Verdict.
    pub(super) verdict: u32,
}

impl Peer {
    /// Builds what measures an engine.
    ///
    /// # Errors
    ///
    /// What is not installed.
    pub(super) fn new(engine: Engine) -> Result<Self> {
        let dir = cache()?.join(engine.name());
        fs::create_dir_all(dir.join("src")).with_context(|| dir.display().to_string())?;
        let binary = if engine == Engine::Rbpf { build_rbpf(&dir)? } else { build_dpdk(&dir)? };
        Ok(Self { engine, binary, dir })
    }

    /// Measures a program over a packet.
    ///
    /// # Errors
    ///
    /// Why the engine cannot run it.
    pub(super) fn measure(&self, program: &ProgramSpec, packet: &[u8]) -> Result<Answer> {
        let alone = |x: &Insn| !(x.is_ld_imm64() && x.src != 0 || x.class() == BPF_JMP && x.op() == BPF_CALL);
        if !program.insns.iter().all(alone) {
            bail!("the program uses maps, helpers or functions");
        }
        let insns = if self.engine == Engine::Dpdk {
            raw_packet(&program.insns, packet.len())?
        } else {
            program.insns.clone()
        };
        let bytes: Vec<u8> = insns.iter().flat_map(|x| encode(*x)).collect();
        let (code, data) = (self.dir.join("program"), self.dir.join("packet"));
        fs::write(&code, bytes)?;
        fs::write(&data, packet)?;
        let output = Command::new(&self.binary).args([&code, &data]).output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let [total_ns, entry_ns, compile_us, verdict] = numbers[..] else { bail!("it answers {text:?}") };
        Ok(Answer { total_ns, entry_ns, compile_us, verdict: verdict as u32 })
    }
}

/// Where what is built is kept: a folder of the user's.
fn cache() -> Result<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("earlybird/peers"))
}

/// Writes a file if it holds something else.
fn put(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text).with_context(|| path.display().to_string())
}

fn succeed(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| anyhow!("{name}: {e}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("{name}: {}", text.lines().find(|l| !l.trim().is_empty()).unwrap_or("it fails"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn build_rbpf(dir: &Path) -> Result<PathBuf> {
    put(&dir.join("Cargo.toml"), RBPF_MANIFEST)?;
    put(&dir.join("src/main.rs"), RBPF_MAIN)?;
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--release", "--quiet"])
        .current_dir(dir)
        .env("CARGO_TARGET_DIR", dir.join("target"));
    succeed(&mut cargo).context("rbpf is built by cargo")?;
    Ok(dir.join("target/release/earlybird-peer-rbpf"))
}

fn build_dpdk(dir: &Path) -> Result<PathBuf> {
    let mut config = Command::new("pkg-config");
    config.args(["--cflags", "--libs", "libdpdk"]);
    let flags = succeed(&mut config).context("needs the packages libdpdk-dev and pkg-config")?;
    let (source, binary) = (dir.join("dpdk.c"), dir.join("dpdk"));
    put(&source, DPDK_MAIN)?;
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-o"]).arg(&binary).arg(&source).args(flags.split_whitespace());
    succeed(&mut cc)?;
    Ok(binary)
}

fn encode(x: Insn) -> [u8; 8] {
    let mut bytes = [x.code, x.src << 4 | x.dst, 0, 0, 0, 0, 0, 0];
    bytes[2..4].copy_from_slice(&x.off.to_le_bytes());
    bytes[4..].copy_from_slice(&x.imm.to_le_bytes());
    bytes
}

/// The program for an R1 that is the packet itself, which librte_bpf wants, because a context's 32-bit fields
/// are no pointers to it: what is read from the context before the first jump is made from R1.
fn raw_packet(insns: &[Insn], len: usize) -> Result<Vec<Insn>> {
    let mov = |dst, src| Insn::new(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0);
    let mut out = Vec::with_capacity(insns.len() + 2);
    let mut place = Vec::with_capacity(insns.len() + 1);
    let (mut holds_ctx, mut entry) = (1_u16 << 1, true);
    for x in insns {
        place.push(out.len() as i64);
        let jumps = matches!(x.class(), BPF_JMP | BPF_JMP32);
        entry &= !jumps;
        let reads = holds_ctx >> x.src & 1 != 0 && !jumps;
        match (x.code, x.off) {
            (0x61, 0) if entry && reads => out.push(mov(x.dst, x.src)),
            (0x61, 4) if entry && reads => {
                out.push(mov(x.dst, x.src));
                out.push(Insn::new(BPF_ALU64 | BPF_ADD, x.dst, 0, 0, len as i32));
            }
            (0x61 | 0x69 | 0x71 | 0x79, _) if reads => bail!("the program reads the context later on"),
            _ => out.push(*x),
        }
        if !jumps {
            holds_ctx &= !(1 << x.dst);
            holds_ctx |= u16::from(x.code == 0xbf && reads) << x.dst;
        }
    }
    place.push(out.len() as i64);
    // Jumps go as far as before, counted in what there is now.
    for (i, x) in insns.iter().enumerate() {
        let jumps = matches!(x.class(), BPF_JMP | BPF_JMP32) && !x.is_exit();
        let long = x.class() == BPF_JMP32 && x.op() == BPF_JA;
        let distance = if long { i64::from(x.imm) } else { i64::from(x.off) };
        if jumps && !(i > 0 && insns[i - 1].is_ld_imm64()) {
            let to = usize::try_from(i as i64 + 1 + distance).ok().and_then(|t| place.get(t));
            let new = to.context("a jump leaves the program")? - place[i] - 1;
            let at = place[i] as usize;
            if long { out[at].imm = new as i32 } else { out[at].off = new as i16 }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_from_the_context_becomes_the_packet() {
        let load = |dst, off| Insn::new(0x61, dst, 1, off, 0);
        let jump = |off| Insn::new(0x2d, 3, 2, off, 0);
        let exit = Insn::new(0x95, 0, 0, 0, 0);
        let insns = [load(2, 4), load(1, 0), Insn::new(0xbf, 3, 1, 0, 0), jump(1), load(0, 0), exit];
        let raw = raw_packet(&insns, 60).unwrap();
        assert_eq!(raw.len(), 7);
        assert_eq!((raw[0].code, raw[1].imm, raw[2].code), (0xbf, 60, 0xbf));
        assert_eq!((raw[4].off, raw[5]), (1, load(0, 0)), "behind the jump R1 is the packet");
        assert!(raw_packet(&[jump(0), load(2, 4), exit], 60).is_err());
    }
}
