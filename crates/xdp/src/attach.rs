//! Attaching programs to devices: the flags of netlink, links, and the kernel's checks in the kernel's order.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bpf::object::AttachType;
use bpf::vm::Program;
use uapi::Errno;

use crate::{DeviceCore, Devices, NetDevice};

/// `XDP_FLAGS_*` of an attachment.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug)]
pub struct AttachFlags;

#[allow(missing_docs)]
impl AttachFlags {
    pub const UPDATE_IF_NOEXIST: u32 = 1;
    pub const SKB_MODE: u32 = 2;
    pub const DRV_MODE: u32 = 4;
    pub const HW_MODE: u32 = 8;
    pub const REPLACE: u32 = 16;
    pub const MODES: u32 = Self::SKB_MODE | Self::DRV_MODE | Self::HW_MODE;
    pub const MASK: u32 = Self::UPDATE_IF_NOEXIST | Self::MODES | Self::REPLACE;
}

/// Where a program is attached.
///
/// Kernel: `include/linux/netdevice.h enum bpf_xdp_mode, v6.18`
#[doc(alias = "bpf_xdp_mode")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Mode {
    /// Generic: in the stack, on skbs.
    Skb = 0,
    /// Native: in the driver.
    Drv = 1,
    /// Offloaded to the device.
    Hw = 2,
}

/// A control operation was refused: the kernel's errno, and its extack text if it has one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetupError {
    /// What the kernel answers.
    pub errno: Errno,
    /// Its extended acknowledgement.
    pub extack: Option<&'static str>,
}

impl SetupError {
    /// An error with text.
    #[must_use]
    pub const fn new(errno: Errno, extack: &'static str) -> Self {
        Self { errno, extack: Some(extack) }
    }

    /// An error about which the kernel says no more.
    #[must_use]
    pub const fn bare(errno: Errno) -> Self {
        Self { errno, extack: None }
    }
}

impl std::fmt::Display for SetupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.extack {
            Some(text) => write!(f, "{}: {text}", self.errno),
            None => self.errno.fmt(f),
        }
    }
}

impl std::error::Error for SetupError {}

/// A loaded program as user space holds it: perhaps made for one device.
#[derive(Clone)]
pub struct ProgramHandle {
    program: Arc<Program>,
    bound: Option<Arc<Bound>>,
}

/// That a program was loaded for a device (`BPF_F_XDP_DEV_BOUND_ONLY`).
struct Bound(Arc<dyn NetDevice>);

impl Drop for Bound {
    fn drop(&mut self) {
        self.0.core().attach_state().bound_programs -= 1;
    }
}

impl ProgramHandle {
    /// A program for any device.
    #[must_use]
    pub const fn new(program: Arc<Program>) -> Self {
        Self { program, bound: None }
    }

    /// A program for one device, which may ask what the device knows of its packets.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if the device has no native hook.
    ///
    /// Kernel: `kernel/bpf/offload.c bpf_prog_dev_bound_init, v6.18`
    #[doc(alias = "bpf_prog_dev_bound_init")]
    pub fn bound(program: Arc<Program>, device: &Arc<dyn NetDevice>) -> Result<Self, Errno> {
        if !device.has_ndo_bpf() {
            return Err(Errno::EOPNOTSUPP);
        }
        device.core().attach_state().bound_programs += 1;
        Ok(Self { program, bound: Some(Arc::new(Bound(device.clone()))) })
    }

    /// The program.
    #[must_use]
    pub const fn program(&self) -> &Arc<Program> {
        &self.program
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.program, &other.program)
    }

    /// Whether it may run on a device.
    ///
    /// Two devices that both have bound programs match each other, because neither belongs to an offload
    /// device and nothing equals nothing.
    ///
    /// Kernel: `kernel/bpf/offload.c __bpf_offload_dev_match, v6.18`
    #[doc(alias = "__bpf_offload_dev_match")]
    fn matches(&self, core: &DeviceCore, state: &AttachState) -> bool {
        let Some(bound) = &self.bound else { return true };
        bound.0.core().ifindex == core.ifindex || state.bound_programs > 0
    }
}

