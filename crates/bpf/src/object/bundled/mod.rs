//! A description of the kernel types that an XDP program can see, for CO-RE on a host without kernel BTF.
//!
//! [`types`] writes them in C's order with C's rules of layout, in a shorter notation: a type, then the
//! members that have it; `*T` is a pointer to struct T; `[n]` an array, `:n` a bit field, `@n` an offset
//! that does not follow from the rules (members in between are left out); `}` may be followed by `=name`.
//! A struct's size stands before its brace where it is larger than its members say. `;` separates types.
//! Helper numbers and map types come from `uapi`. Tests compare all of it with a running 6.18 kernel.

mod layout;
mod types;

use std::sync::{Arc, OnceLock};

use crate::btf::Btf;

/// The bundled types.
pub(super) fn btf() -> Arc<Btf> {
    static BTF: OnceLock<Arc<Btf>> = OnceLock::new();
    BTF.get_or_init(|| Arc::new(layout::build())).clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btf::{BtfKind, Kind, TypeId};

    #[test]
    fn sizes_are_those_of_the_abi() {
        let btf = btf();
        let size = |name| btf.find(name, BtfKind::Struct).and_then(|id| btf.size_of(id));
        let sizes = [
            ("xdp_md", 24),
            ("xdp_buff", 56),
            ("xdp_frame", 40),
            ("xdp_rxq_info", 64),
            ("skb_shared_info", 320),
            ("net_device", 2496),
            ("iphdr", 20),
            ("ipv6hdr", 40),
            ("tcphdr", 20),
            ("bpf_fib_lookup", 64),
            ("bpf_sock_tuple", 36),
        ];
        for (name, bytes) in sizes {
            assert_eq!(size(name), Some(bytes), "{name}");
        }
        assert_eq!(btf.enumerator("XDP_REDIRECT"), Some(4));
        assert_eq!(btf.enumerator("BPF_FUNC_xdp_load_bytes"), Some(189));
        assert_eq!(btf.enumerator("BPF_MAP_TYPE_XSKMAP"), Some(17));
        assert!(Btf::parse(&btf.encode()).is_ok_and(|again| again == *btf));
    }

    #[test]
    fn the_running_kernel_agrees_if_it_is_a_6_18() {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let vmlinux = std::fs::read("/sys/kernel/btf/vmlinux");
        let (true, Ok(vmlinux)) = (release.starts_with("6.18."), vmlinux) else {
            eprintln!("SKIPPED: the running kernel is no 6.18 with BTF");
            return;
        };
        let (ours, theirs) = (btf(), Btf::parse(&vmlinux).unwrap());
        let mut compared = 0;
        for (id, t) in ours.iter().filter(|(_, t)| !t.name.is_empty()) {
            match &t.kind {
                Kind::Struct { .. } if ours.name_of(id) != "possible_net_t" => {
                    let name = ours.name_of(id);
                    let there = theirs.find(name, BtfKind::Struct).unwrap_or_else(|| panic!("{name}"));
                    assert_eq!(ours.size_of(id), theirs.size_of(there), "{name}");
                    compared += compare_members(&ours, id, &theirs, there, name);
                }
                Kind::Enum { values, .. } => {
                    let name = ours.name_of(id);
                    let there = theirs.find(name, BtfKind::Enum).unwrap_or_else(|| panic!("{name}"));
                    let Kind::Enum { values: known, .. } = &theirs.ty(there).kind else { panic!() };
                    for v in values {
                        let same = known
                            .iter()
                            .any(|k| theirs.str(k.name) == ours.str(v.name) && k.value == v.value);
                        assert!(same, "{name} {}", ours.str(v.name));
                        compared += 1;
                    }
                }
                _ => {}
            }
        }
        println!("{compared} members and enumerators are as the running kernel has them");
        assert!(compared > 500);
    }

    /// Compares all named members, also those within anonymous ones and in named inner structs.
    fn compare_members(ours: &Btf, id: TypeId, theirs: &Btf, there: TypeId, path: &str) -> usize {
        let mut compared = 0;
        for m in ours.ty(id).kind.members() {
            if m.name.is_empty() {
                compared += compare_members(ours, m.ty, theirs, there, path);
                continue;
            }
            let name = ours.str(m.name);
            let path = format!("{path}.{name}");
            let found = theirs.member(there, name).unwrap_or_else(|| panic!("{path}"));
            let mine = ours.member(root_of(ours, path.split('.').next().unwrap(), id), name);
            if let Some(mine) = mine.filter(|f| f.parent == id) {
                assert_eq!(mine.member.bitfield_bits, found.member.bitfield_bits, "{path}");
                assert_eq!(mine.bit_offset, found.bit_offset, "{path}");
            }
            assert_eq!(ours.size_of(m.ty), theirs.size_of(found.member.ty), "{path}");
            let (a, b) = (ours.resolved(m.ty), theirs.resolved(found.member.ty));
            let composite = |k: &Kind| matches!(k.tag(), BtfKind::Struct | BtfKind::Union);
            if ours.name_of(m.ty).is_empty() && composite(a) && composite(b) {
                compared += compare_members(ours, m.ty, theirs, found.member.ty, &path);
            }
            compared += 1;
        }
        compared
    }

    /// The struct of a name, or the one at hand if it is nested.
    fn root_of(btf: &Btf, name: &str, at: TypeId) -> TypeId {
        btf.find(name, BtfKind::Struct).unwrap_or(at)
    }
}
