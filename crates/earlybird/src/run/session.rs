//! [`Session`]: one program over a stream of packets.

use std::collections::{BTreeMap, BTreeSet};

use bpf::maps::MapDef;
use bpf::object::ObjectSpec;
use control::{Loaded, OutputEvent, RedirectTarget, TestRun, TestRunError, TestRunOutput};
use serde_json::{Map, Value};
use uapi::xdp::{XdpAction, XdpMd};

use super::{Difference, DumpMode, MapView, RedirectCount, Report, compare};
use crate::capture::CapturedPacket;

/// How packets are run.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Runs over each packet.
    pub repeat: u32,
    /// Context of each packet; lengths are filled in from the packet where they are `None`.
    pub ctx: Option<XdpMd>,
    /// Metadata put before each packet.
    pub metadata: Vec<u8>,
    /// How much of the maps the report shows.
    pub dump: DumpMode,
    /// Differences that the report lists.
    pub differences_max: usize,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { repeat: 1, ctx: None, metadata: Vec::new(), dump: DumpMode::Used, differences_max: 100 }
    }
}

/// A packet could not be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("packet {packet} ({len} bytes) on the {backend}: {source}")]
pub struct RunError {
    /// Packet, counted from 1.
    pub packet: u64,
    /// Its length, bytes.
    pub len: usize,
    /// `engine` or `kernel`.
    pub backend: &'static str,
    /// Why.
    pub source: TestRunError,
}

/// Sees each packet's result, for `--out` and progress.
pub trait Observer {
    /// A packet has been run.
    ///
    /// # Errors
    ///
    /// Those of writing; they end the run.
    fn packet(&mut self, number: u64, packet: &CapturedPacket, output: &TestRunOutput)
    -> std::io::Result<()>;
}

/// Clocks stand at this when the first packet arrives, nanoseconds since boot.
const FIRST_PACKET_NS: u64 = 1_000_000_000_000;
/// Time between packets that have no time stamp, nanoseconds.
const PACKET_GAP_NS: u64 = 1_000;
/// Maps with more entries are compared after the run instead of after every packet.
const COMPARE_EACH_MAX: u32 = 256;

/// A program on one backend or on both.
pub struct Session<'a> {
    spec: &'a ObjectSpec,
    program: String,
    engine: Option<Box<dyn Loaded>>,
    kernel: Option<Box<dyn Loaded>>,
    options: SessionOptions,
    report: Report,
    redirects: BTreeMap<(Option<String>, Option<u32>), u64>,
    maps_differing: BTreeSet<String>,
    first_ns: Option<u64>,
    total_ns: [u128; 2],
}

impl<'a> Session<'a> {
    /// Of a program that has been loaded.
    ///
    /// # Panics
    ///
    /// If there is no backend at all.
    #[must_use]
    pub fn new(
        spec: &'a ObjectSpec,
        program: &str,
        engine: Option<(Box<dyn Loaded>, String)>,
        kernel: Option<Box<dyn Loaded>>,
        options: SessionOptions,
    ) -> Self {
        let backend = match (&engine, &kernel) {
            (Some(_), Some(_)) => "both",
            (Some(_), None) => "engine",
            (None, Some(_)) => "kernel",
            (None, None) => panic!("a session has at least one backend"),
        };
        let (engine, engine_name) = engine.unzip();
        let zero = XdpAction::ALL.iter().map(|a| (a.name().to_owned(), Value::from(0_u64)));
        let loaded = engine.iter().chain(&kernel);
        let report = Report {
            object: spec.name.clone(),
            program: program.to_owned(),
            backend: backend.to_owned(),
            engine: engine_name,
            packets: 0,
            bytes: 0,
            verdicts: zero.collect(),
            ns_per_packet: 0.0,
            kernel_ns_per_packet: None,
            redirects: Vec::new(),
            maps: Map::new(),
            connections: Vec::new(),
            events: 0,
            differences: Vec::new(),
            differences_total: 0,
            warnings: loaded.flat_map(|l| l.warnings().to_vec()).collect(),
        };
        Self {
            spec,
            program: program.to_owned(),
            engine,
            kernel,
            options,
            report,
            redirects: BTreeMap::new(),
            maps_differing: BTreeSet::new(),
            first_ns: None,
            total_ns: [0; 2],
        }
    }

