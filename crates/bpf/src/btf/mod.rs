//! BPF Type Format: parsing, lookup by name, sizes and members, CO-RE relocations.

mod types;

pub use types::*;
