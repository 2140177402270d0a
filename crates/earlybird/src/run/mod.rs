//! The main job: packets through a program, on one backend or on both.
//!
//! [`Session`] drives loaded objects packet by packet and compares what they leave; [`Report`] says what
//! came of it; [`MapView`] reads and fills maps by name with values typed by BTF.

mod compare;
mod maps;
mod report;
mod session;
#[cfg(test)]
mod tests;

pub use compare::Difference;
pub use maps::{DumpMode, MapError, MapView, Setting};
pub use report::{ConnectionRow, RedirectCount, Report};
pub(crate) use session::LINEAR_MAX;
pub use session::{Observer, RunError, Session, SessionOptions};
