//! Lookups as machine code: a routine per map, which works in few registers.
//!
//! For maps of devices and sockets it reads the slot. For hash tables it does what [`HashLayout`] describes: one line of the bucket, eight tags compared at once, one
//! line of the element. What is rare goes to the general lookup: two keys with one tag, an overflow bucket,
//! a writer at the same time.

use mem::IndexLayout;

use super::Compiler;
use super::asm::{Alu, Cond, Gpr, Label, Mem, Shift, Size, Unary, Width};
use super::node::{Id, Node};
use crate::maps::{HashLayout, Layout, Seed};

/// Registers that a routine changes.
pub(super) const CLOBBERED: u16 =
    Gpr::Rax.bit() | Gpr::Rcx.bit() | Gpr::Rdx.bit() | Gpr::Rdi.bit() | Gpr::R8.bit();

/// Holds the key, or its address if it has not 4 or 8 bytes. The other registers have fixed parts too: rax
/// the hash and later the result, rdx the bucket, r8 the count of moves and later the element.
pub(super) const KEY: Gpr = Gpr::Rdi;
const BUCKET: Gpr = Gpr::Rdx;
const ELEMENT: Gpr = Gpr::R8;

/// Longest key that a routine hashes and compares.
pub(super) const MAX_KEY: u32 = 64;

/// A map that the program looks things up in, and its routine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Routine {
    map: u32,
    label: Label,
}

/// Whether a key goes by value.
pub(super) const fn is_word(key_size: u32) -> bool {
    matches!(key_size, 4 | 8)
}

