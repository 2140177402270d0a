//! Compiled programs: from verified instructions to x86-64 machine code.
//!
//! [`compile`] takes instructions, what the verifier proved about them ([`Facts`]) and where things are
//! ([`Source`]), and answers code in pages that can be executed and not written. The way there:
//!
//! `cfg` splits functions into blocks and finds what is live; `trace` reads a stretch of blocks with one way in
//! as nodes, which `fold` simplifies and `memlog` gives wide memory accesses; `uses` finds from the end
//! what is needed; `emit` and its neighbours make machine code in one pass, with registers from `regs`;
//! `asm` encodes. Every step is linear in the length of the program.
//!
//! Compiled code does exactly what the interpreter does, in fewer steps: registers that nobody reads
//! have no value, stack that nobody reads is not written. It checks nothing at run time, so only the
//! verifier's word makes it safe to run.

mod access;
#[allow(dead_code, reason = "some forms wait for inlined maps and batches")]
mod asm;
mod batch;
mod calls;
mod cfg;
mod cpu;
mod divide;
mod edges;
mod emit;
mod facts;
mod fast;
mod fold;
mod frame;
mod hash;
mod inline;
mod memlog;
mod node;
mod regs;
mod stacklog;
#[cfg(test)]
mod tests;
mod trace;
mod uses;

use mem::{CodeBuffer, CodePages};
use uapi::bpf::{MAX_BPF_STACK, func};

use self::asm::{Asm, Gpr, Label};
use self::cfg::{BlockId, Cfg};
pub use self::cpu::Features;
pub use self::facts::Facts;
use self::frame::FunctionState;
use self::regs::{Journal, Regs};
use self::trace::Trace;
use self::uses::{Hints, Uses};
use crate::insn::Insn;
use crate::maps::Layout;

/// A program to be compiled.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// Instructions, as they were loaded.
    pub insns: &'a [Insn],
    /// First instruction of each function, ascending from 0, the entry's.
    pub functions: &'a [u32],
    /// First instructions of those that helpers may call back.
    pub called_back: &'a [u32],
    /// What the verifier proved.
    pub facts: Facts<'a>,
    /// Maps in the order in which instructions count them.
    pub maps: &'a [MapLink],
    /// Address of a function for the helper of a number: takes R1 to R5 and the run, answers R0.
    pub helper: &'a dyn Fn(i32) -> Option<u64>,
    /// Address of such a function for calls with this map alone, if there is a better one.
    pub of_map: &'a dyn Fn(u32, i32) -> Option<u64>,
    /// Address of the kernel function at a position of the program's list.
    pub kfunc: &'a dyn Fn(usize) -> Option<u64>,
    /// Whether answers that no program, packet or map decides come from a script, so that every call of a
    /// helper that gives such answers has to be made.
    pub scripted: bool,
    /// Whether to note which code is of which instruction.
    pub listing: bool,
    /// Where the code finds things when it runs.
    pub abi: Abi,
}

#[cfg(test)]
impl<'a> Source<'a> {
    /// One function without anything else.
    fn bare(insns: &'a [Insn]) -> Self {
        let (helper, of_map, kfunc) = (&|_| None, &|_, _| None, &|_| None);
        let abi = crate::vm::abi_in_test();
        let facts = Facts::default();
        Self {
            insns,
            functions: &[0],
            called_back: &[],
            facts,
            maps: &[],
            helper,
            of_map,
            kfunc,
            scripted: false,
            listing: false,
            abi,
        }
    }
}

/// A map, as addresses.
#[derive(Clone, Copy, Debug)]
pub struct MapLink {
    /// What stands for the map itself.
    pub handle: u64,
    /// Where its values are.
    pub layout: Layout,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Whether its slots hold maps that programs can look up.
    pub holds_maps: bool,
}

/// Offsets and addresses that compiled code uses, bytes.
#[derive(Clone, Copy, Debug)]
pub struct Abi {
    /// Of `data` in the buff.
    pub data: i32,
    /// Of `data_end` in the buff.
    pub data_end: i32,
    /// Of `data_meta` in the buff.
    pub data_meta: i32,
    /// Of the start of the frame in the buff.
    pub data_hard_start: i32,
    /// Of the flags in the buff.
    pub flags: i32,
    /// The flag for fragments, in the lowest byte.
    pub has_frags: i32,
    /// Of the pointer to the receive queue in the buff.
    pub rxq: i32,
    /// Of the pointer to the transmit queue in the buff.
    pub txq: i32,
    /// Of the device's number in the receive queue.
    pub rxq_ifindex: i32,
    /// Of the queue's number in the receive queue.
    pub rxq_queue_index: i32,
    /// Of the device's number in the transmit queue.
    pub txq_ifindex: i32,
    /// Address of a function that calls a kernel function: five arguments, the run, and on the stack the
    /// address of the kernel function.
    pub call_kfunc: u64,
    /// Address of a function that looks up in a map: the map, the address of the key; answers the address of
    /// the value (CPU 0's if every CPU has its own) or of the inner map, or 0.
    pub map_lookup: u64,
    /// Address of a function that takes a spin lock at an address.
    pub spin_lock: u64,
    /// Addresses of `bpf_dynptr_from_xdp` and `bpf_dynptr_slice`.
    pub dynptr_from_xdp: u64,
    /// See there.
    pub dynptr_slice: u64,
    /// What a dynptr's length has for the packet's kind.
    pub dynptr_of_packet: u32,
    /// Of the buff's address in the run.
    pub run_buff: i32,
    /// Of the CPU's number in the run.
    pub run_cpu: i32,
    /// Of the count of tail calls in the run.
    pub run_tail_calls: i32,
    /// Of the address of the program's `Arc` in the run.
    pub run_program: i32,
    /// Of the address of its machine code behind a program's `Arc`; 0 there if it is not compiled.
    pub program_entry: i32,
}

