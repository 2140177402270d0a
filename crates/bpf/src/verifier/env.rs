//! What a verification works with: the program, its maps, marks per instruction, states, the log.
//!
//! [`Env`] is the one mutable thing; the other modules add the rules as methods.

use std::fmt;

use uapi::Errno;

use super::cfg::Succ;
use super::input::{Input, MapDef, Options};
use super::kfuncs::Kfunc;
use super::liveness::Liveness;
use super::record::Record;
use super::reg::{BtfRef, Reg};
use super::regs::Regs;
use super::scc::SccVisit;
use super::state::{Frame, State, StateId};
use super::types::RegType;
use crate::btf::{Btf, TypeId};
use crate::insn::Insn;

/// Outcome of a check; what was wrong has been written to [`Env::message`].
pub(crate) type Res<T = ()> = Result<T, Errno>;

/// What a wide load names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Pseudo {
    #[default]
    None,
    Map(u32),
    MapValue {
        map: u32,
        off: u32,
    },
    /// An address that the loader fills in.
    Address,
    /// A kernel variable or type: what the register becomes.
    Ksym {
        ty: RegType,
        id: u32,
        mem_size: u32,
    },
}

/// Constant key of a map access, over all paths.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum KeyState {
    #[default]
    Unseen,
    Const(u64),
    Poisoned,
}

/// The map of a helper call, over all paths.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum MapState {
    #[default]
    Unseen,
    One(u32),
    Many,
}

/// Marks of one instruction.
#[derive(Clone, Debug)]
pub(crate) struct Aux {
    pub(crate) jmp_point: bool,
    pub(crate) prune_point: bool,
    pub(crate) force_checkpoint: bool,
    pub(crate) calls_callback: bool,
    pub(crate) is_iter_next: bool,
    pub(crate) fastcall_pattern: bool,
    /// Registers fastcall patterns around this call spill and fill.
    pub(crate) fastcall_spills: u8,
    pub(crate) seen: bool,
    /// Which ways a conditional jump went on some path: 1 fall through, 2 jump.
    pub(crate) branch_taken: u8,
    pub(crate) scc: u32,
    pub(crate) live_regs_before: u16,
    /// Kind of the pointer that the instruction goes through, over all paths.
    pub(crate) ptr_type: RegType,
    /// On some path that pointer may lead nowhere.
    pub(crate) untrusted: bool,
    pub(crate) pseudo: Pseudo,
    pub(crate) map: MapState,
    pub(crate) map_key: KeyState,
    /// A further access fact: map of a load or store through a map value.
    pub(crate) access_map: MapState,
    /// Bytes that fastcall makes unnecessary, callback of `bpf_loop` where it is the same on all paths.
    pub(crate) loop_callback: LoopState,
    /// Frame distance and offset of a stack access, where the same on all paths.
    pub(crate) non_null: Option<bool>,
}

/// What is known of a `bpf_loop` call over all paths.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum LoopState {
    #[default]
    Unseen,
    One(u32),
    Many,
}

impl Default for Aux {
    fn default() -> Self {
        Self {
            jmp_point: false,
            prune_point: false,
            force_checkpoint: false,
            calls_callback: false,
            is_iter_next: false,
            fastcall_pattern: false,
            fastcall_spills: 0,
            seen: false,
            branch_taken: 0,
            scc: 0,
            live_regs_before: 0,
            ptr_type: RegType::NOT_INIT,
            untrusted: false,
            pseudo: Pseudo::None,
            map: MapState::Unseen,
            map_key: KeyState::Unseen,
            access_map: MapState::Unseen,
            loop_callback: LoopState::Unseen,
            non_null: None,
        }
    }
}

/// An argument of a global function, as its BTF declares it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SubArg {
    pub(crate) ty: super::types::ArgType,
    /// Size of the memory or id of the kernel type.
    pub(crate) extra: u32,
}

