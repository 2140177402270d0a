//! From the bytes of a `.BTF` section (or of `/sys/kernel/btf/vmlinux`) to a closed type graph.

use super::types::*;

/// `BTF_MAGIC`, little endian.
const MAGIC: u16 = 0xeb9f;
/// Longest name of a type, member, parameter or enumerator, bytes. The kernel refuses from 512.
const NAME_MAX: usize = 1024;
/// `struct btf_type`, bytes.
const TYPE_SIZE: usize = 12;

/// Why bytes are no type information.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// Shorter than its header says, or sections outside of it.
    #[error("BTF header: {0}")]
    Header(&'static str),
    /// Big endian.
    #[error("BTF is big endian; only objects for little-endian BPF (clang -target bpfel) can be used")]
    Endian,
    /// The string table does not begin and end with a zero byte.
    #[error("BTF string table does not begin and end with a zero byte")]
    Strings,
    /// A type cannot be read.
    #[error("BTF type {id}: {reason}")]
    Type {
        /// Its number.
        id: u32,
        /// What is wrong.
        reason: &'static str,
    },
}

impl Btf {
    /// Reads a BTF blob of which nothing is known. All ids and names in the result are valid.
    ///
    /// # Errors
    ///
    /// What does not fit the format; no partial result.
    pub fn parse(bytes: &[u8]) -> Result<Self, BtfError> {
        let header = Header::parse(bytes)?;
        let strings = string_table(header.strings)?;
        let mut p = Parser { strings: &strings, data: header.types, types: Vec::new() };
        p.types.reserve(header.types.len() / 32 + 1);
        p.types.push(Type::VOID);
        while !p.data.is_empty() {
            let t = p.parse_type().map_err(|reason| BtfError::Type { id: p.types.len() as u32, reason })?;
            p.types.push(t);
        }
        let types = p.types;
        check_ids(&types)?;
        Ok(Self::from_parts(types, strings))
    }
}

/// The two sections of a blob.
struct Header<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Header<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let field = |at: usize| read_u32(bytes, at).ok_or(BtfError::Header("truncated"));
        match field(0)? as u16 {
            MAGIC => {}
            m if m == MAGIC.swap_bytes() => return Err(BtfError::Endian),
            _ => return Err(BtfError::Header("not BTF: wrong magic number")),
        }
        if bytes[2] != 1 {
            return Err(BtfError::Header("version is not 1"));
        }
        let body = bytes.get(field(4)? as usize..).ok_or(BtfError::Header("longer than the section"))?;
        let section = |off: u32, len: u32| {
            let end = (off as usize).checked_add(len as usize)?;
            body.get(off as usize..end)
        };
        let outside = BtfError::Header("types or strings lie outside of the section");
        let types = section(field(8)?, field(12)?).ok_or(outside.clone())?;
        let strings = section(field(16)?, field(20)?).ok_or(outside)?;
        Ok(Self { types, strings })
    }
}

/// The string table as text; a byte that is no UTF-8 becomes a question mark, so that offsets hold.
fn string_table(bytes: &[u8]) -> Result<String, BtfError> {
    if bytes.first() != Some(&0) || bytes.last() != Some(&0) {
        return Err(BtfError::Strings);
    }
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|_| out.push('?'));
    }
    Ok(out)
}

struct Parser<'a> {
    strings: &'a str,
    data: &'a [u8],
    types: Vec<Type>,
}

type Reason = &'static str;

