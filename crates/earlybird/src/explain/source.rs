//! Source texts as far as an object carries them: the lines that its line information names.

use std::collections::BTreeMap;
use std::ops::Range;

use bpf::disasm::disassemble;
use bpf::object::{LineInfo, ProgramSpec};

/// Lines that a picture may reach over, around its main place.
const MAX_DISTANCE: u32 = 2000;

/// A place in a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) file: String,
    pub(super) line: u32,
    /// Bytes of the line's text.
    pub(super) span: Range<usize>,
}

/// The sources of a program: C where the object has line information, else the disassembly.
pub(super) struct Sources<'a> {
    program: &'a ProgramSpec,
    disassembly: Option<BTreeMap<u32, String>>,
}

/// Consecutive lines of a file, those that are not known left out.
pub(super) struct Excerpt {
    pub(super) text: String,
    pub(super) first_line: u32,
    /// Where each line begins in the text.
    starts: Vec<usize>,
}

impl<'a> Sources<'a> {
    /// The sources in which an instruction is shown.
    pub(super) fn new(program: &'a ProgramSpec, insn: u32) -> Self {
        let disassembly = line_of(program, insn).is_none().then(|| listing(program));
        Self { program, disassembly }
    }

    /// Where an instruction is, `None` if it has no line of its own.
    pub(super) fn spot(&self, insn: u32) -> Option<Spot> {
        if let Some(listing) = &self.disassembly {
            let text = listing.get(&insn)?;
            let file = format!("instructions of {}", self.program.name);
            return Some(Spot { file, line: insn, span: 0..text.len() });
        }
        let line = line_of(self.program, insn)?;
        let span = expression(&line.text, (line.column as usize).wrapping_sub(1));
        Some(Spot { file: line.file.to_string(), line: line.line, span })
    }

    /// The lines of a file around a place, as far as they are known.
    pub(super) fn excerpt(&self, file: &str, around: u32) -> Excerpt {
        let mut lines: BTreeMap<u32, &str> = BTreeMap::new();
        match &self.disassembly {
            Some(listing) => lines.extend(listing.iter().map(|(line, text)| (*line, text.as_str()))),
            None => {
                let of_file = self.program.line_info.iter().filter(|l| *l.file == *file && l.line != 0);
                lines.extend(of_file.map(|l| (l.line, l.text.trim_end_matches(['\r', '\n']))));
            }
        }
        lines.retain(|line, _| near(*line, around));
        let first_line = lines.first_key_value().map_or(around, |(line, _)| *line);
        let mut excerpt = Excerpt { text: String::new(), first_line, starts: Vec::new() };
        for (line, text) in lines {
            while first_line + (excerpt.starts.len() as u32) < line {
                excerpt.push("...");
            }
            excerpt.push(text);
        }
        excerpt
    }
}

/// Whether two lines are shown in one picture.
pub(super) fn near(line: u32, around: u32) -> bool {
    line.abs_diff(around) <= MAX_DISTANCE
}

impl Excerpt {
    fn push(&mut self, line: &str) {
        self.starts.push(self.text.len());
        // A line break inside of a line would shift all that follow.
        self.text.extend(line.chars().map(|c| if c == '\n' || c == '\r' { ' ' } else { c }));
        self.text.push('\n');
    }

    /// A place as bytes of the text.
    pub(super) fn span(&self, spot: &Spot) -> Option<Range<usize>> {
        let start = *self.starts.get(spot.line.checked_sub(self.first_line)? as usize)?;
        let span = start + spot.span.start..start + spot.span.end;
        let whole = self.text.is_char_boundary(span.start) && self.text.is_char_boundary(span.end);
        (whole && span.end <= self.text.len()).then_some(span)
    }
}

/// The line of an instruction. The compiler gives line 0 to what belongs to no line; then it is the one before.
pub(super) fn line_of(program: &ProgramSpec, insn: u32) -> Option<&LineInfo> {
    let lines = &program.line_info;
    let after = lines.partition_point(|l| l.insn <= insn);
    lines[..after].iter().rev().find(|l| l.line != 0)
}

fn listing(program: &ProgramSpec) -> BTreeMap<u32, String> {
    let mut lines = BTreeMap::new();
    let mut wide = false;
    for (i, insn) in program.insns.iter().enumerate() {
        if !std::mem::take(&mut wide) {
            lines.insert(i as u32, disassemble(insn, program.insns.get(i + 1), None));
            wide = insn.is_ld_imm64();
        }
    }
    lines
}

/// The expression that begins at a column: a name with what it is a member of, an operator with its operand.
/// The whole line if there is nothing.
fn expression(text: &str, column: usize) -> Range<usize> {
    let bytes = text.as_bytes();
    let name = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let names_end = |mut at: usize| {
        while bytes.get(at).copied().is_some_and(name) {
            at += 1;
        }
        at
    };
    let indent = text.len() - text.trim_start().len();
    let whole = indent..text.trim_end().len().max(indent);
    let Some(first) = bytes.get(column).filter(|b| b.is_ascii_graphic()) else { return whole };
    let mut start = column;
    let mut end = names_end(column);
    if !name(*first) {
        while end < bytes.len()
            && end < column + 3
            && bytes[end].is_ascii_punctuation()
            && !b"()[];,\"".contains(&bytes[end])
        {
            end += 1;
        }
        end = names_end(end);
    }
    // `eth->h_proto` is given as `h_proto`.
    while start > 0 && name(*first) {
        let before = &bytes[..start];
        let arrow = if before.ends_with(b"->") { 2 } else { usize::from(before.ends_with(b".")) };
        let owner = before[..start - arrow].iter().rev().take_while(|b| name(**b)).count();
        if arrow == 0 || owner == 0 {
            break;
        }
        start -= arrow + owner;
    }
    start..end.max(start + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_found_by_their_column() {
        let at = |text: &str, column: usize| text[expression(text, column)].to_owned();
        assert_eq!(at("\tif (eth->h_proto != 8)", 10), "eth->h_proto");
        assert_eq!(at("\tif (a.b.c > end)", 9), "a.b.c");
        assert_eq!(at("\tif (p + 1 > end)", 11), ">");
        assert_eq!(at("\treturn *p;", 8), "*p");
        assert_eq!(at("\tvalue = lookup(&m, &k);", 9), "lookup");
        assert_eq!(at("\treturn 2;", usize::MAX), "return 2;");
        assert_eq!(at("\treturn 2;", 90), "return 2;");
        assert_eq!(at("\t(x)", 1), "(");
        assert_eq!(at("", 0), "");
        assert_eq!(at("é = 1", 1), "é = 1");
    }
}
