//! What a map operation costs from a helper: `cargo bench -p earlybird-bpf --bench maps`.
//!
//! Compiled programs do arrays and hash lookups in line, which is measured with them.
#![allow(missing_docs)]

use std::hint::black_box;
use std::sync::Arc;

use bpf::maps::{Bytes, Map, MapContext, MapDef};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mem::SharedSlice;
use uapi::bpf::*;

/// Operations per measured call.
const OPS: u32 = 1024;

fn create(map_type: MapType, key: u32, n: u32, flags: u32) -> Arc<Map> {
    let def = MapDef::new(map_type, key, 8, n).flags(flags);
    Map::create(def, &MapContext { cpus: 2, seed: 1, ..MapContext::default() }).expect("a map")
}

/// Spreads numbers over `0..n` without order; `n` is a power of two.
fn scatter(i: u32, n: u32) -> u32 {
    i.wrapping_mul(0x9e37_79b1).rotate_left(11).wrapping_mul(0x85eb_ca6b) & (n - 1)
}

fn key(i: u32, size: usize) -> Vec<u8> {
    i.to_le_bytes().into_iter().chain(std::iter::repeat(7)).take(size).collect()
}

fn filled(map_type: MapType, size: u32, n: u32) -> Arc<Map> {
    let map = create(map_type, size, n, 0);
    for i in 0..n {
        map.update(0, &key(i, size as usize), Bytes::Own(&[1; 8]), 0).expect("there is room");
    }
    map
}

fn keys(size: usize, n: u32, round: u32) -> Vec<Vec<u8>> {
    (0..OPS).map(|i| key(scatter(round * OPS + i, n), size)).collect()
}

fn lookup_all(map: &Map, keys: &[Vec<u8>]) -> u64 {
    let guard = mem::epoch::pin();
    keys.iter().filter_map(|k| map.lookup(&guard, 0, k)).map(|v| v.read_u64(0)).sum()
}

fn lookups(c: &mut Criterion) {
    use MapType::*;
    let mut group = c.benchmark_group("lookup");
    group.throughput(Throughput::Elements(OPS.into()));
    for (name, map_type, size, n) in [
        ("array", Array, 4, 64),
        ("percpu_array", PercpuArray, 4, 64),
        ("hash4", Hash, 4, 64),
        ("hash8", Hash, 8, 64),
        ("hash16", Hash, 16, 64),
        ("hash40", Hash, 40, 64),
        ("percpu_hash4", PercpuHash, 4, 64),
        ("lru_hash4", LruHash, 4, 64),
        ("hash16", Hash, 16, 1 << 20),
        ("lru_hash16", LruHash, 16, 1 << 20),
    ] {
        let map = filled(map_type, size, n);
        let sets: Vec<_> = (0..if n > 64 { 256 } else { 1 }).map(|r| keys(size as usize, n, r)).collect();
        let mut round = 0;
        group.bench_function(BenchmarkId::new(name, n), |b| {
            b.iter(|| {
                round = (round + 1) % sets.len();
                lookup_all(&map, black_box(&sets[round]))
            });
        });
    }
    group.finish();
}

/// 64 packets at a time: all buckets, then all elements, then the lookups.
fn batches(c: &mut Criterion) {
    let n = 1 << 20;
    let map = filled(MapType::Hash, 16, n);
    let sets: Vec<_> = (0..256).map(|r| keys(16, n, r)).collect();
    let mut group = c.benchmark_group("lookup_batch");
    group.throughput(Throughput::Elements(OPS.into()));
    let mut round = 0;
    group.bench_function(BenchmarkId::new("hash16", n), |b| {
        b.iter(|| {
            round = (round + 1) % sets.len();
            let mut sum = 0;
            for batch in black_box(&sets[round]).chunks(64) {
                batch.iter().for_each(|k| map.prefetch(k));
                batch.iter().for_each(|k| map.prefetch_value(k));
                sum += lookup_all(&map, batch);
            }
            sum
        });
    });
    group.finish();
}

