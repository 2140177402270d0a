//! Timers: what programs may do with them, and when they are due.

use std::sync::Arc;

use uapi::Errno;
use uapi::bpf::*;

use super::EINVAL;
use super::world::{World, call, give, maps, with_program};
use crate::helpers::Timers;
use crate::host::Clock;
use crate::insn::Insn;
use crate::maps::{FieldKind, Map, MapDef, SpecialField};
use crate::vm::Run;

/// Address of the second function of the program below, in checked runs.
const CALLBACK: u64 = 0xffff_f000_0000_0000 + 4;

fn program() -> Vec<Insn> {
    vec![
        Insn::new(0x18, 2, BPF_PSEUDO_FUNC, 0, 3),
        Insn::default(),
        Insn::new(0xb7, 0, 0, 0, 2),
        Insn::new(0x95, 0, 0, 0, 0),
        Insn::new(0xb7, 0, 0, 0, 0),
        Insn::new(0x95, 0, 0, 0, 0),
    ]
}

fn timer_map(map_type: MapType) -> Vec<Arc<Map>> {
    let fields = vec![SpecialField { offset: 8, kind: FieldKind::Timer }];
    maps(&[MapDef { fields, ..MapDef::new(map_type, 4, 24, 4) }])
}

/// Runs a test with a map of timers: its address, and the timer in the value of key 1.
fn with_timer(
    map_type: MapType,
    timers: &Arc<Timers>,
    test: impl FnOnce(&mut Run<'_, '_>, &Arc<Map>, u64, u64),
) {
    let all = timer_map(map_type);
    let _fd = all[0].open();
    all[0].on_free_fields(Timers::canceller(timers));
    let world = World { time_ns: 1000, timers: Some(timers.clone()), ..World::default() };
    with_program(program(), &all, 64, world, |run| {
        let map = run.memory.expose_map(&run.program().maps()[0]).unwrap();
        let (key, value) = (give(run, &[1, 0, 0, 0]), give(run, &[0; 24]));
        call(run, func::MAP_UPDATE_ELEM, [map, key, value, 0, 0]);
        let value = call(run, func::MAP_LOOKUP_ELEM, [map, key, 0, 0, 0]);
        test(run, &all[0], map, value + 8);
    });
}

fn due(timers: &Timers, now: u64) -> Option<(Vec<u8>, u64)> {
    let due = timers.take_due(|_| now)?;
    timers.finish(due.id);
    Some((due.key, due.deadline_ns))
}

#[test]
fn a_timer_is_made_once_and_runs_when_it_is_due() {
    for map_type in [MapType::Array, MapType::Hash, MapType::LruHash] {
        let timers = Arc::new(Timers::new());
        with_timer(map_type, &timers, |run, _, map, timer| {
            let busy = Errno::EBUSY.as_ret();
            assert_eq!(call(run, func::TIMER_SET_CALLBACK, [timer, CALLBACK, 0, 0, 0]), EINVAL);
            assert_eq!(call(run, func::TIMER_START, [timer, 5, 0, 0, 0]), EINVAL);
            assert_eq!(call(run, func::TIMER_CANCEL, [timer, 0, 0, 0, 0]), EINVAL);
            for flags in [2, 8, 16, 1 << 32 | 1] {
                assert_eq!(call(run, func::TIMER_INIT, [timer, map, flags, 0, 0]), EINVAL);
            }
            assert_eq!(call(run, func::TIMER_INIT, [timer, map, 1, 0, 0]), 0);
            assert_eq!(call(run, func::TIMER_INIT, [timer, map, 1, 0, 0]), busy);
            assert_eq!(call(run, func::TIMER_START, [timer, 5, 0, 0, 0]), EINVAL, "no callback");
            assert_eq!(call(run, func::TIMER_SET_CALLBACK, [timer, CALLBACK, 0, 0, 0]), 0);
            assert_eq!(call(run, func::TIMER_START, [timer, 5, 4, 0, 0]), EINVAL);
            assert_eq!(call(run, func::TIMER_START, [timer, 5, 0, 0, 0]), 0);
            assert_eq!(timers.next_deadlines().collect::<Vec<_>>(), [(Clock::Monotonic, 1005)]);
            assert_eq!(due(&timers, 1004), None);
            assert_eq!(due(&timers, 1005), Some((vec![1, 0, 0, 0], 1005)), "{map_type:?}");
            assert_eq!(due(&timers, 9999), None, "once");
            assert_eq!(call(run, func::TIMER_START, [timer, 7, 1, 0, 0]), 0);
            assert_eq!(due(&timers, 7).map(|(_, at)| at), Some(7), "an absolute time");
        });
    }
}

