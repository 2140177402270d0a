//! The engine's maps against the running kernel's: the same random operations by user space and by programs
//! must get the same answers, to the errno and the byte.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use bpf::Insn;
use bpf::maps::{Bytes, Map, MapContext, MapDef, MapFd, Object, Refs};
use bpf::object::{AttachType, ProgramSpec};
use bpf::vm::{Program, Symbols};
use linux::sys::{self, PinnedToCpu};
use linux::testing::{RawProg, load_insns, map_fd, test_run};
use uapi::Errno;
use uapi::bpf::*;

/// `splitmix64`: what it says depends on the seed alone.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    UserSpace,
    Program,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Op {
    Lookup(By, Vec<u8>, u64),
    Update(By, Vec<u8>, Vec<u8>, u64),
    Delete(By, Vec<u8>),
    NextKey(Option<Vec<u8>>),
    LookupAndDelete(Vec<u8>, u64),
}

type Answer = Result<Vec<u8>, Errno>;

/// A map of either home.
trait Home {
    fn run(&self, op: &Op) -> Answer;

    /// All entries, in order of their keys.
    fn contents(&self, keys: &[Vec<u8>]) -> Vec<(Vec<u8>, Answer)> {
        keys.iter().map(|key| (key.clone(), self.run(&Op::Lookup(By::UserSpace, key.clone(), 0)))).collect()
    }

    /// Keys as `BPF_MAP_GET_NEXT_KEY` goes through them.
    fn keys(&self) -> Vec<Vec<u8>> {
        let first = self.run(&Op::NextKey(None)).ok();
        std::iter::successors(first, |key| self.run(&Op::NextKey(Some(key.clone()))).ok()).collect()
    }
}

const CPU: u32 = 0;

struct Engine {
    map: Arc<Map>,
    fd: MapFd,
    files: Files,
}

impl Home for Engine {
    fn run(&self, op: &Op) -> Answer {
        let done = |()| Vec::new();
        match op {
            Op::Lookup(By::UserSpace, key, flags) => self.fd.lookup_elem(key, *flags),
            Op::Update(By::UserSpace, key, value, flags) => {
                self.fd.update_with(&self.files, key, value, *flags).map(done)
            }
            Op::Delete(By::UserSpace, key) => self.fd.delete_elem(key).map(done),
            Op::NextKey(key) => self.fd.get_next_key(key.as_deref()),
            Op::LookupAndDelete(key, flags) => self.fd.lookup_and_delete_elem(key, *flags),
            Op::Lookup(By::Program, key, _) => {
                let guard = mem::epoch::pin();
                self.map.lookup(&guard, CPU, key).map(|v| v.to_vec()).ok_or(Errno::ENOENT)
            }
            Op::Update(By::Program, key, value, flags) => {
                self.map.update(CPU, key, Bytes::Own(value), *flags).map(done)
            }
            Op::Delete(By::Program, key) => self.map.delete(CPU, key).map(done),
        }
    }
}

struct Kernel {
    map: sys::Map,
    prog: Option<sys::Prog>,
    value_size: usize,
}

/// Where the program finds what to do in its packet.
const AT_OP: usize = 0;
const AT_FLAGS: usize = 8;
const AT_KEY: usize = 16;
const AT_VALUE: usize = 48;
const PACKET: usize = 112;
/// What the program returns for a lookup that finds nothing.
const NOTHING: u32 = 0x1000;

impl Kernel {
    fn run_prog(&self, op: u64, key: &[u8], value: &[u8], flags: u64) -> Answer {
        let mut packet = vec![0; PACKET];
        packet[AT_OP..][..8].copy_from_slice(&op.to_le_bytes());
        packet[AT_FLAGS..][..8].copy_from_slice(&flags.to_le_bytes());
        packet[AT_KEY..][..key.len()].copy_from_slice(key);
        packet[AT_VALUE..][..value.len()].copy_from_slice(value);
        let prog = self.prog.as_ref().expect("a program for this map");
        let run = test_run(prog, &packet, None, 1).expect("the program runs");
        match run.retval as i32 {
            0 => Ok(if op == 0 { run.data[AT_VALUE..][..self.value_size].to_vec() } else { Vec::new() }),
            e if e as u32 == NOTHING => Err(Errno::ENOENT),
            e => Err(Errno::from_raw(-e)),
        }
    }
}

