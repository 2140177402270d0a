//! The outcome of a verification.

use std::sync::Arc;

use uapi::Errno;

use super::claims::Claims;
use super::env::{Aux, Env, MapInfo, Res, Subprog};
use super::facts::InsnFact;
use super::input::{Input, MapDef, Options};
use super::record;
use super::rules::Rule;
use super::state::State;
use super::subject::Subject;
use crate::maps::Map;
use crate::object::ProgramSpec;

/// Most instructions of a program.
pub(super) const MAX_INSNS: usize = 1_000_000;

/// The cost of a verification, as the kernel counts it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Instructions looked at, over all paths.
    pub processed_insns: u32,
    /// States remembered.
    pub total_states: u32,
    /// Most states kept at one time.
    pub peak_states: u32,
    /// Most states kept at one instruction.
    pub max_states_per_insn: u32,
    /// Bytes of stack of each function, the main one first.
    pub stack_depth: Vec<u32>,
}

/// Proof that a program may run without checks. Only [`verify`] makes one.
#[derive(Debug)]
pub struct Verified {
    subject: Subject,
    facts: Vec<InsnFact>,
    stats: Stats,
    log: String,
    claims: Option<Claims>,
    unserved: Option<(u32, String)>,
}

impl Verified {
    /// Checks that it is this program, with maps as these, that has been verified.
    ///
    /// # Errors
    ///
    /// What is different.
    pub fn covers(&self, spec: &ProgramSpec, maps: &[Arc<Map>]) -> Result<(), String> {
        self.subject.covers(spec, maps)
    }

    /// What holds at each instruction.
    #[must_use]
    pub fn facts(&self) -> &[InsnFact] {
        &self.facts
    }

    /// What the verification cost.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The log, as far as it was asked for.
    #[must_use]
    pub fn log(&self) -> &str {
        &self.log
    }

    /// An instruction that uses a field of the kernel's that there is not here, and why.
    #[must_use]
    pub fn unserved(&self) -> Option<&(u32, String)> {
        self.unserved.as_ref()
    }

    /// What was claimed before every instruction, if [`Options::claims`] asked for it.
    #[must_use]
    pub fn claims(&self) -> Option<&Claims> {
        self.claims.as_ref()
    }
}

/// Why a program is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The rule that is broken.
    pub rule: &'static Rule,
    /// The kernel's errno.
    pub errno: Errno,
    /// The instruction at which it was found.
    pub insn: u32,
    /// What the kernel says, without a newline at the end.
    pub message: String,
    /// The log, as far as it was asked for.
    pub log: String,
    /// What the verification cost up to here.
    pub stats: Stats,
}

