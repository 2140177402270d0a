//! Fact 9, as `oracle/t_attach.py` observed it on the running kernel.

use std::sync::Arc;

use bpf::object::AttachType;
use bpf::vm::Program;
use uapi::Errno;

use super::{AttachFlags, ProgramHandle, SetupError, XdpRequest, XdpStatus};
use crate::drivers::loopback::Loopback;
use crate::testing::*;

const UPD: u32 = AttachFlags::UPDATE_IF_NOEXIST;
const SKB: u32 = AttachFlags::SKB_MODE;
const DRV: u32 = AttachFlags::DRV_MODE;
const HW: u32 = AttachFlags::HW_MODE;
const REPLACE: u32 = AttachFlags::REPLACE;

fn host() -> (World, Arc<Program>, Arc<Program>) {
    let mut w = World::new();
    w.veth(11, 12);
    w.devices.register(Loopback::new(1, 0)).unwrap();
    let (a, b) = (w.xdp(&answer(2), &[]), w.xdp(&answer(2), &[]));
    (w, a, b)
}

fn handle(program: &Arc<Program>) -> ProgramHandle {
    ProgramHandle::new(program.clone())
}

fn replace(
    w: &World,
    new: &Arc<Program>,
    flags: u32,
    expected: Option<&Arc<Program>>,
) -> Result<(), SetupError> {
    let expected = Some(expected.map(handle));
    w.devices.set_xdp(11, &XdpRequest { expected, ..XdpRequest::new(Some(handle(new)), flags) })
}

fn status(w: &World) -> (u8, Option<u32>) {
    let status = w.devices.xdp_status(11).unwrap();
    (status.attached, status.prog_id())
}

fn refused(errno: Errno, text: &'static str) -> Result<(), SetupError> {
    Err(SetupError::new(errno, text))
}

/// Fact 9.2 [V], in the order of the oracle's script.
#[test]
fn netlink_attaches_replaces_and_detaches() {
    let (mut w, a, b) = host();
    assert_eq!((w.attach(11, &a, 0), status(&w)), (Ok(()), (1, Some(a.id()))));
    assert_eq!(w.attach(11, &a, UPD), refused(Errno::EBUSY, "XDP program already attached"));
    assert_eq!((w.attach(11, &b, 0), status(&w)), (Ok(()), (1, Some(b.id()))));
    let both = "Native and generic XDP can't be active at the same time";
    assert_eq!(w.attach(11, &a, SKB), refused(Errno::EEXIST, both));
    let unexpected = "Active program does not match expected";
    assert_eq!(replace(&w, &a, REPLACE, Some(&a)), refused(Errno::EEXIST, unexpected));
    assert_eq!(replace(&w, &a, REPLACE, Some(&b)), Ok(()));
    assert_eq!(w.attach(11, &b, REPLACE), Err(SetupError::bare(Errno::EINVAL)));
    assert_eq!(replace(&w, &b, 0, Some(&b)), Ok(()), "expected without the flag is ignored");
    assert_eq!(replace(&w, &b, REPLACE, None), refused(Errno::EEXIST, unexpected));
    assert_eq!(replace(&w, &b, REPLACE | UPD, Some(&a)), refused(Errno::EEXIST, unexpected));
    assert_eq!(w.attach(11, &b, 0), Ok(()));
    assert_eq!(w.attach(11, &a, HW), Err(SetupError::bare(Errno::EINVAL)));
    assert_eq!(w.attach(11, &a, SKB | DRV), Err(SetupError::bare(Errno::EINVAL)));
    assert_eq!(w.attach(11, &a, 0x20), Err(SetupError::bare(Errno::EINVAL)));
    let devmap = w.program(&answer(2), &[], AttachType::Devmap, false);
    let cpumap = w.program(&answer(2), &[], AttachType::Cpumap, false);
    let text = "BPF_XDP_DEVMAP programs can not be attached to a device";
    assert_eq!(w.attach(11, &devmap, 0), refused(Errno::EINVAL, text));
    let text = "BPF_XDP_CPUMAP programs can not be attached to a device";
    assert_eq!(w.attach(11, &cpumap, 0), refused(Errno::EINVAL, text));
    assert_eq!((w.detach(11, 0), status(&w)), (Ok(()), (0, None)));
    assert_eq!((w.detach(11, 0), w.detach(11, SKB), w.detach(11, HW)), (Ok(()), Ok(()), Ok(())));
    assert_eq!(replace(&w, &a, REPLACE, None), Ok(()), "nothing is expected and there is nothing");
}

