//! `earlybird explain`: the pages behind the rules of the verifier.

use std::fmt::Write as _;

use bpf::verifier::rules::{RULES, Rule, RuleId};
use clap::Args;
use earlybird::explain::page;

use super::Failure;

/// Explain a rule of the verifier, or list all
///
/// `earlybird verify` names the rule that a program breaks, for example EB0403. Its page says what the rule asks
/// for and why the kernel has it, and shows a program that breaks it and one that does not.
#[derive(Args)]
pub(crate) struct ExplainArgs {
    /// Rule, for example EB0403 [default: list all]
    #[arg(value_name = "RULE")]
    rule: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: &ExplainArgs) -> Result<(), Failure> {
    let Some(name) = &args.rule else {
        print!("{}", list());
        return Ok(());
    };
    let page = RuleId::parse(name).and_then(page).ok_or_else(|| {
        Failure::Usage(anyhow::anyhow!("{name}: no such rule; `earlybird explain` lists all"))
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
    out
}
