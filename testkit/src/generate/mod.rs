//! Random inputs from a seed: packets, contexts, contents of maps, programs.
//!
//! Everything is a function of a [`Rng`], so a failure repeats from the seed that it prints. Values come
//! from small pools, so that packets meet what maps hold.

mod contents;
mod context;
pub mod insns;
mod packet;
pub mod program;
mod rng;

pub use contents::{MapChange, changes};
pub use context::context;
pub use packet::packet;
pub use rng::Rng;
