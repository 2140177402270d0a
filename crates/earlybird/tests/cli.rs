//! The command as its users meet it: exit status, one clear line for bad input, JSON of the promised shape.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn earlybird(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_earlybird")).args(args).current_dir(root()).output().unwrap()
}

fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// Status 1 and one line that contains `expected`.
#[track_caller]
fn refused(args: &[&str], expected: &str) {
    let output = earlybird(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    assert!(stderr.contains(expected), "{args:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{args:?}");
}

const WEB: &str = "testdata/pcaps/web.pcapng";

#[test]
fn the_main_job_gives_the_promised_json() {
    let output = earlybird(&["run", "programs/firewall.bpf.o", "--pcap", WEB, "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let report = json(&output);
    for key in [
        "object",
        "program",
        "backend",
        "engine",
        "packets",
        "bytes",
        "verdicts",
        "ns_per_packet",
        "redirects",
        "maps",
    ] {
        assert!(report.get(key).is_some(), "{key} is missing: {report}");
    }
    assert_eq!(report["object"], "firewall.bpf.o");
    assert_eq!(report["backend"], "engine");
    assert_eq!(report["differences"], Value::Array(Vec::new()));
    let packets = report["packets"].as_u64().unwrap();
    let verdicts = report["verdicts"].as_object().unwrap();
    assert!(packets > 0);
    assert_eq!(verdicts.values().map(|n| n.as_u64().unwrap()).sum::<u64>(), packets);
}

#[test]
fn connections_come_from_the_tables_and_are_shown() {
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        eprintln!("SKIPPED: without the kernel's type information no program can name its functions");
        return;
    }
    let tables = Path::new(env!("CARGO_TARGET_TMPDIR")).join("connections.toml");
    let given = "[[connections]]\nprotocol = \"udp\"\nsrc = \"10.7.7.7:1\"\ndst = \"10.7.7.8:2\"\nmark = 9\n\
        timeout_ms = 2000000000\n";
    std::fs::write(&tables, given).unwrap();
    let args = ["run", "testdata/objects/conntrack.o", "--pcap", WEB, "--json", "--net"];
    let output = earlybird(&[args.as_slice(), &[tables.to_str().unwrap()]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let report = json(&output);
    let connections = report["connections"].as_array().expect("connections");
    let row = connections.iter().find(|c| c["src"] == "10.7.7.7:1").expect("the one of the tables");
    assert_eq!((&row["mark"], &row["reply_dst"]), (&9.into(), &"10.7.7.7:1".into()));
    assert!(connections.len() > 1, "and those of the capture: {connections:?}");
    assert_eq!(report["engine"], "jit");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let args = [
            "run",
            "programs/sampler.bpf.o",
            "--prog",
            "sampler",
            "--pcap",
            WEB,
            "--json",
            "--seed",
            "7",
            "--dump-maps",
        ];
        let mut report = json(&earlybird(&args));
        report["ns_per_packet"] = Value::Null;
        report
    };
    assert_eq!(run(), run());
}

#[test]
fn what_the_program_does_is_written_with_verdicts() {
    let out = std::env::temp_dir().join(format!("earlybird-out-{}.pcapng", std::process::id()));
    let output = earlybird(&[
        "run",
        "programs/drop.bpf.o",
        "--pcap",
        WEB,
        "--limit",
        "3",
        "--out",
        out.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let reader = earlybird::capture::Reader::open(&out).unwrap();
    assert_eq!(reader.map(Result::unwrap).count(), 6, "each packet at entry and at exit");
    std::fs::remove_file(out).unwrap();
}

#[test]
fn one_packet_by_hand() {
    let report = json(&earlybird(&["run", "programs/pass.bpf.o", "--packet", &"00".repeat(14), "--json"]));
    assert_eq!(report["verdicts"]["XDP_PASS"], 1);
    assert_eq!(report["bytes"], 14);
}

#[test]
fn bad_objects_are_named() {
    refused(&["run", "testdata/bad/truncated.o", "--packet", &"00".repeat(14)], "truncated.o");
    refused(&["run", "README.md", "--packet", &"00".repeat(14)], "README.md");
    refused(&["run", "testdata/bad/no_xdp.o", "--packet", &"00".repeat(14)], "no_xdp.o");
    refused(&["run", "no/such/file.o", "--packet", &"00".repeat(14)], "no/such/file.o");
}

#[test]
fn bad_packets_are_counted_and_explained() {
    refused(&["run", "programs/pass.bpf.o", "--packet", &"00".repeat(13)], "13 bytes");
    refused(&["run", "programs/pass.bpf.o", "--packet-file", "no/such/packet"], "no/such/packet");
    refused(&["run", "programs/pass.bpf.o", "--pcap", "README.md"], "neither a pcap nor a pcapng file");
}

#[test]
fn bad_settings_are_explained() {
    let packet = "00".repeat(14);
    let run = |set: [&str; 2], expected: &str| {
        refused(&["run", "programs/firewall.bpf.o", "--packet", &packet, "--set", set[0], set[1]], expected);
    };
    run(["no_such_map", "1=2"], "no map is called \"no_such_map\"");
    run(["no_such_map", "1"], "no KEY=VALUE");
}

#[test]
fn usage_errors_have_status_2() {
    assert_eq!(earlybird(&["run"]).status.code(), Some(2));
    assert_eq!(earlybird(&["run", "programs/pass.bpf.o"]).status.code(), Some(2));
    assert_eq!(earlybird(&["fly"]).status.code(), Some(2));
    let several = earlybird(&["run", "programs/bench/maps.bpf.o", "--packet", &"00".repeat(14)]);
    assert_eq!(several.status.code(), Some(2));
    let text = String::from_utf8_lossy(&several.stderr);
    assert!(text.contains("hash_lookup") && text.contains("--prog"), "{text}");
}

#[test]
fn every_bad_input_gets_one_line() {
    let bad = std::fs::read_dir(root().join("testdata/bad")).unwrap().map(|e| e.unwrap().path());
    let packet = "00".repeat(14);
    let mut seen = 0;
    for path in bad {
        let path = path.to_str().unwrap();
        match path.rsplit('.').next() {
            Some("o") => refused(&["run", path, "--packet", &packet], ""),
            Some("pcap" | "pcapng") => refused(&["run", "programs/pass.bpf.o", "--pcap", path], ""),
            _ => continue,
        }
        seen += 1;
    }
    assert!(seen >= 20, "{seen} bad inputs are fewer than there were");
}

#[test]
fn a_rejected_program_is_told_with_its_line() {
    let output = earlybird(&["verify", "testdata/bad/unchecked.o", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let verdicts = json(&output);
    assert_eq!(verdicts[0]["accepted"], false);
    assert_eq!(verdicts[0]["errno"], "EACCES");
    assert!(verdicts[0]["source"]["line"].as_u64().is_some_and(|line| line > 0), "{verdicts}");
    assert_eq!(verdicts[0]["id"], "EB0403");
    let keys: Vec<_> = verdicts[0].as_object().unwrap().keys().map(String::as_str).collect();
    let promised = "program section accepted errno message id insn source processed_insns total_states stack_depth \
                    verification_us";
    assert_eq!(keys, promised.split_whitespace().collect::<Vec<_>>());
    let keys: Vec<_> = verdicts[0]["source"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["file", "line", "column", "text"]);
    let text = earlybird(&["verify", "testdata/bad/unchecked.o"]);
    let text = String::from_utf8_lossy(&text.stdout);
    assert!(text.contains("error[EB0403]: ") && !text.contains('\u{1b}'), "{text}");
    assert_eq!(earlybird(&["verify", "programs/firewall.bpf.o"]).status.code(), Some(0));
}

#[test]
fn a_rule_is_explained_by_its_page() {
    let page = earlybird(&["explain", "eb0403"]);
    assert_eq!(page.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&page.stdout).starts_with("# EB0403: "));
    let list = earlybird(&["explain"]);
    assert!(String::from_utf8_lossy(&list.stdout).contains("\n  EB0403  "));
    let unknown = earlybird(&["explain", "EB9999"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(unknown.stdout.is_empty());
}
