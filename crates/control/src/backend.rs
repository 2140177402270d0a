//! [`Backend`] and what it loads.

use bpf::kfuncs::Connection;
use bpf::maps::MapDef;
use bpf::object::ObjectSpec;
use uapi::Errno;

use crate::{TestRun, TestRunError, TestRunOutput, Verification};

/// A home of XDP programs.
pub trait Backend {
    /// What a user calls it: `engine` or `kernel`.
    fn name(&self) -> &'static str;

    /// CPUs that per-CPU maps have room for.
    fn possible_cpus(&self) -> u32;

    /// Creates an object's maps, fills them, and loads its programs.
    ///
    /// # Errors
    ///
    /// What could not be created or loaded, and why.
    fn load(&mut self, spec: &ObjectSpec, options: &LoadOptions) -> Result<Box<dyn Loaded>, LoadError>;

    /// Asks the verifier about one program, by function name, and loads nothing. `log_level` is the kernel's: 0
    /// for none, 1 for the failing path, 2 for every path.
    ///
    /// # Errors
    ///
    /// What keeps the verifier from being asked: maps that cannot be made, symbols that are not there. A
    /// refusal is a [`Verification`].
    fn verify(&mut self, spec: &ObjectSpec, program: &str, log_level: u32)
    -> Result<Verification, LoadError>;
}

/// How to load.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Entry programs to load by function name, beside those that program arrays of the object name.
    pub programs: Vec<String>,
    /// Make [`SCRIPTED_HELPERS`](crate::SCRIPTED_HELPERS) answer from [`TestRun::script`], so that a run
    /// repeats one of the other backend. [`Loaded::warnings`] names the programs where that failed.
    pub scripted: bool,
    /// How the engine runs programs; the kernel has its own way.
    pub engine: EngineKind,
    /// Load without verifying; only the checked interpreter takes such programs.
    pub unverified: bool,
}

/// How the engine runs a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// The checked interpreter, the reference.
    #[default]
    Interp,
    /// Compiled to machine code; what cannot be compiled is refused.
    Jit,
    /// Compiled where processor and programs allow it, else interpreted: [`Loaded::engine`] and
    /// [`Loaded::warnings`] tell.
    Auto,
}

impl EngineKind {
    /// What a user calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Interp => "interp",
            Self::Jit => "jit",
            Self::Auto => "auto",
        }
    }
}

/// An object that has been loaded. Dropping it unloads everything.
pub trait Loaded {
    /// Programs, in the order of the object.
    fn programs(&self) -> &[ProgramInfo];

    /// Maps, in the order of the object.
    fn maps(&self) -> &[MapInfo];

    /// How the programs run, if the engine runs them.
    fn engine(&self) -> EngineKind {
        EngineKind::Interp
    }

    /// What a user should know of the load although it succeeded, one sentence each.
    fn warnings(&self) -> &[String] {
        &[]
    }

    /// Runs a program over one packet (`BPF_PROG_TEST_RUN`).
    ///
    /// # Errors
    ///
    /// The kernel's errno for a packet or context that cannot be run.
    fn test_run(&mut self, program: &str, request: &TestRun) -> Result<TestRunOutput, TestRunError>;

    /// `BPF_MAP_LOOKUP_ELEM` of the map at a position of [`Loaded::maps`]. Per-CPU values come one after
    /// the other, each padded to a multiple of 8 bytes.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    fn map_lookup(&self, map: usize, key: &[u8]) -> Result<Vec<u8>, Errno>;

    /// `BPF_MAP_UPDATE_ELEM`.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    fn map_update(&self, map: usize, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno>;

    /// `BPF_MAP_DELETE_ELEM`.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    fn map_delete(&self, map: usize, key: &[u8]) -> Result<(), Errno>;

    /// `BPF_MAP_GET_NEXT_KEY`; the first key if none is given.
    ///
    /// # Errors
    ///
    /// The kernel's errno; `ENOENT` after the last key.
    fn map_next_key(&self, map: usize, key: Option<&[u8]>) -> Result<Vec<u8>, Errno>;

    /// The connections that are tracked after the runs so far, those that the table began with included. Only
    /// the engine has them; the kernel's are for `conntrack` to show.
    fn connections(&self) -> Vec<Connection> {
        Vec::new()
    }

    /// What programs sent to user space since the last call, in order per ring.
    fn take_events(&mut self) -> Vec<OutputEvent>;
}

/// A loaded program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Function name.
    pub name: String,
    /// Section of the object.
    pub section: String,
    /// The backend's number for it.
    pub id: u32,
}

/// A loaded map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapInfo {
    /// Name in the object.
    pub name: String,
    /// What it was created from.
    pub def: MapDef,
    /// The backend's number for it.
    pub id: u32,
}

/// Something that a program sent to user space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputEvent {
    /// A record of the ring buffer at this position of [`Loaded::maps`].
    Ringbuf {
        /// Map.
        map: usize,
        /// Record.
        data: Vec<u8>,
    },
    /// A sample of the perf event array at this position of [`Loaded::maps`].
    Perf {
        /// Map.
        map: usize,
        /// CPU.
        cpu: u32,
        /// Sample. The kernel appends up to 7 bytes of no meaning, so that its length plus 4 is a
        /// multiple of 8, and does not say how many.
        data: Vec<u8>,
    },
    /// Samples of the perf event array at this position that found no room.
    Lost {
        /// Map.
        map: usize,
        /// CPU.
        cpu: u32,
        /// Samples.
        count: u64,
    },
    /// A line of `bpf_trace_printk`.
    Trace(String),
}

impl OutputEvent {
    /// Whether two homes mean the same by their events: padding of samples does not count.
    #[must_use]
    pub fn agrees(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Perf { map, cpu, data }, Self::Perf { map: map2, cpu: cpu2, data: data2 }) => {
                let (short, long) = if data.len() <= data2.len() { (data, data2) } else { (data2, data) };
                let padded = (short.len() + 4).next_multiple_of(8) - 4;
                (map, cpu) == (map2, cpu2)
                    && long.starts_with(short)
                    && (long.len() == short.len() || long.len() == padded)
            }
            _ => self == other,
        }
    }
}

/// An object could not be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A map was refused.
    #[error("map {map}: {reason}")]
    Map {
        /// Map.
        map: String,
        /// Errno of the backend.
        errno: Errno,
        /// What it means here and what to do.
        reason: String,
    },
    /// A program was refused by the verifier.
    #[error("program {program}: {reason}")]
    Program {
        /// Program.
        program: String,
        /// Errno of the backend.
        errno: Errno,
        /// The verifier's last sentence, or what is missing.
        reason: String,
        /// The verifier's log, if there is one.
        log: String,
    },
    /// The backend cannot be used at all, for example for want of a capability.
    #[error("{0}")]
    Unavailable(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_padding_of_a_sample_may_differ() {
        let perf = |data: &[u8]| OutputEvent::Perf { map: 0, cpu: 0, data: data.to_vec() };
        assert!(perf(b"abc").agrees(&perf(b"abc\x55")));
        assert!(perf(b"abcd!!!!\x01\x02\x03\x04").agrees(&perf(b"abcd!!!!\x01")));
        assert!(perf(b"abcd").agrees(&perf(b"abcd")));
        assert!(!perf(b"abcd").agrees(&perf(b"abcd\0")));
        assert!(!perf(b"abc").agrees(&perf(b"abX\0")));
        let ring = |data: &[u8]| OutputEvent::Ringbuf { map: 0, data: data.to_vec() };
        assert!(!ring(b"abc").agrees(&ring(b"abc\0")));
    }
}
