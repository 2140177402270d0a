//! [`Object`]: an object file, and the few lines that run a program of it.

use std::fmt;
use std::path::Path;

use bpf::object::{Kconfig, ObjectError, ObjectSpec, SelectError, Target};
use control::{Backend, LoadError, LoadOptions, Loaded, TestRun, TestRunError};
use uapi::xdp::{XdpAction, XdpMd};

use crate::backends::{self, EngineSettings};
use crate::run::{DumpMode, MapError, MapView, Setting};

/// An object file, parsed for a home.
#[derive(Clone, Debug)]
pub struct Object {
    spec: ObjectSpec,
}

/// Where an object's programs will run: which types and symbols their relocations see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Home {
    /// The engine: the types of the running kernel where there is one, else those of Linux 6.18 that
    /// Earlybird knows.
    Engine,
    /// The running kernel.
    Kernel,
}

/// What can go wrong between a file and a verdict.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// File.
        path: String,
        /// Reason.
        source: std::io::Error,
    },
    /// The file is no object that can be loaded.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// No program, or more than one, answers to what was asked for.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// The backend cannot be used.
    #[error("{0}")]
    Backend(String),
    /// Maps could not be created, or the program was refused.
    #[error("{object}: {source}")]
    Load {
        /// Object file.
        object: String,
        /// Reason.
        source: LoadError,
    },
    /// A map's entry could not be set or read.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The packet could not be run.
    #[error(transparent)]
    Run(#[from] TestRunError),
}

impl Object {
    /// Opens an object file for the engine.
    ///
    /// # Errors
    ///
    /// [`Error`] if it cannot be read or is no object that can be loaded.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_for(path.as_ref(), Home::Engine)
    }

    /// Opens an object file for a home.
    ///
    /// # Errors
    ///
    /// As [`Object::open`].
    pub fn open_for(path: &Path, home: Home) -> Result<Self, Error> {
        let shown = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|source| Error::Io { path: shown.clone(), source })?;
        let name = path.file_name().map_or(shown, |n| n.to_string_lossy().into_owned());
        Self::parse(&bytes, &name, home)
    }

    /// Parses an object file that is in memory; `name` is for messages.
    ///
    /// # Errors
    ///
    /// As [`Object::open`].
    pub fn parse(bytes: &[u8], name: &str, home: Home) -> Result<Self, Error> {
        Ok(Self { spec: ObjectSpec::parse(bytes, name, &target(home))? })
    }

    /// What the file says.
    #[must_use]
    pub fn spec(&self) -> &ObjectSpec {
        &self.spec
    }

    /// What the file says, to be changed before loading.
    pub fn spec_mut(&mut self) -> &mut ObjectSpec {
        &mut self.spec
    }

    /// Sets a variable of a data section before loading, as `set_variable("limit", 5.into())`.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] if no section has such a variable or the value does not fit it.
    pub fn set_variable(&mut self, name: &str, value: serde_json::Value) -> Result<&mut Self, Error> {
        let key = serde_json::Value::String(name.to_owned());
        let section = MapView::new(&self.spec).section_of(name)?;
        MapView::set_variables(&mut self.spec, vec![Setting { map: section, key, value }])?;
        Ok(self)
    }

    /// Loads a program into the engine: by function or section name, or the only one.
    ///
    /// # Errors
    ///
    /// [`Error`] if there is no such program, or if it or a map is refused.
    pub fn load(&self, program: Option<&str>) -> Result<LoadedProgram, Error> {
        let mut engine =
            backends::engine(&EngineSettings::default()).map_err(|e| Error::Backend(e.to_string()))?;
        self.load_on(&mut *engine, program)
    }

    /// Loads a program on a backend of the caller's.
    ///
    /// # Errors
    ///
    /// As [`Object::load`].
    pub fn load_on(&self, backend: &mut dyn Backend, program: Option<&str>) -> Result<LoadedProgram, Error> {
        let name = self.spec.program(program)?.name.clone();
        let options = LoadOptions {
            programs: vec![name.clone()],
            engine: backends::default_engine(),
            ..LoadOptions::default()
        };
        let loaded = backend
            .load(&self.spec, &options)
            .map_err(|source| Error::Load { object: self.spec.name.clone(), source })?;
        Ok(LoadedProgram { spec: self.spec.clone(), name, loaded, cpus: backend.possible_cpus() })
    }
}