impl std::fmt::Display for Rejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "instruction {}: {}", self.insn, self.message)?;
        if let Some(name) = self.errno.name() {
            write!(f, " ({name})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Rejection {}

/// Verifies a program.
///
/// # Errors
///
/// The kernel's reason to refuse it.
///
/// Kernel: `kernel/bpf/verifier.c bpf_check`, v6.18.
pub fn verify(input: &Input<'_>, opts: &Options) -> Result<Verified, Box<Rejection>> {
    if input.insns.is_empty() || input.insns.len() > MAX_INSNS {
        let message = format!("{} instructions: a program has 1 to {MAX_INSNS}", input.insns.len());
        return Err(Box::new(Rejection {
            rule: Rule::of_message(&message).unwrap_or_else(Rule::silent),
            errno: Errno::E2BIG,
            insn: 0,
            message,
            log: String::new(),
            stats: Stats::default(),
        }));
    }
    let mut env = Env::new(input, opts);
    let outcome = env.run();
    let stats = env.stats();
    if opts.log_level != 0 {
        env.log.push_str(&format!(
            "processed {} insns (limit 1000000) max_states_per_insn {} total_states {} peak_states {} mark_read 0\n",
            stats.processed_insns, stats.max_states_per_insn, stats.total_states, stats.peak_states
        ));
    }
    match outcome {
        Ok(()) => {
            let maps = input.maps.len() as u32;
            let start = |s: u32| env.subprogs[s as usize].start;
            let facts = env.aux.iter().map(|a| InsnFact::of(a, start, maps)).collect();
            let subject = Subject::new(input, &env);
            let unserved = env.unserved;
            Ok(Verified { subject, facts, stats, log: env.log, claims: env.claims, unserved })
        }
        Err(errno) => Err(Box::new(Rejection {
            rule: Rule::of_message(&env.message).unwrap_or_else(Rule::silent),
            errno,
            insn: env.prev_checked(),
            message: env.message.trim_end().to_owned(),
            log: env.log,
            stats,
        })),
    }
}

impl<'a> Env<'a> {
    pub(super) fn new(input: &'a Input<'a>, opts: &'a Options) -> Self {
        let n = input.insns.len();
        let mut env = Self {
            input,
            opts,
            insns: input.insns.to_vec(),
            aux: vec![Aux::default(); n],
            succ: Vec::new(),
            postorder: Vec::new(),
            subprogs: Vec::new(),
            subprog_cnt: 0,
            has_func_info: input.btf.is_some() && input.subprogs.iter().any(|s| s.btf.is_some()),
            unserved: None,
            exception_cb: 0,
            seen_exception: false,
            maps: Vec::new(),
            kfuncs: Vec::new(),
            strict_alignment: input.prog_flags & uapi::bpf::BPF_F_STRICT_ALIGNMENT != 0
                && input.prog_flags & uapi::bpf::BPF_F_ANY_ALIGNMENT == 0,
            insn_idx: 0,
            prev_insn_idx: -1,
            cur: State::default(),
            hist_open: false,
            pending: Vec::new(),
            states: Vec::new(),
            free_ids: Vec::new(),
            explored: vec![Vec::new(); n],
            spare: Vec::new(),
            scc_visits: Vec::new(),
            live: Default::default(),
            idmap: Default::default(),
            bt: Default::default(),
            id_gen: 0,
            insn_processed: 0,
            prev_insn_processed: 0,
            jmps_processed: 0,
            prev_jmps_processed: 0,
            max_states_per_insn: 0,
            total_states: 0,
            peak_states: 0,
            explored_size: 0,
            free_list_size: 0,
            num_backedges: 0,
            log: String::new(),
            message: String::new(),
            scratched_regs: 0,
            scratched_slots: 0,
            prev_log_pos: 0,
            prev_insn_print_pos: 0,
            prev_line: None,
            history: None,
            claims: opts.claims.then(|| Claims::new(n)),
        };
        for def in input.maps {
            let info = env.map_info(def);
            env.maps.push(info);
        }
        // Templates of inner maps follow; a template has none of its own.
        for i in 0..input.maps.len() {
            if let Some(inner) = &input.maps[i].inner {
                let info = env.map_info(inner);
                env.maps.push(info);
                env.maps[i].inner = Some(env.maps.len() as u32 - 1);
            }
        }
        env.kfuncs = env.resolve_kfuncs();
        env
    }

    fn map_info(&self, def: &'a MapDef) -> MapInfo<'a> {
        let record = match (self.input.btf, def.value_type) {
            (Some(btf), Some(t)) => record::find(btf, self.input.kernel_btf, t),
            _ => None,
        };
        MapInfo { def, record, inner: None }
    }

    /// All phases, in the kernel's order.
    pub(super) fn run(&mut self) -> Res {
        self.add_subprogs()?;
        self.check_subprogs()?;
        self.check_func_info()?;
        self.resolve_ldimm64()?;
        self.check_cfg()?;
        self.compute_postorder();
        self.check_sleepable()?;
        self.compute_scc();
        self.compute_live_registers();
        self.mark_fastcall();
        self.check_all()?;
        self.shrink_fastcall_stack();
        self.message.clear();
        self.check_max_stack_depth()
    }

    fn check_sleepable(&mut self) -> Res {
        if self.input.prog_flags & uapi::bpf::BPF_F_SLEEPABLE == 0 {
            return Ok(());
        }
        self.fail(
            Errno::EINVAL,
            format_args!(
                "Only fentry/fexit/fmod_ret, lsm, iter, uprobe, and struct_ops programs can be sleepable\n"
            ),
        )
    }

    /// Ties the functions found to those that the object describes.
    fn check_func_info(&mut self) -> Res {
        for s in self.input.subprogs {
            if let Ok(i) = self.subprogs[..self.subprog_cnt].binary_search_by_key(&s.start, |x| x.start) {
                self.subprogs[i].name.clone_from(&s.name);
                self.subprogs[i].btf = s.btf;
                self.subprogs[i].is_global = self.has_func_info && s.is_global;
            }
        }
        if !self.has_func_info {
            for i in 1..self.subprog_cnt {
                if self.subprogs[i].has_ld_abs {
                    return self.fail(
                        Errno::EINVAL,
                        format_args!("LD_ABS is not allowed in subprogs without BTF\n"),
                    );
                }
                if self.subprogs[i].has_tail_call {
                    return self.fail(
                        Errno::EINVAL,
                        format_args!("tail_call is not allowed in subprogs without BTF\n"),
                    );
                }
            }
            return Ok(());
        }
        let described = self.input.subprogs.len();
        if described != self.subprog_cnt {
            return self.fail(
                Errno::EINVAL,
                format_args!("number of funcs in func_info doesn't match number of subprogs\n"),
            );
        }
        for i in 0..self.subprog_cnt {
            self.check_one_func_info(i)?;
        }
        Ok(())
    }

    fn check_one_func_info(&mut self, i: usize) -> Res {
        let Subprog { btf: id, has_ld_abs, has_tail_call, .. } = self.subprogs[i];
        let (Some(btf), Some(id)) = (self.input.btf, id) else {
            return self.fail(
                Errno::EINVAL,
                format_args!("func_info BTF section doesn't match subprog layout in BPF program\n"),
            );
        };
        let ret = super::btfx::params(btf, id).map(|(_, r)| super::btfx::skip_modifiers(btf, r));
        let scalar = ret.is_some_and(|r| super::btfx::is_scalar(btf, r));
        if i != 0 && !scalar && has_ld_abs {
            return self.fail(
                Errno::EINVAL,
                format_args!("LD_ABS is only allowed in functions that return 'int'.\n"),
            );
        }
        if i != 0 && !scalar && has_tail_call {
            return self.fail(
                Errno::EINVAL,
                format_args!("tail_call is only allowed in functions that return 'int'.\n"),
            );
        }
        Ok(())
    }

    fn stats(&self) -> Stats {
        Stats {
            processed_insns: self.insn_processed,
            total_states: self.total_states,
            peak_states: self.peak_states,
            max_states_per_insn: self.max_states_per_insn,
            stack_depth: self.subprogs.iter().take(self.subprog_cnt).map(|s| s.stack_depth).collect(),
        }
    }

    /// The instruction that was looked at last.
    fn prev_checked(&self) -> u32 {
        self.insn_idx
    }
}
