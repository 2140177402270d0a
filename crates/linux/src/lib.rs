//! The running kernel as a home of XDP programs: bpf(2) under our own loader's [`bpf::object::ObjectSpec`].
//!
//! [`KernelBackend`] is the [`control::Backend`]; [`host`] tells what the kernel says about itself; [`sys`]
//! wraps the system calls and is the only place with unsafe code; [`xsk`] has what AF_XDP
//! sockets need of bpf(2); [`testing`] is what tests of other crates need to ask the kernel.

mod backend;
pub mod host;
pub mod scene;
pub mod sys;
pub mod testing;
pub mod trace;
pub mod xsk;

pub use backend::{KernelBackend, KernelObject, Verdict, verdicts};