impl Home for Kernel {
    fn run(&self, op: &Op) -> Answer {
        let done = |()| Vec::new();
        match op {
            Op::Lookup(By::UserSpace, key, flags) => self.map.lookup(key, *flags),
            Op::Update(By::UserSpace, key, value, flags) => self.map.update(key, value, *flags).map(done),
            Op::Delete(By::UserSpace, key) => self.map.delete(key).map(done),
            Op::NextKey(key) => self.map.next_key(key.as_deref()),
            Op::LookupAndDelete(key, flags) => self.map.lookup_and_delete(key, *flags),
            Op::Lookup(By::Program, key, _) => self.run_prog(0, key, &[], 0),
            Op::Update(By::Program, key, value, flags) => self.run_prog(1, key, value, *flags),
            Op::Delete(By::Program, key) => self.run_prog(2, key, &[], 0),
        }
    }
}

/// A program that does to a map what its packet says. Key and value sizes are multiples of 4.
fn operator(fd: i32, key_size: usize, value_size: usize) -> Vec<Insn> {
    const LDXW: u8 = 0x61;
    const LDXDW: u8 = 0x79;
    const STXW: u8 = 0x63;
    const MOV: u8 = 0xbf;
    const MOV_K: u8 = 0xb7;
    const ADD_K: u8 = 0x07;
    let i = Insn::new;
    let (key, value) = (-40_i16, -104_i16);
    let map = |v: &mut Vec<Insn>| {
        v.extend([i(0x18, 1, BPF_PSEUDO_MAP_FD, 0, fd), i(0, 0, 0, 0, 0)]);
        v.extend([i(MOV, 2, 10, 0, 0), i(ADD_K, 2, 0, 0, key.into())]);
    };
    let mut code = vec![
        i(LDXW, 7, 1, 0, 0),
        i(LDXW, 8, 1, 4, 0),
        i(MOV, 2, 7, 0, 0),
        i(ADD_K, 2, 0, 0, PACKET as i32),
        // if r2 <= r8 skip the exit
        i(0xbd, 2, 8, 2, 0),
        i(MOV_K, 0, 0, 0, -1),
        i(0x95, 0, 0, 0, 0),
    ];
    let copy = |code: &mut Vec<Insn>, from: usize, to: i16, len: usize| {
        for at in (0..len).step_by(4) {
            code.push(i(LDXW, 1, 7, (from + at) as i16, 0));
            code.push(i(STXW, 10, 1, to + at as i16, 0));
        }
    };
    copy(&mut code, AT_KEY, key, key_size);
    copy(&mut code, AT_VALUE, value, value_size);
    code.push(i(LDXDW, 9, 7, AT_OP as i16, 0));
    let mut lookup = Vec::new();
    map(&mut lookup);
    lookup.push(i(0x85, 0, 0, 0, func::MAP_LOOKUP_ELEM));
    lookup.extend([i(0x55, 0, 0, 2, 0), i(MOV_K, 0, 0, 0, NOTHING as i32), i(0x95, 0, 0, 0, 0)]);
    for at in (0..value_size).step_by(4) {
        lookup.push(i(LDXW, 1, 0, at as i16, 0));
        lookup.push(i(STXW, 7, 1, (AT_VALUE + at) as i16, 0));
    }
    lookup.extend([i(MOV_K, 0, 0, 0, 0), i(0x95, 0, 0, 0, 0)]);
    let mut update = Vec::new();
    map(&mut update);
    update.extend([i(MOV, 3, 10, 0, 0), i(ADD_K, 3, 0, 0, value.into())]);
    update.extend([i(LDXDW, 4, 7, AT_FLAGS as i16, 0), i(0x85, 0, 0, 0, func::MAP_UPDATE_ELEM)]);
    update.push(i(0x95, 0, 0, 0, 0));
    let mut delete = Vec::new();
    map(&mut delete);
    delete.extend([i(0x85, 0, 0, 0, func::MAP_DELETE_ELEM), i(0x95, 0, 0, 0, 0)]);
    code.push(i(0x55, 9, 0, lookup.len() as i16, 0));
    code.extend(lookup);
    code.push(i(0x55, 9, 0, update.len() as i16, 1));
    code.extend(update);
    code.extend(delete);
    code
}