/// One function of the program.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subprog {
    pub(crate) start: u32,
    pub(crate) name: String,
    pub(crate) btf: Option<TypeId>,
    pub(crate) is_global: bool,
    pub(crate) postorder_start: usize,
    pub(crate) stack_depth: u32,
    pub(crate) fastcall_stack_off: i32,
    pub(crate) keep_fastcall_stack: bool,
    pub(crate) has_tail_call: bool,
    pub(crate) tail_call_reachable: bool,
    pub(crate) has_ld_abs: bool,
    pub(crate) is_cb: bool,
    pub(crate) is_async_cb: bool,
    pub(crate) is_exception_cb: bool,
    pub(crate) changes_pkt_data: bool,
    pub(crate) might_sleep: bool,
    /// Global functions: somebody calls it, so it has to be verified.
    pub(crate) called: bool,
    pub(crate) verified: bool,
    pub(crate) args: Option<Vec<SubArg>>,
}

/// Index of the function that an instruction belongs to. The last entry of `subprogs` is the end.
pub(crate) fn containing(subprogs: &[Subprog], insn: u32) -> usize {
    subprogs.partition_point(|s| s.start <= insn).saturating_sub(1)
}

/// A map with what the verifier derives from its types.
pub(crate) struct MapInfo<'a> {
    pub(crate) def: &'a MapDef,
    pub(crate) record: Option<Record>,
    /// Position of the template of inner maps.
    pub(crate) inner: Option<u32>,
}

/// A path that is still to be explored.
pub(crate) struct Pending {
    pub(crate) state: State,
    pub(crate) insn_idx: u32,
    pub(crate) prev_insn_idx: u32,
    pub(crate) log_pos: usize,
    pub(crate) history_pos: usize,
}

/// A state remembered at a prune point.
pub(crate) struct Explored {
    pub(crate) state: State,
    pub(crate) hit_cnt: u32,
    pub(crate) miss_cnt: u32,
    pub(crate) in_free_list: bool,
}

/// A verification in progress.
pub(crate) struct Env<'a> {
    pub(crate) input: &'a Input<'a>,
    pub(crate) opts: &'a Options,
    pub(crate) insns: Vec<Insn>,
    pub(crate) aux: Vec<Aux>,
    pub(crate) succ: Vec<Succ>,
    pub(crate) postorder: Vec<u32>,
    /// Functions; the last entry marks the end of the program.
    pub(crate) subprogs: Vec<Subprog>,
    pub(crate) subprog_cnt: usize,
    pub(crate) has_func_info: bool,
    /// The first use of a field of the kernel's that is not here, and why.
    pub(crate) unserved: Option<(u32, String)>,
    pub(crate) exception_cb: usize,
    pub(crate) seen_exception: bool,
    pub(crate) maps: Vec<MapInfo<'a>>,
    pub(crate) kfuncs: Vec<std::rc::Rc<Kfunc>>,
    pub(crate) strict_alignment: bool,

    pub(crate) insn_idx: u32,
    pub(crate) prev_insn_idx: i32,
    pub(crate) cur: State,
    /// Whether the last entry of the current history belongs to the running instruction.
    pub(crate) hist_open: bool,
    pub(crate) pending: Vec<Pending>,
    pub(crate) states: Vec<Option<Box<Explored>>>,
    pub(crate) free_ids: Vec<StateId>,
    /// Remembered states by (instruction ^ call site) modulo the program's length, latest last.
    pub(crate) explored: Vec<Vec<StateId>>,
    pub(crate) spare: Vec<State>,
    pub(crate) scc_visits: Vec<Vec<SccVisit>>,
    pub(crate) live: Liveness,
    pub(crate) idmap: super::prune::IdMap,
    pub(crate) bt: super::precision::Backtrack,

    pub(crate) id_gen: u32,
    pub(crate) insn_processed: u32,
    pub(crate) prev_insn_processed: u32,
    pub(crate) jmps_processed: u32,
    pub(crate) prev_jmps_processed: u32,
    pub(crate) max_states_per_insn: u32,
    pub(crate) total_states: u32,
    pub(crate) peak_states: u32,
    pub(crate) explored_size: u32,
    pub(crate) free_list_size: u32,
    pub(crate) num_backedges: u32,

    /// Everything written for the user, as far as the log level wants it.
    pub(crate) log: String,
    /// What the rules said since the current instruction began.
    pub(crate) message: String,
    pub(crate) scratched_regs: u32,
    pub(crate) scratched_slots: u64,
    pub(crate) prev_log_pos: usize,
    pub(crate) prev_insn_print_pos: usize,
    pub(crate) prev_line: Option<usize>,
    pub(crate) claims: Option<super::claims::Claims>,
    /// The current path, where a rejection is to be explained.
    pub(crate) history: Option<Box<super::explain::history::History>>,
}

