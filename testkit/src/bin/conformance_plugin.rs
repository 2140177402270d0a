//! A plugin for the public bpf_conformance runner: a program in hexadecimal on standard input, memory in
//! hexadecimal as argument, R0 in hexadecimal on standard output.
//!
//!     bpf_conformance_runner --test_file_directory tests --plugin_path conformance_plugin
//!         --plugin_options "--engine interp" --cpu_version v4 --include_groups callx

use std::process::ExitCode;

use bpf::Insn;
use testkit::{engine, isa, lower};
use uapi::bpf::func;

/// Instructions after which a program that does not end is stopped.
const FUEL: u64 = 10_000_000;

struct Args {
    program: Option<String>,
    memory: Vec<u8>,
    engine: String,
}

fn main() -> ExitCode {
    match run() {
        Ok(r0) => {
            println!("{r0:x}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<u64, String> {
    let args = parse(std::env::args().skip(1))?;
    let text = match args.program {
        Some(text) => text,
        None => std::io::read_to_string(std::io::stdin()).map_err(|e| format!("standard input: {e}"))?,
    };
    let insns = Insn::decode_all(&isa::bytes(&text)?).ok_or("the program is no multiple of 8 bytes")?;
    let insns = isa::with_prolog(&lower::lower(&insns, &[func::KTIME_GET_NS]), args.memory.len());
    match args.engine.as_str() {
        "interp" => {
            let program = engine::link(&insns).map_err(|e| e.to_string())?;
            engine::interpret(&program, &args.memory, FUEL).0.map_err(|e| e.to_string())
        }
        "jit" => Ok(engine::run_compiled(&engine::compile(&insns)?, &args.memory).0),
        other => Err(format!("there is no engine {other:?} here; there are: interp, jit")),
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut args = Args { program: None, memory: Vec::new(), engine: "interp".to_owned() };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--engine" => args.engine = value()?,
            "--program" => args.program = Some(value()?),
            option if option.starts_with("--") => return Err(format!("unknown option {option}")),
            memory => args.memory = isa::bytes(memory)?,
        }
    }
    Ok(args)
}
