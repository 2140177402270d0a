//! The `.BTF.ext` section: which function, which source line and which CO-RE relocation belongs to which
//! instruction.

use std::collections::BTreeMap;

use super::core::{CoreKind, CoreRelo};
use super::types::{Btf, Name, TypeId};

/// What `.BTF.ext` says, by the name of the section that it speaks of. Offsets are in instructions from
/// the start of that section; records keep their order.
#[derive(Clone, Debug, Default)]
pub struct BtfExt {
    /// Records by section.
    pub sections: BTreeMap<String, ExtSection>,
}

/// The records of one section.
#[derive(Clone, Debug, Default)]
pub struct ExtSection {
    /// Start of a function and its `FUNC`.
    pub funcs: Vec<(u32, TypeId)>,
    /// Source lines.
    pub lines: Vec<LineRecord>,
    /// CO-RE relocations.
    pub relos: Vec<CoreRelo>,
}

/// `struct bpf_line_info`; names are in the string table of the object's BTF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineRecord {
    /// First instruction.
    pub insn: u32,
    /// File name.
    pub file: Name,
    /// The line's text.
    pub text: Name,
    /// Line and column: `line << 10 | column`.
    pub line_col: u32,
}

/// Bytes of an instruction.
const INSN_SIZE: u32 = 8;

impl BtfExt {
    /// Reads a `.BTF.ext` section.
    ///
    /// # Errors
    ///
    /// What does not fit the format, as a sentence.
    pub fn parse(bytes: &[u8], btf: &Btf) -> Result<Self, String> {
        let word = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let field = |at| word(at).ok_or("the header is truncated");
        if field(0)? & 0x00ff_ffff != 0x0001_eb9f {
            return Err("the header has a wrong magic number or version".to_owned());
        }
        let header_len = field(4)?;
        let table = |at: usize| -> Result<&[u8], String> {
            // Tables that a shorter header does not have are empty.
            if at + 8 > header_len as usize {
                return Ok(&[]);
            }
            let (off, len) = (u64::from(field(at)?), u64::from(field(at + 4)?));
            let start = u64::from(header_len) + off;
            let range = start as usize..(start + len) as usize;
            bytes.get(range).ok_or_else(|| "a table lies outside of the section".to_owned())
        };
        let mut ext = Self::default();
        ext.read_table(table(8)?, btf, 8, |s, r| {
            s.funcs.push((r[0] / INSN_SIZE, TypeId(r[1])));
            Ok(())
        })?;
        ext.read_table(table(16)?, btf, 16, |s, r| {
            let [insn, file, text, line_col] = [r[0] / INSN_SIZE, r[1], r[2], r[3]];
            s.lines.push(LineRecord { insn, file: Name(file), text: Name(text), line_col });
            Ok(())
        })?;
        ext.read_table(table(24)?, btf, 16, |s, r| {
            if !r[0].is_multiple_of(INSN_SIZE) {
                return Err("a CO-RE relocation lies within an instruction".to_owned());
            }
            let kind = CoreKind::from_raw(r[3])
                .ok_or_else(|| format!("CO-RE relocation of unknown kind {}; update the loader", r[3]))?;
            let relo = CoreRelo { insn: r[0] / INSN_SIZE, ty: TypeId(r[1]), access: Name(r[2]), kind };
            s.relos.push(relo);
            Ok(())
        })?;
        Ok(ext)
    }

    /// Reads one table: the record size, then for each section its name, a count and records.
    fn read_table(
        &mut self,
        table: &[u8],
        btf: &Btf,
        min: usize,
        mut read: impl FnMut(&mut ExtSection, &[u32]) -> Result<(), String>,
    ) -> Result<(), String> {
        let Some((size, mut rest)) = split_word(table) else { return Ok(()) };
        let size = size as usize;
        if size < min || !size.is_multiple_of(4) {
            return Err(format!("records of {size} bytes, where at least {min} are needed"));
        }
        while !rest.is_empty() {
            let cut = || "a table ends within a record".to_owned();
            let (name, tail) = split_word(rest).ok_or_else(cut)?;
            let (count, tail) = split_word(tail).ok_or_else(cut)?;
            let len = (count as usize).checked_mul(size).ok_or_else(cut)?;
            let (records, tail) = tail.split_at_checked(len).ok_or_else(cut)?;
            let section = btf.str(Name(name));
            if section.len() > 1023 {
                return Err("a section name is longer than 1023 bytes".to_owned());
            }
            let section = self.sections.entry(section.to_owned()).or_default();
            for record in records.chunks_exact(size) {
                let mut words = [0; 4];
                for (word, b) in words.iter_mut().zip(record.as_chunks::<4>().0) {
                    *word = u32::from_le_bytes(*b);
                }
                read(section, &words)?;
            }
            rest = tail;
        }
        Ok(())
    }
}

fn split_word(b: &[u8]) -> Option<(u32, &[u8])> {
    let (head, rest) = b.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*head), rest))
}
