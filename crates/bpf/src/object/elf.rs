//! The ELF file beneath an object: sections, symbols and relocations, each offset checked once.
//!
//! The `object` crate reads the format; this turns it into the three plain tables that the loader needs,
//! with the limits that keep a hostile file from costing more than its size.

use std::collections::BTreeMap;

use object::LittleEndian as Le;
use object::elf;
use object::read::elf::{FileHeader, Rel, SectionHeader, Sym};

use super::error::{Outcome, Problem};

/// Longest name of a section or symbol, bytes. Names may overlap in the file, so each costs up to this.
const NAME_MAX: usize = 1024;

/// An object file, read.
pub(super) struct Elf<'a> {
    pub(super) sections: Vec<Section<'a>>,
    pub(super) symbols: Vec<Symbol<'a>>,
    /// Relocation sections by the section that they are about.
    relocations: BTreeMap<usize, Vec<usize>>,
}

/// A section; its number is its position in [`Elf::sections`].
pub(super) struct Section<'a> {
    pub(super) name: &'a str,
    pub(super) kind: elf::SectionType,
    pub(super) executable: bool,
    /// Bytes, also of a section without contents (`.bss`).
    pub(super) size: u64,
    pub(super) data: &'a [u8],
    header: &'a elf::SectionHeader64<Le>,
}

/// A symbol; its number is its position in [`Elf::symbols`].
#[derive(Clone, Copy)]
pub(super) struct Symbol<'a> {
    pub(super) name: &'a str,
    pub(super) place: Place,
    pub(super) value: u64,
    pub(super) size: u64,
    pub(super) binding: Binding,
    pub(super) kind: elf::SymbolType,
    /// `STV_HIDDEN` or `STV_INTERNAL`.
    pub(super) hidden: bool,
}

/// Where a symbol lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// Elsewhere: the symbol is only used here.
    Undefined,
    /// In the section of this number.
    Section(usize),
    /// Absolute, common, or another reserved number.
    Special,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Binding {
    Local,
    Global,
    Weak,
}

/// A place in a section that a symbol's address must be written to.
#[derive(Clone, Copy)]
pub(super) struct Relocation {
    /// Bytes from the start of the section.
    pub(super) offset: u64,
    /// Position in [`Elf::symbols`].
    pub(super) symbol: usize,
}

impl<'a> Elf<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Outcome<Self> {
        let header = check_header(bytes)?;
        let broken = |e: object::Error| Problem::new(format!("damaged ELF file: {e}"));
        let headers = header.section_headers(Le, bytes).map_err(broken)?;
        let names = match headers {
            [] => return Err(Problem::new("no sections in this ELF file; is it stripped?")),
            _ => header.shstrndx(Le, bytes).map_err(broken)?,
        };
        let names = string_section(headers, names as usize, bytes)?;
        let sections = headers
            .iter()
            .enumerate()
            .map(|(i, h)| Section::read(h, bytes, names).map_err(|p| p.in_section(&format!("#{i}"))))
            .collect::<Outcome<Vec<_>>>()?;
        // Sections of a real file do not overlap. Without this a small file could name its bytes often.
        let total = sections.iter().map(|s| s.data.len()).sum::<usize>();
        if total > bytes.len() {
            return Err(Problem::new("damaged ELF file: sections overlap"));
        }
        let symbols = read_symbols(headers, &sections, bytes)?;
        let mut relocations: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (i, s) in sections.iter().enumerate() {
            if matches!(s.kind, elf::SHT_REL | elf::SHT_RELA) {
                relocations.entry(s.header.sh_info(Le) as usize).or_default().push(i);
            }
        }
        Ok(Self { sections, symbols, relocations })
    }

    /// The number of the first section of a name.
    pub(super) fn section_named(&self, name: &str) -> Option<usize> {
        self.sections.iter().position(|s| s.name == name)
    }

    /// The relocations of a section, in the order of the file, from all its `SHT_REL` sections.
    pub(super) fn relocations(&self, target: usize) -> Outcome<Vec<Relocation>> {
        let mut all = Vec::new();
        for &i in self.relocations.get(&target).map_or(&[][..], |v| v) {
            let s = &self.sections[i];
            if s.kind == elf::SHT_RELA && !s.data.is_empty() {
                let reason = "relocations with addends (SHT_RELA) are no part of the BPF ABI; build the object \
                              with clang -target bpf";
                return Err(Problem::new(reason).in_section(s.name));
            }
            if s.kind == elf::SHT_REL {
                self.read_relocations(s, &mut all)?;
            }
        }
        Ok(all)
    }

    fn read_relocations(&self, s: &Section<'_>, all: &mut Vec<Relocation>) -> Outcome<()> {
        let rels = object::pod::slice_from_all_bytes::<elf::Rel64<Le>>(s.data)
            .map_err(|()| Problem::new("damaged ELF file: size is no multiple of 16").in_section(s.name))?;
        for rel in rels {
            let symbol = rel.r_sym(Le) as usize;
            if symbol >= self.symbols.len() {
                let reason =
                    format!("damaged ELF file: relocation against symbol {symbol}, which does not exist");
                return Err(Problem::new(reason).in_section(s.name));
            }
            all.push(Relocation { offset: rel.r_offset(Le), symbol });
        }
        Ok(())
    }
}

