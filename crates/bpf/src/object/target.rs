//! What the home of a program offers: types to relocate against, kernel symbols, configuration, CPUs.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::btf::Btf;

/// The home that an object is prepared for.
#[derive(Clone, Debug)]
pub struct Target {
    /// The kernel's types. `None`: no type exists there, so CO-RE relocations other than "does it exist"
    /// poison their instructions.
    pub btf: Option<Arc<Btf>>,
    /// Kernel functions (kfuncs) that programs may call or ask for.
    pub functions: Symbols,
    /// Kernel variables that programs may take the address of.
    pub variables: Symbols,
    /// Values of `__kconfig` variables.
    pub kconfig: Kconfig,
    /// Possible CPUs: the entries of a perf event array that does not say how many it wants.
    pub possible_cpus: u32,
    /// Bytes of a page: ring buffers are rounded up to a power of two of them.
    pub page_size: u32,
}

/// Which kernel symbols exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Symbols {
    /// Unknown as yet: every reference is kept, and the home resolves it (weak ones may be absent).
    #[default]
    Later,
    /// Those that [`Target::btf`] has with a compatible type, as libbpf decides.
    Btf,
    /// These names.
    Only(BTreeSet<String>),
}

/// Configuration that programs can see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kconfig {
    /// Text of `/proc/config.gz`, unpacked: lines `CONFIG_NAME=value`. Earlier lines win.
    pub text: String,
    /// `LINUX_KERNEL_VERSION` (`KERNEL_VERSION(6, 18, 0)` is `0x061200`).
    pub kernel_version: u32,
    /// `LINUX_HAS_BPF_COOKIE`.
    pub has_bpf_cookie: bool,
    /// `LINUX_HAS_SYSCALL_WRAPPER`.
    pub has_syscall_wrapper: bool,
}

impl Target {
    /// A home with these types, where symbols are resolved later and nothing is configured.
    #[must_use]
    pub fn new(btf: Option<Arc<Btf>>) -> Self {
        Self {
            btf,
            functions: Symbols::Later,
            variables: Symbols::Later,
            kconfig: Kconfig::default(),
            possible_cpus: 1,
            page_size: 4096,
        }
    }

    /// A home without a kernel of its own: the bundled description of the types of Linux 6.18 that an XDP
    /// program can see.
    #[must_use]
    pub fn bundled() -> Self {
        let kconfig = Kconfig {
            kernel_version: 0x0006_1200,
            has_bpf_cookie: true,
            has_syscall_wrapper: true,
            ..Kconfig::default()
        };
        Self { kconfig, ..Self::new(Some(super::bundled::btf())) }
    }
}
