//! Lookup in a type graph: by name and kind, by essential name, and of the tags of a declaration.
//!
//! Both tables are sorted, not hashed in place: an object made to collide costs a logarithm, no more.

use super::types::{Btf, BtfKind, Kind, TypeId};

/// Types sorted by hash of the essential name, essential name, name, kind and number.
#[derive(Clone)]
pub(super) struct NameIndex(Vec<(u32, TypeId)>);

/// Declaration tags sorted by what they tag.
#[derive(Clone)]
pub(super) struct TagIndex(Vec<(TypeId, TypeId)>);

impl Btf {
    /// The first type of a name and kind (`Struct` does not find a union; `Enum` finds `ENUM64` too).
    #[doc(alias = "btf__find_by_name_kind")]
    #[must_use]
    pub fn find(&self, name: &str, kind: BtfKind) -> Option<TypeId> {
        let index = self.name_index();
        let wanted = (hash(essential_name(name)), essential_name(name), name, kind);
        let at = index.partition_point(|&(h, id)| {
            let t = self.ty(id);
            let n = self.str(t.name);
            (h, essential_name(n), n, t.tag()) < wanted
        });
        let &(_, id) = index.get(at)?;
        (self.name_of(id) == name && self.ty(id).tag() == kind).then_some(id)
    }

    /// All named types whose name without `___flavour` is `essential`, of any kind.
    pub fn candidates(&self, essential: &str) -> impl Iterator<Item = TypeId> {
        let index = self.name_index();
        let wanted = (hash(essential), essential);
        let key = |&(h, id): &(u32, TypeId)| (h, essential_name(self.name_of(id)));
        let from = index.partition_point(|e| key(e) < wanted);
        let len = index[from..].partition_point(|e| key(e) <= wanted);
        index[from..from + len].iter().map(|&(_, id)| id)
    }

    /// The tags of a declaration (`__attribute__((btf_decl_tag(...)))`): component and text. A component
    /// is a member or parameter, -1 the declaration itself.
    pub fn decl_tags(&self, id: TypeId) -> impl Iterator<Item = (i32, &str)> {
        let tags = &self.tags.get_or_init(|| TagIndex::new(self)).0;
        let from = tags.partition_point(|&(target, _)| target < id);
        tags[from..].iter().take_while(move |(target, _)| *target == id).filter_map(|&(_, tag)| {
            match self.ty(tag).kind {
                Kind::DeclTag { component, .. } => Some((component, self.name_of(tag))),
                _ => None,
            }
        })
    }

    fn name_index(&self) -> &[(u32, TypeId)] {
        &self.names.get_or_init(|| NameIndex::new(self)).0
    }
}

impl NameIndex {
    fn new(btf: &Btf) -> Self {
        let mut entries: Vec<_> = btf
            .iter()
            .filter(|(_, t)| !t.name.is_empty() && !matches!(t.kind, Kind::DeclTag { .. } | Kind::TypeTag(_)))
            .map(|(id, t)| (hash(essential_name(btf.str(t.name))), id))
            .collect();
        entries.sort_unstable_by(|&(ha, a), &(hb, b)| {
            ha.cmp(&hb).then_with(|| {
                let (ta, tb) = (btf.ty(a), btf.ty(b));
                let (na, nb) = (btf.str(ta.name), btf.str(tb.name));
                (essential_name(na), na, ta.tag(), a).cmp(&(essential_name(nb), nb, tb.tag(), b))
            })
        });
        Self(entries)
    }
}

impl TagIndex {
    fn new(btf: &Btf) -> Self {
        let mut tags: Vec<_> = btf
            .iter()
            .filter_map(|(id, t)| match t.kind {
                Kind::DeclTag { ty, .. } => Some((ty, id)),
                _ => None,
            })
            .collect();
        tags.sort_unstable();
        Self(tags)
    }
}

/// A name without its `___flavour`: all before the last `___` that stands between two characters other
/// than `_`.
#[doc(alias = "bpf_core_essential_name_len")]
#[must_use]
pub fn essential_name(name: &str) -> &str {
    let b = name.as_bytes();
    let flavour = b.windows(5).rposition(|w| w[0] != b'_' && w[4] != b'_' && w[1..4] == *b"___");
    flavour.and_then(|at| name.get(..at + 1)).unwrap_or(name)
}

/// FNV-1a.
fn hash(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btf::BtfBuilder;

    #[test]
    fn essential_name_ends_before_the_last_flavour() {
        assert_eq!(essential_name("task___v2"), "task");
        assert_eq!(essential_name("task___a___b"), "task___a");
        assert_eq!(essential_name("task"), "task");
        assert_eq!(essential_name("task___"), "task___");
        assert_eq!(essential_name("___task"), "___task");
        assert_eq!(essential_name("task____x"), "task____x");
        assert_eq!(essential_name(""), "");
    }

    #[test]
    fn find_tells_kinds_apart_and_candidates_gather_flavours() {
        let mut b = BtfBuilder::default();
        let int = b.add("s", Kind::Typedef(TypeId::VOID));
        let st = b.add("s", Kind::Struct { size: 0, members: Box::default() });
        let flavour = b.add("s___x", Kind::Struct { size: 0, members: Box::default() });
        let btf = b.finish();
        assert_eq!(btf.find("s", BtfKind::Struct), Some(st));
        assert_eq!(btf.find("s", BtfKind::Typedef), Some(int));
        assert_eq!(btf.find("s", BtfKind::Union), None);
        assert_eq!(btf.find("s___x", BtfKind::Struct), Some(flavour));
        assert_eq!(btf.find("t", BtfKind::Struct), None);
        let mut all: Vec<_> = btf.candidates("s").collect();
        all.sort_unstable();
        assert_eq!(all, [int, st, flavour]);
    }
}
