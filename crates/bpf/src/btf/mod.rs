//! BPF Type Format: parsing, encoding, lookup by name, sizes and members, C text, CO-RE matching.
//!
//! [`Btf`] is one blob's type graph. Neighbours: [`crate::object`] reads an object's types from its
//! `.BTF` section and relocates field accesses against a kernel's.

mod builder;
mod c_text;
pub mod core;
mod encode;
mod ext;
mod index;
mod parse;
mod query;
#[cfg(test)]
mod tests;
mod types;

pub use builder::BtfBuilder;
pub use ext::{BtfExt, ExtSection, LineRecord};
pub use index::essential_name;
pub use parse::BtfError;
pub use query::FoundMember;
pub use types::*;
