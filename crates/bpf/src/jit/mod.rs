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
mod calls;
mod cfg;
mod cpu;
mod divide;
mod edges;
mod emit;
mod facts;
mod fold;
mod frame;
mod memlog;
mod node;
mod regs;
mod stacklog;
#[cfg(test)]
mod tests;
mod trace;
mod uses;

use mem::{CodeBuffer, CodePages};
use uapi::bpf::MAX_BPF_STACK;

use self::asm::{Asm, Gpr, Label};
use self::cfg::{BlockId, Cfg};
pub use self::cpu::Features;
pub use self::facts::{Class, Facts, InsnFact};
use self::frame::FunctionState;
use self::regs::{Journal, Regs};
use self::trace::Trace;
use self::uses::{Hints, Uses};
use crate::insn::Insn;

/// A program to be compiled.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Instructions, as they were loaded.
    pub insns: &'a [Insn],
    /// First instruction of each function, ascending from 0, the entry's.
    pub functions: &'a [u32],
    /// What the verifier proved.
    pub facts: Facts<'a>,
    /// Maps in the order in which instructions count them.
    pub maps: &'a [MapLink],
    /// Where the code finds things when it runs.
    pub abi: Abi,
}

/// A map, as addresses.
#[derive(Clone, Copy, Debug, Default)]
pub struct MapLink {
    /// What stands for the map itself.
    pub handle: u64,
    /// Its first value, if programs may use that address directly.
    pub value: Option<u64>,
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
    /// Address of a function that calls a helper: five arguments, the run, and on the stack the helper's
    /// number, or -1 less the position of a kernel function.
    pub call_helper: u64,
}

/// A program in machine code.
#[derive(Debug)]
pub struct Compiled {
    pages: CodePages,
    len: usize,
    functions: Vec<u32>,
}

impl Compiled {
    /// Address of the entry: takes the buff and the run, answers the verdict.
    #[must_use]
    pub fn entry(&self) -> u64 {
        self.pages.addr()
    }

    /// Address of a function of the program by its number.
    #[must_use]
    pub fn function(&self, number: usize) -> Option<u64> {
        self.functions.get(number).map(|offset| self.pages.addr() + u64::from(*offset))
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
    /// Registers that will be wanted for something else soon.
    wanted: u16,
    moves: Vec<(Gpr, Gpr)>,
    at_home: Vec<bool>,
    asm: Asm,
}

impl<'a> Compiler<'a> {
    fn new(source: &'a Source<'a>, cpu: Features, options: Options) -> Result<Self, JitError> {
        let cfg =
            Cfg::build(source.insns, source.functions, &source.facts).map_err(|b| JitError::BadJump(b.0))?;
        let mut asm = Asm::with_capacity(source.insns.len() * 5);
        let functions = cfg.functions.iter().map(|_| FunctionLabel { label: asm.label() }).collect();
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
            trace: Trace::default(),
            uses: Uses::default(),
            regs: Regs::new(0),
            journal: Journal::default(),
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
        let memory = |e: std::io::Error| JitError::Memory(e.to_string());
        let len = self.asm.max_len(&frames);
        let mut buffer = CodeBuffer::new(len, self.source.abi.call_helper).map_err(memory)?;
        let Ok(linked) = self.asm.link(&frames, buffer.addr()) else { return Ok(Err(Retry::FarCalls)) };
        let len = linked.bytes.len();
        buffer.bytes_mut()[..len].copy_from_slice(&linked.bytes);
        let functions = self.functions.iter().map(|f| linked.offset(f.label).unwrap_or(0)).collect();
        Ok(Ok(Compiled { pages: buffer.seal().map_err(memory)?, len, functions }))
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
