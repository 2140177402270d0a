//! Types as C text: declarations of variables and definitions of structs, for people.

use std::fmt::Write;

use super::types::*;

/// Deepest nesting that is written out.
const DEPTH_MAX: usize = 16;
/// Longest text, bytes, and most declarations in it; a hostile graph could go on for ever.
const TEXT_MAX: usize = 1 << 16;
const FUEL: u32 = 1 << 12;

impl Btf {
    /// How C declares something of this type: `struct xdp_md *ctx`, `__u8 mac[6]`, `int (*f)(void *)`.
    /// Without a declarator it is the type's name. What is nested too deeply ends in `...`.
    #[must_use]
    pub fn c_declaration(&self, id: TypeId, declarator: &str) -> String {
        let mut text = Text { btf: self, out: String::new(), fuel: FUEL };
        text.declaration(id, declarator.to_owned(), 0, DEPTH_MAX);
        text.out
    }

    /// The definition of a named struct, union, enum or typedef with its members, without a semicolon at the
    /// end; for anything else the same as [`Btf::c_declaration`].
    #[must_use]
    pub fn c_definition(&self, id: TypeId) -> String {
        let mut text = Text { btf: self, out: String::new(), fuel: FUEL };
        match self.ty(id).kind {
            Kind::Struct { .. } | Kind::Union { .. } | Kind::Enum { .. } => text.body(id, 0, DEPTH_MAX),
            Kind::Typedef(to) => {
                text.out.push_str("typedef ");
                text.declaration(to, self.name_of(id).to_owned(), 0, DEPTH_MAX);
            }
            _ => text.declaration(id, String::new(), 0, DEPTH_MAX),
        }
        text.out
    }
}

struct Text<'a> {
    btf: &'a Btf,
    out: String,
    /// Declarations that may still be written.
    fuel: u32,
}

