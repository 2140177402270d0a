//! Maps: storage that programs and user space share, with the kernel's error codes.

use uapi::Errno;
use uapi::bpf::MapType;

/// What a map is created from: [`crate::object::MapSpec`] without names of the object's sections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapDef {
    /// Name as `bpf_map_info` shows it.
    pub name: String,
    /// `enum bpf_map_type`.
    pub map_type: MapType,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Entries; bytes for ring buffers.
    pub max_entries: u32,
    /// `BPF_F_*` of map creation.
    pub map_flags: u32,
    /// Type-specific extra value.
    pub map_extra: u64,
    /// Template of inner maps.
    pub inner: Option<Box<MapDef>>,
}

/// A map.
#[derive(Debug)]
pub struct Map {
    def: MapDef,
    id: u32,
}

impl Map {
    /// What it was created from.
    #[must_use]
    pub fn def(&self) -> &MapDef {
        &self.def
    }

    /// Its number, unique within a host.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Creates a map.
    ///
    /// # Errors
    ///
    /// The errno of `BPF_MAP_CREATE`.
    pub fn create(def: MapDef, id: u32) -> Result<Self, Errno> {
        Ok(Self { def, id })
    }
}
