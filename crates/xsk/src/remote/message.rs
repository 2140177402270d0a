//! Requests and answers, each one message of a `SOCK_SEQPACKET` socket, perhaps with a descriptor.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use uapi::Errno;

/// Bytes of the fixed part.
const HEAD: usize = 24;
/// Longest message, bytes.
pub(super) const MESSAGE_MAX: usize = HEAD + 512;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum Op {
    /// socket(2): type, protocol. Answers a number.
    Socket = 1,
    /// setsockopt(2): level, name, value.
    Set,
    /// `XDP_UMEM_REG`: where the memory begins in the file that comes along, value.
    Umem,
    /// getsockopt(2): level and name, length. Answers the value.
    Get,
    /// mmap(2): offset, length. Answers a file.
    Mmap,
    /// bind(2): the address.
    Bind,
    /// sendto(2): whether it may wait.
    Send,
    /// recvfrom(2): whether it may wait.
    Recv,
    /// poll(2) that does not wait. Answers events.
    Poll,
    /// Asks for the descriptor that says that packets came.
    Events,
    /// close(2).
    Close,
    /// The number of a device by its name.
    Device,
    /// Sends the packets of a queue to the socket: device, queue.
    Redirect,
}

impl Op {
    fn from_raw(raw: u32) -> Option<Self> {
        use Op::*;
        const ALL: [Op; 13] =
            [Socket, Set, Umem, Get, Mmap, Bind, Send, Recv, Poll, Events, Close, Device, Redirect];
        ALL.into_iter().find(|op| *op as u32 == raw)
    }
}

/// A request, or with `op` replaced by an errno an answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Message {
    /// [`Op`], or an errno.
    pub(super) code: u32,
    /// The socket.
    pub(super) number: i32,
    pub(super) args: [u64; 2],
    pub(super) bytes: Vec<u8>,
}

impl Message {
    pub(super) fn request(op: Op, number: i32, args: [u64; 2], bytes: &[u8]) -> Self {
        Self { code: op as u32, number, args, bytes: bytes.to_vec() }
    }

    /// What it asks for, if it is a request that exists.
    pub(super) fn op(&self) -> Option<Op> {
        Op::from_raw(self.code)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(HEAD + self.bytes.len());
        all.extend(self.code.to_le_bytes());
        all.extend(self.number.to_le_bytes());
        all.extend(self.args[0].to_le_bytes());
        all.extend(self.args[1].to_le_bytes());
        all.extend(&self.bytes);
        all
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| head[at + i]));
        Some(Self {
            code: word(0) as u32,
            number: (word(0) >> 32) as i32,
            args: [word(8), word(16)],
            bytes: rest.to_vec(),
        })
    }
}

/// Sends a message, with a descriptor or without.
pub(super) fn send(socket: impl AsFd, message: &Message, fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let bytes = message.encode();
    if bytes.len() > MESSAGE_MAX {
        return Err(Errno::EMSGSIZE);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd]);
    if let Some(fds) = &fds
        && !control.push(SendAncillaryMessage::ScmRights(fds))
    {
        return Err(Errno::EMSGSIZE);
    }
    loop {
        match sendmsg(&socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(errno_of(e)),
        }
    }
}

/// The next message, with the first descriptor that came along; others are closed. `None` at the end.
pub(super) fn receive(socket: impl AsFd) -> Result<Option<(Message, Option<OwnedFd>)>, Errno> {
    let mut bytes = [0; MESSAGE_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let n = loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        match recvmsg(&socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => break message.bytes,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(errno_of(e)),
        }
    };
    let fd = control.drain().find_map(|part| match part {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    if n == 0 {
        return Ok(None);
    }
    let message = Message::decode(bytes.get(..n).ok_or(Errno::EBADMSG)?).ok_or(Errno::EBADMSG)?;
    Ok(Some((message, fd)))
}

pub(super) fn errno_of(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_what_they_were() {
        let message = Message::request(Op::Bind, -3, [u64::MAX, 1 << 40], &[1, 2, 3]);
        assert_eq!(Message::decode(&message.encode()), Some(message.clone()));
        assert_eq!(message.op(), Some(Op::Bind));
        assert_eq!(Message::decode(&[0; HEAD - 1]), None);
        assert_eq!(Message { code: 99, ..Message::default() }.op(), None);
    }
}
