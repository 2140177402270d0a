//! The kernel's rules for format strings of programs, and what they print.
//!
//! Work is done in two passes as in the kernel: [`prepare`] checks the whole string and fetches the
//! arguments, so that an error prints nothing; [`Prepared::render`] then cannot fail.

use uapi::Errno;

/// Memory that a format argument may point to, or may not.
pub(crate) trait Probe {
    /// The byte at an address; `None` if there is none.
    fn byte(&self, addr: u64) -> Option<u8>;

    /// What `%p` shows instead of an address.
    fn hash_pointer(&self, addr: u64) -> u32;
}

/// Room for fetched arguments, bytes.
///
/// Kernel: `include/linux/bpf.h MAX_BPRINTF_BIN_ARGS, v6.18`
const MAX_BIN_ARGS: usize = 512;
/// Largest field width.
const FIELD_WIDTH_MAX: u32 = (1 << 23) - 1;

/// A format string that has been found correct, with its arguments.
pub(crate) struct Prepared {
    pieces: Vec<Piece>,
    args: Vec<u8>,
}

/// A part of a format string. Its argument is the next one of those that were fetched.
enum Piece {
    Text(Vec<u8>),
    Str(Spec),
    /// What was printed when the arguments were fetched: strings and addresses that `%p` points to.
    Printed,
    Char(Spec),
    Int(Spec, IntKind),
    Pointer(Spec, PointerKind),
}

#[derive(Clone, Copy)]
struct IntKind {
    long: bool,
    signed: bool,
    hex: Option<Case>,
}

#[derive(Clone, Copy)]
enum PointerKind {
    /// Shown as a number that says nothing of the address.
    Hashed,
    /// As it is.
    Plain,
    /// For which there is no symbol.
    Symbol,
}

struct Number {
    value: u64,
    negative: bool,
    signed: bool,
    hex: Option<Case>,
}

#[derive(Clone, Copy)]
enum Case {
    Lower,
    Upper,
}

/// Flags and width of a conversion.
#[derive(Clone, Copy, Default)]
struct Spec {
    left: bool,
    plus: bool,
    space: bool,
    zero: bool,
    width: Option<u32>,
}

/// Checks a format string up to its NUL and fetches its arguments.
///
/// # Errors
///
/// `EINVAL` for a missing NUL, a character that is not printable ASCII, an unknown conversion or too few
/// arguments; `ENOSPC` if the fetched arguments are larger than the kernel's buffer.
///
/// Kernel: `kernel/bpf/helpers.c bpf_bprintf_prepare, v6.18`
pub(crate) fn prepare(fmt: &[u8], args: &[u64], memory: &dyn Probe) -> Result<Prepared, Errno> {
    let end = fmt.iter().position(|c| *c == 0).ok_or(Errno::EINVAL)?;
    Parser { fmt: &fmt[..end], at: 0, args, used: 0, room: Room(Vec::new()), memory, pieces: Vec::new() }
        .run()
}

/// The kernel's buffer for arguments, whose size limits what can be printed.
struct Room(Vec<u8>);

impl Room {
    fn put(&mut self, bytes: &[u8], align: usize) -> Result<(), Errno> {
        let start = self.0.len().next_multiple_of(align);
        if MAX_BIN_ARGS.saturating_sub(start) < bytes.len() {
            return Err(Errno::ENOSPC);
        }
        self.0.resize(start, 0);
        self.0.extend(bytes);
        Ok(())
    }

    /// A text and its NUL, for which there is room.
    fn put_text(&mut self, text: &[u8]) {
        self.0.extend(text);
        self.0.push(0);
    }

    fn left(&self) -> usize {
        MAX_BIN_ARGS.saturating_sub(self.0.len())
    }
}

struct Parser<'a> {
    fmt: &'a [u8],
    at: usize,
    args: &'a [u64],
    used: usize,
    room: Room,
    memory: &'a dyn Probe,
    pieces: Vec<Piece>,
}

