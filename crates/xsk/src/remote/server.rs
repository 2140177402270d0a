//! [`Server`]: offers the sockets of an engine to other processes. What they say is hostile until checked.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use mem::{PAGE_SIZE, SharedMem};
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType};
use uapi::Errno;
use uapi::if_xdp::*;

use super::message::{MESSAGE_MAX, Message, Op, receive, send};
use crate::engine::{XskHost, XskSocket};
use crate::port::{PollEvents, RawSocket};

/// Sockets that one connection may have at a time.
pub const SOCKETS_MAX: usize = 64;
/// Bytes of memory that one socket may register.
pub const UMEM_MAX: usize = 1 << 30;
/// Connections at a time.
const CONNECTIONS_MAX: usize = 64;
/// Entries of a ring that another process may ask for.
const RING_MAX: u32 = 1 << 16;

/// What other processes may do with the engine's devices.
pub trait Rules: Send + Sync {
    /// The number of a device.
    fn device(&self, name: &str) -> Option<u32>;

    /// Whether sockets may be bound to a device's queue.
    ///
    /// # Errors
    ///
    /// Why not; `ENODEV` hides the device.
    fn may_bind(&self, ifindex: u32, queue: u32) -> Result<(), Errno> {
        let _ = (ifindex, queue);
        Ok(())
    }

    /// Sends the packets of a queue to a socket.
    ///
    /// # Errors
    ///
    /// Why not: `EBUSY` if a program of someone else's decides over the packets.
    fn redirect(&self, ifindex: u32, queue: u32, socket: &Arc<XskSocket>) -> Result<(), Errno>;
}

/// A server. Dropping it ends all connections, and their sockets.
pub struct Server {
    path: PathBuf,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    host: XskHost,
    rules: Arc<dyn Rules>,
    listener: OwnedFd,
    stopping: AtomicBool,
    /// Those that are open, to be ended.
    connections: Mutex<BTreeMap<usize, Arc<OwnedFd>>>,
    next: AtomicUsize,
}

impl Server {
    /// Serves at a path, which must not exist. Who may connect is what the file's permissions say.
    ///
    /// # Errors
    ///
    /// What bind(2) and listen(2) answer: `EADDRINUSE` if the path exists.
    pub fn start(path: &Path, host: XskHost, rules: Arc<dyn Rules>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::bind(&listener, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&listener, 16)?;
        let shared = Arc::new(Shared {
            host,
            rules,
            listener,
            stopping: AtomicBool::new(false),
            connections: Mutex::default(),
            next: AtomicUsize::new(0),
        });
        let accepting = shared.clone();
        let acceptor = std::thread::Builder::new().name("xsk-server".to_owned());
        let acceptor = acceptor.spawn(move || accepting.accept())?;
        Ok(Self { path: path.to_owned(), shared, acceptor: Some(acceptor) })
    }

    /// Connections that are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.open().len()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, SeqCst);
        // Ends accept(2); sessions end with their connections.
        let _ = rustix::net::shutdown(&self.shared.listener, Shutdown::Both);
        for connection in self.shared.open().values() {
            let _ = rustix::net::shutdown(connection, Shutdown::Both);
        }
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Shared {
    fn open(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, Arc<OwnedFd>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: Arc<Self>) {
        let mut sessions: Vec<JoinHandle<()>> = Vec::new();
        while !self.stopping.load(SeqCst) {
            let Ok(fd) = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) else {
                // Too many files; or the end.
                std::thread::sleep(std::time::Duration::from_millis(10));
                continue;
            };
            sessions.retain(|s| !s.is_finished());
            if sessions.len() >= CONNECTIONS_MAX {
                continue;
            }
            let (fd, id) = (Arc::new(fd), self.next.fetch_add(1, Relaxed));
            self.open().insert(id, fd.clone());
            let shared = self.clone();
            let session = std::thread::Builder::new().name("xsk-session".to_owned()).spawn(move || {
                Session { shared: &shared, sockets: BTreeMap::new() }.serve(&fd);
                shared.open().remove(&id);
            });
            sessions.extend(session);
        }
        // Those that came while the server was being stopped.
        for connection in self.open().values() {
            let _ = rustix::net::shutdown(connection, Shutdown::Both);
        }
        for session in sessions {
            let _ = session.join();
        }
    }
}

/// One connection and its sockets, which are closed with it.
struct Session<'a> {
    shared: &'a Shared,
    sockets: BTreeMap<i32, Arc<XskSocket>>,
}

/// What is answered beside success.
#[derive(Default)]
struct Answer {
    number: i32,
    value: u64,
    bytes: Vec<u8>,
    fd: Option<OwnedFd>,
}

