//! [`Verification`]: what a home's verifier says of a program.

use bpf::verifier::explain::Explanation;
use bpf::verifier::rules::Rule;
use uapi::Errno;

/// A verifier's verdict on one program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// Why it is refused; `None` if it is accepted.
    pub refusal: Option<Refusal>,
    /// Instructions looked at, over all paths.
    pub processed_insns: u32,
    /// States remembered.
    pub total_states: u32,
    /// Bytes of stack of each function, the main one first.
    pub stack_depth: Vec<u32>,
    /// Time that it took, microseconds.
    pub time_us: u64,
    /// The log at the level that was asked for.
    pub log: String,
}

/// Why a program is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Errno of `BPF_PROG_LOAD`.
    pub errno: Errno,
    /// Instruction, counted from the start of the program, as far as it is known.
    pub insn: Option<u32>,
    /// What the verifier says, one or a few lines.
    pub message: String,
    /// The rule that is broken; `None` if the kernel says something that the table does not know.
    pub rule: Option<&'static Rule>,
    /// The story behind it, which only the engine's verifier tells.
    pub explanation: Option<Box<Explanation>>,
}

impl Refusal {
    /// Reads what the kernel's verifier wrote before it gave up, and finds the rule by it.
    #[must_use]
    pub fn from_kernel_log(errno: Errno, log: &str) -> Self {
        let told: Vec<&str> = log.lines().filter(|l| !l.is_empty() && !is_statistics(l)).collect();
        let last = told.iter().rposition(|line| instruction(line).is_some());
        let message: Vec<&str> =
            told[last.map_or(0, |at| at + 1)..].iter().copied().filter(|l| !is_trace(l)).collect();
        let message = message.join("\n");
        let rule = match message.is_empty() {
            true => Some(Rule::silent()),
            false => Rule::of_message(&message),
        };
        let insn = last.and_then(|at| instruction(told[at]));
        Self { errno, insn, message, rule, explanation: None }
    }
}

impl Verification {
    /// Reads what the kernel's verifier wrote with its statistics (`log_level` 4) and the errno that loading
    /// gave.
    #[must_use]
    pub fn from_kernel_log(errno: Option<Errno>, log: &str) -> Self {
        let mut v = Self { log: log.to_owned(), ..Self::default() };
        for line in log.lines() {
            let number =
                |prefix: &str| line.strip_prefix(prefix)?.split_whitespace().next()?.parse::<u64>().ok();
            if let Some(time_us) = number("verification time ") {
                v.time_us = time_us;
            } else if let Some(depths) = line.strip_prefix("stack depth ") {
                v.stack_depth = depths.split('+').filter_map(|d| d.trim().parse().ok()).collect();
            } else if let Some(processed) = number("processed ") {
                v.processed_insns = u32::try_from(processed).unwrap_or(u32::MAX);
                v.total_states = word_after(line, "total_states").unwrap_or(0);
            }
        }
        v.refusal = errno.map(|errno| Refusal::from_kernel_log(errno, log));
        v
    }
}

fn word_after(line: &str, word: &str) -> Option<u32> {
    let mut words = line.split_whitespace().skip_while(|w| *w != word);
    words.nth(1)?.parse().ok()
}

/// What the kernel adds at the end.
fn is_statistics(line: &str) -> bool {
    ["verification time ", "stack depth ", "processed "].iter().any(|prefix| line.starts_with(prefix))
}

/// Lines that tell how the verifier went, not what is wrong: states, source lines, paths.
fn is_trace(line: &str) -> bool {
    let state = line.split_once(':').is_some_and(|(number, _)| number.parse::<u32>().is_ok());
    let told = ["; ", "from ", "mark_precise: ", "Validating ", "func#", "Live regs "];
    state || told.iter().any(|prefix| line.starts_with(prefix))
}

/// The number of a line that shows an instruction: `12: (71) r0 = ...`.
fn instruction(line: &str) -> Option<u32> {
    let (number, rest) = line.split_once(": ")?;
    rest.starts_with('(').then(|| number.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_read_with_its_instruction_and_costs() {
        let log = "0: R1=ctx() R10=fp0\n0: (61) r2 = *(u32 *)(r1 +0)\n1: (71) r0 = *(u8 *)(r2 +0)\n\
                   invalid access to packet, off=0 size=1, R2(id=0,off=0,r=0)\nR2 offset is outside of the packet\n\
                   verification time 41 usec\nstack depth 0+16\n\
                   processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 3 peak_states 0 mark_read 0\n";
        let v = Verification::from_kernel_log(Some(Errno::EACCES), log);
        let refusal = v.refusal.unwrap();
        assert_eq!((refusal.errno, refusal.insn), (Errno::EACCES, Some(1)));
        assert_eq!(
            refusal.message,
            "invalid access to packet, off=0 size=1, R2(id=0,off=0,r=0)\nR2 offset is outside of the packet"
        );
        assert_eq!(refusal.rule.map(|r| r.id.to_string()).as_deref(), Some("EB0403"));
        assert_eq!((v.processed_insns, v.total_states, v.time_us), (2, 3, 41));
        assert_eq!(v.stack_depth, [0, 16]);
    }

    #[test]
    fn a_refusal_before_the_first_instruction_is_read() {
        let refusal =
            Refusal::from_kernel_log(Errno::EINVAL, "func#0 @0\nunreachable insn 2\nprocessed 0 insns\n");
        assert_eq!((refusal.insn, refusal.message.as_str()), (None, "unreachable insn 2"));
        assert_eq!(refusal.rule.map(|r| r.id.to_string()).as_deref(), Some("EB0104"));
        assert_eq!(Refusal::from_kernel_log(Errno::EINVAL, "something new").rule, None);
        assert_eq!(Refusal::from_kernel_log(Errno::EINVAL, "").rule, Some(Rule::silent()));
    }

    #[test]
    fn an_accepted_program_has_costs_alone() {
        let v = Verification::from_kernel_log(None, "processed 9 insns (limit 1000000) total_states 1\n");
        assert_eq!((v.refusal, v.processed_insns), (None, 9));
    }
}
