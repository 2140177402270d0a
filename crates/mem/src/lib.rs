//! Memory, and nearly all of the project's unsafe code: buffers that a program and its peers share,
//! the frames that packets live in, epochs, and pages of machine code.
//!
//! Everything public here is safe to call in any order with any arguments. Memory that another party
//! can write is only ever seen as a [`SharedSlice`]: it is copied in and out, never borrowed.

mod code;
pub mod epoch;
mod frame;
mod hash_index;
mod packet;
mod page_pool;
mod pool;
mod probe;
mod ptr_ring;
#[cfg(not(loom))]
mod rcu;
mod shared;
#[cfg(not(loom))]
mod shared_mem;
mod slab;
mod spin;
pub mod spsc;
mod sync;
#[cfg(not(loom))]
pub mod virtq;
mod xdp_buff;
mod zeroed;

#[cfg(all(test, loom))]
mod models;

pub use code::{CodeBuffer, CodePages};
pub use frame::Frame;
pub use hash_index::{BUCKET_ENTRIES, Chain, HashIndex, IndexLayout, Position};
pub use packet::{MemType, Packet, Template};
pub use page_pool::{Depot, PagePool, PoolStats};
pub use pool::{ElementPool, Taken};
pub use probe::probe_read;
pub use ptr_ring::PtrRing;
#[cfg(not(loom))]
pub use rcu::RcuArray;
pub use shared::SharedSlice;
#[cfg(not(loom))]
pub use shared_mem::{PAGE_SIZE, SharedMem};
pub use slab::Slab;
pub use spin::{CachePadded, SpinLock};
pub use xdp_buff::{Frag, PacketPart, RxHints, RxqInfo, TxqInfo, XdpBuff, XdpBuffFlags};
pub use zeroed::{zeroed_u8, zeroed_u32, zeroed_u64};
