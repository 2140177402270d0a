//! Whether what the verifier accepts is safe: random programs, run on random packets in the checked
//! interpreter, each step held against what the verifier claimed of it.
//!
//! [`Campaign::try_seed`] makes the program of a seed ([`program`]), asks the verifier, and if it accepts
//! runs the program in a random [`world`] under a [`watch`]: no access may fault, and before every
//! instruction every register and stack slot lies inside one of the states that the verifier remembered
//! there. A [`Finding`] is a fault of the verifier, of the interpreter or of a helper.

pub mod program;
mod watch;
mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bpf::Insn;
use bpf::btf::Btf;
use bpf::disasm::disassemble;
use bpf::object::ProgramSpec;
use bpf::redirect::RedirectInfo;
use bpf::verifier::{Input, Options, Rejection, Verified, verify};
use bpf::vm::{Fault, FaultKind, Program, Run, Scratch};
use uapi::Errno;
use uapi::bpf::*;

use self::program::{Feature, Generated, generate};
use self::watch::{Compared, Watch};
use self::world::{RandomHost, World};
use crate::generate::Rng;

/// Packets that an accepted program gets.
const RUNS: u64 = 4;
/// Instructions of a run after which it counts as endless.
const FUEL: u64 = 2_000_000;
/// Instructions that verification may look at for all states to be kept.
const COMPARED_INSNS: u32 = 5_000;

/// Makes, verifies and runs programs, and counts.
pub struct Campaign {
    world: World,
    kernel_btf: Option<Arc<Btf>>,
    cpus: u32,
    scratch: Scratch,
    report: Report,
}

/// What a campaign has seen.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Programs made.
    pub programs: u64,
    /// Programs accepted and run.
    pub accepted: u64,
    /// Accepted programs with this feature.
    pub features: BTreeMap<Feature, u64>,
    /// Refused programs by the first words of the reason.
    pub refusals: BTreeMap<String, u64>,
    /// Runs.
    pub runs: u64,
    /// Accepted programs too complex to keep every state of; run without comparison.
    pub without_claims: u64,
    /// Accepted programs whose paths were pruned somewhere.
    pub pruned: u64,
    compared: Compared,
    opcodes: Vec<bool>,
    depths: [u64; 9],
}

/// A program that does what the verifier says it does not.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Of the generator.
    pub seed: u64,
    /// What happened.
    pub what: String,
    /// The program, as far as it is needed.
    pub program: Generated,
}

/// What became of a program.
enum Outcome {
    Refused(String),
    Ran(Box<Ran>),
    Bad(String),
}

#[derive(Default)]
struct Ran {
    compared: Compared,
    opcodes: Vec<bool>,
    deepest: usize,
    with_claims: bool,
    pruned: bool,
}

impl Campaign {
    /// A campaign on a machine with so many CPUs; with the kernel's types, programs also call kernel functions.
    #[must_use]
    pub fn new(kernel_btf: Option<Arc<Btf>>, cpus: u32) -> Self {
        let report = Report { opcodes: vec![false; 256], ..Report::default() };
        Self { world: World::new(), kernel_btf, cpus, scratch: Scratch::new(), report }
    }

    /// What has been seen so far.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The program of a seed.
    #[must_use]
    pub fn program(&self, seed: u64) -> Generated {
        generate(&mut Rng::new(seed), self.kernel_btf.is_some())
    }

    /// Makes the program of a seed, and runs it if it is accepted; answers whether it was.
    ///
    /// # Errors
    ///
    /// The program, made smaller, if it is accepted and should not have been.
    pub fn try_seed(&mut self, seed: u64) -> Result<bool, Box<Finding>> {
        let program = self.program(seed);
        self.report.programs += 1;
        match self.check(&program.spec, seed) {
            Outcome::Refused(why) => {
                *self.report.refusals.entry(words(&why)).or_default() += 1;
                Ok(false)
            }
            Outcome::Ran(ran) => {
                self.count(&program, &ran);
                Ok(true)
            }
            Outcome::Bad(what) => Err(Box::new(self.reduce(program, seed, what))),
        }
    }

    fn count(&mut self, program: &Generated, ran: &Ran) {
        let r = &mut self.report;
        r.accepted += 1;
        r.runs += RUNS;
        r.without_claims += u64::from(!ran.with_claims);
        r.pruned += u64::from(ran.pruned);
        for f in &program.features {
            *r.features.entry(*f).or_default() += 1;
        }
        r.compared.add(&ran.compared);
        for (all, one) in r.opcodes.iter_mut().zip(&ran.opcodes) {
            *all |= one;
        }
        r.depths[ran.deepest.min(8)] += 1;
    }

    /// The verdict on a program; with `claims`, also what it rests on.
    ///
    /// # Errors
    ///
    /// Errno and reason of a refusal.
    pub fn verdict(&self, spec: &ProgramSpec, claims: bool) -> Result<Verified, (Errno, String)> {
        let options = Options { nr_cpus: self.cpus, claims, ..Options::default() };
        self.verify(spec, &options).map_err(|r| (r.errno, r.message.clone()))
    }

    /// The verifier's whole log of a program.
    #[must_use]
    pub fn log(&self, spec: &ProgramSpec) -> String {
        let options = Options { nr_cpus: self.cpus, log_level: 2, ..Options::default() };
        self.verify(spec, &options).map_or_else(|r| r.log.clone(), |v| v.log().to_owned())
    }

    fn verify(&self, spec: &ProgramSpec, options: &Options) -> Result<Verified, Box<Rejection>> {
        let btf = &program::types().btf;
        let input = Input::of_program(spec, &self.world.defs, "GPL", Some(btf), self.kernel_btf.as_deref());
        verify(&input, options)
    }

