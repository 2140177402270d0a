//! An engine in a process of its own, and applications beside it: packets go between them, and whoever is killed
//! leaves nothing behind that the other would stumble over. Nothing of this needs root.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use uapi::Errno;
use xsk::remote::RemoteHome;
use xsk::{Socket, SocketConfig, Step, Umem, UmemConfig, Wakeup};

/// How often each side is killed.
const KILLS: u32 = 100;
const PATIENCE: Duration = Duration::from_secs(20);

/// A process that is ended with its value.
struct Running(Child);

impl Running {
    /// As `kill -9`.
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Files that go with their value.
struct Files {
    dir: PathBuf,
}

impl Files {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("earlybird-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let scene = "title = \"two ends of a cable\"\nobjects = {}\n[[device]]\nveth = [\"a\", \"b\"]\n";
        std::fs::write(dir.join("cable.toml"), scene).unwrap();
        Self { dir }
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("engine.sock")
    }

    /// An engine that serves; waits until it does.
    fn serve(&self) -> (Running, RemoteHome) {
        // Of one that was killed.
        let _ = std::fs::remove_file(self.socket());
        let scene = self.dir.join("cable.toml");
        let engine =
            earlybird(&["xsk", "serve", text(&scene), "-s", text(&self.socket())]).spawn().map(Running);
        let engine = engine.unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match RemoteHome::connect(&self.socket()) {
                Ok(home) => return (engine, home),
                Err(e) if Instant::now() > deadline => panic!("no engine: {e}"),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn earlybird(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_earlybird"));
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

fn umem() -> Umem {
    Umem::shared(UmemConfig { frames: 256, frame_size: 2048, ..UmemConfig::default() }).unwrap()
}

fn config(ifindex: u32) -> SocketConfig {
    let n = 64;
    SocketConfig {
        rx_entries: n,
        tx_entries: n,
        fill_entries: n,
        completion_entries: n,
        ..SocketConfig::new(ifindex, 0)
    }
}

/// A socket on a device. The queue of one that was just killed is free when the engine has heard of it.
fn open<'u>(home: &RemoteHome, umem: &'u Umem, device: &str) -> Socket<'u> {
    let ifindex = home.device(device).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut socket = loop {
        match Socket::open(home, umem, config(ifindex)) {
            Ok(socket) => break socket,
            Err(e) if e.step == Step::Bind && e.errno == Errno::EBUSY && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(e) => panic!("{device}: {e}"),
        }
    };
    home.redirect(ifindex, 0, socket.number()).unwrap();
    socket.fill.as_mut().unwrap().refill(64);
    socket
}

/// Sends packets and waits until all are completed.
fn send<'u>(umem: &'u Umem, socket: &mut Socket<'u>, n: u8) {
    let mut batch = socket.tx.as_mut().unwrap().reserve(n.into()).expect("nothing is on its way");
    for (i, mut frame) in (0..n).zip(umem.alloc_batch(n.into())) {
        let mut packet = [i; 60];
        packet[..14].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
        frame.put(&packet).unwrap();
        batch.push(frame).unwrap();
    }
    batch.submit();
    let deadline = Instant::now() + PATIENCE;
    let mut done = 0;
    while done < u32::from(n) {
        assert_ne!(socket.wake_tx(), Ok(Wakeup::Dropped));
        done += socket.completion.as_mut().unwrap().recycle(64);
        assert!(Instant::now() < deadline, "{done} of {n} packets were completed");
    }
}

/// The packets that came, by the number in them.
fn received(socket: &mut Socket<'_>) -> Vec<u8> {
    let got = socket.rx.as_mut().unwrap().peek(64).filter_map(|f| Some(f.read::<60>(0)?[59])).collect();
    socket.fill.as_mut().unwrap().refill(64);
    got
}

#[test]
fn the_commands_work_on_an_engine_without_root() {
    let files = Files::new("serve");
    let (_engine, _home) = files.serve();
    let socket = files.socket();
    let args = ["xsk", "drop", "a", "--engine", text(&socket), "-c", "64", "-d", "60", "--json"];
    let mut drop = earlybird(&args).spawn().unwrap();
    let deadline = Instant::now() + 2 * PATIENCE;
    // Until the other has its queue and has seen enough.
    let sent = loop {
        let tx = ["xsk", "tx", "b", "--engine", text(&socket), "-c", "500", "-d", "20", "--json"];
        let sent = earlybird(&tx).output().unwrap();
        if drop.try_wait().unwrap().is_some() {
            break sent;
        }
        assert!(Instant::now() < deadline, "nothing arrives");
    };
    let got = drop.wait_with_output().unwrap();
    let [sent, got]: [Value; 2] =
        [sent, got].map(|o| serde_json::from_slice(&o.stdout).unwrap_or_else(|e| panic!("{e}: {o:?}")));
    assert!(sent["tx_packets"].as_u64().unwrap() >= 500 && sent["tx_invalid_descs"] == 0, "{sent}");
    assert!(got["rx_packets"].as_u64().unwrap() >= 64, "{got}");
}

#[test]
fn devices_and_numbers_that_are_not_there_are_refused() {
    let files = Files::new("refuse");
    let (_engine, home) = files.serve();
    assert_eq!(home.device("nosuch"), Err(Errno::ENODEV));
    let umem = umem();
    let refused = Socket::open(&home, &umem, config(77)).unwrap_err();
    assert_eq!((refused.step, refused.errno), (Step::Bind, Errno::ENODEV));
    let own = Umem::new(UmemConfig { frames: 16, ..UmemConfig::default() }).unwrap();
    let refused = Socket::open(&home, &own, config(home.device("a").unwrap())).unwrap_err();
    assert_eq!((refused.step, refused.errno), (Step::RegisterUmem, Errno::EFAULT), "not to be shared");
    let a = home.device("a").unwrap();
    assert_eq!(home.redirect(a, 0, 4711), Err(Errno::EBADF));
    // Sockets of one connection do not exist for another.
    let socket = open(&home, &umem, "a");
    let other = RemoteHome::connect(&files.socket()).unwrap();
    assert_eq!(other.redirect(a, 0, socket.number()), Err(Errno::EBADF));
}

/// The survivor gets exactly what is sent to it afterwards, and has every frame of its own back.
#[test]
fn a_killed_application_leaves_nothing_behind() {
    let files = Files::new("kill-app");
    let (_engine, home) = files.serve();
    let umem = umem();
    let mut survivor = open(&home, &umem, "a");
    let path = files.socket();
    for round in 0..KILLS {
        // When the engine has heard of the one before.
        let probe = Umem::shared(*umem.config()).unwrap();
        drop(open(&home, &probe, "b"));
        // It echoes, so it is killed with packets on their way in all of its rings.
        let args = ["xsk", "l2fwd", "b", "--engine", text(&path), "--ring", "64", "--frames", "256"];
        let mut victim = Running(earlybird(&args).spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        loop {
            send(&umem, &mut survivor, 16);
            if !received(&mut survivor).is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "round {round}: no echo");
        }
        victim.kill();
        // What it had sent before.
        std::thread::sleep(Duration::from_millis(1));
        received(&mut survivor);
    }
    let second = Umem::shared(*umem.config()).unwrap();
    let mut other = open(&home, &second, "b");
    received(&mut survivor);
    send(&umem, &mut survivor, 20);
    assert_eq!(received(&mut other), (0..20).collect::<Vec<u8>>());
    send(&second, &mut other, 20);
    assert_eq!(received(&mut survivor), (0..20).collect::<Vec<u8>>());
    let counts = umem.counts();
    assert_eq!((counts.held, counts.sent, counts.free + counts.filled), (0, 0, 256), "no frame is lost");
    assert_eq!(survivor.statistics().unwrap().tx_invalid_descs, 0);
}

#[test]
fn a_killed_engine_is_a_device_that_is_gone() {
    let files = Files::new("kill-engine");
    let mut umem = umem();
    for round in 0..KILLS {
        let (mut engine, home) = files.serve();
        let mut socket = open(&home, &umem, "a");
        send(&umem, &mut socket, 16);
        // Killed with descriptors that nobody has taken, every other time.
        if round % 2 == 0 {
            let mut batch = socket.tx.as_mut().unwrap().reserve(8).unwrap();
            for mut frame in umem.alloc_batch(8) {
                frame.put(&[7; 60]).unwrap();
                batch.push(frame).unwrap();
            }
            batch.submit();
        }
        engine.kill();
        let deadline = Instant::now() + PATIENCE;
        while socket.wake_tx().is_ok() {
            assert!(Instant::now() < deadline, "round {round}: an engine that is gone answers");
        }
        assert_eq!(socket.wake_tx(), Err(Errno::ENXIO));
        assert_eq!(socket.poll(xsk::PollEvents::IN, None), Err(Errno::ENXIO), "and nobody sleeps for ever");
        drop((socket, home));
        // Nobody else has a frame now: all of them are the application's again.
        umem.reclaim();
        assert_eq!(umem.counts().free, 256);
    }
}
