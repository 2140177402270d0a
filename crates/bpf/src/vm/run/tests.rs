//! What a checked run lets pointers do.

use std::sync::Arc;

use mem::{Frame, RxqInfo, SharedSlice, XdpBuff};
use uapi::bpf::MapType;

use super::*;
use crate::host::Clock;
use crate::insn::Insn;
use crate::maps::{MapContext, MapDef};
use crate::object::ProgramSpec;
use crate::vm::{FaultKind, Symbols};

const RXQ: RxqInfo = RxqInfo { ifindex: 1, queue_index: 0, mem_type: 0, frag_size: 4096 };

struct NoHost;

impl Host for NoHost {
    fn ktime_ns(&mut self, _: Clock) -> u64 {
        0
    }

    fn prandom_u32(&mut self) -> u32 {
        0
    }
}

fn map(id: u32) -> Arc<Map> {
    let cx = MapContext { id, ..MapContext::default() };
    Map::create(MapDef::new(MapType::Array, 4, 8, 1), &cx).unwrap()
}

fn program(maps: &[Arc<Map>]) -> Arc<Program> {
    let spec = ProgramSpec::bare("p", vec![Insn::new(0xb7, 0, 0, 0, 2), Insn::new(0x95, 0, 0, 0, 0)]);
    let symbols = Symbols { helper: |_| None, kfunc: |_| None };
    Arc::new(Program::link(&spec, 1, maps, symbols).unwrap())
}

fn with_run(maps: &[Arc<Map>], test: impl FnOnce(&mut Run<'_, '_>)) {
    let program = program(maps);
    let mut buff = XdpBuff::new(Frame::new(4096), 256, 64, &RXQ).unwrap();
    let (mut scratch, mut redirect) = (Scratch::new(), RedirectInfo::default());
    test(&mut Run::checked(
        &program,
        &mem::epoch::pin(),
        &mut scratch,
        &mut buff,
        &mut redirect,
        &mut NoHost,
    ));
}

#[test]
fn a_packet_pointer_reaches_exactly_the_packet() {
    with_run(&[], |run| {
        let at = run.memory.packet_bounds();
        assert_eq!((at.data - at.meta, at.end - at.data), (0, 64));
        assert!(run.write(at.data, 64).is_ok());
        let past = run.read(at.data + 60, 8).unwrap_err();
        assert_eq!(past.kind.to_string(), "read of 8 bytes at offset 60 of the packet, which has 64 bytes");
        assert!(run.read(at.data - 1, 1).is_err());
        assert!(run.read(at.data, u64::MAX).is_err());
    });
}

#[test]
fn moving_the_packet_makes_its_pointers_stale() {
    with_run(&[], |run| {
        let old = run.memory.packet_bounds().data;
        run.write(old, 1).unwrap().write_u8(0, 7);
        run.with_buff(|buff| buff.adjust_head(-14)).unwrap();
        let stale = FaultKind::Stale { region: RegionKind::Packet, access: Access::Read };
        assert_eq!(run.read(old, 1).unwrap_err().kind, stale);
        let new = run.memory.packet_bounds().data;
        assert_eq!(run.read(new + 14, 1).unwrap().read_u8(0), 7);
    });
}

#[test]
fn fragments_are_reached_piece_by_piece() {
    with_run(&[], |run| {
        run.with_buff(|buff| buff.push_frag(mem::Frag::new(Frame::new(4096), 8, 100).unwrap())).unwrap();
        assert_eq!(run.memory.packet_pointer(60, 8).unwrap(), None);
        assert_eq!(run.memory.packet_pointer(64, 101).unwrap(), None);
        assert_eq!(run.memory.packet_pointer(usize::MAX, 2).unwrap(), None);
        let frag = run.memory.packet_pointer(64, 100).unwrap().unwrap();
        assert_eq!(run.memory.packet_pointer(65, 1).unwrap(), Some(frag + 1));
        assert!(run.read(frag, 100).is_ok());
        run.with_buff(|_| ());
        assert!(matches!(run.read(frag, 1).unwrap_err().kind, FaultKind::Stale { .. }));
    });
}

#[test]
fn exposed_bytes_keep_their_pointer_until_they_are_retired() {
    let bytes = SharedSlice::from_mut(vec![0; 16].leak());
    with_run(&[], |run| {
        let kind = RegionKind::MapValue(3);
        let a = run.expose(kind, bytes, false).unwrap();
        assert_eq!(run.expose(kind, bytes, false), Ok(a));
        assert_eq!(
            run.write(a, 1).unwrap_err().kind,
            FaultKind::Denied { region: kind, access: Access::Write }
        );
        run.memory.retire(a);
        assert!(matches!(run.read(a, 1).unwrap_err().kind, FaultKind::Stale { .. }));
        assert_ne!(run.expose(kind, bytes, false), Ok(a));
    });
}

#[test]
fn memory_that_a_helper_gave_lasts_until_it_is_taken_back() {
    with_run(&[], |run| {
        let kind = RegionKind::Object("bpf_sock");
        let sock = run.memory.own(kind, &[1, 2, 3], false).unwrap();
        assert_eq!(run.read(sock, 3).unwrap().to_vec(), [1, 2, 3]);
        assert_eq!(run.memory.kind_at(sock), Some(kind));
        run.acquire(sock, kind);
        assert_eq!(run.release(sock), Ok(kind));
        assert!(run.release(sock).is_err());
        run.memory.retire(sock);
        assert_eq!(run.memory.kind_at(sock), None);
        assert!(run.read(sock, 1).is_err());
    });
}

#[test]
fn only_map_pointers_name_maps() {
    let maps = [map(7), map(8)];
    with_run(&maps, |run| {
        let maps = run.program().maps();
        let (a, b) = (run.memory.expose_map(&maps[0]).unwrap(), run.memory.expose_map(&maps[1]).unwrap());
        assert_eq!((run.map(a).unwrap().id(), run.map(b).unwrap().id()), (7, 8));
        assert!(run.map(a + 1).is_err());
        assert!(run.map(run.memory.ctx()).is_err());
        assert!(run.map(0).is_err());
        assert!(run.read(a, 1).is_err());
    });
}

#[test]
fn numbers_are_no_pointers() {
    with_run(&[], |run| {
        for addr in [0, 1, 4096, u64::from(u32::MAX), 1 << 40, u64::MAX] {
            assert!(
                matches!(run.read(addr, 1).unwrap_err().kind, FaultKind::NotAPointer { .. }),
                "{addr:#x}"
            );
        }
        assert_eq!(run.read(0, 0).unwrap().len(), 0);
    });
}

#[test]
fn pointers_do_not_depend_on_earlier_runs() {
    let program = program(&[]);
    let (mut scratch, mut redirect) = (Scratch::new(), RedirectInfo::default());
    let mut bytes = [0; 8];
    let bytes = SharedSlice::from_mut(&mut bytes);
    let (mut seen, mut host) = (Vec::new(), NoHost);
    for _ in 0..2 {
        let mut buff = XdpBuff::new(Frame::new(4096), 256, 64, &RXQ).unwrap();
        let guard = mem::epoch::pin();
        let mut run = Run::checked(&program, &guard, &mut scratch, &mut buff, &mut redirect, &mut host);
        run.with_buff(|_| ());
        let value = run.expose(RegionKind::MapValue(1), bytes, true).unwrap();
        seen.push((run.memory.ctx(), run.memory.packet_bounds(), value));
    }
    assert_eq!(seen[0], seen[1]);
}
