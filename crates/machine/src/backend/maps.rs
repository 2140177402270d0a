//! Creating the maps of an object.

use std::sync::Arc;

use bpf::maps::{Map, MapContext, MapDef};
use bpf::object::{MapContents, MapSpec, ObjectSpec};
use bpf::verifier::special_fields;
use control::LoadError;
use uapi::Errno;
use uapi::bpf::MapType;

use super::EngineBackend;

/// Creates all maps, fills the data sections and freezes those that are constant.
pub(super) fn create_all(backend: &mut EngineBackend, spec: &ObjectSpec) -> Result<Vec<Arc<Map>>, LoadError> {
    spec.maps.iter().map(|map| create(backend, spec, map)).collect()
}

fn create(backend: &mut EngineBackend, spec: &ObjectSpec, map: &MapSpec) -> Result<Arc<Map>, LoadError> {
    let refused = |errno, reason| LoadError::Map { map: map.name.clone(), errno, reason };
    let cx = MapContext {
        id: backend.new_id(),
        cpus: backend.cpus,
        seed: backend.seed,
        memory_limit: backend.memory_limit,
    };
    let mut def = map.def();
    def.name = map.kernel_name(&spec.name);
    find_fields(backend, spec, map, &mut def);
    let created = Map::create(def, &cx).map_err(|e| refused(e.errno, e.to_string()))?;
    if let MapContents::Data(bytes) = &map.contents {
        let filled = created.open().update_elem(&0_u32.to_le_bytes(), bytes, 0);
        filled.map_err(|errno| refused(errno, format!("its contents do not fit: {errno}")))?;
    }
    if map.frozen {
        // Before programs are linked, whose proofs may take what is in it for constants.
        created.open().freeze().map_err(|errno| refused(errno, format!("freezing: {errno}")))?;
    }
    Ok(created)
}

/// Finds the locks, timers and pointers in the values of a map, and of the maps that it holds.
fn find_fields(backend: &EngineBackend, spec: &ObjectSpec, map: &MapSpec, def: &mut MapDef) {
    if let (Some(btf), Some(value)) = (spec.btf.as_deref(), map.value_type) {
        def.fields = special_fields(btf, backend.kernel_btf.as_deref(), value);
    }
    if let (Some(inner), Some(def)) = (map.inner.as_deref(), def.inner.as_deref_mut()) {
        find_fields(backend, spec, inner, def);
    }
}

/// Whether user space must put something into each slot before programs can send through the map.
pub(super) fn is_perf(map: &Map) -> bool {
    map.def().map_type == MapType::PerfEventArray
}

/// An error about a map of an object.
pub(super) fn error(map: &MapSpec, errno: Errno, what: &str) -> LoadError {
    LoadError::Map { map: map.name.clone(), errno, reason: format!("{what}: {errno}") }
}
