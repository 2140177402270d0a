//! [`RouteSocket`]: what devices are asked and told by rtnetlink, as far as XDP needs it: attaching programs
//! with the kernel's own words of refusal, and the counters of a link.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use uapi::Errno;

use super::last_errno;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
/// The answer repeats the head of the request only.
const NLM_F_CAPPED: u16 = 0x100;
/// Attributes follow the answer.
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
const NLMSGERR_ATTR_MSG: u16 = 1;
const IFLA_MTU: u16 = 4;
const IFLA_STATS64: u16 = 23;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_FD: u16 = 1;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_FLAGS: u16 = 3;
const IFLA_XDP_EXPECTED_FD: u16 = 8;
/// `struct nlmsghdr` and `struct ifinfomsg`, bytes.
const HEADER: usize = 16;
/// Largest answer, bytes; what the kernel makes of one link is less than a page or two.
const ANSWER_MAX: usize = 32 << 10;

/// A route socket in the network namespace of the thread that made it.
#[derive(Debug)]
pub struct RouteSocket {
    fd: OwnedFd,
    seq: u32,
}

/// The kernel refused a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why, in numbers.
    pub errno: Errno,
    /// Why, in words (extended acknowledgement).
    pub extack: Option<String>,
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        Self { errno, extack: None }
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.extack {
            Some(text) => write!(f, "{}: {text}", self.errno),
            None => self.errno.fmt(f),
        }
    }
}

/// `IFLA_XDP` of a request; what is `None` is left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct XdpRequest {
    /// `IFLA_XDP_FD`: descriptor of a program, -1 to detach.
    pub fd: Option<i32>,
    /// `IFLA_XDP_FLAGS`.
    pub flags: Option<u32>,
    /// `IFLA_XDP_EXPECTED_FD`.
    pub expected_fd: Option<i32>,
}

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkState {
    /// Largest packet without link header, bytes.
    pub mtu: u32,
    /// `IFLA_XDP_ATTACHED`: 0 none, 1 native, 2 generic, 3 offloaded, 4 several.
    pub attached: u8,
    /// Numbers of the programs: `IFLA_XDP_PROG_ID`, and those of native, generic and offloaded mode.
    pub prog_ids: [Option<u32>; 4],
    /// `rtnl_link_stats64`: received and sent packets, received and sent bytes, errors both ways, dropped
    /// both ways.
    pub stats: [u64; 8],
}

