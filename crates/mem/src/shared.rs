//! [`SharedSlice`]: bytes that someone else may write while we look.
// UNSAFETY: reads and writes through raw pointers, because no reference may exist to memory that a
// program on another CPU or a process on the other side of a ring writes at the same time.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

/// A range of memory that others may read and write at the same time, valid for `'a`.
///
/// Offsets are checked: an access outside of the range panics, as with slices, so callers check first.
/// Values are little endian, as on every host that the engine runs on.
#[derive(Clone, Copy)]
pub struct SharedSlice<'a> {
    ptr: NonNull<u8>,
    len: usize,
    owner: PhantomData<&'a [AtomicU8]>,
}

// SAFETY: all accesses are relaxed atomics, so sharing the view between threads is no data race.
unsafe impl Send for SharedSlice<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedSlice<'_> {}

macro_rules! scalar {
    ($read:ident, $write:ident, $int:ty, $atomic:ty) => {
        /// Reads a number at a byte offset of any alignment. It is read in one piece if aligned.
        ///
        /// # Panics
        ///
        /// If it does not lie within the range.
        #[must_use]
        #[inline]
        pub fn $read(self, offset: usize) -> $int {
            let p = self.at(offset, size_of::<$int>());
            if p.addr().get() % size_of::<$int>() == 0 {
                // SAFETY: `at` has checked that the bytes lie within the range, which is valid for
                // `'a`; the pointer is aligned.
                return unsafe { <$atomic>::from_ptr(p.as_ptr().cast()) }.load(Relaxed);
            }
            let mut bytes = [0; size_of::<$int>()];
            self.copy_to(offset, &mut bytes);
            <$int>::from_le_bytes(bytes)
        }

        /// Writes a number at a byte offset of any alignment. It is written in one piece if aligned.
        ///
        /// # Panics
        ///
        /// If it does not lie within the range.
        #[inline]
        pub fn $write(self, offset: usize, value: $int) {
            let p = self.at(offset, size_of::<$int>());
            if p.addr().get() % size_of::<$int>() == 0 {
                // SAFETY: as for reading.
                unsafe { <$atomic>::from_ptr(p.as_ptr().cast()) }.store(value, Relaxed);
            } else {
                self.copy_from(offset, &value.to_le_bytes());
            }
        }
    };
}

impl<'a> SharedSlice<'a> {
    /// A view of `len` bytes at `ptr`.
    ///
    /// # Safety
    ///
    /// The bytes must be readable and writable for `'a`, and during `'a` nobody may hold a Rust
    /// reference to them, nor access them but by atomics or as another process or compiled program.
    #[must_use]
    #[inline]
    pub const unsafe fn from_raw(ptr: NonNull<u8>, len: usize) -> Self {
        Self { ptr, len, owner: PhantomData }
    }

    /// A view of exclusively borrowed bytes.
    #[must_use]
    #[inline]
    pub fn from_mut(bytes: &'a mut [u8]) -> Self {
        let len = bytes.len();
        // A slice's pointer is never null.
        let ptr = NonNull::from(bytes).cast();
        Self { ptr, len, owner: PhantomData }
    }

    /// Length, bytes.
    #[must_use]
    #[inline]
    pub const fn len(self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The host address of the first byte, as compiled programs see it.
    #[must_use]
    #[inline]
    pub fn addr(self) -> u64 {
        self.ptr.addr().get() as u64
    }

    /// The pointer to the first byte.
    #[must_use]
    #[inline]
    pub const fn as_ptr(self) -> NonNull<u8> {
        self.ptr
    }

    /// The part from `offset` of `len` bytes; `None` if it is not within the range.
    #[must_use]
    #[inline]
    pub fn get(self, offset: usize, len: usize) -> Option<Self> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: `offset + len` is within the range, so the pointer stays within one allocation.
        Some(Self { ptr: unsafe { self.ptr.add(offset) }, len, owner: PhantomData })
    }

