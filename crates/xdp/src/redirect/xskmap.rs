//! Redirect to AF_XDP sockets: the seam to them. The sockets themselves are not here.

use std::sync::Arc;

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

/// The engine's sockets. Putting one in a map is [`XskEntry`]; what it sends is for its own device to take.
impl XskSocket for xsk::engine::XskSocket {
    fn rcv(&self, buff: &XdpBuff<'_>) -> Result<(), Errno> {
        Self::rcv(self, buff)
    }

    fn flush(&self) {
        Self::flush(self);
    }
}

/// What an xskmap holds.
pub struct XskEntry(pub Arc<dyn XskSocket>);

/// Sockets that have received since the last flush; the last is the last that began.
#[derive(Default)]
pub(crate) struct XskFlush(Vec<Arc<dyn XskSocket>>);

impl XskFlush {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Softirq<'_> {
    /// Kernel: `net/xdp/xsk.c __xsk_map_redirect, v6.18`
    #[doc(alias = "__xsk_map_redirect")]
    pub(crate) fn xsk_map_redirect(
        &mut self,
        target: &Target,
        buff: Box<XdpBuff<'_>>,
    ) -> Result<(), RedirectError> {
        let object = target.map.as_ref().and_then(|map| map.socket(self.guard, target.key()));
        let result = match object.and_then(|o| o.downcast_ref::<XskEntry>()) {
            None => Err(RedirectError::new(Errno::EINVAL, DropReason::XskMissing)),
            Some(XskEntry(socket)) => match socket.rcv(&buff) {
                Ok(()) => {
                    let list = &mut self.net.xsk_flush.0;
                    if !list.iter().any(|s| Arc::ptr_eq(s, socket)) {
                        list.push(socket.clone());
                    }
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
        while let Some(socket) = self.net.xsk_flush.0.pop() {
            socket.flush();
        }
    }
}
