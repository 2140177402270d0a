//! The loop.
// UNSAFETY: fetches instructions and registers without bounds checks, which `check` and `decode` have
// proved to be there: with the checks an instruction takes a quarter longer.
#![allow(unsafe_code)]

use uapi::bpf::{BPF_CMPXCHG, BPF_FETCH};

use super::op::Op::*;
use super::{Code, MAX_LOOPS, located};
use crate::vm::memory::AtomicOp;
use crate::vm::{Fault, FaultKind, Run};

/// R0 to R10; the rest makes an index of 4 bits safe.
struct Registers([u64; 16]);

impl Registers {
    #[inline(always)]
    fn get(&self, n: u8) -> u64 {
        debug_assert!(n < 16);
        // SAFETY: `decode` leaves 4 bits of each register number.
        unsafe { *self.0.get_unchecked(usize::from(n)) }
    }

    #[inline(always)]
    fn set(&mut self, n: u8, value: u64) {
        debug_assert!(n < 16);
        // SAFETY: as above.
        unsafe { *self.0.get_unchecked_mut(usize::from(n)) = value }
    }

    fn args(&self) -> [u64; 5] {
        std::array::from_fn(|i| self.0[i + 1])
    }

    fn all(&self) -> &[u64; 11] {
        self.0.first_chunk().expect("16 are more than 11")
    }
}

/// Calls the function that starts at `entry` and answers R0. `main` says that it is a program's entry,
/// where exceptions end.
pub(super) fn function<const OBSERVED: bool>(
    run: &mut Run<'_, '_>,
    entry: u32,
    args: [u64; 5],
    main: bool,
) -> Result<u64, Fault> {
    let outer = run.memory.frames();
    let program = run.program;
    let mut r = Registers([0; 16]);
    r.0[1..6].copy_from_slice(&args);
    r.set(10, run.memory.push_frame()?);
    let mut main = main;
    let mut result = body::<OBSERVED>(run, &mut r, entry, &mut main);
    run.program = program;
    if let Err(Fault { kind: FaultKind::Thrown(cookie), .. }) = result
        && main
    {
        result = Ok(cookie);
    }
    if result.is_ok() {
        run.memory.unwind_frames(outer);
    }
    result
}

