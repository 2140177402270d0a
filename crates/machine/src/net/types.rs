//! Addresses, prefixes and table names as text.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::config::Destination;

/// A hardware address, `02:00:00:00:00:01`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes: Option<Vec<u8>> = text
            .split(':')
            .map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2))
            .collect();
        match bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok()) {
            Some(bytes) => Ok(Self(bytes)),
            None => Err(format!("{text:?} is no hardware address such as 02:00:00:00:00:01")),
        }
    }
}

/// An address and how many of its bits name a network, `10.0.0.1/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Address.
    pub ip: IpAddr,
    /// Bits.
    pub len: u8,
}

impl Prefix {
    /// Whether an address of the same family lies in the network.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.ip.is_ipv4() && bits(ip, self.len) == bits(self.ip, self.len)
    }

    /// The network's first address.
    #[must_use]
    pub fn network(&self) -> IpAddr {
        match self.ip {
            IpAddr::V4(_) => IpAddr::V4(((bits(self.ip, self.len) >> 96) as u32).into()),
            IpAddr::V6(_) => IpAddr::V6(bits(self.ip, self.len).into()),
        }
    }
}

/// The first `len` bits of an address, left-aligned.
pub(super) fn bits(ip: IpAddr, len: u8) -> u128 {
    let all = match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
        IpAddr::V6(ip) => ip.to_bits(),
    };
    all & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.len)
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("{text:?} is no address with a prefix length such as 10.0.0.0/8");
        let (ip, len) = match text.split_once('/') {
            Some((ip, len)) => (ip, Some(len)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| error())?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let len = len.map_or(Ok(most), str::parse).map_err(|_| error())?;
        if len > most { Err(error()) } else { Ok(Self { ip, len }) }
    }
}

/// A routing table: a number, or one of the kernel's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableId(pub u32);

impl TableId {
    /// `RT_TABLE_DEFAULT`.
    pub const DEFAULT: Self = Self(253);
    /// `RT_TABLE_MAIN`.
    pub const MAIN: Self = Self(254);
    /// `RT_TABLE_LOCAL`.
    pub const LOCAL: Self = Self(255);
}

impl Default for TableId {
    fn default() -> Self {
        Self::MAIN
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::DEFAULT => f.write_str("default"),
            Self::MAIN => f.write_str("main"),
            Self::LOCAL => f.write_str("local"),
            Self(id) => write!(f, "{id}"),
        }
    }
}

impl FromStr for TableId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "default" => Ok(Self::DEFAULT),
            "main" => Ok(Self::MAIN),
            "local" => Ok(Self::LOCAL),
            _ => text.parse().map(Self).map_err(|_| format!("{text:?} is no routing table")),
        }
    }
}

impl<'de> Deserialize<'de> for TableId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u32),
            Name(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(id) => Ok(Self(id)),
            Form::Name(name) => name.parse().map_err(serde::de::Error::custom),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Prefix(prefix) => prefix.fmt(f),
        }
    }
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "default" { Ok(Self::Default) } else { text.parse().map(Self::Prefix) }
    }
}

macro_rules! serde_as_text {
    ($($type:ty: $($how:ident)+;)*) => {
        $($(serde_as_text!(@$how $type);)+)*
    };
    (@read $type:ty) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
    (@write $type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

serde_as_text! {
    Mac: read write;
    Prefix: read write;
    Destination: read write;
    TableId: write;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for text in ["10.0.0.1/24", "::/0", "fd00::1/64", "0.0.0.0/0"] {
            assert_eq!(text.parse::<Prefix>().map(|p| p.to_string()).as_deref(), Ok(text));
        }
        assert_eq!("1.2.3.4".parse::<Prefix>().map(|p| p.len), Ok(32));
        assert_eq!(
            "02:00:00:00:00:fe".parse::<Mac>().map(|m| m.to_string()).as_deref(),
            Ok("02:00:00:00:00:fe")
        );
        assert_eq!("main".parse::<TableId>(), Ok(TableId(254)));
        for text in ["10.0.0.1/33", "x/8", "10.0.0.1/-1", "10.0.0.1/"] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
        for text in ["2:0:0:0:0:1", "02:00:00:00:00", "02:00:00:00:00:0g", ""] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn networks_contain_their_addresses() {
        let prefix: Prefix = "10.1.2.3/23".parse().unwrap();
        assert_eq!(prefix.network().to_string(), "10.1.2.0");
        assert!(prefix.contains("10.1.3.255".parse().unwrap()));
        assert!(!prefix.contains("10.1.4.0".parse().unwrap()));
        assert!(!prefix.contains("::".parse().unwrap()));
        let all: Prefix = "::/0".parse().unwrap();
        assert!(all.contains("fd00::1".parse().unwrap()));
    }
}