    #[inline]
    fn at(self, offset: usize, len: usize) -> NonNull<u8> {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.len),
            "access at {offset} of {len} bytes in a range of {}",
            self.len
        );
        // SAFETY: checked above.
        unsafe { self.ptr.add(offset) }
    }

    scalar!(read_u8, write_u8, u8, AtomicU8);
    scalar!(read_u16, write_u16, u16, AtomicU16);
    scalar!(read_u32, write_u32, u32, AtomicU32);
    scalar!(read_u64, write_u64, u64, AtomicU64);

    /// The 32-bit number at an aligned offset as an atomic; `None` if unaligned or outside.
    #[must_use]
    #[inline]
    pub fn atomic_u32(self, offset: usize) -> Option<&'a AtomicU32> {
        let p = self.get(offset, 4)?.ptr;
        // SAFETY: within the range, aligned; the range is valid for `'a` and only accessed atomically.
        p.cast::<AtomicU32>().is_aligned().then(|| unsafe { AtomicU32::from_ptr(p.as_ptr().cast()) })
    }

    /// The 64-bit number at an aligned offset as an atomic; `None` if unaligned or outside.
    #[must_use]
    #[inline]
    pub fn atomic_u64(self, offset: usize) -> Option<&'a AtomicU64> {
        let p = self.get(offset, 8)?.ptr;
        // SAFETY: as above.
        p.cast::<AtomicU64>().is_aligned().then(|| unsafe { AtomicU64::from_ptr(p.as_ptr().cast()) })
    }

    /// `n` 64-bit numbers at an aligned offset as atomics; `None` if unaligned or outside.
    #[must_use]
    #[inline]
    pub fn atomic_u64s(self, offset: usize, n: usize) -> Option<&'a [AtomicU64]> {
        let p = self.get(offset, n.checked_mul(8)?)?.ptr.cast::<AtomicU64>();
        // SAFETY: as above, for all of them.
        p.is_aligned().then(|| unsafe { std::slice::from_raw_parts(p.as_ptr(), n) })
    }

    /// Copies bytes out.
    ///
    /// # Panics
    ///
    /// If they do not lie within the range.
    #[inline]
    pub fn copy_to(self, offset: usize, dst: &mut [u8]) {
        let start = self.at(offset, dst.len());
        let (head, words) = split(start, dst.len());
        let (first, rest) = dst.split_at_mut(head);
        let (middle, last) = rest.split_at_mut(words * 8);
        bytes_out(start, first);
        // SAFETY: `at` has checked the whole stretch, and `split` stays within it.
        let mut p = unsafe { start.add(head) };
        for d in middle.as_chunks_mut::<8>().0 {
            // SAFETY: within the checked stretch; `split` has aligned the pointer.
            *d = unsafe { AtomicU64::from_ptr(p.as_ptr().cast()) }.load(Relaxed).to_ne_bytes();
            // SAFETY: at most one past the end of the checked stretch.
            p = unsafe { p.add(8) };
        }
        bytes_out(p, last);
    }

    /// Copies bytes in.
    ///
    /// # Panics
    ///
    /// If they do not lie within the range.
    #[inline]
    pub fn copy_from(self, offset: usize, src: &[u8]) {
        let start = self.at(offset, src.len());
        let (head, words) = split(start, src.len());
        let (first, rest) = src.split_at(head);
        let (middle, last) = rest.split_at(words * 8);
        bytes_in(start, first);
        // SAFETY: as in `copy_to`.
        let mut p = unsafe { start.add(head) };
        for s in middle.as_chunks::<8>().0 {
            // SAFETY: as in `copy_to`.
            unsafe { AtomicU64::from_ptr(p.as_ptr().cast()) }.store(u64::from_ne_bytes(*s), Relaxed);
            // SAFETY: as in `copy_to`.
            p = unsafe { p.add(8) };
        }
        bytes_in(p, last);
    }

    /// The bytes at an offset.
    ///
    /// # Panics
    ///
    /// If they do not lie within the range.
    #[must_use]
    #[inline]
    pub fn read_array<const N: usize>(self, offset: usize) -> [u8; N] {
        let mut bytes = [0; N];
        match N {
            4 => bytes.copy_from_slice(&self.read_u32(offset).to_le_bytes()),
            8 => bytes.copy_from_slice(&self.read_u64(offset).to_le_bytes()),
            _ => self.copy_to(offset, &mut bytes),
        }
        bytes
    }

    /// Copies all of `src` to the start, word by word if both are aligned. They may be the same, but not
    /// overlap otherwise. For values of maps, which are short.
    ///
    /// # Panics
    ///
    /// If `src` is too long.
    #[inline]
    pub fn copy_words_from(self, src: SharedSlice<'_>) {
        let (to, from, len) = (self.at(0, src.len), src.ptr, src.len);
        if (to.addr().get() | from.addr().get() | len) & 7 != 0 {
            return self.copy_from_shared(0, src);
        }
        for at in (0..len).step_by(8) {
            // SAFETY: within both ranges, which are valid as long as the slices are, and aligned.
            let word = unsafe { AtomicU64::from_ptr(from.as_ptr().add(at).cast()) }.load(Relaxed);
            // SAFETY: as for reading; `at` has checked the length.
            unsafe { AtomicU64::from_ptr(to.as_ptr().add(at).cast()) }.store(word, Relaxed);
        }
    }

    /// Copies all of `src` to `offset`. The two may overlap.
    ///
    /// # Panics
    ///
    /// If `src` is too long.
    #[inline]
    pub fn copy_from_shared(self, offset: usize, src: SharedSlice<'_>) {
        if src.len > 64 {
            return self.copy_long(offset, src);
        }
        let mut bounce = [0; 64];
        src.copy_to(0, &mut bounce[..src.len]);
        self.copy_from(offset, &bounce[..src.len]);
    }

    fn copy_long(self, offset: usize, src: SharedSlice<'_>) {
        let len = src.len;
        let dst = self.at(offset, len).addr();
        let mut bounce = [0; 512];
        let mut done = 0;
        while done < len {
            let n = bounce.len().min(len - done);
            // The end first if the destination lies behind the source, so that nothing is overwritten
            // before it is read.
            let at = if dst <= src.ptr.addr() { done } else { len - done - n };
            src.copy_to(at, &mut bounce[..n]);
            self.copy_from(offset + at, &bounce[..n]);
            done += n;
        }
    }

    /// Sets `len` bytes to one value.
    ///
    /// # Panics
    ///
    /// If they do not lie within the range.
    #[inline]
    pub fn fill(self, offset: usize, len: usize, value: u8) {
        let _ = self.at(offset, len);
        let bytes = [value; 64];
        let mut done = 0;
        while done < len {
            let n = bytes.len().min(len - done);
            self.copy_from(offset + done, &bytes[..n]);
            done += n;
        }
    }

    /// A copy of all bytes.
    #[must_use]
    pub fn to_vec(self) -> Vec<u8> {
        let mut v = vec![0; self.len];
        self.copy_to(0, &mut v);
        v
    }
}

