//! The numbers are a running 6.18 kernel's answers.

use bpf::Insn;
use bpf::maps::{FieldKind, Map, MapContext, MapDef, SpecialField};
use bpf::object::ProgramSpec;
use bpf::vm::Symbols;
use uapi::bpf::{BPF_PSEUDO_FUNC, BPF_PSEUDO_MAP_IDX, MapType, func};

use super::*;

fn mov(dst: u8, imm: i32) -> Insn {
    Insn::new(0xb7, dst, 0, 0, imm)
}

fn mov_reg(dst: u8, src: u8) -> Insn {
    Insn::new(0xbf, dst, src, 0, 0)
}

fn call(helper: i32) -> Insn {
    Insn::new(0x85, 0, 0, 0, helper)
}

const EXIT: Insn = Insn::new(0x95, 0, 0, 0, 0);

fn link(spec: &ProgramSpec) -> Arc<Program> {
    let symbols = Symbols { helper: bpf::helpers::helper, kfunc: |_| None };
    Arc::new(Program::link(spec, 1, &[], symbols).expect("links"))
}

/// Calls helpers with the context and one number each, and answers what the last one answers.
fn calls(list: &[(i32, i32)]) -> Arc<Program> {
    let mut insns = vec![mov_reg(6, 1)];
    for (helper, arg) in list {
        insns.extend([mov_reg(1, 6), mov(2, *arg), call(*helper)]);
    }
    insns.push(EXIT);
    link(&ProgramSpec::bare("calls", insns))
}

fn pass() -> Arc<Program> {
    link(&ProgramSpec::bare("pass", vec![mov(0, 2), EXIT]))
}

fn host() -> SeededHost {
    SeededHost::new(1, Arc::default())
}

fn run(program: &Arc<Program>, request: &TestRun) -> Result<TestRunOutput, Errno> {
    Runner::new().test_run(program, &mut host(), request).map_err(|e| e.errno)
}

fn packet(size: usize, ctx: Option<XdpMd>) -> TestRun {
    TestRun { data: (0..size).map(|i| i as u8).collect(), ctx, ..TestRun::default() }
}

fn md(data: u32, data_end: u32) -> XdpMd {
    XdpMd { data, data_end, ..XdpMd::default() }
}

fn ends(output: &TestRunOutput) -> (usize, u32, u32) {
    (output.data.len(), output.ctx.data, output.ctx.data_end)
}

#[test]
fn sizes_have_bounds_and_what_exceeds_a_page_goes_to_fragments() {
    for (size, expected) in [
        (0, Err(Errno::EINVAL)),
        (13, Err(Errno::EINVAL)),
        (14, Ok((14, 0, 14))),
        (3520, Ok((3520, 0, 3520))),
        (3521, Ok((3521, 0, 3520))),
        (9000, Ok((9000, 0, 3520))),
        (3520 + 17 * 4096, Ok((73152, 0, 3520))),
        (3520 + 17 * 4096 + 1, Err(Errno::ENOMEM)),
    ] {
        let request = packet(size, None);
        let output = run(&pass(), &request);
        assert_eq!(output.as_ref().map(ends).map_err(|e| *e), expected, "{size}");
        assert!(output.is_err() || output.is_ok_and(|out| out.data == request.data && out.retval == 2));
    }
}

#[test]
fn the_context_says_what_is_metadata_and_what_is_linear() {
    let refused = Err(Errno::EINVAL);
    for (size, data, data_end, expected) in [
        (64, 0, 64, Ok((64, 0, 64))),
        (64, 0, 0, Ok((64, 0, 0))),
        (64, 0, 32, Ok((64, 0, 32))),
        (64, 0, 65, refused),
        (64, 4, 64, Ok((64, 4, 64))),
        (64, 3, 64, refused),
        (300, 252, 300, refused),
        (300, 216, 300, Ok((300, 216, 300))),
        (300, 220, 300, refused),
        (64, 52, 64, refused),
        (64, 4, 4, Ok((64, 4, 4))),
        (9000, 32, 16, refused),
        (9000, 32, 32, Ok((9000, 32, 32))),
        (9000, 32, 9000, Ok((9000, 32, 3552))),
    ] {
        let request = packet(size, Some(md(data, data_end)));
        let output = run(&pass(), &request);
        assert_eq!(output.as_ref().map(ends).map_err(|e| *e), expected, "{size} {data} {data_end}");
        assert!(output.is_err() || output.is_ok_and(|out| out.data == request.data));
    }
    let request = packet(64, Some(XdpMd { data_meta: 4, ..md(8, 64) }));
    assert_eq!(run(&pass(), &request), Err(Errno::EINVAL));
}

