//! Kfuncs called as programs call them.

use mem::RxHints;
use uapi::Errno;

use super::kfunc;
use crate::helpers::tests::world::{World, add_frags, give, kcall, with_run};
use crate::vm::Run;

/// What a function that returns `int` leaves in the register.
const fn int(errno: Errno) -> u64 {
    errno.as_ret() & 0xffff_ffff
}

const EINVAL: u64 = int(Errno::EINVAL);
const ENOENT: u64 = int(Errno::ENOENT);

#[test]
fn unknown_names_are_absent() {
    for name in ["", "bpf_dynptr_from_skb", "bpf_iter_task_new", "bpf_arena_alloc_pages", "bpf_skb_ct_lookup"]
    {
        assert!(kfunc(name).is_none(), "{name}");
    }
}

#[test]
fn pull_data_makes_pointers_reach_further() {
    with_run(64, World::default(), |run| {
        add_frags(run, &[100]);
        let ctx = run.memory.ctx();
        assert_eq!(kcall(run, "bpf_xdp_pull_data", [ctx, 165, 0, 0, 0]), EINVAL);
        assert_eq!(kcall(run, "bpf_xdp_pull_data", [ctx, 164, 0, 0, 0]), 0);
        let bounds = run.memory.packet_bounds();
        assert_eq!(run.read(bounds.data, 164).unwrap().read_u8(163), 163);
        assert!(kfunc("bpf_xdp_pull_data").unwrap()(run, [ctx + 8, 1, 0, 0, 0]).is_err(), "no context");
    });
}

#[test]
fn slices_point_into_one_piece_or_fill_the_buffer() {
    with_run(64, World::default(), |run| {
        add_frags(run, &[100, 50]);
        let (ctx, ptr, buf) = (run.memory.ctx(), give(run, &[0; 16]), give(run, &[0; 100]));
        kcall(run, "bpf_dynptr_from_xdp", [ctx, 0, ptr, 0, 0]);
        let data = run.memory.packet_bounds().data;
        assert_eq!(kcall(run, "bpf_dynptr_slice", [ptr, 10, buf, 54, 0]), data + 10);
        let frag = kcall(run, "bpf_dynptr_slice_rdwr", [ptr, 64, 0, 100, 0]);
        assert_eq!(run.read(frag, 100).unwrap().read_u8(99), 163);
        assert_eq!(kcall(run, "bpf_dynptr_slice", [ptr, 60, buf, 8, 0]), buf);
        assert_eq!(run.read(buf, 8).unwrap().to_vec(), [60, 61, 62, 63, 64, 65, 66, 67]);
        assert_eq!(kcall(run, "bpf_dynptr_slice", [ptr, 60, 0, 8, 0]), 0);
        assert_eq!(kcall(run, "bpf_dynptr_slice", [ptr, 210, buf, 5, 0]), 0);
        run.with_buff(|_| ());
        assert!(run.read(frag, 1).is_err(), "slices end with the packet's other pointers");
    });
}

#[test]
fn dynptrs_are_narrowed_and_cloned() {
    with_run(64, World::default(), |run| {
        let (ctx, ptr, other) = (run.memory.ctx(), give(run, &[0; 16]), give(run, &[0xff; 16]));
        let size = |run: &mut Run<'_, '_>, at| kcall(run, "bpf_dynptr_size", [at, 0, 0, 0, 0]);
        assert_eq!(kcall(run, "bpf_dynptr_clone", [ptr, other, 0, 0, 0]), EINVAL);
        assert_eq!(kcall(run, "bpf_dynptr_is_null", [other, 0, 0, 0, 0]), 1);
        assert_eq!(kcall(run, "bpf_dynptr_adjust", [ptr, 0, 0, 0, 0]), EINVAL);
        kcall(run, "bpf_dynptr_from_xdp", [ctx, 0, ptr, 0, 0]);
        assert_eq!(kcall(run, "bpf_dynptr_adjust", [ptr, 2, 1, 0, 0]), EINVAL);
        assert_eq!(kcall(run, "bpf_dynptr_adjust", [ptr, 0, 65, 0, 0]), int(Errno::ERANGE));
        assert_eq!(kcall(run, "bpf_dynptr_adjust", [ptr, 10, 30, 0, 0]), 0);
        assert_eq!(kcall(run, "bpf_dynptr_clone", [ptr, other, 0, 0, 0]), 0);
        assert_eq!(kcall(run, "bpf_dynptr_adjust", [ptr, 5, 20, 0, 0]), 0);
        assert_eq!((size(run, ptr), size(run, other)), (15, 20));
        assert_eq!(kcall(run, "bpf_dynptr_is_rdonly", [ptr, 0, 0, 0, 0]), 0);
        let at = kcall(run, "bpf_dynptr_slice", [ptr, 0, 0, 15, 0]);
        assert_eq!(run.read(at, 1).unwrap().read_u8(0), 15);
    });
}

