//! Format strings of `bpf_snprintf`.

use uapi::Errno;

/// Checks a format against the number of arguments given.
///
/// # Errors
///
/// `EINVAL` for what `bpf_snprintf` cannot print or for a wrong number of arguments, `E2BIG` for more
/// arguments than it takes.
///
/// Kernel: `kernel/bpf/helpers.c bpf_bprintf_prepare`, v6.18.
pub(crate) fn check(fmt: &[u8], args: usize) -> Result<(), Errno> {
    if args > 12 {
        return Err(Errno::E2BIG);
    }
    let mut used = 0;
    let mut i = 0;
    while i < fmt.len() {
        let c = fmt[i];
        if !(c.is_ascii_graphic() || c.is_ascii_whitespace() || c == 0x0b) {
            return Err(Errno::EINVAL);
        }
        if c != b'%' {
            i += 1;
            continue;
        }
        if fmt.get(i + 1) == Some(&b'%') {
            i += 2;
            continue;
        }
        if used >= args {
            return Err(Errno::EINVAL);
        }
        i = conversion(fmt, i + 1)?;
        used += 1;
    }
    Ok(())
}

/// Position after one conversion that begins after its `%`.
fn conversion(fmt: &[u8], mut i: usize) -> Result<usize, Errno> {
    let at = |i: usize| fmt.get(i).copied().unwrap_or(0);
    while matches!(at(i), b'0' | b'+' | b'-' | b' ' | b'#') {
        i += 1;
    }
    while at(i).is_ascii_digit() {
        i += 1;
    }
    match at(i) {
        b'p' => {
            let next = at(i + 1);
            match next {
                b'k' | b'u' if at(i + 2) == b's' => Ok(i + 3),
                b'i' | b'I' => {
                    if matches!(at(i + 2), b'4' | b'6') {
                        Ok(i + 3)
                    } else {
                        Err(Errno::EINVAL)
                    }
                }
                b'K' | b'x' | b's' | b'S' | b'B' => Ok(i + 2),
                0 => Ok(i + 1),
                c if c.is_ascii_whitespace() || c.is_ascii_punctuation() => Ok(i + 1),
                _ => Err(Errno::EINVAL),
            }
        }
        b's' | b'c' => Ok(i + 1),
        _ => {
            let mut longs = 0;
            while at(i) == b'l' && longs < 2 {
                longs += 1;
                i += 1;
            }
            if matches!(at(i), b'i' | b'd' | b'u' | b'x' | b'X') { Ok(i + 1) } else { Err(Errno::EINVAL) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_are_counted_against_the_arguments() {
        assert_eq!(check(b"%d %llx %%", 2), Ok(()));
        assert_eq!(check(b"%d", 2), Ok(()), "arguments too many are left alone");
        assert_eq!(check(b"%d %d", 1), Err(Errno::EINVAL));
        assert_eq!(check(b"%s %c %pI4 %pks", 4), Ok(()));
        assert_eq!(check(b"%pz", 1), Err(Errno::EINVAL));
        assert_eq!(check(b"", 13), Err(Errno::E2BIG));
    }
}