fn updates(c: &mut Criterion) {
    use MapType::*;
    let mut group = c.benchmark_group("update");
    group.throughput(Throughput::Elements(OPS.into()));
    for (name, map_type, size, n) in [
        ("array", Array, 4, 64),
        ("hash4", Hash, 4, 64),
        ("hash16", Hash, 16, 64),
        ("percpu_hash4", PercpuHash, 4, 64),
        ("lru_hash4", LruHash, 4, 1024),
        ("hash16", Hash, 16, 1 << 20),
    ] {
        let map = filled(map_type, size, n);
        let sets: Vec<_> = (0..if n > 1024 { 256 } else { 1 }).map(|r| keys(size as usize, n, r)).collect();
        let mut round = 0;
        group.bench_function(BenchmarkId::new(name, n), |b| {
            b.iter(|| {
                round = (round + 1) % sets.len();
                for batch in sets[round].chunks(64) {
                    let _guard = mem::epoch::pin();
                    for k in batch {
                        map.update(0, k, Bytes::Own(&[2; 8]), 0).expect("the key is there");
                    }
                }
            });
        });
    }
    group.finish();
}

/// A new key and its end.
fn inserts(c: &mut Criterion) {
    let mut group = c.benchmark_group("insert_delete");
    group.throughput(Throughput::Elements(OPS.into()));
    for (name, map_type, n) in [
        ("hash4", MapType::Hash, 4096),
        ("lru_hash4", MapType::LruHash, 4096),
        ("percpu_hash4", MapType::PercpuHash, 4096),
    ] {
        let map = create(map_type, 4, n, 0);
        let keys = keys(4, 1 << 20, 0);
        group.bench_function(name, |b| {
            b.iter(|| {
                for batch in keys.chunks(64) {
                    let _guard = mem::epoch::pin();
                    for k in batch {
                        map.update(0, k, Bytes::Own(&[2; 8]), 0).expect("there is room");
                    }
                    for k in batch {
                        // A key that comes twice is gone already.
                        let _ = map.delete(0, k);
                    }
                }
            });
        });
    }
    // Always a new key: the LRU throws one out each time.
    let map = create(MapType::LruHash, 4, 4096, 0);
    let mut i = 0_u32;
    group.bench_function("lru_evict4", |b| {
        b.iter(|| {
            for _ in 0..OPS / 64 {
                let _guard = mem::epoch::pin();
                for _ in 0..64 {
                    i = i.wrapping_add(1);
                    map.update(0, &i.to_le_bytes(), Bytes::Own(&[2; 8]), 0).expect("an LRU is never full");
                }
            }
        });
    });
    group.finish();
}

fn lpm(c: &mut Criterion) {
    let mut group = c.benchmark_group("lpm");
    group.throughput(Throughput::Elements(OPS.into()));
    for n in [64, 1 << 17] {
        let map = create(MapType::LpmTrie, 8, n, BPF_F_NO_PREALLOC);
        let prefix = |len: u32, i: u32| [len.to_le_bytes(), i.to_be_bytes()].concat();
        for i in 0..n {
            let len = 12 + i % 17;
            let address = scatter(i, 1 << 31) << 1 & (u32::MAX << (32 - len));
            map.update(0, &prefix(len, address), Bytes::Own(&[1; 8]), 0).expect("there is room");
        }
        let keys: Vec<_> = (0..OPS).map(|i| prefix(32, scatter(i * 7, 1 << 31) << 1)).collect();
        group
            .bench_function(BenchmarkId::new("lookup", n), |b| b.iter(|| lookup_all(&map, black_box(&keys))));
    }
    group.finish();
}

fn rings(c: &mut Criterion) {
    let mut group = c.benchmark_group("ring");
    group.throughput(Throughput::Elements(OPS.into()));
    let map = create_ring();
    let ring = map.ringbuf().expect("a ring buffer");
    group.bench_function("output64_consume", |b| {
        let mut data = [1; 64];
        b.iter(|| {
            for _ in 0..OPS {
                ring.output(SharedSlice::from_mut(&mut data), 0).expect("there is room");
            }
            std::iter::from_fn(|| ring.consume()).count()
        });
    });
    let queue = create_queue();
    group.bench_function("queue_push_pop", |b| {
        let mut out = [0; 8];
        b.iter(|| {
            for _ in 0..OPS {
                queue.push(Bytes::Own(&[1; 8]), 0).expect("there is room");
                queue.pop(SharedSlice::from_mut(&mut out)).expect("one is there");
            }
        });
    });
    group.finish();
}

fn create_ring() -> Arc<Map> {
    Map::create(MapDef::new(MapType::Ringbuf, 0, 0, 1 << 18), &MapContext::default()).expect("a ring")
}

fn create_queue() -> Arc<Map> {
    Map::create(MapDef::new(MapType::Queue, 0, 8, 64), &MapContext::default()).expect("a queue")
}

criterion_group!(benches, lookups, batches, updates, inserts, lpm, rings);
criterion_main!(benches);