#[test]
fn cancelling_tells_whether_the_timer_was_waiting() {
    let timers = Arc::new(Timers::new());
    with_timer(MapType::Array, &timers, |run, _, map, timer| {
        call(run, func::TIMER_INIT, [timer, map, 7, 0, 0]);
        call(run, func::TIMER_SET_CALLBACK, [timer, CALLBACK, 0, 0, 0]);
        call(run, func::TIMER_START, [timer, 5, 0, 0, 0]);
        assert_eq!(call(run, func::TIMER_CANCEL, [timer, 0, 0, 0, 0]), 1);
        assert_eq!(call(run, func::TIMER_CANCEL, [timer, 0, 0, 0, 0]), 0);
        assert_eq!(call(run, func::TIMER_START, [timer, 5, 0, 0, 0]), EINVAL, "the callback is gone too");
        call(run, func::TIMER_SET_CALLBACK, [timer, CALLBACK, 0, 0, 0]);
        call(run, func::TIMER_START, [timer, 5, 0, 0, 0]);
        let running = timers.take_due(|_| 2000).expect("due");
        assert_eq!(call(run, func::TIMER_CANCEL, [timer, 0, 0, 0, 0]), Errno::EDEADLK.as_ret());
        timers.finish(running.id);
        assert_eq!(call(run, func::TIMER_CANCEL, [timer, 0, 0, 0, 0]), 0);
    });
}

#[test]
fn timers_end_with_their_value_and_need_a_map_that_is_held() {
    let timers = Arc::new(Timers::new());
    with_timer(MapType::Hash, &timers, |run, map, addr, timer| {
        call(run, func::TIMER_INIT, [timer, addr, 1, 0, 0]);
        call(run, func::TIMER_SET_CALLBACK, [timer, CALLBACK, 0, 0, 0]);
        call(run, func::TIMER_START, [timer, 5, 0, 0, 0]);
        assert_eq!(map.open().lookup_elem(&[1, 0, 0, 0], 0).unwrap(), [0; 24], "user space sees no timer");
        assert_eq!(timers.len(), 1);
        let key = give(run, &[1, 0, 0, 0]);
        assert_eq!(call(run, func::MAP_DELETE_ELEM, [addr, key, 0, 0, 0]), 0);
        assert!(timers.is_empty());
        assert_eq!(due(&timers, u64::MAX), None);
    });
    let all = timer_map(MapType::Array);
    let world = World { timers: Some(timers.clone()), ..World::default() };
    with_program(program(), &all, 64, world, |run| {
        let map = run.memory.expose_map(&run.program().maps()[0]).unwrap();
        let key = give(run, &[1, 0, 0, 0]);
        let value = call(run, func::MAP_LOOKUP_ELEM, [map, key, 0, 0, 0]);
        assert_eq!(call(run, func::TIMER_INIT, [value + 8, map, 1, 0, 0]), Errno::EPERM.as_ret());
    });
}

#[test]
fn the_earliest_timer_comes_first() {
    let timers = Arc::new(Timers::new());
    with_timer(MapType::Array, &timers, |run, _, map, _| {
        for (key, delay) in [(0_u32, 30), (1, 10), (2, 20)] {
            let key = give(run, &key.to_le_bytes());
            let timer = call(run, func::MAP_LOOKUP_ELEM, [map, key, 0, 0, 0]) + 8;
            call(run, func::TIMER_INIT, [timer, map, 1, 0, 0]);
            call(run, func::TIMER_SET_CALLBACK, [timer, CALLBACK, 0, 0, 0]);
            call(run, func::TIMER_START, [timer, delay, 0, 0, 0]);
        }
        let order: Vec<_> = std::iter::from_fn(|| due(&timers, 1025)).map(|(key, _)| key[0]).collect();
        assert_eq!(order, [1, 2]);
        assert_eq!(due(&timers, 1030).map(|(key, _)| key[0]), Some(0));
    });
}
