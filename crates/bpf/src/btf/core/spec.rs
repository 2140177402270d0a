//! An access path within a type graph: `0:1:2` with the names that it stands for.

use super::super::types::{Btf, Kind, TypeId};
use super::{CoreError, CoreRelo};

/// Most steps of a path (`BPF_CORE_SPEC_MAX_LEN`).
pub(super) const SPEC_LEN_MAX: usize = 64;

/// A path with its turning points: the type it starts from, named fields, array indices.
pub(super) struct Spec<'a> {
    pub(super) btf: &'a Btf,
    pub(super) root: TypeId,
    pub(super) accessors: Vec<Accessor<'a>>,
    /// Steps including those into anonymous members.
    pub(super) raw_len: usize,
    /// Offset of what it leads to, bits.
    pub(super) bit_offset: u64,
}

/// A turning point: member or enumerator `idx` of `ty`, called `name`; or element `idx`, each of type `ty`.
#[derive(Clone, Copy)]
pub(super) struct Accessor<'a> {
    pub(super) ty: TypeId,
    pub(super) idx: u32,
    pub(super) name: Option<&'a str>,
}

impl<'a> Spec<'a> {
    pub(super) fn new(btf: &'a Btf, root: TypeId) -> Self {
        Self { btf, root, accessors: Vec::new(), raw_len: 0, bit_offset: 0 }
    }

    /// Reads the path of a relocation along the types that it was compiled with.
    #[doc(alias = "bpf_core_parse_spec")]
    pub(super) fn parse(btf: &'a Btf, relo: &CoreRelo) -> Result<Self, CoreError> {
        if relo.ty.index() >= btf.types().len() {
            return Err("it names a type that does not exist".to_owned());
        }
        let mut spec = Self::new(btf, relo.ty);
        // 64 numbers of at most 10 digits each, with colons, and one byte to see that there is more.
        let text = btf.str_up_to(relo.access, SPEC_LEN_MAX * 11 + 1);
        if relo.kind.is_type() {
            return if text == "0" { Ok(spec) } else { Err(bad_path(text)) };
        }
        let path = parse_path(text)?;
        spec.raw_len = path.len();
        let id = btf.resolve(relo.ty);
        if relo.kind.is_enumval() {
            let (Kind::Enum { values, .. }, [idx]) = (&btf.ty(id).kind, path.as_slice()) else {
                return Err(bad_path(text));
            };
            let value = values.get(*idx as usize).ok_or_else(|| bad_path(text))?;
            spec.accessors.push(Accessor { ty: id, idx: *idx, name: Some(btf.str(value.name)) });
            return Ok(spec);
        }
        spec.accessors.push(Accessor { ty: id, idx: path[0], name: None });
        spec.add_elements(id, path[0])?;
        let mut id = id;
        for &idx in &path[1..] {
            id = spec.step(id, idx).ok_or_else(|| bad_path(text))??;
        }
        Ok(spec)
    }

    /// One step from `id`; `None` if the type has no such place.
    fn step(&mut self, id: TypeId, idx: u32) -> Option<Result<TypeId, CoreError>> {
        let id = self.btf.resolve(id);
        match &self.btf.ty(id).kind {
            Kind::Struct { members, .. } | Kind::Union { members, .. } => {
                let m = members.get(idx as usize)?;
                self.bit_offset += u64::from(m.bit_offset);
                if !m.name.is_empty() {
                    let name = Some(self.btf.str(m.name));
                    self.accessors.push(Accessor { ty: id, idx, name });
                }
                Some(Ok(m.ty))
            }
            Kind::Array { elem, len, .. } => {
                if idx >= *len && !self.is_flexible_array(*len) {
                    return None;
                }
                let elem = self.btf.resolve(*elem);
                self.accessors.push(Accessor { ty: elem, idx, name: None });
                Some(self.add_elements(elem, idx).map(|()| elem))
            }
            _ => None,
        }
    }

    /// Whether an array of `len` elements that the last accessor leads to is the flexible last member of
    /// a struct.
    #[doc(alias = "is_flex_arr")]
    pub(super) fn is_flexible_array(&self, len: u32) -> bool {
        let Some(last) = self.accessors.last() else { return false };
        let members = self.btf.ty(last.ty).kind.members();
        last.name.is_some() && len == 0 && last.idx as usize + 1 == members.len()
    }

    /// Moves over `count` values of a type.
    pub(super) fn add_elements(&mut self, id: TypeId, count: u32) -> Result<(), CoreError> {
        let size = self.btf.size_of(id).ok_or("it leads through a type without a size")?;
        let bits = size.checked_mul(u64::from(count)).and_then(|n| n.checked_mul(8));
        let sum = bits.and_then(|n| n.checked_add(self.bit_offset)).filter(|&n| n <= u64::from(u32::MAX));
        self.bit_offset = sum.ok_or("it leads beyond 512 MiB")?;
        Ok(())
    }
}

fn parse_path(text: &str) -> Result<Vec<u32>, CoreError> {
    if text.len() > SPEC_LEN_MAX * 11 {
        return Err("its access path is too long".to_owned());
    }
    let path: Result<Vec<u32>, _> = text.split(':').map(str::parse).collect();
    match path {
        Ok(path) if path.len() <= SPEC_LEN_MAX && path.iter().all(|&n| n <= i32::MAX as u32) => Ok(path),
        _ => Err(bad_path(text)),
    }
}

fn bad_path(text: &str) -> CoreError {
    let text: String = text.chars().take(64).collect();
    format!("its access path {text:?} does not fit the type")
}
