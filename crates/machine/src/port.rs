//! [`Port`]: where packets go that reach the stack of a device, and what sends packets by it.
//!
//! [`Host`] is a small stack of its own, [`Channel`] an end of a pipe in this process. Others, for example a real
//! interface, can follow: a port sees nothing but frames and the time.

mod host;

pub use host::{Host, HostConfig, Op, OpError};

use std::sync::mpsc::{Receiver, Sender};

/// What is behind a device.
pub trait Port: Send {
    /// A frame that has reached the stack of the port's device.
    fn receive(&mut self, frame: &[u8]);

    /// Lets it work; frames that it sends by its device go to `send`. Answers whether it did anything.
    fn poll(&mut self, now_ns: u64, send: &mut dyn FnMut(&[u8])) -> bool;

    /// When it wants to be polled again though nothing comes; `None` if never.
    fn due_ns(&mut self, now_ns: u64) -> Option<u64> {
        let _ = now_ns;
        None
    }
}

/// A port whose frames somebody else in this process gets and makes.
pub struct Channel {
    received: Sender<Vec<u8>>,
    to_send: Receiver<Vec<u8>>,
}

impl Channel {
    /// A port with the other ends: frames that it receives, and where to put frames that it is to send.
    #[must_use]
    pub fn new() -> (Self, Receiver<Vec<u8>>, Sender<Vec<u8>>) {
        let (received, theirs) = std::sync::mpsc::channel();
        let (to_us, to_send) = std::sync::mpsc::channel();
        (Self { received, to_send }, theirs, to_us)
    }
}

impl Port for Channel {
    fn receive(&mut self, frame: &[u8]) {
        // If nobody listens any more the frame ends here, as in a stack without a socket.
        let _ = self.received.send(frame.to_vec());
    }

    fn poll(&mut self, _: u64, send: &mut dyn FnMut(&[u8])) -> bool {
        let mut worked = false;
        while let Ok(frame) = self.to_send.try_recv() {
            send(&frame);
            worked = true;
        }
        worked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_carries_frames_both_ways() {
        let (mut port, received, to_send) = Channel::new();
        port.receive(b"in");
        to_send.send(b"out".to_vec()).unwrap();
        let mut sent = Vec::new();
        assert!(port.poll(0, &mut |frame| sent.push(frame.to_vec())));
        assert!(!port.poll(0, &mut |_| panic!("there is nothing more")));
        assert_eq!((received.recv().unwrap(), sent), (b"in".to_vec(), vec![b"out".to_vec()]));
    }
}
