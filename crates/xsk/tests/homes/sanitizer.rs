//! Each mistake that an application can make with its rings is named, with where it happened.

use std::sync::Arc;

use uapi::Errno;
use uapi::if_xdp::*;
use xsk::engine::{LEAK_PATIENCE, Mistake, Sanitizer, WAKEUP_PATIENCE, XskHost};

use crate::lab::{EngineLab, Lab};
use crate::packet;
use crate::raw::{Spec, Xsk};

const C: u64 = 2048;

struct Watched {
    lab: EngineLab,
    xsk: Xsk,
    sanitizer: Arc<Sanitizer>,
}

impl Watched {
    fn new() -> Self {
        let sanitizer = Arc::new(Sanitizer::default());
        let lab = EngineLab::on(XskHost::with_sanitizer(|| 1, sanitizer.clone()));
        let xsk = Xsk::new(&lab, &Spec { rx: 64, tx: 64, fill: 64, completion: 8, ..Spec::default() });
        lab.redirect(0, xsk.number()).unwrap();
        Self { lab, xsk, sanitizer }
    }

    fn inject(&mut self) -> Vec<(u64, u32, u32)> {
        self.lab.inject(&packet(60));
        self.xsk.take()
    }

    /// Mistakes with the index of the entry and the address.
    fn found(&self) -> Vec<(Mistake, Option<u32>, Option<u64>)> {
        self.sanitizer.findings().iter().map(|f| (f.mistake, f.entry, f.addr)).collect()
    }
}

#[test]
fn good_manners_are_not_complained_of() {
    let mut w = Watched::new();
    w.xsk.give(&(0..16).map(|i| i * C).collect::<Vec<_>>());
    for _ in 0..1000 {
        let got = w.inject();
        // Back out, and when that is done, into the fill ring again.
        w.xsk.put(&got);
        assert_eq!(w.xsk.kick(), Ok(()));
        let done: Vec<_> = w.xsk.completed().iter().map(|a| a & !(C - 1)).collect();
        w.xsk.write(done[0], &[7; 2048]);
        w.xsk.give(&done);
    }
    assert_eq!(w.found(), []);
}

#[test]
fn a_chunk_that_is_filled_twice_is_named() {
    let mut w = Watched::new();
    w.xsk.give(&[0, C, 0]);
    w.inject();
    assert_eq!(w.found(), [(Mistake::DoubleFill, Some(2), Some(0))]);
    let text = w.sanitizer.findings()[0].to_string();
    assert!(text.starts_with("double-fill: device 1 queue 0 entry 2 at event 1: chunk 0x0"), "{text}");
}

#[test]
fn writing_after_filling_is_named() {
    let mut w = Watched::new();
    w.xsk.give(&[3 * C, C, 5 * C]);
    w.inject();
    w.xsk.write(C + 700, b"late");
    w.inject();
    w.xsk.fill.as_ref().unwrap().memory().view().write_u64(320 + 2 * 8, 9 * C);
    w.inject();
    assert_eq!(
        w.found(),
        [(Mistake::UseAfterFill, Some(1), Some(C)), (Mistake::EntryChanged, Some(2), Some(9 * C))]
    );
}

#[test]
fn sending_what_was_given_away_is_named() {
    let mut w = Watched::new();
    w.xsk.give(&[C, 2 * C]);
    w.inject();
    w.xsk.put(&[(2 * C, 60, 0)]);
    w.xsk.kick().unwrap();
    w.lab.wire.a.hold(true);
    w.xsk.put(&[(7 * C, 60, 0), (7 * C + 100, 60, 0)]);
    w.xsk.kick().unwrap();
    w.xsk.give(&[7 * C]);
    w.inject();
    assert_eq!(
        w.found(),
        [
            (Mistake::SendNotOwned, Some(0), Some(2 * C)),
            (Mistake::DoubleSend, Some(2), Some(7 * C + 100)),
            (Mistake::FillWhileSending, Some(2), Some(7 * C)),
        ]
    );
}

#[test]
fn bad_descriptors_are_named_with_the_reason() {
    let mut w = Watched::new();
    let rows = [
        ((0, 0, 0), "is empty"),
        ((100, 2000, 0), "goes past the end of its chunk"),
        ((64 * C, 60, 0), "begins outside of the UMEM"),
        ((C, 60, 4), "has unknown options"),
    ];
    for (desc, _) in rows {
        w.xsk.put(&[desc]);
        w.xsk.kick().unwrap();
    }
    let texts: Vec<_> = w.sanitizer.findings().iter().map(ToString::to_string).collect();
    // The first two are of one chunk.
    assert_eq!(texts.len(), 3, "{texts:#?}");
    assert!(texts[0].contains("is empty") && texts[0].ends_with("(2 times)"), "{}", texts[0]);
    assert!(texts[1].contains(rows[2].1) && texts[2].contains(rows[3].1), "{texts:#?}");
    w.xsk.give(&[64 * C]);
    w.inject();
    assert!(w.found().contains(&(Mistake::BadFillAddress, Some(0), Some(64 * C))));
}

#[test]
fn starving_and_leaks_are_named() {
    let mut w = Watched::new();
    w.xsk.give(&[0, C]);
    for _ in 0..3 {
        w.inject();
    }
    assert_eq!(w.found(), [(Mistake::StarvingFillRing, None, None)]);
    for _ in 0..64 * LEAK_PATIENCE + 1 {
        w.inject();
    }
    let found = w.found();
    assert!(
        found.contains(&(Mistake::Leak, None, Some(0))) && found.contains(&(Mistake::Leak, None, Some(C)))
    );
    let text = w.sanitizer.findings()[0].to_string();
    assert!(text.contains("the application has 64 of 64 chunks") && text.contains("times"), "{text}");
}

#[test]
fn a_missed_wakeup_is_named() {
    let mut w = Watched::new();
    w.xsk.give(&[0]);
    w.xsk.put(&[(C, 60, 0)]);
    for _ in 0..=WAKEUP_PATIENCE {
        w.inject();
    }
    assert!(w.found().contains(&(Mistake::MissedWakeup, None, None)), "{:?}", w.found());
}

#[test]
fn completions_that_nobody_takes_are_named() {
    let mut w = Watched::new();
    w.xsk.put(&(0..9).map(|i| (i * C, 60, 0)).collect::<Vec<_>>());
    assert_eq!(w.xsk.kick(), Err(Errno::EAGAIN));
    assert_eq!(w.found(), [(Mistake::CompletionsNotTaken, None, None)]);
}

#[test]
fn packets_of_another_queue_are_named() {
    let w = Watched::new();
    let other = Xsk::new(&w.lab, &Spec { queue: 1, ..Spec::default() });
    w.lab.redirect(0, other.number()).unwrap();
    w.lab.inject(&packet(60));
    let findings = w.sanitizer.findings();
    assert_eq!((findings[0].mistake, findings[0].queue), (Mistake::WrongQueue, (1, 1)));
    assert_eq!(other.stats(), XdpStatistics::default(), "nothing else tells");
}

#[test]
fn a_producer_that_claims_more_than_the_ring_is_named() {
    let mut w = Watched::new();
    w.xsk.give(&[0]);
    w.xsk.fill.as_ref().unwrap().memory().view().write_u32(0, 1000);
    w.inject();
    assert!(w.found().contains(&(Mistake::Overrun, None, None)), "{:?}", w.found());
}
