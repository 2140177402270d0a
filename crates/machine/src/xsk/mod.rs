//! AF_XDP sockets on the machine's devices: what [`xsk::engine::XskHost`] needs to bind sockets to them
//! ([`register`]), and how a socket's system calls get into a softirq ([`Enter`]).
//!
//! Receiving needs nothing of this: the data path finds sockets in xskmaps. [`Redirects`] offers devices to other
//! processes.

mod serve;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use ::xsk::engine::{TxPacket, Xmit, XskDevice, XskHost, XskSocket};
use bpf::maps::Object;
use xdp::NetDevice;
use xdp::redirect::XskEntry;

use crate::softirq::SoftirqLoop;

pub use serve::Redirects;

/// The CPU that system calls of sockets run on.
const CPU: u32 = 0;

/// The way from a system call into the machine, from any thread.
pub trait Enter: Send + Sync {
    /// Runs `f` while nobody else does anything in the machine.
    fn enter(&self, f: &mut dyn FnMut(&mut SoftirqLoop));
}

impl<T: AsMut<SoftirqLoop> + Send> Enter for Mutex<T> {
    fn enter(&self, f: &mut dyn FnMut(&mut SoftirqLoop)) {
        f(self.lock().unwrap_or_else(PoisonError::into_inner).as_mut());
    }
}

impl AsMut<Self> for SoftirqLoop {
    fn as_mut(&mut self) -> &mut Self {
        self
    }
}

/// Lets sockets be bound to a device of the machine.
pub fn register(host: &XskHost, device: Arc<dyn NetDevice>, machine: Arc<dyn Enter>) {
    let ifindex = device.core().ifindex;
    host.register_device(ifindex, Arc::new(Port { device, machine }));
}

/// A device as sockets see it.
struct Port {
    device: Arc<dyn NetDevice>,
    machine: Arc<dyn Enter>,
}

impl XskDevice for Port {
    fn is_up(&self) -> bool {
        self.device.core().is_up()
    }

    fn queues(&self) -> (u32, u32) {
        let core = self.device.core();
        (core.rx_queues(), core.tx_queues())
    }

    /// Softirqs that the packet raises run before it answers, as they do when the kernel enables them again.
    fn xmit(&self, queue: u16, packet: TxPacket) -> Xmit {
        let (mut packet, mut result) = (Some(packet), Xmit::Dropped);
        self.machine.enter(&mut |machine| {
            let Some(packet) = packet.take() else { return };
            result = machine.on_cpu(CPU, |cx| cx.dev_direct_xmit(&*self.device, queue.into(), packet));
            machine.softirq(CPU);
        });
        result
    }
}

/// What stands for a socket in xskmaps, for whoever writes to one by its own means.
pub fn map_object(socket: &Arc<XskSocket>) -> Object {
    let make = || {
        let receiver: Arc<dyn xdp::redirect::XskSocket> = socket.clone();
        XskEntry::object(&receiver)
    };
    socket.entry(make, |object, queue| object.set_queue_id(queue.into()))
}
