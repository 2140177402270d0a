//! Error codes of the plain maps.

use MapType::*;
use uapi::bpf::*;

use super::*;

#[test]
fn creation_is_refused_as_the_kernel_does() {
    let check = |t, key, value, n, flags, expected: Result<(), Errno>| {
        let got = try_create(MapDef::new(t, key, value, n).flags(flags)).map(|_| ());
        assert_eq!(got, expected, "{t:?} key {key} value {value} entries {n} flags {flags:#x}");
    };
    let (ok, inval) = (Ok(()), Err(Errno::EINVAL));
    for (t, key, value, n, flags, expected) in [
        (Hash, 4, 8, 4, 0, ok),
        (Hash, 4, 8, 0, 0, inval),
        (Hash, 0, 8, 4, 0, inval),
        (Hash, 4, 0, 4, 0, inval),
        (Hash, 4, 8, 4, BPF_F_NO_PREALLOC, ok),
        (Hash, 4, 8, 4, BPF_F_NO_COMMON_LRU, inval),
        (Hash, 4, 8, 4, BPF_F_MMAPABLE, inval),
        (Hash, 4, 4 << 20, 4, 0, Err(Errno::E2BIG)),
        (Hash, 4, 8, (1 << 27) + 1, 0, Err(Errno::E2BIG)),
        (Hash, 4, 8, 4, BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG, inval),
        (Hash, 4, 8, 4, BPF_F_RDONLY | BPF_F_WRONLY, inval),
        (PercpuHash, 4, (32 << 10) + 1, 4, 0, Err(Errno::E2BIG)),
        (PercpuHash, 4, 8, 4, BPF_F_NUMA_NODE, inval),
        (LruHash, 4, 8, 4, BPF_F_NO_PREALLOC, Err(Errno::ENOTSUPP)),
        (LruHash, 4, 8, 4, BPF_F_NO_COMMON_LRU, ok),
        (Array, 4, 8, 4, BPF_F_MMAPABLE, ok),
        (Array, 4, 0, 4, 0, inval),
        (Array, 8, 8, 4, 0, inval),
        (Array, 4, 8, 4, BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG, inval),
        (Array, 4, 8, 4, BPF_F_PRESERVE_ELEMS, inval),
        (PercpuArray, 4, 8, 4, BPF_F_MMAPABLE, inval),
        (LpmTrie, 8, 4, 4, 0, inval),
        (LpmTrie, 8, 4, 4, BPF_F_NO_PREALLOC, ok),
        (LpmTrie, 4, 4, 4, BPF_F_NO_PREALLOC, inval),
        (LpmTrie, 261, 4, 4, BPF_F_NO_PREALLOC, inval),
        (Queue, 0, 4, 4, 0, ok),
        (Queue, 4, 4, 4, 0, inval),
        (Stack, 0, 4 << 20, u32::MAX, 0, Err(Errno::E2BIG)),
        (BloomFilter, 0, 4, 4, 0, ok),
        (BloomFilter, 4, 4, 4, 0, inval),
        (Ringbuf, 0, 0, 4096, 0, ok),
        (Ringbuf, 0, 0, 4095, 0, inval),
        (Ringbuf, 0, 0, 2048, 0, inval),
        (Ringbuf, 4, 4, 4096, 0, inval),
        (UserRingbuf, 0, 0, 0, 0, inval),
        (ProgArray, 4, 4, 4, 0, ok),
        (ProgArray, 4, 8, 4, 0, inval),
        (ProgArray, 4, 4, 4, BPF_F_RDONLY_PROG, inval),
        (PerfEventArray, 4, 4, 4, BPF_F_PRESERVE_ELEMS, ok),
        (Devmap, 4, 4, 4, 0, ok),
        (Devmap, 4, 8, 4, 0, ok),
        (Devmap, 4, 12, 4, 0, inval),
        (Devmap, 8, 4, 4, 0, inval),
        (Devmap, 4, 4, 0, 0, inval),
        (Devmap, 4, 4, 4, BPF_F_NO_PREALLOC, inval),
        (Devmap, 4, 4, 4, BPF_F_RDONLY, ok),
        (Devmap, 4, 4, 4, BPF_F_RDONLY_PROG, inval),
        (DevmapHash, 4, 4, (1 << 31) + 1, 0, inval),
        (Cpumap, 4, 4, 4, 0, ok),
        (Cpumap, 4, 4, 100_000, 0, Err(Errno::E2BIG)),
        (Cpumap, 4, 4, 4, BPF_F_RDONLY, inval),
        (Xskmap, 4, 4, 4, 0, ok),
        (Xskmap, 4, 8, 4, 0, inval),
        (Sockmap, 4, 4, 4, 0, Err(Errno::EOPNOTSUPP)),
    ] {
        check(t, key, value, n, flags, expected);
    }
}

