//! What `earlybird bench exec` found, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use bpf::object::{ObjectSpec, ProgramSpec};
use serde_json::{Value, json};

use super::exec::Engine;

/// One program on one engine.
pub(super) struct Measurement {
    /// Object file.
    pub(super) object: String,
    /// Function name.
    pub(super) program: String,
    /// Instructions.
    pub(super) insns: usize,
    /// What ran it.
    pub(super) engine: Engine,
    /// One run, entry included, nanoseconds.
    pub(super) total_ns: f64,
    /// One run of a program that does nothing, measured in turns with it.
    pub(super) entry_ns: f64,
    /// Compilation, microseconds.
    pub(super) compile_us: Option<f64>,
    /// Verdict for each packet, of the first measurement's last run.
    pub(super) verdicts: Vec<u32>,
    /// Why it could not be measured.
    pub(super) error: Option<String>,
}

impl Measurement {
    /// One that is still to be made.
    pub(super) fn new(spec: &ObjectSpec, program: &ProgramSpec, engine: Engine) -> Self {
        Self {
            object: spec.name.clone(),
            program: program.name.clone(),
            insns: program.insns.len(),
            engine,
            total_ns: f64::INFINITY,
            entry_ns: f64::INFINITY,
            compile_us: None,
            verdicts: Vec::new(),
            error: None,
        }
    }
}

/// All measurements.
#[derive(Default)]
pub(super) struct Report {
    rows: Vec<Measurement>,
    engines: Vec<Engine>,
    /// One packet of a batch through a compiled program that does nothing, nanoseconds.
    batch_ns: Option<f64>,
    /// Columns that are missing, and why.
    left_out: Vec<(Engine, String)>,
}

/// Below this a difference of two measurements says nothing, nanoseconds.
const GRAIN_NS: f64 = 0.25;

impl Report {
    /// An empty one of these columns.
    pub(super) fn new(engines: Vec<Engine>) -> Self {
        Self { engines, ..Self::default() }
    }

    /// Leaves out a column.
    pub(super) fn leave_out(&mut self, engine: Engine, why: String) {
        self.engines.retain(|e| *e != engine);
        self.left_out.push((engine, why));
    }

    /// What one packet of a batch through a program that does nothing costs.
    pub(super) fn set_batch(&mut self, ns: f64) {
        self.batch_ns = Some(ns);
    }

    /// More measurements.
    pub(super) fn extend(&mut self, rows: impl Iterator<Item = Measurement>) {
        self.rows.extend(rows);
    }

    /// A program that an engine does not take.
    pub(super) fn refused(
        &mut self,
        spec: &ObjectSpec,
        program: &ProgramSpec,
        engine: Engine,
        e: &anyhow::Error,
    ) {
        let error = Some(format!("{e:#}"));
        self.rows.push(Measurement { error, ..Measurement::new(spec, program, engine) });
    }

    /// Whether nothing was measured.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The least that a program that does nothing took on an engine.
    fn entry_ns(&self, engine: Engine) -> f64 {
        let rows = self.rows.iter().filter(|m| m.engine == engine && m.error.is_none());
        rows.map(|m| m.entry_ns).fold(f64::INFINITY, f64::min)
    }

    /// As JSON, one entry a program and engine; one more for the entry of batches.
    pub(super) fn to_json(&self) -> Value {
        let mut rows: Vec<Value> = self.rows.iter().map(row).collect();
        if let Some(ns) = self.batch_ns {
            let entry = hundredth(self.entry_ns(Engine::Jit));
            rows.push(json!({
                "program": "empty", "engine": "jit", "ns_per_run": 0.0, "entry_ns": entry,
                "batch_entry_ns": hundredth(ns),
            }));
        }
        let left_out =
            self.left_out.iter().map(|(engine, why)| json!({"engine": engine.name(), "left_out": why}));
        rows.extend(left_out);
        Value::Array(rows)
    }

