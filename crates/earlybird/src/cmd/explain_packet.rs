//! `earlybird explain-packet`: plays a scene in the checked interpreter and tells what became of its packets.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use control::EngineKind;
use control::scene::{describe_packet, play};
use machine::scene::fate::{Call, End, Fate, Follower, Hop, Place, ProgramRun};
use xdp::DropReason;

use super::{Failure, scene_files};

/// Tell what became of the packets of a scene
///
/// Plays the scene on the engine, in the checked interpreter, and follows each packet: which programs ran over it
/// and which source line decided, which map entries were read, where a redirect went, from device to device, and
/// which rule dropped it in the end, with the cure. Packets are numbered from 1 in the order in which the scene
/// makes them. Without --packet there is one line for packets that went the same way.
///
///     earlybird explain-packet scenes/veth_tx.toml
///     earlybird explain-packet scenes/veth_tx.toml --packet 2
///
/// No root is needed, and nothing has to be added to the scene. The same scene and seed give the same fates.
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct ExplainPacketArgs {
    /// Scene
    scene: PathBuf,

    /// Number of the packet, from 1 [default: list all]
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    packet: Option<u64>,

    /// Seed of random numbers and of the order in which CPUs have their turns
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// As JSON: an object, or without --packet an array of them
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &ExplainPacketArgs) -> Result<(), Failure> {
    let scene = scene_files::scene(&args.scene).map_err(anyhow::Error::from)?;
    let mut home = scene_files::engine_home(&scene, args.seed, EngineKind::Interp)?;
    let follower = home.follow(args.packet);
    play(&scene, &mut home, true).map_err(anyhow::Error::from)?;
    let fates = follower.fates();
    match (args.packet, fates.first()) {
        (Some(n), None) => {
            return Err(Failure::Usage(anyhow::anyhow!(
                "there is no packet {n}: the scene makes {}",
                follower.packets()
            )));
        }
        (Some(_), Some(fate)) if args.json => println!("{:#}", as_json(fate)),
        (Some(_), Some(fate)) => print!("{}", told(&args.scene.display().to_string(), fate, &follower)),
        (None, _) if args.json => {
            println!("{:#}", serde_json::Value::Array(fates.iter().map(as_json).collect()));
        }
        (None, _) => print!("{}", list(&fates, follower.packets())),
    }
    Ok(())
}

/// A fate with the texts that belong to its ends.
fn as_json(fate: &Fate) -> serde_json::Value {
    let mut value = serde_json::to_value(fate).unwrap_or_default();
    let ends = value.get_mut("ends").and_then(|e| e.as_array_mut());
    for (end, json) in fate.ends.iter().zip(ends.into_iter().flatten()) {
        if let (End::Dropped { reason, .. }, Some(json)) = (end, json.as_object_mut()) {
            json.insert("id".to_owned(), format!("EB{}", reason.number()).into());
            json.insert("explanation".to_owned(), reason.explanation().into());
            json.insert("cure".to_owned(), reason.cure().into());
        }
    }
    value
}

/// Packets that went the same way, one line for each way.
fn list(fates: &[Fate], packets: u64) -> String {
    let mut rows: Vec<(u64, u64, usize, String)> = Vec::new();
    for fate in fates {
        let way = way(fate);
        match rows.last_mut() {
            Some((_, last, line, same)) if *line == fate.line && *same == way => *last = fate.packet,
            _ => rows.push((fate.packet, fate.packet, fate.line, way)),
        }
    }
    let mut out = format!("{:<13} {:<5} WAY\n", "PACKET", "LINE");
    for (first, last, line, way) in rows {
        let numbers = if first == last { first.to_string() } else { format!("{first}-{last}") };
        let _ = writeln!(out, "{numbers:<13} {line:<5} {way}");
    }
    let listed = fates.len() as u64;
    if listed < packets {
        let _ = writeln!(out, "and {} more packets", packets - listed);
    }
    let _ = writeln!(out, "\nin full: --packet N");
    out
}

/// `a > b XDP_REDIRECT > d XDP_DROP: dropped, program-drop`.
fn way(fate: &Fate) -> String {
    let mut way = if fate.live { String::new() } else { format!("{} > ", fate.device) };
    for hop in &fate.hops {
        match hop {
            Hop::Run(run) => {
                let _ = match &run.egress {
                    Some(device) => write!(way, "exit of {device} {} > ", run.action),
                    None if run.hook == "cpumap" => write!(way, "CPU {} {} > ", run.cpu, run.action),
                    None => write!(way, "{} {} > ", run.device, run.action),
                };
            }
            Hop::Copied => way += "copied > ",
            Hop::Event { .. } => {}
        }
    }
    let mut ends: Vec<_> = fate.ends.iter().map(end_in_short).collect();
    ends.dedup();
    way + &ends.join(" and ")
}

fn end_in_short(end: &End) -> String {
    match end {
        End::Dropped { reason, .. } => format!("dropped: {}", reason.id()),
        End::Stack { device } => format!("stack of {device}"),
        End::Left { .. } => "left".to_owned(),
        End::Waits { device } => format!("still waits{}", at(device.as_deref())),
    }
}

fn at(device: Option<&str>) -> String {
    device.map_or_else(String::new, |d| format!(" at {d}"))
}

