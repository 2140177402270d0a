//! [`SeededHost`]: a world around programs in which everything follows from a seed and a clock that is set.

use std::collections::{BTreeSet, VecDeque};
use std::hash::Hasher;
use std::sync::Arc;

use bpf::helpers::Timers;
use bpf::host::{
    Clock, DeviceInfo, Event, FibAnswer, FibQuery, HZ, Host, Secret, Socket, SocketQuery, SynCookiePolicy,
    Task, XfrmQuery, XfrmState,
};
use bpf::kfuncs::{Connection, Conntrack};
use control::ScriptedCall;
use siphasher::sip::SipHasher24;
use uapi::Errno;

use crate::NetTables;

/// Events that are kept for user space; what comes after is lost, as in a full ring.
pub const MAX_EVENTS: usize = 1 << 16;

/// A host without a clock of its own: time is what it was set to, random numbers come from the seed,
/// the network from tables. The same host and the same packets give the same runs.
#[derive(Debug)]
pub struct SeededHost {
    random: u64,
    secrets: [u64; 2],
    time_ns: u64,
    cpu: u32,
    task: Task,
    net: Arc<NetTables>,
    timers: Arc<Timers>,
    conntrack: Arc<Conntrack>,
    /// Listeners that have answered with SYN cookies.
    overflowed: BTreeSet<u64>,
    events: VecDeque<HostEvent>,
    lost_events: u64,
    script: Option<VecDeque<ScriptedCall>>,
    calls: Vec<ScriptedCall>,
    off_script: u64,
}

/// What a program sent to user space, other than by maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// A line of `bpf_trace_printk`.
    Trace(String),
    /// A sample for a perf event array.
    Perf {
        /// The map's number.
        map_id: u32,
        /// CPU of the ring.
        cpu: u32,
        /// Sample.
        data: Vec<u8>,
    },
}

impl SeededHost {
    /// A host of this seed and network, at time 0 on CPU 0.
    #[must_use]
    pub fn new(seed: u64, net: Arc<NetTables>) -> Self {
        let mut random = seed;
        let secrets = [splitmix64(&mut random), splitmix64(&mut random)];
        let conntrack = Arc::new(net.conntrack());
        Self {
            random,
            secrets,
            time_ns: 0,
            cpu: 0,
            task: idle_task(),
            net,
            timers: Arc::default(),
            conntrack,
            overflowed: BTreeSet::new(),
            events: VecDeque::new(),
            lost_events: 0,
            script: None,
            calls: Vec::new(),
            off_script: 0,
        }
    }

    /// Sets all clocks, nanoseconds.
    pub fn set_time_ns(&mut self, time_ns: u64) {
        self.time_ns = time_ns;
    }

    /// What the clocks say, nanoseconds.
    #[must_use]
    pub fn time_ns(&self) -> u64 {
        self.time_ns
    }

    /// Sets the CPU that programs run on.
    pub fn set_cpu(&mut self, cpu: u32) {
        self.cpu = cpu;
    }

    /// Sets the task that programs interrupt.
    pub fn set_task(&mut self, task: Task) {
        self.task = task;
    }

    /// The network.
    #[must_use]
    pub fn net(&self) -> &Arc<NetTables> {
        &self.net
    }

    /// Replaces the network.
    pub fn set_net(&mut self, net: Arc<NetTables>) {
        self.conntrack = Arc::new(net.conntrack());
        self.net = net;
        self.overflowed.clear();
    }

    /// Begins a recording: calls of nondeterministic helpers are answered from the script as far as it
    /// goes and names the same helpers, or by the host itself without one.
    pub fn begin(&mut self, script: Option<Vec<ScriptedCall>>) {
        self.script = script.map(VecDeque::from);
        self.calls.clear();
        self.off_script = 0;
    }

    /// Ends the recording: the calls that were answered (all of them, or those that the script answered),
    /// and how many the script had no answer for.
    pub fn end(&mut self) -> (Vec<ScriptedCall>, u64) {
        self.script = None;
        (std::mem::take(&mut self.calls), std::mem::take(&mut self.off_script))
    }

    /// What programs sent since the last call.
    pub fn take_events(&mut self) -> Vec<HostEvent> {
        self.events.drain(..).collect()
    }

    /// The connections that are tracked now.
    #[must_use]
    pub fn connections(&self) -> Vec<Connection> {
        let ticks = self.time_ns / (1_000_000_000 / HZ);
        self.conntrack.connections(ticks as u32)
    }

    /// Events that were lost for want of room.
    #[must_use]
    pub fn lost_events(&self) -> u64 {
        self.lost_events
    }
}

impl Host for SeededHost {
    fn ktime_ns(&mut self, clock: Clock) -> u64 {
        const TICK_NS: u64 = 1_000_000_000 / HZ;
        match clock {
            Clock::Coarse => self.time_ns - self.time_ns % TICK_NS,
            Clock::Monotonic | Clock::Boottime | Clock::Tai => self.time_ns,
        }
    }

    fn prandom_u32(&mut self) -> u32 {
        (splitmix64(&mut self.random) >> 32) as u32
    }

