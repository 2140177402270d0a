//! [`PacketSocket`]: sends Ethernet frames by any device of a network namespace, and sees what its devices
//! hand to the stack.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use uapi::Errno;

use super::last_errno;

const ETH_P_ALL: u16 = 3;
const PACKET_IGNORE_OUTGOING: i32 = 23;
/// Longest packet that is received whole, bytes.
const PACKET_MAX: usize = 1 << 18;
/// Room for packets that nobody has taken yet, bytes.
const RECEIVE_BUFFER: i32 = 32 << 20;

/// A packet socket of the network namespace of the thread that made it.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// Opens a socket that sees what all devices receive, but not what they send.
    ///
    /// # Errors
    ///
    /// The kernel's errno: `EPERM` without `CAP_NET_RAW`.
    pub fn new() -> Result<Self, Errno> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(ETH_P_ALL.to_be())) };
        if fd < 0 {
            return Err(last_errno());
        }
        // SAFETY: the kernel has just made this descriptor for us, nobody else owns it.
        let socket = Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } };
        socket.set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        socket.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)?;
        Ok(socket)
    }

    fn set(&self, level: i32, option: i32, value: i32) -> Result<(), Errno> {
        // SAFETY: the value is an integer of the length given.
        let ret =
            unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, option, (&raw const value).cast(), 4) };
        if ret == 0 { Ok(()) } else { Err(last_errno()) }
    }

    /// Sends a frame by a device.
    ///
    /// # Errors
    ///
    /// The kernel's errno: `ENETDOWN`, `EMSGSIZE`, `ENOBUFS` if the driver dropped it.
    pub fn send(&self, ifindex: u32, frame: &[u8]) -> Result<(), Errno> {
        // SAFETY: a struct of integers; all zeroes is valid.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = ifindex as i32;
        to.sll_protocol = frame.get(12..14).map_or(0, |p| u16::from_ne_bytes([p[0], p[1]]));
        // SAFETY: frame and address are valid for the lengths beside them.
        let n = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                size_of_val(&to) as u32,
            )
        };
        if n < 0 { Err(last_errno()) } else { Ok(()) }
    }

    /// The next packet that a device has received, with that device; `None` if there is none now.
    ///
    /// # Errors
    ///
    /// The kernel's errno, for example `ENETDOWN` once after a device went down.
    pub fn receive(&self) -> Result<Option<(u32, Vec<u8>)>, Errno> {
        let mut bytes = vec![0; PACKET_MAX];
        // SAFETY: a struct of integers; all zeroes is valid.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut from_len = size_of_val(&from) as u32;
        // SAFETY: buffer and address are valid for writing the lengths beside them.
        let n = unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                bytes.as_mut_ptr().cast(),
                bytes.len(),
                0,
                (&raw mut from).cast(),
                &raw mut from_len,
            )
        };
        match usize::try_from(n) {
            Ok(n) => {
                bytes.truncate(n);
                Ok(Some((from.sll_ifindex as u32, bytes)))
            }
            Err(_) if last_errno() == Errno::EAGAIN => Ok(None),
            Err(_) => Err(last_errno()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::VethPair;

    #[test]
    fn the_kernel_carries_a_frame_to_the_other_end() {
        crate::needs_kernel!();
        let pair = VethPair::new().unwrap();
        pair.netns
            .run(|| {
                let socket = PacketSocket::new().unwrap();
                let mut frame = vec![7; 60];
                frame[12..14].copy_from_slice(&[0x88, 0xb5]);
                socket.send(pair.ifindex0, &frame).unwrap();
                let mut seen = Vec::new();
                for _ in 0..100 {
                    seen.extend(std::iter::from_fn(|| socket.receive().unwrap()));
                    if seen.contains(&(pair.ifindex1, frame.clone())) {
                        return;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                panic!("received {seen:?}");
            })
            .unwrap();
    }
}
