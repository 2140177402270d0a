//! Run XDP programs in user space, or on the running kernel: the library behind the command `earlybird`.
//!
//! ```
//! use earlybird::{Object, Packet, XdpAction};
//!
//! # let programs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../programs");
//! let object = Object::open(format!("{programs}/drop.bpf.o"))?;
//! let mut program = object.load(None)?;
//! let verdict = program.run(&mut Packet::new(&[0; 64]))?;
//! assert_eq!(verdict, XdpAction::Drop);
//! # Ok::<(), earlybird::Error>(())
//! ```
//!
//! [`Object`] is an object file, [`LoadedProgram`] a program with its maps. [`run`] is the main job of the
//! command: many packets, two backends, differences. [`capture`] reads and writes captures, [`values`] reads
//! and writes keys and values as JSON typed by BTF, [`explain`] tells why a program is refused.

pub mod backends;
pub mod capture;
pub mod explain;
pub mod object;
pub mod run;
pub mod values;

pub use object::{Error, LoadedProgram, Object, Packet, Verdict};
pub use uapi::xdp::XdpAction;