    fn check(&mut self, spec: &ProgramSpec, seed: u64) -> Outcome {
        let verified = match self.verdict(spec, false) {
            Ok(v) => v,
            Err((_, why)) => return Outcome::Refused(why),
        };
        let pruned = verified.stats().total_states > 0;
        let small = verified.stats().processed_insns <= COMPARED_INSNS;
        let with_claims = match small.then(|| self.verdict(spec, true)) {
            Some(Ok(v)) => Some(v),
            None | Some(Err((Errno::E2BIG, _))) => None,
            Some(Err((_, why))) => {
                return Outcome::Bad(format!("accepted, but not with all states kept: {why}"));
            }
        };
        let program = match Program::link_verified(spec, 1, &self.world.maps, verified) {
            Ok(p) => Arc::new(p),
            Err(e) => return Outcome::Bad(format!("accepted, but cannot be linked: {e}")),
        };
        let mut ran =
            Ran { with_claims: with_claims.is_some(), pruned, opcodes: vec![false; 256], ..Ran::default() };
        for number in 0..RUNS {
            let mut rng = Rng::new(seed ^ (number + 1) << 56);
            if let Err(what) = self.run(&program, with_claims.as_ref(), &mut rng, &mut ran) {
                return Outcome::Bad(what);
            }
        }
        Outcome::Ran(Box::new(ran))
    }

    fn run(
        &mut self,
        program: &Arc<Program>,
        verified: Option<&Verified>,
        rng: &mut Rng,
        ran: &mut Ran,
    ) -> Result<(), String> {
        self.world.fill(rng);
        let mut buff = world::packet(rng);
        let mut host = RandomHost(rng.clone());
        let (mut redirect, guard) = (RedirectInfo::default(), mem::epoch::pin());
        let run = Run::checked(program, &guard, &mut self.scratch, &mut buff, &mut redirect, &mut host);
        let mut run = run.with_fuel(FUEL);
        let Some(claims) = verified.and_then(Verified::claims) else {
            return run.execute().map(drop).map_err(|e| e.to_string());
        };
        let mut watch = Watch::new(claims, program.subprogs());
        run = run.with_observer(&mut watch);
        let result = run.execute();
        drop(run);
        ran.compared.add(&watch.compared);
        for (all, one) in ran.opcodes.iter_mut().zip(watch.opcodes.iter()) {
            *all |= one;
        }
        ran.deepest = ran.deepest.max(watch.deepest);
        match (result, watch.problem) {
            (_, Some(what)) => Err(what),
            // `may_goto` ends a loop after eight million rounds.
            (Err(Fault { kind: FaultKind::OutOfFuel, .. }), None) if may_go_on(program) => Ok(()),
            (Err(fault), None) => Err(fault.to_string()),
            (Ok(_), None) => Ok(()),
        }
    }

    /// Leaves out every instruction that the finding does not need.
    fn reduce(&mut self, mut program: Generated, seed: u64, mut what: String) -> Finding {
        let nop = Insn::new(BPF_JMP | BPF_JA, 0, 0, 0, 0);
        loop {
            let mut smaller = false;
            for i in (0..program.spec.insns.len()).rev() {
                let old = program.spec.insns[i];
                if old == nop || old.is_exit() || old.code == 0 || old.is_ld_imm64() {
                    continue;
                }
                let writes = matches!(old.class(), BPF_ALU | BPF_ALU64 | BPF_LDX);
                let constant = Insn::new(BPF_ALU64 | BPF_MOV, old.dst, 0, 0, 1);
                let choices = if writes && old != constant { vec![nop, constant] } else { vec![nop] };
                for new in choices {
                    program.spec.insns[i] = new;
                    if let Outcome::Bad(now) = self.check(&program.spec, seed) {
                        (what, smaller) = (now, true);
                        break;
                    }
                    program.spec.insns[i] = old;
                }
            }
            if !smaller {
                return Finding { seed, what, program };
            }
        }
    }
}

fn may_go_on(program: &Program) -> bool {
    program.insns().iter().any(|i| i.code == BPF_JMP | BPF_JCOND)
}

/// The part of a reason that does not depend on the program.
fn words(reason: &str) -> String {
    let line = reason.lines().last().unwrap_or("");
    let plain = |w: &&str| !w.contains(|c: char| c.is_ascii_digit());
    line.split_whitespace().filter(plain).take(5).collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.what)?;
        let nop = Insn::new(BPF_JMP | BPF_JA, 0, 0, 0, 0);
        for (i, insn) in self.program.spec.insns.iter().enumerate() {
            if *insn != nop {
                let next = self.program.spec.insns.get(i + 1);
                writeln!(f, "{i:4}: {}", disassemble(insn, next, None))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = self.accepted * 100 / self.programs.max(1);
        writeln!(
            f,
            "{} programs, {} accepted ({percent}%), {} runs",
            self.programs, self.accepted, self.runs
        )?;
        writeln!(f, "pruned {}, too complex to compare {}", self.pruned, self.without_claims)?;
        let c = &self.compared;
        writeln!(
            f,
            "compared: {} steps ({} with several states), {} ranges, {} constants, {} pointers, \
             {} packet ranges, {} stack slots, {} links",
            c.steps, c.choices, c.ranges, c.constants, c.pointers, c.packet_ranges, c.slots, c.links
        )?;
        let opcodes = self.opcodes.iter().filter(|o| **o).count();
        writeln!(f, "opcodes run: {opcodes}; call depth reached: {:?}", &self.depths[1..])?;
        writeln!(f, "in accepted programs: {:?}", self.features)?;
        let mut refusals: Vec<_> = self.refusals.iter().collect();
        refusals.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
        for (why, n) in refusals.into_iter().take(25) {
            writeln!(f, "refused {n:8}  {why}")?;
        }
        Ok(())
    }
}
