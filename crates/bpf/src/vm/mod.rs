//! Running programs: the memory that a program can reach, the state of one run, and the engines.
//!
//! [`Program`] is what runs, [`Run`] is what helpers see of a run. Programs in the checked interpreter
//! hold *guest addresses*, which name a region and an offset, so that every access can be checked and
//! explained; compiled programs hold host addresses, which the verifier has proved. Helpers are written
//! once for both.

mod check;
mod direct;
mod fault;
mod interp;
mod memory;
mod native;
mod program;
mod regions;
mod run;

pub(crate) use direct::{NativeFn, native};
pub use fault::{Access, Fault, FaultKind};
pub use interp::{Observer, Profile, Step};
pub use memory::{GuestMemory, PacketBounds, RegionKind};
#[cfg(test)]
pub(crate) use native::{abi_in_test, run_in_test};
pub(crate) use program::CALLBACK_BASE;
pub use program::{Callback, HelperFn, LinkError, Program, Symbols};
pub use regions::Scratch;
pub use run::Run;
