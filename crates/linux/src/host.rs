//! What the running kernel says about itself: types, symbols, configuration, version.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, OnceLock};

use bpf::btf::Btf;
use bpf::object::{Kconfig, Symbols, Target};

use crate::sys::{page_size, possible_cpus};

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// The kernel's own type information, read once per process.
///
/// # Errors
///
/// Why there is none: a sentence.
pub fn vmlinux() -> Result<Arc<Btf>, String> {
    static BTF: OnceLock<Result<Arc<Btf>, String>> = OnceLock::new();
    BTF.get_or_init(|| {
        let bytes = std::fs::read(VMLINUX)
            .map_err(|e| format!("{VMLINUX}: {e} (a kernel with CONFIG_DEBUG_INFO_BTF has it)"))?;
        Btf::parse(&bytes).map(Arc::new).map_err(|e| format!("{VMLINUX}: {e}"))
    })
    .clone()
}

/// The running kernel as a home to prepare objects for: its types, symbols and configuration. Of a
/// kernel without type information no type is known, and its symbols are found at loading.
#[must_use]
pub fn target() -> Target {
    let kconfig = Kconfig {
        text: kconfig().unwrap_or_default(),
        kernel_version: version(),
        // Linux 5.15 brought cookies; x86-64 has had wrappers of system calls since 4.17.
        has_bpf_cookie: version() >= 0x05_0f00,
        has_syscall_wrapper: symbol_address("__x64_sys_bpf").is_some(),
    };
    let described = match vmlinux() {
        Ok(btf) => Target { functions: Symbols::Btf, variables: Symbols::Btf, ..Target::new(Some(btf)) },
        Err(_) => Target::new(None),
    };
    Target { kconfig, possible_cpus: possible_cpus(), page_size: page_size() as u32, ..described }
}

/// The kernel's configuration, lines `CONFIG_NAME=value`; `None` if it is not to be found.
#[must_use]
pub fn kconfig() -> Option<String> {
    let mut text = String::new();
    if let Ok(file) = File::open("/proc/config.gz") {
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).ok()?;
        return Some(text);
    }
    std::fs::read_to_string(format!("/boot/config-{}", release()?)).ok()
}

/// The version as `LINUX_KERNEL_VERSION` has it: 6.18.44 is `0x06122c`. 0 if unknown.
#[must_use]
pub fn version() -> u32 {
    release().and_then(|r| parse_version(&r)).unwrap_or(0)
}

/// The address of a kernel symbol; `None` if there is none, or addresses are hidden from this process.
#[must_use]
pub fn symbol_address(name: &str) -> Option<u64> {
    let lines = BufReader::new(File::open("/proc/kallsyms").ok()?).lines();
    lines.map_while(Result::ok).find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (address, _kind, symbol) = (words.next()?, words.next()?, words.next()?);
        let address = u64::from_str_radix(address, 16).ok()?;
        (symbol == name && address != 0).then_some(address)
    })
}

fn release() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|r| r.trim().to_owned())
}

/// The third number is cut to 8 bits, as the kernel's own macro does since 4.9.256.
fn parse_version(release: &str) -> Option<u32> {
    let number = release.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    let mut parts = number.split('.').map(|p| p.parse::<u32>().unwrap_or(0));
    let (major, minor) = (parts.next()?, parts.next()?);
    Some(major << 16 | (minor & 0xff) << 8 | parts.next().unwrap_or(0).min(255))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_packed_as_the_kernel_does() {
        assert_eq!(parse_version("6.18.44-fc-v657"), Some(0x06_122c));
        assert_eq!(parse_version("4.19.300"), Some(0x04_13ff));
        assert_eq!(parse_version("6.1-rc1"), Some(0x06_0100));
        assert_eq!(parse_version("x"), None);
    }

    #[test]
    fn the_kernel_describes_itself() {
        assert!(version() >= 0x05_0000);
        if std::path::Path::new(VMLINUX).exists() {
            assert!(vmlinux().unwrap().func("bpf_prog_test_run_xdp").is_some());
        }
        if std::path::Path::new("/proc/config.gz").exists() {
            assert!(kconfig().unwrap().contains("CONFIG_BPF=y"));
        }
    }
}
