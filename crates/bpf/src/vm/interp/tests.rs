//! What the loop does beyond single instructions, which testdata/isa covers.

mod maps;

use std::sync::Arc;

use mem::{Frame, RxqInfo, TxqInfo, XdpBuff};
use uapi::bpf::*;

use super::*;
use crate::host::{Clock, Host};
use crate::insn::Insn;
use crate::object::{AttachType, KfuncRef, ProgramSpec};
use crate::redirect::RedirectInfo;
use crate::vm::{Fault, HelperFn, LinkError, Program, RegionKind, Scratch, Symbols};

const RXQ: RxqInfo = RxqInfo { ifindex: 7, queue_index: 3, mem_type: 0, frag_size: 4096 };

struct NoHost;

impl Host for NoHost {
    fn ktime_ns(&mut self, _: Clock) -> u64 {
        0
    }

    fn prandom_u32(&mut self) -> u32 {
        0
    }
}

/// Helper 181: calls R2 back R1 times with the round and R3, and adds up what it answers.
fn sum(run: &mut Run<'_, '_>, [n, callback, cx, ..]: [u64; 5]) -> Result<u64, Fault> {
    (0..n).try_fold(0, |total: u64, i| Ok(total + run.call(callback, [i, cx, 0, 0, 0])?))
}

/// Helper 131: a reference that has to be given back with helper 132.
fn reserve(run: &mut Run<'_, '_>, _: [u64; 5]) -> Result<u64, Fault> {
    let addr = run.memory.own(RegionKind::RingbufRecord(1), &[0; 8], true)?;
    run.acquire(addr, RegionKind::RingbufRecord(1));
    Ok(addr)
}

fn submit(run: &mut Run<'_, '_>, [addr, ..]: [u64; 5]) -> Result<u64, Fault> {
    run.release(addr)?;
    run.memory.retire(addr);
    Ok(0)
}

fn symbols() -> Symbols {
    let helper = |id| -> Option<HelperFn> {
        match id {
            func::LOOP => Some(sum),
            func::RINGBUF_RESERVE => Some(reserve),
            func::RINGBUF_SUBMIT => Some(submit),
            _ => None,
        }
    };
    Symbols { helper, kfunc: |_| None }
}

fn execute_spec(spec: &ProgramSpec, fuel: u64) -> Result<u64, Fault> {
    let program = Arc::new(Program::link(spec, 1, &[], symbols()).unwrap());
    let txq = TxqInfo { ifindex: 9 };
    let mut buff = XdpBuff::new(Frame::new(4096), 256, 64, &RXQ).unwrap();
    buff.set_txq(Some(&txq));
    let (mut scratch, mut redirect) = (Scratch::new(), RedirectInfo::default());
    Run::checked(&program, &mem::epoch::pin(), &mut scratch, &mut buff, &mut redirect, &mut NoHost)
        .with_fuel(fuel)
        .execute()
}

fn execute(insns: &[Insn]) -> Result<u64, Fault> {
    execute_spec(&ProgramSpec::bare("p", insns.to_vec()), 1_000_000)
}

fn fault(insns: &[Insn]) -> String {
    execute(insns).expect_err("a fault").to_string()
}

const EXIT: Insn = Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);

const fn mov(dst: u8, imm: i32) -> Insn {
    Insn::new(BPF_ALU64 | BPF_MOV, dst, 0, 0, imm)
}

const fn mov_reg(dst: u8, src: u8) -> Insn {
    Insn::new(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0)
}

const fn add(dst: u8, imm: i32) -> Insn {
    Insn::new(BPF_ALU64 | BPF_ADD, dst, 0, 0, imm)
}

const fn ldx(size: u8, dst: u8, src: u8, off: i16) -> Insn {
    Insn::new(BPF_LDX | BPF_MEM | size, dst, src, off, 0)
}

const fn stx(size: u8, dst: u8, off: i16, src: u8) -> Insn {
    Insn::new(BPF_STX | BPF_MEM | size, dst, src, off, 0)
}

const fn call_local(distance: i32) -> Insn {
    Insn::new(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, distance)
}

