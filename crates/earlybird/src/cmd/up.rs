//! `earlybird up`: runs a scene with its generators, in real time.

use std::any::Any;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use clap::Args;
use control::EngineKind;
use control::scene::{Action, Scene, SceneHome, Step};
use linux::sys::PinnedToCpu;
use machine::scene::EngineScene;
use machine::scene::up::{EventCounts, UpCounts, UpEnd, UpOptions, UpReport};
use serde_json::json;
use uapi::Errno;
use xdp::DropReason;

use super::{Failure, scene_files};

/// Run a scene live, with its generators, and print rates
///
/// Makes the scene's devices, loads and attaches its programs, fills its maps, and then runs its generators until
/// ctrl-C, or for a --duration. Each CPU of the scene is a thread, pinned where that is allowed. No root is needed:
/// devices, programs and packets are those of the engine.
///
///     earlybird up scenes/router.toml --duration 10
///
/// A generator is a table of the scene:
///
///     [[generator]]
///     device = "h1"        # its other end receives
///     packet = "eth 02::1 > 02::2, ipv4 10.0.1.2 > 10.0.2.2, udp 1000 > 53, len 60"
///     flows = 64           # source ports 1000 to 1063
///     rate = 100000        # packets a second [default: as fast as it goes]
///     count = 1000000      # [default: no end]
///
/// Steps that send packets are for `earlybird test` and are left out here. The lines are those of xdp-tools.
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct UpArgs {
    /// Scene
    scene: PathBuf,

    /// Seconds until it ends [default: until ctrl-C, or until all generators have made their packets]
    #[arg(long, short, value_name = "SECONDS", value_parser = seconds)]
    duration: Option<Duration>,

    /// Seconds between two reports
    #[arg(long, short, default_value = "1", value_name = "SECONDS", value_parser = seconds)]
    interval: Duration,

    /// Count what the tracepoints tell as well: batches, cpumap threads, exceptions
    #[arg(long, short)]
    extended: bool,

    /// Seed of random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// One JSON object for each report, and one for the end
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds".to_owned())?;
    let in_range = (0.01..=1e6).contains(&seconds);
    if in_range { Ok(Duration::from_secs_f64(seconds)) } else { Err("0.01 to 1000000 seconds".to_owned()) }
}

/// Runs the command.
pub(crate) fn run(args: &UpArgs) -> Result<(), Failure> {
    let scene = scene_files::scene(&args.scene).map_err(anyhow::Error::from)?;
    let mut home = scene_files::engine_home(&scene, args.seed, EngineKind::Auto)?;
    prepare(&scene, &mut home)?;
    home.stop_tracing();
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    // Without a handler ctrl-C ends the process, and the last lines are missing.
    let _ = ctrlc::set_handler(move || flag.store(true, Relaxed));
    let options = UpOptions {
        interval: args.interval,
        duration: args.duration,
        extended: args.extended,
        stop: &stop,
        enter: &|cpu| {
            PinnedToCpu::new(cpu).map_or_else(|_: Errno| Box::new(()) as Box<dyn Any>, |pin| Box::new(pin))
        },
    };
    let mut out = std::io::stdout().lock();
    let end = home.up(&scene, &options, &mut |report| {
        let text =
            if args.json { format!("{}\n", report_json(report)) } else { lines(report, args.extended) };
        // Nobody reads any more: `up | head` ends it.
        if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
            stop.store(true, Relaxed);
        }
    });
    let end = end.map_err(anyhow::Error::from)?;
    let text = if args.json { format!("{}\n", end_json(&end)) } else { end_lines(&end) };
    let _ = out.write_all(text.as_bytes());
    match end.lost {
        0 => Ok(()),
        lost => Err(Failure::Failed(anyhow::anyhow!("{lost} pages are missing: an error of the engine"))),
    }
}

/// Takes the steps that set the scene up. They must be done as the scene claims; their counters are not looked at.
fn prepare(scene: &Scene, home: &mut EngineScene) -> anyhow::Result<()> {
    let sends = |step: &&Step| matches!(step.action, Action::Send { .. } | Action::Live { .. });
    for step in scene.steps.iter().filter(|step| !sends(step)) {
        let answer = home.act(&step.action)?;
        if answer.as_ref().err() != step.refused.as_ref() {
            let told = answer.err().unwrap_or_else(|| "done".to_owned());
            let wanted = step.refused.as_deref().unwrap_or("done");
            anyhow::bail!("{}:{}: {told}, not {wanted}", scene.path.display(), step.line);
        }
    }
    Ok(())
}

