//! `cargo xtask corpus verifier`: the engine's verifier against the running kernel's, over the kernel's
//! own tests, every program loaded as XDP in both.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bpf::btf::Btf;
use bpf::object::ObjectSpec;
use clap::Args;

use super::compare::{self, Pair, Said};
use super::fixtures;
use super::source::{Source, VERIFIER_TESTS};

#[derive(Args)]
pub(crate) struct Options {
    /// Where the source is unpacked and built
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Only programs whose `file/name` contains this
    #[arg(long, default_value = "")]
    filter: String,
    /// Objects to compare instead of the kernel's tests
    #[arg(long)]
    object: Vec<PathBuf>,
    /// All of the kernel's test programs, not those for the verifier alone
    #[arg(long)]
    all: bool,
    /// Print both logs of the chosen programs
    #[arg(long)]
    logs: bool,
    /// Print where errno, instruction or message differ, too
    #[arg(long)]
    details: bool,
    /// `log_level` for both
    #[arg(long, default_value_t = 1)]
    log_level: u32,
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let kernel_btf = linux::host::vmlinux().ok();
    if !options.object.is_empty() {
        return report(&programs(&options.object, kernel_btf.as_deref(), options)?, options);
    }
    let dir = options.dir.clone().unwrap_or_else(|| root.join("target/corpus"));
    let file = options.filter.split_once('/').map_or("", |(file, _)| file);
    let stem = file.trim_end_matches(".bpf.o");
    let prefix = if options.all { "" } else { VERIFIER_TESTS };
    let source = Source::fetch(&dir)?;
    let objects = source.build_programs(prefix, stem)?;
    let first = report(&programs(&objects, kernel_btf.as_deref(), options)?, options);
    println!("older tests (verifier/*.c), all of them as XDP:");
    let mut pairs = Vec::new();
    for spec in fixtures::objects(&source)? {
        match compare::object(&spec, kernel_btf.as_deref(), options.log_level, &options.filter) {
            Ok(judged) => pairs.extend(judged),
            Err(e) => println!("not submitted {}: {e}", spec.name),
        }
    }
    first.and(report(&pairs, options))
}

/// Judges the programs of objects.
fn programs(objects: &[PathBuf], kernel_btf: Option<&Btf>, options: &Options) -> Result<Vec<Pair>> {
    let target = linux::host::target();
    let mut pairs = Vec::new();
    for path in objects {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let spec = match ObjectSpec::parse(&bytes, &name, &target) {
            Ok(s) => s,
            Err(e) => {
                println!("unreadable {name}: {e}");
                continue;
            }
        };
        for p in spec.unusable.iter().filter(|p| format!("{name}/{}", p.name).contains(&options.filter)) {
            println!("unusable {name}/{}: {}", p.name, p.problem);
        }
        pairs.extend(compare::object(&spec, kernel_btf, options.log_level, &options.filter)?);
    }
    Ok(pairs)
}

fn word(s: &Said) -> String {
    s.errno.map_or("accepted".to_owned(), |e| e.name().map_or(e.raw().to_string(), str::to_owned))
}

fn report(pairs: &[Pair], options: &Options) -> Result<()> {
    let mut counts = Counts::default();
    for p in pairs {
        let at = format!("{}/{}", p.object, p.program);
        let k = match &p.kernel {
            Ok(k) => k,
            Err(e) => {
                println!("not submitted {at}: {e}");
                continue;
            }
        };
        let e = &p.engine;
        counts.add(p, k);
        if options.logs {
            println!("==== {at}\n---- engine ({})\n{}---- kernel ({})\n{}", word(e), e.log, word(k), k.log);
        }
        if !p.agree() {
            println!(
                "DISAGREE {at}: engine {} [{:?} {}] kernel {} [{:?} {}]",
                word(e),
                e.insn,
                e.message,
                word(k),
                k.insn,
                k.message
            );
        } else if options.details && e.errno != k.errno {
            println!("errno {at}: engine {} [{}] kernel {} [{}]", word(e), e.message, word(k), k.message);
        } else if options.details && k.errno.is_some() && k.insn.is_some() && e.insn != k.insn {
            println!("insn {at}: engine {:?} [{}] kernel {:?} [{}]", e.insn, e.message, k.insn, k.message);
        } else if options.details && e.message != k.message && k.errno.is_some() {
            println!("message {at}: engine [{}] kernel [{}]", e.message, k.message);
        } else if options.details && (e.processed, e.states) != (k.processed, k.states) {
            println!("cost {at}: engine {}/{} kernel {}/{}", e.processed, e.states, k.processed, k.states);
        }
    }
    counts.print();
    if counts.agree != counts.all {
        bail!("{} disagreements", counts.all - counts.agree);
    }
    Ok(())
}

#[derive(Default)]
struct Counts {
    all: u32,
    agree: u32,
    /// Refused by the kernel, accepted here.
    unsound: u32,
    xdp: u32,
    xdp_agree: u32,
    rejected: u32,
    errno: u32,
    insn: u32,
    message: u32,
    same_cost: u32,
    engine_ns: u64,
    kernel_ns: u64,
}

impl Counts {
    fn add(&mut self, p: &Pair, k: &Said) {
        let e = &p.engine;
        self.all += 1;
        self.agree += u32::from(p.agree());
        self.unsound += u32::from(k.errno.is_some() && e.errno.is_none());
        self.xdp += u32::from(p.is_xdp);
        self.xdp_agree += u32::from(p.is_xdp && p.agree());
        self.same_cost += u32::from(e.processed == k.processed && e.states == k.states);
        self.engine_ns += e.elapsed_ns;
        self.kernel_ns += k.elapsed_ns;
        if k.errno.is_some() && e.errno.is_some() {
            self.rejected += 1;
            self.errno += u32::from(k.errno == e.errno);
            self.insn += u32::from(k.insn.is_none() || k.insn == e.insn);
            self.message += u32::from(k.message == e.message);
        }
    }

    fn print(&self) {
        println!("agree {} of {}", self.agree, self.all);
        println!("accepted here and refused by the kernel: {}", self.unsound);
        println!("written for XDP: agree {} of {}", self.xdp_agree, self.xdp);
        println!(
            "of {} rejected by both: same errno {}, same instruction {}, same message {}",
            self.rejected, self.errno, self.insn, self.message
        );
        println!("same instructions processed and states: {}", self.same_cost);
        let ms = |ns: u64| ns as f64 / 1e6;
        println!("time: engine {:.1} ms, kernel {:.1} ms", ms(self.engine_ns), ms(self.kernel_ns));
    }
}