impl<'a> Env<'a> {
    pub(super) fn level1(&self) -> bool {
        self.opts.log_level & 3 != 0
    }

    pub(super) fn level2(&self) -> bool {
        self.opts.log_level & 2 != 0
    }

    /// Writes to the log only.
    pub(super) fn log(&mut self, text: fmt::Arguments<'_>) {
        if self.level1() {
            let _ = fmt::Write::write_fmt(&mut self.log, text);
        }
    }

    /// Writes what a rule has to say, to the log and to the message of a rejection.
    pub(super) fn say(&mut self, text: fmt::Arguments<'_>) {
        let start = self.message.len();
        let _ = fmt::Write::write_fmt(&mut self.message, text);
        if self.level1() {
            self.log.push_str(&self.message[start..]);
        }
    }

    /// Says why and fails.
    #[cold]
    pub(super) fn fail<T>(&mut self, errno: Errno, text: fmt::Arguments<'_>) -> Res<T> {
        self.say(text);
        Err(errno)
    }

    /// An inconsistency of the verifier itself, reported as the kernel does.
    #[cold]
    pub(super) fn bug<T>(&mut self, text: fmt::Arguments<'_>) -> Res<T> {
        self.say(format_args!("verifier bug: {text}\n"));
        Err(Errno::EFAULT)
    }

    /// Where the current path is in the history, if there is one.
    pub(super) fn history_pos(&self) -> usize {
        self.history.as_ref().map_or(0, |h| h.position())
    }

    pub(super) fn regs(&self) -> &Regs {
        &self.cur.frame().regs
    }

    pub(super) fn reg(&self, regno: usize) -> &Reg {
        &self.cur.frame().regs[regno]
    }

    pub(super) fn reg_mut(&mut self, regno: usize) -> &mut Reg {
        &mut self.cur.frame_mut().regs[regno]
    }

    /// The frame that a stack pointer points into.
    pub(super) fn func(&self, reg: &Reg) -> &Frame {
        &self.cur.frames[reg.frameno as usize]
    }

    pub(super) fn func_mut(&mut self, reg: &Reg) -> &mut Frame {
        &mut self.cur.frames[reg.frameno as usize]
    }

    pub(super) fn new_id(&mut self) -> u32 {
        self.id_gen += 1;
        self.id_gen
    }

    pub(super) fn insn(&self) -> Insn {
        self.insns[self.insn_idx as usize]
    }

    pub(super) fn cur_aux(&mut self) -> &mut Aux {
        &mut self.aux[self.insn_idx as usize]
    }

    pub(super) fn mark_unknown(&mut self, regno: usize) {
        *self.reg_mut(regno) = Reg::UNKNOWN;
    }

    pub(super) fn subprog_of(&self, insn: u32) -> usize {
        containing(&self.subprogs[..self.subprog_cnt], insn)
    }

    /// The function that begins at an instruction.
    pub(super) fn find_subprog(&self, insn: i64) -> Option<usize> {
        let n = self.subprog_cnt;
        self.subprogs[..n].binary_search_by_key(&insn, |s| i64::from(s.start)).ok()
    }

    pub(super) fn btf(&self, which: BtfRef) -> Option<&'a Btf> {
        match which {
            BtfRef::Program => self.input.btf,
            BtfRef::Kernel => self.input.kernel_btf,
        }
    }

    pub(super) fn in_rcu_cs(&self) -> bool {
        self.cur.active_rcu_locks != 0 || self.cur.active_locks != 0 || !self.cur.in_sleepable
    }
}
