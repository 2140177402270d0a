//! Maps in instructions: global data, tail calls; and what a proof allows.

use std::cell::RefCell;

use uapi::Errno;

use super::*;
use crate::maps::{Map, MapContext, MapDef, MapFd, NoRefs, Refs};
use crate::verifier::{Input, Options, verify};

fn create(def: MapDef) -> Arc<Map> {
    Map::create(def, &MapContext::default()).unwrap()
}

fn array(value_size: u32, flags: u32) -> Arc<Map> {
    create(MapDef { map_flags: flags, ..MapDef::new(MapType::Array, 4, value_size, 1) })
}

fn run(program: &Arc<Program>) -> Result<u64, Fault> {
    let mut buff = XdpBuff::new(Frame::new(4096), 256, 64, &RXQ).unwrap();
    let (mut scratch, mut redirect) = (Scratch::new(), RedirectInfo::default());
    Run::checked(program, &mem::epoch::pin(), &mut scratch, &mut buff, &mut redirect, &mut NoHost)
        .with_fuel(10_000)
        .execute()
}

fn link(insns: &[Insn], maps: &[Arc<Map>]) -> Result<Arc<Program>, LinkError> {
    Program::link(&ProgramSpec::bare("p", insns.to_vec()), 1, maps, symbols()).map(Arc::new)
}

const fn map_ptr(dst: u8, index: i32) -> [Insn; 2] {
    [Insn::new(0x18, dst, BPF_PSEUDO_MAP_IDX, 0, index), Insn::new(0, 0, 0, 0, 0)]
}

const fn value_ptr(dst: u8, index: i32, offset: i32) -> [Insn; 2] {
    [Insn::new(0x18, dst, BPF_PSEUDO_MAP_IDX_VALUE, 0, index), Insn::new(0, 0, 0, 0, offset)]
}

#[test]
fn global_data_is_read_and_written_in_place() {
    let map = array(16, 0);
    let [a, b] = value_ptr(1, 0, 8);
    let counter = [a, b, ldx(BPF_DW, 0, 1, 0), add(0, 1), stx(BPF_DW, 1, 0, 0), EXIT];
    let program = link(&counter, std::slice::from_ref(&map)).unwrap();
    assert_eq!((run(&program), run(&program)), (Ok(1), Ok(2)));
    let guard = mem::epoch::pin();
    assert_eq!(map.lookup(&guard, 0, &[0; 4]).unwrap().read_u64(8), 2);
}

