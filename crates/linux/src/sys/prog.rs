//! [`Prog`]: a loaded program, and `BPF_PROG_TEST_RUN`.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use bpf::Insn;
use uapi::Errno;
use uapi::bpf::BPF_PROG_TYPE_XDP;
use uapi::bpf_attr::{self as attr, FuncInfo, LineInfo, cmd};

use super::{addr_of, addr_of_mut, bpf, bpf_fd, c_text, fd_by_id, object_info, object_name, raw};

/// The first buffer for a verifier log, bytes; it grows up to [`LOG_MAX`].
const LOG_START: usize = 64 << 10;
/// The largest buffer for it, bytes; the kernel takes up to `UINT_MAX >> 2`.
const LOG_MAX: usize = 1 << 29;
/// How often a load that the kernel gave up with `EAGAIN` is tried again.
const LOAD_ATTEMPTS: u32 = 5;

/// What a program is loaded from (`BPF_PROG_LOAD`).
#[derive(Clone, Copy, Debug)]
pub struct ProgArgs<'a> {
    /// `enum bpf_prog_type`.
    pub prog_type: u32,
    /// Instructions; maps are descriptors.
    pub insns: &'a [Insn],
    /// Licence text.
    pub license: &'a str,
    /// Name; cut and cleaned as needed.
    pub name: &'a str,
    /// `BPF_F_*`.
    pub flags: u32,
    /// `expected_attach_type`.
    pub attach_type: u32,
    /// Device that the program is for, 0 for any.
    pub ifindex: u32,
    /// Type information that the two tables below refer to.
    pub btf: Option<BorrowedFd<'a>>,
    /// One entry per function, ascending.
    pub func_info: &'a [FuncInfo],
    /// Source positions, ascending.
    pub line_info: &'a [LineInfo],
    /// Descriptors that instructions name by position.
    pub fd_array: &'a [BorrowedFd<'a>],
    /// `BPF_LOG_*`; 0 asks for a log only if the program is refused.
    pub log_level: u32,
}

impl Default for ProgArgs<'_> {
    fn default() -> Self {
        Self {
            prog_type: BPF_PROG_TYPE_XDP,
            insns: &[],
            license: "GPL",
            name: "",
            flags: 0,
            attach_type: 0,
            ifindex: 0,
            btf: None,
            func_info: &[],
            line_info: &[],
            fd_array: &[],
            log_level: 0,
        }
    }
}

/// A program was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgError {
    /// The kernel's errno.
    pub errno: Errno,
    /// The verifier's whole log; empty if the kernel refused before verifying.
    pub log: String,
}

/// A loaded program that is held open.
#[derive(Debug)]
pub struct Prog {
    fd: OwnedFd,
    id: u32,
}

impl Prog {
    /// Loads a program; also answers the verifier's log, empty unless one was asked for.
    ///
    /// # Errors
    ///
    /// The kernel's errno and the verifier's log.
    pub fn load(args: &ProgArgs<'_>) -> Result<(Self, String), ProgError> {
        if args.log_level == 0
            && let (Ok(fd), _) = load_once(args, &mut [])
        {
            return Self::from_fd(fd).map(|p| (p, String::new())).map_err(no_log);
        }
        let level = args.log_level.max(1);
        let args = ProgArgs { log_level: level, ..*args };
        let mut log = vec![0; LOG_START];
        loop {
            match load_once(&args, &mut log) {
                (Ok(fd), _) => return Self::from_fd(fd).map(|p| (p, c_text(&log))).map_err(no_log),
                // A log that does not fit fails the load of a correct program, too. Kernels before 6.4
                // do not say how long it is.
                (Err(Errno::ENOSPC), true_size)
                    if log.len() < LOG_MAX && (true_size == 0 || true_size > log.len()) =>
                {
                    log = vec![0; (log.len() * 8).max(true_size).min(LOG_MAX)];
                }
                (Err(errno), _) => return Err(ProgError { errno, log: c_text(&log) }),
            }
        }
    }

    /// Opens a program by its number.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is none.
    pub fn by_id(id: u32) -> Result<Self, Errno> {
        Self::from_fd(fd_by_id(cmd::PROG_GET_FD_BY_ID, id)?)
    }

    fn from_fd(fd: OwnedFd) -> Result<Self, Errno> {
        let info: attr::ProgInfo = object_info(fd.as_fd())?;
        Ok(Self { fd, id: info.id })
    }