fn cpus() -> u32 {
    sys::possible_cpus()
}

fn kernel_map(def: &MapDef, inner: Option<BorrowedFd<'_>>) -> Result<sys::Map, Errno> {
    sys::Map::create(&sys::MapArgs {
        map_type: def.map_type as u32,
        key_size: def.key_size,
        value_size: def.value_size,
        max_entries: def.max_entries,
        map_flags: def.map_flags,
        map_extra: def.map_extra,
        inner,
        ..sys::MapArgs::default()
    })
}

fn both(def: &MapDef, programs: bool) -> (Engine, Kernel) {
    let inner = def.inner.as_ref().map(|inner| kernel_map(inner, None).expect("the kernel makes a template"));
    let kernel = kernel_map(def, inner.as_ref().map(AsFd::as_fd)).expect("the kernel makes the map");
    let prog = programs.then(|| {
        let code = operator(map_fd(&kernel), def.key_size as usize, def.value_size as usize);
        load_insns(&RawProg::xdp(&code)).unwrap_or_else(|e| panic!("{e:?}")).0
    });
    let map = Map::create(def.clone(), &MapContext { cpus: cpus(), seed: 1, ..MapContext::default() });
    let map = map.expect("the engine makes the map");
    let fd = map.open().on_cpu(CPU);
    let files = Files::default();
    (Engine { map, fd, files }, Kernel { map: kernel, prog, value_size: def.value_size as usize })
}

/// Programs, maps and other files under the kernel's descriptors and with the kernel's numbers, for both homes.
#[derive(Default)]
struct Files {
    programs: Vec<(i32, Arc<Program>)>,
    maps: Vec<(i32, Arc<Map>)>,
    /// Neither a program nor a map nor a socket, but a file.
    others: Vec<i32>,
    /// What keeps the descriptors open.
    open: Vec<Box<dyn std::any::Any>>,
}

impl Files {
    fn find<T: Clone>(&self, all: &[(i32, T)], fd: i32) -> Result<T, Errno> {
        let found = all.iter().find(|(n, _)| *n == fd).map(|(_, x)| x.clone());
        // Rust's runtime sees to it that the standard streams are open.
        let is_other = (0..=2).contains(&fd)
            || self.programs.iter().any(|(n, _)| *n == fd)
            || self.maps.iter().any(|(n, _)| *n == fd)
            || self.others.contains(&fd);
        found.ok_or(if is_other { Errno::EINVAL } else { Errno::EBADF })
    }

    fn add_program(&mut self, attach_type: AttachType, frags: bool) {
        let code = vec![Insn::new(0xb7, 0, 0, 0, 2), Insn::new(0x95, 0, 0, 0, 0)];
        let flags = if frags { BPF_F_XDP_HAS_FRAGS } else { 0 };
        // No attach type at all is what libbpf gives the section `xdp`; the kernel tells it from BPF_XDP.
        let raw = RawProg { flags, attach_type: attach_type.raw(), ..RawProg::xdp(&code) };
        let prog = load_insns(&raw).expect("the program loads").0;
        let mut spec = ProgramSpec::bare("p", code);
        (spec.attach_type, spec.frags) = (attach_type, frags);
        let symbols = Symbols { helper: |_| None, kfunc: |_| None };
        let ours = Program::link(&spec, prog.id(), &[], symbols).expect("the program links");
        self.programs.push((prog.as_fd().as_raw_fd(), Arc::new(ours)));
        self.open.push(Box::new(prog));
    }

    fn add_map(&mut self, def: &MapDef) {
        let kernel = kernel_map(def, None).expect("the kernel makes the map");
        let cx = MapContext { id: kernel.id(), cpus: cpus(), ..MapContext::default() };
        self.maps.push((map_fd(&kernel), Map::create(def.clone(), &cx).expect("the engine makes the map")));
        self.open.push(Box::new(kernel));
    }

    fn numbers(&self) -> Vec<i32> {
        let programs = self.programs.iter().map(|(n, _)| *n);
        let maps = self.maps.iter().map(|(n, _)| *n);
        programs.chain(maps).chain(self.others.iter().copied()).chain([-1, 0, 9999]).collect()
    }
}

