//! Strings that may be anywhere, or nowhere: the `bpf_str*` functions.

use uapi::Errno;

use crate::helpers::{Args, Prober, Reply, absence};
use crate::vm::Run;

/// Longest string that is looked at.
///
/// Kernel: `include/uapi/linux/limits.h XATTR_SIZE_MAX, v6.18`
const LONGEST: u64 = 65536;

/// A string of the program's.
#[derive(Clone, Copy)]
struct Text<'a, 'r, 'q> {
    memory: &'a Prober<'a, 'r, 'q>,
    addr: u64,
}

impl<'a, 'r, 'q> Text<'a, 'r, 'q> {
    /// # Errors
    ///
    /// `ERANGE` for an address that no kernel has, `EFAULT` for others where nothing is.
    fn new(memory: &'a Prober<'a, 'r, 'q>, addr: u64) -> Result<Self, Errno> {
        match memory.byte(addr) {
            Some(_) => Ok(Self { memory, addr }),
            None => Err(absence(addr)),
        }
    }

    fn at(self, i: u64) -> Result<u8, Errno> {
        self.memory.byte(self.addr.wrapping_add(i)).ok_or(Errno::EFAULT)
    }
}

/// The answer as an `int`.
fn answer(result: Result<i64, Errno>) -> Reply {
    Ok(result.map_or_else(Errno::as_ret, |n| n as u64))
}

/// Kernel: `kernel/bpf/helpers.c bpf_strcmp, v6.18`
pub(super) fn strcmp(run: &mut Run<'_, '_>, [a, b, ..]: Args) -> Reply {
    answer(compare(run, a, b, |c| c))
}

/// Kernel: `kernel/bpf/helpers.c bpf_strcasecmp, v6.18`
pub(super) fn strcasecmp(run: &mut Run<'_, '_>, [a, b, ..]: Args) -> Reply {
    answer(compare(run, a, b, to_lower))
}

fn compare(run: &Run<'_, '_>, a: u64, b: u64, fold: impl Fn(u8) -> u8) -> Result<i64, Errno> {
    let (left, right) = (Prober::new(run), Prober::new(run));
    let (a, b) = (Text::new(&left, a)?, Text::new(&right, b)?);
    for i in 0..LONGEST {
        let (x, y) = (fold(a.at(i)?), fold(b.at(i)?));
        if x != y {
            return Ok(if x < y { -1 } else { 1 });
        }
        if x == 0 {
            return Ok(0);
        }
    }
    Err(Errno::E2BIG)
}

/// The kernel's characters are those of Latin-1.
///
/// Kernel: `include/linux/ctype.h tolower, v6.18`
fn to_lower(c: u8) -> u8 {
    match c {
        b'A'..=b'Z' | 0xc0..=0xd6 | 0xd8..=0xde => c + 32,
        _ => c,
    }
}

/// Kernel: `kernel/bpf/helpers.c bpf_strnchr, v6.18`
pub(super) fn strnchr(run: &mut Run<'_, '_>, [s, count, c, ..]: Args) -> Reply {
    answer(find(run, s, count, c as u8))
}

/// Kernel: `kernel/bpf/helpers.c bpf_strchr, v6.18`
pub(super) fn strchr(run: &mut Run<'_, '_>, [s, c, ..]: Args) -> Reply {
    answer(find(run, s, LONGEST, c as u8))
}

fn find(run: &Run<'_, '_>, s: u64, count: u64, c: u8) -> Result<i64, Errno> {
    let memory = Prober::new(run);
    let s = Text::new(&memory, s)?;
    for i in 0..count.min(LONGEST) {
        let sc = s.at(i)?;
        if sc == c {
            return Ok(i as i64);
        }
        if sc == 0 {
            return Err(Errno::ENOENT);
        }
    }
    Err(if count >= LONGEST { Errno::E2BIG } else { Errno::ENOENT })
}

/// Kernel: `kernel/bpf/helpers.c bpf_strchrnul, v6.18`
pub(super) fn strchrnul(run: &mut Run<'_, '_>, [s, c, ..]: Args) -> Reply {
    let memory = Prober::new(run);
    answer(Text::new(&memory, s).and_then(|s| {
        for i in 0..LONGEST {
            let sc = s.at(i)?;
            if sc == 0 || sc == c as u8 {
                return Ok(i as i64);
            }
        }
        Err(Errno::E2BIG)
    }))
}

