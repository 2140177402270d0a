//! A host that answers what a test told it to, and a run in it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use mem::{Frag, Frame, RxqInfo, XdpBuff};
use uapi::Errno;

use crate::helpers::Timers;
use crate::host::*;
use crate::insn::Insn;
use crate::kfuncs::Conntrack;
use crate::maps::{Map, MapContext, MapDef};
use crate::object::ProgramSpec;
use crate::redirect::RedirectInfo;
use crate::vm::{Program, RegionKind, Run, Scratch, Symbols};

const RXQ: RxqInfo = RxqInfo { ifindex: 1, queue_index: 0, mem_type: 0, frag_size: 4096 };

/// A host of fixed answers.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) time_ns: u64,
    pub(crate) random: u32,
    pub(crate) cpu: u32,
    pub(crate) script: Vec<(i32, u64)>,
    /// What the host was told.
    pub(crate) log: Rc<RefCell<Vec<String>>>,
    pub(crate) devices: Vec<DeviceInfo>,
    pub(crate) fib: Option<FibAnswer>,
    pub(crate) sockets: Vec<Arc<Socket>>,
    pub(crate) syncookies: SynCookiePolicy,
    pub(crate) timers: Option<Arc<Timers>>,
    pub(crate) conntrack: Option<Arc<Conntrack>>,
    pub(crate) xfrm: Option<XfrmState>,
}

impl Host for World {
    fn ktime_ns(&mut self, _: Clock) -> u64 {
        self.time_ns
    }

    fn prandom_u32(&mut self) -> u32 {
        self.random
    }

    fn cpu(&self) -> u32 {
        self.cpu
    }

    fn task(&self) -> Task {
        let mut task = Task { pid: 6, tgid: 5, uid: 7, gid: 8, cgroup_id: 99, ..Task::default() };
        task.comm[..7].copy_from_slice(b"softirq");
        task
    }

    fn scripted(&mut self, helper: i32) -> Option<u64> {
        let at = self.script.iter().position(|(id, _)| *id == helper)?;
        Some(self.script.remove(at).1)
    }

    fn answered(&mut self, helper: i32, value: u64) {
        self.log.borrow_mut().push(format!("answered {helper} {value}"));
    }

    fn device(&self, ifindex: u32) -> Option<DeviceInfo> {
        self.devices.iter().find(|d| d.ifindex == ifindex).copied()
    }

    fn fib_lookup(&mut self, query: &FibQuery) -> Result<FibAnswer, Errno> {
        self.log.borrow_mut().push(format!("{query:?}"));
        self.fib.ok_or(Errno::ENODEV)
    }

    fn socket_lookup(&mut self, query: &SocketQuery) -> Option<Arc<Socket>> {
        self.log.borrow_mut().push(format!("{query:?}"));
        self.sockets.iter().find(|s| s.protocol == query.protocol && s.local == query.dst).cloned()
    }

    fn socket_listener(&mut self, request: &Socket) -> Option<Arc<Socket>> {
        self.sockets.iter().find(|s| s.state == tcp_state::LISTEN && s.local == request.local).cloned()
    }

    fn syncookie_policy(&self, _: u64) -> SynCookiePolicy {
        self.syncookies
    }

    fn syncookie_sent(&mut self, socket: u64) {
        self.log.borrow_mut().push(format!("cookie of {socket}"));
    }

    fn timers(&self) -> Option<Arc<Timers>> {
        self.timers.clone()
    }

    fn conntrack(&self) -> Option<Arc<Conntrack>> {
        self.conntrack.clone()
    }

    fn xfrm_state(&mut self, query: &XfrmQuery) -> Result<Option<XfrmState>, Errno> {
        Ok(self.xfrm.filter(|state| state.answers(query)))
    }

    fn event(&mut self, event: Event<'_>) -> Result<(), Errno> {
        self.log.borrow_mut().push(format!("{event:?}"));
        Ok(())
    }
}