impl std::fmt::Debug for ProgramHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.program.fmt(f)
    }
}

/// What is attached to a device, by mode.
#[derive(Default)]
pub(crate) struct AttachState {
    modes: [Option<Attached>; 3],
    /// Loaded programs that are bound to the device.
    bound_programs: u32,
}

struct Attached {
    program: ProgramHandle,
    link: Option<Weak<LinkInner>>,
}

impl AttachState {
    fn count(&self) -> usize {
        self.modes.iter().flatten().count()
    }

    fn program(&self, mode: Mode) -> Option<&ProgramHandle> {
        self.modes[mode as usize].as_ref().map(|a| &a.program)
    }
}

impl DeviceCore {
    fn attach_state(&self) -> MutexGuard<'_, AttachState> {
        self.attach.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `IFLA_XDP` of a request to change a device.
#[derive(Clone, Debug, Default)]
pub struct XdpRequest {
    /// `IFLA_XDP_FD`: a program, or none to detach (-1).
    pub fd: Option<Option<ProgramHandle>>,
    /// `IFLA_XDP_FLAGS`.
    pub flags: Option<u32>,
    /// `IFLA_XDP_EXPECTED_FD`.
    pub expected: Option<Option<ProgramHandle>>,
}

impl XdpRequest {
    /// Attaches a program, or detaches.
    #[must_use]
    pub const fn new(program: Option<ProgramHandle>, flags: u32) -> Self {
        Self { fd: Some(program), flags: Some(flags), expected: None }
    }
}

/// `IFLA_XDP` of a device as netlink shows it: ids of programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpStatus {
    /// `XDP_ATTACHED_*`: 0 none, 1 native, 2 generic, 3 offloaded, 4 several.
    pub attached: u8,
    /// `IFLA_XDP_SKB_PROG_ID`.
    pub skb: Option<u32>,
    /// `IFLA_XDP_DRV_PROG_ID`.
    pub drv: Option<u32>,
    /// `IFLA_XDP_HW_PROG_ID`.
    pub hw: Option<u32>,
}

impl XdpStatus {
    /// `IFLA_XDP_PROG_ID`, which is left out if there are several.
    #[must_use]
    pub fn prog_id(&self) -> Option<u32> {
        if self.attached == 4 { None } else { self.drv.or(self.skb).or(self.hw) }
    }
}

fn mode_of(device: &dyn NetDevice, flags: u32) -> Mode {
    match flags & AttachFlags::MODES {
        AttachFlags::HW_MODE => Mode::Hw,
        AttachFlags::DRV_MODE => Mode::Drv,
        AttachFlags::SKB_MODE => Mode::Skb,
        _ if device.has_ndo_bpf() => Mode::Drv,
        _ => Mode::Skb,
    }
}

/// Who attaches.
enum Attacher<'a> {
    Netlink { new: Option<&'a ProgramHandle>, old: Option<&'a ProgramHandle> },
    Link(&'a Arc<LinkInner>),
}

impl Devices {
    /// Changes what is attached to a device, as `RTM_SETLINK` does.
    ///
    /// # Errors
    ///
    /// The kernel's errno and extack text.
    ///
    /// Kernel: `net/core/rtnetlink.c do_setlink, IFLA_XDP, v6.18`
    #[doc(alias = "dev_change_xdp_fd")]
    pub fn set_xdp(&self, ifindex: u32, request: &XdpRequest) -> Result<(), SetupError> {
        let device = self.find(ifindex).ok_or(SetupError::bare(Errno::ENODEV))?;
        let flags = request.flags.unwrap_or(0);
        if flags & !AttachFlags::MASK != 0 || (flags & AttachFlags::MODES).count_ones() > 1 {
            return Err(SetupError::bare(Errno::EINVAL));
        }
        let Some(new) = &request.fd else { return Ok(()) };
        let old = match (&request.expected, flags & AttachFlags::REPLACE != 0) {
            (None, true) => return Err(SetupError::bare(Errno::EINVAL)),
            (Some(expected), true) => expected.as_ref(),
            (_, false) => None,
        };
        if new.is_some() && flags & AttachFlags::HW_MODE != 0 {
            // No program here is made for offload.
            return Err(SetupError::bare(Errno::EINVAL));
        }
        let _rtnl = self.rtnl();
        self.dev_xdp_attach(&device, &Attacher::Netlink { new: new.as_ref(), old }, flags)
    }

