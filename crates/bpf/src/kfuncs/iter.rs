//! Open-coded iterators: over numbers, and over the bits that are set in words.

use uapi::Errno;

use crate::helpers::{Args, Reply, absence, errno};
use crate::vm::{Fault, RegionKind, Run};

/// Most rounds of a loop over numbers.
///
/// Kernel: `include/linux/bpf.h BPF_MAX_LOOPS, v6.18`
const MAX_LOOPS: i64 = 8 << 20;
/// Most words whose bits are gone through.
const MAX_WORDS: u32 = 511;

/// `struct bpf_iter_num`: the current number, the end.
const NUM_SIZE: u64 = 8;
/// `struct bpf_iter_bits`: the bits or where they are, their number, the current one.
const BITS_SIZE: u64 = 16;

/// Kernel: `kernel/bpf/bpf_iter.c bpf_iter_num_new, v6.18`
pub(super) fn num_new(run: &mut Run<'_, '_>, [it, start, end, ..]: Args) -> Reply {
    let (start, end) = (start as i32, end as i32);
    if start > end {
        set_num(run, it, 0, 0)?;
        return errno(Errno::EINVAL);
    }
    if i64::from(end) - i64::from(start) > MAX_LOOPS {
        set_num(run, it, 0, 0)?;
        return errno(Errno::E2BIG);
    }
    set_num(run, it, start.wrapping_sub(1), end)?;
    Ok(0)
}

/// A pointer to the next number, which lies in the iterator.
///
/// Kernel: `kernel/bpf/bpf_iter.c bpf_iter_num_next, v6.18`
pub(super) fn num_next(run: &mut Run<'_, '_>, [it, ..]: Args) -> Reply {
    let bytes = run.read(it, NUM_SIZE)?;
    let (current, end) = (bytes.read_u32(0) as i32, bytes.read_u32(4) as i32);
    let next = current.wrapping_add(1);
    if next >= end {
        set_num(run, it, 0, 0)?;
        return Ok(0);
    }
    set_num(run, it, next, end)?;
    Ok(it)
}

/// Kernel: `kernel/bpf/bpf_iter.c bpf_iter_num_destroy, v6.18`
pub(super) fn num_destroy(run: &mut Run<'_, '_>, [it, ..]: Args) -> Reply {
    set_num(run, it, 0, 0)?;
    Ok(0)
}

fn set_num(run: &Run<'_, '_>, it: u64, current: i32, end: i32) -> Result<(), Fault> {
    let bytes = run.write(it, NUM_SIZE)?;
    bytes.write_u32(0, current as u32);
    bytes.write_u32(4, end as u32);
    Ok(())
}

/// Kernel: `kernel/bpf/helpers.c bpf_iter_bits_new, v6.18`
pub(super) fn bits_new(run: &mut Run<'_, '_>, [it, words, nr_words, ..]: Args) -> Reply {
    let nr_words = nr_words as u32;
    set_bits(run, it, 0, 0, -1)?;
    if words == 0 || nr_words == 0 {
        return errno(Errno::EINVAL);
    }
    if nr_words > MAX_WORDS {
        return errno(Errno::E2BIG);
    }
    // The words may be anywhere, or nowhere.
    let mut bytes = vec![0; nr_words as usize * 8];
    if !run.memory.probe(words, &mut bytes) {
        // The kernel has a way of its own for a single word, which tells no reason.
        return errno(if nr_words == 1 { Errno::EFAULT } else { absence(words) });
    }
    let bits = match bytes.as_chunks::<8>().0 {
        [word] => u64::from_le_bytes(*word),
        _ => run.memory.own(RegionKind::Object("bpf_iter_bits"), &bytes, false)?,
    };
    set_bits(run, it, bits, nr_words * 64, -1)?;
    Ok(0)
}

/// A pointer to the number of the next bit that is set, which lies in the iterator.
///
/// Kernel: `kernel/bpf/helpers.c bpf_iter_bits_next, v6.18`
pub(super) fn bits_next(run: &mut Run<'_, '_>, [it, ..]: Args) -> Reply {
    let bytes = run.read(it, BITS_SIZE)?;
    let (bits, nr_bits, bit) = (bytes.read_u64(0), bytes.read_u32(8), bytes.read_u32(12) as i32);
    if nr_bits == 0 || bit >= nr_bits as i32 {
        return Ok(0);
    }
    let first = (bit + 1) as u32;
    for word in first / 64..nr_bits / 64 {
        let value = match nr_bits {
            64 => bits,
            _ => run.read(bits.wrapping_add(u64::from(word) * 8), 8)?.read_u64(0),
        };
        let below = if word == first / 64 { first % 64 } else { 0 };
        let left = value & u64::MAX << below;
        if left != 0 {
            set_bits(run, it, bits, nr_bits, (word * 64 + left.trailing_zeros()) as i32)?;
            return Ok(it + 12);
        }
    }
    set_bits(run, it, bits, nr_bits, nr_bits as i32)?;
    Ok(0)
}

/// Kernel: `kernel/bpf/helpers.c bpf_iter_bits_destroy, v6.18`
pub(super) fn bits_destroy(run: &mut Run<'_, '_>, [it, ..]: Args) -> Reply {
    let bytes = run.read(it, BITS_SIZE)?;
    let (bits, nr_bits) = (bytes.read_u64(0), bytes.read_u32(8));
    if nr_bits > 64 {
        run.memory.retire(bits);
    }
    Ok(0)
}

fn set_bits(run: &Run<'_, '_>, it: u64, bits: u64, nr_bits: u32, bit: i32) -> Result<(), Fault> {
    let bytes = run.write(it, BITS_SIZE)?;
    bytes.write_u64(0, bits);
    bytes.write_u32(8, nr_bits);
    bytes.write_u32(12, bit as u32);
    Ok(())
}
