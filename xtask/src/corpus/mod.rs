//! Corpora of other projects, fetched when they are needed: nothing of them is committed.

mod compare;
mod source;
pub(crate) mod verifier;
