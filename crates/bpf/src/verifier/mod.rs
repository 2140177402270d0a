//! The verifier: whether a program is safe to run, decided as Linux 6.18 decides it.
//!
//! [`verify`] explores a program path by path ([`do_check`]), keeping for every register and stack slot
//! what is known of it ([`reg`], [`regs`], [`state`]), and prunes paths that can show nothing new ([`prune`]).
//! What it accepts runs without checks: [`Verified`] is the token for that, and can be made only here.
//! What it refuses it refuses with the kernel's errno and words.
//!
//! By concern: [`cfg`] the graph, [`alu`], [`scalar`], [`bounds`], [`tnum`] arithmetic, [`jumps`] and
//! [`refine`] branches, [`mem`], [`stack`], [`btf_access`] loads and stores, [`helpers`], [`args`],
//! [`protos`] calls of helpers, [`kfunc_call`], [`kfunc_args`], [`kfunc_objs`] calls of kernel functions,
//! [`callbacks`], [`subprogs`] functions, [`refs`], [`record`] what is held and where, [`precision`],
//! [`liveness`], [`scc`] for pruning, [`log`] the kernel's log form, [`rules`] the names of what can be
//! wrong, [`explain`] the story of a rejection, [`claims`] what tests hold runs against.

mod alu;
mod args;
mod bounds;
mod btf_access;
mod btfx;
mod callbacks;
mod cfg;
mod claims;
mod depth;
mod do_check;
mod env;
pub mod explain;
mod facts;
mod helpers;
mod input;
mod jumps;
mod kfunc_args;
mod kfunc_call;
mod kfunc_objs;
mod kfunc_table;
mod kfuncs;
mod ldimm;
mod liveness;
mod log;
mod mem;
mod precision;
mod printf;
pub(crate) mod protos;
mod prune;
mod record;
mod refine;
mod refs;
mod reg;
mod regs;
pub mod rules;
mod scalar;
mod scc;
mod stack;
mod state;
mod subject;
mod subprogs;
#[cfg(test)]
mod tests;
mod tnum;
mod token;
mod types;

pub use claims::{Claim, Claims, PointerClaim, ScalarClaim, SlotClaim, StateClaim, Target};
pub use facts::{Branch, InsnFact, Place};
pub use input::{Input, MapDef, Options, license_is_gpl_compatible};
pub use record::special_fields;
pub use tnum::Tnum;
pub use token::{Rejection, Stats, Verified, verify};
