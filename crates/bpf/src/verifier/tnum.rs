//! Tracked numbers: what is known of each bit of a value.
//!
//! A bit of a [`Tnum`] is known 0, known 1 or unknown. The operations give the kernel's results bit
//! for bit, because ranges, pruning and error texts all depend on them.

use std::fmt;

/// Bits known of a 64-bit value: `mask` has a 1 where a bit is unknown, `value` the known ones.
#[doc(alias = "tnum")]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tnum {
    /// Known ones; never a bit that is in `mask`.
    pub value: u64,
    /// Unknown bits.
    pub mask: u64,
}

impl Tnum {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self { value: 0, mask: u64::MAX };

    /// A known value.
    #[must_use]
    pub const fn constant(value: u64) -> Self {
        Self { value, mask: 0 }
    }

    /// The smallest allowed value above `z`; the largest allowed one where there is none.
    pub(crate) const fn step(self, z: u64) -> u64 {
        let max = self.value | self.mask;
        if z >= max {
            return max;
        }
        if z < self.value {
            return self.value;
        }
        let candidate = self.value | (z & self.mask);
        if candidate > z {
            // Below the highest bit that had to be set, the unknown bits can be 0.
            let above = above_highest_bit(!z & self.value & !self.mask);
            (above & z) | (!above & self.value)
        } else {
            // Counts up in the unknown bits above the highest bit that had to be cleared.
            let above = above_highest_bit(z & !self.value & !self.mask);
            let v = (above & self.mask & z) | (above & !self.mask);
            let up = v.wrapping_add(above & above.wrapping_neg());
            (up & self.mask) | self.value
        }
    }

    pub(super) const fn new(value: u64, mask: u64) -> Self {
        Self { value, mask }
    }

    /// The tightest tnum that holds every value of `min..=max`.
    #[must_use]
    pub const fn range(min: u64, max: u64) -> Self {
        let differing = 64 - (min ^ max).leading_zeros();
        if differing > 63 {
            return Self::UNKNOWN;
        }
        let delta = (1u64 << differing) - 1;
        Self::new(min & !delta, delta)
    }

    /// Whether all 64 bits are known.
    #[must_use]
    pub const fn is_const(self) -> bool {
        self.mask == 0
    }

    /// Whether this is exactly the value `v`.
    #[must_use]
    pub const fn equals_const(self, v: u64) -> bool {
        self.mask == 0 && self.value == v
    }

    /// Whether nothing is known.
    #[must_use]
    pub const fn is_unknown(self) -> bool {
        self.mask == u64::MAX
    }

    /// Whether the low 32 bits are known.
    #[must_use]
    pub const fn subreg_is_const(self) -> bool {
        self.mask as u32 == 0
    }

    /// Whether a concrete value is one of those described.
    #[must_use]
    pub const fn contains(self, v: u64) -> bool {
        v & !self.mask == self.value
    }

    /// The largest described value.
    #[must_use]
    pub const fn max(self) -> u64 {
        self.value | self.mask
    }

    pub(super) const fn lshift(self, by: u8) -> Self {
        Self::new(self.value << by, self.mask << by)
    }

    pub(super) const fn rshift(self, by: u8) -> Self {
        Self::new(self.value >> by, self.mask >> by)
    }

    pub(super) const fn arshift(self, by: u8, bits: u8) -> Self {
        if bits == 32 {
            Self::new(((self.value as i32) >> by) as u32 as u64, ((self.mask as i32) >> by) as u32 as u64)
        } else {
            Self::new(((self.value as i64) >> by) as u64, ((self.mask as i64) >> by) as u64)
        }
    }

    pub(super) const fn add(self, b: Self) -> Self {
        let sv = self.value.wrapping_add(b.value);
        let sigma = self.mask.wrapping_add(b.mask).wrapping_add(sv);
        let mu = (sigma ^ sv) | self.mask | b.mask;
        Self::new(sv & !mu, mu)
    }

    pub(super) const fn sub(self, b: Self) -> Self {
        let dv = self.value.wrapping_sub(b.value);
        let mu = (dv.wrapping_add(self.mask) ^ dv.wrapping_sub(b.mask)) | self.mask | b.mask;
        Self::new(dv & !mu, mu)
    }

    pub(super) const fn neg(self) -> Self {
        Self::constant(0).sub(self)
    }

    pub(super) const fn and(self, b: Self) -> Self {
        let v = self.value & b.value;
        Self::new(v, self.max() & b.max() & !v)
    }

    pub(super) const fn or(self, b: Self) -> Self {
        let v = self.value | b.value;
        Self::new(v, (self.mask | b.mask) & !v)
    }

    pub(super) const fn xor(self, b: Self) -> Self {
        let mu = self.mask | b.mask;
        Self::new((self.value ^ b.value) & !mu, mu)
    }

