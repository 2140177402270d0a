//! One host, in user space: its network tables, its clock, and the programs that run on it.

pub mod backend;
pub mod host;
pub mod net;
pub mod port;
pub mod scene;
pub mod softirq;
pub mod test_run;
pub mod xsk;

pub use backend::{EngineBackend, EngineObject};
pub use host::SeededHost;
pub use net::{NetConfig, NetError, NetTables};
