//! What programs see: pointers into values, special fields, iteration.

use std::ops::ControlFlow;
use std::sync::Mutex;

use MapType::*;
use uapi::bpf::*;

use super::*;

fn own(bytes: &[u8]) -> Bytes<'_> {
    Bytes::Own(bytes)
}

#[test]
fn a_pointer_keeps_its_value_after_update_and_delete() {
    for t in [Hash, LruHash] {
        let map = create(t, 4, 8, 4, 0);
        map.update(0, &k(1), own(&q(1)), 0).unwrap();
        let guard = mem::epoch::pin();
        let old = map.lookup(&guard, 0, &k(1)).unwrap();
        map.update(0, &k(1), own(&q(2)), 0).unwrap();
        let new = map.lookup(&guard, 0, &k(1)).unwrap();
        assert_eq!((old.read_u64(0), new.read_u64(0)), (1, 2));
        map.delete(0, &k(1)).unwrap();
        for i in 0..100 {
            map.update(0, &k(1), own(&q(50 + i)), 0).unwrap();
        }
        assert_eq!((old.read_u64(0), new.read_u64(0)), (1, 2));
    }
}

#[test]
fn an_endless_poll_cannot_fill_a_map_that_is_not_full() {
    let map = create(Hash, 4, 8, 4, 0);
    let _guard = mem::epoch::pin();
    for i in 0..100_000 {
        map.update(0, &k(i), own(&q(i.into())), 0).unwrap();
        map.delete(0, &k(i)).unwrap();
    }
    (0..4).for_each(|i| map.update(0, &k(i), own(&q(0)), 0).unwrap());
    assert_eq!(map.update(0, &k(9), own(&q(0)), 0), Err(Errno::E2BIG));
    for i in 0..100_000 {
        map.update(1, &k(i % 4), own(&q(i.into())), BPF_EXIST).unwrap();
    }
}

#[test]
fn values_per_cpu() {
    for t in [PercpuHash, LruPercpuHash] {
        let map = create(t, 4, 8, 4, 0);
        map.update(0, &k(1), own(&q(10)), 0).unwrap();
        map.update(1, &k(1), own(&q(11)), 0).unwrap();
        let guard = mem::epoch::pin();
        let read = |cpu| map.lookup_percpu(&guard, &k(1), cpu).map(|v| v.read_u64(0));
        assert_eq!([0, 1, 2].map(read), [Some(10), Some(11), None]);
        assert_eq!(map.open().lookup_elem(&k(1), 0), Ok([q(10), q(11)].concat()));
        map.delete(0, &k(1)).unwrap();
        map.update(1, &k(2), own(&q(5)), 0).unwrap();
        assert_eq!(map.open().lookup_elem(&k(2), 0), Ok([q(0), q(5)].concat()), "the other CPU's is zero");
    }
    assert!(create(Hash, 4, 8, 4, 0).lookup_percpu(&mem::epoch::pin(), &k(1), 0).is_none());
}

#[test]
fn values_of_all_sizes_and_keys() {
    for key_size in [1, 2, 3, 4, 5, 8, 12, 13, 16, 40, 70] {
        for value_size in [1, 3, 4, 8, 12, 100] {
            let map = create(Hash, key_size, value_size, 64, 0);
            let guard = mem::epoch::pin();
            let key = |i: u8| vec![i; key_size as usize];
            for i in 0..64 {
                map.update(0, &key(i), own(&vec![i ^ 0xff; value_size as usize]), 0).unwrap();
            }
            for i in 0..64 {
                let value = map.lookup(&guard, 0, &key(i)).unwrap();
                assert_eq!(value.to_vec(), vec![i ^ 0xff; value_size as usize]);
            }
            assert!(map.lookup(&guard, 0, &key(64)).is_none());
        }
    }
}

