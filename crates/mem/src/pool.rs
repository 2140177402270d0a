//! [`ElementPool`]: which elements of a slab are free, per CPU, and which of them readers may still see.

use std::collections::VecDeque;

use crate::epoch::{Domain, Stamp};
use crate::sync::atomic::{AtomicU32, Ordering::*};
use crate::{CachePadded, SpinLock};

/// Elements beyond a map's capacity, at least, per CPU. An update of a key that exists takes one and gives
/// the old element back; it comes free again when the poll is over, and a poll has 64 packets.
const MIN_SURPLUS_PER_CPU: u32 = 128;

/// Elements beyond a map's capacity at most, and bytes for them at most. They are only touched when readers
/// lag behind: one that loses its processor for some milliseconds while others update millions of times a
/// second still finds all as it was.
const MAX_SURPLUS: u32 = 1 << 16;
const MAX_SURPLUS_BYTES: u64 = 32 << 20;

/// Retired elements that a CPU lets come together before it looks whether readers are done with them.
const SCAN_EVERY: u32 = 64;

/// Stamps that a CPU keeps apart; what comes in while there are more waits for the last one.
const MAX_BATCHES: usize = 32;

/// An element taken from the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken {
    /// Number of the element.
    pub index: u32,
    /// Whether readers may still look at it: its bytes may be overwritten, as the kernel overwrites those of
    /// a preallocated element at once, but whoever reads its key at the same time must notice.
    pub seen: bool,
}

/// Free elements, numbered `0..capacity + surplus`.
///
/// *Capacity* is counted in tokens, apart from elements: who adds a key takes a token and an element, who
/// replaces a value takes an element alone. So a full map is full to the entry, as in the kernel, however
/// many elements wait for their readers. There are always more elements than tokens. When every one of
/// the surplus waits for readers, the one that has waited longest is given out again although its readers
/// may not be done ([`Taken::seen`]; whether they are is asked every so many times only): the kernel reuses preallocated elements at once, so a program must
/// expect that, and waiting is not possible inside a poll.
///
/// Each CPU has its own lists and takes from the others' when they are empty. Elements that were used
/// lately are given out first, because they are in the cache.
#[derive(Debug)]
pub struct ElementPool {
    cpus: Box<[CachePadded<SpinLock<Local>>]>,
    /// Elements that have never been used start here, so a new map touches no memory.
    fresh: AtomicU32,
    total: u32,
}

#[derive(Debug, Default)]
struct Local {
    tokens: u32,
    free: Vec<u32>,
    /// Retired elements, oldest first: `ready` that no reader sees, then `stamped` of `batches`, then the rest,
    /// which are not stamped yet.
    limbo: VecDeque<u32>,
    ready: usize,
    stamped: usize,
    batches: VecDeque<(Stamp, usize)>,
    since_scan: u32,
}

impl ElementPool {
    /// A pool with room for `capacity` keys and elements of this many bytes; `None` if they cannot be counted
    /// in 32 bits.
    ///
    /// # Panics
    ///
    /// If `cpus` is 0.
    #[must_use]
    pub fn new(capacity: u32, bytes: usize, cpus: u32) -> Option<Self> {
        assert!(cpus > 0, "there is at least one CPU");
        let most = (MAX_SURPLUS_BYTES / bytes.max(1) as u64).min(MAX_SURPLUS.into()) as u32;
        Self::with_surplus(capacity, most.max(MIN_SURPLUS_PER_CPU.checked_mul(cpus)?), cpus)
    }

    pub(crate) fn with_surplus(capacity: u32, surplus: u32, cpus: u32) -> Option<Self> {
        let total = capacity.checked_add(surplus)?;
        let share = |cpu| capacity / cpus + u32::from(cpu < capacity % cpus);
        let cpus = (0..cpus)
            .map(|cpu| CachePadded(SpinLock::new(Local { tokens: share(cpu), ..Local::default() })))
            .collect();
        Some(Self { cpus, fresh: AtomicU32::new(0), total })
    }

