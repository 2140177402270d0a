//! Redirect to AF_XDP sockets: the seam to them. The sockets themselves are not here.

use std::sync::{Arc, Weak};

use bpf::maps::{Object, SocketObject};
use mem::XdpBuff;
use uapi::Errno;

use super::{RedirectError, Target};
use crate::{DropReason, Softirq};

/// A socket as the data path sees it.
pub trait XskSocket: Send + Sync {
    /// Copies a packet into the socket's memory.
    ///
    /// # Errors
    ///
    /// Why it does not take the packet: `ENXIO` if it is not bound, `EINVAL` for another device or queue,
    /// `ENOSPC`, `ENOMEM` or `ENOBUFS` if there is no room.
    ///
    /// Kernel: `net/xdp/xsk.c xsk_rcv, v6.18`
    #[doc(alias = "xsk_rcv")]
    fn rcv(&self, buff: &XdpBuff<'_>) -> Result<(), Errno>;

    /// Shows what was received to the application, and wakes it.
    ///
    /// Kernel: `net/xdp/xsk.c xsk_flush, v6.18`
    #[doc(alias = "xsk_flush")]
    fn flush(&self);
}

/// The engine's sockets.
impl XskSocket for xsk::engine::XskSocket {
    fn rcv(&self, buff: &XdpBuff<'_>) -> Result<(), Errno> {
        Self::rcv(self, buff)
    }

    fn flush(&self) {
        Self::flush(self);
    }
}

/// What an xskmap holds. It does not keep the socket open.
pub struct XskEntry(Weak<dyn XskSocket>);

impl XskEntry {
    /// A socket for an xskmap. Entries of one socket in several maps, or at several keys, should be one object.
    #[must_use]
    pub fn object(socket: &Arc<dyn XskSocket>) -> Arc<SocketObject> {
        Arc::new(SocketObject::new(Box::new(Self(Arc::downgrade(socket)))))
    }

    fn of(object: &Object) -> Option<&Self> {
        object.downcast_ref::<SocketObject>()?.inner.downcast_ref()
    }
}

/// Sockets that were redirected to since the last flush; the last is the last that began.
#[derive(Default)]
pub(crate) struct XskFlush(Vec<Touched>);

struct Touched {
    socket: Arc<dyn XskSocket>,
    /// A packet was taken, so the socket is to be flushed.
    received: bool,
}

impl XskFlush {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The place of an entry's socket in the list; it is kept open until the flush. `None` if it is closed.
    #[inline]
    fn find(&mut self, XskEntry(socket): &XskEntry) -> Option<usize> {
        if let Some(at) =
            self.0.iter().position(|t| std::ptr::addr_eq(Arc::as_ptr(&t.socket), socket.as_ptr()))
        {
            return Some(at);
        }
        self.0.push(Touched { socket: socket.upgrade()?, received: false });
        Some(self.0.len() - 1)
    }
}

impl Softirq<'_> {
    /// Kernel: `net/xdp/xsk.c __xsk_map_redirect, v6.18`
    #[doc(alias = "__xsk_map_redirect")]
    pub(crate) fn xsk_map_redirect(
        &mut self,
        target: &Target<'_>,
        buff: Box<XdpBuff<'_>>,
    ) -> Result<(), RedirectError> {
        let object = target.map.and_then(|map| map.socket(self.guard, target.key()));
        let result = match object.and_then(XskEntry::of).and_then(|entry| self.net.xsk_flush.find(entry)) {
            None => Err(RedirectError::new(Errno::EINVAL, DropReason::XskMissing)),
            Some(at) => match self.net.xsk_flush.0[at].socket.rcv(&buff) {
                Ok(()) => {
                    self.net.xsk_flush.0[at].received = true;
                    Ok(())
                }
                Err(errno) => Err(RedirectError::new(errno, DropReason::XskRefused)),
            },
        };
        let packet = buff.into_packet();
        match result {
            // Copied: the pages are free again.
            Ok(()) => self.net.pool.put_packet(packet),
            Err(error) => self.net.drop_packet(packet, error.reason),
        }
        result
    }

    /// Kernel: `net/xdp/xsk.c __xsk_map_flush, v6.18`
    #[doc(alias = "__xsk_map_flush")]
    pub(crate) fn xsk_map_flush(&mut self) {
        while let Some(Touched { socket, received }) = self.net.xsk_flush.0.pop() {
            if received {
                socket.flush();
            }
        }
    }
}
