//! Instructions by short names.

use bpf::Insn;
use bpf::object::{MapContents, MapSpec};
use uapi::bpf::*;

pub(super) fn mov(dst: u8, imm: i32) -> Insn {
    Insn::new(BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, imm)
}

pub(super) fn mov_reg(dst: u8, src: u8) -> Insn {
    Insn::new(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0)
}

pub(super) fn add(dst: u8, imm: i32) -> Insn {
    Insn::new(BPF_ALU64 | BPF_ADD | BPF_K, dst, 0, 0, imm)
}

pub(super) fn add_reg(dst: u8, src: u8) -> Insn {
    Insn::new(BPF_ALU64 | BPF_ADD | BPF_X, dst, src, 0, 0)
}

pub(super) fn jne(dst: u8, imm: i32, off: i16) -> Insn {
    Insn::new(BPF_JMP | BPF_JNE | BPF_K, dst, 0, off, imm)
}

pub(super) fn ldx(size: u8, dst: u8, src: u8, off: i16) -> Insn {
    Insn::new(BPF_LDX | BPF_MEM | size, dst, src, off, 0)
}

pub(super) fn st(size: u8, dst: u8, off: i16, imm: i32) -> Insn {
    Insn::new(BPF_ST | BPF_MEM | size, dst, 0, off, imm)
}

pub(super) fn stx(size: u8, dst: u8, src: u8, off: i16) -> Insn {
    Insn::new(BPF_STX | BPF_MEM | size, dst, src, off, 0)
}

pub(super) fn call(helper: i32) -> Insn {
    Insn::new(BPF_JMP | BPF_CALL, 0, 0, 0, helper)
}

pub(super) fn call_local(distance: i32) -> Insn {
    Insn::new(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, distance)
}

pub(super) fn exit() -> Insn {
    Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
}

pub(super) fn ret(value: i32) -> Vec<Insn> {
    vec![mov(0, value), exit()]
}

fn ld_imm64_as(dst: u8, src: u8, low: i32, high: i32) -> [Insn; 2] {
    [Insn::new(BPF_LD | BPF_IMM | BPF_DW, dst, src, 0, low), Insn::new(0, 0, 0, 0, high)]
}

pub(super) fn ld_imm64(dst: u8, value: u64) -> [Insn; 2] {
    ld_imm64_as(dst, 0, value as i32, (value >> 32) as i32)
}

pub(super) fn ld_map(dst: u8, map: i32) -> [Insn; 2] {
    ld_imm64_as(dst, BPF_PSEUDO_MAP_IDX, map, 0)
}

pub(super) fn ld_map_value(dst: u8, map: i32, offset: i32) -> [Insn; 2] {
    ld_imm64_as(dst, BPF_PSEUDO_MAP_IDX_VALUE, map, offset)
}

/// The address of the subprogram at an instruction, as seen from instruction `at`.
pub(super) fn ld_func(dst: u8, at: i32, target: i32) -> [Insn; 2] {
    ld_imm64_as(dst, BPF_PSEUDO_FUNC, target - at - 1, 0)
}

pub(super) fn empty_map() -> MapSpec {
    MapSpec {
        name: String::new(),
        map_type: MapType::Array,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        map_flags: 0,
        map_extra: 0,
        numa_node: None,
        key_type: None,
        value_type: None,
        inner: None,
        contents: MapContents::Empty,
        frozen: false,
        pin_by_name: false,
    }
}