impl Refs for Files {
    /// The loopback device is there everywhere.
    fn has_device(&self, ifindex: u32) -> bool {
        ifindex == 1
    }

    fn program(&self, fd: i32) -> Result<Arc<Program>, Errno> {
        self.find(&self.programs, fd)
    }

    fn map(&self, fd: i32) -> Result<Arc<Map>, Errno> {
        self.find(&self.maps, fd)
    }

    fn socket(&self, fd: i32) -> Result<Object, Errno> {
        let none: Vec<(i32, Object)> = Vec::new();
        self.find(&none, fd).map_err(|e| if e == Errno::EINVAL { Errno::ENOTSOCK } else { e })
    }
}

/// What to try with a kind of map.
struct Plan {
    def: MapDef,
    /// Operations.
    steps: u32,
    /// Whether programs take part.
    programs: bool,
    /// Keys to choose from.
    keys: Vec<Vec<u8>>,
    /// Whether the order of keys is the kernel's too.
    ordered: bool,
    /// Values to choose from; any bytes if there are none.
    values: Vec<Vec<u8>>,
}

impl Plan {
    fn new(def: MapDef, keys: u32) -> Self {
        let size = def.key_size as usize;
        let key = |i: u32| i.to_le_bytes().into_iter().chain([7; 60]).take(size).collect();
        Self {
            def,
            steps: 20_000,
            programs: true,
            keys: (0..keys).map(key).collect(),
            ordered: false,
            values: Vec::new(),
        }
    }

    fn op(&self, random: &mut Random, user_value_size: usize) -> Op {
        let key = self.keys[random.below(self.keys.len() as u64) as usize].clone();
        let by = if self.programs && random.below(2) == 0 { By::Program } else { By::UserSpace };
        let size = if by == By::Program { self.def.value_size as usize } else { user_value_size };
        let value = match self.values.len() as u64 {
            0 => (0..size).map(|_| random.next() as u8).collect(),
            n => self.values[random.below(n) as usize].clone(),
        };
        let flags = random.one_of(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 8, 1 << 40]);
        match random.below(20) {
            0..=8 => Op::Update(by, key, value, flags),
            9..=13 => Op::Lookup(by, key, if flags > 3 { flags } else { 0 }),
            14..=17 => Op::Delete(by, key),
            18 => Op::LookupAndDelete(key, if flags > 3 { flags } else { 0 }),
            _ => Op::NextKey(if random.below(4) == 0 { None } else { Some(key) }),
        }
    }

    fn run(&self, seed: u64) {
        let (engine, kernel) = both(&self.def, self.programs);
        self.run_on(&engine, &kernel, seed);
    }

    fn run_on(&self, engine: &Engine, kernel: &Kernel, seed: u64) {
        let _pinned = PinnedToCpu::new(CPU).expect("the thread stays on a CPU");
        let mut random = Random(seed);
        let what = format!("{:?} {:?} seed {seed}", self.def.map_type, self.def);
        for step in 0..self.steps {
            let op = self.op(&mut random, engine.map.user_value_size());
            let (ours, theirs) = (engine.run(&op), kernel.run(&op));
            let same = match op {
                // Which key is next, and so which is the last, is each home's own affair.
                Op::NextKey(Some(_)) if !self.ordered => true,
                Op::NextKey(None) if !self.ordered => ours.is_ok() == theirs.is_ok(),
                _ => self.visible(&ours) == self.visible(&theirs),
            };
            assert!(same, "{what} step {step}: {op:?}: engine {ours:?}, kernel {theirs:?}");
            if step % (self.steps / 8) == 0 {
                self.compare(engine, kernel, &format!("{what} step {step}"));
            }
        }
        self.compare(engine, kernel, &what);
    }

    /// An answer without what the kernel leaves to chance: behind a per-CPU value that a program wrote lies
    /// whatever followed it on the program's stack.
    fn visible(&self, answer: &Answer) -> Answer {
        let (size, padded) = (self.def.value_size as usize, self.def.value_size.next_multiple_of(8) as usize);
        let mut answer = answer.clone();
        if self.programs
            && self.def.is_percpu()
            && let Ok(values) = &mut answer
        {
            values.chunks_mut(padded).filter(|v| v.len() == padded).for_each(|v| v[size..].fill(0));
        }
        answer
    }

    fn compare(&self, engine: &Engine, kernel: &Kernel, what: &str) {
        let (mut ours, mut theirs) = (engine.keys(), kernel.keys());
        if !self.ordered {
            ours.sort();
            theirs.sort();
        }
        assert_eq!(ours, theirs, "{what}: keys");
        let visible = |home: &dyn Home| -> Vec<_> {
            home.contents(&ours).into_iter().map(|(key, value)| (key, self.visible(&value))).collect()
        };
        assert_eq!(visible(engine), visible(kernel), "{what}: contents");
    }
}

