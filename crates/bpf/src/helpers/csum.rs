//! `bpf_csum_diff` and the Internet checksum.

use super::{Args, Reply};
use crate::vm::Run;

/// Checksum of what changed: of `to` less `from`, on top of a seed. Both may be absent and of any size.
///
/// Kernel: `net/core/filter.c bpf_csum_diff, v6.18`
pub(super) fn csum_diff(run: &mut Run<'_, '_>, [from, from_size, to, to_size, seed]: Args) -> Reply {
    let (from_size, to_size, seed) = (from_size as u32, to_size as u32, seed as u32);
    let read = |addr, size: u32| Ok::<_, crate::vm::Fault>(run.read(addr, size.into())?.to_vec());
    let sum = match (from_size, to_size) {
        (0, 0) => seed,
        (0, _) => csum_partial(&read(to, to_size)?, seed),
        (_, 0) => !csum_partial(&read(from, from_size)?, !seed),
        _ => {
            let removed = csum_partial(&read(from, from_size)?, 0);
            csum_add(csum_partial(&read(to, to_size)?, seed), !removed)
        }
    };
    Ok(fold(sum).into())
}

/// Adds bytes to a sum in ones' complement, as little-endian 32-bit words.
///
/// Kernel: `arch/x86/lib/csum-partial_64.c csum_partial, v6.18`
pub(super) fn csum_partial(bytes: &[u8], sum: u32) -> u32 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    let words = words.iter().chain(std::iter::once(&last)).map(|w| u64::from(u32::from_le_bytes(*w)));
    let total = words.fold(u64::from(sum), |total, word| total + word);
    let once = (total & 0xffff_ffff) + (total >> 32);
    (once as u32) + (once >> 32) as u32
}

fn csum_add(a: u32, b: u32) -> u32 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u32::from(carry)
}

/// Kernel: `include/net/checksum.h csum_from32to16, v6.18`
fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_carry_around() {
        assert_eq!(csum_partial(&[], 7), 7);
        assert_eq!(csum_partial(&[0xff; 4], 0), 0xffff_ffff);
        assert_eq!(csum_partial(&[0xff; 8], 1), 1, "twice nothing in ones' complement");
        assert_eq!(csum_partial(&[1, 2, 3], 0), 0x0003_0201);
        assert_eq!(csum_add(u32::MAX, 1), 1);
        assert_eq!(fold(0x0102_0304), 0x0406);
        assert_eq!(fold(0xffff_ffff), 0xffff);
    }

    #[test]
    fn an_ipv4_header_with_its_checksum_sums_to_ones() {
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01,
            0xc0, 0xa8, 0x00, 0xc7,
        ];
        assert_eq!(fold(csum_partial(&header, 0)), 0xffff);
    }
}
