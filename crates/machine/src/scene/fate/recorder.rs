//! [`Recorder`]: an engine that runs programs in the checked interpreter, and looks closely at the runs over the
//! packet that is asked for.

use std::collections::VecDeque;
use std::sync::Arc;

use bpf::host::Host;
use bpf::maps::Guard;
use bpf::object::{AttachType, LineInfo};
use bpf::redirect::RedirectInfo;
use bpf::vm::{Fault, Observer, Program, Run, Scratch, Step};
use mem::XdpBuff;
use uapi::bpf::{BPF_CALL, BPF_EXIT, BPF_JMP, BPF_PSEUDO_KFUNC_CALL, HELPER_NAMES, func};
use uapi::xdp::XdpAction;
use xdp::Engine;

use super::{Call, Follower, Names, Place, ProgramRun, hex};

/// Calls of one run that are kept.
const CALLS_MAX: usize = 64;
/// Lines that are kept: those that led to the decision.
const LINES_MAX: usize = 6;
/// Bytes of keys and values that are shown.
const SHOWN: usize = 32;
/// Instructions after which a run is stopped.
const FUEL: u64 = 1 << 28;

/// One CPU's engine.
pub(in crate::scene) struct Recorder {
    follower: Arc<Follower>,
    scratch: Scratch,
}

impl Recorder {
    pub(in crate::scene) fn new(follower: Arc<Follower>) -> Self {
        Self { follower, scratch: Scratch::default() }
    }
}

impl Engine for Recorder {
    fn run(
        &mut self,
        program: &Arc<Program>,
        guard: &Guard,
        buff: &mut XdpBuff<'_>,
        redirect: &mut RedirectInfo,
        host: &mut dyn Host,
    ) -> Result<u64, Fault> {
        let (packet, ifindex, queue) = (buff.identity(), buff.rxq().ifindex, buff.rxq().queue_index);
        let (names, before) = (&self.follower.names, buff.to_vec());
        let runs = self.follower.state().runs(packet, program.id(), ifindex, names, &before);
        let Some((number, wanted)) = runs else {
            return Run::checked(program, guard, &mut self.scratch, buff, redirect, host)
                .with_fuel(FUEL)
                .execute();
        };
        let (hook, egress) = match program.attach_type() {
            AttachType::Xdp => ("device", None),
            AttachType::Devmap => ("devmap", buff.txq().map(|txq| names.device(txq.ifindex))),
            AttachType::Cpumap => ("cpumap", None),
        };
        let cpu = host.cpu();
        let mut look = Look { names, run: ProgramRun::default(), lines: VecDeque::new(), pending: None };
        let checked = Run::checked(program, guard, &mut self.scratch, buff, redirect, host).with_fuel(FUEL);
        let result = match wanted {
            true => checked.with_observer(&mut look).execute(),
            false => { checked }.execute(),
        };
        let act = result.as_ref().map_or(XdpAction::Aborted as u32, |r0| *r0 as u32);
        let run = ProgramRun {
            program: names
                .programs
                .get(&program.id())
                .map_or_else(|| program.name().to_owned(), |p| p.0.clone()),
            hook,
            device: names.device(ifindex),
            queue,
            egress,
            cpu,
            action: XdpAction::from_raw(act).map_or_else(|| format!("{act:#x}"), |a| a.name().to_owned()),
            fault: result.as_ref().err().map(ToString::to_string),
            len: (before.len(), buff.buff_len()),
            metadata: buff.meta_len(),
            decided: look.lines.back().cloned(),
            lines: look.lines.into(),
            ..look.run
        };
        self.follower.state().ran(packet, number, act, run, (ifindex, hook));
        result
    }
}

/// Looks at one run.
struct Look<'n> {
    names: &'n Names,
    run: ProgramRun,
    lines: VecDeque<Place>,
    /// The call whose answer comes with the next instruction, and the bytes of a value that it may point to.
    pending: Option<(Call, Answers)>,
}

/// What a function's answer is.
#[derive(Clone, Copy)]
enum Answers {
    Number,
    Action,
    /// A pointer to a value of so many bytes, or null.
    Value(u32),
}

impl Observer for Look<'_> {
    fn step(&mut self, run: &Run<'_, '_>, step: &Step<'_>) {
        self.run.instructions += 1;
        if let Some((mut call, answers)) = self.pending.take() {
            call.answer = answer(run, step.regs[0], answers);
            self.keep(call);
        }
        let lines = self.names.programs.get(&step.program.id()).map_or(&[][..], |p| &p.1);
        let place = place(lines, step.insn);
        if let Some(place) = &place
            && tells(&place.text)
            && self.lines.back() != Some(place)
        {
            if self.lines.len() == LINES_MAX {
                self.lines.pop_front();
            }
            self.lines.push_back(place.clone());
        }
        let Some(insn) = step.program.insns().get(step.insn as usize) else { return };
        if insn.code == BPF_JMP | BPF_CALL && (insn.src == 0 || insn.src == BPF_PSEUDO_KFUNC_CALL) {
            let kfunc = insn.src != 0;
            self.pending = Some(self.call(run, if kfunc { None } else { Some(insn.imm) }, step.regs, place));
        }
        debug_assert!(
            insn.code != BPF_JMP | BPF_EXIT || self.pending.is_none(),
            "nothing is called at the end"
        );
    }
}

