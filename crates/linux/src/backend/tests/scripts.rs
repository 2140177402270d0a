//! Scripted helpers: the kernel sees what a script says.

use std::sync::Arc;

use bpf::btf::{BtfBuilder, Kind, Linkage};
use bpf::object::Subprog;

use super::*;

fn scripted_call(helper: i32, value: u64) -> ScriptedCall {
    ScriptedCall { helper, value }
}

/// Stores time, a random number and time again in an array, and returns the CPU.
fn clock_program() -> ObjectSpec {
    let mut insns = vec![];
    insns.extend(ld_map_value(6, 0, 0));
    insns.extend([call(func::KTIME_GET_NS), stx(BPF_DW, 6, 0, 0)]);
    insns.extend([call(func::GET_PRANDOM_U32), stx(BPF_DW, 6, 0, 8)]);
    insns.extend([call(func::KTIME_GET_NS), stx(BPF_DW, 6, 0, 16)]);
    insns.extend([call(func::GET_SMP_PROCESSOR_ID), exit()]);
    object(vec![map("seen", MapType::Array, 4, 24, 1)], insns)
}

fn seen(loaded: &KernelObject) -> [u64; 3] {
    let value = loaded.map_lookup(0, &[0; 4]).unwrap();
    std::array::from_fn(|i| u64::from_le_bytes(value[8 * i..][..8].try_into().unwrap()))
}

#[test]
fn kernel_programs_see_the_scripted_values() {
    crate::needs_kernel!();
    let mut loaded = load(&clock_program(), &["main"], true).unwrap();
    assert_eq!(loaded.warnings(), &[] as &[String]);
    let script = vec![
        scripted_call(func::KTIME_GET_NS, u64::MAX),
        scripted_call(func::GET_PRANDOM_U32, 17),
        scripted_call(func::KTIME_GET_NS, 1_000),
        scripted_call(func::GET_SMP_PROCESSOR_ID, u64::from(possible_cpus()) - 1),
    ];
    for _ in 0..2 {
        let output = loaded.test_run("main", &TestRun { script: script.clone(), ..packet(64) }).unwrap();
        assert_eq!((output.retval, output.off_script), (possible_cpus() - 1, 0));
        assert_eq!(output.scripted, script);
        assert_eq!(seen(&loaded), [u64::MAX, 17, 1_000]);
    }
}

#[test]
fn kernel_answers_itself_where_the_script_does_not() {
    crate::needs_kernel!();
    let mut loaded = load(&clock_program(), &["main"], true).unwrap();
    let one = vec![scripted_call(func::KTIME_GET_NS, 5)];
    let output = loaded.test_run("main", &TestRun { script: one.clone(), ..packet(64) }).unwrap();
    assert_eq!((output.scripted.len(), output.off_script), (4, 3), "the script ends");
    assert_eq!(output.scripted[0], one[0]);
    let before = seen(&loaded);
    assert!(before[0] == 5 && before[2] > 1_000_000, "{before:?}");

    let again = loaded.test_run("main", &TestRun { script: output.scripted, ..packet(64) }).unwrap();
    assert_eq!((again.scripted.len(), again.off_script, seen(&loaded)), (4, 0, before), "what was recorded");

    let other = vec![scripted_call(func::JIFFIES64, 5)];
    let output = loaded.test_run("main", &TestRun { script: other, ..packet(64) }).unwrap();
    assert_eq!((output.scripted.len(), output.off_script), (4, 4), "the script names another helper");

    let no_such_cpu = vec![
        scripted_call(func::KTIME_GET_NS, 1),
        scripted_call(func::GET_PRANDOM_U32, 2),
        scripted_call(func::KTIME_GET_NS, 3),
        scripted_call(func::GET_SMP_PROCESSOR_ID, 1 << 20),
    ];
    let output = loaded.test_run("main", &TestRun { script: no_such_cpu, ..packet(64) }).unwrap();
    assert_eq!((output.retval, output.off_script), (0, 1), "an index that the verifier excludes");

    let mut plain = load(&clock_program(), &["main"], false).unwrap();
    let output = plain.test_run("main", &packet(64)).unwrap();
    assert_eq!((output.scripted.len(), output.off_script), (0, 0));
}

/// Type information for functions without parameters at these instructions; callbacks need it.
fn add_functions(spec: &mut ObjectSpec, starts: &[u32]) {
    let mut builder = BtfBuilder::default();
    let int = Kind::Int { size: 4, signed: true, is_char: false, is_bool: false, bit_offset: 0, bits: 32 };
    let int = builder.add("int", int);
    let proto = builder.add("", Kind::FuncProto { ret: int, params: Box::new([]) });
    let program = &mut spec.programs[0];
    program.subprogs.clear();
    for (i, &start) in starts.iter().enumerate() {
        let linkage = if i == 0 { Linkage::Global } else { Linkage::Static };
        let name = format!("f{i}");
        let id = builder.add(&name, Kind::Func { proto, linkage });
        program.subprogs.push(Subprog { name, start, btf: Some(id), is_global: i == 0 });
        program.raw_func_info.extend(start.to_le_bytes().into_iter().chain(id.0.to_le_bytes()));
    }
    spec.btf = Some(Arc::new(builder.finish()));
}

