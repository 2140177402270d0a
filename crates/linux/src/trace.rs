//! [`XdpTrace`]: the kernel's XDP tracepoints, for some programs, maps and devices.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::{fs, io};

use crate::sys::Tracefs;

/// What is listened to: the tracepoints fire for everybody's programs on the machine.
#[derive(Clone, Debug, Default)]
pub struct TraceFilter {
    /// Numbers of programs.
    pub programs: Vec<u32>,
    /// Numbers of maps.
    pub maps: Vec<u32>,
    /// Numbers of devices; two network namespaces may have devices of the same number.
    pub devices: Vec<u32>,
}

/// Tracepoints that are on until the value goes, in a buffer of their own.
#[derive(Debug)]
pub struct XdpTrace {
    instance: PathBuf,
    _mount: Tracefs,
}

impl XdpTrace {
    /// Turns the tracepoints on.
    ///
    /// # Errors
    ///
    /// What the tracing file system says.
    pub fn new(filter: &TraceFilter) -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let mount = Tracefs::mount().map_err(|e| io::Error::other(format!("tracefs: {e}")))?;
        let name = format!("earlybird-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let instance = mount.path().join("instances").join(name);
        fs::create_dir(&instance)?;
        let trace = Self { instance, _mount: mount };
        let any = |field: &str, ids: &[u32]| {
            let terms: Vec<_> = ids.iter().map(|id| format!("{field}=={id}")).collect();
            terms.join("||")
        };
        let (programs, maps) = (any("prog_id", &filter.programs), any("map_id", &filter.maps));
        let devices = any("ifindex", &filter.devices);
        trace.enable("xdp_exception", &programs)?;
        trace.enable("xdp_redirect", &programs)?;
        trace.enable("xdp_redirect_err", &programs)?;
        trace.enable("xdp_cpumap_kthread", &maps)?;
        trace.enable("xdp_cpumap_enqueue", &maps)?;
        trace.enable("xdp_bulk_tx", &devices)?;
        trace.enable("xdp_devmap_xmit", &any("to_ifindex", &filter.devices))?;
        Ok(trace)
    }

    /// Turns an event on, if there is something that it may be about.
    fn enable(&self, event: &str, filter: &str) -> io::Result<()> {
        if filter.is_empty() {
            return Ok(());
        }
        let event = self.instance.join("events/xdp").join(event);
        fs::write(event.join("filter"), filter)?;
        fs::write(event.join("enable"), "1")
    }

    /// Events since the last call, the oldest first, without task, CPU and time: `xdp_redirect: prog_id=...`.
    ///
    /// # Errors
    ///
    /// What the tracing file system says.
    pub fn take(&self) -> io::Result<Vec<String>> {
        let path = self.instance.join("trace");
        let text = fs::read_to_string(&path)?;
        // Opening it for writing empties it.
        fs::write(&path, "")?;
        Ok(text.lines().filter(|line| !line.starts_with('#')).filter_map(event_of).collect())
    }
}

impl Drop for XdpTrace {
    fn drop(&mut self) {
        let _ = fs::write(self.instance.join("events/enable"), "0");
        let _ = fs::remove_dir(&self.instance);
    }
}

/// `  <idle>-0  [001] ..s1.  12.345678: xdp_exception: ...` without what stands before the name.
fn event_of(line: &str) -> Option<String> {
    let at = line.find(": xdp_")?;
    Some(line[at + 2..].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{PacketSocket, RouteSocket, XdpRequest};
    use crate::testing::{RawProg, VethPair, load_insns};
    use bpf::Insn;
    use std::os::fd::{AsFd, AsRawFd};

    #[test]
    fn an_event_is_what_follows_the_time() {
        let line =
            "  <idle>-0     [001] ..s1.   12.345678: xdp_exception: prog_id=1 action=ABORTED ifindex=2";
        assert_eq!(event_of(line).unwrap(), "xdp_exception: prog_id=1 action=ABORTED ifindex=2");
        assert_eq!(event_of("CPU:0 [LOST 3 EVENTS]"), None);
    }

    #[test]
    fn the_kernel_traces_an_exception() {
        crate::needs_kernel!();
        let pair = VethPair::new().unwrap();
        let insns = [Insn::new(0xb7, 0, 0, 0, 77), Insn::new(0x95, 0, 0, 0, 0)];
        let (prog, _) = load_insns(&RawProg::xdp(&insns)).unwrap();
        let filter = TraceFilter { programs: vec![prog.id()], ..TraceFilter::default() };
        let trace = XdpTrace::new(&filter).unwrap();
        let attach = XdpRequest { fd: Some(prog.as_fd().as_raw_fd()), flags: Some(4), expected_fd: None };
        pair.netns
            .run(|| {
                RouteSocket::new().unwrap().set_xdp(pair.ifindex1, &attach).unwrap();
                PacketSocket::new().unwrap().send(pair.ifindex0, &[1; 60]).unwrap();
            })
            .unwrap();
        let wanted = format!("xdp_exception: prog_id={} action=0x4d ifindex={}", prog.id(), pair.ifindex1);
        let mut seen = Vec::new();
        for _ in 0..100 {
            seen.extend(trace.take().unwrap());
            if seen.contains(&wanted) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        panic!("{seen:?}");
    }
}
