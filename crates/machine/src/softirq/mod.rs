//! [`SoftirqLoop`]: several CPUs' network softirqs and cpumap threads in one thread, in an order that follows
//! from a seed. The code that runs is the data path's own, which pinned threads run as well.

mod ledger;
#[cfg(test)]
mod tests;

pub use ledger::{LedgerError, Moves};

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use bpf::host::Host;
use mem::{Depot, epoch};
use xdp::redirect::CpuQueue;
use xdp::{Devices, Engine, Native, NetContext, Skb, Softirq, TraceEvent};

use crate::SeededHost;
use crate::host::splitmix64;

/// How to build a loop.
#[derive(Clone, Copy, Debug)]
pub struct LoopConfig {
    /// CPUs.
    pub cpus: u32,
    /// Of the order in which CPUs have their turns.
    pub seed: u64,
    /// Virtual time that one turn takes, nanoseconds.
    pub turn_ns: u64,
}

impl Default for LoopConfig {
    fn default() -> Self {
        Self { cpus: 1, seed: 0, turn_ns: 1000 }
    }
}

/// One CPU.
struct Cpu {
    net: NetContext,
    engine: Box<dyn Engine>,
    /// Threads of cpumap entries that are awake.
    threads: VecDeque<Arc<CpuQueue>>,
}

/// What a turn does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    Softirq(u32),
    Thread(u32),
}

/// A host's CPUs, its devices and the world around, run by one thread.
pub struct SoftirqLoop {
    /// Devices.
    pub devices: Arc<Devices>,
    /// Clock, random numbers, network tables.
    pub host: SeededHost,
    cpus: Vec<Cpu>,
    /// Queues that were ever woken, for the checker.
    queues: Vec<Weak<CpuQueue>>,
    random: u64,
    turn_ns: u64,
}

/// The loop did not come to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("packets still move after {turns} turns; two devices may send them to each other for ever")]
pub struct NotIdle {
    /// Turns that were taken.
    pub turns: u64,
}

impl SoftirqLoop {
    /// A host without devices. All CPUs run compiled programs as such, others in the checked interpreter.
    #[must_use]
    pub fn new(config: LoopConfig, host: SeededHost) -> Self {
        let depot = Arc::new(Depot::default());
        let cpu = |i| Cpu {
            net: NetContext::new(i, depot.clone()),
            engine: Box::<Native>::default(),
            threads: VecDeque::new(),
        };
        Self {
            devices: Arc::default(),
            host,
            cpus: (0..config.cpus.max(1)).map(cpu).collect(),
            queues: Vec::new(),
            random: config.seed,
            turn_ns: config.turn_ns,
        }
    }

    /// CPUs.
    #[must_use]
    pub fn cpus(&self) -> u32 {
        self.cpus.len() as u32
    }

    /// Lets a CPU run programs in another way.
    ///
    /// # Panics
    ///
    /// If there is no such CPU.
    pub fn set_engine(&mut self, cpu: u32, engine: Box<dyn Engine>) {
        self.cpus[cpu as usize].engine = engine;
    }

    /// What a CPU keeps.
    ///
    /// # Panics
    ///
    /// If there is no such CPU.
    pub fn net(&mut self, cpu: u32) -> &mut NetContext {
        &mut self.cpus[cpu as usize].net
    }