#[test]
fn for_each_may_change_the_map() {
    let map = create(Hash, 4, 8, 100, 0);
    (0..100).for_each(|i| map.update(0, &k(i), own(&q(i.into())), 0).unwrap());
    let guard = mem::epoch::pin();
    let calls = map.for_each(&guard, 0, |key, value| {
        assert_eq!(u64::from(key.read_u32(0)), value.read_u64(0));
        map.delete(0, &key.to_vec()).unwrap();
        ControlFlow::Continue(())
    });
    assert_eq!((calls, map.element_count()), (Ok(100), 0));
    let array = create(Array, 4, 8, 10, 0);
    let stop_at_4 = |key: SharedSlice<'_>, _: SharedSlice<'_>| match key.read_u32(0) {
        4 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    assert_eq!(array.for_each(&guard, 0, stop_at_4), Ok(5));
    let queue = create(Queue, 0, 8, 10, 0);
    assert_eq!(queue.for_each(&guard, 0, stop_at_4), Err(Errno::EINVAL));
}

#[test]
fn queues_zero_what_they_cannot_fill() {
    let queue = create(Queue, 0, 8, 2, 0);
    queue.push(own(&q(7)), 0).unwrap();
    let mut value = q(u64::MAX);
    assert_eq!(queue.peek(SharedSlice::from_mut(&mut value)), Ok(()));
    assert_eq!(queue.pop(SharedSlice::from_mut(&mut value)), Ok(()));
    assert_eq!(value, q(7));
    assert_eq!(queue.pop(SharedSlice::from_mut(&mut value)), Err(Errno::ENOENT));
    assert_eq!(value, q(0));
}

/// Notes the first byte of each value that goes.
#[derive(Default)]
struct Gone(Mutex<Vec<u8>>);

impl FreeFields for Gone {
    fn free_fields(&self, _: &Map, value: SharedSlice<'_>) {
        self.0.lock().unwrap().push(value.read_u8(0));
    }

    fn cancel_timers(&self, _: &Map, value: SharedSlice<'_>) {
        self.0.lock().unwrap().push(100 + value.read_u8(0));
    }
}

fn with_timer(map_type: MapType) -> (Arc<Map>, Arc<Gone>) {
    let fields = vec![SpecialField { offset: 8, kind: FieldKind::Timer }];
    let map = try_create(MapDef { fields, ..MapDef::new(map_type, 4, 24, 2) }).unwrap();
    let gone = Arc::new(Gone::default());
    map.on_free_fields(gone.clone());
    (map, gone)
}

fn byte(first: u8) -> Vec<u8> {
    let mut value = vec![0xee; 24];
    value[0] = first;
    value
}

#[test]
fn timers_are_cancelled_when_their_value_goes() {
    let (map, gone) = with_timer(Hash);
    map.update(0, &k(1), own(&byte(1)), 0).unwrap();
    map.update(0, &k(1), own(&byte(2)), 0).unwrap();
    map.delete(0, &k(1)).unwrap();
    assert_eq!(*gone.0.lock().unwrap(), [1, 2]);
    let user = map.open();
    map.update(0, &k(1), own(&byte(7)), 0).unwrap();
    drop(user);
    assert_eq!(*gone.0.lock().unwrap(), [1, 2, 107], "user space gave the map up");
    let (map, gone) = with_timer(LruHash);
    for i in 0..10 {
        map.update(0, &k(i), own(&byte(i as u8)), 0).unwrap();
    }
    assert_eq!(gone.0.lock().unwrap().len() as u64, 10 - map.element_count());
    let (map, gone) = with_timer(Array);
    map.update(0, &k(1), own(&byte(3)), 0).unwrap();
    assert_eq!(*gone.0.lock().unwrap(), [3]);
}

#[test]
fn user_space_neither_reads_nor_writes_special_fields() {
    for t in [Hash, Array] {
        let (map, _) = with_timer(t);
        let fd = map.open();
        fd.update_elem(&k(1), &byte(1), 0).unwrap();
        let guard = mem::epoch::pin();
        let value = map.lookup(&guard, 0, &k(1)).unwrap();
        assert_eq!((value.read_u64(8), value.read_u64(16)), (0, 0));
        value.write_u64(8, 0x1234);
        let copy = fd.lookup_elem(&k(1), 0).unwrap();
        assert_eq!((&copy[1..8], &copy[8..]), (&[0xee; 7][..], &[0; 16][..]));
        assert_eq!(fd.freeze(), Err(Errno::ENOTSUPP));
    }
}

#[test]
fn spin_locks_and_f_lock() {
    let fields = vec![SpecialField { offset: 0, kind: FieldKind::SpinLock }];
    for t in [Hash, Array] {
        let map = try_create(MapDef { fields: fields.clone(), ..MapDef::new(t, 4, 8, 2) }).unwrap();
        let fd = map.open();
        let missing = if t == Hash { Errno::ENOENT } else { Errno::E2BIG };
        assert_eq!(fd.update_elem(&k(9), &q(1), BPF_F_LOCK | BPF_EXIST), Err(missing));
        assert_eq!(fd.update_elem(&k(1), &q(5 << 32 | 7), BPF_F_LOCK), Ok(()));
        let guard = mem::epoch::pin();
        let value = map.lookup(&guard, 0, &k(1)).unwrap();
        assert_eq!(fd.update_elem(&k(1), &q(6 << 32), BPF_F_LOCK), Ok(()));
        assert_eq!(value.read_u64(0), 6 << 32, "in place, the lock left alone");
        assert_eq!(fd.lookup_elem(&k(1), BPF_F_LOCK), Ok(q(6 << 32).to_vec()));
    }
    for (t, expected) in [(LruHash, Errno::EOPNOTSUPP), (PercpuHash, Errno::EOPNOTSUPP)] {
        let def = MapDef { fields: fields.clone(), ..MapDef::new(t, 4, 8, 2) };
        assert_eq!(try_create(def).map(|_| ()), Err(expected));
    }
    let readonly = MapDef { fields, ..MapDef::new(Array, 4, 8, 2).flags(BPF_F_RDONLY_PROG) };
    assert_eq!(try_create(readonly).map(|_| ()), Err(Errno::EACCES));
}

#[test]
fn what_programs_cannot_do() {
    let guard = mem::epoch::pin();
    for (t, value, n) in [(Queue, 8, 4), (BloomFilter, 8, 4), (Ringbuf, 0, 4096)] {
        let map = create(t, 0, value, n, 0);
        assert!(map.lookup(&guard, 0, &[]).is_none());
        assert!(map.update(0, &[], own(&q(0)), 0).is_err());
        assert!(map.delete(0, &[]).is_err());
    }
    assert_eq!(create(Hash, 4, 8, 4, 0).push(own(&q(0)), 0), Err(Errno::EINVAL));
}
