//! One host, in user space: its network tables, its clock, and the programs that run on it.

pub mod net;

pub use net::{NetConfig, NetError, NetTables};
