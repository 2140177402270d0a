//! What the name of an executable section says about its programs.

use super::spec::{AttachType, SectionKind};

/// The meaning of a section's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SectionMeaning<'a> {
    /// Without a leading `?`.
    pub(super) name: &'a str,
    pub(super) autoload: bool,
    pub(super) kind: SectionKind,
    pub(super) attach_type: AttachType,
    pub(super) frags: bool,
}

/// Whether a section holds subprograms only.
pub(super) fn is_subprograms(section: &str) -> bool {
    section == ".text"
}

/// Reads a name: libbpf's `xdp`, `xdp.frags` and their `/devmap` and `/cpumap` forms with any further
/// `/name`, and the older `xdp_devmap/` and `xdp_cpumap/`.
pub(super) fn read(section: &str) -> SectionMeaning<'_> {
    let (name, autoload) = match section.strip_prefix('?') {
        Some(rest) => (rest, false),
        None => (section, true),
    };
    let mut parts = name.split('/');
    let first = parts.next().unwrap_or("");
    let (kind, frags) = match first {
        "xdp" | "xdp_devmap" | "xdp_cpumap" => (SectionKind::Xdp, false),
        "xdp.frags" => (SectionKind::Xdp, true),
        _ => (SectionKind::Other, false),
    };
    let attach_type = match (kind, first, parts.next()) {
        (SectionKind::Xdp, "xdp_devmap", _) | (SectionKind::Xdp, _, Some("devmap")) => AttachType::Devmap,
        (SectionKind::Xdp, "xdp_cpumap", _) | (SectionKind::Xdp, _, Some("cpumap")) => AttachType::Cpumap,
        _ => AttachType::Xdp,
    };
    SectionMeaning { name, autoload, kind, attach_type, frags }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_libbpf_are_understood() {
        use AttachType::*;
        let cases = [
            ("xdp", SectionKind::Xdp, Xdp, false),
            ("xdp.frags", SectionKind::Xdp, Xdp, true),
            ("xdp/devmap", SectionKind::Xdp, Devmap, false),
            ("xdp/cpumap", SectionKind::Xdp, Cpumap, false),
            ("xdp.frags/devmap", SectionKind::Xdp, Devmap, true),
            ("xdp.frags/cpumap", SectionKind::Xdp, Cpumap, true),
            ("xdp/anything", SectionKind::Xdp, Xdp, false),
            ("xdp.frags/anything", SectionKind::Xdp, Xdp, true),
            ("xdp_devmap/egress", SectionKind::Xdp, Devmap, false),
            ("xdp_sock", SectionKind::Other, Xdp, false),
            ("xdpx", SectionKind::Other, Xdp, false),
            ("tc", SectionKind::Other, Xdp, false),
            ("prog", SectionKind::Other, Xdp, false),
        ];
        for (name, kind, attach_type, frags) in cases {
            let meaning = SectionMeaning { name, autoload: true, kind, attach_type, frags };
            assert_eq!(read(name), meaning);
            let optional = format!("?{name}");
            assert_eq!(read(&optional), SectionMeaning { autoload: false, ..meaning });
        }
    }
}