#[test]
fn dynptrs_are_copied_and_filled_across_pieces() {
    with_run(64, World::default(), |run| {
        add_frags(run, &[1000, 1000]);
        let (ctx, packet, memory) = (run.memory.ctx(), give(run, &[0; 16]), give(run, &[0; 16]));
        let data = give(run, &[0; 600]);
        kcall(run, "bpf_dynptr_from_xdp", [ctx, 0, packet, 0, 0]);
        let from_mem = crate::helpers::helper(uapi::bpf::func::DYNPTR_FROM_MEM).unwrap();
        assert_eq!(from_mem(run, [data, 600, 0, memory, 0]), Ok(0));
        let e2big = int(Errno::E2BIG);
        assert_eq!(kcall(run, "bpf_dynptr_copy", [memory, 0, packet, 50, 600]), 0);
        assert_eq!(run.read(data, 600).unwrap().read_u8(599), 649_u32 as u8);
        assert_eq!(kcall(run, "bpf_dynptr_copy", [packet, 1000, memory, 0, 600]), 0);
        assert_eq!(run.buff().to_vec()[1599], 649_u32 as u8);
        assert_eq!(kcall(run, "bpf_dynptr_copy", [packet, 0, packet, 900, 600]), 0);
        assert_eq!(run.buff().to_vec()[300], run.buff().to_vec()[1200]);
        assert_eq!(kcall(run, "bpf_dynptr_copy", [memory, 1, packet, 0, 600]), e2big);
        assert_eq!(kcall(run, "bpf_dynptr_copy", [packet, 0, memory, 1, 600]), e2big);
        assert_eq!(kcall(run, "bpf_dynptr_memset", [packet, 60, 1500, 0xaa, 0]), 0);
        let bytes = run.buff().to_vec();
        assert!(bytes.iter().enumerate().all(|(i, b)| (*b == 0xaa) == (60..1560).contains(&i) || *b == 0xaa));
        assert_eq!((bytes[59], bytes[60], bytes[1559], bytes[1560] == 0xaa), (bytes[59], 0xaa, 0xaa, false));
        assert_eq!(kcall(run, "bpf_dynptr_memset", [packet, 2000, 100, 0, 0]), e2big);
    });
}

#[test]
fn numbers_are_iterated() {
    with_run(64, World::default(), |run| {
        let it = give(run, &[0xff; 8]);
        let mut collect = |start: i32, end: i32| {
            let start = u64::from(start as u32);
            let made = kcall(run, "bpf_iter_num_new", [it, start, u64::from(end as u32), 0, 0]);
            let mut numbers = Vec::new();
            loop {
                match kcall(run, "bpf_iter_num_next", [it, 0, 0, 0, 0]) {
                    0 => break,
                    at => numbers.push(run.read(at, 4).unwrap().read_u32(0) as i32),
                }
            }
            kcall(run, "bpf_iter_num_destroy", [it, 0, 0, 0, 0]);
            (made, numbers)
        };
        assert_eq!(collect(-2, 2), (0, vec![-2, -1, 0, 1]));
        assert_eq!(collect(5, 5), (0, vec![]));
        assert_eq!(collect(5, 4), (EINVAL, vec![]));
        assert_eq!(collect(0, 8 << 20 | 1), (int(Errno::E2BIG), vec![]));
        assert_eq!(collect(i32::MAX - 1, i32::MAX), (0, vec![i32::MAX - 1]));
        assert_eq!(collect(i32::MIN, i32::MIN + 2), (0, vec![i32::MIN, i32::MIN + 1]));
    });
}

#[test]
fn bits_are_iterated() {
    with_run(64, World::default(), |run| {
        let it = give(run, &[0xff; 16]);
        let mut collect = |words: &[u64], nr: u64| {
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            let at = if bytes.is_empty() { 0 } else { give(run, &bytes) };
            let made = kcall(run, "bpf_iter_bits_new", [it, at, nr, 0, 0]);
            let mut bits = Vec::new();
            loop {
                match kcall(run, "bpf_iter_bits_next", [it, 0, 0, 0, 0]) {
                    0 => break,
                    at => bits.push(run.read(at, 4).unwrap().read_u32(0)),
                }
            }
            kcall(run, "bpf_iter_bits_destroy", [it, 0, 0, 0, 0]);
            (made, bits)
        };
        assert_eq!(collect(&[1 << 63 | 5], 1), (0, vec![0, 2, 63]));
        assert_eq!(collect(&[1 << 63, 1, 0, 2], 4), (0, vec![63, 64, 193]));
        assert_eq!(collect(&[0, 0], 2), (0, vec![]));
        assert_eq!(collect(&[], 1), (EINVAL, vec![]));
        assert_eq!(collect(&[1], 0), (EINVAL, vec![]));
        assert_eq!(collect(&[1], 512), (int(Errno::E2BIG), vec![]));
        assert_eq!(collect(&[1], 2), (int(Errno::ERANGE), vec![]), "one word is there");
    });
}

