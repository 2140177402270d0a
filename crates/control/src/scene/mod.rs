//! Scenes: devices, programs and a script of what is done to them and what must come of it, in a TOML file.
//!
//! [`file`] reads one, [`net`] what it says of addresses and traffic, [`packet`] the lines that packets are written as, and [`run`] plays it on a
//! [`SceneHome`]: the engine's or the kernel's.
//!
//! ```toml
//! title = "A dropped packet is counted once"
//! objects = { path = "../programs/path/path.bpf.o" }
//!
//! [[device]]
//! veth = ["a", "b"]
//!
//! [[step]]
//! attach = { device = "b", program = "path.count_drop", mode = "drv" }
//!
//! [[step]]
//! send = { device = "a", packet = "eth 02::1 > ff::ff type 0x88b5 len 60" }
//! counters = { "b.rx_queue_0_xdp_packets" = 1, "b.rx_queue_0_xdp_drops" = 1 }
//! ```
//!
//! What a step does not claim must not happen: after each one the counters, packets and events that it names
//! must be exactly those that there were.

mod describe;
mod file;
mod host;
mod net;
mod packet;
mod run;

pub use describe::describe as describe_packet;
pub use file::{Action, AttachMode, Device, DeviceKind, MapValue, Scene, SceneError, Step};
pub use host::{Host, HostOp};
pub use net::{Address, FIRST_IFINDEX, Generator, Neighbour, ReadCapture, Refuses, Route, Traffic};
pub use packet::parse as parse_packet;
pub use run::{Answer, Counters, SceneHome, SceneReport, StepReport, differences, map_number, play};
