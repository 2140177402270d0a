//! The maps that every random program has at hand, and their positions.

use bpf::object::{MapContents, MapSpec, SlotRef};
use uapi::bpf::*;

pub(super) const SUM: i32 = 0;
pub(super) const ARRAY: i32 = 1;
pub(super) const HASH: i32 = 2;
pub(super) const PERCPU_ARRAY: i32 = 3;
pub(super) const PERCPU_HASH: i32 = 4;
pub(super) const LRU: i32 = 5;
pub(super) const LPM: i32 = 6;
pub(super) const QUEUE: i32 = 7;
pub(super) const STACK: i32 = 8;
pub(super) const BLOOM: i32 = 9;
pub(super) const RING: i32 = 10;
pub(super) const PERF: i32 = 11;
pub(super) const JUMPS: i32 = 12;
pub(super) const OUTER: i32 = 13;
pub(super) const DEVMAP: i32 = 14;
pub(super) const DEVMAP_HASH: i32 = 15;
pub(super) const XSKMAP: i32 = 16;
pub(super) const CPUMAP: i32 = 17;
pub(super) const TEXTS: i32 = 18;
/// One value, so that programs may hold its address.
pub(super) const CELL: i32 = 19;
/// What was folded into the sum last, by place in the program.
pub(super) const TRACE: i32 = 20;
/// Places that [`TRACE`] has room for.
pub(super) const TRACE_SITES: usize = 128;

/// Bytes of a value of the maps that hold plain values.
pub(super) const VALUE_SIZE: u32 = 16;
/// Entries of the small arrays.
pub(super) const ENTRIES: u32 = 8;

/// Offsets of the format strings in [`TEXTS`].
pub(super) const FORMATS: [(i32, usize); 4] = [(0, 2), (16, 1), (32, 3), (48, 0)];
const TEXT: [&[u8]; 4] = [b"%d.%x\0", b"[%5llu]\0", b"%c%lx/%u\0", b"100%% plain\0"];

pub(super) fn all() -> Vec<MapSpec> {
    use MapType::*;
    let value = VALUE_SIZE;
    let mut maps = vec![
        map("sum", Array, 4, 8, 1, 0),
        map("array", Array, 4, value, ENTRIES, 0),
        map("hash", Hash, 4, value, 16, 0),
        map("percpu_array", PercpuArray, 4, value, ENTRIES, 0),
        map("percpu_hash", PercpuHash, 4, value, 16, 0),
        map("lru", LruHash, 4, value, 4096, 0),
        map("lpm", LpmTrie, 8, value, 16, BPF_F_NO_PREALLOC),
        map("queue", Queue, 0, 8, 4, 0),
        map("stack", Stack, 0, 8, 4, 0),
        map("bloom", BloomFilter, 0, 8, 64, 0),
        map("ring", Ringbuf, 0, 0, 4096, 0),
        map("perf", PerfEventArray, 4, 4, 64, 0),
        map("jumps", ProgArray, 4, 4, 4, 0),
        map("outer", ArrayOfMaps, 4, 4, 4, 0),
        map("devmap", Devmap, 4, 4, 4, 0),
        map("devmap_hash", DevmapHash, 4, 8, 4, 0),
        map("xskmap", Xskmap, 4, 4, 4, 0),
        map("cpumap", Cpumap, 4, 4, 2, 0),
        map("texts", Array, 4, 64, 1, BPF_F_RDONLY_PROG),
        map("cell", Array, 4, value, 1, 0),
        map("trace", Array, 4, 8 * TRACE_SITES as u32, 1, 0),
    ];
    maps[JUMPS as usize].contents = MapContents::Slots(vec![
        (0, SlotRef::Program(super::SECOND.to_owned())),
        (2, SlotRef::Program(super::THIRD.to_owned())),
    ]);
    let outer = &mut maps[OUTER as usize];
    outer.inner = Some(Box::new(map("inner", Array, 4, value, ENTRIES, 0)));
    outer.contents = MapContents::Slots(vec![(1, SlotRef::Map(ARRAY as usize))]);
    let mut texts = vec![0; 64];
    for ((offset, _), text) in FORMATS.into_iter().zip(TEXT) {
        texts[offset as usize..][..text.len()].copy_from_slice(text);
    }
    maps[TEXTS as usize].contents = MapContents::Data(texts);
    maps[TEXTS as usize].frozen = true;
    maps
}

fn map(name: &str, map_type: MapType, key: u32, value: u32, entries: u32, flags: u32) -> MapSpec {
    MapSpec {
        name: name.to_owned(),
        map_type,
        key_size: key,
        value_size: value,
        max_entries: entries,
        map_flags: flags,
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
