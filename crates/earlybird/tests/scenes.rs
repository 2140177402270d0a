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
