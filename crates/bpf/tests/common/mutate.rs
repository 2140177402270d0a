//! Damages object files, knowing where their parts are.

/// A small generator of numbers, the same for the same seed everywhere (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `n`, which is not 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// A number that often means something at a limit.
fn interesting(random: &mut Random) -> u64 {
    const VALUES: [u64; 18] = [
        0,
        1,
        2,
        3,
        7,
        8,
        16,
        0x7f,
        0xff,
        0x7fff,
        0xffff,
        0xfff1,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        1 << 32,
        u64::MAX,
        i64::MAX as u64,
    ];
    match random.below(4) {
        0 => random.next(),
        1 => random.next() & 0xff,
        _ => VALUES[random.below(VALUES.len())],
    }
}

/// Applies one to four damages to a copy of `seed`; `other` is another object to take pieces from.
pub(crate) fn mutate(seed: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..1 + random.below(4) {
        match random.below(12) {
            0 => flip_bits(&mut bytes, random),
            1 => set_word(&mut bytes, 0..seed.len(), random),
            2 => truncate_or_grow(&mut bytes, random),
            3 => copy_within(&mut bytes, random),
            4 => splice(&mut bytes, other, random),
            5 => header_field(&mut bytes, random),
            6 => swap_headers(&mut bytes, random),
            7 => table_field(&mut bytes, 24, &[".symtab"], random),
            8 => table_field(&mut bytes, 16, &[".rel"], random),
            9 => table_field(&mut bytes, 4, &[".BTF"], random),
            10 => table_field(&mut bytes, 4, &[".BTF.ext", ".maps", "maps", ".data", ".rodata"], random),
            _ => table_field(&mut bytes, 8, &["xdp", ".text"], random),
        }
    }
    bytes
}

fn flip_bits(bytes: &mut [u8], random: &mut Random) {
    for _ in 0..1 + random.below(8) {
        let at = random.below(bytes.len());
        if let Some(b) = bytes.get_mut(at) {
            *b ^= 1 << random.below(8);
        }
    }
}

/// Writes a number of 1, 2, 4 or 8 bytes somewhere in a range.
fn set_word(bytes: &mut [u8], range: std::ops::Range<usize>, random: &mut Random) {
    let at = range.start + random.below(range.len());
    let len = 1 << random.below(4);
    let at = at / len * len;
    let value = interesting(random).to_le_bytes();
    if let Some(place) = bytes.get_mut(at..at + len) {
        place.copy_from_slice(&value[..len]);
    }
}

fn truncate_or_grow(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    match random.below(3) {
        0 => bytes.truncate(at),
        1 => {
            let end = (at + random.below(64)).min(bytes.len());
            bytes.drain(at..end);
        }
        _ => {
            let new: Vec<u8> = (0..random.below(64)).map(|_| random.next() as u8).collect();
            bytes.splice(at..at, new);
        }
    }
}

fn copy_within(bytes: &mut [u8], random: &mut Random) {
    let (from, to) = (random.below(bytes.len()), random.below(bytes.len()));
    let len = random.below(256).min(bytes.len() - from.max(to));
    bytes.copy_within(from..from + len, to);
}

fn splice(bytes: &mut [u8], other: &[u8], random: &mut Random) {
    let (from, to) = (random.below(other.len()), random.below(bytes.len()));
    let len = random.below(512).min(bytes.len() - to).min(other.len() - from);
    bytes[to..to + len].copy_from_slice(&other[from..from + len]);
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// The places of the section headers.
fn headers(bytes: &[u8]) -> Vec<usize> {
    let at = u64_at(bytes, 40).unwrap_or(0) as usize;
    let count = bytes.get(60..62).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]) as usize);
    let fits = |i: &usize| at.checked_add((i + 1) * 64).is_some_and(|end| end <= bytes.len());
    (0..count).filter(fits).map(|i| at + i * 64).collect()
}

/// A field of one section header.
fn header_field(bytes: &mut [u8], random: &mut Random) {
    let headers = headers(bytes);
    if let Some(&at) = headers.get(random.below(headers.len())) {
        set_word(bytes, at..at + 64, random);
    }
}

/// Exchanges two section headers, or makes one a copy of the other.
fn swap_headers(bytes: &mut [u8], random: &mut Random) {
    let headers = headers(bytes);
    let pick = |random: &mut Random| headers.get(random.below(headers.len())).copied();
    let (Some(a), Some(b)) = (pick(random), pick(random)) else { return };
    let (first, second) = (bytes[a..a + 64].to_vec(), bytes[b..b + 64].to_vec());
    bytes[a..a + 64].copy_from_slice(&second);
    if random.below(2) == 0 {
        bytes[b..b + 64].copy_from_slice(&first);
    }
}

/// A field of one record of a section whose name begins with one of these.
fn table_field(bytes: &mut [u8], record: usize, names: &[&str], random: &mut Random) {
    let sections: Vec<_> = sections(bytes).into_iter().filter(|(name, _)| begins(name, names)).collect();
    let Some((_, range)) = sections.get(random.below(sections.len())).cloned() else { return };
    let at = range.start + random.below(range.len() / record.max(1) + 1) * record;
    let end = (at + record).min(bytes.len());
    if at < end {
        set_word(bytes, at..end, random);
    }
}

fn begins(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|n| name.starts_with(n.as_bytes()))
}

/// Names and places of the sections, as far as they make sense.
fn sections(bytes: &[u8]) -> Vec<(Vec<u8>, std::ops::Range<usize>)> {
    let headers = headers(bytes);
    let range = |at: usize| -> Option<std::ops::Range<usize>> {
        let (from, len) = (u64_at(bytes, at + 24)? as usize, u64_at(bytes, at + 32)? as usize);
        let end = from.checked_add(len)?;
        (end <= bytes.len()).then_some(from..end)
    };
    let names = bytes.get(62..64).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]) as usize);
    let Some(names) = headers.get(names).and_then(|&at| range(at)) else { return Vec::new() };
    let name = |at: usize| {
        let offset = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default()) as usize;
        let rest = bytes[names.clone()].get(offset..).unwrap_or(&[]);
        rest.iter().take(32).take_while(|&&b| b != 0).copied().collect()
    };
    headers.iter().filter_map(|&at| Some((name(at), range(at)?))).collect()
}
