//! Maps as programs use them, redirects, locks.

use std::sync::Arc;

use uapi::Errno;
use uapi::bpf::*;

use super::EINVAL;
use super::world::{World, call, give, maps, with_maps, with_program};
use crate::insn::Insn;
use crate::maps::{Map, MapDef, Refs};
use crate::vm::{FaultKind, Run};

const ENOENT: u64 = Errno::ENOENT.as_ret();
const E2BIG: u64 = Errno::E2BIG.as_ret();

fn word(run: &Run<'_, '_>, addr: u64) -> u64 {
    run.read(addr, 8).expect("within the value").read_u64(0)
}

#[test]
fn entries_are_found_changed_and_deleted() {
    let defs = [MapDef::new(MapType::Hash, 4, 8, 2), MapDef::new(MapType::Array, 4, 8, 2)];
    with_maps(&defs, World::default(), |run, addrs| {
        let [hash, array] = *addrs else { unreachable!() };
        let (key, value) = (give(run, &[1, 0, 0, 0]), give(run, &[7; 8]));
        assert_eq!(call(run, func::MAP_LOOKUP_ELEM, [hash, key, 0, 0, 0]), 0);
        assert_eq!(call(run, func::MAP_DELETE_ELEM, [hash, key, 0, 0, 0]), ENOENT);
        assert_eq!(call(run, func::MAP_UPDATE_ELEM, [hash, key, value, BPF_EXIST, 0]), ENOENT);
        assert_eq!(call(run, func::MAP_UPDATE_ELEM, [hash, key, value, 3, 0]), EINVAL);
        assert_eq!(call(run, func::MAP_UPDATE_ELEM, [hash, key, value, BPF_NOEXIST, 0]), 0);
        let exists = Errno::EEXIST.as_ret();
        assert_eq!(call(run, func::MAP_UPDATE_ELEM, [hash, key, value, BPF_NOEXIST, 0]), exists);
        let found = call(run, func::MAP_LOOKUP_ELEM, [hash, key, 0, 0, 0]);
        assert_eq!(word(run, found), 0x0707_0707_0707_0707);
        assert!(run.read(found, 9).is_err(), "no more than the value");
        run.write(found, 8).unwrap().write_u64(0, 9);
        assert_eq!(call(run, func::MAP_LOOKUP_ELEM, [hash, key, 0, 0, 0]), found);
        assert_eq!(call(run, func::MAP_DELETE_ELEM, [hash, key, 0, 0, 0]), 0);
        assert_eq!(word(run, found), 9, "what was found stays to the end of the run");
        let second = call(run, func::MAP_LOOKUP_ELEM, [array, key, 0, 0, 0]);
        assert_eq!(word(run, second), 0);
        assert_eq!(call(run, func::MAP_DELETE_ELEM, [array, key, 0, 0, 0]), EINVAL);
        run.write(key, 4).unwrap().write_u32(0, 2);
        assert_eq!(call(run, func::MAP_LOOKUP_ELEM, [array, key, 0, 0, 0]), 0);
        assert_eq!(call(run, func::MAP_UPDATE_ELEM, [array, key, value, 0, 0]), E2BIG);
    });
}

#[test]
fn every_cpu_has_its_own_value() {
    let defs = [MapDef::new(MapType::PercpuArray, 4, 8, 1)];
    with_maps(&defs, World { cpu: 2, ..World::default() }, |run, addrs| {
        let key = give(run, &[0; 4]);
        let own = call(run, func::MAP_LOOKUP_ELEM, [addrs[0], key, 0, 0, 0]);
        run.write(own, 8).unwrap().write_u64(0, 5);
        let values: Vec<_> = (0..4)
            .map(|cpu| {
                let other = call(run, func::MAP_LOOKUP_PERCPU_ELEM, [addrs[0], key, cpu, 0, 0]);
                word(run, other)
            })
            .collect();
        assert_eq!(values, [0, 0, 5, 0]);
        assert_eq!(call(run, func::MAP_LOOKUP_PERCPU_ELEM, [addrs[0], key, 4, 0, 0]), 0);
    });
}