const fn call(helper: i32) -> Insn {
    Insn::new(BPF_JMP | BPF_CALL, 0, 0, 0, helper)
}

const fn ja(distance: i16) -> Insn {
    Insn::new(BPF_JMP | BPF_JA, 0, 0, distance, 0)
}

/// The two slots that load the address of the function `distance` instructions after the first slot.
const fn function(dst: u8, distance: i32) -> [Insn; 2] {
    [Insn::new(0x18, dst, BPF_PSEUDO_FUNC, 0, distance), Insn::new(0, 0, 0, 0, 0)]
}

#[test]
fn the_context_gives_pointers_and_numbers() {
    let field = |off| execute(&[ldx(BPF_W, 0, 1, off), EXIT]);
    assert_eq!((field(12), field(16)), (Ok(7), Ok(3)));
    let length = [ldx(BPF_W, 2, 1, 0), ldx(BPF_W, 0, 1, 4), Insn::new(0x1f, 0, 2, 0, 0), EXIT];
    assert_eq!(execute(&length), Ok(64));
    assert_eq!(fault(&[ldx(BPF_W, 0, 1, 20), EXIT]), "insn 0: invalid bpf_context access off=20 size=4");
    assert_eq!(fault(&[ldx(BPF_DW, 0, 1, 0), EXIT]), "insn 0: invalid bpf_context access off=0 size=8");
    assert_eq!(fault(&[ldx(BPF_W, 0, 1, 2), EXIT]), "insn 0: invalid bpf_context access off=2 size=4");
    assert_eq!(fault(&[stx(BPF_W, 1, 16, 0), EXIT]), "insn 0: write of the context is not allowed");
    let sign_extended = Insn::new(BPF_LDX | BPF_MEMSX | BPF_W, 0, 1, 0, 0);
    assert!(fault(&[sign_extended, EXIT]).contains("invalid bpf_context access"));
}

#[test]
fn the_egress_device_is_seen_by_devmap_programs_alone() {
    let mut spec = ProgramSpec::bare("p", vec![ldx(BPF_W, 0, 1, 20), EXIT]);
    spec.attach_type = AttachType::Devmap;
    assert_eq!(execute_spec(&spec, 10), Ok(9));
}

#[test]
fn a_fault_names_the_instruction_the_region_and_the_bounds() {
    let read_at = |off| fault(&[ldx(BPF_W, 2, 1, 0), ldx(BPF_H, 0, 2, off), EXIT]);
    assert_eq!(read_at(63), "insn 1: read of 2 bytes at offset 63 of the packet, which has 64 bytes");
    assert_eq!(read_at(-1), "insn 1: read of 2 bytes at offset -1 of the packet, which has 64 bytes");
    let stack = fault(&[stx(BPF_DW, 10, -520, 1), EXIT]);
    assert!(
        stack.starts_with("insn 0: write of 8 bytes at offset -520 of the stack of call frame 0"),
        "{stack}"
    );
    assert!(fault(&[ldx(BPF_DW, 0, 10, 0), EXIT]).contains("offset 0 of the stack"));
    assert_eq!(
        fault(&[mov(2, 64), ldx(BPF_B, 0, 2, 0), EXIT]),
        "insn 1: read of 1 bytes at 0x40, which is no pointer"
    );
}

#[test]
fn fresh_stack_is_zero_whatever_an_earlier_call_left() {
    let program = [
        call_local(2),
        call_local(4),
        EXIT,
        // Leaves something.
        mov(0, -1),
        stx(BPF_DW, 10, -64, 0),
        EXIT,
        // Looks at it.
        ldx(BPF_DW, 0, 10, -64),
        EXIT,
    ];
    assert_eq!(execute(&program), Ok(0));
}

#[test]
fn callees_keep_nothing_but_the_result() {
    let program = [
        mov(6, 1),
        mov(1, 5),
        call_local(2),
        Insn::new(BPF_ALU64 | BPF_ADD | BPF_X, 0, 6, 0, 0),
        EXIT,
        mov(6, 100),
        mov_reg(0, 1),
        EXIT,
    ];
    assert_eq!(execute(&program), Ok(6));
}

