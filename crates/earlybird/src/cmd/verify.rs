//! `earlybird verify`: what the verifier says, in user space, on the kernel, or on both.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::Context;
use bpf::object::{LineInfo, ObjectSpec, ProgramSpec};
use clap::{Args, ValueEnum};
use control::{Refusal, Verification};
use earlybird::backends::{self, EngineSettings};
use earlybird::explain::{Style, render};
use earlybird::{Object, object::Home};
use serde_json::{Value, json};

use super::Failure;

/// Verify the programs of an object and say what the verifier thinks
///
/// Every program is verified by itself, as the kernel would at loading it as XDP, whatever its section says.
/// With `--backend both` the running kernel is asked as well, and the two verdicts are compared. A rejection is
/// drawn over the C source if the object was built with -g; its identifier has a page: `earlybird explain EB0403`.
#[derive(Args)]
#[command(
    after_help = "Exit status: 0 all accepted, 1 some rejected or the object unusable, 2 wrong use, 3 engine \
                        and kernel differ."
)]
pub(crate) struct VerifyArgs {
    /// Object file
    object: PathBuf,

    /// Program: function name or section name [default: all]
    #[arg(long, value_name = "NAME")]
    prog: Option<String>,

    /// Whose verifier; the kernel's needs root
    #[arg(long, value_enum, default_value_t = Whose::Engine)]
    backend: Whose,

    /// Print the kernel's form of log: 1 the failing path, 2 every path
    #[arg(long, value_name = "1|2", value_parser = clap::value_parser!(u32).range(1..=2))]
    log_level: Option<u32>,

    /// Print one JSON entry a program
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Whose {
    /// The engine's
    Engine,
    /// The running kernel's
    Kernel,
    /// Both, and compare
    Both,
}

/// One program's verdicts.
struct Verdicts {
    engine: Option<Verification>,
    kernel: Option<Verification>,
}

impl Verdicts {
    /// The one to show: the engine's, unless only the kernel was asked.
    fn shown(&self) -> Option<&Verification> {
        self.engine.as_ref().or(self.kernel.as_ref())
    }

