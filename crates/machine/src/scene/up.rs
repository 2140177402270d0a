//! A scene that is up: generators send, and each CPU is a thread that runs the same softirqs and cpumap threads as
//! the seeded loop, in real time, until somebody stops it.

mod cpu;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use control::scene::{Scene, SceneError};
use mem::Depot;
use xdp::redirect::CpuQueue;
use xdp::{Devices, DropReason, TraceEvent};

use super::{EngineScene, home};
use crate::NetTables;
use cpu::{Cpu, Feed};

/// How a scene is up.
pub struct UpOptions<'a> {
    /// Time between two reports.
    pub interval: Duration,
    /// How long; `None` until it is stopped.
    pub duration: Option<Duration>,
    /// Whether events of batches and errors are counted as well.
    pub extended: bool,
    /// Set when it is to end.
    pub stop: &'a AtomicBool,
    /// Called first by the thread of each CPU, which keeps what it answers: to pin it.
    pub enter: &'a (dyn Fn(u32) -> Box<dyn Any> + Sync),
}

/// What happened in an interval, or in all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpCounts {
    /// Packets that generators handed to their devices.
    pub generated: u64,
    /// Packets that devices received with a program or with GRO.
    pub rx: u64,
    /// Packets that programs of devices dropped.
    pub program_drop: u64,
    /// Packets that programs redirected.
    pub redirect: u64,
    /// Packets that programs answered `XDP_TX` to.
    pub tx: u64,
    /// Frames that devices took from others, generators left out.
    pub xmit: u64,
    /// Packets that reached the stack.
    pub stack: u64,
    /// Packets that ended, by reason.
    pub drops: BTreeMap<DropReason, u64>,
    /// Receiving devices: packets, drops of the program, redirects.
    pub devices: BTreeMap<String, [u64; 3]>,
    /// What tracepoints tell, if asked for.
    pub events: EventCounts,
}

/// What tracepoints tell.
#[allow(missing_docs, reason = "the names are those of the tracepoints' fields")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounts {
    pub exceptions: u64,
    pub devmap_xmit: u64,
    pub devmap_drops: u64,
    pub devmap_errors: u64,
    pub devmap_batches: u64,
    pub enqueue: u64,
    pub enqueue_drops: u64,
    pub enqueue_batches: u64,
    pub kthread: u64,
    pub kthread_drops: u64,
    pub kthread_sched: u64,
    pub kthread_pass: u64,
    pub kthread_drop: u64,
    pub kthread_redirect: u64,
}

impl EventCounts {
    fn event(&mut self, event: &TraceEvent) {
        match *event {
            TraceEvent::XdpException { .. } => self.exceptions += 1,
            TraceEvent::XdpDevmapXmit { drops, sent, err, .. } => {
                self.devmap_xmit += u64::from(sent);
                self.devmap_drops += u64::from(drops);
                self.devmap_errors += u64::from(err != 0);
                self.devmap_batches += 1;
            }
            TraceEvent::XdpCpumapEnqueue { drops, processed, .. } => {
                self.enqueue += u64::from(processed - drops);
                self.enqueue_drops += u64::from(drops);
                self.enqueue_batches += 1;
            }
            TraceEvent::XdpCpumapKthread {
                drops,
                processed,
                sched,
                xdp_pass,
                xdp_drop,
                xdp_redirect,
                ..
            } => {
                self.kthread += u64::from(processed);
                self.kthread_drops += u64::from(drops);
                self.kthread_sched += u64::from(sched);
                self.kthread_pass += u64::from(xdp_pass);
                self.kthread_drop += u64::from(xdp_drop);
                self.kthread_redirect += u64::from(xdp_redirect);
            }
            _ => {}
        }
    }

    fn fields(&mut self) -> [&mut u64; 14] {
        [
            &mut self.exceptions,
            &mut self.devmap_xmit,
            &mut self.devmap_drops,
            &mut self.devmap_errors,
            &mut self.devmap_batches,
            &mut self.enqueue,
            &mut self.enqueue_drops,
            &mut self.enqueue_batches,
            &mut self.kthread,
            &mut self.kthread_drops,
            &mut self.kthread_sched,
            &mut self.kthread_pass,
            &mut self.kthread_drop,
            &mut self.kthread_redirect,
        ]
    }

