//! Timers in map values: the helpers, and [`Timers`], the host's table of them.

mod table;

use uapi::Errno;

pub use table::{DueTimer, Timers};

use super::{Args, Reply, errno, status};
use crate::host::Clock;
use crate::vm::Run;

/// `sizeof(struct bpf_timer)`. Its first eight bytes hold the timer's number; programs cannot read them.
const TIMER_SIZE: u64 = 16;

/// `BPF_F_TIMER_ABS`: the time is one of the clock's, not from now.
const ABSOLUTE: u64 = 1;
/// `BPF_F_TIMER_CPU_PIN`: the callback runs on the CPU that started the timer.
const CPU_PIN: u64 = 2;

/// Kernel: `kernel/bpf/helpers.c bpf_timer_init, v6.18`
pub(super) fn init(run: &mut Run<'_, '_>, [timer, map, flags, ..]: Args) -> Reply {
    let map = run.map(map)?;
    let field = run.write(timer, TIMER_SIZE)?;
    let clock = match flags {
        // CLOCK_REALTIME, CLOCK_MONOTONIC and CLOCK_BOOTTIME.
        0 => Clock::Tai,
        1 => Clock::Monotonic,
        7 => Clock::Boottime,
        _ => return errno(Errno::EINVAL),
    };
    match run.host.timers() {
        Some(timers) => status(timers.init(field, map, clock)),
        None => errno(Errno::EOPNOTSUPP),
    }
}

/// Kernel: `kernel/bpf/helpers.c bpf_timer_set_callback, v6.18`
pub(super) fn set_callback(run: &mut Run<'_, '_>, [timer, callback, ..]: Args) -> Reply {
    let id = number(run, timer)?;
    let callback = run.callback(callback)?;
    match run.host.timers() {
        Some(timers) => status(timers.set_callback(id, callback)),
        None => errno(Errno::EINVAL),
    }
}

/// Kernel: `kernel/bpf/helpers.c bpf_timer_start, v6.18`
pub(super) fn start(run: &mut Run<'_, '_>, [timer, nsecs, flags, ..]: Args) -> Reply {
    let id = number(run, timer)?;
    if flags & !(ABSOLUTE | CPU_PIN) != 0 {
        return errno(Errno::EINVAL);
    }
    let timers = run.host.timers();
    let Some((timers, clock)) = timers.and_then(|t| t.startable(id).map(|clock| (t, clock))) else {
        return errno(Errno::EINVAL);
    };
    let from = if flags & ABSOLUTE == 0 { run.host.ktime_ns(clock) } else { 0 };
    timers.start(id, from.saturating_add(nsecs));
    Ok(0)
}

/// Answers whether the timer was running.
///
/// Kernel: `kernel/bpf/helpers.c bpf_timer_cancel, v6.18`
pub(super) fn cancel(run: &mut Run<'_, '_>, [timer, ..]: Args) -> Reply {
    let id = number(run, timer)?;
    match run.host.timers().map(|timers| timers.cancel(id)) {
        Some(Ok(was_active)) => Ok(was_active.into()),
        Some(Err(e)) => errno(e),
        None => errno(Errno::EINVAL),
    }
}

fn number(run: &Run<'_, '_>, timer: u64) -> Result<u64, crate::vm::Fault> {
    Ok(run.write(timer, TIMER_SIZE)?.read_u64(0))
}
