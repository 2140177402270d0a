//! `earlybird xsk serve`: an engine with the devices of a scene, whose AF_XDP sockets other processes open.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use clap::Args;
use control::EngineKind;
use control::scene::{Scene, play};
use earlybird::backends::{self, EngineSettings};
use earlybird::object::Home;
use machine::scene::EngineScene;
use machine::xsk::Redirects;
use machine::{EngineBackend, NetConfig, NetTables};
use xsk::engine::XskHost;
use xsk::remote::Server;

use crate::cmd::{Failure, scene_files};

/// What leftover softirqs may take at once.
const TURNS_MAX: u64 = 1 << 12;
/// How long they wait.
const TICK: Duration = Duration::from_millis(1);

#[derive(Args)]
pub(crate) struct ServeArgs {
    /// Scene (TOML): its devices are made and its steps played first
    scene: PathBuf,

    /// Where to serve: a path that does not exist yet
    #[arg(long, short = 's', value_name = "SOCKET")]
    socket: PathBuf,

    /// Stop after a time
    #[arg(long, short = 'd', value_name = "SECONDS")]
    seconds: Option<u64>,
}

/// Runs the command.
pub(super) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let scene = scene_files::scene(&args.scene).map_err(|e| anyhow!("{e}"))?;
    let host =
        XskHost::new(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64);
    let mut settings = settings(&scene)?;
    settings.sockets = Some(host.clone());
    let open = |path: &Path| scene_files::object(path, Home::Engine);
    let mut engine =
        EngineScene::new(&scene, &settings, EngineKind::Auto, &open).map_err(|e| anyhow!("{e}"))?;
    let report = play(&scene, &mut engine, false).map_err(|e| anyhow!("{e}"))?;
    if let Some(failure) = report.steps.iter().flat_map(|s| &s.failures).next() {
        return Err(anyhow!("{}: {failure}", args.scene.display()).into());
    }
    engine.stop_tracing();
    let names = engine.device_numbers().clone();
    let devices = engine.machine().devices.all();
    let machine = Arc::new(Mutex::new(engine));
    for device in devices {
        machine::xsk::register(&host, device, machine.clone());
    }
    let shown: Vec<_> = names.keys().cloned().collect();
    let rules = Arc::new(Redirects::new(machine.clone(), &host, names, settings));
    let server = Server::start(&args.socket, host, rules);
    let server = server.with_context(|| args.socket.display().to_string())?;
    eprintln!("serving {} at {}", shown.join(", "), args.socket.display());
    let start = Instant::now();
    while args.seconds.is_none_or(|s| start.elapsed() < Duration::from_secs(s)) {
        std::thread::sleep(TICK);
        let mut machine = machine.lock().unwrap_or_else(PoisonError::into_inner);
        // Packets may go in circles; the next tick goes on with them.
        let _ = machine.machine().settle(TURNS_MAX);
        // Nobody reads what the hosts' stacks got.
        machine.machine().take_received(|_, _| {});
    }
    drop(server);
    Ok(())
}

/// The engine's settings. Without programs it needs no types of the kernel, which take a while to read.
fn settings(scene: &Scene) -> anyhow::Result<EngineBackend> {
    if !scene.objects.is_empty() {
        return backends::own_engine(&EngineSettings::default());
    }
    let net = Arc::new(NetTables::new(&NetConfig::default())?);
    Ok(EngineBackend::new(backends::possible_cpus(), 1, net))
}
