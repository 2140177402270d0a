//! Text: numbers, comparison, printing.

use uapi::Errno;
use uapi::bpf::func;

use super::EINVAL;
use super::world::{World, call, give, with_run};

#[test]
fn numbers_are_read_and_errors_leave_zero() {
    with_run(64, World::default(), |run| {
        let out = give(run, &[0xff; 8]);
        for (text, flags, signed, expected, value) in [
            ("-12 ", 0, true, 3, -12_i64 as u64),
            ("0x10", 16, true, 4, 16),
            ("9223372036854775807", 10, true, 19, i64::MAX as u64),
            ("9223372036854775808", 10, true, Errno::ERANGE.as_ret(), 0),
            ("-9223372036854775808", 10, true, 20, i64::MIN as u64),
            ("-9223372036854775809", 10, true, Errno::ERANGE.as_ret(), 0),
            ("x", 10, true, EINVAL, 0),
            ("1", 9, true, EINVAL, 0),
            ("18446744073709551615", 10, false, 20, u64::MAX),
            ("-1", 10, false, EINVAL, 0),
        ] {
            let buf = give(run, text.as_bytes());
            let id = if signed { func::STRTOL } else { func::STRTOUL };
            assert_eq!(call(run, id, [buf, text.len() as u64, flags, out, 0]), expected, "{text}");
            assert_eq!(run.read(out, 8).unwrap().read_u64(0), value, "{text}");
        }
    });
}

#[test]
fn strncmp_stops_at_the_end_of_either() {
    with_run(64, World::default(), |run| {
        let a = give(run, b"abc\0xx");
        let b = give(run, b"abd\0");
        assert_eq!(call(run, func::STRNCMP, [a, 2, b, 0, 0]), 0);
        assert_eq!(call(run, func::STRNCMP, [a, 6, b, 0, 0]), -1_i64 as u64);
        assert_eq!(call(run, func::STRNCMP, [b, 4, a, 0, 0]), 1);
        let c = give(run, b"abc\0");
        assert_eq!(call(run, func::STRNCMP, [a, 6, c, 0, 0]), 0, "nothing is read behind the end");
    });
}

#[test]
fn printk_takes_three_arguments_and_sends_a_line() {
    let world = World::default();
    let log = world.log.clone();
    with_run(64, world, |run| {
        let fmt = give(run, b"%d %s %x\n\0");
        let text = give(run, b"str\0");
        assert_eq!(call(run, func::TRACE_PRINTK, [fmt, 10, 5, text, 255]), 9);
        let fmt = give(run, b"%d %d %d %d\0");
        assert_eq!(call(run, func::TRACE_PRINTK, [fmt, 12, 1, 2, 3]), EINVAL);
        assert_eq!(call(run, func::TRACE_PRINTK, [fmt, 11, 1, 2, 3]), EINVAL, "no end within the size");
        let args = give(run, &[1; 32]);
        assert_eq!(call(run, func::TRACE_VPRINTK, [fmt, 12, args, 31, 0]), EINVAL);
        assert_eq!(call(run, func::TRACE_VPRINTK, [fmt, 12, args, 104, 0]), EINVAL);
        assert_eq!(call(run, func::TRACE_VPRINTK, [fmt, 12, 0, 8, 0]), EINVAL);
        assert_eq!(call(run, func::TRACE_VPRINTK, [fmt, 12, args, 32, 0]), 35);
    });
    let four = ["16843009"; 4].join(" ");
    assert_eq!(*log.borrow(), [r#"Trace("5 str ff\n")"#.to_owned(), format!("Trace({four:?})")]);
}

#[test]
fn snprintf_answers_the_whole_length_with_its_end() {
    with_run(64, World::default(), |run| {
        let out = give(run, &[0xff; 8]);
        let fmt = give(run, b"%d-%d\0");
        let args = give(run, &[7, 0, 0, 0, 0, 0, 0, 0, 42, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(call(run, func::SNPRINTF, [out, 8, fmt, args, 16]), 5);
        assert_eq!(run.read(out, 5).unwrap().to_vec(), b"7-42\0");
        assert_eq!(call(run, func::SNPRINTF, [out, 3, fmt, args, 16]), 5);
        assert_eq!(run.read(out, 5).unwrap().to_vec(), b"7-\x002\0");
        assert_eq!(call(run, func::SNPRINTF, [0, 0, fmt, args, 16]), 5);
        assert_eq!(call(run, func::SNPRINTF, [out, 8, fmt, args, 8]), EINVAL, "too few arguments");
        assert_eq!(call(run, func::SNPRINTF, [out, 8, fmt, args, 15]), EINVAL);
    });
}

#[test]
fn memory_that_may_not_be_there_is_read_or_zeroed() {
    with_run(64, World::default(), |run| {
        let (dst, src) = (give(run, &[0xff; 8]), give(run, b"hello\0xyz"));
        let efault = Errno::EFAULT.as_ret();
        assert_eq!(call(run, func::PROBE_READ_KERNEL, [dst, 8, src, 0, 0]), 0);
        assert_eq!(run.read(dst, 8).unwrap().to_vec(), b"hello\0xy");
        assert_eq!(call(run, func::PROBE_READ_KERNEL, [dst, 8, src + 2, 0, 0]), Errno::ERANGE.as_ret());
        assert_eq!(run.read(dst, 8).unwrap().to_vec(), [0; 8]);
        assert_eq!(call(run, func::PROBE_READ_KERNEL_STR, [dst, 8, src, 0, 0]), 6);
        assert_eq!(call(run, func::PROBE_READ_KERNEL_STR, [dst, 3, src, 0, 0]), 3);
        assert_eq!(run.read(dst, 6).unwrap().to_vec(), b"he\0lo\0");
        assert_eq!(call(run, func::PROBE_READ_KERNEL_STR, [dst, 8, 1, 0, 0]), Errno::ERANGE.as_ret());
        assert_eq!(call(run, func::PROBE_READ_KERNEL, [dst, 8, u64::MAX - 9, 0, 0]), efault);
        assert_eq!(call(run, func::PROBE_READ_USER, [dst, 8, src, 0, 0]), efault);
        assert_eq!(run.read(dst, 8).unwrap().to_vec(), [0; 8]);
    });
}
