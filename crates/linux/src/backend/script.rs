//! [`Script`]: recorded answers in the place of clocks, random numbers and SYN cookies.
//!
//! A call of a scripted helper becomes a bpf2bpf call of a subprogram that is appended to the program, one
//! per helper. It takes the next answer from a hidden array map which this process writes through a
//! mapping. If the script has ended or names another helper, the subprogram counts that, calls the helper
//! after all and records its answer in the script's place; so a program behaves as ever without a script,
//! and a run can be repeated. No instruction moves. Timers would run by the kernel's own clock, so they are
//! started for a time that never comes.
//!
//! Layout of the map's only value: `cursor`, `len`, `missed` (64 bits each), then 16 bytes per answer:
//! helper, value.

use std::os::fd::{AsFd, AsRawFd};

use bpf::Insn;
use control::{LoadError, SCRIPTED_HELPERS, ScriptedCall};
use uapi::bpf::*;
use uapi::bpf_attr;

use crate::sys::{Map, MapArgs, Mapping, Protection, page_size, possible_cpus};

use super::btf::KernelBtf;
use super::program::Body;
use super::refusal;

/// Answers that a script can hold.
pub(super) const SCRIPT_MAX: usize = 4096;

const CURSOR: usize = 0;
const LEN: usize = 8;
const MISSED: usize = 16;
const ENTRIES: usize = 24;
const ENTRY: usize = 16;

/// The hidden map and its mapping.
#[derive(Debug)]
pub(super) struct Script {
    map: Map,
    memory: Mapping,
}

impl Script {
    pub(super) fn new() -> Result<Self, LoadError> {
        let size = ENTRIES + ENTRY * SCRIPT_MAX;
        let args = MapArgs {
            map_type: MapType::Array as u32,
            key_size: 4,
            value_size: size as u32,
            max_entries: 1,
            map_flags: BPF_F_MMAPABLE,
            name: "script",
            ..MapArgs::default()
        };
        let map = Map::create(&args).map_err(refusal::unavailable)?;
        let len = size.next_multiple_of(page_size());
        let memory =
            Mapping::new(map.as_fd(), 0, len, Protection::ReadWrite).map_err(refusal::unavailable)?;
        Ok(Self { map, memory })
    }

    /// Puts in the answers for the next run. Those that do not fit are left out, and so are missed.
    pub(super) fn arm(&self, script: &[ScriptedCall]) {
        let script = &script[..script.len().min(SCRIPT_MAX)];
        for (i, call) in script.iter().enumerate() {
            let at = ENTRIES + i * ENTRY;
            self.memory.store_release_u64(at, call.helper as u64);
            self.memory.store_release_u64(at + 8, call.value);
        }
        for (at, value) in [(CURSOR, 0), (LEN, script.len() as u64), (MISSED, 0)] {
            self.memory.store_release_u64(at, value);
        }
    }

    /// The answers that the last run was given, and how many of them were not from the script.
    pub(super) fn outcome(&self) -> (Vec<ScriptedCall>, u64) {
        let used = self.memory.load_acquire_u64(CURSOR).min(SCRIPT_MAX as u64) as usize;
        let call = |i: usize| {
            let at = ENTRIES + i * ENTRY;
            let helper = self.memory.load_acquire_u64(at) as i32;
            ScriptedCall { helper, value: self.memory.load_acquire_u64(at + 8) }
        };
        ((0..used).map(call).collect(), self.memory.load_acquire_u64(MISSED))
    }

    /// Redirects the calls of scripted helpers; whether there were any.
    pub(super) fn rewrite(&self, body: &mut Body, btf: Option<&KernelBtf>) -> bool {
        let mut any = false;
        for helper in replaced_helpers() {
            let start = body.insns.len();
            let calls: Vec<usize> = calls_of(&body.insns, helper).collect();
            if calls.is_empty() {
                continue;
            }
            any = true;
            for at in calls {
                let distance = (start - at - 1) as i32;
                body.insns[at] = Insn::new(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, distance);
            }
            let code = if helper == func::TIMER_START { sleeping_timer() } else { self.stand_in(helper) };
            body.insns.extend(code);
            if let Some(type_id) =
                btf.and_then(|b| b.script_func(helper)).filter(|_| !body.func_info.is_empty())
            {
                body.func_info.push(bpf_attr::FuncInfo { insn_off: start as u32, type_id: type_id.0 });
            }
            if !body.line_info.is_empty() {
                body.line_info.push(bpf_attr::LineInfo { insn_off: start as u32, ..Default::default() });
            }
        }
        any
    }

