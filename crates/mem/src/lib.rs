//! Memory, and nearly all of the project's unsafe code: buffers that a program and its peers share,
//! the frames that packets live in, epochs, and pages of machine code.
//!
//! Everything public here is safe to call in any order with any arguments. Memory that another party
//! can write is only ever seen as a [`SharedSlice`]: it is copied in and out, never borrowed.

mod code;
mod frame;
mod shared;
mod xdp_buff;

pub use code::{CodeBuffer, CodePages};
pub use frame::Frame;
pub use shared::SharedSlice;
pub use xdp_buff::{Frag, PacketPart, RxHints, RxqInfo, TxqInfo, XdpBuff, XdpBuffFlags};