/// A number with commas, a second.
fn rate(count: u64, interval: Duration) -> String {
    let whole = (count as f64 / interval.as_secs_f64()).round() as u64;
    let digits = whole.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `NAME    N unit    N unit`, as xdp-tools aligns them.
fn columns(out: &mut String, name: &str, fields: &[(u64, &str)], interval: Duration) {
    let mut line = format!("{name:<22}");
    for (count, unit) in fields {
        let _ = write!(line, " {:>13} {unit:<13}", rate(*count, interval));
    }
    let _ = writeln!(out, "{}", line.trim_end());
}

fn lines(report: &UpReport, extended: bool) -> String {
    let (c, t) = (&report.counts, report.interval);
    let mut out = String::new();
    let fields = [
        (c.rx, "rx/s"),
        (c.redirect, "redir/s"),
        (c.errors() + c.program_drop, "err,drop/s"),
        (c.xmit, "xmit/s"),
    ];
    columns(&mut out, "Summary", &fields, t);
    if !extended {
        return out;
    }
    columns(
        &mut out,
        "  receive total",
        &[(c.rx, "pkt/s"), (c.program_drop, "drop/s"), (c.errors(), "error/s")],
        t,
    );
    for (name, [rx, drop, redirect]) in c.devices.iter().filter(|(_, [rx, ..])| *rx > 0) {
        columns(
            &mut out,
            &format!("    {name}"),
            &[(*rx, "pkt/s"), (*drop, "drop/s"), (*redirect, "redir/s")],
            t,
        );
    }
    columns(&mut out, "  redirect total", &[(c.redirect, "redir/s")], t);
    columns(&mut out, "  redirect_err", &[(redirect_errors(c), "error/s")], t);
    let e = &c.events;
    if e.enqueue_batches > 0 {
        let fields = [(e.enqueue, "pkt/s"), (e.enqueue_drops, "drop/s")];
        columns(&mut out, "  enqueue to cpu", &fields, t);
        out = format!("{} {:>13.2} bulk-avg\n", out.trim_end(), average(e.enqueue, e.enqueue_batches));
        columns(
            &mut out,
            "  kthread total",
            &[(e.kthread, "pkt/s"), (e.kthread_drops, "drop/s"), (e.kthread_sched, "sched")],
            t,
        );
        let fields =
            [(e.kthread_pass, "pass/s"), (e.kthread_drop, "drop/s"), (e.kthread_redirect, "redir/s")];
        columns(&mut out, "    xdp_stats", &fields, t);
    }
    columns(&mut out, "  xdp_exception", &[(e.exceptions, "hit/s")], t);
    if e.devmap_batches > 0 {
        let fields = [(e.devmap_xmit, "xmit/s"), (e.devmap_drops, "drop/s"), (e.devmap_errors, "drv_err/s")];
        columns(&mut out, "  devmap_xmit total", &fields, t);
        out = format!("{} {:>13.2} bulk-avg\n", out.trim_end(), average(e.devmap_xmit, e.devmap_batches));
    }
    for (reason, n) in &c.drops {
        columns(&mut out, &format!("  drop.{}", reason.id()), &[(*n, "drop/s")], t);
    }
    out.push('\n');
    out
}

fn average(packets: u64, batches: u64) -> f64 {
    packets as f64 / batches.max(1) as f64
}

/// What `xdp_redirect_err` counts.
fn redirect_errors(c: &UpCounts) -> u64 {
    use DropReason::*;
    let of = [
        RedirectNoTarget,
        RedirectNoDevice,
        RedirectMapGone,
        RedirectEntryGone,
        RedirectNoFrameRoom,
        RedirectNotSupported,
        RedirectNoFrags,
        RedirectDeviceDown,
        RedirectTooLong,
        RedirectCloneFailed,
        XskRefused,
        XskMissing,
    ];
    c.drops.iter().filter(|(reason, _)| of.contains(reason)).map(|(_, n)| n).sum()
}

fn end_lines(end: &UpEnd) -> String {
    let c = &end.counts;
    let seconds = end.elapsed.as_secs_f64();
    let mut out = format!(
        "\n{:.1} s: {} generated, {} received, {} redirected, {} transmitted, {} to the stack\n",
        seconds, c.generated, c.rx, c.redirect, c.xmit, c.stack
    );
    for (reason, n) in &c.drops {
        let _ = writeln!(out, "  {n} dropped: {} (earlybird explain EB{})", reason.id(), reason.number());
    }
    out
}

fn drops_json(counts: &UpCounts) -> serde_json::Value {
    counts
        .drops
        .iter()
        .map(|(reason, n)| (reason.id().to_owned(), json!(n)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn events_json(e: &EventCounts) -> serde_json::Value {
    json!({
        "xdp_exception": e.exceptions,
        "devmap_xmit": { "sent": e.devmap_xmit, "drops": e.devmap_drops, "errors": e.devmap_errors,
                         "batches": e.devmap_batches },
        "cpumap_enqueue": { "packets": e.enqueue, "drops": e.enqueue_drops, "batches": e.enqueue_batches },
        "cpumap_kthread": { "packets": e.kthread, "drops": e.kthread_drops, "sched": e.kthread_sched,
                            "xdp_pass": e.kthread_pass, "xdp_drop": e.kthread_drop,
                            "xdp_redirect": e.kthread_redirect },
    })
}

fn counts_json(counts: &UpCounts) -> serde_json::Value {
    let devices: serde_json::Map<_, _> = counts
        .devices
        .iter()
        .map(|(name, [rx, drop, redirect])| {
            (name.clone(), json!({ "rx": rx, "drop": drop, "redirect": redirect }))
        })
        .collect();
    json!({ "generated": counts.generated, "rx": counts.rx, "redirect": counts.redirect, "tx": counts.tx,
            "program_drop": counts.program_drop, "error": counts.errors(), "xmit": counts.xmit, "stack": counts.stack,
            "drops": drops_json(counts), "devices": devices, "events": events_json(&counts.events) })
}

fn report_json(report: &UpReport) -> serde_json::Value {
    let seconds = report.interval.as_secs_f64();
    let per_second = |n: u64| (n as f64 / seconds).round();
    let c = &report.counts;
    json!({ "at": report.at.as_secs_f64(), "seconds": seconds,
            "rates": { "rx": per_second(c.rx), "redirect": per_second(c.redirect),
                       "err_drop": per_second(c.errors() + c.program_drop), "xmit": per_second(c.xmit),
                       "stack": per_second(c.stack) },
            "counts": counts_json(c) })
}

fn end_json(end: &UpEnd) -> serde_json::Value {
    json!({ "end": true, "seconds": end.elapsed.as_secs_f64(), "lost": end.lost, "counts": counts_json(&end.counts) })
}