    /// Runs one packet.
    ///
    /// # Errors
    ///
    /// [`RunError`] for a packet that a backend refuses.
    pub fn run(&mut self, packet: &CapturedPacket) -> Result<TestRunOutput, RunError> {
        let number = self.report.packets + 1;
        let mut request = self.request(packet, number);
        let run = |loaded: &mut Option<Box<dyn Loaded>>, backend, request: &TestRun| {
            let Some(loaded) = loaded else { return Ok(None) };
            let output = loaded.test_run(&self.program, request).map_err(|source| RunError {
                packet: number,
                len: packet.data.len(),
                backend,
                source,
            })?;
            Ok(Some((output, loaded.take_events())))
        };
        let engine = run(&mut self.engine, "engine", &request)?;
        if let Some((output, _)) = &engine {
            request.script.clone_from(&output.scripted);
        }
        let kernel = run(&mut self.kernel, "kernel", &request)?;
        self.report.packets = number;
        self.report.bytes += packet.data.len() as u64;
        for (total, ran) in self.total_ns.iter_mut().zip([&engine, &kernel]) {
            *total += ran.as_ref().map_or(0, |(o, _)| u128::from(o.duration_ns));
        }
        if let (Some(ours), Some(theirs)) = (&engine, &kernel) {
            self.compare(number, ours, theirs);
        }
        let (output, events) = engine.or(kernel).expect("a session has at least one backend");
        self.report.events += events.len() as u64;
        self.count(&output);
        Ok(output)
    }

    fn request(&mut self, packet: &CapturedPacket, number: u64) -> TestRun {
        let first = *self.first_ns.get_or_insert(packet.time_ns);
        let since = if packet.time_ns == 0 {
            (number - 1) * PACKET_GAP_NS
        } else {
            packet.time_ns.saturating_sub(first)
        };
        let mut data = self.options.metadata.clone();
        data.extend(&packet.data);
        let ctx = self.options.ctx.map(|mut ctx| {
            if ctx.data_end == 0 {
                ctx.data = self.options.metadata.len() as u32;
                ctx.data_end = data.len().min(LINEAR_MAX) as u32;
            }
            ctx
        });
        TestRun {
            data,
            ctx,
            repeat: self.options.repeat,
            time_ns: FIRST_PACKET_NS + since,
            hold_timers: self.engine.is_some() && self.kernel.is_some(),
            cpu: 0,
            script: Vec::new(),
        }
    }

    fn compare(
        &mut self,
        number: u64,
        (ours, our_events): &(TestRunOutput, Vec<OutputEvent>),
        (theirs, their_events): &(TestRunOutput, Vec<OutputEvent>),
    ) {
        let mut found = compare::outputs(number, ours, theirs);
        found.extend(compare::events(number, our_events, their_events));
        found.extend(self.compare_maps(number, |def| def.max_entries <= COMPARE_EACH_MAX));
        self.add_differences(found);
    }

    fn compare_maps(&self, number: u64, which: impl Fn(&MapDef) -> bool) -> Vec<Difference> {
        let (Some(engine), Some(kernel)) = (&self.engine, &self.kernel) else { return Vec::new() };
        compare::maps(number, &MapView::new(self.spec), engine.as_ref(), kernel.as_ref(), which)
    }

    /// A map that differs stays different: only the first packet after which it does is told.
    fn add_differences(&mut self, mut found: Vec<Difference>) {
        found.retain(|d| !d.field.starts_with("map ") || self.maps_differing.insert(d.field.clone()));
        self.report.differences_total += found.len() as u64;
        let room = self.options.differences_max.saturating_sub(self.report.differences.len());
        self.report.differences.extend(found.into_iter().take(room));
    }

    fn count(&mut self, output: &TestRunOutput) {
        self.report.count_verdict(output.retval);
        if let Some(target) = &output.redirect {
            let place = match target.clone() {
                RedirectTarget::Ifindex(ifindex) => (None, Some(ifindex)),
                RedirectTarget::Map { map, key } => (Some(map), key),
            };
            *self.redirects.entry(place).or_default() += 1;
        }
    }

    /// Ends the run: compares the large maps and reads what all maps hold.
    #[must_use]
    pub fn finish(mut self) -> Report {
        let found = self.compare_maps(self.report.packets, |def| def.max_entries > COMPARE_EACH_MAX);
        self.add_differences(found);
        let loaded =
            self.engine.as_ref().or(self.kernel.as_ref()).expect("a session has at least one backend");
        let maps = MapView::new(self.spec).dump(loaded.as_ref(), self.options.dump);
        let mean = |total: u128| total as f64 / self.report.packets.max(1) as f64;
        let [engine_ns, kernel_ns] = self.total_ns.map(mean);
        let mut report = self.report;
        report.maps = maps;
        report.connections = loaded.connections().into_iter().map(Into::into).collect();
        report.ns_per_packet = if self.engine.is_some() { engine_ns } else { kernel_ns };
        report.kernel_ns_per_packet = (self.engine.is_some() && self.kernel.is_some()).then_some(kernel_ns);
        let redirects = self.redirects.into_iter();
        report.redirects = redirects.map(|((map, key), count)| RedirectCount { map, key, count }).collect();
        report
    }
}

/// Linear bytes of a packet in `BPF_PROG_TEST_RUN`: a page without head and tail room.
pub(crate) const LINEAR_MAX: usize = 4096 - uapi::xdp::XDP_PACKET_HEADROOM - uapi::xdp::XDP_TAILROOM;
