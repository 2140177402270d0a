//! Values of `__kconfig` variables: from a configuration's text and from what the loader knows itself.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::error::{Outcome, Problem};
use super::externs::config_type;
use super::target::Kconfig;
use crate::btf::{Btf, Kind, TypeId};

/// Most bytes of one variable: the longest line of a configuration that libbpf reads.
const SIZE_MAX: u64 = 4096;

/// A variable that wants a configuration value.
pub(super) struct ConfigVar<'a> {
    pub(super) name: &'a str,
    pub(super) ty: ConfigType,
    pub(super) weak: bool,
    /// Bytes.
    pub(super) size: u32,
    /// Bytes.
    pub(super) align: u32,
    /// In the `.kconfig` map, bytes.
    pub(super) offset: u32,
}

/// What a configuration variable can be (`enum kcfg_type`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ConfigType {
    Bool,
    Char,
    Int { signed: bool },
    Tristate,
    String,
}

impl<'a> ConfigVar<'a> {
    pub(super) fn new(btf: &Btf, id: TypeId, name: &'a str, weak: bool) -> Outcome<Self> {
        let error = || {
            Problem::new(
                "a __kconfig variable must be a bool, char, integer, enum libbpf_tristate or char array",
            )
            .in_section(".kconfig")
        };
        let Kind::Var { ty, .. } = btf.ty(id).kind else { return Err(error()) };
        let kind = config_type(btf, ty).ok_or_else(error)?;
        let size = btf.size_of(ty).filter(|&n| n > 0 && n <= SIZE_MAX).ok_or_else(error)?;
        let align = btf.align_of(ty).ok_or_else(error)?;
        Ok(Self { name, ty: kind, weak, size: size as u32, align: align as u32, offset: 0 })
    }

    /// The order in the map: by falling alignment, rising size, name.
    #[doc(alias = "cmp_externs")]
    pub(super) fn layout_order(&self, other: &Self) -> Ordering {
        (other.align, self.size, self.name).cmp(&(self.align, other.size, other.name))
    }
}

/// Writes the values of `vars` (sorted by name) to the map's bytes. Returns what went wrong, by variable.
#[doc(alias = "bpf_object__resolve_externs")]
pub(super) fn fill(vars: &[&ConfigVar<'_>], config: &Kconfig, data: &mut [u8]) -> BTreeMap<String, Problem> {
    let mut problems = BTreeMap::new();
    let mut set = vec![false; vars.len()];
    for (var, set) in vars.iter().zip(&mut set) {
        let value = match var.name {
            "LINUX_KERNEL_VERSION" => u64::from(config.kernel_version),
            "LINUX_HAS_BPF_COOKIE" => u64::from(config.has_bpf_cookie),
            "LINUX_HAS_SYSCALL_WRAPPER" => u64::from(config.has_syscall_wrapper),
            _ => continue,
        };
        *set = true;
        if let Err(p) = set_number(var, value, data) {
            problems.insert(var.name.to_owned(), p);
        }
    }
    for line in config.text.lines().filter(|l| l.starts_with("CONFIG_")) {
        let Some((name, value)) = line.split_once('=') else { continue };
        let Ok(i) = vars.binary_search_by(|v| v.name.cmp(name)) else { continue };
        if !set[i] {
            set[i] = true;
            if let Err(p) = set_from_text(vars[i], value, data) {
                problems.insert(name.to_owned(), p);
            }
        }
    }
    for (var, _) in vars.iter().zip(set).filter(|(var, set)| !set && !var.weak) {
        problems.insert(var.name.to_owned(), absent(var.name));
    }
    problems
}

fn absent(name: &str) -> Problem {
    Problem::new(if name.starts_with("CONFIG_") {
        "the kernel's configuration does not set it; declare it __weak, or give the configuration with the run"
    } else {
        "no such configuration value; known are CONFIG_*, LINUX_KERNEL_VERSION, LINUX_HAS_BPF_COOKIE and \
         LINUX_HAS_SYSCALL_WRAPPER"
    })
}

fn set_from_text(var: &ConfigVar<'_>, value: &str, data: &mut [u8]) -> Outcome<()> {
    match value.as_bytes().first() {
        Some(&c @ (b'y' | b'n' | b'm')) => set_tristate(var, c, data),
        Some(b'"') => set_string(var, value, data),
        _ => {
            let number = parse_number(value)
                .ok_or_else(|| Problem::new(format!("its value {value:?} is no number of 64 bits")))?;
            if !matches!(var.ty, ConfigType::Int { .. } | ConfigType::Char) {
                return Err(Problem::new(format!("its value {value} needs an integer type")));
            }
            set_number(var, number, data)
        }
    }
}

fn set_tristate(var: &ConfigVar<'_>, c: u8, data: &mut [u8]) -> Outcome<()> {
    let value = match (var.ty, c) {
        (ConfigType::Bool, b'y' | b'n') => u64::from(c == b'y'),
        (ConfigType::Tristate, b'y') => 1,
        (ConfigType::Tristate, b'm') => 2,
        (ConfigType::Tristate, _) => 0,
        (ConfigType::Char, c) => u64::from(c),
        _ => {
            let c = char::from(c);
            return Err(Problem::new(format!(
                "its value {c:?} needs type bool, enum libbpf_tristate or char"
            )));
        }
    };
    store(var, value, data);
    Ok(())
}

/// A string, cut to the array and ended with a zero byte.
fn set_string(var: &ConfigVar<'_>, value: &str, data: &mut [u8]) -> Outcome<()> {
    if var.ty != ConfigType::String {
        return Err(Problem::new(format!("its value {value} needs a char array")));
    }
    let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
    let inner = inner.ok_or_else(|| Problem::new(format!("its value {value} is no whole string")))?;
    let len = inner.len().min(var.size as usize - 1);
    let at = var.offset as usize;
    data[at..at + len].copy_from_slice(&inner.as_bytes()[..len]);
    data[at + len] = 0;
    Ok(())
}

#[doc(alias = "set_kcfg_value_num")]
fn set_number(var: &ConfigVar<'_>, value: u64, data: &mut [u8]) -> Outcome<()> {
    let bits = var.size * 8;
    let fits = match var.ty {
        ConfigType::Bool => value <= 1,
        ConfigType::Int { .. } | ConfigType::Char if bits == 64 => true,
        ConfigType::Int { signed: true } => value.wrapping_add(1 << (bits - 1)) < 1 << bits,
        ConfigType::Int { signed: false } | ConfigType::Char => value >> bits == 0,
        ConfigType::Tristate | ConfigType::String => {
            return Err(Problem::new(format!("its value {value} needs an integer type")));
        }
    };
    if !fits {
        return Err(Problem::new(format!("its value {value} does not fit in {} bytes", var.size)));
    }
    store(var, value, data);
    Ok(())
}

fn store(var: &ConfigVar<'_>, value: u64, data: &mut [u8]) {
    let (at, len) = (var.offset as usize, var.size.min(8) as usize);
    data[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
}

/// A number as `strtoull` with base 0 reads it.
fn parse_number(text: &str) -> Option<u64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let hex = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let number = match hex {
        Some(hex) => u64::from_str_radix(hex, 16),
        None if digits.len() > 1 && digits.starts_with('0') => u64::from_str_radix(digits, 8),
        None => digits.parse(),
    };
    let number = number.ok()?;
    Some(if negative { number.wrapping_neg() } else { number })
}