#[test]
fn atomics_of_two_programs_meet_in_the_same_value() {
    let map = array(8, 0);
    let [a, b] = value_ptr(1, 0, 0);
    let fetch_add = Insn::new(BPF_STX | BPF_ATOMIC | BPF_DW, 1, 0, 0, i32::from(BPF_ADD) | BPF_FETCH);
    let program = link(&[a, b, mov(0, 1), fetch_add, EXIT], &[map]).unwrap();
    let rounds = if cfg!(miri) { 10 } else { 1000 };
    let seen: Vec<u64> = std::thread::scope(|scope| {
        let work = || (0..rounds).map(|_| run(&program).unwrap()).collect::<Vec<u64>>();
        let threads = [scope.spawn(work), scope.spawn(work)];
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    let mut sorted = seen;
    sorted.sort_unstable();
    assert_eq!(sorted, (0..2 * rounds).collect::<Vec<u64>>());
}

#[test]
fn global_data_has_bounds_and_rights() {
    let [a, b] = value_ptr(1, 0, 8);
    let at = |insn| {
        run(&link(&[a, b, mov(0, 0), insn, EXIT], &[array(16, BPF_F_RDONLY_PROG)]).unwrap())
            .map_err(|f| f.to_string())
    };
    assert_eq!(at(ldx(BPF_DW, 0, 1, 0)), Ok(0));
    assert_eq!(at(ldx(BPF_DW, 0, 1, -8)), Ok(0));
    assert_eq!(
        at(ldx(BPF_DW, 0, 1, 1)).unwrap_err(),
        "insn 3: read of 8 bytes at offset 9 of a value of map 1, which has 16 bytes"
    );
    assert_eq!(at(stx(BPF_DW, 1, 0, 0)).unwrap_err(), "insn 3: write of a value of map 1 is not allowed");
}

#[test]
fn only_the_one_value_of_an_array_can_be_named() {
    let refused = |map: Arc<Map>, offset| {
        let [a, b] = value_ptr(0, 0, offset);
        let e = link(&[a, b, EXIT], &[map]).unwrap_err();
        (e.errno, e.message)
    };
    assert_eq!(
        refused(array(8, 0), 8),
        (Errno::EINVAL, "invalid access to map value pointer, value_size=8 off=8".to_owned())
    );
    assert_eq!(refused(create(MapDef::new(MapType::Array, 4, 8, 2)), 0).0, Errno::ENOTSUPP);
    let hash = create(MapDef::new(MapType::Hash, 4, 8, 1));
    assert_eq!(refused(hash, 0).1, "no direct value access support for this map type");
}

/// Programs by descriptor, for program arrays.
#[derive(Default)]
struct Files(RefCell<Vec<Arc<Program>>>);

impl Refs for Files {
    fn program(&self, fd: i32) -> Result<Arc<Program>, Errno> {
        self.0.borrow().get(fd as usize).cloned().ok_or(Errno::EBADF)
    }
}

fn set(fd: &MapFd, index: u32, program: &Arc<Program>) {
    let files = Files(RefCell::new(vec![program.clone()]));
    fd.update_with(&files, &index.to_le_bytes(), &0_u32.to_le_bytes(), 0).unwrap();
}

/// Counts in the map 1 and calls the entry `index` of the program array 0.
fn tail_caller(index: i32) -> Vec<Insn> {
    let ([m1, m2], [v1, v2]) = (map_ptr(2, 0), value_ptr(6, 1, 0));
    vec![
        v1,
        v2,
        ldx(BPF_DW, 7, 6, 0),
        add(7, 1),
        stx(BPF_DW, 6, 0, 7),
        m1,
        m2,
        mov(3, index),
        call(func::TAIL_CALL),
        mov_reg(0, 7),
        EXIT,
    ]
}

#[test]
fn a_chain_of_tail_calls_runs_34_programs() {
    let (programs, counter) = (create(MapDef::new(MapType::ProgArray, 4, 4, 4)), array(8, 0));
    let program = link(&tail_caller(1), &[programs.clone(), counter.clone()]).unwrap();
    let fd = programs.open();
    set(&fd, 1, &program);
    assert_eq!(run(&program), Ok(34));
    let guard = mem::epoch::pin();
    assert_eq!(counter.lookup(&guard, 0, &[0; 4]).unwrap().read_u64(0), 34);
}

#[test]
fn tail_calls_fall_through_where_nothing_is() {
    let programs = create(MapDef::new(MapType::ProgArray, 4, 4, 4));
    for index in [0, 3, 4, -1] {
        let program = link(&tail_caller(index), &[programs.clone(), array(8, 0)]).unwrap();
        assert_eq!(run(&program), Ok(1));
    }
    let no_array = [array(8, 0), array(8, 0)];
    let fault = run(&link(&tail_caller(0), &no_array).unwrap()).unwrap_err();
    assert!(fault.to_string().starts_with("insn 8: bpf_tail_call with a map of type"), "{fault}");
}

#[test]
fn a_tail_call_in_a_subprogram_returns_to_its_caller() {
    let programs = create(MapDef::new(MapType::ProgArray, 4, 4, 1));
    let [m1, m2] = map_ptr(2, 0);
    let target = link(&[stx(BPF_DW, 10, -8, 1), mov(0, 40), EXIT], &[]).unwrap();
    let caller = [
        mov(6, 2),
        call_local(2),
        Insn::new(BPF_ALU64 | BPF_ADD | BPF_X, 0, 6, 0, 0),
        EXIT,
        m1,
        m2,
        mov(3, 0),
        call(func::TAIL_CALL),
        mov(0, 1),
        EXIT,
    ];
    let caller = link(&caller, std::slice::from_ref(&programs)).unwrap();
    let fd = programs.open();
    assert_eq!(run(&caller), Ok(3));
    set(&fd, 0, &target);
    assert_eq!(run(&caller), Ok(42));
}

#[test]
fn an_exception_ends_in_the_program_that_a_tail_call_went_to() {
    let programs = create(MapDef::new(MapType::ProgArray, 4, 4, 1));
    let [m1, m2] = map_ptr(2, 0);
    let throw = Insn::new(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL, 0, 0);
    let mut spec = ProgramSpec::bare("t", vec![mov(1, 5), throw, EXIT]);
    spec.kfuncs = vec![KfuncRef { name: "bpf_throw".into(), btf: None, weak: false }];
    let target = Arc::new(Program::link(&spec, 2, &[], symbols()).unwrap());
    let caller =
        [call_local(2), add(0, 100), EXIT, m1, m2, mov(3, 0), call(func::TAIL_CALL), mov(0, 1), EXIT];
    let fd = programs.open();
    let caller = link(&caller, std::slice::from_ref(&programs)).unwrap();
    set(&fd, 0, &target);
    assert_eq!(run(&caller), Ok(105));
    assert_eq!(fd.update_with(&NoRefs, &[0; 4], &[0; 4], 0), Err(Errno::EBADF));
}

#[test]
fn an_unchecked_run_needs_a_proof_of_this_very_program() {
    fn enter(run: &mut Run<'_, '_>, entry: u32, _: [u64; 5]) -> Result<u64, Fault> {
        assert_eq!(entry, 0);
        let at = run.memory.packet_bounds();
        let bytes = run.read(at.data, at.end - at.data)?;
        Ok(bytes.len() as u64)
    }
    let spec = ProgramSpec::bare("p", vec![mov(0, 2), EXIT]);
    let proof = || verify(&Input::of_program(&spec, &[], "GPL", None, None), &Options::default()).unwrap();
    let other = ProgramSpec::bare("p", vec![mov(0, 1), EXIT]);
    let refused = Program::link_verified(&other, 1, &[], proof()).unwrap_err();
    assert_eq!(refused.to_string(), "p: another program has been verified");

    let proved = Arc::new(Program::link_verified(&spec, 1, &[], proof()).unwrap());
    let unproved = Arc::new(Program::link(&spec, 1, &[], symbols()).unwrap());
    let (mut redirect, mut host) = (RedirectInfo::default(), NoHost);
    let mut buff = XdpBuff::new(Frame::new(4096), 256, 64, &RXQ).unwrap();
    let guard = mem::epoch::pin();
    assert!(Run::unchecked(&unproved, &guard, &mut buff, &mut redirect, &mut host, enter).is_none());
    let run = Run::unchecked(&proved, &guard, &mut buff, &mut redirect, &mut host, enter);
    assert_eq!(run.expect("it is proved").execute(), Ok(64));
}
