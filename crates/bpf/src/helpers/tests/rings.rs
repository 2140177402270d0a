//! What goes to user space and comes from there.

use std::sync::Arc;

use uapi::Errno;
use uapi::bpf::*;

use super::EINVAL;
use super::world::{World, call, give, maps, with_maps, with_program};
use crate::host::PerfEvent;
use crate::insn::Insn;
use crate::maps::{MapDef, Object, Refs};

#[test]
fn records_reach_user_space_when_they_are_submitted() {
    let all = maps(&[MapDef::new(MapType::Ringbuf, 0, 0, 4096)]);
    let pass = vec![Insn::new(0xb7, 0, 0, 0, 2), Insn::new(0x95, 0, 0, 0, 0)];
    with_program(pass, &all, 64, World::default(), |run| {
        let map = run.memory.expose_map(&run.program().maps()[0]).unwrap();
        let consume = || all[0].ringbuf().unwrap().consume();
        assert_eq!(call(run, func::RINGBUF_RESERVE, [map, 8, 1, 0, 0]), 0, "flags");
        assert_eq!(call(run, func::RINGBUF_RESERVE, [map, 4096, 0, 0, 0]), 0, "too long");
        let first = call(run, func::RINGBUF_RESERVE, [map, 8, 0, 0, 0]);
        run.write(first, 8).unwrap().write_u64(0, 7);
        assert!(run.write(first, 9).is_err());
        assert_eq!(consume(), None);
        assert_eq!(call(run, func::RINGBUF_QUERY, [map, 0, 0, 0, 0]), 16);
        assert_eq!(call(run, func::RINGBUF_QUERY, [map, 1, 0, 0, 0]), 4096);
        let second = call(run, func::RINGBUF_RESERVE, [map, 8, 0, 0, 0]);
        assert_eq!(call(run, func::RINGBUF_DISCARD, [second, 0, 0, 0, 0]), 0);
        assert_eq!(call(run, func::RINGBUF_SUBMIT, [first, 0, 0, 0, 0]), 0);
        assert!(run.read(first, 1).is_err(), "it is user space's now");
        let data = give(run, b"third");
        assert_eq!(call(run, func::RINGBUF_OUTPUT, [map, data, 5, 4, 0]), EINVAL);
        assert_eq!(call(run, func::RINGBUF_OUTPUT, [map, data, 5, 0, 0]), 0);
        assert_eq!(
            (consume(), consume(), consume()),
            (Some(vec![7, 0, 0, 0, 0, 0, 0, 0]), Some(b"third".to_vec()), None)
        );
        let submit = crate::helpers::helper(func::RINGBUF_SUBMIT).unwrap();
        assert!(submit(run, [first, 0, 0, 0, 0]).is_err(), "twice");
        assert!(submit(run, [data, 0, 0, 0, 0]).is_err(), "no record");
        let big = give(run, &[0; 4000]);
        assert_eq!(call(run, func::RINGBUF_OUTPUT, [map, big, 4000, 0, 0]), 0);
        assert_eq!(call(run, func::RINGBUF_OUTPUT, [map, big, 4000, 0, 0]), Errno::EAGAIN.as_ret());
    });
}

#[test]
fn records_can_be_dynptrs() {
    let all = maps(&[MapDef::new(MapType::Ringbuf, 0, 0, 4096)]);
    let pass = vec![Insn::new(0xb7, 0, 0, 0, 2), Insn::new(0x95, 0, 0, 0, 0)];
    with_program(pass, &all, 64, World::default(), |run| {
        let map = run.memory.expose_map(&run.program().maps()[0]).unwrap();
        let (ptr, data) = (give(run, &[0xff; 16]), give(run, b"dynamic!"));
        let e2big = Errno::E2BIG.as_ret();
        assert_eq!(call(run, func::RINGBUF_RESERVE_DYNPTR, [map, 8, 1, ptr, 0]), EINVAL);
        assert_eq!(call(run, func::RINGBUF_RESERVE_DYNPTR, [map, 1 << 24, 0, ptr, 0]), e2big);
        assert_eq!(call(run, func::RINGBUF_RESERVE_DYNPTR, [map, 5000, 0, ptr, 0]), EINVAL);
        assert_eq!(call(run, func::RINGBUF_DISCARD_DYNPTR, [ptr, 0, 0, 0, 0]), 0, "of the null one");
        assert_eq!(call(run, func::RINGBUF_RESERVE_DYNPTR, [map, 10, 0, ptr, 0]), 0);
        assert_eq!(call(run, func::DYNPTR_WRITE, [ptr, 1, data, 8, 0]), 0);
        assert_eq!(call(run, func::RINGBUF_SUBMIT_DYNPTR, [ptr, 0, 0, 0, 0]), 0);
        assert_eq!(all[0].ringbuf().unwrap().consume(), Some(b"\0dynamic!\0".to_vec()));
        assert_eq!(call(run, func::DYNPTR_WRITE, [ptr, 1, data, 8, 0]), EINVAL, "it is null now");
    });
}

