use std::os::fd::AsFd;

use uapi::bpf::*;

use super::*;
use crate::sys::Link;

const MOV64_K: u8 = BPF_ALU64 | BPF_MOV | BPF_K;

fn ret(value: i32) -> [Insn; 2] {
    [Insn::new(MOV64_K, 0, 0, 0, value), Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)]
}

#[test]
fn kernel_runs_raw_instructions() {
    crate::needs_kernel!();
    let (prog, log) = load_insns(&RawProg::xdp(&ret(2))).unwrap();
    assert_eq!(log, "");
    let run = test_run(&prog, &[7; 64], None, 1).unwrap();
    assert_eq!((run.retval, run.data), (2, vec![7; 64]));
    assert_eq!((run.ctx.data, run.ctx.data_end), (0, 64));
    assert_eq!(test_run(&prog, &[7; 13], None, 1).unwrap_err(), Errno::EINVAL);
}

#[test]
fn kernel_says_why_it_refuses() {
    crate::needs_kernel!();
    let no_exit = [Insn::new(MOV64_K, 0, 0, 0, 2)];
    let refused = load_insns(&RawProg::xdp(&no_exit)).unwrap_err();
    assert_eq!(refused.errno, Errno::EINVAL);
    assert!(refused.log.contains("last insn is not an exit or jmp"), "{}", refused.log);
    let level2 = load_insns(&RawProg { log_level: 2, ..RawProg::xdp(&ret(2)) }).unwrap().1;
    assert!(level2.contains("Live regs before insn") || level2.contains("func#0 @0"), "{level2}");
}

#[test]
fn kernel_maps_answer_with_its_errors() {
    crate::needs_kernel!();
    let map = create_map(MapType::Hash, 4, 6, 2, 0).unwrap();
    assert_eq!(map.lookup(&[0; 4], 0).unwrap_err(), Errno::ENOENT);
    map.update(&[1; 4], &[2; 6], BPF_NOEXIST).unwrap();
    assert_eq!(map.update(&[1; 4], &[2; 6], BPF_NOEXIST).unwrap_err(), Errno::EEXIST);
    assert_eq!(map.update(&[1; 4], &[2; 5], BPF_ANY).unwrap_err(), Errno::EINVAL, "checked here");
    map.update(&[3; 4], &[4; 6], BPF_ANY).unwrap();
    assert_eq!(map.update(&[5; 4], &[4; 6], BPF_ANY).unwrap_err(), Errno::E2BIG);
    let batch = map.lookup_batch(None, 4).unwrap();
    assert_eq!((batch.count, batch.next), (2, None));
    assert_eq!(map.delete_batch(&batch.keys).unwrap(), 2);
    assert_eq!(map.next_key(None).unwrap_err(), Errno::ENOENT);
    assert_eq!(map.update_batch(&[1, 0, 0, 0], &[0; 6], 0), Ok(1));
    map.freeze().unwrap();
    assert_eq!(map.delete(&[1, 0, 0, 0]).unwrap_err(), Errno::EPERM);
    assert_eq!(Map::by_id(map.id()).unwrap().lookup(&[1, 0, 0, 0], 0).unwrap(), [0; 6]);
}

#[test]
fn kernel_values_of_per_cpu_maps_have_a_part_per_cpu() {
    crate::needs_kernel!();
    let map = create_map(MapType::PercpuArray, 4, 5, 1, 0).unwrap();
    assert_eq!(map.value_len(), 8 * crate::sys::possible_cpus() as usize);
    let value: Vec<u8> = (0..map.value_len() as u8).map(|b| if b % 8 < 5 { b } else { 0 }).collect();
    map.update(&[0; 4], &value, 0).unwrap();
    assert_eq!(map.lookup(&[0; 4], 0).unwrap(), value);
}

#[test]
fn kernel_programs_use_maps_by_descriptor() {
    crate::needs_kernel!();
    let map = create_map(MapType::Array, 4, 8, 1, 0).unwrap();
    let store_42 = [
        Insn::new(BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_VALUE, 0, map_fd(&map)),
        Insn::new(0, 0, 0, 0, 0),
        Insn::new(BPF_ST | BPF_MEM | BPF_DW, 1, 0, 0, 42),
        Insn::new(MOV64_K, 0, 0, 0, 1),
        Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
    ];
    let (prog, _) = load_insns(&RawProg::xdp(&store_42)).unwrap();
    assert_eq!(test_run(&prog, &[0; 14], None, 1).unwrap().retval, 1);
    assert_eq!(map.lookup(&[0; 4], 0).unwrap(), 42_u64.to_le_bytes());
    assert_eq!(prog.xlated().unwrap().len(), 5);
}

#[test]
fn kernel_namespaces_hold_devices_that_links_attach_to() {
    crate::needs_kernel!();
    let pair = VethPair::new().unwrap();
    let (prog, _) = load_insns(&RawProg { attach_type: 37, ..RawProg::xdp(&ret(2)) }).unwrap();
    let (other, _) = load_insns(&RawProg { attach_type: 37, ..RawProg::xdp(&ret(1)) }).unwrap();
    let attached = pair.netns.run(|| {
        let link = Link::create(prog.as_fd(), pair.ifindex0, 0)?;
        assert_eq!(Link::create(prog.as_fd(), pair.ifindex0, 0).unwrap_err(), Errno::EBUSY);
        assert_eq!(link.info()?.xdp_ifindex, pair.ifindex0);
        assert_eq!(link.update(prog.as_fd(), Some(other.as_fd())).unwrap_err(), Errno::EPERM);
        link.update(other.as_fd(), Some(prog.as_fd()))?;
        link.detach()?;
        link.update(prog.as_fd(), None)
    });
    assert_eq!(attached.unwrap().unwrap_err(), Errno::ENOLINK);
    assert_eq!(crate::sys::if_index("veth0"), None, "nothing may leak out of the namespace");
}

#[test]
fn kernel_needs_are_named_when_they_are_missing() {
    match kernel_available() {
        Ok(()) => {}
        Err(why) => assert!(why.contains("CAP_") || why.contains("bpf(2)"), "{why}"),
    }
}