impl Session<'_> {
    fn serve(mut self, connection: &OwnedFd) {
        // A message that is none ends the connection, as does its end.
        while let Ok(Some((request, fd))) = receive(connection) {
            let (message, fd) = match self.handle(&request, fd) {
                Ok(Answer { number, value, bytes, fd }) => {
                    (Message { code: 0, number, args: [value, 0], bytes }, fd)
                }
                Err(errno) => (Message { code: errno.raw().unsigned_abs(), ..Message::default() }, None),
            };
            if send(connection, &message, fd.as_ref().map(AsFd::as_fd)).is_err() {
                break;
            }
        }
    }

    fn socket(&self, number: i32) -> Result<&Arc<XskSocket>, Errno> {
        self.sockets.get(&number).ok_or(Errno::EBADF)
    }

    fn handle(&mut self, request: &Message, fd: Option<OwnedFd>) -> Result<Answer, Errno> {
        let Message { number, args: [a, b], bytes, .. } = request;
        let done = |()| Answer::default();
        match request.op().ok_or(Errno::ENOSYS)? {
            Op::Socket => self.open(*a as i32, *b as i32),
            Op::Close => self.sockets.remove(number).map(|_| Answer::default()).ok_or(Errno::EBADF),
            Op::Device => {
                let name = std::str::from_utf8(bytes).map_err(|_| Errno::ENODEV)?;
                let ifindex = self.shared.rules.device(name).ok_or(Errno::ENODEV)?;
                Ok(Answer { value: ifindex.into(), ..Answer::default() })
            }
            Op::Set => self.set(self.socket(*number)?, *a as i32, *b as i32, bytes).map(done),
            Op::Umem => self.register(self.socket(*number)?, *a, bytes, fd).map(done),
            Op::Get => {
                let mut value = vec![0; (*b).min(256) as usize];
                let n = self.socket(*number)?.getsockopt((*a >> 32) as i32, *a as i32, &mut value)?;
                value.truncate(n.min(MESSAGE_MAX / 2));
                Ok(Answer { bytes: value, ..Answer::default() })
            }
            Op::Mmap => {
                let len = usize::try_from(*b).map_err(|_| Errno::EINVAL)?;
                let fd = self.socket(*number)?.ring_file(*a, len)?;
                Ok(Answer { fd: Some(fd), ..Answer::default() })
            }
            Op::Bind => self.bind(self.socket(*number)?, bytes).map(done),
            Op::Send => self.socket(*number)?.send(*a != 0).map(done),
            Op::Recv => self.socket(*number)?.recv(*a != 0).map(done),
            Op::Poll => {
                let events = PollEvents(*a as i16);
                let found = self.socket(*number)?.poll(events, Some(std::time::Duration::ZERO))?;
                Ok(Answer { value: found.0 as u64, ..Answer::default() })
            }
            Op::Events => {
                let events = self.socket(*number)?.fd().ok_or(Errno::EMFILE)?;
                let fd = events.try_clone_to_owned().map_err(|_| Errno::EMFILE)?;
                Ok(Answer { fd: Some(fd), ..Answer::default() })
            }
            Op::Redirect => {
                let socket = self.socket(*number)?;
                let number = |n: u64| u32::try_from(n).map_err(|_| Errno::EINVAL);
                self.shared.rules.redirect(number(*a)?, number(*b)?, socket).map(done)
            }
        }
    }

    fn open(&mut self, kind: i32, protocol: i32) -> Result<Answer, Errno> {
        if self.sockets.len() >= SOCKETS_MAX {
            return Err(Errno::EMFILE);
        }
        let socket = self.shared.host.shared_socket(kind, protocol)?;
        let number = socket.number();
        self.sockets.insert(number, socket);
        Ok(Answer { number, ..Answer::default() })
    }

    fn set(&self, socket: &XskSocket, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        let ring = matches!(name, XDP_RX_RING | XDP_TX_RING | XDP_UMEM_FILL_RING | XDP_UMEM_COMPLETION_RING);
        let entries = value.first_chunk().copied().map_or(0, u32::from_le_bytes);
        if level == SOL_XDP && ring && entries.is_power_of_two() && entries > RING_MAX {
            return Err(Errno::ENOMEM);
        }
        socket.setsockopt(level, name, value)
    }

    /// The address counts from the start of the file, of which the other process knows nothing else either.
    fn register(
        &self,
        socket: &XskSocket,
        start: u64,
        value: &[u8],
        fd: Option<OwnedFd>,
    ) -> Result<(), Errno> {
        if value.len() < XdpUmemReg::SIZE_V1 {
            return Err(Errno::EINVAL);
        }
        let reg = XdpUmemReg::from_bytes(value).ok_or(Errno::EINVAL)?;
        let memory = SharedMem::from_memfd(fd.ok_or(Errno::EFAULT)?.as_fd());
        let memory = memory.map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(Errno::EFAULT.raw())))?;
        if memory.len() > UMEM_MAX {
            return Err(Errno::ENOBUFS);
        }
        // What wraps there is refused for it; what lies outside lies just outside here, equally aligned.
        let wraps = reg.addr.checked_add(reg.len).is_none();
        let outside = memory.len() as u64;
        let start = if start > outside { outside + start % PAGE_SIZE as u64 } else { start };
        let addr = if wraps { reg.addr } else { memory.addr() + start };
        socket.register_umem(&Arc::new(memory), &XdpUmemReg { addr, ..reg }.to_bytes())
    }

    /// A socket to share with is one of the same connection; another does not exist.
    fn bind(&self, socket: &XskSocket, addr: &[u8]) -> Result<(), Errno> {
        let Some(mut to) = SockaddrXdp::from_bytes(addr) else { return socket.bind(addr) };
        self.shared.rules.may_bind(to.ifindex, to.queue_id)?;
        if !self.sockets.contains_key(&(to.shared_umem_fd as i32)) {
            to.shared_umem_fd = u32::MAX;
        }
        socket.bind(&to.to_bytes())
    }
}
