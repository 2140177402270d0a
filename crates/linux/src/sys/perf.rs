//! [`PerfBuffer`]: the ring of one CPU that `bpf_perf_event_output` writes to.

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use uapi::Errno;

use super::{Mapping, Protection, last_errno, page_size};

const PERF_TYPE_SOFTWARE: u32 = 1;
const PERF_COUNT_SW_BPF_OUTPUT: u64 = 10;
const PERF_SAMPLE_RAW: u64 = 1 << 10;
const PERF_FLAG_FD_CLOEXEC: u64 = 1 << 3;
const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
const PERF_RECORD_LOST: u32 = 2;
const PERF_RECORD_SAMPLE: u32 = 9;

/// Offsets of `struct perf_event_mmap_page`.
const DATA_HEAD: usize = 1024;
const DATA_TAIL: usize = 1032;
/// `struct perf_event_header`, and the length of a sample's data after it.
const HEADER_LEN: usize = 8;

/// `struct perf_event_attr` up to the end of its third version.
#[derive(Default)]
#[repr(C)]
struct PerfEventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
    config2: u64,
    branch_sample_type: u64,
    sample_regs_user: u64,
    sample_stack_user: u32,
    pad: u32,
}

/// A record of a [`PerfBuffer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PerfRecord {
    /// What a program sent, with up to 7 bytes of padding: its length plus 4 is a multiple of 8.
    Sample(Vec<u8>),
    /// So many records found no room.
    Lost(u64),
}

/// A software event for samples of programs on one CPU, with its ring.
#[derive(Debug)]
pub struct PerfBuffer {
    fd: OwnedFd,
    ring: Mapping,
    cpu: u32,
    size: usize,
}

impl PerfBuffer {
    /// Opens the event of a CPU with a ring of so many pages (a power of two).
    ///
    /// # Errors
    ///
    /// The kernel's errno: `EACCES` or `EPERM` without `CAP_PERFMON`.
    pub fn open(cpu: u32, pages: usize) -> Result<Self, Errno> {
        let attr = PerfEventAttr {
            kind: PERF_TYPE_SOFTWARE,
            size: size_of::<PerfEventAttr>() as u32,
            config: PERF_COUNT_SW_BPF_OUTPUT,
            sample_period: 1,
            sample_type: PERF_SAMPLE_RAW,
            wakeup_events: 1,
            ..Default::default()
        };
        // SAFETY: `attr` is valid for its `size`, which is a size that the kernel has had since Linux 3.7;
        // it has no padding.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                std::ptr::from_ref(&attr),
                -1_i32,
                cpu as i32,
                -1_i32,
                PERF_FLAG_FD_CLOEXEC,
            )
        };
        if fd < 0 {
            return Err(last_errno());
        }
        // SAFETY: a new descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let page = page_size();
        let ring = Mapping::new(fd.as_fd(), 0, page * (pages + 1), Protection::ReadWrite)?;
        use std::os::fd::AsRawFd;
        // SAFETY: this request takes no pointer.
        if unsafe { libc::ioctl(fd.as_raw_fd(), PERF_EVENT_IOC_ENABLE, 0) } < 0 {
            return Err(last_errno());
        }
        Ok(Self { fd, ring, cpu, size: page * pages })
    }

    /// CPU that it belongs to.
    #[must_use]
    pub fn cpu(&self) -> u32 {
        self.cpu
    }

    /// Takes all records out.
    pub fn drain(&mut self) -> Vec<PerfRecord> {
        let head = self.ring.load_acquire_u64(DATA_HEAD);
        let mut tail = self.ring.load_acquire_u64(DATA_TAIL);
        let mut records = Vec::new();
        while tail < head {
            let mut header = [0; HEADER_LEN];
            self.read(tail, &mut header);
            let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
            let len = usize::from(u16::from_le_bytes([header[6], header[7]]));
            // The kernel writes whole records; anything else would be another writer in this ring.
            if len < HEADER_LEN || len as u64 > head - tail {
                break;
            }
            let mut body = vec![0; len - HEADER_LEN];
            self.read(tail + HEADER_LEN as u64, &mut body);
            records.extend(record(kind, body));
            tail += len as u64;
        }
        self.ring.store_release_u64(DATA_TAIL, head);
        records
    }

    fn read(&self, position: u64, dst: &mut [u8]) {
        self.ring.copy_from_ring(page_size(), self.size, position, dst);
    }
}

impl AsFd for PerfBuffer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn record(kind: u32, mut body: Vec<u8>) -> Option<PerfRecord> {
    match kind {
        PERF_RECORD_SAMPLE => {
            let len = u32::from_le_bytes(*body.first_chunk()?) as usize;
            body.drain(..4);
            body.truncate(len);
            Some(PerfRecord::Sample(body))
        }
        PERF_RECORD_LOST => {
            let lost = body.get(8..)?.first_chunk()?;
            Some(PerfRecord::Lost(u64::from_le_bytes(*lost)))
        }
        _ => None,
    }
}