/// Runs a test as a helper of a program over a packet of `size` bytes, byte `i` being `i`.
pub(crate) fn with_run(size: usize, world: World, test: impl FnOnce(&mut Run<'_, '_>)) {
    let insns = vec![Insn::new(0xb7, 0, 0, 0, 2), Insn::new(0x95, 0, 0, 0, 0)];
    with_program(insns, &[], size, world, test);
}

/// As [`with_run`], as a helper of a program with maps.
pub(crate) fn with_maps(defs: &[MapDef], world: World, test: impl FnOnce(&mut Run<'_, '_>, &[u64])) {
    let insns = vec![Insn::new(0xb7, 0, 0, 0, 2), Insn::new(0x95, 0, 0, 0, 0)];
    with_program(insns, &maps(defs), 64, world, |run| {
        let program = run.program();
        let addrs: Vec<_> =
            program.maps().iter().map(|map| run.memory.expose_map(map).expect("room")).collect();
        test(run, &addrs);
    });
}

/// Maps with numbers from 1 for four CPUs.
pub(crate) fn maps(defs: &[MapDef]) -> Vec<Arc<Map>> {
    let create = |(i, def): (usize, &MapDef)| {
        let context = MapContext { id: i as u32 + 1, cpus: 4, ..MapContext::default() };
        Map::create(def.clone(), &context).expect("correct")
    };
    defs.iter().enumerate().map(create).collect()
}

/// Runs a test as a helper of this program.
pub(crate) fn with_program(
    insns: Vec<Insn>,
    maps: &[Arc<Map>],
    size: usize,
    mut world: World,
    test: impl FnOnce(&mut Run<'_, '_>),
) {
    let symbols = Symbols { helper: crate::helpers::helper, kfunc: crate::kfuncs::kfunc };
    let program = Arc::new(Program::link(&ProgramSpec::bare("p", insns), 1, maps, symbols).expect("links"));
    let mut buff = XdpBuff::new(Frame::new(4096), 256, size, &RXQ).expect("fits");
    let bytes: Vec<u8> = (0..size).map(|i| i as u8).collect();
    buff.linear().copy_from(0, &bytes);
    let (mut scratch, mut redirect, guard) = (Scratch::new(), RedirectInfo::default(), mem::epoch::pin());
    test(&mut Run::checked(&program, &guard, &mut scratch, &mut buff, &mut redirect, &mut world));
}

/// Gives the program memory.
pub(crate) fn give(run: &mut Run<'_, '_>, bytes: &[u8]) -> u64 {
    run.memory.own(RegionKind::Object("test"), bytes, true).expect("room")
}

/// Adds fragments of these sizes to the packet, whose bytes go on counting.
pub(crate) fn add_frags(run: &mut Run<'_, '_>, sizes: &[u32]) {
    run.with_buff(|buff| {
        for size in sizes {
            let (frame, at) = (Frame::new(4096), buff.buff_len());
            (0..*size as usize).for_each(|i| frame.bytes().write_u8(i, (at + i) as u8));
            buff.push_frag(Frag::new(frame, 0, *size).expect("fits")).expect("few");
        }
    });
}

/// Calls a kfunc, which does not fault.
#[track_caller]
pub(crate) fn kcall(run: &mut Run<'_, '_>, name: &str, args: [u64; 5]) -> u64 {
    let kfunc = crate::kfuncs::kfunc(name).expect("a kfunc");
    kfunc(run, args).unwrap_or_else(|fault| panic!("{name}: {fault}"))
}

/// Calls a helper, which does not fault.
#[track_caller]
pub(crate) fn call(run: &mut Run<'_, '_>, id: i32, args: [u64; 5]) -> u64 {
    let helper = crate::helpers::helper(id).expect("a helper");
    helper(run, args).unwrap_or_else(|fault| panic!("helper {id}: {fault}"))
}
