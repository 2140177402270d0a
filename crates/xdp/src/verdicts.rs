//! [`Verdicts`]: what a program decided about each packet of a batch, and where redirects pointed then.
//!
//! The redirect helpers leave their target in one place for all packets of a softirq ([`RedirectInfo`]). To run a
//! program over many packets before anything is done with them, the target is taken out of there after each
//! packet that is to be redirected, exactly as `xdp_do_redirect` would have done before the next one was run.

use std::sync::Arc;

use arrayvec::ArrayVec;
use bpf::maps::Map;
use bpf::redirect::RedirectInfo;
use uapi::xdp::XdpAction;

use crate::redirect::Target;

/// Packets that are run in one go at most.
pub(crate) const BATCH_MAX: usize = 64;

/// What becomes of [`RedirectInfo`] when a packet is to be redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Redirects {
    /// It is used up. A batch ends after so many: then the packets must go where they shall before the next
    /// program runs, because programs of bulk queues may run on the way.
    Most(usize),
    /// As before, and `XDP_TX` is a redirect to the device of this number.
    WithTx { most: usize, ifindex: u32 },
    /// Nothing: where the program is, nobody redirects.
    Ignored,
}

/// Packets one after the other with the same verdict, as [`Verdicts`] keeps it.
#[derive(Clone, Copy, Default)]
struct Kept {
    act: u32,
    count: u32,
    index: u64,
    flags: u64,
    map_id: u32,
    /// Position in [`Verdicts::maps`] and one more; 0 for none.
    map: u32,
    /// Address of the map, 0 for none: to tell whether another packet's is the same. What is in
    /// [`Verdicts::maps`] keeps it from being another one's.
    addr: usize,
}

/// The verdicts of a batch of packets, for an [`crate::Engine`] to write and a driver to read.
pub struct Verdicts {
    kept: ArrayVec<Kept, BATCH_MAX>,
    /// The last of them; of no packet at first.
    last: Kept,
    maps: Vec<Arc<Map>>,
    redirects: Redirects,
    left: usize,
}

impl Default for Verdicts {
    fn default() -> Self {
        Self {
            kept: ArrayVec::new(),
            last: Kept::default(),
            maps: Vec::with_capacity(4),
            redirects: Redirects::Ignored,
            left: 0,
        }
    }
}

/// Packets one after the other with the same verdict.
pub(crate) struct Alike<'v> {
    pub(crate) count: usize,
    pub(crate) act: u32,
    /// Where to, if they are to be redirected.
    pub(crate) target: Target<'v>,
}

impl Verdicts {
    /// Starts a batch.
    #[inline]
    pub(crate) fn begin(&mut self, redirects: Redirects) {
        self.redirects = redirects;
        self.left = match redirects {
            Redirects::Most(most) | Redirects::WithTx { most, .. } => most,
            Redirects::Ignored => usize::MAX,
        };
        self.kept.clear();
        self.last = Kept::default();
    }

    /// Forgets maps, which are held since the first redirect to them.
    pub(crate) fn clear(&mut self) {
        self.maps.clear();
        self.kept.clear();
        self.last = Kept::default();
    }

    /// Whether `XDP_TX` is a redirect, so that each action must be noted by itself.
    pub(crate) const fn tx_redirects(&self) -> bool {
        matches!(self.redirects, Redirects::WithTx { .. })
    }

    /// Notes what a program decided about the next packet, and answers whether the one after it may be run.
    #[inline]
    pub fn note(&mut self, act: u32, info: &mut RedirectInfo) -> bool {
        if act == XdpAction::Redirect as u32 {
            return self.note_redirect(act, info);
        }
        let Redirects::WithTx { ifindex, .. } = self.redirects else { return self.note_plain(act) };
        if act != XdpAction::Tx as u32 {
            return self.note_plain(act);
        }
        info.tgt_index = ifindex.into();
        info.map = None;
        info.map_id = RedirectInfo::MAP_ID_IFINDEX;
        self.note_redirect(act, info)
    }

    /// Notes actions that are none of redirects.
    #[inline]
    pub(crate) fn note_plain(&mut self, act: u32) -> bool {
        if self.last.act == act && self.last.count > 0 {
            self.last.count += 1;
        } else {
            self.keep(Kept { act, count: 1, ..Kept::default() });
        }
        true
    }

    #[inline]
    fn note_redirect(&mut self, act: u32, info: &mut RedirectInfo) -> bool {
        if self.redirects == Redirects::Ignored {
            return self.note_plain(act);
        }
        let map_id = std::mem::take(&mut info.map_id);
        let flags = std::mem::take(&mut info.flags);
        let unset = map_id == 0 || map_id == RedirectInfo::MAP_ID_IFINDEX;
        let addr = info.map.as_ref().filter(|_| !unset).map_or(0, |map| Arc::as_ptr(map).addr());
        let last = &mut self.last;
        let same = last.act == act && last.addr == addr && last.index == info.tgt_index;
        if same && last.map_id == map_id && last.flags == flags && last.count > 0 {
            last.count += 1;
        } else {
            let map = if addr == 0 { 0 } else { self.position(info) };
            self.keep(Kept { act, count: 1, index: info.tgt_index, flags, map_id, map, addr });
        }
        self.left -= 1;
        self.left > 0
    }

    #[cold]
    fn position(&mut self, info: &RedirectInfo) -> u32 {
        let Some(map) = &info.map else { return 0 };
        if !self.maps.last().is_some_and(|last| Arc::ptr_eq(last, map)) {
            self.maps.push(map.clone());
        }
        self.maps.len() as u32
    }

    #[cold]
    fn keep(&mut self, next: Kept) {
        let last = std::mem::replace(&mut self.last, next);
        if last.count > 0 {
            self.kept.push(last);
        }
    }

    /// The verdicts in the order of the packets.
    pub(crate) fn alike(&self) -> impl Iterator<Item = Alike<'_>> {
        let all = self.kept.iter().chain(std::iter::once(&self.last));
        all.map(|kept| {
            let Kept { act, count, index, flags, map_id, map, .. } = *kept;
            let map = (map as usize).checked_sub(1).and_then(|at| self.maps.get(at));
            Alike { count: count as usize, act, target: Target { map, map_id, index, flags } }
        })
    }
}