/// A program with its maps, ready to run.
pub struct LoadedProgram {
    spec: ObjectSpec,
    name: String,
    loaded: Box<dyn Loaded>,
    cpus: u32,
}

impl LoadedProgram {
    /// Runs the program over a packet, which it may change.
    ///
    /// # Errors
    ///
    /// [`Error::Run`] for a packet that cannot be run, for example one that is shorter than an Ethernet header.
    pub fn run(&mut self, packet: &mut Packet) -> Result<Verdict, Error> {
        let output = self.loaded.test_run(&self.name, &packet.request())?;
        let metadata = (output.ctx.data as usize).min(output.data.len());
        packet.metadata = output.data[..metadata].to_vec();
        packet.data = output.data[metadata..].to_vec();
        Ok(Verdict(output.retval))
    }

    /// What a map holds, as JSON typed by BTF: a list of `{"key":..., "value":...}`, or the variables of a data
    /// section.
    #[must_use]
    pub fn map(&self, name: &str) -> Option<serde_json::Value> {
        MapView::new(&self.spec).dump(self.loaded.as_ref(), DumpMode::All).remove(name)
    }

    /// Sets a map's entry; key and value are typed by BTF.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] if there is no such map, if a value does not fit, or if the map refuses.
    pub fn set(&self, map: &str, key: serde_json::Value, value: serde_json::Value) -> Result<(), Error> {
        let setting = Setting { map: map.to_owned(), key, value };
        Ok(MapView::new(&self.spec).apply(self.loaded.as_ref(), &[setting], self.cpus)?)
    }
}

/// A packet with what goes with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// Bytes from the Ethernet header on.
    pub data: Vec<u8>,
    /// Metadata before the packet.
    pub metadata: Vec<u8>,
    /// What the clocks say, nanoseconds.
    pub time_ns: u64,
}

impl Packet {
    /// A packet without metadata.
    #[must_use]
    pub fn new(data: &[u8]) -> Self {
        Self { data: data.to_vec(), ..Self::default() }
    }

    fn request(&self) -> TestRun {
        let mut data = self.metadata.clone();
        data.extend(&self.data);
        let ctx = (!self.metadata.is_empty()).then(|| XdpMd {
            data: self.metadata.len() as u32,
            data_end: data.len().min(crate::run::LINEAR_MAX) as u32,
            ..XdpMd::default()
        });
        TestRun { data, ctx, repeat: 1, time_ns: self.time_ns, ..TestRun::default() }
    }
}

/// What a program decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Verdict(pub u32);

impl Verdict {
    /// The action, if the value is one.
    #[must_use]
    pub fn action(self) -> Option<XdpAction> {
        XdpAction::from_raw(self.0)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.action() {
            Some(action) => action.fmt(f),
            None => self.0.fmt(f),
        }
    }
}

impl PartialEq<XdpAction> for Verdict {
    fn eq(&self, other: &XdpAction) -> bool {
        self.0 == *other as u32
    }
}

/// What objects are relocated against.
fn target(home: Home) -> Target {
    let vmlinux = linux::host::vmlinux().ok();
    let has_kernel = vmlinux.is_some() || home == Home::Kernel;
    let mut target = vmlinux.map_or_else(Target::bundled, |btf| Target::new(Some(btf)));
    target.possible_cpus = backends::possible_cpus();
    if has_kernel {
        target.kconfig = Kconfig {
            text: linux::host::kconfig().unwrap_or_default(),
            kernel_version: linux::host::version(),
            ..Target::bundled().kconfig
        };
    }
    target
}
