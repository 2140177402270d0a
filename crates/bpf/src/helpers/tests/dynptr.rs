//! Dynptrs by helpers, on memory and on the packet.

use uapi::Errno;
use uapi::bpf::func;

use super::EINVAL;
use super::world::{World, add_frags, call, give, kcall, with_run};

const E2BIG: u64 = Errno::E2BIG.as_ret();

#[test]
fn a_dynptr_of_memory_is_checked_at_every_access() {
    with_run(64, World::default(), |run| {
        let (data, ptr, buf) = (give(run, b"0123456789"), give(run, &[0; 16]), give(run, &[0; 10]));
        assert_eq!(call(run, func::DYNPTR_FROM_MEM, [data, 1 << 24, 0, ptr, 0]), E2BIG);
        assert_eq!(call(run, func::DYNPTR_FROM_MEM, [data, 10, 1, ptr, 0]), EINVAL);
        assert_eq!(call(run, func::DYNPTR_READ, [buf, 1, ptr, 0, 0]), EINVAL, "the null dynptr");
        assert_eq!(call(run, func::DYNPTR_WRITE, [ptr, 0, buf, 1, 0]), EINVAL);
        assert_eq!(call(run, func::DYNPTR_DATA, [ptr, 0, 1, 0, 0]), 0);
        assert_eq!(call(run, func::DYNPTR_FROM_MEM, [data, 10, 0, ptr, 0]), 0);
        for (offset, len, flags, expected) in [
            (0, 10, 0, 0),
            (9, 1, 0, 0),
            (10, 0, 0, 0),
            (9, 2, 0, E2BIG),
            (11, 0, 0, E2BIG),
            (u64::MAX, 2, 0, E2BIG),
            (0, 1, 1, EINVAL),
        ] {
            assert_eq!(call(run, func::DYNPTR_READ, [buf, len, ptr, offset, flags]), expected);
            assert_eq!(call(run, func::DYNPTR_WRITE, [ptr, offset, buf, len, flags]), expected);
        }
        assert_eq!(call(run, func::DYNPTR_DATA, [ptr, 3, 7, 0, 0]), data + 3);
        assert_eq!(call(run, func::DYNPTR_DATA, [ptr, 3, 8, 0, 0]), 0);
        assert_eq!(call(run, func::DYNPTR_READ, [buf, 4, ptr, 6, 0]), 0);
        assert_eq!(run.read(buf, 4).unwrap().to_vec(), b"6789");
        assert_eq!(call(run, func::DYNPTR_WRITE, [ptr, 0, buf, 4, 0]), 0);
        assert_eq!(run.read(data, 10).unwrap().to_vec(), b"6789456789");
    });
}

#[test]
fn a_dynptr_of_the_packet_reaches_its_fragments() {
    with_run(64, World::default(), |run| {
        add_frags(run, &[100, 50]);
        let (ctx, ptr, buf) = (run.memory.ctx(), give(run, &[0xff; 16]), give(run, &[0; 200]));
        // An `int` leaves the upper half of the register at zero.
        assert_eq!(kcall(run, "bpf_dynptr_from_xdp", [ctx, 1, ptr, 0, 0]), EINVAL & 0xffff_ffff);
        assert_eq!(kcall(run, "bpf_dynptr_is_null", [ptr, 0, 0, 0, 0]), 1);
        assert_eq!(kcall(run, "bpf_dynptr_size", [ptr, 0, 0, 0, 0]), EINVAL & 0xffff_ffff);
        assert_eq!(kcall(run, "bpf_dynptr_from_xdp", [ctx, 0, ptr, 0, 0]), 0);
        assert_eq!(kcall(run, "bpf_dynptr_size", [ptr, 0, 0, 0, 0]), 214);
        assert_eq!(call(run, func::DYNPTR_DATA, [ptr, 0, 1, 0, 0]), 0, "only slices of packets");
        assert_eq!(call(run, func::DYNPTR_READ, [buf, 200, ptr, 14, 0]), 0);
        let bytes = run.read(buf, 200).unwrap().to_vec();
        assert!(bytes.iter().enumerate().all(|(i, b)| *b == (14 + i) as u8));
        assert_eq!(call(run, func::DYNPTR_READ, [buf, 200, ptr, 15, 0]), E2BIG);
        assert_eq!(call(run, func::DYNPTR_WRITE, [ptr, 60, buf, 8, 1]), EINVAL);
        assert_eq!(call(run, func::DYNPTR_WRITE, [ptr, 60, buf, 8, 0]), 0);
        assert_eq!(&run.buff().to_vec()[60..68], &[14, 15, 16, 17, 18, 19, 20, 21]);
    });
}

#[test]
fn what_is_no_dynptr_is_a_violation() {
    with_run(64, World::default(), |run| {
        let (forged, buf) = (give(run, &[0x77; 16]), give(run, &[0; 8]));
        let read = crate::helpers::helper(func::DYNPTR_READ).unwrap();
        assert!(read(run, [buf, 1, forged, 0, 0]).is_err());
        let wild = give(run, &[1, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0x10, 0, 0, 0, 0]);
        assert!(read(run, [buf, 1, wild, 0, 0]).is_err(), "memory that the program does not have");
    });
}
