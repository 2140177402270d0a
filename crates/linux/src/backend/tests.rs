//! What the kernel makes of objects: every program of `programs/`, and small ones written here.

use bpf::Insn;
use bpf::object::{MapContents, MapSpec, ObjectSpec, ProgramSpec, SlotRef};
use control::{Backend, LoadError, LoadOptions, Loaded, OutputEvent, ScriptedCall, TestRun};
use uapi::Errno;
use uapi::bpf::*;
use uapi::xdp::XdpMd;

use super::{KernelBackend, KernelObject};
use crate::sys::possible_cpus;

mod asm;
mod objects;
mod scripts;

use asm::*;

/// An object with one program, `main`.
fn object(maps: Vec<MapSpec>, insns: Vec<Insn>) -> ObjectSpec {
    ObjectSpec {
        name: "test.bpf.o".to_owned(),
        license: "GPL".to_owned(),
        maps,
        programs: vec![ProgramSpec::bare("main", insns)],
        ..ObjectSpec::default()
    }
}

fn map(name: &str, map_type: MapType, key: u32, value: u32, entries: u32) -> MapSpec {
    MapSpec {
        name: name.to_owned(),
        map_type,
        key_size: key,
        value_size: value,
        max_entries: entries,
        ..asm::empty_map()
    }
}

fn load(spec: &ObjectSpec, programs: &[&str], scripted: bool) -> Result<KernelObject, LoadError> {
    let programs = programs.iter().map(|p| (*p).to_owned()).collect();
    KernelObject::load(spec, &LoadOptions { programs, scripted, ..LoadOptions::default() })
}

fn packet(len: usize) -> TestRun {
    TestRun { data: (0..len).map(|i| i as u8).collect(), ..TestRun::default() }
}

fn run(object: &mut KernelObject, request: &TestRun) -> u32 {
    object.test_run("main", request).unwrap().retval
}

#[test]
fn kernel_runs_a_packet_and_gives_back_data_and_context() {
    crate::needs_kernel!();
    let spec = object(
        vec![],
        [
            mov_reg(6, 1),
            mov(2, -8),
            call(func::XDP_ADJUST_META),
            mov_reg(1, 6),
            mov(2, 4),
            call(func::XDP_ADJUST_HEAD),
        ]
        .into_iter()
        .chain(ret(2))
        .collect(),
    );
    let mut backend = KernelBackend::new().unwrap();
    assert_eq!((backend.name(), backend.possible_cpus()), ("kernel", possible_cpus()));
    let options = LoadOptions { programs: vec!["main".to_owned()], ..LoadOptions::default() };
    let mut loaded = backend.load(&spec, &options).unwrap();
    assert_eq!(loaded.programs().len(), 1);
    let request = packet(60);
    let output = loaded.test_run("main", &request).unwrap();
    assert_eq!((output.retval, output.ctx.data, output.ctx.data_end), (2, 8, 8 + 56));
    assert_eq!(output.data[8..], request.data[4..]);
    let again = TestRun { repeat: 3, ..request.clone() };
    assert_eq!(loaded.test_run("main", &again).unwrap().data.len(), 24 + 60 - 12, "the buffer is reused");

    // Metadata in the context, and a linear part that ends early.
    let ctx = XdpMd { data: 4, data_end: 40, ..XdpMd::default() };
    let split = TestRun { ctx: Some(ctx), ..packet(64) };
    let output = loaded.test_run("main", &split).unwrap();
    assert_eq!((output.ctx.data, output.ctx.data_end, output.data.len()), (12, 12 + 32, 12 + 56));
}

