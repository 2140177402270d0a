//! Reads the notation of [`super::types`] into a type graph.
//!
//! The text is part of this program, so what does not parse is a mistake here and panics in its tests.

use std::collections::BTreeMap;

use uapi::bpf::{HELPER_NAMES, MapType};

use super::types::{INTS, TYPEDEFS, TYPES};
use crate::btf::{Btf, BtfBuilder, EnumValue, Kind, Member, TypeId};

/// Builds all bundled types.
pub(super) fn build() -> Btf {
    let mut layout =
        Layout { builder: BtfBuilder::default(), named: BTreeMap::new(), sizes: BTreeMap::new() };
    for &(name, size, flag) in INTS {
        let (signed, is_bool, bits) = (flag == 's', flag == 'b', (size * 8) as u8);
        let kind = Kind::Int { size, signed, is_char: false, is_bool, bit_offset: 0, bits };
        let id = layout.builder.add(name, kind);
        layout.define(name, id, size, size);
    }
    let mut words: Vec<&str> = TYPES.split_whitespace().collect();
    words.reverse();
    layout.declare(&words);
    for &(name, target) in TYPEDEFS {
        let to = layout.named[target];
        let id = layout.builder.add(name, Kind::Typedef(to));
        let (size, align) = layout.sizes[&to];
        layout.define(name, id, size, align);
    }
    layout.abi_enums();
    while let Some(word) = words.pop() {
        let name = words.pop().expect("a name");
        match word {
            "struct" => {
                layout.composite(&mut words, false, Some(name));
            }
            "enum" => layout.enumeration(&mut words, name),
            other => panic!("{other:?} where a declaration should begin"),
        }
    }
    layout.builder.finish()
}

struct Layout {
    builder: BtfBuilder,
    named: BTreeMap<String, TypeId>,
    /// Size and alignment, bytes.
    sizes: BTreeMap<TypeId, (u32, u32)>,
}

/// A struct or union as far as its members have been read.
struct Open {
    is_union: bool,
    members: Vec<Member>,
    /// Where the next member may begin, bits.
    end: u32,
    /// The largest member of a union, bytes.
    largest: u32,
    align: u32,
}

impl Layout {
    fn define(&mut self, name: &str, id: TypeId, size: u32, align: u32) {
        self.named.insert(name.to_owned(), id);
        self.sizes.insert(id, (size, align));
    }

    /// Gives every struct and enum its number, so that they can refer to each other.
    fn declare(&mut self, words: &[&str]) {
        let mut depth = 0;
        for pair in words.windows(2).rev() {
            let [name, word] = *pair else { continue };
            depth += i32::from(word == "{") - i32::from(word.starts_with('}'));
            if depth == 0 && matches!(word, "struct" | "enum") {
                let id = self.builder.add(name, Kind::Void);
                self.named.insert(name.to_owned(), id);
                self.sizes.extend((word == "enum").then_some((id, (4, 4))));
            }
        }
    }

    /// Enums whose values `uapi` knows.
    fn abi_enums(&mut self) {
        let helpers = HELPER_NAMES.iter().enumerate().map(|(i, n)| (format!("BPF_FUNC_{n}"), i as i64));
        let helpers: Vec<_> = helpers.collect();
        self.add_enum("bpf_func_id", &helpers);
        let types = (0..=MapType::Arena as u32).filter_map(MapType::from_raw);
        let types: Vec<_> = types
            .map(|t| (format!("BPF_MAP_TYPE_{}", t.name().to_uppercase()), i64::from(t as u32)))
            .collect();
        self.add_enum("bpf_map_type", &types);
    }

    fn add_enum(&mut self, name: &str, values: &[(String, i64)]) {
        let values =
            values.iter().map(|(n, value)| EnumValue { name: self.builder.name(n), value: *value }).collect();
        let kind = Kind::Enum { size: 4, signed: false, values };
        let id = match self.named.get(name) {
            Some(&id) => {
                self.builder.set(id, kind);
                id
            }
            None => self.builder.add(name, kind),
        };
        self.define(name, id, 4, 4);
    }

    fn enumeration(&mut self, words: &mut Vec<&str>, name: &str) {
        assert_eq!(words.pop(), Some("{"), "{name}");
        let (mut values, mut next) = (Vec::new(), 0);
        loop {
            match words.pop().expect("a closing brace") {
                "}" => break,
                word => {
                    let (name, value) =
                        word.split_once('=').map_or((word, next), |(n, v)| (n, number(v).into()));
                    values.push((name.to_owned(), value));
                    next = value + 1;
                }
            }
        }
        self.add_enum(name, &values);
    }