#[test]
fn hash_maps_as_the_kernels() {
    linux::needs_kernel!();
    for (key, value, n) in [(4, 8, 16), (8, 4, 100), (16, 24, 50), (20, 60, 1)] {
        for flags in [0, BPF_F_NO_PREALLOC] {
            let def = MapDef::new(MapType::Hash, key, value, n).flags(flags);
            Plan::new(def, n + n / 4 + 1).run(u64::from(key + n));
        }
    }
}

#[test]
fn percpu_hash_maps_as_the_kernels() {
    linux::needs_kernel!();
    for (key, value, n) in [(4, 8, 16), (12, 20, 50)] {
        for flags in [0, BPF_F_NO_PREALLOC] {
            let def = MapDef::new(MapType::PercpuHash, key, value, n).flags(flags);
            Plan::new(def.clone(), n + n / 4 + 1).run(u64::from(key + n));
            Plan { programs: false, ..Plan::new(def, n + n / 4 + 1) }.run(u64::from(key));
        }
    }
}

#[test]
fn arrays_as_the_kernels() {
    linux::needs_kernel!();
    for t in [MapType::Array, MapType::PercpuArray] {
        for value in [4, 12, 24] {
            let plan = || Plan { ordered: true, ..Plan::new(MapDef::new(t, 4, value, 10), 13) };
            plan().run(value.into());
            Plan { programs: false, ..plan() }.run(value.into());
        }
    }
}

#[test]
fn lru_maps_evict_as_the_kernels() {
    linux::needs_kernel!();
    for t in [MapType::LruHash, MapType::LruPercpuHash] {
        for flags in [0, BPF_F_NO_COMMON_LRU] {
            for n in [1, 2, 7, 30, 200, 1000] {
                for seed in 0..3 {
                    let def = MapDef::new(t, 4, 8, n).flags(flags);
                    Plan { steps: 10_000 + n * 20, ..Plan::new(def, n * 2) }.run(seed);
                }
            }
        }
    }
}

fn prefixes(bytes: usize, n: u32, random: &mut Random) -> Vec<Vec<u8>> {
    (0..n)
        .map(|_| {
            let bits = random.below(bytes as u64 * 8 + 2) as u32;
            // Few different bits, so that prefixes contain each other.
            let data = (0..bytes).map(|_| random.next() as u8 & random.one_of(&[0, 0, 0x80, 0xc0, 0x11]));
            bits.to_le_bytes().into_iter().chain(data).collect()
        })
        .collect()
}

#[test]
fn lpm_tries_as_the_kernels() {
    linux::needs_kernel!();
    for (bytes, n) in [(4, 10), (4, 200), (8, 100), (12, 100), (16, 60)] {
        for seed in 0..4 {
            let keys = prefixes(bytes, n, &mut Random(seed));
            let def = MapDef::new(MapType::LpmTrie, bytes as u32 + 4, 8, n * 2 / 3).flags(BPF_F_NO_PREALLOC);
            Plan { keys, ordered: true, ..Plan::new(def, 1) }.run(seed);
        }
    }
}

#[test]
fn queues_and_stacks_as_the_kernels() {
    linux::needs_kernel!();
    for t in [MapType::Queue, MapType::Stack] {
        let plan = Plan { programs: false, ..Plan::new(MapDef::new(t, 0, 8, 7), 1) };
        plan.run(3);
    }
}

