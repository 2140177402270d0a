//! File names and source lines, each made once however many instructions share it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::btf::{Btf, Name};

/// Bytes of one text. A source line in an error message needs no more.
const TEXT_MAX: usize = 512;

/// Texts by their place in the object's string table.
pub(super) struct Texts<'a> {
    btf: Option<&'a Btf>,
    made: BTreeMap<Name, Arc<str>>,
    empty: Arc<str>,
    /// Bytes that may still be copied: in a real table texts do not overlap.
    budget: usize,
}

impl<'a> Texts<'a> {
    pub(super) fn new(btf: Option<&'a Btf>) -> Self {
        let budget = 2 * btf.map_or(0, Btf::strings_len) + (1 << 16);
        Self { btf, made: BTreeMap::new(), empty: "".into(), budget }
    }

    pub(super) fn get(&mut self, name: Name) -> Arc<str> {
        if let Some(made) = self.made.get(&name) {
            return made.clone();
        }
        let text = self.btf.map_or("", |btf| btf.str_up_to(name, TEXT_MAX));
        let Some(rest) = self.budget.checked_sub(text.len()) else { return self.empty.clone() };
        self.budget = rest;
        let made: Arc<str> = text.into();
        self.made.insert(name, made.clone());
        made
    }
}