    /// Reads from after the name to the closing brace.
    fn composite(&mut self, words: &mut Vec<&str>, is_union: bool, name: Option<&str>) -> TypeId {
        let mut size = 0;
        match words.pop() {
            Some("{") => {}
            Some(word) => {
                size = number(word);
                assert_eq!(words.pop(), Some("{"), "{name:?}");
            }
            None => panic!("{name:?} has no members"),
        }
        let mut open = Open { is_union, members: Vec::new(), end: 0, largest: 0, align: 1 };
        let mut ty: Option<TypeId> = None;
        loop {
            match words.pop().expect("a closing brace") {
                "}" => break,
                ";" => ty = None,
                word @ ("struct" | "union") => {
                    let at = words.pop_if(|w| w.starts_with('@')).map(|w| number(&w[1..]));
                    let inner = self.composite(words, word == "union", None);
                    let name = words.pop_if(|w| w.starts_with('=')).map_or("", |w| &w[1..]);
                    self.add_member(&mut open, inner, name, None, at);
                    ty = None;
                }
                word => match ty.filter(|_| !self.begins_type(word, words)) {
                    Some(ty) => self.declarator(&mut open, ty, word),
                    None => ty = Some(self.type_named(word)),
                },
            }
        }
        let natural = open.largest.max(open.end.div_ceil(8)).next_multiple_of(open.align);
        let size = size.max(natural);
        let members = open.members.into();
        let kind = if is_union { Kind::Union { size, members } } else { Kind::Struct { size, members } };
        let id = match name {
            Some(name) => {
                let id = self.named[name];
                self.builder.set(id, kind);
                id
            }
            None => self.builder.add("", kind),
        };
        self.sizes.insert(id, (size, open.align));
        id
    }

    /// Whether a word is a type and not another member of the type before: the next word goes on.
    fn begins_type(&self, word: &str, words: &[&str]) -> bool {
        let follows = words.last().is_some_and(|w| !matches!(*w, "}" | ";" | "struct" | "union"));
        word.starts_with('*') || (follows && self.named.contains_key(word))
    }

    fn type_named(&mut self, word: &str) -> TypeId {
        let Some(target) = word.strip_prefix('*') else {
            return *self.named.get(word).unwrap_or_else(|| panic!("type {word:?}"));
        };
        let to = match (target, self.named.get(target)) {
            ("void", _) => TypeId::VOID,
            (_, Some(&id)) => id,
            (name, None) => {
                let id = self.builder.add(name, Kind::Fwd { is_union: false });
                self.named.insert(name.to_owned(), id);
                id
            }
        };
        let id = self.builder.add("", Kind::Ptr(to));
        self.sizes.insert(id, (8, 8));
        id
    }

    /// `name`, `name[n]`, `name:bits`, each perhaps with `@offset`.
    fn declarator(&mut self, open: &mut Open, ty: TypeId, word: &str) {
        let (word, at) = word.split_once('@').map_or((word, None), |(w, at)| (w, Some(number(at))));
        if let Some((name, bits)) = word.split_once(':') {
            return self.add_member(open, ty, name, Some(number(bits)), at);
        }
        let Some((name, len)) = word.strip_suffix(']').and_then(|w| w.split_once('[')) else {
            return self.add_member(open, ty, word, None, at);
        };
        let len = number(len);
        let index = self.named["unsigned int"];
        let array = self.builder.add("", Kind::Array { elem: ty, index, len });
        let (size, align) = self.sizes[&ty];
        self.sizes.insert(array, (size * len, align));
        self.add_member(open, array, name, None, at);
    }

    /// Places a member by the rules of C on x86-64.
    fn add_member(&mut self, open: &mut Open, ty: TypeId, name: &str, bits: Option<u32>, at: Option<u32>) {
        let (size, align) = *self.sizes.get(&ty).unwrap_or_else(|| panic!("size of the type of {name}"));
        let from = match at {
            Some(at) => at * 8,
            None if open.is_union => 0,
            None => open.end,
        };
        let width = bits.unwrap_or(size * 8);
        // A bit field only moves on if it would cross a unit of its type.
        let crosses = from / (size * 8).max(1) != (from + width - 1) / (size * 8).max(1);
        let bit_offset = if bits.is_none() || crosses { from.next_multiple_of(align * 8) } else { from };
        let name = self.builder.name(name);
        open.members.push(Member { name, ty, bit_offset, bitfield_bits: bits.unwrap_or(0) as u8 });
        open.align = open.align.max(align);
        open.largest = open.largest.max(if open.is_union { size } else { 0 });
        open.end = if open.is_union { 0 } else { bit_offset + width };
    }
}

fn number(word: &str) -> u32 {
    word.parse().unwrap_or_else(|_| panic!("{word:?} is no number"))
}