#[test]
fn a_refusal_says_why() {
    let error = Map::create(MapDef::new(LpmTrie, 8, 4, 4), &cx(1)).unwrap_err();
    assert_eq!(error.to_string(), "EINVAL (Invalid argument): an LPM trie needs BPF_F_NO_PREALLOC");
    let mut named = MapDef::new(Array, 4, 4, 1);
    named.name = "no spaces please".into();
    assert_eq!(Map::create(named, &cx(1)).unwrap_err().errno, Errno::EINVAL);
    let limited = MapContext { memory_limit: 1 << 20, ..cx(1) };
    let error = Map::create(MapDef::new(Array, 4, 8, 1 << 20), &limited).unwrap_err();
    assert_eq!(error.errno, Errno::ENOMEM);
}

#[test]
fn map_extra_is_for_bloom_filters() {
    let with_extra = |t, key, extra| {
        let def = MapDef { map_extra: extra, ..MapDef::new(t, key, 8, 4) };
        try_create(def).map(|_| ())
    };
    assert_eq!(with_extra(Hash, 4, 1), Err(Errno::EINVAL));
    assert_eq!(with_extra(BloomFilter, 0, 15), Ok(()));
    assert_eq!(with_extra(BloomFilter, 0, 16), Err(Errno::EINVAL));
}

/// The common ground of hash tables, from user space.
fn hash_like(fd: &MapFd, value: &[u8], full: Result<(), Errno>) {
    assert_eq!(fd.lookup_elem(&k(2), 0), Err(Errno::ENOENT));
    assert_eq!(fd.update_elem(&k(1), value, BPF_ANY), Ok(()));
    assert_eq!(fd.lookup_elem(&k(1), 0).as_deref(), Ok(value));
    assert_eq!(fd.update_elem(&k(1), value, BPF_NOEXIST), Err(Errno::EEXIST));
    assert_eq!(fd.update_elem(&k(1), value, BPF_EXIST), Ok(()));
    assert_eq!(fd.update_elem(&k(2), value, BPF_EXIST), Err(Errno::ENOENT));
    for flags in [3, 8, BPF_F_LOCK, u64::MAX] {
        assert_eq!(fd.update_elem(&k(1), value, flags), Err(Errno::EINVAL), "flags {flags:#x}");
    }
    assert_eq!(fd.lookup_elem(&k(1), 1), Err(Errno::EINVAL));
    assert_eq!(fd.lookup_elem(&k(1), BPF_F_LOCK), Err(Errno::EINVAL));
    assert_eq!(fd.delete_elem(&k(3)), Err(Errno::ENOENT));
    assert_eq!(fd.delete_elem(&k(1)), Ok(()));
    for i in 0..4 {
        assert_eq!(fd.update_elem(&k(i), value, BPF_ANY), Ok(()));
    }
    assert_eq!(fd.update_elem(&k(9), value, BPF_ANY), full);
    assert_eq!(fd.update_elem(&k(3), value, BPF_EXIST), Ok(()), "a full map takes new values of its keys");
    assert_eq!(fd.lookup_and_delete_elem(&k(3), 0).as_deref(), Ok(value));
    assert_eq!(fd.lookup_and_delete_elem(&k(3), 0), Err(Errno::ENOENT));
    assert_eq!(fd.lookup_and_delete_elem(&k(3), 1), Err(Errno::EINVAL));
    assert_eq!(fd.update_elem(b"abc", value, 0), Err(Errno::EINVAL));
    assert_eq!(fd.update_elem(&k(0), &value[1..], 0), Err(Errno::EINVAL));
}