    /// The kernel's number for it.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// `bpf_prog_info`, without its tables.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    pub fn info(&self) -> Result<attr::ProgInfo, Errno> {
        object_info(self.fd.as_fd())
    }

    /// The instructions after the verifier's rewriting, as the kernel shows them (`xlated`).
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    pub fn xlated(&self) -> Result<Vec<Insn>, Errno> {
        let len = self.info()?.xlated_prog_len as usize;
        let mut bytes = vec![0u8; len];
        let mut info = attr::ProgInfo {
            xlated_prog_len: len as u32,
            xlated_prog_insns: addr_of_mut(&mut bytes),
            ..Default::default()
        };
        let mut attr = attr::GetInfo {
            bpf_fd: raw(self.fd.as_fd()),
            info_len: size_of::<attr::ProgInfo>() as u32,
            info: std::ptr::from_mut(&mut info).expose_provenance() as u64,
        };
        // SAFETY: `info` is valid for `info_len` bytes; of its pointers only that of the instructions is
        // not null, and that buffer is valid for writing the length beside it.
        unsafe { bpf(cmd::OBJ_GET_INFO_BY_FD, &mut attr) }?;
        Insn::decode_all(&bytes).ok_or(Errno::EINVAL)
    }

    /// `BPF_PROG_TEST_RUN`.
    ///
    /// # Errors
    ///
    /// The kernel's errno. With `ENOSPC` the run has taken place, but an output buffer was too small: the
    /// result beside it says how large it must be.
    pub fn test_run(&self, args: &mut TestRunArgs<'_>) -> Result<TestRunResult, (Errno, TestRunResult)> {
        let mut attr = attr::ProgTestRun {
            prog_fd: raw(self.fd.as_fd()),
            data_size_in: args.data_in.len() as u32,
            data_size_out: args.data_out.len() as u32,
            data_in: addr_of(args.data_in),
            data_out: addr_of_mut(args.data_out),
            repeat: args.repeat,
            ctx_size_in: args.ctx_in.len() as u32,
            ctx_size_out: args.ctx_out.len() as u32,
            ctx_in: addr_of(args.ctx_in),
            ctx_out: addr_of_mut(args.ctx_out),
            flags: args.flags,
            cpu: 0,
            batch_size: args.batch_size,
            ..Default::default()
        };
        // SAFETY: all four buffers are valid for the lengths beside them, the outputs for writing.
        let result = unsafe { bpf(cmd::PROG_TEST_RUN, &mut attr) };
        let answer = TestRunResult {
            retval: attr.retval,
            duration_ns: attr.duration,
            data_len: attr.data_size_out as usize,
            ctx_len: attr.ctx_size_out as usize,
        };
        result.map(|_| answer).map_err(|errno| (errno, answer))
    }
}

impl AsFd for Prog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Arguments of [`Prog::test_run`]. Empty buffers are passed as none.
#[derive(Debug, Default)]
pub struct TestRunArgs<'a> {
    /// Metadata (if the context says so), then the packet.
    pub data_in: &'a [u8],
    /// Where the packet goes afterwards.
    pub data_out: &'a mut [u8],
    /// `struct xdp_md` before.
    pub ctx_in: &'a [u8],
    /// `struct xdp_md` after.
    pub ctx_out: &'a mut [u8],
    /// Runs; 0 counts as 1.
    pub repeat: u32,
    /// `BPF_F_TEST_XDP_LIVE_FRAMES` or 0.
    pub flags: u32,
    /// Packets per batch of live frames, 0 for the kernel's choice.
    pub batch_size: u32,
}

/// What [`Prog::test_run`] answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TestRunResult {
    /// The program's return value.
    pub retval: u32,
    /// Mean time of one run, nanoseconds.
    pub duration_ns: u32,
    /// Bytes of the packet (with metadata) afterwards, even if they did not fit.
    pub data_len: usize,
    /// Bytes of the context.
    pub ctx_len: usize,
}

fn no_log(errno: Errno) -> ProgError {
    ProgError { errno, log: String::new() }
}

/// One attempt; the second result is how long the log would have been, if the kernel says so.
fn load_once(args: &ProgArgs<'_>, log: &mut [u8]) -> (Result<OwnedFd, Errno>, usize) {
    let code: Vec<u8> = args.insns.iter().flat_map(|i| i.encode()).collect();
    let Ok(license) = CString::new(args.license) else { return (Err(Errno::EINVAL), 0) };
    let fds: Vec<i32> = args.fd_array.iter().map(AsRawFd::as_raw_fd).collect();
    let mut attr = attr::ProgLoad {
        prog_type: args.prog_type,
        insn_cnt: args.insns.len() as u32,
        insns: addr_of(&code),
        license: addr_of(license.as_bytes_with_nul()),
        log_level: args.log_level,
        log_size: log.len() as u32,
        log_buf: addr_of_mut(log),
        prog_flags: args.flags,
        prog_name: object_name(args.name),
        prog_ifindex: args.ifindex,
        expected_attach_type: args.attach_type,
        prog_btf_fd: args.btf.map_or(0, raw),
        func_info_rec_size: if args.func_info.is_empty() { 0 } else { size_of::<FuncInfo>() as u32 },
        func_info: addr_of(args.func_info),
        func_info_cnt: args.func_info.len() as u32,
        line_info_rec_size: if args.line_info.is_empty() { 0 } else { size_of::<LineInfo>() as u32 },
        line_info: addr_of(args.line_info),
        line_info_cnt: args.line_info.len() as u32,
        fd_array: addr_of(&fds),
        ..Default::default()
    };
    let mut result = Err(Errno::EAGAIN);
    for _ in 0..LOAD_ATTEMPTS {
        // SAFETY: every pointer is null or that of a buffer which lives to the end of this function and
        // has the length beside it; the licence ends with a zero byte. `fd_array` has no length here: the
        // kernel faults, and answers `EFAULT`, where an instruction names a place beyond readable memory.
        result = unsafe { bpf_fd(cmd::PROG_LOAD, &mut attr) };
        if !matches!(result, Err(Errno::EAGAIN)) {
            break;
        }
    }
    (result, attr.log_true_size as usize)
}