/// Fact 9.2 [V]: detaching in the default mode does not see a generic program.
#[test]
fn detaching_without_a_mode_leaves_a_generic_program() {
    let (w, a, _) = host();
    w.attach(11, &a, SKB).unwrap();
    let both = "Native and generic XDP can't be active at the same time";
    assert_eq!(w.attach(11, &a, 0), refused(Errno::EEXIST, both));
    assert_eq!((w.detach(11, 0), status(&w)), (Ok(()), (2, Some(a.id()))));
    assert_eq!((w.detach(11, UPD | SKB), status(&w)), (Ok(()), (0, None)));
}

/// Fact 9.1 [V]: loopback has no native hook; no descriptor is a success that does nothing.
#[test]
fn modes_of_a_device_without_native_hook() {
    let (w, a, _) = host();
    let text = "Underlying driver does not support XDP in native mode";
    assert_eq!(w.attach(1, &a, DRV), refused(Errno::EOPNOTSUPP, text));
    assert_eq!(w.attach(1, &a, 0), Ok(()));
    let generic = XdpStatus { attached: 2, skb: Some(a.id()), drv: None, hw: None };
    assert_eq!(w.devices.xdp_status(1), Some(generic));
    let nothing = XdpRequest { flags: Some(DRV), ..XdpRequest::default() };
    assert_eq!(w.devices.set_xdp(1, &nothing), Ok(()));
    assert_eq!(w.attach(999, &a, 0), Err(SetupError::bare(Errno::ENODEV)));
}

/// Fact 9.2: not under a device that has one; the other way round is fine.
#[test]
fn an_upper_device_with_a_program_is_in_the_way() {
    let (mut w, a, b) = host();
    w.veth(21, 22);
    w.devices.find(11).unwrap().core().set_upper(21, true);
    w.attach(21, &a, 0).unwrap();
    let text = "Cannot attach when an upper device already has a program";
    assert_eq!(w.attach(11, &b, 0), refused(Errno::EEXIST, text));
    w.detach(21, 0).unwrap();
    assert_eq!((w.attach(11, &b, 0), w.attach(21, &a, 0)), (Ok(()), Ok(())));
}

/// Facts 9.2, 9.5 [V]: bound programs, and the quirk that two devices with bound programs match.
#[test]
fn programs_bound_to_a_device() {
    let (w, a, b) = host();
    let device = |i| w.devices.find(i).unwrap();
    let attach = |p: &ProgramHandle, flags| w.devices.set_xdp(11, &XdpRequest::new(Some(p.clone()), flags));
    let other = ProgramHandle::bound(a.clone(), &device(12)).unwrap();
    assert_eq!(attach(&other, 0), refused(Errno::EINVAL, "Program bound to different device"));
    let mine = ProgramHandle::bound(b.clone(), &device(11)).unwrap();
    let text = "Can't attach device-bound programs in generic mode";
    assert_eq!(attach(&mine, SKB), refused(Errno::EINVAL, text));
    assert_eq!(attach(&mine, 0), Ok(()));
    assert_eq!(attach(&other, 0), Ok(()), "nothing equals nothing");
    w.detach(11, 0).unwrap();
    drop(mine);
    assert_eq!(attach(&other, 0), refused(Errno::EINVAL, "Program bound to different device"));
    assert_eq!(ProgramHandle::bound(a, &device(1)).err(), Some(Errno::EOPNOTSUPP));
}

