//! This process and its threads: CPUs, capabilities, limits, network namespaces.

use std::ffi::CString;
use std::fs::File;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

use uapi::Errno;

use super::last_errno;

/// CPUs that this machine can ever have: per-CPU values are as many.
///
/// Kernel: `lib/cpumask.c num_possible_cpus, v6.18`
#[must_use]
pub fn possible_cpus() -> u32 {
    static CPUS: OnceLock<u32> = OnceLock::new();
    *CPUS.get_or_init(|| {
        let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
        count_cpus(&text).unwrap_or_else(|| {
            // SAFETY: no pointers.
            let n = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) };
            u32::try_from(n).unwrap_or(1).max(1)
        })
    })
}

/// `0-3,8` has 5.
fn count_cpus(list: &str) -> Option<u32> {
    list.trim().split(',').try_fold(0_u32, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// Time that the calling thread has had a CPU, in the kernel too.
#[must_use]
pub fn thread_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing. The clock always exists, so the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// While it lives, this thread runs on one CPU only.
#[derive(Debug)]
pub struct PinnedToCpu {
    before: libc::cpu_set_t,
    /// The affinity is the thread's, so the value must stay on it.
    on_this_thread: PhantomData<*const ()>,
}

impl PinnedToCpu {
    /// Moves this thread to a CPU.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is no such CPU, or it is not allowed to this process.
    pub fn new(cpu: u32) -> Result<Self, Errno> {
        if cpu as usize >= 8 * size_of::<libc::cpu_set_t>() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: a bit mask; all zeroes is the empty set.
        let mut before: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        let mut one = before;
        // SAFETY: `before` is valid for writing its size; the number of bits was checked for `CPU_SET`.
        unsafe {
            if libc::sched_getaffinity(0, size_of_val(&before), &raw mut before) != 0 {
                return Err(last_errno());
            }
            libc::CPU_SET(cpu as usize, &mut one);
        }
        set_affinity(&one)?;
        Ok(Self { before, on_this_thread: PhantomData })
    }
}

impl Drop for PinnedToCpu {
    fn drop(&mut self) {
        // Nothing sensible can be done if the old CPUs have gone meanwhile.
        let _ = set_affinity(&self.before);
    }
}

fn set_affinity(cpus: &libc::cpu_set_t) -> Result<(), Errno> {
    // SAFETY: `cpus` is valid for its size; 0 is the calling thread.
    let ret = unsafe { libc::sched_setaffinity(0, size_of_val(cpus), cpus) };
    if ret == 0 { Ok(()) } else { Err(last_errno()) }
}

/// A capability that loading XDP programs may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Capability {
    /// Network administration: XDP programs, attaching.
    NetAdmin = 12,
    /// Everything that has no capability of its own; stands in for the other two.
    SysAdmin = 21,
    /// Performance events; tracing helpers and pointer leaks in programs.
    Perfmon = 38,
    /// Maps, programs, type information.
    Bpf = 39,
}

impl Capability {
    /// As `capabilities(7)` writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        }
    }
}

/// The effective capabilities of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Those of the calling thread.
    ///
    /// # Errors
    ///
    /// The kernel's errno; only kernels older than 2.6.26 have one.
    pub fn effective() -> Result<Self, Errno> {
        #[repr(C)]
        struct Header {
            version: u32,
            pid: i32,
        }
        let mut header = Header { version: 0x2008_0522, pid: 0 };
        let mut data = [[0_u32; 3]; 2];
        // SAFETY: this version takes a header and two triples of words, which both are valid for writing.
        let ret =
            unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr().cast::<u32>()) };
        if ret != 0 {
            return Err(last_errno());
        }
        Ok(Self(u64::from(data[0][0]) | u64::from(data[1][0]) << 32))
    }

    /// Whether a capability is effective, by itself or through `CAP_SYS_ADMIN` as `bpf_capable` and
    /// `perfmon_capable` have it.
    #[must_use]
    pub fn has(self, capability: Capability) -> bool {
        let bit = |c: Capability| self.0 >> (c as u32) & 1 == 1;
        match capability {
            Capability::Bpf | Capability::Perfmon => bit(capability) || bit(Capability::SysAdmin),
            Capability::NetAdmin | Capability::SysAdmin => bit(capability),
        }
    }
}

/// `RLIMIT_MEMLOCK`, bytes; `None` for no limit. Kernels before 5.11 count maps and programs against it.
#[must_use]
pub fn memlock_limit() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writing.
    let ret = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    (ret == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// Takes `RLIMIT_MEMLOCK` away, for kernels before 5.11.
///
/// # Errors
///
/// `EPERM` without `CAP_SYS_RESOURCE`.
pub fn raise_memlock_limit() -> Result<(), Errno> {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limit` is valid for reading.
    let ret = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
    if ret == 0 { Ok(()) } else { Err(last_errno()) }
}

/// The number of a device of the calling thread's network namespace.
#[must_use]
pub fn if_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: a string with its terminating zero.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

/// A network namespace of its own. It has no name and ends, with all devices in it, when the value, its
/// threads and their sockets are gone, also if the process is killed.
#[derive(Debug)]
pub struct NetNs {
    fd: OwnedFd,
}

impl NetNs {
    /// Makes one; only a loopback device is in it.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_SYS_ADMIN`.
    pub fn new() -> Result<Self, Errno> {
        in_thread(|| {
            // SAFETY: no pointers; the new namespace is this thread's alone, and it ends after this.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(last_errno());
            }
            let file = File::open("/proc/thread-self/ns/net")
                .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(0)))?;
            Ok(Self { fd: file.into() })
        })
    }

    /// Runs `f` in a thread of its own that is in this namespace. Processes that it starts are, too.
    ///
    /// # Errors
    ///
    /// The kernel's errno of entering the namespace.
    ///
    /// # Panics
    ///
    /// If `f` panics.
    pub fn run<R: Send>(&self, f: impl FnOnce() -> R + Send) -> Result<R, Errno> {
        in_thread(|| {
            // SAFETY: the descriptor is open; the change concerns this thread alone.
            if unsafe { libc::setns(self.fd.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(last_errno());
            }
            Ok(f())
        })
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Runs `f` in a thread of its own, for things that belong to a thread: affinity, namespaces.
///
/// # Panics
///
/// If `f` panics.
pub fn in_thread<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| match scope.spawn(f).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_are_counted() {
        assert_eq!(count_cpus("0-3\n"), Some(4));
        assert_eq!(count_cpus("0,2-3,8"), Some(4));
        assert_eq!(count_cpus(""), None);
        assert_eq!(count_cpus("3-1"), None);
    }

    #[test]
    fn a_pinned_thread_gets_its_cpus_back() {
        in_thread(|| {
            let before = std::thread::available_parallelism().unwrap();
            let pin = PinnedToCpu::new(0).unwrap();
            assert_eq!(std::thread::available_parallelism().unwrap().get(), 1);
            drop(pin);
            assert_eq!(std::thread::available_parallelism().unwrap(), before);
        });
        assert_eq!(PinnedToCpu::new(1 << 20).unwrap_err(), Errno::EINVAL);
    }
}