#[test]
fn kernel_says_why_a_packet_cannot_be_run() {
    crate::needs_kernel!();
    let mut loaded = load(&object(vec![], ret(2)), &["main"], false).unwrap();
    let mut reason = |request: &TestRun| {
        let e = loaded.test_run("main", request).unwrap_err();
        (e.errno, e.reason)
    };
    let with = |ctx: XdpMd| TestRun { ctx: Some(ctx), ..packet(64) };
    let cases = [
        (packet(13), Errno::EINVAL, "at least 14 bytes"),
        (with(XdpMd { data_meta: 4, data_end: 64, ..XdpMd::default() }), Errno::EINVAL, "data_meta"),
        (with(XdpMd { data_end: 65, ..XdpMd::default() }), Errno::EINVAL, "beyond the packet"),
        (with(XdpMd { data: 3, data_end: 64, ..XdpMd::default() }), Errno::EINVAL, "multiple of 4"),
        (with(XdpMd { egress_ifindex: 1, data_end: 64, ..XdpMd::default() }), Errno::EINVAL, "egress"),
        (
            with(XdpMd { rx_queue_index: 1, data_end: 64, ..XdpMd::default() }),
            Errno::EINVAL,
            "needs a device",
        ),
        (
            with(XdpMd { ingress_ifindex: 1, rx_queue_index: 77, data_end: 64, ..XdpMd::default() }),
            Errno::EINVAL,
            "no receive queue 77",
        ),
        (
            with(XdpMd { ingress_ifindex: 1 << 30, data_end: 64, ..XdpMd::default() }),
            Errno::ENODEV,
            "no device 1073741824",
        ),
        (packet(3520 + 17 * 4096 + 1), Errno::ENOMEM, "does not fit"),
        (TestRun { cpu: 1 << 20, ..packet(64) }, Errno::EINVAL, "CPU 1048576"),
    ];
    for (request, errno, text) in cases {
        let (e, r) = reason(&request);
        assert_eq!(e, errno, "{r}");
        assert!(r.contains(text), "{r:?} has no {text:?}");
    }
    assert_eq!(loaded.test_run("other", &packet(64)).unwrap_err().errno, Errno::ENOENT);
}

#[test]
fn kernel_rejections_keep_the_whole_log() {
    crate::needs_kernel!();
    // Reads the packet's first bytes without looking at its end.
    let insns = vec![ldx(BPF_W, 2, 1, 0), ldx(BPF_H, 0, 2, 0), exit()];
    let refused = load(&object(vec![], insns), &["main"], false).unwrap_err();
    let LoadError::Program { program, errno, reason, log } = refused else { panic!("{refused}") };
    assert_eq!((program.as_str(), errno), ("main", Errno::EACCES));
    assert!(reason.contains("R2 offset is outside of the packet"), "{reason}");
    assert!(log.contains("invalid access to packet") && log.contains("processed "), "{log}");

    let refused = load(&object(vec![], ret(2)), &["absent"], false).unwrap_err();
    assert!(refused.to_string().starts_with("program absent: no program of this name"), "{refused}");
    let bad_map = object(vec![map("m", MapType::Array, 8, 4, 1)], ret(2));
    let refused = load(&bad_map, &["main"], false).unwrap_err().to_string();
    assert_eq!(
        refused,
        "map m: array with key 8, value 4, entries 1, flags 0x0: EINVAL (Invalid argument): the kernel \
         does not take these sizes and flags for this type"
    );
}

#[test]
fn kernel_data_maps_are_filled_and_frozen() {
    crate::needs_kernel!();
    let mut rodata = map(".rodata", MapType::Array, 4, 8, 1);
    rodata.map_flags = BPF_F_RDONLY_PROG | BPF_F_MMAPABLE;
    rodata.contents = MapContents::Data(7_u64.to_le_bytes().to_vec());
    rodata.frozen = true;
    let mut bss = map(".bss", MapType::Array, 4, 8, 1);
    bss.map_flags = BPF_F_MMAPABLE;
    let mut insns = vec![];
    insns.extend(ld_map_value(1, 0, 4));
    insns.extend([ldx(BPF_W, 3, 1, 0)]);
    insns.extend(ld_map_value(1, 0, 0));
    insns.extend([ldx(BPF_W, 0, 1, 0), add_reg(0, 3)]);
    insns.extend(ld_map_value(2, 1, 0));
    insns.extend([stx(BPF_DW, 2, 0, 0), exit()]);
    let mut loaded = load(&object(vec![rodata, bss], insns), &["main"], false).unwrap();
    assert_eq!(run(&mut loaded, &packet(64)), 7);
    assert_eq!(loaded.map_lookup(1, &[0; 4]).unwrap(), 7_u64.to_le_bytes());
    assert_eq!(loaded.map_update(0, &[0; 4], &[0; 8], 0).unwrap_err(), Errno::EPERM, "frozen");
    loaded.map_update(1, &[0; 4], &[1; 8], 0).unwrap();
    assert_eq!(loaded.map_lookup(2, &[0; 4]).unwrap_err(), Errno::EBADF);
}

