//! From an ELF file to an [`ObjectSpec`]: programs, maps, relocations, type and line information.
//!
//! Neighbours: [`crate::btf`] parses types and applies CO-RE; [`crate::maps`] and [`crate::vm`] make
//! running things of a spec.

mod bundled;
mod core_relo;
mod elf;
mod error;
mod externs;
mod fixup;
mod functions;
mod kconfig;
mod link;
mod load;
mod maps;
mod section_name;
mod spec;
mod target;
mod texts;

pub use error::{ObjectError, Problem};
pub use spec::*;
pub use target::{Kconfig, Symbols, Target};