    /// What is attached to a device.
    #[must_use]
    pub fn xdp_status(&self, ifindex: u32) -> Option<XdpStatus> {
        let device = self.find(ifindex)?;
        let state = device.core().attach_state();
        let id = |mode| state.program(mode).map(|p| p.program.id());
        let (skb, drv, hw) = (id(Mode::Skb), id(Mode::Drv), id(Mode::Hw));
        let attached = match (skb, drv, hw) {
            (None, None, None) => 0,
            (None, Some(_), None) => 1,
            (Some(_), None, None) => 2,
            (None, None, Some(_)) => 3,
            _ => 4,
        };
        Some(XdpStatus { attached, skb, drv, hw })
    }

    /// Attaches a program for as long as the link lives (`BPF_LINK_CREATE`).
    ///
    /// # Errors
    ///
    /// `EINVAL` for an unknown device; else the errno and the text that the tracepoint
    /// `bpf_xdp_link_attach_failed` carries.
    ///
    /// Kernel: `net/core/dev.c bpf_xdp_link_attach, v6.18`
    #[doc(alias = "bpf_xdp_link_attach")]
    pub fn link_create(
        self: &Arc<Self>,
        program: ProgramHandle,
        ifindex: u32,
        flags: u32,
    ) -> Result<XdpLink, SetupError> {
        let device = self.find(ifindex).ok_or(SetupError::bare(Errno::EINVAL))?;
        let inner = Arc::new(LinkInner {
            devices: self.clone(),
            flags,
            ifindex: AtomicU32::new(ifindex),
            program: Mutex::new(program),
        });
        let _rtnl = self.rtnl();
        self.dev_xdp_attach(&device, &Attacher::Link(&inner), flags)?;
        Ok(XdpLink(inner))
    }

    /// The device of a number, to keep.
    #[must_use]
    pub fn find(&self, ifindex: u32) -> Option<Arc<dyn NetDevice>> {
        self.get(&mem::epoch::pin(), ifindex).cloned()
    }

    /// Kernel: `net/core/dev.c dev_xdp_attach, v6.18`
    fn dev_xdp_attach(
        &self,
        device: &Arc<dyn NetDevice>,
        attacher: &Attacher<'_>,
        flags: u32,
    ) -> Result<(), SetupError> {
        let core = device.core();
        let (new, old, link) = match attacher {
            Attacher::Netlink { new, old } => (new.cloned(), *old, None),
            Attacher::Link(link) => (Some(link.program()), None, Some(*link)),
        };
        let mut state = core.attach_state();
        check_request(&state, flags, link.is_some(), old.is_some())?;
        let mode = mode_of(&**device, flags);
        self.check_present(core, &state, mode, link.is_some())?;
        let current = state.program(mode);
        let as_expected = match (current, old) {
            (Some(current), Some(old)) => current.is(old),
            (None, None) => true,
            _ => false,
        };
        if flags & AttachFlags::REPLACE != 0 && !as_expected {
            return Err(SetupError::new(Errno::EEXIST, "Active program does not match expected"));
        }
        if let Some(new) = &new {
            check_new(core, &state, mode, flags, new)?;
        }
        let unchanged = match (&new, current) {
            (Some(new), Some(current)) => new.is(current),
            (None, None) => true,
            _ => false,
        };
        if !unchanged {
            install(device, mode, new.as_ref())?;
        }
        let attached = new.map(|program| Attached { program, link: link.map(Arc::downgrade) });
        // Dropped after the lock: the last handle of a bound program takes it again.
        let old = std::mem::replace(&mut state.modes[mode as usize], attached);
        drop(state);
        drop(old);
        Ok(())
    }