/// A program in machine code.
#[derive(Debug)]
pub struct Compiled {
    pages: CodePages,
    len: usize,
    /// Offset of the entry for many packets.
    batch: u32,
    /// By function: offset of where it is called back.
    callbacks: Vec<Option<u32>>,
    origins: Vec<(u32, Option<u32>)>,
}

impl Compiled {
    /// Address of the entry: takes the buff and the run, answers the verdict.
    #[must_use]
    pub fn entry(&self) -> u64 {
        self.pages.addr()
    }

    /// Address of the entry for many packets: takes the address of an array of buffs' addresses, the run, the
    /// number of buffs (not 0) and the address of an array for the verdicts; answers how many were run, which
    /// ends after one that is to be redirected.
    #[must_use]
    pub fn batch(&self) -> u64 {
        self.pages.addr() + u64::from(self.batch)
    }

    /// Address at which helpers call a function of the program back, by its number: takes R1 to R5 and the
    /// run. `None` if its address is not taken.
    #[must_use]
    pub fn callback(&self, number: usize) -> Option<u64> {
        let offset = (*self.callbacks.get(number)?)?;
        Some(self.pages.addr() + u64::from(offset))
    }

    /// From which offset of the code on it is of which instruction, ascending; `None` for code that is of no
    /// instruction by itself, as that which saves registers. Empty unless it was asked for.
    #[must_use]
    pub fn origins(&self) -> &[(u32, Option<u32>)] {
        &self.origins
    }

    /// The machine code.
    #[must_use]
    pub fn code(&self) -> &[u8] {
        &self.pages.bytes()[..self.len]
    }
}

/// A program cannot be compiled. The interpreter can run it all the same.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JitError {
    /// An instruction that the compiler has no code for.
    #[error("insn {insn}: cannot compile this {what}")]
    Unsupported {
        /// Instruction.
        insn: u32,
        /// Its kind.
        what: &'static str,
    },
    /// A jump to where no instruction is.
    #[error("insn {0}: jumps out of its function")]
    BadJump(u32),
    /// Nothing proves that the program may run without checks.
    #[error("only verified programs are compiled")]
    Unverified,
    /// There is no compiler for this processor.
    #[error("programs are not compiled on this processor")]
    NoBackend,
    /// A program array of its holds or serves programs that it cannot call: interpreted ones, or others that
    /// the kernel would not let be with it.
    #[error("map {0:?} is for programs that this one cannot tail call")]
    OtherPrograms(String),
    /// The system gives no executable memory.
    #[error("no memory for machine code: {0}")]
    Memory(String),
}

/// Compiles a program for a processor.
///
/// # Errors
///
/// What cannot be compiled, or the system's refusal.
pub fn compile(source: &Source<'_>, cpu: Features) -> Result<Compiled, JitError> {
    let mut options = Options::default();
    // Each retry gives up one shortcut for good.
    for _ in 0..3 {
        match Compiler::new(source, cpu, options)?.compile()? {
            Ok(compiled) => return Ok(compiled),
            Err(Retry::FarCalls) => options.far_calls = true,
            Err(Retry::DeepFrame) => options.no_red_zone = true,
        }
    }
    Err(JitError::Unsupported { insn: 0, what: "program" })
}

/// Shortcuts that do not work out for a program.
#[derive(Clone, Copy, Debug, Default)]
struct Options {
    far_calls: bool,
    no_red_zone: bool,
}

/// Why a program has to be compiled again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Retry {
    FarCalls,
    DeepFrame,
}

/// What is known of a block while code is made.
#[derive(Clone, Copy, Debug, Default)]
struct BlockState {
    label: Option<Label>,
    /// It is part of a trace already.
    emitted: bool,
    /// Where its registers are, in [`Compiler::entries`]; at home without.
    entry: Option<u32>,
}

/// A function, as others call it.
#[derive(Clone, Copy, Debug)]
struct FunctionLabel {
    label: Label,
    /// Where helpers call it back, if its address is taken.
    callback: Option<Label>,
}

