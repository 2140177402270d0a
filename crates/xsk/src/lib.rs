//! AF_XDP for applications: memory that packets lie in ([`Umem`]), the four rings, and sockets ([`Socket`])
//! on the running kernel ([`KernelHome`]), on an engine in this process ([`engine::XskHost`]) or in another
//! ([`remote::RemoteHome`]), with the same code.
//!
//! A [`Frame`] is the right to one piece of the memory, and carries its bounds. It goes into a ring by value
//! and comes out of one by value, so that filling a frame twice, using it after it was given away, or writing
//! past its end are errors of the compiler or of a length check, not packets with the wrong contents:
//!
//! ```compile_fail,E0382
//! # use xsk::{Frame, FillBatch};
//! fn twice<'u>(batch: &mut FillBatch<'_, 'u>, frame: Frame<'u>) {
//!     batch.push(frame);
//!     batch.push(frame); // use of moved value
//! }
//! ```
//!
//! ```compile_fail,E0382
//! # use xsk::{Frame, TxBatch};
//! fn after_submit<'u>(batch: &mut TxBatch<'_, 'u>, mut frame: Frame<'u>) {
//!     batch.push(frame);
//!     frame.put(b"late"); // use of moved value
//! }
//! ```
//!
//! ```compile_fail,E0505
//! # use xsk::{Umem, UmemConfig};
//! let umem = Umem::new(UmemConfig::default()).unwrap();
//! let frame = umem.alloc().unwrap();
//! drop(umem); // borrowed by the frame
//! drop(frame);
//! ```
//!
//! Batches have libxdp's names: `reserve` and `submit` on the side that puts in, `peek` and `release` on the
//! side that takes out.

pub mod app;
pub mod engine;
mod error;
mod frame;
mod port;
pub mod remote;
mod rings;
mod socket;
mod sys;
mod umem;

pub use error::{SetupError, Step};
pub use frame::{Frame, TooLong};
pub use port::{Home, PollEvents, RawSocket};
pub use rings::{
    CompletionBatch, CompletionRing, FillBatch, FillRing, RxBatch, RxRing, TxBatch, TxRing, Violations,
};
pub use socket::{BusyPoll, Mode, Socket, SocketConfig, Wakeup};
pub use sys::KernelHome;
pub use umem::{FrameCounts, Umem, UmemConfig};