impl Parser<'_> {
    fn parse_type(&mut self) -> Result<Type, Reason> {
        let head = self.take(TYPE_SIZE)?;
        let [name, info, size_or_type] = [0, 4, 8].map(|at| u32_at(head, at));
        let name = self.name(name)?;
        let len = (info & 0xffff) as usize;
        let flag = info >> 31 != 0;
        let (size, ty) = (size_or_type, TypeId(size_or_type));
        let kind = match (info >> 24) & 0x1f {
            1 => self.int(size)?,
            2 => Kind::Ptr(ty),
            3 => self.array()?,
            4 => Kind::Struct { size, members: self.members(len, flag)? },
            5 => Kind::Union { size, members: self.members(len, flag)? },
            6 => Kind::Enum { size, signed: flag, values: self.enum32(len, flag)? },
            7 => Kind::Fwd { is_union: flag },
            8 => Kind::Typedef(ty),
            9 => Kind::Volatile(ty),
            10 => Kind::Const(ty),
            11 => Kind::Restrict(ty),
            12 => Kind::Func { proto: ty, linkage: linkage(len as u32)? },
            13 => Kind::FuncProto { ret: ty, params: self.params(len)? },
            14 => {
                let link = self.u32()?;
                Kind::Var { ty, linkage: linkage(link)? }
            }
            15 => Kind::Datasec { size, vars: self.vars(len)? },
            16 => Kind::Float { size },
            17 => Kind::DeclTag { ty, component: self.u32()? as i32 },
            18 => Kind::TypeTag(ty),
            19 => Kind::Enum { size, signed: flag, values: self.enum64(len)? },
            _ => return Err("unknown kind"),
        };
        Ok(Type { name, kind })
    }

    fn int(&mut self, size: u32) -> Result<Kind, Reason> {
        let enc = self.u32()?;
        let (flags, bit_offset, bits) = ((enc >> 24) & 0xf, (enc >> 16) as u8, enc as u8);
        if !matches!(size, 1 | 2 | 4 | 8 | 16) || u32::from(bit_offset) + u32::from(bits) > size * 8 {
            return Err("integer of impossible size");
        }
        let [signed, is_char, is_bool] = [1, 2, 4].map(|bit| flags & bit != 0);
        Ok(Kind::Int { size, signed, is_char, is_bool, bit_offset, bits })
    }

    fn array(&mut self) -> Result<Kind, Reason> {
        let b = self.take(12)?;
        let [elem, index, len] = [0, 4, 8].map(|at| u32_at(b, at));
        Ok(Kind::Array { elem: TypeId(elem), index: TypeId(index), len })
    }

    fn members(&mut self, len: usize, flag: bool) -> Result<Box<[Member]>, Reason> {
        self.records(len, 12, |p, b| {
            let [name, ty, offset] = [0, 4, 8].map(|at| u32_at(b, at));
            let (bit_offset, bitfield_bits) =
                if flag { (offset & 0xff_ffff, (offset >> 24) as u8) } else { (offset, 0) };
            Ok(Member { name: p.name(name)?, ty: TypeId(ty), bit_offset, bitfield_bits })
        })
    }

    fn enum32(&mut self, len: usize, signed: bool) -> Result<Box<[EnumValue]>, Reason> {
        self.records(len, 8, |p, b| {
            let raw = u32_at(b, 4);
            let value = if signed { i64::from(raw as i32) } else { i64::from(raw) };
            Ok(EnumValue { name: p.name(u32_at(b, 0))?, value })
        })
    }

    fn enum64(&mut self, len: usize) -> Result<Box<[EnumValue]>, Reason> {
        self.records(len, 12, |p, b| {
            let value = u64::from(u32_at(b, 4)) | (u64::from(u32_at(b, 8)) << 32);
            Ok(EnumValue { name: p.name(u32_at(b, 0))?, value: value as i64 })
        })
    }

    fn params(&mut self, len: usize) -> Result<Box<[Param]>, Reason> {
        self.records(len, 8, |p, b| Ok(Param { name: p.name(u32_at(b, 0))?, ty: TypeId(u32_at(b, 4)) }))
    }

    fn vars(&mut self, len: usize) -> Result<Box<[SecVar]>, Reason> {
        self.records(len, 12, |_, b| {
            let [ty, offset, size] = [0, 4, 8].map(|at| u32_at(b, at));
            Ok(SecVar { ty: TypeId(ty), offset, size })
        })
    }

    /// `len` records of `size` bytes. The bytes are there before anything is allocated for them.
    fn records<T>(
        &mut self,
        len: usize,
        size: usize,
        read: impl Fn(&Self, &[u8]) -> Result<T, Reason>,
    ) -> Result<Box<[T]>, Reason> {
        let bytes = self.take(len * size)?;
        bytes.chunks_exact(size).map(|b| read(self, b)).collect()
    }

    fn u32(&mut self) -> Result<u32, Reason> {
        self.take(4).map(|b| u32_at(b, 0))
    }

    fn take<'a>(&mut self, n: usize) -> Result<&'a [u8], Reason>
    where
        Self: 'a,
    {
        let data = self.data;
        let (head, rest) = data.split_at_checked(n).ok_or("cut off by the end of the section")?;
        self.data = rest;
        Ok(head)
    }

    fn name(&self, offset: u32) -> Result<Name, Reason> {
        let at = offset as usize;
        if !self.strings.is_char_boundary(at) || at >= self.strings.len() {
            return Err("name lies outside of the string table");
        }
        let bytes = &self.strings.as_bytes()[at..];
        let head = &bytes[..bytes.len().min(NAME_MAX)];
        if offset != 0 && !head.contains(&0) {
            return Err("name is longer than 1023 bytes");
        }
        // An offset to some later empty string is no name either.
        Ok(if bytes[0] == 0 { Name::EMPTY } else { Name(offset) })
    }
}

/// Every id that a type holds names a type, and functions have prototypes.
fn check_ids(types: &[Type]) -> Result<(), BtfError> {
    let ok = |id: TypeId| id.index() < types.len();
    for (id, t) in types.iter().enumerate() {
        let error = |reason| BtfError::Type { id: id as u32, reason };
        let valid = match &t.kind {
            Kind::Void | Kind::Int { .. } | Kind::Enum { .. } | Kind::Fwd { .. } | Kind::Float { .. } => true,
            Kind::Ptr(t)
            | Kind::Typedef(t)
            | Kind::Volatile(t)
            | Kind::Const(t)
            | Kind::Restrict(t)
            | Kind::TypeTag(t) => ok(*t),
            Kind::Array { elem, index, .. } => ok(*elem) && ok(*index),
            Kind::Struct { members, .. } | Kind::Union { members, .. } => members.iter().all(|m| ok(m.ty)),
            Kind::FuncProto { ret, params } => ok(*ret) && params.iter().all(|p| ok(p.ty)),
            Kind::Var { ty, .. } | Kind::DeclTag { ty, .. } => ok(*ty),
            Kind::Datasec { vars, .. } => vars.iter().all(|v| ok(v.ty)),
            Kind::Func { proto, .. } => {
                if types.get(proto.index()).is_some_and(|t| t.tag() != BtfKind::FuncProto) {
                    return Err(error("function whose type is no prototype"));
                }
                ok(*proto)
            }
        };
        if !valid {
            return Err(error("refers to a type that does not exist"));
        }
    }
    Ok(())
}

fn linkage(raw: u32) -> Result<Linkage, Reason> {
    match raw {
        0 => Ok(Linkage::Static),
        1 => Ok(Linkage::Global),
        2 => Ok(Linkage::Extern),
        _ => Err("unknown linkage"),
    }
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn read_u32(b: &[u8], at: usize) -> Option<u32> {
    b.get(at..at + 4).map(|b| u32_at(b, 0))
}
