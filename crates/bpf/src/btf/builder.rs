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

impl From<&Btf> for BtfBuilder {
    /// Starts with the types and names of a graph, under the same numbers.
    fn from(btf: &Btf) -> Self {
        let mut interned = BTreeMap::new();
        let mut start = 0;
        for text in btf.strings.split_terminator('\0') {
            interned.entry(text.to_owned()).or_insert(Name(start));
            start += text.len() as u32 + 1;
        }
        Self { types: btf.types.clone(), strings: btf.strings.clone(), interned }
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

/// Changes to a graph that is otherwise only read, for the loader's fixups.
impl Btf {
    /// Replaces what a type is.
    pub(crate) fn set_kind(&mut self, id: TypeId, kind: Kind) {
        let name = self.ty(id).name;
        self.set_type(id, Type { name, kind });
    }

    /// Replaces a type, name and all.
    pub(crate) fn set_type(&mut self, id: TypeId, ty: Type) {
        if let Some(slot) = self.types.get_mut(id.index()) {
            let indexed_otherwise = slot.name != ty.name || slot.tag() != ty.tag();
            *slot = ty;
            if indexed_otherwise {
                self.names.take();
                self.tags.take();
            }
        }
    }

    /// Adds a type with a new name.
    pub(crate) fn append(&mut self, name: &str, kind: Kind) -> TypeId {
        debug_assert!(!name.contains('\0'));
        let at = Name(self.strings.len() as u32);
        self.strings.push_str(name);
        self.strings.push('\0');
        self.types.push(Type { name: at, kind });
        self.names.take();
        self.tags.take();
        TypeId(self.types.len() as u32 - 1)
    }
}
