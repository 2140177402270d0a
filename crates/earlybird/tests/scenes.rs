//! The scenes of this repository play as they say, on the engine with each way to run programs, and with root on the
//! kernel as well, with no difference.

use std::path::PathBuf;
use std::process::Command;

fn earlybird(args: &[&str]) -> (Option<i32>, String) {
    let scenes = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../scenes");
    let output = Command::new(env!("CARGO_BIN_EXE_earlybird"))
        .arg("test")
        .args(args)
        .arg(scenes)
        .output()
        .expect("the command starts");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn scenes_play_on_the_engine() {
    for engine in ["interp", "jit"] {
        let (status, text) = earlybird(&["--engine", engine]);
        assert_eq!(status, Some(0), "{engine}\n{text}");
        assert!(text.starts_with("TAP version 14\n1.."), "{text}");
    }
}

#[test]
fn scenes_play_on_the_kernel_without_a_difference() {
    linux::needs_kernel!();
    let (status, text) = earlybird(&["--backend", "both"]);
    assert_eq!(status, Some(0), "{text}");
}

#[test]
fn reports_have_three_forms() {
    let (status, text) = earlybird(&["--format", "junit"]);
    assert_eq!(status, Some(0));
    assert!(text.contains("<testsuite name=\"scenes\"") && text.contains("failures=\"0\""), "{text}");
    let (_, text) = earlybird(&["--format", "json"]);
    let scenes: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert!(
        scenes.as_array().is_some_and(|s| s.len() >= 10 && s.iter().all(|s| s["passed"] == true)),
        "{text}"
    );
}

fn up(scene: &str, args: &[&str]) -> (Option<i32>, String) {
    let scene = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../scenes").join(scene);
    let output = Command::new(env!("CARGO_BIN_EXE_earlybird")).arg("up").arg(scene).args(args).output();
    let output = output.expect("the command starts");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn a_router_of_four_ports_is_up_with_its_generators() {
    let (status, text) = up("router.toml", &["--duration", "2", "--interval", "0.5", "--json"]);
    assert_eq!(status, Some(0), "{text}");
    let lines: Vec<serde_json::Value> =
        text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let (end, reports) = lines.split_last().expect("an end");
    assert!((2..=4).contains(&reports.len()), "{text}");
    assert!(reports.iter().all(|r| r["rates"]["redirect"].as_f64() > Some(0.0)), "{text}");
    assert_eq!((end["end"].as_bool(), end["lost"].as_i64()), (Some(true), Some(0)), "{end:#}");
    let counts = &end["counts"];
    let number = |name: &str| counts[name].as_u64().expect("a number");
    // Every packet was routed, and counted by the host that it went to.
    assert!(number("generated") > 1000, "{counts:#}");
    assert_eq!(number("generated"), number("redirect"), "{counts:#}");
    assert_eq!(number("redirect"), number("xmit"), "{counts:#}");
    assert_eq!(counts["drops"]["program-drop"], counts["xmit"], "{counts:#}");
    for port in ["r1", "r2", "r4"] {
        assert!(counts["devices"][port]["redirect"].as_u64() > Some(0), "{port}: {counts:#}");
    }
}

#[test]
fn rates_have_the_columns_of_xdp_tools() {
    let (status, text) = up("router.toml", &["--duration", "1", "--interval", "0.3", "--extended"]);
    assert_eq!(status, Some(0), "{text}");
    let summary = text.lines().find(|l| l.starts_with("Summary ")).expect("a summary");
    let words: Vec<_> = summary.split_whitespace().collect();
    assert!(
        matches!(words.as_slice(), [_, _, "rx/s", _, "redir/s", _, "err,drop/s", _, "xmit/s"]),
        "{summary}"
    );
    for part in
        ["  receive total", "  redirect total", "  xdp_exception", "  devmap_xmit total", "bulk-avg", "err/s"]
    {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    // A scene in which nothing would happen is told so.
    let (status, text) = up("veth_tx.toml", &["--duration", "1"]);
    assert_eq!(status, Some(1));
    assert!(text.contains("the scene has no generator"), "{text}");
}