    /// The subprogram that stands for a helper. It leaves r1 to r5 alone for the helper, and has no stack.
    fn stand_in(&self, helper: i32) -> Vec<Insn> {
        const LDX: u8 = BPF_LDX | BPF_MEM | BPF_DW;
        const STX: u8 = BPF_STX | BPF_MEM | BPF_DW;
        const ALU: u8 = BPF_ALU64;
        let (value, cursor, temp, entry) = (6, 7, 8, 9);
        let mut code = vec![
            Insn::new(
                BPF_LD | BPF_IMM | BPF_DW,
                value,
                BPF_PSEUDO_MAP_VALUE,
                0,
                self.map.as_fd().as_raw_fd(),
            ),
            Insn::default(),
            Insn::new(LDX, cursor, value, CURSOR as i16, 0),
            Insn::new(LDX, 0, value, LEN as i16, 0),
        ];
        // Every jump to the miss is patched below, when it is known where that lies.
        let mut misses = Vec::new();
        let mut miss_if = |code: &mut Vec<Insn>, insn: Insn| {
            misses.push(code.len());
            code.push(insn);
        };
        miss_if(&mut code, Insn::new(BPF_JMP | BPF_JGE | BPF_X, cursor, 0, 0, 0));
        miss_if(&mut code, Insn::new(BPF_JMP | BPF_JGT | BPF_K, cursor, 0, 0, SCRIPT_MAX as i32 - 1));
        code.extend([
            Insn::new(ALU | BPF_MOV | BPF_X, temp, cursor, 0, 0),
            Insn::new(ALU | BPF_LSH | BPF_K, temp, 0, 0, ENTRY.trailing_zeros() as i32),
            Insn::new(ALU | BPF_MOV | BPF_X, entry, value, 0, 0),
            Insn::new(ALU | BPF_ADD | BPF_X, entry, temp, 0, 0),
            Insn::new(LDX, 0, entry, ENTRIES as i16, 0),
        ]);
        miss_if(&mut code, Insn::new(BPF_JMP | BPF_JNE | BPF_K, 0, 0, 0, helper));
        code.push(Insn::new(LDX, 0, entry, ENTRIES as i16 + 8, 0));
        if helper == func::GET_SMP_PROCESSOR_ID {
            // The verifier knows the helper's range, and programs index with it.
            miss_if(&mut code, Insn::new(BPF_JMP | BPF_JGT | BPF_K, 0, 0, 0, possible_cpus() as i32 - 1));
        }
        code.extend([
            Insn::new(ALU | BPF_ADD | BPF_K, cursor, 0, 0, 1),
            Insn::new(STX, value, cursor, CURSOR as i16, 0),
            Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
        ]);
        let miss = code.len();
        for at in misses {
            code[at].off = (miss - at - 1) as i16;
        }
        code.extend([
            Insn::new(LDX, temp, value, MISSED as i16, 0),
            Insn::new(ALU | BPF_ADD | BPF_K, temp, 0, 0, 1),
            Insn::new(STX, value, temp, MISSED as i16, 0),
            Insn::new(BPF_JMP | BPF_CALL, 0, 0, 0, helper),
        ]);
        // What the kernel answers by itself is recorded, and ends the script.
        code.extend([
            Insn::new(BPF_JMP | BPF_JGT | BPF_K, cursor, 0, 9, SCRIPT_MAX as i32 - 1),
            Insn::new(ALU | BPF_MOV | BPF_X, temp, cursor, 0, 0),
            Insn::new(ALU | BPF_LSH | BPF_K, temp, 0, 0, ENTRY.trailing_zeros() as i32),
            Insn::new(ALU | BPF_MOV | BPF_X, entry, value, 0, 0),
            Insn::new(ALU | BPF_ADD | BPF_X, entry, temp, 0, 0),
            Insn::new(BPF_ST | BPF_MEM | BPF_DW, entry, 0, ENTRIES as i16, helper),
            Insn::new(STX, entry, 0, ENTRIES as i16 + 8, 0),
            Insn::new(ALU | BPF_ADD | BPF_K, cursor, 0, 0, 1),
            Insn::new(STX, value, cursor, CURSOR as i16, 0),
            Insn::new(STX, value, cursor, LEN as i16, 0),
            Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
        ]);
        code
    }
}

/// Helpers whose calls become calls of subprograms: those that are scripted, and the one that would let
/// timers run by the kernel's own clock.
pub(super) fn replaced_helpers() -> impl Iterator<Item = i32> {
    SCRIPTED_HELPERS.iter().copied().chain([func::TIMER_START])
}

/// Starts the timer in r1 for a time that never comes, with the flags in r3.
fn sleeping_timer() -> Vec<Insn> {
    vec![
        Insn::new(BPF_LD | BPF_IMM | BPF_DW, 2, 0, 0, 0),
        Insn::new(0, 0, 0, 0, 1 << 30),
        Insn::new(BPF_JMP | BPF_CALL, 0, 0, 0, func::TIMER_START),
        Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
    ]
}

/// Where a helper is called. The second half of a 64-bit immediate is no instruction.
fn calls_of(insns: &[Insn], helper: i32) -> impl Iterator<Item = usize> {
    let is_call = move |i: usize| insns[i].is_helper_call() && insns[i].imm == helper;
    let is_second_half = |i: usize| i > 0 && insns[i - 1].is_ld_imm64();
    (0..insns.len()).filter(move |&i| is_call(i) && !is_second_half(i))
}