impl Parser<'_> {
    fn run(mut self) -> Result<Prepared, Errno> {
        while self.at < self.fmt.len() {
            let c = self.fmt[self.at];
            if !is_printable(c) {
                return Err(Errno::EINVAL);
            }
            self.at += 1;
            if c != b'%' {
                self.text(c);
            } else if self.peek(0) == b'%' {
                self.at += 1;
                self.text(b'%');
            } else {
                let arg = *self.args.get(self.used).ok_or(Errno::EINVAL)?;
                self.used += 1;
                self.conversion(arg)?;
            }
        }
        Ok(Prepared { pieces: self.pieces, args: self.room.0 })
    }

    fn text(&mut self, c: u8) {
        match self.pieces.last_mut() {
            Some(Piece::Text(text)) => text.push(c),
            _ => self.pieces.push(Piece::Text(vec![c])),
        }
    }

    /// The character `n` places on; 0 behind the end.
    fn peek(&self, n: usize) -> u8 {
        self.fmt.get(self.at + n).copied().unwrap_or(0)
    }

    fn conversion(&mut self, arg: u64) -> Result<(), Errno> {
        let spec = self.flags_and_width();
        let piece = match self.peek(0) {
            b'p' => {
                self.at += 1;
                return self.pointer(spec, arg);
            }
            b's' => {
                self.at += 1;
                self.string(arg)?;
                Piece::Str(spec)
            }
            b'c' => {
                self.at += 1;
                self.room.put(&[arg as u8], 1)?;
                Piece::Char(spec)
            }
            _ => Piece::Int(spec, self.number(arg)?),
        };
        self.pieces.push(piece);
        Ok(())
    }

    fn flags_and_width(&mut self) -> Spec {
        let mut spec = Spec::default();
        loop {
            match self.peek(0) {
                b'0' => spec.zero = true,
                b'+' => spec.plus = true,
                b'-' => spec.left = true,
                b' ' => spec.space = true,
                _ => break,
            }
            self.at += 1;
        }
        while self.peek(0).is_ascii_digit() {
            let digit = u32::from(self.peek(0) - b'0');
            spec.width = Some((spec.width.unwrap_or(0) * 10 + digit).min(FIELD_WIDTH_MAX));
            self.at += 1;
        }
        spec
    }

    fn number(&mut self, arg: u64) -> Result<IntKind, Errno> {
        let long = self.peek(0) == b'l';
        for _ in 0..2 {
            self.at += usize::from(self.peek(0) == b'l');
        }
        let hex = match self.peek(0) {
            b'i' | b'd' | b'u' => None,
            b'x' => Some(Case::Lower),
            b'X' => Some(Case::Upper),
            _ => return Err(Errno::EINVAL),
        };
        let signed = matches!(self.peek(0), b'i' | b'd');
        self.at += 1;
        self.room.put(&arg.to_le_bytes()[..if long { 8 } else { 4 }], 4)?;
        Ok(IntKind { long, signed, hex })
    }

    /// A NUL-terminated string, cut at the end of the buffer; empty if it cannot be read.
    fn string(&mut self, arg: u64) -> Result<(), Errno> {
        if !ends_word(self.peek(0)) {
            return Err(Errno::EINVAL);
        }
        let left = self.room.left();
        if left == 0 {
            return Err(Errno::ENOSPC);
        }
        let mut bytes = Vec::new();
        for offset in 0..left as u64 {
            match self.memory.byte(arg.wrapping_add(offset)) {
                Some(0) => break,
                Some(c) => bytes.push(c),
                None => {
                    bytes.clear();
                    break;
                }
            }
        }
        bytes.truncate(left - 1);
        self.room.put_text(&bytes);
        Ok(())
    }

    fn pointer(&mut self, spec: Spec, arg: u64) -> Result<(), Errno> {
        let kind = [self.peek(0), self.peek(1)];
        let piece = match kind {
            [c, _] if ends_word(c) => self.number_of(spec, PointerKind::Hashed, arg)?,
            [b'k', b's'] => {
                self.at += 2;
                self.string(arg)?;
                Piece::Printed
            }
            // There is no user space to read strings from.
            [b'u', b's'] => {
                self.at += 2;
                self.string(0)?;
                Piece::Printed
            }
            [b'K', _] => self.number_of(spec, PointerKind::Hashed, arg)?,
            [b'x', _] => self.number_of(spec, PointerKind::Plain, arg)?,
            [b's' | b'S', _] => self.number_of(spec, PointerKind::Symbol, arg)?,
            [b'B', _] => {
                self.room.put_text(format!("{arg:#x}").as_bytes());
                Piece::Printed
            }
            [style @ (b'i' | b'I'), b'4'] => self.ipv4(style, arg)?,
            [style @ (b'i' | b'I'), b'6'] => self.ipv6(style, arg)?,
            _ => return Err(Errno::EINVAL),
        };
        self.pieces.push(piece);
        // The renderer takes every letter and digit that follows for a part of the conversion.
        while self.peek(0).is_ascii_alphanumeric() {
            self.at += 1;
        }
        Ok(())
    }

    fn number_of(&mut self, spec: Spec, kind: PointerKind, arg: u64) -> Result<Piece, Errno> {
        self.room.put(&arg.to_le_bytes(), 4)?;
        Ok(Piece::Pointer(spec, kind))
    }

    fn ipv4(&mut self, style: u8, arg: u64) -> Result<Piece, Errno> {
        let ip: [u8; 4] = self.address(arg)?;
        let text = match style {
            b'i' => ip.map(|b| format!("{b:03}")).join("."),
            _ => ip.map(|b| b.to_string()).join("."),
        };
        self.room.put_text(text.as_bytes());
        Ok(Piece::Printed)
    }

    fn ipv6(&mut self, style: u8, arg: u64) -> Result<Piece, Errno> {
        let ip: [u8; 16] = self.address(arg)?;
        let separator = if style == b'i' { "" } else { ":" };
        let words = ip.as_chunks::<2>().0.iter().map(|[a, b]| format!("{a:02x}{b:02x}"));
        let text = words.collect::<Vec<_>>().join(separator);
        self.room.put_text(text.as_bytes());
        Ok(Piece::Printed)
    }

    /// The bytes of an IP address; zeros if they cannot be read.
    fn address<const N: usize>(&mut self, arg: u64) -> Result<[u8; N], Errno> {
        if self.room.left() < N {
            return Err(Errno::ENOSPC);
        }
        let mut bytes = [0; N];
        for (i, b) in bytes.iter_mut().enumerate() {
            match self.memory.byte(arg.wrapping_add(i as u64)) {
                Some(c) => *b = c,
                None => return Ok([0; N]),
            }
        }
        Ok(bytes)
    }
}