#[test]
fn kernel_maps_hold_maps_and_programs_from_the_start() {
    crate::needs_kernel!();
    let mut outer = map("outer", MapType::HashOfMaps, 4, 4, 4);
    outer.inner = Some(Box::new(map("inner", MapType::Array, 4, 8, 1)));
    outer.contents = MapContents::Slots(vec![(5, SlotRef::Map(0))]);
    let mut jumps = map("jumps", MapType::ProgArray, 4, 4, 2);
    jumps.contents = MapContents::Slots(vec![(1, SlotRef::Program("second".to_owned()))]);
    let maps = vec![map("target", MapType::Array, 4, 8, 1), outer, jumps];
    // Looks up key 5 in the outer map, key 0 in what it finds, writes there, and tail calls.
    let mut insns = vec![mov_reg(6, 1), st(BPF_W, 10, -4, 5), mov_reg(2, 10), add(2, -4)];
    insns.extend(ld_map(1, 1));
    insns.extend([call(func::MAP_LOOKUP_ELEM), jne(0, 0, 2), mov(0, 10), exit()]);
    insns.extend([st(BPF_W, 10, -4, 0), mov_reg(2, 10), add(2, -4), mov_reg(1, 0)]);
    insns.extend([call(func::MAP_LOOKUP_ELEM), jne(0, 0, 2), mov(0, 11), exit()]);
    insns.extend([st(BPF_DW, 0, 0, 99), mov_reg(1, 6)]);
    insns.extend(ld_map(2, 2));
    insns.extend([mov(3, 1), call(func::TAIL_CALL), mov(0, 12), exit()]);
    let mut spec = object(maps, insns);
    spec.programs.push(ProgramSpec::bare("second", ret(4)));
    spec.programs.push(ProgramSpec::bare("third", ret(5)));
    let mut loaded = load(&spec, &["main"], false).unwrap();
    let names: Vec<_> = loaded.programs().iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["main", "second"], "what the array names is loaded with it");
    assert_eq!(run(&mut loaded, &packet(64)), 4);
    assert_eq!(loaded.map_lookup(0, &[0; 4]).unwrap(), 99_u64.to_le_bytes());
    assert_eq!(loaded.map_lookup(1, &5_u32.to_le_bytes()).unwrap(), loaded.maps()[0].id.to_le_bytes());
    assert_eq!(loaded.map_lookup(2, &1_u32.to_le_bytes()).unwrap(), loaded.programs()[1].id.to_le_bytes());
    assert_eq!(loaded.map_next_key(1, None).unwrap(), 5_u32.to_le_bytes());
}

#[test]
fn kernel_events_arrive_in_order() {
    crate::needs_kernel!();
    let maps = vec![map("rb", MapType::Ringbuf, 0, 0, 4096), map("pe", MapType::PerfEventArray, 4, 4, 64)];
    // Sends its first 8 bytes of stack to both, with 6 bytes of the packet after the sample.
    let mut insns = vec![mov_reg(6, 1), ldx(BPF_W, 7, 1, 16), st(BPF_DW, 10, -8, 0x1122)];
    insns.extend([mov_reg(2, 10), add(2, -8)]);
    insns.extend(ld_map(1, 0));
    insns.extend([mov(3, 5), mov(4, 0), call(func::RINGBUF_OUTPUT), mov_reg(8, 0)]);
    insns.extend([mov_reg(1, 6), mov_reg(4, 10), add(4, -8), mov(5, 8)]);
    insns.extend(ld_map(2, 1));
    insns.extend(ld_imm64(3, 6 << 32 | 0xffff_ffff));
    insns.extend([call(func::PERF_EVENT_OUTPUT), add_reg(0, 8), exit()]);
    let mut loaded = load(&object(maps, insns), &["main"], false).unwrap();
    assert_eq!(loaded.warnings(), &[] as &[String]);
    let cpu = possible_cpus() - 1;
    for _ in 0..2000 {
        assert_eq!(run(&mut loaded, &TestRun { cpu, ..packet(64) }), 0);
        let events = loaded.take_events();
        let mut sample = 0x1122_u64.to_le_bytes().to_vec();
        sample.extend([0, 1, 2, 3, 4, 5]);
        let expected = [
            OutputEvent::Ringbuf { map: 0, data: sample[..5].to_vec() },
            OutputEvent::Perf { map: 1, cpu, data: sample },
        ];
        assert_eq!(events.len(), 2);
        assert!(events.iter().zip(&expected).all(|(a, b)| a.agrees(b)), "{events:?}");
    }
    assert!(loaded.take_events().is_empty());
    // Nobody reads: the ring buffer fills up, and the program is told so.
    let full = (0..4096).find(|_| run(&mut loaded, &packet(64)) != 0);
    assert!(full.is_some(), "a page of records must fill up");
}

