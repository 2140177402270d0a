//! Questions that the rules ask of type information.

use super::env::Env;
use super::reg::BtfRef;
use crate::btf::{Btf, BtfKind, Kind, Member, TypeId};

/// Name of a type, empty if it has none or there is no such type.
pub(crate) fn name(btf: &Btf, id: TypeId) -> &str {
    if id.index() < btf.types().len() { btf.name_of(id) } else { "" }
}

/// What a type is; `Void` if there is no such type.
pub(crate) fn kind(btf: &Btf, id: TypeId) -> &Kind {
    btf.types().get(id.index()).map_or(&Kind::Void, |t| &t.kind)
}

/// Follows typedefs, qualifiers and type tags.
pub(crate) fn skip_modifiers(btf: &Btf, id: TypeId) -> TypeId {
    btf.resolve(id)
}

/// Members of a struct or union.
pub(crate) fn members(btf: &Btf, id: TypeId) -> &[Member] {
    kind(btf, id).members()
}

/// Name of a member.
pub(crate) fn member_name<'b>(btf: &'b Btf, m: &Member) -> &'b str {
    btf.str(m.name)
}

pub(crate) fn is_struct(btf: &Btf, id: TypeId) -> bool {
    matches!(kind(btf, id), Kind::Struct { .. })
}

pub(crate) fn is_scalar(btf: &Btf, id: TypeId) -> bool {
    matches!(kind(btf, id), Kind::Int { .. } | Kind::Enum { .. })
}

/// Bytes of a type, through arrays; `None` for functions, forward declarations and void.
pub(crate) fn size(btf: &Btf, id: TypeId) -> Option<u32> {
    btf.size_of(id).and_then(|s| u32::try_from(s).ok())
}

/// The kernel's word for a kind of type.
pub(crate) fn kind_text(btf: &Btf, id: TypeId) -> &'static str {
    match kind(btf, id) {
        Kind::Void => "UNKNOWN",
        Kind::Int { .. } => "INT",
        Kind::Ptr(_) => "PTR",
        Kind::Array { .. } => "ARRAY",
        Kind::Struct { .. } => "STRUCT",
        Kind::Union { .. } => "UNION",
        Kind::Enum { .. } => "ENUM",
        Kind::Fwd { .. } => "FWD",
        Kind::Typedef(_) => "TYPEDEF",
        Kind::Volatile(_) => "VOLATILE",
        Kind::Const(_) => "CONST",
        Kind::Restrict(_) => "RESTRICT",
        Kind::Func { .. } => "FUNC",
        Kind::FuncProto { .. } => "FUNC_PROTO",
        Kind::Var { .. } => "VAR",
        Kind::Datasec { .. } => "DATASEC",
        Kind::Float { .. } => "FLOAT",
        Kind::DeclTag { .. } => "DECL_TAG",
        Kind::TypeTag(_) => "TYPE_TAG",
    }
}

/// The struct of a name.
pub(crate) fn find_struct(btf: &Btf, wanted: &str) -> Option<u32> {
    btf.find(wanted, BtfKind::Struct).map(|t| t.0)
}

/// The function of a name.
pub(crate) fn find_func(btf: &Btf, wanted: &str) -> Option<u32> {
    btf.find(wanted, BtfKind::Func).map(|t| t.0)
}

/// Declaration tags of a type (component -1) or of one of its members or parameters.
pub(crate) fn decl_tags(btf: &Btf, id: TypeId, component: i32) -> impl Iterator<Item = &str> {
    btf.decl_tags(id).filter(move |(c, _)| *c == component).map(|(_, t)| t)
}

/// Parameters of a function (names and types) and its result.
pub(crate) fn params(btf: &Btf, func: TypeId) -> Option<(Vec<(String, TypeId)>, TypeId)> {
    let (ret, params) = btf.prototype(func)?;
    Some((params.iter().map(|p| (btf.str(p.name).to_owned(), p.ty)).collect(), ret))
}

impl Env<'_> {
    /// Name of a type, empty if unknown.
    pub(super) fn btf_name(&self, which: BtfRef, id: u32) -> &str {
        match (which, self.btf(which)) {
            (_, Some(b)) => name(b, TypeId(id)),
            _ => "",
        }
    }

    /// The last part of an iterator's type name: `num` of `bpf_iter_num`.
    pub(super) fn iter_name(&self, which: BtfRef, id: u32) -> &str {
        let n = self.btf_name(which, id);
        n.strip_prefix("bpf_iter_").unwrap_or(if n.is_empty() { "<invalid>" } else { n })
    }
}
