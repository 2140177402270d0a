//! The system calls that the backend needs, under a safe interface: bpf(2), perf_event_open(2), mmap(2) of
//! their buffers, affinity, capabilities and network namespaces.
//!
//! Everything is owned: a [`Map`], [`Prog`], [`Link`] or [`Mapping`] goes away with its value, nothing is
//! pinned. Lengths that the kernel does not get told (keys and values of maps) are checked here. Neighbours:
//! [`crate::backend`] decides what to ask for; nothing here knows of objects.
// UNSAFETY: raw system calls with pointers in their arguments, and memory that the kernel shares with us.
#![allow(unsafe_code)]

mod ethtool;
mod link;
mod map;
mod mapping;
mod netlink;
mod packet;
mod perf;
mod process;
mod prog;
mod tracefs;

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use uapi::Errno;
use uapi::bpf::BPF_OBJ_NAME_LEN;
use uapi::bpf_attr::{self as attr, cmd};

pub use ethtool::ethtool_stats;
pub use link::Link;
pub use map::{Batch, Map, MapArgs};
pub use mapping::{Mapping, Protection, page_size};
pub use netlink::{LinkState, Refused, RouteSocket, XdpRequest};
pub use packet::PacketSocket;
pub use perf::{PerfBuffer, PerfRecord};
pub use process::{
    Capabilities, Capability, NetNs, PinnedToCpu, if_index, in_thread, memlock_limit, possible_cpus,
    raise_memlock_limit, thread_cpu_time,
};
pub use prog::{Prog, ProgArgs, ProgError, TestRunArgs, TestRunResult};
pub use tracefs::Tracefs;

/// A struct that bpf(2) takes as its attributes.
///
/// # Safety
///
/// `repr(C)`, made of integers alone, without padding; pointers in it are covered by who calls [`bpf`].
unsafe trait Attr {}

macro_rules! attrs {
    ($($t:ty),*) => { $(
        // SAFETY: `repr(C)` structs of integers; their sizes are the sums of their fields' sizes, which
        // the tests of `uapi::bpf_attr` hold against the kernel's layout.
        unsafe impl Attr for $t {}
    )* };
}

attrs!(
    attr::MapCreate,
    attr::MapElem,
    attr::MapBatch,
    attr::ProgLoad,
    attr::ProgTestRun,
    attr::GetId,
    attr::GetInfo,
    attr::BtfLoad,
    attr::LinkCreate,
    attr::LinkUpdate,
    attr::LinkDetach
);

/// `bpf(2)`. The non-negative result is the command's, often a file descriptor.
///
/// # Safety
///
/// Every pointer in `attr` is null or valid for what the command reads or writes through it, for as many
/// bytes as the command takes.
unsafe fn bpf<A: Attr>(cmd: u32, attr: &mut A) -> Result<i64, Errno> {
    // SAFETY: `attr` is valid for its size, has no padding (`Attr`), and the caller answers for the
    // pointers in it. The kernel writes within the size at most.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, cmd, std::ptr::from_mut(attr), size_of::<A>()) };
    if ret < 0 { Err(last_errno()) } else { Ok(ret) }
}