impl Compiler<'_> {
    /// Calls a table's routine; the node's value is the address of the value, or 0.
    pub(super) fn emit_hash_lookup(&mut self, id: Id) {
        let n = self.trace.graph[id];
        let label = self.routine(n.aux);
        let key = if n.b.is_some() { n.b } else { n.a };
        self.place_key(&n, key);
        self.asm.call(label);
        self.function.used |= CLOBBERED;
        self.release(key);
        if let Layout::Hash(HashLayout { percpu: Some((_, cpu_stride, _)), .. }) = self.layout(n.aux) {
            self.add_cpu(cpu_stride);
        }
        self.bind(id, Gpr::Rax);
    }

    fn layout(&self, map: u32) -> Layout {
        self.source.maps[map as usize].layout
    }

    /// From CPU 0's value to this one's.
    fn add_cpu(&mut self, cpu_stride: u64) {
        let none = self.asm.label();
        self.asm.test_rr(Width::W64, Gpr::Rax, Gpr::Rax);
        self.asm.jcc(Cond::E, none);
        self.asm.load(Size::W, Gpr::Rcx, Mem::new(self.function.run, self.source.abi.run_cpu));
        self.asm.imul_rri(Width::W64, Gpr::Rcx, Gpr::Rcx, cpu_stride as i32);
        self.asm.alu_rr(Alu::Add, Width::W64, Gpr::Rax, Gpr::Rcx);
        self.asm.bind(none);
    }

    /// The key, or its address, to where the routine takes it, and out of the way what it changes.
    fn place_key(&mut self, n: &Node, key: Id) {
        if key == Id::FRAME {
            self.save_across(&[], CLOBBERED);
            let mem = self.frame_mem(n.imm as i32);
            return self.asm.lea(Width::W64, KEY, mem);
        }
        self.ensure(key);
        let left = self.save_across(&[(key, KEY)], CLOBBERED);
        let loc = self.trace.graph[key].loc;
        if left[KEY.n() as usize] != key {
            match (loc.as_reg(), loc.as_slot()) {
                (Some(r), _) if r == KEY.n() => {}
                (Some(r), _) => self.asm.mov_rr(Width::W64, KEY, Gpr::from_number(r)),
                (None, Some(slot)) => {
                    let mem = self.slot(slot);
                    self.asm.load(Size::D, KEY, mem);
                }
                (None, None) => {
                    let v = self.trace.graph.constant(key).unwrap_or(0);
                    self.load_constant(KEY, v);
                }
            }
        }
        if n.b == Id::NONE && n.imm != 0 {
            self.asm.lea(Width::W64, KEY, Mem::new(KEY, n.imm as i32));
        }
    }

    fn routine(&mut self, map: u32) -> Label {
        if let Some(r) = self.routines.iter().find(|r| r.map == map) {
            return r.label;
        }
        let label = self.asm.label();
        self.routines.push(Routine { map, label });
        label
    }

    /// The code of all routines that were called.
    pub(super) fn emit_routines(&mut self) {
        self.asm.switch(true);
        for Routine { map, label } in std::mem::take(&mut self.routines) {
            let link = self.source.maps[map as usize];
            self.asm.align(4);
            self.asm.bind(label);
            match link.layout {
                Layout::Hash(layout) => self.lookup_routine(&layout, link.key_size, link.handle),
                layout => self.slot_routine(layout, link.handle),
            }
        }
        self.asm.switch(false);
    }

    /// Devices and sockets. What cannot be read from the slot alone is for the general lookup.
    fn slot_routine(&mut self, layout: Layout, handle: u64) {
        let (none, slow) = (self.asm.label(), self.asm.label());
        let (index, slots) = (Gpr::Rax, Gpr::Rcx);
        self.asm.mov_rr(Width::W32, index, KEY);
        let base = match layout {
            Layout::Entries { base, max_entries, .. } | Layout::Slots { base, max_entries } => {
                self.asm.alu_ri(Alu::Cmp, Width::W32, index, max_entries as i32);
                self.asm.jcc(Cond::Ae, none);
                base
            }
            Layout::Buckets { base, mask } => {
                self.asm.alu_ri(Alu::And, Width::W32, index, mask as i32);
                base
            }
            // `plan` makes routines for no others.
            _ => return self.slow_lookup(4, handle),
        };
        self.asm.mov_ri(slots, base);
        self.asm.load(Size::D, index, Mem::indexed(slots, index, 3, 0));
        self.asm.test_rr(Width::W64, index, index);
        match layout {
            Layout::Entries { off_value, .. } => {
                self.asm.jcc(Cond::E, none);
                self.asm.load(Size::D, Gpr::Rax, Mem::new(index, off_value as i32));
                self.asm.ret();
            }
            _ => self.asm.jcc(Cond::Ne, slow),
        }
        self.asm.bind(none);
        self.asm.zero(Gpr::Rax);
        self.asm.ret();
        self.asm.bind(slow);
        self.slow_lookup(4, handle);
    }

    fn lookup_routine(&mut self, layout: &HashLayout, key_size: u32, handle: u64) {
        let (none, slow) = (self.asm.label(), self.asm.label());
        self.hash(layout.seed, key_size);
        // Bucket.
        let IndexLayout { base, mask } = layout.index;
        self.asm.mov_rr(Width::W64, BUCKET, Gpr::Rax);
        self.mask(BUCKET, mask);
        self.asm.shift_ri(Shift::Shl, Width::W64, BUCKET, IndexLayout::STRIDE.trailing_zeros() as u8);
        self.asm.mov_ri(Gpr::Rcx, base);
        self.asm.alu_rr(Alu::Add, Width::W64, BUCKET, Gpr::Rcx);
        let field = |offset: usize| Mem::new(BUCKET, offset as i32);
        self.asm.load(Size::W, Gpr::R8, field(IndexLayout::OFF_MOVES));
        // Tags.
        self.asm.shift_ri(Shift::Shr, Width::W64, Gpr::Rax, IndexLayout::TAG_SHIFT as u8);
        self.asm.alu_ri(Alu::Or, Width::W32, Gpr::Rax, 1);
        self.asm.broadcast16_xmm0(Gpr::Rax);
        self.asm.equal16_xmm0(field(IndexLayout::OFF_TAGS));
        self.asm.mask_xmm0(Gpr::Rcx);
        self.asm.test_rr(Width::W32, Gpr::Rcx, Gpr::Rcx);
        self.asm.jcc(Cond::E, none);
        // The element of the first tag that is equal; two bits of the mask are one tag.
        self.asm.bsf(Gpr::Rax, Gpr::Rcx);
        let number = Mem::indexed(BUCKET, Gpr::Rax, 1, IndexLayout::OFF_ELEMS as i32);
        self.asm.load(Size::W, Gpr::Rcx, number);
        self.scaled(ELEMENT, Gpr::Rcx, layout.stride);
        self.asm.mov_ri(Gpr::Rax, layout.elems);
        self.asm.alu_rr(Alu::Add, Width::W64, ELEMENT, Gpr::Rax);
        self.compare_element(layout, key_size, slow);
        self.found(layout, slow);
        self.asm.bind(none);
        self.asm.alu_mi(Alu::Cmp, Size::W, field(IndexLayout::OFF_NEXT), 0);
        self.asm.jcc(Cond::Ne, slow);
        self.asm.alu_rm(Alu::Cmp, Width::W32, Gpr::R8, field(IndexLayout::OFF_MOVES));
        self.asm.jcc(Cond::Ne, slow);
        self.asm.zero(Gpr::Rax);
        self.asm.ret();
        self.asm.bind(slow);
        self.slow_lookup(key_size, handle);
    }

    fn mask(&mut self, r: Gpr, mask: u64) {
        match i32::try_from(mask) {
            Ok(mask) => self.asm.alu_ri(Alu::And, Width::W32, r, mask),
            Err(_) => {
                self.asm.mov_ri(Gpr::Rcx, mask);
                self.asm.alu_rr(Alu::And, Width::W64, r, Gpr::Rcx);
            }
        }
    }

    /// `to = from * stride`.
    fn scaled(&mut self, to: Gpr, from: Gpr, stride: u64) {
        if stride.is_power_of_two() {
            self.asm.mov_rr(Width::W64, to, from);
            self.asm.shift_ri(Shift::Shl, Width::W64, to, stride.trailing_zeros() as u8);
        } else {
            self.asm.imul_rri(Width::W64, to, from, stride as i32);
        }
    }

    /// Goes on if the element is the key's and nobody is writing it. The element's number is in rcx and has
    /// to stay there.
    fn compare_element(&mut self, layout: &HashLayout, key_size: u32, slow: Label) {
        let generation = Mem::new(ELEMENT, HashLayout::OFF_GENERATION as i32);
        let stored = |offset: u32| Mem::new(ELEMENT, (layout.off_key + offset) as i32);
        self.asm.load(Size::W, BUCKET, generation);
        self.asm.test_ri(Width::W32, BUCKET, 1);
        self.asm.jcc(Cond::Ne, slow);
        match key_size {
            4 => self.asm.alu_rm(Alu::Cmp, Width::W32, KEY, stored(0)),
            8 => self.asm.alu_rm(Alu::Cmp, Width::W64, KEY, stored(0)),
            _ => {
                for (offset, len) in words(key_size) {
                    self.load_word(Gpr::Rax, KEY, offset, len);
                    // Stored keys are padded with zeroes.
                    self.asm.alu_rm(Alu::Cmp, Width::W64, Gpr::Rax, stored(offset));
                    if offset + 8 < key_size {
                        self.asm.jcc(Cond::Ne, slow);
                    }
                }
            }
        }
        self.asm.jcc(Cond::Ne, slow);
        self.asm.alu_rm(Alu::Cmp, Width::W32, BUCKET, generation);
        self.asm.jcc(Cond::Ne, slow);
    }

    /// Answers the address of the value.
    fn found(&mut self, layout: &HashLayout, slow: Label) {
        if let Some(maps) = layout.maps {
            // The element is still the key's when its map has been read, so the map was the key's too.
            self.asm.mov_ri(Gpr::Rax, maps);
            self.asm.load(Size::D, Gpr::Rax, Mem::indexed(Gpr::Rax, Gpr::Rcx, 3, 0));
            self.asm.alu_rm(
                Alu::Cmp,
                Width::W32,
                BUCKET,
                Mem::new(ELEMENT, HashLayout::OFF_GENERATION as i32),
            );
            self.asm.jcc(Cond::Ne, slow);
            self.asm.test_rr(Width::W64, Gpr::Rax, Gpr::Rax);
            self.asm.jcc(Cond::E, slow);
            return self.asm.ret();
        }
        if layout.lru {
            let referenced = Mem::new(ELEMENT, HashLayout::OFF_REF as i32);
            let known = self.asm.label();
            // Written only if it changes, so that the line can be shared.
            self.asm.alu_mi(Alu::Cmp, Size::B, referenced, 0);
            self.asm.jcc(Cond::Ne, known);
            self.asm.store_imm(Size::B, referenced, 1);
            self.asm.bind(known);
        }
        match layout.percpu {
            None => self.asm.lea(Width::W64, Gpr::Rax, Mem::new(ELEMENT, layout.off_value as i32)),
            Some((base, _, stride)) => {
                self.scaled(Gpr::Rax, Gpr::Rcx, stride);
                self.asm.mov_ri(Gpr::Rcx, base);
                self.asm.alu_rr(Alu::Add, Width::W64, Gpr::Rax, Gpr::Rcx);
            }
        }
        self.asm.ret();
    }

    /// The hash of the key to rax; changes rcx and rdx.
    ///
    /// See [`Seed::hash`].
    fn hash(&mut self, seed: Seed, key_size: u32) {
        let [s0, s1] = seed.words();
        if is_word(key_size) {
            self.asm.mov_ri(Gpr::Rax, s0);
            self.asm.alu_rr(Alu::Xor, Width::W64, Gpr::Rax, KEY);
            self.asm.mov_ri(Gpr::Rdx, s1);
            return self.fold();
        }
        self.asm.mov_ri(Gpr::Rax, s0 ^ u64::from(key_size));
        let pieces: Vec<(u32, u32)> = words(key_size).collect();
        for pair in pieces.chunks(2) {
            self.load_word(Gpr::Rdx, KEY, pair[0].0, pair[0].1);
            self.asm.alu_rr(Alu::Xor, Width::W64, Gpr::Rax, Gpr::Rdx);
            self.asm.mov_ri(Gpr::Rdx, s1);
            if let Some((offset, len)) = pair.get(1) {
                self.load_word(Gpr::R8, KEY, *offset, *len);
                self.asm.alu_rr(Alu::Xor, Width::W64, Gpr::Rdx, Gpr::R8);
            }
            self.fold();
        }
        self.asm.mov_ri(Gpr::Rdx, s1);
        self.asm.alu_rr(Alu::Xor, Width::W64, Gpr::Rax, Gpr::Rdx);
        self.asm.mov_ri(Gpr::Rdx, Seed::LAST);
        self.fold();
    }

    /// `rax = fold(rax, rdx)`: the exclusive or of the halves of the product.
    fn fold(&mut self) {
        self.asm.unary(Unary::Mul, Width::W64, Gpr::Rdx);
        self.asm.alu_rr(Alu::Xor, Width::W64, Gpr::Rax, Gpr::Rdx);
    }

    /// One to eight bytes at `base + offset`, zero-extended. Changes rcx if they are no power of two.
    fn load_word(&mut self, to: Gpr, base: Gpr, offset: u32, len: u32) {
        let at = |o: u32| Mem::new(base, (offset + o) as i32);
        match len {
            1 | 2 | 4 | 8 => self.asm.load(Size::from_bytes(len as u8), to, at(0)),
            _ => {
                // The last bytes first: each piece is shifted in from above.
                let mut end = len;
                let mut first = true;
                while end > 0 {
                    let piece =
                        if first { len & len.wrapping_neg() } else { (end + 1).next_power_of_two() / 2 };
                    let piece = piece.min(4);
                    end -= piece;
                    if first {
                        self.asm.load(Size::from_bytes(piece as u8), to, at(end));
                    } else {
                        self.asm.shift_ri(Shift::Shl, Width::W64, to, (piece * 8) as u8);
                        self.asm.load(Size::from_bytes(piece as u8), Gpr::Rcx, at(end));
                        self.asm.alu_rr(Alu::Or, Width::W64, to, Gpr::Rcx);
                    }
                    first = false;
                }
            }
        }
    }

    /// The general lookup, with the registers kept that the routine does not change.
    fn slow_lookup(&mut self, key_size: u32, handle: u64) {
        const KEPT: [Gpr; 4] = [Gpr::Rsi, Gpr::R9, Gpr::R10, Gpr::R11];
        let (frame, stack) = (Gpr::Rbp, Gpr::Rsp);
        self.asm.push(frame);
        self.asm.mov_rr(Width::W64, frame, stack);
        self.asm.alu_ri(Alu::Sub, Width::W64, stack, 48);
        self.asm.alu_ri(Alu::And, Width::W64, stack, -16);
        for (i, r) in KEPT.into_iter().enumerate() {
            self.asm.store(Size::D, Mem::new(stack, 8 + 8 * i as i32), r);
        }
        if is_word(key_size) {
            self.asm.store(Size::D, Mem::new(stack, 0), KEY);
            self.asm.mov_rr(Width::W64, Gpr::Rsi, stack);
        } else {
            self.asm.mov_rr(Width::W64, Gpr::Rsi, KEY);
        }
        self.asm.mov_ri(Gpr::Rdi, handle);
        self.call_address(self.source.abi.map_lookup);
        for (i, r) in KEPT.into_iter().enumerate() {
            self.asm.load(Size::D, r, Mem::new(stack, 8 + 8 * i as i32));
        }
        self.asm.mov_rr(Width::W64, stack, frame);
        self.asm.pop(frame);
        self.asm.ret();
    }
}

/// The words of eight bytes, the last perhaps shorter, that a key is hashed and compared in: offset, length.
fn words(key_size: u32) -> impl Iterator<Item = (u32, u32)> {
    (0..key_size).step_by(8).map(move |offset| (offset, (key_size - offset).min(8)))
}