impl RouteSocket {
    /// Opens a socket.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    pub fn new() -> Result<Self, Errno> {
        // SAFETY: no pointers.
        let fd = unsafe {
            libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE)
        };
        if fd < 0 {
            return Err(last_errno());
        }
        // SAFETY: the kernel has just made this descriptor for us, nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            let on = 1_i32;
            // SAFETY: the value is an integer of the length given.
            let ret = unsafe {
                libc::setsockopt(fd.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const on).cast(), 4)
            };
            if ret != 0 {
                return Err(last_errno());
            }
        }
        Ok(Self { fd, seq: 0 })
    }

    /// Changes what is attached to a device.
    ///
    /// # Errors
    ///
    /// The kernel's errno and words.
    pub fn set_xdp(&mut self, ifindex: u32, request: &XdpRequest) -> Result<(), Refused> {
        let mut nest = Vec::new();
        if let Some(fd) = request.fd {
            put(&mut nest, IFLA_XDP_FD, &fd.to_ne_bytes());
        }
        if let Some(flags) = request.flags {
            put(&mut nest, IFLA_XDP_FLAGS, &flags.to_ne_bytes());
        }
        if let Some(fd) = request.expected_fd {
            put(&mut nest, IFLA_XDP_EXPECTED_FD, &fd.to_ne_bytes());
        }
        let mut attributes = Vec::new();
        put(&mut attributes, IFLA_XDP | NLA_F_NESTED, &nest);
        self.ask(RTM_SETLINK, ifindex, &attributes).map(drop)
    }

    /// What the kernel says of a device.
    ///
    /// # Errors
    ///
    /// `ENODEV` if there is none.
    pub fn link(&mut self, ifindex: u32) -> Result<LinkState, Refused> {
        let answer = self.ask(RTM_GETLINK, ifindex, &[])?;
        let mut state = LinkState::default();
        for (kind, value) in attributes(answer.get(2 * HEADER..).unwrap_or_default()) {
            match kind {
                IFLA_MTU => state.mtu = u32_of(value).unwrap_or(0),
                IFLA_STATS64 => {
                    for (counter, bytes) in state.stats.iter_mut().zip(value.as_chunks::<8>().0) {
                        *counter = u64::from_ne_bytes(*bytes);
                    }
                }
                IFLA_XDP => {
                    for (kind, value) in attributes(value) {
                        match kind {
                            IFLA_XDP_ATTACHED => state.attached = value.first().copied().unwrap_or(0),
                            4..=7 => state.prog_ids[usize::from(kind) - 4] = u32_of(value),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(state)
    }

    /// Sends a request about a device; answers the message that comes back, or nothing if that is an
    /// acknowledgement.
    fn ask(&mut self, kind: u16, ifindex: u32, attributes: &[u8]) -> Result<Vec<u8>, Refused> {
        self.seq = self.seq.wrapping_add(1);
        let ack = if kind == RTM_GETLINK { 0 } else { NLM_F_ACK };
        let len = (2 * HEADER + attributes.len()) as u32;
        let mut message = Vec::with_capacity(len as usize);
        message.extend(len.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((NLM_F_REQUEST | ack).to_ne_bytes());
        message.extend(self.seq.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(ifindex.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(attributes);
        // SAFETY: the buffer is valid for the length beside it.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
        if sent < 0 {
            return Err(last_errno().into());
        }
        loop {
            let answer = self.receive()?;
            let Some((header, _)) = answer.split_first_chunk::<HEADER>() else { continue };
            if header[8..12] != self.seq.to_ne_bytes() {
                continue;
            }
            return match u16::from_ne_bytes([header[4], header[5]]) {
                NLMSG_ERROR => refusal(&answer).map_or(Ok(Vec::new()), Err),
                RTM_NEWLINK => Ok(answer),
                _ => continue,
            };
        }
    }

    fn receive(&self) -> Result<Vec<u8>, Errno> {
        let mut answer = vec![0; ANSWER_MAX];
        // SAFETY: the buffer is valid for writing the length beside it.
        let n = unsafe { libc::recv(self.fd.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
        answer.truncate(usize::try_from(n).map_err(|_| last_errno())?);
        Ok(answer)
    }
}

/// What an error message says; `None` for an acknowledgement.
fn refusal(answer: &[u8]) -> Option<Refused> {
    let flags = u16::from_ne_bytes([answer[6], answer[7]]);
    let error = i32::from_ne_bytes(answer.get(HEADER..HEADER + 4)?.try_into().ok()?);
    if error == 0 {
        return None;
    }
    let request = HEADER + 4;
    let repeated = match flags & NLM_F_CAPPED {
        0 => u32_of(answer.get(request..)?)? as usize,
        _ => HEADER,
    };
    let extack = (flags & NLM_F_ACK_TLVS != 0)
        .then(|| {
            let tail = answer.get(request + repeated.next_multiple_of(4)..)?;
            let (_, text) = attributes(tail).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)?;
            Some(super::c_text(text))
        })
        .flatten();
    Some(Refused { errno: Errno::from_raw(-error), extack })
}

/// Appends an attribute.
fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend((4 + value.len() as u16).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// The attributes of a message or nest; ends at one that is cut off.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (head, _) = bytes.split_first_chunk::<4>()?;
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & NLA_TYPE_MASK;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn u32_of(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk::<4>().map(|b| u32::from_ne_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{RawProg, VethPair, load_insns};
    use bpf::Insn;
    use std::os::fd::AsFd;

    #[test]
    fn attributes_that_are_cut_off_end_the_walk() {
        let mut bytes = Vec::new();
        put(&mut bytes, 1, b"ab");
        put(&mut bytes, 2 | NLA_F_NESTED, b"cdef");
        assert_eq!(attributes(&bytes).collect::<Vec<_>>(), [(1, &b"ab"[..]), (2, b"cdef")]);
        assert_eq!(attributes(&bytes[..15]).count(), 1);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
    }

    #[test]
    fn the_kernel_attaches_and_says_why_not() {
        crate::needs_kernel!();
        let pair = VethPair::new().unwrap();
        let insns = [Insn::new(0xb7, 0, 0, 0, 1), Insn::new(0x95, 0, 0, 0, 0)];
        let (prog, _) = load_insns(&RawProg::xdp(&insns)).unwrap();
        let fd = prog.as_fd().as_raw_fd();
        let attach = XdpRequest { fd: Some(fd), flags: Some(4), ..XdpRequest::default() };
        pair.netns
            .run(|| {
                let mut route = RouteSocket::new().unwrap();
                route.set_xdp(pair.ifindex0, &attach).unwrap();
                let link = route.link(pair.ifindex0).unwrap();
                assert_eq!((link.attached, link.prog_ids[0], link.mtu), (1, Some(prog.id()), 1500));
                let again = XdpRequest { flags: Some(4 | 1), ..attach };
                let refused = route.set_xdp(pair.ifindex0, &again).unwrap_err();
                let text = "XDP program already attached".to_owned();
                assert_eq!(refused, Refused { errno: Errno::EBUSY, extack: Some(text) });
                let errno = route.set_xdp(1 << 20, &attach).unwrap_err().errno;
                assert_eq!(errno, Errno::ENODEV);
            })
            .unwrap();
    }
}
