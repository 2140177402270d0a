use super::*;
use crate::TooLong;

fn small(config: UmemConfig) -> Umem {
    Umem::new(UmemConfig { frames: 8, frame_size: 2048, ..config }).expect("a valid division")
}

#[test]
fn frames_are_given_out_once_and_come_back() {
    let umem = small(UmemConfig::default());
    let frames: Vec<_> = std::iter::from_fn(|| umem.alloc()).collect();
    assert_eq!(umem.counts(), FrameCounts { held: 8, ..Default::default() });
    drop(frames);
    assert_eq!(umem.counts(), FrameCounts { free: 8, ..Default::default() });
    assert_eq!(umem.alloc_batch(5).map(|f| f.capacity()).collect::<Vec<_>>(), [2048; 5]);
    assert_eq!(umem.alloc_batch(50).count(), 8);
}

#[test]
fn nothing_can_be_written_past_the_end() {
    let umem = small(UmemConfig::default());
    let mut frame = umem.alloc().unwrap();
    assert_eq!(frame.put(&[1; 2049]), Err(TooLong { wanted: 2049, room: 2048 }));
    frame.put(&[1; 2048]).unwrap();
    assert_eq!(frame.write(2047, &[2, 2]), Err(TooLong { wanted: 2049, room: 2048 }));
    assert_eq!(frame.write(usize::MAX, &[2, 2]), Err(TooLong { wanted: usize::MAX, room: 2048 }));
    frame.adjust_head(2040).unwrap();
    assert_eq!((frame.len(), frame.capacity(), frame.headroom()), (8, 8, 2040));
    assert_eq!(frame.set_len(9), Err(TooLong { wanted: 9, room: 8 }));
    assert!(frame.adjust_head(9).is_err() && frame.adjust_head(-2041).is_err());
    assert!(frame.adjust_head(i32::MIN).is_err());
    assert_eq!((frame.read::<8>(0), frame.read::<9>(0)), (Some([1; 8]), None));
    assert_eq!(frame.metadata(2040).map(SharedSlice::len), Some(2040));
    assert!(frame.metadata(2041).is_none());
}

#[test]
fn only_chunks_that_are_with_the_other_side_come_back_as_frames() {
    for unaligned in [false, true] {
        let umem = small(UmemConfig { unaligned, ..Default::default() });
        let base = umem.alloc().unwrap().into_filled();
        let desc = |addr, len| XdpDesc { addr, len, options: 0 };
        assert!(umem.received(desc(base + 2048, 60)).is_none(), "free");
        assert!(umem.received(desc(8 * 2048, 60)).is_none(), "outside");
        assert!(umem.received(desc(u64::MAX, 60)).is_none(), "far outside");
        assert!(umem.received(desc(base + 256, 1793)).is_none(), "past the end of the chunk");
        assert!(umem.received(desc(base + 256, u32::MAX)).is_none());
        assert!(umem.completed(base, Place::Held).is_none(), "it was not sent");
        let addr = if unaligned { base | 256 << 48 } else { base + 256 };
        let frame = umem.received(desc(addr, 1792)).unwrap();
        assert_eq!((frame.len(), frame.headroom(), frame.capacity()), (1792, 256, 1792));
        assert!(umem.received(desc(addr, 60)).is_none(), "only once");
        let sent = frame.into_sent(0);
        assert_eq!(sent, desc(base + 256, 1792));
        assert!(umem.received(desc(addr, 60)).is_none());
        assert!(umem.completed(sent.addr, Place::Free).is_some());
        assert!(umem.completed(sent.addr, Place::Free).is_none(), "only once");
    }
}

#[test]
fn divisions_that_the_kernel_refuses_are_refused_here() {
    let refused = |config| matches!(Umem::new(config), Err(SetupError { errno: Errno::EINVAL, .. }));
    let ok = UmemConfig { frames: 4, ..Default::default() };
    assert!(!refused(ok));
    assert!(refused(UmemConfig { frames: 0, ..ok }));
    assert!(refused(UmemConfig { frame_size: 3000, ..ok }));
    assert!(!refused(UmemConfig { frame_size: 3000, unaligned: true, ..ok }));
    assert!(refused(UmemConfig { frame_size: 1024, ..ok }) && refused(UmemConfig { frame_size: 8192, ..ok }));
    assert!(refused(UmemConfig { tx_metadata_len: Some(12), ..ok }));
    assert!(refused(UmemConfig { tx_metadata_len: Some(256), ..ok }));
}

#[test]
fn reclaiming_takes_back_what_the_other_side_has_kept() {
    let mut umem = small(UmemConfig::default());
    let _ = umem.alloc().unwrap().into_filled();
    let _ = umem.alloc().unwrap().into_sent(0);
    assert_eq!(umem.counts(), FrameCounts { free: 6, filled: 1, sent: 1, held: 0 });
    umem.reclaim();
    assert_eq!(umem.counts().free, 8);
    assert_eq!(umem.alloc_batch(9).count(), 8);
}