#[test]
fn the_context_names_a_device_that_exists() {
    let on = |ingress_ifindex, rx_queue_index, egress_ifindex| {
        let ctx = XdpMd { ingress_ifindex, rx_queue_index, egress_ifindex, ..md(0, 64) };
        run(&pass(), &packet(64, Some(ctx))).map(|output| output.ctx)
    };
    assert_eq!(on(1, 0, 0), Ok(XdpMd { ingress_ifindex: 1, ..md(0, 64) }));
    assert_eq!(on(1, 1, 0), Err(Errno::EINVAL));
    assert_eq!(on(0, 1, 0), Err(Errno::EINVAL));
    assert_eq!(on(9999, 0, 0), Err(Errno::ENODEV));
    assert_eq!(on(0, 0, 1), Err(Errno::EINVAL));
}

#[test]
fn the_program_sees_the_queue() {
    let net = NetTables::from_toml("devices = [{ ifindex = 7, name = \"e0\", rx_queues = 4 }]").unwrap();
    let load = |offset| Insn::new(0x61, 0, 1, offset, 0);
    for (offset, without, with) in [(12, 1, 7), (16, 0, 3)] {
        let program = link(&ProgramSpec::bare("load", vec![load(offset), EXIT]));
        let mut host = SeededHost::new(1, Arc::new(net.clone()));
        let mut on =
            |ctx| Runner::new().test_run(&program, &mut host, &packet(64, ctx)).map(|out| out.retval);
        assert_eq!(on(None), Ok(without));
        assert_eq!(on(Some(XdpMd { ingress_ifindex: 7, rx_queue_index: 3, ..md(0, 64) })), Ok(with));
    }
}

#[test]
fn programs_for_other_hooks_cannot_be_run() {
    for attach_type in [AttachType::Devmap, AttachType::Cpumap] {
        let spec = ProgramSpec { attach_type, ..ProgramSpec::bare("p", vec![mov(0, 2), EXIT]) };
        assert_eq!(run(&link(&spec), &packet(64, None)), Err(Errno::EINVAL));
    }
}

#[test]
fn repeated_runs_work_on_what_the_last_one_left() {
    let program = calls(&[(func::XDP_ADJUST_HEAD, 10)]);
    let repeated = |repeat| run(&program, &TestRun { repeat, ..packet(64, None) }).unwrap();
    assert_eq!(repeated(0).data.len(), 54);
    assert_eq!(repeated(3).data.len(), 34);
    let output = repeated(6);
    assert_eq!((output.data.len(), output.retval as i32), (14, -22));
}

#[test]
fn the_room_around_a_packet_is_zero_every_time() {
    let program = calls(&[(func::XDP_ADJUST_HEAD, -20), (func::XDP_ADJUST_TAIL, 20)]);
    let mut runner = Runner::new();
    let request = TestRun { data: vec![0xff; 64], ..TestRun::default() };
    for _ in 0..2 {
        let output = runner.test_run(&program, &mut host(), &request).expect("runs");
        assert_eq!(output.data, [vec![0; 20], vec![0xff; 64], vec![0; 20]].concat());
    }
}

#[test]
fn helpers_that_move_the_packet_answer_as_the_kernels_do() {
    let (head, meta, tail) = (func::XDP_ADJUST_HEAD, func::XDP_ADJUST_META, func::XDP_ADJUST_TAIL);
    for (size, list, expected) in [
        (64, &[(meta, -4), (head, -4)][..], (0, (72, 4, 72))),
        (64, &[(meta, -216), (head, -1)], (-22, (280, 216, 280))),
        (64, &[(meta, -220)], (-22, (64, 0, 64))),
        (9000, &[(tail, -5481)], (0, (3519, 0, 3519))),
        (9000, &[(tail, 2712)], (0, (11712, 0, 3520))),
        (9000, &[(tail, 2713)], (-22, (9000, 0, 3520))),
    ] {
        let output = run(&calls(list), &packet(size, Some(md(0, size as u32)))).expect("runs");
        assert_eq!((output.retval as i32, ends(&output)), expected, "{size} {list:?}");
    }
}

#[test]
fn fragments_grow_on_the_loopback_device_alone() {
    let net = Arc::new(NetTables::from_toml("devices = [{ ifindex = 7, name = \"e0\" }]").unwrap());
    let program = calls(&[(func::XDP_ADJUST_TAIL, 1)]);
    for (ingress_ifindex, expected) in [(0, 0), (1, 0), (7, -95)] {
        let ctx = XdpMd { ingress_ifindex, ..md(0, 32) };
        let mut host = SeededHost::new(1, net.clone());
        let output = Runner::new().test_run(&program, &mut host, &packet(64, Some(ctx))).expect("runs");
        assert_eq!(output.retval as i32, expected, "{ingress_ifindex}");
    }
}

