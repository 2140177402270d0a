//! One program, two verifiers: the engine's and the running kernel's.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::{Result, anyhow};
use bpf::btf::Btf;
use bpf::object::{ObjectSpec, ProgramSpec};
use bpf::verifier::{Input, MapDef, Options, Rejection, Stats, Verified, verify};
use uapi::Errno;

/// What one of the two said.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) errno: Option<Errno>,
    /// Instruction that the log ends at.
    pub(crate) insn: Option<u32>,
    /// Last line that gives a reason.
    pub(crate) message: String,
    pub(crate) log: String,
    pub(crate) processed: u32,
    pub(crate) states: u32,
    pub(crate) elapsed_ns: u64,
}

/// A program that both have judged.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) object: String,
    pub(crate) program: String,
    /// Written for XDP.
    pub(crate) is_xdp: bool,
    pub(crate) engine: Said,
    /// `Err`: the program could not be submitted to the kernel.
    pub(crate) kernel: Result<Said, String>,
}

impl Pair {
    /// Both accept, or both refuse.
    pub(crate) fn agree(&self) -> bool {
        match &self.kernel {
            Ok(k) => k.errno.is_some() == self.engine.errno.is_some(),
            Err(_) => true,
        }
    }
}

/// Judges the programs of an object whose names contain `filter`.
pub(crate) fn object(
    spec: &ObjectSpec,
    kernel_btf: Option<&Btf>,
    log_level: u32,
    filter: &str,
) -> Result<Vec<Pair>> {
    let wanted: Vec<ProgramSpec> = spec
        .programs
        .iter()
        .filter(|p| format!("{}/{}", spec.name, p.name).contains(filter))
        .map(|p| ProgramSpec { prog_flags: p.prog_flags | test_flags(spec, p), ..p.clone() })
        .collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let maps: Vec<MapDef> = spec.maps.iter().map(|m| MapDef::from_spec(m, &spec.name)).collect();
    let opts = Options { log_level, nr_cpus: linux::sys::possible_cpus(), ..Options::default() };
    let engine: HashMap<&str, Said> = wanted
        .iter()
        .map(|p| {
            let input = Input::of_program(p, &maps, &spec.license, spec.btf.as_deref(), kernel_btf);
            let started = Instant::now();
            let outcome = verify(&input, &opts);
            (p.name.as_str(), engine_said(outcome, started.elapsed().as_nanos() as u64))
        })
        .collect();
    let refs: Vec<&ProgramSpec> = wanted.iter().collect();
    let kernel = linux::verdicts(spec, &refs, log_level.max(1)).map_err(|e| anyhow!("{e}"));
    Ok(wanted
        .iter()
        .enumerate()
        .map(|(i, p)| {
            let kernel = match &kernel {
                Ok(all) => all[i].outcome.clone().map(|o| kernel_said(o, all[i].elapsed_ns)),
                Err(e) => Err(e.to_string()),
            };
            Pair {
                object: spec.name.clone(),
                program: p.name.clone(),
                is_xdp: p.section_kind == bpf::object::SectionKind::Xdp,
                engine: engine[p.name.as_str()].clone(),
                kernel,
            }
        })
        .collect())
}

/// `__flag(...)` of the kernel's own tests.
fn test_flags(spec: &ObjectSpec, p: &ProgramSpec) -> u32 {
    let (Some(btf), Some(func)) = (&spec.btf, p.subprogs.first().and_then(|s| s.btf)) else { return 0 };
    let flags = btf.decl_tags(func).filter_map(|(_, t)| t.strip_prefix("comment:test_prog_flags="));
    flags.fold(0, |acc, f| {
        acc | match f {
            "BPF_F_STRICT_ALIGNMENT" => uapi::bpf::BPF_F_STRICT_ALIGNMENT,
            "BPF_F_ANY_ALIGNMENT" => uapi::bpf::BPF_F_ANY_ALIGNMENT,
            "BPF_F_TEST_RND_HI32" => uapi::bpf::BPF_F_TEST_RND_HI32,
            "BPF_F_TEST_STATE_FREQ" => uapi::bpf::BPF_F_TEST_STATE_FREQ,
            "BPF_F_TEST_REG_INVARIANTS" => uapi::bpf::BPF_F_TEST_REG_INVARIANTS,
            n => n.parse().unwrap_or(0),
        }
    })
}

pub(crate) fn engine_said(outcome: Result<Verified, Box<Rejection>>, elapsed_ns: u64) -> Said {
    let of = |s: &Stats| (s.processed_insns, s.total_states);
    match outcome {
        Ok(v) => Said {
            errno: None,
            insn: None,
            message: String::new(),
            log: v.log().to_owned(),
            processed: of(v.stats()).0,
            states: of(v.stats()).1,
            elapsed_ns,
        },
        Err(r) => Said {
            errno: Some(r.errno),
            insn: Some(r.insn),
            message: r.message.lines().last().unwrap_or("").to_owned(),
            processed: of(&r.stats).0,
            states: of(&r.stats).1,
            log: r.log,
            elapsed_ns,
        },
    }
}

pub(crate) fn kernel_said(outcome: Result<String, (Errno, String)>, elapsed_ns: u64) -> Said {
    let (errno, log) = match outcome {
        Ok(log) => (None, log),
        Err((e, log)) => (Some(e), log),
    };
    let insn_of = |l: &str| -> Option<u32> {
        let (n, rest) = l.split_once(": (")?;
        rest.as_bytes().get(2).filter(|b| **b == b')')?;
        n.parse().ok()
    };
    // Of a loop the log prints the states, not the instruction; of a program that is too large it depends
    // on what was in the log's buffer.
    let of_loop = log.lines().find_map(|l| l.strip_prefix("infinite loop detected at insn "));
    let too_large = log.contains("BPF program is too large.");
    let insn = match of_loop {
        Some(n) => n.parse().ok(),
        None if too_large => None,
        None => log.lines().rev().find_map(insn_of),
    };
    let stats = log.lines().rev().find(|l| l.starts_with("processed "));
    let number = |name: &str| {
        let l = stats?;
        let mut words = l.split_whitespace().skip_while(|w| *w != name);
        words.nth(1)?.parse::<u32>().ok()
    };
    let message = log.lines().rev().find(|l| {
        !l.starts_with("processed ") && !l.starts_with("verification time") && !l.starts_with("stack depth")
    });
    Said {
        errno,
        insn,
        message: message.unwrap_or("").to_owned(),
        processed: number("processed").unwrap_or(0),
        states: number("total_states").unwrap_or(0),
        log,
        elapsed_ns,
    }
}
