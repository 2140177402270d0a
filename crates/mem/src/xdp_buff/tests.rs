//! The numbers here are a running 6.18 kernel's answers to `BPF_PROG_TEST_RUN`.

use super::*;

const RXQ: RxqInfo = RxqInfo { ifindex: 1, queue_index: 0, mem_type: 0, frag_size: 4096 };
/// Largest linear packet in a page with the usual headroom.
const LINEAR_MAX: usize = 3520;

/// The packet that TEST_RUN makes: byte `i` is `i & 255`, what does not fit a page goes to fragments.
fn packet(size: usize, linear: usize) -> XdpBuff<'static> {
    let linear = linear.min(size).min(LINEAR_MAX);
    let mut buff = XdpBuff::new(Frame::new(4096), 256, linear, &RXQ).expect("fits");
    let mut bytes: Vec<u8> = (0..size).map(|i| i as u8).collect();
    buff.linear().copy_from(0, &bytes[..linear]);
    for chunk in bytes.split_off(linear).chunks(4096) {
        let frame = Frame::new(4096);
        frame.bytes().copy_from(0, chunk);
        buff.push_frag(Frag::new(frame, 0, chunk.len() as u32).expect("fits")).expect("few");
    }
    buff
}

#[track_caller]
fn check(
    size: usize,
    call: impl Fn(&mut XdpBuff<'_>) -> Result<(), Errno>,
    ret: Result<(), Errno>,
    left: (usize, usize, usize),
) {
    let mut buff = packet(size, size);
    assert_eq!(call(&mut buff), ret);
    let (meta, linear) = (buff.meta_len(), buff.meta_len() + buff.linear_len());
    assert_eq!((buff.buff_len() + meta, meta, linear), left);
    assert_eq!(buff.to_vec().len(), left.0);
    assert_eq!(buff.has_frags(), !buff.frags().is_empty());
}

const EINVAL: Result<(), Errno> = Err(Errno::EINVAL);

#[test]
fn adjust_head_keeps_room_for_a_frame_and_an_ethernet_header() {
    check(64, |b| b.adjust_head(-216), Ok(()), (280, 0, 280));
    check(64, |b| b.adjust_head(-217), EINVAL, (64, 0, 64));
    check(64, |b| b.adjust_head(50), Ok(()), (14, 0, 14));
    check(64, |b| b.adjust_head(51), EINVAL, (64, 0, 64));
    check(64, |b| b.adjust_head(i32::MIN), EINVAL, (64, 0, 64));
    check(64, |b| b.adjust_head(i32::MAX), EINVAL, (64, 0, 64));
    check(9000, |b| b.adjust_head(3506), Ok(()), (5494, 0, 14));
    check(9000, |b| b.adjust_head(3507), EINVAL, (9000, 0, 3520));
}

#[test]
fn adjust_meta_says_range_before_alignment() {
    check(64, |b| b.adjust_meta(-4), Ok(()), (68, 4, 68));
    check(64, |b| b.adjust_meta(-3), Err(Errno::EACCES), (64, 0, 64));
    check(64, |b| b.adjust_meta(-216), Ok(()), (280, 216, 280));
    check(64, |b| b.adjust_meta(-220), EINVAL, (64, 0, 64));
    check(64, |b| b.adjust_meta(4), EINVAL, (64, 0, 64));
    check(64, |b| b.adjust_meta(1), EINVAL, (64, 0, 64));
    check(64, |b| b.adjust_meta(0), Ok(()), (64, 0, 64));
    check(64, |b| b.adjust_meta(-32).and(b.adjust_meta(16)), Ok(()), (80, 16, 80));
    check(64, |b| b.adjust_meta(-32).and(b.adjust_meta(36)), EINVAL, (96, 32, 96));
}

#[test]
fn metadata_of_more_than_252_bytes_is_refused_where_headroom_would_allow_it() {
    let mut buff = XdpBuff::new(Frame::new(4096), 512, 64, &RXQ).expect("fits");
    assert_eq!(buff.adjust_meta(-256), Err(Errno::EACCES));
    assert_eq!(buff.adjust_meta(-252), Ok(()));
}

#[test]
fn metadata_moves_along_with_the_head() {
    check(64, |b| b.adjust_meta(-216).and(b.adjust_head(-1)), EINVAL, (280, 216, 280));
    check(64, |b| b.adjust_meta(-32).and(b.adjust_head(-184)), Ok(()), (280, 32, 280));
    check(64, |b| b.adjust_meta(-32).and(b.adjust_head(-185)), EINVAL, (96, 32, 96));
    let mut buff = packet(64, 64);
    buff.adjust_meta(-8).expect("room");
    buff.meta_and_linear().copy_from(0, b"metadata");
    buff.adjust_head(14).expect("long enough");
    let bytes = buff.to_vec();
    assert_eq!((&bytes[..8], bytes[8]), (&b"metadata"[..], 14));
    buff.adjust_head(-20).expect("room");
    assert_eq!(&buff.to_vec()[..8], b"metadata");
}

#[test]
fn a_device_without_metadata_says_so_and_its_head_still_moves() {
    let mut buff = packet(64, 64);
    buff.set_metadata_unsupported();
    assert_eq!(buff.adjust_meta(-4), Err(Errno::ENOTSUPP));
    assert_eq!(buff.adjust_head(-4), Ok(()));
    assert!(buff.metadata_unsupported());
    assert_eq!((buff.meta_len(), buff.linear_len(), buff.to_vec().len()), (0, 68, 68));
}

#[test]
fn adjust_tail_of_a_linear_packet_ends_before_the_reserved_tail() {
    check(64, |b| b.adjust_tail(-50), Ok(()), (14, 0, 14));
    check(64, |b| b.adjust_tail(-51), EINVAL, (64, 0, 64));
    check(64, |b| b.adjust_tail(3456), Ok(()), (3520, 0, 3520));
    check(64, |b| b.adjust_tail(3457), EINVAL, (64, 0, 64));
    check(64, |b| b.adjust_tail(i32::MIN), EINVAL, (64, 0, 64));
    let mut buff = packet(64, 64);
    buff.adjust_tail(-10).and(buff.adjust_tail(10)).expect("room");
    assert_eq!(buff.to_vec()[54..], [0; 10], "growth is cleared");
}

#[test]
fn adjust_tail_with_fragments_grows_the_last_and_frees_from_the_end() {
    check(9000, |b| b.adjust_tail(-1), Ok(()), (8999, 0, 3520));
    check(9000, |b| b.adjust_tail(-5480), Ok(()), (3520, 0, 3520));
    check(9000, |b| b.adjust_tail(-5481), Ok(()), (3519, 0, 3519));
    check(9000, |b| b.adjust_tail(-8986), Ok(()), (14, 0, 14));
    check(9000, |b| b.adjust_tail(-8987), EINVAL, (9000, 0, 3520));
    check(9000, |b| b.adjust_tail(i32::MIN), Ok(()), (9000, 0, 3520));
    check(9000, |b| b.adjust_tail(2712), Ok(()), (11712, 0, 3520));
    check(9000, |b| b.adjust_tail(2713), EINVAL, (9000, 0, 3520));
    check(3520 + 4096, |b| b.adjust_tail(1), EINVAL, (7616, 0, 3520));
    check(3520 + 4096, |b| b.adjust_tail(-4096).and(b.adjust_tail(10)), EINVAL, (3520, 0, 3520));
}

#[test]
fn fragments_of_a_queue_that_does_not_say_their_size_cannot_grow() {
    const FIXED: RxqInfo = RxqInfo { frag_size: 0, ..RXQ };
    let mut buff = XdpBuff::new(Frame::new(4096), 256, 64, &FIXED).expect("fits");
    buff.push_frag(Frag::new(Frame::new(4096), 0, 10).expect("fits")).expect("few");
    assert_eq!(buff.adjust_tail(1), Err(Errno::EOPNOTSUPP));
    assert_eq!(buff.adjust_tail(0), Err(Errno::EOPNOTSUPP));
    assert_eq!(buff.adjust_tail(-1), Ok(()));
}

#[test]
fn load_and_store_check_offset_before_length() {
    for (offset, len, size, expected) in [
        (0, 64, 64, Ok(())),
        (63, 2, 64, EINVAL),
        (64, 1, 64, EINVAL),
        (65536, 1, 64, Err(Errno::EFAULT)),
        (65535, 1, 64, EINVAL),
        (u32::MAX, 1, 64, Err(Errno::EFAULT)),
        (3519, 2, 9000, Ok(())),
        (8999, 1, 9000, Ok(())),
        (8999, 2, 9000, EINVAL),
        (0, 65536, 9000, Err(Errno::EFAULT)),
    ] {
        let mut bytes = vec![0; len];
        let dst = SharedSlice::from_mut(&mut bytes);
        assert_eq!(packet(size, size).load_bytes(offset, dst), expected, "{len} at {offset} of {size}");
    }
}

#[test]
fn loads_and_stores_cross_fragments() {
    let buff = packet(9000, 9000);
    let mut bytes = vec![0; 4200];
    buff.load_bytes(3500, SharedSlice::from_mut(&mut bytes)).expect("within");
    assert!(bytes.iter().enumerate().all(|(i, b)| *b == (3500 + i) as u8));
    bytes.fill(0x41);
    buff.store_bytes(3500, SharedSlice::from_mut(&mut bytes)).expect("within");
    let all = buff.to_vec();
    let expected = |i| if (3500..7700).contains(&i) { 0x41 } else { i as u8 };
    assert!(all.iter().enumerate().all(|(i, b)| *b == expected(i)));
}

#[test]
fn pull_data_uses_tail_room_then_head_room() {
    for (len, size, linear, expected, after) in [
        (33, 64, 32, Ok(()), 33),
        (64, 64, 32, Ok(()), 64),
        (65, 64, 32, EINVAL, 32),
        (14, 64, 0, Ok(()), 14),
        (3736, 9000, 3520, Ok(()), 3736),
        (3737, 9000, 3520, EINVAL, 3520),
        (3736, 9000, 14, Ok(()), 3736),
        (0, 64, 32, Ok(()), 32),
    ] {
        let mut buff = packet(size, linear);
        let before = buff.to_vec();
        assert_eq!(buff.pull_data(len), expected, "{len} of {size} with {linear}");
        assert_eq!(buff.linear_len(), after);
        assert_eq!(buff.to_vec(), before);
        assert_eq!(buff.has_frags(), after < size);
    }
    let mut buff = packet(9000, 9000);
    buff.adjust_meta(-32).expect("room");
    assert_eq!(buff.pull_data(3705), EINVAL);
    assert_eq!(buff.pull_data(3704), Ok(()));
    assert_eq!(buff.meta_len(), 32);
}

#[test]
fn a_packet_has_at_most_seventeen_fragments() {
    let mut buff = packet(64, 64);
    for _ in 0..MAX_SKB_FRAGS {
        buff.push_frag(Frag::new(Frame::new(64), 0, 1).expect("fits")).expect("few");
    }
    assert_eq!(buff.push_frag(Frag::new(Frame::new(64), 0, 1).expect("fits")), Err(Errno::ENOMEM));
    assert!(Frag::new(Frame::new(64), 60, 5).is_err());
    assert!(Frag::new(Frame::new(64), u32::MAX, 2).is_err());
}

#[test]
fn preparing_again_forgets_the_last_packet() {
    let mut buff = packet(9000, 9000);
    buff.adjust_meta(-32).expect("room");
    buff.set_hints(RxHints { timestamp_ns: Ok(7), ..RxHints::UNSUPPORTED });
    buff.prepare(256, 60).expect("fits");
    assert_eq!((buff.buff_len(), buff.meta_len(), buff.has_frags(), buff.headroom()), (60, 0, false, 256));
    assert_eq!(buff.hints(), &RxHints::UNSUPPORTED);
    assert_eq!(buff.prepare(256, 3521), EINVAL);
    assert_eq!(buff.buff_len(), 60);
    buff.split_metadata(8).expect("aligned");
    assert_eq!((buff.meta_len(), buff.linear_len()), (8, 52));
    assert_eq!(buff.split_metadata(2), EINVAL);
}