#[test]
fn a_pointer_to_the_stack_of_a_function_that_returned_is_stale() {
    let program = [call_local(2), ldx(BPF_B, 0, 0, -8), EXIT, stx(BPF_DW, 10, -8, 10), mov_reg(0, 10), EXIT];
    assert_eq!(fault(&program), "insn 1: read through a stale pointer to the stack of call frame 1");
}

#[test]
fn nine_frames_are_too_many() {
    let recursion = [
        mov(1, 8),
        call_local(1),
        EXIT,
        Insn::new(BPF_JMP | BPF_JNE, 1, 0, 2, 0),
        mov(0, 1),
        EXIT,
        add(1, -1),
        call_local(-5),
        EXIT,
    ];
    assert_eq!(fault(&recursion), "insn 7: the call stack of 9 frames is too deep");
    let mut seven = recursion;
    seven[0] = mov(1, 6);
    assert_eq!(execute(&seven), Ok(1));
}

#[test]
fn the_stack_of_all_frames_together_is_limited() {
    let program = |deep| {
        let store = |off| stx(BPF_DW, 10, off, 1);
        [mov(1, 0), store(-256), call_local(2), mov(0, 1), EXIT, store(deep), EXIT]
    };
    assert_eq!(execute(&program(-256)), Ok(1));
    assert_eq!(fault(&program(-264)), "insn 5: combined stack size of 2 calls is 528. Too large");
}

#[test]
fn callbacks_run_in_frames_of_their_own() {
    let f = function(2, 8);
    let program = [
        Insn::new(BPF_ST | BPF_MEM | BPF_DW, 10, 0, -8, 40),
        mov(1, 3),
        f[0],
        f[1],
        mov_reg(3, 10),
        call(func::LOOP),
        ldx(BPF_DW, 1, 10, -8),
        Insn::new(BPF_ALU64 | BPF_ADD | BPF_X, 0, 1, 0, 0),
        EXIT,
        mov(0, 0),
        EXIT,
        // At 11: adds the round to the caller's cell.
        ldx(BPF_DW, 0, 2, -8),
        Insn::new(BPF_ALU64 | BPF_ADD | BPF_X, 0, 1, 0, 0),
        stx(BPF_DW, 2, -8, 0),
        mov(0, 1),
        EXIT,
    ];
    assert_eq!(execute(&program), Ok(3 + 40 + 3));
    let no_function = [mov(1, 1), mov(2, 1), call(func::LOOP), EXIT];
    assert_eq!(fault(&no_function), "insn 2: 0x1 is passed as a function, which it is not");
}

#[test]
fn an_exception_unwinds_through_callbacks_to_the_entry() {
    let f = function(2, 4);
    let throw = Insn::new(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL, 0, 0);
    let insns = vec![mov(1, 3), f[0], f[1], call(func::LOOP), mov(0, 1), EXIT, mov(1, 77), throw, EXIT];
    let mut spec = ProgramSpec::bare("p", insns);
    spec.kfuncs = vec![KfuncRef { name: "bpf_throw".into(), btf: None, weak: false }];
    assert_eq!(execute_spec(&spec, 100), Ok(77));
}

#[test]
fn what_was_acquired_must_be_released() {
    let kept = fault(&[call(func::RINGBUF_RESERVE), EXIT]);
    assert_eq!(
        kept,
        "insn 0: the program ends and has not released a record of ring buffer 1, acquired at insn 0"
    );
    let released =
        [call(func::RINGBUF_RESERVE), mov_reg(1, 0), mov_reg(6, 0), call(func::RINGBUF_SUBMIT), EXIT];
    assert_eq!(execute(&released), Ok(0));
    let mut used = released.to_vec();
    used.insert(4, ldx(BPF_B, 0, 6, 0));
    assert_eq!(fault(&used), "insn 4: read through a stale pointer to a record of ring buffer 1");
}

#[test]
fn atomics_on_the_packet_are_refused() {
    let atomic = Insn::new(BPF_STX | BPF_ATOMIC | BPF_DW, 2, 3, 0, 0);
    assert!(
        fault(&[ldx(BPF_W, 2, 1, 0), atomic, EXIT]).contains("of the packet or the context is not allowed")
    );
}

