//! The type graph of one BTF blob: what each type is, and the table of names that they share.
//!
//! Names are offsets ([`Name`]) into one string table, so that a kernel's 150,000 types are read in
//! milliseconds; [`Btf::str`] turns them into text. A parsed graph is closed: every [`TypeId`] and
//! every [`Name`] in it is valid. Cycles are not: code that follows ids bounds its depth.

use std::sync::OnceLock;

use super::index::{NameIndex, TagIndex};

/// Number of a type within its [`Btf`]; 0 is `void`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub struct TypeId(pub u32);

impl TypeId {
    /// `void`.
    pub const VOID: Self = Self(0);

    /// As an index into [`Btf::types`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A name: offset into the string table of its [`Btf`]; 0 is the empty name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub struct Name(pub u32);

impl Name {
    /// No name.
    pub const EMPTY: Self = Self(0);

    /// Whether this is the name of something anonymous.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Type information of an object or of a kernel.
#[derive(Clone)]
pub struct Btf {
    pub(super) types: Vec<Type>,
    pub(super) strings: String,
    pub(super) names: OnceLock<NameIndex>,
    pub(super) tags: OnceLock<TagIndex>,
}

/// One type: its name and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type {
    /// Name; empty if anonymous.
    pub name: Name,
    /// What it is.
    pub kind: Kind,
}

/// `BTF_KIND_*` with what belongs to each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Type 0.
    Void,
    /// `BTF_KIND_INT`.
    Int {
        /// Size, bytes.
        size: u32,
        /// `BTF_INT_SIGNED`.
        signed: bool,
        /// `BTF_INT_CHAR`.
        is_char: bool,
        /// `BTF_INT_BOOL`.
        is_bool: bool,
        /// Bit offset within the storage.
        bit_offset: u8,
        /// Width, bits.
        bits: u8,
    },
    /// `BTF_KIND_PTR`.
    Ptr(TypeId),
    /// `BTF_KIND_ARRAY`.
    Array {
        /// Element.
        elem: TypeId,
        /// Index.
        index: TypeId,
        /// Elements.
        len: u32,
    },
    /// `BTF_KIND_STRUCT`.
    Struct {
        /// Size, bytes.
        size: u32,
        /// Members in order.
        members: Box<[Member]>,
    },
    /// `BTF_KIND_UNION`.
    Union {
        /// Size, bytes.
        size: u32,
        /// Members in order.
        members: Box<[Member]>,
    },
    /// `BTF_KIND_ENUM` and `BTF_KIND_ENUM64`.
    Enum {
        /// Size, bytes.
        size: u32,
        /// Whether values are signed.
        signed: bool,
        /// Names and values.
        values: Box<[EnumValue]>,
    },
    /// `BTF_KIND_FWD`.
    Fwd {
        /// Whether of a union.
        is_union: bool,
    },
    /// `BTF_KIND_TYPEDEF`.
    Typedef(TypeId),
    /// `BTF_KIND_VOLATILE`.
    Volatile(TypeId),
    /// `BTF_KIND_CONST`.
    Const(TypeId),
    /// `BTF_KIND_RESTRICT`.
    Restrict(TypeId),
    /// `BTF_KIND_FUNC`.
    Func {
        /// `FUNC_PROTO`.
        proto: TypeId,
        /// Linkage.
        linkage: Linkage,
    },
    /// `BTF_KIND_FUNC_PROTO`.
    FuncProto {
        /// Return type.
        ret: TypeId,
        /// Names and types of the parameters; a last one of type 0 means varargs.
        params: Box<[Param]>,
    },
    /// `BTF_KIND_VAR`.
    Var {
        /// Type.
        ty: TypeId,
        /// Linkage.
        linkage: Linkage,
    },
    /// `BTF_KIND_DATASEC`.
    Datasec {
        /// Size, bytes.
        size: u32,
        /// Variables.
        vars: Box<[SecVar]>,
    },
    /// `BTF_KIND_FLOAT`.
    Float {
        /// Size, bytes.
        size: u32,
    },
    /// `BTF_KIND_DECL_TAG`; the tag is the name.
    DeclTag {
        /// What is tagged.
        ty: TypeId,
        /// Member or parameter, or -1 for the type itself.
        component: i32,
    },
    /// `BTF_KIND_TYPE_TAG`; the tag is the name.
    TypeTag(TypeId),
}

/// A member of a struct or union.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Name; empty if anonymous.
    pub name: Name,
    /// Type.
    pub ty: TypeId,
    /// Offset, bits.
    pub bit_offset: u32,
    /// Width of a bit field, bits; 0 if it is none.
    pub bitfield_bits: u8,
}

/// An enumerator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnumValue {
    /// Name.
    pub name: Name,
    /// Value, sign- or zero-extended; an unsigned 64-bit one as its bits.
    pub value: i64,
}

/// A parameter of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    /// Name; empty if the declaration has none.
    pub name: Name,
    /// Type; `void` in the last place means varargs.
    pub ty: TypeId,
}

/// A variable in a `DATASEC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecVar {
    /// `VAR` (in `.ksyms` also `FUNC`).
    pub ty: TypeId,
    /// Offset, bytes.
    pub offset: u32,
    /// Size, bytes.
    pub size: u32,
}

/// Linkage of a function or variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linkage {
    /// Within one file.
    Static,
    /// Across files.
    Global,
    /// Defined elsewhere.
    Extern,
}

