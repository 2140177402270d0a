//! Instructions by short names, and jumps that are given their length later.

use bpf::Insn;
use uapi::bpf::*;

/// A growing program.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Code {
    pub(in super::super) insns: Vec<Insn>,
}

/// A forward jump without a length yet.
#[must_use]
#[derive(Debug)]
pub(in super::super) struct Jump(usize);

impl Code {
    pub(super) fn push(&mut self, code: u8, dst: u8, src: u8, off: i16, imm: i32) {
        self.insns.push(Insn::new(code, dst, src, off, imm));
    }

    pub(super) fn mov(&mut self, dst: u8, imm: i32) {
        self.push(BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, imm);
    }

    pub(super) fn mov_reg(&mut self, dst: u8, src: u8) {
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0);
    }

    pub(super) fn alu_imm(&mut self, op: u8, dst: u8, imm: i32) {
        self.push(BPF_ALU64 | op | BPF_K, dst, 0, 0, imm);
    }

    pub(super) fn alu_reg(&mut self, op: u8, dst: u8, src: u8) {
        self.push(BPF_ALU64 | op | BPF_X, dst, src, 0, 0);
    }

    pub(super) fn ldx(&mut self, size: u8, dst: u8, src: u8, off: i16) {
        self.push(BPF_LDX | BPF_MEM | size, dst, src, off, 0);
    }

    pub(super) fn stx(&mut self, size: u8, dst: u8, src: u8, off: i16) {
        self.push(BPF_STX | BPF_MEM | size, dst, src, off, 0);
    }

    pub(super) fn st(&mut self, size: u8, dst: u8, off: i16, imm: i32) {
        self.push(BPF_ST | BPF_MEM | size, dst, 0, off, imm);
    }

    fn ld_imm64_as(&mut self, dst: u8, src: u8, low: i32, high: i32) {
        self.push(BPF_LD | BPF_IMM | BPF_DW, dst, src, 0, low);
        self.push(0, 0, 0, 0, high);
    }

    pub(super) fn ld_imm64(&mut self, dst: u8, value: u64) {
        self.ld_imm64_as(dst, 0, value as i32, (value >> 32) as i32);
    }

    pub(super) fn ld_map(&mut self, dst: u8, map: i32) {
        self.ld_imm64_as(dst, BPF_PSEUDO_MAP_IDX, map, 0);
    }

    pub(super) fn ld_map_value(&mut self, dst: u8, map: i32, offset: i32) {
        self.ld_imm64_as(dst, BPF_PSEUDO_MAP_IDX_VALUE, map, offset);
    }

    /// The address of a place on the stack.
    pub(super) fn stack(&mut self, dst: u8, offset: i16) {
        self.mov_reg(dst, 10);
        self.alu_imm(BPF_ADD, dst, i32::from(offset));
    }

    pub(super) fn exit(&mut self) {
        self.push(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    }

    /// A jump over what follows up to [`Code::land`].
    pub(super) fn jump_imm(&mut self, op: u8, dst: u8, imm: i32) -> Jump {
        self.push(BPF_JMP | op | BPF_K, dst, 0, 0, imm);
        Jump(self.insns.len() - 1)
    }

    /// As [`Code::jump_imm`], comparing registers.
    pub(super) fn jump_reg(&mut self, op: u8, dst: u8, src: u8) -> Jump {
        self.push(BPF_JMP | op | BPF_X, dst, src, 0, 0);
        Jump(self.insns.len() - 1)
    }

    /// As the last instruction says, which must be a jump.
    pub(super) fn last_jump(&self) -> Jump {
        Jump(self.insns.len() - 1)
    }

    pub(super) fn land(&mut self, jump: Jump) {
        self.insns[jump.0].off = (self.insns.len() - jump.0 - 1) as i16;
    }
}
