//! Numbers from text, and text compared: `bpf_strtol`, `bpf_strtoul`, `bpf_strncmp`.

use uapi::Errno;

use super::print::is_space;
use super::{Args, Reply, errno};
use crate::vm::{Fault, Run};

/// Kernel: `kernel/bpf/helpers.c bpf_strtol, v6.18`
pub(super) fn strtol(run: &mut Run<'_, '_>, [buf, len, flags, res, _]: Args) -> Reply {
    let text = number_text(run, buf, len)?;
    let out = run.write(res, 8)?;
    out.write_u64(0, 0);
    let parsed = parse(&text, flags).and_then(|number| {
        let value = if number.negative { number.magnitude.wrapping_neg() } else { number.magnitude } as i64;
        let in_range = if number.negative { value <= 0 } else { value >= 0 };
        if in_range { Ok((value, number.len)) } else { Err(Errno::ERANGE) }
    });
    match parsed {
        Ok((value, len)) => {
            out.write_u64(0, value as u64);
            Ok(len)
        }
        Err(e) => errno(e),
    }
}

/// Kernel: `kernel/bpf/helpers.c bpf_strtoul, v6.18`
pub(super) fn strtoul(run: &mut Run<'_, '_>, [buf, len, flags, res, _]: Args) -> Reply {
    let text = number_text(run, buf, len)?;
    let out = run.write(res, 8)?;
    out.write_u64(0, 0);
    match parse(&text, flags) {
        Ok(Number { negative: true, .. }) => errno(Errno::EINVAL),
        Ok(number) => {
            out.write_u64(0, number.magnitude);
            Ok(number.len)
        }
        Err(e) => errno(e),
    }
}

/// Compares as C does, and answers the difference of the first two characters that differ.
///
/// Kernel: `kernel/bpf/helpers.c bpf_strncmp, v6.18`
pub(super) fn strncmp(run: &mut Run<'_, '_>, [s1, size, s2, _, _]: Args) -> Reply {
    for i in 0..u64::from(size as u32) {
        let a = run.read(s1.wrapping_add(i), 1)?.read_u8(0);
        let b = run.read(s2.wrapping_add(i), 1)?.read_u8(0);
        if a != b {
            return Ok(if a < b { -1_i64 as u64 } else { 1 });
        }
        if a == 0 {
            break;
        }
    }
    Ok(0)
}

fn number_text(run: &Run<'_, '_>, buf: u64, len: u64) -> Result<Vec<u8>, Fault> {
    Ok(run.read(buf, len)?.to_vec())
}

struct Number {
    magnitude: u64,
    negative: bool,
    /// Characters that belong to it, with the white space before.
    len: u64,
}

/// Longest number that is looked at, characters.
const MAX_DIGITS: usize = 63;
/// Part of the flags that is the base.
const BASE_MASK: u64 = 0x1f;

/// Kernel: `kernel/bpf/helpers.c __bpf_strtoull, v6.18`
fn parse(text: &[u8], flags: u64) -> Result<Number, Errno> {
    if text.is_empty() || !matches!(flags, 0 | 8 | 10 | 16) {
        return Err(Errno::EINVAL);
    }
    let base = flags & BASE_MASK;
    // The kernel's table of characters has a no-break space.
    let spaces = text.iter().take_while(|c| is_space(**c) || **c == 0xa0).count();
    let negative = text.get(spaces) == Some(&b'-');
    let start = spaces + usize::from(negative);
    let digits = &text[start..];
    if digits.is_empty() {
        return Err(Errno::EINVAL);
    }
    let digits = &digits[..digits.len().min(MAX_DIGITS)];
    let (prefix, base) = radix(digits, base);
    let (magnitude, n) = integer(&digits[prefix..], base)?;
    if n == 0 {
        return Err(Errno::EINVAL);
    }
    Ok(Number { magnitude, negative, len: (start + prefix + n) as u64 })
}

/// Characters of a prefix, and the base.
fn radix(digits: &[u8], base: u64) -> (usize, u64) {
    let at = |i: usize| digits.get(i).copied().unwrap_or(0);
    let has_x = at(0) == b'0' && at(1).eq_ignore_ascii_case(&b'x');
    let base = match base {
        0 if has_x && at(2).is_ascii_hexdigit() => 16,
        0 if at(0) == b'0' => 8,
        0 => 10,
        base => base,
    };
    (if base == 16 && has_x { 2 } else { 0 }, base)
}

/// The number that a text starts with, and its length.
fn integer(digits: &[u8], base: u64) -> Result<(u64, usize), Errno> {
    let (mut value, mut overflow, mut n) = (0_u64, false, 0);
    for c in digits {
        let Some(digit) = char::from(*c).to_digit(16).map(u64::from).filter(|d| *d < base) else { break };
        let next = value.checked_mul(base).and_then(|v| v.checked_add(digit));
        overflow |= next.is_none();
        value = next.unwrap_or(value);
        n += 1;
    }
    if overflow { Err(Errno::ERANGE) } else { Ok((value, n)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str, flags: u64) -> Result<(u64, bool, u64), Errno> {
        parse(text.as_bytes(), flags).map(|n| (n.magnitude, n.negative, n.len))
    }

    #[test]
    fn bases_prefixes_and_signs() {
        assert_eq!(number("123abc", 0), Ok((123, false, 3)));
        assert_eq!(number("123abc", 16), Ok((0x12_3abc, false, 6)));
        assert_eq!(number(" \t-0x1F", 0), Ok((31, true, 7)));
        assert_eq!(number("0x1f", 16), Ok((31, false, 4)));
        assert_eq!(number("017", 0), Ok((15, false, 3)));
        assert_eq!(number("0xg", 0), Ok((0, false, 1)), "octal zero");
        assert_eq!(number("18446744073709551615", 10), Ok((u64::MAX, false, 20)));
    }

    #[test]
    fn errors() {
        assert_eq!(number("18446744073709551616", 10), Err(Errno::ERANGE));
        assert_eq!(number("", 0), Err(Errno::EINVAL));
        assert_eq!(number("  ", 0), Err(Errno::EINVAL));
        assert_eq!(number("-", 0), Err(Errno::EINVAL));
        assert_eq!(number("+1", 0), Err(Errno::EINVAL));
        assert_eq!(number("x", 0), Err(Errno::EINVAL));
        assert_eq!(number("1", 7), Err(Errno::EINVAL));
        assert_eq!(number("1", 32), Err(Errno::EINVAL));
        assert_eq!(number("0x", 16), Err(Errno::EINVAL), "a prefix alone");
    }
}
