//! Every program of programs/ over every capture of testdata/pcaps, on the engine and on the running kernel:
//! the same verdicts, bytes, contexts, events and maps.

use std::path::{Path, PathBuf};

use bpf::object::AttachType;
use control::{Backend, EngineKind, LoadOptions};
use earlybird::Object;
use earlybird::backends::{self, EngineSettings};
use earlybird::capture::{CapturedPacket, Reader};
use earlybird::object::Home;
use earlybird::run::{Report, Session, SessionOptions};

fn files(folder: &str, endings: &[&str]) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let mut found: Vec<_> =
        entries.filter(|p| endings.iter().any(|e| p.to_string_lossy().ends_with(e))).collect();
    found.sort();
    found
}

fn captures() -> Vec<(PathBuf, Vec<CapturedPacket>)> {
    let read = |path: PathBuf| {
        let packets = Reader::open(&path).unwrap().collect::<Result<_, _>>().unwrap();
        (path, packets)
    };
    files("testdata/pcaps", &[".pcap", ".pcapng"]).into_iter().map(read).collect()
}

/// A fresh load on both homes, and the packets through it.
fn run(
    object: &Object,
    program: &str,
    packets: &[CapturedPacket],
    engine: EngineKind,
) -> Result<Report, String> {
    let settings =
        EngineSettings { net: backends::net_from_host().map_err(|e| e.to_string())?, ..Default::default() };
    let mut home = backends::engine(&settings).map_err(|e| e.to_string())?;
    let load = |backend: &mut dyn Backend, scripted| {
        let options = LoadOptions { programs: vec![program.to_owned()], scripted, engine, unverified: false };
        backend.load(object.spec(), &options).map_err(|e| e.to_string())
    };
    let ours = load(&mut *home, false)?;
    let theirs = load(&mut *backends::kernel().map_err(|e| e.to_string())?, true)?;
    let options = SessionOptions::default();
    let mut session =
        Session::new(object.spec(), program, Some((ours, engine.name().to_owned())), Some(theirs), options);
    for packet in packets {
        session.run(packet).map_err(|e| e.to_string())?;
    }
    Ok(session.finish())
}

/// Programs of devmaps and cpumaps cannot be test-run, by either home.
fn attachable(object: &Object) -> Vec<String> {
    let programs = object.spec().programs.iter().filter(|p| p.attach_type == AttachType::Xdp);
    programs.map(|p| p.name.clone()).collect()
}

fn agree(engine: EngineKind) {
    if let Err(why) = linux::testing::kernel_available() {
        linux::testing::skipped(&why);
        return;
    }
    let captures = captures();
    assert!(captures.len() >= 10, "captures are missing");
    let (mut runs, mut failures) = (0, Vec::new());
    for path in files("programs", &[".bpf.o"]) {
        let object = Object::open_for(&path, Home::Kernel).unwrap();
        for program in attachable(&object) {
            for (capture, packets) in &captures {
                runs += 1;
                let place = || format!("{} {program} {}", object.spec().name, capture.display());
                match run(&object, &program, packets, engine) {
                    Ok(report) if report.differences_total == 0 && report.warnings.is_empty() => {}
                    Ok(report) => failures.push(format!("{}:\n{}", place(), report.text())),
                    Err(why) => failures.push(format!("{}: {why}", place())),
                }
            }
        }
    }
    assert!(runs > 400, "{runs} runs are fewer than there are programs and captures");
    assert!(failures.is_empty(), "{} of {runs} runs failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn interpreter_and_kernel_agree_on_every_program_and_capture() {
    agree(EngineKind::Interp);
}

#[test]
fn compiled_code_and_kernel_agree_on_every_program_and_capture() {
    agree(EngineKind::Jit);
}