#[test]
fn fuel_ends_a_loop_and_may_goto_ends_it_by_itself() {
    let spec = ProgramSpec::bare("p", vec![ja(-1), EXIT]);
    assert_eq!(execute_spec(&spec, 1000).unwrap_err().kind, FaultKind::OutOfFuel);
    let may_goto = Insn::new(BPF_JMP | BPF_JCOND, 0, 0, 2, 0);
    let counted = vec![mov(0, 0), may_goto, add(0, 1), ja(-3), EXIT];
    assert_eq!(execute_spec(&ProgramSpec::bare("p", counted), u64::MAX), Ok(u64::from(MAX_LOOPS)));
}

#[test]
fn an_observer_sees_each_instruction_with_its_registers() {
    let spec = ProgramSpec::bare("p", vec![mov(0, 3), add(0, -1), Insn::new(0x55, 0, 0, -2, 0), EXIT]);
    let program = Arc::new(Program::link(&spec, 5, &[], symbols()).unwrap());
    let (mut scratch, mut redirect, mut host) = (Scratch::new(), RedirectInfo::default(), NoHost);
    let mut buff = XdpBuff::new(Frame::new(4096), 256, 64, &RXQ).unwrap();
    let mut profile = Profile::default();
    let guard = mem::epoch::pin();
    let run = Run::checked(&program, &guard, &mut scratch, &mut buff, &mut redirect, &mut host);
    assert_eq!(run.with_observer(&mut profile).execute(), Ok(0));
    assert_eq!(profile.counts(5), [1, 3, 3, 1]);
    assert_eq!((profile.total(), profile.counts(6)), (8, [].as_slice()));

    #[derive(Default)]
    struct Seen(Vec<(u32, u64)>);
    impl Observer for Seen {
        fn step(&mut self, run: &Run<'_, '_>, step: &Step<'_>) {
            assert_eq!(run.memory.describe(step.regs[10]), Some((RegionKind::Stack(0), 0)));
            self.0.push((step.insn, step.regs[0]));
        }
    }
    let mut seen = Seen::default();
    let guard = mem::epoch::pin();
    let run = Run::checked(&program, &guard, &mut scratch, &mut buff, &mut redirect, &mut host);
    run.with_observer(&mut seen).execute().unwrap();
    assert_eq!(seen.0[2], (2, 2));
}

#[test]
fn unaligned_accesses_give_the_same_bytes_as_aligned_ones() {
    for off in 0..8_i16 {
        for (size, bytes) in [(BPF_B, 1), (BPF_H, 2), (BPF_W, 4), (BPF_DW, 8)] {
            let value = 0x0807_0605_0403_0201_u64;
            let program = [
                ldx(BPF_W, 2, 1, 0),
                Insn::new(0x18, 3, 0, 0, value as i32),
                Insn::new(0, 0, 0, 0, (value >> 32) as i32),
                stx(size, 2, off, 3),
                ldx(size, 0, 2, off),
                EXIT,
            ];
            let expected = if bytes == 8 { value } else { value & ((1 << (bytes * 8)) - 1) };
            assert_eq!(execute(&program), Ok(expected), "{bytes} bytes at {off}");
        }
    }
}

#[test]
fn links_only_what_there_is() {
    let link = |insns: &[Insn]| {
        let spec = ProgramSpec::bare("p", insns.to_vec());
        Program::link(&spec, 1, &[], symbols()).expect_err("refused").to_string()
    };
    assert_eq!(link(&[call(999), EXIT]), "p: insn 0: invalid func unknown#999");
    assert_eq!(link(&[call(4), EXIT]), "p: insn 0: program of this type cannot use helper bpf_probe_read#4");
    let map = Insn::new(0x18, 1, BPF_PSEUDO_MAP_IDX, 0, 0);
    assert_eq!(link(&[map, Insn::default(), EXIT]), "p: insn 0: map number 0 of an object with 0 maps");
    assert_eq!(link(&[call_local(7), EXIT]), "p: insn 0: call to invalid destination insn 8");
    assert_eq!(link(&[]), "p: insn 0: a program has at least one instruction");
}
