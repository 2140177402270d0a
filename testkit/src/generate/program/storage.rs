//! Steps that use maps.

use uapi::bpf::*;

use super::maps::*;
use super::{AUX, BUF, Builder, CTX, FP, KEY, PTR, SUM as SUM_REG, VALUE};

/// Maps with a 4-byte key whose values a program may look up.
const PLAIN: [i32; 5] = [ARRAY, HASH, PERCPU_ARRAY, PERCPU_HASH, LRU];

impl Builder<'_> {
    pub(super) fn storage_step(&mut self) {
        match self.rng.below(16) {
            0..=4 => {
                let map = self.rng.pick(&PLAIN);
                self.key();
                self.lookup(map);
            }
            5..=7 => {
                let map = self.rng.pick(&PLAIN);
                self.key();
                self.update(map);
            }
            8 => {
                let map = self.rng.pick(&[ARRAY, HASH, PERCPU_HASH, LRU]);
                self.key();
                self.delete(map);
            }
            9 => self.trie(),
            10 => self.queue(),
            11 => self.bloom(),
            12 => self.map_in_map(),
            13 => self.lookup_percpu(),
            14 => self.direct_value(),
            _ => self.redirect_map(),
        }
    }

    /// A key on the stack: mostly one of a few.
    fn key(&mut self) {
        let c = &mut self.code;
        match self.rng.below(4) {
            0 => c.st(BPF_W, FP, KEY, self.rng.odd_number() as i32),
            1 | 2 => c.st(BPF_W, FP, KEY, self.rng.below(10) as i32),
            _ => {
                c.mov_reg(1, SUM_REG);
                c.alu_imm(BPF_AND, 1, 15);
                c.stx(BPF_W, FP, 1, KEY);
            }
        }
    }

    /// Looks a key up and works on the value, if there is one.
    fn lookup(&mut self, map: i32) {
        self.code.ld_map(1, map);
        self.code.stack(2, KEY);
        self.call(func::MAP_LOOKUP_ELEM);
        self.use_value();
    }

    /// Works on the value in r0, if it is one; folds whether it was.
    fn use_value(&mut self) {
        let absent = self.code.jump_imm(BPF_JEQ, 0, 0);
        self.code.mov_reg(PTR, 0);
        for _ in 0..=self.rng.below(2) {
            self.touch_value();
        }
        self.code.land(absent);
        self.code.alu_imm(BPF_XOR, SUM_REG, 0x55);
    }

    /// Reads, writes or atomically changes the value at `PTR`.
    fn touch_value(&mut self) {
        let offset = self.rng.pick(&[0, 8]);
        match self.rng.below(5) {
            0 => {
                let (size, width) = self.rng.pick(&[(BPF_B, 1), (BPF_H, 2), (BPF_W, 4), (BPF_DW, 8)]);
                let within = self.rng.below(8 / width) * width;
                self.code.stx(size, PTR, SUM_REG, offset + within as i16);
            }
            1 | 2 => self.atomic(PTR, offset),
            _ => {
                self.code.ldx(BPF_DW, 0, PTR, offset);
                self.fold();
            }
        }
    }

    /// An atomic operation on 4 or 8 bytes, with `AUX` as its operand.
    pub(super) fn atomic(&mut self, base: u8, offset: i16) {
        let size = self.rng.pick(&[BPF_W, BPF_DW]);
        let plain = self.rng.pick(&[BPF_ADD, BPF_AND, BPF_OR, BPF_XOR]);
        let fetch = i32::from(plain) | BPF_FETCH;
        let op = self.rng.pick(&[
            i32::from(plain),
            fetch,
            fetch,
            BPF_XCHG,
            BPF_CMPXCHG,
            BPF_LOAD_ACQ,
            BPF_STORE_REL,
        ]);
        let c = &mut self.code;
        match op {
            BPF_LOAD_ACQ => c.push(BPF_STX | BPF_ATOMIC | size, 0, base, offset, op),
            BPF_CMPXCHG => {
                c.ldx(size, 0, base, offset);
                if self.rng.one_in(2) {
                    c.alu_imm(BPF_ADD, 0, 1);
                }
                c.push(BPF_STX | BPF_ATOMIC | size, base, AUX, offset, op);
            }
            _ => {
                c.mov_reg(0, AUX);
                c.push(BPF_STX | BPF_ATOMIC | size, base, 0, offset, op);
            }
        }
        self.fold();
    }

    fn update(&mut self, map: i32) {
        self.value();
        let flags = self.update_flags();
        let c = &mut self.code;
        c.ld_map(1, map);
        c.stack(2, KEY);
        c.stack(3, VALUE);
        c.mov(4, flags);
        self.call(func::MAP_UPDATE_ELEM);
        self.fold();
    }

    fn update_flags(&mut self) -> i32 {
        match self.rng.below(8) {
            0 => BPF_NOEXIST as i32,
            1 => BPF_EXIST as i32,
            2 => self.rng.below(9) as i32,
            _ => 0,
        }
    }

    /// A value on the stack, [`VALUE_SIZE`] bytes.
    fn value(&mut self) {
        for offset in (0..VALUE_SIZE as i16).step_by(8) {
            let reg = self.rng.pick(&[SUM_REG, AUX]);
            self.code.stx(BPF_DW, FP, reg, VALUE + offset);
        }
    }

    fn delete(&mut self, map: i32) {
        self.code.ld_map(1, map);
        self.code.stack(2, KEY);
        self.call(func::MAP_DELETE_ELEM);
        self.fold();
    }

    fn trie(&mut self) {
        let len = if self.rng.one_in(12) { 33 } else { self.rng.below(33) };
        self.code.st(BPF_W, FP, KEY, len as i32);
        let data = self.rng.pick(&[0x0a00_000a, 0x0a00_0a0a, -1, 0, 0x0100_000a]);
        self.code.st(BPF_W, FP, KEY + 4, data);
        match self.rng.below(4) {
            0 => self.delete(LPM),
            1 => self.update(LPM),
            _ => self.lookup(LPM),
        }
    }

    fn queue(&mut self) {
        let map = self.rng.pick(&[QUEUE, STACK]);
        self.code.ld_map(1, map);
        match self.rng.below(3) {
            0 => {
                self.code.stx(BPF_DW, FP, SUM_REG, VALUE);
                self.code.stack(2, VALUE);
                let flags = self.update_flags();
                self.code.mov(3, flags);
                self.call(func::MAP_PUSH_ELEM);
                self.fold();
            }
            1 => self.take(func::MAP_POP_ELEM),
            _ => self.take(func::MAP_PEEK_ELEM),
        }
    }

    fn take(&mut self, helper: i32) {
        self.code.st(BPF_DW, FP, VALUE, 0x77);
        self.code.stack(2, VALUE);
        self.call(helper);
        self.fold();
        self.code.ldx(BPF_DW, 0, FP, VALUE);
        self.fold();
    }

    /// A bloom filter may say "perhaps", but never of an empty filter, and never "no" of what is in it.
    fn bloom(&mut self) {
        self.code.st(BPF_DW, FP, VALUE, 5);
        self.code.ld_map(1, BLOOM);
        self.code.stack(2, VALUE);
        if self.rng.one_in(2) {
            let flags = self.update_flags();
            self.code.mov(3, flags);
            self.call(func::MAP_PUSH_ELEM);
        } else {
            self.call(func::MAP_PEEK_ELEM);
        }
        self.fold();
    }

    fn map_in_map(&mut self) {
        let key = self.rng.below(3) as i32;
        self.code.st(BPF_W, FP, KEY, key);
        self.code.ld_map(1, OUTER);
        self.code.stack(2, KEY);
        self.call(func::MAP_LOOKUP_ELEM);
        let absent = self.code.jump_imm(BPF_JEQ, 0, 0);
        self.code.mov_reg(PTR, 0);
        self.key();
        self.code.mov_reg(1, PTR);
        self.code.stack(2, KEY);
        self.call(func::MAP_LOOKUP_ELEM);
        self.use_value();
        self.code.land(absent);
        self.code.alu_imm(BPF_XOR, SUM_REG, 0x33);
    }

    fn lookup_percpu(&mut self) {
        let map = self.rng.pick(&[PERCPU_ARRAY, PERCPU_HASH]);
        self.key();
        self.code.ld_map(1, map);
        self.code.stack(2, KEY);
        let cpu = self.rng.pick(&[0, 0, 1, 1 << 20, -1]);
        self.code.mov(3, cpu);
        self.call(func::MAP_LOOKUP_PERCPU_ELEM);
        self.use_value();
    }

    /// Works on the value whose address programs may hold.
    fn direct_value(&mut self) {
        self.code.ld_map_value(PTR, CELL, 0);
        self.touch_value();
    }

    fn redirect_map(&mut self) {
        let map = self.rng.pick(&[DEVMAP, DEVMAP_HASH, XSKMAP, CPUMAP]);
        self.code.ld_map(1, map);
        let key = self.rng.below(6) as i32;
        self.code.mov(2, key);
        let flags = self.rng.pick(&[0, 1, 2, 3, 4, 8, 16, 24, -1]);
        self.code.mov(3, flags);
        self.call(func::REDIRECT_MAP);
        self.fold();
    }

    /// Sends some bytes of the stack to user space.
    pub(super) fn send(&mut self) {
        let len = self.rng.range(1, 64) as i32;
        if self.rng.one_in(2) {
            let c = &mut self.code;
            c.ld_map(1, RING);
            c.stack(2, BUF);
            c.mov(3, len);
            c.mov(4, self.rng.pick(&[0, 0, 1, 2, 3, 4]));
            self.call(func::RINGBUF_OUTPUT);
        } else {
            let c = &mut self.code;
            c.mov_reg(1, CTX);
            c.ld_map(2, PERF);
            let packet_bytes = self.rng.pick(&[0, 0, 1, 14, 60, 100, 2000]);
            c.ld_imm64(3, packet_bytes << 32 | self.rng.pick(&[0xffff_ffff, 0, 63, 64]));
            c.stack(4, BUF);
            c.mov(5, len);
            self.call(func::PERF_EVENT_OUTPUT);
        }
        self.fold();
    }

    /// Reserves a record of the ring, fills it, and submits or discards it.
    pub(super) fn reserve(&mut self) {
        let len = 8 * self.rng.range(1, 8) as i32;
        let c = &mut self.code;
        c.ld_map(1, RING);
        c.mov(2, len);
        c.mov(3, 0);
        self.call(func::RINGBUF_RESERVE);
        let none = self.code.jump_imm(BPF_JEQ, 0, 0);
        for offset in (0..len as i16).step_by(8) {
            self.code.stx(BPF_DW, 0, SUM_REG, offset);
        }
        self.code.mov_reg(1, 0);
        self.code.mov(2, 0);
        let end = self.rng.pick(&[func::RINGBUF_SUBMIT, func::RINGBUF_SUBMIT, func::RINGBUF_DISCARD]);
        self.call(end);
        self.code.land(none);
    }
}
