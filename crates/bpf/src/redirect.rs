//! [`RedirectInfo`]: where the last redirect helper pointed.

use std::sync::Arc;

use crate::maps::Map;

/// What the redirect helpers leave behind for `xdp_do_redirect`.
///
/// It belongs to the softirq, not to the packet: a packet that is not redirected leaves it as it is,
/// and the next packet's bare `XDP_REDIRECT` follows it.
///
/// Kernel: `include/linux/filter.h struct bpf_redirect_info, v6.18`
#[doc(alias = "bpf_redirect_info")]
#[derive(Clone, Debug, Default)]
pub struct RedirectInfo {
    /// Key of the map entry, or the ifindex.
    pub tgt_index: u64,
    /// Map of the target; `None` after `bpf_redirect` and after a miss.
    pub map: Option<Arc<Map>>,
    /// `BPF_F_BROADCAST` and `BPF_F_EXCLUDE_INGRESS` of the last call.
    pub flags: u64,
    /// Id of the map; [`RedirectInfo::MAP_ID_IFINDEX`] for a redirect by ifindex, 0 for none.
    pub map_id: u32,
}

impl RedirectInfo {
    /// `map_id` of a redirect by ifindex.
    pub const MAP_ID_IFINDEX: u32 = i32::MAX as u32;
}