#[test]
fn bloom_filters_err_for_the_kernels_values() {
    linux::needs_kernel!();
    let mut maybe = 0;
    for (value, n, hashes) in [(4, 50, 0), (8, 200, 3), (5, 20, 1), (13, 100, 15), (40, 64, 5)] {
        let flags = BPF_F_ZERO_SEED;
        let def = MapDef { map_extra: hashes, ..MapDef::new(MapType::BloomFilter, 0, value, n).flags(flags) };
        let (engine, kernel) = both(&def, false);
        let mut random = Random(hashes);
        let mut sample = || (0..value).map(|_| random.next() as u8).collect::<Vec<u8>>();
        for _ in 0..n {
            let v = sample();
            assert_eq!(engine.fd.update_elem(&[], &v, 0), kernel.map.update(&[], &v, 0));
        }
        for _ in 0..20_000 {
            let v = sample();
            let ours = engine.fd.peek(&v);
            assert_eq!(ours, kernel.map.lookup(&v, 0).map(|_| ()));
            maybe += u32::from(ours.is_ok());
        }
    }
    assert!(maybe > 100, "the filters hardly ever err");
}

#[test]
fn creation_is_refused_as_by_the_kernel() {
    linux::needs_kernel!();
    use MapType::*;
    let types = [
        Hash,
        Array,
        ProgArray,
        PerfEventArray,
        PercpuHash,
        PercpuArray,
        LruHash,
        LruPercpuHash,
        LpmTrie,
        Devmap,
        Cpumap,
        Xskmap,
        Queue,
        Stack,
        DevmapHash,
        Ringbuf,
        BloomFilter,
        UserRingbuf,
    ];
    let mut random = Random(1);
    let sizes = [0, 1, 3, 4, 4, 4, 5, 7, 8, 8, 12, 16, 260, 261, 4096, 32 << 10, (32 << 10) + 1];
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let map_type = random.one_of(&types);
        let (key, value) = (random.one_of(&sizes), random.one_of(&sizes));
        // Ring buffers want pages; for the others few entries do, since the kernel fills them with memory.
        let n = match map_type {
            Ringbuf | UserRingbuf => random.one_of(&[0, 1, 64, 4096, 4097, 8192, 12_288]),
            _ => random.one_of(&[0, 1, 2, 5, 64]),
        };
        let mut flags = 0;
        for _ in 0..random.below(3) {
            flags |= 1 << random.one_of(&[0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
        }
        let map_extra = random.one_of(&[0, 0, 0, 0, 1, 15, 16, 1 << 40]);
        let def = MapDef { map_extra, ..MapDef::new(map_type, key, value, n).flags(flags) };
        if map_type == Cpumap && n > 64 {
            // Depends on how many CPUs the kernel was built for.
            continue;
        }
        let ours = Map::create(def.clone(), &MapContext { cpus: cpus(), ..MapContext::default() });
        let theirs = kernel_map(&def, None);
        let ours = ours.map(|_| ()).map_err(|e| e.errno);
        let theirs = theirs.map(|_| ());
        assert_eq!(ours, theirs, "{def:?}");
        if ours.is_ok() { accepted += 1 } else { refused += 1 }
    }
    assert!(accepted > 500 && refused > 5000, "{accepted} accepted, {refused} refused");
}

/// Numbers and descriptors as a value: `words` of four bytes.
fn values(firsts: &[u32], files: &Files, words: usize) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for first in firsts {
        for fd in files.numbers() {
            let both = [first.to_le_bytes(), fd.to_le_bytes()].concat();
            all.push(both[..words * 4].to_vec());
        }
    }
    all
}

fn fds(files: &Files) -> Vec<Vec<u8>> {
    files.numbers().into_iter().map(|fd| fd.to_le_bytes().to_vec()).collect()
}

fn programs() -> Files {
    let mut files = Files::default();
    for attach_type in [AttachType::Xdp, AttachType::Devmap, AttachType::Cpumap] {
        for frags in [false, true] {
            files.add_program(attach_type, frags);
        }
    }
    files.add_map(&MapDef::new(MapType::Array, 4, 4, 1));
    let file = std::fs::File::open("/dev/null").expect("a file");
    files.others.push(file.as_raw_fd());
    files.open.push(Box::new(file));
    files
}

/// Runs a plan whose values are descriptors.
fn run_with_files(def: &MapDef, files: Files, values: Vec<Vec<u8>>, ordered: bool, seed: u64) {
    let (mut engine, kernel) = both(def, false);
    let plan = Plan::new(def.clone(), def.max_entries + 2);
    engine.files = files;
    Plan { programs: false, steps: 4000, ordered, values, ..plan }.run_on(&engine, &kernel, seed);
}

