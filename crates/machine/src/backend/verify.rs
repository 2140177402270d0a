//! Asking the engine's verifier.

use std::time::Instant;

use bpf::object::{ObjectSpec, ProgramSpec};
use bpf::verifier::explain::explain;
use bpf::verifier::{self, Input, MapDef, Options, Verified};
use control::{LoadError, Refusal, Verification};

use super::EngineBackend;

/// Verifies a program before it is loaded.
pub(super) fn check(
    backend: &EngineBackend,
    spec: &ObjectSpec,
    program: &ProgramSpec,
) -> Result<Verified, LoadError> {
    ask(backend, spec, program, 0).map_err(|rejection| LoadError::Program {
        program: program.name.clone(),
        errno: rejection.errno,
        reason: format!(
            "the verifier refuses it ({}, {}): instruction {}: {}",
            rejection.errno,
            rejection.rule.id,
            rejection.insn,
            rejection.message.trim_end().replace('\n', "; ")
        ),
        log: rejection.log,
    })
}

/// What the verifier says of a program.
pub(super) fn verify(
    backend: &EngineBackend,
    spec: &ObjectSpec,
    program: &ProgramSpec,
    log_level: u32,
) -> Verification {
    let started = Instant::now();
    let outcome = ask(backend, spec, program, log_level);
    let time_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    let (stats, log, refusal) = match outcome {
        Ok(verified) => (verified.stats().clone(), verified.log().to_owned(), None),
        Err(r) => {
            let explanation =
                with_input(backend, spec, program, log_level, |input, opts| explain(input, opts, &r));
            let refusal = Refusal {
                errno: r.errno,
                insn: Some(explanation.at.insn),
                message: r.message,
                rule: Some(r.rule),
                explanation: Some(Box::new(explanation)),
            };
            (r.stats, r.log, Some(refusal))
        }
    };
    Verification {
        refusal,
        processed_insns: stats.processed_insns,
        total_states: stats.total_states,
        stack_depth: stats.stack_depth,
        time_us,
        log,
    }
}

fn ask(
    backend: &EngineBackend,
    spec: &ObjectSpec,
    program: &ProgramSpec,
    log_level: u32,
) -> Result<Verified, Box<verifier::Rejection>> {
    with_input(backend, spec, program, log_level, verifier::verify)
}

/// Calls `f` with what the verifier is to look at, and how.
fn with_input<T>(
    backend: &EngineBackend,
    spec: &ObjectSpec,
    program: &ProgramSpec,
    log_level: u32,
    f: impl FnOnce(&Input<'_>, &Options) -> T,
) -> T {
    let maps: Vec<MapDef> = spec.maps.iter().map(|m| MapDef::from_spec(m, &spec.name)).collect();
    let (btf, kernel_btf) = (spec.btf.as_deref(), backend.kernel_btf.as_deref());
    let input = Input::of_program(program, &maps, &spec.license, btf, kernel_btf);
    f(&input, &Options { log_level, nr_cpus: backend.cpus, ..Options::default() })
}
