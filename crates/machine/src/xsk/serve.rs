//! [`Redirects`]: what other processes may do with the machine's devices, and the program that sends a queue's
//! packets to its socket.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ::xsk::engine::{XskHost, XskSocket};
use ::xsk::remote::Rules;
use bpf::Insn;
use bpf::object::{MapContents, MapSpec, ObjectSpec, ProgramSpec};
use control::{EngineKind, LoadOptions, Loaded};
use uapi::Errno;
use uapi::bpf::*;
use uapi::xdp::XdpAction;
use xdp::{AttachFlags, ProgramHandle, XdpRequest};

use super::Enter;
use crate::{EngineBackend, EngineObject};

/// Queues that the default program's map has room for.
const QUEUES_MAX: u32 = 64;
/// `BPF_PSEUDO_MAP_IDX`: an instruction names a map by its place in the object.
const MAP_INDEX: u8 = 5;

/// Devices that are offered, and the default redirect program of each that a socket asked for.
pub struct Redirects {
    machine: Arc<dyn Enter>,
    names: BTreeMap<String, u32>,
    settings: Mutex<EngineBackend>,
    attached: Mutex<BTreeMap<u32, EngineObject>>,
}

impl Redirects {
    /// Offers devices by name and number. Programs are loaded as `settings` says.
    #[must_use]
    pub fn new(
        machine: Arc<dyn Enter>,
        host: &XskHost,
        names: BTreeMap<String, u32>,
        mut settings: EngineBackend,
    ) -> Self {
        settings.sockets = Some(host.clone());
        Self { machine, names, settings: Mutex::new(settings), attached: Mutex::default() }
    }

    /// Loads the default program and attaches it, to the driver's hook if there is one.
    fn attach(&self, ifindex: u32) -> Result<EngineObject, Errno> {
        let options = LoadOptions {
            programs: vec![NAME.to_owned()],
            engine: EngineKind::Auto,
            ..LoadOptions::default()
        };
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let object = settings.load_object(&default_object(), &options).map_err(|_| Errno::EINVAL)?;
        let program = object.program(NAME).ok_or(Errno::ENOENT)?.clone();
        let handle = ProgramHandle::new(program);
        let mut result = Err(Errno::ENODEV);
        self.machine.enter(&mut |machine| {
            let attach = |mode| {
                let flags = Some(AttachFlags::UPDATE_IF_NOEXIST | mode);
                let request = XdpRequest { fd: Some(Some(handle.clone())), flags, expected: None };
                machine.devices.set_xdp(ifindex, &request).map_err(|e| e.errno)
            };
            result = match attach(AttachFlags::DRV_MODE) {
                Err(Errno::EOPNOTSUPP) => attach(AttachFlags::SKB_MODE),
                result => result,
            };
        });
        result.map(|()| object)
    }
}

impl Rules for Redirects {
    fn device(&self, name: &str) -> Option<u32> {
        self.names.get(name).copied()
    }

    fn may_bind(&self, ifindex: u32, _queue: u32) -> Result<(), Errno> {
        if self.names.values().any(|i| *i == ifindex) { Ok(()) } else { Err(Errno::ENODEV) }
    }

    fn redirect(&self, ifindex: u32, queue: u32, socket: &Arc<XskSocket>) -> Result<(), Errno> {
        self.may_bind(ifindex, queue)?;
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        if let std::collections::btree_map::Entry::Vacant(place) = attached.entry(ifindex) {
            place.insert(self.attach(ifindex)?);
        }
        let object = &attached[&ifindex];
        object.map_update(0, &queue.to_ne_bytes(), &::xsk::RawSocket::number(&**socket).to_ne_bytes(), 0)
    }
}

const NAME: &str = "xsk_def_prog";

/// `return bpf_redirect_map(&xsks_map, ctx->rx_queue_index, XDP_PASS)`, as libxdp's.
fn default_object() -> ObjectSpec {
    const RX_QUEUE_INDEX: i16 = 16;
    let insns = vec![
        Insn::new(BPF_LDX | BPF_MEM | BPF_W, 2, 1, RX_QUEUE_INDEX, 0),
        Insn::new(BPF_LD | BPF_IMM | BPF_DW, 1, MAP_INDEX, 0, 0),
        Insn::new(0, 0, 0, 0, 0),
        Insn::new(BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, XdpAction::Pass as i32),
        Insn::new(BPF_JMP | BPF_CALL, 0, 0, 0, 51),
        Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
    ];
    let xsks_map = MapSpec {
        name: "xsks_map".to_owned(),
        map_type: MapType::Xskmap,
        key_size: 4,
        value_size: 4,
        max_entries: QUEUES_MAX,
        map_flags: 0,
        map_extra: 0,
        numa_node: None,
        key_type: None,
        value_type: None,
        inner: None,
        contents: MapContents::Empty,
        frozen: false,
        pin_by_name: false,
    };
    ObjectSpec {
        name: NAME.to_owned(),
        license: "Dual BSD/GPL".to_owned(),
        version: 0,
        maps: vec![xsks_map],
        programs: vec![ProgramSpec { frags: true, ..ProgramSpec::bare(NAME, insns) }],
        unusable: Vec::new(),
        btf: None,
        warnings: Vec::new(),
    }
}