    /// Elements that the slab of this pool must have.
    #[must_use]
    pub fn elements(&self) -> u32 {
        self.total
    }

    #[inline]
    fn local(&self, cpu: u32) -> &SpinLock<Local> {
        let cpu = cpu as usize;
        // A division takes longer than all the rest.
        &self.cpus[if cpu < self.cpus.len() { cpu } else { cpu % self.cpus.len() }].0
    }

    /// All CPUs, this one first.
    fn from(&self, cpu: u32) -> impl Iterator<Item = &SpinLock<Local>> {
        let n = self.cpus.len();
        (0..n).map(move |i| &self.cpus[(cpu as usize + i) % n].0)
    }

    /// Takes the right to one more key; `false` if the capacity is used up.
    #[must_use]
    pub fn take_token(&self, cpu: u32) -> bool {
        self.from(cpu).enumerate().any(|(i, local)| {
            let got = local.with(|l| {
                // From another CPU half of what it has, so that this is rare.
                let got = if i == 0 { l.tokens.min(1) } else { l.tokens.div_ceil(2) };
                l.tokens -= got;
                got
            });
            if got > 1 {
                self.local(cpu).with(|l| l.tokens += got - 1);
            }
            got > 0
        })
    }

    /// Gives back the right to a key.
    #[inline]
    pub fn give_token(&self, cpu: u32) {
        self.local(cpu).with(|l| l.tokens += 1);
    }

    /// Takes an element.
    #[inline]
    pub fn take(&self, cpu: u32, domain: &Domain) -> Taken {
        let own = self.local(cpu).with(|l| l.take(self.is_used_up(), domain));
        own.unwrap_or_else(|| self.take_elsewhere(cpu, domain))
    }

    /// [`ElementPool::take_token`] and [`ElementPool::take`] in one; `None` if the capacity is used up.
    #[must_use]
    #[inline]
    pub fn take_with_token(&self, cpu: u32, domain: &Domain) -> Option<Taken> {
        let (token, own) = self.local(cpu).with(|l| match l.tokens.checked_sub(1) {
            Some(left) => {
                l.tokens = left;
                (true, l.take(self.is_used_up(), domain))
            }
            None => (false, None),
        });
        if own.is_some() {
            return own;
        }
        (token || self.take_token(cpu)).then(|| self.take_elsewhere(cpu, domain))
    }

    /// Takes an element for `swap`, which puts it in the place of `old`, out of sight of new readers, and gives
    /// the old one back: [`ElementPool::take`] and [`ElementPool::retire`] in one. `swap` must not use the pool.
    #[inline]
    pub fn exchange(&self, cpu: u32, domain: &Domain, old: u32, swap: impl FnOnce(Taken)) {
        let mut swap = Some(swap);
        self.local(cpu).with(|l| {
            if let Some(taken) = l.take(self.is_used_up(), domain) {
                swap.take().into_iter().for_each(|swap| swap(taken));
                l.retire(old);
            }
        });
        if let Some(swap) = swap {
            swap(self.take_elsewhere(cpu, domain));
            self.retire(cpu, old);
        }
    }

    /// Whether every element has been given out at least once.
    #[inline]
    fn is_used_up(&self) -> bool {
        self.fresh.load(Relaxed) >= self.total
    }

    #[inline(never)]
    fn take_elsewhere(&self, cpu: u32, domain: &Domain) -> Taken {
        match self.take_fresh() {
            Some(index) => Taken { index, seen: false },
            None => self.take_hard(cpu, domain),
        }
    }

    fn take_fresh(&self) -> Option<u32> {
        if self.is_used_up() {
            return None;
        }
        let index = self.fresh.fetch_add(1, Relaxed);
        if index < self.total {
            return Some(index);
        }
        // Others were faster; do not let the counter run round.
        self.fresh.store(self.total, Relaxed);
        None
    }

