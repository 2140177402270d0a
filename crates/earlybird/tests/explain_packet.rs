//! `earlybird explain-packet`: every packet of every scene ends somewhere, and the ends are those that the counters
//! have; what is told of a packet is what happened to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use control::EngineKind;
use control::scene::{Scene, SceneHome, play};
use earlybird::backends::{self, EngineSettings};
use earlybird::capture::Reader;
use earlybird::{Object, object::Home};
use machine::scene::EngineScene;
use machine::scene::fate::{End, Fate};

fn scenes() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../scenes")
}

fn earlybird(scene: &str, args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_earlybird"))
        .arg("explain-packet")
        .arg(scenes().join(scene))
        .args(args)
        .output()
        .expect("the command starts");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

fn capture(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let reader = Reader::open(path).map_err(|e| e.to_string())?;
    reader.map(|p| p.map(|p| p.data).map_err(|e| e.to_string())).collect()
}

/// Fates of a scene's packets, and the drops that its counters have.
fn fates(path: &Path) -> (Vec<Fate>, BTreeMap<String, u64>) {
    let scene = Scene::open(path, &capture).expect("a scene");
    let settings = backends::own_engine(&EngineSettings::default()).expect("an engine");
    let open = |path: &Path| {
        Object::open_for(path, Home::Engine).map(|o| o.spec().clone()).map_err(|e| e.to_string())
    };
    let mut home = EngineScene::new(&scene, &settings, EngineKind::Interp, &open).expect("a home");
    let follower = home.follow(None);
    let report = play(&scene, &mut home, true).expect("it plays");
    assert!(report.passed(), "{}: looking on changes nothing", path.display());
    let counters = home.counters().expect("counters");
    let drops = counters.iter().filter_map(|(name, n)| Some((name.strip_prefix("drop.")?.to_owned(), *n)));
    (follower.fates(), drops.filter(|(_, n)| *n > 0).collect())
}

#[test]
fn every_packet_ends_and_the_ends_are_those_of_the_counters() {
    let mut packets = 0;
    let entries = std::fs::read_dir(scenes()).expect("scenes");
    for path in
        entries.map(|e| e.expect("a file").path()).filter(|p| p.extension().is_some_and(|e| e == "toml"))
    {
        let (fates, drops) = fates(&path);
        let mut ends: BTreeMap<String, u64> = BTreeMap::new();
        for fate in &fates {
            packets += 1;
            assert!(!fate.ends.is_empty(), "{}: packet {} is lost", path.display(), fate.packet);
            for end in &fate.ends {
                if let End::Dropped { reason, .. } = end {
                    *ends.entry(reason.id().to_owned()).or_default() += 1;
                }
            }
        }
        assert_eq!(ends, drops, "{}", path.display());
    }
    assert!(packets > 50, "{packets} packets");
}

#[test]
fn a_packet_is_told_from_line_to_cure() {
    let (status, text) = earlybird("veth_tx.toml", &["--packet", "1"]);
    assert_eq!(status, Some(0), "{text}");
    for part in [
        "sent by a",
        "eth 02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff type 0x88b5, len 60",
        "On b, queue 0: path.tx answers XDP_TX",
        "=> path.c:",
        "return XDP_TX;",
        "xdp_bulk_tx: ifindex=b action=TX sent=0 drops=1 err=-6",
        "Dropped at b: xmit-no-receiver (EB2021, counter drop.xmit-no-receiver)",
        "`ethtool -K a gro on`",
        "earlybird explain EB2021",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let (_, text) = earlybird("redirect_egress.toml", &["-n", "3"]);
    for part in [
        "reads bpf_map_lookup_elem(path.turns[0]) = 2",
        "calls bpf_redirect_map(path.devices[0], flags 0x0) = XDP_REDIRECT",
        "At the exit of c: path.egress_drop answers XDP_DROP",
        "xdp_devmap_xmit: ndo_xdp_xmit from_ifindex=a to_ifindex=c action=REDIRECT sent=0 drops=8 err=0",
        "Dropped at c: egress-drop",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn packets_are_listed_by_their_way() {
    let (status, text) = earlybird("cpumap.toml", &[]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("a XDP_REDIRECT > CPU 0 XDP_DROP > dropped: cpumap-drop"), "{text}");
    let (status, text) = earlybird("cpumap.toml", &["-n", "999"]);
    assert_eq!(status, Some(2));
    assert!(text.contains("there is no packet 999: the scene makes "), "{text}");
}

#[test]
fn as_json_an_end_brings_its_page() {
    let (status, text) = earlybird("redirect_refused.toml", &["--packet", "1", "--json"]);
    assert_eq!(status, Some(0), "{text}");
    let fate: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((fate["packet"].as_u64(), fate["live"].as_bool()), (Some(1), Some(true)), "{fate:#}");
    assert_eq!(fate["hops"][0]["calls"][0]["map"], "path.devices", "{fate:#}");
    assert_eq!(fate["ends"][0]["reason"], "redirect-not-supported", "{fate:#}");
    assert_eq!(fate["ends"][0]["id"], "EB2011", "{fate:#}");
    let (_, text) = earlybird("redirect_refused.toml", &["--json"]);
    let fates: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert!(fates.as_array().is_some_and(|f| f.len() == 7), "{fates:#}");
}