#[test]
fn hash() {
    for flags in [0, BPF_F_NO_PREALLOC] {
        hash_like(&open(Hash, 4, 8, 4, flags), &q(5), Err(Errno::E2BIG));
    }
}

#[test]
fn percpu_hash() {
    hash_like(&open(PercpuHash, 4, 8, 4, 0), &[5; 16], Err(Errno::E2BIG));
}

#[test]
fn lru_hash_is_never_full() {
    hash_like(&open(LruHash, 4, 8, 5, 0), &q(5), Ok(()));
    hash_like(&open(LruPercpuHash, 4, 8, 5, 0), &[5; 16], Ok(()));
}

#[test]
fn array() {
    for (t, value) in [(Array, &q(5)[..]), (PercpuArray, &[5; 16][..])] {
        let fd = open(t, 4, 8, 4, 0);
        assert_eq!(fd.lookup_elem(&k(2), 0), Ok(vec![0; value.len()]));
        assert_eq!(fd.update_elem(&k(1), value, BPF_ANY), Ok(()));
        assert_eq!(fd.update_elem(&k(1), value, BPF_EXIST), Ok(()));
        assert_eq!(fd.lookup_elem(&k(1), 0).as_deref(), Ok(value));
        assert_eq!(fd.update_elem(&k(1), value, BPF_NOEXIST), Err(Errno::EEXIST));
        assert_eq!(fd.update_elem(&k(1), value, 3), Err(Errno::EINVAL));
        assert_eq!(fd.update_elem(&k(1), value, BPF_F_LOCK), Err(Errno::EINVAL));
        assert_eq!(fd.update_elem(&k(4), value, BPF_ANY), Err(Errno::E2BIG));
        assert_eq!(fd.update_elem(&k(4), value, BPF_NOEXIST), Err(Errno::E2BIG));
        assert_eq!(fd.lookup_elem(&k(4), 0), Err(Errno::ENOENT));
        assert_eq!(fd.delete_elem(&k(1)), Err(Errno::EINVAL));
        assert_eq!(fd.lookup_and_delete_elem(&k(1), 0), Err(Errno::ENOTSUPP));
        assert_eq!(fd.get_next_key(None), Ok(k(0).to_vec()));
        assert_eq!(fd.get_next_key(Some(&k(2))), Ok(k(3).to_vec()));
        assert_eq!(fd.get_next_key(Some(&k(3))), Err(Errno::ENOENT));
        assert_eq!(fd.get_next_key(Some(&k(99))), Ok(k(0).to_vec()));
    }
}

#[test]
fn percpu_values_keep_their_padding() {
    let fd = open(PercpuArray, 4, 5, 1, 0);
    let value: Vec<u8> = (1..=16).collect();
    assert_eq!(fd.update_elem(&k(0), &value, 0), Ok(()));
    assert_eq!(fd.lookup_elem(&k(0), 0), Ok(value));
}

fn prefix(len: u32, address: [u8; 4]) -> Vec<u8> {
    [len.to_le_bytes(), address].concat()
}

#[test]
fn lpm_trie() {
    let fd = open(LpmTrie, 8, 8, 4, BPF_F_NO_PREALLOC);
    assert_eq!(fd.get_next_key(None), Err(Errno::ENOENT));
    for len in [24, 16, 0] {
        let address = if len == 0 { [0; 4] } else { [10, 0, 0, 0] };
        assert_eq!(fd.update_elem(&prefix(len, address), &q(len.into()), 0), Ok(()));
    }
    let ten = |len| prefix(len, [10, 0, 0, 9]);
    assert_eq!(fd.update_elem(&prefix(33, [1, 2, 3, 4]), &q(1), 0), Err(Errno::EINVAL));
    assert_eq!(fd.update_elem(&ten(24), &q(24), BPF_NOEXIST), Err(Errno::EEXIST));
    assert_eq!(fd.update_elem(&ten(8), &q(1), BPF_EXIST), Err(Errno::ENOENT));
    assert_eq!(fd.update_elem(&ten(8), &q(1), 3), Err(Errno::EINVAL));
    let longest = |key: &[u8]| fd.lookup_elem(key, 0).map(|v| v[0]);
    assert_eq!(longest(&ten(32)), Ok(24));
    assert_eq!(longest(&ten(20)), Ok(16), "the key's own length bounds the match");
    assert_eq!(longest(&prefix(32, [11, 0, 0, 9])), Ok(0));
    assert_eq!(longest(&ten(33)), Err(Errno::ENOENT));
    assert_eq!(fd.delete_elem(&ten(8)), Err(Errno::ENOENT));
    assert_eq!(fd.delete_elem(&ten(33)), Err(Errno::EINVAL));
    assert_eq!(fd.delete_elem(&ten(24)), Ok(()));
    assert_eq!(longest(&ten(32)), Ok(16));
    for (len, expected) in [(25, Ok(())), (26, Ok(())), (27, Err(Errno::ENOSPC))] {
        assert_eq!(fd.update_elem(&prefix(len, [9, 0, 0, 0]), &q(1), 0), expected);
    }
    assert_eq!(fd.update_elem(&prefix(25, [9, 0, 0, 0]), &q(2), 0), Ok(()));
    assert_eq!(fd.lookup_and_delete_elem(&ten(16), 0), Err(Errno::ENOTSUPP));
}

