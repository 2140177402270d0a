//! Running bare instructions on the running kernel.

use bpf::Insn;
use linux::sys::{Map, Prog, ProgError};
use linux::testing::{RawProg, create_map, load_insns, map_fd, test_run};
use uapi::Errno;
use uapi::bpf::*;

/// A program in the kernel whose R0 can be read whole; `BPF_PROG_TEST_RUN` answers 32 bits of it.
pub struct KernelProgram {
    prog: Prog,
    result: Map,
}

impl KernelProgram {
    /// Loads instructions as an XDP program, behind a function that stores R0 in a map.
    ///
    /// # Errors
    ///
    /// The kernel's errno and the verifier's log.
    pub fn load(insns: &[Insn]) -> Result<Self, ProgError> {
        let error = |errno| ProgError { errno, log: "the map for the result cannot be created".to_owned() };
        let result = create_map(MapType::Array, 4, 8, 1, 0).map_err(error)?;
        let mut whole = vec![
            Insn::new(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 4),
            Insn::new(BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_VALUE, 0, map_fd(&result)),
            Insn::default(),
            Insn::new(BPF_STX | BPF_MEM | BPF_DW, 1, 0, 0, 0),
            Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
        ];
        whole.extend_from_slice(insns);
        let (prog, _) = load_insns(&RawProg::xdp(&whole))?;
        Ok(Self { prog, result })
    }

    /// Runs it once: R0 and the packet afterwards. Packets shorter than an Ethernet header are filled up.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    pub fn run(&self, data: &[u8]) -> Result<(u64, Vec<u8>), Errno> {
        let mut packet = data.to_vec();
        packet.resize(data.len().max(14), 0);
        let run = test_run(&self.prog, &packet, None, 1)?;
        let value = self.result.lookup(&0_u32.to_le_bytes(), 0)?;
        let value = value.first_chunk().copied().map(u64::from_le_bytes).ok_or(Errno::EINVAL)?;
        let mut after = run.data;
        after.truncate(data.len());
        Ok((value, after))
    }
}

/// The verifier's log of a program that the kernel refuses; `None` if it accepts it.
#[must_use]
pub fn refusal(insns: &[Insn]) -> Option<ProgError> {
    load_insns(&RawProg::xdp(insns)).err()
}
