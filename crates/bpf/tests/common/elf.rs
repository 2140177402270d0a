//! Writes ELF files, also such as no compiler would.

/// An ELF file in the making. Section 0, the symbol table and the tables of names come by themselves.
#[derive(Default)]
pub(crate) struct ElfWriter {
    sections: Vec<Section>,
    symbols: Vec<u8>,
    names: Vec<u8>,
}

struct Section {
    name: String,
    kind: u32,
    flags: u64,
    info: u32,
    data: Vec<u8>,
}

/// `SHT_PROGBITS`.
pub(crate) const PROGBITS: u32 = 1;
/// `SHT_REL`.
pub(crate) const REL: u32 = 9;
/// `SHF_EXECINSTR | SHF_ALLOC`.
pub(crate) const EXECUTABLE: u64 = 6;
/// `STB_GLOBAL << 4 | STT_FUNC`, and the local one.
pub(crate) const GLOBAL_FUNC: u8 = 0x12;
pub(crate) const LOCAL_FUNC: u8 = 0x02;
/// `STB_GLOBAL << 4 | STT_NOTYPE`.
pub(crate) const GLOBAL_NOTYPE: u8 = 0x10;

impl ElfWriter {
    pub(crate) fn new() -> Self {
        Self { sections: Vec::new(), symbols: vec![0; 24], names: vec![0] }
    }

    /// Adds a section; returns its number.
    pub(crate) fn section(&mut self, name: &str, kind: u32, flags: u64, data: Vec<u8>) -> u16 {
        self.sections.push(Section { name: name.to_owned(), kind, flags, info: 0, data });
        self.sections.len() as u16
    }

    /// Adds a section of relocations of another one.
    pub(crate) fn relocations(&mut self, target: u16, entries: &[(u64, u32)]) {
        let entry = |&(offset, symbol): &(u64, u32)| {
            let info = u64::from(symbol) << 32 | 1;
            [offset.to_le_bytes(), info.to_le_bytes()].concat()
        };
        let data = entries.iter().flat_map(entry).collect();
        let name = format!(".rel{target}");
        self.sections.push(Section { name, kind: REL, flags: 0, info: target.into(), data });
    }

    /// Adds a name to the symbols' table of names; returns its place.
    pub(crate) fn name(&mut self, name: &[u8]) -> u32 {
        let at = self.names.len() as u32;
        self.names.extend_from_slice(name);
        self.names.push(0);
        at
    }

    /// Adds a symbol; returns its number.
    pub(crate) fn symbol(&mut self, name: u32, info: u8, section: u16, value: u64, size: u64) -> u32 {
        self.symbols.extend_from_slice(&name.to_le_bytes());
        self.symbols.extend_from_slice(&[info, 0]);
        self.symbols.extend_from_slice(&section.to_le_bytes());
        self.symbols.extend_from_slice(&value.to_le_bytes());
        self.symbols.extend_from_slice(&size.to_le_bytes());
        (self.symbols.len() / 24 - 1) as u32
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        let n = self.sections.len() as u32;
        let [symtab, strtab, shstrtab] = [n + 1, n + 2, n + 3];
        let (symbols, names) = (std::mem::take(&mut self.symbols), std::mem::take(&mut self.names));
        let table = |name: &str, kind, data| Section { name: name.to_owned(), kind, flags: 0, info: 0, data };
        self.sections.push(table(".symtab", 2, symbols));
        self.sections.push(table(".strtab", 3, names));
        let mut section_names = vec![0];
        let mut places: Vec<u32> = Vec::new();
        for name in self.sections.iter().map(|s| s.name.as_str()).chain([".shstrtab"]) {
            places.push(section_names.len() as u32);
            section_names.extend_from_slice(name.as_bytes());
            section_names.push(0);
        }
        self.sections.push(table(".shstrtab", 3, section_names));

        let mut out = vec![0; 64];
        let mut headers = vec![0; 64];
        for (i, s) in self.sections.iter().enumerate() {
            let link = if i as u32 + 1 == symtab { strtab } else { symtab };
            let entsize: u64 = match s.kind {
                2 => 24,
                REL => 16,
                _ => 0,
            };
            let words = [s.flags, 0, out.len() as u64, s.data.len() as u64];
            headers.extend_from_slice(&places[i].to_le_bytes());
            headers.extend_from_slice(&s.kind.to_le_bytes());
            words.iter().for_each(|w| headers.extend_from_slice(&w.to_le_bytes()));
            headers.extend_from_slice(&link.to_le_bytes());
            headers.extend_from_slice(&s.info.to_le_bytes());
            [8, entsize].iter().for_each(|w: &u64| headers.extend_from_slice(&w.to_le_bytes()));
            out.extend_from_slice(&s.data);
        }
        let at = out.len() as u64;
        let ident = [0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 247, 0, 1, 0, 0, 0];
        out[..24].copy_from_slice(&ident);
        out[40..48].copy_from_slice(&at.to_le_bytes());
        out[52..54].copy_from_slice(&64u16.to_le_bytes());
        out[58..60].copy_from_slice(&64u16.to_le_bytes());
        out[60..62].copy_from_slice(&(shstrtab as u16 + 1).to_le_bytes());
        out[62..64].copy_from_slice(&(shstrtab as u16).to_le_bytes());
        out.extend_from_slice(&headers);
        out
    }
}
