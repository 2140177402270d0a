//! Corpora of other projects, fetched when they are needed: nothing of them is committed.

mod compare;
mod fixtures;
mod source;
pub(crate) mod verifier;

pub(crate) use source::{Source, VERIFIER_TESTS};
