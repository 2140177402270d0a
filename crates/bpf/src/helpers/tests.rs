//! Helpers called as programs call them. The numbers are a 6.18 kernel's where a kernel was asked.

mod dynptr;
mod maps;
mod net;
mod rings;
mod text;
mod timers;
pub(crate) mod world;

use uapi::Errno;
use uapi::bpf::{HELPER_NAMES, func};

use super::helper;
use world::{World, call, with_run};

const EINVAL: u64 = Errno::EINVAL.as_ret();

#[test]
fn only_helpers_that_xdp_programs_may_call_exist() {
    let xdp_may_not = [
        func::UNSPEC,
        func::PROBE_READ,
        func::PROBE_READ_STR,
        func::SKB_LOAD_BYTES,
        func::GET_SOCKET_COOKIE,
        func::GET_STACKID,
        func::GET_STACK,
        func::SK_STORAGE_GET,
        func::XDP_OUTPUT,
        func::GET_NETNS_COOKIE,
        func::SK_ASSIGN,
        func::CLONE_REDIRECT,
        HELPER_NAMES.len() as i32,
        -1,
        i32::MIN,
    ];
    for id in xdp_may_not {
        assert!(helper(id).is_none(), "{id}");
    }
}

#[test]
fn the_packets_ends_move() {
    with_run(64, World::default(), |run| {
        let ctx = run.memory.ctx();
        assert_eq!(call(run, func::XDP_GET_BUFF_LEN, [ctx, 0, 0, 0, 0]), 64);
        for (id, offset, expected) in [
            (func::XDP_ADJUST_META, -220, EINVAL),
            (func::XDP_ADJUST_META, -3, Errno::EACCES.as_ret()),
            (func::XDP_ADJUST_META, -32, 0),
            (func::XDP_ADJUST_HEAD, -185, EINVAL),
            (func::XDP_ADJUST_HEAD, -184, 0),
            (func::XDP_ADJUST_TAIL, 3457, EINVAL),
            (func::XDP_ADJUST_TAIL, -48, 0),
        ] {
            // Only the lower half of a register is an int.
            let offset = u64::from(offset as u32) | 0xabcd << 32;
            assert_eq!(call(run, id, [ctx, offset, 0, 0, 0]), expected, "{id} {offset:#x}");
        }
        assert_eq!(call(run, func::XDP_GET_BUFF_LEN, [ctx, 0, 0, 0, 0]), 200);
    });
}

#[test]
fn bytes_go_in_and_out_of_the_packet() {
    with_run(64, World::default(), |run| {
        let ctx = run.memory.ctx();
        let buf = run.memory.own(crate::vm::RegionKind::Object("test"), &[7; 64], true).unwrap();
        for (offset, len, expected) in [
            (0, 64, 0),
            (63, 2, EINVAL),
            (64, 1, EINVAL),
            (0x10000, 1, Errno::EFAULT.as_ret()),
            (0xffff, 1, EINVAL),
            (0xffff_ffff, 1, Errno::EFAULT.as_ret()),
        ] {
            assert_eq!(call(run, func::XDP_LOAD_BYTES, [ctx, offset, buf, len, 0]), expected);
            assert_eq!(call(run, func::XDP_STORE_BYTES, [ctx, offset, buf, len, 0]), expected);
        }
        assert_eq!(call(run, func::XDP_STORE_BYTES, [ctx, 60, buf, 4, 0]), 0);
        run.write(buf, 4).unwrap().write_u32(0, 0x0909_0909);
        assert_eq!(call(run, func::XDP_STORE_BYTES, [ctx, 60, buf, 4, 0]), 0);
        assert_eq!(&run.buff().to_vec()[59..], [59, 9, 9, 9, 9]);
        let write_past = helper(func::XDP_LOAD_BYTES).unwrap()(run, [ctx, 0, buf, 65, 0]);
        assert!(write_past.is_err(), "no helper writes where the program may not");
    });
}

#[test]
fn csum_diff_folds_to_sixteen_bits() {
    with_run(64, World::default(), |run| {
        let bytes = [0x04, 0x03, 0x02, 0x01, 0, 0, 0, 0, 0x08, 0x07, 0x06, 0x05, 0, 0, 0, 0];
        let from = run.memory.own(crate::vm::RegionKind::Object("test"), &bytes, true).unwrap();
        let to = from + 8;
        for (args, expected) in [
            ([0, 0, to, 4, 0], 0xc0e),
            ([from, 4, 0, 0, 0], 0xfbf9),
            ([from, 4, to, 4, 0], 0x808),
            ([0, 0, to, 4, 0xffff], 0xc0e),
            ([0, 0, to, 3, 0], 0x70e),
            ([0, 0, 0, 0, 5], 5),
        ] {
            assert_eq!(call(run, func::CSUM_DIFF, args), expected, "{args:x?}");
        }
    });
}

#[test]
fn nondeterministic_answers_come_from_the_host_and_go_on_record() {
    with_run(64, World { time_ns: 8_000_000, random: 77, cpu: 3, ..World::default() }, |run| {
        for (id, expected) in [
            (func::KTIME_GET_NS, 8_000_000),
            (func::JIFFIES64, 2),
            (func::GET_PRANDOM_U32, 77),
            (func::GET_SMP_PROCESSOR_ID, 3),
            (func::GET_CURRENT_PID_TGID, 5 << 32 | 6),
            (func::GET_CURRENT_UID_GID, 8 << 32 | 7),
            (func::GET_CURRENT_CGROUP_ID, 99),
            (func::GET_CGROUP_CLASSID, 0),
        ] {
            assert_eq!(call(run, id, [0; 5]), expected, "{id}");
        }
    });
    let world = World::default();
    let log = world.log.clone();
    with_run(64, World { script: vec![(func::KTIME_GET_NS, 1234)], ..world }, |run| {
        assert_eq!(call(run, func::KTIME_GET_NS, [0; 5]), 1234);
        assert_eq!(call(run, func::GET_PRANDOM_U32, [0; 5]), 0);
    });
    assert_eq!(*log.borrow(), ["answered 7 0"], "what a script says is not recorded");
}

#[test]
fn ancestor_cgroups_have_levels() {
    with_run(64, World::default(), |run| {
        let mut at = |level: i32| {
            call(run, func::GET_CURRENT_ANCESTOR_CGROUP_ID, [u64::from(level as u32), 0, 0, 0, 0])
        };
        assert_eq!((at(0), at(1), at(2), at(-1)), (1, 99, 0, 0));
    });
}

#[test]
fn the_comm_is_cut_and_padded() {
    with_run(64, World::default(), |run| {
        let buf = run.memory.own(crate::vm::RegionKind::Object("test"), &[0xff; 20], true).unwrap();
        assert_eq!(call(run, func::GET_CURRENT_COMM, [buf, 4, 0, 0, 0]), 0);
        assert_eq!(&run.read(buf, 5).unwrap().to_vec(), b"sof\0\xff");
        assert_eq!(call(run, func::GET_CURRENT_COMM, [buf, 20, 0, 0, 0]), 0);
        assert_eq!(&run.read(buf, 20).unwrap().to_vec(), b"softirq\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(call(run, func::GET_NS_CURRENT_PID_TGID, [1, 2, buf, 8, 0]), EINVAL);
        assert_eq!(run.read(buf, 8).unwrap().read_u64(0), 0);
    });
}
