//! The packet: `bpf_xdp_pull_data`, and what the device knows of it.

use crate::helpers::{Args, Reply, status};
use crate::vm::{RegionKind, Run};

/// Makes the first bytes of the packet linear.
///
/// Kernel: `net/core/filter.c bpf_xdp_pull_data, v6.18`
pub(super) fn pull_data(run: &mut Run<'_, '_>, [ctx, len, ..]: Args) -> Reply {
    run.check_ctx(ctx)?;
    status(run.with_buff(|buff| buff.pull_data(len as u32)))
}

/// When the device received the packet.
///
/// Kernel: `net/core/xdp.c bpf_xdp_metadata_rx_timestamp, v6.18`
pub(super) fn rx_timestamp(run: &mut Run<'_, '_>, [ctx, timestamp, ..]: Args) -> Reply {
    run.check_ctx(ctx)?;
    let out = run.write(timestamp, 8)?;
    status(run.buff().hints().timestamp_ns.map(|ns| out.write_u64(0, ns)))
}

/// The hash that the device spread packets by, and what it covers.
///
/// Kernel: `net/core/xdp.c bpf_xdp_metadata_rx_hash, v6.18`
pub(super) fn rx_hash(run: &mut Run<'_, '_>, [ctx, hash, rss_type, ..]: Args) -> Reply {
    run.check_ctx(ctx)?;
    let (hash_out, type_out) = (run.write(hash, 4)?, run.write(rss_type, 4)?);
    status(run.buff().hints().hash.map(|(hash, rss_type)| {
        hash_out.write_u32(0, hash);
        type_out.write_u32(0, rss_type);
    }))
}

/// The VLAN tag that the device took off.
///
/// Kernel: `net/core/xdp.c bpf_xdp_metadata_rx_vlan_tag, v6.18`
pub(super) fn rx_vlan_tag(run: &mut Run<'_, '_>, [ctx, proto, tci, ..]: Args) -> Reply {
    run.check_ctx(ctx)?;
    let (proto_out, tci_out) = (run.write(proto, 2)?, run.write(tci, 2)?);
    status(run.buff().hints().vlan.map(|(proto, tci)| {
        proto_out.write_u16(0, proto);
        tci_out.write_u16(0, tci);
    }))
}

/// `sizeof(struct xdp_buff)` and `sizeof(struct xdp_rxq_info)`.
const BUFF_SIZE: usize = 56;
const RXQ_SIZE: usize = 64;
/// `REG_STATE_REGISTERED`.
const REGISTERED: u32 = 1;

/// The packet as the kernel's `struct xdp_buff`, to read. It shows how things were at the call; the
/// device that the queue points to cannot be followed.
///
/// Kernel: `kernel/bpf/helpers.c bpf_cast_to_kern_ctx, v6.18`
pub(super) fn cast_to_kern_ctx(run: &mut Run<'_, '_>, [ctx, ..]: Args) -> Reply {
    run.check_ctx(ctx)?;
    let bounds = run.memory.packet_bounds();
    let buff = run.buff();
    let hard_start = bounds.data.wrapping_sub(buff.headroom() as u64);
    let (frame_sz, flags, queue) = (buff.frame_sz(), buff.flags(), buff.rxq().clone());

    let mut rxq = [0; RXQ_SIZE];
    rxq[8..12].copy_from_slice(&queue.queue_index.to_le_bytes());
    rxq[12..16].copy_from_slice(&REGISTERED.to_le_bytes());
    rxq[16..20].copy_from_slice(&queue.mem_type.to_le_bytes());
    rxq[24..28].copy_from_slice(&queue.frag_size.to_le_bytes());
    let rxq = run.memory.own(RegionKind::Object("xdp_rxq_info"), &rxq, false)?;

    let mut image = [0; BUFF_SIZE];
    let pointers = [bounds.data, bounds.end, bounds.meta, hard_start, rxq];
    for (at, pointer) in image.chunks_exact_mut(8).zip(pointers) {
        at.copy_from_slice(&pointer.to_le_bytes());
    }
    image[48..52].copy_from_slice(&frame_sz.to_le_bytes());
    image[52..56].copy_from_slice(&flags.to_le_bytes());
    run.memory.own(RegionKind::Object("xdp_buff"), &image, false)
}

/// The same pointer, to something of another type; what may be read through it is what could be before.
///
/// Kernel: `kernel/bpf/helpers.c bpf_rdonly_cast, v6.18`
pub(super) fn rdonly_cast(_: &mut Run<'_, '_>, [obj, ..]: Args) -> Reply {
    Ok(obj)
}
