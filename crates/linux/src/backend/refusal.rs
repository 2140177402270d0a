//! In words, what the kernel refuses in numbers, and what to do about it.

use bpf::object::MapSpec;
use control::LoadError;
use uapi::Errno;
use uapi::bpf::MapType;

use crate::sys::{Capabilities, Capability, ProgError, memlock_limit};

/// Without these nothing of an XDP object can be loaded.
const NEEDED: [Capability; 2] = [Capability::Bpf, Capability::NetAdmin];

/// Says which capability is missing, before anything is tried.
pub(super) fn check_capabilities() -> Result<(), LoadError> {
    match missing(&NEEDED) {
        Some(missing) => Err(LoadError::Unavailable(format!(
            "the running kernel cannot be used: {missing}. Run as root, or grant cap_bpf,cap_net_admin,\
             cap_perfmon to this program with setcap"
        ))),
        None => Ok(()),
    }
}

/// Why not even the smallest map can be made although the capabilities are there.
pub(super) fn unavailable(errno: Errno) -> LoadError {
    let why = match errno {
        Errno::ENOSYS => "it is built without CONFIG_BPF_SYSCALL".to_owned(),
        Errno::EPERM => match memlock_limit() {
            Some(limit) => format!(
                "bpf(2) is not permitted. The capabilities of a user namespace do not count, a security \
                 module may forbid it, and before Linux 5.11 RLIMIT_MEMLOCK (now {limit} bytes) must be raised"
            ),
            None => "bpf(2) is not permitted. The capabilities of a user namespace do not count, and a \
                     security module may forbid it"
                .to_owned(),
        },
        other => format!("bpf(2) fails with {other}"),
    };
    LoadError::Unavailable(format!("the running kernel cannot be used: {why}"))
}

/// A program that was asked for is not in the object.
pub(super) fn no_program(name: &str) -> LoadError {
    LoadError::Program {
        program: name.to_owned(),
        errno: Errno::ENOENT,
        reason: "no program of this name is in the object".to_owned(),
        log: String::new(),
    }
}

/// A map was refused.
pub(super) fn map(spec: &MapSpec, errno: Errno) -> LoadError {
    let what = format!(
        "{} with key {}, value {}, entries {}, flags {:#x}",
        spec.map_type.name(),
        spec.key_size,
        spec.value_size,
        spec.max_entries,
        spec.map_flags
    );
    let hint = match errno {
        Errno::EPERM => missing(&NEEDED).unwrap_or_else(|| "bpf(2) is not permitted".to_owned()),
        Errno::E2BIG => "a size is larger than the kernel allows".to_owned(),
        Errno::ENOMEM => "the kernel has no memory for it".to_owned(),
        Errno::EINVAL if spec.map_type == MapType::Ringbuf => {
            "a ring buffer's size must be a power of two of pages, without key and value".to_owned()
        }
        Errno::EINVAL => "the kernel does not take these sizes and flags for this type".to_owned(),
        Errno::ENOTSUPP => "the kernel does not support this combination".to_owned(),
        _ => "the kernel refuses it".to_owned(),
    };
    LoadError::Map { map: spec.name.clone(), errno, reason: format!("{what}: {errno}: {hint}") }
}

/// What a `.values` initialiser names cannot be stored.
pub(super) fn slot(spec: &MapSpec, key: u32, what: &str, errno: Errno) -> LoadError {
    let hint = match errno {
        Errno::EINVAL if spec.map_type == MapType::ProgArray => {
            ": its type, attach type or frags flag is not that of the other programs which use the map"
        }
        Errno::EINVAL => ": it is not like the map's template for inner maps",
        Errno::E2BIG => ": the map has no such key",
        _ => "",
    };
    let reason = format!("{what} cannot be stored under key {key}: {errno}{hint}");
    LoadError::Map { map: spec.name.clone(), errno, reason }
}

/// Something that a program refers to is not in this kernel.
pub(super) fn unresolved(program: &str, reason: String) -> LoadError {
    LoadError::Program { program: program.to_owned(), errno: Errno::ENOENT, reason, log: String::new() }
}

/// A program was refused.
pub(super) fn program(name: &str, refused: ProgError) -> LoadError {
    let ProgError { errno, log } = refused;
    let mut reason = match verdict(&log) {
        Some(sentence) => format!("the kernel's verifier refuses it ({errno}): {sentence}"),
        None => format!("the kernel refuses it: {errno}: {}", hint_without_log(errno)),
    };
    if errno != Errno::EPERM
        && let Some(missing) = missing(&[Capability::Perfmon])
    {
        reason.push_str(&format!(" ({missing}: without it some helpers and pointer operations are refused)"));
    }
    LoadError::Program { program: name.to_owned(), errno, reason, log }
}

fn hint_without_log(errno: Errno) -> String {
    match errno {
        Errno::EPERM => missing(&NEEDED).unwrap_or_else(|| "bpf(2) is not permitted".to_owned()),
        Errno::E2BIG => "it has too many instructions".to_owned(),
        Errno::EINVAL => "attach type, flags or licence are not accepted".to_owned(),
        Errno::EBADF => "it refers to a map that does not exist".to_owned(),
        _ => "no reason given".to_owned(),
    }
}

/// Which of some capabilities are not effective; `None` if all are.
fn missing(needed: &[Capability]) -> Option<String> {
    let have = Capabilities::effective().ok()?;
    let names: Vec<&str> = needed.iter().filter(|c| !have.has(**c)).map(|c| c.name()).collect();
    match names.as_slice() {
        [] => None,
        [one] => Some(format!("{one} is missing")),
        many => Some(format!("{} are missing", many.join(" and "))),
    }
}

/// The verifier's last words and the source line that they are about.
fn verdict(log: &str) -> Option<String> {
    let lines: Vec<&str> = log.lines().map(str::trim_end).filter(|l| !is_statistics(l)).collect();
    let sentence = lines.last()?;
    let source = lines.iter().rev().find_map(|l| l.strip_prefix("; "));
    Some(match source {
        Some(source) if source != *sentence => format!("{sentence}, at: {source}"),
        _ => (*sentence).to_owned(),
    })
}

fn is_statistics(line: &str) -> bool {
    line.is_empty()
        || line.starts_with("processed ")
        || line.starts_with("verification time ")
        || line.starts_with("stack depth ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "0: R1=ctx() R10=fp0\n; return *(__u16 *)data; @ x.c:12\n\
        1: (61) r2 = *(u32 *)(r1 +0)          ; R1=ctx() R2_w=pkt(r=0)\n\
        invalid access to packet, off=0 size=2, R2(id=0,off=0,r=0)\n\
        R2 offset is outside of the packet\n\
        processed 3 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0\n";

    #[test]
    fn the_verdict_is_the_last_sentence_with_its_source_line() {
        let expected = "R2 offset is outside of the packet, at: return *(__u16 *)data; @ x.c:12";
        assert_eq!(verdict(LOG).as_deref(), Some(expected));
        assert_eq!(verdict(""), None);
        assert_eq!(verdict("processed 0 insns (limit 1000000)\n"), None);
    }

    #[test]
    fn the_whole_log_is_kept() {
        let refused = ProgError { errno: Errno::EACCES, log: LOG.to_owned() };
        let LoadError::Program { log, reason, .. } = program("p", refused) else { panic!() };
        assert_eq!(log, LOG);
        assert!(reason.contains("EACCES"), "{reason}");
    }
}
