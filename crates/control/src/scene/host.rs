//! Hosts of a scene: stacks behind devices, and what they do as clients.

use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;

use super::net::{Address, address};

/// Pings of a step at most.
const PINGS_MAX: u16 = 1000;
/// Bytes that a step asks with at most.
const ASK_MAX: usize = 1 << 14;

/// A stack behind a device: it answers ARP and ping, and may serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Device.
    pub device: String,
    /// Addresses.
    pub addresses: Vec<Address>,
    /// Gateway of everything else.
    pub gateway: Option<IpAddr>,
    /// Text that it serves over HTTP, port 80.
    pub http: Option<String>,
    /// Port of TCP and UDP on which it sends back what comes.
    pub echo: Option<u16>,
}

/// What a host does as a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostOp {
    /// So many echo requests.
    Ping {
        /// To whom.
        to: IpAddr,
        /// How many.
        count: u16,
    },
    /// Fetches a page over HTTP; it must be this text.
    Fetch {
        /// From whom.
        from: SocketAddr,
        /// The page.
        expect: Option<String>,
    },
    /// Sends bytes, which must come back.
    Echo {
        /// To whom.
        to: SocketAddr,
        /// Over TCP, else UDP.
        tcp: bool,
        /// What.
        text: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileHost {
    pub(super) device: String,
    #[serde(default)]
    addresses: Vec<String>,
    gateway: Option<IpAddr>,
    http: Option<String>,
    echo: Option<u16>,
}

impl FileHost {
    /// The host; without addresses of its own it has those of its device.
    pub(super) fn host(self, of_device: &[Address]) -> Result<Host, String> {
        let own = self.addresses.iter().map(|text| address(text)).collect::<Result<Vec<_>, _>>()?;
        let addresses = if own.is_empty() { of_device.to_vec() } else { own };
        if addresses.is_empty() || addresses.len() > 2 {
            return Err("a host has one or two addresses".to_owned());
        }
        if self.echo == Some(0) || (self.echo == Some(80) && self.http.is_some()) {
            return Err("a host echoes on a port from 1 that is not that of HTTP".to_owned());
        }
        let Self { device, gateway, http, echo, .. } = self;
        Ok(Host { device, addresses, gateway, http, echo })
    }
}

/// `ping`, `fetch` or `echo` of a step.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileOp {
    pub(super) host: String,
    to: String,
    count: Option<u16>,
    expect: Option<String>,
    tcp: Option<bool>,
    text: Option<String>,
}

impl FileOp {
    pub(super) fn ping(&self) -> Result<HostOp, String> {
        if self.expect.is_some() || self.tcp.is_some() || self.text.is_some() {
            return Err("ping has host, to and count".to_owned());
        }
        let to = self.to.parse().map_err(|_| format!("{:?} is no address", self.to))?;
        let count = self.count.unwrap_or(1);
        if !(1..=PINGS_MAX).contains(&count) {
            return Err(format!("a step pings 1 to {PINGS_MAX} times"));
        }
        Ok(HostOp::Ping { to, count })
    }

    pub(super) fn fetch(&self) -> Result<HostOp, String> {
        if self.count.is_some() || self.tcp.is_some() || self.text.is_some() {
            return Err("fetch has host, to and expect".to_owned());
        }
        Ok(HostOp::Fetch { from: self.socket(80)?, expect: self.expect.clone() })
    }

    pub(super) fn echo(&self) -> Result<HostOp, String> {
        let text = self.text.clone().filter(|t| !t.is_empty() && t.len() <= ASK_MAX);
        let text = text.ok_or_else(|| format!("echo has a text of 1 to {ASK_MAX} bytes"))?;
        if self.count.is_some() || self.expect.is_some() {
            return Err("echo has host, to, text and tcp".to_owned());
        }
        Ok(HostOp::Echo { to: self.socket(7)?, tcp: self.tcp.unwrap_or(false), text })
    }

    /// `ADDRESS` or `ADDRESS:PORT`.
    fn socket(&self, port: u16) -> Result<SocketAddr, String> {
        let alone = self.to.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port));
        alone
            .or_else(|_| self.to.parse())
            .map_err(|_| format!("{:?} is no address, nor one with a port", self.to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_told() {
        let of = |toml: &str| toml::from_str::<FileOp>(&format!("host = \"a\"\n{toml}")).unwrap();
        assert_eq!(
            of("to = \"10.0.0.1\"").ping(),
            Ok(HostOp::Ping { to: IpAddr::from([10, 0, 0, 1]), count: 1 })
        );
        assert!(of("to = \"x\"").ping().unwrap_err().contains("no address"));
        assert!(of("to = \"10.0.0.1\"\ncount = 0").ping().unwrap_err().contains("1 to 1000"));
        assert!(of("to = \"10.0.0.1\"\ntext = \"x\"").ping().unwrap_err().contains("ping has"));
        assert!(of("to = \"10.0.0.1\"").echo().unwrap_err().contains("a text of 1"));
        assert!(
            of("to = \"10.0.0.1:81\"")
                .fetch()
                .is_ok_and(|op| matches!(op, HostOp::Fetch { from, .. } if from.port() == 81))
        );
        let host =
            |toml: &str| toml::from_str::<FileHost>(&format!("device = \"a\"\n{toml}")).unwrap().host(&[]);
        assert!(host("").unwrap_err().contains("one or two addresses"));
        assert!(host("addresses = [\"10.0.0.1/24\"]\necho = 0").unwrap_err().contains("from 1"));
        assert!(host("addresses = [\"10.0.0.1\"]").unwrap_err().contains("with a prefix"));
    }
}
