//! `earlybird explain`: the pages behind the rules of the verifier, and behind the reasons why packets end.

use std::fmt::Write as _;

use bpf::verifier::rules::{RULES, Rule, RuleId};
use clap::Args;
use earlybird::explain::{page, reason_of, reason_page};
use xdp::DropReason;

use super::Failure;

/// Explain a rule of the verifier or the end of a packet, or list all
///
/// `earlybird verify` names the rule that a program breaks, for example EB0403. Its page says what the rule asks
/// for and why the kernel has it, and shows a program that breaks it and one that does not.
///
/// `earlybird test` counts packets that ended by their reason, and `earlybird explain-packet` names it, for example
/// EB2021 or xmit-no-receiver. Its page says what happened, what to do, and what the kernel shows of it.
#[derive(Args)]
pub(crate) struct ExplainArgs {
    /// Rule or reason, for example EB0403, EB2021, xmit-no-receiver [default: list all]
    #[arg(value_name = "RULE")]
    rule: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: &ExplainArgs) -> Result<(), Failure> {
    let Some(name) = &args.rule else {
        print!("{}", list());
        return Ok(());
    };
    let of_rule = RuleId::parse(name).and_then(page);
    let page = of_rule.or_else(|| reason_of(name).map(reason_page)).ok_or_else(|| {
        Failure::Usage(anyhow::anyhow!("{name}: no such rule or reason; `earlybird explain` lists all"))
    })?;
    print!("{page}");
    Ok(())
}

fn list() -> String {
    let mut out = String::new();
    let mut family = None;
    for Rule { id, family: of, title, .. } in RULES {
        if family != Some(*of) {
            let gap = if family.is_some() { "\n" } else { "" };
            let _ = writeln!(out, "{gap}{}", of.text());
            family = Some(*of);
        }
        let _ = writeln!(out, "  {id}  {title}");
    }
    let _ = writeln!(out, "\nends of packets");
    for reason in DropReason::ALL {
        let _ = writeln!(out, "  EB{}  {}: {}", reason.number(), reason.id(), reason.explanation());
    }
    out
}
