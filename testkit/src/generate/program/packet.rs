//! Steps that look at the packet or change it.

use uapi::bpf::*;

use super::code::Jump;
use super::{AUX, BUF, Builder, CTX, DYNPTR, FP, SUM};

const SIZES: [(u8, i32); 4] = [(BPF_B, 1), (BPF_H, 2), (BPF_W, 4), (BPF_DW, 8)];
/// Offsets of `struct xdp_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
const DATA_META: i16 = 8;

impl Builder<'_> {
    pub(super) fn packet_step(&mut self) {
        match self.rng.below(16) {
            0..=3 => self.packet_access(DATA, DATA_END),
            4 => self.packet_access(DATA_META, DATA),
            5 => self.packet_variable_offset(),
            6 => self.context_field(),
            7 => self.adjust(func::XDP_ADJUST_HEAD, &[-14, 14, -216, -220, 1, 4, 100, -4]),
            8 => self.adjust(func::XDP_ADJUST_META, &[-4, -32, -252, 4, 8, 3, -216, -220, 0]),
            9 | 10 => self.adjust(func::XDP_ADJUST_TAIL, &[-1, 1, 64, -64, 200, 3000, -3000, 4096, -10]),
            11 => self.buff_len(),
            12 => self.load_bytes(),
            13 => self.store_bytes(),
            14 => self.pull_data(),
            _ => self.dynptr_access(),
        }
    }

    /// Reads or writes a few bytes at a constant offset, if they are there.
    fn packet_access(&mut self, start: i16, end: i16) {
        let (size, len) = self.rng.pick(&SIZES);
        let offset = match self.rng.below(4) {
            0 => 12,
            1 => self.rng.below(64) as i32,
            2 => self.rng.below(8) as i32,
            _ => self.rng.below(1600) as i32,
        };
        let c = &mut self.code;
        c.ldx(BPF_W, 2, CTX, start);
        c.ldx(BPF_W, 3, CTX, end);
        c.mov_reg(4, 2);
        c.alu_imm(BPF_ADD, 4, offset + len);
        let outside = c.jump_reg(BPF_JGT, 4, 3);
        self.access(2, offset as i16, size);
        self.code.land(outside);
    }

    /// Reads or writes packet bytes through a register that points far enough.
    fn access(&mut self, reg: u8, offset: i16, size: u8) {
        match self.rng.below(5) {
            0 => self.code.stx(size, reg, SUM, offset),
            1 => {
                let value = self.rng.odd_number() as i32;
                self.code.st(size, reg, offset, value);
            }
            2 if size != BPF_DW => {
                self.code.push(BPF_LDX | BPF_MEMSX | size, 0, reg, offset, 0);
                self.fold();
            }
            _ => {
                self.code.ldx(size, 0, reg, offset);
                self.fold();
            }
        }
    }

    /// Reads or writes at an offset that the program computes.
    fn packet_variable_offset(&mut self) {
        let mask = self.rng.pick(&[0x0f, 0x3f, 0xff, 0x7ff, 0x3fff]);
        let (size, len) = self.rng.pick(&SIZES);
        let constant = self.rng.below(32) as i32;
        let c = &mut self.code;
        c.mov_reg(5, if self.rng.one_in(2) { SUM } else { AUX });
        c.alu_imm(BPF_AND, 5, mask);
        c.ldx(BPF_W, 2, CTX, DATA);
        c.ldx(BPF_W, 3, CTX, DATA_END);
        c.alu_reg(BPF_ADD, 2, 5);
        c.mov_reg(4, 2);
        c.alu_imm(BPF_ADD, 4, constant + len);
        let outside = c.jump_reg(BPF_JGT, 4, 3);
        self.access(2, constant as i16, size);
        self.code.land(outside);
    }

    /// Lengths by pointer arithmetic, and the two numbers of the context that are the same everywhere.
    fn context_field(&mut self) {
        let (from, to) = self.rng.pick(&[(DATA, DATA_END), (DATA_META, DATA), (DATA_META, DATA_END)]);
        let c = &mut self.code;
        if self.rng.one_in(3) {
            c.ldx(BPF_W, 0, CTX, self.rng.pick(&[12, 16]));
        } else {
            c.ldx(BPF_W, 2, CTX, from);
            c.ldx(BPF_W, 0, CTX, to);
            c.alu_reg(BPF_SUB, 0, 2);
        }
        self.fold();
    }

    /// One of the helpers that move an end of the packet.
    fn adjust(&mut self, helper: i32, likely: &[i32]) {
        self.code.mov_reg(1, CTX);
        match self.rng.below(6) {
            0 => {
                self.code.mov_reg(2, SUM);
                let mask = self.rng.pick(&[7, 63, 255, 4095]);
                self.code.alu_imm(BPF_AND, 2, mask);
                if self.rng.one_in(2) {
                    self.code.push(BPF_ALU64 | BPF_NEG, 2, 0, 0, 0);
                }
            }
            1 => {
                let amount = self.rng.odd_number() as i32;
                self.code.mov(2, amount);
            }
            _ => {
                let amount = self.rng.pick(likely);
                self.code.mov(2, amount);
            }
        }
        self.call(helper);
        self.fold();
    }

    fn buff_len(&mut self) {
        self.code.mov_reg(1, CTX);
        self.call(func::XDP_GET_BUFF_LEN);
        self.fold();
    }

    /// An offset for the helpers that copy: constant, computed, or beyond what they take.
    fn copy_offset(&mut self, dst: u8) {
        match self.rng.below(6) {
            0 => {
                let offset = self.rng.odd_number() as i32;
                self.code.mov(dst, offset);
            }
            1 | 2 => {
                self.code.mov_reg(dst, SUM);
                let mask = self.rng.pick(&[0xff, 0xfff, 0x1_ffff]);
                self.code.alu_imm(BPF_AND, dst, mask);
            }
            _ => {
                let offset = self.rng.below(1500) as i32;
                self.code.mov(dst, offset);
            }
        }
    }

    fn load_bytes(&mut self) {
        let len = self.rng.range(1, 64) as i32;
        self.code.mov_reg(1, CTX);
        self.copy_offset(2);
        self.code.stack(3, BUF);
        self.code.mov(4, len);
        self.call(func::XDP_LOAD_BYTES);
        self.fold();
        let slot = -8 * self.rng.range(1, 8) as i16;
        self.code.ldx(BPF_DW, 0, FP, slot);
        self.fold();
    }

    fn store_bytes(&mut self) {
        let len = self.rng.range(1, 64) as i32;
        self.code.mov_reg(1, CTX);
        self.copy_offset(2);
        self.code.stack(3, BUF);
        self.code.mov(4, len);
        self.call(func::XDP_STORE_BYTES);
        self.fold();
    }

    fn pull_data(&mut self) {
        self.code.mov_reg(1, CTX);
        let len = self.rng.pick(&[0, 14, 64, 1000, 3520, 3521, 3736, 3737, 5000, -1]);
        self.code.mov(2, len);
        self.call_kfunc("bpf_xdp_pull_data");
        self.fold();
    }

    /// Reads or writes the packet through a dynptr.
    fn dynptr_access(&mut self) {
        let len = self.rng.range(1, 64) as i32;
        let flags = if self.rng.one_in(8) { 1 } else { 0 };
        let c = &mut self.code;
        c.mov_reg(1, CTX);
        c.mov(2, flags);
        c.stack(3, DYNPTR);
        self.call_kfunc("bpf_dynptr_from_xdp");
        self.fold();
        let writes = self.rng.one_in(3);
        if writes {
            self.code.stack(1, DYNPTR);
            self.copy_offset(2);
            self.code.stack(3, BUF);
            self.code.mov(4, len);
            let flags = if self.rng.one_in(8) { 1 } else { 0 };
            self.code.mov(5, flags);
            self.call(func::DYNPTR_WRITE);
        } else {
            self.code.stack(1, BUF);
            self.code.mov(2, len);
            self.code.stack(3, DYNPTR);
            self.copy_offset(4);
            self.code.mov(5, 0);
            self.call(func::DYNPTR_READ);
        }
        self.fold();
    }

    /// A conditional jump on the sum or the other number, to be landed by the caller.
    pub(super) fn random_jump(&mut self) -> Jump {
        let op = self.rng.pick(&[
            BPF_JEQ, BPF_JNE, BPF_JGT, BPF_JGE, BPF_JLT, BPF_JLE, BPF_JSGT, BPF_JSGE, BPF_JSLT, BPF_JSLE,
            BPF_JSET,
        ]);
        let class = self.rng.pick(&[BPF_JMP, BPF_JMP32]);
        let (a, b) = self.rng.pick(&[(SUM, AUX), (AUX, SUM)]);
        let imm = self.rng.odd_number() as i32;
        if self.rng.one_in(2) {
            self.code.push(class | op | BPF_X, a, b, 0, 0);
        } else {
            self.code.push(class | op | BPF_K, a, 0, 0, imm);
        }
        self.code.last_jump()
    }
}
