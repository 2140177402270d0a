//! `earlybird disasm`: every instruction once, and all of the machine code.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn disasm(args: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut command = Command::new(env!("CARGO_BIN_EXE_earlybird"));
    let output = command.arg("disasm").args(args).current_dir(root).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn source_and_bytecode_stand_together() {
    let text = disasm(&["programs/drop.bpf.o"]);
    assert!(text.starts_with("drop (xdp):\n; return XDP_DROP; @ "), "{text}");
    assert!(text.contains("    0: (b4) w0 = 1\n    1: (95) exit\n"), "{text}");
}

#[test]
fn machine_code_stands_beside_its_instruction() {
    let text = disasm(&["programs/firewall.bpf.o", "--jit"]);
    let line = text.lines().find(|l| l.contains("= *(u32 *)(r1 +4)") || l.contains("= *(u32 *)(r1 +0)"));
    assert!(line.is_some_and(|l| l.contains("mov ")), "{text}");
}

/// Every byte of machine code is shown once, in pieces that lie end to end.
#[test]
fn json_has_all_of_the_code() {
    for object in ["programs/firewall.bpf.o", "programs/tailcall_parser.bpf.o", "programs/bench/big.bpf.o"] {
        let programs: Value = serde_json::from_str(&disasm(&[object, "--jit", "--json"])).unwrap();
        for program in programs.as_array().unwrap() {
            let of_insns = program["insns"].as_array().unwrap().iter().map(|row| &row["machine"]);
            let all = of_insns.chain([&program["other_machine"]]);
            let mut pieces: Vec<(u64, u64)> = all
                .flat_map(|m| m.as_array().unwrap())
                .map(|m| (m["offset"].as_u64().unwrap(), m["bytes"].as_str().unwrap().len() as u64 / 2))
                .collect();
            pieces.sort_unstable();
            let end = pieces.iter().fold(0, |end, (offset, len)| {
                assert_eq!(*offset, end, "{object} {}", program["program"]);
                end + len
            });
            assert!(end > 0);
        }
    }
}

#[test]
fn a_program_that_is_not_there_is_a_question_of_usage() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_earlybird"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let args = ["disasm", "programs/drop.bpf.o", "--prog", "nothing"];
    assert_eq!(command.args(args).current_dir(root).status().unwrap().code(), Some(2));
}