impl<'a> Section<'a> {
    fn read(header: &'a elf::SectionHeader64<Le>, bytes: &'a [u8], names: &'a [u8]) -> Outcome<Self> {
        let name = name_at(names, header.sh_name(Le))?;
        let data = header.data(Le, bytes).map_err(|_| {
            Problem::new(format!("damaged ELF file: section {name:?} lies outside of the file"))
        })?;
        let executable = header.sh_flags(Le).contains(elf::SHF_EXECINSTR);
        Ok(Self { name, kind: header.sh_type(Le), executable, size: header.sh_size(Le), data, header })
    }
}

impl Symbol<'_> {
    /// An undefined global symbol without a type: something `extern`.
    pub(super) fn is_extern(&self) -> bool {
        self.place == Place::Undefined && self.binding != Binding::Local && self.kind == elf::STT_NOTYPE
    }

    pub(super) fn is_section(&self) -> bool {
        self.kind == elf::STT_SECTION
    }
}

fn check_header(bytes: &[u8]) -> Outcome<&elf::FileHeader64<Le>> {
    const BUILD: &str = "build it with: clang -O2 -g -target bpf -c prog.c -o prog.o";
    let error = |reason: String| Err(Problem::new(reason));
    match bytes {
        [] => return error("the file is empty".to_owned()),
        [0x7f, b'E', b'L', b'F', class, data, ..] => {
            if *class != 2 {
                return error(format!("a 32-bit ELF file is no BPF object; {BUILD}"));
            }
            if *data == 2 {
                return error(format!("a big-endian object; {BUILD} (little endian)"));
            }
        }
        _ => return error(format!("not an ELF file, so not a BPF object; {BUILD}")),
    }
    let header =
        elf::FileHeader64::<Le>::parse(bytes).map_err(|e| Problem::new(format!("damaged ELF file: {e}")))?;
    match header.e_machine(Le) {
        elf::EM_BPF | elf::EM_NONE => {}
        other => {
            let machine = match other {
                elf::EM_X86_64 => "x86-64".to_owned(),
                elf::EM_AARCH64 => "arm64".to_owned(),
                other => format!("machine {}", other.0),
            };
            return error(format!("an ELF file for {machine}, not for BPF; {BUILD}"));
        }
    }
    if header.e_type(Le) != elf::ET_REL {
        return error(format!("not a relocatable object but a linked ELF file; {BUILD}"));
    }
    Ok(header)
}

fn string_section<'a>(
    headers: &[elf::SectionHeader64<Le>],
    index: usize,
    bytes: &'a [u8],
) -> Outcome<&'a [u8]> {
    let error = || Problem::new("damaged ELF file: no table of names");
    headers.get(index).and_then(|h| h.data(Le, bytes).ok()).ok_or_else(error)
}

fn read_symbols<'a>(
    headers: &'a [elf::SectionHeader64<Le>],
    sections: &[Section<'a>],
    bytes: &'a [u8],
) -> Outcome<Vec<Symbol<'a>>> {
    let mut tables = sections.iter().filter(|s| s.kind == elf::SHT_SYMTAB);
    let (table, None) = (tables.next(), tables.next()) else {
        return Err(Problem::new("damaged ELF file: more than one symbol table"));
    };
    let table = table.ok_or_else(|| {
        Problem::new("no symbol table, so no programs to find; was the object stripped (strip -g keeps it)?")
    })?;
    let raw = object::pod::slice_from_all_bytes::<elf::Sym64<Le>>(table.data)
        .map_err(|()| Problem::new("damaged ELF file: symbol table of odd size"))?;
    let names = string_section(headers, table.header.sh_link(Le) as usize, bytes)?;
    raw.iter().map(|sym| read_symbol(sym, sections.len(), names)).collect()
}

fn read_symbol<'a>(sym: &elf::Sym64<Le>, sections: usize, names: &'a [u8]) -> Outcome<Symbol<'a>> {
    let name = name_at(names, sym.st_name(Le))?;
    let place = match sym.st_shndx(Le) {
        elf::SHN_UNDEF => Place::Undefined,
        n if n.0 >= elf::SHN_LORESERVE => Place::Special,
        n if usize::from(n.0) < sections => Place::Section(usize::from(n.0)),
        _ => {
            return Err(
                Problem::new("damaged ELF file: it lies in a section that does not exist").in_symbol(name)
            );
        }
    };
    let binding = match sym.st_bind() {
        elf::STB_LOCAL => Binding::Local,
        elf::STB_WEAK => Binding::Weak,
        _ => Binding::Global,
    };
    let hidden = matches!(sym.st_visibility(), elf::STV_HIDDEN | elf::STV_INTERNAL);
    let (value, size) = (sym.st_value(Le), sym.st_size(Le));
    Ok(Symbol { name, place, value, size, binding, kind: sym.st_type(), hidden })
}

fn name_at(table: &[u8], offset: u32) -> Outcome<&str> {
    let rest = table.get(offset as usize..).unwrap_or(&[]);
    let head = &rest[..rest.len().min(NAME_MAX)];
    let Some(end) = head.iter().position(|&b| b == 0) else {
        if offset == 0 {
            return Ok("");
        }
        let reason = "damaged ELF file: a name lies outside of its table or is longer than 1023 bytes";
        return Err(Problem::new(reason));
    };
    std::str::from_utf8(&head[..end]).map_err(|_| Problem::new("damaged ELF file: a name is no UTF-8"))
}
