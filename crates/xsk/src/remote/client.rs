//! [`RemoteHome`]: sockets of an engine that serves them at a Unix socket.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use mem::{PAGE_SIZE, SharedMem};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use uapi::Errno;
use uapi::if_xdp::XdpUmemReg;

use super::message::{Message, Op, errno_of, receive, send};
use crate::port::{Home, PollEvents, RawSocket};

/// How long a wait for room to send sleeps: nobody tells when there is.
const NAP: Duration = Duration::from_millis(1);

/// An engine in another process. Its sockets need memory that can be shared: [`crate::Umem::shared`].
#[derive(Clone, Debug)]
pub struct RemoteHome {
    connection: Arc<Connection>,
}

/// One connection; calls take turns.
#[derive(Debug)]
struct Connection {
    fd: OwnedFd,
    turn: Mutex<()>,
}

impl Connection {
    /// Asks, and waits for the answer. A connection that is gone is a device that is gone.
    fn call(
        &self,
        request: &Message,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(Message, Option<OwnedFd>), Errno> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = |errno| if errno == Errno::EMSGSIZE { errno } else { Errno::ENXIO };
        send(&self.fd, request, fd).map_err(gone)?;
        let (answer, fd) = receive(&self.fd).map_err(gone)?.ok_or(Errno::ENXIO)?;
        match answer.code {
            0 => Ok((answer, fd)),
            code => Err(Errno::from_raw(code as i32)),
        }
    }
}

impl RemoteHome {
    /// Connects to an engine.
    ///
    /// # Errors
    ///
    /// What connect(2) answers: `ENOENT` or `ECONNREFUSED` if none serves there, `EACCES` if the file's
    /// permissions keep one out.
    pub fn connect(path: &Path) -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC;
        let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let fd = fd.map_err(errno_of)?;
        let address = SocketAddrUnix::new(path).map_err(errno_of)?;
        rustix::net::connect(&fd, &address).map_err(errno_of)?;
        Ok(Self { connection: Arc::new(Connection { fd, turn: Mutex::new(()) }) })
    }

    /// The number of one of the engine's devices.
    ///
    /// # Errors
    ///
    /// `ENODEV` if there is none of the name; `ENXIO` if the engine is gone.
    pub fn device(&self, name: &str) -> Result<u32, Errno> {
        let request = Message::request(Op::Device, 0, [0; 2], name.as_bytes());
        self.connection.call(&request, None).map(|(answer, _)| answer.args[0] as u32)
    }

    /// Lets the engine send the packets of a queue to a socket of this connection: its default redirect program is
    /// attached, unless one is, and the socket put into its xskmap.
    ///
    /// # Errors
    ///
    /// `EBUSY` if another program is attached, `EBADF` for a socket of someone else's; what the engine answers.
    pub fn redirect(&self, ifindex: u32, queue: u32, socket: i32) -> Result<(), Errno> {
        let request = Message::request(Op::Redirect, socket, [ifindex.into(), queue.into()], &[]);
        self.connection.call(&request, None).map(drop)
    }
}

impl Home for RemoteHome {
    fn socket(&self, kind: i32, protocol: i32) -> Result<Arc<dyn RawSocket>, Errno> {
        let request = Message::request(Op::Socket, 0, [kind as u64, protocol as u64], &[]);
        let (answer, _) = self.connection.call(&request, None)?;
        Ok(Arc::new_cyclic(|this| RemoteSocket {
            this: this.clone(),
            connection: self.connection.clone(),
            number: answer.number,
            events: OnceLock::new(),
            umem: OnceLock::new(),
        }))
    }
}

/// A socket of the engine's.
struct RemoteSocket {
    this: std::sync::Weak<Self>,
    connection: Arc<Connection>,
    number: i32,
    /// Readable when packets came.
    events: OnceLock<OwnedFd>,
    /// Held so that frames mean what they say.
    umem: OnceLock<Arc<SharedMem>>,
}

impl RemoteSocket {
    fn call(&self, op: Op, args: [u64; 2], bytes: &[u8]) -> Result<(Message, Option<OwnedFd>), Errno> {
        self.connection.call(&Message::request(op, self.number, args, bytes), None)
    }