#[test]
fn queues_and_filters_have_no_keys() {
    let defs = [MapDef::new(MapType::Queue, 0, 8, 1), MapDef::new(MapType::BloomFilter, 0, 8, 10)];
    with_maps(&defs, World::default(), |run, addrs| {
        let value = give(run, &[7; 8]);
        let [queue, bloom] = *addrs else { unreachable!() };
        assert_eq!(call(run, func::MAP_PEEK_ELEM, [queue, value, 0, 0, 0]), ENOENT);
        assert_eq!(word(run, value), 0, "the buffer is cleared");
        run.write(value, 8).unwrap().write_u64(0, 3);
        assert_eq!(call(run, func::MAP_PUSH_ELEM, [queue, value, 0, 0, 0]), 0);
        assert_eq!(call(run, func::MAP_PUSH_ELEM, [queue, value, 0, 0, 0]), E2BIG);
        run.write(value, 8).unwrap().write_u64(0, 0);
        assert_eq!(call(run, func::MAP_POP_ELEM, [queue, value, 0, 0, 0]), 0);
        assert_eq!(word(run, value), 3);
        assert_eq!(call(run, func::MAP_PEEK_ELEM, [bloom, value, 0, 0, 0]), ENOENT);
        assert_eq!(call(run, func::MAP_PUSH_ELEM, [bloom, value, 0, 0, 0]), 0);
        assert_eq!(call(run, func::MAP_PEEK_ELEM, [bloom, value, 0, 0, 0]), 0);
        assert_eq!(word(run, value), 3, "a filter is only asked");
    });
}

#[test]
fn maps_that_programs_may_not_write_stay_as_they_are() {
    let defs = [MapDef::new(MapType::Array, 4, 8, 1).flags(BPF_F_RDONLY_PROG)];
    with_maps(&defs, World::default(), |run, addrs| {
        let (key, value) = (give(run, &[0; 4]), give(run, &[7; 8]));
        let found = call(run, func::MAP_LOOKUP_ELEM, [addrs[0], key, 0, 0, 0]);
        assert!(run.write(found, 1).is_err());
        let update = crate::helpers::helper(func::MAP_UPDATE_ELEM).unwrap();
        let fault = update(run, [addrs[0], key, value, 0, 0]).unwrap_err();
        assert!(matches!(fault.kind, FaultKind::Illegal(_)));
    });
}

struct Inner(Arc<Map>);

impl Refs for Inner {
    fn map(&self, _: i32) -> Result<Arc<Map>, Errno> {
        Ok(self.0.clone())
    }

    fn has_device(&self, _: u32) -> bool {
        true
    }
}

#[test]
fn a_map_of_maps_gives_maps() {
    let inner = MapDef::new(MapType::Array, 4, 8, 1);
    let outer = MapDef { inner: Some(Box::new(inner.clone())), ..MapDef::new(MapType::ArrayOfMaps, 4, 4, 2) };
    let all = maps(&[outer, inner]);
    let refs = Inner(all[1].clone());
    all[0].open().update_with(&refs, &[1, 0, 0, 0], &[0; 4], 0).expect("fits the template");
    let pass = vec![Insn::new(0xb7, 0, 0, 0, 2), Insn::new(0x95, 0, 0, 0, 0)];
    with_program(pass, &all[..1], 64, World::default(), |run| {
        let outer = run.memory.expose_map(&run.program().maps()[0]).unwrap();
        let key = give(run, &[0; 4]);
        assert_eq!(call(run, func::MAP_LOOKUP_ELEM, [outer, key, 0, 0, 0]), 0);
        run.write(key, 4).unwrap().write_u32(0, 1);
        let inner = call(run, func::MAP_LOOKUP_ELEM, [outer, key, 0, 0, 0]);
        run.write(key, 4).unwrap().write_u32(0, 0);
        let value = call(run, func::MAP_LOOKUP_ELEM, [inner, key, 0, 0, 0]);
        assert_eq!(word(run, value), 0);
        assert!(run.read(inner, 1).is_err(), "a map is no memory");
    });
}