impl Prepared {
    /// Prints into a buffer of `size` bytes with its NUL.
    ///
    /// Kernel: `lib/vsprintf.c bstr_printf, v6.18`
    pub(crate) fn render(&self, size: usize, memory: &dyn Probe) -> Rendered {
        let mut out = Rendered { text: Vec::new(), len: 0, size };
        let mut args = Fetched { bytes: &self.args, at: 0 };
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => text.iter().for_each(|c| out.push(*c)),
                Piece::Str(spec) => out.padded(spec, args.text()),
                // Behind the end of the buffer the kernel leaves the text where it is, and takes it for
                // the argument of the conversion that follows.
                Piece::Printed if out.len >= size as u64 => {}
                Piece::Printed => out.padded(&Spec::default(), args.text()),
                Piece::Char(spec) => out.padded(spec, &args.number::<1>(1)),
                Piece::Int(spec, kind) => out.number(*spec, &args.int(*kind)),
                Piece::Pointer(spec, kind) => {
                    let addr = u64::from_le_bytes(args.number(4));
                    match kind {
                        PointerKind::Hashed => out.address(*spec, hashed(addr, memory)),
                        PointerKind::Plain => out.address(*spec, addr),
                        PointerKind::Symbol => out.padded(spec, format!("{addr:#x}").as_bytes()),
                    }
                }
            }
        }
        out
    }
}

/// What `%p` shows: null and errors as they are.
fn hashed(addr: u64, memory: &dyn Probe) -> u64 {
    let is_error = (-4095..0).contains(&(addr as i64));
    if addr == 0 || is_error { addr } else { memory.hash_pointer(addr).into() }
}

