//! What the running kernel offers to XDP programs is there, or is refused with a reason, which docs/parity.md
//! gives too.

use bpf::Insn;
use bpf::btf::Kind;
use bpf::helpers::{absent_helper, absent_kfunc, helper};
use bpf::kfuncs::kfunc;
use linux::testing::{RawProg, load_insns};
use uapi::bpf::*;

const PARITY: &str = include_str!("../../docs/parity.md");

/// The verifier's log for a program that does nothing but this call; empty if it is accepted.
fn log_of(call: Insn) -> String {
    let insns = [
        Insn::new(BPF_ALU64 | BPF_MOV, 0, 0, 0, 0),
        call,
        Insn::new(BPF_ALU64 | BPF_MOV, 0, 0, 0, 0),
        Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
    ];
    load_insns(&RawProg::xdp(&insns)).err().map_or_else(String::new, |e| e.log)
}

#[test]
fn every_helper_of_the_kernel_is_there_or_refused_with_a_reason() {
    linux::needs_kernel!();
    let mut wrong = Vec::new();
    let (mut there, mut refused) = (0, 0);
    for (number, name) in HELPER_NAMES.iter().enumerate().skip(1) {
        let number = number as i32;
        let log = log_of(Insn::new(BPF_JMP | BPF_CALL, 0, 0, 0, number));
        let offered = !["program of this type cannot use helper", "unknown func", "invalid func"]
            .iter()
            .any(|text| log.contains(text));
        let has = helper(number).is_some() || number == func::TAIL_CALL;
        match (offered, has, absent_helper(number)) {
            (true, true, None) => there += 1,
            (true, false, Some(_)) if PARITY.contains(&format!("`{name}`")) => refused += 1,
            (false, false, None) => {}
            (_, _, reason) => wrong.push(format!(
                "bpf_{name}#{number}: the kernel {} it, the engine {}, the reason is {reason:?}",
                if offered { "offers" } else { "does not offer" },
                if has { "has it" } else { "has it not" }
            )),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("of {} helpers for XDP {there} are there, {refused} are refused", there + refused);
}

#[test]
fn every_kfunc_of_the_kernel_is_there_or_refused_with_a_reason() {
    linux::needs_kernel!();
    let btf = linux::host::vmlinux().expect("type information of the kernel");
    let mut wrong = Vec::new();
    let (mut there, mut refused) = (0, 0);
    for (id, ty) in btf.iter().filter(|(_, ty)| matches!(ty.kind, Kind::Func { .. })) {
        if !btf.decl_tags(id).any(|(_, text)| text == "bpf_kfunc") {
            continue;
        }
        let name = btf.str(ty.name);
        let log = log_of(Insn::new(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL, 0, id.0 as i32));
        let offered = !log.contains("is not allowed");
        let has = kfunc(name).is_some() || name == "bpf_throw";
        match (offered, has, absent_kfunc(name)) {
            (true, true, None) => there += 1,
            (true, false, Some(_)) if PARITY.contains(&format!("`{name}`")) => refused += 1,
            (false, _, _) => {}
            (true, _, reason) => wrong.push(format!(
                "{name}: the engine {}, the reason is {reason:?}",
                if has { "has it" } else { "has it not" }
            )),
        }
    }
    assert!(there > 0, "the kernel's type information names no kfuncs");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("of {} kfuncs for XDP {there} are there, {refused} are refused", there + refused);
}
