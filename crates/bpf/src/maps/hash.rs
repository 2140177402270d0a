//! The hash of map keys, and their comparison.
//!
//! Keys are folded by 64 x 64 -> 128 bit multiplications. One of them takes 4 cycles, about as long as a
//! CRC32 or AES step, but it needs no special instruction, so a table has the same order on every host and a
//! run stays repeatable; and unlike a CRC it cannot be collided without the seed. The seed is given with the
//! map, never drawn here.

use mem::SharedSlice;

/// Digits of pi, as good as any.
const PI: [u64; 3] = [0x2437_6a88_85a3_08d3, 0x1319_8a2e_0370_7345, 0xa409_3822_299f_31d1];

/// What makes one table's order different from another's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seed(pub(crate) [u64; 2]);

impl Seed {
    /// The seed of a map. 0 is `BPF_F_ZERO_SEED`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self([PI[0] ^ seed, PI[1] ^ fold(seed ^ PI[2], PI[0])])
    }

    /// The two numbers, for compiled programs: a key of 4 or 8 bytes, zero-extended, hashes to
    /// `fold(key ^ seed[0], seed[1])`, where `fold` is the exclusive or of the halves of a 128-bit product.
    #[must_use]
    pub fn words(self) -> [u64; 2] {
        self.0
    }

    /// What the hash of a key of another length ends with: `fold(acc ^ seed[1], LAST)`, where `acc` starts
    /// as `seed[0] ^ length` and takes in 16 bytes, the last filled up with zeroes, at a time: `acc =
    /// fold(first 8 ^ acc, second 8 ^ seed[1])`.
    pub const LAST: u64 = PI[2];

    /// The hash of a key.
    #[must_use]
    #[inline]
    pub fn hash(self, key: &[u8]) -> u64 {
        let [s0, s1] = self.0;
        match *key {
            [a, b, c, d] => fold(u64::from(u32::from_le_bytes([a, b, c, d])) ^ s0, s1),
            [a, b, c, d, e, f, g, h] => fold(u64::from_le_bytes([a, b, c, d, e, f, g, h]) ^ s0, s1),
            _ => self.hash_long(key),
        }
    }

    #[inline]
    fn hash_long(self, key: &[u8]) -> u64 {
        let [s0, s1] = self.0;
        let (pairs, rest) = key.as_chunks::<16>();
        let mut acc = s0 ^ key.len() as u64;
        for pair in pairs {
            let (a, b) = pair.split_at(8);
            acc = fold(word(a) ^ acc, word(b) ^ s1);
        }
        if !rest.is_empty() {
            let (a, b) = rest.split_at(rest.len().min(8));
            acc = fold(word(a) ^ acc, word(b) ^ s1);
        }
        fold(acc ^ s1, PI[2])
    }
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// Up to eight bytes as a number.
#[inline]
fn word(bytes: &[u8]) -> u64 {
    if let Ok(all) = bytes.try_into() {
        return u64::from_le_bytes(all);
    }
    let mut all = [0; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(all)
}

/// Whether the bytes at the start of `stored` are this key.
#[inline]
pub(super) fn key_equals(stored: SharedSlice<'_>, key: &[u8]) -> bool {
    match *key {
        [a, b, c, d] => stored.read_u32(0) == u32::from_le_bytes([a, b, c, d]),
        [a, b, c, d, e, f, g, h] => stored.read_u64(0) == u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => key_equals_long(stored, key),
    }
}

#[inline]
fn key_equals_long(stored: SharedSlice<'_>, key: &[u8]) -> bool {
    let (words, rest) = key.as_chunks::<8>();
    let mut differ = 0;
    for (i, w) in words.iter().enumerate() {
        differ |= stored.read_u64(i * 8) ^ u64::from_le_bytes(*w);
    }
    // Stored keys are padded with zeroes to a multiple of 8 bytes.
    if !rest.is_empty() {
        differ |= stored.read_u64(words.len() * 8) ^ word(rest);
    }
    differ == 0
}

/// Calls `f` with a copy of a key that lies in memory which a program can write. Keys of four and eight bytes
/// stay in registers; only very long ones are copied to the heap.
#[inline]
pub(crate) fn with_key<R>(key: SharedSlice<'_>, f: impl FnOnce(&[u8]) -> R) -> R {
    let len = key.len();
    let mut short = [0; 64];
    match len {
        4 => f(&key.read_array::<4>(0)),
        8 => f(&key.read_array::<8>(0)),
        0..=64 => {
            key.copy_to(0, &mut short[..len]);
            f(&short[..len])
        }
        _ => f(&key.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn similar_keys_spread_over_buckets_and_tags() {
        for len in [1, 3, 4, 7, 8, 12, 13, 16, 20, 40] {
            let seed = Seed::new(7);
            let mut buckets = vec![0_u32; 256];
            let mut tags = HashSet::new();
            for i in 0..4096_u32 {
                let mut key = vec![0; len.max(4)];
                key[..4].copy_from_slice(&i.to_le_bytes());
                key.truncate(len.max(2));
                let hash = seed.hash(&key);
                buckets[hash as usize % 256] += 1;
                tags.insert(hash >> 48);
            }
            let max = buckets.iter().max().copied().unwrap();
            assert!(max <= 16 * 4, "{len} bytes: {max} of 4096 keys in one of 256 buckets");
            assert!(len == 1 || tags.len() > 3000, "{len} bytes: {} tags", tags.len());
        }
    }

    #[test]
    fn length_and_seed_matter() {
        let hashes: HashSet<u64> = (1..100).map(|n| Seed::new(0).hash(&vec![0; n])).collect();
        assert!(hashes.len() >= 98, "a key of four zeroes and one of eight may meet");
        assert_ne!(Seed::new(0).hash(b"key"), Seed::new(1).hash(b"key"));
        assert_ne!(Seed::new(1).hash(b"abcd"), Seed::new(2).hash(b"abcd"));
    }

    #[test]
    fn stored_keys_compare_by_all_bytes() {
        for len in 1..70_usize {
            let key: Vec<u8> = (1..=len as u8).collect();
            let mut stored = vec![0; len.next_multiple_of(8)];
            stored[..len].copy_from_slice(&key);
            assert!(key_equals(SharedSlice::from_mut(&mut stored), &key));
            for i in 0..len {
                let mut other = stored.clone();
                other[i] ^= 0x80;
                assert!(!key_equals(SharedSlice::from_mut(&mut other), &key), "byte {i} of {len}");
            }
        }
    }
}
