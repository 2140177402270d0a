//! Small programs for speed: equivalents of those that docs/performance.md compares engines on.

use bpf::Insn;

use crate::asm::assemble;

/// What every program begins with: R2 is the packet, R0 and the exit are there if it is shorter than
/// 64 bytes.
const CHECK: &str =
    "mov %r0, 1\nldxw %r3, [%r1+4]\nldxw %r2, [%r1]\nmov %r4, %r2\nadd %r4, 64\njgt %r4, %r3, exit\n";

/// Names and texts.
const PROGRAMS: [(&str, &str); 4] = [
    (
        "mac_swap",
        "ldxw %r3, [%r2]\nldxh %r4, [%r2+4]\nldxw %r5, [%r2+6]\nldxh %r6, [%r2+10]\n\
         stxw [%r2], %r5\nstxh [%r2+4], %r6\nstxw [%r2+6], %r3\nstxh [%r2+10], %r4\n\
         mov %r0, 3\nja exit\nmov %r0, 0\nmov %r0, 0\nexit",
    ),
    (
        "tuple_hash",
        "ldxh %r5, [%r2+12]\nmov %r0, 2\njne %r5, 8, exit\nldxb %r5, [%r2+14]\nrsh %r5, 4\njne %r5, 4, exit\n\
         ldxb %r5, [%r2+23]\njeq %r5, 6, ports\njne %r5, 17, exit\nports:\n\
         ldxw %r6, [%r2+26]\nldxw %r7, [%r2+30]\nldxw %r8, [%r2+34]\n\
         mov32 %r0, %r6\nxor32 %r0, 0x5bd1e995\nmul32 %r0, 0x01000193\nmov32 %r9, %r0\nrsh32 %r9, 15\nxor32 %r0, %r9\n\
         xor32 %r0, %r7\nmul32 %r0, 0x01000193\nmov32 %r9, %r0\nrsh32 %r9, 13\nxor32 %r0, %r9\n\
         xor32 %r0, %r8\nmul32 %r0, 0x01000193\nmov32 %r9, %r0\nrsh32 %r9, 16\nxor32 %r0, %r9\n\
         xor32 %r0, %r5\nmul32 %r0, 0x01000193\nmov32 %r9, %r0\nrsh32 %r9, 16\nxor32 %r0, %r9\n\
         and32 %r0, 1\nadd32 %r0, 1\nexit",
    ),
    (
        "ip_checksum",
        "ldxh %r5, [%r2+12]\nmov %r0, 2\njne %r5, 8, exit\nmov %r6, 0\n\
         ldxh %r5, [%r2+14]\nadd %r6, %r5\nldxh %r5, [%r2+16]\nadd %r6, %r5\nldxh %r5, [%r2+18]\nadd %r6, %r5\n\
         ldxh %r5, [%r2+20]\nadd %r6, %r5\nldxh %r5, [%r2+22]\nadd %r6, %r5\nldxh %r5, [%r2+24]\nadd %r6, %r5\n\
         ldxh %r5, [%r2+26]\nadd %r6, %r5\nldxh %r5, [%r2+28]\nadd %r6, %r5\nldxh %r5, [%r2+30]\nadd %r6, %r5\n\
         ldxh %r5, [%r2+32]\nadd %r6, %r5\n\
         mov %r5, %r6\nrsh %r5, 16\nand %r6, 0xffff\nadd %r6, %r5\nmov %r5, %r6\nrsh %r5, 16\nadd %r6, %r5\n\
         xor %r6, -1\nand %r6, 0xffff\nmov %r0, 1\njne %r6, 0, exit\nldxb %r5, [%r2+22]\njle %r5, 1, exit\n\
         add %r5, -1\nstxb [%r2+22], %r5\nldxh %r5, [%r2+24]\nadd %r5, 1\nstxh [%r2+24], %r5\n\
         add %r5, -1\nstxh [%r2+24], %r5\nldxb %r5, [%r2+22]\nadd %r5, 1\nstxb [%r2+22], %r5\nmov %r0, 2\nexit",
    ),
    (
        "byte_loop",
        "mov %r0, 0\nmov %r4, 0\nloop:\nmov %r5, %r2\nadd %r5, %r4\nldxb %r5, [%r5]\nmul %r0, 31\nadd %r0, %r5\n\
         add %r4, 1\njlt %r4, 64, loop\nand %r0, 3\nexit",
    ),
];

/// The programs by name.
///
/// # Panics
///
/// Never: their texts assemble.
#[must_use]
pub fn all() -> Vec<(&'static str, Vec<Insn>)> {
    let nop = ("nop", assemble("mov %r0, 2\nexit").expect("assembles"));
    let rest =
        PROGRAMS.iter().map(|(name, text)| (*name, assemble(&format!("{CHECK}{text}")).expect("assembles")));
    std::iter::once(nop).chain(rest).collect()
}

/// A packet that takes all of them to their ends: UDP over IPv4 with a right header checksum, 64 bytes.
#[must_use]
pub fn udp_packet() -> [u8; 64] {
    let mut packet = [0; 64];
    packet[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    packet[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    packet[12..14].copy_from_slice(&[8, 0]);
    packet[14..34].copy_from_slice(&[0x45, 0, 0, 50, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let sum: u32 = packet[14..34].chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    packet[24..26].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    packet[34..42].copy_from_slice(&[0x12, 0x34, 0, 53, 0, 30, 0, 0]);
    packet
}
