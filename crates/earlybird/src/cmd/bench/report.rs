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
    /// Compilation, microseconds.
    pub(super) compile_us: Option<f64>,
    /// Verdict for each packet, of the first measurement's last run.
    pub(super) verdicts: Vec<u32>,
    /// Why it could not be measured.
    pub(super) error: Option<String>,
}

/// All measurements.
#[derive(Default)]
pub(super) struct Report {
    rows: Vec<Measurement>,
    entries: Vec<(Engine, f64)>,
}

impl Report {
    /// What a program that does nothing costs on each engine.
    pub(super) fn set_entries(&mut self, entries: impl Iterator<Item = (Engine, f64)>) {
        self.entries = entries.collect();
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
        self.rows.push(Measurement {
            object: spec.name.clone(),
            program: program.name.clone(),
            insns: program.insns.len(),
            engine,
            total_ns: f64::NAN,
            compile_us: None,
            verdicts: Vec::new(),
            error: Some(format!("{e:#}")),
        });
    }

    /// Whether nothing was measured.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn entry_ns(&self, engine: Engine) -> f64 {
        self.entries.iter().find(|(e, _)| *e == engine).map_or(0.0, |(_, ns)| *ns)
    }

    /// One run without the entry.
    fn net_ns(&self, m: &Measurement) -> f64 {
        (m.total_ns - self.entry_ns(m.engine)).max(0.0)
    }

    /// As JSON, one entry a program and engine.
    pub(super) fn to_json(&self) -> Value {
        let rows = self.rows.iter().map(|m| {
            let mut row = json!({
                "object": m.object,
                "program": m.program,
                "insns": m.insns,
                "engine": m.engine.name(),
                "ns_per_run": tenth(self.net_ns(m)),
                "entry_ns": tenth(self.entry_ns(m.engine)),
                "compile_us": m.compile_us.map(tenth),
            });
            if let Some(e) = &m.error {
                row["error"] = json!(e);
            }
            row
        });
        Value::Array(rows.collect())
    }

    /// As a table: one line a program, and the ratio to the kernel.
    pub(super) fn to_text(&self) -> String {
        let mut out = String::new();
        for (engine, ns) in &self.entries {
            let _ = writeln!(out, "entry {:6} {ns:8.2} ns", engine.name());
        }
        let mut by_program: BTreeMap<(&str, &str), Vec<&Measurement>> = BTreeMap::new();
        for m in &self.rows {
            by_program.entry((&m.object, &m.program)).or_default().push(m);
        }
        let _ = write!(out, "{:<32} {:>6}", "program", "insns");
        for (engine, _) in &self.entries {
            let _ = write!(out, " {:>10}", engine.name());
        }
        let _ = writeln!(out, " {:>10} {:>10}", "jit/kernel", "compile us");
        let mut ratios = Vec::new();
        for ((_, program), rows) in &by_program {
            out.push_str(&self.line(program, rows, &mut ratios));
        }
        if !ratios.is_empty() {
            let mean = (ratios.iter().map(|r| r.ln()).sum::<f64>() / ratios.len() as f64).exp();
            let worst = ratios.iter().copied().fold(0.0, f64::max);
            let _ = writeln!(
                out,
                "jit/kernel over {} programs: geometric mean {mean:.3}, worst {worst:.3}",
                ratios.len()
            );
        }
        out
    }

    fn line(&self, program: &str, rows: &[&Measurement], ratios: &mut Vec<f64>) -> String {
        let of = |engine| rows.iter().find(|m| m.engine == engine).copied();
        let mut line = format!("{program:<32} {:>6}", rows[0].insns);
        for (engine, _) in &self.entries {
            let _ = match of(*engine) {
                Some(m) if m.error.is_none() => write!(line, " {:>10.2}", self.net_ns(m)),
                _ => write!(line, " {:>10}", "-"),
            };
        }
        let pair =
            of(Engine::Jit).zip(of(Engine::Kernel)).filter(|(a, b)| a.error.is_none() && b.error.is_none());
        let _ = match pair {
            Some((a, b)) => {
                // The kernel's clock has a grain of a nanosecond: less than that is none.
                let ratio = self.net_ns(a).max(0.5) / self.net_ns(b).max(0.5);
                ratios.push(ratio);
                write!(line, " {ratio:>10.3}")
            }
            None => write!(line, " {:>10}", "-"),
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
            if let Some(e) = &m.error {
                let _ = writeln!(line, "  {}: {e}", m.engine.name());
            }
        }
        line
    }
}

fn tenth(v: f64) -> f64 {
    if v.is_finite() { (v * 10.0).round() / 10.0 } else { 0.0 }
}
