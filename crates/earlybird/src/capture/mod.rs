//! Captures: reading pcap and pcapng, writing pcapng with verdicts.
//!
//! [`Reader`] answers one [`CapturedPacket`] after the other; [`Writer`] writes what a program did to
//! them, in the form that xdpdump writes and Wireshark reads.

mod read;
mod write;

pub use read::{CaptureError, CapturedPacket, Reader};
pub use write::{InterfaceId, PacketOptions, Writer};