/// How to go through `len` bytes at `p`: single bytes up to an aligned address, 8-byte words, single bytes.
#[inline]
fn split(p: NonNull<u8>, len: usize) -> (usize, usize) {
    let head = (p.addr().get().wrapping_neg() & 7).min(len);
    let words = (len - head) / 8;
    (head, words)
}

/// Reads bytes that the caller has checked to be in range.
#[inline]
fn bytes_out(mut p: NonNull<u8>, dst: &mut [u8]) {
    for d in dst {
        // SAFETY: only called above with a stretch that `at` has checked; bytes have no alignment.
        *d = unsafe { AtomicU8::from_ptr(p.as_ptr()) }.load(Relaxed);
        // SAFETY: at most one past the end of the checked stretch.
        p = unsafe { p.add(1) };
    }
}

/// Writes bytes that the caller has checked to be in range.
#[inline]
fn bytes_in(mut p: NonNull<u8>, src: &[u8]) {
    for s in src {
        // SAFETY: as in `bytes_out`.
        unsafe { AtomicU8::from_ptr(p.as_ptr()) }.store(*s, Relaxed);
        // SAFETY: as in `bytes_out`.
        p = unsafe { p.add(1) };
    }
}

impl std::fmt::Debug for SharedSlice<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedSlice({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_alignment_round_trip() {
        let mut bytes = [0; 16];
        let s = SharedSlice::from_mut(&mut bytes);
        for offset in 0..8 {
            s.write_u64(offset, 0x0102_0304_0506_0708);
            assert_eq!(s.read_u64(offset), 0x0102_0304_0506_0708);
            assert_eq!(s.read_u16(offset), 0x0708);
        }
    }

    #[test]
    fn a_part_cannot_reach_outside() {
        let mut bytes = [0; 16];
        let s = SharedSlice::from_mut(&mut bytes);
        assert!(s.get(8, 9).is_none());
        assert!(s.get(usize::MAX, 2).is_none());
        assert_eq!(s.get(16, 0).map(SharedSlice::len), Some(0));
    }

    #[test]
    fn copies_of_every_alignment_and_overlap_move_the_right_bytes() {
        let pattern: Vec<u8> = (0..=255).chain(0..=255).chain(0..=255).collect();
        for from in [0, 1, 7, 8, 13] {
            for to in [0, 3, 8, 12, 15] {
                for len in [0, 1, 7, 8, 9, 600, 700] {
                    let mut expected = pattern.clone();
                    expected.copy_within(from..from + len, to);
                    let mut bytes = pattern.clone();
                    let s = SharedSlice::from_mut(&mut bytes);
                    s.copy_from_shared(to, s.get(from, len).expect("within"));
                    assert_eq!(bytes, expected, "{len} bytes from {from} to {to}");
                }
            }
        }
    }

    #[test]
    fn fill_touches_only_what_it_is_told() {
        let mut bytes = vec![1; 1200];
        SharedSlice::from_mut(&mut bytes).fill(3, 1100, 9);
        assert!(bytes.iter().enumerate().all(|(i, b)| *b == if (3..1103).contains(&i) { 9 } else { 1 }));
    }

    #[test]
    #[should_panic(expected = "access at 15 of 2 bytes")]
    fn an_access_outside_panics() {
        let mut bytes = [0; 16];
        let _ = SharedSlice::from_mut(&mut bytes).read_u16(15);
    }
}