    /// Does something on a CPU, as a system call there. What it leaves to softirqs waits for its turn.
    ///
    /// # Panics
    ///
    /// If there is no such CPU.
    pub fn on_cpu<R>(&mut self, cpu: u32, f: impl FnOnce(&mut Softirq<'_>) -> R) -> R {
        self.host.set_cpu(cpu);
        let this = &mut self.cpus[cpu as usize];
        let guard = epoch::pin();
        let host: &mut dyn Host = &mut self.host;
        let result = f(&mut Softirq {
            net: &mut this.net,
            engine: &mut *this.engine,
            host,
            guard: &guard,
            devices: &self.devices,
        });
        drop(guard);
        for queue in std::mem::take(&mut self.cpus[cpu as usize].net.woken) {
            self.queues.retain(|q| q.strong_count() > 0);
            if !self.queues.iter().any(|q| q.as_ptr() == Arc::as_ptr(&queue)) {
                self.queues.push(Arc::downgrade(&queue));
            }
            // Maps take no CPU that does not exist, but maps of another host might.
            let to = queue.cpu as usize % self.cpus.len();
            self.cpus[to].threads.push_back(queue);
        }
        result
    }

    /// Runs a CPU's softirq if it is due, as the end of a system call there does.
    ///
    /// # Panics
    ///
    /// If there is no such CPU.
    pub fn softirq(&mut self, cpu: u32) {
        if self.due(cpu) == Some(Turn::Softirq(cpu)) {
            self.on_cpu(cpu, |cx| cx.net_rx_action());
        }
    }

    /// Takes one turn: a softirq, or one round of a thread, of a CPU that the seed chooses among those that
    /// have something to do. Answers whether there was one.
    pub fn turn(&mut self) -> bool {
        // Counted and gone through again, so that nothing is allocated.
        let count = (0..self.cpus()).filter_map(|cpu| self.due(cpu)).count();
        if count == 0 {
            return false;
        }
        let which = (splitmix64(&mut self.random) % count as u64) as usize;
        let Some(chosen) = (0..self.cpus()).filter_map(|cpu| self.due(cpu)).nth(which) else { return false };
        match chosen {
            Turn::Softirq(cpu) => {
                self.on_cpu(cpu, |cx| cx.net_rx_action());
            }
            Turn::Thread(cpu) => self.thread_round(cpu),
        }
        self.host.set_time_ns(self.host.time_ns() + self.turn_ns);
        true
    }

    /// Softirqs go before threads, as on a real CPU.
    fn due(&self, cpu: u32) -> Option<Turn> {
        let this = &self.cpus[cpu as usize];
        if !this.net.poll_list.is_empty() {
            Some(Turn::Softirq(cpu))
        } else if !this.threads.is_empty() {
            Some(Turn::Thread(cpu))
        } else {
            None
        }
    }

    fn thread_round(&mut self, cpu: u32) {
        let Some(queue) = self.cpus[cpu as usize].threads.pop_front() else { return };
        let again = self.on_cpu(cpu, |cx| {
            cx.net.begin();
            cx.cpu_map_kthread_run(&queue)
        });
        if again {
            self.cpus[cpu as usize].threads.push_back(queue);
        }
    }

    /// Takes turns until nothing is due; answers how many.
    ///
    /// # Errors
    ///
    /// If there is still something to do after `most` turns.
    pub fn settle(&mut self, most: u64) -> Result<u64, NotIdle> {
        for turns in 0..most {
            if !self.turn() {
                return Ok(turns);
            }
        }
        if (0..self.cpus()).all(|cpu| self.due(cpu).is_none()) {
            Ok(most)
        } else {
            Err(NotIdle { turns: most })
        }
    }

    /// Packets that reached the stack of a CPU since the last call. `each` sees them, then their pages are
    /// free again.
    pub fn take_received(&mut self, mut each: impl FnMut(u32, &Skb)) {
        for cpu in 0..self.cpus() {
            let net = &mut self.cpus[cpu as usize].net;
            for skb in std::mem::take(&mut net.received) {
                each(cpu, &skb);
                net.pool.put_packet(skb.packet);
            }
        }
    }

    /// Events of all CPUs since the last call, CPU by CPU.
    pub fn take_events(&mut self) -> Vec<(u32, TraceEvent)> {
        let mut events = Vec::new();
        for (i, cpu) in (0..).zip(&mut self.cpus) {
            events.extend(cpu.net.trace.drain().map(|e| (i, e)));
        }
        events
    }
}
