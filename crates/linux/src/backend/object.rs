//! [`KernelObject`]: an object in the kernel, running packets.

use bpf::object::ObjectSpec;
use control::{Loaded, MapInfo, OutputEvent, ProgramInfo, TestRun, TestRunError, TestRunOutput};
use uapi::Errno;
use uapi::bpf::MapType;
use uapi::xdp::{ETH_HLEN, MAX_SKB_FRAGS, XDP_META_MAX, XdpMd};

use crate::sys::{Map, PinnedToCpu, Prog, TestRunArgs, possible_cpus};

use super::events::Events;
use super::script::Script;

/// Largest packet that `BPF_PROG_TEST_RUN` can make: a linear page and all fragments of a page each.
const PACKET_MAX: usize = 4096 * (1 + MAX_SKB_FRAGS);

/// An object's maps and programs in the running kernel. Dropping it unloads all of it.
#[derive(Debug)]
pub struct KernelObject {
    programs: Vec<ProgramInfo>,
    progs: Vec<Prog>,
    map_infos: Vec<MapInfo>,
    maps: Vec<Map>,
    events: Events,
    script: Option<Script>,
    warnings: Vec<String>,
    /// Where packets come back.
    out: Vec<u8>,
}

impl KernelObject {
    pub(super) fn new(
        spec: &ObjectSpec,
        maps: Vec<Map>,
        programs: Vec<(ProgramInfo, Prog)>,
        events: Events,
        script: Option<Script>,
        warnings: Vec<String>,
    ) -> Self {
        let (programs, progs) = programs.into_iter().unzip();
        let map_infos = spec.maps.iter().zip(&maps);
        let map_infos =
            map_infos.map(|(s, m)| MapInfo { name: s.name.clone(), def: s.def(), id: m.id() }).collect();
        Self { programs, progs, map_infos, maps, events, script, warnings, out: vec![0; PACKET_MAX] }
    }

    /// The kernel's program of a name.
    #[must_use]
    pub fn prog(&self, name: &str) -> Option<&Prog> {
        self.programs.iter().position(|p| p.name == name).map(|i| &self.progs[i])
    }

    /// The kernel's map at a position of [`Loaded::maps`].
    #[must_use]
    pub fn map(&self, map: usize) -> Option<&Map> {
        self.maps.get(map)
    }

    fn map_at(&self, map: usize) -> Result<&Map, Errno> {
        self.maps.get(map).ok_or(Errno::EBADF)
    }
}

impl Loaded for KernelObject {
    fn programs(&self) -> &[ProgramInfo] {
        &self.programs
    }