    /// Accepting or not, and the errno; not the words.
    fn differ(&self) -> bool {
        let errno = |v: &Verification| v.refusal.as_ref().map(|r| r.errno);
        match (&self.engine, &self.kernel) {
            (Some(a), Some(b)) => errno(a) != errno(b),
            _ => false,
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &VerifyArgs) -> Result<(), Failure> {
    let home = if args.backend == Whose::Engine { Home::Engine } else { Home::Kernel };
    let object = Object::open_for(&args.object, home).map_err(anyhow::Error::from)?;
    let spec = object.spec();
    let chosen: Vec<&ProgramSpec> = match &args.prog {
        Some(name) => vec![spec.program(Some(name)).map_err(|e| Failure::Usage(e.into()))?],
        None => spec.programs.iter().collect(),
    };
    if chosen.is_empty() {
        return Err(Failure::Failed(anyhow::anyhow!("{}: no program in this object", spec.name)));
    }
    let mut engine = (args.backend != Whose::Kernel).then(|| backends::engine(&EngineSettings::default()));
    let mut kernel = (args.backend != Whose::Engine).then(backends::kernel);
    let mut entries = Vec::new();
    let (mut rejected, mut differ) = (false, false);
    for program in chosen {
        let ask = |backend: &mut Option<anyhow::Result<Box<dyn control::Backend>>>| {
            let Some(backend) = backend else { return Ok(None) };
            let backend = backend.as_mut().map_err(|e| anyhow::anyhow!("{e:#}"))?;
            let verdict = backend.verify(spec, &program.name, args.log_level.unwrap_or(0));
            verdict.map(Some).with_context(|| spec.name.clone())
        };
        let mut verdicts = Verdicts { engine: ask(&mut engine)?, kernel: ask(&mut kernel)? };
        if let (None, Some(refusal)) =
            (&verdicts.engine, verdicts.kernel.as_mut().and_then(|v| v.refusal.as_mut()))
        {
            tell_story(refusal, object.spec(), &program.name);
        }
        rejected |= verdicts.shown().is_some_and(|v| v.refusal.is_some());
        differ |= verdicts.differ();
        if args.json {
            entries.push(entry(program, &verdicts));
        } else {
            print!("{}", text(program, &verdicts, args.log_level.is_some()));
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&entries).context("the verdicts as JSON")?);
    }
    match (differ, rejected) {
        (true, _) => Err(Failure::Differ),
        (false, true) => Err(Failure::Rejected),
        (false, false) => Ok(()),
    }
}

/// The kernel tells what is wrong and where, not how it came to that. Where the engine's verifier refuses the
/// program at the same instruction with the same words, its story is the kernel's, too.
fn tell_story(refusal: &mut Refusal, spec: &ObjectSpec, program: &str) {
    let engine = backends::engine(&EngineSettings::default());
    let own = engine.ok().and_then(|mut e| e.verify(spec, program, 0).ok()?.refusal);
    let same = |own: &Refusal| {
        (own.errno, &own.message) == (refusal.errno, &refusal.message)
            && refusal.insn.is_none_or(|insn| own.insn == Some(insn))
    };
    refusal.explanation = own.filter(same).and_then(|own| own.explanation);
}

fn source_of(program: &ProgramSpec, insn: Option<u32>) -> Option<&LineInfo> {
    let insn = insn?;
    program.line_info.iter().take_while(|l| l.insn <= insn).last()
}

fn entry(program: &ProgramSpec, verdicts: &Verdicts) -> Value {
    let Some(v) = verdicts.shown() else { return Value::Null };
    let refusal = v.refusal.as_ref();
    let source = source_of(program, refusal.and_then(|r| r.insn))
        .map(|l| json!({"file": &*l.file, "line": l.line, "column": l.column, "text": l.text.trim_end()}));
    let mut entry = json!({
        "program": program.name,
        "section": program.section,
        "accepted": refusal.is_none(),
        "errno": refusal.map(|r| r.errno.name().map_or_else(|| r.errno.raw().to_string(), str::to_owned)),
        "message": refusal.map(|r| &r.message),
        "id": refusal.and_then(|r| r.rule).map(|r| r.id.to_string()),
        "insn": refusal.and_then(|r| r.insn),
        "source": source,
        "processed_insns": v.processed_insns,
        "total_states": v.total_states,
        "stack_depth": v.stack_depth,
        "verification_us": v.time_us,
    });
    if let (Some(_), Some(kernel)) = (&verdicts.engine, &verdicts.kernel) {
        let refusal = kernel.refusal.as_ref();
        entry["kernel"] = json!({
            "accepted": refusal.is_none(),
            "errno": refusal.and_then(|r| r.errno.name()),
            "message": refusal.map(|r| &r.message),
            "id": refusal.and_then(|r| r.rule).map(|r| r.id.to_string()),
            "insn": refusal.and_then(|r| r.insn),
            "processed_insns": kernel.processed_insns,
            "verification_us": kernel.time_us,
        });
    }
    entry
}

fn text(program: &ProgramSpec, verdicts: &Verdicts, with_log: bool) -> String {
    let other = if is_xdp(&program.section) { "" } else { ", taken for XDP" };
    let mut out = format!("{} (section {:?}{other}): ", program.name, program.section);
    let homes = [("engine", &verdicts.engine), ("kernel", &verdicts.kernel)];
    let both = homes.iter().all(|(_, v)| v.is_some());
    for (name, v) in homes.iter().filter_map(|(name, v)| Some((name, v.as_ref()?))) {
        if both {
            let _ = write!(out, "\n  {name}: ");
        }
        out.push_str(&verdict(v, both));
        if with_log && !v.log.is_empty() {
            let _ = write!(out, "\n{}", v.log.trim_end());
        }
    }
    if verdicts.differ() {
        out.push_str("\n  the two DIFFER");
    }
    out.push('\n');
    if let Some(refusal) = verdicts.shown().and_then(|v| v.refusal.as_ref()) {
        out.push_str(&render(program, refusal, style()));
    }
    out
}

/// `1 state`, `2 states`.
fn counted(n: u32, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// Whether a section's name is one of XDP's; a question mark says that it is not loaded by itself.
fn is_xdp(section: &str) -> bool {
    let name = section.trim_start_matches('?');
    name == "xdp" || name.starts_with("xdp.") || name.starts_with("xdp/") || name.starts_with("xdp_")
}

/// Colour where somebody looks at it.
fn style() -> Style {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    if wanted && std::io::stdout().is_terminal() { Style::Colour } else { Style::Plain }
}

fn verdict(v: &Verification, with_message: bool) -> String {
    let (insns, states) = (counted(v.processed_insns, "instruction"), counted(v.total_states, "state"));
    let cost = format!("{insns} processed, {states}, {} us", v.time_us);
    let Some(refusal) = &v.refusal else {
        let stack: u32 = v.stack_depth.iter().copied().max().unwrap_or(0);
        return format!("accepted ({cost}, {} of stack)", counted(stack, "byte"));
    };
    let id = refusal.rule.map(|r| format!("[{}]", r.id)).unwrap_or_default();
    let message = match with_message {
        true => format!(": {}", refusal.message.replace('\n', "; ")),
        false => String::new(),
    };
    format!("rejected{id}, {}{message} ({cost})", refusal.errno)
}