/// `bpf_for_each_map_elem` over map 0 with a callback that adds up values and stops at value 30.
fn sum_up_to_30() -> Vec<Insn> {
    let (r0, r1, r2, r3, r4, r10) = (0, 1, 2, 3, 4, 10);
    vec![
        Insn::new(0x7a, r10, 0, -8, 0),
        Insn::new(0x18, r1, BPF_PSEUDO_MAP_IDX, 0, 0),
        Insn::default(),
        Insn::new(0x18, r2, BPF_PSEUDO_FUNC, 0, 9),
        Insn::default(),
        Insn::new(0xbf, r3, r10, 0, 0),
        Insn::new(0x07, r3, 0, 0, -8),
        Insn::new(0xb7, r4, 0, 0, 0),
        Insn::new(0x85, 0, 0, 0, func::FOR_EACH_MAP_ELEM),
        Insn::new(0x67, r0, 0, 0, 32),
        Insn::new(0x79, r1, r10, -8, 0),
        Insn::new(0x4f, r0, r1, 0, 0),
        Insn::new(0x95, 0, 0, 0, 0),
        // The callback: map, key, value, context.
        Insn::new(0x79, r3, r3, 0, 0),
        Insn::new(0x79, r0, r4, 0, 0),
        Insn::new(0x0f, r0, r3, 0, 0),
        Insn::new(0x7b, r4, r0, 0, 0),
        Insn::new(0xb7, r0, 0, 0, 0),
        Insn::new(0x55, r3, 0, 1, 30),
        Insn::new(0xb7, r0, 0, 0, 1),
        Insn::new(0x95, 0, 0, 0, 0),
    ]
}

#[test]
fn all_entries_are_gone_through_until_the_callback_stops() {
    for map_type in [MapType::Array, MapType::Hash, MapType::PercpuArray, MapType::LruHash] {
        let all = maps(&[MapDef::new(map_type, 4, 8, 4)]);
        with_program(sum_up_to_30(), &all, 64, World::default(), |run| {
            for (key, value) in [(0_u32, 10_u64), (1, 20), (2, 5), (3, 2)] {
                all[0].update(0, &key.to_le_bytes(), value.to_le_bytes()[..].into(), 0).unwrap();
            }
            assert_eq!(run.execute(), Ok(4 << 32 | 37), "{map_type:?}");
        });
    }
    let all = maps(&[MapDef::new(MapType::Array, 4, 8, 4)]);
    with_program(sum_up_to_30(), &all, 64, World::default(), |run| {
        all[0].update(0, &1_u32.to_le_bytes(), 30_u64.to_le_bytes()[..].into(), 0).unwrap();
        assert_eq!(run.execute(), Ok(2 << 32 | 30));
    });
    let lpm = MapDef::new(MapType::LpmTrie, 8, 8, 4).flags(BPF_F_NO_PREALLOC);
    with_maps(&[lpm], World::default(), |run, addrs| {
        assert_eq!(call(run, func::FOR_EACH_MAP_ELEM, [addrs[0], 0, 0, 1, 0]), EINVAL);
        assert_eq!(call(run, func::FOR_EACH_MAP_ELEM, [addrs[0], 0, 0, 0, 0]), EINVAL);
    });
}

/// What the helper answers and where the packet would go: target, map, flags.
type Redirected = (u64, u64, u32, u64);

fn redirected(run: &Run<'_, '_>, answer: u64) -> Redirected {
    (answer, run.redirect.tgt_index, run.redirect.map_id, run.redirect.flags)
}

const BY_IFINDEX: u32 = i32::MAX as u32;

