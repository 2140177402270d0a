//! Making a type graph from nothing: for the bundled kernel types and for tests.

use std::collections::BTreeMap;

use super::types::{Btf, Kind, Name, Type, TypeId};

/// Collects types and names; equal names share their place in the string table.
#[derive(Debug)]
pub struct BtfBuilder {
    types: Vec<Type>,
    strings: String,
    interned: BTreeMap<String, Name>,
}

impl Default for BtfBuilder {
    fn default() -> Self {
        Self { types: vec![Type::VOID], strings: "\0".to_owned(), interned: BTreeMap::new() }
    }
}

impl BtfBuilder {
    /// The place of a text in the string table.
    pub fn name(&mut self, text: &str) -> Name {
        debug_assert!(!text.contains('\0'));
        if text.is_empty() {
            return Name::EMPTY;
        }
        if let Some(&name) = self.interned.get(text) {
            return name;
        }
        let name = Name(self.strings.len() as u32);
        self.strings.push_str(text);
        self.strings.push('\0');
        self.interned.insert(text.to_owned(), name);
        name
    }

    /// Adds a type; an empty name makes it anonymous. It may refer to types that are added later.
    pub fn add(&mut self, name: &str, kind: Kind) -> TypeId {
        let name = self.name(name);
        let id = TypeId(self.types.len() as u32);
        self.types.push(Type { name, kind });
        id
    }

    /// Replaces what a type is, for types that refer to each other.
    ///
    /// # Panics
    ///
    /// If `id` was not added to this builder.
    pub fn set(&mut self, id: TypeId, kind: Kind) {
        self.types[id.index()].kind = kind;
    }

    /// The graph.
    #[must_use]
    pub fn finish(self) -> Btf {
        Btf::from_parts(self.types, self.strings)
    }
}
