//! Many CPUs at once.

use std::sync::atomic::{AtomicBool, Ordering::*};

use MapType::*;
use uapi::bpf::*;

use super::*;

/// A value that shows when it is torn or another key's.
fn value_of(key: u32, n: u32) -> [u8; 16] {
    let word = u64::from(key) << 32 | u64::from(n);
    [q(word), q(!word)].concat().try_into().unwrap()
}

fn check(key: u32, value: SharedSlice<'_>) {
    let (a, b) = (value.read_u64(0), value.read_u64(8));
    assert_eq!((a, a >> 32), (!b, u64::from(key)), "a torn value, or another key's");
}

#[test]
fn readers_see_whole_values_of_their_key() {
    for t in [Hash, LruHash] {
        let map = create(t, 4, 16, 64, 0);
        let done = AtomicBool::new(false);
        std::thread::scope(|s| {
            for cpu in 0..2 {
                let map = &map;
                s.spawn(move || {
                    for n in 0..30_000_u32 {
                        let key = n * 7 % 40 + cpu * 40;
                        let _guard = mem::epoch::pin();
                        match n % 5 {
                            0 => drop(map.delete(cpu, &k(key))),
                            _ => drop(map.update(cpu, &k(key), Bytes::Own(&value_of(key, n)), 0)),
                        }
                    }
                });
            }
            let (map, done) = (&map, &done);
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    s.spawn(move || {
                        let mut n = 0_u32;
                        while !done.load(Relaxed) {
                            let guard = mem::epoch::pin();
                            for _ in 0..64 {
                                let key = n % 80;
                                n += 1;
                                if let Some(value) = map.lookup(&guard, 0, &k(key)) {
                                    check(key, value);
                                    std::hint::spin_loop();
                                    check(key, value);
                                }
                            }
                        }
                    })
                })
                .collect();
            std::thread::sleep(std::time::Duration::from_millis(100));
            done.store(true, Relaxed);
            readers.into_iter().for_each(|r| r.join().unwrap());
        });
        assert!(map.element_count() <= 64);
    }
}

#[test]
fn a_full_map_holds_exactly_as_many_as_it_says() {
    let map = create(Hash, 4, 8, 1000, 0);
    let added: usize = std::thread::scope(|s| {
        let map = &map;
        let threads: Vec<_> = (0..4)
            .map(|t| {
                let add = move |i: u32| map.update(t % 2, &k(i * 4 + t), Bytes::Own(&q(0)), BPF_NOEXIST);
                s.spawn(move || (0..1000).filter(|i| add(*i).is_ok()).count())
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert_eq!((added, map.element_count()), (1000, 1000));
}

#[test]
fn lru_under_pressure_from_two_cpus() {
    for flags in [0, BPF_F_NO_COMMON_LRU] {
        let map = create(LruHash, 4, 16, 100, flags);
        std::thread::scope(|s| {
            for cpu in 0..2 {
                let map = &map;
                s.spawn(move || {
                    for n in 0..30_000_u32 {
                        let guard = mem::epoch::pin();
                        let key = n * 31 % 1000;
                        match map.update(cpu, &k(key), Bytes::Own(&value_of(key, n)), 0) {
                            // As in the kernel, when all nodes are in the hands of the other CPU.
                            Ok(()) | Err(Errno::ENOMEM) => {}
                            Err(e) => panic!("{e}"),
                        }
                        if let Some(value) = map.lookup(&guard, cpu, &k(n % 1000)) {
                            check(n % 1000, value);
                        }
                        if n % 7 == 0 {
                            let _ = map.delete(cpu, &k(n % 500));
                        }
                    }
                });
            }
        });
        assert!(map.element_count() <= 100);
        let before = map.element_count();
        (2000..2100).for_each(|i| map.update(0, &k(i), Bytes::Own(&value_of(i, 0)), 0).unwrap());
        assert!(map.element_count() >= before.min(40), "nodes are lost");
    }
}

#[test]
fn lpm_readers_always_find_the_default_route() {
    let map = create(LpmTrie, 8, 8, 200, BPF_F_NO_PREALLOC);
    let key = |len: u32, n: u32| [len.to_le_bytes(), n.to_be_bytes()].concat();
    map.update(0, &key(0, 0), Bytes::Own(&q(1)), 0).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            let _guard = mem::epoch::pin();
            for n in 0..60_000_u32 {
                let prefix = key(8 + n % 25, n.wrapping_mul(0x9e37_79b9) & 0xff00_ffff);
                let _ = map.update(0, &prefix, Bytes::Own(&q(2)), 0);
                let _ =
                    map.delete(0, &key(8 + (n / 2) % 25, (n / 2).wrapping_mul(0x9e37_79b9) & 0xff00_ffff));
            }
            done.store(true, Relaxed);
        });
        let mut n = 0_u32;
        while !done.load(Relaxed) {
            let guard = mem::epoch::pin();
            n = n.wrapping_add(0x0101_4523);
            let value = map.lookup(&guard, 1, &key(32, n)).expect("there is a default route");
            assert!([1, 2].contains(&value.read_u64(0)));
        }
    });
}

#[test]
fn ring_buffer_records_are_whole() {
    let map = create(Ringbuf, 0, 0, 4096, 0);
    let ring = map.ringbuf().unwrap();
    let sent = std::thread::scope(|s| {
        let producers: Vec<_> = (0..2_u8)
            .map(|id| {
                s.spawn(move || {
                    let mut sent = 0;
                    for n in 0..20_000_usize {
                        let mut data = vec![id; n % 60 + 1];
                        sent += usize::from(ring.output(SharedSlice::from_mut(&mut data), 0).is_ok());
                    }
                    sent
                })
            })
            .collect();
        let mut got = 0;
        while producers.iter().any(|p| !p.is_finished()) {
            while let Some(record) = ring.consume() {
                assert!(!record.is_empty() && record.iter().all(|b| *b == record[0]));
                got += 1;
            }
        }
        got += std::iter::from_fn(|| ring.consume()).count();
        let sent: usize = producers.into_iter().map(|p| p.join().unwrap()).sum();
        assert_eq!(sent, got);
        sent
    });
    assert!(sent > 0);
}