/// As [`bpf`], for commands that answer with a new file descriptor.
///
/// # Safety
///
/// As for [`bpf`]; and the command is one whose result is a descriptor.
unsafe fn bpf_fd<A: Attr>(cmd: u32, attr: &mut A) -> Result<OwnedFd, Errno> {
    // SAFETY: as the caller says.
    let fd = unsafe { bpf(cmd, attr) }?;
    // SAFETY: the kernel has just made this descriptor for us, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// `errno` of the last failed call of this thread.
fn last_errno() -> Errno {
    Errno::from_raw(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

/// A descriptor as the unsigned number that attributes hold.
fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

/// The address of a buffer as attributes hold it; 0 for an empty one.
fn addr_of<T>(buffer: &[T]) -> u64 {
    if buffer.is_empty() { 0 } else { buffer.as_ptr().addr() as u64 }
}

/// As [`addr_of`], for a buffer that the kernel writes.
fn addr_of_mut<T>(buffer: &mut [T]) -> u64 {
    if buffer.is_empty() { 0 } else { buffer.as_mut_ptr().expose_provenance() as u64 }
}

/// A name as the kernel takes it: at most 15 bytes, anything that it refuses replaced by `_`.
#[must_use]
pub fn object_name(name: &str) -> [u8; BPF_OBJ_NAME_LEN] {
    let mut out = [0; BPF_OBJ_NAME_LEN];
    for (o, b) in out.iter_mut().zip(name.bytes().take(BPF_OBJ_NAME_LEN - 1)) {
        *o = if b.is_ascii_alphanumeric() || b == b'_' || b == b'.' { b } else { b'_' };
    }
    out
}

/// `BPF_OBJ_GET_INFO_BY_FD`.
fn object_info<I: Copy + Default + Info>(fd: BorrowedFd<'_>) -> Result<I, Errno> {
    let mut info = I::default();
    let mut attr = attr::GetInfo {
        bpf_fd: raw(fd),
        info_len: size_of::<I>() as u32,
        info: std::ptr::from_mut(&mut info).expose_provenance() as u64,
    };
    // SAFETY: `info` is valid for `info_len` bytes; its pointers are all null with zero counts, so the
    // kernel writes nowhere else; every bit pattern is a valid `I` (`Info`).
    unsafe { bpf(cmd::OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info)
}

/// A struct that the kernel may fill with any bytes.
///
/// # Safety
///
/// `repr(C)`, integers alone.
unsafe trait Info {}
// SAFETY: integers alone.
unsafe impl Info for attr::MapInfo {}
// SAFETY: integers alone.
unsafe impl Info for attr::ProgInfo {}
// SAFETY: integers alone.
unsafe impl Info for attr::LinkInfo {}

/// `BPF_*_GET_FD_BY_ID` for the command given.
fn fd_by_id(cmd: u32, id: u32) -> Result<OwnedFd, Errno> {
    let mut attr = attr::GetId { id, ..Default::default() };
    // SAFETY: no pointers; these commands answer with a descriptor.
    unsafe { bpf_fd(cmd, &mut attr) }
}

/// Loads type information (`BPF_BTF_LOAD`).
///
/// # Errors
///
/// The kernel's errno and its log, which says what it did not like.
pub fn load_btf(blob: &[u8]) -> Result<OwnedFd, (Errno, String)> {
    let mut attr = attr::BtfLoad { btf: addr_of(blob), btf_size: blob.len() as u32, ..Default::default() };
    // SAFETY: `btf` is valid for `btf_size` bytes, which are read only; there is no log buffer.
    let errno = match unsafe { bpf_fd(cmd::BTF_LOAD, &mut attr) } {
        Ok(fd) => return Ok(fd),
        Err(errno) => errno,
    };
    let mut log = vec![0u8; 1 << 16];
    attr.btf_log_buf = addr_of_mut(&mut log);
    attr.btf_log_size = log.len() as u32;
    attr.btf_log_level = 1;
    // SAFETY: as above, and the log buffer is valid for writing `btf_log_size` bytes.
    match unsafe { bpf_fd(cmd::BTF_LOAD, &mut attr) } {
        Ok(fd) => Ok(fd),
        Err(_) => Err((errno, c_text(&log))),
    }
}

/// The text before the first zero byte.
fn c_text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_and_cleaned() {
        assert_eq!(&object_name("a very-long.name_of")[..], b"a_very_long.nam\0");
        assert_eq!(&object_name("x")[..2], b"x\0");
    }

    #[test]
    fn the_kernel_says_what_is_wrong_with_type_information() {
        let (errno, _) = load_btf(&[0x9f, 0xeb, 1, 0, 24, 0, 0, 0]).unwrap_err();
        assert!([Errno::EINVAL, Errno::EPERM].contains(&errno), "{errno}");
    }
}