    /// As a table: one line a program, and the ratio to the kernel.
    pub(super) fn to_text(&self) -> String {
        let mut out = String::new();
        for engine in &self.engines {
            let _ = writeln!(out, "entry {:6} {:8.2} ns", engine.name(), self.entry_ns(*engine));
        }
        if let Some(ns) = self.batch_ns {
            let _ = writeln!(out, "entry {:6} {ns:8.2} ns a packet in a batch of 64", "jit");
        }
        for (engine, why) in &self.left_out {
            let _ = writeln!(out, "{}: left out: {why}", engine.name());
        }
        let mut by_program: BTreeMap<(&str, &str), Vec<&Measurement>> = BTreeMap::new();
        for m in &self.rows {
            by_program.entry((&m.object, &m.program)).or_default().push(m);
        }
        let _ = write!(out, "{:<32} {:>6}", "program", "insns");
        for engine in &self.engines {
            let _ = write!(out, " {:>10}", engine.name());
        }
        let _ = writeln!(out, " {:>10} {:>10} {:>10}", "jit/kernel", "with entry", "compile us");
        let mut ratios = Vec::new();
        for ((_, program), rows) in &by_program {
            out.push_str(&self.line(program, rows, &mut ratios));
        }
        if !ratios.is_empty() {
            let mean = |of: fn(&(f64, f64)) -> f64| {
                (ratios.iter().map(|r| of(r).ln()).sum::<f64>() / ratios.len() as f64).exp()
            };
            let worst = ratios.iter().map(|r| r.0).fold(0.0, f64::max);
            let above = ratios.iter().filter(|r| r.0 > 1.0).count();
            let _ = writeln!(
                out,
                "jit/kernel over {} programs: geometric mean {:.3}, worst {worst:.3}, {above} above 1; \
                 entry included: geometric mean {:.3}",
                ratios.len(),
                mean(|r| r.0),
                mean(|r| r.1),
            );
        }
        out
    }

    fn line(&self, program: &str, rows: &[&Measurement], ratios: &mut Vec<(f64, f64)>) -> String {
        let of = |engine| rows.iter().find(|m| m.engine == engine).copied();
        let mut line = format!("{program:<32} {:>6}", rows[0].insns);
        for engine in &self.engines {
            let _ = match of(*engine) {
                Some(m) if m.error.is_none() => write!(line, " {:>10.2}", net_ns(m)),
                _ => write!(line, " {:>10}", "-"),
            };
        }
        let pair =
            of(Engine::Jit).zip(of(Engine::Kernel)).filter(|(a, b)| a.error.is_none() && b.error.is_none());
        let _ = match pair {
            Some((a, b)) => {
                let ratio = net_ns(a).max(GRAIN_NS) / net_ns(b).max(GRAIN_NS);
                let whole = a.total_ns / b.total_ns;
                ratios.push((ratio, whole));
                write!(line, " {ratio:>10.3} {whole:>10.3}")
            }
            None => write!(line, " {:>10} {:>10}", "-", "-"),
        };
        if let Some(us) = of(Engine::Jit).and_then(|m| m.compile_us) {
            let _ = write!(line, " {us:>10.1}");
        }
        let first = rows.iter().find(|m| m.error.is_none());
        if rows.iter().any(|m| m.error.is_none() && first.is_some_and(|f| f.verdicts != m.verdicts)) {
            line.push_str("  verdicts differ");
        }
        line.push('\n');
        for m in rows {
            if let Some(e) = m.error.as_ref().filter(|_| !m.engine.is_peer()) {
                let _ = writeln!(line, "  {}: {e}", m.engine.name());
            }
        }
        line
    }
}

/// One run without the entry.
fn net_ns(m: &Measurement) -> f64 {
    (m.total_ns - m.entry_ns).max(0.0)
}

fn row(m: &Measurement) -> Value {
    let mut row = json!({
        "object": m.object,
        "program": m.program,
        "insns": m.insns,
        "engine": m.engine.name(),
        "ns_per_run": hundredth(net_ns(m)),
        "entry_ns": hundredth(m.entry_ns),
        "total_ns": hundredth(m.total_ns),
        "compile_us": m.compile_us.map(hundredth),
    });
    if let Some(e) = &m.error {
        row["error"] = json!(e);
    }
    row
}

fn hundredth(v: f64) -> f64 {
    if v.is_finite() { (v * 100.0).round() / 100.0 } else { 0.0 }
}
