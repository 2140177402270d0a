//! [`Timers`]: all timers of a host, and which are due.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use mem::SharedSlice;
use uapi::Errno;

use crate::host::Clock;
use crate::maps::{FieldKind, FreeFields, Map};
use crate::vm::Callback;

/// The clocks that timers go by.
const CLOCKS: [Clock; 3] = [Clock::Monotonic, Clock::Boottime, Clock::Tai];

/// The timers of a host. A timer's number stands in its field of the map's value.
///
/// Nothing here looks at a clock: whoever has one takes out what is due ([`Timers::take_due`]), runs the
/// callback with map, key and value, and says that it is done ([`Timers::finish`]).
///
/// Kernel: `kernel/bpf/helpers.c struct bpf_hrtimer, v6.18`
#[doc(alias = "bpf_hrtimer")]
#[derive(Debug, Default)]
pub struct Timers {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last_id: u64,
    timers: BTreeMap<u64, Timer>,
    /// Deadlines with the timers that have them, by clock.
    queues: [BTreeSet<(u64, u64)>; CLOCKS.len()],
    /// Timers whose callbacks run now.
    running: BTreeSet<u64>,
}

#[derive(Debug)]
struct Timer {
    map: Weak<Map>,
    /// Host address of the value that it is in.
    value: u64,
    clock: usize,
    callback: Option<Callback>,
    deadline: Option<u64>,
}

/// A timer whose time has come.
#[derive(Debug)]
pub struct DueTimer {
    /// Its number.
    pub id: u64,
    /// Function to call with map, key and value.
    pub callback: Callback,
    /// Map that it is in.
    pub map: Arc<Map>,
    /// Key of the value that it is in.
    pub key: Vec<u8>,
    /// When it should have run, nanoseconds of its clock.
    pub deadline_ns: u64,
}

impl Timers {
    /// No timers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a timer in the field of a map's value.
    ///
    /// # Errors
    ///
    /// `EBUSY` if there is one already; `EPERM` if user space has given the map up; `EINVAL` if the map's
    /// values have no timer.
    pub fn init(&self, field: SharedSlice<'_>, map: &Arc<Map>, clock: Clock) -> Result<(), Errno> {
        let mut state = self.state();
        if state.timers.contains_key(&field.read_u64(0)) {
            return Err(Errno::EBUSY);
        }
        if !map.has_user_ref() {
            return Err(Errno::EPERM);
        }
        let offset = map.record().fields().iter().find(|f| f.kind == FieldKind::Timer);
        let value = offset.and_then(|f| field.addr().checked_sub(f.offset.into())).ok_or(Errno::EINVAL)?;
        let clock = CLOCKS.iter().position(|c| *c == clock).ok_or(Errno::EINVAL)?;
        state.last_id += 1;
        let id = state.last_id;
        let timer = Timer { map: Arc::downgrade(map), value, clock, callback: None, deadline: None };
        state.timers.insert(id, timer);
        field.write_u64(0, id);
        Ok(())
    }

    /// Says what a timer calls.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is no such timer; `EPERM` if user space has given its map up.
    pub fn set_callback(&self, id: u64, callback: Callback) -> Result<(), Errno> {
        let mut state = self.state();
        let timer = state.timers.get_mut(&id).ok_or(Errno::EINVAL)?;
        if !timer.map.upgrade().is_some_and(|map| map.has_user_ref()) {
            return Err(Errno::EPERM);
        }
        timer.callback = Some(callback);
        Ok(())
    }

    /// The clock of a timer that has a callback; `None` if it cannot be started.
    #[must_use]
    pub fn startable(&self, id: u64) -> Option<Clock> {
        let state = self.state();
        let timer = state.timers.get(&id)?;
        timer.callback.as_ref().map(|_| CLOCKS[timer.clock])
    }

    /// Starts a timer, or starts it anew.
    pub fn start(&self, id: u64, deadline_ns: u64) {
        let mut state = self.state();
        state.unqueue(id);
        if let Some(timer) = state.timers.get_mut(&id) {
            timer.deadline = Some(deadline_ns);
            let clock = timer.clock;
            state.queues[clock].insert((deadline_ns, id));
        }
    }

    /// Stops a timer and forgets its callback; answers whether it was waiting.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is no such timer; `EDEADLK` if its callback runs now.
    pub fn cancel(&self, id: u64) -> Result<bool, Errno> {
        let mut state = self.state();
        if !state.timers.contains_key(&id) {
            return Err(Errno::EINVAL);
        }
        if state.running.contains(&id) {
            return Err(Errno::EDEADLK);
        }
        let was_active = state.unqueue(id);
        if let Some(timer) = state.timers.get_mut(&id) {
            timer.callback = None;
        }
        Ok(was_active)
    }

    /// The earliest deadline of each clock.
    pub fn next_deadlines(&self) -> impl Iterator<Item = (Clock, u64)> {
        let state = self.state();
        let first = state.queues.each_ref().map(|queue| queue.first().map(|(deadline, _)| *deadline));
        CLOCKS.into_iter().zip(first).filter_map(|(clock, deadline)| Some((clock, deadline?)))
    }

    /// Takes out a timer that is due; it counts as running until [`Timers::finish`].
    pub fn take_due(&self, mut now_ns: impl FnMut(Clock) -> u64) -> Option<DueTimer> {
        let mut state = self.state();
        for (i, clock) in CLOCKS.into_iter().enumerate() {
            let now = now_ns(clock);
            while let Some((deadline_ns, id)) = state.queues[i].first().copied().filter(|(d, _)| *d <= now) {
                state.unqueue(id);
                let Some(timer) = state.timers.get(&id) else { continue };
                let map = timer.map.upgrade();
                // What is in a map that is gone, or has no callback any more, is passed over.
                let key = map.as_ref().and_then(|map| map.key_of(timer.value));
                let (Some(map), Some(callback), Some(key)) = (map, timer.callback.clone(), key) else {
                    continue;
                };
                state.running.insert(id);
                return Some(DueTimer { id, callback, map, key, deadline_ns });
            }
        }
        None
    }

    /// Says that the callback of a timer has returned.
    pub fn finish(&self, id: u64) {
        self.state().running.remove(&id);
    }

    /// Timers that exist.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state().timers.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a map does with timers in values that go. It does not keep the table alive.
    #[must_use]
    pub fn canceller(this: &Arc<Self>) -> Arc<dyn FreeFields> {
        Arc::new(Canceller(Arc::downgrade(this)))
    }
}

impl State {
    /// Answers whether the timer was waiting.
    fn unqueue(&mut self, id: u64) -> bool {
        let Some(timer) = self.timers.get_mut(&id) else { return false };
        let Some(deadline) = timer.deadline.take() else { return false };
        self.queues[timer.clock].remove(&(deadline, id))
    }
}

/// Ends the timers of values that go.
struct Canceller(Weak<Timers>);

impl FreeFields for Canceller {
    /// Kernel: `kernel/bpf/helpers.c bpf_timer_cancel_and_free, v6.18`
    fn free_fields(&self, map: &Map, value: SharedSlice<'_>) {
        let Some(timers) = self.0.upgrade() else { return };
        for field in map.record().fields().iter().filter(|f| f.kind == FieldKind::Timer) {
            let id = value.read_u64(field.offset as usize);
            value.write_u64(field.offset as usize, 0);
            let mut state = timers.state();
            state.unqueue(id);
            state.timers.remove(&id);
        }
    }
}
