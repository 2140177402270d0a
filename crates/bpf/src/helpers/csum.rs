//! `bpf_csum_diff` and the Internet checksum.

use super::{Args, Reply};
use crate::vm::{Fault, Run};
use mem::SharedSlice;

/// Checksum of what changed: of `to` less `from`, on top of a seed. Both may be absent and of any size.
///
/// Kernel: `net/core/filter.c bpf_csum_diff, v6.18`
pub(super) fn csum_diff(run: &mut Run<'_, '_>, [from, from_size, to, to_size, seed]: Args) -> Reply {
    let (from_size, to_size, seed) = (from_size as u32, to_size as u32, seed as u32);
    let partial = |addr, size: u32, seed| Ok::<_, Fault>(csum_partial(run.read(addr, size.into())?, seed));
    let sum = match (from_size, to_size) {
        (0, 0) => seed,
        (0, _) => partial(to, to_size, seed)?,
        (_, 0) => !partial(from, from_size, !seed)?,
        _ => {
            let removed = partial(from, from_size, 0)?;
            csum_add(partial(to, to_size, seed)?, !removed)
        }
    };
    Ok(fold(sum).into())
}

/// Adds bytes to a sum in ones' complement, as little-endian 32-bit words.
///
/// Kernel: `arch/x86/lib/csum-partial_64.c csum_partial, v6.18`
fn csum_partial(bytes: SharedSlice<'_>, sum: u32) -> u32 {
    let len = bytes.len();
    let mut total = u64::from(sum);
    for at in (0..len & !3).step_by(4) {
        total += u64::from(bytes.read_u32(at));
    }
    let mut last = [0; 4];
    for (byte, at) in last.iter_mut().zip(len & !3..len) {
        *byte = bytes.read_u8(at);
    }
    total += u64::from(u32::from_le_bytes(last));
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

    fn sum_of(bytes: &[u8], sum: u32) -> u32 {
        csum_partial(SharedSlice::from_mut(&mut bytes.to_vec()), sum)
    }

    #[test]
    fn sums_carry_around() {
        assert_eq!(sum_of(&[], 7), 7);
        assert_eq!(sum_of(&[0xff; 4], 0), 0xffff_ffff);
        assert_eq!(sum_of(&[0xff; 8], 1), 1, "twice nothing in ones' complement");
        assert_eq!(sum_of(&[1, 2, 3], 0), 0x0003_0201);
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
        assert_eq!(fold(sum_of(&header, 0)), 0xffff);
    }
}
