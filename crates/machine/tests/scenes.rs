//! Every scene of `scenes/` passes on the engine, on compiled code and in the checked interpreter; without a kernel
//! to compare with, so that it runs anywhere.

use std::path::Path;
use std::sync::Arc;

use bpf::object::{ObjectSpec, Target};
use control::EngineKind;
use control::scene::{Scene, play};
use machine::scene::EngineScene;
use machine::{EngineBackend, NetConfig, NetTables};

#[test]
fn scenes_pass_on_both_engines() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenes");
    let open = |path: &Path| {
        let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        ObjectSpec::parse(&bytes, "scene", &Target::bundled()).map_err(|e| e.to_string())
    };
    let mut played = 0;
    for entry in std::fs::read_dir(dir).expect("scenes/ is there") {
        let path = entry.expect("a file").path();
        if path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        for kind in [EngineKind::Jit, EngineKind::Interp] {
            // Scenes with captures are played by the command's own tests, which can read captures.
            let read = |_: &Path| Err("captures are not read here".to_owned());
            let scene = match Scene::open(&path, &read) {
                Ok(scene) => scene,
                Err(e) if e.to_string().contains("captures are not read here") => break,
                Err(e) => panic!("{e}"),
            };
            let net = Arc::new(NetTables::new(&NetConfig::default()).expect("an empty network"));
            let settings = EngineBackend::new(2, 1, net);
            let mut home = EngineScene::new(&scene, &settings, kind, &open).expect("a home");
            let report = play(&scene, &mut home, false).expect("it plays");
            let failures: Vec<_> = report.steps.iter().flat_map(|s| &s.failures).collect();
            assert!(report.passed(), "{} {kind:?}: {failures:#?}", path.display());
            played += 1;
        }
    }
    assert!(played >= 28, "{played} of 14 scenes twice");
}