    fn secret(&self, which: Secret) -> [u64; 2] {
        [0, 1].map(|half| {
            let mut hasher = SipHasher24::new_with_keys(self.secrets[0], self.secrets[1]);
            hasher.write(&[which as u8, half]);
            hasher.finish()
        })
    }

    fn cpu(&self) -> u32 {
        self.cpu
    }

    fn task(&self) -> Task {
        self.task
    }

    fn scripted(&mut self, helper: i32) -> Option<u64> {
        let script = self.script.as_mut()?;
        match script.front().filter(|call| call.helper == helper).copied() {
            Some(call) => {
                script.pop_front();
                self.calls.push(call);
                Some(call.value)
            }
            None => {
                self.off_script += 1;
                None
            }
        }
    }

    fn answered(&mut self, helper: i32, value: u64) {
        if self.script.is_none() {
            self.calls.push(ScriptedCall { helper, value });
        }
    }

    fn device(&self, ifindex: u32) -> Option<DeviceInfo> {
        self.net.device(ifindex)
    }

    fn fib_lookup(&mut self, query: &FibQuery) -> Result<FibAnswer, Errno> {
        self.net.fib_lookup(query)
    }

    fn socket_lookup(&mut self, query: &SocketQuery) -> Option<Arc<Socket>> {
        self.net.socket_lookup(query)
    }

    fn socket_listener(&mut self, request: &Socket) -> Option<Arc<Socket>> {
        self.net.socket_listener(request)
    }

    fn syncookie_policy(&self, socket: u64) -> SynCookiePolicy {
        let policy = self.net.syncookie_policy(socket);
        let recent_overflow = policy.recent_overflow || self.overflowed.contains(&socket);
        SynCookiePolicy { recent_overflow, ..policy }
    }

    fn syncookie_sent(&mut self, socket: u64) {
        self.overflowed.insert(socket);
    }

    fn timers(&self) -> Option<Arc<Timers>> {
        Some(self.timers.clone())
    }

    fn conntrack(&self) -> Option<Arc<Conntrack>> {
        Some(self.conntrack.clone())
    }

    fn xfrm_state(&mut self, query: &XfrmQuery) -> Result<Option<XfrmState>, Errno> {
        self.net.xfrm_state(query)
    }

    fn event(&mut self, event: Event<'_>) -> Result<(), Errno> {
        if self.events.len() == MAX_EVENTS {
            self.lost_events += 1;
            return Err(Errno::ENOSPC);
        }
        self.events.push_back(match event {
            Event::Trace(line) => HostEvent::Trace(line.to_owned()),
            Event::PerfSample { map_id, cpu, data } => HostEvent::Perf { map_id, cpu, data: data.to_vec() },
        });
        Ok(())
    }
}

/// The task that runs when nothing else does.
fn idle_task() -> Task {
    let mut task = Task { cgroup_id: 1, ..Task::default() };
    task.comm[..9].copy_from_slice(b"swapper/0");
    task
}

/// The next of a sequence of evenly distributed numbers (Steele, Lea and Flood 2014).
pub(crate) fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(seed: u64) -> SeededHost {
        SeededHost::new(seed, Arc::default())
    }

    #[test]
    fn everything_follows_from_the_seed() {
        let numbers = |seed| {
            let mut host = host(seed);
            let random: Vec<u32> = (0..8).map(|_| host.prandom_u32()).collect();
            (random, host.secret(Secret::SynCookie4), host.secret(Secret::SynCookie6))
        };
        assert_eq!(numbers(1), numbers(1));
        assert_ne!(numbers(1), numbers(2));
        let (_, a, b) = numbers(1);
        assert_ne!(a, b);
    }

    #[test]
    fn clocks_stand_where_they_are_set() {
        let mut host = host(0);
        host.set_time_ns(10_000_001);
        assert_eq!(host.ktime_ns(Clock::Monotonic), 10_000_001);
        assert_eq!(host.ktime_ns(Clock::Coarse), 8_000_000);
        assert_eq!(host.jiffies64(), 2);
    }

    #[test]
    fn a_script_answers_as_long_as_it_fits() {
        let mut host = host(0);
        let call = |helper, value| ScriptedCall { helper, value };
        host.begin(Some(vec![call(5, 50), call(7, 70)]));
        assert_eq!(
            [host.scripted(5), host.scripted(8), host.scripted(7), host.scripted(7)],
            [Some(50), None, Some(70), None]
        );
        host.answered(8, 1);
        assert_eq!(host.end(), (vec![call(5, 50), call(7, 70)], 2));
        host.begin(None);
        assert_eq!(host.scripted(5), None);
        host.answered(5, 9);
        assert_eq!(host.end(), (vec![call(5, 9)], 0));
    }

    #[test]
    fn events_are_bounded() {
        let mut host = host(0);
        for _ in 0..MAX_EVENTS {
            host.event(Event::Trace("x")).expect("room");
        }
        assert_eq!(host.event(Event::Trace("x")), Err(Errno::ENOSPC));
        assert_eq!((host.take_events().len(), host.lost_events()), (MAX_EVENTS, 1));
        assert!(host.event(Event::Trace("x")).is_ok());
    }
}
