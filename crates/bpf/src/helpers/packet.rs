//! The packet's ends and bytes: `bpf_xdp_adjust_*`, `bpf_xdp_get_buff_len`, `bpf_xdp_load_bytes`,
//! `bpf_xdp_store_bytes`. What they mean is with [`mem::XdpBuff`].

use super::{Args, Reply, status};
use crate::vm::Run;

/// Moves the start of the packet.
///
/// Kernel: `net/core/filter.c bpf_xdp_adjust_head, v6.18`
pub(super) fn adjust_head(run: &mut Run<'_, '_>, [_, offset, ..]: Args) -> Reply {
    status(run.with_buff(|buff| buff.adjust_head(offset as i32)))
}

/// Moves the start of the metadata.
///
/// Kernel: `net/core/filter.c bpf_xdp_adjust_meta, v6.18`
pub(super) fn adjust_meta(run: &mut Run<'_, '_>, [_, offset, ..]: Args) -> Reply {
    status(run.with_buff(|buff| buff.adjust_meta(offset as i32)))
}

/// Moves the end of the packet.
///
/// Kernel: `net/core/filter.c bpf_xdp_adjust_tail, v6.18`
pub(super) fn adjust_tail(run: &mut Run<'_, '_>, [_, offset, ..]: Args) -> Reply {
    status(run.with_buff(|buff| buff.adjust_tail(offset as i32)))
}

/// Length of the packet with its fragments.
///
/// Kernel: `net/core/filter.c bpf_xdp_get_buff_len, v6.18`
pub(super) fn get_buff_len(run: &mut Run<'_, '_>, _: Args) -> Reply {
    Ok(run.buff().buff_len() as u64)
}

/// Copies bytes of the packet to the program.
///
/// Kernel: `net/core/filter.c bpf_xdp_load_bytes, v6.18`
pub(super) fn load_bytes(run: &mut Run<'_, '_>, [_, offset, buf, len, _]: Args) -> Reply {
    let dst = run.write(buf, u64::from(len as u32))?;
    status(run.buff().load_bytes(offset as u32, dst))
}

/// Copies bytes of the program to the packet.
///
/// Kernel: `net/core/filter.c bpf_xdp_store_bytes, v6.18`
pub(super) fn store_bytes(run: &mut Run<'_, '_>, [_, offset, buf, len, _]: Args) -> Reply {
    let src = run.read(buf, u64::from(len as u32))?;
    status(run.buff().store_bytes(offset as u32, src))
}
