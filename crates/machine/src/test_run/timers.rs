//! Running the timers of a host whose time is set, not passing.

use bpf::helpers::DueTimer;
use bpf::host::Host;
use bpf::redirect::RedirectInfo;
use bpf::vm::{Fault, RegionKind, Run};
use mem::{Frame, RxqInfo, XdpBuff, epoch};

use super::Runner;
use crate::{NetTables, SeededHost};

/// Callbacks of one step of time. More are timers that start themselves anew without a delay.
const MAX_CALLBACKS: u64 = 1 << 20;

/// Callbacks see no packet, but a run has one.
const NO_PACKET: RxqInfo =
    RxqInfo { ifindex: NetTables::LOOPBACK, queue_index: 0, mem_type: 0, frag_size: 0 };

impl Runner {
    /// Lets time pass: runs the callbacks of all timers that are due until then, each at its own time, and
    /// answers how many there were.
    ///
    /// # Errors
    ///
    /// What a callback did that it may not do, or that timers never come to rest.
    pub fn run_timers(&mut self, host: &mut SeededHost, until_ns: u64) -> Result<u64, Fault> {
        let Some(timers) = host.timers() else { return Ok(0) };
        let mut ran = 0;
        while let Some(next) = timers.next_deadlines().map(|(_, at)| at).min().filter(|at| *at <= until_ns) {
            host.set_time_ns(next.max(host.time_ns()));
            while let Some(due) = timers.take_due(|clock| host.ktime_ns(clock)) {
                let result = self.run_timer(host, &due);
                timers.finish(due.id);
                result?;
                ran += 1;
                if ran == MAX_CALLBACKS {
                    return Err(Fault::illegal("timers start themselves anew without a delay"));
                }
            }
        }
        host.set_time_ns(until_ns);
        Ok(ran)
    }

    /// Calls the function of a timer with map, key and value.
    fn run_timer(&mut self, host: &mut SeededHost, due: &DueTimer) -> Result<(), Fault> {
        let guard = epoch::pin();
        let cpu = host.cpu();
        let Some(value) = due.map.lookup(&guard, cpu, &due.key) else { return Ok(()) };
        let frame = self.frame.take().unwrap_or_else(|| Frame::new(super::PAGE_SIZE));
        let buff = XdpBuff::new(frame, uapi::xdp::XDP_PACKET_HEADROOM, 0, &NO_PACKET);
        let mut buff = buff.map_err(|e| Fault::illegal(format!("no room for a timer: {e}")))?;
        let mut redirect = RedirectInfo::default();
        let program = due.callback.program();
        let mut run = Run::checked(program, &guard, &mut self.scratch, &mut buff, &mut redirect, host);
        if let Some(fuel) = self.fuel {
            run = run.with_fuel(fuel);
        }
        let map = run.memory.expose_map(&due.map)?;
        let key = run.memory.own(RegionKind::MapKey(due.map.id()), &due.key, false)?;
        let value = run.expose(RegionKind::MapValue(due.map.id()), value, true)?;
        let result = run.execute_callback(&due.callback, [map, key, value, 0, 0]);
        drop(run);
        self.frame = Some(buff.into_frame());
        result.map(|_| ())
    }
}
