//! `bpf_redirect` and `bpf_redirect_map`. They decide nothing of the packet: they only leave in the run's
//! [`RedirectInfo`] where it shall go if the program then returns `XDP_REDIRECT`.

use std::sync::Arc;

use uapi::bpf::MapType;
use uapi::xdp::{BPF_F_BROADCAST, BPF_F_EXCLUDE_INGRESS, XdpAction};

use super::{Args, Reply};
use crate::redirect::RedirectInfo;
use crate::vm::{Fault, Run};

/// Flags that say what to return if there is no such entry.
const ACTION_MASK: u64 = 3;

/// To a device by number, which is not looked at here.
///
/// Kernel: `net/core/filter.c bpf_xdp_redirect, v6.18`
pub(super) fn redirect(run: &mut Run<'_, '_>, [ifindex, flags, ..]: Args) -> Reply {
    if flags != 0 {
        return Ok(XdpAction::Aborted as u64);
    }
    run.redirect.tgt_index = u64::from(ifindex as u32);
    by_ifindex(run.redirect);
    Ok(XdpAction::Redirect as u64)
}

/// To the entry of a devmap, cpumap or xskmap.
///
/// Kernel: `include/linux/filter.h __bpf_xdp_redirect_map, v6.18`
pub(super) fn redirect_map(run: &mut Run<'_, '_>, [map, key, flags, ..]: Args) -> Reply {
    let map = run.map(map)?;
    let allowed = match map.def().map_type {
        MapType::Devmap | MapType::DevmapHash => BPF_F_BROADCAST | BPF_F_EXCLUDE_INGRESS,
        MapType::Cpumap | MapType::Xskmap => 0,
        other => {
            let text = format!("cannot pass map_type {} into func bpf_redirect_map#51", other as u32);
            return Err(Fault::illegal(text));
        }
    };
    if flags & !(ACTION_MASK | allowed) != 0 {
        return Ok(XdpAction::Aborted as u64);
    }
    let broadcast = flags & BPF_F_BROADCAST != 0;
    // The key is a 64-bit number, but only its lower half is looked up.
    if !map.has_target(run.guard(), key as u32) && !broadcast {
        by_ifindex(run.redirect);
        return Ok(flags & ACTION_MASK);
    }
    let info = &mut *run.redirect;
    info.tgt_index = key;
    info.map_id = map.id();
    info.flags = if broadcast { flags } else { 0 };
    if info.map.as_ref().is_none_or(|old| !Arc::ptr_eq(old, map)) {
        info.map = Some(map.clone());
    }
    Ok(XdpAction::Redirect as u64)
}

/// Forgets the map; a packet that is redirected all the same goes to the device of number `tgt_index`,
/// whatever that is left from.
fn by_ifindex(info: &mut RedirectInfo) {
    info.map = None;
    info.map_id = RedirectInfo::MAP_ID_IFINDEX;
}
