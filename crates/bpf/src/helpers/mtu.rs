//! `bpf_check_mtu`.

use uapi::Errno;

use super::{Args, Reply, errno};
use crate::vm::Run;

/// `BPF_MTU_CHK_RET_FRAG_NEEDED`.
const FRAG_NEEDED: u64 = 1;

/// Whether a packet, as it is or of a given length, fits a device. Only the linear part counts.
///
/// Kernel: `net/core/filter.c bpf_xdp_check_mtu, v6.18`
pub(super) fn check_mtu(run: &mut Run<'_, '_>, [_, ifindex, mtu_len, len_diff, flags]: Args) -> Reply {
    let asked = run.write(mtu_len, 4)?;
    if flags != 0 {
        return errno(Errno::EINVAL);
    }
    let ifindex = match ifindex as u32 {
        0 => run.buff().rxq().ifindex,
        ifindex => ifindex,
    };
    let Some(device) = run.host.device(ifindex) else { return errno(Errno::ENODEV) };
    let header = device.hard_header_len;
    let len = match asked.read_u32(0) {
        0 => run.buff().linear_len() as u32,
        len => len.wrapping_add(header),
    };
    let len = len.wrapping_add(len_diff as u32) as i32;
    asked.write_u32(0, device.mtu);
    Ok(if len > device.mtu.wrapping_add(header) as i32 { FRAG_NEEDED } else { 0 })
}
