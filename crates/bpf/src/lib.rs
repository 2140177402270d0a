//! From bytes to a runnable XDP program: objects, types, verifier, maps, helpers, engines.
//!
//! `object` parses a file to an `ObjectSpec`, `verifier` proves a program safe, `vm` runs it over the
//! `maps` and `helpers`. Nothing here reads a clock, starts a thread, does I/O or draws a random
//! number: all of that comes through the run's environment.

pub mod btf;
pub mod disasm;
pub mod helpers;
pub mod host;
pub mod insn;
pub mod jit;
pub mod kfuncs;
pub mod maps;
pub mod object;
pub mod redirect;
pub mod verifier;
pub mod vm;

pub use insn::Insn;