#[test]
fn queue_and_stack() {
    for (t, order) in [(Queue, [1, 2, 9]), (Stack, [9, 2, 1])] {
        let fd = open(t, 0, 8, 3, 0);
        assert_eq!(fd.lookup_elem(&[], 0), Err(Errno::ENOENT));
        for i in 0..3 {
            assert_eq!(fd.update_elem(&[], &q(i), 0), Ok(()));
        }
        assert_eq!(fd.update_elem(&[], &q(3), 0), Err(Errno::E2BIG));
        assert_eq!(fd.update_elem(&[], &q(9), BPF_NOEXIST), Err(Errno::EINVAL));
        assert_eq!(fd.update_elem(&[], &q(9), 4), Err(Errno::EINVAL));
        assert_eq!(fd.update_elem(&[], &q(9), BPF_EXIST), Ok(()));
        assert_eq!(fd.lookup_elem(&[], 0), Ok(q(order[0]).to_vec()));
        assert_eq!(fd.lookup_and_delete_elem(&[], BPF_F_LOCK), Err(Errno::EINVAL));
        for expected in order {
            assert_eq!(fd.lookup_and_delete_elem(&[], 0), Ok(q(expected).to_vec()));
        }
        assert_eq!(fd.lookup_and_delete_elem(&[], 0), Err(Errno::ENOENT));
        assert_eq!(fd.delete_elem(&[]), Err(Errno::EINVAL));
        assert_eq!(fd.get_next_key(None), Err(Errno::EINVAL));
        assert_eq!(fd.lookup_batch(None, 1, 0), Err(Errno::ENOTSUPP));
    }
}

#[test]
fn bloom_filter() {
    let fd = open(BloomFilter, 0, 4, 100, BPF_F_ZERO_SEED);
    assert_eq!(fd.peek(&k(1)), Err(Errno::ENOENT));
    assert_eq!(fd.update_elem(&[], &k(1), BPF_NOEXIST), Err(Errno::EINVAL));
    assert_eq!(fd.update_elem(&[], &k(1), 0), Ok(()));
    assert_eq!(fd.peek(&k(1)), Ok(()));
    assert_eq!(fd.delete_elem(&[]), Err(Errno::EOPNOTSUPP));
    assert_eq!(fd.get_next_key(None), Err(Errno::EOPNOTSUPP));
    assert_eq!(fd.lookup_and_delete_elem(&[], 0), Err(Errno::ENOTSUPP));
}