    #[cold]
    fn take_hard(&self, cpu: u32, domain: &Domain) -> Taken {
        loop {
            for local in self.from(cpu) {
                let unseen = local.with(|l| {
                    l.pop_ready().or_else(|| l.free.pop()).or_else(|| {
                        l.scan(domain);
                        l.pop_ready()
                    })
                });
                if let Some(index) = unseen {
                    return Taken { index, seen: false };
                }
            }
            for local in self.from(cpu) {
                if let Some(index) = local.with(Local::pop_oldest) {
                    return Taken { index, seen: true };
                }
            }
            // All spares are in the hands of other threads in the middle of an update.
            crate::sync::give_way();
        }
    }

    /// Gives back an element that readers may still see; it must be out of sight for new ones.
    #[inline]
    pub fn retire(&self, cpu: u32, index: u32) {
        self.local(cpu).with(|l| l.retire(index));
    }

    /// [`ElementPool::retire`] and [`ElementPool::give_token`] in one.
    #[inline]
    pub fn retire_with_token(&self, cpu: u32, index: u32) {
        self.local(cpu).with(|l| {
            l.tokens += 1;
            l.retire(index);
        });
    }

    /// Gives back an element that no reader has seen since it was taken, and was not `seen` before.
    pub fn put_back(&self, cpu: u32, taken: Taken) {
        self.local(cpu).with(|l| if taken.seen { l.retire(taken.index) } else { l.free.push(taken.index) });
    }
}

impl Local {
    /// An element of this CPU's, if it has one; `used_up` says that no fresh ones are left.
    #[inline]
    fn take(&mut self, used_up: bool, domain: &Domain) -> Option<Taken> {
        let due = self.since_scan >= SCAN_EVERY;
        if due {
            self.scan(domain);
        }
        if let Some(index) = self.pop_ready().or_else(|| self.free.pop()) {
            return Some(Taken { index, seen: false });
        }
        // Between two scans nothing of its own comes free, and the one before has looked at the other CPUs.
        let patient = used_up && !due && self.limbo.len() > SCAN_EVERY as usize;
        let index = if patient { self.pop_oldest() } else { None };
        index.map(|index| Taken { index, seen: true })
    }

    #[inline]
    fn retire(&mut self, index: u32) {
        self.limbo.push_back(index);
        self.since_scan += 1;
    }

    #[inline]
    fn pop_ready(&mut self) -> Option<u32> {
        self.ready = self.ready.checked_sub(1)?;
        self.limbo.pop_front()
    }

    /// The one that has waited longest, whether readers are done or not.
    fn pop_oldest(&mut self) -> Option<u32> {
        let index = self.limbo.pop_front()?;
        if self.ready > 0 {
            self.ready -= 1;
        } else if let Some((_, n)) = self.batches.front_mut() {
            *n -= 1;
            self.stamped -= 1;
            if *n == 0 {
                self.batches.pop_front();
            }
        }
        Some(index)
    }

    /// Stamps what came in and finds what readers are done with.
    #[inline(never)]
    fn scan(&mut self, domain: &Domain) {
        self.since_scan = 0;
        let fresh = self.limbo.len() - self.ready - self.stamped;
        if fresh > 0 {
            let stamp = domain.stamp();
            self.stamped += fresh;
            let many = self.batches.len() >= MAX_BATCHES;
            match self.batches.back_mut().filter(|_| many) {
                Some(last) => *last = (stamp, last.1 + fresh),
                None => self.batches.push_back((stamp, fresh)),
            }
        }
        if self.batches.is_empty() {
            return;
        }
        let oldest = domain.oldest();
        while let Some((stamp, n)) = self.batches.front().copied() {
            if stamp >= oldest {
                break;
            }
            self.ready += n;
            self.stamped -= n;
            self.batches.pop_front();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
