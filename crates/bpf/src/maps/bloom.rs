//! [`Bloom`]: `BPF_MAP_TYPE_BLOOM_FILTER`, with the kernel's hash, so that a filter with `BPF_F_ZERO_SEED`
//! errs for the same values as the kernel's.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use mem::zeroed_u64;
use uapi::Errno;
use uapi::bpf::{BPF_ANY, BPF_F_ZERO_SEED};

use super::{Bytes, CreateError, MapContext, MapDef, with_key};

/// Kernel: `kernel/bpf/bloom_filter.c, v6.18`
#[derive(Debug)]
pub(super) struct Bloom {
    bits: Box<[AtomicU64]>,
    mask: u32,
    seed: u32,
    hash_funcs: u32,
}

impl Bloom {
    pub(super) fn new(def: &MapDef, cx: &MapContext) -> Result<Self, CreateError> {
        let hash_funcs = if def.map_extra == 0 { 5 } else { def.map_extra as u32 };
        let mask = bitset_mask(def.max_entries, hash_funcs);
        let words = (mask as usize + 1).div_ceil(64);
        super::check_memory(words as u64 * 8, cx)?;
        let seed =
            if def.map_flags & BPF_F_ZERO_SEED != 0 { 0 } else { cx.seed as u32 ^ (cx.seed >> 32) as u32 };
        let bits = zeroed_u64(words).ok_or_else(|| CreateError::no_memory(words as u64 * 8))?;
        Ok(Self { bits, mask, seed, hash_funcs })
    }

    #[inline]
    fn places<'a>(&'a self, value: &'a [u8]) -> impl Iterator<Item = (&'a AtomicU64, u64)> {
        (0..self.hash_funcs).map(move |i| {
            let bit = jhash(value, self.seed.wrapping_add(i)) & self.mask;
            (&self.bits[bit as usize / 64], 1 << (bit % 64))
        })
    }

    pub(super) fn push(&self, value: Bytes<'_>, flags: u64) -> Result<(), Errno> {
        if flags != BPF_ANY {
            return Err(Errno::EINVAL);
        }
        let add = |value: &[u8]| {
            for (word, bit) in self.places(value) {
                // Most values are there already, and to write takes the line away from other CPUs.
                if word.load(Relaxed) & bit == 0 {
                    word.fetch_or(bit, Relaxed);
                }
            }
        };
        match value {
            Bytes::Own(value) => add(value),
            Bytes::Shared(value) => with_key(value, add),
        }
        Ok(())
    }

    pub(super) fn peek(&self, value: Bytes<'_>) -> Result<(), Errno> {
        let all = |value: &[u8]| self.places(value).all(|(word, bit)| word.load(Relaxed) & bit != 0);
        let there = match value {
            Bytes::Own(value) => all(value),
            Bytes::Shared(value) => with_key(value, all),
        };
        if there { Ok(()) } else { Err(Errno::ENOENT) }
    }
}

/// 7/5 bits per entry and hash function, which is about 1/ln 2, as a power of two.
fn bitset_mask(max_entries: u32, hash_funcs: u32) -> u32 {
    let bits = max_entries.checked_mul(hash_funcs).and_then(|n| (n / 5).checked_mul(7));
    match bits {
        Some(n) if n <= 64 => 63,
        Some(n) if n <= 1 << 31 => n.next_power_of_two() - 1,
        _ => u32::MAX,
    }
}

/// Bob Jenkins' lookup3, which he put into the public domain, with the kernel's start value.
///
/// Kernel: `include/linux/jhash.h jhash, jhash2, v6.18`
#[inline]
fn jhash(key: &[u8], seed: u32) -> u32 {
    let start = 0xdead_beef_u32.wrapping_add(key.len() as u32).wrapping_add(seed);
    let mut s = [start; 3];
    let mut rest = key;
    while rest.len() > 12 {
        let (block, tail) = rest.split_at(12);
        add_block(&mut s, block);
        mix(&mut s);
        rest = tail;
    }
    if rest.is_empty() {
        return s[2];
    }
    add_block(&mut s, rest);
    last_mix(&mut s);
    s[2]
}

/// Adds up to twelve bytes, as three words.
#[inline]
fn add_block(s: &mut [u32; 3], block: &[u8]) {
    let (words, rest) = block.as_chunks::<4>();
    for (sum, word) in s.iter_mut().zip(words) {
        *sum = sum.wrapping_add(u32::from_le_bytes(*word));
    }
    if let (Some(sum), false) = (s.get_mut(words.len()), rest.is_empty()) {
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        *sum = sum.wrapping_add(u32::from_le_bytes(last));
    }
}

#[inline]
fn mix([a, b, c]: &mut [u32; 3]) {
    for turn in [4, 6, 8, 16, 19, 4] {
        *a = a.wrapping_sub(*c) ^ c.rotate_left(turn);
        *c = c.wrapping_add(*b);
        (*a, *b, *c) = (*b, *c, *a);
    }
}

#[inline]
fn last_mix([a, b, c]: &mut [u32; 3]) {
    for turn in [14, 11, 25, 16, 4, 14, 24] {
        *c = (*c ^ *b).wrapping_sub(b.rotate_left(turn));
        (*a, *b, *c) = (*b, *c, *a);
    }
    // Seven turns of three leave the words one place off.
    (*a, *b, *c) = (*c, *a, *b);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_lookup3() {
        // Self-test values of the published lookup3.c: hashlittle("", 0, init) and of the phrase.
        assert_eq!(jhash(b"", 0), 0xdead_beef);
        assert_eq!(jhash(b"", 0xdead_beef), 0xbd5b_7dde);
        assert_eq!(jhash(b"Four score and seven years ago", 0), 0x1777_0551);
        assert_eq!(jhash(b"Four score and seven years ago", 1), 0xcd62_8161);
    }

    #[test]
    fn the_size_is_the_kernels() {
        assert_eq!(bitset_mask(1, 5), 63);
        assert_eq!(bitset_mask(1000, 5), 8191);
        assert_eq!(bitset_mask(u32::MAX, 5), u32::MAX);
    }
}
