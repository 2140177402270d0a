//! Registers and stack slots of a frame, shared by the states that hold the same ones.
//!
//! A state is copied at every branch and at every state remembered, and most registers are the same in all
//! copies. [`Regs`] and [`Slots`] copy a register or a stack when it is written, not before: that saves
//! memory, and comparing states is done at once where both hold the same object ([`Regs::share`]).

use std::ops::{Deref, DerefMut, Index, IndexMut};
use std::rc::Rc;

use super::reg::Reg;
use super::state::StackSlot;
use super::types::RegType;

/// R0 to R10.
#[derive(Clone, Debug)]
pub(crate) struct Regs([Rc<Reg>; 11]);

impl Regs {
    /// All registers as they are before anything is written.
    pub(crate) fn unset() -> Self {
        let none = Rc::new(Reg::NOT_INIT);
        Self(std::array::from_fn(|_| Rc::clone(&none)))
    }

    /// All registers, R0 first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Reg> {
        self.0.iter().map(|r| &**r)
    }

    /// Changes the registers that are `wanted`; others stay shared.
    pub(crate) fn change(&mut self, wanted: impl Fn(&Reg) -> bool, mut f: impl FnMut(&mut Reg)) {
        for r in self.0.iter_mut().filter(|r| wanted(r)) {
            f(Rc::make_mut(r));
        }
    }

    /// Whether register `i` is one object in both, and hence the same.
    pub(crate) fn share(&self, other: &Self, i: usize) -> bool {
        Rc::ptr_eq(&self.0[i], &other.0[i])
    }

    /// Copies one register from another frame.
    pub(crate) fn take(&mut self, i: usize, from: &Self) {
        self.0[i] = Rc::clone(&from.0[i]);
    }

    /// Forgets all of R0 to R9 that have no bit in `live`.
    pub(crate) fn keep(&mut self, live: u16) {
        let mut none = None;
        for (i, r) in self.0[..10].iter_mut().enumerate() {
            if live & (1 << i) == 0 && r.ty != RegType::NOT_INIT {
                *r = Rc::clone(none.get_or_insert_with(|| Rc::new(Reg::NOT_INIT)));
            }
        }
    }
}

impl Index<usize> for Regs {
    type Output = Reg;
    fn index(&self, i: usize) -> &Reg {
        &self.0[i]
    }
}

impl IndexMut<usize> for Regs {
    fn index_mut(&mut self, i: usize) -> &mut Reg {
        Rc::make_mut(&mut self.0[i])
    }
}

/// A frame's stack: slot 0 holds fp-8..fp-1. Taking it by `&mut` makes a copy if another state shares it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots(Option<Rc<Vec<StackSlot>>>);

impl Slots {
    /// Grows to `len` slots, the new ones as `empty`.
    pub(crate) fn resize(&mut self, len: usize, empty: StackSlot) {
        Rc::make_mut(self.0.get_or_insert_default()).resize(len, empty);
    }

    /// Whether both are one object, and hence the same.
    pub(crate) fn share(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(a), Some(b)) => Rc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// Changes the slots that are `wanted`; a stack with none of them stays shared.
    pub(crate) fn change(&mut self, wanted: impl Fn(&StackSlot) -> bool, mut f: impl FnMut(&mut StackSlot)) {
        if self.iter().any(&wanted) {
            self.iter_mut().filter(|s| wanted(s)).for_each(&mut f);
        }
    }
}

impl Deref for Slots {
    type Target = [StackSlot];
    fn deref(&self) -> &[StackSlot] {
        self.0.as_ref().map_or(&[], |s| s.as_slice())
    }
}

impl DerefMut for Slots {
    fn deref_mut(&mut self) -> &mut [StackSlot] {
        match &mut self.0 {
            Some(s) => Rc::make_mut(s).as_mut_slice(),
            None => &mut [],
        }
    }
}
