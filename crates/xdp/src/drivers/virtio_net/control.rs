//! [`Control`]: commands to the device through the control queue.

use mem::SharedMem;
use mem::virtq::{Buffer, DriverQueue};
use uapi::virtio_net::VIRTIO_NET_OK;

use super::Backend;

/// Descriptors of the control queue.
pub(super) const RING_SIZE: u16 = 64;

/// Where the parts of a command lie in the queue's page, bytes.
const DATA: usize = 16;
const STATUS: usize = 64;
/// Most bytes of a command beside its header.
const DATA_MAX: usize = STATUS - DATA;

/// The control queue. Used by one command at a time.
///
/// Kernel: `drivers/net/virtio_net.c struct control_buf, v6.18`
#[doc(alias = "control_buf")]
pub(super) struct Control {
    vq: Option<DriverQueue<()>>,
    page: usize,
    queue: u16,
    /// The device did not answer once. Its answer could come any time, so no other command is sent.
    silent: bool,
}

impl Control {
    pub(super) fn new(vq: Option<DriverQueue<()>>, page: usize, queue: u16) -> Self {
        Self { vq, page, queue, silent: false }
    }

    /// Sends a command and answers whether the device has done it. A device that does not answer when it was
    /// notified has not; the kernel would wait for ever.
    ///
    /// Kernel: `drivers/net/virtio_net.c virtnet_send_command, v6.18`
    #[doc(alias = "virtnet_send_command")]
    pub(super) fn send(
        &mut self,
        memory: &SharedMem,
        backend: Option<&dyn Backend>,
        command: (u8, u8),
        data: &[u8],
    ) -> bool {
        let (Some(vq), Some(backend), false) = (&mut self.vq, backend, self.silent) else { return false };
        if data.len() > DATA_MAX {
            return false;
        }
        let view = memory.view();
        let (class, number) = command;
        view.copy_from(self.page, &[class, number]);
        view.copy_from(self.page + DATA, data);
        view.write_u8(self.page + STATUS, u8::MAX);
        let at = |offset: usize, len: usize| Buffer { addr: (self.page + offset) as u64, len: len as u32 };
        let read = [at(0, 2), at(DATA, data.len())];
        if vq.add(&read, &[at(STATUS, 1)], ()).is_err() {
            return false;
        }
        if vq.kick_prepare() {
            backend.notify(self.queue);
        }
        if vq.get_buf().is_none() {
            self.silent = true;
            return false;
        }
        view.read_u8(self.page + STATUS) == VIRTIO_NET_OK
    }
}