/// Reads fetched arguments.
struct Fetched<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fetched<'a> {
    fn number<const N: usize>(&mut self, align: usize) -> [u8; N] {
        self.at = self.at.next_multiple_of(align);
        let mut number = [0; N];
        for (byte, fetched) in number.iter_mut().zip(self.bytes.iter().skip(self.at)) {
            *byte = *fetched;
        }
        self.at += N;
        number
    }

    fn int(&mut self, IntKind { long, signed, hex }: IntKind) -> Number {
        let value = match (long, signed) {
            (true, _) => u64::from_le_bytes(self.number(4)),
            (false, true) => i64::from(i32::from_le_bytes(self.number(4))) as u64,
            (false, false) => u32::from_le_bytes(self.number(4)).into(),
        };
        Number { value, negative: signed && (value as i64) < 0, signed, hex }
    }

    fn text(&mut self) -> &'a [u8] {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let len = rest.iter().position(|c| *c == 0).unwrap_or(rest.len());
        self.at += len + 1;
        &rest[..len]
    }
}

/// What was printed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rendered {
    /// The text, cut to what the buffer holds beside the NUL.
    pub(crate) text: Vec<u8>,
    /// The length that the text would have had.
    pub(crate) len: u64,
    size: usize,
}

impl Rendered {
    fn push(&mut self, c: u8) {
        if self.text.len() + 1 < self.size {
            self.text.push(c);
        }
        self.len += 1;
    }

    fn repeat(&mut self, c: u8, n: u32) {
        let room = (self.size.saturating_sub(1)).saturating_sub(self.text.len());
        self.text.extend(std::iter::repeat_n(c, room.min(n as usize)));
        self.len += u64::from(n);
    }

    fn padded(&mut self, spec: &Spec, text: &[u8]) {
        let pad = spec.width.unwrap_or(0).saturating_sub(text.len() as u32);
        if !spec.left {
            self.repeat(b' ', pad);
        }
        text.iter().for_each(|c| self.push(*c));
        if spec.left {
            self.repeat(b' ', pad);
        }
    }

    fn number(&mut self, spec: Spec, number: &Number) {
        let magnitude = if number.negative { number.value.wrapping_neg() } else { number.value };
        let digits = match number.hex {
            None => magnitude.to_string(),
            Some(Case::Lower) => format!("{magnitude:x}"),
            Some(Case::Upper) => format!("{magnitude:X}"),
        };
        let sign = match number {
            Number { negative: true, .. } => Some(b'-'),
            Number { signed: true, .. } if spec.plus => Some(b'+'),
            Number { signed: true, .. } if spec.space => Some(b' '),
            _ => None,
        };
        let len = digits.len() as u32 + u32::from(sign.is_some());
        let pad = spec.width.unwrap_or(0).saturating_sub(len);
        if !spec.left && !spec.zero {
            self.repeat(b' ', pad);
        }
        if let Some(sign) = sign {
            self.push(sign);
        }
        if !spec.left && spec.zero {
            self.repeat(b'0', pad);
        }
        digits.bytes().for_each(|c| self.push(c));
        if spec.left {
            self.repeat(b' ', pad);
        }
    }

    fn address(&mut self, mut spec: Spec, addr: u64) {
        if spec.width.is_none() {
            spec.width = Some(16);
            spec.zero = true;
        }
        self.number(spec, &Number { value: addr, negative: false, signed: false, hex: Some(Case::Lower) });
    }
}

fn is_printable(c: u8) -> bool {
    c == b' ' || c.is_ascii_graphic() || is_space(c)
}