    fn events(&self) -> Result<BorrowedFd<'_>, Errno> {
        if let Some(fd) = self.events.get() {
            return Ok(fd.as_fd());
        }
        let (_, fd) = self.call(Op::Events, [0; 2], &[])?;
        let fd = fd.ok_or(Errno::EBADMSG)?;
        Ok(self.events.get_or_init(|| fd).as_fd())
    }

    /// Waits until packets came, or for so long.
    fn sleep(&self, time: Duration) -> Result<(), Errno> {
        let events = self.events()?;
        let timeout = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
        let mut fds =
            [PollFd::new(&events, PollFlags::IN), PollFd::new(&self.connection.fd, PollFlags::empty())];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(_) => Ok(()),
            Err(e) => Err(errno_of(e)),
        }
    }

    /// What came so far is about to be looked at.
    fn quiet(&self) {
        if let Some(events) = self.events.get() {
            // Nothing to read is as good.
            let _ = rustix::io::read(events, &mut [0; 8]);
        }
    }
}

fn flag(on: bool) -> [u64; 2] {
    [on.into(), 0]
}

impl RawSocket for RemoteSocket {
    fn setsockopt(&self, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        self.call(Op::Set, [level as u64, name as u64], value).map(drop)
    }

    fn register_umem(&self, memory: &Arc<SharedMem>, value: &[u8]) -> Result<(), Errno> {
        let addr = XdpUmemReg::from_bytes(value).ok_or(Errno::EINVAL)?.addr;
        let start = addr.wrapping_sub(memory.addr());
        // Other memory cannot be shown to the engine.
        let fd = memory.fd().ok_or(Errno::EFAULT)?;
        let request = Message::request(Op::Umem, self.number, [start, 0], value);
        self.connection.call(&request, Some(fd))?;
        // A second registration was refused.
        let _ = self.umem.set(memory.clone());
        Ok(())
    }

    fn getsockopt(&self, level: i32, name: i32, value: &mut [u8]) -> Result<usize, Errno> {
        let option = u64::from(level as u32) << 32 | u64::from(name as u32);
        let (answer, _) = self.call(Op::Get, [option, value.len() as u64], &[])?;
        let to = value.get_mut(..answer.bytes.len()).ok_or(Errno::EBADMSG)?;
        to.copy_from_slice(&answer.bytes);
        Ok(answer.bytes.len())
    }

    fn mmap(&self, offset: u64, len: usize) -> Result<Arc<SharedMem>, Errno> {
        let (_, fd) = self.call(Op::Mmap, [offset, len as u64], &[])?;
        let memory = SharedMem::from_memfd(fd.ok_or(Errno::EBADMSG)?.as_fd()).map_err(|e| io_errno(&e))?;
        if memory.len() < len.next_multiple_of(PAGE_SIZE) {
            return Err(Errno::EBADMSG);
        }
        let keep = self.this.upgrade().ok_or(Errno::ENXIO)?;
        Ok(Arc::new(Arc::new(memory).alias(keep)))
    }

    fn bind(&self, addr: &[u8]) -> Result<(), Errno> {
        self.call(Op::Bind, [0; 2], addr).map(drop)
    }

    fn send(&self, wait: bool) -> Result<(), Errno> {
        self.call(Op::Send, flag(wait), &[]).map(drop)
    }

    fn recv(&self, wait: bool) -> Result<(), Errno> {
        self.call(Op::Recv, flag(wait), &[]).map(drop)
    }

    fn poll(&self, events: PollEvents, timeout: Option<Duration>) -> Result<PollEvents, Errno> {
        let deadline = timeout.map(|t| Instant::now() + t);
        loop {
            self.quiet();
            let (answer, _) = self.call(Op::Poll, [events.0 as u64, 0], &[])?;
            let found = PollEvents(answer.args[0] as i16 & events.0);
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            if found != PollEvents::default() || left == Some(Duration::ZERO) {
                return Ok(found);
            }
            let most = if events.has(PollEvents::OUT) { NAP } else { Duration::from_secs(1) };
            self.sleep(left.unwrap_or(most).min(most))?;
        }
    }

    fn number(&self) -> i32 {
        self.number
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.events().ok()
    }
}

impl Drop for RemoteSocket {
    fn drop(&mut self) {
        // The engine closes it with the connection if this does not get through.
        let _ = self.call(Op::Close, [0; 2], &[]);
    }
}

fn io_errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO.raw()))
}
