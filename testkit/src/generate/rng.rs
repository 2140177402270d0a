//! [`Rng`]: random numbers that are the same on every machine.

/// A generator with 64 bits of state (SplitMix64). Not for secrets.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Starts from a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 32 random bits.
    pub fn u32(&mut self) -> u32 {
        (self.u64() >> 32) as u32
    }

    /// A number below `n`, which must not be 0.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "no number is below 0");
        self.u64() % n
    }

    /// A number from `from` up to and including `to`.
    pub fn range(&mut self, from: i64, to: i64) -> i64 {
        from + self.below((to - from) as u64 + 1) as i64
    }

    /// A length or position below `n`.
    pub fn index(&mut self, n: usize) -> usize {
        self.below(n as u64) as usize
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of several.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }

    /// Random bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.u64() as u8).collect()
    }

    /// A number that programs treat specially more often than chance would have it: small, a power of two
    /// or next to one, all ones, a boundary of a type.
    pub fn odd_number(&mut self) -> u64 {
        match self.below(8) {
            0 => self.u64(),
            1 => u64::from(self.u32()),
            2 => (1_u64 << self.below(64)).wrapping_add(self.below(3)).wrapping_sub(1),
            3 => (self.below(17) as i64 - 8) as u64,
            4 => self.pick(&[i64::MIN as u64, i64::MAX as u64, u64::MAX, 0x8000_0000, 0x7fff_ffff]),
            _ => self.below(64),
        }
    }
}
