//! Helpers and kfuncs one by one, on the engine and on the running kernel: the answer, the packet, the
//! context and the maps must be the same. Random programs (`differential`) reach those that need no special
//! surroundings; here are the others, and the edges of all.

mod conntrack;
mod kfuncs;
mod memory;
mod network;
mod packets;
mod text;

use std::sync::Arc;

use bpf::object::{KfuncRef, MapContents, MapSpec, ObjectSpec, ProgramSpec};
use control::{Backend, LoadOptions, TestRun, TestRunOutput};
use linux::KernelBackend;
use machine::{EngineBackend, NetTables};
use testkit::asm::assemble;
use testkit::differential::Pair;
use uapi::bpf::{BPF_F_RDONLY_PROG, MapType};
use uapi::xdp::XdpMd;

/// A program to compare.
#[derive(Clone, Debug, Default)]
struct Case {
    /// Its instructions; R6 holds the context. What R0 holds at the end comes back in the first eight bytes
    /// of the packet.
    text: String,
    /// Kernel functions, called by position (`call runtime 0`).
    kfuncs: Vec<&'static str>,
    /// Contents of a read-only array, which is map 0 if there are any.
    rodata: Vec<u8>,
    /// Further maps.
    maps: Vec<MapSpec>,
    /// Packet, behind its metadata.
    data: Vec<u8>,
    ctx: Option<XdpMd>,
}

/// Puts R0 into the first eight bytes of the packet.
const REPORT: &str = "
    stxdw [%r10-512], %r0
    mov %r1, %r6
    mov %r2, 0
    mov %r3, %r10
    add %r3, -512
    mov %r4, 8
    call 190
    mov %r0, 2
    exit
";

impl Case {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), data: (0..64).collect(), ..Self::default() }
    }

    fn kfuncs(self, names: &[&'static str]) -> Self {
        Self { kfuncs: names.to_vec(), ..self }
    }

    fn rodata(self, bytes: &[u8]) -> Self {
        Self { rodata: bytes.to_vec(), ..self }
    }

    fn packet(self, size: usize) -> Self {
        Self { data: (0..size).map(|i| i as u8).collect(), ..self }
    }

    /// A packet that is linear up to here; the rest is in fragments.
    fn linear(self, end: u32) -> Self {
        Self { ctx: Some(XdpMd { data_end: end, ..XdpMd::default() }), ..self }
    }

    fn object(&self) -> ObjectSpec {
        let text = format!("mov %r6, %r1\n{}\n{REPORT}", self.text);
        let insns = assemble(&text).unwrap_or_else(|e| panic!("{e} in\n{text}"));
        let kfunc = |name: &&str| KfuncRef { name: (*name).to_owned(), btf: None, weak: false };
        let program = ProgramSpec {
            kfuncs: self.kfuncs.iter().map(kfunc).collect(),
            frags: true,
            ..ProgramSpec::bare("main", insns)
        };
        let rodata = (!self.rodata.is_empty()).then(|| MapSpec {
            contents: MapContents::Data(self.rodata.clone()),
            frozen: true,
            ..map(".rodata", MapType::Array, 4, self.rodata.len() as u32, 1, BPF_F_RDONLY_PROG)
        });
        ObjectSpec {
            name: "case".to_owned(),
            license: "GPL".to_owned(),
            maps: rodata.into_iter().chain(self.maps.clone()).collect(),
            programs: vec![program],
            ..ObjectSpec::default()
        }
    }
}

fn map(name: &str, map_type: MapType, key: u32, value: u32, entries: u32, flags: u32) -> MapSpec {
    MapSpec {
        name: name.to_owned(),
        map_type,
        key_size: key,
        value_size: value,
        max_entries: entries,
        map_flags: flags,
        map_extra: 0,
        numa_node: None,
        key_type: None,
        value_type: None,
        inner: None,
        contents: MapContents::Empty,
        frozen: false,
        pin_by_name: false,
    }
}

/// The two homes, with the same network.
struct Homes {
    engine: EngineBackend,
    kernel: KernelBackend,
}

impl Homes {
    fn new(net: NetTables) -> Self {
        let engine = EngineBackend::new(linux::sys::possible_cpus(), 1, Arc::new(net));
        Self { engine, kernel: KernelBackend::new().expect("checked before") }
    }

    /// Runs a program in both and answers what both left.
    fn run(&mut self, case: &Case) -> TestRunOutput {
        let options = LoadOptions {
            programs: vec!["main".to_owned()],
            scripted: true,
            unverified: true,
            ..LoadOptions::default()
        };
        let homes: [&mut dyn Backend; 2] = [&mut self.engine, &mut self.kernel];
        let mut pair =
            Pair::load(homes, &case.object(), &options).unwrap_or_else(|e| panic!("{e:?}\n{case:#?}"));
        let request = TestRun { data: case.data.clone(), ctx: case.ctx, ..TestRun::default() };
        let output = pair.run("main", &request).unwrap_or_else(|e| panic!("{e}\n{case:#?}"));
        pair.compare_maps().unwrap_or_else(|e| panic!("{e}\n{case:#?}"));
        output.unwrap_or_else(|| panic!("both refuse to run it\n{case:#?}"))
    }

    /// As [`Homes::run`], and answers R0.
    fn answer(&mut self, case: &Case) -> i64 {
        let output = self.run(case);
        let meta = output.ctx.data as usize;
        let bytes = output.data.get(meta..meta + 8).and_then(|b| b.try_into().ok());
        i64::from_le_bytes(bytes.unwrap_or_else(|| panic!("nothing came back\n{case:#?}")))
    }
}

/// Homes in the namespace of the test itself, which has only a loopback device that matters.
fn homes() -> Homes {
    Homes::new(NetTables::default())
}
