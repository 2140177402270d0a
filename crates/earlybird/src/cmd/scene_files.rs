//! The files that commands about scenes read: scenes, the captures that they send, and objects.

use std::path::Path;

use bpf::object::ObjectSpec;
use control::EngineKind;
use control::scene::{Scene, SceneError};
use earlybird::backends::{self, EngineSettings};
use earlybird::capture::Reader;
use earlybird::{Object, object::Home};
use machine::scene::EngineScene;

/// Packets of a capture that are read at most; a scene that has more is told so.
const PACKETS_MAX: usize = 1 << 17;

/// Reads a scene with its captures.
pub(super) fn scene(path: &Path) -> Result<Scene, SceneError> {
    Scene::open(path, &capture)
}

/// The engine's home of a scene, ready to play.
pub(super) fn engine_home(scene: &Scene, seed: u64, kind: EngineKind) -> anyhow::Result<EngineScene> {
    let settings = backends::own_engine(&EngineSettings { seed, ..EngineSettings::default() })?;
    let open = |path: &Path| object(path, Home::Engine);
    Ok(EngineScene::new(scene, &settings, kind, &open)?)
}

/// Reads an object.
pub(super) fn object(path: &Path, home: Home) -> Result<ObjectSpec, String> {
    Object::open_for(path, home).map(|o| o.spec().clone()).map_err(|e| e.to_string())
}

fn capture(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let reader = Reader::open(path).map_err(|e| e.to_string())?;
    let packets = reader.take(PACKETS_MAX).map(|p| p.map(|p| p.data).map_err(|e| e.to_string()));
    packets.collect()
}
