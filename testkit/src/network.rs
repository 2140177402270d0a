//! [`Network`]: a small network twice, as a network namespace of the kernel and as tables of the engine.

use std::sync::Arc;

use linux::testing::{VethPair, command};
use machine::net::{Destination, Prefix, Route};
use machine::{NetConfig, NetTables};

/// Addresses, routes and neighbours, beside the two devices of [`VethPair`]. The networks are those that
/// random packets go to.
const SETUP: &[&str] = &[
    "addr add 10.0.0.1/24 dev veth0",
    "addr add 192.0.2.1/25 dev veth1",
    "-6 addr add fdfd::1/64 dev veth0 nodad",
    "-6 addr add 2020::1/64 dev veth1 nodad",
    "route add 198.51.100.0/24 via 192.0.2.2",
    "route add 198.51.100.3/32 via 192.0.2.5 mtu lock 600",
    "route add default via 10.0.0.2 metric 100",
    "route add default via 192.0.2.3 metric 50",
    "route add blackhole 203.0.113.0/25",
    "route add unreachable 203.0.113.128/26",
    "route add prohibit 203.0.113.192/26",
    "-6 route add default via fdfd::2",
    "-6 route add unreachable 2001:db8::/32",
    "neigh add 10.0.0.2 lladdr 02:00:00:00:00:a2 dev veth0 nud permanent",
    "neigh add 10.0.0.3 lladdr 02:00:00:00:00:a3 dev veth0 nud permanent",
    "neigh add 192.0.2.2 lladdr 02:00:00:00:00:b2 dev veth1 nud permanent",
    "neigh add 192.0.2.5 lladdr 02:00:00:00:00:b5 dev veth1 nud permanent",
    "-6 neigh add fdfd::2 lladdr 02:00:00:00:00:c2 dev veth0 nud permanent",
    "-6 neigh add 2020::3 lladdr 02:00:00:00:00:d3 dev veth1 nud permanent",
];

/// A network in both homes. That of the kernel ends with the value.
#[derive(Debug)]
pub struct Network {
    /// The kernel's namespace and devices.
    pub veth: VethPair,
    /// What the engine knows of it.
    pub tables: Arc<NetTables>,
}

impl Network {
    /// Sets it up in the kernel and reads from there what the engine shall know.
    ///
    /// # Errors
    ///
    /// What did not work.
    pub fn new() -> Result<Self, String> {
        let veth = VethPair::new()?;
        let config = veth.netns.run(|| set_up().and_then(|()| read())).map_err(|e| e.to_string())??;
        let tables = NetTables::new(&config).map_err(|e| e.to_string())?;
        Ok(Self { veth, tables: Arc::new(tables) })
    }

    /// Numbers of the devices that are up.
    #[must_use]
    pub fn ifindexes(&self) -> Vec<u32> {
        vec![1, self.veth.ifindex0, self.veth.ifindex1]
    }
}

fn set_up() -> Result<(), String> {
    for family in ["ipv4", "ipv6"] {
        for device in ["all", "lo", "veth0", "veth1"] {
            // The namespace of the thread that opens the file counts.
            let path = format!("/proc/sys/net/{family}/conf/{device}/forwarding");
            std::fs::write(&path, "1").map_err(|e| format!("{path}: {e}"))?;
        }
    }
    SETUP.iter().try_for_each(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        command("ip", &words).map(drop)
    })
}

fn read() -> Result<NetConfig, String> {
    let ask = |line: &str| command("ip", &line.split(' ').collect::<Vec<_>>());
    let routes = ask("-json -4 route show table all")? + &ask("-json -6 route show table all")?;
    let (links, addrs) = (ask("-json -d link")?, ask("-json addr")?);
    let config = NetConfig::from_ip_json(&links, &addrs, &routes, &ask("-json neigh")?);
    let mut config = config.map_err(|e| e.to_string())?;
    lock_mtus(&mut config, SETUP);
    Ok(config)
}

/// `ip -json` shows the MTUs of routes and not which are locked: those are found in the lines that made them.
pub fn lock_mtus(config: &mut NetConfig, setup: &[&str]) {
    let locked = |route: &Route| {
        let Destination::Prefix(dst) = &route.dst else { return false };
        setup.iter().filter(|line| line.contains(" mtu lock ")).any(|line| {
            let network = line.split(' ').find_map(|word| word.parse::<Prefix>().ok());
            network == Some(*dst)
        })
    };
    for route in &mut config.routes {
        route.mtu_lock |= locked(route);
    }
}
