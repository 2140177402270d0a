//! Creating and filling the maps of an object, by libbpf's rules.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use bpf::object::{MapContents, MapSpec, ObjectSpec, SlotRef};
use control::LoadError;
use uapi::Errno;
use uapi::bpf::{BPF_F_MMAPABLE, BPF_F_NUMA_NODE, MapType};

use crate::sys::{Map, MapArgs};

use super::btf::KernelBtf;
use super::refusal;

/// Creates all maps of an object; those of data sections are filled and, if need be, frozen.
pub(super) fn create_all(
    spec: &ObjectSpec,
    btf: Option<&KernelBtf>,
    warnings: &mut Vec<String>,
) -> Result<Vec<Map>, LoadError> {
    spec.maps.iter().map(|m| create_one(&spec.name, m, btf, warnings)).collect()
}

/// Puts maps into the map-in-maps that name them.
pub(super) fn fill_map_slots(spec: &ObjectSpec, maps: &[Map]) -> Result<(), LoadError> {
    for (map_spec, map) in spec.maps.iter().zip(maps) {
        for (key, slot) in map_spec.contents.slots() {
            let SlotRef::Map(target) = slot else { continue };
            let fd = maps[*target].as_fd().as_raw_fd();
            map.update(&key.to_le_bytes(), &fd.to_le_bytes(), 0)
                .map_err(|errno| refusal::slot(map_spec, *key, &spec.maps[*target].name, errno))?;
        }
    }
    Ok(())
}

fn create_one(
    object: &str,
    spec: &MapSpec,
    btf: Option<&KernelBtf>,
    warnings: &mut Vec<String>,
) -> Result<Map, LoadError> {
    let failed = |errno| refusal::map(spec, errno);
    // The kernel copies the template's properties; the template itself is no longer needed then.
    let inner = match &spec.inner {
        Some(inner) => Some(create_one(object, inner, btf, warnings)?),
        None => None,
    };
    let map = create_with_fallbacks(&spec.kernel_name(object), spec, btf, inner.as_ref().map(AsFd::as_fd))
        .map_err(failed)?;
    if spec.pin_by_name {
        warnings.push(format!("map {} asks to be pinned and is not: it ends with this run", spec.name));
    }
    if let MapContents::Data(data) = &spec.contents {
        map.update(&0_u32.to_le_bytes(), data, 0).map_err(failed)?;
    }
    if spec.frozen {
        map.freeze().map_err(failed)?;
    }
    Ok(map)
}

/// Tries without what an older kernel, or this map type, does not take: key and value types (which the
/// kernel may refuse for reasons of its own), then the flag that lets data sections be mapped.
fn create_with_fallbacks(
    name: &str,
    spec: &MapSpec,
    btf: Option<&KernelBtf>,
    inner: Option<BorrowedFd<'_>>,
) -> Result<Map, Errno> {
    let types = btf.filter(|_| takes_types(spec.map_type)).and_then(|btf| {
        let (key, value) = (spec.key_type.map_or(0, |t| t.0), spec.value_type.map_or(0, |t| t.0));
        (value != 0).then_some((btf.as_fd(), key, value))
    });
    let args = MapArgs {
        map_type: spec.map_type as u32,
        key_size: spec.key_size,
        value_size: spec.value_size,
        max_entries: spec.max_entries,
        map_flags: spec.map_flags | if spec.numa_node.is_some() { BPF_F_NUMA_NODE } else { 0 },
        name,
        numa_node: spec.numa_node.unwrap_or(0),
        map_extra: spec.map_extra,
        inner,
        btf: types,
    };
    let first = Map::create(&args);
    let Err(errno) = first else { return first };
    let untyped = MapArgs { btf: None, ..args };
    if types.is_some()
        && let Ok(map) = Map::create(&untyped)
    {
        return Ok(map);
    }
    let is_data = matches!(spec.contents, MapContents::Data(_));
    if is_data && errno == Errno::EINVAL && args.map_flags & BPF_F_MMAPABLE != 0 {
        return Map::create(&MapArgs { map_flags: args.map_flags & !BPF_F_MMAPABLE, ..args });
    }
    Err(errno)
}

/// Map types that the kernel gives no key and value types.
fn takes_types(map_type: MapType) -> bool {
    use MapType::*;
    !matches!(
        map_type,
        PerfEventArray
            | CgroupArray
            | StackTrace
            | ArrayOfMaps
            | HashOfMaps
            | Devmap
            | DevmapHash
            | Cpumap
            | Xskmap
            | Sockmap
            | Sockhash
            | Queue
            | Stack
            | Arena
    )
}