/// The whole story of a packet.
fn told(scene: &str, fate: &Fate, follower: &Follower) -> String {
    let how = match fate.live {
        true => format!("live frame that comes in on {}", fate.device),
        false => format!("sent by {}", fate.device),
    };
    let mut out = format!("packet {}: {scene}:{}, {how}\n", fate.packet, fate.line);
    if !fate.bytes.is_empty() {
        let _ = writeln!(out, "  {}", describe_packet(&fate.bytes));
    }
    let peer = follower.peer(&fate.device).filter(|_| !fate.live);
    let mut number = 0;
    let mut step = |out: &mut String, text: &str| {
        number += 1;
        let _ = writeln!(out, "\n{number}. {text}");
    };
    if let Some(peer) = &peer {
        step(&mut out, &format!("{} sends it to its other end, {peer}", fate.device));
    }
    for hop in &fate.hops {
        match hop {
            Hop::Run(run) => {
                step(&mut out, &headline(run));
                tell_run(&mut out, run);
            }
            Hop::Copied => step(&mut out, "It is copied, and both go on"),
            Hop::Event { event } => {
                let _ = writeln!(out, "    {event}");
            }
        }
    }
    for end in &fate.ends {
        step(&mut out, &tell_end(end, fate, follower));
    }
    out
}

fn headline(run: &ProgramRun) -> String {
    let place = match (&run.egress, run.hook) {
        (Some(device), _) => format!("At the exit of {device}"),
        (None, "cpumap") => format!("On CPU {}", run.cpu),
        _ => format!("On {}, queue {}", run.device, run.queue),
    };
    format!("{place}: {} answers {}", run.program, run.action)
}

fn tell_run(out: &mut String, run: &ProgramRun) {
    for (i, place) in run.lines.iter().enumerate() {
        let decided = if i + 1 == run.lines.len() { "=>" } else { "  " };
        let _ = writeln!(out, " {decided} {}", line(place));
    }
    for call in &run.calls {
        let _ = writeln!(out, "    {}", tell_call(call));
    }
    if run.calls_left_out > 0 {
        let _ = writeln!(out, "    and {} more calls", run.calls_left_out);
    }
    if let Some(fault) = &run.fault {
        let _ = writeln!(out, "    the program was stopped: {fault}");
    }
    let (before, after) = run.len;
    if before != after {
        let _ = writeln!(out, "    its length changes from {before} to {after} bytes");
    }
    if run.metadata > 0 {
        let _ = writeln!(out, "    it has {} bytes of metadata", run.metadata);
    }
}

fn line(place: &Place) -> String {
    let file = place.file.rsplit('/').next().unwrap_or(&place.file);
    format!("{file}:{}: {}", place.line, place.text)
}

fn tell_call(call: &Call) -> String {
    let entry = match (&call.map, &call.key) {
        (Some(map), Some(key)) => format!("{map}[{key}]"),
        (Some(map), None) => map.clone(),
        (None, _) => String::new(),
    };
    let parts: Vec<&str> =
        [entry.as_str(), call.arguments.as_str()].into_iter().filter(|p| !p.is_empty()).collect();
    let verb = if call.function.contains("lookup_elem") { "reads" } else { "calls" };
    let place = call.place.as_ref().map_or_else(String::new, |p| format!("   (line {})", p.line));
    format!("{verb} {}({}) = {}{place}", call.function, parts.join(", "), call.answer)
}

fn tell_end(end: &End, fate: &Fate, follower: &Follower) -> String {
    match end {
        End::Dropped { reason, device } => {
            let mut text = format!(
                "Dropped{}: {} (EB{}, counter drop.{})\n   {}",
                at(device.as_deref()),
                reason.id(),
                reason.number(),
                reason.id(),
                reason.explanation()
            );
            let _ = write!(text, "\n   cure: {}", reason.cure());
            if let Some(command) = command(*reason, device.as_deref(), fate, follower) {
                let _ = write!(text, "\n   here: {command}");
            }
            let _ = write!(text, "\n   more: earlybird explain EB{}", reason.number());
            text
        }
        End::Stack { device } => format!("It reaches the stack, as received by {device}"),
        End::Left { device } => format!("It leaves the data path{}", at(device.as_deref())),
        End::Waits { device } => {
            let tx = matches!(fate.hops.iter().rev().find_map(|h| if let Hop::Run(r) = h { Some(r) } else { None }),
                Some(run) if run.action == "XDP_TX");
            let why = match (tx, device.as_deref().and_then(|d| follower.peer(d))) {
                (true, Some(peer)) => format!(
                    "\n   {peer} has GRO and no program: XDP_TX puts frames into its ring and wakes nobody\
                     \n   cure: attach a program to {peer}"
                ),
                _ => String::new(),
            };
            format!("It still waits{}, and nothing moves any more{why}", at(device.as_deref()))
        }
    }
}

/// The cure as a line of a shell and of a scene, where the devices are known.
fn command(reason: DropReason, device: Option<&str>, fate: &Fate, follower: &Follower) -> Option<String> {
    match reason {
        DropReason::XmitNoReceiver | DropReason::RedirectNotSupported => {
            // Of a failed redirect the target is told by its event alone.
            let failed = fate.hops.iter().rev().find_map(|hop| match hop {
                Hop::Event { event } if event.starts_with("xdp_redirect") => {
                    event.split(' ').find_map(|word| word.strip_prefix("to_ifindex="))
                }
                _ => None,
            });
            let device = failed.filter(|_| reason == DropReason::RedirectNotSupported).or(device)?;
            let peer = follower.peer(device)?;
            Some(format!(
                "attach a program to {peer}, or `ethtool -K {peer} gro on` (scene: gro = {{ {peer} = true }})"
            ))
        }
        DropReason::DeviceDown | DropReason::RedirectDeviceDown => {
            let device = device?;
            Some(format!("`ip link set {device} up` (scene: up = {{ {device} = true }})"))
        }
        _ => None,
    }
}
