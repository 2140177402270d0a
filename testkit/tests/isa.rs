//! testdata/isa on the checked interpreter, compiled, and on the running kernel.

use std::path::Path;

use linux::sys::ProgError;
use testkit::isa::{Case, Expect, read_dir, with_prolog};
use testkit::kernel::{KernelProgram, refusal};
use testkit::{engine, isa};

fn corpus() -> Vec<Case> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/isa");
    let cases = read_dir(&dir).expect("the corpus is well-formed");
    assert!(cases.len() > 1000, "only {} cases", cases.len());
    cases
}

fn check_after(case: &isa::Case, after: &[u8]) -> Result<(), String> {
    match &case.after {
        Some(expected) if expected != after => Err(format!("memory is {after:x?}")),
        _ => Ok(()),
    }
}

fn on_the_interpreter(case: &Case) -> Result<(), String> {
    // What is refused is refused as it stands; the rest runs over a packet.
    if let Expect::Error(expected) = &case.expect {
        return match engine::link(&case.insns) {
            Ok(_) => Err("is not refused".to_owned()),
            Err(e) if e.message.contains(expected) => Ok(()),
            Err(e) => Err(format!("is refused with {:?}", e.message)),
        };
    }
    let program = engine::link(&with_prolog(&case.insns, case.mem.len())).map_err(|e| e.to_string())?;
    let (result, after) = engine::interpret(&program, &case.mem, 1_000_000);
    match (&case.expect, result) {
        (Expect::Result(expected), Ok(r0)) if r0 == *expected => check_after(case, &after),
        (Expect::Fault(expected), Err(fault)) if fault.kind.to_string() == *expected => Ok(()),
        (_, other) => Err(format!("gives {other:x?}")),
    }
}

/// The errno and the last lines of the log, which say why.
fn refused(e: &ProgError) -> String {
    let lines: Vec<&str> = e.log.trim_end().lines().rev().take(3).collect();
    format!("is refused with {}: {}", e.errno, lines.into_iter().rev().collect::<Vec<_>>().join(" / "))
}

/// What the verifier refuses is not compiled; then the kernel has to refuse it as well.
fn compiled(case: &Case) -> Result<(), String> {
    let Expect::Result(expected) = case.expect else { return Ok(()) };
    let program = match engine::compile(&with_prolog(&case.insns, case.mem.len())) {
        Ok(program) => program,
        Err(_) if case.engine_only => return Ok(()),
        Err(e) => return Err(e),
    };
    match engine::run_compiled(&program, &case.mem) {
        (r0, after) if r0 == expected => check_after(case, &after),
        (r0, _) => Err(format!("gives {r0:#x}")),
    }
}

fn on_the_kernel(case: &Case) -> Result<(), String> {
    if let Expect::Error(expected) = &case.expect {
        return match refusal(&case.insns) {
            None => Err("is not refused".to_owned()),
            Some(e) if e.log.contains(expected) => Ok(()),
            Some(e) => Err(refused(&e)),
        };
    }
    let insns = with_prolog(&case.insns, case.mem.len());
    let program = match KernelProgram::load(&insns) {
        Err(_) if matches!(case.expect, Expect::Fault(_)) || case.engine_only => return Ok(()),
        Err(e) => return Err(refused(&e)),
        Ok(_) if case.engine_only => return Err("is accepted, though marked as refused".to_owned()),
        Ok(program) => program,
    };
    match (&case.expect, program.run(&case.mem)) {
        (Expect::Result(expected), Ok((r0, after))) if r0 == *expected => check_after(case, &after),
        (_, other) => Err(format!("gives {other:x?}")),
    }
}

fn all(run: impl Fn(&Case) -> Result<(), String>) {
    let corpus = corpus();
    let failed: Vec<String> =
        corpus.iter().filter_map(|case| Some(format!("{}: {}", case.name, run(case).err()?))).collect();
    assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), corpus.len(), failed.join("\n"));
}

#[test]
fn the_interpreter_agrees_with_every_case() {
    all(on_the_interpreter);
}

#[test]
fn compiled_code_agrees_with_every_case() {
    all(compiled);
}

#[test]
fn the_kernel_agrees_with_every_case() {
    linux::needs_kernel!();
    all(on_the_kernel);
}