    fn maps(&self) -> &[MapInfo] {
        &self.map_infos
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn test_run(&mut self, program: &str, request: &TestRun) -> Result<TestRunOutput, TestRunError> {
        let index = self.programs.iter().position(|p| p.name == program);
        let index = index.ok_or_else(|| TestRunError {
            errno: Errno::ENOENT,
            reason: format!("program {program} is not loaded"),
        })?;
        if let Some(script) = &self.script {
            script.arm(&request.script);
        }
        // Asking for `ctx_out` alone counts as a context of zeroes, in which no byte is linear.
        let whole = XdpMd { data_end: request.data.len() as u32, ..XdpMd::default() };
        let ctx_in = request.ctx.unwrap_or(whole).to_bytes();
        let mut ctx_out = [0; XdpMd::SIZE];
        let mut args = TestRunArgs {
            data_in: &request.data,
            data_out: &mut self.out,
            ctx_in: &ctx_in,
            ctx_out: &mut ctx_out,
            repeat: request.repeat,
            ..TestRunArgs::default()
        };
        let pinned = PinnedToCpu::new(request.cpu).map_err(|errno| TestRunError {
            errno,
            reason: format!("this process may not run on CPU {}", request.cpu),
        })?;
        let result = self.progs[index].test_run(&mut args);
        drop(pinned);
        let result = result.map_err(|(errno, _)| explain(errno, request))?;
        let (scripted, off_script) = self.script.as_ref().map(Script::outcome).unwrap_or_default();
        Ok(TestRunOutput {
            retval: result.retval,
            data: self.out[..result.data_len.min(PACKET_MAX)].to_vec(),
            ctx: XdpMd::from_bytes(ctx_out),
            duration_ns: u64::from(result.duration_ns),
            redirect: None,
            scripted,
            off_script,
        })
    }

    fn map_lookup(&self, map: usize, key: &[u8]) -> Result<Vec<u8>, Errno> {
        self.map_at(map)?.lookup(key, 0)
    }

    fn map_update(&self, map: usize, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        // These have lists for each CPU, and what they throw out depends on where the update came from. User
        // space of the engine is on the first one.
        let by_cpu = |info: &MapInfo| matches!(info.def.map_type, MapType::LruHash | MapType::LruPercpuHash);
        let pinned = self.map_infos.get(map).is_some_and(by_cpu).then(|| PinnedToCpu::new(0));
        let result = self.map_at(map)?.update(key, value, flags);
        drop(pinned);
        result
    }

    fn map_delete(&self, map: usize, key: &[u8]) -> Result<(), Errno> {
        self.map_at(map)?.delete(key)
    }

    fn map_next_key(&self, map: usize, key: Option<&[u8]>) -> Result<Vec<u8>, Errno> {
        // For these the kernel has no notion of a key, and answers a pointer with a fault.
        if matches!(self.map_infos.get(map).map(|m| m.def.map_type), Some(MapType::Queue | MapType::Stack)) {
            return Err(Errno::EINVAL);
        }
        self.map_at(map)?.next_key(key)
    }

    fn take_events(&mut self) -> Vec<OutputEvent> {
        self.events.take()
    }
}

/// What an errno of `BPF_PROG_TEST_RUN` means for a request.
///
/// Kernel: `net/bpf/test_run.c bpf_prog_test_run_xdp, v6.18`
fn explain(errno: Errno, request: &TestRun) -> TestRunError {
    let ctx = request.ctx.unwrap_or_default();
    let (len, meta) = (request.data.len(), ctx.data as usize);
    let reason = match errno {
        Errno::EINVAL if len < ETH_HLEN + meta => {
            format!("a packet needs at least {ETH_HLEN} bytes after its metadata, this one has {len}")
        }
        Errno::EINVAL if ctx.data_meta != 0 => "data_meta of the context must be 0".to_owned(),
        Errno::EINVAL if ctx.egress_ifindex != 0 => "egress_ifindex of the context must be 0".to_owned(),
        Errno::EINVAL if ctx.data_end as usize > len => "data_end lies beyond the packet".to_owned(),
        Errno::EINVAL if ctx.data > ctx.data_end && request.ctx.is_some() => {
            "data lies beyond data_end".to_owned()
        }
        Errno::EINVAL if !meta.is_multiple_of(4) || meta > XDP_META_MAX => {
            format!("metadata must be a multiple of 4 and at most {XDP_META_MAX} bytes")
        }
        Errno::EINVAL if ctx.ingress_ifindex == 0 && ctx.rx_queue_index != 0 => {
            "a receive queue needs a device (ingress_ifindex)".to_owned()
        }
        Errno::EINVAL if ctx.ingress_ifindex != 0 => {
            format!("device {} has no receive queue {}", ctx.ingress_ifindex, ctx.rx_queue_index)
        }
        Errno::EINVAL => {
            "programs of devmaps and cpumaps, and device-bound ones, cannot be tested".to_owned()
        }
        Errno::ENODEV => format!("there is no device {}", ctx.ingress_ifindex),
        Errno::ENOMEM => format!("a packet of {len} bytes does not fit into a page and {MAX_SKB_FRAGS} more"),
        Errno::EPERM => "not permitted".to_owned(),
        _ => format!("the kernel cannot run it (of {} possible CPUs, on {})", possible_cpus(), request.cpu),
    };
    TestRunError { errno, reason }
}