/// Runs instructions until the function returns. A tail call makes it a program's entry.
fn body<const OBSERVED: bool>(
    run: &mut Run<'_, '_>,
    r: &mut Registers,
    entry: u32,
    main: &mut bool,
) -> Result<u64, Fault> {
    let mut code = run.program.code();
    let mut ip = at(code, entry);
    let mut loops = MAX_LOOPS;
    let fault = loop {
        debug_assert!(code.as_ptr_range().contains(&ip), "the structural checks keep jumps inside");
        // SAFETY: `check::check` has proved that every jump and call goes to an instruction of the program,
        // and that no function ends in one that goes on to the next.
        let ins = unsafe { &*ip };
        if OBSERVED {
            run.observe(index(code, ip), r.all());
        }
        // SAFETY: at most one past the end of the code.
        ip = unsafe { ip.add(1) };
        let (d, k, a, b) = (ins.dst, ins.imm as u64, r.get(ins.dst), r.get(ins.src));
        let (a32, b32, k32) = (a as u32, b as u32, k as u32);

        macro_rules! alu64 {
            ($value:expr) => {
                r.set(d, $value)
            };
        }
        macro_rules! alu32 {
            ($value:expr) => {
                r.set(d, u64::from($value))
            };
        }
        macro_rules! jump {
            ($taken:expr) => {
                if $taken {
                    if ins.off < 0
                        && let Err(fault) = run.charge(ins.off.unsigned_abs())
                    {
                        break fault;
                    }
                    // SAFETY: to an instruction of the program, as has been checked.
                    ip = unsafe { ip.offset(ins.off as isize) };
                }
            };
        }
        // The address of a load, and that of a store.
        macro_rules! from {
            () => {
                b.wrapping_add(ins.off as i64 as u64)
            };
        }
        macro_rules! to {
            () => {
                a.wrapping_add(ins.off as i64 as u64)
            };
        }
        macro_rules! check {
            ($result:expr) => {
                match $result {
                    Ok(value) => value,
                    Err(fault) => break fault,
                }
            };
        }

        match ins.op {
            Add64K => alu64!(a.wrapping_add(k)),
            Add32K => alu32!(a32.wrapping_add(k32)),
            Add64X => alu64!(a.wrapping_add(b)),
            Add32X => alu32!(a32.wrapping_add(b32)),
            Sub64K => alu64!(a.wrapping_sub(k)),
            Sub32K => alu32!(a32.wrapping_sub(k32)),
            Sub64X => alu64!(a.wrapping_sub(b)),
            Sub32X => alu32!(a32.wrapping_sub(b32)),
            Mul64K => alu64!(a.wrapping_mul(k)),
            Mul32K => alu32!(a32.wrapping_mul(k32)),
            Mul64X => alu64!(a.wrapping_mul(b)),
            Mul32X => alu32!(a32.wrapping_mul(b32)),
            Div64K => alu64!(a.checked_div(k).unwrap_or(0)),
            Div32K => alu32!(a32.checked_div(k32).unwrap_or(0)),
            Div64X => alu64!(a.checked_div(b).unwrap_or(0)),
            Div32X => alu32!(a32.checked_div(b32).unwrap_or(0)),
            Mod64K => alu64!(a.checked_rem(k).unwrap_or(a)),
            Mod32K => alu32!(a32.checked_rem(k32).unwrap_or(a32)),
            Mod64X => alu64!(a.checked_rem(b).unwrap_or(a)),
            Mod32X => alu32!(a32.checked_rem(b32).unwrap_or(a32)),
            Sdiv64K => alu64!(sdiv64(a, k)),
            Sdiv32K => alu32!(sdiv32(a32, k32)),
            Sdiv64X => alu64!(sdiv64(a, b)),
            Sdiv32X => alu32!(sdiv32(a32, b32)),
            Smod64K => alu64!(smod64(a, k)),
            Smod32K => alu32!(smod32(a32, k32)),
            Smod64X => alu64!(smod64(a, b)),
            Smod32X => alu32!(smod32(a32, b32)),
            Or64K => alu64!(a | k),
            Or32K => alu32!(a32 | k32),
            Or64X => alu64!(a | b),
            Or32X => alu32!(a32 | b32),
            And64K => alu64!(a & k),
            And32K => alu32!(a32 & k32),
            And64X => alu64!(a & b),
            And32X => alu32!(a32 & b32),
            Xor64K => alu64!(a ^ k),
            Xor32K => alu32!(a32 ^ k32),
            Xor64X => alu64!(a ^ b),
            Xor32X => alu32!(a32 ^ b32),
            Lsh64K => alu64!(a.wrapping_shl(k as u32)),
            Lsh32K => alu32!(a32.wrapping_shl(k32)),
            Lsh64X => alu64!(a.wrapping_shl(b as u32)),
            Lsh32X => alu32!(a32.wrapping_shl(b32)),
            Rsh64K => alu64!(a.wrapping_shr(k as u32)),
            Rsh32K => alu32!(a32.wrapping_shr(k32)),
            Rsh64X => alu64!(a.wrapping_shr(b as u32)),
            Rsh32X => alu32!(a32.wrapping_shr(b32)),
            Arsh64K => alu64!((a as i64).wrapping_shr(k as u32) as u64),
            Arsh32K => alu32!((a32 as i32).wrapping_shr(k32) as u32),
            Arsh64X => alu64!((a as i64).wrapping_shr(b as u32) as u64),
            Arsh32X => alu32!((a32 as i32).wrapping_shr(b32) as u32),
            Mov64K => alu64!(k),
            Mov32K => alu32!(k32),
            Mov64X => alu64!(b),
            Mov32X => alu32!(b32),
            Movs8To64 => alu64!(b as i8 as u64),
            Movs16To64 => alu64!(b as i16 as u64),
            Movs32To64 => alu64!(b as i32 as u64),
            Movs8To32 => alu32!(b as i8 as u32),
            Movs16To32 => alu32!(b as i16 as u32),
            Neg64 => alu64!(a.wrapping_neg()),
            Neg32 => alu32!(a32.wrapping_neg()),
            Le16 => alu64!(u64::from(a as u16)),
            Le32 => alu32!(a32),
            Le64 => {}
            Be16 | Bswap16 => alu64!(u64::from((a as u16).swap_bytes())),
            Be32 | Bswap32 => alu32!(a32.swap_bytes()),
            Be64 | Bswap64 => alu64!(a.swap_bytes()),

            Jeq64K => jump!(a == k),
            Jeq64X => jump!(a == b),
            Jeq32K => jump!(a32 == k32),
            Jeq32X => jump!(a32 == b32),
            Jne64K => jump!(a != k),
            Jne64X => jump!(a != b),
            Jne32K => jump!(a32 != k32),
            Jne32X => jump!(a32 != b32),
            Jgt64K => jump!(a > k),
            Jgt64X => jump!(a > b),
            Jgt32K => jump!(a32 > k32),
            Jgt32X => jump!(a32 > b32),
            Jge64K => jump!(a >= k),
            Jge64X => jump!(a >= b),
            Jge32K => jump!(a32 >= k32),
            Jge32X => jump!(a32 >= b32),
            Jlt64K => jump!(a < k),
            Jlt64X => jump!(a < b),
            Jlt32K => jump!(a32 < k32),
            Jlt32X => jump!(a32 < b32),
            Jle64K => jump!(a <= k),
            Jle64X => jump!(a <= b),
            Jle32K => jump!(a32 <= k32),
            Jle32X => jump!(a32 <= b32),
            Jsgt64K => jump!((a as i64) > (k as i64)),
            Jsgt64X => jump!((a as i64) > (b as i64)),
            Jsgt32K => jump!((a32 as i32) > (k32 as i32)),
            Jsgt32X => jump!((a32 as i32) > (b32 as i32)),
            Jsge64K => jump!((a as i64) >= (k as i64)),
            Jsge64X => jump!((a as i64) >= (b as i64)),
            Jsge32K => jump!((a32 as i32) >= (k32 as i32)),
            Jsge32X => jump!((a32 as i32) >= (b32 as i32)),
            Jslt64K => jump!((a as i64) < (k as i64)),
            Jslt64X => jump!((a as i64) < (b as i64)),
            Jslt32K => jump!((a32 as i32) < (k32 as i32)),
            Jslt32X => jump!((a32 as i32) < (b32 as i32)),
            Jsle64K => jump!((a as i64) <= (k as i64)),
            Jsle64X => jump!((a as i64) <= (b as i64)),
            Jsle32K => jump!((a32 as i32) <= (k32 as i32)),
            Jsle32X => jump!((a32 as i32) <= (b32 as i32)),
            Jset64K => jump!(a & k != 0),
            Jset64X => jump!(a & b != 0),
            Jset32K => jump!(a32 & k32 != 0),
            Jset32X => jump!(a32 & b32 != 0),
            Ja => jump!(true),
            MayGoto => match loops.checked_sub(1) {
                Some(left) => loops = left,
                None => jump!(true),
            },

            Ldx8 => alu64!(check!(run.memory.load::<1>(from!(), false))),
            Ldx16 => alu64!(check!(run.memory.load::<2>(from!(), false))),
            Ldx32 => alu64!(check!(run.memory.load::<4>(from!(), false))),
            Ldx64 => alu64!(check!(run.memory.load::<8>(from!(), false))),
            Ldxs8 => alu64!(check!(run.memory.load::<1>(from!(), true)) as i8 as u64),
            Ldxs16 => alu64!(check!(run.memory.load::<2>(from!(), true)) as i16 as u64),
            Ldxs32 => alu64!(check!(run.memory.load::<4>(from!(), true)) as i32 as u64),
            Stx8 => check!(run.memory.store::<1>(to!(), b)),
            Stx16 => check!(run.memory.store::<2>(to!(), b)),
            Stx32 => check!(run.memory.store::<4>(to!(), b)),
            Stx64 => check!(run.memory.store::<8>(to!(), b)),
            St8 => check!(run.memory.store::<1>(to!(), k)),
            St16 => check!(run.memory.store::<2>(to!(), k)),
            St32 => check!(run.memory.store::<4>(to!(), k)),
            St64 => check!(run.memory.store::<8>(to!(), k)),
            Atomic32 | Atomic64 => {
                let atomic = AtomicOp { op: ins.imm as i32, operand: b, expected: r.get(0) };
                let old = if ins.op == Atomic32 {
                    run.memory.atomic32(to!(), atomic)
                } else {
                    run.memory.atomic64(to!(), atomic)
                };
                let old = check!(old);
                if atomic.op == BPF_CMPXCHG {
                    r.set(0, old);
                } else if atomic.op & BPF_FETCH != 0 {
                    r.set(ins.src, old);
                }
            }
            LoadAcquire => alu64!(check!(run.memory.load_acquire(from!(), u64::from(ins.size)))),
            StoreRelease => check!(run.memory.store_release(to!(), u64::from(ins.size), b)),

            Probe => alu64!(run.memory.probe_load(from!(), u64::from(ins.size), ins.imm != 0)),

            LoadImm64 => {
                alu64!(k);
                // SAFETY: over the second slot, which is not the last of the program.
                ip = unsafe { ip.add(1) };
            }
            LoadMap => {
                alu64!(check!(run.load_map(ins.imm as usize)));
                // SAFETY: as above.
                ip = unsafe { ip.add(1) };
            }
            LoadMapValue => {
                alu64!(check!(run.load_map_value(ins.off as usize)).wrapping_add(k));
                // SAFETY: as above.
                ip = unsafe { ip.add(1) };
            }

            Call => {
                check!(run.charge(1));
                let result = function::<OBSERVED>(run, ins.off as u32, r.args(), false);
                r.set(0, check!(result));
            }
            Helper => {
                run.insn = index(code, ip) - 1;
                let helper =
                    run.program.helper(ins.imm as i32).expect("resolved when the program was linked");
                r.set(0, check!(helper(run, r.args())));
            }
            Kfunc => {
                run.insn = index(code, ip) - 1;
                match run.program.kfunc(ins.imm as usize) {
                    Some(kfunc) => r.set(0, check!(kfunc(run, r.args()))),
                    None => break Fault::illegal("call of a weak kernel function that is absent"),
                }
            }
            TailCall => {
                run.insn = index(code, ip) - 1;
                check!(run.charge(1));
                if let Some(fp) = check!(run.tail_call(r.get(1), r.get(2), r.get(3))) {
                    r.set(10, fp);
                    code = run.program.code();
                    (ip, loops, *main) = (at(code, 0), MAX_LOOPS, true);
                }
            }
            Throw => break FaultKind::Thrown(r.get(1)).into(),
            Exit => return Ok(r.get(0)),
            Unreachable => unreachable!("no jump goes to the middle of an instruction"),
        }
    };
    Err(located(fault, index(code, ip) - 1))
}

/// The instruction of a number.
fn at(code: &[Code], insn: u32) -> *const Code {
    &raw const code[insn as usize]
}

/// The number of an instruction.
fn index(code: &[Code], ip: *const Code) -> u32 {
    ((ip.addr() - code.as_ptr().addr()) / size_of::<Code>()) as u32
}

fn sdiv64(a: u64, b: u64) -> u64 {
    if b == 0 { 0 } else { (a as i64).wrapping_div(b as i64) as u64 }
}

fn sdiv32(a: u32, b: u32) -> u32 {
    if b == 0 { 0 } else { (a as i32).wrapping_div(b as i32) as u32 }
}

fn smod64(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { (a as i64).wrapping_rem(b as i64) as u64 }
}

fn smod32(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { (a as i32).wrapping_rem(b as i32) as u32 }
}