#[test]
fn time_and_random_numbers_are_recorded_and_replayed() {
    let program = calls(&[(func::KTIME_GET_NS, 0), (func::GET_PRANDOM_U32, 0)]);
    let mut host = host();
    let request = TestRun { time_ns: 77, ..packet(64, None) };
    let first = Runner::new().test_run(&program, &mut host, &request).expect("runs");
    assert_eq!(first.scripted.iter().map(|c| c.helper).collect::<Vec<_>>(), [5, 7]);
    assert_eq!((first.scripted[0].value, first.scripted[1].value as u32), (77, first.retval));
    let again = TestRun { script: first.scripted.clone(), ..packet(64, None) };
    let second = Runner::new().test_run(&program, &mut host, &again).expect("runs");
    assert_eq!((second.retval, second.off_script, second.scripted), (first.retval, 0, first.scripted));
}

#[test]
fn a_violation_says_what_and_where() {
    let program = link(&ProgramSpec::bare("bad", vec![Insn::new(0x79, 0, 10, 8, 0), EXIT]));
    let error =
        Runner::new().test_run(&program, &mut host(), &packet(64, None)).expect_err("out of the stack");
    assert_eq!(error.errno, Errno::EFAULT);
    assert!(error.reason.starts_with("insn 0: read of 8 bytes"), "{}", error.reason);
    let forever = link(&ProgramSpec::bare("forever", vec![Insn::new(0x05, 0, 0, -1, 0), EXIT]));
    let error =
        Runner::with_fuel(1000).test_run(&forever, &mut host(), &packet(64, None)).expect_err("stops");
    assert!(error.reason.contains("more instructions than allowed"), "{}", error.reason);
}

/// Starts a timer in value 0 of map 0 that counts there every ten nanoseconds.
fn periodic() -> Vec<Insn> {
    let (r0, r1, r2, r3, r6, r10) = (0, 1, 2, 3, 6, 10);
    let map = Insn::new(0x18, r1, BPF_PSEUDO_MAP_IDX, 0, 0);
    let add = |dst, imm| Insn::new(0x07, dst, 0, 0, imm);
    let timer = |first: &[Insn]| [&[mov_reg(r1, r6), add(r1, 8)], first].concat();
    let mut insns = vec![Insn::new(0x7a, r10, 0, -8, 0), map, Insn::default(), mov_reg(r2, r10), add(r2, -8)];
    insns.extend([call(func::MAP_LOOKUP_ELEM), mov_reg(r6, r0)]);
    insns.extend(timer(&[Insn { dst: r2, ..map }, Insn::default(), mov(r3, 1), call(func::TIMER_INIT)]));
    let to_callback = 9;
    let callback = Insn::new(0x18, r2, BPF_PSEUDO_FUNC, 0, to_callback);
    insns.extend(timer(&[callback, Insn::default(), call(func::TIMER_SET_CALLBACK)]));
    insns.extend(timer(&[mov(r2, 10), mov(r3, 0), call(func::TIMER_START)]));
    insns.extend([mov(r0, 2), EXIT]);
    insns.extend([mov_reg(r6, r3), Insn::new(0x79, r1, r6, 0, 0), add(r1, 1), Insn::new(0x7b, r6, r1, 0, 0)]);
    insns.extend(timer(&[mov(r2, 10), mov(r3, 0), call(func::TIMER_START)]));
    insns.extend([mov(r0, 0), EXIT]);
    insns
}

#[test]
fn timers_run_at_their_own_times() {
    let fields = vec![SpecialField { offset: 8, kind: FieldKind::Timer }];
    let def = MapDef { fields, ..MapDef::new(MapType::Array, 4, 24, 1) };
    let map = Map::create(def, &MapContext::default()).expect("correct");
    let fd = map.open();
    let symbols = Symbols { helper: bpf::helpers::helper, kfunc: |_| None };
    let spec = ProgramSpec::bare("periodic", periodic());
    let program = Arc::new(Program::link(&spec, 1, std::slice::from_ref(&map), symbols).expect("links"));
    let (mut runner, mut host) = (Runner::new(), host());
    let request = TestRun { time_ns: 1000, ..packet(64, None) };
    assert_eq!(runner.test_run(&program, &mut host, &request).map(|out| out.retval), Ok(2));
    let count = || u64::from_le_bytes(fd.lookup_elem(&[0; 4], 0).unwrap()[..8].try_into().unwrap());
    assert_eq!(runner.run_timers(&mut host, 1009), Ok(0));
    assert_eq!(runner.run_timers(&mut host, 1010), Ok(1));
    assert_eq!((runner.run_timers(&mut host, 1100), host.time_ns()), (Ok(9), 1100));
    assert_eq!(count(), 10);
}
