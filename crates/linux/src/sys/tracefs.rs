//! The tracing file system, mounted for this process alone.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use uapi::Errno;

use super::last_errno;

const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;

/// A mount of tracefs that no directory shows; it ends with the value.
#[derive(Debug)]
pub struct Tracefs(OwnedFd);

impl Tracefs {
    /// Mounts it.
    ///
    /// # Errors
    ///
    /// The kernel's errno: `ENODEV` if it was built without tracing, `EPERM` without `CAP_SYS_ADMIN`.
    pub fn mount() -> Result<Self, Errno> {
        let name: &CStr = c"tracefs";
        // SAFETY: the name ends with a zero byte.
        let context = unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), FSOPEN_CLOEXEC) };
        let context = owned(context)?;
        // SAFETY: this command takes no pointers.
        let created = unsafe {
            let null = std::ptr::null::<u8>();
            libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, null, null, 0)
        };
        if created < 0 {
            return Err(last_errno());
        }
        // SAFETY: no pointers.
        let mount = unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0) };
        owned(mount).map(Self)
    }

    /// Where this process finds it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

fn owned(fd: i64) -> Result<OwnedFd, Errno> {
    if fd < 0 {
        return Err(last_errno());
    }
    // SAFETY: the kernel has just made this descriptor for us, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
