//! `earlybird test`: plays scenes on the engine, on the kernel, or on both, and says what was not as claimed.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use control::EngineKind;
use control::scene::{Scene, SceneHome, SceneReport, differences, play};
use earlybird::object::Home;
use linux::scene::KernelScene;
use serde_json::json;

use super::Failure;
use super::scene_files::{self, engine_home, object};

/// Play scenes: devices, programs, packets, and what must come of them
///
/// A scene is a TOML file. After each step the counters, packets and events that it claims must be exactly those
/// that there were; else it fails and the whole state is shown. With `--backend both` it is also played in a
/// network namespace of the running kernel (root), and what the two did differently is shown. Scenes with what only the
/// engine has, such as virtio_net devices, are played there alone then, and say why.
#[derive(Args)]
pub(crate) struct TestArgs {
    /// Scenes, or folders of them
    #[arg(required = true)]
    paths: Vec<PathBuf>,

    /// Where
    #[arg(long, value_enum, default_value_t = Whose::Engine)]
    backend: Whose,

    /// How the engine runs programs: compiled where possible, or in the checked interpreter
    #[arg(long, value_enum, default_value_t = How::Auto)]
    engine: How,

    /// Seed of random numbers and of the order in which CPUs have their turns
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Form of the report
    #[arg(long, value_enum, default_value_t = Format::Tap)]
    format: Format,