impl Look<'_> {
    fn keep(&mut self, call: Call) {
        match self.run.calls.len() < CALLS_MAX {
            true => self.run.calls.push(call),
            false => self.run.calls_left_out += 1,
        }
    }

    /// A call that is about to be made; of a kernel function without a number.
    fn call(
        &self,
        run: &Run<'_, '_>,
        id: Option<i32>,
        regs: &[u64; 11],
        place: Option<Place>,
    ) -> (Call, Answers) {
        let mut call = Call { place, ..Call::default() };
        let Some(id) = id else {
            call.function = "a kernel function".to_owned();
            return (call, Answers::Number);
        };
        let name = usize::try_from(id).ok().and_then(|id| HELPER_NAMES.get(id));
        call.function = name.map_or_else(|| format!("helper {id}"), |name| format!("bpf_{name}"));
        let (map_at, key_at) = match id {
            func::MAP_LOOKUP_ELEM
            | func::MAP_UPDATE_ELEM
            | func::MAP_DELETE_ELEM
            | func::MAP_LOOKUP_PERCPU_ELEM => (Some(1), Some(2)),
            func::TAIL_CALL => (Some(2), None),
            func::REDIRECT_MAP
            | func::MAP_PUSH_ELEM
            | func::MAP_POP_ELEM
            | func::MAP_PEEK_ELEM
            | func::RINGBUF_OUTPUT
            | func::RINGBUF_RESERVE => (Some(1), None),
            func::PERF_EVENT_OUTPUT => (Some(2), None),
            _ => (None, None),
        };
        let map = map_at.and_then(|at: usize| run.map(regs[at]).ok());
        if let Some(map) = map {
            let id = map.id();
            call.map = Some(self.names.maps.get(&id).cloned().unwrap_or_else(|| format!("map {id}")));
            let key = key_at.and_then(|at: usize| run.read(regs[at], map.def().key_size.into()).ok());
            call.key = key.map(|key| shown(&key.to_vec()));
        }
        let value = map.map_or(0, |map| map.def().value_size);
        let signed = |reg: usize| format!("{}", regs[reg] as i32);
        let (arguments, answers) = match id {
            func::MAP_LOOKUP_ELEM | func::MAP_LOOKUP_PERCPU_ELEM => (String::new(), Answers::Value(value)),
            func::REDIRECT_MAP => {
                call.key = Some((regs[2] as u32).to_string());
                (format!("flags {:#x}", regs[3]), Answers::Action)
            }
            func::REDIRECT => {
                let device = self.names.device(regs[1] as u32);
                (format!("{device}, flags {:#x}", regs[2]), Answers::Action)
            }
            func::TAIL_CALL => {
                call.key = Some((regs[3] as u32).to_string());
                (String::new(), Answers::Number)
            }
            func::XDP_ADJUST_HEAD | func::XDP_ADJUST_META | func::XDP_ADJUST_TAIL => {
                (signed(2), Answers::Number)
            }
            _ => (String::new(), Answers::Number),
        };
        call.arguments = arguments;
        (call, answers)
    }
}

fn answer(run: &Run<'_, '_>, r0: u64, answers: Answers) -> String {
    match answers {
        Answers::Value(_) if r0 == 0 => "nothing".to_owned(),
        Answers::Value(len) => match run.read(r0, len.into()) {
            Ok(value) => shown(&value.to_vec()),
            Err(_) => "an object".to_owned(),
        },
        Answers::Action => {
            XdpAction::from_raw(r0 as u32).map_or_else(|| r0.to_string(), |a| a.name().to_owned())
        }
        Answers::Number => (r0 as i64).to_string(),
    }
}

/// A key or value: a number where it is one, else its bytes.
fn shown(bytes: &[u8]) -> String {
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
    match bytes.len() {
        1 | 2 | 4 | 8 => number(bytes).to_string(),
        n if n > SHOWN => format!("{}... ({n} bytes)", hex(&bytes[..SHOWN])),
        _ => hex(bytes),
    }
}

/// The line of an instruction; what the compiler gives no line belongs to the one before.
fn place(lines: &[LineInfo], insn: u32) -> Option<Place> {
    let after = lines.partition_point(|l| l.insn <= insn);
    let line = lines[..after].iter().rev().find(|l| l.line != 0)?;
    Some(Place { file: line.file.to_string(), line: line.line, text: line.text.trim().to_owned() })
}

/// Whether a line says something: the brace at the end of a function does not.
fn tells(text: &str) -> bool {
    text.chars().any(char::is_alphanumeric)
}
