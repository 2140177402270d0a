//! [`Owner`]: which programs may be together in a map.

use uapi::bpf::MapType;

use super::{Kind, Map};
use crate::object::AttachType;
use crate::vm::Program;

/// What all programs in a map of programs, and all that use it, have in common.
///
/// Kernel: `include/linux/bpf.h struct bpf_map_owner, v6.18`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Owner {
    frags: bool,
    compiled: bool,
    attach_type: Option<AttachType>,
}

impl Map {
    /// Whether a program may be put into this map, or may use it: the first one decides for all others.
    /// Maps that hold no programs admit all.
    ///
    /// Kernel: `kernel/bpf/core.c bpf_prog_map_compatible, v6.18`
    #[doc(alias = "bpf_prog_map_compatible")]
    pub fn admits(&self, program: &Program) -> bool {
        if !matches!(self.kind, Kind::ProgArray(_) | Kind::Devmap(_) | Kind::DevmapHash(_) | Kind::Cpumap(_))
        {
            return true;
        }
        // Devmaps hold programs of another attach type than those that use them.
        let by_attach_type = self.def.map_type == MapType::ProgArray;
        let wanted = Owner {
            frags: program.has_frags(),
            compiled: program.compiled().is_some(),
            attach_type: by_attach_type.then(|| program.attach_type()),
        };
        let mut owner = self.owner.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *owner.get_or_insert(wanted) == wanted
    }
}