    fn combine(&mut self, mut other: Self, f: fn(u64, u64) -> u64) {
        for (mine, theirs) in self.fields().into_iter().zip(other.fields()) {
            *mine = f(*mine, *theirs);
        }
    }
}

impl UpCounts {
    /// Packets that ended other than by a program's answer: errors, full rings, whatever [`DropReason`] has.
    #[must_use]
    pub fn errors(&self) -> u64 {
        let wanted = [DropReason::ProgramDrop, DropReason::EgressDrop, DropReason::CpumapDrop];
        self.drops.iter().filter(|(reason, _)| !wanted.contains(reason)).map(|(_, n)| n).sum()
    }

    /// What happened since `before`.
    fn since(&self, before: &Self) -> Self {
        let mut events = self.events;
        events.combine(before.events, |now, then| now - then);
        let old = |reason: &DropReason| before.drops.get(reason).copied().unwrap_or(0);
        let device = |(name, now): (&String, &[u64; 3])| {
            let then = before.devices.get(name).copied().unwrap_or_default();
            (name.clone(), std::array::from_fn(|i| now[i] - then[i]))
        };
        Self {
            generated: self.generated - before.generated,
            rx: self.rx - before.rx,
            program_drop: self.program_drop - before.program_drop,
            redirect: self.redirect - before.redirect,
            tx: self.tx - before.tx,
            xmit: self.xmit - before.xmit,
            stack: self.stack - before.stack,
            drops: self.drops.iter().map(|(r, n)| (*r, n - old(r))).filter(|(_, n)| *n > 0).collect(),
            devices: self.devices.iter().map(device).collect(),
            events,
        }
    }
}

/// A report.
#[derive(Clone, Debug)]
pub struct UpReport {
    /// Time since the start.
    pub at: Duration,
    /// Length of the interval.
    pub interval: Duration,
    /// What happened in it.
    pub counts: UpCounts,
}

/// How it ended.
#[derive(Clone, Debug)]
pub struct UpEnd {
    /// How long it was up.
    pub elapsed: Duration,
    /// All that happened.
    pub counts: UpCounts,
    /// Packets that went missing, or were in two places: not 0 is an error of the engine.
    pub lost: i64,
}

/// What the threads share.
struct Shared<'a> {
    devices: &'a Devices,
    net: Arc<NetTables>,
    depot: Arc<Depot>,
    stop: &'a AtomicBool,
    extended: bool,
    started: Instant,
    /// Threads of cpumap entries that another CPU has woken.
    woken: Vec<Mutex<Vec<Arc<CpuQueue>>>>,
    /// CPUs whose generators are not done.
    feeding: AtomicUsize,
    counts: Vec<Mutex<CpuCounts>>,
}

/// What one CPU counts itself.
#[derive(Clone, Default)]
struct CpuCounts {
    generated: u64,
    stack: u64,
    drops: BTreeMap<DropReason, u64>,
    events: EventCounts,
    /// Pages that were taken and did not come back.
    held: i64,
}