/// `bpf_user_ringbuf_drain` of map 0 with a callback that adds up first bytes and stops at 9.
fn drain() -> Vec<Insn> {
    let (r0, r1, r2, r3, r4, r6, r10) = (0, 1, 2, 3, 4, 6, 10);
    vec![
        Insn::new(0x7a, r10, 0, -8, 0),
        Insn::new(0x18, r1, BPF_PSEUDO_MAP_IDX, 0, 0),
        Insn::default(),
        Insn::new(0x18, r2, BPF_PSEUDO_FUNC, 0, 9),
        Insn::default(),
        Insn::new(0xbf, r3, r10, 0, 0),
        Insn::new(0x07, r3, 0, 0, -8),
        Insn::new(0xb7, r4, 0, 0, 0),
        Insn::new(0x85, 0, 0, 0, func::USER_RINGBUF_DRAIN),
        Insn::new(0x67, r0, 0, 0, 32),
        Insn::new(0x79, r1, r10, -8, 0),
        Insn::new(0x4f, r0, r1, 0, 0),
        Insn::new(0x95, 0, 0, 0, 0),
        // The callback: dynptr, context.
        Insn::new(0xbf, r6, r2, 0, 0),
        Insn::new(0xb7, r2, 0, 0, 0),
        Insn::new(0xb7, r3, 0, 0, 1),
        Insn::new(0x85, 0, 0, 0, func::DYNPTR_DATA),
        Insn::new(0x71, r3, r0, 0, 0),
        Insn::new(0x79, r0, r6, 0, 0),
        Insn::new(0x0f, r0, r3, 0, 0),
        Insn::new(0x7b, r6, r0, 0, 0),
        Insn::new(0xb7, r0, 0, 0, 0),
        Insn::new(0x55, r3, 0, 1, 9),
        Insn::new(0xb7, r0, 0, 0, 1),
        Insn::new(0x95, 0, 0, 0, 0),
    ]
}

#[test]
fn samples_of_user_space_are_drained() {
    let all = maps(&[MapDef::new(MapType::UserRingbuf, 0, 0, 4096)]);
    for sample in [&[1][..], &[2, 2], &[9], &[40]] {
        all[0].user_ringbuf().unwrap().produce(sample).unwrap();
    }
    for (count, sum) in [(3, 12), (1, 40), (0, 0)] {
        with_program(drain(), &all, 64, World::default(), |run| {
            assert_eq!(run.execute(), Ok(count << 32 | sum));
        });
    }
}

struct OnCpu(u32);

impl Refs for OnCpu {
    fn perf_event(&self, fd: i32) -> Result<Object, Errno> {
        Ok(if fd == 0 { Arc::new(PerfEvent { cpu: self.0 }) } else { Arc::new("another event") })
    }
}

#[test]
fn samples_go_to_the_event_of_the_own_cpu() {
    let world = World { cpu: 1, ..World::default() };
    let log = world.log.clone();
    let all = maps(&[MapDef::new(MapType::PerfEventArray, 4, 4, 4)]);
    let fd = all[0].open();
    for (slot, cpu, event) in [(1_u32, 1, 0_u32), (2, 2, 0), (3, 1, 1)] {
        fd.update_with(&OnCpu(cpu), &slot.to_le_bytes(), &event.to_le_bytes(), 0).unwrap();
    }
    let pass = vec![Insn::new(0xb7, 0, 0, 0, 2), Insn::new(0x95, 0, 0, 0, 0)];
    with_program(pass, &all, 64, world, |run| {
        let map = run.memory.expose_map(&run.program().maps()[0]).unwrap();
        let (ctx, data) = (run.memory.ctx(), give(run, b"abcd"));
        let current = 0xffff_ffff;
        for (flags, expected) in [
            (current, 0),
            (1, 0),
            (current | 3 << 32, 0),
            (current | 65 << 32, Errno::EFAULT.as_ret()),
            (1 << 52, EINVAL),
            (0, Errno::ENOENT.as_ret()),
            (2, Errno::EOPNOTSUPP.as_ret()),
            (3, EINVAL),
            (4, Errno::E2BIG.as_ret()),
        ] {
            let answer = call(run, func::PERF_EVENT_OUTPUT, [ctx, map, flags, data, 4]);
            assert_eq!(answer, expected, "{flags:#x}");
        }
    });
    let event = |bytes: &str| format!("PerfSample {{ map_id: 1, cpu: 1, data: [97, 98, 99, 100{bytes}] }}");
    assert_eq!(*log.borrow(), [event(""), event(""), event(", 0, 1, 2")]);
}

#[test]
fn a_ring_is_needed_where_one_is_expected() {
    with_maps(&[MapDef::new(MapType::Array, 4, 8, 1)], World::default(), |run, addrs| {
        for id in [func::RINGBUF_RESERVE, func::RINGBUF_OUTPUT, func::USER_RINGBUF_DRAIN, func::REDIRECT_MAP]
        {
            assert!(crate::helpers::helper(id).unwrap()(run, [addrs[0], 0, 0, 0, 0]).is_err(), "{id}");
        }
    });
}
