//! One instruction of the BPF instruction set (RFC 9669 and Linux's extensions), as 8 bytes and as fields.
//!
//! [`Insn`] is deliberately the raw form: the loader patches it, the verifier reports it, the kernel
//! backend passes it on. Engines translate it into forms of their own.

use uapi::bpf::*;

/// `struct bpf_insn`.
#[doc(alias = "bpf_insn")]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Insn {
    /// Opcode: class, size or operation, mode or source.
    pub code: u8,
    /// Destination register, 0..=15 as encoded (valid are 0..=10).
    pub dst: u8,
    /// Source register or pseudo kind, 0..=15 as encoded.
    pub src: u8,
    /// Signed offset.
    pub off: i16,
    /// Signed immediate.
    pub imm: i32,
}

impl Insn {
    /// Bytes of an encoded instruction slot.
    pub const SIZE: usize = 8;

    /// An instruction from its fields.
    #[must_use]
    pub const fn new(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Self {
        Self { code, dst, src, off, imm }
    }

    /// Decodes the little-endian form.
    #[must_use]
    pub const fn decode(b: [u8; Self::SIZE]) -> Self {
        Self {
            code: b[0],
            dst: b[1] & 0x0f,
            src: b[1] >> 4,
            off: i16::from_le_bytes([b[2], b[3]]),
            imm: i32::from_le_bytes([b[4], b[5], b[6], b[7]]),
        }
    }

    /// Encodes to the little-endian form.
    #[must_use]
    pub const fn encode(self) -> [u8; Self::SIZE] {
        let off = self.off.to_le_bytes();
        let imm = self.imm.to_le_bytes();
        [self.code, (self.src << 4) | (self.dst & 0x0f), off[0], off[1], imm[0], imm[1], imm[2], imm[3]]
    }

    /// Decodes a whole section; `None` if its length is no multiple of 8.
    #[must_use]
    pub fn decode_all(bytes: &[u8]) -> Option<Vec<Self>> {
        let (chunks, rest) = bytes.as_chunks::<{ Self::SIZE }>();
        rest.is_empty().then(|| chunks.iter().map(|c| Self::decode(*c)).collect())
    }

    /// The instruction class, `BPF_LD` to `BPF_ALU64`.
    #[must_use]
    pub const fn class(self) -> u8 {
        self.code & 0x07
    }

    /// The arithmetic or jump operation, `BPF_ADD` and so on.
    #[must_use]
    pub const fn op(self) -> u8 {
        self.code & 0xf0
    }

    /// Mode of a load or store, `BPF_MEM` and so on.
    #[must_use]
    pub const fn mode(self) -> u8 {
        self.code & 0xe0
    }

    /// Whether the second operand of an arithmetic or jump instruction is a register.
    #[must_use]
    pub const fn is_src_reg(self) -> bool {
        self.code & BPF_X != 0
    }

    /// Bytes that a load or store moves: 1, 2, 4 or 8.
    #[must_use]
    pub const fn access_size(self) -> u8 {
        match self.code & 0x18 {
            BPF_B => 1,
            BPF_H => 2,
            BPF_W => 4,
            _ => 8,
        }
    }

    /// Whether this is the first slot of the 16-byte `BPF_LD | BPF_IMM | BPF_DW`.
    #[must_use]
    pub const fn is_ld_imm64(self) -> bool {
        self.code == BPF_LD | BPF_IMM | BPF_DW
    }

    /// Whether this calls a helper by number.
    #[must_use]
    pub const fn is_helper_call(self) -> bool {
        self.code == BPF_JMP | BPF_CALL && self.src == 0
    }

    /// Whether this calls a subprogram (bpf2bpf).
    #[must_use]
    pub const fn is_pseudo_call(self) -> bool {
        self.code == BPF_JMP | BPF_CALL && self.src == BPF_PSEUDO_CALL
    }

    /// Whether this calls a kfunc.
    #[must_use]
    pub const fn is_kfunc_call(self) -> bool {
        self.code == BPF_JMP | BPF_CALL && self.src == BPF_PSEUDO_KFUNC_CALL
    }

    /// Whether this ends a program or subprogram.
    #[must_use]
    pub const fn is_exit(self) -> bool {
        self.code == BPF_JMP | BPF_EXIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_round_trips_through_every_field() {
        let insn = Insn::new(0x7b, 10, 3, -8, -2);
        assert_eq!(insn.encode(), [0x7b, 0x3a, 0xf8, 0xff, 0xfe, 0xff, 0xff, 0xff]);
        assert_eq!(Insn::decode(insn.encode()), insn);
    }

    #[test]
    fn a_section_of_odd_length_is_no_program() {
        assert_eq!(Insn::decode_all(&[0; 9]), None);
        assert_eq!(Insn::decode_all(&[0; 16]).map(|v| v.len()), Some(2));
    }
}
