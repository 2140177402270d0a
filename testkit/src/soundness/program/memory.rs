//! Steps with memory: packet, stack, map values, records.

use uapi::bpf::*;

use super::{FP, Feature, Gen, Jump, Kind, SLOTS, slot_offset};
use crate::soundness::world;

const SIZES: [(u8, u16); 4] = [(BPF_B, 1), (BPF_H, 2), (BPF_W, 4), (BPF_DW, 8)];

/// Offsets of `data`, `data_end` and `data_meta` in the context.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
const DATA_META: i16 = 8;

impl Gen<'_> {
    /// A pointer with bytes behind it, and how many.
    pub(super) fn room(&mut self) -> Option<(u8, u16)> {
        let all = self.holding(|k| matches!(k, Kind::Pkt(1..) | Kind::Value(_) | Kind::Record(_)));
        if all.is_empty() {
            return None;
        }
        let r = self.rng.pick(&all);
        let size = match self.kind(r) {
            Kind::Pkt(n) | Kind::Record(n) => n,
            Kind::Value(map) => world::value_size(map),
            _ => return None,
        };
        Some((r, size))
    }

    fn writable(&self, r: u8) -> bool {
        !matches!(self.kind(r), Kind::Value(map) if world::is_read_only(map))
    }

    /// Some access at `[base + off]`.
    fn access(&mut self, base: u8, off: i16, size: u8, writable: bool, atomic: bool) {
        let wide = size == BPF_W || size == BPF_DW;
        match self.rng.below(8) {
            0 | 1 if writable || self.sloppy && self.rng.one_in(8) => {
                let n = self.keeping(base, Self::number);
                self.push(BPF_STX | BPF_MEM | size, base, n, off, 0);
            }
            2 if writable => {
                let imm = self.rng.odd_number() as i32;
                self.push(BPF_ST | BPF_MEM | size, base, 0, off, imm);
            }
            3 | 4 if atomic && writable && wide => self.atomic(base, off, size),
            5 if size != BPF_DW => {
                let r = self.keeping(base, Self::fresh);
                self.push(BPF_LDX | BPF_MEMSX | size, r, base, off, 0);
                self.set(r, Kind::Num);
            }
            _ => {
                let r = self.keeping(base, Self::fresh);
                self.push(BPF_LDX | BPF_MEM | size, r, base, off, 0);
                self.set(r, Kind::Num);
            }
        }
    }

    fn atomic(&mut self, base: u8, off: i16, size: u8) {
        self.feature(Feature::Atomic);
        let ops = [
            i32::from(BPF_ADD),
            i32::from(BPF_OR),
            i32::from(BPF_AND),
            i32::from(BPF_XOR),
            i32::from(BPF_ADD) | BPF_FETCH,
            i32::from(BPF_OR) | BPF_FETCH,
            i32::from(BPF_AND) | BPF_FETCH,
            i32::from(BPF_XOR) | BPF_FETCH,
            BPF_XCHG,
            BPF_CMPXCHG,
            BPF_LOAD_ACQ,
            BPF_STORE_REL,
        ];
        let op = self.rng.pick(&ops);
        self.keeping(base, |g| {
            if op == BPF_LOAD_ACQ {
                let r = g.fresh();
                g.push(BPF_STX | BPF_ATOMIC | size, r, base, off, op);
                return g.set(r, Kind::Num);
            }
            // The register gets what was there before.
            let n = g.number();
            let n = if g.locked & (1 << n) == 0 || op & BPF_FETCH == 0 { n } else { g.copy(n) };
            if op == BPF_CMPXCHG {
                if g.locked & 1 != 0 || g.kind(0) != Kind::Num {
                    return;
                }
                g.push(BPF_STX | BPF_ATOMIC | size, base, n, off, op);
            } else {
                g.push(BPF_STX | BPF_ATOMIC | size, base, n, off, op);
            }
        });
    }

    fn copy(&mut self, n: u8) -> u8 {
        let r = self.keeping(n, Self::fresh);
        self.mov_reg(r, n);
        self.set(r, Kind::Num);
        r
    }

    /// An access at a constant offset.
    pub(super) fn constant_access(&mut self) {
        self.feature(Feature::Constant);
        let Some((r, room)) = self.room() else { return self.packet_check() };
        let (size, bytes) = self.size_up_to(room);
        let slack = if self.sloppy && self.rng.one_in(5) { 2 } else { 0 };
        let off = self.rng.range(0, i64::from(room - bytes) + slack) as i16;
        let is_packet = matches!(self.kind(r), Kind::Pkt(_));
        let aligned = if off % bytes as i16 == 0 { !is_packet } else { false };
        let writable = self.writable(r);
        self.access(r, off, size, writable, aligned);
    }

    fn size_up_to(&mut self, room: u16) -> (u8, u16) {
        let fitting: Vec<_> = SIZES.into_iter().filter(|s| s.1 <= room).collect();
        self.rng.pick(&fitting)
    }

    /// An access at an offset that a register gives.
    pub(super) fn variable_access(&mut self) {
        self.feature(Feature::Variable);
        if self.rng.one_in(5) {
            return self.stack_variable();
        }
        let Some((pointer, room)) = self.room() else { return self.lookup() };
        let (_, bytes) = self.size_up_to(room);
        self.keeping(pointer, |g| {
            let before = (g.regs, g.slots);
            let n = g.number();
            let index = g.copy(n);
            let mut out = Vec::new();
            g.keeping(index, |g| {
                g.bound(index, i32::from(room - bytes), &mut out);
                g.touch_at(pointer, index, bytes);
            });
            g.land_all(out);
            g.join(before);
        });
    }

    fn land_all(&mut self, jumps: Vec<Jump>) {
        for j in jumps {
            self.land(j);
        }
    }

    /// An access of `bytes` at `pointer + index`.
    pub(super) fn touch_at(&mut self, pointer: u8, index: u8, bytes: u16) {
        let writable = self.writable(pointer);
        self.with_fresh(|g, p| {
            g.mov_reg(p, pointer);
            g.push(BPF_ALU64 | BPF_ADD | BPF_X, p, index, 0, 0);
            // A variable offset takes a packet pointer's range away: `packet_variable` does that.
            let size = SIZES.iter().find(|s| s.1 == bytes).map_or(BPF_B, |s| s.0);
            if matches!(g.kind(pointer), Kind::Pkt(_)) {
                return g.checked_touch(p, size, bytes);
            }
            g.set(p, Kind::Unset);
            g.access(p, 0, size, writable, bytes == 4 && !writable);
            g.set(p, Kind::Unset);
        });
    }

    /// Checks a packet pointer that was moved, and goes through it.
    fn checked_touch(&mut self, p: u8, size: u8, bytes: u16) {
        let Some(ctx) = self.ctx else { return };
        self.set(p, Kind::Unset);
        self.with_fresh(|g, end| {
            g.push(BPF_LDX | BPF_MEM | BPF_W, end, ctx, DATA_END, 0);
            g.with_fresh(|g, past| {
                g.mov_reg(past, p);
                g.alu(BPF_ADD, past, i32::from(bytes));
                let over = g.jump(BPF_JMP | BPF_JGT | BPF_X, past, end, 0);
                let before = (g.regs, g.slots);
                g.set(past, Kind::Unset);
                g.access(p, 0, size, true, false);
                g.land(over);
                g.join(before);
            });
        });
    }

    /// The stack at a variable offset.
    fn stack_variable(&mut self) {
        if self.slots[..4].iter().any(|k| *k != Kind::Num) {
            return self.buffer();
        }
        let n = self.number();
        let index = self.copy(n);
        let before = (self.regs, self.slots);
        self.keeping(index, |g| {
            let mut out = Vec::new();
            g.bound(index, 32 - 8, &mut out);
            g.with_fresh(|g, p| {
                g.mov_reg(p, FP);
                g.alu(BPF_ADD, p, -32);
                g.push(BPF_ALU64 | BPF_ADD | BPF_X, p, index, 0, 0);
                g.set(p, Kind::Unset);
                let (size, _) = g.rng.pick(&SIZES);
                g.access(p, 0, size, true, false);
            });
            g.land_all(out);
        });
        self.join(before);
    }

    /// Compares a packet pointer with the end and works with the bytes before it.
    pub(super) fn packet_check(&mut self) {
        self.feature(Feature::PacketCheck);
        let Some(ctx) = self.ctx else { return self.arithmetic() };
        match self.rng.below(10) {
            0 => return self.metadata(ctx),
            1 => return self.packet_end_twice(ctx),
            _ => {}
        }
        let old = self.holding(|k| matches!(k, Kind::Pkt(_)));
        let p = if old.is_empty() || self.rng.one_in(2) { self.fresh() } else { self.rng.pick(&old) };
        if !old.contains(&p) {
            self.push(BPF_LDX | BPF_MEM | BPF_W, p, ctx, DATA, 0);
            self.set(p, Kind::Pkt(0));
        }
        let n = if self.rng.one_in(12) { self.rng.range(1, 0xffff) } else { self.rng.range(1, 40) } as i32;
        self.keeping(p, |g| {
            let (over, seen) = g.with_fresh(|g, end| {
                g.push(BPF_LDX | BPF_MEM | BPF_W, end, ctx, DATA_END, 0);
                g.set(end, Kind::End);
                g.with_fresh(|g, past| {
                    g.mov_reg(past, p);
                    g.alu(BPF_ADD, past, n);
                    g.set(past, Kind::Unset);
                    g.compare_end(past, end, n)
                })
            });
            let before = (g.regs, g.slots);
            if let Kind::Pkt(known) = g.kind(p) {
                g.set(p, Kind::Pkt(known.max(seen.min(0xffff) as u16)));
            }
            g.while_checked(over, before);
        });
    }

    /// What is done while a check holds.
    fn while_checked(&mut self, over: Vec<Jump>, before: ([Kind; 10], [Kind; SLOTS])) {
        let exit = self.rng.one_in(3) && !self.in_callback();
        if exit && over.len() == 1 {
            // The usual form: no packet, no program. What follows has the bytes.
            let on = self.goto();
            self.land_all(over);
            self.mov(0, 1);
            self.push(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
            return self.land(on);
        }
        self.constant_access();
        self.nested();
        self.land_all(over);
        self.join(before);
    }

    /// Jumps away unless `past`, a packet pointer plus `n`, is not beyond the end. Answers how many bytes are
    /// there if it does not jump.
    fn compare_end(&mut self, past: u8, end: u8, n: i32) -> (Vec<Jump>, i32) {
        let x = BPF_JMP | BPF_X;
        match self.rng.below(8) {
            0 | 1 => (vec![self.jump(x | BPF_JGT, past, end, 0)], n),
            2 => (vec![self.jump(x | BPF_JGE, past, end, 0)], n + 1),
            3 => (vec![self.jump(x | BPF_JLT, end, past, 0)], n),
            4 => (vec![self.jump(x | BPF_JLE, end, past, 0)], n + 1),
            5 | 6 => {
                let fine = self.jump(x | BPF_JLE, past, end, 0);
                let over = self.goto();
                self.land(fine);
                (vec![over], n)
            }
            _ => {
                let fine = self.jump(x | BPF_JGT, end, past, 0);
                let over = self.goto();
                self.land(fine);
                (vec![over], n + 1)
            }
        }
    }

    /// Compares with the end, moves on or back, and compares again.
    fn packet_end_twice(&mut self, ctx: u8) {
        let before = (self.regs, self.slots);
        self.with_fresh(|g, p| {
            g.push(BPF_LDX | BPF_MEM | BPF_W, p, ctx, DATA, 0);
            g.set(p, Kind::Unset);
            g.with_fresh(|g, end| {
                g.push(BPF_LDX | BPF_MEM | BPF_W, end, ctx, DATA_END, 0);
                g.set(end, Kind::Unset);
                let n = g.rng.range(1, 100) as i32;
                g.alu(BPF_ADD, p, n);
                let op = g.rng.pick(&[BPF_JGT, BPF_JGE, BPF_JLT, BPF_JLE]);
                let out = g.jump(BPF_JMP | BPF_X | op, p, end, 0);
                let by = g.rng.range(-i64::from(n), 20) as i32;
                let (move_op, by) = if by < 0 && g.rng.one_in(2) { (BPF_SUB, -by) } else { (BPF_ADD, by) };
                g.alu(move_op, p, by);
                let op = g.rng.pick(&[BPF_JGT, BPF_JGE, BPF_JLT, BPF_JLE]);
                let over = g.jump(BPF_JMP | BPF_X | op, p, end, 0);
                g.nested();
                g.land(over);
                g.join(before);
                g.land(out);
            });
        });
        self.join(before);
    }

    fn metadata(&mut self, ctx: u8) {
        self.feature(Feature::Metadata);
        let before = (self.regs, self.slots);
        self.with_fresh(|g, meta| {
            g.push(BPF_LDX | BPF_MEM | BPF_W, meta, ctx, DATA_META, 0);
            g.set(meta, Kind::Meta);
            g.with_fresh(|g, data| {
                g.push(BPF_LDX | BPF_MEM | BPF_W, data, ctx, DATA, 0);
                let n = g.rng.pick(&[1, 2, 4, 8, 12]);
                g.with_fresh(|g, past| {
                    g.mov_reg(past, meta);
                    g.alu(BPF_ADD, past, n);
                    g.set(past, Kind::Unset);
                    g.set(data, Kind::Unset);
                    let (over, seen) = g.compare_end(past, data, n);
                    let (size, bytes) = g.size_up_to(seen as u16);
                    let slack = i64::from(g.sloppy && g.rng.one_in(5));
                    let off = g.rng.range(0, i64::from(seen as u16 - bytes) + slack) as i16;
                    g.access(meta, off, size, true, false);
                    g.land_all(over);
                });
            });
        });
        self.join(before);
    }

    /// Packet bytes behind a length that the packet itself gives.
    pub(super) fn packet_variable(&mut self) {
        self.feature(Feature::PacketVariable);
        let Some(ctx) = self.ctx else { return self.arithmetic() };
        let before = (self.regs, self.slots);
        let n = self.number();
        let index = self.copy(n);
        self.keeping(index, |g| {
            let mut out = Vec::new();
            let limit = g.rng.pick(&[15, 60, 255, 1500, 0x7fff, 0xffff]);
            g.bound(index, limit, &mut out);
            g.with_fresh(|g, p| {
                g.push(BPF_LDX | BPF_MEM | BPF_W, p, ctx, DATA, 0);
                g.push(BPF_ALU64 | BPF_ADD | BPF_X, p, index, 0, 0);
                if g.rng.one_in(3) {
                    let c = g.rng.range(0, 40) as i32;
                    g.alu(BPF_ADD, p, c);
                }
                g.set(p, Kind::Pkt(0));
                let n = g.rng.range(1, 24) as i32;
                g.with_fresh(|g, end| {
                    g.push(BPF_LDX | BPF_MEM | BPF_W, end, ctx, DATA_END, 0);
                    g.with_fresh(|g, past| {
                        g.mov_reg(past, p);
                        g.alu(BPF_ADD, past, n);
                        g.set(past, Kind::Unset);
                        g.set(end, Kind::Unset);
                        let (over, seen) = g.compare_end(past, end, n);
                        g.set(p, Kind::Pkt(seen as u16));
                        out.extend(over);
                    });
                });
                g.constant_access();
                g.nested();
            });
            g.land_all(out);
        });
        self.join(before);
    }

    /// Stores a register and loads it, or a part of it, again.
    pub(super) fn spill(&mut self) {
        self.feature(Feature::Spill);
        let slot = self.rng.index(self.free_slots);
        let base = slot_offset(slot);
        let all = self.holding(|k| k != Kind::Unset && k != Kind::Ctx);
        let pointer = self.rng.one_in(2) && !all.is_empty();
        let r = if pointer { self.rng.pick(&all) } else { self.number() };
        let kind = self.kind(r);
        if kind == Kind::Num && self.rng.one_in(2) {
            let (size, bytes) = self.rng.pick(&SIZES);
            let at = base + (self.rng.below(u64::from(8 / bytes)) as i16) * bytes as i16;
            self.push(BPF_STX | BPF_MEM | size, FP, r, at, 0);
            if bytes == 8 {
                self.slots[slot] = Kind::Num;
            } else if self.slots[slot] != Kind::Num {
                self.slots[slot] = Kind::Unset;
            }
        } else {
            self.push(BPF_STX | BPF_MEM | BPF_DW, FP, r, base, 0);
            self.slots[slot] = kind;
        }
        if self.rng.one_in(3) {
            self.nested();
        }
        self.fill();
    }

    fn fill(&mut self) {
        let full: Vec<usize> = (0..SLOTS).filter(|s| self.slots[*s] != Kind::Unset).collect();
        if full.is_empty() {
            return;
        }
        let slot = self.rng.pick(&full);
        let (base, kind) = (slot_offset(slot), self.slots[slot]);
        let r = self.fresh();
        if kind == Kind::Num && self.rng.one_in(2) {
            let (size, bytes) = self.rng.pick(&SIZES);
            let at = base + (self.rng.below(u64::from(8 / bytes)) as i16) * bytes as i16;
            let mode = if bytes < 8 && self.rng.one_in(3) { BPF_MEMSX } else { BPF_MEM };
            self.push(BPF_LDX | mode | size, r, FP, at, 0);
        } else {
            self.push(BPF_LDX | BPF_MEM | BPF_DW, r, FP, base, 0);
        }
        self.set(r, kind);
    }
}