/// A compilation.
struct Compiler<'a> {
    source: &'a Source<'a>,
    cpu: Features,
    options: Options,
    far_calls: bool,
    cfg: Cfg,
    state: Vec<BlockState>,
    entries: Vec<edges::Entry>,
    functions: Vec<FunctionLabel>,
    function: FunctionState,
    trace: Trace,
    uses: Uses,
    regs: Regs,
    journal: Journal,
    /// Whether it may go on with another program.
    tail_calls: bool,
    /// Hash tables that lookups of the code go to.
    routines: Vec<hash::Routine>,
    /// Adds bytes to a checksum.
    sum_routine: Option<Label>,
    /// A value that the flags tell about, as long as nothing was written since.
    flags_of: Option<(node::Id, (bool, usize, usize))>,
    /// Registers that will be wanted for something else soon.
    wanted: u16,
    moves: Vec<(Gpr, Gpr)>,
    at_home: Vec<bool>,
    asm: Asm,
}

impl<'a> Compiler<'a> {
    fn new(source: &'a Source<'a>, cpu: Features, options: Options) -> Result<Self, JitError> {
        let cfg = Cfg::build(source).map_err(|b| JitError::BadJump(b.0))?;
        let mut asm = Asm::with_capacity(source.insns.len() * 5);
        let functions =
            cfg.functions.iter().map(|_| FunctionLabel { label: asm.label(), callback: None }).collect();
        Ok(Self {
            source,
            cpu,
            options,
            far_calls: options.far_calls,
            state: vec![BlockState::default(); cfg.blocks.len()],
            cfg,
            entries: Vec::new(),
            functions,
            function: FunctionState::default(),
            trace: Trace::new(source.listing),
            uses: Uses::default(),
            regs: Regs::new(0),
            journal: Journal::default(),
            tail_calls: source.insns.iter().any(|x| x.is_helper_call() && x.imm == func::TAIL_CALL),
            routines: Vec::new(),
            sum_routine: None,
            flags_of: None,
            wanted: 0,
            moves: Vec::new(),
            at_home: Vec::new(),
            asm,
        })
    }

    fn compile(mut self) -> Result<Result<Compiled, Retry>, JitError> {
        let mut frames = Vec::new();
        for number in 0..self.cfg.functions.len() {
            self.begin_function(number as u32);
            self.function_body(number)?;
            match self.end_function() {
                Some(frame) => frames.push(frame),
                None => return Ok(Err(Retry::DeepFrame)),
            }
        }
        if self.source.listing {
            self.asm.switch(true);
            self.asm.mark(None);
            self.asm.switch(false);
        }
        self.callback_entries();
        self.emit_routines();
        self.fast_routines();
        let batch = self.batch_entry();
        let memory = |e: std::io::Error| JitError::Memory(e.to_string());
        let len = self.asm.max_len(&frames);
        let mut buffer = CodeBuffer::new(len, self.source.abi.call_kfunc).map_err(memory)?;
        let Ok(linked) = self.asm.link(&frames, buffer.addr()) else { return Ok(Err(Retry::FarCalls)) };
        let len = linked.bytes.len();
        buffer.bytes_mut()[..len].copy_from_slice(&linked.bytes);
        let callbacks = self.functions.iter().map(|f| linked.offset(f.callback?)).collect();
        let batch = linked.offset(batch).unwrap_or(0);
        let origins = linked.marks;
        Ok(Ok(Compiled { pages: buffer.seal().map_err(memory)?, len, batch, callbacks, origins }))
    }

    fn function_body(&mut self, number: usize) -> Result<(), JitError> {
        let function = self.cfg.functions[number];
        let label = self.functions[number].label;
        self.asm.align(4);
        self.asm.bind(label);
        self.asm.enter(number as u32);
        for b in function.first..function.end {
            let block = &self.cfg.blocks[b as usize];
            let only_returns = block.ret.is_some() && b != function.first;
            if self.state[b as usize].emitted || block.preds == 0 || only_returns {
                continue;
            }
            self.trace_from(b)?;
        }
        Ok(())
    }

    fn trace_from(&mut self, head: BlockId) -> Result<(), JitError> {
        self.build_trace(head)?;
        let mut at_home = std::mem::take(&mut self.at_home);
        at_home.clear();
        at_home.extend(self.trace.exits.iter().map(|e| self.is_at_home(e.target)));
        let hints = Hints { homes: &self.function.homes, at_home: &at_home };
        self.uses.run(&mut self.trace, self.cpu, &hints);
        self.at_home = at_home;
        if self.source.listing {
            self.asm.mark(None);
        }
        if self.cfg.blocks[head as usize].is_loop {
            self.asm.align(4);
        }
        let label = self.label_of(head);
        self.asm.bind(label);
        self.claim_inputs();
        self.emit_trace()
    }
}

const _: () = assert!(MAX_BPF_STACK == 512, "cfg counts granules of a frame of 512 bytes");