impl Text<'_> {
    /// Writes `id declarator`: the declarator grows outwards until a type is left that has a name.
    fn declaration(&mut self, id: TypeId, declarator: String, indent: usize, depth: usize) {
        let Some(fuel) = self.fuel.checked_sub(1) else { return self.push("...") };
        self.fuel = fuel;
        let mut id = id;
        let mut declarator = declarator;
        let mut words = String::new();
        // Arrays and functions bind tighter than the pointer that was written last.
        let mut pointer = false;
        for _ in 0..DEPTH_MAX {
            let name = self.btf.name_of(id);
            match &self.btf.ty(id).kind {
                Kind::Const(to) | Kind::Volatile(to) | Kind::Restrict(to) => {
                    let word = self.btf.ty(id).tag().name();
                    if matches!(self.btf.ty(*to).kind, Kind::Ptr(_)) {
                        let space =
                            if declarator.is_empty() || declarator.starts_with('[') { "" } else { " " };
                        declarator = format!("{word}{space}{declarator}");
                        pointer = false;
                    } else {
                        words = format!("{words}{word} ");
                    }
                    id = *to;
                }
                Kind::TypeTag(to) => id = *to,
                Kind::Ptr(to) => {
                    declarator.insert(0, '*');
                    pointer = true;
                    id = *to;
                }
                Kind::Array { elem, len, .. } => {
                    declarator = match pointer {
                        true => format!("({declarator})[{len}]"),
                        false => format!("{declarator}[{len}]"),
                    };
                    pointer = false;
                    id = *elem;
                }
                Kind::FuncProto { ret, params } => {
                    let params = self.parameters(params, depth);
                    declarator = match pointer {
                        true => format!("({declarator})({params})"),
                        false => format!("{declarator}({params})"),
                    };
                    pointer = false;
                    id = *ret;
                }
                Kind::Func { proto, .. } => {
                    declarator.push_str(name);
                    id = *proto;
                }
                Kind::Var { ty, .. } => {
                    declarator.push_str(name);
                    id = *ty;
                }
                _ => {
                    self.push(&words);
                    self.base(id, indent, depth);
                    if !declarator.is_empty() {
                        let glued = declarator.starts_with('[');
                        self.push(if glued { "" } else { " " });
                        self.push(&declarator);
                    }
                    return;
                }
            }
        }
        self.push("...");
    }

    /// Writes a type that stands on its own: by name, or as a body if it has none.
    fn base(&mut self, id: TypeId, indent: usize, depth: usize) {
        let t = self.btf.ty(id);
        let name = self.btf.str(t.name);
        match &t.kind {
            Kind::Void => self.push("void"),
            Kind::Struct { .. } | Kind::Union { .. } | Kind::Enum { .. } if name.is_empty() => {
                self.body(id, indent, depth);
            }
            Kind::Struct { .. } | Kind::Union { .. } | Kind::Enum { .. } => {
                self.push(&format!("{} {name}", t.tag().name()));
            }
            Kind::Fwd { is_union } => {
                self.push(&format!("{} {name}", if *is_union { "union" } else { "struct" }));
            }
            _ => self.push(name),
        }
    }

    /// Writes `struct name { members }`.
    fn body(&mut self, id: TypeId, indent: usize, depth: usize) {
        let t = self.btf.ty(id);
        let name = self.btf.str(t.name);
        let space = if name.is_empty() { "" } else { " " };
        self.push(&format!("{}{space}{name} {{", t.tag().name()));
        let Some(depth) = depth.checked_sub(1) else { return self.push(" ... }") };
        let tabs = "\t".repeat(indent + 1);
        for m in t.kind.members() {
            self.push(&format!("\n{tabs}"));
            let name = self.btf.str(m.name).to_owned();
            self.declaration(m.ty, name, indent + 1, depth);
            if m.bitfield_bits != 0 {
                self.push(&format!(" : {}", m.bitfield_bits));
            }
            self.push(";");
        }
        if let Kind::Enum { values, signed, .. } = &t.kind {
            for v in values {
                let name = self.btf.str(v.name);
                let value = if *signed { v.value.to_string() } else { (v.value as u64).to_string() };
                self.push(&format!("\n{tabs}{name} = {value},"));
            }
        }
        self.push(&format!("\n{}}}", "\t".repeat(indent)));
    }

    fn parameters(&mut self, params: &[Param], depth: usize) -> String {
        let Some(depth) = depth.checked_sub(1) else { return "...".to_owned() };
        let before = std::mem::take(&mut self.out);
        for (i, p) in params.iter().enumerate() {
            self.push(if i == 0 { "" } else { ", " });
            if p.ty == TypeId::VOID {
                self.push("...");
            } else {
                self.declaration(p.ty, self.btf.str(p.name).to_owned(), 0, depth);
            }
        }
        let text = std::mem::replace(&mut self.out, before);
        if params.is_empty() { "void".to_owned() } else { text }
    }

    fn push(&mut self, text: &str) {
        if self.out.len() + text.len() <= TEXT_MAX {
            let _ = self.out.write_str(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btf::BtfBuilder;

    #[test]
    fn declarations_read_as_c() {
        let mut b = BtfBuilder::default();
        let int =
            Kind::Int { size: 4, signed: true, is_char: false, is_bool: false, bit_offset: 0, bits: 32 };
        let int = b.add("int", int);
        let ctx = b.add("xdp_md", Kind::Fwd { is_union: false });
        let ctx_ptr = b.add("", Kind::Ptr(ctx));
        let const_int = b.add("", Kind::Const(int));
        let to_const = b.add("", Kind::Ptr(const_int));
        let const_ptr = b.add("", Kind::Const(to_const));
        let row = b.add("", Kind::Array { elem: int, index: int, len: 4 });
        let rows = b.add("", Kind::Array { elem: row, index: int, len: 2 });
        let row_ptr = b.add("", Kind::Ptr(row));
        let params = [Param { name: b.name("ctx"), ty: ctx_ptr }, Param { name: Name::EMPTY, ty: to_const }];
        let proto = b.add("", Kind::FuncProto { ret: int, params: params.into() });
        let proto_ptr = b.add("", Kind::Ptr(proto));
        let func = b.add("run", Kind::Func { proto, linkage: Linkage::Global });
        let btf = b.finish();
        let cases = [
            (int, "x", "int x"),
            (ctx_ptr, "ctx", "struct xdp_md *ctx"),
            (ctx_ptr, "", "struct xdp_md *"),
            (to_const, "p", "const int *p"),
            (const_ptr, "p", "const int *const p"),
            (rows, "m", "int m[2][4]"),
            (row_ptr, "p", "int (*p)[4]"),
            (proto_ptr, "f", "int (*f)(struct xdp_md *ctx, const int *)"),
            (func, "", "int run(struct xdp_md *ctx, const int *)"),
            (TypeId::VOID, "", "void"),
        ];
        for (id, declarator, text) in cases {
            assert_eq!(btf.c_declaration(id, declarator), text);
        }
    }

    #[test]
    fn definitions_show_members_bit_fields_and_anonymous_members() {
        let mut b = BtfBuilder::default();
        let int =
            Kind::Int { size: 4, signed: true, is_char: false, is_bool: false, bit_offset: 0, bits: 32 };
        let int = b.add("int", int);
        let mut member =
            |name: &str, ty, bits| Member { name: b.name(name), ty, bit_offset: 0, bitfield_bits: bits };
        let inner = [member("a", int, 0), member("b", int, 3)];
        let inner = b.add("", Kind::Union { size: 4, members: inner.into() });
        let outer = [Member { name: Name::EMPTY, ty: inner, bit_offset: 0, bitfield_bits: 0 }];
        let outer = b.add("outer", Kind::Struct { size: 4, members: outer.into() });
        let value = [EnumValue { name: b.name("ON"), value: 1 }];
        let mode = b.add("mode", Kind::Enum { size: 4, signed: false, values: value.into() });
        let btf = b.finish();
        let text = "struct outer {\n\tunion {\n\t\tint a;\n\t\tint b : 3;\n\t};\n}";
        assert_eq!(btf.c_definition(outer), text);
        assert_eq!(btf.c_definition(mode), "enum mode {\n\tON = 1,\n}");
    }

    #[test]
    fn endless_types_end() {
        let mut b = BtfBuilder::default();
        let mut ty = b.add("", Kind::Void);
        b.set(ty, Kind::Ptr(ty));
        for _ in 0..64 {
            let param = Param { name: Name::EMPTY, ty };
            ty = b.add("", Kind::FuncProto { ret: ty, params: vec![param; 8].into() });
        }
        let btf = b.finish();
        assert!(btf.c_declaration(ty, "f").len() <= TEXT_MAX * 2);
    }
}