#[test]
fn modes_and_freezing() {
    let fd = open(Hash, 4, 8, 4, 0);
    let (reader, writer) = (fd.map().open_as(FdMode::ReadOnly), fd.map().open_as(FdMode::WriteOnly));
    assert_eq!(writer.update_elem(&k(1), &q(1), 0), Ok(()));
    assert_eq!(writer.lookup_elem(&k(1), 0), Err(Errno::EPERM));
    assert_eq!(writer.get_next_key(None), Err(Errno::EPERM));
    assert_eq!(writer.lookup_and_delete_elem(&k(1), 0), Err(Errno::EPERM));
    assert_eq!(reader.lookup_elem(&k(1), 0), Ok(q(1).to_vec()));
    assert_eq!(reader.update_elem(&k(1), &q(1), 0), Err(Errno::EPERM));
    assert_eq!(reader.delete_elem(&k(1)), Err(Errno::EPERM));
    assert_eq!(reader.freeze(), Err(Errno::EPERM));
    assert_eq!(fd.freeze(), Ok(()));
    assert_eq!(fd.freeze(), Err(Errno::EPERM), "who may not write may not freeze");
    assert_eq!(fd.update_elem(&k(1), &q(1), 0), Err(Errno::EPERM));
    assert_eq!(fd.lookup_elem(&k(1), 0), Ok(q(1).to_vec()));
    assert_eq!(fd.map().update(0, &k(1), Bytes::Own(&q(2)), 0), Ok(()), "programs go on");
    let made_readonly = open(Array, 4, 8, 1, BPF_F_RDONLY);
    assert_eq!(made_readonly.update_elem(&k(0), &q(1), 0), Err(Errno::EPERM));
}

#[test]
fn batches() {
    let fd = open(Hash, 4, 8, 300, 0);
    let keys: Vec<_> = (0..200).map(k).collect();
    let values: Vec<_> = (0..200).map(q).collect();
    let entries: Vec<(&[u8], &[u8])> = keys.iter().zip(&values).map(|(k, v)| (&k[..], &v[..])).collect();
    assert_eq!(fd.update_batch(&NoRefs, &entries, 0), (200, Ok(())));
    assert_eq!(fd.update_batch(&NoRefs, &entries, 1), (0, Err(Errno::EINVAL)));
    let (mut seen, mut from) = (Vec::new(), None);
    loop {
        let batch = fd.lookup_batch(from.as_deref(), 30, 0).unwrap();
        seen.extend(batch.entries);
        from = Some(batch.next);
        match batch.end {
            None => {}
            Some(Errno::ENOENT) => break,
            other => panic!("{other:?}"),
        }
    }
    seen.sort();
    assert_eq!(seen.len(), 200);
    assert!(seen.iter().all(|(k, v)| k[..] == v[..4]));
    assert_eq!(fd.lookup_batch(Some(&k(1 << 20)), 30, 0), Err(Errno::ENOENT));
    assert_eq!(fd.lookup_batch(None, 0, 0), Ok(Batch::default()));
    let gone: Vec<&[u8]> = vec![&keys[0], &keys[1], b"none", &keys[2]];
    assert_eq!(fd.delete_batch(&gone, 0), (2, Err(Errno::ENOENT)));
    let batch = fd.lookup_and_delete_batch(None, 1000, 0).unwrap();
    assert_eq!((batch.entries.len(), batch.end), (198, Some(Errno::ENOENT)));
    assert_eq!(fd.get_next_key(None), Err(Errno::ENOENT));
    let array = open(Array, 4, 8, 10, 0);
    let batch = array.lookup_batch(None, 7, 0).unwrap();
    assert_eq!((batch.entries.len(), batch.end, &batch.next[..]), (7, None, &k(6)[..]));
    let batch = array.lookup_batch(Some(&batch.next), 7, 0).unwrap();
    assert_eq!((batch.entries.len(), batch.end), (3, Some(Errno::ENOENT)));
    assert_eq!(array.lookup_and_delete_batch(None, 7, 0), Err(Errno::ENOTSUPP));
    assert_eq!(array.delete_batch(&[&k(0)], 0), (0, Err(Errno::ENOTSUPP)));
}

#[test]
fn iterating_and_deleting_the_previous_key_empties_a_map() {
    let fd = open(Hash, 4, 8, 500, 0);
    (0..500).for_each(|i| fd.update_elem(&k(i), &q(0), 0).unwrap());
    let mut key = fd.get_next_key(None).unwrap();
    let mut n = 1;
    while let Ok(next) = fd.get_next_key(Some(&key)) {
        fd.delete_elem(&key).unwrap();
        key = next;
        n += 1;
    }
    assert_eq!(n, 500);
    assert_eq!(fd.map().element_count(), 1);
    assert_eq!(fd.get_next_key(Some(&k(77_777))), Ok(key), "an absent key starts over");
}
