//! The type graph of one BTF blob.

/// Number of a type within its [`Btf`]; 0 is `void`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct TypeId(pub u32);

/// Type information of an object or of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Btf {
    /// Types by number; entry 0 is `void`.
    pub types: Vec<Type>,
}

/// One type: its name and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type {
    /// Name; empty if anonymous.
    pub name: String,
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
        members: Vec<Member>,
    },
    /// `BTF_KIND_UNION`.
    Union {
        /// Size, bytes.
        size: u32,
        /// Members in order.
        members: Vec<Member>,
    },
    /// `BTF_KIND_ENUM` and `BTF_KIND_ENUM64`.
    Enum {
        /// Size, bytes.
        size: u32,
        /// Whether values are signed.
        signed: bool,
        /// Names and values (sign- or zero-extended).
        values: Vec<(String, i64)>,
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
        params: Vec<(String, TypeId)>,
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
        vars: Vec<SecVar>,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Name; empty if anonymous.
    pub name: String,
    /// Type.
    pub ty: TypeId,
    /// Offset, bits.
    pub bit_offset: u32,
    /// Width of a bit field, bits; 0 if it is none.
    pub bitfield_bits: u8,
}

/// A variable in a `DATASEC`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecVar {
    /// `VAR`.
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