#[test]
fn redirect_takes_any_number_and_no_flags() {
    with_maps(&[], World::default(), |run, _| {
        let answer = call(run, func::REDIRECT, [7, 1, 0, 0, 0]);
        assert_eq!(redirected(run, answer), (0, 0, 0, 0));
        let answer = call(run, func::REDIRECT, [0xffff_ffff_0000_0007, 0, 0, 0, 0]);
        assert_eq!(redirected(run, answer), (4, 7, BY_IFINDEX, 0));
    });
}

/// The matrix of flags, of a devmap with an entry at 0.
#[test]
fn redirect_map_answers_by_flags_and_entry() {
    let all = maps(&[MapDef::new(MapType::Devmap, 4, 4, 4), MapDef::new(MapType::Xskmap, 4, 4, 4)]);
    all[0].open().update_with(&Inner(all[0].clone()), &[0; 4], &[9, 0, 0, 0], 0).expect("a device");
    let pass = vec![Insn::new(0xb7, 0, 0, 0, 2), Insn::new(0x95, 0, 0, 0, 0)];
    with_program(pass, &all, 64, World::default(), |run| {
        let addrs: Vec<_> =
            run.program().maps().iter().map(|map| run.memory.expose_map(map).unwrap()).collect();
        for (map, key, flags, expected) in [
            (0, 0, 0, (4, 0, 1, 0)),
            (0, 0, 2, (4, 0, 1, 0)),
            (0, 0, 4, (0, 77, 0, 0)),
            (0, 0, 32, (0, 77, 0, 0)),
            (0, 1, 0, (0, 77, BY_IFINDEX, 0)),
            (0, 1, 2, (2, 77, BY_IFINDEX, 0)),
            (0, 1, 3, (3, 77, BY_IFINDEX, 0)),
            (0, 1 << 32, 0, (4, 1 << 32, 1, 0)),
            (0, 3, 8, (4, 3, 1, 8)),
            (0, 3, 8 | 16, (4, 3, 1, 24)),
            (0, 0, 16, (4, 0, 1, 0)),
            (0, 1, 16 | 2, (2, 77, BY_IFINDEX, 0)),
            (1, 0, 8, (0, 77, 0, 0)),
            (1, 0, 2, (2, 77, BY_IFINDEX, 0)),
        ] {
            *run.redirect = crate::redirect::RedirectInfo { tgt_index: 77, ..Default::default() };
            let answer = call(run, func::REDIRECT_MAP, [addrs[map], key, flags, 0, 0]);
            assert_eq!(redirected(run, answer), expected, "map {map} key {key} flags {flags}");
            assert_eq!(run.redirect.map.is_some(), [1, 2].contains(&run.redirect.map_id));
        }
    });
}

#[test]
fn a_spin_lock_is_held_once_and_given_back() {
    let defs = [MapDef::new(MapType::Array, 4, 8, 2)];
    with_maps(&defs, World::default(), |run, addrs| {
        let key = give(run, &[0; 4]);
        let value = call(run, func::MAP_LOOKUP_ELEM, [addrs[0], key, 0, 0, 0]);
        let (lock, unlock) = (
            crate::helpers::helper(func::SPIN_LOCK).unwrap(),
            crate::helpers::helper(func::SPIN_UNLOCK).unwrap(),
        );
        assert!(unlock(run, [value, 0, 0, 0, 0]).is_err());
        assert_eq!(lock(run, [value, 0, 0, 0, 0]), Ok(0));
        assert_eq!(run.read(value, 4).unwrap().read_u32(0), 1);
        assert!(lock(run, [value, 0, 0, 0, 0]).is_err(), "a second lock");
        assert!(lock(run, [value + 4, 0, 0, 0, 0]).is_err(), "another lock");
        assert_eq!(unlock(run, [value, 0, 0, 0, 0]), Ok(0));
        assert_eq!(run.read(value, 4).unwrap().read_u32(0), 0);
        assert!(lock(run, [value + 1, 0, 0, 0, 0]).is_err(), "not aligned");
        run.write(value, 4).unwrap().write_u32(0, 1);
        let fault = lock(run, [value, 0, 0, 0, 0]).unwrap_err();
        assert!(fault.kind.to_string().contains("never released"));
    });
}
