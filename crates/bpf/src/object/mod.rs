//! From an ELF file to an [`ObjectSpec`]: programs, maps, relocations, type and line information.
//!
//! Neighbours: [`crate::btf`] parses types and applies CO-RE; [`crate::maps`] and [`crate::vm`] make
//! running things of a spec.

mod spec;

pub use spec::*;
