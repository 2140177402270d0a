//! What LRU maps throw out.

use std::collections::BTreeSet;

use MapType::*;
use uapi::bpf::*;

use super::*;

fn keys(fd: &MapFd) -> BTreeSet<u32> {
    let next = |key: &Vec<u8>| fd.get_next_key(Some(key)).ok();
    std::iter::successors(fd.get_next_key(None).ok(), next)
        .map(|key| u32::from_le_bytes(key.try_into().unwrap()))
        .collect()
}

#[test]
fn a_full_map_takes_all_keys_and_stays_full() {
    for flags in [0, BPF_F_NO_COMMON_LRU] {
        for n in [1, 2, 3, 10, 100, 1000] {
            let fd = open(LruHash, 4, 8, n, flags);
            for i in 0..n * 4 {
                fd.update_elem(&k(i), &q(i.into()), 0).unwrap();
                assert_eq!(fd.lookup_elem(&k(i), 0), Ok(q(i.into()).to_vec()), "the newest is there");
            }
            let left = keys(&fd);
            assert!(!left.is_empty() && left.len() as u32 <= fd.map().def().max_entries);
        }
    }
}

#[test]
fn entries_that_programs_use_survive() {
    let map = create(LruHash, 4, 8, 1000, 0);
    let guard = mem::epoch::pin();
    for i in 0..20_000 {
        map.update(0, &k(i), Bytes::Own(&q(0)), 0).unwrap();
        for hot in 0..50.min(i) {
            assert!(map.lookup(&guard, 0, &k(hot)).is_some() || i > 1000, "{hot} at {i}");
        }
    }
    let alive = (0..50).filter(|i| map.lookup(&guard, 0, &k(*i)).is_some()).count();
    assert_eq!(alive, 50);
}

#[test]
fn lookups_of_user_space_do_not_count() {
    let fd = open(LruHash, 4, 8, 1000, 0);
    for i in 0..20_000 {
        fd.update_elem(&k(i), &q(0), 0).unwrap();
        let _ = fd.lookup_elem(&k(0), 0);
    }
    assert_eq!(fd.lookup_elem(&k(0), 0), Err(Errno::ENOENT));
}

#[test]
fn lists_per_cpu_divide_the_entries() {
    let map = create(LruHash, 4, 8, 5, BPF_F_NO_COMMON_LRU);
    assert_eq!(map.def().max_entries, 6, "a multiple of the CPUs");
    for i in 0..20 {
        map.update(1, &k(i), Bytes::Own(&q(0)), 0).unwrap();
    }
    assert!(map.element_count() <= 3, "one CPU never takes another's");
}

#[test]
fn no_node_is_lost() {
    let fd = open(LruPercpuHash, 4, 8, 64, 0);
    for round in 0..200_u32 {
        for i in 0..64 {
            let flags = u64::from((round + i) % 3);
            let _ = fd.update_elem(&k((round * 7 + i) % 100), &[1; 16], flags);
        }
        for i in 0..30 {
            let _ = fd.delete_elem(&k((round * 3 + i) % 100));
        }
    }
    keys(&fd).iter().for_each(|i| fd.delete_elem(&k(*i)).unwrap());
    (0..64).for_each(|i| fd.update_elem(&k(i), &[1; 16], BPF_NOEXIST).unwrap());
    assert!(keys(&fd).len() >= 32);
}