#[test]
fn kernel_runs_on_the_cpu_that_was_asked_for() {
    crate::needs_kernel!();
    let mut insns = vec![st(BPF_W, 10, -4, 0), mov_reg(2, 10), add(2, -4)];
    insns.extend(ld_map(1, 0));
    insns.extend([call(func::MAP_LOOKUP_ELEM), jne(0, 0, 2), mov(0, 0), exit()]);
    insns.extend([st(BPF_DW, 0, 0, 5), call(func::GET_SMP_PROCESSOR_ID), exit()]);
    let spec = object(vec![map("pc", MapType::PercpuArray, 4, 8, 1)], insns);
    let mut loaded = load(&spec, &["main"], false).unwrap();
    let cpu = possible_cpus() - 1;
    assert_eq!(run(&mut loaded, &TestRun { cpu, ..packet(64) }), cpu);
    let values = loaded.map_lookup(0, &[0; 4]).unwrap();
    let of_cpu = |cpu: u32| u64::from_le_bytes(values[8 * cpu as usize..][..8].try_into().unwrap());
    assert_eq!((0..possible_cpus()).map(of_cpu).sum::<u64>(), 5);
    assert_eq!(of_cpu(cpu), 5);
}

#[test]
fn kernel_refuses_who_lacks_a_capability_and_says_which() {
    crate::needs_kernel!();
    let me = std::env::current_exe().unwrap();
    let ask = |caps: &str| {
        let output = std::process::Command::new("setpriv")
            .args(["--bounding-set", caps, "--inh-caps", caps, "--"])
            .arg(&me)
            .args(["--exact", "backend::tests::asked_without_capabilities", "--nocapture"])
            .env("EARLYBIRD_TEST_CAPS", "1")
            .env_remove(crate::testing::REQUIRE_KERNEL)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let without_bpf = ask("-all,+net_admin");
    assert!(without_bpf.contains("CAP_BPF is missing"), "{without_bpf}");
    let without_net = ask("-all,+bpf");
    assert!(without_net.contains("CAP_NET_ADMIN is missing"), "{without_net}");
    let with_none = ask("-all");
    assert!(with_none.contains("CAP_BPF and CAP_NET_ADMIN are missing"), "{with_none}");
    let without_perfmon = ask("-all,+bpf,+net_admin");
    assert!(without_perfmon.contains("CAP_PERFMON is missing"), "{without_perfmon}");
}

/// Does nothing by itself: the test above runs it as another process with fewer capabilities.
#[test]
fn asked_without_capabilities() {
    if std::env::var_os("EARLYBIRD_TEST_CAPS").is_none() {
        return;
    }
    match KernelBackend::new() {
        Err(e) => println!("{e}"),
        Ok(mut backend) => {
            let mut insns = ld_imm64(1, 0).to_vec();
            insns.extend([stx(BPF_DW, 10, 1, -8), mov_reg(1, 10), add(1, -8), mov(2, 2)]);
            insns.extend([call(func::TRACE_PRINTK), exit()]);
            let options = LoadOptions { programs: vec!["main".to_owned()], ..LoadOptions::default() };
            match backend.load(&object(vec![], insns), &options) {
                Ok(_) => println!("loaded"),
                Err(e) => println!("{e}"),
            }
        }
    }
}