#[test]
fn redirect_maps_as_the_kernels() {
    linux::needs_kernel!();
    for seed in 0..4 {
        for value_size in [4, 8] {
            for t in [MapType::Devmap, MapType::DevmapHash] {
                let files = programs();
                let values = values(&[1, 1, 1, 0, 77_777], &files, value_size as usize / 4);
                run_with_files(&MapDef::new(t, 4, value_size, 5), files, values, true, seed);
            }
            let files = programs();
            let values = values(&[192, 192, 1, 0, 16_384, 16_385], &files, value_size as usize / 4);
            run_with_files(&MapDef::new(MapType::Cpumap, 4, value_size, 5), files, values, true, seed);
        }
        let files = programs();
        let values = fds(&files);
        run_with_files(&MapDef::new(MapType::Xskmap, 4, 4, 5), files, values, true, seed);
    }
}

#[test]
fn program_arrays_as_the_kernels() {
    linux::needs_kernel!();
    for seed in 0..8 {
        let files = programs();
        let values = fds(&files);
        run_with_files(&MapDef::new(MapType::ProgArray, 4, 4, 5), files, values, true, seed);
    }
}

#[test]
fn maps_of_maps_as_the_kernels() {
    linux::needs_kernel!();
    use MapType::*;
    let inners = [
        MapDef::new(Array, 4, 8, 4),
        MapDef::new(Array, 4, 8, 4).flags(BPF_F_INNER_MAP),
        MapDef::new(Array, 4, 8, 8),
        MapDef::new(Array, 4, 8, 8).flags(BPF_F_INNER_MAP),
        MapDef::new(PercpuArray, 4, 8, 8),
        MapDef::new(PercpuArray, 4, 8, 9),
        MapDef::new(Hash, 4, 8, 4),
        MapDef::new(Hash, 4, 8, 5),
        MapDef::new(Hash, 4, 8, 5).flags(BPF_F_NO_PREALLOC),
        MapDef::new(LruHash, 4, 8, 5),
        MapDef::new(LpmTrie, 8, 8, 5).flags(BPF_F_NO_PREALLOC),
        MapDef::new(Queue, 0, 8, 5),
        MapDef::new(Queue, 0, 8, 6),
        MapDef::new(Devmap, 4, 4, 5),
        MapDef::new(Devmap, 4, 4, 6),
        MapDef::new(Cpumap, 4, 4, 2),
        MapDef::new(Xskmap, 4, 4, 5),
        MapDef::new(Xskmap, 4, 4, 6),
        MapDef::new(Ringbuf, 0, 0, 4096),
        MapDef::new(Ringbuf, 0, 0, 8192),
        MapDef::new(BloomFilter, 0, 8, 5),
        MapDef::new(PerfEventArray, 4, 4, 5),
    ];
    for outer in [ArrayOfMaps, HashOfMaps] {
        for inner in &inners {
            let mut files = Files::default();
            inners.iter().for_each(|def| files.add_map(def));
            let values = fds(&files);
            let def = MapDef { inner: Some(Box::new(inner.clone())), ..MapDef::new(outer, 4, 4, 5) };
            let (mut engine, kernel) = both(&def, false);
            engine.files = files;
            let plan = Plan::new(def.clone(), 7);
            let ordered = outer == ArrayOfMaps;
            Plan { programs: false, steps: 300, ordered, values, ..plan }.run_on(&engine, &kernel, 5);
        }
    }
    for inner in [ProgArray, ArrayOfMaps, HashOfMaps] {
        let inner = MapDef::new(inner, 4, 4, 1);
        let template = match inner.map_type {
            ProgArray => kernel_map(&inner, None),
            _ => kernel_map(&inner, Some(kernel_map(&inners[0], None).unwrap().as_fd())),
        };
        let template = template.expect("the kernel makes a template");
        let mut def = MapDef::new(ArrayOfMaps, 4, 4, 1);
        let theirs = kernel_map(&def, Some(template.as_fd())).map(|_| ());
        def.inner = Some(Box::new(inner));
        let ours = Map::create(def, &MapContext::default()).map(|_| ()).map_err(|e| e.errno);
        assert_eq!(ours, theirs);
    }
}
