//! The two homes of programs as [`control::Backend`]s, with what they need from this host.

mod net;

use std::sync::Arc;

use anyhow::Result;
use bpf::object::Target;
use control::{Backend, EngineKind};
use machine::{EngineBackend, NetConfig, NetTables};

pub use net::{net_from_file, net_from_host};

/// What the engine's world is like.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// Seed of random numbers and secrets.
    pub seed: u64,
    /// Devices, routes, neighbours and sockets.
    pub net: NetConfig,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self { seed: 1, net: NetConfig::default() }
    }
}

/// The engine.
///
/// # Errors
///
/// What contradicts itself in the description of the network.
pub fn engine(settings: &EngineSettings) -> Result<Box<dyn Backend>> {
    Ok(Box::new(own_engine(settings)?))
}

/// The engine, as itself.
///
/// # Errors
///
/// As [`engine`].
pub fn own_engine(settings: &EngineSettings) -> Result<EngineBackend> {
    let net = Arc::new(NetTables::new(&settings.net)?);
    let mut engine = EngineBackend::new(possible_cpus(), settings.seed, net);
    engine.kernel_btf = linux::host::vmlinux().ok().or_else(|| Target::bundled().btf);
    Ok(engine)
}

/// The running kernel.
///
/// # Errors
///
/// What is missing to use it, for example a capability.
pub fn kernel() -> Result<Box<dyn Backend>> {
    Ok(Box::new(linux::KernelBackend::new()?))
}

/// CPUs that per-CPU maps have room for: as many as on the running kernel, so that both homes are alike.
#[must_use]
pub fn possible_cpus() -> u32 {
    linux::sys::possible_cpus()
}

/// How programs run where the user makes no choice: compiled where they can be.
#[must_use]
pub const fn default_engine() -> EngineKind {
    EngineKind::Auto
}