    /// What must not be there already.
    fn check_present(
        &self,
        core: &DeviceCore,
        state: &AttachState,
        mode: Mode,
        link: bool,
    ) -> Result<(), SetupError> {
        let present = state.modes[mode as usize].as_ref();
        if present.is_some_and(|a| a.link.as_ref().is_some_and(|l| l.strong_count() > 0)) {
            return Err(SetupError::new(Errno::EBUSY, "Can't replace active BPF XDP link"));
        }
        let uppers = core.uppers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let busy = |upper| self.find(upper).is_some_and(|u| u.core().attach_state().count() > 0);
        if uppers.into_iter().any(busy) {
            let text = "Cannot attach when an upper device already has a program";
            return Err(SetupError::new(Errno::EEXIST, text));
        }
        if link && present.is_some() {
            let text = "Can't replace active XDP program with BPF link";
            return Err(SetupError::new(Errno::EBUSY, text));
        }
        Ok(())
    }

    /// A device goes: its links lose it, its program is gone.
    pub(crate) fn detach_all(&self, device: &Arc<dyn NetDevice>) {
        let modes = std::mem::take(&mut device.core().attach_state().modes);
        for (mode, attached) in [Mode::Skb, Mode::Drv, Mode::Hw].into_iter().zip(modes) {
            let Some(attached) = attached else { continue };
            if let Some(link) = attached.link.and_then(|l| l.upgrade()) {
                link.ifindex.store(0, Relaxed);
            }
            // A driver does not refuse to be left alone; the kernel warns if one does.
            let _ = install(device, mode, None);
        }
    }
}

fn check_request(state: &AttachState, flags: u32, link: bool, old: bool) -> Result<(), SetupError> {
    let modes = (flags & AttachFlags::MODES).count_ones();
    let refused = |text| Err(SetupError::new(Errno::EINVAL, text));
    if link && flags & !AttachFlags::MODES != 0 {
        return refused("Invalid XDP flags for BPF link attachment");
    }
    if modes > 1 {
        return refused("Only one XDP mode flag can be set");
    }
    if modes == 0 && state.count() > 1 {
        return refused("More than one program loaded, unset mode is ambiguous");
    }
    if old && flags & AttachFlags::REPLACE == 0 {
        return refused("XDP_FLAGS_REPLACE is not specified");
    }
    Ok(())
}

/// Whether the new program may be attached there.
fn check_new(
    core: &DeviceCore,
    state: &AttachState,
    mode: Mode,
    flags: u32,
    new: &ProgramHandle,
) -> Result<(), SetupError> {
    let refused = |errno, text| Err(SetupError::new(errno, text));
    if flags & AttachFlags::UPDATE_IF_NOEXIST != 0 && state.program(mode).is_some() {
        return refused(Errno::EBUSY, "XDP program already attached");
    }
    let other = if mode == Mode::Skb { Mode::Drv } else { Mode::Skb };
    if mode != Mode::Hw && state.program(other).is_some() {
        return refused(Errno::EEXIST, "Native and generic XDP can't be active at the same time");
    }
    if !new.matches(core, state) {
        return refused(Errno::EINVAL, "Program bound to different device");
    }
    if new.bound.is_some() && mode == Mode::Skb {
        return refused(Errno::EINVAL, "Can't attach device-bound programs in generic mode");
    }
    match new.program.attach_type() {
        AttachType::Devmap => {
            refused(Errno::EINVAL, "BPF_XDP_DEVMAP programs can not be attached to a device")
        }
        AttachType::Cpumap => {
            refused(Errno::EINVAL, "BPF_XDP_CPUMAP programs can not be attached to a device")
        }
        _ => Ok(()),
    }
}

