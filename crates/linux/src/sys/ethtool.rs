//! The counters of a driver, as `ethtool -S` shows them.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use uapi::Errno;

use super::{c_text, last_errno};

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSTATS: u32 = 0x1d;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETH_SS_STATS: u32 = 1;
const ETH_GSTRING_LEN: usize = 32;
/// Counters of a device that there is room for. The kernel writes as many as there are when it writes, which
/// may be more than it said before, so nobody is asked who has nearly as many.
const COUNTERS_ROOM: usize = 1 << 15;
const COUNTERS_MAX: u32 = 1 << 12;

/// The counters of a device of this thread's network namespace, by name; none for a driver without any.
///
/// # Errors
///
/// `ENODEV` for no such device, `E2BIG` for more than 4096 counters.
pub fn ethtool_stats(device: &str) -> Result<Vec<(String, u64)>, Errno> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(last_errno());
    }
    // SAFETY: the kernel has just made this descriptor for us, nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // Words, so that counters are aligned: command and length in front, names or numbers after them.
    let mut words = vec![0_u64; 2 + COUNTERS_ROOM * ETH_GSTRING_LEN / 8];
    words[0] = ETHTOOL_GSSET_INFO.into();
    words[1] = 1 << ETH_SS_STATS;
    match ethtool(&fd, device, &mut words) {
        Err(Errno::EOPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    }
    // The mask of sets that there are, then the length of each.
    let count = if words[1] == 0 { 0 } else { words[2] as u32 };
    if count == 0 {
        return Ok(Vec::new());
    }
    if count > COUNTERS_MAX {
        return Err(Errno::E2BIG);
    }
    words[0] = u64::from(ETHTOOL_GSTRINGS) | u64::from(ETH_SS_STATS) << 32;
    words[1] = count.into();
    ethtool(&fd, device, &mut words)?;
    // The names start behind three 32-bit words.
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).skip(12).collect();
    let names = bytes.chunks(ETH_GSTRING_LEN).take(count as usize).map(c_text);
    let names: Vec<String> = names.collect();
    words[0] = u64::from(ETHTOOL_GSTATS) | u64::from(count) << 32;
    ethtool(&fd, device, &mut words)?;
    Ok(names.into_iter().zip(words[1..].iter().copied()).collect())
}

/// `ioctl(SIOCETHTOOL)` with a buffer of [`COUNTERS_ROOM`] names.
fn ethtool(fd: &OwnedFd, device: &str, words: &mut [u64]) -> Result<(), Errno> {
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        data: *mut u64,
        rest: [u64; 2],
    }
    let mut name = [0; libc::IFNAMSIZ];
    if device.len() >= name.len() {
        return Err(Errno::ENODEV);
    }
    name[..device.len()].copy_from_slice(device.as_bytes());
    let mut request = Request { name, data: words.as_mut_ptr(), rest: [0; 2] };
    // SAFETY: `request` has the layout of `struct ifreq`, and `data` is valid for writing room for eight times
    // as many names as the kernel was found to have: it writes no more than it has.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if ret < 0 { Err(last_errno()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::VethPair;

    #[test]
    fn the_kernel_shows_the_counters_of_a_veth() {
        crate::needs_kernel!();
        let pair = VethPair::new().unwrap();
        let stats = pair.netns.run(|| ethtool_stats("veth0")).unwrap().unwrap();
        let get = |name: &str| stats.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
        assert_eq!(get("peer_ifindex"), Some(pair.ifindex1.into()));
        assert_eq!(get("rx_queue_0_xdp_drops"), Some(0));
        assert_eq!(pair.netns.run(|| ethtool_stats("lo")).unwrap(), Ok(Vec::new()));
        assert_eq!(pair.netns.run(|| ethtool_stats("nothing")).unwrap(), Err(Errno::ENODEV));
    }
}
