//! Loops whose states refer to themselves.
//!
//! A state found equal to one that is still being explored is kept as a back edge of the loop (the
//! strongly connected component) until the loop is left. Only then is it known which registers had
//! to be precise, and that knowledge is carried round the loop until nothing changes.

use super::env::{Env, Res};
use super::state::{State, StateId};

/// Call sites outside of a loop, and the loop's number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct SccChain {
    callsites: [u32; 7],
    scc: u32,
}

/// One way to be in a loop: through one chain of callers.
pub(crate) struct SccVisit {
    chain: SccChain,
    entry: Option<StateId>,
    backedges: Vec<State>,
    counted: u32,
}

/// Rounds over the back edges before all scalars are made precise.
const MAX_BACKEDGE_ITERS: u32 = 64;

impl Env<'_> {
    fn scc_chain(&self, st: &State) -> Option<SccChain> {
        let mut c = SccChain::default();
        for i in 0..=st.curframe() {
            let insn = st.frame_insn_idx(i);
            let scc = self.aux[insn as usize].scc;
            if scc != 0 {
                c.scc = scc;
                return Some(c);
            }
            if i < st.curframe() {
                c.callsites[i] = insn;
            }
        }
        None
    }

    fn scc_find(&self, chain: &SccChain) -> Option<usize> {
        self.scc_visits[chain.scc as usize].iter().position(|v| v.chain == *chain)
    }

    fn chain_text(chain: &SccChain) -> String {
        let mut s = String::from("(");
        for c in chain.callsites.iter().take_while(|c| **c != 0) {
            s.push_str(&format!("{c},"));
        }
        s + &format!("{})", chain.scc)
    }

    /// A new remembered state may be the first of a loop.
    pub(super) fn scc_enter(&mut self, id: StateId) {
        let Some(chain) = self.states[id.0 as usize].as_ref().and_then(|s| self.scc_chain(&s.state)) else {
            return;
        };
        let visits = &mut self.scc_visits[chain.scc as usize];
        let at = visits.iter().position(|v| v.chain == chain).unwrap_or_else(|| {
            visits.push(SccVisit { chain, entry: None, backedges: Vec::new(), counted: 0 });
            visits.len() - 1
        });
        if visits[at].entry.is_none() {
            visits[at].entry = Some(id);
            if self.level2() {
                self.log(format_args!("SCC enter {}\n", Self::chain_text(&chain)));
            }
        }
    }

    /// All paths from a remembered state are done; if it was the first of a loop, the loop is.
    pub(super) fn scc_exit(&mut self, id: StateId) -> Res {
        let Some(chain) = self.states[id.0 as usize].as_ref().and_then(|s| self.scc_chain(&s.state)) else {
            return Ok(());
        };
        let Some(at) = self.scc_find(&chain) else {
            return self
                .bug(format_args!("scc exit: no visit info for call chain {}", Self::chain_text(&chain)));
        };
        let visit = &mut self.scc_visits[chain.scc as usize][at];
        if visit.entry != Some(id) {
            return Ok(());
        }
        visit.entry = None;
        self.num_backedges -= std::mem::take(&mut visit.counted);
        let mut edges = std::mem::take(&mut visit.backedges);
        if self.level2() {
            self.log(format_args!("SCC exit {}\n", Self::chain_text(&chain)));
        }
        self.update_peak_states();
        self.propagate_backedges(&mut edges)?;
        self.spare.append(&mut edges);
        Ok(())
    }

    fn propagate_backedges(&mut self, edges: &mut [State]) -> Res {
        for round in 0.. {
            if round > MAX_BACKEDGE_ITERS {
                for e in edges.iter().rev() {
                    self.mark_all_precise(e.parent, e.curframe());
                }
                break;
            }
            let mut changed = false;
            // The latest first, as the kernel's list has them.
            for e in edges.iter_mut().rev() {
                let Some(old) = e.equal_state else { continue };
                self.collect_precise(old);
                changed |= self.mark_chain(Some(e), None)?;
            }
            if !changed {
                break;
            }
        }
        Ok(())
    }

    /// Keeps the current state as a back edge of the loop that the remembered state `old` is in.
    pub(super) fn scc_add_backedge(&mut self, old: StateId, insn: u32) -> Res {
        let mut edge = self.spare.pop().unwrap_or_default();
        edge.copy_from(&self.cur);
        edge.equal_state = Some(old);
        edge.insn_idx = insn;
        let chain = self.states[old.0 as usize].as_ref().and_then(|s| self.scc_chain(&s.state));
        let Some(chain) = chain else {
            return self.bug(format_args!("add backedge: no SCC in verification path, insn_idx {insn}"));
        };
        let Some(at) = self.scc_find(&chain) else {
            return self.bug(format_args!(
                "add backedge: no visit info for call chain {}",
                Self::chain_text(&chain)
            ));
        };
        if self.level2() {
            self.log(format_args!("SCC backedge {}\n", Self::chain_text(&chain)));
        }
        let visit = &mut self.scc_visits[chain.scc as usize][at];
        visit.backedges.push(edge);
        visit.counted += 1;
        self.num_backedges += 1;
        self.update_peak_states();
        Ok(())
    }

    /// Whether the state belongs to a loop that is not finished: its precision marks may still grow.
    pub(super) fn incomplete_marks(&self, st: &State) -> bool {
        let Some(chain) = self.scc_chain(st) else { return false };
        self.scc_find(&chain).is_some_and(|i| !self.scc_visits[chain.scc as usize][i].backedges.is_empty())
    }

    pub(super) fn update_peak_states(&mut self) {
        self.peak_states =
            self.peak_states.max(self.explored_size + self.free_list_size + self.num_backedges);
    }
}