#[test]
fn strings_are_searched_and_compared() {
    with_run(64, World::default(), |run| {
        let (hello, upper) = (give(run, b"hello\0"), give(run, b"HELLO\0"));
        let (help, ll, empty) = (give(run, b"help\0"), give(run, b"ll\0"), give(run, b"\0"));
        let (vowels, open) = (give(run, b"aeiou\0"), give(run, b"open"));
        let (erange, efault) = (int(Errno::ERANGE), int(Errno::EFAULT));
        for (name, args, expected) in [
            ("bpf_strcmp", [hello, hello, 0], 0),
            ("bpf_strcmp", [hello, help, 0], -1_i64 as u64),
            ("bpf_strcmp", [help, hello, 0], 1),
            ("bpf_strcmp", [hello, upper, 0], 1),
            ("bpf_strcasecmp", [hello, upper, 0], 0),
            ("bpf_strcmp", [0, hello, 0], erange),
            ("bpf_strcmp", [u64::MAX, hello, 0], efault),
            ("bpf_strcmp", [open, open, 0], efault),
            ("bpf_strlen", [hello, 0, 0], 5),
            ("bpf_strlen", [open, 0, 0], efault),
            ("bpf_strnlen", [hello, 3, 0], 3),
            ("bpf_strnlen", [open, 4, 0], 4),
            ("bpf_strchr", [hello, u64::from(b'l'), 0], 2),
            ("bpf_strchr", [hello, 0, 0], 5),
            ("bpf_strchr", [hello, u64::from(b'x'), 0], ENOENT),
            ("bpf_strnchr", [hello, 2, u64::from(b'l')], ENOENT),
            ("bpf_strnchr", [hello, 3, u64::from(b'l')], 2),
            ("bpf_strchrnul", [hello, u64::from(b'x'), 0], 5),
            ("bpf_strrchr", [hello, u64::from(b'l'), 0], 3),
            ("bpf_strrchr", [hello, u64::from(b'x'), 0], ENOENT),
            ("bpf_strspn", [hello, help, 0], 4),
            ("bpf_strspn", [hello, empty, 0], 0),
            ("bpf_strcspn", [hello, vowels, 0], 1),
            ("bpf_strcspn", [hello, empty, 0], 5),
            ("bpf_strstr", [hello, ll, 0], 2),
            ("bpf_strstr", [hello, empty, 0], 0),
            ("bpf_strstr", [hello, vowels, 0], ENOENT),
            ("bpf_strnstr", [hello, ll, 4], 2),
            ("bpf_strnstr", [hello, ll, 3], ENOENT),
        ] {
            let [a, b, c] = args;
            let result = kcall(run, name, [a, b, c, 0, 0]);
            assert_eq!(result as i32, expected as i32, "{name} {args:x?}");
        }
    });
}

#[test]
fn what_the_device_knows_is_told_or_refused() {
    with_run(64, World::default(), |run| {
        let (ctx, a, b) = (run.memory.ctx(), give(run, &[0; 8]), give(run, &[0; 8]));
        for name in ["rx_timestamp", "rx_hash", "rx_vlan_tag"] {
            let name = format!("bpf_xdp_metadata_{name}");
            assert_eq!(kcall(run, &name, [ctx, a, b, 0, 0]), int(Errno::EOPNOTSUPP));
        }
        let hints = RxHints { timestamp_ns: Ok(123), hash: Ok((7, 8)), vlan: Err(Errno::ENODATA) };
        run.with_buff(|buff| buff.set_hints(hints));
        assert_eq!(kcall(run, "bpf_xdp_metadata_rx_timestamp", [ctx, a, 0, 0, 0]), 0);
        assert_eq!(run.read(a, 8).unwrap().read_u64(0), 123);
        assert_eq!(kcall(run, "bpf_xdp_metadata_rx_hash", [ctx, a, b, 0, 0]), 0);
        assert_eq!((run.read(a, 4).unwrap().read_u32(0), run.read(b, 4).unwrap().read_u32(0)), (7, 8));
        assert_eq!(kcall(run, "bpf_xdp_metadata_rx_vlan_tag", [ctx, a, b, 0, 0]), int(Errno::ENODATA));
    });
}

#[test]
fn the_context_can_be_seen_as_the_kernels() {
    with_run(64, World::default(), |run| {
        let ctx = run.memory.ctx();
        let buff = kcall(run, "bpf_cast_to_kern_ctx", [ctx, 0, 0, 0, 0]);
        let word = |run: &Run<'_, '_>, at: u64| run.read(at, 8).unwrap().read_u64(0);
        let (data, end, meta) = (word(run, buff), word(run, buff + 8), word(run, buff + 16));
        assert_eq!((end - data, meta - data, data - word(run, buff + 24)), (64, 0, 256));
        assert_eq!(run.read(data, 64).unwrap().read_u8(63), 63);
        let rxq = word(run, buff + 32);
        assert_eq!((word(run, rxq + 8) as u32, word(run, rxq + 24) as u32), (0, 4096));
        assert_eq!(word(run, buff + 48), 4096);
        assert!(run.write(buff, 8).is_err());
    });
}