    /// Go on after a step that fails, and print what each step has done, as claims to put into the scene
    #[arg(long)]
    show: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Whose {
    Engine,
    Kernel,
    Both,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum How {
    Auto,
    Interp,
    Jit,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Tap,
    Junit,
    Json,
}

/// How one scene went.
struct Outcome {
    path: PathBuf,
    title: String,
    /// What went wrong, one sentence each.
    failures: Vec<String>,
    differences: Vec<String>,
    /// Why it was not played on the kernel as well.
    engine_only: Option<String>,
    reports: Vec<SceneReport>,
    seconds: f64,
}

/// Runs the command.
pub(crate) fn run(args: &TestArgs) -> Result<(), Failure> {
    let mut outcomes = Vec::new();
    for path in scenes(&args.paths)? {
        outcomes.push(one(args, &path));
    }
    if outcomes.is_empty() {
        return Err(Failure::Usage(anyhow::anyhow!("no scene (*.toml) in the folders given")));
    }
    match args.format {
        Format::Tap => print!("{}", tap(&outcomes, args.show)),
        Format::Junit => print!("{}", junit(&outcomes)),
        Format::Json => println!("{:#}", as_json(&outcomes)),
    }
    if outcomes.iter().any(|o| !o.failures.is_empty()) {
        return Err(Failure::Rejected);
    }
    match outcomes.iter().any(|o| !o.differences.is_empty()) {
        true => Err(Failure::Differ),
        false => Ok(()),
    }
}

/// The scenes of files and folders, in order.
fn scenes(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in paths {
        if !path.is_dir() {
            all.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path).with_context(|| path.display().to_string())?;
        let mut found = entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
        found.retain(|p| p.extension().is_some_and(|e| e == "toml"));
        found.sort();
        all.extend(found);
    }
    Ok(all)
}

fn one(args: &TestArgs, path: &Path) -> Outcome {
    let started = std::time::Instant::now();
    let mut outcome = Outcome {
        path: path.to_owned(),
        title: String::new(),
        failures: Vec::new(),
        differences: Vec::new(),
        engine_only: None,
        reports: Vec::new(),
        seconds: 0.0,
    };
    match scene_files::scene(path) {
        Ok(scene) => {
            outcome.title.clone_from(&scene.title);
            if let Err(e) = play_all(args, &scene, &mut outcome) {
                outcome.failures.push(format!("{e:#}"));
            }
        }
        Err(e) => outcome.failures.push(e.to_string()),
    }
    outcome.seconds = started.elapsed().as_secs_f64();
    outcome
}

fn play_all(args: &TestArgs, scene: &Scene, outcome: &mut Outcome) -> anyhow::Result<()> {
    if args.backend != Whose::Kernel {
        let kind = match args.engine {
            How::Auto => EngineKind::Auto,
            How::Interp => EngineKind::Interp,
            How::Jit => EngineKind::Jit,
        };
        let mut home = engine_home(scene, args.seed, kind)?;
        played(args, scene, &mut home, outcome)?;
    }
    if args.backend == Whose::Both {
        outcome.engine_only = scene.engine_only();
    }
    if args.backend != Whose::Engine && outcome.engine_only.is_none() {
        let open = |path: &Path| object(path, Home::Kernel);
        let mut home = KernelScene::new(scene, &open)?;
        played(args, scene, &mut home, outcome)?;
    }
    if let [engine, kernel] = outcome.reports.as_slice() {
        outcome.differences = differences(engine, kernel);
    }
    Ok(())
}

fn played(
    args: &TestArgs,
    scene: &Scene,
    home: &mut dyn SceneHome,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let report = play(scene, home, args.show)?;
    for step in &report.steps {
        for failure in &step.failures {
            outcome.failures.push(format!(
                "{}:{}: {}: {failure}",
                scene.path.display(),
                step.line,
                report.home
            ));
        }
        if !step.failures.is_empty() {
            let state: Vec<_> = step.state.iter().map(|(name, n)| format!("{name}={n}")).collect();
            outcome.failures.push(format!("state: {}", state.join(" ")));
        }
    }
    outcome.reports.push(report);
    Ok(())
}

fn tap(outcomes: &[Outcome], show: bool) -> String {
    let mut out = format!("TAP version 14\n1..{}\n", outcomes.len());
    for (i, o) in outcomes.iter().enumerate() {
        let ok = o.failures.is_empty() && o.differences.is_empty();
        let word = if ok { "ok" } else { "not ok" };
        let only = o.engine_only.as_ref().map_or_else(String::new, |why| format!(" (engine only: {why})"));
        out += &format!("{word} {} - {}: {}{only}\n", i + 1, o.path.display(), o.title);
        for line in o.failures.iter().chain(&o.differences).flat_map(|f| f.lines()) {
            out += &format!("# {line}\n");
        }
        for report in o.reports.iter().filter(|_| show) {
            for step in &report.steps {
                out += &format!("# {} line {}: {:?}\n", report.home, step.line, step.answer);
                let counters: Vec<_> = step.moved.iter().map(|(n, v)| format!("\"{n}\" = {v}")).collect();
                out += &format!("#   counters = {{ {} }}\n", counters.join(", "));
                out += &format!("#   received = {:?}\n#   events = {:?}\n", step.received, step.events);
            }
        }
    }
    out
}

fn junit(outcomes: &[Outcome]) -> String {
    let escape = |s: &str| s.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
    let failed = outcomes.iter().filter(|o| !o.failures.is_empty() || !o.differences.is_empty()).count();
    let mut out = format!(
        "<?xml version=\"1.0\"?>\n<testsuite name=\"scenes\" tests=\"{}\" failures=\"{failed}\">\n",
        outcomes.len()
    );
    for o in outcomes {
        let name = escape(&o.path.display().to_string());
        out += &format!(
            "<testcase classname=\"{name}\" name=\"{}\" time=\"{:.3}\">",
            escape(&o.title),
            o.seconds
        );
        let wrong: Vec<_> = o.failures.iter().chain(&o.differences).map(|f| escape(f)).collect();
        if let Some(first) = wrong.first() {
            out += &format!("<failure message=\"{first}\">{}</failure>", wrong.join("\n"));
        }
        out += "</testcase>\n";
    }
    out + "</testsuite>\n"
}

fn as_json(outcomes: &[Outcome]) -> serde_json::Value {
    let step = |s: &control::scene::StepReport| {
        json!({ "line": s.line, "refused": s.answer.as_ref().err(), "counters": s.moved, "received": s.received,
                "events": s.events, "failures": s.failures })
    };
    let report =
        |r: &SceneReport| json!({ "home": r.home, "steps": r.steps.iter().map(step).collect::<Vec<_>>() });
    let scene = |o: &Outcome| {
        json!({ "scene": o.path.display().to_string(), "title": o.title,
                "passed": o.failures.is_empty() && o.differences.is_empty(), "failures": o.failures,
                "differences": o.differences, "engine_only": o.engine_only, "seconds": o.seconds,
                "homes": o.reports.iter().map(report).collect::<Vec<_>>() })
    };
    json!(outcomes.iter().map(scene).collect::<Vec<_>>())
}
