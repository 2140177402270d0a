//! A program of each kind of kernel functions that take more than registers, interpreted and compiled.

use bpf::object::ObjectSpec;
use control::{EngineKind, LoadOptions, TestRun};
use testkit::differential::Pair;
use uapi::xdp::XdpMd;

use super::{Homes, homes};

/// Runs a program of `testdata/objects/kfuncs.o` over a packet of two pieces, on each engine.
fn compare(homes: &mut Homes, program: &str, frags: bool, engines: &[EngineKind]) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/objects/kfuncs.o");
    let bytes = std::fs::read(path).expect("the object");
    let spec = ObjectSpec::parse(&bytes, "kfuncs", &linux::host::target()).expect("an object");
    homes.engine.kernel_btf = linux::host::vmlinux().ok();
    for engine in engines.iter().copied() {
        let programs = vec![program.to_owned()];
        let options = LoadOptions { programs, scripted: true, engine, ..LoadOptions::default() };
        let mut pair =
            Pair::load([&mut homes.engine, &mut homes.kernel], &spec, &options).expect("both take it");
        for linear in [1000, 500, 30] {
            let ctx = frags.then(|| XdpMd { data_end: linear, ..XdpMd::default() });
            let request = TestRun { data: (0..1000).map(|i| i as u8).collect(), ctx, ..TestRun::default() };
            let output = pair.run(program, &request).expect("the same").expect("it runs");
            assert_eq!(output.retval, 2, "{program}, {engine:?}");
            pair.compare_maps().unwrap_or_else(|e| panic!("{program}, {engine:?}: {e}"));
        }
    }
}

#[test]
fn resilient_locks_agree_with_the_kernel() {
    linux::needs_kernel!();
    compare(&mut homes(), "locks", false, &[EngineKind::Interp, EngineKind::Jit]);
}

#[test]
fn probing_into_dynptrs_agrees_with_the_kernel() {
    linux::needs_kernel!();
    compare(&mut homes(), "probes", true, &[EngineKind::Interp, EngineKind::Jit]);
}

#[test]
fn pointers_to_what_may_not_be_there_agree_with_the_kernel() {
    linux::needs_kernel!();
    // The compiler leaves reads that may fail to the interpreter.
    compare(&mut homes(), "casts", false, &[EngineKind::Interp, EngineKind::Auto]);
}