#[test]
fn kernel_follows_a_script_over_repeated_runs_callbacks_and_subprograms() {
    crate::needs_kernel!();
    // main: bpf_loop(3, callback, 0, 0); return. callback: seen += prandom(), through a subprogram.
    let mut insns = vec![mov(1, 3)];
    insns.extend(ld_func(2, 1, 8));
    insns.extend([mov(3, 0), mov(4, 0), call(func::LOOP), mov(0, 2), exit()]);
    assert_eq!(insns.len(), 8);
    insns.extend([call_local(5)]);
    insns.extend(ld_map_value(1, 0, 0));
    insns.extend([Insn::new(BPF_STX | BPF_ATOMIC | BPF_DW, 1, 0, 0, i32::from(BPF_ADD)), mov(0, 0), exit()]);
    insns.extend([call(func::GET_PRANDOM_U32), exit()]);
    let mut spec = object(vec![map("seen", MapType::Array, 4, 24, 1)], insns);
    add_functions(&mut spec, &[0, 8, 14]);
    let mut loaded = load(&spec, &["main"], true).unwrap();
    assert_eq!(loaded.warnings(), &[] as &[String]);
    let script: Vec<_> = (0..6).map(|i| scripted_call(func::GET_PRANDOM_U32, 1 << (4 * i))).collect();
    let request = TestRun { script, repeat: 2, ..packet(64) };
    let output = loaded.test_run("main", &request).unwrap();
    assert_eq!((output.retval, output.scripted.len(), output.off_script), (2, 6, 0));
    assert_eq!(seen(&loaded)[0], 0x11_1111);
}

#[test]
fn kernel_calls_the_real_helper_with_its_arguments() {
    crate::needs_kernel!();
    // tcp_raw_gen_syncookie_ipv4(iph, th, 20) over 40 bytes of stack.
    let mut insns: Vec<Insn> = (1..=5).map(|i| st(BPF_DW, 10, -8 * i, 0)).collect();
    insns.push(st(BPF_B, 10, -8, 0x50)); // doff 5 at offset 12 of the TCP header at -20
    insns.extend([mov_reg(1, 10), add(1, -40), mov_reg(2, 10), add(2, -20), mov(3, 20)]);
    insns.extend([call(func::TCP_RAW_GEN_SYNCOOKIE_IPV4)]);
    insns.extend(ld_map_value(1, 0, 0));
    insns.extend([stx(BPF_DW, 1, 0, 0), mov(0, 2), exit()]);
    let spec = object(vec![map("seen", MapType::Array, 4, 24, 1)], insns);
    let mut loaded = load(&spec, &["main"], true).unwrap();
    let output = loaded.test_run("main", &packet(64)).unwrap();
    assert_eq!(output.off_script, 1);
    let cookie = seen(&loaded)[0] as i64;
    assert!(cookie > 0 && cookie >> 32 == 536, "cookie and default MSS, not {cookie:#x}");
    let script = vec![scripted_call(func::TCP_RAW_GEN_SYNCOOKIE_IPV4, 42)];
    loaded.test_run("main", &TestRun { script, ..packet(64) }).unwrap();
    assert_eq!(seen(&loaded)[0], 42);
}

#[test]
fn kernel_runs_without_a_script_where_the_call_is_too_deep() {
    crate::needs_kernel!();
    // Eight frames deep already: the stand-in would be the ninth.
    let mut insns = vec![call_local(1), exit()];
    for _ in 0..6 {
        insns.extend([call_local(1), exit()]);
    }
    insns.extend([call(func::GET_PRANDOM_U32), mov(0, 2), exit()]);
    let mut loaded = load(&object(vec![], insns), &["main"], true).unwrap();
    assert_eq!(loaded.warnings().len(), 1);
    assert!(loaded.warnings()[0].contains("program main follows no script"), "{:?}", loaded.warnings());
    assert_eq!(run(&mut loaded, &packet(64)), 2);
}

#[test]
fn kernel_timers_do_not_fire_under_a_script() {
    crate::needs_kernel!();
    let bytes = std::fs::read(super::objects::programs().join("ratelimit.bpf.o")).unwrap();
    let mut spec = ObjectSpec::parse(&bytes, "ratelimit.bpf.o", &crate::host::target()).unwrap();
    // A period of a nanosecond, where the source has ten seconds.
    let rodata = spec.maps.iter_mut().find(|m| m.name == ".rodata").unwrap();
    let MapContents::Data(data) = &mut rodata.contents else { panic!() };
    let at = data.windows(8).position(|w| w == 10_000_000_000_u64.to_le_bytes()).unwrap();
    data[at..at + 8].copy_from_slice(&1_u64.to_le_bytes());
    let buckets = spec.map("buckets").unwrap().0;
    let left = |scripted| {
        let mut loaded = load(&spec, &["ratelimit"], scripted).unwrap();
        loaded.test_run("ratelimit", &super::objects::udp()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(200));
        loaded.map_next_key(buckets, None).is_ok()
    };
    assert!(left(true), "the bucket stays");
    assert!(!left(false), "its timer deletes it");
}
