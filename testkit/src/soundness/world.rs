//! What random programs run in: maps with random contents, packets, a host that answers at random.

use std::sync::Arc;

use bpf::host::{Clock, Host};
use bpf::maps::{Map, MapContext, MapFd};
use bpf::object::{MapContents, MapSpec};
use bpf::verifier;
use mem::XdpBuff;
use uapi::bpf::{BPF_F_RDONLY_PROG, MapType};

use crate::engine;
use crate::generate::Rng;

pub(super) const ARRAY: usize = 0;
pub(super) const HASH: usize = 1;
pub(super) const PERCPU: usize = 2;
/// One value, whose address programs may hold.
pub(super) const ONE: usize = 3;
pub(super) const RING: usize = 4;
pub(super) const WIDE_HASH: usize = 5;
/// One value that neither programs nor user space can write.
pub(super) const READ_ONLY: usize = 6;

/// Maps whose values programs look up.
pub(super) const LOOKUPS: [usize; 4] = [ARRAY, HASH, PERCPU, WIDE_HASH];

/// Name, kind, bytes of a key, bytes of a value, entries.
const MAPS: [(&str, MapType, u32, u32, u32); 7] = [
    ("array", MapType::Array, 4, 32, 4),
    ("hash", MapType::Hash, 4, 32, 8),
    ("percpu", MapType::PercpuArray, 4, 8, 4),
    ("one", MapType::Array, 4, 64, 1),
    ("ring", MapType::Ringbuf, 0, 0, 4096),
    ("wide_hash", MapType::Hash, 8, 48, 8),
    ("read_only", MapType::Array, 4, 32, 1),
];

/// Bytes of a value.
pub(super) fn value_size(map: usize) -> u16 {
    MAPS[map].3 as u16
}

pub(super) fn is_read_only(map: usize) -> bool {
    map == READ_ONLY
}

/// The maps as an object declares them.
pub(super) fn maps() -> Vec<MapSpec> {
    let mut maps: Vec<MapSpec> = MAPS.iter().map(spec).collect();
    let constant: Vec<u8> = (0..32_u8).map(|i| i.wrapping_mul(37) ^ 0xc5).collect();
    let read_only = &mut maps[READ_ONLY];
    (read_only.contents, read_only.frozen) = (MapContents::Data(constant), true);
    read_only.map_flags = BPF_F_RDONLY_PROG;
    maps
}

fn spec(&(name, map_type, key_size, value_size, max_entries): &(&str, MapType, u32, u32, u32)) -> MapSpec {
    MapSpec {
        name: name.to_owned(),
        map_type,
        key_size,
        value_size,
        max_entries,
        map_flags: 0,
        map_extra: 0,
        numa_node: None,
        key_type: None,
        value_type: None,
        inner: None,
        contents: MapContents::Empty,
        frozen: false,
        pin_by_name: false,
    }
}

/// The maps of all programs, made once, and what verifier and linker want to know of them.
pub(super) struct World {
    pub(super) maps: Vec<Arc<Map>>,
    pub(super) defs: Vec<verifier::MapDef>,
    open: Vec<MapFd>,
}

impl World {
    pub(super) fn new() -> Self {
        let specs = maps();
        let mut maps = Vec::new();
        for (i, spec) in specs.iter().enumerate() {
            let cx = MapContext { id: i as u32 + 1, ..MapContext::default() };
            let map = Map::create(spec.def(), &cx).expect("the maps are possible");
            if let MapContents::Data(bytes) = &spec.contents {
                let fd = map.open();
                fd.update_elem(&[0; 4], bytes, 0).expect("the contents fit");
                fd.freeze().expect("nothing maps it");
            }
            maps.push(map);
        }
        let open = maps.iter().map(Map::open).collect();
        let defs = specs.iter().map(|s| verifier::MapDef::from_spec(s, "random.bpf.o")).collect();
        Self { maps, defs, open }
    }

    /// Gives every map new contents.
    pub(super) fn fill(&self, rng: &mut Rng) {
        for (map, (_, kind, key_size, value_size, entries)) in self.open.iter().zip(MAPS) {
            let hash = kind == MapType::Hash;
            if !hash && !matches!(kind, MapType::Array | MapType::PercpuArray) {
                while map.map().ringbuf().and_then(|r| r.consume()).is_some() {}
                continue;
            }
            for key in 0..u64::from(entries) {
                let key = &key.to_le_bytes()[..key_size as usize];
                if hash && rng.one_in(2) {
                    // It may not be there.
                    let _ = map.delete_elem(key);
                    continue;
                }
                let mut value = Vec::with_capacity(value_size as usize);
                while value.len() < value_size as usize {
                    value.extend(rng.odd_number().to_le_bytes());
                }
                value.truncate(value_size as usize);
                // The read-only map and a full one stay as they are.
                let _ = map.update_elem(key, &value, 0);
            }
        }
    }
}

/// A packet of some length, full of numbers that programs treat specially.
pub(super) fn packet(rng: &mut Rng) -> XdpBuff<'static> {
    let len = match rng.below(4) {
        0 => rng.below(64),
        1 => 64,
        2 => rng.below(300),
        _ => rng.below(2000),
    } as usize;
    let meta = if rng.one_in(3) { rng.index(9) * 4 } else { 0 };
    let mut data = Vec::with_capacity(len + meta + 8);
    while data.len() < len + meta {
        match rng.below(3) {
            0 => data.extend(rng.u64().to_le_bytes()),
            1 => data.extend(rng.odd_number().to_le_bytes()),
            _ => data.push(rng.below(20) as u8),
        }
    }
    data.truncate(len + meta);
    let mut buff = engine::packet(&data);
    buff.split_metadata(meta).expect("it is short enough");
    buff
}

/// A host whose clock and random numbers are random.
pub(super) struct RandomHost(pub(super) Rng);

impl Host for RandomHost {
    fn ktime_ns(&mut self, _: Clock) -> u64 {
        self.0.u64() >> 1
    }

    fn prandom_u32(&mut self) -> u32 {
        self.0.odd_number() as u32
    }
}
