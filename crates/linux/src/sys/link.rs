//! [`Link`]: a program's attachment that ends with its descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use uapi::Errno;
use uapi::bpf_attr::{self as attr, cmd};
use uapi::xdp::BPF_XDP;

use super::{bpf, bpf_fd, object_info, raw};

/// `XDP_FLAGS_REPLACE` of a link update: only if the given program is the present one.
const BPF_F_REPLACE: u32 = 1 << 2;

/// A `bpf_link` of a program at a device's XDP hook. Dropping it detaches the program.
#[derive(Debug)]
pub struct Link {
    fd: OwnedFd,
}

impl Link {
    /// Attaches a program to a device. `flags` are at most one mode bit of `XDP_FLAGS_*`.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    pub fn create(prog: BorrowedFd<'_>, ifindex: u32, flags: u32) -> Result<Self, Errno> {
        let mut attr = attr::LinkCreate { prog_fd: raw(prog), target: ifindex, attach_type: BPF_XDP, flags };
        // SAFETY: no pointers; the command answers with a descriptor.
        Ok(Self { fd: unsafe { bpf_fd(cmd::LINK_CREATE, &mut attr) }? })
    }

    /// Replaces the program; with `expected`, only if that one is there now.
    ///
    /// # Errors
    ///
    /// The kernel's errno: `EPERM` if another program is there, `ENOLINK` if the device is gone.
    pub fn update(&self, prog: BorrowedFd<'_>, expected: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
        let mut attr = attr::LinkUpdate {
            link_fd: raw(self.fd.as_fd()),
            new_prog_fd: raw(prog),
            flags: if expected.is_some() { BPF_F_REPLACE } else { 0 },
            old_prog_fd: expected.map_or(0, raw),
        };
        // SAFETY: no pointers.
        unsafe { bpf(cmd::LINK_UPDATE, &mut attr) }.map(drop)
    }

    /// Detaches the program; the link stays, without a device.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    pub fn detach(&self) -> Result<(), Errno> {
        let mut attr = attr::LinkDetach { link_fd: raw(self.fd.as_fd()) };
        // SAFETY: no pointers.
        unsafe { bpf(cmd::LINK_DETACH, &mut attr) }.map(drop)
    }

    /// `bpf_link_info`.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    pub fn info(&self) -> Result<attr::LinkInfo, Errno> {
        object_info(self.fd.as_fd())
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