pub(crate) fn is_space(c: u8) -> bool {
    matches!(c, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

/// Whether a conversion may end before this character.
fn ends_word(c: u8) -> bool {
    c == 0 || is_space(c) || c.is_ascii_punctuation()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Memory;

    impl Probe for Memory {
        fn byte(&self, addr: u64) -> Option<u8> {
            match addr {
                0x1000..0x1100 => b"hello\0\xc0\xa8\x00\x01\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\xab\xcd"
                    .get(addr as usize - 0x1000)
                    .copied(),
                0x2000..0x3000 => Some(b'z'),
                _ => None,
            }
        }

        fn hash_pointer(&self, _addr: u64) -> u32 {
            0xdead_beef
        }
    }

    fn printed(fmt: &str, args: &[u64]) -> Result<String, Errno> {
        let fmt = [fmt.as_bytes(), &[0]].concat();
        let text = prepare(&fmt, args, &Memory)?.render(1024, &Memory).text;
        Ok(String::from_utf8(text).expect("ASCII"))
    }

    #[track_caller]
    fn prints(fmt: &str, args: &[u64], expected: &str) {
        assert_eq!(printed(fmt, args).as_deref(), Ok(expected), "{fmt:?}");
    }

    #[test]
    fn numbers_are_cut_to_their_width_and_padded() {
        prints("%d %u", &[u64::MAX, u64::MAX], "-1 4294967295");
        prints("%ld %llu", &[u64::MAX, u64::MAX], "-1 18446744073709551615");
        prints("%5d|%-5d|%05d|%+d|% d", &[42, 42, 42, 42, 42], "   42|42   |00042|+42| 42");
        prints("%-05d|%05d", &[42, -42_i64 as u64], "42   |-0042");
        prints("%x %X %08x %lx", &[0xabc, 0xabc, 0xabc, u64::MAX], "abc ABC 00000abc ffffffffffffffff");
        prints("100%% %i", &[7], "100% 7");
    }

    #[test]
    fn strings_characters_and_addresses() {
        prints("%s|%10s|%-10s|", &[0x1000, 0x1000, 0x1000], "hello|     hello|hello     |");
        prints("%s|%c%3c", &[9, 65, 66], "|A  B");
        prints("%pks", &[0x1000], "hello");
        prints("%pus.", &[0x1000], ".");
        prints("%pI4 %pi4", &[0x1006, 0x1006], "192.168.0.1 192.168.000.001");
        prints("%pI6", &[0x100a], "fd00:0000:0000:0000:0000:0000:0000:abcd");
        prints("%pi6", &[0x100a], "fd00000000000000000000000000abcd");
        prints("%pI4", &[1], "0.0.0.0");
        prints("%p %px %p", &[0x1000, 0x1000, 0], "00000000deadbeef 0000000000001000 0000000000000000");
        prints("%pK %ps %pS", &[0x1000, 0x1000, 0x1000], "00000000deadbeef 0x1000 0x1000");
    }

    #[test]
    fn letters_after_an_address_belong_to_it() {
        prints("%pI6cde!", &[0x100a], "fd00:0000:0000:0000:0000:0000:0000:abcd!");
    }

    #[test]
    fn what_the_kernel_refuses_is_refused() {
        for (fmt, args) in [
            ("%d %d", &[1][..]),
            ("%f", &[1]),
            ("%#x", &[1]),
            ("%.3d", &[1]),
            ("%*d", &[1, 1]),
            ("%hd", &[1]),
            ("%sx", &[0x1000]),
            ("%pM", &[0x1000]),
            ("%pI5", &[0x1000]),
            ("%pe", &[0x1000]),
            ("\u{1}", &[]),
            ("\u{e4}", &[]),
            ("%", &[1]),
            ("%l", &[1]),
        ] {
            assert_eq!(printed(fmt, args), Err(Errno::EINVAL), "{fmt:?}");
        }
        assert_eq!(prepare(b"no end", &[], &Memory).err(), Some(Errno::EINVAL));
    }

    #[test]
    fn the_buffer_for_arguments_bounds_strings() {
        prints("%s", &[0x2000], &"z".repeat(511));
        assert_eq!(printed("%s %s", &[0x2000, 0x1000]), Err(Errno::ENOSPC));
        assert_eq!(printed("%s %d", &[0x2000, 0x1000]), Err(Errno::ENOSPC));
    }

    #[test]
    fn a_short_buffer_cuts_the_text_and_not_its_length() {
        let all = prepare(b"%20d\0", &[1], &Memory).expect("correct");
        assert_eq!(all.render(5, &Memory), Rendered { text: b"    ".to_vec(), len: 20, size: 5 });
        assert_eq!(all.render(0, &Memory).text, b"");
        let huge = prepare(b"%99999999999d\0", &[1], &Memory).expect("correct");
        assert_eq!(huge.render(5, &Memory).len, u64::from(FIELD_WIDTH_MAX));
    }

    #[test]
    fn behind_a_short_buffer_printed_arguments_are_taken_for_the_next() {
        let all = prepare(b"%pI4 %pi4%d\0", &[0x1006, 0x1006, 7], &Memory).expect("correct");
        // "192.168.0.1 " goes over the end; what "%d" then takes is "192.".
        let printed = all.render(5, &Memory);
        assert_eq!((printed.text, printed.len), (b"192.".to_vec(), 12 + 9));
        assert_eq!(all.render(64, &Memory).text, b"192.168.0.1 192.168.000.0017");
    }
}