/// Fact 9.3 [V].
#[test]
fn links_hold_their_place_until_they_go() {
    let (mut w, a, b) = host();
    let link = w.devices.link_create(handle(&a), 11, 0).unwrap();
    assert_eq!(status(&w), (1, Some(a.id())));
    let create = |p: &Arc<Program>, i, flags| w.devices.link_create(handle(p), i, flags).map(drop);
    let active = "Can't replace active BPF XDP link";
    assert_eq!(create(&b, 11, 0), refused(Errno::EBUSY, active));
    let both = "Native and generic XDP can't be active at the same time";
    assert_eq!(create(&b, 11, SKB), refused(Errno::EEXIST, both));
    assert_eq!(w.attach(11, &b, 0), refused(Errno::EBUSY, active));
    assert_eq!(w.detach(11, 0), refused(Errno::EBUSY, active));
    assert_eq!((link.update(&handle(&a), None), link.update(&handle(&b), None)), (Ok(()), Ok(())));
    assert_eq!(status(&w), (1, Some(b.id())));
    assert_eq!(link.update(&handle(&a), Some(&handle(&a))), Err(SetupError::bare(Errno::EPERM)));
    assert_eq!(link.update(&handle(&a), Some(&handle(&b))), Ok(()));
    let devmap = w.program(&answer(2), &[], AttachType::Devmap, false);
    assert_eq!(link.update(&handle(&devmap), None), Err(SetupError::bare(Errno::EINVAL)));
    link.detach();
    assert_eq!((status(&w), link.ifindex()), ((0, None), 0));
    assert_eq!(link.update(&handle(&b), None), Err(SetupError::bare(Errno::ENOLINK)));
    link.detach();
    drop(link);
    let create = |p: &Arc<Program>, i, flags| w.devices.link_create(handle(p), i, flags).map(drop);
    assert_eq!(create(&a, 999, 0), Err(SetupError::bare(Errno::EINVAL)));
    let flags = "Invalid XDP flags for BPF link attachment";
    assert_eq!(create(&a, 11, UPD), refused(Errno::EINVAL, flags));
    assert_eq!(create(&a, 11, REPLACE), refused(Errno::EINVAL, flags));
    assert_eq!(create(&a, 11, SKB | DRV), refused(Errno::EINVAL, "Only one XDP mode flag can be set"));
    w.attach(11, &a, 0).unwrap();
    let over = "Can't replace active XDP program with BPF link";
    assert_eq!(create(&b, 11, 0), refused(Errno::EBUSY, over));
    assert_eq!(create(&b, 11, SKB), refused(Errno::EEXIST, both));
    w.detach(11, 0).unwrap();
    drop(w.devices.link_create(handle(&a), 11, SKB).unwrap());
    assert_eq!(status(&w), (0, None));
}

/// Fact 9.3 [V]: the device goes, the link stays without it.
#[test]
fn a_link_outlives_its_device() {
    let (w, a, b) = host();
    let link = w.devices.link_create(handle(&a), 11, 0).unwrap();
    w.devices.unregister(11).unwrap();
    assert_eq!(link.update(&handle(&b), None), Err(SetupError::bare(Errno::ENOLINK)));
    link.detach();
}

/// Fact 9.3: a link's update asks the driver only.
#[test]
fn a_links_update_passes_the_drivers_checks() {
    let (mut w, a, _) = host();
    let frags = w.program(&answer(2), &[], AttachType::Xdp, true);
    let link = w.devices.link_create(handle(&frags), 11, 0).unwrap();
    w.devices.find(12).unwrap().core().set_mtu(9000).unwrap();
    let text = "veth: Peer MTU is too large to set XDP";
    assert_eq!(link.update(&handle(&a), None), Err(SetupError::new(Errno::ERANGE, text)));
    assert_eq!(link.prog_id(), frags.id());
}