    /// Long multiplication over the bits of `self`; an unknown bit joins the sums with and without it.
    pub(super) const fn mul(self, b: Self) -> Self {
        let (mut a, mut b) = (self, b);
        let mut acc = Self::constant(0);
        while a.value | a.mask != 0 {
            if a.value & 1 != 0 {
                acc = acc.add(b);
            } else if a.mask & 1 != 0 {
                acc = acc.union(acc.add(b));
            }
            a = a.rshift(1);
            b = b.lshift(1);
        }
        acc
    }

    /// Whether some value is described by both.
    pub(super) const fn overlap(self, b: Self) -> bool {
        let mu = !self.mask & !b.mask;
        self.value & mu == b.value & mu
    }

    pub(super) const fn intersect(self, b: Self) -> Self {
        let mu = self.mask & b.mask;
        Self::new((self.value | b.value) & !mu, mu)
    }

    pub(super) const fn union(self, b: Self) -> Self {
        let mu = (self.value ^ b.value) | self.mask | b.mask;
        Self::new((self.value & b.value) & !mu, mu)
    }

    /// Keeps the low `size` bytes.
    pub(super) const fn cast(self, size: u8) -> Self {
        let keep = if size >= 8 { u64::MAX } else { (1u64 << (size as u32 * 8)) - 1 };
        Self::new(self.value & keep, self.mask & keep)
    }

    pub(super) const fn is_aligned(self, size: u64) -> bool {
        size == 0 || (self.value | self.mask) & (size - 1) == 0
    }

    /// Whether every value of `b` is also one of `self`.
    pub(super) const fn includes(self, b: Self) -> bool {
        b.mask & !self.mask == 0 && self.value == b.value & !self.mask
    }

    pub(super) const fn subreg(self) -> Self {
        self.cast(4)
    }

    pub(super) const fn clear_subreg(self) -> Self {
        self.rshift(32).lshift(32)
    }

    pub(super) const fn with_subreg(self, low: Self) -> Self {
        self.clear_subreg().or(low.subreg())
    }

    pub(super) const fn const_subreg(self, v: u32) -> Self {
        self.with_subreg(Self::constant(v as u64))
    }

    /// Byte-swaps the low `bits` and clears the rest.
    pub(super) const fn bswap(self, bits: i32) -> Self {
        match bits {
            16 => Self::new((self.value as u16).swap_bytes() as u64, (self.mask as u16).swap_bytes() as u64),
            32 => Self::new((self.value as u32).swap_bytes() as u64, (self.mask as u32).swap_bytes() as u64),
            _ => Self::new(self.value.swap_bytes(), self.mask.swap_bytes()),
        }
    }
}

/// The kernel's form in error texts: `(0x0; 0xff)`, or the value where it is known.
impl fmt::Display for Tnum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.is_const(), self.value) {
            (true, 0) => f.write_str("0"),
            (true, v) => write!(f, "{v:#x}"),
            _ => write!(f, "({:#x}; {:#x})", self.value, self.mask),
        }
    }
}

/// All bits above the highest one set.
const fn above_highest_bit(v: u64) -> u64 {
    if v == 0 { u64::MAX } else { !(u64::MAX >> v.leading_zeros()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All tnums over the low four bits.
    fn small() -> Vec<Tnum> {
        (0..16u64)
            .flat_map(|mask| (0..16u64).filter(move |v| v & mask == 0).map(move |v| Tnum::new(v, mask)))
            .collect()
    }

    fn members(t: Tnum) -> Vec<u64> {
        (0..16u64).filter(|v| t.contains(*v)).collect()
    }

    #[test]
    fn every_operation_contains_every_concrete_result() {
        for a in small() {
            for b in small() {
                for x in members(a) {
                    for y in members(b) {
                        assert!(a.add(b).contains(x + y));
                        assert!(a.sub(b).contains(x.wrapping_sub(y)));
                        assert!(a.mul(b).contains(x * y), "{a} * {b} lacks {x} * {y}");
                        assert!(a.and(b).contains(x & y));
                        assert!(a.or(b).contains(x | y));
                        assert!(a.xor(b).contains(x ^ y));
                        assert!(a.union(b).contains(x) && a.union(b).contains(y));
                    }
                }
                assert_eq!(a.overlap(b), members(a).iter().any(|v| b.contains(*v)));
                assert_eq!(a.includes(b), members(b).iter().all(|v| a.contains(*v)));
            }
        }
    }

    #[test]
    fn a_range_is_described_whole() {
        for min in 0..64 {
            for max in min..64 {
                assert!((min..=max).all(|v| Tnum::range(min, max).contains(v)));
            }
        }
        assert_eq!(Tnum::range(0, u64::MAX), Tnum::UNKNOWN);
        assert_eq!(Tnum::range(8, 11), Tnum::new(8, 3));
    }
}