/// A [`Kind`] without its contents, numbered as `BTF_KIND_*`. `ENUM64` counts as [`BtfKind::Enum`].
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum BtfKind {
    Void = 0,
    Int = 1,
    Ptr = 2,
    Array = 3,
    Struct = 4,
    Union = 5,
    Enum = 6,
    Fwd = 7,
    Typedef = 8,
    Volatile = 9,
    Const = 10,
    Restrict = 11,
    Func = 12,
    FuncProto = 13,
    Var = 14,
    Datasec = 15,
    Float = 16,
    DeclTag = 17,
    TypeTag = 18,
}

impl BtfKind {
    /// The kind in words, as error messages say it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Void => "void",
            Self::Int => "int",
            Self::Ptr => "ptr",
            Self::Array => "array",
            Self::Struct => "struct",
            Self::Union => "union",
            Self::Enum => "enum",
            Self::Fwd => "fwd",
            Self::Typedef => "typedef",
            Self::Volatile => "volatile",
            Self::Const => "const",
            Self::Restrict => "restrict",
            Self::Func => "func",
            Self::FuncProto => "func_proto",
            Self::Var => "var",
            Self::Datasec => "datasec",
            Self::Float => "float",
            Self::DeclTag => "decl_tag",
            Self::TypeTag => "type_tag",
        }
    }
}

impl Type {
    /// Type 0.
    pub const VOID: Self = Self { name: Name::EMPTY, kind: Kind::Void };

    /// The kind without its contents.
    #[must_use]
    pub fn tag(&self) -> BtfKind {
        self.kind.tag()
    }
}

impl Kind {
    /// The kind without its contents.
    #[must_use]
    pub fn tag(&self) -> BtfKind {
        match self {
            Self::Void => BtfKind::Void,
            Self::Int { .. } => BtfKind::Int,
            Self::Ptr(_) => BtfKind::Ptr,
            Self::Array { .. } => BtfKind::Array,
            Self::Struct { .. } => BtfKind::Struct,
            Self::Union { .. } => BtfKind::Union,
            Self::Enum { .. } => BtfKind::Enum,
            Self::Fwd { .. } => BtfKind::Fwd,
            Self::Typedef(_) => BtfKind::Typedef,
            Self::Volatile(_) => BtfKind::Volatile,
            Self::Const(_) => BtfKind::Const,
            Self::Restrict(_) => BtfKind::Restrict,
            Self::Func { .. } => BtfKind::Func,
            Self::FuncProto { .. } => BtfKind::FuncProto,
            Self::Var { .. } => BtfKind::Var,
            Self::Datasec { .. } => BtfKind::Datasec,
            Self::Float { .. } => BtfKind::Float,
            Self::DeclTag { .. } => BtfKind::DeclTag,
            Self::TypeTag(_) => BtfKind::TypeTag,
        }
    }

    /// The members of a struct or union; none for anything else.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        match self {
            Self::Struct { members, .. } | Self::Union { members, .. } => members,
            _ => &[],
        }
    }

    /// What a typedef, `const`, `volatile`, `restrict` or type tag stands before.
    #[must_use]
    pub fn modified(&self) -> Option<TypeId> {
        match *self {
            Self::Typedef(t) | Self::Volatile(t) | Self::Const(t) | Self::Restrict(t) | Self::TypeTag(t) => {
                Some(t)
            }
            _ => None,
        }
    }
}

impl Btf {
    /// All types by number; entry 0 is `void`.
    #[must_use]
    pub fn types(&self) -> &[Type] {
        &self.types
    }

    /// All types with their numbers, `void` left out.
    pub fn iter(&self) -> impl Iterator<Item = (TypeId, &Type)> {
        self.types.iter().enumerate().skip(1).map(|(i, t)| (TypeId(i as u32), t))
    }

    /// The type of a number; `void` if there is no such type (every number within a parsed graph has one).
    #[must_use]
    pub fn ty(&self, id: TypeId) -> &Type {
        self.types.get(id.index()).unwrap_or(&Type::VOID)
    }

    /// A name's text; empty for a name of another table.
    #[must_use]
    pub fn str(&self, name: Name) -> &str {
        let rest = self.strings.get(name.0 as usize..).unwrap_or("");
        rest.split_once('\0').map_or(rest, |(text, _)| text)
    }

    /// The first `max` bytes, or less, of a text in the string table.
    pub(crate) fn str_up_to(&self, name: Name, max: usize) -> &str {
        let rest = self.strings.get(name.0 as usize..).unwrap_or("");
        let head = &rest[..rest.floor_char_boundary(max)];
        head.split_once('\0').map_or(head, |(text, _)| text)
    }

    /// Bytes of the string table.
    pub(crate) fn strings_len(&self) -> usize {
        self.strings.len()
    }

    /// The name of a type; empty if it is anonymous.
    #[must_use]
    pub fn name_of(&self, id: TypeId) -> &str {
        self.str(self.ty(id).name)
    }

    pub(super) fn from_parts(types: Vec<Type>, strings: String) -> Self {
        Self { types, strings, names: OnceLock::new(), tags: OnceLock::new() }
    }
}

impl PartialEq for Btf {
    fn eq(&self, other: &Self) -> bool {
        self.types == other.types && self.strings == other.strings
    }
}

impl Eq for Btf {}

impl std::fmt::Debug for Btf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Btf({} types, {} bytes of names)", self.types.len(), self.strings.len())
    }
}