impl EngineScene {
    /// Runs the scene's generators on one thread for each CPU until it is stopped, its time is over, or all
    /// generators have made their packets. `report` is called after each interval.
    ///
    /// # Errors
    ///
    /// If the scene has no generator.
    pub fn up(
        &mut self,
        scene: &Scene,
        options: &UpOptions<'_>,
        report: &mut dyn FnMut(&UpReport),
    ) -> Result<UpEnd, SceneError> {
        if scene.generators.is_empty() {
            let example = "[[generator]] device = \"a\" packet = \"eth 02::1 > 02::2, len 60\" rate = 1000";
            return Err(home(format!(
                "the scene has no generator, so nothing would happen; for example: {example}"
            )));
        }
        let mut feeds: Vec<Vec<Feed>> = (0..scene.cpus).map(|_| Vec::new()).collect();
        for generator in &scene.generators {
            feeds[generator.cpu as usize]
                .push(Feed::new(self.ifindex(&generator.device)?, &generator.traffic));
        }
        let cpus = scene.cpus as usize;
        let shared = Shared {
            devices: &self.machine.devices,
            net: self.machine.host.net().clone(),
            depot: Arc::default(),
            stop: options.stop,
            extended: options.extended,
            started: Instant::now(),
            woken: (0..cpus).map(|_| Mutex::default()).collect(),
            feeding: AtomicUsize::new(cpus),
            counts: (0..cpus).map(|_| Mutex::default()).collect(),
        };
        let waiting = shared.waiting();
        let ends = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (cpu, feeds) in (0..).zip(feeds) {
                let shared = &shared;
                threads.push(scope.spawn(move || {
                    let _held = (options.enter)(cpu);
                    Cpu::new(cpu, shared, feeds).run();
                }));
            }
            watch(&shared, options, report);
            shared.stop.store(true, Relaxed);
            threads.into_iter().map(std::thread::ScopedJoinHandle::join).all(|end| end.is_ok())
        });
        if !ends {
            return Err(home("a CPU's thread panicked"));
        }
        let held: i64 = shared.counts.iter().map(|c| lock(c).held).sum();
        let lost = held - (shared.waiting() as i64 - waiting as i64);
        Ok(UpEnd { elapsed: shared.started.elapsed(), counts: shared.counts(), lost })
    }
}

/// Reports until it is over.
fn watch(shared: &Shared<'_>, options: &UpOptions<'_>, report: &mut dyn FnMut(&UpReport)) {
    const LOOK: Duration = Duration::from_millis(5);
    let over = || {
        let time = options.duration.is_some_and(|most| shared.started.elapsed() >= most);
        time || shared.stop.load(Relaxed) || shared.feeding.load(Relaxed) == 0
    };
    let (mut before, mut last) = (shared.counts(), Duration::ZERO);
    loop {
        let due = last + options.interval;
        while shared.started.elapsed() < due && !over() {
            std::thread::sleep(LOOK.min(due.saturating_sub(shared.started.elapsed())));
        }
        let (at, now) = (shared.started.elapsed(), shared.counts());
        // What is left of an interval at the end is a report of its own if it is worth one.
        if at - last >= options.interval / 2 {
            report(&UpReport { at, interval: at - last, counts: now.since(&before) });
        }
        (before, last) = (now, at);
        if over() {
            return;
        }
    }
}

impl Shared<'_> {
    fn waiting(&self) -> u64 {
        self.devices.all().iter().map(|d| d.waiting_frames()).sum()
    }

    /// All counts up to now.
    fn counts(&self) -> UpCounts {
        let mut all = UpCounts::default();
        for cpu in &self.counts {
            let cpu = lock(cpu).clone();
            all.generated += cpu.generated;
            all.stack += cpu.stack;
            all.events.combine(cpu.events, |a, b| a + b);
            for (reason, n) in cpu.drops {
                *all.drops.entry(reason).or_default() += n;
            }
        }
        let mut xmit = 0;
        for device in self.devices.all() {
            let mut stats = Vec::new();
            device.ethtool_stats(&mut stats);
            let sum = |end: &str| -> u64 {
                stats
                    .iter()
                    .filter(|(name, _)| name.starts_with("rx") && name.ends_with(end))
                    .map(|(_, n)| n)
                    .sum()
            };
            let (rx, drops, redirect) = (sum("_xdp_packets"), sum("_xdp_drops"), sum("_xdp_redirect"));
            all.rx += rx;
            all.program_drop += drops;
            all.redirect += redirect;
            all.tx += sum("_xdp_tx");
            xmit += stats
                .iter()
                .filter(|(n, _)| n.starts_with("tx_queue") && n.ends_with("_xdp_xmit"))
                .map(|s| s.1)
                .sum::<u64>();
            all.devices.insert(device.core().name.clone(), [rx, drops, redirect]);
        }
        // Generators hand frames over as redirects do.
        all.xmit = xmit.saturating_sub(all.generated);
        all
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
