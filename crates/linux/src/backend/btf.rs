//! [`KernelBtf`]: the object's type information as the kernel has accepted it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bpf::btf::{Btf, BtfBuilder, Kind, Linkage, TypeId};
use bpf::object::ObjectSpec;
use uapi::bpf::HELPER_NAMES;

use super::script::replaced_helpers;
use crate::sys;

/// Type information in the kernel. Types have the numbers that they have in the object.
#[derive(Debug)]
pub(super) struct KernelBtf {
    fd: OwnedFd,
    /// `FUNC` of the subprogram that stands for each helper that is replaced.
    script_funcs: Vec<(i32, TypeId)>,
}

impl KernelBtf {
    /// Loads the types of an object. An object without types has none, and types that the kernel refuses
    /// cost no more than a warning: only maps and programs that cannot do without will fail.
    pub(super) fn load(spec: &ObjectSpec, scripted: bool, warnings: &mut Vec<String>) -> Option<Self> {
        let btf = spec.btf.as_deref()?;
        let (blob, script_funcs) =
            if scripted { with_script_funcs(btf) } else { (btf.for_kernel(), Vec::new()) };
        match sys::load_btf(&blob) {
            Ok(fd) => Some(Self { fd, script_funcs }),
            Err((errno, log)) => {
                let why = log.trim().lines().last().unwrap_or("no reason given").to_owned();
                warnings
                    .push(format!("the kernel takes no type information of this object ({errno}): {why}"));
                None
            }
        }
    }

    /// `FUNC` of the subprogram that stands for a helper.
    pub(super) fn script_func(&self, helper: i32) -> Option<TypeId> {
        self.script_funcs.iter().find(|(h, _)| *h == helper).map(|(_, id)| *id)
    }
}

impl AsFd for KernelBtf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Appends one `FUNC` per helper that is replaced. They take no parameters as far as their types go: what the
/// caller left in the registers is passed on to the helper, and the verifier looks at those.
fn with_script_funcs(btf: &Btf) -> (Vec<u8>, Vec<(i32, TypeId)>) {
    let mut builder = BtfBuilder::from(btf);
    let long = Kind::Int { size: 8, signed: false, is_char: false, is_bool: false, bit_offset: 0, bits: 64 };
    let long = builder.add("scripted_u64", long);
    let proto = builder.add("", Kind::FuncProto { ret: long, params: Box::new([]) });
    let funcs = replaced_helpers().map(|helper| {
        let name = format!("scripted_{}", HELPER_NAMES[helper as usize]);
        (helper, builder.add(&name, Kind::Func { proto, linkage: Linkage::Static }))
    });
    let funcs = funcs.collect();
    (builder.finish().for_kernel(), funcs)
}
