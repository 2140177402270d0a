//! The ledger: every counter that moves was claimed, and every page is in exactly one place.

use std::collections::BTreeMap;

use xdp::DropReason;

use super::SoftirqLoop;

/// How far counters moved, by name; those that did not are left out.
pub type Moves = BTreeMap<String, u64>;

/// The books do not agree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Counters moved that were not claimed, or the other way round.
    #[error("counters moved: {moved:?}\nclaimed: {claimed:?}\nall that are not zero: {state:#?}")]
    Moved {
        /// What moved.
        moved: Moves,
        /// What was said to move.
        claimed: Moves,
        /// All counters.
        state: Moves,
    },
    /// Pages were lost, or are in two places.
    #[error("{taken} pages are in use, but {found} were found in rings, queues and stacks")]
    Frames {
        /// Pages that were taken from pools and did not come back.
        taken: u64,
        /// Pages that some place says it has.
        found: u64,
    },
}

impl SoftirqLoop {
    /// All counters by name: `DEVICE.NAME` as ethtool has them, `DEVICE.link.NAME`, `drop.REASON`.
    #[must_use]
    pub fn counters(&self) -> Moves {
        let mut all = Moves::new();
        for device in self.devices.all() {
            let name = &device.core().name;
            let mut stats = Vec::new();
            device.ethtool_stats(&mut stats);
            all.extend(stats.into_iter().map(|(k, v)| (format!("{name}.{k}"), v)));
            let link = device.link_stats();
            let link = [
                ("rx_packets", link.rx_packets),
                ("rx_bytes", link.rx_bytes),
                ("rx_dropped", link.rx_dropped),
                ("tx_packets", link.tx_packets),
                ("tx_bytes", link.tx_bytes),
                ("tx_dropped", link.tx_dropped),
            ];
            all.extend(link.map(|(k, v)| (format!("{name}.link.{k}"), v)));
        }
        for reason in DropReason::ALL {
            let n = self.cpus.iter().map(|cpu| cpu.net.drops.get(reason)).sum();
            all.insert(format!("drop.{}", reason.id()), n);
        }
        all
    }

    /// How far counters moved since `before`.
    #[must_use]
    pub fn moves_since(&self, before: &Moves) -> Moves {
        let mut now = self.counters();
        now.retain(|name, n| {
            *n -= before.get(name).copied().unwrap_or(0);
            *n > 0
        });
        now
    }

    /// Checks that exactly the claimed counters moved since `before`, and that no page is lost.
    ///
    /// # Errors
    ///
    /// What does not agree, with all counters.
    pub fn check(&self, before: &Moves, claims: &[(&str, u64)]) -> Result<(), LedgerError> {
        let claimed: Moves = claims.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
        let moved = self.moves_since(before);
        if moved != claimed {
            let mut state = self.counters();
            state.retain(|_, n| *n > 0);
            return Err(LedgerError::Moved { moved, claimed, state });
        }
        self.check_frames()
    }

    /// Checks that every page that is in use is in exactly one ring, queue or stack.
    ///
    /// # Errors
    ///
    /// How many are in use and how many were found.
    pub fn check_frames(&self) -> Result<(), LedgerError> {
        let pools = self.cpus.iter().map(|cpu| cpu.net.pool.stats());
        let (out, back) = pools.fold((0, 0), |(o, b), s| (o + s.taken, b + s.returned));
        let devices: u64 = self.devices.all().iter().map(|d| d.waiting_frames()).sum();
        let contexts: u64 = self.cpus.iter().map(|cpu| cpu.net.held_frames()).sum();
        let queues: u64 = self.queues.iter().filter_map(|q| q.upgrade()).map(|q| q.held_frames()).sum();
        let (taken, found) = (out - back, devices + contexts + queues);
        if taken == found { Ok(()) } else { Err(LedgerError::Frames { taken, found }) }
    }
}
