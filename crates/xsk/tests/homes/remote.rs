//! [`RemoteLab`]: the engine's sockets on a cable, through a server and its Unix socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use uapi::Errno;
use xsk::Home;
use xsk::engine::{Wire, XskHost, XskSocket};
use xsk::remote::{RemoteHome, Rules, Server};

use crate::lab::{EngineLab, Lab};

pub(crate) struct RemoteLab {
    // Fields are dropped in this order.
    home: RemoteHome,
    _server: Server,
    inner: EngineLab,
}

/// Queues go to sockets by the cable's own map.
struct Cable(Wire);

impl Rules for Cable {
    fn device(&self, name: &str) -> Option<u32> {
        match name {
            "a" => Some(1),
            "b" => Some(2),
            _ => None,
        }
    }

    fn redirect(&self, ifindex: u32, queue: u32, socket: &Arc<XskSocket>) -> Result<(), Errno> {
        let device = if ifindex == 1 { &self.0.a } else { &self.0.b };
        device.insert(&self.0.host, queue, xsk::RawSocket::number(&**socket))
    }
}

/// A path of its own for each.
pub(crate) fn path() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("earlybird-xsk-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
    std::env::temp_dir().join(name)
}

impl RemoteLab {
    pub(crate) fn new() -> Self {
        Self::on(XskHost::new(|| 1_795_344_080_578_294_572))
    }

    pub(crate) fn on(host: XskHost) -> Self {
        let inner = EngineLab::on(host);
        let path = path();
        let rules = Arc::new(Cable(inner.wire.clone()));
        let server = Server::start(&path, inner.wire.host.clone(), rules).unwrap();
        let home = RemoteHome::connect(&path).unwrap();
        Self { home, _server: server, inner }
    }
}

impl Lab for RemoteLab {
    fn home(&self) -> &dyn Home {
        &self.home
    }

    fn here(&self) -> u32 {
        self.home.device("a").unwrap()
    }

    fn there(&self) -> u32 {
        self.home.device("b").unwrap()
    }

    fn redirect(&self, slot: u32, socket: i32) -> Result<(), Errno> {
        self.inner.redirect(slot, socket)
    }

    fn unredirect(&self, slot: u32) {
        self.inner.unredirect(slot);
    }

    fn inject(&self, packet: &[u8]) {
        self.inner.inject(packet);
    }

    fn arrived(&self) -> Vec<Vec<u8>> {
        self.inner.arrived()
    }

    fn set_up(&self, here: bool, up: bool) {
        self.inner.set_up(here, up);
    }

    fn set_mtu(&self, mtu: u32) {
        self.inner.set_mtu(mtu);
    }

    fn remove_here(&self) {
        self.inner.remove_here();
    }

    fn with_metadata(&self) {
        self.inner.with_metadata();
    }
}