/// Kernel: `net/core/dev.c dev_xdp_install, generic_xdp_install, v6.18`
#[doc(alias = "dev_xdp_install")]
fn install(device: &Arc<dyn NetDevice>, mode: Mode, new: Option<&ProgramHandle>) -> Result<(), SetupError> {
    if mode == Mode::Skb {
        device.core().generic.swap(0, new.map(|p| Arc::new(p.program.clone())));
        return Ok(());
    }
    if !device.has_ndo_bpf() {
        let text = "Underlying driver does not support XDP in native mode";
        return Err(SetupError::new(Errno::EOPNOTSUPP, text));
    }
    device.ndo_bpf(mode, new.map(|p| &p.program))
}

struct LinkInner {
    devices: Arc<Devices>,
    flags: u32,
    /// 0 when the device is gone or the link detached.
    ifindex: AtomicU32,
    program: Mutex<ProgramHandle>,
}

impl LinkInner {
    fn program(&self) -> ProgramHandle {
        self.program.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn device(&self) -> Option<Arc<dyn NetDevice>> {
        self.devices.find(self.ifindex.load(Relaxed))
    }

    fn detach(&self) {
        let _rtnl = self.devices.rtnl();
        let Some(device) = self.device() else { return };
        let mode = mode_of(&*device, self.flags);
        let old = device.core().attach_state().modes[mode as usize].take();
        drop(old);
        // As for a device that goes.
        let _ = install(&device, mode, None);
        self.ifindex.store(0, Relaxed);
    }
}

/// An attachment that ends with its value.
///
/// Kernel: `net/core/dev.c struct bpf_xdp_link, v6.18`
#[doc(alias = "bpf_xdp_link")]
pub struct XdpLink(Arc<LinkInner>);

impl XdpLink {
    /// Replaces the program; with `expected`, only if that one is there now. The checks of attaching are not
    /// made again, only the driver's.
    ///
    /// # Errors
    ///
    /// `ENOLINK` after detaching or without the device, `EPERM` if another program is there, `EINVAL` for a
    /// program of another attach type; the driver's.
    ///
    /// Kernel: `net/core/dev.c bpf_xdp_link_update, v6.18`
    #[doc(alias = "bpf_xdp_link_update")]
    pub fn update(&self, new: &ProgramHandle, expected: Option<&ProgramHandle>) -> Result<(), SetupError> {
        let _rtnl = self.0.devices.rtnl();
        let device = self.0.device().ok_or(SetupError::bare(Errno::ENOLINK))?;
        let current = self.0.program();
        if expected.is_some_and(|old| !current.is(old)) {
            return Err(SetupError::bare(Errno::EPERM));
        }
        if current.program.attach_type() != new.program.attach_type() {
            return Err(SetupError::bare(Errno::EINVAL));
        }
        if current.is(new) {
            return Ok(());
        }
        let mode = mode_of(&*device, self.0.flags);
        install(&device, mode, Some(new))?;
        let mut state = device.core().attach_state();
        if let Some(attached) = &mut state.modes[mode as usize] {
            attached.program = new.clone();
        }
        drop(state);
        *self.0.program.lock().unwrap_or_else(PoisonError::into_inner) = new.clone();
        Ok(())
    }

    /// Detaches; the link stays, without a device. Doing it twice is fine.
    pub fn detach(&self) {
        self.0.detach();
    }

    /// `bpf_link_info.xdp.ifindex`: 0 when it has no device any more.
    #[must_use]
    pub fn ifindex(&self) -> u32 {
        self.0.ifindex.load(Relaxed)
    }

    /// Id of its program.
    #[must_use]
    pub fn prog_id(&self) -> u32 {
        self.0.program().program.id()
    }
}

impl Drop for XdpLink {
    fn drop(&mut self) {
        self.0.detach();
    }
}

#[cfg(test)]
mod tests;
