//! Keeping the eight bounds and the tnum of a register in step.
//!
//! Each view (64 and 32 bits, signed, unsigned, bits) teaches the others. The order of the steps is
//! the kernel's, as a different order gives other, equally sound, but visibly different ranges.

use super::reg::Reg;
use super::tnum::Tnum;

impl Reg {
    pub(super) fn unbound(&mut self) {
        self.unbound64();
        self.unbound32();
    }

    pub(super) fn unbound64(&mut self) {
        (self.smin, self.smax) = (i64::MIN, i64::MAX);
        (self.umin, self.umax) = (0, u64::MAX);
    }

    pub(super) fn unbound32(&mut self) {
        (self.s32_min, self.s32_max) = (i32::MIN, i32::MAX);
        (self.u32_min, self.u32_max) = (0, u32::MAX);
    }

    /// Makes the low half the constant `v`.
    pub(super) fn mark32_known(&mut self, v: u32) {
        self.var_off = self.var_off.const_subreg(v);
        (self.s32_min, self.s32_max) = (v as i32, v as i32);
        (self.u32_min, self.u32_max) = (v, v);
    }

    pub(super) fn update32_only(&mut self) {
        let t = self.var_off.subreg();
        let (value, mask) = (t.value as i32, t.mask as i32);
        self.s32_min = self.s32_min.max(value | (mask & i32::MIN));
        self.s32_max = self.s32_max.min(value | (mask & i32::MAX));
        self.u32_min = self.u32_min.max(t.value as u32);
        self.u32_max = self.u32_max.min(t.max() as u32);
    }

    fn update64(&mut self) {
        let (value, mask) = (self.var_off.value as i64, self.var_off.mask as i64);
        self.smin = self.smin.max(value | (mask & i64::MIN));
        self.smax = self.smax.min(value | (mask & i64::MAX));
        self.umin = self.umin.max(self.var_off.value);
        self.umax = self.umax.min(self.var_off.max());
        // The range may hold a single value that the bits allow.
        let (t, max) = (self.var_off, self.var_off.max());
        let next = t.step(self.umin);
        if self.umin & !t.mask == t.value {
            if next > self.umax {
                self.set_const(self.umin);
            }
        } else if next == max {
            self.set_const(max);
        } else if next <= self.umax && t.step(next) > self.umax {
            self.set_const(next);
        }
    }

    /// What the bits say of the bounds.
    pub(super) fn update_bounds(&mut self) {
        self.update32_only();
        self.update64();
    }

    fn deduce32(&mut self) {
        if self.umin >> 32 == self.umax >> 32 {
            self.narrow_u32(self.umin as u32, self.umax as u32);
            if self.umin as i32 <= self.umax as i32 {
                self.narrow_s32(self.umin as i32, self.umax as i32);
            }
        }
        if self.smin >> 32 == self.smax >> 32 {
            if self.smin as u32 <= self.smax as u32 {
                self.narrow_u32(self.smin as u32, self.smax as u32);
            }
            if self.smin as i32 <= self.smax as i32 {
                self.narrow_s32(self.smin as i32, self.smax as i32);
            }
        }
        // A range of a little less than 2^32 whose low half only crosses from negative to positive.
        let steps_once = |lo: u64, hi: u64| ((lo >> 32) as u32).wrapping_add(1) == (hi >> 32) as u32;
        if steps_once(self.umin, self.umax) && (self.umin as i32) < 0 && self.umax as i32 >= 0 {
            self.narrow_s32(self.umin as i32, self.umax as i32);
        }
        if steps_once(self.smin as u64, self.smax as u64) && (self.smin as i32) < 0 && self.smax as i32 >= 0 {
            self.narrow_s32(self.smin as i32, self.smax as i32);
        }
        if self.u32_min as i32 <= self.u32_max as i32 {
            self.narrow_s32(self.u32_min as i32, self.u32_max as i32);
        }
        if self.s32_min as u32 <= self.s32_max as u32 {
            self.narrow_u32(self.s32_min as u32, self.s32_max as u32);
        } else if self.u32_max < self.s32_min as u32 {
            // The two ranges meet only in the non-negative part ...
            self.s32_min = self.u32_min as i32;
            self.u32_max = self.u32_max.min(self.s32_max as u32);
        } else if (self.s32_max as u32) < self.u32_min {
            // ... or only in the negative one.
            self.s32_max = self.u32_max as i32;
            self.u32_min = self.u32_min.max(self.s32_min as u32);
        }
    }

    fn narrow_u32(&mut self, lo: u32, hi: u32) {
        self.u32_min = self.u32_min.max(lo);
        self.u32_max = self.u32_max.min(hi);
    }

    fn narrow_s32(&mut self, lo: i32, hi: i32) {
        self.s32_min = self.s32_min.max(lo);
        self.s32_max = self.s32_max.min(hi);
    }

    fn deduce64(&mut self) {
        if self.umin as i64 <= self.umax as i64 {
            self.smin = self.smin.max(self.umin as i64);
            self.smax = self.smax.min(self.umax as i64);
        }
        if self.smin as u64 <= self.smax as u64 {
            self.umin = self.umin.max(self.smin as u64);
            self.umax = self.umax.min(self.smax as u64);
        } else if self.umax < self.smin as u64 {
            // The two ranges meet only in the non-negative part ...
            self.smin = self.umin as i64;
            self.umax = self.umax.min(self.smax as u64);
        } else if (self.smax as u64) < self.umin {
            // ... or only in the negative one.
            self.smax = self.umax as i64;
            self.umin = self.umin.max(self.smin as u64);
        }
    }

