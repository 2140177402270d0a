//! Which fields of the kernel's structs there are here: [`check`].

use super::{conntrack, xfrm};
use crate::btf::{Btf, TypeId};

/// A struct that functions give out: its size on the kernel that is the reference, and what programs find
/// in it, from and to.
struct Served {
    name: &'static str,
    size: usize,
    fields: &'static [(i32, i32)],
}

/// `timeout`, `zone`, both tuples, `status`, `mark`.
const CONNECTION: &[(i32, i32)] = &[(8, 16), (32, 72), (88, 128), (128, 136), (168, 172)];

const SERVED: &[Served] = &[
    Served { name: "nf_conn", size: conntrack::NF_CONN_SIZE, fields: CONNECTION },
    Served { name: "nf_conn___init", size: conntrack::NF_CONN_SIZE, fields: CONNECTION },
    // `id`, `mark` and `if_id`, `km.state`, `props` but for algorithms and lengths, `replay`.
    Served {
        name: "xfrm_state",
        size: xfrm::SIZE,
        fields: &[(116, 140), (196, 208), (232, 233), (248, 254), (258, 276), (468, 480)],
    },
    Served { name: "xdp_buff", size: 56, fields: &[(0, 40), (48, 56)] },
    // All but the device.
    Served { name: "xdp_rxq_info", size: 64, fields: &[(8, 64)] },
];

/// Checks that a program finds what it reads or writes `size` bytes of at an offset of a struct of the
/// kernel's.
///
/// # Errors
///
/// Why it does not.
pub(crate) fn check(btf: &Btf, id: TypeId, off: i32, size: i32) -> Result<(), String> {
    let name = btf.name_of(id);
    let Some(served) = SERVED.iter().find(|served| served.name == name) else { return Ok(()) };
    if btf.size_of(id) != Some(served.size as u64) {
        return Err(format!("struct {name} is not as large here as in this kernel"));
    }
    if served.fields.iter().any(|(from, to)| *from <= off && off + size <= *to) {
        return Ok(());
    }
    let members = btf.ty(id).kind.members();
    let member = members.iter().rfind(|m| (m.bit_offset / 8) as i32 <= off);
    let member = member.map_or_else(String::new, |m| format!(" ({})", btf.str(m.name)));
    Err(format!("there is nothing here at offset {off} of struct {name}{member}"))
}
