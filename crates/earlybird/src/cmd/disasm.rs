//! `earlybird disasm`: C source, bytecode and machine code side by side.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use bpf::disasm::disassemble;
use bpf::jit::Compiled;
use bpf::object::{LineInfo, ProgramSpec};
use clap::Args;
use control::{EngineKind, LoadOptions};
use earlybird::backends::{self, EngineSettings};
use earlybird::{Object, object::Home};
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use serde_json::{Value, json};

use super::Failure;

/// Show C source, bytecode and machine code side by side
#[derive(Args)]
pub(crate) struct DisasmArgs {
    /// Object file
    object: PathBuf,

    /// Program: function name or section name [default: all]
    #[arg(long, value_name = "NAME")]
    prog: Option<String>,

    /// Verify and compile for this processor, and show the machine code of each instruction
    #[arg(long)]
    jit: bool,

    /// Print one JSON entry a program
    #[arg(long)]
    json: bool,
}

/// One machine instruction.
struct Machine {
    offset: u32,
    bytes: Vec<u8>,
    text: String,
}

/// A program's machine code, by instruction.
#[derive(Default)]
struct Listing {
    /// By instruction of the program.
    of: Vec<Vec<Machine>>,
    /// What is of none: saving of registers, other entries, routines for tables.
    rest: Vec<Machine>,
}

/// Width of the column of bytecode.
const BYTECODE: usize = 52;

/// Runs the command.
pub(crate) fn run(args: &DisasmArgs) -> Result<(), Failure> {
    let object = Object::open_for(&args.object, Home::Engine).map_err(anyhow::Error::from)?;
    let spec = object.spec();
    let chosen: Vec<&ProgramSpec> = match &args.prog {
        Some(name) => vec![spec.program(Some(name)).map_err(|e| Failure::Usage(e.into()))?],
        None => spec.programs.iter().collect(),
    };
    if chosen.is_empty() {
        return Err(Failure::Failed(anyhow!("{}: no program in this object", spec.name)));
    }
    let mut entries = Vec::new();
    for program in chosen {
        let listing = if args.jit { Some(compile(&object, program)?) } else { None };
        if args.json {
            entries.push(entry(program, listing.as_ref()));
        } else {
            print!("{}", text(program, listing.as_ref()));
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&entries).context("the listing as JSON")?);
    }
    Ok(())
}

fn compile(object: &Object, program: &ProgramSpec) -> anyhow::Result<Listing> {
    let mut engine = backends::own_engine(&EngineSettings::default())?;
    engine.listing = true;
    let options = LoadOptions {
        programs: vec![program.name.clone()],
        engine: EngineKind::Jit,
        ..LoadOptions::default()
    };
    let loaded = engine.load_object(object.spec(), &options).with_context(|| object.spec().name.clone())?;
    let compiled = loaded.program(&program.name).and_then(|p| p.compiled());
    Ok(Listing::new(compiled.context("it has been compiled")?, program.insns.len()))
}

impl Listing {
    fn new(compiled: &Compiled, insns: usize) -> Self {
        let mut listing = Self { of: Vec::new(), rest: Vec::new() };
        listing.of.resize_with(insns, Vec::new);
        let (code, origins) = (compiled.code(), compiled.origins());
        let mut decoder = Decoder::with_ip(64, code, compiled.entry(), DecoderOptions::NONE);
        let mut formatter = IntelFormatter::new();
        while decoder.can_decode() {
            let start = decoder.position();
            let insn = decoder.decode();
            let mut text = String::new();
            formatter.format(&insn, &mut text);
            let offset = start as u32;
            let machine = Machine { offset, bytes: code[start..decoder.position()].to_vec(), text };
            let at = origins.partition_point(|(from, _)| *from <= offset);
            let origin = at.checked_sub(1).and_then(|at| origins[at].1);
            match origin.and_then(|i| listing.of.get_mut(i as usize)) {
                Some(of) => of.push(machine),
                None => listing.rest.push(machine),
            }
        }
        listing
    }
}

/// The instructions with their positions; a wide one stands at its first slot.
fn insns(program: &ProgramSpec) -> impl Iterator<Item = (usize, String)> + '_ {
    let mut second = false;
    program.insns.iter().enumerate().filter_map(move |(i, insn)| {
        if std::mem::take(&mut second) {
            return None;
        }
        second = insn.is_ld_imm64();
        let kfunc = insn.is_kfunc_call().then(|| program.kfuncs.get(insn.imm as usize)).flatten();
        Some((i, disassemble(insn, program.insns.get(i + 1), kfunc.map(|k| k.name.as_str()))))
    })
}

fn line_at(program: &ProgramSpec, insn: usize) -> Option<&LineInfo> {
    program.line_info.iter().find(|l| l.insn as usize == insn)
}

fn text(program: &ProgramSpec, listing: Option<&Listing>) -> String {
    let mut out = format!("{} ({}):\n", program.name, program.section);
    for (i, bytecode) in insns(program) {
        if let Some(function) = program.subprogs.iter().find(|s| s.start as usize == i && i != 0) {
            let _ = writeln!(out, "{}:", function.name);
        }
        if let Some(line) = line_at(program, i) {
            let _ = writeln!(out, "; {} @ {}:{}", line.text.trim(), line.file, line.line);
        }
        let left = format!("{i:5}: {bytecode}");
        let machine = listing.map(|l| l.of[i].as_slice()).unwrap_or_default();
        let _ = match machine.first() {
            Some(m) => writeln!(out, "{left:<BYTECODE$} {}", machine_text(m)),
            None => writeln!(out, "{left}"),
        };
        for m in machine.iter().skip(1) {
            let _ = writeln!(out, "{:<BYTECODE$} {}", "", machine_text(m));
        }
    }
    if let Some(listing) = listing {
        out.push_str("; of no instruction: frames, other entries, lookups in tables\n");
        for m in &listing.rest {
            let _ = writeln!(out, "{:<BYTECODE$} {}", "", machine_text(m));
        }
    }
    out.push('\n');
    out
}

fn machine_text(m: &Machine) -> String {
    format!("{:5x}: {}", m.offset, m.text)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn entry(program: &ProgramSpec, listing: Option<&Listing>) -> Value {
    let machine = |code: &[Machine]| -> Vec<Value> {
        code.iter().map(|m| json!({"offset": m.offset, "bytes": hex(&m.bytes), "text": m.text})).collect()
    };
    let rows: Vec<Value> = insns(program)
        .map(|(i, text)| {
            let mut row = json!({"insn": i, "text": text});
            if let Some(line) = line_at(program, i) {
                row["source"] = json!({"file": &*line.file, "line": line.line, "text": line.text.trim()});
            }
            if let Some(listing) = listing {
                row["machine"] = json!(machine(&listing.of[i]));
            }
            row
        })
        .collect();
    let mut entry = json!({"program": program.name, "section": program.section, "insns": rows});
    if let Some(listing) = listing {
        entry["other_machine"] = json!(machine(&listing.rest));
    }
    entry
}