    fn deduce_mixed(&mut self) {
        let high = !0xffff_ffffu64;
        let (umin, umax) = (self.umin, self.umax);
        self.umin = umin.max((umin & high) | u64::from(self.u32_min));
        self.umax = umax.min((umax & high) | u64::from(self.u32_max));
        let (smin, smax) = (self.smin, self.smax);
        self.smin = smin.max((smin & high as i64) | i64::from(self.u32_min));
        self.smax = smax.min((smax & high as i64) | i64::from(self.u32_max));
        if self.s32_min >= 0 && self.smin >= i64::from(i32::MIN) && self.smax <= i64::from(i32::MAX) {
            self.smin = i64::from(self.s32_min);
            self.smax = i64::from(self.s32_max);
            self.umin = self.smin as u64;
            self.umax = self.smax as u64;
            self.var_off = self.var_off.intersect(Tnum::range(self.umin, self.umax));
        }
    }

    fn deduce(&mut self) {
        self.deduce32();
        self.deduce64();
        self.deduce_mixed();
    }

    fn bound_offset(&mut self) {
        let t64 = self.var_off.intersect(Tnum::range(self.umin, self.umax));
        let t32 = t64.subreg().intersect(Tnum::range(u64::from(self.u32_min), u64::from(self.u32_max)));
        self.var_off = t64.clear_subreg().or(t32);
    }

    /// Lets all views learn from each other.
    ///
    /// Kernel: `kernel/bpf/verifier.c reg_bounds_sync`, v6.18.
    pub(crate) fn bounds_sync(&mut self) {
        if self.is_settled_const() {
            return;
        }
        self.update_bounds();
        for _ in 0..3 {
            let before = *self;
            self.deduce();
            // A round that changes nothing is followed by others that do not either.
            if self.same_bounds(&before) {
                break;
            }
        }
        self.bound_offset();
        self.update_bounds();
    }

    /// A constant in every view: nothing is left to be learnt.
    fn is_settled_const(&self) -> bool {
        let v = self.var_off.value;
        self.var_off.mask == 0
            && (self.umin, self.umax, self.smin, self.smax) == (v, v, v as i64, v as i64)
            && (self.u32_min, self.u32_max) == (v as u32, v as u32)
            && (self.s32_min, self.s32_max) == (v as i32, v as i32)
    }

    fn same_bounds(&self, b: &Self) -> bool {
        (self.umin, self.umax, self.smin, self.smax) == (b.umin, b.umax, b.smin, b.smax)
            && (self.u32_min, self.u32_max) == (b.u32_min, b.u32_max)
            && (self.s32_min, self.s32_max) == (b.s32_min, b.s32_max)
            && self.var_off == b.var_off
    }

    /// Zero-extends: the 64-bit bounds follow from the 32-bit ones.
    pub(super) fn assign_32_into_64(&mut self) {
        self.umin = u64::from(self.u32_min);
        self.umax = u64::from(self.u32_max);
        if self.s32_min >= 0 && self.s32_max >= 0 {
            self.smin = i64::from(self.s32_min);
            self.smax = i64::from(self.s32_max);
        } else {
            self.smin = 0;
            self.smax = i64::from(u32::MAX);
        }
    }

    /// Clears the upper half.
    pub(super) fn zext_32_to_64(&mut self) {
        self.var_off = self.var_off.subreg();
        self.assign_32_into_64();
    }

    /// What is wrong with the bounds, if they contradict each other.
    pub(super) fn invariant_violation(&self) -> Option<&'static str> {
        if self.umin > self.umax
            || self.smin > self.smax
            || self.u32_min > self.u32_max
            || self.s32_min > self.s32_max
        {
            return Some("range bounds violation");
        }
        if self.var_off.is_const() {
            let v = self.var_off.value;
            if (self.umin, self.umax, self.smin, self.smax) != (v, v, v as i64, v as i64) {
                return Some("const tnum out of sync with range bounds");
            }
        }
        if self.var_off.subreg_is_const() {
            let v = self.var_off.value as u32;
            if (self.u32_min, self.u32_max, self.s32_min, self.s32_max) != (v, v, v as i32, v as i32) {
                return Some("const subreg tnum out of sync with range bounds");
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_unsigned_range_is_known_in_every_view() {
        let mut r = Reg::UNKNOWN;
        r.umin = 3;
        r.umax = 9;
        r.bounds_sync();
        assert_eq!((r.smin, r.smax), (3, 9));
        assert_eq!((r.u32_min, r.u32_max, r.s32_min, r.s32_max), (3, 9, 3, 9));
        assert_eq!(r.var_off, Tnum::range(3, 9));
        assert_eq!(r.invariant_violation(), None);
    }

    #[test]
    fn ranges_that_meet_on_one_side_of_zero_shrink_to_it() {
        let mut r = Reg::UNKNOWN;
        (r.smin, r.smax) = (-4, 10);
        (r.umin, r.umax) = (5, u64::MAX - 100);
        r.bounds_sync();
        assert_eq!((r.smin, r.smax, r.umin, r.umax), (5, 10, 5, 10));
    }
}
