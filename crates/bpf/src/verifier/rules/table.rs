//! The table of rules. Within a family, special forms of messages stand before general ones.

use super::calls::CALLS;
use super::code::CODE;
use super::{Cause, Family, Rule, RuleId};

pub(super) const fn rule(
    id: u16,
    family: Family,
    cause: Cause,
    title: &'static str,
    help: &'static str,
    messages: &'static [&'static str],
) -> Rule {
    assert!(id / 100 == family as u16, "the identifier begins with the family");
    Rule { id: RuleId(id), family, cause, title, help, messages }
}

const COUNT: usize = CODE.len() + CALLS.len();

const ALL: [Rule; COUNT] = {
    let mut all = [CODE[0]; COUNT];
    let mut i = 0;
    while i < COUNT {
        all[i] = if i < CODE.len() { CODE[i] } else { CALLS[i - CODE.len()] };
        i += 1;
    }
    all
};

/// All rules, by identifier.
pub static RULES: &[Rule] = &ALL;