/// Kernel: `kernel/bpf/helpers.c bpf_strrchr, v6.18`
pub(super) fn strrchr(run: &mut Run<'_, '_>, [s, c, ..]: Args) -> Reply {
    let memory = Prober::new(run);
    answer(Text::new(&memory, s).and_then(|s| {
        let mut last = Err(Errno::ENOENT);
        for i in 0..LONGEST {
            let sc = s.at(i)?;
            // Unlike its kin this one takes an int.
            if u32::from(sc) == c as u32 {
                last = Ok(i as i64);
            }
            if sc == 0 {
                return last;
            }
        }
        Err(Errno::E2BIG)
    }))
}

/// Kernel: `kernel/bpf/helpers.c bpf_strlen, v6.18`
pub(super) fn strlen(run: &mut Run<'_, '_>, [s, ..]: Args) -> Reply {
    answer(length(run, s, LONGEST))
}

/// Kernel: `kernel/bpf/helpers.c bpf_strnlen, v6.18`
pub(super) fn strnlen(run: &mut Run<'_, '_>, [s, count, ..]: Args) -> Reply {
    answer(length(run, s, count))
}

fn length(run: &Run<'_, '_>, s: u64, count: u64) -> Result<i64, Errno> {
    let memory = Prober::new(run);
    let s = Text::new(&memory, s)?;
    for i in 0..count.min(LONGEST) {
        if s.at(i)? == 0 {
            return Ok(i as i64);
        }
    }
    if count >= LONGEST { Err(Errno::E2BIG) } else { Ok(count as i64) }
}

/// Kernel: `kernel/bpf/helpers.c bpf_strspn, v6.18`
pub(super) fn strspn(run: &mut Run<'_, '_>, [s, accept, ..]: Args) -> Reply {
    answer(span(run, s, accept, true))
}

/// Kernel: `kernel/bpf/helpers.c bpf_strcspn, v6.18`
pub(super) fn strcspn(run: &mut Run<'_, '_>, [s, reject, ..]: Args) -> Reply {
    answer(span(run, s, reject, false))
}

/// Length of the start of `s` whose characters are all in `set`, or all not.
fn span(run: &Run<'_, '_>, s: u64, set: u64, wanted: bool) -> Result<i64, Errno> {
    let (left, right) = (Prober::new(run), Prober::new(run));
    let (s, set) = (Text::new(&left, s)?, Text::new(&right, set)?);
    for i in 0..LONGEST {
        let c = s.at(i)?;
        if c == 0 || contains(set, c)? != wanted {
            return Ok(i as i64);
        }
    }
    Err(Errno::E2BIG)
}

fn contains(set: Text<'_, '_, '_>, c: u8) -> Result<bool, Errno> {
    for j in 0..LONGEST {
        let other = set.at(j)?;
        if other == c {
            return Ok(true);
        }
        if other == 0 {
            return Ok(false);
        }
    }
    Err(Errno::E2BIG)
}

/// Kernel: `kernel/bpf/helpers.c bpf_strstr, v6.18`
pub(super) fn strstr(run: &mut Run<'_, '_>, [s1, s2, ..]: Args) -> Reply {
    answer(search(run, s1, s2, LONGEST))
}

/// Kernel: `kernel/bpf/helpers.c bpf_strnstr, v6.18`
pub(super) fn strnstr(run: &mut Run<'_, '_>, [s1, s2, len, ..]: Args) -> Reply {
    answer(search(run, s1, s2, len))
}

fn search(run: &Run<'_, '_>, s1: u64, s2: u64, len: u64) -> Result<i64, Errno> {
    let (left, right) = (Prober::new(run), Prober::new(run));
    let (s1, s2) = (Text::new(&left, s1)?, Text::new(&right, s2)?);
    for i in 0..LONGEST {
        let mut j = 0;
        while i + j <= len && j < LONGEST {
            let c2 = s2.at(j)?;
            if c2 == 0 {
                return Ok(i as i64);
            }
            if i + j == len {
                break;
            }
            let c1 = s1.at(i + j)?;
            if c1 == 0 {
                return Err(Errno::ENOENT);
            }
            if c1 != c2 {
                break;
            }
            j += 1;
        }
        if j == LONGEST {
            return Err(Errno::E2BIG);
        }
        if i + j == len {
            return Err(Errno::ENOENT);
        }
    }
    Err(Errno::E2BIG)
}
